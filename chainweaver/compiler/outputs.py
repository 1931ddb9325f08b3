"""Outputs: what a step writes, held against its mappings and contracts and against what the others write.

Called by `build`, step by step for mappings, contracts and fallbacks, and once for collisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from chainweaver.compiler.inputs import accepted_names
from chainweaver.compiler.keys import Writes, annotation_of, is_open, output_fields
from chainweaver.compiler.types import compatible, describe, rebuilds
from chainweaver.exceptions import (
    FlowExecutionError,
    OutputMappingError,
    SchemaValidationError,
    ToolNotFoundError,
    suggest,
)

if TYPE_CHECKING:
    from chainweaver.compiler.findings import Findings
    from chainweaver.compiler.lower import Lowered


def check_tools(step: Lowered, known: Sequence[str], findings: Findings) -> None:
    """Note a missing tool or a missing fallback."""
    definition = step.definition
    for name, tool, issue_type in (
        (definition.tool_name, step.tool, "missing_tool"),
        (definition.fallback_tool, step.fallback, "missing_fallback_tool"),
    ):
        if name is None or tool is not None:
            continue
        near = suggest(name, known)
        hint = f"did you mean '{near}'?" if near else f"registered tools are {', '.join(known) or 'none'}"
        findings.error(
            step,
            issue_type,
            f"tool '{name}' is not registered; {hint}",
            lambda name=name: ToolNotFoundError(name, known=known),
        )


def check_output_mapping(step: Lowered, findings: Findings) -> None:
    """Note output keys that the tool does not have."""
    renames = step.definition.output_mapping
    if step.tool is None or renames is None or is_open(step.tool.output_schema):
        return
    fields = output_fields(step.tool.output_schema)
    for context_key, output_key in renames.items():
        if output_key in fields:
            continue
        near = suggest(output_key, fields)
        hint = f"did you mean '{near}'?" if near else f"its outputs are {', '.join(fields) or 'none'}"
        findings.error(
            step,
            "unknown_output_key",
            f"output_mapping of '{context_key}' takes unknown output key '{output_key}' of tool '{step.tool_name}'; {hint}",
            lambda output_key=output_key: OutputMappingError(  # type: ignore[misc]  # a default binds the loop variable
                step.tool_name, step.index, output_key, known=list(fields), step_name=step.label
            ),
            context_key,
        )


def check_contract(step: Lowered, contract: type[BaseModel], findings: Findings) -> None:
    """Note what the tool's outputs cannot give to an output contract."""
    if step.tool is None:
        return
    produced, open_ = output_fields(step.tool.output_schema), is_open(step.tool.output_schema)
    for name, info in contract.model_fields.items():
        if name not in produced:
            if info.is_required() and not open_:
                detail = f"contract {contract.__name__} needs '{name}', which tool '{step.tool_name}' does not return"
                _output_error(step, "output_schema_gap", name, detail, findings)
        elif not compatible(produced[name], annotation_of(info)):
            detail = (
                f"contract {contract.__name__} takes {describe(annotation_of(info))} as '{name}', "
                f"tool '{step.tool_name}' returns {describe(produced[name])}"
            )
            _output_error(step, "output_type_mismatch", name, detail, findings)


def _output_error(step: Lowered, issue_type: str, name: str, detail: str, findings: Findings) -> None:
    findings.error(
        step,
        issue_type,
        detail,
        lambda: SchemaValidationError(
            step.tool_name, step.index, detail, context="output contract", step_name=step.label
        ),
        name,
    )


def check_fallback(step: Lowered, findings: Findings) -> None:
    """Note where a fallback cannot stand in: inputs it cannot take, outputs it does not give."""
    if step.tool is None or step.fallback is None:
        return
    name = step.definition.fallback_tool
    given = accepted_names(step.tool.input_schema)
    for target, (_, annotation) in accepted_names(step.fallback.input_schema).items():
        info = step.fallback.input_schema.model_fields.get(target)
        mapped = step.definition.input_mapping
        if info is not None and info.is_required() and target not in (mapped or given):
            _fallback_error(
                step, "fallback_missing_required_input", target, f"fallback '{name}' needs '{target}'", findings
            )
        elif target in given and not compatible(given[target][1], annotation):
            detail = (
                f"fallback '{name}' takes {describe(annotation)} as '{target}', "
                f"tool '{step.tool_name}' takes {describe(given[target][1])}"
            )
            _fallback_error(step, "fallback_type_mismatch", target, detail, findings)
    _warn_of_fallback_outputs(step, findings)


def _fallback_error(step: Lowered, issue_type: str, target: str, detail: str, findings: Findings) -> None:
    findings.error(
        step,
        issue_type,
        detail,
        lambda: SchemaValidationError(step.tool_name, step.index, detail, context="input", step_name=step.label),
        target,
    )


def _warn_of_fallback_outputs(step: Lowered, findings: Findings) -> None:
    wanted = output_fields(step.tool.output_schema)
    found = output_fields(step.fallback.output_schema)
    for key, annotation in wanted.items():
        name = step.definition.fallback_tool
        if key not in found and not is_open(step.fallback.output_schema):
            detail = f"fallback '{name}' does not return '{key}', which steps after it may read"
            findings.warning(step, "fallback_output_gap", detail, key)
        elif key in found and not compatible(found[key], annotation):
            detail = f"fallback '{name}' returns {describe(found[key])} as '{key}', not {describe(annotation)}"
            findings.warning(step, "fallback_output_type_mismatch", detail, key)


def check_retry_safety(step: Lowered, findings: Findings) -> None:
    """Warn of retries of a tool that says it must not be called twice."""
    tool, retry = step.tool, step.definition.retry
    if tool is None or retry is None or retry.max_retries == 0 or not tool.safety_declared:
        return
    if not tool.safety.safe_to_retry or not tool.safety.idempotent:
        detail = f"tool '{tool.name}' declares that it is not safe to retry, and the step retries it {retry.max_retries} times"
        findings.warning(step, "unsafe_retry", detail)


def warn_of_copies(step: Lowered, findings: Findings) -> None:
    """Warn of typed containers that validation rebuilds, item by item, on their way in or out."""
    if step.tool is None:
        return
    for side, model in (("input", step.tool.input_schema), ("output", step.tool.output_schema)):
        for name, info in model.model_fields.items():
            annotation = annotation_of(info)
            if rebuilds(annotation):
                detail = (
                    f"{side} '{name}' is {describe(annotation)}, so validation copies it item by item; "
                    f"Native[{describe(annotation)}] passes the object itself"
                )
                findings.warning(step, "native_copy", detail, name)


def check_collisions(
    steps: Sequence[Lowered], writes: Sequence[Writes], initial: Sequence[str], policy: str, findings: Findings
) -> None:
    """Note keys that are written more than once: by siblings an error, over levels a warning unless they may."""
    writer_of: dict[str, Lowered] = {}
    for step in steps:
        for key in writes[step.index].keys:
            earlier = writer_of.get(key)
            writer_of[key] = step
            if earlier is not None and earlier.level == step.level:
                _sibling_conflict(step, earlier, key, findings)
            elif policy != "overwrite" and (earlier is not None or key in initial):
                whose = "the initial input" if earlier is None else f"step {earlier.index} ('{earlier.label}')"
                detail = (
                    f"step '{step.label}' overwrites key '{key}' of {whose}; rename it with output_mapping, "
                    "or set on_context_collision to 'overwrite'"
                )
                findings.warning(step, "context_collision", detail, key)


def _sibling_conflict(step: Lowered, earlier: Lowered, key: str, findings: Findings) -> None:
    told = f"Key '{key}' produced by both '{earlier.label}' and its sibling '{step.label}'"
    fix = "rename one of them with output_mapping, or let one step depend on the other"
    findings.error(
        step,
        "sibling_conflict",
        f"{told}; {fix}",
        lambda: FlowExecutionError(step.tool_name, step.index, told, fix=fix),
        key,
    )


def warn_of_shadows(
    steps: Sequence[Lowered],
    writes: Sequence[Writes],
    initial: Sequence[str],
    dynamic: Sequence[str],
    findings: Findings,
) -> None:
    """Warn of written keys that nobody can read because a dynamic parameter of that name comes first."""
    for step in steps:
        for key in writes[step.index].keys:
            if key in dynamic:
                detail = f"key '{key}' of step '{step.label}' is hidden by the dynamic parameter of that name"
                findings.warning(step, "shadowed_key", detail, key)


def warn_of_unused(
    steps: Sequence[Lowered], writes: Sequence[Writes], outputs: Sequence[str] | None, findings: Findings
) -> None:
    """Warn of steps none of whose outputs is read, when the flow says which keys it wants in the end."""
    if outputs is None or any(one.tool is not None and is_open(one.tool.input_schema) for one in steps):
        return
    wanted = {*outputs, *(key for step in steps for key in step.read_keys)}
    for step in steps:
        keys: Any = writes[step.index].keys
        unused = [key for key in keys if key not in wanted]
        if unused and len(unused) == len(keys):
            named = ", ".join(f"'{key}'" for key in unused)
            findings.warning(step, "unused_output", f"nothing reads {named} of step '{step.label}'", unused[0])
