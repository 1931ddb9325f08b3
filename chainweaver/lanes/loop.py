"""The private event loop of an executor: one daemon thread on which the sync lane runs async tools.

It is there also when the caller is itself inside a running loop, which it would otherwise have to block. Contextvars of
the caller are visible in what runs here. Nobody who starts or cancels a call waits for the loop: a tool that blocks it
must not hold up those who have a time limit.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

CLOSE_S = 1.0
"""How long `LoopThread.close` waits for the loop to end, in seconds; one that a tool blocks never does."""

DEPTH: ContextVar[int] = ContextVar("chainweaver_loop_depth", default=0)
"""How many private loops the caller is inside of: a tool that blocks one must not wait for work on that very loop."""


class LoopCall:
    """An async call on its way on the loop.

    Attributes:
        finished: It has a value or an error, and its `finally` clauses have run.
        cancelled: It ended by being cancelled, or raised as if it was.
    """

    __slots__ = ("_args", "_depth", "_done", "_fn", "_loop", "_task", "cancelled", "error", "finished", "value")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        depth: int,
        fn: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        done: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._depth = depth
        self._fn = fn
        self._args = args
        self._done = done
        self._task: asyncio.Task[None] | None = None
        self.finished = self.cancelled = False
        self.value: Any = None
        self.error: BaseException | None = None

    def cancel(self) -> None:
        """Ask the call to end; `done` is called when it has."""
        try:
            self._loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:  # the loop has ended, and the call with it
            return

    def begin(self) -> None:
        """Start the task; called on the loop, in the context of the caller."""
        DEPTH.set(self._depth)
        self._task = self._loop.create_task(self._call())
        self._task.add_done_callback(self._end)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _call(self) -> None:
        # The loop may hold this call for longer than its caller does, and is not to hold what went in and out (R37).
        args, self._args = self._args, ()
        try:
            self.value = await self._fn(*args)
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            # KeyboardInterrupt and SystemExit are for the caller; here they would end the loop of everybody.
            self.error = exc

    def _end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self.error = asyncio.CancelledError()
            self.cancelled = True
        self.finished = True
        self._done()


class LoopThread:
    """An event loop in a thread of its own.

    Args:
        depth: How many private loops a tool on this one is inside of.
    """

    def __init__(self, depth: int = 1) -> None:
        self._depth = depth
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="chainweaver-loop", daemon=True)
        self._thread.start()

    def start(self, fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...], done: Callable[[], None]) -> LoopCall:
        """Call an async function there; `done` is called on the loop when it has ended.

        Raises:
            RuntimeError: The loop was closed.
        """
        call = LoopCall(self._loop, self._depth, fn, args, done)
        with self._lock:
            # What is handed over after the loop was told to stop might never begin, and its caller wait for ever.
            if self._closed:
                raise RuntimeError("The private event loop was closed while a tool was about to start on it.")
            self._loop.call_soon_threadsafe(call.begin)
        return call

    def close(self) -> None:
        """Cancel what runs on the loop, close what was left open there, and end the thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_S)

    def _serve(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
