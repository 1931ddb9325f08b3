"""The dictionaries around the parameters: names, descriptions, versions, refusals."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field

from chainweaver import ExportError, Flow, FlowExecutor, FlowNotFoundError, FlowStep, SchemaRefPolicyError, Tool, tool
from chainweaver.export import (
    flow_to_anthropic_tool,
    flow_to_openai_function,
    tool_to_anthropic_tool,
    tool_to_openai_function,
)


@tool
def double(n: int) -> int:
    """Twice a number."""
    return 2 * n


def twice(**facts: Any) -> Flow:
    facts = {"name": "twice", "description": "Doubles a number.", "steps": [FlowStep(tool_name="double")], **facts}
    return Flow(**facts)


PARAMETERS = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def test_a_flow_is_an_entry_of_the_tools_of_a_request():
    """Export: the two shapes that the vendors document."""
    executor = FlowExecutor(tools=[double], flows=[twice()])

    assert flow_to_openai_function("twice", executor) == {
        "type": "function",
        "function": {"name": "twice", "description": "Doubles a number.", "parameters": PARAMETERS},
    }
    assert flow_to_anthropic_tool("twice", executor) == {
        "name": "twice",
        "description": "Doubles a number.",
        "input_schema": PARAMETERS,
    }


def test_a_tool_is_an_entry_of_the_tools_of_a_request():
    """Export: as a flow is."""
    described = {"name": "double", "description": "Twice a number."}

    assert tool_to_openai_function(double) == {
        "type": "function",
        "function": {**described, "parameters": PARAMETERS},
    }
    assert tool_to_anthropic_tool(double) == {**described, "input_schema": PARAMETERS}


def test_strict_mode_is_said_in_the_function():
    """Export: OpenAI looks for it beside the parameters."""
    function = tool_to_openai_function(double, strict=True)["function"]

    assert function["strict"] is True
    assert function["parameters"] == {**PARAMETERS, "additionalProperties": False}
    assert "strict" not in tool_to_openai_function(double)["function"]


def test_when_to_use_a_flow_is_part_of_its_description():
    """Export: a model chooses by what it reads."""
    flow = twice(trigger_conditions="A number is too small.")

    assert flow_to_anthropic_tool(flow)["description"] == "Doubles a number.\n\nWhen to use: A number is too small."
    assert flow_to_anthropic_tool(flow, description="Other words.")["description"] == "Other words."


def test_a_long_description_is_cut_between_words_where_the_vendor_has_a_limit():
    """Export: OpenAI refuses more than 1024 characters, Anthropic takes them."""
    words = "word " * 300
    cut = flow_to_openai_function(twice(description=words))["function"]["description"]

    assert len(cut) <= 1024
    assert cut.endswith("word ...")
    assert flow_to_anthropic_tool(twice(description=words))["description"] == words
    assert len(flow_to_openai_function(twice(description="x" * 2000))["function"]["description"]) <= 1024


def test_a_flow_by_name_is_the_highest_version_unless_one_is_asked_for():
    """R15: as a run would find it."""
    executor = FlowExecutor(tools=[double], flows=[twice(version="1.0"), twice(version="2.0", description="Again.")])

    assert flow_to_anthropic_tool("twice", executor)["description"] == "Again."
    assert flow_to_anthropic_tool("twice", executor, version="1.0")["description"] == "Doubles a number."
    with pytest.raises(FlowNotFoundError):
        flow_to_anthropic_tool("twice", executor, version="3.0")


def test_misuse_is_told_at_once():
    """Export: a name without an executor, a thing that is no flow, a version that the given flow does not have."""
    with pytest.raises(TypeError, match="the executor that knows it is needed"):
        flow_to_openai_function("twice")
    with pytest.raises(TypeError, match="not FunctionTool"):
        flow_to_openai_function(double)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not in version 9"):
        flow_to_openai_function(twice(), version="9")


def test_a_flow_that_nobody_registered_can_be_exported():
    """Export: the executor only lends its tools."""
    assert flow_to_anthropic_tool(twice(), FlowExecutor(tools=[double]))["input_schema"] == PARAMETERS


class Secretive(BaseModel):
    n: int
    token: str = Field(description="Never to be seen.")


def test_an_input_schema_that_requires_a_dynamic_parameter_is_refused():
    """R13: no model is asked for a value that no record may show."""
    flow = twice(input_schema_ref=Flow.schema_ref_from(Secretive), dynamic_params=("token",))

    with pytest.raises(ExportError, match="requires 'token', which is a dynamic parameter"):
        flow_to_openai_function(flow)


def test_an_input_schema_that_cannot_be_found_says_so():
    """R16: a reference is resolved when it is needed."""
    with pytest.raises(SchemaRefPolicyError):
        flow_to_openai_function(twice(input_schema_ref="tests.export.test_dictionaries:Nothing"))


def test_anthropic_takes_fewer_names_of_inputs():
    """Export: keys of other characters are refused there, and a fix is told."""
    flow = twice(steps=[FlowStep(tool_name="double", input_mapping={"n": "the number"})])
    executor = FlowExecutor(tools=[double])

    with pytest.raises(ExportError, match="input 'the number' has a name of other characters"):
        flow_to_anthropic_tool(flow, executor)
    assert flow_to_openai_function(flow, executor)["function"]["parameters"]["required"] == ["the number"]


def test_a_tool_that_runs_a_flow_is_exported_like_any_other():
    """R27: what was a recipe is one step, and one tool."""
    flow = twice(input_schema_ref=Flow.schema_ref_from(Number))
    standing = Tool.from_flow(flow, FlowExecutor(tools=[double], flows=[flow]))

    assert tool_to_anthropic_tool(standing)["input_schema"] == PARAMETERS


def test_a_flow_as_a_tool_takes_what_its_dictionary_says():
    """R27: without an input schema, what its steps read; in a map an item does not get the whole context."""

    @tool
    def label(n: int, unit: str = "kg") -> str:
        return f"{n} {unit}"

    flow = Flow(name="labelled", description="d", steps=[FlowStep(tool_name="label")])
    executor = FlowExecutor(tools=[label], flows=[flow])
    standing = Tool.from_flow(flow, executor)
    parameters = flow_to_anthropic_tool(flow, executor)["input_schema"]
    assert tool_to_anthropic_tool(standing)["input_schema"] == parameters
    assert set(parameters["properties"]) == {"n", "unit"}

    seen = []
    spied = Tool.from_flow(flow, Spied(executor, seen))
    each = Flow(name="each", description="d", steps=[FlowStep(tool_name="labelled", map_over="ns", map_as="n")])
    result = FlowExecutor(tools=[spied], flows=[each]).execute_flow("each", {"ns": [1, 2], "secret": "s"})
    assert seen == [{"n": 1}, {"n": 2}]
    assert result.raise_for_failure().final_output == {"ns": [1, 2], "secret": "s", "label": ["1 kg", "2 kg"]}


class Spied:
    """An executor that notes what it is given."""

    def __init__(self, executor: FlowExecutor, seen: list[Any]) -> None:
        self.registered_tools, self.registry = executor.registered_tools, executor.registry
        self._executor, self._seen = executor, seen

    def execute_flow(self, name: str, initial_input: dict[str, Any], *, version: str | None = None) -> Any:
        self._seen.append(initial_input)
        return self._executor.execute_flow(name, initial_input, version=version)


class Number(BaseModel):
    n: int
