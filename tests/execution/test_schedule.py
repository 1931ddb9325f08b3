"""Above limit 1: which steps go on, in which order, and what a failure or the end of the run does to the others."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from chainweaver._execution import Lead, RunCancelled
from chainweaver.exceptions import RunProtocolError
from chainweaver.flow import RetryPolicy
from tests.execution.kit import Crowd, Walk, a_flow, a_plan, a_run, a_step, a_tool, error_of, facts, statuses


class Anything(BaseModel):
    model_config = ConfigDict(extra="allow")


A, B, C, D = (a_tool(name, ["n"], [f"{name}_out"]) for name in "abcd")
JOIN = a_tool("join", ["a_out", "b_out"], ["joined"])
SIDE_BY_SIDE = [a_step("a"), a_step("b"), a_step("c"), a_step("d")]
DIAMOND = [a_step("a"), a_step("b"), a_step("join", "a b")]


def crowd(steps: list[Any], tools: list[Any], limit: int = 16, attended: Any = None, **flow: Any) -> Crowd:
    return Crowd(a_run(a_plan(steps, tools, **flow), {"n": 1}, **(attended or {})), limit)


# ---- who goes on


def test_steps_without_needs_start_together_in_plan_order():
    """R2, R3: what waits for nothing starts at once, listed in plan order."""
    assert crowd(SIDE_BY_SIDE, [A, B, C, D]).began == ["a", "b", "c", "d"]


def test_a_step_starts_as_soon_as_its_own_needs_have_finished():
    """R3: there is no barrier between levels."""
    run = crowd([a_step("a"), a_step("b"), a_step("c", "a")], [A, B, C])

    assert run.began == ["a", "b"]
    assert run.ok("a", {"a_out": 1}) == ["c"]


def test_a_join_waits_for_all_its_needs():
    """R3: a step with two needs starts when the second has finished."""
    run = crowd(DIAMOND, [A, B, JOIN])

    assert run.ok("b", {"b_out": 2}) == []
    assert run.ok("a", {"a_out": 1}) == ["join"]
    assert run.asks("join") == ("call", "join", {"a_out": 1, "b_out": 2})
    assert run.ok("join", {"joined": 3}) == []
    assert run.concluded().final_output == {"n": 1, "a_out": 1, "b_out": 2, "joined": 3}


def test_no_more_calls_than_the_limit_are_handed_out():
    """R4: a finished call makes room for the next step in plan order."""
    run = crowd(SIDE_BY_SIDE, [A, B, C, D], limit=2)

    assert run.began == ["a", "b"]
    assert run.ok("b", {"b_out": 1}) == ["c"]
    assert run.ok("c", {"c_out": 1}) == ["d"]


def test_a_flow_without_steps_is_over_before_it_begins():
    """R17: a run without anything to do still has an outcome."""
    run = crowd([], [])

    assert run.began == []
    assert run.concluded().final_output == {"n": 1}


def test_waits_and_look_ups_hold_no_slot():
    """R4: only the call of a tool holds a slot; what waits between attempts makes room for others."""
    retried = a_step("a", retry=RetryPolicy(max_retries=1, backoff_seconds=5.0))
    run = crowd([retried, a_step("b")], [A, B], limit=1)

    assert run.began == ["a"]
    assert run.err("a", OSError("busy")) == ["a", "b"]
    assert run.asks("a") == ("sleep", 5.0, False)
    assert run.asks("b") == ("call", "b", {"n": 1})


def test_an_attempt_that_finds_no_free_slot_queues_for_the_next_one():
    """R4: a further attempt needs a slot like the first one."""
    retried = a_step("a", retry=RetryPolicy(max_retries=1, backoff_seconds=5.0))
    run = crowd([retried, a_step("b"), a_step("c")], [A, B, C], limit=1)
    run.err("a", OSError("busy"))

    assert run.ok("a") == []
    assert run.ok("b", {"b_out": 1}) == ["a"], "lower plan index first, although c is ready"
    assert run.ok("a", {"a_out": 1}) == ["c"]
    run.ok("c", {"c_out": 1})
    assert run.concluded().status == "ok"


def test_a_queued_step_goes_before_a_ready_one_with_a_higher_index():
    """R4: slots go to the lowest plan index, whoever asked first."""
    retried = a_step("b", retry=RetryPolicy(max_retries=1, backoff_seconds=5.0))
    run = crowd([a_step("a"), retried, a_step("c"), a_step("d", "a")], [A, B, C, D], limit=2)
    assert run.began == ["a", "b"]
    assert run.err("b", OSError("busy")) == ["b", "c"], "the back-off of b holds no slot"
    assert run.ok("b") == [], "a and c hold both"

    assert run.ok("a", {"a_out": 1}) == ["b"], "index 1, d has index 3"
    assert run.ok("c", {"c_out": 1}) == ["d"]


def test_a_queued_step_waits_for_a_lower_one_that_has_become_ready():
    """R4: a step that becomes ready later but comes earlier in plan order is served first."""
    early, late, other = (a_tool(name, ["n"], [f"{name}_out"]) for name in ("early", "late", "other"))
    retried = a_step("late", "b", retry=RetryPolicy(max_retries=1, backoff_seconds=5.0))
    steps = [a_step("a"), a_step("b"), a_step("early", "a"), retried, a_step("other", "b")]
    run = crowd(steps, [A, B, early, late, other], limit=2)
    assert run.ok("b", {"b_out": 1}) == ["late"]
    assert run.err("late", OSError("busy")) == ["late", "other"]
    assert run.ok("late") == [], "a and other hold both slots"

    assert run.ok("a", {"a_out": 1}) == ["early"]
    assert run.ok("other", {"other_out": 1}) == ["late"]


def test_what_was_done_before_a_resume_is_not_started_again():
    """R32: a step with an outcome counts as finished for those who wait for it."""
    run = a_run(a_plan(DIAMOND, [A, B, JOIN]), {"n": 1}, resumed=True)
    run.slots[1] = {"a_out": 7}
    resumed = Crowd(run)

    assert resumed.began == ["b"]
    assert resumed.ok("b", {"b_out": 2}) == ["join"]
    assert resumed.asks("join") == ("call", "join", {"a_out": 7, "b_out": 2})


def test_a_resumed_walk_passes_over_what_was_done():
    """R32: a committed step never runs again, at limit 1 either."""
    run = a_run(a_plan(DIAMOND, [A, B, JOIN]), {"n": 1}, resumed=True)
    run.slots[2] = {"b_out": 7}
    walk = Walk(run)

    assert walk.asks == ("call", "a", {"n": 1})
    assert walk.ok({"a_out": 1}) == ("call", "join", {"a_out": 1, "b_out": 7})
    assert walk.ok({"joined": 2}) is None
    assert run.final_output == {"n": 1, "a_out": 1, "b_out": 7, "joined": 2}


@pytest.mark.parametrize("reply", ["ok", "err"])
def test_a_second_reply_is_a_fault_of_the_lane(reply):
    """A reply without a command in flight is refused and changes nothing."""
    run = crowd(DIAMOND, [A, B, JOIN])
    run.ok("a", {"a_out": 1})

    with pytest.raises(RunProtocolError, match="step 'a' got a reply without a command in flight"):
        run.ok("a", {"a_out": 2}) if reply == "ok" else run.err("a", OSError())
    assert run.run.slots[1] == {"a_out": 1}


# ---- failures


def test_after_a_failure_nothing_later_starts_and_everything_earlier_ends():
    """R19: a failure at i keeps what comes after i from starting; lower indexes still run."""
    run = crowd([a_step("a"), a_step("b"), a_step("c", "a"), a_step("d", "b")], [A, B, C, D])

    assert run.err("b", OSError("down")) == []
    assert run.ok("a", {"a_out": 1}) == [], "c has a higher index than b"
    assert statuses(run.concluded()) == {"a": "ok", "b": "failed", "c": None, "d": None}
    assert run.run.status == "failed"


def test_steps_before_the_failure_that_have_not_started_still_run():
    """R19: the result is that of limit 1, so whatever comes before the failure runs to its end."""
    late = a_tool("late", ["n"], ["late_out"])
    run = crowd([a_step("a"), a_step("b", "a"), a_step("late", "a b")], [A, B, late], limit=2)
    # b (index 1) is on its way when late is not yet; a failing late cannot bar b.
    assert run.ok("a", {"a_out": 1}) == ["b"]
    assert run.ok("b", {"b_out": 1}) == ["late"]

    steps = [a_step("a"), a_step("b"), a_step("c", "a"), a_step("d", "b")]
    other = crowd(steps, [A, B, C, D])
    other.ok("b", {"b_out": 1})
    assert other.err("d", OSError("down")) == []
    assert other.ok("a", {"a_out": 1}) == ["c"], "index 2 comes before the failure at 3"
    other.ok("c", {"c_out": 1})
    assert statuses(other.concluded()) == {"a": "ok", "b": "ok", "c": "ok", "d": "failed"}


def test_a_failure_dooms_what_had_started_too_early():
    """R19: steps beyond the failure are handed to the lane to be cancelled, each once."""
    run = crowd(SIDE_BY_SIDE, [A, B, C, D])

    run.err("b", OSError("down"))
    assert run.doomed() == ["c", "d"]
    assert run.err("c", RunCancelled("surplus")) == []
    assert run.ok("a", {"a_out": 1}) == []
    assert run.ok("d", {"d_out": 1}) == []
    concluded = run.concluded()
    assert statuses(concluded) == {"a": "ok", "b": "failed", "c": "cancelled", "d": "ok"}
    assert concluded.details[2].surplus
    assert concluded.details[3].surplus
    assert concluded.slots == [{"n": 1}, {"a_out": 1}, None, None, None, {}]
    assert concluded.shown_outputs(3) == {"d_out": 1}, "the record keeps what the context does not"


def test_a_second_failure_further_ahead_dooms_the_rest_once():
    """R19: when the bar moves to a lower step, what was doomed already is not doomed again."""
    run = crowd(SIDE_BY_SIDE, [A, B, C, D])

    run.err("c", OSError("down"))
    run.err("a", OSError("down, too"))
    assert run.doomed() == ["d", "b"]


@pytest.mark.parametrize("order", list(permutations("abcd")), ids="".join)
def test_the_lowest_failure_decides_whatever_the_order_of_replies(order):
    """R1, R19: two failures, a success between and one after; records of what counts are those of limit 1."""
    run = crowd([*SIDE_BY_SIDE], [A, B, C, D])
    for name in order:
        if name in "bd":
            run.err(name, OSError(name))
        else:
            run.ok(name, {f"{name}_out": 1})
    concluded = run.concluded()
    counted = [index for index in range(4) if index not in concluded.details or not concluded.details[index].surplus]

    assert counted == [0, 1]
    assert concluded.slots[1:5] == [{"a_out": 1}, None, None, None]
    assert min(concluded.failures) == 1


def test_a_step_that_was_skipped_too_early_does_not_count_either():
    """R19: a skip beyond the failure would not have happened at limit 1, so it is surplus."""
    run = crowd([a_step("a"), a_step("b", on_error="skip")], [A, B])
    run.err("b", OSError("down"))
    run.err("a", OSError("down"))

    assert run.concluded().details[1].surplus


def test_a_doomed_retry_is_not_tried_again():
    """R19: a superfluous step ends at its next command, and releases nothing into the context."""
    retried = a_step("b", retry=RetryPolicy(max_retries=3, backoff_seconds=1.0))
    run = crowd([a_step("a"), retried], [A, B])
    run.err("a", OSError("down"))

    assert run.err("b", OSError("busy")) == []
    assert statuses(run.concluded()) == {"a": "failed", "b": "cancelled"}


def test_a_superfluous_step_that_waits_for_a_slot_is_cancelled_at_once():
    """R19: what only queues is not handed out any more."""
    retried = a_step("b", retry=RetryPolicy(max_retries=1, backoff_seconds=1.0))
    run = crowd([a_step("a"), retried, a_step("c")], [A, B, C], limit=2)
    run.err("b", OSError("busy"))
    run.ok("b")  # both slots are taken by a and c

    assert run.err("a", OSError("down")) == []
    assert run.doomed() == ["c"]
    run.ok("c", {"c_out": 1})
    assert statuses(run.concluded()) == {"a": "failed", "b": "cancelled", "c": "ok"}


def test_with_finish_only_what_depends_on_a_failure_stays_out():
    """R19: on_failure="finish" runs all that does not depend on a failure, directly or over others."""
    steps = [a_step("a"), a_step("b"), a_step("c", "a"), a_step("d", "c"), a_step("e", "b")]
    e = a_tool("e", ["n"], ["e_out"])
    run = crowd(steps, [A, B, C, D, e], on_failure="finish")

    assert run.err("a", OSError("down")) == []
    assert run.doomed() == []
    assert run.ok("b", {"b_out": 1}) == ["e"]
    run.ok("e", {"e_out": 1})
    concluded = run.concluded()
    assert statuses(concluded) == {"a": "failed", "b": "ok", "c": None, "d": None, "e": "ok"}
    assert concluded.slots[2] == {"b_out": 1}


def test_a_skipped_need_does_not_keep_its_dependents_from_running():
    """R21: a step that was skipped is finished for those who wait for it."""
    run = crowd([a_step("a", on_error="skip"), a_step("b", "a")], [A, B])

    assert run.err("a", OSError("down")) == ["b"]
    run.ok("b", {"b_out": 1})
    assert run.concluded().final_output == {"n": 1, "b_out": 1}


def test_the_names_that_an_error_lists_do_not_depend_on_who_was_faster():
    """R1: an unknown key is explained with what the step could see, not with what happened to be there."""
    reader = a_tool("reader", {"n": int}, ["read"])
    steps = [a_step("a"), a_step("b"), a_step("reader", "a", input_mapping={"n": "missing"})]
    texts = set()
    for early in ("b", "a"):
        run = crowd(steps, [A, B, reader])
        run.ok(early, {f"{early}_out": 1})
        run.ok("a" if early == "b" else "b", {f"{'a' if early == 'b' else 'b'}_out": 1})
        texts.add(str(error_of(run.concluded(), 2)))
    assert len(texts) == 1
    assert "known   n, a_out\n" in texts.pop() + "\n"


def test_everything_a_step_depends_on_is_among_the_names_it_could_have_read():
    """R3: near and far needs, each once, in plan order."""
    reader = a_tool("reader", {"n": int}, ["read"])
    steps = [a_step("a"), a_step("b", "a"), a_step("c", "a"), a_step("reader", "b c", input_mapping={"n": "missing"})]
    walk = Walk(a_run(a_plan(steps, [A, B, C, reader]), {"n": 1}))
    for name in "abc":
        walk.ok({f"{name}_out": 1})

    assert error_of(walk.run, 3).known == ("n", "a_out", "b_out", "c_out")


# ---- the end of the run


def test_cancelling_starts_nothing_more_and_dooms_what_is_in_flight():
    """R23: the run ends; dependents of cancelled steps never start and leave no record."""
    run = crowd(DIAMOND, [A, B, JOIN])

    assert run.cancel(RunCancelled("token")) == []
    assert run.doomed() == ["a", "b"]
    assert run.err("a", RunCancelled("token")) == []
    assert run.ok("b", {"b_out": 2}) == []
    concluded = run.concluded()
    assert statuses(concluded) == {"a": "cancelled", "b": "ok", "join": None}
    assert concluded.status == "cancelled"
    assert concluded.cancelled is not None
    assert concluded.cancelled.reason == "token"


def test_a_cancelled_run_does_not_start_what_was_ready():
    """R23: a step that only waited for a slot never starts; one between two attempts is cancelled."""
    retried = a_step("b", retry=RetryPolicy(max_retries=1, backoff_seconds=1.0))
    run = crowd([a_step("a"), retried, a_step("c"), a_step("d")], [A, B, C, D], limit=2)
    run.err("b", OSError("busy"))
    run.ok("b")
    assert run.cancel(RunCancelled("token")) == []
    run.err("a", RunCancelled("token"))
    run.err("c", RunCancelled("token"))

    assert statuses(run.concluded()) == {"a": "cancelled", "b": "cancelled", "c": "cancelled", "d": None}


def test_a_second_cancellation_changes_nothing():
    """R17: a run ends for one reason, the first one."""
    run = crowd(DIAMOND, [A, B, JOIN])
    run.cancel(RunCancelled("token"))
    run.cancel(RunCancelled("interrupt"))

    assert run.run.cancelled is not None
    assert run.run.cancelled.reason == "token"


def test_one_step_that_is_told_to_end_ends_the_run():
    """R23: whoever learns first of the end tells the others through the schedule."""
    run = crowd([a_step("a"), a_step("b"), a_step("c", "a")], [A, B, C])

    assert run.err("a", RunCancelled("interrupt")) == []
    assert run.doomed() == ["b"]
    run.err("b", RunCancelled("interrupt"))
    assert statuses(run.concluded()) == {"a": "cancelled", "b": "cancelled", "c": None}
    assert not run.run.details[0].surplus


def test_a_passed_deadline_ends_the_run_at_the_next_reply():
    """R22: a late finish is never a success, and nothing starts after it."""
    run = crowd([a_step("a"), a_step("b"), a_step("c", "a")], [A, B, C], attended={"deadline_s": 1.0})
    assert run.asks("a") == ("invoke", "a", {"n": 1}, 1.0, None)

    assert run.ok("a", {"a_out": 1}, after_s=2.0) == []
    assert run.doomed() == ["b"]
    run.err("b", RunCancelled("deadline"))
    concluded = run.concluded()
    assert statuses(concluded) == {"a": "cancelled", "b": "cancelled", "c": None}
    assert concluded.cancelled is not None
    assert concluded.cancelled.reason == "deadline"


def test_giving_up_does_not_wait_for_replies():
    """R17: after an interrupt everything in flight is closed; what is done already is still saved."""
    run = crowd([a_step("a"), a_step("b"), a_step("c", "b")], [A, B, C], attended={"saving": True})
    assert run.ok("b", {"b_out": 1}) == ["b"]
    assert run.asks("b") == ("save", "b", {"b_out": 1})

    assert run.give_up(RunCancelled("interrupt")) == []
    assert run.doomed() == []
    assert statuses(run.concluded()) == {"a": "cancelled", "b": "cancelled", "c": None}


def test_giving_up_closes_what_waits_for_a_rival():
    """R17: an outcome that waited is committed as soon as nobody is left to wait for."""
    left, right = (a_tool(name, ["n"], Anything) for name in ("left", "right"))
    run = crowd([a_step("left"), a_step("right")], [left, right])
    assert run.ok("right", {"r": 1}) == []

    assert run.give_up(RunCancelled("interrupt")) == []
    assert statuses(run.concluded()) == {"left": "cancelled", "right": "ok"}


def test_giving_up_hands_over_what_was_led():
    """R30: a leader that is given up still says so, so that nobody waits for it for ever."""
    run = crowd([a_step("a"), a_step("b")], [A, B], attended={"caching": True})
    lead = Lead("flight")
    assert run.ok("a", lead) == ["a"]

    assert run.give_up(RunCancelled("interrupt")) == ["a"]
    assert run.asks("a") == ("settle", None)
    assert run.ok("a") == []
    assert statuses(run.concluded()) == {"a": "cancelled", "b": "cancelled"}


def test_a_queued_leader_hands_over_when_it_is_dropped():
    """R19, R30: what is settled while the run goes down is still handed to the lane."""
    run = crowd([a_step("a"), a_step("b"), a_step("c")], [A, B, C], limit=1, attended={"caching": True})
    assert run.began == ["a", "b", "c"], "look-ups hold no slot"
    assert run.ok("a", Lead("a")) == ["a"]
    assert run.ok("b", Lead("b")) == [], "a holds the only slot"

    assert run.cancel(RunCancelled("token")) == ["b"]
    assert run.asks("b") == ("settle", None)
    assert run.doomed() == ["a", "b", "c"]
    assert run.ok("b") == []
    assert run.err("a", RunCancelled("token")) == ["a"]
    assert run.asks("a") == ("settle", None)
    run.ok("a")
    run.err("c", RunCancelled("token"))
    assert statuses(run.concluded()) == {"a": "cancelled", "b": "cancelled", "c": "cancelled"}


def test_walking_and_scheduling_leave_the_same_facts_behind():
    """R1: the diamond, replied to in both ways."""
    plan = a_plan(DIAMOND, [A, B, JOIN])
    walk = Walk(a_run(plan, {"n": 1}))
    for reply in ({"a_out": 1}, {"b_out": 2}, {"joined": 3}):
        walk.ok(reply)
    crowd = Crowd(a_run(plan, {"n": 1}))
    crowd.ok("b", {"b_out": 2})
    crowd.ok("a", {"a_out": 1})
    crowd.ok("join", {"joined": 3})

    assert facts(walk.run) == facts(crowd.concluded())


def test_an_item_that_is_over_at_once_is_not_waited_for():
    """R4, R28: the sub-flow of an item may end without a command, in the middle of a map; the next item begins."""
    inner = a_flow("inner", [a_step("one")])
    each = a_step(
        "each", tool_name=None, flow_name="inner", map_over="items", map_as="n", map_concurrency=1, on_item_error="skip"
    )
    plan = a_plan([each], [a_tool("one", ["n"], ["v"])], flows=[inner])
    crowd = Crowd(a_run(plan, {"items": [1, "no number", 3]}))

    assert crowd.began == ["each/0/one"]
    assert crowd.ok("each/0/one", {"v": 1}) == ["each/2/one"]
    crowd.ok("each/2/one", {"v": 3})
    assert crowd.concluded().final_output == {"items": [1, "no number", 3], "v": [1, 3]}
