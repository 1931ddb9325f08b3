"""Texts that databases hold, and those that none does: PostgreSQL has no zero character, no encoding lone surrogates.

Called before a text becomes a parameter.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

LONGEST: Final = 1_200
"""Bytes of a name at most: the indexes of PostgreSQL take 2,704 for one row, and some are over two names."""


def text_of(value: str) -> str | None:
    """A text to look for; None, which equals nothing, for one that no database holds.

    >>> text_of("x'; drop table flows; --"), text_of("a\\0b"), text_of("\\ud800")
    ("x'; drop table flows; --", None, None)
    """
    if "\0" in value:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def is_text(value: object) -> bool:
    """Whether a value is a text that a database could have been given."""
    return isinstance(value, str) and text_of(value) is not None


def as_list(values: Iterable[str]) -> str:
    """Texts to look for as one parameter, for `Dialect.listed`: databases take some thousand of them at most.

    >>> as_list(["b", "a\\0", "a"])
    '["a", "b"]'
    """
    return json.dumps(sorted(value for value in values if text_of(value) is not None))


def storable(what: str, value: str) -> str:
    """A name to write.

    Raises:
        ValueError: No database holds it, or none finds it again.
    """
    if text_of(value) is None:
        raise ValueError(f"The {what} {value[:200]!r} cannot be stored: no database holds such a text.")
    if len(value.encode()) > LONGEST:
        size = f"{len(value.encode()):,} bytes"
        raise ValueError(f"The {what} {value[:40]!r}... has {size}; names in a store have {LONGEST:,} at most.")
    return value


def legible(value: str) -> str:
    """The text as near as every database holds it.

    >>> legible("a\\0b\\ud800")
    'a\ufffdb?'
    """
    return value if text_of(value) is not None else value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
