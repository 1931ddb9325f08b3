"""`chainweaver flows list|push|pull`: the flows of a store, and the way from files into it and back."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from chainweaver.cli._answer import OK, Answer
from chainweaver.cli._loading import Source, read_file
from chainweaver.cli._options import Format, OutputOption, TracebackOption
from chainweaver.cli._screen import Screen, counted
from chainweaver.cli._stores import StoreOption, opened, shown_url
from chainweaver.exceptions import CommandLineError, FlowAlreadyExistsError, FlowNotFoundError
from chainweaver.flow import AnyFlow, DAGFlow, FlowStatus, validate_dag_topology
from chainweaver.formats import flow_to_json, flow_to_yaml
from chainweaver.objects.files import write_whole
from chainweaver.registry import FlowRegistry
from chainweaver.registry.stores import objection
from chainweaver.sql import SqlStore

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

    A version that runs have begun with should not change: `chainweaver upgrade --check` says which would break.
    """
    sources = [_checked(read_file(file)) for file in files]
    with opened(store, makes=True) as opened_store:
        done = {source.name: _what_to_do(opened_store, source, overwrite, shown_url(store)) for source in sources}
        for source in sources:
            if done[source.name] != "unchanged":
                opened_store.flows.save_flow(source.flow, overwrite=overwrite)

    def text(screen: Screen) -> None:
        for source in sources:
            screen.line(f"{done[source.name]:<9}  {source.flow.name} {source.flow.version}  {source.name}")

    data = [{"file": one.name, **_data(one.flow), "done": done[one.name]} for one in sources]
    return Answer(data={"flows": data}, exit_code=OK, text=text)


def _checked(source: Source) -> Source:
    if isinstance(source.flow, DAGFlow):
        validate_dag_topology(source.flow)
    return source


def _what_to_do(store: SqlStore, source: Source, overwrite: bool, name: str) -> str:
    flow = source.flow
    if not store.flows.has_flow(flow.name, flow.version):
        return "added"
    if store.flows.load_flow(flow.name, flow.version) == flow:
        return "unchanged"
    if overwrite:
        return "replaced"
    raise FlowAlreadyExistsError(
        flow.name,
        flow.version,
        where=f"store '{name}'",
        why=f"'{source.name}' defines it otherwise",
        fix="give it another version, or pass --overwrite",
    )


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
    name, _, version = wanted.partition("@")
    with opened(store) as opened_store:
        flow = _found(opened_store, name, version or None, shown_url(store))
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


def _found(store: SqlStore, name: str, version: str | None, shown: str) -> AnyFlow:
    keys: Sequence[tuple[str, str]] = store.flows.list_keys()
    versions = [one for known, one in keys if known == name]
    if not versions or version not in (None, *versions):
        raise FlowNotFoundError(
            name,
            version if versions else None,
            known=versions or sorted({known for known, _ in keys}),
            where=f"store '{shown}'",
        )
    return FlowRegistry(store.flows).get_flow(name, version=version)


def _path(flow: AnyFlow, directory: str, form: Form) -> str:
    refused = objection(flow.name, flow.version)
    if refused is not None:
        raise CommandLineError(f"No file can be named after it: {refused}", invalid=True, fix="-o - writes to stdout")
    return os.path.join(directory, f"{flow.name}.flow.{form.value}")


COMMANDS: dict[str, Callable[..., Answer]] = {"list": list_, "push": push, "pull": pull}
