"""`chainweaver viz FILE`: draw a flow as text, as a Mermaid graph or for Graphviz. Needs no tools."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from chainweaver.cli._answer import Answer
from chainweaver.cli._loading import read_file
from chainweaver.cli._options import Format, OutputOption, TracebackOption
from chainweaver.viz import flow_to_ascii, flow_to_dot, flow_to_mermaid


class Drawing(str, Enum):
    """What a flow is drawn as."""

    ASCII = "ascii"
    MERMAID = "mermaid"
    DOT = "dot"


_DRAW = {Drawing.ASCII: flow_to_ascii, Drawing.MERMAID: flow_to_mermaid, Drawing.DOT: flow_to_dot}


def viz(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Flow file.", show_default=False)],
    drawing: Annotated[Drawing, typer.Option("--format-out", help="What to draw it as.")] = Drawing.ASCII,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """Draw a flow."""
    drawn = _DRAW[drawing](read_file(file).flow)
    return Answer(data={"drawing": drawing.value, "text": drawn}, text=lambda screen: screen.verbatim(drawn))
