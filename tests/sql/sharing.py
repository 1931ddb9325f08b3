"""A process whose threads execute runs of a store that other processes work on as well.

Called by test_many_processes.py as `main(URL, DIRECTORY, THREADS, RUNS)`. Every process asks for every run by its key,
and for whatever was left behind: who comes first gets it. Prints what the callers were told, by name and number.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from chainweaver import Flow, FlowExecutor, FlowStep, ToolContext, tool
from chainweaver.exceptions import RunClaimedError
from chainweaver.sql import SqlStore, open_store
from tests.sql.crashing import tell

STEPS = 3


@tool(name="work", output="n")
def work(n: int, ledger: str, context: ToolContext) -> int:
    """Tell of the call."""
    tell(ledger, f"{context.idempotency_key} {os.getpid()}")
    return n + 1


def executor_of(store: SqlStore) -> FlowExecutor:
    steps = [
        FlowStep(tool_name="work", input_mapping={"n": read, "ledger": "ledger"}, output_mapping={f"v{at}": "n"})
        for at, read in enumerate(["n", *(f"v{at}" for at in range(STEPS - 1))])
    ]
    flow = Flow(name="shared", description="d", steps=steps)
    return FlowExecutor(tools=[work], flows=[flow], checkpointer=store.runs, delete_on_success=False)


def main(url: str, directory: Path, threads: int, runs: int) -> None:
    """Ask for each of the runs until it has ended, in an order of one's own."""
    (directory / f"ready{os.getpid()}").touch()
    while not (directory / "go").exists():
        time.sleep(0.001)
    told: Counter[str] = Counter()
    order = random.Random(os.getpid()).sample(range(runs), runs)
    with open_store(url) as store, executor_of(store) as executor:

        def ask(number: int) -> str:
            given = {"n": number, "ledger": str(directory / "ledger")}
            # What was left behind by the test is recovered between the others.
            recovered = executor.recover(limit=1) if number % 4 == 0 else []
            answers = ["lost" if one.error else "recovered" for one in recovered]
            while True:
                try:
                    result = executor.execute_flow("shared", given, key=f"run{number}")
                except RunClaimedError:
                    answers.append("claimed")
                    time.sleep(0.002)
                except Exception as exc:
                    return " ".join([*answers, f"{type(exc).__name__}: {exc}"])
                else:
                    assert result.final_output is not None
                    answers.append("right" if result.final_output[f"v{STEPS - 1}"] == number + STEPS else "wrong")
                    return " ".join(answers)

        with ThreadPoolExecutor(threads) as pool:
            for answer in pool.map(ask, order):
                told.update(answer.split() if "Error" not in answer else [answer])
    print(json.dumps(told), flush=True)
