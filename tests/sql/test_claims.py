"""Who may write into a run: its owner of this moment, and nobody who owned it before.

Two stores on one file stand for two processes where nothing but the store matters; where the process matters there is
a second one. A paused process is tested in test_paused_owner.py.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from chainweaver.checkpoint import ExecutionSnapshot, StepDelta
from chainweaver.exceptions import RunClaimedError, RunClaimLostError, StoreUnavailableError
from chainweaver.sql import SqlStore, open_store
from tests.sql.places import rows_of

LEASE_S = 0.05


def snapshot(trace_id: str) -> ExecutionSnapshot:
    return ExecutionSnapshot(
        trace_id=trace_id,
        flow_name="flow",
        flow_version="1.0.0",
        flow_digest="d",
        initial_input={"n": 1},
        started_at=datetime.now(timezone.utc),
    )


def step(index: int, value: int = 0) -> StepDelta:
    return StepDelta(index, f"s{index}", "tool", "f", "ok", outputs={"out": value})


def until(happened: Callable[[], Any], limit_s: float = 20.0) -> Any:
    """What a question is answered with as soon as the answer is not None."""
    ends = time.monotonic() + limit_s
    while (answer := happened()) is None:
        assert time.monotonic() < ends, "it never happened"
        time.sleep(0.005)
    return answer


@pytest.fixture
def url(database_url: str) -> str:
    return database_url


@pytest.fixture
def late(url: str) -> Iterator[SqlStore]:
    """A store that does not renew the claim of run "a", which it began."""
    with open_store(url, lease_s=LEASE_S) as store:
        store.runs.admit(snapshot("a"), key="k")
        store.runs.append("a", step(0, 1))
        store.runs.close()
        yield store


@pytest.fixture
def other(url: str, late: SqlStore) -> Iterator[SqlStore]:
    """A store that has taken the run over."""
    with open_store(url) as store:
        assert until(lambda: store.runs.claim_orphan(["flow"])) == "a"
        yield store


def test_the_commit_of_a_late_owner_is_refused_however_often_it_tries(late: SqlStore, other: SqlStore, url: str):
    """R32: several steps of a run may be under way when its claim is lost, and the first refusal is not the last."""
    other.runs.append("a", step(1, 1))
    other.runs.finish("a", "ok")
    before = rows_of(url)
    for again in range(3):
        with pytest.raises(RunClaimLostError):
            late.runs.append("a", step(1 + again, 666))
    with pytest.raises(RunClaimLostError):
        late.runs.finish("a", "failed", error="CW-E006")
    assert rows_of(url) == before


@pytest.mark.parametrize("forgotten", ["steps", "run"])
def test_a_late_owner_hears_that_it_lost_the_run_also_when_its_steps_are_gone(
    late: SqlStore, other: SqlStore, url: str, forgotten: str
):
    """R32: whoever took the run over may have ended and forgotten it; for the late owner that is the same."""
    other.runs.finish("a", "ok")
    if forgotten == "run":
        assert other.runs.prune(keep_last=0) == 1
    else:
        [keyed] = other.runs.list_runs()
        assert keyed.key == "k"
    before = rows_of(url)
    with pytest.raises(RunClaimLostError):
        late.runs.append("a", step(1, 666))
    with pytest.raises(RunClaimLostError):
        late.runs.finish("a", "ok", keep=False)
    assert rows_of(url) == before


def test_a_run_that_was_not_kept_is_lost_to_a_late_owner_as_any_other(url: str):
    """R32: its row stays, without steps."""
    with open_store(url, lease_s=LEASE_S) as late, open_store(url) as other:
        late.runs.admit(snapshot("a"))
        late.runs.close()
        until(lambda: other.runs.claim_orphan(["flow"]))
        other.runs.finish("a", "ok", keep=False)
        with pytest.raises(RunClaimLostError):
            late.runs.append("a", step(0, 666))
        assert rows_of(url)["chainweaver_steps"] == []


def test_a_late_owner_does_not_write_into_the_run_that_came_after_its_own(late: SqlStore, other: SqlStore, url: str):
    """R32: nothing of a run that was forgotten names a later one, its row number neither."""
    other.runs.finish("a", "ok")
    other.runs.prune(keep_last=0)
    other.runs.admit(snapshot("b"))
    before = rows_of(url)
    with pytest.raises(RunClaimLostError):
        late.runs.append("a", step(0, 666))
    with pytest.raises(RunClaimLostError):
        late.runs.finish("a", "ok", keep=False)
    assert rows_of(url) == before


def test_a_run_that_is_admitted_anew_is_not_open_to_its_late_owner(late: SqlStore, other: SqlStore, url: str):
    """R32: a trace id may be used again by hand, and is then another run."""
    other.runs.finish("a", "ok")
    other.runs.admit(snapshot("a"))
    before = rows_of(url)
    with pytest.raises(RunClaimLostError):
        late.runs.append("a", step(0, 666))
    assert rows_of(url) == before


def test_a_run_that_could_not_be_gone_on_with_stands_as_it_stood_when_it_was_claimed_last(url: str):
    """R32: not as it stood before an earlier claim."""
    with open_store(url, lease_s=LEASE_S) as store, open_store(url) as other:
        store.runs.admit(snapshot("a"))
        store.runs.finish("a", "failed")
        store.runs.claim("a")
        store.runs.finish("a", "running")
        assert other.runs.claim_orphan(["flow"]) == "a"
        other.runs.finish("a", None)
        assert other.runs.info("a").status == "running"
        other.runs.claim("a")
        other.runs.finish("a", "failed")
        other.runs.claim("a")
        other.runs.finish("a", None)
        assert other.runs.info("a").status == "failed"


def test_a_claim_whose_end_could_not_be_written_runs_out(tmp_path: Path):
    """R32: the process lives and renews its other claims, but not one that it goes on with no longer."""
    url = f"sqlite:///{tmp_path}/runs.db"
    with open_store(url, lease_s=0.6, patience_s=0.01) as store, open_store(url) as other:
        store.runs.admit(snapshot("a"))
        store.runs.admit(snapshot("b"))
        blocking = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
        blocking.execute("begin immediate")
        with pytest.raises(StoreUnavailableError, match="locked"):
            store.runs.finish("a", "ok")
        blocking.execute("rollback")
        blocking.close()
        assert until(lambda: other.runs.claim_orphan(["flow"])) == "a"
        assert other.runs.claim_orphan(["flow"]) is None


def test_a_claim_that_is_taken_while_the_store_is_closed_is_renewed(url: str, monkeypatch: pytest.MonkeyPatch):
    """R31: the thread that renews may be in the middle of a statement when it is told to stop."""
    with open_store(url, lease_s=0.3) as store, open_store(url) as other:
        is_renewing, goes_on = threading.Event(), threading.Event()
        run = store._database.run

        def slow(sql: str, params: Any = ()) -> int:
            if "set lease_until" in sql and not is_renewing.is_set():
                is_renewing.set()
                goes_on.wait(20)
            return run(sql, params)

        monkeypatch.setattr(store._database, "run", slow)
        store.runs.admit(snapshot("before"))
        assert is_renewing.wait(20)
        closing = threading.Thread(target=store.runs.close)
        closing.start()
        time.sleep(0.1)
        store.runs.admit(snapshot("after"))
        goes_on.set()
        closing.join(20)
        time.sleep(0.9)

        assert other.runs.claim_orphan(["flow"], ["before"]) is None


def test_of_threads_that_claim_one_run_at_once_one_gets_it(url: str):
    """R31: the others hear that it is executed here."""
    with open_store(url) as store:
        for at in range(10):
            store.runs.save(snapshot(f"run{at}"))
            together = threading.Barrier(4)
            told: list[str] = []

            def claim(at: int = at, together: threading.Barrier = together, told: list[str] = told) -> None:
                together.wait(20)
                try:
                    store.runs.claim(f"run{at}")
                    told.append("claimed")
                except RunClaimedError:
                    told.append("refused")

            threads = [threading.Thread(target=claim) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
            assert sorted(told) == ["claimed", "refused", "refused", "refused"]


def in_a_fork(work: Callable[[], object]) -> tuple[int, Callable[[], object]]:
    """Have a forked process do something and wait; its id and what it answers."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)  # a child that waits for a lock which nobody holds ends, and its parent reads nothing
        try:
            os.close(reading)
            try:
                answer = repr(work())
            except Exception as exc:
                answer = type(exc).__name__
            os.write(writing, answer.encode())
            signal.pause()
        finally:
            os._exit(0)
    os.close(writing)
    return pid, lambda: os.read(reading, 10_000).decode()


def ended(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@forks
def test_a_forked_process_owns_nothing_of_what_its_parent_executes(url: str):
    """R32: servers open a store, and fork then; every one of the processes is an owner of its own."""
    with open_store(url) as store:
        store.runs.admit(snapshot("a"))
        for work in (lambda: store.runs.claim("a"), lambda: store.runs.append("a", step(0))):
            pid, answer = in_a_fork(work)
            assert answer() == RunClaimedError.__name__
            ended(pid)
        pid, answer = in_a_fork(lambda: store.runs.finish("a", "ok", keep=False))
        assert answer() == "None"
        ended(pid)
        assert store.runs.info("a").owner == store.runs.owner
        store.runs.append("a", step(0))
        store.runs.finish("a", "ok")


@forks
def test_a_forked_process_does_not_keep_the_runs_of_its_dead_parent_alive(url: str):
    """R32: nor those of its siblings; each renews its own claims alone."""
    with open_store(url, lease_s=0.2) as store:
        store.runs.list_runs()
        dying, said = in_a_fork(lambda: store.runs.admit(snapshot("a")))
        assert said() == "None"
        living, said = in_a_fork(lambda: store.runs.admit(snapshot("b")))
        assert said() == "None"
        ended(dying)
        assert until(lambda: store.runs.claim_orphan(["flow"])) == "a"
        assert store.runs.claim_orphan(["flow"]) is None
        ended(living)


@forks
def test_a_fork_in_the_middle_of_a_statement_does_not_lock_the_child_out(url: str):
    """R32: a lock that a thread of the parent held at that moment is nobody's in the child."""
    with open_store(url) as store:
        stopped = threading.Event()

        def busy() -> None:
            while not stopped.is_set():
                store.runs.list_runs()

        threads = [threading.Thread(target=busy) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for at in range(5):
                pid, answer = in_a_fork(lambda at=at: store.runs.admit(snapshot(f"run{at}")))  # type: ignore[misc]
                said = answer()
                ended(pid)
                assert said == "None"
        finally:
            stopped.set()
            for thread in threads:
                thread.join()


class Struck(Exception):
    pass


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it strikes where nobody can catch it
def test_an_interrupt_at_any_moment_leaves_no_transaction_open(url: str):
    """R31: Ctrl-C inside of a commit rolls it back; what is acknowledged afterwards is really committed."""

    def strike(*_: object) -> None:
        raise Struck

    before = signal.signal(signal.SIGALRM, strike)
    try:
        with open_store(url) as store, open_store(url, patience_s=1) as other:
            store.runs.admit(snapshot("first"))  # from now on there is the thread that renews
            struck = 0
            for at in range(400):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.00002 + at % 40 * 0.00001)
                    store.runs.admit(snapshot(f"struck{at}"))
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Struck:
                    struck += 1
                store.runs.save(snapshot(f"run{at}"))
                assert other.runs.load(f"run{at}").trace_id == f"run{at}"
            assert struck > 50
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
