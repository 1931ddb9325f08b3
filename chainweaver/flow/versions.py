"""Versions as PEP 440 writes them: checking one, ordering many.

`packaging` is imported only when a version is more than dotted numbers or when two versions have to be compared.

Called by the definitions (checking) and by the registry (ordering).
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["is_version", "sorted_versions"]


def is_version(text: str) -> bool:
    """Whether the text is a version as PEP 440 writes it.

    >>> is_version("1.0rc1"), is_version("one")
    (True, False)
    """
    if text.isascii() and all(part.isdigit() for part in text.split(".")):
        return True
    from packaging.version import InvalidVersion, Version

    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def sorted_versions(versions: Iterable[str]) -> list[str]:
    """The versions in ascending order, pre-releases below their finals.

    Texts that mean the same version ("1.0" and "1.0.0") are ordered by their text, so the order never depends on the
    order in which they came.

    >>> sorted_versions(["1.10", "1.9", "1.10rc1"])
    ['1.9', '1.10rc1', '1.10']
    """
    known = list(versions)
    if len(known) < 2:
        return known
    from packaging.version import Version

    return sorted(known, key=lambda text: (Version(text), text))
