"""The two ends of a run: its input taken in, its slots folded into an output and a status."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from chainweaver import FlowStep
from chainweaver._execution import Collision, RunCancelled, summarize
from chainweaver._execution.conclude import merged_context
from chainweaver.exceptions import OutputMappingError, SchemaRefPolicyError, SchemaValidationError
from tests.execution.kit import Crowd, Walk, a_plan, a_run, a_step, a_tool, one_step, statuses

DOUBLE = a_tool("double", ["n"], ["m"])
HERE = __name__


class Order(BaseModel):
    n: int
    unit: str = "kg"
    hidden: int = Field(default=7, exclude=True)


class OnlyN(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int


class Small(BaseModel):
    m: int = Field(lt=10)


class Unready(BaseModel):
    n: int

    def model_post_init(self, context: Any) -> None:
        raise RuntimeError("not ready")


def walked(initial: dict[str, Any], *replies: Any, tool: Any = DOUBLE, **flow: Any) -> Walk:
    walk = Walk(a_run(one_step(tool, flow=flow), initial))
    for reply in replies:
        walk.err(reply) if isinstance(reply, BaseException) else walk.ok(reply)
    return walk


# ---- the input


def test_validated_input_values_overlay_the_given_ones():
    """R8: coerced values and filled defaults enter the context, unknown keys stay, excluded fields stay out."""
    walk = walked({"n": "4", "other": [1]}, {"m": 8}, input_schema_ref=f"{HERE}:Order")

    assert walk.run.final_output == {"n": 4, "other": [1], "unit": "kg", "m": 8}


def test_the_result_shows_what_was_given():
    """R8: the context means the validated values, the trace shows the given ones."""
    walk = walked({"n": "4"}, {"m": 8}, input_schema_ref=f"{HERE}:Order")

    assert walk.run.given == {"n": "4"}


def test_an_input_that_does_not_fit_is_recorded_and_nothing_starts():
    """R16: the executor asks `input_error` before it starts the run."""
    run = a_run(one_step(DOUBLE, flow={"input_schema_ref": f"{HERE}:OnlyN"}), {"n": 1, "more": 2})
    error = run.input_error

    assert isinstance(error, SchemaValidationError)
    assert (error.tool_name, error.step_index, error.context) == ("flow", -1, "flow input")
    assert error.detail == "more: Extra inputs are not permitted"
    assert error.__cause__ is not None
    assert run.slots[0] == {"n": 1, "more": 2}


def test_a_validator_that_raises_refuses_the_input():
    """R16: whatever the schema of the input raises is recorded."""
    run = a_run(one_step(DOUBLE, flow={"input_schema_ref": f"{HERE}:Unready"}), {"n": 1})

    assert isinstance(run.input_error, SchemaValidationError)
    assert run.input_error.detail == "RuntimeError: not ready"


def test_an_input_schema_that_cannot_be_found_is_what_the_record_says():
    """R16: an unresolvable reference refuses the input with its own error."""
    run = a_run(one_step(DOUBLE, flow={"input_schema_ref": f"{HERE}:Nobody"}), {"n": 1})

    assert isinstance(run.input_error, SchemaRefPolicyError)
    assert run.input_error.ref == f"{HERE}:Nobody"


def test_the_input_is_shown_by_the_capture_of_the_run():
    """R36: a summary keeps no object of the caller."""
    run = a_run(one_step(DOUBLE), {"n": 1, "rows": [1, 2]}, capture=summarize)

    assert run.given == {"n": 1, "rows": "list[2]"}
    assert run.slots[0] == {"n": 1, "rows": [1, 2]}


# ---- the output


def test_the_final_output_is_the_merged_context():
    """R13: without named outputs everything is in it, dynamic parameters apart."""
    plan = one_step(DOUBLE, flow={"dynamic_params": ("n",)})
    walk = Walk(a_run(plan, {"x": 1}, dynamic={"n": 4}))
    walk.ok({"m": 8})

    assert walk.run.final_output == {"x": 1, "m": 8}


def test_named_outputs_are_projected():
    """R13: `Flow.outputs` names the keys and their order."""
    walk = walked({"n": 4, "x": 1}, {"m": 8}, outputs=["m", "x"])

    assert list((walk.run.final_output or {}).items()) == [("m", 8), ("x", 1)]


def test_a_named_output_that_nobody_wrote_fails_the_run():
    """R13: the steps did their part; the record of the output says what is missing."""
    walk = walked({"n": 4}, {"m": 8}, outputs=["total"])

    assert walk.run.status == "failed"
    assert isinstance(walk.run.output_error, OutputMappingError)
    assert walk.run.final_output is None
    assert walk.run.failures == []


def test_the_output_schema_validates_and_does_not_project():
    """R13: values and keys stay as they are."""
    walk = walked({"n": 4}, {"m": 8}, output_schema_ref=f"{HERE}:Small")

    assert walk.run.final_output == {"n": 4, "m": 8}
    assert walk.run.status == "ok"


def test_an_output_that_does_not_fit_fails_the_run():
    """R13, R16: the error stands after the last step."""
    walk = walked({"n": 4}, {"m": 80}, output_schema_ref=f"{HERE}:Small")
    error = walk.run.output_error

    assert walk.run.status == "failed"
    assert isinstance(error, SchemaValidationError)
    assert (error.step_index, error.context) == (1, "flow output")
    assert error.__cause__ is not None
    assert merged_context(walk.run) == {"n": 4, "m": 80}, "the values reached stay readable"


def test_a_context_that_does_not_fit_fails_the_run_before_its_output():
    """R16: `context_schema_ref` holds for the whole context."""
    walk = walked({"n": 4}, {"m": 80}, context_schema_ref=f"{HERE}:Small", outputs=["n"])

    assert isinstance(walk.run.output_error, SchemaValidationError)
    assert walk.run.output_error.context == "flow context"
    fits = walked({"n": 4}, {"m": 8}, context_schema_ref=f"{HERE}:Small", outputs=["n"])
    assert fits.run.final_output == {"n": 4}


def test_an_output_schema_that_cannot_be_found_fails_the_run_at_its_end():
    """R16: what ran before keeps its records."""
    walk = walked({"n": 4}, {"m": 8}, output_schema_ref=f"{HERE}:Nobody")

    assert walk.run.status == "failed"
    assert isinstance(walk.run.output_error, SchemaRefPolicyError)
    assert statuses(walk.run) == {"0": "ok"}


def test_collisions_are_found_around_steps_that_gave_nothing():
    """R11, R12: a skipped step merges nothing and collides with nothing."""
    tools = [a_tool("one", ["n"], ["n"]), a_tool("two", ["n"], ["n"]), a_tool("three", ["n"], ["m"])]
    steps = [FlowStep(tool_name="one", on_error="skip"), FlowStep(tool_name="two"), FlowStep(tool_name="three")]
    walk = Walk(a_run(a_plan(steps, tools), {"n": 4}))
    walk.err(OSError("down"))
    walk.ok({"n": 5})
    walk.ok({"m": 6})

    assert walk.run.final_output == {"n": 5, "m": 6}
    assert walk.run.collisions == [Collision(1, "two", ("n",))]


def test_a_failed_run_keeps_what_it_reached():
    """R13: no final output, a partial one."""
    tools = [DOUBLE, a_tool("fail", ["m"], ["x"])]
    plan = a_plan([FlowStep(tool_name="double"), FlowStep(tool_name="fail")], tools)
    walk = Walk(a_run(plan, {"n": 4}))
    walk.ok({"m": 8})
    walk.err(OSError("down"))

    assert walk.run.status == "failed"
    assert walk.run.final_output is None
    assert merged_context(walk.run) == {"n": 4, "m": 8}


def test_a_cancelled_run_keeps_what_it_reached():
    """R13, R17: cancelled is a status of its own."""
    walk = walked({"n": 4}, RunCancelled("token"))

    assert walk.run.status == "cancelled"
    assert merged_context(walk.run) == {"n": 4}


def test_a_failure_before_the_cancellation_decides_the_status():
    """R17: one status; the failure came first."""
    tools = [a_tool(name, ["n"], [f"{name}_out"]) for name in "ab"]
    run = Crowd(a_run(a_plan([a_step("a"), a_step("b")], tools, on_failure="finish"), {"n": 1}))
    run.err("a", OSError("down"))
    run.cancel(RunCancelled("token"))
    run.err("b", RunCancelled("token"))

    assert run.concluded().status == "failed"


def test_with_finish_the_values_of_all_that_ran_are_reached():
    """R19: nothing is set aside when nothing is barred."""
    tools = [a_tool(name, ["n"], [f"{name}_out"]) for name in "ab"]
    walk = Walk(a_run(a_plan([a_step("a"), a_step("b")], tools, on_failure="finish"), {"n": 1}))
    walk.err(OSError("down"))
    walk.ok({"b_out": 1})

    assert statuses(walk.run) == {"a": "failed", "b": "ok"}
    assert merged_context(walk.run) == {"n": 1, "b_out": 1}


def test_a_trace_id_is_made_when_somebody_asks_and_stays():
    """One run has one id; a run that goes on has the one it had."""
    made: list[str] = []
    run = a_run(one_step(DOUBLE), {"n": 1})
    run.new_id = lambda: made.append("x") or f"{len(made)}" * 32  # type: ignore[func-returns-value]  # counts calls
    assert made == []
    assert run.trace_id() == run.trace_id() == "1" * 32
    assert a_run(one_step(DOUBLE), {"n": 1}).trace_id("known") == "known"


def test_two_who_ask_for_the_trace_id_at_a_time_get_the_same_one():
    """R1: a tool and a listener may ask from two threads; the second one asks here while the first id is being made."""
    run, told = a_run(one_step(DOUBLE), {"n": 1}), []

    def new_id() -> str:
        if not told:
            told.append("")
            told[0] = run.trace_id()
            return "first"
        return "second"

    run.new_id = new_id
    assert run.trace_id() == told[0] == "second"
