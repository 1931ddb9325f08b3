"""Lowering: a definition turned into steps in plan order, with positions instead of names.

A linear flow becomes a DAG in which each step depends on the one before it; there is one kind of plan. Nothing is
looked at but the structure: values and types come later.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chainweaver.compiler.chunks import in_chunks
from chainweaver.compiler.models import Catalogue, Facts, KnownTool
from chainweaver.flow import Chunk, DAGFlow, DAGFlowStep, Flow, FlowStep, validate_dag_topology


@dataclass(slots=True)
class Lowered:
    """One step with its place in plan order.

    Attributes:
        index: Position in plan order: level, then declaration.
        step_id: Its id; the position as text in a linear flow.
        label: What messages call it: the id in a DAG, the tool in a linear flow.
        level: Longest path from an entry step.
        needs: Positions of the steps it waits for, ascending.
        definition: The step as its author wrote it.
        primary, fallback: The registered tools, None where there is none.
        fallback_name: What `on_error` names, None when it names no tool.
        parents: Those of `needs` that the author named.
        may_be_passed: A branch before it may lead elsewhere, so that it does not run at all.
        candidates: The tools among which is decided while the flow runs, by name; None where one is missing.
        combiner: The tool that combines the outputs of its chunks.
    """

    index: int
    step_id: str
    label: str
    level: int
    needs: list[int]
    definition: FlowStep
    tool_name: str
    primary: KnownTool | None = None
    fallback: KnownTool | None = None
    fallback_name: str | None = None
    may_be_passed: bool = False
    parents: tuple[int, ...] = ()
    candidates: dict[str, KnownTool | None] = field(default_factory=dict)
    combiner: KnownTool | None = None

    @property
    def takes(self) -> Facts | None:
        """What the step has to be fed with; None when nothing is known."""
        known = self.primary or self.fallback
        return None if known is None else known.takes

    @property
    def callees(self) -> list[KnownTool]:
        """Everything that it may call: the primary, the fallback, the candidates."""
        known = {id(one): one for one in (self.primary, self.fallback, *self.candidates.values()) if one is not None}
        return list(known.values())

    @property
    def branches(self) -> bool:
        """Whether it chooses which of its dependents run."""
        return branches(self.definition)


def lower(flow: Flow | DAGFlow, tools: Catalogue) -> list[Lowered]:
    """The steps of a flow in plan order, with the tools they name.

    Raises:
        DAGDefinitionError: The steps form no DAG.
    """
    steps = _lower_dag(flow) if isinstance(flow, DAGFlow) else _lower_linear(flow)
    for step in steps:
        step.primary = tools.find(step.definition.tool_name)
        step.fallback_name = step.definition.fallback_tool
        step.fallback = tools.find(step.fallback_name)
        step.candidates = {name: tools.find(name) for name in step.definition.decision_candidates or ()}
        if step.definition.chunk is not None:
            _cut(step, step.definition.chunk, tools)
        step.parents = tuple(step.needs)
        step.may_be_passed = bool(step.needs) and not _is_sure(step, steps)
    return steps


def _cut(step: Lowered, chunk: Chunk, tools: Catalogue) -> None:
    """Let a step call its tools once per chunk."""
    step.combiner = combiner = tools.find(chunk.tool_name)
    known = {id(one): in_chunks(one, chunk, combiner) for one in step.callees}
    step.primary = None if step.primary is None else known[id(step.primary)]
    step.fallback = None if step.fallback is None else known[id(step.fallback)]
    step.candidates = {name: None if one is None else known[id(one)] for name, one in step.candidates.items()}


def _is_sure(step: Lowered, steps: list[Lowered]) -> bool:
    """Whether an active edge leads to a step whatever the branches before it choose.

    From a parent that is sure and does not branch; or from the ways out of a sure branching step, when all of them lead
    here, since one of them is taken.
    """
    parents = [steps[need] for need in step.needs]
    if any(not (parent.may_be_passed or parent.branches) for parent in parents):
        return True
    here = {parent.step_id for parent in parents if not parent.branches}
    forks = {need for parent in parents for need in parent.needs if steps[need].branches}
    return any(not steps[fork].may_be_passed and here.issuperset(_ways_out(steps[fork])) for fork in forks)


def _ways_out(step: Lowered) -> list[str]:
    """The dependents among which a branching step chooses."""
    definition = step.definition
    assert isinstance(definition, DAGFlowStep), "only steps of a DAG branch"
    targets = [edge.target_step_id for edge in definition.branches]
    return targets if definition.default_next is None else [*targets, definition.default_next]


def branches(definition: FlowStep) -> bool:
    """Whether the step chooses which of its dependents run."""
    return isinstance(definition, DAGFlowStep) and bool(definition.branches or definition.default_next is not None)


def _lower_linear(flow: Flow) -> list[Lowered]:
    return [
        Lowered(index, str(index), name, index, [index - 1] if index else [], step, name)
        for index, step in enumerate(flow.steps)
        for name in (step.display_name,)
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
            tool_name=step.display_name,
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
