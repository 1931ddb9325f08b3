"""From a return annotation to an output model.

Decides how the result of a function becomes named outputs. Values are taken from the result as they are: a dataclass
is read field by field, never through `asdict`, which copies. Only `@tool` comes here, once per function.
"""

from __future__ import annotations

import collections.abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Optional, get_args, get_origin

from pydantic import BaseModel
from typing_extensions import NotRequired, ReadOnly, Required, is_typeddict

from chainweaver.tools.native import keep_bare_containers
from chainweaver.tools.signature import Source, build_model, class_hints

MAPPINGS = (dict, Mapping, collections.abc.MutableMapping)
AWAITABLES = (collections.abc.Awaitable, collections.abc.Coroutine)
STREAMS = (
    collections.abc.AsyncGenerator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncIterator,
    collections.abc.Generator,
)
_STREAMED = "return Stream[T], make a StreamingTool of it, or return a list"
Shape = Callable[[Any], Any]


class Returned(NamedTuple):
    """How a result becomes outputs.

    Attributes:
        model: What the outputs are validated with.
        shape: Turns the result into a mapping or a model; None when it is one already.
        output: The name of the single output, when the result itself is it.
    """

    model: type[BaseModel]
    shape: Shape | None = None
    output: str | None = None


def read_result(hint: Any, source: Source, *, output: str | None, output_schema: type[BaseModel] | None) -> Returned:
    """Decide how the result of a function becomes outputs.

    Args:
        hint: The resolved return annotation; Any when there is none.
        source: The function.
        output: What the author calls the single output.
        output_schema: What the author wants the outputs to be validated with.

    Raises:
        ToolDefinitionError: The annotation gives no outputs, or contradicts the other two arguments.
    """
    if output is not None:
        if output_schema is not None:
            raise source.refusal("output= and output_schema= exclude each other", "leave one of them out")
        return single_output(hint, source, output)
    fields = named_fields(hint, source)
    if output_schema is not None:
        if fields is None and not may_be_mapping(hint):
            raise source.refusal(
                f"its result {type_text(hint)} cannot fill output_schema {output_schema.__name__}",
                "return a dict or a model, or use output='name' for a single output",
            )
        return Returned(output_schema, field_reader(hint))
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return Returned(hint)
    if hint in (None, type(None)):
        return Returned(build_model(f"{source.tool_name}_output", {}, source), nothing)
    if fields is not None:
        return Returned(build_model(f"{source.tool_name}_output", fields, source), field_reader(hint))
    if (get_origin(hint) or hint) in MAPPINGS:
        raise source.refusal(
            f"{type_text(hint)} does not say which outputs there are",
            "return a TypedDict, a dataclass or a model, or pass output_schema= or output='name'",
        )
    return single_output(hint, source, source.tool_name)


def type_text(hint: Any) -> str:
    """An annotation as one would write it."""
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


def single_output(hint: Any, source: Source, output: str) -> Returned:
    """The result itself is the one output."""
    if (get_origin(hint) or hint) in STREAMS:
        raise source.refusal(f"it returns {type_text(hint)}, a stream", _STREAMED)
    if not output.isidentifier() or output.startswith("_"):
        raise source.refusal(
            f"'{output}' is no name for an output", "name it with output=: letters, digits and inner underscores"
        )
    if output.startswith("model_") and hasattr(BaseModel, output):
        raise source.refusal(
            f"'{output}' is a name that pydantic models need themselves", "choose another with output="
        )
    model = build_model(f"{source.tool_name}_output", {output: (keep_bare_containers(hint), ...)}, source)
    return Returned(model, lambda value: {output: value}, output)


def nothing(_: None) -> dict[str, Any]:
    """The outputs of a function that returns None."""
    return {}


def may_be_mapping(hint: Any) -> bool:
    """Whether a result so annotated can be a mapping or a model of named outputs."""
    origin = get_origin(hint) or hint
    if origin in MAPPINGS or origin in (Any, object):
        return True
    return isinstance(origin, type) and issubclass(origin, (BaseModel, collections.abc.Mapping))


def named_fields(hint: Any, source: Source) -> dict[str, Any] | None:
    """The fields of a TypedDict, dataclass or NamedTuple, ready for `create_model`; None for other annotations."""
    if is_typeddict(hint):
        return {name: typed_dict_field(hint, name, kind) for name, kind in class_hints(hint, source).items()}
    if not is_record_class(hint):
        return None
    hints = class_hints(hint, source)
    names = [one.name for one in dataclasses.fields(hint)] if dataclasses.is_dataclass(hint) else hint._fields
    return {name: (keep_bare_containers(hints.get(name, Any)), ...) for name in names}


def typed_dict_field(hint: Any, name: str, kind: Any) -> tuple[Any, Any]:
    """The field of one key; where a key that may be missing is missing, the output is None."""
    required = name in hint.__required_keys__
    while get_origin(kind) in (Required, NotRequired, ReadOnly):
        required = get_origin(kind) is Required or (required and get_origin(kind) is not NotRequired)
        [kind] = get_args(kind)
    kind = keep_bare_containers(kind)
    return (kind, ...) if required else (Optional[kind], None)  # noqa: UP045 - the member is computed


def is_record_class(hint: Any) -> bool:
    """Whether this is a dataclass or a NamedTuple class."""
    if not isinstance(hint, type):
        return False
    return dataclasses.is_dataclass(hint) or (issubclass(hint, tuple) and hasattr(hint, "_fields"))


def field_reader(hint: Any) -> Shape | None:
    """A function that reads the fields of a dataclass or NamedTuple into a dict; None for other annotations.

    A result of another class is handed on, so that output validation can say what it is.
    """
    if not is_record_class(hint):
        return None
    if dataclasses.is_dataclass(hint):
        names = tuple(one.name for one in dataclasses.fields(hint))
    else:
        names = tuple(hint._fields)

    def read_fields(result: Any) -> Any:
        return {name: getattr(result, name) for name in names} if isinstance(result, hint) else result

    return read_fields
