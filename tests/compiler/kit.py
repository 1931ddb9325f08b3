"""What the tests of the compiler share: flows in a line, findings as plain tuples, readers called by hand.

Nothing runs here: what a step would read is asked of its reader, with slots that the test fills.
"""

from __future__ import annotations

from typing import Any

from chainweaver import DAGFlow, DAGFlowStep, Flow, FlowStep
from chainweaver.compiler import CompilationResult, compile_flow
from tests.execution.kit import a_model, a_tool

__all__ = [
    "a_chain",
    "a_dag",
    "a_model",
    "a_tool",
    "call",
    "compiled",
    "detail",
    "found",
    "inputs",
    "node",
    "schema",
    "warned",
]


def call(tool: Any, mapping: dict[str, Any] | None = None, **options: Any) -> FlowStep:
    """A step of a linear flow; the tool by name or as it is."""
    return FlowStep(tool_name=getattr(tool, "name", tool), input_mapping=mapping or {}, **options)


def node(step_id: str, tool: Any, *needs: str, **options: Any) -> DAGFlowStep:
    """A step of a DAG."""
    return DAGFlowStep(step_id=step_id, tool_name=getattr(tool, "name", tool), depends_on=list(needs), **options)


def a_chain(*steps: FlowStep, **options: Any) -> Flow:
    return Flow(name="f", description="d", steps=list(steps), **options)


def a_dag(*steps: DAGFlowStep, **options: Any) -> DAGFlow:
    return DAGFlow(name="f", version="1", description="d", steps=list(steps), **options)


def schema(model: type) -> str:
    """The reference of a class in `schemas`."""
    return f"tests.compiler.schemas:{model.__qualname__}"


def compiled(flow: Any, *tools: Any) -> CompilationResult:
    return compile_flow(flow, tools)


def found(result: CompilationResult) -> list[tuple[int, str, str | None]]:
    """The errors as (step, what, field)."""
    return [(one.step_index, one.issue_type, one.field_name) for one in result.errors]


def warned(result: CompilationResult) -> list[tuple[int, str, str | None]]:
    """The warnings likewise."""
    return [(one.step_index, one.issue_type, one.field_name) for one in result.warnings]


def detail(result: CompilationResult, issue_type: str) -> str:
    """The words of the one finding of this type."""
    [only] = [one.detail for one in (*result.errors, *result.warnings) if one.issue_type == issue_type]
    return only


def inputs(result: CompilationResult, index: int, *slots: dict[str, Any] | None) -> dict[str, Any]:
    """What a step reads: slot 0 is the initial context, the others are the outputs of the steps before it."""
    filled: list[dict[str, Any] | None] = [*slots, *[None] * (len(result.plan.steps) + 2 - len(slots))]
    return result.plan.steps[index].read(filled)
