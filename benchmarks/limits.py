"""The loops written by hand: what the same work costs without a library.

`by_hand` is the limit of the figures: validate in, call, validate out, merge, keep a record with two clock readings,
with the fastest calls that pydantic-core has. The others do by hand what one feature does. No loop here is padded: each
is what one would write who needs exactly this flow and nothing else.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from time import perf_counter_ns
from typing import Any

from benchmarks.shapes import Shape, TypedStep

Context = dict[str, Any]
Run = Callable[[], Context]


class Record:
    """What one step left behind."""

    __slots__ = ("ended_ns", "name", "outputs", "started_ns")

    def __init__(self, name: str, outputs: Context, started_ns: int, ended_ns: int) -> None:
        self.name = name
        self.outputs = outputs
        self.started_ns = started_ns
        self.ended_ns = ended_ns


def _bound(step: TypedStep) -> tuple[str, Callable[[Any], Any], Callable[[Any], Any], Callable[[Any], Any], Any]:
    validate_input = step.input_model.__pydantic_validator__.validate_python
    validate_output = step.output_model.__pydantic_validator__.validate_python
    return step.name, validate_input, step.fn, validate_output, step.reads


def by_hand(shape: Shape) -> Run:
    """The limit: bound validators, `__dict__` in place of a dump, slotted records."""
    plan = [_bound(step) for step in shape.steps]

    def run() -> Context:
        context = dict(shape.initial)
        records = []
        for name, validate_input, fn, validate_output, reads in plan:
            started_ns = perf_counter_ns()
            inputs = validate_input({field: context[key] for field, key in reads})
            outputs = validate_output(fn(inputs)).__dict__
            context.update(outputs)
            records.append(Record(name, outputs, started_ns, perf_counter_ns()))
        return context

    return run


def by_hand_plainly(shape: Shape) -> Run:
    """The same loop as most people write it: `model_validate` and `model_dump`."""

    def run() -> Context:
        context = dict(shape.initial)
        records = []
        for step in shape.steps:
            started_ns = perf_counter_ns()
            inputs = step.input_model.model_validate({field: context[key] for field, key in step.reads})
            outputs = step.output_model.model_validate(step.fn(inputs)).model_dump()
            context.update(outputs)
            records.append(Record(step.name, outputs, started_ns, perf_counter_ns()))
        return context

    return run


def cached_by_hand(shape: Shape) -> Run:
    """A step cache by hand: validate in, look up by name and input values, call only on a miss."""
    cache: dict[tuple[Any, ...], Context] = {}

    def run() -> Context:
        context = dict(shape.initial)
        records = []
        for step in shape.steps:
            started_ns = perf_counter_ns()
            inputs = step.input_model.model_validate({field: context[key] for field, key in step.reads})
            cache_key = (step.name, *inputs.__dict__.values())
            outputs = cache.get(cache_key)
            if outputs is None:
                outputs = cache[cache_key] = step.output_model.model_validate(step.fn(inputs)).model_dump()
            context.update(outputs)
            records.append(Record(step.name, outputs, started_ns, perf_counter_ns()))
        return context

    return run


def checkpointed_by_hand(shape: Shape) -> Run:
    """A checkpoint in memory by hand: the log of a run grows by one entry per step and goes when the run is done."""
    plan = [_bound(step) for step in shape.steps]
    store: dict[int, list[tuple[str, Context]]] = {}

    def run() -> Context:
        context = dict(shape.initial)
        records: list[Record] = []
        log = store[id(records)] = []
        for name, validate_input, fn, validate_output, reads in plan:
            started_ns = perf_counter_ns()
            inputs = validate_input({field: context[key] for field, key in reads})
            outputs = validate_output(fn(inputs)).__dict__
            context.update(outputs)
            log.append((name, dict(outputs)))
            records.append(Record(name, outputs, started_ns, perf_counter_ns()))
        del store[id(records)]
        return context

    return run


class committed_by_hand:
    """One row of the answer's size committed per step, by three bare statements: what SQLite itself takes."""

    def __init__(self, shape: Shape, path: str) -> None:
        self._shape = shape
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("pragma journal_mode = wal")
        self._connection.execute("pragma synchronous = normal")
        self._connection.execute("create table steps (id integer primary key, name text, outputs text)")

    def __call__(self) -> Context:
        execute = self._connection.execute
        for step in self._shape.steps:
            execute("begin immediate")
            execute("insert into steps (name, outputs) values (?, ?)", (step.name, '{"n":123456}'))
            execute("commit")
        return {**self._shape.initial, **self._shape.expected}

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def gathered_by_hand(shape: Shape) -> Callable[[], Awaitable[Context]]:
    """Root, `asyncio.gather` over the leaves, join."""
    root, *leaves, join = (_bound(step) for step in shape.steps)

    async def one(bound: Any, context: Context, records: list[Record]) -> Context:
        name, validate_input, fn, validate_output, reads = bound
        started_ns = perf_counter_ns()
        inputs = validate_input({field: context[key] for field, key in reads})
        outputs: Context = validate_output(await fn(inputs)).__dict__
        records.append(Record(name, outputs, started_ns, perf_counter_ns()))
        return outputs

    async def run() -> Context:
        context = dict(shape.initial)
        records: list[Record] = []
        context.update(await one(root, context, records))
        for outputs in await asyncio.gather(*[one(leaf, context, records) for leaf in leaves]):
            context.update(outputs)
        context.update(await one(join, context, records))
        return context

    return run


def pooled_by_hand(shape: Shape, pool: Executor) -> Run:
    """Root, the leaves on a pool of threads that stays alive between runs, join."""
    root, *leaves, join = (_bound(step) for step in shape.steps)

    def one(bound: Any, context: Context, records: list[Record]) -> Context:
        name, validate_input, fn, validate_output, reads = bound
        started_ns = perf_counter_ns()
        inputs = validate_input({field: context[key] for field, key in reads})
        outputs: Context = validate_output(fn(inputs)).__dict__
        records.append(Record(name, outputs, started_ns, perf_counter_ns()))
        return outputs

    def run() -> Context:
        context = dict(shape.initial)
        records: list[Record] = []
        context.update(one(root, context, records))
        for pending in [pool.submit(one, leaf, context, records) for leaf in leaves]:
            context.update(pending.result())
        context.update(one(join, context, records))
        return context

    return run
