"""`chainweaver check DIR`: validate every flow file below a directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated

import typer

from chainweaver.cli._answer import Answer
from chainweaver.cli._compiling import check_file
from chainweaver.cli._loading import FLOW_SUFFIXES, load_modules, tools_of
from chainweaver.cli._options import Format, HintsOption, OutputOption, ToolsOption, TracebackOption
from chainweaver.cli.validate import answer_for
from chainweaver.exceptions import CommandLineError


def check(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Directory to search.", show_default=False)],
    tools: ToolsOption = None,
    hints: HintsOption = False,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """Check every *.flow.yaml, *.flow.yml and *.flow.json below a directory; hidden directories are left out."""
    if not os.path.isdir(directory):
        what = "is no directory" if os.path.exists(directory) else "does not exist"
        raise CommandLineError(f"Directory '{directory}' {what}", missing=not os.path.exists(directory))
    given = tools_of(load_modules(tools)) if tools else None
    return answer_for([check_file(path, given) for path in _flow_files(directory)], hints=hints)


def _flow_files(directory: str) -> Iterator[str]:
    for folder, inside, names in os.walk(directory):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        yield from (os.path.join(folder, name) for name in sorted(names) if name.endswith(FLOW_SUFFIXES))
