"""Making a tool of a function: what `@tool` does when it is used.

Puts together what signature and returns have read. The function that a plan calls is a closure that unpacks the
validated model into keyword arguments; it decides nothing. Called by the decorator only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

from typing_extensions import ParamSpec

from chainweaver.exceptions import ToolDefinitionError
from chainweaver.tools.decorator import FunctionTool
from chainweaver.tools.definition import ToolFunction, is_coroutine_callable
from chainweaver.tools.returns import AWAITABLES, Returned, Shape, read_result
from chainweaver.tools.signature import Source, input_model, read_signature

if TYPE_CHECKING:
    from pydantic import BaseModel

    from chainweaver.plan import ToolContext

P = ParamSpec("P")
R = TypeVar("R")


def make_tool(
    function: Callable[P, R],
    namespace: Mapping[str, Any],
    *,
    name: str | None = None,
    description: str | None = None,
    output: str | None = None,
    output_schema: type[BaseModel] | None = None,
    dry_run_fn: Callable[..., Any] | None = None,
    **limits: Any,
) -> FunctionTool[P, R]:
    """Read the function and put the tool together."""
    refuse_other_things(function)
    yields = inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)
    source = Source(function, function.__name__ if name is None else name, namespace)
    reading = read_signature(source, return_needed=output_schema is None)
    hint = reading.hints.get("return", Any)
    if yields and not is_stream(hint):
        fix = "let it return Stream[T], make a StreamingTool of it, or return a list"
        raise ToolDefinitionError(function.__name__, "it yields its results", fix=fix)
    is_async = is_coroutine_callable(function)
    if not is_async and get_origin(hint) in AWAITABLES:
        is_async, hint = True, get_args(hint)[-1]
    returned = read_result(hint, source, output=output, output_schema=output_schema)
    inputs = input_model(source, reading)
    return FunctionTool(
        function,
        name=source.tool_name,
        description=first_paragraph(function) if description is None else description,
        input_schema=inputs,
        output_schema=returned.model,
        fn=model_adapter(function, returned, is_async=is_async, wants_context=reading.wants_context),
        dry_run_fn=None if dry_run_fn is None else dry_run_adapter(dry_run_fn, inputs, returned),
        **limits,
    )


def refuse_other_things(function: object) -> None:
    """Raise ToolDefinitionError for what is no plain function."""
    if inspect.isfunction(function):
        return
    name = str(getattr(function, "__name__", None) or type(function).__name__)
    if isinstance(function, (staticmethod, classmethod)):
        raise ToolDefinitionError(
            name, f"it is a {type(function).__name__}", fix="put @tool below @staticmethod, or use a plain function"
        )
    raise ToolDefinitionError(name, f"it is a {type(function).__name__}, not a function", fix="wrap it in a def")


def is_stream(hint: Any) -> bool:
    """Whether a result so annotated is a stream, whose items a tool may yield."""
    return getattr(get_origin(hint) or hint, "__module__", "") == "chainweaver.objects.streams"


def first_paragraph(function: Callable[..., Any]) -> str:
    """The docstring up to the first empty line, on one line."""
    paragraph, _, _ = inspect.cleandoc(function.__doc__ or "").partition("\n\n")
    return " ".join(paragraph.split())


def model_adapter(
    function: Callable[..., Any], returned: Returned, *, is_async: bool, wants_context: bool
) -> ToolFunction:
    """A function of the input model that calls `function` with keyword arguments.

    The fields are read from `__dict__` (20 ns): attribute access would find the methods of the model for parameters
    that are called `copy` or `json`, and `model_dump` would copy.
    """
    if is_async:
        return async_adapter(function, returned.shape, wants_context=wants_context)
    output, shape = returned.output, returned.shape
    if wants_context:

        def call_with_context(inputs: BaseModel, context: ToolContext) -> Any:
            result = function(**inputs.__dict__, context=context)
            return result if shape is None else shape(result)

        return call_with_context
    if shape is None:
        return lambda inputs: function(**inputs.__dict__)
    if output is not None:
        # Apart from the general case, because the extra call is a third of what the adapter costs.
        return lambda inputs: {output: function(**inputs.__dict__)}
    return lambda inputs: shape(function(**inputs.__dict__))


def async_adapter(function: Callable[..., Any], shape: Shape | None, *, wants_context: bool) -> ToolFunction:
    """The same for functions that have to be awaited."""
    if wants_context:

        async def await_with_context(inputs: BaseModel, context: ToolContext) -> Any:
            result = await function(**inputs.__dict__, context=context)
            return result if shape is None else shape(result)

        return await_with_context

    async def await_result(inputs: BaseModel) -> Any:
        result = await function(**inputs.__dict__)
        return result if shape is None else shape(result)

    return await_result


def dry_run_adapter(dry_run_fn: Callable[..., Any], inputs: type[BaseModel], returned: Returned) -> ToolFunction:
    """The dry run as a function of the input model.

    One whose parameters are all input fields is called like the tool, and its result is read like that of the tool;
    any other one receives the model and returns outputs by name.
    """
    fields = tuple(inputs.model_fields)
    parameters = inspect.signature(dry_run_fn).parameters.values()
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters)
    named = {one.name for one in parameters if one.kind is not one.VAR_KEYWORD}
    if not named <= set(fields):
        return dry_run_fn
    wanted = fields if takes_all else tuple(named)
    return model_adapter(
        lambda **values: dry_run_fn(**{name: values[name] for name in wanted}),
        returned,
        is_async=is_coroutine_callable(dry_run_fn),
        wants_context=False,
    )
