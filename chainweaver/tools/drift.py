"""Whether a flow still fits the tools that are there.

Compares the schema hashes stored in a flow with those of the tools. Reads, never changes; accepting a drift is the
registry's business.
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
        flow: Its `tool_schema_hashes` say what was accepted; a flow without them fits whatever is there.
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
                DriftInfo(flow_name=flow.name, tool_name=tool_name, expected_hash=expected, actual_hash=actual)
            )
    return drifts
