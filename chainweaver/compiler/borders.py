"""The borders of a flow: its input, context and output schemas, and the projection of its outputs.

A schema reference that leads nowhere is noted, and the border then refuses every run with the reason (R16). Called by
`build` before the first step is bound and after the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import BaseModel

from chainweaver.compiler.findings import Findings, describe_all
from chainweaver.compiler.gates import gate_of
from chainweaver.compiler.keys import MISSING, Visible
from chainweaver.compiler.models import InputField, ModelFacts
from chainweaver.compiler.types import compatible, describe
from chainweaver.exceptions import OutputMappingError, SchemaRefPolicyError
from chainweaver.flow import DAGFlow, Flow, SchemaRefPolicy, resolve_model
from chainweaver.plan import Gate

INPUT = -1
"""Step index of findings about a flow's input; those about its output have the number of steps."""


@dataclass(frozen=True, slots=True)
class Border:
    """One border of a flow.

    Attributes:
        schema: What is known of its schema; None when it has none, or none that could be found.
        gate: What holds values against it; None without a schema.
    """

    schema: ModelFacts | None
    gate: Gate | None


def border_of(flow: Flow | DAGFlow, side: str, index: int, findings: Findings, policy: SchemaRefPolicy) -> Border:
    """The border of a flow.

    Args:
        side: "input", "context" or "output".
        index: Step index that findings about it get.
        policy: Which classes the flow may name.
    """
    try:
        ref = getattr(flow, f"{side}_schema_ref")
        model = None if ref is None else resolve_model(ref, policy=policy)
    except SchemaRefPolicyError as exc:
        findings.border_error(index, flow.name, "unresolvable_schema_ref", str(exc), f"{side}_schema_ref")
        return Border(None, _closed_gate(exc))
    return Border(None, None) if model is None else Border(ModelFacts(model), gate_of(model))


def _closed_gate(found: SchemaRefPolicyError) -> Gate:
    """A gate that lets nothing pass."""

    def refuse(values: Any) -> NoReturn:
        # An error of its own for every run: tracebacks must not pile up in a plan.
        raise SchemaRefPolicyError(found.ref, found.detail, fix=found.fix) from found.__cause__

    return Gate(BaseModel, refuse, dict)


def check_outputs(flow: Flow | DAGFlow, size: int, visible: Visible, findings: Findings) -> None:
    """Note names in `outputs` that no step writes and no input provides."""
    for name in flow.outputs or ():
        if visible.look(name, size, parameters=False).standing in MISSING:
            hint = findings.hint(name, visible.known_keys(size), "known keys are")
            detail = f"outputs names unknown key '{name}'; {hint}"
            findings.border_error(size, flow.name, "unknown_output_key", detail, name)


def check_border(
    flow: Flow | DAGFlow, side: str, border: Border, size: int, visible: Visible, findings: Findings
) -> None:
    """Note what the context at the end cannot give to the flow's context or output schema."""
    if border.schema is None:
        return
    projected = flow.outputs if side == "output" else None
    for field in border.schema.fields:
        _check_field(flow, f"{side} schema {border.schema.name}", field, projected, size, visible, findings)


def _check_field(
    flow: Flow | DAGFlow,
    schema: str,
    field: InputField,
    projected: Sequence[str] | None,
    size: int,
    visible: Visible,
    findings: Findings,
) -> None:
    seen = visible.look(field.key, size, parameters=False)
    if seen.standing in MISSING or (projected is not None and field.key not in projected):
        if field.required:
            known = visible.known_keys(size) if projected is None else projected
            hint = findings.hint(field.key, known, "the keys at the end are")
            detail = f"{schema} needs '{field.key}', which nothing provides; {hint}"
            findings.border_error(size, flow.name, "output_schema_gap", detail, field.name)
    elif not any(compatible(kind, field.kind) for kind in seen.kinds):
        detail = (
            f"{schema} takes {describe(field.kind)} as '{field.key}', the flow ends with {describe_all(seen.kinds)}; "
            "change the schema, or convert the value in a step"
        )
        findings.border_error(size, flow.name, "output_type_mismatch", detail, field.name)


def projection_of(
    flow_name: str, size: int, names: Sequence[str] | None
) -> Callable[[Mapping[str, Any]], dict[str, Any]] | None:
    """A function that takes the named outputs out of the merged context; None when the whole context is wanted."""
    if names is None:
        return None

    def project(context: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return {name: context[name] for name in names}
        except KeyError as exc:
            raise OutputMappingError(flow_name, size, exc.args[0], known=list(context)) from None

    return project
