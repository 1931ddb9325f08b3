"""Runs and steps as rows: what a snapshot and a finished step look like in columns, and back.

Values are JSON by `encode_plain`; long byte strings follow it in a column of their own, and large objects lie in rows
of `chainweaver_artifacts` under the digest of their content. Nothing that is read can build anything but plain values
and the types of codecs. Called by `runs` and `cache`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from chainweaver.checkpoint import ExecutionSnapshot, StepDelta
from chainweaver.exceptions import ArtifactCorruptError, CheckpointEncodeError
from chainweaver.objects.artifacts import ArtifactUnreadable, SetAside, check_digest
from chainweaver.objects.plain import PlainDecodeError, PlainEncodeError, decode_plain, encode_plain
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


class StepRow(NamedTuple):
    """A finished step in columns, in the order of the table, without the run that it is of."""

    path: str
    step_index: int
    step_id: str
    tool_name: str
    fingerprint: str
    status: str
    outputs: str
    blobs: bytes | None
    more: str
    started_at: float
    duration_ns: int


def step_row(delta: StepDelta) -> tuple[StepRow, list[tuple[str, bytes]]]:
    """A finished step as a row, and its artifacts.

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
    row = StepRow(
        path,
        delta.step_index,
        step_id,
        tool_name,
        delta.fingerprint,
        delta.status,
        "" if delta.outputs is None else outputs,
        blobs,
        encode_plain(more).decode() if more else "",
        delta.started_at,
        delta.duration_ns,
    )
    return row, artifacts.contents() if artifacts.put else []


def read_step(row: Sequence[Any], place: str, read: ReadContent) -> StepDelta:
    """The finished step in a row.

    Raises:
        ArtifactCorruptError: The row is damaged, or an artifact of it; the message names both.
    """
    path, step_index, step_id, tool_name, fingerprint, status, outputs, blobs, more, started_at, duration_ns = row
    try:
        whose = f"step '{step_id}' of {place}"
        if status not in ("ok", "skipped", "failed"):
            raise PlainDecodeError(f"'{status}' is no status of a step")
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
    except (PlainDecodeError, TypeError, ValueError) as exc:
        raise ArtifactCorruptError(place, f"step '{step_id}' (row {step_index}): {exc}.") from exc


def header(snapshot: ExecutionSnapshot) -> tuple[str, bytes | None, list[tuple[str, bytes]]]:
    """How a run began, as JSON, with its long byte strings and its artifacts.

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
    return text, blobs, artifacts.contents()


_OWN_COLUMNS: Final = ("trace_id", "flow_name", "flow_version", "flow_digest", "steps")
_HEADER_FIELDS: Final = tuple(name for name in ExecutionSnapshot.model_fields if name not in _OWN_COLUMNS)


def read_header(
    columns: Mapping[str, str], text: str, blobs: bytes | None, place: str, read: ReadContent
) -> ExecutionSnapshot:
    """How a run began.

    Raises:
        ArtifactCorruptError: The row is damaged, or an artifact of it.
    """
    try:
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
