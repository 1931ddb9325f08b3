"""Capturing: the records of steps as they end, for tests that look at a run from outside.

An observing middleware and nothing more: what is captured is what a run would tell anybody.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from chainweaver.observe import BaseMiddleware

if TYPE_CHECKING:
    from chainweaver.executor import FlowExecutor
    from chainweaver.observe import StepEndContext
    from chainweaver.results import StepRecord


class _Capture(BaseMiddleware):
    def __init__(self, records: list[StepRecord], flow_name: str | None) -> None:
        self.records = records
        self.flow_name = flow_name

    def on_step_end(self, context: StepEndContext) -> None:
        if self.flow_name is None or context.flow_name == self.flow_name:
            self.records.append(context.step_record)


@contextmanager
def capture_steps(executor: FlowExecutor, *, flow_name: str | None = None) -> Iterator[list[StepRecord]]:
    """The records of the steps that end while the block runs, in the order in which they end.

    Runs that start inside of the block are captured, whoever starts them; the list stays filled afterwards.

    Args:
        flow_name: Only steps of this flow. None: of all, those of nested runs included.

    >>> from chainweaver.executor import FlowExecutor
    >>> from chainweaver.flow import Flow, FlowStep
    >>> from chainweaver.tools import tool
    >>> @tool
    ... def double(n: int) -> int:
    ...     return 2 * n
    >>> flow = Flow(name="twice", description="Doubles.", steps=[FlowStep(tool_name="double")])
    >>> executor = FlowExecutor(tools=[double], flows=[flow])
    >>> with capture_steps(executor) as steps:
    ...     _ = executor.execute_flow("twice", {"n": 21})
    >>> [(step.tool_name, step.outputs) for step in steps]
    [('double', {'double': 42})]
    """
    records: list[StepRecord] = []
    capture = _Capture(records, flow_name)
    executor.add_middleware(capture)
    try:
        yield records
    finally:
        executor.remove_middleware(capture)
