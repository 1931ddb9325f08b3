"""How long values are held, in bytes: what a plan says beforehand, and what runs really hold."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import BaseModel, create_model

from chainweaver import DAGFlow, DAGFlowStep, Flow, FlowExecutor, FlowStep, Native, Tool, compile_flow
from chainweaver.plan import PeakMemory
from tests.conftest import PROOF
from tests.lanes.table import LANES, SYNC, Lane

MB = 1_000_000
STEPS = 30


class Value(bytearray):
    """Bytes that can be watched: `bytearray` itself takes no weak references."""


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """What is gone has to be gone without anybody looking for circles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def a_model(name: str, *keys: str) -> Any:
    made: Any = create_model
    return made(name, **dict.fromkeys(keys, (Any, ...)))


class Seen:
    """Makes tools whose outputs can be watched.

    Attributes:
        refs: Context key -> a weak reference to its value.
        there: Per call of a tool, the keys whose values were still there when it began.
    """

    def __init__(self, *, is_keeping: bool = True) -> None:
        self.is_keeping = is_keeping
        self.refs: dict[str, weakref.ref[Any]] = {}
        self.there: list[list[str]] = []

    def tool(self, name: str, reads: tuple[str, ...], gives: dict[str, int]) -> Tool:
        def fn(given: Any) -> dict[str, Any]:
            if self.is_keeping:
                self.there.append([key for key, ref in self.refs.items() if ref() is not None])
            made = {key: Value(size) for key, size in gives.items()}
            self.refs.update({key: weakref.ref(value) for key, value in made.items()})
            return made

        schemas = {"input_schema": a_model(f"{name}_in", *reads), "output_schema": a_model(f"{name}_out", *gives)}
        return Tool(name=name, description="", fn=fn, **schemas)


def a_chain(seen: Seen, size: int) -> tuple[Flow, list[Tool]]:
    """Thirty steps, each of which reads the value of the one before it and makes its own."""
    tools = [seen.tool(f"t{at}", (f"v{at - 1}",) if at else (), {f"v{at}": size}) for at in range(STEPS)]
    steps = [FlowStep(tool_name=tool.name) for tool in tools]
    return Flow(name="flow", description="", steps=steps, outputs=[f"v{STEPS - 1}"]), tools


def peak_of(executor: FlowExecutor, lane: Lane, given: Any) -> int:
    """Bytes that a run needs at its peak, beside what there was before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        lane.run(executor, "flow", given).raise_for_failure()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


# ---- what is held at a time


@pytest.mark.parametrize("lane", LANES, ids=repr)
def test_a_chain_of_thirty_large_values_holds_two_of_them(lane: Lane):
    """R37: 30 steps with values of 10 MB grow by at most 25 MB."""
    flow, tools = a_chain(Seen(), 10 * MB)
    with lane.executor(tools=tools, flows=[flow], trace_values="summary") as executor:
        lane.run(executor, "flow", {}).raise_for_failure()
        assert peak_of(executor, lane, {}) <= 25 * MB


@pytest.mark.parametrize("lane", LANES, ids=repr)
def test_an_output_is_dead_before_the_step_after_the_next_one_starts(lane: Lane):
    """R37: without the garbage collector; step k + 1 reads it, step k + 2 must not find it alive."""
    seen = Seen()
    flow, tools = a_chain(seen, 16)
    with lane.executor(tools=tools, flows=[flow], trace_values="summary") as executor:
        lane.run(executor, "flow", {}).raise_for_failure()

    assert seen.there == [[], *([f"v{at}"] for at in range(STEPS - 1))]


@pytest.mark.parametrize("options", [{}, {"trace_values": "summary"}], ids=["snapshot", "summary"])
def test_ten_thousand_runs_leave_nothing_behind(options: dict[str, Any]):
    """R37: memory is within 10 bytes a run of what it was; summaries take long, and have 2 000 runs but in proofs."""
    runs = 10_000 if PROOF or not options else 2_000
    gc.enable()
    flow, tools = a_chain(Seen(is_keeping=False), 16)
    short = flow.model_copy(update={"steps": flow.steps[:3], "outputs": ["v2"]})
    with FlowExecutor(tools=tools, flows=[short], **options) as executor:
        for _ in range(200):
            executor.execute_flow("flow", {})
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(runs):
                executor.execute_flow("flow", {})
            gc.collect()
            growth = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    assert growth < 10 * runs


# ---- what a plan says beforehand


def a_step(name: str, *needs: str) -> DAGFlowStep:
    return DAGFlowStep(step_id=name, tool_name=name, depends_on=list(needs))


SHAPES: dict[str, tuple[list[tuple[str, tuple[str, ...], tuple[str, ...]]], tuple[str, ...]]] = {
    "chain": ([("a", ("given",), ("x",)), ("b", ("x",), ("y",)), ("c", ("y",), ("z",))], ("z",)),
    "diamond": (
        [("a", ("given",), ("x",)), ("b", ("x",), ("y",)), ("c", ("x",), ("z",)), ("d", ("y", "z"), ("w",))],
        ("w",),
    ),
    "a value for later": ([("a", ("given",), ("x", "u")), ("b", ("x",), ("y",)), ("c", ("u", "y"), ("z",))], ("z",)),
    "an output from the middle": (
        [("a", ("given",), ("x",)), ("b", ("x",), ("y",)), ("c", ("y",), ("z",))],
        ("x", "z"),
    ),
    "nobody reads it": ([("a", ("given",), ("x", "u")), ("b", ("x",), ("y",))], ("y",)),
    "the input to the end": ([("a", ("given",), ("x",)), ("b", ("given", "x"), ("y",))], ("y",)),
}
SIZES = {"given": 3 * MB, "x": 5 * MB, "y": 2 * MB, "z": 4 * MB, "w": 1 * MB, "u": 7 * MB}


def a_shape(name: str) -> tuple[DAGFlow, list[Tool]]:
    parts, outputs = SHAPES[name]
    writer = {key: step for step, _, gives in parts for key in gives}
    tools = [Seen().tool(step, reads, {key: SIZES[key] for key in gives}) for step, reads, gives in parts]
    steps = [a_step(step, *(writer[key] for key in reads if key in writer)) for step, reads, _ in parts]
    return DAGFlow(name="flow", version="1.0.0", description="", steps=steps, outputs=list(outputs)), tools


class Giving(Mapping[str, Any]):
    """An input that makes its values when it is read, so that nobody but the run holds them."""

    def __init__(self, **sizes: int) -> None:
        self.sizes = sizes

    def __getitem__(self, key: str) -> Any:
        return Value(self.sizes[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_plan_knows_the_peak_of_its_runs(shape: str):
    """R37: within 5 % and 100 KB of what `tracemalloc` measures at limit 1."""
    flow, tools = a_shape(shape)
    plan = compile_flow(flow, tools).plan
    said = plan.peak_memory(SIZES)
    with FlowExecutor(tools=tools, flows=[flow], trace_values="summary") as executor:
        executor.execute_flow("flow", {"given": Value(1)}).raise_for_failure()
        measured = peak_of(executor, SYNC, Giving(given=SIZES["given"]))
    assert abs(measured - said.nbytes) <= 0.05 * said.nbytes + 100_000


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("chain", PeakMemory(8 * MB, 0, "a")),  # given and x
        ("diamond", PeakMemory(11 * MB, 2, "c")),  # x, y and z
        ("a value for later", PeakMemory(15 * MB, 0, "a")),
        ("an output from the middle", PeakMemory(11 * MB, 2, "c")),
        ("nobody reads it", PeakMemory(15 * MB, 0, "a")),
        ("the input to the end", PeakMemory(10 * MB, 1, "b")),
    ],
)
def test_the_peak_is_named_with_its_step(shape: str, expected: PeakMemory):
    """R37: what a step reads is held until it has ended, what it gives from then on, and both at once."""
    flow, tools = a_shape(shape)
    assert compile_flow(flow, tools).plan.peak_memory(SIZES) == expected


def test_keys_without_a_size_count_nothing_and_the_input_may_be_the_peak():
    """R37: sizes are the caller's to give."""
    flow, tools = a_shape("chain")
    plan = compile_flow(flow, tools).plan
    assert plan.peak_memory({}) == PeakMemory(0, -1, None)
    assert plan.peak_memory({"given": 5}) == PeakMemory(5, -1, None)


def test_a_size_below_nothing_is_refused():
    """R37: all of them are named."""
    flow, tools = a_shape("chain")
    plan = compile_flow(flow, tools).plan
    with pytest.raises(ValueError, match=r"at least 0; below are those of 'given' \(-1\), 'x' \(-2\)"):
        plan.peak_memory({"given": -1, "x": -2, "y": 0})


def test_without_outputs_everything_is_held_to_the_end():
    """R37: the whole context is the output then."""
    flow, tools = a_shape("chain")
    plan = compile_flow(flow.model_copy(update={"outputs": None}), tools).plan
    sizes = {key: SIZES[key] for key in ("given", "x", "y", "z")}
    assert plan.peak_memory(sizes) == PeakMemory(14 * MB, 2, "c")


def test_an_input_schema_names_what_is_given():
    """R8, R37: an input that no step reads is let go at once."""
    flow, tools = a_shape("chain")
    with_schema = flow.model_copy(update={"input_schema_ref": f"{__name__}:Given"})
    plan = compile_flow(with_schema, tools).plan
    assert plan.peak_memory({"given": 3, "unread": 9}) == PeakMemory(3, -1, None)


class Given(BaseModel):
    given: Native[Any]
    unread: int = 0
