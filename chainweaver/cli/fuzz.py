"""`chainweaver fuzz FILE|NAME`: make up inputs for a flow, and look for those with which it misbehaves."""

from __future__ import annotations

from typing import Annotated

import typer

from chainweaver.cli._answer import FAILED, OK, Answer, Fault
from chainweaver.cli._compiling import compile_faults
from chainweaver.cli._loading import read_params
from chainweaver.cli._options import (
    ApproveOption,
    DecideOption,
    FlowsOption,
    Format,
    LimitsOption,
    OutputOption,
    ParamOption,
    SeedOption,
    ToolsOption,
    TracebackOption,
    VersionOption,
)
from chainweaver.cli._ready import make_ready
from chainweaver.cli._screen import Screen, counted, shown_value
from chainweaver.cli.attest import executor_for
from chainweaver.exceptions import CommandLineError, VerificationError
from chainweaver.testing import FlowFuzzer, FuzzReport


def fuzz(
    source: Annotated[
        str, typer.Argument(metavar="FILE|NAME", help="Flow file, or name of a flow.", show_default=False)
    ],
    examples: Annotated[int, typer.Option(min=1, help="How many inputs are tried.")] = 100,
    seed: SeedOption = 0,
    limits: LimitsOption = None,
    no_failures: Annotated[
        bool, typer.Option("--no-failures", help="Take runs that fail for findings as well.")
    ] = False,
    tools: ToolsOption = None,
    flows: FlowsOption = None,
    param: ParamOption = None,
    version: VersionOption = None,
    approve: ApproveOption = None,
    decide: DecideOption = None,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """Look for inputs with which a flow crashes, gives something else the next time, or breaks its output schema.

    Its tools are really called, several times for each input. The exit status is 1 when something is found.
    """
    ready = make_ready(source, tools, version, flows)
    faults = compile_faults(ready.source, ready.tools, ready.flows)
    if faults:
        return Answer(data=None, faults=faults, exit_code=FAILED)
    params = read_params(param or (), ready.source.flow)
    fuzzer = FlowFuzzer(
        executor_for(ready, approve, decide),
        ready.source.flow,
        limits=limits or (1, 4),
        allow_failures=not no_failures,
        dynamic_params=params or None,
    )
    try:
        report = fuzzer.run(max_examples=examples, seed=seed)
    except TypeError as exc:  # there is too little to make inputs of
        raise CommandLineError(str(exc), invalid=True, fix="give the flow an input schema") from exc
    what = f"Flow '{report.flow_name}' {report.flow_version}"
    faults = [
        Fault.of(VerificationError(what, f"{one.kind}: {one.detail}", where=ready.source.name))
        for one in report.findings
    ]
    return Answer(
        data=report.model_dump(mode="json"),
        faults=faults,
        exit_code=FAILED if faults else OK,
        text=lambda screen: _show(screen, report),
    )


def _show(screen: Screen, report: FuzzReport) -> None:
    for finding in report.findings:
        screen.line((finding.kind, "bold red"), f"  {finding.detail}")
        screen.line(("  with input  ", "dim"), shown_value(finding.input))
        screen.line(("  seen on     ", "dim"), finding.way)
        screen.line()
    found = counted(len(report.findings), "finding") if report.findings else "nothing found"
    tried = f"{counted(report.examples, 'input')}, {counted(report.runs, 'run')}, seed {report.seed}"
    screen.line(f"{report.flow_name} {report.flow_version}: {found} in {tried}")
