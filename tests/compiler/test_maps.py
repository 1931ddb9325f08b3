"""Maps, bound: what is read once and what per item, which types items and lists have, what is wrong with them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from chainweaver import DAGFlowStep, Native, literal, ref, template
from chainweaver.compiler import CompilationResult
from chainweaver.exceptions import FlowExecutionError, InputMappingError
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
    named,
    node,
    schema,
    sub,
    warned,
)
from tests.compiler.schemas import Exactly, Number

DOUBLE = a_tool("double", ["item"], ["twice"])


class Row(BaseModel):
    key: str
    n: int


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


def maker(kind: Any, key: str = "items") -> Any:
    return a_tool("make", {}, {key: kind})


def mapping_over(kind: Any, tool: Any = DOUBLE, mapping: Any = None, *others: Any, **options: Any) -> CompilationResult:
    """A tool that makes items of this type, and a step that maps over them."""
    made = maker(kind)
    flow = a_chain(call(made), call(tool, mapping, **{"map_over": "items", **options}))
    return compiled(flow, made, tool, *others)


def called(result: CompilationResult, outer: dict[str, Any], item: Any, index: int = 1) -> dict[str, Any]:
    """What the call for an item reads."""
    each = result.plan.steps[index].each
    assert each is not None
    return each.read_item(outer, item)


# ---- in two parts


def test_what_does_not_change_is_read_once_and_the_rest_per_item():
    """R28: the list and what calls read of the context on the one side, the item on the other."""
    add = a_tool("add", ["n", "m", "key"], ["sum"])
    result = mapping_over(list[Row], add, {"n": "n", "m": "/item/n", "key": 3})

    outer = inputs(result, 1, {"n": 1, "other": 2}, {"items": [5]})
    assert outer == {"items": [5], "n": 1}
    assert called(result, outer, {"n": 7}) == {"n": 1, "m": 7, "key": 3}
    assert result.plan.steps[1].each.items_of(outer) == [5]  # type: ignore[union-attr]


def test_every_form_of_a_mapping_may_read_the_item():
    """R6, R28: keys, pointers, templates and defaults; what they read of the context is read once."""
    add = a_tool("add", {"a": Any, "b": Any, "c": Any, "d": Any, "e": Any}, ["sum"])
    mapping = {
        "a": "row",
        "b": "/row/n",
        "c": template("${row.key} of ${owner}"),
        "d": ref("gone", default=9),
        "e": literal("row"),
    }
    result = mapping_over(list[Row], add, mapping, map_as="row")

    outer = inputs(result, 1, {"owner": "Ada"}, {"items": []})
    assert outer == {"items": [], "owner": "Ada"}
    row = {"n": 7, "key": "k"}
    assert called(result, outer, row) == {"a": row, "b": 7, "c": "k of Ada", "d": 9, "e": "row"}


def test_an_empty_mapping_gives_a_call_the_keys_that_its_model_names():
    """R6, R28: the item under its name, the others from the context."""
    add = a_tool("add", ["item", "n"], ["sum"])
    result = mapping_over(list[int], add)

    outer = inputs(result, 1, {"n": 1, "other": 2}, {"items": []})
    assert outer == {"items": [], "n": 1}
    assert called(result, outer, 7) == {"item": 7, "n": 1}


def test_an_open_model_gets_the_whole_context_and_the_item():
    """R6, R28: also what nobody declared, and dynamic parameters; neither is shown."""
    take = a_tool("take", Open, ["done"])
    made = maker(list[int])
    result = compiled(a_chain(call(made), call(take, map_over="items"), dynamic_params=["key"]), made, take)

    outer = inputs(result, 1, {"n": 1}, {"items": [7]}, None, {"key": "secret"})
    assert outer == {"n": 1, "items": [7], "key": "secret"}
    assert called(result, outer, 7) == {"n": 1, "items": [7], "key": "secret", "item": 7}
    step = result.plan.steps[1]
    assert step.dynamic_fields == ("key",)
    assert step.each is not None
    assert step.each.step.dynamic_fields == ("key",)


def test_the_name_of_the_item_hides_a_key_of_the_context_from_calls():
    """R28: but not from the map itself, which may go over a key of that name."""
    made = maker(list[int], "item")
    result = compiled(a_chain(call(made), call(DOUBLE, map_over="item")), made, DOUBLE)

    outer = inputs(result, 1, {}, {"item": [7]})
    assert outer == {"item": [7]}
    assert called(result, outer, 7) == {"item": 7}
    dynamic = compiled(a_chain(call(DOUBLE, map_over="ns"), dynamic_params=["item"]), DOUBLE)
    assert called(dynamic, inputs(dynamic, 0, {"ns": [1]}), 1, 0) == {"item": 1}
    assert dynamic.plan.steps[0].each.step.dynamic_fields == ()  # type: ignore[union-attr]


def test_a_list_inside_of_a_value_is_reached_by_a_pointer():
    """R6, R28: read as a whole, followed once."""
    result = compiled(a_chain(call(DOUBLE, map_over="/order/lines")), DOUBLE)

    outer = inputs(result, 0, {"order": {"lines": [1, 2]}})
    assert outer == {"order": {"lines": [1, 2]}}
    assert result.plan.steps[0].each.items_of(outer) == [1, 2]  # type: ignore[union-attr]


def test_policies_stand_where_they_hold():
    """R20, R21, R28: those about a call inside, those about the lists outside."""
    other = a_tool("other", ["item"], ["twice"])
    options = {"timeout_seconds": 2.0, "on_error": "fallback:other", "output_mapping": {"all": "twice"}}
    step = mapping_over(list[int], DOUBLE, None, other, **options, map_concurrency=3, on_item_error="skip").plan.steps[
        1
    ]

    assert step.each is not None
    inner = step.each.step
    assert (step.timeout_s, step.on_error, step.fallback, step.rename) == (None, "fail", None, (("all", "twice"),))
    assert (inner.timeout_s, inner.on_error, inner.rename, inner.each) == (2.0, "fallback", None, None)
    assert inner.fallback is not None
    assert (step.each.limit, step.each.on_item_error, step.each.keys) == (3, "skip", ("twice",))
    skipped = mapping_over(list[int], on_error="skip").plan.steps[1]
    assert skipped.each is not None
    assert (skipped.on_error, skipped.each.step.on_error) == ("skip", "fail")


def test_a_call_without_any_policy_takes_the_short_path():
    """R28: thousands of them are what maps are for; the step around them does not."""
    step = mapping_over(list[int]).plan.steps[1]

    assert step.each is not None
    assert (step.plain, step.each.step.plain) == (False, True)


def test_a_plan_knows_whether_its_items_overlap():
    """R4, R28: with a limit of its own a map needs a schedule, also deep inside; it is never one after the other."""
    inner = a_dag(DAGFlowStep(step_id="each", tool_name="double", map_over="ns", map_concurrency=2))
    flows = [named("inner", inner)]
    assert not mapping_over(list[int]).plan.needs_schedule
    assert not mapping_over(list[int], map_concurrency=1).plan.needs_schedule
    assert mapping_over(list[int], map_concurrency=2).plan.needs_schedule
    outer = compiled(a_chain(sub("inner")), DOUBLE, flows=flows).plan
    assert outer.needs_schedule
    assert (mapping_over(list[int]).plan.is_chain, outer.is_chain) == (False, False)


# ---- types


def test_every_output_is_a_list_to_those_who_read_it():
    """R28: of the type that one call gives."""
    reads_list, reads_one = a_tool("reads", {"twice": list[int]}, ["r"]), a_tool("reads", ["twice"], ["r"])

    def with_reader(reader: Any, **options: Any) -> CompilationResult:
        flow = a_chain(call(DOUBLE, map_over="ns", **options), call(reader))
        return compiled(flow, DOUBLE, reader)

    assert with_reader(reads_list).errors == ()
    assert found(with_reader(reads_one)) == [(1, "type_mismatch", "twice")]
    assert with_reader(reads_list, on_item_error="collect").errors == (), "errors may stand in it; nothing is certain"
    assert found(with_reader(reads_one, on_item_error="collect")) == [(1, "type_mismatch", "twice")]


@pytest.mark.parametrize(
    ("kind", "is_fine"),
    [
        (list[int], True),
        (list[bool], True),
        (tuple[int, ...], True),
        (list, True),
        (Any, True),
        (Native[list[int]], True),
        (list[list[int]], False),
        (list[Row], False),
    ],
)
def test_items_are_held_against_what_a_call_takes(kind: Any, is_fine: bool):
    """R28: as any value that a step reads."""
    result = mapping_over(kind)

    assert found(result) == ([] if is_fine else [(1, "type_mismatch", "item")])


def test_parts_of_items_are_held_against_what_a_call_takes():
    """R28: through pointers into the item."""
    assert mapping_over(list[Row], DOUBLE, {"item": "/item/n"}).errors == ()
    assert found(mapping_over(list[Row], DOUBLE, {"item": "/item/gone"})) == [(1, "missing_mapping_key", "item")]


@pytest.mark.parametrize("kind", [int, Row, bool])
def test_what_is_no_list_is_pointed_out(kind: Any):
    """R28: where the type says so; the run has the last word."""
    result = mapping_over(kind)

    assert found(result)[0] == (1, "type_mismatch", "map_over")
    assert "it maps over 'items', which is no list" in detail(result, "type_mismatch")
    assert result.plan.steps[1].fault is None


def test_an_item_may_be_one_of_several_types():
    """R28: which one is for the run to find out."""
    assert mapping_over(list[int | str]).errors == ()
    assert mapping_over(list[int] | list[str]).errors == ()


# ---- what is wrong


def test_a_list_that_nobody_can_write_is_an_error():
    """R16, R28: certain where the input schema is closed, else the run decides."""
    closed = compiled(a_chain(call(DOUBLE, map_over="itmes"), input_schema_ref=schema(Exactly)), DOUBLE)
    likely = compiled(a_chain(call(DOUBLE, map_over="itmes"), input_schema_ref=schema(Number)), DOUBLE)

    assert found(closed) == found(likely) == [(0, "missing_mapping_key", "map_over")]
    assert detail(closed, "missing_mapping_key") == "it maps over unknown key 'itmes'; known keys are n"
    fault = closed.plan.steps[0].fault
    assert fault is not None
    assert isinstance(fault(), InputMappingError)
    assert likely.plan.steps[0].fault is None
    assert compiled(a_chain(call(DOUBLE, map_over="itmes")), DOUBLE).errors == ()


def test_a_pointer_without_meaning_is_an_error():
    """R6, R28: strict, as in mappings."""
    result = compiled(a_chain(call(DOUBLE, map_over="/a/~2")), DOUBLE)
    fault = result.plan.steps[0].fault

    assert found(result) == [(0, "mapping_syntax", "map_over")]
    assert detail(result, "mapping_syntax").startswith("map_over: ")
    assert fault is not None
    assert isinstance(fault(), FlowExecutionError)


def test_a_mapping_without_meaning_is_told_once():
    """R6, R28: by the call that it belongs to."""
    result = compiled(a_chain(call(DOUBLE, {"item": "/a/~2"}, map_over="ns")), DOUBLE)

    assert found(result) == [(0, "mapping_syntax", "item")]


def test_inputs_of_a_call_are_checked_like_those_of_any_step():
    """R16, R28: unknown fields, missing ones and unknown keys."""
    strict = a_tool("strict", a_model("Strict", {"item": int, "n": int}, extra="forbid"), ["r"])
    flow = a_chain(call(strict, {"item": "item", "m": "gone"}, map_over="n"), input_schema_ref=schema(Exactly))
    result = compiled(flow, strict)

    assert sorted(one[1:] for one in found(result)) == [
        ("missing_mapping_key", "m"),
        ("missing_required_input", "n"),
        ("type_mismatch", "map_over"),
        ("unknown_target_key", "m"),
    ]


def test_a_map_of_an_unknown_tool_is_named_once():
    """R16, R28: what it would read is not known."""
    result = compiled(a_chain(call("gone", map_over="ns")), DOUBLE)

    assert found(result) == [(0, "missing_tool", None)]
    assert result.plan.steps[0].tool is None
    assert result.plan.steps[0].each.keys == ()  # type: ignore[union-attr]


def test_a_map_waits_for_whoever_may_write_what_its_calls_read():
    """R3, R28: the list or anything else; the compiler says so."""
    add, far = a_tool("add", ["item", "k"], ["sum"]), a_tool("far", {}, ["k"])
    made = maker(Native[list[int]])
    flow = a_dag(node("make", made), node("far", far), node("each", add, "make", map_over="items"))
    result = compiled(flow, made, far, add)

    assert result.plan.steps[2].needs == (0, 1)
    assert warned(result) == [(2, "implicit_dependency", None)]
    whole = a_tool("whole", Open, ["sum"])
    flow = a_dag(node("make", made), node("far", far), node("each", whole, "make", map_over="items"))
    assert compiled(flow, made, far, whole).plan.steps[2].needs == (0, 1)


def test_a_list_that_was_renamed_is_known_by_its_new_name():
    """R11, R28: to the steps after it."""
    reads = a_tool("reads", {"all": list[int]}, ["r"])
    result = compiled(a_chain(call(DOUBLE, map_over="ns", output_mapping={"all": "twice"}), call(reads)), DOUBLE, reads)

    assert result.errors == ()
    assert inputs(result, 1, {"all": 0}, {"all": [2]}) == {"all": [2]}


def test_a_contract_is_held_against_what_a_call_is_given():
    """R21, R28: not against the lists."""
    options = {"input_contract": "tests.compiler.schemas:Exactly"}
    take = a_tool("take", ["n"], ["twice"])

    assert mapping_over(list[int], take, {"n": "item"}, **options).errors == ()
