"""The verdict on types against pydantic itself: whatever a target accepts must have been called compatible."""

# ruff: noqa: UP007, UP045 - both spellings of a union are types to compare
from __future__ import annotations

import collections
import collections.abc as c
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import pathlib
import re
import typing as t
import uuid

import pytest
from hypothesis import given, settings, strategies as st
from pydantic import (
    AfterValidator,
    AnyUrl,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    Json,
    RootModel,
    SecretStr,
    Strict,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import TypedDict

from chainweaver.compiler.types import Constant, compatible, describe

T = t.TypeVar("T")
Bound = t.TypeVar("Bound", bound=int)


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


class Shape(enum.Enum):
    ROUND = (1, 1)


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Mode(str, enum.Enum):
    FAST = "fast"
    ONE = "1"


class Invoice(BaseModel):
    total: int


class PaidInvoice(Invoice):
    on: str = "today"


class Person(BaseModel):
    name: str
    age: int = 0


class Relaxed(BaseModel):
    a: int = 0


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


class Vector(BaseModel):
    items: list[float]


class StrictSum(BaseModel):
    model_config = ConfigDict(strict=True)
    total: int


class Attributes(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    total: int


class Ids(RootModel[list[int]]):
    pass


class Boxed(BaseModel, t.Generic[T]):
    item: T


class Movie(TypedDict):
    title: str
    year: int


class Partial(TypedDict, total=False):
    title: str


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass
class Named:
    name: list[int]


class Pair(t.NamedTuple):
    a: int
    b: str


class Widget:
    pass


class Gadget(Widget):
    pass


class Countable:
    def __index__(self) -> int:
        return 3


class Rows:
    def __iter__(self) -> t.Iterator[int]:
        return iter([1, 2])


UserId = t.NewType("UserId", int)

DAY = dt.datetime(2024, 5, 1)
# Types with values of theirs; containers are never empty, because an empty one fits every container.
TYPES: list[tuple[t.Any, list[t.Any]]] = [
    (type(None), [None]),
    (bool, [True, False]),
    (int, [0, 1, 7, -3, 2**70]),
    (float, [0.0, 1.0, 2.5, float("nan")]),
    (complex, [1j, complex(2, 0)]),
    (decimal.Decimal, [decimal.Decimal("1.5"), decimal.Decimal(2)]),
    (fractions.Fraction, [fractions.Fraction(1, 3), fractions.Fraction(2)]),
    (str, ["", "a", "1", "1.5", "true", "2024-05-01", "2024-05-01T10:00", "10:00", "P2D", "1/3", "fast", "blue",
           "1+2j", str(uuid.UUID(int=5)), "http://x.example/", "[1]"]),
    (bytes, [b"", b"a", b"1", b"1.5", b"2024-05-01", b"10:00", b"[1]", uuid.UUID(int=5).bytes, b"P2D"]),
    (dt.date, [DAY.date()]),
    (dt.datetime, [DAY, DAY.replace(hour=3)]),
    (dt.time, [dt.time(3)]),
    (dt.timedelta, [dt.timedelta(2)]),
    (uuid.UUID, [uuid.UUID(int=5)]),
    (pathlib.Path, [pathlib.Path("a")]),
    (AnyUrl, ["http://x.example/"]),
    (HttpUrl, ["http://x.example/"]),
    (SecretStr, ["a", "1"]),
    (re.Pattern, ["a"]),
    (Colour, list(Colour)),
    (Size, list(Size)),
    (Mode, list(Mode)),
    (t.Literal[1, "a"], [1, "a"]),
    (t.Literal["fast"], ["fast"]),
    (t.Literal[True], [True]),
    (t.Annotated[int, Field(ge=10)], [10, 500]),
    (t.Annotated[int, Field(lt=10)], [9, -4]),
    (t.Annotated[float, Field(gt=1, le=2)], [1.5, 2.0]),
    (t.Annotated[str, Field(min_length=3)], ["abc", "1000"]),
    (t.Annotated[str, Field(max_length=2)], ["ab", "1"]),
    (t.Annotated[int, Strict()], [1, 2]),
    (t.Annotated[list[int], Strict()], [[1]]),
    (t.Annotated[int, BeforeValidator(lambda v: 1)], [1]),
    (t.Annotated[int, AfterValidator(lambda v: [v])], [1]),
    (Json[list[int]], ["[1]"]),
    (list, [[1], ["a"], [[1]], [{"a": 1}]]),
    (list[int], [[1], [1, 2]]),
    (list[str], [["a"], ["1", "2"]]),
    (list[bool], [[True]]),
    (list[dict[str, int]], [[{"total": 1}], [{"a": 1}]]),
    (list[list[int]], [[[1]], [[1, 2]]]),
    (tuple, [(1,), ("a", 2), (1, "b")]),
    (tuple[int, ...], [(1,), (1, 2)]),
    (tuple[int, str], [(1, "a"), (1, "2")]),
    (tuple[int, int, int], [(1, 2, 3)]),
    (set[int], [{1}, {1, 2}]),
    (frozenset[str], [frozenset({"a"}), frozenset({"1"})]),
    (collections.deque[int], [collections.deque([1])]),
    (dict, [{"a": 1}, {1: 2}, {"total": 1}, {"title": "a", "year": 1}, {"name": "n"}, {"name": [1]}, {"x": 1},
    {"items": [1]}]),
    (dict[str, int], [{"a": 1}, {"total": 1}, {"x": 1}, {"title": 1, "year": 2}]),
    (dict[int, str], [{1: "a"}, {2: "2"}]),
    (dict[str, list[int]], [{"a": [1]}, {"items": [1]}, {"name": [1]}]),
    (collections.OrderedDict[str, int], [collections.OrderedDict(a=1)]),
    (collections.Counter[str], [collections.Counter("ab")]),
    (c.Sequence[int], [[1], (1, 2)]),
    (c.Mapping[str, int], [{"total": 1}, {"b": 1}]),
    (c.Iterable[int], [[1]]),
    (c.Callable[[int], int], [abs, Widget]),
    (type[int], [int, bool]),
    (type[Widget], [Gadget]),
    (Invoice, [Invoice(total=1), PaidInvoice(total=1)]),
    (PaidInvoice, [PaidInvoice(total=1)]),
    (Person, [Person(name="a")]),
    (Relaxed, [Relaxed()]),
    (Tree, [Tree(value=1), Tree(value=1, children=[Tree(value=2)])]),
    (Vector, [Vector(items=[1.0])]),
    (StrictSum, [StrictSum(total=1)]),
    (Attributes, [Attributes(total=1)]),
    (Ids, [Ids([1])]),
    (Boxed[int], [Boxed[int](item=1)]),
    (Boxed[str], [Boxed[str](item="1")]),
    (Movie, [{"title": "a", "year": 1}]),
    (Partial, [{"title": "a"}]),
    (Point, [Point(1)]),
    (Named, [Named([1])]),
    (Pair, [Pair(1, "a")]),
    (Widget, [Widget(), Gadget()]),
    (Gadget, [Gadget()]),
    (Countable, [Countable()]),
    (Rows, [Rows()]),
    (range, [range(3)]),
    (bytearray, [bytearray(b"1")]),
    (c.Hashable, [1, "a"]),
    (t.Any, [1, "a", None, [1]]),
    (object, [1]),
    (T, [1, [1]]),
    (Bound, [1]),
    (UserId, [1]),
    (t.Optional[int], [None, 3]),
    (t.Union[str, list[int]], ["a", "1", [1]]),
    (t.Union[Invoice, Person], [Invoice(total=1), Person(name="a")]),
]  # fmt: skip


def adapter(annotation: t.Any) -> TypeAdapter[t.Any]:
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except Exception:
        return TypeAdapter(annotation)


ADAPTERS = [adapter(annotation) for annotation, _ in TYPES]


def produced(index: int) -> list[t.Any]:
    """What validation makes of the values of a type: this is what arrives at the next step."""
    return [ADAPTERS[index].validate_python(value) for value in TYPES[index][1]]


def accepts(target: TypeAdapter[t.Any], value: t.Any) -> bool:
    try:
        target.validate_python(value)
    except ValidationError:
        return False
    return True


def test_no_pair_of_types_gives_a_false_alarm():
    """api.md, type rule: whenever pydantic accepts one of the values, the types are compatible."""
    alarms = [
        f"{describe(source)} into {describe(target)}: {value!r}"
        for index, (source, _) in enumerate(TYPES)
        for (target, _), taking in zip(TYPES, ADAPTERS, strict=True)
        if not compatible(source, target)
        for value in produced(index)
        if accepts(taking, value)
    ]
    assert alarms == []


PLAIN = [
    (int, st.integers(-5, 5)),
    (float, st.sampled_from([0.0, 1.0, 0.5])),
    (str, st.sampled_from(["a", "1", "true", "2024-05-01"])),
    (bool, st.booleans()),
    (type(None), st.none()),
    (bytes, st.sampled_from([b"a", b"1"])),
    (dt.date, st.just(DAY.date())),
    (decimal.Decimal, st.just(decimal.Decimal(1))),
    (Colour, st.sampled_from(Colour)),
    (Size, st.sampled_from(Size)),
    (t.Literal["a", 1], st.sampled_from(["a", 1])),
    (Invoice, st.builds(Invoice, total=st.integers(0, 3))),
    (Relaxed, st.just(Relaxed())),
    (Point, st.just(Point(1))),
    (Movie, st.just({"title": "1", "year": 2})),
]


def listed(inner):
    return list[inner[0]], st.lists(inner[1], min_size=1, max_size=2)


def optional(inner):
    return t.Optional[inner[0]], st.none() | inner[1]


def keyed(inner):
    keys = st.sampled_from(["total", "a", "x", "1"])
    return dict[str, inner[0]], st.dictionaries(keys, inner[1], min_size=1, max_size=2)


def repeated(inner):
    return tuple[inner[0], ...], st.lists(inner[1], min_size=1, max_size=2).map(tuple)


def either(one, other):
    return t.Union[one[0], other[0]], one[1] | other[1]


def paired(one, other):
    return tuple[one[0], other[0]], st.tuples(one[1], other[1])


TYPED = st.recursive(
    st.sampled_from(PLAIN),
    lambda inner: (
        st.builds(listed, inner)
        | st.builds(optional, inner)
        | st.builds(keyed, inner)
        | st.builds(repeated, inner)
        | st.builds(either, inner, inner)
        | st.builds(paired, inner, inner)
    ),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(TYPED, TYPED, st.data())
def test_no_generated_pair_of_types_gives_a_false_alarm(source, target, data):
    """api.md, type rule: the same for nested types, and for known values of theirs."""
    value = adapter(source[0]).validate_python(data.draw(source[1]))
    if accepts(adapter(target[0]), value):
        assert compatible(source[0], target[0])
        assert compatible(Constant(value), target[0])


@settings(max_examples=100, deadline=None)
@given(TYPED)
def test_every_generated_type_fits_itself_and_any(typed):
    """api.md, type rule: what comes out of a field can go into the same field, and into Any."""
    assert compatible(typed[0], typed[0])
    assert compatible(typed[0], t.Any)
    assert compatible(t.Any, typed[0])


YES, NO = True, False
TABLE: list[tuple[t.Any, t.Any, bool]] = [
    # plain values, as lax validation takes them
    (bool, int, YES), (int, bool, YES), (int, float, YES), (float, int, YES), (str, int, YES), (str, float, YES),
    (str, bool, YES), (bytes, str, YES), (str, bytes, YES), (bytes, int, YES), (str, dt.datetime, YES),
    (str, dt.date, YES), (int, dt.datetime, YES), (float, dt.timedelta, YES), (dt.date, dt.datetime, YES),
    (dt.datetime, dt.date, YES), (str, uuid.UUID, YES), (str, pathlib.Path, YES), (str, decimal.Decimal, YES),
    (int, decimal.Decimal, YES), (decimal.Decimal, float, YES), (str, SecretStr, YES), (str, HttpUrl, YES),
    (int, complex, YES), (str, complex, YES), (UserId, int, YES), (int, UserId, YES), (Bound, str, NO),
    (Countable, int, YES), (Countable, float, YES), (bytearray, str, YES),
    (int, str, NO), (float, str, NO), (bool, str, NO), (type(None), str, NO), (type(None), int, NO),
    (str, type(None), NO),
    (dt.datetime, int, NO), (dt.datetime, str, NO), (dt.time, dt.date, NO), (uuid.UUID, str, NO), (uuid.UUID, int, NO),
    (pathlib.Path, str, NO), (decimal.Decimal, str, NO), (SecretStr, str, NO), (SecretStr, int, NO), (HttpUrl, str, NO),
    (int, HttpUrl, NO), (int, pathlib.Path, NO), (int, bytes, NO), (float, uuid.UUID, NO), (UserId, str, NO),
    (Widget, int, NO), (Widget, str, NO), (int, dt.time, YES), (complex, float, NO), (int, SecretStr, NO),
    # unions
    (int, t.Optional[int], YES), (t.Optional[int], int, YES), (type(None), t.Optional[str], YES),
    (t.Union[str, list[int]], list[int], YES), (t.Union[dict, list], int, NO), (list, t.Union[int, str], NO),
    (t.Optional[list[str]], t.Optional[int], YES), (t.Optional[list[str]], int, NO), (int | None, float | None, YES),
    # literals, enums, constraints
    (t.Literal["a"], str, YES), (t.Literal["a"], int, NO), (t.Literal["7"], int, YES), (str, t.Literal["a"], YES),
    (int, t.Literal["a"], NO), (t.Literal["a"], t.Literal["a", "b"], YES), (t.Literal["a"], t.Literal["b"], NO),
    (bool, t.Literal[1], YES), (str, Mode, YES), (int, Mode, NO), (int, Size, YES), (str, Size, YES), (Size, int, YES),
    (Mode, str, YES), (Colour, str, YES), (Colour, dt.time, NO), (Shape, float, NO), (Shape, list[int], NO),
    (int, Colour, YES), (list, Colour, NO), (Mode, int, YES),
    (Colour, Size, YES), (Mode, Size, YES), (t.Literal["fast"], Mode, YES), (t.Literal["slow"], Mode, NO),
    (t.Annotated[int, Field(ge=10)], t.Annotated[int, Field(lt=10)], NO),
    (t.Annotated[int, Field(ge=10)], t.Annotated[int, Field(le=10)], YES),
    (int, t.Annotated[int, Field(ge=10)], YES),
    (t.Annotated[str, Field(min_length=3)], t.Annotated[str, Field(max_length=2)], NO),
    (t.Annotated[str, Field(min_length=3)], t.Annotated[str, Field(max_length=3)], YES),
    (t.Literal[3], t.Annotated[int, Field(ge=10)], NO),
    # containers
    (str, list[int], NO), (str, list[str], NO), (int, list, NO), (list, int, NO), (list, str, NO), (dict, int, NO),
    (dict, str, NO), (list, dict, NO), (dict, list, NO), (bytes, list[int], NO), (list[str], list[int], YES),
    (list[int], list[str], NO), (list[dict], list[int], NO), (list[int], list[list[int]], NO), (list, list[int], YES),
    (list[int], set[int], YES), (set[int], list[int], YES), (list[int], tuple[int, ...], YES), (tuple, list[int], YES),
    (tuple[int, str], list[int], YES), (tuple[int, list], list[int], NO), (tuple[int, str], tuple[int, int, int], NO),
    (tuple[int, int], tuple[str, str], NO), (list[int], tuple[int, str], NO), (list[str], tuple[int, str], YES),
    (frozenset[int], set[str], NO), (collections.deque[int], list[int], YES), (range, list[int], YES),
    (c.Sequence[int], list[int], YES), (c.Sequence[dict], list[int], NO), (list[int], c.Sequence[int], YES),
    (list[dict], c.Sequence[int], NO), (int, c.Sequence[int], NO), (str, c.Sequence[int], NO), (Rows, list[int], YES),
    (list[int], c.Iterable[int], YES), (int, c.Iterable[int], NO), (c.Iterable[int], list[int], YES),
    (dict[str, int], dict[str, float], YES), (dict[str, list], dict[str, int], NO),
    (dict[int, str], dict[str, str], NO),
    (dict[str, int], dict[int, int], YES), (dict[str, int], c.Mapping[str, int], YES), (c.Mapping[str, int], dict, YES),
    (collections.Counter[str], dict[str, int], YES), (dict[str, list[dict]], dict[str, list[int]], NO),
    # models, dataclasses, typed dicts
    (PaidInvoice, Invoice, YES), (Invoice, PaidInvoice, YES), (Invoice, Person, NO), (dict, Invoice, YES),
    (dict[str, int], Invoice, YES), (dict[str, dict], Invoice, NO), (dict[int, int], Invoice, NO), (list, Invoice, NO),
    (dict[int, int], Relaxed, YES), (Invoice, dict, NO), (Invoice, str, NO), (str, Invoice, NO),
    (Invoice, list[int], NO),
    (Invoice, Attributes, YES), (int, Attributes, NO), (Movie, Person, NO), (Movie, dict, YES), (Movie, Movie, YES),
    (Movie, dict[str, list], NO), (dict[str, str], Movie, YES), (dict[str, list], Movie, NO), (Partial, Movie, NO),
    (Movie, Partial, YES), (Point, Invoice, NO), (dict, Point, YES), (Point, dict, NO), (dict[str, int], Named, NO),
    (Named, Point, NO), (list[Invoice], list[Person], NO), (list[Invoice], list[PaidInvoice], YES), (Tree, Tree, YES),
    (dict[str, t.Any], Tree, YES), (Tree, Invoice, NO), (list[int], Ids, YES), (list[dict], Ids, NO), (Ids, Ids, YES),
    (Boxed[int], Boxed[str], YES), (Boxed[int], Invoice, NO), (list[int], Pair, YES), (int, Pair, NO),
    (Pair, tuple, YES),
    (Pair, tuple[int, int, int], NO), (Pair, Pair, YES), (Widget, Gadget, YES), (Gadget, Widget, YES),
    (Widget, Rows, NO),
    # strictness narrows, validators that see the input first widen
    (str, t.Annotated[int, Strict()], NO), (int, t.Annotated[int, Strict()], YES),
    (tuple[int, ...], t.Annotated[list[int], Strict()], NO), (c.Sequence[int], t.Annotated[list[int], Strict()], YES),
    (str, t.Annotated[int, BeforeValidator(len)], YES), (list, t.Annotated[int, BeforeValidator(len)], YES),
    (list, t.Annotated[int, AfterValidator(abs)], NO), (t.Annotated[int, AfterValidator(str)], list, NO),
    (t.Annotated[int, AfterValidator(lambda v: [v])], list, YES),
    (str, Json[list[int]], YES), (list[int], Json[list[int]], NO), (Json[list[int]], list[int], YES),
    (Json[list[int]], int, NO),
    # code
    (c.Callable[[int], int], c.Callable, YES), (int, c.Callable, NO), (Widget, c.Callable, NO),
    (type[int], c.Callable, YES),
    (c.Callable, int, NO), (type[int], type[bool], YES), (type[int], type[str], NO), (int, type[int], NO),
    (type[int], int, NO),
    # nothing is known
    (t.Any, list[int], YES), (list[int], t.Any, YES), (object, int, YES), (T, int, YES), (re.Pattern, int, YES),
    ("nowhere.Unknown", int, YES), (int, "nowhere.Unknown", YES), (c.Hashable, int, YES), (c.Hashable, list, YES),
]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "target", "verdict"),
    [pytest.param(*row, id=f"{describe(row[0])}-into-{describe(row[1])}") for row in TABLE],
)
def test_the_verdict_on_a_pair_of_types_is_the_one_written_down(source, target, verdict):
    """api.md, type rule: coercible and unknown is compatible, hopeless is not."""
    assert compatible(source, target) is verdict


@pytest.mark.parametrize(
    ("value", "target", "verdict"),
    [
        ("seven", int, NO), ("7", int, YES), (1.5, int, NO), (2.0, int, YES), (None, int, NO), ([], list[int], YES),
        ([1, "2"], list[int], YES), ([1, "a"], list[int], NO), ([], tuple[int, int], NO),
        ((1, 2), tuple[int, int], YES),
        ({"total": "3"}, Invoice, YES), ({"total": "three"}, Invoice, NO), ({}, Invoice, NO),
        ({"a": 1}, dict[str, int], YES),
        ({"a": "b"}, dict[str, int], NO), ({1: 2}, dict[str, str], YES), ("fast", Mode, YES), ("slow", Mode, NO),
        ({1, 2}, list[int], YES), (Widget(), Widget, YES), (Widget(), int, NO),
        ("x", t.Annotated[str, Field(min_length=2)], NO),
        ("2024-13-01", dt.date, NO), ("a", t.Annotated[int, BeforeValidator(len)], YES),
    ],
)  # fmt: skip
def test_a_known_value_is_judged_by_itself(value, target, verdict):
    """api.md, type rule: a literal in a mapping is no better than its own value."""
    assert compatible(Constant(value), target) is verdict
