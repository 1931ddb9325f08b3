"""Keys that are written more than once, or for nobody."""

from __future__ import annotations

import pytest

from chainweaver import ConditionalEdge, FlowExecutionError, ToolSafetyContract
from chainweaver.flow import SideEffectLevel
from tests.compiler.kit import a_chain, a_dag, a_model, a_tool, call, compiled, detail, found, node, schema, warned
from tests.compiler.schemas import Exactly, Number

K = a_tool("k", {"x": (int, 0)}, ["k"])
READ_K = a_tool("read", ["k"], ["done"])
REWRITE = a_tool("rewrite", ["k"], ["k"])
WIDE = a_tool("wide", {}, a_model("Wide", {}, extra="allow"))


# ---- over levels


@pytest.mark.parametrize("policy", ["warn", "error"])
def test_a_key_that_is_written_again_is_pointed_out(policy):
    """R12: statically visible collisions are a warning unless `overwrite`."""
    result = compiled(a_chain(call(K), call(REWRITE), on_context_collision=policy), K, REWRITE)
    assert (result.success, warned(result)) == (True, [(1, "context_collision", "k")])
    assert detail(result, "context_collision") == (
        "it overwrites key 'k' of step 0 ('k'); rename that with output_mapping, "
        "or set on_context_collision to 'overwrite'"
    )


def test_overwriting_on_purpose_is_not_pointed_out():
    """R12: the author has said so."""
    assert compiled(a_chain(call(K), call(REWRITE), on_context_collision="overwrite"), K, REWRITE).warnings == ()


def test_a_key_of_the_declared_input_counts_as_written():
    """R12: the initial input comes before all steps."""
    tool = a_tool("t", ["n"], ["n"])
    result = compiled(a_chain(call(tool), input_schema_ref=schema(Number)), tool)
    assert detail(result, "context_collision").startswith("it overwrites key 'n' of the initial input;")
    assert compiled(a_chain(call(tool)), tool).warnings == ()


def test_an_output_mapping_resolves_a_collision():
    """R11: keys are compared after it."""
    assert compiled(a_chain(call(K), call(REWRITE, output_mapping={"k2": "k"})), K, REWRITE).warnings == ()


# ---- siblings


@pytest.mark.parametrize("policy", ["overwrite", "warn", "error"])
def test_siblings_that_write_one_key_fail_the_later_one(policy):
    """R12: whatever the policy; the planned error is the one that a run would raise."""
    flow = a_dag(node("one", K), node("two", K), on_context_collision=policy)
    result = compiled(flow, K)
    assert found(result) == [(1, "sibling_conflict", "k")]
    assert detail(result, "sibling_conflict") == (
        "step 'two': Key 'k' produced by both 'one' and its sibling 'two'; "
        "rename one of them with output_mapping, or let one step depend on the other"
    )
    make = result.plan.steps[1].fault
    assert make is not None
    error = make()
    assert isinstance(error, FlowExecutionError)
    assert "Key 'k' produced by both 'one' and its sibling 'two'" in error.sentence
    assert result.plan.steps[0].fault is None


def test_every_later_sibling_is_told_of_the_first():
    """R12: three of one level are two conflicts; one further down collides with the last of them."""
    flow = a_dag(node("one", K), node("two", K), node("three", K), node("after", REWRITE, "three"))
    result = compiled(flow, K, REWRITE)
    assert found(result) == [(1, "sibling_conflict", "k"), (2, "sibling_conflict", "k")]
    assert [one.detail[:60] for one in result.errors] == [
        "step 'two': Key 'k' produced by both 'one' and its sibling '",
        "step 'three': Key 'k' produced by both 'one' and its sibling",
    ]
    assert "of step 2 ('three')" in detail(result, "context_collision")


def test_siblings_collide_with_what_came_before_as_well():
    """R12: both overwrite a key of the level above."""
    flow = a_dag(node("first", K), node("one", REWRITE, "first"), node("two", REWRITE, "first"))
    result = compiled(flow, K, REWRITE)
    assert warned(result) == [(1, "context_collision", "k"), (2, "context_collision", "k")]
    assert found(result) == [(2, "sibling_conflict", "k")]


def test_a_sibling_that_may_be_skipped_is_an_error_that_the_run_may_refute():
    """R12: a skipped step merges nothing; the run compares the two."""
    for first, second in (("skip", "fail"), ("fail", "skip")):
        flow = a_dag(node("one", K, on_error=first), node("two", K, on_error=second))
        result = compiled(flow, K)
        assert found(result) == [(1, "sibling_conflict", "k")]
        step = result.plan.steps[1]
        assert (step.fault, step.rivals, step.plain) == (None, (0,), False)


def test_only_siblings_are_compared_where_the_policy_is_not_error():
    """R12: a writer of an earlier level is overwritten, as the policy lets it."""
    steps = [node("first", K), node("one", REWRITE, "first", on_error="skip"), node("two", REWRITE, "first")]
    assert compiled(a_dag(*steps), K, REWRITE).plan.steps[2].rivals == (1,)


def test_siblings_behind_a_branch_are_left_to_the_run():
    """R24: perhaps only one of them runs."""
    choose = a_tool("choose", {}, ["c"])
    flow = a_dag(
        node("choose", choose, branches=[ConditionalEdge(target_step_id="left", predicate="c > 1")]),
        node("left", K, "choose"),
        node("right", K, "choose"),
    )
    result = compiled(flow, choose, K)
    assert (result.errors, result.plan.steps[2].rivals) == ((), (1,))


def test_a_missing_sibling_writes_nothing():
    """R12: it fails before it could."""
    result = compiled(a_dag(node("one", "gone"), node("two", K)), K)
    assert found(result) == [(0, "missing_tool", None)]
    assert result.plan.steps[1].rivals == ()


# ---- who is compared at run time


def rivals(result) -> list[tuple[int, ...]]:
    return [step.rivals for step in result.plan.steps]


def test_without_open_outputs_nothing_is_compared_at_run_time():
    """R12: policy work is decided when the flow is compiled."""
    result = compiled(a_dag(node("one", K), node("after", REWRITE, "one")), K, REWRITE)
    assert rivals(result) == [(), ()]
    assert not any(step.guards_input for step in result.plan.steps)


def test_open_outputs_are_compared_with_all_siblings():
    """R12: nobody knows beforehand what they write."""
    flow = a_dag(node("a", WIDE), node("b", K), node("c", WIDE), node("d", READ_K, "a"))
    assert rivals(compiled(flow, WIDE, K, READ_K)) == [(), (0,), (0, 1), ()]
    flow = a_dag(node("a", K), node("b", READ_K), node("c", WIDE))
    assert rivals(compiled(flow, WIDE, K, READ_K)) == [(), (), (0, 1)]


def test_under_the_policy_error_earlier_writers_are_compared():
    """R12: `ContextKeyCollisionError` at the colliding step; the initial context counts too."""
    flow = a_chain(call(K), call(READ_K), call(REWRITE), call(REWRITE), on_context_collision="error")
    result = compiled(flow, K, READ_K, REWRITE)
    # Whoever surely wrote the key speaks for all before it: had it failed, the run would have stopped.
    assert rivals(result) == [(), (), (0,), (2,)]
    assert all(step.guards_input for step in result.plan.steps)
    assert not any(step.plain for step in result.plan.steps)


def test_where_a_run_goes_on_after_failures_all_earlier_writers_are_compared():
    """R12, R19: with "finish" the last writer may have failed and the one before it not."""
    options = {"on_context_collision": "error", "on_failure": "finish"}
    flow = a_chain(call(K), call(REWRITE), call(REWRITE), **options)
    assert rivals(compiled(flow, K, REWRITE)) == [(), (0,), (0, 1)]
    flow = a_chain(call(K), call(REWRITE, on_error="skip"), call(REWRITE), on_context_collision="error")
    assert rivals(compiled(flow, K, REWRITE)) == [(), (0,), (0, 1)]


def test_open_outputs_are_rivals_of_every_later_step():
    """R12: under the policy "error"."""
    flow = a_chain(call(K), call(WIDE), call(READ_K), on_context_collision="error")
    assert rivals(compiled(flow, K, WIDE, READ_K)) == [(), (0,), (1,)]


def test_siblings_are_rivals_under_the_policy_error_too():
    """R12: a conflict of siblings comes first."""
    flow = a_dag(node("a", WIDE), node("b", K), on_context_collision="error")
    assert rivals(compiled(flow, K, WIDE)) == [(), (0,)]


# ---- keys that nobody reads


def test_a_key_that_a_dynamic_parameter_hides_is_pointed_out():
    """api.md, Compile: shadowed_key."""
    result = compiled(a_chain(call(K), dynamic_params=("k",)), K)
    assert warned(result) == [(0, "shadowed_key", "k")]
    assert detail(result, "shadowed_key") == (
        "key 'k' is hidden by the dynamic parameter of that name; rename it with output_mapping"
    )


def test_a_key_that_is_overwritten_unread_is_pointed_out():
    """api.md, Compile: shadowed_key, also where overwriting is allowed."""
    result = compiled(a_chain(call(K), call(K), on_context_collision="overwrite"), K)
    assert warned(result) == [(1, "shadowed_key", "k")]
    assert detail(result, "shadowed_key") == (
        "key 'k' of step 'k' is overwritten before anything reads it; rename one with output_mapping"
    )
    flow = a_chain(call(a_tool("t", {}, ["n"])), input_schema_ref=schema(Exactly), on_context_collision="overwrite")
    assert detail(compiled(flow, a_tool("t", {}, ["n"])), "shadowed_key").startswith("key 'n' of the flow's input is")


@pytest.mark.parametrize("reader", ["itself", "whole"])
def test_a_key_that_somebody_may_have_read_is_not(reader):
    """api.md, Compile: by its name or in the whole context, also by the step that writes it anew."""
    whole = a_tool("whole", a_model("All", {}, extra="allow"), ["done"])
    middle = [call(whole)] if reader == "whole" else []
    last = call(K) if reader == "whole" else call(REWRITE)
    flow = a_chain(call(K), *middle, last, on_context_collision="overwrite")
    assert compiled(flow, K, whole, REWRITE).warnings == ()


def test_a_candidate_of_a_later_reader_counts_as_read():
    """R3: the writer after it may turn out skipped."""
    flow = a_chain(call(K), call(K, on_error="skip"), call(READ_K), on_context_collision="overwrite")
    assert compiled(flow, K, READ_K).warnings == ()


def test_a_step_whose_outputs_nobody_reads_is_pointed_out_where_the_flow_names_its_outputs():
    """api.md, Compile: unused_output."""
    flow = a_chain(call(K), call(a_tool("t", {}, ["a", "b"])), outputs=("k",))
    result = compiled(flow, K, a_tool("t", {}, ["a", "b"]))
    assert warned(result) == [(1, "unused_output", "a")]
    assert detail(result, "unused_output") == (
        "nothing reads 'a', 'b'; remove the step, or name a key of it in outputs"
    )
    assert compiled(a_chain(*flow.steps), K, a_tool("t", {}, ["a", "b"])).warnings == ()
    assert compiled(a_chain(*flow.steps, outputs=("k", "b")), K, a_tool("t", {}, ["a", "b"])).warnings == ()


def test_a_step_that_is_there_for_its_effects_is_not():
    """api.md, Compile: declared effects are a use; so is whatever a missing tool would do, and having no outputs."""
    mail = a_tool("mail", {}, ["sent"], safety=ToolSafetyContract(side_effects=SideEffectLevel.EXTERNAL))
    mute = a_tool("mute", {}, {})
    flow = a_chain(call(K), call(mail), call(mute), call("gone", output_mapping={"a": "b"}), outputs=("k",))
    assert compiled(flow, K, mail, mute).warnings == ()
