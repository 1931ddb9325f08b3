"""Any value as JSON can carry it: for views that have to be printable whatever tools have returned.

Nothing read from here can be turned back into the value: that is what codecs and checkpoints are for. Called by results
and by the command line, never by what stores values.
"""

from __future__ import annotations

from typing import Any, Literal

MAX_DEPTH = 64


def json_form(
    value: Any,
    *,
    inf_nan_mode: Literal["constants", "strings"] = "constants",
    bytes_mode: Literal["utf8", "base64"] = "utf8",
) -> Any:
    """The value in None, bool, int, float, str, list and dict; what JSON has no form for is shown by its `repr`.

    One part without a form does not spoil those around it: bytes that are no text, half of a surrogate pair (as in the
    names of some files), a circle, a number that is too long, an object whose serializer raises.

    >>> json_form({"a": (1, 2), "b": {1j}, "name": "caf\\udce9"})
    {'a': [1, 2], 'b': ['1j'], 'name': 'caf\\\\udce9'}
    """
    from pydantic_core import from_json, to_json

    def direct(part: Any) -> Any:
        # By way of the text: on the way to Python values what cannot be written would stay as it is.
        return from_json(to_json(part, fallback=shown, inf_nan_mode=inf_nan_mode, bytes_mode=bytes_mode))

    def key_of(key: Any) -> str:
        try:
            return str(next(iter(direct({key: None}))))
        except Exception:  # as below
            return encodable(key) if isinstance(key, str) else shown(key)

    def salvaged(part: Any, around: frozenset[int]) -> Any:
        kind = type(part)
        if kind in (dict, list, tuple, set, frozenset) and id(part) not in around and len(around) < MAX_DEPTH:
            inside = around | {id(part)}
            if kind is dict:
                return {key_of(key): salvaged(item, inside) for key, item in part.items()}
            return [salvaged(item, inside) for item in part]
        if kind is str:
            return encodable(part)
        try:
            return direct(part)
        except Exception:  # a foreign serializer may raise anything
            return shown(part)

    try:
        return direct(value)
    except Exception:  # so may a part of it
        return salvaged(value, frozenset())


def shown(value: Any) -> str:
    """The `repr` of a value, or its type when that raises."""
    try:
        return encodable(repr(value))
    except Exception:  # a foreign __repr__ may raise anything, and the view has to be made all the same
        return f"<{type(value).__qualname__}>"


def encodable(text: str) -> str:
    """The text with halves of surrogate pairs written as escapes, so that it can be encoded.

    >>> encodable("caf\\udce9")
    'caf\\\\udce9'
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
