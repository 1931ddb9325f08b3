"""What the tests of the executor share: flows that touch every detail of a record, and ways to break a run off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from chainweaver import (
    DAGFlow,
    DAGFlowStep,
    ExecutionResult,
    Flow,
    FlowExecutor,
    FlowStep,
    Tool,
)


class Number(BaseModel):
    n: int = 0


class Out(BaseModel):
    out: int = 0


class Crash(SystemExit):
    """Stands for the end of the process: nobody catches it on the way."""


class Calls:
    """Counts the calls of the tools of a test, and lets one of them be the last.

    Attributes:
        counts: Calls by tool name.
        last: Number of the call, over all tools, that crashes; None for never.
    """

    def __init__(self, last: int | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.last = last

    def tool(self, name: str, fn: Callable[[Any], Any] = lambda given: {"out": given.n + 1}, **options: Any) -> Tool:
        """A tool that is counted; `n` in and `out` out, unless `options` say otherwise."""

        def counted(given: Any) -> Any:
            if self.last is not None and self.counts.total() >= self.last:
                raise Crash(name)
            self.counts[name] += 1
            return fn(given)

        options = {"input_schema": Number, "output_schema": Out, **options}
        return Tool(name=name, description=f"{name} of a test", fn=counted, **options)


def linear(*steps: FlowStep, **facts: Any) -> Flow:
    return Flow(**{"name": "flow", "description": "A flow of a test.", "steps": list(steps), **facts})


def dag(*steps: DAGFlowStep, **facts: Any) -> DAGFlow:
    facts = {"name": "flow", "version": "1.0.0", "description": "A flow of a test.", **facts}
    return DAGFlow(steps=list(steps), **facts)


def chain(*names: str, **facts: Any) -> Flow:
    """Tools one after the other; each takes the output of the one before it."""
    before = ["n", *(f"{name}_out" for name in names)]
    return linear(
        *(
            FlowStep(tool_name=name, input_mapping={"n": before[at]}, output_mapping={f"{name}_out": "out"})
            for at, name in enumerate(names)
        ),
        **facts,
    )


def crashed(executor: FlowExecutor, given: Mapping[str, Any], **options: Any) -> str:
    """Run the flow until it crashes, and say which run that was."""
    try:
        executor.execute_flow("flow", given, **options)
    except Crash:
        [trace_id] = executor._settings["checkpointer"].list_trace_ids()
        return trace_id
    raise AssertionError("it did not crash")


def merged(result: ExecutionResult) -> dict[str, Any]:
    """The final output of a run that has to be ok."""
    output = result.raise_for_failure().final_output
    assert output is not None
    return output
