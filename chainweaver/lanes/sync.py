"""The sync lane: commands performed by blocking, in the calling thread or in worker threads.

At limit 1 everything happens in the calling thread, except what cannot: async tools run on the executor's private event
loop, and a tool under a limit in a daemon thread, so that it can be left behind. Above limit 1 steps are carried by
worker threads; tools of lane "inline" still run in the calling thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from chainweaver._execution.commands import TimedOut
from chainweaver._execution.schedule import Schedule
from chainweaver.lanes.cancel import NEVER, Stop
from chainweaver.lanes.drive import Carrier, drive, is_inline, run_to_end

if TYPE_CHECKING:
    from chainweaver._execution.run import Run
    from chainweaver._execution.schedule import StepRun
    from chainweaver.cache.flight import Flight
    from chainweaver.lanes.cancel import CancellationToken
    from chainweaver.lanes.loop import LoopThread
    from chainweaver.lanes.services import Services
    from chainweaver.lanes.threads import DaemonThreads
    from chainweaver.plan import PlannedTool


class Resources:
    """What the lanes of one executor share: threads, the private event loop, lanes that users brought.

    Made on first use, so that an executor that never needs a thread never imports one.
    """

    def __init__(self, default_lane: str | None, lanes: Mapping[str, Any]) -> None:
        self.default_lane = default_lane
        self.lanes = dict(lanes)
        self._lock = threading.Lock()
        self._threads: DaemonThreads | None = None
        self._loop: LoopThread | None = None

    @property
    def threads(self) -> DaemonThreads:
        if self._threads is None:
            with self._lock:
                if self._threads is None:
                    from chainweaver.lanes.threads import DaemonThreads

                    self._threads = DaemonThreads()
        return self._threads

    @property
    def loop(self) -> LoopThread:
        if self._loop is None:
            with self._lock:
                if self._loop is None:
                    from chainweaver.lanes.loop import LoopThread

                    self._loop = LoopThread()
        return self._loop

    def close(self) -> None:
        """Release threads and loop; both are made again when they are needed again."""
        with self._lock:
            threads, self._threads = self._threads, None
            loop, self._loop = self._loop, None
        if threads is not None:
            threads.close()
        if loop is not None:
            loop.close()


class Job:
    """A call on its way in another thread."""

    __slots__ = ("call", "done", "error", "finished", "value")

    def __init__(self, call: Callable[[], Any], done: Callable[[], None]) -> None:
        self.call = call
        self.done = done
        self.finished = False
        self.value: Any = None
        self.error: BaseException | None = None

    def __call__(self) -> None:
        try:
            self.value = self.call()
        except BaseException as exc:
            self.error = exc
        self.finished = True
        self.done()


class BlockingPerformer:
    """Performs by blocking the thread it is called in."""

    owns_thread = True

    def __init__(self, services: Services, resources: Resources, stop: Stop) -> None:
        self.services = services
        self.resources = resources
        self.stop = stop

    async def call(self, tool: PlannedTool, args: tuple[Any, ...], timeout_s: float | None) -> Any:
        lane = tool.lane or self.resources.default_lane
        if tool.is_async:
            return self._call_async(tool, args, timeout_s)
        if lane in (None, "inline") and timeout_s is None:
            return tool.fn(*args)
        if lane in (None, "inline", "thread"):
            return self._call_in_thread(lambda: tool.fn(*args), timeout_s)
        return self._call_in_lane(self.resources.lanes.get(lane, lane), tool, args, timeout_s)

    async def sleep(self, seconds: float) -> None:
        if self.services.runtime.pause is not None:
            self.services.runtime.pause(seconds)
            return
        event = threading.Event()
        self._wait(event, seconds)

    async def wait_for(self, flight: Flight, timeout_s: float | None) -> dict[str, Any] | None:
        event = threading.Event()
        told: list[dict[str, Any] | None] = []

        def tell(outputs: dict[str, Any] | None) -> None:
            told.append(outputs)
            event.set()

        flight.add_waiter(tell)
        try:
            if not self._wait(event, timeout_s):
                raise TimedOut
        finally:
            flight.remove_waiter(tell)
        return told[0]

    def _wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        """Wait for an event; False when the time is over first.

        Raises:
            RunCancelled: The run was told to end meanwhile.
        """
        happened = False

        def stopped() -> None:
            event.set()

        self.stop.wake(stopped)
        try:
            happened = event.wait(timeout_s)
        finally:
            self.stop.unwake(stopped)
        return happened

    def _call_in_thread(self, call: Callable[[], Any], timeout_s: float | None) -> Any:
        event = threading.Event()
        job = Job(call, event.set)
        now_ns = self.services.runtime.now_ns
        began_ns = now_ns()
        self.resources.threads.start(job)
        self._wait(event, timeout_s)
        if not job.finished:
            self.stop.check()
            raise TimedOut(abandoned=True)
        if timeout_s is not None and now_ns() - began_ns > timeout_s * 1e9:
            raise TimedOut  # it did finish, but late
        if job.error is not None:
            raise job.error
        return job.value

    def _call_async(self, tool: PlannedTool, args: tuple[Any, ...], timeout_s: float | None) -> Any:
        event = threading.Event()
        future = self.resources.loop.start(tool.fn, args)
        future.add_done_callback(lambda _: event.set())
        return self._result(future, event, timeout_s)

    def _call_in_lane(self, lane: Any, tool: PlannedTool, args: tuple[Any, ...], timeout_s: float | None) -> Any:
        event = threading.Event()
        future = lane.submit(tool.fn, *args)
        future.add_done_callback(lambda _: event.set())
        return self._result(future, event, timeout_s)

    def _result(self, future: Any, event: threading.Event, timeout_s: float | None) -> Any:
        now_ns = self.services.runtime.now_ns
        began_ns = now_ns()
        try:
            self._wait(event, timeout_s)
        except BaseException:
            future.cancel()
            raise
        if not future.done():
            stopped = future.cancel()
            self.stop.check()
            raise TimedOut(abandoned=not stopped)
        if timeout_s is not None and now_ns() - began_ns > timeout_s * 1e9:
            raise TimedOut
        return future.result()


def run_sync(run: Run, services: Services, resources: Resources, limit: int, token: CancellationToken | None) -> None:
    """Perform a run in this thread, and in others where the limit permits.

    Raises:
        BaseException: What interrupted the caller; the run has ended by then.
    """
    if limit == 1:
        if token is None:
            run_to_end(drive(run, BlockingPerformer(services, resources, NEVER)))
            return
        stop = Stop()
        performer = BlockingPerformer(services, resources, stop)
        token.listen(stop.set_by_token)
        try:
            run_to_end(drive(run, performer))
        finally:
            token.unlisten(stop.set_by_token)
        return
    _ThreadCrowd(run, services, resources, limit).execute(token)


class _ThreadCrowd:
    """The threads of one run. The calling thread carries like any other, and is the only one to run inline tools."""

    def __init__(self, run: Run, services: Services, resources: Resources, limit: int) -> None:
        self.services = services
        self.resources = resources
        self.schedule = Schedule(run, limit)
        self.carrier = Carrier(self.schedule, self, services.runtime.now_ns)
        self.lock = threading.Lock()
        self.aside = threading.Lock()
        self.inbox: SimpleQueue[StepRun | str] = SimpleQueue()
        self.mine: deque[StepRun] = deque()
        self.home = threading.get_ident()

    # ---- what the carrier asks for

    def performer_for(self, step_run: StepRun) -> BlockingPerformer:
        step_run.task = Stop()
        if self.schedule.run.cancelled is not None:
            step_run.task.set(self.schedule.run.cancelled.reason)
        return BlockingPerformer(self.services, self.resources, step_run.task)

    def split(self, going: list[StepRun]) -> tuple[StepRun | None, Sequence[StepRun]]:
        if threading.get_ident() != self.home:
            free = [one for one in going if not is_inline(one.command)]
            inline = [one for one in going if is_inline(one.command)]
            return (free[0] if free else None), free[1:] + inline
        if len(going) == 1 and not self.mine:
            return going[0], ()
        self.mine.extend(one for one in going if is_inline(one.command))
        others = [one for one in going if not is_inline(one.command)]
        if self.mine:
            return self.mine.popleft(), others
        return (others[0] if others else None), others[1:]

    def spawn(self, step_run: StepRun) -> None:
        if is_inline(step_run.command):
            self.inbox.put(step_run)
        else:
            self.resources.threads.start(lambda: run_to_end(self._carry_one(step_run)))

    def over(self) -> None:
        self.inbox.put("over")

    # ---- the calling thread

    def execute(self, token: CancellationToken | None) -> None:
        wake = self._token_cancelled
        if token is not None:
            token.listen(wake)
        try:
            run_to_end(self.carrier.start())
            while not self.schedule.over:
                self._next()
        except BaseException as exc:
            self.carrier.interrupt = exc
            self._settle(self.carrier.give_up())
        finally:
            if token is not None:
                token.unlisten(wake)
        if self.carrier.interrupt is not None:
            raise self.carrier.interrupt

    def _next(self) -> None:
        if self.mine:
            run_to_end(self.carrier.carry([self.mine.popleft()]))
            return
        message = self.inbox.get()
        if message == "cancel":
            run_to_end(self.carrier.carry(self.carrier.cancel("token")))
        elif not isinstance(message, str):
            run_to_end(self.carrier.carry([message]))

    def _token_cancelled(self) -> None:
        self.inbox.put("cancel")

    async def _carry_one(self, step_run: StepRun) -> None:
        await self.carrier.carry([step_run])
        if self.carrier.interrupt is not None:
            self.over()

    def _settle(self, going: list[StepRun]) -> None:
        """Perform what is left to settle and to tell after an interrupt; nothing new begins."""
        for step_run in going:
            run_to_end(self.carrier.carry([step_run]))
