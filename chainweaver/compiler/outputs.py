"""One step held against its tool: is the tool there, do mappings and contracts fit it, may it be retried, does it copy?

Called by `build` for each step. What steps do to each other is in `collisions`, fallbacks are in `fallbacks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from chainweaver.compiler.findings import Findings, describe_all, listed
from chainweaver.compiler.model_traits import grows
from chainweaver.compiler.models import KnownTool, ModelFacts
from chainweaver.compiler.types import FieldOf, compatible, describe
from chainweaver.exceptions import OutputMappingError, SchemaValidationError, ToolNotFoundError

if TYPE_CHECKING:
    from chainweaver.compiler.lower import Lowered


def check_tools(step: Lowered, known: Sequence[str], findings: Findings) -> None:
    """Note a missing tool or a missing fallback."""
    for name, tool, issue_type in (
        (step.definition.tool_name, step.primary, "missing_tool"),
        (step.fallback_name, step.fallback, "missing_fallback_tool"),
        (step.definition.combine_tool, step.combiner, "missing_combine_tool"),
        *((name, tool, "missing_candidate_tool") for name, tool in step.candidates.items()),
    ):
        if name is not None and tool is None:
            hint = findings.hint(name, known, "registered tools are")
            findings.error(step, issue_type, f"tool '{name}' is not registered; {hint}", _not_found(name, known), None)


def _not_found(name: str, known: Sequence[str]) -> Any:
    return lambda: ToolNotFoundError(name, known=known)


def check_output_mapping(step: Lowered, findings: Findings) -> None:
    """Note output keys that the tool does not have."""
    renames = step.definition.output_mapping
    if step.primary is None or renames is None or step.primary.gives.open:
        return
    known = step.primary.gives.outputs
    for context_key, output_key in renames.items():
        if output_key not in known:
            detail = (
                f"output_mapping of '{context_key}' takes unknown output key '{output_key}' of tool "
                f"'{step.tool_name}'; {findings.hint(output_key, known, 'its outputs are')}"
            )
            findings.error(step, "unknown_output_key", detail, _unknown_output(step, output_key, known), context_key)


def _unknown_output(step: Lowered, key: str, known: Mapping[str, Any]) -> Any:
    return lambda: OutputMappingError(step.tool_name, step.index, key, known=list(known), step_name=step.label)


def check_input_contract(
    step: Lowered, contract: ModelFacts, given: Mapping[str, list[Any]] | None, findings: Findings
) -> None:
    """Note what the inputs of a step cannot give to its input contract."""
    for field in contract.fields if given is not None else ():
        kinds = (given or {}).get(field.name)
        if kinds is None:
            if field.required:
                detail = (
                    f"input contract {contract.name} needs '{field.name}', which the step does not feed; "
                    f"it feeds {listed(given or ())}"
                )
                _contract_error(step, "missing_required_input", field.name, detail, "input", findings)
        elif not any(compatible(kind, field.kind) for kind in kinds):
            detail = (
                f"input contract {contract.name} takes {describe(field.kind)} as '{field.name}', "
                f"the step feeds {describe_all(kinds)}"
            )
            _contract_error(step, "type_mismatch", field.name, detail, "input", findings)


def check_output_contract(step: Lowered, contract: ModelFacts, findings: Findings) -> None:
    """Note what the tool's outputs cannot give to an output contract."""
    if step.primary is None:
        return
    gives = step.primary.gives
    for field in contract.fields:
        if field.name not in gives.outputs:
            if field.required and not gives.open:
                detail = (
                    f"output contract {contract.name} needs '{field.name}', which tool '{step.tool_name}' does not "
                    f"return; it returns {listed(gives.outputs)}"
                )
                _contract_error(step, "output_schema_gap", field.name, detail, "output", findings)
        elif not compatible(gives.outputs[field.name], field.kind):
            detail = (
                f"output contract {contract.name} takes {describe(field.kind)} as '{field.name}', "
                f"tool '{step.tool_name}' returns {describe(gives.outputs[field.name])}"
            )
            _contract_error(step, "output_type_mismatch", field.name, detail, "output", findings)


def _contract_error(step: Lowered, issue_type: str, name: str, detail: str, side: str, findings: Findings) -> None:
    border = f"{side} contract"
    findings.error(
        step,
        issue_type,
        f"{detail}; change the contract or what it is held against",
        lambda: SchemaValidationError(step.tool_name, step.index, detail, context=border, step_name=step.label),
        name,
    )


def check_retry_safety(step: Lowered, findings: Findings) -> None:
    """Warn of retries of a tool that says it must not be called twice."""
    retry = step.definition.retry
    tool = None if step.primary is None else step.primary.tool
    if tool is None or retry is None or retry.max_retries == 0 or not tool.safety_declared:
        return
    if not tool.safety.safe_to_retry or not tool.safety.idempotent:
        detail = (
            f"tool '{tool.name}' declares that it is not safe to retry, and the step retries it {retry.max_retries} "
            "times; remove the retry policy, or make the tool idempotent and declare it"
        )
        findings.warning(step, "unsafe_retry", detail)


def warn_of_copies(step: Lowered, tool: KnownTool, findings: Findings) -> None:
    """Warn of typed containers that validation rebuilds, item by item, on their way in or out.

    Said once per tool, at the first step that calls it, and only of containers that may grow: how much is copied is
    then for the data to say and not for the type. Fixed tuples, typed dicts and bounded lists are left alone.
    """
    for side, facts in (("input", tool.takes), ("output", tool.gives)):
        for name in facts.model.model_fields if isinstance(facts, ModelFacts) else ():
            kind = FieldOf(facts.model, name)
            if grows(kind):
                detail = (
                    f"{side} '{name}' of tool '{tool.tool.name}' is {describe(kind)}, so validation copies it item by "
                    f"item; Native[{describe(kind)}] passes the object itself"
                )
                findings.warning(step, "native_copy", detail, name)
