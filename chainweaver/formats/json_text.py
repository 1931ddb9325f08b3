"""A strict, iterative JSON reader that knows where everything stands.

The standard decoder is laxer than the standard (NaN, 1e400, duplicate keys, lone surrogates), recurses on nested
brackets and forgets positions; this one does none of that. It stops at the first fault, and every bound of
`FlowParseLimits` is checked before the memory for it is spent. Called by `reading`; knows nothing of flows.

Source: RFC 8259, ECMA-404.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from chainweaver.formats.complaints import quoted, refusal
from chainweaver.formats.document import Document, Lines, Place, offset_of
from chainweaver.formats.limits import MAX_NUMBER_LENGTH, FlowParseLimits
from chainweaver.formats.text import LONE_SURROGATE

_SPACE = re.compile(r"[ \t\n\r]*")
# A separator with the space around it in one match: a third of the time of a large document.
_SEPARATOR = re.compile(r"[ \t\n\r]*([,:\]}]?)[ \t\n\r]*")
_STRING = re.compile(r'"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*"')
_STRING_PART = re.compile(r'(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)((?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)")
_WORD = re.compile(r"[-+]?[^\s,:{}\[\]\"]+")
_WORDS = {"true": True, "false": False, "null": None}
# The longest spelling of one character in a JSON string is a \u escape.
_ESCAPE_LENGTH = 6


class _Open:
    """A list or an object that is not closed yet."""

    __slots__ = ("closer", "key", "place", "value")

    def __init__(self, value: dict[str, Any] | list[Any], place: Place) -> None:
        self.value = value
        self.closer = "}" if isinstance(value, dict) else "]"
        self.place = place
        self.key = ""

    def add(self, value: Any, place: Place | int) -> None:
        if isinstance(self.value, dict):
            self.value[self.key] = value
            self.place.parts[self.key] = place
        else:
            self.place.parts[len(self.value)] = place
            self.value.append(value)


class _JsonText:
    """One text being read, from left to right."""

    def __init__(self, text: str, source: str | None, limits: FlowParseLimits) -> None:
        self.text = text
        self.at = 0
        self.source = source
        self.limits = limits
        self.lines = Lines(text)
        self.nodes = 0
        self.open: list[_Open] = []

    def read(self) -> Document:
        """The whole document. Alternates between a value and the commas and closers after it."""
        self.skip_space()
        while True:
            value, place, opened = self.begin_value()
            if opened:
                continue
            while self.open:
                self.open[-1].add(value, place)
                if self.next_item():
                    break
                closed = self.open.pop()
                value, place = closed.value, closed.place
            else:
                return self.end(value, place)

    def end(self, value: Any, place: Place | int) -> Document:
        self.skip_space()
        if self.at < len(self.text):
            self.fail("text follows after the end of the document", fix="keep one JSON value per file")
        return Document(value, place, self.lines)

    def begin_value(self) -> tuple[Any, Place | int, bool]:
        """Read a scalar or an empty container; of any other container only the opening: then the last item is True."""
        self.nodes += 1
        if self.nodes > self.limits.max_nodes:
            self.fail(f"the document holds more than {self.limits.max_nodes} values")
        char = self.text[self.at : self.at + 1]
        start = self.at
        if char == "{" or char == "[":
            return self.begin_container({} if char == "{" else [], Place(start))
        if char == '"':
            return self.string(), start, False
        return (self.number() if char in "-0123456789" and char else self.word()), start, False

    def begin_container(self, value: dict[str, Any] | list[Any], place: Place) -> tuple[Any, Place, bool]:
        if len(self.open) >= self.limits.max_depth:
            self.fail(f"the document is nested more than {self.limits.max_depth} levels deep")
        self.at += 1
        self.skip_space()
        closer = "}" if isinstance(value, dict) else "]"
        if self.text.startswith(closer, self.at):
            self.at += 1
            return value, place, False
        opened = _Open(value, place)
        self.open.append(opened)
        if closer == "}":
            self.key(opened)
        return value, place, True

    def next_item(self) -> bool:
        """Step over a comma (and the key after it): True. Step over the closer: False."""
        opened = self.open[-1]
        separator = self.separator()
        if separator == opened.closer:
            return False
        if separator != ",":
            self.missing_separator(separator, f"',' or '{opened.closer}'")
        if self.text.startswith(opened.closer, self.at):
            self.fail(f"a comma stands before the closing '{opened.closer}'", fix="remove the comma")
        if opened.closer == "}":
            self.key(opened)
        return True

    def separator(self) -> str:
        """Step over a separator and the space around it; an empty one means that something else stands here."""
        found = _SEPARATOR.match(self.text, self.at)
        assert found is not None
        self.at = found.end()
        return found.group(1)

    def missing_separator(self, found: str, wanted: str) -> NoReturn:
        if found:
            self.at = self.text.rindex(found, 0, self.at)
        self.unexpected(wanted)

    def key(self, opened: _Open) -> None:
        start = self.at
        if not self.text.startswith('"', start):
            self.unexpected("a key in double quotes")
        opened.key = self.string()
        first = opened.place.parts.get(opened.key)
        if first is not None:
            where = self.lines.position(offset_of(first))
            self.at = start
            self.fail(
                f"key {quoted(opened.key)} stands twice in one object",
                fix=f"its first value is at {where}; remove one of the two",
            )
        separator = self.separator()
        if separator != ":":
            self.missing_separator(separator, "':'")

    def string(self) -> str:
        start, limit = self.at, self.limits.max_string_length
        found = _STRING.match(self.text, start, start + limit * _ESCAPE_LENGTH + 2)
        if found is None:
            self.bad_string(start)
        raw = found.group()
        value: str = json.loads(raw) if "\\" in raw else raw[1:-1]
        if len(value) > limit:
            self.fail(f"a string is longer than {limit} characters")
        if LONE_SURROGATE.search(value):
            self.fail(
                "a string holds half of a surrogate pair",
                fix="write the character itself or both halves of its escape",
            )
        self.at = found.end()
        return value

    def bad_string(self, start: int) -> NoReturn:
        part = _STRING_PART.match(self.text, start + 1, start + self.limits.max_string_length * _ESCAPE_LENGTH + 2)
        assert part is not None
        stop = part.end()
        char = self.text[stop : stop + 1]
        if stop - start > self.limits.max_string_length:
            self.fail(f"a string is longer than {self.limits.max_string_length} characters")
        if not char:
            self.fail("a string is not closed", fix="add the closing double quote")
        self.at = stop
        if char == "\\":
            self.fail(
                f"a string holds the unknown escape {quoted(self.text[stop : stop + 2])}",
                fix="write a backslash as \\\\",
            )
        self.fail(f"a string holds the raw control character {char!a}", fix="write it as an escape, such as \\n")

    def number(self) -> int | float:
        found = _NUMBER.match(self.text, self.at)
        if found is None:
            self.unknown_word(self.spelled())
        raw = found.group()
        if len(raw) > MAX_NUMBER_LENGTH:
            self.fail(f"a number has more than {MAX_NUMBER_LENGTH} digits", fix="write it as a string")
        if self.text[found.end() : found.end() + 1] not in _AFTER_NUMBER:
            self.fail(
                f"{quoted(self.spelled())} is not a JSON number",
                fix="write it in decimal, without leading zeros, or in double quotes",
            )
        value = float(raw) if found.group(1) else int(raw)
        if isinstance(value, float) and math.isinf(value):
            self.fail(f"the number {quoted(raw)} does not fit a 64-bit float")
        self.at = found.end()
        return value

    def word(self) -> Any:
        spelled = self.spelled()
        if spelled not in _WORDS:
            self.unknown_word(spelled)
        self.at += len(spelled)
        return _WORDS[spelled]

    def spelled(self) -> str:
        """The bare word at this place, cut to a length that fits a message."""
        found = _WORD.match(self.text, self.at, self.at + 80)
        return found.group() if found else ""

    def unknown_word(self, spelled: str) -> NoReturn:
        if spelled.lstrip("+-") in ("NaN", "Infinity", "nan", "inf"):
            self.fail(f"{quoted(spelled)} is no JSON value", fix="use null, or a number")
        if spelled in ("True", "False", "None"):
            fix = {"True": "true", "False": "false", "None": "null"}[spelled]
            self.fail(f"{quoted(spelled)} is no JSON value", fix=f"write {fix}")
        self.unexpected("a value")

    def unexpected(self, wanted: str) -> NoReturn:
        if self.at >= len(self.text):
            fix = f"close the {self.innermost()}" if self.open else "put a flow in it"
            self.fail(f"the text ends where {wanted} should stand", fix=fix)
        found = self.spelled() or self.text[self.at]
        hints = {"'": "write strings in double quotes", "/": "JSON has no comments", "#": "JSON has no comments"}
        self.fail(f"found {quoted(found)} where {wanted} should stand", fix=hints.get(found[0]))

    def innermost(self) -> str:
        opened = self.open[-1]
        kind = "object" if opened.closer == "}" else "list"
        return f"{kind} that begins at {self.lines.position(opened.place.offset)}"

    def skip_space(self) -> None:
        found = _SPACE.match(self.text, self.at)
        assert found is not None
        self.at = found.end()

    def fail(self, what: str, *, fix: str | None = None) -> NoReturn:
        raise refusal(what, source=self.source, position=self.lines.position(self.at), fix=fix)


_AFTER_NUMBER = ("", " ", "\t", "\n", "\r", ",", "]", "}", ":")


def read_json(text: str, *, source: str | None, limits: FlowParseLimits) -> Document:
    """Read one JSON document.

    Args:
        text: The text, checked by `text.checked_text` before.
        source: What to call it in messages.
        limits: Bounds; the size in bytes is checked by the caller.

    Raises:
        FlowSerializationError: At the first fault, with line and column.
    """
    return _JsonText(text, source, limits).read()
