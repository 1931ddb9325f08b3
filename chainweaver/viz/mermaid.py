"""Flows and results as Mermaid graphs, for Markdown pages and notebooks.

Names never become identifiers, and every character with a meaning to Mermaid is written as an entity, so a hostile name
is a strange label and nothing more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from chainweaver.flow import DAGFlow, Flow
from chainweaver.viz.drawing import Box, draw, printable

DIRECTIONS = ("LR", "RL", "TB", "TD", "BT")

_SHAPES = {
    "tool": '["{}"]',
    "flow": '[["{}"]]',
    "decision": '{{"{}"}}',
    "capability": '(["{}"])',
    "schema": '[/"{}"/]',
    "fallback": '("{}")',
    "missing": '["{}"]',
}
# Entities, tags, Markdown, directives and line breaks begin with one of these; brackets are safe inside the quotes.
_SPECIAL = re.compile(r"""[#"<&`%\\]""")
_STATUS_STYLES = {
    "ok": "fill:#d7f0dd,stroke:#2e7d42,color:#123",
    "failed": "fill:#f8d3d0,stroke:#b3261e,color:#123",
    "skipped": "fill:#eceff1,stroke:#78909c,color:#123,stroke-dasharray:4 3",
    "cached": "fill:#d6e6fa,stroke:#1f5fa8,color:#123",
    "cancelled": "fill:#fff3d6,stroke:#a87b1f,color:#123",
}
MOST_ITEMS = 12
"""Items of a map that are drawn; the others are counted."""


def flow_to_mermaid(
    flow: Flow | DAGFlow, *, direction: str = "LR", show_schemas: bool = False, tools: Mapping[str, Any] | None = None
) -> str:
    """The flow as a Mermaid graph, without a final line break.

    Args:
        flow: The flow; a half-written one is drawn as far as it goes.
        direction: Where the graph grows to: "LR", "RL", "TB", "TD" or "BT".
        show_schemas: Draw the schemas of the flow's ends, and the fields of the tools that `tools` knows.
        tools: Tool name -> tool, for `show_schemas`.

    Raises:
        ValueError: The direction is none of these.

    >>> from chainweaver.flow import Flow, FlowStep
    >>> print(flow_to_mermaid(Flow(name="f", description="", steps=[FlowStep(tool_name="a"), FlowStep(tool_name="b")])))
    graph LR
        s0["a"]
        s1["b"]
        s0 --> s1
    """
    drawing = draw(flow, show_schemas=show_schemas, tools=tools)
    lines = [_opening(direction)]
    framed = {key for group in drawing.groups for key in group.keys}
    lines += [f"    {_box(box)}" for box in drawing.boxes if box.key not in framed]
    boxes = {box.key: box for box in drawing.boxes}
    for number, group in enumerate(drawing.groups):
        lines.append(f'    subgraph g{number}["{escaped(group.name)}"]')
        lines += [f"        {_box(boxes[key])}" for key in group.keys]
        lines.append("    end")
    for arrow in drawing.arrows:
        line = "-.->" if arrow.dashed else "-->"
        label = f'|"{escaped(arrow.label)}"|' if arrow.label is not None else ""
        lines.append(f"    {arrow.start} {line}{label} {arrow.end}")
    missing = [box.key for box in drawing.boxes if box.shape == "missing"]
    if missing:
        lines.append(f"    classDef missing {_STATUS_STYLES['failed']}")
        lines.append(f"    class {','.join(missing)} missing")
    return "\n".join(lines)


def result_to_mermaid(result: Any, direction: str = "LR") -> str:
    """A result as a Mermaid graph: the steps in plan order, coloured by how they ended; no final line break.

    Green: ok, red: failed, grey: skipped or passed over by a branch, blue: taken from a cache, yellow: cancelled. Each
    box says how long its step took, and where a branch led. The run of a sub-flow is a frame after its step, and so are
    the first items of a map.

    Args:
        result: An `ExecutionResult`, or anything with an `execution_log` of step records.
        direction: Where the graph grows to: "LR", "RL", "TB", "TD" or "BT".

    Raises:
        ValueError: The direction is none of these.
    """
    lines = [_opening(direction)]
    statuses: dict[str, list[str]] = {}
    lines += _records(result, "s", "    ", statuses)
    for status, style in _STATUS_STYLES.items():
        if status in statuses:
            lines.append(f"    classDef {status} {style}")
            lines.append(f"    class {','.join(statuses[status])} {status}")
    return "\n".join(lines)


def _records(result: Any, prefix: str, indent: str, statuses: dict[str, list[str]]) -> Iterator[str]:
    """The steps of a run, one after the other."""
    before: str | None = None
    for position, record in enumerate(result.execution_log):
        key = f"{prefix}{position}"
        yield _record_box(record, key, indent, statuses)
        if before is not None:
            yield f"{indent}{before} --> {key}"
        before = key
        yield from _frame(record, key, indent, statuses)


def _record_box(record: Any, key: str, indent: str, statuses: dict[str, list[str]]) -> str:
    status = _status(record)
    statuses.setdefault(status, []).append(key)
    label = "<br/>".join(escaped(line) for line in _record_lines(record, status))
    return f'{indent}{key}["{label}"]'


def _frame(record: Any, key: str, indent: str, statuses: dict[str, list[str]]) -> Iterator[str]:
    """What happened inside a step: the run of a sub-flow, or the items of a map, which have no order."""
    child = getattr(record, "sub_result", None)
    if child is None:
        return
    inside = f"{indent}    "
    # The run of the items has the name of the flow that they are in; the step of a sub-flow has that of the sub-flow.
    is_map = getattr(record, "flow_name", child.flow_name) is None
    count = len(child.execution_log)
    title = ("1 item" if count == 1 else f"{count} items") if is_map else str(child.flow_name)
    yield f'{indent}subgraph {key}r["{escaped(title)}"]'
    if is_map:
        for position, item in enumerate(child.execution_log[:MOST_ITEMS]):
            yield _record_box(item, f"{key}x{position}", inside, statuses)
            yield from _frame(item, f"{key}x{position}", inside, statuses)
        if count > MOST_ITEMS:
            yield f'{inside}{key}more["{count - MOST_ITEMS} more"]'
    else:
        yield from _records(child, f"{key}x", inside, statuses)
    yield f"{indent}end"
    yield f"{indent}{key} -.-> {key}r"


def _record_lines(record: Any, status: str) -> Iterator[str]:
    step_id = getattr(record, "step_id", None)
    yield str(step_id or record.tool_name)
    if step_id and step_id != record.tool_name:
        yield str(record.tool_name)
    if status == "skipped":
        yield "passed over" if record.success and getattr(record, "status", None) == "skipped" else status
        return
    yield f"{status}, {record.duration_ms:.1f} ms"
    decision = getattr(record, "decision", None)
    if isinstance(decision, Mapping):
        if decision.get("chosen"):
            yield f"chose {decision['chosen']}"
        if decision.get("taken"):
            yield f"to {decision['taken']}"


def _status(record: Any) -> str:
    if getattr(record, "skipped", False):
        return "skipped"
    if getattr(record, "status", None) == "cancelled":
        return "cancelled"
    if not record.success:
        return "failed"
    return "cached" if getattr(record, "cached", False) else "ok"


def _opening(direction: str) -> str:
    if direction not in DIRECTIONS:
        raise ValueError(f"Direction {direction!r} is not known to Mermaid.\n  known   {', '.join(DIRECTIONS)}")
    return f"graph {direction}"


def _box(box: Box) -> str:
    return box.key + _SHAPES[box.shape].format("<br/>".join(escaped(line) for line in box.lines))


def escaped(text: str) -> str:
    """The text as Mermaid shows it letter by letter inside double quotes.

    >>> escaped('a"b')
    'a#34;b'
    """
    return _SPECIAL.sub(lambda found: f"#{ord(found.group())};", printable(text))
