"""The contract of stores of live objects: what is put comes back equal until nobody holds it, and from then on never.

Subclassed by the tests of stores; the protocol is `chainweaver.objects.ObjectStore`. The objects are bytes, which every
store takes; what it does with arrays and frames is for its own tests.
"""

from __future__ import annotations

from typing import Any

from chainweaver.objects import ObjectNotFoundError, ObjectRef, ObjectStore
from chainweaver.testing.conformance.contract import StoreContract, at_once, refused


class ObjectStoreConformance(StoreContract):
    """What every store of objects does. Override `make_store`, and `close_store` where it holds more than memory.

    >>> from chainweaver.objects import RefStore
    >>> class TestMine(ObjectStoreConformance):
    ...     def make_store(self):
    ...         return RefStore()
    >>> TestMine().test_an_object_goes_when_nobody_holds_it()
    """

    def test_the_store_follows_the_protocol(self) -> None:
        """Those who use a store know the protocol only."""
        with self.opened() as store:
            assert isinstance(store, ObjectStore), f"{type(store).__name__} lacks a method of ObjectStore"

    def test_what_is_read_equals_what_was_put(self) -> None:
        """Whatever its length: none, less than a cache line, a page and a bit."""
        with self.opened() as store:
            for size in (0, 1, 63, 64, 65, 4_097, 1_000_003):
                value = bytes(number % 251 for number in range(size))
                found = store.get(store.put(value))
                assert (type(found), found) == (bytes, value), f"{size} bytes come back as other ones"

    def test_reading_takes_nothing_away(self) -> None:
        """An object can be read as often as somebody likes."""
        with self.opened() as store:
            ref = store.put(b"abc")
            assert [bytes(store.get(ref)) for _ in range(3)] == [b"abc"] * 3, "every read gives the object"

    def test_equal_objects_are_kept_apart(self) -> None:
        """Letting go of one says nothing about the other."""
        with self.opened() as store:
            one, other = store.put(b"abc"), store.put(b"abc")
            store.release(one)
            assert store.get(other) == b"abc", "the second one was put by somebody else"

    def test_an_object_goes_when_nobody_holds_it(self) -> None:
        """Put holds it once."""
        with self.opened() as store:
            ref = store.put(b"abc")
            store.release(ref)
            with refused(ObjectNotFoundError, "reading a released object"):
                store.get(ref)
            with refused(ObjectNotFoundError, "pinning a released object"):
                store.pin(ref)
            with refused(ObjectNotFoundError, "asking about a released object"):
                store.info(ref)

    def test_a_pinned_object_stays_until_it_is_released_as_often(self) -> None:
        """Pin holds it once more."""
        with self.opened() as store:
            ref = store.put(b"abc")
            store.pin(ref)
            store.release(ref)
            assert store.get(ref) == b"abc", "it was held twice and released once"
            store.release(ref)
            with refused(ObjectNotFoundError, "reading a released object"):
                store.get(ref)

    def test_letting_go_of_what_is_unknown_is_nothing(self) -> None:
        """A reference may be released after its store was cleared, or twice."""
        with self.opened() as store:
            ref, other = store.put(b"abc"), store.put(b"def")
            store.release(ref)
            store.release(ref)
            store.release(ObjectRef("somewhere else", other.key))
            assert store.get(other) == b"def", "another object is none of its business"

    def test_a_reference_of_another_store_leads_to_nothing(self) -> None:
        """By its kind and by its key."""
        with self.opened() as store:
            ref = store.put(b"abc")
            for strange in (ref._replace(store="somewhere else"), ref._replace(key="../abc"), ref._replace(key="")):
                with refused(ObjectNotFoundError, f"reading {strange}"):
                    store.get(strange)

    def test_what_was_read_outlives_its_release(self) -> None:
        """Whoever has the object needs the store no more."""
        with self.opened() as store:
            value = bytes(range(256)) * 1_000
            ref = store.put(value)
            found = store.get(ref)
            store.release(ref)
            assert found == value, "it changed when it was released"

    def test_a_reference_is_small_and_plain(self) -> None:
        """It travels instead of the object."""
        with self.opened() as store:
            ref = store.put(bytes(1_000_000))
            assert type(ref) is ObjectRef, f"put gives {type(ref).__name__}"
            held = len(ref.store) + len(ref.key) + len(ref.codec) + len(ref.facts) + 8 * len(ref.sizes)
            assert held < 1_024, f"it holds {held} bytes"

    def test_the_store_says_how_full_it_is(self) -> None:
        """An empty one holds nothing, before and afterwards."""
        with self.opened() as store:
            assert store.stats()[:2] == (0, 0), f"a new store holds {store.stats()}"
            refs = [store.put(bytes(1_000)) for _ in range(3)]
            stats = store.stats()
            assert stats.objects == 3, f"of three objects it knows {stats.objects}"
            assert stats.nbytes + stats.spilled_nbytes >= 3_000, f"3 000 bytes take {stats}"
            for ref in refs:
                store.release(ref)
            assert store.stats() == (0, 0, 0, 0), f"it still holds {store.stats()}"

    def test_the_store_tells_about_an_object(self) -> None:
        """Its size, how often it is pinned, and where it lies."""
        with self.opened() as store:
            ref = store.put(bytes(1_000))
            store.pin(ref)
            facts: dict[str, Any] = store.info(ref)
            assert facts["nbytes"] >= 1_000, f"1 000 bytes are told as {facts['nbytes']}"
            assert facts["pins"] == 1, f"it is pinned once and not {facts['pins']} times"
            assert facts["backing"], "it lies somewhere"

    def test_threads_may_use_it_at_once(self) -> None:
        """None gets what another one put, and nothing is left behind."""
        with self.opened() as store:

            def work(number: int) -> None:
                for turn in range(20):
                    value = b"%d/%d" % (number, turn)
                    ref = store.put(value)
                    assert store.get(ref) == value, "another thread's object"
                    store.release(ref)

            at_once([lambda number=number: work(number) for number in range(4)])  # type: ignore[misc]
            assert store.stats().objects == 0, f"{store.stats().objects} objects are left"
