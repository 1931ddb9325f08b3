"""Stores that fail: at every statement or call of a run once, and for real where a disk or a lock can be had.

The run ends with a result that says where, or with an error of the package; what was committed before is there, whole,
and the run goes on from it. See `tests.sql.faults`.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chainweaver import ChainWeaverError, FileCheckpointer, FlowExecutor
from chainweaver.exceptions import StoreUnavailableError
from chainweaver.sql import open_store
from chainweaver.testing.conformance.checkpoints import a_run, a_step
from tests.sql.faults import STATEMENT_ERRORS, failing_file_call, failing_statement
from tests.sql.kit import Tools, flow, url_of

OUTPUT = {"n": 16}
INPUT = {"n": 1}
MOST = 200


def carry(store: Any, tools: Tools, block: Any, call: Callable[[FlowExecutor], Any]) -> tuple[bool, Any]:
    """Run or go on with the flow while one operation fails; whether one did, and the result or the error."""
    with FlowExecutor(tools=tools.all(), flows=[flow()], checkpointer=store, delete_on_success=False) as executor:
        with block as counted:
            try:
                found = call(executor)
            except ChainWeaverError as exc:
                found = exc
        return counted.happened, found


def check_what_is_left(store: Any, tools: Tools, found: Any) -> None:
    """What was committed is there and whole, and the run goes on from it."""
    if not isinstance(found, ChainWeaverError) and not found.success:
        assert [record for record in found.execution_log if record.error_message], "the result says where it failed"
    for trace_id in store.list_trace_ids():
        steps = store.load(trace_id).steps
        assert [step.step_index for step in steps] == list(range(len(steps))), "no step is missing in between"
        called = len(tools.calls)
        assert called - 1 <= len(steps) <= called, "at most the step that failed to commit is not there"
        again = Tools()
        with FlowExecutor(tools=again.all(), flows=[flow()], checkpointer=store, delete_on_success=False) as executor:
            result = executor.resume_flow(trace_id)
            assert result.success
            assert result.final_output is not None
            assert result.final_output["n"] == OUTPUT["n"]
        assert len(again.calls) == 6 - len(steps), "what was committed does not run again"


@pytest.mark.parametrize("text", STATEMENT_ERRORS)
@pytest.mark.parametrize("is_lost", [False, True], ids=["not done", "answer lost"])
def test_a_statement_that_fails_anywhere_in_a_run_ends_it_with_what_was_committed(text: str, is_lost: bool) -> None:
    """R31, R32: no error of the driver leaves the executor, at any statement."""
    for after in range(MOST):
        with open_store("sqlite://") as store:
            tools = Tools()
            block = failing_statement(store.runs._database, after, text, is_lost=is_lost)
            happened, found = carry(store.runs, tools, block, lambda executor: executor.execute_flow("chain", INPUT))
            if not happened:
                assert after > 10, "every statement of a run was counted"
                assert found.final_output["n"] == OUTPUT["n"]
                return
            for run in store.runs.list_runs():
                if run.status == "running" and run.owner is not None:
                    # The end could not be told: the claim runs out, as that of a process that died.
                    store.runs._database.run("update chainweaver_runs set lease_until = 0.0")
            check_what_is_left(store.runs, tools, found)
    raise AssertionError(f"more than {MOST} statements")


def test_a_statement_that_fails_anywhere_in_a_resumed_run_is_an_error_with_a_type() -> None:
    """R32: at the claim, while the run is read, and at its end."""
    for after in range(MOST):
        with open_store("sqlite://") as store:
            tools = Tools()
            stopped = failing_statement(store.runs._database, 6)
            carry(store.runs, tools, stopped, lambda executor: executor.execute_flow("chain", INPUT))
            [trace_id] = store.runs.list_trace_ids()
            before = len(store.runs.load(trace_id).steps)
            again = Tools()
            block = failing_statement(store.runs._database, after)
            happened, found = carry(store.runs, again, block, lambda executor: executor.resume_flow(trace_id))  # noqa: B023
            assert len(store.runs.load(trace_id).steps) >= before, "no committed step is lost"
            if not happened:
                assert found.final_output["n"] == OUTPUT["n"]
                return
            assert isinstance(found, ChainWeaverError) or not found.success or found.final_output["n"] == OUTPUT["n"]
    raise AssertionError(f"more than {MOST} statements")


@pytest.mark.parametrize(("number", "fsync"), [(errno.ENOSPC, False), (errno.EIO, True), (errno.EACCES, False)])
def test_a_file_call_that_fails_anywhere_in_a_run_ends_it_with_what_was_committed(
    tmp_path: Path, number: int, fsync: bool
) -> None:
    """R31, R32: at every opening, writing, flushing and renaming."""
    for after in range(MOST):
        root = tmp_path / str(after)
        store, tools = FileCheckpointer(root, fsync=fsync), Tools()
        block = failing_file_call(root, after, number)
        happened, found = carry(store, tools, block, lambda executor: executor.execute_flow("chain", INPUT))
        if not happened:
            assert after > 10, "every call of a run was counted"
            return
        check_what_is_left(FileCheckpointer(root, fsync=False), tools, found)
    raise AssertionError(f"more than {MOST} calls")


def test_a_file_call_that_fails_anywhere_in_a_resumed_run_is_an_error_with_a_type(tmp_path: Path) -> None:
    """R34: a file that cannot be read is no bare OSError of the executor."""
    for after in range(MOST):
        root = tmp_path / str(after)
        store, tools = FileCheckpointer(root, fsync=False), Tools()
        block = failing_file_call(root, 9, errno.EIO)
        carry(store, tools, block, lambda executor: executor.execute_flow("chain", INPUT))
        [trace_id] = store.list_trace_ids()
        before = len(store.load(trace_id).steps)
        block = failing_file_call(root, after, errno.EIO)
        happened, found = carry(store, Tools(), block, lambda executor: executor.resume_flow(trace_id))  # noqa: B023
        assert len(store.load(trace_id).steps) >= before, "no committed step is lost"
        if not happened:
            assert found.final_output["n"] == OUTPUT["n"]
            return
    raise AssertionError(f"more than {MOST} calls")


def test_a_database_that_is_full_says_so_and_keeps_what_was_committed(tmp_path: Path) -> None:
    """R32: a real limit of pages, a little higher each time, until a whole run fits."""
    fitted = 0
    for pages in range(24, 120, 4):
        path = tmp_path / f"{pages}.db"
        with open_store(url_of(path)) as store:
            connection = store.runs._database._opened()  # type: ignore[attr-defined]
            connection.execute(f"pragma max_page_count = {pages}")
            tools = Tools()
            with FlowExecutor(
                tools=tools.all(), flows=[flow()], checkpointer=store.runs, delete_on_success=False
            ) as executor:
                result = executor.execute_flow("chain", INPUT)
            connection.execute("pragma max_page_count = 1000000")
            if result.success:
                fitted += 1
                continue
            told = [record.error_message for record in result.execution_log if record.error_message]
            assert any("database or disk is full" in (text or "") for text in told)
            check_what_is_left(store.runs, tools, result)
        with sqlite3.connect(path) as check:
            assert check.execute("pragma integrity_check").fetchall() == [("ok",)]
        check.close()
    assert fitted, "the last ones had room"


def test_a_disk_that_takes_no_more_bytes_is_an_error_with_a_type(tmp_path: Path) -> None:
    """R32: a real limit of the system on the size of files, for a database and for files."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(size: int, work: Callable[[], Any]) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            return work()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    for size in (100_000, 140_000, 180_000):
        path = tmp_path / f"{size}.db"
        places: list[tuple[Any, Callable[[], None]]] = []
        opened = open_store(url_of(path))
        places.append((opened.runs, opened.close))
        places.append((FileCheckpointer(tmp_path / f"files{size}", fsync=False), lambda: None))
        for store, close in places:
            tools = Tools()
            with FlowExecutor(
                tools=tools.all(), flows=[flow()], checkpointer=store, delete_on_success=False
            ) as executor:
                result = limited(
                    size if store is opened.runs else size // 2, lambda: executor.execute_flow("chain", INPUT)
                )
            if not result.success:
                if store is opened.runs:
                    opened.runs._database.run("update chainweaver_runs set lease_until = 0.0")
                check_what_is_left(store, tools, result)
            close()


def test_a_database_that_stays_locked_for_too_long_says_so(tmp_path: Path) -> None:
    """R32: SQLITE_BUSY for real; the run ends where it was, and goes on when the lock is gone."""
    path = tmp_path / "chainweaver.db"
    with open_store(url_of(path), patience_s=0.3) as store:
        locker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)

        class Locking(Tools):
            def _called(self, name: str) -> None:
                super()._called(name)
                if len(self.calls) == 3:
                    locker.execute("begin immediate")

        tools = Locking()
        with FlowExecutor(
            tools=tools.all(), flows=[flow()], checkpointer=store.runs, delete_on_success=False
        ) as executor:
            result = executor.execute_flow("chain", INPUT)
        assert not result.success
        failed = next(record for record in result.execution_log if record.error_message)
        assert failed.step_index == 2
        assert "locked" in str(failed.error_message)
        assert "raise patience_s" in str(failed.error_message)
        locker.execute("rollback")
        locker.close()
        store.runs._database.run("update chainweaver_runs set lease_until = 0.0")
        check_what_is_left(store.runs, tools, result)


def test_each_thread_has_the_patience_that_was_asked_for(tmp_path: Path) -> None:
    """R32: whoever waits does not wait for others that wait, and who only reads waits for nobody."""
    path = tmp_path / "chainweaver.db"
    with open_store(url_of(path), patience_s=1.0) as store:
        locker = sqlite3.connect(path, isolation_level=None)
        locker.execute("begin immediate")
        told: list[tuple[str, float]] = []

        def write(at: int) -> None:
            began = time.monotonic()
            try:
                store.flows.save_flow(flow(f"flow{at}"))
            except StoreUnavailableError as exc:
                told.append((exc.detail, time.monotonic() - began))

        threads = [threading.Thread(target=write, args=(at,)) for at in range(8)]
        for thread in threads:
            thread.start()
        longest = 0.0
        while any(thread.is_alive() for thread in threads):
            began = time.monotonic()
            store.runs.list_runs()
            longest = max(longest, time.monotonic() - began)
            time.sleep(0.01)
        locker.execute("rollback")
        locker.close()

    assert [detail for detail, _ in told] == ["database is locked"] * 8
    assert all(0.9 < took < 2.5 for _, took in told), told
    assert longest < 0.5


def test_a_value_that_is_larger_than_the_database_takes_is_no_failure_of_the_database(tmp_path: Path) -> None:
    """R32: the same call will not do better later; what was committed before is there."""
    with open_store(url_of(tmp_path / "chainweaver.db")) as store:
        connection: Any = store.runs._database._opened()  # type: ignore[attr-defined]
        if not hasattr(connection, "setlimit"):
            pytest.skip("this Python cannot lower the limits of SQLite")
        connection.setlimit(0, 100_000)  # SQLITE_LIMIT_LENGTH
        store.runs.admit(a_run("one"))
        store.runs.append("one", a_step(0))
        with pytest.raises(ValueError, match=r"A value is larger than store .* takes: string or blob too big\."):
            store.runs.append("one", a_step(1, {"text": "x" * 200_000}))
        with pytest.raises(ValueError, match="larger than store"):
            store.runs._database.rows("select ?", (2**70,))
        store.runs.append("one", a_step(1))
        assert len(store.runs.load("one").steps) == 2


def test_a_lock_that_is_let_go_in_time_is_not_noticed(tmp_path: Path) -> None:
    """R32: patience is for that."""
    path = tmp_path / "chainweaver.db"
    with open_store(url_of(path), patience_s=20) as store:
        locker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        locker.execute("begin immediate")
        timer = threading.Timer(0.4, lambda: locker.execute("rollback"))
        timer.start()
        with FlowExecutor(tools=Tools().all(), flows=[flow()], checkpointer=store.runs) as executor:
            assert executor.execute_flow("chain", INPUT).success
        timer.join()
        locker.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to everything")
def test_a_directory_that_nobody_may_write_to_says_so(tmp_path: Path) -> None:
    """R32: told when the store is opened."""
    tmp_path.chmod(0o500)
    with pytest.raises(StoreUnavailableError, match="unable to open"):
        open_store(url_of(tmp_path / "chainweaver.db"))


def test_a_file_that_can_only_be_read_says_so_and_is_read(tmp_path: Path) -> None:
    """R32: nothing of what is in it is lost to whoever may look."""
    path = tmp_path / "chainweaver.db"
    with open_store(url_of(path)) as store:
        tools = Tools()
        with FlowExecutor(
            tools=tools.all(), flows=[flow()], checkpointer=store.runs, delete_on_success=False
        ) as executor:
            executor.execute_flow("chain", INPUT)
            store.runs._database._opened().execute("pragma query_only = on")  # type: ignore[attr-defined]
            result = executor.execute_flow("chain", INPUT)
            assert "readonly" in str(result.execution_log[0].error_message)
            [run] = store.runs.list_runs()
            assert store.runs.load(run.trace_id).completed_steps == 6
