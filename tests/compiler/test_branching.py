"""Branches, bound: what predicates read, what is wrong with them, and who may not run because of them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from chainweaver import ConditionalEdge
from chainweaver.compiler import CompilationResult
from chainweaver.exceptions import FlowExecutionError, PredicateSyntaxError
from tests.compiler.kit import a_chain, a_dag, a_tool, call, compiled, detail, found, inputs, node, schema, warned
from tests.compiler.schemas import Anything, Exactly, Number


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


CHOOSE, LEFT, RIGHT, END = (a_tool(name, {}, [f"{name}_out"]) for name in ("choose", "left", "right", "end"))
TOOLS = [CHOOSE, LEFT, RIGHT, END]


def edge(target: str, predicate: str) -> ConditionalEdge:
    return ConditionalEdge(target_step_id=target, predicate=predicate)


def fork(*predicates: str, tools: Any = (), before: Any = (), **options: Any) -> CompilationResult:
    """`choose`, whose branches lead to `left`, and `right` beside it."""
    flow = {key: options.pop(key) for key in ("input_schema_ref", "dynamic_params", "outputs") if key in options}
    edges = [edge("left", text) for text in predicates]
    steps = [
        *before,
        node("choose", CHOOSE, *[step.step_id for step in before], branches=edges, **options),
        node("left", LEFT, "choose"),
        node("right", RIGHT, "choose"),
    ]
    return compiled(a_dag(*steps, **flow), *(tools or TOOLS))


def holds(result: CompilationResult, *slots: dict[str, Any] | None, step: int = 0, branch: int = 0) -> bool:
    """What a predicate says: slot 0 is the initial context, the others are the outputs of the steps."""
    branches = result.plan.steps[step].branches
    assert branches is not None
    filled: list[dict[str, Any] | None] = [*slots, *[None] * (len(result.plan.steps) + 2 - len(slots))]
    return branches.edges[branch].holds(filled)


# ---- what they read


def test_edges_and_default_are_bound_to_positions():
    """R24: in the order in which they are declared."""
    result = fork("choose_out > 1", "choose_out > 0", default_next="right")
    branches = result.plan.steps[0].branches

    assert branches is not None
    assert [(one.target, one.predicate) for one in branches.edges] == [(1, "choose_out > 1"), (1, "choose_out > 0")]
    assert branches.default == 2
    assert result.errors == ()


def test_steps_without_branches_have_none():
    """R24: also those of a linear flow."""
    assert [step.branches for step in fork().plan.steps] == [None] * 3
    assert compiled(a_chain(call(CHOOSE)), CHOOSE).plan.steps[0].branches is None


def test_a_predicate_reads_what_its_step_wrote():
    """R24: under the names of the output mapping."""
    assert holds(fork("choose_out == 2"), {"choose_out": 1}, {"choose_out": 2})
    assert holds(fork("k == 2", output_mapping={"k": "choose_out"}), {"k": 1}, {"k": 2})


def test_a_name_that_the_mapping_dropped_is_looked_for_before():
    """R11, R24: what is not merged is not there."""
    result = fork("choose_out == 1", output_mapping={"k": "choose_out"})

    assert holds(result, {"choose_out": 1}, {"k": 2})


def test_what_a_step_perhaps_wrote_comes_before_what_it_saw():
    """R24: a key of open outputs is looked for in both places, one of a closed schema in one."""
    result = fork("k == 2", tools=[a_tool("choose", {}, Open), LEFT, RIGHT])

    assert holds(result, {"k": 1}, {"k": 2})
    assert holds(result, {"k": 2}, {})


def test_a_dynamic_parameter_comes_before_everything():
    """R13: as for inputs."""
    result = fork("choose_out == 7", dynamic_params=("choose_out",))

    assert holds(result, {}, {"choose_out": 1}, None, None, {"choose_out": 7})


def test_a_predicate_makes_its_step_wait_for_who_may_have_written_what_it_reads():
    """R3, R24: the compiler adds the edge and says so."""
    far = a_tool("far", {}, ["k"])
    flow = a_dag(
        node("far", far),
        node("near", END),
        node("choose", CHOOSE, "near", branches=[edge("left", "k == 2")]),
        node("left", LEFT, "choose"),
    )
    result = compiled(flow, far, *TOOLS)

    assert (result.plan.steps[2].needs, result.plan.steps[2].parents) == ((0, 1), (1,))
    assert warned(result) == [(2, "implicit_dependency", None)]
    assert holds(result, {}, {"k": 2}, step=2)


def test_asking_about_a_key_counts_as_reading_it():
    """W5: what decides a branch is no output that nobody reads."""
    before = [node("far", a_tool("far", {}, ["k"]))]
    tools = [a_tool("far", {}, ["k"]), *TOOLS]
    asked, unasked = (
        fork(text, before=before, tools=tools, outputs=["left_out", "right_out"]) for text in ("k == 2", "True")
    )

    assert ("unused_output", 0) not in [(one.issue_type, one.step_index) for one in asked.warnings]
    assert ("unused_output", 0) in [(one.issue_type, one.step_index) for one in unasked.warnings]


# ---- what is wrong with them


@pytest.mark.parametrize("text", ["a >", "a.b == 1", "len(a) > 1", "a == 1; b"])
def test_a_predicate_without_meaning_is_an_error_of_its_step(text: str):
    """R16, R25: it says to which branch it belongs, and the step fails for it; each run gets an error of its own."""
    result = fork(text, "choose_out > 0")
    first, second = (result.plan.steps[0].fault() for _ in range(2))  # type: ignore[misc]  # a fault is there

    assert found(result) == [(0, "predicate_syntax", "branches")]
    assert detail(result, "predicate_syntax").startswith("the branch to 'left': Predicate")
    assert isinstance(first, PredicateSyntaxError)
    assert (str(first), first is second) == (str(second), False)
    assert first.predicate == text
    branches = result.plan.steps[0].branches
    assert branches is not None
    assert [one.predicate for one in branches.edges] == ["choose_out > 0"]


def test_a_key_that_nobody_can_write_is_an_error_of_the_step():
    """R16, R24: certain where the input schema is closed."""
    result = fork("choose_ouT > 0", input_schema_ref=schema(Exactly))
    fault = result.plan.steps[0].fault

    assert found(result) == [(0, "missing_predicate_key", "branches")]
    assert detail(result, "missing_predicate_key") == (
        "predicate 'choose_ouT > 0' of the branch to 'left' reads unknown key 'choose_ouT'; "
        "did you mean 'choose_out'? known keys are choose_out, n"
    )
    assert fault is not None
    assert isinstance(fault(), FlowExecutionError)
    assert "reads unknown key 'choose_ouT'" in str(fault())


def test_a_key_that_only_a_generous_caller_brings_is_an_error_that_the_run_decides():
    """R16: a schema that takes other keys does not say that they will come."""
    result = fork("k > 0", input_schema_ref=schema(Number))

    assert found(result) == [(0, "missing_predicate_key", "branches")]
    assert result.plan.steps[0].fault is None
    assert holds(result, {"k": 1}, {})


@pytest.mark.parametrize("ref", [None, schema(Anything)])
def test_a_key_that_may_come_from_outside_is_none(ref: str | None):
    """R16: without an input schema, or with an open one, callers bring what they like."""
    assert fork("k > 0", input_schema_ref=ref).errors == ()


def test_what_an_unknown_tool_may_have_written_is_not_called_wrong():
    """R16: nothing is known of it."""
    flow = a_dag(
        node("gone", "gone"),
        node("choose", CHOOSE, "gone", branches=[edge("left", "k > 0")]),
        node("left", LEFT, "choose"),
        input_schema_ref=schema(Exactly),
    )
    own = a_dag(
        node("choose", "gone", branches=[edge("left", "k > 0")]),
        node("left", LEFT, "choose"),
        input_schema_ref=schema(Exactly),
    )

    assert found(compiled(flow, *TOOLS)) == [(0, "missing_tool", None)]
    assert found(compiled(own, *TOOLS)) == [(0, "missing_tool", None)]


# ---- who may not run


def test_what_lies_behind_a_branch_may_be_passed_over():
    """R24: with everything that hangs behind it alone."""
    flow = a_dag(
        node("choose", CHOOSE, branches=[edge("left", "True"), edge("right", "True")]),
        node("left", LEFT, "choose"),
        node("right", RIGHT, "choose"),
        node("end", END, "left"),
    )
    assert [step.may_be_passed for step in compiled(flow, *TOOLS).plan.steps] == [False, True, True, True]


def test_a_step_that_is_reached_whatever_is_chosen_is_not():
    """R24: over a parent that always runs, or over every way out of a branch."""
    extra = a_tool("extra", {}, ["extra_out"])
    flow = a_dag(
        node("extra", extra),
        node("choose", CHOOSE, branches=[edge("left", "True")], default_next="right"),
        node("left", LEFT, "choose"),
        node("right", RIGHT, "choose", "extra"),
        node("end", END, "left", "right"),
    )
    result = compiled(flow, extra, *TOOLS)

    assert [step.may_be_passed for step in result.plan.steps] == [False, False, True, False, False]


def test_a_join_behind_a_branch_behind_a_branch_may_be_passed_over():
    """R24: one of the ways is taken only when the branch itself runs."""
    flow = a_dag(
        node("choose", CHOOSE, default_next="end"),
        node("inner", "choose", "choose", branches=[edge("left", "True"), edge("right", "True")], output_mapping={}),
        node("end", END, "choose"),
        node("left", LEFT, "inner"),
        node("right", RIGHT, "inner"),
        node("join", "end", "left", "right", output_mapping={"j": "end_out"}),
    )
    steps = compiled(flow, *TOOLS).plan.steps

    assert {step.step_id: step.may_be_passed for step in steps} == {
        "choose": False,
        "inner": True,
        "end": True,
        "left": True,
        "right": True,
        "join": True,
    }


def test_a_key_that_only_a_passed_step_would_write_is_looked_for_in_all_places():
    """R3, R24: in those of the ways first, and in the one from before at last."""
    left, right = a_tool("left", {}, ["k"]), a_tool("right", {}, ["k"])
    reader = a_tool("reader", ["k"], ["read"])
    flow = a_dag(
        node("choose", CHOOSE, branches=[edge("left", "True")], default_next="right"),
        node("left", left, "choose"),
        node("right", right, "choose"),
        node("reader", reader, "left", "right"),
    )
    result = compiled(flow, CHOOSE, left, right, reader)

    assert result.errors == ()
    assert inputs(result, 3, {"k": 0}, {}, {"k": 1}, None) == {"k": 1}
    assert inputs(result, 3, {"k": 0}, {}, None, {"k": 2}) == {"k": 2}
    assert inputs(result, 3, {"k": 0}, {}, None, None) == {"k": 0}


def test_siblings_of_which_perhaps_one_runs_are_no_conflict_beforehand():
    """R12, R24: the run holds them against each other; a sibling that always runs is a conflict."""
    left, right, extra = (a_tool(name, {}, ["k"]) for name in ("left", "right", "extra"))
    ways = a_dag(
        node("choose", CHOOSE, branches=[edge("left", "True")], default_next="right"),
        node("left", left, "choose"),
        node("right", right, "choose"),
    )
    result = compiled(ways, CHOOSE, left, right, extra)

    assert result.errors == ()
    assert (result.plan.steps[1].rivals, result.plan.steps[2].rivals) == ((), (1,))
    both = a_dag(
        node("choose", CHOOSE),
        node("left", left, "choose"),
        node("extra", extra, "choose"),
    )
    assert found(compiled(both, CHOOSE, left, right, extra)) == [(2, "sibling_conflict", "k")]
