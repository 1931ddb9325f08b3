"""Frames of pandas as bytes: pickle protocol 5 with the columns beside it, and a reader that can build nothing else.

A frame is an index, blocks and extension arrays of many kinds, and its own pickling is the only exact description.
So its description is a pickle, written only for values of known types and read with a closed list of names: what is not
on it, first of all everything that could run code, is refused before it is looked up.

Called by `codecs`.
"""

from __future__ import annotations

import io
import pickle
import re
import sys
from collections.abc import Sequence
from typing import Any


class FrameRefused(TypeError):
    """A frame holds a value of a type that is not on the list."""


class _Writer(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        # Asked of everything that pickle itself does not know how to write.
        named = obj if hasattr(obj, "__qualname__") else type(obj)
        if named.__module__ is None:  # a method of a type
            named = named.__self__
        if str(named.__module__).partition(".")[0] not in _ROOTS:
            raise FrameRefused(
                f"it holds a value of type '{named.__module__}.{named.__qualname__}'; convert that column"
            )
        return NotImplemented


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _zone_maker
        root = module.partition(".")[0]
        allowed = _NAMES.get(root)
        if allowed is None or allowed.fullmatch(name) is None or _CLOSED.search(module):
            raise pickle.UnpicklingError(f"'{module}.{name}' is not on the list of what a frame is made of")
        return super().find_class(module, name)


def pickle_frame(value: Any) -> tuple[bytes, list[memoryview]]:
    """The description of a frame, a series or an index, and the memory of its columns.

    Raises:
        FrameRefused: A column holds Python objects of a type that is not on the list.
    """
    buffers: list[memoryview] = []
    sink = io.BytesIO()
    _Writer(sink, protocol=5, buffer_callback=lambda buffer: buffers.append(_flat(buffer))).dump(value)
    return sink.getvalue(), buffers


def unpickle_frame(data: bytes, buffers: Sequence[Any]) -> Any:
    """The frame, its columns over the given buffers where pandas can use them as they are.

    Raises:
        pickle.UnpicklingError: The description names something that no frame is made of.
    """
    import pandas as pd

    found = _Reader(io.BytesIO(data), buffers=buffers).load()
    if not isinstance(found, (pd.DataFrame, pd.Series, pd.Index)):
        raise pickle.UnpicklingError(f"a {type(found).__name__} instead of a frame")
    return found


def _flat(buffer: pickle.PickleBuffer) -> memoryview:
    return buffer.raw()


def _zone_maker(owner: Any, name: str) -> Any:
    """Stands for `getattr`, by which time zones are pickled, and knows nothing but these."""
    zones = sys.modules.get("zoneinfo")
    if zones is None or owner is not zones.ZoneInfo or name not in ("_unpickle", "no_cache"):
        raise pickle.UnpicklingError("an attribute that no frame is made of")
    return getattr(owner, name)


_ROOTS = frozenset(
    {"builtins", "pandas", "numpy", "pyarrow", "datetime", "decimal", "uuid", "zoneinfo", "collections", "functools"}
)

_CLOSED = re.compile(r"\b(io|testing|plotting|computation|ctypeslib|f2py|distutils)\b")
"""Parts of the libraries that hold no part of a frame."""

_NAMES = {
    "builtins": re.compile("slice|set|frozenset|bytearray|complex|range"),
    "collections": re.compile("OrderedDict|deque"),
    "datetime": re.compile("date|datetime|time|timedelta|timezone"),
    "decimal": re.compile("Decimal"),
    "uuid": re.compile("UUID|SafeUUID"),
    "zoneinfo": re.compile("ZoneInfo"),
    "numpy": re.compile(
        "dtype|ndarray|_reconstruct|scalar|_frombuffer|(datetime|timedelta|float|u?int|bool|str)_?[0-9]*"
    ),
    "pandas": re.compile(
        "DataFrame|Series|Categorical|NA|NaT|Timestamp|Timedelta|Period|Interval|NAType|NaTType"
        r"|[A-Z]\w*Dtype|[A-Z]\w*Array|([A-Z]\w*)?Index|(Single)?BlockManager|IntIndex|BlockIndex"
        r"|_new_\w*Index|_unpickle_block|__pyx_unpickle_(NDArrayBacked|IntervalMixin|\w*Index)"
        "|_nat_unpickle|_timedelta_unpickle|_unpickle_timestamp|_period_unpickle|_unpickle_period"
        r"|Day|Hour|Minute|Second|Milli|Micro|Nano|[A-Z]\w*(Begin|End)|Week|Business\w+|DateOffset|Easter"
    ),
    "pyarrow": re.compile(
        r"_restore_array|py_buffer|type_for_alias|field|schema|list_|large_list|struct|map_|dictionary|null|bool_"
        r"|u?int(8|16|32|64)|float(16|32|64)|(large_)?(string|binary|utf8)(_view)?|date(32|64)|time(32|64)|timestamp"
        r"|duration|decimal(32|64|128|256)"
    ),
}
"""By library, the names that descriptions of frames use; the tests pickle every kind of column with it."""
