"""Traces in this process: for tests, notebooks and programs that show their latest runs.

What is kept is the JSON of a result, so nothing that a run has made is kept alive. Called from any thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from chainweaver.exceptions import TraceNotFoundError
from chainweaver.observe.traces.store import TraceEntry, chosen, entry_of, read, written

if TYPE_CHECKING:
    from chainweaver.observe.traces.store import Entries
    from chainweaver.results import ExecutionResult


class InMemoryTraceStore:
    """Keeps the results of finished runs in memory, the latest ones of them. Safe to use from many threads.

    Args:
        max_traces: How many are kept; when there are more, the one that was saved first goes. None: all of them.

    Raises:
        ValueError: `max_traces` is below 1.

    >>> from datetime import datetime, timezone
    >>> from chainweaver import ExecutionResult
    >>> noon = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
    >>> store = InMemoryTraceStore()
    >>> store.save(ExecutionResult(flow_name="sum", flow_version="1.0.0", success=True, final_output={"total": 3},
    ...                            trace_id="9f3c", started_at=noon, ended_at=noon, total_duration_ms=0.0))
    >>> store.load("9f3c").final_output, [entry.status for entry in store.list(flow_name="sum")]
    ({'total': 3}, ['ok'])
    """

    def __init__(self, max_traces: int | None = 1_000) -> None:
        if max_traces is not None and max_traces < 1:
            raise ValueError(f"max_traces has to be at least 1, not {max_traces!r}.")
        self._max_traces = max_traces
        self._kept: OrderedDict[str, tuple[TraceEntry, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def save(self, result: ExecutionResult) -> None:
        """Keep a result under its trace id; an older one of the same run is replaced."""
        entry, data = entry_of(result), written(result)
        with self._lock:
            self._kept[entry.trace_id] = (entry, data)
            self._kept.move_to_end(entry.trace_id)
            if self._max_traces is not None and len(self._kept) > self._max_traces:
                self._kept.popitem(last=False)

    def load(self, trace_id: str) -> ExecutionResult:
        """The result of a run, read anew each time.

        Raises:
            TraceNotFoundError: Nothing is kept for this run.
        """
        with self._lock:
            kept = self._kept.get(trace_id)
            known = sorted(self._kept) if kept is None else ()
        if kept is None:
            raise TraceNotFoundError(trace_id, known=known)
        return read(kept[1], trace_id)

    def list(self, flow_name: str | None = None, status: str | None = None, limit: int | None = 100) -> Entries:
        """The kept runs, the latest first: of one flow, with one status, at most so many.

        Raises:
            ValueError: The limit is below 0.
        """
        with self._lock:
            entries = [entry for entry, _ in self._kept.values()]
        return chosen(entries, flow_name, status, limit)

    def delete(self, trace_id: str) -> None:
        """Forget a run. Nothing happens when it is unknown."""
        with self._lock:
            self._kept.pop(trace_id, None)

    def __len__(self) -> int:
        """How many runs are kept."""
        return len(self._kept)
