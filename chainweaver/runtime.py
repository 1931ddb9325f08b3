"""The runtime: where a run gets its time, its ids and its random numbers from.

One object, injected once per executor. The run core never sees it; lanes read the clock and hand the time in with every
reply. Tests inject their own, so that a schedule of thirty days takes milliseconds and ids repeat.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Runtime:
    """The sources of everything that differs from run to run.

    Args:
        now_ns: Monotonic clock in nanoseconds. Durations and limits come from it.
        wall_time: Seconds since the epoch; read once per run, for the dates in records.
        new_id: Makes a trace id, 32 hex characters.
        random: Makes a float in [0, 1), for jitter; seed it to repeat a schedule exactly.
        pause: Called instead of waiting, with the seconds to wait. None: really wait.

    >>> clock = iter(range(0, 10_000, 1_000))
    >>> runtime = Runtime(now_ns=lambda: next(clock), wall_time=lambda: 0.0, new_id=lambda: "0" * 32)
    >>> runtime.now_ns(), runtime.now_ns()
    (0, 1000)
    """

    __slots__ = ("new_id", "now_ns", "pause", "random", "wall_time")

    def __init__(
        self,
        *,
        now_ns: Callable[[], int] = time.monotonic_ns,
        wall_time: Callable[[], float] = time.time,
        new_id: Callable[[], str] | None = None,
        random: Callable[[], float] | None = None,
        pause: Callable[[float], None] | None = None,
    ) -> None:
        self.now_ns = now_ns
        self.wall_time = wall_time
        self.new_id = new_id or _random_id
        self.random = random or _random_float
        self.pause = pause


def _random_id() -> str:
    """128 random bits as 32 hex characters; a tenth of the price of a UUID."""
    # os.urandom and not the random module: ids must differ between forked processes and after random.seed().
    import os

    return os.urandom(16).hex()


def _random_float() -> float:
    import random

    return random.random()
