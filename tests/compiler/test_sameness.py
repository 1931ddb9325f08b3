"""When a validated value is valid for another field as it is: the proof behind `validation="once"`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

import pytest
from annotated_types import Ge, Len, MaxLen
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    StringConstraints,
    TypeAdapter,
    WrapValidator,
    field_validator,
)
from typing_extensions import TypeAliasType, TypedDict

from chainweaver.compiler.core_schemas import FieldOf, target_view
from chainweaver.compiler.sameness import why_not_as_it_is


class Color(Enum):
    RED = "red"


class Shade(str, Enum):
    RED = "red"


class Order(BaseModel):
    """A model with a validator of its own: its instances pass as they are all the same."""

    total: int

    @field_validator("total")
    @classmethod
    def _is_positive(cls, total: int) -> int:
        assert total > 0
        return total


class Other(BaseModel):
    total: int


class Again(BaseModel):
    model_config = ConfigDict(revalidate_instances="always")
    total: int


class Tree(BaseModel):
    children: list[Tree]


class Row(TypedDict):
    n: int


Nested = TypeAliasType("Nested", "list[Nested] | int")
Deep = TypeAliasType("Deep", "list[Deep] | int")
Strict = TypeAliasType("Strict", "list[Strict] | Annotated[int, Ge(0)]")


def why_not(given: Any, wanted: Any) -> str | None:
    return why_not_as_it_is(target_view(given), target_view(wanted))


Forest = TypeAliasType("Forest", "list[Forest | str]")

CHOOSES = "a literal in the union may take what another member has made"
CHOOSING: dict[Any, Any] = {
    Union[Annotated[list[Literal[True]], MaxLen(1)], list[float]]: ("1",),  # noqa: UP007 - unions of annotated types
    Literal[1] | float: "1",
    Literal[0] | bool: "false",
    Literal["red"] | Shade: b"red",
    dict[str, Literal[1]] | dict[str, Decimal]: {"a": "1.0"},
}
"""Unions of which a member changes what another one has made, each with a value that shows it."""

SAME = [
    (int, int),
    (list[int], list[int]),
    (dict[str, list[float]], dict[str, list[float]]),
    (tuple[int, str], tuple[int, str]),
    (tuple[int, ...], tuple[int, ...]),
    (set[str], set[str]),
    (frozenset[datetime], frozenset[datetime]),
    (list[Order], list[Order]),
    (list[Color], list[Color]),
    (list[Literal["a", "b"]], list[Literal["a", "b"]]),
    (list[int] | None, list[int] | None),
    (list[int], list[int] | None),
    (list[int | str], list[int | str]),
    (Literal["auto"] | int | None, Literal["auto"] | int | None),
    (Literal[1, "all"] | int | list[Order], Literal[1, "all"] | int | list[Order]),
    (list[Color | int], list[Color | int]),
    (list[Forest | int], list[Forest | int]),
    (list[Decimal], list[Decimal]),
    (list[Any], list[Any]),
    (list[Tree], list[Tree]),
    (dict[str, Nested], dict[str, Nested]),
    (list[Nested], list[Deep]),
    (float, Annotated[float, Field(allow_inf_nan=True)]),
    (Annotated[float, Field(allow_inf_nan=False)], Annotated[float, Field(allow_inf_nan=True)]),
    # What was refused before is not asked for again.
    (Annotated[list[int], Len(1, 9)], list[int]),
    (list[Annotated[int, Ge(0)]], list[int]),
    (Annotated[list[int], Len(1, 9)], Annotated[list[int], MaxLen(9)]),
    (
        Annotated[str, StringConstraints(strip_whitespace=True)],
        Annotated[str, StringConstraints(strip_whitespace=True)],
    ),
]

OTHERWISE = [
    (list[int], list[float], "it was validated as int and float is wanted"),
    (int, float, "it was validated as int and float is wanted"),
    (list[int], Annotated[list[int], Len(1)], "'min_length' is asked for here"),
    (list[int], list[Annotated[int, Ge(0)]], "'ge' is asked for here"),
    (list[int], Annotated[list[int], Field(strict=True)], "'strict' differs"),
    (str, Annotated[str, StringConstraints(to_lower=True)], "'to_lower' differs"),
    (list[int] | None, list[int], "it was validated as nullable and list is wanted"),
    (list[Order], list[Other], "they are different classes"),
    (Again, Again, "Again is configured to be validated again"),
    (list[int], Annotated[list[int], AfterValidator(sorted)], "a function of its own validates it"),
    (list[int], Annotated[list[int], BeforeValidator(list)], "a function of its own validates it"),
    (list[int], Annotated[list[int], WrapValidator(lambda v, h: h(v))], "a function of its own validates it"),
    (list[int], list[Annotated[int, AfterValidator(abs)]], "a function of its own validates it"),
    (Annotated[list[int], AfterValidator(sorted)], list[int], "a function of its own validates it"),
    (tuple[int, int], tuple[int, int, int], "the two tuples do not have the same items"),
    (int | str, int | str | bytes, "the two unions are not the same"),
    (Json[list[int]], Json[list[int]], "nothing is known about validating a value of kind 'json' twice"),
    (Iterable[int], Iterable[int], "nothing is known about validating a value of kind 'generator' twice"),
    (list[Row], list[Row], "nothing is known about validating a value of kind 'typed-dict' twice"),
    (Literal[1], Literal[True], "'expected' differs"),
    (list[Nested], list[Strict], "'ge' is asked for here"),
    (float, Annotated[float, Field(allow_inf_nan=False)], "'allow_inf_nan' is asked for here"),
    (
        Annotated[Union[int, str], Field(union_mode="left_to_right")],  # noqa: UP007 - the mode belongs to the union
        Annotated[Union[int, str], Field(union_mode="left_to_right")],  # noqa: UP007
        "members of a union are tried from left to right",
    ),
    *((kind, kind, CHOOSES) for kind in (*CHOOSING, Literal[Color.RED] | str)),
    (Any, list[int], "it was validated as any and list is wanted"),
]


@pytest.mark.parametrize("kind", CHOOSING, ids=str)
def test_a_union_whose_literal_takes_what_another_member_has_made_is_changed_by_a_second_look(kind: Any):
    """R14: why such a union is validated again; with values and verdicts of pydantic itself."""
    adapter = TypeAdapter(kind)
    once = adapter.validate_python(CHOOSING[kind])
    assert repr(adapter.validate_python(once)) != repr(once)


def named(one: Any) -> str:
    """A type as a name that is the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(one))


@pytest.mark.parametrize(("given", "wanted"), SAME, ids=named)
def test_a_value_of_the_same_type_is_valid_as_it_is(given: Any, wanted: Any):
    """R14: the same core schema, without a function in it, or one that asks for less."""
    assert why_not(given, wanted) is None


@pytest.mark.parametrize(("given", "wanted", "why"), OTHERWISE, ids=named)
def test_everything_else_is_validated_again_for_a_reason(given: Any, wanted: Any, why: str):
    """R14: other types, further constraints, functions, and whatever nothing is known about."""
    assert why_not(given, wanted) == why


def test_the_configuration_of_the_models_has_to_be_the_same():
    """R14: strictness and how texts are trimmed are settings of the model around a field."""

    class Loose(BaseModel):
        text: str

    class Trimmed(BaseModel):
        model_config = ConfigDict(str_strip_whitespace=True)
        text: str

    class Closed(BaseModel):
        model_config = ConfigDict(extra="forbid", frozen=True, title="other")
        text: str

    loose, trimmed, closed = (FieldOf(one, "text") for one in (Loose, Trimmed, Closed))
    assert why_not(loose, trimmed) == "the two models are configured differently"
    assert why_not(trimmed, trimmed) is None
    assert why_not(loose, closed) is None


def test_defaults_and_other_names_make_no_difference_to_a_value_that_is_there():
    """R14: a default, an alias and a description say nothing about a value."""

    class Given(BaseModel):
        rows: list[int]

    class Wanted(BaseModel):
        rows: Optional[list[int]] = Field(None, alias="lines", description="of the table")  # noqa: UP045 - as users do

    assert why_not(FieldOf(Given, "rows"), FieldOf(Wanted, "rows")) is None


@pytest.mark.parametrize("annotation", [Path, Sequence[int]], ids=named)
def test_what_pydantic_builds_with_functions_of_its_own_is_left_to_it(annotation: Any):
    """R14: such a type is not looked into."""
    assert why_not(annotation, annotation) is not None


def test_a_type_that_pydantic_does_not_know_is_no_proof():
    """R14: two unknown types need not be the same."""
    assert why_not("Nowhere", "Nowhere") == "nothing is known about its type"
