"""Tools wired into a DAG by the names of their fields.

Only names decide. Whether the type that one tool returns fits the one that another reads is checked by the compiler,
which sees the mappings of every flow and not only of those wired here. Called by `DAGFlow.from_tools`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from pydantic import BaseModel

from chainweaver.exceptions import DAGDefinitionError, FlowBuilderError, suggest
from chainweaver.flow.definition import DAGFlow
from chainweaver.flow.steps import DAGFlowStep
from chainweaver.flow.topology import validate_dag_topology

__all__ = ["ToolShape", "wire_tools"]


class ToolShape(Protocol):
    """What wiring has to know about a tool."""

    @property
    def name(self) -> str:
        """Name of the tool; it becomes the id of its step."""

    @property
    def input_schema(self) -> type[BaseModel]:
        """The model whose fields the tool reads."""

    @property
    def output_schema(self) -> type[BaseModel]:
        """The model whose fields the tool returns."""


def wire_tools(
    name: str, tools: Iterable[ToolShape], *, version: str, description: str, outputs: Sequence[str] | None
) -> DAGFlow:
    """The DAG that `DAGFlow.from_tools` returns; parameters and errors are described there."""
    listed = list(tools)
    _check_names(name, listed)
    writers = _writers(listed)
    _check_outputs(outputs, writers)
    _check_ambiguity(listed, writers)
    steps = [
        DAGFlowStep(step_id=tool.name, tool_name=tool.name, depends_on=_dependencies(tool, writers)) for tool in listed
    ]
    chosen = None if outputs is None else tuple(outputs)
    dag = DAGFlow(name=name, version=version, description=description, steps=steps, outputs=chosen)
    validate_dag_topology(dag)
    return dag


def _writers(tools: Sequence[ToolShape]) -> dict[str, list[str]]:
    """Output field -> the tools that return it, in the given order."""
    found: dict[str, list[str]] = {}
    for tool in tools:
        for field in tool.output_schema.model_fields:
            found.setdefault(field, []).append(tool.name)
    return found


def _feeders(tool: ToolShape, field: str, writers: Mapping[str, Sequence[str]]) -> list[str]:
    return [writer for writer in writers.get(field, ()) if writer != tool.name]


def _dependencies(tool: ToolShape, writers: Mapping[str, Sequence[str]]) -> list[str]:
    fed = (feeder for field in tool.input_schema.model_fields for feeder in _feeders(tool, field, writers))
    return list(dict.fromkeys(fed))


def _check_names(flow_name: str, tools: Sequence[ToolShape]) -> None:
    counts: dict[str, int] = {}
    for tool in tools:
        counts[tool.name] = counts.get(tool.name, 0) + 1
    twice = [f"tool '{name}' is given {count} times" for name, count in counts.items() if count > 1]
    if twice:
        raise DAGDefinitionError(
            flow_name,
            "duplicate_step_id",
            "; ".join(twice),
            fix="write the steps yourself to call a tool more than once",
        )


def _check_ambiguity(tools: Sequence[ToolShape], writers: Mapping[str, Sequence[str]]) -> None:
    faults = []
    for tool in tools:
        for field in tool.input_schema.model_fields:
            feeders = _feeders(tool, field, writers)
            if len(feeders) > 1:
                named = ", ".join(f"'{feeder}'" for feeder in feeders)
                faults.append(f"input '{field}' of tool '{tool.name}' is returned by {named}")
    if faults:
        fix = "rename an output field, or write the steps yourself with 'input_mapping' and 'output_mapping'"
        raise FlowBuilderError("; ".join(faults), fix=fix)


def _check_outputs(outputs: Sequence[str] | None, writers: Mapping[str, Sequence[str]]) -> None:
    unknown = [field for field in outputs or () if field not in writers]
    if not unknown:
        return
    detail = "; ".join(f"no tool returns output '{field}'" for field in unknown)
    near = suggest(unknown[0], writers)
    raise FlowBuilderError(detail, known=list(writers), fix=f"did you mean '{near}'?" if near else None)
