"""Describes the public names as plain data: signatures, methods, fields, bases. Judges nothing.

The description is text that is the same on every supported Python, so that one stored snapshot serves all of them.
"""

from __future__ import annotations

import enum
import inspect
import re
import types
from typing import Annotated, Any, ForwardRef, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined


def describe(value: Any) -> Any:
    """A JSON-ready description of one public object."""
    if inspect.isclass(value):
        return _class(value)
    if inspect.isfunction(value):
        return f"def{_signature(value)}"
    return type(value).__name__


def _class(kind: type) -> dict[str, Any]:
    described: dict[str, Any] = {"bases": [base.__name__ for base in kind.__bases__ if base is not object]}
    if issubclass(kind, enum.Enum):
        return {**described, "members": {member.name: str(member.value) for member in kind}}
    if issubclass(kind, BaseModel):
        kind.model_rebuild()  # names of classes further down resolve on first use, which may or may not have been
        described["fields"] = {name: _field(field) for name, field in kind.model_fields.items()}
    else:
        described["init"] = _signature(kind.__init__)
    if code := vars(kind).get("code"):
        described["code"] = code
    described["members"] = {
        name: _member(kind, name) for name in sorted(_own_names(kind)) if name not in described.get("fields", ())
    }
    return described


def _own_names(kind: type) -> set[str]:
    """Public names that a class got from this library, not from its foreign bases."""
    ours = [base for base in kind.__mro__ if base.__module__.split(".")[0] == "chainweaver"]
    return {name for base in ours for name in vars(base) if not name.startswith("_") and name not in _PLUMBING}


_PLUMBING = frozenset({"model_config", "model_post_init", "model_fields", "model_computed_fields", "code"})


def _member(kind: type, name: str) -> str:
    found = inspect.getattr_static(kind, name)
    if isinstance(found, (staticmethod, classmethod)):
        return f"{type(found).__name__} {_signature(found.__func__)}"
    if inspect.isfunction(found):
        return f"{'async ' if inspect.iscoroutinefunction(found) else ''}def{_signature(found)}"
    if isinstance(found, property) or hasattr(found, "func"):
        return "property"
    return "attribute"


def _field(field: Any) -> str:
    if field.is_required():
        default = ""
    elif field.default is PydanticUndefined:
        default = f" = {getattr(field.default_factory, '__name__', 'factory')}()"
    else:
        default = f" = {field.default!r}"
    return _stable(f"{_written(field.annotation)}{default}")


def _written(annotation: Any) -> str:
    """An annotation as a user would write it: constraints left out, unions as `A | B`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is None or annotation is type(None):
        return "None"
    if annotation is ...:
        return "..."
    if isinstance(annotation, ForwardRef):  # a model that nobody has used yet: the same as after its first use
        return annotation.__forward_arg__
    if origin is Annotated:
        return _written(args[0])
    if origin in (Union, types.UnionType):
        return " | ".join(map(_written, args))
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, args))}]"
    if origin is not None:
        inside = ", ".join(map(_written, args))
        return f"{getattr(origin, '__name__', origin)}[{inside}]"
    if isinstance(annotation, list):
        return f"[{', '.join(map(_written, annotation))}]"
    return str(getattr(annotation, "__name__", annotation))


def _signature(function: Any) -> str:
    try:
        return _stable(str(inspect.signature(function)))
    except (TypeError, ValueError):
        return "(...)"


def _stable(text: str) -> str:
    """Text without addresses and module names, which differ between processes and Python versions."""
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    text = re.sub(r"<(?:enum )?([\w.]+): [^>]*>", r"\1", text)
    text = re.sub(r"\b(?:typing|typing_extensions|collections\.abc|pathlib|datetime|chainweaver(?:\.\w+)*)\.", "", text)
    return text.replace("NoneType", "None").replace("_local.Path", "Path")
