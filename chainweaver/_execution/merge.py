"""Merging: the outputs of steps folded into one context, in plan order.

Pure over what it is given: it reports collisions and leaves it to the caller to log or raise them. Used for final and
partial outputs of every kind of flow on every lane.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class StepOutput(NamedTuple):
    """The values that one step adds to the context.

    Attributes:
        step_index: Position in plan order.
        step_name: Name of the step, for messages.
        values: Context keys and their values, after the step's output mapping.
    """

    step_index: int
    step_name: str
    values: Mapping[str, Any]


class Collision(NamedTuple):
    """A step wrote context keys that were there already.

    Attributes:
        keys: The keys, in the order in which the step wrote them.
    """

    step_index: int
    step_name: str
    keys: tuple[str, ...]


def merge_step_outputs(
    context: dict[str, Any], outputs: Iterable[tuple[int, str, Mapping[str, Any]]], *, policy: str
) -> list[Collision]:
    """Fold step outputs into a context, the last writer of a key winning.

    Args:
        context: Changed in place; its own keys count as written before all outputs.
        outputs: `StepOutput`s (or tuples of that shape) in plan order.
        policy: "overwrite", "warn" or "error". With "error" the fold ends at the first collision, before its step.

    Returns:
        The collisions in plan order. Work is proportional to the number of new keys, never to the size of the context.

    >>> context = {"a": 1}
    >>> outputs = [StepOutput(0, "double", {"b": 2}), StepOutput(1, "reset", {"a": 0})]
    >>> merge_step_outputs(context, outputs, policy="warn")
    [Collision(step_index=1, step_name='reset', keys=('a',))]
    >>> context
    {'a': 0, 'b': 2}
    """
    collisions = []
    disjoint = context.keys().isdisjoint
    for step_index, step_name, values in outputs:
        if not disjoint(values):
            collisions.append(Collision(step_index, step_name, tuple(key for key in values if key in context)))
            if policy == "error":
                break
        context.update(values)
    return collisions
