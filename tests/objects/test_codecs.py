"""Codecs: what comes back is what was packed; what has no form as bytes is named; damage and malice are refused."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from chainweaver.objects import decode_plain, encode_plain
from chainweaver.objects.codecs import NoCodecError, Packed, UnpackError, codec_for, pack, unpack
from tests.conftest import PROOF
from tests.objects import values
from tests.objects.values import ARRAYS, FRAMES, POLARS, TABLES, TENSORS, same, torch

NEEDS_TORCH = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
BYTES = {"bytes": lambda: b"abc", "no bytes": lambda: b"", "bytearray": lambda: bytearray(b"abc")}
KINDS = {
    f"{group}: {name}": make
    for group, kinds in {
        "numpy": ARRAYS,
        "pandas": FRAMES,
        "pyarrow": TABLES,
        "polars": POLARS,
        "torch": TENSORS,
        "builtin": BYTES,
    }.items()
    for name, make in kinds.items()
}

FREQUENCIES = [
    *(
        "D",
        "h",
        "min",
        "s",
        "ms",
        "us",
        "ns",
        "W-MON",
        "B",
        "ME",
        "MS",
        "QE",
        "QS",
        "YE-MAR",
        "YS",
        "BME",
        "BMS",
        "BQE",
    ),
    *("BYE", "SME", "SMS", "C", "bh", "CBME", "WOM-2MON", pd.DateOffset(months=1), pd.offsets.Easter()),
    pd.offsets.LastWeekOfMonth(weekday=4),  # pandas 2 cannot read the name that it has for it
    pd.offsets.FY5253(weekday=1, startingMonth=3),
]


def through_bytes(value):
    """A value packed, written, read and unpacked, with nothing but bytes in between."""
    packed = pack(value)
    facts = encode_plain(packed.facts)
    return unpack(Packed(packed.codec, decode_plain(facts), tuple(bytes(buffer) for buffer in packed.buffers)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_object_comes_back_equal_from_bytes(kind):
    """Objects, line 6: the matrix of codecs; type, dtype, shape, index and schema are kept."""
    value = KINDS[kind]()
    assert same(value, through_bytes(value))


def test_a_mapped_array_comes_back_as_an_array(tmp_path):
    """Objects, line 6: its file stays where it is, its values travel."""
    mapped = values.memmap(tmp_path)
    assert same(mapped, through_bytes(mapped))


@pytest.mark.parametrize("frequency", FREQUENCIES, ids=str)
def test_every_frequency_of_an_index_of_dates_comes_back(frequency):
    """Objects, line 6: what is written can be read."""
    dates = pd.Series(1, index=pd.date_range("2024-01-01", periods=2, freq=frequency))
    assert same(dates, through_bytes(dates))


def test_flags_attributes_and_names_of_a_frame_come_back():
    """Objects, line 6: a frame is more than its columns."""
    frame = pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False)
    frame.attrs["unit"] = {"a": "mm"}
    frame.columns.name = "k"

    back = through_bytes(frame)

    assert same(frame, back)
    assert back.attrs == {"unit": {"a": "mm"}}


def test_the_cells_that_a_column_of_objects_may_hold_come_back():
    """Objects, line 6: what the standard library and the library of the frame know."""
    import datetime
    import uuid

    cells = [
        *(None, [1, {"a": (1,)}], {1}, frozenset({1}), b"a", 1j, range(3), uuid.UUID(int=1), pd.NaT, pd.NA),
        *(datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc), pd.Timestamp("2024-01-01", tz="Europe/Berlin")),
        *(pd.Timedelta("1s"), pd.Period("2024-01"), pd.Interval(0, 1), np.float64(1), np.datetime64("2024")),
    ]
    back = through_bytes(pd.Series(cells, dtype=object))
    assert list(map(repr, back)) == list(map(repr, cells))
    assert list(map(type, back)) == list(map(type, cells))


# ---- no copy that nobody asked for


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_in_one_piece_is_packed_and_unpacked_without_a_copy(order):
    """Objects: buffers are the memory of the object."""
    array = np.asarray(np.arange(1_000.0).reshape(10, 100), order=order)

    packed = pack(array)
    back = unpack(packed)

    assert np.shares_memory(np.frombuffer(packed.buffers[0], "u1"), array)
    assert np.shares_memory(back, array)
    assert (back.flags.c_contiguous, back.flags.f_contiguous) == (order == "C", order == "F")


def test_a_frame_a_tensor_and_a_bytearray_are_packed_without_a_copy():
    """Objects: buffers are the memory of the object."""
    frame = pd.DataFrame(np.arange(1_000.0).reshape(100, 10))
    raw = bytearray(1_000)

    in_frame, in_raw = (np.frombuffer(pack(one).buffers[0], "u1") for one in (frame, raw))

    assert np.shares_memory(in_frame, frame.to_numpy())
    if torch is not None:
        tensor = torch.arange(1_000.0)
        assert np.shares_memory(np.frombuffer(pack(tensor).buffers[0], "u1"), tensor.numpy())
    assert np.shares_memory(in_raw, np.frombuffer(raw, "u1"))


def test_what_lies_over_bytes_that_cannot_change_cannot_be_changed():
    """Objects: a worker cannot write into what it shares."""
    array = through_bytes(np.arange(3))
    series = through_bytes(pd.Series([1.0, 2.0]))
    batch = through_bytes(pa.table({"a": [1]}))

    assert not array.flags.writeable
    assert not series.to_numpy().flags.writeable
    assert not batch.column("a").chunk(0).buffers()[1].is_mutable


@NEEDS_TORCH
def test_a_tensor_over_bytes_that_cannot_change_is_a_copy():
    """Objects: PyTorch knows no tensor that cannot be written to."""
    buffer = bytes(pack(torch.zeros(2)).buffers[0])
    unpack(Packed("torch.Tensor", pack(torch.zeros(2)).facts, (buffer,))).add_(1)
    assert buffer == bytes(8)


# ---- refusals


class Grid(np.ndarray):
    pass


class Sheet(pd.DataFrame):
    pass


class Label(bytes):
    pass


class Cell:
    pass


def with_graph():
    return torch.ones(1, requires_grad=True) * 2


REFUSED = {
    "objects": (lambda: np.array([Cell()]), "numpy.ndarray", "dtype object holds Python objects"),
    "structured objects": (lambda: np.zeros(1, [("a", "O")]), "numpy.ndarray", "holds Python objects"),
    "StringDType": (lambda: np.array(["a"], dtype=np.dtypes.StringDType()), "numpy.ndarray", "variable-width strings"),
    "array subclass": (lambda: np.zeros(1).view(Grid), f"{__name__}.Grid", "convert it to numpy.ndarray"),
    "masked": (lambda: np.ma.masked_array([1], [True]), "numpy.ma.MaskedArray", "convert it to numpy.ndarray"),
    "frame subclass": (lambda: Sheet({"a": [1]}), f"{__name__}.Sheet", "convert it to pandas.DataFrame"),
    "bytes subclass": (lambda: Label(b"a"), f"{__name__}.Label", "convert it to bytes"),
    "text with zeros": (lambda: np.bytes_(b"a\0"), "numpy.bytes_", "ends in zeros"),
    "lazy frame": (lambda: pl.LazyFrame({"a": [1]}), "polars.lazyframe.frame.LazyFrame", r"collect\(\) it first"),
    "polars objects": (lambda: pl.DataFrame({"a": pl.Series([Cell()], dtype=pl.Object)}), "polars.", "Python objects"),
    "arrays of nothing": (
        lambda: pl.DataFrame({"a": [{"x": [[]]}]}, schema={"a": pl.Struct({"x": pl.List(pl.Array(pl.Int8, 0))})}),
        "polars.",
        "cannot read arrays of no items; use lists",
    ),
    "sparse": (lambda: torch.eye(2).to_sparse(), "torch.Tensor", r"use .to_dense\(\) first"),
    "graph": (with_graph, "torch.Tensor", r"use .detach\(\) first"),
    "device": (lambda: torch.ones(1, device="meta"), "torch.Tensor", r"lives on device 'meta'; use .cpu\(\) first"),
    "parameter": (
        lambda: torch.nn.Parameter(torch.ones(1)),
        "torch.nn.parameter.Parameter",
        "subclass of torch.Tensor",
    ),
    "cell of a class": (lambda: pd.DataFrame({"a": [Cell()]}), "pandas.", f"'{__name__}.Cell'; convert that"),
    "cell of a lock": (lambda: pd.Series([threading.Lock()]), "pandas.", "cannot be written"),
    "lock": (threading.Lock, "_thread.lock", "there is no codec"),
    "generator": (lambda: (n for n in [1]), "generator", "there is no codec"),
}

if torch is None:
    for name in ("sparse", "graph", "device", "parameter"):
        del REFUSED[name]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_form_as_bytes_is_refused_by_name(kind):
    """Objects, line 6: the type, and what to do."""
    make, type_name, why = REFUSED[kind]
    with pytest.raises(NoCodecError, match=why) as caught:
        pack(make())
    # What libraries call their classes changes between their versions.
    assert caught.value.type_name.startswith(type_name) or kind in ("lazy frame", "frame subclass")
    assert str(caught.value).startswith(f"an object of type '{caught.value.type_name}' has no form as bytes: ")


def test_a_class_that_only_claims_to_be_of_a_library_has_no_codec():
    """Objects: the name of a module is a claim."""
    for module in ("numpy", "pandas.core.frame", "torch", "no_such_library", None):
        kind = type("DataFrame", (), {})
        kind.__module__ = module
        assert codec_for(kind()) is None


# ---- damage


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("builtin")])
def test_buffers_that_are_cut_off_are_refused(kind):
    """Objects, line 6: sizes are compared before anything is read; never a crash, never fewer values."""
    value = KINDS[kind]()
    packed = pack(value)
    for place, buffer in enumerate(packed.buffers):
        data = bytes(buffer)
        for length in {length for length in (0, 1, len(data) // 2, len(data) - 1) if 0 <= length < len(data)}:
            cut = (*packed.buffers[:place], data[:length], *packed.buffers[place + 1 :])
            try:
                back = unpack(packed._replace(buffers=cut))
            except UnpackError:
                continue
            # The end of a stream of Arrow is a mark of its own, behind all that is in it.
            assert packed.codec in ("pyarrow", "polars")
            assert same(value, back)
    with pytest.raises(UnpackError):
        unpack(packed._replace(buffers=(*packed.buffers, b"more", b"and more")))


FLIPPER = """
import random, sys
from chainweaver.objects.codecs import Packed, UnpackError, pack, unpack
from chainweaver.objects import decode_plain, encode_plain
from tests.objects.values import FRAMES, POLARS, TABLES
rounds, chance = int(sys.argv[1]), random.Random(1)
refused = read = 0
for kinds in (FRAMES, POLARS, TABLES):
    for make in kinds.values():
        packed = pack(make())
        for _ in range(rounds):
            facts, buffers = dict(packed.facts), list(map(bytes, packed.buffers))
            if "frame" in facts:
                spot = chance.randrange(len(facts["frame"]))
                data = bytearray(facts["frame"])
                data[spot] ^= 1 << chance.randrange(8)
                facts["frame"] = bytes(data)
            elif len(buffers[0]) > 8:
                data = bytearray(buffers[0])
                # The head of a stream says what is in it; the values themselves have nothing to be compared with.
                spot = chance.randrange(8, min(len(data), 200))
                data[spot] ^= 1 << chance.randrange(8)
                buffers[0] = bytes(data)
            try:
                unpack(Packed(packed.codec, facts, tuple(buffers)))
                read += 1
            except UnpackError:
                refused += 1
print(refused, read)
"""


def test_a_flipped_bit_is_refused_or_read_and_nothing_crashes():
    """Objects, line 6: only UnpackError comes out; whoever stores bytes keeps a digest, which tells the rest."""
    rounds = "300" if PROOF else "20"
    done = subprocess.run(
        [sys.executable, "-c", FLIPPER, rounds],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    refused, _ = map(int, done.stdout.split())
    assert refused > 100


WRONG_FACTS = [
    ("numpy.ndarray", {"dtype": "<f8", "shape": (3,), "order": "C"}),
    ("numpy.ndarray", {"dtype": "<f8", "shape": (-1, -2), "order": "C"}),
    ("numpy.ndarray", {"dtype": "<f8", "shape": (2,), "order": "K"}),
    ("numpy.ndarray", {"dtype": "|O", "shape": (2,), "order": "C"}),
    ("numpy.ndarray", {"dtype": [("a", "|O")], "shape": (2,), "order": "C"}),
    ("numpy.ndarray", {"dtype": "nonsense", "shape": (2,), "order": "C"}),
    ("numpy.ndarray", {"dtype": ["<f8"], "shape": (2,), "order": "C"}),
    ("numpy.ndarray", {"shape": (2,), "order": "C"}),
    ("numpy.ndarray", {"dtype": "<f8", "shape": "ab", "order": "C"}),
    ("torch.Tensor", {"dtype": "load", "shape": (2,), "requires_grad": False}),
    ("torch.Tensor", {"dtype": "hub", "shape": (2,), "requires_grad": False}),
    ("torch.Tensor", {"dtype": "float64", "shape": (3,), "requires_grad": False}),
    ("torch.Tensor", {"dtype": "int64", "shape": (2,), "requires_grad": True}),
    ("torch.Tensor", {}),
    ("pyarrow", {"kind": "Table", "types": []}),
    ("pyarrow", {}),
    ("polars", {"kind": "DataFrame"}),
    ("pandas", {"frame": b""}),
    ("pandas", {"frame": "text"}),
    ("pandas", {}),
    ("no such codec", {}),
]


@pytest.mark.parametrize(("codec", "facts"), WRONG_FACTS)
def test_facts_that_do_not_belong_to_the_buffers_are_refused(codec, facts):
    """Objects, line 6: one error for all of them."""
    with (
        pytest.raises(UnpackError, match=codec.split(".")[0])
        if codec != "numpy.ndarray"
        else pytest.raises(UnpackError)
    ):
        unpack(Packed(codec, facts, (b"0123456789abcdef",)))


@pytest.mark.parametrize(
    ("value", "change"),
    [
        (pa.array([1]), {"kind": "Scalar"}),
        (pa.array([1]), {"kind": "Array", "types": ["string"]}),
        (pl.Series([1]), {"kind": "LazyFrame"}),
    ],
    ids=["kind", "types", "polars"],
)
def test_a_kind_that_the_content_is_not_is_refused(value, change):
    """Objects, line 6: what comes back is what the facts say, or nothing."""
    packed = pack(value)
    with pytest.raises(UnpackError):
        unpack(packed._replace(facts={**packed.facts, **change}))


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    """Objects: who unpacks needs the library, and is told so."""
    packed = pack(np.arange(3))
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(UnpackError, match=r"codec 'numpy.ndarray' needs numpy, which is not installed"):
        unpack(packed)


def test_looking_for_a_codec_imports_nothing():
    """Objects: nothing is imported that the program does not use."""
    code = (
        "import sys\nfrom chainweaver.objects.codecs import codec_for, pack, unpack\n"
        "assert codec_for(object()) is None and unpack(pack(b'abc')) == b'abc'\n"
        "print([name for name in ('numpy', 'pandas', 'polars', 'pyarrow', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


# ---- malice


class Calls:
    """Pickles as a call of a function, which is how a pickle runs code."""

    def __init__(self, function, *args):
        self.how = (function, args)

    def __reduce__(self):
        return self.how


def named(module, name, *args):
    """A pickle that calls a function by name, also where there is none."""
    lines = [f"c{module}\n{name}\n".encode(), b"("]
    lines += [b"V" + arg.encode() + b"\n" for arg in args]
    return b"".join(lines) + b"tR."


ATTACKS = {
    "os.system": named("os", "system", "touch {mark}"),
    "posix.system": named("posix", "system", "touch {mark}"),
    "subprocess": named("subprocess", "getoutput", "touch {mark}"),
    "eval": named("builtins", "eval", "open('{mark}', 'w')"),
    "exec": named("builtins", "exec", "open('{mark}', 'w')"),
    "open": named("builtins", "open", "{mark}", "w"),
    "import": named("builtins", "__import__", "os"),
    "getattr": b"cbuiltins\ngetattr\n(cpandas\nDataFrame\nVeval\ntR.",
    "getattr of a zone": b"cbuiltins\ngetattr\n(czoneinfo\nZoneInfo\nVfrom_file\ntR.",
    "read_pickle": named("pandas", "read_pickle", "{mark}"),
    "read_pickle elsewhere": named("pandas.io.pickle", "read_pickle", "{mark}"),
    "eval of pandas": named("pandas", "eval", "1"),
    "eval of frames": named("pandas", "DataFrame.eval", "1"),
    "dotted": named("pandas", "core.common.sys.modules"),
    "dotted in a listed module": named("pandas.core.frame", "sys.exit"),
    "not a listed module": named("pandas.io.common", "DataFrame"),
    "tests of pandas": named("pandas.tests.frame", "DataFrame"),
    "numpy.load": named("numpy", "load", "{mark}"),
    "numpy.fromfile": named("numpy", "fromfile", "{mark}"),
    "numpy.memmap": named("numpy", "memmap", "{mark}"),
    "numpy run": named("numpy.testing", "rundocs", "{mark}"),
    "objects over bytes": named("numpy", "ndarray"),
    "memory_map": named("pyarrow", "memory_map", "{mark}", "w"),
    "output file": named("pyarrow", "OSFile", "{mark}", "w"),
    "codec registry": named("codecs", "encode", "a", "rot13"),
    "partial": named("functools", "partial"),
    "persistent": b"P1\n.",
    "extension": b"\x82\x01.",
    "a change of a class": b"cpandas\nStringDtype\n(N}Vstorage\nI1\nstb.",
    "a change of a function": b"cpandas._libs.internals\n_unpickle_block\n}V__doc__\nI1\nsb.",
    "no frame": b"I1\n.",
    "nothing": b".",
    "dtype of pointers": b"cnumpy\ndtype\n(VO\ntR(I3\nV|\nNNNI-1\nI-1\nI0\ntb.",
    "dtype of dates without a unit": b"cnumpy\ndtype\n(VM8\ntR(I4\nV<\nNNNI-1\nI-1\nI0\ntb.",
    "fewer objects than the shape says": (
        b"cnumpy\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR(I1\n(I1000000\nt"
        b"cnumpy\ndtype\n(VO8\ntR(I3\nV|\nNNNI-1\nI-1\nI63\ntbI00\n]tb."
    ),
    "dtype with fields": b"cnumpy\ndtype\n(Vi8\ntR(I3\nV<\nN(Va\nt}Va\n(cnumpy\ndtype\n(Vi8\ntRI999\ntsI8\nI8\nI0\ntb.",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_description_that_could_run_code_is_refused_before_anything_runs(attack, tmp_path):
    """R34, objects: the list of names is closed; what it names cannot be changed."""
    mark = tmp_path / "mark"
    before = repr(pd.StringDtype("python"))

    with pytest.raises(UnpackError):
        unpack(Packed("pandas", {"frame": ATTACKS[attack].replace(b"{mark}", str(mark).encode())}, ()))

    assert not mark.exists()
    assert repr(pd.StringDtype("python")) == before


def test_an_attack_that_is_written_by_pickle_itself_is_refused(tmp_path):
    """R34, objects: the same, in the words of pickle and inside of a frame."""
    import os

    frame = pd.DataFrame({"a": [Calls(os.mkdir, str(tmp_path / "mark"))]})
    buffers: list = []
    data = pickle.dumps(frame, protocol=5, buffer_callback=lambda one: buffers.append(one.raw()))

    with pytest.raises(UnpackError, match=r"'posix.mkdir' is not on the list|'nt.mkdir'"):
        unpack(Packed("pandas", {"frame": data}, tuple(buffers)))
    with pytest.raises(NoCodecError, match="mkdir"):
        pack(frame)

    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_are_no_frame(seed):
    """R34, objects: whatever they are."""
    chance = random.Random(seed)
    for _ in range(200):
        data = b"\x80\x05" + chance.randbytes(chance.randrange(60))
        with pytest.raises(UnpackError):
            unpack(Packed("pandas", {"frame": data}, ()))
