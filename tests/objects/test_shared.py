"""Shared memory: nobody can change what lies there, it is there while somebody needs it, and nothing is left of it."""

from __future__ import annotations

import gc
import os
import pickle
import socket
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from chainweaver import SharedMemoryStore
from chainweaver.objects.codecs import NoCodecError, Packed, UnpackError
from chainweaver.objects.shared import ALIGN, Segment, offsets_of
from chainweaver.objects.store import ObjectNotFoundError, ObjectRef, ObjectStore, StoreFullError


@pytest.fixture(params=["memory file", "unnamed file"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SharedMemoryStore:
    """A store with what this system has, and with what others have to make do with."""
    if request.param == "unnamed file":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    return SharedMemoryStore()


def test_it_is_a_store_of_objects_like_the_others() -> None:
    """one protocol for all stores."""
    assert isinstance(SharedMemoryStore(), ObjectStore)


def test_an_object_without_a_form_as_bytes_is_refused_by_name(store: SharedMemoryStore) -> None:
    """Refused, and nothing is held for it."""
    with pytest.raises(NoCodecError, match="object"):
        store.put(object())
    assert store.stats() == (0, 0, 0, 0)


def test_a_reference_is_small_and_says_how_large_the_object_is(store: SharedMemoryStore) -> None:
    """a descriptor of about 165 bytes for 8 MB."""
    ref = store.put(np.zeros(1_000_000))
    assert len(pickle.dumps(ref)) < 200
    assert ref.nbytes == 8_000_000
    assert store.info(ref) == {"type": "numpy.ndarray", "nbytes": 8_000_000, "pins": 0, "backing": "shm"}


def test_buffers_are_aligned_and_read_only(store: SharedMemoryStore) -> None:
    """64 bytes, for vector instructions; a change would be seen by everybody."""
    found = store.get(store.put(np.arange(100)))
    assert found.ctypes.data % ALIGN == 0
    assert not found.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
    several = store.put_packed(Packed("bytes", {}, (b"a" * 10, b"", b"b" * 70)))
    assert offsets_of(several.sizes) == ([0, ALIGN, ALIGN], ALIGN + 70)
    assert [bytes(one) for one in store.buffers(several)] == [b"a" * 10, b"", b"b" * 70]


FOREIGN = """
import ctypes, os
import numpy as np
from chainweaver import SharedMemoryStore
store = SharedMemoryStore()
ref = store.put(np.arange(100_000))
other = SharedMemoryStore()
adopted = other.adopt(ref, os.dup(store.descriptor(ref)))
for found in (store.get(ref), other.get(adopted)):
    ctypes.memset(found.ctypes.data, 255, 8)  # as torch.from_numpy(found).fill_(-1) does
print(store.get(ref)[0], other.get(adopted)[0], found[0])
"""


def test_foreign_code_that_writes_by_address_neither_kills_the_program_nor_changes_what_others_see() -> None:
    """PyTorch knows no read-only memory; what it writes stays with the mapping that it has."""
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout) == (0, "0 0 -1\n"), done.stderr


def test_a_store_is_closed_like_the_others(store: SharedMemoryStore) -> None:
    """what was read from it stays readable."""
    with store:
        ref = store.put(np.arange(3))
        found = store.get(ref)
    assert (found.tolist(), store.stats().objects) == ([0, 1, 2], 0)


def test_an_array_outlives_its_store(store: SharedMemoryStore) -> None:
    """memory is tied to the last view, and no destructor complains of the views there are."""
    ref = store.put(np.arange(1000))
    whole = store.get(ref)
    part = whole[10:20]
    del whole
    store.release(ref)
    store.clear()
    gc.collect()
    assert part.tolist() == list(range(10, 20))


def test_an_object_is_held_until_everybody_has_released_it(store: SharedMemoryStore) -> None:
    """`put` and `pin` hold once each."""
    ref = store.put(b"x" * 100)
    store.pin(ref)
    store.release(ref)
    assert store.get(ref) == b"x" * 100
    store.release(ref)
    store.release(ref)
    for ask in (store.get, store.pin, store.info, store.descriptor):
        with pytest.raises(ObjectNotFoundError, match="it was released, or put into another one"):
            ask(ref)


def test_descriptors_and_memory_are_given_back(store: SharedMemoryStore) -> None:
    """memory given back as soon as nobody needs it."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        ref = store.put(np.zeros(100_000))
        value = store.get(ref)
        store.release(ref)
        del value
    assert len(os.listdir("/proc/self/fd")) == before
    assert store.stats().nbytes == 0


def test_another_store_reads_it_by_descriptor(store: SharedMemoryStore) -> None:
    """passed over a Unix socket, without a copy and without a name."""
    ref = store.put(np.arange(1000))
    one, other = socket.socketpair()
    with one, other:
        socket.send_fds(one, [b"x"], [store.descriptor(ref) or -1])
        _, [descriptor], _, _ = socket.recv_fds(other, 1, 1)
    reader = SharedMemoryStore()
    mine = reader.adopt(ref, descriptor)
    store.clear()
    assert reader.get(mine).tolist() == list(range(1000))
    assert reader.stats().nbytes == 8000


def test_a_key_that_is_taken_is_given_to_nobody_else(store: SharedMemoryStore) -> None:
    """an object that is adopted does not take the place of another."""
    ref = store.put(b"first")
    other = SharedMemoryStore()
    lent = other.put(b"again")._replace(key=ref.key)
    mine = store.adopt(lent, os.dup(other.descriptor(other.put(b"again")) or -1))
    assert (store.get(ref), store.get(mine)) == (b"first", b"again")


def test_no_name_is_left_behind_while_objects_are_there(store: SharedMemoryStore) -> None:
    """There is nothing that could be forgotten."""
    folder = Path("/dev/shm")
    before = set(folder.iterdir()) if folder.is_dir() else set()
    ref = store.put(np.zeros(1_000_000))
    assert (set(folder.iterdir()) if folder.is_dir() else set()) == before
    store.release(ref)


def test_a_full_store_refuses_and_says_how_much_there_was(store: SharedMemoryStore) -> None:
    """`max_bytes`, with a typed error, and room again after a release."""
    store = SharedMemoryStore(max_bytes=10_000)
    ref = store.put(b"x" * 9_000)
    with pytest.raises(StoreFullError) as caught:
        store.put(b"y" * 2_000)
    assert (caught.value.nbytes, caught.value.held, caught.value.max_bytes) == (2_000, 9_000, 10_000)
    assert isinstance(caught.value, MemoryError)
    store.release(ref)
    assert store.put(b"y" * 2_000).nbytes == 2_000


def test_packing_copies_once_and_reading_not_at_all(store: SharedMemoryStore) -> None:
    """no copy unless a border demands one."""
    data = np.zeros(4_000_000)
    tracemalloc.start()
    try:
        ref = store.put(data)
        found = store.get(ref)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    assert found.nbytes == data.nbytes


def test_memory_of_others_cannot_be_made_shorter() -> None:
    """whoever reads what was cut off would be killed for it."""
    if not hasattr(os, "memfd_create"):
        pytest.skip("the system has no memory files")
    segment = Segment.new(4096)
    assert segment.fd is not None
    with pytest.raises(PermissionError):
        os.ftruncate(segment.fd, 10)
    segment.close()


def test_a_damaged_reference_is_refused(store: SharedMemoryStore) -> None:
    """no codec, no object."""
    ref = store.put(b"abc")
    with pytest.raises(UnpackError):
        store.get(ObjectRef(ref.store, ref.key, "nothing", ref.facts, ref.sizes))
