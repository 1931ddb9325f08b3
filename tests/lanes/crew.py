"""Tools for worker processes, at the top level of a module that a worker can import."""

from __future__ import annotations

import copy
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from chainweaver import FlowExecutor, Native, Tool, ToolContext, tool

REQUEST: ContextVar[str] = ContextVar("request", default="nobody's")
UNSENDABLE: ContextVar[Any] = ContextVar("unsendable", default=None)
TENANT: ContextVar[str] = ContextVar("tenant")


class Number(BaseModel):
    n: int


class Numbered(BaseModel):
    n: int
    seen: str = ""


class Refusal(Exception):
    """An exception with a constructor that pickle does not know how to call."""

    def __init__(self, *, why: str) -> None:
        super().__init__(f"refused: {why}")


def plus_one(given: Number) -> dict[str, int]:
    return {"n": given.n + 1}


@tool(output="pid")
def pid(n: int) -> int:
    return os.getpid()


@tool(lane="process")
def elsewhere(n: int) -> int:
    return os.getpid()


@tool(output="cpus")
def processors(n: int) -> list[int]:
    return sorted(os.sched_getaffinity(0))


@tool(output="about")
def about(n: int, context: ToolContext) -> Native[dict[str, Any]]:
    """What a call knows of its surroundings."""
    return {
        "run": context.run_id,
        "step": context.step_path,
        "attempt": context.attempt,
        "key": context.idempotency_key,
        "request": REQUEST.get(),
        "unsendable": UNSENDABLE.get(),
    }


@tool(output="set")
def set_request(n: int) -> str:
    REQUEST.set(f"of {n}")
    return REQUEST.get()


@tool(output="who")
def tenant(n: int) -> str:
    return TENANT.get("nobody")


@tool(output="total")
def total(data: Native[np.ndarray]) -> float:
    return float(data.sum())


@tool(output="nbytes")
def size(data: Native[np.ndarray]) -> int:
    return int(data.nbytes)


@tool(output="data")
def doubled(data: Native[np.ndarray]) -> Native[np.ndarray]:
    return data * 2


@tool(output="out")
def passed(data: Native[Any]) -> Native[Any]:
    return data


@tool(output="out")
def renamed(data: Native[Any]) -> Native[Any]:
    data.columns = ["m"]
    return data


@tool(output="out")
def copied(data: Native[Any]) -> Native[Any]:
    return copy.deepcopy(data)


@tool(output="private_dirty")
def private_dirty(data: Native[np.ndarray]) -> list[int]:
    """Kilobytes of this process that are its own and were written, before and after it has read all of the data."""
    before = dirty_kb()
    data.sum()
    return [before, dirty_kb()]


def dirty_kb() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))


@tool(output="wrote")
def write_into(data: Native[np.ndarray]) -> str:
    try:
        data[0] = 1
    except ValueError as exc:
        return str(exc)
    return "written"


@tool(output="data", lane="inline", mutates=("data",))
def zero_first(data: Native[np.ndarray]) -> Native[np.ndarray]:
    data[0] = 0
    return data


@tool(output="out")
def reshaped(data: Native[np.ndarray]) -> Native[np.ndarray]:
    data.shape = (2, -1)
    return data


@tool(output="out", lane="inline", mutates=("data",))
def reshape_here(data: Native[np.ndarray]) -> Native[np.ndarray]:
    data.shape = (2, -1)
    return data


@tool(output="shape")
def shape(data: Native[np.ndarray]) -> list[int]:
    return list(data.shape)


@tool(output="found", mutates=("data",))
def add_one(data: Native[Any]) -> Native[Any]:
    """Change arrays and frames in place, also inside of other things."""
    for one in data if type(data) is list else [data]:
        one[0] += 1
    return data


@tool(output="found")
def add_undeclared(data: Native[Any]) -> Native[Any]:
    data[0] += 1
    return data


@tool(output="found", lane="inline")
def add_here(data: Native[np.ndarray]) -> float:
    data += 1
    return float(data[0])


@tool(output="met")
def meet(folder: str) -> int:
    """Wait until another process is here as well."""
    Path(folder, str(os.getpid())).touch()
    until = time.monotonic() + 10
    while len(os.listdir(folder)) < 2:
        assert time.monotonic() < until, "nobody came"
        time.sleep(0.001)
    return os.getpid()


@tool(output="spun", timeout_seconds=0.2)
def spin(n: int) -> int:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        pass
    return n


@tool(output="slept")
def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@tool(output="slept", timeout_seconds=0.5)
def napping(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@tool(output="left")
def leave(code: int) -> int:
    os._exit(code)


@tool(output="killed")
def kill(number: int) -> int:
    os.kill(os.getpid(), number)
    time.sleep(10)
    return number


@tool(output="crashed")
def crash(n: int) -> int:
    ctypes.string_at(0)
    return n


@tool(output="survived")
def die_at_first(n: int, context: ToolContext) -> int:
    if context.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return n + context.attempt


@tool(output="out")
def fail(n: int) -> int:
    return deeper(n)


def deeper(n: int) -> int:
    raise LookupError(f"no {n}")


@tool(output="out")
def refuse(n: int) -> int:
    raise Refusal(why=f"it is {n}")


@tool(output="out")
def stop_iterating(n: int) -> int:
    raise StopIteration(n)


class Held(BaseModel):
    fine: int
    lock: Native[Any]


@tool
def hold(n: int) -> Held:
    return Held(fine=n, lock=threading.Lock())


@tool(output="out")
def wrong(n: int) -> int:
    return "many"  # type: ignore[return-value]


@tool(output="out")
def speak(n: int) -> int:
    print(f"number {n}")
    print("careful", file=sys.stderr)
    subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
    if n < 0:
        raise ValueError("negative")
    return n


@tool(output="heavy")
def weigh(data: list) -> int:  # type: ignore[type-arg]  # as many write it
    print(f"weighs {len(data)}")
    return sum(data)


@tool(output="child")
def leave_child(path: str) -> int:
    """Start a process that outlives the call, unless somebody ends it."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(path).write_text(str(child.pid), "ascii")
    time.sleep(600)
    return child.pid


plain = Tool(name="plain", description="by name", input_schema=Number, output_schema=Numbered, fn=plus_one)
SHELF = [Tool(name="shelved", description="in a list", input_schema=Number, output_schema=Numbered,
              fn=lambda given: Numbered(n=given.n, seen="shelf"))]  # fmt: skip
EXECUTOR = FlowExecutor(
    tools=[
        Tool(name="registered", description="with an executor", input_schema=Number, output_schema=Numbered,
             fn=lambda given: Numbered(n=given.n, seen="executor"))
    ]
)  # fmt: skip


class Short(BaseModel):
    x: int


class Long(BaseModel):
    x: int
    y: int = 5


def class_of(given: Any) -> dict[str, str]:
    return {"seen": f"{type(given).__name__} {getattr(given, 'y', '-')}"}


class Seen(BaseModel):
    seen: str


short = Tool(name="short", description="d", input_schema=Short, output_schema=Seen, fn=class_of)
long = Tool(name="long", description="d", input_schema=Long, output_schema=Seen, fn=class_of)


@dataclass
class Adder:
    """A callable that cannot be hashed."""

    by: int

    def __call__(self, given: Number) -> dict[str, int]:
        return {"n": given.n + self.by}


adding = Tool(name="adding", description="d", input_schema=Number, output_schema=Numbered, fn=Adder(3))


def by_function_name() -> Tool:
    """A tool object that no module knows, around a function and a model that have names."""
    return Tool(name="by_name", description="a function", input_schema=Number, output_schema=Numbered, fn=plus_one)


def made_inside() -> Tool:
    return Tool(
        name="inside", description="a closure", input_schema=Number, output_schema=Numbered, fn=lambda given: {"n": 1}
    )
