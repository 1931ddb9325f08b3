"""The parameters of exported tools: what the schema lets through, the tool takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings, strategies as st
from pydantic import AliasChoices, AliasPath, BaseModel, Field, RootModel, SecretStr, computed_field

from chainweaver import ExportError, Native, tool
from chainweaver.export import tool_to_anthropic_tool, tool_to_openai_function
from tests.export.kit import (
    JSON,
    MODELS,
    STRICT_MODELS,
    Bag,
    Folder,
    Order,
    Query,
    is_valid,
    strict_faults,
    tool_of,
    values_of,
)

EXAMPLES = settings(max_examples=30, deadline=None)


def parameters(model: type[BaseModel], *, strict: bool = False) -> dict[str, Any]:
    function = tool_to_openai_function(tool_of(model), strict=strict)["function"]
    schema: dict[str, Any] = function["parameters"]
    return schema


@pytest.mark.parametrize("model", MODELS)
@EXAMPLES
@given(data=st.data())
def test_what_the_schema_lets_through_the_tool_takes(model: type[BaseModel], data: st.DataObject):
    """Export: a model that obeys the schema is never refused by the tool."""
    schema = parameters(model)
    value = data.draw(values_of(schema))
    if data.draw(st.booleans()):
        value = {**value, data.draw(st.sampled_from([*schema["properties"], "extra"])): data.draw(JSON)}
    if is_valid(schema, value):
        assert set(tool_of(model).run(value)) == {"given"}


@pytest.mark.parametrize("model", MODELS)
@EXAMPLES
@given(data=st.data())
def test_what_the_tool_has_taken_the_schema_lets_through(model: type[BaseModel], data: st.DataObject):
    """Export: the schema keeps no value out that the tool works with."""
    schema = parameters(model)
    instance = model.model_validate(data.draw(values_of(schema)))
    written = json.loads(instance.model_dump_json(by_alias=True))

    jsonschema.Draft202012Validator(schema).validate(written)


@pytest.mark.parametrize("model", STRICT_MODELS)
@EXAMPLES
@given(data=st.data())
def test_what_a_strict_schema_lets_through_the_tool_takes(model: type[BaseModel], data: st.DataObject):
    """Export: strict mode narrows, so that what it lets through fits the open schema and the tool."""
    closed, opened = parameters(model, strict=True), parameters(model)
    # Lengths of texts are told in words only.
    value = data.draw(values_of(closed).filter(lambda value: is_valid(opened, value)))

    assert set(tool_of(model).run(value)) == {"given"}


@pytest.mark.parametrize("model", STRICT_MODELS)
def test_a_strict_schema_holds_nothing_that_strict_mode_refuses(model: type[BaseModel]):
    """Export: closed objects, everything required, known keywords only."""
    assert strict_faults(parameters(model)) != []
    assert strict_faults(parameters(model, strict=True)) == []


@pytest.mark.parametrize("model", MODELS)
def test_schemas_are_objects_of_draft_2020_12(model: type[BaseModel]):
    """Export: both vendors want an object at the top, and neither a reference nor a choice."""
    for schema in (parameters(model), tool_to_anthropic_tool(tool_of(model))["input_schema"]):
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object"
        assert not schema.keys() & {"$ref", "anyOf", "oneOf", "allOf", "title"}


def test_a_model_that_contains_itself_is_written_out_once_at_the_top():
    """Export: definitions stay where something points to them."""
    schema = parameters(Folder)

    assert list(schema["properties"]) == ["name", "inside"]
    assert schema["properties"]["inside"]["items"] == {"$ref": "#/$defs/Folder"}
    assert "title" not in schema["$defs"]["Folder"]


def test_descriptions_and_limits_of_fields_are_kept():
    """Export: what the author wrote at a field is what the model reads."""
    schema = parameters(Order)

    assert schema["properties"]["customer"] == {
        "description": "Who ordered.",
        "maxLength": 20,
        "minLength": 1,
        "type": "string",
    }
    assert schema["$defs"]["Line"]["description"] == "One line of an order."
    assert schema["required"] == ["customer", "lines"]


def test_strict_mode_tells_in_words_what_it_cannot_enforce():
    """Export: defaults and lengths are no keywords of strict mode."""
    schema = parameters(Order, strict=True)

    assert schema["properties"]["customer"]["description"] == "Who ordered. minLength: 1. maxLength: 20."
    assert schema["properties"]["urgent"] == {"description": "Default: false.", "type": "boolean"}
    assert schema["required"] == ["customer", "lines", "urgent", "colour", "note"]


def test_a_field_is_shown_under_the_name_that_validation_reads():
    """Export: an alias is the key of the arguments."""
    assert "from" in parameters(Query)["properties"]
    assert tool_of(Query).run({"window": {"since": "2024-01-01"}, "identity": 1, "from": "x"})["given"] == [
        "from_",
        "identity",
        "window",
    ]


def test_the_default_of_a_secret_is_never_shown():
    """R39: neither the secret nor the stars that stand for it, which a model might send back."""
    text = json.dumps(parameters(Bag))

    assert "hush" not in text
    assert "***" not in text
    assert parameters(Bag)["properties"]["password"]["type"] == "string"


def test_a_secret_inside_the_default_of_another_field_is_not_shown_either():
    """R39: a default is shown as a whole or not at all."""

    class Login(BaseModel):
        user: str = "ada"
        password: SecretStr = SecretStr("hush")

    class Site(BaseModel):
        login: Login = Login()

    assert "default" not in parameters(Site)["properties"]["login"]
    assert "***" not in json.dumps(parameters(Site))


def test_excluded_fields_are_inputs_and_computed_ones_are_not():
    """Export: what a caller gives is not what a model writes."""

    class Area(BaseModel):
        width: int
        hidden: int = Field(0, exclude=True)

        @computed_field
        def double(self) -> int:
            return 2 * self.width

    assert list(parameters(Area)["properties"]) == ["width", "hidden"]


class Table:
    """Knows nothing of JSON."""


def test_a_field_without_a_form_in_json_is_left_out_when_it_may_be():
    """Export: nobody can give it, and the tool does without."""

    @tool
    def show(rows: int, table: Table | None = None, then: Callable[[], int] = int) -> int:
        return rows

    schema = tool_to_openai_function(show)["function"]["parameters"]

    assert schema["properties"]["rows"] == {"type": "integer"}
    assert "then" not in schema["properties"]
    assert show.run({"rows": 1, "table": None}) == {"show": 1}


def test_a_field_without_a_form_in_json_is_named_when_it_has_to_be_given():
    """Export: a tool that nobody could call is not offered."""

    class Inner(BaseModel):
        model_config = {"arbitrary_types_allowed": True}
        table: Table

    class Outer(BaseModel):
        inner: Inner

    with pytest.raises(ExportError) as caught:
        parameters(Outer)
    assert caught.value.sentence.startswith("Tool 'take' cannot become an OpenAI function: field 'table' has no form")
    assert "Table" in caught.value.sentence


def test_an_object_that_passes_untouched_is_offered_where_json_has_its_type():
    """Export: `Native[list[int]]` is an array of integers to everybody outside."""

    @tool
    def add(numbers: Native[list[int]]) -> int:
        return sum(numbers)

    schema = tool_to_openai_function(add)["function"]["parameters"]

    assert schema["properties"]["numbers"] == {"type": "array", "items": {"type": "integer"}}


def test_the_context_of_a_tool_is_no_parameter():
    """R32: the run fills it in."""
    from chainweaver import ToolContext

    @tool
    def send(text: str, context: ToolContext) -> str:
        return text

    assert list(tool_to_openai_function(send)["function"]["parameters"]["properties"]) == ["text"]


def test_an_input_that_is_no_object_is_refused():
    """Export: arguments have names."""

    class Numbers(RootModel[list[int]]):
        pass

    class Either(RootModel[Order | Folder]):
        pass

    for model in (Numbers, Either):
        with pytest.raises(ExportError, match="is no plain object"):
            parameters(model)


def test_a_field_that_is_read_from_inside_another_value_needs_a_name_of_its_own():
    """Export: the schema of Pydantic would show a name under which nothing is read."""

    class Deep(BaseModel):
        user: int = Field(validation_alias=AliasPath("account", "id"))

    class Both(BaseModel):
        user: int = Field(validation_alias=AliasChoices("user_id", AliasPath("account", "id")))

    with pytest.raises(ExportError, match="'user' is read from inside another value"):
        parameters(Deep)
    assert list(parameters(Both)["properties"]) == ["user_id"]


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (Any, "'x' may be anything"),
        (dict[str, int], "'x' may have any keys"),
        (tuple[int, str], "'x' is a tuple"),
        (list[dict[str, int]], "'x[]' may have any keys"),
        (list, "'x[]' may be anything"),
    ],
)
def test_strict_mode_refuses_what_it_cannot_close(annotation: Any, said: str):
    """Export: the place is named, and what to do."""
    from pydantic import create_model

    model = create_model("Loose", x=(annotation, ...))

    with pytest.raises(ExportError) as caught:
        parameters(model, strict=True)
    assert said in caught.value.sentence
    assert "strict=False" in str(caught.value)
    assert "x" in parameters(model)["properties"]


def test_strict_mode_leaves_out_definitions_that_nothing_points_to_any_more():
    """Export: what is written out in place is not written twice."""

    class Unit(BaseModel):
        name: str

    class Amount(BaseModel):
        unit: Unit = Field(description="What is counted.")

    schema = parameters(Amount, strict=True)

    assert "$defs" not in schema
    assert schema["properties"]["unit"]["description"] == "What is counted."
    assert schema["properties"]["unit"]["required"] == ["name"]


def test_strict_mode_points_to_what_contains_itself():
    """Export: a definition that is written out where it is described still ends."""

    class Part(BaseModel):
        parts: list[Part] = []
        main: Part | None = Field(None, description="The one that counts.")

    class Machine(BaseModel):
        root: Part = Field(description="The outermost part.")

    schema = parameters(Machine, strict=True)

    assert strict_faults(schema) == []
    assert schema["properties"]["root"]["properties"]["parts"]["items"] == {"$ref": "#/$defs/Part"}
    assert list(schema["$defs"]) == ["Part"]
