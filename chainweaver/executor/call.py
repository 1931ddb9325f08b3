"""The options of one call, checked before anything starts, so that a mistake is shown where it was made.

Called by the facade, which makes a `Call` when one of its options was given; `runs` reads it when a run begins.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from chainweaver.exceptions import DynamicParameterError, LaneUnsupportedError
from chainweaver.executor.processes import out_of_reach
from chainweaver.executor.settings import check_flag, check_lane, named

if TYPE_CHECKING:
    from chainweaver.lanes.cancel import CancellationToken
    from chainweaver.plan import Plan


NEVER_S = 1e15
"""Seconds since the epoch that nobody lives to see, and that nanoseconds can still express."""


LONGEST_KEY = 1_200
"""Bytes of a key at most, whatever the store."""


class ReplayMode(str, Enum):
    """How a recorded run is repeated.

    VERIFY: What was decided and approved is taken from the record, and nothing from a step cache; the tools run again.
    EXECUTE: A run like any other, with the version, the input and the dry-run flag of the recorded one.
    """

    VERIFY = "verify"
    EXECUTE = "execute"


class Call:
    """What concerns the run of one call, beside the flow and its input.

    Attributes:
        deadline: Seconds since the epoch; None for never.
        lane: Lane of tools that name none; None for that of the executor.
        key: Name of the run, that at most one run has; None for a run without one.
        dry: What a dry run does with tools that cannot be rehearsed; None for a real run.
        backlog: Waits until the reader of a stream has caught up.

    Raises:
        TypeError, ValueError: An option is not what it has to be; the message says what to pass.
        DynamicParameterError: The flow does not name such a parameter.
        LaneUnsupportedError: On this lane a tool cannot be reached.
    """

    __slots__ = ("backlog", "cancel_token", "deadline", "dry", "dynamic_params", "key", "lane")

    def __init__(
        self,
        plan: Plan,
        deadline: float | None = None,
        cancel_token: CancellationToken | None = None,
        dynamic_params: Mapping[str, Any] | None = None,
        lane: str | None = None,
        lanes: Collection[str] = (),
        dry: Literal["skip", "abort"] | None = None,
        key: str | None = None,
    ) -> None:
        self.deadline = None if deadline is None else checked_deadline(deadline)
        check_token(cancel_token)
        self.cancel_token = cancel_token
        self.dynamic_params = None if dynamic_params is None else checked_params(plan, dynamic_params)
        check_lane(lane, lanes)
        if lane == "process" and (unreachable := out_of_reach(plan, lane)):
            raise LaneUnsupportedError(plan.flow_name, unreachable, lane=lane)
        self.lane = lane
        if dry not in (None, "skip", "abort"):
            raise ValueError(f"dry_run_unsupported has to be 'skip' or 'abort', not {dry!r}.")
        self.dry = dry
        self.key = None if key is None else checked_key(key)
        if dry is not None and key is not None:
            raise ValueError("A dry run is nobody's to find again: leave out its key.")
        self.backlog: Callable[[], Awaitable[None]] | None = None


def rehearsal(dry_run: bool, unsupported: Literal["skip", "abort"]) -> Literal["skip", "abort"] | None:
    """What a dry run does with tools that cannot be rehearsed; None for a real run.

    Raises:
        TypeError: `dry_run` is neither true nor false: a text such as "false" would count as true.
    """
    check_flag("dry_run", dry_run)
    return unsupported if dry_run else None


def check_token(token: object) -> None:
    """Refuse what no run could obey.

    Raises:
        TypeError: It is no token.
    """
    if token is not None and (isinstance(token, type) or not hasattr(token, "unlisten")):
        raise TypeError(f"cancel_token has to be a CancellationToken, not {named(token)}.")


def checked_id(trace_id: object) -> str:
    """The id of a run that is to go on.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(trace_id, str):
        raise TypeError(f"A run is resumed by its trace id, not by {named(trace_id)} itself.")
    return trace_id


def checked_key(key: object) -> str:
    """The name that a caller gives a run.

    Raises:
        TypeError, ValueError: It is none.
    """
    if not isinstance(key, str):
        raise TypeError(f"key has to be a text, not {named(key)}.")
    if not key:
        raise ValueError("key has to name the run, and an empty text names nothing.")
    encoded = key.encode("utf-8", "replace")
    if b"\0" in encoded or len(encoded) > LONGEST_KEY or encoded.decode() != key:
        raise ValueError(
            f"key has to be a text of {LONGEST_KEY:,} bytes at most, without zero characters and lone surrogates."
        )
    return key


def check_input(initial_input: object) -> None:
    """Refuse an input that has no names.

    Raises:
        TypeError: It is no mapping.
    """
    if not isinstance(initial_input, Mapping):
        hint = "; use its .model_dump()" if hasattr(initial_input, "model_dump") else ""
        raise TypeError(
            f"initial_input has to be a mapping of context keys to values, not {named(initial_input)}{hint}."
        )


def checked_deadline(deadline: object) -> float | None:
    """Seconds since the epoch, None for never."""
    if not isinstance(deadline, (int, float)) or isinstance(deadline, bool):
        hint = "; use its .timestamp()" if hasattr(deadline, "timestamp") else ""
        raise TypeError(f"deadline has to be seconds as time.time() gives them, not {named(deadline)}{hint}.")
    if math.isnan(deadline) or deadline == -math.inf:
        raise ValueError(f"deadline has to be seconds as time.time() gives them, not {deadline}.")
    return None if deadline > NEVER_S else deadline


def checked_params(plan: Plan, given: object) -> dict[str, Any]:
    """A dict of dynamic parameters that the flow names."""
    if not isinstance(given, Mapping):
        raise TypeError(f"dynamic_params has to be a mapping of names to values, not {named(given)}.")
    unknown = [str(name) for name in given if name not in plan.dynamic_params]
    if unknown:
        fix = None if plan.dynamic_params else "list them in the flow's dynamic_params"
        raise DynamicParameterError(plan.flow_name, unknown, known=plan.dynamic_params, fix=fix, where=_place(plan))
    return dict(given)


def _place(plan: Plan) -> str:
    return f"flow '{plan.flow_name}' {plan.flow_version}"
