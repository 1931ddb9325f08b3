"""Independent copies: equal, and nothing mutable shared."""

import threading
from decimal import Decimal

import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel

from chainweaver.objects import UncopyableError, holds_atoms_only, independent_copy

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
