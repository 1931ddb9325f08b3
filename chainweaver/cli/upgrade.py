"""`chainweaver upgrade --check FILE...`: which live runs of a store a deploy would break, before it happens.

The world after the deploy is put together, the flows of the store with these files in it and the tools that were named,
and every run is held against it as `resume_flow` would do it. Runs nothing and stores nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from chainweaver.checkpoint import RunInfo
from chainweaver.checkpoint.store import RUN_STATUSES
from chainweaver.cli._answer import FAILED, OK, Answer, Fault
from chainweaver.cli._compiling import compile_faults
from chainweaver.cli._durable import Library, library_of
from chainweaver.cli._loading import Source, companion_of, read_file
from chainweaver.cli._options import FlowsOption, Format, OutputOption, ToolsOption, TracebackOption
from chainweaver.cli._screen import Screen, counted
from chainweaver.cli._stores import StoreOption, opened, shown_url
from chainweaver.exceptions import CheckpointDriftError, CheckpointNotFoundError
from chainweaver.executor import FlowExecutor, Verdict
from chainweaver.sql import SqlStore

_ALL = 2**31
_STYLES = {"compatible": "green", "needs migration": "yellow", "refuse": "bold red"}


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

    The exit status is 1 when the deploy would break a run. A run keeps the version that it began with; whether it could
    be moved to a new one is said as well. Tools come from --tools, else from the Python files beside the flow files.
    """
    new = [read_file(file) for file in check]
    with opened(store) as opened_store:
        library = _after(opened_store, new, tools, flows, shown_url(store))
        faults = [fault for source in new for fault in compile_faults(source, library.tools, library.flows)]
        if faults:
            return Answer(faults=faults, exit_code=FAILED)
        judged, others = _judge(opened_store, library, new, ended)
    faults = [Fault.of(_refusal(one)) for one in judged if one.stays.kind != "compatible"]

    return Answer(
        data={"runs": [_data(one) for one in judged], "others": others},
        faults=faults,
        exit_code=FAILED if faults else OK,
        text=lambda screen: _show(screen, judged, others, new),
    )


def _after(
    store: SqlStore, new: Sequence[Source], tools: Sequence[str] | None, flows: Sequence[str] | None, name: str
) -> Library:
    """The flows and tools after the deploy."""
    beside = [found for source in new if (found := companion_of(source.name)) is not None]
    return library_of(store, name, tools or beside, flows, first=new)


def _judge(store: SqlStore, library: Library, new: Sequence[Source], ended: bool) -> tuple[list[_Judged], int]:
    """The runs that a deploy concerns, the oldest first, and how many it does not concern."""
    names = {source.flow.name for source in new}
    concerned = names | _around(library, names)
    executor = FlowExecutor(library.registry(), tools=library.tools.values())
    judged, others = [], 0
    wanted = [status for status in RUN_STATUSES if status == "running" or (ended and status != "ok")]
    infos = [info for status in wanted for info in store.runs.list_runs(status=status, limit=_ALL)]
    for info in sorted(infos, key=lambda one: one.started_at):
        if info.flow_name not in concerned:
            others += 1
            continue
        try:
            snapshot = store.runs.load(info.trace_id)
        except CheckpointNotFoundError:
            continue  # it has ended meanwhile
        versions = [one.flow.version for one in new if one.flow.name == info.flow_name]
        moves = {
            version: executor.check_upgrade(snapshot, version=version)
            for version in versions
            if version != info.flow_version
        }
        judged.append(_Judged(info, executor.check_upgrade(snapshot), moves))
    return judged, others


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


def _verdict_data(verdict: Verdict) -> dict[str, Any]:
    return {
        "verdict": verdict.kind,
        "changes": [{"kind": one.kind, "step": one.step, "detail": one.detail} for one in verdict.changes],
    }


def _show(screen: Screen, judged: Sequence[_Judged], others: int, new: Sequence[Source]) -> None:
    for one in judged:
        info = one.info
        style = _STYLES[one.stays.kind]
        screen.line((f"{one.stays.kind:<15}", style), f"  {info.trace_id}  {info.flow_name} {info.flow_version}")
        for change in one.stays.changes:
            screen.line(f"                 {change.detail}")
        for version, verdict in one.moves.items():
            screen.line(f"                 to {version}: ", (verdict.kind, _STYLES[verdict.kind]))
            for change in verdict.changes:
                screen.line(f"                   {change.detail}")
    if judged:
        screen.line()
    kinds = [one.stays.kind for one in judged]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in _STYLES if kind in kinds)
    names = ", ".join(f"{one.flow.name} {one.flow.version}" for one in new)
    aside = f", {counted(others, 'run')} of other flows not looked at" if others else ""
    screen.line(f"{names}: {counted(len(judged), 'live run')}{f', {counts}' if counts else ''}{aside}")
