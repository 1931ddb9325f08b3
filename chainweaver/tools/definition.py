"""The tool: a typed function with a name, two schemas and its limits.

A Tool is fixed when it is made. Equal-looking tools are different registrations, so a tool is equal to itself only, and
plans may be keyed by it. Nothing is scheduled, cached or retried here: the lanes call `tool.fn` with a validated
model; `run` and its siblings serve a person who tries one tool by hand.

Used by the registry, the compiler (which binds schemas and `fn` into plans) and by `@tool`.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Union, get_args, get_origin

from pydantic import BaseModel

from chainweaver.exceptions import ToolDefinitionError, suggest

if TYPE_CHECKING:
    from typing_extensions import Self

    from chainweaver.flow import ToolSafetyContract
    from chainweaver.tools.flow_tool import RunnableFlow, RunsFlows

ToolOutputs = Mapping[str, Any] | BaseModel
ToolFunction = Callable[..., ToolOutputs | Awaitable[ToolOutputs]]

UNIONS = frozenset({Union, types.UnionType})
CONTEXT_PARAMETER = "context"
CONTEXT_CLASS = "ToolContext"


def is_coroutine_callable(fn: Callable[..., Any]) -> bool:
    """Whether calling `fn` gives a coroutine: an async def, a partial of one, or an object with an async `__call__`.

    >>> async def fetch(url): ...
    >>> is_coroutine_callable(functools.partial(fetch, "u"))
    True
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    if inspect.iscoroutinefunction(fn):
        return True
    call = getattr(type(fn), "__call__", None)  # noqa: B004 - the method itself is wanted, not whether there is one
    return inspect.iscoroutinefunction(call)


def is_context_annotation(annotation: object) -> bool:
    """Whether a parameter with this annotation wants the ToolContext of the call.

    Text counts by its last name, since modules with postponed annotations hold nothing else.

    >>> is_context_annotation("chainweaver.ToolContext | None"), is_context_annotation(dict)
    (True, False)
    """
    if isinstance(annotation, str):
        text = annotation.partition("Optional[")[2].removesuffix("]") or annotation
        return any(part.strip(" '\"").rpartition(".")[2] == CONTEXT_CLASS for part in text.split("|"))
    if get_origin(annotation) in UNIONS:
        return any(map(is_context_annotation, get_args(annotation)))
    # By name: text and class are then recognised alike.
    return getattr(annotation, "__name__", None) == CONTEXT_CLASS


def takes_context(fn: Callable[..., Any]) -> bool:
    """Whether `fn` has a parameter `context: ToolContext`. False for callables without a readable signature."""
    try:
        parameter = inspect.signature(fn).parameters.get(CONTEXT_PARAMETER)
    except (TypeError, ValueError):
        return False
    return parameter is not None and is_context_annotation(parameter.annotation)


class Tool:
    """A function that the steps of a flow can name.

    Args:
        name: What steps call it. Not empty.
        description: What it does, for people and for exports.
        input_schema: Model that the resolved inputs are validated with; `fn` receives an instance.
        output_schema: Model that the outputs are validated with.
        fn: Called as `fn(inputs)`, or `fn(inputs, context)` when it has a parameter `context: ToolContext`. Returns
            a mapping or a model, or awaits to one.
        timeout_seconds: Longest time of one attempt, in seconds. None: no limit.
        max_output_size: Most bytes that the JSON form of the outputs may have. None: no limit.
        schema_version: Version the author gives to the behaviour; a new one makes cached results stale.
        cacheable: Whether results may be reused for equal inputs. None: as the safety contract says.
        safety: Declared effects. Undeclared, `tool.safety` is the default contract and `safety_declared` is False.
        metadata: Anything you want to find again on the tool; copied, never read here.
        dry_run_fn: Called with the inputs in a dry run, to say what would come out without doing it.
        lane: Where calls run: "inline", "thread", "process" or a lane object. None: the lane of the run decides. Async
            functions run on an event loop, and cannot be given the lane "process".
        mutates: Input fields whose values the tool changes in place. No step that may run at the same time may look at
            them, and the tool is not cached unless `cacheable=True`.

    Raises:
        ToolDefinitionError: Arguments that make no tool; all of them are named.

    >>> class Amount(BaseModel):
    ...     cents: int
    >>> double = Tool(name="double", description="Twice the amount.", input_schema=Amount, output_schema=Amount,
    ...               fn=lambda amount: {"cents": amount.cents * 2})
    >>> double
    Tool(name='double')
    >>> double.run({"cents": "21"})
    {'cents': 42}
    """

    name: str
    description: str
    input_schema: type[BaseModel]
    output_schema: type[BaseModel]
    fn: ToolFunction
    timeout_seconds: float | None
    max_output_size: int | None
    schema_version: str
    cacheable: bool | None
    safety_declared: bool
    metadata: dict[str, Any]
    dry_run_fn: ToolFunction | None
    lane: object
    mutates: tuple[str, ...]
    is_async: bool
    wants_context: bool

    is_streaming = False

    def __init__(
        self,
        *,
        name: str,
        description: str,
        input_schema: type[BaseModel],
        output_schema: type[BaseModel],
        fn: ToolFunction,
        timeout_seconds: float | None = None,
        max_output_size: int | None = None,
        schema_version: str = "0.0.0",
        cacheable: bool | None = None,
        safety: ToolSafetyContract | None = None,
        metadata: Mapping[str, Any] | None = None,
        dry_run_fn: ToolFunction | None = None,
        lane: object = None,
        mutates: Collection[str] = (),
    ) -> None:
        # The attributes go into __dict__ once, past the guard of __setattr__.
        vars(self).update(
            name=name,
            description=description,
            input_schema=input_schema,
            output_schema=output_schema,
            fn=fn,
            timeout_seconds=timeout_seconds,
            max_output_size=max_output_size,
            schema_version=schema_version,
            cacheable=cacheable,
            _declared_safety=safety,
            safety_declared=safety is not None,
            metadata=dict(metadata or {}),
            dry_run_fn=dry_run_fn,
            lane=lane,
            mutates=(mutates,) if isinstance(mutates, str) else tuple(mutates),
        )
        refuse_bad_arguments(self)
        vars(self).update(is_async=is_coroutine_callable(fn), wants_context=takes_context(fn))

    _declared_safety: ToolSafetyContract | None

    @functools.cached_property
    def safety(self) -> ToolSafetyContract:
        """The declared contract, or the default one (see `safety_declared`)."""
        from chainweaver.flow import ToolSafetyContract

        return self._declared_safety or ToolSafetyContract()

    @property
    def supports_dry_run(self) -> bool:
        """Whether the tool can say what would come out without doing it."""
        return self.dry_run_fn is not None

    @functools.cached_property
    def input_schema_hash(self) -> str:
        """Fingerprint of the input schema: 16 hexadecimal digits."""
        from chainweaver.tools.fingerprint import schema_fingerprint

        return schema_fingerprint(self.input_schema)

    @functools.cached_property
    def output_schema_hash(self) -> str:
        """Fingerprint of the output schema: 16 hexadecimal digits."""
        from chainweaver.tools.fingerprint import schema_fingerprint

        return schema_fingerprint(self.output_schema)

    @functools.cached_property
    def schema_hash(self) -> str:
        """Fingerprint of both schemas and the `schema_version`: 16 hexadecimal digits.

        It changes when a saved flow or a cached result may no longer fit the tool.
        """
        from chainweaver.tools.fingerprint import digest

        return digest([self.input_schema_hash, self.output_schema_hash, self.schema_version])

    @classmethod
    def from_flow(
        cls,
        flow: RunnableFlow,
        executor: RunsFlows,
        *,
        name: str | None = None,
        description: str | None = None,
        input_schema: type[BaseModel] | None = None,
        output_schema: type[BaseModel] | None = None,
        safety: ToolSafetyContract | None = None,
    ) -> Tool:
        """A tool that runs a flow: what was a recipe becomes one step of another.

        Args:
            flow: The flow, in the version that is to run; the executor has to know it when the tool is called.
            executor: Whoever runs it.
            name: Name of the tool. None: that of the flow.
            description: What it does. None: what the flow says.
            input_schema: Model of the inputs. None: that of the flow, or else what its steps read, as far as the
                executor knows its tools by now.
            output_schema: Model of the outputs. None: that of the flow, or else the keys that its `outputs` name, or
                those that its steps wrote.
            safety: Declared effects. None: those of the flow.

        Raises:
            TypeError: The flow is a name, or the executor is none.
        """
        from chainweaver.tools.flow_tool import tool_from_flow

        return tool_from_flow(
            cls,
            flow,
            executor,
            name=name,
            description=description,
            input_schema=input_schema,
            output_schema=output_schema,
            safety=safety,
        )

    def run(self, raw_inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Validate the inputs, call the tool here and now, validate the outputs.

        Args:
            raw_inputs: Values by field name, as a person would write them.

        Returns:
            The output fields by name; their objects are the ones that the tool returned.

        Raises:
            SchemaValidationError: Inputs or outputs do not fit their schema.
            ToolTimeoutError: The tool took longer than its `timeout_seconds`; it is left running in a thread.
            ToolOutputSizeError: The outputs are larger than `max_output_size`.
            FlowExecutionError: The tool is async; use `run_async`.
            Exception: Whatever the tool raises, unchanged.
        """
        from chainweaver.tools import calling

        return calling.run(self, raw_inputs)

    async def run_async(self, raw_inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The same as `run` for async tools; sync tools are accepted and block the loop while they run.

        Raises:
            SchemaValidationError, ToolTimeoutError, ToolOutputSizeError: As `run` does.
        """
        from chainweaver.tools import calling

        return await calling.run_async(self, raw_inputs)

    def run_dry(self, raw_inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What `run` would return, as `dry_run_fn` says; nothing is done.

        Raises:
            SchemaValidationError: Inputs or outputs do not fit their schema.
            ToolDefinitionError: The tool has no `dry_run_fn`.
        """
        from chainweaver.tools import calling

        return calling.run_dry(self, raw_inputs)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{self!r} is fixed: make another tool instead of setting {name!r}.")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{self!r} is fixed: {name!r} cannot be deleted.")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # A copy would be another registration with another place in every plan cache.
        return self

    def __repr__(self) -> str:
        return f"Tool(name={self.name!r})"


def refuse_bad_arguments(tool: Tool) -> None:
    """Raise one ToolDefinitionError that names every argument of the tool that cannot be right."""
    problems = list(argument_problems(tool))
    if not problems:
        return
    fields = tool.input_schema.model_fields if is_model(tool.input_schema) else {}
    raise ToolDefinitionError(
        str(tool.name) or "<unnamed>",
        "; ".join(problem for problem, _ in problems),
        known=None if set(tool.mutates) <= set(fields) else fields,
        fix="; ".join(fix for _, fix in problems),
    )


def argument_problems(tool: Tool) -> Iterator[tuple[str, str]]:
    """What is wrong with the arguments of a tool and how to put it right, one pair each."""
    name: object = tool.name
    if not isinstance(name, str) or not name.strip():
        yield "name is empty", "give the tool a name that steps can use"
    for argument in ("input_schema", "output_schema"):
        schema = getattr(tool, argument)
        if not is_model(schema):
            yield f"{argument} is {schema!r}, not a pydantic model class", f"pass a subclass of BaseModel as {argument}"
    for argument in ("fn", "dry_run_fn"):
        function = getattr(tool, argument)
        if not callable(function) and (function is not None or argument == "fn"):
            yield f"{argument} is {function!r}, not callable", "pass a function that takes the validated inputs"
    for argument in ("timeout_seconds", "max_output_size"):
        limit = getattr(tool, argument)
        if limit is not None and not limit > 0:
            yield f"{argument} is {limit!r}, not above 0", f"leave {argument} out for no limit"
    if isinstance(tool.lane, str) and not tool.lane.strip():
        yield "lane is empty", "leave lane out to let the run decide"
    if tool.lane == "process" and is_coroutine_callable(tool.fn):
        yield "lane is 'process', and the function is async", "make it a plain def, or leave lane out"
    fields = tool.input_schema.model_fields if is_model(tool.input_schema) else {}
    for field in tool.mutates:
        if field not in fields:
            near = suggest(field, fields)
            fix = f"did you mean '{near}'?" if near else "name input fields in mutates"
            yield f"mutates names '{field}', which is no input field", fix


def is_model(schema: object) -> bool:
    """Whether this is a pydantic model class."""
    return isinstance(schema, type) and issubclass(schema, BaseModel)
