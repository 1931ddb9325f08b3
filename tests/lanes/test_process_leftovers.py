"""Programs with worker processes, and what is left of them: nothing, however they end. And the figures of line 5.

The programs define their tools themselves, as scripts do.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from chainweaver import ExecutionResult, Flow, FlowExecutor, FlowStep
from chainweaver.lanes.processes import Processes
from chainweaver.objects.codecs import Packed
from chainweaver.objects.store import ObjectRef
from tests.lanes import crew
from tests.lanes.test_processes import wait_until_gone

ROOT = Path(__file__).parents[2]
MEMORY = Path("/dev/shm")
MB = 1 << 20

PROGRAM = """
import os, signal, sys, time
from chainweaver import Flow, FlowExecutor, FlowStep, Native, RetryPolicy, ToolContext, tool

class Mine:
    def __init__(self, n): self.n = n

@tool(output="data")
def grow(data: Native[bytes], mine: Native[object]) -> Native[bytes]:
    return data + bytes([mine.n])

@tool(output="mine")
def wrap(n: int, context: ToolContext) -> Native[object]:
    if context.attempt == 1 and n == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return Mine(n)

@tool(output="hung")
def hang(data: Native[bytes]) -> int:
    print(os.getpid(), flush=True)
    while True:
        pass

def main(how):
    names = ["wrap", "grow"] + (["hang"] if how == "killed" else [])
    retry = RetryPolicy(max_retries=1, backoff_seconds=0)
    flow = Flow(name="flow", description="a script", on_context_collision="overwrite",
                steps=[FlowStep(tool_name=name, retry=retry) for name in names])
    executor = FlowExecutor(tools=[grow, wrap, hang], flows=[flow], lane="process", process_workers=2)
    result = executor.execute_flow("flow", {"data": b"x" * 3_000_000, "n": 9 if how == "worker" else 7})
    result.raise_for_failure()
    assert type(result.final_output["mine"]) is Mine, result.final_output["mine"]
    print(len(result.final_output["data"]), *executor._bound.resources.processes.pids, flush=True)
    if how == "exception":
        raise SystemExit("with an exception")
    if how == "closed":
        executor.close()

if __name__ == "__main__":
    main(sys.argv[1])
"""


def test_a_program_that_was_killed_takes_its_workers_along(program: Path) -> None:
    """SIGKILL of the owner, in the middle of a call that would never end."""
    before = segments()
    child = started(program, "killed")
    assert child.stdout is not None
    worker = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    _, errors = child.communicate(timeout=30)
    assert errors == ""
    wait_until_gone(worker)
    assert segments() == before


@pytest.mark.parametrize(
    ("how", "said"),
    [("ended", ""), ("closed", ""), ("worker", ""), ("exception", "with an exception\n")],
    ids=["normal exit", "after close()", "SIGKILL of a worker", "exception"],
)
def test_a_program_leaves_no_process_no_segment_and_no_line(program: Path, how: str, said: str) -> None:
    """Nothing in /dev/shm, nothing on stderr but its own words, no worker."""
    before = segments()
    child = started(program, how)
    output, errors = child.communicate(timeout=60)
    assert errors == said
    nbytes, *pids = map(int, output.split())
    assert nbytes == 3_000_001
    for pid in pids:
        wait_until_gone(pid)
    assert segments() == before


def test_a_program_without_a_guard_says_so_instead_of_starting_itself_for_ever(tmp_path: Path) -> None:
    """R16: a worker that loads the program of its owner starts no workers on the way."""
    path = tmp_path / "unguarded.py"
    path.write_text(PROGRAM.replace('if __name__ == "__main__":\n    main(sys.argv[1])', 'main("ended")'), "utf-8")
    child = started(path, "ended")
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "if __name__ == '__main__':" in errors


def test_tools_of_an_interactive_session_are_refused_with_the_reason() -> None:
    """R15: there is no file that a worker could import."""
    code = """
        from chainweaver import Flow, FlowExecutor, FlowStep, LaneUnsupportedError, tool
        @tool
        def one(n: int) -> int:
            return n
        flow = Flow(name="flow", description="d", steps=[FlowStep(tool_name="one")])
        try:
            FlowExecutor(tools=[one], flows=[flow], lane="process").execute_flow("flow", {"n": 1})
        except LaneUnsupportedError as error:
            print(error)
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment(), capture_output=True, text=True, check=True
    )
    assert "it is defined in a program that is no file; put it into a module" in found.stdout


@pytest.mark.parametrize(
    "where",
    [
        "@tool(output='x')\n    def one(n: int) -> int: return n",
        "one = made()",
        "ex = FlowExecutor(tools=[made()])\n    one = ex.registered_tools['one']",
    ],
    ids=["defined", "made", "in an executor"],
)
def test_tools_below_the_guard_of_a_program_are_refused_before_anything_starts(tmp_path: Path, where: str) -> None:
    """R15: a worker does not run what is below the guard, and finds no name there."""
    path = tmp_path / "guarded.py"
    path.write_text(GUARDED.replace("WHERE", where), "utf-8")
    child = subprocess.run([sys.executable, str(path)], env=environment(), capture_output=True, text=True, check=False)
    assert "refused" in child.stdout, child.stderr + child.stdout
    assert "define it a" in child.stdout


GUARDED = """
from chainweaver import Flow, FlowExecutor, FlowStep, LaneUnsupportedError, tool

def made():
    @tool(output="x")
    def one(n: int) -> int:
        return n
    return one

if __name__ == "__main__":
    WHERE
    flow = Flow(name="flow", description="d", steps=[FlowStep(tool_name="one")])
    with FlowExecutor(tools=[one], flows=[flow], lane="process") as executor:
        try:
            print(executor.execute_flow("flow", {"n": 1}).execution_log)
        except LaneUnsupportedError as error:
            print("refused", error)
"""


def test_a_tool_that_only_the_program_itself_has_put_somewhere_is_named_with_what_to_do(tmp_path: Path) -> None:
    """R16: a worker finds no name that only a function of the program has made."""
    path = tmp_path / "late.py"
    code = GUARDED.replace("if __name__", "ex = FlowExecutor()\n\nif __name__").replace("WHERE", "one = made()")
    path.write_text(code.replace("    flow = Flow", "    ex.register_tool(one)\n    flow = Flow"), "utf-8")
    child = subprocess.run([sys.executable, str(path)], env=environment(), capture_output=True, text=True, check=False)
    assert "finds no tool at 'ex.registered_tools['one']'; define it at the top level" in child.stdout, child.stderr


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, "utf-8")
    return path


def started(path: Path, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(path), how], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def segments() -> set[str]:
    """What lies in the shared memory of the system under a name, but for what servers of databases leave there."""
    names = {path.name for path in MEMORY.iterdir()} if MEMORY.is_dir() else set()
    return {name for name in names if not name.startswith("PostgreSQL.")}


# ---- figures


@pytest.mark.slow
def test_eighty_megabytes_reach_two_steps_ten_times() -> None:
    """Under 64 KB through pipes, under 5 MB written in the worker, 50 times faster than pickling."""
    data = np.random.default_rng(1).random(10_000_000)
    with FlowExecutor(tools=[crew.size, crew.private_dirty], lane="process", process_workers=1) as executor:
        result, sent = measured(executor, data, ["private_dirty", "size"] * 10)
        _, *again = [record.duration_ms for record in result.execution_log if record.tool_name == "size"]
        growth = [after - before for record in result.execution_log if record.tool_name == "private_dirty"
                  for before, after in [(record.outputs or {})["private_dirty"]]]  # fmt: skip
    with FlowExecutor(tools=[crew.size], lane="process", process_workers=1, min_shared_bytes=1 << 40) as executor:
        pickled, _ = measured(executor, data, ["size"] * 4)
        slow = [record.duration_ms for record in pickled.execution_log][1:]
    ratio = statistics.median(slow) / statistics.median(again)
    again_ms, slow_ms = statistics.median(again), statistics.median(slow)
    print(
        f"{sent} bytes sent; {max(growth)} KB written; again {again_ms:.2f} ms, pickled {slow_ms:.0f} ms: {ratio:.0f} x"
    )
    assert sent < 64 << 10
    assert max(growth) < 5 << 10
    assert ratio >= 50


def measured(executor: FlowExecutor, data: np.ndarray, names: list[str]) -> tuple[ExecutionResult, int]:
    """A run of these steps, all of them with the same data, and the bytes that went through sockets."""
    steps = [FlowStep(tool_name=name, output_mapping={f"out{at}": crew_output(name)}) for at, name in enumerate(names)]
    executor.registry.register_flow(Flow(name="flow", description="figures", steps=steps))
    result = executor.execute_flow("flow", {"data": data})
    result.raise_for_failure()
    return result, executor._bind().resources.processes.traffic


def crew_output(name: str) -> str:
    return {"size": "nbytes", "private_dirty": "private_dirty"}[name]


def test_an_object_is_packed_once_for_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """the same value of a run is one segment, whoever uses it."""
    packed: list[int] = []
    pool = Processes(1)
    put = pool.sharing.store.put_packed

    def counted(one: Packed) -> ObjectRef:
        packed.append(one.nbytes)
        return put(one)

    monkeypatch.setattr(pool.sharing.store, "put_packed", counted)
    with FlowExecutor(tools=[crew.size], lane="process") as executor:
        executor._bind().resources._processes = pool
        measured(executor, np.ones(MB), ["size"] * 5)
        executor.execute_flow("flow", {"data": np.ones(MB)}).raise_for_failure()
    assert packed == [8 * MB, 8 * MB]
