"""Streams: the events of a run, handed out while it goes on.

The run is carried by somebody else (a daemon thread on the sync lane, a task on the async one) and waits when the
reader is far behind; closing the stream ends it. Called by the facade only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from chainweaver.lanes.cancel import CancellationToken
from chainweaver.observe import EventMiddleware, FlowEvent, Listeners

if TYPE_CHECKING:
    from chainweaver.executor.call import Call
    from chainweaver.executor.runs import Runs
    from chainweaver.plan import Plan

BOUND = 64
"""How many events may wait for their reader."""


class _Held:
    """What holds a run back while its reader is far behind, and what lets it go on without him.

    A run that was told to end, or whose deadline has passed, ends: what it still has to tell waits in the queue.
    """

    def __init__(self, runs: Runs, call: Call) -> None:
        self._outer = call.cancel_token
        self._deadline = call.deadline
        self._wall_time = runs.runtime.wall_time
        # The stream's own token: the caller's may serve other runs, and ends this one too.
        self.token = call.cancel_token = CancellationToken()
        if self._outer is not None:
            self._outer.listen(self.token.cancel)

    def left_s(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return None if self._deadline is None else self._deadline - self._wall_time()

    def is_over(self) -> bool:
        """Whether the run has to end, read or unread."""
        left_s = self.left_s()
        return self.token.is_cancelled or (left_s is not None and left_s <= 0)

    def end(self) -> None:
        """Nobody reads any more."""
        self.token.cancel()
        if self._outer is not None:
            self._outer.unlisten(self.token.cancel)


def stream_sync(
    runs: Runs, plan: Plan, initial_input: Mapping[str, Any], middleware: tuple[object, ...], call: Call
) -> Iterator[FlowEvent]:
    """The events of a run on the sync lane."""
    from queue import SimpleQueue

    from chainweaver.lanes.threads import Bell

    events: SimpleQueue[FlowEvent | BaseException | None] = SimpleQueue()
    room = Bell()
    is_waiting = False

    def put(event: FlowEvent | BaseException | None) -> None:
        nonlocal is_waiting
        # First the note and then the look: a reader who takes something in between sees the note and rings.
        is_waiting = True
        while events.qsize() >= BOUND and not held.is_over():
            room.wait(held.left_s())
        is_waiting = False
        events.put(event)

    def work() -> None:
        end: BaseException | None = None
        try:
            runs.carry_sync(*runs.begin(plan, initial_input, listeners, call))
        except BaseException as exc:
            end = exc
        put(end)

    held = _Held(runs, call)
    held.token.listen(room.ring)
    listeners = Listeners((*middleware, EventMiddleware(put)))
    try:
        runs.resources.threads.start(work)
        while True:
            event = events.get()
            if is_waiting:
                room.ring()
            if event is None:
                return
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        held.end()


async def stream_async(
    runs: Runs, plan: Plan, initial_input: Mapping[str, Any], middleware: tuple[object, ...], call: Call
) -> AsyncIterator[FlowEvent]:
    """The events of a run on the async lane."""
    import anyio

    from chainweaver.lanes.async_ import soon, start_task

    events: deque[FlowEvent | BaseException | None] = deque()
    changed = [anyio.Event(), anyio.Event()]  # something arrived, something was taken

    def signal(which: int) -> None:
        changed[which].set()
        changed[which] = anyio.Event()

    def put(event: FlowEvent | BaseException | None) -> None:
        events.append(event)
        signal(0)

    async def backlog() -> None:
        while len(events) >= BOUND and not held.is_over():
            with anyio.move_on_after(held.left_s()):
                await changed[1].wait()

    async def work() -> None:
        end: BaseException | None = None
        try:
            await runs.carry_async(*runs.begin(plan, initial_input, listeners, call))
        except BaseException as exc:
            end = exc
        put(end)

    held = _Held(runs, call)
    held.token.listen(soon(lambda: signal(1)))
    listeners = Listeners((*middleware, EventMiddleware(put)))
    call.backlog = backlog
    try:
        start_task(work)
        while True:
            while not events:
                await changed[0].wait()
            event = events.popleft()
            signal(1)
            if event is None:
                return
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        held.end()
