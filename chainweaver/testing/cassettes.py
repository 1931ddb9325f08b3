"""Cassettes: what tools gave once, to be played again without calling them.

A cassette holds one recording per call: the tool, a fingerprint of its validated inputs, where it was called from, and
what came out. It lives in memory, or in a JSON file that people can read and review. Reading a file builds plain data
only: outputs get their types back from the output models of the tools, errors from classes that the test names.
How calls reach a cassette is in `taping`.
"""

from __future__ import annotations

import builtins
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from chainweaver.exceptions import CassetteError
from chainweaver.formats.json_form import json_form
from chainweaver.objects import PlainEncodeError, bind_reduce, decode_plain, encode_plain
from chainweaver.objects.files import write_whole

if TYPE_CHECKING:
    from chainweaver.tools import Tool

FORMAT = "chainweaver-cassette"
VERSION = 1
IN_MEMORY = "in memory"

NO_FINGERPRINT: Final = "?"
"""Stands for inputs that have no fingerprint; such calls are told apart by their place alone."""

SHOWN_INPUTS = 10_000
"""Longer inputs, in characters of their JSON form, are not written down: the fingerprint is enough to find a call."""


@dataclass(frozen=True)
class RecordedCall:
    """One call of one tool, and what came out.

    Attributes:
        tool: Name of the tool.
        flow, step, attempt: Where it was called from: the flow, the way to the step through nested runs, the attempt.
        fingerprint: Of the validated inputs.
        schema: Schema hash of the tool.
        inputs: The inputs for people who read the file; None where they are too long. Never used to find a call.
        outputs: The fields of the output model; None when the tool raised.
        is_plain: The outputs, or the arguments of the error, were read from a file and have no types yet.
        is_raw: The outputs broke their schema and are what the tool returned.
        error: What the tool raised: the exception, or what a file says of it.
    """

    tool: str
    flow: str
    step: str
    attempt: int
    fingerprint: str
    schema: str
    inputs: dict[str, Any] | None
    outputs: dict[str, Any] | None = None
    is_plain: bool = False
    is_raw: bool = False
    error: BaseException | FiledError | None = None

    @property
    def place(self) -> tuple[str, str, int]:
        """Where it was called from."""
        return (self.flow, self.step, self.attempt)


@dataclass(frozen=True)
class FiledError:
    """An exception as a file has it.

    Attributes:
        kind: Its class, "module:qualname".
        args: Its arguments, where they are plain; else its text alone.
        text: Its text.
    """

    kind: str
    args: tuple[Any, ...]
    text: str


class RecordedError(Exception):
    """Stands for an exception whose class the test does not name; its own class has the name of the original one."""


class Cassette:
    """Recorded calls, in the order in which they ended.

    Args:
        path: The file; read when it is there. None: in memory.

    Raises:
        CassetteError: The file is no cassette, or is damaged.

    >>> len(Cassette())
    0
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._calls: list[RecordedCall] = []
        self._lock = threading.Lock()
        if self.path is not None and self.path.exists():
            self._calls = read_calls(self.path)

    @property
    def name(self) -> str:
        """What messages call it."""
        return IN_MEMORY if self.path is None else str(self.path)

    @property
    def calls(self) -> list[RecordedCall]:
        """The recorded calls; a new list."""
        with self._lock:
            return list(self._calls)

    def add(self, call: RecordedCall) -> None:
        """Record one more call."""
        with self._lock:
            self._calls.append(call)

    def clear(self) -> None:
        """Forget all calls; a file stays as it is until `save`."""
        with self._lock:
            self._calls.clear()

    def save(self, tools: Mapping[str, Tool]) -> None:
        """Write the file, whole or not at all; nothing happens in memory.

        Args:
            tools: The tools by name, whose output models say how values are written.

        Raises:
            CassetteError: A value cannot be written. Nothing is changed.
        """
        if self.path is None:
            return
        # By place: what overlapped comes in the order of the flow, so that a second recording gives the same file.
        calls = sorted(self.calls, key=lambda call: (call.flow, call.step, call.attempt))
        document = {
            "format": FORMAT,
            "version": VERSION,
            "calls": [written(call, tools, self.name) for call in calls],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
        write_whole(self.path, f"{text}\n".encode(), fsync=False)

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        return f"Cassette({self.name!r}, {len(self)} call(s))"


# ---- writing


def written(call: RecordedCall, tools: Mapping[str, Tool], cassette: str) -> dict[str, Any]:
    """A call as the file has it."""
    told = {"tool": call.tool, "flow": call.flow, "step": call.step, "attempt": call.attempt}
    told |= {"fingerprint": call.fingerprint, "schema": call.schema, "inputs": call.inputs}
    try:
        if call.error is not None:
            return {**told, "error": written_error(call.error)}
        outputs = call.outputs or {}
        if not call.is_plain and not call.is_raw:
            outputs = bind_reduce(tools[call.tool].output_schema)(outputs)
        return {**told, "raw" if call.is_raw else "outputs": json.loads(encode_plain(outputs))}
    except PlainEncodeError as exc:
        raise CassetteError(
            cassette, f"an output of tool '{call.tool}' at step '{call.step}' cannot be written: {exc}",
            fix="declare its type in the output schema, or leave the tool out with tools=[...]",
        ) from exc  # fmt: skip


def written_error(error: BaseException | FiledError) -> dict[str, Any]:
    """An exception as the file has it."""
    if isinstance(error, FiledError):
        kind, text, args = error.kind, error.text, error.args
    else:
        kind, text, args = f"{type(error).__module__}:{type(error).__qualname__}", str(error), error.args
    try:
        plain = json.loads(encode_plain({"args": list(args)}))["args"]
    except PlainEncodeError:
        plain = [text]
    return {"type": kind, "text": text, "args": plain}


def readable(inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The inputs of a call for people; secrets are masked."""
    shown: dict[str, Any] = json_form(dict(inputs))
    return shown if len(json.dumps(shown)) <= SHOWN_INPUTS else None


# ---- reading


def read_calls(path: Path) -> list[RecordedCall]:
    """The calls of a file.

    Raises:
        CassetteError: It is no cassette, is damaged, or was written by another release.
    """
    try:
        document = json.loads(path.read_bytes())
    except OSError as exc:
        raise CassetteError(str(path), f"it cannot be read: {exc.strerror}", fix="name a file") from exc
    except (ValueError, RecursionError) as exc:
        raise CassetteError(str(path), f"it is no JSON ({exc})") from exc
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CassetteError(str(path), f"it is no cassette; its 'format' is not '{FORMAT}'")
    if document.get("version") != VERSION:
        found = document.get("version")
        raise CassetteError(str(path), f"it has format version '{found}', this release reads '{VERSION}'")
    try:
        return [read_call(one) for one in document["calls"]]
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise CassetteError(str(path), f"one of its calls is damaged ({type(exc).__name__}: {exc})") from exc


def read_call(told: Mapping[str, Any]) -> RecordedCall:
    """A call from the file."""
    error = told.get("error")
    outputs = told.get("raw", told.get("outputs"))
    if error is None and outputs is None:
        raise ValueError("a call has neither outputs nor an error")
    return RecordedCall(
        tool=told["tool"],
        flow=told["flow"],
        step=told["step"],
        attempt=told["attempt"],
        fingerprint=told["fingerprint"],
        schema=told["schema"],
        inputs=told["inputs"],
        outputs=None if error is not None else decode_plain(json.dumps(outputs)),
        is_plain=True,
        is_raw="raw" in told,
        error=None if error is None else read_error(error),
    )


def read_error(told: Mapping[str, Any]) -> FiledError:
    """What a file says of an exception."""
    args = decode_plain(json.dumps({"args": told["args"]}))["args"]
    return FiledError(str(told["type"]), tuple(args), str(told["text"]))


def restored_error(error: BaseException | FiledError, known: Iterable[type[BaseException]]) -> BaseException:
    """The exception to raise: the recorded one, or one that says the same.

    Classes come from the builtins and from `known`, never from the file; others get a stand-in of the same name.
    """
    if not isinstance(error, FiledError):
        return error
    module, _, name = error.kind.partition(":")
    kinds = {f"{kind.__module__}:{kind.__qualname__}": kind for kind in known}
    kind = kinds.get(error.kind)
    if kind is None and module == "builtins":
        found = getattr(builtins, name, None)
        kind = found if isinstance(found, type) and issubclass(found, Exception) else None
    make: Callable[..., BaseException]
    make = type(name.rpartition(".")[2] or "RecordedError", (RecordedError,), {}) if kind is None else kind
    try:
        made: BaseException = make(*(error.args if kind is not None else (error.text,)))
        return made
    except Exception:  # a constructor that takes other arguments than the exception keeps
        return RecordedError(f"{name}: {error.text}")
