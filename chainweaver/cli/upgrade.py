"""`chainweaver upgrade --check FILE...`: which live runs of a store a deploy would break, before it happens.

The world after the deploy is put together, the flows of the store with these files in it and the tools that were named,
and every run is held against it as `resume_flow` would do it. Runs nothing and stores nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from chainweaver.checkpoint import RunInfo
from chainweaver.cli._answer import FAILED, OK, Answer, Fault
from chainweaver.cli._compiling import compile_faults
from chainweaver.cli._durable import Library, library_of
from chainweaver.cli._loading import Source, companion_of, read_file
from chainweaver.cli._options import FlowsOption, Format, OutputOption, ToolsOption, TracebackOption
from chainweaver.cli._screen import Screen, counted
from chainweaver.cli._stores import StoreOption, opened, shown_url
from chainweaver.exceptions import ArtifactCorruptError, CheckpointDriftError, CheckpointNotFoundError
from chainweaver.executor import FlowExecutor, Verdict
from chainweaver.sql import SqlStore

_STYLES = {"compatible": "green", "needs migration": "yellow", "refuse": "bold red", "damaged": "bold red"}


@dataclass(frozen=True, slots=True)
class _Judged:
    """What a deploy means for one run.

    Attributes:
        info: The run.
        stays: The verdict on the version that it goes on with.
        moves: By new version, whether it could be moved there; of other versions of its flow only.
    """

    info: RunInfo
    stays: Verdict
    moves: dict[str, Verdict]


@dataclass(frozen=True, slots=True)
class _Damaged:
    """A run of which nobody can say what a deploy means for it.

    Attributes:
        run: Its id.
        flow: Name and version of its flow; None where its line in the log is damaged.
        error: What is wrong with it.
    """

    run: str
    flow: tuple[str, str] | None
    error: ArtifactCorruptError


@dataclass(slots=True)
class _Found:
    """What was found out.

    Attributes:
        judged: Runs that the deploy concerns, the oldest first.
        damaged: Runs that it may concern.
        others: How many it does not concern.
    """

    judged: list[_Judged]
    damaged: list[_Damaged]
    others: int


def upgrade(
    check: Annotated[
        list[str], typer.Option("--check", metavar="FILE", help="Flow file to be deployed. May be repeated.")
    ],
    store: StoreOption = None,
    tools: ToolsOption = None,
    flows: FlowsOption = None,
    ended: Annotated[
        bool, typer.Option("--ended", help="Also look at runs that failed or were cancelled, which can be resumed.")
    ] = False,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """Say which live runs of these flows, and of flows that run them, go on after a deploy, and why others do not.

    The exit status is 1 when the deploy would break a run, or when one is damaged, so that nobody can tell. A run keeps
    the version that it began with; whether it could be moved to a new one is said as well. Tools come from --tools,
    else from the Python files beside the flow files.
    """
    new = [read_file(file) for file in check]
    with opened(store) as opened_store:
        library = _after(opened_store, new, tools, flows, shown_url(store))
        faults = [fault for source in new for fault in compile_faults(source, library.tools, library.flows)]
        if faults:
            return Answer(faults=faults, exit_code=FAILED)
        found = _judge(opened_store, library, new, ended)
    faults = [Fault.of(_refusal(one)) for one in found.judged if one.stays.kind != "compatible"]
    faults += [Fault.of(one.error) for one in found.damaged]

    return Answer(
        data={
            "runs": [_data(one) for one in found.judged],
            "damaged": [_damaged_data(one) for one in found.damaged],
            "others": found.others,
        },
        faults=faults,
        exit_code=FAILED if faults else OK,
        text=lambda screen: _show(screen, found, new),
    )


def _after(
    store: SqlStore, new: Sequence[Source], tools: Sequence[str] | None, flows: Sequence[str] | None, name: str
) -> Library:
    """The flows and tools after the deploy."""
    beside = [found for source in new if (found := companion_of(source.name)) is not None]
    return library_of(store, name, tools or beside, flows, first=new)


def _judge(store: SqlStore, library: Library, new: Sequence[Source], ended: bool) -> _Found:
    names = {source.flow.name for source in new}
    concerned = names | _around(library, names)
    executor = FlowExecutor(library.registry(), tools=library.tools.values())
    log = store.runs.list_runs(limit=None)
    found = _Found([], _left_out(store, log), 0)
    live = [one for one in log if one.status == "running" or (ended and one.status != "ok")]
    for info in sorted(live, key=lambda one: one.started_at):
        if info.flow_name not in concerned:
            found.others += 1
            continue
        versions = [one.flow.version for one in new if one.flow.name == info.flow_name]
        try:
            found.judged.append(_judged(store, executor, info, versions))
        except CheckpointNotFoundError:
            continue  # it has ended meanwhile
        except ArtifactCorruptError as exc:
            found.damaged.append(_Damaged(info.trace_id, (info.flow_name, info.flow_version), exc))
    return found


def _judged(store: SqlStore, executor: FlowExecutor, info: RunInfo, versions: Sequence[str]) -> _Judged:
    snapshot = store.runs.load(info.trace_id)
    others = [version for version in versions if version != info.flow_version]
    moves = {version: executor.check_upgrade(snapshot, version=version) for version in others}
    return _Judged(info, executor.check_upgrade(snapshot), moves)


def _left_out(store: SqlStore, log: Sequence[RunInfo]) -> list[_Damaged]:
    """Runs that can be resumed and are not in the log, because their lines there are damaged."""
    listed, found = {info.trace_id for info in log}, []
    for run in store.runs.list_trace_ids():
        if run not in listed:
            with suppress(CheckpointNotFoundError):  # it was forgotten meanwhile
                try:
                    store.runs.info(run)
                except ArtifactCorruptError as exc:
                    found.append(_Damaged(run, None, exc))
    return found


def _around(library: Library, names: set[str]) -> set[str]:
    """The flows that run one of these, directly or through others."""
    found = set(names)
    while True:
        more = {
            flow.name
            for flow in library.flows
            if flow.name not in found and any(step.flow_name in found for step in flow.steps)
        }
        if not more:
            return found
        found |= more


def _refusal(one: _Judged) -> CheckpointDriftError:
    """What a resume would say."""
    detail = "; ".join(change.detail for change in one.stays.changes)
    fix = "keep the version registered that the run began with, and give the new definition another one"
    if one.stays.kind == "needs migration":
        fix += "; or resume it with migrate="
    return CheckpointDriftError(
        one.info.trace_id, detail, fix=fix, flow_name=one.info.flow_name, flow_version=one.info.flow_version
    )


def _data(one: _Judged) -> dict[str, Any]:
    return {
        "run": one.info.trace_id,
        "flow": one.info.flow_name,
        "version": one.info.flow_version,
        "status": one.info.status,
        **_verdict_data(one.stays),
        "moves": {version: _verdict_data(verdict) for version, verdict in one.moves.items()},
    }


def _damaged_data(one: _Damaged) -> dict[str, Any]:
    flow, version = one.flow or (None, None)
    return {"run": one.run, "flow": flow, "version": version, "why": one.error.sentence}


def _verdict_data(verdict: Verdict) -> dict[str, Any]:
    return {
        "verdict": verdict.kind,
        "changes": [{"kind": one.kind, "step": one.step, "detail": one.detail} for one in verdict.changes],
    }


def _show(screen: Screen, found: _Found, new: Sequence[Source]) -> None:
    for one in found.judged:
        info = one.info
        style = _STYLES[one.stays.kind]
        screen.line((f"{one.stays.kind:<15}", style), f"  {info.trace_id}  {info.flow_name} {info.flow_version}")
        for change in one.stays.changes:
            screen.line(f"                 {change.detail}")
        for version, verdict in one.moves.items():
            screen.line(f"                 to {version}: ", (verdict.kind, _STYLES[verdict.kind]))
            for change in verdict.changes:
                screen.line(f"                   {change.detail}")
    for broken in found.damaged:
        name = "" if broken.flow is None else f"  {' '.join(broken.flow)}"
        screen.line((f"{'damaged':<15}", _STYLES["damaged"]), f"  {broken.run}{name}")
        screen.line(f"                 {broken.error.detail}")
    if found.judged or found.damaged:
        screen.line()
    kinds = [one.stays.kind for one in found.judged]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in _STYLES if kind in kinds)
    names = ", ".join(f"{one.flow.name} {one.flow.version}" for one in new)
    aside = f", {counted(found.others, 'run')} of other flows not looked at" if found.others else ""
    aside += f", {counted(len(found.damaged), 'damaged run')} nobody can check" if found.damaged else ""
    screen.line(f"{names}: {counted(len(found.judged), 'live run')}{f', {counts}' if counts else ''}{aside}")
