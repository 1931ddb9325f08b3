"""The stop-watch: contenders measured side by side in one process.

Contenders take turns in short slices and the order rotates from round to round, so that a machine that slows down slows
all of them. Garbage is collected between rounds and left to itself inside them; what existed before the first round is
frozen, since walking through thousands of models would drown the runs. What counts is the median over rounds of a
number made from one round, never the quotient of two medians taken at different times.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that can be run n times in a row.

    Attributes:
        repeat: Runs it n times and returns the last answer.
        check: Raises where an answer is wrong. Called after each slice, outside the measured time.
    """

    name: str
    repeat: Callable[[int], Any]
    check: Callable[[Any], None]


def sync_contender(name: str, run: Callable[[], Any], check: Callable[[Any], None]) -> Contender:
    """A contender made from a plain callable that does one run."""

    def repeat(times: int) -> Any:
        answer = None
        for _ in range(times):
            answer = run()
        return answer

    return Contender(name, repeat, check)


def async_contender(
    name: str, loop: asyncio.AbstractEventLoop, run: Callable[[], Awaitable[Any]], check: Callable[[Any], None]
) -> Contender:
    """A contender made from a coroutine function; a slice is one task on `loop`."""

    async def many(times: int) -> Any:
        answer = None
        for _ in range(times):
            answer = await run()
        return answer

    return Contender(name, lambda times: loop.run_until_complete(many(times)), check)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure.

    Attributes:
        budget_s: Time for the rounds of one figure, in seconds. At least `min_rounds` are made all the same.
        slice_s: Least time that one contender runs in one round, in seconds.
    """

    budget_s: float
    slice_s: float
    min_rounds: int = 5


def interleaved(contenders: Sequence[Contender], effort: Effort) -> list[list[float]]:
    """Seconds per run of every contender, one row for each round."""
    times = [_runs_per_slice(contender, effort.slice_s) for contender in contenders]
    rounds: list[list[float]] = []
    gc.collect()
    gc.freeze()
    try:
        started = perf_counter()
        while len(rounds) < effort.min_rounds or perf_counter() - started < effort.budget_s:
            rounds.append(_one_round(contenders, times, first=len(rounds)))
    finally:
        gc.unfreeze()
    return rounds


def _one_round(contenders: Sequence[Contender], times: Sequence[int], *, first: int) -> list[float]:
    """One slice of every contender, beginning with the given one."""
    gc.collect()
    row = [0.0] * len(contenders)
    for turn in range(len(contenders)):
        place = (turn + first) % len(contenders)
        row[place] = _seconds_per_run(contenders[place], times[place])
    return row


def _runs_per_slice(contender: Contender, slice_s: float) -> int:
    """Warm the contender up and find how many runs fill a slice."""
    _seconds_per_run(contender, 1)
    seconds = min(_seconds_per_run(contender, 1), _seconds_per_run(contender, 2))
    return max(1, round(slice_s / seconds))


def _seconds_per_run(contender: Contender, times: int) -> float:
    started = perf_counter()
    answer = contender.repeat(times)
    seconds = (perf_counter() - started) / times
    contender.check(answer)
    return seconds


def median_of(rounds: Sequence[Sequence[float]], number_of: Callable[[Sequence[float]], float]) -> float:
    """The median over the rounds of a number made from one round."""
    return median(number_of(row) for row in rounds)
