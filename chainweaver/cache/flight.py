"""One computation for many who ask at the same time.

The first to ask for a key leads and computes; the others wait for what comes out. A leader that fails hands over: those
who waited ask again, and one of them leads. Nobody shares a value: every waiter gets a copy of its own.

Called by the executor, which has one table, from any thread. No lock is held while a waiter is called back.
"""

import logging
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

from chainweaver.objects.copies import UncopyableError, independent_copy

Waiter: TypeAlias = Callable[[dict[str, Any] | None], None]
"""Told the outputs, or None when there are none to share: then ask again with `SingleFlight.join`."""

_log = logging.getLogger("chainweaver.cache")


class _Shared:
    """What the flights of one computation have in common. Guarded by the lock of the table."""

    __slots__ = ("is_settled", "joined", "output", "waiters")

    def __init__(self) -> None:
        self.joined = 0  # flights beside the leader's
        self.is_settled = False
        self.output: dict[str, Any] | None = None
        self.waiters: list[Waiter] = []


class Flight:
    """One caller's part in a computation: it leads, or it waits.

    Attributes:
        is_leader: Whether this caller computes. A leader calls `settle` exactly once, whatever happens to it.
    """

    __slots__ = ("_key", "_shared", "_table", "is_leader")

    def __init__(self, table: "SingleFlight", key: Hashable, shared: _Shared, is_leader: bool) -> None:
        self._table = table
        self._key = key
        self._shared = shared
        self.is_leader = is_leader

    @property
    def is_settled(self) -> bool:
        """Whether the leader has told how it ended."""
        return self._shared.is_settled

    def settle(self, output: dict[str, Any] | None) -> None:
        """Tell everybody who waits how the computation ended, on this thread. The key is free from now on.

        Args:
            output: What was computed. It stays the leader's: waiters get copies. None: the leader failed or was
                cancelled; whoever waits has to ask again. Outputs that cannot be copied count as None.

        Raises:
            RuntimeError: This flight does not lead, or was settled before. This is a bug in the caller.
        """
        if not self.is_leader:
            raise RuntimeError("Only the flight that leads can be settled.")
        self._table._settle(self._key, self._shared, output)

    def add_waiter(self, callback: Waiter) -> None:
        """Have a callback called exactly once with the outputs, or with None (see `settle`).

        It is called at once, on this thread, when the flight is settled already; otherwise on the thread of the
        leader. It should be short. What it raises is logged and reaches nobody else.
        """
        shared = self._shared
        with self._table._lock:
            if not shared.is_settled:
                shared.waiters.append(callback)
                return
        _tell(callback, shared.output)

    def remove_waiter(self, callback: Waiter) -> bool:
        """Take a callback back. False: too late, it was or is being called."""
        with self._table._lock:
            try:
                self._shared.waiters.remove(callback)
            except ValueError:
                return False
            return True

    def wait(self, timeout_s: float | None = None) -> dict[str, Any] | None:
        """Block this thread until the leader settles.

        Args:
            timeout_s: Longest time to wait, in seconds. None: no limit.

        Returns:
            A copy of the outputs. None when there are none to share, and when the time was over: `is_settled` tells
            the two apart.
        """
        told: list[dict[str, Any] | None] = []
        done = threading.Event()

        def wake(output: dict[str, Any] | None) -> None:
            told.append(output)
            done.set()

        self.add_waiter(wake)
        try:
            done.wait(timeout_s)
        finally:
            # Also when the wait is broken off by KeyboardInterrupt: nobody is left to be told.
            self.remove_waiter(wake)
        return told[0] if told else None


class SingleFlight:
    """The computations that are under way, by key.

    >>> table = SingleFlight()
    >>> leader, other = table.join("k"), table.join("k")
    >>> leader.is_leader, other.is_leader
    (True, False)
    >>> leader.settle({"total": 3})
    >>> other.wait()
    {'total': 3}
    """

    __slots__ = ("_flights", "_lock")

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Shared] = {}
        self._lock = threading.Lock()

    def join(self, key: Hashable) -> Flight:
        """Take part in the computation of a key: as its leader when nobody computes it now, else as one who waits."""
        with self._lock:
            shared = self._flights.get(key)
            if shared is None:
                shared = self._flights[key] = _Shared()
                return Flight(self, key, shared, is_leader=True)
            shared.joined += 1
            return Flight(self, key, shared, is_leader=False)

    def __len__(self) -> int:
        """How many computations are under way."""
        return len(self._flights)

    def _settle(self, key: Hashable, shared: _Shared, output: dict[str, Any] | None) -> None:
        with self._lock:
            if self._flights.get(key) is not shared:
                raise RuntimeError("This flight is settled already.")
            # From here on nobody new can join, so `joined` stays what it is.
            del self._flights[key]
            if not shared.joined:
                shared.is_settled = True
                return
        kept = None
        if output is not None:
            try:
                # The leader goes on with its own object and may change it before the last waiter is told.
                kept = independent_copy(output)
            except UncopyableError as exc:
                _log.debug("Outputs are not shared with %d waiting callers: %s", shared.joined, exc)
        with self._lock:
            shared.output = kept
            shared.is_settled = True
            waiters, shared.waiters = shared.waiters, []
        for callback in waiters:
            _tell(callback, kept)


def _tell(callback: Waiter, kept: dict[str, Any] | None) -> None:
    try:
        callback(None if kept is None else independent_copy(kept))
    except Exception:
        _log.exception("A caller that waited for a shared step raised when it was told.")
