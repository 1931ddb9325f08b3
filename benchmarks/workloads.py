"""The figures: which runs are compared, how a number is made from one round, and the bound that it has to keep.

Contenders of a figure are set up when it is measured and closed afterwards. The first one is chainweaver; the one at
`limit` is written by hand. Both do the same work on the same models and both start from the shapes in shapes.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any

from benchmarks import constructs, limits, shapes
from benchmarks.baseline import InterpretiveEngine
from benchmarks.measure import Contender, async_contender, sync_contender
from benchmarks.ours import async_run_of, executor_for, run_of
from benchmarks.shapes import Shape
from chainweaver import FlowExecutor, InMemoryCheckpointer, InMemoryStepCache, RetryPolicy
from chainweaver.sql import open_store

RETRY = RetryPolicy(max_retries=2, backoff_seconds=0.0)


class Bench:
    """What the contenders of one figure share: executors, an event loop, a pool of threads. Closes them all."""

    def __init__(self) -> None:
        self._open = ExitStack()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def ours(self, shape: Shape, **settings: Any) -> Contender:
        """chainweaver on the sync lane."""
        executor = self._open.enter_context(executor_for(shape, **settings))
        return sync_contender("chainweaver", run_of(executor, shape), shape.check)

    def ours_async(self, shape: Shape, **settings: Any) -> Contender:
        """chainweaver on the async lane, all runs of a slice in one task."""
        executor = self._open.enter_context(executor_for(shape, **settings))
        return async_contender("chainweaver", self.loop(), async_run_of(executor, shape), shape.check)

    def hand(self, shape: Shape, make: Callable[[Shape], limits.Run] = limits.by_hand) -> Contender:
        """A loop written by hand."""
        return sync_contender("by hand", make(shape), shape.check)

    def pair(self, flows: Any, tools: Any, initial: dict[str, Any], hand: Any, **settings: Any) -> list[Contender]:
        """A construct as a flow, and by hand."""
        executor = self._open.enter_context(FlowExecutor(tools=tools, flows=flows, **settings))
        check = constructs.equals(hand())
        ours = sync_contender("chainweaver", constructs.run_flow(executor, initial), check)
        return [ours, sync_contender("by hand", hand, check)]

    def gathered(self, shape: Shape) -> Contender:
        """`asyncio.gather` written by hand."""
        return async_contender("by hand", self.loop(), limits.gathered_by_hand(shape), shape.check)

    def pooled(self, shape: Shape) -> Contender:
        """A pool of threads that stays alive between runs, written by hand."""
        pool = self._open.enter_context(ThreadPoolExecutor(16))
        return sync_contender("by hand", limits.pooled_by_hand(shape, pool), shape.check)

    def interpreted(self, shape: Shape) -> Contender:
        """The interpretive baseline."""
        return sync_contender("baseline", InterpretiveEngine(shape).run, shape.check)

    def durable(self, shape: Shape) -> Contender:
        """chainweaver on the sync lane, every step committed to a SQLite file of its own."""
        folder = self._open.enter_context(TemporaryDirectory())
        store = self._open.enter_context(open_store(f"sqlite:///{folder}/runs.db"))
        return self.ours(shape, checkpointer=store.runs)

    def committed(self, shape: Shape) -> Contender:
        """As many bare commits of one row as the shape has steps."""
        path = f"{self._open.enter_context(TemporaryDirectory())}/bare.db"
        run = limits.committed_by_hand(shape, path)
        self._open.callback(run.close)
        return sync_contender("by hand", run, shape.check)

    def open(self, executor: FlowExecutor) -> FlowExecutor:
        """An executor that is closed in the end."""
        return self._open.enter_context(executor)

    def loop(self) -> asyncio.AbstractEventLoop:
        if not hasattr(self, "_event_loop"):
            self._event_loop = asyncio.new_event_loop()
            self._open.callback(self._event_loop.close)
        return self._event_loop


Number = Callable[[Sequence[float]], float]


def ours_over_hand(row: Sequence[float]) -> float:
    """The plain ratio of the first two contenders."""
    return row[0] / row[1]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        name: What `--only` and the stored results call it.
        bound: The most that the number may be; None for a line that is only shown.
        steps: Steps of one run, to give times per step.
        setup: Makes the contenders.
        number: Makes the number from the seconds per run of one round, contenders in the order of `setup`.
        limit: Which contender is shown in the column of the limit.
    """

    name: str
    title: str
    bound: float | None
    steps: int
    setup: Callable[[Bench], Sequence[Contender]]
    number: Number = ours_over_hand
    limit: int = 1


def _chain(name: str, length: int, bound: float) -> Figure:
    def setup(bench: Bench) -> Sequence[Contender]:
        shape = shapes.chain(length)
        return [bench.ours(shape), bench.hand(shape)]

    title = "a whole run of one step" if length == 1 else f"chain of {length}"
    return Figure(name, title, bound, length, setup)


def _chain_plainly(bench: Bench) -> Sequence[Contender]:
    shape = shapes.chain(100)
    return [bench.ours(shape), bench.hand(shape, limits.by_hand_plainly)]


def _diamond(bench: Bench) -> Sequence[Contender]:
    shape = shapes.diamond()
    return [bench.ours(shape), bench.hand(shape)]


def _dag(bench: Bench) -> Sequence[Contender]:
    shape = shapes.layered()
    return [bench.ours(shape), bench.hand(shape)]


def _retries(bench: Bench) -> Sequence[Contender]:
    shape = shapes.chain(100)
    return [bench.ours(shape, retry=RETRY), bench.hand(shape)]


def _limit_16_chain(bench: Bench) -> Sequence[Contender]:
    shape = shapes.chain(100)
    return [bench.ours(shape, lane="inline", max_step_concurrency=16), bench.hand(shape)]


def _limit_16_dag(bench: Bench) -> Sequence[Contender]:
    shape = shapes.layered()
    return [bench.ours(shape, lane="inline", max_step_concurrency=16), bench.hand(shape)]


def _limit_16_scheduled(bench: Bench) -> Sequence[Contender]:
    shape = shapes.layered()
    # With one step that may have to wait, steps can overlap, and the run keeps count of what every step waits for.
    return [bench.ours(shape, lane="inline", first_retry=RETRY, max_step_concurrency=16), bench.hand(shape)]


def _rows(*, typed: bool) -> Callable[[Bench], Sequence[Contender]]:
    def setup(bench: Bench) -> Sequence[Contender]:
        shape = shapes.row_chain(typed=typed)
        return [bench.ours(shape), bench.hand(shape)]

    return setup


def _async_chain(bench: Bench) -> Sequence[Contender]:
    shape = shapes.chain(100)
    return [bench.ours_async(shape, lane="inline"), bench.hand(shape)]


def _cache_hit(bench: Bench) -> Sequence[Contender]:
    shape = shapes.chain(100)
    return [bench.ours(shape, step_cache=InMemoryStepCache()), bench.hand(shape, limits.cached_by_hand)]


def _checkpoint(bench: Bench) -> Sequence[Contender]:
    shape = shapes.chain(100)
    return [bench.ours(shape, checkpointer=InMemoryCheckpointer()), bench.ours(shape), bench.hand(shape)]


def _checkpoint_by_hand(bench: Bench) -> Sequence[Contender]:
    shape = shapes.chain(100)
    return [
        bench.ours(shape, checkpointer=InMemoryCheckpointer()),
        bench.hand(shape, limits.checkpointed_by_hand),
    ]


def _checkpoint_growth(bench: Bench) -> Sequence[Contender]:
    long, short = shapes.chain(500), shapes.chain(20)
    return [
        bench.ours(long, checkpointer=InMemoryCheckpointer()),
        bench.ours(long),
        bench.ours(short, checkpointer=InMemoryCheckpointer()),
        bench.ours(short),
    ]


def _durable_step(bench: Bench) -> Sequence[Contender]:
    shape = shapes.chain(100)
    return [bench.durable(shape), bench.committed(shape)]


def _durable_growth(bench: Bench) -> Sequence[Contender]:
    return [bench.durable(shapes.chain(400)), bench.durable(shapes.chain(50))]


def _length_growth(bench: Bench) -> Sequence[Contender]:
    long, short = shapes.chain(5000), shapes.chain(50)
    return [bench.ours(long), bench.hand(long), bench.ours(short), bench.hand(short)]


def _key_growth(bench: Bench) -> Sequence[Contender]:
    many, few = shapes.chain(100, extra_keys=998), shapes.chain(100, extra_keys=8)
    return [bench.ours(many), bench.hand(many), bench.ours(few), bench.hand(few)]


def _async_fan_out(bench: Bench) -> Sequence[Contender]:
    shape = shapes.diamond(leaf="await")
    return [bench.ours_async(shape, max_step_concurrency=16), bench.gathered(shape)]


def _thread_fan_out(bench: Bench) -> Sequence[Contender]:
    shape = shapes.diamond(leaf="block")
    return [bench.ours(shape, max_step_concurrency=16), bench.pooled(shape)]


def _baseline(bench: Bench) -> Sequence[Contender]:
    shape = shapes.chain(100)
    return [bench.ours(shape), bench.interpreted(shape)]


ITEMS = 10_000


def _map(bench: Bench) -> Sequence[Contender]:
    items = list(range(ITEMS))
    flow, tools = constructs.map_flow("add"), [constructs.tool("add", constructs.add)]
    return bench.pair([flow], tools, {"items": items, "k": 3}, constructs.map_by_hand(items, 3))


def _map_fan_out(bench: Bench) -> Sequence[Contender]:
    items = list(range(160))
    expected = {"items": items, "k": 3, "total": [item + 3 for item in items]}
    flow, tools = constructs.map_flow("late", map_concurrency=16), [constructs.tool("late", constructs.add_late)]
    executor = bench.open(FlowExecutor(tools=tools, flows=[flow]))

    async def run() -> Any:
        return (await executor.execute_flow_async("bench", {"items": items, "k": 3})).final_output

    ideal_s = len(items) / 16 * shapes.WAIT_S

    def wait() -> Any:
        sleep(ideal_s)
        return expected

    check = constructs.equals(expected)
    return [async_contender("chainweaver", bench.loop(), run, check), sync_contender("ideal", wait, check)]


def _branches(bench: Bench) -> Sequence[Contender]:
    flow, tools, hand = constructs.branching(50)
    return bench.pair([flow], tools, constructs.FORKED, hand)


def _sub_flows(bench: Bench) -> Sequence[Contender]:
    flows, tools, shape = constructs.sub_flows(10, 10)
    executor = bench.open(FlowExecutor(tools=tools, flows=flows))
    ours = sync_contender("chainweaver", constructs.run_flow(executor, shape.initial), shape.check)
    return [ours, sync_contender("by hand", constructs.sub_flows_by_hand(shape, 10), shape.check)]


def _middleware(bench: Bench) -> Sequence[Contender]:
    shape = shapes.chain(100)
    return [bench.ours(shape, middleware=[constructs.Watching()]), bench.ours(shape), bench.hand(shape)]


def _added_over_hand(row: Sequence[float]) -> float:
    return (row[0] - row[1]) / row[2]


def _step_growth(row: Sequence[float]) -> float:
    return (row[0] / 400) / (row[1] / 50)


def _added_growth(row: Sequence[float]) -> float:
    # Each over the run without checkpoints: 500 different models leave the caches of the processor, with and without.
    return ((row[0] - row[1]) / row[1]) / ((row[2] - row[3]) / row[3])


def _ratio_of_ratios(row: Sequence[float]) -> float:
    return (row[0] / row[1]) / (row[2] / row[3])


FIGURES: tuple[Figure, ...] = (
    _chain("chain100", 100, 1.25),
    _chain("chain5", 5, 1.6),
    Figure("diamond", "diamond 1-16-1", 1.5, 18, _diamond),
    Figure("dag1000", "DAG of 10 x 100, two dependencies each", 1.4, 1000, _dag),
    _chain("one-step", 1, 4.0),
    Figure("chain100-retry", "chain of 100, a retry policy on every step", 2.0, 100, _retries),
    Figure("chain100-limit16", "chain of 100, max_step_concurrency=16, inline tools", 2.0, 100, _limit_16_chain),
    Figure("dag1000-limit16", "DAG of 1000, max_step_concurrency=16, inline tools", 2.0, 1000, _limit_16_dag),
    Figure("dag1000-scheduled", "the same, one step with a retry policy", None, 1000, _limit_16_scheduled),
    Figure("rows-typed", "50 dicts through 20 steps, list[dict[str, int]]", 3.0, 20, _rows(typed=True)),
    Figure("rows-loose", "50 dicts through 20 steps, list", 3.0, 20, _rows(typed=False)),
    Figure("async-chain100", "chain of 100 on the async lane, inline tools", 1.7, 100, _async_chain),
    Figure("cache-hit", "chain of 100 cache hits / hits by hand", 2.0, 100, _cache_hit),
    Figure("checkpoint", "added by checkpoints in memory / by hand", 1.0, 100, _checkpoint, _added_over_hand, 2),
    Figure("checkpoint-growth", "checkpoint per step, 500 steps / 20", 1.2, 500, _checkpoint_growth, _added_growth),
    Figure("durable-step", "chain of 100 in SQLite / begin, insert, commit", 3.0, 100, _durable_step),
    Figure("durable-growth", "committed step, 400 steps / 50", 1.2, 400, _durable_growth, _step_growth),
    Figure("growth-length", "ratio at 5000 steps / at 50", 1.2, 5000, _length_growth, _ratio_of_ratios),
    Figure("growth-keys", "ratio with 1000 keys / with 10", 1.3, 100, _key_growth, _ratio_of_ratios),
    Figure("fan-out-async", "16 x 5 ms / gather", 1.15, 1, _async_fan_out),
    Figure("fan-out-threads", "16 x 5 ms, max_step_concurrency=16 / pool", 1.15, 1, _thread_fan_out),
    Figure("map10000", "map of 10 000 trivial items, per item", 3.0, ITEMS, _map),
    Figure("map-fan-out", "map of 160 x 5 ms, map_concurrency=16 / ideal", 1.3, 1, _map_fan_out),
    Figure("branches", "50 forks with one way taken, per step that ran", 1.7, 100, _branches),
    Figure("sub-flows", "chain of 10 sub-flows of 10 steps", 1.7, 110, _sub_flows),
    Figure(
        "middleware", "added by a middleware that does nothing / by hand", 0.6, 100, _middleware, _added_over_hand, 2
    ),
    Figure("chain100-plainly", "chain of 100 / model_validate, model_dump by hand", None, 100, _chain_plainly),
    Figure("checkpoint-by-hand", "checkpointed chain / checkpointed by hand", None, 100, _checkpoint_by_hand),
    Figure("baseline", "chain of 100 / interpretive baseline", 1.0, 100, _baseline),
)
