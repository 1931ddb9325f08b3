"""The contract of stores that processes share: a run is admitted with a claim, and belongs to whoever claims it.

Subclassed by the tests of stores; the protocol is `chainweaver.checkpoint.RunStore`. What every checkpointer does is
part of it. A second store on the same data stands for another process; where there is none, another thread does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from chainweaver.checkpoint import ExecutionSnapshot, RunInfo, RunStore
from chainweaver.exceptions import CheckpointNotFoundError, RunClaimedError, RunClaimLostError, RunKeyError
from chainweaver.testing.conformance.checkpoints import CheckpointerConformance, a_full_step, a_run, a_step
from chainweaver.testing.conformance.contract import at_once, refused, succeeds

THREADS = 4


def run_one(store: Any, number: int) -> None:
    """Admit, carry and end one more run, as a process does that is to be killed."""
    trace_id = f"run{number}"
    store.admit(a_run(trace_id), key=f"key{number}", input_digest="d")
    for index in range(2):
        store.append(trace_id, a_full_step(index))
    store.finish(trace_id, "ok")


class RunStoreConformance(CheckpointerConformance):
    """What every store that processes share does. Override `make_store`; `reopen_store` where runs outlive the object.

    Attributes:
        lease_s: How long a claim holds in the stores of `make_store` and `reopen_store`, unless it is renewed; None
            where it does not run out.

    >>> from chainweaver.sql import open_store
    >>> class TestMine(RunStoreConformance):
    ...     def make_store(self):
    ...         return open_store("sqlite://", lease_s=self.lease_s).runs
    >>> TestMine().test_a_key_belongs_to_one_run()
    """

    lease_s: float | None = 0.5

    def pause_store(self, store: Any) -> None:
        """Have a store renew its claims no more, as in a process that was stopped."""
        store.close()

    def an_orphan(self, store: Any, trace_id: str, **fields: Any) -> ExecutionSnapshot:
        """A run that was handed back."""
        run = a_run(trace_id, **fields)
        store.admit(run)
        store.finish(trace_id, "running")
        return run

    def until(self, happens: Callable[[], object], what: str) -> Any:
        """Wait until something is there, as it is once a claim has run out."""
        limit_s = 20 * (self.lease_s or 1) + 1
        ends = time.monotonic() + limit_s
        while time.monotonic() < ends:
            found = happens()
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError(f"{what} did not happen within {limit_s:g} s")

    # ---- admission

    def test_the_store_follows_the_protocol_of_shared_runs(self) -> None:
        """The executor knows the protocol only."""
        with self.opened() as store:
            wanted = "save, load, delete, list_trace_ids, append, admit, claim, claim_orphan, info and finish"
            assert isinstance(store, RunStore), f"{type(store).__name__} has to have {wanted}"

    def test_an_admitted_run_is_there_and_claimed(self) -> None:
        """Before its first step, so that a run that never began and one that died at once are two things."""
        with self.opened() as store, self.reopened(store) as other:
            assert store.admit(a_run()) is None, "a run without a key has no other run's"
            assert other.load("9f3c") == a_run(), "an admitted run can be loaded"
            assert other.claim_orphan(["sum"]) is None, "it is executed here, and nobody's orphan"
            with refused(RunClaimedError, "claim() of a run that somebody executes") as caught:
                other.claim("9f3c")
            assert caught.error.trace_id == "9f3c", "the error names the run"
            store.append("9f3c", a_step(0))
            assert [step.step_index for step in other.load("9f3c").steps] == [0], "who admitted it commits its steps"

    def test_a_run_that_cannot_be_kept_is_not_admitted(self) -> None:
        """It is refused before it begins, and leaves nothing."""
        with self.opened() as store:
            succeeds(lambda: store.admit(a_run(initial_input={"guard": threading.Lock()}), key="k"))
            assert list(store.list_trace_ids()) == [], "a refused run is not kept"
            assert store.admit(a_run("next"), key="k") is None, "nor is its key"

    def test_a_key_belongs_to_one_run(self) -> None:
        """Whoever asks for it again is told which, and nothing else is written."""
        with self.opened() as store, self.reopened(store) as other:
            assert store.admit(a_run("first"), key="k", input_digest="d") is None, "a new key is free"
            for digest in ("d", None):
                found = other.admit(a_run("second"), key="k", input_digest=digest)
                assert found == "first", f"the key is that of run 'first', not of {found!r}"
            assert list(store.list_trace_ids()) == ["first"], "a run whose key is taken is not kept"
            assert other.admit(a_run("third"), key="other", input_digest="d") is None, "another key is another run"
            store.finish("first", "ok")
            assert other.admit(a_run("fourth"), key="k", input_digest="d") == "first", "also after its end"

    def test_a_key_that_means_another_run_is_refused(self) -> None:
        """Another flow, or another input."""
        with self.opened() as store, self.reopened(store) as other:
            store.admit(a_run("first"), key="k", input_digest="d")
            for run, digest in ((a_run("second", flow_name="other"), "d"), (a_run("second"), "e")):
                with refused(RunKeyError, "admit() of something else with the same key") as caught:
                    other.admit(run, key="k", input_digest=digest)
                assert (caught.error.key, caught.error.trace_id) == ("k", "first"), "the error names key and run"
            assert list(store.list_trace_ids()) == ["first"], "a refused run is not kept"

    def test_of_many_threads_one_is_admitted_with_a_key(self) -> None:
        """The others are told its id."""
        with self.opened() as store, self.reopened(store) as other:
            told: list[str | None] = [None] * THREADS

            def work(number: int) -> None:
                told[number] = (store, other)[number % 2].admit(a_run(f"run{number}"), key="k") or f"run{number}"

            at_once([lambda number=number: work(number) for number in range(THREADS)])  # type: ignore[misc]
            assert len(set(told)) == 1, f"they were told of the runs {told}"
            assert list(store.list_trace_ids()) == [told[0]], "one run is there"

    # ---- claims

    def test_a_claim_is_exclusive_until_it_ends(self) -> None:
        """Between two stores, and between two threads with one."""
        with self.opened() as store, self.reopened(store) as other:
            self.an_orphan(store, "9f3c")
            store.claim("9f3c")
            for somebody in (other, store):
                with refused(RunClaimedError, "claim() of a claimed run"):
                    somebody.claim("9f3c")
            store.finish("9f3c", "running")
            other.claim("9f3c")
            other.append("9f3c", a_step(0))
            with refused(RunClaimedError, "claim() of a run that changed hands"):
                store.claim("9f3c")

    def test_an_unknown_run_cannot_be_claimed(self) -> None:
        """By the error that `resume_flow` is documented to raise."""
        with self.opened() as store:
            with refused(CheckpointNotFoundError, "claim() of an unknown run") as caught:
                store.claim("unknown")
            assert caught.error.trace_id == "unknown", "the error names the run"

    def test_of_many_threads_one_claims_a_run(self) -> None:
        """With one store or with two."""
        with self.opened() as store, self.reopened(store) as other:
            for turn in range(5):
                trace_id = f"run{turn}"
                self.an_orphan(store, trace_id)
                claimed: list[int] = []

                def work(number: int, trace_id: str = trace_id, claimed: list[int] = claimed) -> None:
                    try:
                        (store, other)[number % 2].claim(trace_id)
                    except RunClaimedError:
                        return
                    claimed.append(number)

                at_once([lambda number=number: work(number) for number in range(THREADS)])  # type: ignore[misc]
                assert len(claimed) == 1, f"{len(claimed)} threads claimed the same run"

    def test_a_claim_is_renewed_while_its_owner_lives(self) -> None:
        """However long a step takes."""
        with self.opened() as store, self.reopened(store) as other:
            if self.lease_s is None:
                return
            store.admit(a_run())
            time.sleep(2 * self.lease_s)
            assert other.claim_orphan(["sum"]) is None, "a claim of a living process ran out"
            store.append("9f3c", a_step(0))

    def test_a_claim_that_ran_out_is_taken_over_and_its_owner_refused(self) -> None:
        """Whoever was taken for dead commits nothing any more, and ends nothing."""
        with self.opened() as store, self.reopened(store) as other:
            if self.lease_s is None or other is store:
                return
            store.admit(a_run())
            store.append("9f3c", a_step(0))
            self.pause_store(store)
            assert other.claim_orphan(["sum"]) is None, "a claim holds for its time"
            taken = self.until(lambda: other.claim_orphan(["sum"]), "taking over a run")
            assert taken == "9f3c", "the run of the paused process is the orphan"
            with refused(RunClaimLostError, "append() of a former owner") as caught:
                store.append("9f3c", a_step(1, {"n": "stale"}))
            assert caught.error.trace_id == "9f3c", "the error names the run"
            other.append("9f3c", a_step(1))
            succeeds(lambda: store.finish("9f3c", "failed"))
            found = other.load("9f3c")
            assert [step.outputs for step in found.steps] == [{"n": 0}, {"n": 1}], "nothing of the former owner counts"
            other.append("9f3c", a_step(2))
            other.finish("9f3c", "ok")

    def test_a_run_that_its_owner_saves_stays_its_own_and_keeps_its_key(self) -> None:
        """A migration replaces what a run goes on from, and neither whose it is nor what it is called."""
        with self.opened() as store, self.reopened(store) as other:
            store.admit(a_run(), key="k")
            for index in range(2):
                store.append("9f3c", a_step(index))
            store.save(a_run(flow_version="2.0.0", steps=[a_step(1)]))
            assert other.claim_orphan(["sum"]) is None, "it is executed here, and nobody's orphan"
            with refused(RunClaimedError, "claim() of a run that its owner has saved"):
                other.claim("9f3c")
            store.append("9f3c", a_step(2))
            store.finish("9f3c", "ok")
            found = other.load("9f3c")
            assert found.flow_version == "2.0.0", "what was saved replaces what was there"
            assert [step.step_index for step in found.steps] == [1, 2], "with its steps, to which others are added"
            assert other.admit(a_run("second"), key="k") == "9f3c", "the key is still that of the run"

    def test_the_end_of_a_lost_claim_is_refused(self) -> None:
        """The run is somebody else's to end."""
        with self.opened() as store, self.reopened(store) as other:
            if self.lease_s is None or other is store:
                return
            store.admit(a_run())
            self.pause_store(store)
            self.until(lambda: other.claim_orphan(["sum"]), "taking over a run")
            with refused(RunClaimLostError, "finish() of a former owner"):
                store.finish("9f3c", "ok", keep=False)
            assert other.load("9f3c") == a_run(), "nothing was forgotten"

    # ---- ends

    def test_a_run_that_has_ended_is_no_orphan_and_can_be_gone_on_with(self) -> None:
        """Whatever its status; a failed run is resumed by whoever wants to."""
        with self.opened() as store, self.reopened(store) as other:
            for status in ("ok", "failed", "cancelled"):
                store.admit(a_run(status))
                store.append(status, a_step(0))
                store.finish(status, status, error="CW-E006 at step 'a'")
            assert other.claim_orphan(["sum"]) is None, "what has ended is left alone"
            for status in ("ok", "failed", "cancelled"):
                other.claim(status)
                other.append(status, a_step(1))
                assert other.load(status).completed_steps == 2, f"a run that ended '{status}' goes on"

    def test_a_run_that_is_handed_back_is_an_orphan(self) -> None:
        """Also one that goes on again and is handed back again."""
        with self.opened() as store, self.reopened(store) as other:
            self.an_orphan(store, "9f3c")
            for somebody in (other, store):
                assert somebody.claim_orphan(["sum"]) == "9f3c", "others may go on with it"
                somebody.finish("9f3c", "running")

    def test_a_run_that_was_not_gone_on_with_stands_as_before(self) -> None:
        """`finish(None)` takes a claim back: what had ended has ended, and what was open is."""
        with self.opened() as store, self.reopened(store) as other:
            store.admit(a_run("ended"))
            store.finish("ended", "failed", error="CW-E006")
            store.claim("ended")
            store.finish("ended", None)
            assert other.claim_orphan(["sum"]) is None, "a run that had ended was made an orphan"
            self.an_orphan(store, "open")
            store.claim("open")
            store.finish("open", None)
            assert other.claim_orphan(["sum"]) == "open", "a run that was open was ended"
            store.claim("ended")
            store.finish("ended", "running")
            for _ in range(2):
                assert store.claim_orphan(["sum"]) == "ended", "it was open since it was handed back"
                store.finish("ended", None)

    def test_a_run_that_is_not_kept_cannot_be_loaded(self) -> None:
        """`finish(keep=False)` forgets the steps of a run that nobody goes on with."""
        with self.opened() as store, self.reopened(store) as other:
            store.admit(a_run())
            store.append("9f3c", a_step(0))
            store.finish("9f3c", "ok", keep=False)
            assert list(other.list_trace_ids()) == [], "it is not listed"
            for ask in (other.load, other.claim):
                with refused(CheckpointNotFoundError, f"{ask.__name__}() of a run that was not kept"):
                    ask("9f3c")

    def test_a_run_with_a_key_keeps_its_steps(self) -> None:
        """They are the answer to whoever asks for the key again."""
        with self.opened() as store, self.reopened(store) as other:
            store.admit(a_run(), key="k")
            store.append("9f3c", a_step(0))
            store.finish("9f3c", "ok", keep=False)
            assert other.load("9f3c").completed_steps == 1, "its steps are there"
            assert other.admit(a_run("second"), key="k") == "9f3c", "and so is its key"

    # ---- orphans

    def test_only_orphans_that_are_asked_for_are_claimed(self) -> None:
        """Others' flows, runs that were looked at, runs that are executed and runs that have ended are passed over."""
        with self.opened() as store, self.reopened(store) as other:
            self.an_orphan(store, "foreign", flow_name="other")
            store.admit(a_run("busy"))
            store.admit(a_run("ended"))
            store.finish("ended", "failed")
            for trace_id in ("one", "two"):
                self.an_orphan(store, trace_id)
            assert other.claim_orphan([]) is None, "no flow has no orphans"
            assert other.claim_orphan(["sum"], ["one"]) == "two", "'one' is passed over"
            assert other.claim_orphan(["sum"]) == "one", "'one' is the next"
            assert other.claim_orphan(["sum"]) is None, "there is no other orphan of this flow"
            assert other.claim_orphan(["nothing", "other"]) == "foreign", "and one of the other"

    def test_of_many_threads_each_orphan_is_claimed_once(self) -> None:
        """However many look for them at the same time, with one store or with two."""
        with self.opened() as store, self.reopened(store) as other:
            orphans = sorted(f"run{number}" for number in range(12))
            for trace_id in orphans:
                self.an_orphan(store, trace_id)
            claimed: list[str] = []

            def work(mine: Any) -> None:
                while (found := mine.claim_orphan(["sum"])) is not None:
                    claimed.append(found)

            at_once([lambda mine=mine: work(mine) for mine in (store, other) * (THREADS // 2)])  # type: ignore[misc]
            assert sorted(claimed) == orphans, f"the orphans {sorted(claimed)} were claimed"

    # ---- the log

    def test_the_log_says_how_runs_stand(self) -> None:
        """Concerns stores with `info` and `list_runs`; the latest run comes first."""
        with self.opened() as store, self.reopened(store) as other:
            if not hasattr(store, "list_runs"):
                return
            for status in ("ok", "failed", "cancelled"):
                store.admit(a_run(status), key=f"key of {status}")
                store.append(status, a_step(0))
                store.finish(status, status, error=None if status == "ok" else "CW-E006")
            self.an_orphan(store, "orphan")
            store.admit(a_run("running"))
            found: list[RunInfo] = other.list_runs()
            assert [one.trace_id for one in found] == ["running", "orphan", "cancelled", "failed", "ok"], "latest first"
            for one in found:
                assert other.info(one.trace_id)[:6] == one[:6], "info() says what list_runs() says"
                assert one.flow_name == "sum", "the flow is told"
                assert one.status == (one.trace_id if one.trace_id != "orphan" else "running"), "the status is told"
                assert one.is_orphan == (one.trace_id == "orphan"), f"whether '{one.trace_id}' is an orphan"
                assert (one.owner is not None) == (one.trace_id == "running"), f"whether '{one.trace_id}' has an owner"
            assert [one.error for one in found] == [None, None, "CW-E006", "CW-E006", None], "errors are told"
            assert [one.steps_done for one in found] == [0, 0, 1, 1, 1], "steps are counted"
            assert found[-1].key == "key of ok", "keys are told"
            with refused(CheckpointNotFoundError, "info() of an unknown run"):
                other.info("unknown")

    def test_the_log_can_be_narrowed(self) -> None:
        """Concerns stores with `list_runs`: by status, flow, key and to orphans; and to so many."""
        with self.opened() as store:
            if not hasattr(store, "list_runs"):
                return
            store.admit(a_run("a"), key="k")
            store.finish("a", "ok")
            store.admit(a_run("b", flow_name="other"))
            store.finish("b", "failed")
            self.an_orphan(store, "c")
            for wanted, ids in (
                ({"status": "ok"}, ["a"]),
                ({"status": "running"}, ["c"]),
                ({"flow_name": "sum"}, ["c", "a"]),
                ({"flow_name": "sum", "status": "failed"}, []),
                ({"key": "k"}, ["a"]),
                ({"key": "none"}, []),
                ({"orphaned": True}, ["c"]),
                ({"orphaned": False}, ["b", "a"]),
                ({"limit": 2}, ["c", "b"]),
                ({"limit": 0}, []),
            ):
                found = [one.trace_id for one in store.list_runs(**wanted)]
                assert found == ids, f"list_runs({wanted}) gave the runs {found}"

    def test_pruning_forgets_what_has_ended_and_nothing_else(self) -> None:
        """Concerns stores with `prune`; and how many it was."""
        with self.opened() as store:
            if not hasattr(store, "prune"):
                return
            for number in range(4):
                store.admit(a_run(f"run{number}"), key=f"k{number}")
                store.finish(f"run{number}", "ok" if number % 2 else "failed")
            self.an_orphan(store, "orphan")
            store.admit(a_run("busy"))
            assert store.prune(older_than=timedelta(hours=1)) == 0, "nothing is an hour old"
            assert store.prune(keep_last=2) == 2, "of four runs that have ended, two stay"
            assert list(store.list_trace_ids()) == ["busy", "orphan", "run2", "run3"], "the latest stay"
            assert store.admit(a_run("run0"), key="k0") is None, "a key is free once its run is forgotten"

    # ---- where an operation fails

    def test_an_admission_that_fails_can_be_made_again(self) -> None:
        """Concerns stores that can be made to fail; see `failing`. The run is there and claimed, or not there."""
        with self.opened() as store, self.reopened(store) as other:
            for number, fault in enumerate(self.faults(store)):
                run = a_run(f"run{number}")
                with fault:
                    succeeds(lambda: store.admit(run, key=f"key{number}", input_digest="d"))  # noqa: B023 - called at once
                if run.trace_id in other.list_trace_ids():
                    assert other.load(run.trace_id) == run, "a run is half there"
                assert store.admit(run, key=f"key{number}", input_digest="d") in (None, run.trace_id), "again"
                store.append(run.trace_id, a_step(0))
                with refused(RunClaimedError, "claim() of a run that was admitted in the end"):
                    other.claim(run.trace_id)
                store.finish(run.trace_id, "ok")

    def test_an_end_that_fails_leaves_a_run_that_somebody_can_go_on_with(self) -> None:
        """Concerns stores that can be made to fail; see `failing`. It has ended, or its claim runs out."""
        with self.opened() as store, self.reopened(store) as other:
            if self.lease_s is None or other is store:
                return
            store.admit(a_run("busy"))
            open_runs = []
            for number, fault in enumerate(self.faults(store)):
                run = a_run(f"run{number}")
                store.admit(run)
                with fault:
                    if not succeeds(lambda: store.finish(run.trace_id, "ok")):  # noqa: B023 - called at once
                        open_runs.append(run.trace_id)
            for trace_id in open_runs:
                self.until(lambda: _is_free(other, trace_id), f"claiming '{trace_id}', which failed to end")  # noqa: B023

    # ---- where a process is killed

    def test_runs_of_a_killed_process_are_whole_and_can_be_taken_over(self) -> None:
        """Concerns stores that a child process can open; see `opened_elsewhere`."""
        with self.opened() as store:
            first = 0
            for _ in range(self.kills):
                written = self.killed(store, f"{__name__}:run_one", first)
                if written is None:
                    return
                with self.reopened(store) as other:
                    for number in range(first, written.last + 1):
                        found = other.load(f"run{number}")
                        assert found.steps == [a_full_step(0), a_full_step(1)], f"run {number} was told to be there"
                        assert other.admit(a_run("next"), key=f"key{number}") == found.trace_id, "and so is its key"
                    last = f"run{written.last + 1}"
                    if last in other.list_trace_ids():
                        steps = other.load(last).steps
                        assert steps == [a_full_step(one) for one in range(len(steps))], "a step is half there"
                        self.until(lambda: _is_free(other, last), f"taking over '{last}'")  # noqa: B023 - called at once
                first = written.last + 2


def _is_free(store: Any, trace_id: str) -> bool:
    """Whether a run can be claimed; it is, when it can."""
    try:
        store.claim(trace_id)
    except RunClaimedError:
        return False
    return True
