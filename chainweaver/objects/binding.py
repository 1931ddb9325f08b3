"""Functions bound to an output model: to plain values before a store writes them, and back after it read them.

The type of what is restored comes from the model alone; stored bytes never name one. Called by the executor once per
tool, for stores that want plain values.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from pydantic import BaseModel

from chainweaver.objects.annotations import field_shapes
from chainweaver.objects.plain import PlainEncodeError
from chainweaver.objects.shapes import ANYTHING, ShapeMismatch

Convert: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""Takes the values of an output model's fields by name; returns a new dict."""


class RestoreError(ValueError):
    """A stored value does not have the shape that the flow declares.

    Attributes:
        key: The field, with the way to the value inside of it where there is one.
        expected: What the annotation asks for.
        found: Name of the type that was found.

    >>> print(RestoreError("total", "int", "str"))
    stored value 'total' should be of type 'int' and is of type 'str'
    """

    def __init__(self, key: str, expected: str, found: str) -> None:
        super().__init__(key, expected, found)
        self.key = key
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return f"stored value {self.key!r} should be of type {self.expected!r} and is of type {self.found!r}"


def bind_reduce(output_model: type[BaseModel]) -> Convert:
    """A function that makes the outputs of a model plain, for stores that write bytes.

    It takes the live values of the fields by name and returns a new dict; plain values are passed on as they are.
    The function raises `PlainEncodeError`, with the key, for a secret, for an object whose type the annotation does
    not name (it could not be restored), and for values that are not of the declared type.

    >>> class Point(BaseModel):
    ...     x: int
    >>> class Found(BaseModel):
    ...     at: Point
    ...     label: str
    >>> bind_reduce(Found)({"at": Point(x=1), "label": "a"})
    {'at': {'x': 1}, 'label': 'a'}
    """
    shapes = field_shapes(output_model)

    def reduce(values: dict[str, Any]) -> dict[str, Any]:
        reduced = {}
        for key, value in values.items():
            shape = shapes.get(key, ANYTHING)
            try:
                reduced[key] = shape.reduce(value)
            except ShapeMismatch as mismatch:
                raise PlainEncodeError(key, mismatch.found, mismatch.reason) from None
            except RecursionError:
                raise PlainEncodeError(key, type(value).__qualname__, "it is nested too deeply") from None
        return reduced

    return reduce


def bind_restore(output_model: type[BaseModel]) -> Convert:
    """A function that gives the values which `bind_reduce` made plain their declared types back.

    Live values of the declared types pass untouched, so that the function also serves stores that keep objects.
    No validator, constructor or `__post_init__` of the user runs. The function raises `RestoreError` for values that
    cannot come from the declared types.

    >>> class Point(BaseModel):
    ...     x: int
    >>> class Found(BaseModel):
    ...     at: Point
    ...     label: str
    >>> bind_restore(Found)({"at": {"x": 1}, "label": "a"})
    {'at': Point(x=1), 'label': 'a'}
    """
    shapes = field_shapes(output_model)

    def restore(values: dict[str, Any]) -> dict[str, Any]:
        restored = {}
        for key, value in values.items():
            shape = shapes.get(key, ANYTHING)
            try:
                restored[key] = shape.restore(value)
            except ShapeMismatch as mismatch:
                raise RestoreError(key, mismatch.expected, mismatch.found) from mismatch
            except Exception as exc:  # bytes that were never written here, such as a list where a set of keys belongs
                raise RestoreError(key, shape.name, type(value).__qualname__) from exc
        return restored

    return restore


def secret_fields(output_model: type[BaseModel]) -> tuple[str, ...]:
    """The fields whose declared type holds a secret, which only a store with a cipher may take.

    >>> from pydantic import SecretStr
    >>> class Login(BaseModel):
    ...     user: str
    ...     password: SecretStr
    >>> secret_fields(Login)
    ('password',)
    """
    return tuple(name for name, shape in field_shapes(output_model).items() if shape.holds_secret(set()))
