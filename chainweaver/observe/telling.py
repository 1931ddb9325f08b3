"""Telling: the moments of a run, made into the contexts that listeners are given.

A context points at the run and works out its facts when somebody asks for them, so that a listener pays for what it
looks at. Called by the lanes (steps, nested runs, chunks) and by the executor (the outermost run).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chainweaver.observe.contexts import (
    FlowEndContext,
    FlowStartContext,
    StepChunkContext,
    StepEndContext,
    StepStartContext,
)
from chainweaver.observe.middleware import Listeners, log_failure
from chainweaver.results import ExecutionResult, date_of, record_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from chainweaver._execution.commands import Tell
    from chainweaver._execution.run import Run
    from chainweaver.plan import PlannedStep


class LateStepStart(StepStartContext):
    """A step is about to run; the facts are worked out when somebody asks for them."""

    __slots__ = ("_run", "_step")
    stands_for = StepStartContext

    def __init__(self, run: Run, step: PlannedStep) -> None:
        self._run = run
        self._step = step

    @property
    def moment(self) -> tuple[Run, PlannedStep]:
        """The run and the step themselves, for observers of ours that need the very values."""
        return self._run, self._step

    def __getattr__(self, name: str) -> Any:
        return _fact(self, name)


class LateStepEnd(StepEndContext):
    """A step is over; the facts are worked out when somebody asks for them."""

    __slots__ = ("_run", "_step")
    stands_for = StepEndContext

    def __init__(self, run: Run, step: PlannedStep) -> None:
        self._run = run
        self._step = step

    @property
    def moment(self) -> tuple[Run, PlannedStep]:
        """The run and the step themselves, for observers of ours that need the very values."""
        return self._run, self._step

    def __getattr__(self, name: str) -> Any:
        return _fact(self, name)


def _fact(late: LateStepStart | LateStepEnd, name: str) -> Any:
    """One fact of a moment, kept from the first look on."""
    work_out = _FACTS.get(name)
    if work_out is None:
        raise AttributeError(f"{type(late).stands_for.__name__} has no attribute '{name}'.", name=name, obj=late)
    value = work_out(late._run, late._step)
    setattr(late, name, value)
    return value


_FACTS: dict[str, Callable[[Run, PlannedStep], Any]] = {
    "trace_id": lambda run, step: run.trace_id(),
    "parent_trace_id": lambda run, step: parent_id(run),
    "flow_name": lambda run, step: run.plan.flow_name,
    "step_index": lambda run, step: step.index,
    "step_id": lambda run, step: step.step_id,
    "tool_name": lambda run, step: step.name,
    # A dict of its own: who only watches must not change what a step goes on with.
    "inputs": lambda run, step: dict(run.inputs[step.index] or {}),
    "started_at": lambda run, step: date_of(run, run.started[step.index]),
    "ended_at": lambda run, step: date_of(run, run.ended[step.index]),
    "step_record": record_of,
}


def teller_of(listeners: Listeners) -> Callable[[Tell], None]:
    """What tells these listeners of a moment; bound once, since it is called for every step."""
    starts, ends = listeners.on_step_start, listeners.on_step_end

    def tell(command: Tell) -> None:
        moment, run, step = command.moment, command.run, command.step
        over = command.over
        if step is None:
            (tell_start if moment == "flow_start" else tell_end)(listeners, run)
        elif moment == "step_end":
            over = step
        # As in call_hooks, which would cost every step two more calls.
        if over is not None and ends:
            ended = LateStepEnd(run, over)
            for position, name, call in ends:
                try:
                    call(ended)
                except Exception as exc:
                    log_failure("on_step_end", position, name, exc)
        if moment == "step_start" and step is not None:
            started = LateStepStart(run, step)
            for position, name, call in starts:
                try:
                    call(started)
                except Exception as exc:
                    log_failure("on_step_start", position, name, exc)

    return tell


def tell_chunk(listeners: Listeners, run: Run, step: PlannedStep, chunk: Any, now_ns: int) -> None:
    """Tell the listeners of a piece of what a streaming tool has to say."""
    listeners.step_chunk(
        StepChunkContext(
            run.trace_id(),
            run.plan.flow_name,
            step.index,
            step.name,
            chunk,
            date_of(run, now_ns),
            step.step_id,
            parent_id(run),
        )
    )


def tell_start(listeners: Listeners, run: Run) -> None:
    """Tell the listeners that a run begins."""
    if listeners.on_flow_start:
        plan = run.plan
        listeners.flow_start(
            FlowStartContext(
                run.trace_id(),
                plan.flow_name,
                plan.flow_version,
                dict(run.given),
                date_of(run, run.began_ns),
                len(plan.steps),
                parent_id(run),
            )
        )


def tell_end(listeners: Listeners, run: Run, result: ExecutionResult | None = None) -> None:
    """Tell the listeners that a run is over."""
    if listeners.on_flow_end:
        plan = run.plan
        found = ExecutionResult.of(run) if result is None else result
        ended_at = date_of(run, run.now_ns)
        listeners.flow_end(
            FlowEndContext(run.trace_id(), plan.flow_name, plan.flow_version, found, ended_at, parent_id(run))
        )


def parent_id(run: Run) -> str | None:
    """Id of the run that this one is nested in."""
    return None if run.parent is None else run.parent.trace_id()
