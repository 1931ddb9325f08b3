"""Flows as plain text, for terminals and log files.

A chain is one line of boxes. Anything else is listed by level, each step with what it waits for and where it may lead.
"""

from __future__ import annotations

from collections.abc import Iterator

from chainweaver.flow import DAGFlow, Flow
from chainweaver.viz.drawing import Arrow, Box, Drawing, draw, printable


def flow_to_ascii(flow: Flow | DAGFlow) -> str:
    """The flow as text, without a final line break; a half-written flow is drawn as far as it goes.

    >>> from chainweaver.flow import DAGFlow, DAGFlowStep, Flow, FlowStep
    >>> flow_to_ascii(Flow(name="f", description="", steps=[FlowStep(tool_name="a"), FlowStep(tool_name="b")]))
    '[a] → [b]'
    """
    drawing = draw(flow)
    if not flow.steps:
        return "(no steps)"
    steps = [box for box in drawing.boxes if box.key.startswith("s")]
    if _is_chain(drawing, steps):
        return " → ".join(_label(box) + _fallback(drawing, box) for box in steps)
    return "\n".join(_levels(drawing, steps))


def _is_chain(drawing: Drawing, steps: list[Box]) -> bool:
    chain = [(steps[index].key, steps[index + 1].key) for index in range(len(steps) - 1)]
    plain = [(arrow.start, arrow.end) for arrow in drawing.arrows if not arrow.dashed]
    labelled = any(arrow.label is not None for arrow in drawing.arrows if not arrow.dashed)
    return not labelled and plain == chain


def _levels(drawing: Drawing, steps: list[Box]) -> Iterator[str]:
    names = {box.key: _name(box) for box in drawing.boxes}
    numbers = sorted({box.level for box in steps}, key=lambda level: (level < 0, level))
    titles = {level: f"level {level}" if level >= 0 else "circle" for level in numbers}
    width = max(len(title) for title in titles.values())
    for level in numbers:
        title = titles[level]
        for box in steps:
            if box.level == level:
                waits = [names[arrow.start] for arrow in drawing.arrows if arrow.end == box.key]
                after = f" ← {', '.join(waits)}" if waits else ""
                yield f"{title:<{width}}  {_label(box)}{_fallback(drawing, box)}{after}"
                yield from (f"{'':<{width}}      {line}" for line in _ways_out(drawing, box, names))
                title = ""


def _ways_out(drawing: Drawing, box: Box, names: dict[str, str]) -> Iterator[str]:
    for arrow in drawing.arrows:
        if arrow.start == box.key and not arrow.dashed and arrow.label is not None:
            yield f"{_condition(arrow)} → {names[arrow.end]}"


def _condition(arrow: Arrow) -> str:
    return "else" if arrow.label == "else" else f"if {printable(arrow.label or '')}"


def _fallback(drawing: Drawing, box: Box) -> str:
    stand_ins = {other.key: _name(other) for other in drawing.boxes if other.shape == "fallback"}
    return "".join(
        f" (on error {stand_ins[arrow.end]})" for arrow in drawing.arrows if arrow.dashed and arrow.start == box.key
    )


def _name(box: Box) -> str:
    name = f"[{printable(box.lines[0])}]"
    return f"{name} (missing)" if box.shape == "missing" else name


def _label(box: Box) -> str:
    name, *more = (printable(line) for line in box.lines)
    return f"[{name}: {', '.join(more)}]" if more else f"[{name}]"
