"""A run that was broken off goes on where it was: nothing is done twice, nothing looks different afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from chainweaver import (
    CancellationToken,
    CheckpointerNotConfiguredError,
    CheckpointNotFoundError,
    ConditionalEdge,
    DAGFlowStep,
    ExecutionSnapshot,
    FileCheckpointer,
    FlowCancelledError,
    FlowExecutor,
    FlowStep,
    InMemoryCheckpointer,
    InMemoryStepCache,
    RetryPolicy,
    ToolContext,
    tool,
)
from tests.executor.kit import Calls, Crash, chain, crashed, dag, linear, merged

STORES: dict[str, Callable[[Path], Any]] = {
    "memory": lambda path: InMemoryCheckpointer(),
    "file": lambda path: FileCheckpointer(path, fsync=False),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """One checkpointer of each kind."""
    return STORES[request.param](tmp_path / "checkpoints")


class Rows(BaseModel):
    rows: list[int]
    total: int


class RowsIn(BaseModel):
    n: int = 0
    rows: list[int] = []


ONCE = RetryPolicy(max_retries=1, backoff_seconds=0)


def refuse(given: Any) -> Any:
    raise OSError("busy")


class Story:
    """A flow whose steps show every detail that a record has, and what it is run with."""

    def __init__(self, last: int | None = None) -> None:
        self.calls = calls = Calls(last)
        self.tried = tried = set[int]()

        def second_time_lucky(given: Any) -> dict[str, int]:
            if given.n not in tried:
                tried.add(given.n)
                raise OSError("busy")
            return {"out": given.n}

        self.tools = [
            calls.tool("plain", cacheable=False),
            calls.tool("flaky", second_time_lucky, cacheable=False),
            calls.tool("broken", refuse, cacheable=False),
            calls.tool("replaced", refuse, cacheable=False),
            calls.tool("stand_in", cacheable=False),
            calls.tool("cached"),
            calls.tool("rows", lambda given: {"rows": [given.n, 2], "total": 3}, output_schema=Rows, cacheable=False),
            calls.tool("sum", lambda given: {"out": sum(given.rows)}, input_schema=RowsIn, cacheable=False),
        ]
        self.flow = linear(
            FlowStep(tool_name="plain", output_mapping={"a": "out"}),
            FlowStep(tool_name="flaky", input_mapping={"n": "a"}, output_mapping={"b": "out"}, retry=ONCE),
            FlowStep(tool_name="broken", input_mapping={"n": "b"}, on_error="skip", retry=ONCE),
            FlowStep(
                tool_name="replaced",
                input_mapping={"n": "b"},
                output_mapping={"c": "out"},
                on_error="fallback:stand_in",
            ),
            FlowStep(tool_name="cached", input_mapping={"n": 7}, output_mapping={"d": "out"}),
            FlowStep(tool_name="rows", input_mapping={"n": "c"}),
            FlowStep(tool_name="sum", input_mapping={"n": "d", "rows": "rows"}),
        )
        self.cache = InMemoryStepCache()

    def executor(self, store: Any, **options: Any) -> FlowExecutor:
        return FlowExecutor(tools=self.tools, flows=[self.flow], checkpointer=store, step_cache=self.cache, **options)

    def warm(self) -> None:
        """Have the cached step in the cache, from a run of another flow."""
        flow = linear(FlowStep(tool_name="cached", input_mapping={"n": 7}))
        FlowExecutor(tools=self.tools, flows=[flow], step_cache=self.cache).execute_flow("flow", {"n": 0})
        self.calls.counts.clear()


def whole_story(store: Any) -> tuple[Any, Calls]:
    """The story without a crash."""
    story = Story()
    story.warm()
    return story.executor(store).execute_flow("flow", {"n": 1}), story.calls


CALLS_OF_THE_STORY = 9


@pytest.mark.parametrize("last", range(CALLS_OF_THE_STORY))
def test_a_resumed_run_is_the_run_that_was_not_broken_off(store: Any, last: int):
    """R32: wherever it crashed, every tool is called as often as without a crash, and all records are the same."""
    expected, calls = whole_story(InMemoryCheckpointer())
    assert calls.counts.total() == CALLS_OF_THE_STORY

    story = Story()
    story.warm()
    story.calls.last = last
    trace_id = crashed(story.executor(store), {"n": 1})
    story.calls.last = None
    story.tried.clear()  # another process has tried nothing yet
    result = story.executor(store).resume_flow(trace_id)

    assert result.status == "ok"
    assert result.trace_id == trace_id
    assert result.final_output == expected.final_output
    assert result.canonical_trace() == expected.canonical_trace()
    # A step that was on its way begins again, with all its attempts; the others do not.
    again = {"flaky": 1, "broken": 1, "replaced": 1}
    for name, count in story.calls.counts.items():
        assert calls.counts[name] <= count <= calls.counts[name] + again.get(name, 0)


def test_the_story_has_every_detail():
    """R32: the test above compares records in which there is something to compare."""
    result, _ = whole_story(InMemoryCheckpointer())
    flaky, broken, replaced, cached = (result.step(step) for step in "1234")

    assert (flaky.retry_count, flaky.retry_errors) == (1, ["Tool 'flaky' failed at step 1: OSError: busy."])
    assert (broken.skipped, broken.error_cause, broken.retry_count) == (True, "OSError", 1)
    assert (replaced.fallback_used, replaced.fallback_tool_name) == (True, "stand_in")
    assert cached.cached
    assert result.step("5").outputs == {"rows": [3, 2], "total": 3}


@pytest.mark.parametrize("limit", [1, 4])
@pytest.mark.parametrize("failing", range(6))
def test_a_store_that_fails_ends_the_run_where_it_can_go_on(failing: int, limit: int):
    """R16: nothing runs after a step that could not be saved; the run is resumed from the one before it."""
    calls = Calls()
    names = [f"t{at}" for at in range(6)]
    options: dict[str, Any] = {
        "tools": [calls.tool(name) for name in names],
        "flows": [chain(*names)],
        "max_step_concurrency": limit,
    }
    store = Failing(failing)
    with FlowExecutor(checkpointer=store, **options) as executor:
        result = executor.execute_flow("flow", {"n": 0})

        assert result.status == "failed"
        assert sorted(calls.counts) == names[: failing + 1]
        record = result.execution_log[-1]
        assert (record.step_index, record.error_type, record.error_cause) == (failing, "FlowExecutionError", "OSError")
        assert "disk full" in str(record.error_message)

        store.failing = None
        resumed = executor.resume_flow(result.trace_id)
    assert merged(resumed) == {"n": 0, **{f"t{at}_out": at + 1 for at in range(6)}}
    assert calls.counts == {name: 2 if name == f"t{failing}" else 1 for name in names}


class Failing(InMemoryCheckpointer):
    """Cannot append the step of one position."""

    def __init__(self, failing: int | None) -> None:
        super().__init__()
        self.failing = failing

    def append(self, trace_id: str, delta: Any) -> None:
        if delta.step_index == self.failing:
            raise OSError("disk full")
        super().append(trace_id, delta)


def test_a_store_that_cannot_begin_fails_the_run_before_its_first_step():
    """R16: without a checkpoint nothing is done that could not be resumed."""

    class Full(InMemoryCheckpointer):
        def save(self, snapshot: ExecutionSnapshot) -> None:
            raise OSError("disk full")

    calls = Calls()
    result = FlowExecutor(tools=[calls.tool("t")], flows=[chain("t")], checkpointer=Full()).execute_flow(
        "flow", {"n": 0}
    )

    assert (result.status, dict(calls.counts)) == ("failed", {})
    [record] = result.execution_log
    assert (record.step_index, record.error_cause) == (-1, "OSError")
    with pytest.raises(Exception, match="disk full"):
        result.raise_for_failure()


@pytest.mark.parametrize("last", range(7))
@pytest.mark.parametrize("limit", [1, 4])
def test_a_dag_goes_on_where_it_was(store: Any, limit: int, last: int):
    """R32: side by side or not, a committed step never runs again, and one per slot may."""
    from chainweaver import DAGFlowStep

    calls = Calls(last)
    tools = [calls.tool(name) for name in "abcdefg"]
    steps = [DAGFlowStep(step_id="a", tool_name="a", output_mapping={"a": "out"})]
    steps += [
        DAGFlowStep(step_id=x, tool_name=x, depends_on=["a"], input_mapping={"n": "a"}, output_mapping={x: "out"})
        for x in "bcde"
    ]
    steps += [
        DAGFlowStep(
            step_id="f", tool_name="f", depends_on=[*"bcde"], input_mapping={"n": "b"}, output_mapping={"f": "out"}
        )
    ]
    steps += [
        DAGFlowStep(step_id="g", tool_name="g", depends_on=["f"], input_mapping={"n": "f"}, output_mapping={"g": "out"})
    ]
    flow = dag(*steps)
    with FlowExecutor(tools=tools, flows=[flow], checkpointer=store, max_step_concurrency=limit) as executor:
        trace_id = crashed(executor, {"n": 0})
    # Closing has waited for the threads: a step under way at the crash may be saved after it, and none is any more.
    committed = {step.step_id for step in store.load(trace_id).steps}
    before = dict(calls.counts)
    calls.last = None
    with FlowExecutor(tools=tools, flows=[flow], checkpointer=store, max_step_concurrency=limit) as executor:
        output = merged(executor.resume_flow(trace_id))

    assert output == {"n": 0, "a": 1, **dict.fromkeys("bcde", 2), "f": 3, "g": 4}
    assert {name: calls.counts[name] - before.get(name, 0) for name in "abcdefg"} == {
        name: 0 if name in committed else 1 for name in "abcdefg"
    }
    assert len(set(before) - committed) <= limit - 1 if limit > 1 else set(before) == committed


def test_the_inputs_of_resumed_records_are_those_of_the_first_run(store: Any):
    """R32: inputs are not stored; they are worked out again from what is."""
    calls = Calls(last=2)
    with FlowExecutor(tools=[calls.tool(x) for x in "abc"], flows=[chain(*"abc")], checkpointer=store) as executor:
        trace_id = crashed(executor, {"n": 4})
        calls.last = None
        result = executor.resume_flow(trace_id)
    assert [record.inputs for record in result.execution_log] == [{"n": 4}, {"n": 5}, {"n": 6}]


def test_times_of_finished_steps_are_those_at_which_they_ran(store: Any):
    """R32: a resumed trace tells when things happened, not when they were read back."""
    calls = Calls(last=1)
    with FlowExecutor(tools=[calls.tool(x) for x in "ab"], flows=[chain(*"ab")], checkpointer=store) as executor:
        trace_id = crashed(executor, {"n": 4})
        [kept] = store.load(trace_id).steps
        calls.last = None
        result = executor.resume_flow(trace_id)
        first, second = result.execution_log
    assert abs(first.started_at.timestamp() - kept.started_at) < 1e-3
    assert abs(first.duration_ms - kept.duration_ns / 1e6) < 1e-6
    assert first.ended_at <= result.started_at <= second.started_at


def test_a_resumed_record_shows_outputs_under_the_names_of_the_tool(store: Any):
    """R11: an output mapping renames at the merge only, after a resume as before."""
    calls = Calls(last=1)
    with FlowExecutor(tools=[calls.tool(x) for x in "ab"], flows=[chain(*"ab")], checkpointer=store) as executor:
        trace_id = crashed(executor, {"n": 4})
        calls.last = None
        assert [record.outputs for record in executor.resume_flow(trace_id).execution_log] == [{"out": 5}, {"out": 6}]


class Step(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def _add(cls, n: int) -> int:
        return n + 1


def test_validators_are_not_applied_a_second_time(store: Any):
    """R10: what was stored is what validation made of the values; a resume takes it as it is."""
    calls = Calls(last=1)
    tools = [
        calls.tool("a", lambda given: {"n": 10}, output_schema=Step),
        calls.tool("b", lambda given: {"out": given.n}),
    ]
    flow = linear(FlowStep(tool_name="a", output_mapping={"m": "n"}), FlowStep(tool_name="b", input_mapping={"n": "m"}))
    with FlowExecutor(tools=tools, flows=[flow], checkpointer=store) as executor:
        trace_id = crashed(executor, {"n": 0})
        calls.last = None
        assert merged(executor.resume_flow(trace_id)) == {"n": 0, "m": 11, "out": 11}


def test_the_input_is_not_validated_a_second_time(store: Any):
    """R8: the context begins with the validated values; validating those again could change them."""
    calls = Calls(last=0)
    flow = chain("a", input_schema_ref="tests.executor.test_resume:Step")
    with FlowExecutor(tools=[calls.tool("a")], flows=[flow], checkpointer=store) as executor:
        trace_id = crashed(executor, {"n": 1})
        calls.last = None
        assert merged(executor.resume_flow(trace_id)) == {"n": 2, "a_out": 3}


def test_the_key_of_a_step_is_the_same_in_every_attempt_and_after_a_resume(store: Any):
    """R32: a tool that hands the key on is answered for the first attempt by whoever it asks."""
    keys: list[tuple[str, str, int]] = []
    ends = [Crash(), OSError("busy"), None]

    @tool
    def pay(n: int, context: ToolContext) -> int:
        keys.append((context.idempotency_key, context.run_id, context.attempt))
        if (end := ends.pop(0)) is not None:
            raise end
        return n

    flow = linear(FlowStep(tool_name="pay", retry=ONCE))
    executor = FlowExecutor(tools=[pay], flows=[flow], checkpointer=store)
    trace_id = crashed(executor, {"n": 1})
    executor.resume_flow(trace_id).raise_for_failure()

    assert keys == [(f"{trace_id}/0", trace_id, attempt) for attempt in (1, 1, 2)]


def test_a_checkpoint_goes_when_its_run_ended_well(store: Any):
    """R31: what cannot be resumed any more is not kept."""
    executor = FlowExecutor(tools=[Calls().tool("a")], flows=[chain("a")], checkpointer=store)
    executor.execute_flow("flow", {"n": 0})
    assert store.list_trace_ids() == []


def test_a_checkpoint_stays_when_the_executor_says_so(store: Any):
    """R31: `delete_on_success=False` keeps the checkpoints of runs that ended well."""
    executor = FlowExecutor(tools=[Calls().tool("a")], flows=[chain("a")], checkpointer=store, delete_on_success=False)
    result = executor.execute_flow("flow", {"n": 0})
    assert store.list_trace_ids() == [result.trace_id]
    assert merged(executor.resume_flow(result.trace_id)) == merged(result)


def test_a_failed_run_is_resumed_at_the_step_that_failed(store: Any):
    """R32: what did its part before a failure is not done again after it."""
    calls, faults = Calls(), [OSError("busy")]

    def once(given: Any) -> dict[str, int]:
        if faults:
            raise faults.pop()
        return {"out": given.n}

    tools = [calls.tool("a"), calls.tool("b", once)]
    executor = FlowExecutor(tools=tools, flows=[chain("a", "b")], checkpointer=store)
    failed = executor.execute_flow("flow", {"n": 0})
    assert failed.status == "failed"
    assert executor.resume_flow(failed.trace_id).status == "ok"
    assert calls.counts == {"a": 1, "b": 2}


def test_a_cancelled_run_is_resumed(store: Any):
    """R33: a run that was told to end is kept, and a resumed one obeys a token of its own."""
    calls, token = Calls(), CancellationToken()

    def stop(given: Any) -> dict[str, int]:
        token.cancel()
        return {"out": given.n}

    tools = [calls.tool("a", stop), calls.tool("b")]
    executor = FlowExecutor(tools=tools, flows=[chain("a", "b")], checkpointer=store)
    with pytest.raises(FlowCancelledError) as caught:
        executor.execute_flow("flow", {"n": 3}, cancel_token=token)
    trace_id = caught.value.result.trace_id

    with pytest.raises(FlowCancelledError):
        executor.resume_flow(trace_id, cancel_token=token)
    with pytest.raises(FlowCancelledError) as late:
        executor.resume_flow(trace_id, deadline=0.0)
    assert late.value.deadline_exceeded
    assert merged(executor.resume_flow(trace_id)) == {"n": 3, "a_out": 3, "b_out": 4}
    assert calls.counts == {"a": 1, "b": 1}


async def test_a_run_is_resumed_on_the_async_lane(store: Any):
    """R33: the lane on which a run goes on is not the one on which it began."""
    calls = Calls(last=1)
    executor = FlowExecutor(tools=[calls.tool(x) for x in "ab"], flows=[chain(*"ab")], checkpointer=store)
    trace_id = crashed(executor, {"n": 3})
    calls.last = None
    with executor:
        result = await executor.resume_flow_async(trace_id)
    assert merged(result) == {"n": 3, "a_out": 4, "b_out": 5}
    assert calls.counts == {"a": 1, "b": 1}
    with pytest.raises(CheckpointNotFoundError):
        await executor.resume_flow_async(trace_id)


@pytest.mark.parametrize(("per_item", "last"), [(False, 1), (False, 2), (True, 1), (True, 2), (True, 4)])
def test_what_a_branch_left_aside_is_recorded_after_a_resume_too(store: Any, per_item: bool, last: int):
    """R24, R27, R33: in a sub-flow that was over, in one that goes on, and in the items of a map."""

    def step(name: str, *needs: str, **options: Any) -> DAGFlowStep:
        options = {"tool_name": name, "output_mapping": {name: "out"}, **options}
        return DAGFlowStep(step_id=name, depends_on=list(needs), **options)

    edge = ConditionalEdge(target_step_id="b", predicate="a > 1")
    inner = dag(step("a", branches=[edge]), step("b", "a"), step("c", "a"), step("d", "c"), name="inner")
    each: dict[str, Any] = {"map_over": "ns", "map_as": "n"} if per_item else {}
    sub = step("sub", tool_name=None, flow_name="inner", output_mapping={"b": "b"}, **each)
    calls = Calls(last=last)
    tools = [calls.tool(name) for name in "abcde"]
    executor = FlowExecutor(tools=tools, flows=[dag(sub, step("e", "sub")), inner], checkpointer=store)
    trace_id = crashed(executor, {"n": 1, "ns": [1, 2]})
    calls.last = None
    nested = executor.resume_flow(trace_id).raise_for_failure().step("sub").sub_result
    assert nested is not None

    for run in [record.sub_result for record in nested.execution_log] if per_item else [nested]:
        assert run is not None
        assert [(record.step_id, record.status) for record in run.execution_log] == [
            ("a", "ok"),
            ("b", "ok"),
            ("c", "skipped"),
            ("d", "skipped"),
        ]


def test_a_run_that_crashes_again_and_again_gets_on(store: Any):
    """R32: what a resumed run has done is committed as well."""
    calls = Calls()
    executor = FlowExecutor(tools=[calls.tool(x) for x in "abcd"], flows=[chain(*"abcd")], checkpointer=store)
    calls.last = 1
    trace_id = crashed(executor, {"n": 0})
    for last in (2, 3):
        calls.last = last
        with pytest.raises(Crash):
            executor.resume_flow(trace_id)
        assert store.load(trace_id).completed_steps == last
    calls.last = None
    assert merged(executor.resume_flow(trace_id))["d_out"] == 4
    assert calls.counts == dict.fromkeys("abcd", 1)


def test_the_input_that_a_resumed_run_shows_is_not_changed_by_its_tools(store: Any):
    """R36: a tool that appends to its input does not rewrite what the run was given."""
    calls = Calls(last=0)

    def spoil(given: RowsIn) -> dict[str, int]:
        given.rows.append(9)
        return {"out": len(given.rows)}

    class Same(BaseModel):
        rows: Any

    made = calls.tool("spoil", spoil, input_schema=Same)
    executor = FlowExecutor(tools=[made], flows=[linear(FlowStep(tool_name="spoil"))], checkpointer=store)
    trace_id = crashed(executor, {"rows": [1]})
    calls.last = None
    result = executor.resume_flow(trace_id)
    assert (result.initial_input, merged(result)) == ({"rows": [1]}, {"rows": [1, 9], "out": 2})


def test_a_step_from_the_cache_is_stored_as_one_without_attempts(store: Any):
    """R31: a checkpoint tells how outputs came about."""
    story = Story()
    story.warm()
    executor = story.executor(store, delete_on_success=False)
    steps = store.load(executor.execute_flow("flow", {"n": 1}).trace_id).steps
    assert [(step.attempts, step.cached, step.fallback_tool_name) for step in steps] == [
        (1, False, None),
        (2, False, None),
        (2, False, None),
        (1, False, "stand_in"),
        (0, True, None),
        (1, False, None),
        (1, False, None),
    ]


@pytest.mark.parametrize("limit", [1, 4])
async def test_a_crash_ends_the_run_once(store: Any, limit: int):
    """R17: listeners hear of the end of every run, also when something leaves the call that is no error of ours."""
    told: list[str] = []

    class Watch:
        def on_flow_end(self, context: Any) -> None:
            told.append(context.result.status)

    def executor(calls: Calls) -> FlowExecutor:
        return FlowExecutor(
            tools=[calls.tool(x, lane="inline") for x in "ab"],
            flows=[chain(*"ab")],
            checkpointer=store,
            middleware=[Watch()],
            max_step_concurrency=limit,
        )

    with pytest.raises(Crash):
        executor(Calls(last=1)).execute_flow("flow", {"n": 0})
    [trace_id] = store.list_trace_ids()
    with pytest.raises(Crash):
        executor(Calls(last=0)).resume_flow(trace_id)
    with pytest.raises(Crash):
        await executor(Calls(last=0)).execute_flow_async("flow", {"n": 0})
    assert told == ["cancelled"] * 3


@pytest.mark.parametrize("limit", [1, 4])
async def test_a_run_whose_task_was_cancelled_is_resumed(store: Any, limit: int):
    """R23: a web server that gives a request up leaves a run that can go on."""
    calls, begun = Calls(), asyncio.Event()

    @tool
    async def wait(a_out: int) -> int:
        calls.counts["wait"] += 1
        begun.set()
        if calls.counts["wait"] == 1:
            await asyncio.sleep(60)
        return a_out

    flow = linear(
        FlowStep(tool_name="a", output_mapping={"a_out": "out"}),
        FlowStep(tool_name="wait"),
        FlowStep(tool_name="b", input_mapping={"n": "wait"}, output_mapping={"b_out": "out"}),
    )
    tools = [calls.tool("a"), wait, calls.tool("b")]
    with FlowExecutor(tools=tools, flows=[flow], checkpointer=store, max_step_concurrency=limit) as executor:
        task = asyncio.create_task(executor.execute_flow_async("flow", {"n": 1}))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        [trace_id] = store.list_trace_ids()
        result = await executor.resume_flow_async(trace_id)
    assert merged(result) == {"n": 1, "a_out": 2, "wait": 2, "b_out": 3}
    assert calls.counts == {"a": 1, "wait": 2, "b": 1}


def test_a_store_that_cannot_be_read_says_so():
    """R33: whatever a store raises when it is asked for a run reaches the caller as it is."""

    class Down(InMemoryCheckpointer):
        def load(self, trace_id: str) -> ExecutionSnapshot:
            raise OSError("down")

    with pytest.raises(OSError, match="down"):
        FlowExecutor(checkpointer=Down()).resume_flow("abc")


class Whole:
    """A store by somebody else: it knows whole snapshots only."""

    def __init__(self) -> None:
        self.kept: dict[str, ExecutionSnapshot] = {}
        self.saves = 0

    def save(self, snapshot: ExecutionSnapshot) -> None:
        self.saves += 1
        self.kept[snapshot.trace_id] = snapshot.model_copy(deep=True)

    def load(self, trace_id: str) -> ExecutionSnapshot:
        return self.kept[trace_id].model_copy(deep=True)

    def delete(self, trace_id: str) -> None:
        self.kept.pop(trace_id, None)

    def list_trace_ids(self) -> list[str]:
        return sorted(self.kept)


@pytest.mark.parametrize("last", range(3))
def test_a_store_without_append_is_given_growing_snapshots(last: int):
    """R31: `append` is optional; a store that has none still lets runs go on."""
    store, calls = Whole(), Calls(last)
    executor = FlowExecutor(tools=[calls.tool(x) for x in "abc"], flows=[chain(*"abc")], checkpointer=store)
    trace_id = crashed(executor, {"n": 0})
    assert (store.saves, store.load(trace_id).completed_steps) == (last + 1, last)
    assert store.load(trace_id).context == {"n": 0, **{f"{'abc'[at]}_out": at + 1 for at in range(last)}}

    calls.last = None
    assert merged(executor.resume_flow(trace_id)) == {"n": 0, "a_out": 1, "b_out": 2, "c_out": 3}
    assert calls.counts == {"a": 1, "b": 1, "c": 1}


def test_a_store_that_answers_as_dicts_do_knows_no_such_run():
    """R33: a KeyError of somebody else's store says that there is no checkpoint, and so does None."""

    class Silent(Whole):
        def load(self, trace_id: str) -> Any:
            return None

    for store in (Whole(), Silent()):
        executor = FlowExecutor(checkpointer=store)
        with pytest.raises(CheckpointNotFoundError, match="No checkpoint is stored for run 'nope'"):
            executor.resume_flow("nope")


def test_a_snapshot_that_was_written_by_hand_is_resumed():
    """R33: a store may keep records instead of steps, as programs that wrote their own checkpoints do."""
    calls = Calls()
    store = InMemoryCheckpointer()
    flow = chain(*"abc")
    flow = flow.model_copy(update={"steps": [step.model_copy(update={"on_error": "skip"}) for step in flow.steps]})
    executor = FlowExecutor(tools=[calls.tool(x) for x in "abc"], flows=[flow], checkpointer=store)
    result = executor.execute_flow("flow", {"n": 0})
    calls.counts.clear()
    log: list[Mapping[str, Any]] = [dict(record) for record in result.execution_log[:2]]
    log[1] = {**log[1], "skipped": True, "outputs": None}
    store.save(
        ExecutionSnapshot(
            trace_id="b" * 32,
            flow_name="flow",
            flow_version=result.flow_version,
            initial_input={"n": 0, "b_out": 9},
            started_at=result.started_at,
            execution_log=log,
        )
    )
    resumed = executor.resume_flow("b" * 32)
    assert merged(resumed) == {"n": 0, "b_out": 9, "a_out": 1, "c_out": 10}
    assert resumed.step("1").skipped
    assert dict(calls.counts) == {"c": 1}


def test_a_run_that_nobody_knows_is_not_resumed(store: Any):
    """R33: the message says which run was meant; without a store it says what is missing."""
    with pytest.raises(CheckpointNotFoundError, match="No checkpoint is stored for run 'abc'"):
        FlowExecutor(checkpointer=store).resume_flow("abc")
    with pytest.raises(CheckpointerNotConfiguredError, match="needs a checkpointer and the executor has none"):
        FlowExecutor().resume_flow("abc")
