"""What the tests of databases share: a folder with everything in it, and the flow that its runs are of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from chainweaver import DAGFlow, DAGFlowStep, StepCacheKey, tool

KEYS = [StepCacheKey("double", "0f3a", f"{number}") for number in range(4)]
STEPS = 6


def entry(number: int) -> dict[str, Any]:
    """What the cache keeps under one of the keys."""
    return {"n": number, "text": f"entry {number} " * 40, "raw": bytes(range(256)) * (1 + 300 * (number == 3))}


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def flow(name: str = "chain") -> DAGFlow:
    """Six steps, each reading the one before; the third gives bytes, the fourth an object that lies apart."""
    tools = ["first", "double", "raw", "large", "double", "double"]
    return DAGFlow(
        name=name,
        version="1.0.0",
        description="",
        on_context_collision="overwrite",
        steps=[
            DAGFlowStep(
                step_id=f"s{index}",
                tool_name=tool_name,
                depends_on=[f"s{index - 1}"] if index else [],
                input_mapping={"n": "n"},
                output_mapping={"n": "n", **({tool_name: tool_name} if tool_name in ("raw", "large") else {})},
            )
            for index, tool_name in enumerate(tools)
        ],
    )


class Stop(BaseException):
    """Ends a run as Ctrl-C does: it is handed back."""


class Raw(TypedDict):
    n: int
    raw: bytes


class Large(TypedDict):
    n: int
    large: bytes


class Tools:
    """The tools of the flow; after so many calls the run is interrupted."""

    def __init__(self, last: int | None = None) -> None:
        self.calls: list[str] = []
        self.last = last

    def _called(self, name: str) -> None:
        if self.last is not None and len(self.calls) >= self.last:
            raise Stop
        self.calls.append(name)

    def all(self) -> list[Any]:
        @tool(output="n")
        def first(n: int) -> int:
            self._called("first")
            return n

        @tool(output="n")
        def double(n: int) -> int:
            self._called("double")
            return n * 2

        @tool
        def raw(n: int) -> Raw:
            self._called("raw")
            return {"n": n + 1, "raw": bytes([n % 256]) * 500}

        @tool
        def large(n: int) -> Large:
            self._called("large")
            return {"n": n + 1, "large": bytes([n % 256]) * 70_000}

        return [first, double, raw, large]
