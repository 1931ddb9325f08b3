"""Types as pydantic runs them: annotations and fields turned into core schemas, and the values that those produce.

Aliases, forward references, generics, validators and strictness are all resolved in a core schema, so the questions
of `types` are asked of it and not of the annotation. Nothing here validates, and no verdict is reached here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

from pydantic import AnyUrl, BaseModel, ConfigDict, PydanticUserError, TypeAdapter

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FieldOf:
    """The type of one field of a model, with the validators and the configuration that the model adds to it.

    Takes the place of an annotation in `compatible`, `grows` and `describe`. A computed field counts as a field.
    """

    model: type[BaseModel]
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A value that is known before the run. Takes the place of an annotation as the source in `compatible`."""

    value: Any


@dataclass(frozen=True, slots=True)
class View:
    """A core schema in its surroundings.

    Attributes:
        schema: The core schema.
        refs: Schemas of recursive types by reference.
        config: Settings of the model, dataclass or typed dict that it lies in.
    """

    schema: Schema
    refs: Mapping[str, Schema] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The name that pydantic gives to this kind of schema, such as "int" or "model"."""
        return str(self.schema["type"])

    @property
    def strict(self) -> bool:
        """Whether only values of the very type are taken."""
        return bool(self.schema.get("strict", self.config.get("strict", False)))

    def at(self, schema: Schema) -> View:
        """The same surroundings around a part of the schema."""
        return replace(self, schema=schema)

    def inner(self) -> View:
        """What a schema that merely wraps another one wraps."""
        return self.at(self.schema["schema"])

    def opened(self) -> View:
        """The view from inside a model, dataclass or typed dict: its configuration replaces the outer one."""
        return replace(self, config=self.schema.get("config") or {})


UNKNOWN = View({"type": "any"})
"""Stands for a type that nothing is known about: everything fits it, and it fits everything."""

# They hand on what the schema inside them produces, and take what it takes.
WRAPPERS = frozenset(
    {"default", "custom-error", "model-field", "dataclass-field", "typed-dict-field", "named-tuple-field"}
)
# Where a core schema keeps things that are no schemas, though they may look like one.
NO_SCHEMAS = frozenset({"metadata", "serialization", "config", "function", "default", "expected", "members"})
# Pydantic's own functions that check around a container and keep its meaning.
TRANSPARENT_FUNCTIONS = frozenset({"sequence_validator", "defaultdict_validator"})


def target_view(annotation: Any) -> View:
    """The core schema of an annotation or a `FieldOf` that takes values; UNKNOWN when pydantic cannot make one."""
    if isinstance(annotation, FieldOf):
        return _field_view(annotation, past_before=False)
    return _view_of(annotation)


def source_view(annotation: Any) -> View:
    """The core schema of an annotation, a `FieldOf` or a `Constant` that gives values; UNKNOWN likewise."""
    if isinstance(annotation, Constant):
        return constant_view(annotation.value)
    if isinstance(annotation, FieldOf):
        return _field_view(annotation, past_before=True)
    return _view_of(annotation)


def _view_of(annotation: Any) -> View:
    try:
        return _cached_view(annotation)
    except TypeError:
        # Metadata such as `Field(...)` cannot be hashed.
        return _build_view(annotation)


@lru_cache(maxsize=4096)
def _cached_view(annotation: Any) -> View:
    return _build_view(annotation)


def _build_view(annotation: Any) -> View:
    try:
        return _rooted(_adapter(annotation).core_schema)
    except Exception:
        # Whatever a user's schema hook or an unresolvable name raises: such a type is unknown, and unknown is allowed.
        return UNKNOWN


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:
        # Models bring their own configuration.
        return TypeAdapter(annotation)


def _rooted(schema: Any) -> View:
    return resolved(View(schema)) if isinstance(schema, dict) else UNKNOWN


def _field_view(field: FieldOf, *, past_before: bool) -> View:
    computed = field.model.model_computed_fields.get(field.name)
    if computed is not None:
        return _view_of(computed.return_type)
    view = fields_view(_view_of(field.model), past_before=past_before)
    known = {} if view is None else view.schema["fields"]
    return view.at(known[field.name]) if view is not None and field.name in known else UNKNOWN


def fields_view(view: View, *, past_before: bool) -> View | None:
    """The fields of a model, dataclass or typed dict; None where a function decides what becomes of the input.

    A validator that sees the whole input first may make anything of it. What leaves the model is nevertheless what
    its fields say, so `past_before=True` looks behind it.
    """
    passed = {"function-after", "function-before"} if past_before else {"function-after"}
    while (view := resolved(view)).kind not in ("model-fields", "dataclass-args", "typed-dict"):
        if view.kind in ("model", "dataclass") and not view.schema.get("custom_init"):
            view = view.opened().inner()
        elif view.kind in passed:
            view = view.inner()
        else:
            return None
    return view


def resolved(view: View) -> View:
    """The view behind definitions and references."""
    for _ in range(100):
        if view.kind == "definitions":
            found = {one["ref"]: one for one in view.schema["definitions"]}
            view = replace(view.inner(), refs={**view.refs, **found})
        elif view.kind == "definition-ref" and view.schema["schema_ref"] in view.refs:
            view = view.at(view.refs[view.schema["schema_ref"]])
        else:
            return view
    return UNKNOWN


def choices(view: View) -> list[View]:
    """The members of a union."""
    members = view.schema["choices"]
    found = members.values() if isinstance(members, dict) else members
    return [view.at(one[0] if isinstance(one, tuple) else one) for one in found]


def function_of(view: View) -> Any:
    """The function that a validator schema calls, without the arguments bound to it."""
    function = view.schema["function"]["function"]
    return function.func if isinstance(function, partial) else function


def is_transparent(view: View) -> bool:
    """Whether a wrap validator is one of pydantic's own that keeps the meaning of what it wraps."""
    function = function_of(view)
    return _is_pydantics(function) and getattr(function, "__name__", "") in TRANSPARENT_FUNCTIONS


def is_url(view: View) -> bool:
    """Whether a wrap validator is the one that gives the URL classes of pydantic (2.10 and later) their instances."""
    function = function_of(view)
    named = getattr(function, "__module__", "") == "pydantic.networks" and function.__name__ == "wrap_val"
    return named and resolved(view.inner()).kind == "url"


_STREAMS = "chainweaver.objects.streams"


def are_streams_known() -> bool:
    """Whether anybody has imported the class: before that no field holds one, and nothing has to be looked at."""
    return _STREAMS in sys.modules


def is_stream(view: View) -> bool:
    """Whether a wrap validator is that of `Stream[T]`."""
    if not are_streams_known() or view.kind != "function-wrap":
        return False
    function = function_of(view)
    return getattr(function, "__module__", "") == _STREAMS


def gives_stream(annotation: Any) -> bool:
    """Whether a value of this type may be a stream.

    >>> from chainweaver import Stream
    >>> gives_stream(Stream[int] | None), gives_stream(list[int])
    (True, False)
    """
    if not are_streams_known():
        return False
    try:
        return _cached_gives_stream(annotation)
    except TypeError:
        # Metadata such as `Field(...)` cannot be hashed.
        return _gives_stream(annotation)


@lru_cache(maxsize=4096)
def _cached_gives_stream(annotation: Any) -> bool:
    return _gives_stream(annotation)


def _gives_stream(annotation: Any) -> bool:
    return any(leaf.kind == "stream" for leaf in produced(source_view(annotation)))


def _stream_of(view: View) -> View:
    """A stream, which is a kind of our own, with the type of its items."""
    items = resolved(view.inner()).schema["items_schema"]
    return view.at({"type": "stream", "cls": sys.modules[_STREAMS].Stream, "items_schema": items})


def _is_pydantics(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).partition(".")[0] == "pydantic"


def parts(schema: Any) -> Iterator[Schema]:
    """A schema and all schemas inside it."""
    todo = [schema]
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            if isinstance(part.get("type"), str):
                yield part
            todo.extend(value for key, value in part.items() if key not in NO_SCHEMAS)
        elif isinstance(part, (list, tuple)):
            todo.extend(part)


def _calls(view: View) -> bool:
    if view.kind.startswith("function-"):
        return not _is_pydantics(function_of(view))
    return any(view.schema.get(key) for key in ("default_factory", "post_init", "custom_init", "function"))


def produced(view: View) -> list[View]:
    """The alternatives that a validated value of this type can be: schemas of plain kinds, or UNKNOWN."""
    view = resolved(view)
    kind = view.kind
    if kind in ("union", "tagged-union"):
        return [leaf for choice in choices(view) for leaf in produced(choice)]
    if kind == "nullable":
        return [*produced(view.inner()), View({"type": "none"})]
    if kind == "default":
        return [*produced(view.inner()), *_default_of(view)]
    if kind in WRAPPERS or kind == "function-before":
        return produced(view.inner())
    if kind == "function-after":
        return _after(view)
    if kind == "function-wrap":
        return _wrapped(view)
    if kind == "chain":
        return produced(view.at(view.schema["steps"][-1]))
    if kind == "json-or-python":
        return produced(view.at(view.schema["python_schema"]))
    if kind == "lax-or-strict":
        return _lax_or_strict(view)
    if kind == "json":
        return produced(view.inner()) if "schema" in view.schema else [UNKNOWN]
    return [view]


def _wrapped(view: View) -> list[View]:
    if is_url(view):
        return [View({"type": "is-instance", "cls": AnyUrl})]
    if is_stream(view):
        return [_stream_of(view)]
    return _sequences(view.inner()) if is_transparent(view) else [UNKNOWN]


def _default_of(view: View) -> list[View]:
    # Defaults are not validated: `limit: int = None` gives None.
    return [constant_view(view.schema["default"])] if "default" in view.schema else []


def constant_view(value: Any) -> View:
    """Exactly this value: containers as schemas of fixed contents, the rest as "constant", a kind of our own."""
    return View(_constant_schema(value))


def _constant_schema(value: Any) -> Schema:
    if type(value) in (list, tuple, set, frozenset):
        return {"type": type(value).__name__, "fixed_items": [_constant_schema(item) for item in value]}
    if type(value) is dict and all(isinstance(key, str) for key in value):
        fields = {
            key: {"type": "typed-dict-field", "required": True, "schema": _constant_schema(item)}
            for key, item in value.items()
        }
        return {"type": "typed-dict", "fields": fields}
    return {"type": "constant", "values": [value]}


def _after(view: View) -> list[View]:
    made = function_of(view)
    if isinstance(made, type):
        return [View({"type": "is-instance", "cls": made})]
    inner = produced(view.inner())
    # Validators that run after a model has been built return that model; those after a field may return anything.
    return inner if all(leaf.kind in ("model", "dataclass") for leaf in inner) else [UNKNOWN]


def _lax_or_strict(view: View) -> list[View]:
    if any(_calls(view.at(part)) for part in parts(view.schema["lax_schema"])):
        return [UNKNOWN]
    # Pydantic's own types (paths, secrets) are what their strict form lets through, however they were made.
    return produced(view.at(view.schema["strict_schema"]))


def _sequences(view: View) -> list[View]:
    """What `Sequence[T]` gives: the kind of sequence that came in."""
    view = resolved(view)
    if view.kind != "list":
        return produced(view)
    items = view.schema.get("items_schema", {"type": "any"})
    as_tuple = {"type": "tuple", "items_schema": [items], "variadic_item_index": 0}
    return [view, view.at(as_tuple), view.at({"type": "deque", "items_schema": items})]
