"""`chainweaver diff A.json B.json`: what two traces do not have in common, the first difference first."""

from __future__ import annotations

from typing import Annotated

import typer

from chainweaver.cli._answer import FAILED, OK, Answer, Fault
from chainweaver.cli._comparing import difference_data, show_differences
from chainweaver.cli._options import Format, OutputOption, TracebackOption
from chainweaver.cli._screen import Screen, counted
from chainweaver.cli._traces import read_trace
from chainweaver.exceptions import VerificationError
from chainweaver.executor.differences import compared
from chainweaver.results import ExecutionResult


def diff(
    expected: Annotated[str, typer.Argument(metavar="A", help="Trace of a run.", show_default=False)],
    actual: Annotated[str, typer.Argument(metavar="B", help="Trace of another run.", show_default=False)],
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """Compare two traces step by step: inputs, decisions, status, errors, outputs. Times and ids may differ.

    The exit status is 1 when they differ.
    """
    before, after = read_trace(expected), read_trace(actual)
    comparison = compared(before, after)
    diffs = comparison.diffs
    faults = []
    if diffs:
        more = f" ({len(diffs) - 1} more)" if diffs[1:] else ""
        faults.append(Fault.of(VerificationError(f"'{expected}' and '{actual}' differ", f"{diffs[0]}{more}")))

    def text(screen: Screen) -> None:
        for path, result in ((expected, before), (actual, after)):
            screen.line((path, "bold"), f"  {_about(result)}")
        show_differences(screen, diffs, comparison.not_compared, (expected, actual))
        screen.line()
        screen.line(counted(len(diffs), "difference") if diffs else "the same")

    return Answer(
        data={
            "same": not diffs,
            "first": difference_data(diffs[0]) if diffs else None,
            "differences": [difference_data(one) for one in diffs],
            "not_compared": comparison.not_compared,
        },
        faults=faults,
        exit_code=FAILED if diffs else OK,
        text=text,
    )


def _about(result: ExecutionResult) -> str:
    steps = counted(len(result.execution_log), "step")
    return f"{result.flow_name} {result.flow_version}: {result.status}, {steps}, run {result.trace_id}"
