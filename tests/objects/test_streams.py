"""Streams as values: read once, validated as they come, closed once, never more items made than asked for.

Threads wait for events and not for time, but where the claim is that nothing happens.
"""

from __future__ import annotations

import contextvars
import gc
import json
import logging
import pickle
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import Annotated, Any

import anyio
import pytest
from pydantic import BaseModel, Field, ValidationError

from chainweaver import Stream, StreamItemError, StreamReadError, inspect_object, iter_chunks
from chainweaver.objects.streams import aclose_all, close_all, opened, tie, unread


class Source(Iterator[int]):
    """Counts what is asked of it.

    Attributes:
        made: How many items it has made.
        closed: How often it was closed.
    """

    def __init__(self, size: int = 10, error: Exception | None = None, close_error: Exception | None = None) -> None:
        self.size, self.error, self.close_error = size, error, close_error
        self.made = self.closed = 0

    def __next__(self) -> int:
        if self.made == self.size:
            if self.error is not None:
                raise self.error
            raise StopIteration
        self.made += 1
        return self.made

    def close(self) -> None:
        self.closed += 1
        if self.close_error is not None:
            raise self.close_error


class AsyncSource(AsyncIterator[int]):
    """The same, async."""

    def __init__(self, size: int = 10, error: Exception | None = None, close_error: Exception | None = None) -> None:
        self.inner = Source(size, error, close_error)

    async def __anext__(self) -> int:
        await anyio.sleep(0)
        try:
            return next(self.inner)
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        await anyio.sleep(0)
        self.inner.close()


class Row(BaseModel):
    n: int


class Rows(BaseModel):
    rows: Stream[Row]


class Numbers(BaseModel):
    numbers: Stream[int]


def until(condition: Callable[[], Any]) -> None:
    """Wait until something is so; a test that waits for ever is ended by its runner."""
    for _ in range(1_000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it never came to be")


def has_made(source: Source, count: int) -> bool:
    return source.made == count


BUFFERS = pytest.mark.parametrize("buffer", [0, 3])


# ---- reading


@BUFFERS
def test_a_stream_is_read_once_and_says_so_the_second_time(buffer: int) -> None:
    """R14: nobody silently gets the rest, or nothing."""
    stream = Stream(Source(3), buffer=buffer)
    assert list(stream) == [1, 2, 3]
    with pytest.raises(StreamReadError, match="it was read already"):
        next(iter(stream))


def test_what_was_begun_cannot_be_begun_again_but_its_reader_goes_on() -> None:
    """R14: a header is read by the one who reads the rest."""
    stream = Stream(Source(3))
    rows = iter(stream)
    assert next(rows) == 1
    with pytest.raises(StreamReadError):
        next(iter(stream))
    assert list(rows) == [2, 3]
    assert list(rows) == []


def test_a_field_of_iterables_reads_a_stream_lazily_too() -> None:
    """R14: pydantic asks twice for an iterator before it takes the first item."""

    class Walk(BaseModel):
        rows: Iterable[int]

    source = Source(3)
    walk = Walk(rows=Stream(source))
    assert source.made == 0
    assert list(walk.rows) == [1, 2, 3]


def test_a_closed_stream_is_not_read_any_more() -> None:
    """R14: neither by a new reader nor by the one who was at it."""
    stream = Stream(Source())
    rows = iter(stream)
    next(rows)
    stream.close()
    with pytest.raises(StreamReadError, match="it is closed"):
        next(rows)
    untouched = Stream(Source())
    untouched.close()
    with pytest.raises(StreamReadError, match="it is closed"):
        next(iter(untouched))


@pytest.mark.parametrize("source", ["text", b"bytes", {"a": 1}, 7])
def test_texts_dicts_and_numbers_are_no_sources(source: Any) -> None:
    """R14: going through them is hardly ever meant."""
    with pytest.raises(TypeError, match="something to iterate over"):
        Stream(source)
    with pytest.raises(ValidationError, match="stream or something to iterate over"):
        Numbers(numbers=source)


def test_a_buffer_is_no_negative_number() -> None:
    with pytest.raises(ValueError, match="buffer is a number of items"):
        Stream([], buffer=-1)


@BUFFERS
def test_what_a_source_raises_comes_to_its_reader_and_closes_it(buffer: int, caplog: Any) -> None:
    """R14: the first error counts; that closing failed as well is logged."""
    source = Source(2, OSError("torn"), ValueError("and stuck"))
    rows = iter(Stream(source, buffer=buffer))
    assert [next(rows), next(rows)] == [1, 2]
    with caplog.at_level(logging.WARNING, "chainweaver.streams"), pytest.raises(OSError, match="torn"):
        next(rows)
    assert source.closed == 1
    assert "its source raised" in caplog.text
    with pytest.raises(StreamReadError, match="it is closed"):
        next(rows)


@BUFFERS
def test_an_error_of_closing_comes_to_the_reader_where_it_is_the_only_one(buffer: int) -> None:
    """R14: a file whose end was never written is no success."""
    with pytest.raises(ValueError, match="stuck"):
        list(Stream(Source(2, close_error=ValueError("stuck")), buffer=buffer))
    stream = Stream(Source(close_error=ValueError("stuck")), buffer=buffer)
    next(iter(stream))
    with pytest.raises(ValueError, match="stuck"):
        stream.close()
    stream.close()


# ---- items


def test_items_are_validated_when_they_are_read_and_the_bad_one_is_numbered() -> None:
    """R14: a stream is validated item by item."""
    source = iter([{"n": 1}, {"n": "2"}, {"n": "many"}, {"n": 4}])
    rows = iter(Rows(rows=source).rows)
    assert [next(rows), next(rows)] == [Row(n=1), Row(n=2)]
    with pytest.raises(StreamItemError) as caught:
        next(rows)
    assert (caught.value.field, caught.value.index) == ("rows", 2)
    assert "Item 2 of stream 'rows' does not fit: n: Input should be a valid integer" in str(caught.value)
    assert next(rows) == Row(n=4)


def test_a_stream_passes_through_fields_as_it_is_and_is_validated_once_per_type() -> None:
    """R14: the very object; what the same type has seen is not looked at again."""
    stream = Numbers(numbers=iter(["1", "2"])).numbers
    assert Numbers(numbers=stream).numbers is stream
    assert len(stream._checks) == 1

    class Small(BaseModel):
        numbers: Stream[Annotated[int, Field(lt=2)]]

    assert Small(numbers=stream).numbers is stream
    rows = iter(stream)
    assert next(rows) == 1
    with pytest.raises(StreamItemError, match=r"Item 1 .* less than 2"):
        next(rows)


def test_items_of_a_stream_without_a_type_are_not_looked_at() -> None:
    """R14: nothing is paid for where nothing is asked."""

    class Loose(BaseModel):
        rows: Stream
        others: Stream[Any] | None = None

    thing = object()
    loose = Loose(rows=[thing], others=[thing])
    assert list(loose.rows)[0] is thing
    assert loose.others is not None
    assert not loose.others._checks


# ---- how much is made


def test_without_a_buffer_an_item_is_made_when_it_is_asked_for() -> None:
    source = Source()
    rows = iter(Stream(source))
    assert source.made == 0
    next(rows)
    assert source.made == 1


def test_never_more_items_wait_than_the_buffer_holds() -> None:
    """R14: at every step of the reader, however long the source had time."""
    source = Source(500)
    stream = Stream(source, buffer=4)
    assert source.made == 0, "begins with the first reader"
    read = 0
    for _ in stream:
        read += 1
        assert source.made - read <= 4
        assert stream.waiting <= 4
        if read in (1, 100, 400):
            until(partial(has_made, source, read + 4))
            time.sleep(0.02)
            assert (source.made, stream.waiting) == (read + 4, 4)
    assert read == 500


@BUFFERS
def test_a_long_stream_of_large_items_takes_the_memory_of_a_few(buffer: int) -> None:
    """R37: 200 MB go through, a few MB are held."""
    tracemalloc.start()
    try:
        for item in Stream((bytearray(1_000_000) for _ in range(200)), buffer=buffer):
            del item
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (buffer + 3) * 1_000_000


def test_the_producer_sees_the_context_variables_of_its_first_reader() -> None:
    """R5: in the thread that makes items ahead as well."""
    variable = contextvars.ContextVar("variable", default="nobody")

    def source() -> Iterator[str]:
        yield variable.get()
        yield variable.get()

    variable.set("caller")
    assert list(Stream(source())) == list(Stream(source(), buffer=1)) == ["caller", "caller"]


# ---- closing


def test_closing_ends_a_producer_that_waits_for_room_at_once() -> None:
    """R14: the `finally` of the source has run when close returns, in the thread that made the items."""
    ran: list[str] = []

    def source() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            ran.append(threading.current_thread().name)

    stream = Stream(source(), buffer=2)
    next(iter(stream))
    until(lambda: stream.waiting == 2)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 0.5
    assert ran == ["chainweaver-stream"]
    assert not [one for one in threading.enumerate() if one.name == "chainweaver-stream"]


@BUFFERS
def test_a_source_is_closed_exactly_once(buffer: int) -> None:
    """R14: read to the end, closed again, in a with block, and forgotten."""
    source = Source(2)
    with Stream(source, buffer=buffer) as stream:
        assert list(stream) == [1, 2]
        stream.close()
    del stream
    gc.collect()
    assert source.closed == 1
    unread_source = Source()
    Stream(unread_source, buffer=buffer).close()
    assert unread_source.closed == 1


@BUFFERS
def test_a_forgotten_stream_closes_its_source(buffer: int) -> None:
    """R14: without a close, and without a collection of garbage."""
    source = Source()
    rows = iter(Stream(source, buffer=buffer))
    next(rows)
    del rows
    until(lambda: source.closed == 1)


def slow_source(began: threading.Event, go: threading.Event, closed: list[int]) -> Iterator[int]:
    try:
        began.set()
        go.wait(10)
        yield 1
    finally:
        closed.append(1)


@BUFFERS
def test_a_source_that_is_busy_is_not_waited_for_for_ever_and_closed_when_it_is_back(
    buffer: int, monkeypatch: Any
) -> None:
    """R22: nobody can stop a thread."""
    monkeypatch.setattr("chainweaver.objects.streams.CLOSE_S", 0.05)
    began, go = threading.Event(), threading.Event()
    closed: list[int] = []
    outcome: list[Any] = []
    stream = Stream(slow_source(began, go, closed), buffer=buffer)

    def read() -> None:
        try:
            outcome.append(list(stream))
        except BaseException as exc:
            outcome.append(exc)

    reader = threading.Thread(target=read)
    reader.start()
    began.wait(10)
    stream.close()
    assert not closed
    go.set()
    reader.join(10)
    until(lambda: closed)
    assert closed == [1]
    assert isinstance(outcome[0], StreamReadError), "and not the end"


def test_an_error_of_closing_that_nobody_waits_for_any_more_is_logged(monkeypatch: Any, caplog: Any) -> None:
    """R14: reported, whoever is there."""
    monkeypatch.setattr("chainweaver.objects.streams.CLOSE_S", 0.05)
    began, go = threading.Event(), threading.Event()

    class Slow(Source):
        def __next__(self) -> int:
            began.set()
            go.wait(10)
            return super().__next__()

    stream = Stream(Slow(close_error=ValueError("stuck")), buffer=1)

    def read() -> None:
        with pytest.raises(StreamReadError):
            list(stream)

    reader = threading.Thread(target=read)
    reader.start()
    began.wait(10)
    with caplog.at_level(logging.WARNING, "chainweaver.streams"):
        stream.close()
        go.set()
        until(lambda: "its source raised" in caplog.text)
    reader.join(10)


def test_of_an_iterable_the_iterator_is_closed_that_was_made_of_it() -> None:
    """R14: a data set of the caller's is not his stream."""
    ran: list[str] = []

    class DataSet:
        def __iter__(self) -> Iterator[int]:
            try:
                yield 1
                yield 2
            finally:
                ran.append("iterator")

        def close(self) -> None:
            ran.append("data set")

    stream = Stream(DataSet())
    next(iter(stream))
    stream.close()
    assert ran == ["iterator"]
    Stream(DataSet()).close()
    assert ran == ["iterator"]


def test_a_stream_that_others_are_made_of_is_closed_after_the_last_of_them() -> None:
    """R14: a generator that still reads has to find something."""
    source = Source()
    rows = Stream(source)
    first, second = Stream([1]), Stream(iter(rows))
    tie([rows], [first, second])
    assert unread([rows, first], [[second]]) == [first]
    first.close()
    assert source.closed == 0
    assert list(second)[:2] == [1, 2]
    assert source.closed == 1


def test_one_that_cannot_be_closed_keeps_no_other_open(caplog: Any) -> None:
    """R14: what a source raises is logged."""
    stuck, fine = Source(close_error=ValueError("stuck")), Source()
    with caplog.at_level(logging.WARNING, "chainweaver.streams"):
        close_all([Stream(stuck), Stream(fine)])
        anyio.run(aclose_all, [Stream(AsyncSource(close_error=ValueError("stuck"))), Stream(fine)])
    assert fine.closed == 2
    assert caplog.text.count("ValueError: stuck") == 2


# ---- async

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


async def collected(stream: Stream[Any], limit: int = 100) -> list[Any]:
    found = []
    async for item in stream:
        found.append(item)
        if len(found) == limit:
            break
    return found


@BACKENDS
@pytest.mark.parametrize(
    "source", [lambda: [1, 2, 3], lambda: Source(3), lambda: AsyncSource(3), lambda: Stream(Source(3), buffer=1)]
)
def test_every_stream_is_read_with_async_for(backend: str, source: Callable[[], Any]) -> None:
    """R14: on asyncio and trio."""

    async def main() -> None:
        numbers = Numbers(numbers=source()).numbers
        assert await collected(numbers) == [1, 2, 3]
        assert (numbers.items_read, numbers.closed) == (3, True)
        with pytest.raises(StreamReadError, match="read already"):
            await collected(numbers)

    anyio.run(main, backend=backend)


@BACKENDS
def test_a_sync_source_does_not_hold_the_loop_up(backend: str) -> None:
    """R4: it waits in a thread while other tasks go on."""
    go = threading.Event()

    def source() -> Iterator[int]:
        go.wait(10)
        yield 1

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collected, Stream(source()))
            await anyio.sleep(0.01)
            go.set()

    anyio.run(main, backend=backend)


@BACKENDS
def test_an_async_source_is_closed_by_the_loop_that_reads_it(backend: str) -> None:
    """R14: early, in an async with block, and when it fails."""

    async def main() -> None:
        source = AsyncSource()
        async with Stream(source) as stream:
            assert await collected(stream, 2) == [1, 2]
        await stream.aclose()
        assert source.inner.closed == 1
        failing = AsyncSource(1, OSError("torn"), ValueError("and stuck"))
        with pytest.raises(OSError, match="torn"):
            await collected(Stream(failing))
        assert failing.inner.closed == 1
        with pytest.raises(ValueError, match="stuck"):
            await collected(Stream(AsyncSource(1, close_error=ValueError("stuck"))))

    anyio.run(main, backend=backend)


@BACKENDS
def test_a_reader_that_is_cancelled_leaves_the_source_closed(backend: str) -> None:
    """R23: the item it waited for never comes."""
    ran: list[str] = []

    async def source() -> AsyncIterator[int]:
        try:
            yield 1
            await anyio.sleep_forever()
        finally:
            ran.append("closed")

    async def main() -> None:
        stream = Stream(source())
        with anyio.move_on_after(0.05):
            await collected(stream)
        assert (ran, stream.closed) == (["closed"], True)

    anyio.run(main, backend=backend)


@BACKENDS
def test_closing_while_another_task_awaits_an_item_leaves_it_to_that_task(backend: str) -> None:
    """R14: exactly once, by the one who has the source."""
    source = AsyncSource()

    async def main() -> None:
        began, go = anyio.Event(), anyio.Event()

        async def slow() -> AsyncIterator[int]:
            try:
                began.set()
                await go.wait()
                yield 1
            finally:
                source.inner.close()

        stream = Stream(slow())

        async def read() -> None:
            with pytest.raises(StreamReadError, match="it is closed"):
                await collected(stream)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await began.wait()
            with pytest.raises(StreamReadError, match="another task"):
                await stream._next_async()
            await stream.aclose()
            assert source.inner.closed == 0
            go.set()
        assert source.inner.closed == 1

    anyio.run(main, backend=backend)


def test_sync_code_is_told_what_to_do_with_an_async_source() -> None:
    """R14: it cannot await."""
    stream = Stream(AsyncSource())
    with pytest.raises(StreamReadError, match="async for"):
        list(stream)
    with pytest.raises(StreamReadError, match="await aclose"):
        stream.close()
    below = Stream([1])
    tie([stream], [below])
    with pytest.raises(StreamReadError, match="await aclose"):
        below.close()
    anyio.run(below.aclose)
    assert stream.closed


def test_async_iterables_are_asked_for_their_iterator_when_they_are_read() -> None:
    """R14: likewise."""

    class DataSet:
        def __aiter__(self) -> AsyncIterator[int]:
            return AsyncSource(2)

    assert anyio.run(collected, Stream(DataSet())) == [1, 2]
    anyio.run(Stream(DataSet()).aclose)


# ---- being looked at


def test_nothing_that_shows_a_stream_reads_it() -> None:
    """R36: text, dump, JSON, inspection; what would take it elsewhere is refused."""
    source = Source()
    model = Numbers(numbers=source)
    assert repr(model.numbers) == "<Stream 'numbers': 0 read, open>"
    assert model.model_dump()["numbers"] is model.numbers
    assert json.loads(model.model_dump_json()) == {"numbers": "<Stream 'numbers': 0 read, open>"}
    assert inspect_object(model.numbers).type == "chainweaver.Stream"
    with pytest.raises(TypeError, match="where it is made"):
        pickle.dumps(model.numbers)
    assert source.made == 0


def test_its_schema_is_that_of_an_array_and_a_list_of_json_is_a_source() -> None:
    """R8: files can give one."""
    for mode in ("validation", "serialization"):
        shown = Numbers.model_json_schema(mode=mode)["properties"]["numbers"]  # type: ignore[arg-type]
        assert (shown["type"], shown["items"]) == ("array", {"type": "integer"})
    assert list(Numbers.model_validate_json('{"numbers": [1, 2]}').numbers) == [1, 2]


def test_a_stream_is_cut_into_lists() -> None:
    """R28: iter_chunks takes it for what it is."""
    assert list(iter_chunks(Stream(Source(5)), rows=2)) == [[1, 2], [3, 4], [5]]


def test_sources_are_made_streams_before_anything_else_happens_to_them() -> None:
    """R14: iterators, which can be read once; not lists, and not those inside of models."""
    stream, source = Stream([1]), Source()
    values, found = opened({"a": source, "b": stream, "c": [1], "d": 7}, ["a", "b", "c", "e"])
    assert found == [values["a"], stream]
    assert values["c"] == [1]
    model = Numbers(numbers=stream)
    assert opened(model, ["numbers"]) == (model, [stream])
    assert opened(None, ["numbers"]) == (None, [])
