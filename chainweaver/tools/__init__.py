"""Tools: what the steps of a flow call.

Here live the `Tool` itself, `@tool`, which makes one of a function, `Native[T]` for objects that pass untouched, tools
that stream, those of installed packages, and the fingerprints of schemas. Nothing here runs a flow. Used by the
registry, the compiler and by everyone who writes a tool.
"""

from typing import TYPE_CHECKING

from chainweaver._lazy import lazy_names

if TYPE_CHECKING:
    from chainweaver.plan import (
        ToolContext as ToolContext,
    )
    from chainweaver.tools.decorator import (
        FunctionTool as FunctionTool,
        tool as tool,
    )
    from chainweaver.tools.definition import (
        Tool as Tool,
    )
    from chainweaver.tools.drift import (
        check_flow_compatibility as check_flow_compatibility,
    )
    from chainweaver.tools.fingerprint import (
        schema_fingerprint as schema_fingerprint,
    )
    from chainweaver.tools.native import (
        Native as Native,
        is_native as is_native,
    )
    from chainweaver.tools.plugins import (
        discover_tools as discover_tools,
    )
    from chainweaver.tools.streaming import (
        StreamingTool as StreamingTool,
        ToolChunk as ToolChunk,
    )

_HOMES = {
    "chainweaver.plan": ("ToolContext",),
    "chainweaver.tools.decorator": (
        "FunctionTool",
        "tool",
    ),
    "chainweaver.tools.definition": ("Tool",),
    "chainweaver.tools.drift": ("check_flow_compatibility",),
    "chainweaver.tools.fingerprint": ("schema_fingerprint",),
    "chainweaver.tools.native": (
        "Native",
        "is_native",
    ),
    "chainweaver.tools.plugins": ("discover_tools",),
    "chainweaver.tools.streaming": (
        "StreamingTool",
        "ToolChunk",
    ),
}
"""Every public name, under the module that holds it."""

__getattr__ = lazy_names(globals(), _HOMES)
__all__ = sorted(name for names in _HOMES.values() for name in names)  # noqa: PLE0605  # computed from the table above
