"""`Stream[T]`: items that are made while they are read, once, and whose source is closed whatever happens.

A field of this type takes an iterator, a generator, an async one, or anything else to iterate over, and gives a stream
over it; a stream passes as it is. Here are the value, what its field does, and what a run asks of it: which ones a step
holds, which wait for which, and how they are closed. When that is, the run decides.

Used in signatures of tools and users' own models; bound to steps by the compiler, called by lanes and the executor.
"""

from __future__ import annotations

import re
import threading
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import PydanticCustomError, core_schema

from chainweaver.exceptions import StreamItemError, StreamReadError, violations
from chainweaver.objects.ahead import END, Ahead

if TYPE_CHECKING:
    from types import TracebackType

    from pydantic import GetCoreSchemaHandler
    from typing_extensions import Self

T = TypeVar("T")

CLOSE_S = 1.0
"""How long closing waits for a source that is making an item in another thread; it is closed there when it is back."""


class Stream(Generic[T]):
    """A sequence of items that is made while it is read, and can be read once.

    What a field of type `Stream[T]` holds. Read it with `for item in stream`, or with `async for`; items of a typed
    one are validated as they come. In a run streams are closed for you; one that a run gave you is yours to close:
    use it in a `with` block, call `close()`, or let it go.

    Args:
        source: Where the items come from: a generator, any iterator or iterable, or an async one. Closing the stream
            closes it; of an iterable, the iterator that was made of it.
        buffer: How many items are made ahead of the reader, in a thread of its own; 0: each is made when it is asked
            for. An async source always makes them when they are asked for.

    Attributes:
        name: The field that it was given in; None for others.
        items_read: How many items were taken from the source for the reader.
        closed: There is nothing more to come: it was read to its end, closed, or its source failed.

    >>> def numbers():
    ...     try:
    ...         yield from range(1_000_000)
    ...     finally:
    ...         print("closed")
    >>> with Stream(numbers()) as stream:
    ...     for number in stream:
    ...         if number == 2:
    ...             break
    closed
    >>> stream
    <Stream: 3 read, closed>
    """

    def __init__(self, source: Iterable[T] | AsyncIterable[T], *, buffer: int = 0) -> None:
        self._source: Any = None  # first, for whoever closes one that was never made
        if not _is_source(source):
            raise TypeError(f"A stream is made of something to iterate over, not of {type(source).__qualname__!r}.")
        if buffer < 0:
            raise ValueError(f"buffer is a number of items, not {buffer}.")
        self.name: str | None = None
        self.items_read = 0
        self.closed = False
        self._is_async = isinstance(source, AsyncIterable)
        # Looking into a list holds nobody up; what else there is may.
        self._is_quick = type(source) in (list, tuple)
        self._source = source
        self._buffer = 0 if self._is_async else buffer
        self._ahead: Ahead | None = None
        self._begun = self._closing = False
        self._pulling = threading.Lock()
        self._checks: list[_Check] = []
        self._upstream: list[Stream[Any]] = []
        self._downstream = 0  # how many open streams are made of this one

    # ---- reading

    # Neither begins to read: pydantic asks for an iterator twice before it takes the first item.
    def __iter__(self) -> Iterator[T]:
        return _Reader(self)

    def __aiter__(self) -> AsyncIterator[T]:
        return _AsyncReader(self)

    def _begin(self) -> None:
        if self._begun or self.closed:
            why = "it was read already" if self._begun else "it is closed"
            raise StreamReadError(self.name, why, fix=_READ_ONCE)
        self._begun = True

    def _next(self) -> Any:
        """The next item, or END."""
        if self.closed:
            return self._nothing_more()
        try:
            with self._pulling:
                item = self._pulled()
        finally:
            if self._closing:  # somebody wanted to, and did not wait for the source
                self._close(0)
        return self._nothing_more() if item is END else self._checked(item)

    def _pulled(self) -> Any:
        if self._source is None and self._ahead is None:
            return self._nothing_more()
        try:
            if self._ahead is not None:
                item = self._ahead.take()
            else:
                if not isinstance(self._source, Iterator):
                    self._source = iter(self._source)
                if self._buffer:
                    # Its name and not itself: one that is forgotten has to be collected.
                    report = partial(_report, repr(self))
                    self._ahead, self._source = Ahead(self._source, self._buffer, close_source, report), None
                    item = self._ahead.take()
                else:
                    item = next(self._source, END)
        except BaseException:
            # What it raised counts; a source that has failed is closed all the same.
            self._closing = True
            self._shut(0, quietly=True)
            raise
        if item is END:
            self._shut(0)
        return item

    def _nothing_more(self) -> Any:
        """END, for one that was read to its end; a reader who is cut off must not take that for the end."""
        if self._closing:
            raise StreamReadError(self.name, "it is closed", fix=_READ_ONCE)
        return END

    async def _next_async(self) -> Any:
        if not self._is_async:
            if self._is_quick and not self._buffer:
                return self._next()
            from anyio import to_thread

            return await to_thread.run_sync(self._next, abandon_on_cancel=True)
        if self.closed:
            return self._nothing_more()
        if not self._pulling.acquire(blocking=False):
            raise StreamReadError(self.name, "another task is reading it", fix=_READ_ONCE)
        try:
            item = await self._awaited()
        finally:
            self._pulling.release()
            if self._closing:
                await self.aclose()
        return self._nothing_more() if item is END else self._checked(item)

    async def _awaited(self) -> Any:
        if not isinstance(self._source, AsyncIterator):
            self._source = self._source.__aiter__()
        try:
            return await self._source.__anext__()
        except StopAsyncIteration:
            await self._shut_async()
            return END
        except BaseException:
            self._closing = True
            await self._shut_async(quietly=True)
            raise

    def _checked(self, item: Any) -> Any:
        number = self.items_read
        self.items_read = number + 1
        for check in self._checks:
            try:
                item = check(item)
            except ValidationError as exc:
                raise StreamItemError(self.name, number, _PLACES.sub(r"\1", violations(exc))) from exc
        return item

    # ---- closing

    def close(self) -> None:
        """Read no further: end the source, and whatever is made ahead. Again, it does nothing.

        Raises:
            StreamReadError: The source is async; `await aclose()`.
            Exception: What the source raised.
        """
        if self._needs_await():
            raise StreamReadError(self.name, "its source is async", fix="await aclose() in place of close()")
        self._close(CLOSE_S)

    async def aclose(self) -> None:
        """The same where there is a loop; a sync source is closed in a thread."""
        from anyio import CancelScope, to_thread

        with CancelScope(shield=True):
            if not self._is_async:
                await to_thread.run_sync(self._close, CLOSE_S)
            elif self._source is not None:
                self._closing = True
                # Else whoever awaits an item closes it, when he has it.
                if self._pulling.acquire(blocking=False):
                    try:
                        await self._shut_async()
                    finally:
                        self._pulling.release()
            await self._free_upstream_async()

    def _close(self, wait_s: float, *, quietly: bool = False) -> None:
        if self._source is None and self._ahead is None:
            return
        self._closing = True
        if self._ahead is not None:
            self._shut(wait_s, quietly=quietly)  # nobody else has the source, and a reader may be waiting for an item
        elif self._pulling.acquire(blocking=wait_s > 0, timeout=wait_s or -1):
            try:
                self._shut(0, quietly=quietly)
            finally:
                self._pulling.release()

    def _shut(self, wait_s: float, *, quietly: bool = False) -> None:
        """Close the source, by the one who has it."""
        source, self._source, self.closed = self._source, None, True
        ahead, self._ahead = self._ahead, None
        try:
            if ahead is not None:
                ahead.stop(wait_s)
            elif not self._is_async:
                close_source(source)
        except Exception as exc:
            if not quietly:
                raise
            _report(repr(self), exc)
        finally:
            self._free_upstream()

    async def _shut_async(self, *, quietly: bool = False) -> None:
        source, self._source, self.closed = self._source, None, True
        close = getattr(source, "aclose", None) if isinstance(source, AsyncIterator) else None
        try:
            if close is not None:
                from anyio import CancelScope

                with CancelScope(shield=True):
                    await close()
        except Exception as exc:
            if not quietly:
                raise
            _report(repr(self), exc)
        finally:
            await self._free_upstream_async()

    def _needs_await(self) -> bool:
        is_open = self._is_async and self._source is not None
        return is_open or any(one._needs_await() for one in self._upstream)

    def _free_upstream(self) -> None:
        """Close what this stream was made of, unless another one still reads it; what has to be awaited is left."""
        freed = [one for one in self._upstream if not one._needs_await()]
        self._upstream = [one for one in self._upstream if one not in freed]
        for one in freed:
            one._downstream -= 1
            if not one._downstream:
                close_all([one])

    async def _free_upstream_async(self) -> None:
        freed, self._upstream = self._upstream, []
        for one in freed:
            one._downstream -= 1
            if not one._downstream:
                await aclose_all([one])

    def __del__(self) -> None:
        if self._source is not None or getattr(self, "_ahead", None) is not None:
            self._close(0, quietly=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    # ---- being looked at

    @property
    def waiting(self) -> int:
        """How many items were made ahead and not read yet; never more than `buffer`."""
        ahead = self._ahead
        return 0 if ahead is None else ahead.waiting

    def __repr__(self) -> str:
        name = "" if self.name is None else f" '{self.name}'"
        return f"<Stream{name}: {self.items_read} read, {'closed' if self.closed else 'open'}>"

    def __reduce__(self) -> Any:
        raise TypeError("a stream is read where it is made; give a list, or a path that both sides read")

    # ---- the field

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """A stream is made, and its items are validated as those of a generator of T; views show what it is."""
        [kind] = get_args(source) or (Any,)
        items = core_schema.any_schema() if kind is Any or isinstance(kind, TypeVar) else handler.generate_schema(kind)
        return core_schema.no_info_wrap_validator_function(
            partial(taken, kind=None if items["type"] == "any" else kind, name=handler.field_name),
            core_schema.generator_schema(items),
            serialization=core_schema.plain_serializer_function_ser_schema(_shown, info_arg=True),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        """An array of T, which is also what a file may give."""
        return handler(schema["schema"])


# Where in the items an error is, as pydantic tells it: the number of the item comes first.
_PLACES = re.compile(r"(^|; )\d+(?:\.|: )")
_READ_ASYNC = "read it with 'async for', in a tool that is 'async def'"
_READ_ONCE = "read it in one step and once; collect the items in a list where they are needed again"


class _Reader(Iterator[Any]):
    """Goes through a stream. Apart from it, so that nothing takes a stream for an iterator and reads it to show it."""

    __slots__ = ("_has_begun", "_stream")

    def __init__(self, stream: Stream[Any]) -> None:
        self._stream = stream
        self._has_begun = False

    def __next__(self) -> Any:
        stream = self._stream
        if not self._has_begun:
            if stream._is_async:
                raise StreamReadError(stream.name, "its source is async", fix=_READ_ASYNC)
            stream._begin()
            self._has_begun = True
        item = stream._next()
        if item is END:
            raise StopIteration
        return item


class _AsyncReader(AsyncIterator[Any]):
    """The same, awaited."""

    __slots__ = ("_has_begun", "_stream")

    def __init__(self, stream: Stream[Any]) -> None:
        self._stream = stream
        self._has_begun = False

    async def __anext__(self) -> Any:
        if not self._has_begun:
            self._stream._begin()
            self._has_begun = True
        item = await self._stream._next_async()
        if item is END:
            raise StopAsyncIteration
        return item


class _Check(Iterator[Any]):
    """Validates items one by one: pydantic's validator of a generator, fed with an item at a time."""

    def __init__(self, kind: Any, validate: Any) -> None:
        self.kind = kind
        self._item: Any = None
        self._validated = validate(self)

    def __next__(self) -> Any:
        item, self._item = self._item, None
        return item

    def __call__(self, item: Any) -> Any:
        self._item = item
        return next(self._validated)


def taken(value: Any, validate: Any, *, kind: Any, name: str | None) -> Stream[Any]:
    """What a field makes of a value: the stream that it is, or one over it; its items will be validated as `kind`."""
    if not isinstance(value, Stream):
        if not _is_source(value):
            raise PydanticCustomError("stream_type", "Input should be a stream or something to iterate over")
        value = Stream(value)
    stream: Stream[Any] = value
    if stream.name is None:
        stream.name = name
    if kind is not None and not any(check.kind is kind or check.kind == kind for check in stream._checks):
        stream._checks.append(_Check(kind, validate))
    return stream


def _shown(stream: Stream[Any], info: Any) -> Any:
    """A stream in what a model is dumped to: itself, or in JSON a text; never its items."""
    return repr(stream) if info.mode_is_json() else stream


def _is_source(value: Any) -> bool:
    if isinstance(value, (str, bytes, bytearray, Mapping)):
        return False
    return isinstance(value, (Iterable, AsyncIterable))


def close_source(source: Any) -> None:
    """Close an iterator; one that cannot be closed is let go."""
    close = getattr(source, "close", None) if isinstance(source, Iterator) else None
    if close is not None:
        close()


# ---- what a run asks


def opened(values: Any, names: Collection[str]) -> tuple[Any, list[Stream[Any]]]:
    """Make streams of the sources among some values, before anything else can happen to them.

    Args:
        values: Values by name; a model is taken by its fields, and everything else as it is.
        names: Under which streams may be.

    Returns:
        The values, in a new dict where one was replaced; and the streams among them.
    """
    fields = values if isinstance(values, dict) else getattr(values, "__dict__", {})
    made: dict[str, Any] = {}
    found = []
    for name in names:
        value = fields.get(name)
        if isinstance(value, (Iterator, AsyncIterator)) and fields is values:
            value = made[name] = Stream(value)
            value.name = name
        if isinstance(value, Stream):
            found.append(value)
    return ({**values, **made} if made else values), found


def is_begun(values: Mapping[str, Any], names: Collection[str]) -> bool:
    """Whether one of these streams was read from."""
    return any(isinstance(value, Stream) and value._begun for value in map(values.get, names))


def tie(upstream: Iterable[Stream[Any]], downstream: Collection[Stream[Any]]) -> None:
    """Let streams be closed after the last one that was made of them."""
    for one in upstream:
        for other in downstream:
            if not (one.closed or other.closed):
                other._upstream.append(one)
                one._downstream += 1


def unread(streams: Iterable[Stream[Any]], outputs: Iterable[Any]) -> list[Stream[Any]]:
    """Those of the streams of a run that nobody can read once it has ended.

    Left out are those among its outputs, also in the lists that a map makes, and all that these are made of.
    """
    kept: set[int] = set()
    todo = [inner for value in outputs for inner in (value if type(value) is list else [value])]
    while todo:
        value = todo.pop()
        if isinstance(value, Stream) and id(value) not in kept:
            kept.add(id(value))
            todo += value._upstream
    return [one for one in streams if id(one) not in kept]


def needs_await(streams: Iterable[Stream[Any]]) -> bool:
    """Whether only a loop can close one of them."""
    return any(one._needs_await() for one in streams)


def close_all(streams: Iterable[Stream[Any]]) -> None:
    """Close streams; what a source raises is logged, and keeps no other one open."""
    for one in streams:
        try:
            one.close()
        except Exception as exc:
            _report(repr(one), exc)


async def aclose_all(streams: Iterable[Stream[Any]]) -> None:
    """The same on a loop."""
    for one in streams:
        try:
            await one.aclose()
        except Exception as exc:
            _report(repr(one), exc)


def _report(stream: str, exc: Exception) -> None:
    import logging

    logging.getLogger("chainweaver.streams").warning("Closing %s: its source raised", stream, exc_info=exc)
