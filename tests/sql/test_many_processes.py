"""Three processes of eight threads that all want the same runs of one database."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path

import pytest

from chainweaver.sql import open_store
from tests.conftest import PROOF
from tests.sql import sharing
from tests.sql.children import started, until
from tests.sql.places import integrity_of

PROCESSES, THREADS = 3, 8
RUNS = 1_000 if PROOF else 60
LEFT_BEHIND = RUNS // 10


def leave_behind(url: str, ledger: Path) -> None:
    """Runs that were handed back before their first step."""
    with open_store(url) as store, sharing.executor_of(store) as executor:
        executor.hand_back()
        for number in range(LEFT_BEHIND):
            with pytest.raises(Exception, match="cancelled"):
                executor.execute_flow("shared", {"n": number, "ledger": str(ledger)}, key=f"orphan{number}")
        assert [one.is_orphan for one in store.runs.list_runs()] == [True] * LEFT_BEHIND


def test_many_threads_of_many_processes_share_one_database(database_url: str, tmp_path: Path):
    """R32: all runs end, nobody sees a locked database, and no run is executed by two at a time."""
    ledger = tmp_path / "ledger"
    leave_behind(database_url, ledger)
    began = datetime.now(timezone.utc)
    with ExitStack() as stack:
        work = (sharing.main, database_url, tmp_path, THREADS, RUNS)
        processes = [stack.enter_context(started(*work)) for _ in range(PROCESSES)]
        until(lambda: len(list(tmp_path.glob("ready*"))) == PROCESSES)
        (tmp_path / "go").touch()
        told: Counter[str] = Counter()
        for process in processes:
            told.update(json.loads(process.said(600)))
    assert set(told) <= {"right", "claimed", "recovered"}
    assert told["right"] == PROCESSES * RUNS
    assert told["recovered"] == LEFT_BEHIND
    calls = Counter(line.split()[0] for line in ledger.read_text().splitlines())
    assert len(calls) == (RUNS + LEFT_BEHIND) * sharing.STEPS
    assert set(calls.values()) == {1}, "no step of any run was called twice"
    with open_store(database_url) as store:
        runs = store.runs.list_runs(limit=2 * RUNS)
        assert Counter(one.status for one in runs) == {"ok": RUNS + LEFT_BEHIND}
        assert {one.steps_done for one in runs} == {sharing.STEPS}
        assert all(one.owner is None and one.changed_at >= began for one in runs)
    assert integrity_of(database_url) == "ok"
