"""Traces in a directory: one file per run, the JSON of its result and nothing else.

A file appears whole or not at all. Called from any thread, and by any number of processes.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from chainweaver.exceptions import ArtifactCorruptError, TraceNotFoundError
from chainweaver.objects.files import TEMPORARY_SUFFIX, is_safe_name, sync_directory, write_whole
from chainweaver.observe.traces.store import TraceEntry, chosen, entry_of, read, written

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chainweaver.observe.traces.store import Entries
    from chainweaver.results import ExecutionResult

_log = logging.getLogger("chainweaver.traces")

_SUFFIX = ".trace.json"

_Stamp = tuple[int, int, int]
"""What tells that a file is still the one that was read: its time, its size and its number on the disk."""


class FileTraceStore:
    """Keeps the results of finished runs as files. Safe to use from many threads and many processes.

    A file is what `model_dump_json` writes, and `ExecutionResult.model_validate_json` reads it as well.

    Args:
        root: The directory; made when it does not exist. Other files in it are left alone.
        fsync: Whether a saved trace survives a power failure. False: the death of the process at any moment, but not
            that of the machine; the run does not wait for the disk.

    >>> import tempfile
    >>> from datetime import datetime, timezone
    >>> from chainweaver import ExecutionResult
    >>> noon = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
    >>> store = FileTraceStore(tempfile.mkdtemp())
    >>> store.save(ExecutionResult(flow_name="sum", flow_version="1.0.0", success=True, final_output={"total": 3},
    ...                            trace_id="9f3c", started_at=noon, ended_at=noon, total_duration_ms=0.0))
    >>> FileTraceStore(store.root).load("9f3c").final_output
    {'total': 3}
    """

    def __init__(self, root: str | os.PathLike[str], *, fsync: bool = False) -> None:
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        self._fsync = fsync
        # Listing reads a file once and then only looks whether it is still the same.
        self._entries: dict[str, tuple[_Stamp, TraceEntry]] = {}

    def save(self, result: ExecutionResult) -> None:
        """Write a result under its trace id in one move; an older one of the same run is replaced.

        Raises:
            ValueError: The trace id is not safe as a file name.
            OSError: The file cannot be written. An older one stays.
        """
        write_whole(self._path(result.trace_id), written(result), fsync=self._fsync)

    def load(self, trace_id: str) -> ExecutionResult:
        """The result of a run.

        Raises:
            ValueError: The trace id is not safe as a file name.
            TraceNotFoundError: There is no file of this run.
            ArtifactCorruptError: The file is damaged, or of another run.
            OSError: The file cannot be read.
        """
        path = self._path(trace_id)
        try:
            return _checked(path, trace_id)
        except FileNotFoundError:
            raise TraceNotFoundError(trace_id, known=sorted(self._trace_ids())) from None

    def list(self, flow_name: str | None = None, status: str | None = None, limit: int | None = 100) -> Entries:
        """The kept runs, the latest first: of one flow, with one status, at most so many.

        A file that is damaged, or of another run, is left out, and named by a warning on `chainweaver.traces`; `load`
        says what is wrong with it.

        Raises:
            ValueError: The limit is below 0.
            OSError: A file cannot be read.
        """
        found = {}
        for trace_id in self._trace_ids():
            try:
                entry = self._entry(trace_id)
            except ArtifactCorruptError as exc:
                _log.warning("Trace left out of the list: %s", exc)
                continue
            if entry is not None:
                found[trace_id] = entry
        # Replaced and not changed: another thread may be listing.
        self._entries = found
        return chosen((entry for _, entry in found.values()), flow_name, status, limit)

    def delete(self, trace_id: str) -> None:
        """Remove the file of a run. Nothing happens when there is none.

        Raises:
            ValueError: The trace id is not safe as a file name.
        """
        self._path(trace_id).unlink(missing_ok=True)
        if self._fsync:
            sync_directory(self.root)

    def clear_leftovers(self) -> None:
        """Remove what writers that died while they saved left behind. Not while others save."""
        for path in self.root.glob(f".*{_SUFFIX}{TEMPORARY_SUFFIX}"):
            path.unlink(missing_ok=True)

    def _trace_ids(self) -> Iterator[str]:
        names = (path.name[: -len(_SUFFIX)] for path in self.root.iterdir() if path.name.endswith(_SUFFIX))
        return (name for name in names if is_safe_name(name))

    def _entry(self, trace_id: str) -> tuple[_Stamp, TraceEntry] | None:
        """The line of a file with the stamp of what was read; None when it has gone meanwhile."""
        path = self._path(trace_id)
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            known = self._entries.get(trace_id)
            return known if known is not None and known[0] == stamp else (stamp, entry_of(_checked(path, trace_id)))
        except FileNotFoundError:
            return None

    def _path(self, trace_id: str) -> Path:
        if not is_safe_name(trace_id):
            raise ValueError(
                f"Trace id {trace_id!r} is not safe as a file name: letters, digits, '.', '_' and '-' only, 128 at "
                "most, beginning with a letter or digit, no reserved names."
            )
        return self.root / (trace_id + _SUFFIX)


def _checked(path: Path, trace_id: str) -> ExecutionResult:
    result = read(path.read_bytes(), path)
    if result.trace_id != trace_id:
        raise ArtifactCorruptError(str(path), f"it belongs to run '{result.trace_id}'.")
    return result
