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
    steps = [box for box in drawing.boxes if box.key in drawing.step_keys]
    if not steps:
        return "(no steps)"
    ways = _Ways(drawing)
    if _is_chain(drawing, steps):
        return " → ".join(ways.label(box) for box in steps)
    return "\n".join(_levels(ways, steps))


def _is_chain(drawing: Drawing, steps: list[Box]) -> bool:
    chain = [(steps[index].key, steps[index + 1].key) for index in range(len(steps) - 1)]
    plain = [(arrow.start, arrow.end) for arrow in drawing.arrows if not arrow.dashed]
    labelled = any(arrow.label is not None for arrow in drawing.arrows if not arrow.dashed)
    return not labelled and plain == chain


class _Ways:
    """The arrows of a drawing, by where they start and where they end."""

    def __init__(self, drawing: Drawing) -> None:
        self.names = {box.key: _name(box) for box in drawing.boxes}
        self.into: dict[str, list[Arrow]] = {}
        self.out_of: dict[str, list[Arrow]] = {}
        for arrow in drawing.arrows:
            self.into.setdefault(arrow.end, []).append(arrow)
            self.out_of.setdefault(arrow.start, []).append(arrow)

    def label(self, box: Box) -> str:
        """The box, and what stands in for it."""
        name, *more = (printable(line) for line in box.lines)
        stand_ins = [f" (on error {self.names[arrow.end]})" for arrow in self.out_of.get(box.key, ()) if arrow.dashed]
        return f"[{name}: {', '.join(more)}]{''.join(stand_ins)}" if more else f"[{name}]{''.join(stand_ins)}"

    def waits(self, box: Box) -> str:
        """What the box waits for."""
        before = [self.names[arrow.start] for arrow in self.into.get(box.key, ())]
        return f" ← {', '.join(before)}" if before else ""

    def conditions(self, box: Box) -> Iterator[str]:
        """The labelled ways out of the box."""
        for arrow in self.out_of.get(box.key, ()):
            if arrow.label is not None and not arrow.dashed:
                condition = "else" if arrow.label == "else" else f"if {printable(arrow.label)}"
                yield f"{condition} → {self.names[arrow.end]}"


def _levels(ways: _Ways, steps: list[Box]) -> Iterator[str]:
    by_level: dict[int, list[Box]] = {}
    for box in sorted(steps, key=lambda box: (box.level < 0, box.level)):
        by_level.setdefault(box.level, []).append(box)
    titles = {level: f"level {level}" if level >= 0 else "circle" for level in by_level}
    width = max(len(title) for title in titles.values())
    for level, boxes in by_level.items():
        title = titles[level]
        for box in boxes:
            yield f"{title:<{width}}  {ways.label(box)}{ways.waits(box)}"
            yield from (f"{'':<{width}}      {condition}" for condition in ways.conditions(box))
            title = ""


def _name(box: Box) -> str:
    name = f"[{printable(box.lines[0])}]"
    return f"{name} (missing)" if box.shape == "missing" else name
