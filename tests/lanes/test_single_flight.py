"""One cache entry is computed once for all runs that ask for it at the same time, whatever becomes of who computes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from chainweaver import CancellationToken, FlowCancelledError, FlowExecutor, InMemoryStepCache, Tool
from chainweaver._execution import Lead, Lookup, Settle
from chainweaver.cache.flight import SingleFlight
from chainweaver.lanes.services import CacheService, Services
from chainweaver.runtime import Runtime
from tests.lanes.kit import LIMIT_S, Gauge, a_flow, a_step, a_tool, wait_until
from tests.lanes.table import ASYNCIO, LANES, LIMITS, SYNC, Lane, pause

lanes = pytest.mark.parametrize("lane", LANES, ids=repr)
limits = pytest.mark.parametrize("limit", [1, 2])
RUNS = 6


def waiting(executor: FlowExecutor) -> int:
    """How many runs wait for what another one computes."""
    assert executor._bound is not None
    assert executor._bound.cache is not None
    shared = list(executor._bound.cache.flights._flights.values())
    return sum(len(one.waiters) for one in shared)


def flights_of(executor: FlowExecutor) -> int:
    """How many keys are being computed."""
    bound = executor._bound
    return 0 if bound is None or bound.cache is None else len(bound.cache.flights)


def an_executor(lane: Lane, *tools: Tool, limit: int = 1, steps: Any = None) -> FlowExecutor:
    flow = a_flow(*(steps or (a_step(one.name) for one in tools)))
    return lane.executor(tools=tools, flows=[flow], step_cache=InMemoryStepCache(), max_step_concurrency=limit)


def all_at_once(lane: Lane, executor: FlowExecutor, count: int = RUNS, **options: Any) -> list[Any]:
    """Run the flow many times at once: in threads, or in the tasks of one loop."""
    if not lane.is_async:
        with ThreadPoolExecutor(count) as pool:
            futures = [pool.submit(executor.execute_flow, "flow", {}, **options) for _ in range(count)]
            return [future.result(LIMIT_S) for future in futures]
    results: list[Any] = []

    async def one() -> None:
        results.append(await executor.execute_flow_async("flow", {}, **options))

    async def many() -> None:
        with anyio.fail_after(LIMIT_S):
            async with anyio.create_task_group() as group:
                for _ in range(count):
                    group.start_soon(one)

    assert lane.backend is not None
    lane.backend(many)
    return results


@lanes
@limits
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_concurrent_misses_of_one_key_run_the_tool_once(lane: Lane, limit: int, kind: str) -> None:
    """R30: one computes, the others get copies of what comes out."""
    calls: list[int] = []

    def compute(given: Any) -> dict[str, int]:
        calls.append(1)
        wait_until(lambda: waiting(executor) == RUNS - 1)
        return {"out": 3}

    async def compute_async(given: Any) -> dict[str, int]:
        calls.append(1)
        while waiting(executor) < RUNS - 1:
            await pause(0.001)
        return {"out": 3}

    made = a_tool("t", compute if kind == "sync" else compute_async, cacheable=True)
    with an_executor(lane, made, limit=limit) as executor:
        results = all_at_once(lane, executor)
    assert len(calls) == 1
    assert [result.final_output for result in results] == [{"t": 3}] * RUNS
    assert sorted(result.step("t").cached for result in results) == [False] + [True] * (RUNS - 1)


@lanes
@limits
def test_a_leader_that_fails_hands_over(lane: Lane, limit: int) -> None:
    """R30: a failure is the leader's own; the next one tries, and the rest shares what it finds."""
    calls: list[int] = []
    lock = threading.Lock()

    def compute(given: Any) -> dict[str, int]:
        with lock:
            calls.append(1)
            number = len(calls)
        wait_until(lambda: waiting(executor) == RUNS - number)
        if number < 3:
            raise OSError("broken")
        return {"out": number}

    with an_executor(lane, a_tool("t", compute, cacheable=True), limit=limit) as executor:
        results = all_at_once(lane, executor)
    assert len(calls) == 3
    assert sorted(result.status for result in results) == ["failed"] * 2 + ["ok"] * (RUNS - 2)
    assert {result.final_output["t"] for result in results if result.success} == {3}


@lanes
@limits
def test_a_leader_that_is_cancelled_hands_over(lane: Lane, limit: int) -> None:
    """R23, R30: a token that ends the leader leaves the others to themselves."""
    token, calls = CancellationToken(), []

    async def compute(given: Any) -> dict[str, int]:
        calls.append(1)
        if len(calls) == 1:
            await pause(LIMIT_S)
        return {"out": len(calls)}

    with an_executor(lane, a_tool("t", compute, cacheable=True), limit=limit) as executor:
        ended: list[bool] = []

        def lead() -> None:
            with pytest.raises(FlowCancelledError):
                lane.run(executor, "flow", {}, cancel_token=token)
            ended.append(True)

        leader = threading.Thread(target=lead)
        leader.start()
        wait_until(lambda: bool(calls))

        def cancel_when_awaited() -> None:
            wait_until(lambda: waiting(executor) == 3)
            token.cancel()

        threading.Thread(target=cancel_when_awaited).start()
        results = all_at_once(lane, executor, 3)
        leader.join(LIMIT_S)
    assert (ended, len(calls)) == ([True], 2)
    assert [result.final_output for result in results] == [{"t": 2}] * 3


@pytest.mark.parametrize("limit", LIMITS)
def test_a_leader_that_is_interrupted_hands_over(limit: int) -> None:
    """R17, R30: also when the leader's program is on its way out."""
    calls: list[int] = []

    def compute(given: Any) -> dict[str, int]:
        calls.append(1)
        if len(calls) == 1:
            wait_until(lambda: waiting(executor) == 1)
            raise KeyboardInterrupt
        return {"out": 2}

    with an_executor(SYNC, a_tool("t", compute, cacheable=True), limit=limit) as executor:
        found: list[Any] = []

        def second() -> None:
            wait_until(lambda: bool(calls))
            found.append(executor.execute_flow("flow", {}).final_output)

        thread = threading.Thread(target=second)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            executor.execute_flow("flow", {})
        thread.join(LIMIT_S)
    assert found == [{"t": 2}]


def test_a_lead_that_comes_after_the_end_of_its_run_is_handed_over() -> None:
    """R30: a look-up that is under way while its run is given up must not leave the others waiting."""
    inside, release = threading.Event(), threading.Event()

    class SlowCache(InMemoryStepCache):
        def get(self, key: Any) -> Any:
            if threading.current_thread() is not threading.main_thread() and not inside.is_set():
                inside.set()
                release.wait(LIMIT_S)
            return super().get(key)

    def halt(given: Any) -> dict[str, int]:
        assert inside.wait(LIMIT_S)
        raise KeyboardInterrupt

    tools = [a_tool("halt", halt, lane="inline", cacheable=False), a_tool("t", lambda given: {}, cacheable=True)]
    flow = a_flow(a_step("halt"), a_step("t"))
    alone = a_flow(a_step("t")).model_copy(update={"name": "alone"})
    with SYNC.executor(tools=tools, flows=[flow, alone], step_cache=SlowCache(), max_step_concurrency=2) as executor:
        with pytest.raises(KeyboardInterrupt):
            executor.execute_flow("flow", {})
        release.set()
        wait_until(lambda: flights_of(executor) == 0)
        assert executor.execute_flow("alone", {}).success


@lanes
def test_who_waits_for_another_run_holds_no_place(lane: Lane) -> None:
    """R4, R30: at limit 2 two waiting steps leave both places to the tools of their own run."""
    release, gauge = threading.Event(), Gauge()

    def lead(given: Any) -> dict[str, int]:
        assert release.wait(LIMIT_S)
        return {"out": 1}

    def work(given: Any) -> dict[str, int]:
        with gauge.inside():
            wait_until(lambda: gauge.peak == 2)
        release.set()
        return {"out": 2}

    shared = [a_tool(f"s{at}", lead, cacheable=True) for at in range(2)]
    own = [a_tool(f"w{at}", work, cacheable=False) for at in range(2)]
    first = a_flow(*(a_step(one.name) for one in shared)).model_copy(update={"name": "first"})
    flow = a_flow(*(a_step(one.name) for one in [*shared, *own]))
    with lane.executor(
        tools=[*shared, *own], flows=[first, flow], step_cache=InMemoryStepCache(), max_step_concurrency=2
    ) as executor:
        leader = threading.Thread(target=lambda: lane.run(executor, "first", {}))
        leader.start()
        wait_until(lambda: flights_of(executor) == 2)
        assert lane.run(executor, "flow", {}).final_output == {"s0": 1, "s1": 1, "w0": 2, "w1": 2}
        leader.join(LIMIT_S)
    assert gauge.peak == 2


@lanes
@limits
def test_two_steps_of_one_run_may_ask_for_the_same_key(lane: Lane, limit: int) -> None:
    """R30: the run does not wait for itself."""
    calls: list[int] = []

    def compute(given: Any) -> dict[str, int]:
        calls.append(1)
        time.sleep(0.01)
        return {"out": 5}

    made = a_tool("t", compute, cacheable=True)
    steps = [a_step(name, tool_name="t") for name in ("a", "b", "c")]
    with an_executor(lane, made, limit=limit, steps=steps) as executor:
        assert lane.run(executor, "flow", {}).final_output == {"a": 5, "b": 5, "c": 5}
    assert len(calls) == 1


def test_two_runs_with_inline_tools_never_wait_for_each_other_in_a_ring() -> None:
    """R30: the thread that has to run the inline tools of a run does not itself wait for another run."""
    names, barrier = ("a", "b"), threading.Barrier(2)

    def compute(given: Any) -> dict[str, int]:
        time.sleep(0.002)
        return {"out": given.n}

    tools = [a_tool(name, compute, cacheable=True, lane="inline") for name in names]
    one = a_flow(*(a_step(name) for name in names)).model_copy(update={"name": "one"})
    two = a_flow(*(a_step(name) for name in reversed(names))).model_copy(update={"name": "two"})

    def run(flow: str, n: int) -> Any:
        barrier.wait(LIMIT_S)
        return executor.execute_flow(flow, {"n": n}).final_output

    options: dict[str, Any] = {"step_cache": InMemoryStepCache(), "max_step_concurrency": 2}
    with SYNC.executor(tools=tools, flows=[one, two], **options) as executor, ThreadPoolExecutor(2) as pool:
        for n in range(20):
            futures = [pool.submit(run, flow, n) for flow in ("one", "two")]
            assert [future.result(LIMIT_S) for future in futures] == [{"n": n, "a": n, "b": n}] * 2


@pytest.fixture
def _restless() -> Iterator[None]:
    """Threads take turns all the time, so that what only seems to be one operation is interrupted."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_restless")
def test_threads_of_one_run_may_lead_at_the_same_time() -> None:
    """R30: every lead is settled, whichever thread took it; one that is forgotten would be waited for without end."""
    services = Services(Runtime())
    services.cache = CacheService(InMemoryStepCache(), SingleFlight())
    tool: Any = SimpleNamespace(name="t", schema_hash=lambda: "0" * 16)

    def lead(thread: int) -> None:
        for at in range(300):
            found = services.look_up(Lookup(tool, f"{thread}/{at}", None))
            assert isinstance(found, Lead)
            assert services.settle(Settle(found, None)) is None

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(lead, thread) for thread in range(8)]:
            future.result(LIMIT_S)
    assert len(services.cache.flights) == 0


def test_a_thread_and_a_task_share_one_computation() -> None:
    """R30: one table serves both lanes of an executor."""
    calls: list[int] = []

    def compute(given: Any) -> dict[str, int]:
        calls.append(1)
        wait_until(lambda: waiting(executor) == 1)
        return {"out": 4}

    with an_executor(SYNC, a_tool("t", compute, cacheable=True)) as executor:
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(lane.run, executor, "flow", {}) for lane in (SYNC, ASYNCIO)]
            assert [future.result(LIMIT_S).final_output for future in futures] == [{"t": 4}] * 2
    assert len(calls) == 1
