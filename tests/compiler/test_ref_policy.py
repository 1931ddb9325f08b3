"""Class references are looked up under a policy, wherever in a flow they stand; what it refuses is not imported."""

from __future__ import annotations

import sys

import pytest

from chainweaver import (
    FlowExecutor,
    FlowRegistry,
    SchemaRefAllowlist,
    SchemaRefPolicyError,
    compile_flow,
    tool,
)
from chainweaver.flow import DAGFlow, DAGFlowStep, Flow, FlowStep, RetryPolicy

SHOP = SchemaRefAllowlist(modules=("shop",))
REF = "trap_of_the_compiler:Model"
ERROR = "trap_of_the_compiler:Broken"


@tool
def double(n: int) -> int:
    return 2 * n


@pytest.fixture
def sprung(tmp_path, monkeypatch):
    """Whether the module that flows name was imported."""
    (tmp_path / "trap_of_the_compiler.py").write_text(
        "from pydantic import BaseModel\nclass Model(BaseModel):\n    n: int\nclass Broken(Exception): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: "trap_of_the_compiler" in sys.modules
    sys.modules.pop("trap_of_the_compiler", None)


def a_flow(name="f", step=None, **fields):
    return Flow(name=name, description="", steps=[FlowStep(tool_name="double", **(step or {}))], **fields)


FLOWS = {
    "input": a_flow(input_schema_ref=REF),
    "output": a_flow(output_schema_ref=REF),
    "context": a_flow(context_schema_ref=REF),
    "input contract": a_flow(step={"input_contract": REF}),
    "output contract": a_flow(step={"output_contract": REF}),
    "retry": a_flow(step={"retry": RetryPolicy(max_retries=0, retryable_errors=(ERROR,))}),
    "dag": DAGFlow(
        name="f",
        version="1",
        description="",
        steps=[DAGFlowStep(step_id="a", tool_name="double", input_contract=REF)],
    ),
}


@pytest.mark.parametrize("flow", FLOWS.values(), ids=list(FLOWS))
def test_a_reference_outside_the_allowlist_is_a_finding_and_nothing_is_imported(flow, sprung):
    """R16: unresolvable class references are planned failures, in every place where a class can be named."""
    result = compile_flow(flow, [double], policy=SHOP)
    assert [error.issue_type for error in result.errors] in (["unresolvable_schema_ref"], ["unknown_retryable_error"])
    assert "allowlist" in result.errors[0].detail
    assert not sprung()


@pytest.mark.parametrize("flow", FLOWS.values(), ids=list(FLOWS))
def test_a_permitted_reference_is_looked_up(flow, sprung):
    """R16: without a policy, and under one that permits the module, the class is found."""
    permitted = SchemaRefAllowlist(modules=("trap_of_the_compiler",))
    found = [error.issue_type for error in compile_flow(flow, [double], policy=permitted).errors]
    assert not {"unresolvable_schema_ref", "unknown_retryable_error"} & set(found)
    assert sprung()


@pytest.mark.parametrize("whose", ["executor", "registry"])
@pytest.mark.parametrize("flow", FLOWS.values(), ids=list(FLOWS))
def test_an_executor_runs_flows_under_its_policy_and_that_of_its_registry(flow, whose, sprung):
    """R16: the run is recorded as failed with the reference; nothing is imported on the way."""
    registry = FlowRegistry()
    registry.register_flow(flow)
    if whose == "registry":
        # As if the policy had been made stricter since the flow was registered.
        registry.schema_ref_policy = SHOP
    with FlowExecutor(registry, tools=[double], schema_ref_policy=SHOP if whose == "executor" else None) as executor:
        result = executor.execute_flow("f", {"n": 1})
        again = executor.with_replaced_tools([double]).execute_flow("f", {"n": 1})
    for one in (result, again):
        assert (one.status, one.execution_log[-1].error_type) == ("failed", "SchemaRefPolicyError")
        with pytest.raises(SchemaRefPolicyError, match="allowlist"):
            one.raise_for_failure()
    assert not sprung()


def test_sub_flows_are_compiled_under_the_same_policy(sprung):
    """R27: a child is no way around the policy of its parent."""
    parent = Flow(name="parent", description="", steps=[FlowStep(flow_name="f", input_mapping={"n": "n"})])
    for child in FLOWS.values():
        with FlowExecutor(FlowRegistry(), tools=[double], flows=[child, parent], schema_ref_policy=SHOP) as executor:
            result = executor.execute_flow("parent", {"n": 1})
        assert (result.status, result.execution_log[-1].error_type) == ("failed", "SchemaRefPolicyError")
    assert not sprung()
