"""What can be said about the values of a model before any exist: are they plain, are they rebuilt by validation?

Asked once per model at compile time. Every answer leans to the slow and safe side: a wrong "no" costs time, a wrong
"yes" would hand out values that change under their reader.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic.types import Secret

from chainweaver.compiler.core_schemas import (
    WRAPPERS,
    FieldOf,
    View,
    choices,
    is_stream,
    parts,
    produced,
    resolved,
    source_view,
    target_view,
)
from chainweaver.compiler.leaves import CLASSES, values_of
from chainweaver.tools.native import is_native

NUMBERS = frozenset({"none", "bool", "int", "float", "complex"})
PLAIN = NUMBERS | {"str", "bytes"}
IMMUTABLES = PLAIN | {
    "decimal", "fraction", "date", "time", "datetime", "timedelta", "uuid", "url", "multi-host-url", "enum",
}  # fmt: skip
REBUILT_KINDS = frozenset(
    {"list", "tuple", "set", "frozenset", "deque", "dict", "ordered-dict", "counter", "typed-dict", "generator"}
)


def scalars_only(model: type[BaseModel]) -> bool:
    """Whether `instance.__dict__` equals `instance.model_dump()` and holds plain scalars, for every instance.

    Scalars are None, bool, int, float, complex, str and bytes, their literals, unions and constrained forms. Said of
    instances of this very class that validation built; an instance of a subclass may hold more.

    >>> class Sum(BaseModel):
    ...     total: int
    >>> scalars_only(Sum)
    True
    """
    return holds_only(model, PLAIN)


def immutables_only(model: type[BaseModel]) -> bool:
    """As `scalars_only`, with other values that nobody can change: dates, decimals, UUIDs, URLs and enum members."""
    return holds_only(model, IMMUTABLES)


def holds_only(model: type[BaseModel], kinds: frozenset[str]) -> bool:
    """As `scalars_only`, for values of other kinds: `NUMBERS`, `PLAIN` or `IMMUTABLES`."""
    return _dumps_itself(model) and all(_all_of(model, name, kinds) for name in model.model_fields)


def is_one_of(kind: Any, kinds: frozenset[str]) -> bool:
    """Whether every value of a field is of these kinds; False for other types, of which less is known."""
    return isinstance(kind, FieldOf) and kind.name in kind.model.model_fields and _all_of(kind.model, kind.name, kinds)


def _dumps_itself(model: type[BaseModel]) -> bool:
    """Whether the model's own machinery adds nothing to its fields and changes nothing on the way out."""
    config = model.model_config
    return (
        not model.model_computed_fields
        and config.get("extra") != "allow"
        and not (config.get("serialize_by_alias") and any(info.alias for info in model.model_fields.values()))
        and not any(info.exclude or getattr(info, "exclude_if", None) for info in model.model_fields.values())
        and is_plainly_built(model)
        and not _has_custom_dump(model)
    )


def is_plainly_built(model: type[BaseModel]) -> bool:
    view = resolved(target_view(model))
    schema = view.schema
    if view.kind != "model" or schema.get("custom_init") or schema.get("root_model"):
        return False
    if any(isinstance(fact, functools.cached_property) for cls in model.__mro__ for fact in vars(cls).values()):
        # Their values land in `__dict__` once they have been asked for.
        return False
    after = getattr(model, "model_post_init")  # noqa: B009 - the attribute may be replaced by pydantic's own function
    stock = after is BaseModel.model_post_init or getattr(after, "__name__", "") == "init_private_attributes"
    return stock or not schema.get("post_init")


def _has_custom_dump(model: type[BaseModel]) -> bool:
    if model.model_dump is not BaseModel.model_dump:
        return True
    view = resolved(target_view(model))
    return any("serialization" in part for schema in (view.schema, *view.refs.values()) for part in parts(schema))


def _all_of(model: type[BaseModel], name: str, kinds: frozenset[str]) -> bool:
    view = source_view(FieldOf(model, name))
    if any(part.get("default_factory") and not part.get("validate_default") for part in parts(view.schema)):
        return False
    return all(_is_one_of(leaf, kinds) for leaf in produced(view))


def _is_one_of(leaf: View, kinds: frozenset[str]) -> bool:
    if leaf.kind not in ("constant", "literal"):
        return leaf.kind in kinds
    classes = {CLASSES[kind] for kind in kinds - {"enum"}}
    return all(type(value) in classes or ("enum" in kinds and isinstance(value, Enum)) for value in values_of(leaf))


def annotation_of(kind: Any) -> Any:
    """The annotation behind a `FieldOf`, or the one given; metadata is left aside."""
    if isinstance(kind, FieldOf):
        info = kind.model.model_fields.get(kind.name)
        kind = kind.model.model_computed_fields[kind.name].return_type if info is None else info.annotation
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def grows(annotation: Any) -> bool:
    """Whether validating a field of this type makes a new container, of a size that the type does not say.

    True for containers, typed or not, and for models that are configured to be revalidated; False for `Native[...]` and
    for everything that passes as it is, and for fixed tuples, typed dicts and containers with a maximal length. Takes
    an annotation or a `FieldOf`.

    >>> grows(list[int]), grows(tuple[int, int])
    (True, False)
    """
    return not _is_native(annotation) and _some_part(target_view(annotation), _is_unbounded)


def passes_untouched(annotation: Any) -> bool:
    """Whether values of this type pass validation as they are, at the price of one look at their class, or of none.

    >>> passes_untouched(Any), passes_untouched(list[int]), passes_untouched(int)
    (True, False, False)
    """
    view = resolved(target_view(annotation))
    while view.kind in WRAPPERS or view.kind == "nullable":
        view = resolved(view.inner())
    return view.kind in ("any", "is-instance") or _is_native(annotation)


def holds_secrets(annotation: Any) -> bool:
    """Whether values of this type may hold one of pydantic's secrets, directly, in a container or in a model.

    >>> holds_secrets(list[SecretStr]), holds_secrets(str)
    (True, False)
    """
    return _holds_secrets(annotation, set())


def _holds_secrets(annotation: Any, seen: set[type]) -> bool:
    annotation = annotation_of(annotation)
    cls = get_origin(annotation) or annotation
    if not isinstance(cls, type):
        return any(_holds_secrets(part, seen) for part in get_args(annotation))
    if issubclass(cls, (SecretStr, SecretBytes, Secret)):
        return True
    inside = list(get_args(annotation))
    if issubclass(cls, BaseModel) and cls not in seen:
        seen.add(cls)
        inside += [info.annotation for info in cls.model_fields.values()]
    return any(_holds_secrets(part, seen) for part in inside)


def _is_native(annotation: Any) -> bool:
    if isinstance(annotation, FieldOf):
        info = annotation.model.model_fields.get(annotation.name)
        return info is not None and is_native(info)
    return is_native(annotation)


def _some_part(view: View, question: Callable[[View], bool]) -> bool:
    """Whether the answer is yes for the type itself or, where it is a choice or a wrapper, for one inside."""
    view = resolved(view)
    if is_stream(view):
        return False  # what its items are made of comes later
    if question(view):
        return True
    if view.kind in ("union", "tagged-union"):
        return any(_some_part(choice, question) for choice in choices(view))
    if view.kind == "chain":
        return any(_some_part(view.at(step), question) for step in view.schema["steps"])
    if view.kind == "json-or-python":
        return _some_part(view.at(view.schema["python_schema"]), question)
    if view.kind == "lax-or-strict":
        return _some_part(view.at(view.schema["lax_schema"]), question)
    if view.kind in WRAPPERS or view.kind in ("nullable", "function-before", "function-after", "function-wrap"):
        return _some_part(view.inner(), question)
    return False


def _is_rebuilt(view: View) -> bool:
    return view.kind in REBUILT_KINDS or (view.kind in ("model", "dataclass") and _revalidates(view))


def _is_unbounded(view: View) -> bool:
    if view.kind == "tuple":
        return view.schema.get("variadic_item_index") is not None
    return _is_rebuilt(view) and view.kind != "typed-dict" and view.schema.get("max_length") is None


def _revalidates(view: View) -> bool:
    setting = view.schema.get("revalidate_instances", view.opened().config.get("revalidate_instances", "never"))
    return bool(setting != "never")
