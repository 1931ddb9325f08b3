"""`chainweaver attest FILE|NAME`: run a flow again and again in several ways, and say whether it gives the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from chainweaver.cli._answer import FAILED, OK, Answer, Fault
from chainweaver.cli._asking import Approvals, Decisions
from chainweaver.cli._compiling import compile_faults
from chainweaver.cli._loading import read_input, read_params
from chainweaver.cli._options import (
    ApproveOption,
    DecideOption,
    FlowsOption,
    Format,
    InputsOption,
    LimitsOption,
    OutputOption,
    ParamOption,
    SeedOption,
    ToolsOption,
    TracebackOption,
    VersionOption,
)
from chainweaver.cli._ready import Ready, make_ready
from chainweaver.cli._screen import Screen, counted
from chainweaver.exceptions import CommandLineError, VerificationError
from chainweaver.executor import FlowExecutor
from chainweaver.objects.files import write_whole
from chainweaver.testing import Attestation, attest_flow


def attest(
    source: Annotated[
        str, typer.Argument(metavar="FILE|NAME", help="Flow file, or name of a flow.", show_default=False)
    ],
    given: InputsOption = None,
    examples: Annotated[int, typer.Option(min=1, help="How many inputs are made up where none is given.")] = 10,
    runs: Annotated[int, typer.Option(min=1, help="How often each input is run in each way.")] = 2,
    limits: LimitsOption = None,
    seed: SeedOption = 0,
    tools: ToolsOption = None,
    flows: FlowsOption = None,
    param: ParamOption = None,
    version: VersionOption = None,
    approve: ApproveOption = None,
    decide: DecideOption = None,
    out: Annotated[str | None, typer.Option("--out", metavar="FILE", help="Write the attestation here.")] = None,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """Check that a flow gives the same again, on every lane and at every limit.

    Its tools are really called, --runs times for each input, lane and limit. The exit status is 1 when runs differ, and
    when every run failed.
    """
    inputs = [read_input(one) for one in given] if given else examples
    ready = make_ready(source, tools, version, flows)
    faults = compile_faults(ready.source, ready.tools, ready.flows)
    if faults:
        return Answer(data=None, faults=faults, exit_code=FAILED)
    params = read_params(param or (), ready.source.flow)
    executor = executor_for(ready, approve, decide)
    try:
        attestation = attest_flow(
            ready.source.flow,
            executor,
            inputs,
            runs=runs,
            limits=limits or (1, 4),
            seed=seed,
            dynamic_params=params or None,
        )
    except (TypeError, ValueError) as exc:  # there is too little to make inputs of, or too few runs to compare
        raise CommandLineError(str(exc), invalid=True, fix=None if given else "give inputs with --input") from exc
    if out is not None:
        _write(attestation, out)
    what = f"Flow '{attestation.flow_name}' {attestation.flow_version}"
    if not attestation.holds:
        error = VerificationError(f"{what} is not deterministic", attestation.difference or "", where=ready.source.name)
        faults = [Fault.of(error)]
    elif attestation.failed_inputs == attestation.input_count:
        detail = f"every run failed, the first with: {attestation.first_failure}"
        faults = [Fault.of(VerificationError(what, detail, where=ready.source.name))]
    return Answer(
        data=attestation.model_dump(mode="json"),
        faults=faults,
        exit_code=FAILED if faults else OK,
        text=lambda screen: _show(screen, attestation),
    )


def executor_for(ready: Ready, approve: list[str] | None, decide: list[str] | None) -> FlowExecutor:
    """An executor for flows that are run many times; who answers is said beforehand."""
    return FlowExecutor(
        tools=ready.tools.values(),
        flows=ready.flows,
        approval_callback=Approvals(approve or (), ready.tools),
        decision_callback=Decisions(decide or (), ready.flows),
    )


def _write(attestation: Attestation, path: str) -> None:
    try:
        write_whole(Path(path), attestation.model_dump_json(indent=2).encode("utf-8") + b"\n", fsync=False)
    except OSError as exc:
        raise CommandLineError(f"Attestation cannot be written to '{path}': {exc.strerror}") from exc


def _show(screen: Screen, attestation: Attestation) -> None:
    name = f"{attestation.flow_name} {attestation.flow_version}"
    style = "green" if attestation.holds else "bold red"
    failed = ", every run failed" if attestation.failed_inputs == attestation.input_count else ""
    screen.line((name, "bold"), ": ", (attestation.verdict, style), failed)
    told: dict[str, Any] = {
        "inputs": f"{attestation.input_count}, digest {attestation.inputs_digest}",
        "runs": f"{attestation.runs}: {', '.join(attestation.ways)}",
        **_failures(attestation),
        "definition": attestation.definition_digest,
        "results": attestation.result_digest,
        "tools": counted(len(attestation.tool_schema_hashes), "tool"),
        "by": ", ".join(f"{name} {version}" for name, version in attestation.environment.items()),
    }
    screen.line()
    screen.pairs(told)


def _failures(attestation: Attestation) -> dict[str, str]:
    if not attestation.failed_inputs:
        return {}
    failed = f"{attestation.failed_inputs} of {counted(attestation.input_count, 'input')}"
    return {"failed": f"{failed}, the first with: {attestation.first_failure}"}
