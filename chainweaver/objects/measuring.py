"""How much memory values hold, with memory that several of them share counted once.

`measure` finds the blocks of memory behind a value: a view leads to the array that it is a view of, a frame to its
columns, a table to its Arrow buffers. Blocks are addresses and lengths, so that views, frames over one buffer, and a
tensor over an array meet in the same ones; a `Tally` adds them up. No data is copied and nothing is imported; of large
containers a part is looked at and the rest is worked out from it.

Called by `MemoryTracker`, and by users through it. `RunMemory` is what results show of it.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from types import BuiltinFunctionType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

from chainweaver.objects.inspection import address_of, backing_of, root_of

MOST_ITEMS = 1_000
"""How many items of a container are looked at; of a larger one the others are taken to be like these."""

MOST_OBJECTS = 20_000
"""How many objects are looked at for one value."""

MEMORY = "memory"
"""The memory of the process, also what it shares with others; not what is mapped from a file."""

MAPPED = "mapped"
"""What is mapped from a file: pages that the system can take back."""


@dataclass(frozen=True, slots=True)
class StepMemory:
    """What the values of a step hold.

    Attributes:
        inputs, outputs: Bytes by name of the input, and by context key of the output.
        nbytes: Bytes of all of them together, what they share counted once.
        held_bytes: Bytes that the whole run held when the step had ended, what its values share counted once; what
            nobody needs any more is let go right afterwards (R37).
    """

    inputs: dict[str, int]
    outputs: dict[str, int]
    nbytes: int
    held_bytes: int


@dataclass(frozen=True, slots=True)
class RunMemory:
    """What the values of a run held in memory.

    Attributes:
        peak_bytes: The most that the run held at the end of a step, in the memory of the process.
        peak_step: The step at whose end it was, with the steps that it is nested in, such as "pay/0"; None where no
            step has ended.
        mapped_bytes: The most that was mapped from files; `peak_bytes` does not count it.
        device_bytes: The most on each device, such as "cuda:0".
        steps: The steps by id, in plan order; those of nested runs with the ids of the steps around them.
    """

    peak_bytes: int = 0
    peak_step: str | None = None
    mapped_bytes: int = 0
    device_bytes: dict[str, int] = field(default_factory=dict)
    steps: dict[str, StepMemory] = field(default_factory=dict)


class Extent:
    """The blocks of memory behind a value. Numbers only: it keeps nothing alive.

    Attributes:
        blocks: (where, first address, address behind the last) of memory that may be shared.
        objects: id -> bytes, of Python objects.
    """

    __slots__ = ("blocks", "objects")

    def __init__(self) -> None:
        self.blocks: set[tuple[str, int, int]] = set()
        self.objects: dict[int, int] = {}


class Tally:
    """Adds up extents; what lies in several of them counts once.

    >>> numbers = bytearray(1_000_000)
    >>> tally = Tally()
    >>> for value in (numbers, memoryview(numbers), [numbers]):
    ...     tally.add(measure(value))
    >>> 1_000_000 < tally.of(MEMORY) < 1_001_000
    True
    """

    def __init__(self, extents: Iterable[Extent] = ()) -> None:
        self._counts: dict[tuple[str, int, int], int] = {}
        self._spans: dict[str, _Spans] = {}
        self._objects: dict[int, tuple[int, int]] = {}
        self.bytes: dict[str, int] = {}
        for extent in extents:
            self.add(extent)

    def of(self, where: str) -> int:
        """Bytes in one place: MEMORY, MAPPED or a device."""
        return self.bytes.get(where, 0)

    def add(self, extent: Extent) -> None:
        """Count what is new of an extent."""
        for identity, size in extent.objects.items():
            count, known = self._objects.get(identity, (0, 0))
            self._objects[identity] = count + 1, max(size, known)
            self._change(MEMORY, max(size - known, 0))
        for block in extent.blocks:
            count = self._counts[block] = self._counts.get(block, 0) + 1
            if count == 1:
                where, start, end = block
                self._change(where, self._spans.setdefault(where, _Spans()).join(start, end))

    def remove(self, extent: Extent) -> None:
        """Take back what was added, once; what lies in other extents as well stays."""
        for identity in extent.objects:
            count, size = self._objects.pop(identity)
            if count > 1:
                self._objects[identity] = count - 1, size
            else:
                self._change(MEMORY, -size)
        for block in extent.blocks:
            count = self._counts.pop(block)
            if count > 1:
                self._counts[block] = count - 1
            else:
                where, start, end = block
                self._change(where, -self._spans[where].leave(start, end))

    def _change(self, where: str, by: int) -> None:
        self.bytes[where] = self.of(where) + by


class _Spans:
    """Blocks of addresses, gathered to spans that do not overlap; sorted, so that one is found by bisection."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._blocks: list[list[tuple[int, int]]] = []

    def join(self, start: int, end: int) -> int:
        """Add a block; how many of its bytes are new."""
        first, behind = bisect_right(self._ends, start), bisect_left(self._starts, end)
        blocks = [(start, end)]
        known = 0
        for at in range(first, behind):
            blocks += self._blocks[at]
            known += self._ends[at] - self._starts[at]
        if first < behind:
            start, end = min(start, self._starts[first]), max(end, self._ends[behind - 1])
        self._put(first, behind, [(start, end, blocks)])
        return end - start - known

    def leave(self, start: int, end: int) -> int:
        """Take a block away; how many bytes no other one has."""
        at = bisect_right(self._starts, start) - 1
        before = self._ends[at] - self._starts[at]
        self._blocks[at].remove((start, end))
        left: list[tuple[int, int, list[tuple[int, int]]]] = []
        for one in sorted(self._blocks[at]):
            if left and one[0] < left[-1][1]:
                begun, ended, blocks = left[-1]
                left[-1] = begun, max(ended, one[1]), [*blocks, one]
            else:
                left.append((*one, [one]))
        self._put(at, at + 1, left)
        return before - sum(end - start for start, end, _ in left)

    def _put(self, first: int, behind: int, spans: list[tuple[int, int, list[tuple[int, int]]]]) -> None:
        self._starts[first:behind] = [start for start, _, _ in spans]
        self._ends[first:behind] = [end for _, end, _ in spans]
        self._blocks[first:behind] = [blocks for _, _, blocks in spans]


def measure(value: object) -> Extent:
    """The blocks of memory behind a value and all that it holds.

    Runs no code of the user. Of objects that are none of a library's, attributes are followed; what functions, classes
    and modules hold is nobody's.
    """
    walk = _Walk()
    walk.follow([value])
    return walk.extent


class _Walk:
    """Finds the blocks behind values, each object once."""

    def __init__(self) -> None:
        self.extent = Extent()
        self._seen: set[int] = set()
        # What was made on the way stays until the end, or another object could get its id.
        self._kept: list[object] = []

    def follow(self, values: Iterable[object]) -> None:
        """Look at values, and at what is found in them."""
        todo = list(values)
        while todo and len(self._seen) < MOST_OBJECTS:
            value = todo.pop()
            if id(value) in self._seen:
                continue
            self._seen.add(id(value))
            self._kept.append(value)
            found = self._look(value)
            if found is not None:
                todo.extend(found)

    def _look(self, value: Any) -> Iterable[object] | None:
        """Note the blocks of one object; the objects to look at next."""
        kind = type(value)
        for base in type.__dict__["__mro__"].__get__(kind):
            look = _LOOKS.get(root_of(base))
            if look is not None and base is not object:
                try:
                    found: Iterable[object] | None = look(self, value, base)
                except Exception:  # a version of the library that keeps things elsewhere, a container that changes
                    return None
                if found is not None:
                    return found
        return self._look_into(value)

    def _look_into(self, value: Any) -> Iterable[object] | None:
        """An object of a class of the user: its attributes."""
        kind = type(value)
        if issubclass(kind, (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)):
            return None
        self.note(value, object.__sizeof__(value))
        found: list[object] = []
        try:
            found.append(object.__getattribute__(value, "__dict__"))
        except Exception:  # it has none, or its class says otherwise
            pass
        for base in type.__dict__["__mro__"].__get__(kind):
            for member in vars(base).values():
                if type(member) is MemberDescriptorType:
                    try:
                        found.append(member.__get__(value))
                    except AttributeError:  # not set
                        continue
        return found

    # ---- notes

    def note(self, value: object, size: int) -> None:
        """A Python object and its size; allocators hand out 16 bytes at a time."""
        self.extent.objects[id(value)] = -(-size // 16) * 16

    def block(self, where: str, start: int, size: int) -> None:
        """A block of memory."""
        if size > 0:
            self.extent.blocks.add((where, start, start + size))

    def sampled(self, owner: object, items: list[object], count: int) -> None:
        """Some of the items of a large container; the others are taken to be like them."""
        inner = _Walk()
        inner._seen = self._seen
        inner.follow(items)
        self._kept += inner._kept
        self.extent.blocks |= inner.extent.blocks
        self.extent.objects.update(inner.extent.objects)
        found = Tally([inner.extent]).of(MEMORY)
        self.extent.objects[id(owner)] += found * (count - len(items)) // len(items)


# ---- what is built in

_HEADER = 16  # of every object that the collector knows
_TEXTS = (str, bytes, bytearray)
_NUMBERS = (int, float, complex)


def _of_builtins(walk: _Walk, value: Any, base: Any) -> Iterable[object] | None:
    if base in _TEXTS or base in _NUMBERS:
        walk.note(value, base.__sizeof__(value))
        # A class of the user may have attributes besides.
        return () if type(value) is base else _attributes(value)
    if base in (list, tuple, set, frozenset, dict, deque):
        walk.note(value, base.__sizeof__(value) + _HEADER)
        return [*_items(walk, value, base), *(() if type(value) is base else _attributes(value))]
    if base is memoryview:
        return (value.obj,)
    return () if base in (type(None), type(Ellipsis), bool, range) else None


def _attributes(value: Any) -> Iterable[object]:
    try:
        return (object.__getattribute__(value, "__dict__"),)
    except Exception:  # it has none
        return ()


def _items(walk: _Walk, value: Any, base: Any) -> list[object]:
    """The items of a container to look at; none where a part of them stood for all."""
    count = base.__len__(value)
    if base in (list, tuple):
        items = base.__getitem__(value, slice(None, None, -(-count // MOST_ITEMS) or 1))
    elif base is dict:
        items = [part for pair in islice(dict.items(value), MOST_ITEMS) for part in pair]
        count *= 2
    else:
        items = list(islice(base.__iter__(value), MOST_ITEMS))
    return _or_a_part(walk, value, list(items), count)


def _or_a_part(walk: _Walk, owner: object, items: list[object], count: int) -> list[object]:
    if len(items) == count:
        return items
    walk.sampled(owner, items, count)
    return []


def _of_array(walk: _Walk, value: Any, base: Any) -> Iterable[object]:
    address, length = base.buffer_info(value)
    walk.block(MEMORY, address, length * base.__dict__["itemsize"].__get__(value))
    return ()


def _of_mmap(walk: _Walk, value: Any, base: Any) -> Iterable[object]:
    address = address_of(value)
    where = MEMORY if backing_of(value) == "shm" else MAPPED
    if address is not None:
        walk.block(where, address, base.__len__(value))
    return ()


def _of_shared_memory(walk: _Walk, value: Any, base: Any) -> Iterable[object] | None:
    return (object.__getattribute__(value, "_mmap"),) if base.__name__ == "SharedMemory" else None


# ---- numpy and pandas


def _of_numpy(walk: _Walk, value: Any, base: Any) -> Iterable[object] | None:
    numpy: Any = sys.modules["numpy"]
    if base is numpy.generic:
        walk.note(value, object.__sizeof__(value) + value.dtype.itemsize)
        return ()
    if base is not numpy.ndarray:
        return None
    owner, inner = value, numpy.ndarray.base.__get__(value)
    while isinstance(inner, numpy.ndarray):
        owner, inner = inner, numpy.ndarray.base.__get__(inner)
    if type(inner) is memoryview:
        inner = inner.obj
    items: list[object] = []
    if numpy.ndarray.dtype.__get__(owner).hasobject:
        flat = numpy.ndarray.flat.__get__(owner)
        walk.note(owner, object.__sizeof__(owner))
        items = _or_a_part(walk, owner, list(islice(flat, MOST_ITEMS)), len(flat))
    if inner is not None and type(inner).__name__ not in _OPAQUE:
        return [*items, inner]
    plain = numpy.ndarray.view(owner, numpy.ndarray)
    # Before numpy 2 it stood among the functions of numpy itself.
    start, end = getattr(numpy.lib, "array_utils", numpy).byte_bounds(plain)
    walk.block(MEMORY, start, end - start if plain.size else 0)
    return items


_OPAQUE = ("PyCapsule", "PySeries", "PyDataFrame")
"""Owners of memory that say nothing about it: what an array shows is then all that is known."""


def _of_pandas(walk: _Walk, value: Any, base: Any) -> Iterable[object] | None:
    pandas: Any = sys.modules["pandas"]
    if base is pandas.DataFrame or base is pandas.Series:
        manager = object.__getattribute__(value, "_mgr")
        return [*(block.values for block in manager.blocks), *manager.axes]
    if base is pandas.Index:
        levels = getattr(value, "_levels", None)
        if levels is not None:
            return [*levels, *value._codes]
        return () if isinstance(value, pandas.RangeIndex) else (value._data,)
    if issubclass(base, pandas.api.extensions.ExtensionArray):
        return [inner for name in _INSIDE if (inner := getattr(value, name, None)) is not None]
    return None


_INSIDE = ("_ndarray", "_data", "_mask", "_pa_array", "_left", "_right", "_sparse_values", "categories")
"""Where arrays of pandas keep their parts."""


# ---- Arrow


def _of_pyarrow(walk: _Walk, value: Any, base: Any) -> Iterable[object] | None:
    pa: Any = sys.modules["pyarrow"]
    if base is pa.Table:
        return [chunk for column in value.columns for chunk in column.chunks]
    if base is pa.RecordBatch:
        return list(value.columns)
    if base is pa.ChunkedArray:
        return list(value.chunks)
    if base is pa.Array:
        more = [value.dictionary] if isinstance(value, pa.DictionaryArray) else []
        return [*(buffer for buffer in value.buffers() if buffer is not None), *more]
    if base is pa.Buffer:
        whole = value
        while whole.parent is not None:
            whole = whole.parent
        walk.block(MEMORY if whole.is_cpu else str(whole.device), whole.address, whole.size)
        return ()
    return None


def _of_polars(walk: _Walk, value: Any, base: Any) -> Iterable[object] | None:
    polars: Any = sys.modules["polars"]
    if base is polars.LazyFrame:
        return ()
    if base is polars.DataFrame:
        return list(polars.DataFrame.get_columns(value))
    if base is not polars.Series:
        return None
    found = _arrow_of(value, polars)
    if found is None:
        walk.note(value, polars.Series.estimated_size(value))
        return ()
    return found


def _arrow_of(series: Any, polars: Any) -> list[object] | None:
    """The Arrow buffers of a column; None where they cannot be had without a copy."""
    if "pyarrow" not in sys.modules:
        return None
    newest = polars.CompatLevel.newest()
    # What is copied lies at another address each time.
    columns = (series.to_frame().to_arrow(compat_level=newest).column(0) for _ in range(2))
    once, again = ([buffer for chunk in column.chunks for buffer in chunk.buffers()] for column in columns)
    if any(a is not None and b is not None and a.address != b.address for a, b in zip(once, again, strict=True)):
        return None
    return [buffer for buffer in once if buffer is not None]


# ---- torch


def _of_torch(walk: _Walk, value: Any, base: Any) -> Iterable[object] | None:
    torch: Any = sys.modules["torch"]
    if base is not torch.Tensor:
        return None
    with torch._C.DisableTorchFunctionSubclass():
        if value.layout is not torch.strided:
            return [value._indices(), value._values()] if value.layout is torch.sparse_coo else ()
        storage = value.untyped_storage()
        device = value.device
        if device.type != "meta":
            walk.block(MEMORY if device.type == "cpu" else str(device), storage.data_ptr(), storage.nbytes())
        return () if not value.is_leaf or value.grad is None else (value.grad,)


_LOOKS: dict[str, Callable[[_Walk, Any, Any], Iterable[object] | None]] = {
    "builtins": _of_builtins,
    "collections": _of_builtins,
    "array": _of_array,
    "mmap": _of_mmap,
    "multiprocessing": _of_shared_memory,
    "numpy": _of_numpy,
    "pandas": _of_pandas,
    "polars": _of_polars,
    "pyarrow": _of_pyarrow,
    "torch": _of_torch,
}
