"""Fields: what is known of a value from the fields that it feeds, and models made of that.

Types keep their constraints and their author's words. Called by the other files of this room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, create_model
from pydantic_core import core_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.fields import FieldInfo
    from pydantic.json_schema import JsonSchemaValue

    from chainweaver.compiler.models import InputField, ModelFacts

OPEN = ConfigDict(extra="allow", arbitrary_types_allowed=True)
CLOSED = ConfigDict(arbitrary_types_allowed=True)
"""Not closed in the sense of `forbid`: a flow takes keys that nobody reads, and ignores them."""


class LeftOut:
    """Stands for a value that nobody gave and that the flow has its own way of doing without."""

    def __repr__(self) -> str:
        return "<default>"


LEFT_OUT = LeftOut()


@dataclass(slots=True)
class Taken:
    """A context key that a flow takes from outside.

    Attributes:
        kinds: The types that its value has to fit: those of all fields that it feeds, without repeats.
        required: Some step fails without it.
        defaults: What its readers do without it, each a default or `LEFT_OUT`.
        description: As the first reader that has one describes it.
    """

    kinds: list[Any] = field(default_factory=list)
    required: bool = False
    defaults: list[Any] = field(default_factory=list)
    description: str | None = None


def info_of(model: ModelFacts | None, target: InputField | None) -> FieldInfo | None:
    """The field behind a key; None where it says nothing about the value there (`AliasPath`)."""
    if model is None or target is None or target.kind is Any:
        return None
    return model.model.model_fields[target.name]


def input_keys(facts: ModelFacts) -> dict[str, FieldInfo | None]:
    """The keys under which a model takes its fields, each with the field whose value lies there (None: another type).

    Of several names for one field this is the one that its JSON Schema shows.
    """
    found: dict[str, FieldInfo | None] = {}
    for field_name, info in facts.model.model_fields.items():
        alias = info.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        shown = next((one for one in choices if isinstance(one, str)), field_name)
        if shown in facts.accepted:
            found[shown] = info
        else:
            found.setdefault(next(one.key for one in facts.fields if one.name == field_name), None)
    return found


def field_at(model: ModelFacts, key: str) -> FieldInfo | None:
    """The field that a context key of this name feeds; None where there is none."""
    return next((info_of(model, one) for one in model.fields if one.key == key), None)


def description_of(info: FieldInfo | None) -> str | None:
    return None if info is None else info.description


def kind_of(info: FieldInfo | None) -> Any:
    """The type of a field with its constraints."""
    if info is None:
        return Any
    marks = list(info.metadata)
    if info.discriminator is not None:
        marks.append(Field(discriminator=info.discriminator))
    return annotated(info.annotation, marks)


def annotated(kind: Any, marks: list[Any]) -> Any:
    """`Annotated` of computed parts; the bare type where there is nothing to add."""
    make: Any = Annotated
    parts = (kind, *marks)
    return make[parts] if marks else kind


def fitting(kinds: list[Any]) -> Any:
    """The type of a value that feeds fields of these types."""
    if not kinds:
        return Any
    return kinds[0] if len(kinds) == 1 else Annotated[Any, EachOf(tuple(kinds))]


def default_of(info: FieldInfo | None) -> Any:
    """The default of a field; `LEFT_OUT` where there is none, or one that is made anew each time."""
    return LEFT_OUT if info is None or info.is_required() or info.default_factory is not None else info.default


def same(one: Any, other: Any) -> bool:
    """Whether two types or two defaults are equal, and of one class."""
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # a foreign __eq__ may raise anything, and arrays answer with arrays
        return one is other


# ---- models


def model_of(name: str, taken: Mapping[str, Taken], *, is_open: bool) -> type[BaseModel]:
    """A model of the keys that are taken, in their order.

    Args:
        is_open: Any other key is taken as well.
    """
    # Keys may be anything, field names may not.
    fields: dict[str, Any] = {f"field_{at}": _field_of(key, one) for at, (key, one) in enumerate(taken.items())}
    made: type[BaseModel] = create_model(name, __config__=OPEN if is_open else CLOSED, **fields)
    return made


def _field_of(key: str, taken: Taken) -> tuple[Any, Any]:
    kind = fitting(taken.kinds)
    if taken.required:
        return kind, Field(alias=key, description=taken.description)
    first, *others = taken.defaults
    if first is LEFT_OUT or not all(same(first, other) for other in others):
        return kind, Field(default_factory=lambda: LEFT_OUT, alias=key, description=taken.description)
    return kind, Field(default=first, alias=key, description=taken.description)


@dataclass(frozen=True)
class EachOf:
    """Marks a value that feeds several fields: it has to fit each of their types, as it was given."""

    kinds: tuple[Any, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Validate with one type after the other, and hand on the value itself."""
        return core_schema.chain_schema(
            [core_schema.no_info_wrap_validator_function(_as_given, handler.generate_schema(one)) for one in self.kinds]
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """All of their JSON Schemas at once."""
        assert schema["type"] == "chain", "as it was made above"
        return {"allOf": [handler(step) for step in schema["steps"]]}


def _as_given(value: Any, validate: Any) -> Any:
    validate(value)
    return value
