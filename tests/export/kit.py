"""What the tests of the exports share: models of every kind, values made from a JSON Schema, a judge of strict ones."""

from __future__ import annotations

import enum
from datetime import date
from typing import Annotated, Any, Literal

import jsonschema
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from typing_extensions import NotRequired, TypedDict

from chainweaver import Tool


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Line(BaseModel):
    """One line of an order."""

    sku: str = Field(pattern="^[A-Z]{2}[0-9]+$", description="Stock number.")
    count: int = Field(1, ge=1, le=99)


class Order(BaseModel):
    customer: str = Field(min_length=1, max_length=20, description="Who ordered.")
    lines: list[Line] = Field(min_length=1, max_length=3)
    urgent: bool = False
    colour: Colour | None = None
    note: str | None = None


class Folder(BaseModel):
    name: str
    inside: list[Folder] = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str] = []


class Pets(BaseModel):
    pet: Cat | Dog = Field(discriminator="kind")
    other: Annotated[Cat | Dog, Field(discriminator="kind", description="Another one.")] | None = None


class Window(TypedDict):
    since: date
    until: NotRequired[date]


class Query(BaseModel):
    model_config = ConfigDict(extra="forbid")

    window: Window
    share: float = Field(0.5, gt=0, lt=1)
    mode: Literal["fast", "exact", 3] = "fast"
    identity: int | str
    from_: str = Field("home", alias="from")


class Bag(BaseModel):
    model_config = ConfigDict(extra="allow")

    counts: dict[str, int] = {}
    pair: tuple[int, str]
    anything: Any = None
    password: SecretStr = SecretStr("hush")


STRICT_MODELS = [Order, Folder, Pets, Query]
MODELS = [*STRICT_MODELS, Bag]


def tool_of(model: type[BaseModel], name: str = "take") -> Tool:
    """A tool that takes the model and says which fields it was given."""
    return Tool(
        name=name,
        description=f"Takes {model.__name__}.",
        input_schema=model,
        output_schema=Given,
        fn=lambda inputs: {"given": sorted(inputs.model_fields_set)},
    )


class Given(BaseModel):
    given: list[str]


def is_valid(schema: dict[str, Any], value: Any) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(value)


TEXTS = st.sampled_from(["", "red", "AB1", "cat", "9"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 100) | st.floats(-1, 1) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)


def values_of(schema: dict[str, Any], definitions: dict[str, Any] | None = None, depth: int = 0) -> st.SearchStrategy:
    """JSON values that fit a schema, of the keywords that the models above lead to."""
    definitions = schema.get("$defs", {}) if definitions is None else definitions
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        return st.deferred(lambda: values_of(definitions[name], definitions, depth + 1))
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return st.one_of([values_of(one, definitions, depth) for one in schema[word]])
    if "allOf" in schema:
        first, *others = schema["allOf"]
        return values_of(first, definitions, depth).filter(lambda value: all(is_valid(one, value) for one in others))
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if kind == "object":
        return objects_of(schema, definitions, depth)
    if kind == "array":
        return arrays_of(schema, definitions, depth)
    return scalars_of(schema)


def objects_of(schema: dict[str, Any], definitions: dict[str, Any], depth: int) -> st.SearchStrategy:
    properties = {key: values_of(one, definitions, depth) for key, one in schema.get("properties", {}).items()}
    required = {key: one for key, one in properties.items() if key in schema.get("required", ())}
    optional = {key: one for key, one in properties.items() if key not in required}
    named = st.fixed_dictionaries(required, optional=optional)
    more = schema.get("additionalProperties", False)
    if not more:
        return named
    values = JSON if more is True else values_of(more, definitions, depth)
    others = st.dictionaries(st.sampled_from(["extra", "more"]), values, max_size=2)
    return st.builds(lambda some, rest: {**rest, **some}, named, others)


def arrays_of(schema: dict[str, Any], definitions: dict[str, Any], depth: int) -> st.SearchStrategy:
    if "prefixItems" in schema:
        return st.tuples(*(values_of(one, definitions, depth) for one in schema["prefixItems"])).map(list)
    least = schema.get("minItems", 0)
    most = least if depth > 2 else schema.get("maxItems", 3)
    return st.lists(values_of(schema["items"], definitions, depth), min_size=least, max_size=most)


def scalars_of(schema: dict[str, Any]) -> st.SearchStrategy:
    kind = schema.get("type")
    if kind == "string":
        if "pattern" in schema:
            return st.from_regex(schema["pattern"], fullmatch=True).map(str.strip)
        if schema.get("format") == "date":
            return st.dates().map(date.isoformat)
        return st.text(min_size=schema.get("minLength", 0), max_size=schema.get("maxLength", 5))
    if kind == "integer":
        return st.integers(schema.get("minimum", -9), schema.get("maximum", 9))
    if kind == "number":
        low, high = schema.get("exclusiveMinimum", -9), schema.get("exclusiveMaximum", 9)
        return st.floats(low, high, exclude_min=True, exclude_max=True)
    return {"boolean": st.booleans(), "null": st.none(), None: JSON}[kind]


KNOWN_TO_STRICT = frozenset(
    (
        *("type", "description", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "const"),
        *("$ref", "$defs", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
        *("multipleOf", "minItems", "maxItems"),
    )
)


def strict_faults(schema: dict[str, Any], place: str = "top") -> list[str]:
    """What OpenAI's strict mode would refuse, as its documentation says."""
    found = [f"{place}: {word}" for word in schema if word not in KNOWN_TO_STRICT]
    if "$ref" in schema and len(schema.keys() - {"$defs"}) > 1:
        found.append(f"{place}: words beside $ref")
    if not schema.keys() & {"type", "anyOf", "$ref", "enum", "const"}:
        found.append(f"{place}: anything goes")
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            found.append(f"{place}: open")
        if schema.get("required") != list(schema.get("properties", {})):
            found.append(f"{place}: not all required")
    inner = {**schema.get("properties", {}), **schema.get("$defs", {})}
    inner.update({f"choice {at}": one for at, one in enumerate(schema.get("anyOf", ()))})
    if "items" in schema:
        inner["items"] = schema["items"]
    return found + [fault for key, one in inner.items() for fault in strict_faults(one, f"{place}.{key}")]
