"""Values cut into chunks, and what came of the chunks put together again.

`iter_chunks` goes through anything that has rows without reading more of it than one chunk; `Pieces` is one pass of a
chunked step. Where a value lies over a file, the system is told that it is read from front to back, and that the pages
of a chunk are not needed any more once the next one is asked for.

Called by users, and by the compiler, which binds both to the steps that take an input in chunks.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from chainweaver.objects.codecs import type_name_of
from chainweaver.objects.files import is_ours
from chainweaver.objects.refs import size_in_memory

END: Any = object()
"""What `Pieces.following` gives when there is no further chunk."""


class ChunkError(TypeError):
    """A value cannot be cut into chunks, or what came of the chunks cannot be combined; the text says what to do."""


def iter_chunks(value: Any, *, bytes: int | None = None, rows: int | None = None) -> Iterator[Any]:  # noqa: A002 - what it counts
    """Go through a value in chunks, one at a time.

    A chunk is of the type of the value and shares its memory where the type can: arrays, tensors, tables, frames and
    series are cut along their rows, bytes and lists along their items. A parquet file (opened, or its path) and a
    reader of record batches give tables; any other iterable gives lists. What is empty gives one empty chunk.

    Args:
        value: What to cut; an iterator is used up by it.
        bytes: How many bytes a chunk has at most; a single row may have more. Rows are taken for equally long, so
            that those of texts may come out larger; of a parquet file its own figures are asked.
        rows: How many rows or items a chunk has at most; either this or `bytes`.

    Raises:
        ChunkError: The value has no rows, or no order.
        ValueError: Neither or both limits are given, or one below 1.

    >>> list(iter_chunks([1, 2, 3], rows=2))
    [[1, 2], [3]]
    >>> list(iter_chunks(b"abcdef", bytes=4))
    [b'abcd', b'ef']
    """
    if (bytes is None) == (rows is None):
        raise ValueError("iter_chunks needs exactly one of bytes= and rows=.")
    limit = bytes if rows is None else rows
    assert limit is not None, "one of them is given"
    if limit < 1:
        raise ValueError(f"A chunk has to have at least 1 {'byte' if rows is None else 'row'}, not {limit}.")
    return _chunks(value, bytes, rows)


def _chunks(value: Any, nbytes: int | None, rows: int | None) -> Iterator[Any]:
    kind = type(value)
    rooted = _BY_ROOT.get(kind.__module__.partition(".")[0])
    cut = None if rooted is None else rooted(value)
    if cut is not None:
        return _slices(value, cut, cut.rows_in(nbytes) if rows is None else rows)
    if isinstance(value, (str, os.PathLike)):
        return _of_path(value, nbytes, rows)
    if kind.__module__.startswith("pyarrow"):
        if kind.__name__ == "ParquetFile":
            return _of_parquet(value, nbytes, rows)
        if kind.__name__ == "RecordBatchReader":
            return _of_reader(value, nbytes, rows)
    if isinstance(value, Iterable) and not isinstance(value, (Mapping, Set)) and not hasattr(value, "keys"):
        return _items(value, nbytes, rows, tuple if kind is tuple else list)
    raise ChunkError(
        f"a value of type '{type_name_of(value)}' cannot be cut into chunks; give an array, a table, a frame, a "
        "tensor, a parquet file or its path, bytes, or something to iterate over in order"
    )


# ---- what can be sliced


class _Cut(NamedTuple):
    """How a value is cut.

    Attributes:
        length: Its rows.
        nbytes: Its size.
        slice: `begin, end -> chunk`.
    """

    length: int
    nbytes: int
    slice: Callable[[int, int], Any]

    def rows_in(self, nbytes: int | None) -> int:
        """How many rows fit into so many bytes; at least one."""
        assert nbytes is not None, "a chunk has a limit"
        return max(1, nbytes * self.length // max(1, self.nbytes))


def _slices(value: Any, cut: _Cut, rows: int) -> Iterator[Any]:
    if cut.length == 0:
        yield value
        return
    advise = _advice_for(value)
    for begin in range(0, cut.length, rows):
        end = min(begin + rows, cut.length)
        yield cut.slice(begin, end)
        advise(begin / cut.length, end / cut.length)


def _cut_numpy(value: Any) -> _Cut | None:
    if not isinstance(value, sys.modules["numpy"].ndarray):
        return None
    if value.ndim == 0:
        raise ChunkError("an array of no dimensions has no rows to cut along; give it one with reshape(1)")
    return _Cut(len(value), value.nbytes, lambda begin, end: value[begin:end])


def _cut_pandas(value: Any) -> _Cut | None:
    pd = sys.modules["pandas"]
    if isinstance(value, (pd.DataFrame, pd.Series)):
        return _Cut(len(value), size_in_memory(value), lambda begin, end: value.iloc[begin:end])
    if isinstance(value, pd.Index):
        return _Cut(len(value), value.nbytes, lambda begin, end: value[begin:end])
    return None


def _cut_polars(value: Any) -> _Cut | None:
    pl = sys.modules["polars"]
    if isinstance(value, pl.LazyFrame):
        raise ChunkError("a lazy frame has no rows yet; collect() it first, or give the path of its file")
    if not isinstance(value, (pl.DataFrame, pl.Series)):
        return None
    return _Cut(len(value), int(value.estimated_size()), lambda begin, end: value.slice(begin, end - begin))


def _cut_pyarrow(value: Any) -> _Cut | None:
    pa = sys.modules["pyarrow"]
    if not isinstance(value, (pa.Table, pa.RecordBatch, pa.Array, pa.ChunkedArray)):
        return None
    return _Cut(len(value), value.nbytes, lambda begin, end: value.slice(begin, end - begin))


def _cut_torch(value: Any) -> _Cut | None:
    if not isinstance(value, sys.modules["torch"].Tensor):
        return None
    if value.ndim == 0:
        raise ChunkError("a tensor of no dimensions has no rows to cut along; give it one with reshape(1)")
    return _Cut(len(value), value.nbytes, lambda begin, end: value[begin:end])


def _cut_builtins(value: Any) -> _Cut | None:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        return None
    if isinstance(value, memoryview):
        if value.ndim != 1:
            raise ChunkError("a memoryview of several dimensions cannot be cut; cast it to bytes with cast('B')")
        return _Cut(len(value), value.nbytes, lambda begin, end: value[begin:end])
    return _Cut(len(value), len(value), lambda begin, end: value[begin:end])


_BY_ROOT: dict[str, Callable[[Any], _Cut | None]] = {
    "builtins": _cut_builtins,
    "numpy": _cut_numpy,
    "pandas": _cut_pandas,
    "polars": _cut_polars,
    "pyarrow": _cut_pyarrow,
    "torch": _cut_torch,
}


# ---- what is read piece by piece


def _of_path(path: Any, nbytes: int | None, rows: int | None) -> Iterator[Any]:
    name = os.fspath(path)
    if not str(name).endswith((".parquet", ".pq")):
        raise ChunkError(
            f"'{name}' is not the path of a parquet file; open other files yourself, such as with "
            "numpy.load(path, mmap_mode='r')"
        )
    return _of_parquet_path(Path(name), nbytes, rows)


def _of_parquet_path(path: Path, nbytes: int | None, rows: int | None) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from _of_parquet(file, nbytes, rows)


def _of_parquet(file: Any, nbytes: int | None, rows: int | None) -> Iterator[Any]:
    pa = sys.modules["pyarrow"]
    if file.metadata.num_rows == 0:
        yield file.schema_arrow.empty_table()
        return
    if rows is None:
        groups = (file.metadata.row_group(at) for at in range(file.metadata.num_row_groups))
        rows = _Cut(file.metadata.num_rows, sum(group.total_byte_size for group in groups), _no_slice).rows_in(nbytes)
    for batch in file.iter_batches(batch_size=rows):
        yield pa.Table.from_batches([batch])


def _no_slice(begin: int, end: int) -> Any:
    raise AssertionError("a file is read and not sliced")


def _of_reader(reader: Any, nbytes: int | None, rows: int | None) -> Iterator[Any]:
    pa = sys.modules["pyarrow"]
    has_some = False
    for batch in reader:
        if len(batch):
            has_some = True
            yield from _chunks(pa.Table.from_batches([batch]), nbytes, rows)
    if not has_some:
        yield reader.schema.empty_table()


def _items(values: Iterable[Any], nbytes: int | None, rows: int | None, kind: type) -> Iterator[Any]:
    """Items in groups; in bytes they count as what their types tell, and a group ends before it would have too many."""
    group: list[Any] = []
    size, has_some = 0, False
    for item in values:
        length = 0 if nbytes is None else size_in_memory(item)
        if group and nbytes is not None and size + length > nbytes:
            yield kind(group)
            group, size, has_some = [], 0, True
        group.append(item)
        size += length
        del item
        if len(group) == rows:
            # Now, and not when the next item is there: it may be as large as all of these.
            full, group, has_some = kind(group), [], True
            yield full
            del full
    if group or not has_some:
        yield kind(group)


# ---- what the system is told


def _advice_for(value: Any) -> Callable[[float, float], None]:
    """A function that is told which part of a value has been used."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.ndarray) or not value.flags.c_contiguous:
        return _no_advice
    file = _file_behind(value, numpy)
    if file is None:
        return _no_advice
    begin = value.ctypes.data - numpy.frombuffer(file, numpy.uint8).ctypes.data

    def advise(used_from: float, used_to: float) -> None:
        # Whole pages only; what a page shares with the next chunk stays.
        first = (begin + round(used_from * value.nbytes)) // mmap.PAGESIZE * mmap.PAGESIZE
        last = (begin + round(used_to * value.nbytes)) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            with suppress(OSError, ValueError):  # advice only; the file may have been closed meanwhile
                file.madvise(mmap.MADV_DONTNEED, first, last - first)

    with suppress(OSError, ValueError):
        file.madvise(mmap.MADV_SEQUENTIAL)
    return advise


def _no_advice(used_from: float, used_to: float) -> None:
    pass


def _file_behind(value: Any, numpy: Any) -> Any:
    """The mapped file under an array; None where there is none, or pages with changes of our own would be lost.

    Pages of a private mapping are lost with what was written to them, and a mapping does not say that it is one: not
    even that it shows read-only. So only those count of which it is known how they were made.
    """
    if not hasattr(mmap.mmap, "madvise") or not hasattr(mmap, "MADV_DONTNEED"):
        return None
    base, is_shared = value, False
    while isinstance(base, (numpy.ndarray, memoryview)):
        is_shared = type(base) is numpy.memmap and getattr(base, "mode", None) in ("r", "r+", "w+")
        base = base.obj if isinstance(base, memoryview) else base.base
    return base if isinstance(base, mmap.mmap) and (is_shared or is_ours(base)) else None


# ---- a chunked step


class Pieces:
    """One pass over a value in chunks, with what came of them.

    Args:
        value: What to cut.
        bytes, rows: As for `iter_chunks`.
        combine: "concat", "sum" or "list".
    """

    def __init__(self, value: Any, nbytes: int | None, rows: int | None, combine: str) -> None:
        self._chunks = iter_chunks(value, bytes=nbytes, rows=rows)
        self._combine = combine
        self._outputs: dict[str, Any] = {}
        self._count = 0

    def following(self, outputs: dict[str, Any] | None) -> Any:
        """The next chunk, once the outputs for the one before are kept; END after the last one.

        Raises:
            ChunkError: They cannot be added up.
        """
        if outputs is not None:
            self._keep(outputs)
        return next(self._chunks, END)

    def combined(self) -> dict[str, Any]:
        """What all chunks together gave.

        Raises:
            ChunkError: The outputs cannot be put one after the other.
        """
        if self._combine != "concat":
            return self._outputs
        return {key: concatenated(key, values) for key, values in self._outputs.items()}

    def close(self) -> None:
        """Close the file that is read, if any."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            with suppress(ValueError):  # a thread that was left behind is still reading
                close()

    def _keep(self, outputs: dict[str, Any]) -> None:
        kept = self._outputs
        if self._count and kept.keys() != outputs.keys():
            strange = ", ".join(sorted(kept.keys() ^ outputs.keys()))
            raise ChunkError(f"not every chunk has the outputs {strange}; let the tool always return the same ones")
        for key, value in outputs.items():
            if self._combine != "sum":
                kept.setdefault(key, []).append(value)
            elif self._count == 0:
                kept[key] = value
            else:
                kept[key] = _added(key, kept[key], value)
        self._count += 1


def _added(key: str, one: Any, other: Any) -> Any:
    for what, of_numbers in (("shape", ()), ("index", None), ("columns", None)):
        if not _is_alike(getattr(one, what, of_numbers), getattr(other, what, of_numbers)):
            # Libraries would repeat the shorter one, and give NaN for labels that one of them lacks.
            raise ChunkError(
                f"values of output '{key}' cannot be added: the {what} of a chunk is not that of those before it; "
                "combine them with 'list', or name a tool"
            )
    try:
        return one + other
    except TypeError as exc:
        raise ChunkError(
            f"values of output '{key}' cannot be added: {exc}; combine them with 'list', or name a tool"
        ) from exc


def _is_alike(one: Any, other: Any) -> bool:
    """Whether two shapes, or two sets of labels, are the same; methods by these names say nothing."""
    if callable(one) or callable(other):
        return True
    if one is None or other is None:
        return one is other
    return bool(one.equals(other) if hasattr(one, "equals") else one == other)


def concatenated(key: str, values: list[Any]) -> Any:
    """Values of one type, one after the other.

    Raises:
        ChunkError: There is no way to do that for their type.

    >>> concatenated("rows", [[1], [2, 3]])
    [1, 2, 3]
    """
    kind = type(values[0])
    root = kind.__module__.partition(".")[0]
    join = _JOINS.get(root)
    if len(values) == 1 and kind.__name__ != "RecordBatch":
        return values[0]
    for number, value in enumerate(values):
        # Libraries would take the items of anything, and turn numbers into those of another type.
        if type(value) is not kind or _mismatch(values[0], value):
            raise ChunkError(
                f"values of output '{key}' cannot be put one after the other: that of the first chunk is "
                f"{_told(values[0])}, and that of chunk {number + 1} is {_told(value)}; let the tool return one type, "
                "or name a tool that combines them"
            )
    try:
        joined = None if join is None else join(kind, values, sys.modules[root])
    except Exception as exc:  # shapes and schemas that differ: every library raises its own kind
        raise ChunkError(f"values of output '{key}' cannot be put one after the other: {exc}") from exc
    if joined is None:
        raise ChunkError(
            f"values of output '{key}' are of type '{type_name_of(values[0])}', which cannot be put one after the "
            "other; combine them with 'sum' or 'list', or name a tool"
        )
    return joined


def _mismatch(one: Any, other: Any) -> bool:
    """Whether two values of one type have items of types that do not go into one without a loss."""
    root = type(one).__module__.partition(".")[0]
    if root == "pandas":
        return not _is_alike(getattr(one, "columns", None), getattr(other, "columns", None))
    if root not in ("numpy", "torch") or one.dtype == other.dtype:
        return False
    # Texts and numbers of one kind differ in their width only, and the widest has room for all.
    kind = getattr(one.dtype, "kind", "")
    return kind == "" or kind not in "iufcSU" or kind != other.dtype.kind


def _told(value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    return f"of type '{type_name_of(value)}'" + (f" with dtype {dtype}" if dtype is not None else "")


def _join_builtins(kind: type, values: list[Any], builtins: Any) -> Any:
    if kind in (bytes, bytearray):
        return kind().join(values)
    if kind is str:
        return "".join(values)
    return kind(chain.from_iterable(values)) if kind in (list, tuple) else None


def _join_numpy(kind: type, values: list[Any], numpy: Any) -> Any:
    if kind is numpy.ma.MaskedArray:
        joined = numpy.ma.concatenate(values)
        joined.fill_value = values[0].fill_value
        return joined
    # What other classes keep beside the items is not known here.
    return numpy.concatenate(values) if kind in (numpy.ndarray, numpy.memmap) else None


def _join_pandas(kind: type, values: list[Any], pandas: Any) -> Any:
    return pandas.concat(values) if issubclass(kind, (pandas.DataFrame, pandas.Series)) else None


def _join_polars(kind: type, values: list[Any], polars: Any) -> Any:
    return polars.concat(values) if issubclass(kind, (polars.DataFrame, polars.Series)) else None


def _join_pyarrow(kind: type, values: list[Any], pyarrow: Any) -> Any:
    if issubclass(kind, pyarrow.Table):
        return pyarrow.concat_tables(values)
    if issubclass(kind, pyarrow.RecordBatch):
        return pyarrow.Table.from_batches(values)
    if issubclass(kind, pyarrow.ChunkedArray):
        return pyarrow.chunked_array([chunk for value in values for chunk in value.chunks], values[0].type)
    return pyarrow.concat_arrays(values) if issubclass(kind, pyarrow.Array) else None


def _join_torch(kind: type, values: list[Any], torch: Any) -> Any:
    return torch.cat(values) if issubclass(kind, torch.Tensor) else None


_JOINS: dict[str, Callable[[type, list[Any], Any], Any]] = {
    "builtins": _join_builtins,
    "numpy": _join_numpy,
    "pandas": _join_pandas,
    "polars": _join_polars,
    "pyarrow": _join_pyarrow,
    "torch": _join_torch,
}
