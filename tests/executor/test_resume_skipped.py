"""What a skipped step leaves to a resumed run: the run inside of it, with the step that it failed with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chainweaver import (
    ConditionalEdge,
    DAGFlow,
    DAGFlowStep,
    ExecutionResult,
    FileCheckpointer,
    Flow,
    FlowExecutor,
    FlowStep,
    InMemoryCheckpointer,
    RetryPolicy,
    tool,
)
from chainweaver.testing import VirtualClock
from tests.executor.kit import Crash, crashed, linear


@tool
def ask(item: int) -> int:
    return item


@tool(output="r")
def strict(ask: int) -> int:
    if ask == 2:
        raise ValueError("two")
    return ask


@tool(output="r")
def mild(ask: int) -> int:
    return -ask


@tool(output="slept")
async def sleepy(ask: int) -> int:
    import anyio

    await anyio.sleep(10)
    return ask


def inner(name: str = "inner", **facts: Any) -> DAGFlow:
    steps = [
        DAGFlowStep(step_id="a", tool_name="ask"),
        DAGFlowStep(step_id="d", tool_name="strict", depends_on=["a"], decision_candidates=["strict", "mild"]),
        DAGFlowStep(step_id="e", tool_name="mild", depends_on=["d"], output_mapping={"e": "r"}),
    ]
    return DAGFlow(name=name, version="1.0.0", description="", steps=steps, **facts)


def branching() -> DAGFlow:
    edges = [ConditionalEdge(predicate="ask > 1", target_step_id="d")]
    steps = [
        DAGFlowStep(step_id="a", tool_name="ask", branches=edges, default_next="e"),
        DAGFlowStep(step_id="d", tool_name="strict", depends_on=["a"]),
        DAGFlowStep(step_id="e", tool_name="mild", depends_on=["a"], output_mapping={"e": "r"}),
    ]
    return DAGFlow(name="branching", version="1.0.0", description="", steps=steps)


def around() -> Flow:
    return Flow(name="around", description="", steps=[FlowStep(flow_name="inner"), FlowStep(tool_name="ask")])


def timed() -> Flow:
    return Flow(name="timed", description="", steps=[FlowStep(tool_name="ask"), FlowStep(tool_name="sleepy")])


TWO: dict[str, Any] = {"input_mapping": {"item": "two"}, "on_error": "skip"}
STEPS: dict[str, FlowStep] = {
    "sub-flow": FlowStep(flow_name="inner", **TWO),
    "retried": FlowStep(flow_name="inner", retry=RetryPolicy(max_retries=2, retryable_errors=["ValueError"]), **TWO),
    "sub-flow of a sub-flow": FlowStep(flow_name="around", **TWO),
    "behind a branch": FlowStep(flow_name="branching", **TWO),
    "beside others": FlowStep(flow_name="finishing", **TWO),
    "not in time": FlowStep(flow_name="timed", timeout_seconds=0.4, **TWO),
    "items left out": FlowStep(flow_name="inner", map_over="items", on_item_error="skip"),
    "items collected": FlowStep(flow_name="around", map_over="items", on_item_error="collect"),
    "a map that failed": FlowStep(flow_name="inner", map_over="items", on_error="skip"),
    "a fallback stood in": FlowStep(flow_name="inner", input_mapping={"item": "two"}, on_error="fallback:ask"),
    "items of a tool": FlowStep(tool_name="strict", map_over="items", map_as="ask", on_error="skip"),
}
GIVEN = {"items": [1, 2, 3], "two": 2}


def executor_of(step: FlowStep, store: Any, crash: list[bool]) -> FlowExecutor:
    @tool
    def end(two: int) -> int:
        if crash:
            raise Crash
        return two

    flows: list[Flow | DAGFlow] = [inner(), branching(), around(), timed(), inner("finishing", on_failure="finish")]
    return FlowExecutor(
        tools=[ask, strict, mild, sleepy, end],
        flows=[*flows, linear(step, FlowStep(tool_name="end"))],
        decision_callback=lambda context: "strict",
        checkpointer=store,
        runtime=None if step.timeout_seconds else VirtualClock().runtime(),
    )


@pytest.mark.parametrize("kind", ["memory", "file"])
@pytest.mark.parametrize("name", STEPS)
def test_what_happened_inside_of_a_skipped_step_is_there_after_a_resume(name: str, kind: str, tmp_path: Path):
    """R33, R35: the steps that ended and the one that failed, so that a replay finds what the run found."""
    store = InMemoryCheckpointer() if kind == "memory" else FileCheckpointer(tmp_path, fsync=False)
    crash = [True]
    executor = executor_of(STEPS[name], store, crash)
    trace_id = crashed(executor, GIVEN)
    crash.clear()
    resumed = executor.resume_flow(trace_id)
    assert resumed.step("0").sub_result is not None
    uninterrupted = executor.execute_flow("flow", GIVEN)
    assert resumed.canonical_trace() == uninterrupted.canonical_trace()
    for result in (resumed, ExecutionResult.model_validate_json(resumed.model_dump_json())):
        assert str(executor.replay_flow(result)).endswith("every step is the same.")


@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_does_not_run_again_brings_along_what_it_failed_with_inside(name: str):
    """R35: what happened inside of the steps before `resume_from_step` comes from the record."""
    executor = executor_of(STEPS[name], None, [])
    recorded = executor.execute_flow("flow", GIVEN)
    for result in (recorded, ExecutionResult.model_validate_json(recorded.model_dump_json())):
        replay = executor.replay_flow(result, resume_from_step=1)
        assert replay.all_steps_match
        assert replay.new_result.canonical_trace() == recorded.canonical_trace()
