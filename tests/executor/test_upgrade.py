"""Which changes of a flow leave its live runs alone: a table of changes, each with what a resume then does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel

from chainweaver import (
    CheckpointDriftError,
    ConditionalEdge,
    DAGFlow,
    DAGFlowStep,
    ExecutionSnapshot,
    FileCheckpointer,
    Flow,
    FlowExecutor,
    FlowStatusError,
    FlowStep,
    InMemoryCheckpointer,
    RetryPolicy,
    StepChange,
    Tool,
    Verdict,
    check_upgrade,
    compile_flow,
)
from chainweaver.exceptions import RunClaimLostError
from chainweaver.flow import AnyFlow
from chainweaver.sql import SqlStore, open_store
from tests.executor.kit import Calls, Crash, Out, chain, dag, linear, merged


class More(Out):
    more: int = 0


class Needs(BaseModel):
    n: int
    region: str


class May(BaseModel):
    n: int
    region: str = "eu"


class World(NamedTuple):
    """Flows and tools of one deploy; the run is one of the first flow."""

    flows: list[AnyFlow]
    tools: list[Tool]


class Case(NamedTuple):
    """A change that a deploy makes to flows of which a run has stopped half-way.

    Attributes:
        name: In a few words.
        before: The flows, by what the calls of a run are counted with.
        after: The same after the deploy.
        last: The call in which the process dies.
        verdict: What becomes of the run.
        why: Kinds and steps of the changes.
        accepted: The steps that a hook has to accept, so that it goes on.
        like: Whose runs it ends like, where those are not the runs of the new deploy.
    """

    name: str
    before: Callable[[Calls], World]
    after: Callable[[Calls], World]
    last: int
    verdict: str
    why: list[tuple[str, str]] = []
    accepted: tuple[str, ...] = ()
    like: Callable[[Calls], World] | None = None

    @property
    def expected(self) -> Callable[[Calls], World]:
        """The deploy in which a new run gives what this one has to give in the end."""
        return self.like or self.after


def tools_of(calls: Calls, **others: Any) -> list[Tool]:
    """Tools a to f, of which some have other options."""
    return [calls.tool(name, **others.get(name, {})) for name in "abcdef"]


def world(*flows: AnyFlow, **others: Any) -> Callable[[Calls], World]:
    return lambda calls: World(list(flows), tools_of(calls, **others))


def step(tool: str, reads: str = "n", writes: str | None = None, **facts: Any) -> FlowStep:
    """A linear step that writes `<tool>_out`."""
    facts = {"output_mapping": {writes or f"{tool}_out": "out"}, **facts}
    return FlowStep(tool_name=tool, input_mapping={"n": reads}, **facts)


def at(step_id: str, tool: str, reads: str = "n", after: tuple[str, ...] = (), **facts: Any) -> DAGFlowStep:
    """A step of a DAG that writes its own name."""
    facts = {"output_mapping": {step_id: "out"}, **facts}
    return DAGFlowStep(step_id=step_id, tool_name=tool, input_mapping={"n": reads}, depends_on=list(after), **facts)


A, B, C = step("a"), step("b", "a_out"), step("c", "b_out")
ONE, TWO, THREE = at("one", "a"), at("two", "b", "one", ("one",)), at("three", "c", "two", ("two",))
X, Y = step("a", "n", "x"), step("a", "n", "y")
ANY = step("b", "n", "b_out")
LATE = at("two", "b", "n", ("one",))
ABC = world(linear(A, B, C))
DAG = world(dag(ONE, TWO, THREE))

LINEAR = [
    Case("nothing", ABC, ABC, 2, "compatible"),
    Case("two executed steps change places", ABC, world(linear(B, A, C)), 2, "refuse",
         [("other tool", "0"), ("other tool", "1")]),
    Case("an executed step changes places with a later one", ABC, world(linear(A, C, B)), 2, "refuse",
         [("other tool", "1")]),
    Case("two executed steps of one tool change places", world(linear(X, Y, step("c"))),
         world(linear(Y, X, step("c"))), 2, "refuse", [("moved", "0"), ("moved", "1")]),
    Case("a step is put in before the executed ones", ABC, world(linear(step("d"), A, B, C)), 2, "refuse",
         [("other tool", "0"), ("other tool", "1")]),
    Case("a step is put in between the executed ones", ABC, world(linear(A, step("d"), B, C)), 2, "refuse",
         [("other tool", "1")]),
    Case("a step of the same tool is put in between", world(linear(A, step("a", "a_out", "x"), step("c"))),
         world(linear(A, step("a", "n", "y"), step("a", "a_out", "x"), step("c"))), 2, "refuse", [("moved", "1")]),
    Case("a step is put in right behind the executed ones", ABC, world(linear(A, B, step("d"), C)), 2, "compatible"),
    Case("a step is put in at the end", ABC, world(linear(A, B, C, step("d"))), 2, "compatible"),
    Case("an executed step is removed", ABC, world(linear(B, C)), 2, "refuse",
         [("other tool", "0"), ("other tool", "1")]),
    Case("a later step is removed", ABC, world(linear(A, B)), 2, "compatible"),
    Case("an executed step calls another tool", ABC, world(linear(A, step("d", "a_out", "b_out"), C)), 2, "refuse",
         [("other tool", "1")]),
    Case("a later step calls another tool", ABC, world(linear(A, B, step("d", "b_out"))), 2, "compatible"),
    Case("mapping of an executed step", ABC, world(linear(A, step("b", "n"), C)), 2, "needs migration",
         [("definition", "1")], ("1",)),
    Case("a literal in the mapping of an executed step",
         world(linear(FlowStep(tool_name="a", input_mapping={"n": 1}), ANY, C)),
         world(linear(FlowStep(tool_name="a", input_mapping={"n": 2}), ANY, C)), 2, "needs migration",
         [("definition", "0")], ("0",)),
    Case("output mapping of an executed step", ABC,
         world(linear(A, step("b", "a_out", output_mapping={"b_out": "out", "more": "out"}), C)), 2, "needs migration",
         [("definition", "1")], ("1",)),
    Case("mapping of a later step", ABC, world(linear(A, B, step("c", "n"))), 2, "compatible"),
    Case("output schema of an executed tool", ABC, world(linear(A, B, C), b={"output_schema": More}), 2,
         "needs migration", [("schema", "1")], ("1",)),
    Case("input schema of an executed tool", ABC, world(linear(A, B, C), b={"input_schema": May}), 2, "needs migration",
         [("schema", "1")], ("1",)),
    Case("version of an executed tool", ABC, world(linear(A, B, C), b={"schema_version": "2.0.0"}), 2,
         "needs migration", [("schema", "1")], ("1",)),
    Case("schemas of a later tool", ABC, world(linear(A, B, C), c={"output_schema": More}), 2, "compatible"),
    Case("retries of an executed step", ABC, world(linear(A, step("b", "a_out", retry=RetryPolicy(max_retries=3)), C)),
         2, "compatible"),
    Case("time limit of an executed step", ABC, world(linear(A, step("b", "a_out", timeout_seconds=9), C)), 2,
         "compatible"),
    Case("what happens to an executed step that fails", ABC, world(linear(A, step("b", "a_out", on_error="skip"), C)),
         2, "needs migration", [("definition", "1")], ("1",)),
    Case("what happens to a later step that fails", ABC, world(linear(A, B, step("c", "b_out", on_error="skip"))), 2,
         "compatible"),
    Case("a description", ABC, world(linear(A, B, C, description="Another.")), 2, "compatible"),
    Case("outputs of the flow", ABC, world(linear(A, B, C, outputs=("c_out",))), 2, "compatible"),
    Case("an input that the run was begun without", ABC,
         world(linear(A, B, C, input_schema_ref="tests.executor.test_upgrade:Needs")), 2, "needs migration",
         [("input", "")]),
    Case("an input that may be left out", ABC,
         world(linear(A, B, C, input_schema_ref="tests.executor.test_upgrade:May")), 2, "compatible"),
    Case("the flow is gone", ABC, world(chain("d", name="other")), 2, "refuse", [("flow gone", "")]),
    Case("the version is gone", ABC, world(linear(A, B, C, version="2.0.0")), 2, "refuse", [("flow gone", "")]),
    Case("a newer version beside it", ABC,
         lambda calls: World([linear(A, B, C), linear(C, version="2.0.0")], tools_of(calls)), 2, "compatible"),
    Case("an executed tool is gone", ABC,
         lambda calls: World([linear(A, B, C)], [one for one in tools_of(calls) if one.name != "b"]), 2, "refuse",
         [("tool gone", "1")]),
]  # fmt: skip

FORK = at("one", "a", branches=[ConditionalEdge(target_step_id="two", predicate="one > 0")], default_next="three")
WAYS = at("two", "b", "one", ("one",)), at("three", "c", "one", ("one",))
EITHER = world(dag(FORK, *WAYS, at("end", "d", "n", ("two",))))

GRAPH = [
    Case("nothing", DAG, DAG, 2, "compatible"),
    Case("the order in which the steps are written", DAG, world(dag(THREE, TWO, ONE)), 2, "compatible"),
    Case("an executed step is renamed", DAG,
         world(dag(ONE, at("zwei", "b", "one", ("one",)), at("three", "c", "zwei", ("zwei",)))), 2, "refuse",
         [("step gone", "two")]),
    Case("a later step is renamed", DAG, world(dag(ONE, TWO, at("drei", "c", "two", ("two",)))), 2, "compatible"),
    Case("an executed step is removed", DAG, world(dag(ONE, at("three", "c", "one", ("one",)))), 2, "refuse",
         [("step gone", "two")]),
    Case("two executed steps change places", DAG,
         world(dag(at("one", "a", "two", ("two",)), at("two", "b"), THREE)), 2, "needs migration",
         [("definition", "one"), ("definition", "two")], ("one", "two")),
    Case("a step beside is put in before the executed ones", DAG, world(dag(at("zero", "d"), ONE, TWO, THREE)), 2,
         "compatible"),
    Case("a step is put in that executed ones wait for", DAG,
         world(dag(at("zero", "d"), at("one", "a", "n", ("zero",)), TWO, THREE)), 2, "needs migration",
         [("definition", "one")], ("one",)),
    Case("a step is put in that writes what executed ones read", world(dag(ONE, LATE, THREE)),
         world(dag(at("zero", "d", "m", output_mapping={"n": "out"}), ONE, LATE, THREE)), 2, "needs migration",
         [("definition", "two")], ("two",)),
    Case("a step is put in that writes what no executed one sees", DAG,
         world(dag(at("zero", "d", "m", output_mapping={"n": "out"}), ONE, TWO, THREE)), 2, "compatible"),
    Case("a step beside is put in between the executed ones", DAG,
         world(dag(ONE, at("half", "d", "one", ("one",)), TWO, THREE)), 2, "compatible"),
    Case("a step is put in between, and waited for", DAG,
         world(dag(ONE, at("half", "d", "one", ("one",)), at("two", "b", "one", ("half",)), THREE)), 2,
         "needs migration", [("definition", "two")], ("two",)),
    Case("a step is put in behind the executed ones, before a later one", DAG,
         world(dag(ONE, TWO, at("half", "d", "two", ("two",)), at("three", "c", "half", ("half",)))), 2, "compatible"),
    Case("an executed step calls another tool", DAG, world(dag(ONE, at("two", "d", "one", ("one",)), THREE)), 2,
         "refuse", [("other tool", "two")]),
    Case("nothing, at a branch", EITHER, EITHER, 2, "compatible"),
    Case("the predicate of a branch that was taken", EITHER,
         world(dag(at("one", "a", branches=[ConditionalEdge(target_step_id="two", predicate="one > 5")],
                      default_next="three"), at("two", "b", "one", ("one",)), at("three", "c", "one", ("one",)),
                   at("end", "d", "n", ("two",)))), 2, "needs migration", [("definition", "one")], ("one",)),
    Case("the way that was taken is gone", EITHER,
         world(dag(at("one", "a", branches=[ConditionalEdge(target_step_id="other", predicate="one > 0")],
                      default_next="three"), at("other", "b", "one", ("one",)), at("three", "c", "one", ("one",)),
                   at("end", "d", "n", ("other",)))), 1, "refuse", [("branch gone", "one")]),
    Case("a step on the way that was not taken", EITHER,
         world(dag(FORK, at("two", "b", "one", ("one",)), at("three", "e", "one", ("one",)),
                   at("end", "d", "n", ("two",)))), 2, "compatible"),
]  # fmt: skip


def inner(*steps: FlowStep, version: str = "1.0.0", **facts: Any) -> Flow:
    return Flow(name="inner", version=version, description="d", steps=list(steps), **facts)


def outer(**facts: Any) -> DAGFlow:
    """A step that runs `inner`, and one behind it."""
    run = {"step_id": "run", "flow_name": "inner", "input_mapping": {"n": "n"}, **facts}
    return dag(DAGFlowStep(**run), at("end", "f", "n", ("run",)))


def items(**facts: Any) -> DAGFlow:
    return outer(**{"map_over": "rows", "input_mapping": {"n": "item"}, **facts})


def calls_each(tool: str, **facts: Any) -> DAGFlow:
    return dag(
        DAGFlowStep(step_id="run", tool_name=tool, map_over="rows", input_mapping={"n": "item"}, **facts),
        at("end", "f", "n", ("run",)),
    )


MORE = step("a", output_mapping={"a_out": "out", "more": "out"})
IN = inner(A, B)
SUB = world(outer(), IN)
MAP = world(items(), IN)
EACH = world(calls_each("a"))

NESTED = [
    Case("nothing", SUB, SUB, 1, "compatible"),
    Case("nothing, behind a finished sub-flow", SUB, SUB, 2, "compatible"),
    Case("mapping of an executed step inside", SUB, world(outer(), inner(MORE, B)), 1, "needs migration",
         [("definition", "run/0")], ("run",)),
    Case("mapping of a later step inside", SUB, world(outer(), inner(A, step("b"))), 1, "compatible"),
    Case("a later step is put in inside", SUB, world(outer(), inner(A, step("d"), B)), 1, "compatible"),
    Case("a step is put in before an executed one inside", SUB, world(outer(), inner(step("d"), A, B)), 1, "refuse",
         [("other tool", "run/0")]),
    Case("a step is put in inside of a finished sub-flow", SUB, world(outer(), inner(A, B, step("d"))), 2,
         "needs migration", [("definition", "run")], ("run",)),
    Case("outputs of a finished sub-flow", SUB, world(outer(), inner(A, B, outputs=("a_out",))), 2, "needs migration",
         [("definition", "run")], ("run",)),
    Case("mapping of the step that runs a sub-flow half-way", SUB, world(outer(input_mapping={"n": "m"}), IN), 1,
         "needs migration", [("definition", "run")], ("run",)),
    Case("time limit of the step that runs a sub-flow half-way", SUB, world(outer(timeout_seconds=9), IN), 1,
         "compatible"),
    Case("a newer version of the sub-flow", SUB, world(outer(), IN, inner(B, version="2.0.0")), 1, "compatible",
         like=SUB),
    Case("the sub-flow is gone", SUB, world(outer()), 1, "refuse", [("sub-flow gone", "")]),
    Case("the version of the sub-flow is gone", SUB, world(outer(), inner(A, B, version="2.0.0")), 1, "refuse",
         [("sub-flow gone", "")]),
    Case("a sub-flow that was not begun is gone", world(dag(ONE, DAGFlowStep(
         step_id="run", flow_name="inner", input_mapping={"n": "one"}, depends_on=["one"])), IN),
         world(dag(ONE, DAGFlowStep(step_id="run", flow_name="inner", input_mapping={"n": "one"}, depends_on=["one"]))),
         1, "refuse", [("sub-flow gone", "")]),
    Case("the step that runs it calls a tool", SUB, world(dag(at("run", "a"), at("end", "f", "n", ("run",)))), 1,
         "refuse", [("other tool", "run")]),
    Case("the step that runs it is renamed", SUB, world(outer(step_id="go").model_copy(
         update={"steps": [outer(step_id="go").steps[0], at("end", "f", "n", ("go",))]}), IN), 1, "refuse",
         [("step gone", "run")]),
    Case("nothing, in a map", MAP, MAP, 3, "compatible"),
    Case("a step of finished and begun items", MAP, world(items(), inner(MORE, B)), 3, "needs migration",
         [("definition", "run/0/0"), ("definition", "run/1/0")], ("run",)),
    Case("how many items run at once", MAP, world(items(map_concurrency=1), IN), 3, "compatible"),
    Case("what becomes of items that fail", MAP, world(items(on_item_error="collect"), IN), 3, "needs migration",
         [("definition", "run")], ("run",)),
    Case("a map becomes a single run", MAP, SUB, 3, "refuse"),
    Case("a single run becomes a map", SUB, MAP, 1, "refuse", [("other tool", "run/0")]),
    Case("nothing, in a map over a tool", EACH, EACH, 1, "compatible"),
    Case("a map calls another tool", EACH, world(calls_each("b")), 1, "refuse", [("other tool", "run/0")]),
    Case("schemas of the tool of a map", EACH, world(calls_each("a"), a={"output_schema": More}), 1, "needs migration",
         [("definition", "run")], ("run",)),
    Case("a map over a tool becomes one call", EACH, world(dag(at("run", "a"), at("end", "f", "n", ("run",)))), 1,
         "refuse", [("other tool", "run")]),
    Case("a step inside of two sub-flows",
         world(DAGFlow(name="flow", version="1.0.0", description="d", steps=[
             DAGFlowStep(step_id="deep", flow_name="middle")]),
             Flow(name="middle", version="1.0.0", description="d", steps=[FlowStep(flow_name="inner")]), IN),
         world(DAGFlow(name="flow", version="1.0.0", description="d", steps=[
             DAGFlowStep(step_id="deep", flow_name="middle")]),
             Flow(name="middle", version="1.0.0", description="d", steps=[
                 FlowStep(flow_name="inner", input_mapping={"n": "m"})]), IN), 1, "needs migration",
         [("definition", "deep/0")], ("deep",)),
]  # fmt: skip

GIVEN = {"n": 0, "m": 5, "rows": [1, 2, 3]}
CASES = {
    f"{kind}: {case.name}": case
    for kind, cases in (("linear", LINEAR), ("dag", GRAPH), ("nested", NESTED))
    for case in cases
}
COMPATIBLE = {name: case for name, case in CASES.items() if case.verdict == "compatible"}
OTHERS = {name: case for name, case in CASES.items() if case.verdict != "compatible"}
ACCEPTED = {name: case for name, case in CASES.items() if case.accepted}
STORES: dict[str, Callable[[Path], Any]] = {
    "memory": lambda folder: InMemoryCheckpointer(),
    "file": lambda folder: FileCheckpointer(folder, fsync=False),
    "sqlite": lambda folder: open_store(f"sqlite:///{folder}/runs.db").runs,
}


def executor_of(made: World, store: Any) -> FlowExecutor:
    return FlowExecutor(tools=made.tools, flows=made.flows, checkpointer=store, delete_on_success=False)


def dies(work: Callable[[], Any]) -> None:
    with pytest.raises(Crash):
        work()


class Stopped:
    """A run of a case that died in its call, in a store; and the deploy after it."""

    def __init__(self, case: Case, store: Any) -> None:
        self.case, self.store = case, store
        self.calls = Calls(last=case.last)
        dies(lambda: executor_of(case.before(self.calls), store).execute_flow("flow", GIVEN))
        [self.trace_id] = store.list_trace_ids()
        self.calls.last = None
        self.done = self.calls.counts.copy()
        self.world = case.after(self.calls)
        self.executor = executor_of(self.world, store)

    def new_calls(self) -> dict[str, int]:
        return dict(self.calls.counts - self.done)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_change_has_its_verdict(case: Case):
    """R33: order, names, insertions, schemas, versions, mappings, settings; in lists, graphs, sub-flows and items."""
    stopped = Stopped(case, InMemoryCheckpointer())

    verdict = stopped.executor.check_upgrade(stopped.trace_id)

    assert verdict.kind == case.verdict
    if case.why or case.verdict == "compatible":
        assert [(change.kind, change.step) for change in verdict.changes] == case.why
    assert (verdict.trace_id, verdict.flow_name) == (stopped.trace_id, "flow")


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
@pytest.mark.parametrize("case", COMPATIBLE.values(), ids=COMPATIBLE)
def test_a_compatible_run_goes_on_to_what_a_run_of_the_new_flow_gives(case: Case, store: Any, tmp_path: Path):
    """R33: no compatible run is stranded, and no executed step runs again."""
    stopped = Stopped(case, store(tmp_path))
    fresh = Calls()
    expected = executor_of(case.expected(fresh), None).execute_flow("flow", GIVEN, version=version_of(stopped))

    result = stopped.executor.resume_flow(stopped.trace_id)

    assert merged(result) == merged(expected)
    assert {name: stopped.calls.counts[name] for name in fresh.counts} == dict(fresh.counts)


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
@pytest.mark.parametrize("case", COMPATIBLE.values(), ids=COMPATIBLE)
def test_a_compatible_run_may_die_at_every_step_that_is_left(case: Case, store: Any, tmp_path: Path):
    """R33: what it commits under the new flow takes the place of nothing that it has committed under the old one."""
    stopped = Stopped(case, store(tmp_path))
    fresh = Calls()
    expected = executor_of(case.expected(fresh), None).execute_flow("flow", GIVEN, version=version_of(stopped))

    for call in range(stopped.calls.counts.total(), stopped.calls.counts.total() + left(stopped, fresh)):
        stopped.calls.last = call
        dies(lambda: executor_of(case.after(stopped.calls), stopped.store).resume_flow(stopped.trace_id))
    stopped.calls.last = None
    assert merged(stopped.executor.resume_flow(stopped.trace_id)) == merged(expected)
    assert {name: stopped.calls.counts[name] for name in fresh.counts} == dict(fresh.counts)


@pytest.mark.parametrize("case", OTHERS.values(), ids=OTHERS)
def test_all_other_runs_are_left_as_they_are(case: Case):
    """R33: nothing is gone on with silently; the error names every change, and no tool is called."""
    stopped = Stopped(case, InMemoryCheckpointer())
    before = stopped.store.load(stopped.trace_id)

    with pytest.raises(CheckpointDriftError) as caught:
        stopped.executor.resume_flow(stopped.trace_id)

    verdict = stopped.executor.check_upgrade(before)
    assert caught.value.detail == "; ".join(change.detail for change in verdict.changes)
    assert stopped.new_calls() == {}
    assert stopped.store.load(stopped.trace_id) == before


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
@pytest.mark.parametrize("case", ACCEPTED.values(), ids=ACCEPTED)
def test_a_run_that_a_hook_has_converted_goes_on_and_stays_converted(case: Case, store: Any, tmp_path: Path):
    """R33: what the hook returns is stored before the run goes on, so that a crash after it loses and mixes nothing."""
    stopped = Stopped(case, store(tmp_path))
    stopped.calls.last = stopped.calls.counts.total()
    dies(lambda: stopped.executor.resume_flow(stopped.trace_id, migrate=lambda run: run.accepting(*case.accepted)))
    stopped.calls.last = None

    assert stopped.executor.check_upgrade(stopped.trace_id).kind == "compatible"
    merged(stopped.executor.resume_flow(stopped.trace_id))

    fresh, old = Calls(), Calls()
    merged(executor_of(case.expected(fresh), None).execute_flow("flow", GIVEN))
    merged(executor_of(case.before(old), None).execute_flow("flow", GIVEN))
    assert stopped.calls.counts <= fresh.counts | old.counts


def left(stopped: Stopped, fresh: Calls) -> int:
    """How many calls a whole run makes that this one has not made."""
    return (fresh.counts - stopped.calls.counts).total()


def version_of(stopped: Stopped) -> str:
    return str(stopped.store.load(stopped.trace_id).flow_version)


# ---- what a table cannot say


def test_a_plan_can_be_asked_about_before_it_is_deployed():
    """R33: `check_upgrade` needs the new flow, its tools and the stored run, and no executor."""
    stopped = Stopped(CASES["linear: nothing"], InMemoryCheckpointer())
    snapshot = stopped.store.load(stopped.trace_id)
    new = linear(A, step("b", "n"), C, version="2.0.0")

    verdict = check_upgrade(compile_flow(new, stopped.world.tools).plan, snapshot)

    detail = "the definition of executed step '1' changed"
    assert verdict == Verdict(
        "needs migration", stopped.trace_id, "flow", "2.0.0", (StepChange("definition", "1", detail),)
    )


def test_a_run_can_be_held_against_another_version():
    """R33: it keeps its own version; whether it could be moved is another question."""
    stopped = Stopped(CASES["linear: nothing"], InMemoryCheckpointer())
    stopped.executor.registry.register_flow(linear(A, B, step("d"), C, version="2.0.0"))
    stopped.executor.registry.register_flow(linear(B, C, version="3.0.0"))

    kinds = {
        version: stopped.executor.check_upgrade(stopped.trace_id, version=version).kind
        for version in (None, "2.0.0", "3.0.0", "4.0.0")
    }

    assert kinds == {None: "compatible", "2.0.0": "compatible", "3.0.0": "refuse", "4.0.0": "refuse"}


def test_a_flow_that_is_not_active_is_no_flow_to_go_on_with():
    """R33: the status of a flow counts for resumes, and so for the question whether one is possible."""
    stopped = Stopped(CASES["linear: nothing"], InMemoryCheckpointer())
    stopped.executor.registry.set_flow_status("flow", "disabled")

    verdict = stopped.executor.check_upgrade(stopped.trace_id)

    assert (verdict.kind, [change.kind for change in verdict.changes]) == ("refuse", ["not active"])
    with pytest.raises(FlowStatusError):
        stopped.executor.resume_flow(stopped.trace_id)


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
def test_a_tool_that_changed_before_its_step_ran_strands_nobody(store: Any, tmp_path: Path):
    """R33: what counts is the tool that a step was executed with, and not the one of the time when the run began."""
    stopped = Stopped(CASES["linear: schemas of a later tool"], store(tmp_path))
    flow = linear(A, B, C, step("d", "c_out"))
    executor = executor_of(World([flow], stopped.world.tools), stopped.store)
    stopped.calls.last = 3
    dies(lambda: executor.resume_flow(stopped.trace_id))
    stopped.calls.last = None

    assert merged(executor.resume_flow(stopped.trace_id))["d_out"] == 4
    assert dict(stopped.calls.counts) == dict.fromkeys("abcd", 1)


def test_a_new_input_that_may_be_left_out_has_its_default():
    """R33: a step that has not run yet may read it."""
    stopped = Stopped(CASES["linear: nothing"], InMemoryCheckpointer())
    flow = linear(
        A,
        B,
        FlowStep(tool_name="c", input_mapping={"n": "level"}, output_mapping={"c_out": "out"}),
        input_schema_ref="tests.executor.test_upgrade:Levelled",
    )
    result = executor_of(World([flow], stopped.world.tools), stopped.store).resume_flow(stopped.trace_id)
    assert merged(result)["c_out"] == 8


class Levelled(BaseModel):
    n: int
    level: int = 7


def moved(snapshot: ExecutionSnapshot) -> ExecutionSnapshot:
    """A run of 1.0.0 as one of 2.0.0, in which step 'two' is called 'zwei' and gives ten times as much."""
    if snapshot.flow_version != "1.0.0":
        return snapshot
    steps = [
        step._replace(step_id="zwei", tool_name="e", outputs={"out": (step.outputs or {})["out"] * 10})
        if step.step_id == "two"
        else step
        for step in snapshot.steps
    ]
    return snapshot.model_copy(update={"flow_version": "2.0.0", "steps": steps}).accepting("zwei")


MOVED = dag(
    at("half", "d"), ONE, at("zwei", "e", "one", ("one",)), at("three", "c", "zwei", ("zwei",)),
    at("four", "f", "three", ("three",)), version="2.0.0",
)  # fmt: skip


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
@pytest.mark.parametrize("crashes", [0, 1, 2, 3])
def test_a_hook_moves_a_run_to_another_version_for_good(store: Any, crashes: int, tmp_path: Path):
    """R33: after a crash the run is one of the new version, whether the hook is passed again or not."""
    stopped = Stopped(CASES["dag: nothing"], store(tmp_path))
    executor = executor_of(World([dag(ONE, TWO, THREE), MOVED], stopped.world.tools), stopped.store)

    hooks = [moved, moved, None, moved]
    for crash in range(crashes):
        stopped.calls.last = 2 + crash
        dies(lambda hook=hooks[crash]: executor.resume_flow(stopped.trace_id, migrate=hook))  # type: ignore[misc]  # lambda
        assert stopped.store.load(stopped.trace_id).flow_version == "2.0.0"
    stopped.calls.last = None
    result = executor.resume_flow(stopped.trace_id, migrate=hooks[crashes])

    assert merged(result) == {**GIVEN, "half": 1, "one": 1, "zwei": 20, "three": 21, "four": 22}
    assert result.flow_version == "2.0.0"
    assert dict(stopped.calls.counts) == {"a": 1, "b": 1, "c": 1, "d": 1, "f": 1}


def test_a_hook_that_returns_another_run_is_refused():
    """R33: a run is never mixed with another one."""
    stopped = Stopped(CASES["linear: nothing"], InMemoryCheckpointer())
    with pytest.raises(ValueError, match=r"migrate was given run '.*' and has returned run 'other'"):
        stopped.executor.resume_flow(stopped.trace_id, migrate=lambda run: run.model_copy(update={"trace_id": "other"}))


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
def test_a_hook_whose_outputs_do_not_fit_changes_nothing(store: Any, tmp_path: Path):
    """R33, R34: what is stored is replaced when the run can go on, and not before."""
    stopped = Stopped(CASES["linear: nothing"], store(tmp_path))
    before = stopped.store.load(stopped.trace_id)

    def spoiled(run: ExecutionSnapshot) -> ExecutionSnapshot:
        return run.model_copy(update={"steps": [one.with_outputs({"out": "text"}) for one in run.steps]})

    with pytest.raises(CheckpointDriftError, match="outputs of step '0'"):
        stopped.executor.resume_flow(stopped.trace_id, migrate=spoiled)

    assert stopped.store.load(stopped.trace_id) == before
    assert merged(stopped.executor.resume_flow(stopped.trace_id))["c_out"] == 3


def test_a_run_that_was_migrated_keeps_its_key_and_its_claim(tmp_path: Path):
    """R32, R33: it is the same run; whoever asks by its key gets it, and nobody else goes on with it meanwhile."""
    store = open_store(f"sqlite:///{tmp_path}/runs.db")
    calls = Calls(last=2)
    before = World([dag(ONE, TWO, THREE)], tools_of(calls))
    dies(lambda: executor_of(before, store.runs).execute_flow("flow", GIVEN, key="invoice-17"))
    [first] = store.runs.list_runs()
    owners: list[str | None] = []

    def seen(given: Any) -> dict[str, int]:
        owners.append(other(tmp_path).runs.info(first.trace_id).owner)
        return {"out": 0}

    calls.last = None
    tools = [one for one in tools_of(calls) if one.name != "d"] + [calls.tool("d", seen)]
    executor = executor_of(World([MOVED], tools), store.runs)
    migrated = executor.resume_flow(first.trace_id, migrate=moved)
    again = executor.execute_flow("flow", GIVEN, key="invoice-17", version="2.0.0")

    assert owners == [store.runs.owner]
    assert again.trace_id == migrated.trace_id == first.trace_id
    info = store.runs.info(first.trace_id)
    assert (info.key, info.flow_version, info.status, info.steps_done) == ("invoice-17", "2.0.0", "ok", 5)


def test_a_migration_of_a_run_that_somebody_has_taken_is_refused(tmp_path: Path):
    """R33: what an owner who was taken for dead makes of a run does not replace what the new one has."""
    store = open_store(f"sqlite:///{tmp_path}/runs.db", lease_s=0.05)
    calls = Calls(last=2)
    dies(lambda: executor_of(World([dag(ONE, TWO, THREE)], tools_of(calls)), store.runs).execute_flow("flow", GIVEN))
    [trace_id] = store.runs.list_trace_ids()

    def slow(run: ExecutionSnapshot) -> ExecutionSnapshot:
        store.runs.close()  # nothing renews the claim any more
        time.sleep(0.2)
        other(tmp_path).runs.claim(trace_id)
        return moved(run)

    calls.last = None
    with pytest.raises(RunClaimLostError):
        executor_of(World([MOVED], tools_of(calls)), store.runs).resume_flow(trace_id, migrate=slow)
    assert other(tmp_path).runs.load(trace_id).flow_version == "1.0.0"
    assert dict(calls.counts) == {"a": 1, "b": 1}


def other(folder: Path) -> SqlStore:
    """The store as another process has it."""
    return open_store(f"sqlite:///{folder}/runs.db")


def test_force_goes_on_and_what_was_executed_is_not_replaced(tmp_path: Path):
    """R33: a step that took the number of an executed one takes nothing else from it."""
    store = open_store(f"sqlite:///{tmp_path}/runs.db").runs
    stopped = Stopped(CASES["dag: an executed step is removed"], store)
    stopped.calls.last = 3
    world = World([dag(ONE, at("new", "d", "one", ("one",)), at("three", "c", "new", ("new",)))], stopped.world.tools)
    dies(lambda: executor_of(world, store).resume_flow(stopped.trace_id, force=True))

    assert sorted(one.step_id for one in store.load(stopped.trace_id).steps) == ["new", "one", "two"]
    stopped.calls.last = None
    back = executor_of(World([dag(ONE, TWO, THREE)], stopped.world.tools), store)
    assert merged(back.resume_flow(stopped.trace_id, force=True)) == {**GIVEN, "one": 1, "two": 2, "three": 3}
