"""The options that several commands share, so that they are spelled and explained once. Decides nothing."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer


class Format(str, Enum):
    """How a command answers."""

    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[Format, typer.Option("--format", help="Text for people, or one JSON document for programs.")]

ToolsOption = Annotated[
    list[str] | None,
    typer.Option("--tools", metavar="MODULE", help="Python file or module that holds tools. May be repeated."),
]

FlowsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--flows", metavar="DIR", help="Directory with flows that steps name, beside that of the file. May be repeated."
    ),
]

HintsOption = Annotated[bool, typer.Option("--hints", help="Also list what would only make the flow faster.")]

TracebackOption = Annotated[bool, typer.Option("--traceback", help="Show where in the code an error came from.")]

InputOption = Annotated[
    str,
    typer.Option(
        "--input", metavar="JSON|@FILE", help="The flow's input: a JSON object, @file to read it, @- for stdin."
    ),
]

InputsOption = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="JSON|@FILE", help="An input; may be repeated. Without it inputs are made up."),
]

SeedOption = Annotated[int, typer.Option("--seed", help="Makes up the same inputs again.")]

LimitsOption = Annotated[
    list[int] | None,
    typer.Option("--limit", min=1, help="How many steps may run at once; may be repeated. 1 and 4 by default."),
]

ParamOption = Annotated[
    list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="Dynamic parameter. May be repeated.")
]

ConcurrencyOption = Annotated[
    int, typer.Option("--concurrency", min=1, help="How many steps may run at the same time.")
]

ApproveOption = Annotated[
    list[str] | None,
    typer.Option("--approve", metavar="TOOL|all", help="Tool that may be called although it requires an approval."),
]

DecideOption = Annotated[
    list[str] | None, typer.Option("--decide", metavar="STEP=TOOL", help="Tool that a deciding step calls.")
]

TraceOption = Annotated[
    str | None, typer.Option("--trace", metavar="FILE", help="Write the result here, however the run ends.")
]

VersionOption = Annotated[str | None, typer.Option("--version", metavar="VERSION", help="Version of the flow.")]
