"""Virtual time: a clock whose waiting costs nothing, and the runtime that runs of it use.

What would have been waited for is written down and the clock goes on by it. Time limits of tools are kept by real
timers as ever; what a tool that takes long would do, a fake does with `advance`. Handed to executors by tests, and by
the runner, the attester and the fuzzer of this room.
"""

from __future__ import annotations

import random
import threading
from datetime import datetime, timedelta, timezone

from chainweaver.runtime import Runtime

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
START = datetime(2000, 1, 1, tzinfo=timezone.utc)


class VirtualClock:
    """A clock that goes on only when somebody waits or says so.

    Retries, back-off and deadlines of a run then take no time, waits can be asserted exactly, and ids and jitter are
    those of the seed, the same in every run of the test. Waits of steps that run side by side add up, since none of
    them really takes place; where their order matters, run with `max_step_concurrency=1`.

    Args:
        start: What the clock shows at first; aware.
        seed: Of the ids and random numbers that the runtime gives.

    Raises:
        ValueError: `start` has no time zone.

    >>> from chainweaver.executor import FlowExecutor
    >>> from chainweaver.flow import Flow, FlowStep, RetryPolicy
    >>> from chainweaver.tools import tool
    >>> @tool
    ... def fetch(n: int) -> int:
    ...     raise OSError("busy")
    >>> patient = FlowStep(tool_name="fetch", retry=RetryPolicy(max_retries=3, backoff_seconds=86_400))
    >>> clock = VirtualClock()
    >>> flow = Flow(name="f", description="Waits for days.", steps=[patient])
    >>> with FlowExecutor(tools=[fetch], flows=[flow], runtime=clock.runtime()) as executor:
    ...     executor.execute_flow("f", {"n": 1}).status
    'failed'
    >>> clock.waits, str(clock.now)
    ([86400.0, 172800.0, 345600.0], '2000-01-08 00:00:00+00:00')
    """

    def __init__(self, start: datetime = START, *, seed: int = 0) -> None:
        if start.utcoffset() is None:
            raise ValueError(f"start has to be aware, not {start!r}; pass tzinfo=timezone.utc.")
        self.start = start
        self.seed = seed
        self._elapsed_ns = 0
        self._waits: list[float] = []
        self._lock = threading.Lock()
        # A source of its own: how many ids are made must not change the jitter.
        ids = random.Random(f"ids {seed}")
        self._runtime = Runtime(
            now_ns=lambda: self._elapsed_ns,
            wall_time=self.time,
            new_id=lambda: f"{ids.getrandbits(128):032x}",
            random=random.Random(seed).random,
            pause=self._pause,
        )

    @property
    def waits(self) -> list[float]:
        """What was waited for so far, in seconds, in the order in which the waits began; a new list."""
        with self._lock:
            return list(self._waits)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self._elapsed_ns / 1e9

    @property
    def now(self) -> datetime:
        """What the clock shows; aware."""
        return self.start + timedelta(microseconds=self._elapsed_ns / 1_000)

    def time(self) -> float:
        """What the clock shows, in seconds since the epoch: `deadline=clock.time() + 60` is a minute from now."""
        # From the exact difference: a timestamp of its own would round to a quarter of a microsecond.
        return (self.start - EPOCH).total_seconds() + self._elapsed_ns / 1e9

    def advance(self, seconds: float) -> None:
        """Let time pass, as a tool that takes long would; no wait is noted.

        Raises:
            ValueError: Time does not go back.
        """
        if not seconds >= 0:
            raise ValueError(f"A clock advances by 0 seconds or more, not by {seconds}.")
        with self._lock:
            self._elapsed_ns += round(seconds * 1e9)

    def runtime(self) -> Runtime:
        """The runtime of executors that live in this time; always the same one."""
        return self._runtime

    def __repr__(self) -> str:
        return f"VirtualClock({self.now.isoformat()}, {len(self._waits)} wait(s))"

    def _pause(self, seconds: float) -> None:
        with self._lock:
            self._waits.append(seconds)
            self._elapsed_ns += round(max(seconds, 0.0) * 1e9)
