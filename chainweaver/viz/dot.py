"""Flows as Graphviz graphs.

Nothing but text is made here; rendering it is up to `dot` or whatever reads the language.

Source: the DOT language, https://graphviz.org/doc/info/lang.html (strings, escapes and entities in labels).
"""

from __future__ import annotations

from chainweaver.flow import DAGFlow, Flow
from chainweaver.viz.drawing import Box, draw, printable

_SHAPES = {
    "tool": "shape=box",
    "flow": "shape=box, peripheries=2",
    "decision": "shape=diamond",
    "capability": "shape=ellipse",
    "schema": "shape=note",
    "fallback": "shape=box, style=rounded",
    "missing": "shape=box, style=dashed, color=red",
}


def flow_to_dot(flow: Flow | DAGFlow) -> str:
    """The flow as a Graphviz graph, without a final line break; a half-written flow is drawn as far as it goes.

    >>> from chainweaver.flow import Flow, FlowStep
    >>> print(flow_to_dot(Flow(name="f", description="", steps=[FlowStep(tool_name="a")])))
    digraph "f" {
        rankdir=LR;
        s0 [label="a", shape=box];
    }
    """
    drawing = draw(flow)
    lines = [f'digraph "{escaped(drawing.name)}" {{', "    rankdir=LR;"]
    lines += [f"    {_box(box)}" for box in drawing.boxes]
    for number, group in enumerate(drawing.groups):
        keys = " ".join(f"{key};" for key in group.keys)
        lines.append(f'    subgraph cluster_{number} {{ label="{escaped(group.name)}"; {keys} }}')
    for arrow in drawing.arrows:
        looks = []
        if arrow.label is not None:
            looks.append(f'label="{escaped(arrow.label)}"')
        if arrow.dashed:
            looks.append("style=dashed")
        attributes = f" [{', '.join(looks)}]" if looks else ""
        lines.append(f"    {arrow.start} -> {arrow.end}{attributes};")
    return "\n".join([*lines, "}"])


def _box(box: Box) -> str:
    label = "\\n".join(escaped(line) for line in box.lines)
    return f'{box.key} [label="{label}", {_SHAPES[box.shape]}];'


def escaped(text: str) -> str:
    """The text as Graphviz shows it letter by letter inside double quotes."""
    return printable(text).replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
