"""Content fingerprints: equal values, equal fingerprints, however their memory is laid out.

Plain values, containers, models and the like are read by `canonical`; what belongs to the libraries of arrays, frames,
tables and tensors is read here: type, dtype, shape, names and values, without what only the memory has (order, strides,
padding, chunks, the parent of a slice, what lies under a missing value). Bytes are compared: NaN equals the same NaN,
and 0.0 is not -0.0. Nothing is imported that the program does not use.

Called by `canonical` when it meets such a value, and so by whoever makes cache keys and compares runs; `fingerprint` is
for stores and users.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable
from typing import Any

from chainweaver import canonical
from chainweaver.canonical import Unfingerprintable
from chainweaver.objects.codecs import (
    Buffer,
    NoCodecError,
    codec_for,
    is_of_a_library,
    pack,
    size_of,
    type_name_of,
)
from chainweaver.objects.inspection import root_of


def fingerprint(value: Any) -> str:
    """A digest (32 hexadecimal characters) of the content of a value: plain, an array, frame, table or tensor, or any
    container or model of such.

    Raises:
        Unfingerprintable: Its content cannot be read completely; `reason` says what it is and why. Callers take that
            for "different from everything".

    >>> fingerprint({"rows": [1, 2]}) == fingerprint({"rows": [1, 2]})
    True
    >>> fingerprint([1, 2]) == fingerprint([1.0, 2.0])
    False
    """
    return canonical.digest(value)


def content_digest(value: Any) -> bytes:
    """A digest (32 bytes) of an object of a library, for `canonical` to put into its bytes.

    Raises:
        Unfingerprintable: It has no content that could be read, as it lives on a device, is lazy, or is of a subclass.
    """
    content = _Content()
    kind = type(value)
    codec = codec_for(value)
    read = _READERS.get(codec.name) if codec is not None else _read_cell if _is_cell(kind) else None
    if read is None:
        raise Unfingerprintable(_why_not(value))
    content.plain(kind.__name__ if kind.__name__ != "memmap" else "ndarray")
    try:
        read(content, value)
    except NoCodecError as exc:
        raise Unfingerprintable(f"a value of type '{exc.type_name}' has no canonical encoding: {exc.reason}") from exc
    return content.digest()


def _why_not(value: Any) -> str:
    text = f"a value of type '{type_name_of(value)}' has no canonical encoding"
    if is_of_a_library(value):
        try:
            pack(value)
        except NoCodecError as exc:
            return f"{text}: {exc.reason}"
    return text


class _Content:
    """What has been read so far. Every part carries its length, so that parts cannot run into each other."""

    def __init__(self) -> None:
        self._hasher = canonical.new_hasher(b"cw-object", digest_size=32)

    def plain(self, *facts: Any) -> None:
        """Plain values, and containers of any values that have canonical bytes."""
        self.buffer(canonical.encode(facts))

    def buffer(self, buffer: Buffer) -> None:
        self._hasher.update(b"%d:" % size_of(buffer))
        self._hasher.update(buffer)

    def digest(self) -> bytes:
        digest: bytes = self._hasher.digest()
        return digest


# ---- numpy


def _read_array(content: _Content, array: Any) -> None:
    numpy = sys.modules["numpy"]
    dtype = array.dtype
    # Of structures the layout, as two ways to ask for one layout are equal.
    content.plain(repr(dtype if dtype.names is None else numpy.lib.format.dtype_to_descr(dtype)), array.shape)
    if dtype.kind in "OT":
        content.plain(array.ravel().tolist())
    elif dtype.names is not None:
        # One by one: what lies between the fields belongs to nobody.
        for name in dtype.names:
            _read_array(content, array[name])
    else:
        flat = numpy.ascontiguousarray(array).view(numpy.ndarray).reshape(-1)
        content.buffer(memoryview(flat.view(numpy.uint8)).cast("B") if flat.nbytes else b"")


def _read_scalar(content: _Content, value: Any) -> None:
    if value.dtype.kind in "SU":  # an array would leave out zeros at the end
        content.plain(value.item())
    else:
        _read_array(content, sys.modules["numpy"].asarray(value))


# ---- pandas


def _read_frame(content: _Content, value: Any) -> None:
    pandas = sys.modules["pandas"]
    if isinstance(value, pandas.Index):
        _read_index(content, value)
        return
    content.plain(value.attrs, value.flags.allows_duplicate_labels)
    _read_index(content, value.index)
    if isinstance(value, pandas.Series):
        content.plain(value.name)
        _read_column(content, value.array)
        return
    _read_index(content, value.columns)
    for place in range(value.shape[1]):
        _read_column(content, value.iloc[:, place].array)


def _read_index(content: _Content, index: Any) -> None:
    kind = type(index).__name__
    content.plain(kind, list(index.names), len(index), _frequency(getattr(index, "freq", None)))
    if kind == "RangeIndex":
        content.plain(index.start, index.step)
    elif kind == "MultiIndex":
        # Levels may hold what no row has.
        for level in range(index.nlevels):
            _read_index(content, index.get_level_values(level))
    else:
        _read_column(content, index.array)


def _read_column(content: _Content, column: Any) -> None:
    """The values of a column, by what holds them."""
    dtype = column.dtype
    content.plain(repr(dtype))
    kind = type(dtype)
    read: Callable[[_Content, Any], None] = _read_numbers
    if not isinstance(dtype, sys.modules["numpy"].dtype):
        known = (_COLUMNS[base.__name__] for base in kind.__mro__ if base.__name__ in _COLUMNS)
        found = next(known, None) if root_of(kind) == "pandas" else None
        if found is None:
            raise Unfingerprintable(f"a column of dtype '{dtype}' has no canonical encoding")
        read = found
    read(content, column)


def _read_numbers(content: _Content, column: Any) -> None:
    _read_array(content, sys.modules["numpy"].asarray(column))


def _read_categories(content: _Content, column: Any) -> None:
    _read_index(content, column.categories)
    content.plain(bool(column.ordered))
    _read_array(content, column.codes)


def _read_counted(content: _Content, column: Any) -> None:
    # Dates and periods are numbers from a beginning. The dtype shows the unit, and of zones and frequencies names only.
    dtype = column.dtype
    content.plain(_zone(getattr(dtype, "tz", None)), _frequency(getattr(dtype, "freq", None)))
    _read_array(content, column.asi8)


def _zone(zone: Any) -> Any:
    """What tells a time zone from others: two of one name may have different offsets.

    Raises:
        Unfingerprintable: It is neither of the standard library nor of one of those that pandas knows.
    """
    if zone is None:
        return None
    if root_of(type(zone)) in _ZONES:
        return root_of(type(zone)), type(zone).__qualname__, str(zone), zone.utcoffset(None)
    return canonical.encode(datetime.time(tzinfo=zone))


_ZONES = ("pytz", "dateutil")
"""Libraries whose zones show in their texts which zone of the database they are."""


def _frequency(freq: Any) -> Any:
    """What tells a frequency from others: its text leaves out holidays, hours of business and `normalize`.

    Raises:
        Unfingerprintable: It is of a class of the user.
    """
    if freq is None:
        return None
    if root_of(type(freq)) != "pandas":
        raise Unfingerprintable(f"a frequency of type '{type_name_of(freq)}' has no canonical encoding")
    parts = dict(freq.kwds)
    calendar = parts.pop("calendar", None)
    days = None if calendar is None else (calendar.weekmask, calendar.holidays)
    return type(freq).__name__, freq.n, freq.normalize, parts, days


def _read_intervals(content: _Content, column: Any) -> None:
    _read_index(content, column.left)
    _read_index(content, column.right)


def _read_masked(content: _Content, column: Any) -> None:
    _read_array(content, column.isna())
    _read_array(content, column.to_numpy(column.dtype.numpy_dtype, na_value=column.dtype.numpy_dtype.type(0)))


def _read_text(content: _Content, column: Any) -> None:
    if hasattr(column, "__arrow_array__") and column.dtype.storage == "pyarrow":
        _read_arrow_backed(content, column)
        return
    _read_array(content, column.isna())
    _read_array(content, column.to_numpy(object, na_value=""))


def _read_arrow_backed(content: _Content, column: Any) -> None:
    _read_chunks(content, column.__arrow_array__())


def _read_sparse(content: _Content, column: Any) -> None:
    content.plain(len(column), column.fill_value)
    _read_array(content, column.sp_index.to_int_index().indices)
    _read_array(content, column.sp_values)


_COLUMNS: dict[str, Callable[[_Content, Any], None]] = {
    "NumpyEADtype": _read_numbers,
    "PandasDtype": _read_numbers,  # its older name
    "BaseMaskedDtype": _read_masked,
    "CategoricalDtype": _read_categories,
    "DatetimeTZDtype": _read_counted,
    "PeriodDtype": _read_counted,
    "IntervalDtype": _read_intervals,
    "StringDtype": _read_text,
    "ArrowDtype": _read_arrow_backed,
    "SparseDtype": _read_sparse,
}


def _is_cell(kind: type) -> bool:
    return root_of(kind) == "pandas" and kind.__name__ in _CELLS


def _read_cell(content: _Content, value: Any) -> None:
    """A value that columns of objects hold, and that is no frame."""
    content.plain(*_CELLS[type(value).__name__](value))


def _count(value: Any) -> int:
    # `value.value` counts in nanoseconds, in which the years from 1678 to 2261 have room.
    return int(value.asm8.view("i8"))


_CELLS: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "Timestamp": lambda value: (_count(value), value.unit, value.fold, _zone(value.tz)),
    "Timedelta": lambda value: (_count(value), value.unit),
    "Period": lambda value: (value.ordinal, _frequency(value.freq)),
    "Interval": lambda value: (value.left, value.right, value.closed),
    "NaTType": lambda value: (),
    "NAType": lambda value: (),
}


# ---- Arrow


def _read_arrow(content: _Content, value: Any) -> None:
    pa = sys.modules["pyarrow"]
    if isinstance(value, (pa.Table, pa.RecordBatch)):
        content.plain(value.num_rows)
        content.buffer(memoryview(value.schema.serialize()))
        for column in value.columns:
            _read_chunks(content, column)
    else:
        _read_chunks(content, value)


def _read_chunks(content: _Content, column: Any) -> None:
    pa = sys.modules["pyarrow"]
    content.buffer(memoryview(pa.schema([pa.field("value", column.type)]).serialize()))
    content.plain(len(column))
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    # More text than one array can hold stays in chunks.
    for array in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        _read_cells(content, array)


def _read_cells(content: _Content, array: Any) -> None:
    """Which values of an Arrow array are missing, and those that are not; nothing around them and nothing below."""
    pa, compute = sys.modules["pyarrow"], _compute()
    view = _views(pa).get(array.type)
    if view is not None:
        array = array.cast(view)
    content.plain(len(array), array.null_count)
    if array.null_count and array.null_count < len(array):
        _read_fixed(content, array.is_valid().cast(pa.uint8()))
        array = array.drop_null()
    elif array.null_count:
        return
    kind, types = array.type, pa.types
    if types.is_boolean(kind):
        _read_fixed(content, array.cast(pa.uint8()))
    elif isinstance(kind, pa.BaseExtensionType):
        _read_cells(content, array.storage)
    elif types.is_dictionary(kind):
        # Of an empty slice Arrow writes no dictionary, so that what is read again has none.
        _read_cells(content, array.dictionary if len(array) else array.dictionary[:0])
        _read_cells(content, array.indices)
    elif types.is_primitive(kind) or types.is_decimal(kind) or types.is_fixed_size_binary(kind):
        _read_fixed(content, array)
    elif str(kind).removeprefix("large_") in ("string", "binary"):
        _read_fixed(content, compute.binary_length(array))
        _read_text_bytes(content, array)
    elif types.is_struct(kind):
        for part in array.flatten():
            _read_cells(content, part)
    elif types.is_map(kind):
        _read_cells(content, array.cast(pa.list_(pa.struct([kind.key_field, kind.item_field]))))
    elif types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        _read_fixed(content, compute.list_value_length(array))
        _read_cells(content, array.flatten())
    elif not types.is_null(kind):
        # Unions, runs and the like: bytes of a fresh copy. Equal ones may differ then, which costs a miss.
        content.buffer(pack(pa.concat_arrays([array])).buffers[0])


def _compute() -> Any:
    import pyarrow.compute  # part of what the program uses already

    return pyarrow.compute


def _views(pa: Any) -> dict[Any, Any]:
    views = {"string_view": "string", "binary_view": "binary"}
    return {getattr(pa, view)(): getattr(pa, plain)() for view, plain in views.items() if hasattr(pa, view)}


def _read_fixed(content: _Content, array: Any) -> None:
    """Values of one width, none of them missing."""
    width = array.type.bit_width // 8
    start = array.offset * width
    values = array.buffers()[1] if len(array) else None
    content.buffer(b"" if values is None else memoryview(values)[start : start + len(array) * width])


def _read_text_bytes(content: _Content, array: Any) -> None:
    if not len(array):
        content.buffer(b"")
        return
    _, places, text = array.buffers()
    offsets = memoryview(places).cast("B").cast("q" if str(array.type).startswith("large") else "i")
    first, last = offsets[array.offset], offsets[array.offset + len(array)]
    content.buffer(b"" if text is None else memoryview(text)[first:last])


# ---- polars


def _read_polars(content: _Content, value: Any) -> None:
    columns = [value] if type(value).__name__ == "Series" else value.get_columns()
    content.plain(len(value))
    for column in columns:
        content.plain(column.name, repr(column.dtype), column.null_count())
        if column.null_count():
            content.buffer(_ipc(column.is_null().cast(sys.modules["polars"].UInt8)))
        content.buffer(_ipc(column.drop_nulls()))


def _ipc(column: Any) -> Buffer:
    # Gathered, so that nothing comes along of what the column is a slice of.
    places = sys.modules["polars"].int_range(len(column), eager=True)
    return pack(column.gather(places).rechunk()).buffers[0]


# ---- torch


def _read_tensor(content: _Content, value: Any) -> None:
    packed = pack(value)
    content.plain(packed.facts)
    for buffer in packed.buffers:
        content.buffer(buffer)


_READERS: dict[str, Callable[[_Content, Any], None]] = {
    "numpy.ndarray": _read_array,
    "numpy.generic": _read_scalar,
    "pandas": _read_frame,
    "pyarrow": _read_arrow,
    "polars": _read_polars,
    "torch.Tensor": _read_tensor,
}
