"""Steps overlap as far as their dependencies and the limit permit, and run where their lane says."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from chainweaver import LaneUnsupportedError, Tool, tool
from tests.lanes.kit import Gauge, a_flow, a_step, a_tool, fan, wait_until
from tests.lanes.table import LANES, LIMITS, Lane, pause

lanes = pytest.mark.parametrize("lane", LANES, ids=repr)
kinds = pytest.mark.parametrize("kind", ["sync", "async"])
WIDTH = 5


def meeting(gauge: Gauge, expected: int, kind: str) -> list[Tool]:
    """Tools that stay inside until as many as expected have been there at once, and a little longer."""

    def meet(given: Any) -> dict[str, int]:
        with gauge.inside():
            wait_until(lambda: gauge.peak >= expected)
            time.sleep(0.005)
        return {}

    async def meet_async(given: Any) -> dict[str, int]:
        with gauge.inside():
            while gauge.peak < expected:
                await pause(0.001)
            await pause(0.005)
        return {}

    return [a_tool(f"t{at}", meet if kind == "sync" else meet_async) for at in range(WIDTH)]


@lanes
@kinds
@pytest.mark.parametrize("limit", LIMITS)
def test_as_many_tools_run_at_once_as_the_limit_permits(lane: Lane, kind: str, limit: int) -> None:
    """R4: the measured peak is the limit or the width of the flow, whichever is less."""
    gauge = Gauge()
    tools = meeting(gauge, min(limit, WIDTH), kind)
    with lane.executor(tools=tools, flows=[fan(tools)], max_step_concurrency=limit) as executor:
        result = lane.run(executor, "flow", {})
    assert result.success
    assert gauge.peak == min(limit, WIDTH)


@lanes
@kinds
@pytest.mark.parametrize("mapped", [False, True], ids=["implicit", "mapped"])
def test_a_branch_does_not_wait_for_the_levels_of_another(lane: Lane, kind: str, mapped: bool) -> None:
    """R3: a short step's branch runs to its end while one long step beside it is still going on."""
    done = threading.Event()

    def long(given: Any) -> dict[str, int]:
        assert done.wait(10)
        return {}

    async def long_async(given: Any) -> dict[str, int]:
        while not done.is_set():
            await pause(0.001)
        return {}

    def last(given: Any) -> dict[str, int]:
        done.set()
        return {}

    reads = {"input_mapping": {"n": "n"}} if mapped else {}
    tools = [a_tool("long", long if kind == "sync" else long_async), a_tool("a", lambda given: {}), a_tool("z", last)]
    flow = a_flow(a_step("long", **reads), a_step("a", **reads), a_step("z", "a", **reads))
    with lane.executor(tools=tools, flows=[flow], max_step_concurrency=2) as executor:
        assert lane.run(executor, "flow", {"n": 1}).success


@lanes
def test_branches_of_unequal_steps_overlap_fully(lane: Lane) -> None:
    """R3: with slow and quick steps crosswise in two branches, the whole takes no longer than one branch."""

    async def slow(given: Any) -> dict[str, int]:
        await pause(0.1)
        return {}

    async def quick(given: Any) -> dict[str, int]:
        await pause(0.02)
        return {}

    tools = [a_tool("a1", slow), a_tool("a2", quick), a_tool("b1", quick), a_tool("b2", slow)]
    flow = a_flow(a_step("a1"), a_step("b1"), a_step("a2", "a1"), a_step("b2", "b1"))
    with lane.executor(tools=tools, flows=[flow], max_step_concurrency=2) as executor:
        lane.run(executor, "flow", {})
        result = lane.run(executor, "flow", {})
    # Level by level it would take 0.2 s.
    assert result.total_duration_ms < 180


@lanes
@pytest.mark.parametrize("limit", LIMITS)
def test_inline_tools_run_in_the_calling_thread(lane: Lane, limit: int) -> None:
    """R4: lane="inline" means the thread of the caller, at every limit."""
    seen = set()

    def note(given: Any) -> dict[str, int]:
        seen.add(threading.get_ident())
        return {}

    inline = [a_tool(f"t{at}", note, lane="inline") for at in range(4)]
    others = [a_tool(f"o{at}", lambda given: {}) for at in range(4)]
    steps = [a_step(one.name) for one in others] + [a_step(one.name, f"o{at}") for at, one in enumerate(inline)]
    with lane.executor(tools=inline + others, flows=[a_flow(*steps)], max_step_concurrency=limit) as executor:
        assert lane.run(executor, "flow", {}).success
    assert seen == {threading.get_ident()}


@lanes
def test_the_calling_thread_is_free_for_inline_tools(lane: Lane) -> None:
    """R3: an inline step that becomes ready while another step takes its time does not wait for that one."""
    done = threading.Event()

    def slow(given: Any) -> dict[str, int]:
        assert done.wait(10)
        return {}

    def inline(given: Any) -> dict[str, int]:
        done.set()
        return {}

    tools = [a_tool("slow", slow), a_tool("first", lambda given: {}), a_tool("inline", inline, lane="inline")]
    flow = a_flow(a_step("slow"), a_step("first"), a_step("inline", "first"))
    with lane.executor(tools=tools, flows=[flow], max_step_concurrency=2) as executor:
        assert lane.run(executor, "flow", {}).success


@lanes
@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("where", ["tool", "executor"])
def test_a_tool_can_ask_for_a_thread(lane: Lane, limit: int, where: str) -> None:
    """lane="thread" keeps a sync tool out of the calling thread, said by the tool or for all by the executor."""
    seen = set()

    def note(given: Any) -> dict[str, int]:
        seen.add(threading.get_ident())
        return {}

    made = a_tool("t", note, lane="thread" if where == "tool" else None)
    options = {"lane": "thread"} if where == "executor" else {}
    with lane.executor(tools=[made], flows=[fan([made])], max_step_concurrency=limit, **options) as executor:
        assert lane.run(executor, "flow", {}).success
    assert threading.get_ident() not in seen
    assert seen


@lanes
@pytest.mark.parametrize("limit", [1, 2])
def test_an_executor_can_ask_for_the_calling_thread(lane: Lane, limit: int) -> None:
    """lane="inline" on the executor holds for every tool that names no lane."""
    seen = set()

    def note(given: Any) -> dict[str, int]:
        seen.add(threading.get_ident())
        return {}

    tools = [a_tool(f"t{at}", note) for at in range(4)]
    with lane.executor(tools=tools, flows=[fan(tools)], max_step_concurrency=limit, lane="inline") as executor:
        assert lane.run(executor, "flow", {}).success
    assert seen == {threading.get_ident()}


@lanes
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("named", [True, False], ids=["named", "object"])
def test_tools_run_on_lanes_that_users_bring(lane: Lane, limit: int, named: bool) -> None:
    """A lane is anything with `submit`; a pool of one keeps its tools apart whatever the limit is."""
    gauge, seen = Gauge(), set()

    def on_gpu(given: Any) -> dict[str, int]:
        with gauge.inside():
            seen.add(threading.current_thread().name.partition("_")[0])
            time.sleep(0.002)
        return {"out": given.n}

    with ThreadPoolExecutor(1, "gpu") as pool:
        tools = [a_tool(f"t{at}", on_gpu, lane="gpu" if named else pool) for at in range(3)]
        with lane.executor(
            tools=tools, flows=[fan(tools)], max_step_concurrency=limit, lanes={"gpu": pool}
        ) as executor:
            assert lane.run(executor, "flow", {"n": 4}).final_output == {"n": 4, "t0": 4, "t1": 4, "t2": 4}
    assert (seen, gauge.peak) == ({"gpu"}, 1)


@lanes
def test_a_lane_that_breaks_fails_the_step(lane: Lane) -> None:
    """R16: what a user's lane raises or reports is a tool failure, recorded as one."""

    class Broken:
        def submit(self, fn: Any, *args: Any) -> Future[Any]:
            raise OSError("no more workers")

    class Cancelling:
        def submit(self, fn: Any, *args: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.cancel()
            return future

    tools = [a_tool("a", lambda given: {}, lane=Broken()), a_tool("b", lambda given: {}, lane=Cancelling())]
    with lane.executor(tools=tools, flows=[fan(tools, on_failure="finish")]) as executor:
        result = lane.run(executor, "flow", {})
    assert [record.error_cause for record in result.execution_log] == ["OSError", "CancelledError"]


@lanes
def test_a_lane_that_nobody_knows_is_refused_before_the_run(lane: Lane) -> None:
    """R15: an unknown lane is named, and nothing has started."""

    @tool(lane="gpu")
    def on_gpu(n: int) -> int:
        raise AssertionError("nothing starts")

    flow = a_flow(a_step("on_gpu", output_mapping=None))
    with lane.executor(tools=[on_gpu], flows=[flow], max_step_concurrency=2) as executor:
        with pytest.raises(LaneUnsupportedError, match="lane 'gpu' of tool 'on_gpu'"):
            lane.run(executor, "flow", {"n": 1})
