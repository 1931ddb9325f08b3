"""Fakes and spies: tools that stand in for others, and that remember how they were called.

A fake has the schemas, limits and declarations of the tool it replaces, so that a flow compiles, validates and is
fingerprinted as with the real one. A spy does the same and calls the real function. Both are put into an executor like
any tool; what they remember belongs to the test.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from pydantic import BaseModel, ConfigDict

from chainweaver.exceptions import ToolDefinitionError
from chainweaver.objects import UncopyableError, independent_copy
from chainweaver.tools import Tool, ToolContext
from chainweaver.tools.definition import is_coroutine_callable, takes_context
from chainweaver.tools.opening import foreign_fields


class OpenFields(BaseModel):
    """The schema of fakes that stand in for nothing: any fields."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True)
class ToolCall:
    """One call that a fake or a spy received.

    Attributes:
        inputs: The validated input fields, as they were when the call came in; copied where they can be.
        step_id: The step that called; the tool's own name for calls by hand.
        attempt: Number of the attempt of this step, 1-based.
        run_id: Trace id of the run; empty for calls by hand.
        number: Number of the call over all runs, 1-based.
    """

    inputs: dict[str, Any]
    step_id: str
    attempt: int
    run_id: str
    number: int


Act: TypeAlias = Callable[[Any, ToolContext, ToolCall], Any]
"""What a remembered call does: called with the inputs, the context and what is remembered."""

_NOTHING: Final[Any] = object()
_IN_PROCESS = (None, "inline", "thread")


class FakeTool(Tool):
    """A tool that remembers its calls; made by `fake_tool` and `spy_on`.

    Attributes:
        calls: The calls so far, in the order in which they came in; a new list.
        call_count: How many there were.
    """

    _calls: list[ToolCall]
    _lock: threading.Lock

    def __init__(self, replaced: Tool | str, act: Act, is_async: bool) -> None:
        remember, remember_async = self._bound(act)
        super().__init__(**_likeness(replaced), fn=remember_async if is_async else remember)
        vars(self).update(_calls=[], _lock=threading.Lock())

    @property
    def calls(self) -> list[ToolCall]:
        """The calls so far, in the order in which they came in; a new list."""
        with self._lock:
            return list(self._calls)

    @property
    def call_count(self) -> int:
        """How many calls there were."""
        return len(self._calls)

    def forget_calls(self) -> None:
        """Begin to count anew; a `sequence` begins anew as well."""
        with self._lock:
            self._calls.clear()

    def _bound(self, act: Act) -> tuple[Callable[..., Any], Callable[..., Awaitable[Any]]]:
        def remember(inputs: Any, context: ToolContext) -> Any:
            return act(inputs, context, self._remembered(inputs, context))

        async def remember_async(inputs: Any, context: ToolContext) -> Any:
            outcome = act(inputs, context, self._remembered(inputs, context))
            return await outcome if isinstance(outcome, Awaitable) else outcome

        return remember, remember_async

    def _remembered(self, inputs: BaseModel, context: ToolContext) -> ToolCall:
        fields = copied_fields(inputs)
        with self._lock:
            call = ToolCall(fields, context.step_id, context.attempt, context.run_id, len(self._calls) + 1)
            self._calls.append(call)
        return call


def fake_tool(
    replaced: Tool | str,
    *,
    returns: Any = _NOTHING,
    raises: BaseException | type[BaseException] | None = None,
    side_effect: Callable[..., Any] | None = None,
    sequence: Iterable[Any] | None = None,
    is_async: bool | None = None,
) -> FakeTool:
    """A tool that stands in for another one and remembers its calls.

    Args:
        replaced: The tool, whose schemas, limits and declarations the fake has; or a name, for a fake that takes and
            gives any fields.
        returns: The outputs of each call: a mapping or a model. For a tool with one output the bare value does as well.
        raises: Raised by each call.
        side_effect: Called as the tool's own function, with the validated inputs (and the context, where it has a
            parameter `context: ToolContext`), from whatever thread the lane uses. What it gives are the outputs; where
            that is None and `returns` is given, those are.
        sequence: One outcome per call: outputs, or an exception to raise. Calls beyond the last one get `returns`, or
            an AssertionError.
        is_async: Whether the fake is async. None: as the replaced tool is, or else as `side_effect`.

    Raises:
        TypeError: What it stands in for is neither a tool nor a name.
        ToolDefinitionError: Nothing says what the fake does, two arguments say so, or one says it in a way without
            meaning.

    >>> from chainweaver.tools import tool
    >>> @tool
    ... def price(article: str) -> float:
    ...     raise ConnectionError("the shop is closed")
    >>> fake = fake_tool(price, sequence=[2.5, OSError("busy")])
    >>> fake.run({"article": "tea"})
    {'price': 2.5}
    >>> fake.calls[0].inputs
    {'article': 'tea'}
    """
    if not isinstance(replaced, (str, Tool)):
        raise TypeError(
            f"A fake stands in for a tool or the name of one, not for {replaced!r}; what it does is side_effect=."
        )
    name = replaced if isinstance(replaced, str) else replaced.name
    given = [what for what, value in _told(raises, side_effect, sequence).items() if value is not None]
    if len(given) > 1:
        raise ToolDefinitionError(
            name, f"its fake is told {' and '.join(given)}", fix="say one of raises, side_effect and sequence"
        )
    if raises is not None and returns is not _NOTHING:
        raise ToolDefinitionError(name, "its fake is told raises and returns", fix="say one of them")
    for problem, fix in _nonsense(raises, side_effect, sequence):
        raise ToolDefinitionError(name, problem, fix=fix)
    if not given and returns is _NOTHING and not _needs_nothing(replaced):
        raise ToolDefinitionError(
            name, "nothing says what its fake gives", fix="pass returns=, raises=, side_effect= or sequence="
        )
    if is_async is None:
        asks_async = side_effect is not None and is_coroutine_callable(side_effect)
        is_async = asks_async or (not isinstance(replaced, str) and replaced.is_async)
    act = _act_of(name, _wrapper(replaced), returns, raises, side_effect, sequence)
    return FakeTool(replaced, act, is_async)


def spy_on(tool: Tool) -> FakeTool:
    """The same tool, whose calls are remembered.

    >>> from chainweaver.tools import tool
    >>> @tool
    ... def double(n: int) -> int:
    ...     return 2 * n
    >>> spy = spy_on(double)
    >>> spy.run({"n": 21}), spy.call_count
    ({'double': 42}, 1)
    """

    def call(inputs: Any, context: ToolContext, _: ToolCall) -> Any:
        return tool.fn(inputs, context) if tool.wants_context else tool.fn(inputs)

    return FakeTool(tool, call, tool.is_async)


def can_be_spied_on(tool: Tool) -> bool:
    """Whether a spy would leave the runs of a tool as they are: it can be called here, and streams to nobody."""
    return tool.lane in _IN_PROCESS and not tool.is_streaming


def copied_fields(inputs: BaseModel) -> dict[str, Any]:
    """The fields of a model by name, excluded ones and extra values included; copies, where they can be made."""
    fields = {**inputs.__dict__, **(inputs.__pydantic_extra__ or {})}
    try:
        return independent_copy(fields)
    except UncopyableError:
        return fields


def _told(raises: object, side_effect: object, sequence: object) -> dict[str, object]:
    return {"raises": raises, "side_effect": side_effect, "sequence": sequence}


def _nonsense(raises: object, side_effect: object, sequence: object) -> Iterator[tuple[str, str]]:
    """What has no meaning, and what would have one."""
    if raises is not None and not isinstance(raises, BaseException) and not _is_exception_class(raises):
        yield f"raises= of its fake is {raises!r}", "pass an exception, or a class of exceptions"
    if side_effect is not None and not callable(side_effect):
        yield f"side_effect= of its fake is {side_effect!r}", "pass a function of the inputs, or the value as returns="
    if sequence is not None and (not isinstance(sequence, Iterable) or isinstance(sequence, (str, bytes, Mapping))):
        yield f"sequence= of its fake is {sequence!r}", "pass a list with one outcome per call"


def _likeness(replaced: Tool | str) -> dict[str, Any]:
    """What a stand-in has in common with what it stands in for."""
    if isinstance(replaced, str):
        schemas = {"input_schema": OpenFields, "output_schema": OpenFields}
        return {"name": replaced, "description": f"Stands in for '{replaced}'.", **schemas}
    kept = ("name", "description", "input_schema", "output_schema", "timeout_seconds", "max_output_size")
    declared = ("schema_version", "cacheable", "metadata", "dry_run_fn", "mutates")
    likeness = {name: getattr(replaced, name) for name in (*kept, *declared)}
    likeness["safety"] = replaced.safety if replaced.safety_declared else None
    # What is remembered stays in this process, and so do the calls.
    likeness["lane"] = replaced.lane if replaced.lane in _IN_PROCESS else None
    return likeness


def _needs_nothing(replaced: Tool | str) -> bool:
    """Whether an empty mapping is a good output."""
    if isinstance(replaced, str):
        return True
    return not any(field.is_required() for field in replaced.output_schema.model_fields.values())


def _wrapper(replaced: Tool | str) -> Callable[[Any], Any]:
    """What makes outputs of a value: of a tool with one output also its bare value."""
    if isinstance(replaced, str) or len(replaced.output_schema.model_fields) != 1:
        return lambda value: value
    model = replaced.output_schema
    [field] = model.model_fields

    def wrap(value: Any) -> Any:
        if not isinstance(value, (Mapping, BaseModel)):
            return {field: value}
        # What fits neither way is handed on as it is: a fake may be there to break the schema.
        return {field: value} if not _fits(model, value) and _fits(model, {field: value}) else value

    return wrap


def _fits(model: type[BaseModel], outputs: Any) -> bool:
    fields = foreign_fields(model, outputs)
    try:
        model.model_validate(outputs if fields is None else fields)
    except Exception:  # a validator of the user's may raise anything
        return False
    return True


def _act_of(
    name: str,
    outputs: Callable[[Any], Any],
    returns: Any,
    raises: BaseException | type[BaseException] | None,
    side_effect: Callable[..., Any] | None,
    sequence: Iterable[Any] | None,
) -> Act:
    """What each call of a fake does."""

    def play(outcome: Any) -> Any:
        if isinstance(outcome, BaseException) or _is_exception_class(outcome):
            raise outcome
        return outputs(outcome)

    otherwise = {} if returns is _NOTHING else outputs(returns)
    if raises is not None:
        return lambda inputs, context, call: play(raises)
    if sequence is not None:
        outcomes = tuple(sequence)

        def next_outcome(inputs: Any, context: ToolContext, call: ToolCall) -> Any:
            if call.number <= len(outcomes):
                return play(outcomes[call.number - 1])
            if returns is _NOTHING:
                raise AssertionError(
                    f"the fake of '{name}' has {len(outcomes)} outcomes, and this is call {call.number}"
                )
            return otherwise

        return next_outcome
    if side_effect is None:
        return lambda inputs, context, call: otherwise
    effect, with_context = side_effect, takes_context(side_effect)

    def settle(outcome: Any) -> Any:
        return otherwise if outcome is None and returns is not _NOTHING else outputs(outcome)

    async def settle_later(outcome: Awaitable[Any]) -> Any:
        return settle(await outcome)

    def have_effect(inputs: Any, context: ToolContext, call: ToolCall) -> Any:
        outcome = effect(inputs, context) if with_context else effect(inputs)
        return settle_later(outcome) if isinstance(outcome, Awaitable) else settle(outcome)

    return have_effect


def _is_exception_class(outcome: object) -> bool:
    return isinstance(outcome, type) and issubclass(outcome, BaseException)
