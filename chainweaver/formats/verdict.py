"""Whether plain values describe a flow, and if not, everything that is wrong with them.

The models of `chainweaver.flow` decide; this file only asks them, follows the paths that they complain about, and words
the answer for somebody who wrote a file and never saw a model. Called by `reading`.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from chainweaver.exceptions import suggest
from chainweaver.flow import DAGFlow, Flow
from chainweaver.flow.versions import is_version
from chainweaver.formats.complaints import Complaint, quoted
from chainweaver.formats.document import Document, Path, pointer
from chainweaver.formats.limits import FlowParseLimits
from chainweaver.formats.writing import FORMAT_VERSION

KINDS: dict[str, type[Flow] | type[DAGFlow]] = {"Flow": Flow, "DAGFlow": DAGFlow}
FILE_KEYS = ("type", "format_version")
# Nobody reads more; suggesting a name for each of 100 000 wrong keys would take minutes.
MAX_WORDED = 50
_YAML_1_1_FLAGS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
_WANTED = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_Fault = Any  # one entry of ValidationError.errors()


class Verdict:
    """The answer for one document.

    Attributes:
        complaints: What is wrong, in the order of the document's models. Empty when it describes a flow.
        unworded: How many further faults there are.
        dropped: Unknown keys that were dropped, where that was asked for; not more than 50 of them.
    """

    def __init__(self, document: Document, limits: FlowParseLimits) -> None:
        self.document = document
        self.limits = limits
        self.complaints: list[Complaint] = []
        self.unworded = 0
        self.dropped: list[Complaint] = []

    def read(self, *, drop_unknown: bool) -> Flow | DAGFlow | None:
        """The flow, or None with complaints. Works on the values of the document in place."""
        data = self.document.value
        kind = self.kind(data)
        if kind is None:
            return None
        self.check_format_version(data)
        self.check_step_count(data)
        if self.complaints:
            return None
        fields = {key: value for key, value in data.items() if key not in FILE_KEYS}
        surplus = [] if drop_unknown else [key for key in fields if key not in kind.model_fields][MAX_WORDED:]
        for key in surplus:
            # Nobody will be told of it, and for a model to refuse 100 000 keys takes longer than to read them.
            del fields[key]
        flow, faults = self.validated(kind, fields)
        if drop_unknown and any(fault["type"] == "extra_forbidden" for fault in faults):
            self.drop(kind, fields, faults)
            flow, faults = self.validated(kind, fields)
        self.check_version(fields)
        self.complaints += [self.worded(kind, fault) for fault in faults[:MAX_WORDED]]
        self.unworded = max(0, len(faults) - MAX_WORDED) + len(surplus)
        return None if self.complaints else flow

    def kind(self, data: Any) -> type[Flow] | type[DAGFlow] | None:
        known = tuple(KINDS)
        if not isinstance(data, dict):
            self.complain((), f"expected a mapping that describes a flow, not {quoted(data)}")
        elif "type" not in data:
            fix = "add the key type: Flow for a list of steps, DAGFlow for steps with depends_on"
            self.complain((), "the discriminator 'type' is missing", known=known, fix=fix)
        elif not isinstance(data["type"], str) or data["type"] not in KINDS:
            found = data["type"]
            near = _did_you_mean(found, known) if isinstance(found, str) else None
            self.complain(("type",), f"the discriminator 'type' is {quoted(found)}", known=known, fix=near)
        else:
            return KINDS[data["type"]]
        return None

    def check_format_version(self, data: dict[str, Any]) -> None:
        found = data.get("format_version", FORMAT_VERSION)
        if found == FORMAT_VERSION:
            return
        fix = f'write format_version: "{FORMAT_VERSION}"'
        if isinstance(found, str):
            fix += ", or read the file with the release of chainweaver that wrote it"
        self.complain(("format_version",), f"format version {quoted(found)} is not known", fix=fix)

    def check_step_count(self, data: dict[str, Any]) -> None:
        steps = data.get("steps")
        if isinstance(steps, list) and len(steps) > self.limits.max_steps:
            self.complain(("steps",), f"the flow has {len(steps)} steps, more than {self.limits.max_steps}")

    def check_version(self, fields: dict[str, Any]) -> None:
        """The models raise for a bad version by itself; here it joins the other complaints."""
        version = fields.get("version")
        if isinstance(version, str) and not _is_version(version):
            what = f"{quoted(version)} is no version as PEP 440 writes it"
            self.complain(("version",), what, fix="write it like 1.0.0 or 1.0rc1")

    def validated(
        self, kind: type[Flow] | type[DAGFlow], fields: dict[str, Any]
    ) -> tuple[Flow | DAGFlow | None, list[_Fault]]:
        version = fields.get("version")
        # A stand-in, so that a bad version does not hide the other faults; check_version speaks about it.
        bad = isinstance(version, str) and not _is_version(version)
        asked = {**fields, "version": "0"} if bad else fields
        faults = _faults(kind, asked)
        if isinstance(faults, list) and _make_whole(asked, faults):
            faults = _faults(kind, asked)
        return (None, faults) if isinstance(faults, list) else (faults, [])

    def drop(self, kind: type[BaseModel], fields: dict[str, Any], faults: list[_Fault]) -> None:
        for fault in faults:
            if fault["type"] == "extra_forbidden":
                *around, key = fault["loc"]
                del _at(fields, around)[key]
                if len(self.dropped) < MAX_WORDED:
                    self.dropped.append(self.worded(kind, fault))

    def worded(self, kind: type[BaseModel], fault: _Fault) -> Complaint:
        """A fault that Pydantic found, in our words."""
        path: Path = tuple(fault["loc"])
        found, context = fault["input"], fault.get("ctx", {})
        known: tuple[str, ...] = ()
        fix: str | None = None
        match fault["type"]:
            case "extra_forbidden":
                known = tuple(sorted(_fields_at(kind, path[:-1])))
                what, fix = f"unknown key {quoted(path[-1])}", _did_you_mean(str(path[-1]), known)
            case "missing":
                what, path = f"key {quoted(path[-1])} is missing", path[:-1]
            case wrong if wrong in _WANTED:
                what, fix = f"expected {_WANTED[wrong]}, not {quoted(found)}", _spelling(wrong, found)
            case "enum" | "literal_error":
                known = tuple(_choices(kind, path))
                what = f"{quoted(found)} is none of the permitted values"
                fix = _did_you_mean(found, known) if isinstance(found, str) else None
            case "string_too_short":
                what = "the text must not be empty"
            case "value_error":
                what = _cut(str(context.get("error", fault["msg"])).rstrip("."))
            case _:
                what = _cut(f"{fault['msg'][:1].lower()}{fault['msg'][1:]}") + f", not {quoted(found)}"
        return Complaint(what, pointer(path), self.document.position(path), known, fix)

    def complain(self, path: Path, what: str, *, known: tuple[str, ...] = (), fix: str | None = None) -> None:
        self.complaints.append(Complaint(what, pointer(path), self.document.position(path), known, fix))


def _is_version(text: str) -> bool:
    try:
        return is_version(text)
    except ValueError:
        # A number in it has more digits than the interpreter converts.
        return False


def _faults(kind: type[Flow] | type[DAGFlow], fields: dict[str, Any]) -> Flow | DAGFlow | list[_Fault]:
    try:
        return kind.model_validate(fields)
    except ValidationError as exc:
        return list(exc.errors(include_url=False))


def _make_whole(fields: dict[str, Any], faults: list[_Fault]) -> bool:
    """Turn 3.0 into 3 where a whole number is wanted: to JSON the two are one number."""
    changed = False
    for fault in faults:
        found = fault["input"]
        if fault["type"] == "int_type" and isinstance(found, float) and found.is_integer():
            *around, key = fault["loc"]
            _at(fields, around)[key] = int(found)
            changed = True
    return changed


def _cut(text: str) -> str:
    """Messages of models may repeat the whole text that they refuse."""
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= 300 else f"{text[:300]}..."


def _at(data: Any, path: list[Any]) -> Any:
    for part in path:
        data = data[part]
    return data


def _did_you_mean(found: str, known: tuple[str, ...]) -> str | None:
    # Comparing takes time that grows with the length; nobody mistyped 100 000 characters.
    if len(found) > 100:
        return None
    folded = {name.casefold(): name for name in known}
    near = folded.get(found.casefold()) or suggest(found, known)
    return f"did you mean '{near}'?" if near else None


def _spelling(wanted: str, found: Any) -> str | None:
    """How to spell what was probably meant."""
    if wanted == "string_type" and isinstance(found, (bool, int, float)):
        return "write it in quotes"
    if wanted == "bool_type" and isinstance(found, str):
        flag = _YAML_1_1_FLAGS.get(found.lower(), found.lower())
        return f"write {flag}, without quotes" if flag in ("true", "false") else None
    if wanted in ("int_type", "float_type") and isinstance(found, str) and found[:1].isdigit():
        return "write the number without quotes"
    return None


def _fields_at(kind: type[BaseModel], path: Path) -> Iterator[str]:
    """The keys that the model at this path knows."""
    found = [part for part in _types_at(kind, path) if isinstance(part, type) and issubclass(part, BaseModel)]
    for model in found:
        yield from model.model_fields
    if not path:
        yield from FILE_KEYS


def _choices(kind: type[BaseModel], path: Path) -> Iterator[str]:
    for part in _types_at(kind, path):
        if get_origin(part) is not None:
            yield from (str(choice) for choice in get_args(part))
        elif hasattr(part, "__members__"):
            yield from (member.value for member in part)


def _types_at(annotation: Any, path: Path) -> list[Any]:
    """The alternatives of the annotation that a path leads to, `None` left out."""
    alternatives = [part for part in _alternatives(annotation) if part is not type(None)]
    if not path:
        return alternatives
    found: list[Any] = []
    for part in alternatives:
        if isinstance(part, type) and issubclass(part, BaseModel) and path[0] in part.model_fields:
            found += _types_at(part.model_fields[str(path[0])].annotation, path[1:])
        elif get_origin(part) in (list, tuple, dict):
            item = get_args(part)[1 if get_origin(part) is dict else 0]
            found += _types_at(item, path[1:])
    return found


def _alternatives(annotation: Any) -> Iterator[Any]:
    if hasattr(annotation, "__metadata__"):
        yield from _alternatives(annotation.__origin__)
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _alternatives(part)
    else:
        yield annotation
