"""Fakes and spies: the same border as the real tool, another inside, and a memory."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pydantic import BaseModel

from chainweaver import Flow, FlowExecutor, FlowStep, Tool, ToolContext, ToolDefinitionError, ToolSafetyContract, tool
from chainweaver.flow import SideEffectLevel
from chainweaver.testing import FakeTool, fake_tool, spy_on
from tests.lanes.table import LANES, Lane
from tests.testing.kit import TEA, order, patient, price, stock, total

lanes = pytest.mark.parametrize("lane", LANES, ids=repr)


class Pair(BaseModel):
    left: int
    right: int = 0


class Nested(BaseModel):
    pair: Pair


def test_a_fake_has_the_border_of_the_tool_it_replaces():
    """api.md: schemas, hashes, limits and declarations are the same."""
    real = Tool(
        name="pay", description="Pays.", input_schema=Pair, output_schema=Pair, fn=lambda given: {"left": 1},
        timeout_seconds=3, max_output_size=100, schema_version="2.1", cacheable=False, metadata={"team": "shop"},
        safety=ToolSafetyContract(side_effects=SideEffectLevel.EXTERNAL), mutates=["left"], lane="thread",
    )  # fmt: skip
    fake = fake_tool(real, returns={"left": 2})
    same = ("name", "description", "input_schema", "output_schema", "timeout_seconds", "max_output_size", "mutates")
    more = ("schema_version", "schema_hash", "cacheable", "metadata", "safety", "safety_declared", "is_async", "lane")
    for attribute in (*same, *more):
        assert getattr(fake, attribute) == getattr(real, attribute), attribute


def test_a_fake_of_a_mere_name_takes_and_gives_anything():
    """api.md: open schemas."""
    fake = fake_tool("anything", returns={"a": [1], "b": None})
    assert fake.run({"x": 1, "y": "z"}) == {"a": [1], "b": None}
    assert fake.calls[0].inputs == {"x": 1, "y": "z"}
    assert fake_tool("silent").run({}) == {}


@pytest.mark.parametrize(
    ("replaced", "value", "outputs"),
    [
        (price, 2.5, {"price": 2.5}),
        (price, {"price": 2.5}, {"price": 2.5}),
        ("open", {"n": 1}, {"n": 1}),
    ],
)
def test_a_bare_value_is_the_one_output(replaced: Any, value: Any, outputs: Any):
    """api.md: as the function of the tool returns it."""
    assert fake_tool(replaced, returns=value).run({"article": "tea"}) == outputs
    assert fake_tool(replaced, sequence=[value]).run({"article": "tea"}) == outputs
    assert fake_tool(replaced, side_effect=lambda inputs: value).run({"article": "tea"}) == outputs


def test_a_mapping_or_a_model_may_be_the_one_output_too():
    """api.md: what fits the output schema is the outputs, what fits its only field is that field."""
    nested = Tool(name="t", description="", input_schema=Pair, output_schema=Nested, fn=lambda given: {})
    for value in (Pair(left=1), {"left": 1}, {"pair": {"left": 1}}, Nested(pair=Pair(left=1))):
        assert fake_tool(nested, returns=value).run({"left": 0}) == {"pair": Pair(left=1)}


@lanes
def test_an_output_that_breaks_the_schema_is_refused_as_the_tool_would_be(lane: Lane) -> None:
    """R10: a fake passes the same gates."""
    with lane.executor(tools=[fake_tool(price, returns="cheap"), total], flows=[order()]) as executor:
        assert lane.run(executor, "order", TEA).step("0").error_type == "SchemaValidationError"


@lanes
@pytest.mark.parametrize("error", [OSError("busy"), OSError], ids=["instance", "class"])
def test_a_fake_raises_what_it_is_told(lane: Lane, error: Any) -> None:
    """R18: the exception itself is the cause."""
    with lane.executor(tools=[fake_tool(price, raises=error), total], flows=[order()]) as executor:
        result = lane.run(executor, "order", TEA)
    assert result.step("0").error_cause == "OSError"
    with pytest.raises(Exception, match="Tool 'price' failed at step 0") as caught:
        result.raise_for_failure()
    assert caught.value.__cause__ is error or type(caught.value.__cause__) is error


@lanes
def test_a_sequence_is_played_call_by_call(lane: Lane) -> None:
    """R20: outcomes of the attempts of one step, one after the other."""
    fake = fake_tool(price, sequence=[OSError("busy"), ValueError, {"price": 3}, 4])
    flow = order(retry=patient(3, 0))
    with lane.executor(tools=[fake, total], flows=[flow]) as executor:
        results = [lane.run(executor, "order", TEA) for _ in range(2)]
    assert [result.step("1").outputs for result in results] == [{"total": 12.0}, {"total": 16.0}]
    assert [(call.number, call.attempt, call.step_id) for call in fake.calls] == [
        (1, 1, "0"), (2, 2, "0"), (3, 3, "0"), (4, 1, "0"),
    ]  # fmt: skip
    assert [call.run_id for call in fake.calls] == [*[results[0].trace_id] * 3, results[1].trace_id]


def test_beyond_its_end_a_sequence_says_so_or_gives_what_is_returned_otherwise():
    """api.md: a call that nobody foresaw is no success."""
    ending = fake_tool(price, sequence=[1])
    ending.run({"article": "a"})
    with pytest.raises(AssertionError, match="the fake of 'price' has 1 outcomes, and this is call 2"):
        ending.run({"article": "a"})
    going_on = fake_tool(price, sequence=[1], returns=9)
    assert [going_on.run({"article": "a"}) for _ in range(3)] == [{"price": 1}, {"price": 9}, {"price": 9}]
    going_on.forget_calls()
    assert (going_on.call_count, going_on.run({"article": "a"})) == (0, {"price": 1})


@lanes
def test_a_side_effect_is_called_as_the_tool_would_be(lane: Lane) -> None:
    """R32: with the validated inputs, and with the context where it asks for one; sync or async."""
    seen: list[Any] = []

    def look(inputs: Any, context: ToolContext) -> float:
        seen.append((inputs.article, context.step_id, context.attempt))
        return 2.5

    async def count(inputs: Any) -> int:
        seen.append(inputs.article)
        return 7

    flow = Flow(name="both", description="", steps=[FlowStep(tool_name="price"), FlowStep(tool_name="stock")])
    fakes = [fake_tool(price, side_effect=look), fake_tool(stock, side_effect=count)]
    with lane.executor(tools=fakes, flows=[flow]) as executor:
        output = lane.run(executor, "both", {"article": "tea"}).raise_for_failure().final_output
    assert output == {"article": "tea", "price": 2.5, "stock": 7}
    assert seen == [("tea", "0", 1), "tea"]


def test_a_side_effect_without_an_answer_leaves_it_to_returns():
    """api.md: to look on, and give a fixed output all the same."""
    seen: list[Any] = []
    fake = fake_tool(price, side_effect=seen.append, returns=2.5)
    assert fake.run({"article": "tea"}) == {"price": 2.5}
    assert len(seen) == 1


@lanes
@pytest.mark.parametrize("asks", [True, False, None])
def test_a_fake_is_async_as_its_tool_or_as_asked(lane: Lane, asks: bool | None) -> None:
    """R26: sync and async on every lane."""
    for replaced in (price, stock):
        fake = fake_tool(replaced, returns=1, is_async=asks)
        assert fake.is_async is (replaced.is_async if asks is None else asks)
        flow = Flow(name="one", description="", steps=[FlowStep(tool_name=replaced.name)])
        with lane.executor(tools=[fake], flows=[flow]) as executor:
            assert lane.run(executor, "one", {"article": "tea"}).step("0").outputs == {replaced.name: 1}
        assert fake.call_count == 1


def test_a_fake_has_to_be_told_one_thing():
    """api.md: nothing is guessed."""
    with pytest.raises(ToolDefinitionError, match="nothing says what its fake gives"):
        fake_tool(price)
    with pytest.raises(ToolDefinitionError, match="its fake is told raises and sequence"):
        fake_tool(price, raises=OSError, sequence=[1])


def test_remembered_inputs_are_those_of_the_moment():
    """R36: what a tool changes later is not what it was called with; what cannot be copied is kept itself."""

    @tool
    def fill(rows: list, lock: Any) -> int:
        rows.append(1)
        return len(rows)

    spy = spy_on(fill)
    lock = threading.Lock()
    spy.run({"rows": [], "lock": None})
    spy.run({"rows": [], "lock": lock})
    assert spy.calls[0].inputs == {"rows": [], "lock": None}
    assert spy.calls[1].inputs["lock"] is lock


def test_calls_from_many_threads_are_all_remembered():
    """R40: one fake serves all runs; numbers are dense, and a sequence is dealt out once."""
    fake = fake_tool(price, sequence=range(200))
    got: list[float] = []

    def work() -> None:
        for _ in range(50):
            got.append(fake.run({"article": "tea"})["price"])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(200))
    assert [call.number for call in fake.calls] == list(range(1, 201))


@lanes
def test_a_spy_leaves_a_run_as_it_is(lane: Lane) -> None:
    """R14: values by identity, errors and traces are those of the tool itself."""
    made: list[object] = []

    @tool
    def make(n: int, context: ToolContext) -> Any:
        made.append([n, context.attempt])
        return made[-1]

    flow = Flow(name="f", description="", steps=[FlowStep(tool_name="make")])
    spy = spy_on(make)
    assert isinstance(spy, FakeTool)
    with lane.executor(tools=[spy], flows=[flow]) as executor:
        result = lane.run(executor, "f", {"n": 1})
    assert result.final_output is not None
    assert result.final_output["make"] is made[0]
    assert spy.calls[0].inputs == {"n": 1}
    assert made == [[1, 1]]


def test_a_fake_stays_what_it_was_made_as():
    """AGENTS: tools are replaced, never changed in place."""
    fake = fake_tool(price, returns=1)
    with pytest.raises(AttributeError, match="is fixed"):
        fake.name = "other"
    executor = FlowExecutor(tools=[price])
    assert executor.with_replaced_tools([fake]).get_tool("price") is fake
