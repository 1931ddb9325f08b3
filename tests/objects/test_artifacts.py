"""Artifacts: objects beside the JSON of checkpoints and cache entries; damage, crashes, and what is left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import BaseModel, ConfigDict, SecretStr

from chainweaver import ArtifactCorruptError, CheckpointEncodeError, Native
from chainweaver.cache import FileStepCache, StepCacheKey, Uncacheable
from chainweaver.checkpoint import ExecutionSnapshot, FileCheckpointer, StepDelta
from chainweaver.objects import bind_reduce, bind_restore
from tests.conftest import PROOF
from tests.objects.test_codecs import KINDS
from tests.objects.values import memmap, same, torch

KEY = StepCacheKey("load", "0f3a", "77c1")
RUN = "9f3c"
ROWS = 20_000  # of 8 bytes: more than what the JSON takes

LARGE = {
    "array": lambda: np.arange(ROWS, dtype=float),
    "Fortran": lambda: np.asfortranarray(np.arange(ROWS * 2.0).reshape(-1, 2)),
    "frame": lambda: pd.DataFrame({"a": range(ROWS), "s": ["x"] * ROWS, "c": pd.Categorical(["k"] * ROWS)}),
    "table": lambda: pa.table({"a": range(ROWS)}).slice(5),
    "polars": lambda: pl.DataFrame({"a": range(ROWS)}),
    "tensor": lambda: torch.arange(ROWS, dtype=torch.bfloat16).reshape(2, -1).repeat(4, 1),
    "bytes": lambda: bytes(ROWS * 8),
    "bytearray": lambda: bytearray(ROWS * 8),
}
if torch is None:
    del LARGE["tensor"]


def a_run(store, value=None):
    """A run whose input is `value`, where there is one."""
    store.save(
        ExecutionSnapshot(
            trace_id=RUN,
            flow_name="f",
            flow_version="1",
            initial_input={} if value is None else {"given": value},
            started_at=datetime(2024, 5, 1, tzinfo=timezone.utc),
        )
    )
    return store


def a_step(outputs, index=0):
    return StepDelta(index, f"step{index}", "load", "5d1e", "ok", outputs)


def through_checkpoint(value, root):
    store = a_run(FileCheckpointer(root, fsync=False))
    store.append(RUN, a_step({"value": value}))
    outputs = FileCheckpointer(root).load(RUN).steps[0].outputs
    assert outputs is not None
    return outputs["value"]


def through_cache(value, root):
    FileStepCache(root).set(KEY, {"value": value})
    output = FileStepCache(root).get(KEY)
    assert output is not None
    return output["value"]


STORES = pytest.mark.parametrize("through", [through_checkpoint, through_cache], ids=["checkpoint", "cache"])


@STORES
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_object_comes_back_equal_from_a_file_store(kind, through, tmp_path):
    """Objects, line 6: the matrix of codecs, through checkpoints and cache entries."""
    value = KINDS[kind]()
    assert same(value, through(value, tmp_path))


@STORES
@pytest.mark.parametrize("kind", LARGE)
def test_large_objects_lie_beside_the_json_and_come_back_equal(kind, through, tmp_path):
    """Objects, line 6, R31: the JSON stays small, and the bytes are written once and not as text."""
    value = LARGE[kind]()

    assert same(value, through(value, tmp_path))

    [artifact] = tmp_path.rglob("*.artifact")
    [entry] = [path for path in tmp_path.iterdir() if path.is_file()]
    assert entry.stat().st_size < 2_000
    assert artifact.stat().st_size <= 1.2 * ROWS * 17


def test_a_mapped_array_is_kept_as_an_array(tmp_path):
    """Objects, line 6: what is kept does not depend on a file of the user."""
    assert same(memmap(tmp_path), through_cache(memmap(tmp_path), tmp_path / "steps"))


@STORES
def test_objects_in_containers_of_every_sort_come_back(through, tmp_path):
    """R30, R34: lists, tuples, dicts, beside plain values."""
    value = {"deep": [(np.arange(3), {"big": np.arange(ROWS)}), b"x" * 100_000, 1.5], "scalar": np.float32(1.5)}

    back = through(value, tmp_path)

    assert same(back["deep"][0][0], np.arange(3))
    assert same(back["deep"][0][1]["big"], np.arange(ROWS))
    assert (back["deep"][1:], back["scalar"], type(back["scalar"])) == ([b"x" * 100_000, 1.5], 1.5, np.float32)


@dataclass
class Part:
    weights: np.ndarray
    label: str


class Fit(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    frame: pd.DataFrame
    table: Native[pa.Table]
    parts: list[Part]
    either: np.ndarray | Part
    more: dict[str, Any]


class Holds(BaseModel):
    fit: Fit


def test_objects_in_typed_fields_come_back_with_the_types_around_them(tmp_path):
    """R30, R34: models, dataclasses, unions; the types come from the flow, the content from the file."""
    part = Part(np.arange(3), "a")
    for either in (np.arange(ROWS), part):
        fit = Fit(
            frame=pd.DataFrame({"a": [1]}), table=pa.table({"a": [1]}), parts=[part], either=either, more={"x": 1}
        )
        plain = bind_reduce(Holds)({"fit": fit})

        back = bind_restore(Holds)({"fit": through_cache(plain["fit"], tmp_path)})["fit"]

        assert type(back) is Fit
        assert same(fit.frame, back.frame)
        assert same(fit.table, back.table)
        assert (type(back.parts[0]), back.parts[0].label) == (Part, "a")
        assert same(part.weights, back.parts[0].weights)
        assert type(back.either) is type(either)
        assert same(np.asarray(getattr(back.either, "weights", back.either)), getattr(either, "weights", either))


@STORES
def test_what_is_handed_out_can_be_changed_and_the_store_does_not_change(through, tmp_path):
    """R30: a hit behaves like what the tool returned, and shares nothing with the next one."""
    for make in (LARGE["array"], lambda: np.arange(3.0)):
        root = tmp_path / str(make().size)
        back = through(make(), root)
        back += 1
        if through is through_cache:
            again = FileStepCache(root).get(KEY)["value"]
        else:
            again = FileCheckpointer(root).load(RUN).steps[0].outputs["value"]
        assert same(again, make())


@STORES
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (np.array([object()]), "dtype object holds Python objects; give it a type of its own"),
        (pl.LazyFrame({"a": [1]}), r"a lazy frame has no values yet; collect\(\) it first"),
        (pd.DataFrame({"a": [SecretStr("s")]}), "SecretStr'; convert that column"),
        ([SecretStr("s")], "secrets are not written to a store without a cipher"),
        (object(), "objects of this type have no plain form"),
    ],
    ids=["objects", "lazy", "secret in a frame", "secret", "object"],
)
def test_what_has_no_codec_is_refused_by_name_and_nothing_is_written(value, why, through, tmp_path):
    """R34, R39: the key, the type, the reason; no artifact of its neighbours either."""
    with pytest.raises((CheckpointEncodeError, Uncacheable), match=why) as caught:
        through({"fine": np.arange(ROWS), "bad": value}, tmp_path)
    assert "'value'" in str(caught.value)
    assert not list(tmp_path.rglob("*.artifact*"))


def test_an_input_that_has_no_codec_is_refused_by_its_key(tmp_path):
    """R34: the input of a run is stored like an output."""
    store = FileCheckpointer(tmp_path)
    with pytest.raises(CheckpointEncodeError, match=r"Input 'given' of flow 'f' .*Python objects"):
        a_run(store, np.array([object()]))
    a_run(store, np.arange(ROWS))
    assert same(store.load(RUN).initial_input["given"], np.arange(ROWS))


def test_one_object_in_many_steps_is_written_once(tmp_path):
    """R31: files are named after their content."""
    store = a_run(FileCheckpointer(tmp_path, fsync=False), np.arange(ROWS))
    for index in range(3):
        store.append(RUN, a_step({"value": np.arange(ROWS)}, index))
    assert len(list(tmp_path.rglob("*.artifact"))) == 1
    assert store.load(RUN).completed_steps == 3


# ---- damage


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"\0")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


DAMAGE = {
    "cut": (cut, "it has .* bytes, not what its entry says"),
    "longer": (lengthen, "it has .* bytes, not what its entry says"),
    "empty": (empty, "it has 0 bytes, not what its entry says"),
    "flipped": (flip, "its digest does not match"),
    "missing": (Path.unlink, "it is missing"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_artifact_of_a_checkpoint_is_named_with_its_step(damage, tmp_path):
    """Objects, line 6: ArtifactCorruptError with the file, the step and the line that need it."""
    store = a_run(FileCheckpointer(tmp_path, fsync=False))
    store.append(RUN, a_step({"n": 1}))
    store.append(RUN, a_step({"value": np.arange(ROWS)}, 1))
    [artifact] = tmp_path.rglob("*.artifact")
    do, told = DAMAGE[damage]

    do(artifact)

    with pytest.raises(ArtifactCorruptError, match=told) as caught:
        store.load(RUN)
    assert caught.value.artifact == str(artifact)
    assert f"; step 'step1' (tool 'load') needs it (line 3 of '{tmp_path / '9f3c.checkpoint'}')." in str(caught.value)


def test_a_damaged_artifact_of_an_input_is_named_as_such(tmp_path):
    """Objects, line 6: the input belongs to no step."""
    store = a_run(FileCheckpointer(tmp_path, fsync=False), np.arange(ROWS))
    flip(next(tmp_path.rglob("*.artifact")))
    with pytest.raises(ArtifactCorruptError, match="the input of the run needs it"):
        store.load(RUN)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_artifact_of_a_cache_entry_is_a_miss_and_goes(damage, tmp_path):
    """Objects, line 6: nothing of the entry is left, and the next one is whole."""
    cache = FileStepCache(tmp_path)
    cache.set(KEY, {"value": np.arange(ROWS)})

    DAMAGE[damage][0](next(tmp_path.rglob("*.artifact")))

    assert cache.get(KEY) is None
    assert not list(tmp_path.iterdir())
    cache.set(KEY, {"value": np.arange(ROWS)})
    assert same(cache.get(KEY)["value"], np.arange(ROWS))


def test_an_artifact_is_not_found_outside_of_its_folder(tmp_path):
    """R34: a name is a digest and no path."""
    from chainweaver.objects.artifacts import Artifacts
    from chainweaver.objects.plain import PlainDecodeError

    artifacts = Artifacts(tmp_path / "entry.objects", fsync=False)
    for name in ("../" + "0" * 40, "/etc/passwd", "0" * 41, "0" * 39 + "\n", 5):
        with pytest.raises(PlainDecodeError, match="not the name of an artifact"):
            artifacts.fetch("bytes", name, [2, 10])


def test_an_artifact_that_lies_under_the_name_of_another_is_damaged(tmp_path):
    """R34: bytes of equal length are not what the entry says, however whole they are."""
    store = a_run(FileCheckpointer(tmp_path, fsync=False))
    store.append(RUN, a_step({"value": np.zeros(ROWS)}))
    store.append(RUN, a_step({"value": np.ones(ROWS)}, 1))
    one, other = tmp_path.rglob("*.artifact")
    one.write_bytes(other.read_bytes())
    with pytest.raises(ArtifactCorruptError, match="its digest does not match"):
        store.load(RUN)


def test_a_library_that_is_not_installed_is_named(tmp_path, monkeypatch):
    """Objects: the process that resumes needs the libraries of the one that began."""
    store = a_run(FileCheckpointer(tmp_path, fsync=False))
    store.append(RUN, a_step({"value": np.arange(ROWS)}))
    cache = FileStepCache(tmp_path / "steps")
    cache.set(KEY, {"value": np.arange(3)})
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ArtifactCorruptError, match="needs numpy, which is not installed"):
        store.load(RUN)
    assert cache.get(KEY) is None


# ---- what is left behind


def test_an_entry_takes_its_artifacts_with_it(tmp_path):
    """R30: replaced, cleared."""
    cache = FileStepCache(tmp_path)
    cache.set(KEY, {"value": np.arange(ROWS)})
    cache.set(KEY, {"value": np.ones(ROWS)})
    assert len(list(tmp_path.rglob("*.artifact"))) == 1
    assert len(cache) == 1
    cache.set(KEY, {"value": 1})
    assert not list(tmp_path.rglob("*.artifact"))
    cache.set(KEY, {"value": np.ones(ROWS)})
    cache.clear()
    assert not list(tmp_path.iterdir())


def test_a_run_takes_its_artifacts_with_it(tmp_path):
    """R31: saved anew, deleted; those of other runs stay."""
    store = a_run(FileCheckpointer(tmp_path), np.arange(ROWS))
    store.append(RUN, a_step({"value": np.ones(ROWS)}))
    store.save(store.load(RUN).model_copy(update={"trace_id": f"{RUN}.objects"}))
    assert len(list(tmp_path.rglob("*.artifact"))) == 4

    a_run(store, np.arange(ROWS))
    assert len(list(tmp_path.rglob("*.artifact"))) == 3
    store.delete(RUN)
    assert same(store.load(f"{RUN}.objects").initial_input["given"], np.arange(ROWS))
    store.delete(f"{RUN}.objects")
    assert not list(tmp_path.iterdir())


def test_leftovers_of_writers_that_died_go_when_they_are_cleared(tmp_path):
    """R31: files that nobody names, unfinished ones, and folders without a run; all that is needed stays."""
    store = a_run(FileCheckpointer(tmp_path), np.arange(ROWS))
    folder = tmp_path / f"{RUN}.objects"
    (folder / f"{'0' * 40}.artifact").write_bytes(b"before its line was written")
    (folder / ".x.artifact.tmp").write_bytes(b"half")
    (tmp_path / "gone.objects").mkdir()
    (tmp_path / "gone.objects" / f"{'0' * 40}.artifact").write_bytes(b"of a run that was never saved")
    (tmp_path / "notes.objects").mkdir()
    (tmp_path / "notes.objects" / "mine.txt").write_text("keep")

    store.clear_leftovers()

    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{RUN}.checkpoint", f"{RUN}.objects", "notes.objects"]
    assert [path.name for path in (tmp_path / "notes.objects").iterdir()] == ["mine.txt"]
    assert len(list(folder.iterdir())) == 1
    assert same(store.load(RUN).initial_input["given"], np.arange(ROWS))


def test_a_cleared_cache_keeps_nothing_of_writers_that_died(tmp_path):
    """R30: an artifact without an entry, and one that is half written."""
    cache = FileStepCache(tmp_path)
    folder = tmp_path / f"{cache._path(KEY).name.removesuffix('.json')}.objects"
    folder.mkdir()
    (folder / f"{'0' * 40}.artifact").write_bytes(b"before its entry was written")
    (folder / ".x.artifact.tmp").write_bytes(b"half")
    assert cache.get(KEY) is None
    cache.clear()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_a_write_that_fails_leaves_what_was_there(failing, tmp_path, monkeypatch):
    """R30, R31: wherever the disk is full, the older entry and the run are whole and nothing new is left."""
    cache = FileStepCache(tmp_path / "steps", fsync=True)
    cache.set(KEY, {"value": np.arange(ROWS)})
    store = a_run(FileCheckpointer(tmp_path / "runs"))
    store.append(RUN, a_step({"value": np.arange(ROWS)}))
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    real, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) >= failing:
            raise OSError(28, "No space left on device")
        return real(handle)

    for name in ("fsync", "fdatasync"):
        if hasattr(os, name):
            monkeypatch.setattr(os, name, full)
    monkeypatch.setattr("chainweaver.checkpoint.file._sync", full)
    new = {"a": np.ones(ROWS), "b": np.zeros(ROWS)}
    with pytest.raises(OSError, match="No space"):
        cache.set(KEY, new)
    calls.clear()
    with pytest.raises(OSError, match="No space"):
        store.append(RUN, a_step(new, 1))
    monkeypatch.undo()

    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before
    assert same(cache.get(KEY)["value"], np.arange(ROWS))
    assert len(store.load(RUN).steps) == 1


# ---- kill -9

KILLS = 50 if PROOF else 5

WRITER = """
import sys
import threading
import numpy as np
from datetime import datetime, timezone
from chainweaver.cache import FileStepCache, StepCacheKey
from chainweaver.checkpoint import ExecutionSnapshot, FileCheckpointer, StepDelta
store, cache, run = FileCheckpointer(sys.argv[1], fsync=False), FileStepCache(sys.argv[2]), sys.argv[3]
if run not in store.list_trace_ids():
    store.save(ExecutionSnapshot(trace_id=run, flow_name="f", flow_version="1", initial_input={"x": np.full(9_000, -1)},
                                 started_at=datetime(2024, 5, 1, tzinfo=timezone.utc)))
index = len(store.load(run).steps)
print("begun", flush=True)
while True:
    values = {"x": np.full(40_000, index), "raw": bytes([index % 256]) * 70_000}
    store.append(run, StepDelta(index, f"step{index}", "t", "f", "ok", values))
    cache.set(StepCacheKey("t", "f", str(index % 7)), values)
    print(index, flush=True)
    index += 1
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_writer_that_is_killed_leaves_nothing_that_reads_wrong(tmp_path):
    """Objects, line 6, R32: whatever can be read is whole, whatever was told is there, and leftovers can be removed."""
    chance = random.Random(1)
    runs, steps = tmp_path / "runs", tmp_path / "steps"
    last = -1  # of the steps that are known to be committed
    for kill in range(KILLS):
        run = f"run{kill // 5}"
        last = last if kill % 5 else -1
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(runs), str(steps), run],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(chance.random() * 0.02)
        child.kill()
        lines = [first, *child.stdout]
        child.stdout.close()
        child.wait()
        last = max([last, *(int(line) for line in lines if line.endswith("\n") and line != "begun\n")])

        store = FileCheckpointer(runs)
        found = store.load(run).steps
        assert last < len(found) <= last + 2
        last = len(found) - 1
        for index, step in enumerate(found):
            assert same(step.outputs["x"], np.full(40_000, index))
            assert step.outputs["raw"] == bytes([index % 256]) * 70_000
        for place in range(7):
            hit = FileStepCache(steps).get(StepCacheKey("t", "f", str(place)))
            if hit is not None:
                assert hit["x"][0] % 7 == place
                assert same(hit["x"], np.full(40_000, hit["x"][0]))
                assert hit["raw"] == bytes([int(hit["x"][0]) % 256]) * 70_000

    store.clear_leftovers()
    for trace_id in store.list_trace_ids():
        named = 1 + 2 * len(store.load(trace_id).steps)
        assert len(list((runs / f"{trace_id}.objects").iterdir())) <= named
        store.delete(trace_id)
    FileStepCache(steps).clear()
    assert [*runs.iterdir(), *steps.iterdir()] == []


def test_writers_and_readers_of_one_entry_do_not_get_into_each_others_way(tmp_path):
    """R30: an entry is there whole or not at all, whoever works on the same directory; nobody fails."""
    wrong: list[Any] = []

    def work(seed):
        chance, cache = random.Random(seed), FileStepCache(tmp_path)
        try:
            for _ in range(40):
                what = chance.random()
                if what < 0.1:
                    cache.set(KEY, {"x": np.full(1, seed), "y": np.full(1, seed)})
                elif what < 0.5:
                    cache.set(KEY, {"x": np.full(10_000, seed), "y": np.full(9_000, seed)})
                else:
                    hit = cache.get(KEY)
                    if hit is not None and {*hit["x"], *hit["y"]} != {hit["x"][0]}:
                        wrong.append(hit)
        except Exception as exc:
            wrong.append(exc)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    FileStepCache(tmp_path).clear()
    assert not list(tmp_path.iterdir())


# ---- the matrix


def a_cycle():
    inside: list[Any] = []
    inside.append(inside)
    return inside


KEPT = {
    "None": None,
    "bool": True,
    "int": 2**70,
    "float": float("inf"),
    "complex": 1 - 2j,
    "str": "a\ud83d",
    "bytes": b"\0a",
    "bytearray": bytearray(b"a"),
    "list": [1, [2]],
    "tuple": (1, (2,)),
    "dict": {1: {"a": (None,)}},
    "set": {1, "a"},
    "frozenset": frozenset({1}),
    "everything": {name: make() for name, make in KINDS.items()},
}
NAMED = {
    "range": (range(3), "range"),
    "slice": (slice(1), "slice"),
    "memoryview": (memoryview(b"a"), "memoryview"),
    "ellipsis": (..., "ellipsis"),
    "lambda": (lambda: 1, "function"),
    "class": (Fit, "ModelMetaclass"),
    "cycle": (a_cycle(), "contains itself"),
    "objects": (np.array([object()]), "numpy.ndarray"),
    "lazy frame": (pl.LazyFrame({"a": [1]}), "LazyFrame"),
    "everything and a lock": ([{name: make() for name, make in KINDS.items()}, threading.Lock()], "lock"),
}


def is_same(one, other):
    if isinstance(one, dict):
        return list(one) == list(other) and all(is_same(one[key], other[key]) for key in one)
    return same(one, other)


@STORES
@pytest.mark.parametrize("kind", KEPT)
def test_what_is_plain_or_has_a_codec_comes_back_equal(kind, through, tmp_path):
    """Objects, line 6: builtin types, and a dict of every object there is."""
    assert is_same(KEPT[kind], through(KEPT[kind], tmp_path))


@STORES
@pytest.mark.parametrize("kind", NAMED)
def test_all_else_is_refused_by_name(kind, through, tmp_path):
    """Objects, line 6: never written as something else."""
    value, name = NAMED[kind]
    with pytest.raises((CheckpointEncodeError, Uncacheable), match=name):
        through(value, tmp_path)
    assert not list(tmp_path.rglob("*.artifact*"))
