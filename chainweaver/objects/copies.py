"""Copies that share nothing mutable with what they were made from.

A store keeps one copy and hands out others, so that nobody can change what is stored. Outputs that hold immutable
scalars only need no more than a new dict; everything else is copied in depth, and what cannot be copied is refused.
Tables of Arrow cannot be changed and are handed out as they are; those of polars share their memory until one is.

Called by the in-memory stores and by the single-flight table, on the path of every step that uses them.
"""

import copy
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from chainweaver.objects.codecs import codec_for

ATOMS = frozenset(
    {type(None), bool, int, float, str, bytes, complex, Decimal, UUID, date, datetime, time, timedelta, timezone, type}
)
"""Exact types whose values cannot change and hold nothing that can; a tzinfo is immutable by contract."""


class UncopyableError(Exception):
    """A value has no independent copy.

    Attributes:
        key: The key of the mapping under which the value was found.
        type_name: Name of the type of that value.
        reason: Why copying failed, without the final period.

    >>> print(UncopyableError("file", "TextIOWrapper", "cannot pickle"))
    value 'file' of type 'TextIOWrapper' cannot be copied: cannot pickle
    """

    def __init__(self, key: str, type_name: str, reason: str) -> None:
        super().__init__(key, type_name, reason)
        self.key = key
        self.type_name = type_name
        self.reason = reason

    def __str__(self) -> str:
        return f"value {self.key!r} of type {self.type_name!r} cannot be copied: {self.reason}"


def holds_atoms_only(values: Mapping[str, Any]) -> bool:
    """Whether a new dict with the same values shares nothing mutable with this one.

    >>> holds_atoms_only({"count": 1}), holds_atoms_only({"rows": []})
    (True, False)
    """
    return ATOMS.issuperset(map(type, values.values()))


def independent_copy(values: Mapping[str, Any]) -> dict[str, Any]:
    """A dict equal to the given one that shares nothing mutable with it.

    Objects that appear twice in the values appear twice in the copy as well; cycles are kept. Objects other than the
    built-in containers, frames, tables and tensors are copied by `copy.deepcopy`, which honours their own
    `__deepcopy__`.

    Raises:
        UncopyableError: A value refuses to be copied, or is nested too deeply.

    >>> rows = [1, 2]
    >>> independent_copy({"rows": rows})["rows"] is rows
    False
    """
    if ATOMS.issuperset(map(type, values.values())):
        return dict(values)
    memo: dict[int, Any] = {}
    copied = {}
    for key, value in values.items():
        try:
            copied[key] = value if type(value) in ATOMS else _copy(value, memo)
        except RecursionError:
            raise UncopyableError(key, type(value).__qualname__, "it is nested too deeply") from None
        except Exception as exc:
            raise UncopyableError(key, type(value).__qualname__, f"{type(exc).__name__}: {exc}") from exc
    return copied


def _copy(value: Any, memo: dict[int, Any]) -> Any:
    # The exact built-in containers are walked here: copy.deepcopy takes 5 times as long for a list of small dicts.
    kind = type(value)
    if kind is not list and kind is not dict:
        if kind is tuple:
            return _copy_tuple(value, memo)
        return _COPIERS.get(kind.__module__.partition(".")[0], _copy_other)(value, memo)
    known = memo.get(id(value))
    if known is not None:
        return known
    twin: Any
    if kind is list:
        twin = memo[id(value)] = []
        for item in value:
            twin.append(item if type(item) in ATOMS else _copy(item, memo))
    else:
        twin = memo[id(value)] = {}
        for key, item in value.items():
            new_key = key if type(key) in ATOMS else _copy(key, memo)
            twin[new_key] = item if type(item) in ATOMS else _copy(item, memo)
    return twin


def _copy_tuple(value: tuple[Any, ...], memo: dict[int, Any]) -> Any:
    known = memo.get(id(value))
    if known is not None:
        return known
    items = tuple([item if type(item) in ATOMS else _copy(item, memo) for item in value])
    # A tuple inside of itself was copied on the way.
    return memo.setdefault(id(value), items)


def _copy_other(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    under_way: set[int] = memo.setdefault(_UNDER_WAY, set())
    if _is_made_of_its_fields(kind) and id(value) not in under_way:
        # What lies in its fields is copied here, and found again by copy.deepcopy in what was copied so far.
        under_way.add(id(value))
        for part in vars(value).values():
            if type(part) not in ATOMS:
                _copy(part, memo)
    return copy.deepcopy(value, memo)


_UNDER_WAY = -1  # no id of an object


def _is_made_of_its_fields(kind: type) -> bool:
    """Whether a copy of an object is that of all of its fields, and nobody has said otherwise."""
    if issubclass(kind, BaseModel):
        return kind.__deepcopy__ is BaseModel.__deepcopy__
    if not hasattr(kind, "__dataclass_fields__") or "__slots__" in vars(kind):
        return False
    return not any(name in vars(base) for base in kind.__mro__[:-1] for name in _SAID)


_SAID = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__")


def _copy_object(value: Any, memo: dict[int, Any]) -> Any:
    """An object of a library that there are codecs for; all others of the library, subclasses too, as they say."""
    codec = codec_for(value)
    copier = None if codec is None else _BY_CODEC.get(codec.name)
    if copier is None:
        return copy.deepcopy(value, memo)
    known = memo.get(id(value))
    if known is None:
        known = memo[id(value)] = copier(value, memo)
    return known


def _copy_frame(value: Any, memo: dict[int, Any]) -> Any:
    # What pandas calls a deep copy shares the Python objects in its cells.
    copied = value.copy(deep=True)
    if value.ndim == 2:
        for place, dtype in enumerate(value.dtypes):
            if str(dtype) == "object":
                copied.isetitem(place, _copy_cells(value.iloc[:, place], memo))
    elif str(value.dtype) == "object" and hasattr(value, "index"):
        copied = _copy_cells(value, memo).__finalize__(copied)
    return copied


def _copy_cells(column: Any, memo: dict[int, Any]) -> Any:
    cells = column.to_numpy(copy=True)
    if not ATOMS.issuperset(map(type, cells)):
        cells = copy.deepcopy(cells, memo)
    return type(column)(cells, index=column.index, name=column.name, dtype=object, copy=False)


def _copy_polars(value: Any, memo: dict[int, Any]) -> Any:
    dtypes = [value.dtype] if type(value).__name__ == "Series" else value.dtypes
    if any(str(dtype) == "Object" for dtype in dtypes):
        raise TypeError("a column holds Python objects, which its copies would share")
    return value.clone()


def _copy_tensor(value: Any, memo: dict[int, Any]) -> Any:
    if value.grad_fn is not None or value.grad is not None or vars(value):
        return copy.deepcopy(value, memo)  # which refuses what belongs to a graph
    # A deep copy of a part would copy all that it is a part of.
    return value.detach().clone().requires_grad_(value.requires_grad)


_BY_CODEC: dict[str, Callable[[Any, dict[int, Any]], Any]] = {
    "pandas": _copy_frame,
    "pyarrow": lambda value, memo: value,
    "polars": _copy_polars,
    "torch.Tensor": _copy_tensor,
}

_COPIERS: dict[str, Callable[[Any, dict[int, Any]], Any]] = dict.fromkeys(
    ("pandas", "pyarrow", "polars", "torch"), _copy_object
)
