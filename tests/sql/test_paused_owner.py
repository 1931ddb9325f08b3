"""A process that is paused for longer than its claim holds, and wakes up after another one has ended its run."""

from __future__ import annotations

import json
import os
import signal
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from chainweaver.sql import open_store
from tests.sql import pausing
from tests.sql.children import Child, started, until
from tests.sql.places import rows_of

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")

LEASE_S = 0.4


def owner(url: str, place: Path, manner: str, *, keep: bool) -> AbstractContextManager[Child]:
    return started(pausing.main, url, place, manner, LEASE_S, keep, False)


def calls(place: Path) -> list[str]:
    file = place / "calls"
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


def let_go(place: Path, *steps: int) -> None:
    for at in steps:
        (place / f"go{at}").touch()


def stop(process: Child) -> None:
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)


@pytest.mark.parametrize(
    ("manner", "keep"), [("sync", True), ("sync", False), ("threads", True), ("asyncio", False), ("asyncio", True)]
)
def test_a_paused_owner_whose_run_was_taken_over_commits_nothing_when_it_wakes_up(
    database_url: str, tmp_path: Path, manner: str, keep: bool
):
    """R32: its commit is refused, its call raises RunClaimLostError with the result, and no row changes."""
    begun = {"sync": ["0", "1"]}.get(manner, ["0", "1", "2", "3"])
    with owner(database_url, tmp_path, manner, keep=keep) as process:
        let_go(tmp_path, 0)
        until(lambda: sorted(calls(tmp_path)) == begun)
        stop(process)
        let_go(tmp_path, 1, 2, 3, 4)
        with open_store(database_url) as store, pausing.executor_of(store, "sync", keep=keep) as executor:
            assert executor.recover() == []
            until(lambda: [one.is_orphan for one in store.runs.list_runs()] == [True])
            [recovered] = executor.recover()
        assert recovered.result is not None
        assert recovered.result.success
        after_it = ["1", "2", "3", "4"]
        assert calls(tmp_path)[len(begun) :] == after_it
        before = rows_of(database_url)
        process.send_signal(signal.SIGCONT)
        told = json.loads(process.said())
    assert told == {"error": "RunClaimLostError", "status": "cancelled", "ok": told["ok"]}
    assert "s0" in told["ok"]
    assert rows_of(database_url) == before
    # Whoever is told at one commit that the run is lost calls no further tool.
    assert calls(tmp_path)[len(begun) :] == after_it


@pytest.mark.parametrize("manner", ["threads"])
def test_an_owner_that_is_paused_for_long_and_not_missed_goes_on(database_url: str, tmp_path: Path, manner: str):
    """R32: a claim that has run out is still one, until somebody takes it."""
    with owner(database_url, tmp_path, manner, keep=True) as process:
        let_go(tmp_path, 0)
        until(lambda: "1" in calls(tmp_path))
        stop(process)
        let_go(tmp_path, 1, 2, 3, 4)
        with open_store(database_url) as store:
            until(lambda: [one.is_orphan for one in store.runs.list_runs()] == [True])
            process.send_signal(signal.SIGCONT)
            told = json.loads(process.said())
            [info] = store.runs.list_runs()
    assert told["error"] is None
    assert (info.status, info.steps_done) == ("ok", 5)
    assert sorted(calls(tmp_path)) == ["0", "1", "2", "3", "4"]


def test_an_owner_whose_step_fails_hears_as_well_that_the_run_is_no_longer_its_own(database_url: str, tmp_path: Path):
    """R32: a failed step is not committed, and how the run ends is decided by whoever took it over."""
    with owner(database_url, tmp_path, "sync", keep=True) as process:
        let_go(tmp_path, 0)
        until(lambda: "1" in calls(tmp_path))
        stop(process)
        with open_store(database_url) as store, pausing.executor_of(store, "sync") as executor:
            until(lambda: [one.is_orphan for one in store.runs.list_runs()] == [True])
            (tmp_path / "fail1").touch()
            let_go(tmp_path, 2, 3, 4)
            [trace_id] = store.runs.list_trace_ids()
            store.runs.claim(trace_id)
            process.send_signal(signal.SIGCONT)
            told = json.loads(process.said())
            assert told == {"error": "RunClaimLostError", "status": "failed", "ok": ["s0"]}
            store.runs.finish(trace_id, "running")
            (tmp_path / "fail1").unlink()
            let_go(tmp_path, 1)
            [recovered] = executor.recover()
    assert recovered.result is not None
    assert recovered.result.success
