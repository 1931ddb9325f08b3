"""Objects in memory, by reference; beyond a budget the least recently used ones go to another store.

Nothing is copied: what `get` gives is the object that was put, as long as it is in memory. What had to leave comes back
equal, from wherever the other store keeps it. Called by runs with a memory budget, and by users.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from chainweaver.objects.codecs import NoCodecError, codec_for, type_name_of
from chainweaver.objects.store import ObjectNotFoundError, ObjectRef, StoreFullError, StoreStats

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from chainweaver.objects.store import ObjectStore

KIND = "ref"


class _Held:
    """One object: in memory, or in the store behind.

    Attributes:
        value: The object; None once it has left.
        away: Where it is then.
        nbytes: What it takes, or took, in memory.
        holds: How often it is held; above 1 it stays where it is.
        leaves: It can be spilled as far as is known.
    """

    __slots__ = ("away", "holds", "leaves", "nbytes", "type_name", "value")

    def __init__(self, value: Any, nbytes: int, leaves: bool) -> None:
        self.value = value
        self.away: ObjectRef | None = None
        self.nbytes = nbytes
        self.holds = 1
        self.leaves = leaves
        self.type_name = type_name_of(value)


_NO_SPILL = "give it a larger max_bytes, or spill=MmapStore(folder)"
_NO_ROOM = "or give it a larger max_bytes: what is pinned or has no form as bytes cannot be spilled"


class RefStore:
    """Keeps the objects themselves; with a budget, the least recently used ones elsewhere.

    Whoever puts an object holds it once, `pin` holds it once more. Objects that are pinned, and those that have no form
    as bytes, stay in memory. What was spilled stays spilled: it is read where it lies, so it costs the budget nothing.
    Its bytes are those at the time when it left: an object that is still to be changed has to be pinned.

    Safe to use from many threads. As a context manager it lets go of everything at the end.

    Args:
        max_bytes: How many bytes the objects may take; None: no limit. Arrays, tables, frames and tensors count with
            their buffers, everything else with what `sys.getsizeof` says.
        spill: Where objects go beyond that, such as a `MmapStore`; it is to be used for nothing else. None: nowhere,
            and a full store refuses.

    >>> store = RefStore()
    >>> rows = [1, 2]
    >>> ref = store.put(rows)
    >>> store.get(ref) is rows
    True
    """

    def __init__(self, *, max_bytes: int | None = None, spill: ObjectStore | None = None) -> None:
        if max_bytes is not None and max_bytes < 0:
            raise ValueError(f"max_bytes has to be at least 0, not {max_bytes}.")
        if spill is not None and max_bytes is None:
            raise ValueError("spill needs max_bytes: without a budget nothing ever leaves.")
        self.max_bytes = max_bytes
        self.spill = spill
        self._lock = threading.RLock()
        self._held: OrderedDict[str, _Held] = OrderedDict()  # least recently used first
        self._nbytes = 0
        self._name = uuid4().hex[:12]  # no other store has these keys
        self._numbers = count()

    def put(self, value: Any) -> ObjectRef:
        """Keep an object; it is held once until it is released.

        Raises:
            StoreFullError: There is no room, and none can be made.
            OSError: The store behind cannot write. Everything stays where it was.
        """
        held = _Held(value, size_in_memory(value), codec_for(value) is not None)
        with self._lock:
            key = f"{self._name}-{next(self._numbers)}"
            if not self._make_room(held.nbytes):
                if not self._leave(held):
                    assert self.max_bytes is not None, "without a budget there is room"
                    way_out = _NO_SPILL if self.spill is None else _NO_ROOM
                    raise StoreFullError(held.type_name, held.nbytes, self._nbytes, self.max_bytes, way_out)
            else:
                self._nbytes += held.nbytes
            self._held[key] = held
        return ObjectRef(KIND, key)

    def get(self, ref: ObjectRef) -> Any:
        """The object itself; an equal one once it was spilled.

        Raises:
            ObjectNotFoundError: It was released, or put into another store.
        """
        with self._lock:
            held = self._find(ref)
            self._held.move_to_end(ref.key)
            away = held.away
            if away is None or self.spill is None:
                return held.value
        # Without the lock: others need not wait for a disk.
        try:
            return self.spill.get(away)
        except ObjectNotFoundError:  # released meanwhile
            raise ObjectNotFoundError(ref) from None

    def pin(self, ref: ObjectRef) -> None:
        """Hold an object once more; it stays where it is until it is released as often.

        Raises:
            ObjectNotFoundError: It was released, or put into another store.
        """
        with self._lock:
            self._find(ref).holds += 1

    def release(self, ref: ObjectRef) -> None:
        """Let go of an object once; it is forgotten, wherever it is, when nobody holds it."""
        with self._lock:
            held = self._held.get(ref.key)
            if ref.store != KIND or held is None:
                return
            held.holds -= 1
            if held.holds == 0:
                del self._held[ref.key]
                self._forget(held)

    def info(self, ref: ObjectRef) -> dict[str, Any]:
        """What is known of an object without reading it: type, nbytes, pins, and where it lies.

        Raises:
            ObjectNotFoundError: It was released, or put into another store.
        """
        with self._lock:
            held = self._find(ref)
            facts = {"type": held.type_name, "nbytes": held.nbytes, "pins": held.holds - 1, "backing": "heap"}
            if held.away is not None and self.spill is not None:
                behind = self.spill.info(held.away)
                facts.update({name: value for name, value in behind.items() if name not in ("nbytes", "pins")})
            return facts

    def stats(self) -> StoreStats:
        """How full the store is."""
        with self._lock:
            away = [held.nbytes for held in self._held.values() if held.away is not None]
            return StoreStats(len(self._held), self._nbytes, len(away), sum(away))

    def close(self) -> None:
        """Let go of everything, also of what is held and of what was spilled."""
        with self._lock:
            while self._held:
                self._forget(self._held.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _find(self, ref: ObjectRef) -> _Held:
        held = self._held.get(ref.key)
        if ref.store != KIND or held is None:
            raise ObjectNotFoundError(ref)
        return held

    def _make_room(self, nbytes: int) -> bool:
        """Send objects away, the least recently used first, until so many bytes fit; False when they never will."""
        if self.max_bytes is None:
            return True
        if nbytes > self.max_bytes:
            return False
        for held in list(self._held.values()):
            if self._nbytes + nbytes <= self.max_bytes:
                break
            if held.holds == 1 and held.away is None and self._leave(held):
                self._nbytes -= held.nbytes
        return self._nbytes + nbytes <= self.max_bytes

    def _leave(self, held: _Held) -> bool:
        """Send one object to the store behind; False where there is none, or it does not take it."""
        if self.spill is None or not held.leaves:
            return False
        try:
            held.away = self.spill.put(held.value)
        except NoCodecError:
            held.leaves = False
            return False
        held.value = None
        return True

    def _forget(self, held: _Held) -> None:
        if held.away is None:
            self._nbytes -= held.nbytes
        elif self.spill is not None:
            self.spill.release(held.away)


def size_in_memory(value: Any) -> int:
    """Bytes that an object takes, as far as its type tells without going through its content.

    >>> size_in_memory(bytes(1000)) >= 1000
    True
    """
    if codec_for(value) is None:
        return sys.getsizeof(value)
    kind = type(value)
    if kind.__module__ == "builtins":
        return len(value)
    if kind.__module__.startswith("polars"):
        return int(value.estimated_size())
    if hasattr(value, "memory_usage"):
        used = value.memory_usage()
        return int(used.sum() if hasattr(used, "sum") else used)
    return int(value.nbytes)
