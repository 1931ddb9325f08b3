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

CONTAINERS = frozenset({dict, list, tuple, set})
MAX_DEPTH = 32
"""How many containers deep a snapshot goes."""

SCALARS = frozenset({int, float, str, bytes, bool, type(None), complex})


def capture_within(limit: int) -> Capture:
    """A capture that deep-copies plain containers of up to `limit` items per call and keeps the rest by reference.

    >>> capture = capture_within(3)
    >>> capture({"few": [1, 2], "many": [1, 2, 3, 4]})
    ({'few': [1, 2], 'many': [1, 2, 3, 4]}, ('many',))
    """

    def capture(values: dict[str, Any]) -> Captured:
        shown = dict(values)
        by_reference: tuple[str, ...] = ()
        budget = limit
        for name, value in values.items():
            if type(value) in SCALARS:
                continue
            # Looking before copying: a value that does not fit costs at most a look at `limit` items.
            try:
                left = budget - len(value) if type(value) in CONTAINERS else -1
                if left >= 0:
                    left = _budget_after(value, left, 0)
                shown[name] = _copied(value) if left >= 0 else value
            except Exception:  # a key that cannot be hashed again, a container that another thread is changing
                left = -1
            if left < 0:
                by_reference += (name,)
            else:
                budget = left
        return shown, by_reference

    return capture


def _budget_after(value: Any, budget: int, depth: int) -> int:
    """What is left of the budget after copying the items of a plain container; -1 when they do not fit.

    The number of its items is taken off already. A level is measured before the next one is looked at, so that most of
    what is too large is found out at its surface. Containers that hold themselves run out of depth, or of budget.
    """
    nested = []
    for item in value.values() if type(value) is dict else value:
        kind = type(item)
        if kind in SCALARS:
            continue
        if kind not in CONTAINERS:
            return -1
        budget -= len(item)
        if budget < 0:
            return -1
        nested.append(item)
    if nested and depth == MAX_DEPTH:
        return -1
    for item in nested:
        budget = _budget_after(item, budget, depth + 1)
        if budget < 0:
            break
    return budget


def _copied(value: Any) -> Any:
    kind = type(value)
    if kind in SCALARS:
        return value
    if kind is dict:
        return {key: _copied(item) for key, item in value.items()}
    return kind([_copied(item) for item in value])


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
    try:
        shape = getattr(value, "shape", None)
        if isinstance(shape, tuple):
            return f"{kind.__name__}{list(shape)}"
        return f"{kind.__name__}[{len(value)}]"
    except Exception:  # foreign attributes may raise anything, and a summary has to go on
        return kind.__name__
