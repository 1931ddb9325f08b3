"""The contract of step caches: what comes out is what went in, shared with nobody.

Subclassed by the tests of stores; the protocol is `chainweaver.cache.StepCache`.
"""

from __future__ import annotations

import threading
from copy import deepcopy
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from chainweaver.cache import StepCache, StepCacheKey, Uncacheable
from chainweaver.testing.conformance.contract import StoreContract, at_once, refused, succeeds

KEY = StepCacheKey("add", "0f3a", "77c1")

PLAIN: dict[str, Any] = {
    "total": 3,
    "large": 2**70,
    "ratio": 0.1,
    "yes": True,
    "nothing": None,
    "text": "Größe 10 €\n\0",
    "raw": b"\0\xff\n",
    "pair": (1, Decimal("1.50")),
    "rows": [{"a": [1, {"b": ()}]}, {}],
    "tags": {"x", "y"},
    "when": datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=timezone.utc),
    "day": date(2024, 2, 29),
    "span": timedelta(days=1, microseconds=1),
    "id": UUID(int=1),
}
"""One value of most types that a store has to keep."""


class Kept(BaseModel):
    """A value that only a store of live objects has to keep as it is."""

    xs: list[int]


def an_entry(number: int) -> dict[str, Any]:
    """Outputs that follow from a number; some of them are long."""
    return {"n": number, "rows": [number] * (number % 50), "raw": bytes([number % 251]) * (number % 5 * 300)}


def set_one(store: Any, number: int) -> None:
    """Keep one more entry, as a process does that is to be killed."""
    store.set(KEY._replace(input_value_hash=str(number)), an_entry(number))


class StepCacheConformance(StoreContract):
    """What every step cache does. Override `make_store`, and `reopen_store` where entries outlive the object.

    >>> from chainweaver.cache import InMemoryStepCache
    >>> class TestMine(StepCacheConformance):
    ...     def make_store(self):
    ...         return InMemoryStepCache()
    >>> TestMine().test_a_second_set_replaces_the_first()
    """

    def test_the_store_follows_the_protocol(self) -> None:
        """The executor knows the protocol only."""
        with self.opened() as store:
            assert isinstance(store, StepCache), f"{type(store).__name__} has to have get, set and clear"

    def test_an_unknown_key_is_a_miss(self) -> None:
        """A miss is None, never an error."""
        with self.opened() as store:
            assert store.get(KEY) is None, "an empty store has no entry"

    def test_what_was_set_is_what_is_got(self) -> None:
        """Values, their types, and the order of the keys."""
        with self.opened() as store:
            store.set(KEY, deepcopy(PLAIN))
            hit = store.get(KEY)
            assert hit is not None, "what was set has to be there"
            assert hit == PLAIN, "a hit equals what was set"
            assert list(hit) == list(PLAIN), "a hit has its keys in the order in which they were set"
            for name, value in PLAIN.items():
                assert type(hit[name]) is type(value), f"'{name}' was set as {type(value).__name__}"
            assert type(hit["pair"][1]) is Decimal, "types inside of containers are kept"
            assert type(hit["rows"][0]["a"][1]["b"]) is tuple, "types deep inside are kept"

    def test_empty_outputs_are_a_hit(self) -> None:
        """A tool without outputs is not called again."""
        with self.opened() as store:
            store.set(KEY, {})
            assert store.get(KEY) == {}, "an entry without outputs is an entry"

    def test_each_part_of_the_key_counts(self) -> None:
        """Tool, version and inputs."""
        with self.opened() as store:
            store.set(KEY, {"n": 1})
            for part in StepCacheKey._fields:
                other = KEY._replace(**{part: "other"})
                assert store.get(other) is None, f"another {part} is another key"

    def test_odd_names_are_keys_like_others(self) -> None:
        """Names of tools are nobody's file names."""
        with self.opened() as store:
            names = ["", " ", "../../etc/passwd", "a/b", "a\\b", "a\nb", "ä€", "x" * 5_000, "con", "*", "%s", "a|b"]
            for name in names:
                store.set(StepCacheKey(name, "h", "i"), {"name": name})
            for name in names:
                assert store.get(StepCacheKey(name, "h", "i")) == {"name": name}, f"the tool name {name[:20]!r}"

    def test_a_second_set_replaces_the_first(self) -> None:
        """One entry per key."""
        with self.opened() as store:
            store.set(KEY, {"n": 1, "m": 1})
            store.set(KEY, {"n": 2})
            assert store.get(KEY) == {"n": 2}, "the last one counts, and nothing of the first is left"

    def test_a_hit_is_shared_with_nobody(self) -> None:
        """Changing a hit does not change the next one."""
        with self.opened() as store:
            store.set(KEY, {"rows": [{"a": [1]}], "n": 1})
            for _ in range(2):
                hit = store.get(KEY)
                hit["rows"][0]["a"].append(99)
                hit["rows"].append({})
                hit["more"] = 1
            assert store.get(KEY) == {"rows": [{"a": [1]}], "n": 1}, "a hit belongs to the caller"

    def test_what_is_kept_is_shared_with_nobody(self) -> None:
        """Changing what was set does not change the entry."""
        with self.opened() as store:
            outputs: tuple[dict[str, Any], ...] = ({"n": 1}, {"rows": [{"a": [1]}]})
            for output in outputs:
                kept = deepcopy(output)
                store.set(KEY, output)
                output["more"] = 1
                for value in output.values():
                    if isinstance(value, list):
                        value[0]["a"].append(99)
                assert store.get(KEY) == kept, "the caller may go on with what it has set"

    def test_clear_forgets_everything(self) -> None:
        """And the store goes on working."""
        with self.opened() as store:
            other = KEY._replace(tool_name="other")
            store.set(KEY, {"n": 1})
            store.set(other, {"n": 1})
            store.clear()
            assert (store.get(KEY), store.get(other)) == (None, None), "nothing is left"
            store.set(KEY, {"n": 2})
            assert store.get(KEY) == {"n": 2}, "after clear() entries are kept as before"

    def test_what_cannot_be_kept_is_refused_and_the_old_entry_stays(self) -> None:
        """The run goes on, and its record tells the reason."""
        with self.opened() as store:
            store.set(KEY, {"n": 1})
            with refused(Uncacheable, "set() of a lock") as caught:
                store.set(KEY, {"n": 2, "guard": [threading.Lock()]})
            assert caught.error.reason, "the refusal says why"
            assert store.get(KEY) == {"n": 1}, "a refused entry leaves the old one alone"

    def test_a_store_of_live_objects_gives_copies_of_them(self) -> None:
        """Concerns stores with `keeps_objects`, whose hits are not brought back to their types."""
        with self.opened() as store:
            if not getattr(store, "keeps_objects", False):
                return
            kept = Kept(xs=[1])
            store.set(KEY, {"kept": kept})
            kept.xs.append(2)
            first = store.get(KEY)
            assert type(first["kept"]) is Kept, "a model is kept as a model"
            first["kept"].xs.append(3)
            assert store.get(KEY) == {"kept": Kept(xs=[1])}, "neither the stored object nor a hit is shared"

    def test_many_threads_see_whole_entries(self) -> None:
        """One store serves all runs of an executor."""
        with self.opened() as store:
            keys = [KEY._replace(input_value_hash=str(n)) for n in range(8)]

            def work(seed: int) -> None:
                for turn in range(40):
                    key = keys[(seed + turn) % len(keys)]
                    name = key.input_value_hash
                    store.set(key, {"k": name, "again": [name] * 50})
                    hit = store.get(key)
                    assert hit is None or hit == {"k": name, "again": [name] * 50}, f"a torn or foreign entry: {hit}"

            at_once([lambda seed=seed: work(seed) for seed in range(4)])  # type: ignore[misc]  # seed is bound early

    def test_the_next_process_hits(self) -> None:
        """Concerns stores whose entries outlive the object; see `reopen_store`."""
        with self.opened() as store:
            store.set(KEY, deepcopy(PLAIN))
            with self.reopened(store) as other:
                assert other.get(KEY) == PLAIN, "an entry is there for others on the same data"

    def test_a_set_that_fails_leaves_a_whole_entry_or_none(self) -> None:
        """Concerns stores that can be made to fail; see `failing`. The old outputs, the new ones, or a miss."""
        with self.opened() as store:
            for fault in self.faults(store):
                store.set(KEY, an_entry(3))
                with fault:
                    done = succeeds(lambda: store.set(KEY, an_entry(4)))
                allowed = (an_entry(4),) if done else (an_entry(3), an_entry(4), None)
                assert store.get(KEY) in allowed, "an entry is neither the old nor the new one"
                store.set(KEY, an_entry(4))
                assert store.get(KEY) == an_entry(4), "what failed can be done again"

    def test_a_get_that_fails_gives_no_other_entry(self) -> None:
        """Concerns stores that can be made to fail; see `failing`. The entry, a miss or an error."""
        with self.opened() as store:
            for fault in self.faults(store):
                store.set(KEY, an_entry(4))
                found: list[Any] = []
                with fault:
                    succeeds(lambda: found.append(store.get(KEY)))  # noqa: B023 - called at once
                assert found in ([], [None], [an_entry(4)]), "what could not be read was made up"

    def test_what_a_killed_process_kept_is_a_hit(self) -> None:
        """Concerns stores that a child process can open; see `opened_elsewhere`. And nothing that it kept is half."""
        with self.opened() as store:
            first = 0
            for _ in range(self.kills):
                written = self.killed(store, f"{__name__}:set_one", first)
                if written is None:
                    return
                with self.reopened(store) as other:
                    for number in range(first, written.last + 1):
                        found = other.get(KEY._replace(input_value_hash=str(number)))
                        assert found == an_entry(number), f"entry {number} was kept, and {found} is there"
                    last = other.get(KEY._replace(input_value_hash=str(written.last + 1)))
                    assert last in (None, an_entry(written.last + 1)), "an entry is half there"
                first = written.last + 2
