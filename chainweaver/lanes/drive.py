"""Driving: the loop that performs the commands of a run, written once for every lane.

The functions are coroutines and serve the sync lane as well: there every `await` finishes at once, so that
`run_to_end` gets the result of a coroutine without an event loop. What differs between lanes, how a tool is called and
how one waits, is in the `Performer` that a lane passes in.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from typing_extensions import assert_never

from chainweaver._execution.around import enter_run
from chainweaver._execution.commands import (
    Ask,
    CancelReason,
    Invoke,
    Lead,
    Lookup,
    RunCancelled,
    Save,
    Settle,
    Sleep,
    Tell,
)
from chainweaver._execution.walk import walk
from chainweaver.lanes.cancel import Stop
from chainweaver.lanes.services import LATER

if TYPE_CHECKING:
    from chainweaver._execution.commands import Command, RunWalk
    from chainweaver._execution.rules import Wrapper
    from chainweaver._execution.run import Run
    from chainweaver._execution.schedule import Schedule, StepRun
    from chainweaver.cache.flight import Flight
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
        """What the tool returns; raises what it raises (a StopIteration as `Raised`), or `TimedOut`."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait, and end early with `RunCancelled` when the run is cancelled meanwhile."""
        ...

    async def wait_for(self, flight: Flight, timeout_s: float | None) -> dict[str, Any] | None:
        """What another run computes; None when it failed. Raises `TimedOut`."""
        ...

    def is_interrupted(self) -> bool:
        """Whether a cancellation that came out of a command is meant for the caller, and not made by the tool."""
        ...


class Raised(Exception):
    """Carries an exception out of a coroutine that Python would not let through (PEP 479).

    Attributes:
        error: What the tool raised.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def raised(error: BaseException) -> BaseException:
    """What a sync tool raised, in the form in which it may leave a coroutine and is taken for nothing else."""
    own = own_cancellation(error)
    if own is not None:
        return own
    return Raised(error) if isinstance(error, StopIteration) else error


def call_here(tool: PlannedTool, args: tuple[Any, ...]) -> Any:
    """Call a sync tool in this thread; what it raises may leave a coroutine."""
    try:
        return tool.fn(*args)
    except StopIteration as exc:
        raise raised(exc) from None


def own_cancellation(error: BaseException) -> Exception | None:
    """The failure that an `asyncio.CancelledError` stands for which nobody but the tool made; None for others."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or not isinstance(error, asyncio.CancelledError):
        return None
    from concurrent.futures import CancelledError

    own = CancelledError(*error.args)
    own.__cause__ = error
    return own


def failure_of(exc: BaseException, is_interrupted: Callable[[], bool]) -> Exception | None:
    """The failure of the tool that an exception stands for; None when it is the caller who is interrupted.

    A tool that raises `asyncio.CancelledError` by itself (it awaited something that was cancelled) has failed, on
    every lane. KeyboardInterrupt, SystemExit and their like are for the caller.

    Args:
        is_interrupted: Whether a cancellation is meant for the caller (see `Performer`).
    """
    if isinstance(exc, Raised):
        return exc.error
    if isinstance(exc, Exception):
        return exc
    own = own_cancellation(exc)
    return None if own is None or is_interrupted() else own


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

    A run that was told to end before its caller was interrupted has ended for that reason.

    Raises:
        BaseException: What ended the caller rather than the run (KeyboardInterrupt, the cancellation of the task),
            after the run was ended for it.
    """
    life = walk(run)
    services, owns_thread, stop = performer.services, performer.owns_thread, performer.stop
    now_ns, serve = services.runtime.now_ns, services.serve
    tell = None if services.listeners is None else services.teller
    save = None if services.checkpoints is None else services.saver
    clock = run.clock
    interrupt: BaseException | None = None
    try:
        command = next(life)
        while True:
            try:
                if type(command) is tuple:
                    if stop.reason is not None:
                        stop.check()
                    # No name for the input: this frame would hold it for longer than anybody needs it (R37).
                    tool = command[0]
                    if tool.inline and (owns_thread or tool.lane is not None):
                        reply = tool.fn(command[1])
                    else:
                        reply = await performer.call(tool, command[1:], None)
                elif tell is not None and type(command) is Tell:
                    reply = tell(command)
                elif save is not None and type(command) is Save:
                    reply = save(command)
                elif stop.reason is not None or (reply := serve(command)) is LATER:
                    reply = await perform(command, performer)
            except RunCancelled as cancelled:
                clock.now_ns = now_ns()
                command = life.throw(cancelled)
            except BaseException as exc:
                failure = failure_of(exc, performer.is_interrupted)
                clock.now_ns = now_ns()
                if failure is not None:
                    command = life.throw(failure)
                else:
                    interrupt = interrupt or exc
                    command = life.throw(RunCancelled(stop.reason or "interrupt"))
                failure = None
            else:
                clock.now_ns = now_ns()
                command = life.send(reply)
                reply = None
    except StopIteration:
        pass
    except BaseException as exc:  # an interrupt may hit any line, also between two commands
        interrupt = exc
        wind_up(run, life, services)
    if interrupt is not None:
        raise interrupt


def wind_up(run: Run, life: RunWalk, services: Services) -> None:
    """End a walk that nobody carries any more: only what is left to settle, to save and to tell is done."""
    try:
        command = life.throw(RunCancelled("interrupt"))
        while True:
            run.now_ns = services.runtime.now_ns()
            if isinstance(command, Tell):
                services.tell(command)
                command = life.send(None)
            elif isinstance(command, Settle):
                command = life.send(services.settle(command))
            elif isinstance(command, Save):
                services.save(command)
                command = life.send(None)
            else:
                command = life.throw(RunCancelled("interrupt"))
    except (StopIteration, RunCancelled):
        return


async def enter(run: Run, performer: Performer, opened: list[Wrapper]) -> None:
    """Let the generators around a run get to their `Proceed`, performing what they ask for.

    Args:
        opened: Takes those that got there, also when this raises.

    Raises:
        BaseException: What ended the caller; the run is cancelled by then.
    """
    life = enter_run(run)
    interrupt: BaseException | None = None
    try:
        command = next(life)
        while True:
            try:
                reply = await perform(command, performer)
                run.now_ns = performer.services.runtime.now_ns()
            except RunCancelled as cancelled:
                command = life.throw(cancelled)
            except BaseException as exc:
                interrupt = exc
                command = life.throw(RunCancelled(performer.stop.reason or "interrupt"))
            else:
                command = life.send(reply)
    except StopIteration as end:
        opened += end.value
    if interrupt is not None:
        raise interrupt


async def perform(command: Command, performer: Performer) -> Any:
    """Perform one command and give its reply."""
    services = performer.services
    if isinstance(command, (tuple, Invoke, Ask, Sleep, Lookup)):
        # What has been done already is still saved and told; nothing new begins.
        performer.stop.check()
    if isinstance(command, tuple):
        return await performer.call(command[0], (command[1],), None)
    if isinstance(command, Invoke):
        args = (command.value,) if command.context is None else (command.value, command.context)
        tool = command.tool if command.place is None else services.streaming(command)
        return await performer.call(tool, args, command.timeout_s)
    if isinstance(command, Ask):
        return await performer.call(services.callbacks[command.kind], (command.context,), command.timeout_s)
    if isinstance(command, Sleep):
        # Equal jitter: half of the wait is certain, so that a retry never follows at once.
        scale = (1 + services.runtime.random()) / 2 if command.jitter else 1.0
        return await performer.sleep(command.seconds * scale)
    if isinstance(command, Lookup):
        return await look_up(command, performer)
    if isinstance(command, Settle):
        return services.settle(command)
    if isinstance(command, Save):
        if services.ask is None:
            return services.save(command)
        return await services.ask(services.commit_of(command))
    if isinstance(command, Tell):
        services.tell(command)
        # A stream whose reader is slow holds the run back here.
        return None if services.backlog is None else await services.backlog()
    assert_never(command)


async def look_up(command: Lookup, performer: Performer) -> dict[str, Any] | Lead:
    """Ask the cache; wait while another run computes, and lead when that one fails.

    Raises:
        TimedOut: The others took longer than the look-up may, all waits together.
    """
    services, timeout_s = performer.services, command.timeout_s
    began_ns = services.runtime.now_ns()
    while True:
        found = services.look_up(command)
        if isinstance(found, (dict, Lead)):
            return found
        left_s = None if timeout_s is None else timeout_s - (services.runtime.now_ns() - began_ns) / 1e9
        shared = await performer.wait_for(found, left_s)
        if shared is not None:
            return shared


class Crowd(Protocol):
    """How one lane goes about several steps at a time.

    Attributes:
        lock: Held while the schedule is told something; never while anything is performed.
        calls_inline: A sync tool that names no lane may be called by whoever carries its step.
    """

    lock: AbstractContextManager[Any]
    services: Services
    calls_inline: bool

    def performer(self, stop: Stop) -> Performer:
        """The performer of one command; `stop` ends that command alone."""
        ...

    def split(self, going: list[StepRun]) -> tuple[StepRun | None, Sequence[StepRun]]:
        """The step run that the caller goes on with itself, and those that others take."""
        ...

    def spawn(self, step_run: StepRun) -> None:
        """Have somebody else carry a step run."""
        ...

    def over(self) -> None:
        """Nothing is in flight any more, or something has to leave the call: whoever waits for the end has to look."""
        ...

    def is_interrupted(self) -> bool:
        """As for a performer."""
        ...


class Carrier:
    """Carries step runs from command to command, for the threads and the tasks of a run above limit 1.

    Whoever performed a command replies for it and goes on with the first step run that is ready now, so that a linear
    flow spawns nothing.

    Attributes:
        asked: Why somebody outside wants the run to end. A note and not a call, because a signal handler may leave it
            while the schedule is being told something: whoever replies next reads it, and `heed` does.
        interrupt: What has to leave the call once the run has ended.
    """

    def __init__(self, run: Run, schedule: Schedule, crowd: Crowd) -> None:
        self.run = run
        self.schedule = schedule
        self.crowd = crowd
        self.asked: CancelReason | None = None
        self.interrupt: BaseException | None = None
        self._clock, self._now_ns = run.clock, crowd.services.runtime.now_ns
        self._performing: set[StepRun] = set()

    async def start(self) -> None:
        """Begin the run; returns when the caller has nothing more to carry itself."""
        with self.crowd.lock:
            going = self.schedule.start()
            doomed, over = self._heed(going), self.schedule.over
        self._stop(doomed)
        if over:
            self.crowd.over()
        await self.carry(going)

    async def carry(self, going: list[StepRun]) -> None:
        """Perform what can go on now; siblings are given to others."""
        crowd, run, serve = self.crowd, self.run, self.crowd.services.serve
        calls_inline = crowd.calls_inline
        while going:
            # Before others begin: of the step before nothing is held here for longer than anybody needs it (R37).
            command: Command | None = None
            failure: BaseException | None = None
            reply = None
            step_run, others = crowd.split(going)
            for other in others:
                crowd.spawn(other)
            if step_run is None or (command := step_run.command) is None:  # given up meanwhile
                return
            try:
                if (
                    type(command) is tuple
                    and (tool := command[0]).inline
                    and (calls_inline or tool.lane is not None)
                    and self.asked is None
                    and run.cancelled is None
                ):
                    # Nothing can stop such a call, so that it needs no performer, which costs half a step.
                    reply = tool.fn(command[1])
                elif run.cancelled is not None or (reply := serve(command)) is LATER:
                    reply = await perform(command, self._performer_for(step_run))
            except RunCancelled as cancelled:
                failure = cancelled
            except BaseException as exc:
                failure = failure_of(exc, crowd.is_interrupted)
                if failure is None:
                    self.interrupt = self.interrupt or exc
                    failure = RunCancelled(self.asked or "interrupt")
            going = self._reply(step_run, command, reply, failure)

    def ask(self, reason: CancelReason) -> None:
        """Leave the note that the run has to end, and wake whoever waits; may be called by a signal handler."""
        self.asked = reason
        for step_run in list(self._performing):
            if step_run.task is not None:
                step_run.task.set(reason)

    def heed(self) -> list[StepRun]:
        """End the run if somebody asked for it; the step runs that have something to settle or to tell."""
        going: list[StepRun] = []
        with self.crowd.lock:
            doomed = self._heed(going)
        self._stop(doomed)
        return going

    def is_over(self) -> bool:
        """Whether nothing is in flight any more."""
        with self.crowd.lock:  # in the middle of a reply it may look so
            return self.schedule.over

    def give_up(self) -> list[StepRun]:
        """End the run without waiting for anybody; what is still performed replies to nobody."""
        with self.crowd.lock:
            self._clock.now_ns = self._now_ns()
            going = self.schedule.give_up(RunCancelled("interrupt"))
        self._stop(list(self._performing))
        return going

    def _performer_for(self, step_run: StepRun) -> Performer:
        self._performing.add(step_run)
        stop = step_run.task = Stop()
        # After the assignment: who dooms this step run from now on finds the stop, who did so before left a trace.
        if self.asked is not None:
            stop.set(self.asked)
        elif self.run.cancelled is not None:
            stop.set(self.run.cancelled.reason)
        elif (stopped := self.schedule.stopped(step_run)) is not None:
            stop.set(stopped.reason)
        return self.crowd.performer(stop)

    def _reply(self, step_run: StepRun, command: Command, reply: Any, failure: BaseException | None) -> list[StepRun]:
        """Tell the schedule what came of a command, and stop those that no longer matter."""
        schedule = self.schedule
        doomed: Sequence[StepRun] = ()
        if step_run.task is not None:
            self._performing.discard(step_run)
        with self.crowd.lock:
            if step_run.command is not command:  # given up while it was performed: its reply comes too late
                return []
            self._clock.now_ns = self._now_ns()
            going = schedule.ok(step_run, reply) if failure is None else schedule.err(step_run, failure)
            if self.asked is not None or schedule.doomed:
                doomed = self._heed(going)
            over = schedule.over
        if doomed:
            self._stop(doomed)
        if over:
            self.crowd.over()
        return going

    def _heed(self, going: list[StepRun]) -> list[StepRun]:
        """Cancel the run if that was asked for; the step runs in flight that do not matter any more. Under the lock."""
        schedule = self.schedule
        if self.asked is not None and self.run.cancelled is None and not schedule.over:
            self._clock.now_ns = self._now_ns()
            going += schedule.cancel(RunCancelled(self.asked))
        doomed, schedule.doomed = schedule.doomed, []
        return doomed

    def _stop(self, doomed: Sequence[StepRun]) -> None:
        """Wake what waits in vain."""
        cancelled = self.run.cancelled
        for step_run in doomed:
            if step_run.task is not None:
                step_run.task.set("surplus" if cancelled is None else cancelled.reason)
