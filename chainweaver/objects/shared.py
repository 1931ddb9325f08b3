"""Objects in memory that several processes map: packed once, read by all without a copy.

A segment is an anonymous memory file. It has no name that could be left behind: whoever holds a descriptor or a mapping
keeps it alive, and the kernel frees it with the last of them, however that one ends. Descriptors travel over Unix
sockets; where there are none (Windows), a segment is named memory of the system, which counts its users likewise.

Called by the process lane, which passes descriptors on, and by users.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from chainweaver.objects.codecs import Packed, pack, size_of, unpack
from chainweaver.objects.plain import decode_plain, encode_plain
from chainweaver.objects.store import ObjectNotFoundError, ObjectRef, StoreFullError, StoreStats

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

ALIGN = 64
"""Buffers begin at multiples of this, which is what vector instructions and Arrow ask for."""

CHUNK = 1 << 16
"""Bytes that are compared at a time: few enough to stay in the nearest cache."""


def offsets_of(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where buffers of these sizes begin, and what they take together.

    >>> offsets_of([10, 0, 100])
    ([0, 64, 64], 164)
    """
    found, end = [], 0
    for size in sizes:
        begin = -(-end // ALIGN) * ALIGN
        found.append(begin)
        end = begin + size
    return found, end


class Segment:
    """Memory that other processes can map.

    It holds its descriptor, and the mapping that it was written by: pages that nobody else maps would count as those of
    the process that reads them. All other mappings belong to who reads.

    Attributes:
        fd: Its descriptor; None where the system has names instead, or once it was closed.
        name: Its name, empty where it has none.
        nbytes: Its size.
    """

    __slots__ = ("_map", "fd", "name", "nbytes")

    def __init__(self, fd: int | None, name: str, nbytes: int, mapping: mmap.mmap | None = None) -> None:
        self._map = mapping
        self.fd = fd
        self.name = name
        self.nbytes = nbytes

    @classmethod
    def new(cls, nbytes: int) -> Segment:
        """Memory of our own, to be written.

        Raises:
            OSError: The system has none to give, or no descriptor for it.
        """
        nbytes = max(nbytes, 1)
        if not hasattr(os, "pread"):
            name = f"chainweaver-{os.getpid()}-{secrets.token_hex(8)}"
            return cls(None, name, nbytes, _mapped_by_name(name, nbytes, mmap.ACCESS_WRITE))
        fd = _anonymous_file(nbytes)
        try:
            return cls(fd, "", nbytes, _mapped(fd, nbytes, mmap.ACCESS_WRITE))
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def of_descriptor(cls, fd: int, nbytes: int) -> Segment:
        """Memory of another process, to be read; the descriptor is ours from now on."""
        return cls(fd, "", max(nbytes, 1))

    @classmethod
    def of_name(cls, name: str, nbytes: int) -> Segment:
        """Memory of another process on a system that has names for it, to be read."""
        nbytes = max(nbytes, 1)
        return cls(None, name, nbytes, _mapped_by_name(name, nbytes, mmap.ACCESS_READ))

    def view(self, access: int = mmap.ACCESS_READ) -> memoryview:
        """All of it, writable if it was made here; whoever holds the view, or an array over it, keeps the memory.

        Args:
            access: `ACCESS_COPY`: what is written is seen by nobody else.

        Raises:
            OSError: There is less of it than its size, or no descriptor for the mapping.
        """
        if self._map is not None and access != mmap.ACCESS_COPY:
            return memoryview(self._map)
        if self.fd is not None:
            return memoryview(_mapped(self.fd, self.nbytes, access))
        assert self.name, "a closed segment shows nothing"
        return memoryview(_mapped_by_name(self.name, self.nbytes, access))

    def copied(self) -> memoryview:
        """All of it, copied into memory of this process: the way that takes no further descriptor.

        Raises:
            OSError: There is less of it than its size.
        """
        if self.fd is None:
            return memoryview(bytearray(self.view()))
        found, begin = memoryview(bytearray(self.nbytes)), 0
        while begin < self.nbytes:
            piece = os.pread(self.fd, 1 << 20, begin)
            if not piece:
                raise OSError("the memory is shorter than what it is said to hold")
            found[begin : begin + len(piece)] = piece
            begin += len(piece)
        return found

    def close(self) -> None:
        """Let go of it; views that were handed out stay as they are."""
        fd, self.fd = self.fd, None
        # Not `mmap.close`, which refuses while there are views: the mapping ends with the last of them by itself.
        self._map = None
        if fd is not None:
            os.close(fd)


def _anonymous_file(nbytes: int) -> int:
    """A descriptor of a file that no folder knows."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("chainweaver", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, nbytes)
            _seal_size(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd
    memory = "/dev/shm"
    with tempfile.TemporaryFile(dir=memory if os.path.isdir(memory) else None) as file:
        # Blocks that were not promised would be missed by whoever writes to them, as a fatal signal.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, nbytes)
        else:
            file.truncate(nbytes)
        return os.dup(file.fileno())


def _seal_size(fd: int) -> None:
    """Keep everybody from making it shorter: what is cut off would be a fatal signal for those who read it."""
    import fcntl

    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)


_COSTLY: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
"""The mappings that keep a descriptor."""


def _mapped(fd: int, nbytes: int, access: int) -> mmap.mmap:
    flags = mmap.MAP_PRIVATE if access == mmap.ACCESS_COPY else mmap.MAP_SHARED
    protection = mmap.PROT_READ if access == mmap.ACCESS_READ else mmap.PROT_READ | mmap.PROT_WRITE
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, nbytes, flags, protection, trackfd=False)
    mapping = mmap.mmap(fd, nbytes, flags, protection)
    _COSTLY.add(mapping)
    return mapping


def _mapped_by_name(name: str, nbytes: int, access: int) -> mmap.mmap:
    named: Any = mmap.mmap  # which takes a name on the system that has them
    found: mmap.mmap = named(-1, nbytes, name, access=access)
    return found


class SharedMemoryStore:
    """Objects as bytes in shared memory; `get` gives read-only ones that lie over them.

    Args:
        max_bytes: Most bytes that it may hold. None: as many as the system has.

    >>> store = SharedMemoryStore()
    >>> ref = store.put(b"x" * 1000)
    >>> ref.nbytes, store.get(ref) == b"x" * 1000, store.stats().objects
    (1000, True, 1)
    >>> store.release(ref)
    >>> store.stats().objects
    0
    """

    kind = "shm"

    def __init__(self, *, max_bytes: int | None = None) -> None:
        self._max_bytes = max_bytes
        # Reentrant: what is let go by the collector of garbage, in the middle of anything, is released here as well.
        self._lock = threading.RLock()
        self._held: dict[str, _Held] = {}
        self._nbytes = 0
        self._number = count()
        self._origin = f"{os.getpid():x}-{secrets.token_hex(3)}"

    def put(self, value: Any) -> ObjectRef:
        """Pack an object into a segment of its own; it is held once until it is released.

        Raises:
            NoCodecError: Its type has no form as bytes.
            StoreFullError: It would not fit into `max_bytes`.
            OSError: The system has no memory or no descriptor to give.
        """
        return self.put_packed(pack(value))

    def put_packed(self, packed: Packed) -> ObjectRef:
        """The same for an object that was packed already."""
        sizes = tuple(size_of(buffer) for buffer in packed.buffers)
        offsets, total = offsets_of(sizes)
        self._reserve(packed.codec, total)
        try:
            segment = Segment.new(total)
        except BaseException:
            self._give_back(total)
            raise
        try:
            with segment.view(mmap.ACCESS_WRITE) as view:
                for begin, size, buffer in zip(offsets, sizes, packed.buffers, strict=True):
                    view[begin : begin + size] = buffer
        except BaseException:
            segment.close()
            self._give_back(total)
            raise
        key = segment.name or f"{self._origin}-{next(self._number):x}"
        ref = ObjectRef(self.kind, key, packed.codec, encode_plain(packed.facts), sizes)
        with self._lock:
            self._held[key] = _Held(ref, segment, total)
        return ref

    def adopt(self, ref: ObjectRef, fd: int | None) -> ObjectRef:
        """Hold an object once that another process has packed, by the descriptor that came with it.

        Returns:
            The reference that is valid here: with another key, where that one is taken.
        """
        total = offsets_of(ref.sizes)[1]
        segment = Segment.of_name(ref.key, total) if fd is None else Segment.of_descriptor(fd, total)
        with self._lock:
            if ref.key in self._held:
                ref = ref._replace(key=f"{self._origin}-{next(self._number):x}")
            self._held[ref.key] = _Held(ref, segment, total)
            self._nbytes += total
        return ref

    def get(self, ref: ObjectRef) -> Any:
        """An equal object over the shared memory; nobody can change it.

        Raises:
            ObjectNotFoundError: It was released, or never was here.
            UnpackError: The reference is damaged.
            OSError: The system has no descriptor for the mapping.
        """
        # Read-only for those who ask. Foreign code that writes by address, such as PyTorch, would end the program where
        # pages cannot be written, and change what all others see where they can: it gets pages of its own.
        buffers = tuple(buffer.toreadonly() for buffer in self._private_buffers(ref))
        return unpack(Packed(ref.codec, decode_plain(ref.facts), buffers))

    def buffers(self, ref: ObjectRef) -> tuple[memoryview, ...]:
        """The bytes of an object as they lie in shared memory, read-only.

        Raises:
            ObjectNotFoundError: It was released, or never was here.
        """
        with self._lock:
            view = self._find(ref).segment.view().toreadonly()
        return _cut(view, ref.sizes)

    def _private_buffers(self, ref: ObjectRef) -> tuple[memoryview, ...]:
        """The same to be changed: what is written is seen by nobody else, and takes memory of its own."""
        with self._lock:
            view = self._find(ref).segment.view(mmap.ACCESS_COPY)
        return _cut(view, ref.sizes)

    def _copied_buffers(self, ref: ObjectRef) -> tuple[memoryview, ...]:
        """The same in memory of this process alone."""
        with self._lock:
            view = self._find(ref).segment.copied()
        return _cut(view, ref.sizes)

    def _descriptors(self) -> int:
        """How many descriptors this store and all objects over shared memory keep open."""
        return len(self._held) + len(_COSTLY) if hasattr(os, "pread") else 0

    def descriptor(self, ref: ObjectRef) -> int | None:
        """The descriptor to pass on, valid while the object is held; None where the key of the reference is enough.

        Raises:
            ObjectNotFoundError: It was released, or never was here.
        """
        with self._lock:
            return self._find(ref).segment.fd

    def pin(self, ref: ObjectRef) -> None:
        """Hold an object once more.

        Raises:
            ObjectNotFoundError: It was released, or never was here.
        """
        with self._lock:
            self._find(ref).holds += 1

    def release(self, ref: ObjectRef) -> None:
        """Let go of an object once; with the last hold the store forgets it, and what lies over it stays."""
        with self._lock:
            held = self._held.get(ref.key) if ref.store == self.kind else None
            if held is None:
                return
            held.holds -= 1
            if held.holds > 0:
                return
            del self._held[ref.key]
            self._nbytes -= held.nbytes
        held.segment.close()

    def info(self, ref: ObjectRef) -> dict[str, Any]:
        """Codec, bytes, pins and place of an object.

        Raises:
            ObjectNotFoundError: It was released, or never was here.
        """
        with self._lock:
            held = self._find(ref)
            return {"type": ref.codec, "nbytes": ref.nbytes, "pins": held.holds - 1, "backing": self.kind}

    def stats(self) -> StoreStats:
        """How full the store is."""
        with self._lock:
            return StoreStats(len(self._held), self._nbytes)

    def clear(self) -> None:
        """Forget everything; what lies over it stays."""
        with self._lock:
            held, self._held = self._held, {}
            self._nbytes = 0
        for one in held.values():
            one.segment.close()

    def close(self) -> None:
        """The same, as every store is closed; also at the end of a `with` block."""
        self.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def forget(self) -> None:
        """The same in a process that was forked, where another thread may have held the lock for ever."""
        self._lock = threading.RLock()
        self.clear()

    def _find(self, ref: ObjectRef) -> _Held:
        held = self._held.get(ref.key) if ref.store == self.kind else None
        if held is None:
            raise ObjectNotFoundError(ref)
        return held

    def _reserve(self, codec: str, nbytes: int) -> None:
        with self._lock:
            if self._max_bytes is not None and self._nbytes + nbytes > self._max_bytes:
                raise StoreFullError(codec, nbytes, self._nbytes, self._max_bytes, "or give it a larger max_bytes")
            self._nbytes += nbytes

    def _give_back(self, nbytes: int) -> None:
        with self._lock:
            self._nbytes -= nbytes


def _cut(view: memoryview, sizes: Sequence[int]) -> tuple[memoryview, ...]:
    offsets, _ = offsets_of(sizes)
    return tuple(view[begin : begin + size] for begin, size in zip(offsets, sizes, strict=True))


class _Held:
    __slots__ = ("holds", "nbytes", "ref", "segment")

    def __init__(self, ref: ObjectRef, segment: Segment, nbytes: int) -> None:
        self.ref = ref
        self.segment = segment
        self.nbytes = nbytes
        self.holds = 1


def same_bytes(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two rows of buffers hold the same.

    Memory is compared in pieces: views compare themselves one byte after the other, which takes ten times as long.

    >>> same_bytes([b"ab", b"c"], [b"ab", memoryview(b"c")]), same_bytes([b"ab"], [b"ac"])
    (True, False)
    """
    if [size_of(buffer) for buffer in one] != [size_of(buffer) for buffer in other]:
        return False
    piece: Callable[[memoryview, int], bytes] = lambda view, begin: bytes(view[begin : begin + CHUNK])  # noqa: E731
    for buffer, its in zip(one, other, strict=True):
        left, right = memoryview(buffer), memoryview(its)
        for begin in range(0, left.nbytes, CHUNK):
            if piece(left, begin) != piece(right, begin):
                return False
    return True
