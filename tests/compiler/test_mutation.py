"""Declared changes in place, held against everybody who may look at the same value at the same time."""

from __future__ import annotations

from typing import Any

import pytest

from chainweaver import ConditionalEdge, DAGFlowStep, Flow, Native
from tests.compiler.kit import a_dag, a_model, a_tool, call, compiled, node

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
