"""The process lane: what crosses the border, what comes back, and what is left of a worker that is no more."""

from __future__ import annotations

import gc
import importlib
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from chainweaver import (
    CancellationToken,
    Chunk,
    DAGFlow,
    DAGFlowStep,
    ExecutionResult,
    Flow,
    FlowCancelledError,
    FlowExecutor,
    FlowStep,
    InMemoryCheckpointer,
    LaneUnsupportedError,
    RetryPolicy,
    Tool,
    tool,
)
from chainweaver.executor.processes import Trust
from chainweaver.lanes import processes
from chainweaver.lanes.processes import Processes
from chainweaver.lanes.sharing import Sharing, unload
from chainweaver.objects.shared import same_bytes
from chainweaver.objects.store import ObjectRef
from tests.conftest import PROOF
from tests.lanes import crew
from tests.lanes.kit import wait_until
from tests.lanes.table import PROCESS_LANES, Lane, borrowed_workers

lanes = pytest.mark.parametrize("lane", PROCESS_LANES, ids=repr)
BIG = 1_000_000  # float64: 8 MB


def flow_of(*tools: Tool, **options: Any) -> Flow:
    steps = [FlowStep(tool_name=tool.name, **options) for tool in tools]
    return Flow(name="flow", description="of a test", steps=steps, on_context_collision="overwrite")


@contextmanager
def crewed(*tools: Tool, flow: Any = None, **options: Any) -> Iterator[tuple[FlowExecutor, Processes]]:
    """An executor with these tools in one flow, and workers that others have started."""
    options = {"lane": "process", **options}
    executor = FlowExecutor(tools=tools, flows=[flow or flow_of(*tools)], **options)
    with executor, borrowed_workers(executor) as workers:
        yield executor, workers


def ran(tool: Tool, given: dict[str, Any], flow: Any = None, **options: Any) -> ExecutionResult:
    with crewed(tool, flow=flow, **options) as (executor, _):
        return executor.execute_flow("flow", given)


def final(result: ExecutionResult) -> dict[str, Any]:
    """The outputs of a run that ended well."""
    result.raise_for_failure()
    assert result.final_output is not None
    return result.final_output


def failure_of(result: ExecutionResult) -> Exception:
    with pytest.raises(Exception) as caught:
        result.raise_for_failure()
    return caught.value


# ---- where a tool runs, and what it knows


@lanes
def test_a_step_runs_in_another_process(lane: Lane) -> None:
    """Lanes: `lane="process"` of a run, under every driver."""
    with crewed(crew.pid, lane=None) as (executor, workers):
        found = final(lane.run(executor, "flow", {"n": 1}, lane="process"))["pid"]
        assert found != os.getpid()
        assert found in workers.pids


def test_a_tool_names_the_process_lane_for_itself() -> None:
    """Lanes: the other tools of the flow stay where they are."""
    mine = Tool(name="mine", description="in a process", input_schema=crew.Number, output_schema=crew.Numbered,
                fn=crew.plus_one, lane="process")  # fmt: skip
    with crewed(mine, crew.pid, lane=None) as (executor, workers):
        before = workers.traffic
        assert executor.execute_flow("flow", {"n": 1}).final_output == {"n": 2, "pid": os.getpid(), "seen": ""}
        assert workers.traffic > before


@pytest.mark.parametrize(
    "tool",
    [crew.plain, crew.by_function_name(), crew.SHELF[0], crew.EXECUTOR.get_tool("registered")],
    ids=lambda tool: tool.name,
)
def test_a_worker_finds_a_tool_by_any_name_of_its_module(tool: Tool) -> None:
    """Lanes: the tool, its function, its place in a list, or in an executor of the module."""
    assert ran(tool, {"n": 4}).success


@pytest.mark.parametrize("tools", [(crew.short, crew.long), (crew.long, crew.short)], ids=["short first", "long first"])
def test_two_tools_around_one_function_get_their_own_models(tools: tuple[Tool, ...]) -> None:
    """R10: a worker knows a tool by its name, and not by its function."""
    with FlowExecutor(tools=tools, lane="process", process_workers=1) as executor:
        found = {}
        for tool in tools:
            executor.registry.register_flow(flow_of(tool), overwrite=True)
            found[tool.name] = final(executor.execute_flow("flow", {"x": 1}))["seen"]
    assert found == {"short": "Short -", "long": "Long 5"}


def test_a_callable_that_cannot_be_hashed_is_a_tool_like_any_other() -> None:
    """Lanes: what has a name is found, whatever it is."""
    assert final(ran(crew.adding, {"n": 1}))["n"] == 4


MODULE = """
from chainweaver import tool

@tool(output="x")
def changing(n: int) -> str:
    return said()

def said() -> str:
    return "{}"
"""


@pytest.fixture
def changing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Path]]:
    """A module that can be edited, with its file."""
    path = tmp_path / "changing_tools.py"
    path.write_text(MODULE.format("old"), "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("changing_tools"), path
    sys.modules.pop("changing_tools", None)


def test_a_tool_that_was_reloaded_runs_its_new_code(changing: tuple[Any, Path]) -> None:
    """AGENTS: what was registered meanwhile is seen by the next run, in workers as well; the old one is refused."""
    module, path = changing
    old = module.changing
    with FlowExecutor(tools=[old], flows=[flow_of(old)], lane="process", process_workers=1) as executor:
        assert final(executor.execute_flow("flow", {"n": 1}))["x"] == "old"
        path.write_text(MODULE.format("quite new"), "utf-8")
        importlib.reload(module)
        executor.register_tool(module.changing)
        assert final(executor.execute_flow("flow", {"n": 1}))["x"] == "quite new"
        pids = executor._bind().resources.processes.pids
        assert final(executor.execute_flow("flow", {"n": 1}))["x"] == "quite new"
        assert executor._bind().resources.processes.pids == pids
        executor.register_tool(old)
        with pytest.raises(LaneUnsupportedError, match="has another tool of its name now, as after a reload"):
            executor.execute_flow("flow", {"n": 1})


def test_a_run_that_began_before_a_reload_does_not_run_the_new_code(changing: tuple[Any, Path]) -> None:
    """R16: its plan has the old tool, which no worker finds any more."""
    module, _ = changing

    @tool(output="n", lane="inline")
    def reload(n: int) -> int:
        importlib.reload(module)
        return n

    tools = reload, module.changing
    with FlowExecutor(tools=tools, flows=[flow_of(*tools)], lane="process", process_workers=1) as executor:
        record = executor.execute_flow("flow", {"n": 1}).execution_log[-1]
    assert record.error_type == "ProcessBorderError"
    assert "has another tool of its name now, as after a reload" in str(record.error_message)


@lanes
def test_a_tool_without_a_name_is_refused_before_anything_starts(lane: Lane) -> None:
    """R15: code is not sent; the error says which tool it is and why it cannot be found."""
    local = crew.made_inside()
    with crewed(crew.pid, local, lane=None) as (executor, _):
        with pytest.raises(
            LaneUnsupportedError, match=r"'inside' \(it is made inside a function, and module"
        ) as caught:
            lane.run(executor, "flow", {"n": 1}, lane="process")
        assert "pid" not in str(caught.value)
    with crewed(crew.pid, local) as (executor, _), pytest.raises(LaneUnsupportedError, match="'inside'"):
        lane.run(executor, "flow", {"n": 1})


@lanes
def test_the_context_of_a_call_and_context_variables_go_along(lane: Lane) -> None:
    """R5, R32: ids of the run and the step, and variables that the tool's module has a name for."""
    token = crew.REQUEST.set("mine")
    other = crew.UNSENDABLE.set(threading.Lock())
    try:
        with crewed(crew.about, lane=None) as (executor, _):
            result = lane.run(executor, "flow", {"n": 1}, lane="process")
    finally:
        crew.REQUEST.reset(token)
        crew.UNSENDABLE.reset(other)
    assert final(result)["about"] == {
        "run": result.trace_id,
        "step": ("0",),
        "attempt": 1,
        "key": f"{result.trace_id}/0",
        "request": "mine",
        "unsendable": None,
    }


def test_what_a_tool_sets_in_a_context_variable_is_for_that_call_alone() -> None:
    """R5: the next call of the same worker begins with what its own caller has."""
    with crewed(crew.set_request, crew.about) as (executor, _):
        assert final(executor.execute_flow("flow", {"n": 1}))["about"]["request"] == "nobody's"


def test_a_context_variable_of_one_run_is_not_seen_by_the_next() -> None:
    """R5: a worker keeps nothing that a caller had set, also where the next one has set nothing."""
    with crewed(crew.tenant) as (executor, _):

        def run(*tenants: str) -> str:
            for one in tenants:
                crew.TENANT.set(one)
            return str(final(executor.execute_flow("flow", {"n": 1}))["who"])

        assert [copy_context().run(run, "alice"), copy_context().run(run)] == ["alice", "nobody"]


# ---- what goes wrong


def test_an_exception_comes_back_with_its_type_its_text_and_its_traceback() -> None:
    """R18: the original is the cause, and says where in the worker it was raised."""
    result = ran(crew.fail, {"n": 3})
    [record] = result.execution_log
    assert (record.error_type, record.error_cause) == ("FlowExecutionError", "LookupError")
    assert "LookupError: no 3" in str(record.error_message)
    cause = failure_of(result).__cause__
    assert type(cause) is LookupError
    assert cause.args == ("no 3",)
    assert "in deeper" in str(cause.__cause__)


def test_an_exception_that_cannot_be_sent_is_told_with_its_text() -> None:
    """R16: a typed failure with the class and the words of the exception."""
    error = failure_of(ran(crew.refuse, {"n": 3}))
    assert type(error).__name__ == "ProcessBorderError"
    assert "Refusal: refused: it is 3" in str(error)
    assert "in refuse" in str(error.__cause__)


def test_a_stop_iteration_is_a_failure_like_any_other() -> None:
    """R18: it may end no generator of ours."""
    assert ran(crew.stop_iterating, {"n": 3}).execution_log[0].error_cause == "StopIteration"


@pytest.mark.parametrize(
    ("tool", "given", "border", "field"),
    [(crew.hold, {"n": 1}, "output", "lock"), (crew.passed, {"data": threading.Lock()}, "input", "data")],
    ids=["output", "input"],
)
def test_a_value_that_cannot_be_sent_is_named(tool: Tool, given: dict[str, Any], border: str, field: str) -> None:
    """R16: the field that is in the way, and the worker is as good as before."""
    with crewed(tool) as (executor, workers):
        pids = workers.pids
        error: Any = failure_of(executor.execute_flow("flow", given))
        assert (type(error).__name__, error.border, error.field) == ("ProcessBorderError", border, field)
        assert "cannot pickle" in str(error)
        assert not pids or workers.pids == pids


def test_outputs_are_validated_by_the_owner() -> None:
    """R10: what a tool returns in a worker passes the same gate."""
    [record] = ran(crew.wrong, {"n": 3}).execution_log
    assert record.error_type == "SchemaValidationError"


@pytest.mark.parametrize(
    ("tool", "given", "told", "exit_code", "name"),
    [
        (crew.leave, {"code": 7}, "ended in the middle of the call, with exit code 7", 7, None),
        (crew.kill, {"number": int(signal.SIGKILL)}, "was killed by signal SIGKILL", -signal.SIGKILL, "SIGKILL"),
        (crew.crash, {"n": 0}, "was killed by signal SIGSEGV", -signal.SIGSEGV, "SIGSEGV"),
    ],
    ids=["os._exit", "SIGKILL", "segfault"],
)
def test_the_death_of_a_worker_is_a_failure_of_its_step(
    tool: Tool, given: dict[str, Any], told: str, exit_code: int, name: str | None
) -> None:
    """R16: with exit code or signal, and the pool goes on."""
    with crewed(tool, crew.pid, flow=flow_of(tool)) as (executor, workers):
        error: Any = failure_of(executor.execute_flow("flow", given))
        assert (type(error).__name__, error.exit_code, error.signal) == ("WorkerDiedError", exit_code, name)
        assert told in str(error)
        executor.registry.register_flow(flow_of(crew.pid), overwrite=True)
        assert final(executor.execute_flow("flow", {"n": 1}))["pid"] in workers.pids


KILLS = 100 if PROOF else 20


@pytest.mark.slow
def test_no_run_is_lost_when_workers_are_killed_one_after_the_other() -> None:
    """A retry policy gets another worker, every time."""
    flow = flow_of(crew.die_at_first, retry=RetryPolicy(max_retries=1, backoff_seconds=0))
    with crewed(crew.die_at_first, flow=flow) as (executor, _):
        for number in range(KILLS):
            result = executor.execute_flow("flow", {"n": number})
            assert result.final_output == {"n": number, "survived": number + 2}
            assert result.execution_log[0].retry_count == 1


def test_a_worker_that_died_while_it_was_idle_costs_nobody_a_call() -> None:
    """R16: its death is nobody's failure."""
    with crewed(crew.pid) as (executor, workers):
        first = final(executor.execute_flow("flow", {"n": 1}))["pid"]
        pids = workers.pids
        for one in pids:
            os.kill(one, signal.SIGKILL)
        for one in pids:
            wait_until_gone(one)
        assert final(executor.execute_flow("flow", {"n": 1}))["pid"] != first


# ---- time


@lanes
def test_a_busy_loop_is_killed_at_its_limit_and_the_next_step_runs(lane: Lane) -> None:
    """R22: 0.2 s on a loop of 10 s ends within 0.6 s."""
    steps = [FlowStep(tool_name="spin", on_error="skip"), FlowStep(tool_name="pid")]
    flow = Flow(name="flow", description="late", steps=steps)
    with crewed(crew.spin, crew.pid, flow=flow, lane=None) as (executor, workers):
        lane.run(executor, "flow", {"n": 1}, lane="process")  # whatever has to be imported, is
        result = lane.run(executor, "flow", {"n": 1}, lane="process")
        spin, after = result.execution_log
        assert (spin.error_type, spin.status, after.status) == ("ToolTimeoutError", "skipped", "ok")
        assert "abandoned" not in str(spin.error_message)
        assert 190 <= spin.duration_ms < 600
        assert final(result)["pid"] in workers.pids


def test_starting_a_worker_is_no_time_of_the_tool() -> None:
    """R22: a limit that is shorter than the start of a process holds for the call alone."""
    quick = Tool(name="quick", description="quick", input_schema=crew.Number, output_schema=crew.Numbered,
                 fn=crew.plus_one, timeout_seconds=0.05)  # fmt: skip
    with FlowExecutor(tools=[quick], flows=[flow_of(quick)], lane="process", process_workers=1) as executor:
        assert executor.execute_flow("flow", {"n": 1}).success


def test_a_call_that_waits_for_a_worker_keeps_its_limit() -> None:
    """R22: waiting is part of the time of a call, where it is not for the start of a process."""
    hurried = Tool(name="hurried", description="hurried", input_schema=crew.Number, output_schema=crew.Numbered,
                   fn=crew.plus_one, timeout_seconds=0.1)  # fmt: skip
    steps = [DAGFlowStep(step_id=name, tool_name=name) for name in ("sleep", "hurried")]
    flow = DAGFlow(name="flow", version="1", description="one worker", steps=steps, on_failure="finish")
    options: dict[str, Any] = {"lane": "process", "process_workers": 1, "max_step_concurrency": 2}
    with FlowExecutor(tools=[crew.sleep, hurried], flows=[flow], **options) as executor:
        result = executor.execute_flow("flow", {"seconds": 1.5, "n": 1})
        assert [one.error_type for one in result.execution_log] in (
            [None, "ToolTimeoutError"],
            [None, None],  # it had the worker first
        )


def test_waiting_for_a_worker_and_the_call_share_one_limit() -> None:
    """R22: a call that has waited for 0.4 of its 0.5 seconds has 0.1 left."""
    busy = FlowStep(tool_name="sleep")
    flows = [flow_of(crew.napping), Flow(name="busy", description="d", steps=[busy])]
    with FlowExecutor(tools=[crew.sleep, crew.napping], flows=flows, lane="process", process_workers=1) as executor:
        for name in ("busy", "flow"):
            executor.execute_flow(name, {"seconds": 0.0}).raise_for_failure()
        pool = executor._bind().resources.processes
        other = threading.Thread(target=executor.execute_flow, args=("busy", {"seconds": 0.4}))
        other.start()
        wait_until(lambda: not pool._idle)
        [record] = executor.execute_flow("flow", {"seconds": 0.4}).execution_log
        other.join()
    assert record.error_type == "ToolTimeoutError"
    assert 450 <= record.duration_ms < 700


@lanes
def test_a_cancelled_run_ends_its_worker(lane: Lane) -> None:
    """R23: at once, and not when the tool is done."""
    with crewed(crew.sleep, lane=None) as (executor, workers):
        lane.run(executor, "flow", {"seconds": 0.0}, lane="process")
        before = set(workers.pids)
        token = CancellationToken()
        timer = threading.Timer(0.1, token.cancel)
        timer.start()
        began = time.monotonic()
        with pytest.raises(FlowCancelledError):
            lane.run(executor, "flow", {"seconds": 30.0}, lane="process", cancel_token=token)
        assert time.monotonic() - began < 5
        wait_until(lambda: len(before - set(workers.pids)) == 1)


@lanes
def test_a_deadline_ends_a_call_in_a_worker(lane: Lane) -> None:
    """R22: the rest of the run is a limit like any other."""
    with crewed(crew.sleep, lane=None) as (executor, _):
        lane.run(executor, "flow", {"seconds": 0.0}, lane="process")
        with pytest.raises(FlowCancelledError) as caught:
            lane.run(executor, "flow", {"seconds": 30.0}, lane="process", deadline=time.time() + 0.2)
        assert caught.value.deadline_exceeded


def test_an_interrupt_ends_the_worker_of_the_call() -> None:
    """R17: Ctrl-C leaves the call, and nothing goes on behind its back."""
    with crewed(crew.sleep) as (executor, workers):
        executor.execute_flow("flow", {"seconds": 0.0})
        before = set(workers.pids)
        timer = threading.Timer(0.2, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            executor.execute_flow("flow", {"seconds": 30.0})
        wait_until(lambda: len(before - set(workers.pids)) == 1)


def test_what_a_tool_has_started_ends_with_its_worker(tmp_path: Path) -> None:
    """R22: a child process of a call that was killed is killed as well."""
    flow = flow_of(crew.leave_child, timeout_seconds=0.5)
    note = tmp_path / "pid"
    assert ran(crew.leave_child, {"path": str(note)}, flow).execution_log[0].error_type == "ToolTimeoutError"
    wait_until_gone(int(note.read_text("ascii")))


# ---- objects


def test_a_large_object_is_seen_and_not_sent() -> None:
    """8 MB reach a worker in a few hundred bytes, read-only, and the result comes back as cheaply."""
    data = np.random.default_rng(1).random(BIG)
    with crewed(crew.total, crew.write_into, crew.doubled) as (executor, workers):
        executor.execute_flow("flow", {"data": data})
        before = workers.traffic
        result = executor.execute_flow("flow", {"data": data})
        assert workers.traffic - before < 4096
        found = final(result)
        assert found["total"] == data.sum()
        assert "read-only" in found["wrote"]
        assert np.array_equal(found["data"], data * 2)


@pytest.mark.parametrize(
    "data",
    [
        np.arange(BIG),
        pd.DataFrame({"x": np.arange(float(BIG)), "n": np.arange(BIG)}),
        pd.DataFrame(
            {
                "text": [f"number {n}" for n in range(50_000)],
                "day": pd.date_range("2020", periods=50_000),
                "x": np.arange(50_000.0),
            }
        ),
        pd.DataFrame(
            {"n": pd.array([1, None] * 50_000, dtype="Int64"), "day": pd.period_range("2020", periods=100_000)}
        ),
        pd.Series(np.arange(BIG), name="n"),
        pd.Index(np.arange(BIG)),
    ],
    ids=["array", "frame", "frame of texts and dates", "extension types", "series", "index"],
)
def test_an_object_that_passes_through_comes_back_as_itself(data: Any) -> None:
    """R14: the object that a worker hands back unchanged is the one that it was given."""
    assert final(ran(crew.passed, {"data": data}))["out"] is data


def test_a_frame_that_a_worker_has_changed_is_another_one() -> None:
    """R14: an equal description is not enough."""
    data = pd.DataFrame({"n": pd.array([1, None] * 50_000, dtype="Int64")})
    with crewed(crew.renamed) as (executor, _):
        found = final(executor.execute_flow("flow", {"data": data}))["out"]
    assert (list(found.columns), list(data.columns)) == (["m"], ["n"])


def test_a_value_that_was_changed_between_two_steps_is_sent_as_it_is_now() -> None:
    """R14: an in-place change is visible in the worker, although the object was packed before."""
    data = np.ones(BIG)
    flow = flow_of(crew.total, crew.zero_first, crew.total)
    with crewed(crew.total, crew.zero_first, flow=flow) as (executor, _):
        assert final(executor.execute_flow("flow", {"data": data}))["total"] == BIG - 1
        data[1] = 0
        assert final(executor.execute_flow("flow", {"data": data}))["total"] == BIG - 2


def test_an_array_that_a_worker_has_given_another_shape_comes_back_with_it() -> None:
    """R14: shape and type of an array can be changed where its items cannot."""
    data = np.arange(float(BIG))
    out = final(ran(crew.reshaped, {"data": data}))["out"]
    assert out.shape == (2, BIG // 2)
    assert data.shape == (BIG,)


def test_an_array_that_is_given_another_shape_between_two_steps_is_sent_with_it() -> None:
    """R14: the same on the way to a worker, for what another worker has made."""
    flow = flow_of(crew.doubled, crew.reshape_here, crew.shape)
    with crewed(crew.doubled, crew.reshape_here, crew.shape, flow=flow) as (executor, _):
        assert final(executor.execute_flow("flow", {"data": np.ones(BIG)}))["shape"] == [2, BIG // 2]


sizes = pytest.mark.parametrize("size", [10, BIG], ids=["small", "large"])


@sizes
def test_a_tool_that_declares_it_changes_a_copy_of_its_own_in_a_worker(size: int) -> None:
    """Lanes: arrays of any size, also inside of lists; nobody else sees it."""
    data = np.ones(size)
    with crewed(crew.add_one) as (executor, _):
        for given in (data, [data], data):
            found = final(executor.execute_flow("flow", {"data": given}))["found"]
            assert (found[0] if given is data else found[0][0]) == 2
            assert data[0] == 1


@sizes
def test_a_tool_that_does_not_declare_it_is_told_what_to_do(size: int) -> None:
    """Lanes: arrays are read-only in a worker, whatever their size, and the error says why and what helps."""
    [record] = ran(crew.add_undeclared, {"data": np.ones(size)}).execution_log
    assert record.error_cause == "ValueError"
    assert "read-only" in str(record.error_message)
    assert "name the input in mutates= of the tool" in str(record.error_message)


@sizes
def test_what_comes_back_from_a_worker_can_be_changed(size: int) -> None:
    """Lanes: as on any other lane; the next worker sees the change, and the one before does not."""
    flow = flow_of(crew.doubled, crew.add_here, crew.total)
    with crewed(crew.doubled, crew.add_here, crew.total, flow=flow) as (executor, _):
        found = final(executor.execute_flow("flow", {"data": np.ones(size)}))
        assert (found["found"], found["total"]) == (3, 3 * size)
        found["data"][0] = 0
        again = final(executor.execute_flow("flow", {"data": found["data"]}))
        assert again["total"] == 7 * size - 6


def test_a_library_that_writes_past_the_flags_of_an_array_harms_nobody() -> None:
    """Lanes: what comes back lies over memory that may be written, so that no signal ends the program."""
    torch = pytest.importorskip("torch")
    data = np.ones(BIG)
    made = final(ran(crew.doubled, {"data": data}))["data"]
    tensor = torch.from_numpy(made)
    tensor += 1
    assert made[0] == 3


@pytest.mark.parametrize("make", [bytes, bytearray], ids=["bytes", "bytearray"])
def test_large_bytes_travel_in_shared_memory_too(make: Any) -> None:
    """What needs no library at all."""
    data = make(b"abcd" * 250_000)
    with crewed(crew.passed) as (executor, workers):
        executor.execute_flow("flow", {"data": data})
        before = workers.traffic
        assert final(executor.execute_flow("flow", {"data": data}))["out"] == data
        assert workers.traffic - before < 4096


@pytest.mark.parametrize("nested", [lambda data: {"deep": [data, data]}, lambda data: (data, {"again": data})])
def test_large_objects_inside_of_others_are_shared_and_stay_one(nested: Any) -> None:
    """An array that is there twice is packed once, and is one array on the other side."""
    data = np.arange(BIG)
    with crewed(crew.passed) as (executor, workers):
        before = workers.traffic
        found = final(executor.execute_flow("flow", {"data": nested(data)}))["out"]
        assert workers.traffic - before < 4096
        assert repr(found) == repr(nested(data))


def test_memory_is_given_back_when_nobody_holds_the_object() -> None:
    """R37: the segment of a value ends with the value, without the collector of garbage."""
    gc.disable()
    try:
        with crewed(crew.doubled) as (executor, workers):
            store = workers.sharing.store
            before = store.stats().nbytes
            data = np.ones(BIG)
            result = executor.execute_flow("flow", {"data": data})
            assert store.stats().nbytes - before == 2 * data.nbytes
            del result, data
            assert store.stats().nbytes == before
    finally:
        gc.enable()


def test_a_view_outlives_the_pool() -> None:
    """Memory is tied to the last array over it, and not to who made it."""
    with FlowExecutor(tools=[crew.doubled], flows=[flow_of(crew.doubled)], lane="process") as executor:
        found = final(executor.execute_flow("flow", {"data": np.ones(BIG)}))["data"][10:]
    assert found.sum() == 2 * (BIG - 10)


def test_results_that_are_kept_do_not_use_up_the_descriptors_of_the_program() -> None:
    """Lanes: from a quarter of what the system grants on, objects are copied instead."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(os.listdir("/proc/self/fd"))
    with crewed(crew.doubled) as (executor, _):
        limit = before + 400
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            kept = [final(executor.execute_flow("flow", {"data": np.full(50_000, n)}))["data"] for n in range(250)]
            assert len(os.listdir("/proc/self/fd")) - before < limit // 4 + 50
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert [one[-1] for one in kept] == [2 * n for n in range(250)]
        kept[-1][0] = 7
        assert final(executor.execute_flow("flow", {"data": kept[-1]}))["data"][0] == 14


def test_a_descriptor_that_did_not_arrive_is_told_as_such() -> None:
    """Lanes: where the program has no room for another open file, that is what the message says."""
    sharing = Sharing(0)
    ref = sharing.lend(np.ones(10), Trust())

    with pytest.raises(OSError, match="1 of its descriptors did not arrive: too many open files"):
        unload(sharing.take, [(cast("ObjectRef", ref), True)], [])


def test_objects_may_be_collected_while_the_store_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """AGENTS: the collector of garbage lets go of objects anywhere, and never takes locks in another order."""
    sharing, trust = Sharing(0), Trust()
    again, garbage = np.ones(1000), [np.zeros(1000)]
    for one in (again, *garbage):
        sharing.lend(one, trust)
    del one
    storing, pinning, pin = threading.Event(), threading.Event(), sharing.store.pin

    class Collecting(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            storing.set()
            pinning.wait(0.3)
            garbage.clear()
            super().__setitem__(key, value)

    def pinned(ref: ObjectRef) -> None:
        pinning.set()
        pin(ref)

    monkeypatch.setattr(sharing.store, "_held", Collecting(sharing.store._held))
    monkeypatch.setattr(sharing.store, "pin", pinned)
    threads = [threading.Thread(target=sharing.lend, args=(one, trust), daemon=True) for one in (np.ones(9), again)]
    threads[0].start()
    assert storing.wait(5)
    threads[1].start()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)


def test_what_kept_an_object_may_be_collected_while_the_object_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """AGENTS: the collector of garbage lets go of objects anywhere, and a reference that is lent is held by then."""
    sharing, value, run = Sharing(0), bytearray(b"abcd" * 100), Trust()
    sharing.store.release(sharing.lend(value, run) or pytest.fail("it is lent"))
    circle: list[Any] = [run]
    circle.append(circle)
    del run, circle

    def collecting(*buffers: Any) -> bool:
        gc.collect()
        return same_bytes(*buffers)

    monkeypatch.setattr("chainweaver.lanes.sharing.same_bytes", collecting)
    ref = sharing.lend(value, Trust())

    assert ref is not None
    assert bytes(sharing.store.buffers(ref)[0]) == value


# ---- the pool and its size


@lanes
def test_steps_overlap_in_as_many_workers_as_there_may_be(lane: Lane) -> None:
    """R4: two calls at a time in two workers, and in one worker one after the other."""
    steps = [DAGFlowStep(step_id=name, tool_name="meet", output_mapping={name: "met"}) for name in ("a", "b")]
    flow = DAGFlow(name="flow", version="1", description="side by side", steps=steps)
    with crewed(crew.meet, flow=flow, lane=None, max_step_concurrency=2) as (executor, _):
        found = final(lane.run(executor, "flow", {"folder": str(Path(mkdtemp()))}, lane="process"))
        assert found["a"] != found["b"]


def test_a_worker_that_was_killed_at_an_import_is_given_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R16: one that takes for ever to import a module is on its way out, and not idle."""
    code = "import time; from chainweaver.lanes import worker\nif worker.IS_WORKER: time.sleep(60)\n"
    (tmp_path / "endless_tools.py").write_text(code + MODULE.format("never"), "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(processes, "START_S", 0.3)
    endless = importlib.import_module("endless_tools").changing
    with FlowExecutor(tools=[endless], flows=[flow_of(endless)], lane="process", process_workers=1) as executor:
        [record] = executor.execute_flow("flow", {"n": 1}).execution_log
        assert "importing module 'endless_tools' took more than" in str(record.error_message)
        assert executor._bind().resources.processes.pids == []


def test_a_worker_that_takes_its_time_to_end_holds_up_nobody() -> None:
    """Lanes: others are forked meanwhile."""
    with FlowExecutor(tools=[crew.pid], flows=[flow_of(crew.pid)], lane="process", process_workers=1) as executor:
        executor.execute_flow("flow", {"n": 1}).raise_for_failure()
        pool = executor._bind().resources.processes
        [worker] = pool._idle
        slow = threading.Thread(target=pool._starter._end, args=(worker, False))  # it was not told to end
        slow.start()
        began = time.monotonic()
        other = pool._starter.start(pool._settings(0))
        assert time.monotonic() - began < 0.5
        slow.join()
        other.end(kill=True)


# ---- what is printed


def test_what_a_tool_prints_is_in_the_record_of_its_step() -> None:
    """Lanes: both streams, children included, of calls that fail as well."""
    options: dict[str, Any] = {"lane": "process", "capture_output": True, "process_workers": 1}
    with FlowExecutor(tools=[crew.speak], flows=[flow_of(crew.speak)], **options) as executor:
        for number in (4, -4):
            [record] = executor.execute_flow("flow", {"n": number}).execution_log
            assert record.success == (number > 0)
            assert record.stdout == f"number {number}\nfrom a child\n"
            assert record.stderr == "careful\n"


def test_what_is_printed_is_captured_in_runs_that_go_on_and_in_replays() -> None:
    """R33, R35: a call is a call, whatever the run began with."""
    options: dict[str, Any] = {"lane": "process", "capture_output": True, "process_workers": 1}
    steps = [FlowStep(tool_name="refuse"), FlowStep(tool_name="speak")]
    flow = Flow(name="flow", description="d", steps=steps, on_context_collision="overwrite")
    willing = {"yes": False}

    @tool(output="asked", lane="inline")
    def refuse(n: int) -> int:
        if not willing["yes"]:
            raise OSError("not now")
        return n

    with FlowExecutor(
        tools=[refuse, crew.speak], flows=[flow], checkpointer=InMemoryCheckpointer(), **options
    ) as executor:
        failed = executor.execute_flow("flow", {"n": 4})
        willing["yes"] = True
        resumed = executor.resume_flow(failed.trace_id)
        assert final(resumed)["out"] == 4
        assert resumed.execution_log[1].stdout == "number 4\nfrom a child\n"
        assert executor.replay_flow(resumed).all_steps_match


def test_what_a_tool_prints_about_a_chunk_is_captured() -> None:
    """Lanes: a step that takes its input in chunks shows the last call, as a step that is tried again does."""
    options: dict[str, Any] = {"lane": "process", "capture_output": True, "process_workers": 1}
    step = FlowStep(tool_name="weigh", chunk=Chunk(input="data", rows=2, combine="sum"))
    flow = Flow(name="flow", description="d", steps=[step])
    with FlowExecutor(tools=[crew.weigh], flows=[flow], **options) as executor:
        result = executor.execute_flow("flow", {"data": [1, 2, 3]})
    assert final(result)["heavy"] == 6
    assert result.execution_log[0].stdout == "weighs 1\n"


def test_a_combine_tool_that_no_worker_finds_is_refused_before_the_run() -> None:
    """Lanes: like any other tool that a worker would have to call."""

    @tool(output="most", lane="process")
    def largest(heavy: list[int]) -> int:
        return max(heavy)

    step = FlowStep(tool_name="weigh", chunk=Chunk(input="data", rows=2, combine="largest"))
    flow = Flow(name="flow", description="d", steps=[step])
    with (
        FlowExecutor(tools=[crew.weigh, largest], flows=[flow]) as executor,
        pytest.raises(LaneUnsupportedError, match="lane 'process' of tool 'largest'"),
    ):
        executor.execute_flow("flow", {"data": [1, 2, 3]})


def test_without_capture_records_say_nothing_of_it(capfd: pytest.CaptureFixture[str]) -> None:
    """Lanes: it goes where the output of the program goes."""
    options: dict[str, Any] = {"lane": "process", "process_workers": 1}
    with FlowExecutor(tools=[crew.speak], flows=[flow_of(crew.speak)], **options) as executor:
        [record] = executor.execute_flow("flow", {"n": 4}).execution_log
    assert (record.stdout, record.stderr) == (None, None)
    assert "number 4" in capfd.readouterr().out


# ---- the pool


def test_workers_end_with_their_executor_and_begin_again_when_needed() -> None:
    """R40: close() ends processes; a call that comes later makes new ones."""
    with FlowExecutor(tools=[crew.pid], flows=[flow_of(crew.pid)], lane="process") as executor:
        first = final(executor.execute_flow("flow", {"n": 1}))["pid"]
    wait_until_gone(first)
    second = final(executor.execute_flow("flow", {"n": 1}))["pid"]
    assert second != first
    executor.close()
    wait_until_gone(second)


def test_an_executor_that_is_forgotten_leaves_no_worker() -> None:
    """R40: also where nobody closes it."""
    executor = FlowExecutor(tools=[crew.pid], flows=[flow_of(crew.pid)], lane="process")
    pid = final(executor.execute_flow("flow", {"n": 1}))["pid"]
    del executor
    gc.collect()
    wait_until_gone(pid)


@pytest.mark.slow
def test_workers_can_be_programs_of_their_own() -> None:
    """Lanes: where nothing can be forked, each worker is started anew; calls, deaths and ends are the same."""
    tools: list[Tool] = [crew.passed, crew.die_at_first, crew.spin]
    retry = RetryPolicy(max_retries=1, backoff_seconds=0)
    steps = [FlowStep(tool_name="passed"), FlowStep(tool_name="die_at_first", retry=retry),
             FlowStep(tool_name="spin", on_error="skip")]  # fmt: skip
    flow = Flow(name="flow", description="spawned", steps=steps)
    executor = FlowExecutor(tools=tools, flows=[flow], lane="process")
    pool = executor._bind().resources._processes = Processes(1, forks=False)
    data = np.arange(BIG)
    with executor:
        result = executor.execute_flow("flow", {"n": 1, "data": data})
        pids = pool.pids
        assert [one.status for one in result.execution_log] == ["ok", "ok", "skipped"]
        assert final(result)["out"] is data
    for pid in pids:
        wait_until_gone(pid)


def test_a_forkserver_that_was_killed_is_started_again() -> None:
    """R16: its workers live on, and the next one comes from another."""
    pool = Processes(1)
    executor = FlowExecutor(tools=[crew.pid, crew.die_at_first], flows=[flow_of(crew.pid)], lane="process")
    executor._bind().resources._processes = pool
    with executor:
        first = final(executor.execute_flow("flow", {"n": 1}))["pid"]
        server: Any = pool._starter
        os.kill(server._process.pid, signal.SIGKILL)
        assert final(executor.execute_flow("flow", {"n": 1}))["pid"] == first
        os.kill(first, signal.SIGKILL)
        wait_until_gone(first)
        assert final(executor.execute_flow("flow", {"n": 1}))["pid"] != first


def wait_until_gone(pid: int) -> None:
    """Wait until there is no such process, or only what waits to be asked how it ended."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
            # Its files are closed with the last of its threads, and the first may be the first to end.
            threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z" and threads == 1:
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} is still there")
