"""FlowBuilder and DAGFlow.from_tools: flows that are written shorter."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from pydantic import BaseModel, create_model

from chainweaver.exceptions import DAGDefinitionError, FlowBuilderError
from chainweaver.flow import DAGFlow, Flow, FlowBuilder, FlowStep, RetryPolicy


class Order(BaseModel):
    rows: list[int]


@dataclass
class Shape:
    name: str
    input_schema: type[BaseModel]
    output_schema: type[BaseModel]


def shape(name, reads, returns):
    return Shape(
        name,
        create_model(f"{name}_in", **dict.fromkeys(reads.split(), (int, ...))),
        create_model(f"{name}_out", **dict.fromkeys(returns.split(), (int, ...))),
    )


def dependencies(flow):
    return {step.step_id: step.depends_on for step in flow.steps}


def test_a_builder_writes_the_flow_that_one_would_write_by_hand():
    """api.md: FlowBuilder."""
    built = (
        FlowBuilder()
        .name("invoice")
        .description("Adds up.")
        .version("1.2")
        .with_trigger("an order came in")
        .with_input_schema(Order)
        .with_output_schema(Order)
        .step("load", path="file")
        .step("total", output_mapping={"sum": "total"}, rows="/order/rows", factor=2)
        .step_from(FlowStep(tool_name="send", retry=RetryPolicy(max_retries=1)))
        .build()
    )
    reference = f"{__name__}:Order"
    assert built == Flow(
        name="invoice",
        description="Adds up.",
        version="1.2",
        trigger_conditions="an order came in",
        input_schema_ref=reference,
        output_schema_ref=reference,
        steps=[
            FlowStep(tool_name="load", input_mapping={"path": "file"}),
            FlowStep(
                tool_name="total",
                input_mapping={"rows": "/order/rows", "factor": 2},
                output_mapping={"sum": "total"},
            ),
            FlowStep(tool_name="send", retry=RetryPolicy(max_retries=1)),
        ],
    )


def test_building_again_gives_a_flow_of_its_own():
    """api.md: repeatable."""
    builder = FlowBuilder("a", "b").step("t", rows=[1])
    first, second = builder.build(), builder.build()
    first.steps[0].input_mapping["rows"].append(2)
    assert second.steps[0].input_mapping == {"rows": [1]}
    assert len(builder.step("u").with_version("2.0").build().steps) == 2
    assert len(second.steps) == 1


@pytest.mark.parametrize(
    ("builder", "names"),
    [
        (FlowBuilder(), ["'name'", "'description'"]),
        (FlowBuilder("a"), ["'description'"]),
        (FlowBuilder(description="b"), ["'name'"]),
        (FlowBuilder("", "b"), ["'name'"]),
    ],
)
def test_a_builder_names_everything_that_is_missing(builder, names):
    """api.md: FlowBuilderError names 'name' / 'description'."""
    with pytest.raises(FlowBuilderError) as caught:
        builder.build()
    assert [name for name in ("'name'", "'description'") if name in caught.value.detail] == names


def test_tools_are_wired_by_the_names_of_their_fields():
    """api.md: DAGFlow.from_tools."""
    flow = DAGFlow.from_tools(
        "report",
        [shape("rank", "count size", "table"), shape("count", "files", "count"), shape("measure", "files", "size")],
        outputs=["table"],
    )
    assert dependencies(flow) == {"rank": ["count", "measure"], "count": [], "measure": []}
    assert (flow.name, flow.version, flow.outputs) == ("report", "0.1.0", ("table",))
    assert [step.tool_name for step in flow.steps] == ["rank", "count", "measure"]


def test_a_tool_that_returns_what_it_reads_does_not_feed_itself():
    """api.md: a field that no other tool returns is an input of the flow."""
    flow = DAGFlow.from_tools("f", [shape("clean", "text", "text"), shape("count", "text", "n")])
    assert dependencies(flow) == {"clean": [], "count": ["clean"]}


def test_a_field_with_several_sources_is_an_error_that_names_them_all():
    """api.md: ambiguity is never resolved by order."""
    tools = [shape("a", "x", "n m"), shape("b", "x", "n m"), shape("c", "n m", "out")]
    with pytest.raises(FlowBuilderError) as caught:
        DAGFlow.from_tools("f", tools)
    assert caught.value.detail == (
        "input 'n' of tool 'c' is returned by 'a', 'b'; input 'm' of tool 'c' is returned by 'a', 'b'"
    )


def test_tools_that_feed_each_other_are_a_cycle():
    """R15: cycle."""
    with pytest.raises(DAGDefinitionError, match="a -> b -> a"):
        DAGFlow.from_tools("f", [shape("a", "y", "x"), shape("b", "x", "y")])


def test_a_tool_may_be_given_once():
    """R15: duplicate_step_id."""
    with pytest.raises(DAGDefinitionError) as caught:
        DAGFlow.from_tools("f", [shape("a", "x", "y"), shape("a", "x", "y")])
    assert (caught.value.reason, caught.value.flow_name) == ("duplicate_step_id", "f")


def test_an_output_that_no_tool_returns_is_an_error():
    """api.md: outputs; with a did-you-mean."""
    with pytest.raises(FlowBuilderError) as caught:
        DAGFlow.from_tools("f", [shape("a", "x", "total")], outputs=["totl", "total"])
    assert caught.value.detail == "no tool returns output 'totl'"
    assert caught.value.fix == "did you mean 'total'?"
