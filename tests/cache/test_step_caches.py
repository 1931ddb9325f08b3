"""Step caches: what comes out is what went in, shared with nobody; bounds, damage, refusals."""

import json
import threading
from decimal import Decimal

import pytest
from pydantic import BaseModel

from chainweaver.cache import FileStepCache, InMemoryStepCache, StepCache, StepCacheKey, Uncacheable

KEY = StepCacheKey("add", "0f3a", "77c1")
OTHER = StepCacheKey("add", "0f3a", "77c2")


@pytest.fixture(params=["memory", "file"])
def cache(request, tmp_path):
    return InMemoryStepCache() if request.param == "memory" else FileStepCache(tmp_path / "steps")


def test_a_key_is_immutable_hashable_and_has_a_digest():
    """R29: equal parts, equal keys."""
    assert StepCacheKey("a", "b", "c") == StepCacheKey("a", "b", "c")
    assert len({StepCacheKey("a", "b", "c"), StepCacheKey("a", "b", "c"), StepCacheKey("a", "b", "d")}) == 2
    assert StepCacheKey("a", "b", "c").digest == "a|b|c"
    with pytest.raises(AttributeError):
        KEY.tool_name = "other"  # type: ignore[misc]  # that it is refused is the point


def test_every_store_follows_the_protocol(cache):
    """R29: the executor knows the protocol only."""
    assert isinstance(cache, StepCache)


def test_what_was_set_is_what_is_got(cache):
    """R30: values and types."""
    output = {"total": 3, "rows": [{"a": (1, Decimal("1.5"))}], "raw": b"\0\n"}
    assert cache.get(KEY) is None

    cache.set(KEY, output)

    assert cache.get(KEY) == output
    assert type(cache.get(KEY)["rows"][0]["a"]) is tuple
    assert cache.get(OTHER) is None
    assert len(cache) == 1


@pytest.mark.parametrize("output", [{"n": 1}, {"rows": [{"a": [1]}]}], ids=["flat", "deep"])
def test_neither_a_hit_nor_the_stored_object_is_shared(cache, output):
    """R30: changing a hit, or what was stored, does not change the next hit."""
    expected = json.loads(json.dumps(output))
    cache.set(KEY, output)
    for taken in (output, cache.get(KEY), cache.get(KEY)):
        for value in taken.values():
            if isinstance(value, list):
                value[0]["a"].append(99)
        taken["more"] = 1
    assert cache.get(KEY) == expected


def test_a_second_set_replaces_the_first(cache):
    """R29: one entry per key."""
    cache.set(KEY, {"n": 1})
    cache.set(KEY, {"n": 2})
    assert (cache.get(KEY), len(cache)) == ({"n": 2}, 1)


def test_clear_forgets_everything(cache):
    """R30: bounds by hand."""
    cache.set(KEY, {"n": 1})
    cache.clear()
    assert (cache.get(KEY), len(cache)) == (None, 0)


def test_what_cannot_be_copied_is_refused_with_a_reason(cache):
    """R30: not stored, and the older entry stays."""
    cache.set(KEY, {"n": 1})
    with pytest.raises(Uncacheable, match=r"value 'guard' of type '(lock|list)' cannot be") as caught:
        cache.set(KEY, {"guard": [threading.Lock()]})
    assert caught.value.reason == str(caught.value)
    assert cache.get(KEY) == {"n": 1}


def test_models_are_kept_live_in_memory():
    """R30: copied, not rebuilt."""

    class Point(BaseModel):
        xs: list[int]

    cache = InMemoryStepCache()
    point = Point(xs=[1])
    cache.set(KEY, {"p": point})
    point.xs.append(2)
    hit = cache.get(KEY)
    assert hit == {"p": Point(xs=[1])}
    hit["p"].xs.append(3)
    assert cache.get(KEY) == {"p": Point(xs=[1])}


def test_the_entry_unused_for_longest_goes_first():
    """R30: bounded by size."""
    cache = InMemoryStepCache(max_entries=2)
    first, second, third = (StepCacheKey("t", "s", str(n)) for n in range(3))
    cache.set(first, {"n": 1})
    cache.set(second, {"n": 2})
    cache.get(first)
    cache.set(third, {"n": 3})
    assert [cache.get(key) is not None for key in (first, second, third)] == [True, False, True]
    assert len(cache) == 2


def test_an_entry_is_served_until_its_time_is_over():
    """R30: bounded by age, by the clock that is given."""
    now = 100.0
    cache = InMemoryStepCache(ttl_seconds=10, clock=lambda: now)
    cache.set(KEY, {"n": 1})
    now = 109.9
    assert cache.get(KEY) == {"n": 1}
    now = 110.0
    assert (cache.get(KEY), len(cache)) == (None, 0)


@pytest.mark.parametrize("bounds", [{"max_entries": 0}, {"ttl_seconds": 0}, {"ttl_seconds": -1.0}])
def test_bounds_have_to_be_positive(bounds):
    """R30: a bound that keeps nothing is a mistake."""
    with pytest.raises(ValueError, match="must be"):
        InMemoryStepCache(**bounds)


def test_threads_see_whole_entries_and_bounds_hold():
    """R30: safe from many threads."""
    cache = InMemoryStepCache(max_entries=4, ttl_seconds=60)
    wrong = []

    def work(seed):
        for turn in range(300):
            key = StepCacheKey("t", "s", str((seed + turn) % 8))
            cache.set(key, {"k": key.input_value_hash, "again": [key.input_value_hash]})
            hit = cache.get(key)
            if hit is not None and (hit["k"] != key.input_value_hash or hit["again"] != [hit["k"]]):
                wrong.append(hit)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(cache) <= 4


def the_file(root):
    [path] = root.iterdir()
    return path


def test_a_file_survives_the_object_that_wrote_it(tmp_path):
    """R29: the next process hits."""
    FileStepCache(tmp_path).set(KEY, {"n": 1})
    assert FileStepCache(tmp_path).get(KEY) == {"n": 1}
    assert json.loads(the_file(tmp_path).read_text())["output"] == {"n": 1}


def test_a_file_cut_anywhere_is_a_miss_and_is_removed(tmp_path):
    """R34: truncated files are not trusted."""
    cache = FileStepCache(tmp_path)
    cache.set(KEY, {"name": "Ada", "n": 1})
    whole = the_file(tmp_path).read_bytes()
    for length in range(len(whole)):
        (tmp_path / cache._path(KEY).name).write_bytes(whole[:length])
        assert cache.get(KEY) is None
        assert len(cache) == 0


def test_a_file_with_one_changed_byte_is_a_miss(tmp_path):
    """R34: a changed value is not served, however well it parses."""
    cache = FileStepCache(tmp_path)
    cache.set(KEY, {"name": "Ada", "n": 1})
    path = the_file(tmp_path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert cache.get(KEY) is None


def test_a_file_of_another_key_is_a_miss(tmp_path):
    """R29: a moved file does not answer for what it was not made for."""
    cache = FileStepCache(tmp_path)
    cache.set(KEY, {"n": 1})
    the_file(tmp_path).rename(cache._path(OTHER))
    assert cache.get(OTHER) is None


def test_odd_tool_names_and_values_make_good_files(tmp_path):
    """R29: names are hashed."""
    cache = FileStepCache(tmp_path)
    for name in ("../../etc/passwd", "a" * 5_000, "con", "\ud800", "a|b", 'x","output":{}'):
        key = StepCacheKey(name, "h", "i")
        cache.set(key, {"name": name})
        assert cache.get(key) == {"name": name}
    assert len(cache) == 6


def test_clear_removes_leftovers_and_nothing_else(tmp_path):
    """R30: the directory may hold other files."""
    cache = FileStepCache(tmp_path)
    cache.set(KEY, {"n": 1})
    (tmp_path / ".abc.step.json.tmp").write_text("half")
    (tmp_path / "notes.txt").write_text("keep")
    cache.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failed_write_leaves_the_old_entry_and_no_temporary_file(tmp_path, monkeypatch):
    """R30: an entry appears whole or not at all."""
    cache = FileStepCache(tmp_path, fsync=True)
    cache.set(KEY, {"n": 1})

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        cache.set(KEY, {"n": 2})
    assert cache.get(KEY) == {"n": 1}
    assert len(list(tmp_path.iterdir())) == 1
