"""Flows and tools as the dictionaries that model vendors take, so that a model can be offered them.

Only the description is written here: nobody is called and nothing is sent. What the model answers, a name and its
arguments, goes to the function of that name that `callables` makes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from chainweaver.exceptions import ExportError
from chainweaver.export.finding import find_flow
from chainweaver.export.inputs import input_of
from chainweaver.export.names import ALLOWED, exported_name, refuse_clashes
from chainweaver.export.schema import parameters_of
from chainweaver.export.strict import strict_parameters
from chainweaver.tools import Tool

if TYPE_CHECKING:
    from chainweaver.executor import FlowExecutor
    from chainweaver.flow import AnyFlow

OPENAI = "an OpenAI function"
ANTHROPIC = "an Anthropic tool"
LONGEST_DESCRIPTION = 1024
"""Characters that OpenAI takes as the description of a function."""


def flow_to_openai_function(
    flow: AnyFlow | str,
    executor: FlowExecutor | None = None,
    *,
    version: str | None = None,
    name: str | None = None,
    description: str | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """A flow as an entry of `tools` in a request to OpenAI.

    The parameters are those of the flow's input schema. A flow without one takes what its steps read from outside, with
    the types of the fields that the values feed; without an executor nobody knows its tools, and it takes any object.
    Dynamic parameters are never shown.

    Args:
        flow: The flow, or its name in the executor.
        executor: Who knows the tools of the flow.
        version: Which version of a flow given by name. None: the highest.
        name: Name of the function. None: that of the flow, as `exported_name` writes it.
        description: What it does. None: what the flow says, and when to use it.
        strict: Use OpenAI's strict mode: every object closed, every property required.

    Returns:
        `{"type": "function", "function": {"name", "description", "parameters"}}`.

    Raises:
        ExportError: The name has no letter that is allowed there, or an input has no form there.
        FlowNotFoundError: There is no flow of this name.
        SchemaRefPolicyError: The input schema of the flow cannot be found.

    >>> from chainweaver import Flow, FlowExecutor, FlowStep, tool
    >>> @tool
    ... def double(n: int) -> int:
    ...     return 2 * n
    >>> flow = Flow(name="twice", description="Doubles a number.", steps=[FlowStep(tool_name="double")])
    >>> flow_to_openai_function(flow, FlowExecutor(tools=[double]))["function"]["parameters"]
    {'type': 'object', 'properties': {'n': {'type': 'integer'}}, 'required': ['n']}
    """
    return _openai(_of_flow(flow, executor, version, OPENAI), name, description, strict)


def tool_to_openai_function(
    tool: Tool, *, name: str | None = None, description: str | None = None, strict: bool = False
) -> dict[str, Any]:
    """A tool as an entry of `tools` in a request to OpenAI; see `flow_to_openai_function`.

    Raises:
        ExportError: The name has no letter that is allowed there, or an input has no form there.
    """
    return _openai(_of_tool(tool, OPENAI), name, description, strict)


def flow_to_anthropic_tool(
    flow: AnyFlow | str,
    executor: FlowExecutor | None = None,
    *,
    version: str | None = None,
    name: str | None = None,
    description: str | None = None,
) -> dict[str, Any]:
    """A flow as an entry of `tools` in a request to Anthropic; arguments and errors as for `flow_to_openai_function`.

    Returns:
        `{"name", "description", "input_schema"}`.
    """
    return _anthropic(_of_flow(flow, executor, version, ANTHROPIC), name, description)


def tool_to_anthropic_tool(tool: Tool, *, name: str | None = None, description: str | None = None) -> dict[str, Any]:
    """A tool as an entry of `tools` in a request to Anthropic; see `flow_to_anthropic_tool`.

    Raises:
        ExportError: The name has no letter that is allowed there, or an input has no form there.
    """
    return _anthropic(_of_tool(tool, ANTHROPIC), name, description)


Exportable: TypeAlias = "Tool | AnyFlow | str"
"""A tool, a flow, or the name of a flow in the executor."""


def to_openai_functions(
    items: Iterable[Exportable], executor: FlowExecutor | None = None, *, strict: bool = False
) -> list[dict[str, Any]]:
    """Flows and tools together as `tools` of a request to OpenAI.

    Raises:
        ExportError: Two of them would have one name, or one of them cannot be exported.
    """
    found = [_of(item, executor, OPENAI) for item in items]
    refuse_clashes((one.subject, exported_name(one.name)) for one in found)
    return [_openai(one, None, None, strict) for one in found]


def to_anthropic_tools(items: Iterable[Exportable], executor: FlowExecutor | None = None) -> list[dict[str, Any]]:
    """Flows and tools together as `tools` of a request to Anthropic.

    Raises:
        ExportError: Two of them would have one name, or one of them cannot be exported.
    """
    found = [_of(item, executor, ANTHROPIC) for item in items]
    refuse_clashes((one.subject, exported_name(one.name)) for one in found)
    return [_anthropic(one, None, None) for one in found]


# ---- what is exported


class Subject(NamedTuple):
    """A flow or a tool, as far as a dictionary tells of it.

    Attributes:
        subject: What messages call it.
    """

    subject: str
    name: str
    description: str
    parameters: dict[str, Any]


def _of(item: Exportable, executor: FlowExecutor | None, target: str) -> Subject:
    return _of_tool(item, target) if isinstance(item, Tool) else _of_flow(item, executor, None, target)


def _of_tool(tool: Tool, target: str) -> Subject:
    subject = f"tool '{tool.name}'"
    return Subject(subject, tool.name, tool.description, parameters_of(tool.input_schema, subject, target))


def _of_flow(flow: AnyFlow | str, executor: FlowExecutor | None, version: str | None, target: str) -> Subject:
    found = find_flow(flow, executor, version)
    subject = f"flow '{found.name}'"
    parameters = parameters_of(input_of(found, executor).model, subject, target, hidden=found.dynamic_params)
    described = found.description
    if found.trigger_conditions:
        described = f"{described}\n\nWhen to use: {found.trigger_conditions}".strip()
    return Subject(subject, found.name, described, parameters)


# ---- the dictionaries


def _openai(one: Subject, name: str | None, description: str | None, strict: bool) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": _name(one, name, OPENAI),
        "description": _shortened(one.description if description is None else description),
    }
    if strict:
        function["strict"] = True
    function["parameters"] = strict_parameters(one.parameters, one.subject) if strict else one.parameters
    return {"type": "function", "function": function}


def _anthropic(one: Subject, name: str | None, description: str | None) -> dict[str, Any]:
    strange = [key for key in one.parameters["properties"] if not _PROPERTY.fullmatch(key)]
    if strange:
        raise ExportError(
            one.subject,
            ANTHROPIC,
            f"input '{strange[0]}' has a name of other characters than a-z, A-Z, 0-9, '_', '.' and '-', or a long one",
            fix="give the flow an input schema, or the field an alias",
        )
    return {
        "name": _name(one, name, ANTHROPIC),
        "description": one.description if description is None else description,
        "input_schema": one.parameters,
    }


_PROPERTY = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


def _name(one: Subject, name: str | None, target: str) -> str:
    """The given name as it is, or that of the flow or tool made to fit."""
    if name is None:
        return exported_name(one.name)
    if not ALLOWED.fullmatch(name):
        raise ExportError(
            one.subject, target, f"'{name}' is no name there", fix="take at most 64 of a-z, A-Z, 0-9, '_' and '-'"
        )
    return name


def _shortened(description: str) -> str:
    """At most as long as the vendor takes, cut between words."""
    if len(description) <= LONGEST_DESCRIPTION:
        return description
    cut = description[: LONGEST_DESCRIPTION - 4]
    return f"{cut.rpartition(' ')[0] or cut} ..."
