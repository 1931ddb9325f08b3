"""Shapes: how values of one declared type become plain values, and how they come back.

A shape reduces a model, dataclass, named tuple, enum member or a container of them to plain values, and restores them
without a hint from the bytes. Restored objects are put together field by field; constructors and validators of users
do not run a second time. The one exception are types that only pydantic knows (`ForeignShape`).

Made by `annotations` from what a field declares; used through `binding`.
"""

import enum
import typing
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr, TypeAdapter

from chainweaver.objects.plain import PLAIN_TYPES, Member


class ShapeMismatch(Exception):
    """A value does not belong to a shape. Told with its key by `binding`."""

    def __init__(self, expected: str, value: Any, reason: str | None = None) -> None:
        self.expected = expected
        self.found = type(value).__qualname__
        self.reason = reason or f"the field declares '{expected}'"


class Shape:
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

    def parts(self) -> "tuple[Shape, ...]":
        """The shapes inside this one."""
        return ()

    def holds_secret(self, seen: set[int]) -> bool:
        """Whether a secret is declared here or further inside."""
        if id(self) in seen:
            return False
        seen.add(id(self))
        return any(part.holds_secret(seen) for part in self.parts())


ANYTHING = Shape("Any")


class PlainShape(Shape):
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
        raise ShapeMismatch(self.name, value)

    restore = reduce


class ObjectShape(Shape):
    """Objects of a class that neither we nor pydantic know; what is in them is the business of the store."""

    __slots__ = ("kind",)

    def __init__(self, kind: type) -> None:
        super().__init__(kind.__qualname__)
        self.kind = kind

    def fits(self, value: Any) -> bool:
        return isinstance(value, self.kind)


class SecretShape(Shape):
    __slots__ = ()
    is_typed = True

    def fits(self, value: Any) -> bool:
        return isinstance(value, (SecretStr, SecretBytes))

    def reduce(self, value: Any) -> Any:
        raise ShapeMismatch(self.name, value, "secrets are not written to a store without a cipher")

    def restore(self, value: Any) -> Any:
        if self.fits(value):
            return value
        raise ShapeMismatch(self.name, value)

    def holds_secret(self, seen: set[int]) -> bool:
        return True


class _ExactShape(Shape):
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
            raise ShapeMismatch(self.name, value, reason)
        raise ShapeMismatch(self.name, value)


class EnumShape(_ExactShape):
    """By name; flags, whose combinations have none, by their number. Other values (`use_enum_values`) carry a mark."""

    __slots__ = ()

    def fits(self, value: Any) -> bool:
        return isinstance(value, self.kind)

    def reduce(self, value: Any) -> Any:
        if not isinstance(value, self.kind):
            return Member(0, value)
        return value.value if isinstance(value, enum.Flag) else typing.cast(enum.Enum, value).name

    def restore(self, value: Any) -> Any:
        if isinstance(value, self.kind):
            return value
        if type(value) is Member:
            return value.content
        kind = typing.cast(type[enum.Enum], self.kind)
        try:
            return kind(value) if issubclass(kind, enum.Flag) else kind[value]
        except (KeyError, ValueError):
            raise ShapeMismatch(self.name, value) from None  # no such member any more


class FieldsShape(_ExactShape):
    """Objects made of named fields; the reduced form is a dict of them."""

    __slots__ = ("shapes",)

    def __init__(self, kind: type) -> None:
        super().__init__(kind)
        # Filled after the shape is known under its type: a type may contain itself.
        self.shapes: dict[str, Shape] = {}

    def parts(self) -> tuple[Shape, ...]:
        return tuple(self.shapes.values())

    def _check_fields(self, value: Any) -> None:
        self._check(value)
        stray = [name for name in getattr(value, "__dict__", ()) if name not in self.shapes and name[:2] != "__"]
        if stray:
            raise ShapeMismatch(self.name, value, f"its attribute '{stray[0]}' is not a field and would be lost")

    def _reduce_fields(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: shape.reduce(values[name]) for name, shape in self.shapes.items() if name in values}

    def _restore_fields(self, content: Any) -> dict[str, Any]:
        if type(content) is not dict or not self.shapes.keys() >= content.keys():
            raise ShapeMismatch(self.name, content)
        return {name: self.shapes[name].restore(value) for name, value in content.items()}


class ModelShape(FieldsShape):
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


class DataclassShape(FieldsShape):
    __slots__ = ()

    def reduce(self, value: Any) -> Any:
        self._check_fields(value)
        return {name: shape.reduce(getattr(value, name)) for name, shape in self.shapes.items() if hasattr(value, name)}

    def restore(self, value: Any) -> Any:
        if isinstance(value, self.kind):
            return value
        fields = self._restore_fields(value)
        restored: Any = object.__new__(self.kind)
        for name, field in fields.items():
            object.__setattr__(restored, name, field)
        return restored


class NamedTupleShape(FieldsShape):
    __slots__ = ()

    def reduce(self, value: Any) -> Any:
        self._check_fields(value)
        return tuple(shape.reduce(item) for shape, item in zip(self.shapes.values(), value, strict=True))

    def restore(self, value: Any) -> Any:
        if isinstance(value, self.kind):
            return value
        if type(value) is not tuple or len(value) != len(self.shapes):
            raise ShapeMismatch(self.name, value)
        items = [shape.restore(item) for shape, item in zip(self.shapes.values(), value, strict=True)]
        return tuple.__new__(self.kind, items)


class TypedDictShape(FieldsShape):
    """A dict with known keys. It stays a dict; only the values change. Unknown keys hold any plain value."""

    __slots__ = ()

    def fits(self, value: Any) -> bool:
        required: frozenset[str] = getattr(self.kind, "__required_keys__", frozenset())
        return (
            type(value) is dict
            and required <= value.keys() <= self.shapes.keys()
            and all(self.shapes[key].fits(item) for key, item in value.items())
        )

    def reduce(self, value: Any) -> Any:
        if type(value) is not dict:
            raise ShapeMismatch(self.name, value)
        return {key: self.shapes.get(key, ANYTHING).reduce(item) for key, item in value.items()}

    def restore(self, value: Any) -> Any:
        if type(value) is not dict:
            raise ShapeMismatch(self.name, value)
        return {key: self.shapes.get(key, ANYTHING).restore(item) for key, item in value.items()}


class ItemsShape(Shape):
    """A container of one kind of item: whatever the live value is made of, list, tuple, set or deque."""

    __slots__ = ("item",)
    is_typed = True

    def __init__(self, name: str, item: Shape) -> None:
        super().__init__(name)
        self.item = item

    def parts(self) -> tuple[Shape, ...]:
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
                raise ShapeMismatch(self.name, value.content)
            return (set, frozenset)[value.position](self.item.restore(item) for item in value.content)
        return _refill(value, [self.item.restore(item) for item in self._checked(value)])

    def _checked(self, value: Any) -> Any:
        if type(value) in _ITERABLES:
            return value
        raise ShapeMismatch(self.name, value)


_ITERABLES = frozenset({list, tuple, set, frozenset, deque})


def _refill(pattern: Any, items: list[Any]) -> Any:
    kind = type(pattern)
    if kind is list:
        return items
    return deque(items, pattern.maxlen) if kind is deque else kind(items)


class TupleShape(Shape):
    """A tuple with a shape for every place."""

    __slots__ = ("places",)
    is_typed = True

    def __init__(self, name: str, places: tuple[Shape, ...]) -> None:
        super().__init__(name)
        self.places = places

    def parts(self) -> tuple[Shape, ...]:
        return self.places

    def fits(self, value: Any) -> bool:
        return self._is_tuple(value) and all(s.fits(item) for s, item in zip(self.places, value, strict=True))

    def reduce(self, value: Any) -> Any:
        if not self._is_tuple(value):
            raise ShapeMismatch(self.name, value)
        return tuple(shape.reduce(item) for shape, item in zip(self.places, value, strict=True))

    def restore(self, value: Any) -> Any:
        if not self._is_tuple(value):
            raise ShapeMismatch(self.name, value)
        return tuple(shape.restore(item) for shape, item in zip(self.places, value, strict=True))

    def _is_tuple(self, value: Any) -> bool:
        return type(value) is tuple and len(value) == len(self.places)


class MappingShape(Shape):
    """A dict or OrderedDict whose keys or values are typed."""

    __slots__ = ("item", "key")
    is_typed = True

    def __init__(self, name: str, key: Shape, item: Shape) -> None:
        super().__init__(name)
        self.key = key
        self.item = item

    def parts(self) -> tuple[Shape, ...]:
        return (self.key, self.item)

    def fits(self, value: Any) -> bool:
        return type(value) in _MAPPINGS and all(map(self.key.fits, value)) and all(map(self.item.fits, value.values()))

    def reduce(self, value: Any) -> Any:
        if type(value) not in _MAPPINGS:
            raise ShapeMismatch(self.name, value)
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
            raise ShapeMismatch(self.name, value)
        return kind((self.key.restore(key), self.item.restore(item)) for key, item in pairs)


_MAPPINGS: tuple[type[dict[Any, Any]], ...] = (dict, OrderedDict)


class UnionShape(Shape):
    """One of several shapes. A value of a typed member carries the position of that member."""

    __slots__ = ("members",)
    is_typed = True

    def __init__(self, name: str, members: tuple[Shape, ...]) -> None:
        super().__init__(name)
        self.members = members

    def parts(self) -> tuple[Shape, ...]:
        return self.members

    def fits(self, value: Any) -> bool:
        return any(member.fits(value) for member in self.members)

    def reduce(self, value: Any) -> Any:
        if value is None:
            return None
        for position, member in enumerate(self.members):
            if member.fits(value):
                return Member(position, member.reduce(value)) if member.is_typed else value
        raise ShapeMismatch(self.name, value)

    def restore(self, value: Any) -> Any:
        if type(value) is not Member:
            return value
        if not 0 <= value.position < len(self.members):
            raise ShapeMismatch(self.name, value)
        return self.members[value.position].restore(value.content)


class OptionalShape(Shape):
    """One typed shape or None; needs no mark, since None is nothing else."""

    __slots__ = ("inner",)
    is_typed = True

    def __init__(self, inner: Shape) -> None:
        super().__init__(f"{inner.name} | None")
        self.inner = inner

    def parts(self) -> tuple[Shape, ...]:
        return (self.inner,)

    def fits(self, value: Any) -> bool:
        return value is None or self.inner.fits(value)

    def reduce(self, value: Any) -> Any:
        return None if value is None else self.inner.reduce(value)

    def restore(self, value: Any) -> Any:
        return None if value is None else self.inner.restore(value)


class ForeignShape(Shape):
    """Types that pydantic can write as JSON and read again: URLs, IP addresses, patterns, fractions...

    Every value is read again before it is written, so that one which would come back changed is refused. Types that
    only name a check (`EmailStr`) have plain values, which pass as they are; all others carry a mark.
    """

    __slots__ = ("adapter",)
    is_typed = True

    def __init__(self, kind: type, adapter: "TypeAdapter[Any]") -> None:
        super().__init__(kind.__qualname__)
        self.adapter = adapter

    def fits(self, value: Any) -> bool:
        try:
            self.reduce(value)
        except ShapeMismatch:
            return False
        return True

    def reduce(self, value: Any) -> Any:
        if type(value) in PLAIN_TYPES:
            return value
        try:
            content = self.adapter.dump_python(value, mode="json", warnings=False)
            again = self.adapter.validate_python(content)
            is_same = type(again) is type(value) and bool(again == value)
        except Exception as exc:
            raise ShapeMismatch(self.name, value, f"pydantic cannot write and read it: {type(exc).__name__}") from exc
        if not is_same:
            raise ShapeMismatch(self.name, value, "it would not come back as it is")
        return Member(0, content)

    def restore(self, value: Any) -> Any:
        return self.adapter.validate_python(value.content) if type(value) is Member else value
