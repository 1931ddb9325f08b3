"""What a run asks of a lane, and what a lane may answer.

Commands are data. A lane performs one and sends the reply back, or throws the exception that came out of it. The set is
closed: lanes end their dispatch with `assert_never`, so that the type checker names the command a lane forgot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Generator

    from chainweaver._execution.run import Run
    from chainweaver.plan import PlannedStep, PlannedTool, ToolContext

PlainCall: TypeAlias = "tuple[PlannedTool, Any]"
"""The common invocation: a tool and its validated input, without limit or context. Reply: what the tool returned.

A bare pair, because building one costs 20 ns and building an `Invoke` 130, a twelfth of a whole step.
"""


class Invoke:
    """Call a tool under a limit or with a context. Reply: what it returned; throw what it raised, or `TimedOut`.

    Attributes:
        place: The run and the step whose listeners hear of the chunks that the tool streams; None when nobody does.
    """

    __slots__ = ("tool", "value", "context", "timeout_s", "place")

    def __init__(
        self,
        tool: PlannedTool,
        value: Any,
        context: ToolContext | None,
        timeout_s: float | None,
        place: tuple[Run, PlannedStep] | None = None,
    ) -> None:
        self.tool = tool
        self.value = value
        self.context = context
        self.timeout_s = timeout_s
        self.place = place


AskKind: TypeAlias = Literal["decision", "approval", "guardrail"]


class Ask:
    """Ask one of the callbacks of the executor. Reply: its answer; throw what it raised, or `TimedOut`.

    Whoever is asked holds no slot: a person may take days.
    """

    __slots__ = ("kind", "context", "timeout_s")

    def __init__(self, kind: AskKind, context: Any, timeout_s: float | None) -> None:
        self.kind = kind
        self.context = context
        self.timeout_s = timeout_s


class Sleep:
    """Wait before the next attempt. Reply: None. With `jitter` the lane scales the wait by its random source."""

    __slots__ = ("seconds", "jitter")

    def __init__(self, seconds: float, jitter: bool = False) -> None:
        self.seconds = seconds
        self.jitter = jitter


class Lookup:
    """Ask the step cache. Reply: the stored output fields, or a `Lead` when this run has to compute them.

    While another run computes the same key the lane waits for it, at most `timeout_s`, and then throws `TimedOut`.
    """

    __slots__ = ("tool", "digest", "timeout_s")

    def __init__(self, tool: PlannedTool, digest: str, timeout_s: float | None) -> None:
        self.tool = tool
        self.digest = digest
        self.timeout_s = timeout_s


class Lead:
    """The right and the duty to compute one cache entry; whoever holds it sends exactly one `Settle`.

    Attributes:
        flight: What the lane needs to settle it; opaque to the core.
        note: Why the cache could not answer, None for an ordinary miss.
    """

    __slots__ = ("flight", "note")

    def __init__(self, flight: Any, note: str | None = None) -> None:
        self.flight = flight
        self.note = note


class Settle:
    """Store what the leader computed, or hand the lead over when `outputs` is None. Reply: a note, or None."""

    __slots__ = ("lead", "outputs")

    def __init__(self, lead: Lead, outputs: dict[str, Any] | None) -> None:
        self.lead = lead
        self.outputs = outputs


class Save:
    """Append the finished step to the run's checkpoint, in one atomic write. Reply: None; throw a store error."""

    __slots__ = ("run", "step", "outputs")

    def __init__(self, run: Run, step: PlannedStep, outputs: dict[str, Any] | None) -> None:
        self.run = run
        self.step = step
        self.outputs = outputs


Moment: TypeAlias = Literal["flow_start", "step_start", "step_end", "flow_end"]


class Tell:
    """Tell the listeners that a step starts or has ended, or a nested run as a whole. Reply: None.

    Attributes:
        step: The step; None for a nested run.
        over: A step of the same run whose end is told before: two moments for the price of one command.
    """

    __slots__ = ("moment", "over", "run", "step")

    def __init__(
        self, moment: Moment, run: Run, step: PlannedStep | None = None, over: PlannedStep | None = None
    ) -> None:
        self.moment = moment
        self.run = run
        self.step = step
        self.over = over


class Nest:
    """Carry a nested run to its end. For `walk` and `schedule`, which do so themselves: no lane ever sees it.

    Attributes:
        limit: How many calls may run at once inside; None: as many as outside.
    """

    __slots__ = ("limit", "run")

    def __init__(self, run: Run, limit: int | None = None) -> None:
        self.run = run
        self.limit = limit


class Proceed:
    """What a generator around a step or a run yields exactly once: go on with what is inside. Reply: its outcome."""

    __slots__ = ()


Command: TypeAlias = "PlainCall | Invoke | Ask | Sleep | Lookup | Settle | Save | Tell"


StepLife: TypeAlias = "Generator[Command | Nest, Any, dict[str, Any] | None]"
"""One step; returns what it merges into the context, None when it failed or was skipped."""

WalkedLife: TypeAlias = "Generator[Command, Any, dict[str, Any] | None]"
"""One step without what only `walk` and `schedule` perform: what it nests is carried, or it nests nothing."""

RunWalk: TypeAlias = "Generator[Command, Any, None]"
"""A whole run at limit 1."""


class Printed:
    """A reply of a lane that captures: what the call wrote to its output and error streams, beside its value.

    An exception of such a call carries one as its attribute `printed_by_tool`.

    Attributes:
        value: What the tool returned; None where it raised.
    """

    __slots__ = ("stderr", "stdout", "value")

    def __init__(self, stdout: str, stderr: str, value: Any = None) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.value = value


class TimedOut(Exception):
    """Thrown by a lane: the command was not done in its time, and its effect will be ignored if it comes late.

    Attributes:
        abandoned: The tool could not be stopped and may still be running in its thread.
    """

    def __init__(self, abandoned: bool = False) -> None:
        super().__init__(abandoned)
        self.abandoned = abandoned


CancelReason: TypeAlias = Literal["token", "deadline", "interrupt", "surplus", "claim"]


class RunCancelled(BaseException):
    """Thrown by a lane, or raised by the core at a passed deadline: the run ends here.

    A BaseException, as `asyncio.CancelledError` is: no `except Exception` on the way may take it for a tool failure.

    Attributes:
        reason: "token", "deadline", "interrupt" (the caller was cancelled or interrupted), "surplus" (a step that a
            failure with a lower index made superfluous) or "claim" (somebody else executes the run by now).
    """

    def __init__(self, reason: CancelReason) -> None:
        super().__init__(reason)
        self.reason = reason
