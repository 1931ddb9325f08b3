"""Looking at an object: what it is, how large, and where it lies, in a few microseconds whatever its size.

`inspect_object` reads what the libraries keep at hand. It never goes through data, never collects a lazy frame, imports
nothing, and runs no code of the user: types are told by their classes, sizes by the methods of the base classes. What
would take longer is None, which means "not known".

Called by `results` for records, by the executor where records keep no values, by the command line, and by users.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import EnumMeta
from os import readlink
from typing import Any, Literal, NamedTuple, TypeAlias

Backing: TypeAlias = Literal["heap", "mmap", "shm", "device"]

MOST_COLUMNS = 6
"""How many columns of a table `ObjectInfo.schema` names."""

LARGE = 4096
"""From how many characters, bytes or items on a plain value is worth a place in a record."""

_MOST_PARTS = 48  # columns or chunks whose sizes are added up; more would take longer than a look may
_MOST_BLOCKS = 12
_MOST_OWNERS = 16
_LONGEST_NAME = 60


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What an object is; plain data that keeps nothing of it.

    Attributes:
        type: Its class with its module, such as "numpy.ndarray"; classes that are built in stand alone.
        shape: Lengths by dimension: of an array or tensor, (rows, columns) of a table, (items,) of a container or text.
        dtype: Type of its items, where they all have one.
        schema: The first columns of a table with their types; `shape` says how many there are.
        device: "cpu", or as its library calls it, such as "cuda:0"; None where that cannot be told.
        nbytes: Bytes of what it shows. Arrow's tables count the whole buffers that they refer to. None: not known, as
            for lists and dicts, which say nothing about the size of their items.
        backing: Where its bytes lie: in memory of the process, in a mapped file, in memory shared with other processes,
            or on a device. None: not known.
        read_only: It refuses to be changed in place; None: not known.
    """

    type: str
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    schema: tuple[tuple[str, str], ...] | None = None
    device: str | None = None
    nbytes: int | None = None
    backing: Backing | None = None
    read_only: bool | None = None

    def described(self) -> str:
        """Shape and types in a few words.

        >>> inspect_object([1, 2, 3]).described()
        '3 items'
        """
        shape = "" if self.shape is None else " x ".join(map(str, self.shape)) or "scalar"
        if self.shape is not None and len(self.shape) == 1 and self.dtype is None and self.schema is None:
            shape += " items"
        columns = ", ".join(f"{name}: {kind}" for name, kind in self.schema or ())
        if self.schema is not None and self.shape is not None and self.shape[-1] > len(self.schema) > 0:
            columns += ", ..."
        return "  ".join(part for part in (shape, self.dtype or columns) if part)


class _Facts(NamedTuple):
    """What a library tells of one of its objects."""

    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    schema: tuple[tuple[str, str], ...] | None = None
    device: str | None = "cpu"
    nbytes: int | None = None
    backing: Backing | None = "heap"
    read_only: bool | None = None


def inspect_object(value: object) -> ObjectInfo:
    """What an object is, in less than 20 microseconds whatever its size.

    Objects of numpy, pandas, polars, pyarrow and torch are known, with classes derived from theirs, and what is built
    in. Of others the type is told.

    >>> info = inspect_object(bytearray(1_000_000))
    >>> info.type, info.shape, info.nbytes, info.backing, info.read_only
    ('bytearray', (1000000,), 1000000, 'heap', False)
    >>> inspect_object([1, 2, 3]).nbytes is None
    True
    """
    kind = type(value)
    name = _name_of(kind)
    for base in _MRO(kind):
        read = _BY_ROOT.get(root_of(base))
        if read is not None:
            try:
                facts = read(value, base)
            except Exception:  # a version of the library that keeps things elsewhere: its type is all that is told
                break
            if facts is not None:
                return ObjectInfo(name, *facts)
    return ObjectInfo(name)


def noteworthy(values: Mapping[str, Any]) -> dict[str, ObjectInfo]:
    """The foreign objects and large values among some, as they are now, by name.

    >>> list(noteworthy({"n": 1, "rows": [0] * 10_000, "few": [1]}))
    ['rows']
    """
    found = {}
    for name, value in values.items():
        kind = type(value)
        sized = _SIZED.get(kind)
        if sized is not None:
            if sized(value) < LARGE:
                continue
        elif kind in _PLAIN or isinstance(kind, EnumMeta) or root_of(kind) in _SMALL_ROOTS:
            continue
        found[name] = inspect_object(value)
    return found


# ---- types

_MRO = type.__dict__["__mro__"].__get__
_MODULE = type.__dict__["__module__"].__get__
_QUALNAME = type.__dict__["__qualname__"].__get__

_PLAIN = frozenset({int, float, bool, complex, range, type(None)})
_SMALL_ROOTS = frozenset({"datetime", "decimal", "fractions", "pathlib", "uuid", "zoneinfo"})


def root_of(kind: type) -> str:
    """The top-level module that a class says it is from; empty where it says none. Asks no metaclass of a user."""
    module = _MODULE(kind)
    return module.partition(".")[0] if isinstance(module, str) else ""


def _name_of(kind: type) -> str:
    """A class as its users call it: with the package that shows it, where that is its own."""
    module, name = _MODULE(kind), _QUALNAME(kind)
    if module == "builtins" or not isinstance(module, str):
        return str(name)
    root = module.partition(".")[0]
    shown = sys.modules.get(root)
    return f"{root if shown is not None and vars(shown).get(name) is kind else module}.{name}"


# ---- what is built in

_SIZED: dict[type, Callable[[Any], int]] = {
    kind: kind.__len__ for kind in (str, bytes, bytearray, list, tuple, dict, set, frozenset, deque)
}
_IMMUTABLE = (str, bytes, tuple, frozenset)


def _of_builtins(value: Any, base: Any) -> _Facts | None:
    size = _SIZED.get(base)
    if size is not None:
        length = size(value)
        # The width of a character shows in the size of the whole; what a text weighs beside its characters counts.
        nbytes = length if base in (bytes, bytearray) else str.__sizeof__(value) if base is str else None
        return _Facts((length,), nbytes=nbytes, read_only=base in _IMMUTABLE)
    if base in _PLAIN:
        return _Facts(nbytes=base.__sizeof__(value), read_only=True)
    if base is memoryview:
        return _Facts(value.shape, value.format, None, "cpu", value.nbytes, backing_of(value.obj), value.readonly)
    return None


def _of_array(value: Any, base: Any) -> _Facts | None:
    code, length = base.__dict__["typecode"].__get__(value), base.__len__(value)
    itemsize = base.__dict__["itemsize"].__get__(value)
    return _Facts((length,), code, nbytes=length * itemsize, read_only=False)


def _of_mmap(value: Any, base: Any) -> _Facts | None:
    if base.__name__ != "mmap":
        return None
    length = base.__len__(value)
    with memoryview(value) as view:
        return _Facts((length,), None, None, "cpu", length, backing_of(value), view.readonly)


def _of_shared_memory(value: Any, base: Any) -> _Facts | None:
    if base.__name__ != "SharedMemory":
        return None
    size = object.__getattribute__(value, "_size")
    return _Facts((size,), nbytes=size, backing="shm", read_only=False)


# ---- numpy


def _of_numpy(value: Any, base: Any) -> _Facts | None:
    numpy: Any = sys.modules["numpy"]
    if base is numpy.ndarray:
        array = numpy.ndarray
        dtype = array.dtype.__get__(value)
        names = dtype.names
        schema = None
        if names is not None:
            schema = tuple((_label(name), _dtype_name(dtype[name])) for name in names[:MOST_COLUMNS])
        return _Facts(
            array.shape.__get__(value),
            _dtype_name(dtype),
            schema,
            nbytes=array.nbytes.__get__(value),
            backing=backing_of(array.base.__get__(value)),
            read_only=not array.flags.__get__(value).writeable,
        )
    if base is numpy.generic:
        dtype = base.dtype.__get__(value)
        return _Facts((), _dtype_name(dtype), nbytes=dtype.itemsize, read_only=True)
    return None


_DTYPE_NAMES: dict[str, str] = {}


def _dtype_name(dtype: Any) -> str:
    """The name of a dtype; those of numbers are kept, for making one takes as long as all the rest."""
    key = getattr(dtype, "str", None)
    if not isinstance(key, str) or len(key) != 3:
        return str(dtype.name)
    name = _DTYPE_NAMES.get(key)
    if name is None:
        name = _DTYPE_NAMES[key] = str(dtype)
    return name


# ---- pandas


def _of_pandas(value: Any, base: Any) -> _Facts | None:
    pandas: Any = sys.modules["pandas"]
    if base is pandas.DataFrame:
        manager = object.__getattribute__(value, "_mgr")
        columns, index = manager.axes
        blocks = manager.blocks
        width = len(columns)
        names = _first_names(columns)
        numbers = manager.blknos[: len(names)].tolist()
        schema = tuple((_label(name), _dtype_name(blocks[at].dtype)) for name, at in zip(names, numbers, strict=True))
        # More are not added up, and one says where they lie.
        arrays = [block.values for block in (blocks if len(blocks) <= _MOST_BLOCKS else blocks[:1])]
        return _of_blocks((len(index), width), None, schema, index, arrays, len(blocks))
    if base is pandas.Series:
        manager = object.__getattribute__(value, "_mgr")
        [index], [block] = manager.axes, manager.blocks
        return _of_blocks((len(index),), _dtype_name(block.dtype), None, index, [block.values], 1)
    if base is pandas.Index:
        is_multiple = issubclass(type(value), pandas.MultiIndex)
        dtype = None if is_multiple else _dtype_name(value.dtype)
        return _Facts((len(value),), dtype, nbytes=_bytes_of_index(value), read_only=True)
    return None


def _first_names(columns: Any) -> list[Any]:
    """The names of the first columns; one by one they would take longer than all the rest."""
    data: Any = getattr(columns, "_data", None)
    inner = getattr(data, "_pa_array", None)
    if inner is not None:
        names: list[Any] = inner.slice(0, MOST_COLUMNS).to_pylist()
        return names
    if type(data) is sys.modules["numpy"].ndarray:
        return list(data[:MOST_COLUMNS].tolist())
    return [columns[at] for at in range(min(len(columns), MOST_COLUMNS))]


def _of_blocks(
    shape: tuple[int, ...], dtype: str | None, schema: Any, index: Any, arrays: list[Any], count: int
) -> _Facts:
    """The facts of a frame or series from the arrays that it is made of."""
    ndarray = sys.modules["numpy"].ndarray
    nbytes = _bytes_of_index(index) if count == len(arrays) else None
    for array in arrays:
        if nbytes is None:
            break
        size = _bytes_of_array(array)
        nbytes = None if size is None else nbytes + size
    plain = [array for array in arrays if type(array) is ndarray]
    return _Facts(
        shape,
        dtype,
        schema,
        nbytes=nbytes,
        backing=backing_of(plain[0].base) if plain else "heap",
        read_only=bool(plain) and len(plain) == count and not any(array.flags.writeable for array in plain),
    )


def _bytes_of_array(array: Any) -> int | None:
    """Bytes of an array of pandas or numpy. Third parties may have written one: their `nbytes` is not asked."""
    kind = type(array)
    if kind is sys.modules["numpy"].ndarray:
        return int(array.nbytes)
    size = _SIZES.get(kind.__name__) if root_of(kind) == "pandas" else None
    return None if size is None else size(array)


def _bytes_of_masked(array: Any) -> int:
    return int(array._data.nbytes) + int(array._mask.nbytes)


def _bytes_of_categories(array: Any) -> int | None:
    categories = _bytes_of_index(array.categories)
    return None if categories is None else int(array._ndarray.nbytes) + categories


def _bytes_of_arrow(array: Any) -> int | None:
    data = array._pa_array
    return data.get_total_buffer_size() if data.num_chunks <= _MOST_PARTS else None


def _bytes_of_intervals(array: Any) -> int | None:
    left, right = _bytes_of_array(array._left), _bytes_of_array(array._right)
    return None if left is None or right is None else left + right


_SIZES: dict[str, Callable[[Any], int | None]] = {
    **dict.fromkeys(("DatetimeArray", "TimedeltaArray", "PeriodArray"), lambda array: array._ndarray.nbytes),
    **dict.fromkeys(("NumpyExtensionArray", "StringArray"), lambda array: array._ndarray.nbytes),
    **dict.fromkeys(("IntegerArray", "FloatingArray", "BooleanArray"), _bytes_of_masked),
    **dict.fromkeys(("ArrowExtensionArray", "ArrowStringArray"), _bytes_of_arrow),
    "Categorical": _bytes_of_categories,
    "IntervalArray": _bytes_of_intervals,
    "SparseArray": lambda array: array.nbytes,
}
"""Class of pandas -> bytes of one of its arrays. Their own `nbytes` may count the texts in them."""


def _bytes_of_index(index: Any) -> int | None:
    """Bytes of an index without the table for look-ups, which an index of several levels would first build."""
    kind = type(index)
    if root_of(kind) != "pandas":
        return None
    if kind.__name__ == "RangeIndex":
        return 0
    codes = getattr(index, "_codes", None)
    if codes is None:
        return _bytes_of_array(index._data)
    sizes = [_bytes_of_index(level) for level in index._levels]
    return None if None in sizes else sum(sizes) + sum(code.nbytes for code in codes)  # type: ignore[arg-type]


# ---- polars


def _of_polars(value: Any, base: Any) -> _Facts | None:
    polars: Any = sys.modules["polars"]
    if base is polars.LazyFrame:
        return _Facts(device=None, backing=None, read_only=True)
    if base is polars.Series:
        inner = object.__getattribute__(value, "_s")
        frame = polars.DataFrame([polars.Series._from_pyseries(inner)])._df
        [dtype] = frame.dtype_strings()
        return _Facts((inner.len(),), dtype, nbytes=_bytes_of_polars(frame, [dtype]), read_only=False)
    if base is not polars.DataFrame:
        return None
    frame = object.__getattribute__(value, "_df")
    shape = frame.height(), frame.width()
    if shape[1] <= _MOST_PARTS:
        names, dtypes = frame.columns(), frame.dtype_strings()
        return _Facts(shape, None, _columns(names, dtypes), nbytes=_bytes_of_polars(frame, dtypes), read_only=False)
    # The columns of a wide frame one by one: its lists of names and types would have to be made whole.
    first = [polars.Series._from_pyseries(frame.to_series(at)) for at in range(MOST_COLUMNS)]
    dtypes = [one.to_frame()._df.dtype_strings()[0] for one in first]
    return _Facts(shape, None, _columns([one.name for one in first], dtypes), read_only=False)


def _bytes_of_polars(frame: Any, dtypes: list[str]) -> int | None:
    # Of nested columns polars adds up the lengths of all texts inside.
    is_flat = not any(dtype.startswith(("list", "array", "struct", "object")) for dtype in dtypes)
    return frame.estimated_size() if is_flat and frame.n_chunks() * len(dtypes) <= _MOST_PARTS else None


def _columns(names: list[str], dtypes: list[str]) -> tuple[tuple[str, str], ...]:
    return tuple((_label(name), kind) for name, kind in zip(names[:MOST_COLUMNS], dtypes[:MOST_COLUMNS], strict=True))


# ---- pyarrow


def _of_pyarrow(value: Any, base: Any) -> _Facts | None:
    pa: Any = sys.modules["pyarrow"]
    if base is pa.Table or base is pa.RecordBatch:
        schema = value.schema
        width = value.num_columns
        fields = [schema.field(at) for at in range(min(width, MOST_COLUMNS))]
        first = tuple((_label(field.name), _arrow_type(field.type)) for field in fields)
        chunks = 1
        if base is pa.Table and width <= _MOST_PARTS:
            chunks = max((value.column(at).num_chunks for at in range(len(first))), default=0)
        is_small = width * chunks <= _MOST_PARTS and not any(_is_wide(kind) for _, kind in first)
        nbytes = value.get_total_buffer_size() if is_small else None
        return _Facts((value.num_rows, width), None, first, nbytes=nbytes, read_only=True)
    if base is pa.ChunkedArray or base is pa.Array:
        kind = _arrow_type(value.type)
        chunks = value.num_chunks if base is pa.ChunkedArray else 1
        nbytes = None if _is_wide(kind) or chunks > _MOST_PARTS else value.get_total_buffer_size()
        return _Facts((len(value),), kind, nbytes=nbytes, read_only=True)
    if base is pa.Buffer:
        device = "cpu" if value.is_cpu else str(value.device)
        backing: Backing = "heap" if value.is_cpu else "device"
        return _Facts((value.size,), None, None, device, value.size, backing, not value.is_mutable)
    return None


def _arrow_type(kind: Any) -> str:
    """A type of Arrow in one word: what is inside a struct is counted, not told."""
    fields = getattr(kind, "num_fields", 0)
    if not fields:
        return _cut(str(kind))
    if fields == 1 and hasattr(kind, "value_type"):
        return f"list<{_arrow_type(kind.value_type)}>"
    return f"{type(kind).__name__.removesuffix('Type').lower()}<{fields} fields>"


def _is_wide(kind: str) -> bool:
    """Whether a type, as `_arrow_type` tells it, has any number of buffers."""
    return " fields>" in kind


# ---- torch


def _of_torch(value: Any, base: Any) -> _Facts | None:
    torch: Any = sys.modules["torch"]
    if base is not torch.Tensor:
        return None
    if type(value) is torch.Tensor:
        return _of_tensor(value, torch)
    # A class of the user may want to be asked for everything, also for a shape.
    with torch._C.DisableTorchFunctionSubclass():
        return _of_tensor(value, torch)


def _of_tensor(value: Any, torch: Any) -> _Facts:
    get = object.__getattribute__
    device, dtype = get(value, "device"), get(value, "dtype")
    is_dense = get(value, "layout") is torch.strided
    backing: Backing = "heap"
    if device.type != "cpu":
        backing = "device"
    elif is_dense and torch.Tensor.is_shared(value):
        backing = "shm"
    return _Facts(
        tuple(get(value, "shape")),
        str(dtype).removeprefix("torch."),
        None,
        str(device),
        get(value, "nbytes") if is_dense else None,
        backing,
        False,
    )


# ---- where bytes lie


def backing_of(owner: Any) -> Backing | None:
    """Where the bytes of a view lie, by what it is a view of; None, the view's own owner: on the heap."""
    for _ in range(_MOST_OWNERS):
        if owner is None:
            return "heap"
        kind = type(owner)
        root = root_of(kind)
        if root == "mmap":
            return "shm" if _is_shared(owner) else "mmap"
        if kind is memoryview:
            owner = owner.obj
        elif root == "numpy" or _is_array(kind):
            owner = sys.modules["numpy"].ndarray.base.__get__(owner)
        elif root == "torch":
            facts = _of_torch(owner, _MRO(kind)[-2] if kind is not sys.modules["torch"].Tensor else kind)
            return None if facts is None else facts.backing
        elif root in ("builtins", "pyarrow", "array"):
            return None if kind.__name__ == "PyCapsule" else "heap"
        else:
            return None
    return None


def _is_array(kind: type) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and issubclass(kind, numpy.ndarray)


def _is_shared(mapping: Any) -> bool:
    """Whether a mapping is of memory that processes share, and not of a file on a disk.

    The kernel of Linux knows; elsewhere, and where nothing is loaded that tells the address, nobody does.
    """
    start = address_of(mapping)
    if start is None or sys.platform != "linux":
        return False
    page = sys.modules["mmap"].PAGESIZE
    end = start + -(-len(mapping) // page) * page
    try:
        path = readlink(f"/proc/self/map_files/{start:x}-{end:x}")
    except OSError:
        return False
    return path.startswith(("/dev/shm/", "/memfd:", "/dev/zero", "/SYSV"))  # a name to compare with


def address_of(buffer: Any) -> int | None:
    """Address of the first byte of a buffer; None where no library is loaded that tells."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    address: int = numpy.frombuffer(buffer, numpy.uint8).__array_interface__["data"][0]
    return address


# ---- texts


def _label(name: object) -> str:
    """The name of a column as text; one that is an object of the user is told by its type."""
    kind = type(name)
    if kind is str:
        return _cut(name)  # type: ignore[arg-type]
    if kind is tuple:
        return _cut("(" + ", ".join(_label(part) for part in name[:MOST_COLUMNS]) + ")")  # type: ignore[index]
    if kind in _PLAIN or root_of(kind) in ("numpy", "pandas", "datetime"):
        return _cut(str(name))
    return f"<{_cut(_QUALNAME(kind))}>"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 3] + "..."


_BY_ROOT: dict[str, Callable[[Any, Any], _Facts | None]] = {
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
