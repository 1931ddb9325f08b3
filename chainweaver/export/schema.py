"""The parameters of a tool as JSON Schema: made by Pydantic from the input model, then put into the form vendors take.

The form: one object at the top with its properties, `$defs` for what is used several times or contains itself (both
vendors read it). What a caller cannot give is left out, secrets lose their defaults. Called by `dictionaries`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticOmit, PydanticSerializationError

from chainweaver.compiler.models import ModelFacts
from chainweaver.exceptions import ExportError

MASK = "**********"
"""How Pydantic writes a secret."""

DEFS = "#/$defs/"
_NOT_AT_THE_TOP = ("anyOf", "oneOf", "allOf", "not", "enum", "if")


def parameters_of(model: type[BaseModel], subject: str, target: str, hidden: Collection[str] = ()) -> dict[str, Any]:
    """The JSON Schema of what a model takes: an object at the top, whose properties are its input keys.

    Args:
        model: The input model.
        subject: Whose input it is, for messages: "tool 'fetch'".
        target: What is made of it, for messages: "an OpenAI function".
        hidden: Keys that are given otherwise and are not shown.

    Raises:
        ExportError: The input is no object, or something that has to be given has no form in JSON.
    """
    facts = ModelFacts(model)  # completes the model as well
    try:
        schema = model.model_json_schema(schema_generator=InputSchema)
    except PydanticInvalidForJsonSchema as exc:
        raise ExportError(
            subject,
            target,
            exc.message,
            fix="take a type that JSON can carry, give the field a default, or mark it with pydantic.WithJsonSchema",
        ) from exc
    schema = _opened(schema)
    if schema.get("type") != "object" or any(word in schema for word in _NOT_AT_THE_TOP):
        raise ExportError(
            subject, target, f"its input '{model.__name__}' is no plain object", fix="put the value into a named field"
        )
    _hide(schema, hidden, subject, target)
    _check_keys(schema, facts, subject, target)
    return _tidy(schema)


class InputSchema(GenerateJsonSchema):
    """Pydantic's generator without titles that repeat names, without secrets, and with errors that name the field."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # What cannot be shown is left out on purpose.
        self.ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}
        self._fields: dict[
            int, tuple[str, bool]
        ] = {}  # by identity: what a field is called, and whether it is required
        self._reason = ""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        """A value without a form leaves its field out; whether that can be is decided where the field is made."""
        self._reason = error_info.replace("core_schema.", "")
        raise PydanticOmit

    def encode_default(self, dft: Any) -> Any:
        encoded = super().encode_default(dft)
        if MASK in json.dumps(encoded):
            raise PydanticSerializationError("a secret has no default that may be shown")
        return encoded

    def model_fields_schema(self, schema: Any) -> JsonSchemaValue:
        self._note(schema["fields"].items(), total=True)
        return super().model_fields_schema(schema)

    def typed_dict_schema(self, schema: Any) -> JsonSchemaValue:
        self._note(schema["fields"].items(), total=schema.get("total", True))
        return super().typed_dict_schema(schema)

    def dataclass_args_schema(self, schema: Any) -> JsonSchemaValue:
        self._note([(field["name"], field) for field in schema["fields"]], total=True)
        return super().dataclass_args_schema(schema)

    def model_field_schema(self, schema: Any) -> JsonSchemaValue:
        return self._field(schema, super().model_field_schema)

    def typed_dict_field_schema(self, schema: Any) -> JsonSchemaValue:
        return self._field(schema, super().typed_dict_field_schema)

    def dataclass_field_schema(self, schema: Any) -> JsonSchemaValue:
        return self._field(schema, super().dataclass_field_schema)

    def _note(self, fields: Iterable[tuple[str, Any]], *, total: bool) -> None:
        for name, field in fields:
            self._fields[id(field)] = name, self.field_is_required(field, total)

    def _field(self, schema: Any, make: Callable[[Any], JsonSchemaValue]) -> JsonSchemaValue:
        self._reason = "its schema is left out"
        try:
            return make(schema)
        except PydanticOmit:
            name, required = self._fields.get(id(schema), ("?", False))
            if required:
                raise PydanticInvalidForJsonSchema(f"field '{name}' has no form in JSON ({self._reason})") from None
            raise


def _opened(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its top written out, where it is a mere reference: a model that contains itself."""
    definitions = schema.get("$defs", {})
    rest = {key: value for key, value in schema.items() if key not in ("$ref", "$defs", "allOf")}
    wrapped = schema.get("allOf", ())
    # Before 2.9 Pydantic wrote a reference with neighbours as a list of one.
    reference = schema.get("$ref") or (wrapped[0].get("$ref") if len(wrapped) == 1 else None)
    if reference is None:
        return schema
    name = reference.removeprefix(DEFS)
    others = {key: value for key, value in definitions.items() if key != name}
    top = {**definitions[name], **rest}
    left = definitions if json.dumps(reference) in json.dumps([top, others]) else others
    return {**top, "$defs": left} if left else top


def _hide(schema: dict[str, Any], hidden: Collection[str], subject: str, target: str) -> None:
    required = [key for key in schema.get("required", ()) if key in hidden]
    if required:
        raise ExportError(
            subject,
            target,
            f"its input schema requires '{required[0]}', which is a dynamic parameter that no caller may see",
            fix="take it out of the input schema, or give it a default there",
        )
    for key in hidden:
        schema.get("properties", {}).pop(key, None)


def _check_keys(schema: dict[str, Any], facts: ModelFacts, subject: str, target: str) -> None:
    """Refuse properties that validation would not read: those of fields that are read from inside other values."""
    for key in schema.get("properties", {}):
        field = facts.model.model_fields.get(key)
        if key not in facts.accepted and field is not None:
            raise ExportError(
                subject,
                target,
                f"field '{key}' is read from inside another value (AliasPath)",
                fix="give the field an alias as well: AliasChoices('name', AliasPath(...))",
            )


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """Without titles that say what a name says already; with `properties`, which vendors expect."""
    schema.pop("title", None)
    for name, definition in schema.get("$defs", {}).items():
        if definition.get("title") == name:
            del definition["title"]
    first: dict[str, Any] = {key: schema[key] for key in ("type", "description") if key in schema}
    return {**first, "properties": {}, **schema}
