"""Tools: what the steps of a flow call.

Here live the `Tool` itself, `@tool`, which makes one of a function, `Native[T]` for objects that pass untouched, tools
that stream, and the fingerprints of schemas. Nothing here runs a flow. Used by the registry, the compiler and by
everyone who writes a tool.
"""

from chainweaver.tools.definition import Tool
from chainweaver.tools.fingerprint import schema_fingerprint

__all__ = ["Tool", "schema_fingerprint"]
