"""Time limits bind while a tool runs, a step waits or another run computes; a late finish is no success."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from chainweaver import ExecutionResult, FlowCancelledError, InMemoryStepCache, RetryPolicy
from chainweaver._execution.commands import TimedOut
from chainweaver.lanes.drive import look_up, run_to_end
from chainweaver.runtime import Runtime
from tests.lanes.kit import LIMIT_S, Gauge, a_flow, a_step, a_tool, chain, does, fan, wait_until
from tests.lanes.table import LANES, Lane, pause

lanes = pytest.mark.parametrize("lane", LANES, ids=repr)
limits = pytest.mark.parametrize("limit", [1, 4])
kinds = pytest.mark.parametrize("kind", ["sync", "async"])
SHORT_S = 0.03


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Set at the end of the test, so that tools that were left behind can end."""
    event = threading.Event()
    yield event
    event.set()


def stuck(kind: str, release: threading.Event) -> Any:
    """A tool function that does not come back before the test is over."""

    def stay(given: Any) -> dict[str, int]:
        release.wait(LIMIT_S)
        return {"out": 1}

    async def stay_async(given: Any) -> dict[str, int]:
        await pause(LIMIT_S)
        return {"out": 1}

    return stay if kind == "sync" else stay_async


def ended_by_deadline(lane: Lane, executor: Any, calls: list[int] | None = None) -> ExecutionResult:
    """The result of a run that its deadline ended while step "t" was on its way, with its calls where they are noted.

    On a machine that is busy with something else a run may not come that far in time; then it gets more.
    """
    executor.explain_flow("flow", {})  # compiled beforehand: the time is for the run
    for seconds in (0.05, 0.2, 0.8, 3.2):
        began = time.monotonic()
        with pytest.raises(FlowCancelledError) as caught:
            lane.run(executor, "flow", {}, deadline=time.time() + seconds)
        assert seconds * 0.5 < time.monotonic() - began < seconds + LIMIT_S / 2
        assert caught.value.deadline_exceeded
        result: ExecutionResult = caught.value.result
        assert result.status == "cancelled"
        if calls != [] and result.execution_log and result.execution_log[-1].step_id == "t":
            break
        if calls is not None:
            calls.clear()
    return result


@lanes
@limits
@kinds
@pytest.mark.parametrize("where", ["tool", "step"])
def test_a_tool_that_takes_too_long_fails_its_step(
    lane: Lane, limit: int, kind: str, where: str, release: threading.Event
) -> None:
    """R22: `timeout_seconds` of the tool or of the step ends the attempt while it runs."""
    made = a_tool("t", stuck(kind, release), timeout_seconds=SHORT_S if where == "tool" else None)
    flow = fan([made]) if where == "tool" else a_flow(a_step("t", timeout_seconds=SHORT_S))
    with lane.executor(tools=[made], flows=[flow], max_step_concurrency=limit) as executor:
        record = lane.run(executor, "flow", {}).step("t")
        release.set()
    assert record.error_type == "ToolTimeoutError"
    assert record.error_message is not None
    assert f"did not finish within {SHORT_S} seconds." in record.error_message
    assert ("abandoned" in record.error_message) == (kind == "sync")
    assert record.duration_ms < LIMIT_S * 500


@lanes
@kinds
def test_a_late_finish_is_no_success(lane: Lane, kind: str) -> None:
    """R22: what a tool returns or raises after its time counts for nothing, also when the wait was over just then."""
    clock = [0]

    def late(given: Any) -> dict[str, int]:
        clock[0] += int(2e9)
        if given.n:
            raise ValueError("late too")
        return {"out": 1}

    async def late_async(given: Any) -> dict[str, int]:
        return late(given)

    made = a_tool("t", late if kind == "sync" else late_async, timeout_seconds=1)
    with lane.executor(tools=[made], flows=[fan([made])], runtime=Runtime(now_ns=lambda: clock[0])) as executor:
        for n in (0, 1):
            assert lane.run(executor, "flow", {"n": n}).step("t").error_type == "ToolTimeoutError"


@lanes
@pytest.mark.parametrize("clock", [time.monotonic_ns, lambda: 0], ids=["real", "frozen"])
def test_an_async_tool_that_will_not_be_cancelled_is_late_all_the_same(lane: Lane, clock: Callable[[], int]) -> None:
    """R22: swallowing the cancellation does not make a late result count, whatever the clock of the run says."""

    async def stubborn(given: Any) -> dict[str, int]:
        import anyio

        with anyio.CancelScope(shield=True):
            await anyio.sleep(4 * SHORT_S)
        return {"out": 1}

    made = a_tool("t", stubborn, timeout_seconds=SHORT_S)
    with lane.executor(tools=[made], flows=[fan([made])], runtime=Runtime(now_ns=clock)) as executor:
        assert lane.run(executor, "flow", {}).step("t").error_type == "ToolTimeoutError"


@lanes
def test_a_cancelled_async_tool_runs_its_finally_clauses_before_the_next_attempt(lane: Lane) -> None:
    """R22, R23: what an attempt holds is released when the next one begins."""
    gauge = Gauge()

    async def hold(given: Any) -> dict[str, int]:
        with gauge.inside():
            await pause(LIMIT_S)
        return {}

    made = a_tool("t", hold, timeout_seconds=SHORT_S)
    flow = a_flow(a_step("t", retry=RetryPolicy(max_retries=2, backoff_seconds=0)))
    with lane.executor(tools=[made], flows=[flow]) as executor:
        assert lane.run(executor, "flow", {}).step("t").retry_count == 2
    assert gauge.peak == 1


@lanes
@limits
@kinds
def test_the_deadline_ends_a_run_in_the_middle_of_a_tool(
    lane: Lane, limit: int, kind: str, release: threading.Event
) -> None:
    """R22: the deadline of a run binds during tools that have no limit of their own."""
    tools = [a_tool("before", lambda given: {"out": 3}), *(a_tool(name, stuck(kind, release)) for name in ("t", "u"))]
    with lane.executor(tools=tools, flows=[chain(tools)], max_step_concurrency=limit) as executor:
        result = ended_by_deadline(lane, executor)
        release.set()
    assert [(record.step_id, record.status) for record in result.execution_log] == [
        ("before", "ok"),
        ("t", "cancelled"),
    ]
    assert result.partial_output == {"before": 3}


@lanes
@limits
def test_the_deadline_ends_a_run_in_the_middle_of_a_wait(lane: Lane, limit: int) -> None:
    """R22: back-off ends with the deadline, and no further attempt is made."""
    calls: list[int] = []

    def busy(given: Any) -> dict[str, int]:
        calls.append(1)
        raise OSError("busy")

    made = a_tool("t", busy)
    flow = a_flow(a_step("t", retry=RetryPolicy(max_retries=5, backoff_seconds=LIMIT_S)))
    with lane.executor(tools=[made], flows=[flow], max_step_concurrency=limit) as executor:
        result = ended_by_deadline(lane, executor, calls)
    assert (calls, result.step("t").status) == ([1], "cancelled")


@lanes
@limits
def test_the_deadline_ends_the_wait_for_another_run(lane: Lane, limit: int, release: threading.Event) -> None:
    """R22, R30: a run that waits for what another one computes keeps its own deadline."""
    entered = threading.Event()

    def slow(given: Any) -> dict[str, int]:
        entered.set()
        release.wait(LIMIT_S)
        return {"out": 1}

    made = a_tool("t", slow, cacheable=True)
    with lane.executor(
        tools=[made], flows=[fan([made])], max_step_concurrency=limit, step_cache=InMemoryStepCache()
    ) as executor:
        leader = threading.Thread(target=executor.execute_flow, args=("flow", {}))
        leader.start()
        assert entered.wait(LIMIT_S)
        assert ended_by_deadline(lane, executor).step("t").status == "cancelled"
        release.set()
        leader.join(LIMIT_S)
        assert lane.run(executor, "flow", {}).step("t").cached


@lanes
@limits
def test_a_deadline_that_has_passed_starts_nothing(lane: Lane, limit: int) -> None:
    """R22: the first command already finds that the time is over."""

    def never(given: Any) -> dict[str, int]:
        raise AssertionError("nothing starts")

    made = a_tool("t", never)
    with lane.executor(tools=[made], flows=[fan([made])], max_step_concurrency=limit) as executor:
        with pytest.raises(FlowCancelledError) as caught:
            lane.run(executor, "flow", {}, deadline=time.time() - 1)
    assert caught.value.deadline_exceeded


@lanes
def test_a_tool_that_was_left_behind_frees_its_place(lane: Lane, release: threading.Event) -> None:
    """R22: at limit 2 two abandoned tools keep nobody else from running, and their late results reach nobody."""
    ran = []
    others = set(threading.enumerate())
    tools = [a_tool(f"stuck{at}", stuck("sync", release), timeout_seconds=SHORT_S) for at in range(2)]
    tools += [a_tool(f"t{at}", does(lambda: ran.append(1))) for at in range(4)]
    with lane.executor(tools=tools, flows=[fan(tools, on_failure="finish")], max_step_concurrency=2) as executor:
        result = lane.run(executor, "flow", {})
        before = result.model_dump_json()
        release.set()
        wait_until(lambda: not any(one.name.startswith("chainweaver-") for one in busy(executor) - others))
        assert result.model_dump_json() == before
    assert len(ran) == 4
    assert {record.status for record in result.execution_log} == {"ok", "failed"}


def busy(executor: Any) -> set[threading.Thread]:
    """The threads that are alive after an executor was told to let its idle ones go."""
    executor.close()
    return set(threading.enumerate())


@lanes
@limits
def test_under_a_virtual_clock_retries_wait_exactly_as_long_as_the_policy_says(lane: Lane, limit: int) -> None:
    """R20: thirty days of back-off take no time, and the waits are those of the policy."""
    clock, waits = [0], []

    def skip(seconds: float) -> None:
        waits.append(seconds)
        clock[0] += int(seconds * 1e9)

    def busy_until_the_end(given: Any) -> dict[str, int]:
        if len(waits) < 6:
            raise OSError("busy")
        return {}

    policy = RetryPolicy(max_retries=6, backoff_seconds=41_142.857, backoff_multiplier=2)
    made = a_tool("t", busy_until_the_end)
    runtime = Runtime(now_ns=lambda: clock[0], pause=skip)
    flow = a_flow(a_step("t", retry=policy))
    with lane.executor(tools=[made], flows=[flow], max_step_concurrency=limit, runtime=runtime) as executor:
        record = lane.run(executor, "flow", {}).step("t")
    assert waits == [policy.compute_delay(n) for n in range(1, 7)]
    assert record.retry_count == 6
    assert record.duration_ms == pytest.approx(sum(waits) * 1000)


@lanes
def test_jitter_comes_from_the_random_source_of_the_runtime(lane: Lane) -> None:
    """R20: a seeded source gives the same waits again."""
    waits: list[float] = []
    runtime = Runtime(now_ns=lambda: 0, pause=waits.append, random=lambda: 0.5)

    def broken(given: Any) -> dict[str, int]:
        raise OSError("busy")

    made = a_tool("t", broken)
    flow = a_flow(a_step("t", retry=RetryPolicy(max_retries=2, backoff_seconds=8, jitter=True)))
    with lane.executor(tools=[made], flows=[flow], runtime=runtime) as executor:
        lane.run(executor, "flow", {})
    assert waits == [6.0, 12.0]


@lanes
def test_a_deadline_far_away_is_no_problem(lane: Lane) -> None:
    """R22: a limit longer than any timer can hold is as good as none."""
    made = a_tool("t", lambda given: {}, timeout_seconds=1e12)
    with lane.executor(tools=[made], flows=[fan([made])]) as executor:
        assert lane.run(executor, "flow", {}, deadline=1e15).success


def test_all_waits_for_one_cache_entry_together_keep_the_time_limit() -> None:
    """R22, R30: each leader that fails hands over, and the time of whoever waits goes on."""
    clock, waits = [0], []

    class Crowded:
        """Services whose every look-up finds that somebody else computes."""

        runtime = Runtime(now_ns=lambda: clock[0])

        def look_up(self, command: Any) -> object:
            return object()

    class Waiting:
        services = Crowded()

        async def wait_for(self, flight: Any, timeout_s: float | None) -> None:
            assert timeout_s is not None
            waits.append(timeout_s)
            if len(waits) == 3:
                raise TimedOut
            clock[0] += int(2e9)

    performer: Any = Waiting()
    command: Any = SimpleNamespace(timeout_s=5.0)
    with pytest.raises(TimedOut):
        run_to_end(look_up(command, performer))
    assert waits == [5.0, 3.0, 1.0]


def test_a_performer_that_suspends_on_the_sync_lane_is_a_fault_of_ours() -> None:
    """The sync lane has no loop that could go on with it; saying so beats waiting for ever."""

    async def suspends() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="has to block instead"):
        run_to_end(suspends())
