"""PostgreSQL: restarts, lost answers, patience, and nobody learns a password."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from chainweaver import (
    ChainWeaverError,
    Flow,
    FlowExecutor,
    FlowStep,
    MissingExtraError,
    RunClaimLostError,
    StaleFlowError,
    StoreUnavailableError,
)
from chainweaver.cache import StepCacheKey
from chainweaver.executor.durable import Recovered
from chainweaver.sql import SqlStore, open_store
from chainweaver.sql.postgres import WORDS, without_password
from chainweaver.testing.conformance.checkpoints import a_run, a_step
from tests.sql.children import until
from tests.sql.kit import Stop, Tools, flow
from tests.sql.servers import PrivateServer
from tests.sql.wires import Wire

COMMITTED = b"COMMIT\0"


@pytest.fixture
def private_url(private_postgres: PrivateServer) -> Iterator[str]:
    """A fresh database on a server that the test may restart."""
    with private_postgres.database() as url:
        yield url


@pytest.fixture
def wire(postgres_url: str) -> Iterator[Wire]:
    made = Wire(postgres_url)
    yield made
    made.close()


def a_flow(version: str = "1.0.0", **fields: Any) -> Flow:
    given = {"name": "sum", "description": "d", "steps": [FlowStep(tool_name="add")], **fields}
    return Flow(version=version, **given)


# ---- restarts


def test_a_store_goes_on_after_its_server_was_restarted(private_postgres, private_url):
    """R31: what was committed is there, and the run goes on with its claim."""
    with open_store(private_url) as store:
        store.runs.admit(a_run("one"))
        store.runs.append("one", a_step(0))
        private_postgres.restart(immediate=True)
        store.runs.append("one", a_step(1))
        private_postgres.restart(immediate=False)

        assert [step.step_index for step in store.runs.load("one").steps] == [0, 1]
        store.runs.finish("one", "ok")
        assert store.runs.info("one").status == "ok"


def test_nothing_is_lost_while_a_server_is_restarted_under_threads_that_commit(private_postgres, private_url):
    """R31: every step whose commit was answered is there, once, whatever became of the server meanwhile."""
    failures: list[BaseException] = []

    def work(store: SqlStore, name: str) -> None:
        try:
            store.runs.admit(a_run(name))
            for index in range(40):
                store.runs.append(name, a_step(index, {"raw": b"\x1b" * 300}))
                time.sleep(0.005)
            store.runs.finish(name, "ok")
        except BaseException as exc:
            failures.append(exc)

    with open_store(private_url) as store:
        threads = [threading.Thread(target=work, args=(store, f"run{number}")) for number in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            time.sleep(0.15)
            private_postgres.restart(immediate=True)
        for thread in threads:
            thread.join(60)

        assert failures == []
        assert [len(store.runs.load(f"run{number}").steps) for number in range(4)] == [40] * 4
        assert {one.status for one in store.runs.list_runs()} == {"ok"}


def test_a_server_that_stays_away_is_an_error_after_the_patience_and_none_when_it_is_back(
    private_postgres, private_url
):
    """R31: the error names the store without its password, what happened and what to do."""
    with open_store(private_url.replace("tester@", "tester:geheim@"), patience_s=0.5) as store:
        store.runs.admit(a_run("one"))
        private_postgres.stop(immediate=True)
        try:
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError) as caught:
                store.runs.append("one", a_step(0))
            took = time.monotonic() - began
        finally:
            private_postgres.start()

        port = private_url.partition("127.0.0.1:")[2].partition("/")[0]
        first, *rest = str(caught.value).splitlines()
        assert first.startswith(f"Store '{private_url}' is not available: connection")
        assert first.endswith(f"port {port} failed: Connection refused.")
        assert " ".join(" ".join(rest).split()) == (
            "fix start the server, or see that host and port are right; it was tried for 0.5 s (patience_s), and what "
            "was committed before is there"
        )
        assert 0.4 < took < 3
        store.runs.append("one", a_step(0))
        assert len(store.runs.load("one").steps) == 1


def test_whoever_waits_for_a_change_outlives_a_restart(private_postgres, private_url):
    """R31: the listening connection is opened again, and what happened meanwhile is not missed."""
    with open_store(private_url) as here, open_store(private_url) as there:
        seen = here.flows.changes()
        heard: list[int] = []
        waiting = threading.Thread(target=lambda: heard.append(here.flows.wait_for_change(seen, 30)))
        waiting.start()
        time.sleep(0.3)
        private_postgres.restart(immediate=True)
        there.flows.save_flow(a_flow())
        waiting.join(20)

        assert heard == [seen + 1]


# ---- answers that are lost


def test_an_admission_whose_answer_is_lost_is_no_run_of_somebody_else(wire):
    """R32: asking again finds our own run, not a key that is taken."""
    with open_store(wire.url) as store:
        wire.lose(COMMITTED)
        assert store.runs.admit(a_run("one"), key="may", input_digest="d") is None
        assert wire.lost == 1
        store.runs.append("one", a_step(0))
        assert store.runs.admit(a_run("two"), key="may", input_digest="d") == "one"


def test_a_step_whose_answer_is_lost_is_there_once(wire):
    """R31: by one statement, and with a large object by one transaction."""
    with open_store(wire.url) as store:
        store.runs.admit(a_run("one"))
        wire.lose(b"INSERT 0 1\0")
        store.runs.append("one", a_step(0))
        wire.lose(COMMITTED)
        store.cache.set(StepCacheKey("t", "f", "i"), {"raw": b"\x1b" * 10})

        assert wire.lost == 2
        assert len(store.runs.load("one").steps) == 1
        assert store.cache.get(StepCacheKey("t", "f", "i")) == {"raw": b"\x1b" * 10}
        assert len(store.cache) == 1


def test_a_claim_whose_answer_is_lost_is_ours(wire):
    """R31: a run, and an orphan that is not left behind for another one."""
    with open_store(wire.url) as store:
        for name in ("one", "two", "three"):
            store.runs.save(a_run(name))
        wire.lose(b"UPDATE 1\0")
        store.runs.claim("two")
        store.runs.append("two", a_step(0))
        wire.lose(COMMITTED)
        assert store.runs.claim_orphan(["sum"]) == "one"
        store.runs.append("one", a_step(0))

        assert wire.lost == 2
        assert store.runs.claim_orphan(["sum"]) == "three"
        assert store.runs.claim_orphan(["sum"]) is None


def test_a_claim_whose_answer_is_lost_for_long_holds_from_when_it_comes(wire, postgres_url):
    """R32: nobody takes the run that another one is about to go on with."""
    with open_store(wire.url, lease_s=2) as store, open_store(postgres_url) as other:
        store.runs.save(a_run("one"))
        wire.lose(COMMITTED, lambda: time.sleep(2.2))

        assert store.runs.claim_orphan(["sum"]) == "one"
        assert wire.lost == 1
        assert other.runs.claim_orphan(["sum"]) is None


@pytest.mark.parametrize("status", ["ok", "failed", "running"])
def test_an_end_whose_answer_is_lost_is_an_end(wire, status):
    """R31: also of a run that was handed back."""
    with open_store(wire.url) as store:
        store.runs.admit(a_run("one"))
        wire.lose(COMMITTED)
        store.runs.finish("one", status)

        assert wire.lost == 1
        assert (store.runs.info("one").status, store.runs.info("one").owner) == (status, None)


def test_a_run_that_was_handed_back_may_be_taken_before_the_answer_comes(wire, postgres_url):
    """R31: whoever hands a run back has lost nothing when somebody goes on with it at once."""
    with open_store(wire.url) as store, open_store(postgres_url) as other:
        store.runs.admit(a_run("one"))
        wire.lose(COMMITTED, lambda: other.runs.claim("one"))
        store.runs.finish("one", "running")

        assert store.runs.info("one").owner == other.runs.owner


def test_a_flow_that_somebody_changed_after_a_lost_answer_is_as_they_left_it(wire, postgres_url):
    """R31: a repeated change overwrites nobody; what was done cannot be told from what was not, so it is stale."""
    with open_store(wire.url) as store, open_store(postgres_url) as other:
        store.flows.save_flow(a_flow())
        new, newer = a_flow(description="new"), a_flow(description="newer")
        wire.lose(COMMITTED, lambda: other.flows.swap_flow(newer, instead_of=new))
        with pytest.raises(StaleFlowError):
            store.flows.swap_flow(new, instead_of=a_flow())

        assert store.flows.load_flow("sum", "1.0.0") == newer


def test_a_change_of_a_flow_whose_answer_is_lost_was_made_by_us(wire):
    """R31: neither taken, nor stale, nor gone before; and others are told so once more at most."""
    with open_store(wire.url) as store:
        wire.lose(COMMITTED)
        store.flows.save_flow(a_flow())
        wire.lose(COMMITTED)
        store.flows.swap_flow(a_flow(description="new"), instead_of=a_flow())
        assert store.flows.load_flow("sum", "1.0.0").description == "new"
        with pytest.raises(StaleFlowError):
            store.flows.swap_flow(a_flow(description="newer"), instead_of=a_flow())
        wire.lose(COMMITTED)
        store.flows.put_flows([(a_flow(), a_flow(description="new")), (a_flow("2.0.0"), None)])
        wire.lose(COMMITTED)
        store.flows.delete_flow("sum", "1.0.0")
        store.flows.delete_flow("sum", "2.0.0")

        assert wire.lost == 4
        assert store.flows.list_keys() == []


# ---- who is asked, and how


def test_a_commit_waits_for_the_disk_whatever_the_url_says(postgres_url):
    """R31: never a mode that answers and then loses."""
    options = "options=-c%20synchronous_commit%3Doff%20-c%20default_transaction_isolation%3Dserializable"
    with open_store(postgres_url + ("&" if "?" in postgres_url else "?") + options) as store:
        settings = [store._database.rows(f"show {name}") for name in ("synchronous_commit", "transaction_isolation")]

        assert settings == [[("on",)], [("read committed",)]]


def test_rows_that_stay_locked_are_an_error_after_the_patience(postgres_url):
    """R31: the message says for how long, and the statement is not left waiting."""
    with open_store(postgres_url, patience_s=0.4) as store, psycopg.connect(postgres_url) as other:
        store.runs.save(a_run("one"))
        other.execute("select 1 from chainweaver_runs for update")
        with pytest.raises(
            StoreUnavailableError, match=r"lock timeout[^$]*end what keeps rows locked for more than 0.4"
        ):
            store.runs.claim("one")
        other.rollback()
        store.runs.claim("one")


def test_whoever_waits_for_a_run_until_somebody_else_has_it_calls_none_of_its_tools(postgres_url):
    """R32: a claim may run out while the run is read, and what is read is not what is committed then."""
    with open_store(postgres_url, lease_s=0.3) as store, open_store(postgres_url) as other:
        with FlowExecutor(tools=Tools(2).all(), flows=[flow()], checkpointer=store.runs) as executor:
            with pytest.raises(Stop):
                executor.execute_flow("chain", {"n": 1})
        tools, recovered = Tools(), list[Recovered]()
        with FlowExecutor(tools=tools.all(), flows=[flow()], checkpointer=store.runs) as executor:
            with psycopg.connect(postgres_url) as blocking:
                blocking.execute("lock table chainweaver_steps")
                recovering = threading.Thread(target=lambda: recovered.extend(executor.recover(limit=1)))
                recovering.start()
                until(lambda: store._database.rows("select owner from chainweaver_runs") == [(store.runs.owner,)])
                store.runs.close()  # it renews no claim either while its database is away
                until(lambda: other.runs.claim_orphan(["chain"]))
            recovering.join(20)

        [(_, result, error)] = recovered
        assert (result, type(error), tools.calls) == (None, RunClaimLostError, [])
        assert [one.owner for one in other.runs.list_runs()] == [other.runs.owner]


def test_more_threads_than_connections_wait_for_each_other(postgres_url):
    """R31: no thread is refused a connection."""
    with open_store(postgres_url) as store:
        counts: list[int] = []
        threads = [threading.Thread(target=lambda: counts.append(len(store.cache))) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

        assert counts == [0] * 40


def test_a_store_that_was_closed_opens_again(postgres_url):
    """Stores: close lets go of connections, and of nothing else."""
    store = open_store(postgres_url)
    store.flows.save_flow(a_flow())
    store.close()
    assert store.flows.list_keys() == [("sum", "1.0.0")]
    store.close()


def test_a_database_of_another_encoding_is_refused(postgres):
    """Stores: a text that the database does not hold is not found out in the middle of a run."""
    postgres.execute(
        "create database chainweaver_latin template template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'"
    )
    try:
        url = postgres.url.replace("/postgres", "/chainweaver_latin")
        with pytest.raises(
            StoreUnavailableError, match=r"its encoding is LATIN1[^$]*create a database with encoding UTF8"
        ):
            open_store(url)
    finally:
        postgres.execute("drop database chainweaver_latin with (force)")


def test_steps_are_listed_by_tool_for_whoever_looks_with_sql(postgres_url):
    """Stores: the view reads every definition, also one with a zero character."""
    with open_store(postgres_url) as store:
        store.flows.save_flow(a_flow(description="zero \0 and \\u0000"))
        store.flows.save_flow(a_flow("1.1.0", steps=[FlowStep(tool_name="add"), FlowStep(flow_name="other")]))
        found = store._database.rows("select * from chainweaver_flow_steps order by version, step_id")

    assert found == [
        ("sum", "1.0.0", "active", "0", "add", None),
        ("sum", "1.1.0", "active", "0", "add", None),
        ("sum", "1.1.0", "active", "1", None, "other"),
    ]


# ---- passwords


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://ann:s3cret@db/runs", "postgresql://ann@db/runs"),
        ("postgresql://:s3cret@db:5432/runs", "postgresql://@db:5432/runs"),
        ("postgresql:///runs?password=s3cret&host=/tmp", "postgresql:///runs?host=/tmp"),
        ("postgresql://ann@db/runs?p%61ssword=s3cret", "postgresql://ann@db/runs"),
        ("postgres://ann:s3%40cret@a:1,b:2/runs?sslpassword=s3cret", "postgres://ann@a:1,b:2/runs"),
    ],
)
def test_the_name_of_a_store_is_its_url_without_passwords(url, name):
    """Secrets: wherever libpq takes a password from, the name has none."""
    assert without_password(url) == name


@pytest.mark.parametrize(
    "place",
    [
        "tester:s3cret@127.0.0.1:{port}/nowhere",
        "nobody:s3cret@127.0.0.1:{port}/postgres",
        "127.0.0.1:{port}/nowhere?user=tester&password=s3cret",
        "tester:s3cret@127.0.0.1:1/postgres",
        "tester:s3cret@127.0.0.1:{port}/postgres?s3cretly=1",
        "tester:s3cret%zz@127.0.0.1:{port}/postgres",
        "tester:a@s3cret@127.0.0.1/postgres",
        "tester:a/s3cret@127.0.0.1/postgres",
        "tester:12?s3cret@127.0.0.1/postgres",
        "tester:s3cret/postgres",
    ],
)
def test_no_error_and_no_log_shows_a_password(postgres, caplog, place):
    """Secrets: not in the text, the traceback, the attributes or any log, however wrong the URL is."""
    caplog.set_level(logging.DEBUG)
    port = postgres.url.partition("127.0.0.1:")[2].partition("/")[0] or "5432"
    began = time.monotonic()
    with pytest.raises((ValueError, ChainWeaverError)) as caught:
        open_store("postgresql://" + place.format(port=port), patience_s=0.3)

    told = "".join(traceback.format_exception(caught.value))
    assert "s3cret" not in told.replace(place, "") + repr(vars(caught.value)) + caplog.text
    assert time.monotonic() - began < 5


def test_what_waiting_does_not_mend_is_said_at_once(postgres):
    """Stores: a wrong name of the database is an error now, not after thirty seconds."""
    began = time.monotonic()
    with pytest.raises(
        StoreUnavailableError, match=r'database "nowhere" does not exist[^$]*user, password and database'
    ):
        open_store(postgres.url.replace("/postgres", "/nowhere"))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "query", ["sslmode=zz", "target_session_attrs=zz", "keepalives_idle=zz", "connect_timeout=zz", "port=99999"]
)
def test_a_parameter_that_means_nothing_is_no_server_that_is_away(postgres_url, query):
    """Stores: said at once, and with what is wrong; there is nothing to start."""
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"cannot be opened: .*(zz|99999)"):
        open_store(postgres_url.partition("?")[0] + "?" + query)
    assert time.monotonic() - began < 5


def test_a_value_that_is_larger_than_a_server_takes_is_no_failure_of_the_server(postgres_url, monkeypatch):
    """Stores: the same call will not do better later."""
    with open_store(postgres_url) as store:
        began = time.monotonic()
        with pytest.raises(ValueError, match="larger than store"):
            store._database.rows("select repeat('x', cast(? as int))", (2**30,))
        with pytest.raises(ValueError, match="larger than store"):
            store._database.rows("select cast(? as bigint)", ("9" * 30,))
        monkeypatch.setattr("chainweaver.sql.postgres.LONGEST", 1_000)
        store.runs.admit(a_run("one"))
        with pytest.raises(ValueError, match="1,000 bytes at most in one statement"):
            store.runs.append("one", a_step(0, {"text": "x" * 1_000}))
        assert time.monotonic() - began < 5


def test_a_user_who_may_not_create_tables_opens_a_store_that_is_up_to_date(postgres, postgres_url):
    """Stores: the usual role in production reads and writes rows, and somebody else makes the tables."""
    role = f"chainweaver_app_{os.urandom(3).hex()}"
    postgres.execute(f"create role {role} login")
    try:
        theirs = postgres_url.replace("//tester@", f"//{role}@")
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            admin.execute("revoke create on schema public from public")
            with pytest.raises(StoreUnavailableError, match=r"permission denied[^$]*let this user create tables"):
                open_store(theirs)
            open_store(postgres_url).close()
            admin.execute(f"grant select, insert, update, delete on all tables in schema public to {role}".encode())
        with open_store(theirs) as store:
            store.runs.admit(a_run("one"))
            store.runs.append("one", a_step(0))
            store.runs.finish("one", "ok")
            assert [one.status for one in store.runs.list_runs()] == ["ok"]
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            admin.execute(f"drop owned by {role}".encode())
    finally:
        postgres.execute(f"drop role {role}")


def test_a_store_is_opened_while_somebody_else_makes_tables_in_the_database(postgres_url):
    """Stores: what is up to date is read, without the lock of those who make tables."""
    open_store(postgres_url).close()
    with psycopg.connect(postgres_url) as other:
        other.execute(WORDS.exclusive.encode())
        with open_store(postgres_url, patience_s=0.3) as store:
            assert store.runs.list_runs() == []


def test_a_schema_without_our_tables_is_left_alone_by_those_who_look(postgres_url):
    """Stores: create=False makes nothing, and a store in another schema is not taken for the one of this schema."""
    open_store(postgres_url).close()
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(b"create schema theirs")
        elsewhere = postgres_url + "&options=-csearch_path%3Dtheirs,public"
        with pytest.raises(StoreUnavailableError, match="no tables of chainweaver"):
            open_store(elsewhere, create=False)
        count = b"select count(*) from pg_tables where schemaname = 'theirs'"
        assert admin.execute(count).fetchall() == [(0,)]
        open_store(elsewhere).close()
        assert admin.execute(count).fetchall() != [(0,)]


def test_without_psycopg_the_message_says_what_to_install(monkeypatch):
    """Stores: the extra is needed by this URL alone."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(
        MissingExtraError, match=r"PostgreSQL needs the extra 'postgres'[^$]*pip install 'chainweaver\[postgres\]'"
    ):
        open_store("postgresql://db/runs")
