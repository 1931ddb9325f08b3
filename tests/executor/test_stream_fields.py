"""Streams between the steps of real runs: the same items on every lane, and sources that are closed however it ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import anyio
import pytest

from chainweaver import (
    CancellationToken,
    Chunk,
    ConditionalEdge,
    DAGFlow,
    DAGFlowStep,
    Flow,
    FlowCancelledError,
    FlowExecutor,
    FlowStep,
    InMemoryCheckpointer,
    InMemoryStepCache,
    LaneUnsupportedError,
    MemoryTracker,
    RedactionPolicy,
    Stream,
    flow_to_mermaid,
    result_to_mermaid,
    tool,
)
from tests.lanes.table import LANES, Lane

IN_PROCESS = [lane for lane in LANES if "process" not in lane.name]
EVERYWHERE = pytest.mark.parametrize("lane", IN_PROCESS, ids=repr)
BUFFERS = pytest.mark.parametrize("buffer", [0, 2])

LOG: list[str] = []
"""What the sources of a test did, in order."""


@pytest.fixture(autouse=True)
def empty_log() -> Iterator[None]:
    LOG.clear()
    yield
    LOG.clear()


def source(size: int, name: str = "source") -> Iterator[int]:
    """So many numbers, from 0, and a note when it is closed."""
    try:
        yield from range(size)
    finally:
        LOG.append(f"{name} closed")


async def async_source(size: int) -> AsyncIterator[int]:
    try:
        for number in range(size):
            await anyio.sleep(0)
            yield number
    finally:
        await anyio.sleep(0)
        LOG.append("source closed")


@tool(output="rows")
def make(size: int, buffer: int = 0) -> Stream[int]:
    return Stream(source(size), buffer=buffer)


@tool(output="rows")
def yielded(size: int) -> Stream[int]:  # type: ignore[misc]  # a type checker wants to see Stream(source)
    yield from source(size)


@tool(output="rows")
async def make_async(size: int) -> Stream[int]:
    return Stream(async_source(size))


@tool(output="doubled")
def double(rows: Stream[int]) -> Stream[int]:  # type: ignore[misc]  # likewise
    try:
        for row in rows:
            yield 2 * row
    finally:
        LOG.append("double closed")


@tool(output="doubled")
async def double_async(rows: Stream[int]) -> Stream[int]:  # type: ignore[misc]  # likewise
    async for row in rows:
        yield 2 * row


@tool(output="total")
def add(doubled: Stream[int]) -> int:
    return sum(doubled)


@tool(output="total")
async def add_async(doubled: Stream[int]) -> int:
    return sum([item async for item in doubled])


@tool(output="total")
def add_rows(rows: Stream[int]) -> int:
    return sum(rows)


@tool(output="first")
def first(rows: Stream[int]) -> int:
    return next(iter(rows))


@tool(output="first")
def fail(rows: Stream[int]) -> int:
    next(iter(rows))
    raise OSError("the reader fails")


@tool(output="n")
def unrelated(size: int) -> int:
    LOG.append("unrelated")
    return size


@tool(output="n")
def broken(size: int) -> int:
    raise OSError("broken")


@tool(output="first")
def dawdle(rows: Stream[int]) -> int:
    next(iter(rows))
    LOG.append("dawdles")
    time.sleep(0.5)
    return 1


@tool(output="first")
async def dawdle_async(rows: Stream[int]) -> int:
    async for _ in rows:
        LOG.append("dawdles")
        await anyio.sleep(10)
    return 1


TOOLS: list[Any] = [
    make, yielded, make_async, double, double_async, add, add_async, add_rows, first, fail, unrelated, broken, dawdle,
    dawdle_async,
]  # fmt: skip


def until(condition: Callable[[], Any]) -> None:
    """Wait until something is so."""
    for _ in range(1_000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it never came to be")


def linear(*steps: Any, **facts: Any) -> Flow:
    made = [step if isinstance(step, FlowStep) else FlowStep(tool_name=step) for step in steps]
    return Flow(name="flow", description="A flow of a test.", steps=made, **facts)


def executor_of(lane: Lane, *flows: Any, **options: Any) -> FlowExecutor:
    return lane.executor(tools=TOOLS, flows=list(flows), **options)


def run(lane: Lane, flow: Any, given: dict[str, Any], **options: Any) -> Any:
    call = {name: options.pop(name) for name in ("deadline", "cancel_token", "dry_run") if name in options}
    with executor_of(lane, flow, **options) as executor:
        result = lane.run(executor, "flow", given, **call)
        LOG.append("returned")
        return result


# ---- items


@EVERYWHERE
@pytest.mark.parametrize(
    "names",
    [
        ("make", "double", "add"),
        ("yielded", "double", "add_async"),
        ("make", "double_async", "add_async"),
        ("make_async", "double_async", "add_async"),
    ],
)
def test_items_go_from_step_to_step_while_they_are_made(lane: Lane, names: tuple[str, ...]) -> None:
    """R1, R14: sync and async steps, on every lane."""
    result = run(lane, linear(*names, outputs=["total"]), {"size": 10})
    assert result.final_output == {"total": 90}
    assert [one for one in LOG if one != "double closed"] == ["source closed", "returned"]


@EVERYWHERE
def test_the_consumer_gets_the_very_stream_of_the_producer(lane: Lane) -> None:
    """R14: identity."""
    result = run(lane, linear("make", "add_rows"), {"size": 3})
    made, read = result.execution_log
    assert made.outputs["rows"] is read.inputs["rows"]
    assert repr(made.outputs["rows"]) == "<Stream 'rows': 3 read, closed>"


@EVERYWHERE
@pytest.mark.parametrize("form", [list, iter, range, Stream], ids=["list", "iterator", "range", "stream"])
def test_a_caller_may_give_a_list_an_iterator_or_a_stream(lane: Lane, form: Any) -> None:
    """R8: what a file says is a list."""
    given = range(1, 4) if form is range else form([1, 2, 3])
    assert run(lane, linear("add_rows", outputs=["total"]), {"rows": given}).final_output == {"total": 6}


@EVERYWHERE
def test_a_bad_item_fails_its_reader_by_number_and_field(lane: Lane) -> None:
    """R10, R16: CW-E124, and the source is closed."""

    def bad() -> Iterator[Any]:
        try:
            yield from (1, "many")
        finally:
            LOG.append("source closed")

    result = run(lane, linear("add_rows"), {"rows": bad()})
    [record] = result.execution_log
    assert record.error_code == "E124"
    assert record.error_message.startswith("Item 1 of stream 'rows' does not fit: Input should be a valid integer")
    assert LOG == ["source closed", "returned"]


@EVERYWHERE
def test_a_sync_reader_of_an_async_source_is_told_what_to_do(lane: Lane) -> None:
    """R16: CW-E123; the source that nobody began is closed."""
    result = run(lane, linear("make_async", "add_rows"), {"size": 3})
    assert "read it with 'async for'" in result.execution_log[1].error_message
    assert result.execution_log[0].outputs["rows"].closed


# ---- closing, however it ends


@EVERYWHERE
@BUFFERS
def test_a_reader_that_stops_early_has_the_source_closed_before_the_next_step(lane: Lane, buffer: int) -> None:
    """R14: while the producer waits for room as well."""
    flow = linear("make", "first", FlowStep(tool_name="unrelated"))
    result = run(lane, flow, {"size": 10**9, "buffer": buffer}, max_step_concurrency=1)
    assert result.success
    assert LOG == ["source closed", "unrelated", "returned"]


@EVERYWHERE
@BUFFERS
def test_a_reader_that_fails_has_the_source_closed(lane: Lane, buffer: int) -> None:
    """R14, R18: and the error is the reader's."""
    result = run(lane, linear("make", "fail"), {"size": 10**9, "buffer": buffer})
    assert (result.status, result.execution_log[1].error_cause) == ("failed", "OSError")
    assert LOG == ["source closed", "returned"]


@EVERYWHERE
@BUFFERS
@pytest.mark.parametrize("begins", [True, False])
def test_what_nobody_comes_to_read_is_closed_with_the_run(lane: Lane, buffer: int, begins: bool) -> None:
    """R14: a step between fails."""
    closed: list[int] = []

    class Source(Iterator[int]):
        def __next__(self) -> int:
            return 1

        def close(self) -> None:
            closed.append(1)

    rows = Stream(Source(), buffer=buffer)
    if begins:
        next(iter(rows))
    result = run(lane, linear("broken", "add_rows"), {"size": 1, "rows": rows})
    assert (result.status, closed) == ("failed", [1])


@EVERYWHERE
def test_a_step_that_a_branch_passes_over_leaves_no_stream_open(lane: Lane) -> None:
    """R24: nobody reads it, and it is no output."""
    edge = ConditionalEdge(target_step_id="other", predicate="size > 0")
    flow = DAGFlow(
        name="flow", version="1.0.0", description="d", outputs=["n"],
        steps=[
            DAGFlowStep(step_id="make", tool_name="make", branches=[edge], default_next="read"),
            DAGFlowStep(step_id="read", tool_name="add_rows", depends_on=["make"]),
            DAGFlowStep(step_id="other", tool_name="unrelated", depends_on=["make"]),
        ],
    )  # fmt: skip
    with executor_of(lane, flow) as executor:
        result: Any = lane.run(executor, "flow", {"size": 3})
    rows = result.execution_log[0].outputs["rows"]
    assert repr(rows) == "<Stream 'rows': 0 read, closed>"


@EVERYWHERE
def test_a_step_that_is_skipped_for_its_error_has_its_stream_closed(lane: Lane) -> None:
    """R21: the run goes on without it."""
    skipped = FlowStep(tool_name="fail", on_error="skip")
    result = run(lane, linear("make", skipped), {"size": 10})
    assert result.success
    assert LOG == ["source closed", "returned"]


@EVERYWHERE
@BUFFERS
@pytest.mark.parametrize("how", ["deadline", "token"])
def test_a_run_that_is_ended_has_its_sources_closed_before_it_returns(lane: Lane, buffer: int, how: str) -> None:
    """R22, R23: by its deadline or its token, in the middle of reading."""
    name = "dawdle_async" if lane.is_async else "dawdle"
    options: dict[str, Any] = {}
    if how == "deadline":
        options["deadline"] = time.time() + 0.15
    else:
        token = options["cancel_token"] = CancellationToken()
        threading.Timer(0.15, token.cancel).start()
    began = time.monotonic()
    with pytest.raises(FlowCancelledError):
        run(lane, linear("make", name), {"size": 10**9, "buffer": buffer}, **options)
    LOG.append("returned")
    assert time.monotonic() - began < 3
    assert LOG == ["dawdles", "source closed", "returned"]


def test_a_task_that_is_cancelled_has_an_async_source_closed_before_it_ends() -> None:
    """R17, R23: the cleanup of the source may await."""

    async def main() -> None:
        with executor_of(LANES[0], linear("make_async", "dawdle_async")) as executor:
            task = asyncio.create_task(executor.execute_flow_async("flow", {"size": 10}))
            while "dawdles" not in LOG:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            LOG.append("returned")

    asyncio.run(main())
    assert LOG == ["dawdles", "source closed", "returned"]


@EVERYWHERE
def test_an_interrupt_has_the_source_closed_before_it_leaves_the_call(lane: Lane) -> None:
    """R17: Ctrl-C in the middle of a tool."""

    @tool(output="first")
    def interrupted(rows: Stream[int]) -> int:
        next(iter(rows))
        raise KeyboardInterrupt

    flow = linear("make", "interrupted")
    tools: list[Any] = [make, interrupted]
    with lane.executor(tools=tools, flows=[flow]) as executor:
        with pytest.raises(BaseException) as caught:
            lane.run(executor, "flow", {"size": 10})
        LOG.append("returned")
    found = [caught.value, *getattr(caught.value, "exceptions", ())]
    assert any(isinstance(one, KeyboardInterrupt) for one in found)
    assert LOG == ["source closed", "returned"]


@BUFFERS
def test_a_stream_of_events_that_is_abandoned_ends_the_run_and_its_sources(buffer: int) -> None:
    """R38: closing the stream of events is enough."""
    with FlowExecutor(tools=TOOLS, flows=[linear("make", "dawdle")]) as executor:
        events: Any = executor.stream_flow("flow", {"size": 10**9, "buffer": buffer})
        for event in events:
            if event.kind == "step_start" and event.step_index == 1:
                break
        until(lambda: "dawdles" in LOG)
        events.close()
        until(lambda: "source closed" in LOG)
    until(lambda: not [one for one in threading.enumerate() if one.name == "chainweaver-stream"])


@EVERYWHERE
@BUFFERS
def test_steps_side_by_side_have_their_sources_closed(lane: Lane, buffer: int) -> None:
    """R19: one reader fails, the other one has become superfluous."""
    steps = [
        DAGFlowStep(step_id="a", tool_name="make", output_mapping={"a": "rows"}),
        DAGFlowStep(step_id="b", tool_name="make", output_mapping={"b": "rows"}),
        DAGFlowStep(step_id="fail", tool_name="fail", input_mapping={"rows": "a"}, depends_on=["a"]),
        DAGFlowStep(step_id="add", tool_name="first", input_mapping={"rows": "b"}, depends_on=["b"]),
    ]
    flow = DAGFlow(name="flow", version="1.0.0", description="d", steps=steps)
    result = run(lane, flow, {"size": 1_000, "buffer": buffer}, max_step_concurrency=4)
    assert result.status == "failed"
    assert LOG[-1] == "returned", "nothing is closed after that"
    assert all(record.outputs["rows"].closed for record in result.execution_log[:2])


@EVERYWHERE
def test_an_error_of_closing_is_logged_and_hides_nothing(lane: Lane, caplog: Any) -> None:
    """R14, R18: the first error is that of the run."""

    def stuck() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            raise ValueError("stuck")

    with caplog.at_level(logging.WARNING, "chainweaver.streams"):
        failed = run(lane, linear("fail"), {"rows": stuck()})
        fine = run(lane, linear("first"), {"rows": stuck()})
    assert failed.execution_log[0].error_cause == "OSError"
    assert fine.success
    assert caplog.text.count("ValueError: stuck") == 2


# ---- as an output


@EVERYWHERE
@BUFFERS
def test_a_stream_that_is_an_output_is_the_callers_to_read_and_close(lane: Lane, buffer: int) -> None:
    """R13, R14: with all that it is made of."""
    result = run(lane, linear("make", "double", outputs=["doubled"]), {"size": 10**9, "buffer": buffer})
    assert LOG == ["returned"]
    with result.final_output["doubled"] as doubled:
        rows = iter(doubled)
        assert [next(rows), next(rows)] == [0, 2]
    assert sorted(LOG[1:]) == ["double closed", "source closed"]


def test_one_that_the_caller_forgets_is_closed() -> None:
    """R14: with the result."""
    result = run(LANES[0], linear("make", outputs=["rows"]), {"size": 10})
    rows = iter(result.final_output["rows"])
    assert next(rows) == 0
    del result, rows
    gc.collect()
    assert LOG == ["returned", "source closed"]


# ---- retries, caches, checkpoints, lanes


@EVERYWHERE
def test_nothing_is_kept_of_a_stream(lane: Lane) -> None:
    """R29: the second run makes it anew, and the record says why."""
    flow = linear("make", "add_rows", outputs=["total"])
    with executor_of(lane, flow, step_cache=InMemoryStepCache()) as executor:
        results = [lane.run(executor, "flow", {"size": 3}) for _ in range(2)]
    assert [result.final_output for result in results] == [{"total": 3}] * 2
    notes = {record.cache_note for record in results[1].execution_log}
    assert notes == {"a step that takes or gives a stream is not cached"}


@EVERYWHERE
def test_a_checkpointer_refuses_a_stream_before_it_is_made(lane: Lane) -> None:
    """R16: CW-E103, with a way out."""
    result = run(lane, linear("make", "add_rows"), {"size": 3}, checkpointer=InMemoryCheckpointer())
    [record] = result.execution_log
    assert record.error_code == "E103"
    assert "return its path" in record.error_message
    given = run(lane, linear("add_rows", outputs=["total"]), {"rows": [1, 2]}, checkpointer=InMemoryCheckpointer())
    assert given.final_output == {"total": 3}


def test_worker_processes_are_refused_before_anything_starts() -> None:
    """R15: CW-E100."""
    with (
        FlowExecutor(tools=TOOLS, flows=[linear("make", "add_rows")]) as executor,
        pytest.raises(LaneUnsupportedError, match="field 'rows' is a stream"),
    ):
        executor.execute_flow("flow", {"size": 3}, lane="process")


# ---- chunks, maps, sub-flows


@EVERYWHERE
def test_a_chunked_step_takes_a_stream_in_lists_and_closes_it(lane: Lane) -> None:
    """R28: a chunk at a time, also when it fails."""
    sizes: list[int] = []

    @tool(output="total")
    def add_list(rows: list[int]) -> int:
        sizes.append(len(rows))
        if rows[0] == 100:
            raise OSError("enough")
        return sum(rows)

    step = FlowStep(tool_name="add_list", chunk=Chunk(input="rows", rows=4, combine="sum"))
    flow = linear("make", step, outputs=["total"])
    tools: list[Any] = [make, add_list]
    with lane.executor(tools=tools, flows=[flow]) as executor:
        assert lane.run(executor, "flow", {"size": 10}).final_output == {"total": 45}
        assert sizes == [4, 4, 2]
        assert lane.run(executor, "flow", {"size": 10**9}).status == "failed"
    assert LOG == ["source closed", "source closed"]


@EVERYWHERE
def test_items_of_a_map_make_and_read_streams_of_their_own(lane: Lane) -> None:
    """R28: a list of streams goes on."""
    flow = linear(
        FlowStep(tool_name="make", map_over="sizes", map_as="size", map_concurrency=2),
        FlowStep(tool_name="first", map_over="rows", map_as="row", input_mapping={"rows": "row"}),
        outputs=["first"],
    )
    result = run(lane, flow, {"sizes": [3, 4, 5]})
    assert result.final_output == {"first": [0, 0, 0]}
    assert LOG == ["source closed"] * 3 + ["returned"]


@EVERYWHERE
def test_streams_go_into_sub_flows_and_out_of_them(lane: Lane) -> None:
    """R27: closed where they are read, however deep."""
    inner = Flow(name="inner", description="d", steps=[FlowStep(tool_name="double")], outputs=["doubled"])
    flow = linear("make", FlowStep(flow_name="inner"), "add", outputs=["total"])
    with executor_of(lane, flow, inner) as executor:
        assert lane.run(executor, "flow", {"size": 4}).final_output == {"total": 12}
    assert LOG == ["source closed", "double closed"]


# ---- nobody else reads


@pytest.mark.parametrize("trace_values", ["snapshot", "reference", "summary"])
def test_records_observers_and_drawings_read_nothing(trace_values: Any) -> None:
    """R36: they say what it is."""

    class Untouchable(Iterator[int]):
        def __next__(self) -> int:
            raise AssertionError("nobody reads it")

    @tool(output="rows")
    def untouchable() -> Stream[int]:
        return Stream(Untouchable())

    @tool(output="n")
    def ignore(rows: Stream[int]) -> int:
        return 1

    flow = linear("untouchable", "ignore")
    with FlowExecutor(
        tools=[untouchable, ignore], flows=[flow], trace_values=trace_values,
        middleware=[MemoryTracker()], redaction_policy=RedactionPolicy(),
    ) as executor:  # fmt: skip
        result = executor.execute_flow("flow", {})
        texts = [
            repr(result), str(result.model_dump()), result.model_dump_json(), result.canonical_trace(),
            result_to_mermaid(result), flow_to_mermaid(flow), str(executor.explain_flow("flow", {})),
        ]  # fmt: skip
    assert result.success
    assert any("Stream" in str(text) for text in texts)


def test_a_long_stream_through_three_steps_takes_the_memory_of_an_item() -> None:
    """R37: 300 MB go by."""
    import tracemalloc

    @tool(output="blocks")
    def blocks(count: int) -> Stream[bytearray]:
        return Stream((bytearray(1_000_000) for _ in range(count)), buffer=2)

    @tool(output="kept")
    def keep(blocks: Stream[bytearray]) -> Stream[bytearray]:
        return Stream(block for block in blocks if block)

    @tool(output="size")
    def weigh(kept: Iterable[bytearray]) -> int:
        return sum(map(len, kept))

    flow = linear("blocks", "keep", "weigh", outputs=["size"])
    with FlowExecutor(tools=[blocks, keep, weigh], flows=[flow]) as executor:
        executor.execute_flow("flow", {"count": 1})
        tracemalloc.start()
        try:
            assert executor.execute_flow("flow", {"count": 300}).final_output == {"size": 300_000_000}
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 8_000_000
