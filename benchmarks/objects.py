"""What it costs to pass an object through five steps, by size: `python -m benchmarks.objects`.

Prints one curve for each way of passing, from 1 KB to 80 MB: by reference, which is what a flow does, beside what other
executors do at every step. A cell that would take too long is left out, so that the whole ends in about a minute. The
ratios that are promised are computed here and asserted by tests/benchmarks/test_objects.py.

A way is a class with a name and a `prepare`; one that needs an optional part of the library joins `WAYS` with a reason
to be left out in `missing`.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe
from time import perf_counter
from typing import Any, NamedTuple

from pydantic import BaseModel

from benchmarks.measure import Effort, interleaved, median_of, sync_contender
from chainweaver import Flow, FlowExecutor, FlowStep, Native, Tool

STEPS = 5
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 80_000_000)
BUDGET_S = 0.2
"""Time for the runs of one cell, in seconds; at least three are made all the same."""
CELL_S = 3.0
"""A cell of which one run takes a third of this, in seconds, ends its row: the next would take ten times as long."""

EFFORT = Effort(budget_s=1.0, slice_s=0.005)

Run = Callable[[], Any]


# ---- what is passed


def an_array(nbytes: int) -> Any:
    """A numpy array of float64 of this size; a bytearray where numpy is not installed."""
    try:
        import numpy as np
    except ImportError:
        return bytearray(nbytes)
    return np.arange(nbytes // 8, dtype=np.float64)


def a_list(nbytes: int) -> list[int]:
    """A list of whole numbers, of which each takes 8 bytes in the list."""
    return list(range(nbytes // 8))


PAYLOADS: dict[str, Callable[[int], Any]] = {"float64 array": an_array, "list of ints": a_list}


# ---- how


class Box(BaseModel):
    """A field that any object passes."""

    value: Native[Any]


class Rows(BaseModel):
    """A typed field: validation looks at every item."""

    rows: list[int]


def hand_on(given: BaseModel) -> dict[str, Any]:
    """What every step does; at the top of a module, so that worker processes find it."""
    return dict(given.__dict__)


@contextmanager
def passing(
    model: type[BaseModel] = Box, validation: Any = "boundaries", lane: str | None = None
) -> Iterator[Callable[[Any], Any]]:
    """A flow of five steps that hand on what they get; a function that runs it."""
    [name] = model.model_fields
    tools = [
        Tool(name=f"t{at}", description="", input_schema=model, output_schema=model, fn=hand_on, lane=lane)
        for at in range(STEPS)
    ]
    flow = Flow(
        name="pass",
        description="Hands an object on.",
        steps=[FlowStep(tool_name=tool.name) for tool in tools],
        on_context_collision="overwrite",
        validation=validation,
    )
    with FlowExecutor(tools=tools, flows=[flow]) as executor:

        def run(value: Any) -> Any:
            result = executor.execute_flow("pass", {name: value})
            if not result.success:
                result.raise_for_failure()
            output: Any = result.final_output
            return output[name]

        yield run


@contextmanager
def by_reference(value: Any) -> Iterator[Run]:
    """A flow of five steps."""
    with passing() as run:
        assert run(value) is value, "the very object comes out"
        yield lambda: run(value)


@contextmanager
def in_workers(value: Any) -> Iterator[Run]:
    """The same flow with every step in a worker process: large objects lie in shared memory."""
    with passing(lane="process") as run:
        yield lambda: run(value)


@contextmanager
def in_subprocesses(value: Any) -> Iterator[Run]:
    """An executor that starts a process for every step and sends a pickle there and back."""
    echo = "import pickle, sys; pickle.dump(pickle.load(sys.stdin.buffer), sys.stdout.buffer, 5)"

    def run() -> Any:
        given = value
        for _ in range(STEPS):
            data = pickle.dumps(given, protocol=5)
            given = pickle.loads(
                subprocess.run([sys.executable, "-c", echo], input=data, capture_output=True, check=True).stdout
            )
        return given

    yield run


@contextmanager
def deep_copy(value: Any) -> Iterator[Run]:
    """An executor that gives every step a copy of its own."""

    def run() -> Any:
        given = value
        for _ in range(STEPS):
            given = copy.deepcopy(given)
        return given

    yield run


@contextmanager
def as_json(value: Any) -> Iterator[Run]:
    """An executor that keeps its context as JSON."""
    is_list = isinstance(value, list)

    def run() -> Any:
        given = value
        for _ in range(STEPS):
            text = json.dumps(given if is_list else _listed(given))
            given = json.loads(text) if is_list else _array_of(json.loads(text))
        return given

    yield run


def _listed(array: Any) -> list[Any]:
    items: list[Any] = array.tolist() if hasattr(array, "tolist") else list(array)
    return items


def _array_of(items: list[Any]) -> Any:
    try:
        import numpy as np
    except ImportError:
        return bytearray(items)
    return np.array(items)


@contextmanager
def pickle_pipe(value: Any) -> Iterator[Run]:
    """An executor that sends pickles to a worker and back; the worker is a thread, so this is the pipe alone."""
    ours, theirs = Pipe()

    def work() -> None:
        while (data := theirs.recv_bytes()) != b"":
            theirs.send_bytes(pickle.dumps(pickle.loads(data), protocol=5))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def run() -> Any:
        given = value
        for _ in range(STEPS):
            ours.send_bytes(pickle.dumps(given, protocol=5))
            given = pickle.loads(ours.recv_bytes())
        return given

    try:
        yield run
    finally:
        ours.send_bytes(b"")
        thread.join()


class Way(NamedTuple):
    """A way of passing an object.

    Attributes:
        prepare: `value -> context manager of a function` that passes it through five steps.
        missing: Why it cannot be measured here; None where it can.
    """

    name: str
    prepare: Callable[[Any], Any]
    missing: Callable[[], str | None] = lambda: None


WAYS: list[Way] = [
    Way("by reference", by_reference),
    Way("deep copy", deep_copy),
    Way("JSON", as_json),
    Way("pickle, pipe", pickle_pipe),
    Way("shared memory", in_workers),
    Way("subprocess", in_subprocesses),
]
"""The rows of the table, in order."""


# ---- measured


def best(run: Run, least: int = 3) -> float:
    """Seconds that the quickest of several runs takes."""
    found, spent, times = math.inf, 0.0, 0
    while times < least or spent < BUDGET_S:
        began = perf_counter()
        run()
        took = perf_counter() - began
        found, spent, times = min(found, took), spent + took, times + 1
        if took > CELL_S / 3:
            break
    return found


def curve(way: Way, make: Callable[[int], Any], sizes: Sequence[int]) -> Iterator[float | None]:
    """Seconds for five steps by size; None for what would take too long."""
    is_over = False
    for size in sizes:
        if is_over:
            yield None
            continue
        with way.prepare(make(size)) as run:
            found = best(run)
            is_over = found > CELL_S / 3
        yield found


def ratio_by_size(make: Callable[[int], Any], large: int, small: int, effort: Effort = EFFORT) -> float:
    """What five steps by reference cost for a large object, over what they cost for a small one."""
    values = make(large), make(small)
    with by_reference(values[0]) as run_large, by_reference(values[1]) as run_small:
        contenders = [
            sync_contender("large", run_large, _is(values[0])),
            sync_contender("small", run_small, _is(values[1])),
        ]
        return median_of(interleaved(contenders, effort), lambda row: row[0] / row[1])


def _is(value: Any) -> Callable[[Any], None]:
    def check(answer: Any) -> None:
        assert answer is value, "the very object comes out"

    return check


def validations(items: int = 1_000_000) -> dict[str, float]:
    """Seconds for a typed list: one validation, and five steps in both ways of validating."""
    rows = list(range(items))
    found = {"one validation": best(lambda: Rows.model_validate({"rows": rows}), least=7)}
    for validation in ("once", "boundaries"):
        with passing(Rows, validation) as run:
            found[validation] = best(lambda: run(rows), least=7)
    return found


def told(seconds: float | None) -> str:
    """Seconds in the unit that suits them.

    >>> told(0.0000123), told(0.25), told(12.0), told(None)
    ('12.3 us', '250.0 ms', '12.0 s', '-')
    """
    if seconds is None:
        return "-"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def size_told(nbytes: int) -> str:
    """Bytes in the unit that suits them.

    >>> size_told(1000), size_told(80_000_000)
    ('1 KB', '80 MB')
    """
    return f"{nbytes // 1_000_000} MB" if nbytes >= 1_000_000 else f"{nbytes // 1_000} KB"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.objects", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 1 MB only")
    is_quick = parser.parse_args(arguments).quick
    sizes = SIZES[:4] if is_quick else SIZES
    for payload, make in PAYLOADS.items():
        print(f"{payload} through {STEPS} steps")
        print(f"  {'':<16}" + "".join(f"{size_told(size):>12}" for size in sizes))
        for way in WAYS:
            reason = way.missing()
            cells = [reason] if reason else [f"{told(one):>12}" for one in curve(way, make, sizes)]
            print(f"  {way.name:<16}" + "".join(cells))
        print()
    print("ratios that are promised")
    large = sizes[-1]
    for payload, make in PAYLOADS.items():
        size = min(large, 8_000_000) if make is a_list else large
        ratio = ratio_by_size(make, size, 1_000)
        print(f"  by reference, {payload}, {size_told(size)} over 1 KB: {ratio:.2f} (below 1.2)")
    seconds = validations(100_000 if is_quick else 1_000_000)
    for name in ("once", "boundaries"):
        bound = " (at most 1.3)" if name == "once" else ""
        ratio = seconds[name] / seconds["one validation"]
        print(f"  list[int], validation={name!r}, over one validation: {ratio:.2f}{bound}")


if __name__ == "__main__":
    main()
