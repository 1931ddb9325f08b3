"""`chainweaver validate FILE...`: read flow files, compile them where tools are given, tell all that is wrong."""

from __future__ import annotations

from typing import Annotated

import typer

from chainweaver.cli._answer import Answer
from chainweaver.cli._compiling import Checked, check_file, summary
from chainweaver.cli._flows import shelf_for
from chainweaver.cli._loading import load_modules, tools_of
from chainweaver.cli._options import FlowsOption, Format, HintsOption, OutputOption, ToolsOption, TracebackOption
from chainweaver.cli._screen import Screen


def validate(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Flow files.", show_default=False)],
    tools: ToolsOption = None,
    flows: FlowsOption = None,
    hints: HintsOption = False,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """Check flow files: their form, and with --tools also that everything fits together."""
    modules = load_modules(tools or ())
    given = tools_of(modules) if tools else None
    checked = [check_file(file, given, lambda source: shelf_for(source, flows, modules)) for file in files]
    return answer_for(checked, hints=hints)


def answer_for(checked: list[Checked], *, hints: bool) -> Answer:
    """The answer for files that were checked."""

    def text(screen: Screen) -> None:
        for one in checked:
            one.show(screen, hints=hints)
        screen.line(summary(checked, hints=hints))

    return Answer(
        data={"files": [one.as_dict() for one in checked]},
        faults=[fault for one in checked for fault in one.faults],
        exit_code=max((one.exit_code for one in checked), default=0),
        text=text,
    )
