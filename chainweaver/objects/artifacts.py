"""Artifacts: objects beside the JSON of a checkpoint or cache entry, as files that are named after their content.

The artifacts of one entry lie in a folder of its own, so that they go when it goes, whoever died while writing them.
They are on the disk before the JSON that refers to them, and the JSON has the digest of every byte: what was cut off,
damaged or exchanged is found before anything is made of it. Small objects go into the JSON itself.

What is read is copied, not mapped: the digest has to see every byte anyway, a file that somebody cuts off under a map
kills the process, and what a store hands out can be changed like what the tool returned.

Called by the file stores of `cache` and `checkpoint`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from chainweaver.objects.codecs import (
    NO_CODEC,
    Buffer,
    NoCodecError,
    Packed,
    UnpackError,
    is_of_a_library,
    pack,
    size_of,
    unpack,
)
from chainweaver.objects.files import TEMPORARY_SUFFIX, sync_directory, write_whole
from chainweaver.objects.plain import PlainDecodeError, PlainEncodeError, decode_plain, encode_plain

MIN_BYTES = 64 * 1024
"""Objects of so many bytes and more get a file of their own; for smaller ones a file costs more than base64."""

_SUFFIX = ".artifact"
_NAME = re.compile("[0-9a-f]{40}")


class ArtifactUnreadable(PlainDecodeError):
    """The file of an artifact is missing or not what was written, or its library is not installed.

    Attributes:
        path: The file, or the name of a row; None for an object in the JSON itself.
        reason: What is wrong, without the final period.
    """

    def __init__(self, path: Path | str | None, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return self.reason if self.path is None else f"artifact '{self.path}': {self.reason}"


_MOST_ATTEMPTS = 50
"""How often others may remove a folder before a writer gives up; each time means that one of them has got on."""


class SetAside(ABC):
    """The large objects of one entry, apart from its JSON; where they lie is up to the class made from this one.

    Give `put_aside` to `encode_plain`, and `fetch` to `decode_plain`.

    Attributes:
        put: The parts of what was put aside, by a name that is made from their content.
    """

    def __init__(self) -> None:
        self.put: dict[str, tuple[Buffer, ...]] = {}

    def put_aside(self, value: Any) -> tuple[Any, ...] | None:
        """What stands for an object in the JSON; None for one that has no codec, and for short byte strings.

        Raises:
            PlainEncodeError: There are codecs for objects of its library, and this one has no form as bytes.
        """
        is_bytes = type(value) is bytes or type(value) is bytearray
        if len(value) < MIN_BYTES if is_bytes else not is_of_a_library(value):
            return None
        try:
            packed = pack(value)
            facts = encode_plain(packed.facts)
        except NoCodecError as exc:
            if exc.reason == NO_CODEC:
                return None
            raise PlainEncodeError("", exc.type_name, exc.reason) from exc
        parts = (facts, *packed.buffers)
        sizes = tuple(map(size_of, parts))
        if sum(sizes) < MIN_BYTES:
            return packed.codec, None, tuple(map(bytes, parts))
        name = _digest(packed.codec, parts)
        self.put[name] = parts
        return packed.codec, name, sizes

    def fetch(self, codec: str, name: str | None, parts: Sequence[Any]) -> Any:
        """The object that something in the JSON stands for: a copy that belongs to the caller.

        Raises:
            ArtifactUnreadable: What is to be read is missing or damaged, or its library is not installed.
        """
        if name is None and not all(type(part) is bytes for part in parts):
            raise PlainDecodeError("parts that are no byte strings")  # a number would be taken for a length
        buffers = list(map(bytearray, parts)) if name is None else self.parts_of(name, codec, parts)
        try:
            # The entry names a codec, and codecs are a closed list: nothing but their types can come out.
            return unpack(Packed(codec, decode_plain(bytes(buffers[0])), tuple(buffers[1:])))
        except (UnpackError, PlainDecodeError, IndexError) as exc:
            raise ArtifactUnreadable(None if name is None else self.place_of(name), str(exc)) from exc

    @abstractmethod
    def parts_of(self, name: str, codec: str, sizes: Sequence[int]) -> list[bytearray]:
        """What was put aside under a name.

        Raises:
            ArtifactUnreadable: It is missing, or not what was written.
        """

    @abstractmethod
    def place_of(self, name: str) -> Path | str:
        """Where an artifact lies, for messages."""


class Artifacts(SetAside):
    """The artifacts of one entry as files of a folder, for one write or one read of it.

    Give `put_aside` to `encode_plain`, then call `write`, then write the JSON; give `fetch` to `decode_plain`.

    Args:
        folder: Where they lie; made when the first one is written.
        fsync: Whether they are forced to the disk before `write` returns.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "entry.objects"
    >>> artifacts = Artifacts(folder, fsync=False)
    >>> data = encode_plain({"raw": bytes(100_000)}, aside=artifacts.put_aside)
    >>> artifacts.write()
    >>> decode_plain(data, fetch=artifacts.fetch) == {"raw": bytes(100_000)}
    True
    """

    def __init__(self, folder: Path, *, fsync: bool) -> None:
        super().__init__()
        self._folder = folder
        self._fsync = fsync
        self._new: list[Path] = []

    def write(self) -> None:
        """Write what was put aside and is not there yet.

        Raises:
            OSError: A file cannot be written. Those that were are removed again.
        """
        try:
            for name, parts in self.put.items():
                path = self._path(name)
                if _size_at(path) != sum(map(size_of, parts)):
                    self._new.append(path)
                    self._write(path, parts)
        except BaseException:
            self.take_back()
            raise

    def take_back(self) -> None:
        """Remove what the last `write` made: the JSON that was to refer to it could not be written."""
        for path in self._new:
            with suppress(OSError):
                path.unlink()
        self._new.clear()
        _remove_if_empty(self._folder)

    def parts_of(self, name: str, codec: str, sizes: Sequence[int]) -> list[bytearray]:
        """Read from the file of that name; see `SetAside.parts_of`."""
        return _read(self._path(name), codec, sizes)

    def place_of(self, name: str) -> Path:
        """The file of an artifact."""
        return self._path(name)

    def remove_others(self, kept: Iterable[str] = ()) -> None:
        """Remove the artifacts of older forms of the entry. What others are still writing stays.

        Args:
            kept: Names of artifacts that stay, beside those that were put aside here.
        """
        stay = {*self.put, *kept}
        for path in _files_in(self._folder):
            if path.name.endswith(_SUFFIX) and path.name.removesuffix(_SUFFIX) not in stay:
                path.unlink(missing_ok=True)
        if not stay:
            _remove_if_empty(self._folder)

    def _path(self, name: str) -> Path:
        if type(name) is not str or not _NAME.fullmatch(name):
            raise PlainDecodeError(f"{name!r} is not the name of an artifact")
        return self._folder / (name + _SUFFIX)

    def _write(self, path: Path, parts: tuple[Buffer, ...]) -> None:
        for attempt in range(1, _MOST_ATTEMPTS + 1):
            try:
                self._folder.mkdir()
            except FileExistsError:
                pass
            else:
                if self._fsync:
                    sync_directory(self._folder.parent)
            try:
                return write_whole(path, *parts, fsync=self._fsync)
            except FileNotFoundError:  # whoever found the entry damaged or replaced it has removed the folder
                if attempt == _MOST_ATTEMPTS:
                    raise
        return None


def remove_artifacts(folder: Path) -> None:
    """Remove all artifacts of an entry and what interrupted writers left of them. Other files stay, and the folder too.

    Raises:
        OSError: A file cannot be removed.
    """
    for path in _files_in(folder):
        if path.name.endswith((_SUFFIX, _SUFFIX + TEMPORARY_SUFFIX)):
            path.unlink(missing_ok=True)
    _remove_if_empty(folder)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def remove_unfinished(folder: Path) -> None:
    """Remove what interrupted writers of artifacts left. Not while others write."""
    for path in _files_in(folder):
        if path.name.endswith(_SUFFIX + TEMPORARY_SUFFIX):
            path.unlink(missing_ok=True)


def collector(names: set[str]) -> Callable[..., None]:
    """A stand-in for `Artifacts.fetch` that reads nothing and collects the names of what would be read."""

    def fetch(codec: str, name: str | None, parts: Sequence[Any]) -> None:
        if name is not None:
            names.add(name)

    return fetch


def _files_in(folder: Path) -> Iterator[Path]:
    try:
        yield from list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return


def _size_at(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _digest(codec: str, parts: Sequence[Buffer]) -> str:
    """Of everything that decides what is read, sizes included."""
    hasher = blake2b(digest_size=20, person=b"cw-artifact")
    hasher.update(repr((codec, [size_of(part) for part in parts])).encode())
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()


def _read(path: Path, codec: str, sizes: Sequence[int]) -> list[bytearray]:
    try:
        found = path.stat().st_size
        if not all(type(size) is int and size >= 0 for size in sizes) or found != sum(sizes):
            raise ArtifactUnreadable(path, f"it has {found:,} bytes, not what its entry says")
        parts = [bytearray(size) for size in sizes]
        with path.open("rb", buffering=0) as file:
            for part in parts:
                _fill(part, file, path)
    except FileNotFoundError:
        raise ArtifactUnreadable(path, "it is missing") from None
    except OSError as exc:
        raise ArtifactUnreadable(path, f"it cannot be read: {exc}") from exc
    check_digest(path, path.name.removesuffix(_SUFFIX), codec, parts)
    return parts


def check_digest(place: Path | str, name: str, codec: str, parts: Sequence[Buffer]) -> None:
    """Compare what was read with the name it was read under.

    Raises:
        ArtifactUnreadable: It is not what was written.
    """
    if _digest(codec, parts) != name:
        raise ArtifactUnreadable(place, "its digest does not match")


def _fill(part: bytearray, file: Any, path: Path) -> None:
    view = memoryview(part)
    while view.nbytes:
        read = file.readinto(view)
        if not read:
            raise ArtifactUnreadable(path, "it ends too early")
        view = view[read:]
