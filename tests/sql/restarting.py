"""A process that runs and recovers while the server of its store is restarted again and again.

Called by test_restarts.py as `main(URL, DIRECTORY, NUMBERS, SIZE, PATIENCE_S)`. Its threads begin the runs of its
numbers, and leave behind what breaks off. Its first thread meanwhile opens the store anew, time and again, and
recovers whatever anybody left. It ends when all of its runs were answered and none is unfinished. Every call of a tool,
and every answer of the store to a commit, is told in one file, in the order in which they happened.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import TypedDict

from chainweaver import DAGFlow, DAGFlowStep, ExecutionResult, Flow, FlowExecutor, FlowStep, ToolContext, tool
from chainweaver.checkpoint import StepDelta
from chainweaver.exceptions import RunClaimedError, RunClaimLostError, StoreUnavailableError
from chainweaver.sql import SqlStore, open_store
from chainweaver.sql.runs import SqlRuns
from tests.sql.crashing import tell

STEPS = 8
LARGE = 5
"""The step whose output lies in a row of its own, so that its commit is a transaction."""
HELD = 2
"""The step that ends only after the server was gone for the first time, so that it is missed by whoever came so far."""
THREADS = 4
BACKOFF_S = 0.25
"""How long a thread waits after a call that the store has failed."""
MAY_RAISE = (StoreUnavailableError, RunClaimedError, RunClaimLostError)
"""The store is away, or somebody else is at the run."""


class Size(NamedTuple):
    """How long things take.

    Attributes:
        step_s: A step at most; it is half of that on average.
        lease_s: How long the run of whoever gave up stays claimed.
        limit_s: When a process says what is stuck, instead of going on.
    """

    step_s: float
    lease_s: float
    limit_s: float


class Large(TypedDict):
    value: int
    blob: bytes


@tool
def work(n: int, at: int, given: dict[str, Any], context: ToolContext) -> Large:
    """Tell of the call, and take a time of its own."""
    tell(f"{given['place']}/ledger", f"called {context.idempotency_key} {time.time()!r}")
    time.sleep(given["step_s"] * ((n + 5 * at) % 16) / 15)
    while at == HELD and not Path(given["place"], "gone").exists():
        time.sleep(0.005)
    return {"value": n * 7 % 1009 + at, "blob": bytes([at]) * 70_000 if at == LARGE else b""}


def row_of(shape: str, at: int) -> int:
    """The row of a step; those of one row may be under way together."""
    return at if shape == "chain" else at // 2


def flow_of(shape: str) -> Flow | DAGFlow:
    """Eight steps, one after the other or two abreast, each reading the one above it."""
    width = 1 if shape == "chain" else 2
    steps: list[dict[str, Any]] = [
        {
            "tool_name": "work",
            "input_mapping": {"n": f"v{at - width}" if at >= width else "n", "at": at, "given": "given"},
            "output_mapping": {f"v{at}": "value", f"b{at}": "blob"},
        }
        for at in range(STEPS)
    ]
    if shape == "chain":
        return Flow(name=shape, description="d", steps=[FlowStep(**step) for step in steps])
    for at, step in enumerate(steps):
        step["step_id"] = str(at)
        step["depends_on"] = [str(one) for one in range(at) if row_of(shape, one) == row_of(shape, at) - 1]
    return DAGFlow(name=shape, version="1", description="d", steps=[DAGFlowStep(**step) for step in steps])


class TellingRuns(SqlRuns):
    """The runs of a store, which tells what became of each commit."""

    ledger: Path

    def append(self, trace_id: str, delta: StepDelta) -> None:
        try:
            super().append(trace_id, delta)
        except Exception as exc:
            tell(str(self.ledger), f"refused {trace_id}/{delta.step_id} {type(exc).__name__}")
            raise
        tell(str(self.ledger), f"kept {trace_id}/{delta.step_id}")


def opened(url: str, directory: Path, size: Size, patience_s: float) -> SqlStore:
    store = open_store(url, lease_s=size.lease_s, patience_s=patience_s)
    store.runs = TellingRuns(store._database, lease_s=size.lease_s)
    store.runs.ledger = directory / "ledger"
    return store


def executor_of(store: SqlStore) -> FlowExecutor:
    return FlowExecutor(
        tools=[work],
        flows=[flow_of("chain"), flow_of("dag")],
        checkpointer=store.runs,
        delete_on_success=False,
        max_step_concurrency=2,
        lane="thread",
    )


def ask(executor: FlowExecutor, number: int, directory: Path, step_s: float) -> ExecutionResult:
    """Begin a run, go on with it, or get its result: whatever is left to do."""
    given = {"n": number, "given": {"place": str(directory), "step_s": step_s}}
    return executor.execute_flow("dag" if number % 2 else "chain", given, key=f"run{number}")


def told_by(result: ExecutionResult) -> str:
    """What the caller makes of a result: the run is done, or it broke off because the store was away."""
    if result.success:
        return "done"
    codes = {record.error_code for record in result.execution_log if record.error_code is not None}
    return "broke off" if codes == {StoreUnavailableError.code} else f"{result.status} with {sorted(codes)}"


def main(url: str, directory: Path, numbers: Sequence[int], size: Size, patience_s: float) -> None:
    """Have all runs of these numbers done, whoever does them; print what callers were told, by name and number."""
    logging.getLogger("chainweaver").addHandler(logging.NullHandler())  # it says which ends of runs were not written
    told, left = Counter[str](), list(numbers)
    ends = time.monotonic() + size.limit_s
    with opened(url, directory, size, patience_s) as store, executor_of(store) as executor:
        (directory / f"ready{os.getpid()}").touch()
        while not (directory / "go").exists():
            time.sleep(0.001)

        def is_done(number: int) -> bool:
            try:
                said = told_by(ask(executor, number, directory, size.step_s))
            except MAY_RAISE as exc:
                said = type(exc).__name__
            told[said] += 1
            if said != "done":
                time.sleep(BACKOFF_S)
            return said == "done"

        with ThreadPoolExecutor(THREADS) as pool:
            while left:
                answers = [pool.submit(is_done, number) for number in left]
                is_over = False
                # What breaks off is asked for again when nothing is left to recover; it has ended by then, or failed.
                while not is_over:
                    assert time.monotonic() < ends, f"of runs {left} some are stuck"
                    time.sleep(0.05)
                    are_answered = all(one.done() for one in answers)
                    is_over = recover(url, directory, size, patience_s, numbers, told) and are_answered
                left = [number for number, one in zip(left, answers, strict=True) if not one.result()]
    print(json.dumps(told), flush=True)


def recover(
    url: str, directory: Path, size: Size, patience_s: float, numbers: Sequence[int], told: Counter[str]
) -> bool:
    """Go on with what was left behind, in a store that was opened for it; whether these numbers have no open run."""
    try:
        with opened(url, directory, size, patience_s) as store, executor_of(store) as executor:
            for _, result, error in executor.recover(limit=3):
                if error is not None and not isinstance(error, MAY_RAISE):
                    raise error
                assert error is not None or result is not None
                said = type(error).__name__ if result is None or error is not None else told_by(result)
                told[f"recovery {said}"] += 1
            unfinished = store.runs.list_runs(status="running", limit=1_000)
            return not {one.key for one in unfinished} & {f"run{number}" for number in numbers}
    except StoreUnavailableError:
        told["recovery StoreUnavailableError"] += 1
        return False
