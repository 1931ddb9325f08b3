"""How a user's editor sees the decorators: checked by mypy, never run.

Each line says which type the checker has to find; a lost signature fails the type check of the suite.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from pydantic import BaseModel
from typing_extensions import assert_type

from chainweaver.tools import FunctionTool, Native, Tool, ToolContext, tool


class Total(BaseModel):
    total: int


@tool
def add(a: int, b: int = 1) -> int:
    return a + b


@tool(output="total", timeout_seconds=2.5, mutates=["rows"])
def count(rows: Native[list[int]], context: ToolContext | None = None) -> int:
    assert_type(rows, list[int])
    return len(rows)


@tool
async def fetch(url: str) -> Total:
    return Total(total=len(url))


def calls() -> None:
    assert_type(add(1), int)
    assert_type(add(a=1, b=2), int)
    assert_type(count([1]), int)
    started: Coroutine[Any, Any, Total] = fetch("u")
    started.close()
    assert_type(add.run({"a": 1}), dict[str, Any])
    assert_type(add.name, str)
    add("1")  # type: ignore[arg-type]  # the signature of the function is kept
    add.name = "other"  # a tool is fixed when it runs; the checker cannot know


def a_function_tool_is_a_tool(made: FunctionTool[[int], int]) -> Tool:
    return made


def decorators(function: Callable[[str], bytes]) -> None:
    assert_type(tool(function), FunctionTool[[str], bytes])
    assert_type(tool(name="other")(function), FunctionTool[[str], bytes])
    assert_type(tool(function, name="other"), FunctionTool[[str], bytes])


async def awaits() -> None:
    assert_type(await fetch("u"), Total)
    assert_type(await fetch.run_async({"url": "u"}), dict[str, Any])
