"""Around a step or a run: generators of the user that wait before it and look at its outcome (R38).

Each yields any number of `Sleep`s and then one `Proceed`, which evaluates to the outcome. Steps are wrapped by `walk`
and `schedule`, nested runs by the step they are in, the outermost run by the lane.
"""

from __future__ import annotations

from contextlib import suppress
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from chainweaver._execution.commands import Proceed, RunCancelled, Sleep, Tell
from chainweaver.exceptions import ChainWeaverError, FlowExecutionError, told

if TYPE_CHECKING:
    from collections.abc import Generator

    from chainweaver._execution.commands import StepLife
    from chainweaver._execution.rules import Wrapper
    from chainweaver._execution.run import Run
    from chainweaver.plan import PlannedStep


class StepOutcome(NamedTuple):
    """What came of a step, for the generators around it.

    Attributes:
        status: "ok", "failed", "skipped" or "cancelled".
        error: The error with which it failed, was skipped or cancelled.
        outputs: What it merges into the context; None when it gave nothing.
        now_ns: The monotonic clock of the run when it ended.
    """

    status: str
    error: ChainWeaverError | None
    outputs: dict[str, Any] | None
    now_ns: int


def around(run: Run, step: PlannedStep, life: StepLife) -> StepLife:
    """The life of a step inside the generators of the rules, the first one outermost.

    One that raises before it lets the step proceed fails the step. What it raises afterwards is its own affair.
    """
    run.started[step.index] = run.now_ns
    opened: list[Wrapper] = []
    merged: dict[str, Any] | None = None
    try:
        for make in run.rules.around_step:
            try:
                wrapper = make(run, step)
                yield from until_proceed(run, wrapper)
            except Exception as exc:
                run.show_inputs(step, {})
                if run.listening:
                    yield Tell("step_start", run, step)
                run.fail(step, _held_up(step, exc))
                return None
            opened.append(wrapper)
        merged = yield from life
        return merged
    finally:
        outcome = _outcome(run, step, merged)
        for wrapper in reversed(opened):
            finish(wrapper, outcome)


def enter_run(run: Run) -> Generator[Sleep, Any, list[Wrapper]]:
    """Let the generators around a run get to their `Proceed`; one that raises fails the run at its input.

    Returns:
        Those that have let it proceed, for `leave_run`; also when the run was told to end while the next one waited.
    """
    opened: list[Wrapper] = []
    for make in run.rules.around_run:
        try:
            wrapper = make(run)
            yield from until_proceed(run, wrapper)
        except RunCancelled as cancelled:
            run.cancelled = cancelled
            break
        except Exception as exc:
            detail = f"middleware around the run did not let it proceed: {told(exc)}"
            error = exc if isinstance(exc, ChainWeaverError) else FlowExecutionError(run.plan.flow_name, -1, detail)
            error.__cause__ = None if error is exc else exc
            run.input_error = run.input_error or error
            break
        opened.append(wrapper)
    return opened


def leave_run(run: Run, opened: list[Wrapper]) -> None:
    """Hand a concluded run to the generators around it, the innermost first."""
    for wrapper in reversed(opened):
        finish(wrapper, run)


def _held_up(step: PlannedStep, exc: Exception) -> ChainWeaverError:
    """Why a generator did not let a step proceed."""
    if isinstance(exc, ChainWeaverError):
        return exc
    detail = f"middleware around it did not let it proceed: {told(exc)}"
    error = FlowExecutionError(step.name, step.number, detail, step_name=step.label)
    error.__cause__ = exc
    return error


def _outcome(run: Run, step: PlannedStep, merged: dict[str, Any] | None) -> StepOutcome:
    if merged is not None:
        return StepOutcome("ok", None, merged, run.now_ns)
    detail = run.details.get(step.index)
    status = None if detail is None else detail.status
    return StepOutcome(status or "cancelled", None if detail is None else detail.error, None, run.now_ns)


def until_proceed(run: Run, wrapper: Wrapper) -> Generator[Sleep, Any, None]:
    """Perform what a generator asks for until it lets what is inside proceed.

    Raises:
        TypeError, ValueError: It asks for something else, or for nothing at all.
        RunCancelled: It would wait beyond the deadline of the run.
    """
    try:
        asked = next(wrapper)
        while not isinstance(asked, Proceed):
            if not isinstance(asked, Sleep):
                raise TypeError(f"it yielded {asked!r}, which is neither Sleep(seconds) nor Proceed()")
            asked = Sleep(_wait_s(asked.seconds), asked.jitter)
            left_s = run.remaining_s()
            if left_s is not None and asked.seconds >= left_s:
                yield Sleep(left_s)
                raise RunCancelled("deadline")
            yield asked
            asked = wrapper.send(run.now_ns)
    except StopIteration:
        raise TypeError("it ended without yielding Proceed()") from None
    except BaseException:
        wrapper.close()
        raise


def _wait_s(seconds: Any) -> float:
    """A wait as every lane can perform it: what is over already is none."""
    if not isinstance(seconds, (int, float)) or not isfinite(seconds):
        raise ValueError(f"it yielded Sleep({seconds!r}), and a wait is a number of seconds")
    return max(0.0, seconds)


def finish(wrapper: Wrapper, outcome: Any) -> None:
    """Hand a generator the outcome that its `Proceed` stands for; it has nothing more to ask."""
    with suppress(StopIteration):
        wrapper.send(outcome)
        wrapper.close()
