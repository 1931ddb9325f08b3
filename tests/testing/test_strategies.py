"""Strategies: whatever a model asks for can be made, and is accepted by it."""

from __future__ import annotations

import datetime
import decimal
import enum
import ipaddress
import pathlib
import subprocess
import sys
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, Optional, TypeVar, Union

import pytest
from annotated_types import MultipleOf, Predicate
from hypothesis import find, given, settings, strategies as st
from pydantic import (
    AnyUrl,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FutureDate,
    Json,
    PastDatetime,
    PositiveInt,
    RootModel,
    SecretBytes,
    SecretStr,
    StringConstraints,
    create_model,
    field_validator,
)
from typing_extensions import NotRequired, TypeAliasType, TypedDict

from chainweaver import MissingExtraError, Native, tool
from chainweaver.testing import strategy_for


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    n: PositiveInt
    tags: list[str] = []


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


class Point(NamedTuple):
    x: int
    y: float = 0.0


class Named(TypedDict):
    a: int
    b: NotRequired[str]


@dataclass
class Dated:
    day: datetime.date
    label: str = ""


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]
UserId = NewType("UserId", int)
Money = TypeAliasType("Money", Annotated[decimal.Decimal, Field(ge=0, decimal_places=2)])
T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    held: T


Grid = RootModel[list[list[int]]]

TYPES: dict[str, Any] = {
    "int": int,
    "int_bounds": Annotated[int, Field(gt=3, le=8)],
    "int_multiple": Annotated[int, Field(ge=10, lt=30, multiple_of=7)],
    "float": float,
    "float_bounds": Annotated[float, Field(gt=0, lt=1)],
    "float_multiple": Annotated[float, Field(multiple_of=0.5, ge=1)],
    "str": str,
    "str_bounds": Annotated[str, Field(min_length=2, max_length=4)],
    "str_pattern": Annotated[str, StringConstraints(pattern="^[a-c]+[0-9]$", max_length=6)],
    "bytes": Annotated[bytes, Field(max_length=3)],
    "bool": bool,
    "none": None,
    "decimal": decimal.Decimal,
    "decimal_digits": Annotated[decimal.Decimal, Field(max_digits=5, decimal_places=2, gt=0)],
    "decimal_multiple": Annotated[decimal.Decimal, MultipleOf(decimal.Decimal("0.25")), Field(ge=0, le=2)],
    "datetime": datetime.datetime,
    "aware": AwareDatetime,
    "past": PastDatetime,
    "future": FutureDate,
    "date": Annotated[datetime.date, Field(ge=datetime.date(2024, 1, 1))],
    "time": datetime.time,
    "span": datetime.timedelta,
    "uuid": uuid.UUID,
    "path": pathlib.Path,
    "secret": SecretStr,
    "url": AnyUrl,
    "ip": ipaddress.IPv4Address,
    "json": Json[list[int]],
    "literal": Literal["a", 1, None],
    "enum": Colour,
    "optional": Annotated[int, Field(gt=2)] | None,
    "optional_of_old": Optional[int],  # noqa: UP045 - written so in many a model
    "union": int | str | Inner,
    "union_of_old": Union[int, str],  # noqa: UP007 - likewise
    "tagged": Pet,
    "list": Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=3)],
    "bare_list": list,
    "set": set[int],
    "frozenset": Annotated[frozenset[str], Field(min_length=1)],
    "set_of_models": set[Colour],
    "tuple": tuple[int, str],
    "tuple_any": tuple[int, ...],
    "dict": dict[str, list[Inner]],
    "bare_dict": dict,
    "deque": deque[int],
    "nested": Inner,
    "tree": Tree,
    "root": Grid,
    "named_tuple": Point,
    "typed_dict": Named,
    "dataclass": Dated,
    "new_type": UserId,
    "any": Any,
    "native": Native[list[int]],
    "alias_type": Money,
    "generic": Box[int],
    "chosen": Annotated[int, st.sampled_from([3, 5])],
    "list_of_any": list[Any],
    "tuple_bare": tuple,
    "secret_bytes": SecretBytes,
    "even": Annotated[int, Predicate(lambda n: n % 2 == 0)],
}


@pytest.mark.parametrize("name", TYPES)
def test_every_type_of_field_has_inputs_that_its_model_accepts(name: str):
    """api.md: strategy_for(model)."""
    model = create_model("Made", field=(TYPES[name], ...))

    @settings(max_examples=20)
    @given(strategy_for(model))
    def accepted(raw: dict[str, Any]) -> None:
        model.model_validate(raw)

    accepted()


@pytest.mark.parametrize("name", ["int_bounds", "str", "optional", "union", "list", "enum", "decimal_digits", "tagged"])
def test_inputs_are_made_in_their_variety(name: str):
    """api.md: a strategy that gives one value finds nothing."""
    model = create_model("Made", field=(TYPES[name], ...))
    seen: set[str] = set()

    @settings(max_examples=40, database=None)
    @given(strategy_for(model))
    def look(raw: dict[str, Any]) -> None:
        seen.add(repr(raw))

    look()
    assert len(seen) > 1


def is_kind(kind: str) -> Callable[[dict[str, Any]], bool]:
    return lambda raw: type(raw["field"]).__name__ == kind


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("optional", {"NoneType", "int"}), ("union", {"int", "str", "dict"}), ("literal", {"str", "int", "NoneType"})],
)
def test_every_member_of_a_union_is_reached(name: str, kinds: set[str]):
    """api.md: unions."""
    strategy = strategy_for(create_model("Made", field=(TYPES[name], ...)))
    assert kinds == {type(find(strategy, is_kind(kind))["field"]).__name__ for kind in kinds}


def test_fields_with_a_default_are_given_and_left_out():
    """R8: defaults are filled in by the schema."""
    strategy = strategy_for(Inner)
    assert "tags" not in find(strategy, lambda raw: "tags" not in raw)
    assert find(strategy, lambda raw: "tags" in raw) == {"n": 1, "tags": []}


def test_aliases_validators_and_configurations_are_honoured():
    """R8: what the model would refuse is not made."""

    class Strict(BaseModel):
        model_config = ConfigDict(strict=True, extra="forbid")

        number: int = Field(alias="Number")
        inner: Inner

        @field_validator("number")
        @classmethod
        def odd(cls, number: int) -> int:
            assert number % 2
            return number

    assert find(strategy_for(Strict), lambda raw: raw["Number"] > 10) == {"Number": 11, "inner": {"n": 1}}


def test_the_input_model_of_a_tool_will_do():
    """api.md: any model."""

    @tool
    def pay(amount: Annotated[int, Field(ge=5)], to: str = "shop") -> bool:
        return True

    assert find(strategy_for(pay.input_schema), lambda raw: True) == {"amount": 5}


class Alien:
    def __init__(self, secret) -> None:
        self.secret = secret


class Held(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    alien: Alien


class Unmakable:
    def __init__(self, needs: Unknown) -> None: ...  # type: ignore[name-defined]  # noqa: F821  # that is the point


def test_a_type_that_cannot_be_made_is_named_with_its_field_and_can_be_given():
    """api.md: strategies={...}."""

    class Bad(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)

        thing: Native[Unmakable]

    with pytest.raises(TypeError, match=r"Field 'Bad\.thing' is of type .*Unmakable.*no values can be made"):
        strategy_for(Bad)
    made = strategy_for(Held, strategies={Alien: st.builds(Alien, st.just("s"))})
    assert find(made, lambda raw: True)["alien"].secret == "s"
    narrowed = strategy_for(Inner, strategies={list[str]: st.just(["x"])})
    assert find(narrowed, lambda raw: "tags" in raw) == {"n": 1, "tags": ["x"]}


def test_what_is_no_model_is_refused():
    """api.md: a model class."""
    with pytest.raises(TypeError, match="takes a pydantic model class, not <class 'int'>"):
        strategy_for(int)  # type: ignore[type-var]  # that it is refused is the point


def test_without_the_extra_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch):
    """api.md: E105."""
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(MissingExtraError, match=r"A strategy needs the extra 'testing'(.|\n)*chainweaver\[testing\]"):
        strategy_for(Inner)


def test_hypothesis_comes_along_only_when_it_is_needed():
    """Import: naming everything in the room loads neither hypothesis nor pytest."""
    code = (
        "import sys, chainweaver.testing as room\nfor name in room.__all__: getattr(room, name)\n"
        "print(*[name for name in ('hypothesis', 'pytest', '_pytest') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
