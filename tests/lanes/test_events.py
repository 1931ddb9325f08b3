"""What middleware is told: in which order, one thing at a time, and exactly one end for every run."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from pydantic import BaseModel

from chainweaver import (
    BaseMiddleware,
    CancellationToken,
    ChainWeaverError,
    ExecutionResult,
    InMemoryCheckpointer,
    RetryPolicy,
)
from tests.lanes.kit import Gauge, a_flow, a_step, a_tool, chain, does, fan
from tests.lanes.table import LANES, Lane, pause

lanes = pytest.mark.parametrize("lane", LANES, ids=repr)
limits = pytest.mark.parametrize("limit", [1, 4])


class Diary(BaseMiddleware):
    """Writes everything down, and how many hooks of it run at a time."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.lines: list[str] = []
        self.results: list[ExecutionResult] = []
        self.gauge = Gauge()

    def write(self, line: str) -> None:
        with self.gauge.inside():
            time.sleep(0.001)
            self.lines.append(self.name + line)

    def on_flow_start(self, context: Any) -> None:
        self.write(f"flow {context.flow_name} of {context.total_steps}")

    def on_step_start(self, context: Any) -> None:
        self.write(f"start {context.step_id} {context.inputs}")

    def on_step_end(self, context: Any) -> None:
        self.write(f"end {context.step_id} {context.step_record.status} {context.step_record.outputs}")

    def on_flow_end(self, context: Any) -> None:
        self.write(f"over {context.result.status}")
        self.results.append(context.result)


class Positive(BaseModel):
    """A border that refuses what the tests give it."""

    missing: int


class Late:
    """A cancellation that comes from inside."""

    def __init__(self) -> None:
        self.token = CancellationToken()

    def __call__(self, given: Any) -> dict[str, int]:
        self.token.cancel()
        return {}


@lanes
@limits
def test_a_chain_is_told_in_order(lane: Lane, limit: int) -> None:
    """R17: flow_start, then every step with its start and its end, then one flow_end."""
    tools = [a_tool(name, lambda given: {"out": given.n + 1}) for name in ("a", "b")]
    flow = a_flow(a_step("a"), a_step("b", "a", input_mapping={"n": "a"}))
    diary = Diary()
    with lane.executor(tools=tools, flows=[flow], middleware=[diary], max_step_concurrency=limit) as executor:
        result = lane.run(executor, "flow", {"n": 1})
    assert diary.lines == [
        "flow flow of 2",
        "start a {'n': 1}",
        "end a ok {'out': 2}",
        "start b {'n': 2}",
        "end b ok {'out': 3}",
        "over ok",
    ]
    assert diary.results == [result]


@lanes
@limits
def test_what_middleware_does_to_what_it_is_shown_changes_nothing(lane: Lane, limit: int) -> None:
    """R38: hooks observe, also where a record needs no copy of its own."""

    class Meddler(BaseMiddleware):
        def on_flow_start(self, context: Any) -> None:
            context.initial_input["n"] = 50

        def on_step_start(self, context: Any) -> None:
            context.inputs["n"] = 100

        def on_step_end(self, context: Any) -> None:
            context.inputs.clear()

    tools = [a_tool("a", lambda given: {"out": given.n + 1})]
    with lane.executor(
        tools=tools, flows=[chain(tools)], middleware=[Meddler()], max_step_concurrency=limit
    ) as executor:
        result = lane.run(executor, "flow", {"n": 1})
    assert (result.final_output or {})["a"] == 2
    assert result.execution_log[0].inputs == result.initial_input == {"n": 1}


@lanes
def test_steps_side_by_side_are_told_one_thing_at_a_time(lane: Lane) -> None:
    """R17: hooks of one run never overlap, and each step begins before it ends."""

    async def nap(given: Any) -> dict[str, int]:
        await pause(0.002)
        return {}

    tools = [a_tool(f"t{at}", nap if at % 2 else lambda given: {}) for at in range(8)]
    diary = Diary()
    with lane.executor(tools=tools, flows=[fan(tools)], middleware=[diary], max_step_concurrency=8) as executor:
        assert lane.run(executor, "flow", {}).success
    assert diary.gauge.peak == 1
    assert (diary.lines[0], diary.lines[-1]) == ("flow flow of 8", "over ok")
    places = {line.split(" ")[0] + line.split(" ")[1]: at for at, line in enumerate(diary.lines)}
    assert all(places[f"startt{at}"] < places[f"endt{at}"] for at in range(8))


@lanes
@limits
def test_middleware_is_told_in_the_order_of_registration(lane: Lane, limit: int) -> None:
    """R38: every hook of the first one before that of the second."""
    lines: list[str] = []
    first, second = Diary("first "), Diary("second ")
    first.lines = second.lines = lines
    made = a_tool("t", lambda given: {})
    with lane.executor(tools=[made], flows=[fan([made])], middleware=[first], max_step_concurrency=limit) as executor:
        executor.add_middleware(second)
        lane.run(executor, "flow", {})
        executor.remove_middleware(first)
        before = len(lines)
        lane.run(executor, "flow", {})
    assert [line.split(" ")[0] for line in lines[:before]] == ["first", "second"] * 4
    assert {line.split(" ")[0] for line in lines[before:]} == {"second"}


@lanes
@limits
def test_a_hook_that_raises_is_logged_and_changes_nothing(
    lane: Lane, limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    """R38: observers cannot fail a run."""

    class Broken(BaseMiddleware):
        def on_flow_start(self, context: Any) -> None:
            raise RuntimeError("at the start")

        def on_step_start(self, context: Any) -> None:
            raise StopIteration("before a step")

        def on_step_end(self, context: Any) -> None:
            raise RuntimeError("after a step")

        def on_flow_end(self, context: Any) -> None:
            raise RuntimeError("at the end")

    made, diary = a_tool("t", lambda given: {"out": 1}), Diary()
    with lane.executor(
        tools=[made], flows=[fan([made])], middleware=[Broken(), diary], max_step_concurrency=limit
    ) as executor:
        with caplog.at_level(logging.WARNING, "chainweaver.middleware"):
            assert lane.run(executor, "flow", {}).final_output == {"t": 1}
    assert len(diary.lines) == 4
    assert [record.getMessage() for record in caplog.records] == [
        f"Middleware 0 (Broken) raised in {hook}: {text}"
        for hook, text in (
            ("on_flow_start", "at the start"),
            ("on_step_start", "before a step"),
            ("on_step_end", "after a step"),
            ("on_flow_end", "at the end"),
        )
    ]


def _fails(given: Any) -> dict[str, int]:
    raise OSError("broken")


def _interrupts(given: Any) -> dict[str, int]:
    raise KeyboardInterrupt


REF = "tests.lanes.test_events:Positive"
OUTCOMES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "ok": (lambda given: {}, {}, "ok"),
    "tool fails": (_fails, {}, "failed"),
    "input refused": (lambda given: {}, {"input_schema_ref": REF}, "failed"),
    "output refused": (lambda given: {}, {"output_schema_ref": REF}, "failed"),
    "projection missing": (lambda given: {}, {"outputs": ["nowhere"]}, "failed"),
    "collision": (lambda given: {}, {"on_context_collision": "error"}, "failed"),
    "interrupt": (_interrupts, {}, "cancelled"),
    "token": (Late(), {}, "cancelled"),
    "deadline": (lambda given: {}, {}, "cancelled"),
}


@lanes
@limits
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_has_exactly_one_end(lane: Lane, limit: int, outcome: str) -> None:
    """R17: one flow_start, one flow_end with the result of the run, whatever leaves the call."""
    fn, options, status = OUTCOMES[outcome]
    diary = Diary()
    tools = [a_tool("t", fn, lane="inline"), a_tool("u", lambda given: {})]
    flow = a_flow(
        a_step("t", output_mapping={"n" if outcome == "collision" else "t": "out"}),
        a_step("u", "t", retry=RetryPolicy(max_retries=1)),
        **options,
    )
    limits: dict[str, Any] = {"deadline": {"deadline": time.time() - 1}}.get(outcome, {})
    if isinstance(fn, Late):
        fn.token = limits["cancel_token"] = CancellationToken()
    left: BaseException | None = None
    result: ExecutionResult | None = None
    with lane.executor(tools=tools, flows=[flow], middleware=[diary], max_step_concurrency=limit) as executor:
        try:
            result = lane.run(executor, "flow", {"n": 1}, **limits)
        except (ChainWeaverError, KeyboardInterrupt) as error:
            left = error
    starts = [line for line in diary.lines if line.startswith("flow ")]
    assert (len(starts), len(diary.results), diary.lines[-1]) == (1, 1, f"over {status}")
    assert (
        result is diary.results[0]
        if left is None
        else isinstance(left, KeyboardInterrupt) or (getattr(left, "result", None) is diary.results[0])
    )


@lanes
@limits
def test_a_store_that_cannot_delete_costs_no_result(lane: Lane, limit: int, caplog: pytest.LogCaptureFixture) -> None:
    """R17: the run has done its work; what is left in the store is logged."""

    class Stuck(InMemoryCheckpointer):
        def delete(self, trace_id: str) -> None:
            raise OSError("read-only")

    made, diary = a_tool("t", lambda given: {"out": 1}), Diary()
    with lane.executor(
        tools=[made], flows=[fan([made])], middleware=[diary], checkpointer=Stuck(), max_step_concurrency=limit
    ) as executor:
        with caplog.at_level(logging.WARNING, "chainweaver.executor"):
            assert lane.run(executor, "flow", {}).final_output == {"t": 1}
    assert diary.lines[-1] == "over ok"
    assert "read-only" in caplog.text


@lanes
def test_checkpoints_of_steps_side_by_side_are_written_one_at_a_time(lane: Lane) -> None:
    """R31: a store that keeps whole snapshots never has an older one written over a newer one."""
    gauge = Gauge()

    class Snapshots:
        """A store without `append`."""

        def __init__(self) -> None:
            self.counts: list[int] = []

        def save(self, snapshot: Any) -> None:
            with gauge.inside():
                count = len(snapshot.steps)
                time.sleep(0.001)
                self.counts.append(count)

        def load(self, trace_id: str) -> Any:
            raise AssertionError("nobody resumes")

        def delete(self, trace_id: str) -> None:
            pass

        def list_trace_ids(self) -> list[str]:
            return []

    tools, store = [a_tool(f"t{at}", lambda given: {}) for at in range(6)], Snapshots()
    with lane.executor(tools=tools, flows=[fan(tools)], checkpointer=store, max_step_concurrency=6) as executor:
        assert lane.run(executor, "flow", {}).success
    assert gauge.peak == 1
    assert store.counts == [0, 1, 2, 3, 4, 5, 6]


@lanes
def test_listeners_added_during_a_run_hear_of_the_next_one(lane: Lane) -> None:
    """R40: a run keeps the listeners that it started with."""
    late = Diary()
    tools = [a_tool("a", does(lambda: executor.add_middleware(late))), a_tool("b", lambda given: {})]
    with lane.executor(tools=tools, flows=[chain(tools)]) as executor:
        lane.run(executor, "flow", {})
        assert late.lines == []
        lane.run(executor, "flow", {})
    assert late.lines[-1] == "over ok"


@lanes
def test_a_hook_may_cancel_the_run(lane: Lane) -> None:
    """R23: also from the thread that tells it, at any limit."""
    token = CancellationToken()

    class Impatient(BaseMiddleware):
        def on_step_end(self, context: Any) -> None:
            token.cancel()

    seen: list[int] = []
    tools = [a_tool(f"t{at}", does(lambda: seen.append(1))) for at in range(5)]
    for limit in (1, 4):
        token = CancellationToken()
        seen.clear()
        with lane.executor(
            tools=tools, flows=[chain(tools)], middleware=[Impatient()], max_step_concurrency=limit
        ) as executor:
            with pytest.raises(ChainWeaverError, match="token cancelled"):
                lane.run(executor, "flow", {}, cancel_token=token)
        assert len(seen) == 1
