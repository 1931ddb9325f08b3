"""Streams: the events of a run in order, a run that waits for its reader, and an end that leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from chainweaver import (
    CancellationToken,
    ContextKeyCollisionError,
    DAGFlowStep,
    FlowCancelledError,
    FlowEvent,
    FlowExecutor,
    FlowNotFoundError,
    FlowStep,
    InMemoryCheckpointer,
    tool,
)
from chainweaver.sql import open_store
from tests.executor.kit import Calls, chain, dag, linear
from tests.lanes.kit import LIMIT_S, wait_until

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


def on_asyncio(work: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await work()

    return asyncio.run(main())


def on_trio(work: Callable[[], Awaitable[Any]]) -> Any:
    return trio.run(work)


BACKENDS = {"asyncio": on_asyncio, "trio": on_trio}
backends = pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)


class Reader:
    """Reads streams on one lane, always from plain test functions.

    Attributes:
        error: What the stream raised.
    """

    def __init__(self, backend: Any = None) -> None:
        self.backend = backend
        self.error: BaseException | None = None

    def read(self, executor: FlowExecutor, given: dict[str, Any], **options: Any) -> list[FlowEvent]:
        """All events."""
        seen: list[FlowEvent] = []

        async def work() -> None:
            async for event in executor.stream_flow_async("flow", given, **options):
                seen.append(event)

        try:
            if self.backend is not None:
                self.backend(work)
            else:
                for event in executor.stream_flow("flow", given, **options):
                    seen.append(event)
        except Exception as exc:
            self.error = exc
        return seen


READERS = {"sync": None, **BACKENDS}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> Reader:
    """One reader of each lane."""
    return Reader(READERS[request.param])


def told(events: list[FlowEvent]) -> list[tuple[str, int | None]]:
    return [(event.kind, event.step_index) for event in events]


def test_events_come_in_the_order_in_which_things_happen(reader: Reader):
    """R38: flow_start, then start and end of each step, then flow_end with the result."""
    calls = Calls()
    with FlowExecutor(tools=[calls.tool(x) for x in "ab"], flows=[chain(*"ab")]) as executor:
        events = reader.read(executor, {"n": 1})
    assert reader.error is None
    assert told(events) == [
        ("flow_start", None),
        ("step_start", 0),
        ("step_end", 0),
        ("step_start", 1),
        ("step_end", 1),
        ("flow_end", None),
    ]
    result = events[-1].result
    assert result is not None
    assert result.final_output == {"n": 1, "a_out": 2, "b_out": 3}
    assert {event.trace_id for event in events} == {result.trace_id}
    records = [event.record for event in events if event.record is not None]
    assert [record.outputs for record in records] == [{"out": 2}, {"out": 3}]
    assert [event.timestamp for event in events] == sorted(event.timestamp for event in events)


def test_steps_side_by_side_are_told_of_one_at_a_time(reader: Reader):
    """R38: every step has its start before its end, whatever the others do."""
    calls = Calls()
    steps = [DAGFlowStep(step_id=x, tool_name=x, output_mapping={x: "out"}) for x in "abcdefgh"]
    with FlowExecutor(
        tools=[calls.tool(x) for x in "abcdefgh"], flows=[dag(*steps)], max_step_concurrency=4
    ) as executor:
        events = reader.read(executor, {"n": 1})
    kinds = told(events)
    assert sorted(kinds[1:-1], key=repr) == sorted(
        [(kind, at) for at in range(8) for kind in ("step_start", "step_end")], key=repr
    )
    for at in range(8):
        assert kinds.index(("step_start", at)) < kinds.index(("step_end", at))


def test_what_execute_flow_raises_comes_after_the_last_event(reader: Reader):
    """R17: the stream tells how the run ended, and then raises."""
    token = CancellationToken()
    calls = Calls()

    def stop(given: Any) -> dict[str, int]:
        token.cancel()
        return {"out": 1}

    with FlowExecutor(tools=[calls.tool("a", stop), calls.tool("b")], flows=[chain(*"ab")]) as executor:
        events = reader.read(executor, {"n": 1}, cancel_token=token)
    assert isinstance(reader.error, FlowCancelledError)
    assert reader.error.token_cancelled
    assert events[-1].kind == "flow_end"
    assert events[-1].result is not None
    assert events[-1].result.status == "cancelled"
    assert dict(calls.counts) == {"a": 1}


def test_a_collision_is_raised_by_the_stream(reader: Reader):
    """R12: under the policy "error", after flow_end."""
    flow = linear(FlowStep(tool_name="a"), FlowStep(tool_name="a"), on_context_collision="error")
    with FlowExecutor(tools=[Calls().tool("a")], flows=[flow]) as executor:
        events = reader.read(executor, {"n": 1})
    assert isinstance(reader.error, ContextKeyCollisionError)
    assert events[-1].kind == "flow_end"


def test_a_failed_run_is_told_and_not_raised(reader: Reader):
    """R16: failures are results, in a stream as well."""
    flow = chain("a")
    with FlowExecutor(tools=[Calls().tool("a", lambda given: 1 / 0)], flows=[flow]) as executor:
        events = reader.read(executor, {"n": 1})
    assert reader.error is None
    assert events[-1].result is not None
    assert events[-1].result.status == "failed"


def test_what_cannot_start_is_raised_by_the_call_itself():
    """R15: the mistake is shown where it was made, not where the stream is read."""
    executor = FlowExecutor(tools=[Calls().tool("a")], flows=[chain("a")])
    for stream in (executor.stream_flow, executor.stream_flow_async):
        with pytest.raises(FlowNotFoundError):
            stream("other", {})
        with pytest.raises(TypeError, match="mapping of context keys"):
            stream("flow", [1])  # type: ignore[arg-type]  # the mistake under test


def test_a_stream_that_nobody_reads_starts_nothing():
    """R38: the run begins with the first event that is asked for."""
    calls = Calls()
    executor = FlowExecutor(tools=[calls.tool("a")], flows=[chain("a")])
    stream = executor.stream_flow("flow", {"n": 1})
    del stream
    assert dict(calls.counts) == {}


def long_flow(calls: Calls, steps: int = 400) -> dict[str, Any]:
    made = calls.tool("a")
    return {"tools": [made], "flows": [linear(*[FlowStep(tool_name="a")] * steps, on_context_collision="overwrite")]}


def test_the_run_waits_for_a_slow_reader():
    """R38: what is ahead of the reader is bounded, however long the flow is."""
    calls = Calls()
    with FlowExecutor(**long_flow(calls)) as executor:
        stream = executor.stream_flow("flow", {"n": 1})
        next(stream)
        wait_until(lambda: calls.counts["a"] > 20)
        before = -1
        while before != calls.counts["a"]:
            before = calls.counts["a"]
            time.sleep(0.06)
        assert before < 100
        assert sum(1 for _ in stream) == 2 * 400 + 1
    assert calls.counts["a"] == 400


@backends
def test_the_run_waits_for_a_slow_reader_on_the_async_lane(backend: Any):
    """R38: likewise in a loop."""
    calls = Calls()

    async def work() -> int:
        stream = executor.stream_flow_async("flow", {"n": 1})
        await anext_(stream)
        before = -1
        while before != calls.counts["a"]:
            before = calls.counts["a"]
            await anyio.sleep(0.03)
        assert 20 < before < 100
        count = 0
        async for _ in stream:
            count += 1
        return count

    with FlowExecutor(**long_flow(calls), lane="inline") as executor:
        assert backend(work) == 2 * 400 + 1


async def anext_(stream: Any) -> Any:
    return await stream.__anext__()


def ours() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name.startswith("chainweaver")}


class Ended:
    """A middleware that notes how runs end."""

    def __init__(self) -> None:
        self.statuses: list[str] = []

    def on_flow_end(self, context: Any) -> None:
        self.statuses.append(context.result.status)


@pytest.mark.parametrize("how", ["close", "del", "break", "error"])
def test_a_stream_that_is_given_up_ends_its_run(how: str):
    """R23: within 100 ms, and no thread is left after close()."""
    calls, ended, before = Calls(), Ended(), ours()
    with FlowExecutor(**long_flow(calls), middleware=[ended]) as executor:

        def read() -> None:
            stream = executor.stream_flow("flow", {"n": 1})
            for event in stream:
                if event.step_index == 3:
                    break
            if how == "close":
                stream.close()  # type: ignore[attr-defined]  # it is a generator
            elif how == "error":
                stream.throw(KeyError("reader"))  # type: ignore[attr-defined]  # it is a generator

        if how == "error":
            with pytest.raises(KeyError):
                read()
        else:
            read()
        gc.collect()
        began = time.monotonic()
        wait_until(lambda: bool(ended.statuses))
        assert time.monotonic() - began < 0.1 * 5  # 100 ms on a machine that has nothing else to do
        assert ended.statuses == ["cancelled"]
        assert calls.counts["a"] < 100
    wait_until(lambda: ours() <= before)


@backends
@pytest.mark.parametrize("how", ["aclose", "del", "cancel"])
def test_an_async_stream_that_is_given_up_ends_its_run(backend: Any, how: str):
    """R23: closed, forgotten or cancelled, the run ends and the loop has nothing left to do."""
    calls, ended = Calls(), Ended()

    async def read(stream: Any) -> None:
        async for event in stream:
            if event.step_index == 3:
                if how == "cancel":
                    # Outside of the stream: nothing closes it but its own finalizer.
                    await anyio.sleep(LIMIT_S)
                return

    async def work() -> None:
        stream = executor.stream_flow_async("flow", {"n": 1})
        if how == "cancel":
            with anyio.move_on_after(0.05):
                await read(stream)
        else:
            await read(stream)
        if how == "aclose":
            await stream.aclose()  # type: ignore[attr-defined]  # it is a generator
        del stream
        gc.collect()
        with anyio.fail_after(LIMIT_S):
            while not ended.statuses:
                await anyio.sleep(0.001)

    with FlowExecutor(**long_flow(calls), middleware=[ended], lane="inline") as executor:
        backend(work)
    assert ended.statuses == ["cancelled"]
    assert calls.counts["a"] < 100


@backends
def test_a_reader_that_is_cancelled_while_it_waits_ends_its_run(backend: Any):
    """R23: the tool that everybody waits for is cancelled as well, and no task is left."""
    ended, ends = Ended(), []

    @tool
    async def wait(n: int) -> int:
        try:
            await anyio.sleep(LIMIT_S)
        except BaseException as exc:
            ends.append(type(exc).__name__)
            raise
        return n

    async def work() -> None:
        with anyio.move_on_after(0.05):
            async for _ in executor.stream_flow_async("flow", {"n": 1}):
                pass
        with anyio.fail_after(LIMIT_S):
            while not ended.statuses:
                await anyio.sleep(0.001)
            if backend is on_asyncio:
                while len(asyncio.all_tasks()) > 1:
                    await anyio.sleep(0.001)

    flow = linear(FlowStep(tool_name="wait"))
    with FlowExecutor(tools=[wait], flows=[flow], middleware=[ended]) as executor:
        began = time.monotonic()
        backend(work)
        assert time.monotonic() - began < LIMIT_S / 2
    assert (ended.statuses, len(ends)) == (["cancelled"], 1)


@backends
def test_a_loop_that_ends_in_the_middle_of_a_stream_ends_the_run(backend: Any):
    """R23: nobody is left to read."""
    calls, ended = Calls(), Ended()

    async def work() -> None:
        async for event in executor.stream_flow_async("flow", {"n": 1}):
            if event.step_index == 3:
                break

    with FlowExecutor(**long_flow(calls), middleware=[ended], lane="inline") as executor:
        backend(work)
    assert ended.statuses == ["cancelled"]


def test_a_token_ends_a_run_whose_reader_has_stopped_reading():
    """R23: cancelling does not have to wait until somebody reads on."""
    calls, ended, token = Calls(), Ended(), CancellationToken()
    with FlowExecutor(**long_flow(calls), middleware=[ended]) as executor:
        stream = executor.stream_flow("flow", {"n": 1}, cancel_token=token)
        next(stream)
        wait_until(lambda: calls.counts["a"] > 20)
        time.sleep(0.1)
        token.cancel()
        wait_until(lambda: bool(ended.statuses))
        with pytest.raises(FlowCancelledError) as caught:
            list(stream)
    assert caught.value.token_cancelled
    assert ended.statuses == ["cancelled"]


@backends
def test_a_token_ends_a_run_whose_reader_has_stopped_reading_on_the_async_lane(backend: Any):
    """R23: from another thread too."""
    calls, ended, token = Calls(), Ended(), CancellationToken()

    async def work() -> None:
        stream = executor.stream_flow_async("flow", {"n": 1}, cancel_token=token)
        await anext_(stream)
        await anyio.sleep(0.1)
        threading.Thread(target=token.cancel).start()
        with anyio.fail_after(LIMIT_S):
            while not ended.statuses:
                await anyio.sleep(0.001)
        with pytest.raises(FlowCancelledError):
            async for _ in stream:
                pass

    with FlowExecutor(**long_flow(calls), middleware=[ended], lane="inline") as executor:
        backend(work)
    assert ended.statuses == ["cancelled"]


def test_a_deadline_ends_a_run_whose_reader_has_stopped_reading():
    """R22: time goes on while nobody reads."""
    calls, ended = Calls(), Ended()
    with FlowExecutor(**long_flow(calls), middleware=[ended]) as executor:
        stream = executor.stream_flow("flow", {"n": 1}, deadline=time.time() + 0.2)
        next(stream)
        wait_until(lambda: bool(ended.statuses))
        with pytest.raises(FlowCancelledError) as caught:
            list(stream)
    assert caught.value.deadline_exceeded


@backends
def test_a_deadline_ends_a_run_whose_reader_has_stopped_reading_on_the_async_lane(backend: Any):
    """R22: likewise in a loop."""
    calls, ended = Calls(), Ended()

    async def work() -> None:
        stream = executor.stream_flow_async("flow", {"n": 1}, deadline=time.time() + 0.2)
        await anext_(stream)
        with anyio.fail_after(LIMIT_S):
            while not ended.statuses:
                await anyio.sleep(0.01)
        with pytest.raises(FlowCancelledError):
            async for _ in stream:
                pass

    with FlowExecutor(**long_flow(calls), middleware=[ended], lane="inline") as executor:
        backend(work)


def test_a_stream_does_not_cancel_the_token_of_its_caller(reader: Reader):
    """R23: the caller's token may serve other runs, and forgets those that have ended."""
    token = CancellationToken()
    with FlowExecutor(tools=[Calls().tool("a")], flows=[chain("a")]) as executor:
        assert reader.read(executor, {"n": 1}, cancel_token=token)[-1].kind == "flow_end"
        assert not token.is_cancelled
        assert token._listeners == {}


def test_tools_of_a_stream_see_the_variables_of_the_caller(reader: Reader):
    """R5: the run is carried by somebody else, with the caller's context."""

    @tool
    def whoami(n: int) -> str:
        return WHO.get()

    mark = WHO.set("ada")
    try:
        with FlowExecutor(tools=[whoami], flows=[linear(FlowStep(tool_name="whoami"))]) as executor:
            events = reader.read(executor, {"n": 1})
    finally:
        WHO.reset(mark)
    assert events[-1].result is not None
    assert events[-1].result.final_output == {"n": 1, "whoami": "ada"}


def test_other_listeners_hear_of_a_streamed_run(reader: Reader):
    """R38: a stream is one listener more."""
    ended = Ended()
    with FlowExecutor(tools=[Calls().tool("a")], flows=[chain("a")], middleware=[ended]) as executor:
        reader.read(executor, {"n": 1})
        assert ended.statuses == ["ok"]


def test_a_streamed_run_that_was_given_up_can_be_resumed():
    """R33: as any run that was cancelled."""
    calls, store, ended = Calls(), InMemoryCheckpointer(), Ended()
    with FlowExecutor(**long_flow(calls), checkpointer=store, middleware=[ended]) as executor:
        stream = executor.stream_flow("flow", {"n": 1})
        trace_id = next(stream).trace_id
        next(stream)
        stream.close()  # type: ignore[attr-defined]  # it is a generator
        wait_until(lambda: bool(ended.statuses))
        assert executor.resume_flow(trace_id).status == "ok"
    assert calls.counts["a"] == 400


def test_many_streams_at_once_do_not_mix(reader: Reader):
    """R40: each has the events of its own run."""
    calls = Calls()
    with FlowExecutor(tools=[calls.tool(x) for x in "ab"], flows=[chain(*"ab")]) as executor:
        streams = [executor.stream_flow("flow", {"n": n}) for n in range(8)]
        events: list[list[FlowEvent]] = [[] for _ in streams]
        for _ in range(6):
            for at, stream in enumerate(streams):
                events[at].append(next(stream))
    for at, seen in enumerate(events):
        assert seen[-1].result is not None
        assert seen[-1].result.final_output == {"n": at, "a_out": at + 1, "b_out": at + 2}
        assert len({event.trace_id for event in seen}) == 1


@pytest.mark.parametrize("lane", READERS)
@pytest.mark.parametrize("limit", [1, 4])
def test_a_durable_run_whose_stream_is_closed_is_cancelled_for_good(lane: str, limit: int, tmp_path: Path):
    """R38: on every lane, also where the loop ends right after; nobody goes on with it."""
    calls, begun, goes_on = Calls(), threading.Event(), threading.Event()

    def wait(given: Any) -> dict[str, int]:
        begun.set()
        goes_on.wait(LIMIT_S)
        return {"out": given.n}

    def read() -> None:
        stream = executor.stream_flow("flow", {"n": 1})
        assert next(event for event in stream if event.tool_name == "b").kind == "step_start"
        begun.wait(LIMIT_S)
        stream.close()  # type: ignore[attr-defined]  # it is a generator

    async def read_async() -> None:
        stream = executor.stream_flow_async("flow", {"n": 1})
        async for event in stream:
            if event.tool_name == "b":
                break
        while not begun.is_set():
            await anyio.sleep(0.001)
        await stream.aclose()  # type: ignore[attr-defined]  # it is a generator

    tools = [calls.tool("a"), calls.tool("b", wait), calls.tool("c")]
    needs = {"a": [], "b": [], "c": ["a", "b"]}
    steps = [DAGFlowStep(step_id=x, tool_name=x, depends_on=needs[x], output_mapping={x: "out"}) for x in needs]
    with (
        open_store(f"sqlite:///{tmp_path}/runs.db") as store,
        FlowExecutor(tools=tools, flows=[dag(*steps)], checkpointer=store.runs, max_step_concurrency=limit) as executor,
    ):
        backend = READERS[lane]
        if backend is None:
            read()
        else:
            backend(read_async)
        goes_on.set()
        wait_until(lambda: [run.owner for run in store.runs.list_runs()] == [None])
        assert [run.status for run in store.runs.list_runs()] == ["cancelled"]
        assert executor.recover() == []
    assert calls.counts["c"] == 0
