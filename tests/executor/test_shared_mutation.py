"""`on_shared_mutation="detect"`: changes in place that no tool declares are found by content, with step and key."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel, create_model

from chainweaver import (
    DAGFlow,
    DAGFlowStep,
    ExecutionResult,
    Flow,
    FlowExecutor,
    FlowStep,
    Native,
    RetryPolicy,
    SharedMutationError,
    Tool,
)
from tests.lanes.table import LANES, SYNC, Lane

torch = pytest.importorskip("torch", reason="PyTorch is installed for one Python only")


class Box(BaseModel):
    value: Native[Any]


class Out(BaseModel):
    out: int = 0


def a_tool(name: str, fn: Any, **options: Any) -> Tool:
    options = {"input_schema": Box, "output_schema": Out, **options}
    return Tool(name=name, description="", fn=fn, **options)


def changing(change: Any, **options: Any) -> Tool:
    def fn(given: Any) -> dict[str, Any]:
        change(given.value)
        return {}

    return a_tool("change", fn, **options)


READ = a_tool("read", lambda given: {"out": 1})


def a_flow(*names: str, **facts: Any) -> Flow:
    facts = {"name": "flow", "description": "", "on_context_collision": "overwrite", **facts}
    return Flow(steps=[FlowStep(tool_name=name) for name in names], **facts)


def run_of(flow: Any, tools: list[Tool], value: Any, lane: Lane = SYNC, **options: Any) -> ExecutionResult:
    with lane.executor(tools=tools, flows=[flow], on_shared_mutation="detect", **options) as executor:
        return lane.run(executor, "flow", {"value": value})


CHANGES: dict[str, tuple[Any, Any]] = {
    "list": (lambda: [2, 1], lambda value: value.sort()),
    "inside a list": (lambda: [{"a": 1}], lambda value: value[0].update(a=2)),
    "bytearray": (lambda: bytearray(b"a"), lambda value: value.extend(b"b")),
    "ndarray": (lambda: np.zeros(3), lambda value: value.__setitem__(0, 1.0)),
    "frame": (lambda: pd.DataFrame({"a": [1]}), lambda value: value.__setitem__("b", [2])),
    "tensor": (lambda: torch.zeros(2), lambda value: value.add_(1)),
    "gradient": (lambda: torch.ones(2, requires_grad=True), lambda value: (value * 3).sum().backward()),
}


@pytest.mark.parametrize("lane", LANES, ids=repr)
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_nobody_declares_fails_its_step_and_names_it(name: str, lane: Lane):
    """R14, R16: the step and the key are named, and what came before keeps its records."""
    make, change = CHANGES[name]
    result = run_of(a_flow("read", "change", "read"), [changing(change), READ], make(), lane)

    assert [record.status for record in result.execution_log] == ["ok", "failed"]
    with pytest.raises(SharedMutationError) as raised:
        result.raise_for_failure()
    error = raised.value
    assert (error.tool_name, error.step_index, error.key, error.other) == ("change", 1, "value", None)
    assert error.sentence == "Step 'change' changed 'value' in place, which its tool 'change' does not declare."


def test_a_declared_change_is_none():
    """R14: `mutates` is the permission."""
    flow = a_flow("change", "read")
    run_of(flow, [changing(list.sort, mutates=["value"]), READ], [2, 1]).raise_for_failure()


def test_by_default_nobody_looks():
    """R14: it costs as much as reading the values twice."""
    with FlowExecutor(tools=[changing(list.sort), READ], flows=[a_flow("change", "read")]) as executor:
        executor.execute_flow("flow", {"value": [2, 1]}).raise_for_failure()


def made_inside(outputs: list[str] | None, *steps: str) -> Flow:
    make = FlowStep(tool_name="make")
    reads = {"input_mapping": {"value": "made"}}
    return Flow(
        name="flow",
        description="",
        outputs=outputs,
        on_context_collision="overwrite",
        steps=[make, *(FlowStep(tool_name=name, **reads) for name in steps)],  # type: ignore[arg-type]
    )


MADE: Any = create_model("Made", made=(Native[list], ...))
MAKE = a_tool("make", lambda given: {"made": [2, 1]}, output_schema=MADE)


@pytest.mark.parametrize(
    ("outputs", "steps", "status"),
    [
        (["out"], ("change",), "ok"),
        (["out"], ("read", "change"), "ok"),
        (["out"], ("change", "read"), "failed"),
        (["made"], ("change",), "failed"),
        (None, ("change",), "failed"),
    ],
)
def test_what_nobody_looks_at_any_more_may_be_changed(outputs: Any, steps: Any, status: str):
    """R14: only values that come from outside, that others read later or that are outputs of the flow are watched."""
    assert run_of(made_inside(outputs, *steps), [MAKE, changing(list.sort), READ], 0).status == status


def test_a_copy_that_validation_has_made_is_the_tools_own():
    """R14: of a typed list the tool has another one, which it may change."""
    typed: Any = create_model("Typed", value=(list[int], ...))
    tool = a_tool("change", lambda given: given.value.sort() or {}, input_schema=typed)
    value = [2, 1]
    run_of(a_flow("change", "read"), [tool, READ], value).raise_for_failure()
    assert value == [2, 1]


def test_with_validation_once_such_a_list_is_shared_and_watched():
    """R14: what is taken as it is, is no copy."""
    typed: Any = create_model("Typed", value=(list[int], ...))
    load = a_tool("load", lambda _: {"value": [2, 1]}, input_schema=Out, output_schema=typed)
    tool = a_tool("change", lambda given: given.value.sort() or {}, input_schema=typed)
    flow = Flow(
        name="flow",
        description="",
        validation="once",
        steps=[FlowStep(tool_name="load"), FlowStep(tool_name="change")],
    )
    with FlowExecutor(tools=[load, tool], flows=[flow], on_shared_mutation="detect") as executor:
        result = executor.execute_flow("flow", {})
    assert result.execution_log[1].error_type == "SharedMutationError"


@pytest.mark.parametrize("validation", ["boundaries", "once"])
def test_an_input_that_is_handed_back_is_validated_again_where_changes_are_looked_for(validation: Any):
    """R14: a change that nobody declares cannot let an invalid value pass the output of the step that makes it."""
    typed: Any = create_model("Typed", value=(list[int], ...))

    def spoil(given: Any) -> dict[str, Any]:
        given.value.append("bad")
        return {"value": given.value}

    load = a_tool("load", lambda _: {"value": [2, 1]}, input_schema=Out, output_schema=typed)
    change = a_tool("change", spoil, input_schema=typed, output_schema=typed)
    take = a_tool("take", lambda given: {"out": len(given.value)}, input_schema=typed)
    flow = a_flow("load", "change", "take", validation=validation, outputs=["out"])
    with FlowExecutor(tools=[load, change, take], flows=[flow], on_shared_mutation="detect") as executor:
        result = executor.execute_flow("flow", {})

    assert [record.status for record in result.execution_log] == ["ok", "failed"]
    assert result.execution_log[1].error_type == "SchemaValidationError"


def test_a_failed_attempt_that_has_changed_its_input_is_not_tried_again():
    """R20: the next attempt would see what the first one left."""

    def spoil(given: Any) -> dict[str, Any]:
        given.value.append(1)
        raise OSError("down")

    flow = Flow(
        name="flow",
        description="",
        steps=[FlowStep(tool_name="change", retry=RetryPolicy(max_retries=3, backoff_seconds=0))],
    )
    value: list[int] = []
    result = run_of(flow, [a_tool("change", spoil)], value)

    assert result.execution_log[0].error_type == "SharedMutationError"
    assert value == [1]


def test_a_step_inside_a_sub_flow_is_named_itself():
    """R27: the input of a sub-flow is looked at by the flow around it."""
    inner = a_flow("change", name="inner")
    outer = Flow(name="flow", description="", steps=[FlowStep(flow_name="inner"), FlowStep(tool_name="read")])
    with FlowExecutor(tools=[changing(list.sort), READ], flows=[inner, outer], on_shared_mutation="detect") as executor:
        result = executor.execute_flow("flow", {"value": [2, 1]})
    with pytest.raises(SharedMutationError, match="Step 'change' changed 'value' in place"):
        result.raise_for_failure()


@pytest.mark.parametrize("change", [None, list.sort])
def test_shared_inputs_of_a_map_are_watched(change: Any):
    """R28: every item gets the same one."""
    takes: Any = create_model("Takes", value=(Native[list], ...), n=(int, ...))
    tool = a_tool("change", lambda given: (change and change(given.value)) or {}, input_schema=takes)
    flow = Flow(name="flow", description="", steps=[FlowStep(tool_name="change", map_over="ns", map_as="n")])
    with FlowExecutor(tools=[tool], flows=[flow], on_shared_mutation="detect") as executor:
        result = executor.execute_flow("flow", {"value": [2, 1], "ns": [1, 2]})
    assert result.status == ("ok" if change is None else "failed")


def test_what_has_no_fingerprint_is_not_watched():
    """R29: an object whose content nobody can name cannot be compared."""
    run_of(
        a_flow("change"), [changing(lambda value: setattr(value, "x", 1))], type("Own", (), {})()
    ).raise_for_failure()


def test_a_declared_conflict_fails_its_step_when_the_run_gets_there():
    """R14, R16: like every compile error; strict executors refuse the flow."""
    flow = DAGFlow(
        name="flow",
        version="1.0.0",
        description="",
        steps=[
            DAGFlowStep(step_id="c", tool_name="change", output_mapping={"a": "out"}),
            DAGFlowStep(step_id="r", tool_name="read", output_mapping={"b": "out"}),
        ],
    )
    tools = [changing(list.sort, mutates=["value"]), READ]
    value = [2, 1]
    with FlowExecutor(tools=tools, flows=[flow]) as executor, pytest.raises(SharedMutationError, match=r"'c'.*'r'"):
        executor.execute_flow("flow", {"value": value}).raise_for_failure()
    assert value == [2, 1]


def test_the_setting_has_two_values():
    """Misuse: a mistyped setting is refused when the executor is made."""
    with pytest.raises(ValueError, match="on_shared_mutation has to be 'ignore' or 'detect', not 'raise'"):
        FlowExecutor(on_shared_mutation="raise")  # type: ignore[arg-type]
