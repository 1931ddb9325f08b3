"""The codec of plain values: what is read equals what was written, type by type, and nothing else gets in or out."""

import math
import threading
from collections import OrderedDict, deque
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath, PureWindowsPath
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel, SecretStr, TypeAdapter

from chainweaver.objects import PlainDecodeError, PlainEncodeError, decode_plain, encode_plain

any_text = st.text(alphabet=st.characters())  # lone surrogates included
zones = st.sampled_from([None, timezone.utc, timezone(timedelta(hours=-3, seconds=7)), ZoneInfo("Europe/Berlin")])
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**62, max_value=2**80),
    st.floats(),
    any_text,
    st.binary(max_size=200),
    st.dates(),
    st.datetimes(timezones=zones),
    st.times(timezones=st.sampled_from([None, timezone.utc])),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.complex_numbers(),
)
keys = st.one_of(st.none(), st.booleans(), st.integers(), any_text, st.tuples(st.integers(), any_text), st.just("$t"))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4).map(OrderedDict),
        st.lists(inner, max_size=4).map(lambda items: deque(items, maxlen=9)),
        st.sets(keys, max_size=4),
        st.frozensets(keys, max_size=4),
        st.binary().map(bytearray),
    ),
    max_leaves=12,
)


def described(value):
    """A value with its types spelled out: equal descriptions are equal values of equal types, NaN and -0.0 included."""
    kind = type(value)
    if kind is float:
        return (kind, "nan" if math.isnan(value) else value.hex())
    if kind is complex:
        return (kind, described(value.real), described(value.imag))
    if isinstance(value, dict):
        return (kind, [(described(key), described(item)) for key, item in value.items()])
    if kind in (list, tuple, deque):
        return (kind, getattr(value, "maxlen", None), [described(item) for item in value])
    if kind in (set, frozenset):
        return (kind, sorted(map(repr, map(described, value))))
    if kind in (datetime, time):
        return (kind, value, value.fold, type(value.tzinfo), value.utcoffset())
    return (kind, hex(value) if kind is int else repr(value))


@given(st.dictionaries(any_text, values, max_size=4), st.booleans())
def test_what_is_read_equals_what_was_written_types_included(written, with_blobs):
    """R30, R34: plain values survive the bytes."""
    blobs = [] if with_blobs else None

    data = encode_plain(written, blobs)

    assert b"\n" not in data
    assert described(decode_plain(data, b"".join(blobs or []))) == described(written)


@given(st.text(max_size=60) | st.binary(max_size=60))
def test_foreign_bytes_give_a_dict_or_a_typed_error(data):
    """R34: reading never does anything else."""
    try:
        assert type(decode_plain(data)) is dict
    except PlainDecodeError:
        pass


@pytest.mark.parametrize(
    "value",
    [
        True,
        10**5_000,
        -(2**63) - 1,
        [2**63],
        [float("inf"), 1.0],
        [1, True, 1.0],
        "\ud83d\ude00",
        "😀",
        {"$t": [1]},
        {"$d": "x", "a": 1},
        {(1, "a"): {None: 2}},
        b"x" * 1_000,
        Decimal("-0E+5"),
        UUID(int=7),
        PurePosixPath("/a/b"),
        PureWindowsPath("c:\\a"),
        time(1, 2, 3, 4, fold=1),
        timezone(timedelta(0), "odd"),
        TypeAdapter(datetime).validate_python("2024-05-01T10:00:00+02:00"),
        datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_json_would_change_come_back_as_they_were(value):
    """R34: by example."""
    if isinstance(value, timezone):
        value = datetime(2024, 5, 1, tzinfo=value)
    assert described(decode_plain(encode_plain({"v": [value]}))["v"][0]) == described(value)


class Colour(Enum):
    RED = "red"


class Point(BaseModel):
    x: int = 0


class Name(str):
    __slots__ = ()


def a_cycle():
    inside = []
    inside.append({"again": (inside,)})
    return inside


def a_tower(height):
    tower = []
    for _ in range(height):
        tower = [tower]
    return tower


@pytest.mark.parametrize(
    ("value", "type_name", "why"),
    [
        (Point(), "Point", "declare that type on the output field"),
        (Name("n"), "Name", "subclass of 'str'"),
        (Colour.RED, "Colour", "no plain form"),
        (SecretStr("s"), "SecretStr", "secrets are not written to a store without a cipher"),
        (object(), "object", "no plain form"),
        (a_cycle(), "list", "contains itself"),
        (a_tower(100_000), "list", "more than 100 levels"),
    ],
    ids=["model", "str subclass", "enum", "secret", "object", "cycle", "tower"],
)
def test_what_would_change_its_type_is_refused_with_key_type_and_reason(value, type_name, why):
    """R34, R39: never a silent change of type, no RecursionError, no secret on a disk."""
    with pytest.raises(PlainEncodeError, match=why) as caught:
        encode_plain({"fine": 1, "bad": [value]})

    assert (caught.value.key, caught.value.type_name) == ("bad", type_name)
    assert str(caught.value).startswith(f"value 'bad' of type '{type_name}' cannot be stored: ")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[1]",
        b'{"a":NaN}',
        b'{"a":{"$t":1}}',
        b'{"a":{"$zz":1}}',
        b'{"a":{"$t":[],"b":1}}',
        b'{"a":{"$z":["os:system","ls"]}}',
        b'{"a":{"$D":["2024-05-01",0,["z","../../etc/passwd"]]}}',
        b'{"a":{"$p":["Popen","ls"]}}',
        b'{"a":{"$o":[0,5]}}',
        b'{"a":{"$S":[[]]}}',
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b'{"a":{"$D":"\xff"}}',
        b'{"a":' + b"9" * 10_000 + b"}" * 2,
    ],
    ids=range(15),
)
def test_damaged_or_hostile_bytes_are_refused(data):
    """R34: nothing is run, nothing crashes."""
    with pytest.raises(PlainDecodeError):
        decode_plain(data)


def test_long_byte_strings_are_put_aside_and_found_again():
    """R31: byte strings do not grow by a third."""
    blobs: list[bytes] = []
    data = encode_plain({"a": b"1" * 100, "b": [bytearray(b"2" * 100), b"short"]}, blobs)

    assert blobs == [b"1" * 100, b"2" * 100]
    assert len(data) < 100
    assert decode_plain(data, b"".join(blobs)) == {"a": b"1" * 100, "b": [bytearray(b"2" * 100), b"short"]}


def test_a_foreign_object_is_not_asked_anything():
    """R34: encoding looks at the type only."""
    with pytest.raises(PlainEncodeError, match="lock"):
        encode_plain({"lock": threading.Lock()})


@pytest.mark.parametrize("value", [date(2024, 5, 1), timedelta(-1, 2, 3)])
def test_the_json_is_readable(value):
    """R34: a person can read a store."""
    assert encode_plain({"v": value}) in (b'{"v":{"$Y":"2024-05-01"}}', b'{"v":{"$L":[-1,2,3]}}')
