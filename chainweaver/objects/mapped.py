"""Objects in a folder: whole files, mapped when they are read.

Every object is one file. Arrays of NumPy are `.npy`, what Arrow holds is a stream of Arrow's own format (`.arrows`),
frames of polars are Arrow files (`.arrow`), tensors are `.safetensors` where that package is installed; everything else
that has a codec lies in a small container of ours (`.object`): a line of facts, and buffers at multiples of 64 bytes.
Frames of pandas are among these, since their blocks can be mapped as they are and would be copied on a way through
Arrow. A file is written under a temporary name, forced to the disk and moved to its own name, which ends with the
digest of its bytes; so a file that can be found is whole, and one that was changed is known by its name.

Called by `refs` for what does not fit into memory, and by users.
"""

from __future__ import annotations

import mmap
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from io import BufferedWriter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from chainweaver.exceptions import ArtifactCorruptError
from chainweaver.objects.codecs import (
    Codec,
    NoCodecError,
    Packed,
    UnpackError,
    codec_for,
    pack,
    polars_frame,
    size_of,
    type_name_of,
    unpack,
    write_arrow,
)
from chainweaver.objects.files import TEMPORARY_SUFFIX, mapped, sync_directory
from chainweaver.objects.plain import decode_plain, encode_plain
from chainweaver.objects.store import ObjectNotFoundError, ObjectRef, StoreStats

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

KIND = "mmap"

_MAGIC = b"chainweaver object 1\n"
_ALIGNMENT = 64
_PIECE = 1 << 20
_KEY = re.compile(r"[0-9a-f]{32}-(?P<digest>[0-9a-f]{32})(?P<suffix>\.[a-z]+)", re.ASCII)
_SETTLED_NS = 2_000_000_000
"""A file that was changed later than this before it was checked may change again without a new time of change."""


class _Format(NamedTuple):
    """How one kind of object lies in a file.

    Attributes:
        suffix: The end of the file's name.
        write: `object, temporary path -> facts`; what the file itself does not say.
        read: `path, facts -> object` over the mapped file.
    """

    suffix: str
    write: Callable[[Any, Path], dict[str, Any]]
    read: Callable[[Path, dict[str, Any]], Any]


class MmapStore:
    """Keeps objects as files in a folder; what is read from it is mapped and not loaded.

    Arrays, tables and frames that `get` gives lie over the file and cannot be changed; a tensor can be, and the change
    stays with that tensor. Memory is taken for the parts that are looked at, and the system may take it back. Bytes are
    read into memory, since no bytes object lies over a file, and so are frames of polars where pyarrow is missing.

    The files outlive the store and the process: a `MmapStore` over the same folder finds them by the same references.
    Whoever puts an object holds it once; holds are counted in this object and not across processes. Reading compares
    the digest of the whole file, unless that was done before and the file is the same by inode, length and time.

    Safe to use from many threads, and from many processes as long as nobody releases what another one still needs.

    Args:
        folder: Where the files are; made when it does not exist.

    >>> import tempfile
    >>> store = MmapStore(tempfile.mkdtemp())
    >>> ref = store.put(b"abc")
    >>> store.get(ref), store.stats().spilled
    (b'abc', 1)
    >>> store.release(ref)
    >>> store.stats().objects
    0
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._holds: dict[str, int] = {}
        self._checked: dict[str, tuple[int, int, int]] = {}

    def put(self, value: Any) -> ObjectRef:
        """Write an object to a file of its own; it is held once until it is released.

        Raises:
            NoCodecError: It has no form as bytes.
            OSError: The file cannot be written. Nothing is left of it.
        """
        codec = codec_for(value)
        if codec is None:
            pack(value)  # says why
        assert codec is not None, "a type without a codec has been refused"
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=TEMPORARY_SUFFIX)
        os.close(handle)
        temporary = Path(name)
        try:
            form, facts = _written(value, codec, temporary)
            size, digest = _forced_to_disk(temporary)
            key = f"{uuid4().hex}-{digest}{form.suffix}"
            os.replace(temporary, self.folder / key)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_directory(self.folder)
        with self._lock:
            self._holds[key] = 1
        return ObjectRef(KIND, key, codec.name, encode_plain(facts), (size,))

    def get(self, ref: ObjectRef) -> Any:
        """An object equal to the one that was put, over its mapped file.

        Raises:
            ObjectNotFoundError: There is no such file: the object was released, or was put into another folder.
            ArtifactCorruptError: The file is not what was written.
            UnpackError: It is, but the library of the type is not installed, or of a release that cannot read it.
        """
        path, digest, form = self._find(ref)
        try:
            self._check(path, digest, ref)
            return form.read(path, decode_plain(ref.facts))
        except FileNotFoundError:
            raise ObjectNotFoundError(ref) from None

    def pin(self, ref: ObjectRef) -> None:
        """Hold an object once more.

        Raises:
            ObjectNotFoundError: There is no such file.
        """
        path, _, _ = self._find(ref)
        with self._lock:
            if not path.exists():
                raise ObjectNotFoundError(ref)
            self._holds[ref.key] = self._holds.get(ref.key, 1) + 1

    def release(self, ref: ObjectRef) -> None:
        """Let go of an object once; its file goes when nobody holds it. What was read from it stays readable.

        A file that an earlier process left is held once. An unknown reference is none of anybody's business.
        """
        try:
            path, _, _ = self._find(ref)
        except ObjectNotFoundError:
            return
        with self._lock:
            left = self._holds.get(ref.key, 1) - 1
            if left:
                self._holds[ref.key] = left
                return
            self._holds.pop(ref.key, None)
            self._checked.pop(ref.key, None)
            path.unlink(missing_ok=True)

    def info(self, ref: ObjectRef) -> dict[str, Any]:
        """What is known of an object without reading it: codec, nbytes, pins, and where it lies.

        Raises:
            ObjectNotFoundError: There is no such file.
        """
        path, _, _ = self._find(ref)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise ObjectNotFoundError(ref) from None
        with self._lock:
            pins = self._holds.get(ref.key, 1) - 1
        return {"codec": ref.codec, "nbytes": size, "pins": pins, "backing": "mmap", "path": str(path)}

    def stats(self) -> StoreStats:
        """How many files there are and how long they are; in memory there is nothing."""
        sizes = []
        for path in self.folder.iterdir():
            if _KEY.fullmatch(path.name):
                with suppress(FileNotFoundError):  # released meanwhile
                    sizes.append(path.stat().st_size)
        return StoreStats(len(sizes), 0, len(sizes), sum(sizes))

    def close(self) -> None:
        """Forget what is held and what was checked. The files stay, for the next store over the folder."""
        with self._lock:
            self._holds.clear()
            self._checked.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def clear_leftovers(self) -> None:
        """Remove what writers that died while they wrote left behind. Not while others write."""
        for path in self.folder.glob(f".*{TEMPORARY_SUFFIX}"):
            path.unlink(missing_ok=True)

    def _find(self, ref: ObjectRef) -> tuple[Path, str, _Format]:
        found = _KEY.fullmatch(ref.key) if ref.store == KIND else None
        form = None if found is None else _BY_SUFFIX.get(found["suffix"])
        if found is None or form is None:
            raise ObjectNotFoundError(ref)
        return self.folder / ref.key, found["digest"], form

    def _check(self, path: Path, digest: str, ref: ObjectRef) -> None:
        """Compare the bytes of a file with its name, unless this was done since it was last changed."""
        state = path.stat()
        seen = (state.st_ino, state.st_size, state.st_mtime_ns)
        with self._lock:
            if self._checked.get(ref.key) == seen:
                return
        if (state.st_size,) != ref.sizes:
            raise ArtifactCorruptError(str(path), f"it has {state.st_size} bytes instead of {ref.nbytes}")
        with path.open("rb") as file:
            if _digest_of(file) != digest:
                raise ArtifactCorruptError(str(path), "its bytes have another digest than they were written with")
        if time.time_ns() - state.st_mtime_ns > _SETTLED_NS:
            with self._lock:
                self._checked[ref.key] = seen


# ---- files


def _written(value: Any, codec: Codec, path: Path) -> tuple[_Format, dict[str, Any]]:
    """Write an object in the first form that takes it, and that it can be read from.

    Raises:
        NoCodecError: There is none. Better now than when somebody wants to have it back, and it is in memory no more.
    """
    form = _BY_CODEC.get(codec.name, _CONTAINER)
    if form is not _CONTAINER:
        with suppress(_Unsuited, UnpackError):
            facts = form.write(value, path)
            form.read(path, facts)
            return form, facts
    facts = _CONTAINER.write(value, path)
    if codec.name not in ("bytes", "bytearray"):  # they would be copied once more for nothing
        try:
            _CONTAINER.read(path, facts)
        except UnpackError as exc:
            raise NoCodecError(type_name_of(value), f"what is written of it cannot be read again: {exc}") from exc
    return _CONTAINER, facts


class _Unsuited(Exception):
    """A form cannot hold this very object; the container can."""


def _forced_to_disk(path: Path) -> tuple[int, str]:
    """Wait until a file is on the disk; its size and the digest of its bytes."""
    with path.open("r+b") as file:
        digest = _digest_of(file)
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size, digest


def _digest_of(file: Any) -> str:
    hashed = blake2b(digest_size=16)
    while piece := file.read(_PIECE):
        hashed.update(piece)
    return hashed.hexdigest()


def _mapped(path: Path, is_private: bool = False) -> memoryview:
    """A file as memory; private pages can be written to, and what is written stays with them."""
    if path.stat().st_size == 0:
        raise UnpackError("it is empty")
    if not is_private:
        return memoryview(mapped(path))
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


# ---- .npy


def _write_npy(value: Any, path: Path) -> dict[str, Any]:
    packed = pack(value)
    header = {
        "descr": packed.facts["dtype"],
        "fortran_order": packed.facts["order"] == "F",
        "shape": tuple(packed.facts["shape"]),
    }
    form = sys.modules["numpy"].lib.format
    with path.open("wb") as file:
        try:
            form.write_array_header_1_0(file, header)
        except ValueError:  # more fields than the first version has room for, or names in other scripts
            raise _Unsuited from None
        file.write(packed.buffers[0])
    return {}


def _read_npy(path: Path, facts: dict[str, Any]) -> Any:
    import numpy as np

    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        begin = file.tell()
    found = {"dtype": np.lib.format.dtype_to_descr(dtype), "shape": shape, "order": "F" if is_fortran else "C"}
    return unpack(Packed("numpy.ndarray", found, (_mapped(path)[begin:],)))


# ---- Arrow


def _write_arrow(value: Any, path: Path) -> dict[str, Any]:
    pa = sys.modules["pyarrow"]
    with pa.OSFile(str(path), "wb") as sink:
        return write_arrow(value, sink)


def _read_arrow(path: Path, facts: dict[str, Any]) -> Any:
    return unpack(Packed("pyarrow", facts, (_mapped(path),)))


def _write_polars(value: Any, path: Path) -> dict[str, Any]:
    frame = polars_frame(value)
    frame.write_ipc(path, compression="uncompressed")
    if dict(sys.modules["polars"].read_ipc_schema(path)) != dict(frame.schema):
        raise _Unsuited
    return {"kind": type(value).__name__}


def _read_polars(path: Path, facts: dict[str, Any]) -> Any:
    import polars as pl

    try:
        frame = _mapped_frame(path)
        if frame is None:
            frame = pl.read_ipc(path)
        return frame.to_series() if facts["kind"] == "Series" else frame
    except (Exception, pl.exceptions.PanicException) as exc:  # whatever polars raises for what it cannot read
        raise UnpackError(f"{type(exc).__name__}: {exc}") from exc


def _mapped_frame(path: Path) -> Any:
    """A frame over the file; None where pyarrow is not installed or does not know all types of polars. By itself polars
    reads the whole file."""
    import polars as pl

    try:
        import pyarrow as pa
    except ImportError:
        return None
    try:
        with pa.ipc.open_file(pa.py_buffer(_mapped(path))) as file:
            table = file.read_all()
    except pa.ArrowNotImplementedError:
        return None
    names = table.column_names
    # Polars would give a name to a column that has none.
    frame: Any = pl.from_arrow(table.rename_columns([str(place) for place in range(len(names))]), rechunk=False)
    frame.columns = names
    return frame if dict(frame.schema) == dict(pl.read_ipc_schema(path)) else None


# ---- tensors


def _write_tensor(value: Any, path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import save_file
    except ImportError:
        raise _Unsuited from None
    pack(value)  # refuses what has no form as bytes, and copies nothing that is contiguous
    if value.grad is not None:
        raise _Unsuited
    flat = value.detach().resolve_conj().resolve_neg().contiguous()
    try:
        save_file({"tensor": flat}, path)
    except (SafetensorError, KeyError, ValueError) as exc:  # a dtype that it does not know
        raise _Unsuited from exc
    return {"requires_grad": value.requires_grad}


def _read_tensor(path: Path, facts: dict[str, Any]) -> Any:
    try:
        from safetensors import safe_open
    except ImportError as exc:
        raise UnpackError("it needs safetensors, which is not installed") from exc
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("tensor").requires_grad_(bool(facts["requires_grad"]))
    except Exception as exc:  # whatever safetensors raises for bytes that are no tensor
        raise UnpackError(f"{type(exc).__name__}: {exc}") from exc


# ---- the container


def _write_container(value: Any, path: Path) -> dict[str, Any]:
    packed = pack(value)
    sizes = tuple(size_of(buffer) for buffer in packed.buffers)
    head = encode_plain({"codec": packed.codec, "facts": packed.facts, "sizes": sizes}) + b"\n"
    with path.open("wb") as file:
        file.write(_MAGIC + len(head).to_bytes(8, "little") + head)
        for buffer in packed.buffers:
            _align(file)
            file.write(buffer)
    return {}


def _align(file: BufferedWriter) -> None:
    file.write(bytes(-file.tell() % _ALIGNMENT))


def _read_container(path: Path, facts: dict[str, Any]) -> Any:
    view = _mapped(path)
    begin = len(_MAGIC) + 8
    if bytes(view[: len(_MAGIC)]) != _MAGIC:
        raise UnpackError("it does not begin as a container does")
    at = begin + int.from_bytes(view[len(_MAGIC) : begin], "little")
    try:
        head = decode_plain(bytes(view[begin:at]))
        codec, inner, sizes = head["codec"], head["facts"], head["sizes"]
    except (ValueError, KeyError) as exc:
        raise UnpackError(f"its facts cannot be read: {exc}") from exc
    if codec == "torch.Tensor":
        # PyTorch knows no read-only tensor: its pages are private, and copied when somebody writes to them.
        view = _mapped(path, is_private=True)
    buffers = []
    for size in sizes:
        at += -at % _ALIGNMENT
        buffers.append(view[at : at + size])
        at += size
    return unpack(Packed(codec, inner, tuple(buffers)))


_CONTAINER = _Format(".object", _write_container, _read_container)
_BY_CODEC = {
    "numpy.ndarray": _Format(".npy", _write_npy, _read_npy),
    "pyarrow": _Format(".arrows", _write_arrow, _read_arrow),
    "polars": _Format(".arrow", _write_polars, _read_polars),
    "torch.Tensor": _Format(".safetensors", _write_tensor, _read_tensor),
}
_BY_SUFFIX = {form.suffix: form for form in (*_BY_CODEC.values(), _CONTAINER)}
