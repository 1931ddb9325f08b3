"""Flows and tools as plain Python functions: with a signature, with documentation, with errors that are raised.

For whatever takes functions: agent frameworks, web routes, notebooks. A function checks its arguments before anything
starts, and gives back the outputs as a dict. It keeps the version of the flow that it was made of.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from pydantic import ValidationError

from chainweaver.exceptions import ExportError, SchemaValidationError, violations
from chainweaver.export.dictionaries import Exportable
from chainweaver.export.face import Face
from chainweaver.export.finding import find_flow
from chainweaver.export.inputs import input_of
from chainweaver.export.names import exported_name, python_name, refuse_clashes
from chainweaver.tools import Tool

if TYPE_CHECKING:
    from chainweaver.executor import FlowExecutor
    from chainweaver.flow import AnyFlow

Outputs: TypeAlias = "dict[str, Any]"
DynamicParams: TypeAlias = "Mapping[str, Any] | Callable[[], Mapping[str, Any]]"
"""Values for the dynamic parameters of a flow, or who is asked for them at every call."""

F = TypeVar("F", bound=Callable[..., Any])
FUNCTION = "a function"


def flow_to_callable(
    flow: AnyFlow | str,
    executor: FlowExecutor,
    *,
    version: str | None = None,
    name: str | None = None,
    dynamic_params: DynamicParams | None = None,
) -> Callable[..., Outputs]:
    """A flow as a function: its parameters are the input keys of the flow, its result is the final output.

    Arguments that are left out are left to the flow. Names that Python does not take as parameters are changed
    (`from` to `from_`); as keywords, `**{"from": ...}`, they are taken unchanged as well, so that the arguments that a
    model wrote for the dictionaries of this room can be passed as they are.

    Args:
        flow: The name of a flow in the executor, or a flow that is registered there.
        executor: Runs it.
        version: Which version of a flow given by name. None: the highest; later ones do not change the function.
        name: Name of the function. None: that of the flow, as Python takes it.
        dynamic_params: Values for the flow's dynamic parameters, or a function that gives them; no argument ever does.

    Returns:
        A function that raises `TypeError` for arguments that do not fit its signature, and otherwise what
        `result.raise_for_failure()` raises.

    Raises:
        FlowNotFoundError: The executor has no such flow.
        ExportError: The input schema requires a dynamic parameter.

    >>> from chainweaver import Flow, FlowExecutor, FlowStep, tool
    >>> @tool
    ... def double(n: int) -> int:
    ...     return 2 * n
    >>> flow = Flow(name="twice", description="Doubles a number.", steps=[FlowStep(tool_name="double")])
    >>> twice = flow_to_callable("twice", FlowExecutor(tools=[double], flows=[flow]))
    >>> import inspect
    >>> inspect.signature(twice)
    <Signature (n: int) -> dict[str, typing.Any]>
    >>> twice(21)
    {'n': 21, 'double': 42}
    """
    face, flow_name, pinned = _flow_face(flow, executor, version, name)

    def run(*args: Any, **kwargs: Any) -> Outputs:
        inputs = face.inputs(args, kwargs)
        result = executor.execute_flow(flow_name, inputs, version=pinned, dynamic_params=_given(dynamic_params))
        return result.raise_for_failure().final_output or {}

    return face.put_on(run)


def flow_to_async_callable(
    flow: AnyFlow | str,
    executor: FlowExecutor,
    *,
    version: str | None = None,
    name: str | None = None,
    dynamic_params: DynamicParams | None = None,
) -> Callable[..., Awaitable[Outputs]]:
    """A flow as an async function, which runs it on the async lane; see `flow_to_callable`."""
    face, flow_name, pinned = _flow_face(flow, executor, version, name)

    async def run(*args: Any, **kwargs: Any) -> Outputs:
        inputs = face.inputs(args, kwargs)
        result = await executor.execute_flow_async(
            flow_name, inputs, version=pinned, dynamic_params=_given(dynamic_params)
        )
        return result.raise_for_failure().final_output or {}

    return face.put_on(run)


def tool_to_callable(tool: Tool, *, name: str | None = None) -> Callable[..., Outputs]:
    """A sync tool as a function: arguments and outputs are validated, as `tool.run` does.

    Raises:
        ExportError: The tool is async.

    >>> from chainweaver import tool
    >>> @tool(output="total")
    ... def add(a: int, b: int = 1) -> int:
    ...     return a + b
    >>> tool_to_callable(add)("2", b=3)
    {'total': 5}
    """
    if tool.is_async:
        raise ExportError(
            f"tool '{tool.name}'", FUNCTION, "it is async", fix="use tool_to_async_callable, or call it in a flow"
        )
    face = _tool_face(tool, name)

    def run(*args: Any, **kwargs: Any) -> Outputs:
        return tool.run(face.inputs(args, kwargs))

    return face.put_on(run)


def tool_to_async_callable(tool: Tool, *, name: str | None = None) -> Callable[..., Awaitable[Outputs]]:
    """A tool as an async function; a sync tool blocks the loop while it works. See `tool_to_callable`."""
    face = _tool_face(tool, name)

    async def run(*args: Any, **kwargs: Any) -> Outputs:
        return await tool.run_async(face.inputs(args, kwargs))

    return face.put_on(run)


def to_callables(
    items: Iterable[Exportable], executor: FlowExecutor | None = None
) -> dict[str, Callable[..., Outputs]]:
    """Functions for flows and tools by the names under which the dictionaries of this room offer them.

    Raises:
        ExportError: Two of them would have one name, or one of them cannot be exported.
    """
    return _by_name(items, executor, tool_to_callable, flow_to_callable)


def to_async_callables(
    items: Iterable[Exportable], executor: FlowExecutor | None = None
) -> dict[str, Callable[..., Awaitable[Outputs]]]:
    """Async functions for flows and tools by the names under which the dictionaries of this room offer them.

    Raises:
        ExportError: Two of them would have one name.
    """
    return _by_name(items, executor, tool_to_async_callable, flow_to_async_callable)


def _by_name(
    items: Iterable[Exportable],
    executor: FlowExecutor | None,
    of_tool: Callable[[Tool], F],
    of_flow: Callable[[AnyFlow, FlowExecutor], F],
) -> dict[str, F]:
    made: list[tuple[str, str, F]] = []
    for item in items:
        if isinstance(item, Tool):
            made.append((f"tool '{item.name}'", exported_name(item.name), of_tool(item)))
            continue
        flow = find_flow(item, executor, None)
        if executor is None:
            raise TypeError(f"Flow '{flow.name}' can only be called where it runs, so the executor is needed as well.")
        made.append((f"flow '{flow.name}'", exported_name(flow.name), of_flow(flow, executor)))
    refuse_clashes((subject, name) for subject, name, _ in made)
    return {name: function for _, name, function in made}


# ---- their faces


def _flow_face(
    flow: AnyFlow | str, executor: FlowExecutor, version: str | None, name: str | None
) -> tuple[Face, str, str]:
    """The face of a flow as the executor has it, and under which name and version it is run."""
    asked = find_flow(flow, executor, version)
    found = asked if isinstance(flow, str) else executor.registry.get_flow(asked.name, version=asked.version)
    subject, taken = f"flow '{found.name}'", input_of(found, executor)

    def check(inputs: dict[str, Any]) -> None:
        try:
            taken.model.model_validate(inputs)
        except ValidationError as exc:
            raise SchemaValidationError(found.name, -1, violations(exc), context="flow input") from exc

    face = Face.of(
        taken.model,
        subject=subject,
        name=python_name(found.name if name is None else name),
        description=found.description,
        returns=f"The final output of {subject}, version {found.version}.",
        hidden=found.dynamic_params,
        # A run validates with the input schema by itself, and what it says then has a record.
        check=None if taken.declared else check,
    )
    return face, found.name, found.version


def _tool_face(tool: Tool, name: str | None) -> Face:
    return Face.of(
        tool.input_schema,
        subject=f"tool '{tool.name}'",
        name=python_name(tool.name if name is None else name),
        description=tool.description,
        returns=f"The outputs of tool '{tool.name}'.",
    )


def _given(dynamic_params: DynamicParams | None) -> Mapping[str, Any] | None:
    return dynamic_params() if callable(dynamic_params) else dynamic_params
