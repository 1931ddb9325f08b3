"""Values that are let go: nobody misses them, whatever else is asked of a run, and nothing holds them any more.

What leaves which slot when is the subject of `test_letting_go`; here it is what depends on values that have left.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest
from pydantic import BaseModel

from chainweaver import ConditionalEdge, RetryPolicy
from chainweaver._execution import Run, summarize
from chainweaver._execution.liveness import as_text
from chainweaver._execution.run import RELEASED
from chainweaver.exceptions import ContextKeyCollisionError, FlowExecutionError, OutputMappingError
from chainweaver.results import ExecutionResult
from tests.execution.kit import Crowd, Walk, a_flow, a_plan, a_run, a_step, a_sub_step, a_tool, error_of, statuses

HERE = "tests.execution.test_liveness"
A, B, C = (a_tool(name, {"rows": Any}, {f"{name}_out": Any}) for name in "abc")
TOOLS = [A, B, C]


def reading(key: str) -> dict[str, Any]:
    return {"input_mapping": {"rows": key}}


CHAIN = [a_step("a"), a_step("b", "a", **reading("a_out")), a_step("c", "b", **reading("b_out"))]


class Big:
    """A value that can be watched."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is gone has to be gone without anybody looking for circles."""
    gc.disable()
    yield
    gc.enable()


def begun(steps: list[Any], given: Any = None, *, flows: Any = (), tools: Any = TOOLS, **options: Any) -> Run:
    """A run that lets go of values; `attended` among the options goes to the run, all else to the flow."""
    attended = options.pop("attended", {})
    plan = a_plan(steps, tools, flows=flows, **{"outputs": ["c_out"], **options})
    return a_run(plan, {"rows": [0]} if given is None else given, **{"capture": summarize, **attended})


def gone(run: Run) -> list[str]:
    """The keys whose values were let go, slot by slot."""
    return [key for values in run.slots for key, value in (values or {}).items() if value is RELEASED]


# ---- what is asked of a run that has let go


def test_what_was_reached_leaves_out_what_was_let_go():
    """R13, R37: the partial output holds values and nothing that stands for one."""
    walk = Walk(begun([*CHAIN[:2], a_step("c", "b", **reading("b_out"))]))
    walk.ok({"a_out": [1]})
    walk.ok({"b_out": [2]})
    walk.err(OSError("down"))
    result = ExecutionResult.of(walk.run)

    assert gone(walk.run) == ["rows", "a_out", "b_out"]
    assert (result.status, result.partial_output, result.final_output) == ("failed", {}, None)
    assert result.initial_input == {"rows": "list[1]"}
    assert [record.outputs for record in result.execution_log] == [{"a_out": "list[1]"}, {"b_out": "list[1]"}, None]
    assert repr(walk.run.slots[0]) == "{'rows': <released>}"


@pytest.mark.parametrize("policy", ["warn", "overwrite"])
def test_keys_that_met_are_known_although_their_values_are_gone(policy: str):
    """R12, R37: a collision is one of keys."""
    steps = [a_step("a"), a_step("b", "a", **reading("a_out"), output_mapping={"a_out": "b_out"}), a_step("c", "b")]
    found = []
    for outputs in (["c_out"], None):
        walk = Walk(begun(steps, outputs=outputs, on_context_collision=policy))
        walk.ok({"a_out": [1]})
        walk.ok({"b_out": [2]})
        walk.ok({"c_out": [3]})
        found.append([(one.step_index, one.keys) for one in walk.run.collisions])

    assert found == [[(1, ("a_out",))]] * 2


def test_a_collision_that_ends_the_run_needs_no_values():
    """R12, R37: under the policy "error" the keys of earlier writers are looked at, and theirs are still there."""
    steps = [a_step("a"), a_step("b", "a", **reading("a_out")), a_step("c", "b", output_mapping={"a_out": "c_out"})]
    walk = Walk(begun(steps, outputs=["a_out"], on_context_collision="error"))
    walk.ok({"a_out": [1]})
    walk.ok({"b_out": [2]})
    walk.ok({"c_out": [3]})

    assert isinstance(error_of(walk.run, 2), ContextKeyCollisionError)
    assert error_of(walk.run, 2).keys == ("a_out",)


def test_an_error_names_all_keys_that_there_are():
    """R16, R37: what a missing key is likely to mean does not depend on what the run still holds."""
    lost = a_tool("lost", {"rows": Any}, {"x": Any})
    steps = [a_step("a"), a_step("b", "a"), a_step("lost", "b", **reading("a_ouch"))]
    known = []
    for outputs in (["b_out"], None):
        walk = Walk(begun(steps, tools=[A, B, lost], outputs=outputs))
        walk.ok({"a_out": [1]})
        walk.ok({"b_out": [2]})
        known.append(error_of(walk.run, 2).known)

    assert known[0] == known[1]
    assert "a_out" in known[0]


def test_a_missing_output_is_told_with_all_keys():
    """R13, R37: also those whose values are gone."""
    walk = Walk(begun([a_step("a"), a_step("b", "a")], outputs=["c_out", "b_out"]))
    walk.ok({"a_out": [1]})
    walk.ok({"b_out": [2]})
    error = walk.run.output_error

    assert isinstance(error, OutputMappingError)
    assert error.known == ("rows", "a_out", "b_out")
    assert walk.run.refused == ({"b_out": "list[1]"}, (), 0), "the record shows what is left"


def test_an_output_that_was_let_go_is_missing():
    """R33, R37: only a store that holds less than its step surely writes can make that happen; it must not show."""
    steps = [a_step("a"), a_step("b", "a", output_mapping={"a_out": "b_out"}), a_step("c", "b", **reading("rows"))]
    walk = Walk(begun(steps, outputs=["a_out", "c_out"]))
    walk.ok({"a_out": [1]})
    walk.ok({"b_out": [2]})
    walk.run.slots[2] = {}
    walk.ok({"c_out": [3]})

    assert isinstance(walk.run.output_error, OutputMappingError)
    assert walk.run.final_output is None


class Wanted(BaseModel):
    rows: list[int]


def test_a_schema_of_the_context_finds_what_it_looks_at():
    """R16, R37: it is asked when all steps have ended."""
    walk = Walk(begun(CHAIN, context_schema_ref=f"{HERE}:Wanted"))
    for name in "abc":
        walk.ok({f"{name}_out": [1]})

    assert walk.run.status == "ok"
    assert gone(walk.run) == ["a_out", "b_out"]


# ---- sub-flows that hand values back


TIDY = a_tool("tidy", {"rows": Any}, {"rows": Any})
INNER = a_flow("inner", [a_step("tidy")], outputs=["rows"])
RACE = [
    a_step("a", output_mapping={"rows": "a_out"}, **reading("given")),
    a_step("b", **reading("given")),
    a_sub_step("sub", "inner", "b", input_mapping={"rows": "given"}),
    a_step("c", "sub", **reading("b_out")),
]
"""`a` may write `rows` before or after the sub-flow does; in plan order it is before."""


@pytest.mark.parametrize("order", list(permutations(["a", "sub/tidy"])), ids="-".join)
@pytest.mark.parametrize("same", [True, False])
def test_what_a_sub_flow_handed_back_is_told_from_what_it_changed(order: Any, same: bool):
    """R27, R37: in plan order, whoever was faster; when the last of them ends, both values are still there."""
    first = [1]
    replies = {"a": {"a_out": first}, "sub/tidy": {"rows": first if same else [1]}}
    run = begun(RACE, {"given": [0]}, tools=[*TOOLS, TIDY], flows=[INNER])
    crowd = Crowd(run)
    crowd.ok("b", {"b_out": [2]})
    for name in order:
        crowd.ok(name, replies[name])
    assert "rows" in gone(run)
    crowd.ok("c", {"c_out": [3]})

    assert crowd.concluded().status == "ok"
    assert [(one.step_index, one.keys) for one in run.collisions] == ([] if same else [(2, ("rows",))])


@pytest.mark.parametrize("same", [True, False])
def test_a_sub_flow_that_hands_a_value_back_is_let_pass(same: bool):
    """R12, R27, R37: under the policy "error" it is compared before its own step ends."""
    steps = [a_step("a"), a_sub_step("sub", "inner", "a"), a_step("c", "sub")]
    rows = [0]
    run = begun(steps, {"rows": rows}, tools=[*TOOLS, TIDY], flows=[INNER], on_context_collision="error")
    walk = Walk(run)
    walk.ok({"a_out": [1]})
    walk.ok({"rows": rows if same else [0]})

    assert statuses(run)["sub"] == ("ok" if same else "failed")


def test_a_sub_flow_that_gave_nothing_is_compared_with_nothing():
    """R21, R37: it was skipped."""
    run = begun([a_sub_step("sub", "inner", on_error="skip"), a_step("c", "sub")], tools=[C, TIDY], flows=[INNER])
    walk = Walk(run)
    walk.err(OSError("down"))
    walk.ok({"c_out": [1]})

    assert run.handed_back == {}
    assert run.final_output == {"c_out": [1]}


# ---- runs that go on


def test_a_run_that_goes_on_past_a_branch_lets_go():
    """R24, R33, R37: a step that is passed over once more has ended as well."""
    edges = [ConditionalEdge(target_step_id="c", predicate="a_out != 1")]
    steps = [
        a_step("a", branches=edges),
        a_step("b", "a"),
        a_step("c", "a"),
        a_step("d", "b", tool_name="b", output_mapping={"d": "b_out"}),
    ]
    for schedule in (False, True):
        run = begun(steps, attended={"resumed": True})
        run.slots[1], run.shown = {"a_out": [1]}, [{"a_out": "list[1]"}, None, None, None]
        run.take(0, 2)
        assert (Crowd(run).began if schedule else Walk(run).asks[:2]) == (["c"] if schedule else ("call", "c"))

        assert gone(run) == ["a_out"]


def test_a_walk_that_goes_on_after_its_flow_has_changed_keeps_what_it_has():
    """R33, R37: a step runs again for which one with an outcome had waited."""
    run = begun(CHAIN, attended={"resumed": True})
    run.slots[2], run.shown = {"b_out": [1]}, [None, {"b_out": "list[1]"}, None]
    walk = Walk(run)
    walk.ok({"a_out": [1]})
    walk.ok({"c_out": [1]})

    assert run.status == "ok"
    assert gone(run) == []


# ---- nobody holds what is gone


def watched() -> tuple[Any, weakref.ref[Big]]:
    big = Big()
    return big, weakref.ref(big)


def hurt(rows: Any) -> Exception:
    """An exception as a tool raises it: its frames hold the inputs."""
    try:
        raise OSError("down")
    except OSError as exc:
        return exc


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("way", [Walk, Crowd])
def test_a_value_is_gone_when_its_last_reader_has_ended(way: Any):
    """R37: at once, and without the collector."""
    big, seen = watched()
    hand = way(begun(CHAIN))
    reply(hand, "a", {"a_out": big})
    del big
    assert seen() is not None
    reply(hand, "b", {"b_out": [1]})

    assert seen() is None


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("way", [Walk, Crowd])
def test_a_value_that_was_given_is_gone_as_well(way: Any):
    """R37: the run keeps no more of its input than a summary."""
    big, seen = watched()
    hand = way(begun(CHAIN, {"rows": big, "unread": big}))
    del big
    assert gone(hand.run) == ["unread"]
    reply(hand, "a", {"a_out": [1]})

    assert seen() is None


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("way", [Walk, Crowd])
@pytest.mark.parametrize("what", ["retry", "skip", "fallback"])
def test_an_error_on_the_way_holds_nothing(way: Any, what: str):
    """R20, R21, R37: of what went wrong, its text is kept."""
    choices: dict[str, dict[str, Any]] = {
        "retry": {"retry": RetryPolicy(max_retries=1, backoff_seconds=0.0)},
        "skip": {"on_error": "skip"},
        "fallback": {"on_error": "fallback:c"},
    }
    options = choices[what]
    steps = [
        a_step("a"),
        a_step("b", "a", **reading("a_out"), **options),
        a_step("d", "b", tool_name="c", **reading("rows")),
    ]
    big, seen = watched()
    hand = way(begun(steps))
    reply(hand, "a", {"a_out": big})
    exc = hurt(big)
    del big
    reply(hand, "b", exc)
    del exc
    if what != "skip":
        assert seen() is not None, "the next attempt reads it too"
        reply(hand, "b", {"b_out" if what == "retry" else "c_out": [1]})

    assert seen() is None


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("way", [Walk, Crowd])
def test_the_items_of_a_map_are_gone_with_its_step(way: Any):
    """R28, R37: what the map took and what its items gave."""
    steps = [
        a_step("each", tool_name="a", map_over="rows", map_as="row", input_mapping={"rows": "row"}),
        a_step("b", "each", **reading("a_out")),
        a_step("c", "b", **reading("b_out")),
    ]
    big, seen = watched()
    given, seen_given = watched()
    hand = way(begun(steps, {"rows": [given]}))
    del given
    reply(hand, "each/0", {"a_out": big})
    del big
    assert seen_given() is None
    assert seen() is not None
    reply(hand, "b", {"b_out": [1]})

    assert seen() is None


@pytest.mark.usefixtures("no_collector")
def test_a_map_holds_no_items_when_it_has_ended():
    """R28: in a run that keeps its values as well: they are in the context, or nobody wants them."""
    big, seen = watched()
    taken = a_tool("taken", {"x": Any}, {"items": Any})
    steps = [a_step("taken"), a_step("a", "taken", map_over="items", map_as="row", input_mapping={"rows": "row"})]
    run = begun(steps, {"x": 1}, tools=[taken, A], outputs=None)
    walk = Walk(run)
    items = [big]
    walk.ok({"items": items})
    del big
    walk.ok({"a_out": 1})
    items.clear()

    assert seen() is None
    assert [step.step_id for step in run.details[1].nested.plan.steps] == ["0"], (
        "the record knows its items all the same"
    )


def reply(hand: Any, name: str, value: Any) -> None:
    """Reply to a run, walked or scheduled, with a value or an exception."""
    failed = isinstance(value, Exception)
    if isinstance(hand, Walk):
        hand.err(value) if failed else hand.ok(value)
    else:
        hand.err(name, value) if failed else hand.ok(name, value)


# ---- errors as texts


def test_steps_that_went_well_in_a_skipped_sub_flow_have_no_error_to_keep():
    """R27, R37: they are told apart from those that did not."""
    again = a_step("x", tool_name="a", retry=RetryPolicy(max_retries=1, backoff_seconds=0.0))
    inner = a_flow("inner", [again, a_step("y", "x", tool_name="b")])
    walk = Walk(begun([a_sub_step("sub", "inner", on_error="skip"), a_step("c", "sub")], flows=[inner]))
    walk.err(OSError("busy"))
    walk.ok({"a_out": [1]})
    walk.err(OSError("down"))
    nested = walk.run.details[0].nested

    assert nested is not None
    assert nested.details[0].error is None
    assert error_of(nested, 1).__cause__ is None


def test_an_error_is_made_a_text_once():
    """R37: what was read back from a store stays what it was there."""
    error: Any = FlowExecutionError("t", 0, "down")
    error.__cause__ = OSError("down")
    as_text(error)
    told = dict(error.stored)
    as_text(error)

    assert error.stored == told
    assert told == {
        "error_type": "FlowExecutionError",
        "error_code": "E006",
        "error_message": "Tool 't' failed at step 0: down.",
        "error_cause": "OSError",
    }
