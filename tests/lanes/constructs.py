"""What a flow may be made of, one small run per construct: the rows of the table in docs/lanes.md.

A row that is refused before the run says "not yet"; one that does not do what it should is an AssertionError.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from chainweaver import (
    CancellationToken,
    ConditionalEdge,
    ContextKeyCollisionError,
    ExecutionResult,
    FlowCancelledError,
    FlowExecutor,
    FlowStep,
    InMemoryCheckpointer,
    InMemoryStepCache,
    LaneUnsupportedError,
    RetryPolicy,
    Tool,
    ToolSafetyContract,
)
from chainweaver.flow import Flow
from tests.lanes.kit import Gauge, a_flow, a_step, a_tool, chain, does, fan, merged, wait_until
from tests.lanes.table import LANES, Lane, pause

Construct = Callable[[Lane], None]
CONSTRUCTS: dict[str, Construct] = {}


def construct(name: str) -> Callable[[Construct], Construct]:
    """Make a function a row of the table."""

    def register(fn: Construct) -> Construct:
        CONSTRUCTS[name] = fn
        return fn

    return register


def cell(row: str, lane: Lane) -> str:
    """What the table says of a construct on a lane."""
    try:
        CONSTRUCTS[row](lane)
    except LaneUnsupportedError:
        return "not yet"
    except Meaningless:
        return "-"
    return "yes"


class Meaningless(Exception):
    """The construct has no meaning on this lane."""


def table() -> str:
    """The whole table, in Markdown."""
    head = f"| construct | {' | '.join(lane.name for lane in LANES)} |\n|---|{'---|' * len(LANES)}\n"
    return head + "".join(f"| {name} | {' | '.join(cell(name, lane) for lane in LANES)} |\n" for name in CONSTRUCTS)


# ---- tools for the rows


def ok(given: Any) -> dict[str, int]:
    return {"out": given.n + 1}


async def ok_async(given: Any) -> dict[str, int]:
    await pause(0)
    return {"out": given.n + 1}


def fails(given: Any) -> dict[str, int]:
    raise OSError("broken")


def ran(lane: Lane, tools: list[Tool], flow: Any = None, **options: Any) -> ExecutionResult:
    with lane.executor(tools=tools, flows=[flow or fan(tools)], **options) as executor:
        return lane.run(executor, "flow", {"n": 1})


# ---- flows


@construct("linear flow")
def _(lane: Lane) -> None:
    steps = [FlowStep(tool_name="t", output_mapping={"n": "out"})] * 3
    flow = Flow(name="flow", description="a line", steps=steps, on_context_collision="overwrite")
    assert ran(lane, [a_tool("t", ok)], flow).final_output == {"n": 4}


@construct("DAG flow")
def _(lane: Lane) -> None:
    tools = [a_tool(name, ok) for name in ("a", "b", "c")]
    flow = a_flow(a_step("a"), a_step("b", "a", input_mapping={"n": "a"}), a_step("c", "a", input_mapping={"n": "a"}))
    assert ran(lane, tools, flow).final_output == {"n": 1, "a": 2, "b": 3, "c": 3}


@construct("`max_step_concurrency` above 1")
def _(lane: Lane) -> None:
    gauge = Gauge()

    def meet(given: Any) -> dict[str, int]:
        with gauge.inside():
            wait_until(lambda: gauge.peak == 2)
        return {}

    assert ran(lane, [a_tool("a", meet), a_tool("b", meet)], max_step_concurrency=2).success


@construct("projection with `outputs`")
def _(lane: Lane) -> None:
    tools = [a_tool("a", ok)]
    assert ran(lane, tools, fan(tools, outputs=["a"])).final_output == {"a": 2}


@construct("dynamic parameters")
def _(lane: Lane) -> None:
    tools = [a_tool("a", ok)]
    flow = a_flow(a_step("a", input_mapping={"n": "key"}), dynamic_params=["key"])
    with lane.executor(tools=tools, flows=[flow]) as executor:
        assert lane.run(executor, "flow", {}, dynamic_params={"key": 4}).final_output == {"a": 5}


@construct('`on_failure="finish"`')
def _(lane: Lane) -> None:
    tools = [a_tool("a", fails), a_tool("b", ok)]
    assert ran(lane, tools, fan(tools, on_failure="finish")).partial_output == {"n": 1, "b": 2}


@construct('collision policy `"error"`')
def _(lane: Lane) -> None:
    tools = [a_tool("a", ok)]
    flow = a_flow(a_step("a", output_mapping={"n": "out"}), on_context_collision="error")
    with pytest.raises(ContextKeyCollisionError):
        ran(lane, tools, flow)


# ---- tools


@construct("sync tool")
def _(lane: Lane) -> None:
    assert ran(lane, [a_tool("a", ok)]).success


@construct("async tool")
def _(lane: Lane) -> None:
    assert ran(lane, [a_tool("a", ok_async)]).success


@construct('tool with `lane="inline"`')
def _(lane: Lane) -> None:
    seen = []
    ran(lane, [a_tool("a", does(lambda: seen.append(threading.get_ident())), lane="inline")])
    assert seen == [threading.get_ident()]


@construct('tool with `lane="thread"`')
def _(lane: Lane) -> None:
    seen = []
    ran(lane, [a_tool("a", does(lambda: seen.append(threading.get_ident())), lane="thread")])
    assert seen != [threading.get_ident()]


@construct("tool on a lane of your own")
def _(lane: Lane) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert ran(lane, [a_tool("a", ok, lane="own")], lanes={"own": pool}).success


# ---- policies


@construct("retries with back-off")
def _(lane: Lane) -> None:
    calls = []

    def flaky(given: Any) -> dict[str, int]:
        calls.append(1)
        return ok(given) if len(calls) == 3 else fails(given)

    policy = RetryPolicy(max_retries=2, backoff_seconds=0.001)
    assert ran(lane, [a_tool("a", flaky)], a_flow(a_step("a", retry=policy))).step("a").retry_count == 2


@construct('`on_error="skip"`')
def _(lane: Lane) -> None:
    assert ran(lane, [a_tool("a", fails)], a_flow(a_step("a", on_error="skip"))).step("a").skipped


@construct("fallback tool")
def _(lane: Lane) -> None:
    flow = a_flow(a_step("a", on_error="fallback:b"))
    assert ran(lane, [a_tool("a", fails), a_tool("b", ok)], flow).step("a").fallback_used


@construct("time limit of a sync tool")
def _(lane: Lane) -> None:
    release = threading.Event()
    made = a_tool("a", does(lambda: release.wait(10)), timeout_seconds=0.01)
    with lane.executor(tools=[made], flows=[fan([made])]) as executor:
        assert lane.run(executor, "flow", {}).step("a").error_type == "ToolTimeoutError"
        release.set()


@construct("time limit of an async tool")
def _(lane: Lane) -> None:
    async def stay(given: Any) -> dict[str, int]:
        await pause(10)
        return {}

    assert ran(lane, [a_tool("a", stay, timeout_seconds=0.01)]).step("a").error_type == "ToolTimeoutError"


@construct("deadline")
def _(lane: Lane) -> None:
    tools = [a_tool("a", ok)]
    with lane.executor(tools=tools, flows=[fan(tools)]) as executor:
        with pytest.raises(FlowCancelledError, match="deadline"):
            lane.run(executor, "flow", {}, deadline=time.time() - 1)


@construct("cancellation by token")
def _(lane: Lane) -> None:
    token = CancellationToken()
    tools = [a_tool("a", does(token.cancel), lane="inline"), a_tool("b", fails)]
    with lane.executor(tools=tools, flows=[chain(tools)]) as executor:
        with pytest.raises(FlowCancelledError, match="token"):
            lane.run(executor, "flow", {}, cancel_token=token)


@construct("cancellation of the task")
def _(lane: Lane) -> None:
    if lane.backend is None:
        raise Meaningless
    import anyio

    async def stay(given: Any) -> dict[str, int]:
        await pause(10)
        return {}

    made = a_tool("a", stay)
    with lane.executor(tools=[made], flows=[fan([made])]) as executor:

        async def cancelled() -> bool:
            with anyio.move_on_after(0.02) as scope:
                await executor.execute_flow_async("flow", {})
            return scope.cancelled_caught

        assert lane.backend(cancelled)


@construct("virtual clock")
def _(lane: Lane) -> None:
    from chainweaver.runtime import Runtime

    waits: list[float] = []
    policy = RetryPolicy(max_retries=1, backoff_seconds=86_400)
    runtime = Runtime(now_ns=lambda: 0, pause=waits.append)
    ran(lane, [a_tool("a", fails)], a_flow(a_step("a", retry=policy)), runtime=runtime)
    assert waits == [86_400]


# ---- around runs


@construct("step cache")
def _(lane: Lane) -> None:
    tools = [a_tool("a", ok, cacheable=True)]
    with lane.executor(tools=tools, flows=[fan(tools)], step_cache=InMemoryStepCache()) as executor:
        assert [lane.run(executor, "flow", {}).step("a").cached for _ in range(2)] == [False, True]


@construct("checkpoints and resume")
def _(lane: Lane) -> None:
    calls = []

    def flaky(given: Any) -> dict[str, int]:
        calls.append(1)
        return fails(given) if len(calls) == 1 else ok(given)

    tools = [a_tool("a", ok), a_tool("b", flaky)]
    with lane.executor(tools=tools, flows=[chain(tools)], checkpointer=InMemoryCheckpointer()) as executor:
        failed = lane.run(executor, "flow", {"n": 1})
        assert not failed.success
        assert resumed(lane, executor, failed.trace_id).final_output == {"n": 1, "a": 2, "b": 2}


def resumed(lane: Lane, executor: FlowExecutor, trace_id: str) -> ExecutionResult:
    if lane.backend is None:
        return executor.resume_flow(trace_id)

    async def call() -> ExecutionResult:
        return await executor.resume_flow_async(trace_id)

    result: ExecutionResult = lane.backend(call)
    return result


@construct("middleware")
def _(lane: Lane) -> None:
    class Count:
        count = 0

        def on_step_end(self, context: Any) -> None:
            self.count += 1

    counting = Count()
    ran(lane, [a_tool("a", ok)], middleware=[counting])
    assert counting.count == 1


@construct("event stream")
def _(lane: Lane) -> None:
    tools = [a_tool("a", ok)]
    with lane.executor(tools=tools, flows=[fan(tools)]) as executor:
        kinds = list(_kinds(lane, executor))
    assert kinds == ["flow_start", "step_start", "step_end", "flow_end"]


def _kinds(lane: Lane, executor: FlowExecutor) -> Iterator[str]:
    if lane.backend is None:
        yield from (event.kind for event in executor.stream_flow("flow", {"n": 1}))
        return

    async def call() -> list[str]:
        return [event.kind async for event in executor.stream_flow_async("flow", {"n": 1})]

    yield from lane.backend(call)


@construct("flow started by a tool")
def _(lane: Lane) -> None:
    inner = a_flow(a_step("b")).model_copy(update={"name": "inner"})
    tools = [a_tool("a", lambda given: {"out": merged(executor.execute_flow("inner", {}))["b"]}), a_tool("b", ok)]
    with lane.executor(tools=tools, flows=[fan(tools[:1]), inner]) as executor:
        assert lane.run(executor, "flow", {}).final_output == {"a": 1}


# ---- constructs that flows may hold and that no lane runs yet


@construct("branches")
def _(lane: Lane) -> None:
    tools = [a_tool("a", ok), a_tool("b", ok)]
    edge = ConditionalEdge(target_step_id="b", predicate="a > 1")
    ran(lane, tools, a_flow(a_step("a", branches=[edge]), a_step("b", "a")))


@construct("decisions")
def _(lane: Lane) -> None:
    ran(lane, [a_tool("a", ok)], a_flow(a_step("a", decision_candidates=["a"])))


@construct("approvals")
def _(lane: Lane) -> None:
    ran(lane, [a_tool("a", ok, safety=ToolSafetyContract(requires_approval=True))])


@construct("sub-flows")
def _(lane: Lane) -> None:
    ran(lane, [], a_flow(a_step("a", tool_name=None, flow_name="inner", output_mapping=None)))


@construct("maps")
def _(lane: Lane) -> None:
    ran(lane, [a_tool("a", ok)], a_flow(a_step("a", map_over="items", output_mapping=None)))


@construct("dry runs")
def _(lane: Lane) -> None:
    tools = [a_tool("a", ok)]
    with lane.executor(tools=tools, flows=[fan(tools)]) as executor:
        lane.run(executor, "flow", {}, dry_run=True)
