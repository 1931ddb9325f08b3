"""Codecs: an object as plain facts and buffers, and back.

`pack` takes an object apart without copying memory that is contiguous already; `unpack` puts an equal one together over
given buffers, read-only where they are. Nothing is imported that the program does not use: who packs has the library
loaded, and who unpacks needs it. What is read can build nothing but the types of these codecs.

Called by the stores of objects, by the stores of checkpoints and cache entries, and by the process lane.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from io import BytesIO
from math import prod
from typing import Any, NamedTuple, TypeAlias

from chainweaver.objects.frames import FrameRefused, pickle_frame, unpickle_frame
from chainweaver.objects.inspection import root_of

Buffer: TypeAlias = "bytes | bytearray | memoryview"
"""Bytes that lie in one piece; a memoryview is flat, of single bytes."""


NO_CODEC = "there is no codec for this type"
"""The reason where nothing more is known."""


class Packed(NamedTuple):
    """An object taken apart.

    Attributes:
        codec: Name of the codec, such as "numpy.ndarray".
        facts: What the buffers do not say, in plain values (see `encode_plain`).
        buffers: The content. They are views of the object where its memory lies in one piece, so changing it changes
            them.
    """

    codec: str
    facts: dict[str, Any]
    buffers: tuple[Buffer, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in all buffers together."""
        return sum(size_of(buffer) for buffer in self.buffers)


class NoCodecError(TypeError):
    """An object has no form as bytes here.

    Attributes:
        type_name: Its type with its module.
        reason: Why, and what to do, without the final period.

    >>> print(NoCodecError("threading.Lock", "there is no codec for this type"))
    an object of type 'threading.Lock' has no form as bytes: there is no codec for this type
    """

    def __init__(self, type_name: str, reason: str) -> None:
        super().__init__(type_name, reason)
        self.type_name = type_name
        self.reason = reason

    def __str__(self) -> str:
        return f"an object of type '{self.type_name}' has no form as bytes: {self.reason}"


class UnpackError(ValueError):
    """Facts and buffers are not what `pack` gives, or their library is not installed."""


class Codec(NamedTuple):
    """How one type becomes bytes and comes back.

    Attributes:
        name: What stands beside the bytes.
        pack: `object -> facts, buffers`.
        unpack: `facts, buffers -> object`.
    """

    name: str
    pack: Callable[[Any], tuple[dict[str, Any], Sequence[Buffer]]]
    unpack: Callable[[dict[str, Any], Sequence[Buffer]], Any]


def codec_for(value: object) -> Codec | None:
    """The codec for values of exactly this type; None where there is none. Looks at nothing but the type.

    >>> codec_for(b"abc").name, codec_for(object())
    ('bytes', None)
    """
    return _codec_of(type(value))


def is_of_a_library(value: object) -> bool:
    """Whether the class of a value, or one that it is made from, belongs to a library that there are codecs for.

    >>> is_of_a_library(object())
    False
    """
    return any(root_of(base) in _BY_ROOT for base in type(value).__mro__ if base.__module__ != "builtins")


def _codec_of(kind: type) -> Codec | None:
    root = root_of(kind)
    choose = _BY_ROOT.get(root)
    library = sys.modules.get(root)
    if choose is None or library is None:
        return None
    try:
        return choose(kind, library)
    except AttributeError:  # a module of the user's by that name, or one that is still being imported
        return None


def pack(value: object) -> Packed:
    """An object as facts and buffers.

    Raises:
        NoCodecError: There is none for its type, or this very object has no form as bytes: it holds Python objects,
            lives on a device, or has values of its own to come.

    >>> pack(bytearray(b"abc"))
    Packed(codec='bytearray', facts={}, buffers=(<memory at ...>,))
    """
    codec = codec_for(value)
    if codec is None:
        raise NoCodecError(type_name_of(value), _why_not(value))
    try:
        facts, buffers = codec.pack(value)
    except FrameRefused as exc:
        raise NoCodecError(type_name_of(value), str(exc)) from None
    return Packed(codec.name, facts, tuple(buffers))


def unpack(packed: Packed) -> Any:
    """An object equal to the packed one, of the same type.

    Arrays, frames and tables lie over the given buffers and cannot be changed where these cannot. PyTorch knows no
    read-only tensor: over read-only buffers it gets a copy.

    Raises:
        UnpackError: The facts or the buffers are damaged, or the library of the type is not installed.

    >>> unpack(Packed("bytearray", {}, (b"abc",)))
    bytearray(b'abc')
    """
    codec = _BY_NAME.get(packed.codec)
    if codec is None:
        raise UnpackError(f"there is no codec '{packed.codec}'")
    try:
        return codec.unpack(packed.facts, packed.buffers)
    except ImportError as exc:
        raise UnpackError(f"codec '{packed.codec}' needs {exc.name or exc}, which is not installed") from exc
    except BaseException as exc:  # every library raises its own kind for damaged content
        if not isinstance(exc, Exception) and type(exc).__name__ != "PanicException":  # how polars says it
            raise
        raise UnpackError(f"codec '{packed.codec}': {type(exc).__name__}: {exc}") from exc


def size_of(buffer: Buffer) -> int:
    """Bytes in a buffer."""
    return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)


def type_name_of(value: object) -> str:
    """A type as messages call it, with its module unless it is built in."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _why_not(value: object) -> str:
    kind = type(value)
    for base in kind.__mro__[1:]:
        if _codec_of(base) is not None:
            plain = f"{root_of(base)}.{base.__name__}".removeprefix("builtins.")
            return f"what a subclass of {plain} adds would be lost; convert it to {plain}"
    if (root_of(kind), kind.__name__) == ("polars", "LazyFrame"):
        return "a lazy frame has no values yet; collect() it first"
    return NO_CODEC


# ---- bytes


def _pack_bytes(value: bytes) -> tuple[dict[str, Any], Sequence[Buffer]]:
    return {}, (value,)


def _pack_bytearray(value: bytearray) -> tuple[dict[str, Any], Sequence[Buffer]]:
    return {}, (memoryview(value),)


def _unpack_bytes(facts: dict[str, Any], buffers: Sequence[Buffer]) -> bytes:
    [buffer] = buffers
    return bytes(buffer)


def _unpack_bytearray(facts: dict[str, Any], buffers: Sequence[Buffer]) -> bytearray:
    [buffer] = buffers
    return bytearray(buffer)


# ---- numpy


def _pack_array(value: Any) -> tuple[dict[str, Any], Sequence[Buffer]]:
    numpy = sys.modules["numpy"]
    if value.dtype.kind == "T":
        raise NoCodecError(type_name_of(value), "variable-width strings; use astype('U') or an object of Arrow")
    if value.dtype.hasobject:
        raise NoCodecError(type_name_of(value), f"dtype {value.dtype} holds Python objects; give it a type of its own")
    descr = numpy.lib.format.dtype_to_descr(value.dtype)
    if numpy.lib.format.descr_to_dtype(descr) != value.dtype:
        raise NoCodecError(type_name_of(value), f"dtype {value.dtype} is not one of numpy's own")
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    flat = numpy.ascontiguousarray(value.T if order == "F" else value)
    return {"dtype": descr, "shape": value.shape, "order": order}, (_bytes_of(flat),)


def _bytes_of(flat: Any) -> memoryview:
    """The memory of an array that lies in one piece. Dates have no buffer of their own, numbers of 8 bits do."""
    numpy = sys.modules["numpy"]
    if flat.size == 0 or flat.itemsize == 0:
        return memoryview(b"")
    plain = flat.view(numpy.ndarray).reshape(-1)
    return memoryview(plain.view(numpy.uint8)).cast("B")


def _unpack_array(facts: dict[str, Any], buffers: Sequence[Buffer]) -> Any:
    import numpy as np

    [buffer] = buffers
    dtype = np.lib.format.descr_to_dtype(facts["dtype"])
    shape, order = tuple(facts["shape"]), facts["order"]
    if dtype.hasobject or order not in ("C", "F"):
        raise UnpackError("an array of Python objects")
    if size_of(buffer) != prod(shape) * dtype.itemsize:
        raise UnpackError(f"{size_of(buffer)} bytes for shape {shape} of {dtype}")
    if size_of(buffer) == 0:
        return np.ndarray(shape, dtype, order=order)
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _pack_scalar(value: Any) -> tuple[dict[str, Any], Sequence[Buffer]]:
    array = sys.modules["numpy"].asarray(value)
    if array.dtype.kind in "SU" and array[()] != value:
        raise NoCodecError(type_name_of(value), "it ends in zeros, which arrays of text leave out; use str or bytes")
    return _pack_array(array)


def _unpack_scalar(facts: dict[str, Any], buffers: Sequence[Buffer]) -> Any:
    return _unpack_array(facts, buffers)[()]


# ---- tables


def _pack_frame(value: Any) -> tuple[dict[str, Any], Sequence[Buffer]]:
    data, buffers = pickle_frame(value)
    return {"frame": data}, buffers


def _unpack_frame(facts: dict[str, Any], buffers: Sequence[Buffer]) -> Any:
    return unpickle_frame(facts["frame"], buffers)


def _pack_arrow(value: Any) -> tuple[dict[str, Any], Sequence[Buffer]]:
    sink = sys.modules["pyarrow"].BufferOutputStream()
    facts = write_arrow(value, sink)
    return facts, (memoryview(sink.getvalue()).cast("B"),)


def write_arrow(value: Any, sink: Any) -> dict[str, Any]:
    """Write a stream of Arrow's own format: the part that a slice shows, and not what lies around it; the facts."""
    pa = sys.modules["pyarrow"]
    kind = type(value).__name__
    if kind == "RecordBatch":
        batches, schema = [value], value.schema
    elif kind == "Table":
        batches, schema = value.to_batches(), value.schema
    else:
        chunks = value.chunks if kind == "ChunkedArray" else [value]
        schema = pa.schema([pa.field("value", value.type)])
        batches = [pa.record_batch([chunk], schema=schema) for chunk in chunks]
        kind = "ChunkedArray" if kind == "ChunkedArray" else "Array"
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return {"kind": kind, "types": [str(field.type) for field in schema]}


def _unpack_arrow(facts: dict[str, Any], buffers: Sequence[Buffer]) -> Any:
    import pyarrow as pa

    [buffer] = buffers
    with pa.ipc.open_stream(pa.py_buffer(buffer)) as reader:
        schema, batches = reader.schema, list(reader)
    for batch in batches:
        batch.validate()
    if [str(field.type) for field in schema] != facts["types"]:
        raise UnpackError("its types are others; a type that was registered with Arrow may not be registered here")
    kind = facts["kind"]
    if kind == "RecordBatch":
        [batch] = batches
        return batch
    if kind == "Table":
        return pa.Table.from_batches(batches, schema)
    if kind == "Array":
        [batch] = batches
        return batch.column(0)
    if kind != "ChunkedArray":
        raise UnpackError(f"'{kind}' is nothing of Arrow's")
    return pa.chunked_array([batch.column(0) for batch in batches], schema.field(0).type)


def _pack_polars(value: Any) -> tuple[dict[str, Any], Sequence[Buffer]]:
    frame = polars_frame(value)
    sink = BytesIO()
    frame.write_ipc_stream(sink)
    return {"kind": type(value).__name__}, (sink.getbuffer(),)


def polars_frame(value: Any) -> Any:
    """A frame of polars, or a series as a frame of one column.

    Raises:
        NoCodecError: Arrow's format has no room for one of its columns, or polars cannot read it from there.
    """
    frame = value.to_frame() if type(value).__name__ == "Series" else value
    todo = list(frame.dtypes)
    while todo:
        dtype = todo.pop()
        if dtype == sys.modules["polars"].Object:
            raise NoCodecError(type_name_of(value), "a column holds Python objects; give it a type of its own")
        if getattr(dtype, "size", None) == 0:
            raise NoCodecError(type_name_of(value), "polars cannot read arrays of no items; use lists")
        todo += [inner for inner in [getattr(dtype, "inner", None)] if inner is not None]
        todo += [field.dtype for field in getattr(dtype, "fields", ())]
    return frame


def _unpack_polars(facts: dict[str, Any], buffers: Sequence[Buffer]) -> Any:
    import polars as pl

    [buffer] = buffers
    frame = pl.read_ipc_stream(BytesIO(buffer))
    if facts["kind"] == "Series":
        [column] = frame.get_columns()
        return column
    if facts["kind"] != "DataFrame":
        raise UnpackError(f"'{facts['kind']}' is nothing of polars'")
    return frame


# ---- torch


def _pack_tensor(value: Any) -> tuple[dict[str, Any], Sequence[Buffer]]:
    torch = sys.modules["torch"]
    if value.device.type != "cpu":
        raise NoCodecError(type_name_of(value), f"it lives on device '{value.device}'; use .cpu() first")
    if value.layout is not torch.strided or value.is_quantized:
        raise NoCodecError(type_name_of(value), f"its layout is {value.layout}; use .to_dense() first")
    if value.requires_grad and not value.is_leaf:
        raise NoCodecError(type_name_of(value), "it is part of a graph of gradients; use .detach() first")
    flat = value.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    facts = {
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": tuple(value.shape),
        "requires_grad": value.requires_grad,
    }
    buffers: list[Buffer] = [memoryview(flat.view(torch.uint8).numpy()).cast("B") if flat.numel() else memoryview(b"")]
    if value.grad is not None:
        facts["grad"], more = _pack_tensor(value.grad)
        buffers += more
    return facts, buffers


def _unpack_tensor(facts: dict[str, Any], buffers: Sequence[Buffer]) -> Any:
    import torch

    buffer, *more = buffers
    dtype = vars(torch).get(facts["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise UnpackError(f"{facts['dtype']!r} is no dtype")
    view = memoryview(buffer)
    writable = bytearray(view) if view.readonly else view
    flat = torch.frombuffer(writable, dtype=dtype) if view.nbytes else torch.empty(0, dtype=dtype)
    tensor = flat.reshape(tuple(facts["shape"])).requires_grad_(bool(facts["requires_grad"]))
    if more or "grad" in facts:
        tensor.grad = _unpack_tensor(facts["grad"], more)
    return tensor


# ---- the list

_ARRAY = Codec("numpy.ndarray", _pack_array, _unpack_array)
_NUMPY_SCALAR = Codec("numpy.generic", _pack_scalar, _unpack_scalar)
_FRAME = Codec("pandas", _pack_frame, _unpack_frame)
_ARROW = Codec("pyarrow", _pack_arrow, _unpack_arrow)
_POLARS = Codec("polars", _pack_polars, _unpack_polars)
_TENSOR = Codec("torch.Tensor", _pack_tensor, _unpack_tensor)
_BYTES = Codec("bytes", _pack_bytes, _unpack_bytes)
_BYTEARRAY = Codec("bytearray", _pack_bytearray, _unpack_bytearray)

_BY_NAME = {one.name: one for one in (_ARRAY, _NUMPY_SCALAR, _FRAME, _ARROW, _POLARS, _TENSOR, _BYTES, _BYTEARRAY)}


def _of_builtins(kind: type, builtins: Any) -> Codec | None:
    return _BYTES if kind is bytes else _BYTEARRAY if kind is bytearray else None


def _of_numpy(kind: type, numpy: Any) -> Codec | None:
    if kind is numpy.ndarray or kind is numpy.memmap:
        return _ARRAY
    return _NUMPY_SCALAR if issubclass(kind, numpy.generic) and kind.__module__ == "numpy" else None


def _of_pandas(kind: type, pandas: Any) -> Codec | None:
    is_index = issubclass(kind, pandas.Index) and getattr(pandas, kind.__name__, None) is kind
    return _FRAME if kind is pandas.DataFrame or kind is pandas.Series or is_index else None


def _of_pyarrow(kind: type, pyarrow: Any) -> Codec | None:
    is_array = issubclass(kind, pyarrow.Array) and kind.__module__ == "pyarrow.lib"
    return _ARROW if is_array or kind in (pyarrow.Table, pyarrow.RecordBatch, pyarrow.ChunkedArray) else None


def _of_polars(kind: type, polars: Any) -> Codec | None:
    return _POLARS if kind is polars.DataFrame or kind is polars.Series else None


def _of_torch(kind: type, torch: Any) -> Codec | None:
    return _TENSOR if kind is torch.Tensor else None


_BY_ROOT: dict[str, Callable[[type, Any], Codec | None]] = {
    "builtins": _of_builtins,
    "numpy": _of_numpy,
    "pandas": _of_pandas,
    "pyarrow": _of_pyarrow,
    "polars": _of_polars,
    "torch": _of_torch,
}
