"""What a newcomer gets wrong first is answered with a sentence, where it was written."""

from __future__ import annotations

from typing import Any

import pytest

from chainweaver import Flow, FlowExecutor, FlowStep, tool


@tool
def double(n: int) -> int:
    return 2 * n


FLOW = Flow(name="twice", description="Doubles.", steps=[FlowStep(tool_name="double")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_step_concurrency": 0}, "max_step_concurrency has to be at least 1, not 0."),
        ({"lane": "ray"}, "lane 'ray' is unknown; use 'inline', 'thread' or a name from lanes=."),
        ({"trace_values": "all"}, "trace_values has to be 'snapshot', 'reference' or 'summary', not 'all'."),
        ({"trace_copy_limit": -1}, "trace_copy_limit has to be at least 0, not -1."),
    ],
)
def test_a_wrong_setting_is_refused_when_the_executor_is_made(settings: dict[str, Any], message: str):
    """Executor: a mistake in a setting does not wait for the first run."""
    with pytest.raises(ValueError) as caught:
        FlowExecutor(**settings)
    assert str(caught.value) == message


def test_a_function_that_is_no_tool_is_told_what_it_lacks():
    """Executor: forgetting @tool is named, at the constructor as at register_tool."""
    with pytest.raises(TypeError, match="put @tool above the function"):
        FlowExecutor(tools=[len])  # type: ignore[list-item]  # the mistake under test
    with pytest.raises(TypeError, match="put @tool above the function"):
        FlowExecutor().register_tool(len)  # type: ignore[arg-type]  # the mistake under test


def test_a_flow_is_run_by_its_name():
    """Executor: passing the flow itself says what to pass."""
    executor = FlowExecutor(tools=[double], flows=[FLOW])
    with pytest.raises(TypeError) as caught:
        executor.execute_flow(FLOW, {"n": 1})  # type: ignore[arg-type]  # the mistake under test
    assert str(caught.value) == "A flow is run by the name it is registered under, not by a Flow itself."


def test_the_input_is_a_mapping():
    """Executor: a list of values has no names."""
    executor = FlowExecutor(tools=[double], flows=[FLOW])
    with pytest.raises(TypeError, match="a mapping of context keys to values, not list"):
        executor.execute_flow("twice", [1])  # type: ignore[arg-type]  # the mistake under test
