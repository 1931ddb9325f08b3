"""How values of declared types become plain values, and how they come back.

A shape is read from an annotation once. It reduces a model, dataclass, named tuple, enum member or a container of them
to plain values, and restores them from the annotation alone: stored bytes never name a type. Restored objects are put
together field by field; constructors and validators of users do not run a second time. The one exception are types
that only pydantic knows (`_Foreign`), and their own validators are not the user's.

Called by the executor once per tool, for stores that want plain values.
"""

import collections.abc
import dataclasses
import enum
import typing
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from types import UnionType
from typing import Any, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

import typing_extensions
from pydantic import BaseModel, SecretBytes, SecretStr, TypeAdapter
from pydantic.errors import PydanticUserError

from chainweaver.objects.plain import Member, PlainEncodeError

Convert: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]


class RestoreError(ValueError):
    """A stored value does not have the shape that the flow declares.

    Attributes:
        key: The field, with the way to the value inside of it where there is one.
        expected: What the annotation asks for.
        found: Name of the type that was found.

    >>> print(RestoreError("total", "int", "str"))
    stored value 'total' should be of type 'int' and is of type 'str'
    """

    def __init__(self, key: str, expected: str, found: str) -> None:
        super().__init__(key, expected, found)
        self.key = key
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return f"stored value {self.key!r} should be of type {self.expected!r} and is of type {self.found!r}"


def bind_reduce(output_model: type[BaseModel]) -> Convert:
    """A function that makes the outputs of a model plain, for stores that write bytes.

    It takes the live values of the fields by name and returns a new dict; plain values are passed on as they are.
    The function raises `PlainEncodeError`, with the key, for a secret, for an object whose type the annotation does
    not name (it could not be restored), and for values that are not of the declared type.

    >>> class Point(BaseModel):
    ...     x: int
    >>> class Found(BaseModel):
    ...     at: Point
    ...     label: str
    >>> bind_reduce(Found)({"at": Point(x=1), "label": "a"})
    {'at': {'x': 1}, 'label': 'a'}
    """
    shapes = _field_shapes(output_model)

    def reduce(values: dict[str, Any]) -> dict[str, Any]:
        reduced = {}
        for key, value in values.items():
            shape = shapes.get(key, _ANYTHING)
            try:
                reduced[key] = shape.reduce(value)
            except _Mismatch as mismatch:
                raise PlainEncodeError(key, mismatch.found, mismatch.reason) from None
            except RecursionError:
                raise PlainEncodeError(key, type(value).__qualname__, "it is nested too deeply") from None
        return reduced

    return reduce


def bind_restore(output_model: type[BaseModel]) -> Convert:
    """A function that gives the values which `bind_reduce` made plain their declared types back.

    Live values of the declared types pass untouched, so that the function also serves stores that keep objects.
    No validator, constructor or `__post_init__` of the user runs. The function raises `RestoreError` for values that
    cannot come from the declared types.

    >>> class Point(BaseModel):
    ...     x: int
    >>> class Found(BaseModel):
    ...     at: Point
    ...     label: str
    >>> bind_restore(Found)({"at": {"x": 1}, "label": "a"})
    {'at': Point(x=1), 'label': 'a'}
    """
    shapes = _field_shapes(output_model)

    def restore(values: dict[str, Any]) -> dict[str, Any]:
        restored = {}
        for key, value in values.items():
            shape = shapes.get(key, _ANYTHING)
            try:
                restored[key] = shape.restore(value)
            except _Mismatch as mismatch:
                raise RestoreError(key, mismatch.expected, mismatch.found) from mismatch
            except RecursionError:
                raise RestoreError(key, shape.name, "a value nested too deeply") from None
        return restored

    return restore


def secret_fields(output_model: type[BaseModel]) -> tuple[str, ...]:
    """The fields whose declared type holds a secret, which only a store with a cipher may take.

    >>> class Login(BaseModel):
    ...     user: str
    ...     password: SecretStr
    >>> secret_fields(Login)
    ('password',)
    """
    return tuple(name for name, shape in _field_shapes(output_model).items() if shape.holds_secret(set()))


class _Mismatch(Exception):
    def __init__(self, expected: str, value: Any, reason: str | None = None) -> None:
        self.expected = expected
        self.found = type(value).__qualname__
        self.reason = reason or f"the field declares '{expected}'"


class _Shape:
    """What is known of the values of one annotation. This one: nothing, any plain value will do."""

    __slots__ = ("name",)

    is_typed = False
    """Whether values change when they are reduced or restored. False: they only get a look at their type."""

    def __init__(self, name: str) -> None:
        self.name = name

    def fits(self, value: Any) -> bool:
        """Whether a live value belongs here rather than to another member of a union."""
        return True

    def reduce(self, value: Any) -> Any:
        """Plain content of a live value."""
        return value

    def restore(self, value: Any) -> Any:
        """The live value of plain content. A live value is returned as it is."""
        return value

    def parts(self) -> "tuple[_Shape, ...]":
        """The shapes inside this one."""
        return ()

    def holds_secret(self, seen: set[int]) -> bool:
        """Whether a secret is declared here or further inside."""
        if id(self) in seen:
            return False
        seen.add(id(self))
        return any(part.holds_secret(seen) for part in self.parts())


_ANYTHING = _Shape("Any")


class _Plain(_Shape):
    """Values of plain types, told by `isinstance` at the surface."""

    __slots__ = ("kinds",)

    def __init__(self, name: str, kinds: tuple[type, ...]) -> None:
        super().__init__(name)
        self.kinds = kinds

    def fits(self, value: Any) -> bool:
        return isinstance(value, self.kinds)

    def reduce(self, value: Any) -> Any:
        if isinstance(value, self.kinds) or value is None:
            return value
        raise _Mismatch(self.name, value)

    restore = reduce


class _Secret(_Shape):
    __slots__ = ()
    is_typed = True

    def fits(self, value: Any) -> bool:
        return isinstance(value, (SecretStr, SecretBytes))

    def reduce(self, value: Any) -> Any:
        raise _Mismatch(self.name, value, "secrets are not written to a store without a cipher")

    def restore(self, value: Any) -> Any:
        if self.fits(value):
            return value
        raise _Mismatch(self.name, value)

    def holds_secret(self, seen: set[int]) -> bool:
        return True


class _Exact(_Shape):
    """Objects of one class. Instances of subclasses are refused: they would come back as something else."""

    __slots__ = ("kind",)
    is_typed = True

    def __init__(self, kind: type) -> None:
        super().__init__(kind.__qualname__)
        self.kind = kind

    def fits(self, value: Any) -> bool:
        return type(value) is self.kind

    def _check(self, value: Any) -> None:
        if type(value) is self.kind:
            return
        if isinstance(value, self.kind):
            reason = f"the field declares '{self.name}' and would restore that; declare the union of the types instead"
            raise _Mismatch(self.name, value, reason)
        raise _Mismatch(self.name, value)


class _EnumMember(_Exact):
    """By name; flags, whose combinations have none, by their number."""

    __slots__ = ()

    def fits(self, value: Any) -> bool:
        return isinstance(value, self.kind)

    def reduce(self, value: Any) -> Any:
        if not isinstance(value, self.kind):
            raise _Mismatch(self.name, value)
        return int(value.value) if isinstance(value, enum.Flag) else getattr(value, "name")  # noqa: B009 - untyped

    def restore(self, value: Any) -> Any:
        if isinstance(value, self.kind):
            return value
        try:
            if issubclass(self.kind, enum.Flag) and type(value) is int:
                return self.kind(value)
            if type(value) is str:
                return typing.cast(type[enum.Enum], self.kind)[value]
        except (KeyError, ValueError):
            pass  # no such member any more
        raise _Mismatch(self.name, value)


class _Fields(_Exact):
    """Objects made of named fields; the reduced form is a dict of them."""

    __slots__ = ("shapes",)

    def __init__(self, kind: type) -> None:
        super().__init__(kind)
        # Filled after the shape is known under its type: a type may contain itself.
        self.shapes: dict[str, _Shape] = {}

    def parts(self) -> tuple[_Shape, ...]:
        return tuple(self.shapes.values())

    def _reduce_fields(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: shape.reduce(values[name]) for name, shape in self.shapes.items() if name in values}

    def _restore_fields(self, content: Any) -> dict[str, Any]:
        if type(content) is not dict or not self.shapes.keys() >= content.keys():
            raise _Mismatch(self.name, content)
        return {name: self.shapes[name].restore(value) for name, value in content.items()}


class _Model(_Fields):
    """A pydantic model: a dict of its fields; with extras, private attributes or unset fields a tuple of all four."""

    __slots__ = ()

    def reduce(self, value: Any) -> Any:
        self._check(value)
        content = self._reduce_fields(value.__dict__)
        extra, private = value.__pydantic_extra__, value.__pydantic_private__
        unset = self.shapes.keys() - value.__pydantic_fields_set__
        if not (extra or private or unset):
            return content
        return (content, sorted(value.__pydantic_fields_set__), extra, private)

    def restore(self, value: Any) -> Any:
        if isinstance(value, self.kind):
            return value
        if type(value) is tuple and len(value) == 4:
            content, fields_set, extra, private = value
        else:
            content, fields_set, extra, private = value, value, None, None
        fields = self._restore_fields(content)
        kind = typing.cast(type[BaseModel], self.kind)
        model = kind.__new__(kind)
        if extra is None and kind.model_config.get("extra") == "allow":
            extra = {}
        object.__setattr__(model, "__dict__", fields)
        object.__setattr__(model, "__pydantic_fields_set__", set(fields_set))
        object.__setattr__(model, "__pydantic_extra__", extra)
        object.__setattr__(model, "__pydantic_private__", private)
        return model


class _Dataclass(_Fields):
    __slots__ = ()

    def reduce(self, value: Any) -> Any:
        self._check(value)
        stray = [name for name in getattr(value, "__dict__", ()) if name not in self.shapes and name[:2] != "__"]
        if stray:
            raise _Mismatch(self.name, value, f"its attribute '{stray[0]}' is not a field and would be lost")
        return {name: shape.reduce(getattr(value, name)) for name, shape in self.shapes.items() if hasattr(value, name)}

    def restore(self, value: Any) -> Any:
        if isinstance(value, self.kind):
            return value
        fields = self._restore_fields(value)
        restored = self.kind.__new__(self.kind)
        for name, field in fields.items():
            object.__setattr__(restored, name, field)
        return restored


class _NamedTuple(_Fields):
    __slots__ = ()

    def reduce(self, value: Any) -> Any:
        self._check(value)
        return tuple(shape.reduce(item) for shape, item in zip(self.shapes.values(), value, strict=True))

    def restore(self, value: Any) -> Any:
        if isinstance(value, self.kind):
            return value
        if type(value) is not tuple or len(value) != len(self.shapes):
            raise _Mismatch(self.name, value)
        items = [shape.restore(item) for shape, item in zip(self.shapes.values(), value, strict=True)]
        return tuple.__new__(self.kind, items)


class _TypedDict(_Fields):
    """A dict with known keys. It stays a dict; only the values change. Unknown keys hold any plain value."""

    __slots__ = ()

    def fits(self, value: Any) -> bool:
        required = getattr(self.kind, "__required_keys__", frozenset())
        return (
            type(value) is dict
            and required <= value.keys() <= self.shapes.keys()
            and all(self.shapes[key].fits(item) for key, item in value.items())
        )

    def reduce(self, value: Any) -> Any:
        if type(value) is not dict:
            raise _Mismatch(self.name, value)
        return {key: self.shapes.get(key, _ANYTHING).reduce(item) for key, item in value.items()}

    def restore(self, value: Any) -> Any:
        if type(value) is not dict:
            raise _Mismatch(self.name, value)
        return {key: self.shapes.get(key, _ANYTHING).restore(item) for key, item in value.items()}


class _Items(_Shape):
    """A container of one kind of item: whatever the live value is made of, list, tuple, set or deque."""

    __slots__ = ("item",)
    is_typed = True

    def __init__(self, name: str, item: _Shape) -> None:
        super().__init__(name)
        self.item = item

    def parts(self) -> tuple[_Shape, ...]:
        return (self.item,)

    def fits(self, value: Any) -> bool:
        return type(value) in _ITERABLES and all(map(self.item.fits, value))

    def reduce(self, value: Any) -> Any:
        # A set of models becomes a frozenset's worth of dicts, which cannot be hashed: sets travel as (kind, list).
        items = [self.item.reduce(item) for item in self._checked(value)]
        kind = type(value)
        if kind is set or kind is frozenset:
            return Member(0 if kind is set else 1, items)
        return _refill(value, items)

    def restore(self, value: Any) -> Any:
        if type(value) is Member:
            if type(value.content) is not list or value.position not in (0, 1):
                raise _Mismatch(self.name, value.content)
            return (set, frozenset)[value.position](self.item.restore(item) for item in value.content)
        return _refill(value, [self.item.restore(item) for item in self._checked(value)])

    def _checked(self, value: Any) -> Any:
        if type(value) in _ITERABLES:
            return value
        raise _Mismatch(self.name, value)


_ITERABLES = frozenset({list, tuple, set, frozenset, deque})


def _refill(pattern: Any, items: list[Any]) -> Any:
    kind = type(pattern)
    if kind is list:
        return items
    return deque(items, pattern.maxlen) if kind is deque else kind(items)


class _Tuple(_Shape):
    """A tuple with a shape for every place."""

    __slots__ = ("places",)
    is_typed = True

    def __init__(self, name: str, places: tuple[_Shape, ...]) -> None:
        super().__init__(name)
        self.places = places

    def parts(self) -> tuple[_Shape, ...]:
        return self.places

    def fits(self, value: Any) -> bool:
        return self._is_tuple(value) and all(s.fits(item) for s, item in zip(self.places, value, strict=True))

    def reduce(self, value: Any) -> Any:
        if not self._is_tuple(value):
            raise _Mismatch(self.name, value)
        return tuple(shape.reduce(item) for shape, item in zip(self.places, value, strict=True))

    def restore(self, value: Any) -> Any:
        if not self._is_tuple(value):
            raise _Mismatch(self.name, value)
        return tuple(shape.restore(item) for shape, item in zip(self.places, value, strict=True))

    def _is_tuple(self, value: Any) -> bool:
        return type(value) is tuple and len(value) == len(self.places)


class _Mapping(_Shape):
    """A dict or OrderedDict whose keys or values are typed."""

    __slots__ = ("item", "key")
    is_typed = True

    def __init__(self, name: str, key: _Shape, item: _Shape) -> None:
        super().__init__(name)
        self.key = key
        self.item = item

    def parts(self) -> tuple[_Shape, ...]:
        return (self.key, self.item)

    def fits(self, value: Any) -> bool:
        return type(value) in _MAPPINGS and all(map(self.key.fits, value)) and all(map(self.item.fits, value.values()))

    def reduce(self, value: Any) -> Any:
        if type(value) not in _MAPPINGS:
            raise _Mismatch(self.name, value)
        if not self.key.is_typed:
            return type(value)((key, self.item.reduce(item)) for key, item in value.items())
        # A reduced key may be a dict: keys with types travel as pairs.
        pairs = [(self.key.reduce(key), self.item.reduce(item)) for key, item in value.items()]
        return Member(_MAPPINGS.index(type(value)), pairs)

    def restore(self, value: Any) -> Any:
        if type(value) is Member and value.position in (0, 1) and type(value.content) is list:
            kind, pairs = _MAPPINGS[value.position], value.content
        elif type(value) in _MAPPINGS:
            kind, pairs = type(value), value.items()
        else:
            raise _Mismatch(self.name, value)
        return kind((self.key.restore(key), self.item.restore(item)) for key, item in pairs)


_MAPPINGS: tuple[type[dict[Any, Any]], ...] = (dict, OrderedDict)


class _Union(_Shape):
    """One of several shapes. A value of a typed member carries the position of that member."""

    __slots__ = ("members",)
    is_typed = True

    def __init__(self, name: str, members: tuple[_Shape, ...]) -> None:
        super().__init__(name)
        self.members = members

    def parts(self) -> tuple[_Shape, ...]:
        return self.members

    def fits(self, value: Any) -> bool:
        return any(member.fits(value) for member in self.members)

    def reduce(self, value: Any) -> Any:
        if value is None:
            return None
        for position, member in enumerate(self.members):
            if member.fits(value):
                return Member(position, member.reduce(value)) if member.is_typed else value
        raise _Mismatch(self.name, value)

    def restore(self, value: Any) -> Any:
        if type(value) is not Member:
            return value
        if not 0 <= value.position < len(self.members):
            raise _Mismatch(self.name, value)
        return self.members[value.position].restore(value.content)


class _Optional(_Shape):
    """One typed shape or None; needs no mark, since None is nothing else."""

    __slots__ = ("inner",)
    is_typed = True

    def __init__(self, inner: _Shape) -> None:
        super().__init__(f"{inner.name} | None")
        self.inner = inner

    def parts(self) -> tuple[_Shape, ...]:
        return (self.inner,)

    def fits(self, value: Any) -> bool:
        return value is None or self.inner.fits(value)

    def reduce(self, value: Any) -> Any:
        return None if value is None else self.inner.reduce(value)

    def restore(self, value: Any) -> Any:
        return None if value is None else self.inner.restore(value)


class _Foreign(_Shape):
    """Types that pydantic can write as JSON and read again: URLs, IP addresses, patterns, fractions...

    Every value is read again before it is written, so that one which would come back changed is refused.
    """

    __slots__ = ("adapter", "kind")
    is_typed = True

    def __init__(self, kind: type, adapter: "TypeAdapter[Any]") -> None:
        super().__init__(kind.__qualname__)
        self.kind = kind
        self.adapter = adapter

    def fits(self, value: Any) -> bool:
        return isinstance(value, self.kind)

    def reduce(self, value: Any) -> Any:
        if not isinstance(value, self.kind):
            raise _Mismatch(self.name, value)
        try:
            content = self.adapter.dump_python(value, mode="json")
            again = self.adapter.validate_python(content)
        except Exception as exc:
            raise _Mismatch(self.name, value, f"pydantic cannot write it: {type(exc).__name__}") from exc
        if type(again) is not type(value) or again != value:
            raise _Mismatch(self.name, value, "it would not come back as it is")
        return content

    def restore(self, value: Any) -> Any:
        if isinstance(value, self.kind):
            return value
        try:
            return self.adapter.validate_python(value)
        except ValueError as exc:
            raise _Mismatch(self.name, value) from exc


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


def _field_shapes(model: type[BaseModel]) -> dict[str, _Shape]:
    reader = _Reader()
    shapes = {name: reader.shape(field.annotation) for name, field in model.model_fields.items()}
    for name, computed in model.model_computed_fields.items():
        shapes[name] = reader.shape(computed.return_type)
    return shapes


class _Reader:
    """Reads annotations; remembers the classes it has seen, since a class may contain itself."""

    def __init__(self) -> None:
        self._known: dict[Any, _Shape] = {}

    def shape(self, annotation: Any) -> _Shape:
        annotation = _bare(annotation)
        kinds = _SCALARS.get(annotation) if isinstance(annotation, type) else None
        if kinds is not None:
            return _Plain(annotation.__qualname__, kinds)
        if annotation is None or annotation is type(None):
            return _Plain("None", (type(None),))
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

    def _union(self, annotation: Any, args: tuple[Any, ...]) -> _Shape:
        members = tuple(self.shape(arg) for arg in args if arg is not type(None))
        if not any(member.is_typed for member in members):
            return _Shape(_name(annotation))
        if len(members) == 1:
            return _Optional(members[0])
        return _Union(_name(annotation), members)

    def _literal(self, annotation: Any, args: tuple[Any, ...]) -> _Shape:
        enums = {type(arg) for arg in args if isinstance(arg, enum.Enum)}
        if not enums:
            return _Plain(_name(annotation), tuple({type(arg) for arg in args}))
        members: list[_Shape] = [_EnumMember(kind) for kind in sorted(enums, key=lambda kind: kind.__qualname__)]
        plain = tuple({type(arg) for arg in args if not isinstance(arg, enum.Enum)})
        if plain:
            members.append(_Plain(_name(annotation), plain))
        return members[0] if len(members) == 1 else _Union(_name(annotation), tuple(members))

    def _tuple(self, annotation: Any, args: tuple[Any, ...]) -> _Shape:
        name = _name(annotation)
        if len(args) == 2 and args[1] is Ellipsis:
            return self._items(annotation, tuple, args[:1])
        places = tuple(self.shape(arg) for arg in args)
        return _Tuple(name, places) if any(place.is_typed for place in places) else _Plain(name, (tuple,))

    def _items(self, annotation: Any, origin: Any, args: tuple[Any, ...]) -> _Shape:
        item = self.shape(args[0]) if args else _ANYTHING
        if item.is_typed:
            return _Items(_name(annotation), item)
        return _Plain(_name(annotation), (origin,))

    def _mapping(self, annotation: Any, args: tuple[Any, ...]) -> _Shape:
        key, item = (self.shape(args[0]), self.shape(args[1])) if len(args) == 2 else (_ANYTHING, _ANYTHING)
        if key.is_typed or item.is_typed:
            return _Mapping(_name(annotation), key, item)
        return _Plain(_name(annotation), (collections.abc.Mapping,))

    def _class(self, kind: Any) -> _Shape:
        if not isinstance(kind, type) or kind is object:
            # Generic dataclasses and typed dicts keep their arguments in an alias; the fields are those of the class.
            origin = typing.get_origin(kind)
            return self._class(origin) if isinstance(origin, type) else _ANYTHING
        known = self._known.get(kind)
        if known is not None:
            return known
        if issubclass(kind, (SecretStr, SecretBytes)):
            return _Secret(kind.__qualname__)
        if issubclass(kind, PurePath):
            return _Plain(kind.__qualname__, (kind,))
        if issubclass(kind, enum.Enum):
            return _EnumMember(kind)
        fields = _fields_of(kind)
        if fields is None:
            return _foreign(kind)
        make, annotations = fields
        shape = self._known[kind] = make(kind)
        shape.shapes.update({name: self.shape(annotation) for name, annotation in annotations.items()})
        return shape


class _ClassFields(NamedTuple):
    make: type[_Fields]
    annotations: dict[str, Any]


def _fields_of(kind: type) -> _ClassFields | None:
    """How objects of a class are put together, and what its fields are declared as; None: it is not made of fields."""
    if issubclass(kind, BaseModel):
        return _ClassFields(_Model, {name: field.annotation for name, field in kind.model_fields.items()})
    if dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        return _ClassFields(_Dataclass, {f.name: hints.get(f.name, Any) for f in dataclasses.fields(kind)})
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        hints = _hints(kind)
        return _ClassFields(_NamedTuple, {name: hints.get(name, Any) for name in kind._fields})
    if typing_extensions.is_typeddict(kind):
        return _ClassFields(_TypedDict, _hints(kind))
    return None


def _foreign(kind: type) -> _Shape:
    try:
        return _Foreign(kind, TypeAdapter(kind))
    except PydanticUserError:
        return _ANYTHING  # unknown to pydantic: values get through only if they are plain


def _hints(kind: type) -> dict[str, Any]:
    try:
        return typing_extensions.get_type_hints(kind)
    except Exception:  # whatever a forward reference of the user raises: the fields then hold plain values only
        return {}


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
