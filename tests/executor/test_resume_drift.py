"""What has changed since a run was broken off: executed steps may not have, all others may."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from chainweaver import (
    CheckpointDriftError,
    DAGFlowStep,
    ExecutionSnapshot,
    Flow,
    FlowExecutor,
    FlowStatusError,
    FlowStep,
    InMemoryCheckpointer,
    RetryPolicy,
    Tool,
    compile_flow,
    tool,
)
from tests.executor.kit import Calls, Out, chain, crashed, dag, linear, merged


class More(Out):
    more: int = 0


ROOT = Path(__file__).parents[2]


class Broken:
    """A run of a, b, c that crashed in c.

    Attributes:
        calls: Of its tools.
        trace_id: The run.
    """

    def __init__(self) -> None:
        self.calls = Calls(last=2)
        self.tools = [self.calls.tool(name) for name in "abcd"]
        self.flow = chain(*"abc")
        self.store = InMemoryCheckpointer()
        self.trace_id = crashed(self.executor(), {"n": 0})
        self.calls.last = None

    def executor(self, flow: Any = None, tools: list[Tool] | None = None) -> FlowExecutor:
        """An executor that knows these, and all the rest as it was."""
        by_name = {tool.name: tool for tool in [*self.tools, *(tools or [])]}
        return FlowExecutor(tools=by_name.values(), flows=[flow or self.flow], checkpointer=self.store)

    def with_steps(self, *steps: FlowStep, **facts: Any) -> Any:
        """The flow with other steps at these positions; None: as it was."""
        before = self.flow.steps
        return linear(*(step or before[at] for at, step in enumerate(steps)), **facts)


def changed(step: FlowStep, **facts: Any) -> FlowStep:
    return step.model_copy(update=facts)


def refusal(executor: FlowExecutor, trace_id: str) -> str:
    """The sentence with which a resume is refused."""
    with pytest.raises(CheckpointDriftError) as caught:
        executor.resume_flow(trace_id)
    assert caught.value.trace_id == trace_id
    return str(caught.value)


def test_what_has_not_run_yet_may_change_freely():
    """R33: another mapping, another tool, a new step at the end, a new description: the run goes on with them."""
    broken = Broken()
    a, b, c = broken.flow.steps
    flow = linear(
        a, b, changed(c, tool_name="d"), FlowStep(tool_name="c", input_mapping={"n": "c_out"}), description="New."
    )
    assert merged(broken.executor(flow).resume_flow(broken.trace_id)) == {
        "n": 0, "a_out": 1, "b_out": 2, "c_out": 3, "out": 4,
    }  # fmt: skip
    assert broken.calls.counts == {"a": 1, "b": 1, "d": 1, "c": 1}


def test_a_tool_that_does_something_else_with_equal_schemas_is_no_drift():
    """R33: the finished steps keep the outputs that they had; the rest runs with the new function."""
    broken = Broken()
    tools = [broken.calls.tool(name, lambda given: {"out": given.n + 100}) for name in "abc"]
    assert merged(broken.executor(tools=tools).resume_flow(broken.trace_id))["c_out"] == 102


CHANGES: dict[str, Callable[[FlowStep], FlowStep]] = {
    "mapping": lambda step: changed(step, input_mapping={"n": "n"}),
    "output mapping": lambda step: changed(step, output_mapping={"other": "out"}),
    "on_error": lambda step: changed(step, on_error="skip"),
    "fallback": lambda step: changed(step, on_error="fallback:d"),
    "decision": lambda step: changed(step, decision_candidates=("b", "d")),
    "contract": lambda step: changed(step, output_contract="tests.executor.kit:Out"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_executed_step_that_was_changed_is_named(change: Callable[[FlowStep], FlowStep]):
    """R33: whatever was changed about a step, its outputs may no longer be those that it would give."""
    broken = Broken()
    a, b, c = broken.flow.steps
    text = refusal(broken.executor(linear(a, change(b), c)), broken.trace_id)
    assert f"Run '{broken.trace_id}'" in text
    assert "the definition of executed step '1' changed" in text
    assert broken.calls.counts == {"a": 1, "b": 1}


MANNERS: dict[str, Callable[[FlowStep], FlowStep]] = {
    "retry": lambda step: changed(step, retry=RetryPolicy(max_retries=9)),
    "time limit": lambda step: changed(step, timeout_seconds=9),
}


@pytest.mark.parametrize("change", MANNERS.values(), ids=MANNERS)
def test_how_an_executed_step_would_be_called_now_is_no_change(change: Callable[[FlowStep], FlowStep]):
    """R33: it has answered, and its answer depends neither on retries nor on limits."""
    broken = Broken()
    a, b, c = broken.flow.steps
    assert merged(broken.executor(linear(a, change(b), c)).resume_flow(broken.trace_id))["c_out"] == 3
    assert broken.calls.counts == {"a": 1, "b": 1, "c": 1}


def test_an_executed_step_that_calls_another_tool_is_named():
    """R33: the message says which tool it was and which one it is."""
    broken = Broken()
    a, b, c = broken.flow.steps
    text = refusal(broken.executor(linear(a, changed(b, tool_name="d"), c)), broken.trace_id)
    assert "executed step '1' calls tool 'd' instead of 'b'" in text


def test_a_tool_whose_schemas_changed_is_named():
    """R33: what a step returned has to fit what its tool now promises."""
    broken = Broken()
    text = refusal(broken.executor(tools=[broken.calls.tool("b", output_schema=More)]), broken.trace_id)
    assert "tool 'b' of executed step '1': schema_hash changed" in text


def test_a_tool_with_a_new_version_of_its_author_is_named():
    """R33: `schema_version` is how an author says that old outputs no longer hold."""
    broken = Broken()
    text = refusal(broken.executor(tools=[broken.calls.tool("b", schema_version="2.0.0")]), broken.trace_id)
    assert "schema_hash changed" in text


def test_a_fallback_whose_schemas_changed_counts_too():
    """R33: the outputs of a step may be those of its fallback."""
    calls, store = Calls(last=1), InMemoryCheckpointer()
    flow = linear(FlowStep(tool_name="a", on_error="fallback:b"), FlowStep(tool_name="c"))

    def executor(**options: Any) -> FlowExecutor:
        tools = [calls.tool("a"), calls.tool("b", **options), calls.tool("c")]
        return FlowExecutor(tools=tools, flows=[flow], checkpointer=store)

    trace_id = crashed(executor(), {"n": 0})
    assert "executed step '0' changed" in refusal(executor(output_schema=More), trace_id)


def test_an_executed_tool_that_is_gone_is_named():
    """R33: its outputs cannot be brought back to their types."""
    broken = Broken()
    executor = FlowExecutor(
        tools=[tool for tool in broken.tools if tool.name != "b"], flows=[broken.flow], checkpointer=broken.store
    )
    assert "tool 'b' of executed step '1' is no longer registered" in refusal(executor, broken.trace_id)


def test_a_tool_that_is_gone_and_has_not_run_fails_its_step():
    """R16: as in a first run, it is recorded when the run reaches it."""
    broken = Broken()
    executor = FlowExecutor(tools=broken.tools[:2], flows=[broken.flow], checkpointer=broken.store)
    result = executor.resume_flow(broken.trace_id)
    assert (result.status, result.execution_log[-1].error_type) == ("failed", "ToolNotFoundError")


def test_an_executed_step_that_was_removed_is_named():
    """R33: in a DAG by its id."""
    calls, store = Calls(last=1), InMemoryCheckpointer()
    tools = [calls.tool("a"), calls.tool("b")]
    first = DAGFlowStep(step_id="first", tool_name="a", output_mapping={"x": "out"})
    second = DAGFlowStep(step_id="second", tool_name="b", depends_on=["first"])
    trace_id = crashed(FlowExecutor(tools=tools, flows=[dag(first, second)], checkpointer=store), {"n": 0})

    flow = dag(second.model_copy(update={"depends_on": []}))
    text = refusal(FlowExecutor(tools=tools, flows=[flow], checkpointer=store), trace_id)
    assert "executed step 'first' is no longer part of the flow" in text


def test_all_that_changed_is_named_at_once():
    """R33: who has to repair a flow sees everything in one message."""
    broken = Broken()
    a, b, c = broken.flow.steps
    flow = linear(changed(a, on_error="skip"), changed(b, tool_name="d"), c)
    text = refusal(broken.executor(flow), broken.trace_id)
    assert "executed step '0' changed" in text
    assert "calls tool 'd' instead of 'b'" in text


def test_the_stored_version_is_the_one_that_goes_on():
    """R33: a newer version of the flow does not take over."""
    broken = Broken()
    executor = broken.executor()
    executor.registry.register_flow(chain("d", version="9.0.0"))
    result = executor.resume_flow(broken.trace_id)
    assert (result.flow_version, result.status) == ("0.1.0", "ok")


def test_a_version_that_is_gone_is_named():
    """R33: the message says which versions there are."""
    broken = Broken()
    text = refusal(broken.executor(chain(*"abc", version="2.0.0")), broken.trace_id)
    assert "flow version changed: 'flow' 0.1.0 is gone, there is 2.0.0" in text
    assert "register 'flow' 0.1.0 again" in text


def test_a_flow_that_is_gone_is_named():
    """R33: without any version the flow is no longer registered."""
    broken = Broken()
    executor = FlowExecutor(tools=broken.tools, checkpointer=broken.store)
    assert "flow 'flow' 0.1.0 is no longer registered" in refusal(executor, broken.trace_id)


def test_force_goes_on_all_the_same():
    """R33: whoever knows that a change does no harm says so; finished steps keep their outputs."""
    broken = Broken()
    a, b, c = broken.flow.steps
    flow = linear(changed(a, on_error="skip"), changed(b, tool_name="d"), c)
    result = broken.executor(flow).resume_flow(broken.trace_id, force=True)
    assert merged(result) == {"n": 0, "a_out": 1, "b_out": 2, "c_out": 3}
    assert broken.calls.counts == {"a": 1, "b": 1, "c": 1}


def test_force_leaves_out_what_is_no_longer_part_of_the_flow():
    """R33: a removed step has no say any more."""
    broken = Broken()
    flow = linear(broken.flow.steps[0])
    assert merged(broken.executor(flow).resume_flow(broken.trace_id, force=True)) == {"n": 0, "a_out": 1}


def test_outputs_that_do_not_fit_are_refused_even_by_force(tmp_path: Path):
    """R34: what cannot come from the declared types is never passed on."""

    class Text(BaseModel):
        out: str

    broken = Broken()
    executor = broken.executor(tools=[broken.calls.tool("b", output_schema=Text)])
    with pytest.raises(
        CheckpointDriftError, match=r"outputs of step '1'.*should be of type 'str' and is of type 'int'"
    ):
        executor.resume_flow(broken.trace_id, force=True)


def test_a_skipped_step_that_may_not_be_skipped_any_more_runs():
    """R33: by force, a step that has to succeed now has no outcome to go on from."""
    faults = [OSError("busy")]
    calls, store = Calls(), InMemoryCheckpointer()

    def once(given: Any) -> dict[str, int]:
        if faults:
            raise faults.pop()
        return {"out": 5}

    def crash(given: Any) -> dict[str, int]:
        calls.last = 0
        return {"out": 0}

    tools = [calls.tool("a", once), calls.tool("b", crash), calls.tool("c")]
    steps = [
        FlowStep(tool_name="a", output_mapping={"a": "out"}, on_error="skip"),
        FlowStep(tool_name="b", output_mapping={"b": "out"}),
        FlowStep(tool_name="c", input_mapping={"n": {"$key": "a", "$default": 1}}),
    ]
    trace_id = crashed(FlowExecutor(tools=tools, flows=[linear(*steps)], checkpointer=store), {"n": 0})
    calls.last = None
    steps[0] = changed(steps[0], on_error="fail")
    executor = FlowExecutor(tools=tools, flows=[linear(*steps)], checkpointer=store)
    assert merged(executor.resume_flow(trace_id, force=True)) == {"n": 0, "a": 5, "b": 0, "out": 6}


def test_a_migration_adapts_the_snapshot_first():
    """R33: `migrate` gets what was stored and returns what to go on with; it is compared after that."""
    broken = Broken()
    seen: list[int] = []

    def migrate(snapshot: ExecutionSnapshot) -> ExecutionSnapshot:
        seen.append(snapshot.completed_steps)
        return snapshot.model_copy(update={"steps": snapshot.steps[:1]})

    a, b, c = broken.flow.steps
    executor = broken.executor(linear(a, changed(b, on_error="skip"), c))
    assert merged(executor.resume_flow(broken.trace_id, migrate=migrate))["c_out"] == 3
    assert seen == [2]
    assert broken.calls.counts == {"a": 1, "b": 2, "c": 1}


def test_a_migration_that_returns_nothing_is_told_so():
    """R33: forgetting the return is the mistake that everybody makes."""
    broken = Broken()
    with pytest.raises(TypeError, match="migrate has to return the ExecutionSnapshot to go on with, not None"):
        broken.executor().resume_flow(broken.trace_id, migrate=lambda snapshot: None)  # type: ignore[arg-type,return-value]  # the mistake under test


def test_a_flow_that_is_not_active_needs_force():
    """R33: the status of a flow counts for resumes as it does for first runs."""
    broken = Broken()
    executor = broken.executor(chain(*"abc", status="disabled"))
    with pytest.raises(FlowStatusError):
        executor.resume_flow(broken.trace_id)
    assert executor.resume_flow(broken.trace_id, force=True).status == "ok"


def test_the_order_in_which_a_mapping_is_written_is_no_change():
    """R33: a file that was written anew with sorted keys is the same flow."""
    calls, store = Calls(last=1), InMemoryCheckpointer()

    class Two(BaseModel):
        n: int
        m: int

    tools = [calls.tool("a", input_schema=Two), calls.tool("b")]

    def executor(mapping: dict[str, Any]) -> FlowExecutor:
        flow = linear(FlowStep(tool_name="a", input_mapping=mapping), FlowStep(tool_name="b"))
        return FlowExecutor(tools=tools, flows=[flow], checkpointer=store)

    trace_id = crashed(executor({"n": "n", "m": 2}), {"n": 0})
    calls.last = None
    assert executor({"m": 2, "n": "n"}).resume_flow(trace_id).status == "ok"


FINGERPRINT = """
from chainweaver import FlowStep, compile_flow
from tests.executor.kit import Calls, linear
step = FlowStep(tool_name="a", input_mapping={"n": {"one", "two", "three"}, "m": frozenset("abc")})
print(compile_flow(linear(step), [Calls().tool("a")]).plan.steps[0].fingerprint())
"""


def test_the_fingerprint_of_a_step_does_not_depend_on_the_hash_seed():
    """R33: a set in a mapping is the same set in the process that resumes."""
    told = {
        subprocess.run(
            [sys.executable, "-c", FINGERPRINT],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(told) == 1


def fingerprint(value: Any) -> str:
    """Of a step that is given this literal."""
    flow = linear(FlowStep(tool_name="a", input_mapping={"n": value}))
    return compile_flow(flow, [Calls().tool("a")]).plan.steps[0].fingerprint()


def test_values_of_different_types_are_different_definitions():
    """R33: what Python takes for equal a tool may tell apart."""
    assert len({fingerprint(value) for value in (1, True, 1.0, {"$literal": "1"}, None)}) == 5


def test_a_literal_without_content_is_known_by_its_type():
    """R33: a lock is another one in every process, and no reason to refuse a resume."""
    assert fingerprint(threading.Lock()) == fingerprint(threading.Lock()) != fingerprint(1)


# ---- sub-flows


def _composed(stumbles: list[bool]) -> tuple[FlowExecutor, str]:
    """An executor with a run that failed inside the first version of a sub-flow, which its step does not pin."""

    @tool
    def first(n: int) -> int:
        return n + 1

    @tool
    def second(first: int) -> int:
        if stumbles:
            stumbles.pop()
            raise OSError("down")
        return first * 2

    inner = Flow(name="inner", version="1.0.0", description="d", steps=[_named("first"), _named("second")])
    outer = Flow(name="outer", description="d", steps=[FlowStep(flow_name="inner")])
    executor = FlowExecutor(tools=[first, second], flows=[inner, outer], checkpointer=InMemoryCheckpointer())
    failed = executor.execute_flow("outer", {"n": 1})
    executor.registry.register_flow(
        Flow(name="inner", version="2.0.0", description="d", steps=[_named("second")]),
    )
    return executor, failed.trace_id


def _named(name: str) -> FlowStep:
    return FlowStep(tool_name=name)


def test_a_run_goes_on_with_the_sub_flow_that_it_began_with():
    """R33: a version that was registered since concerns new runs only, also where a step pins none."""
    executor, trace_id = _composed([True])
    with executor:
        result = executor.resume_flow(trace_id)
        anew = executor.execute_flow("outer", {"first": 5})

    assert result.final_output == {"n": 1, "first": 2, "second": 4}
    assert result.execution_log[0].sub_result.flow_version == "1.0.0"
    assert anew.execution_log[0].sub_result.flow_version == "2.0.0"


def test_a_run_whose_sub_flow_is_gone_says_which():
    """R33: it is not carried on with another version unless that is forced."""
    executor, trace_id = _composed([True])
    with executor:
        executor.registry.unregister_flow("inner", version="1.0.0")

        with pytest.raises(CheckpointDriftError, match=r"sub-flow 'inner' 1\.0\.0 is no longer registered"):
            executor.resume_flow(trace_id)
