"""Which objects lie in shared memory, so that one that is used by many steps is packed once.

Both ends of a connection have a `Sharing`. It lends references for what it is asked to send, and remembers the objects
that it received, so that one which only passes through is not packed again: its owner gets the very object back.

Called by `processes` and `worker`.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from chainweaver.lanes.wire import stands_for
from chainweaver.objects.codecs import NoCodecError, Packed, codec_for, pack, unpack
from chainweaver.objects.plain import PlainEncodeError, decode_plain, encode_plain
from chainweaver.objects.shared import SharedMemoryStore, same_bytes
from chainweaver.objects.store import ObjectRef, StoreFullError

UNCHANGEABLE = frozenset({"numpy.ndarray", "numpy.generic", "pyarrow"})
"""Codecs whose objects have the bytes that they lie over for good, where these are read-only."""


def form_of(value: Any, codec: str) -> object:
    """What may change of an object while its bytes stay: an array can be given another shape and another type."""
    return (value.shape, value.strides, value.dtype) if codec == "numpy.ndarray" else None


class _Known:
    """An object of which a store holds the bytes.

    Attributes:
        find: Gives the object; None where its type cannot be referred to weakly.
        seen: The trust with which the bytes were last found to be those of the object.
        is_fixed: They cannot be others.
        form: See `form_of`.
    """

    __slots__ = ("find", "form", "is_fixed", "ref", "seen")

    def __init__(
        self, ref: ObjectRef, find: Callable[[], Any] | None, seen: object, is_fixed: bool, form: object
    ) -> None:
        self.ref = ref
        self.find = find
        self.seen = None if seen is None else weakref.ref(seen)
        self.is_fixed = is_fixed
        self.form = form

    def is_of(self, value: Any, codec: str) -> bool:
        return self.find is not None and self.find() is value and self.form == form_of(value, codec)

    def is_trusted(self, trust: object) -> bool:
        return self.is_fixed or (trust is not None and self.seen is not None and self.seen() is trust)


LEAST_DESCRIPTORS = 50
"""So few are no harm to anybody: nothing is asked of the system."""


class Sharing:
    """The objects of one process in shared memory.

    Args:
        min_bytes: Smaller objects are not worth a segment.
        is_owner: What is received may be changed here, which nobody else sees; otherwise it is read-only.
    """

    def __init__(self, min_bytes: int, *, is_owner: bool = False) -> None:
        self.min_bytes = min_bytes
        self.is_owner = is_owner
        self.store = SharedMemoryStore()
        # One lock for both. With two, the collector of garbage, which may call `gone` wherever the store holds its
        # own, would take them in the other order.
        self._lock = self.store._lock
        self._known: dict[int, _Known] = {}
        self._by_key: dict[str, int] = {}

    def lend(self, value: Any, trust: object = None) -> ObjectRef | None:
        """A reference to the bytes of an object, pinned once more for the caller; None for what has to be pickled.

        An object that was packed before is compared with its bytes, since somebody may have changed it meanwhile.

        Args:
            trust: As long as this is the same object, nobody changes values between two calls, and nothing is compared.
        """
        codec = codec_for(value)
        if codec is None:
            return None
        with self._lock:
            known = self._known.get(id(value))
            if known is not None and known.is_trusted(trust) and known.is_of(value, codec.name):
                self.store.pin(known.ref)
                return known.ref
        return self._packed(value, trust)

    def take(self, ref: ObjectRef, descriptor: int | None, trust: object = None) -> Any:
        """The object that another process lent; its memory is given back when nobody holds the object any more.

        One that came from here, and is still there, is that very object.

        Args:
            trust: As for `lend`.

        Raises:
            UnpackError: Its bytes are damaged.
        """
        known = self.own(ref.key)
        if known is not None:
            if descriptor is not None:
                os.close(descriptor)
            return known
        ref = self.store.adopt(ref, descriptor)
        try:
            buffers, is_copy = self._buffers(ref, is_private=self.is_owner)
            value = unpack(Packed(ref.codec, decode_plain(ref.facts), buffers))
        except BaseException:
            self.store.release(ref)
            raise
        if is_copy:
            self.store.release(ref)
            return value
        # The items of an array over private pages may change.
        is_fixed = ref.codec in UNCHANGEABLE and not (self.is_owner and ref.codec == "numpy.ndarray")
        self._remember(value, ref, trust, is_fixed)
        return value

    def take_private(self, ref: ObjectRef, descriptor: int | None) -> Any:
        """The same to be changed here, which nobody else sees; it is not known again.

        Raises:
            UnpackError: Its bytes are damaged.
        """
        ref = self.store.adopt(ref, descriptor)
        try:
            return unpack(Packed(ref.codec, decode_plain(ref.facts), self._buffers(ref, is_private=True)[0]))
        finally:
            self.store.release(ref)

    def _buffers(self, ref: ObjectRef, *, is_private: bool) -> tuple[tuple[memoryview, ...], bool]:
        """What an object is made over, and whether that is a copy, which keeps no descriptor."""
        if not self._is_full():
            try:
                return self.store._private_buffers(ref) if is_private else self.store.buffers(ref), False
            except OSError:  # others have taken all descriptors
                pass
        copied = self.store._copied_buffers(ref)
        return copied if is_private else tuple(one.toreadonly() for one in copied), True

    def own(self, key: str) -> Any:
        """The object whose bytes have this key, when it is still there; None otherwise."""
        with self._lock:
            place = self._by_key.get(key)
            known = None if place is None else self._known.get(place)
            return None if known is None or known.find is None else known.find()

    def forget(self) -> None:
        """Begin with nothing, in a process that was forked."""
        self._lock = self.store._lock = threading.RLock()
        self.close()

    def close(self) -> None:
        """Let go of all that is held; objects over shared memory stay as they are."""
        with self._lock:
            self._known.clear()
            self._by_key.clear()
        self.store.clear()

    def _packed(self, value: Any, trust: object) -> ObjectRef | None:
        if (estimate := getattr(value, "nbytes", None)) is not None and estimate < self.min_bytes:
            return None
        try:
            packed = pack(value)
        except NoCodecError:
            return None  # pickle may know a way; where it does not, its reason is the better one
        if packed.nbytes < self.min_bytes:
            return None
        try:
            facts = encode_plain(packed.facts)
        except PlainEncodeError:
            return None
        with self._lock:
            known = self._known.get(id(value))
            if known is not None:
                # Held while it is compared: the collector may come by, and find that whoever kept it here is gone.
                self.store.pin(known.ref)
                if self._still(known, value, packed, facts):
                    known.seen = None if trust is None else weakref.ref(trust)
                    return known.ref
                self.store.release(known.ref)
                if self._known.get(id(value)) is known:
                    self._drop(id(value), known)
        try:
            ref = self.store.put_packed(packed)
        except (OSError, StoreFullError):
            return None  # no memory or no descriptor to be had: the slow way is open
        if not self._is_full():
            self.store.pin(ref)
            self._remember(value, ref, trust, False)
        return ref

    def _is_full(self) -> bool:
        """Whether so many descriptors are open that further objects are to keep none."""
        if self.store._descriptors() < LEAST_DESCRIPTORS:
            return False
        import resource  # there are no descriptors where there is no such module

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return limit != resource.RLIM_INFINITY and self.store._descriptors() > limit // 4

    def _still(self, known: _Known, value: Any, packed: Packed, facts: bytes) -> bool:
        """Whether the bytes that are held are those of the object."""
        if known.find is not None and known.find() is not value:
            return False
        ref = known.ref
        if ref.codec != packed.codec:
            return False
        try:
            if ref.facts == facts:
                return same_bytes(packed.buffers, self.store.buffers(ref))
            if ref.codec != "pandas":
                return False
            # The description of a frame also depends on which of its texts are one object, which reading changes. One
            # that was read again is described as the value is, if that is what it was.
            again = pack(self.store.get(ref))
            return encode_plain(again.facts) == facts and same_bytes(packed.buffers, again.buffers)
        except OSError:  # no descriptor to look at them
            return False

    def _remember(self, value: Any, ref: ObjectRef, trust: object, is_fixed: bool) -> None:
        """Keep the hold of a reference for as long as its object lives, or for as long as the trust."""
        place = id(value)

        def gone(_: object) -> None:
            with self._lock:
                known = self._known.get(place)
                if known is not None and known.ref.key == ref.key:
                    self._drop(place, known)

        find: Callable[[], Any] | None = None
        try:
            find = weakref.ref(value, gone)
        except TypeError:
            if trust is None:
                self.store.release(ref)
                return
            weakref.finalize(trust, gone, None).atexit = False
        with self._lock:
            before = self._known.get(place)
            if before is not None:
                self._drop(place, before)
            self._known[place] = _Known(ref, find, trust, is_fixed, form_of(value, ref.codec))
            self._by_key[ref.key] = place

    def _drop(self, place: int, known: _Known) -> None:
        self._known.pop(place, None)
        self._by_key.pop(known.ref.key, None)
        self.store.release(known.ref)


class Cargo:
    """The objects of one frame that travel in shared memory.

    Args:
        most: Descriptors that may come along.
        trust: As for `Sharing.lend`.
        is_private: Who receives them may change them. Otherwise arrays that are too small for shared memory are
            read-only there as well, so that what a tool may do does not depend on sizes.

    Attributes:
        rows: What is said of each: its reference, and whether its descriptor comes along.
        descriptors: Those that come along, in the same order.
    """

    def __init__(self, sharing: Sharing, most: int, trust: object = None, *, is_private: bool = True) -> None:
        self._sharing = sharing
        self._most = most
        self._trust = trust
        self._is_private = is_private
        self._numbers: dict[str, int] = {}
        self.rows: list[tuple[ObjectRef, bool]] = []
        self.descriptors: list[int] = []

    def lift(self, value: Any) -> int | None:
        """The number of an object that travels here; None for all others."""
        if len(self.descriptors) >= self._most:
            return None
        ref = self._sharing.lend(value, self._trust)
        if ref is None:
            return None
        number = self._numbers.get(ref.key)
        if number is not None:
            self._sharing.store.release(ref)
            return number
        descriptor = self._sharing.store.descriptor(ref)
        number = self._numbers[ref.key] = len(self.rows)
        self.rows.append((ref, descriptor is not None))
        if descriptor is not None:
            self.descriptors.append(descriptor)
        return number

    def reduced(self, value: Any) -> tuple[Any, ...] | None:
        """How pickle is to write an object; None for what it knows how to write."""
        number = self.lift(value)
        if number is not None:
            return stands_for, (number,)
        return None if self._is_private else _read_only(value)

    def release(self) -> None:
        """Give back the holds, once the frame is on its way."""
        for ref, _ in self.rows:
            self._sharing.store.release(ref)
        self.rows = []
        self.descriptors = []


def _read_only(value: Any) -> tuple[Any, ...] | None:
    """How an array is written that is read-only where it is read; None for all else."""
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value) is not numpy.ndarray or value.dtype.hasobject or not value.flags.writeable:
        return None
    whole = value.flags.c_contiguous or value.flags.f_contiguous
    shown = value.view() if whole else value.copy()
    shown.flags.writeable = False
    reduced: tuple[Any, ...] = shown.__reduce_ex__(5)
    return reduced


def unload(
    take: Callable[[ObjectRef, int | None], Any], rows: Sequence[tuple[ObjectRef, bool]], descriptors: Sequence[int]
) -> list[Any]:
    """The objects that came with a frame. The descriptors are used up, also when this raises.

    Args:
        take: `Sharing.take`, or one of its kind.

    Raises:
        UnpackError, OSError: One of them cannot be had.
    """
    left = list(reversed(descriptors))
    missing = sum(has_descriptor for _, has_descriptor in rows) - len(left)
    try:
        if missing > 0:
            # The system passes on as many as there is room for, and says nothing of the others.
            raise OSError(errno.EMFILE, f"{missing} of its descriptors did not arrive: too many open files")
        return [take(ref, left.pop() if has_descriptor else None) for ref, has_descriptor in rows]
    finally:
        for descriptor in left:
            os.close(descriptor)
