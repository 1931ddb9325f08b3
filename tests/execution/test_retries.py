"""Attempts: what is tried again, how long a run waits before, and what skip and fallback make of the last failure."""

from __future__ import annotations

from typing import Any

import pytest

from chainweaver import FlowStep
from chainweaver._execution import RunCancelled, TimedOut
from chainweaver.exceptions import FlowExecutionError, SchemaValidationError, ToolOutputSizeError, ToolTimeoutError
from chainweaver.flow import RetryPolicy
from chainweaver.plan import ToolContext
from tests.execution.kit import Walk, a_plan, a_run, a_tool, error_of, one_step, statuses

FETCH = a_tool("fetch", {"url": str}, {"size": int})
MIRROR = a_tool("mirror", {"url": str}, {"size": int})
ONCE = RetryPolicy(max_retries=1, backoff_seconds=0.5)


def fetching(tool: Any = FETCH, initial: Any = None, run: Any = None, others: Any = (), **step: Any) -> Walk:
    plan = one_step(tool, *others, **step)
    return Walk(a_run(plan, {"url": "u"} if initial is None else initial, **(run or {})))


# ---- retries


def test_a_retry_waits_then_calls_with_the_same_inputs_again():
    """R20: a failed attempt is followed by Sleep, then by a call with unchanged inputs."""
    walk = fetching(retry=ONCE)
    first = walk.command

    assert walk.err(OSError("busy")) == ("sleep", 0.5, False)
    assert walk.ok() == ("call", "fetch", {"url": "u"})
    assert walk.command[1] is not first[1], "the tool may have changed the model of the first attempt"
    assert walk.ok({"size": "7"}) is None
    detail = walk.run.details[0]
    assert walk.run.final_output == {"url": "u", "size": 7}
    assert (detail.retries, detail.retry_errors) == (1, ("Tool 'fetch' failed at step 0: OSError: busy.",))


def test_what_a_tool_did_to_its_input_is_not_seen_by_the_next_attempt():
    """R20: inputs are validated anew for every attempt."""
    walk = fetching(retry=ONCE)
    walk.command[1].url = "changed"
    walk.err(OSError("busy"))

    assert walk.ok() == ("call", "fetch", {"url": "u"})


def test_waits_grow_exactly_as_the_policy_says():
    """R20: seconds before retry n are backoff_seconds * multiplier ** (n - 1)."""
    walk = fetching(retry=RetryPolicy(max_retries=4, backoff_seconds=0.25, backoff_multiplier=3.0))
    waits = []
    for _ in range(4):
        waits.append(walk.err(OSError("busy")))
        walk.ok()

    assert waits == [("sleep", wait, False) for wait in (0.25, 0.75, 2.25, 6.75)]
    assert walk.err(OSError("still busy")) is None
    assert walk.run.status == "failed"
    assert walk.run.details[0].retries == 4
    assert len(walk.run.details[0].retry_errors) == 4


def test_thirty_days_of_retries_take_no_time_under_a_hand_held_clock():
    """The core asks no clock, so that long schedules are tested in milliseconds."""
    walk = fetching(retry=RetryPolicy(max_retries=30, backoff_seconds=86_400.0, backoff_multiplier=1.0))
    for _ in range(30):
        walk.err(OSError("busy"))
        walk.ok(after_s=86_400.0)
    walk.ok({"size": 1})

    assert walk.run.status == "ok"
    assert walk.run.ended[0] - walk.run.started[0] > 30 * 86_400e9


def test_without_a_backoff_the_next_attempt_follows_at_once():
    """R20: a wait of 0 seconds is no wait."""
    walk = fetching(retry=RetryPolicy(max_retries=1, backoff_seconds=0.0))

    assert walk.err(OSError("busy")) == ("call", "fetch", {"url": "u"})


def test_jitter_is_left_to_the_random_source_of_the_lane():
    """R20: the core says that the wait may be scaled and draws nothing itself."""
    walk = fetching(retry=RetryPolicy(max_retries=1, backoff_seconds=2.0, jitter=True))

    assert walk.err(OSError("busy")) == ("sleep", 2.0, True)


def test_only_the_named_errors_are_retried():
    """R20: subclasses count, other classes do not."""
    policy = RetryPolicy(max_retries=3, backoff_seconds=0.5, retryable_errors=("builtins:OSError",))

    assert fetching(retry=policy).err(ConnectionError("reset"))[0] == "sleep"
    walk = fetching(retry=policy)
    assert walk.err(ValueError("no number")) is None
    assert error_of(walk.run).sentence == "Tool 'fetch' failed at step 0: ValueError: no number."


def test_outputs_that_do_not_fit_are_not_retried():
    """R20: a schema violation will not change by trying again."""
    walk = fetching(retry=ONCE)

    assert walk.ok({"size": "seven"}) is None
    assert isinstance(error_of(walk.run), SchemaValidationError)
    assert walk.run.details[0].retries == 0


def test_outputs_that_do_not_fit_are_retried_when_the_policy_names_schema_violations():
    """R20: unless named in retryable_errors."""
    named = RetryPolicy(
        max_retries=1, backoff_seconds=0.5, retryable_errors=("chainweaver.exceptions:SchemaValidationError",)
    )
    walk = fetching(retry=named)

    assert walk.ok({"size": "seven"}) == ("sleep", 0.5, False)
    assert walk.ok() == ("call", "fetch", {"url": "u"})
    assert walk.ok({"size": 7}) is None
    assert walk.run.status == "ok"


def test_inputs_that_do_not_fit_are_never_retried():
    """R20: they are the same at every attempt, and the tool is not called at all."""
    walk = fetching(initial={"url": 5}, retry=ONCE)

    assert walk.asks is None
    assert error_of(walk.run).context == "input"


def test_too_large_outputs_fail_without_a_retry():
    """R20: a size cap is no passing trouble; the error says both sizes."""
    tool = a_tool("fetch", {"url": str}, {"text": str}, max_output_size=20)
    walk = fetching(tool, retry=ONCE)

    assert walk.ok({"text": "x" * 40}) is None
    error = error_of(walk.run)
    assert isinstance(error, ToolOutputSizeError)
    assert (error.size, error.limit) == (51, 20)


def test_outputs_within_the_cap_pass():
    """The cap counts bytes of the JSON form and includes its own value."""
    tool = a_tool("fetch", {"url": str}, {"text": str}, max_output_size=51)
    walk = fetching(tool)
    walk.ok({"text": "x" * 40})

    assert walk.run.status == "ok"


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_tool_with_a_context_learns_which_attempt_it_is(attempts):
    """R32: the idempotency key is the same over all attempts of one step of one run."""

    def fetch(inputs: Any, context: ToolContext) -> Any: ...

    tool = a_tool("fetch", {"url": str}, {"size": int}, fetch)
    walk = fetching(tool, retry=RetryPolicy(max_retries=3, backoff_seconds=1.0))
    for _ in range(attempts - 1):
        walk.err(OSError("busy"))
        walk.ok()

    assert walk.asks == ("invoke", "fetch", {"url": "u"}, None, attempts)
    context = walk.command.context
    assert context == ToolContext(
        run_id="0" * 32,
        flow_name="flow",
        step_id="0",
        step_path=("0",),
        idempotency_key="0" * 32 + "/0",
        attempt=attempts,
        deadline=None,
    )


# ---- what a tool raises


@pytest.mark.parametrize("exc", [StopIteration("end"), StopAsyncIteration("end"), LookupError("x")])
def test_exceptions_with_a_meaning_for_generators_are_ordinary_failures(exc):
    """R16: a StopIteration out of a tool fails its step like any other exception."""
    for step in ({}, {"retry": RetryPolicy(max_retries=0)}, {"timeout_seconds": 5.0}):
        walk = fetching(**step)
        assert walk.err(exc) is None
        error = error_of(walk.run)
        assert isinstance(error, FlowExecutionError)
        assert error.__cause__ is exc


def test_an_error_of_ours_out_of_a_tool_stays_what_it_is():
    """R18: domain errors keep their type, and the object itself."""
    mine = ToolTimeoutError("inner", 3.0)
    for step in ({}, {"retry": ONCE}):
        walk = fetching(**step)
        walk.err(mine)
        if walk.asks:
            walk.ok()
            walk.err(mine)
        assert error_of(walk.run) is mine


@pytest.mark.parametrize("step", [{}, {"timeout_seconds": 5.0}])
def test_a_validation_error_inside_a_tool_is_a_failure_of_the_tool(step):
    """R18: only what happens at the border is a schema violation."""
    with pytest.raises(ValueError) as caught:
        FETCH.input_schema(url=3)
    walk = fetching(**step)
    walk.err(caught.value)
    error = error_of(walk.run)

    assert isinstance(error, FlowExecutionError)
    assert error.__cause__ is caught.value


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("step", [{}, {"retry": ONCE}, {"on_error": "fallback:mirror"}])
def test_an_exception_that_cannot_be_told_is_told_by_its_class(step):
    """R17: nothing that a tool raises may break the run itself."""
    walk = fetching(others=[MIRROR], **step)
    while walk.asks is not None:
        walk.ok() if walk.asks[0] == "sleep" else walk.err(Mute())

    assert error_of(walk.run).sentence == "Tool 'fetch' failed at step 0: Mute."


# ---- skip and fallback


def test_a_skipped_step_keeps_its_error_and_adds_nothing():
    """R21: the run goes on; the record says why the step gave nothing."""
    walk = fetching(on_error="skip")
    walk.err(OSError("down"))

    assert statuses(walk.run) == {"0": "skipped"}
    assert walk.run.status == "ok"
    assert walk.run.final_output == {"url": "u"}
    assert isinstance(error_of(walk.run).__cause__, OSError)
    assert walk.run.ended[0] > walk.run.started[0]


def test_a_skipped_step_never_trips_over_its_output_mapping():
    """R11: there is nothing to rename, so nothing is missing."""
    walk = fetching(on_error="skip", output_mapping={"bytes": "size"})
    walk.err(OSError("down"))

    assert walk.run.final_output == {"url": "u"}


def test_a_step_is_skipped_for_its_inputs_as_well():
    """R21: whatever fails a step skips it under on_error="skip"."""
    walk = fetching(initial={}, on_error="skip")

    assert statuses(walk.run) == {"0": "skipped"}


def test_the_fallback_gets_the_same_inputs_and_its_outputs_count():
    """R21: `fallback` is recorded, with the failure of the primary tool among the retry errors."""
    walk = fetching(others=[MIRROR], on_error="fallback:mirror", output_mapping={"bytes": "size"})

    assert walk.err(OSError("down")) == ("call", "mirror", {"url": "u"})
    assert walk.ok({"size": 3}) is None
    detail = walk.run.details[0]
    assert walk.run.final_output == {"url": "u", "bytes": 3}
    assert detail.fallback == "mirror"
    assert detail.retry_errors == ("Tool 'fetch' failed at step 0: OSError: down.",)
    assert detail.status is None, "an ok step needs no status"
    assert walk.run.status_of(0) == "ok"


def test_the_inputs_are_validated_for_the_fallback_anew():
    """R21: it has an input model of its own."""
    mirror = a_tool("mirror", {"url": str, "tries": (int, 3)}, {"size": int})

    assert fetching(others=[mirror], on_error="fallback:mirror").err(OSError("down")) == (
        "call",
        "mirror",
        {"url": "u", "tries": 3},
    )


def test_the_fallback_has_retries_of_its_own():
    """R21: the policy of the step holds for each of the two tools."""
    walk = fetching(others=[MIRROR], on_error="fallback:mirror", retry=ONCE)
    asked = [walk.err(OSError("1")), walk.ok(), walk.err(OSError("2")), walk.err(OSError("3")), walk.ok()]

    assert [one[:2] for one in asked] == [
        ("sleep", 0.5),
        ("call", "fetch"),
        ("call", "mirror"),
        ("sleep", 0.5),
        ("call", "mirror"),
    ]
    walk.ok({"size": 3})
    assert walk.run.status == "ok"
    assert walk.run.details[0].retries == 2


def test_the_fallback_passes_the_same_gates():
    """R21: its outputs are validated like those of the primary tool, and its failure is the one that counts."""
    walk = fetching(others=[MIRROR], on_error="fallback:mirror")
    walk.err(OSError("down"))
    walk.ok({"size": "many"})
    error = error_of(walk.run)

    assert isinstance(error, SchemaValidationError)
    assert error.tool_name == "mirror"
    assert walk.run.status == "failed"


def test_the_fallback_stands_in_for_outputs_that_cannot_be_measured():
    """R21: any failure of the primary tool calls the fallback, also one that is no error of ours."""

    class Unwritable:
        def __repr__(self) -> str:
            raise RuntimeError("no words")

    tool = a_tool("fetch", {"url": str}, {"size": (Any, ...)}, max_output_size=10)
    walk = fetching(tool, others=[MIRROR], on_error="fallback:mirror")

    assert walk.ok({"size": Unwritable()}) == ("call", "mirror", {"url": "u"})


# ---- limits


def test_the_tighter_of_two_limits_is_sent_with_the_call():
    """R22: tool and step may both set one."""
    slow = a_tool("fetch", {"url": str}, {"size": int}, timeout_seconds=3.0)

    assert fetching(slow).asks == ("invoke", "fetch", {"url": "u"}, 3.0, None)
    assert fetching(slow, timeout_seconds=2.0).asks == ("invoke", "fetch", {"url": "u"}, 2.0, None)
    assert fetching(slow, timeout_seconds=9.0, run={"deadline_s": 1.0}).asks[3] == 1.0


@pytest.mark.parametrize("abandoned", [True, False])
def test_a_call_that_took_too_long_fails_with_its_limit(abandoned):
    """R22: the record says the limit, and whether the tool may still be running."""
    walk = fetching(timeout_seconds=2.0)
    walk.err(TimedOut(abandoned), after_s=2.0)
    error = error_of(walk.run)

    assert isinstance(error, ToolTimeoutError)
    assert (error.tool_name, error.timeout_seconds) == ("fetch", 2.0)
    assert ("abandoned" in str(error)) is abandoned


def test_a_timeout_is_retried_like_other_failures():
    """R20, R22: unless the policy names other errors."""
    assert fetching(timeout_seconds=2.0, retry=ONCE).err(TimedOut(), after_s=2.0) == ("sleep", 0.5, False)


def test_a_late_finish_is_never_a_success():
    """R22: outputs that come at or after the deadline end the run instead of counting."""
    walk = fetching(run={"deadline_s": 1.0})

    assert walk.ok({"size": 1}, after_s=1.0) is None
    assert walk.run.status == "cancelled"
    assert walk.run.cancelled.reason == "deadline"
    assert statuses(walk.run) == {"0": "cancelled"}
    assert walk.run.slots[1] is None


def test_a_late_failure_ends_the_run_as_well():
    """R22: after the deadline nothing is retried and nothing counts as failed."""
    walk = fetching(run={"deadline_s": 1.0}, retry=ONCE, on_error="fallback:mirror", others=[MIRROR])
    walk.err(OSError("down"), after_s=1.5)

    assert (walk.run.status, walk.run.failures) == ("cancelled", [])


def test_a_call_that_timed_out_for_the_deadline_is_no_timeout_of_the_tool():
    """R22: also when the lane sees the end a moment before the clock of the run does."""
    walk = fetching(timeout_seconds=5.0, run={"deadline_s": 1.0})
    walk.err(TimedOut(), after_s=0.999_999)

    assert walk.run.cancelled.reason == "deadline"


def test_a_tool_that_is_slower_than_its_own_limit_fails_before_the_deadline():
    """R22: the deadline of the run leaves the limit of the tool as it is."""
    walk = fetching(timeout_seconds=0.5, run={"deadline_s": 1.0})
    walk.err(TimedOut(), after_s=0.5)

    assert walk.run.status == "failed"
    assert error_of(walk.run).timeout_seconds == 0.5


def test_time_limits_shrink_with_the_time_that_is_left():
    """R22: the deadline binds during tools."""
    walk = fetching(run={"deadline_s": 10.0}, retry=RetryPolicy(max_retries=1, backoff_seconds=2.0))
    assert walk.asks[3] == 10.0
    walk.err(OSError("busy"), after_s=3.0)

    assert walk.ok(after_s=2.0)[3] == 5.0


def test_a_wait_ends_at_the_deadline():
    """R22: the deadline binds during back-off; there is no attempt after it, whatever jitter would allow."""
    walk = fetching(run={"deadline_s": 3.0}, retry=RetryPolicy(max_retries=5, backoff_seconds=60.0, jitter=True))

    assert walk.err(OSError("busy"), after_s=1.0) == ("sleep", 2.0, False)
    assert walk.ok(after_s=1.9) is None
    assert walk.run.cancelled.reason == "deadline"


def test_a_wait_that_took_too_long_ends_the_run():
    """R22: a lane that oversleeps does not buy another attempt."""
    walk = fetching(run={"deadline_s": 3.0}, retry=RetryPolicy(max_retries=5, backoff_seconds=1.0))
    walk.err(OSError("busy"), after_s=1.0)

    assert walk.ok(after_s=2.5) is None
    assert walk.run.status == "cancelled"


def test_no_step_starts_after_the_deadline():
    """R22: the next step leaves no record, as if it had not been there."""
    tools = [a_tool("one", ["n"], ["a"]), a_tool("two", ["a"], ["b"])]
    plan = a_plan([FlowStep(tool_name="one"), FlowStep(tool_name="two")], tools)
    walk = Walk(a_run(plan, {"n": 1}, deadline_s=1.0, saving=True))
    assert walk.ok({"a": 1}, after_s=0.9) == ("save", "one", {"a": 1})

    assert walk.ok(after_s=0.5) is None
    assert statuses(walk.run) == {"0": "ok", "1": None}
    assert walk.run.status == "cancelled"


@pytest.mark.parametrize("step", [{}, {"retry": ONCE}])
@pytest.mark.parametrize("reason", ["token", "interrupt"])
def test_a_cancelled_call_ends_the_run_and_leaves_a_record(step, reason):
    """R23: on the short path and in the life of a step with a policy."""
    walk = fetching(**step)

    assert walk.err(RunCancelled(reason)) is None
    assert statuses(walk.run) == {"0": "cancelled"}
    assert walk.run.status == "cancelled"
    assert walk.run.ended[0] > walk.run.started[0]
