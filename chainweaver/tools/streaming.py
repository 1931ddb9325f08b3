"""Tools that report while they work.

A StreamingTool yields chunks; the final one carries the outputs. Who listens (`stream_flow`) reads `stream_fn`; who
does not calls `fn`, which reads the chunks to the end, so such a tool runs wherever an async tool runs.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chainweaver.exceptions import ToolDefinitionError
from chainweaver.tools.definition import Tool

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class ToolChunk:
    """A piece of what a streaming tool has to say.

    Attributes:
        data: Anything for the listeners; in the final chunk the outputs, a mapping or a model.
        is_final: Whether this is the last chunk.
    """

    data: Any
    is_final: bool = False


StreamFunction = Callable[[Any], AsyncIterator[ToolChunk]]


class StreamingTool(Tool):
    """A tool that yields chunks while it works.

    Args:
        stream_fn: Called as `stream_fn(inputs)`; gives an async iterator of `ToolChunk`, the last one final.
        arguments: As for `Tool`, without `fn`.

    Raises:
        ToolDefinitionError: Arguments that make no tool.

    >>> import asyncio
    >>> from pydantic import BaseModel
    >>> class Text(BaseModel):
    ...     text: str
    >>> async def spell(inputs):
    ...     for letter in inputs.text:
    ...         yield ToolChunk(letter)
    ...     yield ToolChunk({"text": inputs.text.upper()}, is_final=True)
    >>> spelling = StreamingTool(name="spell", description="", input_schema=Text, output_schema=Text, stream_fn=spell)
    >>> asyncio.run(spelling.run_async({"text": "ab"}))
    {'text': 'AB'}
    """

    stream_fn: StreamFunction

    is_streaming = True

    def __init__(
        self,
        *,
        name: str,
        description: str,
        input_schema: type[BaseModel],
        output_schema: type[BaseModel],
        stream_fn: StreamFunction,
        **arguments: Any,
    ) -> None:
        refuse_other_streams(name, stream_fn)

        super().__init__(
            name=name,
            description=description,
            input_schema=input_schema,
            output_schema=output_schema,
            # A partial of a function, not a closure: such a tool can be pickled.
            fn=functools.partial(collect, stream_fn),
            **arguments,
        )
        vars(self)["stream_fn"] = stream_fn


def refuse_other_streams(tool_name: str, stream_fn: object) -> None:
    """Raise ToolDefinitionError for what cannot give an async iterator."""
    if not callable(stream_fn):
        raise ToolDefinitionError(tool_name, f"stream_fn is {stream_fn!r}, not callable", fix="pass an async generator")
    if inspect.iscoroutinefunction(stream_fn) or inspect.isgeneratorfunction(stream_fn):
        raise ToolDefinitionError(
            tool_name, "stream_fn gives no async iterator", fix="write it as `async def` with `yield ToolChunk(...)`"
        )


async def collect(stream_fn: StreamFunction, inputs: BaseModel) -> Any:
    """What a streaming tool does where nobody listens."""
    return await final_outputs(stream_fn(inputs))


async def final_outputs(chunks: AsyncIterator[ToolChunk]) -> Any:
    """Read the chunks up to the final one and return what it carries; the iterator is closed afterwards.

    Raises:
        TypeError: Something else than a chunk came.
        RuntimeError: The stream ended without a final one.
    """
    async with closed_after(chunks):
        async for chunk in chunks:
            if not isinstance(chunk, ToolChunk):
                raise TypeError(f"its stream gave {type(chunk).__name__}, not ToolChunk; yield ToolChunk(data)")
            if chunk.is_final:
                return chunk.data
    raise RuntimeError("its stream ended without a final chunk; yield ToolChunk(outputs, is_final=True) last")


@asynccontextmanager
async def closed_after(chunks: AsyncIterator[ToolChunk]) -> AsyncIterator[AsyncIterator[ToolChunk]]:
    """The iterator, closed when its reader is done: what a stream holds open must not wait for the collector."""
    try:
        yield chunks
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()
