"""Gates: tools, contracts, retry policies and schemas, bound to the calls that a run makes.

Everything a run would otherwise look up on a class or a module is looked up here. Called by `build` and `borders`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, SecretBytes, SecretStr

from chainweaver.canonical import Unfingerprintable, bind_fingerprint
from chainweaver.compiler.model_traits import IMMUTABLES, NUMBERS, holds_only, holds_secrets, is_one_of
from chainweaver.compiler.models import ModelFacts
from chainweaver.compiler.streams import stream_fields
from chainweaver.exceptions import SchemaValidationError, ToolOutputSizeError
from chainweaver.flow import SideEffectLevel
from chainweaver.flow.refs import SchemaRefPolicy, resolve_error
from chainweaver.plan import Gate, NoFingerprint, PlannedRetry, PlannedTool
from chainweaver.tools.definition import is_coroutine_callable, takes_context
from chainweaver.tools.opening import foreign_fields, opener_of

if TYPE_CHECKING:
    from chainweaver.compiler.models import Facts, KnownTool
    from chainweaver.flow import RetryPolicy
    from chainweaver.tools import Tool

INLINE_LANES = (None, "inline")


def plan_tool(known: KnownTool) -> PlannedTool:
    """A tool with its gates bound, and its rehearsal with the same gates."""
    planned = _plan_tool(known)
    tool = known.tool
    rehearse = tool.dry_run_fn or (tool.fn if tool.safety_declared and tool.safety.supports_dry_run else None)
    if rehearse is None:
        return planned
    is_async = is_coroutine_callable(rehearse)
    dry = replace(
        planned, fn=rehearse, is_async=is_async, inline=not is_async and tool.lane in INLINE_LANES,
        wants_context=takes_context(rehearse), cacheable=False, stream=None,
    )  # fmt: skip
    return replace(planned, dry=dry)


def plan_flow_call(known: KnownTool) -> PlannedTool:
    """What stands in a step for the tool when it runs a sub-flow: nothing is validated, the sub-flow does that."""
    return replace(
        _plan_tool(known), validate_input=_as_it_is, validate_output=_as_it_is, open_output=_as_it_is,
        direct_output=False, scalar_inputs=False, number_inputs=False, cacheable=False, secret_outputs=(), safety=None,
        scalar_outputs=_gives_only(known, IMMUTABLES), number_outputs=_gives_only(known, NUMBERS),
    )  # fmt: skip


def _gives_only(known: KnownTool, kinds: frozenset[str]) -> bool:
    gives = known.gives
    return not gives.open and all(is_one_of(kind, kinds) for kind in gives.outputs.values())


def plan_capability(known: KnownTool) -> PlannedTool:
    """What stands in a step for the tool when an outside capability performs it: any inputs, any outputs."""
    return replace(plan_flow_call(known), validate_output=_opened)


def _as_it_is(values: Any) -> Any:
    return values


def _opened(returned: Any) -> dict[str, Any]:
    """What a capability returned, by name."""
    if isinstance(returned, BaseModel):
        return opener_of(type(returned))(returned)
    if not isinstance(returned, Mapping):
        raise TypeError(f"it returned {type(returned).__name__}, not a mapping of output names to values")
    odd = next((key for key in returned if not isinstance(key, str)), None)
    if odd is not None:
        raise TypeError(f"it returned a mapping with {odd!r} for a name, and a name is a text")
    return dict(returned)


def _plan_tool(known: KnownTool) -> PlannedTool:
    tool: Any = known.tool  # what StreamingTool has in place of `fn` differs in type only
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
        direct_output=isinstance(known.gives, ModelFacts) and _is_direct(known.gives),
        scalar_inputs=holds_only(inputs, IMMUTABLES),
        scalar_outputs=holds_only(outputs, IMMUTABLES),
        number_inputs=holds_only(inputs, NUMBERS),
        number_outputs=holds_only(outputs, NUMBERS),
        output_model=outputs,
        fingerprint=_late_fingerprint(inputs),
        schema_hash=cache(lambda: str(tool.schema_hash)),
        output_size=lambda model: len(model.__pydantic_serializer__.to_json(model, fallback=repr)),
        secret_outputs=tuple(name for name, kind in known.gives.outputs.items() if holds_secrets(kind)),
        hide=hider_of(secret_names(known.takes)),
        safety=tool.safety if tool.safety_declared else None,
        stream=getattr(tool, "stream_fn", None),
        origin=tool,
        streams=stream_fields(known),
    )


def validator_of(model: type[BaseModel]) -> Callable[[Any], Any]:
    """The bound validator of a model: half the price of `model.model_validate`."""
    # A model with forward references has a validator that rebuilds it on first use; asking for it now makes it real.
    if not model.__pydantic_complete__:
        model.model_rebuild(raise_errors=False)
    # One whose names lead nowhere has none at all, and says so when a run reaches it.
    return model.__pydantic_validator__.validate_python if model.__pydantic_complete__ else model.model_validate


def _is_direct(facts: ModelFacts) -> bool:
    """Whether the `__dict__` of a freshly validated instance holds its outputs and nothing else."""
    model = facts.model
    if model.model_computed_fields or facts.open or any(info.exclude for info in model.model_fields.values()):
        return False
    # Functional validators may keep the instance they return, or fill a cached property on the way.
    return not model.__pydantic_decorators__.model_validators and model.model_post_init is BaseModel.model_post_init


def _is_cacheable(tool: Tool) -> bool:
    """The author's word; without one, what declares no changes in place and no write effects."""
    if tool.cacheable is not None:
        return tool.cacheable
    if tool.mutates:
        return False  # what it changes in place is no output: a hit would leave it unchanged
    if not tool.safety_declared:
        return True
    return tool.safety.cacheable and tool.safety.side_effects < SideEffectLevel.WRITE


def _late_fingerprint(model: type[BaseModel]) -> Callable[[Any], str]:
    """The fingerprint function of an input model; bound on first use, since most plans run without a cache."""
    bound: Callable[[Any], str] | None = None

    def fingerprint(value: Any) -> str:
        nonlocal bound
        if bound is None:
            bound = bind_fingerprint(model)
        try:
            return bound(value)
        except Unfingerprintable as exc:
            raise NoFingerprint(str(exc)) from exc

    return fingerprint


def plan_retry(policy: RetryPolicy, refs: SchemaRefPolicy) -> PlannedRetry | None:
    """A retry policy with its error names resolved; None when it never retries.

    Raises:
        SchemaRefPolicyError: A name leads nowhere, to something that is no exception class, or to one that `refs` does
            not permit.
    """
    classes = [resolve_error(name, policy=refs) for name in policy.retryable_errors]
    if policy.max_retries == 0:
        return None
    named = tuple(one for one in classes if issubclass(one, (SchemaValidationError, ToolOutputSizeError)))
    return PlannedRetry(policy.max_retries, policy.compute_delay, tuple(classes), named, policy.jitter)


def gate_of(model: type[BaseModel]) -> Gate:
    """A flow-level schema, bound."""
    return Gate(model, validator_of(model), opener_of(model), hider_of(secret_names(ModelFacts(model))))


def secret_names(facts: Facts) -> frozenset[str]:
    """The names under which values may come in that a schema declares to be secret."""
    return frozenset(name for field in facts.fields if holds_secrets(field.kind) for name in (field.name, field.key))


def hider_of(names: frozenset[str]) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
    """What wraps the texts under some names in pydantic's secrets, for views; None without names.

    A caller that reads its input from a file has no such class; what shows a value has to know all the same.
    """
    if not names:
        return None
    return lambda values: {name: _hidden(value) if name in names else value for name, value in values.items()}


def _hidden(value: Any) -> Any:
    if isinstance(value, str):
        return SecretStr(value)
    if isinstance(value, bytes):
        return SecretBytes(value)
    if isinstance(value, dict):
        return {key: _hidden(item) for key, item in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(map(_hidden, value))
    return value
