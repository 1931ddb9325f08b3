"""Strategies: inputs for a flow, made by hypothesis from its schema.

A strategy gives raw inputs, dicts of Python values that the model accepts: constraints of the annotations are built in,
and what validators of the user refuse is filtered out. Hypothesis comes with the extra `testing` and is imported when a
strategy is asked for. What is done with the inputs is the business of the fuzzer and the attester.
"""

from __future__ import annotations

import collections.abc as abc
import dataclasses
import datetime
import decimal
import enum
import json
import math
import pathlib
import types
import typing
import uuid
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, TypeVar, get_args, get_origin, get_type_hints

import pydantic
from pydantic import BaseModel, SecretBytes, SecretStr, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import Url
from typing_extensions import NotRequired, ReadOnly, Required, TypeAliasType, is_typeddict

from chainweaver.exceptions import MissingExtraError

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

LOWER, UPPER = ("gt", "ge"), ("lt", "le")
OTHERS = ("multiple_of", "min_length", "max_length", "pattern", "max_digits", "decimal_places", "uuid_version")

UNIONS = (typing.Union, types.UnionType)
LISTS = (list, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable, abc.Iterator)
SETS = (set, abc.Set, abc.MutableSet)
DICTS = (dict, abc.Mapping, abc.MutableMapping, OrderedDict, defaultdict)

URLS = tuple({Url, getattr(pydantic.networks, "_BaseUrl", Url)})
"""What the classes of addresses derive from; it depends on the release of pydantic."""

LONG_AGO, FAR_AHEAD = datetime.datetime(2020, 1, 1), datetime.datetime(2100, 1, 1)
"""Bounds for fields that want the past or the future, whatever the day of the test."""


def need_hypothesis(purpose: str) -> Any:
    """The module `hypothesis`.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import hypothesis
    except ImportError as exc:
        raise MissingExtraError("testing", purpose, why="hypothesis is not installed") from exc
    return hypothesis


def strategy_for(
    model: type[BaseModel], *, strategies: Mapping[Any, SearchStrategy[Any]] | None = None
) -> SearchStrategy[dict[str, Any]]:
    """A hypothesis strategy for the inputs of a model.

    Covers scalars with their constraints, optional and defaulted fields (given or left out), literals, enums, unions,
    lists, tuples, sets and dicts of all these, nested and recursive models, dataclasses, typed dicts, named tuples,
    dates and times, decimals, UUIDs, bytes, paths and secrets. Floats are finite, texts can be encoded. Everything is
    accepted by the model.

    Args:
        model: The model of a flow's input, or of a tool's.
        strategies: Annotation -> strategy, for types that are not covered, or to narrow those that are.

    Returns:
        A strategy of dicts, with nested models as dicts too.

    Raises:
        MissingExtraError: The extra `testing` is not installed.
        TypeError: A field has a type that no value can be made for.

    >>> class Order(BaseModel):
    ...     article: Literal["tea", "milk"]
    ...     count: Annotated[int, pydantic.Field(ge=1, le=9)] = 1
    >>> from hypothesis import find
    >>> find(strategy_for(Order), lambda given: given.get("count", 1) > 4)
    {'article': 'tea', 'count': 5}
    """
    need_hypothesis("A strategy")
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise TypeError(f"strategy_for() takes a pydantic model class, not {model!r}.")
    made: SearchStrategy[dict[str, Any]] = Maker(strategies).accepted(model)
    return made


class Maker:
    """Makes strategies of annotations, each nested model once.

    Args:
        strategies: Annotation -> strategy, before all others.
    """

    def __init__(self, strategies: Mapping[Any, SearchStrategy[Any]] | None = None) -> None:
        import hypothesis.strategies as st

        self.st: Any = st
        self.given = dict(strategies or {})
        self._models: dict[type, Any] = {}
        self._place: list[str] = []

    def accepted(self, model: type[BaseModel]) -> Any:
        """Dicts that the model accepts."""

        def is_accepted(given: dict[str, Any]) -> bool:
            try:
                model.model_validate(given)
            except Exception:  # a validator of the user's may raise anything
                return False
            return True

        return self.fields_of(model).filter(is_accepted)

    # ---- structures

    def fields_of(self, model: type[BaseModel]) -> Any:
        """Dicts with the fields of a model; the value itself for a root model."""
        if model not in self._models:
            # Later, so that a model may hold itself.
            made: list[Any] = []
            self._models[model] = self.st.deferred(lambda: made[0])
            made.append(self._fields_of(model))
        return self._models[model]

    def _fields_of(self, model: type[BaseModel]) -> Any:
        if issubclass(model, pydantic.RootModel):
            root = model.model_fields["root"]
            return self.of(root.annotation, root.metadata)
        required: dict[str, Any] = {}
        optional: dict[str, Any] = {}
        for name, field in model.model_fields.items():
            self._place.append(f"{model.__name__}.{name}")
            key = field.validation_alias if isinstance(field.validation_alias, str) else name
            fields = required if field.is_required() else optional
            fields[key] = self.of(field.annotation, field.metadata)
            self._place.pop()
        return self.st.fixed_dictionaries(required, optional=optional)

    def _typed_dict(self, kind: Any) -> Any:
        hints = get_type_hints(kind, include_extras=True)
        required = {name: self.of(hint) for name, hint in hints.items() if name in kind.__required_keys__}
        optional = {name: self.of(hint) for name, hint in hints.items() if name not in kind.__required_keys__}
        return self.st.fixed_dictionaries(required, optional=optional)

    def _dataclass(self, kind: Any) -> Any:
        hints = get_type_hints(kind, include_extras=True)
        required: dict[str, Any] = {}
        optional: dict[str, Any] = {}
        for field in dataclasses.fields(kind):
            if field.init:
                has_default = (
                    field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
                )
                (optional if has_default else required)[field.name] = self.of(hints[field.name])
        return self.st.fixed_dictionaries(required, optional=optional)

    # ---- annotations

    def of(self, annotation: Any, metadata: typing.Iterable[Any] = ()) -> Any:
        """Values of an annotation, within the constraints of its metadata.

        Raises:
            TypeError: None can be made.
        """
        if is_hashable(annotation) and annotation in self.given:
            return self.given[annotation]
        origin = get_origin(annotation)
        if origin is Annotated:
            base, *marks = get_args(annotation)
            return self.of(base, (*marks, *metadata))
        if origin in (Required, NotRequired, ReadOnly, typing.ClassVar, typing.Final):
            return self.of(get_args(annotation)[0], metadata)
        marks = list(unfolded(metadata))
        for mark in marks:
            if isinstance(mark, self.st.SearchStrategy):
                return mark
        if any(mark is pydantic.Json or type(mark).__name__ == "Json" for mark in marks):
            return self.of(annotation).map(json.dumps)
        made = self._of(annotation, origin, Bounds(marks), marks)
        for mark in marks:
            check = getattr(mark, "func", None)
            if type(mark).__name__ == "Predicate" and callable(check):
                made = made.filter(check)
        return made

    def _of(self, annotation: Any, origin: Any, bounds: Bounds, marks: list[Any]) -> Any:
        if origin in UNIONS:
            return self.st.one_of([self.of(part, marks) for part in none_first(get_args(annotation))])
        if origin is Literal:
            return self.st.sampled_from(get_args(annotation))
        if isinstance(annotation, NewType):
            return self.of(annotation.__supertype__, marks)
        if isinstance(annotation, TypeAliasType) or hasattr(annotation, "__value__"):
            return self.of(annotation.__value__, marks)
        if isinstance(annotation, TypeVar):
            return self.of(annotation.__bound__ or Any, marks)
        if is_typeddict(annotation):
            return self._typed_dict(annotation)
        made = self._container(origin or annotation, get_args(annotation), bounds)
        if made is None:
            made = self._scalar(annotation, bounds)
        return self._other(origin or annotation, annotation) if made is None else made

    def _container(self, kind: Any, args: tuple[Any, ...], bounds: Bounds) -> Any:
        st, size = self.st, bounds.sizes()
        if kind in LISTS:
            return st.lists(self.of(args[0] if args else Any), **size)
        if kind is deque:
            return st.lists(self.of(args[0] if args else Any), **size).map(deque)
        if kind in SETS or kind is frozenset:
            unique = st.lists(self.of(args[0] if args else int), unique_by=repr, **size)
            return unique.map(lambda items: hashable_set(kind, items))
        if kind is tuple:
            if len(args) == 2 and args[1] is ...:
                return st.lists(self.of(args[0]), **size).map(tuple)
            if not args:
                return st.lists(self.of(Any), **size).map(tuple)
            return st.tuples(*(self.of(arg) for arg in args if arg != ()))
        if kind in DICTS:
            key, value = args if len(args) == 2 else (str, Any)
            return st.dictionaries(self.of(key), self.of(value), **size)
        return None

    def _scalar(self, annotation: Any, bounds: Bounds) -> Any:
        make = SCALARS.get(annotation) if is_hashable(annotation) else None
        return None if make is None else make(self.st, bounds)

    def _other(self, kind: Any, annotation: Any) -> Any:
        st = self.st
        if isinstance(kind, type):
            if issubclass(kind, BaseModel):
                return self.fields_of(kind)
            if issubclass(kind, enum.Enum):
                return st.sampled_from(kind)
            if dataclasses.is_dataclass(kind):
                return self._dataclass(kind)
            if issubclass(kind, tuple) and hasattr(kind, "_fields"):
                hints = get_type_hints(kind, include_extras=True)
                return st.tuples(*(self.of(hints.get(name, Any)) for name in kind._fields))
            if issubclass(kind, URLS):
                return st.sampled_from(["http://localhost/", "https://example.com/a?b=c#d"])
        made = st.from_type(annotation)
        try:
            made.validate()
        except Exception as exc:
            place = f"Field '{self._place[-1]}'" if self._place else "It"
            raise TypeError(
                f"{place} is of type {annotation!r}, for which no values can be made; pass strategies={{the type: a "
                "hypothesis strategy}."
            ) from exc
        return made


class Bounds:
    """The constraints of an annotation, taken together.

    Attributes:
        values: Name of the constraint, as pydantic calls it -> the strictest value.
    """

    def __init__(self, marks: list[Any]) -> None:
        self.values: dict[str, Any] = {}
        for mark in marks:
            for name in (*LOWER, *UPPER, *OTHERS):
                value = getattr(mark, name, None)
                if value is not None:
                    self._take(name, value)

    def _take(self, name: str, value: Any) -> None:
        known = self.values.get(name)
        if known is not None and name in (*LOWER, "min_length"):
            value = max(known, value)
        elif known is not None and name in (*UPPER, "max_length"):
            value = min(known, value)
        self.values[name] = value

    def get(self, name: str, default: Any = None) -> Any:
        """One constraint."""
        return self.values.get(name, default)

    def sizes(self) -> dict[str, Any]:
        """The bounds of a length."""
        return {"min_size": self.get("min_length", 0), "max_size": self.get("max_length")}

    def ends(self) -> dict[str, Any]:
        """The bounds of an ordered value, ends included."""
        lower = [value for value in map(self.get, LOWER) if value is not None]
        upper = [value for value in map(self.get, UPPER) if value is not None]
        ends = {"min_value": max(lower) if lower else None, "max_value": min(upper) if upper else None}
        return {name: value for name, value in ends.items() if value is not None}

    def without_open_ends(self, made: Any) -> Any:
        """The values, without ends that are excluded."""
        excluded = [value for value in (self.get("gt"), self.get("lt")) if value is not None]
        return made.filter(lambda value: value not in excluded) if excluded else made


# ---- scalars


def texts(st: Any, bounds: Bounds) -> Any:
    """Texts that can be encoded."""
    pattern, sizes = bounds.get("pattern"), bounds.sizes()
    # Lone surrogates are no text that a caller could send.
    alphabet = st.characters(codec="utf-8")
    if pattern is None:
        return st.text(alphabet, **sizes)
    made = st.from_regex(pattern, alphabet=alphabet)
    most = math.inf if sizes["max_size"] is None else sizes["max_size"]
    return made.filter(lambda text: sizes["min_size"] <= len(text) <= most)


def integers(st: Any, bounds: Bounds) -> Any:
    """Whole numbers, the multiples of one of them."""
    step = bounds.get("multiple_of", 1)
    ends = bounds.ends()
    lowest = math.ceil(ends["min_value"] / step) if "min_value" in ends else None
    highest = math.floor(ends["max_value"] / step) if "max_value" in ends else None
    made = st.integers(lowest, highest)
    return bounds.without_open_ends(made if step == 1 else made.map(lambda number: number * step))


def floats(st: Any, bounds: Bounds) -> Any:
    """Finite numbers."""
    step, ends = bounds.get("multiple_of"), {name: float(value) for name, value in bounds.ends().items()}
    if step is not None:
        made = integers(st, bounds).map(float) if float(step).is_integer() else st.integers(-1000, 1000).map(
            lambda number: number * step
        )  # fmt: skip
        least, most = ends.get("min_value", -math.inf), ends.get("max_value", math.inf)
        return bounds.without_open_ends(made.filter(lambda number: least <= number <= most))
    return bounds.without_open_ends(st.floats(**ends, allow_nan=False, allow_infinity=False))


def decimals(st: Any, bounds: Bounds) -> Any:
    """Finite decimals with as many digits as may be."""
    places, digits, ends = bounds.get("decimal_places"), bounds.get("max_digits"), bounds.ends()
    if digits is not None:
        places = min(digits, 2) if places is None else places
        most = decimal.Decimal(10) ** (digits - places) - decimal.Decimal(1).scaleb(-places)
        ends = {
            "min_value": max(ends.get("min_value", -most), -most),
            "max_value": min(ends.get("max_value", most), most),
        }
    step = bounds.get("multiple_of")
    if step is not None:
        whole = Bounds([])
        whole.values = {name: value / step for name, value in bounds.values.items() if name in (*LOWER, *UPPER)}
        return bounds.without_open_ends(integers(st, whole).map(lambda number: decimal.Decimal(number) * step))
    return bounds.without_open_ends(st.decimals(**ends, places=places, allow_nan=False, allow_infinity=False))


def ordered(name: str, **options: Any) -> Callable[[Any, Bounds], Any]:
    """Values of a strategy that takes ends."""

    def make(st: Any, bounds: Bounds) -> Any:
        extra = {key: value(st) if callable(value) else value for key, value in options.items()}
        return bounds.without_open_ends(getattr(st, name)(**{**extra, **bounds.ends()}))

    return make


def uuids(st: Any, bounds: Bounds) -> Any:
    """UUIDs of the version that is wanted."""
    version = bounds.get("uuid_version")
    return st.uuids(version=version) if version in (None, 1, 2, 3, 4, 5) else st.uuids()


def zones(st: Any) -> Any:
    """UTC and whole hours around it."""
    hours = st.integers(-11, 12).map(lambda hour: datetime.timezone(datetime.timedelta(hours=hour)))
    return st.just(datetime.timezone.utc) | hours


def plain_values(st: Any, _: Bounds) -> Any:
    """What JSON can carry."""
    leaf = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    return st.recursive(leaf, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)


SCALARS: dict[Any, Callable[[Any, Bounds], Any]] = {
    None: lambda st, bounds: st.none(),
    types.NoneType: lambda st, bounds: st.none(),
    Any: plain_values,
    object: plain_values,
    bool: lambda st, bounds: st.booleans(),
    int: integers,
    float: floats,
    complex: lambda st, bounds: st.complex_numbers(allow_nan=False, allow_infinity=False),
    str: texts,
    bytes: lambda st, bounds: st.binary(**bounds.sizes()),
    bytearray: lambda st, bounds: st.binary(**bounds.sizes()).map(bytearray),
    decimal.Decimal: decimals,
    uuid.UUID: uuids,
    datetime.datetime: ordered("datetimes", timezones=lambda st: st.none() | zones(st)),
    datetime.date: ordered("dates"),
    datetime.time: ordered("times"),
    datetime.timedelta: ordered("timedeltas"),
    pydantic.AwareDatetime: ordered("datetimes", timezones=zones),
    pydantic.NaiveDatetime: ordered("datetimes"),
    pydantic.PastDate: ordered("dates", max_value=LONG_AGO.date()),
    pydantic.PastDatetime: ordered("datetimes", max_value=LONG_AGO),
    pydantic.FutureDate: ordered("dates", min_value=FAR_AHEAD.date()),
    pydantic.FutureDatetime: ordered("datetimes", min_value=FAR_AHEAD),
    pydantic.EmailStr: lambda st, bounds: st.emails(),
    SecretStr: lambda st, bounds: texts(st, bounds).map(SecretStr),
    SecretBytes: lambda st, bounds: st.binary(**bounds.sizes()).map(SecretBytes),
    pathlib.Path: lambda st, bounds: st.sampled_from(["a", "a/b.txt", "/tmp/a b"]).map(pathlib.Path),
    pathlib.PurePath: lambda st, bounds: st.sampled_from(["a", "a/b.txt", "/tmp/a b"]).map(pathlib.PurePath),
}
"""Type -> what makes its strategy, from the module of hypothesis and the bounds."""


# ---- small questions


def unfolded(metadata: typing.Iterable[Any]) -> typing.Iterator[Any]:
    """The marks of an annotation one by one; `Field(...)` inside of an annotation holds others."""
    for mark in metadata:
        if isinstance(mark, FieldInfo):
            yield from unfolded(mark.metadata)
        elif mark is not None:
            yield mark


def none_first(parts: typing.Iterable[Any]) -> list[Any]:
    """The members of a union with None in front, which is what an input is shrunk to."""
    return sorted(parts, key=lambda part: part not in (None, types.NoneType))


def is_hashable(value: object) -> bool:
    """Whether a value can be looked up."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def hashable_set(kind: Any, items: list[Any]) -> Any:
    """A set of the items; the list where they have no hash, which pydantic makes a set of."""
    try:
        return frozenset(items) if kind is frozenset else set(items)
    except TypeError:
        return items


def accepts(annotation: Any) -> Callable[[Any], bool]:
    """Whether values fit an annotation."""
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)

    def fits(value: Any) -> bool:
        try:
            adapter.validate_python(value)
        except Exception:  # a validator of the user's may raise anything
            return False
        return True

    return fits
