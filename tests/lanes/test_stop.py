"""Ending a run from outside, by token or by cancelling the task: at every moment, with a result and one `flow_end`."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from typing import Any

import anyio
import pytest
import trio
from pydantic import BaseModel, field_validator

from chainweaver import (
    BaseMiddleware,
    CancellationToken,
    ExecutionResult,
    FlowCancelledError,
    InMemoryCheckpointer,
    InMemoryStepCache,
    RetryPolicy,
    Tool,
)
from tests.lanes.kit import LIMIT_S, Number, a_flow, a_step, a_tool, chain, fan, wait_until
from tests.lanes.table import ASYNCIO, LANES, SYNC, TRIO, Lane, pause

lanes = pytest.mark.parametrize("lane", LANES, ids=repr)
limits = pytest.mark.parametrize("limit", [1, 4])


class Ends(BaseMiddleware):
    """Keeps what is told at the end of steps and runs."""

    def __init__(self) -> None:
        self.results: list[ExecutionResult] = []
        self.steps: list[tuple[str, str | None]] = []

    def on_step_start(self, context: Any) -> None:
        self.steps.append(("start", context.step_id))

    def on_step_end(self, context: Any) -> None:
        self.steps.append(("end", context.step_id))

    def on_flow_end(self, context: Any) -> None:
        self.results.append(context.result)


def cancelled(lane: Lane, executor: Any, token: CancellationToken, ends: Ends) -> ExecutionResult:
    """The result of a run that its token ends."""
    began = time.monotonic()
    with pytest.raises(FlowCancelledError) as caught:
        lane.run(executor, "flow", {}, cancel_token=token)
    assert time.monotonic() - began < LIMIT_S / 2
    error = caught.value
    assert (error.token_cancelled, error.deadline_exceeded) == (True, False)
    assert error.result.status == "cancelled"
    assert ends.results == [error.result], "exactly one flow_end, with the result that the error carries"
    assert token._listeners == {}, "the token forgets the run"
    result: ExecutionResult = error.result
    return result


@lanes
@limits
def test_a_token_cancelled_before_the_run_starts_no_tool(lane: Lane, limit: int) -> None:
    """R17, R23: the run begins and ends, and no tool was called."""

    def never(given: Any) -> dict[str, int]:
        raise AssertionError("nothing starts")

    tools, ends, token = [a_tool(f"t{at}", never) for at in range(3)], Ends(), CancellationToken()
    token.cancel()
    with lane.executor(tools=tools, flows=[fan(tools)], middleware=[ends], max_step_concurrency=limit) as executor:
        result = cancelled(lane, executor, token, ends)
    assert result.partial_output == {}


@lanes
@limits
@pytest.mark.parametrize("kind", ["inline", "thread", "async"])
def test_a_token_cancelled_inside_a_step_lets_no_other_begin(lane: Lane, limit: int, kind: str) -> None:
    """R23: the step that does so keeps its result, unless it was left behind in a thread; a chain does not run on."""
    token, calls = CancellationToken(), []

    def act(given: Any) -> dict[str, int]:
        calls.append(1)
        if len(calls) == 2:
            token.cancel()
        return {"out": len(calls)}

    async def act_async(given: Any) -> dict[str, int]:
        return act(given)

    options: dict[str, Any] = {"fn": act_async} if kind == "async" else {"fn": act, "lane": kind}
    tools = [a_tool(f"t{at}", **options) for at in range(5)]
    ends = Ends()
    with lane.executor(tools=tools, flows=[chain(tools)], middleware=[ends], max_step_concurrency=limit) as executor:
        result = cancelled(lane, executor, token, ends)
    assert len(calls) == 2
    assert result.step("t0").status == "ok"
    assert result.step("t1").status in (("ok", "cancelled") if kind == "thread" else ("ok",))
    assert result.partial_output == ({"t0": 1, "t1": 2} if result.step("t1").success else {"t0": 1})


@lanes
@limits
@pytest.mark.parametrize("waits", ["tool", "back-off", "cache"])
def test_a_token_ends_what_waits(lane: Lane, limit: int, waits: str) -> None:
    """R23: an async tool, a back-off and the wait for another run end when the token is cancelled."""
    token, ends, entered, release = CancellationToken(), Ends(), threading.Event(), threading.Event()

    async def stay(given: Any) -> dict[str, int]:
        entered.set()
        await pause(LIMIT_S)
        return {}

    def busy(given: Any) -> dict[str, int]:
        entered.set()
        raise OSError("busy")

    def lead(given: Any) -> dict[str, int]:
        entered.set()
        release.wait(LIMIT_S)
        return {}

    fn = {"tool": stay, "back-off": busy, "cache": lead}[waits]
    made = a_tool("t", fn, cacheable=waits == "cache")
    flow = a_flow(a_step("t", retry=RetryPolicy(max_retries=3, backoff_seconds=LIMIT_S)))
    with lane.executor(
        tools=[made], flows=[flow], step_cache=InMemoryStepCache(), max_step_concurrency=limit
    ) as executor:
        leader = threading.Thread(target=executor.execute_flow, args=("flow", {}))
        if waits == "cache":
            leader.start()
            entered.wait(LIMIT_S)
        executor.add_middleware(ends)

        def cancel_soon() -> None:
            entered.wait(LIMIT_S)
            time.sleep(0.02)
            token.cancel()

        threading.Thread(target=cancel_soon).start()
        result = cancelled(lane, executor, token, ends)
        release.set()
        if waits == "cache":
            leader.join(LIMIT_S)
    assert result.step("t").status == "cancelled"
    assert ends.steps == [("start", "t"), ("end", "t")]


@limits
def test_a_token_touches_nothing_of_a_loop_from_another_thread(limit: int) -> None:
    """R23: the loop gets a note; in debug mode asyncio refuses anything else from outside its thread."""
    token, entered, raised = CancellationToken(), threading.Event(), []

    async def stay(given: Any) -> dict[str, int]:
        entered.set()
        await pause(LIMIT_S)
        return {}

    def cancel() -> None:
        entered.wait(LIMIT_S)
        try:
            token.cancel()
        except RuntimeError as error:
            raised.append(error)

    tools = [a_tool(f"t{at}", stay) for at in range(2)]
    with ASYNCIO.executor(tools=tools, flows=[fan(tools)], max_step_concurrency=limit) as executor:
        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(FlowCancelledError):
            asyncio.run(executor.execute_flow_async("flow", {}, cancel_token=token), debug=True)
        thread.join(LIMIT_S)
    assert raised == []


@lanes
def test_a_token_cancelled_after_the_last_step_changes_nothing(lane: Lane) -> None:
    """R23: a run that is over stays what it was, and the token holds nothing of it."""
    token, made = CancellationToken(), a_tool("t", lambda given: {"out": 1})
    with lane.executor(tools=[made], flows=[fan([made])], max_step_concurrency=2) as executor:
        result = lane.run(executor, "flow", {}, cancel_token=token)
        token.cancel()
    assert (result.status, result.final_output) == ("ok", {"t": 1})
    assert token._listeners == {}


@lanes
@limits
def test_a_cancelled_run_can_be_resumed(lane: Lane, limit: int) -> None:
    """R23, R32: what was done before the token was cancelled is saved and not done again."""
    token, calls = CancellationToken(), []

    def act(given: Any) -> dict[str, int]:
        calls.append(1)
        token.cancel()
        return {"out": 1}

    tools = [a_tool(f"t{at}", act, lane="inline") for at in range(2)]
    with lane.executor(
        tools=tools, flows=[chain(tools)], checkpointer=InMemoryCheckpointer(), max_step_concurrency=limit
    ) as executor:
        with pytest.raises(FlowCancelledError) as caught:
            lane.run(executor, "flow", {}, cancel_token=token)
        assert executor.resume_flow(caught.value.result.trace_id).final_output == {"t0": 1, "t1": 1}
    assert len(calls) == 2


# ---- task cancellation


def run_and_cancel(lane: Lane, executor: Any, how: str, entered: threading.Event) -> str:
    """Cancel the task that runs the flow while a tool waits; what the caller saw."""

    async def wait_entered() -> None:
        while not entered.is_set():
            await pause(0.001)
        await pause(0.005)

    async def with_task() -> str:
        task = asyncio.ensure_future(executor.execute_flow_async("flow", {}))
        await wait_entered()
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "cancelled"
        return "went on"

    async def with_scope() -> str:
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:

                async def cancel() -> None:
                    await wait_entered()
                    scope.cancel()

                group.start_soon(cancel)
                await executor.execute_flow_async("flow", {})
        return "cancelled" if scope.cancelled_caught else "went on"

    async def with_timeout() -> str:
        with trio.move_on_after(0.05) as scope:
            await executor.execute_flow_async("flow", {})
        return "cancelled" if scope.cancelled_caught else "went on"

    assert lane.backend is not None
    seen: str = lane.backend({"task": with_task, "scope": with_scope, "timeout": with_timeout}[how])
    return seen


@pytest.mark.parametrize(
    ("lane", "how"), [(ASYNCIO, "task"), (ASYNCIO, "scope"), (TRIO, "scope"), (TRIO, "timeout")], ids=repr
)
@limits
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("kind", ["sync", "async", "back-off"])
def test_cancelling_the_task_ends_the_run_and_then_the_caller(
    lane: Lane, how: str, limit: int, width: int, kind: str
) -> None:
    """R17, R23: the run ends first, with one `flow_end`, and the cancellation goes on to whoever asked for it."""
    entered, release, ends = threading.Event(), threading.Event(), Ends()

    async def stay_async(given: Any) -> dict[str, int]:
        entered.set()
        await pause(LIMIT_S)
        return {}

    def stay(given: Any) -> dict[str, int]:
        entered.set()
        release.wait(LIMIT_S)
        return {}

    def busy(given: Any) -> dict[str, int]:
        entered.set()
        raise OSError("busy")

    fn = {"sync": stay, "async": stay_async, "back-off": busy}[kind]
    tools = [a_tool("before", lambda given: {"out": 1}), *(a_tool(f"t{at}", fn) for at in range(width))]
    policy = RetryPolicy(max_retries=1, backoff_seconds=LIMIT_S)
    flow = a_flow(a_step("before"), *(a_step(one.name, "before", retry=policy) for one in tools[1:]))
    began = time.monotonic()
    with lane.executor(tools=tools, flows=[flow], middleware=[ends], max_step_concurrency=limit) as executor:
        assert run_and_cancel(lane, executor, how, entered) == "cancelled"
        release.set()
    assert time.monotonic() - began < LIMIT_S / 2
    [result] = ends.results
    assert result.status == "cancelled"
    assert result.step("before").status == "ok"
    assert result.step("t0").status == "cancelled"


@limits
def test_a_cancelled_task_leaves_siblings_of_other_runs_alone(limit: int) -> None:
    """R23: cancelling one of many runs of one executor ends that run only."""

    async def nap(given: Any) -> dict[str, int]:
        await pause(0.03)
        return {"out": given.n}

    tools = [a_tool(f"t{at}", nap) for at in range(2)]

    async def main(executor: Any) -> list[Any]:
        tasks = [asyncio.ensure_future(executor.execute_flow_async("flow", {"n": n})) for n in range(6)]
        await asyncio.sleep(0.01)
        for task in tasks[::2]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    with ASYNCIO.executor(tools=tools, flows=[fan(tools)], max_step_concurrency=limit) as executor:
        found = asyncio.run(main(executor))
    assert all(isinstance(one, asyncio.CancelledError) for one in found[::2])
    assert [one.final_output for one in found[1::2]] == [{"n": n, "t0": n, "t1": n} for n in (1, 3, 5)]


# ---- exceptions for the caller


class Halt(BaseException):
    """As foreign as an exception can be."""


def raising(kind: str, error: BaseException) -> Tool:
    def halt(given: Any) -> dict[str, int]:
        raise error

    async def halt_async(given: Any) -> dict[str, int]:
        raise error

    every: dict[str, dict[str, Any]] = {"limited": {"timeout_seconds": 5}, "thread": {"lane": "thread"}}
    options = every.get(kind, {})
    return a_tool("halt", halt_async if kind == "async" else halt, **options)


@lanes
@limits
@pytest.mark.parametrize("kind", ["plain", "limited", "thread", "async"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), Halt()], ids=lambda error: type(error).__name__)
def test_what_is_meant_for_the_caller_ends_the_run_and_reaches_the_caller(
    lane: Lane, limit: int, kind: str, error: BaseException
) -> None:
    """R17: KeyboardInterrupt, SystemExit and their like leave the call, after the run was ended for them."""
    ends = Ends()
    tools = [a_tool("before", lambda given: {"out": 1}), raising(kind, error), a_tool("after", lambda given: {})]
    with lane.executor(tools=tools, flows=[chain(tools)], middleware=[ends], max_step_concurrency=limit) as executor:
        with pytest.raises(type(error)):
            lane.run(executor, "flow", {})
    [result] = ends.results
    assert [(record.step_id, record.status) for record in result.execution_log] == [
        ("before", "ok"),
        ("halt", "cancelled"),
    ]


def test_an_interrupt_in_a_worker_thread_does_not_wait_for_the_others() -> None:
    """R17: above limit 1 tools that cannot be stopped are left behind."""
    release, ends = threading.Event(), Ends()

    def stay(given: Any) -> dict[str, int]:
        release.wait(LIMIT_S)
        return {}

    def halt(given: Any) -> dict[str, int]:
        raise KeyboardInterrupt

    tools = [a_tool("inline", lambda given: {}, lane="inline"), a_tool("stay", stay), a_tool("halt", halt)]
    with SYNC.executor(tools=tools, flows=[fan(tools)], middleware=[ends], max_step_concurrency=4) as executor:
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            executor.execute_flow("flow", {})
        assert time.monotonic() - began < LIMIT_S / 2
        before = ends.results[0].model_dump_json()
        release.set()
    assert ends.results[0].model_dump_json() == before
    assert {record.step_id: record.status for record in ends.results[0].execution_log}["stay"] == "cancelled"


@pytest.mark.parametrize("how", ["raised", "signal"])
def test_an_interrupt_ends_the_waits_of_the_other_threads(how: str) -> None:
    """R17, R40: a thread that waits out a back-off for a run that was interrupted goes home at once."""
    before, waiting, home = set(threading.enumerate()), threading.Event(), threading.get_ident()

    def busy(given: Any) -> dict[str, int]:
        waiting.set()
        raise OSError("busy")

    def halt(given: Any) -> dict[str, int]:
        waiting.wait(LIMIT_S)
        time.sleep(0.05)
        if how == "raised":
            raise KeyboardInterrupt
        signal.pthread_kill(home, signal.SIGINT)
        return {}

    tools = [a_tool("halt", halt), a_tool("busy", busy), a_tool("inline", lambda given: {}, lane="inline")]
    policy = RetryPolicy(max_retries=1, backoff_seconds=1000)
    flow = a_flow(a_step("halt"), a_step("busy", retry=policy), a_step("inline"))
    executor = SYNC.executor(tools=tools, flows=[flow], max_step_concurrency=3)
    with pytest.raises(KeyboardInterrupt):
        executor.execute_flow("flow", {})
    executor.close()
    wait_until(lambda: not any(one.name.startswith("chainweaver") for one in set(threading.enumerate()) - before))


def test_a_late_reply_is_not_taken_for_the_reply_to_something_else() -> None:
    """R17: a tool that ends while the run it was given up by is still told of its steps changes nothing."""
    release, has_ended = threading.Event(), threading.Event()

    class Slow(BaseMiddleware):
        records: list[Any] = []

        def on_step_end(self, context: Any) -> None:
            self.records.append((context.step_id, context.step_record.status, context.step_record.outputs))
            if context.step_id == "stay":
                release.set()
                has_ended.wait(LIMIT_S)
                time.sleep(0.05)

    def stay(given: Any) -> dict[str, int]:
        release.wait(LIMIT_S)
        has_ended.set()
        return {"out": 7}

    tools = [raising("plain", KeyboardInterrupt()), a_tool("stay", stay)]
    flow = a_flow(a_step("halt"), a_step("stay"))
    slow = Slow()
    with (
        SYNC.executor(tools=tools, flows=[flow], middleware=[slow], max_step_concurrency=2) as executor,
        pytest.raises(KeyboardInterrupt),
    ):
        executor.execute_flow("flow", {})
    assert sorted(slow.records) == [("halt", "cancelled", None), ("stay", "cancelled", None)]


class Refusing(BaseModel):
    """An output that interrupts whoever validates it: an interrupt may hit any line, also one of the run core."""

    out: int

    @field_validator("out")
    @classmethod
    def _halt(cls, value: int) -> int:
        raise Halt


@lanes
@limits
def test_an_interrupt_between_two_commands_ends_the_run_too(lane: Lane, limit: int) -> None:
    """R17, R30: it is no success, it leaves the call as it is, and a lead that the run held is handed over."""
    ends, tools = Ends(), [a_tool("a", lambda given: {"out": 1}, cacheable=True)]
    tools.append(
        Tool(
            name="b", description="b", input_schema=Number, output_schema=Refusing, fn=lambda given: {"out": 1},
            cacheable=True,
        )
    )  # fmt: skip
    flow = a_flow(a_step("a"), a_step("b", "a"))
    with lane.executor(
        tools=tools, flows=[flow], middleware=[ends], step_cache=InMemoryStepCache(), max_step_concurrency=limit
    ) as executor:
        with pytest.raises(Halt):
            lane.run(executor, "flow", {})
        assert executor._bound is not None
        assert executor._bound.cache is not None
        assert len(executor._bound.cache.flights) == 0
    assert [result.status for result in ends.results] == ["cancelled"]


def test_an_interrupt_in_a_worker_thread_between_two_commands_reaches_the_caller() -> None:
    """R17: the calling thread does not wait for a step that no thread carries any more."""
    refusing = Tool(name="b", description="b", input_schema=Number, output_schema=Refusing, fn=lambda given: {"out": 1})
    tools = [a_tool("a", lambda given: {}, lane="inline"), refusing]
    with SYNC.executor(tools=tools, flows=[fan(tools)], max_step_concurrency=2) as executor:
        with pytest.raises(Halt):
            executor.execute_flow("flow", {})
