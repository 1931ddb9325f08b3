"""Fingerprints of content: equal ones mean equal values, whatever the objects.

Called by whoever has to see that a value has changed. Nothing is stored here, and nothing of the value is kept.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from chainweaver.canonical import digest
from chainweaver.objects.codecs import codec_for, pack


def fingerprint(value: Any) -> str:
    """32 hexadecimal digits that stand for the content of a value: type, shape and every byte.

    Raises:
        Unfingerprintable, NoCodecError: The value has no content that could be compared.

    >>> fingerprint(bytearray(b"abc")) == fingerprint(bytearray(b"abc"))
    True
    """
    if codec_for(value) is None:
        return digest(value)
    packed = pack(value)
    made = blake2b(digest((packed.codec, packed.facts)).encode(), digest_size=16)
    for buffer in packed.buffers:
        made.update(buffer)
    return made.hexdigest()
