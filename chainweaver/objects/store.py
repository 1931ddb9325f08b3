"""What every store of live objects does: values go in by reference or as bytes, and come out equal or the same.

A protocol, what it hands out, and its errors; the stores are in modules of their own. Used by the process lane, by runs
with a memory budget, and by users.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable


class ObjectRef(NamedTuple):
    """Stands for an object in a store. Small, plain, and the same in every process.

    Attributes:
        store: Name of the store's kind, such as "ref", "mmap" or "shm".
        key: Where the store finds it.
        codec: The codec of its bytes (see `codecs`); empty where the store holds the object itself.
        facts: What the codec has to know beside them, written by `encode_plain`.
        sizes: Bytes of each of its buffers.
    """

    store: str
    key: str
    codec: str = ""
    facts: bytes = b""
    sizes: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes in all buffers together; 0 where the store holds the object itself."""
        return sum(self.sizes)


class StoreStats(NamedTuple):
    """How full a store is.

    Attributes:
        objects: How many objects it holds.
        nbytes: Bytes that they take in memory.
        spilled: How many of them lie on disk instead.
        spilled_nbytes: Bytes of those.
    """

    objects: int
    nbytes: int
    spilled: int = 0
    spilled_nbytes: int = 0


@runtime_checkable
class ObjectStore(Protocol):
    """A place for objects. Safe to use from many threads."""

    def put(self, value: Any) -> ObjectRef:
        """Keep an object; it is held once until it is released.

        Raises:
            NoCodecError: The store needs its bytes, and its type has none.
            StoreFullError: It does not fit into the budget of the store.
        """
        ...

    def get(self, ref: ObjectRef) -> Any:
        """The object, or an equal one that cannot be changed.

        Raises:
            ObjectNotFoundError: It was released, or never was here.
        """
        ...

    def pin(self, ref: ObjectRef) -> None:
        """Hold an object once more, and keep it where it is: what is pinned is not spilled.

        Raises:
            ObjectNotFoundError: It was released, or never was here.
        """
        ...

    def release(self, ref: ObjectRef) -> None:
        """Let go of an object once; it is forgotten when nobody holds it. What was read from it stays readable.

        An unknown reference is none of anybody's business.
        """
        ...

    def info(self, ref: ObjectRef) -> dict[str, Any]:
        """What is known of an object without reading it.

        `nbytes`, `pins` (how often it is held beside the hold of whoever put it), `backing` ("heap", "mmap", "shm"),
        and what else the store knows.

        Raises:
            ObjectNotFoundError: It was released, or never was here.
        """
        ...

    def stats(self) -> StoreStats:
        """How full the store is."""
        ...


class ObjectNotFoundError(KeyError):
    """A reference leads to nothing: its object was released, or belongs to another store."""

    def __init__(self, ref: ObjectRef) -> None:
        super().__init__(ref.key)
        self.ref = ref

    def __str__(self) -> str:
        return (
            f"object '{self.ref.key}' is not in this '{self.ref.store}' store; it was released, or put into another one"
        )


class StoreFullError(MemoryError):
    """An object does not fit into the budget of a store.

    Attributes:
        type_name: Its type with its module, or its codec.
        nbytes: What it takes.
        held: What the objects that cannot leave take.
        max_bytes: The budget.

    >>> print(StoreFullError("numpy.ndarray", 80, 30, 100, "or give it a larger max_bytes"))
    an object of type 'numpy.ndarray' takes 80 bytes, and of max_bytes=100 the store holds 30; release what is not \
needed, or give it a larger max_bytes
    """

    def __init__(self, type_name: str, nbytes: int, held: int, max_bytes: int, way_out: str) -> None:
        super().__init__(type_name, nbytes, held, max_bytes, way_out)
        self.type_name = type_name
        self.nbytes = nbytes
        self.held = held
        self.max_bytes = max_bytes
        self._way_out = way_out

    def __str__(self) -> str:
        return (
            f"an object of type '{self.type_name}' takes {self.nbytes} bytes, and of max_bytes={self.max_bytes} the "
            f"store holds {self.held}; release what is not needed, {self._way_out}"
        )
