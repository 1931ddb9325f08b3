"""Streams: the events of a run, handed out while it goes on.

The run is carried by somebody else (a daemon thread on the sync lane, a task on the async one) and waits when the
reader is far behind; closing the stream ends it. Called by the facade only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from chainweaver.lanes.cancel import CancellationToken
from chainweaver.observe import EventMiddleware, FlowEvent, Listeners

if TYPE_CHECKING:
    from chainweaver.executor.call import Call
    from chainweaver.executor.runs import Runs
    from chainweaver.observe import FlowEndContext
    from chainweaver.plan import Plan
    from chainweaver.results import ExecutionResult

BOUND = 64
"""How many events may wait for their reader; each of those who tell at the same time may add one more."""


class _Held:
    """What holds a run back while its reader is far behind, and what lets it go on without him.

    A run that was told to end, or whose deadline has passed, ends: what it still has to tell waits in the queue.

    Attributes:
        waiting: How to wake those who are held back; a dict is an ordered set whose single operations are atomic.
    """

    def __init__(self, runs: Runs, call: Call, count: Callable[[], int]) -> None:
        self._outer = call.cancel_token
        self._deadline = call.deadline
        self._wall_time = runs.runtime.wall_time
        self._count = count
        self.waiting: dict[Callable[[], None], None] = {}
        # The stream's own token: the caller's may serve other runs, and ends this one too.
        self.token = call.cancel_token = CancellationToken()
        self.token.listen(self.wake)
        if self._outer is not None:
            self._outer.listen(self.token.cancel)

    def wake(self) -> None:
        """Have everybody look again."""
        for wake in list(self.waiting):
            wake()

    def left_s(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return None if self._deadline is None else self._deadline - self._wall_time()

    def is_back(self) -> bool:
        """Whether the run has to wait: the reader is far behind, and nobody has asked for the end."""
        if self._count() < BOUND or self.token.is_cancelled:
            return False
        left_s = self.left_s()
        return left_s is None or left_s > 0

    def block(self) -> None:
        """Hold the calling thread back."""
        from chainweaver.lanes.threads import Bell

        bell = Bell()
        self.waiting[bell.ring] = None
        try:
            # First the note and then the look: a reader who takes something in between sees the note and rings.
            while self.is_back():
                bell.wait(self.left_s())
        finally:
            del self.waiting[bell.ring]

    async def suspend(self) -> None:
        """Hold the calling task back, whoever takes the events in whatever thread."""
        import anyio

        from chainweaver.lanes.async_ import soon

        while self.is_back():
            event = anyio.Event()
            wake = soon(event.set)
            self.waiting[wake] = None
            try:
                if self.is_back():
                    with anyio.move_on_after(self.left_s()):
                        await event.wait()
            finally:
                del self.waiting[wake]

    def end(self) -> None:
        """Nobody reads any more."""
        self.token.cancel()
        if self._outer is not None:
            self._outer.unlisten(self.token.cancel)


class _Outcome:
    """Notes the result that a call would return."""

    result: ExecutionResult | None = None

    def on_flow_end(self, context: FlowEndContext) -> None:
        if context.parent_trace_id is None:
            self.result = context.result


def _telling(runs: Runs, emit: Callable[[FlowEvent], object]) -> tuple[object, ...]:
    """What hands the events of a run to its reader: as the redaction policy shows them, but for the result of the run.

    That one hides in its records what the policy says, and its output is what the reader has called for (R39).
    """
    outcome = _Outcome()

    def put(event: FlowEvent) -> None:
        if event.kind == "flow_end" and event.parent_trace_id is None:
            event.result = outcome.result
        emit(event)

    return outcome, runs.shown(EventMiddleware(put))


def is_on_a_loop() -> bool:
    """Whether the caller is in a task of asyncio: one of the private loop, which serves other runs as well."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def stream_sync(
    runs: Runs, plan: Plan, initial_input: Mapping[str, Any], middleware: tuple[object, ...], call: Call
) -> Iterator[FlowEvent]:
    """The events of a run on the sync lane."""
    from queue import SimpleQueue

    events: SimpleQueue[FlowEvent | BaseException | None] = SimpleQueue()

    async def backlog() -> None:
        if not held.is_back():
            return
        if is_on_a_loop():
            await held.suspend()
        else:
            held.block()

    def work() -> None:
        end: BaseException | None = None
        try:
            runs.carry_sync(*runs.begin(plan, initial_input, listeners, call))
        except BaseException as exc:
            end = exc
        events.put(end)

    held = _Held(runs, call, events.qsize)
    listeners = Listeners((*middleware, *_telling(runs, events.put)))
    call.backlog = backlog
    try:
        runs.resources.threads.start(work)
        while True:
            event = events.get()
            held.wake()
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

    from chainweaver.lanes.async_ import start_task

    events: deque[FlowEvent | BaseException | None] = deque()
    arrived = anyio.Event()

    def put(event: FlowEvent | BaseException | None) -> None:
        events.append(event)
        arrived.set()

    async def work() -> None:
        end: BaseException | None = None
        try:
            await runs.carry_async(*await runs.begin_async(plan, initial_input, listeners, call))
        except BaseException as exc:
            end = exc
        put(end)

    held = _Held(runs, call, events.__len__)
    listeners = Listeners((*middleware, *_telling(runs, put)))
    call.backlog = held.suspend
    try:
        start_task(work)
        while True:
            while not events:
                arrived = anyio.Event()
                await arrived.wait()
            event = events.popleft()
            held.wake()
            if event is None:
                return
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        held.end()
