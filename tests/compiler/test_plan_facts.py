"""What a plan knows about itself as a whole: whether its steps can overlap, and what a checkpoint notes about it."""

from __future__ import annotations

from chainweaver import DAGFlow, DAGFlowStep, Flow, FlowStep, RetryPolicy, Tool, compile_flow, tool
from chainweaver.plan import Plan


@tool(output="total")
def add(n: int = 0) -> int:
    """Add one."""
    return n + 1


@tool(output="other", lane="inline")
def here(n: int = 0) -> int:
    """Stay in the running thread."""
    return n


def dag(**needs: list[str]) -> DAGFlow:
    steps = [DAGFlowStep(step_id=name, tool_name="add", depends_on=on) for name, on in needs.items()]
    return DAGFlow(name="f", version="1.0.0", description="d", steps=steps)


def plan_of(flow: Flow | DAGFlow, *tools: Tool) -> Plan:
    return compile_flow(flow, tools or [add, here]).plan


def test_a_linear_flow_is_a_chain() -> None:
    """R4: no two of its steps ever overlap, so that a higher limit means nothing to it."""
    flow = Flow(name="f", description="d", steps=[FlowStep(tool_name="add"), FlowStep(tool_name="here")])

    assert plan_of(flow).is_chain


def test_a_dag_is_a_chain_only_when_every_step_waits_for_the_one_before() -> None:
    """R4: one pair of steps that may overlap makes the difference."""
    assert plan_of(dag(a=[], b=["a"], c=["b"])).is_chain
    assert not plan_of(dag(a=[], b=["a"], c=["a"])).is_chain


def test_a_plan_is_inline_when_nothing_in_it_can_run_elsewhere_or_wait() -> None:
    """R4: plain steps of tools that insist on the running thread come one after the other at any limit."""
    plain = [FlowStep(tool_name="here")]
    retried = [FlowStep(tool_name="here", retry=RetryPolicy(max_retries=1))]

    assert plan_of(Flow(name="f", description="d", steps=plain)).is_inline
    assert not plan_of(Flow(name="f", description="d", steps=retried)).is_inline
    assert not plan_of(Flow(name="f", description="d", steps=[FlowStep(tool_name="add")])).is_inline


def test_the_lanes_of_inline_tools_are_known_beforehand() -> None:
    """R4: a run above limit 1 asks the plan whether its calling thread has to keep itself free."""
    flow = Flow(name="f", description="d", steps=[FlowStep(tool_name="add"), FlowStep(tool_name="here")])

    assert plan_of(flow).inline_lanes == {None, "inline"}


def test_facts_name_tools_steps_levels_and_mappings() -> None:
    """R33: what a checkpoint notes, so that a resumed run can see what has changed."""
    flow = dag(a=[], b=["a"], c=["a"])
    flow.steps[1].output_mapping = {"b_total": "total"}

    facts = plan_of(flow).facts()

    assert facts.tool_hashes == {"add": add.schema_hash}
    assert facts.level_sizes == (1, 2)
    assert facts.output_mappings == {"b": {"b_total": "total"}}
    assert list(facts.step_fingerprints) == ["a", "b", "c"]
    assert len(set(facts.step_fingerprints.values())) == 3


def nested(description: str = "d", outputs: list[str] | None = None, steps: int = 1) -> Plan:
    """A sub-flow that runs a sub-flow and maps a tool: what the innermost one says differs."""
    inner = Flow(name="inner", description=description, steps=[FlowStep(tool_name="add")] * steps, outputs=outputs)
    middle = Flow(
        name="middle",
        description="d",
        steps=[FlowStep(flow_name="inner"), FlowStep(tool_name="here", map_over="ns", map_as="n")],
    )
    outer = Flow(name="outer", description="d", steps=[FlowStep(flow_name="middle")])
    return compile_flow(outer, [add, here], flows=[inner, middle]).plan


def test_facts_name_nested_steps_that_run_steps_by_the_way_to_them() -> None:
    """R33: such a step may be half-done, with commits inside of it and none of its own."""
    assert list(nested().facts().step_fingerprints) == ["0", "/0/0", "/0/1"]


def test_the_fingerprint_of_a_step_that_runs_a_flow_has_what_that_flow_takes_and_gives_and_not_its_steps() -> None:
    """R33: steps of a sub-flow are compared one by one."""

    def fingerprint_of(plan: Plan) -> str:
        return plan.facts().step_fingerprints["/0/0"]

    assert fingerprint_of(nested(steps=2)) == fingerprint_of(nested())
    assert fingerprint_of(nested(outputs=["total"])) != fingerprint_of(nested())


def test_facts_are_worked_out_once() -> None:
    """R31: a run with a checkpointer asks for them; the next one gets the same object."""
    plan = plan_of(dag(a=[]))

    assert plan.facts() is plan.facts()


def test_a_step_with_a_literal_that_has_no_canonical_form_has_a_fingerprint_all_the_same() -> None:
    """R33: such a literal stands for its type; resumed elsewhere it is another object anyway."""

    def with_literal(value: object) -> str:
        flow = Flow(name="f", description="d", steps=[FlowStep(tool_name="add", input_mapping={"n": value})])
        return plan_of(flow).steps[0].fingerprint()

    assert with_literal(iter([1])) == with_literal(iter([2])) != with_literal(iter("2"))
