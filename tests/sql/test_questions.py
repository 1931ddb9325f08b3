"""Every statement of the stores means the same on both databases: what is asked, and what is answered."""

from __future__ import annotations

import math
import threading
import time
from datetime import datetime, timedelta, timezone

import pytest

from chainweaver import ArtifactCorruptError, CheckpointNotFoundError, RunClaimedError, RunClaimLostError, RunKeyError
from chainweaver.sql import SqlStore, open_store
from chainweaver.testing.conformance.checkpoints import a_run, a_step


@pytest.fixture
def store(database_url):
    with open_store(database_url, lease_s=20) as opened:
        yield opened


def ids(store: SqlStore, **wanted) -> list[str]:
    return [one.trace_id for one in store.runs.list_runs(**wanted)]


def test_the_log_is_filtered_by_each_of_its_columns(store):
    """R31: the latest first, and every filter narrows what the others left."""
    for number, status in enumerate(["ok", "failed", "cancelled", "running", "ok"]):
        store.runs.admit(a_run(f"run{number}", flow_name=f"flow{number % 2}"), key=f"key{number}")
        store.runs.append(f"run{number}", a_step(0))
        store.runs.finish(f"run{number}", status, error=None if status == "ok" else "E006 in 'a'")
    store.runs.admit(a_run("now"))

    assert ids(store) == ["now", "run4", "run3", "run2", "run1", "run0"]
    assert ids(store, status="ok") == ["run4", "run0"]
    assert ids(store, flow_name="flow1") == ["run3", "run1"]
    assert ids(store, flow_name="flow0", status="ok", limit=1) == ["run4"]
    assert ids(store, key="key2") == ["run2"]
    assert ids(store, orphaned=True) == ["run3"]
    assert ids(store, orphaned=False, status="running") == ["now"]
    assert ids(store, limit=0) == []
    assert ids(store, limit=None) == ids(store)
    info = store.runs.info("run1")
    assert (info.status, info.error, info.steps_done, info.owner) == ("failed", "E006 in 'a'", 1, None)
    assert abs(info.changed_at - datetime.now(timezone.utc)) < timedelta(seconds=5)


def test_the_log_has_more_runs_than_it_shows_unasked(store):
    """R31: a hundred unless more are wanted, or all."""
    for number in range(101):
        store.runs.save(a_run(f"run{number}"))
    assert [len(ids(store)), len(ids(store, limit=101)), len(ids(store, limit=None))] == [100, 101, 101]


def test_the_log_says_for_how_long_a_claim_holds(store):
    """R32: unless it is renewed; of runs that nobody executes there is nothing to say."""
    for number in range(2):
        store.runs.admit(a_run(f"run{number}"))
    store.runs.finish("run1", "running")
    assert 15 < store.runs.info("run0").seconds_left <= 20
    assert store.runs.info("run1").seconds_left is None


def test_pruning_forgets_what_it_is_told_to_and_nothing_that_runs(store):
    """R31: by number and by age, given as a timedelta, an int or a float."""
    for number in range(6):
        store.runs.admit(a_run(f"run{number}", flow_name=f"flow{number % 2}"))
        store.runs.append(f"run{number}", a_step(0))
        if number != 1:
            store.runs.finish(f"run{number}", "ok")

    assert store.runs.prune(older_than=60) == store.runs.prune(older_than=timedelta(days=1)) == 0
    assert [store.runs.prune(keep_last=1, dry_run=dry) for dry in (True, False, True)] == [3, 3, 0]
    assert ids(store) == ["run5", "run4", "run1"]
    time.sleep(0.01)  # SQLite's clock counts milliseconds
    assert store.runs.prune(keep_last=0, older_than=0.0) == 2
    assert ids(store) == ["run1"]
    assert store._database.rows("select count(*) from chainweaver_steps") == [(1,)]


def test_pruning_many_runs_is_done_bit_by_bit_and_to_the_end(store):
    """R31: no transaction forgets more than 500, so that nobody who commits a step waits for long."""
    store.runs.admit(a_run("first"))
    copied = "trace_id, flow_name, flow_version, flow_digest, status, is_kept, header, checksum, epoch, started_at"
    given = "trace_id || n.number, flow_name, flow_version, flow_digest, 'ok', 1, header, checksum, 1, started_at"
    numbers = "with recursive n(number) as (select 1 union all select number + 1 from n where number < 1300)"
    store._database.run(
        f"insert into chainweaver_runs ({copied}, changed_at) {numbers} select {given}, changed_at "
        "from chainweaver_runs, n order by n.number"
    )

    assert store.runs.prune(keep_last=10) == 1290
    assert ids(store) == [*(f"first{number}" for number in range(1300, 1290, -1)), "first"]


def test_any_number_of_runs_can_be_passed_over(store):
    """R31: of a crowd that cannot be gone on with, each is looked at once, and the one that can is found."""
    store.runs.save(a_run("found"))

    assert store.runs.claim_orphan(["sum"], [f"run{number}" for number in range(100_000)]) == "found"


@pytest.mark.parametrize("wrong", [{}, {"keep_last": -1}, {"older_than": -1}, {"older_than": math.nan}])
def test_pruning_without_a_bound_that_means_something_forgets_nothing(store, wrong):
    """R31: to PostgreSQL, NaN is later than everything."""
    store.runs.admit(a_run("kept"))
    store.runs.finish("kept", "ok")

    with pytest.raises(ValueError, match="keep_last"):
        store.runs.prune(**wrong)
    assert ids(store) == ["kept"]


def test_an_end_without_steps_keeps_the_log_and_with_a_key_the_steps_too(store):
    """R31: delete_on_success forgets what a run wrote, not that it ran."""
    for name, key in (("one", None), ("two", "may")):
        store.runs.admit(a_run(name), key=key, input_digest="d")
        store.runs.append(name, a_step(0, {"raw": b"\x1b" * 100}))
        store.runs.finish(name, "ok", keep=False)

    assert store.runs.list_trace_ids() == ["two"]
    assert [(one.trace_id, one.status) for one in store.runs.list_runs()] == [("two", "ok"), ("one", "ok")]
    assert store.runs.admit(a_run("three"), key="may", input_digest="d") == "two"
    with pytest.raises(RunKeyError, match="another input"):
        store.runs.admit(a_run("three"), key="may", input_digest="e")
    with pytest.raises(RunKeyError, match="flow 'sum'"):
        store.runs.admit(a_run("three", flow_name="other"), key="may")


def test_an_orphan_goes_to_one_of_those_who_look_for_it(database_url):
    """R31: each is taken once, the oldest first, by whatever number of threads of two stores."""
    with open_store(database_url) as here, open_store(database_url) as there:
        for number in range(20):
            here.runs.save(a_run(f"run{number:02}"))
        taken: list[tuple[str, str]] = []

        def look(store: SqlStore) -> None:
            while (trace_id := store.runs.claim_orphan(["sum", "other"], ["run03"])) is not None:
                taken.append((store.runs.owner, trace_id))

        threads = [threading.Thread(target=look, args=(store,)) for store in (here, there) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert sorted(trace_id for _, trace_id in taken) == [f"run{n:02}" for n in range(20) if n != 3]
        assert {(one.owner, one.trace_id) for one in here.runs.list_runs() if one.trace_id != "run03"} == set(taken)


def test_a_commit_and_an_end_of_whoever_lost_its_claim_are_refused(database_url):
    """R31: the epoch decides, and what was committed before is kept."""
    with open_store(database_url, lease_s=600) as slow, open_store(database_url) as quick:
        slow.runs.admit(a_run("one"))
        slow.runs.append("one", a_step(0))
        with pytest.raises(RunClaimedError):
            quick.runs.claim("one")
        quick._database.run("update chainweaver_runs set lease_until = lease_until - 1200")
        assert quick.runs.claim_orphan(["sum"]) == "one"
        quick.runs.append("one", a_step(1))

        with pytest.raises(RunClaimLostError):
            slow.runs.append("one", a_step(0, {"n": 99}))
        with pytest.raises(RunClaimLostError):
            slow.runs.append("one", a_step(2))
        with pytest.raises(RunClaimLostError):
            slow.runs.finish("one", "ok")
        assert quick.runs.load("one").steps == [a_step(0), a_step(1)]
        quick.runs.finish("one", "ok")


def test_a_claim_whose_end_could_not_be_written_runs_out_while_others_are_renewed(database_url):
    """R31: nobody renews what nobody executes, so that others find it."""
    with open_store(database_url, lease_s=0.3) as store, open_store(database_url) as other:
        store.runs.admit(a_run("kept"))
        store.runs.admit(a_run("forgotten"))
        store.runs._claims.let_go("forgotten")
        threading.Event().wait(1.0)

        assert other.runs.claim_orphan(["sum"]) == "forgotten"
        assert other.runs.claim_orphan(["sum"]) is None


def test_a_damaged_row_is_named(store):
    """R31: never a wrong value, and nothing else is refused."""
    store.runs.admit(a_run("one"))
    store.runs.append("one", a_step(0))
    store._database.run("update chainweaver_steps set outputs = ?", ('{"$nothing": 1}',))

    with pytest.raises(ArtifactCorruptError, match="step0"):
        store.runs.load("one")
    assert ids(store) == ["one"]


def test_a_run_that_is_saved_anew_replaces_its_rows(store):
    """R31: steps and artifacts of the older one are gone."""
    store.runs.save(a_run("one", steps=[a_step(0), a_step(1)]))
    store.runs.save(a_run("one", steps=[a_step(0)]))
    store.runs.delete("one")

    for table in ("runs", "steps", "artifacts"):
        assert store._database.rows(f"select count(*) from chainweaver_{table}") == [(0,)]


def test_a_snapshot_sees_one_state(store, database_url):
    """Stores: what another commits meanwhile is not seen by half."""
    with open_store(database_url) as other:

        def look(session):
            first = session.rows("select count(*) from chainweaver_runs")
            other.runs.save(a_run("one"))
            return first, session.rows("select count(*) from chainweaver_runs")

        assert store._database.atomically(look, snapshot=True) == ([(0,)], [(0,)])
    assert ids(store) == ["one"]


def test_a_damaged_line_of_the_log_hides_no_other(database_url, caplog):
    """R34: it is left out of lists and named, and whoever asks for it hears that it is damaged."""
    with open_store(database_url) as store:
        for name in ("one", "two", "three"):
            store.runs.admit(a_run(name))
        store._database.run("update chainweaver_runs set started_at = 1e300 where trace_id = 'two'")

        assert ids(store) == ["three", "one"]
        assert "run two" in caplog.text
        with pytest.raises(ArtifactCorruptError, match=r"run two .*damaged"):
            store.runs.info("two")


@pytest.mark.parametrize("wrong", [1.5, "3", True])
def test_a_limit_that_is_no_int_is_refused(store, wrong):
    """R31: before the database is asked."""
    with pytest.raises(TypeError, match="limit has to be an int"):
        store.runs.list_runs(limit=wrong)
    with pytest.raises(TypeError, match="keep_last has to be an int"):
        store.runs.prune(keep_last="3")
    assert store.runs.list_runs(limit=2**70) == []


def test_a_run_that_is_executed_here_is_not_admitted_again(store):
    """R31: whoever gives ids twice hears of it, and the run keeps its steps and its key."""
    store.runs.admit(a_run("one"), key="may")
    store.runs.append("one", a_step(0))
    with pytest.raises(RunClaimedError):
        store.runs.admit(a_run("one"))

    assert store.runs.load("one").steps == [a_step(0)]
    assert ids(store, key="may") == ["one"]


def test_a_step_of_a_run_that_was_not_kept_is_not_kept_either(store):
    """R31: nothing is left behind that no run belongs to."""
    store.runs.admit(a_run("one"))
    store.runs.finish("one", "ok", keep=False)
    with pytest.raises(CheckpointNotFoundError):
        store.runs.append("one", a_step(0))

    assert store._database.rows("select count(*) from chainweaver_steps") == [(0,)]


def test_a_run_that_ends_while_it_is_read_is_there_as_a_whole_or_not_at_all(database_url):
    """R31: large objects lie in rows of their own, and are of the same moment as the steps that need them."""
    with open_store(database_url) as ours, open_store(database_url) as theirs:
        over = threading.Event()

        def work() -> None:
            for number in range(40):
                ours.runs.admit(a_run(f"run{number % 2}"))
                ours.runs.append(f"run{number % 2}", a_step(0, {"raw": bytes(200_000)}))
                ours.runs.finish(f"run{number % 2}", "ok", keep=False)
            over.set()

        thread = threading.Thread(target=work)
        thread.start()
        seen = []
        while not over.is_set():
            for name in ("run0", "run1"):
                try:
                    seen.append(len(theirs.runs.load(name).steps))
                except CheckpointNotFoundError:
                    continue
        thread.join(60)

        assert set(seen) <= {0, 1}
