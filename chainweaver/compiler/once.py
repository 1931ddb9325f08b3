"""Validating once: what a flow with `validation="once"` takes as it is, and why it validates everything else.

A field is taken as it is where everything that may feed it has been validated as what the field asks for (`sameness`),
and where nobody may have changed it since (`mutation`). Outputs that are the very objects which a step was given count
as validated, too. Called by `build` once all steps are bound; `explain` shows what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from chainweaver.compiler.core_schemas import FieldOf, View, target_view
from chainweaver.compiler.derived import checking, fields_of, taking
from chainweaver.compiler.model_traits import IMMUTABLES, is_one_of, is_plainly_built, passes_untouched
from chainweaver.compiler.models import ModelFacts
from chainweaver.compiler.sameness import past_labels, why_not_as_it_is
from chainweaver.tools.opening import foreign_fields, opener_of

if TYPE_CHECKING:
    from chainweaver.compiler.build import Build
    from chainweaver.compiler.inputs import BoundInputs
    from chainweaver.compiler.lower import Lowered
    from chainweaver.compiler.models import KnownTool
    from chainweaver.compiler.mutation import Mutations
    from chainweaver.plan import PlannedTool, Validate

FLOW_INPUT = "input"
"""Stands for the input of a flow where steps stand by their labels."""


class NotProven(Exception):
    """A value has to be validated again; the text says why."""


class Once:
    """What is validated once in a flow.

    Attributes:
        taken: Step -> field -> the steps, or the input, whose values it takes as they are.
        refused: Step -> field -> why its values are validated again.
    """

    def __init__(self, built: Build, bound: Sequence[BoundInputs], mutations: Mutations) -> None:
        self.taken: dict[int, dict[str, list[str]]] = {}
        self.refused: dict[int, dict[str, str]] = {}
        self._built = built
        self._bound = bound
        self._mutations = mutations
        self._elided: dict[tuple[int, int], set[str]] = {}  # (step, callee) -> fields that it takes as they are
        self._sources: dict[tuple[int, int], set[str]] = {}  # (step, callee) -> outputs that others take as they are
        self._variants: dict[tuple[type[BaseModel], frozenset[str]], Validate] = {}
        for step in built.steps:
            self._judge(step)

    # ---- inputs

    def _judge(self, step: Lowered) -> None:
        taken, refused = self.taken.setdefault(step.index, {}), self.refused.setdefault(step.index, {})
        if step.definition.tool_name is None:
            return  # what a sub-flow is given is validated by its own input schema, if it has one
        for known in step.callees:
            for name in known.takes.model.model_fields:
                if name not in self._bound[step.index].origins:
                    continue
                try:
                    sources = list(self._proven(step, known, name))
                except NotProven as why:
                    if known is step.primary:
                        refused[name] = str(why)
                    continue
                self._elided.setdefault((step.index, id(known)), set()).add(name)
                for writer, callee, output in sources:
                    if callee is not None:
                        self._sources.setdefault((writer, id(callee)), set()).add(output)
                if known is step.primary:
                    labels = (self._label(writer) for writer, _, _ in sources)
                    taken[name] = list(dict.fromkeys(labels))

    def _label(self, writer: int) -> str:
        return FLOW_INPUT if writer < 0 else self._built.steps[writer].step_id

    def _proven(self, step: Lowered, known: KnownTool, name: str) -> Iterator[tuple[int, KnownTool | None, str]]:
        """All that may feed a field, each of it proven to be valid: writer (-1: the input), its callee and output.

        Raises:
            NotProven: Some of it is not, or the field itself wants to see every value.
        """
        bound, model = self._bound[step.index], known.takes.model
        wanted = _field_view(model, name)
        if step.definition.map_over is not None:
            raise NotProven("it runs once per item, and the items of a list were not validated one by one")
        if step.definition.chunk is not None:
            raise NotProven("its tool is called with chunks, which are objects of their own")
        if name not in bound.whole:
            raise NotProven("it takes a part of a value, a text made of it, or a default")
        if bound.given is None:
            raise NotProven(f"{model.__name__} takes the whole context")
        if name in known.tool.mutates:
            raise NotProven("its tool changes it in place")
        if _validates_default(model, name):
            raise NotProven("it validates its default")
        if step.primary is not None and _key(known, name) != _key(step.primary, name):
            raise NotProven("another tool of the step reads it under another name")
        for key, seen in bound.origins[name]:
            for slot in seen.place.slots:
                for writer, callee, output, given in self._givers(slot, key):
                    why = why_not_as_it_is(given, wanted)
                    if why is not None:
                        raise NotProven(f"'{key}' of {self._told(writer)}: {why}")
                    changer = self._mutations.changed_between(slot, step.index)
                    if changer is not None:
                        raise NotProven(f"step '{changer.label}' may have changed '{key}' in place")
                    yield writer, callee, output

    def _told(self, writer: int) -> str:
        return "the input" if writer < 0 else f"step '{self._built.steps[writer].label}'"

    def _givers(self, slot: int, key: str) -> Iterator[tuple[int, KnownTool | None, str, View]]:
        """Who may have written a key into a slot, and as what it was validated."""
        built = self._built
        if slot == 0:
            yield -1, None, key, self._input_view(key)
            return
        if slot > len(built.steps):
            raise NotProven(f"'{key}' is a dynamic parameter, which nothing has validated")
        writer = built.steps[slot - 1]
        told = f"'{key}' of step '{writer.label}'"
        if writer.definition.map_over is not None:
            raise NotProven(f"{told}: the lists of a map are put together of what was validated item by item")
        if writer.definition.chunk is not None:
            raise NotProven(f"{told}: it is put together of what was validated chunk by chunk")
        if writer.definition.tool_name is None or not writer.callees:
            raise NotProven(f"{told}: what comes out of a sub-flow or a capability was validated inside, if at all")
        renames = writer.definition.output_mapping
        output = key if renames is None else renames.get(key, key)
        for known in writer.callees:
            gives = known.gives
            if output not in gives.outputs:
                if renames is not None or gives.open:
                    raise NotProven(f"{told}: tool '{known.tool.name}' does not declare it")
                continue
            if not built.planned_tools[id(known)].direct_output:
                raise NotProven(f"{told}: {gives.model.__name__} does more than validate its fields")
            yield slot - 1, known, output, self._output_view(gives.model, output, told)

    def _input_view(self, key: str) -> View:
        schema = self._built.input.schema
        if schema is None:
            raise NotProven(f"'{key}' comes from outside, and the flow has no input schema")
        if key not in schema.outputs:
            raise NotProven(f"'{key}' comes from outside, and {schema.name} does not name it")
        return self._output_view(schema.model, key, f"'{key}' of the input")

    def _output_view(self, model: type[BaseModel], name: str, told: str) -> View:
        """What a field of a model has validated; not so where it may hold a default that nothing has."""
        if not is_plainly_built(model):
            raise NotProven(f"{told}: {model.__name__} does more than validate its fields")
        if not _has_sound_default(model, name):
            raise NotProven(f"{told}: it may be a default, which nothing validates")
        if passes_untouched(FieldOf(model, name)):
            raise NotProven(f"{told}: nothing looks into it there")
        return target_view(FieldOf(model, name))

    # ---- tools

    def applied(self, step: Lowered, known: KnownTool, planned: PlannedTool) -> PlannedTool:
        """A tool as a step calls it that takes what has been validated as it is."""
        place = step.index, id(known)
        elided, sources = self._elided.get(place, set()), self._sources.get(place, set())
        changed: dict[str, Any] = {}
        if elided:
            changed["validate_input"] = self._taking(known.takes.model, frozenset(elided))
        if sources:
            changed["open_output"] = _opening(known.gives.model, tuple(sources))
        handed = self._handed_on(step, known, planned)
        if handed:
            changed["hand_back"] = self._handing_back(known, handed, sources)
        if not changed:
            return planned
        dry = planned.dry
        if dry is not None:
            dry = replace(dry, **changed)
        return replace(planned, dry=dry, **changed)

    def _taking(self, model: type[BaseModel], names: frozenset[str]) -> Validate:
        found = self._variants.get((model, names))
        if found is None:
            found = self._variants[model, names] = taking(model, names)
        return found

    # ---- outputs

    def _handed_on(self, step: Lowered, known: KnownTool, planned: PlannedTool) -> dict[str, list[str]]:
        """Output -> the inputs whose validated objects it may be, as far as looking at it again costs anything."""
        takes, gives = known.takes, known.gives
        if not (isinstance(takes, ModelFacts) and isinstance(gives, ModelFacts) and planned.direct_output):
            return {}
        by_attributes = gives.model.model_config.get("from_attributes")
        definition = step.definition
        # A step of many calls gives what all of them gave together, and what one call gives is another thing.
        if definition.map_over is not None or definition.chunk is not None or known.tool.mutates or by_attributes:
            return {}
        if not (is_plainly_built(takes.model) and is_plainly_built(gives.model)):
            return {}
        if self._mutations.changed_meanwhile(step.index):
            return {}
        found: dict[str, list[str]] = {}
        for output, info in gives.model.model_fields.items():
            kind = FieldOf(gives.model, output)
            if info.validation_alias is None and not is_one_of(kind, IMMUTABLES) and not passes_untouched(kind):
                same = [name for name in takes.model.model_fields if _is_same(takes.model, name, gives.model, output)]
                if same:
                    found[output] = same
        return found

    def _handing_back(
        self, known: KnownTool, handed: Mapping[str, list[str]], sources: set[str]
    ) -> Callable[[Any, Any], tuple[Any, dict[str, Any]]]:
        """What validates the outputs of a tool, but for the objects that it was given and gives back."""
        model = known.gives.model
        variants = {frozenset[str](): self._built.planned_tools[id(known)].validate_output}
        opened, check = opener_of(model), checking(model, sources) if sources else None

        def is_handed_back(fields: Mapping[str, Any], name: str, held: Mapping[str, Any]) -> bool:
            return name in fields and any(fields[name] is held.get(one, fields) for one in handed[name])

        def hand_back(raw: Any, value: Any) -> tuple[Any, dict[str, Any]]:
            foreign = foreign_fields(model, raw)
            raw = raw if foreign is None else foreign
            held = value.__dict__
            if type(raw) is dict:
                same = frozenset([name for name in handed if is_handed_back(raw, name, held)])
                if same not in variants:
                    variants[same] = self._taking(model, same)
                validated = variants[same](raw)
                return validated, validated.__dict__
            validated = variants[frozenset()](raw)
            fields = opened(validated)
            if validated is raw and check is not None:
                fields.update(
                    check(
                        {
                            name: fields[name]
                            for name in sources
                            if name not in handed or not is_handed_back(fields, name, held)
                        }
                    )
                )
            return validated, fields

        return hand_back


def _opening(model: type[BaseModel], names: Collection[str]) -> Callable[[Any], dict[str, Any]]:
    """What opens an instance that a tool has made itself, and validates what others take as it is.

    Output validation lets such an instance pass, and nobody knows whether its fields were ever validated, or changed
    afterwards. What output validation has made itself is never opened this way: its `__dict__` is taken.
    """
    check = checking(model, names)
    opened = opener_of(model)

    def open_output(instance: Any) -> dict[str, Any]:
        fields = opened(instance)
        fields.update(check({name: fields[name] for name in names}))
        return fields

    return open_output


def _field_view(model: type[BaseModel], name: str) -> View:
    """The core schema of a field, where nothing but it decides about the value.

    Raises:
        NotProven: The model has validators of its own, or the field has nothing to validate.
    """
    if not is_plainly_built(model) or fields_of(model) is None:
        raise NotProven(f"{model.__name__} does more than validate its fields")
    if passes_untouched(FieldOf(model, name)):
        raise NotProven("it passes as it is anyway")
    return target_view(FieldOf(model, name))


def _is_same(takes: type[BaseModel], name: str, gives: type[BaseModel], output: str) -> bool:
    if not _has_sound_default(takes, name):
        return False
    given, wanted = target_view(FieldOf(takes, name)), target_view(FieldOf(gives, output))
    return past_labels(wanted).kind != "any" and why_not_as_it_is(given, wanted) is None


def _key(known: KnownTool, name: str) -> str | None:
    return next((field.key for field in known.takes.fields if field.name == name), None)


def _validates_default(model: type[BaseModel], name: str) -> bool:
    info = model.model_fields[name]
    return not info.is_required() and bool(info.validate_default or model.model_config.get("validate_default"))


def _has_sound_default(model: type[BaseModel], name: str) -> bool:
    """Whether the value of a field is valid also where it was not given."""
    info = model.model_fields[name]
    if info.is_required() or _validates_default(model, name):
        return True
    if info.default_factory is not None:
        return False
    try:
        [found] = checking(model, [name])({name: info.default}).values()
    except Exception:  # the very question is whether it is valid
        return False
    return type(found) is type(info.default) and bool(found == info.default)
