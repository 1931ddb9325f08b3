"""The shape of a model as plain JSON: what its fingerprint is taken of.

Apart from the rest because it pulls in pydantic's JSON Schema generator, which only fingerprints need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

PROSE = frozenset({"title", "description", "examples", "deprecated"})
MODE: JsonSchemaMode = "validation"


class ShapeGenerator(GenerateJsonSchema):
    """JSON Schema that also has words for what JSON cannot express: classes checked by isinstance, callables."""

    # A default without a JSON form is described by its class instead of a warning.
    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - typed by the base class

    def handle_invalid_for_json_schema(self, schema: CoreSchema, error_info: str) -> JsonSchemaValue:
        """Describe the schema by its kind and class, where the base class would give up."""
        described: JsonSchemaValue = {"x-kind": schema["type"]}
        cls = schema.get("cls")
        if cls is not None:
            described["x-class"] = type_name(cls)
        return described

    def encode_default(self, dflt: Any) -> Any:
        """The default as JSON, sets in sorted order: their own order changes with the hash seed."""
        try:
            return super().encode_default(ordered(dflt))
        except Exception:
            # Pydantic lets any exception of a user's serializer through here; the class is all that is left to say.
            return {"x-default": type_name(type(dflt))}


def type_name(cls: object) -> str:
    """ "module:qualname" of a class or function; never an address.

    >>> type_name(dict)
    'builtins:dict'
    """
    if isinstance(cls, tuple):
        return "|".join(type_name(one) for one in cls)
    return f"{getattr(cls, '__module__', '?')}:{getattr(cls, '__qualname__', type(cls).__qualname__)}"


def ordered(value: Any) -> Any:
    """The value with every set in it replaced by a sorted list."""
    if isinstance(value, (set, frozenset)):
        return sorted((ordered(one) for one in value), key=repr)
    if isinstance(value, dict):
        return {key: ordered(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return [ordered(one) for one in value]
    return value


def canonical_shape(model: type[BaseModel]) -> Any:
    """The JSON Schema of a model without prose, or the names and types of its fields where there is no such schema."""
    from pydantic.errors import PydanticUserError

    try:
        schema = model.model_json_schema(mode=MODE, schema_generator=ShapeGenerator)
    except (PydanticUserError, TypeError, ValueError, KeyError):
        return described_fields(model)
    return without_prose(schema)


def without_prose(schema: Any, *, names: bool = False) -> Any:
    """The schema without titles and the like; below `properties` and `$defs` the keys are names, and all stay."""
    if isinstance(schema, list):
        return [without_prose(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if not names and key in PROSE:
            continue
        if not names and key in ("default", "const", "enum"):
            kept[key] = value
        elif not names and key == "required":
            kept[key] = sorted(value)
        else:
            kept[key] = without_prose(value, names=not names and key in ("properties", "$defs", "patternProperties"))
    return kept


def described_fields(model: type[BaseModel]) -> Any:
    """Name, type, need and default class of every field."""
    return [
        [name, described_type(field.annotation), field.is_required(), type_name(type(field.default))]
        for name, field in sorted(model.model_fields.items())
    ]


def described_type(annotation: object) -> Any:
    """An annotation as nested lists of names."""
    arguments = getattr(annotation, "__args__", ())
    if not arguments:
        return type_name(annotation) if isinstance(annotation, type) else str(type(annotation).__qualname__)
    return [type_name(getattr(annotation, "__origin__", annotation)), *map(described_type, arguments)]
