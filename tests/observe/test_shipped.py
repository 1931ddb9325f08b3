"""The middleware that comes along. Generators are driven by hand; at the end all of them stand around real runs."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from chainweaver import ExecutionResult, Flow, FlowExecutionError, FlowExecutor, FlowStep, RedactionPolicy, tool
from chainweaver.observe import (
    BaseMiddleware,
    Durations,
    FlowEndContext,
    FlowStartContext,
    Listeners,
    Proceed,
    RedactedView,
    RunAroundContext,
    Sleep,
    StepAroundContext,
    StepChunkContext,
    StepEndContext,
    StepOutcome,
    StepStartContext,
    Timing,
    TokenBucket,
    Wrapper,
    WrapsRuns,
    WrapsSteps,
)
from chainweaver.testing import VirtualClock
from tests.observe.views import NOON, TRACE, a_record, a_result

SECOND = 1_000_000_000
NESTED = "cd" * 16


def a_step(tool_name: str = "search", now_ns: int = 0, step_id: str = "0") -> StepAroundContext:
    return StepAroundContext(TRACE, "f", 0, step_id, tool_name, now_ns)


def a_wait(limiter: TokenBucket, now_ns: int, tool_name: str = "search") -> float:
    """Seconds that a step which has its turn now is asked to wait; its token is taken."""
    wrapper = limiter.around_step(a_step(tool_name, now_ns))
    asked = next(wrapper)
    if isinstance(asked, Sleep):
        assert isinstance(wrapper.send(now_ns + round(asked.seconds * SECOND)), Proceed)
        return asked.seconds
    assert isinstance(asked, Proceed)
    return 0.0


def finish(wrapper: Wrapper, outcome: Any) -> None:
    """Send the outcome to a generator that has asked to proceed."""
    with pytest.raises(StopIteration):
        wrapper.send(outcome)


# ---- the limiter


def test_a_burst_may_begin_at_once_and_the_rest_waits_its_turn() -> None:
    """R38: two at once, then one every tenth of a second, in order of arrival."""
    limiter = TokenBucket(rate_per_s=10, burst=2)
    assert [a_wait(limiter, 0) for _ in range(5)] == [0.0, 0.0, 0.1, 0.2, 0.3]


def test_tokens_come_back_at_the_rate_and_up_to_the_burst() -> None:
    """R38: waits are worked out from the time that the context brings."""
    limiter = TokenBucket(rate_per_s=2, burst=2)
    assert [a_wait(limiter, 0) for _ in range(3)] == [0.0, 0.0, 0.5]
    assert a_wait(limiter, 1 * SECOND) == 0.0
    assert a_wait(limiter, 1 * SECOND) == 0.5
    assert [a_wait(limiter, 60 * SECOND) for _ in range(3)] == [0.0, 0.0, 0.5]


def test_only_the_named_tools_are_limited() -> None:
    """R38: the others proceed and take nothing."""
    limiter = TokenBucket(1, tools=["search"])
    assert [a_wait(limiter, 0, name) for name in ("fetch", "search", "fetch", "search")] == [0.0, 0.0, 0.0, 1.0]


def test_a_step_that_is_woken_early_waits_for_the_rest() -> None:
    """R38: the reply to a Sleep is the time, and the time is what counts."""
    limiter = TokenBucket(1)
    a_wait(limiter, 0)
    wrapper = limiter.around_step(a_step(now_ns=0))
    asked = [next(wrapper), wrapper.send(SECOND // 4), wrapper.send(SECOND - 1), wrapper.send(SECOND)]
    assert [one.seconds for one in asked if isinstance(one, Sleep)] == [1.0, 0.75, 1e-9]
    assert isinstance(asked[-1], Proceed)


def test_a_step_that_is_cancelled_while_it_waits_gives_its_token_back() -> None:
    """R23, R38: the last in line makes room; one in the middle leaves the turns behind it as they are."""
    limiter = TokenBucket(1)
    a_wait(limiter, 0)
    last = limiter.around_step(a_step(now_ns=0))
    next(last)
    last.close()
    assert a_wait(limiter, 0) == 1.0

    middle = limiter.around_step(a_step(now_ns=0))
    next(middle)
    assert a_wait(limiter, 0) == 3.0
    middle.close()
    assert a_wait(limiter, 0) == 4.0


def test_steps_on_many_threads_never_share_a_token() -> None:
    """R40: one limiter serves any number of runs at once."""
    limiter = TokenBucket(rate_per_s=1_000, burst=10)
    waits: list[float] = []
    start = threading.Barrier(8)

    def take() -> None:
        start.wait()
        for _ in range(50):
            waits.append(a_wait(limiter, 0))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(waits) == [0.0] * 10 + [number / 1_000 for number in range(1, 391)]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((0,), "rate_per_s has to be a number above 0, not 0."),
        ((float("inf"),), "rate_per_s has to be a number above 0, not inf."),
        ((1, 0), "burst has to be a whole number, at least 1, not 0."),
    ],
)
def test_a_limiter_that_lets_nothing_through_is_refused(args: tuple[Any, ...], message: str) -> None:
    """R38: a slip is told where it is made."""
    with pytest.raises(ValueError, match=message):
        TokenBucket(*args)
    with pytest.raises(ValueError, match=r"tools has to be a collection of names such as \['search'\]\."):
        TokenBucket(1, tools="search")


# ---- the stopwatch


def test_a_stopwatch_counts_steps_tools_and_runs() -> None:
    """R38: times are those that contexts and outcomes bring."""
    timing = Timing()
    for step_id, ended_ns, status in (("a", SECOND, "ok"), ("a", 3 * SECOND, "failed"), ("b", SECOND // 2, "skipped")):
        wrapper = timing.around_step(a_step(step_id=step_id))
        assert isinstance(next(wrapper), Proceed)
        error = FlowExecutionError("search", 0, "down") if status == "failed" else None
        finish(wrapper, StepOutcome(status, error, {}, ended_ns))
    run = timing.around_run(RunAroundContext(TRACE, "f", 0))
    next(run)
    finish(run, a_result(success=False))

    assert timing.steps == {("f", "a"): Durations(2, 1, 4.0, 1.0, 3.0), ("f", "b"): Durations(1, 0, 0.5, 0.5, 0.5)}
    assert timing.tools == {"search": Durations(3, 1, 4.5, 0.5, 3.0)}
    assert timing.tools["search"].mean_s == 1.5
    assert timing.flows == {"f": Durations(1, 1, 0.0025, 0.0025, 0.0025)}


def test_a_step_that_never_ended_is_not_counted() -> None:
    """R23: a run that is cancelled closes its generators."""
    timing = Timing()
    wrapper = timing.around_step(a_step())
    next(wrapper)
    wrapper.close()
    assert timing.tools == {}


def test_the_summary_lists_the_slowest_tool_first() -> None:
    """R38: a table for a person."""
    timing = Timing()
    for tool_name, ended_ns in (("quick", 2_000_000), ("slow", 2 * SECOND)):
        wrapper = timing.around_step(a_step(tool_name))
        next(wrapper)
        finish(wrapper, StepOutcome("ok", None, {}, ended_ns))
    assert timing.summary().splitlines() == [
        "tool   count  failed     total      mean       max",
        "slow       1       0   2.000 s   2.000 s   2.000 s",
        "quick      1       0  2.000 ms  2.000 ms  2.000 ms",
    ]
    timing.clear()
    assert timing.summary() == "tool  count  failed  total  mean  max"


# ---- the redacted view


class Notes:
    """Writes down every context."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.on_flow_start = self.on_step_start = self.on_step_chunk = self.seen.append
        self.on_step_end = self.on_flow_end = self.seen.append


def a_story(view: Any, trace_id: str = TRACE, parent: str | None = None, error: str = "hunter2! refused") -> None:
    """What a run with one step tells."""
    record = a_record(inputs={"user": "ada"}, error_message=error, success=False)
    result = a_result(record, trace_id=trace_id, success=False, parent_trace_id=parent)
    listeners = Listeners((view,))
    listeners.flow_start(FlowStartContext(trace_id, "enter", "1", {"password": "hunter2!"}, NOON, 1, parent))
    listeners.step_start(StepStartContext(trace_id, "enter", 0, "login", {"header": "hunter2!"}, NOON))
    listeners.step_chunk(StepChunkContext(trace_id, "enter", 0, "login", "as hunter2!", NOON))
    listeners.step_end(StepEndContext(trace_id, "enter", 0, "login", {"user": "ada"}, NOON, record, NOON))
    listeners.flow_end(FlowEndContext(trace_id, "enter", "1", result, NOON, parent))


def test_every_context_is_redacted_for_the_inner_middleware() -> None:
    """R39: what was hidden at the start of a run is hidden in all that follows."""
    inner = Notes()
    a_story(RedactedView(inner, RedactionPolicy()))
    start, step_start, chunk, step_end, end = inner.seen
    assert start == FlowStartContext(TRACE, "enter", "1", {"password": "***"}, NOON, 1)
    assert step_start == StepStartContext(TRACE, "enter", 0, "login", {"header": "***"}, NOON)
    assert chunk == StepChunkContext(TRACE, "enter", 0, "login", "as ***", NOON)
    assert (step_end.inputs, step_end.step_record.error_message) == ({"user": "ada"}, "*** refused")
    assert end.result.execution_log[0].error_message == "*** refused"


def test_secrets_are_known_to_nested_runs_and_forgotten_with_their_run() -> None:
    """R39: a view of many runs keeps nothing of those that are over."""
    inner = Notes()
    view = RedactedView(inner, RedactionPolicy())
    listeners = Listeners((view,))
    listeners.flow_start(FlowStartContext(TRACE, "enter", "1", {"token": "outer-token"}, NOON, 1))
    a_story(view, NESTED, TRACE, error="outer-token and hunter2!")
    record = a_record(error_message="hunter2! of the nested run")
    listeners.step_end(StepEndContext(TRACE, "enter", 0, "login", {}, NOON, record, NOON))
    listeners.flow_end(FlowEndContext(TRACE, "enter", "1", a_result(record), NOON))

    assert inner.seen[4].step_record.error_message == "*** and ***"
    assert inner.seen[6].step_record.error_message == "*** of the nested run"
    assert inner.seen[7].result.execution_log[0].error_message == "*** of the nested run"
    assert view._at_hand == {}


def test_a_view_listens_only_where_the_inner_middleware_makes_it_necessary() -> None:
    """R38: no listener, no cost."""

    class OnlyEnds(BaseMiddleware):
        def on_flow_end(self, context: FlowEndContext) -> None:
            pass

    class OnlyStarts(BaseMiddleware):
        def on_step_start(self, context: StepStartContext) -> None:
            pass

    class OnlyWraps:
        def around_step(self, context: StepAroundContext) -> Wrapper:
            yield Proceed()

    def heard(inner: object) -> list[str]:
        listeners = Listeners((RedactedView(inner, RedactionPolicy()),))
        hooks = ("on_flow_start", "on_step_start", "on_step_end", "on_step_chunk", "on_flow_end")
        return [hook for hook in hooks if getattr(listeners, hook)]

    assert heard(object()) == []
    assert heard(OnlyEnds()) == ["on_flow_end"]
    assert heard(OnlyStarts()) == ["on_flow_start", "on_step_start", "on_step_end", "on_flow_end"]
    assert heard(OnlyWraps()) == heard(OnlyStarts())
    view = RedactedView(OnlyEnds(), RedactionPolicy())
    assert repr(view) == "RedactedView(OnlyEnds)"
    assert (isinstance(view, WrapsSteps), isinstance(view, WrapsRuns)) == (False, False)


def test_an_inner_middleware_that_raises_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """R38: with its own name and place, and the run goes on."""

    class Broken:
        def on_flow_start(self, context: FlowStartContext) -> None:
            raise RuntimeError("no disk")

    with caplog.at_level(logging.WARNING, logger="chainweaver.middleware"):
        listeners = Listeners((BaseMiddleware(), RedactedView(Broken(), RedactionPolicy())))
        listeners.flow_start(FlowStartContext(TRACE, "enter", "1", {}, NOON, 1))
    [logged] = caplog.records
    assert logged.getMessage() == "Middleware 1 (Broken) raised in on_flow_start: no disk"


class Curious:
    """Waits once, then writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def around_step(self, context: StepAroundContext) -> Wrapper:
        self.told.append((yield Sleep(1.5)))
        outcome = yield Proceed()
        self.told.append(outcome)

    def around_run(self, context: RunAroundContext) -> Wrapper:
        try:
            result = yield Proceed()
            self.told.append(result)
        finally:
            self.told.append("closed")


def test_commands_pass_a_view_and_outcomes_are_redacted_on_their_way_back() -> None:
    """R38, R39: a generator inside a view wraps as it would without, and sees no secret."""
    inner = Curious()
    view: Any = RedactedView(inner, RedactionPolicy())
    wrapper = view.around_step(a_step())
    asked = next(wrapper)
    assert isinstance(asked, Sleep)
    assert asked.seconds == 1.5
    assert isinstance(wrapper.send(7), Proceed)
    error = FlowExecutionError("login", 0, "t-12345678 refused")
    outputs = {"token": "t-12345678", "note": "t-12345678"}
    finish(wrapper, StepOutcome("failed", error, outputs, 9))

    now_ns, outcome = inner.told
    assert now_ns == 7
    assert (outcome.status, outcome.outputs, outcome.now_ns) == ("failed", {"token": "***", "note": "***"}, 9)
    assert str(outcome.error) == "Tool 'login' failed at step 0: *** refused."
    assert outputs == {"token": "t-12345678", "note": "t-12345678"}


def test_a_view_around_a_run_shows_the_redacted_result_and_closes_what_it_holds() -> None:
    """R38, R39: the result of the caller is another one."""
    inner = Curious()
    view: Any = RedactedView(inner, RedactionPolicy())
    wrapper = view.around_run(RunAroundContext(TRACE, "enter", 0))
    next(wrapper)
    result: ExecutionResult = a_result(final_output={"token": "t"})
    finish(wrapper, result)
    assert inner.told[0].final_output == {"token": "***"}
    assert result.final_output == {"token": "t"}

    abandoned = view.around_run(RunAroundContext(TRACE, "enter", 0))
    next(abandoned)
    abandoned.close()
    assert inner.told[1:] == ["closed", "closed"]


def test_contexts_around_steps_and_runs_are_small_and_readable() -> None:
    """R38: what is built for a wrapper is a slotted object whose repr names its facts."""
    assert repr(a_step()) == (
        f"StepAroundContext(trace_id='{TRACE}', flow_name='f', step_index=0, step_id='0', tool_name='search', "
        "now_ns=0, nests=False)"
    )
    assert RunAroundContext(TRACE, "f", 0) == RunAroundContext(TRACE, "f", 0, None, None)
    assert not hasattr(a_step(), "__dict__")
    assert not hasattr(RunAroundContext(TRACE, "f", 0), "__dict__")
    assert isinstance(Timing(), WrapsSteps)
    assert isinstance(Timing(), WrapsRuns)


# ---- all of them around real runs, in virtual time


@tool
def search(query: str) -> int:
    return len(query)


@tool
def sign(api_key: str) -> str:
    raise PermissionError(f"{api_key} is not known")


FLOW = Flow(
    name="find",
    description="Searches, then signs.",
    steps=[FlowStep(tool_name="search"), FlowStep(tool_name="sign", on_error="skip")],
)


@pytest.mark.parametrize("lane", ["sync", "async"])
def test_limiter_stopwatch_and_view_work_around_a_run_on_every_lane(lane: str) -> None:
    """R1, R38: waits and measures are exact in virtual time, and the view sees no secret."""
    clock, timing, curious, seen = VirtualClock(), Timing(), Curious(), Notes()
    policy = RedactionPolicy()
    middleware = [timing, TokenBucket(rate_per_s=4, tools=["search"]), RedactedView(curious, policy)]
    middleware.append(RedactedView(seen, policy))
    given = {"query": "abc", "api_key": "k-12345678"}
    with FlowExecutor(tools=[search, sign], flows=[FLOW], middleware=middleware, runtime=clock.runtime()) as executor:
        for _ in range(3):
            if lane == "sync":
                result = executor.execute_flow("find", given)
            else:
                result = asyncio.run(executor.execute_flow_async("find", given))

    # Every step waits 1.5 s for the curious one, so no later run finds the bucket empty.
    assert clock.waits == [1.5] * 6
    assert timing.tools == {"search": Durations(3, 0, 4.5, 1.5, 1.5), "sign": Durations(3, 3, 4.5, 1.5, 1.5)}
    assert timing.flows == {"find": Durations(3, 0, 9.0, 3.0, 3.0)}
    assert "k-12345678 is not known" in str(result.step("1").error_message)
    assert "k-12345678" not in f"{curious.told} {[str(one) for one in seen.seen]}"
    assert [type(one).__name__ for one in curious.told[:5]] == [
        "int",
        "StepOutcome",
        "int",
        "StepOutcome",
        "ExecutionResult",
    ]
    assert "*** is not known" in str(curious.told[3].error)


def test_a_step_that_nests_takes_no_token_and_is_no_tool():
    """R38: what it calls has steps of its own, and those count."""
    limiter, timing = TokenBucket(1, 1), Timing()
    around = StepAroundContext("0" * 32, "f", 0, "0", "search", now_ns=0, nests=True)

    assert [type(next(limiter.around_step(around))) for _ in range(3)] == [Proceed] * 3
    step = timing.around_step(around)
    next(step)
    with pytest.raises(StopIteration):
        step.send(StepOutcome("ok", None, {}, now_ns=1_000_000))
    assert timing.tools == {}
