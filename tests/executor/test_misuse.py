"""What a newcomer gets wrong first is answered with a sentence, where it was written."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest

from chainweaver import (
    BaseMiddleware,
    CancellationToken,
    DAGFlow,
    DAGFlowStep,
    DynamicParameterError,
    Flow,
    FlowExecutor,
    FlowStatus,
    FlowStep,
    InMemoryCheckpointer,
    InMemoryStepCache,
    InMemoryTraceStore,
    InputError,
    compile_flow,
    tool,
)
from chainweaver.observe import RedactedView, RedactionPolicy, TraceRecorder
from tests.executor.kit import Calls, Number, chain, linear, merged


@tool
def double(n: int) -> int:
    return 2 * n


FLOW = Flow(name="twice", description="Doubles.", steps=[FlowStep(tool_name="double")])


class Misspelt:
    def on_step_ended(self, context: Any) -> None:
        """A hook that nobody calls."""


class MisspeltBelowBase(BaseMiddleware):
    def on_flow_ends(self, context: Any) -> None:
        """A hook that nobody calls."""


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"max_step_concurrency": 0}, ValueError, "max_step_concurrency has to be at least 1, not 0."),
        ({"max_step_concurrency": "4"}, TypeError, "max_step_concurrency has to be a whole number, not '4'."),
        ({"max_step_concurrency": 2.5}, TypeError, "max_step_concurrency has to be a whole number, not a float."),
        ({"max_step_concurrency": True}, TypeError, "max_step_concurrency has to be a whole number, not a bool."),
        (
            {"lane": "ray"},
            ValueError,
            "lane 'ray' is unknown; use 'inline', 'thread', 'process' or a name from lanes=.",
        ),
        (
            {"trace_values": "all"},
            ValueError,
            "trace_values has to be 'snapshot', 'reference' or 'summary', not 'all'.",
        ),
        ({"trace_copy_limit": -1}, ValueError, "trace_copy_limit has to be at least 0, not -1."),
        ({"lanes": ["mine"]}, TypeError, "lanes has to be a mapping of names to lanes, not a list."),
        (
            {"lanes": {"mine": 3}},
            TypeError,
            "lane 'mine' has to be an object with submit, not an int; for instance ThreadPoolExecutor().",
        ),
        (
            {"lanes": {"thread": ThreadPoolExecutor(1)}},
            ValueError,
            "lane 'thread' is one of ours; give the one in lanes= another name.",
        ),
        ({"tools": double}, TypeError, "tools has to be a list, not a FunctionTool."),
        ({"flows": FLOW}, TypeError, "flows has to be a list, not a Flow."),
        ({"middleware": BaseMiddleware()}, TypeError, "middleware has to be a list, not a BaseMiddleware."),
        (
            {"middleware": [BaseMiddleware]},
            TypeError,
            "middleware has to be objects that watch runs, not the class BaseMiddleware.",
        ),
        ({"middleware": [3]}, TypeError, "middleware has to be objects that watch runs, not an int."),
        (
            {"middleware": [Misspelt()]},
            TypeError,
            "middleware has to be objects that watch runs, and a Misspelt has none of the hooks on_flow_start, "
            "on_step_start, on_step_end, on_step_chunk, on_flow_end, around_step and around_run; "
            "'on_step_ended' may stand for 'on_step_end'.",
        ),
        (
            {"middleware": [MisspeltBelowBase()]},
            TypeError,
            "middleware has to be objects that watch runs, and a MisspeltBelowBase has none of the hooks "
            "on_flow_start, on_step_start, on_step_end, on_step_chunk, on_flow_end, around_step and around_run; "
            "'on_flow_ends' may stand for 'on_flow_end'.",
        ),
        ({"trace_recorder": 3}, TypeError, "trace_recorder has to be an object that watches runs, not an int."),
        (
            {"trace_recorder": InMemoryTraceStore()},
            TypeError,
            "trace_recorder has to be an object that watches runs, not an InMemoryTraceStore; "
            "a store gets its results from TraceRecorder(store).",
        ),
        ({"discover_plugins": "no"}, TypeError, "discover_plugins has to be True or False, not 'no'."),
        (
            {"checkpointer": "checkpoints"},
            TypeError,
            "checkpointer has to be an object with save, load and delete, not 'checkpoints'; "
            "for instance FileCheckpointer(path).",
        ),
        (
            {"step_cache": InMemoryStepCache},
            TypeError,
            "step_cache has to be an object with get and set, not the class InMemoryStepCache; "
            "for instance InMemoryStepCache().",
        ),
        (
            {"runtime": 3},
            TypeError,
            "runtime has to be an object with now_ns, wall_time and new_id, not an int; for instance Runtime().",
        ),
        (
            {"registry": [FLOW]},
            TypeError,
            "registry has to be an object with register_flow and snapshot, not a list; for instance FlowRegistry().",
        ),
    ],
)
def test_a_wrong_setting_is_refused_when_the_executor_is_made(
    settings: dict[str, Any], kind: type[Exception], message: str
):
    """Executor: a mistake in a setting does not wait for the first run."""
    with pytest.raises(kind) as caught:
        FlowExecutor(**settings)
    assert str(caught.value) == message


def test_middleware_that_is_added_is_checked_too():
    """Executor: None and classes watch nothing."""
    for wrong in (None, BaseMiddleware):
        with pytest.raises(TypeError, match="middleware has to be objects that watch runs"):
            FlowExecutor().add_middleware(wrong)


@pytest.mark.parametrize("watching", [BaseMiddleware(), RedactedView(BaseMiddleware(), RedactionPolicy())])
def test_middleware_that_has_nothing_to_say_yet_is_taken(watching: object):
    """Executor: hooks that do nothing are hooks, also behind a view."""
    assert FlowExecutor(tools=[double], flows=[FLOW], middleware=[watching]).execute_flow("twice", {"n": 1}).success


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        (("dir",), {}, TypeError, "store has to be an object with save, such as FileTraceStore(path), not 'dir'."),
        ((InMemoryTraceStore,), {}, TypeError, "store has to be an object with save, such as FileTraceStore(path), "),
        (
            (InMemoryTraceStore(),),
            {"only": "failed"},
            TypeError,
            "only has to be a function of a result, not 'failed'.",
        ),
        ((InMemoryTraceStore(),), {"sample": "a"}, TypeError, "sample has to be a number from 0 to 1, not 'a'."),
        ((InMemoryTraceStore(),), {"sample": 2}, ValueError, "sample has to be a number from 0 to 1, not 2."),
        ((InMemoryTraceStore(),), {"nested": "no"}, TypeError, "nested has to be True or False, not 'no'."),
    ],
)
def test_a_recorder_that_could_keep_nothing_is_refused(
    arguments: tuple[Any, ...], options: dict[str, Any], kind: type[Exception], message: str
):
    """R38: what would only be logged at the end of every run is said when the recorder is made."""
    with pytest.raises(kind) as caught:
        TraceRecorder(*arguments, **options)
    assert str(caught.value).startswith(message)


async def test_a_text_is_no_flag_of_a_call():
    """Executor: dry_run="false" and force="no" would count as true."""
    stopped = FLOW.model_copy(update={"name": "stopped", "status": FlowStatus.DISABLED})
    executor = FlowExecutor(tools=[double], flows=[FLOW, stopped], checkpointer=InMemoryCheckpointer())
    with pytest.raises(TypeError, match=r"dry_run has to be True or False, not 'false'\."):
        executor.execute_flow("twice", {"n": 1}, dry_run="false")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(TypeError, match=r"dry_run has to be True or False, not 'false'\."):
        await executor.execute_flow_async("twice", {"n": 1}, dry_run="false")  # type: ignore[arg-type]  # the same
    for call in (executor.execute_flow, executor.stream_flow, executor.stream_flow_async):
        with pytest.raises(TypeError, match=r"force has to be True or False, not 'no'\."):
            call("stopped", {"n": 1}, force="no")  # type: ignore[operator]  # the mistake under test
    with pytest.raises(TypeError, match=r"force has to be True or False, not 'no'\."):
        await executor.execute_flow_async("stopped", {"n": 1}, force="no")  # type: ignore[arg-type]  # the same
    with pytest.raises(TypeError, match=r"force has to be True or False, not 'no'\."):
        executor.resume_flow("0" * 32, force="no")  # type: ignore[arg-type]  # the mistake under test


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
    with pytest.raises(TypeError, match="a mapping of context keys to values, not a list"):
        executor.execute_flow("twice", [1])  # type: ignore[arg-type]  # the mistake under test


def test_a_model_as_input_says_how_to_make_a_mapping_of_it():
    """Executor: models are what tools take; flows take mappings."""
    executor = FlowExecutor(tools=[double], flows=[FLOW])
    with pytest.raises(TypeError, match=r"not a Number; use its \.model_dump\(\)"):
        executor.execute_flow("twice", Number(n=1))  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"deadline": "soon"}, TypeError, "deadline has to be seconds as time.time() gives them, not 'soon'."),
        ({"deadline": True}, TypeError, "deadline has to be seconds as time.time() gives them, not a bool."),
        (
            {"deadline": datetime(2030, 1, 1)},
            TypeError,
            "deadline has to be seconds as time.time() gives them, not a datetime; use its .timestamp().",
        ),
        ({"deadline": math.nan}, ValueError, "deadline has to be seconds as time.time() gives them, not nan."),
        ({"deadline": -math.inf}, ValueError, "deadline has to be seconds as time.time() gives them, not -inf."),
        (
            {"cancel_token": CancellationToken},
            TypeError,
            "cancel_token has to be a CancellationToken, not the class CancellationToken.",
        ),
        ({"cancel_token": threading.Event()}, TypeError, "cancel_token has to be a CancellationToken, not an Event."),
        (
            {"dynamic_params": ["token"]},
            TypeError,
            "dynamic_params has to be a mapping of names to values, not a list.",
        ),
        (
            {"lane": "ray"},
            ValueError,
            "lane 'ray' is unknown; use 'inline', 'thread', 'process' or a name from lanes=.",
        ),
    ],
)
async def test_a_wrong_option_of_a_call_is_refused_before_anything_starts(
    options: dict[str, Any], kind: type[Exception], message: str
):
    """Executor: every way to run a flow says in one sentence what an option has to be."""
    calls = Calls()
    store = InMemoryCheckpointer()
    executor = FlowExecutor(tools=[calls.tool("a")], flows=[chain("a")], checkpointer=store, delete_on_success=False)
    trace_id = executor.execute_flow("flow", {"n": 1}).trace_id

    for call in (executor.execute_flow, executor.stream_flow, executor.stream_flow_async):
        with pytest.raises(kind) as caught:
            call("flow", {"n": 1}, **options)
        assert str(caught.value) == message
    with pytest.raises(kind):
        await executor.execute_flow_async("flow", {"n": 1}, **options)
    with pytest.raises(kind):
        executor.resume_flow(trace_id, **options)
    with pytest.raises(kind):
        await executor.resume_flow_async(trace_id, **options)
    assert calls.counts == {"a": 1}


def test_a_deadline_that_never_comes_is_none():
    """Executor: `math.inf` is how one says never in numbers."""
    executor = FlowExecutor(tools=[double], flows=[FLOW])
    for never in (math.inf, 1e308):
        assert executor.execute_flow("twice", {"n": 1}, deadline=never).status == "ok"


def test_an_unknown_dynamic_parameter_is_an_input_error():
    """R13: all unknown names at once, what is known, and the nearest name."""
    flow = chain("a", dynamic_params=["token", "tenant"])
    calls = Calls()
    executor = FlowExecutor(tools=[calls.tool("a")], flows=[flow])
    with pytest.raises(DynamicParameterError) as caught:
        executor.execute_flow("flow", {"n": 1}, dynamic_params={"tokn": 1, "x": 2, "tenant": 3})
    assert isinstance(caught.value, InputError)
    assert str(caught.value).splitlines() == [
        "Flow 'flow' has no dynamic parameters 'tokn', 'x'.",
        "  where   flow 'flow' 0.1.0",
        "  known   token, tenant",
        "  fix     did you mean 'token'?",
    ]
    assert dict(calls.counts) == {}


def test_a_flow_without_dynamic_parameters_says_where_they_are_listed():
    """R13: the fix is in the flow."""
    executor = FlowExecutor(tools=[double], flows=[FLOW])
    with pytest.raises(DynamicParameterError, match="list them in the flow's dynamic_params"):
        executor.execute_flow("twice", {"n": 1}, dynamic_params={"token": 1})


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (
            FlowStep(tool_name="double"),
            "Schema validation failed for tool 'double' at step 0 (input): n: Field required.",
        ),
        (
            FlowStep(tool_name="double", input_mapping={"n": "n"}),
            "Input mapping of step 'double' reads unknown key 'n'.",
        ),
    ],
)
def test_a_dynamic_parameter_that_is_missing_is_asked_for_as_one(step: FlowStep, sentence: str):
    """R13: a context key would be the wrong remedy: it is shown in every record."""
    flow = linear(step, dynamic_params=["n"])
    around = linear(FlowStep(flow_name="flow", input_mapping={"m": 1}), name="around")
    executor = FlowExecutor(tools=[double], flows=[flow, around])
    for name in ("flow", "around"):
        lines = str(executor.execute_flow(name, {}).execution_log[0].error_message).splitlines()
        assert (lines[0], lines[-1]) == (
            sentence,
            "  fix     pass dynamic_params={'n': ...}, or --param n=...; "
            "a flow that runs this one has to list the name as well",
        )


def test_a_run_is_resumed_by_its_trace_id():
    """R33: passing the result says what to pass."""
    executor = FlowExecutor(tools=[double], flows=[FLOW], checkpointer=InMemoryCheckpointer())
    result = executor.execute_flow("twice", {"n": 1})
    with pytest.raises(TypeError, match="resumed by its trace id, not by an ExecutionResult itself"):
        executor.resume_flow(result)  # type: ignore[arg-type]  # the mistake under test


async def test_the_lane_of_a_call_is_the_default_lane_of_its_tools():
    """R22: a call may say where tools run that name no lane; the others stay where they are."""
    seen: dict[str, str] = {}

    @tool
    def anywhere(n: int) -> int:
        seen["anywhere"] = threading.current_thread().name
        return n

    @tool(lane="inline")
    def here(n: int) -> int:
        seen["here"] = threading.current_thread().name
        return n

    flow = linear(FlowStep(tool_name="anywhere"), FlowStep(tool_name="here"))
    me = threading.current_thread().name
    with FlowExecutor(tools=[anywhere, here], flows=[flow]) as executor:
        executor.execute_flow("flow", {"n": 1}, lane="thread")
        assert (seen["anywhere"] != me, seen["here"]) == (True, me)
        executor.execute_flow("flow", {"n": 1})
        assert seen == {"anywhere": me, "here": me}
        await executor.execute_flow_async("flow", {"n": 1})
        assert (seen["anywhere"] != me, seen["here"]) == (True, me)
        await executor.execute_flow_async("flow", {"n": 1}, lane="inline")
        assert seen == {"anywhere": me, "here": me}


def test_the_lane_of_a_call_may_be_one_that_the_user_brought():
    """R22: names from `lanes=` are known to calls as they are to tools."""
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:

        @tool
        def where(n: int) -> str:
            return threading.current_thread().name

        flow = linear(FlowStep(tool_name="where"))
        with FlowExecutor(tools=[where], flows=[flow], lanes={"mine": pool}) as executor:
            output = merged(executor.execute_flow("flow", {"n": 1}, lane="mine"))
            assert output["where"].startswith("mine")
            assert merged(executor.execute_flow("flow", {"n": 1}))["where"] == threading.current_thread().name


@pytest.mark.parametrize(("unsupported", "status", "step"), [("skip", "ok", "skipped"), ("abort", "failed", "failed")])
async def test_a_dry_run_never_does_the_real_thing(unsupported: Any, status: str, step: str):
    """R26: a tool that has no dry run is passed over or fails, on both lanes; the result says that it was one."""
    calls = Calls()
    executor = FlowExecutor(tools=[calls.tool("a")], flows=[chain("a")])
    options: dict[str, Any] = {"dry_run": True, "dry_run_unsupported": unsupported}
    for result in (
        executor.execute_flow("flow", {"n": 1}, **options),
        await executor.execute_flow_async("flow", {"n": 1}, **options),
    ):
        assert (result.status, result.dry_run, result.execution_log[0].status) == (status, True, step)
        assert "has no dry run" in str(result.execution_log[0].error_message)
    assert dict(calls.counts) == {}
    result = executor.execute_flow("flow", {"n": 1}, dry_run_unsupported=unsupported)
    assert (result.status, result.dry_run) == ("ok", False)


def test_a_step_that_reads_what_a_dry_run_does_not_have_says_so():
    """R26: not what the missing value did to whoever wanted to read it."""
    tools = [Calls().tool("a"), Calls().tool("b", dry_run_fn=lambda given: {"out": 5})]
    result = FlowExecutor(tools=tools, flows=[chain("a", "b")]).execute_flow("flow", {"n": 1}, dry_run=True)
    record = result.execution_log[1]
    assert (record.status, record.error_type) == ("skipped", "FlowExecutionError")
    assert str(record.error_message).startswith(
        "Tool 'b' failed at step 1: it reads what a step gives that has no dry run.\n"
    )


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


@pytest.mark.parametrize(
    ("given", "says", "fix"),
    [
        ({"m": 1}, "n: Field required", "give the flow a context key 'n', or map one with input_mapping"),
        ({"n": "x"}, "n: Input should be a valid integer", "map a value that fits, or convert it in a step before"),
    ],
)
def test_a_refused_input_says_where_what_and_what_to_do(given: dict[str, Any], says: str, fix: str) -> None:
    """R16: the commonest first mistakes are answered with a way out."""

    @tool(output="doubled")
    def double(n: int) -> int:
        return 2 * n

    flow = Flow(name="f", description="d", steps=[FlowStep(tool_name="double")])
    with FlowExecutor(tools=[double], flows=[flow]) as executor:
        [record] = executor.execute_flow("f", given).execution_log

    lines = str(record.error_message).splitlines()
    assert says in lines[0]
    assert lines[1:] == ["  where   flow 'f' 0.1.0, step 0", f"  fix     {fix}"]
