"""A copy of a flow that shares nothing with the original that either side could change.

Containers are copied, frozen policies are shared, and so are values of foreign classes inside literals: a lock or an
open file in a literal cannot be copied. Called by the registry and by FlowBuilder.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from pydantic import BaseModel

from chainweaver.flow.definition import DAGFlow, Flow

__all__ = ["copy_flow"]

_FlowT = TypeVar("_FlowT", bound=Flow | DAGFlow)
_ModelT = TypeVar("_ModelT", bound=BaseModel)


def copy_flow(flow: _FlowT, **changes: Any) -> _FlowT:
    """A copy of the flow with steps, mappings and lists of its own.

    Args:
        flow: The flow; it stays as it is.
        changes: Fields that have another value in the copy. They are taken as they are.

    >>> flow = Flow(name="a", description="", steps=[])
    >>> copy_flow(flow, version="2.0").version, flow.version
    ('2.0', '0.1.0')
    """
    copied = _with_own_containers(flow)
    copied.__dict__.update(changes)
    copied.__pydantic_fields_set__.update(changes)
    return copied


def _with_own_containers(model: _ModelT) -> _ModelT:
    # copy.copy gives the model a __dict__ of its own and validates nothing: the values were validated once.
    copied = copy.copy(model)
    for name, value in model.__dict__.items():
        if type(value) in (dict, list, tuple, set) and value:
            copied.__dict__[name] = _copied(value, {})
    return copied


def _copied(value: Any, done: dict[int, Any]) -> Any:
    """The value with new containers all the way down; `done` keeps circles and shared parts as they are."""
    kind = type(value)
    if kind not in (dict, list, tuple, set):
        # The steps of a flow are the only definitions inside a container that can be assigned to.
        return _with_own_containers(value) if isinstance(value, BaseModel) and not _is_frozen(value) else value
    if id(value) in done:
        return done[id(value)]
    if kind is dict:
        copied: dict[Any, Any] = {}
        done[id(value)] = copied
        copied.update((key, _copied(item, done)) for key, item in value.items())
        return copied
    if kind is list:
        items: list[Any] = []
        done[id(value)] = items
        items.extend(_copied(item, done) for item in value)
        return items
    return kind(_copied(item, done) for item in value) if kind is tuple else set(value)


def _is_frozen(model: BaseModel) -> bool:
    return bool(model.model_config.get("frozen"))
