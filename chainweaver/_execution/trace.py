"""What records keep of a value: a snapshot, a reference or a summary.

A capture turns a dict of live values into what a record shows, and names the fields that show live objects. Pure; the
executor chooses one per run, and steps whose models hold nothing that it would change never call it.
"""

from __future__ import annotations

from collections.abc import Callable, Set as AbstractSet
from enum import EnumMeta
from typing import Any, TypeAlias

Captured: TypeAlias = "tuple[dict[str, Any], tuple[str, ...], int]"
"""Values as a record shows them, the names of those that are live objects, and how many items were copied in all."""

Capture: TypeAlias = "Callable[..., Captured]"
"""(values, items copied for the same record before) -> what it shows of them."""

NUMBERS: frozenset[type] = frozenset({int, float, bool, type(None), complex})
"""Types whose values a summary shows as they are."""

SCALARS: frozenset[type] = NUMBERS | {str, bytes}
"""Types whose values nobody can change. Whoever makes a capture may know of more; members of enums count anyway."""

COPIED = frozenset({dict, list, tuple, set})
CONTAINERS = COPIED | {frozenset}
"""Types that a snapshot looks into; a frozenset stays as it is, and so does all that it holds."""

MAX_DEPTH = 32
"""How many containers deep a snapshot goes."""


def capture_within(limit: int, immutables: AbstractSet[type] = SCALARS) -> Capture:
    """A capture that copies plain containers of up to `limit` items per record and keeps the rest as it is.

    Foreign objects inside a container stay what they are, and the field is named.

    Args:
        immutables: Types whose values are neither copied nor named; `SCALARS` and others.

    >>> capture = capture_within(3)
    >>> capture({"few": [1, 2], "many": [1, 2, 3, 4]})
    ({'few': [1, 2], 'many': [1, 2, 3, 4]}, ('many',), 2)
    """

    def capture(values: dict[str, Any], copied: int = 0) -> Captured:
        shown = dict(values)
        by_reference: tuple[str, ...] = ()
        budget = limit - copied
        for name, value in values.items():
            kind = type(value)
            if kind in immutables:
                continue
            if kind not in CONTAINERS:
                if not isinstance(kind, EnumMeta):
                    by_reference += (name,)
                continue
            # Looking before copying: a value that does not fit costs at most a look at `limit` items.
            foreign: list[Any] = []
            try:
                left = budget - len(value)
                if left >= 0:
                    left = _budget_after(value, left, 0, immutables, foreign)
                if left >= 0:
                    shown[name] = _copied(value)
            except Exception:  # a key that cannot be hashed again, a container that another thread is changing
                left = -1
            if left >= 0:
                budget = left
            if left < 0 or foreign:
                by_reference += (name,)
        return shown, by_reference, limit - budget

    return capture


def _budget_after(value: Any, budget: int, depth: int, immutables: AbstractSet[type], foreign: list[Any]) -> int:
    """What is left of the budget after copying the items of a plain container; -1 when they do not fit.

    The number of its items is taken off already. A level is measured before the next one is looked at, so that most of
    what is too large is found out at its surface. Containers that hold themselves run out of depth, or of budget.

    Args:
        foreign: Gets the objects that are neither containers nor immutable.
    """
    items = value
    if type(value) is dict:
        # Keys stay as they are; what they hold is looked at where they are more than names.
        items = value.values() if SCALARS.issuperset(map(type, value)) else (*value, *value.values())
    if SCALARS.issuperset(map(type, items)):
        return budget
    nested = []
    for item in items:
        kind = type(item)
        if kind in CONTAINERS:
            budget -= len(item)
            if budget < 0:
                return -1
            nested.append(item)
        elif kind not in immutables and not isinstance(kind, EnumMeta):
            foreign.append(item)
    if nested and depth == MAX_DEPTH:
        return -1
    for item in nested:
        budget = _budget_after(item, budget, depth + 1, immutables, foreign)
        if budget < 0:
            break
    return budget


def _copied(value: Any) -> Any:
    """A copy of a plain container and of those inside; everything else is the object itself."""
    kind = type(value)
    if kind is dict:
        return {key: _copied(item) if type(item) in COPIED else item for key, item in value.items()}
    if kind is list or kind is tuple:
        return kind([_copied(item) if type(item) in COPIED else item for item in value])
    # What a set holds can be hashed, so that there is nothing inside to copy.
    return value.copy()


def reference_only(immutables: AbstractSet[type] = SCALARS) -> Capture:
    """A capture that copies nothing but the dict itself and names every field that somebody could change.

    Args:
        immutables: As for `capture_within`.
    """

    def capture(values: dict[str, Any], copied: int = 0) -> Captured:
        kinds = {name: type(value) for name, value in values.items()}
        names = [name for name, kind in kinds.items() if kind not in immutables and not isinstance(kind, EnumMeta)]
        return dict(values), tuple(names), 0

    return capture


def summarize(values: dict[str, Any], copied: int = 0) -> Captured:
    """A capture that keeps type, shape and size instead of the values.

    >>> summarize({"rows": [1, 2, 3], "name": "x" * 200, "count": 3})
    ({'rows': 'list[3]', 'name': 'str[200]', 'count': 3}, (), 0)
    """
    return {name: summary_of(value) for name, value in values.items()}, (), 0


def summary_of(value: Any) -> Any:
    """One value as a summary shows it: numbers, flags and short texts as they are, all else as type and size."""
    kind = type(value)
    if kind in NUMBERS or (kind in (str, bytes) and len(value) <= 40):
        return value
    try:
        shape = getattr(value, "shape", None)
        if isinstance(shape, tuple):
            return f"{kind.__name__}{list(shape)}"
        return f"{kind.__name__}[{len(value)}]"
    except Exception:  # foreign attributes may raise anything, and a summary has to go on
        return kind.__name__
