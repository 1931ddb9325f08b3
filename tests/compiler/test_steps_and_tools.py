"""One step held against its tools: output mappings, contracts, retries, fallbacks, copies; and what is bound of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, computed_field, model_validator
from typing_extensions import TypedDict

from chainweaver import (
    Native,
    OutputMappingError,
    RetryPolicy,
    SchemaRefPolicyError,
    SchemaValidationError,
    ToolNotFoundError,
    ToolOutputSizeError,
    ToolSafetyContract,
)
from chainweaver.flow import SideEffectLevel
from chainweaver.plan import NoFingerprint
from tests.compiler.kit import a_chain, a_model, a_tool, call, compiled, detail, found, inputs, schema, warned
from tests.compiler.schemas import Exactly, More, Number, Outer, Person, Text, Unlucky

GIVE = a_tool("give", {"n": int}, {"n": int, "rows": str})


def fault(result, index: int = 0) -> Any:
    """The error with which a step fails when a run reaches it; a fresh one each time."""
    make = result.plan.steps[index].fault
    assert make is not None
    assert make() is not make()
    return make()


# ---- tools


def test_a_missing_tool_is_named_with_those_that_there_are():
    """W11: unknown tool."""
    result = compiled(a_chain(call("giev")), GIVE)
    assert found(result) == [(0, "missing_tool", None)]
    assert detail(result, "missing_tool") == (
        "tool 'giev' is not registered; did you mean 'give'? registered tools are give"
    )
    assert isinstance(fault(result), ToolNotFoundError)
    assert "did you mean 'give'?" in str(fault(result))
    assert detail(compiled(a_chain(call("giev"))), "missing_tool").endswith("registered tools are none")


def test_a_missing_fallback_is_an_error_of_its_own():
    """api.md, Compile: missing_fallback_tool."""
    result = compiled(a_chain(call(GIVE, on_error="fallback:gvie")), GIVE)
    assert found(result) == [(0, "missing_fallback_tool", None)]
    assert (fault(result).tool_name, result.plan.steps[0].fallback) == ("gvie", None)


def test_a_step_whose_primary_is_missing_reads_for_its_fallback():
    """R6: the mapping is checked against the tool that there is."""
    result = compiled(a_chain(call("gone", {"x": "n"}, on_error="fallback:give")), GIVE)
    assert found(result) == [
        (0, "missing_tool", None),
        (0, "unknown_target_key", "x"),
        (0, "missing_required_input", "n"),
    ]


# ---- output mappings


def test_an_output_mapping_renames_and_prunes():
    """R11: at the merge only."""
    result = compiled(a_chain(call(GIVE, output_mapping={"total": "n"})), GIVE)
    assert result.success
    assert result.plan.steps[0].rename == (("total", "n"),)


def test_an_unknown_output_key_names_the_outputs():
    """R11: a compile error where visible."""
    result = compiled(a_chain(call(GIVE, output_mapping={"total": "rosw"})), GIVE)
    assert found(result) == [(0, "unknown_output_key", "total")]
    assert detail(result, "unknown_output_key") == (
        "output_mapping of 'total' takes unknown output key 'rosw' of tool 'give'; "
        "did you mean 'rows'? its outputs are n, rows"
    )
    error = fault(result)
    assert isinstance(error, OutputMappingError)
    assert "did you mean 'rows'?" in str(error)


def test_open_outputs_may_have_any_key():
    """R11: else it fails that step at run time."""
    wide = a_tool("wide", {}, a_model("Wide", {}, extra="allow"))
    assert compiled(a_chain(call(wide, output_mapping={"a": "b"})), wide).success


def test_computed_fields_are_outputs_and_excluded_ones_are_not():
    """R10: what enters the context."""

    class Gives(BaseModel):
        n: int
        inner: int = Field(0, exclude=True)

        @computed_field
        def twice(self) -> int:
            return 2 * self.n

    tool = a_tool("t", {}, Gives)
    assert found(compiled(a_chain(call(tool, output_mapping={"a": "inner", "b": "twice"})), tool)) == [
        (0, "unknown_output_key", "a")
    ]


# ---- contracts


def test_an_output_contract_that_the_tool_cannot_fulfil_is_an_error():
    """api.md, Compile: output_schema_gap, output_type_mismatch."""
    gap = compiled(a_chain(call(GIVE, output_contract=schema(More))), GIVE)
    assert found(gap) == [(0, "output_schema_gap", "missing")]
    assert detail(gap, "output_schema_gap") == (
        "output contract More needs 'missing', which tool 'give' does not return; it returns n, rows; "
        "change the contract or what it is held against"
    )
    error = fault(gap)
    assert isinstance(error, SchemaValidationError)
    assert error.context == "output contract"

    wrong = compiled(a_chain(call(GIVE, output_contract=schema(Text))), GIVE)
    assert found(wrong) == [(0, "output_type_mismatch", "n")]
    assert detail(wrong, "output_type_mismatch") == (
        "output contract Text takes list[int] as 'n', tool 'give' returns int; "
        "change the contract or what it is held against"
    )


def test_an_input_contract_that_the_mapping_cannot_fulfil_is_an_error():
    """W11: the inputs of a step are held against it as well."""
    gap = compiled(a_chain(call(GIVE, {"n": "n"}, input_contract=schema(More))), GIVE)
    assert found(gap) == [(0, "missing_required_input", "missing")]
    assert detail(gap, "missing_required_input") == (
        "input contract More needs 'missing', which the step does not feed; it feeds n; "
        "change the contract or what it is held against"
    )
    assert fault(gap).context == "input contract"
    wrong = compiled(a_chain(call(GIVE, {"n": 3}, input_contract=schema(Text))), GIVE)
    assert detail(wrong, "type_mismatch") == (
        "input contract Text takes list[int] as 'n', the step feeds Literal[3]; "
        "change the contract or what it is held against"
    )


def test_contracts_that_hold_are_bound():
    """R21: both pass the run's gates."""
    result = compiled(
        a_chain(call(GIVE, {"n": "n"}, input_contract=schema(Number), output_contract=schema(Number))), GIVE
    )
    step = result.plan.steps[0]
    assert (result.success, step.plain) == (True, False)
    assert step.check_inputs is not None
    assert step.check_outputs is not None
    assert step.check_inputs({"n": "3"}) == Number(n=3)


@pytest.mark.parametrize("side", ["input", "output"])
def test_what_may_be_there_is_no_gap(side):
    """api.md, Compile: unknown is compatible: open models, optional fields, missing tools."""
    wide = a_tool("wide", a_model("In", {}, extra="allow"), a_model("Out", {}, extra="allow"))
    contract: dict[str, Any] = {f"{side}_contract": schema(More)}
    assert compiled(a_chain(call(wide, **contract)), wide).success
    assert found(compiled(a_chain(call("gone", {"n": "n", "missing": "n"}, **contract)))) == [(0, "missing_tool", None)]
    perhaps: dict[str, Any] = {f"{side}_contract": "tests.compiler.schemas:Perhaps"}
    assert compiled(a_chain(call(GIVE, **perhaps)), GIVE).success


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("ref", ["nowhere.at.all:M", "tests.compiler.schemas:Numbr", schema(Outer.NotAModel)])
def test_a_contract_that_leads_nowhere_is_an_error_of_the_step(side, ref):
    """R16: unresolvable class references are recorded."""
    options: dict[str, Any] = {f"{side}_contract": ref}
    result = compiled(a_chain(call(GIVE, **options)), GIVE)
    assert found(result) == [(0, "unresolvable_schema_ref", f"{side}_contract")]
    error = fault(result)
    assert isinstance(error, SchemaRefPolicyError)
    assert error.ref == ref
    assert detail(result, "unresolvable_schema_ref") == str(error)


# ---- retries


def test_a_retry_policy_is_bound_with_its_classes():
    """R20: what is refused for good has to be named."""
    named = ("OSError", schema(Unlucky), "chainweaver.exceptions:ToolOutputSizeError")
    policy = RetryPolicy(max_retries=2, backoff_seconds=0.5, retryable_errors=named, jitter=True)
    result = compiled(a_chain(call(GIVE, retry=policy)), GIVE)
    retry = result.plan.steps[0].retry
    assert retry is not None
    assert retry.retryable == (OSError, Unlucky, ToolOutputSizeError)
    assert retry.named_refusals == (ToolOutputSizeError,)
    assert (retry.max_retries, retry.jitter, retry.delay_s(2)) == (2, True, 1.0)
    assert not result.plan.steps[0].plain


@pytest.mark.parametrize(
    ("name", "told"),
    [("OSErorr", "did you mean 'OSError'?"), ("builtins:int", "name a class such as 'builtins:OSError'")],
)
@pytest.mark.parametrize("retries", [0, 3])
def test_an_unknown_error_name_in_a_retry_policy_is_a_compile_error(name, told, retries):
    """R20: unresolvable names in it are compile errors, also while it never retries."""
    policy = RetryPolicy(max_retries=retries, retryable_errors=(name,))
    result = compiled(a_chain(call(GIVE, retry=policy)), GIVE)
    assert found(result) == [(0, "unknown_retryable_error", "retry")]
    assert told in detail(result, "unknown_retryable_error")
    assert isinstance(fault(result), SchemaRefPolicyError)


def test_no_retries_are_no_policy():
    """R20: such a step stays on the short path."""
    step = compiled(a_chain(call(GIVE, retry=RetryPolicy(max_retries=0))), GIVE).plan.steps[0]
    assert (step.retry, step.plain) == (None, True)


@pytest.mark.parametrize(
    ("safety", "retries", "warns"),
    [
        (ToolSafetyContract(safe_to_retry=False), 3, True),
        (ToolSafetyContract(idempotent=False), 3, True),
        (ToolSafetyContract(idempotent=False), 0, False),
        (ToolSafetyContract(), 3, False),
        (None, 3, False),
    ],
)
def test_a_retry_of_a_tool_that_declares_against_it_is_pointed_out(safety, retries, warns):
    """api.md, Compile: unsafe_retry."""
    tool = a_tool("pay", {}, ["done"], safety=safety)
    result = compiled(a_chain(call(tool, retry=RetryPolicy(max_retries=retries))), tool)
    assert warned(result) == ([(0, "unsafe_retry", None)] if warns else [])
    if warns:
        assert detail(result, "unsafe_retry") == (
            "tool 'pay' declares that it is not safe to retry, and the step retries it 3 times; "
            "remove the retry policy, or make the tool idempotent and declare it"
        )


def test_a_step_without_its_tool_or_without_a_policy_is_not_warned_of():
    """api.md, Compile: unsafe_retry needs a declaration."""
    assert compiled(a_chain(call("gone", retry=RetryPolicy())), GIVE).warnings == ()


# ---- fallbacks


def fallback(takes: Any, gives: Any = None, mapping: dict[str, Any] | None = None, **options: Any):
    other = a_tool("other", takes, {"n": int, "rows": str} if gives is None else gives)
    return compiled(a_chain(call(GIVE, mapping, on_error="fallback:other", **options)), GIVE, other)


def test_a_fallback_with_the_same_fields_stands_in_silently():
    """R21: it passes the same gates."""
    result = fallback({"n": int})
    step = result.plan.steps[0]
    assert (result.errors, result.warnings) == ((), ())
    assert step.fallback is not None
    assert (step.on_error, step.name, step.fallback.name, step.plain) == ("fallback", "give", "other", False)


@pytest.mark.parametrize("mapping", [None, {"n": "n"}])
def test_a_fallback_that_needs_more_is_an_error(mapping):
    """api.md, Compile: fallback_*."""
    result = fallback({"n": int, "more": str}, mapping=mapping)
    assert found(result) == [(0, "fallback_missing_required_input", "more")]
    assert detail(result, "fallback_missing_required_input") == (
        "fallback 'other' needs 'more', which the step does not feed; add it to input_mapping"
    )
    assert isinstance(fault(result), SchemaValidationError)
    assert fallback({"n": int, "more": (str, "")}, mapping=mapping).success


def test_a_fallback_that_takes_another_type_is_an_error():
    """api.md, Compile: fallback_*; it is asked of what the step feeds, not of what the primary declares."""
    result = fallback({"n": list[int]}, mapping={"n": 3})
    assert found(result) == [(0, "fallback_type_mismatch", "n")]
    assert detail(result, "fallback_type_mismatch") == (
        "fallback 'other' takes list[int] as 'n', the step feeds Literal[3]; name a fallback with the inputs of 'give'"
    )
    assert fallback({"n": list[int]}).success


def test_a_fallback_that_refuses_what_it_does_not_know_is_an_error():
    """api.md, Compile: fallback_*."""
    closed = a_model("Closed", {"m": (int, 0)}, extra="forbid")
    result = fallback(closed)
    assert found(result) == [(0, "fallback_unknown_target_key", "n")]
    assert detail(result, "fallback_unknown_target_key") == (
        "fallback 'other' refuses input 'n', which the step feeds; its fields are m"
    )
    assert fallback(a_model("Lax", {"m": (int, 0)})).success


def test_a_fallback_of_a_whole_context_reader_is_fed_everything():
    """R6: nothing is known to be missing."""
    wide = a_tool("wide", a_model("In", {}, extra="allow"), ["n"])
    other = a_tool("other", {"need": int}, ["n"])
    assert compiled(a_chain(call(wide, on_error="fallback:other")), wide, other).success


def test_a_fallback_that_gives_less_or_otherwise_is_pointed_out():
    """api.md, Compile: fallback_output_*."""
    result = fallback({"n": int}, {"n": list[int]})
    assert warned(result)[:2] == [(0, "fallback_output_type_mismatch", "n"), (0, "fallback_output_gap", "rows")]
    assert detail(result, "fallback_output_type_mismatch") == (
        "fallback 'other' returns list[int] as 'n', tool 'give' returns int; let both return one type"
    )
    assert detail(result, "fallback_output_gap") == (
        "fallback 'other' does not return 'rows', which steps after it may read; let it return it"
    )


def test_only_the_outputs_that_are_kept_are_asked_of_a_fallback():
    """R11: the others are pruned."""
    assert fallback({"n": int}, {"n": int}, output_mapping={"total": "n"}).warnings == ()
    result = fallback({"n": int}, {"rows": str}, output_mapping={"total": "n"})
    assert warned(result) == [(0, "fallback_output_gap", "n")]
    assert fallback({"n": int}, a_model("Wide", {}, extra="allow")).warnings == ()


def test_a_key_that_only_one_of_two_tools_gives_is_not_sure():
    """R3: the one before it stays a candidate."""
    other = a_tool("other", {"n": int}, {"n": int, "extra": int})
    read = a_tool("read", {"n": int, "rows": str, "extra": int}, ["done"])
    flow = a_chain(call(GIVE, on_error="fallback:other"), call(read), on_context_collision="overwrite")
    result = compiled(flow, GIVE, other, read)
    given = {"n": 0, "rows": "given", "extra": 0}
    assert inputs(result, 1, given, {"n": 1, "rows": "made"}) == {"n": 1, "rows": "made", "extra": 0}
    assert inputs(result, 1, given, {"n": 1, "extra": 1}) == {"n": 1, "rows": "given", "extra": 1}


# ---- copies


class Record(TypedDict):
    rows: list[int]


class Rebuilt(BaseModel):
    model_config = ConfigDict(revalidate_instances="always")
    n: int


@pytest.mark.parametrize(
    ("kind", "warns"),
    [
        (list[int], True),
        (dict[str, int], True),
        (tuple[int, ...], True),
        (set[str] | None, True),
        (Rebuilt, True),
        (tuple[int, int], False),
        (Record, False),
        (Person, False),
        (int, False),
        (Any, False),
        (Native[list[int]], False),
        (Native[list[int]] | None, False),
    ],
)
def test_a_container_that_may_grow_and_is_rebuilt_is_pointed_out(kind, warns):
    """R14: only a typed container is rebuilt by validation; `Native[T]` avoids that."""
    tool = a_tool("t", {"rows": kind}, ["done"])
    assert warned(compiled(a_chain(call(tool)), tool)) == ([(0, "native_copy", "rows")] if warns else [])


def test_a_bounded_container_is_left_alone():
    """R14: its type says that there is little to copy."""

    class Few(BaseModel):
        rows: list[int] = Field(max_length=8)

    tool = a_tool("t", Few, ["done"])
    assert compiled(a_chain(call(tool)), tool).warnings == ()


def test_copies_are_told_once_per_tool_with_a_way_out():
    """R14: not at every step that calls it; fallbacks and outputs count as well."""
    tool, other = a_tool("t", {}, {"rows": list[int]}), a_tool("o", {}, {"rows": list[int]})
    flow = a_chain(call(tool), call(tool, on_error="fallback:o"), on_context_collision="overwrite")
    result = compiled(flow, tool, other)
    told = [(one.step_index, one.detail) for one in result.warnings if one.issue_type == "native_copy"]
    words = (
        "output 'rows' of tool '{}' is list[int], so validation copies it item by item; "
        "Native[list[int]] passes the object itself"
    )
    assert told == [(0, words.format("t")), (1, words.format("o"))]


# ---- what is bound of a tool


def planned(tool: Any) -> Any:
    return compiled(a_chain(call(tool)), tool).plan.steps[0].tool


def test_one_tool_is_bound_once_per_plan():
    """design.md, 3: everything a run would look up is looked up once."""
    steps = compiled(a_chain(call(GIVE), call(GIVE), on_context_collision="overwrite"), GIVE).plan.steps
    assert steps[0].tool is steps[1].tool


def test_validators_open_models_by_identity():
    """R10, R14: the validated fields themselves, extras and computed ones included."""

    class Gives(BaseModel):
        model_config = ConfigDict(extra="allow")
        rows: Native[list[int]]
        hidden: int = Field(1, exclude=True)

        @computed_field
        def first(self) -> int:
            return self.rows[0]

    tool = planned(a_tool("t", {}, Gives))
    rows = [3]
    fields = tool.open_output(tool.validate_output({"rows": rows, "more": 1}))
    assert fields == {"rows": [3], "more": 1, "first": 3}
    assert fields["rows"] is rows
    assert tool.direct_output is False


class Private(BaseModel):
    n: int
    _kept: int = PrivateAttr(0)


class Checked(BaseModel):
    n: int

    @model_validator(mode="after")
    def check(self) -> Checked:
        return self


class Hiding(BaseModel):
    n: int = Field(0, exclude=True)


@pytest.mark.parametrize(
    ("model", "direct", "scalar"),
    [
        (Number, True, True),
        (Text, True, False),
        (Private, False, True),
        (Checked, False, False),
        (Hiding, False, False),
    ],
)
def test_how_outputs_are_opened_is_decided_per_model(model, direct, scalar):
    """design.md, 3: `__dict__` where it equals the outputs, and no copies for records where all are scalars."""
    tool = planned(a_tool("t", {}, model))
    assert (tool.direct_output, tool.scalar_outputs) == (direct, scalar)


@pytest.mark.parametrize(
    ("options", "cacheable"),
    [
        ({}, True),
        ({"cacheable": False}, False),
        ({"cacheable": True, "safety": ToolSafetyContract(side_effects=SideEffectLevel.WRITE)}, True),
        ({"safety": ToolSafetyContract(side_effects=SideEffectLevel.WRITE)}, False),
        ({"safety": ToolSafetyContract(side_effects=SideEffectLevel.READ)}, True),
        ({"safety": ToolSafetyContract(cacheable=False)}, False),
    ],
)
def test_tools_with_declared_write_effects_are_not_cacheable_by_default(options, cacheable):
    """R29, R30: the author's word comes first."""
    assert planned(a_tool("t", {}, ["done"], **options)).cacheable is cacheable


def test_inputs_are_fingerprinted_or_the_reason_is_told():
    """R29: what cannot be fingerprinted is never a constant."""
    tool = planned(a_tool("t", {"value": Any}, ["done"]))
    one, two = (tool.validate_input({"value": value}) for value in (1, True))
    assert tool.fingerprint(one) == tool.fingerprint(tool.validate_input({"value": 1})) != tool.fingerprint(two)
    with pytest.raises(NoFingerprint, match="function"):
        tool.fingerprint(tool.validate_input({"value": lambda: None}))


def test_hashes_and_sizes_are_computed_on_demand():
    """R29, E009: schema hash with the author's version; bytes of the JSON form."""
    source = a_tool("t", {}, {"text": str}, schema_version="2")
    tool = planned(source)
    assert tool.schema_hash() == source.schema_hash
    assert tool.output_size(tool.validate_output({"text": "ab"})) == len('{"text":"ab"}')


def test_outputs_that_hold_secrets_are_known():
    """R39: also deep inside, also computed, and never by the name of a class."""

    class SecretSanta(BaseModel):
        name: str

    class Login(BaseModel):
        password: SecretStr
        again: Login | None = None

    class Gives(BaseModel):
        plain: str
        santa: SecretSanta
        token: SecretStr | None
        many: list[SecretStr]
        login: dict[str, Login]
        when: datetime

        @computed_field
        def computed(self) -> SecretStr:
            return SecretStr("x")

    assert planned(a_tool("t", {}, Gives)).secret_outputs == ("token", "many", "login", "computed")


def test_the_lane_of_a_tool_is_kept_and_async_tools_are_never_inline():
    """R4: the lane decides where a call runs."""

    async def wait(inputs: Any) -> dict[str, Any]:
        return {"done": 1}

    assert (planned(GIVE).inline, planned(GIVE).lane) == (True, None)
    assert planned(a_tool("t", {}, ["done"], lane="inline")).inline
    assert not planned(a_tool("t", {}, ["done"], lane="thread")).inline
    assert not planned(a_tool("t", {}, ["done"], wait)).inline


def test_a_tool_whose_models_cannot_be_built_fails_when_it_is_called():
    """R16: compiling such a flow is no crash."""

    class Lost(BaseModel):
        part: NowhereToBeFound  # type: ignore[name-defined]  # noqa: F821 - the point of the test

    tool = a_tool("t", Lost, ["done"])
    result = compiled(a_chain(call(tool)), tool)
    with pytest.raises(Exception, match="not fully defined"):
        result.plan.steps[0].tool.validate_input({"part": 1})  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "options",
    [
        {"step": {"timeout_seconds": 1.0}},
        {"step": {"on_error": "skip"}},
        {"tool": {"timeout_seconds": 1.0}},
        {"tool": {"max_output_size": 10}},
    ],
)
def test_a_step_with_a_policy_of_any_kind_is_not_plain(options):
    """design.md, 3: only a step without one takes the short path."""
    tool = a_tool("t", {"n": (int, 0)}, ["done"], **options.get("tool", {}))
    step = compiled(a_chain(call(tool, **options.get("step", {}))), tool).plan.steps[0]
    assert step.plain is False
    assert compiled(a_chain(call(GIVE)), GIVE).plan.steps[0].plain is True


def test_a_row_holds_what_the_short_path_needs():
    """design.md, 3: no attribute chains in the loop."""
    plan = compiled(a_chain(call(GIVE), call("gone")), GIVE).plan
    tool = plan.steps[0].tool
    assert tool is not None
    row = plan.rows[0]
    assert (row.step, row.plain, row.tool, row.scalars, row.direct) == (plan.steps[0], True, tool, True, True)
    assert (plan.rows[1].plain, plan.rows[1].scalars) == (False, False)


def test_a_finding_prints_itself():
    """api.md, Compile: entries for logs and terminals."""
    result = compiled(a_chain(call("gone", {"x": "n"}, retry=RetryPolicy())))
    assert (
        str(result.errors[0]) == "step 0 (gone): missing_tool: tool 'gone' is not registered; registered tools are none"
    )
    tool = a_tool("t", {"rows": list[int]}, ["done"])
    assert str(compiled(a_chain(call(tool)), tool).warnings[0]).startswith("step 0 (t): native_copy: input 'rows' of")


def test_all_errors_are_raised_at_once_on_request():
    """R15: `raise_for_errors`, for callers who want an exception."""
    from chainweaver import FlowCompileError

    compiled(a_chain(call(GIVE)), GIVE).raise_for_errors()
    result = compiled(a_chain(call("gone"), call(GIVE, {"x": 1}), input_schema_ref=schema(Exactly)), GIVE)
    with pytest.raises(FlowCompileError) as caught:
        result.raise_for_errors()
    assert caught.value.errors == result.errors
    assert "Flow 'f' does not compile: 3 errors." in str(caught.value)
