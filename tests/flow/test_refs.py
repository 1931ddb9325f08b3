"""Class references and the policies that say which of them may be looked up."""

from __future__ import annotations

import sys

import pytest
from pydantic import BaseModel

from chainweaver.exceptions import SchemaRefPolicyError
from chainweaver.flow import (
    DAGFlow,
    DAGFlowStep,
    Flow,
    FlowStep,
    RetryPolicy,
    SchemaRefAllowlist,
    SchemaRefPolicy,
    resolve_class,
    resolve_model,
)
from chainweaver.flow.ref_check import check_refs, refused_refs
from chainweaver.flow.refs import resolve_error

SHOP = SchemaRefAllowlist(modules=("shop",))


class Busy(Exception):
    pass


class Model(BaseModel):
    pass


def a_flow(**fields):
    return Flow(**{"name": "f", "version": "1.0", "description": "", "steps": [], **fields})


def calling(**fields):
    return FlowStep(tool_name="t", **fields)


def retrying(*errors):
    return calling(retry=RetryPolicy(retryable_errors=errors))


EVERY_PLACE = [
    (("input_schema_ref",), a_flow(input_schema_ref="evil.mod:X")),
    (("output_schema_ref",), a_flow(output_schema_ref="evil.mod:X")),
    (("context_schema_ref",), a_flow(context_schema_ref="evil.mod:X")),
    (("steps", 1, "input_contract"), a_flow(steps=[calling(), calling(input_contract="evil.mod:X")])),
    (("steps", 0, "output_contract"), a_flow(steps=[calling(output_contract="evil.mod:X")])),
    (("steps", 0, "retry", "retryable_errors", 1), a_flow(steps=[retrying("OSError", "evil.mod:X")])),
    (
        ("steps", 0, "input_contract"),
        DAGFlow(
            name="f",
            version="1",
            description="",
            steps=[DAGFlowStep(step_id="a", tool_name="t", input_contract="evil.mod:X")],
        ),
    ),
]


@pytest.mark.parametrize(("path", "flow"), EVERY_PLACE, ids=lambda value: str(value)[:40])
def test_a_policy_reaches_every_place_where_a_class_can_be_named(path, flow):
    """api.md: SchemaRefPolicy; asking imports nothing."""
    assert [(one.path, one.ref) for one in refused_refs(flow, SHOP)] == [(path, "evil.mod:X")]
    assert refused_refs(flow, SchemaRefAllowlist(refs=("evil.mod:X",))) == []
    assert "evil" not in sys.modules


def test_no_place_for_a_class_is_forgotten():
    """api.md: a new field for a reference has to be known to the check."""
    known = {
        *("input_schema_ref", "output_schema_ref", "context_schema_ref"),
        *("input_contract", "output_contract", "retryable_errors"),
    }
    models = (Flow, DAGFlow, FlowStep, DAGFlowStep, RetryPolicy)
    names = {name for model in models for name in model.model_fields}
    assert {name for name in names if name.endswith(("_ref", "_contract", "_errors"))} == known


def test_all_refused_references_are_told_at_once():
    """style: all offenders at once, each with its place."""
    flow = a_flow(input_schema_ref="a:X", steps=[calling(output_contract="b:X"), retrying("c:X")])
    with pytest.raises(SchemaRefPolicyError) as caught:
        check_refs(flow, SHOP)
    assert (caught.value.ref, caught.value.where) == ("a:X", "flow 'f' 1.0, /input_schema_ref")
    assert "'b:X' at flow 'f' 1.0, /steps/0/output_contract: neither module 'b'" in str(caught.value)
    assert "'c:X' at flow 'f' 1.0, /steps/1/retry/retryable_errors/0" in str(caught.value)
    many = a_flow(steps=[calling(input_contract=f"m{i}:X") for i in range(100)])
    with pytest.raises(SchemaRefPolicyError, match="and 79 more"):
        check_refs(many, SHOP)


def test_without_a_policy_of_ones_own_everything_may_be_named():
    """api.md: SchemaRefPolicy permits what Python can import."""
    for _, flow in EVERY_PLACE:
        check_refs(flow, SchemaRefPolicy())


def test_a_rule_of_ones_own_is_asked():
    """api.md: derive from SchemaRefPolicy."""

    class NoSecrets(SchemaRefPolicy):
        def refusal(self, module, qualname):
            return f"'{qualname}' is a secret" if qualname.startswith("_") else super().refusal(module, qualname)

    [refused] = refused_refs(a_flow(input_schema_ref="m:_A", output_schema_ref="m:B"), NoSecrets())
    assert refused.detail == "'_A' is a secret"


@pytest.mark.parametrize("ref", ["Exception", "builtins:OSError", "chainweaver.exceptions:ToolTimeoutError"])
def test_errors_of_python_and_of_ours_are_permitted_by_every_policy(ref):
    """R20: the default of a retry names one; naming them imports nothing."""
    assert refused_refs(a_flow(steps=[retrying(ref)]), SHOP) == []
    assert issubclass(resolve_error(ref, policy=SHOP), Exception)


@pytest.mark.parametrize("ref", ["builtins:dict", "builtins:nothing", "os:error", "chainweaver:Flow", ":", "a b:c"])
def test_in_the_place_of_an_error_nothing_else_is_permitted(ref):
    """R20: the exception from the rule is for exception classes."""
    assert len(refused_refs(a_flow(steps=[retrying(ref)]), SHOP)) == 1
    with pytest.raises(SchemaRefPolicyError):
        resolve_error(ref, policy=SHOP)


def test_an_error_is_looked_up_under_the_policy():
    """R20: unresolvable names are errors; so are classes that nobody can raise."""
    here = SchemaRefAllowlist(modules=(__name__,))
    assert resolve_error(f"{__name__}:Busy", policy=here) is Busy
    assert resolve_error(f"{__name__}:Busy") is Busy
    with pytest.raises(SchemaRefPolicyError, match="no exception class"):
        resolve_error(f"{__name__}:Model", policy=here)


def test_a_permitted_module_does_not_open_the_modules_that_it_imports():
    """api.md: SchemaRefAllowlist; `json.decoder:re.Pattern` is a way out of json."""
    with pytest.raises(SchemaRefPolicyError, match="'scanner' in it is a module") as caught:
        resolve_class("json.decoder:scanner.JSONDecoder", policy=SchemaRefAllowlist(modules=("json.decoder",)))
    assert caught.value.fix == "begin the reference with 'json.scanner'"


def test_a_script_that_ends_its_process_is_an_unresolvable_reference(tmp_path, monkeypatch):
    """R16: unresolvable class references are recorded, whatever the module does while it loads."""
    (tmp_path / "a_script_of_a_flow.py").write_text("raise SystemExit(2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SchemaRefPolicyError, match=r"cannot be imported \(SystemExit: 2\)"):
        resolve_model("a_script_of_a_flow:X")


@pytest.mark.parametrize(
    ("facts", "error", "said"),
    [
        ({"modules": "shop"}, TypeError, r"such as \('shop',\)"),
        ({"refs": "shop:Order"}, TypeError, "not one text"),
        ({"modules": ("shop.*",)}, ValueError, "covers 'shop.models' as well"),
        ({"modules": ("",)}, ValueError, "no name of a module"),
        ({"refs": ("shop",)}, ValueError, "no class reference"),
    ],
)
def test_an_allowlist_that_would_permit_something_else_is_refused(facts, error, said):
    """api.md: SchemaRefAllowlist; the letters of a text are no modules."""
    with pytest.raises(error, match=said):
        SchemaRefAllowlist(**facts)


def test_an_allowlist_may_be_made_of_any_collection():
    """api.md: SchemaRefAllowlist is frozen and can be compared."""
    assert SchemaRefAllowlist(modules=["shop"]) == SHOP  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(TypeError, match="not list"):
        check_refs(a_flow(), ["shop"])  # type: ignore[arg-type]  # the point of the test
