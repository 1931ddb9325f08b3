"""From a signature to an input model.

Reads what a function says about its parameters and its result, complains about everything that is missing at once,
and makes the model `<name>_input`. Only `@tool` comes here, once per function.
"""

from __future__ import annotations

import inspect
import typing
import warnings
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import SchemaError

from chainweaver.exceptions import ToolDefinitionError
from chainweaver.tools.definition import CONTEXT_PARAMETER, is_context_annotation
from chainweaver.tools.native import keep_bare_containers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MODEL_CONFIG = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())
UNRESOLVED = (NameError, SyntaxError, TypeError, AttributeError)
RESOLVE_FIX = "import the type at run time (not under TYPE_CHECKING) and define it before the function"
Parameter = inspect.Parameter


@dataclass(frozen=True)
class Source:
    """The function that a tool is made of.

    Attributes:
        fn: The function, sync or async.
        tool_name: Name of the tool; its models are named after it.
        namespace: Names around the definition, for annotations that are text.
    """

    fn: Callable[..., Any]
    tool_name: str
    namespace: Mapping[str, Any]

    def refusal(self, detail: str, fix: str) -> ToolDefinitionError:
        """The error about something in this function."""
        return ToolDefinitionError(self.fn.__name__, detail, where=self.place, fix=fix)

    @property
    def place(self) -> str:
        """Where the function stands: "orders.py:12, in module shop.orders"."""
        code = self.fn.__code__
        file = code.co_filename.replace("\\", "/").rpartition("/")[2]
        return f"{file}:{code.co_firstlineno}, in module {self.fn.__module__}"


@dataclass
class Reading:
    """What a signature says.

    Attributes:
        parameters: The parameters that are input fields, by name.
        hints: Resolved annotations by parameter name, and "return".
        wants_context: Whether the call is to receive its ToolContext.
        problems: What cannot be read, with the way to put it right, in the order of the signature.
    """

    parameters: dict[str, inspect.Parameter] = field(default_factory=dict)
    hints: dict[str, Any] = field(default_factory=dict)
    wants_context: bool = False
    problems: list[tuple[str, str]] = field(default_factory=list)


def read_signature(source: Source, *, return_needed: bool) -> Reading:
    """Read parameters and annotations of a function.

    Args:
        source: The function.
        return_needed: Whether a missing return annotation is a problem.

    Raises:
        ToolDefinitionError: Something cannot become an input field; every such thing is named.
    """
    signature = inspect.signature(source.fn)
    reading = Reading()
    reading.hints = resolve_hints(source, reading.problems)
    for parameter in signature.parameters.values():
        annotation = reading.hints.get(parameter.name, parameter.annotation)
        if parameter.name == CONTEXT_PARAMETER and is_context_annotation(annotation):
            reading.wants_context = True
        else:
            reading.problems.extend(parameter_problems(parameter, annotation))
            reading.parameters[parameter.name] = parameter
    if return_needed and signature.return_annotation is inspect.Signature.empty:
        reading.problems.append(("Missing a return type annotation", "annotate the result, e.g. `-> int`"))
    if reading.problems:
        problems, fixes = zip(*reading.problems, strict=True)
        raise source.refusal("; ".join(problems), "; ".join(dict.fromkeys(fixes)))
    return reading


def parameter_problems(parameter: inspect.Parameter, annotation: Any) -> Iterator[tuple[str, str]]:
    """Why a parameter cannot be an input field, and what to do."""
    name = parameter.name
    if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
        stars = "*" if parameter.kind is Parameter.VAR_POSITIONAL else "**"
        yield f"Parameter '{stars}{name}' has no fields", "name every input as a parameter of its own"
        return
    if parameter.kind is Parameter.POSITIONAL_ONLY:
        yield f"Parameter '{name}' is positional-only", "remove the '/': inputs are passed by name"
    if annotation is Parameter.empty:
        yield f"Missing a type annotation for parameter '{name}'", "annotate every parameter, e.g. `count: int`"
    elif is_context_annotation(annotation):
        yield f"Parameter '{name}' is annotated ToolContext", f"name it '{CONTEXT_PARAMETER}'"
    if name.startswith("_"):
        yield f"Parameter '{name}' begins with an underscore", f"call it '{name.lstrip('_') or 'value'}'"
    if name.startswith("model_") and hasattr(BaseModel, name):
        yield f"Parameter '{name}' has a name that pydantic models need themselves", f"call it '{name[6:]}'"


def resolve_hints(source: Source, problems: list[tuple[str, str]]) -> dict[str, Any]:
    """The annotations of a function with text turned into types; those that do not resolve become problems."""
    inner = inspect.unwrap(source.fn)
    hints: dict[str, Any] = {}
    for name, annotation in inner.__annotations__.items():
        if name == CONTEXT_PARAMETER and is_context_annotation(annotation):
            # Often imported under TYPE_CHECKING only; its name says enough.
            hints[name] = annotation
            continue
        holder = SimpleNamespace(__annotations__={name: annotation})
        try:
            hints.update(typing.get_type_hints(holder, inner.__globals__, dict(source.namespace), include_extras=True))
        except UNRESOLVED as exc:
            whose = "the result" if name == "return" else f"parameter '{name}'"
            problems.append((f"Failed to resolve type hints of {whose}: {exc}", RESOLVE_FIX))
            # Present all the same, so that nobody also complains about a missing annotation.
            hints[name] = Any
    return hints


def class_hints(cls: Any, source: Source) -> dict[str, Any]:
    """The annotations of the fields of a class that the function returns.

    Raises:
        ToolDefinitionError: They are text that does not resolve.
    """
    try:
        return typing.get_type_hints(cls, localns=dict(source.namespace), include_extras=True)
    except UNRESOLVED as exc:
        raise source.refusal(f"Failed to resolve type hints of {cls.__name__}: {exc}", RESOLVE_FIX) from exc


def input_model(source: Source, reading: Reading) -> type[BaseModel]:
    """The model `<name>_input`: one field per parameter, with its default and its metadata."""
    fields: dict[str, Any] = {}
    for name, parameter in reading.parameters.items():
        default = ... if parameter.default is Parameter.empty else parameter.default
        fields[name] = (keep_bare_containers(reading.hints[name]), default)
    return build_model(f"{source.tool_name}_input", fields, source)


def build_model(model_name: str, fields: dict[str, Any], source: Source) -> type[BaseModel]:
    """A model of these fields that takes classes unknown to pydantic by isinstance.

    Raises:
        ToolDefinitionError: Pydantic has no validation for one of the types.
    """
    try:
        with warnings.catch_warnings():
            # A parameter may be called `copy` or `schema`: nobody calls those old methods on these models.
            warnings.filterwarnings("ignore", message="Field name .* shadows an attribute in parent")
            model: type[BaseModel] = create_model(
                model_name, __config__=MODEL_CONFIG, __module__=source.fn.__module__, **fields
            )
    except (PydanticUserError, SchemaError, TypeError) as exc:
        reason = str(exc).partition("\n\n")[0]
        raise source.refusal(reason, "annotate with Native[...] what is to pass unchecked") from exc
    return model
