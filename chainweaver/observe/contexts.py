"""What a middleware is told: one small object per hook.

The objects are plain slotted carriers. They hold the facts of one moment, convert nothing and copy nothing.
All times are aware UTC datetimes.

Built by the executor, and only while somebody listens to the hook in question.
"""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from chainweaver.results import ExecutionResult, StepRecord


class Facts:
    """Base of the slotted carriers: equality and `repr` over what the constructor takes."""

    __slots__ = ()

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={getattr(self, name)!r}" for name in _names_of(type(self)))
        return f"{type(self).__name__}({facts})"

    def __eq__(self, other: object) -> bool:
        if getattr(type(other), "stands_for", type(other)) is not getattr(type(self), "stands_for", type(self)):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in _names_of(type(self)))

    __hash__ = None  # type: ignore[assignment]  # payloads may be unhashable, as with any mutable record


def _names_of(cls: type[Facts]) -> list[str]:
    """The facts of a class in the order of its signature, which is the order a reader expects."""
    # What makes its facts when somebody asks is, for a reader, the class that it stands for.
    return list(signature(getattr(cls, "stands_for", cls)).parameters)


class FlowStartContext(Facts):
    """A run is about to start its first step.

    Attributes:
        trace_id: Id of the run, 32 hex characters.
        initial_input: The input that the caller gave.
        started_at: When the run began.
        total_steps: Number of steps in the plan, including those that may be skipped.
        parent_trace_id: Id of the run that this one is nested in; None for the outermost one.
    """

    __slots__ = (
        "flow_name",
        "flow_version",
        "initial_input",
        "started_at",
        "total_steps",
        "trace_id",
        "parent_trace_id",
    )

    def __init__(
        self,
        trace_id: str,
        flow_name: str,
        flow_version: str,
        initial_input: Mapping[str, Any],
        started_at: datetime,
        total_steps: int,
        parent_trace_id: str | None = None,
    ) -> None:
        self.trace_id = trace_id
        self.flow_name = flow_name
        self.flow_version = flow_version
        self.initial_input = initial_input
        self.started_at = started_at
        self.total_steps = total_steps
        self.parent_trace_id = parent_trace_id


class StepStartContext(Facts):
    """A step has its inputs and is about to run.

    Attributes:
        trace_id: Id of the run, 32 hex characters.
        step_index: Position of the step in plan order, from 0.
        tool_name: Tool of the step; the name of the flow where the step runs a flow.
        inputs: The inputs as the mapping resolved them.
        started_at: When the step began.
        step_id: Id of the step in a DAG; None in a linear flow.
        parent_trace_id: Id of the run that this one is nested in; None for the outermost one.
    """

    __slots__ = (
        "flow_name",
        "inputs",
        "started_at",
        "step_id",
        "step_index",
        "tool_name",
        "trace_id",
        "parent_trace_id",
    )

    def __init__(
        self,
        trace_id: str,
        flow_name: str,
        step_index: int,
        tool_name: str,
        inputs: Mapping[str, Any],
        started_at: datetime,
        step_id: str | None = None,
        parent_trace_id: str | None = None,
    ) -> None:
        self.trace_id = trace_id
        self.flow_name = flow_name
        self.step_index = step_index
        self.tool_name = tool_name
        self.inputs = inputs
        self.started_at = started_at
        self.step_id = step_id
        self.parent_trace_id = parent_trace_id


class StepEndContext(Facts):
    """A step is over: done, failed, skipped or cancelled.

    Attributes:
        trace_id: Id of the run, 32 hex characters.
        step_index: Position of the step in plan order, from 0.
        tool_name: Tool of the step; the name of the flow where the step runs a flow.
        inputs: The inputs as the mapping resolved them.
        started_at: When the step began.
        step_record: The record that enters the trace.
        ended_at: When the step was over.
        step_id: Id of the step in a DAG; None in a linear flow.
        parent_trace_id: Id of the run that this one is nested in; None for the outermost one.
    """

    __slots__ = (
        "ended_at",
        "flow_name",
        "inputs",
        "started_at",
        "step_id",
        "step_index",
        "step_record",
        "tool_name",
        "trace_id",
        "parent_trace_id",
    )

    def __init__(
        self,
        trace_id: str,
        flow_name: str,
        step_index: int,
        tool_name: str,
        inputs: Mapping[str, Any],
        started_at: datetime,
        step_record: StepRecord,
        ended_at: datetime,
        step_id: str | None = None,
        parent_trace_id: str | None = None,
    ) -> None:
        self.trace_id = trace_id
        self.flow_name = flow_name
        self.step_index = step_index
        self.tool_name = tool_name
        self.inputs = inputs
        self.started_at = started_at
        self.step_record = step_record
        self.ended_at = ended_at
        self.step_id = step_id
        self.parent_trace_id = parent_trace_id


class StepChunkContext(Facts):
    """A streaming tool delivered a piece of its output.

    Attributes:
        trace_id: Id of the run, 32 hex characters.
        step_index: Position of the step in plan order, from 0.
        chunk: The piece, as the tool yielded it.
        received_at: When it arrived.
        step_id: Id of the step in a DAG; None in a linear flow.
        parent_trace_id: Id of the run that this one is nested in; None for the outermost one.
    """

    __slots__ = (
        "chunk",
        "flow_name",
        "received_at",
        "step_id",
        "step_index",
        "tool_name",
        "trace_id",
        "parent_trace_id",
    )

    def __init__(
        self,
        trace_id: str,
        flow_name: str,
        step_index: int,
        tool_name: str,
        chunk: Any,
        received_at: datetime,
        step_id: str | None = None,
        parent_trace_id: str | None = None,
    ) -> None:
        self.trace_id = trace_id
        self.flow_name = flow_name
        self.step_index = step_index
        self.tool_name = tool_name
        self.chunk = chunk
        self.received_at = received_at
        self.step_id = step_id
        self.parent_trace_id = parent_trace_id


class FlowEndContext(Facts):
    """A run is over, however it ended. Told exactly once for every run that was started.

    Attributes:
        trace_id: Id of the run, 32 hex characters.
        result: The result that the caller gets, or that the raised error carries.
        ended_at: When the run was over.
        parent_trace_id: Id of the run that this one is nested in; None for the outermost one.
    """

    __slots__ = ("ended_at", "flow_name", "flow_version", "result", "trace_id", "parent_trace_id")

    def __init__(
        self,
        trace_id: str,
        flow_name: str,
        flow_version: str,
        result: ExecutionResult,
        ended_at: datetime,
        parent_trace_id: str | None = None,
    ) -> None:
        self.trace_id = trace_id
        self.flow_name = flow_name
        self.flow_version = flow_version
        self.result = result
        self.ended_at = ended_at
        self.parent_trace_id = parent_trace_id
