"""Neighbours that keep every step in SQLite: `python -m benchmarks.durable`.

A chain of 50 steps that add two integers, each committed before the next one begins, as each system does it by default:
chainweaver with its store, LangGraph with SqliteSaver, DBOS with its SQLite system database. A neighbour is measured
when it is installed and named as missing when it is not; none is a dependency. Definition and compilation are outside
the measured time.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import platform
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from typing_extensions import TypedDict

from chainweaver import Flow, FlowExecutor, FlowStep, tool
from chainweaver.sql import open_store

STEPS = 50
Run = Callable[[int], int]


@contextmanager
def chainweaver(folder: Path) -> Iterator[Run]:
    """A flow, its runs kept when they have ended, as the neighbours keep theirs."""

    @tool(name="add", output="n")
    def add(n: int, k: int) -> int:
        return n + k

    steps = [
        FlowStep(tool_name="add", input_mapping={"n": read, "k": 1}, output_mapping={f"v{at}": "n"})
        for at, read in enumerate(["n", *(f"v{at}" for at in range(STEPS - 1))])
    ]
    flow = Flow(name="bench", description="A chain.", steps=steps)
    with (
        open_store(f"sqlite:///{folder}/ours.db") as store,
        FlowExecutor(tools=[add], flows=[flow], checkpointer=store.runs, delete_on_success=False) as executor,
    ):

        def run(n: int) -> int:
            output = executor.execute_flow("bench", {"n": n}).raise_for_failure().final_output
            assert output is not None
            return int(output[f"v{STEPS - 1}"])

        yield run


@contextmanager
def langgraph(folder: Path) -> Iterator[Run]:
    """A state graph of one channel, compiled with SqliteSaver, one thread per run."""
    package, saver = import_module("langgraph.graph"), import_module("langgraph.checkpoint.sqlite").SqliteSaver
    builder = package.StateGraph(TypedDict("State", {"n": int}))
    before = package.START
    for at in range(STEPS):
        builder.add_node(f"s{at}", lambda state: {"n": state["n"] + 1})
        builder.add_edge(before, f"s{at}")
        before = f"s{at}"
    with saver.from_conn_string(f"{folder}/langgraph.db") as checkpointer:
        graph = builder.compile(checkpointer=checkpointer)
        runs = iter(range(10**9))

        def run(n: int) -> int:
            config = {"recursion_limit": STEPS + 5, "configurable": {"thread_id": str(next(runs))}}
            return int(graph.invoke({"n": n}, config)["n"])

        yield run


@contextmanager
def dbos(folder: Path) -> Iterator[Run]:
    """A workflow of decorated steps."""
    package = import_module("dbos")
    owner = package.DBOS
    owner(config={"name": "bench", "system_database_url": f"sqlite:///{folder}/dbos.db", "log_level": "ERROR"})

    @owner.step()  # type: ignore[untyped-decorator]  # it is not installed where types are checked
    def add(n: int) -> int:
        return n + 1

    @owner.workflow()  # type: ignore[untyped-decorator]
    def chain(n: int) -> int:
        for _ in range(STEPS):
            n = add(n)
        return n

    owner.launch()
    try:
        yield lambda n: int(chain(n))
    finally:
        owner.destroy()


@contextmanager
def bare(folder: Path) -> Iterator[Run]:
    """`begin; insert; commit` and nothing else: the limit."""
    connection = sqlite3.connect(f"{folder}/bare.db", isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = normal")
    connection.execute("create table steps (id integer primary key, outputs text)")

    def run(n: int) -> int:
        for _ in range(STEPS):
            n += 1
            connection.execute("begin immediate")
            connection.execute("insert into steps (outputs) values (?)", (f'{{"n":{n}}}',))
            connection.execute("commit")
        return n

    yield run
    connection.close()


SYSTEMS = {
    "bare commits": (bare, None),
    "chainweaver": (chainweaver, None),
    "langgraph": (langgraph, "langgraph-checkpoint-sqlite"),
    "dbos": (dbos, "dbos"),
}


def microseconds_per_step(make: Callable[[Path], Any], seconds: float) -> float:
    """Median over runs; the first one is not counted."""
    with TemporaryDirectory() as folder, make(Path(folder)) as run:
        times: list[float] = []
        run(0)
        gc.collect()
        ends = perf_counter() + seconds
        while len(times) < 3 or perf_counter() < ends:
            began = perf_counter()
            answer = run(len(times))
            times.append(perf_counter() - began)
            if answer != len(times) - 1 + STEPS:
                raise AssertionError(f"{answer} is wrong")
    return median(times) / STEPS * 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table: microseconds per committed step, and as a multiple of bare commits."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durable", description="Measure durable neighbours.")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each system (default 2)")
    seconds = parser.parse_args(arguments).seconds
    limit = None
    print("| system | us per step | bare commits |\n|---|---|---|")
    for name, (make, distribution) in SYSTEMS.items():
        try:
            version = "" if distribution is None else f" {importlib.metadata.version(distribution)}"
        except importlib.metadata.PackageNotFoundError:
            print(f"| {name} | not installed | |")
            continue
        per_step = microseconds_per_step(make, seconds)
        limit = limit or per_step
        print(f"| {name}{version} | {per_step:,.0f} | {per_step / limit:.1f} |", flush=True)
    print(f"Chain of {STEPS} steps on Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
