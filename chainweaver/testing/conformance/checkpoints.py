"""The contract of checkpointers: steps are kept one by one, loaded as they were, and shared with nobody.

Subclassed by the tests of stores; the protocols are `Checkpointer` and `AppendingCheckpointer` of
`chainweaver.checkpoint`.
"""

from __future__ import annotations

import threading
from copy import deepcopy
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from chainweaver.checkpoint import Checkpointer, ExecutionSnapshot, StepDelta
from chainweaver.exceptions import CheckpointEncodeError, CheckpointNotFoundError
from chainweaver.testing.conformance.contract import StoreContract, at_once, refused, succeeds

BEGAN = datetime(2024, 5, 1, 12, 0, 0, 250_000, tzinfo=timezone.utc)


def a_run(trace_id: str = "9f3c", **fields: Any) -> ExecutionSnapshot:
    """A run that has just begun."""
    given = {"flow_name": "sum", "flow_version": "1.0.0", "initial_input": {"a": [1]}, "started_at": BEGAN, **fields}
    return ExecutionSnapshot(trace_id=trace_id, **given)


def a_step(index: int, outputs: dict[str, Any] | None = None, **fields: Any) -> StepDelta:
    """A step that has ended well."""
    given = {"n": index} if outputs is None else outputs
    return StepDelta(index, f"step{index}", "add", "5d1e", "ok", given, **fields)


FULL: dict[str, Any] = {
    "flow_digest": "d1",
    "initial_input": {"a": (1, Decimal("1.50")), "raw": b"\n\x1b1" * 50, "when": BEGAN, "text": "Größe\0"},
    "tool_schema_hashes": {"add": "5d1e"},
    "step_fingerprints": {"step0": "5d1e"},
    "level_sizes": (1, 2),
    "output_mappings": {"step0": {"total": "n"}},
}

BAD = ("FlowExecutionError", "E006", "bad €", "OSError")

STEPS = (
    a_step(0, {"n": 1}, started_at=1714564800.25, duration_ns=1_500, attempts=3, retry_errors=("E: one", "E: two")),
    a_step(1, {"raw": b"\x1b\n0\0" * 100, "t": (1, {"deep": [()]})}, cached=True, fallback_tool_name="other"),
    StepDelta(2, "step2", "add", "5d1e", "skipped", None, BAD),
    StepDelta(
        3,
        "step3",
        "sub",
        "5d1e",
        "skipped",
        None,
        BAD,
        inside=(StepDelta(1, "a", "add", "5d1e", "failed", None, BAD, path=("step3#2",)),),
    ),
)


def a_full_step(number: int) -> StepDelta:
    """A step whose outputs follow from its number; some of them are long."""
    return a_step(number, {"n": number, "raw": bytes([number % 251]) * (number % 5 * 300)})


def commit_one(store: Any, number: int) -> None:
    """Commit one more step of a run, as a process does that is to be killed."""
    append = getattr(store, "append", None)
    if append is not None:
        append("9f3c", a_full_step(number))
    else:
        store.save(a_run(steps=[a_full_step(one) for one in range(number + 1)]))


class CheckpointerConformance(StoreContract):
    """What every checkpointer does. Override `make_store`, and `reopen_store` where runs outlive the object.

    A store without `append` is given growing snapshots, as the executor does it.

    >>> from chainweaver.checkpoint import InMemoryCheckpointer
    >>> class TestMine(CheckpointerConformance):
    ...     def make_store(self):
    ...         return InMemoryCheckpointer()
    >>> TestMine().test_runs_are_listed_sorted()
    """

    def commit(self, store: Any, snapshot: ExecutionSnapshot, *steps: StepDelta) -> None:
        """Commit finished steps of a run one by one, as the executor does."""
        append = getattr(store, "append", None)
        for step in steps:
            snapshot.steps.append(step)
            if append is None:
                store.save(snapshot)
            else:
                append(snapshot.trace_id, step)

    def test_the_store_follows_the_protocol(self) -> None:
        """The executor knows the protocol only."""
        with self.opened() as store:
            named = type(store).__name__
            assert isinstance(store, Checkpointer), f"{named} has to have save, load, delete and list_trace_ids"

    def test_a_loaded_run_is_what_was_saved(self) -> None:
        """Every field of the run, before its first step."""
        with self.opened() as store:
            store.save(a_run(**deepcopy(FULL)))
            loaded = store.load("9f3c")
            for field in ExecutionSnapshot.model_fields:
                assert getattr(loaded, field) == getattr(a_run(**FULL), field), f"field '{field}' of the run"
            assert type(loaded.initial_input["a"]) is tuple, "types of the input are kept"

    def test_committed_steps_are_loaded_as_they_were(self) -> None:
        """Every field of every step."""
        with self.opened() as store:
            run = a_run()
            store.save(run)
            self.commit(store, run, *deepcopy(STEPS))
            loaded = store.load("9f3c").steps
            assert len(loaded) == len(STEPS), "each step once"
            for found, step in zip(loaded, STEPS, strict=True):
                for field in StepDelta._fields:
                    assert getattr(found, field) == getattr(step, field), f"'{field}' of step {step.step_index}"
            assert type(loaded[1].outputs["t"]) is tuple, "types of outputs are kept"

    def test_a_step_counts_from_its_commit_on(self) -> None:
        """What is loaded between two commits holds the steps before and no other."""
        with self.opened() as store:
            run = a_run()
            store.save(run)
            for index in range(3):
                found = [step.step_index for step in store.load("9f3c").steps]
                assert found == list(range(index)), f"after {index} commits steps {found} were loaded"
                self.commit(store, run, a_step(index))

    def test_steps_are_loaded_in_plan_order(self) -> None:
        """Whatever the order in which they finished."""
        with self.opened() as store:
            run = a_run()
            store.save(run)
            self.commit(store, run, a_step(2), a_step(0), a_step(1))
            found = [step.step_index for step in store.load("9f3c").steps]
            assert found == [0, 1, 2] or not hasattr(store, "append"), f"steps came in the order {found}"

    def test_a_step_that_is_committed_again_counts_as_it_was_last(self) -> None:
        """Concerns stores with `append`; a step that ran again after a crash stands once."""
        with self.opened() as store:
            if not hasattr(store, "append"):
                return
            store.save(a_run())
            for step in (a_step(0), a_step(1), a_step(0, {"n": "again"})):
                store.append("9f3c", step)
            assert [step.outputs for step in store.load("9f3c").steps] == [{"n": "again"}, {"n": 1}], "once, as last"

    def test_a_saved_run_replaces_the_one_before(self) -> None:
        """Steps of the old one included."""
        with self.opened() as store:
            store.save(a_run(steps=[a_step(0), a_step(1)]))
            store.save(a_run(flow_version="2.0.0", steps=[a_step(0, {"n": "new"})]))
            loaded = store.load("9f3c")
            assert loaded.flow_version == "2.0.0", "the last snapshot counts"
            assert [step.outputs for step in loaded.steps] == [{"n": "new"}], "nothing of the first is left"

    def test_nothing_is_shared_with_the_caller(self) -> None:
        """Neither what is kept nor what is loaded."""
        with self.opened() as store:
            run, step = a_run(), a_step(0, {"rows": [1]})
            store.save(run)
            self.commit(store, run, step)
            assert step.outputs is not None, "as made above"
            step.outputs["rows"].append("later")
            run.initial_input["a"].append("later")
            first = store.load("9f3c")
            first.steps[0].outputs["rows"].append("mine")
            first.initial_input["a"].append("mine")
            first.steps.append(a_step(1))
            second = store.load("9f3c")
            assert second.initial_input == {"a": [1]}, "the input is a copy, in and out"
            assert [found.outputs for found in second.steps] == [{"rows": [1]}], "outputs are copies, in and out"

    def test_an_unknown_run_is_told_as_such(self) -> None:
        """By the error that `resume_flow` is documented to raise."""
        with self.opened() as store:
            store.save(a_run("known"))
            with refused(CheckpointNotFoundError, "load() of an unknown run") as caught:
                store.load("unknown")
            assert caught.error.trace_id == "unknown", "the error names the run"
            if hasattr(store, "append"):
                with refused(CheckpointNotFoundError, "append() to an unknown run"):
                    store.append("unknown", a_step(0))

    def test_runs_are_listed_sorted(self) -> None:
        """And an empty store lists none."""
        with self.opened() as store:
            assert list(store.list_trace_ids()) == [], "a new store is empty"
            for trace_id in ("c", "a", "b"):
                store.save(a_run(trace_id))
            assert list(store.list_trace_ids()) == ["a", "b", "c"], "ids are sorted"

    def test_a_deleted_run_is_gone_and_deleting_it_again_is_nothing(self) -> None:
        """The executor deletes the checkpoint of a run that ended well."""
        with self.opened() as store:
            for trace_id in ("a", "b"):
                store.save(a_run(trace_id))
            store.delete("a")
            store.delete("a")
            assert list(store.list_trace_ids()) == ["b"], "one run is gone, and one only"
            with refused(CheckpointNotFoundError, "load() of a deleted run"):
                store.load("a")

    def test_runs_are_kept_apart(self) -> None:
        """Steps of one run never show up in another."""
        with self.opened() as store:
            runs = [a_run(trace_id) for trace_id in ("a", "ab", "b")]
            for run in runs:
                store.save(run)
            for run in reversed(runs):
                self.commit(store, run, a_step(0, {"of": run.trace_id}))
            for run in runs:
                assert [step.outputs for step in store.load(run.trace_id).steps] == [{"of": run.trace_id}], "its own"

    def test_an_output_that_cannot_be_kept_is_refused_and_the_checkpoint_stays(self) -> None:
        """The step fails, and what was committed before is still there."""
        with self.opened() as store:
            run = a_run()
            store.save(run)
            self.commit(store, run, a_step(0))
            with refused(CheckpointEncodeError, "committing a lock") as caught:
                self.commit(store, run, a_step(1, {"fine": 1, "guard": [threading.Lock()]}))
            assert caught.error.key == "guard", "the error names the output"
            assert store.load("9f3c").completed_steps == 1, "a refused step leaves the checkpoint as it was"

    def test_an_input_that_cannot_be_kept_is_refused(self) -> None:
        """Before the run begins, and without a trace."""
        with self.opened() as store:
            with refused(CheckpointEncodeError, "save() of a lock"):
                store.save(a_run(initial_input={"guard": threading.Lock()}))
            assert list(store.list_trace_ids()) == [], "a refused run is not kept"

    def test_many_runs_commit_at_once(self) -> None:
        """One store serves all runs of an executor."""
        with self.opened() as store:

            def work(trace_id: str) -> None:
                run = a_run(trace_id)
                store.save(run)
                for index in range(20):
                    self.commit(store, run, a_step(index, {"n": [trace_id, index]}))

            at_once([lambda name=f"run{number}": work(name) for number in range(4)])  # type: ignore[misc]
            assert list(store.list_trace_ids()) == [f"run{number}" for number in range(4)], "every run is there"
            for trace_id in store.list_trace_ids():
                found = [step.outputs["n"] for step in store.load(trace_id).steps]
                assert found == [[trace_id, index] for index in range(20)], f"steps of {trace_id}: {found}"

    def test_another_process_goes_on_where_this_one_ended(self) -> None:
        """Concerns stores whose runs outlive the object; see `reopen_store`."""
        with self.opened() as store:
            run = a_run(**deepcopy(FULL))
            store.save(run)
            self.commit(store, run, a_step(0))
            with self.reopened(store) as other:
                self.commit(other, run, a_step(1))
                assert other.load("9f3c").completed_steps == 2, "commits of both are there"
                assert other.load("9f3c").initial_input == FULL["initial_input"], "so is the input"

    # ---- where an operation fails

    def test_a_commit_that_fails_leaves_whole_steps_and_can_be_made_again(self) -> None:
        """Concerns stores that can be made to fail; see `failing`. Whatever operation it is that fails."""
        with self.opened() as store:
            run = a_run()
            store.save(run)
            self.commit(store, run, a_full_step(0))
            for number, fault in enumerate(self.faults(store), start=1):
                with fault:
                    done = succeeds(lambda: self.commit(store, run, a_full_step(number)))  # noqa: B023 - called at once
                found = store.load("9f3c").steps
                held = [a_full_step(one) for one in range(len(found))]
                assert found == held, f"operation {number} failed, and a step is not what was committed"
                least = number + 1 if done else number
                assert least <= len(found) <= number + 1, (
                    f"operation {number}: of {number} steps {len(found)} are there"
                )
                if not done:
                    del run.steps[number:]
                    self.commit(store, run, a_full_step(number))
                    assert len(store.load("9f3c").steps) == number + 1, "what failed can be done again"

    def test_a_save_that_fails_leaves_a_whole_run_and_can_be_made_again(self) -> None:
        """Concerns stores that can be made to fail; see `failing`. The old run or the new one, and all of it."""
        with self.opened() as store:
            runs = [
                a_run(flow_version=f"{number}.0", steps=[a_full_step(one) for one in range(3)]) for number in (0, 1)
            ]
            for fault in self.faults(store):
                store.save(runs[0])
                with fault:
                    done = succeeds(lambda: store.save(runs[1]))
                assert store.load("9f3c") in (runs[1:] if done else runs), "a run is neither the old nor the new one"
                store.save(runs[1])
                assert store.load("9f3c") == runs[1], "what failed can be done again"

    def test_a_load_that_fails_gives_no_other_run(self) -> None:
        """Concerns stores that can be made to fail; see `failing`. The run or an error, never a part of it."""
        with self.opened() as store:
            run = a_run(steps=[a_full_step(one) for one in range(3)])
            store.save(run)
            for fault in self.faults(store):
                loaded: list[ExecutionSnapshot] = []
                with fault:
                    succeeds(lambda: loaded.append(store.load("9f3c")))  # noqa: B023 - called at once
                assert loaded in ([], [run]), "what could not be read was left out in silence"
            assert store.load("9f3c") == run, "reading changes nothing"

    # ---- where a process is killed

    def test_what_a_killed_process_committed_is_there(self) -> None:
        """Concerns stores that a child process can open; see `opened_elsewhere`. Every step, each of them whole."""
        with self.opened() as store:
            if self.opened_elsewhere(store) is None:
                return
            store.save(a_run())
            first = 0
            for _ in range(self.kills):
                written = self.killed(store, f"{__name__}:commit_one", first)
                assert written is not None, "asked above"
                with self.reopened(store) as other:
                    found = other.load("9f3c").steps
                    assert found == [a_full_step(one) for one in range(len(found))], (
                        "steps are whole, and none is missing"
                    )
                    told, there = written.last + 1, len(found)
                    assert told <= there <= told + 1, f"{told} steps were committed, and {there} are there"
                    first = there
                    commit_one(other, first)
                    assert len(other.load("9f3c").steps) == first + 1, "the next process goes on"
                    first += 1
