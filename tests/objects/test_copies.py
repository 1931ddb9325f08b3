"""Independent copies: equal, and nothing mutable shared."""

import threading
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel, ConfigDict

from chainweaver.objects import UncopyableError, holds_atoms_only, independent_copy
from tests.objects.test_codecs import KINDS, NEEDS_TORCH
from tests.objects.values import memmap, same, torch

leaves = st.one_of(st.none(), st.integers(), st.text(), st.decimals(allow_nan=False))
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner) | st.sets(leaves),
    max_leaves=15,
)


def mutable_parts(value):
    """The ids of all lists, dicts and sets inside of a value."""
    found = {id(value)} if isinstance(value, (list, dict, set)) else set()
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return found.union(*map(mutable_parts, inside))


@given(st.dictionaries(st.text(), trees))
def test_a_copy_is_equal_and_shares_no_container(values):
    """R30: changing one cannot change the other."""
    copied = independent_copy(values)
    assert copied == values
    assert mutable_parts(copied).isdisjoint(mutable_parts(values))


def test_objects_are_copied_with_what_they_hold():
    """R30: models are copied as well."""

    class Box(BaseModel):
        rows: list[int]

    box = Box(rows=[1])
    copied = independent_copy({"box": box, "rows": box.rows})
    assert copied["box"] == box
    assert copied["box"].rows is not box.rows
    assert copied["box"].rows is not None


def test_what_is_shared_inside_stays_shared_and_cycles_stay_cycles():
    """R30: the copy has the form of the original."""
    rows: list = [1]
    rows.append(rows)
    copied = independent_copy({"a": rows, "b": rows})
    assert copied["a"] is copied["b"]
    assert copied["a"][1] is copied["a"]


def test_a_lock_is_refused_with_its_key_type_and_the_reason():
    """R30: what cannot be copied is told, not shared."""
    with pytest.raises(
        UncopyableError, match="value 'guard' of type 'list' cannot be copied: TypeError: cannot pickle"
    ):
        independent_copy({"n": 1, "guard": [threading.Lock()]})


def test_a_tower_is_refused_without_recursion_error():
    """R30: depth is a reason as well."""
    tower: list = []
    for _ in range(100_000):
        tower = [tower]
    with pytest.raises(UncopyableError, match="nested too deeply"):
        independent_copy({"tower": tower})


def test_only_exact_immutable_types_count_as_atoms():
    """R30: a subclass may carry a mutable attribute."""

    class Name(str):
        pass

    assert holds_atoms_only({"a": 1, "b": Decimal(1), "c": None})
    assert not holds_atoms_only({"a": Name("n")})


def copy_of(value):
    return independent_copy({"value": value})["value"]


@pytest.mark.parametrize("kind", KINDS)
def test_objects_of_every_kind_have_an_equal_copy(kind):
    """R30: alone, and inside of containers."""
    value = KINDS[kind]()
    assert same(value, copy_of(value))
    assert same(value, copy_of([{"a": (value, 1)}])[0]["a"][0])
    assert same(value, KINDS[kind]())


def test_a_mapped_array_is_copied_into_memory(tmp_path):
    """R30: what is kept does not change with a file."""
    mapped = memmap(tmp_path)
    copied = copy_of(mapped)
    mapped[:] = 0
    assert np.array_equal(copied, np.arange(8).reshape(4, 2))


def change_array(array):
    array[:] = 9


def change_frame(frame):
    frame.iloc[0, 0] = 9
    frame["more"] = 1


def change_cell(frame):
    frame.iloc[0, 0].append(9)


def change_series(series):
    series.iloc[0].append(9)


def change_attributes(frame):
    frame.attrs["list"].append(9)


def with_attributes():
    frame = pd.DataFrame({"a": [1]})
    frame.attrs["list"] = [1]
    return frame


def change_polars(frame):
    frame[0, "a"] = 9


CHANGES = {
    "array": (lambda: np.arange(3), change_array),
    "objects": (lambda: np.array([[1], [2]], dtype=object), lambda array: array[0].__setitem__(0, 9)),
    "frame": (lambda: pd.DataFrame({"a": [1, 2]}), change_frame),
    "cells": (lambda: pd.DataFrame({"a": [[1], [2]]}), change_cell),
    "cells with one name": (lambda: pd.DataFrame([[[1], 2]], columns=["a", "a"], index=[5]), change_cell),
    "series of cells": (lambda: pd.Series([[1], [2]], index=[3, 3], name="n"), change_series),
    "attributes": (with_attributes, change_attributes),
    "polars": (lambda: pl.DataFrame({"a": [1, 2]}), change_polars),
    "polars series": (lambda: pl.Series("a", [1, 2]), lambda series: series.__setitem__(0, 9)),
    "tensor": (lambda: torch.zeros(3), lambda tensor: tensor.add_(1)),
    "bytearray": (lambda: bytearray(b"abc"), lambda raw: raw.extend(b"d")),
}
if torch is None:
    del CHANGES["tensor"]


@pytest.mark.parametrize("kind", CHANGES)
def test_changing_an_object_changes_no_copy_and_the_other_way_round(kind):
    """R30: nothing that can be changed is shared, cells of frames included."""
    make, change = CHANGES[kind]
    value = make()
    copied, again = copy_of(value), copy_of((value,))[0]
    change(value)
    assert repr(copied) == repr(again) == repr(make())
    change(copied)
    assert repr(again) == repr(make())


@dataclass
class Part:
    frame: pd.DataFrame


class Whole(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    parts: list[Part]
    table: pa.Table
    again: "Whole | None" = None


def test_cells_of_frames_inside_of_models_are_copied():
    """R30: at any depth, also where a model contains itself."""
    whole = Whole(parts=[Part(pd.DataFrame({"a": [[1]]}))], table=pa.table({"a": [1]}))
    for again in (None, whole):
        whole.again = again
        copied = copy_of(whole)
        assert copied.parts[0].frame.iloc[0, 0] is not whole.parts[0].frame.iloc[0, 0]
        assert (copied.table is whole.table, copied.again is (again and copied)) == (True, True)


class Shares(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    lock: Any
    rows: list[int]

    def __deepcopy__(self, memo=None):
        return Shares(lock=self.lock, rows=list(self.rows))


def test_a_class_that_says_how_it_is_copied_is_copied_so():
    """R30: whoever shares something on purpose has to know."""
    value = Shares(lock=threading.Lock(), rows=[1])
    copied = copy_of([value])[0]
    assert (copied.lock is value.lock, copied.rows == [1], copied.rows is value.rows) == (True, True, False)


def test_what_cannot_be_changed_is_not_copied():
    """R30: tables of Arrow are handed out as they are, polars shares memory until somebody writes."""
    table = pa.table({"a": [1]})
    assert copy_of(table) is table
    assert copy_of([table.column("a")])[0] is not None
    frame = pl.DataFrame({"a": range(1_000)})
    assert copy_of(frame) is not frame
    assert np.shares_memory(copy_of(frame)["a"].to_numpy(), frame["a"].to_numpy())


def test_cells_that_dates_could_be_made_of_stay_cells():
    """R30: the copy of a column of objects is a column of objects."""
    cells = [pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-02")]
    frame = pd.DataFrame({"a": pd.Series(cells, dtype=object), "b": [[1], [2]], "c": [1, 2]})
    assert same(frame, copy_of(frame))
    assert same(frame["a"], copy_of(frame["a"]))


@NEEDS_TORCH
def test_a_part_of_a_tensor_is_copied_without_the_rest():
    """R30: cheaply."""
    part = torch.zeros(1_000_000)[:3]
    assert copy_of(part).untyped_storage().nbytes() == 12


def test_an_object_that_appears_twice_appears_twice_in_the_copy():
    """R30: the copy has the form of the original."""
    series, frame = pl.Series([1]), pd.DataFrame({"a": [1]})
    copied = copy_of([series, series, (frame,), frame])
    assert copied[0] is copied[1] is not series
    assert copied[2][0] is copied[3] is not frame


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (pl.DataFrame({"a": pl.Series([object()], dtype=pl.Object)}), "a column holds Python objects"),
        (pd.DataFrame({"a": [threading.Lock()]}), "cannot pickle '_thread.lock' object"),
        ((threading.Lock(),), "cannot pickle '_thread.lock' object"),
    ],
    ids=["polars objects", "cell", "tuple"],
)
def test_objects_that_cannot_be_copied_are_refused_with_the_reason(value, why):
    """R30: told, not shared."""
    with pytest.raises(UncopyableError, match=why):
        copy_of(value)


@NEEDS_TORCH
def test_a_tensor_of_a_graph_is_refused_and_a_leaf_keeps_what_it_has():
    """R30: a copy would not be part of the graph; gradients of a leaf are copied."""
    with pytest.raises(UncopyableError, match="RuntimeError: Only Tensors created explicitly"):
        copy_of(torch.ones(1, requires_grad=True) * 2)
    leaf = torch.ones(1, requires_grad=True)
    (leaf * 3).sum().backward()
    copied = copy_of(leaf)
    assert (copied.requires_grad, copied.grad.item(), copied.grad is leaf.grad) == (True, 3.0, False)
