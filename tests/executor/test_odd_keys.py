"""Inputs whose keys are no texts: nobody promised them anything, and the log of their run opens all the same."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from chainweaver import Flow, FlowExecutor, FlowStep, Tool


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Number(BaseModel):
    n: int = 0


def log_of(**flow: str) -> list[object]:
    take = Tool(name="take", description="d", input_schema=Open, output_schema=Number, fn=lambda given: {"n": 1})
    definition = Flow(name="f", description="d", steps=[FlowStep(tool_name="take")], **flow)  # type: ignore[arg-type]  # texts only
    with FlowExecutor(tools=[take], flows=[definition]) as executor:
        result = executor.execute_flow("f", {1: "x", "n": "many"})  # type: ignore[dict-item]  # what the test is about
    return [(record.status, record.inputs) for record in result.execution_log]


def test_a_step_that_reads_the_whole_context_shows_such_keys_by_their_repr():
    """R16: recorded, with a log that can be read; the tool's schema is what refuses the key."""
    assert log_of() == [("failed", {"1": "x", "n": "many"})]


def test_an_input_that_the_flow_refuses_shows_such_keys_by_their_repr():
    """R16: the record of the border too."""
    assert log_of(input_schema_ref=f"{__name__}:Number") == [("failed", {"1": "x", "n": "many"})]
