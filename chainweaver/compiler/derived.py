"""Validators of a model that take some of its fields as they are.

Made of the model's own core schema, in which such a field takes anything; classes, aliases, defaults, the treatment of
unknown keys and all other fields stay what they are. Called by `once`, while a flow is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, cast

from pydantic import BaseModel
from pydantic_core import SchemaValidator

from chainweaver.compiler.core_schemas import View, resolved, target_view
from chainweaver.plan import Validate


def fields_of(model: type[BaseModel]) -> View | None:
    """The fields of a model whose validation is nothing but theirs; None where the model itself has a say."""
    view = resolved(target_view(model))
    if view.kind != "model" or view.schema.get("custom_init") or view.schema.get("root_model"):
        return None
    inside = resolved(view.opened().inner())
    return inside if inside.kind == "model-fields" else None


def taking(model: type[BaseModel], names: Collection[str]) -> Validate:
    """The validator of a model that takes these fields as they are; it takes dicts only.

    >>> class Rows(BaseModel):
    ...     rows: list[int]
    ...     limit: int
    >>> rows = ["not", "looked", "at"]
    >>> taken = taking(Rows, ["rows"])({"rows": rows, "limit": "7"})
    >>> taken.rows is rows, taken.limit, type(taken) is Rows
    (True, 7, True)
    """
    view, inside = resolved(target_view(model)), fields_of(model)
    assert inside is not None, "only models of fields are asked for"
    fields = {
        name: {**field, "schema": _open(field["schema"])} if name in names else field
        for name, field in inside.schema["fields"].items()
    }
    validate = _validator({**inside.schema, "fields": fields}, view)
    fill: Callable[[Any, str, Any], None] = object.__setattr__
    has_private = bool(model.__private_attributes__)

    # A schema of the whole model would not do: pydantic answers it with the validator that the class has already.
    def validated(given: Any) -> Any:
        values, extra, given_names = validate(given)
        instance: Any = model.__new__(model)
        fill(instance, "__dict__", values)
        fill(instance, "__pydantic_extra__", extra)
        fill(instance, "__pydantic_fields_set__", given_names)
        if has_private:
            instance.model_post_init(None)
        else:
            fill(instance, "__pydantic_private__", None)
        return instance

    return validated


def checking(model: type[BaseModel], names: Collection[str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What validates any of these fields of a model by name, apart from all others.

    >>> class Rows(BaseModel):
    ...     rows: list[int]
    ...     limit: int
    >>> checking(Rows, ["rows"])({"rows": ["1", "2"]})
    {'rows': [1, 2]}
    """
    view, inside = resolved(target_view(model)), fields_of(model)
    assert inside is not None, "only models of fields are asked for"
    known = inside.schema["fields"]
    fields = {
        name: {"type": "typed-dict-field", "required": False, "schema": _past_default(known[name]["schema"])}
        for name in names
    }
    schema = {"type": "typed-dict", "fields": fields, "config": view.schema.get("config") or {}}
    return cast("Callable[[dict[str, Any]], dict[str, Any]]", _validator(schema, view))


def _open(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that takes anything; what stands for a missing value stays."""
    return {**schema, "schema": {"type": "any"}} if schema["type"] == "default" else {"type": "any"}


def _past_default(schema: dict[str, Any]) -> Any:
    return schema["schema"] if schema["type"] == "default" else schema


def _validator(schema: Any, view: View) -> Validate:
    if view.refs:
        schema = {"type": "definitions", "schema": schema, "definitions": list(view.refs.values())}
    return SchemaValidator(schema, cast("Any", view.schema.get("config"))).validate_python
