"""Opening models: the output values of an instance by name, the objects themselves and never copies.

Called by the compiler, which binds an opener into every plan, and by `Tool.run`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel


def opener_of(model: type[BaseModel]) -> Callable[[Any], dict[str, Any]]:
    """A function that gives fields, extra values and computed fields of an instance by name; excluded fields stay out.

    >>> class Rows(BaseModel):
    ...     rows: list[int]
    >>> filled = Rows(rows=[1])
    >>> opener_of(Rows)(filled)["rows"] is filled.rows
    True
    """
    names = tuple(name for name, info in model.model_fields.items() if not info.exclude)
    computed = tuple(model.model_computed_fields)

    def open_output(instance: Any) -> dict[str, Any]:
        values = instance.__dict__
        opened = {name: values[name] for name in names}
        if instance.__pydantic_extra__:
            opened.update(instance.__pydantic_extra__)
        for name in computed:
            opened[name] = getattr(instance, name)
        return opened

    return open_output


def foreign_fields(model: type[BaseModel], returned: object) -> dict[str, Any] | None:
    """The values of an instance of another model class than `model`, None for everything else.

    A tool may return any model whose fields fit; pydantic itself takes instances of the very class and mappings only.
    """
    if not isinstance(returned, BaseModel) or isinstance(returned, model):
        return None
    return opener_of(type(returned))(returned)
