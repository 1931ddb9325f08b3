"""`@tool`: a function becomes a tool and stays callable as it was.

Only the face of it; `making` reads the function when the decorator is used, so that a program which merely imports the
name pays for nothing else.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from typing_extensions import ParamSpec

from chainweaver.tools.definition import Tool

if TYPE_CHECKING:
    from pydantic import BaseModel

    from chainweaver.flow import ToolSafetyContract

P = ParamSpec("P")
R = TypeVar("R")


class FunctionTool(Tool, Generic[P, R]):
    """A tool made of a function by `@tool`: call it like the function, or name it in a flow."""

    __wrapped__: Callable[P, R]
    __name__: str
    __qualname__: str

    def __init__(self, function: Callable[P, R], **arguments: Any) -> None:
        super().__init__(**arguments)
        # The same as functools.update_wrapper, past the guard of __setattr__.
        for name in functools.WRAPPER_ASSIGNMENTS:
            if hasattr(function, name):
                vars(self)[name] = getattr(function, name)
        vars(self)["__wrapped__"] = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself: nothing is validated."""
        return self.__wrapped__(*args, **kwargs)

    def __reduce__(self) -> str:
        # Like a function, a tool is pickled by its name and found again by importing its module.
        return self.__qualname__


@overload
def tool(
    function: Callable[P, R],
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    output: str | None = None,
    output_schema: type[BaseModel] | None = None,
    timeout_seconds: float | None = None,
    max_output_size: int | None = None,
    schema_version: str = "0.0.0",
    cacheable: bool | None = None,
    safety: ToolSafetyContract | None = None,
    metadata: Mapping[str, Any] | None = None,
    dry_run_fn: Callable[..., Any] | None = None,
    lane: object = None,
    mutates: Collection[str] = (),
) -> FunctionTool[P, R]: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    output: str | None = None,
    output_schema: type[BaseModel] | None = None,
    timeout_seconds: float | None = None,
    max_output_size: int | None = None,
    schema_version: str = "0.0.0",
    cacheable: bool | None = None,
    safety: ToolSafetyContract | None = None,
    metadata: Mapping[str, Any] | None = None,
    dry_run_fn: Callable[..., Any] | None = None,
    lane: object = None,
    mutates: Collection[str] = (),
) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    output: str | None = None,
    output_schema: type[BaseModel] | None = None,
    dry_run_fn: Callable[..., Any] | None = None,
    **limits: Any,
) -> Any:
    """Make a tool of a function, sync or async.

    The parameters become the input model `<name>_input`, with their defaults and `Field(...)` metadata; a parameter
    `context: ToolContext` is filled by the run. The result becomes the outputs: a model as it is; a TypedDict, a
    dataclass or a NamedTuple field by field; any other annotated result as one output with the name of the tool.

    Args:
        function: The function, when the decorator is written without parentheses, or called: `tool(fn, name="other")`.
        name: Name of the tool. None: that of the function.
        description: What it does. None: the first paragraph of the docstring.
        output: Name of the one output that the result is.
        output_schema: Model of the outputs, for functions that return a plain dict.
        dry_run_fn: Says what would come out: a function of the same parameters, or of the input model.
        limits: As for `Tool`: timeout_seconds, max_output_size, schema_version, cacheable, safety, metadata, lane,
            mutates.

    Raises:
        ToolDefinitionError: The function says too little about itself; everything that is missing is named.

    >>> @tool(output="total")
    ... def add(a: int, b: int = 1) -> int:
    ...     "Add two numbers."
    ...     return a + b
    >>> add(2, 3)
    5
    >>> add.run({"a": "2"})
    {'total': 3}
    """

    from chainweaver.tools.making import make_tool

    def make(function: Callable[P, R], namespace: Mapping[str, Any]) -> FunctionTool[P, R]:
        return make_tool(
            function,
            namespace,
            name=name,
            description=description,
            output=output,
            output_schema=output_schema,
            dry_run_fn=dry_run_fn,
            **limits,
        )

    def decorate(function: Callable[P, R]) -> FunctionTool[P, R]:
        return make(function, caller_namespace(1))

    return decorate if function is None else make(function, caller_namespace(1))


def caller_namespace(depth: int) -> dict[str, Any]:
    """The local names of the frame so many calls above the caller.

    Annotations that are text can name classes that are local to the function in which a tool is defined.
    """
    frame = sys._getframe(depth + 1)
    return {} if frame.f_locals is frame.f_globals else dict(frame.f_locals)
