"""FlowRegistry: the flows that an executor can run, by name and version.

All state is one immutable snapshot, replaced as a whole under a lock; readers take it without one. The registry keeps
definitions of its own, and hands out copies: nobody changes a registered flow by changing an object.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path
from typing import Final, Literal

from chainweaver.exceptions import FlowAlreadyExistsError
from chainweaver.flow import AnyFlow, DAGFlow, Flow, FlowStatus, copy_flow, validate_dag_topology
from chainweaver.registry.directory import DirectoryPoll, ReloadReport, WatchHandle, read_flows
from chainweaver.registry.intent import best_match
from chainweaver.registry.snapshot import EMPTY_SNAPSHOT, FlowKey, RegistrySnapshot
from chainweaver.registry.stores import RegistryStore

__all__ = ["FlowRegistry"]


class _Unset(Enum):
    UNSET = "unset"


_UNSET: Final = _Unset.UNSET


class FlowRegistry:
    """Flows by name and version; safe to read and to write from any number of threads and tasks.

    Args:
        store: Where definitions are kept beyond the process. What it holds is loaded at once; afterwards reads come
            from memory and writes go to the store first.
        discover_plugins: Whether to register the flows that installed packages offer under the entry point group
            `chainweaver.flows`. Flows that the store holds already are left alone.

    Attributes:
        snapshot: The current state. A write puts another object in its place, so two reads that see the same object see
            the same flows.

    Raises:
        PluginDiscoveryError: A plugin cannot be used.

    >>> registry = FlowRegistry()
    >>> registry.register_flow(Flow(name="invoice", description="Adds up.", steps=[]))
    >>> registry
    FlowRegistry(flows=['invoice'])
    """

    def __init__(self, store: RegistryStore | None = None, *, discover_plugins: bool = False) -> None:
        self.store = store
        self.snapshot: RegistrySnapshot = EMPTY_SNAPSHOT
        self._writing = threading.RLock()
        self._read_from: dict[Path, AnyFlow] = {}
        self.refresh()
        if discover_plugins:
            self._add_plugins()

    # ---------------------------------------------------------------------------------------------------- reading

    def resolve(self, name: str, version: str | None = None) -> AnyFlow:
        """The registry's own definition, without a copy: read it, never change it.

        Args:
            name: Name of the flow.
            version: Its version; None: the highest one, pre-releases counting below their finals.

        Raises:
            FlowNotFoundError: There is no such flow.
        """
        snapshot = self.snapshot
        try:
            # The same as snapshot.resolve, a call cheaper: this is the one look-up of every run.
            return snapshot.highest[name] if version is None else snapshot.flows[name, version]
        except KeyError:
            return snapshot.resolve(name, version)

    def get_flow(self, name: str, *, version: str | None = None) -> AnyFlow:
        """A copy of a definition.

        Args:
            name: Name of the flow.
            version: Its version; None: the highest one, pre-releases counting below their finals.

        Raises:
            FlowNotFoundError: There is no such flow. The text lists the known names or versions.
        """
        return copy_flow(self.snapshot.resolve(name, version))

    def list_flows(
        self, *, status: FlowStatus | str | None = None, exclude_status: FlowStatus | str | None = None
    ) -> list[AnyFlow]:
        """Copies of all definitions, ordered by name, then by version.

        Args:
            status: Only flows of this status.
            exclude_status: No flows of this status.
        """
        wanted = set(FlowStatus) if status is None else {FlowStatus(status)}
        if exclude_status is not None:
            wanted.discard(FlowStatus(exclude_status))
        return [copy_flow(flow) for flow in self.snapshot.values() if flow.status in wanted]

    def get_active_flows(self) -> list[AnyFlow]:
        """Copies of all definitions that the executor starts without being forced."""
        return self.list_flows(status=FlowStatus.ACTIVE)

    def list_flow_versions(self, name: str) -> list[str]:
        """The versions of a flow in ascending order.

        Raises:
            FlowNotFoundError: There is no such flow.
        """
        snapshot = self.snapshot
        snapshot.resolve(name)
        return snapshot.versions(name)

    def match_flow_by_intent(self, text: str) -> AnyFlow | None:
        """The active flow whose trigger conditions, name and description share the most words with a text.

        Words are counted; no model is asked, and equal calls have equal answers. Of every flow the highest active
        version is considered. None when no flow shares a word.
        """
        highest = {flow.name: flow for flow in self.snapshot.values() if flow.status is FlowStatus.ACTIVE}
        found = best_match(text, highest.values())
        return None if found is None else copy_flow(found)

    def __len__(self) -> int:
        return len(self.snapshot)

    def __repr__(self) -> str:
        return f"FlowRegistry(flows={self.snapshot.names()!r})"

    # ---------------------------------------------------------------------------------------------------- writing

    def register_flow(self, flow: AnyFlow, *, overwrite: bool = False) -> None:
        """Keep a copy of a definition; changing the flow afterwards changes nothing here.

        Args:
            flow: The definition.
            overwrite: Whether it may replace one of the same name and version.

        Raises:
            FlowAlreadyExistsError: There is one of this name and version, and `overwrite` is False.
            DAGDefinitionError: The steps of a DAG do not fit together.
        """
        own = _own(flow)
        with self._writing:
            if not overwrite and (own.name, own.version) in self.snapshot:
                raise FlowAlreadyExistsError(own.name, own.version)
            if self.store is not None:
                self.store.save_flow(own, overwrite=overwrite)
            self.snapshot = self.snapshot.changed([own])

    def update_flow_state(
        self,
        name: str,
        *,
        version: str | None = None,
        status: FlowStatus | str | None = None,
        tool_schema_hashes: dict[str, str] | Literal[_Unset.UNSET] | None = _UNSET,
    ) -> AnyFlow:
        """Put a definition with another state in the place of the registered one, and return a copy of it.

        No object changes: runs that are going on, and copies that were handed out, keep the state they have.

        Args:
            name: Name of the flow.
            version: Its version; None: the highest one.
            status: The new status; None: as it is.
            tool_schema_hashes: The accepted schema hashes; None clears them; left out: as they are.

        Raises:
            FlowNotFoundError: There is no such flow.
        """
        changes: dict[str, object] = {}
        if status is not None:
            changes["status"] = FlowStatus(status)
        if tool_schema_hashes is not _UNSET:
            changes["tool_schema_hashes"] = None if tool_schema_hashes is None else dict(tool_schema_hashes)
        with self._writing:
            own = copy_flow(self.resolve(name, version), **changes)
            if changes:
                self._put([own])
        return copy_flow(own)

    def set_flow_status(self, name: str, status: FlowStatus | str, *, version: str | None = None) -> AnyFlow:
        """Give a flow another status; the same as `update_flow_state` with a status."""
        return self.update_flow_state(name, version=version, status=status)

    def unregister_flow(self, name: str, *, version: str | None = None) -> None:
        """Forget a flow; runs that are going on are not affected.

        Args:
            name: Name of the flow.
            version: The version to forget; None: all of them.

        Raises:
            FlowNotFoundError: There is no such flow.
        """
        with self._writing:
            self.resolve(name, version)
            versions = self.snapshot.versions(name) if version is None else [version]
            for one in versions:
                if self.store is not None and self.store.has_flow(name, one):
                    self.store.delete_flow(name, one)
                self.snapshot = self.snapshot.changed(without=[(name, one)])

    def refresh(self) -> None:
        """Load everything from the store again, because another process may have written to it.

        Without a store, and when the store says what the registry knows already, nothing changes.
        """
        if self.store is None:
            return
        with self._writing:
            known = self.snapshot
            loaded = [_own(self.store.load_flow(name, version)) for name, version in self.store.list_keys()]
            # A definition that did not change stays the same object, so that what was compiled from it stays valid.
            kept = [old if (old := known.get((flow.name, flow.version))) == flow else flow for flow in loaded]
            if len(kept) != len(known) or any(known.get((flow.name, flow.version)) is not flow for flow in kept):
                self.snapshot = EMPTY_SNAPSHOT.changed(kept)

    # -------------------------------------------------------------------------------------------------- directories

    def load_from_directory(self, directory: str | os.PathLike[str], *, overwrite: bool = True) -> ReloadReport:
        """Register the flows of all `*.flow.json`, `*.flow.yaml` and `*.flow.yml` files that lie directly in a
        directory.

        All or nothing: when one file is bad, or one flow may not be replaced, nothing is registered. A file that says
        what it said at its last reading leaves its flow alone, with the status that it has been given since.

        Args:
            directory: The directory.
            overwrite: Whether flows may replace different ones of the same name and version.

        Raises:
            FlowSerializationError: Files cannot be read as flows; all are named.
            DAGDefinitionError: The steps of a DAG do not fit together.
            FlowAlreadyExistsError: A flow differs from the registered one, and `overwrite` is False.
            OSError: The directory cannot be read.
        """
        found = {path.absolute(): _own(flow) for path, flow in read_flows(directory).items()}
        with self._writing:
            report, changed = self._compared(found)
            if report.updated and not overwrite:
                raise FlowAlreadyExistsError(*report.updated[0])
            self._put(changed)
            self._read_from.update(found)
        return report

    def reload_from_directory(self, directory: str | os.PathLike[str]) -> ReloadReport:
        """Register what came or changed in a directory since it was loaded; see `load_from_directory`.

        Flows whose files are gone stay registered.
        """
        return self.load_from_directory(directory, overwrite=True)

    def watch(
        self,
        directory: str | os.PathLike[str],
        *,
        interval_s: float = 1.0,
        on_reload: Callable[[ReloadReport], object] | None = None,
        on_error: Callable[[Exception], object] | None = None,
    ) -> WatchHandle:
        """Load a directory now, and again whenever its flow files change, until the handle is stopped.

        A change that cannot be read is logged on `chainweaver.registry` and leaves the registry as it is.

        Args:
            directory: The directory.
            interval_s: Seconds between two looks.
            on_reload: Called in the watching thread after every reload.
            on_error: Called in the watching thread with what went wrong.

        Raises:
            ValueError: The interval is not positive.
            ChainWeaverError: The first loading failed, as in `load_from_directory`; nothing is watched then.
        """
        if not interval_s > 0:
            raise ValueError(f"interval_s must be positive, not {interval_s}.")
        polled = DirectoryPoll(directory, lambda: self.reload_from_directory(directory))
        self.load_from_directory(directory)
        return WatchHandle(polled.poll, interval_s=interval_s, on_reload=on_reload, on_error=on_error)

    # ------------------------------------------------------------------------------------------------------- inside

    def _compared(self, found: dict[Path, AnyFlow]) -> tuple[ReloadReport, list[AnyFlow]]:
        """What the flows that were read mean for the registry, and those that have to be put into it."""
        snapshot = self.snapshot
        added: list[FlowKey] = []
        updated: list[FlowKey] = []
        unchanged: list[FlowKey] = []
        changed: list[AnyFlow] = []
        for path, flow in found.items():
            key = (flow.name, flow.version)
            if key not in snapshot:
                added.append(key)
            elif flow == snapshot[key] or flow == self._read_from.get(path):
                unchanged.append(key)
                continue
            else:
                updated.append(key)
            changed.append(flow)
        return ReloadReport(tuple(added), tuple(updated), tuple(unchanged)), changed

    def _put(self, flows: Iterable[AnyFlow]) -> None:
        """Write flows to the store, then show them; the caller holds the lock."""
        listed = list(flows)
        if not listed:
            return
        if self.store is not None:
            for flow in listed:
                self.store.save_flow(flow, overwrite=True)
        self.snapshot = self.snapshot.changed(listed)

    def _add_plugins(self) -> None:
        from chainweaver.registry.plugins import offered_flows

        with self._writing:
            offered = [_own(flow) for flow in offered_flows()]
            self.snapshot = self.snapshot.changed(
                flow for flow in offered if (flow.name, flow.version) not in self.snapshot
            )


def _own(flow: AnyFlow) -> AnyFlow:
    """A copy for the registry, after the checks that need the flow as a whole."""
    if not isinstance(flow, (Flow, DAGFlow)):
        raise TypeError(f"A registry keeps Flow and DAGFlow objects, not {type(flow).__name__}.")
    own = copy_flow(flow)
    if isinstance(own, DAGFlow):
        validate_dag_topology(own)
    return own
