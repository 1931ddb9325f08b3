"""Wrapping: what a middleware may do around a step or a run, and what it is told.

A middleware that has `around_step` or `around_run` is asked once per step or run for a generator. It may yield
`Sleep(seconds)` any number of times, then yields exactly one `Proceed()`, and returns:

    def around_step(self, context):
        now_ns = context.now_ns
        while now_ns < self.opens_ns:
            now_ns = yield Sleep((self.opens_ns - now_ns) / 1e9)   # the reply is the time on the run's clock
        outcome = yield Proceed()                                  # a StepOutcome; around a run, its ExecutionResult

It performs nothing itself, no clock and no waiting, and so works on every lane and under a virtual clock. What it is
told in replies may not be changed. When the run is cancelled while it waits, it is closed (`GeneratorExit`).

The carriers here are made by the executor; the commands belong to the run core.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol, TypeAlias, runtime_checkable

from chainweaver._execution.around import StepOutcome
from chainweaver._execution.commands import Proceed, Sleep
from chainweaver.observe.contexts import Facts

__all__ = [
    "Proceed",
    "RunAroundContext",
    "Sleep",
    "StepAroundContext",
    "StepOutcome",
    "WrapsRuns",
    "WrapsSteps",
    "Wrapper",
]

Wrapper: TypeAlias = "Generator[Sleep | Proceed, Any, None]"
"""What `around_step` and `around_run` return. Replies: monotonic nanoseconds to a `Sleep`, the outcome to `Proceed`."""


class StepAroundContext(Facts):
    """A step has its turn. What it will get as inputs is not known yet.

    Attributes:
        trace_id: Id of the run, 32 hex characters.
        step_index: Position of the step in plan order, from 0.
        step_id: Id of the step; its position as text in a linear flow.
        tool_name: Tool of the step; the name of the flow where the step runs a flow.
        now_ns: Time on the run's monotonic clock, in nanoseconds.
        nests: The step runs a sub-flow or a map: what it calls has steps of its own, which are wrapped as well.
    """

    __slots__ = ("flow_name", "nests", "now_ns", "step_id", "step_index", "tool_name", "trace_id")

    def __init__(
        self,
        trace_id: str,
        flow_name: str,
        step_index: int,
        step_id: str,
        tool_name: str,
        now_ns: int,
        nests: bool = False,
    ) -> None:
        self.trace_id = trace_id
        self.flow_name = flow_name
        self.step_index = step_index
        self.step_id = step_id
        self.tool_name = tool_name
        self.now_ns = now_ns
        self.nests = nests


class RunAroundContext(Facts):
    """A run is about to begin.

    Attributes:
        trace_id: Id of the run, 32 hex characters.
        now_ns: Time on the run's monotonic clock, in nanoseconds.
        flow_version: Version of the flow.
        parent_trace_id: Id of the run that this one is nested in, None for an outermost one.
    """

    __slots__ = ("flow_name", "flow_version", "now_ns", "parent_trace_id", "trace_id")

    def __init__(
        self,
        trace_id: str,
        flow_name: str,
        now_ns: int,
        flow_version: str | None = None,
        parent_trace_id: str | None = None,
    ) -> None:
        self.trace_id = trace_id
        self.flow_name = flow_name
        self.now_ns = now_ns
        self.flow_version = flow_version
        self.parent_trace_id = parent_trace_id


@runtime_checkable
class WrapsSteps(Protocol):
    """A middleware that wraps steps."""

    def around_step(self, context: StepAroundContext) -> Wrapper:
        """The generator around one step; `Proceed()` evaluates to its `StepOutcome`."""
        ...


@runtime_checkable
class WrapsRuns(Protocol):
    """A middleware that wraps runs."""

    def around_run(self, context: RunAroundContext) -> Wrapper:
        """The generator around one run; `Proceed()` evaluates to its `ExecutionResult`."""
        ...
