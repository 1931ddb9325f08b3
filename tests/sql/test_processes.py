"""Several processes over one database, and whatever names people give: the same on SQLite and PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from chainweaver import CheckpointNotFoundError, Flow, FlowNotFoundError, FlowStep, RunClaimedError, StoreVersionError
from chainweaver.cache import StepCacheKey
from chainweaver.checkpoint import StepDelta
from chainweaver.sql import open_store
from chainweaver.sql.schema import LATEST
from chainweaver.testing.conformance.checkpoints import a_run, a_step

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = ["\ud800", "a\0b", "\0", "x" * 1_000_000]
QUOTED = [
    "x'; drop table chainweaver_flows; --",
    '"',
    "\\",
    "%s ? $1 {}",
    "\u202e \U0001f600 \r\n\t",
    " ",
    "null",
    "x" * 1_200,
]


def a_flow(version: str = "1.0.0", name: str = "sum") -> Flow:
    return Flow(name=name, version=version, description="d", steps=[FlowStep(tool_name="add")])


def started(code: str, *args: str) -> subprocess.Popen[str]:
    """Another process that runs this code."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *args], text=True, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


OPENS = """
import sys, time
from chainweaver.sql import open_store
time.sleep(max(0, float(sys.argv[2]) - time.time()))
with open_store(sys.argv[1]) as store:
    print(store.flows.list_keys(), store.runs.list_runs())
"""


def test_processes_that_open_an_empty_database_at_once_make_its_tables_once(database_url):
    """Stores: migrations are safe when several processes open the database at the same moment."""
    at = str(time.time() + 1.5)
    processes = [started(OPENS, database_url, at) for _ in range(3)]

    told = [process.communicate(timeout=200) for process in processes]

    assert told == [("[] []\n", "")] * 3


def test_tables_of_a_later_release_are_refused_and_left_alone(database_url):
    """Stores: what this release does not know it neither reads nor changes."""
    with open_store(database_url) as store:
        store._database.run("update chainweaver_schema set version = ?", (LATEST + 1,))
        store._database.run("drop table chainweaver_cache")

        with pytest.raises(StoreVersionError) as caught:
            open_store(database_url)
        assert (caught.value.found, caught.value.supported) == (LATEST + 1, LATEST)
        assert store._database.rows("select version from chainweaver_schema") == [(LATEST + 1,)]


CHANGES = """
import sys
from chainweaver.sql import open_store
from tests.sql.test_processes import a_flow
with open_store(sys.argv[1]) as store:
    print("open", flush=True)
    for line in sys.stdin:
        store.flows.save_flow(a_flow(line.strip()))
"""


def test_a_change_by_another_process_wakes_whoever_waits(database_url):
    """Stores: every change is heard, also one between looking and waiting."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (
        open_store(database_url) as store,
        subprocess.Popen(
            [sys.executable, "-c", CHANGES, database_url],
            text=True,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as other,
    ):
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        seen = store.flows.changes()
        for version in ("1.0.0", "1.0.1", "1.0.2"):
            other.stdin.write(f"{version}\n")
            other.stdin.flush()
            began = time.monotonic()
            seen = store.flows.wait_for_change(seen, 20)
            assert time.monotonic() - began < 5
            assert (version in {one for _, one in store.flows.list_keys()}, seen >= 1) == (True, True)
        other.stdin.close()


def test_a_change_by_another_store_is_heard_by_every_thread_that_waits(database_url):
    """Stores: one notice is enough for all of them."""
    with open_store(database_url) as here, open_store(database_url) as there:
        seen = here.flows.changes()
        heard: list[int] = []
        waiting = [
            threading.Thread(target=lambda: heard.append(here.flows.wait_for_change(seen, 20))) for _ in range(3)
        ]
        for thread in waiting:
            thread.start()
        time.sleep(0.2)
        there.flows.save_flow(a_flow())
        for thread in waiting:
            thread.join(10)

        assert heard == [seen + 1] * 3


def test_waiting_ends_at_its_time_and_when_it_is_told_to(database_url):
    """Stores: a wait is bounded, and whoever ends it is asked at least twice a second."""
    with open_store(database_url) as store:
        began = time.monotonic()
        assert store.flows.wait_for_change(store.flows.changes(), 0.3) == store.flows.changes()
        assert 0.25 < time.monotonic() - began < 1.5

        asked: list[float] = []

        def stopped() -> bool:
            asked.append(time.monotonic())
            return len(asked) > 5

        store.flows.wait_for_change(store.flows.changes(), 60, stopped)
        assert max(later - sooner for sooner, later in pairwise(asked)) < 1.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_was_forked_has_connections_and_claims_of_its_own(database_url):
    """R31: parent and child go on with their runs, and neither takes the other's."""
    with open_store(database_url) as store:
        store.runs.admit(a_run("parent"))
        store.flows.wait_for_change(store.flows.changes(), 0.05)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                store.runs.admit(a_run("child"))
                store.runs.append("child", a_step(0))
                store.flows.wait_for_change(store.flows.changes(), 0.05)
                with pytest.raises(RunClaimedError):
                    store.runs.claim("parent")
                store.runs.finish("child", "ok")
                store.close()
                status = 0
            finally:
                os._exit(status)
        for index in range(20):
            store.runs.append("parent", a_step(index))
        _, status = os.waitpid(pid, 0)

        assert status == 0
        assert len(store.runs.load("parent").steps) == 20
        assert (store.runs.info("child").status, store.runs.info("parent").status) == ("ok", "running")


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name[:9]))
def test_a_name_that_no_database_holds_is_refused_when_written_and_unknown_when_asked_for(database_url, name):
    """Stores: no SQL error, no half of a row, no other row."""
    with open_store(database_url) as store:
        store.runs.save(a_run("one"))
        for write in (
            lambda: store.runs.admit(a_run(name)),
            lambda: store.runs.admit(a_run("two"), key=name),
            lambda: store.runs.save(a_run("two", flow_name=name)),
        ):
            with pytest.raises(ValueError, match=r"cannot be stored|at most"):
                write()
        for read in (store.runs.load, store.runs.claim, store.runs.info, lambda one: store.runs.append(one, a_step(0))):
            with pytest.raises(CheckpointNotFoundError):
                read(name)
        with pytest.raises(FlowNotFoundError):
            store.flows.load_flow(name, name)
        store.runs.delete(name)
        assert store.runs.list_runs(flow_name=name) == store.runs.list_runs(key=name) == []
        assert store.runs.claim_orphan([name], [name]) is None
        assert store.cache.get(StepCacheKey(name, name, name)) is None
        store.cache.set(StepCacheKey(name, name, name), {"n": 1})
        assert store.cache.get(StepCacheKey(name, name, name)) == {"n": 1}

        assert [one.trace_id for one in store.runs.list_runs()] == ["one"]
        assert store.flows.list_keys() == []


@pytest.mark.parametrize("name", QUOTED, ids=lambda name: ascii(name[:9]))
def test_a_name_that_looks_like_sql_is_only_a_name(database_url, name):
    """Stores: names are parameters of statements, and never a part of them."""
    with open_store(database_url) as store:
        assert store.runs.admit(a_run(name, flow_name=name), key=name) is None
        store.runs.append(name, a_step(0))
        store.runs.finish(name, "failed", error=name)

        [info] = store.runs.list_runs(flow_name=name, key=name)
        assert (info.trace_id, info.flow_name, info.key, info.error, info.steps_done) == (name, name, name, name, 1)
        assert store.runs.load(name).steps == [a_step(0)]
        assert store.runs.list_runs(flow_name=name + " ") == []


@pytest.mark.parametrize("name", [*HOSTILE, *QUOTED], ids=lambda name: ascii(name[:9]))
def test_a_step_comes_back_whatever_its_tool_and_its_place_are_called(database_url, name):
    """R31: a step that was done is not lost for a name that no column holds."""
    with open_store(database_url) as store:
        step = StepDelta(0, name, name, "5d1e", "ok", {name[:99]: name[:99]}, path=(name, "sub#2"))
        store.runs.admit(a_run("one"))
        store.runs.append("one", step)
        store.runs.append("one", step._replace(path=(name, "sub#3")))
        store.runs.finish("one", "failed", error=f"E001 in {name}")

        assert store.runs.load("one").steps == [step, step._replace(path=(name, "sub#3"))]
