"""Going on with stored runs from a shell: the flows of a store with the tools that were named, and an executor of both.

Flows come from the store, from the directories of `--flows` and from the modules of `--tools`; tools from these modules
alone, since a store holds no code. Used by `run`, `runs` and `upgrade`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from chainweaver.cli._flows import Shelf
from chainweaver.cli._loading import Module, Source, load_modules, tools_of
from chainweaver.compiler import compile_flow
from chainweaver.compiler.identity import flow_digest
from chainweaver.exceptions import ChainWeaverError, CommandLineError, FlowAlreadyExistsError, FlowStatusError
from chainweaver.executor import FlowExecutor
from chainweaver.flow import AnyFlow
from chainweaver.registry import FlowRegistry
from chainweaver.sql import SqlStore
from chainweaver.tools import Tool


@dataclass(frozen=True, slots=True)
class Library:
    """Flows and tools that runs can go on with.

    Attributes:
        sources: By name and version.
        tools: By name.
        modules: Where the tools came from.
    """

    sources: Mapping[tuple[str, str], Source]
    tools: Mapping[str, Tool]
    modules: Sequence[Module]

    @property
    def flows(self) -> list[AnyFlow]:
        """All flows."""
        return [source.flow for source in self.sources.values()]

    def registry(self, flows: Sequence[AnyFlow] | None = None) -> FlowRegistry:
        """A registry of these flows, or of some of them."""
        registry = FlowRegistry()
        for flow in self.flows if flows is None else flows:
            registry.register_flow(flow)
        return registry

    def unfit(self) -> dict[tuple[str, str], str]:
        """The flows that would fail with these tools, each with what is wrong first."""
        registry, found = self.registry(), {}
        for flow in self.flows:
            try:
                errors = compile_flow(flow, self.tools, flows=registry).errors
            except ChainWeaverError as exc:
                found[flow.name, flow.version] = exc.sentence
            else:
                if errors:
                    found[flow.name, flow.version] = errors[0].detail
        return found


def library_of(
    store: SqlStore,
    name: str,
    tools: Sequence[str] | None,
    directories: Sequence[str] | None,
    *,
    first: Sequence[Source] = (),
) -> Library:
    """What runs of a store can go on with.

    Args:
        name: What messages call the store.
        tools: The modules that were named.
        directories: Where flows are that are not in the store.
        first: Flows that are taken in the place of any others of their name and version.

    Raises:
        CommandLineError: No module was named, or one flow is defined in two ways.
    """
    if not tools:
        raise CommandLineError("There are no tools to go on with", fix="name their module with --tools")
    modules = load_modules(tools)
    given = {(source.flow.name, source.flow.version): source for source in first}
    sources = {(flow.name, flow.version): Source(flow, name) for flow in store.flows.load_flows()} | given
    for source in Shelf(None, directories or (), modules).everything():
        key = (source.flow.name, source.flow.version)
        known = sources.setdefault(key, source)
        if key not in given and flow_digest(known.flow) != flow_digest(source.flow):
            raise _defined_twice(source, known.name)
    return Library(sources, tools_of(modules), modules)


def keep_flows(store: SqlStore, name: str, sources: Sequence[Source], *, force: bool) -> None:
    """Put flows into a store, so that their runs can be gone on with from there; a version never changes.

    Raises:
        CommandLineError: The store has another definition of one of them.
        FlowStatusError: In the store one of them is not active.
    """
    for source in sources:
        flow = source.flow
        try:
            store.flows.save_flow(flow)
        except FlowAlreadyExistsError:
            kept = store.flows.load_flow(flow.name, flow.version)
            if flow_digest(kept) != flow_digest(flow):
                raise _defined_twice(source, name) from None
            if kept.status.value != "active" and not force:
                raise FlowStatusError(flow.name, kept.status.value) from None


def _defined_twice(source: Source, where: str) -> CommandLineError:
    flow = source.flow
    return CommandLineError(
        f"Flow '{flow.name}' {flow.version} in '{source.name}' is not the one in '{where}'",
        invalid=True,
        why="runs go on with the version that they began with, so that a version never changes",
        fix="give the flow another version; chainweaver upgrade --check says which runs it would break",
    )


@contextmanager
def handing_back(executor: FlowExecutor) -> Iterator[None]:
    """Within the block, SIGTERM stops runs at their next command, such that others may go on with them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with executor.handing_back_on(signal.SIGTERM):
        yield
