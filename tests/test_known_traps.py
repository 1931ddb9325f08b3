"""What a widely used engine of this kind was measured to get wrong, one trap after the other, on every lane.

Everything here goes through the public API. The clauses that forbid these things are proven in detail elsewhere; a test
here shows the trap itself, in the smallest flow that falls into it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from chainweaver import (
    BaseMiddleware,
    CancellationToken,
    ChainWeaverError,
    ConditionalEdge,
    ContextKeyCollisionError,
    DAGFlow,
    DAGFlowStep,
    ExecutionResult,
    FileCheckpointer,
    Flow,
    FlowCancelledError,
    FlowExecutor,
    FlowStep,
    InMemoryCheckpointer,
    InMemoryStepCache,
    Tool,
    ToolSafetyContract,
)
from tests.lanes.kit import Gauge, a_flow, a_step, a_tool, fan, merged, wait_until
from tests.lanes.table import LANES, Lane, pause

ROOT = Path(__file__).parents[1]
HERE = "tests.test_known_traps"

lanes = pytest.mark.parametrize("lane", LANES, ids=repr)


def ok(given: Any) -> dict[str, int]:
    return {"out": given.n + 1}


def fails(given: Any) -> dict[str, int]:
    raise OSError("broken")


# ---- R1: levels were kept in a set, so that the order of steps changed with the hash seed

WORDS = ("pear", "fig", "plum", "kiwi", "lime", "date", "sloe", "yuzu")

ORDERED = """
from tests.test_known_traps import WORDS, ok
from tests.lanes.kit import a_flow, a_step, a_tool
from tests.lanes.table import LANES

calls = []

def tool_of(name):
    return a_tool(name, lambda given: calls.append(name) or ok(given))

names = [*WORDS, *(word + "_after" for word in WORDS)]
steps = [a_step(name, *([name[:-6]] if name.endswith("_after") else [])) for name in names]
for lane in LANES:
    with lane.executor(tools=[tool_of(name) for name in names], flows=[a_flow(*steps)]) as executor:
        result = lane.run(executor, "flow", {})
    print(lane, calls, [record.step_id for record in result.execution_log], list(result.final_output))
    calls.clear()
"""


def test_trap_r1_the_order_of_steps_does_not_change_with_the_hash_seed() -> None:
    """R1, R2: calls, records and outputs are in plan order in every process, on every lane."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", ORDERED],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("0", "1", "2")
    ]
    told = [child.communicate(timeout=120)[0] for child in children]
    names = [*WORDS, *(f"{word}_after" for word in WORDS)]

    assert told[0].splitlines() == [f"{lane} {names} {names} {names}" for lane in LANES]
    assert told[0] == told[1] == told[2]


# ---- R4: the sync lane ignored the limit


@lanes
@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("shape", ["steps", "items", "flows"])
def test_trap_r4_no_lane_ignores_the_limit(lane: Lane, limit: int, shape: str) -> None:
    """R4: as many calls at a time as the limit says, no more and no fewer, also inside of maps and sub-flows."""
    gauge = Gauge()

    def meet(given: Any) -> dict[str, int]:
        with gauge.inside():
            wait_until(lambda: gauge.peak >= limit)
            time.sleep(0.002)  # one too many would come in now
        return ok(given)

    tools = [a_tool(name, meet) for name in "abcdef"]
    flows: list[Any] = [fan(tools)]
    if shape == "items":
        flows = [a_flow(a_step("a", map_over="items", map_as="n"))]
    elif shape == "flows":
        inner = fan(tools[:3]).model_copy(update={"name": "inner"})
        steps = [a_step(name, tool_name=None, flow_name="inner", output_mapping={name: "a"}) for name in ("one", "two")]
        flows = [a_flow(*steps), inner]
    with lane.executor(tools=tools, flows=flows, max_step_concurrency=limit) as executor:
        assert lane.run(executor, "flow", {"items": [1, 2, 3, 4, 5, 6]}).success
    assert gauge.peak == limit


# ---- R8: the model that validated the input was thrown away


class Request(BaseModel):
    n: int
    limit: int = 7


@lanes
def test_trap_r8_the_validated_input_is_what_the_flow_runs_on(lane: Lane) -> None:
    """R8: converted values and defaults reach the tools, and what was given is what the result shows."""
    tools = [a_tool("a", ok), a_tool("b", ok)]
    steps = [a_step("a"), a_step("b", input_mapping={"n": "limit"})]
    flow = a_flow(*steps, input_schema_ref=f"{HERE}:Request")
    with lane.executor(tools=tools, flows=[flow]) as executor:
        result = lane.run(executor, "flow", {"n": "41", "other": True})

    assert merged(result) == {"n": 41, "limit": 7, "other": True, "a": 42, "b": 8}
    assert result.initial_input == {"n": "41", "other": True}


# ---- R17: six kinds of error escaped without a result and without a flow_end


class Ends(BaseMiddleware):
    """Notes what listeners are told of beginnings and ends."""

    def __init__(self) -> None:
        self.begun = 0
        self.results: list[ExecutionResult] = []

    def on_flow_start(self, context: Any) -> None:
        self.begun += 1

    def on_flow_end(self, context: Any) -> None:
        self.results.append(context.result)


class Broken(InMemoryCheckpointer):
    """A store that begins runs and then is full."""

    def append(self, trace_id: str, delta: Any) -> None:
        raise OSError("disk full")


def refuses(context: Any) -> None:
    raise ValueError("nobody is here")


def interrupts(given: Any) -> dict[str, int]:
    raise KeyboardInterrupt


class Unpicklable(Exception):
    """An error that cannot leave the process."""

    def __init__(self, lock: Any) -> None:
        super().__init__("locked")
        self.lock = lock

    def __reduce__(self) -> Any:
        raise TypeError("not today")


def locked(given: Any) -> dict[str, int]:
    raise Unpicklable(threading.Lock())


class Unfit(BaseModel):
    gone: str


@dataclass
class End:
    """How a run comes to its end.

    Attributes:
        fn: What its first tool does.
        steps: Its steps; the first one calls that tool.
        settings, facts, options: Of the executor, the flow and the call.
        safety: The contract of the first tool.
        status: What becomes of the run.
        leaves: The error that leaves the call, None when the call returns.
    """

    fn: Callable[[Any], Any] = ok
    steps: tuple[DAGFlowStep, ...] = (a_step("a"),)
    settings: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=lambda: {"n": 1})
    safety: ToolSafetyContract | None = None
    status: str = "failed"
    leaves: type[BaseException] | None = None


def with_token() -> End:
    token = CancellationToken()

    def cancels(given: Any) -> dict[str, int]:
        token.cancel()
        return ok(given)

    steps = (a_step("a"), a_step("b", "a"))
    return End(cancels, steps, options={"cancel_token": token}, status="cancelled", leaves=FlowCancelledError)


def with_predicate() -> End:
    edge = ConditionalEdge(target_step_id="b", predicate="a < 'text'")
    return End(steps=(a_step("a", branches=[edge]), a_step("b", "a")))


def with_approval() -> End:
    return End(settings={"approval_callback": refuses}, safety=ToolSafetyContract(requires_approval=True))


def with_collision() -> End:
    step = a_step("a", output_mapping={"n": "out"})
    return End(steps=(step,), facts={"on_context_collision": "error"}, leaves=ContextKeyCollisionError)


ENDS: dict[str, Callable[[], End]] = {
    "a tool that raises": lambda: End(fails),
    "an error that cannot be pickled": lambda: End(locked),
    "a collision": with_collision,
    "a missing key": lambda: End(steps=(a_step("a", input_mapping={"n": "gone"}),)),
    "an output that does not fit": lambda: End(lambda given: {"out": "many"}),
    "a predicate of the wrong type": with_predicate,
    "a store that is full": lambda: End(settings={"checkpointer": Broken()}),
    "a guardrail that raises": lambda: End(settings={"guardrail_callback": refuses}),
    "a decision that raises": lambda: End(
        steps=(a_step("a", decision_candidates=["a"]),), settings={"decision_callback": refuses}
    ),
    "an approval that raises": with_approval,
    "an input that does not fit": lambda: End(facts={"input_schema_ref": f"{HERE}:Request"}, given={"n": "many"}),
    "an output schema": lambda: End(facts={"output_schema_ref": f"{HERE}:Unfit"}),
    "a token": with_token,
    "a deadline": lambda: End(options={"deadline": time.time() - 1}, status="cancelled", leaves=FlowCancelledError),
    "an interrupt": lambda: End(interrupts, status="cancelled", leaves=KeyboardInterrupt),
}


@lanes
@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize("depth", ["alone", "in a sub-flow"])
def test_trap_r17_no_kind_of_error_escapes_without_a_result_and_an_end(lane: Lane, kind: str, depth: str) -> None:
    """R17: every run that began has one end, one result and one status; what leaves the call and is ours carries it."""
    end = ENDS[kind]()
    flows = [a_flow(*end.steps, **end.facts)]
    if depth == "in a sub-flow":
        flows.append(flows[0].model_copy(update={"name": "inner"}))
        flows[0] = a_flow(a_step("sub", tool_name=None, flow_name="inner", output_mapping={}))
    ends, left = Ends(), None
    tools = [a_tool("a", end.fn, safety=end.safety), a_tool("b", ok)]
    with lane.executor(tools=tools, flows=flows, middleware=[ends], **end.settings) as executor:
        try:
            lane.run(executor, "flow", end.given, **end.options)
        except BaseException as error:
            left = error
    [result] = [one for one in ends.results if one.parent_trace_id is None]

    assert len(ends.results) == ends.begun
    assert (result.status, result.final_output) == (end.status, None)
    if depth == "in a sub-flow" and kind == "a collision":
        assert left is None, "a collision inside is a failure of the step around it"
        assert result.step("sub").error_type == "ContextKeyCollisionError"
        return
    assert type(left) is (type(None) if end.leaves is None else end.leaves)
    if isinstance(left, ChainWeaverError):
        assert left.result == result  # type: ignore[attr-defined]  # errors that leave a call carry it


async def test_trap_r17_a_task_that_is_cancelled_has_a_result_and_an_end() -> None:
    """R17: the cancellation leaves the call after the run has ended for it."""
    import asyncio

    ends, is_inside = Ends(), asyncio.Event()

    async def stay(given: Any) -> dict[str, int]:
        is_inside.set()
        await pause(60)
        return {}

    with FlowExecutor(tools=[a_tool("a", stay)], flows=[a_flow(a_step("a"))], middleware=[ends]) as executor:
        task = asyncio.ensure_future(executor.execute_flow_async("flow", {}))
        await is_inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert [(result.status, result.step("a").status) for result in ends.results] == [("cancelled", "cancelled")]


# ---- R19: siblings of a failed step ran, and their records were dropped


@lanes
def test_trap_r19_siblings_of_a_failure_keep_their_records_and_count_for_nothing(lane: Lane) -> None:
    """R19: the one before it in plan order runs to its end and counts; the one behind it that had started is recorded,
    and neither its values nor its record make a difference."""
    has_started, has_failed = threading.Event(), threading.Event()

    class Hears(BaseMiddleware):
        def on_step_end(self, context: Any) -> None:
            if context.step_id == "broken":
                has_failed.set()

    def early(given: Any) -> dict[str, int]:
        assert has_failed.wait(10)
        return ok(given)

    def broken(given: Any) -> dict[str, int]:
        assert has_started.wait(10)
        return fails(given)

    def late(given: Any) -> dict[str, int]:
        has_started.set()
        assert has_failed.wait(10)
        return ok(given)

    tools = [a_tool("early", early), a_tool("broken", broken), a_tool("late", late), a_tool("never", ok)]
    steps = [a_step("early"), a_step("broken"), a_step("late"), a_step("never", "late")]
    settings: dict[str, Any] = {"middleware": [Hears()], "max_step_concurrency": 3}
    with lane.executor(tools=tools, flows=[a_flow(*steps)], **settings) as executor:
        result = lane.run(executor, "flow", {"n": 1})

    assert [record.step_id for record in result.execution_log] == ["early", "broken", "late"]
    assert (result.step("early").status, result.step("broken").status) == ("ok", "failed")
    assert result.step("late").status == "cancelled" or result.step("late").surplus
    assert [record["step_id"] for record in result.canonical_trace()] == ["early", "broken"]
    assert result.partial_output == {"n": 1, "early": 2}


# ---- R24: a resumed run ran the paths that its branches had left aside


class Once:
    """Lets a tool fail the first time that it is called.

    Attributes:
        calls: Names of the tools that were called, in order.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []

    def tool(self, name: str, is_flaky: bool = False) -> Tool:
        def fn(given: Any) -> dict[str, int]:
            self.calls.append(name)
            return fails(given) if is_flaky and self.calls.count(name) == 1 else ok(given)

        return a_tool(name, fn)


def resumed(lane: Lane, executor: FlowExecutor, trace_id: str) -> ExecutionResult:
    if lane.backend is None:
        return executor.resume_flow(trace_id)

    async def call() -> ExecutionResult:
        return await executor.resume_flow_async(trace_id)

    result: ExecutionResult = lane.backend(call)
    return result


@lanes
@pytest.mark.parametrize("limit", [1, 4])
@pytest.mark.parametrize("depth", ["alone", "in a sub-flow"])
def test_trap_r24_a_resumed_run_does_not_run_the_ways_that_were_not_taken(lane: Lane, limit: int, depth: str) -> None:
    """R24, R33: what a branch decided is part of the checkpoint; nobody asks again."""
    once = Once()
    names = ("choose", "taken", "left_aside", "behind", "join")
    tools = [once.tool(name, is_flaky=name == "taken") for name in names]
    edge = ConditionalEdge(target_step_id="taken", predicate="choose == 2")
    flow = a_flow(
        a_step("choose", branches=[edge], default_next="left_aside"),
        a_step("taken", "choose"),
        a_step("left_aside", "choose"),
        a_step("behind", "left_aside"),
        a_step("join", "taken", "behind"),
    )
    flows = [flow]
    if depth == "in a sub-flow":
        sub = a_step("sub", tool_name=None, flow_name="inner", output_mapping={"join": "join"})
        flows = [a_flow(sub), flow.model_copy(update={"name": "inner"})]
    settings: dict[str, Any] = {"checkpointer": InMemoryCheckpointer(), "max_step_concurrency": limit}
    with lane.executor(tools=tools, flows=flows, **settings) as executor:
        failed = lane.run(executor, "flow", {"n": 1})
        assert failed.status == "failed"
        result = resumed(lane, executor, failed.trace_id)

    assert once.calls == ["choose", "taken", "taken", "join"]
    inner = result if depth == "alone" else result.step("sub").sub_result
    assert inner is not None
    assert [(record.step_id, record.status) for record in inner.execution_log] == [
        ("choose", "ok"),
        ("taken", "ok"),
        ("left_aside", "skipped"),
        ("behind", "skipped"),
        ("join", "ok"),
    ]
    assert inner.step("choose").decision == {"taken": "taken"}


# ---- R29: two users' secrets shared one key, and one got the other's data


class Login(BaseModel):
    token: SecretStr


class Account(BaseModel):
    owner: str


@lanes
def test_trap_r29_two_secrets_never_share_an_entry_of_the_cache(lane: Lane) -> None:
    """R29: a key stands for the secret itself, and does not show it."""
    owners = {"s3cr3t-of-ada": "Ada", "s3cr3t-of-alan": "Alan"}
    calls: list[str] = []

    def account(login: Login) -> dict[str, str]:
        owner = owners[login.token.get_secret_value()]
        calls.append(owner)
        return {"owner": owner}

    lookup = Tool(
        name="account",
        description="Whose account it is.",
        input_schema=Login,
        output_schema=Account,
        fn=account,
        cacheable=True,
    )
    keys: list[str] = []

    class Spying(InMemoryStepCache):
        def get(self, key: Any) -> Any:
            keys.append(str(key))
            return super().get(key)

    flow = Flow(name="flow", description="Finds an account.", steps=[FlowStep(tool_name="account")])
    with lane.executor(tools=[lookup], flows=[flow], step_cache=Spying()) as executor:
        found = [merged(lane.run(executor, "flow", {"token": token}))["owner"] for token in (*owners, *owners)]

    assert found == ["Ada", "Alan", "Ada", "Alan"]
    assert calls == ["Ada", "Alan"]
    assert len(set(keys)) == 2
    assert "s3cr3t" not in "".join(keys)


# ---- R31: the whole log was written at every step, which made checkpoints O(n^2)


class Text(BaseModel):
    n: int = 0


class Wrote(BaseModel):
    out: str


@lanes
def test_trap_r31_a_checkpoint_grows_by_what_a_step_adds(lane: Lane, tmp_path: Path) -> None:
    """R31: at most 1.2 times the outputs and a constant per step, however long the run."""
    size = 1_000

    def written(count: int, shape: str) -> int:
        write = Tool(
            name="write",
            description="A kilobyte.",
            input_schema=Text,
            output_schema=Wrote,
            fn=lambda given: {"out": "x" * size},
        )
        names = [f"s{at}" for at in range(count)]
        steps = [
            DAGFlowStep(step_id=name, tool_name="write", output_mapping={name: "out"}, depends_on=names[:at][-1:])
            for at, name in enumerate(names)
        ]
        if shape == "items":
            steps = [DAGFlowStep(step_id="each", tool_name="write", map_over="items", map_as="n")]
        flow = DAGFlow(name="flow", version="1.0.0", description="Writes.", steps=steps)
        folder = tmp_path / f"{shape}-{count}"
        store = FileCheckpointer(folder)
        with lane.executor(tools=[write], flows=[flow], checkpointer=store, delete_on_success=False) as executor:
            assert lane.run(executor, "flow", {"items": list(range(count))}).success
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    for shape in ("steps", "items"):
        short, long = written(5, shape), written(40, shape)
        per_step = (long - short) / 35
        assert per_step <= 1.2 * size + 400, shape


# ---- R36: a tool that changed its input rewrote the records of earlier steps


class Rows(BaseModel):
    rows: list[Any]


@lanes
@pytest.mark.parametrize("limit", [1, 2])
def test_trap_r36_a_tool_that_changes_its_input_changes_no_record(lane: Lane, limit: int) -> None:
    """R36: records show what was when it was, those of the step before and those of the tool itself."""

    def tool_of(name: str, fn: Any) -> Tool:
        return Tool(name=name, description=f"{name} of a test", input_schema=Rows, output_schema=Rows, fn=fn)

    def make(given: Rows) -> dict[str, Any]:
        return {"rows": [{"k": 1}, {"k": 2}]}

    def spoil(given: Rows) -> dict[str, Any]:
        rows = list(given.rows)
        for row in given.rows:
            row["k"] = 99
        given.rows.clear()
        return {"rows": rows}

    make_rows, spoil_rows = tool_of("make", make), tool_of("spoil", spoil)
    steps = [FlowStep(tool_name="make"), FlowStep(tool_name="spoil")]
    flow = Flow(name="flow", description="Spoils.", steps=steps, on_context_collision="overwrite")
    given = {"rows": [{"k": 0}]}
    with lane.executor(tools=[make_rows, spoil_rows], flows=[flow], max_step_concurrency=limit) as executor:
        result = lane.run(executor, "flow", given)
    made, spoiled = result.execution_log

    assert made.inputs == {"rows": [{"k": 0}]}
    assert made.outputs == {"rows": [{"k": 1}, {"k": 2}]}
    assert spoiled.inputs == {"rows": [{"k": 1}, {"k": 2}]}
    assert spoiled.outputs == {"rows": [{"k": 99}, {"k": 99}]}
