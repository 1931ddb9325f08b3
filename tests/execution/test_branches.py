"""Branches: which of its dependents a step lets go on, and what becomes of those that nothing leads to."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from chainweaver import ConditionalEdge, Tool
from chainweaver._execution import RunCancelled
from chainweaver.exceptions import FlowExecutionError, InputMappingError, PredicateSyntaxError
from tests.execution.kit import Crowd, Walk, a_plan, a_run, a_step, a_tool, error_of, facts, statuses

CHOOSE = a_tool("choose", ["n"], ["score"])
LOW, HIGH, END, OTHER = (a_tool(name, ["n"], [f"{name}_out"]) for name in ("low", "high", "end", "other"))
TOOLS = [CHOOSE, LOW, HIGH, END, OTHER]


class Anything(BaseModel):
    model_config = ConfigDict(extra="allow")


def edge(target: str, predicate: str) -> ConditionalEdge:
    return ConditionalEdge(target_step_id=target, predicate=predicate)


def choosing(*edges: ConditionalEdge, **options: Any) -> Any:
    """A step that branches; without edges named, to `low` for small scores and to `high` for large ones."""
    return a_step("choose", branches=list(edges or (edge("low", "score < 10"), edge("high", "score > 90"))), **options)


FORK = [choosing(), a_step("low", "choose"), a_step("high", "choose")]
DIAMOND = [*FORK, a_step("end", "low high")]


def walked(steps: list[Any], *replies: Any, tools: list[Tool] | None = None, **options: Any) -> Walk:
    walk = Walk(a_run(a_plan(steps, tools or TOOLS, **options), {"n": 1}))
    for reply in replies:
        walk.err(reply) if isinstance(reply, BaseException) else walk.ok(reply)
    return walk


# ---- which way


@pytest.mark.parametrize(("score", "taken", "passed"), [(5, "low", "high"), (95, "high", "low")])
def test_the_step_whose_predicate_holds_goes_on_and_the_others_do_not(score: int, taken: str, passed: str):
    """R24: a dependent to which no active edge leads is passed over."""
    walk = walked(FORK, {"score": score})

    assert walk.asks == ("call", taken, {"n": 1})
    assert walk.ok({f"{taken}_out": 1}) is None
    assert statuses(walk.run) == {"choose": "ok", taken: "ok", passed: "passed"}
    assert walk.run.decision_of(walk.run.plan.steps[0]) == {"taken": taken}
    assert walk.run.final_output == {"n": 1, "score": score, f"{taken}_out": 1}


def test_the_first_edge_that_holds_is_taken():
    """R24: the edges are asked in the order in which they are declared."""
    steps = [choosing(edge("high", "score > 1"), edge("low", "score > 0")), *FORK[1:]]

    assert walked(steps, {"score": 5}).asks == ("call", "high", {"n": 1})


def test_when_no_predicate_holds_the_default_goes_on():
    """R24: `default_next` stays active, everybody else is passed over."""
    walk = walked([choosing(default_next="high"), *FORK[1:]], {"score": 50})

    assert walk.asks == ("call", "high", {"n": 1})
    walk.ok({"high_out": 1})
    assert statuses(walk.run) == {"choose": "ok", "low": "passed", "high": "ok"}
    assert walk.run.decision_of(walk.run.plan.steps[0]) == {"taken": "high"}


def test_a_default_alone_is_a_branch_too():
    """R24: without any edge the default is always the way."""
    walk = walked([a_step("choose", default_next="low"), *FORK[1:]], {"score": 50}, {"low_out": 1})

    assert statuses(walk.run) == {"choose": "ok", "low": "ok", "high": "passed"}


def test_when_nothing_holds_and_there_is_no_default_all_dependents_go_on():
    """R24: a branch that says nothing keeps nobody from running."""
    walk = walked(FORK, {"score": 50}, {"low_out": 1}, {"high_out": 2})

    assert statuses(walk.run) == {"choose": "ok", "low": "ok", "high": "ok"}
    assert walk.run.decision_of(walk.run.plan.steps[0]) == {"taken": None}


def test_a_predicate_reads_the_outputs_of_its_own_step_before_everything_else():
    """R24: it is asked of the context after the step; a key of the input with the same name is the older one."""
    steps = [choosing(edge("low", "n == 7"), output_mapping={"n": "score"}), *FORK[1:]]

    assert walked(steps, {"score": 7}).asks == ("call", "low", {"n": 7})


def test_a_predicate_reads_what_the_step_could_see():
    """R3, R24: the input and the outputs of earlier levels; the step waits for whoever writes them."""
    steps = [
        a_step("other"),
        a_step("end"),
        a_step("choose", "end", branches=[edge("low", "other_out == 3 and n == 1")]),
        *FORK[1:],
    ]
    crowd = Crowd(a_run(a_plan(steps, TOOLS), {"n": 1}))

    assert crowd.ok("end", {"end_out": 0}) == [], "choose reads what other writes, and so waits for it"
    assert crowd.ok("other", {"other_out": 3}) == ["choose"]
    assert crowd.ok("choose", {"score": 1}) == ["low"]


def test_of_outputs_that_are_open_a_predicate_takes_what_is_there():
    """R24: a key that the step may write, and has not written, is the one from before."""
    choose = a_tool("choose", ["n"], Anything)
    steps = [choosing(edge("low", "kind == 'a'")), *FORK[1:]]
    own = Walk(a_run(a_plan(steps, [choose, LOW, HIGH]), {"n": 1, "kind": "b"}))
    given = Walk(a_run(a_plan(steps, [choose, LOW, HIGH]), {"n": 1, "kind": "a"}))

    assert own.ok({"kind": "a"}) == given.ok({}) == ("call", "low", {"n": 1})


# ---- who is passed over


def test_a_join_with_one_live_parent_runs():
    """R24: it is passed over only when no active edge reaches it."""
    walk = walked(DIAMOND, {"score": 95}, {"high_out": 1})

    assert walk.asks == ("call", "end", {"n": 1})
    walk.ok({"end_out": 2})
    assert statuses(walk.run) == {"choose": "ok", "low": "passed", "high": "ok", "end": "ok"}


def test_what_hangs_behind_a_step_that_is_passed_over_is_passed_over_too():
    """R24: an edge from a step that did not run is no active edge."""
    steps = [*FORK, a_step("other", "low"), a_step("end", "other")]
    walk = walked(steps, {"score": 95}, {"high_out": 1})

    assert walk.asks is None
    assert statuses(walk.run) == {"choose": "ok", "low": "passed", "high": "ok", "other": "passed", "end": "passed"}
    assert walk.run.status == "ok"


def test_an_edge_from_a_parent_that_does_not_branch_is_active():
    """R24: one live parent is enough, although the branch before it leads elsewhere."""
    steps = [choosing(), a_step("other"), a_step("low", "choose other"), a_step("high", "choose")]
    walk = walked(steps, {"score": 95}, {"other_out": 1}, {"low_out": 2}, {"high_out": 3})

    assert statuses(walk.run) == {"choose": "ok", "other": "ok", "low": "ok", "high": "ok"}


def test_only_declared_dependencies_are_edges():
    """R3, R24: a step that merely waits for a value is not reached by the one who writes it."""
    reader = a_tool("reader", ["other_out"], ["read"])
    # other is on the live way of the branch, and reader waits for it; but reader hangs behind low, which is not.
    steps = [choosing(edge("other", "score > 0")), *(a_step(name, "choose") for name in ("low", "other", "high"))]
    steps.append(a_step("reader", "low"))
    walk = walked(steps, {"score": 5}, {"other_out": 1}, tools=[*TOOLS, reader])

    assert walk.run.plan.steps[4].needs == (1, 2)
    assert statuses(walk.run)["reader"] == "passed"


def test_a_step_that_is_passed_over_leaves_nothing_but_its_status():
    """R24: no inputs, no outputs, no error; nothing is saved and nobody is told."""
    run = a_run(a_plan(FORK, TOOLS), {"n": 1}, saving=True, listening=True)
    seen = Walk(run).to_the_end({"choose": {"score": 5}, "low": {"low_out": 1}})

    assert [one[:2] for one in seen] == [
        ("step_start", "choose"),
        ("call", "choose"),
        ("save", "choose"),
        ("step_end", "choose"),
        ("step_start", "low"),
        ("call", "low"),
        ("save", "low"),
        ("step_end", "low"),
    ]
    index = run.plan.names["high"]
    detail = run.details[index]
    assert (detail.status, detail.error, detail.decision, detail.nested) == ("passed", None, None, None)
    assert (run.inputs[index], run.shown_outputs(index)) == (None, None)


def test_of_two_steps_behind_a_branch_that_write_one_key_the_one_that_ran_counts():
    """R12, R24: siblings of which only one runs do not collide, and readers find the one that did."""
    low, high = a_tool("low", ["n"], ["found"]), a_tool("high", ["n"], ["found"])
    reader = a_tool("reader", ["found"], ["read"])
    steps = [*FORK, a_step("reader", "low high")]
    walk = walked(steps, {"score": 5}, {"found": 11}, tools=[CHOOSE, low, high, reader])

    assert walk.asks == ("call", "reader", {"found": 11})


def test_siblings_that_both_run_collide_when_a_branch_chooses_nobody():
    """R12, R24: what could not be said beforehand is said by the run."""
    low, high = a_tool("low", ["n"], ["found"]), a_tool("high", ["n"], ["found"])
    walk = walked(FORK, {"score": 50}, {"found": 1}, {"found": 2}, tools=[CHOOSE, low, high])

    assert statuses(walk.run) == {"choose": "ok", "low": "ok", "high": "failed"}
    assert "Key 'found' produced by both 'low' and its sibling 'high'" in str(error_of(walk.run, 2))


def test_who_reads_what_a_passed_step_would_have_written_finds_the_value_from_before():
    """R3, R24: a writer that did not run leaves the word to the one before it, and to nobody when there is none."""
    reader = a_tool("reader", ["low_out"], ["read"])
    steps = [*FORK, a_step("reader", "low high", input_mapping={"low_out": "low_out"})]
    plan = a_plan(steps, [*TOOLS, reader])
    given, bare = (Walk(a_run(plan, initial)) for initial in ({"n": 1, "low_out": 7}, {"n": 1}))
    for walk in (given, bare):
        walk.ok({"score": 95})
        walk.ok({"high_out": 1})

    assert given.asks == ("call", "reader", {"low_out": 7})
    assert isinstance(error_of(bare.run, 3), InputMappingError)


# ---- a branching step that does not succeed


@pytest.mark.parametrize("default", [None, "high"])
def test_a_skipped_step_asks_no_predicate(default: str | None):
    """R24: it has no outputs to ask about, so its default goes on, and without one everybody."""
    edges = [edge("low", "n == 1")]
    walk = walked([choosing(*edges, on_error="skip", default_next=default), *FORK[1:]], OSError("down"))
    while walk.asks is not None:
        walk.ok({f"{walk.asks[1]}_out": 1})

    expected = {"choose": "skipped", "low": "passed" if default else "ok", "high": "ok"}
    assert statuses(walk.run) == expected
    assert walk.run.decision_of(walk.run.plan.steps[0]) == {"taken": default}


def test_a_step_that_failed_decides_nothing():
    """R19, R24: what depends on a failure does not run, and no way is noted."""
    walk = walked(FORK, OSError("down"), on_failure="finish")

    assert statuses(walk.run) == {"choose": "failed", "low": None, "high": None}
    assert walk.run.decision_of(walk.run.plan.steps[0]) is None


@pytest.mark.parametrize("on_error", ["fail", "skip", "fallback:other"])
@pytest.mark.parametrize(
    ("predicate", "why"),
    [
        ("score < 'x'", "TypeError"),
        ("gone == 1", "there is no 'gone'"),
    ],
)
def test_a_predicate_that_cannot_be_answered_fails_the_step_whatever_its_policy(predicate, why, on_error):
    """R16, R24: it is a fault of the flow, and what the step gave does not count."""
    steps = [choosing(edge("low", predicate), on_error=on_error, default_next="high"), *FORK[1:]]
    walk = walked(steps, {"score": 5})
    error = error_of(walk.run)

    assert statuses(walk.run) == {"choose": "failed", "low": None, "high": None}
    assert isinstance(error, FlowExecutionError)
    assert f"the predicate '{predicate}' of its branch to 'low' cannot be answered: {why}" in error.detail
    assert error.__cause__ is not None
    assert walk.run.slots[1] is None
    assert walk.run.taken == {}


def test_a_predicate_with_no_meaning_fails_the_step_before_its_tool_is_called():
    """R16, R24: what is known beforehand costs no call."""
    walk = walked([choosing(edge("low", "score <")), *FORK[1:]])

    assert walk.asks is None
    assert isinstance(error_of(walk.run), PredicateSyntaxError)


def test_the_choice_of_a_superfluous_step_counts_for_nothing():
    """R19, R24: neither way is gone, and nothing that a predicate runs into is a failure."""
    for predicate in ("score < 10", "score < 'x'"):
        steps = [a_step("other"), choosing(edge("low", predicate)), *FORK[1:]]
        crowd = Crowd(a_run(a_plan(steps, TOOLS), {"n": 1}))
        crowd.err("other", OSError("down"))
        assert crowd.doomed() == ["choose"]
        assert crowd.ok("choose", {"score": 5}) == []

        run = crowd.concluded()
        assert statuses(run)["low"] is statuses(run)["high"] is None
        assert run.details[1].surplus
        assert error_of(run, min(run.failures)).detail == "OSError: down"


# ---- above limit 1, and later


@pytest.mark.parametrize("order", list(permutations(["choose", "other"])), ids="-".join)
def test_every_order_of_replies_leaves_the_same_ways_behind(order: tuple[str, ...]):
    """R1, R24: the branch does not depend on who was faster."""
    steps = [choosing(), a_step("other"), a_step("low", "choose"), a_step("high", "choose"), a_step("end", "low other")]
    plan = a_plan(steps, TOOLS)
    replies = {"choose": {"score": 95}, "other": {"other_out": 1}, "high": {"high_out": 2}, "end": {"end_out": 3}}
    crowd = Crowd(a_run(plan, {"n": 1}))
    for name in (*order, "high", "end"):
        crowd.ok(name, replies[name])
    walk = Walk(a_run(plan, {"n": 1}))
    while walk.asks is not None:
        walk.ok(replies[walk.asks[1]])

    assert statuses(walk.run)["low"] == "passed"
    assert facts(crowd.concluded()) == facts(walk.run)


def test_what_hangs_behind_a_passed_step_does_not_wait():
    """R24: a step that is passed over is finished for those who wait for it."""
    crowd = Crowd(a_run(a_plan(DIAMOND, TOOLS), {"n": 1}))

    assert crowd.ok("choose", {"score": 95}) == ["high"]
    assert crowd.ok("high", {"high_out": 1}) == ["end"]


def test_a_cancelled_run_passes_over_nothing():
    """R23: after the end nothing is decided any more."""
    crowd = Crowd(a_run(a_plan(FORK, TOOLS), {"n": 1}))
    crowd.cancel(RunCancelled("token"))
    crowd.err("choose", RunCancelled("token"))

    assert statuses(crowd.concluded()) == {"choose": "cancelled", "low": None, "high": None}


@pytest.mark.parametrize("way", [Walk, Crowd])
def test_a_resumed_run_keeps_to_the_way_that_was_taken(way: Any):
    """R24, R32: nothing is asked again, and what was passed over stays so."""
    run = a_run(a_plan(DIAMOND, TOOLS), {"n": 1}, resumed=True)
    run.slots[1] = {"score": 5}  # the predicates would lead to low
    run.take(0, 2)
    resumed = way(run)
    if way is Walk:
        assert resumed.asks == ("call", "high", {"n": 1})
    else:
        assert resumed.began == ["high"]
    assert run.details[1].status == "passed"


def test_a_step_that_is_passed_over_again_calls_up_nothing_that_has_its_outcome():
    """R24, R32: above limit 1 a resumed run closes what no branch led to before anything else begins."""
    steps = [
        a_step("fork", default_next="join"),
        a_step("side", "fork"),
        a_step("join", "fork side"),
        a_step("last", "join"),
        a_step("apart"),
    ]
    tools = [a_tool(name, ["n"], [f"{name}_out"]) for name in ("fork", "side", "join", "last", "apart")]
    plan = a_plan(steps, tools)
    run = a_run(plan, {"n": 1}, resumed=True)
    for name in ("fork", "apart", "join"):
        run.keep(plan.steps[plan.names[name]], {f"{name}_out": 1})
    run.take(plan.names["fork"], plan.names["join"])

    assert Crowd(run).began == ["last"]
