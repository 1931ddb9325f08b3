"""Streams in a run that a test replies to by hand: which ones are known, and when they are to be closed.

The sources are lists and generators; nothing reads them but where a step shall have begun to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from chainweaver import CheckpointEncodeError, RetryPolicy, Stream
from chainweaver._execution import Run, Save, Tell
from chainweaver._execution.commands import Printed, RunCancelled
from chainweaver.plan import Plan
from tests.execution.kit import Crowd, Walk, a_plan, a_run, a_step, a_tool, error_of, statuses

NUMBERS = Stream[int]
MAKE = a_tool("make", {}, {"rows": NUMBERS})
READ = a_tool("read", {"rows": NUMBERS}, {"total": int})
MAP = a_tool("map", {"rows": NUMBERS}, {"mapped": NUMBERS})
END = a_tool("end", {"mapped": NUMBERS}, {"end": int})
TOOLS = [MAKE, READ, MAP, END]


def planned(*names: str, **options: Any) -> Plan:
    steps = [a_step(name, before, **options.pop(name, {})) for before, name in zip(("", *names), names, strict=False)]
    return a_plan(steps, options.pop("tools", TOOLS), **options)


def numbers() -> Iterator[int]:
    yield from range(3)


def closing(walk: Walk) -> list[Stream[Any]]:
    """The streams that the run asks to have closed."""
    command: Any = walk.command
    assert command[0].name == "close"
    return command[1]  # type: ignore[no-any-return]  # what the command holds


def known(run: Run) -> list[Stream[Any]]:
    return list(run.streams.values())


def test_what_a_reader_was_given_is_closed_when_it_has_ended() -> None:
    """R14: after its call, before the run goes on."""
    walk = Walk(a_run(planned("make", "read")))
    walk.ok({"rows": numbers()})
    [stream] = known(walk.run)
    walk.ok({"total": 3})
    assert closing(walk) == [stream]
    walk.ok()
    assert (known(walk.run), walk.run.status, walk.run.has_streams) == ([], "ok", False)


def test_a_step_that_gives_a_stream_keeps_its_own_open_until_that_one_is_closed() -> None:
    """R14: a generator reads from it later; closing the last one closes both."""
    walk = Walk(a_run(planned("make", "map", "end")))
    walk.ok({"rows": numbers()})
    [rows] = known(walk.run)
    walk.ok({"mapped": iter(rows)})
    [_, mapped] = known(walk.run)
    assert walk.asks[:2] == ("call", "end")
    walk.ok({"end": 1})
    assert closing(walk) == [mapped]
    mapped.close()
    assert rows.closed


def test_a_stream_that_is_handed_on_stays_open() -> None:
    """R14: the same object goes to the next reader."""
    walk = Walk(a_run(planned("make", "map", "end")))
    walk.ok({"rows": numbers()})
    [rows] = known(walk.run)
    walk.ok({"mapped": rows})
    walk.ok({"end": 1})
    assert closing(walk) == [rows]


def test_an_output_that_nobody_can_reach_is_closed_at_once() -> None:
    """R11: the output mapping drops it."""
    both = a_tool("both", {}, {"rows": NUMBERS, "n": int})
    walk = Walk(a_run(planned("both", tools=[both], both={"output_mapping": {"count": "n"}})))
    walk.ok({"rows": numbers(), "n": 1})
    assert [one.name for one in closing(walk)] == ["rows"]
    walk.ok()
    assert walk.run.final_output == {"count": 1}


def test_a_stream_of_a_refused_output_is_known_all_the_same() -> None:
    """R10, R14: noted before it is validated."""
    both = a_tool("both", {}, {"rows": NUMBERS, "n": int})
    walk = Walk(a_run(planned("both", tools=[both])))
    walk.ok({"rows": numbers(), "n": "many"})
    assert [one.name for one in closing(walk)] == ["rows"]
    walk.ok()
    assert walk.run.status == "failed"


@pytest.mark.parametrize("begun", [True, False])
def test_a_step_that_has_begun_to_read_is_not_tried_again(begun: bool) -> None:
    """R20, R21: neither by a retry nor by its fallback; before that it is."""
    other = a_tool("other", {"rows": NUMBERS}, {"total": int})
    options = {
        "on_error": "fallback:other",
        "retry": RetryPolicy(max_retries=1, retryable_errors=["OSError"], backoff_seconds=0),
    }
    walk = Walk(a_run(planned("make", "read", tools=[*TOOLS, other], read=options)))
    walk.ok({"rows": numbers()})
    [stream] = known(walk.run)
    if begun:
        next(iter(stream))
    walk.err(OSError("torn"))
    if not begun:
        assert walk.asks[:2] == ("call", "read")
        walk.err(OSError("torn"))
        for _ in range(2):
            assert walk.asks[:2] == ("call", "other")
            walk.err(OSError("torn"))
    assert closing(walk) == [stream]
    walk.ok()
    assert "torn" in str(error_of(walk.run, 1))


def test_what_was_given_to_the_flow_is_the_runs_to_close() -> None:
    """R8, R14: an iterator of the caller's is made a stream before the first step."""
    plan = planned("read")
    walk = Walk(a_run(plan, {"rows": numbers()}))
    [stream] = known(walk.run)
    walk.ok({"total": 3})
    assert closing(walk) == [stream]


def test_a_step_with_streams_is_not_looked_up_in_the_cache_and_says_why() -> None:
    """R29: what is read once has no fingerprint, and cannot be handed out twice."""
    walk = Walk(a_run(planned("make"), caching=True))
    assert walk.asks[:2] == ("call", "make")
    walk.ok({"rows": [1]})
    assert walk.run.details[0].cache_note == "a step that takes or gives a stream is not cached"


def test_a_run_that_saves_refuses_a_step_that_gives_a_stream_before_its_call() -> None:
    """R16: its items would be gone; a step that only reads is saved."""
    walk = Walk(a_run(planned("make"), saving=True))
    assert walk.command is None
    error = error_of(walk.run)
    assert isinstance(error, CheckpointEncodeError)
    assert "return a list" in str(error)
    reading = Walk(a_run(planned("read"), {"rows": numbers()}, saving=True))
    reading.ok({"total": 1})
    reading.ok()
    assert isinstance(reading.command, Save)


def test_a_stream_that_is_dropped_does_not_keep_a_step_from_being_saved() -> None:
    """R11, R16: it is no output of the step."""
    both = a_tool("both", {}, {"rows": NUMBERS, "n": int})
    walk = Walk(a_run(planned("both", tools=[both], both={"output_mapping": {"count": "n"}}), saving=True))
    assert walk.asks[:2] == ("call", "both")


@pytest.mark.parametrize("fails", [True, False])
def test_a_run_that_is_cancelled_while_it_closes_leaves_the_rest_to_its_end(fails: bool) -> None:
    """R17, R23: listeners hear of the end of the step, and the stream stays known."""
    walk = Walk(a_run(planned("make", "read"), listening=True))
    while isinstance(walk.command, Tell):
        walk.ok()
    walk.ok({"rows": numbers()})
    while isinstance(walk.command, Tell):
        walk.ok()
    walk.err(OSError()) if fails else walk.ok({"total": 1})
    [stream] = closing(walk)
    walk.err(RunCancelled("token"))
    assert walk.asks == ("step_end", "read")
    walk.ok()
    assert statuses(walk.run)["read"] == ("failed" if fails else "cancelled")
    assert known(walk.run) == [stream]


def test_without_listeners_a_cancelled_close_tells_nobody() -> None:
    """R38: nobody listening costs nothing."""
    walk = Walk(a_run(planned("make", "read")))
    walk.ok({"rows": numbers()})
    walk.ok({"total": 1})
    walk.err(RunCancelled("token"))
    assert walk.command is None
    assert walk.run.status == "cancelled"


def test_steps_side_by_side_close_what_they_read() -> None:
    """R3, R14: above limit 1 as well, with a place for the call."""
    other = a_tool("other", {"others": NUMBERS}, {"size": int})
    plan = a_plan([a_step("read"), a_step("other")], [READ, other])
    crowd = Crowd(a_run(plan, {"rows": numbers(), "others": numbers()}))
    crowd.ok("read", {"total": 1})
    command: Any = crowd.flying["read"].command
    assert command[0].name == "close"
    crowd.ok("read")
    crowd.ok("other", {"size": 1})
    crowd.ok("other")
    assert crowd.concluded().status == "ok"
    assert not crowd.run.has_streams


def test_what_a_tool_has_printed_is_taken_off_first() -> None:
    """R36: a lane that captures brings more than the result."""
    walk = Walk(a_run(planned("make"), printing=True))
    walk.ok(Printed("said", "", {"rows": numbers()}))
    assert [one.name for one in known(walk.run)] == ["rows"]
    assert walk.run.status == "ok"
