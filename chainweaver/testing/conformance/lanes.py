"""The contract of lanes: every call has its own outcome, whatever runs beside it.

A lane is what users give in `FlowExecutor(lanes=...)`: an object with `submit(fn, *args)` that gives a
`concurrent.futures.Future`. What is submitted here are functions of this module, so that lanes in other processes can
take them; they meet and mark by files, so that it does not matter where they run.
"""

from __future__ import annotations

import contextlib
import contextvars
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from chainweaver.executor import FlowExecutor
from chainweaver.flow import DAGFlow, DAGFlowStep, RetryPolicy
from chainweaver.testing.conformance.contract import LIMIT_S, at_once
from chainweaver.tools import Tool

USER: contextvars.ContextVar[str] = contextvars.ContextVar("chainweaver_conformance_user", default="nobody")


class LaneFault(Exception):
    """Raised by calls that are to fail."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


class Number(BaseModel):
    """Inputs of the tools here."""

    n: int = 0
    desk: str = ""


class Out(BaseModel):
    """Outputs of the tools here."""

    out: int = 0


# ---- what is submitted


def give(*values: Any) -> Any:
    """The values themselves."""
    return values


def fail(code: int) -> None:
    """Raise."""
    raise LaneFault(code, "meant")


def leave(code: int) -> None:
    """Raise what nobody should catch."""
    raise SystemExit(code)


def nap(number: int, seconds: float) -> int:
    """The number, after a while."""
    time.sleep(seconds)
    return number


def mark(path: str) -> str:
    """Leave a mark that the call was made."""
    Path(path).touch()
    return path


def wait_for(path: str) -> bool:
    """Wait until there is a mark; False when nobody leaves it, or the desk is gone."""
    until_s = time.monotonic() + LIMIT_S
    while not Path(path).exists():
        if time.monotonic() > until_s or not Path(path).parent.exists():
            return False
        time.sleep(0.002)
    return True


def meet(mine: str, other: str) -> bool:
    """Leave a mark and wait for that of another call; False when the two never run at the same time."""
    mark(mine)
    return wait_for(other)


def add_one(given: Number) -> dict[str, int]:
    """One more."""
    return {"out": given.n + 1}


def fail_twice(given: Number) -> dict[str, int]:
    """Fail, and fail again, and then go well."""
    attempts = sorted(Path(given.desk).glob("attempt*"))
    if len(attempts) < 2:
        (Path(given.desk) / f"attempt{len(attempts)}").touch()
        raise LaneFault(len(attempts), "busy")
    return {"out": len(attempts)}


def fail_as_tool(given: Number) -> dict[str, int]:
    """Fail."""
    raise LaneFault(given.n, "meant")


def stay(given: Number) -> dict[str, int]:
    """Come back when there is a mark."""
    wait_for(f"{given.desk}/release")
    return {"out": 1}


class LaneConformance:
    """What every lane does. Override `make_lane`, and `close_lane` where `lane.shutdown()` is not the way.

    Attributes:
        workers: How many calls the lane runs at a time. 1: the clause about overlap has nothing to say.

    >>> class TestMine(LaneConformance):
    ...     def make_lane(self):
    ...         return ThreadPoolExecutor(2)
    >>> TestMine().test_a_value_comes_back()
    """

    workers: ClassVar[int] = 2

    def make_lane(self) -> Any:
        """A lane that is ready to take calls. Called once per clause; it may give the same lane every time."""
        raise NotImplementedError(f"{type(self).__name__} has to say how a lane is made: override make_lane().")

    def close_lane(self, lane: Any) -> None:
        """Give back what a lane holds. Called at the end of each clause."""
        shutdown = getattr(lane, "shutdown", None)
        if shutdown is not None:
            shutdown()

    @contextlib.contextmanager
    def opened(self) -> Iterator[Any]:
        """A lane for one clause."""
        lane = self.make_lane()
        try:
            yield lane
        finally:
            self.close_lane(lane)

    # ---- calls

    def test_a_value_comes_back(self) -> None:
        """`submit(fn, *args)` calls `fn(*args)`; the very objects where the call stays in this process."""
        with self.opened() as lane:
            rows = [1, {"a": (2, None)}]
            given = value_of(lane.submit(give, rows, "x", 3))
            assert given == (rows, "x", 3), f"fn(*args) gave {given!r}"
            assert not is_in_process(lane) or given[0] is rows, "a value that stays in the process is the object itself"
            assert value_of(lane.submit(give)) == (), "a call may have no arguments"

    def test_what_submit_gives_is_a_future(self) -> None:
        """It can be waited for, cancelled, and asked to call back, early and late."""
        with self.opened() as lane:
            future = lane.submit(give, 1)
            for method in ("result", "exception", "cancel", "cancelled", "done", "add_done_callback"):
                assert callable(getattr(future, method, None)), f"a future has {method}()"
            called = threading.Event()
            future.add_done_callback(lambda _: called.set())
            assert called.wait(LIMIT_S), "a callback is called when the call has ended"
            assert future.done(), "and then the future is done"
            late: list[Any] = []
            future.add_done_callback(late.append)
            assert late == [future], "a callback that comes late is called at once, with the future"

    def test_an_exception_keeps_its_type(self) -> None:
        """Retries are decided by it."""
        with self.opened() as lane:
            error = lane.submit(fail, 7).exception(LIMIT_S)
            assert type(error) is LaneFault, f"LaneFault was raised, and {type(error).__name__} came back"
            assert (error.code, error.args) == (7, (7, "meant")), "with its facts"

    def test_an_exception_of_any_kind_ends_its_call_and_no_other(self) -> None:
        """Also one that nobody should catch; the lane goes on."""
        with self.opened() as lane:
            error = lane.submit(leave, 3).exception(LIMIT_S)
            assert type(error) is SystemExit, f"SystemExit was raised, and {type(error).__name__} came back"
            for number in range(2 * self.workers):
                assert value_of(lane.submit(give, number)) == (number,), "calls after a failure run as before"

    def test_every_call_has_its_own_outcome(self) -> None:
        """Whatever the order in which calls end."""
        with self.opened() as lane:
            futures = [lane.submit(nap, number, 0.02 if number % 2 else 0.0) for number in range(12)]
            found = [value_of(future) for future in futures]
            assert found == list(range(12)), f"twelve calls gave {found}"

    def test_many_threads_may_submit(self) -> None:
        """One lane serves all runs of an executor."""
        with self.opened() as lane:

            def work(seed: int) -> None:
                for turn in range(10):
                    assert value_of(lane.submit(give, seed, turn)) == (seed, turn), "each thread has its own outcomes"

            at_once([lambda seed=seed: work(seed) for seed in range(4)])  # type: ignore[misc]  # seed is bound early

    def test_calls_overlap(self) -> None:
        """A second call begins while the first one runs; concerns lanes with several workers."""
        if self.workers < 2:
            return
        with self.opened() as lane, desk() as there:
            one = lane.submit(meet, f"{there}/one", f"{there}/other")
            other = lane.submit(meet, f"{there}/other", f"{there}/one")
            assert value_of(one), "the second call waits for the first one to end"
            assert value_of(other), "and so do they all"

    def test_a_call_that_was_cancelled_never_begins(self) -> None:
        """`cancel()` is True for what has not begun, and then it does not run; False for what has, and then it does."""
        with self.opened() as lane, desk() as there:
            blocking = [lane.submit(wait_for, f"{there}/release") for _ in range(2 * self.workers + 2)]
            queued = lane.submit(mark, f"{there}/queued")
            was_cancelled = queued.cancel()
            mark(f"{there}/release")
            for future in blocking:
                assert value_of(future), "calls before it run to their end"
            if not was_cancelled:
                value_of(queued)
            assert value_of(lane.submit(give, 1)) == (1,), "the lane goes on"
            time.sleep(0.05)  # for a lane that runs it all the same; one that keeps the contract has nothing to do
            ran = Path(f"{there}/queued").exists()
            assert ran != was_cancelled, "a call that was cancelled ran" if ran else "a call was lost"
            assert queued.cancelled() == was_cancelled, "the future says whether it was cancelled"

    # ---- flows

    def test_a_flow_runs_on_it_as_in_the_calling_thread(self) -> None:
        """Values, statuses, retries and errors, on the sync and on the async lane, at limit 1 and above."""
        with self.opened() as lane:
            for limit in (1, 4):
                told = [story_on(mark_, lane, limit) for mark_ in ("inline", "sync", "async")]
                assert told[1] == told[0], f"sync, limit {limit}: {told[1]} instead of {told[0]}"
                assert told[2] == told[0], f"async, limit {limit}: {told[2]} instead of {told[0]}"

    def test_context_variables_go_along(self) -> None:
        """Concerns lanes that stay in this process."""
        with self.opened() as lane:
            if not is_in_process(lane):
                return
            seen: list[str] = []

            def see(given: Number) -> dict[str, int]:
                seen.append(USER.get())
                return {}

            with FlowExecutor(tools=[tool_of("see", see)], flows=[fan("see")], lanes={"mine": lane}) as executor:
                for name in ("Ada", "Alan"):
                    token = USER.set(name)
                    try:
                        executor.execute_flow("lane", {"n": 1}).raise_for_failure()
                    finally:
                        USER.reset(token)
            assert seen == ["Ada", "Alan"], f"tools saw {seen}"

    def test_a_call_that_is_late_fails_its_step_and_holds_up_nobody(self) -> None:
        """The step ends at its limit; what comes later reaches nobody."""
        with self.opened() as lane, desk() as there:
            late = tool_of("stay", stay, timeout_seconds=0.2)
            with FlowExecutor(tools=[late], flows=[fan("stay")], lanes={"mine": lane}) as executor:
                began = time.monotonic()
                record = executor.execute_flow("lane", {"desk": there}).step("stay")
                took_s = time.monotonic() - began
            mark(f"{there}/release")
            assert record.error_type == "ToolTimeoutError", f"the step ended as {record.error_type or record.status}"
            assert took_s < LIMIT_S / 2, f"the run waited {took_s:.1f} s for a call with a limit of 0.2 s"


# ---- what the clauses use


def value_of(future: Future[Any]) -> Any:
    """What a call gave; it has to end well, and in time."""
    try:
        return future.result(LIMIT_S)
    except BaseException as exc:
        raise AssertionError(f"a call that has to end well ended with {type(exc).__name__}: {exc}") from exc


def is_in_process(lane: Any) -> bool:
    """Whether calls stay in this process: a pool of threads, or a lane that says so."""
    return bool(getattr(lane, "in_process", isinstance(lane, ThreadPoolExecutor)))


@contextlib.contextmanager
def desk() -> Iterator[str]:
    """A directory for marks."""
    with tempfile.TemporaryDirectory(prefix="chainweaver-lane-", ignore_cleanup_errors=True) as path:
        yield path


def tool_of(name: str, fn: Any, **options: Any) -> Tool:
    """A tool that runs on the lane under test."""
    options = {"lane": "mine", **options}
    return Tool(name=name, description="", input_schema=Number, output_schema=Out, fn=fn, **options)


def fan(*names: str, **options: Any) -> DAGFlow:
    """The tools side by side, each with an output of its own."""
    steps = [DAGFlowStep(step_id=name, tool_name=name, output_mapping={name: "out"}, **options) for name in names]
    return DAGFlow(name="lane", version="1", description="", steps=steps, on_failure="finish")


def story_on(which: str, lane: Any, limit: int) -> Any:
    """What a flow of good, failing and patient steps tells, on the lane or in the calling thread."""
    tools = [
        tool_of(name, fn, lane="inline" if which == "inline" else "mine")
        for name, fn in (("one", add_one), ("two", add_one), ("busy", fail_twice), ("bad", fail_as_tool))
    ]
    flow = fan("one", "two", "busy", "bad", retry=RetryPolicy(max_retries=2, backoff_seconds=0))
    with desk() as there:
        with FlowExecutor(tools=tools, flows=[flow], lanes={"mine": lane}, max_step_concurrency=limit) as executor:
            if which == "async":
                import anyio

                result = anyio.run(lambda: executor.execute_flow_async("lane", {"n": 1, "desk": there}))
            else:
                result = executor.execute_flow("lane", {"n": 1, "desk": there})
    return [
        (record.step_id, record.status, record.outputs, record.retry_count, record.error_cause)
        for record in result.execution_log
    ]
