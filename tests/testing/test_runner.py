"""The flow runner and the capture of steps."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest

from chainweaver import (
    DAGFlow,
    DAGFlowStep,
    Flow,
    FlowExecutor,
    FlowNotFoundError,
    FlowRegistry,
    FlowStep,
    InMemoryCheckpointer,
    InMemoryStepCache,
    StepRecord,
    Tool,
    ToolNotFoundError,
)
from chainweaver.testing import FlowTestRunner, VirtualClock, capture_steps, fake_tool
from tests.lanes.table import LANES, Lane
from tests.testing.kit import TEA, order, patient, price, stock, total

lanes = pytest.mark.parametrize("lane", LANES, ids=repr)


def ran(lane: Lane, runner: FlowTestRunner, given: dict[str, Any]) -> Any:
    """One run of a runner on a lane."""
    if lane.backend is None:
        return runner.run(given)
    return lane.backend(lambda: runner.run_async(given))


@lanes
def test_a_runner_runs_a_flow_with_fakes_and_remembers_the_calls(lane: Lane) -> None:
    """api.md: fakes by name, real tools otherwise, calls of both."""
    with FlowTestRunner(order(), tools=[price, total], fakes={"price": 2.5}, **lane.options) as runner:
        result = ran(lane, runner, TEA)
        assert result.final_output["total"] == 10.0
        assert [call.inputs for call in runner.calls("price")] == [{"article": "tea"}]
        assert [call.inputs for call in runner.calls("total")] == [{"price": 2.5, "count": 4}]
        assert runner.results == [result]


@lanes
def test_a_runner_lives_in_virtual_time(lane: Lane) -> None:
    """R20: the clock is built in."""
    fakes = {"price": fake_tool(price, sequence=[OSError("busy"), 2.5])}
    flow = order(retry=patient(1, 86_400))
    with FlowTestRunner(flow, tools=[total], fakes=fakes, **lane.options) as runner:
        assert ran(lane, runner, TEA).success
        assert runner.clock.waits == [86_400]


@pytest.mark.parametrize(
    ("what", "ends"),
    [
        (2.5, "ok"),
        ({"price": 2.5}, "ok"),
        (lambda inputs: 2.5, "ok"),
        (fake_tool(price, returns=2.5), "ok"),
        (Tool(name="dear", description="", input_schema=price.input_schema, output_schema=price.output_schema,
              fn=lambda inputs: {"price": 2.5}), "ok"),
        (OSError("busy"), "failed"),
        (OSError, "failed"),
    ],
)  # fmt: skip
def test_a_fake_may_be_said_in_short(what: Any, ends: str):
    """api.md: a value, an exception, a function, a fake or another tool."""
    with FlowTestRunner(order(), tools=[price, total], fakes={"price": what}) as runner:
        assert runner.run(TEA).status == ends
        assert len(runner.calls("price")) == 1


def test_a_fake_may_stand_in_for_a_tool_that_nobody_has():
    """api.md: open schemas; the flow need not be complete to be tested."""
    with FlowTestRunner(order(), fakes={"price": {"price": 1.0}, "total": {"total": 3}}) as runner:
        assert runner.run(TEA).final_output == {**TEA, "price": 1.0, "total": 3}


def test_a_fake_that_no_step_calls_is_an_error_that_names_the_tools_of_the_flow():
    """api.md: a mistyped fake must not leave the real tool in place."""
    with pytest.raises(ToolNotFoundError) as caught:
        FlowTestRunner(order(), tools=[price, total], fakes={"prise": 2.5})
    message = str(caught.value)
    assert "fakes of flow 'order' 0.1.0" in message
    assert "known   price, total" in message
    assert "did you mean 'price'?" in message


def test_fallbacks_candidates_and_tools_of_sub_flows_can_be_faked():
    """R21, R27: all that a run may call."""
    inner = Flow(name="inner", description="", steps=[FlowStep(tool_name="deep")])
    outer = Flow(
        name="outer",
        description="",
        steps=[
            FlowStep(tool_name="price", on_error="fallback:spare", decision_candidates=["price", "dear"]),
            FlowStep(flow_name="inner"),
        ],
    )
    fakes = dict.fromkeys(("price", "spare", "dear", "deep"), 1)
    runner = FlowTestRunner(outer, flows=[inner], fakes=fakes)
    assert repr(runner) == "FlowTestRunner('outer', '0.1.0', fakes=['dear', 'deep', 'price', 'spare'])"


def test_a_flow_may_be_named_in_a_registry():
    """api.md: works with registries; the version can be chosen, and the registry stays as it is."""
    registry = FlowRegistry()
    for version in ("1.0", "2.0"):
        registry.register_flow(order().model_copy(update={"version": version}))
    before = registry.snapshot
    with FlowTestRunner("order", registry=registry, tools=[total], fakes={"price": 1}) as runner:
        assert runner.run(TEA).flow_version == "2.0"
    with FlowTestRunner("order", registry=registry, version="1.0", tools=[total], fakes={"price": 1}) as runner:
        assert runner.run(TEA).flow_version == "1.0"
    with FlowTestRunner(order(), registry=registry, tools=[total], fakes={"price": 1}) as runner:
        assert runner.run(TEA).flow_version == "0.1.0"
    assert registry.snapshot is before
    with pytest.raises(FlowNotFoundError, match="did you mean 'order'"):
        FlowTestRunner("ordr", registry=registry)


def test_an_executor_lends_its_tools_flows_and_settings_and_stays_as_it_is():
    """R40: copy-on-write."""
    with FlowExecutor(tools=[price, total], flows=[order()], trace_values="summary") as executor:
        with FlowTestRunner("order", executor=executor, fakes={"price": 2.5}) as runner:
            assert runner.run(TEA).success
            assert runner.executor._settings["trace_values"] == "summary"
        assert executor.get_tool("price") is price
        assert (
            executor.execute_flow("order", {"article": "milk", "count": 1}).step("0").error_cause == "ConnectionError"
        )


def test_outputs_of_fakes_stay_out_of_the_stores_of_an_executor():
    """R29: a fake has the identity of the tool it replaces, and so its cache keys; a cache of the test is used."""
    real, own, store = InMemoryStepCache(), InMemoryStepCache(), InMemoryCheckpointer()
    with FlowExecutor(
        tools=[price, total], flows=[order()], step_cache=real, checkpointer=store, delete_on_success=False
    ) as executor:
        with FlowTestRunner("order", executor=executor, fakes={"price": 2.5}) as runner:
            runner.run(TEA)
        assert (len(real), store.list_trace_ids()) == (0, [])
        with FlowTestRunner("order", executor=executor, fakes={"price": 2.5}, step_cache=own) as runner:
            runner.run(TEA)
            assert runner.run(TEA).step("1").cached
    assert (len(real), len(own)) == (0, 2)


def test_settings_can_be_given_to_a_runner():
    """api.md: everything that an executor takes."""
    clock, seen = VirtualClock(), []
    dag = DAGFlow(
        name="two", version="1", description="",
        steps=[DAGFlowStep(step_id=name, tool_name=name) for name in ("price", "stock")],
    )  # fmt: skip
    meeting = threading.Barrier(2, timeout=5)

    def meet(inputs: Any) -> int:
        meeting.wait()
        return 1

    class Watch:
        def on_step_end(self, context: Any) -> None:
            seen.append(context.tool_name)

    fakes = {"price": meet, "stock": fake_tool(stock, side_effect=meet, is_async=False)}
    with FlowTestRunner(
        dag, tools=[price, stock], fakes=fakes, clock=clock, max_step_concurrency=2, middleware=[Watch()]
    ) as runner:
        assert runner.run({"article": "tea"}).success
    assert sorted(seen) == ["price", "stock"]
    assert runner.clock is clock


def test_the_calls_of_a_tool_that_cannot_be_seen_are_not_taken_for_none():
    """api.md: an empty list would be a lie."""
    elsewhere = Tool(name="price", description="", input_schema=price.input_schema,
                     output_schema=price.output_schema, fn=price.fn, lane="far")  # fmt: skip
    runner = FlowTestRunner(order(), tools=[elsewhere, total])
    with pytest.raises(ToolNotFoundError, match=r"its calls are not seen(.|\n)*put a fake in its place"):
        runner.calls("price")
    with pytest.raises(ToolNotFoundError, match="did you mean 'total'"):
        runner.calls("totl")


def test_a_runner_gives_its_threads_back():
    """R40: closed at the end of the block."""
    fakes = {"price": fake_tool(price, returns=1, is_async=True), "total": 2}
    before = set(threading.enumerate())
    with FlowTestRunner(order(), tools=[price, total], fakes=fakes, lane="thread") as runner:
        assert runner.run(TEA).success
        assert set(threading.enumerate()) > before
    assert set(threading.enumerate()) <= before


@lanes
def test_steps_are_captured_as_they_end(lane: Lane) -> None:
    """api.md: records of the block, in order, and none of those before and after."""
    with lane.executor(tools=[fake_tool(price, returns=2.5), total], flows=[order()]) as executor:
        lane.run(executor, "order", TEA)
        with capture_steps(executor) as steps:
            assert steps == []
            result = lane.run(executor, "order", TEA)
        lane.run(executor, "order", TEA)
    assert steps == result.execution_log
    assert all(isinstance(step, StepRecord) for step in steps)


def test_capturing_ends_with_the_block_whatever_happens():
    """R40: no middleware is left behind; and a flow can be picked out."""
    other = Flow(name="other", description="", steps=[FlowStep(tool_name="total")])
    executor = FlowExecutor(tools=[price, total], flows=[order(), other])
    with contextlib.suppress(KeyError), capture_steps(executor, flow_name="other") as steps:
        executor.execute_flow("order", TEA)
        executor.execute_flow("other", {"price": 1, "count": 2})
        raise KeyError
    executor.execute_flow("other", {"price": 1, "count": 2})
    assert [(step.tool_name, step.status) for step in steps] == [("total", "ok")]


def test_a_fake_for_a_tool_of_a_sub_flow_that_is_not_there_says_that_it_is_the_flow_that_is_missing() -> None:
    """api.md: the tool is all right, and the runner was not given the flow that calls it."""
    outer = Flow(name="all", description="", steps=[FlowStep(flow_name="order", map_over="orders")])
    with pytest.raises(ToolNotFoundError) as caught:
        FlowTestRunner(outer, tools=[price, total], fakes={"price": 2.5})
    assert caught.value.why == "a step runs 'order', which is not registered"
    assert caught.value.fix == "pass the sub-flows as flows=[...]"
