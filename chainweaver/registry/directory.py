"""Flow files of a directory: reading all of them, noticing which changed, watching for changes.

A reading of a directory is all or nothing: one bad file, and the registry stays as it was. Called by the registry.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

from chainweaver.exceptions import ChainWeaverError, FlowSerializationError
from chainweaver.flow import AnyFlow
from chainweaver.registry.snapshot import FlowKey

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DirectoryPoll", "ReloadReport", "WatchHandle", "flow_files", "read_flows"]

_SUFFIXES: Final = (".flow.json", ".flow.yaml", ".flow.yml")

logger = logging.getLogger("chainweaver.registry")


@dataclass(frozen=True, slots=True)
class ReloadReport:
    """What a reading of a directory did to the registry; name and version of the flows, in the order of their files.

    Attributes:
        added: Flows that the registry did not have.
        updated: Flows that the registry had in another form.
        unchanged: Flows that the registry had already.
    """

    added: tuple[FlowKey, ...] = ()
    updated: tuple[FlowKey, ...] = ()
    unchanged: tuple[FlowKey, ...] = ()


def flow_files(directory: str | os.PathLike[str]) -> list[Path]:
    """The flow files that lie directly in a directory, ordered by name.

    Raises:
        OSError: There is no such directory, or it cannot be read.
    """
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries if entry.name.endswith(_SUFFIXES) and entry.is_file())
    return [Path(directory) / name for name in names]


def read_flows(directory: str | os.PathLike[str]) -> dict[Path, AnyFlow]:
    """The flows of all flow files of a directory, in the order of the files.

    Raises:
        FlowSerializationError: Files cannot be read as flows, or two of them hold the same flow; all are named.
            Also for YAML files when the extra `yaml` is not installed.
    """
    from chainweaver.formats import load_flow_file

    flows: dict[Path, AnyFlow] = {}
    faults: list[ChainWeaverError] = []
    for path in flow_files(directory):
        try:
            flows[path] = load_flow_file(path)
        except ChainWeaverError as fault:
            faults.append(fault)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        lines = "\n".join(fault.sentence for fault in faults)
        raise FlowSerializationError(f"{len(faults)} files cannot be read\n{lines}", source=str(directory))
    _check_once(flows, str(directory))
    return flows


def _check_once(flows: dict[Path, AnyFlow], source: str) -> None:
    places: dict[FlowKey, list[str]] = {}
    for path, flow in flows.items():
        places.setdefault((flow.name, flow.version), []).append(f"'{path.name}'")
    twice = [
        f"flow '{name}' version '{version}' is in {' and '.join(files)}"
        for (name, version), files in places.items()
        if len(files) > 1
    ]
    if twice:
        raise FlowSerializationError("; ".join(twice), source=source, fix="keep one file per flow and version")


class DirectoryPoll:
    """Notices that flow files of a directory came, went or changed since the last look.

    Args:
        directory: The directory.
        reload: Called when something changed.
    """

    def __init__(self, directory: str | os.PathLike[str], reload: Callable[[], ReloadReport]) -> None:
        self._directory = directory
        self._reload = reload
        self._seen = self._look()

    def poll(self) -> ReloadReport | None:
        """Reload when something changed; None when nothing did.

        A change that cannot be read is reported once: it is looked at again when the files change again.

        Raises:
            ChainWeaverError: The files cannot be read as flows.
            OSError: The directory cannot be read.
        """
        now = self._look()
        if now == self._seen:
            return None
        self._seen = now
        return self._reload()

    def _look(self) -> list[tuple[str, int, int]]:
        looks = []
        for path in flow_files(self._directory):
            try:
                state = path.stat()
            except FileNotFoundError:
                # It went between the listing and the look; the next look sees the same without this file.
                continue
            looks.append((path.name, state.st_mtime_ns, state.st_size))
        return looks


class WatchHandle:
    """A watch on a directory; it goes on in a daemon thread until it is stopped.

    A handle is a context manager: leaving the block stops the watch.
    """

    def __init__(
        self,
        poll: Callable[[], ReloadReport | None],
        *,
        interval_s: float,
        on_reload: Callable[[ReloadReport], object] | None,
        on_error: Callable[[Exception], object] | None,
    ) -> None:
        self._poll = poll
        self._interval_s = interval_s
        self._on_reload = on_reload
        self._on_error = on_error
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="chainweaver-watch", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether changes are still noticed."""
        return self._thread.is_alive() and not self._stopped.is_set()

    def stop(self, timeout: float | None = None) -> None:
        """End the watch; may be called more than once, also from `on_reload`.

        Args:
            timeout: Seconds to wait for a reading that is going on; None: as long as it takes.
        """
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval_s):
            self._look_once()

    def _look_once(self) -> None:
        # A watch outlives whatever stands in a file or goes wrong in a callback: it tells and looks again.
        try:
            report = self._poll()
            if report is not None and self._on_reload is not None:
                self._on_reload(report)
        except Exception as exc:
            logger.warning("Flow files were not reloaded: %s", exc)
            if self._on_error is not None:
                self._tell(self._on_error, exc)

    def _tell(self, on_error: Callable[[Exception], object], error: Exception) -> None:
        try:
            on_error(error)
        except Exception:
            logger.exception("The on_error callback of a watch failed")
