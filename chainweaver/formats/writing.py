"""From a flow to a dict, JSON text or YAML text.

What is written reads back as an equal flow: fields at their defaults are left out, keys are sorted, and a literal that
JSON would change (a tuple, a date, NaN) is an error instead of a surprise. Called by users and by flow stores.
"""

from __future__ import annotations

import json
from enum import Enum
from functools import lru_cache
from typing import Any, get_args

from pydantic import BaseModel

from chainweaver.flow import DAGFlow, Flow
from chainweaver.formats.complaints import refusal
from chainweaver.formats.document import Path
from chainweaver.formats.limits import DEFAULT_LIMITS
from chainweaver.formats.values import PlainCopy
from chainweaver.formats.yaml_text import reads_as_text, yaml_library

FORMAT_VERSION = "1"


def flow_to_dict(flow: Flow | DAGFlow) -> dict[str, Any]:
    """The flow as plain JSON values, with the keys `type` and `format_version`; it shares nothing with the flow.

    Raises:
        FlowSerializationError: A literal of some step is nothing that JSON can carry; the pointer says which.

    >>> from chainweaver.flow import Flow, FlowStep
    >>> flow = Flow(name="sum", description="Adds up.", steps=[FlowStep(tool_name="add")])
    >>> flow_to_dict(flow)["steps"]
    [{'tool_name': 'add'}]
    """
    if not isinstance(flow, (Flow, DAGFlow)):
        raise refusal(f"expected a Flow or a DAGFlow, not {type(flow).__name__}", source=None)
    kind = "DAGFlow" if isinstance(flow, DAGFlow) else "Flow"
    copier = PlainCopy(flow.name, DEFAULT_LIMITS)
    written = _fields(flow, (), copier)
    return dict(sorted({**written, "type": kind, "format_version": FORMAT_VERSION, "version": flow.version}.items()))


def flow_to_json(flow: Flow | DAGFlow, *, indent: int | None = 2) -> str:
    """The flow as the text of a `.flow.json` file, keys sorted.

    Args:
        flow: The flow.
        indent: Spaces per level; None: one line.

    Raises:
        FlowSerializationError: As for `flow_to_dict`.
    """
    return json.dumps(flow_to_dict(flow), indent=indent, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def flow_to_yaml(flow: Flow | DAGFlow) -> str:
    """The flow as the text of a `.flow.yaml` file, keys sorted; needs the extra `yaml`.

    Raises:
        FlowSerializationError: As for `flow_to_dict`, or PyYAML is not installed.
    """
    text: str = yaml_library().dump(
        flow_to_dict(flow),
        Dumper=_dumper(),
        sort_keys=True,
        allow_unicode=True,
        default_flow_style=False,
        width=2**31,
    )
    return text


def _fields(model: BaseModel, path: Path, copier: PlainCopy) -> dict[str, Any]:
    """The fields of a model that differ from their defaults."""
    written = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if not field.is_required() and value == field.get_default(call_default_factory=True, validated_data={}):
            continue
        if Any in get_args(field.annotation):
            written[name] = copier.copy(value, (*path, name))
        else:
            written[name] = _typed(value, (*path, name), copier)
    return dict(sorted(written.items()))


def _typed(value: Any, path: Path, copier: PlainCopy) -> Any:
    """A value whose type the model knows: tuples, enums and models come back from JSON as what they were."""
    if isinstance(value, BaseModel):
        return _fields(value, path, copier)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [_typed(item, (*path, index), copier) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {copier.key(key, path): _typed(item, (*path, key), copier) for key, item in value.items()}
    return copier.copy(value, path)


@lru_cache(maxsize=1)
def _dumper() -> Any:
    """A PyYAML dumper that quotes whatever our reader would not take for the same text."""
    yaml = yaml_library()

    base: Any = yaml.SafeDumper

    # PyYAML's own emitter, not libyaml's: the two break lines differently, and a file must not depend on the machine.
    class Dumper(base):  # type: ignore[misc]  # only known once PyYAML is imported
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def represent_text(dumper: Any, text: str) -> Any:
        style = None if reads_as_text(text) else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, represent_text)
    return Dumper


__all__ = ["FORMAT_VERSION", "flow_to_dict", "flow_to_json", "flow_to_yaml"]
