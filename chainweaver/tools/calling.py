"""One call of one tool by hand: validate, call, validate again.

Serves `Tool.run`, `Tool.run_async` and `Tool.run_dry`. Runs of flows never come here: their plan has the validators
bound and their lane does the waiting.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from chainweaver.exceptions import (
    FlowExecutionError,
    SchemaValidationError,
    ToolDefinitionError,
    ToolOutputSizeError,
    ToolTimeoutError,
    violations,
)
from chainweaver.tools.definition import is_coroutine_callable
from chainweaver.tools.opening import foreign_fields, opener_of

if TYPE_CHECKING:
    from chainweaver.tools.definition import Tool


def run(tool: Tool, raw_inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Call a sync tool in this thread, or in a daemon thread when it has a time limit."""
    if tool.is_async:
        raise FlowExecutionError(tool.name, 0, "it is async and run() is not", fix="use `await tool.run_async(inputs)`")
    arguments = call_arguments(tool, raw_inputs)
    if tool.timeout_seconds is None:
        outputs = tool.fn(*arguments)
    else:
        outputs = call_within(tool.timeout_seconds, lambda: tool.fn(*arguments), tool.name)
    return checked_outputs(tool, outputs)


async def run_async(tool: Tool, raw_inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Await an async tool in the running loop, or call a sync one."""
    if not tool.is_async:
        return run(tool, raw_inputs)
    arguments = call_arguments(tool, raw_inputs)
    call: Any = tool.fn
    if tool.timeout_seconds is None:
        return checked_outputs(tool, await call(*arguments))
    # Only a limit needs the event loop library.
    import anyio

    outputs = None
    with anyio.move_on_after(tool.timeout_seconds) as scope:
        outputs = await call(*arguments)
    if scope.cancelled_caught:
        raise ToolTimeoutError(tool.name, tool.timeout_seconds)
    return checked_outputs(tool, outputs)


def run_dry(tool: Tool, raw_inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Call the dry run of a tool in this thread."""
    if tool.dry_run_fn is None:
        raise ToolDefinitionError(
            tool.name, "It has no dry run.", fix="pass dry_run_fn=, a function that says what would come out"
        )
    if is_coroutine_callable(tool.dry_run_fn):
        raise FlowExecutionError(
            tool.name, 0, "its dry run is async and run_dry() is not", fix="execute a flow with dry_run=True instead"
        )
    return checked_outputs(tool, tool.dry_run_fn(validated_inputs(tool, raw_inputs)))


def call_arguments(tool: Tool, raw_inputs: Mapping[str, Any]) -> tuple[Any, ...]:
    """What `fn` is called with: the validated inputs and, where it asks for one, the context of a single call."""
    inputs = validated_inputs(tool, raw_inputs)
    return (inputs, lone_context(tool)) if tool.wants_context else (inputs,)


def validated_inputs(tool: Tool, raw_inputs: Mapping[str, Any]) -> BaseModel:
    """The inputs as the model that the tool asks for."""
    try:
        return tool.input_schema.model_validate(raw_inputs)
    except ValidationError as exc:
        raise SchemaValidationError(
            tool.name, 0, violations(exc), context="input", known=tool.input_schema.model_fields
        ) from exc


def lone_context(tool: Tool) -> object:
    """The ToolContext of a call outside any flow: first attempt, no deadline."""
    from chainweaver.plan import ToolContext

    return ToolContext(
        run_id="",
        flow_name="",
        step_id=tool.name,
        step_path=(tool.name,),
        idempotency_key=f"/{tool.name}",
        attempt=1,
        deadline=None,
    )


def checked_outputs(tool: Tool, outputs: object) -> dict[str, Any]:
    """The validated output fields, within the size limit of the tool."""
    fields = foreign_fields(tool.output_schema, outputs)
    try:
        validated = tool.output_schema.model_validate(outputs if fields is None else fields)
    except ValidationError as exc:
        raise SchemaValidationError(
            tool.name, 0, violations(exc), context="output", known=tool.output_schema.model_fields
        ) from exc
    if tool.max_output_size is not None:
        size = len(validated.model_dump_json().encode())
        if size > tool.max_output_size:
            raise ToolOutputSizeError(tool.name, size, tool.max_output_size)
    return opener_of(tool.output_schema)(validated)


def call_within(seconds: float, call: Callable[[], Any], tool_name: str) -> Any:
    """Make a call in a daemon thread and wait for it at most so long; the contextvars of the caller are visible there.

    Raises:
        ToolTimeoutError: The time is over. The thread cannot be stopped and its result is dropped.
    """
    import threading

    answers: list[Any] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            answers.append(call())
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(
        target=contextvars.copy_context().run, args=(work,), name=f"chainweaver-{tool_name}", daemon=True
    )
    thread.start()
    thread.join(seconds)
    if failures:
        raise failures[0]
    if not answers:
        raise ToolTimeoutError(tool_name, seconds)
    return answers[0]
