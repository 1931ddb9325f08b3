"""Which classes a flow names, and whether a policy permits them. Imports none of them.

A flow that was read from a file or comes into a registry is asked here once, before anybody looks one of its references
up; `refs` holds the policies and does the looking up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from chainweaver.exceptions import LISTED_NAMES, SchemaRefPolicyError
from chainweaver.flow.refs import DEFAULT_REF_POLICY, HOW_TO_PERMIT, SchemaRefPolicy, error_ref, refusal_of_error

if TYPE_CHECKING:
    from chainweaver.flow.definition import AnyFlow
    from chainweaver.flow.steps import FlowStep

__all__ = ["Path", "RefusedRef", "check_policy", "check_refs", "refused_refs"]

Path = tuple[str | int, ...]
"""Keys and positions from the top of a flow down to a value, as they stand in its file."""


class RefusedRef(NamedTuple):
    """A reference that a policy does not permit.

    Attributes:
        path: Where it stands.
        ref: The reference.
        detail: Why it is refused, as a clause.
    """

    path: Path
    ref: str
    detail: str


def check_policy(policy: object) -> None:
    """Refuse what is no policy, such as a list of modules.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(policy, SchemaRefPolicy):
        kind = type(policy).__name__
        raise TypeError(f"A policy is a SchemaRefPolicy such as SchemaRefAllowlist(modules=('shop',)), not {kind}.")


def check_refs(
    flow: AnyFlow, policy: SchemaRefPolicy, *, place: Callable[[Path], str] | None = None, where: str | None = None
) -> None:
    """Refuse a flow that names classes which the policy does not permit.

    Args:
        flow: The definition.
        policy: What is permitted.
        place: From a path to a place in the file that the flow was read from.
        where: What to say about the place without `place`; None: name and version of the flow.

    Raises:
        SchemaRefPolicyError: At least one reference is refused; all are listed.
        TypeError: The policy is none.
    """
    check_policy(policy)
    if policy == DEFAULT_REF_POLICY:
        return
    refused = refused_refs(flow, policy)
    if refused:
        raise _error(refused, place or _place_in(where or f"flow '{flow.name}' {flow.version}"))


def refused_refs(flow: AnyFlow, policy: SchemaRefPolicy) -> list[RefusedRef]:
    """The references of a flow that the policy does not permit, in the order in which they stand."""
    found = [
        RefusedRef(path, ref, detail)
        for path, ref in _schema_refs(flow)
        if (detail := policy.refusal(*ref.split(":", 1))) is not None
    ]
    for at, step in enumerate(flow.steps):
        found += _refused_errors(("steps", at), step, policy)
    return found


def _schema_refs(flow: AnyFlow) -> Iterator[tuple[Path, str]]:
    for name in ("input_schema_ref", "output_schema_ref", "context_schema_ref"):
        if (ref := getattr(flow, name)) is not None:
            yield (name,), ref
    for at, step in enumerate(flow.steps):
        for name in ("input_contract", "output_contract"):
            if (ref := getattr(step, name)) is not None:
                yield ("steps", at, name), ref


def _refused_errors(path: Path, step: FlowStep, policy: SchemaRefPolicy) -> Iterator[RefusedRef]:
    names = () if step.retry is None else step.retry.retryable_errors
    for at, name in enumerate(names):
        if (detail := refusal_of_error(name, policy)) is not None:
            yield RefusedRef((*path, "retry", "retryable_errors", at), error_ref(name), detail)


def _place_in(where: str) -> Callable[[Path], str]:
    return lambda path: f"{where}, /{'/'.join(map(str, path))}"


def _error(refused: Sequence[RefusedRef], place: Callable[[Path], str]) -> SchemaRefPolicyError:
    first, *others = refused
    lines = [f"'{one.ref}' at {place(one.path)}: {one.detail}" for one in others[:LISTED_NAMES]]
    if len(others) > LISTED_NAMES:
        lines.append(f"and {len(others) - LISTED_NAMES} more")
    return SchemaRefPolicyError(
        first.ref,
        first.detail,
        where=place(first.path),
        why="\n".join(["refused as well are", *lines]) if lines else None,
        fix=HOW_TO_PERMIT,
    )
