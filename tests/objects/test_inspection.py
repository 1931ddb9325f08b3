"""Looking at objects: what every kind is said to be, in how little time, and that nothing of the user's runs."""

from __future__ import annotations

import array
import gc
import mmap
import sys
import timeit
import weakref
from collections import OrderedDict, deque
from datetime import date
from decimal import Decimal
from multiprocessing import shared_memory
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import BaseModel, TypeAdapter

from chainweaver.objects import inspection
from chainweaver.objects.inspection import MOST_COLUMNS, ObjectInfo, inspect_object, noteworthy
from tests.objects.values import ARRAYS, FRAMES, POLARS, TABLES, TENSORS, memmap

torch = pytest.importorskip("torch", reason="PyTorch is installed for one Python only")

MOST_US = 20.0


class Model(BaseModel):
    x: int = 1


class Hostile:
    """Nothing may be asked of it."""

    def _refuse(self, *args):
        raise AssertionError("asked")

    __repr__ = __len__ = __str__ = __getattr__ = __getattribute__ = __sizeof__ = __eq__ = __hash__ = __bool__ = _refuse
    __class__ = property(_refuse)


class HostileList(list):
    __repr__ = __len__ = __iter__ = __getitem__ = __getattribute__ = __sizeof__ = Hostile._refuse


class HostileTensor(torch.Tensor):  # type: ignore[name-defined]
    @classmethod
    def __torch_function__(cls, *args, **kwargs):
        raise AssertionError("asked")


def of_a_hostile_class():
    class Meta(type):
        def __getattribute__(cls, name):
            raise AssertionError("asked")

    class OfMeta(metaclass=Meta):
        pass

    return object.__new__(OfMeta)


def cyclic():
    inside = []
    inside.append(inside)
    return inside


# The object -> what is told of it: type, shape, dtype, bytes, where, read-only.
TOLD = {
    "C order": (ARRAYS["C order"], "numpy.ndarray", (3, 4), "float64", 96, "heap", False),
    "F order": (ARRAYS["F order"], "numpy.ndarray", (3, 4), "int64", 96, "heap", False),
    "strided": (ARRAYS["strided"], "numpy.ndarray", (2, 3), "int64", 48, "heap", False),
    "broadcast": (ARRAYS["broadcast"], "numpy.ndarray", (2, 3), "int64", 48, "heap", True),
    "0-d": (ARRAYS["0-d"], "numpy.ndarray", (), "float64", 8, "heap", False),
    "structured": (ARRAYS["structured"], "numpy.ndarray", (2,), "void96", 24, "heap", False),
    "dates": (ARRAYS["dates"], "numpy.ndarray", (2,), "datetime64[D]", 16, "heap", False),
    "scalar": (ARRAYS["scalar"], "numpy.float64", (), "float64", 8, "heap", True),
    "objects": (lambda: np.array([None, {}]), "numpy.ndarray", (2,), "object", 16, "heap", False),
    "of a tensor": (lambda: torch.zeros(3).numpy(), "numpy.ndarray", (3,), "float32", 12, "heap", False),
    "over bytes": (lambda: np.frombuffer(b"12345678"), "numpy.ndarray", (1,), "float64", 8, "heap", True),
    "MultiIndex": (FRAMES["MultiIndex"], "pandas.DataFrame", (2, 1), None, 63, "heap", False),
    "series": (FRAMES["categorical index"], "pandas.Series", (2,), "int64", None, "heap", False),
    "index": (FRAMES["index"], "pandas.Index", (2,), "int64", 16, "heap", True),
    "range": (FRAMES["range"], "pandas.RangeIndex", (3,), "int64", 0, "heap", True),
    "columns": (lambda: pd.DataFrame(np.zeros((10, 3))), "pandas.DataFrame", (10, 3), None, 240, "heap", False),
    "categories": (
        lambda: pd.Series(pd.Categorical(pd.array([1, 2, 1], dtype="Int64"))),
        *("pandas.Series", (3,), "category", 3 + 18, "heap", False),
    ),
    "table": (lambda: pa.table({"a": [1.5, 2.5]}), "pyarrow.Table", (2, 1), None, 16, "heap", True),
    "sliced table": (TABLES["sliced table"], "pyarrow.Table", (5, 1), None, 800, "heap", True),
    "batch": (TABLES["batch"], "pyarrow.RecordBatch", (2, 1), None, 16, "heap", True),
    "arrow": (lambda: pa.array([1, 2]), "pyarrow.Int64Array", (2,), "int64", 16, "heap", True),
    "chunked": (lambda: pa.chunked_array([[1], [2]]), "pyarrow.ChunkedArray", (2,), "int64", 16, "heap", True),
    "buffer": (lambda: pa.py_buffer(b"abc"), "pyarrow.Buffer", (3,), None, 3, "heap", True),
    "polars": (lambda: pl.DataFrame({"a": [1, 2]}), "polars.DataFrame", (2, 1), None, 16, "heap", False),
    "nested polars": (POLARS["frame"], "polars.DataFrame", (2, 4), None, None, "heap", False),
    "polars series": (POLARS["series"], "polars.Series", (2,), "i64", 16, "heap", False),
    "lazy": (lambda: pl.LazyFrame({"a": [1]}), "polars.LazyFrame", None, None, None, None, True),
    "tensor": (TENSORS["float"], "torch.Tensor", (2, 3), "float32", 24, "heap", False),
    "bfloat16": (TENSORS["bfloat16"], "torch.Tensor", (2,), "bfloat16", 4, "heap", False),
    "shared tensor": (lambda: torch.zeros(4).share_memory_(), "torch.Tensor", (4,), "float32", 16, "shm", False),
    "meta tensor": (lambda: torch.zeros(4, device="meta"), "torch.Tensor", (4,), "float32", 16, "device", False),
    "sparse tensor": (lambda: torch.eye(3).to_sparse(), "torch.Tensor", (3, 3), "float32", None, "heap", False),
    "list": (lambda: [1, 2], "list", (2,), None, None, "heap", False),
    "tuple": (lambda: (1, 2), "tuple", (2,), None, None, "heap", True),
    "dict": (lambda: {"a": np.zeros(3)}, "dict", (1,), None, None, "heap", False),
    "deque": (lambda: deque([1]), "collections.deque", (1,), None, None, "heap", False),
    "ordered": (lambda: OrderedDict(a=1), "collections.OrderedDict", (1,), None, None, "heap", False),
    "numbers": (lambda: range(10**30), "range", None, None, range(5).__sizeof__(), "heap", True),
    "frozenset": (lambda: frozenset({1}), "frozenset", (1,), None, None, "heap", True),
    "text": (lambda: "ab", "str", (2,), None, "ab".__sizeof__(), "heap", True),
    "float": (lambda: 1.5, "float", None, None, (1.5).__sizeof__(), "heap", True),
    "bool": (lambda: True, "bool", None, None, True.__sizeof__(), "heap", True),
    "complex": (lambda: 1j, "complex", None, None, 1j.__sizeof__(), "heap", True),
    "decimal": (lambda: Decimal(1), "decimal.Decimal", None, None, None, None, None),
    "date": (lambda: date(2024, 1, 1), "datetime.date", None, None, None, None, None),
    "path": (lambda: PurePosixPath("a"), "pathlib.PurePosixPath", None, None, None, None, None),
    "set": (lambda: {1}, "set", (1,), None, None, "heap", False),
    "cyclic": (cyclic, "list", (1,), None, None, "heap", False),
    "bytes": (lambda: b"abc", "bytes", (3,), None, 3, "heap", True),
    "bytearray": (lambda: bytearray(5), "bytearray", (5,), None, 5, "heap", False),
    "view": (lambda: memoryview(b"abc"), "memoryview", (3,), "B", 3, "heap", True),
    "array": (lambda: array.array("d", [1.0]), "array.array", (1,), "d", 8, "heap", False),
    "None": (lambda: None, "NoneType", None, None, None.__sizeof__(), "heap", True),
    "int": (lambda: 2**80, "int", None, None, (2**80).__sizeof__(), "heap", True),
    "model": (Model, f"{__name__}.Model", None, None, None, None, None),
    "network": (lambda: torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear", None, None, None, None, None),
    "function": (lambda: lambda: 1, "function", None, None, None, None, None),
    "class": (lambda: int, "type", None, None, None, None, None),
    "hostile": (Hostile, f"{__name__}.Hostile", None, None, None, None, None),
    "hostile class": (
        of_a_hostile_class,
        f"{__name__}.of_a_hostile_class.<locals>.OfMeta",
        None,
        None,
        None,
        None,
        None,
    ),
    "hostile list": (lambda: HostileList([1, 2]), f"{__name__}.HostileList", (2,), None, None, "heap", False),
    "hostile tensor": (
        lambda: torch.Tensor._make_subclass(HostileTensor, torch.zeros(2)),
        *(f"{__name__}.HostileTensor", (2,), "float32", 8, "heap", False),
    ),
}


@pytest.mark.parametrize("case", TOLD.values(), ids=TOLD)
def test_what_an_object_is_said_to_be(case):
    """Type, shape, dtype, bytes, where they lie and whether they can be changed; hostile objects by type."""
    make, *expected = case

    info = inspect_object(make())

    told = [info.type, info.shape, info.dtype, info.nbytes, info.backing, info.read_only]
    if make is FRAMES["categorical index"]:
        assert info.nbytes > 16  # with the index, whose texts take what the library chooses
        told[3] = None
    assert told == expected


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        (pd.DataFrame({"a": [1], "b": [1.5], 3: [True]}), (("a", "int64"), ("b", "float64"), ("3", "bool"))),
        (pd.DataFrame({("x", 1): [1]}), (("(x, 1)", "int64"),)),
        (pd.DataFrame({Model: [1]}), (("<ModelMetaclass>", "int64"),)),
        (pl.DataFrame({"a": [1], "s": ["x"]}), (("a", "i64"), ("s", "str"))),
        (
            pa.table({"a": [1], "l": [[1]], "s": [{"x": 1}]}),
            (("a", "int64"), ("l", "list<int64>"), ("s", "struct<1 fields>")),
        ),
        (ARRAYS["structured"](), (("a", "int32"), ("b", "float64"))),
    ],
    ids=["pandas", "labels of two parts", "labels that are objects", "polars", "arrow", "numpy"],
)
def test_tables_name_their_first_columns_with_types(value, schema):
    """Dtype or schema."""
    assert inspect_object(value).schema == schema


def test_a_wide_table_names_a_few_columns_and_the_shape_tells_how_many_there_are():
    """What is told is bounded as the time is."""
    for frame in (pd.DataFrame(np.zeros((2, 500))), pl.DataFrame(np.zeros((2, 500))), WIDE["arrow"]()):
        info = inspect_object(frame)

        assert len(info.schema) == MOST_COLUMNS
        assert info.shape[1] >= 500
        assert info.described().endswith(", ...")


def test_a_memory_map_lies_in_a_file(tmp_path):
    """An array over a file, and a view of it."""
    mapped = memmap(tmp_path)

    for value in (mapped, np.asarray(mapped), mapped[1:], np.asarray(mapped)[::2]):
        assert inspect_object(value).backing == "mmap"


def test_a_mapped_file_is_one_and_can_be_read_only(tmp_path):
    """What is mapped without numpy as well."""
    path = tmp_path / "file"
    path.write_bytes(bytes(10_000))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        whole, part = inspect_object(mapped), inspect_object(view)
        view.release()

    assert (whole.backing, whole.nbytes, whole.read_only) == ("mmap", 10_000, True)
    assert (part.backing, part.read_only) == ("mmap", True)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells whose memory is mapped")
def test_shared_memory_is_told_from_a_mapped_file():
    """A segment, a view of it, and an array over it."""
    segment = shared_memory.SharedMemory(create=True, size=100_000)
    try:
        found = [inspect_object(one).backing for one in (segment, segment.buf, segment.buf[8:])]
        found.append(inspect_object(np.frombuffer(segment.buf, np.uint8)).backing)
        gc.collect()
    finally:
        segment.close()
        segment.unlink()

    assert found == ["shm"] * 4


def test_a_lazy_frame_is_not_collected():
    """No value of it is made."""
    collected = []
    lazy = pl.LazyFrame({"a": [1]}).map_batches(lambda frame: collected.append(1) or frame)

    info = inspect_object(lazy)

    assert (info.type, info.nbytes, collected) == ("polars.LazyFrame", None, [])


def test_an_array_of_a_class_of_the_user_is_read_by_the_methods_of_numpy():
    """Nothing of the user runs."""
    value = np.ndarray.__new__(Quiet, (4, 5), np.float32)
    Quiet.armed = True
    try:
        info = inspect_object(value)
    finally:
        Quiet.armed = False

    assert (info.type, info.shape, info.nbytes) == (f"{__name__}.Quiet", (4, 5), 80)


class Quiet(np.ndarray):
    armed = False

    def __getattribute__(self, name):
        assert not Quiet.armed, name
        return super().__getattribute__(name)


def big_frame():
    return pd.DataFrame(np.zeros((100, 5_000)), columns=[f"column {at}" for at in range(5_000)])


WIDE = {
    "80 MB array": lambda: np.zeros(10_000_000),
    "list of a million": lambda: [0] * 1_000_000,
    "dict of a million": lambda: dict.fromkeys(range(1_000_000)),
    "frame of 5 000 columns": big_frame,
    "frame of 2 000 masked columns": lambda: pd.DataFrame(
        {f"c{at}": pd.array([1, None], dtype="Int64") for at in range(2_000)}
    ),
    "frame of 20 columns of text": lambda: pd.DataFrame({f"s{at}": ["a"] * 1_000 for at in range(20)}),
    "frame of 19 types": FRAMES["mixed"],
    "frame under a million pairs": lambda: pd.DataFrame(
        {"x": range(1_000_000)}, index=pd.MultiIndex.from_product([range(1_000), range(1_000)])
    ),
    "objects of pandas": lambda: pd.Series(["text"] * 1_000_000, dtype=object),
    "polars": lambda: pl.DataFrame({f"c{at}": [1, 2] for at in range(2_000)}),
    "polars lists of text": lambda: pl.DataFrame({"s": [["text"]] * 100_000}),
    "polars categories": lambda: pl.Series("e", ["a0"], dtype=pl.Enum([f"a{at}" for at in range(100_000)])),
    "arrow": lambda: pa.table({f"c{at}": [1, 2] for at in range(2_000)}),
    "arrow chunks": lambda: pa.concat_tables([pa.table({"a": [1]})] * 2_000),
    "arrow fields": lambda: pa.table({"s": [{f"f{at}": 1 for at in range(500)}]}),
    "tensor": lambda: torch.zeros(10_000_000),
    "text": lambda: "x" * 10_000_000,
    "dtype of 1 000 fields": lambda: np.zeros(3, [(f"c{at}", "f8") for at in range(1_000)]),
}


@pytest.mark.parametrize("make", WIDE.values(), ids=WIDE)
def test_looking_takes_less_than_20_microseconds_whatever_the_size(make):
    """The time of one look, at its best, which a busy machine does not lengthen."""
    value = make()
    inspect_object(value)

    best_us = min(timeit.repeat(lambda: inspect_object(value), number=50, repeat=40)) / 50 * 1e6

    assert best_us < MOST_US


def test_the_first_look_at_a_frame_builds_nothing():
    """An index of several levels has a table for look-ups, which is made when somebody looks something up."""
    frame = WIDE["frame under a million pairs"]()

    inspect_object(frame)

    assert "_engine" not in frame.index._cache


def test_looking_imports_nothing():
    """What the program does not use stays where it is."""
    before = set(sys.modules)

    for make in (*ARRAYS.values(), *FRAMES.values(), *TABLES.values(), *POLARS.values(), *TENSORS.values()):
        inspect_object(make())

    assert set(sys.modules) == before


def test_what_is_told_keeps_nothing_of_the_object():
    """R37: a record that shows what a value was does not hold it."""
    value = np.zeros(10)
    gone = weakref.ref(value)

    info = inspect_object(value)
    del value

    assert gone() is None
    assert info.nbytes == 80


def test_what_is_told_survives_json():
    """Inspection is plain data."""
    adapter = TypeAdapter(ObjectInfo)
    info = inspect_object(pd.DataFrame({"a": [1]}))

    assert adapter.validate_json(adapter.dump_json(info)) == info


def test_only_foreign_objects_and_large_values_are_worth_a_place_in_a_record():
    """Inspection: numbers, short texts, small containers and dates tell enough themselves."""
    values = {
        "n": 1,
        "few": [1],
        "s": "x" * 4_095,
        "day": pd.Timestamp(0).date(),
        "long": "x" * 4_096,
        "a": np.zeros(1),
    }

    assert list(noteworthy(values)) == ["long", "a"]


def test_a_library_that_keeps_things_elsewhere_leaves_the_type(monkeypatch):
    """Inspection: what cannot be read is not told."""
    frame = pd.DataFrame({"a": [1]})
    monkeypatch.setattr(inspection, "_of_blocks", lambda *args: 1 / 0)

    assert inspect_object(frame) == ObjectInfo("pandas.DataFrame")
