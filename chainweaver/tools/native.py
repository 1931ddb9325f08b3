"""`Native[T]`: fields whose object passes untouched.

Validation of such a field is one isinstance check, so a list of a million numbers costs as much as a list of one, and
what a tool returns is the very object that the next tool receives. Used in signatures of tools and in users' own
models; the compiler asks `is_native`.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, TypeVar, Union, get_args, get_origin

from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation
from pydantic_core import core_schema
from typing_extensions import is_typeddict

from chainweaver.tools.definition import UNIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.fields import FieldInfo
    from pydantic.json_schema import JsonSchemaValue

T = TypeVar("T")

# Each with pydantic's own error for a value that is none.
BARE_CONTAINERS = {
    list: "list_type",
    dict: "dict_type",
    set: "set_type",
    frozenset: "frozen_set_type",
    tuple: "tuple_type",
}
# The numeric tower of PEP 484: where a float is wanted, an int will do.
TOWER: dict[object, tuple[type, ...]] = {float: (float, int), complex: (complex, float, int)}


@dataclass(frozen=True)
class NativeMarker:
    """What `Native[T]` leaves in the annotation.

    Attributes:
        coerces: Values of another class are converted as pydantic would, instead of being refused.
    """

    coerces: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """An isinstance check for Python objects; JSON texts are read as T where pydantic can."""
        try:
            converting = handler(source)
        except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
            converting = None
        passing = passing_schema(source)
        if converting is None:
            return passing
        if self.coerces:
            return core_schema.union_schema(
                [passing, converting],
                mode="left_to_right",
                custom_error_type=BARE_CONTAINERS[source],
            )
        return core_schema.json_or_python_schema(json_schema=converting, python_schema=passing)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The JSON Schema of T; `{}`, which allows everything, where T has none."""
        from pydantic.errors import PydanticInvalidForJsonSchema

        if schema["type"] == "union":
            schema = schema["choices"][1]
        try:
            return handler(schema)
        except PydanticInvalidForJsonSchema:
            return {}


Native = Annotated[T, NativeMarker()]
"""A field of this type takes any instance of T and hands on that very object: no copy, no rebuild, no look inside.

For `list[int]` only "is a list" is checked; `Any` takes everything; of a union one class has to fit. Classes that
pydantic does not know need no `arbitrary_types_allowed`. Type checkers see plain `T`.

>>> from pydantic import BaseModel
>>> class Table:
...     pass
>>> class Report(BaseModel):
...     table: Native[Table]
...     rows: Native[list[int]]
>>> rows = [1, 2, 3]
>>> Report(table=Table(), rows=rows).rows is rows
True
"""


def passing_schema(source: object) -> core_schema.CoreSchema:
    """A schema that lets instances of the runtime classes of an annotation through as they are."""
    classes = runtime_classes(source)
    if classes is None:
        return core_schema.any_schema()
    [first, *others] = classes
    return core_schema.is_instance_schema(
        (first, *others) if others else first, cls_repr=" | ".join(one.__qualname__ for one in classes)
    )


def runtime_classes(annotation: object) -> list[type] | None:
    """The classes that isinstance can check for an annotation, without repeats; None where everything passes.

    >>> runtime_classes(list[int] | None)
    [<class 'list'>, <class 'NoneType'>]
    >>> runtime_classes(Any) is None
    True
    """
    found: dict[type, None] = {}
    for cls in flat_classes(annotation):
        if cls is None:
            return None
        found[cls] = None
    return list(found)


def flat_classes(annotation: object) -> Iterator[type | None]:
    """The classes of an annotation one by one, None for a part that cannot be checked."""
    origin = get_origin(annotation)
    if origin in UNIONS:
        for part in get_args(annotation):
            yield from flat_classes(part)
    elif origin is Literal:
        yield from map(type, get_args(annotation))
    elif origin is Annotated:
        yield from flat_classes(get_args(annotation)[0])
    elif annotation is None:
        yield types.NoneType
    elif isinstance(annotation, NewType):
        yield from flat_classes(annotation.__supertype__)
    elif isinstance(annotation, TypeVar):
        yield from flat_classes(annotation.__bound__ or Any)
    elif is_typeddict(annotation):
        yield dict
    else:
        yield from checkable(origin or annotation)


def checkable(cls: object) -> Iterator[type | None]:
    """The class itself when isinstance accepts it; None for Any, for protocols that say nothing at run time."""
    if cls in TOWER:
        yield from TOWER[cls]
        return
    try:
        isinstance(None, cls)  # type: ignore[arg-type]  # whether this raises is the question
    except TypeError:
        yield None
    else:
        yield cls if isinstance(cls, type) and cls is not object else None


def is_native(field: FieldInfo | object) -> bool:
    """Whether the objects of a field or an annotation pass untouched.

    A union is native when all of its members but None are.

    >>> is_native(Native[list[int]]), is_native(Native[list[int]] | None), is_native(list[int])
    (True, True, False)
    """
    metadata = getattr(field, "metadata", None)
    if metadata is not None and hasattr(field, "annotation"):
        return any(isinstance(one, NativeMarker) for one in metadata) or is_native(field.annotation)
    origin = get_origin(field)
    if origin is Annotated:
        base, *marks = get_args(field)
        return any(isinstance(one, NativeMarker) for one in marks) or is_native(base)
    if origin in UNIONS:
        members = [part for part in get_args(field) if part not in (None, types.NoneType)]
        return bool(members) and all(map(is_native, members))
    return False


def keep_bare_containers(annotation: Any) -> Any:
    """The annotation with every bare `list`, `dict`, `set`, `frozenset` or `tuple` marked to pass untouched.

    Such a container says nothing about its items, so there is nothing to rebuild it for. Values of other classes
    are still converted.

    >>> is_native(keep_bare_containers(list)), is_native(keep_bare_containers(list[int]))
    (True, False)
    """
    if isinstance(annotation, type) and annotation in BARE_CONTAINERS:
        return Annotated[annotation, NativeMarker(coerces=True)]
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *marks = get_args(annotation)
        kept = keep_bare_containers(base)
        if kept is base:
            return annotation
        for mark in marks:
            kept = Annotated[kept, mark]
        return kept
    if origin in UNIONS:
        parts = get_args(annotation)
        kept_parts = tuple(map(keep_bare_containers, parts))
        return annotation if kept_parts == parts else Union[kept_parts]  # noqa: UP007 - a union of computed members
    return annotation
