"""`chainweaver runs list|show|resume|recover|prune`: durable runs of a store, looked at, gone on with and forgotten."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import Annotated, Any

import typer

from chainweaver.checkpoint import ExecutionSnapshot, RunInfo, StepDelta
from chainweaver.cli._answer import FAILED, INTERRUPTED, OK, Answer, Fault
from chainweaver.cli._asking import Approvals, Decisions
from chainweaver.cli._carrying import carried
from chainweaver.cli._compiling import compile_faults
from chainweaver.cli._durable import Library, handing_back, library_of
from chainweaver.cli._loading import read_params
from chainweaver.cli._options import (
    ApproveOption,
    ConcurrencyOption,
    DecideOption,
    FlowsOption,
    Format,
    OutputOption,
    ParamOption,
    ToolsOption,
    TracebackOption,
    TraceOption,
)
from chainweaver.cli._ready import Ready
from chainweaver.cli._screen import STYLES, Screen, counted, shown_time
from chainweaver.cli._stores import StoreOption, opened, shown_url
from chainweaver.cli._traces import check_target
from chainweaver.cli.run import HANDED_BACK, Keeping, answer_of, checked_seconds, going_on
from chainweaver.exceptions import (
    ChainWeaverError,
    CheckpointNotFoundError,
    CommandLineError,
    FlowCancelledError,
    FlowNotFoundError,
    suggest,
)
from chainweaver.executor import FlowExecutor
from chainweaver.observe import BaseMiddleware, FlowEndContext, RedactionPolicy
from chainweaver.results import ExecutionResult
from chainweaver.sql import SqlStore

HELP = "Look at the durable runs of a store, go on with them, forget them."

RunArgument = Annotated[str, typer.Argument(metavar="ID", help="The run.", show_default=False)]


class Status(str, Enum):
    """How a run stands."""

    RUNNING = "running"
    OK = "ok"
    FAILED = "failed"
    CANCELLED = "cancelled"


# ---- list


def list_(
    store: StoreOption = None,
    status: Annotated[Status | None, typer.Option(help="Only runs that stand like this.")] = None,
    flow: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of this flow.")] = None,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Only the run with this key.")] = None,
    orphaned: Annotated[
        bool, typer.Option("--orphaned", help="Only runs that have not ended and that nobody executes.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """List runs, the latest first."""
    with opened(store) as opened_store:
        wanted: Any = None if status is None else status.value
        found = opened_store.runs.list_runs(
            status=wanted, flow_name=flow, key=key, orphaned=True if orphaned else None, limit=limit + 1
        )
        if not found:
            _check_filters(opened_store, flow, key)
    runs, more = found[:limit], len(found) > limit

    def text(screen: Screen) -> None:
        if runs:
            rows = [_row(info) for info in runs]
            columns = ("run", "flow", "status", "steps", "started", "key", "by", "claimed for", "error")
            used = [at for at, name in enumerate(columns) if at < 5 or any(row[at] for row in rows)]
            kept = [[row[at] for at in used] for row in rows]
            screen.table(shown_url(store), [columns[at] for at in used], kept, right=("steps",), whole=("run",))
            screen.line()
        screen.line(f"{counted(len(runs), 'run')}{', and more: raise --limit' if more else ''}")

    return Answer(data={"runs": [run_data(info) for info in runs], "more": more}, text=text)


def _row(info: RunInfo) -> tuple[str, ...]:
    return (
        info.trace_id,
        f"{info.flow_name} {info.flow_version}",
        "orphaned" if info.is_orphan else info.status,
        str(info.steps_done),
        _shown_date(info.started_at),
        info.key or "",
        info.owner or "",
        "" if info.seconds_left is None else _shown_left(info.seconds_left),
        info.error or "",
    )


def _shown_left(seconds: float) -> str:
    return f"{max(math.ceil(seconds), 0)} s"


def _shown_date(date: datetime) -> str:
    return date.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def run_data(info: RunInfo) -> dict[str, Any]:
    """A run of the log, for `--format json`."""
    return {
        "run": info.trace_id,
        "flow": info.flow_name,
        "version": info.flow_version,
        "status": info.status,
        "orphaned": info.is_orphan,
        "steps": info.steps_done,
        "key": info.key,
        "owner": info.owner,
        "seconds_left": info.seconds_left,
        "error": info.error,
        "started_at": info.started_at.isoformat(),
        "changed_at": info.changed_at.isoformat(),
    }


def _check_filters(store: SqlStore, flow: str | None, key: str | None) -> None:
    """Refuse names that stand for nothing: an empty list would look like an answer.

    Raises:
        CommandLineError: The store has neither such a flow nor a run of it, or no run has the key.
    """
    if flow is not None and not store.runs.list_runs(flow_name=flow, limit=1):
        names = sorted(
            {name for name, _ in store.flows.list_keys()} | {one.flow_name for one in store.runs.list_runs()}
        )
        if flow not in names:
            near = suggest(flow, names)
            raise CommandLineError(
                f"--flow '{flow}' is no flow of this store",
                known=names or None,
                fix=None if near is None else f"did you mean '{near}'?",
            )
    if key is not None and not store.runs.list_runs(key=key, limit=1):
        raise CommandLineError(f"--key '{key}' belongs to no run of this store")


# ---- show


def show(
    run: RunArgument,
    store: StoreOption = None,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """Show a run: how it stands, what it was begun with, and every step that is committed. Secrets are hidden."""
    with opened(store) as opened_store:
        info = opened_store.runs.info(run)
        try:
            snapshot = opened_store.runs.load(run)
        except CheckpointNotFoundError:
            snapshot = None  # it has ended, and was told to keep nothing but the line in the log
    policy = RedactionPolicy()
    given = {} if snapshot is None else policy.redact_mapping(snapshot.initial_input)
    steps = [] if snapshot is None else [_step_data(step, policy) for step in snapshot.steps]
    data = {
        **run_data(info),
        "kept": snapshot is not None,
        "input": given,
        "sub_flows": {} if snapshot is None else snapshot.sub_flows,
        "committed": steps,
    }

    def text(screen: Screen) -> None:
        facts = {
            "run": info.trace_id,
            "flow": f"{info.flow_name} {info.flow_version}",
            "status": _standing(info),
            "key": info.key,
            "error": info.error,
            "started": _shown_date(info.started_at),
            "changed": _shown_date(info.changed_at),
        }
        screen.pairs({name: value for name, value in facts.items() if value is not None})
        if snapshot is None:
            screen.line()
            screen.line("its steps were not kept")
            return
        if given:
            screen.line()
            screen.line(("input", "bold"))
            screen.pairs(given)
        _show_steps(screen, snapshot, steps)

    return Answer(data=data, text=text)


def _standing(info: RunInfo) -> str:
    if info.is_orphan:
        return "orphaned: it has not ended, and nobody executes it"
    if info.owner is None:
        return info.status
    left = "" if info.seconds_left is None else f", claimed for {_shown_left(info.seconds_left)} unless that is renewed"
    return f"running, executed by {info.owner}{left}"


def _step_data(step: StepDelta, policy: RedactionPolicy) -> dict[str, Any]:
    error = None if step.error is None else policy.redact_text(step.error[2])
    return {
        "step": "/".join((*step.path, step.step_id)),
        "tool": step.tool_name,
        "status": step.status,
        "started_at": datetime.fromtimestamp(step.started_at, timezone.utc).isoformat(),
        "duration_ms": step.duration_ns / 1e6,
        "retries": max(step.attempts - 1, 0),
        "cached": step.cached,
        "fallback": step.fallback_tool_name,
        "decision": None if step.decision is None else policy.redact_mapping(step.decision),
        "approval": None if step.approval is None else policy.redact_mapping(step.approval),
        "error": error,
        "outputs": None if step.outputs is None else policy.redact_mapping(step.outputs),
    }


def _show_steps(screen: Screen, snapshot: ExecutionSnapshot, steps: Sequence[dict[str, Any]]) -> None:
    if not steps:
        screen.line()
        screen.line("no step is committed")
        return
    rows = []
    for delta, step in zip(snapshot.steps, steps, strict=True):
        began = datetime.fromtimestamp(delta.started_at, timezone.utc)
        rows.append(
            (
                step["step"],
                step["tool"],
                step["status"],
                _shown_date(began),
                shown_time(step["duration_ms"]),
                _note(step),
            )
        )
    columns = ("step", "tool", "status", "started", "time", "note")
    kept = columns if any(row[-1] for row in rows) else columns[:-1]
    screen.table("committed steps", kept, [row[: len(kept)] for row in rows], right=("time",))


def _note(step: dict[str, Any]) -> str:
    decision = step["decision"] or {}
    notes = [
        "from the cache" if step["cached"] else "",
        f"retried {step['retries']} x" if step["retries"] else "",
        f"fallback {step['fallback']}" if step["fallback"] else "",
        f"chose {decision['chosen']}" if "chosen" in decision else "",
        f"to {decision['taken'] or 'all that follow'}" if "taken" in decision else "",
        "approved" if step["approval"] else "",
        step["error"] or "",
    ]
    return ", ".join(note for note in notes if note)


# ---- resume


def resume(
    run: RunArgument,
    store: StoreOption = None,
    tools: ToolsOption = None,
    flows: FlowsOption = None,
    param: ParamOption = None,
    concurrency: ConcurrencyOption = 1,
    deadline: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="End the run when it takes longer than this.")
    ] = None,
    approve: ApproveOption = None,
    decide: DecideOption = None,
    trace: TraceOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go on although the flow is not active, or executed steps have changed.")
    ] = False,
    inspect: Annotated[
        bool, typer.Option("--inspect", help="Show what the objects and large values were that steps took and gave.")
    ] = False,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """Go on with a run: what is committed does not run again. SIGTERM hands it back."""
    seconds = None if deadline is None else checked_seconds(deadline)
    if trace is not None:
        check_target(trace)
    with opened(store, works=True) as opened_store:
        info = opened_store.runs.info(run)
        library = library_of(opened_store, shown_url(store), tools, flows)
        ready = _ready_for(library, info, shown_url(store))
        params = read_params(param or (), ready.source.flow)
        faults = compile_faults(ready.source, ready.tools, library.registry().snapshot.values())
        if faults:
            return Answer(faults=faults, exit_code=FAILED)
        screen = Screen() if output is Format.TEXT else None
        if screen is not None:
            done = f", {info.steps_done} of {counted(len(ready.source.flow.steps), 'step')} done, {ready.loaded()}"
            screen.line((f"{info.flow_name} {info.flow_version}", "bold"), done)
        executor = _executor(opened_store, library, library.flows, concurrency, approve, decide)

        def work() -> object:
            return executor.resume_flow(
                run, force=force, deadline=_ends(seconds), dynamic_params=params or None
            ).raise_for_failure()

        outcome = carried(executor, screen, work, durable=True)
    keeping = Keeping(
        store=shown_url(store), again=going_on(store, ready, flows, approve, decide), params=tuple(params)
    )
    return answer_of(ready, outcome, keeping, trace, inspect, traceback)


def _ready_for(library: Library, info: RunInfo, store: str) -> Ready:
    """The flow of a run, first, and all the others."""
    key = (info.flow_name, info.flow_version)
    if key not in library.sources:
        versions = [version for name, version in library.sources if name == info.flow_name]
        raise FlowNotFoundError(
            info.flow_name,
            info.flow_version if versions else None,
            known=versions or sorted({name for name, _ in library.sources}),
            where=f"run '{info.trace_id}' is one of it, and it is not in '{store}'",
            fix="chainweaver flows push its file, or name its directory with --flows",
        )
    others = [source for one, source in library.sources.items() if one != key]
    return Ready([library.sources[key], *others], library.tools, library.modules)


def _executor(
    store: SqlStore,
    library: Library,
    flows: Sequence[Any],
    concurrency: int,
    approve: list[str] | None,
    decide: list[str] | None,
) -> FlowExecutor:
    return FlowExecutor(
        library.registry(flows),
        tools=library.tools.values(),
        max_step_concurrency=concurrency,
        checkpointer=store.runs,
        delete_on_success=False,
        approval_callback=Approvals(approve or (), library.tools),
        decision_callback=Decisions(decide or (), library.flows),
    )


def _ends(seconds: float | None) -> float | None:
    return None if seconds is None else time.time() + seconds


# ---- recover


@dataclass(frozen=True, slots=True)
class _Gone:
    """What became of one orphan."""

    run: str
    flow: str | None
    version: str | None
    status: str
    error: str | None


class _RunLines(BaseMiddleware):
    """A line for every run that is over."""

    def __init__(self, screen: Screen | None) -> None:
        self._screen = screen

    def on_flow_end(self, context: FlowEndContext) -> None:
        if context.parent_trace_id is None and self._screen is not None:
            result = context.result
            status = (f"{result.status:<9}", STYLES.get(result.status, ""))
            time_taken = shown_time(result.total_duration_ms)
            self._screen.line(status, f"  {result.trace_id}  {result.flow_name} {result.flow_version}  {time_taken}")


def recover(
    store: StoreOption = None,
    tools: ToolsOption = None,
    flows: FlowsOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many runs at most.")] = None,
    concurrency: ConcurrencyOption = 1,
    deadline: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="After this long begin with no further run, and hand back the one that is going on."
        ),
    ] = None,
    approve: ApproveOption = None,
    decide: DecideOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go on although a flow is not active, or executed steps have changed.")
    ] = False,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """Go on with all runs that have not ended and that nobody executes, the oldest first. SIGTERM hands them back.

    Runs of flows that need other tools than these are left to somebody who has them. The run of a process that died is
    claimed for a while yet; how many claims there are is said.
    """
    seconds = None if deadline is None else checked_seconds(deadline)
    with opened(store, works=True) as opened_store:
        library = library_of(opened_store, shown_url(store), tools, flows)
        unfit = library.unfit()
        fit = [flow for flow in library.flows if (flow.name, flow.version) not in unfit]
        executor = _executor(opened_store, library, fit, concurrency, approve, decide)
        screen = Screen() if output is Format.TEXT else None
        executor.add_middleware(_RunLines(screen))
        with executor, handing_back(executor):
            recovered = executor.recover(limit=limit, force=force, deadline=_ends(seconds))
        claimed = _claims(opened_store, {flow.name for flow in fit})
    errors = [(one.trace_id, one.error or _failure(one.result)) for one in recovered]
    faults, interrupted = [], False
    for trace_id, error in errors:
        if isinstance(error, FlowCancelledError):
            interrupted = True
            told = HANDED_BACK if error.token_cancelled else _OUT_OF_TIME
            faults.append(Fault(f"CW-{FlowCancelledError.code}", f"Run '{trace_id}': {told}"))
        elif error is not None:
            faults.append(Fault.of(error.with_facts(where=f"run '{trace_id}'")))
    return Answer(
        data={
            "runs": [
                asdict(
                    _Gone(
                        one.trace_id,
                        None if one.result is None else one.result.flow_name,
                        None if one.result is None else one.result.flow_version,
                        _what_became(one.result, error),
                        None if error is None else error.sentence,
                    )
                )
                for one, (_, error) in zip(recovered, errors, strict=True)
            ],
            "left_to_others": [
                {"flow": name, "version": version, "why": why} for (name, version), why in unfit.items()
            ],
            "claimed": {"runs": len(claimed), "seconds_left": max(claimed, default=None)},
        },
        faults=faults,
        exit_code=INTERRUPTED if interrupted else FAILED if faults else OK,
        text=lambda screen: _show_recovered(screen, len(recovered), len(faults), unfit, claimed),
        error=next((error for _, error in errors if error is not None), None),
    )


_OUT_OF_TIME = "The time of --deadline is over: the run was handed back, and anybody may go on with it."


def _what_became(result: ExecutionResult | None, error: ChainWeaverError | None) -> str:
    if isinstance(error, FlowCancelledError):
        return "handed back"
    return "left" if result is None else result.status


def _failure(result: ExecutionResult | None) -> ChainWeaverError | None:
    try:
        if result is not None:
            result.raise_for_failure()
    except ChainWeaverError as exc:
        return exc
    return None


def _claims(store: SqlStore, names: set[str]) -> list[float]:
    """For how many seconds runs of these flows are claimed yet, by somebody who lives or has died."""
    running = store.runs.list_runs(status="running", orphaned=False, limit=None)
    return [one.seconds_left or 0.0 for one in running if one.flow_name in names]


def _show_recovered(
    screen: Screen, runs: int, faults: int, unfit: dict[tuple[str, str], str], claimed: Sequence[float]
) -> None:
    for (name, version), why in unfit.items():
        screen.line(("left to others", "yellow"), f"  {name} {version}: {why}")
    if claimed:
        most = f"for {_shown_left(max(claimed))} at most unless that is renewed"
        screen.line(("claimed", "yellow"), f"         {counted(len(claimed), 'run')}, {most}")
    if not runs:
        screen.line("nothing to go on with")
    else:
        screen.line(f"{counted(runs, 'run')}: {runs - faults} ok, {faults} not")


# ---- prune

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def prune(
    store: StoreOption = None,
    keep_last: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Of every flow the latest N that have ended stay.")
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only runs that ended longer ago, such as 30d, 12h or 90m.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """Forget runs that have ended, with their steps and values. Runs that have not ended stay."""
    seconds = None if older_than is None else read_age(older_than)
    if keep_last is None and seconds is None:
        raise CommandLineError("Nothing says which runs to forget", fix="--keep-last 100, --older-than 30d, or both")
    with opened(store, works=True) as opened_store:
        if not yes:
            _ask(
                opened_store.runs.prune(keep_last=keep_last, older_than=seconds, dry_run=True), shown_url(store), output
            )
        forgotten = opened_store.runs.prune(keep_last=keep_last, older_than=seconds)
    return Answer(data={"forgotten": forgotten}, text=lambda screen: screen.line(f"forgot {counted(forgotten, 'run')}"))


def _ask(runs: int, store: str, output: Format) -> None:
    if output is Format.JSON or not sys.stdin.isatty():
        raise CommandLineError(
            f"{counted(runs, 'run')} would be forgotten for good, and nobody is there to agree", fix="--yes"
        )
    try:
        agreed = typer.confirm(f"Forget {counted(runs, 'run')} of {store} for good?")
    except typer.Abort:  # the end of the input is no agreement
        agreed = False
    if not agreed:
        raise CommandLineError("Nothing was forgotten")


def read_age(text: str) -> float:
    """Seconds of an age that was typed.

    Raises:
        CommandLineError: It is none.

    >>> read_age("30d"), read_age("90m")
    (2592000.0, 5400.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip())
    if found is None:
        raise CommandLineError(f"--older-than '{text}' is no age", fix="a number with s, m, h, d or w, such as 30d")
    return float(found[1]) * _UNITS[found[2]]


COMMANDS: dict[str, Callable[..., Answer]] = {
    "list": list_,
    "show": show,
    "resume": resume,
    "recover": recover,
    "prune": prune,
}
