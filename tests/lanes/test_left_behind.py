"""Nothing is left behind: no thread and no loop after `close()`, and no executor keeps a program alive."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from chainweaver.lanes.loop import LoopThread
from chainweaver.lanes.threads import Bell, DaemonThreads
from tests.lanes.kit import LIMIT_S, a_tool, does, fan, wait_until
from tests.lanes.table import LANES, SYNC, Lane, pause

ROOT = Path(__file__).parents[2]
lanes = pytest.mark.parametrize("lane", LANES, ids=repr)


def ours() -> set[threading.Thread]:
    """Threads that belong to an executor."""
    return {one for one in threading.enumerate() if one.name.startswith("chainweaver")}


async def nap(given: Any) -> dict[str, int]:
    await pause(0.001)
    return {}


@lanes
@pytest.mark.parametrize("limit", [1, 4])
def test_no_thread_is_left_after_close(lane: Lane, limit: int) -> None:
    """R40: worker threads and the private loop end with the executor."""
    before = ours()
    tools = [a_tool(f"t{at}", lambda given: {}, timeout_seconds=5) for at in range(4)]
    tools += [a_tool(f"a{at}", nap) for at in range(4)]
    with lane.executor(tools=tools, flows=[fan(tools)], max_step_concurrency=limit) as executor:
        assert lane.run(executor, "flow", {}).success
        assert ours() - before
    assert not ours() - before


@lanes
def test_an_executor_that_was_closed_works_again(lane: Lane) -> None:
    """R40: what `close()` released is made anew when it is needed."""
    before = ours()
    tools = [a_tool("t", lambda given: {}, timeout_seconds=5), a_tool("a", nap)]
    executor = lane.executor(tools=tools, flows=[fan(tools)])
    for _ in range(2):
        assert lane.run(executor, "flow", {}).success
        executor.close()
        executor.close()
    assert not ours() - before


def test_a_tool_may_close_its_executor() -> None:
    """R40: nobody waits for the thread that it is called in."""
    tools = [a_tool("t", does(lambda: executor.close()), timeout_seconds=5)]
    with SYNC.executor(tools=tools, flows=[fan(tools)]) as executor:
        began = time.monotonic()
        assert executor.execute_flow("flow", {}).success
        assert time.monotonic() - began < LIMIT_S / 2


def test_closing_waits_only_a_moment_for_a_tool_that_was_left_behind() -> None:
    """R40: a late tool cannot be stopped; its thread ends with it."""
    release, before = threading.Event(), ours()
    made = a_tool("t", does(lambda: release.wait(LIMIT_S)), timeout_seconds=0.01)
    with SYNC.executor(tools=[made], flows=[fan([made])]) as executor:
        executor.execute_flow("flow", {})
        began = time.monotonic()
    assert time.monotonic() - began < LIMIT_S / 2
    assert ours() - before
    release.set()
    wait_until(lambda: not ours() - before)


def test_what_async_tools_leave_open_is_closed_with_the_loop() -> None:
    """R40: tasks that a tool forgot are cancelled, async generators that it left open run their `finally` clauses."""
    closed: list[str] = []
    kept: list[Any] = []

    async def numbers() -> Any:
        try:
            yield 1
            yield 2
        finally:
            closed.append("generator")

    async def forgotten() -> None:
        try:
            await asyncio.sleep(LIMIT_S)
        finally:
            closed.append("task")

    async def leave_open(given: Any) -> dict[str, int]:
        kept.append(numbers())
        await kept[0].__anext__()
        kept.append(asyncio.ensure_future(forgotten()))
        await asyncio.sleep(0)
        return {}

    made = a_tool("t", leave_open)
    with SYNC.executor(tools=[made], flows=[fan([made])]) as executor:
        assert executor.execute_flow("flow", {}).success
        assert closed == []
    assert sorted(closed) == ["generator", "task"]


@lanes
def test_idle_threads_keep_nothing_of_a_run(lane: Lane) -> None:
    """R40: what a run worked on is freed with its result, though the threads stay for the next one."""

    class Thing:
        pass

    things: list[Any] = []

    def work(given: Any) -> dict[str, int]:
        thing = Thing()
        things.append(weakref.ref(thing))
        try:
            return {"out": 1}
        finally:
            del thing

    tools = [a_tool(f"t{at}", work, timeout_seconds=5) for at in range(3)]
    with lane.executor(tools=tools, flows=[fan(tools)], max_step_concurrency=3) as executor:
        result: Any = lane.run(executor, "flow", {})
        held = weakref.ref(result._run)
        del result
        gc.collect()
        assert held() is None
        assert [one() for one in things] == [None] * 3


def test_a_forked_child_starts_from_nothing() -> None:
    """R40: after a fork the threads are gone; the child makes its own instead of waiting for those."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    code = """
        import os, warnings
        warnings.simplefilter("ignore")
        from tests.lanes.kit import a_tool, fan
        from tests.lanes.test_left_behind import nap
        from chainweaver import FlowExecutor
        tools = [a_tool("t", lambda given: {}, timeout_seconds=5), a_tool("a", nap)]
        executor = FlowExecutor(tools=tools, flows=[fan(tools)], max_step_concurrency=2)
        assert executor.execute_flow("flow", {}).success
        pid = os.fork()
        if pid == 0:
            os._exit(0 if executor.execute_flow("flow", {}).success else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    assert child(code).stdout == "0\n"


# ---- whole programs


def child(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A program that has to end by itself."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", lined_up(code)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        **options,
    )


def lined_up(code: str) -> str:
    lines = code.strip("\n").splitlines()
    margin = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[margin:] for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("left", ["idle", "busy"])
def test_an_executor_that_is_never_closed_does_not_keep_the_program_alive(left: str) -> None:
    """R40: threads and loop are daemons; not even a tool that never returns holds the interpreter."""
    code = f"""
        import asyncio, threading
        from tests.lanes.kit import a_tool, fan
        from chainweaver import FlowExecutor
        async def nap(given):
            await asyncio.sleep(0 if "{left}" == "idle" else 1000)
            return {{}}
        def work(given):
            "{left}" == "idle" or threading.Event().wait(1000)
            return {{}}
        tools = [a_tool("t", work, timeout_seconds=0.1), a_tool("a", nap, timeout_seconds=0.1)]
        executor = FlowExecutor(tools=tools, flows=[fan(tools, on_failure="finish")], max_step_concurrency=2)
        print(executor.execute_flow("flow", {{}}).status)
        print(asyncio.run(executor.execute_flow_async("flow", {{}})).status)
    """
    ended = child(code)
    status = "ok" if left == "idle" else "failed"
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{status}\n{status}\n", "")


INTERRUPTED = r"""
    import asyncio, os, sys, threading, time
    from tests.lanes.kit import a_tool, fan
    from chainweaver import BaseMiddleware, FlowExecutor
    class Ends(BaseMiddleware):
        results = []
        def on_flow_end(self, context):
            self.results.append(context.result)
    async def stay_async(given):
        os.write(1, b"entered\n")
        await asyncio.sleep(1000)
    def stay(given):
        os.write(1, b"entered\n")
        threading.Event().wait(1000)
    fn = stay_async if "async" in sys.argv[1] else stay
    tools = [a_tool(f"t{at}", fn) for at in range(int(sys.argv[2]))]
    ends = Ends()
    executor = FlowExecutor(tools=tools, flows=[fan(tools)], middleware=[ends], max_step_concurrency=len(tools))
    try:
        if sys.argv[3] == "loop":
            asyncio.run(executor.execute_flow_async("flow", {}))
        else:
            executor.execute_flow("flow", {})
    except KeyboardInterrupt:
        [result] = ends.results
        print("interrupted", result.status, {record.status for record in result.execution_log}, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "width", "how"),
    [(kind, width, how) for how in ("call", "loop") for kind in ("sync", "async") for width in (1, 3)],
)
def test_control_c_ends_the_run_and_then_the_program(kind: str, width: int, how: str) -> None:
    """R17: SIGINT in the main thread, while tools run in whatever thread, ends the run with one `flow_end`."""
    program = subprocess.Popen(
        [sys.executable, "-c", lined_up(INTERRUPTED), kind, str(width), how],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    for _ in range(width):
        assert program.stdout.readline() == "entered\n"
    # A signal that comes just before a thread begins to wait for a lock is noticed only when the wait is over.
    time.sleep(0.1)
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=30)
    assert (out, err) == ("interrupted cancelled {'cancelled'}\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["call", "loop"])
def test_a_signal_handler_may_cancel_the_token(how: str) -> None:
    """R23: cancelling takes no lock and wakes the loop, so that a handler may do it at any moment."""
    code = f"""
        import asyncio, os, signal, threading, time
        from tests.lanes.kit import a_tool, fan
        from chainweaver import CancellationToken, FlowCancelledError, FlowExecutor, RetryPolicy
        token = CancellationToken()
        signal.signal(signal.SIGTERM, lambda number, frame: token.cancel())
        def busy(given):
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
            raise OSError("busy")
        from tests.lanes.kit import a_flow, a_step
        flow = a_flow(a_step("t", retry=RetryPolicy(max_retries=1, backoff_seconds=1000)))
        executor = FlowExecutor(tools=[a_tool("t", busy)], flows=[flow])
        try:
            if "{how}" == "call":
                executor.execute_flow("flow", {{}}, cancel_token=token)
            else:
                asyncio.run(executor.execute_flow_async("flow", {{}}, cancel_token=token))
        except FlowCancelledError as error:
            print(error.result.status)
    """
    ended = child(code)
    assert (ended.stdout, ended.stderr) == ("cancelled\n", "")


# ---- the parts


def test_threads_are_used_again() -> None:
    """A call takes an idle thread before a new one is made."""
    threads, names, bell = DaemonThreads(), [], Bell()

    def note() -> None:
        names.append(threading.current_thread().name)
        bell.ring()

    for _ in range(3):
        threads.start(note)
        assert bell.wait(LIMIT_S)
        wait_until(lambda: bool(threads._idle))
    threads.close()
    assert len(set(names)) == 1


def test_idle_threads_end_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that nobody needs for a while go away, and the next call gets a new one."""
    monkeypatch.setattr("chainweaver.lanes.threads.IDLE_S", 0.01)
    threads, bell = DaemonThreads(), Bell()
    for _ in range(2):
        threads.start(bell.ring)
        assert bell.wait(LIMIT_S)
        wait_until(lambda: not threads._alive)
    assert threads._idle == []
    threads.close()


def test_a_bell_may_be_rung_before_anybody_waits() -> None:
    """A ring is kept for the next wait; a wait of no time, or below it, just looks."""
    bell = Bell()
    assert not bell.wait(-1)
    bell.ring()
    assert bell.wait(None)
    assert not bell.wait(0)


def test_a_loop_that_was_closed_takes_no_calls() -> None:
    """Closing twice is fine; starting something afterwards is an error, cancelling what has ended is none."""
    loop, bell = LoopThread(), Bell()

    async def nothing() -> int:
        return 3

    call = loop.start(nothing, (), bell.ring)
    assert bell.wait(LIMIT_S)
    assert (call.finished, call.value, call.error) == (True, 3, None)
    loop.close()
    loop.close()
    call.cancel()
    with pytest.raises(RuntimeError):
        loop.start(nothing, (), bell.ring)


def test_a_loop_that_is_being_closed_takes_no_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """R40: a call that it took now might never begin, and whoever waits for it would wait for ever."""
    monkeypatch.setattr("chainweaver.lanes.loop.CLOSE_S", 0.01)
    loop, bell, busy = LoopThread(), Bell(), threading.Event()

    async def block() -> None:
        busy.wait(LIMIT_S)

    async def nothing() -> None:
        pass

    loop.start(block, (), bell.ring)
    loop.close()
    with pytest.raises(RuntimeError, match="was closed"):
        loop.start(nothing, (), lambda: None)
    busy.set()
    assert bell.wait(LIMIT_S)


def test_a_call_that_is_cancelled_before_it_begins_has_ended() -> None:
    """Whoever waits for a call hears of it however it ended."""
    loop, bell = LoopThread(), Bell()
    busy = threading.Event()

    async def block() -> None:
        busy.wait(LIMIT_S)

    async def never() -> None:
        raise AssertionError("it was cancelled before")

    loop.start(block, (), lambda: None)
    call = loop.start(never, (), bell.ring)
    call.cancel()
    busy.set()
    assert bell.wait(LIMIT_S)
    assert isinstance(call.error, asyncio.CancelledError)
    loop.close()
