"""Whether two values of two runs are the same, live and as JSON carries them, and where they first differ."""

from __future__ import annotations

import enum
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr

from chainweaver.executor.likeness import ABSENT, Likeness, brief, part_of, place_of
from chainweaver.formats.json_form import json_form

NAN = float("nan")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Row(BaseModel):
    size: int = 1
    names: set[str] = Field(default_factory=set)
    unit: str = Field("g", alias="unitName")


@dataclass
class Held:
    """A dataclass with something that has no canonical bytes."""

    x: int
    lock: Any = None


class Plain:
    """Without an equality of its own."""

    def __init__(self, **facts: Any) -> None:
        vars(self).update(facts)


class Stubborn:
    """Equal to nothing, and it says so."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]  # not needed here


class Failing:
    """Its equality raises, as that of some foreign objects does."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]  # not needed here


@pytest.mark.parametrize(
    ("expected", "actual", "at"),
    [
        (1, 1, None),
        (1, True, ()),
        (1, 1.0, ()),
        (0.0, -0.0, ()),
        (NAN, NAN, None),
        ([NAN], [NAN], None),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, None),
        ({"a": 1}, {"a": 1, "b": 2}, ("b",)),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, ("a", "b", 1)),
        ({1: "x"}, {1: "y"}, (1,)),
        ({(1, 2): "x"}, {(1, 2): "y"}, ("(1, 2)",)),
        ([1, 2], [1, 2, 3], (2,)),
        ([], {}, ()),
        ((1,), [1], ()),
        ({1, 2}, {2, 1}, None),
        ({1, 2}, {1, 3}, ()),
        (Counter("aab"), Counter("aab"), None),
        (OrderedDict(a=1), {"a": 1}, ()),
        (Row(unitName="g"), Row(unitName="kg"), ("unit",)),
        (Row(size=1), Row(size=1), None),
        (Held(1, threading.Lock()), Held(2, threading.Lock()), ("x",)),
        (Plain(x=1, f=threading.Lock()), Plain(x=2, f=threading.Lock()), ("x",)),
        (Plain(x=1), Plain(x=1), None),
        (Stubborn(), Stubborn(), ()),
        (Failing(), Failing(), ()),
        (threading.Lock(), object(), ()),
        (SecretStr("a"), SecretStr("b"), ()),
        (date(2030, 1, 1), date(2030, 1, 2), ()),
        ("list[2]", [1, 2], None),
        ("list[2]", [1, 2, 3], ()),
        ([1, 2], "list[2]", None),
        ("3", 3, ()),
    ],
)
def test_live_values_are_told_apart_by_type_and_content(expected: Any, actual: Any, at: Any):
    """R35: the way to the first difference, empty for the values as a whole."""
    assert Likeness().difference(expected, actual, "value") == at


@pytest.mark.parametrize(
    ("live", "other", "at"),
    [
        (date(2030, 1, 2), date(2030, 1, 3), ()),
        (datetime(2030, 1, 2, tzinfo=timezone.utc), datetime(2031, 1, 2, tzinfo=timezone.utc), ()),
        (Decimal("1.50"), Decimal("1.5"), ()),
        (Colour.RED, Colour.BLUE, ()),
        (PurePosixPath("a/b"), PurePosixPath("a/c"), ()),
        (b"abc", b"abd", ()),
        ({"x", "y", "zz", "abc"}, {"x", "y", "zz"}, (3,)),
        ({"rows": [{"size": (1, 2)}]}, {"rows": [{"size": (1, 3)}]}, ("rows", 0, "size", 1)),
        (Row(names={"b", "a", "c", "d"}, unitName="g"), Row(names={"b", "a", "c", "e"}, unitName="g"), ("names", 3)),
        (Row(unitName="g"), Row(unitName="kg"), ("unitName",)),
        (Held(1), Held(2), ("x",)),
        ({1: "x"}, {1: "y"}, ("1",)),
        ([1], [1.0], (0,)),
        ([], {}, ()),
        ([NAN], [1.0], (0,)),
    ],
)
def test_what_json_carried_is_held_against_the_json_form_of_a_live_value(live: Any, other: Any, at: Any):
    """R35: whatever the order in which a set was written."""
    likeness = Likeness(told=True)
    assert likeness.difference(json_form(live), live, "value") is None
    assert likeness.difference(live, json_form(live), "value") is None
    assert likeness.difference(json_form(live), json_form(live), "value") is None
    assert likeness.difference(json_form(live), other, "value") == at
    assert likeness.difference(other, json_form(live), "value") == at


def test_addresses_that_json_could_only_show_are_no_difference():
    """R35: the same class at another place in memory is all that is left of such an object."""
    one, other = object(), object()
    assert Likeness(told=True).difference(json_form({"held": one}), {"held": other}, "value") is None
    assert Likeness(told=True).difference(json_form({"held": one}), {"held": threading.Lock()}, "value") == ("held",)


def test_what_nothing_tells_apart_is_listed_with_its_place():
    """R35: passing for the same is not the same as being the same."""
    likeness = Likeness()
    assert likeness.difference({"a": [object()], "b": object()}, {"a": [object()], "b": object()}, "outputs") is None
    assert likeness.not_compared == ["outputs.a[0]", "outputs.b"]


def test_values_that_go_too_deep_are_not_compared():
    """R35: they pass, and are listed."""
    deep: list[Any] = [threading.Lock()]
    other: list[Any] = [threading.Lock()]
    for _ in range(5_000):
        deep, other = [deep], [other]
    likeness = Likeness()
    assert likeness.difference(deep, other, "outputs") is None
    assert likeness.not_compared == ["outputs"]


def test_places_are_written_as_people_write_them():
    """R35: attributes with a point, all else in brackets."""
    assert place_of("outputs", ()) == "outputs"
    assert place_of("outputs", ("a", 0, "b c", "d")) == "outputs.a[0]['b c'].d"


def test_the_part_at_a_place_is_found_again():
    """R35: what is not there is said to be nothing."""
    assert part_of({"a": [Row(size=3)]}, ("a", 0, "size")) == 3
    assert part_of({"a": [1]}, ("a", 1)) is ABSENT
    assert part_of({(1, 2): "x"}, ("(1, 2)",)) == "x"
    assert part_of(Held(1), ("x",)) == 1
    assert part_of(None, ("x",)) is ABSENT
    assert part_of({1, 2}, (1,)) == {1, 2}
    assert (brief(ABSENT), brief("a"), brief("x" * 300)) == ("nothing", "'a'", "'" + "x" * 199 + "...")
    assert brief("two\nlines") == "'two\\nlines'"
