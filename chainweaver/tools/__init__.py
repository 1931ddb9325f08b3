"""Tools: what the steps of a flow call.

Here live the `Tool` itself, `@tool`, which makes one of a function, `Native[T]` for objects that pass untouched, tools
that stream, and the fingerprints of schemas. Nothing here runs a flow. Used by the registry, the compiler and by
everyone who writes a tool.
"""

from typing import TYPE_CHECKING, Any

from chainweaver.plan import ToolContext
from chainweaver.tools.decorator import FunctionTool, tool
from chainweaver.tools.definition import Tool
from chainweaver.tools.fingerprint import schema_fingerprint
from chainweaver.tools.native import Native, is_native
from chainweaver.tools.streaming import StreamingTool, ToolChunk

if TYPE_CHECKING:
    from chainweaver.tools.drift import check_flow_compatibility

__all__ = [
    "FunctionTool",
    "Native",
    "StreamingTool",
    "Tool",
    "ToolChunk",
    "ToolContext",
    "check_flow_compatibility",
    "is_native",
    "schema_fingerprint",
    "tool",
]


def __getattr__(name: str) -> Any:
    # A program that only defines tools does not pay for the definitions of flows.
    if name == "check_flow_compatibility":
        from chainweaver.tools.drift import check_flow_compatibility

        return check_flow_compatibility
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
