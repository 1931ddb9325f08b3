"""Can another tool be called in place of the primary one: does it take the same inputs, does it give the same outputs?

Asked of fallbacks and of the candidates of a decision. Called by `build` for each step that names one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chainweaver.compiler.findings import Findings, describe_all
from chainweaver.compiler.models import KnownTool
from chainweaver.compiler.types import compatible, describe
from chainweaver.exceptions import SchemaValidationError

if TYPE_CHECKING:
    from chainweaver.compiler.lower import Lowered


def check_stand_ins(step: Lowered, given: Mapping[str, list[Any]] | None, findings: Findings) -> None:
    """Note inputs that a fallback or a candidate cannot take, and warn of outputs that it does not give.

    Args:
        given: Input field -> the types of the values that the step feeds; None when it feeds the whole context.
    """
    if step.primary is None:
        return
    others = [("fallback", step.fallback), *(("candidate", known) for known in step.candidates.values())]
    for role, known in others:
        if known is not None and known is not step.primary:
            if given is not None:
                _check_inputs(step, role, known, given, findings)
            _warn_of_outputs(step, role, step.primary, known, findings)


def _check_inputs(
    step: Lowered, role: str, known: KnownTool, given: Mapping[str, list[Any]], findings: Findings
) -> None:
    takes, name = known.takes, known.tool.name
    for field in takes.fields:
        if field.required and field.name not in given and field.key not in given:
            detail = f"{role} '{name}' needs '{field.name}', which the step does not feed; add it to input_mapping"
            _error(step, f"{role}_missing_required_input", field.name, detail, findings)
    for target, kinds in given.items():
        accepted = takes.accepted.get(target)
        if accepted is None:
            if takes.closed:
                hint = findings.hint(target, takes.field_names(), "its fields are")
                detail = f"{role} '{name}' refuses input '{target}', which the step feeds; {hint}"
                _error(step, f"{role}_unknown_target_key", target, detail, findings)
        elif not any(compatible(kind, accepted.kind) for kind in kinds):
            detail = (
                f"{role} '{name}' takes {describe(accepted.kind)} as '{target}', the step feeds "
                f"{describe_all(kinds)}; name a {role} with the inputs of '{step.tool_name}'"
            )
            _error(step, f"{role}_type_mismatch", target, detail, findings)


def _error(step: Lowered, issue_type: str, target: str, detail: str, findings: Findings) -> None:
    findings.error(
        step,
        issue_type,
        detail,
        lambda: SchemaValidationError(step.tool_name, step.index, detail, context="input", step_name=step.label),
        target,
    )


def _warn_of_outputs(step: Lowered, role: str, primary: KnownTool, known: KnownTool, findings: Findings) -> None:
    wanted, found, name = primary.gives.outputs, known.gives.outputs, known.tool.name
    renames = step.definition.output_mapping
    for key in wanted if renames is None else renames.values():
        if key not in found:
            if not known.gives.open:
                detail = f"{role} '{name}' does not return '{key}', which steps after it may read; let it return it"
                findings.warning(step, f"{role}_output_gap", detail, key)
        elif key in wanted and not compatible(found[key], wanted[key]):
            detail = (
                f"{role} '{name}' returns {describe(found[key])} as '{key}', tool '{step.tool_name}' returns "
                f"{describe(wanted[key])}; let both return one type"
            )
            findings.warning(step, f"{role}_output_type_mismatch", detail, key)
