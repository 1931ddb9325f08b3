"""Sub-flows: a run inside a step, with steps, records, places and an end of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from chainweaver import FlowStep
from chainweaver._execution import Invoke, Lead, Run, RunCancelled, TimedOut
from chainweaver._execution.run import attempt_of, segment_of, step_id_of
from chainweaver.exceptions import (
    ContextKeyCollisionError,
    FlowExecutionError,
    OutputMappingError,
    SchemaValidationError,
    ToolTimeoutError,
)
from chainweaver.flow import RetryPolicy
from chainweaver.plan import PlannedStep, ToolContext
from tests.execution.kit import (
    Crowd,
    Walk,
    a_flow,
    a_plan,
    a_run,
    a_step,
    a_sub_step,
    a_tool,
    error_of,
    facts,
    statuses,
)

A, B, C = (a_tool(name, ["n"], [f"{name}_out"]) for name in "abc")
TOOLS = [A, B, C]
AGAIN = RetryPolicy(max_retries=1, backoff_seconds=0.0)
SUB = [a_sub_step("sub", "inner")]
PAIR = a_flow("inner", [a_step("a"), a_step("b", "a")])
SIDE_BY_SIDE = a_flow("inner", [a_step("a"), a_step("b")])


class TwoNumbers(BaseModel):
    n: int
    m: int = 2


class Positive(BaseModel):
    a_out: int


HERE = "tests.execution.test_sub_flows"


def walked(steps: list[Any], *flows: Any, tools: list[Any] | None = None, attended: Any = None, **flow: Any) -> Walk:
    plan = a_plan(steps, tools or TOOLS, flows=flows, **flow)
    return Walk(a_run(plan, {"n": 1}, **(attended or {})))


def crowded(
    steps: list[Any], *flows: Any, limit: int = 16, tools: list[Any] | None = None, attended: Any = None, **flow: Any
) -> Crowd:
    plan = a_plan(steps, tools or TOOLS, flows=flows, **flow)
    return Crowd(a_run(plan, {"n": 1}, **(attended or {})), limit)


def nested_of(run: Run, step_id: str = "sub") -> Run:
    """The run inside a step."""
    nested = run.details[run.plan.names[step_id]].nested
    assert nested is not None
    return nested


# ---- what goes in and what comes out


def test_the_steps_of_a_sub_flow_run_inside_the_step():
    """R27: in their own run, which hangs under the one around it and is never flattened."""
    walk = walked(SUB, PAIR)

    assert walk.asks == ("call", "a", {"n": 1})
    assert walk.ok({"a_out": 2}) == ("call", "b", {"n": 1})
    assert walk.ok({"b_out": 3}) is None
    nested = nested_of(walk.run)
    assert (nested.parent, nested.path, nested.status) == (walk.run, ("sub",), "ok")
    assert nested.plan.flow_name == "inner"
    assert statuses(nested) == {"a": "ok", "b": "ok"}
    assert statuses(walk.run) == {"sub": "ok"}
    assert walk.run.final_output == {"n": 1, "a_out": 2, "b_out": 3}
    assert walk.run.shown_outputs(0) == {"a_out": 2, "b_out": 3}


def test_a_sub_flow_is_fed_through_the_input_mapping_of_its_step():
    """R27: under the names that the sub-flow knows, and with nothing else of the context."""
    walk = walked(
        [a_step("a"), a_sub_step("sub", "inner", "a", input_mapping={"n": "a_out"})], a_flow("inner", [a_step("b")])
    )

    assert walk.ok({"a_out": 7}) == ("call", "b", {"n": 7})
    walk.ok({"b_out": 8})
    assert nested_of(walk.run).given == {"n": 7}
    assert walk.run.inputs[1] == {"n": 7}


def test_a_sub_flow_gives_what_its_steps_wrote_and_not_what_it_was_given():
    """R27: its inputs are its own; they are not handed back under its names."""
    walk = walked(
        [a_step("a"), a_sub_step("sub", "inner", "a", input_mapping={"n": "a_out"})], a_flow("inner", [a_step("b")])
    )
    walk.ok({"a_out": 7})
    walk.ok({"b_out": 8})

    assert walk.run.slots[2] == {"b_out": 8}
    assert walk.run.final_output == {"n": 1, "a_out": 7, "b_out": 8}
    assert nested_of(walk.run).final_output == {"n": 7, "b_out": 8}


def test_a_sub_flow_gives_its_projection():
    """R13, R27: `outputs` of the sub-flow says what comes out, also what only went through."""
    walk = walked(SUB, a_flow("inner", [a_step("a"), a_step("b")], outputs=["b_out", "n"]))
    walk.ok({"a_out": 2})
    walk.ok({"b_out": 3})

    assert walk.run.slots[1] == {"b_out": 3, "n": 1}


def test_what_a_sub_flow_gives_is_renamed_by_its_step():
    """R11: the record shows the names of the sub-flow, the context those of the mapping."""
    walk = walked([a_sub_step("sub", "inner", output_mapping={"found": "b_out"})], PAIR)
    walk.ok({"a_out": 2})
    walk.ok({"b_out": 3})

    assert walk.run.slots[1] == {"found": 3}
    assert walk.run.shown_outputs(0) == {"a_out": 2, "b_out": 3}


def test_an_output_that_a_sub_flow_did_not_give_fails_the_step():
    """R11: a step inside that was skipped has written nothing."""
    inner = a_flow("inner", [a_step("a", on_error="skip")])
    walk = walked([a_sub_step("sub", "inner", output_mapping={"found": "a_out"})], inner)
    walk.err(OSError("down"))

    assert isinstance(error_of(walk.run), OutputMappingError)


def test_an_object_goes_through_a_sub_flow_as_it_is():
    """R14: what a tool inside returns is the very object that the next step outside receives."""
    make, take = a_tool("make", ["n"], {"thing": Any}), a_tool("take", {"thing": Any}, ["done"])
    walk = walked(
        [a_sub_step("sub", "inner"), a_step("take", "sub")], a_flow("inner", [a_step("make")]), tools=[make, take]
    )
    thing = object()
    walk.ok({"thing": thing})

    assert walk.asks[2]["thing"] is thing


def test_dynamic_parameters_reach_the_sub_flows_that_name_them():
    """R13: they are nobody else's, and no record shows them."""
    listed = a_flow("listed", [a_step("a", input_mapping={"n": "key"})], dynamic_params=["key"])
    other = a_flow("other", [a_step("b")])
    steps = [a_sub_step("one", "listed"), a_sub_step("two", "other")]
    plan = a_plan(steps, TOOLS, flows=[listed, other], dynamic_params=["key"])
    walk = Walk(a_run(plan, {"n": 1}, dynamic={"key": 7}))

    assert walk.asks == ("call", "a", {"n": 7})
    walk.ok({"a_out": 1})
    walk.ok({"b_out": 1})
    assert nested_of(walk.run, "one").inputs[0] == {"n": "<dynamic parameter>"}
    assert nested_of(walk.run, "two").slots[-1] == {}


@pytest.mark.parametrize(
    ("step", "key"),
    [
        (a_sub_step("one", "listed", input_mapping={"n": "secret"}), 7),
        (a_sub_step("one", "listed", map_over="secrets", input_mapping={"n": "item"}), [7]),
    ],
    ids=["mapped", "as an item"],
)
def test_a_dynamic_parameter_that_a_step_maps_is_one_of_the_sub_flow(step, key):
    """R13, R27, R28: it is no part of its input, so that no view of the nested run has it."""
    listed = a_flow("listed", [a_step("a")], dynamic_params=["n"])
    name = "secret" if step.map_over is None else "secrets"
    run = a_run(a_plan([step], TOOLS, flows=[listed], dynamic_params=[name]), {}, dynamic={name: key})
    walk = Walk(run)

    assert walk.asks == ("call", "a", {"n": 7})
    walk.ok({"a_out": 1})
    nested = nested_of(run, "one")
    if step.map_over is not None:
        nested = nested.details[0].nested
    assert (nested.given, nested.slots[0], nested.inputs[0]) == ({}, {}, {"n": "<dynamic parameter>"})


def test_a_sub_flow_without_steps_gives_nothing():
    """R17: it ends as it begins."""
    walk, crowd = walked(SUB, a_flow("inner", [])), crowded(SUB, a_flow("inner", []))

    assert (walk.asks, crowd.began) == (None, [])
    assert walk.run.final_output == crowd.concluded().final_output == {"n": 1}


# ---- schemas of the sub-flow


def test_a_sub_flow_validates_what_it_is_given():
    """R8, R27: defaults are filled in for its steps and for nobody else."""
    inner = a_flow("inner", [a_step("a", input_mapping={"n": "m"})], input_schema_ref=f"{HERE}:TwoNumbers")
    walk = walked(SUB, inner)

    assert walk.asks == ("call", "a", {"n": 2})
    walk.ok({"a_out": 3})
    assert walk.run.final_output == {"n": 1, "a_out": 3}


def test_inputs_that_a_sub_flow_refuses_fail_the_step_before_anything_runs():
    """R8, R27: the run inside has begun and ended, with nothing in between, and its listeners hear both."""
    inner = a_flow("inner", [a_step("a")], input_schema_ref=f"{HERE}:TwoNumbers")
    plan = a_plan([a_sub_step("sub", "inner", input_mapping={"n": "text"})], TOOLS, flows=[inner])
    walk = Walk(a_run(plan, {"text": "many"}, listening=True, announcing=True))

    assert walk.to_the_end({}) == [
        ("step_start", "sub"),
        ("flow_start", "inner/sub"),
        ("flow_end", "inner/sub"),
        ("step_end", "sub"),
    ]
    error = error_of(walk.run)
    assert isinstance(error, SchemaValidationError)
    assert (error.tool_name, error.step_index) == ("inner", -1)
    assert nested_of(walk.run).input_error is error
    assert nested_of(walk.run).status == "failed"


def test_outputs_that_a_sub_flow_refuses_fail_the_step():
    """R13, R27: its own output schema is held against its own output."""
    inner = a_flow("inner", [a_step("b")], output_schema_ref=f"{HERE}:Positive")
    walk = walked(SUB, inner)
    walk.ok({"b_out": 3})

    assert isinstance(error_of(walk.run), SchemaValidationError)
    assert statuses(nested_of(walk.run)) == {"b": "ok"}


@pytest.mark.parametrize("side", ["input", "output"])
def test_contracts_of_the_step_hold_for_sub_flows(side: str):
    """R21, R27: inputs are refused before the sub-flow begins, outputs after it has ended."""
    ref = f"{HERE}:{'TwoNumbers' if side == 'input' else 'Positive'}"
    step = a_sub_step("sub", "inner", input_mapping={"n": "text"}, **{f"{side}_contract": ref})
    take = a_tool("take", {"n": Any}, {"a_out": Any})
    plan = a_plan([step], [take], flows=[a_flow("inner", [a_step("take")])])
    walk = Walk(a_run(plan, {"text": "many"}))
    if side == "output":
        assert walk.asks == ("call", "take", {"n": "many"})
        walk.ok({"a_out": "much"})

    assert walk.asks is None
    assert isinstance(error_of(walk.run), SchemaValidationError)
    assert f"{side} contract" in str(error_of(walk.run))


# ---- collisions


@pytest.mark.parametrize("value", [7, "text", None, 1.5, (1, 2)])
@pytest.mark.parametrize("policy", ["warn", "error"])
def test_a_key_that_a_sub_flow_only_passes_through_is_no_collision(policy: str, value: object):
    """R12, R27: an equal value, or the very same object, overwrites nothing."""
    inner = a_flow("inner", [a_step("a")], outputs=["a_out", "x"])
    plan = a_plan(SUB, TOOLS, flows=[inner], on_context_collision=policy)
    walk = Walk(a_run(plan, {"n": 1, "x": value}))
    walk.ok({"a_out": 1})

    assert walk.run.status == "ok"
    assert list(walk.run.collisions) == []


@pytest.mark.parametrize("before", [8, 7.0, True, [7]])
def test_a_key_that_a_sub_flow_writes_anew_is_one(before: object):
    """R12, R27: another value, or one of another type, is a collision as for any step."""
    give = a_tool("give", ["n"], {"x": Any})
    inner = a_flow("inner", [a_step("give")])
    ended, warned = (
        Walk(a_run(a_plan(SUB, [give], flows=[inner], on_context_collision=policy), {"n": 1, "x": before}))
        for policy in ("error", "warn")
    )
    for walk in (ended, warned):
        walk.ok({"x": 7 if before != [7] else [7]})

    assert isinstance(error_of(ended.run), ContextKeyCollisionError)
    assert error_of(ended.run).keys == ("x",)
    assert [(one.step_index, one.keys) for one in warned.run.collisions] == [(0, ("x",))]


def test_of_two_keys_only_the_one_that_changed_collides():
    """R12, R27: and a step before it that wrote the same value counts like the input."""
    first, give = a_tool("first", ["n"], ["x"]), a_tool("give", ["n"], ["x", "y"])
    steps = [a_step("first"), a_sub_step("sub", "inner", "first")]
    plan = a_plan(steps, [first, give], flows=[a_flow("inner", [a_step("give")])])
    walk = Walk(a_run(plan, {"n": 1, "y": 5}))
    walk.ok({"x": 3})
    walk.ok({"x": 3, "y": 6})

    assert [(one.step_index, one.keys) for one in walk.run.collisions] == [(1, ("y",))]


def test_what_other_steps_overwrite_is_told_beside_what_a_sub_flow_passes_through():
    """R12: the fold leaves out sub-flows that changed nothing, and nobody else."""
    give, other = a_tool("give", ["n"], ["x"]), a_tool("other", ["n"], ["x"])
    steps = [a_sub_step("sub", "inner"), a_step("other", "sub")]
    plan = a_plan(steps, [give, other], flows=[a_flow("inner", [a_step("give")])])
    walk = Walk(a_run(plan, {"n": 1, "x": 3}))
    walk.ok({"x": 3})
    walk.ok({"x": 3})

    assert [(one.step_index, one.keys) for one in walk.run.collisions] == [(1, ("x",))]


# ---- failures and policies


def test_a_sub_flow_fails_its_step_with_its_own_error():
    """R16, R27: one error, which says where inside it happened; nothing later runs inside or outside."""
    walk = walked([*SUB, a_step("c", "sub")], PAIR)
    raised = OSError("down")
    walk.err(raised)
    nested = nested_of(walk.run)

    assert walk.asks is None
    assert statuses(walk.run) == {"sub": "failed", "c": None}
    assert statuses(nested) == {"a": "failed", "b": None}
    assert (nested.status, nested.final_output) == ("failed", None)
    assert isinstance(error_of(walk.run), FlowExecutionError)
    assert error_of(walk.run).__cause__ is raised
    assert "Tool 'a' failed" in str(error_of(walk.run))
    assert "flow 'inner' 1.0.0" in str(error_of(nested))


def test_a_sub_flow_that_finishes_runs_all_that_it_can_before_it_fails_the_step():
    """R19, R27: `on_failure` of the sub-flow holds inside it."""
    walk = walked(SUB, a_flow("inner", [a_step("a"), a_step("b")], on_failure="finish"))

    assert walk.err(OSError("down")) == ("call", "b", {"n": 1})
    walk.ok({"b_out": 1})
    assert statuses(nested_of(walk.run)) == {"a": "failed", "b": "ok"}
    assert statuses(walk.run) == {"sub": "failed"}


def test_retrying_a_sub_flow_is_a_new_run_of_it():
    """R20, R27: from its first step on; the record shows the last run, the errors of all."""
    walk = walked([a_sub_step("sub", "inner", retry=AGAIN)], PAIR)
    walk.ok({"a_out": 2})

    assert walk.err(OSError("busy")) == ("call", "a", {"n": 1})
    first = walk.run.details[0].retry_errors
    walk.ok({"a_out": 4})
    walk.ok({"b_out": 5})
    assert walk.run.final_output == {"n": 1, "a_out": 4, "b_out": 5}
    assert walk.run.details[0].retries == 1
    assert len(first) == 1
    assert "OSError: busy" in first[0]
    assert statuses(nested_of(walk.run)) == {"a": "ok", "b": "ok"}


@pytest.mark.parametrize(("raised", "is_retried"), [(OSError("busy"), True), (ValueError("wrong"), False)])
def test_a_sub_flow_is_retried_for_the_exceptions_that_its_tools_raised(raised: Exception, is_retried: bool):
    """R20, R27: the policy names them as if the tool had been called in the step."""
    policy = RetryPolicy(max_retries=1, backoff_seconds=0.0, retryable_errors=("builtins:OSError",))
    walk = walked([a_sub_step("sub", "inner", retry=policy)], PAIR)

    assert (walk.err(raised) is not None) == is_retried


def test_values_that_were_refused_inside_a_sub_flow_are_not_retried():
    """R20: trying again would change nothing."""
    walk = walked([a_sub_step("sub", "inner", retry=AGAIN)], PAIR)

    assert walk.ok({"a_out": "many"}) is None
    assert isinstance(error_of(walk.run), SchemaValidationError)


def test_a_sub_flow_that_failed_may_be_skipped():
    """R21, R27: nothing of it is merged, its records stay."""
    walk = walked([a_sub_step("sub", "inner", on_error="skip"), a_step("c", "sub")], PAIR)
    walk.ok({"a_out": 2})

    assert walk.err(OSError("down")) == ("call", "c", {"n": 1})
    walk.ok({"c_out": 3})
    assert statuses(walk.run) == {"sub": "skipped", "c": "ok"}
    assert statuses(nested_of(walk.run)) == {"a": "ok", "b": "failed"}
    assert walk.run.final_output == {"n": 1, "c_out": 3}


def test_a_tool_stands_in_for_a_sub_flow_that_failed():
    """R21, R27: with the same inputs and attempts of its own."""
    walk = walked([a_sub_step("sub", "inner", on_error="fallback:c", retry=AGAIN)], PAIR)
    walk.err(OSError("down"))

    assert walk.err(OSError("down")) == ("call", "c", {"n": 1})
    assert walk.err(OSError("busy")) == ("call", "c", {"n": 1})
    walk.ok({"c_out": 3})
    assert walk.run.final_output == {"n": 1, "c_out": 3}
    assert walk.run.details[0].fallback == "c"


def test_policies_of_the_steps_inside_hold_inside():
    """R20, R21, R27: the step outside hears nothing of it."""
    inner = a_flow("inner", [a_step("a", retry=AGAIN, on_error="skip"), a_step("b", on_error="fallback:c")])
    walk = walked(SUB, inner)
    walk.err(OSError("down"))
    walk.err(OSError("down"))

    assert walk.err(OSError("down")) == ("call", "c", {"n": 1})
    walk.ok({"c_out": 3})
    assert statuses(nested_of(walk.run)) == {"a": "skipped", "b": "ok"}
    assert (walk.run.final_output, walk.run.details[0].retries) == ({"n": 1, "c_out": 3}, 0)


# ---- time


def test_the_limit_of_the_step_holds_for_the_sub_flow_as_a_whole():
    """R22, R27: each call inside gets what is left of it, and what comes late is no success."""
    walk = walked([a_sub_step("sub", "inner", timeout_seconds=1.0)], PAIR)

    assert walk.asks == ("invoke", "a", {"n": 1}, 1.0, None)
    assert walk.ok({"a_out": 2}, after_s=0.75) == ("invoke", "b", {"n": 1}, 0.25, None)
    walk.ok({"b_out": 3}, after_s=0.25)
    error = error_of(walk.run)
    assert isinstance(error, ToolTimeoutError)
    assert (error.tool_name, error.timeout_seconds) == ("inner", 1.0)
    assert str(error).startswith("Sub-flow 'inner' did not finish within 1.0 seconds.")
    assert (nested_of(walk.run).status, statuses(nested_of(walk.run))) == ("cancelled", {"a": "ok", "b": "cancelled"})
    assert walk.run.status == "failed"


@pytest.mark.parametrize("after_s", [1.0, 0.999])
def test_a_sub_flow_that_took_too_long_is_tried_again(after_s: float):
    """R20, R22: with the whole limit; the lane may see the end a moment early."""
    walk = walked([a_sub_step("sub", "inner", timeout_seconds=1.0, retry=AGAIN)], PAIR)

    assert walk.err(TimedOut(), after_s=after_s) == ("invoke", "a", {"n": 1}, 1.0, None)
    assert "1.0 s" in walk.run.details[0].retry_errors[0]


@pytest.mark.parametrize("after_s", [1.0, 0.999])
@pytest.mark.parametrize("own_s", [None, 5.0, 1.0])
def test_the_deadline_of_the_run_ends_the_sub_flow_and_the_run(own_s: float | None, after_s: float):
    """R22, R27: it is no failure of the step, so nothing is tried again; a lane may see the end a moment early."""
    step = a_sub_step("sub", "inner", timeout_seconds=own_s, retry=AGAIN, on_error="skip")
    walk = walked([step], PAIR, attended={"deadline_s": 1.0})
    assert walk.asks == ("invoke", "a", {"n": 1}, 1.0, None)
    walk.err(TimedOut(), after_s=after_s)

    assert walk.asks is None
    assert (walk.run.status, statuses(walk.run)) == ("cancelled", {"sub": "cancelled"})
    assert walk.run.cancelled is not None
    assert walk.run.cancelled.reason == "deadline"
    assert nested_of(walk.run).status == "cancelled"


def test_the_deadline_may_pass_between_two_steps_of_a_sub_flow():
    """R22: it is looked at before every step, inside as outside."""
    walk = walked([*SUB, a_step("c", "sub")], PAIR, attended={"deadline_s": 1.0})
    walk.ok({"a_out": 1}, after_s=2.0)

    assert (walk.run.status, statuses(walk.run)) == ("cancelled", {"sub": "cancelled", "c": None})


def test_a_nested_run_has_the_time_of_the_run_around_it():
    """R1: records inside and outside tell of one clock."""
    walk = walked([*SUB, a_step("c", "sub")], PAIR)
    walk.ok({"a_out": 1}, after_s=2.0)
    walk.ok({"b_out": 1}, after_s=3.0)
    walk.ok({"c_out": 1}, after_s=1.0)
    nested = nested_of(walk.run)

    assert [(nested.started[at], nested.ended[at]) for at in (0, 1)] == [(0, 2 * 10**9), (2 * 10**9, 5 * 10**9)]
    assert (walk.run.started, walk.run.ended) == ([0, 5 * 10**9], [5 * 10**9, 6 * 10**9])
    assert (nested.began_ns, nested.began_wall, nested.now_ns) == (0, 0.0, 5 * 10**9)


# ---- cancellation


@pytest.mark.parametrize("on_failure", ["stop", "finish"])
@pytest.mark.parametrize("reason", ["token", "interrupt"])
def test_a_run_that_is_told_to_end_inside_a_sub_flow_ends(reason: Any, on_failure: Any):
    """R23, R27: whatever else went wrong inside, and whatever the policies of the step say."""
    inner = a_flow("inner", [a_step("a", on_error="skip"), a_step("b"), a_step("c")], on_failure=on_failure)
    step = a_sub_step("sub", "inner", retry=AGAIN, on_error="skip")
    walk = walked([step, a_step("c", "sub")], inner)
    assert walk.err(OSError("down")) == ("call", "b", {"n": 1})
    if on_failure == "finish":
        assert walk.err(OSError("down")) == ("call", "c", {"n": 1})
    walk.err(RunCancelled(reason))

    assert walk.asks is None
    assert walk.run.cancelled is not None
    assert walk.run.cancelled.reason == reason
    assert statuses(walk.run) == {"sub": "cancelled", "c": None}


def test_what_a_sub_flow_wrote_before_it_was_cancelled_is_readable_in_its_records():
    """R17, R27: its own result is there, and nothing of it is merged."""
    walk = walked(SUB, PAIR)
    walk.ok({"a_out": 2})
    walk.err(RunCancelled("token"))
    nested = nested_of(walk.run)

    assert (nested.status, nested.final_output) == ("cancelled", None)
    assert statuses(nested) == {"a": "ok", "b": "cancelled"}
    assert walk.run.slots[1] is None


# ---- names


def context_of(walk: Walk) -> ToolContext:
    """What the tool that is called next may know about its call."""
    assert isinstance(walk.command, Invoke)
    assert walk.command.context is not None
    return walk.command.context


def telling() -> Any:
    """A tool that wants to know whose call it serves."""

    def tell(given: Any, context: ToolContext) -> dict[str, int]:
        raise AssertionError("the run core calls no tool")

    return a_tool("tell", ["n"], ["told"], fn=tell)


def test_a_tool_inside_learns_where_it_is():
    """R32: its run is the outermost one, its path leads through the steps around it, its key is theirs together."""
    middle = a_flow("middle", [a_sub_step("deep", "inner")])
    walk = walked([a_sub_step("sub", "middle")], middle, a_flow("inner", [a_step("tell")]), tools=[telling()])
    run_id = "0" * 32

    assert context_of(walk) == ToolContext(
        run_id, "inner", "tell", ("sub", "deep", "tell"), f"{run_id}/sub/deep/tell", 1
    )


def test_a_new_run_of_a_sub_flow_keeps_the_keys_of_its_calls():
    """R32: a key is stable over retries, also over those of the step around it."""
    walk = walked([a_sub_step("sub", "inner", retry=AGAIN)], a_flow("inner", [a_step("tell")]), tools=[telling()])
    first = context_of(walk).idempotency_key
    walk.err(OSError("busy"))

    assert context_of(walk).idempotency_key == first


def test_two_steps_that_run_one_sub_flow_have_keys_of_their_own():
    """R32: the path makes the difference."""
    steps = [
        a_sub_step("one", "inner", output_mapping={"x": "told"}),
        a_sub_step("two", "inner", output_mapping={"y": "told"}),
    ]
    walk = walked(steps, a_flow("inner", [a_step("tell")]), tools=[telling()])
    first = context_of(walk).idempotency_key
    walk.ok({"told": 1})

    assert (first, context_of(walk).idempotency_key) == (f"{'0' * 32}/one/tell", f"{'0' * 32}/two/tell")


def test_ids_that_hold_the_signs_of_paths_do_not_meet():
    """R32: a step 'a/tell' and a step 'tell' inside of 'a' are two."""
    steps = [
        a_sub_step("a", "inner", output_mapping={"x": "told"}),
        a_step("a/tell", tool_name="tell", output_mapping={"y": "told"}),
        a_step("a~1tell", tool_name="tell", output_mapping={"z": "told"}),
    ]
    walk = walked(steps, a_flow("inner", [a_step("tell")]), tools=[telling()])
    keys = [context_of(walk).idempotency_key]
    for _ in range(2):
        walk.ok({"told": 1})
        keys.append(context_of(walk).idempotency_key)

    assert len(set(keys)) == 3


@pytest.mark.parametrize("step_id", ["fetch", "a/b", "a#2", "a~1b", "~~0/#"])
def test_a_part_of_a_key_leads_back_to_its_step(step_id: str):
    """R32: whatever the id, and whatever the attempt."""
    first, second = segment_of(step_id), segment_of(step_id, 2)

    assert step_id_of(first) == step_id_of(second) == step_id
    assert (attempt_of(first), attempt_of(second)) == (1, 2)
    assert second == f"{first}#2"
    assert not set("/#") & set(first)


def test_the_trace_id_of_a_nested_run_follows_from_the_run_and_the_path():
    """R27, R33: it is the same in another process, and another one for every step and every attempt."""
    steps = [
        a_sub_step("sub", "inner", retry=AGAIN, output_mapping={"x": "a_out"}),
        a_sub_step("sub#2", "inner", output_mapping={"y": "a_out"}),
        a_sub_step("two", "inner", output_mapping={"z": "a_out"}),
    ]

    def ids() -> list[str]:
        walk = walked(steps, a_flow("inner", [a_step("a")]))
        found = [nested_of(walk.run).trace_id()]
        walk.err(OSError("busy"))
        for name in ("sub", "sub#2", "two"):
            found.append(nested_of(walk.run, name).trace_id())
            walk.ok({"a_out": 1})
        return [*found, walk.run.trace_id()]

    once = ids()
    assert once == ids()
    assert len(set(once)) == 5
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in once)


# ---- listeners, checkpoints, cache


def test_listeners_hear_of_a_nested_run_and_of_its_steps():
    """R27, R38: its beginning after that of the step around it, its end before."""
    walk = walked([*SUB, a_step("c", "sub")], PAIR, attended={"listening": True, "announcing": True})

    assert walk.to_the_end({"a": {"a_out": 1}, "b": {"b_out": 1}, "c": {"c_out": 1}}) == [
        ("step_start", "sub"),
        ("flow_start", "inner/sub"),
        ("step_start", "sub/a"),
        ("call", "a", {"n": 1}),
        ("step_end", "sub/a"),
        ("step_start", "sub/b"),
        ("call", "b", {"n": 1}),
        ("step_end", "sub/b"),
        ("flow_end", "inner/sub"),
        ("step_end", "sub"),
        ("step_start", "c"),
        ("call", "c", {"n": 1}),
        ("step_end", "c"),
    ]


@pytest.mark.parametrize("way", ["walk", "crowd"])
def test_a_nested_run_that_is_cancelled_has_its_end_told(way: str):
    """R17, R27: exactly one end for every beginning."""
    attended = {"listening": True, "announcing": True}
    seen: list[Any] = []
    if way == "walk":
        walk = walked(SUB, PAIR, attended=attended)
        seen = walk.to_the_end({"a": RunCancelled("token")})
    else:
        crowd = crowded(SUB, PAIR, attended=attended)
        while crowd.began:
            [name] = crowd.began
            asks = crowd.asks(name)
            seen.append(asks)
            crowd.began = crowd.err(name, RunCancelled("token")) if asks[0] == "call" else crowd.ok(name)
    assert [one[:2] for one in seen] == [
        ("step_start", "sub"),
        ("flow_start", "inner/sub"),
        ("step_start", "sub/a"),
        ("call", "a"),
        ("step_end", "sub/a"),
        ("flow_end", "inner/sub"),
        ("step_end", "sub"),
    ]


def test_a_nested_run_that_was_stopped_before_its_first_step_has_its_end_told():
    """R17, R27: the run was cancelled after the beginning of the nested one had been told."""
    crowd = crowded(SUB, PAIR, attended={"listening": True, "announcing": True})
    crowd.ok("sub")
    assert crowd.asks("sub") == ("flow_start", "inner/sub")
    crowd.cancel(RunCancelled("token"))

    assert crowd.ok("sub") == ["sub"]
    assert crowd.asks("sub") == ("flow_end", "inner/sub")
    assert crowd.ok("sub") == ["sub"]
    assert crowd.asks("sub") == ("step_end", "sub")
    crowd.ok("sub")
    assert statuses(crowd.concluded()) == {"sub": "cancelled"}
    assert nested_of(crowd.run).status == "cancelled"


def test_the_steps_inside_are_saved_and_then_the_step_around_them():
    """R31: each one by itself, so that a resume finds how far a sub-flow came."""
    walk = walked([a_sub_step("sub", "inner", output_mapping={"x": "b_out"})], PAIR, attended={"saving": True})
    seen = walk.to_the_end({"a": {"a_out": 1}, "b": {"b_out": 2}})

    assert [one for one in seen if one[0] == "save"] == [
        ("save", "sub/a", {"a_out": 1}),
        ("save", "sub/b", {"b_out": 2}),
        ("save", "sub", {"x": 2}),
    ]


def test_the_tools_inside_are_looked_up_and_the_sub_flow_is_not():
    """R27, R29: what has a key is a call."""
    walk = walked(SUB, PAIR, attended={"caching": True})

    assert walk.asks == ("look up", "a", None)
    assert walk.ok({"a_out": 1}) == ("look up", "b", None)
    assert walk.ok(Lead("flight")) == ("call", "b", {"n": 1})
    assert walk.ok({"b_out": 2}) == ("settle", {"b_out": 2})


class Remembered:
    """What a store holds: outcomes by the key of a run, and how often steps have begun."""

    def __init__(self, outcomes: Mapping[tuple[str, ...], Mapping[str, dict[str, Any]]], attempts: int = 1) -> None:
        self.outcomes = outcomes
        self.begun = attempts

    def attempts(self, run: Run, step: PlannedStep) -> int:
        return self.begun

    def fill(self, nested: Run) -> None:
        for step_id, values in self.outcomes.get(nested.key, {}).items():
            nested.resumed = True
            nested.slots[nested.plan.names[step_id] + 1] = values


@pytest.mark.parametrize("way", [Walk, Crowd])
def test_a_sub_flow_that_is_resumed_goes_on_where_it_was(way: Any):
    """R27, R32: in its own position; what was committed inside does not run again."""
    middle = a_flow("middle", [a_step("c"), a_sub_step("deep", "inner", "c")])
    plan = a_plan([a_sub_step("sub", "middle")], TOOLS, flows=[middle, PAIR])
    run = a_run(plan, {"n": 1}, resumed=True)
    run.past = Remembered({("sub",): {"c": {"c_out": 5}}, ("sub", "deep"): {"a": {"a_out": 6}}})
    resumed = way(run)
    if way is Walk:
        assert resumed.asks == ("call", "b", {"n": 1})
        resumed.ok({"b_out": 7})
    else:
        assert resumed.began == ["sub/deep/b"]
        resumed.ok("sub/deep/b", {"b_out": 7})
        resumed.concluded()

    assert run.final_output == {"n": 1, "c_out": 5, "a_out": 6, "b_out": 7}


def test_a_resumed_step_goes_on_with_the_attempt_that_it_had_begun():
    """R27, R32: what an earlier attempt left in the store is not taken for the later one's."""
    plan = a_plan([a_sub_step("sub", "inner", retry=AGAIN)], TOOLS, flows=[PAIR])
    run = a_run(plan, {"n": 1}, resumed=True)
    run.past = Remembered(
        {("sub",): {"a": {"a_out": 1}, "b": {"b_out": 1}}, ("sub#2",): {"a": {"a_out": 2}}}, attempts=2
    )
    walk = Walk(run)

    assert walk.asks == ("call", "b", {"n": 1})
    walk.ok({"b_out": 3})
    assert run.final_output == {"n": 1, "a_out": 2, "b_out": 3}
    assert run.details[0].retries == 1


def test_a_resumed_step_has_no_more_attempts_than_its_policy_allows():
    """R20, R27, R32: those that had begun before count; a fallback has its own."""
    plan = a_plan([a_sub_step("sub", "inner", retry=AGAIN, on_error="fallback:c")], TOOLS, flows=[PAIR])
    run = a_run(plan, {"n": 1}, resumed=True)
    run.past = Remembered({("sub#2",): {"a": {"a_out": 2}}}, attempts=2)
    walk = Walk(run)

    assert walk.asks == ("call", "b", {"n": 1})
    assert walk.err(OSError("down")) == ("call", "c", {"n": 1})
    walk.err(OSError("busy"))
    walk.ok({"c_out": 3})
    assert (run.status, run.details[0].retries) == ("ok", 2)


# ---- several at a time


def test_steps_inside_and_outside_run_side_by_side():
    """R3, R4: a step that runs a sub-flow holds no place itself."""
    crowd = crowded([*SUB, a_step("c")], SIDE_BY_SIDE, limit=3)

    assert crowd.began == ["sub/a", "sub/b", "c"]
    assert crowd.ok("sub/b", {"b_out": 2}) == []
    assert crowd.ok("c", {"c_out": 3}) == []
    assert crowd.ok("sub/a", {"a_out": 1}) == []
    assert crowd.concluded().final_output == {"n": 1, "a_out": 1, "b_out": 2, "c_out": 3}


def test_the_places_of_the_run_are_shared_with_what_is_nested_in_it():
    """R4: N calls of one run at a time, wherever they are."""
    steps = [a_sub_step(name, "inner", output_mapping={name: "a_out"}) for name in ("one", "two")]
    crowd = crowded(steps, SIDE_BY_SIDE, limit=3)

    assert crowd.began == ["one/a", "one/b", "two/a"]
    assert crowd.ok("one/a", {"a_out": 1}) == ["two/b"]


def test_a_sub_flow_that_finds_no_free_place_waits_for_one():
    """R4: it has begun and is not over, though nothing of it is on its way."""
    steps = [a_step("c"), a_sub_step("sub", "inner")]
    crowd = crowded(steps, SIDE_BY_SIDE, limit=1)
    two = crowded(
        [a_sub_step(name, "inner", output_mapping={name: "a_out"}) for name in ("one", "two")], SIDE_BY_SIDE, limit=2
    )

    assert crowd.began == ["c"]
    assert two.began == ["one/a", "one/b"]
    assert two.ok("one/a", {"a_out": 1}) == ["two/a"]
    assert two.ok("one/b", {"b_out": 1}) == ["two/b"]
    two.ok("two/a", {"a_out": 2})
    two.ok("two/b", {"b_out": 2})
    assert two.concluded().final_output == {"n": 1, "one": 1, "two": 2}


def test_a_dependent_of_a_sub_flow_starts_when_the_last_step_inside_has_ended():
    """R3, R27: and reads what it gave, through flows in flows."""
    middle = a_flow("middle", [a_sub_step("deep", "inner")])
    last = a_tool("last", ["a_out", "b_out"], ["done"])
    crowd = crowded([a_sub_step("sub", "middle"), a_step("last", "sub")], middle, SIDE_BY_SIDE, tools=[*TOOLS, last])

    assert crowd.began == ["sub/deep/a", "sub/deep/b"]
    assert crowd.ok("sub/deep/b", {"b_out": 2}) == []
    assert crowd.ok("sub/deep/a", {"a_out": 1}) == ["last"]
    assert crowd.asks("last") == ("call", "last", {"a_out": 1, "b_out": 2})


def test_a_sub_flow_that_is_tried_again_begins_anew_above_limit_1():
    """R20, R27: the schedule of the first attempt is over."""
    crowd = crowded([a_sub_step("sub", "inner", retry=AGAIN)], SIDE_BY_SIDE)

    assert crowd.err("sub/a", OSError("busy")) == []
    assert crowd.doomed() == ["sub/b"]
    assert crowd.err("sub/b", RunCancelled("surplus")) == ["sub/a", "sub/b"]
    crowd.ok("sub/a", {"a_out": 1})
    crowd.ok("sub/b", {"b_out": 2})
    assert crowd.concluded().final_output == {"n": 1, "a_out": 1, "b_out": 2}
    assert crowd.run.details[0].retries == 1


def test_a_failure_outside_dooms_what_runs_inside_a_later_step():
    """R19: superfluous is superfluous, however deep."""
    middle = a_flow("middle", [a_sub_step("deep", "inner")])
    crowd = crowded([a_step("c"), a_sub_step("sub", "middle")], middle, SIDE_BY_SIDE)

    assert crowd.err("c", OSError("down")) == []
    assert crowd.doomed() == ["sub/deep/a", "sub/deep/b"]
    crowd.err("sub/deep/a", RunCancelled("surplus"))
    crowd.ok("sub/deep/b", {"b_out": 1})
    run = crowd.concluded()
    assert statuses(run) == {"c": "failed", "sub": "cancelled"}
    assert run.details[1].surplus
    assert nested_of(run).status == "cancelled"


def test_what_only_waits_for_a_place_inside_a_superfluous_step_never_starts():
    """R19: it is closed with the run that it is nested in."""
    crowd = crowded([a_step("c"), a_sub_step("sub", "inner")], SIDE_BY_SIDE, limit=2)
    assert crowd.began == ["c", "sub/a"]
    crowd.err("c", OSError("down"))

    assert crowd.doomed() == ["sub/a"]
    assert crowd.err("sub/a", RunCancelled("surplus")) == []
    assert statuses(crowd.concluded()) == {"c": "failed", "sub": "cancelled"}
    assert statuses(nested_of(crowd.run)) == {"a": "cancelled", "b": None}


def test_a_sub_flow_that_never_got_a_place_is_closed_with_the_run():
    """R19, R23: it has begun, and ends as cancelled."""
    for how in ("failure", "cancel"):
        crowd = crowded([a_step("c"), a_step("a"), a_sub_step("sub", "inner")], a_flow("inner", [a_step("b")]), limit=2)
        assert crowd.began == ["c", "a"]
        if how == "failure":
            crowd.err("c", OSError("down"))
        else:
            crowd.cancel(RunCancelled("token"))
            crowd.err("c", RunCancelled("token"))
        crowd.ok("a", {"a_out": 1})
        run = crowd.concluded()
        assert run.status == ("failed" if how == "failure" else "cancelled")
        assert run.status_of(2) in (None, "cancelled")


def test_cancelling_the_run_dooms_everything_inside():
    """R23: and nothing more starts, outside or inside."""
    crowd = crowded([a_step("c"), *SUB], PAIR)

    assert crowd.cancel(RunCancelled("token")) == []
    assert crowd.doomed() == ["c", "sub/a"]
    crowd.err("sub/a", RunCancelled("token"))
    crowd.err("c", RunCancelled("token"))
    assert statuses(crowd.concluded()) == {"c": "cancelled", "sub": "cancelled"}
    assert statuses(nested_of(crowd.run)) == {"a": "cancelled", "b": None}


def test_a_step_inside_that_is_told_to_end_ends_the_whole_run():
    """R23, R27: the end goes outwards through the steps around it."""
    crowd = crowded([a_step("c"), *SUB], SIDE_BY_SIDE)

    assert crowd.err("sub/a", RunCancelled("interrupt")) == []
    assert crowd.doomed() == ["sub/b"]
    crowd.err("sub/b", RunCancelled("interrupt"))
    assert crowd.doomed() == ["c"]
    crowd.err("c", RunCancelled("interrupt"))
    run = crowd.concluded()
    assert statuses(run) == {"c": "cancelled", "sub": "cancelled"}
    assert run.cancelled is not None
    assert run.cancelled.reason == "interrupt"


def test_giving_up_closes_nested_runs_too():
    """R17: what has to be settled or told inside still is; what was done stays saved."""
    attended = {"caching": True, "saving": True, "announcing": True, "listening": True}
    crowd = crowded(SUB, SIDE_BY_SIDE, attended=attended)
    going = crowd.began
    while going and (asks := crowd.asks(going[0]))[0] != "look up":
        going = [*crowd.ok(going[0]), *going[1:]]
    assert sorted(going) == ["sub/a", "sub/b"] or asks[0] == "look up"
    crowd.ok("sub/a", Lead("flight"))
    assert crowd.asks("sub/a")[0] == "call"

    going = crowd.give_up(RunCancelled("interrupt"))
    told = []
    while going:
        told.append(crowd.asks(going[0]))
        going = [*crowd.ok(going[0]), *going[1:]]
    assert ("settle", None) in told
    assert told[-2:] == [("flow_end", "inner/sub"), ("step_end", "sub")]
    assert statuses(crowd.concluded()) == {"sub": "cancelled"}


def test_a_limit_of_the_step_cancels_what_runs_inside_and_not_the_run():
    """R22, R27: the step fails, and the run goes on with its policy."""
    step = a_sub_step("sub", "inner", timeout_seconds=1.0, on_error="skip")
    crowd = crowded([step, a_step("c", "sub")], SIDE_BY_SIDE)

    assert crowd.asks("sub/a") == ("invoke", "a", {"n": 1}, 1.0, None)
    assert crowd.ok("sub/a", {"a_out": 1}, after_s=1.0) == []
    assert crowd.doomed() == ["sub/b"]
    assert crowd.err("sub/b", RunCancelled("deadline")) == ["c"]
    crowd.ok("c", {"c_out": 1})
    assert statuses(crowd.concluded()) == {"sub": "skipped", "c": "ok"}
    assert isinstance(error_of(crowd.run), ToolTimeoutError)


@pytest.mark.parametrize("limit", [1, 2, 16])
def test_walking_and_scheduling_nested_runs_leave_the_same_facts_behind(limit: int):
    """R1, R27: flows in flows, one of which fails and is skipped, in plan order and in the opposite one."""
    middle = a_flow("middle", [a_sub_step("deep", "inner", on_error="skip"), a_step("c")])
    inner = a_flow("inner", [a_step("a"), a_step("b")], on_failure="finish")
    plan = a_plan(
        [a_sub_step("sub", "middle"), a_step("c2")], [*TOOLS, a_tool("c2", ["n"], ["z"])], flows=[middle, inner]
    )
    replies: dict[str, Any] = {"a": {"a_out": 1}, "b": OSError("down"), "c": {"c_out": 3}, "c2": {"z": 4}}
    walk = Walk(a_run(plan, {"n": 1}))
    walk.to_the_end(replies)
    crowd = Crowd(a_run(plan, {"n": 1}), limit)
    going = list(crowd.began)
    while going:
        name = going.pop()
        reply = replies[name.rpartition("/")[2]]
        going += crowd.err(name, reply) if isinstance(reply, Exception) else crowd.ok(name, reply)

    assert walk.run.final_output == {"n": 1, "c_out": 3, "z": 4}
    assert facts(crowd.concluded()) == facts(walk.run)


def test_a_linear_flow_may_hold_sub_flows():
    """R27: its steps are called by their positions."""
    walk = walked([FlowStep(tool_name="c"), FlowStep(flow_name="inner")], PAIR)

    assert walk.ok({"c_out": 1}) == ("call", "a", {"n": 1})
    walk.ok({"a_out": 1})
    walk.ok({"b_out": 1})
    assert walk.run.status == "ok"
    assert nested_of(walk.run, "1").path == ("1",)
