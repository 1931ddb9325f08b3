"""Runs and steps as rows: what a snapshot and a finished step look like in columns, and back.

Values are JSON by `encode_plain`; long byte strings follow it in a column of their own, and large objects lie in rows
of `chainweaver_artifacts` under the digest of their content. Every row carries a checksum over what is read of it and
over the run that it is of, so that damage is never taken for a value. Nothing that is read can build anything but plain
values and the types of codecs. Called by `runs` and `cache`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

from pydantic import ValidationError

from chainweaver.checkpoint import ExecutionSnapshot, StepDelta
from chainweaver.exceptions import ArtifactCorruptError, CheckpointEncodeError
from chainweaver.objects.artifacts import ArtifactUnreadable, SetAside, check_digest
from chainweaver.objects.plain import PlainDecodeError, PlainEncodeError, decode_plain, encode_plain
from chainweaver.sql.database import Row
from chainweaver.sql.texts import LONGEST, legible, text_of

ReadContent = Callable[[str], "bytes | None"]
"""The content of an artifact by its name; None where there is none."""

_COLUMNS: Final = ("step_index", "step_id", "tool_name", "fingerprint", "status", "outputs", "path")
_TIMES: Final = ("started_at", "duration_ns")
_DEFAULTS: Final = StepDelta(0, "", "", "", "ok").as_dict()
_OPTIONAL: Final = tuple(
    (at, name, _DEFAULTS[name]) for at, name in enumerate(StepDelta._fields) if name not in (*_COLUMNS, *_TIMES)
)


class RowArtifacts(SetAside):
    """The large objects of one row, which lie in rows of their own.

    Args:
        whose: What messages call the row.
        read: Looks for the content of one; None while the row is written.
    """

    def __init__(self, whose: str, read: ReadContent | None = None) -> None:
        super().__init__()
        self._whose = whose
        self._read = read

    def contents(self) -> list[tuple[str, bytes]]:
        """Name and content of what was put aside."""
        return [(name, b"".join(parts)) for name, parts in self.put.items()]

    def parts_of(self, name: str, codec: str, sizes: Sequence[int]) -> list[bytearray]:
        """Read from the row of that name; see `SetAside.parts_of`."""
        place = self.place_of(name)
        content = None if self._read is None or type(name) is not str else self._read(name)
        if content is None:
            raise ArtifactUnreadable(place, "it is missing")
        if not all(type(size) is int and size >= 0 for size in sizes) or sum(sizes) != len(content):
            raise ArtifactUnreadable(place, f"it has {len(content):,} bytes, not what its row says")
        view, parts = memoryview(content), []
        for size in sizes:
            parts.append(bytearray(view[:size]))
            view = view[size:]
        check_digest(place, name, codec, parts)
        return parts

    def place_of(self, name: str) -> str:
        """The artifact and whose it is."""
        return f"{name} of {self._whose}"


def content_of(found: Sequence[Row]) -> bytes | None:
    """What an artifact holds, of the row that was found; None where there is none.

    Raises:
        PlainDecodeError: It holds no byte string.
    """
    if not found:
        return None
    [(content,)] = found
    if not isinstance(content, (bytes, memoryview)):
        raise PlainDecodeError(f"it holds a {type(content).__name__} instead of bytes")
    return bytes(content)


def step_row(trace_id: str, delta: StepDelta) -> tuple[Row, list[tuple[str, bytes]]]:
    """A finished step of a run as a row without the number of the run, and its artifacts.

    Raises:
        CheckpointEncodeError: An output is not plain and has no codec.
    """
    artifacts = RowArtifacts("")
    try:
        outputs, blobs = _encoded(delta.outputs or {}, artifacts)
    except PlainEncodeError as exc:
        detail = f"type '{exc.type_name}': {exc.reason}"
        raise CheckpointEncodeError(
            delta.tool_name, delta.step_index, exc.key, detail, step_name=delta.step_id
        ) from exc
    # Most fields of most steps have their default: leaving them out keeps a row near the size of its outputs.
    more: dict[str, Any] = {name: delta[at] for at, name, default in _OPTIONAL if delta[at] != default}
    if delta.inside is not None:
        more["inside"] = [one.as_dict() for one in delta.inside]
    path, step_id, tool_name = _names(delta, more)
    fields = (
        path,
        delta.step_index,
        step_id,
        tool_name,
        delta.fingerprint,
        delta.status,
        "" if delta.outputs is None else outputs,
        blobs,
        encode_plain(more).decode() if more else "",
        float(delta.started_at),
        delta.duration_ns,
    )
    return (*fields, step_checksum(trace_id, fields)), artifacts.contents() if artifacts.put else []


def step_checksum(trace_id: str, fields: Sequence[Any]) -> int:
    """Of the columns of a step, without the checksum, and of the run that they are of."""
    path, index, step_id, tool_name, fingerprint, status, outputs, blobs, more, started_at, duration_ns = fields
    # One text and one pass: a step is committed in 40 us, and a checksum for each column would take 4 of them.
    head = f"{trace_id}\n{path}\n{index}\n{step_id}\n{tool_name}\n{fingerprint}\n{status}\n"
    text = f"{head}{started_at}\n{duration_ns}\n{more}\n{outputs}"
    checksum = zlib.crc32(text.encode("utf-8", "surrogatepass"))
    return checksum if blobs is None else zlib.crc32(blobs, checksum)


def read_step(trace_id: str, row: Sequence[Any], place: str, read: ReadContent) -> StepDelta:
    """The finished step in a row.

    Raises:
        ArtifactCorruptError: The row is damaged, or an artifact of it; the message names both.
    """
    *fields, checksum = row
    path, step_index, step_id, tool_name, fingerprint, status, outputs, blobs, more, started_at, duration_ns = fields
    try:
        whose = f"step '{step_id}' of {place}"
        if step_checksum(trace_id, fields) != checksum:
            raise PlainDecodeError("its checksum does not match")
        return StepDelta.from_dict(
            {
                "step_index": step_index,
                "step_id": step_id,
                "tool_name": tool_name,
                "fingerprint": fingerprint,
                "status": status,
                "outputs": _decoded(outputs, blobs, whose, read) if outputs else None,
                "started_at": started_at,
                "duration_ns": duration_ns,
                "path": _read_path(path),
                **(_inside_with_defaults(decode_plain(more)) if more else {}),
            }
        )
    except ArtifactUnreadable as exc:
        raise ArtifactCorruptError(
            str(exc.path or place), f"{exc.reason}; step '{step_id}' of {place} needs it."
        ) from exc
    except (PlainDecodeError, TypeError, ValueError, RecursionError) as exc:
        raise ArtifactCorruptError(place, f"step '{step_id}' (row {step_index}): {exc}.") from exc


def header(snapshot: ExecutionSnapshot) -> tuple[str, bytes | None, int, list[tuple[str, bytes]]]:
    """How a run began, as JSON, with its long byte strings, a checksum and its artifacts.

    Raises:
        CheckpointEncodeError: A value of the input is not plain and has no codec.
    """
    artifacts = RowArtifacts("")
    fields = {name: getattr(snapshot, name) for name in _HEADER_FIELDS}
    try:
        text, blobs = _encoded(fields, artifacts)
    except PlainEncodeError as exc:
        refused = _refusal_in(snapshot.initial_input, artifacts) or exc
        detail = f"type '{refused.type_name}': {refused.reason}"
        raise CheckpointEncodeError(snapshot.flow_name, -1, refused.key, detail) from exc
    columns = (snapshot.trace_id, snapshot.flow_name, snapshot.flow_version, snapshot.flow_digest)
    return text, blobs, header_checksum(columns, text, blobs), artifacts.contents()


def header_checksum(columns: Iterable[str], text: str, blobs: bytes | None) -> int:
    """Of what is read of the row of a run: its id, name, version and digest of the flow, and how it began."""
    checksum = zlib.crc32("\n".join((*columns, text)).encode("utf-8", "surrogatepass"))
    return checksum if blobs is None else zlib.crc32(blobs, checksum)


_OWN_COLUMNS: Final = ("trace_id", "flow_name", "flow_version", "flow_digest", "steps")
_HEADER_FIELDS: Final = tuple(name for name in ExecutionSnapshot.model_fields if name not in _OWN_COLUMNS)


def read_header(
    columns: Mapping[str, str], text: str, blobs: bytes | None, checksum: int, place: str, read: ReadContent
) -> ExecutionSnapshot:
    """How a run began.

    Args:
        columns: Id of the run; name, version and digest of its flow.

    Raises:
        ArtifactCorruptError: The row is damaged, or an artifact of it.
    """
    try:
        if header_checksum(columns.values(), text, blobs) != checksum:
            raise PlainDecodeError("its checksum does not match")
        return ExecutionSnapshot(**{**_decoded(text, blobs, f"the input of {place}", read), **columns})
    except ArtifactUnreadable as exc:
        raise ArtifactCorruptError(str(exc.path or place), f"{exc.reason}; the input of {place} needs it.") from exc
    except (PlainDecodeError, ValidationError, TypeError) as exc:
        raise ArtifactCorruptError(place, f"how it began: {exc}.") from exc


def _encoded(values: Mapping[str, Any], artifacts: RowArtifacts) -> tuple[str, bytes | None]:
    blobs: list[bytes] = []
    text = encode_plain(values, blobs, artifacts.put_aside).decode()
    return text, b"".join(blobs) if blobs else None


def _decoded(text: str, blobs: bytes | None, whose: str, read: ReadContent) -> dict[str, Any]:
    return decode_plain(text, blobs or b"", RowArtifacts(whose, read).fetch)


def _refusal_in(values: dict[str, Any], artifacts: RowArtifacts) -> PlainEncodeError | None:
    """Why a dict cannot be written, told by its own key; None where it can."""
    try:
        encode_plain(values, [], artifacts.put_aside)
    except PlainEncodeError as exc:
        return exc
    return None


def _read_path(text: str) -> list[str]:
    path = json.loads(text) if text else []
    if type(path) is not list or not all(type(segment) is str for segment in path):
        raise PlainDecodeError(f"{text!r} is no path")
    return path


def _names(delta: StepDelta, more: dict[str, Any]) -> tuple[str, str, str]:
    """Path, step and tool as columns hold them; what they do not hold goes to the other fields as it is."""
    path, step_id, tool_name = json.dumps(delta.path) if delta.path else "", delta.step_id, delta.tool_name
    if len(path) > LONGEST:
        # It is a part of the primary key, and PostgreSQL takes no long ones. Paths are ASCII here.
        path, more["path"] = json.dumps([blake2b(path.encode(), digest_size=20).hexdigest()]), list(delta.path)
    if text_of(step_id) is None:
        step_id, more["step_id"] = legible(step_id), step_id
    if text_of(tool_name) is None:
        tool_name, more["tool_name"] = legible(tool_name), tool_name
    return path, step_id, tool_name


def _inside_with_defaults(more: dict[str, Any]) -> dict[str, Any]:
    unknown = set(more) - {name for _, name, _ in _OPTIONAL} - {"path", "step_id", "tool_name"}
    if unknown:
        raise PlainDecodeError(f"a step has no '{min(unknown)}'")
    return more
