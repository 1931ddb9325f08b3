"""SIGTERM: a process that is told to stop hands its runs back, and others go on with them at once."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from chainweaver.sql import open_store
from tests.sql import pausing
from tests.sql.children import started, until
from tests.sql.test_paused_owner import calls, let_go


@pytest.mark.parametrize("manner", pausing.MANNERS)
def test_a_process_that_is_told_to_stop_hands_its_run_back_at_once(database_url: str, tmp_path: Path, manner: str):
    """R32: nobody waits for a claim of an hour to run out, and what was committed does not run again."""
    with started(pausing.main, database_url, tmp_path, manner, 3600, True, True) as process:
        let_go(tmp_path, 0)
        until(lambda: "1" in calls(tmp_path))
        process.send_signal(signal.SIGTERM)
        let_go(tmp_path, 1, 2, 3, 4)
        told = json.loads(process.said())
        begun = calls(tmp_path)
    assert told["error"] == "FlowCancelledError"
    assert told["status"] == "cancelled"
    assert "4" not in begun
    with open_store(database_url) as store, pausing.executor_of(store, manner) as executor:
        [info] = store.runs.list_runs()
        assert (info.status, info.is_orphan, info.owner) == ("running", True, None)
        committed = [step.step_id for step in store.runs.load(info.trace_id).steps]
        assert committed == told["ok"]
        assert committed[0] == "s0"
        [recovered] = executor.recover()
        assert recovered.error is None or manner == "asyncio"
        assert store.runs.info(info.trace_id).status == "ok" or manner == "asyncio"
    again = calls(tmp_path)[len(begun) :]
    assert not {f"s{at}" for at in again} & set(committed)


def test_the_step_that_is_under_way_is_finished_and_committed_before_the_run_is_handed_back(
    database_url: str, tmp_path: Path
):
    """R32: on the sync lane a tool is not interrupted, and what it has done is not thrown away."""
    with started(pausing.main, database_url, tmp_path, "sync", 3600, True, True) as process:
        let_go(tmp_path, 0)
        until(lambda: "1" in calls(tmp_path))
        process.send_signal(signal.SIGTERM)
        let_go(tmp_path, 1, 2, 3, 4)
        told = json.loads(process.said())
    assert told["ok"] == ["s0", "s1"]
    with open_store(database_url) as store:
        [trace_id] = store.runs.list_trace_ids()
        assert [step.step_id for step in store.runs.load(trace_id).steps] == ["s0", "s1"]


def test_a_run_that_crashed_before_its_first_step_is_there_and_one_that_never_began_is_not(
    database_url: str, tmp_path: Path
):
    """R32: a run is admitted before anything of it is done."""
    with open_store(database_url) as store:
        assert store.runs.list_runs() == []
        with started(pausing.main, database_url, tmp_path, "sync", 0.1, True, False) as process:
            until(lambda: calls(tmp_path) == ["0"])
            process.send_signal(signal.SIGKILL)
            until(process.has_ended)
        [info] = store.runs.list_runs()
        assert (info.status, info.steps_done) == ("running", 0)
        until(lambda: store.runs.info(info.trace_id).is_orphan)
        let_go(tmp_path, 0, 1, 2, 3, 4)
        with pausing.executor_of(store, "sync") as executor:
            [recovered] = executor.recover()
            assert recovered.trace_id == info.trace_id
            assert recovered.result is not None
            assert recovered.result.success
            assert executor.recover() == []
