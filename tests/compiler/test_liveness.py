"""How long values are needed: who may look at each of them, and so which steps have to have ended before it may go."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from chainweaver import ConditionalEdge, DAGFlowStep
from chainweaver.plan import Plan
from tests.compiler import schemas
from tests.compiler.kit import a_chain, a_dag, a_tool, call, compiled, named, node, schema, sub

END = None
"""Stands for values that are needed to the end."""


class Anything(BaseModel):
    model_config = ConfigDict(extra="allow")


READ = a_tool("read", {"x": Any}, {"rows": Any, "note": Any})
CLEAN = a_tool("clean", {"rows": Any}, {"rows": Any})
COUNT = a_tool("count", {"rows": Any}, {"n": Any})
TOTAL = a_tool("total", {"rows": Any}, {"sum": Any})
SHOW = a_tool("show", {"n": Any}, {"text": Any})
WHOLE = a_tool("whole", Anything, {"all": Any})
OPEN = a_tool("open", {"x": Any}, Anything)


def ends(plan: Plan, slot: int) -> dict[str | None, tuple[int, ...] | None]:
    """Key -> the steps after which it is needed no more; under None what goes for all other keys of the slot."""
    found: dict[str | None, tuple[int, ...] | None] = {}
    for one in plan.liveness().ranges:
        if one.slot == slot:
            found.update(dict.fromkeys((None,) if one.keys is None else one.keys, one.readers))
    return found


def plan_of(flow: Any, *tools: Any, **options: Any) -> Plan:
    return compiled(flow, *tools, **options).plan


# ---- who reads


def test_a_value_is_needed_until_its_reader_has_ended():
    """R37: and what nobody reads, until its writer has."""
    plan = plan_of(a_chain(call(READ), call(COUNT), call(SHOW), outputs=["text"]), READ, COUNT, SHOW)

    assert ends(plan, 1) == {"rows": (1,), "note": (0,), None: (0,)}
    assert ends(plan, 2) == {"n": (2,), None: (1,)}
    assert ends(plan, 3) == {"text": END, None: (2,)}


def test_a_value_of_the_input_that_nobody_reads_is_not_needed_at_all():
    """R37: the initial context has no writer that could still look at it."""
    plan = plan_of(a_chain(call(READ), outputs=["rows"]), READ)

    assert ends(plan, 0) == {"x": (0,), None: ()}


def test_of_several_readers_those_count_that_no_other_one_waits_for():
    """R37: in a chain the last one, of siblings all."""
    chain = plan_of(a_chain(call(READ), call(COUNT), call(TOTAL), outputs=["n", "sum"]), READ, COUNT, TOTAL)
    steps = node("read", READ), node("count", COUNT, "read"), node("total", TOTAL, "read")
    fork = plan_of(a_dag(*steps, outputs=["n", "sum"]), READ, COUNT, TOTAL)

    assert ends(chain, 1)["rows"] == (2,)
    assert ends(fork, 1)["rows"] == (1, 2)


def test_a_reader_of_the_whole_context_reads_everything_before_it():
    """R6, R37: a model with extra="allow" is given every key there is, known or not."""
    plan = plan_of(a_chain(call(READ), call(COUNT), call(WHOLE), outputs=["all"]), READ, COUNT, WHOLE)

    assert ends(plan, 0) == {"x": (2,), None: (2,)}
    assert ends(plan, 1) == {"rows": (2,), "note": (2,), None: (2,)}
    assert ends(plan, 2) == {"n": (2,), None: (2,)}
    assert ends(plan, 3) == {"all": END, None: (2,)}


@pytest.mark.parametrize(
    "source",
    ["note", "/note/0", {"$template": "a ${note} b"}, {"$template": "${note.a}"}, {"$key": "note", "$default": 1}],
)
def test_every_form_of_a_mapping_reads(source):
    """R6, R37: keys, pointers, templates and look-ups with a default."""
    plan = plan_of(a_chain(call(READ), call(COUNT), call(SHOW, {"n": source}), outputs=["text"]), READ, COUNT, SHOW)

    assert ends(plan, 1) == {"rows": (1,), "note": (2,), None: (0,)}


def test_a_legacy_reference_may_mean_any_key_of_the_input():
    """R9, R37: keys are compared without their case when the run gets there."""
    source = {"$template": "$NOTE$", "$syntax": "legacy"}
    plan = plan_of(a_chain(call(READ), call(SHOW, {"n": source}), outputs=["text"]), READ, SHOW)

    assert ends(plan, 0) == {"x": (1,), None: (1,)}
    assert ends(plan, 1)["note"] == (1,)


def test_the_predicates_of_a_step_read_with_it():
    """R24, R37: they are asked before their step has ended."""
    steps = (
        node("read", READ),
        node("count", COUNT, "read"),
        node("show", SHOW, "count", branches=[ConditionalEdge(target_step_id="total", predicate="note == 1")]),
        node("total", TOTAL, "show"),
    )
    plan = plan_of(a_dag(*steps, outputs=["sum"]), READ, COUNT, SHOW, TOTAL)

    assert ends(plan, 1) == {"rows": (3,), "note": (2,), None: (0,)}


def test_a_map_reads_its_list_and_what_is_the_same_for_all_items():
    """R28, R37: until the last item has ended, which is when the step does."""
    add = a_tool("add", {"item": Any, "note": Any}, {"sum": Any})
    steps = call(READ), call(add, map_over="rows", map_as="item"), call(SHOW, {"n": "sum"})
    plan = plan_of(a_chain(*steps, outputs=["text"]), READ, add, SHOW)

    assert ends(plan, 1) == {"rows": (1,), "note": (1,), None: (0,)}
    assert ends(plan, 2) == {"sum": (2,), None: (1,)}


def test_a_dynamic_parameter_hides_a_key_that_may_be_there_all_the_same():
    """R13, R37: where nobody passes the parameter, the input is looked at."""
    plan = plan_of(a_chain(call(SHOW), outputs=["text"], dynamic_params=["n"]), SHOW)

    assert ends(plan, 0) == {"n": (0,), None: ()}
    assert len({one.slot for one in plan.liveness().ranges}) == 2, "the parameters themselves are nobody's to let go"


# ---- who writes


def test_a_writer_that_is_surely_replaced_is_read_by_the_next_one_only():
    """R3, R37: of a key that every step overwrites, one value is needed at a time."""
    steps = call(READ), call(CLEAN), call(CLEAN), call(CLEAN)
    plan = plan_of(a_chain(*steps, outputs=["rows"], on_context_collision="overwrite"), READ, CLEAN)

    assert [ends(plan, slot).get("rows") for slot in (1, 2, 3, 4)] == [(1,), (2,), (3,), END]


def test_a_writer_that_may_be_skipped_leaves_the_word_to_the_one_before():
    """R3, R37: so the value before is needed as long as its own."""
    steps = call(READ), call(CLEAN, on_error="skip"), call(COUNT)
    plan = plan_of(a_chain(*steps, outputs=["n"], on_context_collision="overwrite"), READ, CLEAN, COUNT)

    assert [ends(plan, slot)["rows"] for slot in (1, 2)] == [(2,), (2,)]


def test_outputs_keep_every_value_that_may_become_one():
    """R13, R37: also one that a skipped step may have been about to replace."""
    steps = call(READ), call(CLEAN, on_error="skip")
    plan = plan_of(a_chain(*steps, outputs=["rows"], on_context_collision="overwrite"), READ, CLEAN)

    assert [ends(plan, slot)["rows"] for slot in (1, 2)] == [END, END]


def test_an_output_that_only_the_input_may_hold_is_kept_there():
    """R37: whatever is named in `outputs` is needed to the end."""
    plan = plan_of(a_chain(call(READ), outputs=["given"]), READ)

    assert ends(plan, 0) == {"x": (0,), "given": END, None: ()}


def test_open_outputs_may_hold_any_key():
    """R37: what they hold beside the keys that somebody names is needed by nobody."""
    plan = plan_of(a_chain(call(OPEN), call(SHOW), outputs=["text", "other"]), OPEN, SHOW)

    assert ends(plan, 1) == {"n": (1,), "other": END, None: (0,)}


# ---- flows that keep more


def test_without_outputs_everything_is_needed_to_the_end():
    """R13, R37: the whole context is the output."""
    plan = plan_of(a_chain(call(READ), call(COUNT)), READ, COUNT)

    assert [ends(plan, slot) for slot in range(3)] == [{None: END}] * 3
    assert plan.liveness().awaiting == ((), ())


def test_a_flow_without_names_in_its_outputs_needs_nothing_at_the_end():
    """R37: an empty list of outputs is one."""
    plan = plan_of(a_chain(call(READ), outputs=[]), READ)

    assert ends(plan, 1) == {"rows": (0,), "note": (0,), None: (0,)}


def test_a_context_schema_keeps_what_it_looks_at():
    """R16, R37: the context at the end is held against it."""
    flow = a_chain(call(READ), call(COUNT), outputs=["n"], context_schema_ref=schema(schemas.Noted))
    plan = plan_of(flow, READ, COUNT)

    assert ends(plan, 1) == {"rows": (1,), "note": END, None: (0,)}
    assert ends(plan, 0) == {"x": (0,), "remark": END, None: ()}, "a name that the field takes as well"


@pytest.mark.parametrize(
    "model", [schemas.NotedOpen, schemas.NotedClosed, schemas.NotedBefore, schemas.NotedInit, schemas.NotedRoot]
)
def test_a_context_schema_that_sees_every_key_keeps_every_value(model):
    """R37: what it would say of a key that was let go, nobody knows."""
    flow = a_chain(call(READ), call(COUNT), outputs=["n"], context_schema_ref=schema(model))

    assert ends(plan_of(flow, READ, COUNT), 1) == {None: END}


def test_a_context_schema_that_cannot_be_found_keeps_every_value():
    """R16, R37: the refusal shows them."""
    flow = a_chain(call(READ), outputs=["rows"], context_schema_ref="tests.compiler.schemas:Nobody")

    assert ends(plan_of(flow, READ), 1) == {None: END}


# ---- sub-flows


INNER = named("inner", a_chain(call(CLEAN), outputs=["rows"]))


def test_a_sub_flow_looks_at_what_it_may_hand_back():
    """R27, R37: whether it changed a value is seen while the one before is still there."""
    tidy = call(READ, output_mapping={"rows": "note"})
    steps = call(READ), sub("inner"), call(COUNT), tidy
    plan = plan_of(a_chain(*steps, outputs=["n"], on_context_collision="overwrite"), READ, CLEAN, COUNT, flows=[INNER])

    assert ends(plan, 0)["rows"] == (1,)
    assert ends(plan, 1)["rows"] == (1,)
    assert ends(plan, 2)["rows"] == (2,), "what comes later is not looked at"
    assert plan.liveness().compared == {0: (1,), 1: (1,)}


def test_a_sub_flow_waits_for_earlier_writers_that_it_does_not_wait_for_itself():
    """R27, R37: the last of them to end makes the comparison hold, whichever that is."""
    steps = (
        node("rows", READ, output_mapping={"rows": "rows"}),
        node("text", SHOW, input_mapping={"n": "x"}),
        DAGFlowStep(step_id="sub", flow_name="inner", depends_on=["text"], input_mapping={"rows": "text"}),
    )
    plan = plan_of(a_dag(*steps, outputs=["text"]), READ, SHOW, CLEAN, flows=[INNER])

    assert plan.liveness().compared == {0: (2,), 2: (2,)}
    assert ends(plan, 1)["rows"] == ends(plan, 3)["rows"] == (0, 2)


def test_a_sub_flow_with_open_outputs_may_hand_back_anything():
    """R27, R37: then everything before it is needed until it has ended."""
    inner = named("inner", a_chain(call(OPEN)))
    steps = call(READ), call(COUNT), sub("inner", {"x": "n"}), call(SHOW)
    plan = plan_of(a_chain(*steps, outputs=["text"]), READ, COUNT, OPEN, SHOW, flows=[inner])

    assert ends(plan, 0) == {"x": (2,), None: (2,)}
    assert ends(plan, 1) == {"rows": (2,), "note": (2,), None: (2,)}
    assert ends(plan, 2) == {"n": (3,), None: (2,)}
    assert ends(plan, 3) == {"n": (3,), None: (2,)}, "which may be what `show` reads"
    assert ends(plan, 4) == {"text": END, None: (3,)}


# ---- what a run counts


def test_each_step_knows_which_values_wait_for_it():
    """R37: a run counts down, in whatever order steps end."""
    steps = node("read", READ), node("count", COUNT, "read"), node("total", TOTAL, "read")
    liveness = plan_of(a_dag(*steps, outputs=["n", "sum"]), READ, COUNT, TOTAL).liveness()
    waiting = [
        {(liveness.ranges[at].slot, key) for at in positions for key in liveness.ranges[at].keys or ()}
        for positions in liveness.awaiting
    ]

    assert waiting == [{(0, "x"), (1, "note")}, {(1, "rows")}, {(1, "rows")}]
    assert liveness.compared == {}


def test_values_with_the_same_readers_are_one_range():
    """R37: a thousand keys that one step reads are let go at once."""
    many = a_tool("many", {"x": Any}, {f"k{index}": Any for index in range(1_000)})
    take = a_tool("take", {f"k{index}": Any for index in range(1_000)}, {"n": Any})
    ranges = plan_of(a_chain(call(many), call(take), outputs=["n"]), many, take).liveness().ranges

    assert [len(one.keys or ()) for one in ranges if one.slot == 1] == [1_000, 0]


def test_it_is_worked_out_once():
    """R37: and only when a run asks for it."""
    plan = plan_of(a_chain(call(READ), outputs=["rows"]), READ)

    assert plan.liveness() is plan.liveness()
