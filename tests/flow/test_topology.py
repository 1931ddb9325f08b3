"""R15: a DAG that is not one is refused before anything starts."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from chainweaver.exceptions import DAGDefinitionError
from chainweaver.flow import ConditionalEdge, DAGFlow, DAGFlowStep, validate_dag_topology


def dag(*steps, **fields):
    return DAGFlow(name="f", version="1.0", description="", steps=list(steps), **fields)


def step(step_id, *depends_on, **fields):
    return DAGFlowStep(step_id=step_id, tool_name="t", depends_on=list(depends_on), **fields)


def fault(*steps):
    with pytest.raises(DAGDefinitionError) as caught:
        validate_dag_topology(dag(*steps))
    return caught.value


def test_a_diamond_is_fine_in_any_order_of_declaration():
    """R2: order is a matter of dependencies."""
    validate_dag_topology(dag(step("d", "b", "c"), step("b", "a"), step("c", "a"), step("a")))


def test_construction_does_not_ask_for_a_dag():
    """R15: registration and compilation do."""
    assert len(dag(step("a", "a")).steps) == 1


def test_every_id_that_is_used_twice_is_named():
    """R15: duplicate_step_id."""
    error = fault(step("a"), step("b"), step("a"), step("b"), step("b"), step("c"))
    assert error.reason == "duplicate_step_id"
    assert error.detail == "step id 'a' is used 2 times; step id 'b' is used 3 times"


def test_every_unknown_dependency_is_named_with_a_suggestion():
    """R15: unknown_dependency."""
    error = fault(step("load"), step("sum", "laod"), step("mail", "sum", "archive"))
    assert error.reason == "unknown_dependency"
    assert error.detail == "step 'sum' depends on unknown step 'laod'; step 'mail' depends on unknown step 'archive'"
    assert error.known == ("load", "sum", "mail")
    assert error.fix == "did you mean 'load' for 'laod'?"


def test_many_unknown_dependencies_get_a_suggestion_each():
    """style: all offenders at once."""
    error = fault(step("load"), step("rank"), step("mail", "laod", "rnak"))
    assert error.fix == "did you mean 'load' for 'laod', 'rank' for 'rnak'?"
    assert fault(step("load"), step("mail", "xyz")).fix is None


def test_one_unknown_dependency_reads_like_a_sentence():
    """style: did-you-mean."""
    assert fault(step("load"), step("sum", "laod")).fix == "did you mean 'load'?"


@pytest.mark.parametrize(
    ("steps", "path"),
    [
        ([step("a", "a")], "a -> a"),
        ([step("a", "b"), step("b", "a")], "a -> b -> a"),
        ([step("z"), step("a", "c", "z"), step("b", "a"), step("c", "b"), step("d", "c")], "a -> b -> c -> a"),
    ],
)
def test_a_cycle_shows_its_path_in_the_direction_of_the_run(steps, path):
    """R15: cycle; it begins with the step that is declared first."""
    error = fault(*steps)
    assert error.reason == "cycle"
    assert error.detail.endswith(f": {path}")


def test_cycles_apart_are_all_shown():
    """R15: every offender is listed."""
    error = fault(step("a", "b"), step("b", "a"), step("x", "y"), step("y", "x"), step("end", "a", "x"))
    assert error.detail.endswith(": a -> b -> a; x -> y -> x")


def test_branch_targets_have_to_be_direct_dependents():
    """R24: only direct dependents can be targets."""
    branch = [
        ConditionalEdge(target_step_id="b", predicate="x"),
        ConditionalEdge(target_step_id="c", predicate="y"),
        ConditionalEdge(target_step_id="bb", predicate="z"),
    ]
    error = fault(step("a", branches=branch, default_next="nowhere"), step("b", "a"), step("c", "b"))
    assert error.reason == "unknown_branch_target"
    assert error.detail == (
        "step 'a' branches to 'c', which does not depend on it directly; "
        "step 'a' branches to unknown step 'bb'; step 'a' branches to unknown step 'nowhere'"
    )
    assert error.fix == "did you mean 'b' for 'bb'?"


def test_a_long_chain_needs_no_recursion():
    """design: 10 000 steps with a recursion limit of 200, also when the chain is a circle."""
    code = """
import sys
from chainweaver.exceptions import DAGDefinitionError
from chainweaver.flow import DAGFlow, DAGFlowStep, copy_flow, validate_dag_topology
steps = [DAGFlowStep(step_id=f"s{i}", tool_name="t", depends_on=[f"s{i - 1}"] if i else []) for i in range(10_000)]
chain = DAGFlow(name="f", version="1", description="", steps=steps)
sys.setrecursionlimit(200)
validate_dag_topology(copy_flow(chain))
chain.steps[0].depends_on = ["s9999"]
try:
    validate_dag_topology(chain)
except DAGDefinitionError as error:
    print(error.reason, error.detail.count(" -> "))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cycle", "10000"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 7), max_size=3), min_size=1, max_size=8))
def test_a_dag_is_accepted_exactly_when_it_can_be_ordered(wanted):
    """R15: checked against graphlib."""
    import graphlib

    names = [f"s{i}" for i in range(len(wanted))]
    steps = [step(name, *(f"s{i % len(names)}" for i in needed)) for name, needed in zip(names, wanted, strict=True)]
    try:
        list(graphlib.TopologicalSorter({one.step_id: one.depends_on for one in steps}).static_order())
        is_dag = True
    except graphlib.CycleError:
        is_dag = False
    if is_dag:
        validate_dag_topology(dag(*steps))
        return
    error = fault(*steps)
    for circle in error.detail.partition(": ")[2].split("; "):
        path = circle.split(" -> ")
        depends_on = {one.step_id: one.depends_on for one in steps}
        assert path[0] == path[-1]
        assert all(before in depends_on[after] for before, after in pairwise(path))


def test_a_branch_to_a_step_that_nothing_resembles_is_not_told_to_depend_on_anything():
    """R24: the advice for a target that is no dependent does not help one that does not exist."""
    error = fault(step("a", default_next="elsewhere"), step("b", "a"))
    assert (error.known, error.fix) == (("a", "b"), "name one of the known steps")
    error = fault(step("a", default_next="b"), step("b"))
    assert error.fix == "add the branching step to 'depends_on' of its target"
