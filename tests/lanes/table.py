"""The lanes, as tests see them: one table that every scenario joins.

A scenario takes a `Lane` and says what should hold; a new lane joins `LANES` and every scenario then applies to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import trio

from chainweaver import ExecutionResult, FlowExecutor
from chainweaver.lanes.processes import Processes


@dataclass(frozen=True)
class Lane:
    """One way to run a flow.

    Attributes:
        name: As results of this table are called.
        backend: Runs an async function to its end; None for lanes that are called without a loop.
        options: What an executor gets beside tools and flows.
    """

    name: str
    backend: Callable[[Callable[[], Awaitable[Any]]], Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_async(self) -> bool:
        return self.backend is not None

    def executor(self, **options: Any) -> FlowExecutor:
        return FlowExecutor(**{**self.options, **options})

    def run(self, executor: FlowExecutor, name: str, given: dict[str, Any], **options: Any) -> ExecutionResult:
        """Run a flow from a thread in which no loop is running."""
        backend = self.backend
        if backend is None:
            return executor.execute_flow(name, given, **options)

        async def call() -> ExecutionResult:
            return await executor.execute_flow_async(name, given, **options)

        result: ExecutionResult = backend(call)
        return result

    def __repr__(self) -> str:
        return self.name


def _asyncio(work: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await work()

    return asyncio.run(main())


def _trio(work: Callable[[], Awaitable[Any]]) -> Any:
    return trio.run(work)


SYNC = Lane("sync")
THREADS = Lane("threads", options={"lane": "thread"})
ASYNCIO = Lane("asyncio", _asyncio)
TRIO = Lane("trio", _trio)

LANES = (SYNC, THREADS, ASYNCIO, TRIO)
LIMITS = (1, 2, 16)

PROCESS = Lane("process", options={"lane": "process"})
ASYNCIO_PROCESS = Lane("asyncio-process", _asyncio, options={"lane": "process"})
TRIO_PROCESS = Lane("trio-process", _trio, options={"lane": "process"})

PROCESS_LANES = (PROCESS, ASYNCIO_PROCESS, TRIO_PROCESS)
"""Lanes whose sync tools run in worker processes. Apart from LANES: code is not sent, so a tool has to have a name that
an import leads to, and most tests define theirs inside a function."""

_crew: Processes | None = None


@contextmanager
def borrowed_workers(executor: FlowExecutor) -> Iterator[Processes]:
    """Let an executor use workers that are kept for the next one: starting them takes longer than most runs."""
    global _crew
    if _crew is None:
        _crew = Processes(2)
    resources = executor._bind().resources
    resources._processes = _crew
    try:
        yield _crew
    finally:
        resources._processes = None


async def pause(seconds: float) -> None:
    """A wait for async tools, on whatever loop they run."""
    await anyio.sleep(seconds)
