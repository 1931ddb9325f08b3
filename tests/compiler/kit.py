"""What the tests of the compiler share: flows in a line, findings as plain tuples, readers called by hand.

Nothing runs here: what a step would read is asked of its reader, with slots that the test fills.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import create_model

from chainweaver import DAGFlow, DAGFlowStep, Flow, FlowStep, Tool
from chainweaver.compiler import CompilationResult, compile_flow

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
    "named",
    "node",
    "schema",
    "sub",
    "warned",
]


def a_tool(name: str, takes: Any = (), gives: Any = (), fn: Callable[..., Any] | None = None, **options: Any) -> Tool:
    """A tool with input and output fields: a dict of types, a list of names of integers, or a model."""
    return Tool(
        name=name,
        description=f"{name} of a test",
        input_schema=takes if isinstance(takes, type) else a_model(f"{name}_input", takes),
        output_schema=gives if isinstance(gives, type) else a_model(f"{name}_output", gives),
        fn=fn or (lambda inputs: {}),
        **options,
    )


def a_model(name: str, fields: Any, **config: Any) -> Any:
    """A model from a dict of types (or of pairs with a default) or from a list of names of integers."""
    types = fields if isinstance(fields, Mapping) else dict.fromkeys(fields, int)
    described: dict[str, Any] = {key: kind if isinstance(kind, tuple) else (kind, ...) for key, kind in types.items()}
    made: Any = create_model
    return made(name, __config__=config or None, **described)


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


def sub(flow_name: str, mapping: dict[str, Any] | None = None, **options: Any) -> FlowStep:
    """A step of a linear flow that runs another flow."""
    return FlowStep(flow_name=flow_name, input_mapping=mapping or {}, **options)


def named(name: str, flow: Any, **options: Any) -> Any:
    """The same flow under another name."""
    return flow.model_copy(update={"name": name, **options})


def schema(model: type) -> str:
    """The reference of a class in `schemas`."""
    return f"tests.compiler.schemas:{model.__qualname__}"


def compiled(flow: Any, *tools: Any, flows: Any = (), **options: Any) -> CompilationResult:
    return compile_flow(flow, tools, flows=flows, **options)


def found(result: CompilationResult) -> list[tuple[int, str, str | None]]:
    """The errors as (step, what, field)."""
    return [(one.step_index, one.issue_type, one.field_name) for one in result.errors]


def warned(result: CompilationResult) -> list[tuple[int, str, str | None]]:
    """The warnings likewise."""
    return [(one.step_index, one.issue_type, one.field_name) for one in result.warnings]


def detail(result: CompilationResult, issue_type: str) -> str:
    """The words of the one finding of this type."""
    every: list[Any] = [*result.errors, *result.warnings]
    [only] = [one for one in every if one.issue_type == issue_type]
    return str(only.detail)


def inputs(result: CompilationResult, index: int, *slots: dict[str, Any] | None) -> dict[str, Any]:
    """What a step reads: slot 0 is the initial context, the others are the outputs of the steps before it."""
    filled: list[dict[str, Any] | None] = [*slots, *[None] * (len(result.plan.steps) + 2 - len(slots))]
    return result.plan.steps[index].read(filled)
