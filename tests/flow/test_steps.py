"""Steps and policies: what a definition accepts, and what it says when it does not."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from chainweaver.exceptions import SchemaRefPolicyError
from chainweaver.flow import ConditionalEdge, DAGFlowStep, FlowStep, RetryPolicy


class Total(BaseModel):
    total: int


class Plain:
    pass


@pytest.mark.parametrize("targets", [{}, {"tool_name": "a", "flow_name": "b"}])
def test_a_step_calls_either_a_tool_or_a_flow(targets):
    """api.md: exactly one of 'tool_name' or 'flow_name'."""
    with pytest.raises(ValidationError, match="exactly one of 'tool_name' or 'flow_name'"):
        FlowStep(**targets)


@pytest.mark.parametrize(
    ("step", "name"),
    [
        (FlowStep(tool_name="load"), "load"),
        (FlowStep(flow_name="invoice"), "invoice"),
        (DAGFlowStep(step_id="s", tool_name="load"), "load"),
        (DAGFlowStep(step_id="s", step_type="capability", capability_id="cap.load"), "s"),
    ],
)
def test_a_step_is_called_after_what_it_calls(step, name):
    """api.md: display_name."""
    assert step.display_name == name


@pytest.mark.parametrize(
    ("on_error", "fallback"), [("fail", None), ("skip", None), ("fallback:zero", "zero"), ("fallback: zero", "zero")]
)
def test_on_error_names_the_fallback_tool(on_error, fallback):
    """R21: "fail", "skip" or "fallback:<tool>"."""
    assert FlowStep(tool_name="a", on_error=on_error).fallback_tool == fallback


@pytest.mark.parametrize("on_error", ["", "ignore", "fallback", "fallback:", "fallback: ", "Fail", " skip"])
def test_any_other_on_error_is_refused(on_error):
    """R21: the message lists the three forms."""
    with pytest.raises(ValidationError, match="'fail', 'skip' or 'fallback:<tool>'"):
        FlowStep(tool_name="a", on_error=on_error)


def test_an_unknown_key_is_an_error():
    """api.md: unknown keys are errors."""
    with pytest.raises(ValidationError, match="input_maping"):
        FlowStep(tool_name="a", input_maping={})  # type: ignore[call-arg]  # the point of the test


@pytest.mark.parametrize(
    "fields",
    [
        {"timeout_seconds": 0},
        {"timeout_seconds": float("inf")},
        {"timeout_seconds": "3"},
        {"map_over": "rows", "map_concurrency": 0},
        {"map_over": "rows", "map_concurrency": True},
        {"map_as": "row"},
        {"map_concurrency": 2},
        {"on_item_error": "skip"},
        {"flow_version": "1.0"},
        {"input_contract": "no_colon"},
        {"input_contract": "a:b.<locals>.c"},
        {"decision_candidates": [""]},
    ],
    ids=str,
)
def test_values_without_a_meaning_are_refused(fields):
    """api.md: the fields of a step are validated when it is made."""
    with pytest.raises(ValidationError):
        FlowStep(tool_name="a", **fields)


def test_the_version_of_a_subflow_follows_pep_440():
    """R27: flow_version."""
    assert FlowStep(flow_name="a", flow_version="1.0rc1").flow_version == "1.0rc1"
    with pytest.raises(ValidationError, match="PEP 440"):
        FlowStep(flow_name="a", flow_version="newest")


def test_a_capability_step_needs_its_capability_and_no_tool():
    """api.md: step_type and capability_id belong together."""
    step = DAGFlowStep(step_id="s", step_type="capability", capability_id="cap.x")
    assert (step.tool_name, step.flow_name) == (None, None)
    with pytest.raises(ValidationError, match="'capability_id'"):
        DAGFlowStep(step_id="s", step_type="capability", tool_name="a")
    with pytest.raises(ValidationError, match="'capability_id'"):
        DAGFlowStep(step_id="s", tool_name="a", capability_id="cap.x")


def test_dependencies_given_as_a_set_are_put_in_order():
    """R1: nothing depends on the hash seed."""
    step = DAGFlowStep(step_id="s", tool_name="a", depends_on={"c", "a", "b"})  # type: ignore[arg-type]  # lax input
    assert step.depends_on == ["a", "b", "c"]


def test_contracts_are_named_now_and_looked_up_later():
    """api.md: contract_ref_from and resolved_input_contract are each other's way back."""
    reference = FlowStep.contract_ref_from(Total)
    step = FlowStep(tool_name="a", input_contract=reference, output_contract="nowhere.at_all:Model")
    assert reference == f"{__name__}:Total"
    assert step.resolved_input_contract is Total
    assert FlowStep(tool_name="a").resolved_output_contract is None
    with pytest.raises(SchemaRefPolicyError, match=r"nowhere\.at_all"):
        _ = step.resolved_output_contract


def test_a_contract_has_to_be_a_model():
    """api.md: contracts are Pydantic models."""
    step = FlowStep(tool_name="a", input_contract=f"{__name__}:Plain")
    with pytest.raises(SchemaRefPolicyError, match="no Pydantic model"):
        _ = step.resolved_input_contract


def test_edges_and_retry_policies_cannot_be_assigned_to():
    """api.md: frozen."""
    with pytest.raises(ValidationError, match="frozen"):
        ConditionalEdge(target_step_id="a", predicate="x").predicate = "y"  # type: ignore[misc]  # the point of the test
    with pytest.raises(ValidationError, match="frozen"):
        RetryPolicy().max_retries = 4  # type: ignore[misc]  # the point of the test


@pytest.mark.parametrize(("n", "delay"), [(-1, 0.0), (0, 0.0), (1, 0.5), (2, 1.5), (3, 4.5)])
def test_the_wait_grows_by_the_multiplier(n, delay):
    """api.md: backoff_seconds * multiplier ** (n - 1); n < 1 waits 0."""
    assert RetryPolicy(backoff_seconds=0.5, backoff_multiplier=3.0).compute_delay(n) == delay


def test_a_wait_that_no_float_can_hold_is_infinite():
    """R20: a retry number of any size has a delay."""
    assert RetryPolicy().compute_delay(5_000) == float("inf")
    assert RetryPolicy(backoff_seconds=0.0).compute_delay(5_000) == 0.0


@pytest.mark.parametrize(
    "fields",
    [
        {"max_retries": -1},
        {"max_retries": "3"},
        {"backoff_seconds": -0.1},
        {"backoff_seconds": float("nan")},
        {"backoff_multiplier": 0},
        {"jitter": 1},
        {"retries": 1},
    ],
    ids=str,
)
def test_retry_policies_without_a_meaning_are_refused(fields):
    """R20: the fields of a policy are validated when it is made."""
    with pytest.raises(ValidationError):
        RetryPolicy(**fields)


def test_the_defaults_of_a_retry_policy_are_those_of_the_contract():
    """api.md: three retries, after one, two and four seconds, whatever the error."""
    policy = RetryPolicy()
    assert (policy.max_retries, policy.jitter, policy.retryable_errors) == (3, False, ("builtins:Exception",))
    assert [policy.compute_delay(n) for n in (1, 2, 3)] == [1.0, 2.0, 4.0]
