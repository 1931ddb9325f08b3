"""`explain_flow`: what a flow would do with an input, told without running anything."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from chainweaver import (
    ConditionalEdge,
    DAGFlowStep,
    ExecutionPlan,
    FlowExecutor,
    FlowNotFoundError,
    FlowStep,
    Tool,
    template,
)
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


# ---- branches, decisions, maps, sub-flows, capabilities


def a_branching_flow() -> Any:
    return dag(
        DAGFlowStep(
            step_id="a",
            tool_name="a",
            output_mapping={"x": "out"},
            branches=[
                ConditionalEdge(target_step_id="big", predicate="x > limit"),
                ConditionalEdge(target_step_id="small", predicate="x < n"),
            ],
            default_next="big",
        ),
        DAGFlowStep(step_id="big", tool_name="b", depends_on=["a"], output_mapping={"y": "out"}),
        DAGFlowStep(step_id="small", tool_name="c", depends_on=["a"], output_mapping={"z": "out"}),
        DAGFlowStep(
            step_id="join",
            tool_name="a",
            depends_on=["big", "small"],
            input_mapping={"n": "y"},
            output_mapping={"j": "out"},
        ),
    )


def test_a_branching_step_tells_where_it_may_lead_and_what_its_predicates_read():
    """R24: in the order in which they are asked, its own outputs first, the default at the end."""
    plan = explained(a_branching_flow(), {"n": 1, "limit": 5})
    a, big, small, join = plan.steps
    assert [(one.target, one.predicate, one.reads) for one in a.branches] == [
        ("big", "x > limit", {"x": "output['x']", "limit": "context['limit']"}),
        ("small", "x < n", {"x": "output['x']", "n": "context['n']"}),
        ("big", None, {}),
    ]
    assert [step.may_be_passed for step in plan.steps] == [False, True, True, False]
    assert (big.branches, join.depends_on) == ([], ["big", "small"])
    assert small.read_from == {"n": ["input"]}
    assert plan.all_resolvable


def test_what_a_predicate_reads_has_to_be_there_as_well():
    """R24: a name that nobody provides is named with the step that branches."""
    plan = explained(a_branching_flow(), {"n": 1})
    assert plan.steps[0].branches[0].reads["limit"] == "context['limit'] (UNRESOLVED)"
    assert plan.steps[0].unresolved_keys == ["limit"]
    assert not plan.all_resolvable


def test_a_predicate_that_cannot_be_read_is_told_by_the_compiler():
    """R25: explaining does not fail over it."""
    flow = dag(
        DAGFlowStep(step_id="a", tool_name="a", branches=[ConditionalEdge(target_step_id="b", predicate="out ** 9")]),
        DAGFlowStep(step_id="b", tool_name="b", depends_on=["a"], output_mapping={"x": "out"}),
    )
    plan = explained(flow, {"n": 1})
    assert plan.steps[0].branches[0].reads == {}
    assert [warning.split(":")[0] for warning in plan.steps[0].warnings] == ["predicate_syntax"]


def test_who_may_have_written_what_is_read_is_told_the_likeliest_first():
    """R3: the last writer in plan order wins; a step that may be skipped leaves it to the one before it."""
    flow = dag(
        DAGFlowStep(step_id="first", tool_name="a", output_mapping={"n": "out"}),
        DAGFlowStep(
            step_id="second", tool_name="b", depends_on=["first"], output_mapping={"n": "out"}, on_error="skip"
        ),
        DAGFlowStep(step_id="last", tool_name="c", depends_on=["second"]),
        on_context_collision="overwrite",
    )
    plan = explained(flow, {"n": 1})
    assert [step.read_from for step in plan.steps] == [{"n": ["input"]}, {"n": ["first"]}, {"n": ["second", "first"]}]


def test_what_is_read_beside_the_dependencies_is_waited_for_and_told():
    """R3: the edge that the compiler adds is one of the dependencies."""
    flow = dag(
        DAGFlowStep(step_id="x", tool_name="a", output_mapping={"x": "out"}),
        DAGFlowStep(step_id="y", tool_name="b", output_mapping={"y": "out"}),
        DAGFlowStep(
            step_id="z", tool_name="c", depends_on=["x"], input_mapping={"n": "y"}, output_mapping={"z": "out"}
        ),
    )
    z = explained(flow, {"n": 1}).steps[2]
    assert (z.depends_on, z.read_from) == (["x", "y"], {"n": ["y"]})


def test_a_deciding_step_tells_its_candidates_and_who_stands_in():
    """R21, R26: all that may be called, and all that may be written."""
    flow = linear(FlowStep(tool_name="a", decision_candidates=["a", "b"], on_error="fallback:c"))
    [step] = explained(flow, {"n": 1}).steps
    assert (step.candidates, step.fallback, step.writes) == (["a", "b"], "c", {"out": "int"})


class Row(BaseModel):
    n: int
    unit: str = "kg"


def test_a_map_tells_where_its_items_come_from_and_what_becomes_a_list():
    """R28: what is read of an item is none of the context."""
    flow = linear(
        FlowStep(tool_name="a", output_mapping={"x": "out"}),
        FlowStep(
            tool_name="r",
            map_over="/order/rows",
            map_as="row",
            input_mapping={"n": "/row/amount", "unit": {"$key": "/row/unit", "$default": "g"}},
        ),
    )
    plan = explained(flow, {"n": 1, "order": {}}, a_tool("r", Row))
    step = plan.steps[1]
    assert (step.map_over, step.map_as) == ("context['/order/rows']", "row")
    assert step.input_sources == {
        "n": "item of context['/order/rows'] at '/row/amount'",
        "unit": "item of context['/order/rows'] at '/row/unit' or literal('g')",
    }
    assert (step.writes, step.read_from) == (
        {"out": "list[int]"},
        {"row": ["input"], "n": ["input"], "unit": ["input"]},
    )
    assert plan.final_context_shape == {"n": "int", "order": "dict", "x": "int", "out": "list[int]"}
    assert plan.all_resolvable


def test_a_map_without_a_mapping_reads_the_item_and_the_context_by_name():
    """R28: the item is one more key."""
    flow = linear(FlowStep(tool_name="r", map_over="rows", map_as="n"))
    [step] = explained(flow, {"rows": [], "unit": "g"}, a_tool("r", Row)).steps
    assert step.input_sources == {"n": "item of context['rows']", "unit": "context['unit']"}
    [step] = explained(flow, {}, a_tool("r", Row)).steps
    assert step.map_over == "context['rows'] (UNRESOLVED)"
    assert step.unresolved_keys == ["rows"]
    [step] = explained(flow, {"rows": []}, a_tool("r", Open)).steps
    assert step.input_sources == {"<all>": "context (full)", "n": "item of context['rows']"}


def with_child(step: DAGFlowStep, *child_steps: FlowStep, given: dict[str, Any], **facts: Any) -> ExecutionPlan:
    calls = Calls()
    child = linear(*child_steps, **{"name": "child", "version": "1.2.0", **facts})
    executor = FlowExecutor(tools=[calls.tool(name) for name in "abc"], flows=[child, dag(step)])
    return executor.explain_flow("flow", given)


def test_a_sub_flow_is_explained_with_what_its_step_hands_to_it():
    """R27: its own plan, in which only the mapped keys are there."""
    step = DAGFlowStep(step_id="s", flow_name="child", input_mapping={"n": "amount", "unit": 5})
    plan = with_child(
        step,
        FlowStep(tool_name="a", output_mapping={"x": "out"}),
        FlowStep(tool_name="b", input_mapping={"n": "amount"}),
        given={"amount": 1},
    )
    [outer] = plan.steps
    assert (outer.tool_name, outer.flow_version) == ("child", "1.2.0")
    assert outer.input_sources == {"n": "context['amount']", "unit": "literal(5)"}
    assert (outer.input_schema, outer.output_schema) == (None, None)
    inner = outer.sub_plan
    assert inner is not None
    assert (inner.flow_name, inner.flow_version, inner.step_count) == ("child", "1.2.0", 2)
    assert inner.steps[0].input_sources == {"n": "context['n']"}
    assert inner.steps[1].unresolved_keys == ["amount"]
    assert inner.final_context_shape == {"n": "int", "unit": "int", "x": "int", "out": "int"}
    assert not plan.all_resolvable


def test_a_sub_flow_without_a_mapping_takes_the_keys_that_it_names():
    """R27: and no others; its outputs are those of its steps, or its projection."""
    plan = with_child(
        DAGFlowStep(step_id="s", flow_name="child"), FlowStep(tool_name="a"), given={"n": 1, "m": 2}, outputs=["out"]
    )
    [outer] = plan.steps
    assert (outer.input_sources, outer.writes) == ({"n": "context['n']"}, {"out": "int"})
    assert outer.sub_plan is not None
    assert outer.sub_plan.final_context_shape == {"out": "int"}
    assert plan.final_context_shape == {"n": "int", "m": "int", "out": "int"}


def test_the_schema_of_a_sub_flow_says_what_it_needs():
    """R8, R27: a required field is unresolved where the step is, and there for the steps inside."""
    plan = with_child(
        DAGFlowStep(step_id="s", flow_name="child"),
        FlowStep(tool_name="a", input_mapping={"n": "m"}),
        given={},
        input_schema_ref="tests.executor.test_explain:Given",
    )
    [outer] = plan.steps
    assert outer.input_schema == "Given"
    assert outer.unresolved_keys == ["n"]
    assert outer.sub_plan is not None
    assert outer.sub_plan.all_resolvable


def test_a_mapped_sub_flow_gets_one_item_at_a_time():
    """R27, R28: inside, the item is a key like any other."""
    step = DAGFlowStep(step_id="s", flow_name="child", map_over="rows", map_as="n")
    plan = with_child(step, FlowStep(tool_name="a"), given={"rows": [1]})
    [outer] = plan.steps
    assert outer.input_sources == {"n": "item of context['rows']"}
    assert outer.writes == {"out": "list[int]"}
    assert outer.sub_plan is not None
    assert outer.sub_plan.all_resolvable
    assert plan.all_resolvable


def test_a_sub_flow_sees_the_dynamic_parameters_that_both_name():
    """R13, R27: they are handed on without a mapping."""
    child = linear(FlowStep(tool_name="a", input_mapping={"n": "key"}), name="child", dynamic_params=["key"])
    tools = [a_tool("a")]
    for named, resolvable in ((["key"], True), ([], False)):
        outer = linear(FlowStep(flow_name="child", input_mapping={"m": 1}), dynamic_params=named)
        plan = FlowExecutor(tools=tools, flows=[child, outer]).explain_flow("flow", {})
        sub_plan = plan.steps[0].sub_plan
        assert sub_plan is not None
        assert sub_plan.all_resolvable is resolvable


@pytest.mark.parametrize("flow_name", ["nobody", "flow"])
def test_flows_that_do_not_fit_together_are_explained_as_far_as_they_go(flow_name: str):
    """R15: nothing runs, so nothing is raised; the compiler says what is wrong."""
    flow = dag(
        DAGFlowStep(step_id="s", flow_name=flow_name),
        DAGFlowStep(step_id="a", tool_name="a", depends_on=["s"], input_mapping={"n": "whatever"}),
    )
    plan = explained(flow, {"n": 1})
    assert plan.steps[0].sub_plan is None
    assert plan.steps[0].warnings[0].startswith("composition_")
    assert plan.steps[1].unresolved_keys == []
    assert not plan.all_resolvable


def test_a_capability_takes_what_it_sees_and_may_write_anything():
    """Explain: nobody knows its schemas."""
    flow = dag(
        DAGFlowStep(step_id="ship", step_type="capability", capability_id="ship.it"),
        DAGFlowStep(step_id="a", tool_name="a", depends_on=["ship"], input_mapping={"n": "parcel"}),
    )
    ship, a = explained(flow, {"n": 1}).steps
    assert (ship.capability_id, ship.input_sources) == ("ship.it", {"<all>": "context (full)"})
    assert (ship.input_schema, ship.output_schema) == (None, None)
    assert a.input_sources == {"n": "context['parcel']"}


def test_a_legacy_template_finds_its_keys_whatever_their_case():
    """R9: as a run would."""
    mapping = {"n": {"$template": "~~AMOUNT~~", "$syntax": "legacy"}}
    assert explained(linear(FlowStep(tool_name="a", input_mapping=mapping)), {"Amount": 1}).all_resolvable


def test_a_nested_explanation_is_json_too():
    """Explain: with the plans of its sub-flows."""
    plan = with_child(DAGFlowStep(step_id="s", flow_name="child"), FlowStep(tool_name="a"), given={"n": 1})
    assert ExecutionPlan.model_validate_json(plan.model_dump_json()) == plan
