"""A guarded YAML reader: plain data, YAML 1.2 scalars, no surprises.

Works on parser events, one after the other, and never lets the YAML library compose or construct anything: nesting,
size, anchors, aliases, tags, duplicate keys and further documents are refused at the event that shows them. Plain
scalars mean what the YAML 1.2 core schema says (`no` is text), and what YAML 1.1 and 1.2 read as different numbers
(`010`, `1_000`, `0x1F`) is refused. PyYAML (extra `yaml`) is imported here, on the first use, and nowhere else.

Source: YAML 1.2.2, section 10.3 (core schema).
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from chainweaver.exceptions import FlowSerializationError, MissingExtraError
from chainweaver.formats.complaints import quoted, refusal
from chainweaver.formats.document import Document, Lines, Place, Position, offset_of
from chainweaver.formats.limits import MAX_NUMBER_LENGTH, FlowParseLimits
from chainweaver.formats.text import LONE_SURROGATE

# PyYAML without libyaml reads some 100 kB of hostile text per second; so little of it never blocks for long.
PURE_PYTHON_MAX_LENGTH = 64 * 1024

_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
# Numbers to one version of YAML and text, or another number, to the other.
_TWO_MEANINGS = re.compile(
    r"[-+]?(?:0[0-9_]+(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?|0o[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+"
    r"|[0-9][0-9_]*_[0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?|[0-9]+\.[0-9_]*_[0-9_]*(?:[eE][-+]?[0-9]+)?)"
)
_FIRST_CONTENT = re.compile(r"^[ \t]*[^\s#]", re.MULTILINE)
# What YAML allows in a text; tabs and line breaks included.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def yaml_library() -> Any:
    """The PyYAML module.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module("yaml")
    except ImportError as exc:
        fix = "pip install 'chainweaver[yaml]', or use JSON"
        raise MissingExtraError("yaml", "YAML", why="PyYAML is not installed", fix=fix) from exc


class _Open:
    """A sequence or mapping that is not closed yet; `key` is None where a mapping waits for its next key."""

    __slots__ = ("key", "parts", "place", "value")

    def __init__(self, value: dict[str, Any] | list[Any], place: Place) -> None:
        self.value = value
        self.place = place
        self.parts = place.parts
        self.key: str | None = None

    @property
    def wants_key(self) -> bool:
        return self.key is None and isinstance(self.value, dict)

    def add(self, value: Any, place: Place | int) -> None:
        if isinstance(self.value, list):
            self.parts[len(self.value)] = place
            self.value.append(value)
        else:
            assert self.key is not None
            self.value[self.key] = value
            self.parts[self.key] = place
            self.key = None


class _YamlText:
    """One text being read, event by event."""

    def __init__(self, text: str, source: str | None, limits: FlowParseLimits) -> None:
        self.text = text
        self.source = source
        self.limits = limits
        self.lines = Lines(text)
        self.nodes = 0
        self.open: list[_Open] = []
        self.root: tuple[Any, Place | int] | None = None

    def read(self, yaml: Any) -> Document:
        for event in self.events(yaml):
            if isinstance(event, yaml.NodeEvent):
                self.check_node(yaml, event)
                self.node(yaml, event)
            elif isinstance(event, yaml.CollectionEndEvent):
                closed = self.open.pop()
                self.attach(closed.value, closed.place)
            elif isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
                self.fail("a second document begins", event, fix="keep one flow per file; remove the '---'")
        if self.root is None:
            raise refusal(
                "the text holds no document", source=self.source, position=Position(1, 1), fix="put a flow in it"
            )
        return Document(*self.root, self.lines)

    def events(self, yaml: Any) -> Iterator[Any]:
        """The parser's events, its complaints worded as ours."""
        loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
        try:
            yield from yaml.parse(self.text, Loader=loader)
        except FlowSerializationError:
            raise
        except yaml.MarkedYAMLError as exc:
            raise self.syntax_error(exc) from None
        except (yaml.YAMLError, ValueError, OverflowError) as exc:
            # The pure Python parser lets chr() speak where an escape names no character.
            raise refusal(f"not YAML: {quoted(str(exc), 200)}", source=self.source, position=Position(1, 1)) from None

    def syntax_error(self, exc: Any) -> FlowSerializationError:
        mark = exc.problem_mark or exc.context_mark
        what = ", ".join(part.strip() for part in (exc.problem, exc.context) if part) or "not YAML"
        position = self.lines.position(min(mark.index, len(self.text))) if mark else Position(1, 1)
        fix = "indent with spaces, not tabs" if mark and self.text.startswith("\t", mark.index) else None
        return refusal(what, source=self.source, position=position, fix=fix)

    def check_node(self, yaml: Any, event: Any) -> None:
        """Refuse what no flow needs: aliases, anchors, tags, and more values than the limit."""
        self.nodes += not (self.open and self.open[-1].wants_key)
        if self.nodes > self.limits.max_nodes:
            self.fail(f"the document holds more than {self.limits.max_nodes} values", event)
        if isinstance(event, yaml.AliasEvent):
            self.fail(f"alias {quoted('*' + event.anchor)} is not read", event, fix="repeat the value in full")
        if event.anchor is not None:
            self.fail(f"anchor {quoted('&' + event.anchor)} is not read", event, fix="remove it")
        if event.tag is not None:
            self.fail(
                f"tag {quoted(event.tag)} is not read",
                event,
                fix="remove it; write plain data, and text in quotes",
            )

    def node(self, yaml: Any, event: Any) -> None:
        start: int = event.start_mark.index
        if isinstance(event, yaml.ScalarEvent):
            value = self.scalar(event)
            if self.open and self.open[-1].wants_key:
                self.open[-1].key = self.checked_key(value, event)
            else:
                self.attach(value, start)
            return
        if self.open and self.open[-1].wants_key:
            self.fail("a list or mapping stands where a key should stand", event, fix="write keys as text")
        if len(self.open) >= self.limits.max_depth:
            self.fail(f"the document is nested more than {self.limits.max_depth} levels deep", event)
        self.open.append(_Open({} if isinstance(event, yaml.MappingStartEvent) else [], Place(start)))

    def attach(self, value: Any, place: Place | int) -> None:
        if self.open:
            self.open[-1].add(value, place)
        else:
            self.root = (value, place)

    def checked_key(self, key: Any, event: Any) -> str:
        if not isinstance(key, str):
            self.fail(f"key {quoted(event.value)} is not text", event, fix=f'write "{event.value[:60]}" in quotes')
        if key == "<<" and event.implicit[0]:
            self.fail("merge keys ('<<') are not read", event, fix="write the merged keys in full")
        first = self.open[-1].parts.get(key)
        if first is not None:
            self.fail(
                f"key {quoted(key)} stands twice in one mapping",
                event,
                fix=f"its first value is at {self.lines.position(offset_of(first))}; remove one of the two",
            )
        return key

    def scalar(self, event: Any) -> Any:
        text: str = event.value
        if len(text) > self.limits.max_string_length:
            self.fail(f"a string is longer than {self.limits.max_string_length} characters", event)
        if LONE_SURROGATE.search(text):
            self.fail("a string holds half of a surrogate pair", event, fix="write the character itself")
        return self.plain(text, event) if event.implicit[0] else text

    def plain(self, text: str, event: Any) -> Any:
        """What an unquoted scalar stands for."""
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if text[0] not in "+-.0123456789":
            return text
        if _INFINITE.fullmatch(text):
            self.fail(f"{quoted(text)} is not a number that JSON can carry", event, fix="use null, or a number")
        if _TWO_MEANINGS.fullmatch(text):
            self.fail(
                f"{quoted(text)} means different things to different versions of YAML",
                event,
                fix=f'write a plain decimal number, or "{text[:60]}" in quotes',
            )
        whole = _INTEGER.fullmatch(text)
        if not whole and not _FLOAT.fullmatch(text):
            return text
        if len(text) > MAX_NUMBER_LENGTH:
            self.fail(f"a number has more than {MAX_NUMBER_LENGTH} digits", event, fix="write it in quotes")
        value = int(text) if whole else float(text)
        if isinstance(value, float) and math.isinf(value):
            self.fail(f"the number {quoted(text)} does not fit a 64-bit float", event)
        return value

    def fail(self, what: str, event: Any, *, fix: str | None = None) -> NoReturn:
        position = self.lines.position(event.start_mark.index)
        raise refusal(what, source=self.source, position=position, fix=fix)


def reads_as_text(text: str) -> bool:
    """Whether an unquoted scalar of this spelling may stand for this text; False where quotes are the safer choice."""
    if text in _CONSTANTS or not text.isprintable() or text[0] in "+-.0123456789~<=":
        return False
    return text.lower() not in ("y", "n", "yes", "no", "on", "off", "true", "false", "null")


def read_yaml(text: str, *, source: str | None, limits: FlowParseLimits) -> Document:
    """Read one YAML document.

    Args:
        text: The text, checked by `text.checked_text` before.
        source: What to call it in messages.
        limits: Bounds; the size in bytes is checked by the caller.

    Raises:
        FlowSerializationError: At the first fault, with line and column.
        MissingExtraError: PyYAML is not installed.
    """
    yaml = yaml_library()
    lines = Lines(text)
    if not yaml.__with_libyaml__ and len(text) > PURE_PYTHON_MAX_LENGTH:
        raise refusal(
            f"the document is larger than {PURE_PYTHON_MAX_LENGTH} characters and this PyYAML has no libyaml",
            source=source,
            fix="install a PyYAML that is built with libyaml, or use JSON",
        )
    unprintable = _UNPRINTABLE.search(text)
    if unprintable:
        what = f"the text holds the control character {unprintable.group()!a}"
        raise refusal(what, source=source, position=lines.position(unprintable.start()), fix="write it as an escape")
    content = _FIRST_CONTENT.search(text)
    if content and content.group().startswith("%"):
        position = lines.position(content.start())
        raise refusal("directives ('%') are not read", source=source, position=position, fix="remove the line")
    return _YamlText(text, source, limits).read(yaml)
