"""Explaining: what a flow would do with an input, read off its definition as the compiler sees it. Nothing runs.

What a step sees is what a run would let it see: the input, and what steps of earlier levels write. Sub-flows are
explained with what their step hands to them. Called by the facade only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from typing_extensions import assert_never

from chainweaver.compiler.build import Build
from chainweaver.compiler.types import describe
from chainweaver.exceptions import PredicateSyntaxError
from chainweaver.flow import DAGFlowStep
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
from chainweaver.results import BranchPlan, ExecutionPlan, StepPlan

if TYPE_CHECKING:
    from chainweaver.compiler import CompilationError, CompilationWarning
    from chainweaver.compiler.compose import Composition
    from chainweaver.compiler.lower import Lowered
    from chainweaver.flow import AnyFlow
    from chainweaver.tools import Tool

INPUT = "input"
"""Stands for the input of a flow where steps stand by their ids."""


def explain(
    flow: AnyFlow, tools: Mapping[str, Tool], composition: Composition, initial_input: Mapping[str, Any]
) -> ExecutionPlan:
    """The plan of a flow for an input, for a reader."""
    # Compiled anew and not taken from a cache: plans do not keep what is known about types and writers.
    built = Build(flow, tools, "", composition)
    built.result()
    shape = {key: describe(type(value)) for key, value in initial_input.items()}
    return _explained(built, {**shape, **dict.fromkeys(flow.dynamic_params, "dynamic")}, is_open=False)


def _explained(built: Build, given: Mapping[str, str], *, is_open: bool) -> ExecutionPlan:
    """The plan of a flow that begins with these keys.

    Args:
        is_open: There may be others as well.
    """
    flow, schema = built.flow, built.input.schema
    shape = dict(given)
    if schema is not None:
        shape.update({name: describe(info.annotation) for name, info in schema.model.model_fields.items()})
    told = _findings(built)
    context = _Context(built, shape, is_open)
    steps: list[StepPlan] = []
    for step in built.steps:
        context.enter(step.level)
        steps.append(_step_plan(built, step, context, told.get(step.index, [])))
        context.add(step)
    context.enter(None)
    for name in flow.dynamic_params:
        context.shape.pop(name, None)
    outputs = flow.outputs
    return ExecutionPlan(
        flow_name=flow.name,
        step_count=len(steps),
        steps=steps,
        final_context_shape=context.shape
        if outputs is None
        else {name: context.shape.get(name, "Any") for name in outputs},
        all_resolvable=not built.findings.errors and all(map(_is_resolvable, steps)),
        flow_version=flow.version,
    )


def _is_resolvable(step: StepPlan) -> bool:
    return not step.unresolved_keys and (step.sub_plan is None or step.sub_plan.all_resolvable)


def _findings(built: Build) -> dict[int, list[str]]:
    """Step -> what the compiler has to say about it."""
    told: dict[int, list[str]] = {}
    found: list[CompilationError | CompilationWarning] = [*built.findings.errors, *built.findings.warnings]
    for one in found:
        told.setdefault(one.step_index, []).append(f"{one.issue_type}: {one.detail}")
    return told


class _Context:
    """The context that a step sees: its keys with their types, level by level.

    Attributes:
        shape: Context key -> type.
        is_open: There may be other keys as well.
    """

    def __init__(self, built: Build, shape: dict[str, str], is_open: bool) -> None:
        self.built = built
        self.shape = shape
        self.is_open = is_open
        self._begun = frozenset(shape)
        self._level: int | None = 0
        self._written: dict[str, str] = {}
        self._opened = False

    def enter(self, level: int | None) -> None:
        """Come to a level, None for the end: what the levels before it write is seen now."""
        if level != self._level:
            self._level = level
            self.shape.update(self._written)
            self.is_open = self.is_open or self._opened
            self._written = {}

    def add(self, step: Lowered) -> None:
        """Note what a step writes."""
        writes = self.built.visible.writes[step.index]
        self._written.update({key: describe(kind) for key, kind in writes.keys.items()})
        self._opened = self._opened or writes.open or writes.unknown

    def has(self, key: str) -> bool:
        return key in self.shape or self.is_open

    def writers(self, key: str, level: int) -> list[str]:
        """The steps that may have written a key, the likeliest first, and the input."""
        built = self.built
        if key in built.flow.dynamic_params:
            return ["dynamic parameter"]
        seen = built.visible.look(key, level)
        names = [built.steps[index].step_id for index in seen.writers]
        # The input is the last resort, where no step is sure to have written the key.
        return [*names, INPUT] if 0 in seen.place.slots and key in self._begun else names


def _step_plan(built: Build, step: Lowered, context: _Context, warnings: list[str]) -> StepPlan:
    reading = _Reading(step, context)
    definition = step.definition
    over = None if definition.map_over is None else reading.items(definition.map_over)
    inputs = reading.inputs()
    branches = list(_branches(built, step, reading))
    schemas = _schemas(built, step)
    child, once = built.children.get(step.index), built.once
    return StepPlan(
        step_index=step.index,
        tool_name=step.tool_name,
        input_sources=inputs,
        input_schema=schemas[0],
        output_schema=schemas[1],
        unresolved_keys=list(dict.fromkeys(reading.unresolved)),
        warnings=warnings,
        step_id=step.step_id,
        depends_on=[built.steps[need].step_id for need in step.needs],
        read_from=reading.read_from,
        writes={key: describe(kind) for key, kind in built.visible.writes[step.index].keys.items()},
        may_be_passed=step.may_be_passed,
        branches=branches,
        candidates=list(step.candidates),
        fallback=step.fallback_name,
        map_over=over,
        map_as=None if over is None else definition.map_as,
        chunk=None if definition.chunk is None else definition.chunk.words,
        capability_id=getattr(definition, "capability_id", None),
        taken_as_is={} if once is None else once.taken[step.index],
        validated_again={} if once is None else once.refused[step.index],
        flow_version=None if child is None else child.flow.version,
        sub_plan=None if child is None else _sub_plan(child, step, reading, over is not None),
    )


def _schemas(built: Build, step: Lowered) -> tuple[str | None, str | None]:
    """The schemas of what a step calls; a sub-flow need not have any, and a capability has none."""
    child = built.children.get(step.index)
    if child is not None:
        takes, gives = child.input.schema, child.output.schema
        return None if takes is None else takes.name, None if gives is None else gives.name
    if step.primary is None or step.definition.tool_name is None:
        return None, None
    return step.primary.takes.name, step.primary.gives.name


def _sub_plan(child: Build, step: Lowered, reading: _Reading, is_mapped: bool) -> ExecutionPlan:
    """The plan of a sub-flow with what its step hands to it."""
    context, mapping = reading.context, step.definition.input_mapping
    seen = {**context.shape, step.definition.map_as: "Any"} if is_mapped else context.shape
    whole = not mapping and step.primary is not None and step.primary.takes.open
    if mapping:
        given = {target: _kind(value, seen) for target, value in mapping.items()}
    else:
        named = (field.name for field in (() if step.primary is None else step.primary.takes.fields))
        given = dict(seen) if whole else {name: seen.get(name, "Any") for name in named if name in seen}
    # Dynamic parameters are not handed over as inputs: a sub-flow that names them as its own sees them.
    shared = {name: "dynamic" for name in child.flow.dynamic_params if context.shape.get(name) == "dynamic"}
    return _explained(child, {**given, **shared}, is_open=whole and context.is_open)


def _kind(value: Any, shape: Mapping[str, str]) -> str:
    """The type of what a mapping gives, as far as it can be told at a glance."""
    try:
        source = parse_source(value)
    except MappingSyntaxError:
        return "Any"
    if isinstance(source, KeySource):
        return shape.get(source.key, "Any")
    return describe(type(source.value)) if isinstance(source, LiteralSource) else "Any"


def _branches(built: Build, step: Lowered, reading: _Reading) -> Iterator[BranchPlan]:
    """The ways out of a step in the order in which they are asked; the default at the end."""
    from chainweaver.compiler.predicates import parse_predicate

    definition = step.definition
    if not isinstance(definition, DAGFlowStep):
        return
    own = built.visible.writes[step.index]
    for edge in definition.branches:
        try:
            names: Sequence[str] = parse_predicate(edge.predicate).names
        except PredicateSyntaxError:
            names = ()  # the compiler tells
        reads = {name: f"output['{name}']" if name in own.keys else reading.told(name, name) for name in names}
        yield BranchPlan(target=edge.target_step_id, predicate=edge.predicate, reads=reads)
    if definition.default_next is not None:
        yield BranchPlan(target=definition.default_next)


# ---- where values come from


@dataclass
class _Reading:
    """What one step reads.

    Attributes:
        read_from: Input field -> who may have written what it reads.
        unresolved: The context keys that nobody provides.
        keys: The context keys that were told of so far.
        over: What a map is over, and the context keys that this takes; None while an item means nothing.
    """

    step: Lowered
    context: _Context
    read_from: dict[str, list[str]] = field(default_factory=dict)
    unresolved: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    over: tuple[str, list[str]] | None = None

    def items(self, value: str) -> str:
        """Where the items of a map come from; from now on an item can be read."""
        text = self._noted(self.step.definition.map_as, lambda: self.of(value))
        self.over = (text, list(self.keys))
        return text

    def inputs(self) -> dict[str, str]:
        """Field -> where its value comes from. Afterwards there is no item any more: it is none of the context."""
        step, mapping = self.step, self.step.definition.input_mapping
        sources: dict[str, str] = {}
        if mapping:
            for target, value in mapping.items():
                sources[target] = self._noted(target, lambda value=value: self.of(value))  # type: ignore[misc]  # called at once
        elif step.primary is None or step.primary.takes.open:
            sources["<all>"] = "context (full)"
            if self.over is not None:
                sources[step.definition.map_as] = f"item of {self.over[0]}"
        else:
            for one in step.primary.takes.fields:
                key = self._key_of(one.name, one.key)
                if one.required or self._is_item(key) or self.context.has(key):
                    sources[one.name] = self._noted(one.name, lambda key=key: self.told(key, key))  # type: ignore[misc]  # called at once
        self.over = None
        return sources

    def _noted(self, field: str, tell: Callable[[], str]) -> str:
        """What is told of a field, after it is noted who may have written what it reads."""
        self.keys = []
        text = tell()
        level = self.step.level
        writers = [one for key in dict.fromkeys(self.keys) for one in self.context.writers(key, level)]
        if writers:
            self.read_from[field] = list(dict.fromkeys(writers))
        return text

    def of(self, value: Any) -> str:
        """Where the value of a mapping comes from."""
        try:
            source: Source = parse_source(value)
        except MappingSyntaxError as exc:
            return f"invalid: {exc.detail}"
        if isinstance(source, KeySource):
            return self.told(source.key, source.key)
        if isinstance(source, PointerSource):
            return self.told(source.tokens[0], source.text)
        if isinstance(source, LiteralSource):
            return f"literal({source.value!r})"
        if isinstance(source, DefaultSource):
            return self._defaulted(source)
        if isinstance(source, TemplateSource):
            parts = [part for part in source.parts if not isinstance(part, str)]
            reads = ", ".join(self._reference(part, folded=source.case_folded) for part in parts)
            return f"template({source.text!r}) of {reads}" if reads else f"template({source.text!r})"
        assert_never(source)

    def told(self, key: str, text: str) -> str:
        """A context key, or what is inside of its value, as the plan tells it."""
        if self.over is not None and self._is_item(key):
            items, keys = self.over
            self.keys += keys
            return f"item of {items}" if key == text else f"item of {items} at '{text}'"
        if self.context.has(key):
            self.keys.append(key)
            return f"context['{text}']"
        self.unresolved.append(text)
        return f"context['{text}'] (UNRESOLVED)"

    def _is_item(self, key: str) -> bool:
        return self.over is not None and key == self.step.definition.map_as

    def _key_of(self, name: str, alias: str) -> str:
        """Under which of its names a field finds its value."""
        there = (one for one in (name, alias) if self._is_item(one) or one in self.context.shape)
        return next(there, name)

    def _defaulted(self, source: DefaultSource) -> str:
        inner = source.source
        key, text = (inner.key, inner.key) if isinstance(inner, KeySource) else (inner.tokens[0], inner.text)
        if self._is_item(key):
            return f"{self.told(key, text)} or literal({source.default!r})"
        if self.context.has(key):
            self.keys.append(key)
        return f"context['{text}'] or literal({source.default!r})"

    def _reference(self, part: TemplateRef, *, folded: bool) -> str:
        key = part.tokens[0]
        if folded:  # the legacy syntax takes any case
            key = next((one for one in self.context.shape if one.casefold() == key), key)
        return self.told(key, part.text)
