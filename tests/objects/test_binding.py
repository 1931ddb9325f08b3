"""Typed values through a store of plain ones: reduced, written, read and restored by the declared types."""

# ruff: noqa: UP007, UP045 - users write unions in both spellings
import typing
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from fractions import Fraction
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union

import pytest
import typing_extensions
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    PrivateAttr,
    RootModel,
    SecretStr,
    computed_field,
    field_validator,
    model_validator,
)

from chainweaver.objects import (
    PlainEncodeError,
    RestoreError,
    bind_reduce,
    bind_restore,
    decode_plain,
    encode_plain,
    secret_fields,
)


class Colour(Enum):
    RED = (255, 0, 0)
    BLUE = (0, 0, 255)


class Level(IntEnum):
    LOW = 1


class Access(Flag):
    READ = 1
    WRITE = 2


class Point(BaseModel):
    x: int
    y: int = 0


class Far(Point):
    z: int = 9


class Pair(NamedTuple):
    left: Point
    right: int


@dataclass
class Box:
    corner: Point
    tags: list[Colour] = field(default_factory=list)
    area: int = field(init=False, default=0)

    def __post_init__(self):
        self.area += 10


class Row(typing_extensions.TypedDict):
    point: Point
    note: typing_extensions.NotRequired[str]


class Tree(BaseModel):
    label: str
    children: list["Tree"] = []


class Doubling(BaseModel):
    n: int
    m: Annotated[int, AfterValidator(lambda v: v * 2)] = 1

    @field_validator("n")
    @classmethod
    def double(cls, n):
        return n * 2

    @model_validator(mode="after")
    def count(self):
        self.__dict__["m"] += 1
        return self


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int
    _seen: int = PrivateAttr(default=0)


class Names(RootModel[list[str]]):
    pass


T = typing.TypeVar("T")


class Envelope(BaseModel, typing.Generic[T]):
    content: T


Number = typing.NewType("Number", int)
Alias = typing_extensions.TypeAliasType("Alias", list[Point])


def output_of(annotation: Any) -> type[BaseModel]:
    """An output model with one field, `v`."""
    config = ConfigDict(arbitrary_types_allowed=True)
    return type("Out", (BaseModel,), {"__annotations__": {"v": annotation}, "model_config": config})


def through_bytes(annotation: Any, value: Any) -> Any:
    """The value of one output field, as a resumed run gets it back from a file."""
    model = output_of(annotation)
    written = encode_plain(bind_reduce(model)({"v": value}))
    return bind_restore(model)(decode_plain(written))["v"]


def opened():
    value = Open(a=1, more=[2])
    value._seen = 5
    return value


ROUND_TRIPS: list[tuple[Any, Any]] = [
    (int, 3),
    (Any, {"a": (1, 2)}),
    (Number, 3),
    (Path, Path("/tmp/a")),
    (Decimal, Decimal("1.10")),
    (list[int], [1, 2]),
    (Point, Point(x=1)),
    (Optional[Point], None),
    (Optional[Point], Point(x=1, y=2)),
    (list[Point], [Point(x=1), Point(x=2)]),
    (Alias, [Point(x=1)]),
    (Sequence[Point], (Point(x=1),)),
    (tuple[Point, ...], (Point(x=1),)),
    (tuple[Point, int], (Point(x=1), 2)),
    (set[Colour], {Colour.RED, Colour.BLUE}),
    (frozenset[Pair], frozenset()),
    (deque[Point], deque([Point(x=1)], 4)),
    (dict[str, Point], {"a": Point(x=1)}),
    (Mapping[Colour, list[Point]], {Colour.RED: [Point(x=1)]}),
    (OrderedDict[Pair, Point], OrderedDict()),
    (Colour, Colour.BLUE),
    (Level, Level.LOW),
    (Access, Access.READ | Access.WRITE),
    (Literal[Colour.RED, "x", 3], Colour.RED),
    (Literal[Colour.RED, "x", 3], "x"),
    (Pair, Pair(Point(x=1), 2)),
    (Box, Box(Point(x=1), [Colour.RED])),
    (Row, {"point": Point(x=1), "note": "n"}),
    (Tree, Tree(label="a", children=[Tree(label="b")])),
    (Union[Point, Far], Far(x=1)),
    (Union[Point, Box, int, str], 4),
    (Union[list[Point], list[Box]], [Box(Point(x=1))]),
    (Union[dict[str, int], Point], {"x": 1}),
    (Union[Row, Point], {"point": Point(x=1)}),
    (Envelope[Point], Envelope[Point](content=Point(x=1))),
    (Names, Names(["a"])),
    (Open, opened()),
    (Doubling, Doubling(n=3)),
    (Annotated[list[Annotated[Point, Field(description="d")]], Field(min_length=1)], [Point(x=1)]),
    (HttpUrl, HttpUrl("https://example.org/a")),
    (IPv4Address, IPv4Address("10.0.0.1")),
    (Union[IPv4Address, Point, None], Point(x=1)),
    (Fraction, Fraction(1, 3)),
]


@pytest.mark.parametrize(("annotation", "value"), ROUND_TRIPS, ids=[str(a) for a, _ in ROUND_TRIPS])
def test_a_value_comes_back_equal_and_of_its_declared_type(annotation, value):
    """R34: the type comes from the compiled flow, not from the bytes."""
    restored = through_bytes(annotation, value)

    assert restored == value
    assert type(restored) is type(value)
    assert repr(restored) == repr(value) or isinstance(value, (set, frozenset))


@pytest.mark.parametrize(("annotation", "value"), ROUND_TRIPS, ids=[str(a) for a, _ in ROUND_TRIPS])
def test_live_values_of_the_declared_type_pass_restore_unchanged(annotation, value):
    """R34: a store that keeps objects needs no other path."""
    model = output_of(annotation)

    assert bind_restore(model)({"v": value}) == {"v": value}


def test_validators_and_post_init_do_not_run_a_second_time():
    """R34: a validator that doubled a number does not double it again."""
    assert through_bytes(Doubling, Doubling(n=3)).model_dump() == {"n": 6, "m": 2}
    assert through_bytes(Box, Box(Point(x=1))).area == 10


def test_unset_fields_extras_and_private_attributes_come_back():
    """R30: what a model knows beside its fields is part of it."""
    restored = through_bytes(Open, opened())
    assert (restored.more, restored._seen) == ([2], 5)
    assert through_bytes(Point, Point(x=1)).model_fields_set == {"x"}
    assert through_bytes(Point, Point(x=1, y=0)).model_fields_set == {"x", "y"}


def test_fields_shared_by_reduce_and_restore_are_new_dicts():
    """R30: restored models do not share their dict with what was read."""

    class Out(BaseModel):
        p: Point

    stored = {"p": {"x": 1, "y": 2}}
    bind_restore(Out)(stored)["p"].x = 99
    assert stored == {"p": {"x": 1, "y": 2}}


def test_computed_fields_are_restored_by_their_return_type():
    """R34: outputs hold them beside the fields."""

    class Out(BaseModel):
        x: int

        @computed_field
        def point(self) -> Point:
            return Point(x=self.x)

    plain = bind_reduce(Out)({"x": 1, "point": Point(x=1, y=1)})
    assert plain == {"x": 1, "point": {"x": 1, "y": 1}}
    assert bind_restore(Out)(plain)["point"] == Point(x=1, y=1)


def test_enum_values_kept_by_use_enum_values_stay_values():
    """R34: a field holds what it held."""
    assert through_bytes(Colour, (255, 0, 0)) == (255, 0, 0)


@dataclass
class Loose:
    a: int


def loose():
    value = Loose(1)
    value.b = 2  # type: ignore[attr-defined]  # an attribute that is no field
    return value


@dataclass
class Labelled(str):
    colour: int = 0


class Unknown:
    pass


@pytest.mark.parametrize(
    ("annotation", "value", "why"),
    [
        (Any, Point(x=1), "declare that type"),
        (object, [Loose(1)], "declare that type"),
        (dict[str, Any], {"a": Colour.RED}, "no plain form"),
        (int, Level.LOW, "subclass of 'int'"),
        (Point, Far(x=1), "declare the union of the types"),
        (Loose, loose(), "attribute 'b' is not a field"),
        (Labelled, Labelled(), "."),
        (Unknown, Unknown(), "no plain form"),
        (SecretStr, SecretStr("s3cr3t"), "secrets are not written"),
        (Any, SecretStr("s3cr3t"), "secrets are not written"),
        (list[Point], [1], "declares 'Point'"),
        (int, "text", "declares 'int'"),
    ],
    ids=lambda one: str(one).partition(" object at ")[0],  # workers have to agree on the names of tests
)
def test_what_would_not_come_back_is_refused_before_it_is_written(annotation, value, why):
    """R34, R39: never a silent change of type."""
    with pytest.raises(PlainEncodeError, match=why) as caught:
        through_bytes(annotation, value)
    assert caught.value.key == "v"
    assert "s3cr3t" not in str(caught.value)


def test_a_model_that_contains_itself_is_refused():
    """R34: cycles end in a reason, not in RecursionError."""
    tree = Tree(label="a")
    tree.children.append(tree)
    with pytest.raises(PlainEncodeError, match="nested too deeply"):
        through_bytes(Tree, tree)


@pytest.mark.parametrize(
    ("annotation", "content"),
    [
        (int, "text"),
        (list[int], {"a": 1}),
        (Point, 3),
        (Point, {"x": 1, "os": "system"}),
        (Point, ({"x": 1}, 5, None, None)),
        (Colour, "GREEN"),
        (Colour, []),
        (Pair, (1,)),
        (Box, {"corner": {"x": 1}, "__class__": "x"}),
        (tuple[Point, int], ({"x": 1},)),
        (dict[str, Point], [1]),
        (set[Point], {"x": 1}),
        (SecretStr, "s"),
    ],
    ids=lambda one: str(one).partition(" object at ")[0],  # workers have to agree on the names of tests
)
def test_stored_values_of_another_shape_are_refused(annotation, content):
    """R34: bytes decide nothing about types."""
    model = output_of(annotation)
    with pytest.raises(RestoreError) as caught:
        bind_restore(model)({"v": content})
    assert caught.value.key == "v"


def test_secrets_are_found_wherever_they_are_declared():
    """R39: the compiler can refuse them before a run."""

    class Login(BaseModel):
        password: SecretStr

    class Out(BaseModel):
        plain: str
        tree: Tree
        logins: dict[str, list[Login]] | None

    assert secret_fields(Out) == ("logins",)
