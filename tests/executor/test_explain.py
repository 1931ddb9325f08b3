"""`explain_flow`: what a flow would do with an input, told without running anything."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from chainweaver import DAGFlowStep, ExecutionPlan, FlowExecutor, FlowNotFoundError, FlowStep, Tool, template
from tests.executor.kit import Calls, Number, Out, chain, dag, linear


class Two(BaseModel):
    n: int
    m: int = 5


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


def explained(flow: Any, given: dict[str, Any], *tools: Tool) -> ExecutionPlan:
    """The explanation, after which no tool has been called."""
    calls = Calls()
    known = {tool.name: tool for tool in [*(calls.tool(name) for name in "abc"), *tools]}
    plan = FlowExecutor(tools=known.values(), flows=[flow]).explain_flow("flow", given)
    assert dict(calls.counts) == {}
    return plan


def sources(flow: Any, given: dict[str, Any], *tools: Tool) -> list[dict[str, str]]:
    return [step.input_sources for step in explained(flow, given, *tools).steps]


def a_tool(name: str, takes: type[BaseModel] = Number, gives: type[BaseModel] = Out) -> Tool:
    return Calls().tool(name, input_schema=takes, output_schema=gives)


def test_a_chain_is_explained_step_by_step():
    """Explain: names, schemas and the context key behind every field."""
    plan = explained(chain("a", "b"), {"n": 1})
    assert (plan.flow_name, plan.step_count, plan.all_resolvable) == ("flow", 2, True)
    first, second = plan.steps
    assert (first.step_index, first.tool_name, first.input_schema, first.output_schema) == (0, "a", "Number", "Out")
    assert first.input_sources == {"n": "context['n']"}
    assert second.input_sources == {"n": "context['a_out']"}
    assert (second.unresolved_keys, second.warnings) == ([], [])
    assert plan.final_context_shape == {"n": "int", "a_out": "int", "b_out": "int"}


def test_a_key_that_nobody_provides_is_named():
    """Explain: the source says so, and the step lists the key."""
    plan = explained(chain("a", "b"), {})
    assert plan.steps[0].input_sources == {"n": "context['n'] (UNRESOLVED)"}
    assert [step.unresolved_keys for step in plan.steps] == [["n"], []]
    assert not plan.all_resolvable


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("k", "context['k']"),
        ("/k/0/x", "context['/k/0/x']"),
        ("/gone/0", "context['/gone/0'] (UNRESOLVED)"),
        (7, "literal(7)"),
        (None, "literal(None)"),
        ([1, "k"], "literal([1, 'k'])"),
        ({"$literal": "k"}, "literal('k')"),
        ({"$key": "k", "$default": 1}, "context['k'] or literal(1)"),
        ({"$key": "gone", "$default": "x"}, "context['gone'] or literal('x')"),
        (template("Dear ${k} and ${gone}"), None),
        ("/01~2", None),
    ],
)
def test_every_form_of_a_mapping_is_told(value: Any, told: str | None):
    """Explain: keys, pointers, literals, defaults and templates."""
    [source] = sources(linear(FlowStep(tool_name="a", input_mapping={"n": value})), {"k": 1})
    if told is not None:
        assert source == {"n": told}
    elif value == "/01~2":
        assert source["n"].startswith("invalid: ")
    else:
        assert source == {"n": "template('Dear ${k} and ${gone}') of context['k'], context['gone'] (UNRESOLVED)"}


def test_a_default_needs_no_key():
    """Explain: a look-up with a default is resolvable whatever the input holds."""
    flow = linear(FlowStep(tool_name="a", input_mapping={"n": {"$key": "gone", "$default": 1}}))
    assert explained(flow, {}).all_resolvable


def test_an_empty_mapping_reads_the_keys_that_the_tool_names():
    """Explain: what the tool fills itself is named only where the context has it."""
    flow = linear(FlowStep(tool_name="two"))
    assert sources(flow, {"n": 1}, a_tool("two", Two)) == [{"n": "context['n']"}]
    assert sources(flow, {"n": 1, "m": 2}, a_tool("two", Two)) == [{"n": "context['n']", "m": "context['m']"}]
    assert sources(flow, {"m": 2}, a_tool("two", Two)) == [{"n": "context['n'] (UNRESOLVED)", "m": "context['m']"}]


def test_an_open_tool_reads_everything():
    """Explain: a model that allows extras gets the whole context."""
    assert sources(linear(FlowStep(tool_name="o")), {"n": 1}, a_tool("o", Open)) == [{"<all>": "context (full)"}]


def test_after_an_open_output_any_key_may_be_there():
    """Explain: what cannot be known is not called missing."""
    flow = linear(FlowStep(tool_name="o"), FlowStep(tool_name="a", input_mapping={"n": "somewhere"}))
    assert sources(flow, {}, a_tool("o", Number, Open))[1] == {"n": "context['somewhere']"}


def test_a_sibling_with_open_outputs_tells_nothing_about_its_level():
    """R3: what it writes is seen by later levels only."""
    flow = dag(
        DAGFlowStep(step_id="o", tool_name="o"),
        DAGFlowStep(step_id="a", tool_name="a", input_mapping={"n": "somewhere"}, output_mapping={"x": "out"}),
        DAGFlowStep(step_id="b", tool_name="b", depends_on=["o"], input_mapping={"n": "somewhere"}),
    )
    plan = explained(flow, {"n": 1}, a_tool("o", Number, Open))
    assert [step.unresolved_keys for step in plan.steps] == [[], ["somewhere"], []]


def test_a_dag_is_explained_in_plan_order():
    """Explain: level by level; a step does not see what its siblings write."""
    flow = dag(
        DAGFlowStep(step_id="last", tool_name="c", depends_on=["x", "y"], input_mapping={"n": "x_out"}),
        DAGFlowStep(step_id="x", tool_name="a", output_mapping={"x_out": "out"}),
        DAGFlowStep(step_id="y", tool_name="b", input_mapping={"n": "x_out"}, output_mapping={"y_out": "out"}),
    )
    plan = explained(flow, {"n": 1})
    assert [(step.step_index, step.tool_name) for step in plan.steps] == [(0, "a"), (1, "b"), (2, "c")]
    assert plan.steps[1].unresolved_keys == ["x_out"]
    assert plan.steps[2].input_sources == {"n": "context['x_out']"}


def test_what_the_compiler_says_stands_with_its_step():
    """Explain: errors and warnings of the compiler are the warnings of the plan."""
    flow = linear(FlowStep(tool_name="gone"), FlowStep(tool_name="a", input_mapping={"m": "n"}))
    plan = explained(flow, {"n": 1})
    assert not plan.all_resolvable
    gone, a = plan.steps
    assert (gone.input_schema, gone.output_schema) == (None, None)
    assert [warning.split(":")[0] for warning in gone.warnings] == ["missing_tool"]
    assert [warning.split(":")[0] for warning in a.warnings] == ["unknown_target_key"]


class Given(BaseModel):
    n: int
    m: int = 3


def test_an_input_schema_fills_in_keys():
    """R8: defaults of the flow's input schema are in the context."""
    flow = linear(
        FlowStep(tool_name="a", input_mapping={"n": "m"}), input_schema_ref="tests.executor.test_explain:Given"
    )
    plan = explained(flow, {"n": 1})
    assert plan.steps[0].input_sources == {"n": "context['m']"}
    assert plan.final_context_shape == {"n": "int", "m": "int", "out": "int"}


def test_dynamic_parameters_are_known_and_do_not_come_out():
    """R13: steps may read them; the final context does not have them."""
    flow = linear(FlowStep(tool_name="a", input_mapping={"n": "token"}), dynamic_params=["token"])
    plan = explained(flow, {})
    assert plan.all_resolvable
    assert plan.final_context_shape == {"out": "int"}


def test_named_outputs_are_the_final_context():
    """R13: the projection is what comes out."""
    flow = linear(FlowStep(tool_name="a"), outputs=["out"])
    assert explained(flow, {"n": 1}).final_context_shape == {"out": "int"}


def test_output_mappings_name_the_keys():
    """R11: the context has them under their new names, with the types of the tool."""
    flow = linear(FlowStep(tool_name="a", output_mapping={"x": "out", "y": "out"}))
    assert explained(flow, {"n": 1}).final_context_shape == {"n": "int", "x": "int", "y": "int"}


def test_the_version_is_chosen_as_in_a_run():
    """Explain: the highest one, unless one is named."""
    executor = FlowExecutor(
        tools=[a_tool("a"), a_tool("b")], flows=[chain("a", version="1.0.0"), chain("a", "b", version="2.0.0")]
    )
    assert executor.explain_flow("flow", {"n": 1}).step_count == 2
    assert executor.explain_flow("flow", {"n": 1}, version="1.0.0").step_count == 1
    with pytest.raises(FlowNotFoundError):
        executor.explain_flow("flow", {}, version="3.0.0")


def test_an_explanation_is_json():
    """Explain: programs read it too."""
    plan = explained(chain("a", "b"), {"n": 1})
    assert ExecutionPlan.model_validate_json(plan.model_dump_json()) == plan


def test_an_input_that_is_no_mapping_is_refused():
    """Explain: as in a run."""
    executor = FlowExecutor(tools=[a_tool("a")], flows=[chain("a")])
    with pytest.raises(TypeError, match="a mapping of context keys to values, not a list"):
        executor.explain_flow("flow", [1])  # type: ignore[arg-type]  # the mistake under test


def test_a_construct_that_no_lane_can_run_is_explained_too():
    """Explain: nothing has to run for that."""
    from chainweaver import ConditionalEdge

    flow = dag(
        DAGFlowStep(
            step_id="a",
            tool_name="a",
            branches=[ConditionalEdge(target_step_id="b", predicate="out > 1")],
        ),
        DAGFlowStep(step_id="b", tool_name="b", depends_on=["a"], output_mapping={"x": "out"}),
        DAGFlowStep(step_id="s", flow_name="other", depends_on=["b"]),
        DAGFlowStep(step_id="c", tool_name="c", depends_on=["s"], input_mapping={"n": "whatever"}),
    )
    plan = explained(flow, {"n": 1})
    assert [step.tool_name for step in plan.steps] == ["a", "b", "other", "c"]
    assert plan.steps[3].unresolved_keys == []
