"""Secrets among the inputs: a plan names the keys that a tool takes in confidence, so that no store sees them."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from chainweaver import DAGFlow, DAGFlowStep, Flow, FlowStep, Tool, compile_flow, tool


@tool(output="length")
def use(password: SecretStr, hint: str = "") -> int:
    return len(password.get_secret_value())


@tool(output="password")
def make(seed: int) -> str:
    return str(seed)


INNER = Flow(name="inner", version="1.0.0", description="", steps=[FlowStep(tool_name="use")])
TOOLS: list[Tool] = [use, make]


def keys(*steps: FlowStep, **fields: object) -> tuple[str, ...]:
    flow = Flow(name="flow", version="1.0.0", description="", steps=list(steps), **fields)  # type: ignore[arg-type]
    return compile_flow(flow, TOOLS, flows=[INNER]).plan.secret_inputs


@pytest.mark.parametrize(("step", "found"), [
    (FlowStep(tool_name="use"), ("password",)),
    (FlowStep(tool_name="use", input_mapping={"password": "pin", "hint": "hint"}), ("pin",)),
    (FlowStep(tool_name="use", input_mapping={"password": "/login/pin"}), ("login",)),
    (FlowStep(tool_name="use", map_over="all", input_mapping={"password": "pin", "hint": "item"}), ("pin",)),
    (FlowStep(flow_name="inner", input_mapping={"password": "pin"}), ("pin",)),
    (FlowStep(tool_name="make"), ()),
])  # fmt: skip
def test_a_key_that_a_tool_takes_as_a_secret_is_named(step: FlowStep, found: tuple[str, ...]) -> None:
    """R34: whatever it is called in the input, in the flow itself and in the flows that it runs."""
    assert keys(step) == found


def test_what_a_step_has_written_is_no_secret_of_the_input() -> None:
    """R34: the key is looked for in the outputs of the step, which has to say itself that they are secret."""
    made = DAGFlowStep(step_id="made", tool_name="make")
    used = DAGFlowStep(step_id="used", tool_name="use", depends_on=["made"])
    flow = DAGFlow(name="flow", version="1.0.0", description="", steps=[made, used])

    assert compile_flow(flow, TOOLS).plan.secret_inputs == ()
