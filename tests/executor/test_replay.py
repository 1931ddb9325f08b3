"""`replay_flow`: a recorded run again, answered from its record, and the first step and field where the two differ."""

from __future__ import annotations

import asyncio
import enum
import json
import threading
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr

from chainweaver import (
    ApprovalDeniedError,
    CancellationToken,
    ConditionalEdge,
    ContextKeyCollisionError,
    DAGFlowStep,
    ExecutionResult,
    FlowCancelledError,
    FlowCompositionError,
    FlowExecutor,
    FlowNotFoundError,
    FlowStatusError,
    FlowStep,
    InMemoryCheckpointer,
    InMemoryStepCache,
    InMemoryTraceStore,
    RedactionPolicy,
    ReplayError,
    ReplayMode,
    ReplayResult,
    RetryPolicy,
    StepDiff,
    Tool,
    ToolSafetyContract,
    TraceRecorder,
    VerificationError,
)
from chainweaver.executor.differences import compared
from chainweaver.flow.callbacks import ApprovalDecision, DecisionPolicy
from tests.executor.kit import Calls, Number, Out, chain, dag, linear
from tests.lanes.table import LANES, Lane

ASKS = ToolSafetyContract(requires_approval=True)
ALONE = linear(FlowStep(tool_name="a"))


def again(executor: FlowExecutor, given: dict[str, Any], **options: Any) -> ReplayResult:
    """A run, and its replay by the same executor."""
    return executor.replay_flow(executor.execute_flow("flow", given), **options)


def read_back(result: ExecutionResult) -> ExecutionResult:
    """The result as somebody else reads it from a file."""
    return ExecutionResult.model_validate_json(result.model_dump_json())


def first(replay: ReplayResult) -> tuple[Any, ...]:
    """Step, place and the two values there of the first difference."""
    diff = replay.first_difference
    assert diff is not None
    return ("/".join((*diff.path, diff.step_id or "")), diff.place, *diff.parts)


def fields(replay: ReplayResult) -> list[tuple[str, str]]:
    return [("/".join((*diff.path, diff.step_id or "")), diff.field) for diff in replay.diffs]


def never_asked(context: Any) -> Any:
    raise AssertionError("nobody is asked in a replay that verifies")


class Plan(list[Any]):
    """What a tool does from call to call: the values in turn, the last one for ever; exceptions are raised."""

    def __call__(self, given: Any) -> Any:
        what = self.pop(0) if len(self) > 1 else self[0]
        if isinstance(what, Exception):
            raise what
        return what if isinstance(what, dict) else {"out": what}


def changing(name: str, *values: Any, **options: Any) -> Tool:
    """A tool that answers otherwise each time."""
    return Calls().tool(name, Plan(values), **options)


# ---- the same again


def test_a_run_that_does_the_same_again_matches():
    """R35: a replay is a run of its own with the recorded version and input, compared step by step."""
    calls = Calls()
    executor = FlowExecutor(tools=[calls.tool("a"), calls.tool("b")], flows=[chain("a", "b")])
    recorded = executor.execute_flow("flow", {"n": 1})

    replay = executor.replay_flow(recorded)

    assert (replay.all_steps_match, replay.diffs, replay.first_difference) == (True, [], None)
    assert (replay.original_trace_id, replay.mode) == (recorded.trace_id, ReplayMode.VERIFY)
    assert replay.new_result.trace_id != recorded.trace_id
    assert replay.new_result.final_output == recorded.final_output == {"n": 1, "a_out": 2, "b_out": 3}
    assert calls.counts == {"a": 2, "b": 2}
    assert str(replay) == f"Replay of run '{recorded.trace_id}' (verify): every step is the same."


@pytest.mark.parametrize("recorded_on", LANES, ids=str)
@pytest.mark.parametrize("replayed_on", LANES, ids=str)
def test_a_run_is_replayed_on_any_lane(recorded_on: Lane, replayed_on: Lane):
    """R1, R35: what differs between lanes is no difference."""
    flow = dag(
        DAGFlowStep(step_id="x", tool_name="a", output_mapping={"x": "out"}),
        DAGFlowStep(step_id="y", tool_name="b", output_mapping={"y": "out"}),
        DAGFlowStep(step_id="z", tool_name="bad", depends_on=["x", "y"], on_error="skip", output_mapping={"z": "out"}),
    )

    async def async_tool(given: Any) -> dict[str, int]:
        return {"out": given.n}

    tools = [Calls().tool("a"), Tool(name="b", description="", input_schema=Number, output_schema=Out, fn=async_tool)]
    tools.append(changing("bad", OSError("no")))
    with recorded_on.executor(tools=tools, flows=[flow]) as executor:
        recorded = recorded_on.run(executor, "flow", {"n": 1})
    with replayed_on.executor(tools=tools, flows=[flow], max_step_concurrency=2) as executor:
        replay = replayed_on_lane(replayed_on, executor, recorded)
    assert replay.all_steps_match, str(replay)


def replayed_on_lane(lane: Lane, executor: FlowExecutor, recorded: ExecutionResult, **options: Any) -> ReplayResult:
    if lane.backend is None:
        return executor.replay_flow(recorded, **options)

    async def call() -> ReplayResult:
        return await executor.replay_flow_async(recorded, **options)

    result: ReplayResult = lane.backend(call)
    return result


def test_a_replay_can_be_demanded_to_be_the_same():
    """R35: an error with the first difference, for tests and scripts."""
    executor = FlowExecutor(tools=[changing("a", 1, 1, 2), Calls().tool("b")], flows=[chain("a", "b")])
    recorded = executor.execute_flow("flow", {"n": 1})
    same = executor.replay_flow(recorded)
    assert same.raise_for_difference() is same
    with pytest.raises(VerificationError) as raised:
        executor.replay_flow(recorded).raise_for_difference()
    assert raised.value.sentence == (
        f"Replay of run '{recorded.trace_id}': step '0' (a), outputs.out: expected 1, found 2 (2 more)."
    )


# ---- where two runs differ


def test_the_first_step_and_field_that_differ_are_named():
    """R35: what happened first comes first; what follows from it comes after it."""
    executor = FlowExecutor(tools=[changing("a", 1, 2), Calls().tool("b")], flows=[chain("a", "b")])

    replay = again(executor, {"n": 1})

    assert not replay.all_steps_match
    assert first(replay) == ("0", "outputs.out", 1, 2)
    assert fields(replay) == [("0", "outputs"), ("1", "inputs"), ("1", "outputs")]
    diff = replay.diffs[0]
    assert (diff.step_index, diff.tool_name, diff.field) == (0, "a", "outputs")
    assert (diff.expected, diff.actual) == ({"out": 1}, {"out": 2})
    assert replay.render().splitlines() == [
        f"Replay of run '{replay.original_trace_id}' (verify): 3 differences.",
        "  first     step '0' (a), outputs.out",
        "  expected  1",
        "  found     2",
        "  then      step '1' (b), inputs.n: expected 1, found 2",
        "            step '1' (b), outputs.out: expected 2, found 3",
    ]


class Rows(BaseModel):
    rows: list[Any] = Field(default_factory=list)


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        ([{"size": 1}, {"size": 2}], [{"size": 1}, {"size": 3}], "outputs.rows[1].size"),
        ([1, 2], [1], "outputs.rows[1]"),
        ([{"unit price": 1}], [{"unit price": 2}], "outputs.rows[0]['unit price']"),
        ([{"a": 1}], [{"b": 1}], "outputs.rows[0].a"),
        ([1], [1.0], "outputs.rows[0]"),
        ([(1, 2)], [[1, 2]], "outputs.rows[0]"),
        ([Out(out=1)], [Out(out=2)], "outputs.rows[0].out"),
    ],
)
def test_the_place_of_a_difference_inside_a_value_is_named(before: Any, after: Any, place: str):
    """R35: not the whole list, but the item and the key."""
    tool = changing("a", {"rows": before}, {"rows": after}, output_schema=Rows)
    replay = again(FlowExecutor(tools=[tool], flows=[ALONE]), {"n": 1})
    assert first(replay)[1] == place
    assert len(replay.diffs) == 1


def test_values_are_compared_and_not_the_order_of_their_keys():
    """R35: NaN is itself, and dicts and sets have no order."""
    nan = float("nan")
    one, other = [{"a": 1, "b": nan}, {3, 1, 2}], [{"b": nan, "a": 1}, {2, 3, 1}]
    tool = changing("a", {"rows": one}, {"rows": other}, output_schema=Rows)
    assert again(FlowExecutor(tools=[tool], flows=[ALONE]), {"n": 1}).all_steps_match


class Session:
    """An object that is equal to itself only."""


class Held(BaseModel):
    model_config = {"arbitrary_types_allowed": True}
    session: Any = None


def test_values_that_nothing_tells_apart_are_said_to_be_so():
    """R35: what was not compared is listed, and is no difference."""
    tool = Calls().tool("a", lambda given: {"session": threading.Lock()}, output_schema=Held)
    replay = again(FlowExecutor(tools=[tool], flows=[ALONE]), {"n": 1})
    assert replay.all_steps_match
    assert "step '0', outputs.session" in replay.not_compared
    assert "not compared" in str(replay)

    other = changing("a", {"session": Session()}, {"session": threading.Lock()}, output_schema=Held)
    replay = again(FlowExecutor(tools=[other], flows=[ALONE]), {"n": 1})
    assert first(replay)[:2] == ("0", "outputs.session")


class Point:
    """Without an equality of its own, but with parts."""

    def __init__(self, x: Any) -> None:
        self.x = x
        self.lock = threading.Lock()


def test_objects_without_an_equality_are_compared_by_their_parts():
    """R35: attributes, as far as there are any."""
    for values, place in (((Point(1), Point(1)), None), ((Point(1), Point(2)), "outputs.session.x")):
        tool = changing("a", *({"session": value} for value in values), output_schema=Held)
        replay = again(FlowExecutor(tools=[tool], flows=[ALONE]), {"n": 1})
        assert (replay.diffs[0].place if replay.diffs else None) == place


def test_values_that_hold_themselves_are_compared():
    """R35: without end is no problem."""

    def circle(last: int) -> list[Any]:
        made: list[Any] = [1, last]
        made.append(made)
        return made

    for values, place in (((5, 5), None), ((5, 6), "outputs.rows[1]")):
        tool = changing("a", *({"rows": circle(value)} for value in values), output_schema=Rows)
        replay = again(FlowExecutor(tools=[tool], flows=[ALONE]), {"n": 1})
        assert (replay.diffs[0].place if replay.diffs else None) == place


def test_what_a_record_shows_by_reference_is_compared_as_it_is_now():
    """R36, R35: long lists are not copied into records; a difference in one says so."""
    rows = [list(range(100)), [*range(99), -1]]
    tool = changing("a", *({"rows": one} for one in rows), output_schema=Rows)
    replay = again(FlowExecutor(tools=[tool], flows=[ALONE]), {"n": 1})
    assert first(replay) == ("0", "outputs.rows[99]", 99, -1)
    assert str(replay.diffs[0]).endswith("found -1 (shown by reference, compared as it is now)")


def test_summaries_are_compared_with_summaries():
    """R36, R35: what the trace only sums up is compared as far as that goes."""
    tool = changing("a", *({"rows": rows} for rows in ([1], [2], [1, 2])), output_schema=Rows)
    flow = ALONE
    summing = FlowExecutor(tools=[tool], flows=[flow], trace_values="summary")
    recorded = summing.execute_flow("flow", {"n": 1})
    assert recorded.step("0").outputs == {"rows": "list[1]"}
    replay = summing.replay_flow(recorded)
    assert first(replay) == ("", "final_output.rows[0]", 1, 2)
    replay = FlowExecutor(tools=[tool], flows=[flow]).replay_flow(read_back(recorded))
    assert first(replay) == ("0", "outputs.rows", "list[1]", [1, 2])


# ---- errors and statuses


def test_errors_are_compared_by_kind_and_by_what_they_say():
    """R35: type, code, cause and message of an error."""
    for now, found in (
        (OSError("disk 1"), []),
        (OSError("disk 2"), [("0", "error_message")]),
        (ValueError("disk 1"), [("0", "error_cause"), ("0", "error_message")]),
        (1, [("0", "status"), ("0", "error_type"), ("0", "error_message"), ("0", "outputs")]),
        (
            {"out": "no number"},
            [("0", "error_type"), ("0", "error_message")],
        ),
    ):
        executor = FlowExecutor(tools=[changing("a", OSError("disk 1"), now)], flows=[chain("a")])
        replay = again(executor, {"n": 1})
        assert fields(replay) == found, replay
        assert replay.all_steps_match == (not found)


def test_addresses_and_run_ids_in_messages_are_no_difference():
    """R35: messages are compared without what is another one in every run."""

    def fails(given: Any) -> Any:
        raise OSError(f"{threading.Lock()!r} of run {id(given):032x}")

    executor = FlowExecutor(tools=[Calls().tool("a", fails)], flows=[chain("a")])
    assert again(executor, {"n": 1}).all_steps_match


def test_times_retries_and_caches_are_no_difference():
    """R35: how many attempts it took is not what came of it."""
    flow = linear(FlowStep(tool_name="a", retry=RetryPolicy(max_retries=1, backoff_seconds=0)))
    executor = FlowExecutor(tools=[changing("a", OSError("busy"), 1)], flows=[flow])
    replay = again(executor, {"n": 1})
    assert replay.all_steps_match
    assert replay.new_result.step("0").retry_count == 0


def test_who_stood_in_is_a_difference():
    """R21, R35: the same outputs of another tool are not the same run."""
    flow = linear(FlowStep(tool_name="a", on_error="fallback:b"))
    executor = FlowExecutor(tools=[changing("a", OSError("no"), 2), changing("b", 2)], flows=[flow])
    assert fields(again(executor, {"n": 1})) == [("0", "fallback_tool_name")]


def test_a_step_that_only_one_of_the_runs_came_to_is_named():
    """R35: the run that went further has steps that the other has not."""
    executor = FlowExecutor(tools=[changing("a", OSError("no"), 2), Calls().tool("b")], flows=[chain("a", "b")])
    replay = again(executor, {"n": 1})
    assert fields(replay)[-1] == ("1", "status")
    assert (replay.diffs[-1].expected, replay.diffs[-1].actual) == (None, "ok")


def test_a_cancelled_run_is_replayed_to_its_end():
    """R23, R35: its end is the difference."""
    token, calls = CancellationToken(), Calls()

    def cancels(given: Any) -> dict[str, int]:
        token.cancel()
        return {"out": 1}

    executor = FlowExecutor(tools=[calls.tool("a", cancels), calls.tool("b")], flows=[chain("a", "b")])
    with pytest.raises(FlowCancelledError) as cancelled:
        executor.execute_flow("flow", {"n": 1}, cancel_token=token)

    replay = executor.replay_flow(cancelled.value.result)

    assert replay.new_result.success
    diff = replay.diffs[-1]
    assert (diff.field, diff.expected, diff.actual) == ("status", "cancelled", "ok")
    with pytest.raises(FlowCancelledError):
        executor.replay_flow(cancelled.value.result, cancel_token=token)


def test_a_run_that_collided_collides_again():
    """R12, R35: the error carries the result, and the two results are compared."""
    flow = linear(FlowStep(tool_name="a", output_mapping={"n": "out"}), on_context_collision="error")
    executor = FlowExecutor(tools=[Calls().tool("a")], flows=[flow])
    with pytest.raises(ContextKeyCollisionError) as collided:
        executor.execute_flow("flow", {"n": 1})
    replay = executor.replay_flow(collided.value.result)
    assert replay.all_steps_match
    assert replay.new_result.step("0").error_type == "ContextKeyCollisionError"
    replay = asyncio.run(executor.replay_flow_async(collided.value.result))
    assert replay.all_steps_match


def test_an_input_that_was_refused_is_refused_again():
    """R8, R35: the border of the flow has a record of its own."""
    flow = linear(FlowStep(tool_name="a"), input_schema_ref="tests.executor.kit:Number")
    executor = FlowExecutor(tools=[Calls().tool("a")], flows=[flow])
    assert again(executor, {"n": "no number"}).all_steps_match


def test_a_changed_definition_of_the_same_version_is_a_difference():
    """R35: whatever a registry does with its versions, the comparison tells."""
    executor = FlowExecutor(tools=[Calls().tool("a"), Calls().tool("b")], flows=[chain("a")])
    recorded = executor.execute_flow("flow", {"n": 1})
    executor.registry.register_flow(chain("b"), overwrite=True)
    assert first(executor.replay_flow(recorded)) == ("0", "tool_name", "a", "b")

    executor.registry.register_flow(chain("a", outputs=["n"]), overwrite=True)
    replay = executor.replay_flow(recorded)
    assert (replay.diffs[0].field, replay.diffs[0].step_index, replay.diffs[0].at) == ("final_output", 1, ("a_out",))
    assert str(replay.diffs[0]) == "output of flow 'flow', final_output.a_out: expected 2, found nothing"


# ---- who is asked


def deciding(**options: Any) -> DAGFlowStep:
    return DAGFlowStep(
        step_id="choose", tool_name="a", decision_candidates=["a", "b"], output_mapping={"x": "out"}, **options
    )


@pytest.mark.parametrize("lane", LANES, ids=str)
def test_decisions_are_taken_from_the_record(lane: Lane):
    """R26, R35: the callback is not asked again, and the record of the replay says who had decided."""
    calls, flow = Calls(), dag(deciding())
    tools = [calls.tool("a"), calls.tool("b")]
    with lane.executor(tools=tools, flows=[flow], decision_callback=lambda context: "b") as executor:
        recorded = lane.run(executor, "flow", {"n": 1})
    with lane.executor(tools=tools, flows=[flow], decision_callback=never_asked) as executor:
        replay = replayed_on_lane(lane, executor, recorded)
    assert replay.all_steps_match, str(replay)
    assert replay.new_result.step("choose").decision == {"chosen": "b", "candidates": ["a", "b"], "by": "callback"}
    assert calls.counts == {"b": 2}


def test_a_decision_that_was_made_by_default_is_made_so_again():
    """R26: without an answer then, there is none now, whatever the executor would ask."""
    flow = linear(FlowStep(tool_name="c", decision_candidates=["a", "b"]))
    tools = [Calls().tool(name) for name in "abc"]
    policy = DecisionPolicy(default="tool_name")
    recorded = FlowExecutor(tools=tools, flows=[flow], decision_policy=policy).execute_flow("flow", {"n": 1})
    assert recorded.step("0").decision["by"] == "default"
    replay = FlowExecutor(tools=tools, flows=[flow], decision_callback=never_asked).replay_flow(recorded)
    assert replay.all_steps_match, str(replay)
    assert replay.new_result.step("0").decision == recorded.step("0").decision


def test_a_decision_that_failed_fails_as_it_did():
    """R26, R35: with the recorded error, without asking."""
    tools, flow = [Calls().tool("a"), Calls().tool("b")], dag(deciding())
    recorded = FlowExecutor(tools=tools, flows=[flow], decision_callback=lambda context: "z").execute_flow("flow", {})
    assert recorded.step("choose").error_type == "DecisionCallbackError"
    for asks in (never_asked, None):
        replay = FlowExecutor(tools=tools, flows=[flow], decision_callback=asks).replay_flow(recorded)
        assert replay.all_steps_match, str(replay)


def test_a_step_that_began_to_decide_after_the_record_has_no_answer():
    """R35: nobody is asked what the record does not hold."""
    tools = [Calls().tool("a"), Calls().tool("b")]
    executor = FlowExecutor(tools=tools, flows=[dag(DAGFlowStep(step_id="choose", tool_name="a"))])
    recorded = executor.execute_flow("flow", {"n": 1})
    executor.registry.register_flow(dag(deciding()), overwrite=True)
    replay = executor.replay_flow(recorded)
    assert "the record holds no decision of this step" in (replay.new_result.step("choose").error_message or "")


def test_approvals_are_taken_from_the_record():
    """R26, R35: nobody is asked a second time; who agreed stands in the new record as well."""
    calls = Calls()
    tool = calls.tool("pay", safety=ASKS)
    agrees = lambda context: ApprovalDecision(True, "ada", "fine")  # noqa: E731
    recorded = FlowExecutor(tools=[tool], flows=[chain("pay")], approval_callback=agrees).execute_flow("flow", {"n": 1})
    replay = FlowExecutor(tools=[tool], flows=[chain("pay")], approval_callback=never_asked).replay_flow(recorded)
    assert replay.all_steps_match, str(replay)
    assert replay.new_result.step("0").approval == {"approved": True, "approver": "ada", "reason": "fine"}
    assert FlowExecutor(tools=[tool], flows=[chain("pay")]).replay_flow(read_back(recorded)).all_steps_match
    assert calls.counts == {"pay": 3}


@pytest.mark.parametrize(
    "denies", [lambda context: False, lambda context: ApprovalDecision(False, "ada", "too much"), lambda context: 1 / 0]
)
def test_what_was_denied_is_denied_again(denies: Any):
    """R26, R35: the tool is not called, and the error is the recorded one."""
    calls = Calls()
    tool = calls.tool("pay", safety=ASKS)
    recorded = FlowExecutor(tools=[tool], flows=[chain("pay")], approval_callback=denies).execute_flow("flow", {"n": 1})
    agrees = FlowExecutor(tools=[tool], flows=[chain("pay")], approval_callback=lambda context: True)
    replay = agrees.replay_flow(recorded)
    assert replay.all_steps_match, str(replay)
    assert calls.counts == {}


def test_an_approval_without_a_callback_is_denied_as_it_was():
    """R26, R35: an executor that could ask by now does not."""
    tool = Calls().tool("pay", safety=ASKS)
    recorded = FlowExecutor(tools=[tool], flows=[chain("pay")]).execute_flow("flow", {"n": 1})
    agrees = FlowExecutor(tools=[tool], flows=[chain("pay")], approval_callback=lambda context: True)
    assert agrees.replay_flow(recorded).all_steps_match


@pytest.mark.parametrize("shown", [lambda result: result, read_back])
def test_an_approval_counts_for_the_inputs_that_it_was_given_for(shown: Any):
    """R35: nobody has agreed to other inputs, so that the tool is not called with them."""
    calls = Calls()
    tools = [changing("a", 100, 1_000_000), calls.tool("pay", safety=ASKS)]
    flow = chain("a", "pay")
    executor = FlowExecutor(tools=tools, flows=[flow], approval_callback=lambda context: True)
    replay = executor.replay_flow(shown(executor.execute_flow("flow", {"n": 1})))
    assert first(replay) == ("0", "outputs.out", 100, 1_000_000)
    record = replay.new_result.step("1")
    assert "the recorded approval was given for other inputs" in (record.error_message or "")
    assert calls.counts == {"pay": 1}


def test_an_approval_of_the_fallback_is_none_of_the_tool():
    """R21, R35: the record holds the last answer; the tool that was denied before is not called by it."""
    calls = Calls()
    tools = [calls.tool("wire", safety=ASKS), calls.tool("card", safety=ASKS)]
    flow = linear(FlowStep(tool_name="wire", on_error="fallback:card"))
    only_card = lambda context: context.tool_name == "card"  # noqa: E731
    executor = FlowExecutor(tools=tools, flows=[flow], approval_callback=only_card)
    replay = again(executor, {"n": 1})
    assert replay.all_steps_match, str(replay)
    assert calls.counts == {"card": 2}


def test_a_callback_may_raise_the_denial_itself():
    """R16: it is recorded as it was raised."""

    def denies(context: Any) -> bool:
        raise ApprovalDeniedError(context.tool_name, context.step_index, "not today", fix="ask on Monday")

    tool = Calls().tool("pay", safety=ASKS)
    result = FlowExecutor(tools=[tool], flows=[chain("pay")], approval_callback=denies).execute_flow("flow", {"n": 1})
    assert (result.step("0").error_message or "").splitlines()[0].endswith("was denied: not today.")


def test_guardrails_look_again():
    """R26, R35: they are part of what is verified, and have nothing to ask anybody."""
    seen: list[str] = []

    def looks(context: Any) -> str | None:
        seen.append(context.stage)
        return "too often" if len(seen) > 2 else None

    executor = FlowExecutor(tools=[Calls().tool("a")], flows=[chain("a")], guardrail_callback=looks)
    replay = again(executor, {"n": 1})
    assert first(replay) == ("0", "status", "ok", "failed")


# ---- branches


def branching() -> Any:
    return dag(
        DAGFlowStep(
            step_id="a",
            tool_name="a",
            output_mapping={"a": "out"},
            branches=[ConditionalEdge(target_step_id="big", predicate="a > 10")],
            default_next="small",
        ),
        DAGFlowStep(step_id="big", tool_name="b", depends_on=["a"], output_mapping={"big": "out"}),
        DAGFlowStep(step_id="small", tool_name="c", depends_on=["a"], output_mapping={"small": "out"}),
    )


def test_another_branch_is_a_difference():
    """R24, R35: the decision of the step, and what became of its dependents."""
    tools = [changing("a", 5, 50), Calls().tool("b"), Calls().tool("c")]
    replay = again(FlowExecutor(tools=tools, flows=[branching()]), {"n": 1})
    assert fields(replay) == [
        ("a", "decision"),
        ("a", "outputs"),
        ("big", "inputs"),
        ("big", "status"),
        ("big", "outputs"),
        ("small", "inputs"),
        ("small", "status"),
        ("small", "outputs"),
    ]
    assert first(replay) == ("a", "decision.taken", "small", "big")


def test_the_same_branch_is_none():
    """R24, R35: steps that were passed over are passed over again."""
    tools = [changing("a", 5), Calls().tool("b"), Calls().tool("c")]
    replay = again(FlowExecutor(tools=tools, flows=[branching()]), {"n": 1})
    assert replay.all_steps_match
    assert replay.new_result.step("big").skipped


# ---- sub-flows and maps


def nested(*tools: Tool, **options: Any) -> FlowExecutor:
    """A flow that maps a sub-flow of two steps, the first of which decides, over items."""
    inner = dag(
        deciding(input_mapping={"n": "item"}),
        DAGFlowStep(
            step_id="pay",
            tool_name="pay",
            depends_on=["choose"],
            input_mapping={"n": "x"},
            output_mapping={"paid": "out"},
        ),
        name="inner",
        outputs=["paid"],
    )
    outer = dag(DAGFlowStep(step_id="each", flow_name="inner", map_over="items"))
    return FlowExecutor(tools=tools, flows=[inner, outer], **options)


def by_item(context: Any) -> str:
    return "a" if context.inputs["n"] % 2 else "b"


@pytest.mark.parametrize("limit", [1, 3])
def test_questions_inside_nested_runs_are_answered_from_their_own_records(limit: int):
    """R27, R28, R35: each item has its own decision and its own approval."""
    calls = Calls()
    tools = [calls.tool("a"), calls.tool("b", lambda given: {"out": -given.n}), calls.tool("pay", safety=ASKS)]
    recorded = nested(
        *tools, decision_callback=by_item, approval_callback=lambda context: context.inputs["n"] > 0
    ).execute_flow("flow", {"items": [1, 3, 5]})
    assert recorded.final_output == {"items": [1, 3, 5], "paid": [3, 5, 7]}

    again = nested(*tools, decision_callback=never_asked, approval_callback=never_asked, max_step_concurrency=limit)
    replay = again.replay_flow(recorded)

    assert replay.all_steps_match, str(replay)
    assert again.replay_flow(read_back(recorded)).all_steps_match
    assert calls.counts == {"a": 9, "pay": 9}


def test_a_difference_inside_a_nested_run_is_named_with_its_way():
    """R27, R35: the step of the item comes before the map that it belongs to."""
    calls = Calls()
    tools = [calls.tool("a"), calls.tool("b"), changing("pay", 1, 2, 3, 1, 2, 30)]
    executor = nested(*tools, decision_callback=by_item)
    replay = again(executor, {"items": [1, 2, 3]})
    assert first(replay) == ("each/2/pay", "outputs.out", 3, 30)
    assert fields(replay) == [("each/2/pay", "outputs"), ("each/2", "outputs"), ("each", "outputs")]
    assert str(replay.diffs[0]) == "step 'each/2/pay', outputs.out: expected 3, found 30"


def test_a_map_over_another_number_of_items_is_a_difference():
    """R28, R35: items that only one of the runs has are named."""
    flow = linear(
        FlowStep(tool_name="list", output_mapping={"rows": "rows"}),
        FlowStep(tool_name="a", map_over="rows", input_mapping={"n": "item"}),
    )
    tools = [changing("list", {"rows": [1, 2]}, {"rows": [1, 2, 3]}, output_schema=Rows), Calls().tool("a")]
    replay = again(FlowExecutor(tools=tools, flows=[flow]), {"n": 1})
    assert ("1/2", "status") in fields(replay)


def test_a_retried_sub_flow_has_the_answers_of_its_record_in_every_attempt():
    """R27, R35: the record holds the last attempt."""
    inner = dag(
        deciding(),
        DAGFlowStep(step_id="then", tool_name="t", depends_on=["choose"], output_mapping={"t": "out"}),
        name="inner",
    )
    outer = linear(FlowStep(flow_name="inner", retry=RetryPolicy(max_retries=1, backoff_seconds=0)))
    tools = [Calls().tool("a"), Calls().tool("b"), changing("t", OSError(), 1, OSError(), 1)]
    executor = FlowExecutor(tools=tools, flows=[inner, outer], decision_callback=lambda context: "b")
    recorded = executor.execute_flow("flow", {"n": 1})
    asking_nobody = FlowExecutor(tools=tools, flows=[inner, outer], decision_callback=never_asked)
    replay = asking_nobody.replay_flow(recorded)
    assert replay.all_steps_match, str(replay)
    assert replay.new_result.step("0").retry_count == 1


def test_sub_flows_have_the_version_that_they_had():
    """R27, R35: a version that came later does not take the place of the recorded one."""
    outer = linear(FlowStep(flow_name="inner"))
    executor = FlowExecutor(
        tools=[Calls().tool("a"), Calls().tool("b")], flows=[chain("a", name="inner", version="1.0.0"), outer]
    )
    recorded = executor.execute_flow("flow", {"n": 1})
    executor.registry.register_flow(chain("b", name="inner", version="2.0.0"))
    replay = executor.replay_flow(recorded)
    assert replay.all_steps_match, str(replay)
    sub_result = replay.new_result.step("0").sub_result
    assert sub_result is not None
    assert sub_result.flow_version == "1.0.0"
    assert executor.execute_flow("flow", {"n": 1}).step("0").sub_result.flow_version == "2.0.0"  # type: ignore[union-attr]  # it has one


# ---- read back from JSON


class Colour(enum.Enum):
    RED = "red"


class Typed(BaseModel):
    when: date = date(2030, 1, 2)
    price: Decimal = Decimal("1.50")
    names: set[str] = Field(default_factory=lambda: {"x", "y", "zz", "abc"})
    colour: Colour = Colour.RED
    pair: tuple[int, int] = (1, 2)
    raw: bytes = b"abc"
    inner: Number = Field(default_factory=Number)
    nan: float = float("nan")


class Taken(BaseModel):
    when: date
    inner: Number
    names: set[str]


def typed_flow() -> tuple[Any, list[Tool], list[Any]]:
    seen: list[Any] = []

    def takes(given: Any) -> dict[str, int]:
        seen.append(given)
        return {"out": len(given.names)}

    tools = [
        Calls().tool("make", lambda given: Typed(), output_schema=Typed),
        Calls().tool("take", takes, input_schema=Taken),
    ]
    return linear(FlowStep(tool_name="make"), FlowStep(tool_name="take")), tools, seen


def test_a_result_that_was_read_from_json_is_compared_in_that_form():
    """R35: dates, sets, enums, tuples and models do not differ for having been written down."""
    flow, tools, _ = typed_flow()
    executor = FlowExecutor(tools=tools, flows=[flow])
    recorded = read_back(executor.execute_flow("flow", {"n": 1}))
    replay = executor.replay_flow(recorded)
    assert replay.all_steps_match, str(replay)

    tools[0] = Calls().tool(
        "make", lambda given: Typed(when=date(2030, 1, 3), names={"x"}, inner=Number(n=5)), output_schema=Typed
    )
    replay = FlowExecutor(tools=tools, flows=[flow]).replay_flow(recorded)
    assert first(replay) == ("0", "outputs.when", "2030-01-02", date(2030, 1, 3))
    assert [diff.step_id for diff in replay.diffs] == ["0", "1", "1"]


def test_a_replay_can_be_written_as_json():
    """R35: programs read it too."""
    executor = FlowExecutor(tools=[changing("a", 1, 2)], flows=[chain("a")])
    replay = again(executor, {"n": 1})
    read = ReplayResult.model_validate_json(replay.model_dump_json())
    assert read.diffs == replay.diffs
    assert (read.mode, read.all_steps_match, read.new_result.trace_id) == (
        ReplayMode.VERIFY,
        False,
        replay.new_result.trace_id,
    )


# ---- from the middle


@pytest.mark.parametrize("shown", [lambda result: result, read_back], ids=["live", "json"])
@pytest.mark.parametrize("mode", list(ReplayMode))
@pytest.mark.parametrize("from_step", [0, 1, 2])
def test_steps_before_the_one_to_resume_from_do_not_run(shown: Any, mode: ReplayMode, from_step: int):
    """R35: their outputs come from the record, with the types that they had."""
    flow, tools, seen = typed_flow()
    calls = Calls()
    tools[0] = calls.tool("make", lambda given: Typed(), output_schema=Typed)
    executor = FlowExecutor(tools=tools, flows=[flow])
    recorded = executor.execute_flow("flow", {"n": 1})
    replay = executor.replay_flow(shown(recorded), mode=mode, resume_from_step=from_step)
    assert replay.all_steps_match, str(replay)
    assert replay.resumed_from_step == from_step
    assert calls.counts == {"make": 2 if from_step == 0 else 1}
    assert len(seen) == (1 if from_step == 2 else 2)
    assert seen[0] == seen[-1]
    assert replay.new_result.success


@pytest.mark.parametrize("shown", [lambda result: result, read_back], ids=["live", "json"])
@pytest.mark.parametrize("lane", LANES, ids=str)
def test_nested_runs_before_the_one_to_resume_from_do_not_run_either(shown: Any, lane: Lane):
    """R27, R28, R35: sub-flows, maps with failed items, branches and skipped steps take it from the record."""
    calls = Calls()

    def odd_only(given: Any) -> dict[str, int]:
        if given.n % 2 == 0:
            raise ValueError("even")
        return {"out": given.n}

    tools = [calls.tool("a"), calls.tool("odd", odd_only), calls.tool("bad", lambda given: 1 / 0), calls.tool("last")]
    inner = chain("a", name="inner")
    flow = dag(
        DAGFlowStep(
            step_id="sub", flow_name="inner", branches=[ConditionalEdge(target_step_id="map", predicate="n == 1")]
        ),
        DAGFlowStep(step_id="not", tool_name="a", depends_on=["sub"]),
        DAGFlowStep(
            step_id="map",
            tool_name="odd",
            map_over="items",
            input_mapping={"n": "item"},
            on_item_error="collect",
            output_mapping={"odd": "out"},
            depends_on=["sub"],
        ),
        DAGFlowStep(step_id="bad", tool_name="bad", depends_on=["map"], on_error="skip", output_mapping={"bad": "out"}),
        DAGFlowStep(step_id="last", tool_name="last", depends_on=["bad"], output_mapping={"last": "out"}),
    )
    given = {"n": 1, "items": [1, 2, 3]}
    with lane.executor(tools=tools, flows=[inner, flow]) as executor:
        recorded = lane.run(executor, "flow", given)
        assert recorded.success
        before = dict(calls.counts)
        replay = replayed_on_lane(lane, executor, shown(recorded), resume_from_step=4)
    assert replay.all_steps_match, str(replay)
    assert calls.counts == {**before, "last": 2}
    assert repr(replay.new_result.final_output) == repr(recorded.final_output)


def test_a_changed_step_shows_without_running_those_before_it():
    """R35: what one tool does now, with the inputs that it had then."""
    calls = Calls()
    executor = FlowExecutor(tools=[calls.tool("a"), changing("b", 7, 8)], flows=[chain("a", "b")])
    replay = again(executor, {"n": 1}, resume_from_step=1)
    assert first(replay) == ("1", "outputs.out", 7, 8)
    assert calls.counts == {"a": 1}


def test_the_record_is_not_changed_by_what_the_replay_does():
    """R30, R35: the new run works on copies of what was recorded."""

    def appends(given: Any) -> dict[str, list[int]]:
        given.rows.append(9)
        return {"rows": [1]}

    tool = Calls().tool("a", appends, input_schema=Rows, output_schema=Rows)
    flow = linear(
        FlowStep(tool_name="a", output_mapping={"b": "rows"}),
        FlowStep(tool_name="a", input_mapping={"rows": "b"}, output_mapping={"c": "rows"}),
    )
    executor = FlowExecutor(tools=[tool], flows=[flow])
    recorded = executor.execute_flow("flow", {"rows": [1]})
    for from_step in (0, 1, 0):
        assert executor.replay_flow(recorded, resume_from_step=from_step).all_steps_match
    assert recorded.initial_input == {"rows": [1]}
    assert recorded.step("0").outputs == {"rows": [1]}


@pytest.mark.parametrize(
    ("from_step", "sentence"),
    [
        (1, "step '0' has the status 'failed' in the recorded run, so that nothing can follow from it."),
        (2, "step '0' has the status 'failed' in the recorded run"),
    ],
)
def test_nothing_can_follow_from_a_step_that_failed(from_step: int, sentence: str):
    """R35: said before anything runs, with what would do."""
    executor = FlowExecutor(tools=[changing("a", OSError("no")), Calls().tool("b")], flows=[chain("a", "b")])
    recorded = executor.execute_flow("flow", {"n": 1})
    with pytest.raises(ReplayError) as refused:
        executor.replay_flow(recorded, resume_from_step=from_step)
    assert refused.value.sentence.startswith(f"Run '{recorded.trace_id}' cannot be replayed: {sentence}")
    assert refused.value.fix == "use resume_from_step=0 or less"


def test_nothing_can_follow_from_a_step_that_never_ran():
    """R35: the run had ended before it."""
    executor = FlowExecutor(tools=[Calls().tool("a"), changing("b", OSError("no"))], flows=[chain("a", "b", "a")])
    recorded = executor.execute_flow("flow", {"n": 1})
    assert executor.replay_flow(recorded, resume_from_step=1).all_steps_match
    with pytest.raises(ReplayError, match="step '1' has the status 'failed'"):
        executor.replay_flow(recorded, resume_from_step=3)


class Login(BaseModel):
    password: SecretStr = SecretStr("s3cret")
    rows: list[int] = Field(default_factory=list)


class Foreign(BaseModel):
    model_config = {"arbitrary_types_allowed": True}
    session: Session = Field(default_factory=Session)


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        (Login, "output 'password' of step '0' is a secret, which no trace holds"),
        (Foreign, "outputs of step '0' cannot be brought back from JSON: "),
    ],
)
def test_what_json_does_not_hold_cannot_be_resumed_from(schema: type[BaseModel], sentence: str):
    """R34, R35: the result itself still has it."""
    tools = [Calls().tool("a", lambda given: schema(), output_schema=schema), Calls().tool("b")]
    executor = FlowExecutor(tools=tools, flows=[linear(FlowStep(tool_name="a"), FlowStep(tool_name="b"))])
    recorded = executor.execute_flow("flow", {"n": 1})
    assert executor.replay_flow(recorded, resume_from_step=1).all_steps_match
    assert executor.replay_flow(read_back(recorded)).all_steps_match
    with pytest.raises(ReplayError) as refused:
        executor.replay_flow(read_back(recorded), resume_from_step=1)
    assert sentence in refused.value.sentence


def test_a_summary_is_no_value_to_go_on_from():
    """R36, R35: neither as input nor as the output of a step."""
    tools = [changing("a", {"rows": [1, 2]}, output_schema=Rows), Calls().tool("b")]
    executor = FlowExecutor(
        tools=tools, flows=[linear(FlowStep(tool_name="a"), FlowStep(tool_name="b"))], trace_values="summary"
    )
    recorded = executor.execute_flow("flow", {"n": 1, "text": "list[2]"})
    with pytest.raises(ReplayError, match="summary of input 'text', 'list\\[2\\]', and not the value"):
        executor.replay_flow(recorded)
    recorded = executor.execute_flow("flow", {"n": 1})
    assert executor.replay_flow(recorded).all_steps_match
    for shown in (recorded, read_back(recorded)):
        with pytest.raises(ReplayError, match="summary of step '0', output 'rows'"):
            executor.replay_flow(shown, resume_from_step=1)
    recorded = executor.execute_flow("flow", {"n": 1, "rows": list(range(5))})
    with pytest.raises(ReplayError, match="summary of input 'rows'"):
        executor.replay_flow(read_back(recorded))


def test_what_views_hide_is_there_for_a_replay_of_the_result_itself():
    """R39, R35: redaction covers views; a trace that was written no longer has the values, and says so."""
    seen: list[Any] = []

    class Key(BaseModel):
        api_key: str

    tool = Calls().tool("a", lambda given: seen.append(given.api_key) or {"out": 1}, input_schema=Key)
    executor = FlowExecutor(tools=[tool], flows=[ALONE], redaction_policy=RedactionPolicy())
    recorded = executor.execute_flow("flow", {"api_key": "k-12345678"})
    assert recorded.initial_input == {"api_key": "***"}
    assert executor.replay_flow(recorded).all_steps_match
    assert seen == ["k-12345678"] * 2
    plain = FlowExecutor(tools=[tool], flows=[ALONE])
    for one in (executor, plain):
        with pytest.raises(ReplayError, match="its record hides the value of input 'api_key'"):
            one.replay_flow(read_back(recorded))


def test_a_trace_that_a_recorder_redacted_is_refused_by_whoever_has_no_policy():
    """R39, R35: what a policy has hidden is noted in the trace; that of the executor need not be the same one."""
    seen: list[int] = []
    store = InMemoryTraceStore()
    flow = linear(FlowStep(tool_name="a", map_over="xs", map_as="n"))
    executor = FlowExecutor(
        tools=[Calls().tool("a", lambda given: seen.append(given.n) or {"out": given.n})],
        flows=[flow],
        trace_recorder=TraceRecorder(store, redaction_policy=RedactionPolicy(keys=["xs"])),
    )
    stored = store.load(executor.execute_flow("flow", {"xs": [1, 2]}).trace_id)
    assert "/initial_input/xs" in stored.redacted
    for told in (stored, read_back(stored)):
        with pytest.raises(ReplayError, match="its record hides the value of input 'xs'"):
            executor.replay_flow(told)
    assert seen == [1, 2]


def test_a_secret_that_only_a_step_knows_to_be_one_is_hidden_in_the_input_as_well():
    """R39, R35: results hide it, wherever it stands, and a replay does not go on with what hides it."""
    seen: list[str] = []

    class Login(BaseModel):
        password: str

    def enter(given: Login) -> dict[str, int]:
        seen.append(given.password)
        return {"out": 1}

    flow = linear(FlowStep(tool_name="a", map_over="us", map_as="password"))
    executor = FlowExecutor(
        tools=[Calls().tool("a", enter, input_schema=Login)], flows=[flow], redaction_policy=RedactionPolicy()
    )
    recorded = executor.execute_flow("flow", {"us": ["hunter2-long"]})
    assert recorded.initial_input == {"us": ["***"]}
    assert "hunter2" not in json.dumps(recorded.model_dump(mode="json")["initial_input"])
    with pytest.raises(ReplayError, match="its record hides the value of input 'us'"):
        executor.replay_flow(read_back(recorded))
    assert executor.replay_flow(recorded).all_steps_match
    assert seen == ["hunter2-long"] * 2


def test_the_input_is_hidden_alike_when_the_replay_never_comes_to_the_step_that_tells():
    """R39, R35: what the recorded run knows to be secret stays hidden in the replay, and is no difference."""
    fails: list[bool] = []

    def first_of(given: Any) -> dict[str, int]:
        if fails:
            raise ValueError("not today")
        return {"out": 1}

    class Login(BaseModel):
        password: str

    calls = Calls()
    flow = linear(FlowStep(tool_name="a"), FlowStep(tool_name="b", input_mapping={"password": "who"}))
    executor = FlowExecutor(
        tools=[calls.tool("a", first_of), calls.tool("b", input_schema=Login, fn=lambda given: {"out": 2})],
        flows=[flow],
        redaction_policy=RedactionPolicy(),
    )
    recorded = executor.execute_flow("flow", {"n": 1, "who": "hunter2-long"})
    fails.append(True)
    replay = executor.replay_flow(recorded)
    assert first(replay)[:2] == ("0", "status")
    assert replay.new_result.initial_input == {"n": 1, "who": "***"}
    assert "hunter2" not in replay.render()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("initial_input", {}, "outputs of step '0'"),
        ("decision", "x", "the decision of step '0' is a 'str' and no mapping"),
        ("decision", [1], "the decision of step '0' is a 'list' and no mapping"),
        ("decision", {"taken": "b"}, "the decision of step '0' names no tool that was chosen"),
        ("approval", "yes", "the approval of step '0' is a 'str' and no mapping"),
    ],
)
def test_a_trace_that_somebody_has_edited_is_refused_with_what_is_wrong_with_it(field: str, value: Any, said: str):
    """R35: what the record does not hold is refused before anything starts, and is no error of the program."""
    calls = Calls()
    flow = linear(FlowStep(tool_name="a", map_over="xs", map_as="n"), FlowStep(tool_name="b"))
    executor = FlowExecutor(tools=[calls.tool("a"), calls.tool("b")], flows=[flow])
    document = json.loads(executor.execute_flow("flow", {"xs": [1]}).model_dump_json())
    (document if field == "initial_input" else document["execution_log"][0])[field] = value
    edited = ExecutionResult.model_validate_json(json.dumps(document))
    calls.counts.clear()
    with pytest.raises(ReplayError, match=said):
        executor.replay_flow(edited, resume_from_step=1)
    assert not calls.counts


def test_the_version_of_a_sub_flow_that_is_gone_is_named():
    """R35, R15: the one that the recorded run had is missing, and not the flow as such."""
    flows = [linear(FlowStep(flow_name="inner")), chain("a", name="inner", version="1.0.0")]
    recorded = FlowExecutor(tools=[Calls().tool("a")], flows=flows).execute_flow("flow", {"n": 1})
    flows[1] = chain("a", name="inner", version="2.0.0")
    later = FlowExecutor(tools=[Calls().tool("a")], flows=flows)
    with pytest.raises(FlowCompositionError) as caught:
        later.replay_flow(recorded)
    assert "calls 'inner' 1.0.0, which is not registered" in str(caught.value)
    assert "register 'inner' 1.0.0 first" in str(caught.value)


def test_a_step_whose_output_a_trace_hides_is_not_gone_on_from():
    """R39, R35: the steps before it are replayed, those behind it would get what hides the value."""

    class Token(BaseModel):
        token: str

    calls = Calls()
    tools = [
        calls.tool("a", lambda given: {"token": "t-12345678"}, output_schema=Token),
        calls.tool("b", lambda given: {"out": len(given.token)}, input_schema=Token),
    ]
    executor = FlowExecutor(tools=tools, flows=[linear(FlowStep(tool_name="a"), FlowStep(tool_name="b"))])
    recorded = executor.execute_flow("flow", {"n": 1})
    shown = read_back(RedactionPolicy().redact_result(recorded))
    assert shown.step("0").redacted == ("/outputs/token",)
    with pytest.raises(ReplayError, match="its record hides output 'token' of step '0'"):
        executor.replay_flow(shown, resume_from_step=1)
    assert calls.counts == {"a": 1, "b": 1}
    assert executor.replay_flow(recorded, resume_from_step=1).all_steps_match


def test_collected_errors_are_gone_on_from_only_while_their_texts_are_known():
    """R39, R28, R35: an `ItemError` is a value that later steps get."""

    class Key(BaseModel):
        n: int
        api_key: str

    def refuse(given: Key) -> dict[str, int]:
        raise ValueError(f"no entry with {given.api_key}")

    def read(given: Any) -> dict[str, str]:
        return {"said": given.out[0].message}

    class Errors(BaseModel):
        out: list[Any]

    class Said(BaseModel):
        said: str

    calls = Calls()
    flow = linear(FlowStep(tool_name="a", map_over="xs", map_as="n", on_item_error="collect"), FlowStep(tool_name="b"))
    tools = [
        calls.tool("a", refuse, input_schema=Key),
        calls.tool("b", read, input_schema=Errors, output_schema=Said),
    ]
    executor = FlowExecutor(tools=tools, flows=[flow], redaction_policy=RedactionPolicy())
    recorded = executor.execute_flow("flow", {"xs": [1], "api_key": "k-12345678"})
    replay = executor.replay_flow(recorded, resume_from_step=1)
    assert replay.new_result.final_output is not None
    assert "k-12345678" in replay.new_result.final_output["said"]
    told = read_back(recorded).model_copy(update={"initial_input": {"xs": [1], "api_key": "k"}, "redacted": ()})
    with pytest.raises(ReplayError, match="its record hides the error of item 0 of step '0'"):
        executor.replay_flow(told, resume_from_step=1)


def test_a_secret_inside_of_an_input_is_missed_as_well():
    """R39, R35: what a schema declares secret is in no trace, at whatever depth."""

    class User(BaseModel):
        name: str
        pin: SecretStr

    executor = FlowExecutor(tools=[Calls().tool("a")], flows=[ALONE])
    recorded = executor.execute_flow("flow", {"n": 1, "user": User(name="ada", pin=SecretStr("1234"))})
    with pytest.raises(ReplayError, match="its record hides the value of input 'user'"):
        executor.replay_flow(read_back(recorded))
    assert executor.replay_flow(recorded).all_steps_match


def test_what_looks_hidden_and_is_not_is_replayed():
    """R39, R35: three stars may be a rating."""

    class Review(BaseModel):
        stars: str

    tool = Calls().tool("a", lambda given: {"out": len(given.stars)}, input_schema=Review)
    executor = FlowExecutor(tools=[tool], flows=[ALONE], redaction_policy=RedactionPolicy())
    recorded = executor.execute_flow("flow", {"stars": "***"})
    assert executor.replay_flow(read_back(recorded)).all_steps_match


# ---- what a replay leaves alone


def test_verifying_uses_no_step_cache_and_leaves_no_checkpoint():
    """R35: a cache would answer for the tools, and nobody resumes a replay."""
    calls, cache, store = Calls(), InMemoryStepCache(), InMemoryCheckpointer()
    executor = FlowExecutor(
        tools=[calls.tool("a", cacheable=True)],
        flows=[chain("a")],
        step_cache=cache,
        checkpointer=store,
        delete_on_success=False,
    )
    recorded = executor.execute_flow("flow", {"n": 1})
    replay = executor.replay_flow(recorded)
    assert replay.all_steps_match
    assert (calls.counts, replay.new_result.step("0").cached) == ({"a": 2}, False)
    assert store.list_trace_ids() == [recorded.trace_id]

    replay = executor.replay_flow(recorded, mode=ReplayMode.EXECUTE)
    assert (calls.counts, replay.new_result.step("0").cached) == ({"a": 2}, True)
    assert set(store.list_trace_ids()) == {recorded.trace_id, replay.new_result.trace_id}


def test_executing_asks_again_and_tells_what_is_otherwise():
    """R35: a run like any other; its differences are for information."""
    tools, flow = [Calls().tool("a"), Calls().tool("b")], dag(deciding())
    answers = ["a", "b"]
    executor = FlowExecutor(tools=tools, flows=[flow], decision_callback=lambda context: answers.pop(0))
    replay = again(executor, {"n": 1}, mode="execute")
    assert replay.mode is ReplayMode.EXECUTE
    assert first(replay) == ("choose", "decision.chosen", "a", "b")


def test_listeners_hear_of_a_replay_as_of_any_run():
    """R17, R35: one beginning and one end."""
    heard: list[str] = []

    class Listens:
        def on_flow_start(self, context: Any) -> None:
            heard.append(context.trace_id)

        def on_flow_end(self, context: Any) -> None:
            heard.append(context.result.trace_id)

    executor = FlowExecutor(tools=[Calls().tool("a")], flows=[chain("a")], middleware=[Listens()])
    replay = again(executor, {"n": 1})
    assert heard[2:] == [replay.new_result.trace_id] * 2


# ---- flags, versions, arguments


def test_a_dry_run_is_replayed_as_a_dry_run():
    """R35: the flag is recorded; whether steps without a rehearsal were skipped or failed shows in them."""
    calls = Calls()
    tools = [calls.tool("a", dry_run_fn=lambda given: {"out": 5}), calls.tool("b")]
    executor = FlowExecutor(tools=tools, flows=[chain("a", "b")])
    for unsupported in ("skip", "abort"):
        recorded = executor.execute_flow("flow", {"n": 1}, dry_run=True, dry_run_unsupported=unsupported)
        replay = executor.replay_flow(recorded)
        assert replay.new_result.dry_run
        assert replay.all_steps_match, str(replay)
        assert replay.new_result.step("1").status == ("skipped" if unsupported == "skip" else "failed")
    assert calls.counts == {}


def test_the_recorded_version_is_the_one_that_runs():
    """R35: not the highest one; one that is gone is the registry's error."""
    executor = FlowExecutor(
        tools=[Calls().tool("a"), Calls().tool("b")], flows=[chain("a", version="1.0.0"), chain("b", version="2.0.0")]
    )
    recorded = executor.execute_flow("flow", {"n": 1}, version="1.0.0")
    assert executor.replay_flow(recorded).new_result.flow_version == "1.0.0"
    executor.registry.unregister_flow("flow", version="1.0.0")
    with pytest.raises(FlowNotFoundError, match=r"Flow 'flow' version '1\.0\.0' is not registered"):
        executor.replay_flow(recorded)


def test_a_flow_that_is_not_active_is_replayed_by_force():
    """R15: as in a first run."""
    executor = FlowExecutor(tools=[Calls().tool("a")], flows=[chain("a")])
    recorded = executor.execute_flow("flow", {"n": 1})
    executor.registry.set_flow_status("flow", "disabled")
    with pytest.raises(FlowStatusError):
        executor.replay_flow(recorded)
    assert executor.replay_flow(recorded, force=True).all_steps_match


def test_dynamic_parameters_are_passed_again():
    """R13, R35: they are in no record."""
    flow = linear(
        FlowStep(tool_name="a", input_mapping={"n": "key"}),
        FlowStep(tool_name="b", input_mapping={"n": "out"}, output_mapping={"last": "out"}),
        dynamic_params=["key"],
    )
    executor = FlowExecutor(tools=[Calls().tool("a"), Calls().tool("b")], flows=[flow])
    recorded = executor.execute_flow("flow", {}, dynamic_params={"key": 4})
    assert executor.replay_flow(recorded, dynamic_params={"key": 4}).all_steps_match
    assert first(executor.replay_flow(recorded, dynamic_params={"key": 5})) == ("0", "outputs.out", 5, 6)
    assert executor.replay_flow(recorded).new_result.step("0").error_type == "InputMappingError"
    assert executor.replay_flow(recorded, resume_from_step=1).all_steps_match


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "check"}, ValueError, "mode has to be ReplayMode.VERIFY or ReplayMode.EXECUTE, not 'check'."),
        ({"resume_from_step": -1}, ValueError, "resume_from_step has to be at least 0, not -1."),
        ({"resume_from_step": 2}, ValueError, "resume_from_step has to be a plan index from 0 to 1, not 2."),
        ({"resume_from_step": "0"}, TypeError, "resume_from_step has to be a whole number, not '0'."),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, Any], error: type[Exception], message: str):
    """R35: before anything starts."""
    executor = FlowExecutor(tools=[Calls().tool("a")], flows=[chain("a")])
    recorded = executor.execute_flow("flow", {"n": 1})
    with pytest.raises(error) as refused:
        executor.replay_flow(recorded, **options)
    assert str(refused.value) == message


def test_what_is_no_result_is_refused():
    """R35: the message says how to read one."""
    executor = FlowExecutor(tools=[Calls().tool("a")], flows=[chain("a")])
    with pytest.raises(TypeError, match=r"not from '9f3c'; read one with ExecutionResult.model_validate_json\(text\)"):
        executor.replay_flow("9f3c")  # type: ignore[arg-type]  # the mistake under test


def test_a_difference_at_a_border_of_a_nested_flow_names_the_step():
    """R35: input and output of a flow have no step of their own."""
    diff = StepDiff(step_index=-1, tool_name="inner", field="error_message", expected="a", actual="b", path=("sub",))
    assert diff.step == "input of flow 'inner' in step 'sub'"


def test_a_cancelled_run_is_compared_as_far_as_it_came():
    """R35, R23: steps that were cancelled do not count, nor do those behind them; the status of the run does."""
    token = CancellationToken()
    calls = Calls()
    executor = FlowExecutor(
        tools=[calls.tool("a"), calls.tool("b", lambda given: token.cancel() or {"out": 1}), calls.tool("c")],
        flows=[linear(FlowStep(flow_name="inner")), chain("a", "b", "c", name="inner")],
    )
    with pytest.raises(FlowCancelledError) as caught:
        executor.execute_flow("flow", {"n": 1}, cancel_token=token)
    cancelled = caught.value.result
    assert isinstance(cancelled, ExecutionResult)
    replay = executor.replay_flow(cancelled)
    assert [str(diff) for diff in replay.diffs] == ["output of flow 'flow', status: expected 'cancelled', found 'ok'"]

    inside = cancelled.step("0").sub_result
    assert inside is not None
    whole = executor.execute_flow("inner", {"n": 1})
    assert [diff.place for diff in compared(inside, whole).diffs] == ["status"]
    found = whole.execution_log[0].model_copy(update={"outputs": {"out": 5}})
    other = whole.model_copy(update={"execution_log": [found, *whole.execution_log[1:]]})
    assert [diff.place for diff in compared(inside, other).diffs] == ["outputs.out"]
