"""Letting go: which values a run still holds after each reply, and what its records show of those it has let go.

The values are lists, which only a summary lets go of; numbers stay where they are.
"""

from __future__ import annotations

from typing import Any

import pytest

from chainweaver import RetryPolicy
from chainweaver._execution import Run, summarize
from chainweaver._execution.conclude import merged_context
from chainweaver._execution.liveness import forget_frames
from chainweaver._execution.rules import Rules
from chainweaver._execution.run import RELEASED
from tests.execution.kit import Crowd, Walk, a_flow, a_plan, a_run, a_step, a_sub_step, a_tool, error_of, statuses

ROWS = list[int]
A, B, C = (a_tool(name, {"rows": ROWS}, {f"{name}_out": ROWS}) for name in "abc")
TOOLS = [A, B, C]


def begun(*steps: Any, outputs: Any = ("c_out",), tools: Any = TOOLS, flows: Any = (), **attended: Any) -> Run:
    plan = a_plan(list(steps), tools, flows=flows, outputs=outputs)
    return a_run(plan, {"rows": [0]}, **{"capture": summarize, **attended})


def held(run: Run) -> list[str]:
    """The keys whose values the run still holds, behind the step that wrote them."""
    names = ["", *(f"{step.step_id}." for step in run.plan.steps)]
    return [
        f"{name}{key}"
        for name, values in zip(names, run.slots, strict=False)
        for key, value in (values or {}).items()
        if value is not RELEASED
    ]


def reading(key: str) -> dict[str, Any]:
    return {"input_mapping": {"rows": key}}


CHAIN = (a_step("a"), a_step("b", "a", **reading("a_out")), a_step("c", "b", **reading("b_out")))


class Played:
    """A run that is replied to by the ids of its steps, walked or scheduled."""

    def __init__(self, way: str, run: Run) -> None:
        self.run = run
        self.hand: Any = Walk(run) if way == "walk" else Crowd(run)

    def ok(self, step_id: str, value: Any) -> None:
        self.hand.ok(value) if isinstance(self.hand, Walk) else self.hand.ok(step_id, value)

    def err(self, step_id: str, exc: BaseException) -> None:
        self.hand.err(exc) if isinstance(self.hand, Walk) else self.hand.err(step_id, exc)

    def end(self) -> Run:
        return self.run if isinstance(self.hand, Walk) else self.hand.concluded()


WAYS = pytest.mark.parametrize("way", ["walk", "schedule"])


@WAYS
def test_a_value_is_let_go_right_after_the_last_step_that_reads_it(way: str):
    """R37: what was given, and what steps gave; outputs of the flow stay."""
    played = Played(way, begun(*CHAIN))
    seen = [held(played.run)]
    for name in "abc":
        played.ok(name, {f"{name}_out": [1]})
        seen.append(held(played.run))

    assert seen == [["rows"], ["a.a_out"], ["b.b_out"], ["c.c_out"]]
    assert played.end().final_output == {"c_out": [1]}


@WAYS
def test_records_show_what_was_let_go(way: str):
    """R36, R37: summaries were made before."""
    played = Played(way, begun(*CHAIN))
    for name in "abc":
        played.ok(name, {f"{name}_out": [1, 2]})
    run = played.end()

    assert [run.shown_outputs(at) for at in range(3)] == [{f"{name}_out": "list[2]"} for name in "abc"]
    assert run.inputs == [{"rows": "list[1]"}, {"rows": "list[2]"}, {"rows": "list[2]"}]
    assert run.collisions == ()


@pytest.mark.parametrize(
    "options",
    [{"outputs": None}, {"capture": None}, {"rules": Rules(dry="skip")}],
    ids=["the whole context is wanted", "records hold values", "dry run"],
)
def test_every_other_run_keeps_what_it_has(options: dict[str, Any]):
    """R37: values live as long as their run."""
    tools = [a_tool(name, {"rows": ROWS}, {f"{name}_out": ROWS}, dry_run_fn=lambda _: {}) for name in "abc"]
    played = Played("schedule", begun(*CHAIN, tools=tools, **options))
    for name in "abc":
        played.ok(name, {f"{name}_out": [1]})

    assert held(played.run) == ["rows", "a.a_out", "b.b_out", "c.c_out"]


def test_all_readers_have_to_end_in_whatever_order():
    """R37: the last of them lets the value go."""
    for first, last in ("bc", "cb"):
        run = begun(
            a_step("a"),
            a_step("b", "a", **reading("a_out")),
            a_step("c", "a", **reading("a_out")),
            outputs=("b_out", "c_out"),
        )
        crowd = Crowd(run)
        crowd.ok("a", {"a_out": [1]})
        crowd.ok(first, {f"{first}_out": [2]})
        assert "a.a_out" in held(run)
        crowd.ok(last, {f"{last}_out": [2]})
        assert "a.a_out" not in held(run)


@WAYS
@pytest.mark.parametrize("end", ["failed", "skipped", "not reached"])
def test_a_reader_that_fails_or_never_runs_has_ended_as_well(way: str, end: str):
    """R19, R37: nobody waits for a step that will not read any more."""
    options = {"on_error": "skip"} if end == "skipped" else {}
    last = a_step("c", "a", **reading("rows"))
    middle = a_step("b", "a", **reading("a_out"), **options)
    steps = (
        [a_step("a"), middle, last]
        if end != "not reached"
        else [a_step("a"), middle, a_step("c", "b", **reading("a_out"))]
    )
    run = a_run(a_plan(steps, TOOLS, outputs=("c_out",), on_failure="finish"), {"rows": [0]}, capture=summarize)
    played = Played(way, run)
    played.ok("a", {"a_out": [1]})
    played.err("b", OSError("down"))
    if end != "not reached":
        assert held(run) == ["rows"]
        played.ok("c", {"c_out": [1]})

    assert "a.a_out" not in held(played.end())


@WAYS
def test_numbers_stay_where_the_record_shows_them(way: str):
    """R37: letting go of a number frees nothing, and its record is the slot itself."""
    one, two = a_tool("one", ["n"], ["m"]), a_tool("two", ["m"], ["k"])
    plan = a_plan([a_step("one"), a_step("two", "one")], [one, two], outputs=("k",))
    played = Played(way, a_run(plan, {"n": 1}, capture=summarize))
    played.ok("one", {"m": 2})
    played.ok("two", {"k": 3})

    assert held(played.end()) == ["one.m", "two.k"]


@WAYS
def test_the_outputs_of_a_tool_stay_as_it_made_them(way: str):
    """R37: the model may be held by the tool; the run lets go of what it holds itself."""
    made: Any = A.output_schema(a_out=[1])
    played = Played(way, begun(*CHAIN))
    played.ok("a", made)
    played.ok("b", {"b_out": [2]})

    assert made.a_out == [1]
    assert held(played.run) == ["b.b_out"]


def test_a_run_that_goes_on_lets_go_of_what_it_finds():
    """R33, R37: the outcomes of the first part count as ended."""
    run = begun(*CHAIN, resumed=True)
    run.slots[1] = {"a_out": [1]}
    run.shown = [{"a_out": "list[1]"}, None, None]
    crowd = Crowd(run)

    assert held(run) == ["a.a_out"]
    crowd.ok("b", {"b_out": [2]})
    assert held(run) == ["b.b_out"]


def test_a_run_that_goes_on_after_its_flow_has_changed_keeps_what_it_has():
    """R33, R37: a step runs again for which others with an outcome had waited; nobody knows who reads last."""
    run = begun(*CHAIN, resumed=True)
    run.slots[2] = {"b_out": [1]}
    crowd = Crowd(run)
    crowd.ok("a", {"a_out": [1]})
    crowd.ok("c", {"c_out": [1]})

    assert held(run) == ["rows", "a.a_out", "b.b_out", "c.c_out"]


# ---- what else holds values


INNER = a_flow(
    "inner", [a_step("x", tool_name="a"), a_step("y", "x", tool_name="b", **reading("a_out"))], outputs=["b_out"]
)


@WAYS
def test_of_a_sub_flow_that_has_ended_its_summaries_are_left(way: str):
    """R27, R37: what it gave is in the slot of its step, once."""
    played = Played(way, begun(a_sub_step("sub", "inner"), a_step("c", "sub", **reading("b_out")), flows=[INNER]))
    played.ok("sub/x", {"a_out": [1, 2]})
    played.ok("sub/y", {"b_out": [1, 2, 3]})
    nested = played.run.details[0].nested

    assert nested is not None
    assert nested.final_output == {"b_out": "list[3]"}
    assert [values for values in nested.slots if values] == [
        {"rows": RELEASED},
        {"a_out": RELEASED},
        {"b_out": "list[3]"},
    ]
    assert held(played.run) == ["sub.b_out"]
    played.ok("c", {"c_out": [4]})
    assert played.end().final_output == {"c_out": [4]}


def test_a_sub_flow_of_a_run_that_keeps_its_values_keeps_them_too():
    """R37: beyond what its own outputs allow."""
    run = begun(a_sub_step("sub", "inner"), a_step("c", "sub", **reading("b_out")), flows=[INNER], capture=None)
    walk = Walk(run)
    walk.ok({"a_out": [1, 2]})
    walk.ok({"b_out": [1, 2, 3]})
    nested = run.details[0].nested

    assert nested is not None
    assert nested.final_output == {"b_out": [1, 2, 3]}


def test_a_key_that_a_sub_flow_handed_back_is_no_collision_although_both_values_are_gone():
    """R27, R37: it was compared while they were there."""
    same = a_tool("same", {"rows": Any}, {"a_out": Any})
    inner = a_flow("inner", [a_step("x", tool_name="same", output_mapping={"rows": "a_out"})])
    for given, collisions in (([0], 0), ([1], 1)):
        run = begun(a_sub_step("sub", "inner"), a_step("c", "sub"), tools=[same, C], flows=[inner])
        kept = run.slots[0]["rows"]  # type: ignore[index]
        walk = Walk(run)
        walk.ok({"a_out": kept if given == [0] else given})
        walk.ok({"c_out": [2]})

        assert run.status == "ok"
        assert len(run.collisions) == collisions


@WAYS
def test_an_error_for_which_a_step_was_skipped_holds_no_values(way: str):
    """R37: what its record tells is left of it."""
    played = Played(way, begun(a_step("a", on_error="skip"), a_step("c", "a", **reading("rows"))))
    played.err("a", raised([1, 2, 3]))
    error = error_of(played.run)

    assert statuses(played.run)["a"] == "skipped"
    assert error.__cause__ is error.__context__ is error.__traceback__ is None
    assert error.stored == {
        "error_type": "FlowExecutionError",
        "error_code": error.code,
        "error_message": str(error),
        "error_cause": "OSError",
    }


@WAYS
@pytest.mark.parametrize("where", ["inside", "around"])
def test_the_errors_of_a_sub_flow_hold_no_values_either(way: str, where: str):
    """R27, R37: of a step that was skipped inside, and of one that failed inside and was skipped around."""
    inside, around = ({"on_error": "skip"}, {}) if where == "inside" else ({}, {"on_error": "skip"})
    inner = a_flow("inner", [a_step("x", tool_name="a", **inside), a_step("y", "x", tool_name="b")])
    played = Played(way, begun(a_sub_step("sub", "inner", **around), a_step("c", "sub"), flows=[inner]))
    played.err("sub/x", raised([1]))
    if where == "inside":
        played.ok("sub/y", {"b_out": [1]})
    nested = played.run.details[0].nested

    assert nested is not None
    assert statuses(nested)["x"] == ("skipped" if where == "inside" else "failed")
    error = error_of(nested)
    assert error.__cause__ is error.__traceback__ is None
    assert error.stored["error_cause"] == "OSError"


def test_a_sub_flow_without_outputs_lets_go_with_the_run_around_it():
    """R37: it has summaries left, as the run around it asks for; one that nobody asks keeps what it has."""
    inner = a_flow("inner", [a_step("x", tool_name="a")])
    for outputs, final in ((("c_out",), "list[2]"), (None, [1, 2])):
        run = begun(a_sub_step("sub", "inner"), a_step("c", "sub"), flows=[inner], outputs=outputs)
        walk = Walk(run)
        assert walk.ok({"a_out": [1, 2]})[1] == "c"
        nested = run.details[0].nested

        assert nested is not None
        assert nested.final_output == {"rows": "list[1]" if outputs else [0], "a_out": final}


def test_a_sub_flow_that_failed_leaves_summaries_as_well():
    """R37: it has no output, and what its steps gave before is gone."""
    inner = a_flow("inner", [a_step("x", tool_name="a"), a_step("y", "x", tool_name="b")])
    run = begun(a_sub_step("sub", "inner", on_error="skip"), a_step("c", "sub"), flows=[inner])
    walk = Walk(run)
    walk.ok({"a_out": [1, 2]})
    walk.err(OSError("down"))
    nested = run.details[0].nested

    assert nested is not None
    assert nested.final_output is None
    assert nested.slots[:3] == [{"rows": "list[1]"}, {"a_out": "list[2]"}, None]


@WAYS
def test_an_attempt_that_failed_holds_no_values(way: str):
    """R20, R37: the retry has them, and the text of the error is in the record."""
    tried = a_step("a", retry=RetryPolicy(max_retries=1, backoff_seconds=0.0))
    played = Played(way, begun(tried, a_step("c", "a", **reading("rows"))))
    failed = raised([1, 2, 3])
    played.err("a", failed)

    assert failed.__traceback__ is None
    assert played.run.details[0].retry_errors == ("Tool 'a' failed at step 0: OSError: down.",)


def test_a_run_that_keeps_its_values_keeps_the_frames_of_its_errors():
    """R16: they show where a tool failed."""
    tried = a_step("a", retry=RetryPolicy(max_retries=1, backoff_seconds=0.0))
    walk = Walk(begun(tried, a_step("c", "a", **reading("rows")), outputs=None))
    failed = raised([1])
    walk.err(failed)

    assert failed.__traceback__ is not None


def raised(value: Any) -> OSError:
    """An exception whose frames hold a value."""

    def tool(rows: Any) -> None:
        raise OSError("down")

    try:
        tool(value)
    except OSError as exc:
        return exc
    raise AssertionError("unreachable")


def test_frames_are_forgotten_of_all_exceptions_behind_one():
    """R37: causes, contexts and those in groups, also in a circle."""
    cause, context, member = raised(1), raised(2), raised(3)
    outer = raised(4)
    outer.__cause__, outer.__context__, cause.__cause__ = cause, context, outer
    outer.exceptions = (member,)  # type: ignore[attr-defined]
    context.exceptions = "not a tuple"  # type: ignore[attr-defined]
    forget_frames(outer)

    assert [one.__traceback__ for one in (outer, cause, context, member)] == [None] * 4
    assert outer.__cause__ is cause


def test_what_was_let_go_is_in_no_context_that_anybody_is_shown():
    """R37: a context holds values, not their places."""
    walk = Walk(begun(*CHAIN))
    walk.ok({"a_out": [1]})
    walk.ok({"b_out": [2]})

    assert merged_context(walk.run) == {"b_out": [2]}


def test_a_flow_at_any_depth_lets_go_with_the_outermost_run():
    """R27, R37: summaries are left of it as soon as it has ended."""
    innermost = a_flow("innermost", [a_step("x", tool_name="a")])
    inner = a_flow("inner", [a_sub_step("deep", "innermost"), a_step("y", "deep", tool_name="b")])
    run = begun(a_sub_step("sub", "inner"), a_step("c", "sub"), flows=[inner, innermost])
    walk = Walk(run)
    walk.ok({"a_out": [1, 2]})
    middle = run.details[0].nested
    assert middle is not None
    deep = middle.details[0].nested

    assert walk.asks[1] == "b"
    assert deep is not None
    assert deep.slots[1] == {"a_out": "list[2]"}
    assert middle.slots[1] == {"a_out": [1, 2]}
