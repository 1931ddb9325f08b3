"""Fuzzing: what should not happen is found, with the smallest input that brings it about."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_validator

from chainweaver import (
    DAGFlow,
    DAGFlowStep,
    Flow,
    FlowExecutor,
    FlowNotFoundError,
    FlowStatus,
    FlowStatusError,
    FlowStep,
    MissingExtraError,
    Tool,
    literal,
    ref,
    template,
    tool,
)
from chainweaver.testing import FlowFuzzer, FuzzReport, fake_tool, minimize_failure
from chainweaver.testing.generating import reads_of
from tests.testing.kit import order, price, total


class Bill(BaseModel):
    total: int = Field(ge=0)
    people: list[str]


@tool
def share(total: int, people: list[str]) -> float:
    return total / len(people)


@tool
def halve(n: int) -> int:
    return n // 2


def one(name: str, **facts: Any) -> Flow:
    return Flow(**{"name": "one", "description": "", "steps": [FlowStep(tool_name=name)], **facts})


def fuzz(flow: Flow | DAGFlow, *tools: Tool, examples: int = 60, **options: Any) -> FuzzReport:
    return FlowFuzzer(FlowExecutor(tools=tools), flow, **options).run(max_examples=examples)


def kinds(report: FuzzReport) -> list[str]:
    return [finding.kind for finding in report.findings]


def test_a_good_flow_has_no_findings():
    """api.md: a report says how much was tried."""
    report = fuzz(one("halve"), halve, examples=30)
    assert report.ok
    assert report.raise_for_findings() is report
    assert report.examples == 30
    assert report.runs == 30 * 5
    assert str(report) == "Flow 'one' 0.1.0: nothing in 30 inputs (seed 0)"


def test_a_failure_in_the_records_is_no_finding_unless_it_is_asked_for():
    """R16: a flow may fail, as long as it says why; otherwise the smallest failing input is told."""
    schema = f"{__name__}:Bill"
    flow = one("share", input_schema_ref=schema)
    assert fuzz(flow, share).ok
    report = fuzz(flow, share, allow_failures=False)
    [finding] = report.findings
    assert (finding.kind, finding.subject) == ("failure", "0: ZeroDivisionError")
    assert finding.input == {"total": 0, "people": []}
    with pytest.raises(AssertionError, match=r"1 finding in 60 inputs(.|\n)*division by zero(.|\n)*'people': \[\]"):
        report.raise_for_findings()


@tool
def fetch(url: str, token: str) -> str:
    return f"{url}?{10 // len(token)}"


def test_dynamic_parameters_are_passed_to_every_run():
    """R13: a flow that needs them can be fuzzed, and a failure made small."""
    flow = one("fetch", dynamic_params=["token"])
    assert fuzz(flow, fetch, dynamic_params={"token": "t"}, allow_failures=False).ok
    executor = FlowExecutor(tools=[fetch])
    found = minimize_failure(executor, flow, {"url": "there", "x": 1}, dynamic_params={"token": ""})
    assert found == {"url": ""}


def test_that_every_run_fails_is_a_finding():
    """R16: a flow may fail, but nothing was tried where it did nothing else."""
    [finding] = fuzz(one("fetch", dynamic_params=["token"]), fetch).findings
    assert (finding.kind, finding.subject, finding.way) == ("failure", "every run", "sync lane at limit 1")
    assert finding.detail == (
        "every run failed, the first with: "
        "Schema validation failed for tool 'fetch' at step 0 (input): token: Field required."
    )


def test_an_invariant_that_does_not_hold_is_found_and_shrunk():
    """api.md: user invariants; False, or an AssertionError with its text."""

    def nothing_is_lost(result: Any) -> bool:
        return bool(result.final_output["halve"] * 2 == result.initial_input["n"])

    def stays_small(result: Any) -> None:
        assert result.final_output["halve"] < 50, "too large"

    report = fuzz(one("halve"), halve, invariants=[nothing_is_lost, stays_small])
    assert {finding.subject: finding.input for finding in report.findings} == {
        "nothing_is_lost": {"n": 1}, "stays_small": {"n": 100},
    }  # fmt: skip
    assert "'stays_small' does not hold: AssertionError: too large" in {one.detail for one in report.findings}


def test_a_run_that_is_not_the_same_twice_is_found():
    """R1: non-determinism; it is not reported as a difference of lanes as well."""
    numbers = itertools.count()
    lock = threading.Lock()

    def count(inputs: Any) -> int:
        with lock:
            return inputs.n if inputs.n < 7 else next(numbers)

    report = fuzz(one("halve"), fake_tool(halve, side_effect=count))
    [finding] = report.findings
    assert (finding.kind, finding.input) == ("nondeterminism", {"n": 7})
    assert finding.way == "sync lane at limit 1, twice"
    assert finding.detail.startswith("step '0', outputs.halve: expected ")


def test_a_difference_between_lanes_is_found():
    """R1: the same on every lane."""
    import asyncio

    def look(inputs: Any) -> int:
        name = threading.current_thread().name
        return inputs.n + (inputs.n > 3 and name.startswith("chainweaver"))

    report = fuzz(one("halve"), fake_tool(halve, side_effect=look), limits=[1])
    [finding] = report.findings
    assert (finding.kind, finding.input) == ("lane_difference", {"n": 4})
    assert finding.way == "async lane at limit 1, compared with the sync lane at limit 1"
    assert asyncio.iscoroutinefunction(look) is False


def test_outputs_that_break_a_schema_are_found():
    """R10: of a tool, and of the flow."""
    fake = fake_tool(halve, side_effect=lambda inputs: inputs.n if inputs.n < 12 else "many")
    [finding] = fuzz(one("halve"), fake).findings
    assert (finding.kind, finding.subject, finding.input) == ("output_schema", "halve", {"n": 12})

    class Small(BaseModel):
        halve: int = Field(lt=20)

    globals()["Small"] = Small
    Small.__qualname__ = "Small"
    [finding] = fuzz(one("halve", output_schema_ref=f"{__name__}:Small"), halve).findings
    assert (finding.kind, finding.subject, finding.input) == ("output_schema", "one", {"n": 40})


def test_what_leaves_the_call_bare_is_a_crash():
    """R17: no result, no record."""

    def leave(inputs: Any) -> int:
        if inputs.n > 2:
            raise SystemExit(3)
        return 1

    report = fuzz(one("halve"), fake_tool(halve, side_effect=leave))
    assert [(finding.kind, finding.subject, finding.input) for finding in report.findings] == [
        ("crash", "SystemExit", {"n": 3}),
    ]
    assert report.findings[0].detail == "SystemExit: 3 left the call without a result"


def test_a_seed_brings_the_same_report_and_another_one_other_inputs():
    """api.md: .run(max_examples, seed)."""
    seen: list[list[int]] = []

    def note(inputs: Any) -> int:
        seen[-1].append(inputs.n)
        return 1

    fuzzer = FlowFuzzer(FlowExecutor(tools=[fake_tool(halve, side_effect=note)]), one("halve"))
    reports = []
    for seed in (1, 1, 2):
        seen.append([])
        reports.append(fuzzer.run(max_examples=20, seed=seed))
    assert (reports[0], seen[0]) == (reports[1], seen[1])
    assert seen[0] != seen[2]


def test_a_report_survives_json():
    """api.md: for files and for the command line."""
    report = fuzz(one("share", input_schema_ref=f"{__name__}:Bill"), share, allow_failures=False)
    assert FuzzReport.model_validate_json(report.model_dump_json()) == report


def test_inputs_follow_a_strategy_where_one_is_given():
    """api.md: strategy= instead of the schema, strategies= for single types."""
    tools = [fake_tool(price, side_effect=lambda inputs: float(len(inputs.article))), total]
    chosen = {"article": st.sampled_from(["tea", "milk"]), "count": st.integers(0, 3)}
    seen: set[tuple[str, int]] = set()

    def note(result: Any) -> None:
        seen.add((result.initial_input["article"], result.initial_input["count"]))

    assert fuzz(order(), *tools, strategy=st.fixed_dictionaries(chosen), invariants=[note]).ok
    assert seen == set(itertools.product(["tea", "milk"], range(4)))
    seen.clear()
    fuzz(order(), *tools, strategies={str: st.just("tea"), int: st.just(1)}, invariants=[note], examples=5)
    assert seen == {("tea", 1)}


def test_fuzzing_needs_the_extra(monkeypatch: pytest.MonkeyPatch):
    """api.md: E105."""
    monkeypatch.setitem(__import__("sys").modules, "hypothesis", None)
    with pytest.raises(MissingExtraError, match="needs the extra 'testing'"):
        fuzz(one("halve"), halve)


def test_a_flow_that_cannot_be_started_is_not_fuzzed():
    """R15: structural faults are raised, no findings."""
    with pytest.raises(FlowNotFoundError):
        FlowFuzzer(FlowExecutor(), "nothing").run()
    with pytest.raises(FlowStatusError):
        fuzz(one("halve", status=FlowStatus.DISABLED), halve)


class Never(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def refuse(cls, n: int) -> int:
        raise ValueError("no")


def test_a_schema_that_refuses_everything_is_told():
    """api.md: a report about no inputs would say that all is well."""
    with pytest.raises(ValueError, match="No input could be made: the validators of the schema refuse everything"):
        fuzz(one("halve", input_schema_ref=f"{__name__}:Never"), halve)


# ---- what a flow reads


@tool
def pay(amount: float, to: str = "shop", note: str = "") -> bool:
    return True


def names_of(flow: Flow | DAGFlow, *tools: Tool, flows: tuple[Flow, ...] = ()) -> dict[str, bool]:
    """Key -> whether it is required, by every reader together."""
    executor = FlowExecutor(tools=tools, flows=flows)
    found: dict[str, bool] = {}
    for read in reads_of(flow, executor.registered_tools, executor.registry):
        found[read.key] = found.get(read.key, False) or read.is_required
    return found


def test_a_flow_without_a_schema_is_given_what_its_steps_read():
    """R6: fields by name, mapped keys, defaults, templates; no literals, no outputs of earlier steps, no parameters."""
    mapping = {"amount": "total", "to": ref("shop", default="corner"), "note": template("for ${who}")}
    flow = Flow(
        name="f", description="", dynamic_params=["count"],
        steps=[
            FlowStep(tool_name="price", output_mapping={"unit": "price"}),
            FlowStep(tool_name="total", input_mapping={"price": "unit", "count": "/number"}),
            FlowStep(tool_name="pay", input_mapping=mapping),
            FlowStep(tool_name="pay", input_mapping={"amount": 1, "note": literal("x"), "to": "count"}),
        ],
    )  # fmt: skip
    assert names_of(flow, price, total, pay) == {"article": True, "number": True, "shop": False, "who": True}


def test_a_graph_is_read_by_levels():
    """R3: a sibling's output is not there yet."""
    steps = [
        DAGFlowStep(step_id="b", tool_name="total", depends_on=["a"]),
        DAGFlowStep(step_id="a", tool_name="price"),
        DAGFlowStep(step_id="c", tool_name="pay", input_mapping={"amount": "price"}),
    ]
    dag = DAGFlow(name="g", version="1", description="", steps=steps)
    assert names_of(dag, price, total, pay) == {"article": True, "price": True, "count": True}


def test_sub_flows_and_maps_are_read_through():
    """R27, R28: what the child reads; a list of what an item is."""
    inner = Flow(name="inner", description="", steps=[FlowStep(tool_name="price"), FlowStep(tool_name="total")])
    outer = Flow(
        name="outer", description="",
        steps=[
            FlowStep(tool_name="halve", map_over="numbers", input_mapping={"n": "item"}, output_mapping={"h": "halve"}),
            FlowStep(flow_name="inner"),
            FlowStep(tool_name="pay", input_mapping={"amount": "total"}),
        ],
    )  # fmt: skip
    assert names_of(outer, halve, price, total, pay, flows=(inner,)) == {
        "numbers": True,
        "article": True,
        "count": True,
    }


def test_a_sub_flow_with_a_schema_says_itself_what_it_takes():
    """R27: its schema counts, and so do its outputs, for what later steps still need."""
    inner = Flow(
        name="inner", description="", steps=[FlowStep(tool_name="share")], outputs=["share"],
        input_schema_ref=f"{__name__}:Bill",
    )  # fmt: skip
    steps = [FlowStep(flow_name="inner"), FlowStep(tool_name="halve", input_mapping={"n": "share"})]
    outer = Flow(name="outer", description="", steps=steps)
    assert names_of(outer, share, halve, flows=(inner,)) == {"total": True, "people": True}


def test_what_is_read_too_deep_to_tell_is_an_error_that_says_what_to_do():
    """api.md: no guessing."""
    flow = one("pay", steps=[FlowStep(tool_name="pay", input_mapping={"amount": "/bill/0/total"})])
    with pytest.raises(TypeError, match=r"Step 'pay' reads '/bill/0/total'.*input schema, or pass strategy="):
        fuzz(flow, pay)


def test_a_key_with_several_readers_fits_them_all():
    """R8: the same value goes to everybody."""

    @tool
    def small(n: int) -> bool:
        assert 0 <= n < 5
        return True

    class Few(BaseModel):
        n: int = Field(ge=0, le=4)

    class Nothing(BaseModel):
        pass

    few = Tool(name="few", description="", input_schema=Few, output_schema=Nothing, fn=lambda inputs: {})
    flow = one("small", steps=[FlowStep(tool_name="small"), FlowStep(tool_name="few")])
    assert fuzz(flow, small, few, allow_failures=False, examples=20).ok


# ---- minimizing


def test_a_failing_input_is_made_small():
    """api.md: with the same status, step, error and cause."""
    given = {"total": 4711, "people": [], "tip": {"deep": [1, 2, 3]}}
    assert minimize_failure(FlowExecutor(tools=[share]), one("share"), given) == {"total": 0, "people": []}


def test_a_predicate_says_what_matters():
    """api.md: predicate=None."""
    executor = FlowExecutor(tools=[halve], flows=[one("halve")])
    found = minimize_failure(
        executor, "one", {"n": 4711}, lambda result: (result.final_output or {}).get("halve", 0) > 99
    )
    assert found == {"n": 200}


def test_what_does_not_fail_cannot_be_minimized():
    """api.md: ValueError."""
    for predicate in (None, lambda result: False):
        with pytest.raises(ValueError, match="'one' does not fail with this input"):
            minimize_failure(FlowExecutor(tools=[halve]), one("halve"), {"n": 1}, predicate)


def test_no_more_inputs_are_tried_than_allowed():
    """api.md: max_runs."""
    fake = fake_tool(halve, raises=ValueError)
    minimize_failure(FlowExecutor(tools=[fake]), one("halve"), {"n": 10**9, "rest": list(range(50))}, max_runs=7)
    assert fake.call_count <= 8
