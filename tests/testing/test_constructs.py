"""Every construct under test: branches, decisions, approvals, sub-flows, maps, capabilities and dry runs with fakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chainweaver import (
    ConditionalEdge,
    DAGFlow,
    DAGFlowStep,
    Flow,
    FlowExecutor,
    FlowStep,
    Tool,
    ToolSafetyContract,
    tool,
)
from chainweaver.testing import (
    FlowFuzzer,
    FlowTestRunner,
    assert_result_matches,
    attest_flow,
    capture_steps,
    fake_tool,
    minimize_failure,
    record_then_replay,
)
from tests.lanes.table import LANES, Lane
from tests.testing.kit import patient, price, total

lanes = pytest.mark.parametrize("lane", LANES, ids=repr)


@tool
def grade(n: int) -> int:
    return n % 3


@tool
def low(n: int) -> str:
    return "low"


@tool
def high(n: int) -> str:
    return "high"


@tool
def pay(total: float) -> bool:
    raise ConnectionError("the bank is closed")


PAY = Tool(
    name="pay", description="", input_schema=pay.input_schema, output_schema=pay.output_schema, fn=pay.fn,
    safety=ToolSafetyContract(requires_approval=True), dry_run_fn=lambda inputs: {"pay": False},
)  # fmt: skip

BRANCHING = DAGFlow(
    name="branching", version="1", description="",
    steps=[
        DAGFlowStep(step_id="grade", tool_name="grade", default_next="high",
                    branches=[ConditionalEdge(target_step_id="low", predicate="grade == 0")]),
        DAGFlowStep(step_id="low", tool_name="low", depends_on=["grade"]),
        DAGFlowStep(step_id="high", tool_name="high", depends_on=["grade"]),
    ],
)  # fmt: skip

LINE = Flow(name="line", description="", steps=[FlowStep(tool_name="price"), FlowStep(tool_name="total")])

BASKET = Flow(
    name="basket", description="",
    steps=[
        FlowStep(flow_name="line", map_over="lines", map_as="item", retry=patient(1, 60),
                 input_mapping={"article": "/item/article", "count": "/item/count"}),
        FlowStep(tool_name="pay", input_mapping={"total": "/total/0"}),
    ],
)  # fmt: skip

LINES = {"lines": [{"article": "tea", "count": 4}, {"article": "milk", "count": 1}]}
PRICES = {"tea": 2.5, "milk": 1.0}


def ran(lane: Lane, runner: FlowTestRunner, given: dict[str, Any], **options: Any) -> Any:
    if lane.backend is None:
        return runner.run(given, **options)
    return lane.backend(lambda: runner.run_async(given, **options))


@lanes
def test_branches_take_the_way_that_a_fake_chooses(lane: Lane) -> None:
    """R24: passed-over steps call no tool; what was decided can be expected."""
    tools: list[Tool] = [grade, low, high]
    with FlowTestRunner(BRANCHING, tools=tools, fakes={"grade": fake_tool(grade, sequence=[0, 1])}) as runner:
        assert_result_matches(ran(lane, runner, {"n": 1}), {
            "output": {"low": "low"},
            "steps": {"grade": {"decision": {"taken": "low"}}, "low": "ok", "high": "skipped"},
        })  # fmt: skip
        assert_result_matches(ran(lane, runner, {"n": 1}), {"steps": {"low": "skipped", "high": "ok"}})
        assert (len(runner.calls("low")), len(runner.calls("high"))) == (1, 1)


@lanes
def test_maps_of_sub_flows_are_faked_asserted_and_wait_in_virtual_time(lane: Lane) -> None:
    """R27, R28: fakes reach the tools of nested runs, whose calls and records are told apart."""
    failing = [True]

    def ask(inputs: Any) -> float:
        if inputs.article == "milk" and failing:
            failing.pop()
            raise OSError("busy")
        return PRICES[inputs.article]

    fakes = {"price": ask, "pay": True}
    with FlowTestRunner(
        BASKET, tools=[price, total, PAY], flows=[LINE], fakes=fakes, approval_callback=lambda context: True
    ) as runner:
        result = ran(lane, runner, LINES)
        assert_result_matches(result, {
            "status": "ok",
            "output": {"total": [10.0, 1.0], "price": [2.5, 1.0], "pay": True},
            "steps": {
                "0": {"sub_result": {"steps": ["ok", "ok"]}},
                "1": {"approval": {"approved": True}, "inputs": {"total": 10.0}},
            },
        })  # fmt: skip
        assert [call.inputs["article"] for call in runner.calls("price")] == ["tea", "milk", "milk"]
        assert runner.clock.waits == [60.0]


def test_a_difference_inside_of_a_nested_run_names_the_way_to_it() -> None:
    """api.md: which step of which step."""
    with FlowTestRunner(
        BASKET, tools=[price, total, PAY], flows=[LINE], fakes={"price": 1.0, "pay": True},
        approval_callback=lambda context: True,
    ) as runner:  # fmt: skip
        result = runner.run(LINES)
    inner = {"sub_result": {"steps": {"0": {"status": "failed"}}}}
    with pytest.raises(AssertionError, match="step '0', step '0', status: expected 'failed', got 'ok'"):
        assert_result_matches(result, {"steps": {"0": inner}})


@lanes
def test_denied_approvals_and_dry_runs_call_no_fake(lane: Lane) -> None:
    """R26: the fake has the safety contract and the dry run of the tool it replaces."""
    flow = Flow(name="f", description="", steps=[FlowStep(tool_name="pay")])
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"approval_callback": lambda context: False}, {}, "failed"),
        ({}, {"dry_run": True}, "ok"),
        ({"approval_callback": lambda context: True}, {}, "ok"),
    ]
    for options, call, status in cases:
        with FlowTestRunner(flow, tools=[PAY], fakes={"pay": True}, **options) as runner:
            assert ran(lane, runner, {"total": 1.0}, **call).status == status
            assert len(runner.calls("pay")) == (status == "ok" and not call)


@lanes
def test_decisions_can_be_scripted(lane: Lane) -> None:
    """R26: callbacks are settings of the runner; candidates can be faked."""
    steps = [FlowStep(tool_name="low", decision_candidates=["low", "high"], output_mapping=None)]
    flow = Flow(name="choice", description="", steps=steps)
    with FlowTestRunner(
        flow, tools=[low, high], fakes={"high": "HIGH"}, decision_callback=lambda context: "high"
    ) as runner:
        result = ran(lane, runner, {"n": 1})
        assert result.step("0").decision["chosen"] == "high"
        assert (len(runner.calls("high")), len(runner.calls("low"))) == (1, 0)


@lanes
def test_nested_runs_are_recorded_and_replayed(lane: Lane, tmp_path: Path) -> None:
    """R35: equal calls of different items and flows are told apart by the way to their step."""
    numbers = iter(range(1, 100))

    @tool
    def ticket() -> int:
        return next(numbers)

    inner = Flow(name="inner", description="", steps=[FlowStep(tool_name="ticket")])
    outer = Flow(
        name="outer", description="",
        steps=[
            FlowStep(flow_name="inner", map_over="many", map_concurrency=4),
            FlowStep(flow_name="inner", output_mapping={"last": "ticket"}),
        ],
    )  # fmt: skip
    executor = lane.executor(tools=[ticket], flows=[inner, outer])
    given = {"many": [1, 2, 3, 4, 5]}
    with record_then_replay(executor, tmp_path / "c.json") as recorded:
        first = lane.run(recorded, "outer", given)
    assert first.raise_for_failure().final_output["last"] == 6  # type: ignore[index]
    with record_then_replay(executor, tmp_path / "c.json") as replayed:
        for _ in range(2):
            assert_result_matches(lane.run(replayed, "outer", given), first)
    assert next(numbers) == 7


def test_branching_and_mapping_flows_are_attested_and_fuzzed() -> None:
    """R1: nested traces are compared as well; inputs are made for maps."""
    executor = FlowExecutor(tools=[grade, low, high], flows=[BRANCHING])
    many = Flow(name="many", description="", steps=[FlowStep(flow_name="branching", map_over="numbers", map_as="n")])
    assert attest_flow("branching", executor, 5).holds
    assert attest_flow(many, executor, 5).holds
    assert FlowFuzzer(executor, many).run(max_examples=10).ok
    count = iter(range(1_000_000))
    shaky = executor.with_replaced_tools([fake_tool(low, side_effect=lambda inputs: str(next(count)))])
    found = attest_flow(many, shaky, [{"numbers": [1, 3]}])
    assert "step '0', step '1', step 'low', outputs.low: expected '0', got '1'" in str(found.difference)


def test_an_input_that_fails_deep_inside_is_made_small() -> None:
    """api.md: minimize_failure through maps."""

    @tool
    def invert(n: int) -> float:
        return 1 / n

    flow = Flow(name="f", description="", steps=[FlowStep(tool_name="invert", map_over="numbers", map_as="n")])
    executor = FlowExecutor(tools=[invert])
    assert minimize_failure(executor, flow, {"numbers": [3, 9, 0, 4], "more": 1}) == {"numbers": [0]}


@lanes
def test_captured_steps_hold_those_of_nested_runs(lane: Lane) -> None:
    """R27: as they end, inner ones first."""
    outer = Flow(name="outer", description="", steps=[FlowStep(flow_name="line")])
    with lane.executor(tools=[fake_tool(price, returns=1.0), total], flows=[LINE, outer]) as executor:
        with capture_steps(executor) as steps, capture_steps(executor, flow_name="line") as inner:
            lane.run(executor, "outer", {"article": "tea", "count": 1})
    assert [record.tool_name for record in steps] == ["price", "total", "line"]
    assert [record.tool_name for record in inner] == ["price", "total"]
