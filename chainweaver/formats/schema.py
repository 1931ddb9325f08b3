"""The JSON Schema of flow files, generated from the models.

Fields, types and bounds come from the models and are never written twice. What a model checks in code, across fields,
is said here a second time as schema rules; the tests hold the two to one verdict. `schemas/flow.schema.json` is the
output of `flow_schema_json`, for editors and for readers in other languages.

Not in the schema, because they are bounds or meaning rather than structure: `FlowParseLimits`, faults of the text such
as duplicate keys, and what only the tools can show (unknown tools, types) or the whole graph (cycles).
"""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from chainweaver import flow as flow_room
from chainweaver.flow import Flow
from chainweaver.formats.verdict import KINDS
from chainweaver.formats.writing import FORMAT_VERSION

_Schema = dict[str, Any]

# PEP 440, appendix B, without named groups and flags, so that every regex dialect reads it.
_PRE = "[aA][lL][pP][hH][aA]|[aA]|[bB][eE][tT][aA]|[bB]|[pP][rR][eE][vV][iI][eE][wW]|[pP][rR][eE]|[cC]|[rR][cC]"
_POST = "[pP][oO][sS][tT]|[rR][eE][vV]|[rR]"
VERSION_PATTERN = (
    r"^\s*[vV]?([0-9]+!)?[0-9]+(\.[0-9]+)*"
    rf"([-_.]?({_PRE})[-_.]?[0-9]*)?"
    rf"(-[0-9]+|[-_.]?({_POST})[-_.]?[0-9]*)?"
    r"([-_.]?[dD][eE][vV][-_.]?[0-9]*)?"
    r"(\+[a-zA-Z0-9]+([-_.][a-zA-Z0-9]+)*)?\s*$"
)


def flow_schema() -> _Schema:
    """The JSON Schema (2020-12) of flow files, as a dict of its own for each call.

    >>> [kind["$ref"] for kind in flow_schema()["oneOf"]]
    ['#/$defs/Flow', '#/$defs/DAGFlow']
    """
    _, generated = models_json_schema(
        [(model, "validation") for model in KINDS.values()],
        ref_template="#/$defs/{model}",
        schema_generator=_WithoutTitles,
    )
    definitions: dict[str, _Schema] = generated["$defs"]
    _polish(definitions)
    for name in KINDS:
        _as_document(definitions[name], name)
    definitions["FlowStep"]["allOf"] = [_one_target(), *_step_rules()]
    definitions["Chunk"]["oneOf"] = [_given("bytes"), _given("rows")]
    definitions["DAGFlowStep"]["allOf"] = [_one_target(or_capability=True), *_step_rules(), *_capability_rules()]
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "title": "chainweaver flow",
        "description": "A flow file: a linear flow or a DAG of steps.",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in KINDS],
        "$defs": definitions,
    }


def flow_schema_json(indent: int | None = 2) -> str:
    """The text of `schemas/flow.schema.json`: `flow_schema` with sorted keys and a final line break."""
    return json.dumps(flow_schema(), indent=indent, sort_keys=True, ensure_ascii=False) + "\n"


class _WithoutTitles(GenerateJsonSchema):
    """Titles repeat the key in other letters; editors show the key anyway."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _as_document(definition: _Schema, kind: str) -> None:
    """Add the keys that only the file has."""
    properties = definition["properties"]
    properties["type"] = {"const": kind, "description": "The discriminator: which kind of flow the file holds."}
    properties["format_version"] = {"const": FORMAT_VERSION, "description": "Version of the file format."}
    definition["required"] = ["type", *definition["required"]]


def _given(name: str) -> _Schema:
    """The key is there and not null."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _absent(*names: str) -> _Schema:
    """Each key is missing or null."""
    return {"properties": {name: {"type": "null"} for name in names}}


def _one_target(*, or_capability: bool = False) -> _Schema:
    """Exactly one of tool_name and flow_name, or neither in a step that a capability performs."""
    targets = [
        {"allOf": [_given("tool_name"), _absent("flow_name")]},
        {"allOf": [_given("flow_name"), _absent("tool_name")]},
    ]
    if or_capability:
        targets.append({"allOf": [_is_capability(), _absent("tool_name", "flow_name")]})
    return {"anyOf": targets}


def _step_rules() -> list[_Schema]:
    return [
        {"if": _given("flow_version"), "then": _given("flow_name")},
        {
            "if": {"not": _given("map_over")},
            "then": {
                "properties": {
                    "map_as": {"const": "item"},
                    "map_concurrency": {"type": "null"},
                    "on_item_error": {"const": "fail"},
                }
            },
        },
        {"if": _given("chunk"), "then": {"allOf": [_given("tool_name"), _absent("map_over")]}},
    ]


def _is_capability() -> _Schema:
    return {"required": ["step_type"], "properties": {"step_type": {"const": "capability"}}}


def _capability_rules() -> list[_Schema]:
    needed = {"allOf": [_given("capability_id"), _absent("chunk")]}
    return [{"if": _is_capability(), "then": needed, "else": _absent("capability_id")}]


def _polish(definitions: dict[str, _Schema]) -> None:
    """Put the sentences of the models' docstrings where editors show them, and patterns where code checks the text."""
    for name, definition in definitions.items():
        model = getattr(flow_room, name)
        definition["description"] = _paragraphs(model)[0]
        if not issubclass(model, BaseModel):
            continue
        for key, schema in definition["properties"].items():
            text = _attribute_text(model, key)
            if text and "$ref" not in schema:
                schema["description"] = text
            if key in ("version", "flow_version"):
                next(choice for choice in schema.get("anyOf", [schema]) if choice["type"] == "string")["pattern"] = (
                    VERSION_PATTERN
                )


def _paragraphs(model: type) -> list[str]:
    return [" ".join(part.split()) for part in inspect.cleandoc(model.__doc__ or "").split("\n\n")]


def _attribute_text(model: type, key: str) -> str | None:
    """What the "Attributes:" of the class, or of one it derives from, say about a field."""
    # The fields that both kinds of flow share are described at the linear one.
    for described in (*model.__mro__, Flow):
        found = re.search(rf"^    {key}: (.*(?:\n     .*)*)", inspect.cleandoc(described.__doc__ or ""), re.MULTILINE)
        if found:
            return " ".join(found.group(1).split())
    return None
