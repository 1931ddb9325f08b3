"""The async lane: commands performed by awaiting, on asyncio and trio alike (through anyio).

Async tools run in the calling task or in sibling tasks; sync tools in daemon threads, unless their lane is "inline".
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup
from anyio.from_thread import run_sync as run_in_loop
from anyio.lowlevel import current_token

from chainweaver._execution.commands import TimedOut
from chainweaver._execution.schedule import Schedule
from chainweaver.lanes.cancel import NEVER, Stop
from chainweaver.lanes.drive import Carrier, drive
from chainweaver.lanes.sync import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from chainweaver._execution.run import Run
    from chainweaver._execution.schedule import StepRun
    from chainweaver.cache.flight import Flight
    from chainweaver.lanes.cancel import CancellationToken
    from chainweaver.lanes.services import Services
    from chainweaver.lanes.sync import Resources
    from chainweaver.plan import PlannedTool


def from_anywhere(fn: Callable[[], object]) -> Callable[[], None]:
    """The function, to be called from any thread; it runs on the loop that is running now.

    A loop that has ended meanwhile has nobody to tell.
    """
    token, home = current_token(), threading.get_ident()

    def call() -> None:
        if threading.get_ident() == home:
            fn()
        else:
            with contextlib.suppress(RuntimeError):
                run_in_loop(fn, token=token)

    return call


class AwaitingPerformer:
    """Performs by suspending the task it is called in.

    Attributes:
        watched: Somebody may set `stop`, so that calls need a cancel scope; one costs more than a whole step.
    """

    owns_thread = False

    def __init__(self, services: Services, resources: Resources, stop: Stop, watched: bool) -> None:
        self.services = services
        self.resources = resources
        self.stop = stop
        self.watched = watched

    async def call(self, tool: PlannedTool, args: tuple[Any, ...], timeout_s: float | None) -> Any:
        lane = tool.lane or self.resources.default_lane
        if lane == "inline" and not tool.is_async and timeout_s is None:
            return tool.fn(*args)
        if tool.is_async and timeout_s is None and not self.watched:
            return await tool.fn(*args)
        now_ns = self.services.runtime.now_ns
        began_ns = now_ns()
        with self._scope(timeout_s) as scope:
            if tool.is_async:
                reply = await tool.fn(*args)
            elif lane in (None, "inline", "thread"):
                reply = await self._in_thread(lambda: tool.fn(*args))
            else:
                reply = await self._in_lane(self.resources.lanes.get(lane, lane), tool, args)
        if scope.cancelled_caught:
            self.stop.check()
            raise TimedOut(abandoned=not tool.is_async)
        if timeout_s is not None and now_ns() - began_ns > timeout_s * 1e9:
            raise TimedOut
        return reply

    async def sleep(self, seconds: float) -> None:
        if self.services.runtime.pause is not None:
            self.services.runtime.pause(seconds)
            return
        with self._scope(None):
            await anyio.sleep(seconds)

    async def wait_for(self, flight: Flight, timeout_s: float | None) -> dict[str, Any] | None:
        told: list[dict[str, Any] | None] = []
        event = anyio.Event()
        wake = from_anywhere(event.set)

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

    @contextlib.contextmanager
    def _scope(self, timeout_s: float | None) -> Iterator[anyio.CancelScope]:
        """A cancel scope that ends at the time limit, or when the run is told to end."""
        with anyio.move_on_after(timeout_s) as scope:
            cancel = from_anywhere(scope.cancel)
            self.stop.wake(cancel)
            try:
                yield scope
            finally:
                self.stop.unwake(cancel)

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        event = anyio.Event()
        job = Job(call, from_anywhere(event.set))
        self.resources.threads.start(job)
        await event.wait()
        if job.error is not None:
            raise job.error
        return job.value

    async def _in_lane(self, lane: Any, tool: PlannedTool, args: tuple[Any, ...]) -> Any:
        event = anyio.Event()
        wake = from_anywhere(event.set)
        future = lane.submit(tool.fn, *args)
        future.add_done_callback(lambda _: wake())
        try:
            await event.wait()
        except BaseException:
            future.cancel()
            raise
        return future.result()


async def run_async(
    run: Run, services: Services, resources: Resources, limit: int, token: CancellationToken | None
) -> None:
    """Perform a run in this task, and in others where the limit permits.

    Raises:
        BaseException: What cancelled or interrupted the caller; the run has ended by then.
    """
    if limit > 1:
        await _TaskCrowd(run, services, resources, limit).execute(token)
        return
    if token is None:
        await drive(run, AwaitingPerformer(services, resources, NEVER, False))
        return
    stop = Stop()
    performer = AwaitingPerformer(services, resources, stop, True)
    token.listen(stop.set_by_token)
    try:
        await drive(run, performer)
    finally:
        token.unlisten(stop.set_by_token)


class _TaskCrowd:
    """The tasks of one run. The calling task carries like any other."""

    def __init__(self, run: Run, services: Services, resources: Resources, limit: int) -> None:
        self.services = services
        self.resources = resources
        self.schedule = Schedule(run, limit)
        self.carrier = Carrier(self.schedule, self, services.runtime.now_ns)
        self.lock = threading.Lock()  # never contended: all replies come from tasks of one thread
        self.tasks: TaskGroup | None = None

    # ---- what the carrier asks for

    def performer_for(self, step_run: StepRun) -> AwaitingPerformer:
        step_run.task = Stop()
        if self.schedule.run.cancelled is not None:
            step_run.task.set(self.schedule.run.cancelled.reason)
        return AwaitingPerformer(self.services, self.resources, step_run.task, True)

    def split(self, going: list[StepRun]) -> tuple[StepRun | None, Sequence[StepRun]]:
        return going[0], going[1:]

    def spawn(self, step_run: StepRun) -> None:
        assert self.tasks is not None, "siblings are spawned while the group is open"
        self.tasks.start_soon(self.carrier.carry, [step_run])

    def over(self) -> None:
        """Nothing to do: the task group ends by itself."""

    # ---- the calling task

    async def execute(self, token: CancellationToken | None) -> None:
        cancel = from_anywhere(self._token_cancelled)
        async with anyio.create_task_group() as self.tasks:
            if token is not None:
                token.listen(cancel)
            await self.carrier.start()
        if token is not None:
            token.unlisten(cancel)
        if self.carrier.interrupt is not None:
            raise self.carrier.interrupt

    def _token_cancelled(self) -> None:
        for step_run in self.carrier.cancel("token"):
            self.spawn(step_run)


def start_task(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine in a task of its own on the loop that is running now, with the contextvars of the caller.

    For streams: an async generator must not hold a task group open between two items, since its reader may go on in
    another task, or never.
    """
    token = current_token()
    if "trio" in token.backend_class.__module__:
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
