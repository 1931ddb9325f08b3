"""Who may write which context key, and so what a step sees.

A step sees the initial input and the outputs of the steps of earlier levels, the last writer in plan order winning
(R3). This is decided here, once, from the schemas; a run only follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel

from chainweaver.compiler.lower import Lowered
from chainweaver.compiler.readers import Place


@dataclass(frozen=True, slots=True)
class Writes:
    """The keys that a step may write.

    Attributes:
        keys: Key -> annotation of its values.
        sure: The keys that are written whenever the step succeeds in any way.
        open: There may be other keys as well.
    """

    keys: Mapping[str, Any]
    sure: frozenset[str]
    open: bool

    def may_write(self, key: str) -> bool:
        return self.open or key in self.keys


def output_fields(model: type[BaseModel]) -> dict[str, Any]:
    """Output key -> annotation, for what a model's instances put into the context."""
    fields = {name: annotation_of(info) for name, info in model.model_fields.items() if not info.exclude}
    fields.update({name: info.return_type for name, info in model.model_computed_fields.items()})
    return fields


def annotation_of(info: Any) -> Any:
    """The annotation of a field with its metadata, as its author wrote it."""
    annotation = info.annotation
    for mark in info.metadata:
        annotation = Annotated[annotation, mark]
    return annotation


def is_open(model: type[BaseModel]) -> bool:
    """Whether instances may hold fields that the model does not name."""
    return model.model_config.get("extra") == "allow"


def writes_of(step: Lowered) -> Writes:
    """What a step may write, from the output schemas of its tool and its fallback and from its output mapping."""
    if step.tool is None:
        return Writes({}, frozenset(), step.definition.output_mapping is None)
    models = [step.tool.output_schema] + ([step.fallback.output_schema] if step.fallback is not None else [])
    produced = [output_fields(model) for model in models]
    renames = step.definition.output_mapping
    if renames is not None:
        first = produced[0]
        keys = {context_key: first.get(output_key, Any) for context_key, output_key in renames.items()}
        return Writes(keys, frozenset() if _may_skip(step) else frozenset(keys), False)
    keys = {key: annotation for fields in reversed(produced) for key, annotation in fields.items()}
    sure = frozenset() if _may_skip(step) else frozenset(produced[0]).intersection(*produced)
    return Writes(keys, sure, any(map(is_open, models)))


def _may_skip(step: Lowered) -> bool:
    return step.definition.on_error == "skip"


class Visible:
    """Answers, while steps are taken in plan order, who may have written a key that the current step reads."""

    def __init__(self, initial: Mapping[str, Any] | None, dynamic: tuple[str, ...], size: int) -> None:
        self.initial = initial
        self.dynamic = frozenset(dynamic)
        self.dynamic_slot = size + 1
        self.writes: list[Writes] = []
        self._levels: list[int] = []
        self._writers: dict[str, list[int]] = {}
        self._open: list[int] = []

    def add(self, step: Lowered, writes: Writes) -> None:
        """Make the outputs of the next step in plan order known."""
        self.writes.append(writes)
        self._levels.append(step.level)
        for key in writes.keys:
            self._writers.setdefault(key, []).append(step.index)
        if writes.open:
            self._open.append(step.index)

    def level_of(self, index: int) -> int:
        return self._levels[index]

    def place(self, key: str, level: int) -> tuple[Place, tuple[int, ...]]:
        """Where a step of this level finds a key, and the steps that may have written it there, latest first.

        A dynamic parameter comes before everything else. The initial context is the last resort.
        """
        if key in self.dynamic:
            return Place((self.dynamic_slot, 0), key, False), ()
        writers: list[int] = []
        for index in self._candidates(key, level):
            writers.append(index)
            if key in self.writes[index].sure:
                return Place(tuple(one + 1 for one in writers), key, len(writers) == 1), tuple(writers)
        return Place((*(one + 1 for one in writers), 0), key, False), tuple(writers)

    def is_known(self, key: str, level: int) -> bool:
        """Whether the key can be there: it has a writer, or the initial context may hold it."""
        if key in self.dynamic or self.initial is None or key in self.initial:
            return True
        return next(self._candidates(key, level), None) is not None

    def known_keys(self, level: int) -> list[str]:
        """The keys that are known by name at this level, in the order in which they come into being."""
        written = [key for key, indexes in self._writers.items() if self._levels[indexes[0]] < level]
        return list(dict.fromkeys([*(self.initial or ()), *written, *sorted(self.dynamic)]))

    def folded(self, folded: str, level: int) -> list[str]:
        """The known keys that equal `folded` but for their case."""
        return [key for key in self.known_keys(level) if key.casefold() == folded]

    def types(self, key: str, writers: tuple[int, ...]) -> list[Any]:
        """The annotations of the values that may be found under a key; Any where nothing is known."""
        found = [self.writes[index].keys.get(key, Any) for index in writers]
        if not writers or key not in self.writes[writers[-1]].sure:
            found.append(Any if self.initial is None else self.initial.get(key, Any))
        return found

    def _candidates(self, key: str, level: int) -> Iterator[int]:
        """Steps of earlier levels that may write the key, latest in plan order first."""
        named, opened = self._writers.get(key, ()), self._open
        at, other = len(named) - 1, len(opened) - 1
        last = -1
        while at >= 0 or other >= 0:
            if other < 0 or (at >= 0 and named[at] >= opened[other]):
                index, at = named[at], at - 1
            else:
                index, other = opened[other], other - 1
            if index != last and self._levels[index] < level:
                yield index
            last = index
