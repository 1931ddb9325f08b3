"""Fingerprints of schemas: equal shapes, equal digits, in every process and on every machine.

Used for drift reports, cache keys and resume. Names of parts and prose (titles, descriptions, examples) do not count:
only what decides which values fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel

DIGITS = 16


def digest(value: object) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a JSON value in canonical form.

    >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    True
    """
    import hashlib
    import json

    # A user's json_schema_extra may hold anything; its class is all that is the same in every process.
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=lambda odd: type(odd).__qualname__)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def schema_fingerprint(model: type[BaseModel]) -> str:
    """Sixteen hexadecimal digits that change when the values that fit the model change."""
    from chainweaver.tools.shape import canonical_shape

    return digest(canonical_shape(model))
