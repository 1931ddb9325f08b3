"""Flows and tools as plain functions."""

from __future__ import annotations

import asyncio
import inspect
import json
import typing
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, validate_call

from chainweaver import (
    ExportError,
    Flow,
    FlowExecutionError,
    FlowExecutor,
    FlowNotFoundError,
    FlowStatusError,
    FlowStep,
    SchemaValidationError,
    ToolTimeoutError,
    literal,
    tool,
)
from chainweaver.export import (
    flow_to_async_callable,
    flow_to_callable,
    to_callables,
    to_openai_functions,
    tool_to_async_callable,
    tool_to_callable,
)

CALLS: list[str] = []


@tool(output="total")
def add(a: Annotated[int, Field(ge=0, description="One.")], b: int = 1) -> int:
    """Add two numbers."""
    CALLS.append("add")
    return a + b


@tool(output="total")
async def add_later(a: int, b: int = 1) -> int:
    await asyncio.sleep(0)
    return a + b


@tool(output="text")
def show(total: int, style: list[str] = ["plain"]) -> str:  # noqa: B006
    if total > 100:
        raise OverflowError("too much")
    return f"{style[0]} {total}"


@tool(output="shown")
def reveal(word: str, key: str = "none") -> str:
    return f"{word}/{key}"


def executor_of(*steps: FlowStep, tools: Any = (add, add_later, show, reveal), **facts: Any) -> FlowExecutor:
    facts = {"name": "sum-up", "description": "Adds up.", "steps": list(steps), **facts}
    return FlowExecutor(tools=tools, flows=[Flow(**facts)])


ADD_AND_SHOW = (FlowStep(tool_name="add"), FlowStep(tool_name="show"))


def test_a_flow_is_called_like_a_function():
    """Export: positionally or by name, and the final output comes back."""
    sum_up = flow_to_callable("sum-up", executor_of(*ADD_AND_SHOW))

    assert sum_up(1, 2) == {"a": 1, "b": 2, "total": 3, "text": "plain 3"}
    assert sum_up(b=2, a=1, style=["bold"])["text"] == "bold 3"
    assert sum_up(a=4)["text"] == "plain 5"


def test_the_function_has_the_face_of_one_that_was_written_by_hand():
    """Export: signature, name, documentation and annotations are real."""
    sum_up = flow_to_callable("sum-up", executor_of(*ADD_AND_SHOW))
    signature = inspect.signature(sum_up)

    assert list(signature.parameters) == ["a", "b", "style"]
    assert [one.default for one in signature.parameters.values()] == [inspect.Parameter.empty, 1, ["plain"]]
    assert signature.return_annotation == dict[str, Any]
    assert (sum_up.__name__, sum_up.__qualname__) == ("sum_up", "sum_up")
    assert typing.get_type_hints(sum_up) == {"a": int, "b": int, "style": list[str], "return": dict[str, Any]}
    assert inspect.isfunction(sum_up)
    assert sum_up.__doc__ == (
        "Adds up.\n\nArgs:\n    a: One.\n\nReturns:\n    The final output of flow 'sum-up', version 0.1.0.\n"
    )


def test_required_parameters_come_first():
    """Export: Python takes no other order."""
    executor = executor_of(
        FlowStep(tool_name="reveal", input_mapping={"word": literal("x"), "key": {"$key": "key", "$default": "k"}}),
        FlowStep(tool_name="add"),
    )

    assert list(inspect.signature(flow_to_callable("sum-up", executor)).parameters) == ["a", "key", "b"]


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((), {}, "sum_up(): missing a required argument: 'a'"),
        ((1, 2, [], 4), {}, "sum_up(): too many positional arguments"),
        ((1,), {"c": 1}, "sum_up(): got an unexpected keyword argument 'c'"),
        ((1,), {"a": 1}, "sum_up(): multiple values for argument 'a'"),
    ],
)
def test_arguments_that_do_not_fit_the_signature_are_type_errors(args: Any, kwargs: Any, said: str):
    """Export: in the words of Python, with the name of the function."""
    with pytest.raises(TypeError) as caught:
        flow_to_callable("sum-up", executor_of(*ADD_AND_SHOW))(*args, **kwargs)
    assert str(caught.value) == said


@pytest.mark.parametrize("arguments", [{"a": "many"}, {"a": -1}, {"a": 1, "style": 7}])
def test_values_that_do_not_fit_are_refused_before_anything_starts(arguments: dict[str, Any]):
    """R8: also where the flow has no input schema, and the value is for a later step."""
    CALLS.clear()
    with pytest.raises(SchemaValidationError) as caught:
        flow_to_callable("sum-up", executor_of(*ADD_AND_SHOW))(**arguments)
    assert (caught.value.context, caught.value.step_index, CALLS) == ("flow input", -1, [])


def test_values_reach_the_tools_as_they_were_given():
    """R14: checking an argument does not replace it."""
    seen: list[Any] = []

    @tool
    def keep(rows: list) -> int:
        seen.append(rows)
        return len(rows)

    rows = [1, 2]
    flow_to_callable("sum-up", executor_of(FlowStep(tool_name="keep"), tools=[keep]))(rows)

    assert seen[0] is rows


def test_the_error_of_the_flow_is_raised():
    """R16: with the original exception as its cause."""
    with pytest.raises(FlowExecutionError) as caught:
        flow_to_callable("sum-up", executor_of(*ADD_AND_SHOW))(100, 1)
    assert isinstance(caught.value.__cause__, OverflowError)


def test_what_keeps_a_flow_from_starting_is_raised_by_the_call():
    """R15: the status is that of the moment."""
    executor = executor_of(*ADD_AND_SHOW)
    sum_up = flow_to_callable("sum-up", executor)
    executor.registry.set_flow_status("sum-up", "disabled")

    with pytest.raises(FlowStatusError):
        sum_up(1)


class Amounts(BaseModel):
    a: int
    b: int = Field(2, alias="from")
    class_: str = Field("x", validation_alias="two words")


def test_the_input_schema_of_a_flow_gives_the_parameters_and_checks_them():
    """R8: a run validates with it, and names that Python does not take are changed."""
    executor = executor_of(FlowStep(tool_name="add"), input_schema_ref=Flow.schema_ref_from(Amounts))
    sum_up = flow_to_callable("sum-up", executor)

    assert list(inspect.signature(sum_up).parameters) == ["a", "from_", "two_words"]
    assert sum_up(1, 5)["b"] == 5
    assert sum_up(a="1", **{"from": 7, "two words": "y"})["total"] == 8
    with pytest.raises(SchemaValidationError, match="flow input"):
        sum_up("many")
    with pytest.raises(TypeError, match="under two names"):
        sum_up(1, from_=1, **{"from": 2})


def test_a_function_keeps_the_version_that_it_was_made_of():
    """R33: what a caller has in hand does not change under it."""
    executor = executor_of(FlowStep(tool_name="add"), version="1.0")
    sum_up = flow_to_callable("sum-up", executor)
    executor.registry.register_flow(Flow(name="sum-up", version="2.0", description="", steps=[*ADD_AND_SHOW]))

    assert sum_up(1) == {"a": 1, "total": 2}
    assert flow_to_callable("sum-up", executor)(1)["text"] == "plain 2"
    assert flow_to_callable("sum-up", executor, version="1.0")(1) == {"a": 1, "total": 2}


def test_a_flow_that_the_executor_does_not_have_is_no_function():
    """R15: nothing could run it."""
    with pytest.raises(FlowNotFoundError):
        flow_to_callable(Flow(name="other", description="", steps=[]), executor_of(*ADD_AND_SHOW))
    with pytest.raises(TypeError, match="the executor is needed"):
        to_callables([Flow(name="other", description="", steps=[])])


def test_dynamic_parameters_are_given_with_the_function_and_never_with_a_call():
    """R13: a value, or who is asked for it each time."""
    executor = executor_of(FlowStep(tool_name="reveal"), dynamic_params=("key",))
    keys = iter(["k1", "k2"])
    reveal_it = flow_to_callable("sum-up", executor, dynamic_params=lambda: {"key": next(keys)})

    assert [reveal_it("w")["shown"], reveal_it("w")["shown"]] == ["w/k1", "w/k2"]
    assert flow_to_callable("sum-up", executor, dynamic_params={"key": "k"})("w") == {"word": "w", "shown": "w/k"}
    with pytest.raises(TypeError, match="unexpected keyword argument 'key'"):
        reveal_it("w", key="mine")


def test_an_open_flow_takes_any_keyword():
    """Export: what is not known beforehand goes into the input as it is."""
    executor = executor_of(FlowStep(tool_name="add"), FlowStep(tool_name="nobody", on_error="skip"))
    sum_up = flow_to_callable("sum-up", executor)

    assert str(inspect.signature(sum_up)).endswith("**others: Any) -> dict[str, typing.Any]")
    assert sum_up(1, colour="red") == {"a": 1, "colour": "red", "total": 2}


async def test_an_async_function_runs_on_the_loop_that_it_is_awaited_on():
    """R26: the async lane, with the same face and the same errors."""
    executor = executor_of(FlowStep(tool_name="add_later"), FlowStep(tool_name="show"))
    sum_up = flow_to_async_callable("sum-up", executor)

    assert inspect.iscoroutinefunction(sum_up)
    assert list(inspect.signature(sum_up).parameters) == ["a", "b", "style"]
    assert await sum_up(1) == {"a": 1, "total": 2, "text": "plain 2"}
    with pytest.raises(FlowExecutionError):
        await sum_up(1000)


def test_a_flow_with_async_tools_is_a_sync_function_as_well():
    """R26: the sync lane runs them on its own loop."""
    with executor_of(FlowStep(tool_name="add_later")) as executor:
        assert flow_to_callable("sum-up", executor)(1)["total"] == 2


def test_a_tool_is_called_like_a_function_and_validates():
    """Export: arguments and outputs, as `tool.run` does."""
    plus = tool_to_callable(add)

    assert plus("1", b=2) == {"total": 3}
    assert (plus.__name__, plus.__doc__) == (
        "add",
        "Add two numbers.\n\nArgs:\n    a: One.\n\nReturns:\n    The outputs of tool 'add'.\n",
    )
    with pytest.raises(SchemaValidationError):
        plus(-1)
    with pytest.raises(TypeError, match=r"add\(\): missing a required argument: 'a'"):
        plus()


async def test_an_async_tool_is_an_async_function_and_no_sync_one():
    """Export: a coroutine that nobody awaits would be no output."""
    with pytest.raises(ExportError, match="it is async") as caught:
        tool_to_callable(add_later)
    assert "tool_to_async_callable" in str(caught.value)
    assert await tool_to_async_callable(add_later)(1, 2) == {"total": 3}
    assert await tool_to_async_callable(add)(1, 2) == {"total": 3}


def test_frameworks_can_read_the_types_off_a_function():
    """Export: constraints and descriptions are in the annotations."""
    plus = tool_to_callable(add)
    hints = typing.get_type_hints(plus, include_extras=True)

    assert [getattr(mark, "description", None) for mark in hints["a"].__metadata__] == [None, "One."]
    assert validate_call(plus)(a="3") == {"total": 4}


def test_a_model_is_offered_what_can_be_called_with_its_answer():
    """Export: name and arguments of the answer lead to the function and its outputs."""
    executor = executor_of(*ADD_AND_SHOW)
    functions = to_callables(["sum-up", add], executor)
    [offered, _] = to_openai_functions(["sum-up", add], executor)
    answer = {"name": offered["function"]["name"], "arguments": json.dumps({"a": 1, "style": ["bold"]})}

    assert functions[answer["name"]](**json.loads(answer["arguments"]))["text"] == "bold 2"


def test_a_deadline_of_a_tool_holds_in_its_function():
    """R22: nothing of a tool is lost on the way."""
    import threading

    hold = threading.Event()

    @tool(timeout_seconds=0.01)
    def wait() -> bool:
        return hold.wait(5)

    with pytest.raises(ToolTimeoutError):
        tool_to_callable(wait)()
    hold.set()
