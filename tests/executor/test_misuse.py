"""What a newcomer gets wrong first is answered with a sentence, where it was written."""

from __future__ import annotations

from typing import Any

import pytest

from chainweaver import DAGFlow, DAGFlowStep, Flow, FlowExecutor, FlowStep, compile_flow, tool


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


def test_a_failure_says_in_which_flow_and_step_it_happened():
    """R16: the recorded error names flow, version and step, whatever raised it."""
    executor = FlowExecutor(tools=[double], flows=[FLOW])
    record = executor.execute_flow("twice", {"n": "many"}).execution_log[0]
    assert record.error_message is not None
    assert "  where   flow 'twice' 0.1.0, step 0" in record.error_message.splitlines()


def test_the_place_of_an_error_has_the_name_of_a_step_that_the_sentence_does_not_name():
    """R16: in a DAG the id of the step tells two calls of one tool apart."""
    dag = DAGFlow(name="d", version="1", description="d", steps=[DAGFlowStep(step_id="first", tool_name="double")])
    record = FlowExecutor(tools=[double], flows=[dag]).execute_flow("d", {"n": "many"}).step("first")
    assert record.error_message is not None
    assert "  where   flow 'd' 1, step 0 ('first')" in record.error_message.splitlines()


def test_the_result_of_a_compilation_can_be_looked_at():
    """Compiler: a plan of any length shows itself in one line."""
    compiled = compile_flow(FLOW, [double])
    assert repr(compiled.plan) == "Plan('twice', '0.1.0', 1 step(s))"
    assert repr(compiled.plan) in repr(compiled)
