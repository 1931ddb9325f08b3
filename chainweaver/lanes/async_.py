"""The async lane: commands performed by awaiting, on asyncio and trio alike (through anyio).

Async tools run in the calling task or in sibling tasks; sync tools in daemon threads, unless their lane is "inline".
What happens in other threads reaches the loop as a note that it will read; nobody ever waits for a loop.
"""

from __future__ import annotations

import contextlib
import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import anyio
from anyio.lowlevel import current_token

from chainweaver._execution.commands import RunCancelled, TimedOut
from chainweaver._execution.schedule import Schedule
from chainweaver.lanes.cancel import NEVER, Stop
from chainweaver.lanes.drive import Carrier, call_here, drive, enter
from chainweaver.lanes.sync import LaneJob, ThreadJob, value_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from types import TracebackType

    from chainweaver._execution.rules import Wrapper
    from chainweaver._execution.run import Run
    from chainweaver._execution.schedule import StepRun
    from chainweaver.cache.flight import Flight
    from chainweaver.lanes.cancel import CancellationToken
    from chainweaver.lanes.services import Services
    from chainweaver.lanes.sync import Job, Resources
    from chainweaver.plan import PlannedTool


Reach: TypeAlias = "Callable[[Callable[[], None]], Callable[[], None]]"


def soon(fn: Callable[[], object]) -> Callable[[], None]:
    """The function, to be called from any thread or signal handler; the loop that is running now calls it soon.

    Whoever calls it does not wait. A loop that has ended meanwhile has nobody to tell.
    """
    loop: Any = current_token().native_token
    call_soon = loop.run_sync_soon if hasattr(loop, "run_sync_soon") else loop.call_soon_threadsafe

    def call() -> None:
        with contextlib.suppress(RuntimeError):
            call_soon(fn)

    return call


def is_task_cancelled() -> bool:
    """Whether the cancellation that the running task has just received came from outside of what it called."""
    if _is_trio():
        return False  # there it is no asyncio.CancelledError
    import asyncio

    cancelling = getattr(asyncio.current_task(), "cancelling", None)
    # Python 3.10 keeps no count of requests; to lose one would be worse than to mistake a tool's own for one.
    return cancelling is None or cancelling() > 0


def at_once(fn: Callable[[], None]) -> Callable[[], None]:
    """The function itself: the stops of a crowd are set on the loop they end something on."""
    return fn


class Stoppable:
    """A cancel scope that a `Stop` ends too. A class: a generator would cost half as much as the scope itself."""

    __slots__ = ("cancel", "reach", "scope", "stop")

    def __init__(self, stop: Stop, reach: Reach | None, timeout_s: float | None) -> None:
        self.stop = stop
        self.reach = reach
        self.scope = anyio.CancelScope() if timeout_s is None else anyio.move_on_after(timeout_s)

    def __enter__(self) -> anyio.CancelScope:
        scope = self.scope.__enter__()
        if self.reach is not None:
            self.cancel = self.reach(scope.cancel)
            self.stop.wake(self.cancel)
        return scope

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> bool:
        if self.reach is not None:
            self.stop.unwake(self.cancel)
        return bool(self.scope.__exit__(kind, exc, tb))


class AwaitingPerformer:
    """Performs by suspending the task it is called in.

    Attributes:
        reach: Makes of a cancel function one that whoever sets `stop` may call. None: nobody sets it, so that calls
            need no cancel scope, which costs more than a whole step.
    """

    def __init__(self, services: Services, resources: Resources, stop: Stop, reach: Reach | None) -> None:
        self.services = services
        self.resources = resources
        self.stop = stop
        self.reach = reach
        self.owns_thread = resources.default_lane == "inline"

    async def call(self, tool: PlannedTool, args: tuple[Any, ...], timeout_s: float | None) -> Any:
        if timeout_s is None and tool.is_async and self.reach is None:
            return await tool.fn(*args)
        lane = None if tool.is_async else self.resources.lane_of(tool)
        if timeout_s is None and lane == "inline":
            return call_here(tool, args)
        if tool.is_async:
            return await self._await(tool, args, timeout_s)
        return await self._call_elsewhere(lane, tool, args, timeout_s)

    async def _await(self, tool: PlannedTool, args: tuple[Any, ...], timeout_s: float | None) -> Any:
        """Await an async tool, which the time limit or the end of the run cancels."""
        began_ns = self.services.runtime.now_ns()
        reply: Any = None
        failure: Exception | None = None
        with self._scope(timeout_s) as scope:
            try:
                reply = await tool.fn(*args)
            except Exception as exc:
                failure = exc
        if scope.cancelled_caught:
            self.stop.check()
            raise TimedOut
        self._refuse_late(scope, timeout_s, began_ns)
        if failure is not None:
            raise failure
        return reply

    async def _call_elsewhere(
        self, lane: Any, tool: PlannedTool, args: tuple[Any, ...], timeout_s: float | None
    ) -> Any:
        """Call a sync tool in a thread or on a lane of the user; one that is late or in vain is left behind."""
        began_ns = self.services.runtime.now_ns()
        event = anyio.Event()
        if lane in (None, "inline", "thread"):
            job: Job = ThreadJob(lambda: tool.fn(*args), soon(event.set))
            self.resources.threads.start(job)  # type: ignore[arg-type]  # a ThreadJob is callable
        elif lane == "process":
            resources = self.resources
            # It keeps its time limit itself: until its worker has started, no time of the tool's goes by.
            trust = self.services.trust
            job = resources.processes.start(resources.threads, tool, args, timeout_s, trust, soon(event.set))
            timeout_s = None
        else:
            job = LaneJob(lane, tool, args, soon(event.set))
        has_ended = False
        with self._scope(timeout_s) as scope:
            try:
                await event.wait()
            finally:
                has_ended = job.finished
                job.cancel()
        if not has_ended:
            self.stop.check()
            raise TimedOut(abandoned=not job.finished)
        self._refuse_late(scope, timeout_s, began_ns)
        return value_of(job)

    def _refuse_late(self, scope: anyio.CancelScope, timeout_s: float | None, began_ns: int) -> None:
        """A tool that did end, but after its time."""
        if timeout_s is None:
            return
        by_timer = scope.cancel_called and self.stop.reason is None
        if by_timer or self.services.runtime.now_ns() - began_ns > timeout_s * 1e9:
            raise TimedOut

    async def sleep(self, seconds: float) -> None:
        if self.services.runtime.pause is not None:
            self.services.runtime.pause(seconds)
            return
        with self._scope(None):
            await anyio.sleep(seconds)
        self.stop.check()

    async def wait_for(self, flight: Flight, timeout_s: float | None) -> dict[str, Any] | None:
        told: list[dict[str, Any] | None] = []
        event = anyio.Event()
        wake = soon(event.set)

        def tell(outputs: dict[str, Any] | None) -> None:
            told.append(outputs)
            wake()

        flight.add_waiter(tell)
        try:
            with self._scope(timeout_s):
                await event.wait()
        finally:
            flight.remove_waiter(tell)
        if not told:
            self.stop.check()
            raise TimedOut
        return told[0]

    def is_interrupted(self) -> bool:
        return is_task_cancelled()

    def _scope(self, timeout_s: float | None) -> Stoppable:
        """A cancel scope that ends at the time limit, or when the run is told to end."""
        return Stoppable(self.stop, self.reach, timeout_s)


class StoreCalls:
    """The calls of one run to its store, one after the other: made here where it answers at once, else in a thread.

    Whoever cancels the task waits until a call has ended, so that none is lost, made twice, or under way when the run
    is over.

    Args:
        at_once: Makes a call that does not wait; raises BlockingIOError where it would have to (see `Checkpointer`).
    """

    def __init__(self, at_once: Callable[[Callable[[], Any]], Any], resources: Resources) -> None:
        self._at_once = at_once
        self._resources = resources
        self._under_way: anyio.Event | None = None

    async def __call__(self, call: Callable[[], Any]) -> Any:
        interrupt: BaseException | None = None
        while self._under_way is not None:  # that of a sibling
            interrupt = await _outlast(self._under_way) or interrupt
        try:
            try:
                return self._at_once(call)
            except BlockingIOError:
                ended = self._begin(call)
            return await ended()
        finally:
            if interrupt is not None:
                raise interrupt

    def _begin(self, call: Callable[[], Any]) -> Callable[[], Coroutine[Any, Any, Any]]:
        """Have a thread make a call; what waits for its end."""
        done = self._under_way = anyio.Event()

        def end() -> None:
            self._under_way = None
            done.set()

        job = ThreadJob(call, soon(end))
        try:
            self._resources.threads.start(job)
        except BaseException:  # there are no more threads
            end()
            raise

        async def ended() -> Any:
            interrupt = await _outlast(done)
            if interrupt is not None:
                raise interrupt
            return value_of(job)

        return ended


def asking(store: object, resources: Resources) -> StoreCalls | None:
    """What makes the calls of a run to its store; None for a store that never has to wait."""
    at_once = getattr(store, "at_once", None)
    return None if at_once is None else StoreCalls(at_once, resources)


async def _outlast(event: anyio.Event) -> BaseException | None:
    """Wait for an event, whatever this task is told meanwhile; what that was."""
    interrupt: BaseException | None = None
    with anyio.CancelScope(shield=True):
        while not event.is_set():
            try:
                await event.wait()
            except GeneratorExit:  # a coroutine that is closed cannot wait
                raise
            except BaseException as exc:  # asyncio's own cancellation, which no scope holds off, or Ctrl-C
                interrupt = interrupt or exc
    return interrupt


async def run_async(
    run: Run, services: Services, resources: Resources, limit: int, token: CancellationToken | None
) -> None:
    """Perform a run in this task, and in others where the limit permits.

    Raises:
        BaseException: What cancelled or interrupted the caller; the run has ended by then.
    """
    try:
        if limit > 1 or run.plan.needs_schedule:
            await _TaskCrowd(run, services, resources, limit).execute(token)
        elif token is None:
            await drive(run, AwaitingPerformer(services, resources, NEVER, None))
        else:
            await _run_alone(run, services, resources, token)
    except BaseException:
        # A task may be cancelled at any await, also at one that performs no command.
        run.cancelled = run.cancelled or RunCancelled("interrupt")
        raise
    finally:
        if services.cache is not None:
            services.hand_over()


async def enter_async(
    run: Run, services: Services, resources: Resources, token: CancellationToken | None, opened: list[Wrapper]
) -> None:
    """Let the generators around a run get to their `Proceed`, in this task."""
    stop = Stop()
    if token is not None:
        token.listen(stop.set_by_token)
    try:
        await enter(run, AwaitingPerformer(services, resources, stop, soon), opened)
    finally:
        if token is not None:
            token.unlisten(stop.set_by_token)


async def close_streams_async(run: Run, *, is_lost: bool = False) -> None:
    """As `close_streams` of the sync lane, whatever the calling task is told meanwhile."""
    from chainweaver.objects.streams import aclose_all, unread

    with anyio.CancelScope(shield=True):
        await aclose_all(unread(run.streams.values(), () if is_lost else (run.final_output or {}).values()))


async def _run_alone(run: Run, services: Services, resources: Resources, token: CancellationToken) -> None:
    """Perform a run at limit 1 that a token may end."""
    stop = Stop()
    token.listen(stop.set_by_token)
    try:
        await drive(run, AwaitingPerformer(services, resources, stop, soon))
    finally:
        token.unlisten(stop.set_by_token)


class _TaskCrowd:
    """The tasks of one run. The calling task carries like any other."""

    def __init__(self, run: Run, services: Services, resources: Resources, limit: int) -> None:
        self.services = services
        self.resources = resources
        self.calls_inline = resources.default_lane == "inline"
        # Never contended: all replies come from tasks of one thread.
        self.lock: AbstractContextManager[Any] = threading.Lock()
        self.carrier = Carrier(run, Schedule(run, limit), self)
        self.siblings: _Siblings | None = None

    # ---- what the carrier asks for

    def performer(self, stop: Stop) -> AwaitingPerformer:
        return AwaitingPerformer(self.services, self.resources, stop, at_once)

    def split(self, going: list[StepRun]) -> tuple[StepRun | None, Sequence[StepRun]]:
        return going[0], going[1:]

    def spawn(self, step_run: StepRun) -> None:
        assert self.siblings is not None, "siblings are spawned while somebody waits for them"
        self.siblings.start(lambda: self._guarded(self.carrier.carry, [step_run]), step_run.step.step_id)

    def over(self) -> None:
        """Nothing to do: the calling task waits for its siblings by itself."""

    def is_interrupted(self) -> bool:
        return is_task_cancelled()

    # ---- the calling task

    async def execute(self, token: CancellationToken | None) -> None:
        heed = soon(self._heed)

        def cancelled() -> None:
            # Only the note: this may be any thread, and stops are set on the loop alone.
            self.carrier.asked = "token"
            heed()

        if token is not None:
            token.listen(cancelled)
        try:
            self.siblings = _OnTrio() if _is_trio() else _OnAsyncio()
            await self.siblings.around(lambda: self._guarded(self.carrier.start))
        finally:
            if token is not None:
                token.unlisten(cancelled)
        if self.carrier.interrupt is not None:
            raise self.carrier.interrupt

    async def _guarded(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Await work of this run; what it raises leaves the call as it is, and not as a group of exceptions."""
        assert self.siblings is not None, "work is done while somebody waits for it"
        try:
            await work(*args)
        except BaseException as exc:
            self.carrier.interrupt = self.carrier.interrupt or exc
            self.siblings.cancel()

    def _heed(self) -> None:
        for step_run in self.carrier.heed():
            self.spawn(step_run)


Work: TypeAlias = "Callable[[], Coroutine[Any, Any, None]]"


class _Siblings(Protocol):
    """The tasks beside the calling one. What they do handles its own exceptions."""

    def start(self, work: Work, name: str) -> None:
        """Begin a task."""
        ...

    def cancel(self) -> None:
        """Cancel all of them, and the calling task inside of `around`."""
        ...

    async def around(self, work: Work) -> None:
        """Do work in the calling task, and wait for all siblings."""
        ...


class _OnTrio:
    """Siblings in a task group."""

    def __init__(self) -> None:
        self._group = anyio.create_task_group()

    def start(self, work: Work, name: str) -> None:
        self._group.start_soon(work, name=name)

    def cancel(self) -> None:
        self._group.cancel_scope.cancel()

    async def around(self, work: Work) -> None:
        async with self._group:
            await work()


class _OnAsyncio:
    """Siblings as plain tasks of the running loop: one in a task group costs five times as much."""

    def __init__(self) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop()
        self._tasks: set[Any] = set()
        self._scope = anyio.CancelScope()
        self._over = anyio.Event()

    def start(self, work: Work, name: str) -> None:
        task = self._loop.create_task(work(), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: Any) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._over.set()

    def cancel(self) -> None:
        self._scope.cancel()
        for task in list(self._tasks):
            task.cancel()

    async def around(self, work: Work) -> None:
        with self._scope:
            await work()
        interrupt: BaseException | None = None
        while self._tasks:
            self._over = anyio.Event()
            try:
                await self._over.wait()
            except BaseException as exc:  # whoever cancels the caller cancels its siblings, and still waits for them
                interrupt = interrupt or exc
                self.cancel()
        if interrupt is not None:
            raise interrupt


def _is_trio() -> bool:
    return "trio" in current_token().backend_class.__module__


def start_task(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine in a task of its own on the loop that is running now, with the contextvars of the caller.

    For streams: an async generator must not hold a task group open between two items, since its reader may go on in
    another task, or never.
    """
    if _is_trio():
        import contextvars

        import trio

        trio.lowlevel.spawn_system_task(work, context=contextvars.copy_context())
        return
    import asyncio

    task = asyncio.get_running_loop().create_task(work())
    # The loop keeps weak references only.
    _TASKS.add(task)
    task.add_done_callback(_TASKS.discard)


_TASKS: set[Any] = set()
