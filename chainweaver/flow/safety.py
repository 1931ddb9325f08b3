"""What a tool declares about its effects, and how the declarations of many tools combine into one.

Declarations only: approval, ceilings and caching policy are decided elsewhere from this data.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from chainweaver.flow.fields import Flag, FrozenDefinition

__all__ = ["DeterminismLevel", "SideEffectLevel", "StabilityLevel", "ToolSafetyContract", "merge_safety"]


class _Graded(str, Enum):
    """Words in rising order: a later member is greater than an earlier one, whatever the alphabet says."""

    @property
    def rank(self) -> int:
        """Position in the order of declaration, from 0."""
        return list(type(self)).index(self)

    def __lt__(self, other: object) -> bool:
        return self.rank < other.rank if isinstance(other, type(self)) else NotImplemented

    def __le__(self, other: object) -> bool:
        return self.rank <= other.rank if isinstance(other, type(self)) else NotImplemented

    def __gt__(self, other: object) -> bool:
        return self.rank > other.rank if isinstance(other, type(self)) else NotImplemented

    def __ge__(self, other: object) -> bool:
        return self.rank >= other.rank if isinstance(other, type(self)) else NotImplemented


class SideEffectLevel(_Graded):
    """What a tool does to the world outside the run, from nothing to harm that cannot be undone.

    >>> SideEffectLevel.READ < SideEffectLevel.WRITE < SideEffectLevel.DESTRUCTIVE
    True
    """

    NONE = "none"
    READ = "read"
    WRITE = "write"
    EXTERNAL = "external"
    DESTRUCTIVE = "destructive"


class StabilityLevel(_Graded):
    """How far the behaviour of a tool can be relied on, from settled to on its way out."""

    STABLE = "stable"
    EXPERIMENTAL = "experimental"
    DEPRECATED = "deprecated"


class DeterminismLevel(_Graded):
    """Whether equal inputs give equal outputs: always, while the outside world stays as it is, or not at all."""

    DETERMINISTIC = "deterministic"
    ENVIRONMENT = "environment"
    NONDETERMINISTIC = "nondeterministic"


class ToolSafetyContract(FrozenDefinition):
    """What a tool, or a flow as a whole, declares about its effects.

    Attributes:
        side_effects: The strongest effect on the world outside.
        stability: How far the behaviour can be relied on.
        determinism_level: Whether equal inputs give equal outputs.
        idempotent: A second call with equal inputs changes nothing more.
        cacheable: An earlier output may stand for a call.
        safe_to_retry: A failed call may be repeated.
        supports_dry_run: There is a way to call without effects.
        requires_approval: Somebody has to agree before each call.
        approval_reason: What that person should know.
    """

    side_effects: SideEffectLevel = SideEffectLevel.NONE
    stability: StabilityLevel = StabilityLevel.STABLE
    determinism_level: DeterminismLevel = DeterminismLevel.DETERMINISTIC
    idempotent: Flag = True
    cacheable: Flag = True
    safe_to_retry: Flag = True
    supports_dry_run: Flag = False
    requires_approval: Flag = False
    approval_reason: str | None = None


def merge_safety(contracts: Iterable[ToolSafetyContract]) -> ToolSafetyContract:
    """The contract of a whole whose parts have the given contracts: the most cautious reading of every field.

    Without any part the result has no effects at all; it then supports a dry run trivially. Approval reasons are joined
    with `"; "` in the given order, each one once.

    >>> merge_safety([ToolSafetyContract(), ToolSafetyContract(side_effects="write", cacheable=False)]).cacheable
    False
    """
    parts = list(contracts)
    if not parts:
        return ToolSafetyContract(supports_dry_run=True)
    reasons = dict.fromkeys(part.approval_reason for part in parts if part.approval_reason)
    return ToolSafetyContract(
        side_effects=max(part.side_effects for part in parts),
        stability=max(part.stability for part in parts),
        determinism_level=max(part.determinism_level for part in parts),
        idempotent=all(part.idempotent for part in parts),
        cacheable=all(part.cacheable for part in parts),
        safe_to_retry=all(part.safe_to_retry for part in parts),
        supports_dry_run=all(part.supports_dry_run for part in parts),
        requires_approval=any(part.requires_approval for part in parts),
        approval_reason="; ".join(reasons) or None,
    )
