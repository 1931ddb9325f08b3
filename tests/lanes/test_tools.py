"""Tools of every kind on every lane: async ones without a loop, contextvars, exceptions of the unusual sort."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from chainweaver import RetryPolicy
from tests.lanes.kit import a_flow, a_step, a_tool, chain, fan, merged
from tests.lanes.table import ASYNCIO, LANES, SYNC, Lane, pause

lanes = pytest.mark.parametrize("lane", LANES, ids=repr)
limits = pytest.mark.parametrize("limit", [1, 4])

USER: contextvars.ContextVar[int] = contextvars.ContextVar("user", default=0)


@lanes
@limits
def test_contextvars_of_the_caller_are_visible_in_every_tool(lane: Lane, limit: int) -> None:
    """R5: inline, in worker threads, behind timeouts, on lanes of the user, in coroutines."""

    def see(given: Any) -> dict[str, int]:
        return {"out": USER.get()}

    async def see_async(given: Any) -> dict[str, int]:
        await pause(0)
        return {"out": USER.get()}

    with ThreadPoolExecutor(1) as pool:
        tools = [
            a_tool("plain", see),
            a_tool("inline", see, lane="inline"),
            a_tool("thread", see, lane="thread"),
            a_tool("limited", see, timeout_seconds=5),
            a_tool("pool", see, lane="pool"),
            a_tool("coroutine", see_async),
            a_tool("limited_coroutine", see_async, timeout_seconds=5),
        ]
        with lane.executor(
            tools=tools, flows=[fan(tools)], max_step_concurrency=limit, lanes={"pool": pool}
        ) as executor:
            for secret in (41, 42):
                token = USER.set(secret)
                try:
                    result = lane.run(executor, "flow", {})
                finally:
                    USER.reset(token)
                assert result.final_output == {one.name: secret for one in tools}


@limits
def test_async_tools_run_on_the_sync_lane_inside_a_running_loop(limit: int) -> None:
    """R26: they have a loop of their own, with the caller's contextvars."""
    seen = set()

    async def note(given: Any) -> dict[str, int]:
        await asyncio.sleep(0)
        seen.add(threading.current_thread().name)
        return {"out": given.n + USER.get()}

    tools = [a_tool(f"t{at}", note) for at in range(3)]
    with SYNC.executor(tools=tools, flows=[fan(tools)], max_step_concurrency=limit) as executor:

        async def caller() -> Any:
            USER.set(10)
            return executor.execute_flow("flow", {"n": 1}).final_output

        assert asyncio.run(caller()) == {"n": 1, "t0": 11, "t1": 11, "t2": 11}
    assert seen == {"chainweaver-loop"}


@pytest.mark.parametrize("limit", [1, 4])
def test_an_async_tool_may_run_a_flow_of_async_tools_itself(limit: int) -> None:
    """R26: a tool that blocks the private loop does not wait for work on that very loop, however deep this goes."""

    async def nested(given: Any) -> dict[str, int]:
        if given.n == 0:
            await asyncio.sleep(0)
            return {"out": 1}
        result = executor.execute_flow("flow", {"n": given.n - 1})
        return {"out": 1 + merged(result)["t"]}

    made = a_tool("t", nested)
    with SYNC.executor(tools=[made], flows=[fan([made])], max_step_concurrency=limit) as executor:
        assert executor.execute_flow("flow", {"n": 3}).final_output == {"n": 3, "t": 4}


@lanes
@limits
def test_a_tool_that_raises_stop_iteration_has_failed_with_it(lane: Lane, limit: int) -> None:
    """R16: `next()` on something empty is a common fault; no coroutine on the way may turn it into something else."""

    def run_out(given: Any) -> dict[str, int]:
        next(iter(()))
        return {}

    tools = [
        a_tool("plain", run_out),
        a_tool("thread", run_out, lane="thread"),
        a_tool("inline", run_out, lane="inline"),
        a_tool("limited", run_out, timeout_seconds=5),
    ]
    flow = fan(tools, on_failure="finish")
    with lane.executor(tools=tools, flows=[flow], max_step_concurrency=limit) as executor:
        result = lane.run(executor, "flow", {})
    assert [record.error_cause for record in result.execution_log] == ["StopIteration"] * 4


@lanes
@limits
def test_a_tool_that_is_cancelled_by_itself_has_failed(lane: Lane, limit: int) -> None:
    """R16: asyncio.CancelledError out of a tool, while nobody cancelled the caller, is an exception like others."""

    def sync_tool(given: Any) -> dict[str, int]:
        raise asyncio.CancelledError("gave up")

    async def async_tool(given: Any) -> dict[str, int]:
        await pause(0)
        raise asyncio.CancelledError("gave up")

    tools = [a_tool("thread", sync_tool, lane="thread")]
    if not lane.is_async or lane is not ASYNCIO or sys.version_info >= (3, 11):
        tools += [a_tool("plain", sync_tool), a_tool("inline", sync_tool, lane="inline"), a_tool("async", async_tool)]
    flow = fan(tools, on_failure="finish")
    with lane.executor(tools=tools, flows=[flow], max_step_concurrency=limit) as executor:
        result = lane.run(executor, "flow", {})
    assert [record.error_cause for record in result.execution_log] == ["CancelledError"] * len(tools)
    assert [record.status for record in result.execution_log] == ["failed"] * len(tools)


@lanes
def test_a_tool_may_run_another_flow_of_the_same_executor(lane: Lane) -> None:
    """R40: a tool holds no lock of its run while it is called."""

    def nested(given: Any) -> dict[str, int]:
        result = executor.execute_flow("inner", {"n": given.n})
        return {"out": merged(result)["leaf"]}

    tools = [a_tool(f"t{at}", nested) for at in range(4)]
    leaf = a_tool("leaf", lambda given: {"out": given.n + 1})
    inner = a_flow(a_step("leaf")).model_copy(update={"name": "inner"})
    with lane.executor(tools=[*tools, leaf], flows=[fan(tools), inner], max_step_concurrency=4) as executor:
        assert lane.run(executor, "flow", {"n": 1}).final_output == {"n": 1, "t0": 2, "t1": 2, "t2": 2, "t3": 2}


@lanes
@limits
def test_retries_call_the_tool_again_where_its_lane_says(lane: Lane, limit: int) -> None:
    """R20: an attempt after a failure runs as the first one did."""
    seen: list[int] = []

    def flaky(given: Any) -> dict[str, int]:
        seen.append(threading.get_ident())
        if len(seen) < 3:
            raise OSError("busy")
        return {}

    made = a_tool("t", flaky, lane="inline")
    flow = a_flow(a_step("t", retry=RetryPolicy(max_retries=2, backoff_seconds=0.001)))
    with lane.executor(tools=[made], flows=[flow], max_step_concurrency=limit) as executor:
        result = lane.run(executor, "flow", {})
    assert result.step("t").retry_count == 2
    assert set(seen) == {threading.get_ident()}


@lanes
def test_a_chain_starts_no_thread_and_no_task_of_its_own(lane: Lane) -> None:
    """Whoever finishes a step goes on with the next one; only siblings get threads or tasks."""
    seen = set()

    async def note(given: Any) -> dict[str, int]:
        await pause(0)
        seen.add(threading.get_ident())
        return {}

    def note_plain(given: Any) -> dict[str, int]:
        seen.add(threading.get_ident())
        return {}

    fn = note if lane.is_async else note_plain
    tools = [a_tool(f"t{at}", fn) for at in range(5)]
    with SYNC.executor(tools=tools, flows=[chain(tools)], max_step_concurrency=16) as executor:
        assert lane.run(executor, "flow", {}).success
    assert seen == {threading.get_ident()}
