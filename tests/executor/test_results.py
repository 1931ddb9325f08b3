"""Results: made when somebody looks, kept when they travel, and honest about what went wrong."""

from __future__ import annotations

import copy
import json
import math
import pickle
import threading
from datetime import timezone
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, create_model

from chainweaver import (
    CancellationToken,
    DAGFlowStep,
    ExecutionResult,
    FlowCancelledError,
    FlowExecutionError,
    FlowExecutor,
    FlowStep,
    RetryPolicy,
    SchemaValidationError,
    StepRecord,
    Tool,
)
from tests.executor.kit import Calls, Number, Out, chain, dag, linear


class Loose(BaseModel):
    value: Any = None


def returned(value: Any, **facts: Any) -> ExecutionResult:
    """The result of a flow whose one step returns this value."""
    made = Calls().tool("give", lambda given: {"value": value}, output_schema=Loose)
    flow = linear(FlowStep(tool_name="give"), **facts)
    return FlowExecutor(tools=[made], flows=[flow]).execute_flow("flow", {"n": 1})


def failed() -> ExecutionResult:
    """A retry, a skip, a fallback, and then a step that fails."""
    calls = Calls()

    def refuse(given: Any) -> Any:
        raise KeyError(given.n)

    steps = [
        DAGFlowStep(step_id="first", tool_name="a", output_mapping={"x": "out"}),
        DAGFlowStep(step_id="skipped", tool_name="bad", depends_on=["first"], on_error="skip"),
        DAGFlowStep(
            step_id="saved", tool_name="bad", depends_on=["skipped"], on_error="fallback:a", output_mapping={"y": "out"}
        ),
        DAGFlowStep(
            step_id="last",
            tool_name="bad",
            depends_on=["saved"],
            retry=RetryPolicy(max_retries=1, backoff_seconds=0),
        ),
        DAGFlowStep(step_id="never", tool_name="a", depends_on=["last"]),
    ]
    executor = FlowExecutor(tools=[calls.tool("a"), calls.tool("bad", refuse)], flows=[dag(*steps)])
    return executor.execute_flow("flow", {"n": 1})


def ok() -> ExecutionResult:
    return FlowExecutor(tools=[Calls().tool(x) for x in "ab"], flows=[chain(*"ab")]).execute_flow("flow", {"n": 1})


# ---- fields


def test_a_result_tells_what_ran_and_when():
    """R17: name, version, status, input, output, ids, aware dates that are in order, and the records."""
    result = ok()
    assert (result.flow_name, result.flow_version, result.trace_schema_version) == ("flow", "0.1.0", "1")
    assert (result.status, result.success, result.dry_run, result.parent_trace_id) == ("ok", True, False, None)
    assert result.initial_input == {"n": 1}
    assert result.final_output == {"n": 1, "a_out": 2, "b_out": 3} == result.partial_output
    assert len(result.trace_id) == 32
    int(result.trace_id, 16)
    first, second = result.execution_log
    moments = [result.started_at, first.started_at, first.ended_at, second.started_at, second.ended_at, result.ended_at]
    assert moments == sorted(moments)
    assert {moment.tzinfo for moment in moments} == {timezone.utc}
    assert math.isclose(
        (result.ended_at - result.started_at).total_seconds() * 1e3, result.total_duration_ms, abs_tol=0.01
    )
    assert [(record.step_index, record.step_id, record.tool_name, record.lane) for record in result.execution_log] == [
        (0, "0", "a", "sync"),
        (1, "1", "b", "sync"),
    ]


def test_a_field_that_was_looked_at_stays_what_it_is():
    """Results: what is made on first access is made once, whoever asks first."""
    result = ok()
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.append(id(result.execution_log))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 1
    assert result.trace_id == result.trace_id
    assert result.partial_output is result.partial_output


def test_a_failure_tells_what_became_of_each_step():
    """R16: skipped, saved by its fallback, failed after a retry; what never began has no record."""
    result = failed()
    assert (result.status, result.success, result.final_output) == ("failed", False, None)
    assert result.partial_output == {"n": 1, "x": 2, "y": 2}
    log = {record.step_id: record for record in result.execution_log}
    assert list(log) == ["first", "skipped", "saved", "last"]
    assert {step: (record.status, record.success) for step, record in log.items()} == {
        "first": ("ok", True),
        "skipped": ("skipped", False),
        "saved": ("ok", True),
        "last": ("failed", False),
    }
    assert (log["saved"].tool_name, log["saved"].fallback_tool_name) == ("bad", "a")
    assert (log["last"].retry_count, len(log["last"].retry_errors)) == (1, 1)
    assert (log["last"].error_type, log["last"].error_code, log["last"].error_cause) == (
        "FlowExecutionError",
        "E006",
        "KeyError",
    )


def test_a_record_is_found_by_the_id_of_its_step():
    """Results: `step` names what there is when there is no such record."""
    result = failed()
    assert result.step("saved") is result.execution_log[2]
    with pytest.raises(
        KeyError, match=r"No record of step 'never'; there are records of: first, skipped, saved, last\."
    ):
        result.step("never")


def test_a_field_that_does_not_exist_is_an_attribute_error():
    """Results: making fields on demand hides no typing mistake."""
    with pytest.raises(AttributeError, match="finaloutput"):
        ok().finaloutput  # type: ignore[attr-defined]  # the mistake under test


# ---- raising


def test_a_failed_result_raises_its_error_with_the_original_behind_it():
    """R16: the failing step lowest in plan order, and the tool's own exception as the cause."""
    result = failed()
    with pytest.raises(FlowExecutionError, match="Tool 'bad' failed at step 3: KeyError: 1") as caught:
        result.raise_for_failure()
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.__cause__.__traceback__ is not None


def test_a_result_that_is_ok_returns_itself():
    """Results: so that calls can be chained."""
    result = ok()
    assert result.raise_for_failure() is result


@pytest.mark.parametrize(
    "travel", [copy.copy, copy.deepcopy, lambda one: one.model_copy(), lambda one: one.model_copy(deep=True)]
)
def test_a_copy_raises_the_same_error(travel: Any):
    """R16: a copy in the same process still knows the original exception."""
    with pytest.raises(FlowExecutionError) as caught:
        travel(failed()).raise_for_failure()
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("travel", [lambda one: pickle.loads(pickle.dumps(one)), lambda one: read(one)])
def test_a_result_from_elsewhere_raises_what_was_recorded(travel: Any):
    """R16: where there is no exception any more, its text is raised."""
    with pytest.raises(FlowExecutionError, match="KeyError: 1"):
        travel(failed()).raise_for_failure()


def test_a_cancelled_result_raises_that_it_was_cancelled():
    """R17: read back from JSON as in the process."""
    token = CancellationToken()
    token.cancel()
    executor = FlowExecutor(tools=[Calls().tool("a")], flows=[chain("a")])
    with pytest.raises(FlowCancelledError) as caught:
        executor.execute_flow("flow", {"n": 1}, cancel_token=token)
    for result in (caught.value.result, read(caught.value.result)):
        assert result.status == "cancelled"
        with pytest.raises(FlowCancelledError):
            result.raise_for_failure()


def test_a_border_that_was_refused_is_what_a_result_from_elsewhere_raises():
    """R16: also where no step failed."""
    flow = chain("a", output_schema_ref="tests.executor.test_results:Strict")
    result = FlowExecutor(tools=[Calls().tool("a")], flows=[flow]).execute_flow("flow", {"n": 1})
    with pytest.raises(SchemaValidationError):
        result.raise_for_failure()
    with pytest.raises(FlowExecutionError, match="missing: Field required"):
        read(result).raise_for_failure()


class Strict(BaseModel):
    missing: int


# ---- JSON


def read(result: ExecutionResult) -> ExecutionResult:
    """The result by way of its JSON."""
    return ExecutionResult.model_validate_json(result.model_dump_json())


@pytest.mark.parametrize("make", [ok, failed])
def test_json_brings_everything_back(make: Any):
    """Results: every field of the result and of its records survives."""
    result = make()
    again = read(result)
    assert again == result
    assert again.execution_log == result.execution_log
    assert read(again) == again
    assert again.model_dump_json() == result.model_dump_json()


class Shy:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def circle() -> list[Any]:
    one: list[Any] = []
    one.append(one)
    return one


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("inf"), math.inf),
        ("half \ud800 pair", "half \\ud800 pair"),
        (b"\xff\x00", None),
        ({1: "a", (1, 2): "b"}, None),
        ({1, 2}, [1, 2]),
        (lambda: 1, None),
        (threading.Lock(), None),
        (Shy(), "<Shy>"),
        (2**80, 2**80),
        (1 + 2j, "1+2j"),
        (circle(), None),
        (Number(n=3), {"n": 3}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_value_can_be_written(value: Any, shown: Any):
    """W8: what JSON has no form for is shown as text, and the rest of the trace is there."""
    result = returned(value)
    text = result.model_dump_json()
    text.encode("utf-8")
    again = ExecutionResult.model_validate_json(text)
    assert again.status == "ok"
    for values in (again.final_output, again.partial_output, again.execution_log[0].outputs):
        assert values is not None
        if shown is not None:
            assert values["value"] == shown
    assert json.loads(text)["flow_name"] == "flow"


def test_no_number_is_still_no_number_after_json():
    """Results: NaN is written as pydantic reads it, not as null."""
    again = read(returned(float("nan")))
    for values in (again.final_output, again.partial_output, again.execution_log[0].outputs):
        assert values is not None
        assert math.isnan(values["value"])


def test_an_odd_error_text_can_be_written():
    """Results: what a tool says when it fails may hold anything."""

    def refuse(given: Any) -> Any:
        raise OSError("name \udce9")

    made = Calls().tool("a", refuse)
    flow = linear(FlowStep(tool_name="a", retry=RetryPolicy(max_retries=1, backoff_seconds=0)))
    result = FlowExecutor(tools=[made], flows=[flow]).execute_flow("flow", {"n": 1})
    assert "name \\udce9" in str(read(result).execution_log[0].error_message)


def test_python_values_stay_themselves_in_a_python_dump():
    """R14: only JSON has to make do."""
    lock = threading.Lock()
    dumped = returned(lock).model_dump()
    assert dumped["final_output"]["value"] is lock
    assert set(dumped) == set(ExecutionResult.model_fields)


def test_what_is_not_a_result_is_refused():
    """Results: reading checks the shape."""
    with pytest.raises(ValidationError):
        ExecutionResult.model_validate_json("{}")


# ---- copies and comparisons


@pytest.mark.parametrize("make", [ok, failed])
@pytest.mark.parametrize(
    "travel",
    [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one)), lambda one: one.model_copy(deep=True)],
)
def test_a_copy_is_equal(make: Any, travel: Any):
    """Results: copied and pickled before anything was looked at."""
    result = make()
    again = travel(result)
    assert again == result
    assert type(again) is ExecutionResult
    assert again.model_dump() == result.model_dump()
    assert again.execution_log[0].outputs == result.execution_log[0].outputs


def test_a_deep_copy_shares_nothing():
    """Results: changing it changes nothing about the original."""
    result = returned([1])
    again = copy.deepcopy(result)
    assert again.final_output is not None
    again.final_output["value"].append(2)
    assert result.final_output == {"n": 1, "value": [1]}


def test_two_runs_are_different_results():
    """Results: equality is that of all fields; the canonical trace is what two runs have in common."""
    one, two = ok(), ok()
    assert one != two
    assert one != "something else"
    assert one.canonical_trace() == two.canonical_trace()


def test_a_result_can_be_changed_like_a_model():
    """Results: `model_copy(update=...)` and assignment work on fields that were not made yet."""
    result = ok()
    other = result.model_copy(update={"dry_run": True})
    assert (other.dry_run, other.final_output, result.dry_run) == (True, result.final_output, False)
    result.parent_trace_id = "p"
    assert (result.parent_trace_id, result.model_dump()["parent_trace_id"]) == ("p", "p")


def test_a_result_has_no_hash():
    """Results: equal by value and changeable, as every model."""
    with pytest.raises(TypeError):
        hash(ok())


# ---- showing


def test_the_repr_is_short_and_shows_what_matters():
    """Results: name, status and output."""
    assert repr(ok()) == "ExecutionResult(flow_name='flow', status='ok', final_output={'n': 1, 'a_out': 2, 'b_out': 3})"


def test_the_repr_does_not_grow_with_the_values():
    """Results: what is long is cut, what is foreign is told by type and size, and never asked for its own text."""

    class Hostile:
        def __repr__(self) -> str:
            raise AssertionError("asked")

    tool = Tool(
        name="a",
        description="",
        input_schema=Number,
        output_schema=create_model("Big", rows=(list, ...), own=(Any, ...), text=(str, ...)),
        fn=lambda given: {"rows": [Hostile()] * 100_000, "own": Hostile(), "text": "x" * 100_000},
    )
    with FlowExecutor(tools=[tool], flows=[linear(FlowStep(tool_name="a"))]) as executor:
        shown = repr(executor.execute_flow("flow", {"n": 1}))
    assert len(shown) < 500
    assert "'own': Hostile" in shown


def test_the_html_is_a_table_without_markup_of_the_user():
    """R39: names and messages are escaped."""

    def refuse(given: Any) -> Any:
        raise ValueError("<script>alert(1)</script>")

    made = Calls().tool("a", refuse)
    result = FlowExecutor(tools=[made], flows=[chain("a", name="flow")]).execute_flow("flow", {"n": 1})
    html = result._repr_html_()
    assert html.startswith("<table>")
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_the_drawing_shows_what_happened():
    """Results: one shape per step that ran."""
    drawn = failed().to_mermaid()
    assert drawn.startswith("graph LR")
    for step in ("first", "skipped", "saved", "last"):
        assert step in drawn


def test_records_can_be_made_by_hand():
    """Results: stores and tests of others build them from a few fields."""
    result = ok()
    record = StepRecord(**{**dict(result.execution_log[0]), "cached": True})
    assert record.cached
    assert Out(**(record.outputs or {})).out == 2
    made = ExecutionResult(**{**dict(result), "execution_log": [record]})
    assert made.step("0") is record
    assert made.raise_for_failure() is made
