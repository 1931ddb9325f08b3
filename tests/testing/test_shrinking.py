"""Shrinking: every kind of value gets simpler, and the way down ends."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from chainweaver.testing.shrinking import shrink, simpler_values


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


UTC = datetime.timezone.utc


@pytest.mark.parametrize(
    ("value", "fails", "smallest"),
    [
        (4711, lambda n: n >= 1000, 1000),
        (-4711, lambda n: abs(n) > 10, 11),
        (-4711, lambda n: n < -100, -101),
        (987.25, lambda n: n > 3.5, 4.0),
        (float("inf"), lambda n: n > 2, 3.0),
        (True, lambda flag: True, False),
        ("hello world", lambda text: "o" in text, "o"),
        ("xyz", lambda text: len(text) > 1, "aa"),
        (b"abc", lambda data: len(data) > 0, b"\0"),
        ([1, [5, 9], {"a": 3}], lambda items: len(items) > 1, [[], {}]),
        ((5, 6, 7), lambda items: sum(items) > 9, (3, 7)),
        ({"a": {"b": [1, 2]}, "c": 3}, lambda d: "b" in d.get("a", {}), {"a": {"b": []}}),
        ({3, 4, 5}, lambda items: 4 in items, {4}),
        (Colour.BLUE, lambda colour: True, Colour.RED),
        (Colour.BLUE, lambda colour: colour is Colour.BLUE, Colour.BLUE),
        (decimal.Decimal("12.75"), lambda n: n > 2, decimal.Decimal(3)),
        (
            datetime.datetime(2024, 5, 1, tzinfo=UTC),
            lambda at: at.tzinfo is UTC,
            datetime.datetime(2000, 1, 1, tzinfo=UTC),
        ),
        (datetime.date(2024, 5, 1), lambda day: True, datetime.date(2000, 1, 1)),
        (datetime.timedelta(3), lambda span: True, datetime.timedelta(0)),
        (uuid.UUID(int=7), lambda one: True, uuid.UUID(int=0)),
        (None, lambda one: True, None),
    ],
    ids=lambda one: "fails" if callable(one) else repr(one),
)
def test_values_are_shrunk_to_the_simplest_that_fails(value: Any, fails: Any, smallest: Any):
    """api.md: minimize_failure shrinks the data."""
    found = shrink(value, fails, 2000)
    assert (found, type(found)) == (smallest, type(smallest))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals() | st.datetimes(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.frozensets(st.integers()),
    max_leaves=8,
)


@given(values)
@example(decimal.Decimal("sNaN"))
@example(decimal.Decimal("-Infinity"))
def test_the_way_down_ends(value: Any):
    """api.md: no value is simpler than itself by way of others; what everything fails with has one end."""
    asked = 0

    def always(simpler: Any) -> bool:
        nonlocal asked
        asked += 1
        return True

    end = shrink(value, always, 100_000)
    assert asked < 100_000
    assert list(simpler_values(end)) == [] or all(repr(one) == repr(end) for one in simpler_values(end))


@given(st.integers(), st.integers(0, 10**6))
def test_a_bound_is_found_exactly(value: int, bound: int):
    """api.md: minimal."""
    if abs(value) >= bound:
        assert shrink(value, lambda n: abs(n) >= bound, 5_000) == bound
