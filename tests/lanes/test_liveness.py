"""Values end with their last reader on every lane: no frame, thread, task, job or error holds them any longer."""

from __future__ import annotations

import gc
import logging
import tracemalloc
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from pydantic import BaseModel, create_model

from chainweaver import (
    DAGFlow,
    DAGFlowStep,
    ExecutionResult,
    FlowExecutor,
    InMemoryStepCache,
    RetryPolicy,
    StepRecord,
    Tool,
)
from chainweaver._execution.run import RELEASED
from chainweaver._execution.trace import summary_of
from chainweaver.observe.around import Proceed
from tests.conftest import PROOF
from tests.lanes import stories
from tests.lanes.stories import Story, make_story
from tests.lanes.table import ASYNCIO, LANES, SYNC, Lane, pause
from tests.lanes.test_all_constructs import executor_of, told_by

MIB = 1 << 20
EVERYWHERE = (*LANES, replace(ASYNCIO, name="asyncio-inline", options={"lane": "inline"}))


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """What is gone has to be gone without anybody looking for circles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Block(bytearray):
    """A value that can be watched: `bytearray` itself takes no weak references."""


class Once(Mapping[str, Any]):
    """An input that gives every value away: whoever calls a flow holds what is called with until the call returns."""

    def __init__(self, **values: Any) -> None:
        self.values_left = values
        self.names = list(values)

    def __getitem__(self, name: str) -> Any:
        return self.values_left.pop(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Watch:
    """Knows which values are still there, and what each tool found when it was called."""

    def __init__(self) -> None:
        self.seen: dict[str, weakref.ref[Any]] = {}
        self.found: dict[str, list[str]] = {}

    def block(self, name: str) -> Block:
        block = Block(16)
        self.seen[name] = weakref.ref(block)
        return block

    @property
    def there(self) -> list[str]:
        return sorted(name for name, seen in self.seen.items() if seen() is not None)

    def tool(self, name: str, takes: str, *gives: str, is_async: bool = False, fails: int = 0, **options: Any) -> Tool:
        """A tool that takes values and gives new ones, and fails a few times before."""
        left = [fails]

        def act(taken: BaseModel) -> dict[str, Any]:
            self.found[name] = self.there
            if left[0]:
                left[0] -= 1
                raise OSError("down")
            return {key: self.block(key) for key in gives}

        async def act_async(taken: BaseModel) -> dict[str, Any]:
            await pause(0)
            return act(taken)

        models: Callable[..., Any] = create_model
        return Tool(
            name=name,
            description=f"{name} of a test",
            input_schema=models(f"{name}_in", **dict.fromkeys(takes.split(), (Any, ...))),
            output_schema=models(f"{name}_out", **dict.fromkeys(gives, (Any, ...))),
            fn=act_async if is_async else act,
            **options,
        )


def line(*steps: DAGFlowStep, outputs: tuple[str, ...]) -> DAGFlow:
    return DAGFlow(name="flow", version="1.0.0", description="of a test", steps=list(steps), outputs=list(outputs))


def step(name: str, *needs: str, **options: Any) -> DAGFlowStep:
    return DAGFlowStep(step_id=name, depends_on=list(needs), **{"tool_name": name, **options})


def ran(
    lane: Lane, watch: Watch, tools: list[Tool], flow: DAGFlow, *others: DAGFlow, **options: Any
) -> ExecutionResult:
    """The result of the flow; nobody but the run holds what it is given."""
    with lane.executor(tools=tools, flows=[flow, *others], trace_values="summary", **options) as executor:
        given: Any = Once(x=watch.block("x"))
        return lane.run(executor, "flow", given)


@pytest.mark.parametrize("limit", [1, 4])
@pytest.mark.parametrize("lane", EVERYWHERE, ids=str)
def test_each_tool_finds_only_what_is_still_needed(lane: Lane, limit: int) -> None:
    """R37: tools in the calling thread, in others, on the loop, on a lane of the user; under a limit and without."""
    watch = Watch()
    with ThreadPoolExecutor(1) as pool:
        tools = [
            watch.tool("a", "x", "a1", "unread"),
            watch.tool("b", "a1", "b1", is_async=True),
            watch.tool("c", "b1", "c1", timeout_seconds=60),
            watch.tool("d", "c1", "d1", lane="inline"),
            watch.tool("e", "d1", "e1", lane="mine"),
            watch.tool("f", "e1", "f1", is_async=True, timeout_seconds=60),
            watch.tool("g", "f1", "g1"),
        ]
        steps = [step(name, *before) for name, before in zip("abcdefg", ["", *"abcdef"], strict=True)]
        result = ran(
            lane, watch, tools, line(*steps, outputs=("g1",)), max_step_concurrency=limit, lanes={"mine": pool}
        )

    assert result.status == "ok"
    assert watch.found == {
        "a": ["x"], "b": ["a1"], "c": ["b1"], "d": ["c1"], "e": ["d1"], "f": ["e1"], "g": ["f1"],
    }  # fmt: skip
    assert watch.there == ["g1"]


@pytest.mark.parametrize("limit", [1, 4])
@pytest.mark.parametrize("lane", EVERYWHERE, ids=str)
def test_what_went_wrong_holds_no_values(lane: Lane, limit: int) -> None:
    """R20, R21, R37: attempts that failed, steps that were skipped, and those that a fallback stood in for."""
    watch, once = Watch(), RetryPolicy(max_retries=1, backoff_seconds=0.0)
    tools = [
        watch.tool("a", "x", "a1", fails=1),
        watch.tool("b", "a1", "b1", is_async=True, fails=1),
        watch.tool("c", "b1", "c1", timeout_seconds=60, fails=1),
        watch.tool("d", "c1", "d1", is_async=True, fails=1),
        watch.tool("e", "c1", "e1", fails=1),
        watch.tool("rescue", "c1", "e1"),
        watch.tool("f", "e1", "f1"),
    ]
    flow = line(
        step("a", retry=once),
        step("b", "a", retry=once),
        step("c", "b", retry=once),
        step("d", "c", on_error="skip"),
        step("e", "d", on_error="fallback:rescue"),
        step("f", "e"),
        outputs=("f1",),
    )
    result = ran(lane, watch, tools, flow, max_step_concurrency=limit)

    assert [record.status for record in result.execution_log] == ["ok", "ok", "ok", "skipped", "ok", "ok"]
    assert watch.found == {
        "a": ["x"], "b": ["a1"], "c": ["b1"], "d": ["c1"], "e": ["c1"], "rescue": ["c1"], "f": ["e1"],
    }  # fmt: skip


@pytest.mark.parametrize("limit", [1, 4])
@pytest.mark.parametrize("lane", EVERYWHERE, ids=str)
def test_nested_runs_hold_nothing_when_they_have_ended(lane: Lane, limit: int) -> None:
    """R27, R28, R37: a sub-flow with outputs lets go inside as well; records of maps and their items keep nothing."""
    watch = Watch()
    tools = [
        watch.tool("p", "x", "p1"),
        watch.tool("q", "p1", "q1"),
        watch.tool("r", "q1", "r1", "r2"),
        watch.tool("list", "r1", "item"),
        watch.tool("each", "item", "got"),
        watch.tool("end", "got", "last"),
    ]
    inner = line(step("p"), step("q", "p"), step("r", "q"), outputs=("r1",)).model_copy(update={"name": "inner"})
    single = line(step("each"), outputs=("got",)).model_copy(update={"name": "single"})
    flow = line(
        DAGFlowStep(step_id="sub", flow_name="inner"),
        step("list", "sub", output_mapping={"items": "item"}),
        DAGFlowStep(step_id="map", flow_name="single", depends_on=["list"], map_over="items", map_as="item"),
        step("end", "map"),
        outputs=("last",),
    )

    def listed(taken: Any) -> dict[str, Any]:
        watch.found["list"] = watch.there
        return {"item": [watch.block("i0"), watch.block("i1")]}

    tools[3] = Tool(
        name="list",
        description="l",
        input_schema=tools[3].input_schema,
        output_schema=tools[3].output_schema,
        fn=listed,
    )
    result = ran(lane, watch, tools, flow, inner, single, max_step_concurrency=limit)

    assert result.status == "ok"
    assert watch.found["q"] == ["p1", "x"], "what the sub-flow was given lives until its step ends"
    assert watch.found["r"] == ["q1", "x"]
    assert watch.found["list"] == ["r1"]
    assert watch.found["end"] == ["got"]
    assert watch.there == ["last"]


class Around:
    def around_step(self, context: Any) -> Iterator[Any]:
        yield Proceed()


class Listener:
    def on_step_start(self, context: Any) -> None:
        assert context.inputs

    def on_step_end(self, context: Any) -> None:
        assert context.step_record.outputs


ATTENDED: dict[str, Callable[[], dict[str, Any]]] = {
    "cache": lambda: {"step_cache": InMemoryStepCache()},
    "listener": lambda: {"middleware": [Listener()]},
    "around": lambda: {"middleware": [Around()]},
}


@pytest.mark.parametrize("attended", ATTENDED)
@pytest.mark.parametrize("limit", [1, 4])
@pytest.mark.parametrize("lane", LANES, ids=str)
def test_whoever_attends_a_run_holds_nothing(lane: Lane, limit: int, attended: str) -> None:
    """R29, R37, R38: caches keep copies, listeners see summaries, what is around a step is gone with it."""
    watch = Watch()
    tools = [watch.tool(name, before, name) for name, before in zip("abc", "xab", strict=True)]
    flow = line(step("a"), step("b", "a"), step("c", "b"), outputs=("c",))
    ran(lane, watch, tools, flow, max_step_concurrency=limit, **ATTENDED[attended]())

    assert watch.found == {"a": ["x"], "b": ["a"], "c": ["b"]}


# ---- memory


def grown(taken: Any) -> dict[str, Any]:
    return {"block": Block(10 * MIB)}


def added(taken: Any) -> dict[str, Any]:
    return {"block": taken.block + 1.0}


class Held(BaseModel):
    block: Any


class Size(BaseModel):
    size: int


def chain_of(count: int, fn: Callable[[Any], dict[str, Any]]) -> tuple[list[Tool], DAGFlow]:
    """Steps that each replace a block, and one that tells its size: `asyncio.run` may print what a call returns."""
    tools = [
        Tool(name="t", description="replaces", input_schema=Held, output_schema=Held, fn=fn),
        Tool(
            name="size", description="measures", input_schema=Held, output_schema=Size,
            fn=lambda held: {"size": len(held.block)},
        ),
    ]  # fmt: skip
    names = [*(f"s{index}" for index in range(count)), "size"]
    steps = [step(name, *names[max(0, at - 1) : at], tool_name="t") for at, name in enumerate(names[:-1])]
    flow = line(*steps, step("size", names[-2]), outputs=("size",))
    return tools, flow.model_copy(update={"on_context_collision": "overwrite"})


def peak_of(lane: Lane, executor: FlowExecutor, made: Callable[[], Any]) -> tuple[float, ExecutionResult]:
    """The largest memory that a run took, in MiB, and its result."""
    given: list[Any] = [Once(block=made()), Once(block=made())]
    lane.run(executor, "flow", given.pop()).raise_for_failure()
    tracemalloc.start()
    try:
        result = lane.run(executor, "flow", given.pop())
        return tracemalloc.get_traced_memory()[1] / MIB, result
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("lane", LANES, ids=str)
@pytest.mark.parametrize(
    ("fn", "made"),
    [(grown, lambda: Block(10 * MIB)), (added, lambda: np.zeros(10 * MIB // 8))],
    ids=["bytearray", "ndarray"],
)
def test_a_chain_of_large_values_takes_two_of_them(lane: Lane, fn: Any, made: Callable[[], Any]) -> None:
    """R37: thirty steps with 10 MB each: the one that is read, and the one that is made."""
    tools, flow = chain_of(30, fn)
    with lane.executor(tools=tools, flows=[flow], trace_values="summary") as executor:
        peak_mib, result = peak_of(lane, executor, made)

    assert result.status == "ok"
    assert peak_mib <= 21


def test_without_outputs_a_chain_takes_all_its_values() -> None:
    """R37: what the test above measures is there to be measured."""
    tools, flow = chain_of(30, added)
    with SYNC.executor(
        tools=tools, flows=[flow.model_copy(update={"outputs": None})], trace_values="summary"
    ) as executor:
        peak_mib, _ = peak_of(SYNC, executor, lambda: np.zeros(10 * MIB // 8))

    assert peak_mib >= 300


# ---- nobody misses them


class Loose(BaseModel):
    """Outputs whose values are no numbers as far as anybody knows, so that a run lets go of them."""

    v: Any
    w: Any


def loose(tool: Tool) -> Tool:
    safety = tool.safety if tool.safety_declared else None
    return Tool(
        name=tool.name, description="of a story", input_schema=tool.input_schema, output_schema=Loose, fn=tool.fn,
        lane=tool.lane, safety=safety,
    )  # fmt: skip


LOOSE = [loose(tool) for tool in stories.tools()]


class Said(logging.Handler):
    """What is said of keys that were overwritten, on every level."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def __enter__(self) -> list[str]:
        self.logger = logging.getLogger("chainweaver.executor")
        self.logger.addHandler(self)
        self.logger.setLevel(logging.DEBUG)
        self.logger.propagate = False
        return self.messages

    def __exit__(self, *raised: object) -> None:
        self.logger.propagate = True
        self.logger.setLevel(logging.NOTSET)
        self.logger.removeHandler(self)


@pytest.mark.slow
@settings(max_examples=3_000 if PROOF else 40)
@given(st.integers(0, 1 << 30), st.sampled_from(LANES), st.sampled_from([1, 4]))
def test_a_run_that_lets_go_tells_what_one_tells_that_keeps_everything(seed: int, lane: Lane, limit: int) -> None:
    """R12, R24, R27, R28, R37: output, errors, collisions and records of a random flow, with and without letting go."""
    rng = Random(seed)
    story = make_story(rng.choice)
    if story.outputs is None:
        keys = sorted({key for one in story.steps for key in one.keys_written()})
        story = replace(story, outputs=tuple(rng.sample(keys, min(len(keys), rng.randrange(3)))))
    kept = _told(story, lane, limit, trace_values="snapshot", trace_copy_limit=10_000)
    assert _told(story, lane, limit, trace_values="summary") == kept


def _told(story: Story, lane: Lane, limit: int, **options: Any) -> Any:
    with Said() as said, executor_of(story, limit, **options).with_replaced_tools(LOOSE) as executor:
        raised, result = told_by(lane, executor)
    assert RELEASED not in result.partial_output.values()
    return raised, result.status, result.final_output, sorted(said), _records(result)


def _records(result: ExecutionResult) -> list[Any]:
    """The records that count, as in a canonical trace."""
    counting = [one for one in result.execution_log if not (one.surplus or one.status == "cancelled")]
    return [_summed(one) for one in counting]


def _summed(record: StepRecord) -> Any:
    """A record with summaries of its values; of the border at the end, which shows what is left, none."""
    inside = record.sub_result
    values = [] if record.step_id is None else [record.inputs, record.outputs or {}]
    return (
        record.step_index,
        record.status,
        record.error_message,
        record.retry_errors,
        record.decision,
        [{key: summary_of(value) for key, value in one.items()} for one in values],
        None if inside is None else _records(inside),
    )
