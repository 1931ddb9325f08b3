"""A program that runs a flow of 30 steps in child processes and kills them at random moments.

Called by test_resume_sigkill.py as `python killing.py DIRECTORY SHAPE KILLS`. Nobody is killed in the first run; those
after it go on until all kills are done. Prints one JSON line per child that ended: which steps were committed then, and
how often each tool was called so far. A child knows nothing of the ones before it but what is in the directory.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from chainweaver import DAGFlow, DAGFlowStep, FileCheckpointer, Flow, FlowExecutor, FlowStep, ToolContext, tool

STEPS = 30
WIDTH = 4


def tell(path: Path, line: str) -> None:
    """Append a line in one write, so that no two children mix theirs."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, line.encode() + b"\n")
    os.close(handle)


def work_tool(directory: Path) -> Any:
    @tool
    def work(n: int, at: int, context: ToolContext) -> int:
        tell(directory / "calls", f"{context.step_id} {context.idempotency_key}")
        time.sleep(0.001)
        return n * 7 % 1009 + at

    return work


def flow_of(shape: str) -> Flow | DAGFlow:
    if shape == "chain":
        mappings = [("n" if at == 0 else f"v{at - 1}", f"v{at}", at) for at in range(STEPS)]
        return Flow(
            name="long",
            description="d",
            steps=[
                FlowStep(tool_name="work", input_mapping={"n": read, "at": at}, output_mapping={write: "work"})
                for read, write, at in mappings
            ],
        )
    steps = []
    for at in range(STEPS):
        row = at // WIDTH
        above = [f"s{one}" for one in range((row - 1) * WIDTH, row * WIDTH)] if row else []
        steps.append(
            DAGFlowStep(
                step_id=f"s{at}",
                tool_name="work",
                depends_on=above,
                input_mapping={"n": above[at % WIDTH].replace("s", "v") if above else "n", "at": at},
                output_mapping={f"v{at}": "work"},
            )
        )
    return DAGFlow(name="long", version="1", description="d", steps=steps)


def child(directory: Path, shape: str) -> None:
    """Begin the run, or go on with it; leave the outcome when it ends."""
    store = FileCheckpointer(directory / "checkpoints", fsync=False)
    limit = 1 if shape == "chain" else WIDTH
    executor = FlowExecutor(
        tools=[work_tool(directory)],
        flows=[flow_of(shape)],
        checkpointer=store,
        max_step_concurrency=limit,
        delete_on_success=False,
    )
    known = store.list_trace_ids()
    result = executor.resume_flow(known[0]) if known else executor.execute_flow("long", {"n": 1})
    records = [[one.step_id, one.inputs, one.outputs, one.status] for one in result.execution_log]
    (directory / "unfinished").write_text(json.dumps({"output": result.final_output, "records": records}))
    os.replace(directory / "unfinished", directory / "outcome")


def main(directory: Path, shape: str, kills: int) -> None:
    chance = random.Random(kills)
    killed = run = 0
    while killed < kills or not (directory / str(run) / "outcome").exists():
        run += (directory / str(run) / "outcome").exists()
        place = directory / str(run)
        place.mkdir(exist_ok=True)
        pid = os.fork()
        if pid == 0:
            try:
                child(place, shape)
            finally:
                os._exit(0)
        if run and killed < kills:
            await_calls(place / "calls", chance.randrange(12), pid)
            time.sleep(chance.random() * 0.004)
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        killed += os.WIFSIGNALED(status)
        print(json.dumps({"run": run, "killed": os.WIFSIGNALED(status), **seen(place)}), flush=True)


def await_calls(path: Path, count: int, pid: int) -> None:
    """Wait until a child has called so many tools, or has ended."""
    before = path.stat().st_size if path.exists() else 0
    enough = before + count * len("0 /0\n" + "f" * 32)
    while count and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if path.exists() and path.stat().st_size >= enough:
            return
        time.sleep(0.0002)


def seen(place: Path) -> dict[str, Any]:
    """What can be known of a run from outside."""
    calls = (place / "calls").read_text().splitlines() if (place / "calls").exists() else []
    store = FileCheckpointer(place / "checkpoints", fsync=False)
    known = store.list_trace_ids()
    outcome = place / "outcome"
    return {
        "traces": known,
        "committed": [step.step_id for step in store.load(known[0]).steps] if known else [],
        "calls": Counter(line.split()[0] for line in calls),
        "keys": sorted({line.split()[1] for line in calls}),
        "outcome": json.loads(outcome.read_text()) if outcome.exists() else None,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
