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
    from chainweaver.executor.facade import FlowExecutor
    from chainweaver.plan import Plan

BOUND = 64
"""How many events may wait for their reader."""


def _own_token(call: Call) -> CancellationToken:
    """A token for the stream to cancel, which the caller's token cancels too."""
    own = CancellationToken()
    if call.cancel_token is not None:
        call.cancel_token.listen(own.cancel)
    call.cancel_token = own
    return own


def _listen(executor: FlowExecutor, call: Call, put: Any) -> None:
    call.listeners = Listeners((*executor._settings["middleware"], EventMiddleware(put)))


def stream_sync(
    executor: FlowExecutor, plan: Plan, initial_input: Mapping[str, Any], call: Call
) -> Iterator[FlowEvent]:
    """The events of a run on the sync lane."""
    from queue import Full, Queue

    events: Queue[FlowEvent | BaseException | None] = Queue(BOUND)
    outer = call.cancel_token
    token = _own_token(call)
    closed = False

    def put(event: FlowEvent | BaseException | None) -> None:
        while not closed:
            try:
                events.put(event, timeout=0.05)
            except Full:
                continue
            return

    def work() -> None:
        end: BaseException | None = None
        try:
            bound = executor._bound or executor._bind()
            executor._run_sync(bound, *executor._begin(plan, initial_input, bound, call))
        except BaseException as exc:
            end = exc
        put(end)

    _listen(executor, call, put)
    (executor._bound or executor._bind()).resources.threads.start(work)
    try:
        while True:
            event = events.get()
            if event is None:
                return
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        closed = True
        token.cancel()
        if outer is not None:
            outer.unlisten(token.cancel)


async def stream_async(
    executor: FlowExecutor, plan: Plan, initial_input: Mapping[str, Any], call: Call
) -> AsyncIterator[FlowEvent]:
    """The events of a run on the async lane."""
    import anyio

    from chainweaver.lanes.async_ import start_task

    events: deque[FlowEvent | BaseException | None] = deque()
    outer = call.cancel_token
    token = _own_token(call)
    changed = [anyio.Event(), anyio.Event()]  # something arrived, something was taken

    def signal(which: int) -> None:
        changed[which].set()
        changed[which] = anyio.Event()

    def put(event: FlowEvent | BaseException | None) -> None:
        events.append(event)
        signal(0)

    async def backlog() -> None:
        while len(events) >= BOUND and not token.is_cancelled:
            await changed[1].wait()

    async def work() -> None:
        end: BaseException | None = None
        try:
            bound = executor._bound or executor._bind()
            await executor._run_async(bound, *executor._begin(plan, initial_input, bound, call))
        except BaseException as exc:
            end = exc
        put(end)

    _listen(executor, call, put)
    call.backlog = backlog
    start_task(work)
    try:
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
        token.cancel()
        signal(1)
        if outer is not None:
            outer.unlisten(token.cancel)
