"""The contract of trace stores: results come back as they were, are listed the latest first, and share nothing.

Subclassed by the tests of stores; the protocol is `chainweaver.observe.TraceStore`.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from chainweaver.exceptions import TraceNotFoundError
from chainweaver.observe import TraceEntry, TraceStore
from chainweaver.results import ExecutionResult, StepRecord
from chainweaver.testing.conformance.contract import StoreContract, at_once, refused

NOON = datetime(2024, 5, 1, 12, 0, 0, 123_456, tzinfo=timezone.utc)


def an_id(number: int) -> str:
    """A trace id."""
    return f"{number:032x}"


def a_record(index: int = 0, **facts: Any) -> StepRecord:
    """A step that ended well."""
    given = {"tool_name": "add", "inputs": {"n": index}, "outputs": {"total": 0.1}, "step_id": f"step{index}"}
    times = {"started_at": NOON, "ended_at": NOON + timedelta(milliseconds=2), "duration_ms": 2.25}
    return StepRecord(**{"step_index": index, **given, **times, **facts})


def a_result(number: int, **facts: Any) -> ExecutionResult:
    """A run that began so many minutes after noon."""
    success = facts.pop("success", True)
    given = {
        "flow_name": "sum",
        "flow_version": "1.0.0",
        "status": "ok" if success else "failed",
        "success": success,
        "final_output": {"total": 3, "text": "Größe 10 €\n\0", "deep": [{"a": [1, None, 0.1]}]},
        "execution_log": [a_record()],
        "trace_id": an_id(number),
        "started_at": NOON + timedelta(minutes=number),
        "ended_at": NOON + timedelta(minutes=number, seconds=1),
        "total_duration_ms": 1000.5,
        "initial_input": {"a": [1]},
    }
    return ExecutionResult(**{**given, **facts})


class TraceStoreConformance(StoreContract):
    """What every trace store does. Override `make_store`, and `reopen_store` where traces outlive the object.

    >>> from chainweaver.observe import InMemoryTraceStore
    >>> class TestMine(TraceStoreConformance):
    ...     def make_store(self):
    ...         return InMemoryTraceStore()
    >>> TestMine().test_the_latest_run_comes_first()
    """

    def listed(self, store: Any, **wanted: Any) -> list[int]:
        """The numbers of the runs that a store lists."""
        return [int(entry.trace_id, 16) for entry in store.list(**wanted)]

    def test_the_store_follows_the_protocol(self) -> None:
        """A recorder knows the protocol only."""
        with self.opened() as store:
            assert isinstance(store, TraceStore), f"{type(store).__name__} has to have save, load, list and delete"

    def test_a_loaded_result_is_what_was_saved(self) -> None:
        """Every field of the result and of its records, nested results included."""
        with self.opened() as store:
            failed = a_record(1, status="failed", success=False, outputs=None, error_type="ToolTimeoutError",
                              error_code="E008", error_message="late", retry_count=2, retry_errors=["one", "two"],
                              by_reference=("n",), sub_result=a_result(2, parent_trace_id=an_id(1)))  # fmt: skip
            result = a_result(1, success=False, execution_log=[a_record(), failed], partial_output={"total": 3})
            store.save(result)
            loaded = store.load(an_id(1))
            for field in ExecutionResult.model_fields:
                assert getattr(loaded, field) == getattr(result, field), f"field '{field}' of the result"

    def test_values_without_a_json_form_are_kept_as_texts(self) -> None:
        """A trace is a view: no object is built from it, and none keeps it from being saved."""
        with self.opened() as store:
            store.save(a_result(1, final_output={"value": 1j, "kind": int}))
            found = store.load(an_id(1)).final_output
            assert found == {"value": "1j", "kind": "<class 'int'>"}, f"they read as {found}"

    def test_nothing_is_shared_with_the_caller(self) -> None:
        """Neither what is kept nor what is loaded."""
        with self.opened() as store:
            result = a_result(1)
            store.save(result)
            expected = a_result(1).final_output
            handed: list[Any] = [result, store.load(an_id(1)), store.load(an_id(1))]
            for taken in handed:
                taken.final_output["deep"].append("mine")
                taken.final_output["more"] = 1
            assert store.load(an_id(1)).final_output == expected, "a trace shows what was"

    def test_a_later_result_of_the_same_run_replaces_the_earlier_one(self) -> None:
        """A run that was resumed is one run."""
        with self.opened() as store:
            store.save(a_result(1, success=False))
            store.save(a_result(1))
            assert store.load(an_id(1)).success, "the last one counts"
            assert [entry.status for entry in store.list()] == ["ok"], "and stands once"

    def test_the_latest_run_comes_first(self) -> None:
        """By its start, whatever the order of saving; and an empty store lists none."""
        with self.opened() as store:
            assert list(store.list()) == [], "a new store is empty"
            for number in (2, 5, 1, 10):
                store.save(a_result(number))
            found = self.listed(store)
            assert found == [10, 5, 2, 1], f"runs of the minutes 2, 5, 1 and 10 are listed as {found}"

    def test_a_list_says_what_there_is_to_know(self) -> None:
        """Flow, version, status, start and duration, without the trace itself."""
        with self.opened() as store:
            store.save(a_result(1, success=False, parent_trace_id=an_id(7)))
            wanted = TraceEntry(an_id(1), "sum", "1.0.0", "failed", NOON + timedelta(minutes=1), 1000.5, an_id(7))
            [entry] = store.list()
            for field in TraceEntry._fields:
                assert getattr(entry, field) == getattr(wanted, field), f"'{field}' of an entry"

    def test_a_list_can_be_narrowed(self) -> None:
        """By flow, by status, by both; and to so many, the latest of them."""
        with self.opened() as store:
            for number, flow_name, success in ((1, "a", True), (3, "b", False), (2, "a", False), (4, "b", False)):
                store.save(a_result(number, flow_name=flow_name, success=success))
            for wanted, numbers in (
                ({"flow_name": "a"}, [2, 1]),
                ({"status": "failed"}, [4, 3, 2]),
                ({"flow_name": "a", "status": "failed"}, [2]),
                ({"flow_name": "nothing"}, []),
                ({"limit": 2}, [4, 3]),
                ({"limit": 0}, []),
                ({"limit": None}, [4, 3, 2, 1]),
                ({"status": "failed", "limit": 1}, [4]),
            ):
                found = self.listed(store, **wanted)
                assert found == numbers, f"list({wanted}) gave the runs {found}"

    def test_a_list_is_short_unless_asked_for_more(self) -> None:
        """A hundred by default: a page, and not everything there ever was."""
        with self.opened() as store:
            for number in range(105):
                store.save(a_result(number))
            assert len(store.list()) == 100, "100 runs are listed by default"
            assert len(store.list(limit=None)) == 105, "and all of them for limit=None"

    def test_an_unknown_run_is_told_as_such(self) -> None:
        """By the error that a store is documented to raise."""
        with self.opened() as store:
            store.save(a_result(1))
            with refused(TraceNotFoundError, "load() of an unknown run") as caught:
                store.load(an_id(2))
            assert caught.error.trace_id == an_id(2), "the error names the run"

    def test_a_deleted_run_is_gone_and_deleting_it_again_is_nothing(self) -> None:
        """And no other with it."""
        with self.opened() as store:
            for number in (1, 2):
                store.save(a_result(number))
            store.delete(an_id(1))
            store.delete(an_id(1))
            assert self.listed(store) == [2], "one run is gone, and one only"
            with refused(TraceNotFoundError, "load() of a deleted run"):
                store.load(an_id(1))

    def test_many_runs_are_saved_at_once(self) -> None:
        """Runs end at the same time, and somebody lists them meanwhile."""
        with self.opened() as store:

            def work(first: int) -> None:
                for number in range(first, first + 8):
                    store.save(a_result(number))
                    assert store.load(an_id(number)).trace_id == an_id(number), "what was saved is there"
                    store.list(limit=3)

            at_once([lambda first=first: work(first) for first in (0, 8, 16, 24)])  # type: ignore[misc]
            assert sorted(self.listed(store)) == list(range(32)), "every run is there"

    def test_the_next_process_finds_the_traces(self) -> None:
        """Concerns stores whose traces outlive the object; see `reopen_store`."""
        with self.opened() as store:
            store.save(a_result(1))
            with self.reopened(store) as other:
                assert self.listed(other) == [1], "a trace is there for others on the same data"
                assert other.load(an_id(1)) == a_result(1), "and as it was saved"
