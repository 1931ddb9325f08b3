"""`StepRecord.objects`: what the inputs and outputs of a step were, whatever records keep of them."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from chainweaver import (
    ExecutionResult,
    FileTraceStore,
    Flow,
    FlowExecutor,
    FlowStep,
    InMemoryCheckpointer,
    Native,
    RedactionPolicy,
    TraceRecorder,
    tool,
)
from chainweaver.objects import ObjectInfo


class Loaded(NamedTuple):
    frame: Native[pd.DataFrame]
    names: list[str]
    rows: int


@tool
def load(rows: int) -> Loaded:
    return Loaded(pd.DataFrame({"x": np.zeros(rows)}), ["n"] * rows, rows)


@tool(output="array")
def turn(frame: Native[pd.DataFrame]) -> Native[np.ndarray]:
    return frame.to_numpy()


@tool(output="total")
def add(array: Native[np.ndarray]) -> float:
    return float(array.sum())


@tool(output="never")
def refuse(array: Native[np.ndarray]) -> int:
    raise ValueError("no")


TOOLS: list[Any] = [load, turn, add, refuse]
FRAME = ObjectInfo("pandas.DataFrame", (5_000, 1), None, (("x", "float64"),), "cpu", 40_000, "heap", False)
MODES = ("snapshot", "reference", "summary")


def flow_of(*names: str, **settings) -> Flow:
    return Flow(name="f", description="", steps=[FlowStep(tool_name=name) for name in names], **settings)


def run(flow: Flow, given=None, flows=(), **settings) -> ExecutionResult:
    with FlowExecutor(tools=TOOLS, flows=[flow, *flows], **settings) as executor:
        return executor.execute_flow(flow.name, {"rows": 5_000} if given is None else given)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("limit", [1, 4])
@pytest.mark.parametrize("trace_values", MODES)
def test_a_record_tells_what_foreign_objects_and_large_values_were(trace_values, limit, is_async):
    """R36: on every lane and whatever records keep; numbers and small containers are told by their values."""
    flow = flow_of("load", "turn", "add")
    with FlowExecutor(tools=TOOLS, flows=[flow], trace_values=trace_values, max_step_concurrency=limit) as executor:
        given = {"rows": 5_000}
        result = asyncio.run(executor.execute_flow_async("f", given)) if is_async else executor.execute_flow("f", given)

    first, second, third = result.execution_log
    assert first.objects["outputs.frame"] == FRAME
    assert (first.objects["outputs.names"].type, first.objects["outputs.names"].shape) == ("list", (5_000,))
    assert list(first.objects) == ["outputs.frame", "outputs.names"]
    assert list(second.objects) == ["inputs.frame", "outputs.array"]
    assert list(third.objects) == ["inputs.array"]


def test_summaries_keep_what_a_value_was_and_not_the_value():
    """R37: what is told holds nothing."""
    seen = []

    @tool(output="array")
    def make(rows: int) -> Native[np.ndarray]:
        made = np.zeros(rows)
        seen.append(weakref.ref(made))
        return made

    @tool(output="alive")
    def look(rows: int) -> bool:
        return seen[0]() is not None

    steps = [FlowStep(tool_name=name) for name in ("make", "add", "look")]
    flow = Flow(name="f", description="", outputs=["alive"], steps=steps)
    gc.disable()
    try:
        with FlowExecutor(tools=[make, add, look], flows=[flow], trace_values="summary") as executor:
            result = executor.execute_flow("f", {"rows": 10})
    finally:
        gc.enable()

    assert result.final_output == {"alive": False}
    assert result.step("0").objects["outputs.array"].nbytes == 80


@pytest.mark.parametrize("trace_values", MODES)
def test_a_step_that_failed_tells_of_its_inputs_only(trace_values):
    """R16, R36: it gave nothing."""
    result = run(flow_of("load", "turn", "refuse"), trace_values=trace_values)

    assert list(result.execution_log[2].objects) == ["inputs.array"]


@pytest.mark.parametrize("trace_values", MODES)
def test_steps_of_numbers_have_no_objects(trace_values):
    """R36: steps whose models hold nothing that would be shown otherwise pay nothing."""

    @tool
    def double(n: int) -> int:
        return 2 * n

    flow = Flow(name="f", description="", steps=[FlowStep(tool_name="double")])
    with FlowExecutor(tools=[double], flows=[flow], trace_values=trace_values) as executor:
        assert executor.execute_flow("f", {"n": 1}).step("0").objects == {}


@pytest.mark.parametrize("trace_values", MODES)
def test_steps_of_sub_flows_and_maps_tell_theirs(trace_values):
    """R27, R28: a nested run has records of its own."""
    inner = Flow(name="inner", description="", steps=[FlowStep(tool_name="load"), FlowStep(tool_name="turn")])
    outer = Flow(
        name="f",
        description="",
        steps=[
            FlowStep(flow_name="inner"),
            FlowStep(tool_name="load", map_over="sizes", map_as="rows", output_mapping={"frames": "frame"}),
        ],
    )

    result = run(outer, {"rows": 5_000, "sizes": [5_000, 3]}, flows=[inner], trace_values=trace_values)

    assert result.step("0").sub_result.step("0").objects["outputs.frame"] == FRAME
    items = result.step("1").sub_result.execution_log
    assert [one.objects["outputs.frame"].shape for one in items] == [(5_000, 1), (3, 1)]


def test_a_resumed_run_tells_what_it_reads_anew():
    """R33: records of steps that did not run again have their inputs worked out."""
    calls = []

    @tool
    def text(n: int) -> str:
        return "x" * n

    @tool
    def flaky(text: str) -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("once")
        return len(text)

    flow = Flow(name="f", description="", steps=[FlowStep(tool_name="text"), FlowStep(tool_name="flaky")])
    store = InMemoryCheckpointer()
    with FlowExecutor(tools=[text, flaky], flows=[flow], checkpointer=store, trace_values="summary") as executor:
        failed = executor.execute_flow("f", {"n": 5_000})
        result = executor.resume_flow(failed.trace_id)

    assert result.success
    assert result.step("1").objects["inputs.text"].shape == (5_000,)


def test_exported_traces_hold_it_as_plain_data_and_read_it_back(tmp_path):
    """Traces: what an object was, without the object."""
    store = FileTraceStore(tmp_path)

    result = run(flow_of("load", "turn"), trace_recorder=TraceRecorder(store), trace_values="summary")

    read = store.load(result.trace_id)
    assert read.step("0").objects == result.step("0").objects
    assert isinstance(read.step("0").objects["outputs.frame"], ObjectInfo)


def test_it_is_no_part_of_what_is_compared_between_runs():
    """R1: where bytes lie may differ from lane to lane."""
    result = run(flow_of("load", "turn"))

    assert all("objects" not in record for record in result.canonical_trace())


@pytest.mark.parametrize("trace_values", MODES)
def test_nothing_is_told_of_what_a_policy_hides(trace_values):
    """R39: neither of hidden values, nor of columns that are called like one."""

    @tool(output="secret")
    def make() -> Native[pd.DataFrame]:
        return pd.DataFrame({"x": [1]})

    @tool(output="open")
    def name(secret: Native[pd.DataFrame], token: str) -> Native[pd.DataFrame]:
        return pd.DataFrame({token: [1]})

    flow = Flow(name="f", description="", steps=[FlowStep(tool_name="make"), FlowStep(tool_name="name")])
    policy = RedactionPolicy(keys=["secret", "token"])
    with FlowExecutor(tools=[make, name], flows=[flow], redaction_policy=policy, trace_values=trace_values) as executor:
        result = executor.execute_flow("f", {"token": "hunter2-hunter2"})

    assert result.success
    assert [record.objects for record in result.execution_log] == [{}, {}]
    assert "hunter2" not in str([record.objects for record in result.execution_log])
