"""A process that is paused in the middle of a run, or told to stop, and says how its call ended.

Called by test_paused_owner.py and test_stopping.py as `main(URL, DIRECTORY, MANNER, ...)`. Its steps wait for a file,
so that the test knows where the process stands when it sends a signal.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from chainweaver import DAGFlow, DAGFlowStep, ExecutionResult, FlowExecutor, tool
from chainweaver.sql import SqlStore, open_store
from tests.sql.crashing import tell

MANNERS = ("sync", "threads", "asyncio")
WIDTH = 3
LIMIT_S = 120.0


@tool(name="work", output="work")
def work(n: int, at: int, place: str) -> int:
    """Say that it was called, and wait for leave to go on."""
    tell(f"{place}/calls", f"{at} {os.getpid()}")
    ends = time.monotonic() + LIMIT_S
    while not Path(place, f"go{at}").exists() and time.monotonic() < ends:
        if Path(place, f"fail{at}").exists():
            raise OSError("told to fail")
        time.sleep(0.002)
    return n + at


@tool(name="work", output="work")
async def async_work(n: int, at: int, place: str) -> int:
    """The same in a task."""
    tell(f"{place}/calls", f"{at} {os.getpid()}")
    ends = time.monotonic() + LIMIT_S
    while not Path(place, f"go{at}").exists() and time.monotonic() < ends:
        await asyncio.sleep(0.002)
    return n + at


def flow() -> DAGFlow:
    """One step, three side by side, and one that needs them all."""
    middle = [f"s{at}" for at in range(1, WIDTH + 1)]

    def step(at: int, *above: str) -> DAGFlowStep:
        mapping = {"n": above[0].replace("s", "v") if above else "n", "at": at, "place": "place"}
        return DAGFlowStep(
            step_id=f"s{at}",
            tool_name="work",
            depends_on=list(above),
            input_mapping=mapping,
            output_mapping={f"v{at}": "work"},
        )

    steps = [step(0), *(step(at, "s0") for at in range(1, WIDTH + 1)), step(WIDTH + 1, *middle)]
    return DAGFlow(name="paused", version="1", description="d", steps=steps)


def executor_of(store: SqlStore, manner: str, *, keep: bool = True) -> FlowExecutor:
    return FlowExecutor(
        tools=[async_work if manner == "asyncio" else work],
        flows=[flow()],
        checkpointer=store.runs,
        delete_on_success=not keep,
        max_step_concurrency=1 if manner == "sync" else WIDTH,
        lane="thread" if manner == "threads" else None,
    )


def main(url: str, place: Path, manner: str, lease_s: float, keep: bool, heeds_sigterm: bool) -> None:
    """Run the flow, and tell how the call ended."""
    with open_store(url, lease_s=lease_s) as store, executor_of(store, manner, keep=keep) as executor:
        given = {"n": 1, "place": str(place)}
        told: dict[str, Any] = {"error": None}
        result: ExecutionResult | None
        with executor.handing_back_on() if heeds_sigterm else nullcontext():
            try:
                if manner == "asyncio":
                    result = asyncio.run(executor.execute_flow_async("paused", given))
                else:
                    result = executor.execute_flow("paused", given)
            except Exception as exc:
                told["error"], result = type(exc).__name__, getattr(exc, "result", None)
        told["status"] = None if result is None else result.status
        told["ok"] = [] if result is None else [one.step_id for one in result.execution_log if one.success]
        print(json.dumps(told), flush=True)
        # What is left behind, threads for example, gets its chance to do harm.
        time.sleep(0.1)
