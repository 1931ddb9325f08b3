"""Where definitions are kept: the protocol of a store, one in memory, one in a directory of files.

A store keeps what it is given and gives back equal definitions that share nothing with what it keeps. It decides
nothing: which version is the highest, or whether a flow may run, is the business of the registry and the executor.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from chainweaver.exceptions import FlowAlreadyExistsError, FlowNotFoundError, FlowSerializationError
from chainweaver.flow import AnyFlow, copy_flow
from chainweaver.registry.snapshot import FlowKey

__all__ = ["FileStore", "InMemoryStore", "RegistryStore", "SharedRegistryStore", "UnsafeFlowNameError"]

_SUFFIX: Final = ".flow.json"
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*", re.ASCII)
_SAFE_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*", re.ASCII)
_RESERVED: Final = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?", re.IGNORECASE)
_LONGEST: Final = 120
_UNBOUNDED: Final = 2**62


@runtime_checkable
class RegistryStore(Protocol):
    """What a registry needs in order to outlive its process."""

    def save_flow(self, flow: AnyFlow, *, overwrite: bool = False) -> None:
        """Keep a definition.

        Raises:
            FlowAlreadyExistsError: There is one of this name and version, and `overwrite` is False.
        """

    def load_flow(self, name: str, version: str) -> AnyFlow:
        """A definition equal to the one that was saved; the caller may change it.

        Raises:
            FlowNotFoundError: There is none.
        """

    def has_flow(self, name: str, version: str) -> bool:
        """Whether there is a definition of this name and version."""

    def list_keys(self) -> list[FlowKey]:
        """Name and version of every definition, sorted as text."""

    def delete_flow(self, name: str, version: str) -> None:
        """Forget a definition.

        Raises:
            FlowNotFoundError: There is none.
        """


@runtime_checkable
class SharedRegistryStore(RegistryStore, Protocol):
    """A store that several processes change: it tells of changes, and refuses those that were decided on old facts."""

    def load_flows(self) -> list[AnyFlow]:
        """Every definition, sorted by name and version."""

    def swap_flow(self, flow: AnyFlow, *, instead_of: AnyFlow) -> None:
        """Put a definition in the place of the one that was read.

        Raises:
            StaleFlowError: What is kept is not what was read.
            FlowNotFoundError: It is there no longer.
        """

    def put_flows(self, flows: Iterable[tuple[AnyFlow, AnyFlow | None]]) -> None:
        """Keep definitions, each in the place of the one that was read; all of them or none.

        What is kept already just as it is to be is left alone: of several processes that put the same none is refused.

        Args:
            flows: What to keep, with what was read of this name and version; None where there was nothing.

        Raises:
            StaleFlowError: What is kept is not what was read.
        """

    def changes(self) -> int:
        """How often flows were changed."""

    def wait_for_change(self, seen: int, timeout_s: float, stopped: Callable[[], bool] = ...) -> int:
        """Wait until `changes` is another number than `seen`, or the time is over, or `stopped`; what it is by then."""


class UnsafeFlowNameError(FlowSerializationError, ValueError):
    """The name or version of a flow cannot be part of a file name."""


class InMemoryStore:
    """Keeps definitions in memory, for tests and for registries that share one store; safe between threads.

    >>> from chainweaver.flow import Flow
    >>> store = InMemoryStore()
    >>> store.save_flow(Flow(name="a", description="", steps=[]))
    >>> store.list_keys()
    [('a', '0.1.0')]
    """

    def __init__(self) -> None:
        self._flows: dict[FlowKey, AnyFlow] = {}
        self._lock = threading.Lock()

    def save_flow(self, flow: AnyFlow, *, overwrite: bool = False) -> None:
        """Keep a copy of the definition; see `RegistryStore.save_flow`."""
        own = copy_flow(flow)
        with self._lock:
            if not overwrite and (own.name, own.version) in self._flows:
                raise FlowAlreadyExistsError(own.name, own.version)
            self._flows[own.name, own.version] = own

    def load_flow(self, name: str, version: str) -> AnyFlow:
        """A copy of the definition; see `RegistryStore.load_flow`."""
        try:
            return copy_flow(self._flows[name, version])
        except KeyError:
            raise FlowNotFoundError(name, version) from None

    def has_flow(self, name: str, version: str) -> bool:
        """Whether there is a definition of this name and version."""
        return (name, version) in self._flows

    def list_keys(self) -> list[FlowKey]:
        """Name and version of every definition, sorted as text."""
        with self._lock:
            return sorted(self._flows)

    def delete_flow(self, name: str, version: str) -> None:
        """Forget a definition; see `RegistryStore.delete_flow`."""
        with self._lock:
            if self._flows.pop((name, version), None) is None:
                raise FlowNotFoundError(name, version)


class FileStore:
    """Keeps every definition in a file `<name>@<version>.flow.json` of one directory.

    A file is written beside its place, flushed to the disk and then renamed: a reader, also one in another process,
    sees the old definition or the new one, and so does whoever comes after a crash.

    Args:
        base_dir: The directory; it is made when it is missing.
    """

    def __init__(self, base_dir: str | os.PathLike[str]) -> None:
        self.base_dir = Path(base_dir)
        self.base_dir.mkdir(parents=True, exist_ok=True)

    def save_flow(self, flow: AnyFlow, *, overwrite: bool = False) -> None:
        """Write the definition; see `RegistryStore.save_flow`.

        Raises:
            UnsafeFlowNameError: The name or version cannot be part of a file name.
        """
        from chainweaver.formats import flow_to_json

        path = self._path(flow.name, flow.version)
        text = flow_to_json(flow)
        try:
            _write_atomically(path, text, overwrite=overwrite)
        except FileExistsError:
            raise FlowAlreadyExistsError(flow.name, flow.version, where=f"file '{path}'") from None

    def load_flow(self, name: str, version: str) -> AnyFlow:
        """Read a definition; see `RegistryStore.load_flow`.

        Raises:
            FlowSerializationError: The file holds no flow, or another one than its name says.
        """
        from chainweaver.formats import FlowParseLimits, flow_from_json

        path = self._path(name, version)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise FlowNotFoundError(name, version, where=f"directory '{self.base_dir}'") from None
        # What was registered has to come back, also a generated flow that nobody would write as a file.
        limits = FlowParseLimits(max_bytes=_UNBOUNDED, max_nodes=_UNBOUNDED, max_steps=_UNBOUNDED)
        flow = flow_from_json(data, source=str(path), limits=limits)
        if (flow.name, flow.version) != (name, version):
            detail = f"it holds flow '{flow.name}' version '{flow.version}', not what its file name says"
            raise FlowSerializationError(detail, source=str(path), fix="rename the file")
        return flow

    def has_flow(self, name: str, version: str) -> bool:
        """Whether there is a definition of this name and version."""
        return self._path(name, version).is_file()

    def list_keys(self) -> list[FlowKey]:
        """Name and version of every definition, sorted as text; files with other names are passed over."""
        keys = []
        for path in self.base_dir.glob(f"*{_SUFFIX}"):
            name, at, version = path.name.removesuffix(_SUFFIX).rpartition("@")
            if at and objection(name, version) is None:
                keys.append((name, version))
        return sorted(keys)

    def delete_flow(self, name: str, version: str) -> None:
        """Remove a definition; see `RegistryStore.delete_flow`."""
        try:
            self._path(name, version).unlink()
        except FileNotFoundError:
            raise FlowNotFoundError(name, version, where=f"directory '{self.base_dir}'") from None
        _flush_directory(self.base_dir)

    def _path(self, name: str, version: str) -> Path:
        refused = objection(name, version)
        if refused is not None:
            fix = "use letters, digits, '.', '_' and '-', and begin with a letter or digit"
            raise UnsafeFlowNameError(refused, fix=fix)
        return self.base_dir / f"{name}@{version}{_SUFFIX}"


def objection(name: str, version: str) -> str | None:
    """Why these cannot be part of a file name, as a clause; None when they can."""
    if len(name) > _LONGEST or not _SAFE_NAME.fullmatch(name):
        return f"flow name '{name}' is not safe as a file name"
    if _RESERVED.fullmatch(name):
        return f"flow name '{name}' is reserved by an operating system"
    if len(version) > _LONGEST or not _SAFE_VERSION.fullmatch(version):
        return f"flow version '{version}' is not safe as a file name"
    return None


def _write_atomically(path: Path, text: str, *, overwrite: bool) -> None:
    import tempfile

    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, path)
        else:
            _rename_new(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    _flush_directory(path.parent)


def _rename_new(temporary: str, path: Path) -> None:
    """Give a file a name that must not be taken, also when another process is faster."""
    try:
        # A link fails when its name is taken; a rename would not.
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # This file system has no links.
        if path.exists():
            raise FileExistsError(path) from None
        os.replace(temporary, path)


def _flush_directory(directory: Path) -> None:
    # A rename is on the disk when its directory is. Where directories cannot be opened, the file system sees to it.
    with contextlib.suppress(PermissionError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
