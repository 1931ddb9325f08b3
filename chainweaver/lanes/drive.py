"""Driving: the loop that performs the commands of a run, written once for every lane.

The functions are coroutines and serve the sync lane as well: there every `await` finishes at once, so that
`run_to_end` gets the result of a coroutine without an event loop. What differs between lanes, how a tool is called and
how one waits, is in the `Performer` that a lane passes in.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, TypeVar

from typing_extensions import assert_never

from chainweaver._execution.commands import CancelReason, Invoke, Lead, Lookup, RunCancelled, Save, Settle, Sleep, Tell
from chainweaver._execution.walk import walk
from chainweaver.lanes.services import LATER

if TYPE_CHECKING:
    from chainweaver._execution.commands import Command, PlainCall
    from chainweaver._execution.run import Run
    from chainweaver._execution.schedule import Schedule, StepRun
    from chainweaver.cache.flight import Flight
    from chainweaver.lanes.cancel import Stop
    from chainweaver.lanes.services import Services
    from chainweaver.plan import PlannedTool

T = TypeVar("T")


class Performer(Protocol):
    """How one lane calls tools and waits. Only these methods may suspend.

    Attributes:
        owns_thread: A sync tool without a lane of its own may block the thread of this lane.
        stop: Says when somebody asked for the end of what is being performed.
        services: Everything else.
    """

    owns_thread: bool
    stop: Stop
    services: Services

    async def call(self, tool: PlannedTool, args: tuple[Any, ...], timeout_s: float | None) -> Any:
        """What the tool returns; raises what it raises, or `TimedOut`."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait, and end early with `RunCancelled` when the run is cancelled meanwhile."""
        ...

    async def wait_for(self, flight: Flight, timeout_s: float | None) -> dict[str, Any] | None:
        """What another run computes; None when it failed. Raises `TimedOut`."""
        ...


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("A performer of the sync lane suspended; it has to block instead.")


async def drive(run: Run, performer: Performer) -> None:
    """Walk a run to its end, one command after the other.

    Raises:
        BaseException: What ended the caller rather than the run (KeyboardInterrupt, the cancellation of the task),
            after the run was ended for it.
    """
    life = walk(run)
    services, owns_thread, stop = performer.services, performer.owns_thread, performer.stop
    now_ns = services.runtime.now_ns
    interrupt: BaseException | None = None
    try:
        command = next(life)
        while True:
            try:
                if type(command) is tuple:
                    if stop.reason is not None:
                        stop.check()
                    tool, value = command
                    if tool.inline and (owns_thread or tool.lane is not None):
                        reply = tool.fn(value)
                    else:
                        reply = await performer.call(tool, (value,), None)
                elif stop.reason is not None or (reply := services.serve(command)) is LATER:
                    reply = await perform(command, performer)
            except Exception as exc:
                run.now_ns = now_ns()
                command = life.throw(exc)
            except RunCancelled as cancelled:
                run.now_ns = now_ns()
                command = life.throw(cancelled)
            except BaseException as exc:
                interrupt = exc
                run.now_ns = now_ns()
                command = life.throw(RunCancelled("interrupt"))
            else:
                run.now_ns = now_ns()
                command = life.send(reply)
    except StopIteration:
        pass
    if interrupt is not None:
        raise interrupt


async def perform(command: Command, performer: Performer) -> Any:
    """Perform one command and give its reply."""
    services = performer.services
    if isinstance(command, (tuple, Invoke, Sleep, Lookup)):
        # What has been done already is still saved and told; nothing new begins.
        performer.stop.check()
    if isinstance(command, tuple):
        return await performer.call(command[0], (command[1],), None)
    if isinstance(command, Invoke):
        args = (command.value,) if command.context is None else (command.value, command.context)
        return await performer.call(command.tool, args, command.timeout_s)
    if isinstance(command, Sleep):
        # Equal jitter: half of the wait is certain, so that a retry never follows at once.
        scale = (1 + services.runtime.random()) / 2 if command.jitter else 1.0
        return await performer.sleep(command.seconds * scale)
    if isinstance(command, Lookup):
        return await look_up(command, performer)
    if isinstance(command, Settle):
        return services.settle(command)
    if isinstance(command, Save):
        return services.save(command)
    if isinstance(command, Tell):
        services.tell(command)
        # A stream whose reader is slow holds the run back here.
        return None if services.backlog is None else await services.backlog()
    assert_never(command)


async def look_up(command: Lookup, performer: Performer) -> dict[str, Any] | Lead:
    """Ask the cache; wait while another run computes, and lead when that one fails."""
    while True:
        found = performer.services.look_up(command)
        if isinstance(found, (dict, Lead)):
            return found
        shared = await performer.wait_for(found, command.timeout_s)
        if shared is not None:
            return shared


def is_inline(command: Command | None) -> TypeGuard[PlainCall]:
    """Whether the command calls a tool whose author wants the running thread, whatever the lane."""
    return type(command) is tuple and command[0].lane == "inline" and command[0].inline


class Crowd(Protocol):
    """How one lane goes about several steps at a time."""

    lock: AbstractContextManager[Any]
    services: Services

    def performer_for(self, step_run: StepRun) -> Performer:
        """The performer of one step; its `stop` ends that step alone."""
        ...

    def split(self, going: list[StepRun]) -> tuple[StepRun | None, Sequence[StepRun]]:
        """The step run that the caller goes on with itself, and those that others take."""
        ...

    def spawn(self, step_run: StepRun) -> None:
        """Have somebody else carry a step run."""
        ...

    def over(self) -> None:
        """Nothing is in flight any more."""
        ...


class Carrier:
    """Carries step runs from command to command, for the threads and the tasks of a run above limit 1.

    Whoever performed a command replies for it and goes on with the first step run that is ready now, so that a linear
    flow spawns nothing.
    """

    def __init__(self, schedule: Schedule, crowd: Crowd, now_ns: Callable[[], int]) -> None:
        self.schedule = schedule
        self.crowd = crowd
        self.now_ns = now_ns
        self.interrupt: BaseException | None = None

    async def start(self) -> None:
        """Begin the run; returns when the caller has nothing more to carry itself."""
        with self.crowd.lock:
            going = self.schedule.start()
        if self.schedule.over:
            self.crowd.over()
        await self.carry(going)

    async def carry(self, going: list[StepRun]) -> None:
        """Perform what can go on now; siblings are given to others."""
        crowd = self.crowd
        while going:
            step_run, others = crowd.split(going)
            for other in others:
                crowd.spawn(other)
            if step_run is None or (command := step_run.command) is None:  # given up meanwhile
                return
            failure: BaseException | None = None
            reply = None
            try:
                if is_inline(command):
                    tool, value = command
                    reply = tool.fn(value)
                elif (reply := crowd.services.serve(command)) is LATER:
                    reply = await perform(command, crowd.performer_for(step_run))
            except (Exception, RunCancelled) as exc:
                failure = exc
            except BaseException as exc:
                self.interrupt = exc
                failure = RunCancelled("interrupt")
            going = self.reply(step_run, reply, failure)

    def reply(self, step_run: StepRun, reply: Any, failure: BaseException | None) -> list[StepRun]:
        """Tell the schedule what came of a command, and stop those that no longer matter."""
        schedule = self.schedule
        with self.crowd.lock:
            if step_run.command is None:  # given up while it was performed: its reply comes too late
                return []
            schedule.run.now_ns = self.now_ns()
            going = schedule.ok(step_run, reply) if failure is None else schedule.err(step_run, failure)
            doomed, schedule.doomed = schedule.doomed, []
            over = schedule.over
        self.stop(doomed)
        if over:
            self.crowd.over()
        return going

    def cancel(self, reason: CancelReason) -> list[StepRun]:
        """End the run: what can be stopped is stopped, the rest is waited for."""
        with self.crowd.lock:
            self.schedule.run.now_ns = self.now_ns()
            going = self.schedule.cancel(RunCancelled(reason))
            doomed, self.schedule.doomed = self.schedule.doomed, []
        self.stop(doomed)
        return going

    def give_up(self) -> list[StepRun]:
        """End the run without waiting for anybody; what is still performed replies to nobody."""
        with self.crowd.lock:
            self.schedule.run.now_ns = self.now_ns()
            return self.schedule.give_up(RunCancelled("interrupt"))

    def stop(self, doomed: list[StepRun]) -> None:
        """Wake what waits in vain."""
        cancelled = self.schedule.run.cancelled
        for step_run in doomed:
            if step_run.task is not None:
                step_run.task.set("surplus" if cancelled is None else cancelled.reason)
