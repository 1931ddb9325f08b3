"""Whether a flow may run, and how far its review has come.

`FlowStatus` decides whether the executor starts a flow; `FlowGovernance` documents where a flow comes from and who
looked at it, and changes nothing at run time.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from chainweaver.flow.fields import FrozenDefinition, NonNegativeCount, Words

__all__ = ["DriftInfo", "FlowGovernance", "FlowLifecycle", "FlowStatus"]


class FlowStatus(str, Enum):
    """Whether the executor starts a flow; only `ACTIVE` flows start without `force=True`."""

    ACTIVE = "active"
    NEEDS_REVIEW = "needs_review"
    DISABLED = "disabled"


class FlowLifecycle(str, Enum):
    """How far a flow has come, from a pattern seen in use to an archived definition."""

    OBSERVED = "observed"
    SUGGESTED = "suggested"
    DRAFT = "draft"
    REVIEWED = "reviewed"
    ACTIVE = "active"
    IGNORED = "ignored"
    ARCHIVED = "archived"


_NEXT: Final[dict[FlowLifecycle, tuple[FlowLifecycle, ...]]] = {
    FlowLifecycle.OBSERVED: (FlowLifecycle.SUGGESTED, FlowLifecycle.IGNORED),
    FlowLifecycle.SUGGESTED: (FlowLifecycle.DRAFT, FlowLifecycle.IGNORED),
    FlowLifecycle.DRAFT: (FlowLifecycle.REVIEWED, FlowLifecycle.IGNORED),
    FlowLifecycle.REVIEWED: (FlowLifecycle.DRAFT, FlowLifecycle.ACTIVE, FlowLifecycle.ARCHIVED),
    FlowLifecycle.ACTIVE: (FlowLifecycle.ARCHIVED,),
    FlowLifecycle.IGNORED: (FlowLifecycle.SUGGESTED,),
    FlowLifecycle.ARCHIVED: (FlowLifecycle.REVIEWED,),
}


class FlowGovernance(FrozenDefinition):
    """Origin, owner and review of a flow.

    Attributes:
        lifecycle: How far the flow has come.
        owner: Who answers for the flow.
        replaces_tools: Names of the tools that a caller no longer has to call one by one.
        estimated_model_calls_removed: Model calls that one run of the flow saves.
        estimated_token_savings: Tokens that one run of the flow saves.
        reviewed_by: Who reviewed the flow last.
        review_notes: What that review said.
    """

    lifecycle: FlowLifecycle = FlowLifecycle.ACTIVE
    owner: str | None = None
    replaces_tools: Words = ()
    estimated_model_calls_removed: NonNegativeCount = 0
    estimated_token_savings: NonNegativeCount | None = None
    reviewed_by: str | None = None
    review_notes: str | None = None

    def transition_to(
        self, target: FlowLifecycle | str, *, reviewed_by: str | None = None, review_notes: str | None = None
    ) -> FlowGovernance:
        """The same governance one step further; this object stays as it is.

        Args:
            target: The next state of the lifecycle.
            reviewed_by: Replaces the reviewer when given.
            review_notes: Replaces the notes when given.

        Raises:
            ValueError: The lifecycle has no such transition. The text lists the permitted ones.

        >>> FlowGovernance(lifecycle="draft").transition_to("reviewed", reviewed_by="ops").lifecycle.value
        'reviewed'
        """
        wanted = FlowLifecycle(target)
        permitted = _NEXT[self.lifecycle]
        if wanted not in permitted:
            raise ValueError(
                f"A flow cannot transition from '{self.lifecycle.value}' to '{wanted.value}'.\n"
                f"  known   {', '.join(state.value for state in permitted)}"
            )
        changes: dict[str, object] = {"lifecycle": wanted}
        if reviewed_by is not None:
            changes["reviewed_by"] = reviewed_by
        if review_notes is not None:
            changes["review_notes"] = review_notes
        return self.model_copy(update=changes)


class DriftInfo(FrozenDefinition):
    """A tool whose schema is no longer the one that a flow was accepted with.

    Attributes:
        flow_name: The flow that uses the tool.
        tool_name: The tool.
        expected_hash: Schema hash stored with the flow, 16 hex characters.
        actual_hash: Schema hash of the registered tool; None when no such tool is registered any more.
        flow_version: The version of the flow; None where nobody said it.
    """

    flow_name: str
    tool_name: str
    expected_hash: str
    actual_hash: str | None
    flow_version: str | None = None
