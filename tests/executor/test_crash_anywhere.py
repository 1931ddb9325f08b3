"""Runs of random flows that end at any of their commands, and go on from what the store holds as if they had not.

The core is driven by hand: commands are performed for real, and after so many of them the run is dropped, as a process
drops it that is killed. Nothing is thrown and nothing is concluded. A fresh executor then resumes it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from chainweaver import (
    ChainWeaverError,
    ConditionalEdge,
    DAGFlowStep,
    ExecutionResult,
    ExecutionSnapshot,
    FileCheckpointer,
    FlowExecutor,
    InMemoryCheckpointer,
    RetryPolicy,
)
from chainweaver._execution import Schedule, walk
from chainweaver.lanes.cancel import NEVER
from chainweaver.lanes.drive import perform, run_to_end
from chainweaver.lanes.sync import BlockingPerformer
from tests.conftest import PROOF
from tests.executor.kit import Calls, crashed, dag, merged
from tests.lanes.oracle import Ending, Told
from tests.lanes.stories import DIARY, INITIAL, Diary, Step, Story
from tests.lanes.table import LANES, Lane
from tests.lanes.test_all_constructs import executor_of, outline, random_stories

EXAMPLES = 2_000 if PROOF else 200
ENOUGH = 1_000_000
SIZES = ((1, 2, 3, 4, 5, 6), (1, 2, 2, 3), (1, 1, 2))


@pytest.fixture(autouse=True, scope="module")
def _no_warnings_of_collisions() -> Iterator[None]:
    """Random flows collide all the time; what is logged of it is the subject of other tests."""
    logger = logging.getLogger("chainweaver.executor")
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(random_stories(sizes=SIZES, overlaps=False))
def test_a_run_that_is_dropped_after_any_command_goes_on_with_the_next_step(story: Story) -> None:
    """R24, R27, R28, R32, R33: from the last commit on it makes the very calls of a run that was not broken off."""
    store = Store()
    with executor_of(story, 1, checkpointer=store) as executor, executor_of(story, 1, checkpointer=store) as fresh:
        expected = ending(Diary(), executor.execute_flow, "story", INITIAL)
        # A step that failed is not committed. It is called again, and must then not know of its calls before.
        by_attempt = leaves_failures(story, expected.trace)
        if by_attempt:
            expected = ending(Diary(by_attempt=True), executor.execute_flow, "story", INITIAL)
        whole = Diary(by_attempt=by_attempt)
        for k in range(1, Hand(executor, whole).walk()):
            diary = Diary(by_attempt=by_attempt)
            hand = Hand(executor, diary)
            hand.walk(k)
            left = whole.tasks[diary.committed :]
            diary.crash()
            found = ending(diary, fresh.resume_flow, hand.trace_id)
            assert lasting(story, found) == lasting(story, expected), f"after {k} commands"
            assert by_attempt or diary.tasks == left, f"after {k} commands"
            store.delete(hand.trace_id)


@pytest.mark.slow
@settings(max_examples=EXAMPLES // 2)
@given(random_stories(sizes=SIZES), st.randoms(use_true_random=False), st.sampled_from(LANES), st.booleans())
def test_a_crowd_that_is_dropped_after_any_command_ends_as_if_it_had_not(
    story: Story, random: Random, lane: Lane, in_file: bool
) -> None:
    """R1, R24, R27, R28, R32, R33: whatever lane goes on, it calls nothing that was committed and ends alike."""
    with TemporaryDirectory() as directory:
        store = FileStore(directory, fsync=False) if in_file else Store()
        with executor_of(story, 4, checkpointer=store) as executor, executor_of(story, 4, checkpointer=store) as fresh:
            expected = lasting(story, ending(Diary(by_attempt=True), executor.execute_flow, "story", INITIAL))
            for k in range(1, Hand(executor, Diary(by_attempt=True)).crowd(random)):
                diary = Diary(by_attempt=True)
                hand = Hand(executor, diary)
                hand.crowd(random, k)
                committed = committed_places(store.load(hand.trace_id))
                diary.crash()
                found = ending(diary, resumed, lane, fresh, hand.trace_id)
                assert lasting(story, found) == expected, f"after {k} commands"
                assert [place for _, place, *_ in diary.tasks if place in committed and once(story, place)] == []
                store.delete(hand.trace_id)


def test_a_branch_stays_as_it_was_taken_though_its_predicate_would_now_choose_another() -> None:
    """R24: what was decided is part of the checkpoint, and no predicate is asked again."""
    calls, store = Calls(last=1), InMemoryCheckpointer()
    flow = dag(
        node("look", branches=[ConditionalEdge(target_step_id="large", predicate="look > 1")], default_next="small"),
        node("large", "look"),
        node("small", "look"),
    )
    tools = [calls.tool(name) for name in ("look", "large", "small")]

    def look_again(snapshot: ExecutionSnapshot) -> ExecutionSnapshot:
        [looked] = snapshot.steps
        return snapshot.model_copy(update={"steps": [looked.with_outputs({"out": 0})]})

    with FlowExecutor(tools=tools, flows=[flow], checkpointer=store) as executor:
        trace_id = crashed(executor, {"n": 1})
        calls.last = None
        result = executor.resume_flow(trace_id, migrate=look_again)
    assert result.final_output == {"n": 1, "look": 0, "large": 2}
    assert calls.counts == {"look": 1, "large": 1}


@pytest.mark.parametrize("limit", [1, 4])
def test_a_join_that_was_committed_does_not_run_again_after_the_parent_that_was_passed_over(limit: int) -> None:
    """R24, R32: a step that is passed over is in no store, and closes late; its dependents may have run long before."""
    calls, store = Calls(last=3), InMemoryCheckpointer()
    flow = dag(
        node("fork", default_next="join"),
        node("side", "fork"),
        node("join", "fork", "side"),
        node("apart"),
        node("last", "join", "apart"),
    )
    tools = [calls.tool(name, lane="inline") for name in ("fork", "side", "join", "apart", "last")]
    with FlowExecutor(tools=tools, flows=[flow], checkpointer=store, max_step_concurrency=limit) as executor:
        trace_id = crashed(executor, {"n": 1})
        calls.last = None
        assert executor.resume_flow(trace_id).success
    assert calls.counts == {"fork": 1, "apart": 1, "join": 1, "last": 1}


@pytest.mark.parametrize("done", [1, 2, 3, 4])
def test_a_sub_flow_goes_on_in_its_own_position(done: int) -> None:
    """R27: the steps of it that were committed do not run again, in whatever depth they are."""
    calls, store = Calls(last=done), InMemoryCheckpointer()
    names = ("a", "b", "c")
    inner = dag(*(node(name, *names[at - 1 : at]) for at, name in enumerate(names)), name="inner")
    outer = dag(
        node("first"), node("nested", "first", tool_name=None, flow_name="inner", output_mapping=None), name="outer"
    )
    flow = dag(node("whole", tool_name=None, flow_name="outer", output_mapping=None), node("last", "whole"))
    tools = [calls.tool(name) for name in (*names, "first", "last")]
    with FlowExecutor(tools=tools, flows=[inner, outer, flow], checkpointer=store) as executor:
        trace_id = crashed(executor, {"n": 1})
        assert list(calls.counts) == ["first", *names][:done]
        calls.last = None
        result = executor.resume_flow(trace_id)
    assert merged(result) == {"n": 1, "first": 2, "a": 2, "b": 2, "c": 2, "last": 2}
    assert calls.counts == dict.fromkeys(("first", *names, "last"), 1)


def node(name: str, *needs: str, **options: Any) -> DAGFlowStep:
    """A step that calls the tool of its name and writes a key of that name."""
    options = {"tool_name": name, "output_mapping": {name: "out"}, **options}
    return DAGFlowStep(step_id=name, depends_on=list(needs), **options)


class Noted:
    """Has the tools of a run note how far they had come when a step was committed."""

    def append(self, trace_id: str, delta: Any) -> None:
        super().append(trace_id, delta)  # type: ignore[misc]  # of the store that this is mixed into
        DIARY.get().commit()


class Store(Noted, InMemoryCheckpointer):
    pass


class FileStore(Noted, FileCheckpointer):
    pass


def committed_places(snapshot: ExecutionSnapshot) -> set[tuple[str, ...]]:
    """The places that are committed, whatever the attempt."""
    return {(*(one.partition("#")[0] for one in step.path), step.step_id) for step in snapshot.steps}


def resumed(lane: Lane, executor: FlowExecutor, trace_id: str) -> ExecutionResult:
    if lane.backend is None:
        return executor.resume_flow(trace_id, **lane.options)

    async def call() -> ExecutionResult:
        return await executor.resume_flow_async(trace_id)

    result: ExecutionResult = lane.backend(call)
    return result


@pytest.mark.parametrize("done", [3, 4])
@pytest.mark.parametrize("deep", [False, True])
def test_an_attempt_that_committed_nothing_hides_none_after_it(done: int, deep: bool) -> None:
    """R27, R32: a sub-flow goes on in its last attempt, also when that is the only one which the store knows."""
    calls, store = Calls(last=done), InMemoryCheckpointer()

    def busy_twice(given: Any) -> dict[str, int]:
        if calls.counts["busy"] < 3:
            raise OSError("busy")
        return {"out": given.n + 1}

    retry = RetryPolicy(max_retries=2, backoff_seconds=0)
    flows = [dag(node("busy"), node("then", "busy"), name="inner")]
    if deep:
        flows.append(dag(node("nested", tool_name=None, flow_name="inner", output_mapping=None), name="middle"))
    whole = node("whole", tool_name=None, flow_name=flows[-1].name, output_mapping=None, retry=retry)
    flows.append(dag(whole, node("last", "whole")))
    tools = [calls.tool("busy", busy_twice), calls.tool("then"), calls.tool("last")]
    with FlowExecutor(tools=tools, flows=flows, checkpointer=store) as executor:
        trace_id = crashed(executor, {"n": 1})
        calls.last = None
        result = executor.resume_flow(trace_id)
    assert merged(result) == {"n": 1, "busy": 2, "then": 2, "last": 2}
    assert result.step("whole").retry_count == 2
    assert calls.counts == {"busy": 3, "then": 1, "last": 1}


def leaves_failures(story: Story, trace: list[Told]) -> bool:
    """Whether a step failed, while others of its flow went on and were committed."""
    steps = {step.name: step for step in story.steps}
    return any(told.status == "failed" or _leaves_failures(steps[told.step], told) for told in trace if told.step)


def _leaves_failures(step: Step, told: Told) -> bool:
    if step.over:
        return any(_leaves_failures(replace(step, over=None), item) for item in told.inside or ())
    if not isinstance(step.calls, Story):
        return False
    # Of the attempts before the last one there is no trace.
    finishes = any(flow.on_failure == "finish" for flow in step.calls.all_flows())
    return finishes and (told.retries > 0 or leaves_failures(step.calls, told.inside or []))


def once(story: Story, place: tuple[str, ...]) -> bool:
    """Whether no retry of a sub-flow around it calls a place again."""
    tried_again = {step.name for step in story.all_steps() if isinstance(step.calls, Story) and step.retries}
    return tried_again.isdisjoint(place[:-1])


class Hand:
    """Performs the commands of a run, as many of them as it is told to.

    Attributes:
        performed: How many it has performed.
    """

    def __init__(self, executor: FlowExecutor, diary: Diary) -> None:
        DIARY.set(diary)
        runs, plan = executor._bind(), executor._plans.prepare("story", None).plan
        self.run, services, resources, _ = runs.begin(plan, INITIAL, None, None)
        self.performer = BlockingPerformer(services, resources, NEVER)
        self.performed = 0

    @property
    def trace_id(self) -> str:
        return self.run.trace_id()

    def walk(self, commands: int = ENOUGH) -> int:
        """Take the steps one after the other; how many commands that took."""
        life = walk(self.run)
        try:
            command = next(life)
            while self.performed < commands:
                reply, failure = self._perform(command)
                command = life.send(reply) if failure is None else life.throw(failure)
        except StopIteration:
            pass
        return self.performed

    def crowd(self, random: Random, commands: int = ENOUGH) -> int:
        """Take up to four steps at a time, and reply to them in any order; how many commands that took."""
        schedule = Schedule(self.run, 4)
        going = schedule.start()
        while going and self.performed < commands:
            step_run = going.pop(random.randrange(len(going)))
            reply, failure = self._perform(step_run.command)
            going += schedule.ok(step_run, reply) if failure is None else schedule.err(step_run, failure)
        return self.performed

    def _perform(self, command: Any) -> tuple[Any, Exception | None]:
        self.performed += 1
        try:
            return run_to_end(perform(command, self.performer)), None
        except Exception as exc:
            return None, exc


def ending(diary: Diary, call: Callable[..., ExecutionResult], *args: Any) -> Ending:
    DIARY.set(diary)
    try:
        return outline(None, call(*args))
    except ChainWeaverError as error:
        return outline(type(error).__name__, error.result)  # type: ignore[attr-defined]  # it leaves a call with one


def lasting(story: Story, ending: Ending) -> Ending:
    """An ending without what no checkpoint holds: outputs that a mapping drops."""
    return replace(ending, trace=_lasting(story, ending.trace))


def _lasting(story: Story, trace: list[Told]) -> list[Told]:
    steps = {step.name: step for step in story.steps}
    return [_kept(steps[told.step], told) if told.step else told for told in trace]


def _kept(step: Step, told: Told) -> Told:
    if step.writes is not None and told.outputs is not None:
        told = replace(told, outputs={name: told.outputs[name] for name in step.writes.values()})
    if told.inside is None:
        return told
    if step.over:
        each = replace(step, over=None, writes=None)
        return replace(told, inside=[_kept(each, item) for item in told.inside])
    assert isinstance(step.calls, Story), "what has something inside is a map or a sub-flow"
    return replace(told, inside=_lasting(step.calls, told.inside))
