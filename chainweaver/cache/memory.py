"""A step cache in this process: bounded by number of entries and by age.

Hits are copies. Whether a copy needs depth is decided when the outputs are stored, so that a hit on plain scalars costs
one new dict. Called by the executor from any thread.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from chainweaver.cache.key import StepCacheKey, Uncacheable
from chainweaver.objects.copies import UncopyableError, holds_atoms_only, independent_copy


class _Entry(NamedTuple):
    output: dict[str, Any]
    is_flat: bool  # atoms only: a shallow copy is an independent one
    stored_at_s: float


class InMemoryStepCache:
    """Keeps the outputs of steps in memory, for as long as the object lives.

    Safe to use from many threads. Neither `set` nor `get` shares anything mutable with the caller.

    Args:
        max_entries: How many entries are kept; the one unused for longest goes first. None: no bound.
        ttl_seconds: How many seconds an entry is served after it was stored. None: for ever.
        clock: Where the seconds come from; any monotonic clock.

    Raises:
        ValueError: A bound is not positive.

    >>> cache = InMemoryStepCache(max_entries=100)
    >>> key = StepCacheKey("add", "0f3a", "77c1")
    >>> cache.set(key, {"total": 3})
    >>> cache.get(key), len(cache)
    ({'total': 3}, 1)
    """

    keeps_objects = True

    def __init__(
        self,
        max_entries: int | None = None,
        ttl_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_entries is not None and max_entries < 1:
            raise ValueError(f"'max_entries' must be at least 1, not {max_entries}.")
        if ttl_seconds is not None and ttl_seconds <= 0:
            raise ValueError(f"'ttl_seconds' must be positive, not {ttl_seconds}.")
        self._max_entries = max_entries
        self._ttl_s = ttl_seconds
        self._clock = clock
        self._entries: OrderedDict[StepCacheKey, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._is_bounded = max_entries is not None or ttl_seconds is not None

    def get(self, key: StepCacheKey) -> dict[str, Any] | None:
        """A copy of the outputs kept under this key, or None for a miss."""
        if self._is_bounded:
            entry = self._get_bounded(key)
        else:
            # One dict look-up is atomic and entries never change: without bounds a hit needs no lock.
            entry = self._entries.get(key)
        if entry is None:
            return None
        output, is_flat, _ = entry
        return output.copy() if is_flat else independent_copy(output)

    def _get_bounded(self, key: StepCacheKey) -> _Entry | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if self._ttl_s is not None and self._clock() - entry.stored_at_s >= self._ttl_s:
                del self._entries[key]
                return None
            self._entries.move_to_end(key)
            return entry

    def set(self, key: StepCacheKey, output: dict[str, Any]) -> None:
        """Keep a copy of the outputs under this key; an older entry is replaced.

        Raises:
            Uncacheable: A value cannot be copied. Nothing is stored, and an older entry stays.
        """
        try:
            copied = independent_copy(output)
        except UncopyableError as exc:
            raise Uncacheable(str(exc)) from exc
        stored_at_s = self._clock() if self._ttl_s is not None else 0.0
        entry = _Entry(copied, holds_atoms_only(copied), stored_at_s)
        with self._lock:
            self._entries[key] = entry
            self._entries.move_to_end(key)
            if self._max_entries is not None and len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        """How many entries are held, those past their time included until they are asked for."""
        return len(self._entries)
