"""A step cache in a directory: one JSON file per key, shared by processes and kept between runs.

Files appear whole or not at all, and what cannot be read is a miss. Only plain values enter, and arrays, frames, tables
and tensors, which lie beside the JSON when they are large; nothing that is read can run code. Called by the executor
from any thread, and safe beside other processes on the same directory.
"""

import hashlib
import json
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from chainweaver.cache.key import StepCacheKey, Uncacheable
from chainweaver.objects.artifacts import Artifacts, remove_artifacts
from chainweaver.objects.files import TEMPORARY_SUFFIX, write_whole
from chainweaver.objects.plain import Fetch, PlainDecodeError, PlainEncodeError, decode_plain, encode_plain

_SUFFIX = ".step.json"
_FOLDER_SUFFIX = ".step.objects"
_FORMAT = 1
# Cannot occur earlier in the file: quotes inside of JSON texts are escaped.
_OUTPUT = b',"output":'


class FileStepCache:
    """Keeps the outputs of steps as files, until `clear` or until somebody deletes them.

    A file that is cut short, damaged or written for another key counts as a miss and is removed. Values have to be
    plain (see `chainweaver.objects.encode_plain`) or have a codec (see `chainweaver.objects.codecs`): the executor
    makes typed values plain before, and restores their declared types after.

    Args:
        root: The directory; made when it does not exist.
        fsync: Whether an entry is forced to the disk before `set` returns. Off by default: an entry that is lost in a
            power failure is computed again.

    >>> import tempfile
    >>> cache = FileStepCache(tempfile.mkdtemp())
    >>> key = StepCacheKey("add", "0f3a", "77c1")
    >>> cache.set(key, {"total": 3, "parts": (1, 2)})
    >>> cache.get(key)
    {'total': 3, 'parts': (1, 2)}
    """

    wants_plain = True

    def __init__(self, root: str | os.PathLike[str], *, fsync: bool = False) -> None:
        self._root = Path(root)
        self._root.mkdir(parents=True, exist_ok=True)
        self._fsync = fsync

    def get(self, key: StepCacheKey) -> dict[str, Any] | None:
        """The outputs kept under this key, or None for a miss.

        Raises:
            OSError: The directory cannot be read.
        """
        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        output = _read(data, key, self._artifacts(key).fetch)
        if output is None:
            with suppress(OSError):
                path.unlink()
                self._artifacts(key).remove_others()
        return output

    def set(self, key: StepCacheKey, output: dict[str, Any]) -> None:
        """Keep the outputs under this key; an older entry is replaced in one move.

        Raises:
            Uncacheable: A value is not plain and has no codec. Nothing is written.
            OSError: The file cannot be written. Nothing is left behind.
        """
        artifacts = self._artifacts(key)
        try:
            encoded = encode_plain(output, aside=artifacts.put_aside)
        except PlainEncodeError as exc:
            raise Uncacheable(str(exc)) from exc
        artifacts.write()
        try:
            write_whole(self._path(key), _head(key, encoded), _OUTPUT, encoded, b"}", fsync=self._fsync)
        except BaseException:
            artifacts.take_back()
            raise
        artifacts.remove_others()

    def clear(self) -> None:
        """Remove every entry, and what interrupted writers left behind. Other files in the directory stay."""
        for path in self._root.iterdir():
            if path.name.endswith((_SUFFIX, _SUFFIX + TEMPORARY_SUFFIX)):
                path.unlink(missing_ok=True)
            elif path.name.endswith(_FOLDER_SUFFIX):
                remove_artifacts(path)

    def __len__(self) -> int:
        """How many entries the directory holds."""
        return sum(path.name.endswith(_SUFFIX) for path in self._root.iterdir())

    def _artifacts(self, key: StepCacheKey) -> Artifacts:
        return Artifacts(self._folder(key), fsync=self._fsync)

    def _folder(self, key: StepCacheKey) -> Path:
        return self._root / (_name(key) + _FOLDER_SUFFIX)

    def _path(self, key: StepCacheKey) -> Path:
        return self._root / (_name(key) + _SUFFIX)


def _name(key: StepCacheKey) -> str:
    # Tool names may be long or hold anything; a hash is always a good file name.
    return hashlib.sha256("\0".join(key).encode("utf-8", "surrogatepass")).hexdigest()


def _head(key: StepCacheKey, encoded: bytes) -> bytes:
    return json.dumps({"format": _FORMAT, "key": list(key), "crc32": zlib.crc32(encoded)})[:-1].encode()


def _read(data: bytes, key: StepCacheKey, fetch: Fetch) -> dict[str, Any] | None:
    """The outputs in a file, or None where the file, or one beside it, is not what `set` wrote for this key."""
    head, found, rest = data.partition(_OUTPUT)
    encoded = rest[:-1]
    if not found or head != _head(key, encoded) or rest[-1:] != b"}":
        return None
    try:
        return decode_plain(encoded, fetch=fetch)
    except PlainDecodeError:
        return None
