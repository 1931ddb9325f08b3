"""Gates: tools, contracts, retry policies and flow schemas, bound to the calls that a run makes.

Everything a run would otherwise look up on a class or a module is looked up here. Called by `build`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from chainweaver.canonical import Unfingerprintable, bind_fingerprint
from chainweaver.compiler.keys import is_open, output_fields
from chainweaver.compiler.types import scalars_only
from chainweaver.exceptions import SchemaRefPolicyError, SchemaValidationError, ToolOutputSizeError
from chainweaver.flow.refs import resolve_class
from chainweaver.plan import Gate, NoFingerprint, PlannedRetry, PlannedTool
from chainweaver.tools.opening import foreign_fields, opener_of

if TYPE_CHECKING:
    from chainweaver.flow import FlowStep, RetryPolicy

INLINE_LANES = (None, "inline")


def plan_tool(tool: Any) -> PlannedTool:
    """A tool with its gates bound."""
    inputs, outputs = tool.input_schema, tool.output_schema
    return PlannedTool(
        name=tool.name,
        fn=tool.fn,
        is_async=tool.is_async,
        inline=not tool.is_async and tool.lane in INLINE_LANES,
        lane=tool.lane,
        wants_context=tool.wants_context,
        timeout_s=tool.timeout_seconds,
        max_output_size=tool.max_output_size,
        cacheable=_is_cacheable(tool),
        validate_input=validator_of(inputs),
        validate_output=validator_of(outputs),
        open_output=opener_of(outputs),
        foreign_fields=partial(foreign_fields, outputs),
        direct_output=_is_direct(outputs),
        scalar_inputs=scalars_only(inputs),
        scalar_outputs=scalars_only(outputs),
        output_model=outputs,
        fingerprint=_late_fingerprint(inputs),
        schema_hash=lambda: tool.schema_hash,
        output_size=lambda model: len(model.__pydantic_serializer__.to_json(model, fallback=repr)),
        secret_outputs=tuple(name for name, kind in output_fields(outputs).items() if "Secret" in repr(kind)),
    )


def validator_of(model: type[BaseModel]) -> Callable[[Any], Any]:
    """The bound validator of a model: half the price of `model.model_validate`."""
    # A model with forward references has a validator that rebuilds it on first use; asking for it now makes it real.
    if not model.__pydantic_complete__:
        model.model_rebuild(raise_errors=False)
    return model.__pydantic_validator__.validate_python


def _is_direct(model: type[BaseModel]) -> bool:
    """Whether the `__dict__` of a freshly validated instance holds its outputs and nothing else."""
    if model.model_computed_fields or is_open(model) or any(info.exclude for info in model.model_fields.values()):
        return False
    # Functional validators may keep the instance they return, or fill a cached property on the way.
    return not model.__pydantic_decorators__.model_validators and model.model_post_init is BaseModel.model_post_init


def _is_cacheable(tool: Any) -> bool:
    """The author's word; without one, whatever the safety contract declares free of write effects."""
    if tool.cacheable is not None:
        return bool(tool.cacheable)
    if not tool.safety_declared:
        return True
    from chainweaver.flow import SideEffectLevel

    return bool(tool.safety.cacheable and tool.safety.side_effects < SideEffectLevel.WRITE)


def _late_fingerprint(model: type[BaseModel]) -> Callable[[Any], str]:
    """The fingerprint function of an input model; bound on first use, since most plans run without a cache."""
    bound: list[Callable[[Any], str]] = []

    def fingerprint(value: Any) -> str:
        if not bound:
            bound.append(bind_fingerprint(model))
        try:
            return bound[0](value)
        except Unfingerprintable as exc:
            raise NoFingerprint(str(exc)) from exc

    return fingerprint


def plan_retry(policy: RetryPolicy) -> PlannedRetry | None:
    """A retry policy with its error names resolved; None when it never retries.

    Raises:
        SchemaRefPolicyError: A name leads nowhere, or to something that is no exception class.
    """
    if policy.max_retries == 0:
        return None
    classes = []
    for ref in policy.retryable_errors:
        found = resolve_class(ref if ":" in ref else f"builtins:{ref}")
        if not issubclass(found, BaseException):
            raise SchemaRefPolicyError(ref, "it is no exception class", fix="name a class such as 'builtins:OSError'")
        classes.append(found)
    named = tuple(one for one in classes if issubclass(one, (SchemaValidationError, ToolOutputSizeError)))
    return PlannedRetry(policy.max_retries, policy.compute_delay, tuple(classes), named, policy.jitter)


def contract_of(step: FlowStep, side: str) -> type[BaseModel] | None:
    """The model of a step's input or output contract.

    Raises:
        SchemaRefPolicyError: The reference leads nowhere, or not to a model.
    """
    return step.resolved_input_contract if side == "input" else step.resolved_output_contract


def gate_of(model: type[BaseModel] | None) -> Gate | None:
    """A flow-level schema, bound."""
    if model is None:
        return None
    return Gate(model.__qualname__, model, validator_of(model), opener_of(model), scalars_only(model))
