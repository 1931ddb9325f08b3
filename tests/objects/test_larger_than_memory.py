"""More than fits: mapped values through a flow under a limit of memory, and a store that spills.

Whole processes, so that the limits are their own. 256 MiB, and a tenth of the store; in full with CHAINWEAVER_PROOF=1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROOF

ROOT = Path(__file__).parents[2]
SIZE = 2 << 30 if PROOF else 256 << 20
LIMIT = "512 << 20" if PROOF else "own('VmData') + (64 << 20)"
MEGABYTE = 1_000_000 if PROOF else 100_000
"""What counts as one where a store spills."""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA and /proc")

WATCHING = """
import json, resource, sys, threading
import numpy as np
from chainweaver import Chunk, Flow, FlowExecutor, FlowStep, MmapStore, RefStore, iter_chunks, tool
from typing import Any

def own(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))

peak = 0
stop = threading.Event()

def watch():
    global peak
    while True:
        peak = max(peak, own("RssAnon"))
        if stop.wait(0.002):
            return

def tell(**facts):
    stop.set()
    watching.join()
    print(json.dumps({"anonymous": peak, "resident": own("VmHWM"), **facts}))

folder = sys.argv[1]
watching = threading.Thread(target=watch)
watching.start()
"""

MAPPED = """
data = np.memmap(folder + "/input.bin", np.int64, "r")
resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))

@tool(output="total")
def add(data: Any) -> int:
    return int(data.sum())

@tool(output="doubled")
def double(data: Any, path: str) -> Any:
    doubled = np.memmap(path, data.dtype, "w+", shape=data.shape)
    chunks = iter_chunks(data, bytes=8 << 20), iter_chunks(doubled, bytes=8 << 20)
    for source, target in zip(*chunks):
        np.multiply(source, 2, out=target)
    return doubled

@tool(output="whole")
def read(data: Any) -> Any:
    return np.array(data)

chunk = Chunk(input="data", bytes=8 << 20, combine="sum")
flow = Flow(name="f", description="d", steps=[
    FlowStep(tool_name="add", chunk=chunk),
    FlowStep(tool_name="double"),
    FlowStep(tool_name="add", chunk=chunk, input_mapping={"data": "doubled"}, output_mapping={"twice": "total"}),
])
control = Flow(name="control", description="d", steps=[FlowStep(tool_name="read")])
with FlowExecutor(tools=[add, double, read], flows=[flow, control]) as executor:
    result = executor.execute_flow("f", {"data": data, "path": folder + "/output.bin"})
    output = result.raise_for_failure().final_output
    tell(
        total=output["total"], twice=output["twice"], is_same=output["data"] is data,
        is_mapped=type(output["doubled"]).__name__, steps=len(result.execution_log),
        limit=resource.getrlimit(resource.RLIMIT_DATA)[0],
        control=executor.execute_flow("control", {"data": data}).execution_log[0].error_cause,
    )
"""

SPILLING = """
megabyte = int(sys.argv[2])

def make(number):
    return np.full(100 * megabyte // 8, number, np.int64)

spill = MmapStore(folder)
before = own("RssAnon")
with RefStore(max_bytes=200 * megabyte, spill=spill) as store:
    refs = [store.put(make(number)) for number in range(10)]
    spilled = store.stats().spilled
    equal = [
        all(int(chunk.min()) == number == int(chunk.max()) for chunk in iter_chunks(store.get(ref), bytes=1 << 20))
        for number, ref in enumerate(refs)
    ]
    sizes = [store.get(ref).nbytes for ref in refs]
tell(equal=equal, sizes=sizes, spilled=spilled, left=spill.stats().objects, before=before)
"""


def in_a_child(code: str, *args: object) -> dict[str, Any]:
    child = subprocess.run(
        [sys.executable, "-c", WATCHING + code, *map(str, args)],
        cwd=ROOT, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    found: dict[str, Any] = json.loads(child.stdout)
    print(found)
    return found


def test_a_mapped_input_and_a_mapped_output_go_through_a_flow_in_little_memory(tmp_path):
    """Right result, anonymous memory below 150 MB; the control that reads the whole fails."""
    marks = range(SIZE >> 20)
    with (tmp_path / "input.bin").open("wb") as file:  # zeros that take no room, and a number in every MiB
        file.truncate(SIZE)
        for mark in marks:
            os.pwrite(file.fileno(), mark.to_bytes(8, "little"), (mark << 20) + 8 * (mark % 1_000))

    found = in_a_child(MAPPED.replace("LIMIT, LIMIT", f"{LIMIT}, {LIMIT}"), tmp_path)

    assert (tmp_path / "output.bin").stat().st_size == SIZE
    (tmp_path / "output.bin").unlink()
    assert found["total"] == sum(marks)
    assert found["twice"] == 2 * sum(marks)
    assert (found["is_same"], found["is_mapped"], found["steps"]) == (True, "memmap", 3)
    assert max(found["anonymous"], found["resident"]) < 150_000_000
    assert found["control"] in ("MemoryError", "_ArrayMemoryError")


def test_a_store_spills_what_its_budget_does_not_hold(tmp_path):
    """Budget 200 MB, 10 x 100 MB, all equal, peak below 350 MB, spill folder empty afterwards."""
    found = in_a_child(SPILLING, tmp_path, MEGABYTE)

    assert found["equal"] == [True] * 10
    assert found["sizes"] == [100 * MEGABYTE] * 10
    assert (found["spilled"], found["left"]) == (8, 0)
    # What the interpreter and the libraries take is a tenth of the peak, and does not shrink with the values.
    assert found["anonymous"] - (0 if PROOF else found["before"]) < 350 * MEGABYTE
    assert list(tmp_path.iterdir()) == []
