"""What records keep of a value: a snapshot, a reference or a summary.

A capture turns a dict of live values into what a record shows, and names the fields that it kept by reference. Pure;
the executor chooses one per run, and steps that hold scalars only never call it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

Captured: TypeAlias = "tuple[dict[str, Any], tuple[str, ...]]"
"""Values as a record shows them, and the names of those it keeps by reference."""

Capture: TypeAlias = Callable[[dict[str, Any]], Captured]

SCALARS = frozenset({int, float, str, bytes, bool, type(None), complex})


class _OverBudget(Exception):
    """The copy would hold more items than the trace may copy."""


class _Copier:
    """Copies plain containers of one step, as long as the budget lasts."""

    __slots__ = ("budget", "foreign")

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.foreign = False

    def copy(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in SCALARS:
            return value
        if kind is not dict and kind is not list and kind is not tuple and kind is not set:
            self.foreign = True
            return value
        self.budget -= len(value)
        # Containers that hold themselves run out of depth before they run out of budget.
        if self.budget < 0 or depth > 32:
            raise _OverBudget
        if kind is dict:
            return {key: self.copy(item, depth + 1) for key, item in value.items()}
        return kind([self.copy(item, depth + 1) for item in value])


def capture_within(limit: int) -> Capture:
    """A capture that deep-copies plain containers of up to `limit` items per call and keeps the rest by reference.

    >>> capture = capture_within(3)
    >>> capture({"few": [1, 2], "many": [1, 2, 3, 4]})
    ({'few': [1, 2], 'many': [1, 2, 3, 4]}, ('many',))
    """

    def capture(values: dict[str, Any]) -> Captured:
        shown: dict[str, Any] = {}
        by_reference: list[str] = []
        copier = _Copier(limit)
        for name, value in values.items():
            if type(value) in SCALARS:
                shown[name] = value
                continue
            before = copier.budget
            copier.foreign = False
            try:
                shown[name] = copier.copy(value, 0)
            except _OverBudget:
                # A field that does not fit gives its share back, so that smaller ones after it are still copied.
                copier.budget = before
                copier.foreign = True
                shown[name] = value
            if copier.foreign:
                by_reference.append(name)
        return shown, tuple(by_reference)

    return capture


def reference_only(values: dict[str, Any]) -> Captured:
    """A capture that copies nothing but the dict itself; every field that is not a scalar counts as a reference."""
    return dict(values), tuple(name for name, value in values.items() if type(value) not in SCALARS)


def summarize(values: dict[str, Any]) -> Captured:
    """A capture that keeps type, shape and size instead of the values.

    >>> summarize({"rows": [1, 2, 3], "name": "x" * 200, "count": 3})
    ({'rows': 'list[3]', 'name': 'str[200]', 'count': 3}, ())
    """
    return {name: summary_of(value) for name, value in values.items()}, ()


def summary_of(value: Any) -> Any:
    """One value as a summary shows it: numbers, flags and short texts as they are, all else as type and size."""
    kind = type(value)
    if kind in (int, float, bool, type(None), complex) or (kind in (str, bytes) and len(value) <= 40):
        return value
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"{kind.__name__}{list(shape)}"
    try:
        return f"{kind.__name__}[{len(value)}]"
    except Exception:  # a foreign __len__ may raise anything, and a summary has to go on
        return kind.__name__
