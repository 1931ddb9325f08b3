"""Arrays, frames, tables and tensors through runs with caches and checkpoints: content keys, equal values, no JSON."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pydantic_core
import pytest
from pydantic import BaseModel, ConfigDict

from chainweaver import (
    ArtifactCorruptError,
    DAGFlow,
    DAGFlowStep,
    FileCheckpointer,
    FileStepCache,
    Flow,
    FlowExecutor,
    FlowStep,
    InMemoryCheckpointer,
    InMemoryStepCache,
    Native,
    Tool,
)
from tests.executor.kit import Calls, Crash
from tests.objects.test_codecs import KINDS
from tests.objects.values import same, torch

ROWS = 20_000
CACHES: dict[str, Any] = {"memory": lambda path: InMemoryStepCache(), "file": FileStepCache}
STORES: dict[str, Any] = {"memory": lambda path: InMemoryCheckpointer(), "file": FileCheckpointer}


class Given(BaseModel):
    data: Native[Any]


class Made(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    data: Any
    label: str = "made"


def chain(*tools: Tool) -> Flow:
    return Flow(name="flow", description="of a test", steps=[FlowStep(tool_name=one.name) for one in tools])


def passing(calls: Calls, name: str, fn: Any = lambda given: {"data": given.data}) -> Tool:
    return calls.tool(name, fn, input_schema=Given, output_schema=Made)


def executor(*tools: Tool, **options: Any) -> FlowExecutor:
    return FlowExecutor(tools=list(tools), flows=[chain(*tools)], **options)


def refuse_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on JSON is not to be written by anybody."""

    def refuse(*args: Any, **options: Any) -> Any:
        raise AssertionError("something was written as JSON")

    monkeypatch.setattr(json, "dumps", refuse)
    monkeypatch.setattr(json.JSONEncoder, "encode", refuse)
    monkeypatch.setattr(pydantic_core, "to_json", refuse)


def flow_and_graph(*tools: Tool, **options: Any) -> FlowExecutor:
    steps = [
        DAGFlowStep(step_id=one.name, tool_name=one.name, depends_on=[tools[place - 1].name] if place else [])
        for place, one in enumerate(tools)
    ]
    graph = DAGFlow(name="graph", version="1", description="of a test", steps=steps)
    return FlowExecutor(tools=list(tools), flows=[chain(*tools), graph], **options)


def test_a_native_flow_runs_without_a_word_of_json(monkeypatch: pytest.MonkeyPatch):
    """Objects, line 2: compiled and run, as a flow and as a graph, on both lanes."""
    refuse_json(monkeypatch)
    frame = pd.DataFrame({"a": [1]})
    with flow_and_graph(*(passing(Calls(), name) for name in ("a", "b", "c"))) as runs:
        for name in ("flow", "graph"):
            for result in (
                runs.execute_flow(name, {"data": frame}),
                asyncio.run(runs.execute_flow_async(name, {"data": frame})),
            ):
                assert result.raise_for_failure().final_output is not None
                assert result.execution_log[-1].outputs is not None
                assert result.execution_log[-1].outputs["data"] is frame


@pytest.mark.parametrize("stores", [{"step_cache": InMemoryStepCache}, {"checkpointer": InMemoryCheckpointer}])
def test_stores_in_memory_make_no_json_of_values(stores: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """Objects, line 2: once the schemas of the tools are hashed, no JSON is written by a run with a store in memory."""
    tools = [passing(Calls(), name) for name in ("a", "b", "c")]
    frame = pd.DataFrame({"a": [1]})
    with flow_and_graph(*tools, **{name: make() for name, make in stores.items()}) as runs:
        for name in ("flow", "graph"):
            runs.execute_flow(name, {"data": 1}).raise_for_failure()
        refuse_json(monkeypatch)
        for name in ("flow", "graph"):
            for result in (
                runs.execute_flow(name, {"data": frame}),
                asyncio.run(runs.execute_flow_async(name, {"data": frame})),
            ):
                assert result.raise_for_failure().final_output is not None
                assert same(frame, result.final_output["data"] if result.final_output else None)


@pytest.mark.parametrize("kind", CACHES)
def test_an_array_is_a_hit_in_the_second_run(kind: str, tmp_path: Any):
    """R29, objects, line 2: an equal array is the same input, whatever its memory looks like."""
    calls = Calls()
    step = passing(calls, "double", lambda given: {"data": given.data * 2})
    array = np.arange(ROWS, dtype=float).reshape(-1, 2)
    cache = CACHES[kind](tmp_path)

    first = executor(step, step_cache=cache).execute_flow("flow", {"data": array}).raise_for_failure()
    second = executor(step, step_cache=cache).execute_flow("flow", {"data": np.asfortranarray(array)})
    third = executor(step, step_cache=cache).execute_flow("flow", {"data": array + 1})

    assert calls.counts == {"double": 2}
    assert [run.execution_log[0].cached for run in (first, second, third)] == [False, True, False]
    assert first.execution_log[0].cache_note is None
    assert second.final_output is not None
    assert same(second.final_output["data"], array * 2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_object_is_a_content_key_and_a_cached_output(kind: str, tmp_path: Any):
    """R29, R30: in and out of a cache in files."""
    calls = Calls()
    step = passing(calls, "pass")
    runs = executor(step, step_cache=FileStepCache(tmp_path))

    runs.execute_flow("flow", {"data": KINDS[kind]()}).raise_for_failure()
    result = runs.execute_flow("flow", {"data": KINDS[kind]()}).raise_for_failure()

    assert result.execution_log[0].cached
    assert result.final_output is not None
    assert same(KINDS[kind](), result.final_output["data"])


@pytest.mark.parametrize("kind", CACHES)
def test_what_a_hit_is_changed_to_is_not_what_the_next_hit_is(kind: str, tmp_path: Any):
    """R30: a hit shares nothing with the store, and can be changed as what the tool returned."""
    step = passing(Calls(), "make", lambda given: {"data": [np.zeros(ROWS), pd.DataFrame({"a": [[1]]}).a.tolist()]})
    runs = executor(step, step_cache=CACHES[kind](tmp_path))
    for _ in range(3):
        result = runs.execute_flow("flow", {"data": 1}).raise_for_failure()
        assert result.final_output is not None
        array, cells = result.final_output["data"]
        assert (array.sum(), cells) == (0, [[1]])
        array += 1
        cells[0].append(2)


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (pl.LazyFrame({"a": [1]}), r"collect\(\) it first"),
        (np.array([object()]), "'object' has no canonical encoding"),
        (threading.Lock(), "'_thread.lock' has no canonical encoding"),
    ],
    ids=["lazy", "objects", "lock"],
)
def test_an_input_that_has_no_content_key_is_a_miss_and_the_record_says_why(
    value: Any, why: str, kind: str, tmp_path: Any
):
    """R29: a reason, never an error."""
    calls = Calls()
    step = passing(calls, "pass", lambda given: {"data": 1})
    runs = executor(step, step_cache=CACHES[kind](tmp_path))
    for _ in range(2):
        [record] = runs.execute_flow("flow", {"data": value}).raise_for_failure().execution_log
        assert not record.cached
        assert record.cache_note is not None
        assert re.search(why, record.cache_note)
    assert calls.counts == {"pass": 2}


@pytest.mark.parametrize(
    ("value", "kind", "why"),
    [
        (pl.LazyFrame({"a": [1]}), "file", r"collect() it first"),
        (np.array([object()]), "file", "holds Python objects"),
        (threading.Lock(), "file", "no plain form"),
        (threading.Lock(), "memory", "cannot be copied"),
    ],
    ids=["lazy", "objects", "lock", "lock in memory"],
)
def test_an_output_that_cannot_be_kept_is_returned_and_the_record_says_why(
    value: Any, kind: str, why: str, tmp_path: Any
):
    """R30: a reason, never an error."""
    step = passing(Calls(), "make", lambda given: {"data": value})
    runs = executor(step, step_cache=CACHES[kind](tmp_path))
    for _ in range(2):
        result = runs.execute_flow("flow", {"data": 1}).raise_for_failure()
        [record] = result.execution_log
        assert not record.cached
        assert why in (record.cache_note or "")
        assert result.final_output is not None
        assert result.final_output["data"] is value


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize(
    "make",
    [
        lambda: np.arange(ROWS, dtype=float),
        lambda: pd.DataFrame({"a": range(ROWS), "s": "x"}),
        lambda: pa.table({"a": range(ROWS)}),
        lambda: pl.DataFrame({"a": range(ROWS)}),
        *([lambda: torch.arange(ROWS)] if torch is not None else []),
        lambda: {"small": np.arange(3), "raw": b"x" * 100_000},
    ],
    ids=["array", "frame", "table", "polars", *(["tensor"] if torch is not None else []), "dict"],
)
def test_a_run_that_crashed_goes_on_with_equal_objects(kind: str, make: Any, tmp_path: Any):
    """R32, R33, objects, line 2: the input and the outputs before the crash come from the checkpoint."""
    store = STORES[kind](tmp_path / "runs")
    calls = Calls(last=2)

    def steps() -> list[Tool]:
        return [passing(calls, name) for name in ("a", "b", "c")]

    with pytest.raises(Crash):
        executor(*steps(), checkpointer=store).execute_flow("flow", {"data": make()})
    [trace_id] = store.list_trace_ids()
    calls.last = None
    result = executor(*steps(), checkpointer=store).resume_flow(trace_id).raise_for_failure()

    assert calls.counts == {"a": 1, "b": 1, "c": 1}
    values = [result.final_output, result.initial_input, *(record.outputs for record in result.execution_log)]
    for shown in values:
        assert shown is not None
        found, expected = shown["data"], make()
        if isinstance(expected, dict):
            found, expected = found["small"], expected["small"]
        assert same(expected, found)
    if kind == "file":
        assert not list((tmp_path / "runs").iterdir())  # a run that is done leaves nothing


def test_a_run_whose_artifact_was_damaged_is_not_resumed(tmp_path: Any):
    """Objects, line 6: nothing wrong is read; the error names file and step."""
    store = FileCheckpointer(tmp_path)
    calls = Calls(last=1)
    steps = [passing(calls, "a", lambda given: {"data": np.arange(ROWS)}), passing(calls, "b")]
    with pytest.raises(Crash):
        executor(*steps, checkpointer=store).execute_flow("flow", {"data": 1})
    [artifact] = tmp_path.rglob("*.artifact")
    artifact.write_bytes(artifact.read_bytes()[:-8])
    [trace_id] = store.list_trace_ids()

    with pytest.raises(ArtifactCorruptError, match=r"step '0' \(tool 'a'\) needs it") as caught:
        executor(*steps, checkpointer=store).resume_flow(trace_id)

    assert caught.value.artifact == str(artifact)


def test_a_damaged_artifact_of_a_cache_costs_one_call(tmp_path: Any):
    """Objects, line 6: a miss, and the entry is whole again."""
    calls = Calls()
    step = passing(calls, "make", lambda given: {"data": np.arange(ROWS)})
    runs = executor(step, step_cache=FileStepCache(tmp_path))
    runs.execute_flow("flow", {"data": 1}).raise_for_failure()
    next(tmp_path.rglob("*.artifact")).write_bytes(b"")
    cached = [runs.execute_flow("flow", {"data": 1}).raise_for_failure().execution_log[0].cached for _ in range(2)]
    assert (cached, calls.counts) == ([False, True], {"make": 2})


class Labelled(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    weights: np.ndarray
    names: list[str]


class Fit(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    best: Labelled
    others: list[Labelled] = []


def test_objects_in_models_keep_their_types_through_files(tmp_path: Any):
    """R30, R34: a hit has the declared models, with arrays inside."""
    calls = Calls()

    def fit(given: Given) -> Fit:
        one = Labelled(weights=given.data, names=["a"])
        return Fit(best=one, others=[one, Labelled(weights=np.arange(2), names=[])])

    step = calls.tool("fit", fit, input_schema=Given, output_schema=Fit)
    runs = executor(step, step_cache=FileStepCache(tmp_path))
    for _ in range(2):
        result = runs.execute_flow("flow", {"data": np.arange(ROWS)}).raise_for_failure()
        assert result.final_output is not None
        best, others = result.final_output["best"], result.final_output["others"]
        assert (type(best), type(others[1]), others[1].names) == (Labelled, Labelled, [])
        assert same(best.weights, np.arange(ROWS))
        assert same(others[1].weights, np.arange(2))
    assert calls.counts == {"fit": 1}


def test_a_replay_compares_objects_by_content():
    """R35: an equal array is the same output, another one is a difference that is named."""
    added = [1.0]

    def add(given: Given) -> dict[str, Any]:
        return {"data": np.asfortranarray(given.data + added[0]), "label": "x"}

    runs = executor(passing(Calls(), "add", add))
    recorded = runs.execute_flow("flow", {"data": np.arange(6.0).reshape(2, 3)}).raise_for_failure()

    again = runs.replay_flow(recorded)
    assert (again.all_steps_match, again.not_compared) == (True, [])
    added[0] = 2.0
    assert "data" in str(runs.replay_flow(recorded).diffs[0])
