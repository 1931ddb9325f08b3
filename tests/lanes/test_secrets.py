"""Many runs of one executor at once: no value of one is ever seen by another, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from chainweaver import ExecutionResult, FlowExecutor, InMemoryStepCache, Tool
from tests.conftest import PROOF
from tests.lanes.kit import a_flow, a_step, a_tool
from tests.lanes.table import pause

SECRET: contextvars.ContextVar[int] = contextvars.ContextVar("secret", default=0)
BASE = 7_000_000
"""Secrets are numbers that nothing else in a trace looks like."""


def tools_of(step: int) -> list[Tool]:
    """Tools that check their input against the contextvar of whoever runs them; `step` makes another registration."""

    def check(given: Any) -> dict[str, int]:
        assert SECRET.get() == given.n, "the contextvar of another run"
        return {"out": given.n}

    async def check_async(given: Any) -> dict[str, int]:
        await pause(0)
        assert SECRET.get() == given.n, "the contextvar of another run"
        return {"out": given.n}

    return [
        a_tool("plain", check, schema_version=f"1.0.{step}"),
        a_tool("thread", check, lane="thread"),
        a_tool("limited", check, timeout_seconds=60),
        a_tool("coroutine", check_async),
        a_tool("cached", lambda given: {"out": given.n}, cacheable=True, schema_version=f"1.0.{step}"),
        a_tool("uncached", check, cacheable=False),
    ]


NAMES = [tool.name for tool in tools_of(0)]


def flow_of(step: int) -> Any:
    flow = a_flow(*(a_step(name) for name in NAMES[:3]), *(a_step(name, "plain") for name in NAMES[3:]))
    return flow.model_copy(update={"description": f"registered {step} times"})


def check_result(result: ExecutionResult, secret: int) -> None:
    """Everything that a result shows belongs to its own run."""
    assert result.final_output == {"n": secret, **dict.fromkeys(NAMES, secret)}
    shown = json.dumps(json.loads(result.model_dump_json())["execution_log"])
    foreign = [word for word in shown.replace(":", " ").replace(",", " ").replace("}", " ").split() if _is_secret(word)]
    assert set(foreign) == {str(secret)}


def _is_secret(word: str) -> bool:
    return word.isdigit() and BASE < int(word) < BASE + 1_000_000


class Meddler:
    """Registers tools and flows anew while runs are going on."""

    def __init__(self, executor: FlowExecutor) -> None:
        self.executor = executor
        self.times = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._meddle)

    def _meddle(self) -> None:
        while not self._over.wait(0.002):
            self.times += 1
            for tool in tools_of(self.times % 5):
                self.executor.register_tool(tool)
            self.executor.registry.register_flow(flow_of(self.times % 5), overwrite=True)

    def __enter__(self) -> Meddler:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join(60)


def an_executor(limit: int) -> FlowExecutor:
    return FlowExecutor(
        tools=tools_of(0), flows=[flow_of(0)], step_cache=InMemoryStepCache(), max_step_concurrency=limit
    )


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 4])
def test_threads_that_share_an_executor_never_see_each_other(limit: int) -> None:
    """R5, R29, R40: 16 threads, each run with a secret of its own in its input and in a contextvar."""
    runs = 200 if PROOF else 8

    def worker(number: int) -> int:
        for at in range(runs):
            secret = BASE + 1000 * number + at + 1
            SECRET.set(secret)
            check_result(executor.execute_flow("flow", {"n": secret}), secret)
        return runs

    with an_executor(limit) as executor, Meddler(executor) as meddler, ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(worker, number) for number in range(16)]
        assert sum(future.result(timeout=60 if not PROOF else 600) for future in futures) == 16 * runs
    assert meddler.times > 0


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 4])
def test_tasks_that_share_an_executor_never_see_each_other(limit: int) -> None:
    """R5, R29, R40: 200 tasks in one loop, each run with a secret of its own."""
    tasks = 200 if PROOF else 60

    async def worker(number: int) -> None:
        secret = BASE + number + 1
        SECRET.set(secret)
        check_result(await executor.execute_flow_async("flow", {"n": secret}), secret)

    async def main() -> None:
        await asyncio.wait_for(asyncio.gather(*(asyncio.create_task(worker(at)) for at in range(tasks))), 60)

    with an_executor(limit) as executor, Meddler(executor):
        asyncio.run(main())
