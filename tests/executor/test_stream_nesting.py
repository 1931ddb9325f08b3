"""Streams of nested runs and of chunks: whose an event is, who waits for whom, and an end at any event."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from chainweaver import (
    BaseMiddleware,
    DAGFlowStep,
    ExecutionResult,
    FlowEvent,
    FlowExecutor,
    StreamingTool,
    Tool,
    ToolChunk,
)
from chainweaver.executor.stream import BOUND
from tests.conftest import PROOF
from tests.lanes.kit import LIMIT_S, Number, Out, a_flow, a_step, a_tool, wait_until
from tests.lanes.table import ASYNCIO, SYNC, THREADS, TRIO, Lane

LANES = [SYNC, THREADS, ASYNCIO, TRIO]
lanes = pytest.mark.parametrize("lane", LANES, ids=repr)
limits = pytest.mark.parametrize("limit", [1, 4])


class Item(BaseModel):
    item: int


class Reading:
    """What was open and what was told of the runs of one test."""

    def __init__(self) -> None:
        self.entered: Counter[str] = Counter()
        self.exited: Counter[str] = Counter()
        self.made = 0

    @asynccontextmanager
    async def connection(self, name: str) -> AsyncIterator[None]:
        self.entered[name] += 1
        try:
            yield
        finally:
            self.exited[name] += 1

    def chunks(self, name: str, count: int, **options: Any) -> StreamingTool:
        """A tool that tells `count` pieces and holds something open meanwhile."""

        async def stream(given: Any) -> AsyncIterator[ToolChunk]:
            async with self.connection(name):
                for piece in range(count):
                    await anyio.sleep(0)
                    self.made += 1
                    yield ToolChunk(piece)
                yield ToolChunk({"out": given.n}, is_final=True)

        return StreamingTool(
            name=name, description=name, input_schema=Number, output_schema=Out, stream_fn=stream, **options
        )

    def waiting(self, name: str) -> Tool:
        async def wait(given: Any) -> dict[str, int]:
            async with self.connection(name):
                await anyio.sleep(0.001)
            return {"out": given.n}

        return a_tool(name, wait)


def read(lane: Lane, executor: FlowExecutor, given: dict[str, Any]) -> list[FlowEvent]:
    """All events of a run."""
    if lane.backend is None:
        return list(executor.stream_flow("flow", given))

    async def work() -> list[FlowEvent]:
        return [event async for event in executor.stream_flow_async("flow", given)]

    events: list[FlowEvent] = lane.backend(work)
    return events


# ---- whose an event is


def renamed(flow: Any, name: str) -> Any:
    return flow.model_copy(update={"name": name})


def nest(name: str, flow_name: str, *needs: str, **options: Any) -> DAGFlowStep:
    return a_step(name, *needs, **{"tool_name": None, "flow_name": flow_name, "output_mapping": None, **options})


def nested_flows() -> list[Any]:
    """A flow with a sub-flow in a sub-flow, a map, and a map of sub-flows; every leaf tells two chunks."""
    leaf = renamed(a_flow(a_step("leaf", tool_name="say")), "leaf")
    middle = renamed(a_flow(a_step("before", tool_name="say"), nest("deeper", "leaf", "before")), "middle")
    outer = a_flow(
        a_step("first", tool_name="say"),
        nest("inner", "middle", "first"),
        a_step("each", "first", tool_name="say", map_over="items", map_as="n"),
        nest("every", "leaf", "first", map_over="items", map_as="n", output_mapping={"every": "leaf"}),
    )
    return [leaf, middle, outer]


@lanes
@limits
def test_every_event_says_of_which_run_it_is_and_what_that_is_nested_in(lane: Lane, limit: int) -> None:
    """R27, R28: a nested run has an id of its own, its parent's beside it, and its events stand within its step's."""
    seen = Reading()
    with lane.executor(tools=[seen.chunks("say", 2)], flows=nested_flows(), max_step_concurrency=limit) as executor:
        events = read(lane, executor, {"n": 1, "items": [10, 20]})
    outer = events[0]
    assert (outer.kind, outer.parent_trace_id) == ("flow_start", None)
    assert (events[-1].kind, events[-1].trace_id) == ("flow_end", outer.trace_id)
    runs = {event.trace_id: event.parent_trace_id for event in events}
    assert {(event.trace_id, event.parent_trace_id) for event in events} == set(runs.items()), "one parent each"
    assert {parent for parent in runs.values() if parent is not None} <= set(runs)
    assert runs == ids_of(events[-1].result)
    flows = Counter((event.flow_name, event.kind) for event in events if event.kind.startswith("flow"))
    assert flows == {(name, kind): count for name, count in FLOWS.items() for kind in ("flow_start", "flow_end")}
    for trace_id in runs:
        assert_in_order([event for event in events if event.trace_id == trace_id])
    chunks = [event for event in events if event.kind == "step_chunk"]
    assert sorted(event.chunk for event in chunks) == [0] * 7 + [1] * 7
    assert {event.tool_name for event in chunks} == {"say"}
    for event in events[1:-1]:
        if event.kind == "flow_start":
            assert is_within_a_step(events, event)


FLOWS = {"flow": 1, "middle": 1, "leaf": 3}


def ids_of(result: Any) -> dict[str, str | None]:
    """Id -> parent of a result and all that are nested in it."""
    assert isinstance(result, ExecutionResult)
    found = {result.trace_id: result.parent_trace_id}
    for record in result.execution_log:
        if record.sub_result is not None:
            found.update(ids_of(record.sub_result))
    return found


def assert_in_order(events: list[FlowEvent]) -> None:
    """The events of one run: its start first, its end last, and each step's chunks between its start and its end."""
    kinds = [event.kind for event in events]
    if "flow_start" in kinds:  # the items of a map are a run that is no flow
        assert (kinds[0], kinds[-1]) == ("flow_start", "flow_end")
    for step_id in {event.step_id for event in events if event.step_id is not None}:
        own = [event.kind for event in events if event.step_id == step_id]
        assert (own[0], own[-1]) == ("step_start", "step_end")
        assert set(own[1:-1]) <= {"step_chunk"}


def is_within_a_step(events: list[FlowEvent], start: FlowEvent) -> bool:
    """Whether a step of the parent is under way when a nested run begins."""
    own = [event for event in events[: events.index(start)] if event.trace_id == start.parent_trace_id]
    begun = sum(event.kind == "step_start" for event in own)
    return begun > sum(event.kind == "step_end" for event in own)


# ---- who waits for whom


class Slow:
    """Reads the first event and then nothing more until the test says so."""

    def __init__(self, lane: Lane, executor: FlowExecutor, meanwhile: Callable[[], None]) -> None:
        self.lane = lane
        self.executor = executor
        self.meanwhile = meanwhile

    def read(self) -> list[FlowEvent]:
        if self.lane.backend is None:
            stream = self.executor.stream_flow("flow", {"n": 1})
            events = [next(stream)]
            self.meanwhile()
            return events + list(stream)

        async def work() -> list[FlowEvent]:
            stream = self.executor.stream_flow_async("flow", {"n": 1})
            events = [await stream.__anext__()]
            thread = threading.Thread(target=self.meanwhile)
            thread.start()
            while thread.is_alive():
                await anyio.sleep(0.001)
            return events + [event async for event in stream]

        found: list[FlowEvent] = self.lane.backend(work)
        return found


def comes_to_rest(value: Callable[[], int]) -> int:
    """A number that goes up, once it does so no more."""
    before = -1
    while before != value():
        before = value()
        time.sleep(0.05)
    return before


@lanes
@limits
def test_a_tool_waits_for_a_reader_who_does_not_read(lane: Lane, limit: int) -> None:
    """R38: chunks are events like others; what is ahead of the reader is bounded, and nothing is lost."""
    seen, ahead = Reading(), []
    tools = [seen.chunks(name, 500) for name in ("a", "b")]
    with lane.executor(tools=tools, flows=[a_flow(a_step("a"), a_step("b"))], max_step_concurrency=limit) as executor:
        events = Slow(lane, executor, lambda: ahead.append(comes_to_rest(lambda: seen.made))).read()
    assert BOUND / 2 < ahead[0] <= BOUND + limit
    chunks = [(event.step_id, event.chunk) for event in events if event.kind == "step_chunk"]
    for name in ("a", "b"):
        assert [chunk for step_id, chunk in chunks if step_id == name] == list(range(500))
    assert seen.entered == seen.exited


@lanes
def test_a_reader_who_does_not_read_holds_up_nobody_else(lane: Lane) -> None:
    """R40: other runs of the executor go on, also those whose async tools share the private loop."""
    seen, others = Reading(), []
    flows = [a_flow(a_step("say")), renamed(a_flow(a_step("wait")), "other")]
    with lane.executor(tools=[seen.chunks("say", 500), seen.waiting("wait")], flows=flows) as executor:

        def meanwhile() -> None:
            comes_to_rest(lambda: seen.made)
            others.append(executor.execute_flow("other", {"n": 3}, deadline=time.time() + LIMIT_S).final_output)

        events = Slow(lane, executor, meanwhile).read()
    assert others == [{"n": 3, "wait": 3}]
    assert events[-1].kind == "flow_end"


@lanes
def test_the_time_of_a_tool_goes_on_while_it_waits_for_the_reader(lane: Lane) -> None:
    """R22: a limit binds during everything that a tool does, and the run goes on without it."""
    seen = Reading()
    with lane.executor(tools=[seen.chunks("say", 500, timeout_seconds=0.1)], flows=[a_flow(a_step("say"))]) as executor:
        events = Slow(lane, executor, lambda: wait_until(lambda: seen.exited["say"] == 1)).read()
    record = next(event.record for event in events if event.kind == "step_end")
    assert record is not None
    assert (record.status, record.error_type) == ("failed", "ToolTimeoutError")
    assert seen.made <= BOUND + 1


@lanes
def test_a_tool_has_closed_what_it_held_open_when_its_step_ends(lane: Lane) -> None:
    """R23: also what comes after the final chunk, whoever listens; it does not wait for the garbage collector."""
    seen, at_end = Reading(), []

    class Watch(BaseMiddleware):
        def on_step_end(self, context: Any) -> None:
            at_end.append(dict(seen.exited))

    gc.disable()
    try:
        with lane.executor(tools=[seen.chunks("say", 3)], flows=[a_flow(a_step("say"))], middleware=[Watch()]) as once:
            assert lane.run(once, "flow", {"n": 1}).success
            read(lane, once, {"n": 1})
    finally:
        gc.enable()
    assert at_end == [{"say": 1}, {"say": 2}]


# ---- an end at any event


class Ends(BaseMiddleware):
    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.statuses: list[str] = []

    def on_flow_start(self, context: Any) -> None:
        self.begun[context.trace_id] += 1

    def on_flow_end(self, context: Any) -> None:
        self.ended[context.trace_id] += 1
        if context.parent_trace_id is None:
            self.statuses.append(context.result.status)


def ours() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name.startswith("chainweaver")}


def give_up(stream: Iterator[FlowEvent], count: int, how: str) -> float:
    """Read some events and no more; how long the leaving took, in seconds."""
    for _ in range(count):
        next(stream)
    began = time.perf_counter()
    if how == "close":
        stream.close()  # type: ignore[attr-defined]  # it is a generator
    else:
        del stream
    return time.perf_counter() - began


async def give_up_async(stream: Any, count: int, how: str) -> float:
    """The same; "cancel" leaves while it waits for the next event."""
    with anyio.CancelScope() as scope:
        for _ in range(count):
            await stream.__anext__()
        began = time.perf_counter()
        if how == "cancel":
            scope.cancel()
            with contextlib.suppress(StopAsyncIteration):  # behind the last event there is nothing to cancel
                await stream.__anext__()
    if how == "close":
        await stream.aclose()
    del stream
    return time.perf_counter() - began


async def comes(happened: Callable[[], bool]) -> None:
    with anyio.fail_after(LIMIT_S):
        while not happened():
            await anyio.sleep(0.001)


STRIDE = 1 if PROOF else 5
CASES = [(lane, how) for lane in LANES for how in ("close", "del", *(("cancel",) if lane.is_async else ()))]


@pytest.mark.slow
@pytest.mark.parametrize(("lane", "how"), CASES, ids=repr)
@limits
def test_a_stream_given_up_at_any_event_ends_its_run(lane: Lane, how: str, limit: int) -> None:
    """R17, R23: leaving takes no time, every run that had begun ends once, and nothing is left open."""
    seen, ends, before = Reading(), Ends(), ours()
    crunch = a_tool("crunch", lambda given: {"out": given.n})
    tools = [seen.chunks("say", 2), seen.waiting("wait"), crunch]
    leaf = renamed(a_flow(a_step("leaf", tool_name="say"), a_step("wait", "leaf")), "leaf")
    flow = a_flow(
        a_step("crunch"),
        nest("inner", "leaf"),
        a_step("each", tool_name="say", map_over="items", map_as="n", map_concurrency=2),
        a_step("wait", "inner", "each", output_mapping={"last": "out"}),
    )
    given = {"n": 1, "items": [1, 2, 3]}
    took: list[float] = []
    with lane.executor(tools=tools, flows=[leaf, flow], middleware=[ends], max_step_concurrency=limit) as executor:
        count = len(read(lane, executor, given))
        assert count > 20
        for at in range(1, count + 1, STRIDE):
            ends.statuses.clear()
            if lane.backend is None:
                took.append(give_up(executor.stream_flow("flow", given), at, how))
                wait_until(lambda: bool(ends.statuses))
            else:

                async def work(at: int = at) -> None:
                    took.append(await give_up_async(executor.stream_flow_async("flow", given), at, how))
                    gc.collect()
                    await comes(lambda: bool(ends.statuses))
                    if lane is ASYNCIO:
                        await comes(lambda: len(asyncio.all_tasks()) == 1)

                lane.backend(work)
            # The run may be quicker than its reader.
            assert ends.statuses in (["cancelled"], ["ok"]), f"given up at event {at} of {count}"
            assert ends.begun == ends.ended
            assert set(ends.ended.values()) == {1}
            wait_until(lambda: seen.entered == seen.exited)
    assert statistics.median(took) < 0.1
    wait_until(lambda: ours() <= before)


@lanes
def test_a_stream_that_is_never_read_leaves_nothing(lane: Lane, recwarn: pytest.WarningsRecorder) -> None:
    """R38: it has not begun, and closing or forgetting it needs no care."""
    seen, ends, before = Reading(), Ends(), ours()
    with lane.executor(tools=[seen.chunks("say", 2)], flows=[a_flow(a_step("say"))], middleware=[ends]) as executor:
        if lane.backend is None:
            executor.stream_flow("flow", {"n": 1}).close()  # type: ignore[attr-defined]  # it is a generator
            executor.stream_flow("flow", {"n": 1})
        else:

            async def work() -> None:
                await executor.stream_flow_async("flow", {"n": 1}).aclose()  # type: ignore[attr-defined]  # likewise
                executor.stream_flow_async("flow", {"n": 1})
                gc.collect()
                await anyio.sleep(0)

            lane.backend(work)
        gc.collect()
    assert (ends.begun, seen.made, ours() - before) == (Counter(), 0, set())
    assert [str(one.message) for one in recwarn] == []
