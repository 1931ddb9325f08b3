"""Frames of pandas as bytes: pickle protocol 5 with the columns beside it, and a reader that can build nothing else.

A frame is an index, blocks and extension arrays of many kinds, and its own pickling is the only exact description.
So its description is a pickle, written and read with one closed list of names: what is not on it, first of all
everything that could run code, is refused before it is looked up. What the list names can be called, and what comes of
it can be filled; the named things themselves can not be changed.

Called by `codecs`.
"""

from __future__ import annotations

import io
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, ClassVar


class FrameRefused(TypeError):
    """A frame holds a value of a type that is not on the list."""


def pickle_frame(value: Any) -> tuple[bytes, list[memoryview]]:
    """The description of a frame, a series or an index, and the memory of its columns.

    Raises:
        FrameRefused: A column holds Python objects of a type that is not on the list.
    """
    sink = io.BytesIO()
    writer = _Writer(sink)
    try:
        writer.dump(value)
    except FrameRefused:
        raise
    except Exception as exc:  # what a lock, a generator, or the `__reduce__` of a user's class raises
        raise FrameRefused(f"it holds a value that cannot be written: {type(exc).__name__}: {exc}") from exc
    return sink.getvalue(), writer.buffers


def unpickle_frame(data: bytes, buffers: Sequence[Any]) -> Any:
    """The frame, its columns over the given buffers where pandas can use them as they are.

    Raises:
        pickle.UnpicklingError: The description names something that no frame is made of.
    """
    import pandas as pd

    left = iter(buffers)
    found = _Reader(io.BytesIO(data), left).load()
    if not isinstance(found, (pd.DataFrame, pd.Series, pd.Index)):
        raise pickle.UnpicklingError(f"a {type(found).__name__} instead of a frame")
    if next(left, None) is not None:
        raise pickle.UnpicklingError("more columns than the frame has")
    return found


class _Writer(pickle.Pickler):
    """Writes no name that the reader would refuse, so that what was stored can be read.

    Pickle notes which buffers are read-only. Here the description is the same for both: a frame that lies over shared
    memory is recognised as what it was before.
    """

    def __init__(self, sink: io.BytesIO) -> None:
        super().__init__(sink, protocol=5, buffer_callback=self._take)
        self.buffers: list[memoryview] = []
        self._shown: dict[int, tuple[pickle.PickleBuffer, memoryview]] = {}

    def _take(self, buffer: pickle.PickleBuffer) -> None:
        _, shown = self._shown.pop(id(buffer), (None, None))
        self.buffers.append(buffer.raw() if shown is None else shown)

    def reducer_override(self, obj: Any) -> Any:
        if type(obj).__name__ in ("ndarray", "Buffer"):
            return self._as_if_writable(obj.__reduce_ex__(5))
        # Asked of everything that pickle itself does not know how to write, classes and functions among them; all
        # others are written as a call of one of these.
        named = isinstance(obj, type) or hasattr(obj, "__qualname__")
        # A method of a type, as time zones are made by, is written as `getattr` and that type.
        if named and obj.__module__ is not None and not _is_listed(obj.__module__, obj.__qualname__):
            raise FrameRefused(f"it holds a value of type '{obj.__module__}.{obj.__qualname__}'; convert that column")
        return NotImplemented

    def _as_if_writable(self, reduced: Any) -> Any:
        """The same with something writable in place of a read-only buffer, which is what `_take` puts in its place."""
        buffer = reduced[1][0] if len(reduced) == 2 and reduced[1] else None
        if type(buffer) is not pickle.PickleBuffer or not (shown := buffer.raw()).readonly:
            return reduced
        stand_in = pickle.PickleBuffer(bytearray(1))
        self._shown[id(stand_in)] = stand_in, shown
        return reduced[0], (stand_in, *reduced[1][1:])


class _Reader(pickle._Unpickler):
    """Reads frames only. In Python, as the faster reader cannot be told what may be filled with what."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]

    def __init__(self, source: io.BytesIO, buffers: Iterator[Any]) -> None:
        super().__init__(source, buffers=buffers)
        self._named: list[Any] = []

    def find_class(self, module: str, name: str) -> Any:
        if not _is_listed(module, name):
            raise pickle.UnpicklingError(f"'{module}.{name}' is not on the list of what a frame is made of")
        found = _STAND_INS.get(name) or super().find_class(module, name)
        self._named.append(found)
        return found

    def load_build(self) -> None:
        inst, state = self.stack[-2:]
        if any(inst is named for named in self._named):
            raise pickle.UnpicklingError("a change of what is no part of a frame")
        numpy = sys.modules["numpy"]
        if isinstance(inst, numpy.dtype):
            _check_dtype(inst, state)
        elif isinstance(inst, numpy.ndarray):
            _check_array(state)
        _BUILD(self)

    dispatch[pickle.BUILD[0]] = load_build


_BUILD: Callable[..., None] = pickle._Unpickler.dispatch[pickle.BUILD[0]]


def _is_listed(module: str, name: str) -> bool:
    listed = _NAMES.get(module.partition(".")[0])
    return listed is not None and bool(listed[0].fullmatch(module)) and bool(listed[1].fullmatch(name))


def _check_dtype(dtype: Any, state: Any) -> None:
    """Lets the byte order and the unit of dates through, and nothing by which bytes would be taken for pointers."""
    version, order, *inner, itemsize, alignment, flags = state[:8]
    sizes_agree = itemsize in (-1, dtype.itemsize) and alignment in (-1, dtype.alignment)
    if inner != [None, None, None] or not sizes_agree or flags != dtype.flags or order not in ("<", ">", "|", "="):
        raise pickle.UnpicklingError("a dtype that no column has")
    if dtype.kind in "mM":
        # numpy reads further than a state without a unit goes.
        [(metadata, unit)] = state[8:]
        if version != 4 or metadata or not (type(unit) is tuple and unit[0] in _UNITS and unit[1:] == (unit[1], 1, 1)):
            raise pickle.UnpicklingError("a dtype without a unit")
    elif version != 3 or len(state) != 8:
        raise pickle.UnpicklingError("a dtype that no column has")


def _check_array(state: Any) -> None:
    """Lets an array be filled that has as many objects as its shape says: numpy reads on behind the end of a list."""
    _, shape, dtype, _, content = state
    if dtype.hasobject and not (type(content) is list and len(content) == prod(shape)):
        raise pickle.UnpicklingError("an array with fewer objects than its shape says")


_UNITS = (b"generic", b"Y", b"M", b"W", b"D", b"h", b"m", b"s", b"ms", b"us", b"ns", b"ps", b"fs", b"as")


def _attribute(owner: Any, name: str) -> Any:
    """Stands for `getattr`, by which time zones are pickled, and knows nothing but these."""
    zones = sys.modules.get("zoneinfo")
    if zones is None or owner is not zones.ZoneInfo or name not in ("_unpickle", "no_cache"):
        raise pickle.UnpicklingError("an attribute that no frame is made of")
    return getattr(owner, name)


def _empty_array(kind: Any, shape: Any, code: Any) -> Any:
    """Stands for the function of numpy that makes the array which is filled afterwards."""
    return sys.modules["numpy"].empty(0, "i1")


def _arrow_array(parts: Any) -> Any:
    """Stands for the function of Arrow that takes lengths and buffers as they come."""
    array = sys.modules["pyarrow"].lib._restore_array(parts)
    array.validate()
    return array


_STAND_INS: dict[str, Any] = {
    "getattr": _attribute,
    "_reconstruct": _empty_array,
    "ndarray": object(),  # only ever named; a call could lay objects over any bytes
    "_restore_array": _arrow_array,
}


def _listed(modules: str, names: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    return re.compile(modules), re.compile(names)


_NAMES = {
    "builtins": _listed("builtins", "slice|set|frozenset|bytearray|complex|range|getattr"),
    "collections": _listed("collections", "OrderedDict|deque"),
    "datetime": _listed("datetime", "date|datetime|time|timedelta|timezone"),
    "decimal": _listed("decimal", "Decimal"),
    "uuid": _listed("uuid", "UUID|SafeUUID"),
    "zoneinfo": _listed("zoneinfo", "ZoneInfo"),
    "pytz": _listed("pytz", "_p|_UTC"),
    "dateutil": _listed(r"dateutil\.relativedelta", "relativedelta"),
    "numpy": _listed(
        r"numpy(\.(_core|core)\.(multiarray|numeric))?",
        "dtype|ndarray|_reconstruct|scalar|_frombuffer",
    ),
    "pandas": _listed(
        r"pandas(\.arrays|\._libs\.\w+(\.\w+)?|\.core\.(frame|series|(arrays|indexes|internals|dtypes)(\.\w+)*))?",
        "DataFrame|Series|Categorical|NA|NaT|Timestamp|Timedelta|Period|Interval|NAType|NaTType|C?NaT"
        r"|[A-Z]\w*Dtype|[A-Z]\w*Array|([A-Z]\w*)?Index|(Single)?BlockManager|IntIndex|BlockIndex|FrozenList"
        r"|_new_\w*Index|_unpickle_block|__pyx_unpickle_(NDArrayBacked|IntervalMixin|\w*Index)"
        "|(__)?_?nat_unpickle|_timedelta_unpickle|_unpickle_timestamp|_period_unpickle|_unpickle_period"
        r"|Day|Hour|Minute|Second|Milli|Micro|Nano|[A-Z]\w*(Begin|End|Day|Hour)|Week|(Last)?WeekOfMonth|FY5253(Quarter)?"
        "|DateOffset|Easter",
    ),
    "pyarrow": _listed(
        r"pyarrow(\.lib)?",
        r"_restore_array|py_buffer|type_for_alias|field|schema|(large_)?list_(view)?|large_list|struct|map_|dictionary"
        r"|null|bool_|u?int(8|16|32|64)|float(16|32|64)|(large_)?(string|binary|utf8)(_view)?|date(32|64)"
        r"|time(32|64)|timestamp|duration|decimal(32|64|128|256)",
    ),
}
"""By library, the modules and names that descriptions of frames use; the tests write every kind of column with it."""
