"""A program that runs flows of 40 steps in children, kills them at random moments, and goes on in the next child.

Called by test_crash.py as `main(URL, DIRECTORY, LANE, KILLS)`. Of both shapes one run is left alone; those after them
go on until all kills are done. Prints one JSON line per child that ended: what is committed then, and every tool call
so far. A child knows nothing of the ones before it but what is in the store, and goes on as one of three callers would:
who recovers whatever was left behind, who knows the id of the run, and who calls again with its key.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from chainweaver import DAGFlow, DAGFlowStep, ExecutionResult, Flow, FlowExecutor, FlowStep, Tool, ToolContext, tool
from chainweaver.exceptions import RunClaimedError
from chainweaver.sql import SqlStore, open_store

STEPS = 40
WIDTH = 4
LEASE_S = 0.1
"""Short, because every kill is followed by a wait for the claim of the dead; nobody competes for it here."""


class Manner(NamedTuple):
    """How runs are executed.

    Attributes:
        slots: Most tools that are called at the same time, by shape.
        lane: Lane of the tools.
        is_async: Whether the executor is called in an event loop.
        startup_s: About how long a child takes until its first tool call.
    """

    slots: dict[str, int]
    lane: str | None = None
    is_async: bool = False
    startup_s: float = 0.04


MANNERS = {
    "sync": Manner({"chain": 1, "dag": 1}),
    "threads": Manner({"chain": 1, "dag": WIDTH}, lane="thread"),
    "asyncio": Manner({"chain": 1, "dag": WIDTH}, is_async=True),
    "process": Manner({"chain": 1, "dag": 2}, lane="process", startup_s=0.6),
}


def tell(path: str, line: str) -> None:
    """Append a line in one write, so that no two callers mix theirs."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, line.encode() + b"\n")
    os.close(handle)


def worked(n: int, at: int, ledger: str, context: ToolContext) -> int:
    """What both tools do: tell that they were called, and count."""
    tell(ledger, f"{context.step_id} {context.idempotency_key} {os.getpid()}")
    return n * 7 % 1009 + at


@tool(name="work", output="work")
def work(n: int, at: int, ledger: str, context: ToolContext) -> int:
    """Takes a millisecond."""
    value = worked(n, at, ledger, context)
    time.sleep(0.001)
    return value


@tool(name="work", output="work")
async def async_work(n: int, at: int, ledger: str, context: ToolContext) -> int:
    """Takes a millisecond."""
    value = worked(n, at, ledger, context)
    await asyncio.sleep(0.001)
    return value


def flow_of(shape: str) -> Flow | DAGFlow:
    """Forty steps, one after the other or four abreast, each reading one above."""
    if shape == "chain":
        mappings = [("n" if at == 0 else f"v{at - 1}", f"v{at}", at) for at in range(STEPS)]
        chain = [
            FlowStep(
                tool_name="work",
                input_mapping={"n": read, "at": at, "ledger": "ledger"},
                output_mapping={write: "work"},
            )
            for read, write, at in mappings
        ]
        return Flow(name=shape, description="d", steps=chain)
    steps = []
    for at in range(STEPS):
        row = at // WIDTH
        above = [f"s{one}" for one in range((row - 1) * WIDTH, row * WIDTH)] if row else []
        read = above[at % WIDTH].replace("s", "v") if above else "n"
        steps.append(
            DAGFlowStep(
                step_id=f"s{at}",
                tool_name="work",
                depends_on=above,
                input_mapping={"n": read, "at": at, "ledger": "ledger"},
                output_mapping={f"v{at}": "work"},
            )
        )
    return DAGFlow(name=shape, version="1", description="d", steps=steps)


SHAPES = ("chain", "dag")


def executor_of(store: SqlStore, manner: Manner, shape: str) -> FlowExecutor:
    """Made anew in every child."""
    tools: list[Tool] = [async_work if manner.is_async else work]
    return FlowExecutor(
        tools=tools,
        flows=[flow_of(one) for one in SHAPES],
        checkpointer=store.runs,
        delete_on_success=False,
        max_step_concurrency=manner.slots[shape],
        lane=manner.lane,
        process_workers=2,
    )


def child(url: str, manner: Manner, shape: str, key: str, ledger: Path, way: str) -> None:
    """Begin the run, or go on with it; leave the outcome when it ends."""
    with open_store(url, lease_s=LEASE_S) as store, executor_of(store, manner, shape) as executor:
        result = went_on(executor, store, manner, shape, key, ledger, way)
    records = [[one.step_id, one.inputs, one.outputs, one.status] for one in result.execution_log]
    told = {"output": result.final_output, "records": records, "trace_id": result.trace_id}
    unfinished = ledger.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(told).replace(str(ledger), "LEDGER"))
    os.replace(unfinished, ledger.with_suffix(".outcome"))


def went_on(
    executor: FlowExecutor, store: SqlStore, manner: Manner, shape: str, key: str, ledger: Path, way: str
) -> ExecutionResult:
    """The result of the run with this key, whoever began it."""

    def call(sync: Callable[..., Any], in_a_loop: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return asyncio.run(in_a_loop(*args, **options)) if manner.is_async else sync(*args, **options)

    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        known = store.runs.list_runs(key=key)
        try:
            if not known or known[0].status != "running" or way == "key":
                given = {"n": 1, "ledger": str(ledger)}
                result: ExecutionResult = call(
                    executor.execute_flow, executor.execute_flow_async, shape, given, key=key
                )
                return result
            if way == "id":
                resumed = call(executor.resume_flow, executor.resume_flow_async, known[0].trace_id)
                assert isinstance(resumed, ExecutionResult)
                return resumed
            for recovered in call(executor.recover, executor.recover_async):
                assert recovered.error is None
                assert isinstance(recovered.result, ExecutionResult)
                return recovered.result
        except RunClaimedError:
            pass
        time.sleep(0.005)
    raise AssertionError("nobody lets the run go")


def main(url: str, directory: Path, lane: str, kills: int, seed: int = 0) -> None:
    """Run, kill and go on until as many were killed."""
    for name in ("executor.resume", "lanes.async_", "lanes.processes", "sql.sqlite"):
        importlib.import_module(f"chainweaver.{name}")  # once, and not in every child
    chance, manner = random.Random(f"{lane} {seed}"), MANNERS[lane]
    killed = run = 0
    while True:
        shape, alone = SHAPES[run % 2], run < len(SHAPES)
        ledger = directory / f"{lane}-{shape}-{run}"
        way = chance.choice(("recover", "id", "key"))
        pid = os.fork()
        if pid == 0:
            try:
                child(url, manner, shape, ledger.name, ledger, way)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        if not alone and killed < kills:
            await_calls(ledger, chance.randrange(16), pid)
            time.sleep(chance.random() * (manner.startup_s if chance.random() < 0.2 else 0.004))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        was_killed = os.WIFSIGNALED(status)
        killed += was_killed
        told = seen(url, ledger)
        print(json.dumps({"run": run, "shape": shape, "killed": was_killed, **told}), flush=True)
        if not was_killed and status:
            return
        if told["outcome"] is not None:
            run += 1
            if killed >= kills:
                return


def await_calls(ledger: Path, count: int, pid: int) -> None:
    """Wait until a child has called so many tools, or has ended."""
    before = len(ledger.read_bytes().splitlines()) if ledger.exists() else 0
    while count and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if ledger.exists() and len(ledger.read_bytes().splitlines()) >= before + count:
            return
        time.sleep(0.0005)


def seen(url: str, ledger: Path) -> dict[str, Any]:
    """What can be known of a run from outside."""
    with open_store(url) as store:
        known = store.runs.list_runs(key=ledger.name)
        steps = store.runs.load(known[0].trace_id).steps if known else []
    calls = [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []
    outcome = ledger.with_suffix(".outcome")
    return {
        "traces": [one.trace_id for one in known],
        "committed": [step.step_id for step in steps],
        "calls": calls,
        "outcome": json.loads(outcome.read_text()) if outcome.exists() else None,
    }
