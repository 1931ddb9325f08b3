"""Checkpoints in this process: for tests, and for runs that should survive an error but not a crash.

What is kept and what is handed out are copies. An append costs the same however long the run is. Called by the
executor from any thread.
"""

import threading
from typing import Any, NamedTuple

from chainweaver.checkpoint.delta import StepDelta
from chainweaver.checkpoint.snapshot import ExecutionSnapshot, in_plan_order
from chainweaver.exceptions import CheckpointEncodeError, CheckpointNotFoundError
from chainweaver.objects.copies import ATOMS, UncopyableError, independent_copy


class _Kept(NamedTuple):
    head: ExecutionSnapshot  # without steps
    # A delta never changes, so it is kept as it is, and a copy of its outputs at the same place of the other list.
    deltas: list[StepDelta]
    outputs: list[dict[str, Any] | None]


class InMemoryCheckpointer:
    """Keeps unfinished runs in memory. Safe to use from many threads.

    >>> from datetime import datetime, timezone
    >>> store = InMemoryCheckpointer()
    >>> store.save(ExecutionSnapshot(trace_id="9f3c", flow_name="sum", flow_version="1.0.0", initial_input={"a": 1},
    ...                              started_at=datetime(2024, 5, 1, tzinfo=timezone.utc)))
    >>> store.append("9f3c", StepDelta(0, "add", "add", "5d1e", "ok", {"total": 3}))
    >>> store.load("9f3c").context
    {'a': 1, 'total': 3}
    """

    def __init__(self) -> None:
        self._runs: dict[str, _Kept] = {}
        self._lock = threading.Lock()

    def save(self, snapshot: ExecutionSnapshot) -> None:
        """Keep a copy of a snapshot; an older one of the same run is replaced.

        Raises:
            CheckpointEncodeError: A value cannot be copied. Nothing is changed.
        """
        head = _copy_head(snapshot)
        outputs = [_copy_outputs(step) for step in snapshot.steps]
        with self._lock:
            self._runs[snapshot.trace_id] = _Kept(head, list(snapshot.steps), outputs)

    def append(self, trace_id: str, delta: StepDelta) -> None:
        """Commit one finished step of a run that was saved before. Costs the same however long the run is.

        Raises:
            CheckpointNotFoundError: Nothing is kept for this run.
            CheckpointEncodeError: An output cannot be copied. The checkpoint is as it was.
        """
        kept = self._runs.get(trace_id)
        if kept is None:
            raise self._not_found(trace_id)
        outputs = delta.outputs
        if outputs is not None:
            # Written out for the common case: a call and a set cost as much as the rest of this method.
            for value in outputs.values():
                if type(value) not in ATOMS:
                    outputs = _copy_outputs(delta)
                    break
            else:
                outputs = outputs.copy()
        # Appending to a list is atomic, and a step counts once its delta is there: no lock on the path of every step.
        kept[2].append(outputs)
        kept[1].append(delta)

    def load(self, trace_id: str) -> ExecutionSnapshot:
        """A copy of the run as it was kept last, its steps in plan order.

        Raises:
            CheckpointNotFoundError: Nothing is kept for this run.
        """
        kept = self._runs.get(trace_id)
        if kept is None:
            raise self._not_found(trace_id)
        snapshot = _copy_head(kept.head)
        # Deltas come last, so that the shorter list says how many steps are complete.
        steps = [delta.with_outputs(outputs) for delta, outputs in zip(kept.deltas, kept.outputs, strict=False)]
        snapshot.steps = [step.with_outputs(_copy_outputs(step)) for step in in_plan_order(steps)]
        return snapshot

    def delete(self, trace_id: str) -> None:
        """Forget a run. Nothing happens when it is unknown."""
        with self._lock:
            self._runs.pop(trace_id, None)

    def list_trace_ids(self) -> list[str]:
        """The ids of all runs that are kept, sorted."""
        with self._lock:
            return sorted(self._runs)

    def _not_found(self, trace_id: str) -> CheckpointNotFoundError:
        return CheckpointNotFoundError(trace_id, known=self.list_trace_ids())


def _copy_outputs(step: StepDelta) -> dict[str, Any] | None:
    if step.outputs is None:
        return None
    try:
        return independent_copy(step.outputs)
    except UncopyableError as exc:
        detail = f"type '{exc.type_name}': {exc.reason}"
        raise CheckpointEncodeError(
            step.tool_name, step.step_index, exc.key, detail, step_name=step.step_id, fix=_FIX
        ) from exc


_FIX = "return plain values or declared types, or run this flow without a checkpointer"


def _copy_head(snapshot: ExecutionSnapshot) -> ExecutionSnapshot:
    try:
        values = {name: independent_copy(getattr(snapshot, name)) for name in ("initial_input", "stated")}
    except UncopyableError as exc:
        raise CheckpointEncodeError(snapshot.flow_name, -1, exc.key, f"type '{exc.type_name}': {exc.reason}") from exc
    # The others hold names only: a copy of the dict itself is all it takes.
    names = {
        "tool_schema_hashes": dict(snapshot.tool_schema_hashes),
        "step_fingerprints": dict(snapshot.step_fingerprints),
        "sub_flows": dict(snapshot.sub_flows),
        "output_mappings": {step_id: dict(mapping) for step_id, mapping in snapshot.output_mappings.items()},
    }
    # Constructed and not copied by the model, which would go through the `copy` module field set and all.
    return ExecutionSnapshot.model_construct(**{**snapshot.__dict__, **values, **names, "steps": []})
