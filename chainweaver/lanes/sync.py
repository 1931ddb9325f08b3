"""The sync lane: commands performed by blocking, in the calling thread or in worker threads.

At limit 1 everything happens in the calling thread, except what cannot: async tools run on the executor's private event
loop, and a tool under a limit in a daemon thread, so that it can be left behind. Above limit 1 steps are carried by
worker threads; tools of lane "inline" still run in the calling thread.
"""

from __future__ import annotations

import contextvars
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from chainweaver._execution.commands import Invoke, RunCancelled, Save, Settle, Tell, TimedOut
from chainweaver._execution.schedule import Schedule
from chainweaver.lanes.cancel import NEVER, Stop
from chainweaver.lanes.drive import Carrier, call_here, drive, enter, raised, run_to_end
from chainweaver.lanes.threads import Bell, DaemonThreads
from chainweaver.plan import ASIDE

if TYPE_CHECKING:
    from chainweaver._execution.commands import Command
    from chainweaver._execution.rules import Wrapper
    from chainweaver._execution.run import Run
    from chainweaver._execution.schedule import StepRun
    from chainweaver.cache.flight import Flight
    from chainweaver.lanes.cancel import CancellationToken
    from chainweaver.lanes.loop import LoopThread
    from chainweaver.lanes.processes import Processes
    from chainweaver.lanes.services import Services
    from chainweaver.plan import PlannedTool

CLEANUP_S = 1.0
"""How long an async tool that was cancelled may take over its `finally` clauses before it counts as abandoned."""


class Resources:
    """What the lanes of one executor share: threads, private event loops, lanes that users brought.

    Made on first use, so that an executor that never needs a thread never starts one.
    """

    def __init__(
        self, default_lane: str | None, lanes: Mapping[str, Any], process_options: Mapping[str, Any] | None = None
    ) -> None:
        self.default_lane = default_lane
        self.calls_inline = default_lane in (None, "inline")
        self.lanes = dict(lanes)
        self._lock = threading.Lock()
        self._threads: DaemonThreads | None = None
        self._loops: dict[int, LoopThread] = {}
        self._process_options = process_options or {}
        self._processes: Processes | None = None
        _ALL.add(self)

    @property
    def threads(self) -> DaemonThreads:
        """The daemon threads of this executor."""
        if self._threads is None:
            with self._lock:
                if self._threads is None:
                    self._threads = DaemonThreads()
        return self._threads

    @property
    def loop(self) -> LoopThread:
        """The private event loop: one that no tool further up blocks, when a tool has started a flow itself."""
        from chainweaver.lanes.loop import DEPTH, LoopThread

        depth = DEPTH.get()
        with self._lock:
            found = self._loops.get(depth)
            if found is None:
                found = self._loops[depth] = LoopThread(depth + 1)
        return found

    @property
    def processes(self) -> Processes:
        """The worker processes of this executor."""
        if self._processes is None:
            from chainweaver.lanes.processes import Processes

            with self._lock:
                if self._processes is None:
                    self._processes = Processes(**self._process_options)
        return self._processes

    def lane_of(self, tool: PlannedTool) -> Any:
        """What a sync tool runs on: None, "inline", "thread", "process", or an object with `submit`."""
        lane = self.default_lane if tool.lane is None else tool.lane
        if lane is ASIDE:
            lane = self.default_lane if self.default_lane in ("inline", "thread") else None
        return self.lanes.get(lane, lane) if isinstance(lane, str) else lane

    def on_lane(self, lane: str) -> Resources:
        """The same threads, loops and lanes, for a run whose tools use another default lane."""
        return self if lane == self.default_lane else _OnLane(self, lane)

    def close(self) -> None:
        """Release threads, loops and worker processes; they are made again when they are needed again."""
        with self._lock:
            threads, self._threads = self._threads, None
            loops, self._loops = self._loops, {}
            processes, self._processes = self._processes, None
        if processes is not None:
            processes.close()
        for loop in loops.values():
            loop.close()
        if threads is not None:
            threads.close()

    def forget(self) -> None:
        """Start from nothing, in a process that was forked: its threads stayed behind."""
        self._lock = threading.Lock()
        self._threads = None
        self._loops = {}
        if self._processes is not None:
            self._processes.forget()


class _OnLane(Resources):
    """What an executor has, as one run uses it."""

    def __init__(self, shared: Resources, lane: str) -> None:
        self.shared = shared
        self.default_lane = lane
        self.calls_inline = lane == "inline"
        self.lanes = shared.lanes

    @property
    def threads(self) -> DaemonThreads:
        return self.shared.threads

    @property
    def loop(self) -> LoopThread:
        return self.shared.loop

    @property
    def processes(self) -> Processes:
        return self.shared.processes


_ALL: weakref.WeakSet[Resources] = weakref.WeakSet()


def _forget_all() -> None:
    for resources in list(_ALL):
        resources.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


# ---- calls that somebody else performs


class Job(Protocol):
    """A call on its way somewhere else.

    Attributes:
        finished: It has a value or an error.
        cancelled: It was stopped before it had either.
    """

    finished: bool
    cancelled: bool
    value: Any
    error: BaseException | None

    def cancel(self) -> None:
        """Have it end, where that can be done."""
        ...


class ThreadJob:
    """A call in a daemon thread. It cannot be stopped, only left behind."""

    __slots__ = ("_call", "_done", "cancelled", "error", "finished", "value")

    def __init__(self, call: Callable[[], Any], done: Callable[[], None]) -> None:
        self._call: Callable[[], Any] | None = call
        self._done = done
        self.finished = self.cancelled = False
        self.value: Any = None
        self.error: BaseException | None = None

    def __call__(self) -> None:
        assert self._call is not None, "a job is called once"
        try:
            self.value = self._call()
        except BaseException as exc:
            self.error = exc
        self._call = None
        self.finished = True
        self._done()

    def cancel(self) -> None:
        """Nothing to do."""


class LaneJob:
    """A call on a lane that the user brought."""

    __slots__ = ("_done", "_future", "cancelled", "error", "finished", "value")

    def __init__(self, lane: Any, tool: PlannedTool, args: tuple[Any, ...], done: Callable[[], None]) -> None:
        self.finished = self.cancelled = False
        self.value: Any = None
        self.error: BaseException | None = None
        self._done = done
        if is_in_process(lane):
            self._future = lane.submit(contextvars.copy_context().run, tool.fn, *args)
        else:
            self._future = lane.submit(tool.fn, *args)
        self._future.add_done_callback(self._end)

    def cancel(self) -> None:
        """Take the call back if it has not begun; then it is finished at once."""
        future = self._future
        if future is not None:
            future.cancel()

    def _end(self, future: Any) -> None:
        self._future = None  # a future keeps whom it has told, and so itself
        try:
            self.value = future.result()
        except BaseException as exc:
            self.error = exc
        self.cancelled = future.cancelled()
        self.finished = True
        self._done()


def value_of(job: Job) -> Any:
    """What a finished job gives, or raises; taken out of it, since its thread may hold it for a while."""
    value, error = job.value, job.error
    job.value = job.error = None
    if error is not None:
        try:
            raise raised(error)
        finally:
            del error  # its traceback holds this frame
    return value


def stop_job(job: Job, bell: Bell) -> bool:
    """Have a job end where that can be done; whether it has ended, with a value or an error of its own."""
    job.cancel()
    if not isinstance(job, ThreadJob):
        while not job.finished and bell.wait(CLEANUP_S):
            pass
    return job.finished and not job.cancelled


def is_in_process(lane: Any) -> bool:
    """Whether what is submitted to a lane of the user stays in this process, so that contextvars can go along.

    A pool of threads does; any other lane says so itself, with a true attribute `in_process`.
    """
    pools = sys.modules.get("concurrent.futures.thread")
    known = pools is not None and isinstance(lane, pools.ThreadPoolExecutor)
    return bool(getattr(lane, "in_process", known))


class BlockingPerformer:
    """Performs by blocking the thread it is called in."""

    def __init__(self, services: Services, resources: Resources, stop: Stop) -> None:
        self.services = services
        self.resources = resources
        self.stop = stop
        self.owns_thread = resources.calls_inline

    async def call(self, tool: PlannedTool, args: tuple[Any, ...], timeout_s: float | None) -> Any:
        resources = self.resources
        lane = None if tool.is_async else resources.lane_of(tool)
        if lane in (None, "inline") and timeout_s is None and not tool.is_async:
            return call_here(tool, args)
        bell, began_ns = Bell(), self.services.runtime.now_ns()
        if tool.is_async:
            job: Job = resources.loop.start(tool.fn, args, bell.ring)
        elif lane in (None, "inline", "thread"):
            job = thread_job = ThreadJob(lambda: tool.fn(*args), bell.ring)
            resources.threads.start(thread_job)
        elif lane == "process":
            # It keeps its time limit itself: until its worker has started, no time of the tool's goes by.
            job = resources.processes.start(resources.threads, tool, args, timeout_s, self.services.trust, bell.ring)
            timeout_s = None
        else:
            job = LaneJob(lane, tool, args, bell.ring)
        return self._outcome(job, bell, timeout_s, began_ns)

    async def sleep(self, seconds: float) -> None:
        if self.services.runtime.pause is not None:
            self.services.runtime.pause(seconds)
            return
        self._wait(Bell(), seconds)
        self.stop.check()

    async def wait_for(self, flight: Flight, timeout_s: float | None) -> dict[str, Any] | None:
        bell = Bell()
        told: list[dict[str, Any] | None] = []

        def tell(outputs: dict[str, Any] | None) -> None:
            told.append(outputs)
            bell.ring()

        flight.add_waiter(tell)
        try:
            self._wait(bell, timeout_s)
        finally:
            flight.remove_waiter(tell)
        if not told:
            self.stop.check()
            raise TimedOut
        return told[0]

    def is_interrupted(self) -> bool:
        return False  # a blocking call cannot be cancelled from outside

    def _wait(self, bell: Bell, timeout_s: float | None) -> None:
        """Wait until the bell is rung, the time is over or the run is told to end, whatever comes first."""
        self.stop.wake(bell.ring)
        try:
            bell.wait(timeout_s)
        finally:
            self.stop.unwake(bell.ring)

    def _outcome(self, job: Job, bell: Bell, timeout_s: float | None, began_ns: int) -> Any:
        """What came of a job that rings the bell when it has finished; one that is late or in vain is cancelled."""
        try:
            self._wait(bell, timeout_s)
        except BaseException:
            job.cancel()
            raise
        if not job.finished:
            has_ended = stop_job(job, bell)
            # What has done its work all the same counts, unless it is late: it is not to be done again.
            if not has_ended or self.stop.reason is None:
                self.stop.check()
                raise TimedOut(abandoned=not job.finished)
        if timeout_s is not None and self.services.runtime.now_ns() - began_ns > timeout_s * 1e9:
            raise TimedOut  # it did finish, but late
        return value_of(job)


# ---- a run


def run_sync(run: Run, services: Services, resources: Resources, limit: int, token: CancellationToken | None) -> None:
    """Perform a run in this thread, and in others where the limit permits.

    Raises:
        BaseException: What interrupted the caller; the run has ended by then.
    """
    try:
        if limit != 1 or run.plan.needs_schedule:
            _ThreadCrowd(run, services, resources, limit).execute(token)
        elif token is None:
            performer = services.blocking
            if performer is None:
                performer = services.blocking = BlockingPerformer(services, resources, NEVER)
            run_to_end(drive(run, performer))
        else:
            _run_alone(run, services, resources, token)
    except BaseException:
        # An interrupt may hit any line, also between two commands.
        run.cancelled = run.cancelled or RunCancelled("interrupt")
        raise
    finally:
        if services.cache is not None:
            services.hand_over()


def enter_sync(
    run: Run, services: Services, resources: Resources, token: CancellationToken | None, opened: list[Wrapper]
) -> None:
    """Let the generators around a run get to their `Proceed`, in this thread."""
    stop = Stop()
    if token is not None:
        token.listen(stop.set_by_token)
    try:
        run_to_end(enter(run, BlockingPerformer(services, resources, stop), opened))
    finally:
        if token is not None:
            token.unlisten(stop.set_by_token)


def _run_alone(run: Run, services: Services, resources: Resources, token: CancellationToken) -> None:
    """Perform a run at limit 1 that a token may end."""
    stop = Stop()
    token.listen(stop.set_by_token)
    try:
        run_to_end(drive(run, BlockingPerformer(services, resources, stop)))
    finally:
        token.unlisten(stop.set_by_token)


class _ThreadCrowd:
    """The threads of one run. The calling thread is the only one to run tools of lane "inline".

    In a flow without such tools it carries steps like any other thread; else it keeps itself free for them.
    """

    def __init__(self, run: Run, services: Services, resources: Resources, limit: int) -> None:
        self.services = services
        self.resources = resources
        self.calls_inline = resources.calls_inline
        self.lock: AbstractContextManager[Any] = threading.Lock()
        if services.listeners is not None or services.checkpoints is not None:
            services.lock = threading.Lock()
        self.carrier = Carrier(run, Schedule(run, limit), self)
        self.inbox: SimpleQueue[StepRun | None] = SimpleQueue()
        """Inline steps for the calling thread; None: look whether the run is over or somebody asks for its end."""
        self.mine: deque[StepRun] = deque()
        self.home = threading.get_ident()
        lanes = run.plan.inline_lanes
        self.has_inline = "inline" in lanes or (None in lanes and resources.default_lane == "inline")

    # ---- what the carrier asks for

    def performer(self, stop: Stop) -> BlockingPerformer:
        return BlockingPerformer(self.services, self.resources, stop)

    def split(self, going: list[StepRun]) -> tuple[StepRun | None, Sequence[StepRun]]:
        if not self.has_inline:
            return going[0], going[1:]
        if threading.get_ident() == self.home:
            if len(going) == 1 and not self.mine and self._stays_home(going[0].command):
                return going[0], ()  # the common case, without the lists of the general one
        else:
            free = [one for one in going if not self._is_inline(one.command)]
            inline = [one for one in going if self._is_inline(one.command)]
            return (free[0] if free else None), free[1:] + inline
        others: list[StepRun] = []
        for one in going:
            (self.mine if self._stays_home(one.command) else others).append(one)
        return (self.mine.popleft() if self.mine else None), others

    def spawn(self, step_run: StepRun) -> None:
        if self._is_inline(step_run.command):
            self.inbox.put(step_run)
        else:
            self.resources.threads.start(lambda: self._carry_one(step_run))

    def over(self) -> None:
        self.inbox.put(None)

    def is_interrupted(self) -> bool:
        return False

    def _is_home_tool(self, tool: PlannedTool) -> bool:
        lane = self.resources.default_lane if tool.lane is None else tool.lane
        return tool.inline and lane == "inline"

    def _is_inline(self, command: Command | None) -> bool:
        """Whether the command calls a tool that the calling thread has to run. One under a limit has its own thread."""
        if not self.has_inline:
            return False
        if isinstance(command, tuple):
            return self._is_home_tool(command[0])
        return isinstance(command, Invoke) and command.timeout_s is None and self._is_home_tool(command.tool)

    def _stays_home(self, command: Command | None) -> bool:
        """Whether the calling thread performs a command itself: what only it may do, and what does not keep it long."""
        if type(command) is tuple and command[0].lane == "inline" and command[0].inline:
            return True
        return self._is_inline(command) or isinstance(command, (Tell, Save, Settle))

    # ---- the calling thread

    def execute(self, token: CancellationToken | None) -> None:
        carrier = self.carrier
        if token is not None:
            token.listen(self._token_cancelled)
        try:
            run_to_end(carrier.start())
            while carrier.interrupt is None and not carrier.is_over():
                self._next()
            if carrier.interrupt is not None:
                self._give_up()
        except BaseException as exc:
            carrier.interrupt = carrier.interrupt or exc
            self._give_up()
        finally:
            if token is not None:
                token.unlisten(self._token_cancelled)
        if carrier.interrupt is not None:
            raise carrier.interrupt

    def _next(self) -> None:
        """Wait for something to do, and do it."""
        step_run = self.mine.popleft() if self.mine else self.inbox.get()
        going = self.carrier.heed() if step_run is None else [step_run]
        run_to_end(self.carrier.carry(going))

    def _token_cancelled(self) -> None:
        self.carrier.ask("token")
        self.inbox.put(None)

    def _give_up(self) -> None:
        """End the run now, and perform only what is left to settle and to tell."""
        going = self.carrier.give_up()
        self.mine.clear()
        for step_run in going:
            run_to_end(self.carrier.carry([step_run]))

    # ---- a worker thread

    def _carry_one(self, step_run: StepRun) -> None:
        try:
            run_to_end(self.carrier.carry([step_run]))
        except BaseException as exc:
            # Nobody would hear of it, and the calling thread would wait for ever.
            self.carrier.interrupt = self.carrier.interrupt or exc
        if self.carrier.interrupt is not None:
            self.over()


def close_streams(run: Run, resources: Resources, *, is_lost: bool = False) -> None:
    """Close the streams of a run that has ended, but for those that its caller gets.

    Args:
        is_lost: The caller gets an exception and no result.
    """
    from chainweaver.objects.streams import aclose_all, close_all, needs_await, unread

    left = unread(run.streams.values(), () if is_lost else (run.final_output or {}).values())
    if not needs_await(left):
        close_all(left)
        return
    bell = Bell()
    job = resources.loop.start(aclose_all, (left,), bell.ring)
    while not job.finished:
        bell.wait(None)
