"""`chainweaver flows list|push|pull`: the flows of a store, and the way from files into it and back."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer

from chainweaver.cli._answer import Answer
from chainweaver.cli._loading import Source, read_file
from chainweaver.cli._options import Format, OutputOption, TracebackOption
from chainweaver.cli._screen import Screen, counted
from chainweaver.cli._stores import StoreOption, opened, shown_url
from chainweaver.exceptions import (
    CommandLineError,
    FlowAlreadyExistsError,
    FlowNotFoundError,
    FlowSerializationError,
    StaleFlowError,
)
from chainweaver.flow import AnyFlow, DAGFlow, FlowStatus, sorted_versions, validate_dag_topology
from chainweaver.formats import flow_to_json, flow_to_yaml
from chainweaver.objects.files import write_whole
from chainweaver.registry import FlowRegistry
from chainweaver.registry.directory import with_state
from chainweaver.registry.stores import objection
from chainweaver.sql import SqlFlows
from chainweaver.sql.texts import storable

HELP = "List the flows of a store, put files into it, and get files out of it."


class Form(str, Enum):
    """What a flow is written as."""

    YAML = "yaml"
    JSON = "json"


def list_(
    store: StoreOption = None,
    status: Annotated[FlowStatus | None, typer.Option(help="Only flows with this status.")] = None,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """List flows with their versions and status."""
    with opened(store) as opened_store:
        flows = FlowRegistry(opened_store.flows).list_flows(status=status)

    def text(screen: Screen) -> None:
        if flows:
            rows = [(one.name, one.version, one.status.value, str(len(one.steps)), one.description) for one in flows]
            screen.table(
                shown_url(store), ("flow", "version", "status", "steps", "description"), rows, right=("steps",)
            )
            screen.line()
        versions = counted(len(flows), "version")
        screen.line(f"{counted(len({one.name for one in flows}), 'flow')}, {versions}" if flows else "no flows")

    return Answer(data={"flows": [_data(one) for one in flows]}, text=text)


def _data(flow: AnyFlow) -> dict[str, Any]:
    return {
        "flow": flow.name,
        "version": flow.version,
        "status": flow.status.value,
        "type": type(flow).__name__,
        "steps": len(flow.steps),
        "description": flow.description,
    }


def push(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Flow files.", show_default=False)],
    store: StoreOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace versions that the store has with other definitions.")
    ] = False,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """Put flow files into a store, all or none. A version that it has is left alone when nothing in it is different.

    A status that was set in the store stays, unless the file says another one.

    A version that runs have begun with should not change: `chainweaver upgrade --check` says which would break.
    """
    sources = [_checked(read_file(file)) for file in files]
    _check_that_each_is_another(sources)
    with opened(store, makes=True) as opened_store:
        changes = [_change(opened_store.flows, source, overwrite, shown_url(store)) for source in sources]
        _make(opened_store.flows, [one for one in changes if one.done != "unchanged"], shown_url(store))

    def text(screen: Screen) -> None:
        for one in changes:
            screen.line(f"{one.done:<9}  {one.flow.name} {one.flow.version}  {one.file}")

    return Answer(
        data={"flows": [{"file": one.file, **_data(one.flow), "done": one.done} for one in changes]}, text=text
    )


class _Change(NamedTuple):
    """What a file means for a store.

    Attributes:
        file: Its name.
        flow: What the store is to hold.
        kept: What the store holds; None when that is nothing, or something damaged that is to be replaced.
        done: In one word.
    """

    file: str
    flow: AnyFlow
    kept: AnyFlow | None
    done: Literal["added", "unchanged", "replaced"]


def _checked(source: Source) -> Source:
    flow = source.flow
    if isinstance(flow, DAGFlow):
        validate_dag_topology(flow)
    try:
        storable("name of the flow", flow.name)
        storable("version of the flow", flow.version)
    except ValueError as exc:
        raise CommandLineError(str(exc), invalid=True, where=source.name, fix="give it another one") from None
    return source


def _check_that_each_is_another(sources: Sequence[Source]) -> None:
    files: dict[tuple[str, str], str] = {}
    for source in sources:
        name, version = key = (source.flow.name, source.flow.version)
        if key in files:
            raise CommandLineError(
                f"Flow '{name}' {version} is in '{files[key]}' and in '{source.name}'",
                invalid=True,
                fix="push one file for each flow and version",
            )
        files[key] = source.name


def _change(flows: SqlFlows, source: Source, overwrite: bool, store: str) -> _Change:
    file, flow = source.name, source.flow
    try:
        kept = flows.load_flow(flow.name, flow.version)
    except FlowNotFoundError:
        return _Change(file, flow, None, "added")
    except FlowSerializationError:
        if not overwrite:
            raise
        return _Change(file, flow, None, "replaced")
    own = with_state(flow, kept, None)
    if own == kept:
        return _Change(file, own, kept, "unchanged")
    if overwrite:
        return _Change(file, own, kept, "replaced")
    raise FlowAlreadyExistsError(
        flow.name,
        flow.version,
        where=f"store '{store}'",
        why=f"'{file}' defines it otherwise",
        fix="give it another version, or pass --overwrite",
    )


def _make(flows: SqlFlows, changes: Sequence[_Change], store: str) -> None:
    """Make changes, all or none, unless something damaged is in the way: that goes first."""
    for one in changes:
        if one.done == "replaced" and one.kept is None:
            flows.delete_flow(one.flow.name, one.flow.version)
    try:
        flows.put_flows([(one.flow, one.kept) for one in changes])
    except StaleFlowError as exc:
        flow = next(one.flow for one in changes if (one.flow.name, one.flow.version) == (exc.flow_name, exc.version))
        fix = "look at it with chainweaver flows list, then push again"
        raise StaleFlowError(flow.name, flow.version, where=f"store '{store}'", fix=fix) from None


def pull(
    wanted: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Without a version: the highest.")],
    store: StoreOption = None,
    directory: Annotated[
        str, typer.Option("--output", "-o", metavar="DIR", help="Where the file is put; - for stdout.")
    ] = ".",
    form: Annotated[Form, typer.Option("--as", help="What it is written as.")] = Form.YAML,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """Get a flow out of a store, as a file."""
    with opened(store) as opened_store:
        flow = _found(opened_store.flows, wanted, shown_url(store))
    text = flow_to_yaml(flow) if form is Form.YAML else flow_to_json(flow) + "\n"
    if directory == "-":
        return Answer(data={**_data(flow), "text": text}, text=lambda screen: print(text, end=""))
    path = _path(flow, directory, form)
    if os.path.exists(path) and not overwrite:
        raise CommandLineError(f"There is a file '{path}' already", invalid=True, fix="--overwrite, or another -o DIR")
    try:
        os.makedirs(directory, exist_ok=True)
        write_whole(Path(path), text.encode("utf-8"), fsync=False)
    except OSError as exc:
        raise CommandLineError(f"'{path}' cannot be written: {exc.strerror}") from exc
    return Answer(
        data={**_data(flow), "file": path}, text=lambda screen: screen.line(f"{flow.name} {flow.version}  {path}")
    )


def _found(flows: SqlFlows, wanted: str, store: str) -> AnyFlow:
    """The flow that NAME or NAME@VERSION stands for; a name may have an @, a version has none."""
    keys = flows.list_keys()
    names = {name for name, _ in keys}
    name, _, version = wanted.rpartition("@")
    if not version or not name or ((name, version) not in keys and wanted in names):
        name, version = wanted.removesuffix("@"), ""
    versions = sorted_versions(one for known, one in keys if known == name)
    if not versions or version not in ("", *versions):
        raise FlowNotFoundError(
            name, version if versions else None, known=versions or sorted(names), where=f"store '{store}'"
        )
    return flows.load_flow(name, version or versions[-1])


def _path(flow: AnyFlow, directory: str, form: Form) -> str:
    refused = objection(flow.name, flow.version)
    if refused is not None:
        raise CommandLineError(f"No file can be named after it: {refused}", invalid=True, fix="-o - writes to stdout")
    return os.path.join(directory, f"{flow.name}.flow.{form.value}")


COMMANDS: dict[str, Callable[..., Answer]] = {"list": list_, "push": push, "pull": pull}
