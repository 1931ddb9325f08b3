"""What a trace store is, and how traces are written and read as bytes.

Followed by the stores here and by those of others; called by recorders and by whoever looks at past runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, runtime_checkable

from pydantic import ValidationError

from chainweaver.exceptions import ArtifactCorruptError, violations
from chainweaver.results import TRACE_SCHEMA_VERSION, ExecutionResult

if TYPE_CHECKING:
    from pathlib import Path


class TraceEntry(NamedTuple):
    """One line of a list of traces.

    Attributes:
        trace_id: What `load` takes.
        status: "ok", "failed", "cancelled" or "waiting".
        started_at: An aware UTC datetime.
        duration_ms: How long the run took.
        parent_trace_id: Id of the run that it was nested in; None for an outermost one.
    """

    trace_id: str
    flow_name: str
    flow_version: str
    status: str
    started_at: datetime
    duration_ms: float
    parent_trace_id: str | None = None


# A method called `list` hides the type from the annotations behind it.
Entries: TypeAlias = list[TraceEntry]


@runtime_checkable
class TraceStore(Protocol):
    """Where the results of finished runs are kept.

    A store is called from many threads at once. What `load` returns belongs to the caller, and what is done to a result
    after `save` changes nothing that is kept.
    """

    def save(self, result: ExecutionResult) -> None:
        """Keep a result under its trace id; an older one of the same run is replaced."""
        ...

    def load(self, trace_id: str) -> ExecutionResult:
        """The result of a run.

        Raises:
            TraceNotFoundError: Nothing is kept for this run.
        """
        ...

    def list(self, flow_name: str | None = None, status: str | None = None, limit: int | None = 100) -> Entries:
        """The kept runs, the latest first: of one flow, with one status, at most so many."""
        ...

    def delete(self, trace_id: str) -> None:
        """Forget a run. Nothing happens when it is unknown."""
        ...


def entry_of(result: ExecutionResult) -> TraceEntry:
    """The line of a result in a list."""
    return TraceEntry(
        result.trace_id,
        result.flow_name,
        result.flow_version,
        result.status,
        result.started_at,
        result.total_duration_ms,
        result.parent_trace_id,
    )


def chosen(entries: Iterable[TraceEntry], flow_name: str | None, status: str | None, limit: int | None) -> Entries:
    """The entries that somebody asks for, the latest first.

    Raises:
        ValueError: The limit is below 0.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"limit has to be at least 0, not {limit!r}.")
    found = [
        entry
        for entry in entries
        if (flow_name is None or entry.flow_name == flow_name) and (status is None or entry.status == status)
    ]
    found.sort(key=lambda entry: (entry.started_at, entry.trace_id), reverse=True)
    return found[:limit]


def written(result: ExecutionResult) -> bytes:
    """A result as it is kept."""
    return result.model_dump_json().encode("utf-8")


def read(data: bytes, artifact: str | Path) -> ExecutionResult:
    """The result that was written.

    Raises:
        ArtifactCorruptError: The bytes are no trace, or one that another release wrote in another form.
    """
    try:
        result = ExecutionResult.model_validate_json(data)
    except ValidationError as exc:
        raise ArtifactCorruptError(str(artifact), violations(exc), fix=_FIX) from exc
    found = result.trace_schema_version
    if found != TRACE_SCHEMA_VERSION:
        detail = f"its trace schema has version '{found}', this release reads '{TRACE_SCHEMA_VERSION}'"
        raise ArtifactCorruptError(str(artifact), detail, fix="read it with the release that wrote it, or delete it")
    return result


_FIX = "delete it; nothing else depends on a trace"
