"""What a command answers: data, faults, an exit status; and the JSON envelope that carries them.

Every command returns an `Answer`, `_app` shows it. Nothing here needs typer or rich, so that even "typer is missing" is
said in the agreed form.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chainweaver.exceptions import (
    ChainWeaverError,
    CheckpointNotFoundError,
    CommandLineError,
    FlowNotFoundError,
    MissingExtraError,
    StoreUnavailableError,
)
from chainweaver.formats.json_form import json_form

if TYPE_CHECKING:
    from chainweaver.cli._screen import Screen

SCHEMA_VERSION = "1"
OK, FAILED, MISSING, INTERRUPTED = 0, 1, 2, 130
"""The exit statuses; 130 is what shells expect of a program that was interrupted."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something to tell on stderr, or in the `errors` of the envelope.

    Attributes:
        code: As it prints, such as "CW-E005".
        message: The sentence, and below it lines that help.
    """

    code: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> Fault:
        """How an exception is told."""
        if isinstance(error, ChainWeaverError):
            return cls(f"CW-{error.code}", str(error))
        known = ChainWeaverError(
            f"Unexpected {type(error).__name__}: {error}", fix="--traceback shows where, for a report of this bug"
        )
        return cls(f"CW-{known.code}", str(known))


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a command.

    Attributes:
        data: For `--format json`; plain, or convertible by `plain`.
        faults: What went wrong.
        exit_code: The exit status.
        text: Shows the data on a screen, for `--format text`.
        error: The exception behind the faults, for `--traceback`.
    """

    data: Any = None
    faults: Sequence[Fault] = ()
    exit_code: int = OK
    text: Callable[[Screen], None] | None = None
    error: BaseException | None = None

    @classmethod
    def of_error(cls, error: BaseException) -> Answer:
        """The answer when an exception is all there is."""
        return cls(faults=(Fault.of(error),), exit_code=exit_code_of(error), error=error)


def exit_code_of(error: BaseException) -> int:
    """2 for what was typed, or is not there; 1 for what is not right."""
    if isinstance(error, CommandLineError):
        return FAILED if error.invalid else MISSING
    return MISSING if isinstance(error, _NOT_THERE) else FAILED


_NOT_THERE = (FlowNotFoundError, MissingExtraError, CheckpointNotFoundError, StoreUnavailableError)


def wants_json(args: Sequence[str]) -> bool:
    """Whether a command line that cannot be parsed asks for JSON all the same.

    >>> wants_json(["run", "--format", "json"]), wants_json(["run", "json"])
    (True, False)
    """
    pairs = zip(args, [*args[1:], ""], strict=True)
    return any(one == "--format=json" or (one == "--format" and after == "json") for one, after in pairs)


def show_faults(answer: Answer, *, as_json: bool) -> int:
    """Show an answer that has nothing but faults, without any screen; returns its exit status."""
    if as_json:
        print(envelope(answer))
    else:
        for fault in answer.faults:
            print(f"chainweaver: [{fault.code}] {fault.message}", file=sys.stderr)
    return answer.exit_code


def envelope(answer: Answer) -> str:
    """The answer as JSON text, in ASCII, so that every terminal and every pipe can carry it.

    >>> print(envelope(Answer(data=[1])))
    {
      "schema_version": "1",
      "status": "ok",
      "data": [
        1
      ],
      "errors": []
    }
    """
    content = {
        "schema_version": SCHEMA_VERSION,
        "status": "ok" if answer.exit_code == OK else "error",
        "data": plain(answer.data),
        "errors": [{"code": fault.code, "message": fault.message} for fault in answer.faults],
    }
    return json.dumps(content, indent=2, allow_nan=False)


def plain(value: Any) -> Any:
    """A value as JSON can carry it; what JSON has no form for is shown by its `repr`.

    >>> plain({"a": (1, float("nan")), "b": {1j}})
    {'a': [1, 'NaN'], 'b': ['1j']}
    """
    return json_form(value, inf_nan_mode="strings", bytes_mode="base64")
