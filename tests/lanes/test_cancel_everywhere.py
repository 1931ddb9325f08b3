"""A run of six steps, cut off at every point at which it waits: it ends once, leaves nothing behind, and can go on."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from pydantic import BaseModel

from chainweaver import (
    BaseMiddleware,
    CancellationToken,
    ConditionalEdge,
    DAGFlowStep,
    ExecutionResult,
    FlowCancelledError,
    FlowExecutor,
    InMemoryCheckpointer,
    InMemoryStepCache,
    RetryPolicy,
    Tool,
    ToolContext,
    ToolSafetyContract,
)
from chainweaver.flow.callbacks import ApprovalDecision
from chainweaver.observe import Proceed, Sleep
from chainweaver.runtime import Runtime
from tests.conftest import PROOF
from tests.lanes.kit import Out, a_flow, a_step, a_tool, wait_until
from tests.lanes.stepping import SCHEDULERS, Cut, HeldThreads, Scheduler, Steps
from tests.lanes.table import SYNC, THREADS, Lane, pause

pytestmark = pytest.mark.slow
schedulers = pytest.mark.parametrize("scheduler", SCHEDULERS, ids=repr)
loops = pytest.mark.parametrize("scheduler", [SCHEDULERS[0], SCHEDULERS[-1]], ids=repr)
LIMITS = {"walk": (1, None), "one": (1, 2), "four": (4, 2)}
"""How many steps and how many items may be under way; only with one of each there is no schedule."""
limits = pytest.mark.parametrize(("limit", "items"), LIMITS.values(), ids=LIMITS)

GIVEN = {"n": 1, "items": [10, 20, 30]}
ADDED = {"fetch": 101, "crunch": 201, "first": 301, "second": 701, "each": [410, 420, 430], "ask": 501, "flaky": 601}
ENDING = {**GIVEN, **ADDED}
DONE_BY = {
    "fetch": {"fetch(1)"},
    "crunch": {"crunch(1)"},
    "inner/first": {"first(101)"},
    "inner/second": {"second(401)"},
    "inner": {"first(101)", "second(401)"},
    "each/0": {"each(10)"},
    "each/1": {"each(20)"},
    "each/2": {"each(30)"},
    "each": {"each(10)", "each(20)", "each(30)"},
    "ask": {"ask(1)"},
    "flaky": {"flaky(1)"},
}
"""Step in the checkpoint -> the calls that it stands for."""


NUMBER: ContextVar[int] = ContextVar("number", default=0)
"""Number of the run that a tool belongs to, as its caller set it."""

Wait = Callable[[float], Awaitable[None]]


class Open:
    """What is open, of all that a run may leave open."""

    def __init__(self) -> None:
        self.entered: Counter[str] = Counter()
        self.exited: Counter[str] = Counter()

    @asynccontextmanager
    async def connection(self, name: str) -> AsyncIterator[None]:
        self.entered[name] += 1
        try:
            yield
        finally:
            self.exited[name] += 1


class Watch(BaseMiddleware):
    """Counts what is told, and holds steps up for a second before they begin.

    Attributes:
        only_flows: Look at runs only, and not at their steps.
    """

    only_flows = False

    def __init__(self) -> None:
        self.begun: Counter[tuple[str, str]] = Counter()
        self.ended: Counter[tuple[str, str]] = Counter()
        self.results: dict[str | None, list[ExecutionResult]] = {}
        self.around: Counter[str] = Counter()

    def on_flow_start(self, context: Any) -> None:
        self.begun["flow", context.trace_id] += 1

    def on_step_start(self, context: Any) -> None:
        self.begun[context.trace_id, context.step_id] += 1

    def on_step_end(self, context: Any) -> None:
        self.ended[context.trace_id, context.step_id] += 1

    def on_flow_end(self, context: Any) -> None:
        self.ended["flow", context.trace_id] += 1
        self.results.setdefault(context.parent_trace_id, []).append(context.result)

    def around_step(self, context: Any) -> Iterator[Any]:
        self.around["step"] += 1
        try:
            if context.step_id in ("crunch", "second"):
                yield Sleep(1.0)
            yield Proceed()
        finally:
            self.around["step"] -= 1

    def around_run(self, context: Any) -> Iterator[Any]:
        self.around["run"] += 1
        try:
            yield Sleep(0.5)
            yield Proceed()
        finally:
            self.around["run"] -= 1

    def forget(self) -> None:
        for told in (self.begun, self.ended, self.results):
            told.clear()

    def left_open(self) -> dict[str, Any]:
        """What has no end, or more than one beginning or end."""
        begun, ended = (
            Counter({key: count for key, count in told.items() if key[0] == "flow" or not self.only_flows})
            for told in (self.begun, self.ended)
        )
        return {
            "begun and not ended": begun - ended,
            "ended and not begun": ended - begun,
            "begun more than once": {key: count for key, count in begun.items() if count > 1},
        }

    @property
    def result(self) -> ExecutionResult:
        """Of the outermost run."""
        [result] = self.results[None]
        return result


class Item(BaseModel):
    item: int


class Stage:
    """The flow, its executor, and what they leave behind.

    Attributes:
        calls: Calls of tools that came to their end in the present run, in order.
    """

    number = 0

    def __init__(self, limit: int, items: int | None, runtime: Runtime, wait: Wait = pause, **options: Any) -> None:
        self.items, self.wait = items, wait
        self.open, self.watch, self.store, self.cache = Open(), Watch(), InMemoryCheckpointer(), InMemoryStepCache()
        self.calls: list[str] = []
        self.executor = FlowExecutor(
            tools=self.tools(),
            flows=[self.inner(), self.flow()],
            max_step_concurrency=limit,
            checkpointer=self.store,
            step_cache=self.cache,
            approval_callback=self.approve,
            guardrail_callback=self.check,
            middleware=[self.watch],
            runtime=runtime,
            **options,
        )

    # ---- the flow

    def tools(self) -> list[Tool]:
        async def waiting(name: str, n: int, out: int) -> dict[str, int]:
            async with self.open.connection(name):
                await self.wait(0.2)
                await self.wait(0.2)
            self.called(f"{name}({n})")
            return {"out": out}

        async def fetch(given: Any) -> dict[str, int]:
            return await waiting("fetch", given.n, 101)

        def crunch(given: Any) -> dict[str, int]:
            self.called(f"crunch({given.n})")
            return {"out": 201}

        async def first(given: Any) -> dict[str, int]:
            return await waiting("first", given.n, 301)

        def second(given: Any) -> dict[str, int]:
            self.called(f"second({given.n})")
            return {"out": 701}

        async def each(given: Item) -> dict[str, int]:
            return await waiting("each", given.item, 400 + given.item)

        async def ask(given: Any) -> dict[str, int]:
            return await waiting("ask", given.n, 501)

        async def flaky(given: Any, context: ToolContext) -> dict[str, int]:
            if context.attempt == 1:
                await self.wait(0.1)
                raise OSError("busy")
            return await waiting("flaky", given.n, 601)

        each_tool = Tool(name="each", description="each", input_schema=Item, output_schema=Out, fn=each)
        return [
            a_tool("fetch", fetch, timeout_seconds=60, cacheable=True),
            a_tool("crunch", crunch),
            a_tool("first", first),
            a_tool("second", second, cacheable=True),
            each_tool,
            a_tool("ask", ask, safety=ToolSafetyContract(requires_approval=True)),
            a_tool("flaky", flaky),
        ]

    def inner(self) -> Any:
        steps = a_step("first"), a_step("second", "first", input_mapping={"n": 401})
        return a_flow(*steps).model_copy(update={"name": "inner"})

    def flow(self) -> Any:
        nest: dict[str, Any] = {"tool_name": None, "flow_name": "inner", "output_mapping": None}
        edge = ConditionalEdge(target_step_id="flaky", predicate="ask > 500 and crunch == 201")
        return a_flow(
            a_step("fetch"),
            a_step("crunch"),
            DAGFlowStep(step_id="inner", depends_on=["fetch"], input_mapping={"n": "fetch"}, **nest),
            a_step("each", "fetch", map_over="items", map_concurrency=self.items),
            a_step("ask", "crunch", "inner", "each", branches=[edge]),
            a_step("flaky", "ask", retry=RetryPolicy(max_retries=2, backoff_seconds=5)),
        )

    async def approve(self, context: Any) -> ApprovalDecision:
        async with self.open.connection("approval"):
            await self.wait(0.3)
        return ApprovalDecision(True, approver="eve")

    async def check(self, context: Any) -> None:
        async with self.open.connection("guardrail"):
            await self.wait(0.1)

    # ---- a run, and what it leaves

    def begin_anew(self) -> None:
        """Forget what earlier runs did."""
        self.number += 1
        NUMBER.set(self.number)
        self.cache.clear()
        self.calls.clear()
        self.watch.forget()

    def run(self, **options: Any) -> Awaitable[ExecutionResult]:
        return self.executor.execute_flow_async("flow", GIVEN, **options)

    def called(self, call: str) -> None:
        # A tool that was left behind in a thread may end during a later run.
        if NUMBER.get() == self.number:
            self.calls.append(call)

    def committed(self, trace_id: str) -> set[str]:
        """The calls whose steps the checkpoint of a run holds."""
        if trace_id not in self.store.list_trace_ids():
            return set()
        done: set[str] = set()
        for delta in self.store.load(trace_id).steps:
            done |= DONE_BY["/".join((*(part.partition("#")[0] for part in delta.path), delta.step_id))]
        return done

    def left_open(self) -> dict[str, Any]:
        """Everything that is not as it was before the run; empty when all is well."""
        assert self.executor._bound is not None
        assert self.executor._bound.cache is not None
        found = {
            "contexts": self.open.entered - self.open.exited,
            "wrappers": +self.watch.around,
            **self.watch.left_open(),
            "flights": len(self.executor._bound.cache.flights),
        }
        return {name: value for name, value in found.items() if value}


def summary(result: ExecutionResult) -> dict[str, str]:
    return {str(record.step_id): record.status for record in result.execution_log}


async def goes_on(stage: Stage, result: ExecutionResult) -> None:
    """Resume a run that was cut off."""
    committed, before = stage.committed(result.trace_id), len(stage.calls)
    assert committed <= set(stage.calls)
    stage.watch.forget()
    resumed = await stage.executor.resume_flow_async(result.trace_id)
    assert resumed.raise_for_failure().final_output == ENDING
    assert resumed.trace_id == result.trace_id
    assert committed.isdisjoint(stage.calls[before:]), "a committed step ran twice"
    assert stage.left_open() == {}


def points_of(scheduler: Scheduler, steps: Steps, stage: Stage) -> int:
    """How many points the run has when nobody interferes, which is the same every time."""
    counts = set()
    for _ in range(2):
        stage.begin_anew()
        steps.count_anew()
        result = scheduler.run(steps, lambda: scheduler.carry(steps, stage.run))
        assert result.raise_for_failure().final_output == ENDING
        assert stage.left_open() == {}
        assert len(stage.calls) == len(set(stage.calls)) == 9
        counts.add(steps.points)
    [count] = counts
    return count


Cutting = Callable[[Steps, Stage], Awaitable[ExecutionResult | None]]


def cut_everywhere(scheduler: Scheduler, limit: int, items: int | None, cut: Cutting) -> Counter[str]:
    """Run the flow once per point, each time cut off there, always with the same executor; how the runs ended."""
    steps = Steps()
    stage = Stage(limit, items, steps.runtime())
    stage.executor._bind().resources._threads = HeldThreads(steps)  # type: ignore[assignment]  # stands in
    count = points_of(scheduler, steps, stage)
    assert count > 30
    endings: Counter[str] = Counter()

    async def work() -> None:
        raised = await cut(steps, stage)
        result = stage.watch.result
        assert raised is None or raised is result
        endings[result.status] += 1
        assert stage.left_open() == {}
        while steps.held:  # what was left behind in a thread ends later, and changes nothing
            steps.release()
        steps.count_anew()
        if result.status == "ok":
            assert result.final_output == ENDING
            return
        assert result.status == "cancelled", summary(result)
        assert "failed" not in summary(result).values()
        await goes_on(stage, result)

    for at in range(1, count + 1):
        stage.begin_anew()
        steps.count_anew(at)
        try:
            scheduler.run(steps, work)
        except BaseException as exc:
            raise AssertionError(f"cut off at point {at} of {count}") from exc
    return endings


async def raised_by(call: Awaitable[object]) -> FlowCancelledError | None:
    try:
        await call
    except FlowCancelledError as error:
        return error
    return None


@schedulers
@limits
def test_a_task_cancelled_at_any_point_ends_its_run(scheduler: Scheduler, limit: int, items: int | None) -> None:
    """R17, R23: once, with everything closed, and the cancellation goes on to whoever asked for it."""

    async def cut(steps: Steps, stage: Stage) -> None:
        steps.act = lambda: steps.cancel()
        try:
            await scheduler.carry(steps, stage.run)
        except Cut:
            assert stage.watch.result.status == "cancelled"
        else:
            # The very last point belongs to the task group, which nothing can cancel any more.
            assert stage.watch.result.status == "ok"

    endings = cut_everywhere(scheduler, limit, items, cut)
    assert endings["ok"] <= 1
    assert endings["failed"] == 0


@loops
@limits
def test_a_token_cancelled_at_any_point_ends_its_run(scheduler: Scheduler, limit: int, items: int | None) -> None:
    """R17, R23: once, with everything closed, and the error carries the result."""

    async def cut(steps: Steps, stage: Stage) -> ExecutionResult | None:
        token = CancellationToken()
        steps.act = token.cancel
        error = await raised_by(scheduler.carry(steps, lambda: stage.run(cancel_token=token)))
        assert token._listeners == {}
        assert error is None or (error.token_cancelled, error.deadline_exceeded) == (True, False)
        return None if error is None else error.result

    endings = cut_everywhere(scheduler, limit, items, cut)
    assert endings["ok"] <= 1
    assert endings["failed"] == 0


@loops
@limits
def test_a_deadline_that_passes_at_any_point_ends_the_run(scheduler: Scheduler, limit: int, items: int | None) -> None:
    """R17, R22: once, with everything closed, and the error carries the result."""

    async def cut(steps: Steps, stage: Stage) -> ExecutionResult | None:
        steps.act = lambda: steps.jump(10_000)
        error = await raised_by(scheduler.carry(steps, lambda: stage.run(deadline=steps.deadline(5_000))))
        assert error is None or (error.token_cancelled, error.deadline_exceeded) == (False, True)
        return None if error is None else error.result

    endings = cut_everywhere(scheduler, limit, items, cut)
    assert endings["failed"] == 0


@loops
def test_a_run_that_was_cut_off_may_be_cut_off_again_while_it_goes_on(scheduler: Scheduler) -> None:
    """R23, R32, R33: at any point of what is left; whatever was committed by then never runs again."""
    steps = Steps()
    stage = Stage(4, 2, steps.runtime())
    stage.executor._bind().resources._threads = HeldThreads(steps)  # type: ignore[assignment]  # stands in
    middle = points_of(scheduler, steps, stage) // 2
    done: list[str] = []

    def settle(result: ExecutionResult) -> None:
        """Nothing that was committed before has run again, and what is committed now must not."""
        assert stage.left_open() == {}
        assert Counter(call for call in stage.calls if call in done) == Counter(done)
        done[:] = stage.committed(result.trace_id)
        stage.watch.forget()

    async def cut(at: int, call: Callable[[CancellationToken], Awaitable[ExecutionResult]]) -> ExecutionResult:
        token = CancellationToken()
        steps.count_anew(at)
        steps.act = token.cancel
        error = await raised_by(scheduler.carry(steps, lambda: call(token)))
        result = stage.watch.result
        assert error is None or error.result is result
        settle(result)
        return result

    async def work() -> str:
        done.clear()
        first = await cut(middle, lambda token: stage.run(cancel_token=token))
        resume = stage.executor.resume_flow_async
        second = await cut(at, lambda token: resume(first.trace_id, cancel_token=token))
        if second.status == "cancelled":
            assert (await cut(0, lambda token: resume(first.trace_id))).final_output == ENDING
        return second.status

    at, endings = 0, Counter[str]()
    while not endings["ok"]:
        at += 1
        stage.begin_anew()
        endings[scheduler.run(steps, work)] += 1
    assert endings["cancelled"] > 10


# ---- the lanes without a loop: a point is a reading of the clock, after every command and around every limit


class Readings:
    """A clock at whose readings something happens to the run.

    Attributes:
        at: The reading at which `act` is called, 0 for never.
    """

    def __init__(self) -> None:
        self.at = self.count = 0
        self.act: Callable[[], object] = lambda: None
        self._now_ns = 0
        self._lock = threading.Lock()

    def now_ns(self) -> int:
        with self._lock:
            self.count += 1
            is_it = self.count == self.at
        if is_it:
            self.act()
        return self._now_ns

    def jump(self, seconds: float) -> None:
        self._now_ns += round(seconds * 1e9)

    def deadline(self, seconds: float) -> float:
        return self._now_ns / 1e9 + seconds

    def runtime(self) -> Runtime:
        return Runtime(now_ns=self.now_ns, wall_time=lambda: self._now_ns / 1e9, pause=self.jump)


def interrupted() -> None:
    raise KeyboardInterrupt


async def briefly(seconds: float) -> None:
    await pause(0)


BLOCKING = {"walk": (SYNC, 1, None), "one": (THREADS, 1, 2), "four": (THREADS, 4, 2)}
STRIDE = 1 if PROOF else 5


@pytest.mark.parametrize(("lane", "limit", "items"), BLOCKING.values(), ids=BLOCKING)
@pytest.mark.parametrize("how", ["token", "deadline", "interrupt"])
def test_a_blocking_run_cut_off_at_any_reading_of_the_clock_ends(
    lane: Lane, limit: int, items: int | None, how: str
) -> None:
    """R17, R22, R23: by token, by deadline, by Ctrl-C: once, with everything closed; and it can go on afterwards."""
    clock = Readings()
    stage = Stage(limit, items, clock.runtime(), briefly, **lane.options)
    assert lane.run(stage.executor, "flow", GIVEN).raise_for_failure().final_output == ENDING
    count, before = clock.count, set(threading.enumerate())
    assert count > 20
    endings: Counter[str] = Counter()
    for at in range(1, count + 1, STRIDE):
        stage.begin_anew()
        token = CancellationToken()
        clock.count, clock.at = 0, at
        clock.act = {"token": token.cancel, "deadline": lambda: clock.jump(10_000), "interrupt": interrupted}[how]
        left: BaseException | None = None
        try:
            lane.run(stage.executor, "flow", GIVEN, cancel_token=token, deadline=clock.deadline(5_000))
        except (FlowCancelledError, KeyboardInterrupt) as exc:
            left = exc
        assert isinstance(left, (type(None), KeyboardInterrupt if how == "interrupt" else FlowCancelledError))
        if isinstance(left, FlowCancelledError):
            assert (left.token_cancelled, left.deadline_exceeded) == (how == "token", how == "deadline")
            assert left.result is stage.watch.result
        clock.at = 0
        if not stage.watch.begun:
            assert at == 1, "only before the beginning there is no run"
            continue
        result = stage.watch.result
        endings[result.status] += 1
        if how == "interrupt":
            # Ctrl-C may hit any line: a step of which it does so may be told of half, and a thread that is left behind
            # may still be telling. Runs have both ends all the same.
            stage.watch.only_flows = True
            wait_until(lambda: not stage.left_open())
        assert stage.left_open() == {}, f"cut off at reading {at} of {count}"
        assert token._listeners == {}
        if result.status != "ok":
            assert result.status == "cancelled"
            assert "failed" not in summary(result).values()
            committed, calls = stage.committed(result.trace_id), len(stage.calls)
            stage.watch.forget()
            assert stage.executor.resume_flow(result.trace_id).raise_for_failure().final_output == ENDING
            assert committed.isdisjoint(stage.calls[calls:]), "a committed step ran twice"
            assert stage.left_open() == {}
    assert endings["cancelled"] > count / STRIDE / 2
    stage.executor.close()
    assert set(threading.enumerate()) <= before
