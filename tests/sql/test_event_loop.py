"""The async lane while a store waits: the loop goes on, and a run asks its store for one thing at a time."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import anyio
import psycopg
import pytest

from chainweaver import DAGFlow, DAGFlowStep, FlowExecutor, StepDelta, tool
from chainweaver.sql import SqlStore, open_store
from chainweaver.sql.database import Session
from tests.lanes.kit import LIMIT_S, wait_until

T = TypeVar("T")

WAIT_S = 1.0
"""How long somebody else keeps the database locked."""

GAP_S = 0.4
"""A loop that waited for the store would miss its ticks for WAIT_S; the rest is for a busy machine."""

backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])


class Lock:
    """Locks a whole database from beside, as another process would, and lets go of it by itself after `WAIT_S`."""

    def __init__(self, url: str) -> None:
        self._is_file = url.startswith("sqlite")
        self._connection: Any = (
            sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
            if self._is_file
            else psycopg.connect(url)
        )
        self.taken = 0

    def take(self) -> None:
        self.taken += 1
        if self._is_file:
            self._connection.execute("begin immediate")
        else:
            self._connection.execute("lock table chainweaver_runs in access exclusive mode")
        threading.Timer(WAIT_S, self._connection.rollback).start()

    def close(self) -> None:
        wait_until(lambda: not self._is_locked())
        self._connection.close()

    def _is_locked(self) -> bool:
        if self._is_file:
            return bool(self._connection.in_transaction)
        return self._connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE


class Watching:
    """A middleware that does something when the last step has been committed, and notes the threads it is told in."""

    def __init__(self) -> None:
        self.act: Callable[[], object] | None = None
        self.threads: set[int] = set()

    def on_flow_start(self, context: Any) -> None:
        self.threads.add(threading.get_ident())

    def on_step_end(self, context: Any) -> None:
        self.threads.add(threading.get_ident())
        if context.step_index == 1 and self.act is not None:
            self.act()

    def on_flow_end(self, context: Any) -> None:
        self.threads.add(threading.get_ident())


@contextmanager
def ticking(gaps: list[float]) -> Iterator[Callable[[], Coroutine[Any, Any, None]]]:
    """A task that ticks every 10 ms; at the end the time between two ticks is noted."""
    ticks = [time.monotonic()]

    async def tick() -> None:
        while True:
            await anyio.sleep(0.01)
            ticks.append(time.monotonic())

    yield tick
    gaps += [later - earlier for earlier, later in pairwise([*ticks, time.monotonic()])]


@backends
@pytest.mark.parametrize("place", ["admission", "commit", "end"])
def test_the_loop_goes_on_while_somebody_else_keeps_the_database_locked(database_url: str, backend: str, place: str):
    """R31: whatever the store is asked for; and hooks are called where they always are."""
    lock, watching = Lock(database_url), Watching()
    gaps: list[float] = []

    @tool(output="n")
    def first(n: int) -> int:
        if place == "commit" and n == 1:
            lock.take()
        return n + 1

    @tool(output="n")
    def second(n: int) -> int:
        return n * 10

    async def main() -> Any:
        await executor.execute_flow_async("two", {"n": 0}, lane="inline")  # imports and compiles, which takes its time
        if place == "admission":
            lock.take()
        elif place == "end":
            watching.act = lock.take
        with ticking(gaps) as tick:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(tick)
                began = time.monotonic()
                result = await executor.execute_flow_async("two", {"n": 1}, lane="inline")
                lasted = time.monotonic() - began
                tasks.cancel_scope.cancel()
        assert lasted >= WAIT_S / 2
        return result

    flow = line(first, second)
    with open_store(database_url) as store:
        settings: dict[str, Any] = {"checkpointer": store.runs, "middleware": [watching]}
        with FlowExecutor(tools=[first, second], flows=[flow], **settings) as executor:
            result = anyio.run(main, backend=backend)
        assert result.success
        assert result.final_output == {"n": 20}
        assert store.runs.info(result.trace_id).status == "ok"
        assert store.runs.info(result.trace_id).owner is None
    lock.close()
    assert lock.taken == 1
    assert max(gaps) < GAP_S
    assert watching.threads == {threading.get_ident()}


def line(*tools: Any) -> DAGFlow:
    """Tools one after the other, each working on what the one before it gave."""
    names = [one.name for one in tools]
    steps = [
        DAGFlowStep(step_id=name, tool_name=name, depends_on=names[max(0, at - 1) : at], input_mapping={"n": "n"})
        for at, name in enumerate(names)
    ]
    return DAGFlow(name="two", version="1.0.0", description="", on_context_collision="overwrite", steps=steps)


class Commits:
    """Holds the commits of a store up, and counts them.

    Attributes:
        most: How many were under way at the same time.
    """

    def __init__(self, store: SqlStore) -> None:
        self.opened = threading.Event()
        self.asked: list[str] = []
        self.done: list[str] = []
        self.most = 0
        self._append, self._inside, self._lock = store.runs.append, 0, threading.Lock()
        vars(store.runs)["append"] = self.append
        vars(store.runs)["at_once"] = self.at_once

    def at_once(self, call: Callable[[], T]) -> T:
        raise BlockingIOError

    def append(self, trace_id: str, delta: StepDelta) -> None:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
            self.asked.append(delta.step_id)
        self.opened.wait(LIMIT_S)
        self._append(trace_id, delta)
        with self._lock:
            self._inside -= 1
            self.done.append(delta.step_id)


@backends
def test_of_one_run_one_commit_is_under_way_at_a_time(tmp_path: Path, backend: str):
    """R31: a store is called for one run by one thread at a time, also when siblings end together."""
    names = "abcdef"
    steps = [DAGFlowStep(step_id=name, tool_name="work", output_mapping={name: "n"}) for name in names]

    @tool(output="n")
    async def work(n: int) -> int:
        await anyio.sleep(0.01)
        return n

    async def main() -> Any:
        threading.Timer(0.1, commits.opened.set).start()
        return await executor.execute_flow_async("wide", {"n": 1})

    flow = DAGFlow(name="wide", version="1.0.0", description="", steps=steps)
    with open_store(f"sqlite:///{tmp_path}/runs.db") as store:
        commits = Commits(store)
        settings: dict[str, Any] = {"checkpointer": store.runs, "max_step_concurrency": 6}
        with FlowExecutor(tools=[work], flows=[flow], **settings) as executor:
            result = anyio.run(main, backend=backend)
    assert result.success
    assert commits.most == 1
    assert sorted(commits.done) == list(names)


@pytest.mark.parametrize("how", ["asyncio task", "asyncio scope", "trio scope"])
def test_a_commit_that_is_under_way_when_its_task_is_cancelled_counts(tmp_path: Path, how: str):
    """R32: the run ends after it, hands its claim back, and what was committed does not run again."""
    calls: list[str] = []

    @tool(output="n")
    def first(n: int) -> int:
        calls.append("first")
        return n + 1

    @tool
    async def second(n: int) -> int:
        calls.append("second")
        await anyio.sleep(0)
        return n * 10

    async def by_scope() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: executor.execute_flow_async("two", {"n": 1}))
            while not commits.asked:
                await anyio.sleep(0.001)
            threading.Timer(0.1, commits.opened.set).start()
            tasks.cancel_scope.cancel()
        assert commits.done == ["first"]

    async def by_task() -> None:
        task = asyncio.ensure_future(executor.execute_flow_async("two", {"n": 1}))
        while not commits.asked:
            await asyncio.sleep(0.001)
        threading.Timer(0.1, commits.opened.set).start()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()  # whoever is in a hurry has to wait all the same
        with pytest.raises(asyncio.CancelledError):
            await task
        assert commits.done == ["first"]

    with open_store(f"sqlite:///{tmp_path}/runs.db") as store:
        commits = Commits(store)
        with FlowExecutor(tools=[first, second], flows=[line(first, second)], checkpointer=store.runs) as executor:
            if how == "asyncio task":
                asyncio.run(by_task())
            else:
                anyio.run(by_scope, backend=how.split()[0])
            [run] = store.runs.list_runs()
            assert (run.status, run.owner, run.steps_done) == ("running", None, 1)
            [recovered] = executor.recover()
            assert recovered.error is None
    assert calls.count("first") == 1


@pytest.mark.parametrize("how", ["asyncio task", "asyncio scope", "trio scope"])
def test_a_caller_who_is_cancelled_while_its_run_is_admitted_keeps_no_claim(tmp_path: Path, how: str):
    """R32: nobody would carry the run, so that others may."""

    @tool(output="n")
    def first(n: int) -> int:
        return n + 1

    async def soon_cancelled(call: Callable[[], Awaitable[Any]]) -> None:
        if how == "asyncio task":
            task = asyncio.ensure_future(call())  # type: ignore[arg-type]  # it is a coroutine
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            with anyio.move_on_after(0.1) as scope:
                await call()
            assert scope.cancelled_caught

    async def main() -> None:
        lock.take()
        await soon_cancelled(lambda: executor.execute_flow_async("two", {"n": 1}, key="k"))

    url = f"sqlite:///{tmp_path}/runs.db"
    with open_store(url) as store:
        lock = Lock(url)
        with FlowExecutor(tools=[first], flows=[line(first)], checkpointer=store.runs) as executor:
            anyio.run(main, backend=how.split()[0])
            [run] = store.runs.list_runs()
            assert (run.status, run.owner, run.is_orphan) == ("running", None, True)
            assert executor.execute_flow("two", {"n": 1}, key="k").final_output == {"n": 2}
        lock.close()


def test_what_asks_at_once_is_told_so_and_nothing_is_done(tmp_path: Path):
    """R31: while another connection writes, and while another thread uses this one."""
    url = f"sqlite:///{tmp_path}/runs.db"
    with open_store(url) as store:
        database = store.runs._database
        count = lambda: database.rows("select count(*) from chainweaver_runs")  # noqa: E731 - asked twice
        assert store.runs.at_once(count) == [(0,)]
        lock, began = Lock(url), time.monotonic()
        lock.take()
        with pytest.raises(BlockingIOError, match="locked"):
            store.runs.at_once(lambda: database.run("delete from chainweaver_runs"))
        assert time.monotonic() - began < WAIT_S / 2
        lock.close()
        inside, over = threading.Event(), threading.Event()

        def stay(session: Session) -> None:
            inside.set()
            over.wait(LIMIT_S)

        thread = threading.Thread(target=lambda: database.atomically(stay))
        thread.start()
        inside.wait(LIMIT_S)
        with pytest.raises(BlockingIOError, match="at once"):
            store.runs.at_once(count)
        over.set()
        thread.join()
        with pytest.raises(ZeroDivisionError):
            store.runs.at_once(lambda: 1 // 0)
        assert database.rows("select count(*) from chainweaver_runs") == [(0,)]


def test_a_store_that_waits_for_the_disk_at_every_commit_is_asked_in_a_thread(tmp_path: Path):
    """R31: a disk may take as long as a lock."""
    with open_store(f"sqlite:///{tmp_path}/runs.db", durability="power") as store:
        with pytest.raises(BlockingIOError):
            store.runs.at_once(store.runs.list_trace_ids)
