"""From a dict, JSON text or YAML text to a flow.

The parsers deliver plain values with their places; here they become a `Flow` or a `DAGFlow`, and whatever the models
refuse is worded by `verdict`. Strict reading refuses unknown keys, lenient reading drops them with a warning. Called by
users, the registry, stores and the command line.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path as FilePath
from typing import Any

from chainweaver.flow import DAGFlow, Flow
from chainweaver.flow.ref_check import check_refs
from chainweaver.flow.refs import DEFAULT_REF_POLICY, SchemaRefPolicy
from chainweaver.formats.complaints import Complaint, FlowFormatWarning, quoted, refusal, serialization_error
from chainweaver.formats.document import Document, Path, pointer
from chainweaver.formats.json_text import read_json
from chainweaver.formats.limits import DEFAULT_LIMITS, FlowParseLimits
from chainweaver.formats.text import checked_text
from chainweaver.formats.values import PlainCopy
from chainweaver.formats.verdict import Verdict
from chainweaver.formats.yaml_text import read_yaml


def flow_from_dict(
    data: Mapping[str, Any],
    *,
    source: str | None = None,
    limits: FlowParseLimits = DEFAULT_LIMITS,
    strict: bool = True,
    policy: SchemaRefPolicy = DEFAULT_REF_POLICY,
) -> Flow | DAGFlow:
    """The flow that a dict of plain JSON values describes; `flow_to_dict` is the way back.

    Args:
        data: The description. It must have the key `type`, "Flow" or "DAGFlow". The flow shares nothing with it.
        source: What to call it in messages.
        limits: Bounds; `max_bytes` does not apply.
        strict: Unknown keys are errors; otherwise they are dropped with a `FlowFormatWarning`.
        policy: Which classes the flow may name. Nothing is imported here, whatever it permits.

    Raises:
        FlowSerializationError: It describes no flow. All faults are listed, each with its JSON Pointer.
        SchemaRefPolicyError: It names classes that the policy does not permit; all are listed.

    >>> data = {"type": "Flow", "name": "sum", "description": "", "steps": [{"tool_name": "add"}]}
    >>> flow_from_dict(data).steps[0].tool_name
    'add'
    """
    if not isinstance(data, Mapping):
        raise refusal(f"expected a mapping, not {type(data).__name__}", source=source)
    copied = PlainCopy(source, limits).copy(dict(data), ())
    return _flow(Document(copied), source, limits, strict, policy)


def flow_from_json(
    data: str | bytes,
    *,
    source: str | None = None,
    limits: FlowParseLimits = DEFAULT_LIMITS,
    strict: bool = True,
    policy: SchemaRefPolicy = DEFAULT_REF_POLICY,
) -> Flow | DAGFlow:
    """The flow in a JSON text; `flow_to_json` is the way back.

    The text is read more strictly than `json.loads` would: no duplicate keys, no NaN, no number that a float cannot
    hold, no half surrogate pairs.

    Args:
        data: The text, or its UTF-8 bytes.
        source: Name of the file, for messages.
        limits: Bounds.
        strict: Unknown keys are errors; otherwise they are dropped with a `FlowFormatWarning`.
        policy: Which classes the flow may name. Nothing is imported here, whatever it permits.

    Raises:
        FlowSerializationError: The text is no JSON (line and column), or no flow (JSON Pointer, and line).
        SchemaRefPolicyError: It names classes that the policy does not permit; all are listed.
    """
    return _flow(_document(read_json, data, source, limits), source, limits, strict, policy)


def flow_from_yaml(
    data: str | bytes,
    *,
    source: str | None = None,
    limits: FlowParseLimits = DEFAULT_LIMITS,
    strict: bool = True,
    policy: SchemaRefPolicy = DEFAULT_REF_POLICY,
) -> Flow | DAGFlow:
    """The flow in a YAML text; `flow_to_yaml` is the way back. Needs the extra `yaml`.

    Plain data only: one document, no anchors, aliases, tags, merge keys or directives. Unquoted scalars mean what the
    YAML 1.2 core schema says: `no`, `on`, `1:30` and dates are text, only `true` and `false` are truth values. Numbers
    that YAML versions read differently (`010`, `0x1F`, `1_000`) are refused.

    Args:
        data: The text, or its UTF-8 bytes.
        source: Name of the file, for messages.
        limits: Bounds.
        strict: Unknown keys are errors; otherwise they are dropped with a `FlowFormatWarning`.
        policy: Which classes the flow may name. Nothing is imported here, whatever it permits.

    Raises:
        FlowSerializationError: The text is no YAML of this kind (line and column), or no flow (JSON Pointer, and
            line); or PyYAML is not installed.
        SchemaRefPolicyError: It names classes that the policy does not permit; all are listed.
    """
    return _flow(_document(read_yaml, data, source, limits), source, limits, strict, policy)


@dataclass(frozen=True)
class FlowFile:
    """A flow with the file that it came from.

    Attributes:
        flow: The flow.
        path: The file, as it was asked for.
    """

    flow: Flow | DAGFlow
    path: str
    _document: Document = field(repr=False, compare=False)

    def step_place(self, step: int) -> str:
        """Where a step stands, as editors understand it: "invoice.flow.yaml:14".

        Args:
            step: Position in `flow.steps`, from 0.
        """
        position = self._document.position(("steps", step))
        return self.path if position is None else f"{self.path}:{position.line}"


def read_flow_file(
    path: str | PathLike[str],
    *,
    limits: FlowParseLimits = DEFAULT_LIMITS,
    strict: bool = True,
    policy: SchemaRefPolicy = DEFAULT_REF_POLICY,
) -> FlowFile:
    """Read a flow file and remember where its steps stand; see `load_flow_file`."""
    name = str(path)
    parse = _PARSERS.get(FilePath(path).suffix.lower())
    if parse is None:
        raise refusal("the suffix of the file is not known", source=name, fix="name it .json, .yaml or .yml")
    with open(path, "rb") as file:
        # One byte more than allowed tells a file that is too large, however large it is.
        data = file.read(limits.max_bytes + 1)
    document = _document(parse, data, name, limits)
    return FlowFile(_flow(document, name, limits, strict, policy), name, document)


def load_flow_file(
    path: str | PathLike[str],
    *,
    limits: FlowParseLimits = DEFAULT_LIMITS,
    strict: bool = True,
    policy: SchemaRefPolicy = DEFAULT_REF_POLICY,
) -> Flow | DAGFlow:
    """The flow in a file; the suffix (.json, .yaml, .yml) says how to read it.

    Args:
        path: The file. Messages call it by this name.
        limits: Bounds.
        strict: Unknown keys are errors; otherwise they are dropped with a `FlowFormatWarning`.
        policy: Which classes the flow may name. Nothing is imported here, whatever it permits.

    Raises:
        FlowSerializationError: The file holds no flow, or its suffix is not known.
        SchemaRefPolicyError: It names classes that the policy does not permit; all are listed.
        OSError: The file cannot be opened.
    """
    return read_flow_file(path, limits=limits, strict=strict, policy=policy).flow


_Parser = Callable[..., Document]
_PARSERS: dict[str, _Parser] = {".json": read_json, ".yaml": read_yaml, ".yml": read_yaml}


def _document(parse: _Parser, data: str | bytes, source: str | None, limits: FlowParseLimits) -> Document:
    return parse(checked_text(data, source=source, limits=limits), source=source, limits=limits)


def _flow(
    document: Document, source: str | None, limits: FlowParseLimits, strict: bool, policy: SchemaRefPolicy
) -> Flow | DAGFlow:
    verdict = Verdict(document, limits)
    flow = verdict.read(drop_unknown=not strict)
    if flow is None:
        raise serialization_error(verdict.complaints, source=source, unworded=verdict.unworded)
    for dropped in verdict.dropped:
        _warn(dropped, source)
    check_refs(flow, policy, place=lambda path: _place_of(document, path, source))
    return flow


def _place_of(document: Document, path: Path, source: str | None) -> str:
    """A place in a document: "/steps/0/input_contract (invoice.flow.yaml:7)"."""
    where = Complaint("", position=document.position(path)).where(source)
    return f"{pointer(path)} ({where})" if where else pointer(path)


def _warn(dropped: Complaint, source: str | None) -> None:
    # The level leads from here through _flow and flow_from_* to the caller.
    where = f"{quoted(source)}: " if source else ""
    fix = f" ({dropped.fix})" if dropped.fix else ""
    warnings.warn(f"{where}{dropped.sentence()[:-1]} is ignored{fix}.", FlowFormatWarning, stacklevel=4)
