"""Likeness: whether two values of two runs are the same, and where they first differ.

Two values are the same when their canonical bytes are. What has none is looked at part by part; of objects that are
equal to themselves only, nothing is left to compare but what they are called. A value that JSON carried is held against
the JSON form of the other one, a summary (`trace_values="summary"`) against the summary of the other one.

Knows values, not records. Called by `differences`, and by `replay` about the inputs that somebody approved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

from pydantic import BaseModel

from chainweaver._execution.trace import summary_of
from chainweaver.canonical import Unfingerprintable, encode
from chainweaver.formats.json_form import json_form, shown

At: TypeAlias = "tuple[str | int, ...]"
"""A place inside a value: keys of mappings, fields of objects, positions in lists."""

MOST_SHOWN = 200
"""Characters of a value in a line for people."""


class _Absent:
    """Stands for a value that one of the two sides does not have."""

    def __repr__(self) -> str:
        return "nothing"


ABSENT = _Absent()


class Likeness:
    """Says where two values differ, if they do.

    Args:
        told: One of the two sides was read from JSON, so that both are looked at in that form.

    Attributes:
        not_compared: Places of values that nothing tells apart.

    >>> Likeness().difference({"rows": [1, 2]}, {"rows": [1, 3]}, "outputs")
    ('rows', 1)
    >>> Likeness().difference([1], [1.0], "n"), Likeness().difference({2, 1}, {1, 2}, "n")
    ((0,), None)
    """

    def __init__(self, *, told: bool = False) -> None:
        self.told = told
        self.not_compared: list[str] = []
        self._inside: set[tuple[int, int]] = set()

    def difference(self, expected: Any, actual: Any, name: str) -> At | None:
        """Where in the two values the first difference is; None when they are the same.

        Args:
            name: What the values are called, for `not_compared`.
        """
        opaque: list[At] = []
        try:
            return self._difference(expected, actual, (), opaque)
        except RecursionError:
            opaque.append(())
            return None
        finally:
            self._inside.clear()
            self.not_compared += [place_of(name, at) for at in opaque]

    def _difference(self, expected: Any, actual: Any, at: At, opaque: list[At]) -> At | None:
        pair = (id(expected), id(actual))
        # A pair that is being compared already: both hold themselves at the same place.
        if expected is actual or pair in self._inside:
            return None
        same = self._same(expected, actual)
        if same or _sums_up(expected, actual) or _sums_up(actual, expected):
            return None
        parts, others = self._parts(expected, actual)
        if parts is None or others is None:
            return None if same is None and self._passes(expected, actual, at, opaque) else at
        self._inside.add(pair)
        for key in {**parts, **others}:
            inside = (*at, key if isinstance(key, (str, int)) else shown(key))
            if key not in parts or key not in others:
                return inside
            found = self._difference(parts[key], others[key], inside, opaque)
            if found is not None:
                return found
        self._inside.discard(pair)
        return None

    def _same(self, expected: Any, actual: Any) -> bool | None:
        """Whether the canonical bytes are the same; None where one of the two has none."""
        form = _told if self.told else _itself
        try:
            return encode(form(expected)) == encode(form(actual))
        except Unfingerprintable:
            return None

    def _parts(self, expected: Any, actual: Any) -> tuple[Mapping[Any, Any] | None, Mapping[Any, Any] | None]:
        """Both values by key or position, where both can be taken apart in the same way."""
        if not self.told:
            alike = type(expected) is type(actual)
            return (_live_parts(expected), _live_parts(actual)) if alike else (None, None)
        if isinstance(expected, Set) or isinstance(actual, Set):
            # JSON has no sets: their items came in whatever order.
            expected, actual = _in_order(expected), _in_order(actual)
        alike = _has_positions(expected) == _has_positions(actual)
        return (_told_parts(expected), _told_parts(actual)) if alike else (None, None)

    def _passes(self, expected: Any, actual: Any, at: At, opaque: list[At]) -> bool:
        """Whether two values without canonical bytes and without parts pass for the same."""
        if type(expected) is not type(actual):
            return False
        if are_equal(expected, actual):
            return True
        if _says_what_equals_it(expected) or normalised(shown(expected)) != normalised(shown(actual)):
            return False
        opaque.append(at)
        return True


def _itself(value: Any) -> Any:
    return value


_VARYING = re.compile(r"\b0x[0-9a-fA-F]+\b|\b[0-9a-f]{32}\b")


def normalised(text: str) -> str:
    """A text without what is another one in every run: addresses of objects and ids of runs.

    >>> normalised("<Lock object at 0x7f3a5c> is taken")
    '<Lock object at ...> is taken'
    """
    return _VARYING.sub("...", text)


# ---- values as JSON carries them


def _told(value: Any) -> Any:
    return _without_addresses(json_form(value))


def _without_addresses(form: Any) -> Any:
    """The form without the addresses of objects that it could only show."""
    if isinstance(form, str):
        return re.sub(r" at 0x[0-9a-fA-F]+", "", form) if " at 0x" in form else form
    if isinstance(form, dict):
        return {key: _without_addresses(value) for key, value in form.items()}
    return [_without_addresses(value) for value in form] if isinstance(form, list) else form


def _in_order(value: Any) -> Any:
    if isinstance(value, Set) or _has_positions(value):
        return sorted(value, key=lambda item: encode(_told(item)))
    return value


def _has_positions(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _told_parts(value: Any) -> Mapping[Any, Any] | None:
    if _has_positions(value):
        return dict(enumerate(value))
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else next(iter(_told({key: None}))): item for key, item in value.items()}
    if isinstance(value, BaseModel):
        named = type(value).model_fields.items()
        return {info.serialization_alias or name: getattr(value, name) for name, info in named}
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name, ABSENT) for one in fields(value)}
    return None


# ---- live values


def _live_parts(value: Any) -> Mapping[Any, Any] | None:
    if _has_positions(value):
        return dict(enumerate(value))
    if isinstance(value, Mapping):
        return value
    if isinstance(value, type) or callable(value) or _says_what_equals_it(value):
        return None
    return getattr(value, "__dict__", None) or None


def _says_what_equals_it(value: Any) -> bool:
    """Whether its author wrote down what is equal to it; models and dataclasses only say it of their fields."""
    equals: object = type(value).__eq__
    return equals is not object.__eq__ and not isinstance(value, BaseModel) and not is_dataclass(value)


def are_equal(expected: Any, actual: Any) -> bool:
    """Whether two values say that they are equal; arrays and tables when all of their cells do.

    >>> are_equal([1, 2], [1.0, 2.0]), are_equal({"a": 1}, None)
    (True, False)
    """
    try:
        answer = expected == actual
        for _ in range(2):  # arrays answer for each item, tables for each cell and then for each column
            answer = answer.all() if hasattr(answer, "all") else answer
        return bool(answer)
    except Exception:  # a foreign __eq__ may raise anything
        return False


def _sums_up(text: Any, value: Any) -> bool:
    """Whether one side shows the summary of what the other side shows."""
    return isinstance(text, str) and not isinstance(value, (int, float)) and text == summary_of(value)


# ---- words


def place_of(name: str, at: Iterable[str | int]) -> str:
    """A place inside a value, as people write it.

    >>> place_of("outputs", ("rows", 3, "unit price"))
    "outputs.rows[3]['unit price']"
    """
    return name + "".join(f".{one}" if isinstance(one, str) and one.isidentifier() else f"[{one!r}]" for one in at)


def part_of(value: Any, at: At) -> Any:
    """What is at a place inside a value; `ABSENT` when nothing is.

    >>> part_of({"rows": [1, 2]}, ("rows", 1)), part_of({"rows": []}, ("rows", 1))
    (2, nothing)
    """
    for one in at:
        if isinstance(value, Mapping):
            value = next((item for key, item in value.items() if key == one or shown(key) == one), ABSENT)
        elif isinstance(value, Set):
            return value
        elif _has_positions(value) and isinstance(one, int):
            value = value[one] if one < len(value) else ABSENT
        else:
            value = getattr(value, str(one), ABSENT)
    return value


def brief(value: Any) -> str:
    """A value in a line for people."""
    text = shown(value).replace("\n", "\\n")
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
