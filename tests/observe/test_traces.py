"""Trace stores and the recorder that fills them."""

from __future__ import annotations

import logging
import os
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from chainweaver import (
    ArtifactCorruptError,
    ExecutionResult,
    FileTraceStore,
    Flow,
    FlowExecutor,
    FlowStep,
    InMemoryTraceStore,
    RedactionPolicy,
    TraceNotFoundError,
    TraceRecorder,
    TraceStore,
    tool,
)
from chainweaver.observe import FlowEndContext, Listeners, TraceEntry
from tests.observe.views import NOON, a_record, a_result

Store = InMemoryTraceStore | FileTraceStore


def an_id(number: int) -> str:
    return f"{number:032x}"


def a_trace(number: int, **facts: Any) -> ExecutionResult:
    """A result that began `number` minutes after noon."""
    facts.setdefault("started_at", NOON + timedelta(minutes=number))
    return a_result(a_record(inputs={"n": number}), trace_id=an_id(number), **facts)


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return InMemoryTraceStore() if request.param == "memory" else FileTraceStore(tmp_path / "traces")


# ---- stores


def test_every_store_follows_the_protocol(store: Store) -> None:
    """R17: the result of a run can be kept."""
    assert isinstance(store, TraceStore)


def test_a_kept_result_is_read_as_it_was(store: Store) -> None:
    """R17: records, times and ids, nested results included."""
    result = a_trace(1, final_output={"a": [1, None, "ü"]}, success=False, parent_trace_id="cd" * 16)
    result.execution_log.append(a_record(1, sub_result=a_trace(2), by_reference=("a",)))
    store.save(result)
    assert store.load(an_id(1)) == result


def test_what_is_kept_and_what_is_handed_out_belong_to_nobody_else(store: Store) -> None:
    """R36: a trace shows what was, whatever becomes of the objects."""
    rows = [1]
    store.save(a_trace(1, final_output={"rows": rows}))
    rows.append(2)
    first = store.load(an_id(1))
    assert first.final_output == {"rows": [1]}
    first.final_output["rows"].append(3)
    assert store.load(an_id(1)).final_output == {"rows": [1]}


def test_values_that_json_has_no_form_for_are_kept_as_texts(store: Store) -> None:
    """R34: a trace is a view; nothing that is read from it becomes an object again."""
    store.save(a_trace(1, final_output={"value": 1j, "kind": int}))
    assert store.load(an_id(1)).final_output == {"value": "1j", "kind": "<class 'int'>"}


def test_a_later_result_of_the_same_run_replaces_the_earlier_one(store: Store) -> None:
    """R33: a run that was resumed is one run."""
    store.save(a_trace(1, success=False))
    store.save(a_trace(1))
    assert store.load(an_id(1)).success
    assert [entry.status for entry in store.list()] == ["ok"]


def test_kept_runs_are_listed_the_latest_first(store: Store) -> None:
    """R17: by flow, by status, and so many."""
    for number, flow_name, success in ((1, "a", True), (3, "b", False), (2, "a", False)):
        store.save(a_trace(number, flow_name=flow_name, success=success))

    def listed(**wanted: Any) -> list[int]:
        return [int(entry.trace_id, 16) for entry in store.list(**wanted)]

    assert listed() == [3, 2, 1]
    assert listed(flow_name="a") == [2, 1]
    assert listed(status="failed") == [3, 2]
    assert listed(flow_name="a", status="failed") == [2]
    assert listed(flow_name="c") == listed(limit=0) == []
    assert listed(limit=2) == [3, 2]
    assert listed(limit=None) == [3, 2, 1]
    assert store.list(limit=1) == [TraceEntry(an_id(3), "b", "1.0.0", "failed", NOON + timedelta(minutes=3), 2.5)]
    with pytest.raises(ValueError, match="limit has to be at least 0, not -1"):
        store.list(limit=-1)


def test_an_unknown_run_is_named_with_those_that_are_known(store: Store) -> None:
    """Errors: what was asked for, and what is there."""
    store.save(a_trace(1))
    with pytest.raises(TraceNotFoundError) as raised:
        store.load(an_id(2))
    assert (raised.value.trace_id, raised.value.known) == (an_id(2), (an_id(1),))
    assert str(raised.value).startswith(f"No trace is kept for run '{an_id(2)}'.\n")


def test_a_forgotten_run_is_gone_and_can_be_forgotten_again(store: Store) -> None:
    """R17: deleting is quiet about what is not there."""
    store.save(a_trace(1))
    store.delete(an_id(1))
    store.delete(an_id(1))
    assert store.list() == []


def test_a_store_serves_many_threads(store: Store) -> None:
    """R40: runs end at the same time."""

    def keep(first: int) -> None:
        for number in range(first, first + 10):
            store.save(a_trace(number))
            assert store.load(an_id(number)).trace_id == an_id(number)
            store.list(limit=3)

    threads = [threading.Thread(target=keep, args=(first,)) for first in (0, 10, 20, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.list()) == 40


def test_memory_keeps_the_latest_traces_only() -> None:
    """R40: a program that runs for years does not grow with its runs."""
    store = InMemoryTraceStore(max_traces=2)
    for number in (1, 2, 1, 3):
        store.save(a_trace(number))
    assert sorted(entry.trace_id for entry in store.list()) == [an_id(1), an_id(3)]
    assert len(store) == 2
    with pytest.raises(ValueError, match="max_traces has to be at least 1, not 0"):
        InMemoryTraceStore(max_traces=0)


# ---- files


def test_a_file_is_the_json_of_a_result(tmp_path: Path) -> None:
    """R34: anybody can read it, and another store sees the same."""
    FileTraceStore(tmp_path).save(a_trace(1))
    [path] = tmp_path.iterdir()
    assert path.name == f"{an_id(1)}.trace.json"
    assert ExecutionResult.model_validate_json(path.read_bytes()) == a_trace(1)
    assert FileTraceStore(tmp_path, fsync=True).list()[0].trace_id == an_id(1)


@pytest.mark.parametrize("trace_id", ["../x", "", "con", "a/b", ".x"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, trace_id: str) -> None:
    """R34: a trace id is a name in one directory and nothing else."""
    store = FileTraceStore(tmp_path / "traces")
    for use in (store.load, store.delete, lambda name: store.save(a_result(trace_id=name))):
        with pytest.raises(ValueError, match="is not safe as a file name"):
            use(trace_id)
    assert list((tmp_path / "traces").iterdir()) == []


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"", "EOF while parsing"),
        (b"[]", "Input should be an object"),
        (a_trace(1).model_dump_json()[:-9].encode(), "EOF while parsing"),
        (a_trace(2).model_dump_json().encode(), f"it belongs to run '{an_id(2)}'."),
        (a_trace(1, trace_schema_version="9").model_dump_json().encode(), "its trace schema has version '9'"),
    ],
    ids=["empty", "other json", "cut off", "of another run", "of a later release"],
)
def test_a_file_that_cannot_be_read_is_named_and_keeps_no_other_from_being_listed(
    tmp_path: Path, data: bytes, detail: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Errors: which file, and what is wrong with it; R38: what looks back does not fail for one trace of many."""
    store = FileTraceStore(tmp_path)
    store.save(a_trace(3))
    path = tmp_path / f"{an_id(1)}.trace.json"
    path.write_bytes(data)
    with pytest.raises(ArtifactCorruptError) as raised:
        store.load(an_id(1))
    assert raised.value.artifact == str(path)
    assert detail in raised.value.detail
    assert [entry.trace_id for entry in store.list()] == [an_id(3)]
    [logged] = [record.getMessage() for record in caplog.records if record.name == "chainweaver.traces"]
    assert str(path) in logged
    assert detail in logged
    store.delete(an_id(1))
    caplog.clear()
    assert [entry.trace_id for entry in store.list()] == [an_id(3)]
    assert not caplog.records


def test_a_save_that_fails_leaves_the_older_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R31: a file appears whole or not at all."""
    store = FileTraceStore(tmp_path)
    store.save(a_trace(1))

    def full(*paths: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        store.save(a_trace(1, success=False))
    monkeypatch.undo()
    assert store.load(an_id(1)).success
    assert len(list(tmp_path.iterdir())) == 1


def test_a_list_reads_a_file_again_only_when_it_has_changed(tmp_path: Path) -> None:
    """R40: listing costs a look at each file, and what others have changed is seen."""
    store, other = FileTraceStore(tmp_path), FileTraceStore(tmp_path)
    store.save(a_trace(1))
    [before] = store.list()
    assert store.list()[0] is before
    other.save(a_trace(1, success=False))
    other.save(a_trace(2))
    assert [entry.status for entry in store.list()] == ["ok", "failed"]
    other.delete(an_id(1))
    assert [entry.trace_id for entry in store.list()] == [an_id(2)]


def test_other_files_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    """R34: and what a writer left that died is cleared on request."""
    store = FileTraceStore(tmp_path)
    for name in ("notes.json", f".x{an_id(1)}.trace.json.tmp", " .trace.json"):
        (tmp_path / name).write_text("?")
    assert store.list() == []
    store.clear_leftovers()
    assert sorted(path.name for path in tmp_path.iterdir()) == [" .trace.json", "notes.json"]


# ---- the recorder


def told(recorder: TraceRecorder, *results: ExecutionResult) -> None:
    """End the runs of these results."""
    listeners = Listeners((recorder,))
    for result in results:
        listeners.flow_end(
            FlowEndContext(result.trace_id, result.flow_name, result.flow_version, result, NOON, result.parent_trace_id)
        )


def test_every_run_is_recorded_but_nested_ones_only_within_their_parent() -> None:
    """R27: the trace of a child hangs under its parent."""
    store, everything = InMemoryTraceStore(), InMemoryTraceStore()
    nested = a_trace(2, parent_trace_id=an_id(1))
    told(TraceRecorder(store), nested, a_trace(1))
    told(TraceRecorder(everything, nested=True), nested, a_trace(1))
    assert [entry.trace_id for entry in store.list()] == [an_id(1)]
    assert [(entry.trace_id, entry.parent_trace_id) for entry in everything.list()] == [
        (an_id(2), an_id(1)),
        (an_id(1), None),
    ]


def test_only_wanted_results_are_recorded() -> None:
    """R38: by what the result says."""
    store = InMemoryTraceStore()
    told(TraceRecorder(store, only=lambda result: not result.success), a_trace(1), a_trace(2, success=False))
    assert [entry.trace_id for entry in store.list()] == [an_id(2)]


def test_a_sample_is_the_same_for_every_recorder() -> None:
    """R1: the id decides, and not chance."""
    results = [a_trace(number) for number in range(400)]
    samples = []
    for share in (0.0, 0.25, 0.25, 1.0):
        store = InMemoryTraceStore()
        told(TraceRecorder(store, sample=share), *results)
        samples.append({entry.trace_id for entry in store.list(limit=None)})
    assert samples[1] == samples[2]
    assert [len(samples[0]), len(samples[3])] == [0, 400]
    assert 60 < len(samples[1]) < 140
    with pytest.raises(ValueError, match="sample has to be a number from 0 to 1, not 2"):
        TraceRecorder(InMemoryTraceStore(), sample=2)


class Client:
    """An object of somebody else, whose repr tells too much."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __repr__(self) -> str:
        return f"Client({self.key}, password={self.key!r})"


def test_a_store_sees_what_the_policy_lets_through_and_the_caller_sees_everything() -> None:
    """R39: also where an object gets into the trace by its own repr."""
    store = InMemoryTraceStore()
    live = a_result(
        a_record(inputs={"api_key": "k-12345678"}, outputs={"client": Client("k-12345678"), "n": 1}),
        final_output={"n": 1},
    )
    told(TraceRecorder(store, redaction_policy=RedactionPolicy()), live)
    record = store.load(live.trace_id).execution_log[0]
    assert record.inputs == {"api_key": "***"}
    assert record.outputs == {"client": "Client(***, password='***')", "n": 1}
    assert live.execution_log[0].inputs == {"api_key": "k-12345678"}


def test_a_store_that_fails_is_logged_and_fails_no_run(caplog: pytest.LogCaptureFixture) -> None:
    """R38: recording is watching."""

    class Full(InMemoryTraceStore):
        def save(self, result: ExecutionResult) -> None:
            raise OSError("no space left")

    @tool
    def double(n: int) -> int:
        return 2 * n

    flow = Flow(name="f", description="d", steps=[FlowStep(tool_name="double")])
    with caplog.at_level(logging.WARNING, logger="chainweaver.middleware"):
        with FlowExecutor(tools=[double], flows=[flow], middleware=[TraceRecorder(Full())]) as executor:
            result = executor.execute_flow("f", {"n": 2})
    assert result.final_output == {"n": 2, "double": 4}
    [logged] = caplog.records
    assert logged.getMessage() == "Middleware 0 (TraceRecorder) raised in on_flow_end: no space left"
