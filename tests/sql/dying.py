"""A program whose children kill themselves right before or after one call of their store, and go on in the next child.

Called by test_every_store_call.py as `main(PLACE, DIRECTORY, STRIDE, TWICE)`. Prints one JSON line per run; the first
one ends alive. The flow has 12 steps: branches, a map, a sub-flow, a join.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from chainweaver import (
    ConditionalEdge,
    DAGFlow,
    DAGFlowStep,
    FileCheckpointer,
    FlowExecutor,
    InMemoryCheckpointer,
    Tool,
    ToolContext,
    tool,
)
from chainweaver.exceptions import RunClaimedError
from chainweaver.executor.durable import run_store
from chainweaver.sql import open_store
from tests.sql.crashing import tell

LEASE_S = 0.02
STATEMENTS = "#statements"
"""Behind the URL of a SQLite file: children end before a statement instead of at a call."""
CALLS = ("admit", "claim", "claim_orphan", "save", "load", "append", "finish", "delete")


class Death(NamedTuple):
    """Where a child ends.

    Attributes:
        call: Number of the store call, 1-based.
        done: Whether the call is done by then.
    """

    call: int
    done: bool


def tool_named(name: str, answer: Callable[[int], Any] = lambda n: n + 1) -> Tool:
    """A tool that tells of its call."""

    @tool(name=name, output="out")
    def called(n: int, ledger: str, context: ToolContext) -> Any:
        tell(ledger, f"{name} {context.idempotency_key}")
        return answer(n)

    return called


def node(name: str, *needs: str, **options: Any) -> DAGFlowStep:
    read = next((one for one in needs if one not in ("fork", "inside")), "n")
    mapping = {"n": read, "ledger": "ledger"}
    options = {"tool_name": name, "output_mapping": {name: "out"}, "input_mapping": mapping, **options}
    return DAGFlowStep(step_id=name, depends_on=list(needs), **options)


def flows() -> list[DAGFlow]:
    inside = {"tool_name": None, "flow_name": "inner", "output_mapping": {"q": "q"}}
    fork = [ConditionalEdge(target_step_id="large", predicate="fork > 100")]
    steps = [
        node("first"),
        node("fork", "first", branches=fork, default_next="small"),
        node("large", "fork"),
        node("small", "fork"),
        node("items", "first"),
        node("each", "items", map_over="items", input_mapping={"n": "item", "ledger": "ledger"}),
        node("inside", "first", **inside),
        node("after", "inside", input_mapping={"n": "q", "ledger": "ledger"}),
        node("left", "small"),
        node("right", "first"),
        node("join", "left", "right", "after"),
        node("last", "join", "each", input_mapping={"n": "join", "ledger": "ledger"}),
    ]
    facts = {"version": "1", "description": "d"}
    inner = DAGFlow(name="inner", steps=[node("p"), node("q", "p")], **facts)  # type: ignore[arg-type]  # facts are texts
    return [inner, DAGFlow(name="whole", steps=steps, **facts)]  # type: ignore[arg-type]


NAMES = ("first", "fork", "large", "small", "each", "after", "left", "right", "join", "last", "p", "q")
TOOLS = [*map(tool_named, NAMES), tool_named("items", lambda n: [n, n + 1, n + 2])]
EXECUTOR = FlowExecutor(tools=TOOLS, flows=flows(), checkpointer=InMemoryCheckpointer(), delete_on_success=False)
"""Compiles the flow once, and not in every child: that would take longer than the run."""


def executor_of(store: Any) -> FlowExecutor:
    """The executor, with another store."""
    runs = EXECUTOR._bind()
    runs.checkpointer, runs.store = store, run_store(store)
    return EXECUTOR


def mortal(store: Any, death: Death | None, die: Callable[[], Any], told: list[str]) -> Any:
    """The store, such that one call of it is the last; which calls there were is told."""

    def ending(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def method(*args: Any, **options: Any) -> Any:
            told.append(name)
            if death == Death(len(told), False):
                die()
            answer = call(*args, **options)
            if death == Death(len(told), True):
                die()
            return answer

        return method

    for name in CALLS:
        if hasattr(store, name):
            vars(store)[name] = ending(name, getattr(store, name))
    return store


def go_on(store: Any, ledger: Path) -> dict[str, Any]:
    """Begin the run that is in the store, or go on with it; its outcome."""
    executor = executor_of(store)
    known = store.list_trace_ids()
    while known:
        try:
            result = executor.resume_flow(known[0])
            break
        except RunClaimedError:
            time.sleep(0.002)
    else:
        result = executor.execute_flow("whole", {"n": 1, "ledger": str(ledger)})
    records = [[one.step_id, one.inputs, one.outputs, one.status] for one in result.execution_log]
    output, records = json.loads(json.dumps([result.final_output, records]).replace(str(ledger), "LEDGER"))
    return {"output": output, "records": records, "traces": store.list_trace_ids()}


def child(url: str, place: Path, death: Death | None) -> None:
    """Go on with the run until the end, its own or that of the run."""
    told: list[str] = []

    def die() -> None:
        (place / "died").write_text(told[-1])
        os.kill(os.getpid(), signal.SIGKILL)

    if url == "file":
        outcome = go_on(mortal(FileCheckpointer(place / "runs", fsync=False), death, die, told), place / "ledger")
    else:
        with open_store(url.removesuffix(STATEMENTS), lease_s=LEASE_S) as store:
            if url.endswith(STATEMENTS):
                # Asked before every statement, those that begin and end a transaction too.
                store._database._opened().set_trace_callback(counting(told, death, die))  # type: ignore[attr-defined]
                outcome = go_on(store.runs, place / "ledger")
            else:
                outcome = go_on(mortal(store.runs, death, die, told), place / "ledger")
    (place / "outcome").write_text(json.dumps({**outcome, "store_calls": told}))


def counting(told: list[str], death: Death | None, die: Callable[[], Any]) -> Callable[[str], None]:
    def count(statement: str) -> None:
        told.append(statement[:30])
        if death is not None and len(told) == death.call:
            die()

    return count


def main(url: str, directory: Path, stride: int, twice: int) -> None:
    """A whole run, then runs that end at every call of the store that it made, then some that end at two."""
    importlib.import_module("chainweaver.executor.resume")  # once, and not in every child
    EXECUTOR._plans.prepare("whole", None)
    whole = lived(url, directory / "whole", ())
    statements = url.endswith(STATEMENTS)
    # Claims are renewed at any time.
    calls = len([one for one in whole["store_calls"] if not (statements and "lease_until" in one)])
    befores_and_afters = (False,) if statements else (False, True)
    once = [Death(call, done) for call in range(1, calls + 1, stride) for done in befores_and_afters]
    # The second child has less to do than the first.
    pairs = [(first, second) for first, second in product(once, once) if first.call + second.call <= calls + 2]
    chosen = random.Random(0).sample(pairs, min(twice, len(pairs)))
    for number, deaths in enumerate([*((one,) for one in once), *chosen]):
        lived(url, directory / str(number), deaths)


def lived(url: str, place: Path, deaths: Sequence[Death]) -> dict[str, Any]:
    """A run with its deaths, told in a JSON line."""
    place.mkdir(parents=True)
    if url != "file":
        with open_store(url.removesuffix(STATEMENTS)) as store:
            for trace_id in store.runs.list_trace_ids():
                store.runs.delete(trace_id)
    died = []
    for death in (*deaths, None):
        pid = os.fork()
        if pid == 0:
            try:
                child(url, place, death)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            break
        died.append((place / "died").read_text())
    calls = (place / "ledger").read_text().splitlines()
    outcome: dict[str, Any] = json.loads((place / "outcome").read_text())
    print(json.dumps({"deaths": deaths, "died": died, "calls": calls, **outcome}), flush=True)
    return outcome
