"""Values in chunks: what comes out put together again is what went in, and no more than a chunk is read at a time."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chainweaver import MmapStore, iter_chunks
from chainweaver.objects import ChunkError
from chainweaver.objects.chunks import END, Pieces, concatenated
from tests.objects.values import same

torch = pytest.importorskip("torch", reason="PyTorch is installed for one Python only")

LARGE = {
    "array": lambda: np.arange(1_000).reshape(250, 4),
    "F array": lambda: np.asfortranarray(np.arange(1_000).reshape(250, 4)),
    "strided": lambda: np.arange(1_000)[::4],
    "frame": lambda: pd.DataFrame({"a": range(250), "s": ["x"] * 250}),
    "series": lambda: pd.Series(range(250), name="n"),
    "table": lambda: pa.table({"a": list(range(250)), "s": ["x"] * 250}),
    "array of Arrow": lambda: pa.array(range(250)),
    "in Arrow chunks": lambda: pa.chunked_array([range(200), range(50)]),
    "polars": lambda: pl.DataFrame({"a": range(250), "s": ["x"] * 250}),
    "polars series": lambda: pl.Series("n", range(250)),
    "tensor": lambda: torch.arange(1_000).reshape(250, 4),
    "bytes": lambda: bytes(range(250)),
    "bytearray": lambda: bytearray(range(250)),
    "list": lambda: list(range(250)),
    "tuple": lambda: tuple(range(250)),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("rows", [1, 100, 250, 1_000])
def test_chunks_put_together_are_the_value(name, rows):
    """Larger than memory: iter_chunks over arrays, tables, frames and iterables; every row once, in order."""
    value = LARGE[name]()

    chunks = list(iter_chunks(value, rows=rows))

    assert [len(chunk) for chunk in chunks] == [min(rows, 250 - begin) for begin in range(0, 250, rows)]
    assert {type(chunk) for chunk in chunks} == {type(value)}
    assert same(value, concatenated("it", chunks)) if name != "in Arrow chunks" else concatenated("it", chunks) == value


@pytest.mark.parametrize("name", LARGE)
def test_a_chunk_has_at_most_so_many_bytes(name):
    """Larger than memory: bytes=."""
    chunks = list(iter_chunks(LARGE[name](), bytes=800))

    sizes = [getattr(chunk, "nbytes", 0) for chunk in chunks if name not in ("frame", "polars")]
    assert sum(len(chunk) for chunk in chunks) == 250
    assert len(chunks) > 1 or name.startswith("bytes") or name == "bytearray"
    assert all(size <= 800 for size in sizes)


def test_a_row_that_is_larger_than_a_chunk_is_a_chunk():
    """Larger than memory: rows are not torn."""
    assert [chunk.shape for chunk in iter_chunks(np.zeros((3, 100)), bytes=10)] == [(1, 100)] * 3
    assert list(iter_chunks([b"x" * 100, b"y"], bytes=10)) == [[b"x" * 100], [b"y"]]


@pytest.mark.parametrize(
    "value", [np.empty((0, 3)), pd.DataFrame({"a": []}), pa.table({"a": pa.array([], pa.int8())}), b"", [], ()]
)
def test_what_is_empty_gives_one_empty_chunk(value):
    """Larger than memory: the tool of a step is called once and says of what type nothing is."""
    [chunk] = iter_chunks(value, rows=5)

    assert type(chunk) is type(value)
    assert len(chunk) == 0


def test_chunks_of_an_array_share_its_memory():
    """Larger than memory: mapped inputs by reference."""
    value = np.arange(10)

    assert all(np.shares_memory(chunk, value) for chunk in iter_chunks(value, rows=3))


def test_a_generator_is_read_no_further_than_asked_for():
    """Larger than memory: one chunk at a time."""
    read = []

    def numbers():
        for number in range(100):
            read.append(number)
            yield number

    chunks = iter_chunks(numbers(), rows=10)
    assert next(chunks) == list(range(10))
    assert len(read) == 10
    assert next(iter_chunks(iter([]), rows=10)) == []


def parquet(folder: Path, rows: int = 1_000) -> Path:
    path = folder / "data.parquet"
    pq.write_table(pa.table({"a": range(rows)}), path, row_group_size=300)
    return path


@pytest.mark.parametrize("form", ["path", "text", "file", "reader"])
def test_parquet_and_batches_come_as_tables(form, tmp_path):
    """Larger than memory: parquet files and paths, and readers of record batches."""
    path = parquet(tmp_path)
    file = pq.ParquetFile(path)
    values = {
        "path": path,
        "text": str(path),
        "file": file,
        "reader": pa.RecordBatchReader.from_batches(file.schema_arrow, file.iter_batches(batch_size=300)),
    }

    chunks = list(iter_chunks(values[form], rows=120))

    assert {type(chunk) for chunk in chunks} == {pa.Table}
    assert max(map(len, chunks)) == 120
    assert pa.concat_tables(chunks)["a"].to_pylist() == list(range(1_000))


def test_parquet_is_cut_by_its_own_figures_and_may_be_empty(tmp_path):
    """Larger than memory: bytes= asks the metadata of the file."""
    path = parquet(tmp_path)
    group = pq.ParquetFile(path).metadata
    size = sum(group.row_group(at).total_byte_size for at in range(group.num_row_groups))

    assert [len(chunk) for chunk in iter_chunks(path, bytes=size // 4)][0] in range(200, 251)
    [empty] = iter_chunks(parquet(tmp_path, 0), bytes=100)
    assert empty.schema.names == ["a"]
    reader = pa.RecordBatchReader.from_batches(empty.schema, [])
    assert [len(chunk) for chunk in iter_chunks(reader, rows=3)] == [0]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (7, "type 'int' cannot be cut"),
        ({"a": [1]}, "type 'dict' cannot be cut"),
        ({1, 2}, "type 'set' cannot be cut"),
        ("rows", "'rows' is not the path of a parquet file"),
        (np.array(1.0), "no dimensions"),
        (torch.tensor(1.0), "no dimensions"),
        (pl.LazyFrame({"a": [1]}), "collect"),
        (object(), "type 'object' cannot be cut"),
    ],
)
def test_what_has_no_rows_is_refused_with_advice(value, says):
    """Larger than memory: a value that cannot be cut is told at once."""
    with pytest.raises(ChunkError, match=says):
        iter_chunks(value, rows=1)


@pytest.mark.parametrize("limits", [{}, {"bytes": 1, "rows": 1}, {"rows": 0}, {"bytes": -1}])
def test_a_chunk_has_one_sensible_limit(limits):
    """Larger than memory: bytes= or rows=."""
    with pytest.raises(ValueError, match=r"exactly one|at least 1"):
        iter_chunks([1], **limits)


def resident_kb(path: Path) -> int:
    """How much of a mapped file is in the memory of this process."""
    found, is_ours = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.split(" ", 1)[0]:
            is_ours = line.endswith(path.name)
        elif is_ours and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("form", ["memmap", "store"])
def test_pages_of_used_chunks_are_given_back(form, tmp_path):
    """Larger than memory: madvise hints, sequential and not needed after use."""
    path = tmp_path / "mapped.bin"
    np.ones(4_000_000).tofile(path)
    if form == "memmap":
        value = np.memmap(path, mode="r")
    else:
        store = MmapStore(tmp_path / "store")
        ref = store.put(np.fromfile(path))
        path, value = Path(store.info(ref)["path"]), store.get(ref)
    most, total = 0, 0

    for chunk in iter_chunks(value, bytes=1 << 20):
        total += int(chunk.view(np.uint8).max()) and len(chunk)
        most = max(most, resident_kb(path))

    assert total == len(value)
    assert most < 8_000  # the file has 32 MB


@pytest.mark.skipif(not hasattr(mmap.mmap, "madvise"), reason="needs madvise")
@pytest.mark.parametrize("form", ["memmap", "view of a memmap", "read-only memmap", "mmap", "anonymous"])
def test_changes_of_private_pages_are_not_given_back(form, tmp_path):
    """Larger than memory: advice never changes a value, whatever shows it, and read-only as well."""
    path = tmp_path / "private.bin"
    np.zeros(100_000).tofile(path)
    if form == "mmap":
        with path.open("rb") as file:
            private: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    elif form == "anonymous":
        private = mmap.mmap(-1, 800_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    else:
        private = np.memmap(path, float, mode="c")
    np.frombuffer(private)[:] = 7
    if form == "read-only memmap":
        private.flags.writeable = False
    value = private if form in ("memmap", "read-only memmap") else np.frombuffer(memoryview(private).toreadonly())

    assert all((chunk == 7).all() for chunk in iter_chunks(value, rows=10_000))
    assert (np.frombuffer(private) == 7).all()


def test_pieces_of_a_pass_are_combined():
    """Larger than memory: concat, sum and list."""
    found = {}
    for combine in ("concat", "sum", "list"):
        pieces = Pieces(np.arange(5), None, 2, combine)
        outputs = None
        while (chunk := pieces.following(outputs)) is not END:
            outputs = {"it": chunk[:1]}
        found[combine] = pieces.combined()["it"]
        pieces.close()

    assert found["concat"].tolist() == [0, 2, 4]
    assert found["sum"].tolist() == [6]
    assert [one.tolist() for one in found["list"]] == [[0], [2], [4]]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([1, 2], "'int', which cannot be put one after the other"),
        ([np.zeros((1, 2)), np.zeros((1, 3))], "one after"),
        ([[1], {"k": 1}], "that of the first chunk is of type 'list', and that of chunk 2 is of type 'dict'"),
        ([[1], [2], "ab"], "that of chunk 3 is of type 'str'; let the tool return one type, or name a tool"),
        ([np.zeros(1), [1]], "'numpy.ndarray' with dtype float64, and that of chunk 2 is of type 'list'"),
        ([np.zeros(1, "u8"), np.zeros(1, "i8")], "with dtype uint64, and .* with dtype int64"),
        ([np.zeros(1, "M8[s]"), np.zeros(1, "M8[ms]")], "datetime64"),
        ([torch.zeros(1), torch.zeros(1, dtype=torch.int64)], "with dtype torch.int64"),
        ([pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})], "DataFrame'"),
        ([pd.DataFrame({"a": [1]}), pd.Series([1])], "Series'"),
        ([pl.Series([1]), pl.Series(["a"])], "one after"),
        ([pa.array([1]), pa.array(["a"])], "one after"),
        ([np.zeros(1, [("a", "i4")]).view(np.recarray)] * 2, "'sum' or 'list', or name a tool"),
    ],
)
def test_values_that_cannot_be_joined_are_told(values, says):
    """Larger than memory: a combination that is none names the output and the way out."""
    with pytest.raises(ChunkError, match=says):
        concatenated("it", values)


def test_masks_and_widths_of_texts_are_kept():
    """Larger than memory: what is joined has lost nothing."""
    masked = np.ma.array([1, 2, 3, 4], mask=[0, 1, 0, 1], fill_value=9)
    joined = concatenated("it", list(iter_chunks(masked, rows=2)))

    assert (type(joined), joined.mask.tolist(), joined.fill_value) == (type(masked), [False, True, False, True], 9)
    assert concatenated("it", [np.array(["a"]), np.array(["bcd"])]).tolist() == ["a", "bcd"]


UNLIKE = {
    "shapes": (np.array([1, 2]), np.array([3]), "the shape of a chunk is not that of those before it"),
    "tensors": (torch.ones(2), torch.ones(1), "shape"),
    "polars": (pl.Series([1, 2]), pl.Series([3]), "shape"),
    "array and number": (np.array([1, 2]), 3, "shape"),
    "frame and array": (pd.Series([1, 2]), np.array([1, 2]), "index"),
    "labels": (pd.Series([1, 1], index=[1, 2]), pd.Series([1, 1], index=[3, 4]), "index"),
    "columns": (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]}), "columns"),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_values_of_other_shapes_and_labels_are_not_added(case):
    """Larger than memory: a shorter last chunk is not repeated, and no label becomes NaN."""
    one, other, says = UNLIKE[case]
    pieces = Pieces([one, other], None, 1, "sum")
    pieces.following({"it": one})

    with pytest.raises(ChunkError, match=says):
        pieces.following({"it": other})


@pytest.mark.parametrize(
    ("one", "other", "total"),
    [
        (pd.Series([1, 2], index=["a", "b"]), pd.Series([3, 4], index=["a", "b"]), [4, 6]),
        (np.array([1.0]), np.array([np.nan]), [np.nan]),
        ((1,), (2,), (1, 2)),
        (1, 2.5, 3.5),
        (0, np.float64(2.5), 2.5),
    ],
    ids=["labels", "nan", "tuples", "numbers", "number of numpy"],
)
def test_values_of_one_shape_are_added(one, other, total):
    """Larger than memory: with +, as they come."""
    pieces = Pieces([1, 2], None, 1, "sum")
    for value in (one, other):
        pieces.following({"it": value})
    found = pieces.combined()["it"]

    assert repr(found.tolist() if hasattr(found, "tolist") else found) == repr(total)


def test_record_batches_become_a_table():
    """Larger than memory: also where there is one only."""
    batch = pa.record_batch({"a": [1]})

    assert concatenated("it", [batch]) == pa.table({"a": [1]})
