"""What a pointer or a template reference reaches inside a declared type.

`readers.descend` walks through values when a flow runs; this file walks through their types when it is compiled, so
that a mistyped field of a model is found beforehand and what is found has a type. What nobody has declared is Any.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from typing_extensions import is_typeddict

from chainweaver.compiler.core_schemas import gives_stream
from chainweaver.compiler.model_traits import annotation_of
from chainweaver.compiler.readers import index_of
from chainweaver.compiler.types import FieldOf

_UNIONS = (Union, types.UnionType)
_WITHOUT_PARTS = (bool, int, float, complex, str, bytes, types.NoneType)
_LISTS = (list, Sequence, MutableSequence)
_MAPPINGS = (dict, Mapping, MutableMapping)


class DeadEnd(NamedTuple):
    """Where a path ends too early.

    Attributes:
        token: The token that leads nowhere.
        names: The names that there are at that place.
    """

    token: str
    names: tuple[str, ...]


class _NoPart(NamedTuple):
    """What is found where a value has no part of that name: the names of those that it has."""

    names: tuple[str, ...] = ()


def follow(kinds: Sequence[Any], tokens: Sequence[str]) -> list[Any] | DeadEnd:
    """The types that a path may reach from values of these types, or where it ends for all of them."""
    reached = [choice for kind in kinds for choice in _choices(kind)]
    for token in tokens:
        found = [_inside(kind, token) for kind in reached]
        ends = [one for one in found if isinstance(one, _NoPart)]
        if len(ends) == len(found):
            return DeadEnd(token, tuple(dict.fromkeys(name for end in ends for name in end.names)))
        reached = [choice for one in found if not isinstance(one, _NoPart) for choice in _choices(one)]
    return reached


def _choices(kind: Any) -> list[Any]:
    """The members of a union; the type itself when it is none."""
    annotation = annotation_of(kind)
    if get_origin(annotation) in _UNIONS:
        return [choice for member in get_args(annotation) for choice in _choices(member)]
    return [kind]


def _inside(kind: Any, token: str) -> Any | _NoPart:
    """The type of one part of a value, Any when it is not declared."""
    annotation = annotation_of(kind)
    cls = get_origin(annotation) or annotation
    if cls in _LISTS:
        return _item(get_args(annotation), token)
    if cls is tuple:
        return _place(get_args(annotation), token)
    if cls in _MAPPINGS:
        return (get_args(annotation) or (Any, Any))[1]
    if cls in _WITHOUT_PARTS:
        return _NoPart()
    if gives_stream(annotation):
        return _NoPart()
    fields = _fields(cls)
    if fields is None:
        return Any
    return fields[token] if token in fields else _NoPart(tuple(fields))


def _item(args: tuple[Any, ...], token: str) -> Any | _NoPart:
    if index_of(token) is None:
        return _NoPart()
    return args[0] if args else Any


def _place(args: tuple[Any, ...], token: str) -> Any | _NoPart:
    index = index_of(token)
    if index is None:
        return _NoPart()
    if not args or args[-1] is Ellipsis:
        return args[0] if args else Any
    return args[index] if index < len(args) else _NoPart()


def _fields(cls: Any) -> dict[str, Any] | None:
    """Name -> type for classes that declare their parts and have no others."""
    if not isinstance(cls, type):
        return None
    if issubclass(cls, BaseModel):
        if cls.model_config.get("extra") == "allow":
            return None
        return {name: FieldOf(cls, name) for name in (*cls.model_fields, *cls.model_computed_fields)}
    if is_typeddict(cls) or dataclasses.is_dataclass(cls):
        return _hints(cls)
    return None


def _hints(cls: Any) -> dict[str, Any]:
    try:
        return get_type_hints(cls)
    except Exception:
        # Names that cannot be resolved any more: the parts are known, their types are not.
        parts = (
            cls.__dataclass_fields__ if dataclasses.is_dataclass(cls) else cls.__required_keys__ | cls.__optional_keys__
        )
        return dict.fromkeys(sorted(parts), Any)
