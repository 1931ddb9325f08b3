"""The private event loop of an executor: one daemon thread on which the sync lane runs async tools.

It is there also when the caller is itself inside a running loop, which it would otherwise have to block. Contextvars of
the caller are visible in what runs here.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from anyio.from_thread import start_blocking_portal

if TYPE_CHECKING:
    from concurrent.futures import Future


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._entered = start_blocking_portal(name="chainweaver-loop")
        self._portal = self._entered.__enter__()

    def start(self, fn: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]) -> Future[Any]:
        """Call an async function there; cancelling the future cancels the call."""
        return self._portal.start_task_soon(fn, *args)

    def close(self) -> None:
        """End the loop after what runs on it has been cancelled."""
        self._portal.start_task_soon(self._portal.stop, True)
        self._entered.__exit__(None, None, None)
