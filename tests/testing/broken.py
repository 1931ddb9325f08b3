"""Stores that break one clause each, for the clauses on shared runs, on operations that fail and on killed processes.

`SharedRuns` is a store in memory that keeps the contract of shared runs; the broken ones change one thing about it. The
lazy ones are file stores that acknowledge too early. For tests; child processes import it too.
"""

from __future__ import annotations

import contextlib
import threading
import time
from datetime import datetime, timezone
from typing import Any

from chainweaver import (
    FileCheckpointer,
    FileStepCache,
    FileStore,
    InMemoryCheckpointer,
    InMemoryStepCache,
    InMemoryStore,
)
from chainweaver.checkpoint import RunInfo
from chainweaver.exceptions import CheckpointNotFoundError, RunClaimedError, RunClaimLostError, RunKeyError

# ---- operations that fail


class Counter:
    """A block in which one operation of a store fails."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.left = -1
        self.happened = False

    def __enter__(self) -> Counter:
        self.left = self.after
        return self

    def __exit__(self, *exc: object) -> None:
        self.left = -1  # none fails any more

    def step(self) -> None:
        if self.left == 0:
            self.left = -1
            self.happened = True
            raise OSError("the disk is full")
        self.left = max(self.left - 1, -1)


class Stumbling:
    """A store whose operations can be made to fail; it calls `operate` before each."""

    counter = Counter(-1)

    def failing(self, after: int) -> Counter:
        self.counter = Counter(after)
        return self.counter

    def operate(self) -> None:
        self.counter.step()


class HalfSet(Stumbling, InMemoryStepCache):
    def set(self, key: Any, output: Any) -> None:
        self.operate()
        super().set(key, dict(list(output.items())[:1]))
        self.operate()
        super().set(key, output)


class MadeUpGet(Stumbling, InMemoryStepCache):
    def get(self, key: Any) -> Any:
        try:
            self.operate()
        except OSError:
            return {}
        return super().get(key)


class HalfCommit(Stumbling, InMemoryCheckpointer):
    def append(self, trace_id: str, delta: Any) -> None:
        self.operate()
        super().append(trace_id, delta._replace(outputs={}))
        self.operate()
        super().append(trace_id, delta)


class SilentCommit(Stumbling, InMemoryCheckpointer):
    def append(self, trace_id: str, delta: Any) -> None:
        with contextlib.suppress(OSError):
            self.operate()
            super().append(trace_id, delta)


class HalfSave(Stumbling, InMemoryCheckpointer):
    def save(self, snapshot: Any) -> None:
        self.operate()
        super().save(snapshot.model_copy(update={"steps": snapshot.steps[:1]}))
        self.operate()
        super().save(snapshot)


class ShortLoad(Stumbling, InMemoryCheckpointer):
    def load(self, trace_id: str) -> Any:
        snapshot = super().load(trace_id)
        try:
            self.operate()
        except OSError:
            snapshot.steps.pop()
        return snapshot


class DeletesFirst(Stumbling, InMemoryStore):
    def save_flow(self, flow: Any, *, overwrite: bool = False) -> None:
        if overwrite and self.has_flow(flow.name, flow.version):
            self.delete_flow(flow.name, flow.version)
        self.operate()
        super().save_flow(flow)


class MadeUpFlow(Stumbling, InMemoryStore):
    def load_flow(self, name: str, version: str) -> Any:
        flow = super().load_flow(name, version)
        try:
            self.operate()
        except OSError:
            return flow.model_copy(update={"steps": []})
        return flow


# ---- processes that are killed


class LazyCache(FileStepCache):
    """Says that an entry is kept, and writes it later."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path
        self.waiting: list[Any] = []

    def set(self, key: Any, output: Any) -> None:
        self.waiting.append((key, output))


class LazyCheckpointer(FileCheckpointer):
    """Says that a step is committed, and writes it later."""

    def __init__(self, path: str) -> None:
        super().__init__(path, fsync=False)
        self.path = path
        self.waiting: list[Any] = []

    def append(self, trace_id: str, delta: Any) -> None:
        self.waiting.append((trace_id, delta))


class LazyRegistry(FileStore):
    """Says that a flow is saved, and writes it later."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path
        self.waiting: list[Any] = []

    def save_flow(self, flow: Any, *, overwrite: bool = False) -> None:
        self.waiting.append(flow)


# ---- runs that are shared


class Shared:
    """What several stores have in common, as processes have a database."""

    def __init__(self) -> None:
        self.kept = InMemoryCheckpointer()
        self.runs: dict[str, dict[str, Any]] = {}
        self.lock = threading.RLock()


class SharedRuns(Stumbling):
    """Runs in memory, shared by all stores with the same data. A claim of a paused store runs out."""

    def __init__(self, data: Shared | None = None, *, lease_s: float = 0.2) -> None:
        self.data = Shared() if data is None else data
        self.lease_s = lease_s
        self.epochs: dict[str, int] = {}
        self.paused_at: float | None = None

    def close(self) -> None:
        self.paused_at = time.monotonic()

    # a checkpointer

    def save(self, snapshot: Any) -> None:
        with self.data.lock:
            self.data.kept.save(snapshot)
            self.data.runs[snapshot.trace_id] = self.row(snapshot)

    def row(self, snapshot: Any) -> dict[str, Any]:
        return {
            "flow": snapshot.flow_name, "version": snapshot.flow_version, "status": "running", "before": "running",
            "key": None, "digest": None, "owner": None, "epoch": 0, "error": None, "began": snapshot.started_at,
        }  # fmt: skip

    def append(self, trace_id: str, delta: Any) -> None:
        with self.data.lock:
            row = self.row_of(trace_id)
            if trace_id in self.epochs:
                self.check_epoch(trace_id, row)
            elif row["owner"] is not None:
                raise RunClaimedError(trace_id, "somebody")
            self.data.kept.append(trace_id, delta)

    def check_epoch(self, trace_id: str, row: dict[str, Any]) -> None:
        if row["epoch"] != self.epochs[trace_id]:
            raise RunClaimLostError(trace_id)

    def row_of(self, trace_id: str) -> dict[str, Any]:
        if trace_id not in self.data.kept.list_trace_ids():
            raise CheckpointNotFoundError(trace_id)
        return self.data.runs[trace_id]

    def load(self, trace_id: str) -> Any:
        return self.data.kept.load(trace_id)

    def list_trace_ids(self) -> list[str]:
        return self.data.kept.list_trace_ids()

    def delete(self, trace_id: str) -> None:
        with self.data.lock:
            self.data.kept.delete(trace_id)
            self.data.runs.pop(trace_id, None)

    # claims

    def admit(self, snapshot: Any, *, key: str | None = None, input_digest: str | None = None) -> str | None:
        with self.data.lock:
            self.operate()
            taken = self.of_key(key, snapshot.trace_id)
            if taken is not None:
                return self.checked_key(key, taken, snapshot, input_digest)
            self.data.kept.save(snapshot)
            row = {**self.row(snapshot), "key": key, "digest": input_digest}
            self.data.runs[snapshot.trace_id] = row
            self.take(snapshot.trace_id, row)
        return None

    def of_key(self, key: str | None, trace_id: str) -> str | None:
        return next((one for one, row in self.data.runs.items() if key and row["key"] == key and one != trace_id), None)

    def checked_key(self, key: Any, taken: str, snapshot: Any, digest: str | None) -> str:
        row = self.data.runs[taken]
        if row["flow"] != snapshot.flow_name:
            raise RunKeyError(key, taken, "another flow")
        if digest is not None and row["digest"] is not None and digest != row["digest"]:
            raise RunKeyError(key, taken, "another input")
        return taken

    def take(self, trace_id: str, row: dict[str, Any]) -> None:
        row["owner"] = self
        row["epoch"] += 1
        self.epochs[trace_id] = row["epoch"]

    def is_free(self, row: dict[str, Any]) -> bool:
        owner = row["owner"]
        return owner is None or owner.has_run_out()

    def has_run_out(self) -> bool:
        return self.paused_at is not None and time.monotonic() > self.paused_at + self.lease_s

    def claim(self, trace_id: str) -> None:
        with self.data.lock:
            row = self.row_of(trace_id)
            if not self.is_free(row):
                raise RunClaimedError(trace_id, "somebody")
            row["before"], row["status"] = row["status"], "running"
            self.take(trace_id, row)

    def claim_orphan(self, flow_names: Any, passed_over: Any = ()) -> str | None:
        with self.data.lock:
            for trace_id, row in self.data.runs.items():
                wanted = row["flow"] in flow_names and trace_id not in passed_over
                if wanted and row["status"] == "running" and self.is_free(row) and trace_id in self.list_trace_ids():
                    self.take(trace_id, row)
                    return trace_id
        return None

    def finish(self, trace_id: str, status: Any, *, error: str | None = None, keep: bool = True) -> None:
        with self.data.lock:
            row = self.data.runs[trace_id]
            self.check_epoch(trace_id, row)
            try:
                self.operate()
            except OSError:
                row["owner"] = None
                raise
            finally:
                self.epochs.pop(trace_id)
            row["status"] = row["before"] if status is None else status
            row["error"] = error
            row["owner"] = None
            if not keep and row["key"] is None:
                self.data.kept.delete(trace_id)

    # the log

    def info(self, trace_id: str) -> RunInfo:
        if trace_id not in self.data.runs:
            raise CheckpointNotFoundError(trace_id)
        row = self.data.runs[trace_id]
        owner = None if row["owner"] is None else "somebody"
        orphan = row["status"] == "running" and owner is None
        now = datetime.now(timezone.utc)
        steps = self.load(trace_id).completed_steps
        return RunInfo(
            trace_id, row["flow"], row["version"], row["status"], row["key"], row["error"], row["began"], now, steps,
            owner, orphan,
        )  # fmt: skip

    def list_runs(self, *, limit: int = 100, orphaned: bool | None = None, **wanted: Any) -> list[RunInfo]:
        found = [self.info(trace_id) for trace_id in reversed(self.data.runs)]
        found = [one for one in found if all(getattr(one, name) == value for name, value in wanted.items())]
        return [one for one in found if orphaned in (None, one.is_orphan)][:limit]

    def prune(self, *, keep_last: int | None = None, older_than: Any = None) -> int:
        if older_than is not None:
            return 0
        ended = [one.trace_id for one in self.list_runs() if one.status != "running"]
        for trace_id in ended[keep_last:]:
            self.delete(trace_id)
        return len(ended[keep_last:])


class NoHandBack(SharedRuns):
    finish = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if name == "finish":
            raise AttributeError(name)
        return super().__getattribute__(name)


class AdmitsUnclaimed(SharedRuns):
    def admit(self, snapshot: Any, **options: Any) -> Any:
        self.save(snapshot)


class KeepsKeyFirst(SharedRuns):
    def admit(self, snapshot: Any, *, key: Any = None, input_digest: Any = None) -> Any:
        taken = self.of_key(key, snapshot.trace_id)
        if taken is None:
            self.data.runs[snapshot.trace_id] = {**self.row(snapshot), "key": key}
        return taken or super().admit(snapshot, key=key)


class ForgetsKeys(SharedRuns):
    def of_key(self, key: Any, trace_id: str) -> Any:
        found = super().of_key(key, trace_id)
        return found if found is None or self.data.runs[found]["status"] == "running" else None


class AnyRunOfAKey(SharedRuns):
    def checked_key(self, key: Any, taken: str, snapshot: Any, digest: Any) -> str:
        return taken


class RacingKeys(SharedRuns):
    def admit(self, snapshot: Any, *, key: Any = None, input_digest: Any = None) -> Any:
        taken = self.of_key(key, snapshot.trace_id)
        time.sleep(0.05)
        return taken or super().admit(snapshot, key=None)


class ClaimsAnything(SharedRuns):
    def is_free(self, row: Any) -> bool:
        return True


class ClaimsTheUnknown(SharedRuns):
    def claim(self, trace_id: str) -> None:
        if trace_id in self.data.runs:
            super().claim(trace_id)


class RacingClaims(SharedRuns):
    def claim(self, trace_id: str) -> None:
        row = self.row_of(trace_id)
        if not self.is_free(row):
            raise RunClaimedError(trace_id, "somebody")
        time.sleep(0.05)
        self.take(trace_id, row)


class NeverRenews(SharedRuns):
    def admit(self, snapshot: Any, **options: Any) -> Any:
        self.paused_at = time.monotonic()
        return super().admit(snapshot, **options)


class NoEpochs(SharedRuns):
    def append(self, trace_id: str, delta: Any) -> None:
        self.data.kept.append(trace_id, delta)


class EndsAnything(SharedRuns):
    def finish(self, trace_id: str, status: Any, **options: Any) -> None:
        self.epochs[trace_id] = self.data.runs[trace_id]["epoch"]
        super().finish(trace_id, status, **options)


class NeverEnds(SharedRuns):
    def finish(self, trace_id: str, status: Any, **options: Any) -> None:
        super().finish(trace_id, "running" if status == "cancelled" else status, **options)


class OrphansOnce(SharedRuns):
    def finish(self, trace_id: str, status: Any, **options: Any) -> None:
        again = self.data.runs[trace_id]["epoch"] > 1
        super().finish(trace_id, "cancelled" if again else status, **options)


class OpensAgain(SharedRuns):
    def finish(self, trace_id: str, status: Any, **options: Any) -> None:
        super().finish(trace_id, status or "running", **options)


class KeepsAll(SharedRuns):
    def finish(self, trace_id: str, status: Any, *, error: Any = None, keep: bool = True) -> None:
        super().finish(trace_id, status, error=error)


class KeepsNone(SharedRuns):
    def finish(self, trace_id: str, status: Any, *, error: Any = None, keep: bool = True) -> None:
        super().finish(trace_id, status, error=error)
        if not keep:
            self.data.kept.delete(trace_id)


class AnyOrphan(SharedRuns):
    def claim_orphan(self, flow_names: Any, passed_over: Any = ()) -> Any:
        return super().claim_orphan({"sum", "other"}, passed_over)


class RacingOrphans(SharedRuns):
    def claim_orphan(self, flow_names: Any, passed_over: Any = ()) -> Any:
        found = [one.trace_id for one in self.list_runs(orphaned=True)]
        time.sleep(0.01)
        if not found:
            return None
        self.take(found[0], self.data.runs[found[0]])
        return found[0]


class OldestFirst(SharedRuns):
    def list_runs(self, **wanted: Any) -> list[RunInfo]:
        return super().list_runs(**wanted)[::-1]


class ListsAll(SharedRuns):
    def list_runs(self, *, key: Any = None, **wanted: Any) -> list[RunInfo]:
        return super().list_runs(**wanted)


class PrunesAll(SharedRuns):
    def prune(self, *, keep_last: int | None = None, older_than: Any = None) -> int:
        if older_than is None:
            self.data.kept._runs.clear()
        return super().prune(keep_last=keep_last, older_than=older_than)


class HalfAdmission(SharedRuns):
    def admit(self, snapshot: Any, *, key: Any = None, input_digest: Any = None) -> Any:
        if self.of_key(key, "") is not None:
            return snapshot.trace_id
        self.data.runs[snapshot.trace_id] = {**self.row(snapshot), "key": key}
        self.operate()
        return super().admit(snapshot, key=key, input_digest=input_digest)


class RenewsForEver(SharedRuns):
    def finish(self, trace_id: str, status: Any, **options: Any) -> None:
        self.operate()
        super().finish(trace_id, status, **options)


class LazyRuns(SharedRuns):
    """Says that a run is admitted and its steps are committed, and writes them later."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
