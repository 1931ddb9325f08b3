"""Whether a flow still fits the tools that are there.

Compares the schema hashes stored in a flow with those of the tools, and says which hashes there are to store. Reads,
never changes; accepting a drift is the registry's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from chainweaver.flow import DriftInfo

if TYPE_CHECKING:
    from chainweaver.flow import AnyFlow
    from chainweaver.tools.definition import Tool


def check_flow_compatibility(flow: AnyFlow, tools: Mapping[str, Tool] | Iterable[Tool]) -> list[DriftInfo]:
    """The tools of a flow whose schemas are no longer those that the flow was accepted with.

    Args:
        flow: Its `tool_schema_hashes` say what was accepted; a flow without them fits whatever is there. The tools of
            its sub-flows are the business of those.
        tools: The tools that are there, by name or one after the other.

    Returns:
        One entry per difference, sorted by tool name; `actual_hash` is None for a tool that is missing.
    """
    by_name = tools if isinstance(tools, Mapping) else {tool.name: tool for tool in tools}
    drifts = []
    for tool_name, expected in sorted((flow.tool_schema_hashes or {}).items()):
        tool = by_name.get(tool_name)
        actual = None if tool is None else tool.schema_hash
        if actual != expected:
            drifts.append(
                DriftInfo(
                    flow_name=flow.name,
                    tool_name=tool_name,
                    expected_hash=expected,
                    actual_hash=actual,
                    flow_version=flow.version,
                )
            )
    return drifts


def tools_named_by(flow: AnyFlow) -> list[str]:
    """The tools that the steps of a flow may call themselves, in alphabetical order.

    Fallbacks and the candidates of decisions count, the tools of sub-flows do not.

    >>> from chainweaver.flow import Flow, FlowStep
    >>> tools_named_by(Flow(name="f", description="", steps=[FlowStep(tool_name="b", on_error="fallback:a")]))
    ['a', 'b']
    """
    names: set[str | None] = set()
    for step in flow.steps:
        names.update((step.tool_name, step.fallback_tool, step.combine_tool, *(step.decision_candidates or ())))
    return sorted(name for name in names if name is not None)


def schemas_to_accept(flow: AnyFlow, tools: Mapping[str, Tool]) -> dict[str, str]:
    """Tool name -> schema hash, for the tools that a flow names, as they are now.

    A tool that is missing cannot be accepted: what was recorded for it stays recorded, so that it goes on being
    reported as missing.
    """
    recorded = flow.tool_schema_hashes or {}
    names = tools_named_by(flow)
    present = {name: tools[name].schema_hash for name in names if name in tools}
    return {**{name: recorded[name] for name in names if name in recorded}, **present}
