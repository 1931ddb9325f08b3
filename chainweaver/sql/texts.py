"""Texts that databases hold, and those that none does: PostgreSQL has no zero character, no encoding lone surrogates.

Called before a text becomes a parameter.
"""

from __future__ import annotations


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


def storable(what: str, value: str) -> str:
    """A text to write.

    Raises:
        ValueError: No database holds it.
    """
    if text_of(value) is None:
        raise ValueError(f"The {what} {value!r} cannot be stored: no database holds such a text.")
    return value
