"""Flows as data: versions, schemas, governance, safety, copies."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from pydantic import BaseModel, ValidationError

from chainweaver.exceptions import FlowSerializationError, InvalidFlowVersionError, SchemaRefPolicyError
from chainweaver.flow import (
    DAGFlow,
    DAGFlowStep,
    DeterminismLevel,
    DriftInfo,
    Flow,
    FlowGovernance,
    FlowLifecycle,
    FlowStatus,
    FlowStep,
    SchemaRefAllowlist,
    SchemaRefPolicy,
    SideEffectLevel,
    StabilityLevel,
    ToolSafetyContract,
    copy_flow,
    merge_safety,
    resolve_class,
    resolve_model,
    sorted_versions,
)


class Order(BaseModel):
    class Line(BaseModel):
        price: int

    lines: list[Line]


def a_flow(**fields):
    return Flow(**{"name": "invoice", "description": "Adds up.", "steps": [FlowStep(tool_name="total")], **fields})


def test_a_linear_flow_has_a_version_and_a_dag_needs_one():
    """api.md: version="0.1.0" for Flow, required for DAGFlow."""
    assert a_flow().version == "0.1.0"
    with pytest.raises(ValidationError, match="version"):
        DAGFlow(name="a", description="", steps=[])  # type: ignore[call-arg]  # the point of the test


@pytest.mark.parametrize("version", ["1", "1.0.0", "2024.1", "1.0rc1", "1!2.0", "1.0+local.1", "v1.0"])
def test_versions_are_those_of_pep_440(version):
    """api.md: versions are PEP 440."""
    assert a_flow(version=version).version == version


@pytest.mark.parametrize("version", ["", "one", "1..0", "1.0-", "1.0.x", "\u0661.0", "1.\u00b2"])
def test_other_versions_are_refused_with_their_own_error(version):
    """api.md: E016 InvalidFlowVersionError."""
    with pytest.raises(InvalidFlowVersionError) as caught:
        a_flow(version=version)
    assert (caught.value.flow_name, caught.value.version) == ("invoice", version)


def test_versions_are_ordered_as_packaging_orders_them():
    """api.md: the highest PEP 440 version; pre-releases below their finals."""
    assert sorted_versions(["1.0", "1.0.dev1", "1.10", "1.9", "1.0rc1", "1.0.post1", "1.0.0"]) == [
        "1.0.dev1",
        "1.0rc1",
        "1.0",
        "1.0.0",
        "1.0.post1",
        "1.9",
        "1.10",
    ]


def test_the_defaults_of_a_flow_are_those_of_the_contract():
    """api.md: Flow(...)."""
    flow = a_flow()
    assert flow.status is FlowStatus.ACTIVE
    assert flow.deterministic is True
    assert flow.governance == FlowGovernance()
    assert (flow.on_context_collision, flow.on_failure, flow.validation) == ("warn", "stop", "boundaries")
    assert (flow.dynamic_params, flow.outputs, flow.groups, flow.requirements) == ((), None, {}, ())
    assert (flow.tool_schema_hashes, flow.safety, flow.trigger_conditions, flow.capability_id) == (None,) * 4


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"stepz": []},
        {"on_context_collision": "ignore"},
        {"on_failure": "go"},
        {"status": "asleep"},
        {"deterministic": 1},
        {"input_schema_ref": "Order"},
        {"outputs": "total"},
        {"governance": {"owners": "x"}},
    ],
    ids=str,
)
def test_fields_without_a_meaning_are_refused(fields):
    """api.md: unknown keys and wrong values are errors."""
    with pytest.raises(ValidationError):
        a_flow(**fields)


def test_schemas_are_looked_up_when_they_are_asked_for():
    """api.md: .input_schema .output_schema .context_schema; making the flow imports nothing."""
    flow = a_flow(input_schema_ref=Flow.schema_ref_from(Order), output_schema_ref="not.there:Model")
    assert flow.input_schema is Order
    assert flow.context_schema is None
    with pytest.raises(SchemaRefPolicyError, match=r"'not\.there:Model'"):
        _ = flow.output_schema


def test_nested_classes_can_be_referenced_and_local_ones_cannot():
    """api.md: class references are "module:qualname"."""

    class Local(BaseModel):
        pass

    assert resolve_model(Flow.schema_ref_from(Order.Line)) is Order.Line
    with pytest.raises(ValueError, match="inside a function"):
        Flow.schema_ref_from(Local)
    with pytest.raises(TypeError, match="needs a class, not Order"):
        Flow.schema_ref_from(Order(lines=[]))  # type: ignore[arg-type]  # the point of the test


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("builtins:ValueErorr", "did you mean 'ValueError'"),
        ("builtins:len", "not a class"),
        ("no colon", "'module:qualname'"),
        ("no.such.module:X", "cannot be imported (ModuleNotFoundError"),
    ],
)
def test_a_reference_that_leads_nowhere_says_why(ref, said):
    """R16: unresolvable class references; E051."""
    with pytest.raises(SchemaRefPolicyError) as caught:
        resolve_class(ref)
    assert said in str(caught.value)
    assert caught.value.ref == ref


def test_an_allowlist_covers_modules_with_what_is_below_them():
    """api.md: SchemaRefAllowlist; a longer name that only begins alike is another module."""
    allowed = SchemaRefAllowlist(modules=("json",), refs=("decimal:Decimal",))
    assert resolve_class("json.decoder:JSONDecoder", policy=allowed).__name__ == "JSONDecoder"
    assert resolve_class("decimal:Decimal", policy=allowed).__name__ == "Decimal"
    for ref in ("decimal:Context", "jsonschema:X", "builtins:ValueError"):
        with pytest.raises(SchemaRefPolicyError, match="allowlist"):
            resolve_class(ref, policy=allowed)


def test_a_policy_can_forbid_imports():
    """api.md: SchemaRefPolicy; a refused module is not imported."""
    sys.modules.pop("this", None)
    with pytest.raises(SchemaRefPolicyError, match="not loaded"):
        resolve_class("this:X", policy=SchemaRefPolicy(allow_import=False))
    assert "this" not in sys.modules
    with pytest.raises(SchemaRefPolicyError, match="not loaded"):
        resolve_class("this:X", policy=SchemaRefAllowlist(allow_import=False, modules=("this",)))


@pytest.mark.parametrize(
    ("fields", "level"),
    [
        ({}, "deterministic"),
        ({"deterministic": False}, "nondeterministic"),
        ({"safety": ToolSafetyContract(determinism_level=DeterminismLevel.ENVIRONMENT)}, "environment"),
        ({"deterministic": False, "safety": ToolSafetyContract()}, "nondeterministic"),
    ],
)
def test_the_weaker_word_on_determinism_counts(fields, level):
    """api.md: .determinism_level."""
    assert a_flow(**fields).determinism_level.value == level


ALLOWED = {
    ("observed", "suggested"),
    ("observed", "ignored"),
    ("suggested", "draft"),
    ("suggested", "ignored"),
    ("draft", "reviewed"),
    ("draft", "ignored"),
    ("reviewed", "draft"),
    ("reviewed", "active"),
    ("reviewed", "archived"),
    ("active", "archived"),
    ("ignored", "suggested"),
    ("archived", "reviewed"),
}


@pytest.mark.parametrize("start", FlowLifecycle)
@pytest.mark.parametrize("target", FlowLifecycle)
def test_the_lifecycle_has_these_transitions_and_no_others(start, target):
    """api.md: FlowGovernance.transition_to."""
    before = FlowGovernance(lifecycle=start, owner="ops")
    if (start.value, target.value) in ALLOWED:
        after = before.transition_to(target, reviewed_by="ann", review_notes="fine")
        assert after == FlowGovernance(lifecycle=target, owner="ops", reviewed_by="ann", review_notes="fine")
        assert before == FlowGovernance(lifecycle=start, owner="ops")
    else:
        with pytest.raises(ValueError, match="cannot transition from"):
            before.transition_to(target)


def test_a_transition_keeps_the_review_it_is_not_told_to_replace():
    """api.md: reviewed_by and review_notes are optional."""
    reviewed = FlowGovernance(lifecycle="reviewed", reviewed_by="ann")
    assert reviewed.transition_to("active").reviewed_by == "ann"


def test_side_effects_are_ordered_by_harm_and_not_by_alphabet():
    """api.md: NONE < READ < WRITE < EXTERNAL < DESTRUCTIVE."""
    levels = list(SideEffectLevel)
    assert sorted(levels) == levels
    assert max(SideEffectLevel.EXTERNAL, SideEffectLevel.READ) is SideEffectLevel.EXTERNAL
    assert [level.value for level in levels] == ["none", "read", "write", "external", "destructive"]
    assert SideEffectLevel.WRITE >= SideEffectLevel.WRITE
    assert SideEffectLevel.READ <= SideEffectLevel.EXTERNAL
    assert not SideEffectLevel.WRITE > SideEffectLevel.EXTERNAL
    with pytest.raises(TypeError):
        _ = SideEffectLevel.WRITE < StabilityLevel.STABLE


def test_merged_safety_is_the_most_cautious_reading():
    """api.md: merge_safety."""
    merged = merge_safety(
        [
            ToolSafetyContract(side_effects="write", supports_dry_run=True, approval_reason="pays"),
            ToolSafetyContract(side_effects="read", idempotent=False, stability="deprecated", approval_reason="pays"),
            ToolSafetyContract(requires_approval=True, determinism_level="environment", approval_reason="mails"),
        ]
    )
    assert merged == ToolSafetyContract(
        side_effects="write",
        stability="deprecated",
        determinism_level="environment",
        idempotent=False,
        requires_approval=True,
        approval_reason="pays; mails",
    )
    assert merge_safety([]).side_effects is SideEffectLevel.NONE


def test_drift_names_flow_tool_and_both_hashes():
    """api.md: DriftInfo; the version is known where flows are compared."""
    drift = DriftInfo(flow_name="f", tool_name="t", expected_hash="a" * 16, actual_hash="b" * 16)
    assert drift.model_dump() == {
        "flow_name": "f",
        "tool_name": "t",
        "expected_hash": "a" * 16,
        "actual_hash": "b" * 16,
        "flow_version": None,
    }


def test_a_copy_shares_no_container_and_keeps_what_cannot_be_copied():
    """design: the registry keeps its own copy; literals of foreign classes go by reference."""
    lock = threading.Lock()
    circle: list = [1]
    circle.append(circle)
    mapping = {"rows": [{"n": [1]}], "lock": lock, "circle": circle, "pair": ({"a"}, [2])}
    flow = a_flow(steps=[FlowStep(tool_name="t", input_mapping=mapping)])

    copied = copy_flow(flow, status=FlowStatus.DISABLED)

    assert copied.status is FlowStatus.DISABLED
    assert flow.status is FlowStatus.ACTIVE
    mapping = copied.steps[0].input_mapping
    assert mapping["lock"] is lock
    assert mapping["circle"][1] is mapping["circle"]
    assert mapping["circle"] is not circle
    mapping["pair"][0].add("b")
    assert flow.steps[0].input_mapping["pair"] == ({"a"}, [2])
    mapping["rows"][0]["n"].append(2)
    copied.steps.append(FlowStep(tool_name="u"))
    assert flow.steps[0].input_mapping["rows"] == [{"n": [1]}]
    assert len(flow.steps) == 1


def test_a_flow_draws_and_writes_itself():
    """api.md: convenience methods; what they write reads back equal."""
    flow = a_flow(steps=[FlowStep(tool_name="load"), FlowStep(tool_name="total")])
    assert flow.to_ascii().strip() == "[load] → [total]"
    assert flow.to_mermaid().startswith("graph LR")
    assert flow.to_mermaid(direction="TD", show_schemas=True).startswith("graph TD")
    assert flow.to_dot().startswith("digraph")
    assert Flow.from_json(flow.to_json()) == Flow.from_json(flow.to_json(indent=None)) == flow
    assert Flow.from_yaml(flow.to_yaml()) == flow


def test_reading_the_other_kind_of_flow_is_a_clear_error():
    """api.md: from_json of Flow and DAGFlow; the message names the class that would do."""
    text = DAGFlow(name="d", version="1", description="", steps=[DAGFlowStep(step_id="a", tool_name="t")]).to_json()
    assert DAGFlow.from_json(text).steps[0].step_id == "a"
    with pytest.raises(FlowSerializationError, match=r"DAGFlow\.from_json"):
        Flow.from_json(text)


def test_importing_definitions_builds_no_model_and_loads_nothing_costly():
    """design: import stays cheap; schemas are built when the first definition is made."""
    code = (
        "import sys, chainweaver.flow as f; assert not f.Flow.__pydantic_complete__;"
        "costly = {'asyncio', 'anyio', 'yaml', 'sqlite3', 'numpy', 'importlib.metadata', 'packaging'};"
        "print(sorted(costly & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
