"""`chainweaver check DIR`: validate every flow file below a directory."""

from __future__ import annotations

from typing import Annotated

import typer

from chainweaver.cli._answer import Answer
from chainweaver.cli._compiling import check_file
from chainweaver.cli._flows import Shelf, check_directory, flow_files
from chainweaver.cli._loading import load_modules, tools_of
from chainweaver.cli._options import FlowsOption, Format, HintsOption, OutputOption, ToolsOption, TracebackOption
from chainweaver.cli.validate import answer_for


def check(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Directory to search.", show_default=False)],
    tools: ToolsOption = None,
    flows: FlowsOption = None,
    hints: HintsOption = False,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """Check every *.flow.yaml, *.flow.yml and *.flow.json below a directory; hidden directories are left out."""
    check_directory(directory)
    modules = load_modules(tools or ())
    given = tools_of(modules) if tools else None
    # Flows of this directory may name each other, wherever in it they are; all of them are read once.
    shelf = Shelf(None, [directory, *(flows or ())], modules)
    return answer_for([check_file(path, given, lambda source: shelf) for path in flow_files(directory)], hints=hints)
