"""What a flow may be made of, one small run per construct: the rows of the table in docs/lanes.md.

A row that does not do what it should is an AssertionError.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import BaseModel

from chainweaver import (
    CancellationToken,
    Chunk,
    ConditionalEdge,
    ContextKeyCollisionError,
    ExecutionResult,
    FlowCancelledError,
    FlowExecutor,
    FlowStep,
    InMemoryCheckpointer,
    InMemoryStepCache,
    RetryPolicy,
    SideEffectLevel,
    Tool,
    ToolSafetyContract,
)
from chainweaver.flow import Flow
from chainweaver.observe.around import Proceed, Sleep
from tests.lanes import crew
from tests.lanes.kit import Gauge, Out, a_flow, a_step, a_tool, chain, does, fan, merged, wait_until
from tests.lanes.table import LANES, Lane, borrowed_workers, pause

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


@construct('tool with `lane="process"`')
def _(lane: Lane) -> None:
    flow = Flow(name="flow", description="d", steps=[FlowStep(tool_name="elsewhere")])
    executor = lane.executor(tools=[crew.elsewhere], flows=[flow])
    with executor, borrowed_workers(executor) as workers:
        output = lane.run(executor, "flow", {"n": 1}).final_output
        assert output is not None
        assert output["elsewhere"] in workers.pids


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


# ---- what a flow may hold beside tools


@construct("branches")
def _(lane: Lane) -> None:
    tools = [a_tool(name, ok) for name in ("a", "b", "c")]
    edge = ConditionalEdge(target_step_id="c", predicate="a > 1")
    result = ran(lane, tools, a_flow(a_step("a", branches=[edge]), a_step("b", "a"), a_step("c", "a")))
    assert [record.status for record in result.execution_log] == ["ok", "skipped", "ok"]
    assert result.step("a").decision == {"taken": "c"}


@construct("decisions")
def _(lane: Lane) -> None:
    tools = [a_tool("a", fails), a_tool("b", ok)]
    flow = a_flow(a_step("a", decision_candidates=["a", "b"]))
    assert ran(lane, tools, flow, decision_callback=lambda context: "b").final_output == {"n": 1, "a": 2}


@construct("approvals")
def _(lane: Lane) -> None:
    async def agree(context: Any) -> bool:
        await pause(0)
        return True

    tools = [a_tool("a", ok, safety=ToolSafetyContract(requires_approval=True))]
    for callback in (lambda context: True, agree):
        approval = ran(lane, tools, approval_callback=callback).step("a").approval
        assert approval is not None
        assert approval["approved"] is True


@construct("guardrails")
def _(lane: Lane) -> None:
    seen = []

    def check(context: Any) -> str | None:
        seen.append((context.stage, dict(context.values)))
        return "too large" if context.values.get("out") == 2 else None

    assert ran(lane, [a_tool("a", ok)], guardrail_callback=check).step("a").error_type == "GuardrailViolationError"
    assert seen == [("input", {"n": 1}), ("output", {"out": 2})]


@construct("side-effect ceiling")
def _(lane: Lane) -> None:
    tools = [a_tool("a", fails, safety=ToolSafetyContract(side_effects=SideEffectLevel.WRITE))]
    result = ran(lane, tools, max_side_effect_level="read")
    assert result.step("a").error_type == "SafetyCeilingError"


@construct("capabilities")
def _(lane: Lane) -> None:
    async def run_capability(context: Any) -> dict[str, Any]:
        await pause(0)
        return {"who": context.capability_id}

    flow = a_flow(a_step("a", tool_name=None, step_type="capability", capability_id="people", output_mapping=None))
    assert ran(lane, [], flow, capability_hook=run_capability).final_output == {"n": 1, "who": "people"}


def nested(lane: Lane, tools: list[Tool], *steps: Any, given: Any = None, **options: Any) -> ExecutionResult:
    """A run of these steps, which may run the flow `inner` with a step per tool."""
    inner = fan(tools).model_copy(update={"name": "inner"})
    with lane.executor(tools=tools, flows=[a_flow(*steps), inner], **options) as executor:
        return lane.run(executor, "flow", given or {"n": 1})


@construct("sub-flows")
def _(lane: Lane) -> None:
    step = a_step("sub", tool_name=None, flow_name="inner", output_mapping={"got": "b"})
    result = nested(lane, [a_tool("a", ok), a_tool("b", ok_async)], step)
    assert result.final_output == {"n": 1, "got": 2}
    inside = result.step("sub").sub_result
    assert inside is not None
    assert [record.step_id for record in inside.execution_log] == ["a", "b"]
    assert inside.parent_trace_id == result.trace_id


@construct("maps")
def _(lane: Lane) -> None:
    flow = a_flow(a_step("a", map_over="items", map_as="n"))
    tools = [a_tool("a", ok_async)]
    with lane.executor(tools=tools, flows=[flow]) as executor:
        assert merged(lane.run(executor, "flow", {"items": [1, 2, 3]}))["a"] == [2, 3, 4]


@construct("maps over sub-flows, with a limit of their own")
def _(lane: Lane) -> None:
    gauge = Gauge()

    def meet(given: Any) -> dict[str, int]:
        with gauge.inside():
            wait_until(lambda: gauge.peak == 2)
        return ok(given)

    each = {"map_over": "items", "map_as": "n", "map_concurrency": 2}
    step = a_step("each", tool_name=None, flow_name="inner", output_mapping={"got": "a"}, **each)
    assert merged(nested(lane, [a_tool("a", meet)], step, given={"items": [1, 2]}))["got"] == [2, 3]


@construct("steps that take an input in chunks")
def _(lane: Lane) -> None:
    chunk = Chunk(input="n", rows=2, combine="largest")
    tools = [
        Tool(name="a", description="a", input_schema=Items, output_schema=Out, fn=lambda given: {"out": sum(given.n)}),
        Tool(name="largest", description="l", input_schema=Outs, output_schema=Out,
             fn=lambda given: {"out": max(given.out)}),
    ]  # fmt: skip
    with lane.executor(tools=tools, flows=[a_flow(a_step("a", chunk=chunk))], max_step_concurrency=2) as executor:
        assert merged(lane.run(executor, "flow", {"n": [1, 2, 9, 1, 3]}))["a"] == 10


class Items(BaseModel):
    n: list[int]


class Outs(BaseModel):
    out: list[int]


@construct("dry runs")
def _(lane: Lane) -> None:
    tools = [a_tool("a", fails, dry_run_fn=lambda given: {"out": 7}), a_tool("b", fails)]
    with lane.executor(tools=tools, flows=[fan(tools)]) as executor:
        result = lane.run(executor, "flow", {"n": 1}, dry_run=True)
    assert [record.status for record in result.execution_log] == ["ok", "skipped"]
    assert result.final_output == {"n": 1, "a": 7}


@construct("middleware that wraps")
def _(lane: Lane) -> None:
    seen = []

    class Around:
        def around_step(self, context: Any) -> Any:
            yield Sleep(0.001)
            outcome = yield Proceed()
            seen.append(outcome.status)

    ran(lane, [a_tool("a", ok)], middleware=[Around()])
    assert seen == ["ok"]


@construct("replay")
def _(lane: Lane) -> None:
    tools = [a_tool("a", ok)]
    with lane.executor(tools=tools, flows=[fan(tools)]) as executor:
        result = lane.run(executor, "flow", {"n": 1})
        assert replayed(lane, executor, result).all_steps_match


def replayed(lane: Lane, executor: FlowExecutor, result: ExecutionResult) -> Any:
    if lane.backend is None:
        return executor.replay_flow(result)

    async def call() -> Any:
        return await executor.replay_flow_async(result)

    return lane.backend(call)
