"""A scheduler for tests that decides everything: what time it is, when a thread ends, and where a run is cut off.

Every suspension of a task that belongs to the run is a point, numbered from 1. At the point that a test names,
something is done to the run: its task is cancelled, its token, or the clock jumps beyond its deadline. Whatever a run
hands to daemon threads is held until the loop has nothing else to do; only then one call is performed, and only when
there is none left does time go on, at once, to the next timer. So the same points come in the same order every time.

A `Scheduler` runs async functions that way. No real time passes here; a run that waits for nothing fails the test.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

import anyio
import trio
import trio.testing

from chainweaver.runtime import Runtime

MINE: contextvars.ContextVar[bool] = contextvars.ContextVar("mine", default=False)
"""Set in the tasks of the run whose points are counted."""

EPOCH_S = 1_900_000_000.0

T = TypeVar("T")


class Cut(Exception):
    """The task of the run was cancelled, and the cancellation left the call."""


class Steps:
    """What happens to a run, point by point.

    Attributes:
        at: The point at which `act` is called; 0 for never.
        act: Called at that point, while the task is suspended.
        cancel: Cancels the task of the run.
        points: How many points there were so far.
        held: What the run has handed to threads and nobody has begun.
        now_s: Seconds that have passed, all of them at once.
    """

    def __init__(self) -> None:
        self.at = 0
        self.act: Callable[[], object] = lambda: None
        self.cancel: Callable[[], object] = lambda: None
        self.points = 0
        self.held: deque[Callable[[], object]] = deque()
        self.now_s = 0.0
        self.jumped: Callable[[float], object] = lambda seconds: None

    def runtime(self) -> Runtime:
        """The clock of an executor whose runs take place here."""
        ids = Random(0)
        return Runtime(
            now_ns=lambda: round(self.now_s * 1e9),
            wall_time=lambda: EPOCH_S + self.now_s,
            new_id=lambda: f"{ids.getrandbits(128):032x}",
            random=lambda: 0.5,
        )

    def deadline(self, seconds: float) -> float:
        """What `deadline=` takes, for so many seconds from now."""
        return EPOCH_S + self.now_s + seconds

    def count_anew(self, at: int = 0) -> None:
        """Begin to count at 1 again, for another run."""
        self.at, self.points = at, 0

    def passed(self) -> None:
        """A task of the run has suspended."""
        self.points += 1
        if self.points == self.at:
            self.act()

    def jump(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds
        self.jumped(seconds)

    def idle(self, seconds: float | None) -> None:
        """Nothing can go on: perform a call that was handed to a thread, else let the next timer come."""
        if self.held:
            self.release()
        elif seconds is None:
            raise AssertionError("everybody waits, and for nothing")
        else:
            self.jump(seconds)

    def release(self) -> None:
        """Perform the call that waits longest, in a thread."""
        thread = threading.Thread(target=self.held.popleft())
        thread.start()
        thread.join()


class HeldThreads:
    """Stands in for the daemon threads of an executor: what they are to do waits until nobody else can go on."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def start(self, work: Callable[[], object]) -> None:
        context = contextvars.copy_context()
        self.steps.held.append(lambda: context.run(work))

    def close(self) -> None:
        pass


# ---- asyncio


class _Selector(selectors.SelectSelector):
    """Waits for nothing that is not there already."""

    steps: Steps

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if found or (timeout is not None and timeout <= 0):
            return found
        self.steps.idle(timeout)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    steps: Steps

    def time(self) -> float:
        return self.steps.now_s


class _Counted:
    """Awaits a coroutine and counts how often it suspends."""

    def __init__(self, work: Any, steps: Steps) -> None:
        self.work = work
        self.steps = steps

    def __await__(self) -> Generator[Any, Any, Any]:
        resume, value = self.work.send, None
        while True:
            try:
                asked = resume(value)
            except StopIteration as end:
                return end.value
            self.steps.passed()
            try:
                resume, value = self.work.send, (yield asked)
            except BaseException as exc:
                resume, value = self.work.throw, exc


def on_asyncio(steps: Steps, work: Callable[[], Awaitable[T]]) -> T:
    """Run an async function in a loop of its own, which has no task left afterwards."""
    selector = _Selector()
    selector.steps = steps
    loop = _Loop(selector)
    loop.steps = steps

    async def counted(coroutine: Any) -> Any:
        return await _Counted(coroutine, steps)

    def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
        return asyncio.Task(counted(coroutine) if MINE.get() else coroutine, loop=loop, **options)

    async def main() -> T:
        found = await work()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"
        return found

    loop.set_task_factory(factory)
    try:
        return loop.run_until_complete(main())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def in_a_task(steps: Steps, call: Callable[[], Awaitable[T]]) -> T:
    """Count the points of a call that is cancelled as asyncio does it."""
    context = contextvars.copy_context()
    context.run(MINE.set, True)
    task: asyncio.Task[T] = context.run(asyncio.ensure_future, call())  # type: ignore[arg-type]  # it is a coroutine
    steps.cancel = task.cancel
    try:
        return await task
    except asyncio.CancelledError:
        assert task.cancelled(), "only the call is ever cancelled"
        raise Cut from None


async def in_a_scope(steps: Steps, call: Callable[[], Awaitable[T]]) -> T:
    """Count the points of a call that is cancelled by the scope around it."""
    MINE.set(True)
    try:
        with anyio.CancelScope() as scope:
            steps.cancel = scope.cancel
            return await call()
    finally:
        MINE.set(False)
    raise Cut


async def in_a_task_with_a_scope(steps: Steps, call: Callable[[], Awaitable[T]]) -> T:
    """The same on asyncio, where only tasks count that are made as such."""
    return await in_a_task(steps, lambda: in_a_scope(steps, call))


# ---- trio


class _Points(trio.abc.Instrument):
    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def after_task_step(self, task: Any) -> None:
        if task.context.get(MINE) and task.coro.cr_frame is not None:
            self.steps.passed()


def on_trio(steps: Steps, work: Callable[[], Awaitable[T]]) -> T:
    """Run an async function; trio sees itself to it that no task is left."""
    clock = trio.testing.MockClock()
    steps.jumped = clock.jump
    core: Any = trio._core._run
    # On purpose trio lets tasks go on in random order; here the order has to be the same every time.
    core._ALLOW_DETERMINISTIC_SCHEDULING = True
    core._r.seed(0)

    async def keep_going() -> None:
        while True:
            await trio.testing.wait_all_tasks_blocked()
            seconds = trio.lowlevel.current_statistics().seconds_to_next_deadline
            steps.idle(None if seconds == float("inf") else max(seconds, 0.0))

    async def main() -> T:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_going)
            found = await work()
            nursery.cancel_scope.cancel()
        return found

    try:
        return trio.run(main, clock=clock, instruments=[_Points(steps)])
    finally:
        core._ALLOW_DETERMINISTIC_SCHEDULING = False


@dataclass(frozen=True)
class Scheduler:
    """A loop whose every step is the same each time.

    Attributes:
        run: Runs an async function to its end, from a thread without a loop.
        carry: Awaits a call whose points count and which `Steps.cancel` cancels; `Cut` when that has happened.
    """

    name: str
    run: Callable[[Steps, Callable[[], Awaitable[Any]]], Any]
    carry: Callable[[Steps, Callable[[], Awaitable[Any]]], Awaitable[Any]]

    def __repr__(self) -> str:
        return self.name


SCHEDULERS = (
    Scheduler("asyncio", on_asyncio, in_a_task),
    Scheduler("asyncio-scope", on_asyncio, in_a_task_with_a_scope),
    Scheduler("trio", on_trio, in_a_scope),
)
