"""A flow as boxes and arrows, before anybody decides how to write them down.

`mermaid`, `dot` and `ascii` all draw from this, so that branches, sub-flows, maps, fallbacks and half-written flows are
understood in one place. Half-written is fine: a dependency that does not exist becomes a box of its own, steps in a
circle get the last level. Knows no output syntax.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from chainweaver.flow import DAGFlow, DAGFlowStep, Flow, FlowStep

Shape = Literal["tool", "flow", "decision", "capability", "schema", "fallback", "missing"]


@dataclass(frozen=True)
class Box:
    """Something with a name: a step, a stand-in, a schema, or a step that is named but missing.

    Attributes:
        key: Identifier within the drawing, made of letters and digits only: "s0", "f2".
        lines: What is written in it, from top to bottom; the first line is its name. Not escaped.
        shape: What kind of thing it is.
        level: Longest path from an entry step, from 0; only steps that are part of a circle have -1.
    """

    key: str
    lines: tuple[str, ...]
    shape: Shape
    level: int = 0


@dataclass(frozen=True)
class Arrow:
    """A way from one box to another; dashed ones are taken only after a failure."""

    start: str
    end: str
    label: str | None = None
    dashed: bool = False


@dataclass(frozen=True)
class Group:
    """Boxes that belong together."""

    name: str
    keys: tuple[str, ...]


@dataclass
class Drawing:
    """The boxes in the order of the definition, the arrows in the order of their starts and ends."""

    name: str
    boxes: list[Box] = field(default_factory=list)
    arrows: list[Arrow] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    step_keys: frozenset[str] = frozenset()


def draw(flow: Flow | DAGFlow, *, show_schemas: bool = False, tools: Mapping[str, Any] | None = None) -> Drawing:
    """The drawing of a flow; equal flows give equal drawings.

    Args:
        flow: The flow, which need not be complete.
        show_schemas: Draw the schemas of the flow's ends, and the fields of the tools that `tools` knows.
        tools: Tool name -> tool with `input_schema` and `output_schema`.
    """
    drawing = Drawing(flow.name, step_keys=frozenset(step_key(index) for index in range(len(flow.steps))))
    known = tools or {}

    def fields(step: FlowStep) -> tuple[str, ...]:
        tool = known.get(step.tool_name or "")
        return _field_lines(tool) if show_schemas and tool is not None else ()

    if isinstance(flow, DAGFlow):
        _draw_dag(flow, drawing, fields)
    else:
        _draw_chain(flow, drawing, fields)
    _draw_fallbacks(flow, drawing)
    if show_schemas:
        _draw_ends(flow, drawing)
    drawing.groups = list(_groups(flow))
    return drawing


_Fields = Callable[[FlowStep], tuple[str, ...]]


def step_key(index: int) -> str:
    """The key of the box of a step."""
    return f"s{index}"


def _draw_chain(flow: Flow, drawing: Drawing, fields: _Fields) -> None:
    for index, step in enumerate(flow.steps):
        drawing.boxes.append(Box(step_key(index), (*_labels(step), *fields(step)), _shape(step), index))
        if index:
            drawing.arrows.append(Arrow(step_key(index - 1), step_key(index)))


def _draw_dag(flow: DAGFlow, drawing: Drawing, fields: _Fields) -> None:
    keys: dict[str, str] = {}
    for index, step in enumerate(flow.steps):
        # Of two steps with one id, the arrows lead to the first.
        keys.setdefault(step.step_id, step_key(index))
    levels = step_levels(flow)
    for index, step in enumerate(flow.steps):
        drawing.boxes.append(Box(step_key(index), (*_labels(step), *fields(step)), _shape(step), levels[index]))
    missing = dict.fromkeys(name for step in flow.steps for name in _named_steps(step) if name not in keys)
    for number, name in enumerate(missing):
        keys[name] = f"m{number}"
        drawing.boxes.append(Box(keys[name], (name, "missing"), "missing"))
    drawing.arrows += _dag_arrows(flow, keys)


def _dag_arrows(flow: DAGFlow, keys: Mapping[str, str]) -> Iterator[Arrow]:
    branching: list[Arrow] = []
    for index, step in enumerate(flow.steps):
        for edge in step.branches:
            branching.append(Arrow(step_key(index), keys[edge.target_step_id], edge.predicate))
        if step.default_next is not None:
            branching.append(Arrow(step_key(index), keys[step.default_next], "else"))
    labelled = {(arrow.start, arrow.end) for arrow in branching}
    plain = [
        Arrow(keys[before], step_key(index))
        for index, step in enumerate(flow.steps)
        for before in dict.fromkeys(step.depends_on)
        if (keys[before], step_key(index)) not in labelled
    ]
    order = {step_key(index): index for index in range(len(flow.steps))}
    yield from sorted(plain + branching, key=lambda arrow: order.get(arrow.start, -1))


def _draw_fallbacks(flow: Flow | DAGFlow, drawing: Drawing) -> None:
    for index, step in enumerate(flow.steps):
        if step.fallback_tool is not None:
            drawing.boxes.append(Box(f"f{index}", (step.fallback_tool,), "fallback"))
            drawing.arrows.append(Arrow(step_key(index), f"f{index}", "on error", dashed=True))


def _draw_ends(flow: Flow | DAGFlow, drawing: Drawing) -> None:
    plain = [arrow for arrow in drawing.arrows if not arrow.dashed]
    entered, left = {arrow.end for arrow in plain}, {arrow.start for arrow in plain}
    boxes = [box.key for box in drawing.boxes if box.key in drawing.step_keys]
    if flow.input_schema_ref:
        drawing.boxes.append(Box("input", (_class_name(flow.input_schema_ref), "input"), "schema"))
        drawing.arrows += [Arrow("input", key) for key in boxes if key not in entered]
    if flow.output_schema_ref:
        drawing.boxes.append(Box("output", (_class_name(flow.output_schema_ref), "output"), "schema"))
        drawing.arrows += [Arrow(key, "output") for key in boxes if key not in left]


def _groups(flow: Flow | DAGFlow) -> Iterator[Group]:
    taken: set[str] = set()
    for name, members in flow.groups.items():
        wanted = set(members)
        keys = []
        for index, step in enumerate(flow.steps):
            names = {step.display_name, getattr(step, "step_id", step.display_name)}
            # A box can stand in one frame only; the first group has it.
            if names & wanted and step_key(index) not in taken:
                keys.append(step_key(index))
        taken.update(keys)
        if keys:
            yield Group(name, tuple(keys))


def step_levels(flow: DAGFlow) -> list[int]:
    """Level of each step, in the order of definition; -1 for steps in a circle and all that depends on one."""
    first = {step.step_id: index for index, step in reversed(list(enumerate(flow.steps)))}
    waiting_for = [{first[name] for name in step.depends_on if name in first} for step in flow.steps]
    dependents: list[list[int]] = [[] for _ in flow.steps]
    for index, before in enumerate(waiting_for):
        for one in before:
            dependents[one].append(index)
    levels = [-1] * len(flow.steps)
    ready, level = [index for index, before in enumerate(waiting_for) if not before], 0
    while ready:
        following = []
        for index in ready:
            levels[index] = level
            for dependent in dependents[index]:
                waiting_for[dependent].discard(index)
                if not waiting_for[dependent]:
                    following.append(dependent)
        ready, level = following, level + 1
    return levels


def _named_steps(step: DAGFlowStep) -> Iterator[str]:
    yield from step.depends_on
    yield from (edge.target_step_id for edge in step.branches)
    if step.default_next is not None:
        yield step.default_next


def _shape(step: FlowStep) -> Shape:
    if step.decision_candidates:
        return "decision"
    if step.flow_name is not None:
        return "flow"
    return "tool" if step.tool_name is not None else "capability"


def _labels(step: FlowStep) -> Iterator[str]:
    name = getattr(step, "step_id", step.display_name)
    yield name
    if step.flow_name is not None:
        own_name = "" if step.flow_name == name else f" {step.flow_name}"
        yield f"flow{own_name} {step.flow_version}" if step.flow_version else f"flow{own_name}"
    elif step.display_name != name:
        yield step.display_name
    if step.decision_candidates:
        yield f"one of {', '.join(step.decision_candidates)}"
    if isinstance(step, DAGFlowStep) and step.capability_id is not None:
        yield f"capability {step.capability_id}"
    if step.map_over is not None:
        yield f"for each {step.map_as} in {step.map_over}"
    if step.chunk is not None:
        yield step.chunk.words


def _field_lines(tool: Any) -> tuple[str, ...]:
    return (f"in {_fields_of(tool.input_schema)}", f"out {_fields_of(tool.output_schema)}")


def _fields_of(model: Any) -> str:
    return ", ".join(f"{name}: {_type_name(info.annotation)}" for name, info in model.model_fields.items()) or "nothing"


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if type(annotation) is type else str(annotation).replace("typing.", "")


def _class_name(ref: str) -> str:
    return ref.partition(":")[2]


def printable(text: str) -> str:
    """The text on one line; whatever would move the cursor or turn the direction of writing is spelled out.

    >>> printable("a" + chr(10) + "b")
    'a\\\\nb'
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
