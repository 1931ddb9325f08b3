"""What a flow without an input schema takes: what its steps read from outside, and nothing else."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from chainweaver import (
    ConditionalEdge,
    DAGFlow,
    DAGFlowStep,
    Flow,
    FlowExecutor,
    FlowStep,
    Tool,
    literal,
    ref,
    template,
    tool,
)
from chainweaver.export import flow_to_openai_function
from chainweaver.tools.flow_tool import open_model


@tool
def fetch(url: Annotated[str, Field(description="Where it is.")], tries: int = 3) -> str:
    return url * tries


@tool(output="total")
def add(amounts: list[int], start: int = 0) -> int:
    return sum(amounts) + start


@tool(output="text")
def show(total: Annotated[int, Field(ge=0)], style: Literal["plain", "bold"]) -> str:
    return f"{style}{total}"


@tool(output="text")
def write(total: int, style: str) -> str:
    return f"{style}{total}"


@tool(output="size")
def measure(item: str, unit: str = "cm") -> str:
    return item + unit


TOOLS: list[Tool] = [fetch, add, show, write, measure]


def taken(*steps: FlowStep, flows: list[Any] | None = None, tools: list[Tool] = TOOLS, **facts: Any) -> dict[str, Any]:
    """The parameters of a flow of these steps."""
    kind = DAGFlow if isinstance(steps[0], DAGFlowStep) else Flow
    flow = kind(**{"name": "flow", "version": "1.0.0", "description": "", "steps": list(steps), **facts})
    executor = FlowExecutor(tools=tools, flows=flows or [])
    function = flow_to_openai_function(flow, executor)["function"]
    parameters: dict[str, Any] = function["parameters"]
    assert parameters.pop("type") == "object"
    return parameters


def test_the_fields_of_the_first_reader_are_the_parameters():
    """R6: an empty mapping reads every key that the input model names; defaults are told, constraints kept."""
    assert taken(FlowStep(tool_name="fetch")) == {
        "properties": {
            "url": {"description": "Where it is.", "type": "string"},
            "tries": {"default": 3, "type": "integer"},
        },
        "required": ["url"],
    }


def test_what_an_earlier_step_writes_is_not_asked_for():
    """R3: a step sees the outputs of the steps of earlier levels."""
    parameters = taken(FlowStep(tool_name="add"), FlowStep(tool_name="show"))

    assert list(parameters["properties"]) == ["amounts", "start", "style"]
    assert parameters["required"] == ["amounts", "style"]


def test_what_a_sibling_writes_is_asked_for():
    """R3: steps of one level do not see each other."""
    steps = [DAGFlowStep(step_id="a", tool_name="add"), DAGFlowStep(step_id="s", tool_name="show")]
    waiting = DAGFlowStep(step_id="s", tool_name="show", depends_on=["a"])

    assert "total" in taken(*steps)["required"]
    assert "total" not in taken(steps[0], waiting)["properties"]


def test_mapped_keys_have_the_types_of_the_fields_that_they_feed():
    """R6: keys, templates that are one reference, and defaults."""
    mapping = {"url": "address", "tries": ref("attempts", default=5)}
    parameters = taken(FlowStep(tool_name="fetch", input_mapping=mapping))

    assert parameters == {
        "properties": {
            "address": {"description": "Where it is.", "type": "string"},
            "attempts": {"default": 5, "type": "integer"},
        },
        "required": ["address"],
    }
    alone = taken(FlowStep(tool_name="fetch", input_mapping={"url": "u", "tries": template("${n}")}))
    assert alone["properties"]["n"] == {"type": "integer"}


def test_literals_ask_for_nothing_and_parts_of_values_for_a_key_of_unknown_type():
    """R6: what is read inside a value, or put into a text, says nothing about the type of the value."""
    mapping = {"url": template("http://${host}/${user.name}"), "tries": "/limits/tries"}
    parameters = taken(
        FlowStep(tool_name="fetch", input_mapping=mapping),
        FlowStep(tool_name="show", input_mapping={"total": 1, "style": literal("bold")}),
    )

    assert parameters == {"properties": {"host": {}, "user": {}, "limits": {}}, "required": ["host", "user", "limits"]}


def test_a_key_that_feeds_several_fields_has_to_fit_them_all():
    """Export: what a model gives must not fail the second reader."""
    parameters = taken(
        FlowStep(tool_name="show"),
        FlowStep(tool_name="write"),
        FlowStep(tool_name="write"),
    )

    assert parameters["properties"]["total"] == {"allOf": [{"minimum": 0, "type": "integer"}, {"type": "integer"}]}


def test_a_key_that_one_reader_needs_is_required_whatever_the_others_do_without():
    """Export: the strictest reader decides."""
    needing = FlowStep(tool_name="add", input_mapping={"amounts": "amounts", "start": "tries"})

    assert taken(FlowStep(tool_name="fetch"), needing)["required"] == ["url", "tries", "amounts"]


@pytest.mark.parametrize(
    "steps",
    [
        [FlowStep(tool_name="add", on_error="skip"), FlowStep(tool_name="show")],
        [FlowStep(tool_name="add", on_error="fallback:measure"), FlowStep(tool_name="show")],
        [
            DAGFlowStep(
                step_id="start",
                tool_name="fetch",
                branches=[ConditionalEdge(target_step_id="a", predicate="tries > 1")],
                default_next="s",
            ),
            DAGFlowStep(step_id="a", tool_name="add", depends_on=["start"]),
            DAGFlowStep(step_id="s", tool_name="show", depends_on=["start", "a"]),
        ],
    ],
    ids=["skipped", "fallback", "branch"],
)
def test_what_an_earlier_step_may_have_written_may_be_left_out(steps: list[FlowStep]):
    """R3: the initial context is the last resort, where the writer was skipped, replaced or passed over."""
    parameters = taken(*steps)

    assert parameters["properties"]["total"] == {"minimum": 0, "type": "integer"}
    assert "total" not in parameters["required"]


def test_a_predicate_asks_for_what_its_step_does_not_write():
    """R24: its own outputs first, then what the step has seen."""
    first = DAGFlowStep(
        step_id="a",
        tool_name="add",
        branches=[ConditionalEdge(target_step_id="s", predicate="total > limit and region in ('EU',)")],
    )
    parameters = taken(first, DAGFlowStep(step_id="s", tool_name="show", depends_on=["a"]))

    assert list(parameters["properties"]) == ["amounts", "start", "limit", "region", "style"]
    assert parameters["required"] == ["amounts", "limit", "region", "style"]


def test_dynamic_parameters_are_never_offered():
    """R13: they come from the caller of the flow, and no model sees them."""
    assert list(taken(FlowStep(tool_name="fetch"), dynamic_params=("url",))["properties"]) == ["tries"]


def test_an_output_that_no_step_writes_comes_from_outside():
    """R13: the flow names it as part of its final output."""
    parameters = taken(FlowStep(tool_name="add"), outputs=("total", "ticket"))

    assert parameters["required"] == ["amounts", "ticket"]


def test_a_decision_asks_for_what_all_candidates_need():
    """R26: which of them is called is decided while the flow runs."""
    parameters = taken(FlowStep(tool_name="show", decision_candidates=["show", "measure"]))

    assert list(parameters["properties"]) == ["total", "style", "item", "unit"]
    assert "required" not in parameters


def test_a_map_takes_a_list_of_what_its_tool_takes():
    """R28: the item itself is no key of the context."""
    named = taken(FlowStep(tool_name="measure", map_over="things"))
    mapped = taken(FlowStep(tool_name="fetch", map_over="links", map_as="one", input_mapping={"url": "one"}))

    assert named["properties"]["things"] == {"type": "array", "items": {"type": "string"}}
    assert (list(named["properties"]), named["required"]) == (["unit", "things"], ["things"])
    assert mapped == {"properties": {"links": {"type": "array", "items": {"type": "string"}}}, "required": ["links"]}


def test_a_sub_flow_takes_what_its_own_steps_take():
    """R27: inputs by mapping, or every key that its steps take from the initial context."""
    child = Flow(name="child", description="", steps=[FlowStep(tool_name="add"), FlowStep(tool_name="show")])

    named = taken(FlowStep(flow_name="child"), flows=[child])
    mapped = taken(
        FlowStep(flow_name="child", input_mapping={"amounts": "prices", "style": literal("bold")}),
        FlowStep(tool_name="fetch", input_mapping={"url": "text"}),
        flows=[child],
    )

    assert named["required"] == ["amounts", "style"]
    assert named["properties"]["style"] == {"enum": ["plain", "bold"], "type": "string"}
    assert mapped == {
        "properties": {"prices": {"type": "array", "items": {"type": "integer"}}},
        "required": ["prices"],
    }


def test_a_join_of_all_ways_is_sure_to_run():
    """R24: one of the ways out is taken, so that what comes after all of them has run before whatever follows it."""
    asked = DAGFlowStep(
        step_id="asked",
        tool_name="fetch",
        branches=[ConditionalEdge(target_step_id="a", predicate="tries > 1")],
        default_next="b",
    )
    ways = [
        DAGFlowStep(step_id=name, tool_name="measure", depends_on=["asked"], output_mapping={name: "size"})
        for name in ("a", "b")
    ]
    join = DAGFlowStep(step_id="join", tool_name="add", depends_on=["a", "b"])
    after = DAGFlowStep(step_id="after", tool_name="write", depends_on=["join"])

    assert "total" not in taken(asked, *ways, join, after)["properties"]


def test_what_a_sub_flow_takes_it_does_not_hand_back():
    """R27: a sub-flow without outputs gives what its steps write, so that its inputs are nobody else's."""
    child = Flow(name="child", description="", steps=[FlowStep(tool_name="fetch")])

    found = taken(
        FlowStep(flow_name="child", input_mapping={"url": "link"}),
        FlowStep(tool_name="fetch"),
        flows=[child],
    )

    assert found["required"] == ["link", "url"]


@pytest.mark.parametrize(
    "step",
    [
        FlowStep(tool_name="nobody"),
        FlowStep(tool_name="anything"),
        FlowStep(flow_name="nowhere"),
        FlowStep(flow_name="flow"),
        DAGFlowStep(step_id="c", step_type="capability", capability_id="human"),
    ],
    ids=["unknown tool", "open tool", "unknown flow", "itself", "capability"],
)
def test_what_cannot_be_known_makes_an_open_object(step: FlowStep):
    """Export: rather too much than a parameter that nobody can give."""
    anything = Tool(
        name="anything", description="", input_schema=open_model("a"), output_schema=open_model("b"), fn=dict
    )
    itself = Flow(name="flow", version="1.0.0", description="", steps=[step] if type(step) is FlowStep else [])

    assert taken(step, tools=[anything], flows=[itself]) == {"properties": {}, "additionalProperties": True}


def test_after_an_open_step_nothing_is_certain():
    """R3: a step with open outputs may have written every key."""
    anything = Tool(
        name="anything", description="", input_schema=open_model("a"), output_schema=open_model("b"), fn=dict
    )
    parameters = taken(FlowStep(tool_name="anything"), FlowStep(tool_name="show"), tools=[anything, show])

    assert list(parameters["properties"]) == ["total", "style"]
    assert "required" not in parameters


def test_without_an_executor_nobody_knows_the_tools():
    """Export: keys that a mapping names may be outputs of earlier steps."""
    flow = Flow(name="flow", description="", steps=[FlowStep(tool_name="add")])

    assert flow_to_openai_function(flow)["function"]["parameters"] == {
        "type": "object",
        "properties": {},
        "additionalProperties": True,
    }


class Request(BaseModel):
    """What the flow wants."""

    amounts: list[int]
    token: str = ""


def test_the_input_schema_of_a_flow_is_what_it_takes():
    """R8: the flow's own word counts, and no executor is needed."""
    flow = Flow(
        name="flow",
        description="",
        steps=[FlowStep(tool_name="show")],
        input_schema_ref=Flow.schema_ref_from(Request),
        dynamic_params=("token",),
    )

    assert flow_to_openai_function(flow)["function"]["parameters"] == {
        "type": "object",
        "description": "What the flow wants.",
        "properties": {"amounts": {"type": "array", "items": {"type": "integer"}}},
        "required": ["amounts"],
    }
