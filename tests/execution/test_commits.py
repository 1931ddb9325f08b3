"""What happens when a step has its outcome: it is saved before anybody builds on it, and told about."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from chainweaver import FlowStep
from chainweaver._execution import RunCancelled, Tell
from chainweaver.exceptions import CheckpointEncodeError, FlowExecutionError
from chainweaver.flow import RetryPolicy
from tests.execution.kit import Crowd, Walk, a_plan, a_run, a_step, a_tool, error_of, moments, one_step, statuses

A, B = a_tool("a", ["n"], ["a_out"]), a_tool("b", ["a_out"], ["b_out"])
CHAIN = [FlowStep(tool_name="a"), FlowStep(tool_name="b")]


def script(walk: Walk, *replies: Any) -> list[Any]:
    """Everything that a run asks for, replied to in this order; commands that take no value get None."""
    values = list(replies)
    asked: list[Any] = []
    while walk.asks is not None:
        asked += moments(walk.command) if isinstance(walk.command, Tell) else [walk.asks]
        reply = values.pop(0) if walk.asks[0] in ("call", "invoke", "sleep") else None
        walk.err(reply) if isinstance(reply, BaseException) else walk.ok(reply)
    return asked


# ---- saving


def test_a_step_is_saved_before_its_dependents_start():
    """R31: output and status are one write, done before anybody builds on them."""
    walk = Walk(a_run(a_plan(CHAIN, [A, B]), {"n": 1}, saving=True))

    assert script(walk, {"a_out": 1}, {"b_out": 2}) == [
        ("call", "a", {"n": 1}),
        ("save", "a", {"a_out": 1}),
        ("call", "b", {"a_out": 1}),
        ("save", "b", {"b_out": 2}),
    ]
    assert walk.run.status == "ok"


def test_a_dependent_waits_for_the_save_above_limit_1():
    """R31: the same with several steps at a time; siblings go on meanwhile."""
    other = a_tool("other", ["n"], ["o"])
    run = Crowd(a_run(a_plan([a_step("a"), a_step("other"), a_step("b", "a")], [A, B, other]), {"n": 1}, saving=True))

    assert run.ok("a", {"a_out": 1}) == ["a"]
    assert run.asks("a") == ("save", "a", {"a_out": 1})
    assert run.ok("other", {"o": 1}) == ["other"]
    assert run.ok("a") == ["b"]


def test_skipped_steps_are_saved_failed_ones_are_not():
    """R32: a resume tries a failed step again and leaves a skipped one alone."""
    skipped = Walk(a_run(one_step(A, on_error="skip"), {"n": 1}, saving=True))
    failed = Walk(a_run(one_step(A), {"n": 1}, saving=True))

    assert script(skipped, OSError("down"))[1:] == [("save", "a", None)]
    assert script(failed, OSError("down"))[1:] == []


def test_what_is_merged_is_saved():
    """R31: under the context keys, as resume will put it back."""
    walk = Walk(a_run(one_step(A, output_mapping={"x": "a_out"}), {"n": 1}, saving=True))

    assert script(walk, {"a_out": 1})[1] == ("save", "a", {"x": 1})


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_a_store_error_fails_the_step_whatever_its_policy(on_error):
    """R16: going on without the checkpoint could not be resumed."""
    walk = Walk(a_run(one_step(A, on_error=on_error), {"n": 1}, saving=True))
    walk.ok({"a_out": 1})
    walk.err(OSError("disk full"))
    error = error_of(walk.run)

    assert statuses(walk.run) == {"0": "failed"}
    assert isinstance(error, FlowExecutionError)
    assert isinstance(error.__cause__, OSError)
    assert error.detail == "its checkpoint could not be written: OSError: disk full"
    assert "the tool itself has succeeded" in str(error)
    assert walk.run.slots[1] is None


def test_a_value_that_no_codec_can_write_is_recorded_as_it_is():
    """R16: errors of ours keep their type."""
    error = CheckpointEncodeError("a", 0, "a_out", "it is a lambda")
    walk = Walk(a_run(one_step(A), {"n": 1}, saving=True))
    walk.ok({"a_out": 1})
    walk.err(error)

    assert error_of(walk.run) is error


def test_a_save_that_is_interrupted_ends_the_run():
    """R17: the step counts as cancelled, since nobody knows how far the write came."""
    walk = Walk(a_run(one_step(A), {"n": 1}, saving=True))
    walk.ok({"a_out": 1})
    walk.err(RunCancelled("interrupt"))

    assert statuses(walk.run) == {"0": "cancelled"}
    assert walk.run.slots[1] is None


def test_superfluous_outcomes_are_not_saved():
    """R19: a resume must not find what limit 1 would not have done."""
    run = Crowd(
        a_run(
            a_plan([a_step("a"), a_step("b", tool_name="a2")], [A, a_tool("a2", ["n"], ["z"])]), {"n": 1}, saving=True
        )
    )
    run.err("a", OSError("down"))

    assert run.ok("b", {"z": 1}) == []
    assert run.concluded().details[1].surplus


@pytest.mark.parametrize("primary", [True, False])
def test_secrets_are_refused_before_the_tool_does_anything(primary):
    """R39: no store of ours has a cipher; a fallback may give the secret as well."""
    secret = a_tool("secret", ["n"], {"key": SecretStr})
    plain = a_tool("plain", ["n"], {"key": str})
    one, other = (secret, plain) if primary else (plain, secret)
    walk = Walk(a_run(one_step(one, other, on_error=f"fallback:{other.name}"), {"n": 1}, saving=True))

    assert walk.asks is None
    error = error_of(walk.run)
    assert isinstance(error, CheckpointEncodeError)
    assert "it is a secret, and the checkpointer has no cipher" in str(error)


# ---- telling


def test_listeners_are_told_in_the_order_of_events():
    """R17, R38: start before the call, end after the save and before the next step."""
    walk = Walk(a_run(a_plan(CHAIN, [A, B]), {"n": 1}, saving=True, listening=True))

    assert [one[:2] for one in script(walk, {"a_out": 1}, {"b_out": 2})] == [
        ("step_start", "a"),
        ("call", "a"),
        ("save", "a"),
        ("step_end", "a"),
        ("step_start", "b"),
        ("call", "b"),
        ("save", "b"),
        ("step_end", "b"),
    ]


@pytest.mark.parametrize(
    ("options", "reply", "status"),
    [
        ({}, OSError("down"), "failed"),
        ({"on_error": "skip"}, OSError("down"), "skipped"),
        ({}, RunCancelled("token"), "cancelled"),
        ({}, {"a_out": 1}, "ok"),
    ],
)
def test_every_step_that_starts_is_told_to_have_ended(options, reply, status):
    """R38: whatever became of it; the outcome is there when the listeners look."""
    walk = Walk(a_run(one_step(A, **options), {"n": 1}, listening=True))
    walk.ok()
    walk.err(reply) if isinstance(reply, BaseException) else walk.ok(reply)

    assert walk.asks == ("step_end", "a")
    assert walk.run.status_of(0) == status
    assert walk.run.ended[0] > walk.run.started[0]
    assert walk.ok() is None


def test_a_step_that_cannot_start_is_told_as_well():
    """R38: a faulty mapping is found after the start is told, so that events come in pairs."""
    walk = Walk(a_run(one_step(A), {}, listening=True))

    assert script(walk) == [("step_start", "a"), ("step_end", "a")]
    assert walk.run.status == "failed"


def test_no_step_is_told_that_starts_after_the_deadline():
    """R22, R38: no end without a start."""
    walk = Walk(a_run(a_plan(CHAIN, [A, B]), {"n": 1}, listening=True, deadline_s=1.0))
    walk.ok()
    walk.ok({"a_out": 1}, after_s=0.5)
    assert walk.asks == ("step_end", "a")

    assert walk.ok(after_s=0.6) is None
    assert walk.run.status == "cancelled"


def test_an_interrupt_while_telling_ends_the_run_and_leaves_the_outcome():
    """R17: what was done stays done; the step that was about to begin is cancelled, and its end is told."""
    walk = Walk(a_run(a_plan(CHAIN, [A, B]), {"n": 1}, listening=True))
    walk.ok()
    walk.ok({"a_out": 1})
    assert moments(walk.command) == [("step_end", "a"), ("step_start", "b")]

    assert walk.err(RunCancelled("interrupt")) == ("step_end", "b")
    walk.ok()
    assert statuses(walk.run) == {"0": "ok", "1": "cancelled"}
    assert walk.run.status == "cancelled"


def test_an_interrupt_while_a_step_is_told_that_could_not_start_leaves_its_error():
    """R17: it has failed already."""
    walk = Walk(a_run(one_step(A), {}, listening=True))
    walk.err(RunCancelled("interrupt"))
    walk.ok()

    assert statuses(walk.run) == {"0": "failed"}


def test_saving_holds_the_slot_of_the_call():
    """R32: the next call starts when the outcome of the one before is written, or a crash would repeat both."""
    other = a_tool("other", ["n"], ["o"])
    run = Crowd(a_run(a_plan([a_step("a"), a_step("other")], [A, other]), {"n": 1}, saving=True), limit=1)

    assert run.began == ["a"]
    assert run.ok("a", {"a_out": 1}) == ["a"]
    assert run.asks("a") == ("save", "a", {"a_out": 1})
    assert run.ok("a") == ["other"]


def test_telling_holds_no_slot():
    """R4: with one slot, the next call starts while listeners hear of the one before."""
    other = a_tool("other", ["n"], ["o"])
    run = Crowd(a_run(a_plan([a_step("a"), a_step("other")], [A, other]), {"n": 1}, listening=True), limit=1)
    assert [run.asks(step) for step in run.began] == [("step_start", "a"), ("step_start", "other")]
    run.ok("a")
    run.ok("other")

    assert run.ok("a", {"a_out": 1}) == ["a", "other"]
    assert run.asks("a") == ("step_end", "a")


def test_a_cancelled_run_still_saves_and_tells_what_was_done():
    """R23, R31: the tool of a had finished when the run was cancelled."""
    retried = a_step("other", retry=RetryPolicy(max_retries=1))
    other = a_tool("other", ["n"], ["o"])
    run = Crowd(a_run(a_plan([a_step("a"), retried], [A, other]), {"n": 1}, saving=True, listening=True))
    run.ok("a")
    run.ok("other")
    run.cancel(RunCancelled("token"))

    assert run.ok("a", {"a_out": 1}) == ["a"]
    assert run.asks("a") == ("save", "a", {"a_out": 1})
    assert run.ok("a") == ["a"]
    assert run.asks("a") == ("step_end", "a")
    run.ok("a")
    assert run.err("other", RunCancelled("token")) == ["other"]
    assert run.asks("other") == ("step_end", "other")
    run.ok("other")
    assert statuses(run.concluded()) == {"a": "ok", "other": "cancelled"}


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_while_the_last_end_is_told_ends_the_run_and_leaves_the_walk_in_order(times):
    """R17, R38: whoever interrupts the telling ends the run; nothing escapes but the end of the walk."""
    run = Walk(a_run(a_plan([FlowStep(tool_name="a")], [a_tool("a", ["n"], ["out"])]), {"n": 1}, listening=True))
    run.ok()
    run.ok({"out": 1})

    for _ in range(times):
        if run.command is not None:
            run.err(RunCancelled("interrupt"))

    assert run.command is None
    assert run.run.cancelled is not None
    assert run.run.slots[1] == {"out": 1}
