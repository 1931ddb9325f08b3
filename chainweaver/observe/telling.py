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
from chainweaver.results import ExecutionResult, date_of, record_of

if TYPE_CHECKING:
    from datetime import datetime

    from chainweaver._execution.commands import Tell
    from chainweaver._execution.run import Run
    from chainweaver.observe.middleware import Listeners
    from chainweaver.plan import PlannedStep
    from chainweaver.results import StepRecord


class _Late:
    """The facts that all moments of a step share."""

    __slots__ = ()
    _run: Run
    _step: PlannedStep

    @property
    def trace_id(self) -> str:
        return self._run.trace_id()

    @property
    def parent_trace_id(self) -> str | None:
        return parent_id(self._run)

    @property
    def flow_name(self) -> str:
        return self._run.plan.flow_name

    @property
    def step_index(self) -> int:
        return self._step.index

    @property
    def step_id(self) -> str:
        return self._step.step_id

    @property
    def tool_name(self) -> str:
        return self._step.name

    @property
    def inputs(self) -> dict[str, Any]:
        # A dict of its own: who only watches must not change what the step goes on with.
        return dict(self._run.inputs[self._step.index] or {})

    @property
    def started_at(self) -> datetime:
        return date_of(self._run, self._run.started[self._step.index])


class LateStepStart(_Late, StepStartContext):
    """A step is about to run."""

    __slots__ = ("_run", "_step")
    stands_for = StepStartContext

    def __init__(self, run: Run, step: PlannedStep) -> None:
        self._run = run
        self._step = step


class LateStepEnd(_Late, StepEndContext):
    """A step is over."""

    __slots__ = ("_record", "_run", "_step")
    stands_for = StepEndContext

    def __init__(self, run: Run, step: PlannedStep) -> None:
        self._run = run
        self._step = step
        self._record: StepRecord | None = None

    @property
    def ended_at(self) -> datetime:
        return date_of(self._run, self._run.ended[self._step.index])

    @property
    def step_record(self) -> StepRecord:
        found = self._record
        if found is None:
            found = self._record = record_of(self._run, self._step)
            assert found is not None, "a step that has ended has a record"
        return found


def tell(listeners: Listeners, command: Tell) -> None:
    """Tell the listeners of a moment."""
    run, step, moment = command.run, command.step, command.moment
    if step is None:
        (tell_start if moment == "flow_start" else tell_end)(listeners, run)
    elif moment == "step_start":
        if listeners.on_step_start:
            listeners.step_start(LateStepStart(run, step))
    elif listeners.on_step_end:
        listeners.step_end(LateStepEnd(run, step))


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
                dict(run.given),  # who only watches must not change what the run goes on with
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
