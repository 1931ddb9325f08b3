"""What a run of a compiled flow does not do, what several callers share, and what the next run sees."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from chainweaver import DAGFlowStep, FlowExecutor, FlowStep, InMemoryCheckpointer, InMemoryStepCache, compiler
from tests.executor.kit import Calls, chain, dag, linear, merged

ROOT = Path(__file__).parents[2]


def told_by_child(program: str, *args: str) -> str:
    """What a program prints that runs in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", program, *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout.strip()


HOT = """
import ast, asyncio, collections, copy, json, re, sys
from chainweaver import (DAGFlow, DAGFlowStep, Flow, FlowExecutor, FlowStep, InMemoryCheckpointer, InMemoryStepCache,
                         RetryPolicy, template)
from chainweaver.registry import FlowRegistry
from tests.executor.kit import Calls
calls = Calls()
tools = [calls.tool(name) for name in "abc"]
one = RetryPolicy(max_retries=1)
steps = dict(
    a=dict(tool_name="a", input_mapping={"n": "/box/0"}, output_mapping={"a": "out"}),
    b=dict(tool_name="b", input_mapping={"n": {"$key": "gone", "$default": 1}}, output_mapping={"b": "out"}, retry=one),
    c=dict(tool_name="c", input_mapping={"n": template("${a}")}, output_mapping={"c": "out"}, on_error="fallback:a"),
)
linear = Flow(name="linear", description="d", steps=[FlowStep(**step) for step in steps.values()],
              input_schema_ref="tests.executor.test_hot_runs:Boxed", outputs=["c"])
dag = DAGFlow(name="dag", version="1.0.0", description="d",
              steps=[DAGFlowStep(step_id=key, depends_on=["a", "b"] if key == "c" else [], **step)
                     for key, step in steps.items()])
stores = {"step_cache": InMemoryStepCache(), "checkpointer": InMemoryCheckpointer()}
executors = [FlowExecutor(tools=tools, flows=[linear, dag], max_step_concurrency=limit, **options)
             for limit in (1, 4) for options in ({}, stores)]
forbidden = {json.loads: "json.loads", re.compile: "re.compile", copy.copy: "copy.copy", copy.deepcopy: "copy.deepcopy",
             ast.parse: "ast.parse"}
codes = {fn.__code__: name for fn, name in forbidden.items()}
look_ups = {fn.__code__: f"registry.{fn.__name__}" for fn in vars(FlowRegistry).values() if hasattr(fn, "__code__")}
look_ups.update({vars(FlowRegistry)[name].fget.__code__: f"registry.{name}" for name in vars(FlowRegistry)
                 if isinstance(vars(FlowRegistry)[name], property)})
seen = collections.Counter()

def watch(frame, event, arg):
    if event == "call":
        name = codes.get(frame.f_code) or look_ups.get(frame.f_code)
        if name is None and frame.f_globals.get("__name__", "").startswith("chainweaver.registry"):
            name = "registry room: " + frame.f_code.co_name
        if name is None and frame.f_globals.get("__name__", "").startswith("chainweaver.compiler.build"):
            name = "compiler: " + frame.f_code.co_name
        if name:
            seen[name] += 1

def runs():
    for executor in executors:
        for name in ("linear", "dag"):
            executor.execute_flow(name, {"box": [1, 2]}).raise_for_failure()
            asyncio.run(executor.execute_flow_async(name, {"box": [1, 2]})).raise_for_failure()

runs()
import threading
real_run = asyncio.run
loop = asyncio.new_event_loop()
asyncio.run = loop.run_until_complete
runs()
sys.setprofile(watch)
threading.setprofile(watch)
runs()
sys.setprofile(None)
threading.setprofile(None)
loop.close()
print(sum(count for name, count in seen.items() if not name.startswith("registry")),
      sum(count for name, count in seen.items() if name.startswith("registry")), dict(seen))
"""


def test_a_hot_run_parses_copies_and_looks_up_nothing():
    """W6: after the first run there is no json.loads, re.compile, ast.parse or copy, and at most one look-up a run."""
    calls, look_ups, seen = told_by_child(HOT).split(maxsplit=2)
    assert (calls, seen) == ("0", seen)
    assert int(look_ups) <= 16, seen


from pydantic import BaseModel  # noqa: E402  # below the program that names the model


class Boxed(BaseModel):
    box: list[int]


LONG = """
import sys
from chainweaver import Flow, FlowExecutor, FlowStep, FileCheckpointer, InMemoryCheckpointer
from chainweaver import DAGFlow, DAGFlowStep
from chainweaver.executor import facade, resume, runs
import chainweaver.observe, asyncio, anyio, anyio._backends._asyncio, chainweaver.lanes.async_
from tests.executor.kit import Calls
calls = Calls()
size, dag_size = 10_000, 2_000
tools = [calls.tool("a", lane="inline")]
linear = Flow(name="linear", description="d", steps=[FlowStep(tool_name="a", input_mapping={"n": "out"})] * size,
              on_context_collision="overwrite")
dag = DAGFlow(name="dag", version="1", description="d", on_context_collision="overwrite", steps=[
    DAGFlowStep(step_id=f"s{at}", tool_name="a", depends_on=[f"s{at - 1}"] if at else [],
                input_mapping={"n": f"v{at - 1}" if at else "out"}, output_mapping={f"v{at}": "out"})
    for at in range(dag_size)])
executor = FlowExecutor(tools=tools, flows=[], checkpointer=InMemoryCheckpointer(), max_step_concurrency=4)
executor.execute_flow_async
sys.setrecursionlimit(200)
executor.registry.register_flow(linear)
executor.registry.register_flow(dag)
print(executor.execute_flow("linear", {"out": 0}).raise_for_failure().final_output["out"])
print(executor.execute_flow("dag", {"out": 0}).raise_for_failure().final_output[f"v{dag_size - 1}"])
print(asyncio.run(executor.execute_flow_async("dag", {"out": 0})).raise_for_failure().final_output[f"v{dag_size - 1}"])
calls.last = calls.counts["a"] + size - 1
try:
    executor.execute_flow("linear", {"out": 0})
except SystemExit:
    calls.last = None
[trace_id] = executor._settings["checkpointer"].list_trace_ids()
result = executor.resume_flow(trace_id)
print(result.final_output["out"], calls.counts["a"] - size - 2 * dag_size, len(result.execution_log))
"""


def test_ten_thousand_steps_need_no_deep_stack():
    """W3: chains are compiled, run, saved and resumed with the recursion limit at 200."""
    assert told_by_child(LONG).splitlines() == ["10000", "2000", "2000", "10000 10000 10000"]


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the flows that were compiled, as often as they were."""
    from chainweaver.compiler import build as room, cache

    told: list[str] = []
    build = room.build

    def counting(flow: Any, *args: Any) -> Any:
        told.append(flow.name)
        return build(flow, *args)

    monkeypatch.setattr(cache, "build", counting)
    return told


def together(count: int, work: Any) -> list[Any]:
    """What `work(number)` returns in each of so many threads that start at the same moment."""
    gate, found = threading.Barrier(count), [None] * count

    def one(number: int) -> None:
        gate.wait()
        found[number] = work(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_sixteen_threads_on_a_cold_flow_compile_once(builds: list[str]):
    """W6: whoever comes first compiles, the others wait for the plan."""
    calls = Calls()
    executor = FlowExecutor(tools=[calls.tool(x) for x in "ab"], flows=[chain(*"ab")])
    found = together(16, lambda number: merged(executor.execute_flow("flow", {"n": number}))["b_out"])
    assert found == [number + 2 for number in range(16)]
    assert builds == ["flow"]


def test_versions_and_names_of_one_flow_share_a_plan(builds: list[str]):
    """W6: "the highest version" and its number are the same flow."""
    executor = FlowExecutor(tools=[Calls().tool("a")], flows=[chain("a")])
    for version in (None, "0.1.0", None):
        executor.execute_flow("flow", {"n": 1}, version=version).raise_for_failure()
    assert builds == ["flow"]


def test_what_does_not_concern_a_flow_does_not_compile_it_again(builds: list[str]):
    """W6: other tools and flows come and go."""
    calls = Calls()
    executor = FlowExecutor(tools=[calls.tool("a")], flows=[chain("a")])
    executor.execute_flow("flow", {"n": 1})
    executor.register_tool(calls.tool("b"))
    executor.registry.register_flow(chain("b", name="other"))
    executor.execute_flow("flow", {"n": 1})
    assert builds == ["flow"]


def test_a_tool_that_is_registered_again_is_seen_by_the_next_run():
    """W6: an equal schema with another function is another tool."""
    calls = Calls()
    executor = FlowExecutor(tools=[calls.tool("a")], flows=[chain("a")])
    assert merged(executor.execute_flow("flow", {"n": 1}))["a_out"] == 2
    executor.register_tool(calls.tool("a", lambda given: {"out": 100}))
    assert merged(executor.execute_flow("flow", {"n": 1}))["a_out"] == 100


def test_a_fallback_that_is_registered_again_is_seen_by_the_next_run():
    """W6: every tool that a flow reaches counts."""
    calls = Calls()
    tools = [calls.tool("a", lambda given: 1 / 0), calls.tool("b")]
    flow = linear(FlowStep(tool_name="a", on_error="fallback:b"))
    executor = FlowExecutor(tools=tools, flows=[flow])
    assert merged(executor.execute_flow("flow", {"n": 1}))["out"] == 2
    executor.register_tool(calls.tool("b", lambda given: {"out": 100}))
    assert merged(executor.execute_flow("flow", {"n": 1}))["out"] == 100


def test_a_flow_that_is_registered_again_is_seen_by_the_next_run():
    """W6: overwritten, as a new highest version, removed, or set aside."""
    from chainweaver import FlowNotFoundError, FlowStatus, FlowStatusError

    calls = Calls()
    executor = FlowExecutor(tools=[calls.tool(x) for x in "ab"], flows=[chain("a")])
    registry = executor.registry
    assert merged(executor.execute_flow("flow", {"n": 1})) == {"n": 1, "a_out": 2}
    registry.register_flow(chain("b"), overwrite=True)
    assert merged(executor.execute_flow("flow", {"n": 1})) == {"n": 1, "b_out": 2}
    registry.register_flow(chain("a", "b", version="2.0.0"))
    assert merged(executor.execute_flow("flow", {"n": 1})) == {"n": 1, "a_out": 2, "b_out": 3}
    registry.set_flow_status("flow", FlowStatus.DISABLED, version="2.0.0")
    with pytest.raises(FlowStatusError):
        executor.execute_flow("flow", {"n": 1})
    registry.unregister_flow("flow")
    with pytest.raises(FlowNotFoundError):
        executor.execute_flow("flow", {"n": 1})


@pytest.mark.parametrize("limit", [1, 4])
def test_a_run_in_flight_keeps_what_it_started_with(limit: int):
    """W6, R40: tools, flows and listeners that change meanwhile concern the next run."""
    calls, ended = Calls(), []

    class Watch:
        def on_flow_end(self, context: Any) -> None:
            ended.append(context.result.status)

    def change(given: Any) -> dict[str, int]:
        executor.register_tool(calls.tool("b", lambda given: {"out": 100}))
        executor.registry.register_flow(chain("a", "b", "b", version="9.0.0"))
        executor.add_middleware(Watch())
        return {"out": 1}

    executor = FlowExecutor(
        tools=[calls.tool("a", change), calls.tool("b")], flows=[chain("a", "b")], max_step_concurrency=limit
    )
    with executor:
        assert merged(executor.execute_flow("flow", {"n": 1})) == {"n": 1, "a_out": 1, "b_out": 2}
        assert ended == []
        executor.register_tool(calls.tool("a"))
        assert executor.execute_flow("flow", {"n": 1}).flow_version == "9.0.0"
        assert ended == ["ok"]


def test_changes_of_a_flow_object_after_its_registration_change_nothing():
    """R40: the registry keeps its own copy, and the executor its own plans."""
    flow = chain("a")
    executor = FlowExecutor(tools=[Calls().tool("a")], flows=[flow])
    executor.execute_flow("flow", {"n": 1})
    flow.steps[0].input_mapping["n"] = 100
    executor.register_tool(Calls().tool("other"))
    assert merged(executor.execute_flow("flow", {"n": 1}))["a_out"] == 2


def test_threads_and_changes_at_the_same_time_do_not_mix_runs():
    """W9: 8 threads run while tools and flows are registered; every run is one of those that could be."""
    calls = Calls()
    executor = FlowExecutor(
        tools=[calls.tool(x) for x in "ab"],
        flows=[dag(*(DAGFlowStep(step_id=x, tool_name=x, output_mapping={x: "out"}) for x in "ab"))],
        checkpointer=InMemoryCheckpointer(),
        step_cache=InMemoryStepCache(),
        max_step_concurrency=2,
    )

    def work(number: int) -> set[tuple[int, int]]:
        found = set()
        for turn in range(25):
            if number == 0:
                executor.register_tool(calls.tool("a", lambda given: {"out": given.n + 10}, schema_version=str(turn)))
            else:
                output = merged(executor.execute_flow("flow", {"n": number}))
                found.add((output["a"] - number, output["b"] - number))
        return found

    with executor:
        for number, found in enumerate(together(8, work)):
            assert found <= {(1, 1), (10, 1)}, number


def test_the_plan_of_compile_flow_is_the_plan_that_runs():
    """Compile: what a user sees beforehand is what the executor uses."""
    tools = [Calls().tool("a")]
    executor = FlowExecutor(tools=tools, flows=[chain("a")])
    assert executor._plans.prepare("flow", None).plan.digest == compiler.compile_flow(chain("a"), tools).plan.digest
