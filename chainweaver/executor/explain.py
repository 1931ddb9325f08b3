"""Explaining: what a flow would do with an input, read off its definition and its plan. Nothing runs.

Called by the facade only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import assert_never

from chainweaver.compiler.lower import Lowered, lower
from chainweaver.compiler.models import Catalogue
from chainweaver.compiler.types import describe
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
from chainweaver.results import ExecutionPlan, StepPlan

if TYPE_CHECKING:
    from chainweaver.compiler import CompilationError, CompilationResult, CompilationWarning
    from chainweaver.flow import AnyFlow
    from chainweaver.tools import Tool


def explain(
    flow: AnyFlow, compiled: CompilationResult, tools: Mapping[str, Tool], initial_input: Mapping[str, Any]
) -> ExecutionPlan:
    """The plan of a flow for an input, for a reader."""
    shape = {key: describe(type(value)) for key, value in initial_input.items()}
    if compiled.plan.input_gate is not None:
        fields = compiled.plan.input_gate.model.model_fields
        shape.update({name: describe(info.annotation) for name, info in fields.items()})
    shape.update(dict.fromkeys(flow.dynamic_params, "dynamic"))
    open_context = level_is_open = False
    steps: list[StepPlan] = []
    level_shape: dict[str, str] = {}
    level = 0
    told: dict[int, list[str]] = {}
    every: list[CompilationError | CompilationWarning] = [*compiled.errors, *compiled.warnings]
    for one in every:
        told.setdefault(one.step_index, []).append(f"{one.issue_type}: {one.detail}")
    for step in lower(flow, Catalogue(tools)):
        if step.level != level:
            # What a level writes is seen by the levels after it.
            level = step.level
            shape.update(level_shape)
            level_shape = {}
            open_context = open_context or level_is_open
        steps.append(_step_plan(step, told.get(step.index, []), shape, open_context))
        level_shape.update(_written(step))
        level_is_open = level_is_open or step.primary is None or step.primary.gives.open
    shape.update(level_shape)
    for name in flow.dynamic_params:
        shape.pop(name, None)
    return ExecutionPlan(
        flow_name=flow.name,
        step_count=len(steps),
        steps=steps,
        final_context_shape=shape if flow.outputs is None else {name: shape.get(name, "Any") for name in flow.outputs},
        all_resolvable=not any(step.unresolved_keys for step in steps) and compiled.success,
    )


def _step_plan(step: Lowered, warnings: list[str], shape: Mapping[str, str], open_context: bool) -> StepPlan:
    sources, unresolved = _sources(step, shape, open_context)
    return StepPlan(
        step_index=step.index,
        tool_name=step.tool_name,
        input_sources=sources,
        input_schema=None if step.primary is None else step.primary.takes.name,
        output_schema=None if step.primary is None else step.primary.gives.name,
        unresolved_keys=unresolved,
        warnings=warnings,
    )


def _sources(step: Lowered, shape: Mapping[str, str], open_context: bool) -> tuple[dict[str, str], list[str]]:
    """Field -> where its value comes from, and the context keys that nobody provides."""
    mapping = step.definition.input_mapping
    unresolved: list[str] = []

    def told(key: str, text: str) -> str:
        if key in shape or open_context:
            return f"context['{text}']"
        unresolved.append(text)
        return f"context['{text}'] (UNRESOLVED)"

    if not mapping:
        if step.primary is None or step.primary.takes.open:
            return {"<all>": "context (full)"}, []
        fields = step.primary.takes.fields
        return {
            field.name: told(field.name, field.name)
            for field in fields
            if field.name in shape or open_context or field.required
        }, unresolved
    return {target: _told(value, told) for target, value in mapping.items()}, unresolved


def _told(value: Any, told: Any) -> str:
    try:
        source: Source = parse_source(value)
    except MappingSyntaxError as exc:
        return f"invalid: {exc.detail}"
    if isinstance(source, KeySource):
        return str(told(source.key, source.key))
    if isinstance(source, PointerSource):
        return str(told(source.tokens[0], source.text))
    if isinstance(source, LiteralSource):
        return f"literal({source.value!r})"
    if isinstance(source, DefaultSource):
        inner = source.source
        text = inner.key if isinstance(inner, KeySource) else inner.text
        return f"context['{text}'] or literal({source.default!r})"
    if isinstance(source, TemplateSource):
        keys = [part for part in source.parts if not isinstance(part, str)]
        reads = ", ".join(str(told(part.tokens[0], part.text)) for part in keys)
        return f"template({source.text!r}) of {reads}" if reads else f"template({source.text!r})"
    assert_never(source)


def _written(step: Lowered) -> dict[str, str]:
    if step.primary is None:
        return {}
    fields = step.primary.gives.outputs
    renames = step.definition.output_mapping
    if renames is not None:
        return {key: describe(fields.get(name, Any)) for key, name in renames.items()}
    return {name: describe(annotation) for name, annotation in fields.items()}
