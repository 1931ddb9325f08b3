"""From annotations to shapes: what a field declares is read once, with everything inside of it.

Metadata is passed over: constraints and validators did their work before a value is stored. What is not understood is
`ANYTHING`, which takes plain values only. Called by `binding`.
"""

import builtins
import collections
import collections.abc
import dataclasses
import enum
import sys
import typing
from collections import OrderedDict, deque
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from types import SimpleNamespace, UnionType
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import typing_extensions
from pydantic import BaseModel, SecretBytes, SecretStr, TypeAdapter
from pydantic.errors import PydanticUserError

from chainweaver.objects.shapes import (
    ANYTHING,
    DataclassShape,
    EnumShape,
    FieldsShape,
    ForeignShape,
    ItemsShape,
    MappingShape,
    ModelShape,
    NamedTupleShape,
    ObjectShape,
    OptionalShape,
    PlainShape,
    SecretShape,
    Shape,
    TupleShape,
    TypedDictShape,
    UnionShape,
)

_SCALARS: dict[Any, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (float, int),
    complex: (complex, float, int),
    **{kind: (kind,) for kind in (str, bytes, bytearray, Decimal, UUID, datetime, date, time, timedelta)},
}

_SEQUENCES = (
    list,
    set,
    frozenset,
    deque,
    collections.abc.Sequence,
    collections.abc.MutableSequence,
    collections.abc.Set,
    collections.abc.MutableSet,
    collections.abc.Collection,
    collections.abc.Iterable,
)
_DICTS = (dict, OrderedDict, collections.abc.Mapping, collections.abc.MutableMapping)


def field_shapes(model: type[BaseModel]) -> dict[str, Shape]:
    """The shape of every field and computed field of a model, by name."""
    reader = _Reader(model)
    shapes = {name: reader.shape(field.annotation) for name, field in model.model_fields.items()}
    for name, computed in model.model_computed_fields.items():
        shapes[name] = reader.shape(computed.return_type)
    return shapes


class _Reader:
    """Reads annotations; remembers the classes it has seen, since a class may contain itself."""

    def __init__(self, owner: type) -> None:
        self._known: dict[Any, Shape] = {}
        self._owner = owner  # whose annotations are read: its module knows the names in them

    def shape(self, annotation: Any) -> Shape:
        """The shape of one annotation, resolved or, deep inside of a `list["Tree"]` on Python 3.10, a name."""
        if isinstance(annotation, str):
            annotation = _resolve(annotation, self._owner)
        annotation = _bare(annotation)
        kinds = _SCALARS.get(annotation) if isinstance(annotation, type) else None
        if kinds is not None:
            return PlainShape(annotation.__qualname__, kinds)
        if annotation is None or annotation is type(None):
            return PlainShape("None", (type(None),))
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if origin in (typing.Union, UnionType):
            return self._union(annotation, args)
        if origin is typing.Literal or origin is typing_extensions.Literal:
            return self._literal(annotation, args)
        if origin is tuple or annotation is tuple:
            return self._tuple(annotation, args)
        if (origin or annotation) in _SEQUENCES:
            return self._items(annotation, origin or annotation, args)
        if (origin or annotation) in _DICTS:
            return self._mapping(annotation, args)
        return self._class(annotation)

    def _union(self, annotation: Any, args: tuple[Any, ...]) -> Shape:
        members = tuple(self.shape(arg) for arg in args if arg is not type(None))
        if not any(member.is_typed for member in members):
            return Shape(_name(annotation))
        if len(members) == 1:
            return OptionalShape(members[0])
        return UnionShape(_name(annotation), members)

    def _literal(self, annotation: Any, args: tuple[Any, ...]) -> Shape:
        enums = {type(arg) for arg in args if isinstance(arg, enum.Enum)}
        if not enums:
            return PlainShape(_name(annotation), tuple({type(arg) for arg in args}))
        members: list[Shape] = [EnumShape(kind) for kind in sorted(enums, key=lambda kind: kind.__qualname__)]
        plain = tuple({type(arg) for arg in args if not isinstance(arg, enum.Enum)})
        if plain:
            members.append(PlainShape(_name(annotation), plain))
        return members[0] if len(members) == 1 else UnionShape(_name(annotation), tuple(members))

    def _tuple(self, annotation: Any, args: tuple[Any, ...]) -> Shape:
        name = _name(annotation)
        if len(args) == 2 and args[1] is Ellipsis:
            return self._items(annotation, tuple, args[:1])
        places = tuple(self.shape(arg) for arg in args)
        return TupleShape(name, places) if any(place.is_typed for place in places) else PlainShape(name, (tuple,))

    def _items(self, annotation: Any, origin: Any, args: tuple[Any, ...]) -> Shape:
        item = self.shape(args[0]) if args else ANYTHING
        if item.is_typed:
            return ItemsShape(_name(annotation), item)
        return PlainShape(_name(annotation), (origin,))

    def _mapping(self, annotation: Any, args: tuple[Any, ...]) -> Shape:
        key, item = (self.shape(args[0]), self.shape(args[1])) if len(args) == 2 else (ANYTHING, ANYTHING)
        if key.is_typed or item.is_typed:
            return MappingShape(_name(annotation), key, item)
        return PlainShape(_name(annotation), (collections.abc.Mapping,))

    def _class(self, kind: Any) -> Shape:
        if kind is Any or kind is object:
            return ANYTHING
        if not isinstance(kind, type):
            # Generic dataclasses and typed dicts keep their arguments in an alias; the fields are those of the class.
            origin = typing.get_origin(kind)
            return self._class(origin) if isinstance(origin, type) else ANYTHING
        known = self._known.get(kind)
        if known is not None:
            return known
        if issubclass(kind, (SecretStr, SecretBytes)):
            return SecretShape(kind.__qualname__)
        if issubclass(kind, PurePath):
            return PlainShape(kind.__qualname__, (kind,))
        if issubclass(kind, enum.Enum):
            return EnumShape(kind)
        fields = _fields_of(kind)
        if fields is None:
            return _foreign(kind)
        if fields.make is DataclassShape and _holds_more_than_fields(kind):
            return ANYTHING
        shape = self._known[kind] = fields.make(kind)
        outer, self._owner = self._owner, kind
        shape.shapes.update({name: self.shape(annotation) for name, annotation in fields.annotations.items()})
        self._owner = outer
        return shape


class _ClassFields(NamedTuple):
    make: type[FieldsShape]
    annotations: dict[str, Any]


def _fields_of(kind: type) -> _ClassFields | None:
    """How objects of a class are put together, and what its fields are declared as; None: it is not made of fields."""
    if issubclass(kind, BaseModel):
        return _ClassFields(ModelShape, {name: field.annotation for name, field in kind.model_fields.items()})
    if dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        return _ClassFields(DataclassShape, {f.name: hints.get(f.name, Any) for f in dataclasses.fields(kind)})
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        hints = _hints(kind)
        return _ClassFields(NamedTupleShape, {name: hints.get(name, Any) for name in kind._fields})
    if typing_extensions.is_typeddict(kind):
        return _ClassFields(TypedDictShape, _hints(kind))
    return None


def _holds_more_than_fields(kind: type) -> bool:
    # A dataclass on top of `str` or `dict` keeps content where no field shows it. Flag 9: made by Python code.
    return any(not base.__flags__ & (1 << 9) for base in kind.__mro__[:-1])


def _foreign(kind: type) -> Shape:
    """The shape of a class that is not made of fields: what pydantic makes of it, if anything."""
    if issubclass(kind, collections.defaultdict):
        return ANYTHING  # equal to a dict whatever its factory is, so that a changed one would go unnoticed
    try:
        return ForeignShape(kind, TypeAdapter(kind))
    except PydanticUserError:
        return ObjectShape(kind)  # unknown to pydantic: values get through only if the store can keep them


def _hints(kind: type) -> dict[str, Any]:
    try:
        return typing_extensions.get_type_hints(kind)
    except Exception:  # whatever a forward reference of the user raises: the fields then hold plain values only
        return {}


def _resolve(name: str, owner: type) -> Any:
    """What a name in the annotations of a class means; Any where its module does not tell."""
    known = {**vars(sys.modules.get(owner.__module__, builtins)), owner.__name__: owner}
    try:
        return typing.get_type_hints(SimpleNamespace(__annotations__={"it": name}), known)["it"]
    except Exception:  # whatever a forward reference of the user raises
        return Any


_WRAPPERS = (typing_extensions.Required, typing_extensions.NotRequired, typing_extensions.ReadOnly)


def _bare(annotation: Any) -> Any:
    """The annotation without what only validators and type checkers look at."""
    while True:
        origin = typing.get_origin(annotation)
        if origin in (typing.Annotated, typing.Final, typing.ClassVar, *_WRAPPERS):
            annotation = typing.get_args(annotation)[0]
        elif isinstance(annotation, typing_extensions.TypeAliasType) or hasattr(origin, "__value__"):
            annotation = (origin or annotation).__value__
        elif isinstance(annotation, TypeVar):
            annotation = annotation.__bound__ or Any
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        else:
            return annotation


def _name(annotation: Any) -> str:
    return str(annotation).replace("typing.", "")
