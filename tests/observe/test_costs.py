"""Cost profiles and reports: what counts as a call, what as a saving, and what both come to."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from chainweaver import (
    CostProfile,
    CostReport,
    ExecutionResult,
    Flow,
    FlowExecutor,
    FlowStep,
    InMemoryStepCache,
    RetryPolicy,
    StepRecord,
    tool,
)
from chainweaver.observe import cost_report

NOON = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
FLAT = CostProfile(model_call_usd=0.01, model_latency_ms_per_call=800, tool_costs={"search": 0.5, "rank": 0.25})
BY_TOKENS = CostProfile(
    input_tokens_per_call=1500,
    output_tokens_per_call=500,
    usd_per_1k_input_tokens=0.002,
    usd_per_1k_output_tokens=0.01,
)


def record(index: int, tool_name: str = "search", **facts: Any) -> StepRecord:
    """A record of a step that went well, unless `facts` say otherwise."""
    facts = {
        "step_id": str(index),
        "inputs": {},
        "outputs": {},
        "started_at": NOON + timedelta(milliseconds=10 * index),
        "ended_at": NOON + timedelta(milliseconds=10 * index + 5),
        "duration_ms": 5.0,
        **facts,
    }
    return StepRecord(step_index=index, tool_name=tool_name, **facts)


def failed(index: int, error: str = "FlowExecutionError", **facts: Any) -> StepRecord:
    return record(index, **{"success": False, "status": "failed", "error_type": error, "outputs": None, **facts})


def result(*records: StepRecord, **facts: Any) -> ExecutionResult:
    facts = {
        "flow_name": "find",
        "flow_version": "1.0.0",
        "success": True,
        "trace_id": "0" * 32,
        "started_at": NOON,
        "ended_at": NOON + timedelta(seconds=1),
        "total_duration_ms": 1000.0,
        **facts,
    }
    return ExecutionResult(execution_log=list(records), **facts)


def became(report: CostReport) -> dict[str, int]:
    """The numbers above 0 that say what became of the steps."""
    kinds = ("executed", "cached", "failed", "skipped", "passed_over", "cancelled", "surplus")
    assert sum(getattr(report, kind) for kind in kinds) == report.steps
    return {kind: count for kind in kinds if (count := getattr(report, kind))}


# ---- one step


@pytest.mark.parametrize(
    ("one", "kind", "calls", "avoided"),
    [
        (record(0), "executed", 1, 1),
        (record(0, retry_count=2), "executed", 3, 1),
        (record(0, cached=True), "cached", 0, 1),
        (failed(0), "failed", 1, 1),
        (failed(0, retry_count=1), "failed", 2, 1),
        (failed(0, "ToolTimeoutError"), "failed", 1, 1),
        (failed(0, status="skipped", skipped=True), "skipped", 1, 1),
        (record(0, status="skipped", skipped=True, outputs=None), "passed_over", 0, 0),
        (record(0, status="cancelled", success=False, outputs=None), "cancelled", 1, 0),
        (record(0, surplus=True), "surplus", 1, 0),
        (record(0, fallback_used=True, fallback_tool_name="rank"), "executed", 2, 1),
        (failed(0, fallback_used=True, fallback_tool_name="rank"), "failed", 2, 1),
    ],
)
def test_what_became_of_a_step_decides_what_it_cost_and_saved(
    one: StepRecord, kind: str, calls: int, avoided: int
) -> None:
    """Costs: a retry is another call, a cache hit is none; a model in the loop would have chosen each step that ran."""
    report = cost_report(result(one), FLAT)

    assert (became(report), report.tool_calls, report.model_calls_avoided) == ({kind: 1}, calls, avoided)


@pytest.mark.parametrize(
    "one",
    [
        failed(0, "ToolNotFoundError"),
        failed(0, "InputMappingError"),
        failed(0, "ApprovalDeniedError"),
        failed(0, "SchemaValidationError", error_message="Schema validation failed for tool 'a' at step 0 (input): n."),
    ],
    ids=lambda one: str(one.error_type),
)
def test_a_step_that_failed_before_its_call_made_none(one: StepRecord) -> None:
    """Costs: nobody pays for a tool that was not called."""
    report = cost_report(result(one, success=False, status="failed"), FLAT)

    assert (report.failed, report.tool_calls, report.tools) == (1, 0, {})


def test_a_refused_output_was_paid_for() -> None:
    """Costs: the tool had been called by then."""
    message = "Schema validation failed for tool 'a' at step 0 (output): n."
    report = cost_report(result(failed(0, "SchemaValidationError", error_message=message)), FLAT)

    assert report.tool_usd == 0.5


def test_what_a_schema_of_the_flow_refused_is_no_step() -> None:
    """Costs: records at the borders of a flow call nothing."""
    borders = [failed(-1, tool_name="find", step_id=None), failed(1, tool_name="find", step_id=None)]

    assert cost_report(result(borders[0]), FLAT).steps == 0
    assert cost_report(result(record(0), borders[1]), FLAT).steps == 1


def test_a_decision_of_a_callback_is_no_saved_call() -> None:
    """Costs: it may have asked a model; the tool that it chose is the one that was called."""
    asked = record(0, decision={"chosen": "rank", "candidates": ["search", "rank"], "by": "callback"})
    told = record(1, decision={"chosen": "search", "candidates": ["search", "rank"], "by": "default"})
    report = cost_report(result(asked, told, record(2, decision={"taken": "x"})), FLAT)

    assert (report.decisions_asked, report.model_calls_avoided) == (1, 2)
    assert {name: one.calls for name, one in report.tools.items()} == {"rank": 1, "search": 2}


# ---- what it comes to


def test_tools_are_charged_by_the_call() -> None:
    """Costs: each tool with its calls; one without a price is listed and costs nothing."""
    report = cost_report(
        result(record(0, retry_count=1), record(1, "rank"), record(2, "format"), record(3, cached=True)), FLAT
    )

    assert {name: (one.calls, one.cached, one.usd) for name, one in report.tools.items()} == {
        "search": (2, 1, 1.0),
        "rank": (1, 0, 0.25),
        "format": (1, 0, None),
    }
    assert (report.tool_calls, report.tool_usd, report.cache_usd_avoided) == (4, 1.25, 0.5)


def test_a_flat_price_is_paid_by_the_call() -> None:
    """Costs: dollars and milliseconds for each call that no model was asked for."""
    report = cost_report(result(record(0), record(1), record(2, cached=True)), FLAT)

    assert report.model_usd_avoided == pytest.approx(0.03)
    assert report.model_latency_ms_avoided == 2400
    assert report.usd_avoided == pytest.approx(0.53)
    assert report.tokens_avoided == 0


def test_tokens_have_two_prices() -> None:
    """Costs: read and written tokens apart, per thousand."""
    report = cost_report(result(record(0), record(1)), BY_TOKENS)

    assert (report.input_tokens_avoided, report.output_tokens_avoided, report.tokens_avoided) == (3000, 1000, 4000)
    assert report.model_usd_avoided == pytest.approx(3 * 0.002 + 1 * 0.01)
    assert BY_TOKENS.usd_per_call == pytest.approx(0.008)


def test_a_profile_that_says_nothing_saves_and_costs_nothing() -> None:
    """Costs: calls are counted all the same."""
    report = cost_report(result(record(0)), CostProfile())

    assert (report.model_calls_avoided, report.usd_avoided, report.tool_usd, report.tokens_avoided) == (1, 0, 0, 0)


# ---- what is nested


def test_what_a_sub_flow_ran_is_counted_and_the_step_itself_is_not() -> None:
    """R27: nested runs hang under their step, at any depth."""
    inner = result(record(0, "rank"), record(1), flow_name="inner")
    middle = result(record(0, "inner", sub_result=inner), flow_name="middle")
    report = cost_report(result(record(0), record(1, "middle", sub_result=middle, retry_count=1)), FLAT)

    assert (report.steps, report.executed, report.sub_runs, report.retries) == (3, 3, 2, 1)
    assert {name: one.calls for name, one in report.tools.items()} == {"search": 2, "rank": 1}


def test_every_item_of_a_map_is_a_call() -> None:
    """R28: the records of the items are those of the step."""
    items = result(record(0), record(1, cached=True), failed(2, status="skipped", skipped=True))
    report = cost_report(result(record(0, sub_result=items)), FLAT)

    assert (became(report), report.tool_calls) == ({"executed": 1, "cached": 1, "skipped": 1}, 2)


def test_a_fallback_for_a_sub_flow_is_a_call() -> None:
    """R21: the sub-flow failed, and a tool stood in."""
    inner = result(failed(0), flow_name="inner", success=False, status="failed")
    one = record(0, "inner", sub_result=inner, fallback_used=True, fallback_tool_name="rank")
    report = cost_report(result(one), FLAT)

    assert {name: one.calls for name, one in report.tools.items()} == {"search": 1, "rank": 1}


# ---- what a flow estimates


def governed(**estimates: Any) -> Flow:
    return Flow(name="find", version="1.0.0", description="", steps=[], governance=estimates)


def test_the_estimates_of_a_flow_count_instead_of_what_was_counted() -> None:
    """Costs: its owner may know that one step stands for several calls of a model."""
    flow = governed(estimated_model_calls_removed=5, estimated_token_savings=8000)
    report = cost_report(result(record(0)), BY_TOKENS, flow)

    assert (report.model_calls_avoided, report.calls_from, report.tokens_from) == (5, "governance", "governance")
    assert (report.input_tokens_avoided, report.output_tokens_avoided) == (6000, 2000)
    assert report.model_usd_avoided == pytest.approx(6 * 0.002 + 2 * 0.01)


def test_estimated_calls_alone_are_priced_by_the_profile() -> None:
    """Costs: tokens follow from the calls where nobody estimates them."""
    report = cost_report(result(record(0)), BY_TOKENS, governed(estimated_model_calls_removed=2))

    assert (report.tokens_avoided, report.tokens_from) == (4000, "counted")


def test_estimated_tokens_alone_are_read_where_the_profile_knows_no_call() -> None:
    """Costs: the cheaper kind, so that nothing is promised that was not saved."""
    report = cost_report(
        result(record(0)), CostProfile(usd_per_1k_input_tokens=1.0), governed(estimated_token_savings=500)
    )

    assert (report.input_tokens_avoided, report.output_tokens_avoided, report.model_calls_avoided) == (500, 0, 1)
    assert report.model_usd_avoided == 0.5


def test_a_run_that_did_not_go_well_is_credited_with_what_it_did() -> None:
    """Costs: estimates are about a run that comes to its end."""
    flow = governed(estimated_model_calls_removed=50, estimated_token_savings=10**6)
    report = cost_report(result(record(0), failed(1), success=False, status="failed"), BY_TOKENS, flow)

    assert (report.model_calls_avoided, report.calls_from, report.tokens_avoided) == (2, "counted", 4000)


def test_a_definition_of_another_flow_is_refused() -> None:
    """Costs: its estimates would be credited to the wrong run."""
    with pytest.raises(ValueError, match="is one of flow 'find', and the definition that of 'other'"):
        cost_report(result(), FLAT, Flow(name="other", description="", steps=[]))


def test_a_dry_run_costs_and_saves_nothing() -> None:
    """R26: nothing was done."""
    report = cost_report(result(record(0), record(1), dry_run=True), FLAT, governed(estimated_model_calls_removed=5))

    assert (report.steps, report.executed, report.tool_calls) == (2, 2, 0)
    assert (report.model_calls_avoided, report.usd_avoided, report.tool_usd, report.tools) == (0, 0, 0, {})


# ---- what goes in and out


def test_records_alone_make_a_report() -> None:
    """Costs: without a run there is no trace id, and the time is that of the records."""
    report = cost_report(iter([record(0), record(3, "rank")]), FLAT)

    assert (report.trace_id, report.flow_name, report.steps) == (None, None, 2)
    assert report.duration_ms == pytest.approx(35)
    assert cost_report([], FLAT).duration_ms == 0


def test_a_report_survives_json() -> None:
    """Costs: what is written is what was computed."""
    inner = result(record(0, "rank", retry_count=2), flow_name="inner")
    report = cost_report(result(record(0), record(1, "inner", sub_result=inner)), FLAT)

    assert CostReport.model_validate_json(report.model_dump_json()) == report


def test_a_result_that_was_read_from_json_has_the_same_report() -> None:
    """Costs: records are enough, nobody needs the run."""
    inner = result(record(0, "rank", retry_count=2), failed(1), flow_name="inner")
    run = result(record(0), record(1, "inner", sub_result=inner))

    assert cost_report(ExecutionResult.model_validate_json(run.model_dump_json()), FLAT) == cost_report(run, FLAT)


def test_a_report_reads_as_text() -> None:
    """Costs: for people, with every number above 0."""
    report = cost_report(
        result(record(0, retry_count=1), record(1, "format"), record(2, cached=True)),
        CostProfile(model_call_usd=0.015, model_latency_ms_per_call=900, tool_costs={"search": 0.5}),
    )

    assert str(report) == report.render()
    assert report.render() == "\n".join(
        [
            "find 1.0.0: 3 steps (2 executed, 1 cached, 1 retry)",
            "  model  3 calls avoided: 0 tokens, 0.045 USD, 2,700 ms",
            "  tools  3 calls: 1.00 USD, 0.50 USD avoided by the cache",
            "         search  2 calls, 1 cached: 1.00 USD",
            "         format  1 call: no price",
            "  took   1,000.0 ms",
        ]
    )


def test_estimates_and_dry_runs_are_told_in_the_text() -> None:
    """Costs: nobody takes an estimate for a count."""
    estimated = cost_report(result(record(0)), FLAT, governed(estimated_model_calls_removed=2))

    assert "  model  2 calls avoided as its governance estimates: " in str(estimated)
    assert str(cost_report(result(dry_run=True), FLAT)).startswith("find 1.0.0, a dry run: 0 steps\n")


@pytest.mark.parametrize(
    "facts",
    [
        {"model_call_usd": -1},
        {"usd_per_1k_input_tokens": float("nan")},
        {"usd_per_1k_output_tokens": float("inf")},
        {"input_tokens_per_call": 1.5},
        {"output_tokens_per_call": -1},
        {"model_latency_ms_per_call": "fast"},
        {"model_call_usd": True},
        {"tool_costs": {"search": -0.1}},
        {"token_price": 1},
    ],
    ids=str,
)
def test_a_profile_takes_numbers_of_at_least_nothing(facts: dict[str, Any]) -> None:
    """Costs: a typing error in a price is no price."""
    with pytest.raises(ValidationError):
        CostProfile(**facts)


def test_a_profile_is_fixed() -> None:
    """Costs: one profile serves many runs."""
    with pytest.raises(ValidationError):
        FLAT.model_call_usd = 1.0  # type: ignore[misc]


def test_a_real_run_is_counted() -> None:
    """R20, R29: retries and hits of the step cache, as an executor records them."""
    attempts = iter([False, True])

    @tool(output="found")
    def search(word: str) -> str:
        if not next(attempts):
            raise OSError("busy")
        return word

    @tool(output="ranked")
    def rank(found: str) -> str:
        return found.upper()

    retry = RetryPolicy(max_retries=1, backoff_seconds=0.0)
    flow = Flow(
        name="find",
        description="",
        steps=[FlowStep(tool_name="search", retry=retry), FlowStep(tool_name="rank")],
    )
    executor = FlowExecutor(tools=[search, rank], flows=[flow], step_cache=InMemoryStepCache())

    first = cost_report(executor.execute_flow("find", {"word": "a"}), FLAT, flow)
    second = cost_report(executor.execute_flow("find", {"word": "a"}), FLAT, flow)

    assert (became(first), first.retries, first.tool_usd) == ({"executed": 2}, 1, 1.25)
    assert (became(second), second.tool_usd, second.cache_usd_avoided) == ({"cached": 2}, 0, 0.75)
