"""Who may write which context key, and so what a step sees.

A step sees the initial input and the outputs of the steps of earlier levels, the last writer in plan order winning
(R3). This is decided here, once, from the schemas; a run only follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from chainweaver.compiler.lower import Lowered
from chainweaver.compiler.model_traits import annotation_of
from chainweaver.compiler.models import ModelFacts
from chainweaver.compiler.readers import Place

Standing: TypeAlias = Literal["declared", "outside", "undeclared", "impossible"]
"""What can be said of a key beforehand.

"declared": a step may write it, or the input schema names it. "outside": there is no input schema, so a caller may
bring it. "undeclared": there is one, and only a caller who passes more than that can bring it. "impossible": nobody
can.
"""

MISSING = ("undeclared", "impossible")
"""The standings of a key that a definition must not rely on."""

INITIAL = -1
"""Stands for the initial context where steps stand by their positions."""


@dataclass(frozen=True, slots=True)
class Initial:
    """What is known about the initial context.

    Attributes:
        keys: Declared keys -> type.
        sure: Those that are always there: the values of the validated input.
        others: What a key that is not declared means.
    """

    keys: Mapping[str, Any]
    sure: frozenset[str]
    others: Standing


UNDECLARED = Initial({}, frozenset(), "outside")
"""The initial context of a flow without an input schema: any key may come from outside."""


def initial_of(schema: ModelFacts | None) -> Initial:
    """What an input schema says about the initial context (R8): its validated values overlay the given ones."""
    if schema is None:
        return UNDECLARED
    given = dict.fromkeys(schema.accepted, Any)
    others: Standing = "outside" if schema.open else "impossible" if schema.closed else "undeclared"
    return Initial({**given, **schema.outputs}, frozenset(schema.outputs), others)


@dataclass(frozen=True, slots=True)
class Writes:
    """The keys that a step may write.

    Attributes:
        keys: Key -> type of its values.
        sure: The keys that are written whenever the step has not failed.
        open: There may be other keys as well.
        unknown: There is no schema to ask: what reads after such a step is not called wrong, and does not wait for it.
    """

    keys: Mapping[str, Any]
    sure: frozenset[str]
    open: bool = False
    unknown: bool = False


def writes_of(step: Lowered) -> Writes:
    """What a step may write, from the output schemas of its tool and its fallback and from its output mapping."""
    renames = step.definition.output_mapping
    if step.primary is None:
        return Writes(dict.fromkeys(renames or (), Any), frozenset(), unknown=renames is None)
    first, *others = [known.gives for known in step.callees]
    keys: Mapping[str, Any]
    if renames is not None:
        keys, sure = {key: first.outputs.get(output, Any) for key, output in renames.items()}, frozenset(renames)
    elif not others:
        keys, sure = first.outputs, first.sure
    else:
        keys = {name: kind for gives in (*others, first) for name, kind in gives.outputs.items()}
        sure = first.sure.intersection(*(gives.sure for gives in others))
    if step.definition.on_error == "skip" or step.may_be_passed:
        sure = frozenset()
    if step.definition.map_over is not None:
        has_errors = step.definition.on_item_error == "collect"
        keys = {key: list_of(kind, has_errors=has_errors) for key, kind in keys.items()}
    return Writes(keys, sure, open=renames is None and any(gives.open for gives in (first, *others)))


def list_of(kind: Any, *, has_errors: bool) -> Any:
    """The type of the list that a map makes of an output; errors may stand in it as well."""
    return list if has_errors else list[annotation_of(kind)]  # type: ignore[misc]  # made while a flow is compiled


class Seen(NamedTuple):
    """What a step finds under a key.

    Attributes:
        place: Where a run looks for it.
        writers: The steps that may have written it, latest first.
        kinds: The types that its value may have; Any where nothing is known.
        standing: Whether it can be there at all.
    """

    place: Place
    writers: tuple[int, ...]
    kinds: list[Any]
    standing: Standing


class Look(NamedTuple):
    """One place at which a step looks when it runs.

    Attributes:
        slots: Where: 0 for the initial context, `i + 1` for what step i wrote.
        key: What for; None: for whatever is there.
    """

    slots: tuple[int, ...]
    key: str | None


class Visible:
    """Answers, while steps are taken in plan order, who may have written a key that the current step reads.

    Attributes:
        reads: Key -> the writers whose value of it somebody may read; `INITIAL` among them.
        read_up_to: Steps below this level are read as a whole; `INITIAL` while not even the initial context is.
        looks: All looks so far, in the order in which they were asked for.
        hidden: Keys that hold what a dynamic parameter gave, though they are none: the item of a map over one.
    """

    def __init__(self, initial: Initial, dynamic: tuple[str, ...], size: int) -> None:
        self.initial = initial
        self.dynamic = frozenset(dynamic)
        self.hidden: frozenset[str] = frozenset()
        self.dynamic_slot = size + 1
        self.writes: list[Writes] = []
        self.reads: dict[str, set[int]] = {}
        self.read_up_to = INITIAL
        self.looks: list[Look] = []
        self._levels: list[int] = []
        self._writers: dict[str, list[int]] = {}
        self._open: list[int] = []
        self._first_unknown: int | None = None

    def add(self, step: Lowered, writes: Writes) -> None:
        """Make the outputs of the next step in plan order known."""
        self.writes.append(writes)
        self._levels.append(step.level)
        for key in writes.keys:
            self._writers.setdefault(key, []).append(step.index)
        if writes.open:
            self._open.append(step.index)
        if writes.unknown and self._first_unknown is None:
            self._first_unknown = step.level

    def look(self, key: str, level: int, *, parameters: bool = True) -> Seen:
        """What a step of this level finds under a key; counted as a read of all that it may find.

        A dynamic parameter comes before everything else. The initial context is the last resort.
        """
        seen = self._seen(key, level, parameters=parameters)
        self.looks.append(Look(seen.place.slots, key))
        return seen

    def _seen(self, key: str, level: int, *, parameters: bool) -> Seen:
        if parameters and key in self.dynamic:
            return Seen(Place((self.dynamic_slot, 0), key, False), (), [Any], "declared")
        writers, sure = self._candidates(key, level)
        self.reads.setdefault(key, set()).update(writers)
        kinds = [self.writes[index].keys.get(key, Any) for index in writers]
        slots = tuple([one + 1 for one in writers])
        if sure:
            return Seen(Place(slots, key, len(slots) == 1), writers, kinds, "declared")
        initial = self.initial
        self.reads[key].add(INITIAL)
        kinds.append(initial.keys.get(key, Any))
        standing: Standing = "declared" if writers or key in initial.keys else initial.others
        if self._first_unknown is not None and self._first_unknown < level:
            kinds.append(Any)
            standing = "declared" if standing == "declared" else "outside"
        return Seen(Place((*slots, 0), key, not slots and key in initial.sure), writers, kinds, standing)

    def kept_in(self, key: str, level: int) -> Look:
        """Where the value of a key may be that a step of this level would find; counted as no read."""
        writers, sure = self._candidates(key, level)
        return Look((*(index + 1 for index in writers), *(() if sure else (0,))), key)

    def is_written(self, key: str, level: int) -> bool:
        """Whether one of the steps of earlier levels writes the key whenever none of them has failed."""
        return self._candidates(key, level)[1]

    def read_all(self, level: int) -> list[int]:
        """The steps that a reader of the whole context sees, in plan order."""
        self.read_up_to = max(self.read_up_to, level)
        earlier = [index for index, other in enumerate(self._levels) if other < level]
        self.looks.append(Look((0, *(index + 1 for index in earlier)), None))
        return earlier

    def known_keys(self, level: int) -> list[str]:
        """The keys that are known by name at this level, in the order in which they come into being."""
        written = [key for key, indexes in self._writers.items() if self._levels[indexes[0]] < level]
        return list(dict.fromkeys([*self.initial.keys, *written, *sorted(self.dynamic)]))

    def folded(self, folded: str, level: int) -> list[str]:
        """The known keys that equal `folded` but for their case, the one written last first.

        Where none of them is there, a run compares the keys of the initial context.
        """
        self.looks.append(Look((0,), None))
        return [key for key in reversed(self.known_keys(level)) if key.casefold() == folded]

    def _candidates(self, key: str, level: int) -> tuple[tuple[int, ...], bool]:
        """The steps whose value of the key may be the visible one, latest first; and whether one of them is there."""
        found: list[int] = []
        for index in self._writers_before(key, level):
            found.append(index)
            if key in self.writes[index].sure:
                return tuple(found), True
        return tuple(found), False

    def _writers_before(self, key: str, level: int) -> Iterator[int]:
        """Steps of earlier levels that may write the key, latest in plan order first."""
        named, opened = self._writers.get(key, ()), self._open
        at, other = len(named) - 1, len(opened) - 1
        while at >= 0 or other >= 0:
            if other < 0 or (at >= 0 and named[at] >= opened[other]):
                index = named[at]
                other -= other >= 0 and opened[other] == index
                at -= 1
            else:
                index = opened[other]
                other -= 1
            if self._levels[index] < level:
                yield index
