"""Files that appear whole or not at all, names that are safe as file names, and files as memory.

Called by the file stores. What is in a file is theirs to know.
"""

import mmap
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from weakref import WeakSet

TEMPORARY_SUFFIX = ".tmp"
"""The end of the names of files that are still being written, or whose writer died."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_RESERVED = frozenset(
    {"con", "prn", "aux", "nul", *(f"com{digit}" for digit in range(10)), *(f"lpt{digit}" for digit in range(10))}
)


def is_safe_name(name: str) -> bool:
    """Whether a name means the same plain file in one directory on every platform.

    >>> is_safe_name("9f3c"), is_safe_name("../9f3c"), is_safe_name("con"), is_safe_name("9f3c.")
    (True, False, False, False)
    """
    return (
        isinstance(name, str)
        and _SAFE_NAME.fullmatch(name) is not None
        and name[-1] != "."
        and name.split(".", maxsplit=1)[0].lower() not in _RESERVED
    )


def write_whole(path: Path, *data: bytes | bytearray | memoryview, fsync: bool) -> None:
    """Put data at a path in one move: readers see the old file or the new one, never a part.

    Args:
        path: Where the file is to be; its directory exists.
        data: Everything the file holds, in pieces that follow each other.
        fsync: Whether file and directory entry are on the disk before this returns.

    Raises:
        OSError: The file cannot be written. What was at the path stays.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.name[-32:] + TEMPORARY_SUFFIX)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(data)
            if fsync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    if fsync:
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Force the names in a directory to the disk, where the platform can (Windows cannot)."""
    if os.name != "posix":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_shared: WeakSet[mmap.mmap] = WeakSet()


def mapped(path: Path) -> mmap.mmap:
    """A file of ours as memory that cannot be written to. Not for an empty one, of which there is nothing to map.

    Raises:
        ValueError: The file is empty.
    """
    with path.open("rb") as file:
        found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _shared.add(found)
    return found


def is_ours(mapping: mmap.mmap) -> bool:
    """Whether `mapped` made it, so that its pages are those of the file and can be read again at any time."""
    return mapping in _shared
