"""Shrinking: a value that fails, made as small as it can be while it still fails.

Works on the data alone, so that an input from a log shrinks as well as one that was generated. Every step is to
something simpler: fewer items, shorter texts, numbers nearer to zero, earlier members; so that it ends. Pure.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

SMALL = 5
"""Numbers below this are tried one by one: a failure that is not there for all larger ones is often there for these."""

EPOCH = datetime.datetime(2000, 1, 1)


def shrink(value: Any, still_fails: Callable[[Any], bool], most: int) -> Any:
    """The simplest value on the way down from a failing one.

    Args:
        value: It fails.
        still_fails: Whether another value does as well.
        most: How often that may be asked.

    >>> shrink([5, 12, 700], lambda numbers: sum(numbers) > 9, 1000)
    [10]
    """
    asked: set[str] = set()
    is_simpler = True
    while is_simpler:
        is_simpler = False
        for simpler in simpler_values(value):
            told = repr(simpler)
            if told in asked:
                continue
            if len(asked) >= most:
                return value
            asked.add(told)
            if still_fails(simpler):
                value, is_simpler = simpler, True
                break
    return value


def simpler_values(value: Any) -> Iterator[Any]:
    """Values that are simpler than this one, the boldest first."""
    kind = type(value)
    if isinstance(value, Mapping):
        yield from simpler_mappings(dict(value))
    elif kind in (list, tuple):
        yield from (kind(items) for items in simpler_lists(list(value)))
    elif kind in (set, frozenset):
        yield from (kind(item for item in value if item is not left_out) for left_out in value)
    elif kind is str:
        yield from simpler_texts(value)
    elif kind is bytes:
        yield from map(bytes, simpler_lists(list(value)))
    elif kind is bool:
        yield from [False] if value else []
    elif kind is int:
        yield from simpler_integers(value)
    elif kind is float:
        yield from simpler_floats(value)
    else:
        yield from simplest_of(value)


def simpler_mappings(value: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
    """Without a key, or with a simpler value."""
    for key in value:
        yield {one: item for one, item in value.items() if one != key}
    for key, inner in value.items():
        for simpler in simpler_values(inner):
            yield {**value, key: simpler}


def simpler_lists(value: list[Any]) -> Iterator[list[Any]]:
    """Without some items, half of them at first, or with a simpler one."""
    size = len(value)
    while size:
        for start in range(0, len(value), size):
            yield value[:start] + value[start + size :]
        size //= 2
    for at, inner in enumerate(value):
        for simpler in simpler_values(inner):
            yield [*value[:at], simpler, *value[at + 1 :]]


def simpler_texts(value: str) -> Iterator[str]:
    """Shorter, or of plainer characters."""
    size = len(value)
    while size:
        for start in range(0, len(value), size):
            yield value[:start] + value[start + size :]
        size //= 2
    for at, character in enumerate(value):
        if character not in "a0":
            for plainer in "a0":
                yield value[:at] + plainer + value[at + 1 :]


def simpler_integers(value: int) -> Iterator[int]:
    """Nearer to zero: the smallest ones, then by ever smaller steps; positive rather than negative."""
    if value < 0:
        yield -value
    sign, size = (1 if value > 0 else -1), abs(value)
    yield from (sign * small for small in range(min(size, SMALL)))
    step = size // 2
    while step:
        yield sign * (size - step)
        step //= 2


def simpler_floats(value: float) -> Iterator[float]:
    """Zero, whole, or nearer to zero."""
    if value != value or value in (float("inf"), float("-inf")):
        yield from (0.0, 1.0, 1e9)
    elif value != int(value):
        yield 0.0
        yield float(int(value))
    else:
        yield from map(float, simpler_integers(int(value)))


def simplest_of(value: Any) -> Iterator[Any]:
    """The simplest value of a type that has no order of simplicity."""
    simplest: Any = value
    if isinstance(value, enum.Enum):
        simplest = next(iter(type(value)))
    elif isinstance(value, datetime.datetime):
        simplest = EPOCH.replace(tzinfo=value.tzinfo)
    elif isinstance(value, datetime.date):
        simplest = EPOCH.date()
    elif isinstance(value, datetime.time):
        simplest = EPOCH.time().replace(tzinfo=value.tzinfo)
    elif isinstance(value, datetime.timedelta):
        simplest = datetime.timedelta(0)
    elif isinstance(value, uuid.UUID):
        simplest = uuid.UUID(int=0)
    elif isinstance(value, decimal.Decimal):
        if not value.is_finite():
            yield decimal.Decimal(0)
            return
        whole = int(value)
        yield from map(decimal.Decimal, [whole] if value != whole else simpler_integers(whole))
        return
    if simplest != value:
        yield simplest
