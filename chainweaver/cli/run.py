"""`chainweaver run FILE|NAME`: run a flow, show its steps as they end, then what it found and how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from chainweaver.checkpoint import FileCheckpointer
from chainweaver.cli._answer import FAILED, INTERRUPTED, OK, Answer, Fault, exit_code_of
from chainweaver.cli._compiling import found_in
from chainweaver.cli._loading import Source, read_input, read_params
from chainweaver.cli._options import Format, InputOption, OutputOption, ToolsOption, TracebackOption, VersionOption
from chainweaver.cli._progress import note_of, step_lines
from chainweaver.cli._ready import Ready, make_ready
from chainweaver.cli._screen import Screen, counted, shown_time
from chainweaver.compiler import compile_flow
from chainweaver.exceptions import ChainWeaverError, CommandLineError, FlowCancelledError, FlowCompileError, ToolError
from chainweaver.executor import FlowExecutor
from chainweaver.results import ExecutionResult

MOST_ROWS = 50
MOST_COLUMNS = 8
"""What a table of outputs shows; `--format json` has everything."""


@dataclass(slots=True)
class Outcome:
    """What became of a run.

    Attributes:
        result: The result, as far as the run came; None when nothing was started.
        error: What it failed with.
    """

    result: ExecutionResult | None = None
    error: ChainWeaverError | None = None
    interrupted: bool = False


def run(
    source: Annotated[
        str, typer.Argument(metavar="FILE|NAME", help="Flow file, or name of a flow.", show_default=False)
    ],
    given: InputOption = "{}",
    tools: ToolsOption = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="Dynamic parameter. May be repeated.")
    ] = None,
    version: VersionOption = None,
    concurrency: Annotated[int, typer.Option(min=1, help="How many steps may run at the same time.")] = 1,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="DIR", help="Keep every finished step here, so that a run can be resumed.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run it although its status is not active.")] = False,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """Run a flow.

    Its tools come from the modules named with --tools, else from the Python file beside the flow file: audit.py for
    audit.flow.yaml.
    """
    values = read_input(given)
    ready = make_ready(source, tools, version)
    params = read_params(param or (), ready.source.flow)
    checkpointer = None if checkpoint is None else _checkpointer(checkpoint)
    faults = _compile_faults(ready)
    if faults:
        return Answer(data={"tools": sorted(ready.tools)}, faults=faults, exit_code=FAILED)
    screen = Screen() if output is Format.TEXT else None
    if screen is not None:
        flow = ready.source.flow
        screen.line((f"{flow.name} {flow.version}", "bold"), f", {counted(len(flow.steps), 'step')}, {ready.loaded()}")
    executor = FlowExecutor(
        tools=ready.tools.values(),
        flows=[ready.source.flow],
        max_step_concurrency=concurrency,
        checkpointer=checkpointer,
    )
    outcome = _outcome(executor, ready.source, values, params, force, screen)
    if outcome.error is not None:
        _place(outcome.error, ready.source, outcome.result, hint=not traceback)
    return _answer(ready, outcome, checkpoint)


def _checkpointer(directory: str) -> FileCheckpointer:
    try:
        return FileCheckpointer(directory)
    except OSError as exc:
        raise CommandLineError(f"Checkpoints cannot be kept in '{directory}': {exc.strerror}") from exc


def _compile_faults(ready: Ready) -> list[Fault]:
    """All compile errors; half a run would tell one of them only."""
    try:
        compiled = compile_flow(ready.source.flow, ready.tools)
    except ChainWeaverError as exc:
        exc.with_facts(where=ready.source.name)
        raise
    code = f"CW-{FlowCompileError.code}"
    return [Fault(code, str(finding)) for finding in found_in(ready.source, compiled, compiled.errors)]


def _outcome(
    executor: FlowExecutor,
    source: Source,
    values: Mapping[str, Any],
    params: Mapping[str, Any],
    force: bool,
    screen: Screen | None,
) -> Outcome:
    """Run the flow to its end, however it ends."""
    flow = source.flow
    outcome = Outcome()
    with executor, step_lines(screen) as kept:
        executor.add_middleware(kept)
        try:
            result = executor.execute_flow(
                flow.name, values, version=flow.version, force=force, dynamic_params=dict(params) or None
            )
            result.raise_for_failure()
        except ChainWeaverError as exc:
            outcome.error = exc
        except KeyboardInterrupt:
            outcome.interrupted = True
        except SystemExit as exc:
            outcome.error = CommandLineError(
                f"A tool ended the program: SystemExit: {exc}", fix="raise an exception where it calls sys.exit()"
            )
            outcome.error.__cause__ = exc
    outcome.result = kept.result
    return outcome


def _place(error: ChainWeaverError, source: Source, result: ExecutionResult | None, *, hint: bool) -> None:
    """Tell an error which step of which file it is about, and how to learn more."""
    failed = None
    if result is not None:
        failed = next((record for record in result.execution_log if record.status == "failed"), None)
    where = f"flow '{source.flow.name}' {source.flow.version}"
    if failed is not None and failed.step_id is not None:
        where += f", step '{failed.step_id}'"
        error.with_facts(where=f"{where} ({source.place(failed.step_id)})")
    else:
        error.with_facts(where=f"{where} ({source.name})")
    if hint and isinstance(error, ToolError) and error.__cause__ is not None:
        error.with_facts(fix="--traceback shows where in the tool it was raised")


# ---- the answer


def _answer(ready: Ready, outcome: Outcome, checkpoint: str | None) -> Answer:
    result = outcome.result
    faults: list[Fault] = []
    exit_code = OK
    if outcome.interrupted:
        faults.append(Fault(f"CW-{FlowCancelledError.code}", "Interrupted."))
        exit_code = INTERRUPTED
    elif outcome.error is not None:
        faults.append(Fault.of(outcome.error))
        exit_code = exit_code_of(outcome.error)
    return Answer(
        data=None if result is None else _data(ready, result),
        faults=faults,
        exit_code=exit_code,
        text=None if result is None else lambda screen: _show(screen, result, len(ready.source.flow.steps), checkpoint),
        error=outcome.error,
    )


def _data(ready: Ready, result: ExecutionResult) -> dict[str, Any]:
    return {
        "flow": result.flow_name,
        "version": result.flow_version,
        "source": ready.source.name,
        "tools": {module.name: [tool.name for tool in module.tools] for module in ready.modules},
        "run": result.trace_id,
        "status": result.status,
        "duration_ms": result.total_duration_ms,
        "steps": [
            {
                "step": record.step_id,
                "tool": record.tool_name,
                "status": record.status,
                "duration_ms": record.duration_ms,
                "retries": record.retry_count,
                "cached": record.cached,
                "fallback": record.fallback_tool_name,
                "error": record.error_message,
            }
            for record in result.execution_log
        ],
        "output": result.final_output,
    }


def _show(screen: Screen, result: ExecutionResult, steps: int, checkpoint: str | None) -> None:
    output = result.final_output or {}
    tables = {name: rows for name, value in output.items() if (rows := rows_of(value))}
    for name, rows in tables.items():
        columns = list(rows[0])
        numbers = [column for column in columns if all(_is_number(row[column]) for row in rows)]
        screen.table(name, columns, [list(row.values()) for row in rows[:MOST_ROWS]], right=numbers)
        if len(rows) > MOST_ROWS:
            screen.line((f"... and {len(rows) - MOST_ROWS} more rows", "dim"))
    _show_times(screen, result)
    rest = {name: value for name, value in output.items() if name not in tables}
    if rest:
        screen.line()
        screen.pairs(rest)
    screen.line()
    if checkpoint is not None and not result.success:
        screen.line(f"run {result.trace_id} is kept in {checkpoint}")
    screen.line(closing_line(result, steps))


def _show_times(screen: Screen, result: ExecutionResult) -> None:
    whole = sum(record.duration_ms for record in result.execution_log) or 1.0
    rows = [
        (
            record.step_id or "",
            record.tool_name,
            record.status,
            shown_time(record.duration_ms),
            f"{100 * record.duration_ms / whole:.0f} %",
            note_of(record),
        )
        for record in result.execution_log
    ]
    columns = ("step", "tool", "status", "time", "share", "note")
    kept = columns if any(row[-1] for row in rows) else columns[:-1]
    screen.table("time per step", kept, [row[: len(kept)] for row in rows], right=("time", "share"))


def closing_line(result: ExecutionResult, steps: int) -> str:
    """What became of the run, in one line."""
    took = shown_time(result.total_duration_ms)
    name = f"{result.flow_name} {result.flow_version}: {result.status}"
    if result.success:
        return f"{name}, {counted(steps, 'step')} in {took}"
    ended = sum(record.status in ("ok", "skipped") for record in result.execution_log)
    return f"{name} after {ended} of {counted(steps, 'step')}, {took}"


def rows_of(value: Any) -> list[dict[str, Any]] | None:
    """The rows of a value that can be shown as a table: a list of small dicts or models with the same plain fields.

    >>> rows_of([{"name": "a", "count": 1}, {"name": "b", "count": 2}])
    [{'name': 'a', 'count': 1}, {'name': 'b', 'count': 2}]
    >>> rows_of([1, 2]) is None, rows_of([{"a": [1]}]) is None
    (True, True)
    """
    if not isinstance(value, (list, tuple)) or not value:
        return None
    rows = [_row(one) for one in value]
    names = rows[0] and list(rows[0])
    if not names or len(names) > MOST_COLUMNS:
        return None
    whole = [row for row in rows if row is not None and list(row) == names and all(map(_is_plain, row.values()))]
    return whole if len(whole) == len(rows) else None


def _row(value: Any) -> dict[str, Any] | None:
    if isinstance(value, BaseModel):
        value = dict(value)
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        return None
    return dict(value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
