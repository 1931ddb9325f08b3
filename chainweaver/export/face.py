"""What an exported function shows to Python, and how its arguments become inputs.

The signature, the annotations and the documentation are those that a careful author would have written by hand. Nothing
is called here. Called by `callables`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from chainweaver.compiler.models import ModelFacts
from chainweaver.exceptions import ExportError
from chainweaver.export.fields import LEFT_OUT, annotated, default_of, input_keys
from chainweaver.export.names import python_name

F = TypeVar("F", bound=Callable[..., Any])
EMPTY = inspect.Parameter.empty


class Argument(NamedTuple):
    """A parameter of a function, and the input key that it stands for."""

    key: str
    parameter: inspect.Parameter
    description: str | None


@dataclass(frozen=True, slots=True)
class Face:
    """The outside of a function.

    Attributes:
        arguments: By the name of the parameter, in the order of the signature.
        rest: Name of the parameter that takes all other keywords; None where there are no others.
        check: Raises for inputs that do not fit; None where they are checked by what is called.
    """

    name: str
    description: str
    returns: str
    arguments: dict[str, Argument]
    rest: str | None
    check: Callable[[dict[str, Any]], None] | None

    @classmethod
    def of(
        cls,
        model: type[BaseModel],
        *,
        subject: str,
        name: str,
        description: str,
        returns: str,
        hidden: Collection[str] = (),
        check: Callable[[dict[str, Any]], None] | None = None,
    ) -> Face:
        """The face of a function that takes what a model takes.

        Args:
            subject: What messages call the thing: "flow 'invoice'".
            hidden: Keys that are given otherwise.

        Raises:
            ExportError: The model requires a hidden key.
        """
        arguments: dict[str, Argument] = {}
        for key, info in input_keys(ModelFacts(model)).items():
            if key not in hidden:
                parameter = python_name(key)
                while parameter in arguments:
                    parameter += "_"
                arguments[parameter] = _argument(key, parameter, info)
            elif info is not None and info.is_required():
                detail = f"its input schema requires '{key}', which is a dynamic parameter and no argument"
                fix = "take it out of the input schema, or give it a default there"
                raise ExportError(subject, "a function", detail, fix=fix)
        # What has no default comes first, as Python wants it.
        ordered = sorted(arguments.items(), key=lambda item: item[1].parameter.default is not EMPTY)
        rest = None
        if model.model_config.get("extra") == "allow":
            rest = "others"
            while rest in arguments:
                rest += "_"
        return cls(name, description, returns, dict(ordered), rest, check)

    @property
    def signature(self) -> inspect.Signature:
        parameters = [one.parameter for one in self.arguments.values()]
        if self.rest is not None:
            parameters.append(inspect.Parameter(self.rest, inspect.Parameter.VAR_KEYWORD, annotation=Any))
        return inspect.Signature(parameters, return_annotation=dict[str, Any])

    def put_on(self, function: F) -> F:
        """Let a function show this face; the function itself is returned."""
        signature = self.signature
        annotations = {name: one.annotation for name, one in signature.parameters.items()}
        function.__name__ = function.__qualname__ = self.name
        function.__doc__ = self._doc()
        function.__annotations__ = {**annotations, "return": signature.return_annotation}
        function.__signature__ = signature  # type: ignore[attr-defined]  # what inspect.signature looks for
        return function

    def _doc(self) -> str:
        told = [f"    {name}: {one.description}" for name, one in self.arguments.items() if one.description]
        arguments = ["", "Args:", *told] if told else []
        return "\n".join([self.description, *arguments, "", "Returns:", f"    {self.returns}", ""])

    def inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The inputs that these arguments stand for.

        Raises:
            TypeError: They do not fit the signature.
            SchemaValidationError: A value does not fit its type.
        """
        names = {one.key: name for name, one in self.arguments.items()}
        renamed = {names.get(key, key): value for key, value in kwargs.items()}
        try:
            if len(renamed) < len(kwargs):
                raise TypeError("an argument is given under two names")
            bound = self.signature.bind(*args, **renamed).arguments
        except TypeError as exc:
            raise TypeError(f"{self.name}(): {exc}") from None
        others = bound.pop(self.rest, {}) if self.rest is not None else {}
        given = {self.arguments[name].key: value for name, value in bound.items() if value is not LEFT_OUT}
        inputs = {**given, **others}
        if self.check is not None:
            self.check(inputs)
        return inputs


def _argument(key: str, name: str, info: FieldInfo | None) -> Argument:
    required = info is not None and info.is_required()
    parameter = inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=EMPTY if required else default_of(info),
        annotation=_annotation(info),
    )
    return Argument(key, parameter, None if info is None else info.description)


def _annotation(info: FieldInfo | None) -> Any:
    """The type, with what else a framework can read off it."""
    if info is None:
        return Any
    described = [] if info.description is None else [Field(description=info.description)]
    return annotated(info.annotation, [*info.metadata, *described])
