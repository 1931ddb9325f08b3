"""What the tests of the lanes share: flows in a line, and instruments that measure who is inside at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel

from chainweaver import DAGFlow, DAGFlowStep, ExecutionResult, Tool

LIMIT_S = 10.0
"""How long a test waits for what has to happen; only a failing test waits that long."""


class Number(BaseModel):
    """Inputs of every tool here."""

    n: int = 0


class Out(BaseModel):
    """Outputs of every tool here."""

    out: int = 0


def a_tool(name: str, fn: Callable[..., Any], **options: Any) -> Tool:
    """A tool that takes `n` and gives `out`; `fn` is called with the inputs, or with nothing if it takes nothing."""
    return Tool(name=name, description=f"{name} of a test", input_schema=Number, output_schema=Out, fn=fn, **options)


def does(act: Callable[[], object]) -> Callable[[Any], dict[str, int]]:
    """A tool function that does something and has nothing to tell."""

    def fn(given: Any) -> dict[str, int]:
        act()
        return {}

    return fn


def a_step(name: str, *needs: str, **options: Any) -> DAGFlowStep:
    """A step named as its tool, which writes a key of its own."""
    options = {"tool_name": name, "output_mapping": {name: "out"}, **options}
    return DAGFlowStep(step_id=name, depends_on=list(needs), **options)


def a_flow(*steps: DAGFlowStep, **options: Any) -> DAGFlow:
    return DAGFlow(name="flow", version="1.0.0", description="a flow of a test", steps=list(steps), **options)


def fan(tools: list[Tool], **options: Any) -> DAGFlow:
    """All tools side by side."""
    return a_flow(*(a_step(tool.name) for tool in tools), **options)


def chain(tools: list[Tool], **options: Any) -> DAGFlow:
    """All tools one after the other."""
    names = [tool.name for tool in tools]
    return a_flow(*(a_step(name, *names[max(0, at - 1) : at]) for at, name in enumerate(names)), **options)


class Gauge:
    """Counts who is inside, from any thread.

    Attributes:
        peak: Most who were inside at the same time.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._inside = 0
        self._lock = threading.Lock()

    @contextmanager
    def inside(self) -> Iterator[None]:
        with self._lock:
            self._inside += 1
            self.peak = max(self.peak, self._inside)
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1


def merged(result: ExecutionResult) -> dict[str, Any]:
    """The final output of a run that has to be ok."""
    output = result.raise_for_failure().final_output
    assert output is not None
    return output


def wait_until(happened: Callable[[], bool]) -> None:
    """Block until something has happened."""
    until_s = time.monotonic() + LIMIT_S
    while not happened():
        assert time.monotonic() < until_s, "it never happened"
        time.sleep(0.001)
