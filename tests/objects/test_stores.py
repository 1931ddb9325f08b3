"""Stores in memory and in files: what comes back, what is mapped, what happens to damaged files, when values leave."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from chainweaver import ArtifactCorruptError, MmapStore, ObjectNotFoundError, RefStore, StoreFullError
from chainweaver.objects import mapped
from chainweaver.objects.codecs import NoCodecError, UnpackError
from chainweaver.objects.refs import size_in_memory
from chainweaver.testing import ObjectStoreConformance
from tests.conftest import PROOF
from tests.objects.values import ARRAYS, FRAMES, POLARS, TABLES, TENSORS, memmap, same

torch = pytest.importorskip("torch", reason="PyTorch is installed for one Python only")

VALUES = {
    f"{group}: {name}": make
    for group, values in (("numpy", ARRAYS), ("pandas", FRAMES), ("Arrow", TABLES), ("polars", POLARS))
    for name, make in values.items()
} | {f"torch: {name}": make for name, make in TENSORS.items()}

ROOT = Path(__file__).parents[2]


class TestRefStore(ObjectStoreConformance):
    def make_store(self):
        return RefStore()

    def close_store(self, store):
        store.close()


class TestRefStoreThatSpillsEverything(ObjectStoreConformance):
    def make_store(self):
        return RefStore(max_bytes=0, spill=MmapStore(tempfile.mkdtemp(prefix="chainweaver-test-")))

    def close_store(self, store):
        store.close()


class TestMmapStore(ObjectStoreConformance):
    def make_store(self):
        return MmapStore(tempfile.mkdtemp(prefix="chainweaver-test-"))


# ---- files


@pytest.mark.parametrize("name", VALUES)
def test_every_kind_of_object_comes_back_from_a_file_as_it_was(name, tmp_path):
    """Codec matrix: an equal object with type, dtype, shape, index and schema, also in the next process."""
    value = VALUES[name]()

    ref = MmapStore(tmp_path).put(value)

    assert same(value, MmapStore(tmp_path).get(ref))


def test_a_memmap_comes_back_as_an_array(tmp_path):
    """Codec matrix: what a memmap is mapped from is of no interest to those who read the copy."""
    value = memmap(tmp_path)

    store = MmapStore(tmp_path / "store")

    assert same(value, store.get(store.put(value)))


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        pd.DataFrame({"lock": [open]}),
        pl.LazyFrame({"a": [1]}),
        {"rows": 1},
        torch.ones(2, requires_grad=True) * 2,
    ],
    ids=["objects", "frame of objects", "lazy", "dict", "gradients"],
)
def test_what_has_no_form_as_bytes_is_refused_by_name_and_leaves_no_file(value, tmp_path):
    """Codec matrix: or refuses by name."""
    with pytest.raises(NoCodecError, match="an object of type"):
        MmapStore(tmp_path).put(value)

    assert list(tmp_path.iterdir()) == []


def test_the_files_are_those_that_their_libraries_know(tmp_path):
    """Stores: .npy, Arrow IPC, safetensors."""
    from safetensors.torch import load_file

    store = MmapStore(tmp_path)
    paths = [
        store.info(store.put(value))["path"]
        for value in (np.arange(3), pa.table({"a": [1]}), pl.DataFrame({"a": [1]}), torch.arange(2))
    ]

    assert np.load(paths[0]).tolist() == [0, 1, 2]
    assert pa.ipc.open_stream(paths[1]).read_all() == pa.table({"a": [1]})
    assert pl.read_ipc(paths[2]).to_dict(as_series=False) == {"a": [1]}
    assert load_file(paths[3])["tensor"].tolist() == [0, 1]


def test_a_closed_store_leaves_its_files_to_the_next_one(tmp_path):
    """Stores: the files outlive the store; a `with` block ends with close()."""
    with MmapStore(tmp_path) as store:
        ref = store.put(np.arange(3))
        store.pin(ref)
    with MmapStore(tmp_path) as again:
        assert again.get(ref).tolist() == [0, 1, 2]
        again.release(ref)
        assert again.stats().objects == 0


def unreadable(path, facts):
    raise UnpackError("nobody knows how")


def test_what_cannot_be_read_again_is_kept_in_another_form_or_refused(tmp_path, monkeypatch):
    """Stores: that shows before the value in memory is let go, and not when somebody wants to have it back."""
    value = pl.DataFrame({"a": range(1_000)})
    monkeypatch.setitem(mapped._BY_CODEC, "polars", mapped._BY_CODEC["polars"]._replace(read=unreadable))
    store = MmapStore(tmp_path)

    ref = store.put(value)
    assert ref.key.endswith(".object")
    assert same(value, store.get(ref))
    store.release(ref)

    monkeypatch.setattr(mapped, "_CONTAINER", mapped._CONTAINER._replace(read=unreadable))
    with pytest.raises(NoCodecError, match="what is written of it cannot be read again: nobody knows how"):
        store.put(value)
    assert list(tmp_path.iterdir()) == []

    budget = RefStore(max_bytes=10_000, spill=store)
    kept = budget.put(value)
    with pytest.raises(StoreFullError):
        budget.put(value)
    assert budget.get(kept) is value


def test_a_tensor_is_kept_without_safetensors_as_well(tmp_path, monkeypatch):
    """Stores: safetensors when the package is there."""
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    store = MmapStore(tmp_path)
    value = torch.arange(6.0).reshape(2, 3)

    ref = store.put(value)

    assert ref.key.endswith(".object")
    assert same(value, store.get(ref))


def anonymous_kb() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1])


BIG = {
    "array": lambda: np.arange(4_000_000),
    "frame": lambda: pd.DataFrame({"a": np.arange(4_000_000)}),
    "table": lambda: pa.table({"a": np.arange(4_000_000)}),
    "polars": lambda: pl.DataFrame({"a": np.arange(4_000_000)}),
    "tensor": lambda: torch.arange(4_000_000),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("name", BIG)
def test_what_is_read_is_mapped_and_takes_no_memory_of_its_own(name, tmp_path):
    """Stores: mapped read-only; 32 MB read, less than 4 MB of anonymous memory."""
    store = MmapStore(tmp_path)
    store.get(store.put(BIG[name]()[:10]))  # whatever the library loads on its first read
    ref = store.put(BIG[name]())
    gc.collect()
    before = anonymous_kb()

    value = store.get(ref)

    assert anonymous_kb() - before < 4_000
    assert len(value) == 4_000_000


def test_a_mapped_array_cannot_be_changed_and_a_tensor_keeps_its_change_to_itself(tmp_path):
    """Stores: mapped read-only; PyTorch knows no read-only tensor."""
    store = MmapStore(tmp_path)
    array, tensor = store.put(np.arange(3)), store.put(torch.arange(3))

    with pytest.raises(ValueError, match="read-only"):
        store.get(array)[0] = 9
    store.get(tensor)[0] = 9

    assert store.get(tensor).tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["array", "frame", "table", "polars", "tensor"])
@pytest.mark.parametrize("damage", ["cut off", "emptied", "longer", "first byte", "middle byte", "last byte"])
def test_a_damaged_file_is_told_by_its_path(name, damage, tmp_path):
    """Corrupt or truncated artifacts raise ArtifactCorruptError, also after a good read."""
    store = MmapStore(tmp_path)
    ref = store.put(BIG[name]()[:1_000])
    store.get(ref)
    path = Path(store.info(ref)["path"])
    data = bytearray(path.read_bytes())
    if damage.endswith("byte"):
        data[{"first": 0, "middle": len(data) // 2, "last": -1}[damage.split()[0]]] ^= 1
    path.write_bytes({"cut off": data[:-1], "emptied": b"", "longer": data + b"x"}.get(damage, data))

    with pytest.raises(ArtifactCorruptError, match="is corrupt") as caught:
        store.get(ref)

    assert caught.value.artifact == str(path)


def test_an_untouched_file_is_checked_once(tmp_path):
    """Stores: reading what was read before costs no look at all of its bytes."""
    store = MmapStore(tmp_path)
    ref = store.put(np.zeros(8_000_000))
    os.utime(store.info(ref)["path"], (time.time() - 60,) * 2)
    began = time.perf_counter()
    store.get(ref)
    checked = time.perf_counter()

    store.get(ref)

    assert time.perf_counter() - checked < (checked - began) / 5


def test_a_file_that_vanished_is_not_found(tmp_path):
    """Stores: ObjectNotFoundError where there is nothing."""
    store = MmapStore(tmp_path)
    ref = store.put(b"abc")
    os.unlink(store.info(ref)["path"])

    with pytest.raises(ObjectNotFoundError, match="is not in this 'mmap' store"):
        store.get(ref)


def test_a_key_cannot_lead_out_of_the_folder(tmp_path):
    """R34: what is read from outside cannot name other files."""
    (tmp_path / "secret.npy").write_bytes(b"x")
    store = MmapStore(tmp_path / "store")
    ref = store.put(b"abc")

    for key in ("../secret.npy", f"../{'0' * 32}-{'0' * 32}.npy", "/etc/passwd"):
        with pytest.raises(ObjectNotFoundError):
            store.get(ref._replace(key=key))


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    """Stores: written to a temporary name, and that is gone when the disk is full."""
    store = MmapStore(tmp_path)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.put(b"abc")

    assert list(tmp_path.iterdir()) == []
    assert store.stats().objects == 0


WRITER = """
import sys
import numpy as np
from chainweaver import MmapStore
store = MmapStore(sys.argv[1])
print("ready", flush=True)
number = 0
while True:
    store.put(np.full(1_000_000, number))
    number += 1
"""


def test_a_writer_that_is_killed_leaves_nothing_that_can_be_read_in_part(tmp_path):
    """Torn writes (kill -9 in the middle) leave nothing readable. Fifty in `make proof`."""
    torn = 0
    for kill in range(50 if PROOF else 4):
        folder = tmp_path / str(kill)
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        until = time.monotonic() + 0.01 * (kill % 7)
        while not (any(folder.glob(".*.tmp")) and time.monotonic() >= until):
            pass
        child.kill()
        child.stdout.close()
        child.wait()
        torn += len(list(folder.glob(".*.tmp")))
        store = MmapStore(folder)
        example = store.put(np.zeros(1_000_000, int))
        for path in folder.glob("*.npy"):
            found = store.get(example._replace(key=path.name))
            assert found.shape == (1_000_000,)
            assert (found == found[0]).all()
        store.clear_leftovers()
        assert not list(folder.glob(".*"))
        assert store.stats().objects == len(list(folder.iterdir()))

    assert torn > 0


# ---- by reference, with a budget


def test_an_object_is_kept_by_reference_whatever_it_is():
    """Stores: RefStore holds the object itself."""
    store = RefStore()
    values = [object(), {"rows": []}, np.arange(3), pl.LazyFrame({"a": [1]}), open, ObjectStoreConformance]

    assert [store.get(store.put(value)) is value for value in values] == [True] * len(values)


def test_a_released_object_is_gone_at_once():
    """R37: memory is given back without garbage collection."""
    store = RefStore()
    value = np.arange(3)
    alive = weakref.ref(value)
    ref = store.put(value)
    del value

    store.release(ref)

    assert alive() is None


def test_a_full_store_says_what_to_do():
    """Stores: max_bytes errors are typed and say what to do."""
    store = RefStore(max_bytes=100)
    store.put(np.zeros(8))

    with pytest.raises(StoreFullError) as caught:
        store.put(np.zeros(8))

    assert str(caught.value) == (
        "an object of type 'numpy.ndarray' takes 64 bytes, and of max_bytes=100 the store holds 64; release what is "
        "not needed, give it a larger max_bytes, or spill=MmapStore(folder)"
    )
    assert store.stats() == (1, 64, 0, 0)


def test_the_least_recently_used_value_leaves_first(tmp_path):
    """Stores: budget with spill of least recently used values."""
    store = RefStore(max_bytes=200, spill=MmapStore(tmp_path))
    first, second = store.put(np.zeros(10)), store.put(np.ones(10))
    store.get(first)

    third = store.put(np.full(10, 2.0))

    assert [store.info(ref)["backing"] for ref in (first, second, third)] == ["heap", "mmap", "heap"]
    assert store.stats() == (3, 160, 1, 80)
    assert store.get(second).tolist() == [1.0] * 10


def test_a_pinned_value_stays_and_a_store_full_of_them_refuses(tmp_path):
    """Stores: least recently used unpinned values go to disk."""
    store = RefStore(max_bytes=100, spill=MmapStore(tmp_path))
    value = np.zeros(10)
    ref = store.put(value)
    store.pin(ref)

    with pytest.raises(StoreFullError, match="pinned or has no form as bytes"):
        store.put([0] * 10)

    assert store.get(ref) is value


def test_what_has_no_form_as_bytes_stays_and_others_leave(tmp_path):
    """Stores: an object of Python has nowhere to go."""
    store = RefStore(max_bytes=1_000, spill=MmapStore(tmp_path))
    objects = np.array([object()] * 20)
    ref = store.put(objects)
    store.put(np.zeros(80))

    store.put(np.zeros(80))

    assert store.get(ref) is objects
    assert store.stats().spilled == 1


def test_a_value_beyond_the_whole_budget_goes_to_disk_at_once(tmp_path):
    """Stores: others need not leave for what can never stay."""
    store = RefStore(max_bytes=100, spill=MmapStore(tmp_path))
    small = store.put(np.zeros(10))

    large = store.put(np.arange(100))

    assert store.info(small)["backing"] == "heap"
    assert store.get(large).tolist() == list(range(100))


def test_the_folder_is_empty_when_everything_was_let_go(tmp_path):
    """Spill folder empty afterwards, whether released one by one or all at once."""
    with RefStore(max_bytes=100, spill=MmapStore(tmp_path)) as store:
        refs = [store.put(np.arange(10)) for _ in range(4)]
        assert len(list(tmp_path.iterdir())) == 3
        store.release(refs[0])
        assert len(list(tmp_path.iterdir())) == 2

    assert list(tmp_path.iterdir()) == []


def test_a_store_cannot_be_made_that_never_spills():
    """Stores: a misunderstanding is told when the store is made."""
    with pytest.raises(ValueError, match="spill needs max_bytes"):
        RefStore(spill=RefStore())
    with pytest.raises(ValueError, match="at least 0"):
        RefStore(max_bytes=-1)


@pytest.mark.parametrize("name", BIG)
def test_sizes_are_those_of_the_buffers(name):
    """Stores: what counts for the budget."""
    assert 32_000_000 <= size_in_memory(BIG[name]()) < 32_100_000


# ---- the contract finds what breaks it


class Copies(RefStore):
    def get(self, ref):
        return bytearray(super().get(ref))


class KeepsForEver(RefStore):
    def release(self, ref):
        pass


class ForgetsPins(RefStore):
    def pin(self, ref):
        self.info(ref)


class Merges(RefStore):
    """Takes equal objects for one."""

    def put(self, value):
        for key, held in self._held.items():
            if held.value == value:
                return super().put(b"")._replace(key=key)
        return super().put(value)


class ReadsOnce(RefStore):
    def get(self, ref):
        value = super().get(ref)
        self.release(ref)
        return value


class Raises(RefStore):
    def release(self, ref):
        self.info(ref)
        super().release(ref)


class Contract(ObjectStoreConformance):
    def __init__(self, make):
        self.make = make

    def make_store(self):
        return self.make()


@pytest.mark.parametrize(
    ("broken", "clause"),
    [
        (dict, "the_store_follows_the_protocol"),
        (Copies, "what_is_read_equals_what_was_put"),
        (KeepsForEver, "an_object_goes_when_nobody_holds_it"),
        (KeepsForEver, "the_store_says_how_full_it_is"),
        (ForgetsPins, "a_pinned_object_stays_until_it_is_released_as_often"),
        (ForgetsPins, "the_store_tells_about_an_object"),
        (Merges, "equal_objects_are_kept_apart"),
        (ReadsOnce, "reading_takes_nothing_away"),
        (Raises, "letting_go_of_what_is_unknown_is_nothing"),
    ],
)
def test_the_contract_catches_a_store_that_breaks_it(broken, clause):
    """Stores: conformance tests that can fail."""
    with pytest.raises((AssertionError, ObjectNotFoundError)):
        getattr(Contract(broken), f"test_{clause}")()
