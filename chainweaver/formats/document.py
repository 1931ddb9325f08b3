"""A document that was read, with the place of every value in its text.

`json_text` and `yaml_text` build it, `reading` asks it for lines when a value turns out wrong. It knows nothing of
flows and reads no text itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Path = tuple[str | int, ...]
"""Keys and indexes from the top of a document down to a value."""


class Position(NamedTuple):
    """Line and column in a text, both 1-based, columns in characters."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"


class Place:
    """Where a list or mapping begins, and where its parts begin.

    The place of a scalar is its bare offset: objects for up to 100 000 of them would double the time of a document.
    """

    __slots__ = ("offset", "parts")

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.parts: dict[str | int, Place | int] = {}


def offset_of(place: Place | int) -> int:
    """Where a value with this place begins."""
    return place if isinstance(place, int) else place.offset


class Lines:
    """Turns offsets in a text into positions; a line ends as editors see it, with LF, CR LF or CR."""

    def __init__(self, text: str) -> None:
        self._text = text

    def position(self, offset: int) -> Position:
        """The position of the character at `offset`; an offset at the end of the text is fine."""
        # Counting costs a scan, but only faults ask; a table of all lines would cost every document.
        text = self._text
        breaks = text.count("\n", 0, offset) + text.count("\r", 0, offset) - text.count("\r\n", 0, offset)
        start = max(text.rfind("\n", 0, offset), text.rfind("\r", 0, offset)) + 1
        return Position(breaks + 1, offset - start + 1)


@dataclass
class Document:
    """A plain value (dict, list, str, int, float, bool, None) and the places of its parts."""

    value: Any
    root: Place | int | None = None
    lines: Lines | None = field(default=None, repr=False)

    def position(self, path: Sequence[str | int]) -> Position | None:
        """Where the value at `path` begins, or its nearest enclosing value; None without a text."""
        if self.root is None or self.lines is None:
            return None
        place = self.root
        for part in path:
            if isinstance(place, int) or part not in place.parts:
                break
            place = place.parts[part]
        return self.lines.position(offset_of(place))


def pointer(path: Sequence[str | int]) -> str:
    """The RFC 6901 pointer of a path; the whole document is the empty string.

    >>> pointer(["steps", 2, "a/b"])
    '/steps/2/a~1b'
    """
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
