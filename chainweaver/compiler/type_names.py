"""Types as people write them, for messages: `list[int]`, `str | None`, `Invoice`.

Used wherever the compiler tells two types apart. Nothing here decides anything.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Annotated, Any, ForwardRef, Literal, TypeVar, Union, get_args, get_origin

from chainweaver.compiler.core_schemas import Constant, FieldOf

LONGEST_NAME = 120
"""Names longer than this are cut: a message is no place for a whole JSON type."""

_UNIONS = (Union, types.UnionType)


def describe(annotation: Any) -> str:
    """A short readable name of a type.

    Metadata is left out, aliases keep their own names, classes lose their modules.

    >>> from typing import Optional
    >>> describe(Optional[list[int]]), describe(dict)
    ('list[int] | None', 'dict')
    """
    name = _name(annotation)
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."


def _name(annotation: Any) -> str:
    if annotation is None or annotation is types.NoneType:
        return "None"
    if annotation is Ellipsis:
        return "..."
    if isinstance(annotation, FieldOf):
        return _field_name(annotation)
    if isinstance(annotation, Constant):
        return _constant_name(annotation.value)
    if isinstance(annotation, (str, ForwardRef)):
        return annotation if isinstance(annotation, str) else annotation.__forward_arg__
    if isinstance(annotation, TypeVar):
        return annotation.__name__
    if isinstance(annotation, list):
        # The parameters of a Callable.
        return f"[{_names(annotation)}]"
    origin = get_origin(annotation)
    return _plain_name(annotation) if origin is None else _generic_name(annotation, origin)


def _plain_name(annotation: Any) -> str:
    name = getattr(annotation, "__qualname__", None) or getattr(annotation, "__name__", None)
    # Classes made inside functions are known to their author without the function.
    return str(name).rpartition("<locals>.")[2] if name else str(annotation).removeprefix("typing.")


def _generic_name(annotation: Any, origin: Any) -> str:
    args = get_args(annotation)
    if origin is Annotated:
        base, *marks = args
        native = any(type(mark).__name__ == "NativeMarker" for mark in marks)
        return f"Native[{_name(base)}]" if native else _name(base)
    if origin in _UNIONS:
        last = [part for part in args if part is types.NoneType]
        return " | ".join(map(_name, [part for part in args if part is not types.NoneType] + last))
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, args))}]"
    inside = _names(args) if args else "()"
    return f"{_name(origin)}[{inside}]"


def _names(annotations: Sequence[Any]) -> str:
    return ", ".join(map(_name, annotations))


def _field_name(field: FieldOf) -> str:
    info = field.model.model_fields.get(field.name)
    if info is not None:
        return _name(info.annotation)
    computed = field.model.model_computed_fields.get(field.name)
    return "Any" if computed is None else _name(computed.return_type)


def _constant_name(value: Any) -> str:
    if value is None or type(value) in (bool, int, str):
        return f"Literal[{value!r}]"
    return _name(type(value))
