"""JSON Schema in the form that OpenAI's strict mode takes, where the model cannot but obey it.

Every object is closed and all its properties are required; only some keywords are known. What the vendor does not know
but a reader understands is told in the description; a value that strict mode has no form for is refused. But for what
is told in words, the closed schema accepts less than the one that it was made of, never more. Called by `dictionaries`.
"""

from __future__ import annotations

import json
from typing import Any

from chainweaver.exceptions import ExportError
from chainweaver.export.schema import DEFS

_KEPT = (
    *("type", "enum", "const", "pattern"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems"),
)
_TOLD = ("minLength", "maxLength", "uniqueItems", "minProperties", "maxProperties", "contentEncoding")
_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")


def strict_parameters(parameters: dict[str, Any], subject: str) -> dict[str, Any]:
    """Parameters as `parameters_of` gives them, closed.

    A field with a default becomes required like any other, and its description tells the default.

    Raises:
        ExportError: Some value may be anything, may have any keys, or is a tuple; its place is named.
    """
    return _Closing(parameters.get("$defs", {}), subject).closed(parameters)


class _Closing:
    """The work on one schema."""

    def __init__(self, definitions: dict[str, Any], subject: str) -> None:
        self.definitions = definitions
        self.subject = subject
        self.needed: list[str] = []  # names of definitions that the result points to, in order of appearance
        self.written_out: list[str] = []  # references that are being replaced by what they stand for

    def closed(self, parameters: dict[str, Any]) -> dict[str, Any]:
        top = self._schema({key: value for key, value in parameters.items() if key != "$defs"}, "")
        # Closing a definition may bring up others.
        closed = {}
        for name in self.needed:
            closed[name] = self._schema(self.definitions[name], name)
        return {**top, "$defs": closed} if closed else top

    def _schema(self, schema: Any, place: str) -> dict[str, Any]:
        if not isinstance(schema, dict):
            raise self._refusal(place, "may be anything")
        if "$ref" in schema:
            return self._reference(schema, place)
        if "allOf" in schema:
            return self._schema(self._merged(schema, place), place)
        found = self._described(schema)
        choices = schema.get("anyOf", schema.get("oneOf"))
        if choices is not None:
            found["anyOf"] = [self._schema(one, place) for one in choices]
            return found
        found.update({key: schema[key] for key in _KEPT if key in schema})
        if schema.get("format") in _FORMATS:
            found["format"] = schema["format"]
        kind = schema.get("type")
        if kind == "object":
            found.update(self._object(schema, place))
        elif kind == "array":
            found["items"] = self._items(schema, place)
        elif kind is None and "enum" not in schema and "const" not in schema:
            raise self._refusal(place, "may be anything")
        return found

    def _object(self, schema: dict[str, Any], place: str) -> dict[str, Any]:
        properties = schema.get("properties")
        if properties is None or (not properties and schema.get("additionalProperties")):
            raise self._refusal(place, "may have any keys")
        closed = {key: self._schema(one, f"{place}.{key}".lstrip(".")) for key, one in properties.items()}
        return {"properties": closed, "required": list(closed), "additionalProperties": False}

    def _items(self, schema: dict[str, Any], place: str) -> dict[str, Any]:
        if "prefixItems" in schema:
            raise self._refusal(place, "is a tuple")
        return self._schema(schema.get("items"), f"{place}[]")

    def _reference(self, schema: dict[str, Any], place: str) -> dict[str, Any]:
        """A reference alone, or what it stands for where there is more to say: a reference has no neighbours here."""
        reference = schema["$ref"]
        more = {key: value for key, value in schema.items() if key != "$ref"}
        name = reference.removeprefix(DEFS)
        if not more or reference in self.written_out:
            if name not in self.needed:
                self.needed.append(name)
            return {"$ref": reference}
        self.written_out.append(reference)
        found = self._schema({**self.definitions[name], **more}, place)
        self.written_out.pop()
        return found

    def _merged(self, schema: dict[str, Any], place: str) -> dict[str, Any]:
        more = {key: value for key, value in schema.items() if key != "allOf"}
        if len(schema["allOf"]) != 1:
            raise self._refusal(place, "has to fit several schemas at once")
        return {**schema["allOf"][0], **more}

    def _described(self, schema: dict[str, Any]) -> dict[str, Any]:
        told = [str(schema["description"])] if "description" in schema else []
        if "default" in schema:
            told.append(f"Default: {json.dumps(schema['default'], ensure_ascii=False)}.")
        told += [f"{key}: {json.dumps(schema[key])}." for key in _TOLD if key in schema]
        if schema.get("format") not in (None, *_FORMATS):
            told.append(f"format: {schema['format']}.")
        return {"description": " ".join(told)} if told else {}

    def _refusal(self, place: str, what: str) -> ExportError:
        whose = f"'{place}'" if place else "its input"
        return ExportError(
            self.subject,
            "a strict OpenAI function",
            f"{whose} {what}",
            fix="name its fields in a model, or pass strict=False",
        )
