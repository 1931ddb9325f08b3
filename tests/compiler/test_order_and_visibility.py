"""In which order steps are planned, what each of them sees, and whom it therefore waits for."""

from __future__ import annotations

import pytest

from chainweaver import ConditionalEdge, DAGDefinitionError, Tool
from tests.compiler.kit import (
    a_chain,
    a_dag,
    a_model,
    a_tool,
    call,
    compiled,
    detail,
    found,
    inputs,
    node,
    schema,
    warned,
)
from tests.compiler.schemas import Anything, Exactly, Number

A, B, C, D = (a_tool(name, {"x": (int, 0)}, [name]) for name in "abcd")


def order(result) -> list[tuple[str, int]]:
    return [(step.step_id, step.level) for step in result.plan.steps]


# ---- order


def test_plan_order_is_the_level_then_the_declaration():
    """R2: level is the longest path from an entry step; `step_index` is the position."""
    flow = a_dag(node("z", A, "y"), node("y", B, "m"), node("b", C), node("m", D), node("a", A, "b", "y"))
    result = compiled(flow, A, B, C, D)
    assert order(result) == [("b", 0), ("m", 0), ("y", 1), ("z", 2), ("a", 2)]
    assert [step.index for step in result.plan.steps] == [0, 1, 2, 3, 4]
    assert [step.needs for step in result.plan.steps] == [(), (), (1,), (2,), (0, 2)]
    assert [step.feeds for step in result.plan.steps] == [(4,), (2,), (3, 4), (), ()]
    assert result.plan.names == {"b": 0, "m": 1, "y": 2, "z": 3, "a": 4}
    assert (result.plan.need_counts, result.plan.entries) == ((0, 0, 1, 1, 2), (0, 1))


def test_a_linear_flow_is_a_dag_in_which_each_step_depends_on_the_one_before():
    """design.md, 3: there is one kind of plan."""
    result = compiled(a_chain(call(A), call(B), call(C)), A, B, C)
    assert order(result) == [("0", 0), ("1", 1), ("2", 2)]
    assert [step.needs for step in result.plan.steps] == [(), (0,), (1,)]
    assert [step.label for step in result.plan.steps] == ["a", "b", "c"]
    assert len(result.plan.steps) == 3


def test_a_dependency_that_is_named_twice_counts_once():
    """R2: the level does not grow with repetition."""
    result = compiled(a_dag(node("a", A), node("b", B, "a", "a")), A, B)
    assert result.plan.steps[1].needs == (0,)


def test_an_empty_flow_has_an_empty_plan():
    """R2: nothing to order is no error."""
    assert compiled(a_chain()).plan.steps == ()


def test_steps_that_form_no_dag_have_no_plan():
    """R15: a structural fault is raised before anything starts."""
    with pytest.raises(DAGDefinitionError) as caught:
        compiled(a_dag(node("a", A, "b"), node("b", B, "a")), A, B)
    assert caught.value.reason == "cycle"


def test_tools_are_given_by_name_or_one_by_one():
    """api.md, Compile: `compile_flow(flow, tools)`."""
    from chainweaver import compile_flow

    flow = a_chain(call(A))
    assert compile_flow(flow, {"a": A}).success
    assert compile_flow(flow, iter([A])).success
    assert not compile_flow(flow, {}).success


# ---- what a step sees


def take(*keys: str) -> Tool:
    return a_tool("take", dict.fromkeys(keys, int), ["taken"])


def test_the_last_writer_of_an_earlier_level_in_plan_order_wins():
    """R3: initial input, then earlier levels; declaration order does not matter."""
    early, late = a_tool("early", {}, ["k"]), a_tool("late", {"x": (int, 0)}, ["k"])
    reader = take("k")
    flow = a_dag(
        node("read", reader, "second"),
        node("second", late, "first"),
        node("first", early),
        on_context_collision="overwrite",
    )
    result = compiled(flow, early, late, reader)
    assert inputs(result, 2, {"k": 0}, {"k": 1}, {"k": 2}) == {"k": 2}


def test_a_step_does_not_see_its_own_level():
    """R3: what a sibling writes is not there yet, wherever it stands in plan order."""
    make, reader = a_tool("make", {}, ["k"]), take("k")
    for flow in (a_dag(node("make", make), node("read", reader)), a_dag(node("read", reader), node("make", make))):
        result = compiled(flow, make, reader)
        at = result.plan.names["read"]
        assert result.plan.steps[at].needs == ()
        assert inputs(result, at, {"k": 7}, {"k": 1}, {"k": 1}) == {"k": 7}


def test_a_sure_writer_is_the_only_candidate():
    """R3: what lies before it can never be read; neither can what it hides."""
    first, second, reader = a_tool("first", {}, ["k"]), a_tool("second", {}, ["k"]), take("k")
    flow = a_chain(call(first), call(second), call(reader), on_context_collision="overwrite")
    result = compiled(flow, first, second, reader)
    with pytest.raises(KeyError):
        inputs(result, 2, {"k": 0}, {"k": 1}, {})


def test_a_writer_that_may_be_skipped_leaves_the_word_to_those_before_it():
    """R3: an ordered list of candidate writers, the initial input last."""
    first, second, reader = a_tool("first", {}, ["k"]), a_tool("second", {}, ["k"]), take("k")
    flow = a_chain(call(first, on_error="skip"), call(second, on_error="skip"), call(reader))
    result = compiled(flow, first, second, reader)
    assert inputs(result, 2, {"k": 0}, {"k": 1}, {"k": 2}) == {"k": 2}
    assert inputs(result, 2, {"k": 0}, {"k": 1}, None) == {"k": 1}
    assert inputs(result, 2, {"k": 0}, None, None) == {"k": 0}
    assert inputs(result, 2, {}, None, None) == {}


def test_open_outputs_count_as_a_writer_of_every_key():
    """R3: `extra="allow"` may bring anything, before or after a writer that names the key."""
    wide = a_tool("wide", {}, a_model("Wide", {"w": int}, extra="allow"))
    make, reader = a_tool("make", {}, ["k"]), take("k")
    flow = a_chain(call(wide), call(make, on_error="skip"), call(wide), call(reader), on_context_collision="overwrite")
    result = compiled(flow, wide, make, reader)
    assert inputs(result, 3, {"k": 0}, {"k": 1}, {"k": 2}, {"k": 3}) == {"k": 3}
    assert inputs(result, 3, {"k": 0}, {"k": 1}, {"k": 2}, {}) == {"k": 2}
    assert inputs(result, 3, {"k": 0}, {"k": 1}, None, {}) == {"k": 1}
    assert inputs(result, 3, {"k": 0}, {}, None, {}) == {"k": 0}


def test_open_outputs_are_known_keys_to_whoever_reads_them():
    """api.md, Compile: unknown is compatible."""
    wide = a_tool("wide", {}, a_model("Wide", {"w": int}, extra="allow"))
    reader = a_tool("take", {"w": int, "k": list[int]}, ["taken"])
    flow = a_chain(call(wide), call(reader), input_schema_ref=schema(Exactly))
    result = compiled(flow, wide, reader)
    assert result.success
    assert inputs(result, 1, {}, {"w": 1, "k": [1]}) == {"w": 1, "k": [1]}


def test_an_output_mapping_closes_open_outputs():
    """R11: what is not named is pruned."""
    wide = a_tool("wide", {}, a_model("Wide", {"w": int}, extra="allow"))
    flow = a_chain(call(wide, output_mapping={"k": "whatever"}), call(take("k")))
    result = compiled(flow, wide, take("k"))
    assert result.success
    assert inputs(result, 1, {"k": 0}, {"k": 1}) == {"k": 1}


def test_keys_of_a_validated_input_are_read_without_a_search():
    """R8: the validated values, defaults included, are always there."""
    reader = take("n")
    result = compiled(a_chain(call(reader), input_schema_ref=schema(Number)), reader)
    with pytest.raises(KeyError):
        inputs(result, 0, {})
    assert inputs(compiled(a_chain(call(reader)), reader), 0, {}) == {}


def test_a_schema_that_allows_extras_says_nothing_about_other_keys():
    """R8: its author lets callers pass more."""
    reader = take("n", "other")
    assert compiled(a_chain(call(reader), input_schema_ref=schema(Anything)), reader).success


def test_a_closed_schema_makes_other_keys_impossible():
    """R8: nobody can bring them, so the step is planned to fail."""
    reader = take("n", "other")
    result = compiled(a_chain(call(reader), input_schema_ref=schema(Exactly)), reader)
    assert found(result) == [(0, "missing_required_input", "other")]
    assert result.plan.steps[0].fault is not None
    optional = a_tool("take", {"n": int, "other": (int, 0)}, ["taken"])
    result = compiled(a_chain(call(optional), input_schema_ref=schema(Exactly)), optional)
    assert result.success
    assert inputs(result, 0, {"n": 1, "other": 2}) == {"n": 1}


@pytest.mark.parametrize("fields", [1, 2, 3, 4])
def test_any_number_of_sure_fields_is_read_directly(fields):
    """R6: each from the slot of its writer."""
    names = [f"k{at}" for at in range(fields)]
    make, reader = a_tool("make", {}, names), take(*names)
    result = compiled(a_chain(call(make), call(reader)), make, reader)
    assert inputs(result, 1, {}, dict.fromkeys(names, 1)) == dict.fromkeys(names, 1)


# ---- whom a step waits for


def test_a_reader_waits_for_a_writer_that_it_does_not_depend_on():
    """R3: the edge is added and said so."""
    make, mid, reader = a_tool("make", {}, ["k"]), a_tool("mid", {}, ["m"]), take("k")
    flow = a_dag(node("make", make), node("mid", mid), node("read", reader, "mid"))
    result = compiled(flow, make, mid, reader)
    assert warned(result) == [(2, "implicit_dependency", None)]
    assert detail(result, "implicit_dependency") == (
        "step 'read': it reads what step 'make' may write, so it waits for it; say so with depends_on=['make']"
    )
    assert (result.plan.steps[2].needs, result.plan.steps[0].feeds) == ((0, 1), (2,))
    assert inputs(result, 2, {"k": 0}, {"k": 1}, {}) == {"k": 1}


def test_nothing_is_added_for_an_ancestor():
    """R3: it is waited for anyway, also through an edge that was added for another step."""
    make, mid, reader = a_tool("make", {}, ["k"]), a_tool("mid", {"k": int}, ["m"]), take("k")
    flow = a_dag(node("make", make), node("mid", mid, "make"), node("read", reader, "mid"))
    assert compiled(flow, make, mid, reader).warnings == ()
    flow = a_dag(node("make", make), node("x", A), node("mid", mid, "x"), node("read", reader, "mid"))
    result = compiled(flow, make, mid, reader, A)
    assert warned(result) == [(2, "implicit_dependency", None)]
    assert result.plan.steps[3].needs == (2,)


def test_a_reader_of_the_whole_context_waits_for_every_earlier_level():
    """R3: it may read what any of them writes."""
    everything = a_tool("all", a_model("All", {}, extra="allow"), ["done"])
    flow = a_dag(node("a", A), node("b", B), node("all", everything, "b"))
    result = compiled(flow, A, B, everything)
    assert (result.plan.steps[2].needs, warned(result)) == ((0, 1), [(2, "implicit_dependency", None)])


def test_a_step_whose_tool_is_missing_is_not_waited_for():
    """R3: it will write nothing, and nothing about its readers is called wrong for it."""
    reader = take("k")
    flow = a_dag(node("gone", "gone"), node("b", B), node("read", reader, "b"), input_schema_ref=schema(Exactly))
    result = compiled(flow, B, reader)
    assert (found(result), warned(result)) == ([(0, "missing_tool", None)], [])
    assert result.plan.steps[2].needs == (1,)


def test_a_missing_tool_with_an_output_mapping_has_known_keys():
    """R11: the mapping says what would be written."""
    text = a_tool("take", {"k": list[int]}, ["taken"])
    steps = [call("gone", output_mapping={"k": "v"}), call(text), call("other", {"x": "v"})]
    result = compiled(a_chain(*steps, input_schema_ref=schema(Exactly)), text, a_tool("other", ["x"], ["y"]))
    assert found(result) == [(0, "missing_tool", None), (2, "missing_mapping_key", "x")]


def test_a_whole_context_reader_misses_what_it_requires():
    """W11: a required field of a model that allows extras is looked for like any other."""
    everything = a_tool("all", a_model("All", {"need": int}, extra="allow"), ["done"])
    result = compiled(a_chain(call(everything), input_schema_ref=schema(Exactly)), everything)
    assert found(result) == [(0, "missing_required_input", "need")]


# ---- branches, as far as they are data


def branching(**options) -> object:
    return a_dag(
        node("choose", A, branches=[ConditionalEdge(target_step_id="left", predicate="a > 1")], **options),
        node("left", B, "choose"),
        node("right", C, "choose"),
        node("join", D, "left", "right"),
    )


def test_a_step_that_no_branch_leads_to_is_pointed_out():
    """R24: with a default, only the targets and the default can run; without one, all dependents."""
    result = compiled(branching(default_next="left"), A, B, C, D)
    assert warned(result) == [(2, "unreachable_step", None)]
    assert detail(result, "unreachable_step") == (
        "step 'right': no branch of 'choose' leads here; name the step in a branch or in default_next"
    )
    assert compiled(branching(), A, B, C, D).warnings == ()
    assert compiled(branching(default_next="right"), A, B, C, D).warnings == ()


def test_what_hangs_behind_an_unreachable_step_is_unreachable_too():
    """R24: a join with one live parent runs."""
    flow = a_dag(
        node("choose", A, default_next="left"),
        node("left", B, "choose"),
        node("right", C, "choose"),
        node("end", D, "right"),
    )
    assert warned(compiled(flow, A, B, C, D)) == [(2, "unreachable_step", None), (3, "unreachable_step", None)]


def test_a_step_behind_a_branch_may_not_have_run():
    """R3, R24: a writer may turn out skipped, so those before it stay candidates."""
    first, second, reader = a_tool("first", {}, ["k"]), a_tool("second", {}, ["k"]), take("k")
    flow = a_dag(
        node("first", first, branches=[ConditionalEdge(target_step_id="second", predicate="k > 1")]),
        node("second", second, "first"),
        node("read", reader, "first", "second"),
        on_context_collision="overwrite",
    )
    result = compiled(flow, first, second, reader)
    assert inputs(result, 2, {"k": 0}, {"k": 1}, None) == {"k": 1}
