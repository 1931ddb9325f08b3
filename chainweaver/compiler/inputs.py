"""Inputs: the mapping of a step, bound to the slots it reads and checked against the schemas on both ends.

Called once per step, in plan order, by `build`. All findings about inputs are made here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from typing_extensions import assert_never

from chainweaver.compiler.keys import Visible, annotation_of, is_open
from chainweaver.compiler.readers import (
    Entry,
    Lookup,
    Place,
    look_up_default,
    look_up_folded,
    look_up_inside,
    look_up_literal,
    look_up_place,
    look_up_template,
    reader_of,
    whole_context_reader,
)
from chainweaver.compiler.types import compatible, describe
from chainweaver.exceptions import FlowExecutionError, InputMappingError, SchemaValidationError, suggest
from chainweaver.flow.mapping import (
    DefaultSource,
    KeySource,
    LiteralSource,
    MappingSyntaxError,
    PointerSource,
    Source,
    TemplateSource,
    parse_source,
)

if TYPE_CHECKING:
    from chainweaver.compiler.findings import Findings
    from chainweaver.compiler.lower import Lowered
    from chainweaver.plan import Reader


@dataclass(frozen=True, slots=True)
class BoundInputs:
    """What a step reads.

    Attributes:
        read: Takes the inputs from the slots of a run.
        writers: Steps that may have written what is read, ascending.
        dynamic_fields: Input fields that are fed by dynamic parameters.
    """

    read: Reader
    writers: tuple[int, ...]
    dynamic_fields: tuple[str, ...]


class _Binding:
    """The work on the inputs of one step."""

    def __init__(self, step: Lowered, visible: Visible, findings: Findings) -> None:
        self.step = step
        self.visible = visible
        self.findings = findings
        self.writers: set[int] = set()
        self.dynamic: list[str] = []

    # ---- fields of the input model

    def explicit(self, model: type[BaseModel] | None) -> list[Entry]:
        """Entries for a mapping that names its sources."""
        entries = []
        fields = {} if model is None else accepted_names(model)
        for target, value in self.step.definition.input_mapping.items():
            try:
                source = parse_source(value)
            except MappingSyntaxError as exc:
                self._syntax(target, exc)
                continue
            if model is not None and target not in fields and not is_open(model):
                self._unknown_target(target, model)
            name, annotation = fields.get(target, (target, Any))
            place = self._place(target, source.key) if isinstance(source, KeySource) else None
            entries.append(Entry(name, place, self._look_up(target, source), True))
            self._check_type(target, source, annotation)
        if model is not None:
            self._check_required(model, {entry.field for entry in entries})
        return entries

    def implicit(self, model: type[BaseModel]) -> list[Entry]:
        """Entries for an empty mapping: every context key that the input model names."""
        entries = []
        for field_name, info in model.model_fields.items():
            names = [field_name, *([info.alias] if info.alias and info.alias != field_name else [])]
            target = accepted_names(model).get(field_name, (field_name, Any))[0]
            key = next((name for name in names if self.visible.is_known(name, self.step.level)), None)
            if key is None:
                if info.is_required():
                    self._missing_required(field_name)
                continue
            place = self._place(field_name, key)
            entries.append(Entry(target, place, look_up_place(place), False))
            self._check_type(field_name, KeySource(key), annotation_of(info))
        return entries

    # ---- sources

    def _place(self, target: str, key: str) -> Place:
        place, writers = self.visible.place(key, self.step.level)
        self.writers.update(writers)
        self.step.read_keys.append(key)
        if key in self.visible.dynamic and target not in self.dynamic:
            self.dynamic.append(target)
        return place

    def _root(self, target: str, key: str, text: str) -> Lookup:
        if not self.visible.is_known(key, self.step.level):
            self._missing_key(target, text, key)
        return look_up_place(self._place(target, key))

    def _look_up(self, target: str, source: Source) -> Lookup:
        if isinstance(source, KeySource):
            return self._root(target, source.key, source.key)
        if isinstance(source, PointerSource):
            root, *tokens = source.tokens
            return look_up_inside(self._root(target, root, source.text), tokens, source.text)
        if isinstance(source, LiteralSource):
            return look_up_literal(source.value)
        if isinstance(source, DefaultSource):
            return look_up_default(self._defaulted(target, source.source), source.default)
        if isinstance(source, TemplateSource):
            return look_up_template(
                [part if isinstance(part, str) else self._part(target, source, part) for part in source.parts]
            )
        assert_never(source)

    def _defaulted(self, target: str, source: KeySource | PointerSource) -> Lookup:
        # A missing root is what the default is for, so it is no finding.
        tokens = (source.key,) if isinstance(source, KeySource) else source.tokens
        text = source.key if isinstance(source, KeySource) else source.text
        return look_up_inside(look_up_place(self._place(target, tokens[0])), tokens[1:], text)

    def _part(self, target: str, source: TemplateSource, part: Any) -> Lookup:
        root, *tokens = part.tokens
        if not source.case_folded:
            return look_up_inside(self._root(target, root, part.text), tokens, part.text)
        keys = self.visible.folded(root, self.step.level)
        if not keys and not self.visible.is_known(root, self.step.level):
            self._missing_key(target, part.text, root)
        places = [self._place(target, key) for key in keys or [root]]
        return look_up_folded(places, root)

    # ---- findings

    def _check_type(self, target: str, source: Source, annotation: Any) -> None:
        if isinstance(source, LiteralSource):
            found = [type(source.value)]
        elif isinstance(source, TemplateSource) and not (
            len(source.parts) == 1 and not isinstance(source.parts[0], str)
        ):
            found = [str]
        elif isinstance(source, KeySource):
            found = self.visible.types(source.key, self.visible.place(source.key, self.step.level)[1])
            if source.key in self.visible.dynamic:
                return
        else:
            return
        if any(compatible(one, annotation) for one in found):
            return
        given = " | ".join(dict.fromkeys(map(describe, found)))
        detail = (
            f"field '{target}' of tool '{self.step.tool_name}' takes {describe(annotation)}, but {_told(source)} gives "
            f"{given}; map another key, or convert it in a step before"
        )
        self._schema_error(target, "type_mismatch", detail)

    def _check_required(self, model: type[BaseModel], given: set[str]) -> None:
        for target, (name, _) in accepted_names(model).items():
            info = model.model_fields.get(target)
            if info is not None and info.is_required() and name not in given:
                self._missing_required(target)

    def _missing_required(self, target: str) -> None:
        known = self.visible.known_keys(self.step.level)
        near = suggest(target, known)
        hint = f"did you mean '{near}'? " if near else ""
        detail = (
            f"required field '{target}' of tool '{self.step.tool_name}' gets no value; {hint}add it to input_mapping "
            f"(known keys: {', '.join(known) or 'none'})"
        )
        self._schema_error(target, "missing_required_input", detail)

    def _unknown_target(self, target: str, model: type[BaseModel]) -> None:
        near = suggest(target, model.model_fields)
        fields = ", ".join(model.model_fields) or "none"
        hint = f"did you mean '{near}'?" if near else f"its fields are {fields}"
        detail = f"tool '{self.step.tool_name}' has no input field '{target}'; {hint}"
        self._schema_error(target, "unknown_target_key", detail)

    def _schema_error(self, target: str, issue_type: str, detail: str) -> None:
        step = self.step
        self.findings.error(
            step,
            issue_type,
            detail,
            lambda: SchemaValidationError(step.tool_name, step.index, detail, context="input", step_name=step.label),
            target,
        )

    def _missing_key(self, target: str, text: str, key: str) -> None:
        step, known = self.step, self.visible.known_keys(self.step.level)
        near = suggest(key, known)
        hint = f"did you mean '{near}'?" if near else f"known keys are {', '.join(known) or 'none'}"
        self.findings.error(
            step,
            "missing_mapping_key",
            f"field '{target}' reads unknown key '{text}'; {hint}",
            lambda: InputMappingError(step.tool_name, step.index, text, known=known, step_name=step.label),
            target,
        )

    def _syntax(self, target: str, exc: MappingSyntaxError) -> None:
        step = self.step
        self.findings.error(
            step,
            "mapping_syntax",
            f"field '{target}': {exc}",
            lambda: FlowExecutionError(step.tool_name, step.index, f"field '{target}': {exc}", step_name=step.label),
            target,
        )


def bind_inputs(step: Lowered, visible: Visible, findings: Findings) -> BoundInputs:
    """Bind the input mapping of a step and note everything that is wrong with it."""
    binding = _Binding(step, visible, findings)
    tool = step.tool or step.fallback
    model = None if tool is None else tool.input_schema
    if step.definition.input_mapping:
        read = reader_of(binding.explicit(model))
    elif model is not None and is_open(model):
        earlier = [index for index in range(step.index) if visible.level_of(index) < step.level]
        binding.writers.update(earlier)
        binding.dynamic += [name for name in visible.dynamic]
        read = whole_context_reader([index + 1 for index in earlier], visible.dynamic_slot)
    else:
        read = reader_of([] if model is None else binding.implicit(model))
    return BoundInputs(read, tuple(sorted(binding.writers)), tuple(sorted(binding.dynamic)))


def accepted_names(model: type[BaseModel]) -> dict[str, tuple[str, Any]]:
    """Every name that a mapping may use for a field -> the key that validation takes, and the annotation.

    A field with an alias is validated by its alias unless the model accepts field names.
    """
    by_name = bool(model.model_config.get("populate_by_name") or model.model_config.get("validate_by_name"))
    names: dict[str, tuple[str, Any]] = {}
    for name, info in model.model_fields.items():
        alias = info.validation_alias if isinstance(info.validation_alias, str) else info.alias
        key = name if alias is None or by_name else alias
        names[name] = (key, annotation_of(info))
        if alias is not None:
            names[alias] = (alias, annotation_of(info))
    return names


def _told(source: Source) -> str:
    if isinstance(source, LiteralSource):
        return "the literal"
    return "the template" if isinstance(source, TemplateSource) else f"key '{getattr(source, 'key', '')}'"
