"""Inputs: the mapping of a step, bound to the slots it reads and checked against the schemas on both ends.

Called once per step, in plan order, by `build`. What is said about faulty mappings is worded in `input_findings`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from typing_extensions import assert_never

from chainweaver.compiler.input_findings import InputFindings
from chainweaver.compiler.keys import MISSING, Seen, Visible
from chainweaver.compiler.model_traits import annotation_of
from chainweaver.compiler.models import Facts, InputField
from chainweaver.compiler.paths import DeadEnd, follow
from chainweaver.compiler.readers import (
    Entry,
    Lookup,
    Place,
    look_up_default,
    look_up_first,
    look_up_folded,
    look_up_inside,
    look_up_literal,
    look_up_place,
    look_up_template,
    reader_of,
    whole_context_reader,
)
from chainweaver.compiler.types import Constant, FieldOf, compatible
from chainweaver.flow.mapping import (
    DefaultSource,
    KeySource,
    LiteralSource,
    MappingSyntaxError,
    PointerSource,
    Source,
    TemplateRef,
    TemplateSource,
    parse_source,
)

if TYPE_CHECKING:
    from chainweaver.compiler.findings import Findings
    from chainweaver.compiler.lower import Lowered
    from chainweaver.plan import Reader


Origins: TypeAlias = "tuple[tuple[str, Seen], ...]"
"""Context keys, each with what a step finds under it."""


@dataclass(frozen=True, slots=True)
class BoundInputs:
    """What a step reads.

    Attributes:
        read: Takes the inputs from the slots of a run.
        writers: Steps that may have written what is read, ascending.
        dynamic_fields: Input fields that are fed by dynamic parameters, by their names and by the keys that feed them.
        given: Input field -> the types that its value may have. None when everything is read.
        origins: Input field -> what it looks at: context keys, and what is found under them.
        fed_as: Input field -> the key of what is read under which its value stands, where that is not its name.
        whole: The fields that take the very object under their key, and no part of it or text made of it.
    """

    read: Reader
    writers: tuple[int, ...]
    dynamic_fields: tuple[str, ...]
    given: Mapping[str, list[Any]] | None
    origins: Mapping[str, Origins]
    fed_as: Mapping[str, str] = dataclasses.field(default_factory=dict)
    whole: frozenset[str] = frozenset()


def bind_inputs(step: Lowered, visible: Visible, findings: Findings) -> BoundInputs:
    """Bind the input mapping of a step and note everything that is wrong with it."""
    binding = _Binding(step, visible, findings)
    schema = step.takes
    given: Mapping[str, list[Any]] | None = binding.given
    if step.definition.input_mapping or schema is None:
        read = reader_of(binding.mapped(schema))
    else:
        read = reader_of(binding.named(schema))
        if schema.open:
            read, given = binding.everything(), None
    hidden = {key for name in binding.dynamic for key in (name, *binding.keys.get(name, ()))}
    origins = {name: tuple(found) for name, found in binding.origins.items()}
    fed_as = {name: min(keys) for name, keys in binding.keys.items() if name not in keys}
    whole = frozenset(binding.whole)
    return BoundInputs(read, tuple(sorted(binding.writers)), tuple(sorted(hidden)), given, origins, fed_as, whole)


class _Binding:
    """The work on the inputs of one step."""

    def __init__(self, step: Lowered, visible: Visible, findings: Findings) -> None:
        self.step = step
        self.visible = visible
        self.told = InputFindings(step, visible, findings)
        self.writers: set[int] = set()
        self.dynamic: set[str] = set()
        self.keys: dict[str, set[str]] = {}
        self.given: dict[str, list[Any]] = {}
        self.cut = None if step.definition.chunk is None else step.definition.chunk.input
        self.origins: dict[str, list[tuple[str, Seen]]] = {}
        self.whole: set[str] = set()

    # ---- what a step may read

    def mapped(self, schema: Facts | None) -> list[Entry]:
        """Entries for a mapping that names its sources."""
        entries = []
        for target, value in self.step.definition.input_mapping.items():
            field = self._field(target, schema)
            self.keys.setdefault(field.name, set()).add(field.key)
            try:
                source = parse_source(value)
            except MappingSyntaxError as exc:
                self.told.syntax(target, exc)
                self.given[field.name] = [Any]
                continue
            entry, kinds = self._entry(field, source)
            entries.append(entry)
            self.given[field.name] = kinds
            self._check_kinds(field, source, kinds)
        for field in () if schema is None else schema.fields:
            if field.required and field.name not in self.given:
                self.told.missing_required(field.name, certain=True)
        return entries

    def _field(self, target: str, schema: Facts | None) -> InputField:
        field = None if schema is None else schema.accepted.get(target)
        if field is not None:
            return field
        if schema is not None and not schema.tolerant:
            self.told.unknown_target(target, schema)
        return InputField(target, target, Any, required=False)

    def named(self, schema: Facts) -> list[Entry]:
        """Entries for an empty mapping: every context key that the input model names."""
        entries = []
        for field in schema.fields:
            self.keys[field.name] = {field.key}
            places = self._places(field)
            if places:
                place, *others = places
                look_up = look_up_first(places) if others else look_up_place(place)
                entries.append(Entry(field.key, None if others else place, look_up, required=False))
        return entries

    def _places(self, field: InputField) -> list[Place]:
        """Where a field finds its value: under the first of its names that is declared, else under any of them."""
        seen = {key: self.visible.look(key, self.step.level) for key in dict.fromkeys((field.name, field.key))}
        declared = [key for key, one in seen.items() if one.standing == "declared"]
        possible = declared[:1] or [key for key, one in seen.items() if one.standing != "impossible"]
        if field.required and not any(seen[key].standing not in MISSING for key in possible):
            self.told.missing_required(field.name, certain=not possible)
        for key in possible:
            self._note(field.name, key, seen[key])
            self._check_kinds(field, KeySource(key), seen[key].kinds)
        if possible:
            self.whole.add(field.name)
            self.given[field.name] = [kind for key in possible for kind in seen[key].kinds]
        return [seen[key].place for key in possible]

    def everything(self) -> Reader:
        """A reader of the whole context, for models that take any key."""
        earlier = self.visible.read_all(self.step.level)
        self.writers.update(earlier)
        self.dynamic.update(self.visible.dynamic | self.visible.hidden)
        return whole_context_reader([index + 1 for index in earlier], self.visible.dynamic_slot)

    # ---- sources

    def _note(self, target: str, key: str, seen: Seen) -> None:
        self.origins.setdefault(target, []).append((key, seen))
        self.writers.update(seen.writers)
        if key in self.visible.dynamic or key in self.visible.hidden:
            self.dynamic.add(target)

    def _look(self, target: str, key: str, text: str) -> Seen:
        seen = self.visible.look(key, self.step.level)
        if seen.standing in MISSING:
            self.told.missing_key(target, text, key, certain=seen.standing == "impossible")
        self._note(target, key, seen)
        return seen

    def _entry(self, field: InputField, source: Source) -> tuple[Entry, list[Any]]:
        if isinstance(source, KeySource):
            seen = self._look(field.name, source.key, source.key)
            self.whole.add(field.name)
            return Entry(field.key, seen.place, look_up_place(seen.place), required=True), seen.kinds
        look_up, kinds = self._look_up(field.name, source)
        return Entry(field.key, None, look_up, required=True), kinds

    def _look_up(
        self, target: str, source: PointerSource | LiteralSource | TemplateSource | DefaultSource
    ) -> tuple[Lookup, list[Any]]:
        if isinstance(source, PointerSource):
            return self._inside(target, source.tokens, source.text)
        if isinstance(source, LiteralSource):
            return look_up_literal(source.value), [Constant(source.value)]
        if isinstance(source, DefaultSource):
            return self._defaulted(target, source)
        if isinstance(source, TemplateSource):
            return self._template(target, source)
        assert_never(source)

    def _inside(self, target: str, tokens: Sequence[str], text: str) -> tuple[Lookup, list[Any]]:
        root, *rest = tokens
        seen = self._look(target, root, text)
        look_up = look_up_inside(look_up_place(seen.place, text), rest, text)
        return look_up, self._followed(target, seen.kinds, rest, text)

    def _followed(self, target: str, kinds: list[Any], tokens: Sequence[str], text: str) -> list[Any]:
        reached = follow(kinds, tokens) if tokens else kinds
        if isinstance(reached, DeadEnd):
            self.told.dead_end(target, text, reached)
            return [Any]
        return reached

    def _defaulted(self, target: str, source: DefaultSource) -> tuple[Lookup, list[Any]]:
        # A key that is not there is what the default is for, so it is no finding.
        inner = source.source
        text, tokens = (inner.key, (inner.key,)) if isinstance(inner, KeySource) else (inner.text, inner.tokens)
        seen = self.visible.look(tokens[0], self.step.level)
        self._note(target, tokens[0], seen)
        reached = follow(seen.kinds, tokens[1:])
        kinds = [] if isinstance(reached, DeadEnd) or seen.standing == "impossible" else reached
        look_up = look_up_inside(look_up_place(seen.place, text), tokens[1:], text)
        return look_up_default(look_up, source.default), [*kinds, Constant(source.default)]

    def _template(self, target: str, source: TemplateSource) -> tuple[Lookup, list[Any]]:
        parts: list[str | Lookup] = []
        kinds: list[Any] = [str]
        for part in source.parts:
            if isinstance(part, str):
                parts.append(part)
                continue
            look_up, reached = (self._folded if source.case_folded else self._reference)(target, part)
            parts.append(look_up)
            if len(source.parts) == 1:
                # The object itself is passed, not its text.
                kinds = reached
        return look_up_template(parts), kinds

    def _reference(self, target: str, part: TemplateRef) -> tuple[Lookup, list[Any]]:
        return self._inside(target, part.tokens, part.text)

    def _folded(self, target: str, part: TemplateRef) -> tuple[Lookup, list[Any]]:
        """A legacy reference: the keys that equal it but for their case, known ones first."""
        [folded] = part.tokens
        keys = self.visible.folded(folded, self.step.level)
        if not keys:
            return look_up_folded([self._look(target, folded, part.text).place], folded), [Any]
        found = [self._look(target, key, part.text) for key in keys]
        return look_up_folded([seen.place for seen in found], folded), [kind for seen in found for kind in seen.kinds]

    # ---- types

    def _check_kinds(self, field: InputField, source: Source, kinds: list[Any]) -> None:
        if self.cut in (field.name, field.key):
            return  # what is cut need not be of the type of its chunks; `chunks` checks it
        if not any(compatible(kind, field.kind) for kind in kinds):
            self.told.type_mismatch(field, source, kinds)
        elif isinstance(source, KeySource) and any(map(_is_untyped, kinds)) and annotation_of(field.kind) is not Any:
            self.told.implicit_any(field, source.key)


def _is_untyped(kind: Any) -> bool:
    """Whether a tool returns the value under the declaration that it may be anything."""
    return isinstance(kind, FieldOf) and annotation_of(kind) is Any
