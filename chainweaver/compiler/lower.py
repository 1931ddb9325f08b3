"""Lowering: a definition turned into steps in plan order, with positions instead of names.

A linear flow becomes a DAG in which each step depends on the one before it; there is one kind of plan. Nothing is
looked at but the structure: values and types come later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chainweaver.flow import DAGFlow, DAGFlowStep, Flow, FlowStep, validate_dag_topology


@dataclass(slots=True)
class Lowered:
    """One step with its place in plan order.

    Attributes:
        index: Position in plan order: level, then declaration.
        step_id: Its id; the position as text in a linear flow.
        label: What messages call it: the id in a DAG, the tool in a linear flow.
        level: Longest path from an entry step.
        needs: Positions of the steps it waits for, ascending.
        tool, fallback: The registered tools, None where there is none.
    """

    index: int
    step_id: str
    label: str
    level: int
    needs: list[int]
    definition: FlowStep
    tool: Any = None
    fallback: Any = None
    read_keys: list[str] = field(default_factory=list)

    @property
    def tool_name(self) -> str:
        return self.definition.display_name


def lower(flow: Flow | DAGFlow, tools: Mapping[str, Any]) -> list[Lowered]:
    """The steps of a flow in plan order, with the tools they name.

    Raises:
        DAGDefinitionError: The steps form no DAG.
    """
    steps = _lower_dag(flow) if isinstance(flow, DAGFlow) else _lower_linear(flow)
    for step in steps:
        definition = step.definition
        step.tool = tools.get(definition.tool_name) if definition.tool_name is not None else None
        step.fallback = tools.get(definition.fallback_tool) if definition.fallback_tool is not None else None
    return steps


def _lower_linear(flow: Flow) -> list[Lowered]:
    return [
        Lowered(index, str(index), step.display_name, index, [index - 1] if index else [], step)
        for index, step in enumerate(flow.steps)
    ]


def _lower_dag(flow: DAGFlow) -> list[Lowered]:
    validate_dag_topology(flow)
    levels = _levels(flow.steps)
    # sorted() is stable, so that steps of one level stay in the order of declaration.
    ordered = sorted(flow.steps, key=lambda step: levels[step.step_id])
    positions = {step.step_id: index for index, step in enumerate(ordered)}
    return [
        Lowered(
            index=index,
            step_id=step.step_id,
            label=step.step_id,
            level=levels[step.step_id],
            needs=sorted({positions[name] for name in step.depends_on}),
            definition=step,
        )
        for index, step in enumerate(ordered)
    ]


def _levels(steps: list[DAGFlowStep]) -> dict[str, int]:
    """Longest path from an entry step, for every step; iterative, for chains of any length."""
    waiting = {step.step_id: len(dict.fromkeys(step.depends_on)) for step in steps}
    feeds: dict[str, list[str]] = {step.step_id: [] for step in steps}
    for step in steps:
        for name in dict.fromkeys(step.depends_on):
            feeds[name].append(step.step_id)
    levels = dict.fromkeys(feeds, 0)
    todo = [name for name, count in waiting.items() if not count]
    for name in todo:
        for fed in feeds[name]:
            levels[fed] = max(levels[fed], levels[name] + 1)
            waiting[fed] -= 1
            if not waiting[fed]:
                todo.append(fed)
    return levels


def unsupported_constructs(steps: list[Lowered]) -> tuple[str, ...]:
    """The constructs that flows may hold, draw and store but that no lane runs yet, one phrase each, in plan order."""
    return tuple(phrase for step in steps for phrase in _constructs(step))


def _constructs(step: Lowered) -> list[str]:
    definition = step.definition
    found = []
    if definition.flow_name is not None:
        found.append(f"sub-flow '{definition.flow_name}' at step '{step.label}'")
    if definition.map_over is not None:
        found.append(f"map over '{definition.map_over}' at step '{step.label}'")
    if definition.decision_candidates:
        found.append(f"decision at step '{step.label}'")
    if isinstance(definition, DAGFlowStep):
        if definition.branches or definition.default_next is not None:
            found.append(f"branches at step '{step.label}'")
        if definition.step_type == "capability":
            found.append(f"capability '{definition.capability_id}' at step '{step.label}'")
    if step.tool is not None and step.tool.safety_declared and step.tool.safety.requires_approval:
        found.append(f"approval of tool '{step.tool_name}' at step '{step.label}'")
    return found
