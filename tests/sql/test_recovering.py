"""What an executor makes of durable runs that somebody else left, asks for again, or cannot go on with.

Who may claim a run, and what its store does then, is in `test_claims` and `test_questions`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from chainweaver import (
    BaseMiddleware,
    CheckpointDriftError,
    Flow,
    FlowCancelledError,
    FlowCompileError,
    FlowExecutor,
    FlowStep,
    RunKeyError,
    StoreUnavailableError,
    tool,
)
from chainweaver.executor.durable import Recovered
from chainweaver.sql import SqlStore, open_store
from chainweaver.testing import VirtualClock

LANES = ["sync", "async"]


@tool
def first(n: int) -> int:
    return n + 1


@tool
def last(first: int) -> int:
    return first * 10


FLOW = Flow(name="flow", version="1.0.0", description="", steps=[FlowStep(tool_name=t) for t in ("first", "last")])


@pytest.fixture
def store(database_url: str) -> Iterator[SqlStore]:
    with open_store(database_url) as opened:
        yield opened


def executor_of(store: SqlStore, *tools: Any, **settings: Any) -> FlowExecutor:
    return FlowExecutor(tools=tools or (first, last), flows=[FLOW], checkpointer=store.runs, **settings)


def run_on(lane: str, executor: FlowExecutor, **options: Any) -> Any:
    if lane == "sync":
        return executor.execute_flow("flow", {"n": 1}, **options)
    return anyio.run(partial(executor.execute_flow_async, "flow", {"n": 1}, **options))


def recovered_by(executor: FlowExecutor, lane: str, **options: Any) -> list[Recovered]:
    if lane == "sync":
        return executor.recover(**options)
    return anyio.run(partial(executor.recover_async, **options))


def left(store: SqlStore, n: int = 1) -> str:
    """A run that died in its second step."""

    @tool(name="last")
    def dies(first: int) -> int:
        raise KeyboardInterrupt

    with executor_of(store, first, dies) as executor, pytest.raises(KeyboardInterrupt):
        executor.execute_flow("flow", {"n": n})
    return store.runs.list_runs(limit=1)[0].trace_id


# ---- asking by key


def test_whoever_asks_for_a_run_that_has_ended_claims_nothing(database_url: str) -> None:
    """R32: any number may ask at once, and to the log the run stays as it ended."""
    with open_store(database_url) as store, executor_of(store) as executor:
        begun = executor.execute_flow("flow", {"n": 1}, key="may")
        before = store.runs.info(begun.trace_id)
        answers: list[Any] = []

        def ask() -> None:
            with open_store(database_url) as own, executor_of(own) as asking:
                for _ in range(5):
                    answers.append(asking.execute_flow("flow", {"n": 1}, key="may").final_output)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert answers == [begun.final_output] * 20
        assert store.runs.info(begun.trace_id) == before


class Old(BaseModel):
    price: float


class New(Old):
    rate: float = 0.25


def test_a_new_version_that_fills_in_more_does_not_make_the_input_another_one(store: SqlStore) -> None:
    """R32: what is compared is what the caller gave."""

    @tool
    def priced(price: float, rate: float = 0.25) -> float:
        return price * (1 + rate)

    step = FlowStep(tool_name="priced")
    old, new = (
        Flow(name="price", version=number, description="", steps=[step], input_schema_ref=f"{__name__}:{model}")
        for number, model in (("1.0.0", "Old"), ("1.1.0", "New"))
    )
    with FlowExecutor(tools=[priced], flows=[old], checkpointer=store.runs) as executor:
        begun = executor.execute_flow("price", {"price": 8.0}, key="may")
    with FlowExecutor(tools=[priced], flows=[old, new], checkpointer=store.runs) as executor:
        again = executor.execute_flow("price", {"price": 8.0}, key="may")
        with pytest.raises(RunKeyError, match="another input"):
            executor.execute_flow("price", {"price": 9.0}, key="may")

    assert (again.trace_id, again.final_output) == (begun.trace_id, begun.final_output)


@pytest.mark.parametrize("wrong", ["a\0b", "\ud800", "k" * 1_201], ids=["zero", "surrogate", "long"])
def test_a_key_that_nobody_could_find_again_is_refused_before_anything_starts(store: SqlStore, wrong: str) -> None:
    """R32: by the call, and not by a run that fails."""
    with executor_of(store) as executor, pytest.raises(ValueError, match="key has to be a text of 1,200 bytes"):
        executor.execute_flow("flow", {"n": 1}, key=wrong)
    assert store.runs.list_runs() == []


# ---- what is left


class Interrupts(BaseMiddleware):
    """Ctrl-C, right after a run was admitted."""

    def on_flow_start(self, context: Any) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("lane", LANES)
def test_a_run_that_is_interrupted_before_its_first_step_is_an_orphan(store: SqlStore, lane: str) -> None:
    """R32: nobody carries it, so nobody has a claim on it."""
    with executor_of(store, middleware=[Interrupts()]) as executor, pytest.raises(KeyboardInterrupt):
        run_on(lane, executor)

    [info] = store.runs.list_runs()
    assert info.is_orphan
    with executor_of(store) as executor:
        [one] = recovered_by(executor, lane)
    assert (one.trace_id, one.error) == (info.trace_id, None)


@pytest.mark.parametrize("lane", LANES)
def test_a_run_whose_tool_is_not_here_is_left_to_those_who_have_it(store: SqlStore, lane: str) -> None:
    """R32: failing it would end it for everybody."""
    run = left(store)
    with executor_of(store, first) as executor:
        [one] = recovered_by(executor, lane)
    assert isinstance(one.error, FlowCompileError)
    assert "'last' is not registered" in str(one.error)
    assert store.runs.info(run).is_orphan

    with executor_of(store) as executor:
        [one] = recovered_by(executor, lane)
    assert one.result is not None
    assert one.result.final_output == {"n": 1, "first": 2, "last": 20}


@pytest.mark.parametrize("lane", LANES)
def test_a_migration_that_raises_keeps_one_run_and_not_the_others(store: SqlStore, lane: str) -> None:
    """R33: the oldest comes first at every call, and would be in the way for ever."""
    poisoned, sound = left(store, 1), left(store, 2)

    def migrate(snapshot: Any) -> Any:
        if snapshot.trace_id == poisoned:
            raise KeyError("gone")
        return snapshot

    with executor_of(store) as executor:
        one, other = recovered_by(executor, lane, migrate=migrate)
    assert isinstance(one.error, CheckpointDriftError)
    assert isinstance(one.error.__cause__, KeyError)
    assert store.runs.info(poisoned).is_orphan
    assert (other.trace_id, other.error, store.runs.info(sound).status) == (sound, None, "ok")


@pytest.mark.parametrize("lane", LANES)
def test_recovering_ends_at_its_deadline_and_leaves_the_rest_as_it_is(store: SqlStore, lane: str) -> None:
    """R32: the run that is under way is handed back, and none is claimed after it."""
    begun, waiting = left(store, 1), left(store, 2)
    clock = VirtualClock()

    @tool(name="last")
    def slow(first: int) -> int:
        clock.advance(100)
        return first * 10

    longer = FLOW.model_copy(update={"steps": [*FLOW.steps, FlowStep(tool_name="first")]})
    runtime = clock.runtime()
    with FlowExecutor(tools=[first, slow], flows=[longer], checkpointer=store.runs, runtime=runtime) as executor:
        [one] = recovered_by(executor, lane, deadline=runtime.wall_time() + 50)

    assert one.trace_id == begun
    assert isinstance(one.error, FlowCancelledError)
    assert [store.runs.info(run).is_orphan for run in (begun, waiting)] == [True, True]


@pytest.mark.parametrize("wrong", [{"deadline": "soon"}, {"cancel_token": 3}, {"lane": "nowhere"}, {"limit": -1}])
def test_wrong_arguments_are_refused_also_where_nothing_is_left(store: SqlStore, wrong: dict[str, Any]) -> None:
    """R32: now, and not when there is an orphan at last."""
    with executor_of(store) as executor, pytest.raises((TypeError, ValueError)):
        executor.recover(**wrong)


# ---- what ends a run


class Away:
    """A store that does not answer when the second step is committed, and is back for the end of the run."""

    def __init__(self, store: SqlStore) -> None:
        self._append = store.runs.append
        self._commits = 0

    def append(self, trace_id: str, delta: Any) -> None:
        self._commits += 1
        if self._commits == 2:
            raise StoreUnavailableError("the database", "it is locked")
        self._append(trace_id, delta)


@pytest.mark.parametrize("lane", LANES)
def test_a_run_that_its_store_has_stopped_has_not_ended(
    store: SqlStore, lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R32: whether the store is back for the end of the run or not, recovering goes on with it."""
    with monkeypatch.context() as patch, executor_of(store) as executor:
        patch.setattr(store.runs, "append", Away(store).append)
        with pytest.raises(StoreUnavailableError):
            run_on(lane, executor).raise_for_failure()
    [info] = store.runs.list_runs()
    assert info.is_orphan
    with executor_of(store) as executor:
        [one] = recovered_by(executor, lane)
    assert one.error is None
    assert store.runs.info(info.trace_id).status == "ok"


@pytest.mark.parametrize("lane", LANES)
def test_the_log_names_what_a_run_was_ended_by(store: SqlStore, lane: str) -> None:
    """R31: a deadline has a code as well as a tool that fails."""
    with executor_of(store) as executor, pytest.raises(FlowCancelledError):
        run_on(lane, executor, deadline=1.0)
    assert [(one.status, one.error) for one in store.runs.list_runs()] == [("cancelled", "CW-E012")]
