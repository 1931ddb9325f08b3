"""Declared changes in place, held against everybody who may look at the same value at the same time."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field

from chainweaver import ConditionalEdge, DAGFlowStep, Flow, Native
from tests.compiler.kit import a_chain, a_dag, a_model, a_tool, call, compiled, node

ROWS = Native[list]  # type: ignore[type-arg]  # what is in it is for nobody to say
SORT = a_tool("sort", {"rows": ROWS}, ["sorted"], mutates=["rows"])
READ = a_tool("read", {"rows": ROWS}, ["seen"])
LOAD = a_tool("load", {}, {"rows": ROWS})
TOOLS = [SORT, READ, LOAD]
SORTS = {"output_mapping": {"done": "sorted"}}


def conflicts(flow: Any, tools: Any = TOOLS, **options: Any) -> list[tuple[int, str | None]]:
    """Steps and keys of the conflicts that the compiler sees."""
    errors = compiled(flow, *tools, **options).errors
    assert {error.issue_type for error in errors} <= {"shared_mutation"}, errors
    return [(error.step_index, error.field_name) for error in errors]


def test_a_reader_at_the_same_time_is_an_error_that_names_both_steps_the_key_and_the_way_out():
    """R3, R14: no path connects them, so either may come first."""
    [error] = compiled(a_dag(node("s", SORT), node("r", READ)), *TOOLS).errors

    assert (error.step_index, error.field_name, error.issue_type) == (0, "rows", "shared_mutation")
    assert error.detail == (
        "step 's': Step 's' changes 'rows' in place while step 'r' may be looking at it; let one of them depend on the "
        "other, copy the value in a step before, or drop it from mutates="
    )


@pytest.mark.parametrize(
    "steps",
    [
        [node("s", SORT), node("r", READ, "s")],
        [node("s", SORT, "r"), node("r", READ)],
        [node("s", SORT), node("m", LOAD, "s"), node("r", READ, "m")],
        [node("l", LOAD), node("s", SORT, "l", input_mapping={"rows": "own"}), node("r", READ, "l")],
    ],
    ids=["before", "after", "with a step between", "another key"],
)
def test_a_path_between_them_or_another_value_is_none(steps: list[DAGFlowStep]):
    """R3, R14: the order is settled, or there is nothing to share."""
    assert conflicts(a_dag(*steps)) == []


def test_linear_flows_are_always_fine():
    """R3, R14: one step at a time."""
    flow = Flow(name="f", description="", steps=[call(SORT, **SORTS), call(READ), call(SORT), call(READ)])
    assert conflicts(flow) == []


@pytest.mark.parametrize(
    "mapping",
    [
        {"rows": "rows"},
        {"rows": "/rows/0"},
        {"rows": {"$template": "${rows}"}},
        {"rows": {"$key": "rows", "$default": 1}},
    ],
    ids=["key", "pointer", "template", "default"],
)
def test_every_way_of_reading_counts(mapping: dict[str, Any]):
    """R6, R14: a part of a value, a text made of it, a value with a default."""
    assert conflicts(a_dag(node("l", LOAD), node("s", SORT, "l"), node("r", READ, "l", input_mapping=mapping))) == [
        (1, "rows")
    ]


def test_predicates_and_readers_of_the_whole_context_look_as_well():
    """R24, R14: a branch that asks for the value, a tool that takes everything."""
    whole = a_tool("whole", a_model("Everything", {}, extra="allow"), ["all"])
    assert conflicts(a_dag(node("l", LOAD), node("s", SORT, "l"), node("w", whole, "l")), [*TOOLS, whole]) == [
        (1, "rows")
    ]
    asks = node(
        "a",
        a_tool("a", {}, ["n"]),
        "l",
        branches=[ConditionalEdge(predicate="rows", target_step_id="e")],
        default_next="e",
    )
    end = a_tool("e", {}, ["end"])
    tools = [*TOOLS, a_tool("a", {}, ["n"]), end]
    assert conflicts(a_dag(node("l", LOAD), node("s", SORT, "l"), asks, node("e", end, "a")), tools) == [(1, "rows")]


def test_two_steps_that_change_one_value_are_in_each_others_way():
    """R14: each is told."""
    flow = a_dag(node("a", SORT, output_mapping={"x": "sorted"}), node("b", SORT, output_mapping={"y": "sorted"}))
    assert conflicts(flow) == [(0, "rows"), (1, "rows")]


def test_another_writer_of_the_key_is_another_value():
    """R3, R14: who reads what a step between has written reads something else."""
    flow = a_dag(
        node("l", LOAD),
        node("other", a_tool("other", {}, {"rows": ROWS}), "l"),
        node("s", SORT, "l"),
        node("r", READ, "other"),
    )
    assert conflicts(flow, [*TOOLS, a_tool("other", {}, {"rows": ROWS})]) == []


@pytest.mark.parametrize(("default", "expected"), [("r", []), (None, [(1, "rows")])])
def test_ways_of_one_branch_never_run_both_unless_none_is_taken(default: str | None, expected: list[Any]):
    """R24, R14: with a default exactly one way is taken; without one, all are where no predicate holds."""
    edges = [ConditionalEdge(predicate="n > 1", target_step_id="s")]
    if default is None:
        edges.append(ConditionalEdge(predicate="n < 1", target_step_id="r"))
    choose = a_tool("choose", {}, ["n"])
    steps = [node("c", choose, branches=edges, default_next=default), node("s", SORT, "c"), node("r", READ, "c")]
    assert conflicts(a_dag(*steps), [*TOOLS, choose]) == expected


@pytest.mark.parametrize(("limit", "expected"), [(None, [(0, "rows")]), (4, [(0, "rows")]), (1, [])])
def test_the_items_of_a_map_share_what_is_no_item(limit: int | None, expected: list[Any]):
    """R28, R14: a shared input must not be changed by items that run at the same time."""
    each = a_tool("each", {"rows": ROWS, "item": Any}, ["n"], mutates=["rows"])
    step = call(each, map_over="items", map_as="item", map_concurrency=limit)
    assert conflicts(Flow(name="f", description="", steps=[step]), [each]) == expected


def test_every_item_may_change_itself():
    """R28, R14: items are different values, but the list that holds them is looked at by others."""
    each = a_tool("each", {"item": ROWS}, ["n"], mutates=["item"])
    step = node("m", each, map_over="rows", map_as="item")
    assert conflicts(a_dag(step), [each]) == []
    assert conflicts(a_dag(step, node("r", READ)), [each, READ]) == [(0, "rows")]


def test_a_change_inside_a_sub_flow_is_a_change_of_its_input():
    """R27, R14: the sub-flow hands on the very object."""
    inner = Flow(name="inner", description="", steps=[call(SORT)])
    outer = a_dag(DAGFlowStep(step_id="sub", flow_name="inner"), node("r", READ))
    assert conflicts(outer, TOOLS, flows=[inner]) == [(0, "rows")]


def missed(flow: Any, tools: Any = TOOLS) -> list[int]:
    return [one.step_index for one in compiled(flow, *tools).warnings if one.issue_type == "mutation_not_returned"]


def test_a_change_that_is_looked_at_later_and_not_returned_is_a_warning():
    """R33: a resumed run restores what was stored before the change."""
    returns = a_tool("sort", {"rows": ROWS}, {"rows": ROWS}, mutates=["rows"])
    facts: dict[str, Any] = {"name": "f", "description": "", "on_context_collision": "overwrite"}

    assert missed(Flow(steps=[call(LOAD), call(SORT), call(READ)], outputs=["seen"], **facts)) == [1]
    assert missed(Flow(steps=[call(LOAD), call(SORT)], outputs=["rows"], **facts)) == [1]
    assert missed(Flow(steps=[call(LOAD), call(SORT)], **facts)) == [1]
    assert missed(Flow(steps=[call(LOAD), call(SORT)], outputs=["sorted"], **facts)) == []
    assert missed(Flow(steps=[call(LOAD), call(returns), call(READ)], **facts), [LOAD, returns, READ]) == []


@pytest.mark.parametrize(("said", "expected"), [(None, False), (True, True), (False, False)])
def test_what_changes_its_input_is_not_cached_unless_its_author_says_so(said: bool | None, expected: bool):
    """R30: a hit would leave the input as it was."""
    sort = a_tool("sort", {"rows": ROWS}, ["sorted"], mutates=["rows"], cacheable=said)
    [step] = compiled(Flow(name="f", description="", steps=[call(sort)]), sort).plan.steps
    assert step.tool is not None
    assert step.tool.cacheable is expected


# ---- what a plan says about it


def changed(flow: Any, *tools: Any, at: int = 0) -> tuple[str, ...]:
    """What a planned step may change, under the names in what it reads."""
    return compiled(flow, *tools).plan.steps[at].mutates


def test_a_planned_step_knows_what_it_may_change_under_the_names_that_it_reads():
    """R6, R14: an alias is what a value is given under; steps that change nothing know of nothing."""
    named = a_tool("named", a_model("Named", {"rows": (ROWS, Field(alias="lines"))}), ["n"], mutates=["rows"])
    two = a_tool("two", {"b": ROWS, "a": ROWS}, ["n"], mutates=["b", "a"])

    assert changed(a_chain(call(SORT)), SORT) == ("rows",)
    assert changed(a_chain(call(READ)), READ) == ()
    assert changed(a_chain(call(named, {"lines": "rows"})), named) == ("lines",)
    assert changed(a_chain(call(two)), two) == ("a", "b")


def test_all_tools_that_a_step_may_call_may_change_something():
    """R21: the fallback, too; and the items of a map what they are called with."""
    fallback = a_chain(call(READ, on_error="fallback:sort"))
    each = a_tool("each", {"item": ROWS}, ["n"], mutates=["item"])
    [mapped] = compiled(a_chain(call(each, map_over="rows", map_as="item")), each).plan.steps

    assert changed(fallback, READ, SORT) == ("rows",)
    assert mapped.each is not None
    assert mapped.each.step.mutates == ("item",)


# ---- where changes that nobody declares would matter


def watched(flow: Any, *tools: Any, at: int = 0, flows: Any = ()) -> tuple[tuple[str, str], ...]:
    """The inputs of a step that are watched, by the name in what it reads and by the context key."""
    step = compiled(flow, *tools, flows=flows).plan.steps[at]
    return (step if step.each is None else step.each.step).watched()


OWN = {"input_mapping": {"rows": "own"}}
MAKE = a_tool("make", {}, {"own": ROWS})
SEES = call(READ, {"rows": "own"})


def test_what_comes_from_outside_is_watched():
    """R14: it is the caller's; dynamic parameters as well."""
    assert watched(a_chain(call(READ)), READ) == (("rows", "rows"),)
    assert watched(a_chain(call(READ, {"rows": "/table/rows"})), READ) == (("rows", "table"),)
    assert watched(a_chain(call(READ), dynamic_params=["rows"], outputs=["seen"]), READ) == (("rows", "rows"),)


def test_what_the_tool_declares_to_change_is_not_watched():
    """R14: under whatever key it finds it."""
    both = a_tool("both", {"rows": ROWS, "more": ROWS}, ["n"], mutates=["rows"])
    assert watched(a_chain(call(both)), both) == (("more", "more"),)


@pytest.mark.parametrize(
    ("outputs", "steps", "is_watched"),
    [
        (None, [SEES], True),
        (["own"], [SEES], True),
        (["seen"], [SEES], False),
        (["seen"], [SEES, SEES], True),
        (["seen"], [SEES, call(LOAD)], False),
    ],
    ids=["whole context", "an output", "nobody looks", "read later", "another step looks at something else"],
)
def test_what_nobody_looks_at_any_more_is_not_watched(outputs: Any, steps: list[Any], is_watched: bool):
    """R14: of values that were made inside; a change that nobody can see is none."""
    flow = a_chain(call(MAKE), *steps, outputs=outputs, on_context_collision="overwrite")
    assert watched(flow, MAKE, READ, LOAD, at=1) == ((("rows", "own"),) if is_watched else ())


def test_an_output_that_somebody_else_has_written_is_another_value():
    """R3, R14: the flow gives what was written last."""
    flow = a_chain(call(MAKE), SEES, call(MAKE), outputs=["own"], on_context_collision="overwrite")
    assert watched(flow, MAKE, READ, at=1) == ()


def test_what_a_step_before_has_read_is_read_by_nobody_who_could_see_the_change():
    """R3, R14: it has ended; one that may run at the same time has not."""
    last = node("last", READ, "one", **OWN, output_mapping={"b": "seen"})
    after = a_dag(node("m", MAKE), node("one", READ, "m", **OWN, output_mapping={"a": "seen"}), last, outputs=["b"])
    beside = a_dag(
        node("m", MAKE),
        node("one", READ, "m", **OWN, output_mapping={"a": "seen"}),
        node("two", READ, "m", **OWN, output_mapping={"b": "seen"}),
        outputs=["b"],
    )

    assert [watched(after, MAKE, READ, at=at) for at in (1, 2)] == [(("rows", "own"),), ()]
    assert [watched(beside, MAKE, READ, at=at) for at in (1, 2)] == [(("rows", "own"),)] * 2


def test_everything_that_the_items_of_a_map_share_is_watched():
    """R28, R14: the next item sees it."""
    each = a_tool("each", {"item": ROWS, "rows": ROWS}, ["n"])
    flow = a_chain(call(LOAD), call(each, map_over="items", map_as="item"), outputs=["n"])
    assert watched(flow, LOAD, each, at=1) == (("item", "item"), ("rows", "rows"))


def test_a_change_that_is_read_back_under_the_name_of_an_alias_is_watched_under_it():
    """R6: it is the name in what the step reads."""
    named = a_tool("named", a_model("Named", {"rows": (ROWS, Field(alias="lines"))}), ["n"])
    assert watched(a_chain(call(named, {"lines": "rows"})), named) == (("lines", "rows"),)


def test_a_dynamic_parameter_is_shared_like_any_other_value():
    """R13, R14: two steps find the one object, so that a path has to connect them."""
    assert conflicts(a_dag(node("s", SORT), node("r", READ), dynamic_params=["rows"])) == [(0, "rows")]
    assert conflicts(a_dag(node("s", SORT), node("r", READ, "s"), dynamic_params=["rows"])) == []
