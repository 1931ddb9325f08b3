"""The borders of a flow: input, context and output schemas, and the outputs that it names."""

from __future__ import annotations

import pytest

from chainweaver import FlowExecutor, OutputMappingError, SchemaRefPolicyError
from tests.compiler.kit import a_chain, a_model, a_tool, call, compiled, detail, found, schema
from tests.compiler.schemas import Anything, Exactly, More, Number, Perhaps, Text

GIVE = a_tool("give", {"n": (int, 0)}, ["n"], lambda inputs: {"n": 1})
WIDE = a_tool("wide", {}, a_model("Wide", {}, extra="allow"))


def test_schemas_are_bound_as_gates():
    """R8, R13: input, context and output."""
    refs = {
        "input_schema_ref": schema(Number),
        "context_schema_ref": schema(Perhaps),
        "output_schema_ref": schema(Text),
    }
    plan = compiled(a_chain(call(GIVE), **refs), GIVE).plan
    assert plan.input_gate is not None
    assert plan.context_gate is not None
    assert plan.output_gate is not None
    assert plan.input_gate.model is Number
    assert plan.input_gate.open(plan.input_gate.validate({"n": "3"})) == {"n": 3}
    assert (plan.context_gate.model, plan.output_gate.model) == (Perhaps, Text)
    bare = compiled(a_chain(call(GIVE)), GIVE).plan
    assert (bare.input_gate, bare.context_gate, bare.output_gate) == (None, None, None)


@pytest.mark.parametrize(("side", "index"), [("input", -1), ("context", 1), ("output", 1)])
def test_a_schema_that_cannot_be_found_is_a_finding_at_its_border(side, index):
    """R16: recorded, not raised out of compile."""
    ref = "nowhere.at.all:Model"
    result = compiled(a_chain(call(GIVE), **{f"{side}_schema_ref": ref}), GIVE)
    assert found(result) == [(index, "unresolvable_schema_ref", f"{side}_schema_ref")]
    assert result.errors[0].tool_name == "f"
    assert detail(result, "unresolvable_schema_ref") == (
        "Class reference 'nowhere.at.all:Model' is refused: module 'nowhere.at.all' cannot be imported "
        "(ModuleNotFoundError: No module named 'nowhere')."
    )
    gate = getattr(result.plan, f"{side}_gate")
    with pytest.raises(SchemaRefPolicyError) as caught:
        gate.validate({"n": 1})
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert caught.value.ref == ref


@pytest.mark.parametrize(("side", "index", "steps"), [("input", -1, 0), ("context", 1, 1), ("output", 1, 1)])
def test_a_run_records_a_schema_that_cannot_be_found(side, index, steps):
    """R16: what ran before it keeps its records; the error is the one that was found."""
    flow = a_chain(call(GIVE), **{f"{side}_schema_ref": "tests.compiler.schemas:Numbr"})
    with FlowExecutor(tools=[GIVE], flows=[flow]) as executor:
        result = executor.execute_flow("f", {"n": 1})
    *before, last = result.execution_log
    assert (result.status, len(before)) == ("failed", steps)
    assert (last.step_index, last.tool_name, last.error_type) == (index, "f", "SchemaRefPolicyError")
    with pytest.raises(SchemaRefPolicyError, match="did you mean 'Number'"):
        result.raise_for_failure()


def test_a_required_output_that_nothing_provides_is_a_gap():
    """api.md, Compile: output_schema_gap, of the context schema as well."""
    for side in ("output", "context"):
        refs = {"input_schema_ref": schema(Exactly), f"{side}_schema_ref": schema(More)}
        result = compiled(a_chain(call(GIVE), on_context_collision="overwrite", **refs), GIVE)
        assert found(result) == [(1, "output_schema_gap", "missing")]
        assert detail(result, "output_schema_gap") == (
            f"{side} schema More needs 'missing', which nothing provides; the keys at the end are n"
        )


def test_a_gap_that_a_caller_may_fill_is_an_error_too():
    """R8: the input schema does not name the key; without one nothing is known."""
    refs = {"output_schema_ref": schema(More), "on_context_collision": "overwrite"}
    assert found(compiled(a_chain(call(GIVE), input_schema_ref=schema(Number), **refs), GIVE)) == [
        (1, "output_schema_gap", "missing")
    ]
    assert compiled(a_chain(call(GIVE), **refs), GIVE).success
    assert compiled(a_chain(call(GIVE), input_schema_ref=schema(Anything), **refs), GIVE).success
    assert compiled(a_chain(call(GIVE), call(WIDE), input_schema_ref=schema(Exactly), **refs), GIVE, WIDE).success
    assert found(compiled(a_chain(call("gone"), input_schema_ref=schema(Exactly), **refs))) == [
        (0, "missing_tool", None)
    ]


def test_an_optional_output_is_no_gap():
    """api.md, Compile: its default stands in."""
    refs = {"input_schema_ref": schema(Exactly), "output_schema_ref": schema(Perhaps)}
    assert compiled(a_chain(call(GIVE), **refs), GIVE).success


def test_an_output_of_another_type_is_an_error():
    """api.md, Compile: output_type_mismatch."""
    result = compiled(a_chain(call(GIVE), output_schema_ref=schema(Text)), GIVE)
    assert found(result) == [(1, "output_type_mismatch", "n")]
    assert detail(result, "output_type_mismatch") == (
        "output schema Text takes list[int] as 'n', the flow ends with int; "
        "change the schema, or convert the value in a step"
    )


def test_outputs_that_are_not_kept_are_missing_from_the_output_schema():
    """R13: the projection comes first; the context schema sees everything."""
    other = a_tool("other", {}, ["o"])
    flow = a_chain(call(GIVE), call(other), outputs=("o",), output_schema_ref=schema(Number))
    result = compiled(flow, GIVE, other)
    assert found(result) == [(2, "output_schema_gap", "n")]
    assert detail(result, "output_schema_gap").endswith("the keys at the end are o")
    flow = a_chain(call(GIVE), call(other), outputs=("o",), context_schema_ref=schema(Number))
    assert compiled(flow, GIVE, other).success


def test_an_output_that_nothing_writes_is_an_error():
    """R13: `outputs` names context keys."""
    result = compiled(a_chain(call(GIVE), outputs=("m",), input_schema_ref=schema(Exactly)), GIVE)
    assert found(result) == [(1, "unknown_output_key", "m")]
    assert detail(result, "unknown_output_key") == "outputs names unknown key 'm'; known keys are n"
    assert compiled(a_chain(call(GIVE), outputs=("m",)), GIVE).success


def test_dynamic_parameters_are_no_outputs():
    """R13: they never enter the final output."""
    flow = a_chain(call(GIVE), outputs=("key",), dynamic_params=("key",), input_schema_ref=schema(Exactly))
    assert found(compiled(flow, GIVE)) == [(1, "unknown_output_key", "key")]


def test_the_projection_names_what_is_missing_at_the_end():
    """R13: in the order of `outputs`."""
    plan = compiled(a_chain(call(GIVE), outputs=("b", "a")), GIVE).plan
    assert plan.project is not None
    assert list(plan.project({"a": 1, "b": 2, "c": 3}).items()) == [("b", 2), ("a", 1)]
    with pytest.raises(OutputMappingError) as caught:
        plan.project({"b": 2})
    assert (caught.value.tool_name, caught.value.step_index) == ("f", 1)
    assert caught.value.known == ("b",)
