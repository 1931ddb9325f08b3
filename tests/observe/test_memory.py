"""`MemoryTracker`: what the values of steps and runs hold, against what the system says, and what counts once."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import textwrap
from collections import deque
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from chainweaver import (
    DAGFlow,
    DAGFlowStep,
    ExecutionResult,
    Flow,
    FlowExecutor,
    FlowStep,
    Native,
    RedactionPolicy,
    RetryPolicy,
    tool,
)
from chainweaver.objects.measuring import MAPPED, MEMORY, Tally, measure
from chainweaver.observe import MemoryTracker
from tests.conftest import PROOF
from tests.objects.values import memmap

torch = pytest.importorskip("torch", reason="PyTorch is installed for one Python only")

MB = 1_000_000


def bytes_of(*values: object, where: str = MEMORY) -> int:
    return Tally(measure(value) for value in values).of(where)


# ---- what counts once


def test_a_view_counts_as_its_base_and_both_count_once():
    """A view keeps all of its base in memory."""
    base = np.zeros(MB)
    view = base[10:20][::2]

    assert bytes_of(view) == bytes_of(base) == bytes_of(base, view, view.T) == 8 * MB


ARROW = pa.table({"n": np.arange(MB), "x": np.ones(MB)})


@pytest.mark.parametrize(
    "values",
    [
        (ARROW, ARROW.slice(10, 5), ARROW.select(["n", "x"])),
        (ARROW.to_pandas(types_mapper=pd.ArrowDtype), ARROW.to_pandas(types_mapper=pd.ArrowDtype)),
        (pl.from_arrow(ARROW), pl.from_arrow(ARROW), ARROW),
        (ARROW, ARROW.column(0).chunk(0).to_numpy()),
        (ARROW, ARROW.column(0).chunk(0).buffers()[1], memoryview(ARROW.column(1).chunk(0).buffers()[1])),
    ],
    ids=["tables", "pandas", "polars", "numpy", "buffers"],
)
def test_frames_over_one_arrow_buffer_count_once(values):
    """Whatever library shows it."""
    whole = bytes_of(ARROW)

    assert 16 * MB <= whole < 16.3 * MB
    assert bytes_of(*values, ARROW) <= whole + 2_000


def test_a_tensor_over_an_array_counts_once():
    """Torch and numpy share memory in both directions."""
    array = np.zeros(MB)
    tensor = torch.from_numpy(array)

    assert bytes_of(tensor[10:], array, tensor.numpy()) == 8 * MB


def test_a_frame_and_the_array_under_it_count_once():
    """Frames of pandas are views where nothing was copied."""
    array = np.zeros((MB, 2))
    frame = pd.DataFrame(array, copy=False)

    assert 16 * MB <= bytes_of(frame, array, frame[0], frame.iloc[5:9]) < 16.01 * MB


def test_what_is_mapped_from_a_file_is_no_memory_of_the_process(tmp_path):
    """MemoryTracker: the system can take its pages back."""
    mapped = memmap(tmp_path)

    assert bytes_of(mapped) < 1_000
    assert bytes_of(mapped, mapped[1:], where=MAPPED) == 64


def test_values_inside_containers_and_objects_of_the_user_count():
    """MemoryTracker: dicts, lists, attributes, slots; cycles end."""

    class Slotted:
        __slots__ = ("array",)

    slotted = Slotted()
    slotted.array = np.zeros(MB)
    circle: list[Any] = [{"a": slotted}]
    circle.append(circle)

    assert 8 * MB <= bytes_of(circle, slotted.array, deque([slotted.array])) < 8.003 * MB


def test_no_code_of_the_user_runs():
    """Measuring asks nobody."""

    class Hostile(list):
        def refuse(self, *args):
            raise AssertionError("asked")

        __iter__ = __len__ = __getitem__ = __getattribute__ = __sizeof__ = __repr__ = __hash__ = __eq__ = refuse

    assert 8 * MB <= bytes_of(Hostile([np.zeros(MB)])) < 8.001 * MB


def test_what_was_measured_is_not_kept():
    """R37: numbers only."""
    array = np.zeros(10)
    before = sys.getrefcount(array)

    extents = [measure(array), measure([array])]

    assert sys.getrefcount(array) == before
    assert len(extents) == 2


# ---- against the system

KINDS = {
    "array": "np.ones(12_500_000)",
    "view": "np.ones(12_500_000)[::1000]",
    "frame": "pd.DataFrame({'a': np.arange(5_000_000), 'b': np.ones(5_000_000), "
    "'n': pd.array(np.arange(5_000_000), dtype='Int64')})",
    "frame of text": "pd.DataFrame({'s': [f'some text {i} that is long' for i in range(1_500_000)]})",
    "objects": "pd.Series([f'some text {i} that is long' for i in range(1_000_000)], dtype=object)",
    "table": "pa.table({'a': np.arange(6_000_000) + 1, 's': pa.array([str(i) * 4 for i in range(6_000_000)])})",
    "polars": "pl.DataFrame({'a': np.arange(6_000_000), 's': [str(i) * 4 for i in range(6_000_000)]})",
    "tensor": "torch.ones(12_500_000, dtype=torch.float64)",
    "list": "[float(i) for i in range(3_000_000)]",
    "dict": "{str(i): i for i in range(700_000)}",
    "bytes": "bytes(bytearray(100_000_000))",
    "nested": "{'a': [np.ones(5_000_000)], 'b': {'c': torch.ones(5_000_000, dtype=torch.float64)}}",
}

MEASURE = """
import ctypes, gc, sys
from typing import Any
import numpy as np, pandas as pd, polars as pl, pyarrow as pa, torch
from chainweaver import Flow, FlowExecutor, FlowStep, Native, tool
from chainweaver.observe import MemoryTracker

libc = ctypes.CDLL("libc.so.6")
pools = []

def anonymous():
    gc.collect()
    pa.default_memory_pool().release_unused()
    libc.malloc_trim(0)
    with open("/proc/self/smaps_rollup") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous")) * 1024

def make():
    return VALUE

@tool(output="value")
def value() -> Native[Any]:
    before = anonymous()
    made = make()
    grown.append(anonymous() - before)
    return made

grown = []
make_small = np.ones(10), pd.DataFrame({"s": ["a"]}), pl.DataFrame({"a": [1]}), pa.table({"a": [1]}), torch.ones(1)
flow = Flow(name="f", description="", steps=[FlowStep(tool_name="value")])
with FlowExecutor(tools=[value], flows=[flow], middleware=[MemoryTracker()]) as executor:
    result = executor.execute_flow("f", {})
    print(result.memory.steps["0"].outputs["value"], grown[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", KINDS if PROOF else ["array", "frame", "table", "tensor"])
def test_memory_per_port_is_what_the_process_grew_by(kind):
    """Within 20 % of measured RSS, in a process of its own."""
    program = textwrap.dedent(MEASURE).replace("VALUE", KINDS[kind])

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    measured, grown = map(int, done.stdout.split())
    assert grown > 40 * MB
    assert 0.8 < measured / grown < 1.2


# ---- in runs


class Pair(NamedTuple):
    array: Native[np.ndarray]
    part: Native[np.ndarray]


@tool
def make(size: int) -> Pair:
    array = np.zeros(size)
    return Pair(array, array[: size // 2])


@tool(output="doubled")
def double(array: Native[np.ndarray]) -> Native[np.ndarray]:
    return np.concatenate([array, array])


@tool(output="total")
def total(doubled: Native[np.ndarray]) -> float:
    return float(doubled.sum())


TOOLS = [make, double, total]
NAMES = ("make", "double", "total")
LANES = {
    "one after the other": (1, None, False),
    "with a schedule": (4, None, False),
    "in threads": (4, "thread", False),
    "async": (1, None, True),
    "async with a schedule": (4, None, True),
}


@pytest.fixture(params=LANES.values(), ids=list(LANES))
def run(request):
    limit, lane, is_async = request.param

    def execute(flow, given, flows=(), tools=TOOLS, **settings) -> ExecutionResult:
        settings = {"middleware": [MemoryTracker()], "max_step_concurrency": limit, "lane": lane, **settings}
        with FlowExecutor(tools=tools, flows=[flow, *flows], **settings) as executor:
            if is_async:
                return asyncio.run(executor.execute_flow_async(flow.name, given))
            return executor.execute_flow(flow.name, given)

    return execute


def dag(**settings) -> DAGFlow:
    steps = [
        DAGFlowStep(step_id=name, tool_name=name, depends_on=NAMES[at - 1 : at] if at else [])
        for at, name in enumerate(NAMES)
    ]
    return DAGFlow(name="f", version="1.0.0", description="", steps=steps, **settings)


def test_each_port_and_the_peak_of_a_run(run):
    """Bytes per step and port, what is shared once; the peak and its step."""
    memory = run(dag(), {"size": MB}).memory

    rounded = {
        name: ({k: round(v / MB) for k, v in one.inputs.items()}, {k: round(v / MB) for k, v in one.outputs.items()})
        for name, one in memory.steps.items()
    }
    assert rounded == {
        "make": ({"size": 0}, {"array": 8, "part": 8}),
        "double": ({"array": 8}, {"doubled": 16}),
        "total": ({"doubled": 16}, {"total": 0}),
    }
    assert round(memory.steps["make"].nbytes / MB) == 8
    assert round(memory.steps["double"].nbytes / MB) == 24
    assert (round(memory.peak_bytes / MB), memory.peak_step) == (24, "total")
    assert (memory.mapped_bytes, memory.device_bytes) == (0, {})


def test_what_was_let_go_of_counts_no_longer(run):
    """R37, line 9: a run that names its outputs and keeps summaries holds less at its end."""
    memory = run(dag(outputs=["total"]), {"size": MB}, trace_values="summary").memory

    assert [round(one.held_bytes / MB) for one in memory.steps.values()] == [8, 24, 16]
    assert [round(one.nbytes / MB) for one in memory.steps.values()] == [8, 24, 16]
    assert (round(memory.peak_bytes / MB), memory.peak_step) == (24, "double")


def test_nested_runs_count_in_the_outermost_one(run):
    """Steps of sub-flows and items of maps, by their way."""
    inner = Flow(name="inner", description="", steps=[FlowStep(tool_name="make"), FlowStep(tool_name="double")])
    outer = Flow(
        name="outer",
        description="",
        steps=[
            FlowStep(flow_name="inner", input_mapping={"size": "size"}),
            FlowStep(tool_name="make", map_over="sizes", map_as="size", output_mapping={"arrays": "array"}),
        ],
    )

    result = run(outer, {"size": MB, "sizes": [MB, 2 * MB]}, flows=[inner])

    memory = result.memory
    assert list(memory.steps) == ["0", "0/0", "0/1", "1", "1/0", "1/1"]
    assert round(memory.steps["0/1"].outputs["doubled"] / MB) == 16
    assert round(memory.steps["1"].outputs["arrays"] / MB) == 24
    assert round(memory.peak_bytes / MB) == 8 + 16 + 24
    assert result.step("0").sub_result.memory is None


def test_an_attempt_that_failed_is_not_counted_with_the_next_one(run):
    """Nobody holds it."""
    calls: list[int] = []

    @tool(output="late")
    def fail_once(doubled: Native[np.ndarray]) -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("once")
        return 1

    inner = Flow(
        name="inner",
        description="",
        steps=[FlowStep(tool_name="make"), FlowStep(tool_name="double"), FlowStep(tool_name="fail_once")],
    )
    retry = RetryPolicy(max_retries=1, backoff_seconds=0.0)
    outer = Flow(name="outer", description="", steps=[FlowStep(flow_name="inner", retry=retry)])

    memory = run(outer, {"size": MB}, flows=[inner], tools=[*TOOLS, fail_once]).memory

    assert len(calls) == 2
    assert round(memory.steps["0"].held_bytes / MB) == 24


def test_a_redaction_policy_does_not_keep_values_from_being_measured(run):
    """R39: what is kept are sizes, and names."""
    policy = RedactionPolicy(keys=["array", "doubled"])

    result = run(dag(), {"size": MB}, redaction_policy=policy)

    assert round(result.memory.steps["double"].outputs["doubled"] / MB) == 16
    assert list(result.step("make").objects) == ["outputs.part"]


def test_what_was_measured_survives_json():
    """MemoryTracker: plain data in exported traces."""
    with FlowExecutor(tools=TOOLS, flows=[dag()], middleware=[MemoryTracker()]) as executor:
        result = executor.execute_flow("f", {"size": 10})

    read = ExecutionResult.model_validate_json(result.model_dump_json())

    assert read.memory == result.memory
    assert re.search(r'"peak_step":"(make|double|total)"', result.model_dump_json())


def test_without_a_tracker_nothing_is_measured(run):
    """MemoryTracker: who does not ask pays nothing."""
    assert run(dag(), {"size": 10}, middleware=[]).memory is None


def test_what_is_taken_back_leaves_what_others_have():
    """Blocks that overlap in every way, against counting them byte by byte."""
    rng = np.random.default_rng(7)
    tally, held = Tally(), []
    for _ in range(600):
        if held and rng.random() < 0.45:
            tally.remove(held.pop(int(rng.integers(len(held)))))
        else:
            extent = measure(None)
            for start, size in rng.integers(1, 60, (int(rng.integers(1, 4)), 2)).tolist():
                extent.blocks.add((MEMORY, start, start + size))
            extent.objects[int(rng.integers(5))] = 16
            held.append(extent)
            tally.add(extent)

        covered = {at for extent in held for _, start, end in extent.blocks for at in range(start, end)}
        objects = {identity for extent in held for identity in extent.objects}
        assert tally.of(MEMORY) == len(covered) + 16 * len(objects)
