"""Flows in a database: what loading costs, who wins, and names that are only names.

All of it on SQLite and on PostgreSQL. Statements are counted by the trace hook of the driver: `sqlite3` names each
statement that it runs, and libpq each message that it sends.
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chainweaver import ChainWeaverError, CheckpointNotFoundError, Flow, FlowExecutor, FlowStep, tool
from chainweaver.exceptions import FlowAlreadyExistsError, FlowSerializationError, StaleFlowError
from chainweaver.flow import FlowStatus
from chainweaver.registry import FlowRegistry
from chainweaver.sql import SqlStore, open_store
from chainweaver.sql.postgres import PostgresDatabase
from chainweaver.sql.sqlite import SqliteDatabase
from tests.conftest import PROOF

HOSTILE_TEXTS = 2_000 if PROOF else 400
"""Each is asked for in five ways."""


@tool
def double(n: int) -> int:
    return 2 * n


def a_flow(name: str = "twice", version: str = "1.0", **fields: Any) -> Flow:
    return Flow(name=name, version=version, description="d", steps=[FlowStep(tool_name="double")], **fields)


@pytest.fixture
def store(database_url: str) -> Iterator[SqlStore]:
    with open_store(database_url) as opened:
        yield opened


@contextmanager
def statements_of(store: SqlStore) -> Iterator[list[str]]:
    """The statements that the driver has run by the end of the block."""
    database, seen = store._database, list[str]()
    if isinstance(database, SqliteDatabase):
        database._opened().set_trace_callback(seen.append)
        yield seen
        database._opened().set_trace_callback(None)
        return
    assert isinstance(database, PostgresDatabase)
    if sys.platform != "linux" or database._driver.pq.version() < 140000:
        pytest.skip("libpq tells what it sends on Linux, since its version 14")
    idle = database._here()._idle
    [connection] = idle
    with tempfile.TemporaryFile("w+") as file:
        connection.pgconn.trace(file.fileno())
        yield seen
        connection.pgconn.untrace()
        file.seek(0)
        told = [line.rstrip("\n").split("\t", 4) for line in file]
    # Time, side, length, kind and content; a statement with parameters is parsed, bound and executed.
    seen += ["".join(content) for _, side, _, kind, *content in told if side == "F" and kind in ("Query", "Execute")]
    assert idle == [connection], "nothing was asked on another connection"


def test_a_flow_is_loaded_by_one_statement_and_a_registry_by_one_as_well(store: SqlStore) -> None:
    """One row holds a whole definition."""
    for name in ("a", "b", "c"):
        store.flows.save_flow(a_flow(name))
    with statements_of(store) as seen:
        store.flows.load_flow("a", "1.0")
    assert len(seen) == 1, seen
    with statements_of(store) as seen:
        registry = FlowRegistry(store.flows)
    assert len(seen) == 1, seen
    assert len(registry) == 3


def test_a_hot_run_asks_the_store_of_flows_nothing(store: SqlStore) -> None:
    """R40: a run keeps what it started with; definitions come from memory."""
    store.flows.save_flow(a_flow())
    with FlowExecutor(FlowRegistry(store.flows), tools=[double]) as executor:
        with statements_of(store) as seen:
            for n in range(10):
                assert executor.execute_flow("twice", {"n": n}).success
        assert seen == []


def test_of_two_who_change_a_status_one_wins_and_the_other_is_told(database_url: str) -> None:
    """Compare and swap on the digest: nobody decides on what is no longer so."""
    with open_store(database_url) as first, open_store(database_url) as second:
        first.flows.save_flow(a_flow())
        ours, theirs = FlowRegistry(first.flows), FlowRegistry(second.flows)
        ours.set_flow_status("twice", "disabled")
        with pytest.raises(
            StaleFlowError, match=r"^Flow 'twice' 1\.0 was changed by somebody else meanwhile\."
        ) as told:
            theirs.set_flow_status("twice", "needs_review")
        assert "fix     call refresh()" in told.value.render()
        assert theirs.get_flow("twice").status is FlowStatus.ACTIVE, "a refused change shows nowhere"
        theirs.refresh()
        theirs.set_flow_status("twice", "needs_review")
        assert first.flows.load_flow("twice", "1.0").status is FlowStatus.NEEDS_REVIEW


def test_of_many_who_change_a_status_at_once_exactly_one_wins(database_url: str) -> None:
    """The same, with threads and stores of their own."""
    with open_store(database_url) as store:
        store.flows.save_flow(a_flow())
    stores = [open_store(database_url) for _ in range(6)]
    registries = [FlowRegistry(one.flows) for one in stores]
    gate, outcomes = threading.Barrier(len(registries)), []

    def change(registry: FlowRegistry) -> None:
        gate.wait()
        try:
            registry.set_flow_status("twice", "disabled")
            outcomes.append("won")
        except StaleFlowError:
            outcomes.append("told")

    threads = [threading.Thread(target=change, args=(registry,)) for registry in registries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in stores:
        one.close()
    assert sorted(outcomes) == ["told"] * 5 + ["won"]


def in_a_directory(directory: Path, *flows: Flow) -> Path:
    """A directory with the files of flows."""
    directory.mkdir(exist_ok=True)
    for flow in flows:
        (directory / f"{flow.name[:20]}-{flow.version}.flow.json").write_text(flow.to_json())
    return directory


def test_a_directory_replaces_nothing_that_the_registry_has_not_seen(database_url: str, tmp_path: Path) -> None:
    """Compare and swap on the digest: a registry that did not look for long overwrites nobody."""
    with open_store(database_url) as ours, open_store(database_url) as theirs:
        late = FlowRegistry(ours.flows)
        theirs.flows.save_flow(a_flow(status="disabled"))
        directory = in_a_directory(tmp_path / "flows", a_flow("another"), a_flow(trigger_conditions="new"))
        with pytest.raises(FlowAlreadyExistsError) as told:
            late.load_from_directory(directory, overwrite=False)
        assert told.value.where == str(directory / "twice-1.0.flow.json")
        with pytest.raises(StaleFlowError):
            late.load_from_directory(directory)
        assert len(late) == 0, "nothing is shown of a load that failed"
        assert theirs.flows.load_flows() == [a_flow(status="disabled")], "and nothing of it is kept"

        late.refresh()
        late.load_from_directory(directory)
        kept = theirs.flows.load_flow("twice", "1.0")
        assert (kept.trigger_conditions, kept.status) == ("new", FlowStatus.DISABLED)


def test_a_reload_leaves_a_flow_alone_that_somebody_changed_meanwhile(database_url: str, tmp_path: Path) -> None:
    """Compare and swap on the digest: its file is told, and the others are not held up."""
    directory = in_a_directory(tmp_path / "flows", a_flow())
    with open_store(database_url) as ours, open_store(database_url) as theirs:
        late = FlowRegistry(ours.flows)
        late.load_from_directory(directory)
        FlowRegistry(theirs.flows).set_flow_status("twice", "disabled")
        in_a_directory(directory, a_flow(trigger_conditions="new"), a_flow("another"))
        report = late.reload_from_directory(directory)
        assert (report.added, report.updated) == ((("another", "1.0"),), ())
        assert [type(one.error) for one in report.failed] == [StaleFlowError]
        assert theirs.flows.load_flow("twice", "1.0") == a_flow(status="disabled")


def test_processes_that_load_the_same_directory_agree(database_url: str, tmp_path: Path) -> None:
    """Compare and swap on the digest: what is kept already as it is to be is in nobody's way."""
    directory = in_a_directory(tmp_path / "flows", a_flow())
    with open_store(database_url) as ours, open_store(database_url) as theirs:
        first, second = FlowRegistry(ours.flows), FlowRegistry(theirs.flows)
        for text in ("old", "new"):
            in_a_directory(directory, a_flow(trigger_conditions=text))
            for registry in (first, second):
                registry.load_from_directory(directory)
                assert registry.get_flow("twice").trigger_conditions == text
        assert ours.flows.changes() == 2, "and is written once"


def test_a_load_that_fails_takes_nothing_of_others_with_it(database_url: str, tmp_path: Path) -> None:
    """All or nothing: what others have stored is no part of a load."""
    with open_store(database_url) as ours, open_store(database_url) as theirs:
        late = FlowRegistry(ours.flows)
        FlowRegistry(theirs.flows).register_flow(a_flow())
        directory = in_a_directory(tmp_path / "flows", a_flow("first"), a_flow(), a_flow("z" * 2_000))
        with pytest.raises(ValueError, match="names in a store have 1,200 at most"):
            late.load_from_directory(directory)
        assert theirs.flows.load_flows() == [a_flow()]
        report = late.reload_from_directory(directory)
        assert report.added == (("first", "1.0"), ("twice", "1.0"))
        assert "1,200 at most" in report.failed[0].reason


def test_a_flow_is_overwritten_by_whoever_has_seen_it(database_url: str) -> None:
    """Compare and swap on the digest: also where replacing was asked for."""
    with open_store(database_url) as ours, open_store(database_url) as theirs:
        late, other = FlowRegistry(ours.flows), FlowRegistry(theirs.flows)
        other.register_flow(a_flow(trigger_conditions="theirs"), overwrite=True)
        with pytest.raises(StaleFlowError):
            late.register_flow(a_flow(trigger_conditions="ours"), overwrite=True)
        assert len(late) == 0
        late.register_flow(a_flow(trigger_conditions="theirs"), overwrite=True)
        late.register_flow(a_flow(trigger_conditions="ours"), overwrite=True)
        with pytest.raises(StaleFlowError):
            other.register_flow(a_flow(), overwrite=True)
        assert theirs.flows.load_flow("twice", "1.0").trigger_conditions == "ours"
        theirs.flows.delete_flow("twice", "1.0")
        with pytest.raises(StaleFlowError):
            late.register_flow(a_flow(), overwrite=True)


def test_a_flow_of_a_plugin_comes_into_the_store_when_it_is_changed(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a package offers is kept nowhere until somebody gives it another state."""
    monkeypatch.setattr("chainweaver.registry.plugins.discover_flows", lambda **_: [a_flow()])
    registry = FlowRegistry(store.flows, discover_plugins=True)
    assert store.flows.list_keys() == []
    registry.set_flow_status("twice", "disabled")
    registry.set_flow_status("twice", "needs_review")
    assert store.flows.load_flows() == [a_flow(status="needs_review")]

    late = FlowRegistry(store.flows, discover_plugins=True)
    registry.set_flow_status("twice", "disabled")
    late.refresh()
    late.set_flow_status("twice", "active")
    assert store.flows.load_flows() == [a_flow()]


def test_flows_are_put_into_a_store_all_or_none(database_url: str) -> None:
    """Compare and swap on the digest, for several flows in one transaction."""
    with open_store(database_url) as store:
        store.flows.save_flow(a_flow("a"))
        store.flows.save_flow(a_flow("b", status="disabled"))
        seen = store.flows.changes()
        a, b, c = (a_flow(name, trigger_conditions="new") for name in "abc")
        for wrong in ((b, a_flow("b")), (b, None), (a_flow("d"), a_flow("d", status="disabled"))):
            with pytest.raises(StaleFlowError) as told:
                store.flows.put_flows([(c, None), wrong, (a, a_flow("a"))])
            assert told.value.flow_name == wrong[0].name
        assert store.flows.load_flows() == [a_flow("a"), a_flow("b", status="disabled")]
        assert store.flows.changes() == seen, "nobody is told of what did not happen"

        put = [(c, None), (b, a_flow("b", status="disabled")), (a, a_flow("a"))]
        store.flows.put_flows(put)
        assert store.flows.load_flows() == [a, b, c]
        seen = store.flows.changes()
        store.flows.put_flows(put)
        assert store.flows.changes() == seen, "what is kept already is left alone"


def test_a_program_gives_its_flows_at_each_start(database_url: str) -> None:
    """An executor is given the definition that the store has, whatever its status is; another one is refused."""
    with open_store(database_url) as store, open_store(database_url) as elsewhere:
        late = FlowRegistry(elsewhere.flows)
        with FlowExecutor(FlowRegistry(store.flows), tools=[double], flows=[a_flow()]) as executor:
            executor.registry.set_flow_status("twice", "disabled")
        for registry in (FlowRegistry(store.flows), late):
            with FlowExecutor(registry, tools=[double], flows=[a_flow()]) as executor:
                assert executor.registry.get_flow("twice").status is FlowStatus.DISABLED
        other = a_flow().model_copy(update={"steps": [FlowStep(tool_name="triple")]})
        with pytest.raises(FlowAlreadyExistsError):
            FlowExecutor(FlowRegistry(store.flows), tools=[double], flows=[other])
        with pytest.raises(FlowAlreadyExistsError):
            FlowRegistry(store.flows).register_flow(a_flow())
        assert elsewhere.flows.load_flows() == [a_flow(status="disabled")]


def test_a_registry_that_follows_its_store_sees_what_others_change(database_url: str) -> None:
    """Plans of a flow that was changed elsewhere are not used again."""
    with open_store(database_url) as ours, open_store(database_url) as theirs:
        theirs.flows.save_flow(a_flow())
        registry, other = FlowRegistry(ours.flows), FlowRegistry(theirs.flows)
        changed = threading.Event()
        with FlowExecutor(registry, tools=[double]) as executor, registry.follow(on_change=changed.set) as handle:
            assert executor.execute_flow("twice", {"n": 1}).flow_version == "1.0"
            other.register_flow(a_flow(version="2.0"))
            assert changed.wait(10), "the change is noticed"
            assert executor.execute_flow("twice", {"n": 1}).flow_version == "2.0"
        assert not handle.is_running


def test_registries_of_one_store_follow_each_other(database_url: str) -> None:
    """A change is noticed at once, also one that was made by the same connection."""
    with open_store(database_url) as store:
        registry, changed = FlowRegistry(store.flows), threading.Event()
        with registry.follow(on_change=changed.set):
            time.sleep(0.3)
            FlowRegistry(store.flows).register_flow(a_flow())
            assert changed.wait(2)
        assert len(registry) == 1


def test_a_registry_without_a_shared_store_follows_nothing() -> None:
    """The message says what would."""
    with pytest.raises(ValueError, match=r"Only a registry with a shared store follows it: FlowRegistry\(open_store"):
        FlowRegistry().follow()


def test_a_store_that_cannot_be_read_for_a_while_is_followed_on(database_url: str) -> None:
    """An error is told and is not the end."""
    with open_store(database_url) as ours, open_store(database_url) as theirs:
        registry, changed = FlowRegistry(ours.flows), threading.Event()
        errors: list[Exception] = []
        with registry.follow(on_change=changed.set, on_error=errors.append):
            theirs._database.run(
                "insert into chainweaver_flows (name, version, digest, status, definition, changed_at) "
                "values ('bad', '1', '', 'active', '{', 0)"
            )
            theirs.flows.save_flow(a_flow())
            ends = time.monotonic() + 10
            while not errors and time.monotonic() < ends:
                time.sleep(0.02)
            assert errors, "a row that is no flow is told"
            theirs.flows.delete_flow("bad", "1")
            assert changed.wait(10), "and the rest is loaded once it is gone"
        assert [name for name, _ in registry.snapshot] == ["twice"]


def test_a_damaged_flow_hides_no_change_of_the_others(database_url: str) -> None:
    """What can be read is taken over; the row that cannot is named, with what to do about it."""
    with open_store(database_url) as ours, open_store(database_url) as theirs:
        theirs.flows.save_flow(a_flow("bad"))
        theirs.flows.save_flow(a_flow())
        registry = FlowRegistry(ours.flows)
        changed, errors = threading.Event(), list[Exception]()
        with registry.follow(on_change=changed.set, on_error=errors.append):
            theirs._database.run("update chainweaver_flows set definition = '{' where name = 'bad'")
            theirs.flows.save_flow(a_flow("another"))
            assert changed.wait(10)
            assert [name for name, _ in registry.snapshot] == ["another", "bad", "twice"], "what was known stays"
            time.sleep(1.5)
            assert len(errors) == 1, "it is told once, and not again before the next change"
        with pytest.raises(FlowSerializationError) as told:
            registry.refresh()
        for text in ("flow 'bad' 1.0 in ", "fix     put it there again: chainweaver flows push FILE --overw"):
            assert text in told.value.render()
        with pytest.raises(FlowSerializationError, match="flow 'bad' 1"):
            FlowRegistry(ours.flows)
        theirs.flows.delete_flow("twice", "1.0")
        with pytest.raises(FlowSerializationError):
            registry.refresh()
        assert [name for name, _ in registry.snapshot] == ["another", "bad"]


def test_steps_can_be_listed_by_tool_with_sql(store: SqlStore) -> None:
    """For people who look with SQL."""
    store.flows.save_flow(a_flow())
    rows = store._database.rows("select name, version, step_id, tool_name from chainweaver_flow_steps")
    assert rows == [("twice", "1.0", "0", "double")]


HOSTILE = (
    "x'; drop table flows; --",
    'x"; drop table chainweaver_runs; --',
    "' or '1'='1",
    "?",
    "%s",
    "$1",
    ":name",
    "a\0b",
    "\ud800",
    "%",
    "_",
    "*",
    "\\",
    "'",
    '"',
    "`",
    ";",
    "--",
    "/*",
    "null",
    "",
    " ",
    "\n",
    "é",
    "e\u0301",
    "💥",
    "A" * 100_000,
)


def test_a_name_is_only_a_name(store: SqlStore) -> None:
    """Whatever it looks like to a database."""
    name = "x'; drop table flows; --"
    registry = FlowRegistry(store.flows)
    registry.register_flow(a_flow(name))
    with FlowExecutor(registry, tools=[double], checkpointer=store.runs, delete_on_success=False) as executor:
        assert executor.execute_flow(name, {"n": 1}, key=name).final_output == {"n": 1, "double": 2}
    assert store.flows.list_keys() == [(name, "1.0")]
    [run] = store.runs.list_runs(flow_name=name, key=name)
    assert run.flow_name == name


def test_two_thousand_hostile_ids_and_filters_find_nothing_and_break_nothing(store: SqlStore) -> None:
    """No error of a driver, no row too many."""
    draw = random.Random(7)
    store.flows.save_flow(a_flow())
    with FlowExecutor(tools=[double], flows=[a_flow()], checkpointer=store.runs, delete_on_success=False) as executor:
        kept = executor.execute_flow("twice", {"n": 1}, key="mine").trace_id
    for _ in range(HOSTILE_TEXTS):
        text = "".join(draw.choice(HOSTILE[:-1]) for _ in range(draw.randint(1, 4))) + draw.choice(("", kept[:4], "x"))
        text = draw.choice((text, draw.choice(HOSTILE)))
        assert store.runs.list_runs(flow_name=text) == []
        assert store.runs.list_runs(key=text) == []
        assert not store.flows.has_flow(text, text)
        with pytest.raises((CheckpointNotFoundError, ChainWeaverError)):
            store.runs.load(text)
        store.runs.delete(text)
    assert [run.trace_id for run in store.runs.list_runs()] == [kept]
    assert store.flows.list_keys() == [("twice", "1.0")]


def test_unknown_filters_are_errors(store: SqlStore) -> None:
    """A filter that is misspelt must not list everything."""
    unknown: dict[str, Any] = {"flow": "twice"}
    with pytest.raises(TypeError, match="flow"):
        store.runs.list_runs(**unknown)
    wrong: Any = "done"
    with pytest.raises(ValueError, match="status has to be one of running, ok, failed, cancelled, not 'done'"):
        store.runs.list_runs(status=wrong)
    with pytest.raises(ValueError, match="limit has to be 0 or more"):
        store.runs.list_runs(limit=-1)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_that_no_database_holds_is_refused_where_it_is_written(store: SqlStore, name: str) -> None:
    """PostgreSQL has no zero character, and nothing encodes a lone surrogate."""
    with pytest.raises(ValueError, match="cannot be stored: no database holds such a text"):
        store.flows.save_flow(a_flow().model_copy(update={"name": name}))
    with FlowExecutor(tools=[double], flows=[a_flow()], checkpointer=store.runs) as executor:
        with pytest.raises(ValueError, match="without zero characters and lone surrogates"):
            executor.execute_flow("twice", {"n": 1}, key=name)
        assert store.runs.list_runs() == []
