"""Facts about the alternatives that a type can produce: their classes, items, values and bounds.

Each question has a careful answer: where it cannot be known, the answer is the one that allows more. The rules that
combine these facts are in `types`.
"""

from __future__ import annotations

import collections
import collections.abc
import datetime
import decimal
import enum
import fractions
import inspect
import numbers
import sys
import types
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel
from pydantic_core import MultiHostUrl, SchemaValidator, Url, ValidationError

from chainweaver.compiler.core_schemas import UNKNOWN, View

# Sample values of every plain kind, varied enough that whatever pydantic can make of the kind, it makes of one of
# them. Asking pydantic itself keeps the verdict right for the version that is installed.
SAMPLES: dict[str, tuple[Any, ...]] = {
    "none": (None,),
    "bool": (True, False),
    "int": (1, 0, 10**12),
    "float": (1.0, 0.5, 0.0),
    "complex": (1j, complex(1, 0)),
    "decimal": (decimal.Decimal(1), decimal.Decimal("0.5")),
    "fraction": (fractions.Fraction(1), fractions.Fraction(1, 2)),
    "str": (
        "1", "a", "", "true", "0.5", "1/2", "1+2j", "2024-01-01", "2024-01-01T00:00:00", "12:00:00", "P1D",
        "12345678-1234-5678-1234-567812345678", "http://a.example/", "postgres://a.example:1/b",
    ),
    "bytes": (
        b"1", b"a", b"", b"true", b"0.5", b"1+2j", b"2024-01-01", b"2024-01-01T00:00:00", b"12:00:00", b"P1D",
        b"1234567812345678", b"12345678-1234-5678-1234-567812345678", b"http://a.example/",
    ),
    "bytearray": (bytearray(b"1"), bytearray(b"a"), bytearray(b"2024-01-01")),
    "date": (datetime.date(2024, 1, 1),),
    "datetime": (datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 1, 12)),
    "time": (datetime.time(12),),
    "timedelta": (datetime.timedelta(1),),
    "uuid": (uuid.UUID(int=1), uuid.UUID("12345678-1234-4678-9234-567812345678")),
    "url": (Url("http://a.example/"),),
    "multi-host-url": (MultiHostUrl("postgres://a.example:1/b"),),
    "list": ([0, [1], 0], [1, 2], ["1", "2"]),
    "tuple": ((0, (1,), 0), (1, 2), ("1", "2")),
    "dict": ({}, {"a": 1}),
    "set": ({1},),
    "frozenset": (frozenset({1}),),
}  # fmt: skip
CONTAINERS = frozenset({"list", "tuple", "dict", "set", "frozenset"})
SCALARS = frozenset(SAMPLES) - CONTAINERS
NUMBERS = frozenset({"bool", "int", "float", "complex", "decimal", "fraction"})
SEQUENCES = frozenset({"list", "tuple", "set", "frozenset", "deque"})
MAPPINGS = frozenset({"dict", "typed-dict", "ordered-dict", "counter"})
FINITE = frozenset({"constant", "literal", "enum"})

CLASSES: dict[str, type] = {
    **{kind: type(values[0]) for kind, values in SAMPLES.items()},
    "typed-dict": dict,
    "deque": collections.deque,
    "counter": collections.Counter,
    "ordered-dict": collections.OrderedDict,
    "is-subclass": type,
    "callable": types.FunctionType,
    # What validation makes of every iterable; the class has no public name.
    "generator": type(SchemaValidator({"type": "generator"}).validate_python(())),
}
# What a user's class cannot be as well, so that an abstract class says something about them.
PLAIN_CLASSES = frozenset(CLASSES[kind] for kind in SAMPLES)


# -- classes --


def classes_of(leaf: View) -> tuple[type, ...]:
    """Classes that cover the values of the leaf; `object` where nothing is known."""
    if leaf.kind in FINITE:
        return tuple(dict.fromkeys(map(type, values_of(leaf))))
    if leaf.kind in CLASSES:
        return (CLASSES[leaf.kind],)
    return named_classes(leaf) if "cls" in leaf.schema else (object,)


def named_classes(view: View) -> tuple[type, ...]:
    """The classes that a schema names; `typing.Sequence` and its like are the classes behind them."""
    named = view.schema["cls"]
    classes = named if isinstance(named, tuple) else (named,)
    behind: list[Any] = [getattr(cls, "__origin__", cls) for cls in classes]
    return tuple(behind)


def may_be(leaf: View, cls: type) -> bool:
    """Whether some value of the leaf may be an instance of the class."""
    if leaf.kind == "callable" and (defines(cls, "__call__") or getattr(cls, "_is_protocol", False)):
        return True
    if leaf.kind in FINITE:
        return any(issubclass(one, cls) for one in classes_of(leaf)) if _can_be_asked(cls) else True
    return any(related(one, cls) for one in classes_of(leaf))


def _can_be_asked(cls: Any) -> bool:
    """Whether issubclass takes the class: generic aliases and protocols with data members it refuses."""
    try:
        issubclass(object, cls)
    except TypeError:
        return False
    return not _decides_itself(cls)


def related(one: Any, other: Any) -> bool:
    """Whether an instance of one class may be an instance of the other, multiple inheritance of the two left aside."""
    if not (_can_be_asked(one) and _can_be_asked(other)) or issubclass(one, other) or issubclass(other, one):
        return True
    return is_open(one) and other not in PLAIN_CLASSES


def is_open(cls: Any) -> bool:
    """Whether values of many unrelated classes count as instances."""
    return cls is object or inspect.isabstract(cls) or bool(getattr(cls, "_is_protocol", False))


def _decides_itself(cls: type) -> bool:
    """Whether the metaclass answers isinstance in a way of its own."""
    answering = next(one for one in inspect.getmro(type(cls)) if "__instancecheck__" in vars(one))
    return answering.__module__.partition(".")[0] not in ("builtins", "abc", "typing", "typing_extensions", "pydantic")


def defines(cls: type, method: str) -> bool:
    """Whether instances of the class have the special method."""
    return any(vars(one).get(method) is not None for one in cls.__mro__)


def finds_missing(cls: type[enum.Enum]) -> bool:
    """Whether an enum makes members of values that none of them has: flags do, and whoever defines `_missing_`."""
    return getattr(cls._missing_, "__func__", None) is not enum.Enum._missing_.__func__  # type: ignore[attr-defined]  # a classmethod


# -- values --


def values_of(leaf: View) -> list[Any]:
    """The values of a leaf of a FINITE kind."""
    if leaf.kind == "enum":
        return list(leaf.schema["members"])
    return list(leaf.schema["values" if leaf.kind == "constant" else "expected"])


def may_equal(leaf: View, value: Any) -> bool:
    """Whether some value of the leaf may be equal to this one."""
    if leaf.kind == "any":
        return True
    if leaf.kind in FINITE:
        return value in values_of(leaf)
    if leaf.kind in NUMBERS and isinstance(value, (int, float, complex)):
        return True
    if may_be(leaf, type(value)) or any(isinstance(value, cls) for cls in classes_of(leaf)):
        return True
    return leaf.kind == "is-instance" and any(defines_equality(cls) for cls in classes_of(leaf))


_EQUAL_TO_THEIR_KIND = sys.stdlib_module_names | {"pydantic", "pydantic_core"}


def defines_equality(cls: type) -> bool:
    """Whether the class has an idea of its own of what equals its instances."""
    if issubclass(cls, numbers.Number):
        return True
    # The classes of the standard library and of pydantic compare equal to their own kind only.
    strange = [one for one in cls.__mro__ if one.__module__.partition(".")[0] not in _EQUAL_TO_THEIR_KIND]
    return any("__eq__" in vars(one) for one in strange)


def passes(target: View, value: Any) -> bool:
    """Whether the schema, one that calls nothing of the user's, takes this very value."""
    schema = {key: fact for key, fact in target.schema.items() if key not in ("ref", "metadata", "serialization")}
    config = {key: fact for key, fact in target.config.items() if key != "title"}
    try:
        SchemaValidator(schema, config or None).validate_python(value)  # type: ignore[arg-type]  # plain dicts here
    except ValidationError:
        return False
    except Exception:
        # A schema that cannot be run apart from its surroundings says nothing about the value.
        return True
    return True


@lru_cache(maxsize=256)
def accepted_kinds(kind: str, strict: bool, coerces_numbers: bool) -> frozenset[str]:
    """The kinds in SAMPLES of which pydantic takes some value, for a plain kind of schema without constraints."""
    schema: dict[str, Any] = {"type": kind}
    if kind != "none":
        schema["strict"] = strict
    if kind == "str":
        schema["coerce_numbers_to_str"] = coerces_numbers
    return frozenset(given for given, values in SAMPLES.items() if any(passes(View(schema), value) for value in values))


# -- items --


@dataclass(frozen=True, slots=True)
class Items:
    """What an iterable yields: first the fixed items, then any number of the rest, or none where there is no rest."""

    fixed: tuple[View, ...]
    rest: View | None

    def at(self, place: int) -> View:
        """The type of the item at a place."""
        return self.fixed[place] if place < len(self.fixed) else self.rest or UNKNOWN


def items_of(leaf: View) -> Items | None:
    """The items of a value that a list can be made of; None when there are none to take."""
    if "fixed_items" in leaf.schema:
        return Items(tuple(map(leaf.at, leaf.schema["fixed_items"])), None)
    if leaf.kind == "stream":
        return None  # to collect what need not fit into memory is nothing to do unasked
    if leaf.kind == "tuple":
        return _tuple_items(leaf)
    if leaf.kind in SEQUENCES or leaf.kind == "generator":
        return Items((), part(leaf, "items_schema"))
    if leaf.kind == "named-tuple":
        return Items(tuple(leaf.at(one) for one in leaf.schema["fields"]), None)
    if leaf.kind == "model" and leaf.schema["cls"].__iter__ is BaseModel.__iter__:
        # Iterating over a model gives pairs of name and value; a subclass may have more of them.
        return Items(tuple(map(_named_pair, leaf.schema["cls"].model_fields)), UNKNOWN)
    if leaf.kind == "is-subclass":
        return Items((), UNKNOWN) if defines(type(leaf.schema["cls"]), "__iter__") else None
    return Items((), UNKNOWN) if any(map(_is_iterable, classes_of(leaf))) else None


def _named_pair(name: str) -> View:
    return View({"type": "tuple", "items_schema": [{"type": "constant", "values": [name]}, {"type": "any"}]})


def _tuple_items(leaf: View) -> Items:
    schemas = [leaf.at(one) for one in leaf.schema["items_schema"]]
    variadic = leaf.schema.get("variadic_item_index")
    if variadic is None:
        return Items(tuple(schemas), None)
    last = variadic == len(schemas) - 1
    return Items(tuple(schemas[:variadic]), schemas[variadic] if last else UNKNOWN)


def _is_iterable(cls: type) -> bool:
    if is_open(cls):
        return not issubclass(cls, Mapping)
    return defines(cls, "__iter__") and not issubclass(cls, (str, bytes, bytearray, Mapping))


def part(view: View, name: str) -> View:
    """A part of a container's schema, such as "items_schema"; UNKNOWN where it is left out."""
    return view.at(view.schema[name]) if name in view.schema else UNKNOWN


def is_required(field: Mapping[str, Any]) -> bool:
    """Whether a field of a model, dataclass or typed dict has to be given."""
    if "required" in field:
        return bool(field["required"])
    inner: Any = field
    while isinstance(inner, dict):
        if inner["type"] == "default":
            return False
        inner = inner.get("schema")
    return field.get("init", True) is not False


# -- bounds --


def bounds_meet(leaf: View, target: View) -> bool:
    """Whether the ranges of two constrained types have a value in common."""
    if leaf.kind in ("int", "float") and target.kind in ("int", "float"):
        return _ranges_meet(leaf, target, ("ge", "gt"), ("le", "lt"))
    if leaf.kind == target.kind == "str" and not _strips(target):
        return _ranges_meet(leaf, target, ("min_length",), ("max_length",))
    return True


def _strips(target: View) -> bool:
    return bool(target.schema.get("strip_whitespace", target.config.get("str_strip_whitespace")))


def _ranges_meet(one: View, other: View, lows: Iterable[str], highs: Iterable[str]) -> bool:
    low = [(view.schema[name], name == "gt") for view in (one, other) for name in lows if name in view.schema]
    high = [(view.schema[name], name == "lt") for view in (one, other) for name in highs if name in view.schema]
    return not any(a > b or (a == b and (a_open or b_open)) for a, a_open in low for b, b_open in high)
