"""What durable runs cost, as far as it can be counted; `durable-step` and `durable-growth` in benchmarks/ measure time.

Bytes and threads are the same on every machine. That a commit is one statement is what keeps it near the price of one.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chainweaver import Flow, FlowExecutor, FlowStep, tool
from chainweaver.sql import SqlStore, open_store
from tests.sql.places import rows_of

CONSTANT = 400
"""Bytes per step beside its outputs."""


@tool(name="tell", output="text")
def tell(at: int, size: int) -> str:
    """A text of a size."""
    return ('a line of text, with "quotes" and ü ' * (size // 30 + 1))[:size] + str(at)


@tool(name="count", output="counted")
def count(at: int, size: int) -> dict[str, list[float]]:
    """Numbers, in a dict."""
    return {f"row{row}": [row / 7, float(at)] for row in range(size // 40)}


def flow(length: int, tool_name: str = "tell") -> Flow:
    write = {"tell": "text", "count": "counted"}[tool_name]
    steps = [
        FlowStep(tool_name=tool_name, input_mapping={"at": at, "size": "size"}, output_mapping={f"v{at}": write})
        for at in range(length)
    ]
    return Flow(name="priced", description="d", steps=steps)


def executor_of(store: SqlStore, *flows: Flow) -> FlowExecutor:
    return FlowExecutor(tools=[tell, count], flows=flows, checkpointer=store.runs, delete_on_success=False)


@pytest.mark.parametrize("size", [0, 1_000, 100_000])
@pytest.mark.parametrize("tool_name", ["tell", "count"])
def test_a_step_is_kept_in_little_more_than_its_own_outputs(tmp_path: Path, tool_name: str, size: int):
    """R31: all columns of a step hold at most 1.2 times the JSON form of its outputs, and 400 bytes."""
    url = f"sqlite:///{tmp_path}/runs.db"
    with open_store(url) as store, executor_of(store, flow(20, tool_name)) as executor:
        result = executor.execute_flow("priced", {"size": size})
    payload = sum(len(json.dumps(one.outputs, ensure_ascii=False).encode()) for one in result.execution_log)
    rows = rows_of(url)["chainweaver_steps"]
    assert len(rows) == 20
    assert sum(map(bytes_of, rows)) <= 1.2 * payload + 20 * CONSTANT


def bytes_of(row: tuple[Any, ...]) -> int:
    """What the values of a row take; eight bytes for a number."""
    return sum(
        len(value.encode()) if isinstance(value, str) else len(value) if isinstance(value, bytes) else 8
        for value in row
        if value is not None
    )


@tool(name="fill", output="array")
def fill(size: int) -> np.ndarray:
    """Many numbers."""
    return np.zeros(size)


def test_a_large_object_lies_apart_and_once(tmp_path: Path):
    """R34: the row of its step names it, and equal contents of a run are kept one time."""
    url = f"sqlite:///{tmp_path}/runs.db"
    steps = [FlowStep(tool_name="fill", output_mapping={f"v{at}": "array"}) for at in range(3)]
    arrays = Flow(name="arrays", description="d", steps=steps)
    with (
        open_store(url) as store,
        FlowExecutor(tools=[fill], flows=[arrays], checkpointer=store.runs, delete_on_success=False) as executor,
    ):
        executor.execute_flow("arrays", {"size": 200_000}).raise_for_failure()
    rows = rows_of(url)
    assert sum(map(bytes_of, rows["chainweaver_steps"])) <= 3 * 2 * CONSTANT
    [(_, _, content)] = rows["chainweaver_artifacts"]
    assert 1_600_000 <= len(content) <= 1_600_000 + CONSTANT


def traced(store: SqlStore) -> list[tuple[str, int]]:
    """Statements of a store from now on, each with the thread that runs it."""
    seen: list[tuple[str, int]] = []
    connection: sqlite3.Connection = store.runs._database._opened()  # type: ignore[attr-defined]  # it is SQLite's
    connection.set_trace_callback(lambda statement: seen.append((statement, threading.get_ident())))
    return seen


@pytest.mark.parametrize("length", [50, 400])
def test_a_step_is_one_statement_however_long_the_run_is(tmp_path: Path, length: int):
    """R31: a run of n steps writes n times, and a few times at its ends."""
    with open_store(f"sqlite:///{tmp_path}/runs.db") as store, executor_of(store, flow(length)) as executor:
        seen = traced(store)
        executor.execute_flow("priced", {"size": 10}).raise_for_failure()
    commits = [statement for statement, _ in seen if "insert into chainweaver_steps" in statement]
    assert len(commits) == length
    assert len(seen) <= length + 10
    # The 400th statement is as long as the first: what was committed before is not written again.
    assert len(commits[-1]) <= len(commits[0]) + 20


def test_the_async_lane_commits_in_the_thread_of_its_loop(tmp_path: Path):
    """R31: a statement takes less time than going to another thread and back."""
    with open_store(f"sqlite:///{tmp_path}/runs.db") as store, executor_of(store, flow(20)) as executor:
        seen = traced(store)

        async def run() -> int:
            (await executor.execute_flow_async("priced", {"size": 10}, lane="inline")).raise_for_failure()
            return threading.get_ident()

        here = asyncio.run(run())
    assert len(seen) > 20
    assert {thread for _, thread in seen} == {here}


def test_annotations_are_read_for_the_first_run_of_a_plan_alone(tmp_path: Path):
    """R31: reading those of a model takes as long as committing its outputs."""
    with open_store(f"sqlite:///{tmp_path}/runs.db") as store, executor_of(store, flow(2)) as executor:
        executor.execute_flow("priced", {"size": 10}).raise_for_failure()
        [bound] = executor._plans.prepare("priced", None).plan.facts().reduces.values()
        executor.execute_flow("priced", {"size": 10}).raise_for_failure()
        [again] = executor._plans.prepare("priced", None).plan.facts().reduces.values()
    assert again is bound
