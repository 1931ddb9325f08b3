"""Any history of runs, crashes, claims, upgrades and prunings, against a dictionary that says what should be there.

Two processes work on one set of data. 4 histories of 25 rules for each place; with CHAINWEAVER_PROOF=1 200 of 50.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from chainweaver import Flow, FlowExecutor, FlowStep, tool
from chainweaver.exceptions import CheckpointNotFoundError, RunClaimedError, RunKeyError
from tests.conftest import PROOF
from tests.sql.histories import PLACES, Place

SIZE = settings(
    max_examples=200 if PROOF else 4, stateful_step_count=50 if PROOF else 25, deadline=None, derandomize=not PROOF
)

PROCESSES = st.integers(0, 1)
NUMBERS = st.integers(0, 2)
KEYS = st.sampled_from(["k1", "k2"])
MOMENTS = st.integers(0, 3)
WHICH = st.integers(0, 10**6)


class Killed(BaseException):
    """The process is gone: nothing is told to anybody any more."""


class Interrupted(BaseException):
    """Ctrl-C: the run is handed back."""


def length_of(version: int) -> int:
    """How many steps a version of the flow has."""
    return 4 + version % 3


def flow_of(version: int) -> Flow:
    return Flow(
        name="count",
        version=f"{version}.0.0",
        description="",
        on_context_collision="overwrite",
        steps=[FlowStep(tool_name="inc") for _ in range(length_of(version))],
    )


@dataclass
class Expected:
    """What should be kept of a run."""

    version: int
    n: int
    key: str | None
    done: int = 0
    status: str = "running"
    before: str = "running"
    owner: Any = None
    values: list[int] = field(default_factory=list)

    @property
    def result(self) -> int:
        return self.n + length_of(self.version)


class Process:
    """An executor with a store of its own, and what its tool is to do at which call."""

    def __init__(self, place: Place, version: int) -> None:
        self.runs = place.process()
        self.calls = 0
        self.ends: tuple[int, str] | None = None

        @tool(output="n")
        def inc(n: int) -> int:
            if self.ends is not None and self.calls == self.ends[0]:
                self.end()
            self.calls += 1
            return n + 1

        self.executor = FlowExecutor(
            tools=[inc],
            flows=[flow_of(one) for one in range(1, version + 1)],
            checkpointer=self.runs,
            delete_on_success=False,
        )

    def end(self) -> None:
        assert self.ends is not None
        how, self.ends = self.ends[1], None
        if how == "failed":
            raise ValueError("no")
        if how == "interrupted":
            raise Interrupted
        if hasattr(self.runs, "finish"):
            vars(self.runs)["finish"] = lambda *_, **__: None
        raise Killed


class History(RuleBasedStateMachine):
    """The rules, and the dictionary `model`, in the order in which runs were admitted."""

    place_name = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.place = PLACES[self.place_name]()
        self.is_shared = self.place.is_shared
        self.version = 1
        self.processes = [Process(self.place, 1), Process(self.place, 1)]
        self.model: dict[str, Expected] = {}
        self.dead: list[str] = []

    def teardown(self) -> None:
        for process in self.processes:
            process.executor.close()
        self.place.close()

    def chosen(self, which: int) -> str | None:
        return sorted(self.model)[which % len(self.model)] if self.model else None

    def carried(self, at: int, run: Expected, call: Any, ends: tuple[int, str] | None) -> None:
        """Go on with a run in a process, which ends as told, and write down what should be kept then."""
        process = self.processes[at]
        process.calls, process.ends = 0, ends
        left = length_of(run.version) - run.done
        ends = ends if ends is not None and ends[0] < left else None
        run.before = run.status
        how = "ok" if ends is None else ends[1]
        try:
            result = call()
        except Killed:
            assert how == "killed"
        except Interrupted:
            assert how == "interrupted"
        else:
            assert result.success == (how == "ok")
            if how == "ok":
                assert result.final_output["n"] == run.result
        process.ends = None
        assert process.calls == (left if ends is None else ends[0]), "no step that was committed runs again"
        run.done += process.calls
        run.status = how if how in ("ok", "failed") else "running"
        if how == "killed":
            self.bury(at, run)

    def bury(self, at: int, run: Expected | None) -> None:
        """Have a process be dead, with the claims that it holds, and another one in its place."""
        process = self.processes[at]
        if self.is_shared:
            owner = process.runs.owner
            process.runs.close()
            for one in self.model.values():
                if one.owner is process:
                    one.owner = owner
            if run is not None:
                run.owner = owner
            self.dead.append(owner)
        process.executor.close()
        self.processes[at] = Process(self.place, self.version)

    # ---- rules

    @rule(
        at=PROCESSES,
        n=NUMBERS,
        ends=st.none() | st.tuples(MOMENTS, st.sampled_from(["killed", "interrupted", "failed"])),
    )
    def run(self, at: int, n: int, ends: Any) -> None:
        known = set(self.model)
        run = Expected(self.version, n, None)
        process = self.processes[at]
        self.carried(at, run, lambda: process.executor.execute_flow("count", {"n": n}), ends)
        [trace_id] = set(process.runs.list_trace_ids()) - known
        self.model[trace_id] = run

    @precondition(lambda self: self.is_shared)
    @rule(at=PROCESSES, n=NUMBERS, key=KEYS, ends=st.none() | st.tuples(MOMENTS, st.just("killed")))
    def run_with_a_key(self, at: int, n: int, key: str, ends: Any) -> None:
        process = self.processes[at]
        known = set(self.model)

        def call() -> Any:
            return process.executor.execute_flow("count", {"n": n}, key=key)

        taken = next((run for run in self.model.values() if run.key == key), None)
        if taken is None:
            run = Expected(self.version, n, key)
            self.carried(at, run, call, ends)
            [trace_id] = set(process.runs.list_trace_ids()) - known
            self.model[trace_id] = run
        elif taken.n != n:
            with pytest.raises(RunKeyError):
                call()
        elif taken.owner is not None:
            with pytest.raises(RunClaimedError):
                call()
        else:
            self.carried(at, taken, call, ends)

    @rule(at=PROCESSES, which=WHICH, ends=st.none() | st.tuples(MOMENTS, st.sampled_from(["killed", "interrupted"])))
    def resume(self, at: int, which: int, ends: Any) -> None:
        trace_id = self.chosen(which)
        executor = self.processes[at].executor
        if trace_id is None:
            with pytest.raises(CheckpointNotFoundError):
                executor.resume_flow("nobody")
            return
        run = self.model[trace_id]
        if run.owner is not None:
            with pytest.raises(RunClaimedError):
                executor.resume_flow(trace_id)
        else:
            self.carried(at, run, lambda: executor.resume_flow(trace_id), ends)

    @rule()
    def upgrade(self) -> None:
        self.version += 1
        for process in self.processes:
            process.executor.registry.register_flow(flow_of(self.version))

    @rule(at=PROCESSES)
    def crash(self, at: int) -> None:
        self.bury(at, None)

    @rule()
    def time_passes(self) -> None:
        for owner in self.dead:
            self.place.expire(owner)
            for run in self.model.values():
                if run.owner == owner:
                    run.owner = None
        self.dead.clear()

    @precondition(lambda self: self.is_shared)
    @rule(at=PROCESSES)
    def recover(self, at: int) -> None:
        process = self.processes[at]
        orphans = {one: run for one, run in self.model.items() if run.status == "running" and run.owner is None}
        process.calls = 0
        recovered = process.executor.recover()
        assert [one.trace_id for one in recovered] == list(orphans), "each orphan once, the oldest first"
        assert process.calls == sum(length_of(run.version) - run.done for run in orphans.values())
        for one in recovered:
            run = orphans[one.trace_id]
            assert one.result is not None
            assert one.result.final_output is not None
            assert one.result.final_output["n"] == run.result
            run.done, run.status = length_of(run.version), "ok"

    @precondition(lambda self: self.is_shared)
    @rule(at=PROCESSES, which=WHICH)
    def claim(self, at: int, which: int) -> None:
        trace_id = self.chosen(which)
        if trace_id is None:
            return
        run, process = self.model[trace_id], self.processes[at]
        if run.owner is not None:
            with pytest.raises(RunClaimedError):
                process.runs.claim(trace_id)
            return
        process.runs.claim(trace_id)
        run.before, run.status, run.owner = run.status, "running", process

    @precondition(lambda self: self.is_shared)
    @rule(which=WHICH, status=st.sampled_from([None, "running", "failed", "cancelled"]))
    def finish(self, which: int, status: Any) -> None:
        held = [trace_id for trace_id, run in self.model.items() if isinstance(run.owner, Process)]
        if not held:
            return
        trace_id = held[which % len(held)]
        run = self.model[trace_id]
        run.owner.runs.finish(trace_id, status)
        run.owner, run.status = None, run.before if status is None else status

    @precondition(lambda self: self.is_shared)
    @rule(which=WHICH)
    def claim_at_once(self, which: int) -> None:
        trace_id = self.chosen(which)
        if trace_id is None:
            return
        run, won = self.model[trace_id], []
        gate = threading.Barrier(4)

        def work(process: Process) -> None:
            gate.wait(30)
            try:
                process.runs.claim(trace_id)
            except RunClaimedError:
                return
            won.append(process)

        threads = [threading.Thread(target=work, args=(process,)) for process in self.processes * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(won) == (1 if run.owner is None else 0), "one of them, or nobody"
        for process in won:
            process.runs.finish(trace_id, None)

    @precondition(lambda self: self.is_shared)
    @rule(at=PROCESSES, keep_last=st.integers(0, 4))
    def prune(self, at: int, keep_last: int) -> None:
        ended = [trace_id for trace_id, run in self.model.items() if run.status != "running"]
        gone = ended[: max(len(ended) - keep_last, 0)]
        assert self.processes[at].runs.prune(keep_last=keep_last) == len(gone)
        for trace_id in gone:
            del self.model[trace_id]

    @precondition(lambda self: not self.is_shared)
    @rule(at=PROCESSES, which=WHICH)
    def delete(self, at: int, which: int) -> None:
        trace_id = self.chosen(which)
        if trace_id is not None:
            self.processes[at].runs.delete(trace_id)
            del self.model[trace_id]

    # ---- what is there

    @invariant()
    def the_store_holds_what_the_model_says(self) -> None:
        store = self.processes[0].runs
        assert store.list_trace_ids() == sorted(self.model)
        for trace_id, run in self.model.items():
            snapshot = store.load(trace_id)
            assert snapshot.flow_version == f"{run.version}.0.0"
            assert [step.outputs for step in snapshot.steps] == [{"n": run.n + 1 + one} for one in range(run.done)]
        if not self.is_shared:
            return
        found = {one.trace_id: one for one in store.list_runs(limit=10**6)}
        assert list(found) == list(reversed(self.model)), "the latest first"
        for trace_id, run in self.model.items():
            one = found[trace_id]
            assert (one.status, one.key, one.steps_done) == (run.status, run.key, run.done)
            assert one.is_orphan == (run.status == "running" and run.owner is None)


@pytest.mark.parametrize("place", PLACES)
def test_any_history_leaves_what_the_model_says(place: str) -> None:
    """R31, R32, R33: whatever is run, broken off, claimed, taken over, upgraded and pruned, in any order."""
    machine = type("HistoryIn" + place.title().replace(" ", ""), (History,), {"place_name": place})
    run_state_machine_as_test(machine, settings=SIZE)
