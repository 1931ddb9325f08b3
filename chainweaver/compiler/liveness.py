"""Liveness: how long each value of a run is needed, so that a run may let go of it (R37).

A value is needed until every step has ended that may look at it, and the step that wrote it. The looks are those that
the readers of the steps were bound to, so that nothing is guessed; what is not known by name is kept for the longest
that anything may need it. Worked out from plain data, when a run first asks for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from chainweaver.compiler.core_schemas import resolved, target_view
from chainweaver.compiler.keys import Look, Writes
from chainweaver.compiler.models import ModelFacts
from chainweaver.plan import Liveness, LiveRange

Steps: TypeAlias = int
"""A set of positions, as the bits of one number."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Who reads and writes what in a flow.

    Attributes:
        looks: Per step, where it looks.
        writes: Per step, what it may write.
        ancestors: Per step, those that have ended before it begins.
        sub_flows: The steps that run a sub-flow.
        declared: The keys that the input schema names.
        kept: What is looked at when all steps have ended; None: everything.
    """

    looks: tuple[tuple[Look, ...], ...]
    writes: tuple[Writes, ...]
    ancestors: tuple[Steps, ...]
    sub_flows: frozenset[int]
    declared: frozenset[str]
    kept: tuple[Look, ...] | None


def looks_at_fields_only(schema: ModelFacts | None) -> bool:
    """Whether holding a dict against a schema looks at no other keys than those that its fields accept."""
    if schema is None or schema.open or schema.closed:
        return False
    view = resolved(target_view(schema.model))
    while view.kind == "function-after":  # sees the instance
        view = resolved(view.inner())
    if view.kind != "model" or view.schema.get("custom_init") or view.schema.get("root_model"):
        return False
    return resolved(view.inner()).kind == "model-fields"


def liveness_of(reading: Reading) -> Liveness:
    """How long the values of each slot are needed."""
    size = len(reading.writes)
    readers = _readers(reading)
    compared = _compare(reading, readers)
    ranges = [one for slot in range(size + 1) for one in _ranges_of(slot, readers[slot], reading)]
    awaiting: list[list[int]] = [[] for _ in range(size)]
    for at, one in enumerate(ranges):
        for index in one.readers or ():
            awaiting[index].append(at)
    return Liveness(tuple(ranges), tuple(map(tuple, awaiting)), compared, tuple(_written(reading)))


def _written(reading: Reading) -> Iterator[frozenset[str]]:
    """The keys of each slot that are known by name; of the initial context those that a step looks for there first."""
    sought = {key for looks in reading.looks for slots, key in looks if slots[:1] == (0,) and key is not None}
    yield reading.declared | sought
    for writes in reading.writes:
        yield frozenset(writes.keys)


class _Readers:
    """Who looks into one slot: by key, and at whatever is there."""

    def __init__(self) -> None:
        self.by_key: defaultdict[str, Steps] = defaultdict(int)
        self.of_all: Steps = 0

    def add(self, key: str | None, steps: Steps) -> None:
        if key is None:
            self.of_all |= steps
        else:
            self.by_key[key] |= steps


def _readers(reading: Reading) -> list[_Readers]:
    """The readers of each slot, the step that writes it among them."""
    readers = [_Readers() for _ in range(len(reading.writes) + 1)]
    for index, looks in enumerate(reading.looks):
        for slots, key in looks:
            for slot in slots:
                if slot < len(readers):  # the dynamic parameters are nobody's to let go
                    readers[slot].add(key, 1 << index)
    for index, writes in enumerate(reading.writes):
        readers[index + 1].of_all |= 1 << index
        for key in writes.keys:
            readers[index + 1].add(key, 0)
    return readers


def _compare(reading: Reading, readers: list[_Readers]) -> dict[int, tuple[int, ...]]:
    """Let sub-flow steps look at what was there before under the keys that they write.

    Whether they handed a value back or wrote another one is known once they and all earlier writers have ended.

    Returns:
        Step -> the sub-flow steps whose keys can be compared for good when it ends.
    """
    found: defaultdict[int, list[int]] = defaultdict(list)
    for index in sorted(reading.sub_flows):
        mine = reading.writes[index]
        involved = [*_earlier_writers(reading.writes, index), index]
        steps = sum(1 << one for one in involved)
        for slot in (0, *(one + 1 for one in involved)):
            for key in (None,) if mine.open or mine.unknown else mine.keys:
                readers[slot].add(key, steps)
        for one in involved:
            found[one].append(index)
    return {step: tuple(indexes) for step, indexes in found.items()}


def _earlier_writers(writes: Sequence[Writes], index: int) -> Iterator[int]:
    """The steps before this one in plan order that may write one of its keys."""
    mine = writes[index]
    for other, theirs in enumerate(writes[:index]):
        is_open = mine.open or mine.unknown or theirs.open or theirs.unknown
        if is_open or not mine.keys.keys().isdisjoint(theirs.keys):
            yield other


def _ranges_of(slot: int, readers: _Readers, reading: Reading) -> Iterator[LiveRange]:
    """The values of a slot, those with the same readers together."""
    if reading.kept is None:
        yield LiveRange(slot, None, frozenset(), None)
        return
    kept = {look.key for look in reading.kept if slot in look.slots}
    together: defaultdict[Steps | None, list[str]] = defaultdict(list)
    for key, steps in readers.by_key.items():
        together[None if key in kept else steps | readers.of_all].append(key)
    together[None] += [key for key in kept if key is not None and key not in readers.by_key]
    others = frozenset().union(*together.values())
    for until, keys in together.items():
        if keys:
            yield LiveRange(slot, tuple(keys), others, _last_of(until, reading.ancestors))
    yield LiveRange(slot, None, others, _last_of(readers.of_all, reading.ancestors))


def _last_of(steps: Steps | None, ancestors: Sequence[Steps]) -> tuple[int, ...] | None:
    """Those of the steps that no other one waits for."""
    if steps is None:
        return None
    last: list[int] = []
    while steps:
        index = steps.bit_length() - 1
        last.append(index)
        steps &= ~(ancestors[index] | 1 << index)
    return tuple(reversed(last))
