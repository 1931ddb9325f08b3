"""Real objects of the libraries that users pass between steps, one of every kind that behaves in its own way."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

try:
    import torch
except ImportError:  # its wheels are installed for one Python only (see pyproject.toml)
    torch = None  # type: ignore[assignment]

ARRAYS: dict[str, Callable[[], Any]] = {
    "C order": lambda: np.arange(12.0).reshape(3, 4),
    "F order": lambda: np.asfortranarray(np.arange(12).reshape(3, 4)),
    "strided": lambda: np.arange(24).reshape(4, 6)[::2, 1::2],
    "reversed": lambda: np.arange(6)[::-1],
    "broadcast": lambda: np.broadcast_to(np.arange(3), (2, 3)),
    "0-d": lambda: np.array(7.5),
    "empty": lambda: np.empty((0, 3), np.float32),
    "structured": lambda: np.array([(1, 2.5), (3, 4.5)], dtype=[("a", "i4"), ("b", "f8")]),
    "aligned": lambda: np.array([(1, 2.5)], dtype=np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "dates": lambda: np.array(["2024-01-01", "NaT"], dtype="datetime64[D]"),
    "spans": lambda: np.array([1, 2], dtype="timedelta64[ms]"),
    "text": lambda: np.array(["a", "bcd"]),
    "bytes": lambda: np.array([b"a", b"bcd"]),
    "bool": lambda: np.array([True, False]),
    "complex": lambda: np.array([1 + 2j]),
    "half": lambda: np.array([1.5], np.float16),
    "big endian": lambda: np.array([1, 2], ">i4"),
    "scalar": lambda: np.float64(2.5),
    "date": lambda: np.datetime64("2024-01-01"),
}

FRAMES: dict[str, Callable[[], Any]] = {
    "mixed": lambda: pd.DataFrame(
        {
            "i": [1, 2, 3],
            "f": [1.5, 2.0, None],
            "s": ["a", "b", None],
            "b": [True, False, True],
            "d": pd.to_datetime(["2024-01-01"] * 3),
            "utc": pd.to_datetime(["2024-01-01"] * 3).tz_localize("UTC"),
            "zone": pd.to_datetime(["2024-01-01"] * 3).tz_localize("Europe/Berlin"),
            "span": pd.to_timedelta([1, 2, 3], unit="s"),
            "c": pd.Categorical(["x", "y", "x"], ordered=True),
            "o": [1, "k", Decimal("2.5")],
            "date": [datetime.date(2024, 1, 1)] * 3,
            "I": pd.array([1, None, 3], dtype="Int64"),
            "B": pd.array([True, None, False], dtype="boolean"),
            "F": pd.array([1.5, None, 3], dtype="Float64"),
            "S": pd.array(["a", None, "c"], dtype="string"),
            "p": pd.period_range("2024-01", periods=3, freq="M"),
            "v": pd.interval_range(0, 3),
            "arrow": pd.array([1, 2, 3], dtype="int64[pyarrow]"),
            "sparse": pd.arrays.SparseArray([0, 0, 1]),
        }
    ),
    "MultiIndex": lambda: pd.DataFrame(
        {"x": [1, 2]}, index=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["l", "n"])
    ),
    "categorical index": lambda: pd.Series([1, 2], index=pd.CategoricalIndex(["a", "b"]), name="q"),
    "dates with a frequency": lambda: pd.Series([1, 2, 3], index=pd.date_range("2024-01-01", periods=3, freq="MS")),
    "intervals": lambda: pd.Series([1, 2], index=pd.IntervalIndex.from_breaks([0, 1, 2])),
    "periods": lambda: pd.Series([1, 2], index=pd.PeriodIndex(["2024-01", "2024-02"], freq="M")),
    "spans": lambda: pd.Series([1], index=pd.TimedeltaIndex(["1s"])),
    "index": lambda: pd.Index([1, 2], name="k"),
    "range": lambda: pd.RangeIndex(3),
    "empty": lambda: pd.DataFrame({"a": []}),
    "no columns": lambda: pd.DataFrame(index=range(3)),
    "slice": lambda: pd.DataFrame({"a": range(10), "b": range(10)}).iloc[2:5],
}

TABLES: dict[str, Callable[[], Any]] = {
    "table": lambda: pa.table({"a": [1, 2, None], "s": ["x", None, "z"], "l": [[1], [], None]}),
    "table in chunks": lambda: pa.concat_tables([pa.table({"a": [1]}), pa.table({"a": [2]})]),
    "sliced table": lambda: pa.table({"a": list(range(100))}).slice(10, 5),
    "table with metadata": lambda: pa.table({"a": [1]}).replace_schema_metadata({"k": "v"}),
    "empty table": lambda: pa.table({"a": pa.array([], pa.int64())}),
    "dictionary": lambda: pa.table({"d": pa.array(["a", "b", "a"]).dictionary_encode()}),
    "batch": lambda: pa.record_batch({"a": [1, 2]}),
    "array": lambda: pa.array([1, 2, None]),
    "sliced array": lambda: pa.array(["a", "bb", "ccc", None]).slice(1, 2),
    "empty array": lambda: pa.array([], pa.string()),
    "chunked": lambda: pa.chunked_array([[1], [2, 3]]),
    "no chunks": lambda: pa.chunked_array([], type=pa.int32()),
}

POLARS: dict[str, Callable[[], Any]] = {
    "frame": lambda: pl.DataFrame(
        {"a": [1, None], "s": ["x", "y"], "l": [[1], [2, 3]], "d": [datetime.date(2024, 1, 1)] * 2}
    ),
    "categories": lambda: pl.DataFrame({"c": pl.Series(["a", "b", "a"], dtype=pl.Categorical)}),
    "enum": lambda: pl.Series("e", ["a", "b"], dtype=pl.Enum(["a", "b"])),
    "decimals": lambda: pl.Series("x", [Decimal("1.25"), None]),
    "zoned": lambda: pl.Series("t", [datetime.datetime(2024, 1, 1)]).dt.replace_time_zone("Europe/Berlin"),
    "struct": lambda: pl.Series("p", [{"x": 1, "y": "a"}]),
    "series": lambda: pl.Series("n", [1, 2]),
    "unnamed": lambda: pl.Series([b"x"]),
    "unnamed column": lambda: pl.DataFrame({"": [1], "column_0": [2]}),
    "integers of 128 bits": lambda: pl.DataFrame({"a": pl.Series([1 << 100, None], dtype=pl.Int128)}),
    "inside a list": lambda: pl.Series("a", [[1], []], dtype=pl.List(pl.UInt128)),
    "arrays": lambda: pl.Series("a", [[1, 2]], dtype=pl.Array(pl.Int8, 2)),
    "times": lambda: pl.Series("a", [datetime.time(1), None]),
    "empty": lambda: pl.DataFrame(schema={"a": pl.Int8}),
    "nothing": lambda: pl.DataFrame(),
}

TENSORS: dict[str, Callable[[], Any]] = {
    "float": lambda: torch.arange(6.0).reshape(2, 3),
    "bfloat16": lambda: torch.tensor([1.5, 2.5], dtype=torch.bfloat16),
    "float8": lambda: torch.tensor([1.5, 2.0]).to(torch.float8_e4m3fn),
    "bool": lambda: torch.tensor([True, False]),
    "complex": lambda: torch.tensor([1 + 2j]),
    "conjugate": lambda: torch.tensor([1 + 2j]).conj(),
    "transposed": lambda: torch.arange(6).reshape(2, 3).T,
    "0-d": lambda: torch.tensor(3),
    "empty": lambda: torch.empty(0, 4),
    "gradient": lambda: torch.ones(2, requires_grad=True),
    "gradient that is there": lambda: with_gradient(),
}
if torch is None:
    TENSORS.clear()


def with_gradient() -> Any:
    """A tensor that a backward pass has been through."""
    tensor = torch.ones(2, requires_grad=True)
    (tensor * 3).sum().backward()
    return tensor


def memmap(folder: Path) -> Any:
    """An array over a file."""
    array = np.memmap(folder / "mapped.bin", dtype="f8", mode="w+", shape=(4, 2))
    array[:] = np.arange(8).reshape(4, 2)
    return array


def same(one: Any, other: Any) -> bool:
    """Whether two objects are equal with type, dtype, shape, index and layout of values."""
    if type(one) is np.memmap:
        one = np.asarray(one)
    if type(one) is not type(other):
        return False
    if isinstance(one, (np.ndarray, np.generic)):
        fields: Any = one
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        if one.dtype.names is not None:  # what lies between the fields belongs to nobody
            return all(same(fields[name], other[name]) for name in one.dtype.names)
        return one.tobytes() == other.tobytes()
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, check_freq=True, check_flags=True)
        return True
    if isinstance(one, pd.Series):
        pd.testing.assert_series_equal(one, other, check_freq=True, check_flags=True)
        return True
    if isinstance(one, pd.Index):
        pd.testing.assert_index_equal(one, other)
        return True
    if isinstance(one, (pl.DataFrame, pl.Series)):
        schema = (lambda x: x.schema) if isinstance(one, pl.DataFrame) else (lambda x: (x.name, x.dtype))
        return bool(one.equals(other)) and schema(one) == schema(other)
    if torch is not None and isinstance(one, torch.Tensor):
        same_kind = (one.dtype, one.shape, one.requires_grad) == (other.dtype, other.shape, other.requires_grad)
        if (one.grad is None) is not (other.grad is None) or (one.grad is not None and not same(one.grad, other.grad)):
            return False
        return same_kind and bool(torch.equal(one.to(torch.complex128), other.to(torch.complex128)))
    if isinstance(one, (pa.Table, pa.RecordBatch)):
        return bool(one.equals(other, check_metadata=True))
    return bool(one == other)
