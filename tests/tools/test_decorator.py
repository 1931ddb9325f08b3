"""@tool: what a signature becomes, and what it has to say."""

from __future__ import annotations

import inspect
import pickle
import warnings
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel, Field
from typing_extensions import NotRequired, TypedDict

from chainweaver.exceptions import SchemaValidationError, ToolDefinitionError
from chainweaver.tools import Native, ToolContext, tool

if TYPE_CHECKING:
    from decimal import Decimal


@tool
def shout(text: str, times: int = 1) -> str:
    """Say it
    louder.

    Not part of the description.
    """
    return text.upper() * times


def test_a_decorated_function_stays_callable_as_it_was():
    assert shout("a", times=2) == "AA"
    assert shout.__wrapped__("b") == "B"
    assert (shout.__name__, shout.__module__) == ("shout", __name__)
    assert list(inspect.signature(shout).parameters) == ["text", "times"]
    assert "louder" in shout.__doc__


def test_name_description_and_models_come_from_the_function():
    assert (shout.name, shout.description) == ("shout", "Say it louder.")
    assert shout.input_schema.__name__ == "shout_input"
    assert shout.input_schema.model_fields["times"].default == 1
    assert list(shout.output_schema.model_fields) == ["shout"]


def test_a_plain_result_is_one_output_named_after_the_tool():
    assert shout.run({"text": "a", "times": "3"}) == {"shout": "AAA"}


def test_the_one_output_may_have_a_name_of_its_own():
    @tool(output="total", name="add-up")
    def add(a: int, b: int) -> int:
        return a + b

    assert add.name == "add-up"
    assert add.run({"a": 1, "b": 2}) == {"total": 3}


def test_the_settings_of_a_tool_that_is_made_by_a_call_count_as_well():
    """`tool(function, name=...)` is `tool(name=...)(function)`."""

    def add(a: int, b: int) -> int:
        return a + b

    made = tool(add, name="plus", output="total", timeout_seconds=2, mutates=["a"])

    assert (made.name, made.timeout_seconds, list(made.mutates)) == ("plus", 2, ["a"])
    assert made.run({"a": 1, "b": 2}) == {"total": 3}


def test_settings_reach_the_tool():
    lane = object()

    @tool(timeout_seconds=2, max_output_size=9, schema_version="2", cacheable=False, lane=lane, mutates="rows")
    def clear(rows: list) -> None:
        rows.clear()

    assert (clear.timeout_seconds, clear.max_output_size, clear.schema_version) == (2, 9, "2")
    assert (clear.cacheable, clear.lane, clear.mutates) == (False, lane, ("rows",))
    with pytest.raises(ToolDefinitionError, match="did you mean 'rows'"):
        tool(mutates=["row"])(clear.__wrapped__)


def test_a_decorated_function_is_pickled_by_its_name():
    assert pickle.loads(pickle.dumps(shout)) is shout


class Item(BaseModel):
    n: int


def test_nested_models_are_passed_as_models():
    @tool
    def second(items: list[Item], best: Item | None = None) -> Item:
        assert best is None
        return items[1]

    assert second.run({"items": [{"n": 1}, {"n": "2"}]}) == {"n": 2}
    assert second.output_schema is Item


def test_field_metadata_is_checked():
    @tool
    def half(n: Annotated[int, Field(ge=0, description="What to halve.")]) -> float:
        return n / 2

    assert half.input_schema.model_fields["n"].description == "What to halve."
    with pytest.raises(SchemaValidationError, match="greater than or equal to 0"):
        half.run({"n": -1})


def test_annotations_may_name_classes_local_to_a_function():
    class Local:
        pass

    @tool
    def keep(thing: Local) -> Native[Local]:
        return thing

    @tool(description="With parentheses.")
    def keep_too(thing: Local) -> Native[Local]:
        return thing

    thing = Local()
    assert keep.run({"thing": thing})["keep"] is thing
    assert keep_too.run({"thing": thing})["keep_too"] is thing


def test_parameters_may_be_called_like_methods_of_models():
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        @tool
        def odd(copy: int, schema: str, json: int = 3, model_name: str = "m", construct: int = 4) -> list:
            return [copy, schema, json, model_name, construct]

    assert odd.run({"copy": 1, "schema": "s"}) == {"odd": [1, "s", 3, "m", 4]}


def test_the_context_is_no_input_field():
    """R32: the run fills it."""

    @tool
    def key(n: int, context: ToolContext) -> str:
        return context.idempotency_key

    assert key.wants_context
    assert list(key.input_schema.model_fields) == ["n"]
    assert key.run({"n": 1}) == {"key": "/key"}


async def test_an_async_function_becomes_an_async_tool_with_context():
    @tool
    async def key(n: int, context: ToolContext) -> int:
        return n + context.attempt

    @tool
    async def plain(n: int) -> int:
        return n

    assert key.is_async
    assert await key.run_async({"n": "1"}) == {"key": 2}
    assert await plain(3) == 3
    assert await plain.run_async({"n": 1}) == {"plain": 1}


async def test_a_function_that_returns_an_awaitable_is_async_too():
    async def answer() -> int:
        return 42

    @tool(output="n")
    def later() -> Awaitable[int]:
        return answer()

    assert later.is_async
    assert await later.run_async({}) == {"n": 42}


def test_everything_that_is_missing_is_named_at_once():
    with pytest.raises(ToolDefinitionError) as caught:

        @tool
        def bad(a, /, b, *more, _c: int, when: Decimal, model_dump: int, ctx: ToolContext, **rest):
            pass

    text = str(caught.value)
    assert caught.value.function_name == "bad"
    for part in (
        "Parameter 'a' is positional-only",
        "Missing a type annotation for parameter 'a'",
        "Missing a type annotation for parameter 'b'",
        "Parameter '*more'",
        "Parameter '_c' begins with an underscore",
        "Failed to resolve type hints of parameter 'when': name 'Decimal' is not defined",
        "Parameter 'model_dump' has a name that pydantic models need",
        "Parameter 'ctx' is annotated ToolContext",
        "Parameter '**rest'",
        "Missing a return type annotation",
        "name it 'context'",
        "where   test_decorator.py:",
    ):
        assert part in text


def test_a_missing_result_annotation_is_fine_with_an_output_schema():
    @tool(output_schema=Item)
    def count(n: int):
        return {"n": str(n)}

    assert count.run({"n": 1}) == {"n": 1}


def generator(n: int) -> Any:
    yield n


async def async_generator(n: int) -> Any:
    yield n


@pytest.mark.parametrize("thing", [generator, async_generator, len, staticmethod(generator), 3, Item])
def test_only_functions_become_tools(thing):
    with pytest.raises(ToolDefinitionError):
        tool(thing)


class Pair(NamedTuple):
    left: list
    right: int


@dataclass
class Point:
    xs: list
    y: int


class Row(TypedDict):
    cells: list
    note: NotRequired[str]


class Table:
    pass


@tool
def as_pair(xs: list) -> Pair:
    return Pair(xs, 1)


@tool
def as_point(xs: list) -> Point:
    return Point(xs, 1)


@tool
def as_row(xs: list) -> Row:
    return {"cells": xs}


@pytest.mark.parametrize(
    ("made", "first", "rest"),
    [(as_pair, "left", {"right": 1}), (as_point, "xs", {"y": 1}), (as_row, "cells", {"note": None})],
    ids=["NamedTuple", "dataclass", "TypedDict"],
)
def test_records_become_outputs_field_by_field_without_a_copy(made, first, rest):
    """R14: the very object that the tool returned."""
    xs = [object()]
    outputs = made.run({"xs": xs})
    assert outputs.pop(first) is xs
    assert outputs == rest


def test_a_bare_container_is_converted_when_it_is_another_one():
    assert as_pair.run({"xs": (1, 2)}) == {"left": [1, 2], "right": 1}
    with pytest.raises(SchemaValidationError, match="xs: Input should be a valid list"):
        as_pair.run({"xs": 3})


def test_a_record_of_the_wrong_class_fails_at_the_output_border():
    @tool
    def wrong() -> Point:
        return 3  # type: ignore[return-value]

    with pytest.raises(SchemaValidationError) as caught:
        wrong.run({})
    assert caught.value.context == "output"


def test_a_record_can_fill_an_output_schema_of_its_own():
    class Loose(BaseModel):
        y: float

    @tool(output_schema=Loose)
    def point() -> Point:
        return Point([], 2)

    assert point.run({}) == {"y": 2.0}


def test_a_function_without_a_result_has_no_outputs():
    @tool
    def note(text: str) -> None:
        """Say nothing."""

    assert note.run({"text": "x"}) == {}
    with pytest.raises(SchemaValidationError, match="output"):
        tool(output="n", name="x")(lambda_free).run({})


def lambda_free() -> int:
    return "x"  # type: ignore[return-value]


def returns_dict() -> dict[str, int]:
    return {"n": 1}


def returns_int() -> int:
    return 1


def returns_stream() -> AsyncIterator[int]:
    raise AssertionError


class Unresolved(TypedDict):
    when: Decimal


def returns_unresolved() -> Unresolved:
    raise AssertionError


@pytest.mark.parametrize(
    ("function", "settings", "text"),
    [
        (returns_dict, {}, "dict[str, int] does not say which outputs there are"),
        (returns_stream, {}, "AsyncIterator[int], a stream"),
        (returns_unresolved, {}, "Failed to resolve type hints of Unresolved: name 'Decimal' is not defined"),
        (returns_int, {"output_schema": Item}, "its result int cannot fill output_schema Item"),
        (returns_int, {"output_schema": Item, "output": "n"}, "exclude each other"),
        (returns_int, {"output": "not a name"}, "'not a name' is no name for an output"),
        (returns_int, {"output": "model_dump"}, "'model_dump' is a name that pydantic models need"),
    ],
)
def test_a_result_that_gives_no_outputs_is_refused_with_a_way_out(function, settings, text):
    with pytest.raises(ToolDefinitionError) as caught:
        tool(**settings)(function)
    assert text in str(caught.value)
    assert "  fix  " in str(caught.value)


@pytest.mark.parametrize("field", [Field(discriminator="kind"), Field(pattern="(")])
def test_a_type_that_pydantic_cannot_validate_is_refused_with_a_way_out(field):
    def wrong(n):
        return n

    wrong.__annotations__ = {"n": Annotated[str, field], "return": int}
    with pytest.raises(ToolDefinitionError, match=r"annotate with Native\[\.\.\.\]"):
        tool(wrong)


def test_a_dict_is_fine_as_the_one_output_or_with_a_schema():
    assert tool(output="counts")(returns_dict).run({}) == {"counts": {"n": 1}}
    assert tool(output_schema=Item)(returns_dict).run({}) == {"n": 1}


def test_a_dry_run_may_take_parameters_of_the_tool_or_its_model():
    def price(sku: str, count: int = 1) -> float:
        raise AssertionError

    by_name = tool(dry_run_fn=lambda count: count * 2.0)(price)
    by_all = tool(dry_run_fn=lambda **values: float(len(values)))(price)
    by_model = tool(dry_run_fn=lambda inputs: {"price": inputs.count})(price)
    constant = tool(dry_run_fn=lambda: 9.0)(price)

    assert [one.run_dry({"sku": "s", "count": 3})["price"] for one in (by_name, by_all, by_model, constant)] == [
        6.0,
        2.0,
        3.0,
        9.0,
    ]


VALUES = st.fixed_dictionaries({"a": st.integers()}, optional={"b": st.text(), "c": st.lists(st.integers())})


@given(VALUES)
def test_running_a_tool_is_calling_its_function(values):
    """R10: for inputs that need no conversion the borders change nothing."""
    assert mixed.run(values) == {"mixed": mixed(**values)}


@tool
def mixed(a: int, b: str = "x", c: list[int] | None = None) -> tuple[int, str, list[int] | None]:
    return (a, b, c)
