"""FlowRegistry: the flows that an executor can run, by name and version.

All state is one immutable snapshot, replaced as a whole under a lock; readers take it without one. The registry keeps
definitions of its own, and hands out copies: nobody changes a registered flow by changing an object.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from chainweaver.exceptions import (
    ChainWeaverError,
    DefinitionError,
    FlowAlreadyExistsError,
    FlowNotFoundError,
    StaleFlowError,
)
from chainweaver.flow import (
    DEFAULT_REF_POLICY,
    AnyFlow,
    DAGFlow,
    Flow,
    FlowStatus,
    SchemaRefPolicy,
    copy_flow,
    validate_dag_topology,
)
from chainweaver.flow.ref_check import check_policy, check_refs
from chainweaver.flow.refs import both
from chainweaver.registry.directory import (
    Comparison,
    Reading,
    ReloadReport,
    Remembered,
    compare,
    read_flows,
    remember,
)
from chainweaver.registry.follow import FollowHandle
from chainweaver.registry.intent import best_match
from chainweaver.registry.snapshot import EMPTY_SNAPSHOT, FlowKey, RegistrySnapshot
from chainweaver.registry.stores import RegistryStore, SharedRegistryStore
from chainweaver.registry.watch import DirectoryPoll, WatchHandle

if TYPE_CHECKING:
    from chainweaver.formats import FlowParseLimits
    from chainweaver.tools import Tool
    from chainweaver.tools.plugins import OnPluginError

__all__ = ["FlowRegistry"]

logger = logging.getLogger("chainweaver.registry")


class _Unset(Enum):
    UNSET = "unset"


_UNSET: Final = _Unset.UNSET


class FlowRegistry:
    """Flows by name and version; safe to read and to write from any number of threads and tasks.

    Args:
        store: Where definitions are kept beyond the process. What it holds is loaded at once; afterwards reads come
            from memory and writes go to the store first.
        discover_plugins: Whether to register the flows that installed packages offer; see `load_plugins`.
        schema_ref_policy: Which classes flows may name; every flow that comes in has to obey it, wherever it comes
            from. None: any. Executors resolve references under it as well.

    Attributes:
        snapshot: The current state. A write puts another object in its place, so two reads that see the same object see
            the same flows.

    Raises:
        PluginDiscoveryError: A plugin cannot be used.
        SchemaRefPolicyError: The store holds a flow that names a class which the policy does not permit.
        FlowSerializationError: The store holds something that is no flow. The message names it.

    >>> registry = FlowRegistry()
    >>> registry.register_flow(Flow(name="invoice", description="Adds up.", steps=[]))
    >>> registry
    FlowRegistry(flows=['invoice'])
    """

    def __init__(
        self,
        store: RegistryStore | None = None,
        *,
        discover_plugins: bool = False,
        schema_ref_policy: SchemaRefPolicy | None = None,
    ) -> None:
        self.store = store
        self.schema_ref_policy = DEFAULT_REF_POLICY if schema_ref_policy is None else schema_ref_policy
        check_policy(self.schema_ref_policy)
        self.snapshot: RegistrySnapshot = EMPTY_SNAPSHOT
        self._writing = threading.RLock()
        # One reading of directories at a time: of two at once the older one could be applied last.
        self._reading = threading.Lock()
        self._remembered: dict[Path, Remembered] = {}
        self._from_plugins: set[FlowKey] = set()
        self.refresh()
        if discover_plugins:
            self.load_plugins()

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
            overwrite: Whether it may replace one of the same name and version. In a store that processes share it
                replaces the one that this registry has read.

        Raises:
            FlowAlreadyExistsError: There is one of this name and version, and `overwrite` is False.
            StaleFlowError: The store is shared, and somebody else has changed the flow since it was read from there.
            DAGDefinitionError: The steps of a DAG do not fit together.
            SchemaRefPolicyError: The flow names classes that the policy of this registry does not permit.
        """
        own = self._accepted(flow)
        with self._writing:
            if not overwrite and (own.name, own.version) in self.snapshot:
                raise FlowAlreadyExistsError(own.name, own.version)
            if overwrite and isinstance(self.store, SharedRegistryStore):
                self.store.put_flows([(own, self._stored(own))])
            elif self.store is not None:
                self.store.save_flow(own, overwrite=overwrite)
            self._show([own])

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
            StaleFlowError: The store is shared, and somebody else has changed the flow since it was read from there.
        """
        changes: dict[str, object] = {}
        if status is not None:
            changes["status"] = FlowStatus(status)
        if tool_schema_hashes is not _UNSET:
            changes["tool_schema_hashes"] = None if tool_schema_hashes is None else dict(tool_schema_hashes)
        with self._writing:
            read = self.resolve(name, version)
            own = copy_flow(read, **changes)
            if changes and self._stored(own) is not None and isinstance(self.store, SharedRegistryStore):
                self.store.swap_flow(own, instead_of=read)
                self._show([own])
            elif changes:
                self._put([own])
        return copy_flow(own)

    def accept_tools(self, name: str, tools: Mapping[str, Tool], *, version: str | None = None) -> AnyFlow:
        """Record the present schemas of a flow's tools as those that it is accepted with, and return a copy of it.

        Fallbacks and candidates of decisions count as tools of the flow, tools of sub-flows do not. A missing tool
        cannot be accepted: what was recorded for it stays. A flow that was set to `needs_review` is active again when
        no tool is missing; a disabled one stays disabled.

        Args:
            name: Name of the flow.
            tools: The tools that are there, by name.
            version: Its version; None: the highest one.

        Raises:
            FlowNotFoundError: There is no such flow.
        """
        from chainweaver.tools.drift import check_flow_compatibility, schemas_to_accept

        with self._writing:
            flow = self.resolve(name, version)
            accepted = copy_flow(flow, tool_schema_hashes=schemas_to_accept(flow, tools))
            fits = flow.status is FlowStatus.NEEDS_REVIEW and not check_flow_compatibility(accepted, tools)
            return self.update_flow_state(
                name,
                version=flow.version,
                status=FlowStatus.ACTIVE if fits else None,
                tool_schema_hashes=accepted.tool_schema_hashes,
            )

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
                self._from_plugins.discard((name, one))

    def load_plugins(self, *, on_error: OnPluginError | None = None) -> None:
        """Register the flows that installed packages offer under the entry point group `chainweaver.flows`.

        Flows that the registry has already are left alone. What plugins offer is not written to the store: it goes
        when the package goes.

        Args:
            on_error: Called once for every plugin that cannot be used; the flows of the others are registered. None:
                raise when there is one, and register nothing.

        Raises:
            PluginDiscoveryError: Without `on_error`; all plugins that cannot be used are listed.
        """
        from chainweaver.registry.plugins import discover_flows

        offered = discover_flows(on_error=on_error, accept=self._accepted)
        with self._writing:
            new = [flow for flow in offered if (flow.name, flow.version) not in self.snapshot]
            self._from_plugins.update((flow.name, flow.version) for flow in new)
            self.snapshot = self.snapshot.changed(new)

    def refresh(self) -> None:
        """Load everything from the store again, because another process may have written to it.

        Without a store, and when the store says what the registry knows already, nothing changes. Flows of plugins,
        which are not in the store, stay.

        Raises:
            FlowSerializationError: Something in the store is no flow; the message names it. What the registry knew of
                it stays, and all others are loaded.
            SchemaRefPolicyError: The same for a flow that names a class which the policy does not permit.
        """
        if self.store is None:
            return
        with self._writing:
            known = self.snapshot
            loaded, refused = self._loaded(self.store)
            self._from_plugins.difference_update((flow.name, flow.version) for flow in loaded)
            loaded += [known[key] for key in self._from_plugins | refused.keys() if key in known]
            # A definition that did not change stays the same object, so that what was compiled from it stays valid.
            kept = [old if (old := known.get((flow.name, flow.version))) == flow else flow for flow in loaded]
            if len(kept) != len(known) or any(known.get((flow.name, flow.version)) is not flow for flow in kept):
                self.snapshot = EMPTY_SNAPSHOT.changed(kept)
        if refused:
            raise next(iter(refused.values()))

    def follow(
        self,
        *,
        on_change: Callable[[], object] | None = None,
        on_error: Callable[[Exception], object] | None = None,
    ) -> FollowHandle:
        """Load what other processes change in the store, as soon as they do, until the handle is stopped.

        Plans of flows that changed are not used again; runs that are going on keep theirs. PostgreSQL tells of changes,
        SQLite is asked ten times a second.

        Args:
            on_change: Called in the following thread after flows were loaded.
            on_error: Called there with what kept them from being loaded, and it is tried again; also with a definition
                that is none, while all others were loaded.

        Raises:
            ValueError: The registry has no store that processes share.
        """
        if not isinstance(self.store, SharedRegistryStore):
            raise ValueError("Only a registry with a shared store follows it: FlowRegistry(open_store(url).flows).")
        return FollowHandle(self.store, self.refresh, on_change, on_error)

    # -------------------------------------------------------------------------------------------------- directories

    def load_from_directory(
        self,
        directory: str | os.PathLike[str],
        *,
        overwrite: bool = True,
        limits: FlowParseLimits | None = None,
        policy: SchemaRefPolicy | None = None,
    ) -> ReloadReport:
        """Register the flows of all `*.flow.json`, `*.flow.yaml` and `*.flow.yml` files that lie directly in a
        directory.

        All or nothing: when one file is bad, or one flow may not be replaced, nothing is registered. A file that says
        what it said at its last reading leaves its flow alone, whatever became of it since. One that says something
        else replaces it; a status or accepted schemas that were set since stay, unless the file changes just those.

        Args:
            directory: The directory.
            overwrite: Whether flows may replace different ones of the same name and version.
            limits: Bounds for each file; None: the usual ones.
            policy: Which classes these flows may name; that of the registry holds as well. None: that one alone.

        Raises:
            FlowSerializationError: Files cannot be read as flows; all are named.
            SchemaRefPolicyError: A flow names classes that it may not name.
            DAGDefinitionError: The steps of a DAG do not fit together.
            FlowAlreadyExistsError: A flow differs from the registered one, and `overwrite` is False.
            StaleFlowError: Somebody else has put another one into the store since the registry looked there.
            OSError: The directory or a file cannot be read.
        """
        with self._reading:
            reading = self._read(directory, limits, policy)
            reading.raise_for_failures(directory)
            with self._writing:
                found = compare(reading, self.snapshot, self._last_of(directory))
                if found.updated and not overwrite:
                    path, flow = next(iter(found.updated.items()))
                    raise FlowAlreadyExistsError(flow.name, flow.version, where=str(path))
                try:
                    self._put([*found.added.values(), *found.updated.values()])
                except StaleFlowError as exc:
                    if overwrite:
                        raise
                    key = (exc.flow_name, exc.version)
                    path, flow = next(one for one in found.added.items() if (one[1].name, one[1].version) == key)
                    raise FlowAlreadyExistsError(flow.name, flow.version, where=str(path)) from None
                return self._reported(directory, reading, found)

    def reload_from_directory(
        self,
        directory: str | os.PathLike[str],
        *,
        limits: FlowParseLimits | None = None,
        policy: SchemaRefPolicy | None = None,
    ) -> ReloadReport:
        """Register what came or changed in a directory since it was loaded; see `load_from_directory`.

        All changes become visible at once; runs that are going on keep the flow that they started with. A file that
        cannot be used is listed in `report.failed` and logged on `chainweaver.registry`: its flow stays as it was, and
        the other files are not held up. Flows whose files are gone stay registered and are listed in `report.gone`.

        Args:
            directory: The directory.
            limits: Bounds for each file; None: the usual ones.
            policy: Which classes these flows may name; that of the registry holds as well. None: that one alone.

        Raises:
            OSError: The directory cannot be read.
        """
        report = self._reload(directory, limits, policy)
        assert report is not None, "only a reload that has to be current can be given up"
        return report

    def watch(
        self,
        directory: str | os.PathLike[str],
        *,
        interval_s: float = 1.0,
        limits: FlowParseLimits | None = None,
        policy: SchemaRefPolicy | None = None,
        on_reload: Callable[[ReloadReport], object] | None = None,
        on_error: Callable[[Exception], object] | None = None,
    ) -> WatchHandle:
        """Reload a directory now, and again whenever its flow files have changed, until the handle is stopped.

        Files are read as `reload_from_directory` does, once two looks in a row have found them the same: what is half
        written is left alone. A directory that vanishes is reported once and watched again when it is back. Whoever
        wants to start with good files only calls `load_from_directory` before.

        Args:
            directory: The directory.
            interval_s: Seconds between two looks.
            limits: Bounds for each file; None: the usual ones.
            policy: Which classes these flows may name; that of the registry holds as well. None: that one alone.
            on_reload: Called with the report after every reload but the first, whose report the handle has; in the
                watching thread.
            on_error: Called with every file that cannot be used, a directory that cannot be read, and what a callback
                raised; in the watching thread, for the first reading in this one.

        Raises:
            TypeError: The interval is no number.
            ValueError: The interval is not positive, or longer than a thread can wait.
            OSError: The directory cannot be read at the beginning; nothing is watched then.
        """
        if not hasattr(interval_s, "__float__"):
            raise TypeError(f"interval_s must be a positive number of seconds, not {interval_s!r}.")
        if not 0 < interval_s <= threading.TIMEOUT_MAX:
            raise ValueError(f"interval_s must be a positive number of seconds, not {interval_s}.")
        # Where the process works may change while the watch goes on.
        directory = Path(directory).absolute()
        polled = DirectoryPoll(directory, lambda is_current: self._reload(directory, limits, policy, is_current))
        report = self.reload_from_directory(directory, limits=limits, policy=policy)
        return WatchHandle(polled.poll, report=report, interval_s=interval_s, on_reload=on_reload, on_error=on_error)

    # ------------------------------------------------------------------------------------------------------- inside

    def _accepted(self, flow: AnyFlow) -> AnyFlow:
        """A copy for the registry, after the checks that need the flow as a whole."""
        if not isinstance(flow, (Flow, DAGFlow)):
            raise TypeError(f"A registry keeps Flow and DAGFlow objects, not {type(flow).__name__}.")
        own = copy_flow(flow)
        if isinstance(own, DAGFlow):
            validate_dag_topology(own)
        check_refs(own, self.schema_ref_policy)
        return own

    def _read(
        self, directory: str | os.PathLike[str], limits: FlowParseLimits | None, policy: SchemaRefPolicy | None
    ) -> Reading:
        if policy is not None:
            check_policy(policy)
        # Asked as a whole here, so that a refused reference is told with its place in the file.
        policy = both(self.schema_ref_policy, policy)
        return read_flows(directory, limits=limits, policy=policy, accept=self._accepted)

    def _reload(
        self,
        directory: str | os.PathLike[str],
        limits: FlowParseLimits | None,
        policy: SchemaRefPolicy | None,
        is_current: Callable[[], bool] | None = None,
    ) -> ReloadReport | None:
        """Read the directory and show what is good; None when the files changed while they were read."""
        with self._reading:
            reading = self._read(directory, limits, policy)
            if is_current is not None and not is_current():
                return None
            with self._writing:
                found = compare(reading, self.snapshot, self._last_of(directory))
                self._put_good_ones(found, reading)
                report = self._reported(directory, reading, found)
        for failed in report.failed:
            logger.warning("Flow file '%s' was not loaded: %s", failed.path, failed.error)
        return report

    def _last_of(self, directory: str | os.PathLike[str]) -> Remembered:
        return self._remembered.get(Path(directory).absolute(), Remembered())

    def _reported(self, directory: str | os.PathLike[str], reading: Reading, found: Comparison) -> ReloadReport:
        """Remember the reading, and say what it did."""
        remembered, gone = remember(reading, self._last_of(directory), self.snapshot)
        self._remembered[Path(directory).absolute()] = remembered
        return found.report(reading, gone)

    def _put(self, flows: list[AnyFlow]) -> None:
        """Write flows to the store, then show them, all or none; the caller holds the lock."""
        if flows:
            self._write(flows)
            self._show(flows)

    def _put_good_ones(self, found: Comparison, reading: Reading) -> None:
        """Write flows to the store, then show those together that it took; the caller holds the lock."""
        shown = []
        for path, flow in (*found.added.items(), *found.updated.items()):
            try:
                self._write([flow])
            except (ChainWeaverError, OSError, ValueError) as exc:
                found.leave_out(path)
                reading.fail(path, exc)
            else:
                shown.append(flow)
        if shown:
            self._show(shown)

    def _show(self, flows: list[AnyFlow]) -> None:
        """Put flows into the snapshot that the store, if there is one, holds by now."""
        self.snapshot = self.snapshot.changed(flows)
        if self.store is not None:
            self._from_plugins.difference_update((flow.name, flow.version) for flow in flows)

    def _stored(self, flow: AnyFlow) -> AnyFlow | None:
        """What was read from the store of the name and version of a flow, or written there; None for nothing."""
        key = (flow.name, flow.version)
        return None if key in self._from_plugins else self.snapshot.get(key)

    def _write(self, flows: list[AnyFlow]) -> None:
        """Have the store keep flows in the place of those that were read from it, all or none.

        Raises:
            StaleFlowError: It holds others by now. A store that cannot compare tells this of new flows only.
        """
        if isinstance(self.store, SharedRegistryStore):
            self.store.put_flows([(flow, self._stored(flow)) for flow in flows])
        elif self.store is not None:
            begun: list[AnyFlow] = []
            try:
                for flow in flows:
                    self._save(self.store, flow, begun)
            except BaseException:
                self._take_back(self.store, begun)
                raise

    def _save(self, store: RegistryStore, flow: AnyFlow, begun: list[AnyFlow]) -> None:
        begun.append(flow)
        try:
            store.save_flow(flow, overwrite=self._stored(flow) is not None)
        except FlowAlreadyExistsError:
            begun.pop()
            if store.load_flow(flow.name, flow.version) != flow:
                raise StaleFlowError(flow.name, flow.version) from None

    def _take_back(self, store: RegistryStore, begun: list[AnyFlow]) -> None:
        """Let a store hold what it held before flows were written to it, as far as they are there and can be undone."""
        for flow in begun:
            with contextlib.suppress(ChainWeaverError, OSError):
                if store.load_flow(flow.name, flow.version) != flow:
                    continue
                if (before := self._stored(flow)) is None:
                    store.delete_flow(flow.name, flow.version)
                else:
                    store.save_flow(before, overwrite=True)

    def _loaded(self, store: RegistryStore) -> tuple[list[AnyFlow], dict[FlowKey, DefinitionError]]:
        """The flows of a store, and why those are refused that are none, or not permitted."""
        if isinstance(store, SharedRegistryStore):
            # Together, and one by one only when there is one that hides the others.
            with contextlib.suppress(DefinitionError):
                return [self._accepted(flow) for flow in store.load_flows()], {}
        loaded: list[AnyFlow] = []
        refused: dict[FlowKey, DefinitionError] = {}
        for key in store.list_keys():
            try:
                loaded.append(self._accepted(store.load_flow(*key)))
            except FlowNotFoundError:
                # It was deleted since the keys were read.
                continue
            except DefinitionError as exc:
                refused[key] = exc
        return loaded, refused
