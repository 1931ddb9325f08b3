"""What may start, under which schemas, and what an executor remembers of its settings and of its tools."""

from __future__ import annotations

import inspect
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from chainweaver import (
    AsyncLaneUnsupportedError,
    BaseMiddleware,
    CostProfile,
    DAGFlowStep,
    DecisionPolicy,
    FlowCompileError,
    FlowCompositionError,
    FlowExecutor,
    FlowNotFoundError,
    FlowStatus,
    FlowStatusError,
    FlowStep,
    InMemoryCheckpointer,
    InMemoryStepCache,
    LaneUnsupportedError,
    RedactionPolicy,
    SchemaRefPolicy,
    SchemaValidationError,
    ToolNotFoundError,
    ToolSafetyContract,
    tool,
)
from chainweaver.runtime import Runtime
from tests.executor.kit import Calls, Out, chain, dag, linear, merged

HERE = "tests.executor.test_admission"


class Spy(BaseMiddleware):
    """Notes how often runs began."""

    def __init__(self) -> None:
        self.begun = 0

    def on_flow_start(self, context: Any) -> None:
        self.begun += 1


async def refused(executor: FlowExecutor, kind: type[Exception], **options: Any) -> list[Exception]:
    """The refusals of all ways to run a flow."""
    found: list[Exception] = []
    for call in (executor.execute_flow, executor.stream_flow, executor.stream_flow_async):
        with pytest.raises(kind) as caught:
            call("flow", {"n": 1}, **options)
        found.append(caught.value)
    with pytest.raises(kind) as caught:
        await executor.execute_flow_async("flow", {"n": 1}, **options)
    return [*found, caught.value]


# ---- structural faults


@pytest.mark.parametrize("status", [FlowStatus.NEEDS_REVIEW, FlowStatus.DISABLED])
async def test_a_flow_that_is_not_active_needs_force(status: FlowStatus):
    """R15: refused on every lane before anything starts; `force` runs it."""
    spy = Spy()
    flow = chain("a", status=status)
    executor = FlowExecutor(tools=[Calls().tool("a")], flows=[flow], middleware=[spy])
    for error in await refused(executor, FlowStatusError):
        assert status.value in str(error)
    assert spy.begun == 0
    assert executor.execute_flow("flow", {"n": 1}, force=True).status == "ok"
    assert (await executor.execute_flow_async("flow", {"n": 1}, force=True)).status == "ok"


async def test_an_unknown_flow_or_version_is_named():
    """R15: with what there is."""
    executor = FlowExecutor(tools=[Calls().tool("a")], flows=[chain("a")])
    for error in await refused(executor, FlowNotFoundError, version="7.0.0"):
        assert "7.0.0" in str(error)
        assert "0.1.0" in str(error)
    with pytest.raises(FlowNotFoundError, match="did you mean 'flow'"):
        executor.execute_flow("flwo", {})


def sub(flow_name: str, **options: Any) -> DAGFlowStep:
    return DAGFlowStep(step_id=flow_name, flow_name=flow_name, **options)


MISFITS: dict[str, tuple[str, list[Any], str]] = {
    "unknown flow": ("unknown_flow", [dag(sub("other"))], "'flow' calls 'other', which is not registered"),
    "unknown version": (
        "unknown_flow",
        [dag(sub("other", flow_version="2")), chain("a", name="other")],
        "'flow' calls 'other' 2, which is not registered",
    ),
    "cycle": ("cycle", [dag(sub("other")), dag(sub("flow"), name="other")], "'flow' -> 'other' -> 'flow'"),
    "depth": (
        "max_depth_exceeded",
        [dag(sub("b")), dag(sub("c"), name="b"), dag(sub("d"), name="c"), chain("a", name="d")],
        "'flow' -> 'b' -> 'c' -> 'd' is more than 2 flows deep",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
async def test_flows_that_do_not_fit_together_are_refused(case: str):
    """R15, R27: before anything starts, on every lane, also by force; nobody hears of a run."""
    reason, flows, words = MISFITS[case]
    calls, spy = Calls(), Spy()
    executor = FlowExecutor(tools=[calls.tool("a")], flows=flows, middleware=[spy], max_composition_depth=2)
    for options in ({}, {"force": True}):
        for error in await refused(executor, FlowCompositionError, **options):
            assert isinstance(error, FlowCompositionError)
            assert (error.flow_name, error.reason) == ("flow", reason)
            assert words in str(error)
    assert (dict(calls.counts), spy.begun) == ({}, 0)


async def test_a_sub_flow_that_is_not_active_needs_force():
    """R15, R27: the whole composition has to be active, however deep."""
    flows = [dag(sub("middle")), dag(sub("inner"), name="middle"), chain("a", name="inner", status=FlowStatus.DISABLED)]
    executor = FlowExecutor(tools=[Calls().tool("a")], flows=flows)
    for error in await refused(executor, FlowStatusError):
        assert "inner" in str(error)
        assert "it is a sub-flow of 'flow'" in str(error)
    assert executor.execute_flow("flow", {"n": 1}, force=True).status == "ok"


async def test_all_lanes_that_are_not_there_are_named_at_once():
    """R15: one message for everything that is in the way, with the class of the lane; tools of sub-flows included."""

    @tool(lane="ray")
    def far(n: int) -> int:
        return n

    @tool(lane="gpu")
    def near(n: int) -> int:
        return n

    flows = [
        dag(DAGFlowStep(step_id="near", tool_name="near"), sub("inner")),
        linear(FlowStep(tool_name="far"), name="inner"),
    ]
    executor = FlowExecutor(tools=[far, near], flows=flows)
    errors = await refused(executor, LaneUnsupportedError)

    assert [type(error) for error in errors] == [
        LaneUnsupportedError,
        LaneUnsupportedError,
        AsyncLaneUnsupportedError,
        AsyncLaneUnsupportedError,
    ]
    for error in errors:
        assert "lane 'gpu' of tool 'near'" in str(error)
        assert "lane 'ray' of tool 'far'" in str(error)


@pytest.mark.parametrize("needy", ["a", "b"])
async def test_a_tool_that_needs_approval_is_not_called_without_one(needy: str):
    """R16: nobody can be asked, so that is recorded; a fallback may come to be called as well."""
    asks = ToolSafetyContract(requires_approval=True)

    def broken(given: Any) -> Any:
        raise OSError("broken")

    calls = Calls()
    tools = [calls.tool("a", broken, safety=asks if needy == "a" else None)]
    tools.append(calls.tool("b", safety=asks if needy == "b" else None))
    flow = linear(FlowStep(tool_name="a", on_error="fallback:b" if needy == "b" else "fail"))
    executor = FlowExecutor(tools=tools, flows=[flow])
    for result in (executor.execute_flow("flow", {"n": 1}), await executor.execute_flow_async("flow", {"n": 1})):
        assert (result.status, result.execution_log[0].error_type) == ("failed", "ApprovalDeniedError")
    assert calls.counts[needy] == 0


def broken_flow() -> Any:
    return linear(
        FlowStep(tool_name="a"), FlowStep(tool_name="gone"), FlowStep(tool_name="a", input_mapping={"m": "n"})
    )


async def test_strict_compile_refuses_with_all_errors():
    """R15: every compile error of the flow, before anything starts."""
    calls = Calls()
    executor = FlowExecutor(tools=[calls.tool("a")], flows=[broken_flow()], strict_compile=True)
    for error in await refused(executor, FlowCompileError):
        assert isinstance(error, FlowCompileError)
        assert [one.issue_type for one in error.errors][:2] == ["missing_tool", "unknown_target_key"]
        assert "step 1 (gone), missing_tool" in str(error)
    assert dict(calls.counts) == {}


def test_without_it_what_comes_before_an_error_runs():
    """R16: a compile error is a step that fails when the run reaches it."""
    calls = Calls()
    result = FlowExecutor(tools=[calls.tool("a")], flows=[broken_flow()]).execute_flow("flow", {"n": 1})
    assert [(record.status, record.error_type) for record in result.execution_log] == [
        ("ok", None),
        ("failed", "ToolNotFoundError"),
    ]
    with pytest.raises(ToolNotFoundError, match="Tool 'gone' is not registered"):
        result.raise_for_failure()


# ---- the schemas of a flow


class Given(BaseModel):
    n: int
    m: int = Field(default=3, ge=0)


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int


class Final(BaseModel):
    out: int = Field(ge=10)


def executed(given: dict[str, Any], **facts: Any) -> Any:
    flow = linear(FlowStep(tool_name="a"), **facts)
    return FlowExecutor(tools=[Calls().tool("a")], flows=[flow]).execute_flow("flow", given)


def test_the_context_begins_with_the_validated_input():
    """R8: values are converted, defaults filled in, and keys that the schema does not name stay."""
    result = executed({"n": "1", "other": [1]}, input_schema_ref=f"{HERE}:Given")
    assert merged(result) == {"n": 1, "m": 3, "other": [1], "out": 2}
    assert result.initial_input == {"n": "1", "other": [1]}


def test_an_input_that_does_not_fit_is_recorded_before_the_first_step():
    """R8: at index -1, under the name of the flow, and nothing runs."""
    result = executed({"n": "many", "m": -1}, input_schema_ref=f"{HERE}:Given")
    [record] = result.execution_log
    assert (result.status, result.final_output, record.step_index, record.tool_name) == ("failed", None, -1, "flow")
    assert (record.error_type, record.error_code, record.success) == ("SchemaValidationError", "E004", False)
    assert record.inputs == {"n": "many", "m": -1}
    assert "n: Input should be a valid integer" in str(record.error_message)
    assert "m: Input should be greater than or equal to 0" in str(record.error_message)
    with pytest.raises(SchemaValidationError):
        result.raise_for_failure()


def test_a_schema_that_forbids_extras_refuses_them():
    """R8: then no key stays that it does not name."""
    result = executed({"n": 1, "other": 2}, input_schema_ref=f"{HERE}:Closed")
    assert "other: Extra inputs are not permitted" in str(result.execution_log[0].error_message)


@pytest.mark.parametrize("ref", ["output_schema_ref", "context_schema_ref"])
def test_an_output_that_does_not_fit_is_recorded_after_the_last_step(ref: str):
    """R13: at the number of steps; what was reached stays readable."""
    result = executed({"n": 1}, **{ref: f"{HERE}:Final"})
    step, border = result.execution_log
    assert (result.status, result.final_output) == ("failed", None)
    assert (step.status, border.step_index, border.tool_name) == ("ok", 1, "flow")
    assert border.inputs == {"n": 1, "out": 2}
    assert "out: Input should be greater than or equal to 10" in str(border.error_message)
    assert result.partial_output == {"n": 1, "out": 2}


@pytest.mark.parametrize("ref", ["output_schema_ref", "context_schema_ref"])
def test_a_schema_does_not_project(ref: str):
    """R13: it validates, and everything comes out."""
    assert merged(executed({"n": 10}, **{ref: f"{HERE}:Final"})) == {"n": 10, "out": 11}


def test_the_output_schema_is_held_against_the_projection():
    """R13: `outputs` first, the schema of the output after it, that of the context before."""
    both = {"output_schema_ref": f"{HERE}:Closed", "context_schema_ref": f"{HERE}:Final"}
    assert merged(executed({"n": 10}, outputs=["n"], **both)) == {"n": 10}
    assert executed({"n": 10}, **both).status == "failed"


def test_a_schema_that_cannot_be_found_is_recorded():
    """R16: an unresolvable reference fails the run at its border."""
    result = executed({"n": 1}, input_schema_ref="tests.executor.nowhere:Given")
    assert (result.status, result.execution_log[0].error_type) == ("failed", "SchemaRefPolicyError")


def test_outputs_project_in_the_order_in_which_they_are_named():
    """R13: `outputs` names what comes out; whatever else there is stays in `partial_output`."""
    result = executed({"n": 1, "x": 2}, outputs=["out", "x"])
    assert list(merged(result).items()) == [("out", 2), ("x", 2)]
    assert result.partial_output == {"n": 1, "x": 2, "out": 2}


@pytest.mark.parametrize(("policy", "level"), [("overwrite", logging.DEBUG), ("warn", logging.WARNING)])
def test_collisions_are_logged_once_per_run(policy: str, level: int, caplog: pytest.LogCaptureFixture):
    """R12: on the logger of the executor, at the level of the policy, with index, name and key."""
    caplog.set_level(logging.DEBUG, "chainweaver.executor")
    flow = linear(FlowStep(tool_name="a"), FlowStep(tool_name="a"), on_context_collision=policy)
    FlowExecutor(tools=[Calls().tool("a")], flows=[flow]).execute_flow("flow", {"n": 1})
    assert [(record.name, record.levelno, record.getMessage()) for record in caplog.records] == [
        ("chainweaver.executor", level, "Step 1 (a): context key 'out' overwritten")
    ]


# ---- tools and settings


def test_drift_is_reported_and_accepted():
    """Drift: tools that changed since a flow recorded them, in all versions; accepting records them anew."""

    class More(Out):
        more: int = 0

    calls = Calls()
    executor = FlowExecutor(tools=[calls.tool("a"), calls.tool("b")])
    for name, version in (("one", "1.0.0"), ("one", "2.0.0"), ("two", "1.0.0")):
        flow = chain("a", "b", name=name, version=version)
        executor.registry.register_flow(flow)
        executor.accept_drift(name, version=version)
    assert executor.get_drift_report() == []

    before = executor.get_tool("a").schema_hash
    executor.register_tool(calls.tool("a", output_schema=More))
    report = executor.get_drift_report()
    assert [(one.flow_name, one.tool_name, one.expected_hash) for one in report] == [
        (name, "a", before) for name in ("one", "one", "two")
    ]
    assert {one.actual_hash for one in report} == {executor.get_tool("a").schema_hash}

    changed = executor.accept_drift("one", version="1.0.0")
    assert changed.tool_schema_hashes == {name: executor.get_tool(name).schema_hash for name in "ab"}
    assert [one.flow_name for one in executor.get_drift_report()] == ["one", "two"]
    executor.accept_drift("one")
    assert [one.flow_name for one in executor.get_drift_report()] == ["two"]
    with pytest.raises(FlowNotFoundError):
        executor.accept_drift("three")


def test_accepting_drift_covers_fallbacks():
    """Drift: a fallback is a tool of the flow too."""
    calls = Calls()
    flow = linear(FlowStep(tool_name="a", on_error="fallback:b"), FlowStep(tool_name="gone"))
    executor = FlowExecutor(tools=[calls.tool("a"), calls.tool("b")], flows=[flow])
    assert set(executor.accept_drift("flow").tool_schema_hashes or {}) == {"a", "b"}


SETTINGS: dict[str, Any] = {
    "cost_profile": CostProfile(model_call_usd=0.01),
    "redaction_policy": RedactionPolicy(),
    "trace_recorder": Spy(),
    "middleware": [Spy()],
    "step_cache": InMemoryStepCache(),
    "checkpointer": InMemoryCheckpointer(),
    "delete_on_success": False,
    "decision_callback": lambda context: context.candidates[0],
    "decision_policy": DecisionPolicy(budget=3),
    "approval_callback": lambda context: True,
    "strict_safety": True,
    "max_side_effect_level": "read",
    "guardrail_callback": lambda context: None,
    "capability_hook": lambda context: {},
    "max_composition_depth": 4,
    "max_step_concurrency": 3,
    "lane": "thread",
    "lanes": {"mine": ThreadPoolExecutor(1)},
    "process_workers": 2,
    "min_shared_bytes": 1024,
    "placement": "spread",
    "capture_output": True,
    "runtime": Runtime(),
    "trace_values": "summary",
    "device_caches": "run_end",
    "trace_copy_limit": 7,
    "on_shared_mutation": "detect",
    "strict_compile": True,
    "schema_ref_policy": SchemaRefPolicy(allow_import=False),
}
NO_SETTINGS = {"registry", "tools", "flows", "discover_plugins"}  # they end up in the registry and in the tools


def test_every_setting_of_the_constructor_is_known_to_this_test():
    """Executor: a new setting joins SETTINGS, so that the test below sees whether it is kept."""
    parameters = inspect.signature(FlowExecutor).parameters
    assert set(parameters) - NO_SETTINGS == set(SETTINGS)
    for name, value in SETTINGS.items():
        assert parameters[name].default != value


def test_an_executor_with_replaced_tools_keeps_every_setting(monkeypatch: pytest.MonkeyPatch):
    """Executor: registry, other tools and all settings are the same; the tools of these names are others."""
    calls, harmless = Calls(), ToolSafetyContract()
    tools = [calls.tool(name, safety=harmless) for name in "ab"]
    first = FlowExecutor(tools=tools, flows=[chain("a", "b")], **SETTINGS)
    added = Spy()
    first.add_middleware(added)
    given: dict[str, Any] = {}
    make = FlowExecutor.__init__

    def noting(self: FlowExecutor, *args: Any, **options: Any) -> None:
        given.update(inspect.signature(make).bind(self, *args, **options).arguments)
        make(self, *args, **options)

    monkeypatch.setattr(FlowExecutor, "__init__", noting)
    replaced = calls.tool("b", lambda given: {"out": 100}, safety=harmless)
    second = first.with_replaced_tools([replaced])

    assert given["registry"] is first.registry is second.registry
    expected = {**SETTINGS, "middleware": (*SETTINGS["middleware"], added)}
    assert {name: given[name] for name in SETTINGS} == expected
    assert second.registered_tools == {"a": first.get_tool("a"), "b": replaced}
    assert first.get_tool("b") is not replaced
    assert merged(second.execute_flow("flow", {"n": 1}))["b_out"] == 100
    assert (added.begun, SETTINGS["middleware"][0].begun) == (1, 1)
    first.close()
    second.close()


def test_replacing_with_what_is_no_tool_is_refused():
    """Executor: as at the constructor."""
    with pytest.raises(TypeError, match="put @tool above the function"):
        FlowExecutor().with_replaced_tools([len])  # type: ignore[list-item]  # the mistake under test


def test_registered_tools_are_a_copy():
    """Executor: changing the dict changes nothing."""
    executor = FlowExecutor(tools=[Calls().tool("a")])
    executor.registered_tools.clear()
    assert list(executor.registered_tools) == ["a"]
    executor.register_tool(Calls().tool("abc"))
    with pytest.raises(ToolNotFoundError, match="did you mean 'abc'") as caught:
        executor.get_tool("abd")
    assert caught.value.known == ("a", "abc")


def test_middleware_comes_and_goes():
    """R38: an object that was added watches the next run, one that was removed does not."""
    one, two = Spy(), Spy()
    executor = FlowExecutor(tools=[Calls().tool("a")], flows=[chain("a")], middleware=[one])
    for change in (lambda: None, lambda: executor.add_middleware(two), lambda: executor.remove_middleware(one)):
        change()
        executor.execute_flow("flow", {"n": 1})
    assert (one.begun, two.begun) == (2, 2)
    executor.remove_middleware(two)
    executor.execute_flow("flow", {"n": 1})
    assert (one.begun, two.begun) == (2, 2)
    with pytest.raises(ValueError, match="is no middleware of this executor"):
        executor.remove_middleware(two)


def test_an_executor_is_a_context_manager_and_can_be_closed_twice():
    """R40: leaving the block releases what calls have made; closing again does nothing."""
    with FlowExecutor(tools=[Calls().tool("a")], flows=[chain("a")]) as executor:
        executor.close()
        assert executor.execute_flow("flow", {"n": 1}).status == "ok"
    executor.close()
