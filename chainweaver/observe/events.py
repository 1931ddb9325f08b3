"""Events: the hooks of a run as one stream of equal objects.

`EventMiddleware` turns every hook into a `FlowEvent` and hands it to a callable, in the thread that called the hook. It
queues nothing and waits for nobody; `stream_flow` and progress displays bring their own queue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from chainweaver.observe.contexts import Facts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from chainweaver.observe.contexts import (
        FlowEndContext,
        FlowStartContext,
        StepChunkContext,
        StepEndContext,
        StepStartContext,
    )
    from chainweaver.results import ExecutionResult, StepRecord

EventKind = Literal["flow_start", "step_start", "step_chunk", "step_end", "flow_end"]


class FlowEvent(Facts):
    """One thing that happened in a run.

    Attributes:
        kind: "flow_start", "step_start", "step_chunk", "step_end" or "flow_end".
        flow_name: Name of the flow.
        trace_id: Id of the run, 32 hex characters.
        timestamp: When it happened, an aware UTC datetime.
        step_index: Position of the step in plan order; None for the events of a flow.
        tool_name: Tool of the step; None for the events of a flow.
        step_id: Id of the step in a DAG.
        flow_version: Version of the flow; only with the events of a flow.
        total_steps: Number of planned steps; only with "flow_start".
        inputs: Input of the flow with "flow_start", resolved inputs of the step with the events of a step.
        chunk: The piece that arrived; only with "step_chunk".
        record: The record of the step; only with "step_end".
        result: The result of the run; only with "flow_end".
        parent_trace_id: Id of the run that this one is nested in; None for the outermost one.
    """

    __slots__ = (
        "chunk",
        "flow_name",
        "flow_version",
        "inputs",
        "kind",
        "parent_trace_id",
        "record",
        "result",
        "step_id",
        "step_index",
        "timestamp",
        "tool_name",
        "total_steps",
        "trace_id",
    )

    def __init__(
        self,
        kind: EventKind,
        flow_name: str,
        trace_id: str,
        timestamp: datetime,
        step_index: int | None = None,
        tool_name: str | None = None,
        *,
        step_id: str | None = None,
        flow_version: str | None = None,
        total_steps: int | None = None,
        inputs: Mapping[str, Any] | None = None,
        chunk: Any = None,
        record: StepRecord | None = None,
        result: ExecutionResult | None = None,
        parent_trace_id: str | None = None,
    ) -> None:
        self.kind = kind
        self.flow_name = flow_name
        self.trace_id = trace_id
        self.timestamp = timestamp
        self.step_index = step_index
        self.tool_name = tool_name
        self.step_id = step_id
        self.flow_version = flow_version
        self.total_steps = total_steps
        self.inputs = inputs
        self.chunk = chunk
        self.record = record
        self.result = result
        self.parent_trace_id = parent_trace_id

    def __repr__(self) -> str:
        """A line for a person: what, where, when, how it ended. Payloads are left out, they may be large or secret."""
        where = f"'{self.flow_name}'"
        if self.step_index is not None:
            where += f" step {self.step_index} ({self.step_id or self.tool_name})"
        return f"FlowEvent({self.kind} {where}{self._outcome()} at {self.timestamp.isoformat()})"

    def _outcome(self) -> str:
        if self.record is not None:
            return " skipped" if self.record.skipped else " ok" if self.record.success else " failed"
        if self.result is not None:
            return f" {self.result.status}"
        return ""


class EventMiddleware:
    """Hands every hook of a run to `emit` as a `FlowEvent`.

    >>> from datetime import datetime, timezone
    >>> from chainweaver.observe import FlowStartContext
    >>> new_year = datetime(2030, 1, 1, tzinfo=timezone.utc)
    >>> watch = EventMiddleware(print)
    >>> watch.on_flow_start(FlowStartContext("0" * 32, "invoice", "1.0.0", {}, new_year, 3))
    FlowEvent(flow_start 'invoice' at 2030-01-01T00:00:00+00:00)
    """

    __slots__ = ("emit",)

    def __init__(self, emit: Callable[[FlowEvent], object]) -> None:
        self.emit = emit

    def on_flow_start(self, context: FlowStartContext) -> None:
        """Emit "flow_start"."""
        self.emit(
            FlowEvent(
                "flow_start",
                context.flow_name,
                context.trace_id,
                context.started_at,
                flow_version=context.flow_version,
                total_steps=context.total_steps,
                inputs=context.initial_input,
                parent_trace_id=context.parent_trace_id,
            )
        )

    def on_step_start(self, context: StepStartContext) -> None:
        """Emit "step_start"."""
        self.emit(_step_event("step_start", context, context.started_at, inputs=context.inputs))

    def on_step_chunk(self, context: StepChunkContext) -> None:
        """Emit "step_chunk"."""
        self.emit(_step_event("step_chunk", context, context.received_at, chunk=context.chunk))

    def on_step_end(self, context: StepEndContext) -> None:
        """Emit "step_end"."""
        self.emit(_step_event("step_end", context, context.ended_at, inputs=context.inputs, record=context.step_record))

    def on_flow_end(self, context: FlowEndContext) -> None:
        """Emit "flow_end"."""
        self.emit(
            FlowEvent(
                "flow_end",
                context.flow_name,
                context.trace_id,
                context.ended_at,
                flow_version=context.flow_version,
                result=context.result,
                parent_trace_id=context.parent_trace_id,
            )
        )


def _step_event(
    kind: EventKind,
    context: StepStartContext | StepChunkContext | StepEndContext,
    timestamp: datetime,
    **payload: Any,
) -> FlowEvent:
    return FlowEvent(
        kind,
        context.flow_name,
        context.trace_id,
        timestamp,
        context.step_index,
        context.tool_name,
        step_id=context.step_id,
        parent_trace_id=context.parent_trace_id,
        **payload,
    )
