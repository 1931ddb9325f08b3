"""Fingerprints: content decides, memory does not; what has none says why."""

from __future__ import annotations

import datetime
import pickle
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel, ConfigDict

from chainweaver.canonical import Unfingerprintable, bind_fingerprint
from chainweaver.objects import decode_plain, encode_plain
from chainweaver.objects.codecs import Packed, pack, unpack
from chainweaver.objects.fingerprints import fingerprint
from tests.objects.test_codecs import FREQUENCIES, KINDS
from tests.objects.values import memmap, torch

tz = pytest.importorskip("dateutil.tz")


def timezone(hours, name):
    return datetime.timezone(datetime.timedelta(hours=hours), name)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_object_has_the_fingerprint_of_its_copy(kind):
    """R29: made again, and made from bytes."""
    packed = pack(KINDS[kind]())
    buffers = tuple(bytes(buffer) for buffer in packed.buffers)
    back = unpack(Packed(packed.codec, decode_plain(encode_plain(packed.facts)), buffers))

    assert fingerprint(KINDS[kind]()) == fingerprint(KINDS[kind]()) == fingerprint(back)


def test_different_objects_have_different_fingerprints(tmp_path):
    """R29: no two of all kinds; type, dtype, shape, names, index and values count."""
    found = {kind: fingerprint(make()) for kind, make in KINDS.items()}
    assert len(set(found.values())) == len(found)
    assert fingerprint(memmap(tmp_path)) not in found.values()


SAME = {
    "C and F": (np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3))),
    "strided": (np.arange(10)[::2], np.array([0, 2, 4, 6, 8])),
    "reversed": (np.arange(3)[::-1], np.array([2, 1, 0])),
    "broadcast": (np.broadcast_to(np.arange(3), (2, 3)), np.array([[0, 1, 2], [0, 1, 2]])),
    "read-only": (np.frombuffer(bytes(8)), np.zeros(1)),
    "nan": (np.array([np.nan]), np.array([np.nan])),
    "objects": (np.array([1, "a", None], dtype=object), np.array([1, "a", None], dtype=object)),
    "slice of a frame": (
        pd.DataFrame({"a": range(9), "s": list("abcdefghi")}).iloc[2:4],
        pd.DataFrame({"a": [2, 3], "s": ["c", "d"]}, index=pd.RangeIndex(2, 4)),
    ),
    "blocks of a frame": (
        pd.DataFrame({"a": [1, 2], "b": [3, 4]}),
        pd.DataFrame(np.array([[1, 3], [2, 4]]), columns=["a", "b"]),
    ),
    "levels that no row has": (
        pd.MultiIndex.from_product([["a", "b"], [1, 2]])[:2],
        pd.MultiIndex.from_tuples([("a", 1), ("a", 2)]),
    ),
    "texts that are one object": (
        pd.Series(["".join(["a", "b"]), "".join(["a", "b"])], dtype=object),
        pd.Series(["ab"] * 2, dtype=object),
    ),
}
if torch is not None:
    SAME["tensor"] = (torch.arange(6).reshape(2, 3).T, torch.tensor([[0, 3], [1, 4], [2, 5]]))
    SAME["part of a tensor"] = (torch.arange(9)[3:5], torch.tensor([3, 4]))


@pytest.mark.parametrize("case", SAME)
def test_the_layout_of_memory_does_not_count(case):
    """R29: equal values, equal keys."""
    one, other = SAME[case]
    assert fingerprint(one) == fingerprint(other)


def test_what_lies_between_the_fields_of_a_structure_does_not_count():
    """R29: padding has whatever was there before."""
    dtype = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    one, other = (np.frombuffer(bytearray([fill]) * dtype.itemsize, dtype) for fill in (1, 2))
    for array in (one, other):
        array["a"], array["b"] = 1, 2.5
    assert one.tobytes() != other.tobytes()
    assert fingerprint(one) == fingerprint(other)


ARROW_TYPES = {
    "int": (pa.int64(), [1, 2, None, 4]),
    "bool": (pa.bool_(), [True, None, False, True]),
    "float": (pa.float32(), [1.5, None, float("nan"), -0.0]),
    "string": (pa.string(), ["a", "", None, "ccc"]),
    "large string": (pa.large_string(), ["a", "", None, "ccc"]),
    "binary": (pa.binary(), [b"a", b"", None, b"ccc"]),
    "view": (pa.string_view(), ["a", "", None, "a text of more than twelve"]),
    "fixed": (pa.binary(3), [b"abc", None, b"def", b"ghi"]),
    "decimal": (pa.decimal128(5, 2), [Decimal("1.25"), None, Decimal("2.50"), Decimal("-1.00")]),
    "date": (pa.date32(), [datetime.date(2024, 1, 1), None, datetime.date(2024, 1, 2), datetime.date(1, 1, 1)]),
    "zoned": (pa.timestamp("us", "UTC"), [1, None, 3, 4]),
    "list": (pa.list_(pa.int8()), [[1], None, [], [2, None, 3]]),
    "large list": (pa.large_list(pa.string()), [["a"], None, [], ["b", None]]),
    "pairs": (pa.list_(pa.int8(), 2), [[1, 2], None, [3, 4], [None, 6]]),
    "struct": (pa.struct([("x", pa.int8()), ("y", pa.string())]), [{"x": 1, "y": "a"}, None, {"x": None}, {"y": "b"}]),
    "map": (pa.map_(pa.string(), pa.int8()), [[("a", 1)], None, [], [("b", None)]]),
    "lists of lists": (pa.list_(pa.list_(pa.bool_())), [[[True], None], None, [[]], [[False, True]]]),
    "null": (pa.null(), [None, None, None, None]),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), ["a", None, "b", "a"]),
}


@pytest.mark.parametrize("kind", ARROW_TYPES)
def test_a_slice_of_arrow_has_the_fingerprint_of_an_equal_whole(kind):
    """R29: offsets are respected, chunks are not looked at, bits behind the end belong to nobody."""
    type_, values = ARROW_TYPES[kind]
    whole = pa.array(values, type_)
    part = pa.array(values * 5, type_).slice(8, 4)
    start = pa.array(values * 5, type_).slice(0, 4)

    assert fingerprint(whole) == fingerprint(part) == fingerprint(start)
    assert fingerprint(whole) != fingerprint(pa.array(values * 5, type_).slice(0, 5))
    assert fingerprint(pa.chunked_array([whole])) == fingerprint(pa.chunked_array([whole.slice(0, 1), part.slice(1)]))
    assert fingerprint(pa.table({"a": whole})) == fingerprint(pa.table({"a": pa.concat_arrays([start])}))


def test_what_lies_under_a_missing_value_does_not_count():
    """R29: Arrow and pandas leave anything there."""
    under = [
        pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\1"), pa.py_buffer(np.array([1, rest]))])
        for rest in (5, 6)
    ]
    masked = [pd.arrays.IntegerArray(np.array([1, rest]), np.array([False, True])) for rest in (5, 6)]

    assert fingerprint(under[0]) == fingerprint(under[1])
    assert fingerprint(pd.Series(masked[0])) == fingerprint(pd.Series(masked[1]))


def test_a_slice_of_polars_has_the_fingerprint_of_an_equal_whole():
    """R29: the same for frames and series of polars."""
    frame = pl.DataFrame({"a": range(50), "b": [n % 3 == 0 for n in range(50)], "n": [None, 1] * 25, "s": ["x"] * 50})
    part = frame.slice(0, 5)
    whole = pl.DataFrame({name: pl.Series(name, part[name].to_list(), part[name].dtype) for name in part.columns})

    assert fingerprint(part) == fingerprint(whole)
    assert fingerprint(part["n"]) == fingerprint(whole["n"])
    assert fingerprint(pl.concat([part, part], rechunk=False)) == fingerprint(pl.concat([whole, whole], rechunk=True))
    assert fingerprint(part) != fingerprint(part.reverse())


DIFFERENT = {
    "dtype": (np.zeros(1, "i4"), np.zeros(1, "f4")),
    "byte order": (np.zeros(1, "<i4"), np.zeros(1, ">i4")),
    "shape": (np.zeros((2, 3)), np.zeros((3, 2))),
    "sign of zero": (np.zeros(1), -np.zeros(1)),
    "unit": (np.array([1], "M8[s]"), np.array([1], "M8[ms]")),
    "field": (np.zeros(1, [("a", "i4")]), np.zeros(1, [("b", "i4")])),
    "array and scalar": (np.array(1.0), np.float64(1.0)),
    "scalars": (np.float64(1.0), 1.0),
    "zeros at the end": (np.bytes_(b"a"), np.bytes_(b"a\0")),
    "text under another": (np.array(["a", "bc"]), np.array(["ab", "c"])),
    "column name": (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})),
    "index": (pd.Series([1, 2]), pd.Series([1, 2], index=[1, 0])),
    "index name": (pd.Series([1]), pd.Series([1], index=pd.RangeIndex(1, name="k"))),
    "name": (pd.Series([1], name="a"), pd.Series([1], name="b")),
    "frequency": (
        pd.date_range("2024-01-01", periods=2, freq="D"),
        pd.DatetimeIndex(["2024-01-01", "2024-01-02"]),
    ),
    "zone": (
        pd.Series(pd.to_datetime(["2024-01-01"]).tz_localize("UTC")),
        pd.Series(pd.to_datetime(["2024-01-01"]).tz_localize("Europe/London")),
    ),
    "offset of a zone": tuple(
        pd.DatetimeIndex(["2024-01-01"], tz="UTC").tz_convert(timezone(hours, "local")) for hours in (1, 5)
    ),
    "offset of the zone of a cell": tuple(
        pd.Timestamp("2024-01-01", tz="UTC").tz_convert(timezone(hours, "local")) for hours in (1, 5)
    ),
    "offset of a zone of dateutil": tuple(
        pd.Series(pd.to_datetime(["2024-01-01"])).dt.tz_localize(tz.tzoffset("local", seconds)) for seconds in (0, 60)
    ),
    "holidays of a frequency": tuple(
        pd.date_range("2020-01-01", periods=1, freq=pd.offsets.CustomBusinessDay(holidays=days))
        for days in ([], ["2020-01-02"])
    ),
    "calendar of a frequency": tuple(
        pd.date_range("2020-01-01", periods=1, freq=pd.offsets.CustomBusinessDay(calendar=np.busdaycalendar(mask)))
        for mask in ("1111100", "1111000")
    ),
    "hours of a frequency": tuple(
        pd.date_range("2020-01-01 12:00", periods=1, freq=pd.offsets.BusinessHour(start=start))
        for start in ("09:00", "10:00")
    ),
    "midnight of a frequency": tuple(
        pd.DatetimeIndex(["2020-01-31"], freq=pd.offsets.MonthEnd(normalize=is_cut)) for is_cut in (False, True)
    ),
    "far away": tuple(pd.Timestamp(np.datetime64(year, "s")) for year in ("1000-01-01", "1000-01-02")),
    "long": tuple(pd.Timedelta(np.timedelta64(length, "s")) for length in (10**12, 10**12 + 1)),
    "categories": (pd.Categorical(["a"]), pd.Categorical(["a"], categories=["a", "b"])),
    "order": (pd.Series(pd.Categorical(["a"])), pd.Series(pd.Categorical(["a"], ordered=True))),
    "closed": (pd.interval_range(0, 1), pd.interval_range(0, 1, closed="both")),
    "missing": (pd.Series([1, None], dtype="Int64"), pd.Series([1, 0], dtype="Int64")),
    "cells": (pd.Series([1, "1"], dtype=object), pd.Series(["1", 1], dtype=object)),
    "None and NaN": (pd.Series([None], dtype=object), pd.Series([float("nan")], dtype=object)),
    "attributes": (pd.Series([1]), pd.Series([1]).set_flags(allows_duplicate_labels=False)),
    "metadata": (pa.table({"a": [1]}), pa.table({"a": [1]}).replace_schema_metadata({"k": "v"})),
    "arrow type": (pa.array([1], pa.int8()), pa.array([1], pa.uint8())),
    "list borders": (pa.array([[1], [2, 3]]), pa.array([[1, 2], [3]])),
    "text borders": (pa.array(["a", "bc"]), pa.array(["ab", "c"])),
    "null place": (pa.array([1, None, 1]), pa.array([None, 1, 1])),
    "table and batch": (pa.table({"a": [1]}), pa.record_batch({"a": [1]})),
    "no rows": (pa.table({"a": pa.array([], pa.int8())}), pa.table({"a": pa.array([], pa.int16())})),
    "polars name": (pl.Series("a", [1]), pl.Series("b", [1])),
    "polars type": (pl.Series("a", [1], pl.Int8), pl.Series("a", [1], pl.Int16)),
    "polars null": (pl.Series("a", [1, None]), pl.Series("a", [None, 1])),
    "libraries": (pa.array([1.0]), pl.Series([1.0])),
}
if torch is not None:
    DIFFERENT["gradient"] = (torch.ones(1), torch.ones(1, requires_grad=True))
    DIFFERENT["tensor type"] = (torch.zeros(1), torch.zeros(1, dtype=torch.int32))
    DIFFERENT["array and tensor"] = (np.zeros(1), torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("case", DIFFERENT)
def test_every_part_of_the_content_counts(case):
    """R29: different inputs have different keys."""
    one, other = DIFFERENT[case]
    if isinstance(one, pd.Categorical):
        one, other = pd.Series(one), pd.Series(other)
    assert fingerprint(one) != fingerprint(other)


@given(st.lists(st.one_of(st.none(), st.integers(-5, 5)), max_size=6), st.integers(0, 6), st.integers(0, 6))
def test_slices_share_a_fingerprint_exactly_when_they_are_equal(values, start, length):
    """R29: whatever is around them, and whatever is missing."""
    array = pa.array(values, pa.int8())
    part, fresh = array.slice(start, length), pa.array(values[start : start + length], pa.int8())
    assert fingerprint(part) == fingerprint(fresh)
    assert (fingerprint(array) == fingerprint(part)) is array.equals(part)


@pytest.mark.parametrize("freq", [*FREQUENCIES, pd.offsets.CustomBusinessDay(holidays=["2020-01-02"])], ids=str)
def test_every_frequency_has_the_fingerprint_of_its_copy(freq):
    """R29: an index made again has the same key, whatever its frequency is made of."""
    one, other = (pd.date_range("2024-01-01", periods=2, freq=freq) for _ in range(2))
    assert fingerprint(one) == fingerprint(other) == fingerprint(pickle.loads(pickle.dumps(one)))


def test_frequencies_and_zones_of_the_users_have_no_fingerprint():
    """R29: what is in them nobody knows."""

    class Mine(pd.offsets.Easter):
        pass

    class Zone(datetime.tzinfo):
        def utcoffset(self, when):
            return datetime.timedelta(0)

    index = pd.DatetimeIndex(["2024-03-31"], freq=Mine())
    stamp = pd.Timestamp(datetime.datetime(2024, 1, 1, tzinfo=Zone()))
    with pytest.raises(Unfingerprintable, match="a frequency of type"):
        fingerprint(index)
    with pytest.raises(Unfingerprintable, match="a time zone of type"):
        fingerprint(stamp)


def test_an_empty_part_of_a_table_has_the_fingerprint_of_what_is_read_again():
    """R29: a dictionary that no row refers to is not written."""
    table = pa.table({"a": pa.array(["x", "y"]).dictionary_encode(), "n": [1, 2]})
    empty = table.slice(0, 0)
    assert fingerprint(empty) == fingerprint(unpack(pack(empty))) != fingerprint(table)


class Batch(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    data: np.ndarray
    label: str = ""


def test_objects_count_inside_of_containers_and_models():
    """R29: plain values, containers of all these mixed, validated inputs."""
    nested = [{"a": (np.arange(3), [pd.Series([1])]), "b": 1}]
    same = [{"b": 1, "a": (np.arange(6)[:3], [pd.Series([1])])}]
    other = [{"b": 1, "a": (np.arange(3), [pd.Series([2])])}]
    of_model = bind_fingerprint(Batch)

    assert fingerprint(nested) == fingerprint(same) != fingerprint(other)
    assert of_model(Batch(data=np.arange(3))) == of_model(Batch(data=np.arange(6)[:3]))
    assert of_model(Batch(data=np.arange(3))) != of_model(Batch(data=np.arange(4)))


def test_cells_of_pandas_have_fingerprints_of_their_own():
    """R29: also outside of a column."""
    cells = [
        *(pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-01", tz="UTC"), pd.Timestamp("2024-01-01").as_unit("ns")),
        *(pd.Timedelta("1s"), pd.Period("2024-01"), pd.Period("2024-01-01"), pd.Interval(0, 1), pd.NaT, pd.NA),
    ]
    assert len({fingerprint(cell) for cell in cells}) == len(cells)
    assert fingerprint(pd.Series(cells, dtype=object)) == fingerprint(pd.Series(list(cells), dtype=object))


class Grid(np.ndarray):
    pass


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: pl.LazyFrame({"a": [1]}), r"polars.*collect\(\) it first"),
        (lambda: np.zeros(1).view(Grid), "Grid' has no canonical encoding: .*convert it to numpy.ndarray"),
        (lambda: np.array([object()]), "'object' has no canonical encoding"),
        (lambda: pd.DataFrame({"a": [threading.Lock()]}), "lock' has no canonical encoding"),
        (lambda: pl.DataFrame({"a": pl.Series([object()], dtype=pl.Object)}), "a column holds Python objects"),
        (lambda: torch.eye(2).to_sparse(), r"'torch.Tensor' has no canonical encoding: .*use .to_dense\(\) first"),
        (lambda: torch.ones(1, device="meta"), r"lives on device 'meta'; use .cpu\(\) first"),
        (threading.Lock, "a value of type '_thread.lock' has no canonical encoding"),
        (lambda: (n for n in [1]), "a value of type 'generator' has no canonical encoding"),
    ],
    ids=["lazy", "subclass", "objects", "cell", "polars objects", "sparse", "device", "lock", "generator"],
)
def test_what_has_no_fingerprint_says_what_it_is_and_why(make, why, request):
    """R29: the reason names types, never contents."""
    if torch is None and request.node.callspec.id in ("sparse", "device"):
        pytest.skip("PyTorch is not installed")
    value = make()
    with pytest.raises(Unfingerprintable, match=why) as caught:
        fingerprint([value])
    assert caught.value.reason == str(caught.value)


def test_a_column_that_contains_its_own_frame_is_no_endless_loop():
    """R29: whatever it is, the run goes on."""
    cells = np.empty(1, object)
    cells[0] = cells
    with pytest.raises(Unfingerprintable):
        fingerprint(cells)


def test_fingerprints_are_the_same_in_every_process():
    """R29: a cache in files serves the next process, whatever the hash seed."""
    code = (
        "import numpy, pandas, pyarrow, polars\n"
        "from chainweaver.objects.fingerprints import fingerprint\n"
        "print(fingerprint([numpy.arange(3), pandas.DataFrame({'a': [1, None], 's': ['x', 'y']}), "
        "pyarrow.table({'a': [1]}), polars.DataFrame({'a': [1]}), {'k': {1, 2}}]))"
    )
    shown = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin"},
        ).stdout
        for seed in ("0", "1")
    }
    assert len(shown) == 1
