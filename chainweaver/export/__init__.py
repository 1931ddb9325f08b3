"""Flows and tools as what others call: dictionaries for model vendors, plain functions for Python.

Everything starts from the model of an input, so that what is offered is what is accepted. No vendor's package is
needed and nothing is sent. Used by programs; no other room comes here.
"""

from chainweaver.export.callables import (
    flow_to_async_callable,
    flow_to_callable,
    to_async_callables,
    to_callables,
    tool_to_async_callable,
    tool_to_callable,
)
from chainweaver.export.dictionaries import (
    flow_to_anthropic_tool,
    flow_to_openai_function,
    to_anthropic_tools,
    to_openai_functions,
    tool_to_anthropic_tool,
    tool_to_openai_function,
)
from chainweaver.export.names import exported_name

__all__ = [
    "exported_name",
    "flow_to_anthropic_tool",
    "flow_to_async_callable",
    "flow_to_callable",
    "flow_to_openai_function",
    "to_anthropic_tools",
    "to_async_callables",
    "to_callables",
    "to_openai_functions",
    "tool_to_anthropic_tool",
    "tool_to_async_callable",
    "tool_to_callable",
    "tool_to_openai_function",
]
