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

COPIED = frozenset({dict, list, set})
CONTAINERS = COPIED | {tuple, frozenset}
"""Types that a snapshot looks into; those that cannot change themselves are copied for what they hold."""

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
            # A value that does not fit costs at most a look at `limit` items.
            left = budget - len(value)
            if left < 0:
                by_reference += (name,)
                continue
            copier = _Copier(left, immutables)
            try:
                copy = copier.copy(value, 0)
            except Exception:  # a key that cannot be hashed again, a container that another thread is changing
                copy = TOO_LARGE
            if copy is not TOO_LARGE:
                shown[name] = copy
                budget = copier.budget
            if copy is TOO_LARGE or copier.has_foreign:
                by_reference += (name,)
        return shown, by_reference, limit - budget

    return capture


TOO_LARGE = object()
"""Stands for the copy of a container that does not fit."""


class _Copier:
    """Copies one plain container and those inside it.

    Attributes:
        budget: How many more items may be copied.
        immutables: Types whose values stay what they are.
        has_foreign: There are objects of other types in it, which stay what they are as well.
    """

    __slots__ = ("budget", "has_foreign", "immutables")

    def __init__(self, budget: int, immutables: AbstractSet[type]) -> None:
        self.budget = budget
        self.immutables = immutables
        self.has_foreign = False

    def copy(self, value: Any, depth: int) -> Any:
        """A copy of a container, the number of whose items is taken off the budget already; TOO_LARGE.

        A level is measured before the next one is looked at, so that most of what is too large is found out at its
        surface. Containers that hold themselves run out of depth, or of budget.
        """
        kind = type(value)
        if kind is dict:
            return self._copy_dict(value, depth)
        if SCALARS.issuperset(map(type, value)):
            return value.copy() if kind in COPIED else value
        if not self._fits(value, depth):
            return TOO_LARGE
        copies = []
        for item in value:
            copy = self.copy(item, depth + 1) if type(item) in CONTAINERS else item
            if copy is TOO_LARGE:
                return TOO_LARGE
            copies.append(copy)
        if kind is list:
            return copies
        # What a set holds can be hashed, so that there is nothing inside to copy.
        return tuple(copies) if kind is tuple else value.copy()

    def _copy_dict(self, value: dict[Any, Any], depth: int) -> Any:
        has_names = SCALARS.issuperset(map(type, value))
        if has_names and SCALARS.issuperset(map(type, value.values())):
            return value.copy()
        if not self._fits(value.values() if has_names else (*value, *value.values()), depth):
            return TOO_LARGE
        copies = {}
        for key, item in value.items():
            copy = self.copy(item, depth + 1) if type(item) in CONTAINERS else item
            # A key stays what it is; one that is more than a name is looked at.
            is_fit = has_names or type(key) not in CONTAINERS or self.copy(key, depth + 1) is not TOO_LARGE
            if copy is TOO_LARGE or not is_fit:
                return TOO_LARGE
            copies[key] = copy
        return copies

    def _fits(self, items: Any, depth: int) -> bool:
        """Whether there is budget for the items of the containers among these; it is taken off."""
        is_nested = False
        budget, immutables = self.budget, self.immutables
        for item in items:
            kind = type(item)
            if kind in CONTAINERS:
                is_nested = True
                budget -= len(item)
                if budget < 0:
                    return False
            elif kind not in immutables and not isinstance(kind, EnumMeta):
                self.has_foreign = True
        self.budget = budget
        return not is_nested or depth < MAX_DEPTH


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
