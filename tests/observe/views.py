"""Records and results made by hand, for tests of what is shown of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from chainweaver import ExecutionResult, StepRecord

NOON = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
TRACE = "ab" * 16


def a_record(step_index: int = 0, **facts: Any) -> StepRecord:
    given = {"tool_name": "login", "inputs": {}, "step_id": str(step_index), **facts}
    return StepRecord(step_index=step_index, started_at=NOON, ended_at=NOON, duration_ms=1.5, **given)


def a_result(*records: StepRecord, trace_id: str = TRACE, **facts: Any) -> ExecutionResult:
    given: dict[str, Any] = {"flow_name": "enter", "flow_version": "1.0.0", "success": True, **facts}
    given.setdefault("status", "ok" if given["success"] else "failed")
    given.setdefault("started_at", NOON)
    return ExecutionResult(
        execution_log=list(records), trace_id=trace_id, ended_at=NOON, total_duration_ms=2.5, **given
    )


def texts_of(shown: Any) -> Iterator[str]:
    """Every text in what JSON was read to, keys included."""
    if isinstance(shown, dict):
        for key, item in shown.items():
            yield key
            yield from texts_of(item)
    elif isinstance(shown, list):
        for item in shown:
            yield from texts_of(item)
    elif isinstance(shown, str):
        yield shown
