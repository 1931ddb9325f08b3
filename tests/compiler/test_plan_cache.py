"""Plans are built once per content of a flow and registration of its tools."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from chainweaver import DAGDefinitionError, FlowExecutor, FlowStatus, literal
from chainweaver.compiler import PlanCache, flow_digest
from tests.compiler.kit import a_chain, a_dag, a_tool, call, node

A, B = a_tool("a", {}, ["a"]), a_tool("b", {}, ["b"])
TOOLS = {"a": A, "b": B}


# ---- which plan


def test_an_equal_definition_is_the_same_plan():
    """R29: plans are keyed by content, not by object."""
    plans = PlanCache()
    assert plans.compiled(a_chain(call(A)), TOOLS) is plans.compiled(a_chain(call(A)), TOOLS)
    assert len(plans) == 1


def test_what_changes_no_run_makes_no_other_plan():
    """R29: status, governance and words are left out of the digest."""
    one = a_chain(call(A))
    other = one.model_copy(update={"status": FlowStatus.DISABLED, "description": "other", "groups": {"g": ["a"]}})
    assert flow_digest(one) == flow_digest(other)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "g"},
        {"version": "2"},
        {"on_failure": "finish"},
        {"outputs": ("a",)},
        {"dynamic_params": ("k",)},
        {"steps": [call(B)]},
        {"steps": [call(A, {"x": 1})]},
        {"steps": [call(A, {"x": True})]},
        {"steps": [call(A, timeout_seconds=1.0)]},
        {"steps": [call(A, output_mapping={})]},
        {"steps": []},
    ],
)
def test_what_changes_a_run_makes_another_plan(change):
    """R29: `x != y` implies different digests."""
    flow = a_chain(call(A))
    others = [flow, a_chain(call(A, {"x": 1.0})), a_dag(node("a", A))]
    digest = flow_digest(flow.model_copy(update=change))
    assert digest not in {flow_digest(other) for other in others}
    assert len(digest) == 32


def test_equal_schemas_with_another_function_are_another_plan():
    """R29: plans are keyed by the registration of every tool."""
    plans = PlanCache()
    flow = a_chain(call(A))
    again = a_tool("a", {}, ["a"])
    first, second = plans.compiled(flow, TOOLS), plans.compiled(flow, {"a": again})
    assert first is not second
    [step], [other] = first.plan.steps, second.plan.steps
    assert (step.tool.fn, other.tool.fn) == (A.fn, again.fn)  # type: ignore[union-attr]


def test_a_fallback_counts_as_a_tool_of_the_flow():
    """R29: every tool that a flow reaches."""
    plans = PlanCache()
    flow = a_chain(call(A, on_error="fallback:b"))
    assert plans.compiled(flow, TOOLS) is not plans.compiled(flow, {"a": A, "b": a_tool("b", {}, ["b"])})


def test_tools_that_a_flow_does_not_name_do_not_matter():
    """R29: registering another tool keeps the plan, unless a message lists all names."""
    plans = PlanCache()
    flow, broken = a_chain(call(A)), a_chain(call("gone"))
    assert plans.compiled(flow, {"a": A}) is plans.compiled(flow, TOOLS)
    assert plans.compiled(broken, {"a": A}) is not plans.compiled(broken, TOOLS)


def test_a_literal_without_a_canonical_form_makes_a_plan_of_its_own_flow():
    """R29: such a definition is the same as itself only."""
    plans = PlanCache()
    flow, twin = (a_chain(call(A, {"x": literal(len)})) for _ in range(2))
    assert plans.compiled(flow, TOOLS) is plans.compiled(flow, TOOLS)
    assert plans.compiled(flow, TOOLS) is not plans.compiled(twin, TOOLS)
    assert plans.compiled(flow, TOOLS).plan.digest == ""
    assert len(plans) == 2


def test_a_plan_knows_its_digest():
    """R33: a checkpoint compares it at resume."""
    flow = a_chain(call(A))
    assert PlanCache().compiled(flow, TOOLS).plan.digest == flow_digest(flow)


# ---- how many


def test_the_plan_unused_for_longest_goes_first():
    """Issue, Build: LRU-bounded."""
    plans = PlanCache(limit=2)
    first, second, third = _named("xyz")
    kept = plans.compiled(first, TOOLS)
    gone = plans.compiled(second, TOOLS)
    plans.compiled(first, TOOLS)
    plans.compiled(third, TOOLS)
    assert len(plans) == 2
    assert plans.compiled(first, TOOLS) is kept
    assert plans.compiled(second, TOOLS) is not gone


def _named(names: str) -> list[Any]:
    return [a_chain(call(A)).model_copy(update={"name": name}) for name in names]


def test_a_definition_that_is_no_dag_is_not_kept():
    """R15: raised each time, and its place is free."""
    plans = PlanCache()
    for _ in range(2):
        with pytest.raises(DAGDefinitionError):
            plans.compiled(a_dag(node("a", A, "a")), TOOLS)
    assert len(plans) == 0


# ---- at once


def test_sixteen_threads_compile_a_cold_flow_once(monkeypatch):
    """W6: single-flight; another flow does not wait."""
    from chainweaver.compiler import cache

    calls: list[str] = []
    under_way, go_on = threading.Event(), threading.Event()

    def slow_build(flow, *args):
        calls.append(flow.name)
        if flow.name == "f":
            under_way.set()
            go_on.wait(10)
        return build(flow, *args)

    build = cache.build
    monkeypatch.setattr(cache, "build", slow_build)
    plans, flow = PlanCache(), a_chain(call(A))
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(plans.compiled(flow, TOOLS))) for _ in range(16)]
    for thread in threads:
        thread.start()
    assert under_way.wait(10)
    [other] = _named("g")
    assert plans.compiled(other, TOOLS).success
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert calls == ["f", "g"]
    assert len(results) == 16
    assert all(result is results[0] for result in results)


def test_an_executor_compiles_once_and_sees_a_tool_that_is_registered_anew(monkeypatch):
    """W6: re-registering is seen by the next run; repeated runs do not even ask for the digest."""
    from chainweaver.compiler import cache

    digests = []
    monkeypatch.setattr(cache, "flow_digest", lambda flow: digests.append(flow.name) or flow_digest(flow))
    one, two = (a_tool("a", {}, ["a"], lambda inputs, value=value: {"a": value}) for value in (1, 2))
    with FlowExecutor(tools=[one], flows=[a_chain(call("a"))]) as executor:
        assert [executor.execute_flow("f", {}).final_output for _ in range(3)] == [{"a": 1}] * 3
        assert digests == ["f"]
        executor.register_tool(two)
        assert executor.execute_flow("f", {}).final_output == {"a": 2}
        assert digests == ["f", "f"]


# ---- step fingerprints


def test_a_step_is_the_same_step_while_definition_and_schemas_are():
    """R33: resume compares the executed prefix; another function with equal schemas is no change."""

    def fingerprint(step, *tools) -> str:
        from chainweaver import compile_flow

        made: str = compile_flow(a_chain(step), tools).plan.steps[0].fingerprint()
        return made

    first = fingerprint(call(A), A)
    assert first == fingerprint(call(A), a_tool("a", {}, ["a"]))
    changed = [
        fingerprint(call(A, {"x": 1}), A),
        fingerprint(call(A), a_tool("a", {}, ["a", "b"])),
        fingerprint(call(A), a_tool("a", {}, ["a"], schema_version="2")),
        fingerprint(call(A, on_error="fallback:b"), A, B),
        fingerprint(call(A)),
    ]
    assert len({first, *changed}) == 6


def test_a_plan_states_what_a_checkpoint_notes_of_it():
    """R33: hashes, fingerprints, level sizes and output mappings; made when somebody asks."""
    flow = a_dag(node("x", A), node("y", B), node("z", A, "x", output_mapping={"c": "a"}), node("gone", "gone", "z"))
    plan = PlanCache().compiled(flow, TOOLS).plan
    facts = plan.facts()
    assert facts is plan.facts()
    assert facts.tool_hashes == {"a": A.schema_hash, "b": B.schema_hash}
    assert facts.step_fingerprints == {step.step_id: step.fingerprint() for step in plan.steps}
    assert (facts.level_sizes, facts.output_mappings) == ((2, 1, 1), {"z": {"c": "a"}})
