"""Sub-flows, compiled and embedded: what fits together, what a step knows of the flow it runs, whose plan is whose."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from chainweaver import DAGFlow, DAGFlowStep, FlowRegistry, SchemaRefAllowlist, literal
from chainweaver.compiler import CompilationResult, PlanCache, compile_flow
from chainweaver.compiler.compose import Composition, finder_of
from chainweaver.exceptions import FlowCompositionError
from tests.compiler.kit import (
    a_chain,
    a_dag,
    a_tool,
    call,
    compiled,
    detail,
    found,
    inputs,
    named,
    node,
    schema,
    sub,
    warned,
)
from tests.compiler.schemas import Anything, Exactly, Number, Perhaps

A, B, TEXT = a_tool("a", ["n"], ["a_out"]), a_tool("b", ["n"], ["b_out"]), a_tool("text", {"t": list[int]}, ["t_out"])
TOOLS = [A, B, TEXT]


def flow(name: str, *steps: Any, **options: Any) -> Any:
    return named(name, a_chain(*steps, **options))


INNER = flow("inner", call(A), call(B))


def over(*steps: Any, flows: Any = (INNER,), tools: Any = TOOLS, **options: Any) -> CompilationResult:
    """The flow "f" of these steps, which may run the others."""
    return compiled(a_chain(*steps, **options), *tools, flows=flows)


# ---- what fits together


def test_a_sub_flow_is_embedded_as_a_plan():
    """R27: never flattened; the step stands for it, under its name and with its version."""
    result = over(sub("inner"))
    [step] = result.plan.steps

    assert result.errors == ()
    assert step.child is not None
    assert [one.name for one in step.child.steps] == ["a", "b"]
    assert (step.child.flow_name, step.name, step.label) == ("inner", "inner", "inner")
    assert step.tool is not None
    assert (step.tool.name, step.tool.cacheable, step.tool.safety, step.plain) == ("inner", False, None, False)
    assert result.plan.children == (("inner", "0.1.0"),)


def test_a_plan_knows_all_flows_that_it_reaches():
    """R15, R27: each once, the nearer ones first."""
    middle = flow("middle", sub("inner"), sub("other"))
    other = flow("other", call(A))

    plan = over(sub("middle"), sub("inner"), flows=[INNER, middle, other]).plan
    assert plan.children == (("middle", "0.1.0"), ("inner", "0.1.0"), ("other", "0.1.0"))
    assert over(call(A)).plan.children == ()


def test_the_version_that_a_step_names_is_the_one_that_runs():
    """R27: without one it is the highest."""
    old, new = (named("inner", a_chain(call(tool)), version=version) for tool, version in ((A, "1.0.0"), (B, "2.0.0")))

    def runs(**options: Any) -> str:
        child = over(sub("inner", **options), flows=[new, old]).plan.steps[0].child
        assert child is not None
        return child.steps[0].name

    assert (runs(), runs(flow_version="1.0.0"), runs(flow_version="2.0.0")) == ("b", "a", "b")


@pytest.mark.parametrize("source", ["registry", "mapping", "list", "function", "nothing"])
def test_flows_come_from_wherever_they_are(source: str):
    """R27: a registry, the flows themselves, or whoever finds them."""
    registry = FlowRegistry()
    registry.register_flow(INNER)

    def find(name: str, version: str | None) -> Any:
        return registry.get_flow(name, version=version)

    sources: dict[str, Any] = {
        "registry": registry,
        "mapping": {"inner": INNER},
        "list": [INNER],
        "function": find,
        "nothing": None,
    }
    result = compile_flow(a_chain(sub("inner")), TOOLS, flows=sources[source])

    assert result.success == (source != "nothing")


def test_a_flow_that_is_not_there_is_named_with_those_that_are():
    """R15: as a finding beforehand, and as an error before anything starts."""
    result = over(sub("inenr"), sub("inner", flow_version="9"))
    errors = [make() for make in result.plan.composition]

    assert [(one[0], one[1]) for one in found(result)] == [
        (0, "composition_unknown_flow"),
        (1, "composition_unknown_flow"),
    ]
    assert result.errors[0].detail == (
        "sub-flow 'inenr' cannot be composed (unknown_flow): 'f' calls 'inenr', which is not registered; "
        "did you mean 'inner'?"
    )
    assert [type(one) for one in errors] == [FlowCompositionError] * 2
    assert [(one.flow_name, one.reason) for one in errors if isinstance(one, FlowCompositionError)] == [
        ("f", "unknown_flow")
    ] * 2
    assert "'f' calls 'inner' 9, which is not registered" in str(errors[1])
    assert "register 'inner' 9 first" in str(errors[1])
    assert result.plan.steps[0].child is None


def test_every_call_of_a_composition_error_makes_a_new_one():
    """R15: tracebacks must not pile up in a plan."""
    [make] = over(sub("gone")).plan.composition

    assert make() is not make()
    assert str(make()) == str(make())


@pytest.mark.parametrize("length", [1, 2, 3])
def test_flows_that_call_themselves_are_refused(length: int):
    """R15: directly or over others; the way is shown."""
    others = [flow(f"f{at}", sub(f"f{at + 1}" if at < length - 1 else "f")) for at in range(1, length)]
    start = a_chain(sub("f1" if length > 1 else "f"))
    result = compiled(start, flows=[start, *others])
    [make] = result.plan.composition
    error = make()

    assert found(result)[0][1] == "composition_cycle"
    assert isinstance(error, FlowCompositionError)
    assert error.reason == "cycle"
    path = ["f", *(f"f{at}" for at in range(1, length)), "f"]
    assert " -> ".join(f"'{one}'" for one in path) in str(error)


def test_another_version_of_a_flow_around_is_the_same_flow():
    """R15: a flow that calls an older self has no end that anybody could see."""
    old = named("f", a_chain(call(A)), version="0.0.1")

    assert found(compiled(a_chain(sub("f", flow_version="0.0.1")), A, flows=[old]))[0][1] == "composition_cycle"


@pytest.mark.parametrize(("limit", "is_fine"), [(3, True), (2, False)])
def test_flows_go_only_so_deep(limit: int, is_fine: bool):
    """R15: the limit counts the flows below the outermost one."""
    flows = [flow("one", sub("two")), flow("two", sub("three")), flow("three", call(A))]
    result = compiled(a_chain(sub("one")), A, flows=flows, max_composition_depth=limit)

    assert result.success == is_fine
    if not is_fine:
        assert found(result)[0][1] == "composition_max_depth_exceeded"
        error = result.plan.composition[0]()
        assert isinstance(error, FlowCompositionError)
        assert error.reason == "max_depth_exceeded"
        assert "'f' -> 'one' -> 'two' -> 'three' is more than 2 flows deep" in str(error)
        assert "max_composition_depth" in str(error.fix)


def test_a_flow_may_be_run_by_several_steps():
    """R15: that is no circle."""
    result = over(sub("inner", output_mapping={"x": "a_out"}), sub("inner", output_mapping={"y": "a_out"}))

    assert result.errors == ()
    assert result.plan.composition == ()


def test_errors_of_composition_are_gathered_from_all_depths():
    """R15: all of them are told at once."""
    middle = flow("middle", sub("gone"), sub("lost"))
    result = over(sub("middle"), sub("missing"), flows=[middle])

    assert [str(make()).partition(",")[0].rpartition(" calls ")[2] for make in result.plan.composition] == [
        "'gone'",
        "'lost'",
        "'missing'",
    ]


def test_what_is_found_in_a_sub_flow_is_found_in_the_step_around_it():
    """R16, R27: with the words of the sub-flow; the step itself is sound, its inside fails when it gets there."""
    broken = flow("inner", call("gone"), call(A, output_mapping={"n": "a_out"}))
    result = compiled(a_dag(DAGFlowStep(step_id="sub", flow_name="inner")), A, flows=[broken])

    assert found(result) == [(0, "missing_tool", None)]
    assert detail(result, "missing_tool").startswith("step 'sub': in sub-flow 'inner': step 0 (gone)")
    [step] = result.plan.steps
    assert step.fault is None
    assert step.child is not None
    assert step.child.steps[0].fault is not None


def test_warnings_of_a_sub_flow_are_handed_on():
    """R12, R27: what is probably not meant there is probably not meant here."""
    twice = flow("inner", call(A), call(A))
    result = over(sub("inner"), flows=[twice])

    assert ("context_collision", "a_out") in [one[1:] for one in warned(result)]
    assert "in sub-flow 'inner'" in detail(result, "context_collision")


def test_a_policy_about_classes_holds_for_sub_flows():
    """R34: what a flow may not name, a flow in it may not name either."""
    inner = flow("inner", call(A), input_schema_ref=schema(Exactly))

    assert compiled(a_chain(sub("inner")), A, flows=[inner]).errors == ()
    refused = compiled(a_chain(sub("inner")), A, flows=[inner], policy=SchemaRefAllowlist(modules=("shop",)))
    assert [one[1] for one in found(refused)] == ["unresolvable_schema_ref"]


# ---- what a step knows of the flow it runs


def test_without_a_schema_a_sub_flow_takes_what_its_steps_look_for():
    """R6, R27: the keys that they would find in the initial context, and those only."""
    inner = flow("inner", call(A), call(TEXT, {"t": "rows"}), call(B, {"n": "a_out"}))
    result = over(sub("inner"), flows=[inner])

    assert inputs(result, 0, {"n": 1, "rows": [2], "other": 3, "a_out": 9}) == {"n": 1, "rows": [2]}


def test_a_sub_flow_that_reads_everything_takes_everything():
    """R6, R27: a step inside with an open model wants the whole context."""
    everything = a_tool("all", Anything, ["done"])
    result = over(sub("inner"), flows=[flow("inner", call(everything))], tools=[everything])

    assert inputs(result, 0, {"n": 1, "other": 3}) == {"n": 1, "other": 3}


def test_a_sub_flow_with_a_schema_takes_what_that_names():
    """R6, R8, R27: fields with a default may be left out."""
    inner = flow("inner", call(A), input_schema_ref=schema(Perhaps))

    assert inputs(over(sub("inner"), flows=[inner]), 0, {"n": 1, "other": 3}) == {"n": 1}
    assert inputs(over(sub("inner"), flows=[inner]), 0, {"n": 1, "missing": "x"}) == {"n": 1, "missing": "x"}


def test_what_a_sub_flow_requires_has_to_be_fed():
    """R16, R27: as the input of a tool."""
    inner = flow("inner", call(A), input_schema_ref=schema(Exactly))
    around = {"input_schema_ref": schema(Number)}

    assert found(over(sub("inner", {"m": "n"}), flows=[inner], **around)) == [
        (0, "unknown_target_key", "m"),
        (0, "missing_required_input", "n"),
    ]
    assert over(sub("inner", {"n": "n"}), flows=[inner], **around).errors == ()


def test_a_sub_flow_without_a_closed_schema_takes_further_keys():
    """R8, R27: they are in its initial context."""
    for options in ({}, {"input_schema_ref": schema(Number)}):
        inner = flow("inner", call(A), **options)
        result = over(sub("inner", {"n": 1, "m": "k"}), flows=[inner])

        assert result.errors == ()
        assert inputs(result, 0, {"k": 2}) == {"n": 1, "m": 2}


def test_what_a_sub_flow_is_fed_is_held_against_its_schema():
    """R16, R27: types as for a tool."""
    inner = flow("inner", call(A), input_schema_ref=schema(Exactly))

    assert found(over(sub("inner", {"n": literal("many")}), flows=[inner])) == [(0, "type_mismatch", "n")]


def test_a_sub_flow_gives_what_its_steps_write():
    """R13, R27: with its types, and not what it was given."""
    result = over(sub("inner"), call(TEXT, {"t": "a_out"}))
    closed = over(sub("inner", {"n": 1}), call(TEXT, {"t": "n"}), input_schema_ref=schema(Exactly))

    assert found(result) == [(1, "type_mismatch", "t")]
    assert inputs(closed, 1, {"n": 1}, {"n": 7, "a_out": 2}) == {"t": 1}, "n is that of the caller"


def test_a_sub_flow_gives_what_its_outputs_name():
    """R13, R27: and nothing else, with types, and whenever it has not failed."""
    inner = flow("inner", call(A), call(B), outputs=("b_out", "n"), input_schema_ref=schema(Exactly))
    read = over(sub("inner", {"n": 1}), call(TEXT, {"t": "a_out"}), flows=[inner], input_schema_ref=schema(Exactly))

    assert found(read) == [(1, "missing_mapping_key", "t")]
    result = over(sub("inner", {"n": 1}), call(A, {"n": "b_out"}), flows=[inner])
    assert inputs(result, 1, {"b_out": 0}, {"b_out": 3, "n": 1}) == {"n": 3}
    with pytest.raises(LookupError):
        inputs(result, 1, {"b_out": 0}, {"n": 1})


def test_an_output_that_may_have_several_types_has_none_for_certain():
    """R13, R27: never a false error."""
    texts = a_tool("b", ["n"], {"a_out": str})
    inner = flow("inner", call(A, on_error="skip"), call(texts, on_error="skip"), on_context_collision="overwrite")

    assert over(sub("inner"), call(TEXT, {"t": "a_out"}), flows=[inner], tools=[A, texts, TEXT]).errors == ()


def test_what_a_sub_flow_perhaps_gives_is_looked_for_before_as_well():
    """R3, R27: a step inside may be skipped."""
    inner = flow("inner", call(A, on_error="skip"))
    result = over(sub("inner"), call(B, {"n": "a_out"}), flows=[inner])

    assert inputs(result, 1, {"a_out": 5}, {}) == {"n": 5}
    assert inputs(result, 1, {"a_out": 5}, {"a_out": 6}) == {"n": 6}


@pytest.mark.parametrize("what", ["open", "unknown"])
def test_what_nobody_knows_of_a_sub_flow_makes_its_outputs_open(what: str):
    """R3, R27: a step inside with open outputs, or one whose tool is not there."""
    loose = a_tool("loose", {}, Anything)
    inner = flow("inner", call(loose if what == "open" else "gone"))
    result = over(sub("inner"), call(A, {"n": "k"}), flows=[inner], tools=[A, loose], input_schema_ref=schema(Exactly))

    assert (1, "missing_mapping_key", "n") not in found(result)
    assert inputs(result, 1, {}, {"k": 5}) == {"n": 5}


def test_an_output_that_a_sub_flow_does_not_give_is_an_error():
    """R11, R27: as for a tool."""
    result = over(sub("inner", output_mapping={"x": "c_out"}))

    assert found(result) == [(0, "unknown_output_key", "x")]
    assert "its outputs are a_out, b_out" in detail(result, "unknown_output_key")


def test_dynamic_parameters_are_no_inputs_of_a_sub_flow():
    """R13, R27: they are handed on beside them."""
    inner = flow("inner", call(A, {"n": "key"}), dynamic_params=("key",))
    result = over(sub("inner"), flows=[inner], dynamic_params=("key",))

    assert inputs(result, 0, {"key": 1}, None, {"key": 2}) == {}
    assert result.plan.steps[0].dynamic_fields == ()


@pytest.mark.parametrize(
    "step",
    [sub("inner"), sub("inner", {"n": "key"}), sub("inner", map_over="keys", map_as="n")],
    ids=["by its name", "mapped", "as an item"],
)
def test_a_dynamic_parameter_feeds_no_sub_flow_that_does_not_list_it(step):
    """R13, R27: inside it would be an input like any other, which records show."""
    key = "key" if not step.input_mapping and not step.map_over else "n"
    inner = flow("inner", call(A, {"n": key}))
    result = over(step, flows=[inner], dynamic_params=("key", "keys"))

    assert found(result) == [(0, "unlisted_parameter", key)]
    assert f"add '{key}' to the dynamic_params of 'inner'" in detail(result, "unlisted_parameter")


def test_a_dynamic_parameter_that_the_flow_around_cannot_hand_on_is_pointed_out():
    """R13, R27: it is handed on where both list it, and may be fed like any input."""
    inner = flow("inner", call(A, {"n": "key"}), dynamic_params=("key",))
    result = over(sub("inner", {"m": literal(1)}), flows=[inner])

    assert warned(result) == [(0, "missing_dynamic_parameter", "key")]
    assert result.warnings[0].detail == (
        "sub-flow 'inner' takes the dynamic parameter 'key', and flow 'f' has none to hand on; "
        "list it in dynamic_params here too, or feed it in input_mapping"
    )
    mapped = over(sub("inner", map_over="ns", map_as="n"), flows=[inner])
    assert warned(mapped) == [(0, "missing_dynamic_parameter", "key")]
    for fed in (
        over(sub("inner"), flows=[inner], dynamic_params=("key",)),
        over(sub("inner", {"key": literal(1)}), flows=[inner]),
        over(sub("inner", {"key": "key"}, map_over="ns", map_as="key"), flows=[inner]),
    ):
        assert warned(fed) == []


def test_a_fallback_is_held_against_the_inputs_and_outputs_of_the_sub_flow():
    """R21, R27: it gets the same and should give the same."""
    result = over(sub("inner", {"n": "n"}, on_error="fallback:text"), input_schema_ref=schema(Exactly))

    assert found(result) == [(0, "fallback_missing_required_input", "t")]
    assert ("fallback_output_gap", "a_out") in [one[1:] for one in warned(result)]


def test_a_sub_flow_per_item_is_bound_like_a_tool_per_item():
    """R27, R28: its outputs are lists."""
    result = over(sub("inner", map_over="ns", map_as="n"), call(TEXT, {"t": "a_out"}))

    assert result.errors == ()
    step = result.plan.steps[0]
    assert (step.child, step.each is not None) == (None, True)
    assert step.each is not None
    assert step.each.step.child is not None
    assert step.each.keys == ("a_out", "b_out")
    assert result.plan.children == (("inner", "0.1.0"),)


def test_a_step_whose_sub_flow_is_not_there_reads_and_writes_what_its_mappings_say():
    """R16: nothing is called wrong that nobody can know."""
    result = over(
        sub("gone", {"x": "n"}, output_mapping={"k": "v"}), call(TEXT, {"t": "k"}), input_schema_ref=schema(Exactly)
    )

    assert [one[1] for one in found(result)] == ["composition_unknown_flow"]
    assert inputs(result, 0, {"n": 1}) == {"x": 1}


def test_lanes_of_tools_inside_count_for_the_flow_around():
    """R4: whether tools may be called in the running thread is a question about all of them."""
    inline, threaded = a_tool("inline", {}, [], lane="inline"), a_tool("threaded", {}, [], lane="thread")
    inner = flow("inner", call(inline), call(threaded))

    assert over(sub("inner"), flows=[inner], tools=[inline, threaded]).plan.inline_lanes == {None, "inline"}


# ---- capabilities


def test_a_capability_takes_anything_and_gives_anything():
    """R26: without a mapping the whole context; what comes after it finds what it may have given."""
    ask = DAGFlowStep(step_id="ask", step_type="capability", capability_id="people")
    result = compiled(a_dag(ask, node("a", A, "ask"), input_schema_ref=schema(Exactly)), A)

    assert result.errors == ()
    assert inputs(result, 0, {"n": 1, "m": 2}) == {"n": 1, "m": 2}
    assert inputs(result, 1, {"n": 1}, {"n": 3}) == {"n": 3}
    assert result.plan.steps[0].capability == "people"
    assert not result.plan.steps[0].plain


class Given(BaseModel):
    name: str


def test_what_a_capability_gives_is_taken_by_name():
    """R10: a mapping or a model; anything else is refused."""
    ask = DAGFlowStep(step_id="ask", step_type="capability", capability_id="people")
    tool = compiled(a_dag(ask)).plan.steps[0].tool

    assert tool is not None
    assert tool.open_output(tool.validate_output({"a": 1})) == {"a": 1}
    assert tool.open_output(tool.validate_output(Given(name="Ada"))) == {"name": "Ada"}
    with pytest.raises(TypeError, match="it returned list, not a mapping"):
        tool.validate_output([1])
    with pytest.raises(TypeError, match="it returned a mapping with 3 for a name, and a name is a text"):
        tool.validate_output({"a": 1, 3: 2})


def test_a_capability_with_a_tool_is_bound_like_that_tool():
    """R26: its schemas say what goes in and out."""
    ask = DAGFlowStep(step_id="ask", step_type="capability", capability_id="people", tool_name="a")
    result = compiled(a_dag(ask), A)

    assert inputs(result, 0, {"n": 1, "m": 2}) == {"n": 1}
    assert result.plan.steps[0].tool is not None
    assert result.plan.steps[0].tool.fn is A.fn


# ---- rehearsals


def test_a_tool_has_a_rehearsal_when_it_says_how():
    """R26: behind the same gates, never cached, and in a lane that fits it."""

    async def rehearse(given: Any) -> dict[str, int]:
        return {"out": 0}

    tool = a_tool("t", ["n"], ["out"], dry_run_fn=rehearse, cacheable=True)
    planned = compiled(a_chain(call(tool)), tool).plan.steps[0].tool
    assert planned is not None
    assert planned.dry is not None

    assert (planned.dry.fn, planned.dry.is_async, planned.dry.inline, planned.dry.cacheable) == (
        rehearse,
        True,
        False,
        False,
    )
    assert planned.dry.validate_input is planned.validate_input
    assert (planned.is_async, planned.cacheable) == (False, True)
    bare = compiled(a_chain(call(A)), A).plan.steps[0].tool
    assert bare is not None
    assert bare.dry is None


# ---- whose plan is whose


def cached(plans: PlanCache, outer: Any, tools: Any, *flows: Any) -> CompilationResult:
    return plans.compiled(outer, {tool.name: tool for tool in tools}, Composition(finder_of(flows)))


def test_a_plan_is_another_one_when_a_sub_flow_changed():
    """R29: plans are keyed by all flows that they reach, however deep, by content."""
    plans, outer = PlanCache(), a_chain(sub("middle"))
    middle = flow("middle", sub("inner"))
    first = cached(plans, outer, TOOLS, middle, INNER)

    assert cached(plans, outer, TOOLS, middle, flow("inner", call(A), call(B))) is first
    assert cached(plans, outer, TOOLS, middle, flow("inner", call(B), call(A))) is not first


def test_a_plan_is_another_one_when_a_tool_of_a_sub_flow_was_replaced():
    """R29: by registration, not by schema."""
    plans, outer = PlanCache(), a_chain(sub("inner"))
    first = cached(plans, outer, TOOLS, INNER)
    again = a_tool("b", ["n"], ["b_out"])

    assert cached(plans, outer, [A, again], INNER) is not first
    assert cached(plans, outer, TOOLS, INNER) is first


def test_a_plan_is_another_one_when_a_missing_flow_came():
    """R29: what could not be composed then may fit now."""
    plans, outer = PlanCache(), a_chain(sub("inner"))
    before, after = cached(plans, outer, TOOLS), cached(plans, outer, TOOLS, INNER)

    assert (before.success, after.success) == (False, True)
    assert cached(plans, outer, TOOLS) is before


def test_a_sub_flow_without_a_digest_is_the_same_as_itself_only():
    """R29: as a flow without one."""
    plans, outer = PlanCache(), a_chain(sub("inner"))
    odd, twin = (flow("inner", call(A, {"n": literal(len)})) for _ in range(2))

    def find(flow: Any) -> Composition:
        return Composition(lambda name, version: flow)

    tools = {tool.name: tool for tool in TOOLS}
    first = plans.compiled(outer, tools, find(odd))
    child = first.plan.steps[0].child
    assert child is not None
    assert child.digest == ""
    assert plans.compiled(outer, tools, find(odd)) is first
    assert plans.compiled(outer, tools, find(twin)) is not first


def test_whoever_finds_flows_may_refuse_with_an_error_of_its_own():
    """R15: a flow that is not there is one thing, a store that is broken another."""

    def broken(name: str, version: str | None) -> Any:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        compile_flow(a_chain(sub("inner")), TOOLS, flows=broken)


def test_a_flow_alone_names_no_others():
    """R15: a plan cache that knows no flows says so."""
    result = PlanCache().compiled(a_chain(sub("inner")), {})

    assert [one[1] for one in found(result)] == ["composition_unknown_flow"]


def test_a_key_that_one_step_surely_writes_is_sure_whoever_may_write_it_as_well():
    """R12, R27: a sibling of the sub-flow that writes it too is told of beforehand, and fails."""
    tools = [a_tool("a", [], ["v"]), a_tool("b", [], ["v"])]
    inner = DAGFlow(
        name="inner",
        version="1.0.0",
        description="d",
        steps=[
            DAGFlowStep(step_id="a", tool_name="a"),
            DAGFlowStep(step_id="b", tool_name="b", depends_on=["a"], on_error="skip"),
        ],
    )
    outer = DAGFlow(
        name="outer",
        version="1.0.0",
        description="d",
        steps=[DAGFlowStep(step_id="sub", flow_name="inner"), DAGFlowStep(step_id="c", tool_name="a")],
    )

    result = compile_flow(outer, tools, flows=[inner])

    assert [(one.step_index, one.issue_type) for one in result.errors] == [(1, "sibling_conflict")]
    assert result.plan.steps[1].fault is not None
