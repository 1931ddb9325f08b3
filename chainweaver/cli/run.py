"""`chainweaver run FILE|NAME`: run a flow, show its steps as they end, then what it found and how long it took."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel

from chainweaver.checkpoint import Checkpointer, FileCheckpointer
from chainweaver.cli._answer import FAILED, INTERRUPTED, OK, Answer, Fault, exit_code_of
from chainweaver.cli._asking import Approvals, Decisions
from chainweaver.cli._carrying import Outcome, carried, place
from chainweaver.cli._compiling import compile_faults
from chainweaver.cli._durable import keep_flows
from chainweaver.cli._loading import read_input, read_params
from chainweaver.cli._options import (
    ApproveOption,
    ConcurrencyOption,
    DecideOption,
    FlowsOption,
    Format,
    InputOption,
    OutputOption,
    ParamOption,
    ToolsOption,
    TracebackOption,
    TraceOption,
    VersionOption,
)
from chainweaver.cli._progress import note_of
from chainweaver.cli._ready import Ready, make_ready
from chainweaver.cli._screen import Screen, counted, shown_size, shown_time
from chainweaver.cli._stores import StoreOption, is_in_memory, opened, shown_url, store_url
from chainweaver.cli._traces import check_target, write_trace
from chainweaver.exceptions import CommandLineError, FlowCancelledError
from chainweaver.executor import FlowExecutor
from chainweaver.executor.call import checked_key
from chainweaver.objects import ObjectInfo, inspect_object
from chainweaver.results import ExecutionResult, StepRecord

MOST_ROWS = 50
MOST_COLUMNS = 8
"""What a table of outputs shows; `--format json` has everything."""


class Unrehearsed(str, Enum):
    """What a dry run does at a tool that cannot be rehearsed."""

    SKIP = "skip"
    ABORT = "abort"


def run(
    source: Annotated[
        str, typer.Argument(metavar="FILE|NAME", help="Flow file, or name of a flow.", show_default=False)
    ],
    given: InputOption = "{}",
    tools: ToolsOption = None,
    flows: FlowsOption = None,
    param: ParamOption = None,
    version: VersionOption = None,
    concurrency: ConcurrencyOption = 1,
    deadline: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="End the run when it takes longer than this.")
    ] = None,
    approve: ApproveOption = None,
    decide: DecideOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Rehearse: call what stands in for the tools, not the tools.")
    ] = False,
    dry_run_unsupported: Annotated[
        Unrehearsed | None, typer.Option(help="What a dry run does at a tool that cannot be rehearsed: skip (default).")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="DIR", help="Keep every finished step here, so that a run can be resumed.")
    ] = None,
    store: StoreOption = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Name that no other run of the store has; the run that has it goes on."),
    ] = None,
    trace: TraceOption = None,
    force: Annotated[bool, typer.Option("--force", help="Run it although its status is not active.")] = False,
    inspect: Annotated[
        bool, typer.Option("--inspect", help="Show what the objects and large values were that steps took and gave.")
    ] = False,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """Run a flow; with --store such that it can be gone on with whatever happens to this process.

    Its tools come from the modules named with --tools, else from the Python file beside the flow file: audit.py for
    audit.flow.yaml.
    """
    values = read_input(given)
    ready = make_ready(source, tools, version, flows)
    flow = ready.source.flow
    params = read_params(param or (), flow)
    rehearsal = _rehearsal(dry_run, dry_run_unsupported)
    seconds = None if deadline is None else checked_seconds(deadline)
    approvals, decisions = Approvals(approve or (), ready.tools), Decisions(decide or (), ready.flows)
    if trace is not None:
        check_target(trace)
    url = None if dry_run or checkpoint is not None else store_url(store)
    _check_keeping(checkpoint, store, key, url, dry_run)
    faults = compile_faults(ready.source, ready.tools, ready.flows)
    if faults:
        return Answer(data={"tools": sorted(ready.tools)}, faults=faults, exit_code=FAILED)
    screen = Screen() if output is Format.TEXT else None
    with _keeping(checkpoint, url, ready, force) as checkpointer:
        if screen is not None:
            about = f", {counted(len(flow.steps), 'step')}, {ready.loaded()}{', dry run' if dry_run else ''}"
            screen.line((f"{flow.name} {flow.version}", "bold"), about)
        executor = FlowExecutor(
            tools=ready.tools.values(),
            flows=ready.flows,
            max_step_concurrency=concurrency,
            checkpointer=checkpointer,
            delete_on_success=url is None,
            approval_callback=approvals,
            decision_callback=decisions,
        )

        def work() -> ExecutionResult:
            return executor.execute_flow(
                flow.name,
                values,
                version=flow.version,
                force=force,
                deadline=None if seconds is None else time.time() + seconds,
                dry_run=dry_run,
                dry_run_unsupported=rehearsal,
                dynamic_params=params or None,
                key=key,
            )

        lasts = url is not None and not is_in_memory(url)
        outcome = carried(executor, screen, lambda: work().raise_for_failure(), durable=lasts)
    # Its flows are in the store by then; --flows is not asked for again.
    again = () if url is None else going_on(store, ready, None, approve, decide)
    keeping = Keeping(checkpoint, None if url is None else shown_url(url), again, tuple(params))
    return answer_of(ready, outcome, keeping, trace, inspect, traceback)


def _rehearsal(dry_run: bool, unsupported: Unrehearsed | None) -> Literal["skip", "abort"]:
    if unsupported is not None and not dry_run:
        raise CommandLineError("--dry-run-unsupported means nothing without --dry-run")
    return "abort" if unsupported is Unrehearsed.ABORT else "skip"


def checked_seconds(deadline: float) -> float:
    """A time limit that was typed.

    Raises:
        CommandLineError: Nothing can end in it.
    """
    if not deadline > 0:
        raise CommandLineError(
            f"--deadline {deadline:g} is no time to run in", fix="give seconds, such as --deadline 30"
        )
    return deadline


def _check_keeping(checkpoint: str | None, store: str | None, key: str | None, url: str | None, dry_run: bool) -> None:
    if checkpoint is not None and store is not None:
        raise CommandLineError("--checkpoint and --store exclude each other: a run is kept in one place")
    if key is None:
        return
    if dry_run:
        raise CommandLineError("--key means nothing with --dry-run: a rehearsal is not kept")
    if url is None:
        other = "" if checkpoint is None else ", in the place of --checkpoint"
        raise CommandLineError("--key means nothing without --store", fix=f"--store sqlite:///runs.db{other}")
    try:
        checked_key(key)
    except ValueError as exc:
        raise CommandLineError(f"--key {shlex.quote(key)} names no run: {exc}") from None


@contextmanager
def _keeping(checkpoint: str | None, url: str | None, ready: Ready, force: bool) -> Iterator[Checkpointer | None]:
    """Where the run is kept, while it runs; in a store together with its flows."""
    if url is None:
        yield None if checkpoint is None else _checkpointer(checkpoint)
        return
    with opened(url, makes=True) as store:
        keep_flows(store, shown_url(url), ready.sources, force=force)
        yield store.runs


def _checkpointer(directory: str) -> FileCheckpointer:
    try:
        return FileCheckpointer(directory)
    except OSError as exc:
        raise CommandLineError(f"Checkpoints cannot be kept in '{directory}': {exc.strerror}") from exc


# ---- the answer


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where a run is kept, as a person is told.

    Attributes:
        directory: Of its checkpoint.
        store: Of durable runs.
        again: What `runs resume` has to be told, as on a command line.
        params: Names of the dynamic parameters that it needs, too; values may be secrets, and are not said.
    """

    directory: str | None = None
    store: str | None = None
    again: Sequence[str] = ()
    params: Sequence[str] = ()

    def line(self, result: ExecutionResult) -> str | None:
        """Where it is found again, when there is something to find."""
        if self.store is not None and is_in_memory(self.store):
            return f"run {result.trace_id} is not kept: {self.store} ends with this command"
        if self.store is not None:
            more = "" if result.success else f"; go on with: {self._command(result.trace_id)}"
            return f"run {result.trace_id} is kept in {self.store}{more}"
        if self.directory is not None and not result.success:
            return f"run {result.trace_id} is kept in {self.directory}"
        return None

    def _command(self, run: str) -> str:
        line = shlex.join(["chainweaver", "runs", "resume", run, *self.again])
        return f"{line}, and the same --param {' --param '.join(self.params)}" if self.params else line


def going_on(
    store: str | None,
    ready: Ready,
    flows: Sequence[str] | None,
    approve: Sequence[str] | None,
    decide: Sequence[str] | None,
) -> list[str]:
    """What `runs resume` has to be told to go on with what a command began; a store of the environment is not."""
    options = {
        "--store": [shown_url(store)] if store else [],
        "--tools": [module.name for module in ready.modules],
        "--flows": flows or [],
        "--approve": approve or [],
        "--decide": decide or [],
    }
    return [word for option, values in options.items() for value in values for word in (option, value)]


def answer_of(
    ready: Ready, outcome: Outcome, keeping: Keeping, trace: str | None, inspect: bool, traceback: bool
) -> Answer:
    """The answer when a run is over, however it ended."""
    result = outcome.result
    if outcome.error is not None:
        place(outcome.error, ready, result, hint=not traceback)
    if trace is not None and result is not None:
        write_trace(result, trace)
    faults: list[Fault] = []
    exit_code = OK
    if outcome.interrupted:
        faults.append(Fault(f"CW-{FlowCancelledError.code}", "Interrupted."))
        exit_code = INTERRUPTED
    elif isinstance(outcome.error, FlowCancelledError) and outcome.error.token_cancelled:
        faults.append(Fault(f"CW-{FlowCancelledError.code}", HANDED_BACK))
        exit_code = INTERRUPTED
    elif outcome.error is not None:
        faults.append(Fault.of(outcome.error))
        exit_code = exit_code_of(outcome.error)
    return Answer(
        data=None if result is None else _data(ready, result, trace, inspect),
        faults=faults,
        exit_code=exit_code,
        text=None
        if result is None
        else lambda screen: _show(screen, result, len(ready.source.flow.steps), keeping, trace, inspect),
        error=outcome.error,
    )


HANDED_BACK = "Terminated: the run was handed back, and anybody may go on with it."
"""What is said when a signal has stopped a durable run."""


def _data(ready: Ready, result: ExecutionResult, trace: str | None, inspect: bool) -> dict[str, Any]:
    objects = [{"step": step, "value": at, **asdict(info)} for step, at, info in objects_of(result.execution_log)]
    return {
        "flow": result.flow_name,
        "version": result.flow_version,
        "source": ready.source.name,
        "tools": {module.name: [tool.name for tool in module.tools] for module in ready.modules},
        "run": result.trace_id,
        "status": result.status,
        "dry_run": result.dry_run,
        "trace": trace,
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
                "decision": record.decision,
                "approval": record.approval,
                "error": record.error_message,
            }
            for record in result.execution_log
        ],
        **({"objects": objects} if inspect else {}),
        "output": result.final_output,
    }


def _show(
    screen: Screen, result: ExecutionResult, steps: int, keeping: Keeping, trace: str | None, inspect: bool
) -> None:
    output = result.final_output or {}
    tables = {name: rows for name, value in output.items() if (rows := rows_of(value))}
    for name, rows in tables.items():
        columns = list(rows[0])
        numbers = [column for column in columns if all(_is_number(row[column]) for row in rows)]
        screen.table(name, columns, [list(row.values()) for row in rows[:MOST_ROWS]], right=numbers)
        if len(rows) > MOST_ROWS:
            screen.line((f"... and {len(rows) - MOST_ROWS} more rows", "dim"))
    _show_times(screen, result)
    if inspect:
        _show_objects(screen, result)
    rest = {name: _what(value) if inspect else value for name, value in output.items() if name not in tables}
    if rest:
        screen.line()
        screen.pairs(rest)
    screen.line()
    kept = keeping.line(result)
    if kept is not None:
        screen.line(kept)
    if trace is not None:
        screen.line(f"trace of run {result.trace_id} is written to {trace}")
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


def objects_of(records: list[StepRecord], path: str = "") -> Iterator[tuple[str, str, ObjectInfo]]:
    """What the objects and large values of records are, those of nested ones below their step: step, value, facts."""
    for record in records:
        step = f"{path}{record.step_id}"
        for at, info in record.objects.items():
            yield step, at, info
        if record.sub_result is not None:
            yield from objects_of(record.sub_result.execution_log, f"{step}/")


def _show_objects(screen: Screen, result: ExecutionResult) -> None:
    found = list(objects_of(result.execution_log))
    if not found:
        screen.line()
        screen.line(("objects", "bold"), ": none, all values are small and plain")
        return
    rows = [
        (step, at, info.type, info.described(), shown_size(info.nbytes), _place_of(info))
        for step, at, info in found[:MOST_ROWS]
    ]
    screen.table("objects", ("step", "value", "type", "what", "size", "where"), rows, right=("size",))
    if len(found) > MOST_ROWS:
        screen.line((f"... and {len(found) - MOST_ROWS} more objects", "dim"))


def _what(value: Any) -> Any:
    """A frame, array or tensor in a few words, as the table of objects has it; it shows itself in many lines."""
    info = inspect_object(value)
    return f"{info.type}  {info.described()}" if "." in info.type and info.shape is not None else value


def _place_of(info: ObjectInfo) -> str:
    where = info.device if info.backing == "device" else info.backing
    return ", ".join(part for part in (where, "read-only" if info.read_only and where else None) if part)


def closing_line(result: ExecutionResult, steps: int) -> str:
    """What became of the run, in one line."""
    took = shown_time(result.total_duration_ms)
    rehearsed = " (dry run)" if result.dry_run else ""
    name = f"{result.flow_name} {result.flow_version}: {result.status}{rehearsed}"
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
