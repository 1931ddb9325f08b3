"""Checkpoints in a directory: one file per run, one line per finished step.

A line is the checksum of its payload, a space, and the payload: JSON, and after a zero byte the long byte strings that
JSON would blow up. Large arrays, frames, tables, tensors and byte strings lie beside it, in files of a folder, and are
there before the line that names them. The first line is the header. A last line that does not check out was cut off by
a crash and never committed; anywhere else it is damage. Lines only ever get added, so that a step once committed stays.

Called by the executor from any thread.
"""

import os
import threading
import zlib
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from chainweaver.checkpoint.delta import StepDelta
from chainweaver.checkpoint.snapshot import ExecutionSnapshot, in_plan_order
from chainweaver.exceptions import (
    ArtifactCorruptError,
    CheckpointEncodeError,
    CheckpointNotFoundError,
    CheckpointVersionError,
    StoreUnavailableError,
    told,
)
from chainweaver.objects.artifacts import (
    Artifacts,
    ArtifactUnreadable,
    collector,
    remove_artifacts,
    remove_unfinished,
)
from chainweaver.objects.files import TEMPORARY_SUFFIX, is_safe_name, sync_directory, write_whole
from chainweaver.objects.plain import Fetch, PlainDecodeError, PlainEncodeError, decode_plain, encode_plain

_SUFFIX = ".checkpoint"
_FOLDER_SUFFIX = ".objects"
_FORMAT_VERSION = 1
_REMEMBERED_ENDS = 4_096
_DEFAULTS = StepDelta(0, "", "", "", "ok").as_dict()


class FileCheckpointer:
    """Keeps unfinished runs as files, so that another process can go on with them.

    Safe to use from many threads and, as long as each run is written by one process at a time, from many processes.
    Values have to be plain (see `chainweaver.objects.encode_plain`) or have a codec (see `chainweaver.objects.codecs`):
    the executor makes typed values plain before, and restores their declared types after.

    Args:
        root: The directory; made when it does not exist.
        fsync: What a committed step survives. True: also a power failure; every append waits for the disk (0.1 to
            10 ms). False: the death of the process at any moment, but not that of the machine.

    >>> import tempfile
    >>> from datetime import datetime, timezone
    >>> store = FileCheckpointer(tempfile.mkdtemp())
    >>> store.save(ExecutionSnapshot(trace_id="9f3c", flow_name="sum", flow_version="1.0.0", initial_input={"a": 1},
    ...                              started_at=datetime(2024, 5, 1, tzinfo=timezone.utc)))
    >>> store.append("9f3c", StepDelta(0, "add", "add", "5d1e", "ok", {"total": 3}))
    >>> FileCheckpointer(store.root).load("9f3c").context
    {'a': 1, 'total': 3}
    """

    wants_plain = True

    def __init__(self, root: str | os.PathLike[str], *, fsync: bool = True) -> None:
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        self._fsync = fsync
        # How long each file is after its last good line. A file of another length is looked at again.
        self._ends: OrderedDict[str, int] = OrderedDict()
        self._ends_lock = threading.Lock()
        # A run is written by one thread at a time; a fixed number of locks serves any number of runs.
        self._write_locks = tuple(threading.Lock() for _ in range(64))

    def save(self, snapshot: ExecutionSnapshot) -> None:
        """Write a whole snapshot in one move; an older one of the same run is replaced.

        Raises:
            ValueError: The trace id is not safe as a file name.
            CheckpointEncodeError: A value is not plain and has no codec. Nothing is written.
            OSError: The file cannot be written. An older one stays.
        """
        path = self._path(snapshot.trace_id)
        artifacts = self._artifacts(snapshot.trace_id)
        data = b"".join([_header(snapshot, artifacts), *(_step_line(step, artifacts) for step in snapshot.steps)])
        with self._write_lock(snapshot.trace_id):
            artifacts.write()
            try:
                write_whole(path, data, fsync=self._fsync)
            except BaseException:
                artifacts.take_back()
                raise
            self._remember_end(snapshot.trace_id, len(data))
            artifacts.remove_others()

    def append(self, trace_id: str, delta: StepDelta) -> None:
        """Commit one finished step: one line at the end of the file, whatever the length of the run.

        What an interrupted writer left behind the last good line is cut off first.

        Raises:
            ValueError: The trace id is not safe as a file name.
            CheckpointNotFoundError: Nothing is kept for this run.
            CheckpointEncodeError: An output is not plain and has no codec. The file is as it was.
            ArtifactCorruptError: The file is damaged.
            OSError: The line cannot be written. The file is as it was.
        """
        path = self._path(trace_id)
        artifacts = self._artifacts(trace_id)
        line = _step_line(delta, artifacts)
        with self._write_lock(trace_id):
            try:
                handle = os.open(path, os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0))
            except FileNotFoundError:
                raise self._not_found(trace_id) from None
            try:
                end = self._good_end(trace_id, path, handle)
                artifacts.write()
                try:
                    self._write_line(handle, line, end)
                except BaseException:
                    artifacts.take_back()
                    raise
            finally:
                os.close(handle)
            self._remember_end(trace_id, end + len(line))

    def load(self, trace_id: str) -> ExecutionSnapshot:
        """The run as its last committed step left it, steps in plan order.

        Raises:
            ValueError: The trace id is not safe as a file name.
            CheckpointNotFoundError: Nothing is kept for this run.
            CheckpointVersionError: The file was written in a format that is not read here.
            ArtifactCorruptError: The file is damaged, or one beside it; the message names it, and line or step.
            StoreUnavailableError: The file cannot be read.
        """
        path = self._path(trace_id)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise self._not_found(trace_id) from None
        except OSError as exc:
            fix = "see that this user may read the file, and that its disk answers"
            raise StoreUnavailableError(str(self.root), told(exc), fix=fix) from exc
        payloads, _ = _good_lines(data, path)
        fetch = self._artifacts(trace_id).fetch
        head, *steps = [_read_payload(payload, path, number, fetch) for number, payload in enumerate(payloads, start=1)]
        snapshot = _read_header(head, trace_id, path)
        snapshot.steps = in_plan_order(_read_step(step, path, number) for number, step in enumerate(steps, start=2))
        return snapshot

    def delete(self, trace_id: str) -> None:
        """Remove the file of a run, and what lies beside it. Nothing happens when there is none.

        Raises:
            ValueError: The trace id is not safe as a file name.
        """
        path = self._path(trace_id)
        with self._write_lock(trace_id):
            with self._ends_lock:
                self._ends.pop(trace_id, None)
            path.unlink(missing_ok=True)
            remove_artifacts(self._folder(trace_id))
            if self._fsync:
                sync_directory(self.root)

    def list_trace_ids(self) -> list[str]:
        """The ids of all runs that have a file, sorted."""
        names = (path.name[: -len(_SUFFIX)] for path in self.root.iterdir() if path.name.endswith(_SUFFIX))
        return sorted(name for name in names if is_safe_name(name))

    def clear_leftovers(self) -> None:
        """Remove what writers that died while they saved left behind. Not while others save."""
        for path in self.root.glob(f".*{_SUFFIX}{TEMPORARY_SUFFIX}"):
            path.unlink(missing_ok=True)
        for folder in self.root.glob(f"*{_FOLDER_SUFFIX}"):
            self._clear_folder(folder)

    def _clear_folder(self, folder: Path) -> None:
        trace_id = folder.name.removesuffix(_FOLDER_SUFFIX)
        named: set[str] = set()
        try:
            path = self._path(trace_id)
            payloads, _ = _good_lines(path.read_bytes(), path)
            for number, payload in enumerate(payloads, start=1):
                _read_payload(payload, path, number, collector(named))
        except FileNotFoundError:
            remove_artifacts(folder)
            return
        except (ValueError, ArtifactCorruptError):  # not a folder of this store, or one of a file that is to be mended
            return
        self._artifacts(trace_id).remove_others(named)
        remove_unfinished(folder)

    def _artifacts(self, trace_id: str) -> Artifacts:
        return Artifacts(self._folder(trace_id), fsync=self._fsync)

    def _folder(self, trace_id: str) -> Path:
        return self.root / (trace_id + _FOLDER_SUFFIX)

    def _path(self, trace_id: str) -> Path:
        if not is_safe_name(trace_id):
            raise ValueError(
                f"Trace id {trace_id!r} is not safe as a file name: letters, digits, '.', '_' and '-' only, 128 at "
                "most, beginning with a letter or digit, no reserved names."
            )
        return self.root / (trace_id + _SUFFIX)

    def _write_lock(self, trace_id: str) -> threading.Lock:
        return self._write_locks[hash(trace_id) % len(self._write_locks)]

    def _good_end(self, trace_id: str, path: Path, handle: int) -> int:
        """Where the next line goes. Cuts off what stands behind the last good line."""
        size = os.fstat(handle).st_size
        with self._ends_lock:
            if self._ends.get(trace_id) == size:
                return size
        _, end = _good_lines(path.read_bytes(), path)
        if end != size:
            os.ftruncate(handle, end)
        return end

    def _write_line(self, handle: int, line: bytes, end: int) -> None:
        try:
            written = os.write(handle, line)
            while written < len(line):
                written += os.write(handle, line[written:])
            if self._fsync:
                _sync(handle)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(handle, end)
            raise

    def _remember_end(self, trace_id: str, end: int) -> None:
        with self._ends_lock:
            self._ends[trace_id] = end
            self._ends.move_to_end(trace_id)
            if len(self._ends) > _REMEMBERED_ENDS:
                self._ends.popitem(last=False)

    def _not_found(self, trace_id: str) -> CheckpointNotFoundError:
        return CheckpointNotFoundError(trace_id, known=self.list_trace_ids())


# The length changes with every append, and fdatasync writes that too; only times of access may be lost.
_sync = getattr(os, "fdatasync", os.fsync)


def _header(snapshot: ExecutionSnapshot, artifacts: Artifacts) -> bytes:
    fields = {name: getattr(snapshot, name) for name in type(snapshot).model_fields if name != "steps"}
    try:
        return _line({"format_version": _FORMAT_VERSION, **fields}, artifacts)
    except PlainEncodeError as exc:
        refused = _refusal_in(snapshot.initial_input, artifacts) or exc
        detail = f"type '{refused.type_name}': {refused.reason}"
        raise CheckpointEncodeError(snapshot.flow_name, -1, refused.key, detail) from exc


def _refusal_in(values: dict[str, Any], artifacts: Artifacts) -> PlainEncodeError | None:
    """Why a dict cannot be written, told by its own key; None where it can."""
    try:
        encode_plain(values, [], artifacts.put_aside)
    except PlainEncodeError as exc:
        return exc
    return None


def _step_line(step: StepDelta, artifacts: Artifacts) -> bytes:
    # Most fields of most steps have their default: leaving them out keeps a line near the size of its outputs.
    fields = {
        name: value
        for name, value in step.as_dict().items()
        if name != "outputs" and (name == "step_index" or value != _DEFAULTS[name])
    }
    try:
        return _line({**fields, "outputs": step.outputs}, artifacts)
    except PlainEncodeError as exc:
        refused = _refusal_in(step.outputs or {}, artifacts) or exc
        detail = f"type '{refused.type_name}': {refused.reason}"
        raise CheckpointEncodeError(
            step.tool_name, step.step_index, refused.key, detail, step_name=step.step_id
        ) from exc


def _line(fields: dict[str, Any], artifacts: Artifacts) -> bytes:
    blobs: list[bytes] = []
    payload = encode_plain(fields, blobs, artifacts.put_aside)
    if blobs:
        payload += b"\0" + b"".join(blobs).replace(b"\x1b", b"\x1b0").replace(b"\n", b"\x1b1")
    return b"%08x %b\n" % (zlib.crc32(payload), payload)


def _good_lines(data: bytes, path: Path) -> tuple[list[bytes], int]:
    """The payloads of the lines that check out, and where the last of them ends.

    Raises:
        ArtifactCorruptError: The header, or a line with others behind it, does not check out.
    """
    *lines, rest = data.split(b"\n")
    payloads = []
    end = 0
    for number, line in enumerate(lines, start=1):
        payload = line[9:]
        if line[:9] != b"%08x " % zlib.crc32(payload):
            if number == 1 or number < len(lines) or rest:
                raise _corrupt(path, number, "its checksum does not match.")
            break
        payloads.append(payload)
        end += len(line) + 1
    if not payloads:
        raise _corrupt(path, 1, "the header is incomplete.")
    return payloads, end


def _read_payload(payload: bytes, path: Path, number: int, fetch: Fetch) -> dict[str, Any]:
    text, _, blobs = payload.partition(b"\0")
    blobs = blobs.replace(b"\x1b1", b"\n").replace(b"\x1b0", b"\x1b")
    try:
        return decode_plain(text, blobs, fetch)
    except ArtifactUnreadable as exc:
        fields = decode_plain(text, blobs, collector(set()))
        step_id, tool_name = fields.get("step_id"), fields.get("tool_name")
        whose = "the input of the run" if number == 1 else f"step '{step_id}' (tool '{tool_name}')"
        detail = f"{exc.reason}; {whose} needs it (line {number} of '{path}')."
        raise ArtifactCorruptError(str(exc.path or path), detail) from exc
    except PlainDecodeError as exc:
        raise _corrupt(path, number, f"{exc}.") from exc


def _read_header(fields: dict[str, Any], trace_id: str, path: Path) -> ExecutionSnapshot:
    found = fields.pop("format_version", None)
    if found != _FORMAT_VERSION:
        raise CheckpointVersionError(trace_id, str(found), _FORMAT_VERSION, where=str(path))
    if fields.get("trace_id") != trace_id:
        raise _corrupt(path, 1, f"it belongs to run '{fields.get('trace_id')}'.")
    try:
        return ExecutionSnapshot(**fields)
    except ValidationError as exc:
        raise _corrupt(path, 1, f"not a header: {exc}.") from exc


def _read_step(fields: dict[str, Any], path: Path, number: int) -> StepDelta:
    try:
        return StepDelta.from_dict({**_DEFAULTS, **fields})
    except (TypeError, ValueError) as exc:
        raise _corrupt(path, number, f"not a step: {exc}.") from exc


def _corrupt(path: Path, number: int, why: str) -> ArtifactCorruptError:
    return ArtifactCorruptError(str(path), f"line {number}: {why}")
