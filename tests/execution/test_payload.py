"""Payloads that refuse to be looked at go through a run unharmed."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from chainweaver import Flow, FlowExecutor, FlowStep, tool


class Shy:
    """Every way of showing it raises, and so does comparing it."""

    def __repr__(self) -> str:
        raise RuntimeError("do not look at me")

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("do not compare me")

    def __hash__(self) -> int:
        raise RuntimeError("do not hash me")

    def __len__(self) -> int:
        raise RuntimeError("do not measure me")

    def __bool__(self) -> bool:
        raise RuntimeError("do not ask me")


@tool(output="passed")
def hand_on(shy: Any) -> Any:
    return shy


@tool(output="again")
def hand_on_again(passed: Any) -> Any:
    return passed


@tool(output="never")
def drop(passed: Any) -> Any:
    raise ValueError(passed)


@pytest.mark.parametrize("limit", [1, 4])
@pytest.mark.parametrize("trace_values", ["snapshot", "reference", "summary"])
def test_a_payload_whose_repr_raises_runs_at_log_level_warning(limit, trace_values, caplog):
    """R14: nobody but the tools looks at a value; collisions are logged by key, not by value."""
    shy = Shy()
    flow = Flow(
        name="shy",
        description="Passes a value on.",
        steps=[FlowStep(tool_name="hand_on"), FlowStep(tool_name="hand_on_again", output_mapping={"shy": "again"})],
    )
    caplog.set_level(logging.WARNING)
    with FlowExecutor(
        tools=[hand_on, hand_on_again], flows=[flow], max_step_concurrency=limit, trace_values=trace_values
    ) as executor:
        result = executor.execute_flow("shy", {"shy": shy})

    assert result.status == "ok"
    assert result.final_output is not None
    assert result.final_output["shy"] is shy
    assert [record.getMessage() for record in caplog.records] == [
        "Step 1 (hand_on_again): context key 'shy' overwritten"
    ]
    assert len(result.execution_log) == 2
    assert "<Shy>" in result.model_dump_json() or "Shy" in result.model_dump_json()


@pytest.mark.parametrize("limit", [1, 4])
def test_an_exception_that_holds_such_a_payload_fails_its_step(limit):
    """R17: the text of the error is left out, its class is told."""
    flow = Flow(name="shy", description="Fails.", steps=[FlowStep(tool_name="hand_on"), FlowStep(tool_name="drop")])
    with FlowExecutor(tools=[hand_on, drop], flows=[flow], max_step_concurrency=limit) as executor:
        result = executor.execute_flow("shy", {"shy": Shy()})

    assert result.status == "failed"
    record = result.step("1")
    assert record.error_message is not None
    assert record.error_message.startswith("Tool 'drop' failed at step 1: ValueError.")
    assert record.error_cause == "ValueError"
