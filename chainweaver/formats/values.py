"""What a flow document may consist of: plain JSON values, in bounds.

`reading` copies through here what callers pass as dicts, `writing` the literals of a flow; both get a fresh value that
shares nothing with the given one, or an error that names the pointer.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

from chainweaver.formats.complaints import quoted, refusal
from chainweaver.formats.document import Path, pointer
from chainweaver.formats.limits import MAX_NUMBER_LENGTH, FlowParseLimits
from chainweaver.formats.text import LONE_SURROGATE

_FIXES: dict[type, str] = {
    tuple: "write a list",
    set: "write a sorted list",
    frozenset: "write a sorted list",
    bytes: "write text",
}
# 10 ** 640 needs 2 127 bits; the exact length is only computed for the few numbers near the bound.
_SURELY_SHORT_BITS = 2_120


class PlainCopy:
    """Copies values of one document, counting as it goes."""

    def __init__(self, source: str | None, limits: FlowParseLimits) -> None:
        self.source = source
        self.limits = limits
        self.nodes = 0
        self._around: set[int] = set()

    def copy(self, value: Any, path: Path) -> Any:
        """A copy of the value at `path`.

        Raises:
            FlowSerializationError: Something in it is no JSON value, contains itself, or breaks a limit.
        """
        self.nodes += 1
        if self.nodes > self.limits.max_nodes:
            self.fail(f"the document holds more than {self.limits.max_nodes} values", path)
        kind = type(value)
        if kind is dict or kind is list:
            return self._container(value, path)
        if kind is str:
            return self.text(value, path)
        if kind is float and not math.isfinite(value):
            self.fail(f"JSON cannot carry the number {value!r}", path, fix="use None, or a number")
        if kind is int and value.bit_length() > _SURELY_SHORT_BITS and abs(value) >= 10**MAX_NUMBER_LENGTH:
            self.fail(f"a number has more than {MAX_NUMBER_LENGTH} digits", path, fix="write it as a string")
        if value is not None and kind not in (bool, int, float):
            fix = _FIXES.get(kind, "use only dict, list, str, int, float, bool and None")
            self.fail(f"JSON cannot carry a value of type '{kind.__name__}'", path, fix=fix)
        return value

    def _container(self, value: dict[Any, Any] | list[Any], path: Path) -> Any:
        if id(value) in self._around:
            self.fail("the value contains itself", path, fix="write the value without the loop")
        if len(self._around) >= self.limits.max_depth:
            self.fail(f"the document is nested more than {self.limits.max_depth} levels deep", path)
        self._around.add(id(value))
        copied: Any
        if isinstance(value, dict):
            copied = {self.key(key, path): self.copy(item, (*path, key)) for key, item in value.items()}
        else:
            copied = [self.copy(item, (*path, index)) for index, item in enumerate(value)]
        self._around.discard(id(value))
        return copied

    def key(self, key: Any, path: Path) -> str:
        if type(key) is not str:
            self.fail(f"key {quoted(key)} is not text", path, fix="write keys as str")
        return self.text(key, path)

    def text(self, text: str, path: Path) -> str:
        if len(text) > self.limits.max_string_length:
            self.fail(f"a string is longer than {self.limits.max_string_length} characters", path)
        if not text.isascii() and LONE_SURROGATE.search(text):
            self.fail("a string holds half of a surrogate pair", path, fix="write the character itself")
        return text

    def fail(self, what: str, path: Path, *, fix: str | None = None) -> NoReturn:
        raise refusal(what, source=self.source, pointer=pointer(path), fix=fix)
