"""By reference: the very object that a run was given is what its last step gets, whatever its type.

One table of objects, passed through five steps in a line and in a graph, on every lane, with every store of the library
and every kind of record.
"""

from __future__ import annotations

import array
import collections
import io
import re
import threading
import types
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import BaseModel

from chainweaver import (
    CheckpointEncodeError,
    DAGFlow,
    DAGFlowStep,
    ExecutionResult,
    FileCheckpointer,
    FileStepCache,
    Flow,
    FlowStep,
    InMemoryCheckpointer,
    InMemoryStepCache,
    Native,
    Tool,
    tool,
)
from tests.lanes.table import LANES, SYNC, Lane
from tests.objects.values import memmap

torch = pytest.importorskip("torch", reason="PyTorch is installed for one Python only")


class Box(BaseModel):
    """What every tool here takes and gives: any object at all."""

    value: Native[Any]


class Holder:
    """An object of a class of the user's own, which compares as nothing else."""

    def __init__(self, inside: Any = None) -> None:
        self.inside = inside


def a_circle() -> dict[str, Any]:
    circle: dict[str, Any] = {"rows": []}
    circle["rows"].append(circle)
    return circle


BUILTINS: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "bool": lambda: True,
    "int": lambda: 10**30,
    "float": lambda: float("nan"),
    "complex": lambda: 1 + 2j,
    "str": lambda: "text " * 20,
    "bytes": lambda: b"bytes" * 20,
    "bytearray": lambda: bytearray(b"bytes"),
    "memoryview": lambda: memoryview(bytearray(b"bytes")),
    "list": lambda: [1, [2]],
    "tuple": lambda: (1, [2]),
    "dict": lambda: {"a": {"b": 1}},
    "set": lambda: {1, 2},
    "frozenset": lambda: frozenset({1, 2}),
    "range": lambda: range(1000),
    "slice": lambda: slice(1, 2),
    "object": object,
}

OTHERS: dict[str, Callable[[], Any]] = {
    "lambda": lambda: lambda: 1,
    "class": lambda: Holder,
    "instance": lambda: Holder([1]),
    "circle": a_circle,
    "generator": lambda: (n for n in range(3)),
    "module": lambda: types,
    "lock": threading.Lock,
    "open file": lambda: io.BytesIO(b"abc"),
    "pattern": lambda: re.compile("a+"),
    "fraction": lambda: Fraction(1, 3),
    "counter": lambda: collections.Counter("abca"),
    "deque": lambda: collections.deque([1], maxlen=3),
    "array.array": lambda: array.array("d", [1.0, 2.0]),
    "model": lambda: Box(value=[1]),
}

LIBRARIES: dict[str, Callable[[], Any]] = {
    "ndarray in C order": lambda: np.arange(12.0).reshape(3, 4),
    "ndarray in F order": lambda: np.asfortranarray(np.arange(12).reshape(3, 4)),
    "strided ndarray": lambda: np.arange(24).reshape(4, 6)[::2, 1::2],
    "0-d ndarray": lambda: np.array(7.5),
    "structured ndarray": lambda: np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
    "ndarray of objects": lambda: np.array([[1], {"a": 2}, None], dtype=object),
    "DataFrame, mixed": lambda: pd.DataFrame({"i": [1, 2], "s": ["a", None], "o": [1, "x"]}),
    "DataFrame, MultiIndex": lambda: pd.DataFrame(
        {"x": [1, 2]}, index=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["l", "n"])
    ),
    "DataFrame, categorical": lambda: pd.DataFrame({"c": pd.Categorical(["x", "y"], ordered=True)}),
    "Series": lambda: pd.Series([1, 2], index=["a", "b"], name="s"),
    "polars DataFrame": lambda: pl.DataFrame({"a": [1, None], "s": ["x", "y"]}),
    "polars LazyFrame": lambda: pl.LazyFrame({"a": [1, 2]}).filter(pl.col("a") > 1),
    "polars Series": lambda: pl.Series("n", [1, 2]),
    "Arrow Table": lambda: pa.table({"a": [1, 2, None]}),
    "tensor": lambda: torch.arange(6.0).reshape(2, 3),
    "bfloat16 tensor": lambda: torch.tensor([1.5, 2.5], dtype=torch.bfloat16),
}

EVERYTHING = {**BUILTINS, **OTHERS, **LIBRARIES}


def everything() -> dict[str, Any]:
    """A nested dict of one of each."""
    return {"all": {name: make() for name, make in EVERYTHING.items()}, "again": [make() for make in OTHERS.values()]}


NAMES = [*EVERYTHING, "memmap", "nested dict of all"]


UNCOPYABLE = ["memoryview", "generator", "module", "lock", "nested dict of all"]
"""What `copy.deepcopy` refuses, or holds such a thing: a store in memory has nothing to keep."""


def made(name: str, folder: Path) -> Any:
    if name == "memmap":
        return memmap(folder)
    if name == "nested dict of what can be copied":
        return {"all": {name: make() for name, make in EVERYTHING.items() if name not in UNCOPYABLE}}
    return everything() if name == "nested dict of all" else EVERYTHING[name]()


class Seen:
    """Five tools that keep what they are given, for a line and for a graph.

    Attributes:
        values: What each call was given, in order.
    """

    def __init__(self) -> None:
        self.values: list[Any] = []

        def keep(given: Any) -> dict[str, Any]:
            self.values.append(given.value)
            return {"value": given.value}

        self.tools = [
            Tool(name=f"t{at}", description="", input_schema=Box, output_schema=Box, fn=keep) for at in range(5)
        ]


FACTS: dict[str, Any] = {"description": "Hands an object on.", "on_context_collision": "overwrite"}
LINE = Flow(name="flow", steps=[FlowStep(tool_name=f"t{at}") for at in range(5)], **FACTS)


def _linked(at: int, reads: str, *needs: str) -> DAGFlowStep:
    name = f"t{at}"
    return DAGFlowStep(
        step_id=name,
        tool_name=name,
        depends_on=list(needs),
        input_mapping={"value": reads},
        output_mapping={f"v{at}": "value"},
    )


GRAPH = DAGFlow(
    name="flow",
    version="1.0.0",
    steps=[
        _linked(0, "value"),
        _linked(1, "v0", "t0"),
        _linked(2, "v0", "t0"),
        _linked(3, "v2", "t1", "t2"),
        _linked(4, "v3", "t3"),
    ],
    **FACTS,
)
FLOWS = {"line": LINE, "graph": GRAPH}
PLAIN = ["None", "bool", "int", "float", "complex", "str", "bytes", "list", "tuple", "dict", "set", "frozenset"]


def passed(value: Any, lane: Lane, flow: Any, **options: Any) -> tuple[Seen, Any]:
    """Pass an object through five steps; what they were given, and the result."""
    seen = Seen()
    with lane.executor(tools=seen.tools, flows=[flow], **options) as executor:
        return seen, lane.run(executor, "flow", {"value": value})


def is_the_same_everywhere(seen: Seen, result: ExecutionResult, value: Any) -> bool:
    output = result.raise_for_failure().final_output
    assert output is not None
    assert len(seen.values) == 5
    return all(one is value for one in (*seen.values, output.get("v4", output["value"])))


@pytest.mark.parametrize("shape", FLOWS)
@pytest.mark.parametrize("lane", LANES, ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_the_object_in_step_five_is_the_one_that_step_one_was_given(name: str, lane: Lane, shape: str, tmp_path: Path):
    """R14: whatever its type, in a line and in a graph, on every lane, without stores."""
    value = made(name, tmp_path)
    seen, result = passed(value, lane, FLOWS[shape], max_step_concurrency=4)
    assert is_the_same_everywhere(seen, result, value)


@pytest.mark.parametrize("trace_values", ["snapshot", "reference", "summary"])
@pytest.mark.parametrize("name", NAMES)
def test_records_leave_the_object_alone(name: str, trace_values: str, tmp_path: Path):
    """R14, R36: records copy for themselves, or name what they show by reference."""
    value = made(name, tmp_path)
    seen, result = passed(value, SYNC, LINE, trace_values=trace_values)
    assert is_the_same_everywhere(seen, result, value)
    assert len(result.execution_log) == 5


@pytest.mark.parametrize("lane", LANES, ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_a_step_cache_that_misses_changes_nothing(name: str, lane: Lane, tmp_path: Path):
    """R14, R29, R30: what is stored is a copy and what goes on is the object; or a note says why not."""
    value = made(name, tmp_path)
    seen, result = passed(value, lane, LINE, step_cache=InMemoryStepCache())
    assert is_the_same_everywhere(seen, result, value)
    notes = [record.cache_note for record in result.execution_log]
    assert all((note is None) == (notes[0] is None) for note in notes)


@pytest.mark.parametrize("name", PLAIN)
def test_a_step_cache_of_files_that_misses_changes_nothing(name: str, tmp_path: Path):
    """R14, R30: as in memory."""
    value = made(name, tmp_path)
    seen, result = passed(value, SYNC, LINE, step_cache=FileStepCache(tmp_path / "cache"))
    assert is_the_same_everywhere(seen, result, value)


@pytest.mark.parametrize("shape", FLOWS)
@pytest.mark.parametrize("lane", LANES, ids=repr)
@pytest.mark.parametrize(
    "name", [name for name in [*NAMES, "nested dict of what can be copied"] if name not in UNCOPYABLE]
)
def test_a_checkpointer_in_memory_changes_nothing(name: str, lane: Lane, shape: str, tmp_path: Path):
    """R14, R31: what is kept is a copy, and the objects go on."""
    value = made(name, tmp_path)
    seen, result = passed(value, lane, FLOWS[shape], checkpointer=InMemoryCheckpointer())
    assert is_the_same_everywhere(seen, result, value)


@pytest.mark.parametrize("name", UNCOPYABLE)
def test_a_checkpointer_refuses_what_it_cannot_keep_before_anything_starts(name: str, tmp_path: Path):
    """R16: what has no copy that shares nothing is named, and no tool is called."""
    seen, result = passed(made(name, tmp_path), SYNC, LINE, checkpointer=InMemoryCheckpointer())
    with pytest.raises(CheckpointEncodeError, match="Input 'value' of flow 'flow' cannot be checkpointed"):
        result.raise_for_failure()
    assert seen.values == []


@pytest.mark.parametrize("name", PLAIN)
def test_a_checkpointer_of_files_changes_nothing(name: str, tmp_path: Path):
    """R14, R31: plain values are stored, and the objects go on."""
    value = made(name, tmp_path)
    seen, result = passed(value, SYNC, LINE, checkpointer=FileCheckpointer(tmp_path / "runs"))
    assert is_the_same_everywhere(seen, result, value)


# ---- what is more than identity


CLASSES: dict[str, tuple[Any, Callable[[], Any]]] = {
    "ndarray": (np.ndarray, LIBRARIES["strided ndarray"]),
    "DataFrame": (pd.DataFrame, LIBRARIES["DataFrame, MultiIndex"]),
    "Series": (pd.Series, LIBRARIES["Series"]),
    "polars DataFrame": (pl.DataFrame, LIBRARIES["polars DataFrame"]),
    "polars LazyFrame": (pl.LazyFrame, LIBRARIES["polars LazyFrame"]),
    "Table": (pa.Table, LIBRARIES["Arrow Table"]),
    "tensor": (torch.Tensor, LIBRARIES["bfloat16 tensor"]),
    "list": (list, BUILTINS["list"]),
    "list of lists": (Native[list[list[int]]], lambda: [[1], [2]]),
    "model": (Box, OTHERS["model"]),
}


@pytest.mark.parametrize("lane", LANES, ids=repr)
@pytest.mark.parametrize("name", CLASSES)
def test_a_declared_class_is_no_reason_to_copy(name: str, lane: Lane):
    """R14: `@tool` functions that say what they take and give hand on the object all the same."""
    annotation, make = CLASSES[name]
    value, seen = make(), Seen()

    def keep(value: Any) -> Any:
        seen.values.append(value)
        return value

    keep.__annotations__ = {"value": annotation, "return": annotation}
    tools = [tool(name=f"t{at}", output="value")(keep) for at in range(5)]
    with lane.executor(tools=tools, flows=[LINE]) as executor:
        result = lane.run(executor, "flow", {"value": value})
    assert is_the_same_everywhere(seen, result, value)


def facts_of(value: Any) -> Any:
    """What an object says of itself beside its content."""
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.strides, value.flags.writeable
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.device, value.data_ptr()
    if isinstance(value, (pd.DataFrame, pd.Series)):
        return value.index.names, id(value.index), str(value.dtypes)
    return None


@pytest.mark.parametrize("name", LIBRARIES)
def test_type_index_and_device_are_kept(name: str):
    """R14: nothing about an object is touched on its way."""
    value = LIBRARIES[name]()
    before = facts_of(value)
    seen, result = passed(value, SYNC, LINE)
    assert is_the_same_everywhere(seen, result, value)
    assert str(facts_of(seen.values[-1])) == str(before)


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "list": (lambda: [1], lambda value: value.append(2), len),
    "dict": (lambda: {"a": 1}, lambda value: value.update(b=2), len),
    "bytearray": (lambda: bytearray(b"a"), lambda value: value.extend(b"b"), len),
    "ndarray": (lambda: np.zeros(3), lambda value: value.__setitem__(0, 7.0), lambda value: float(value[0])),
    "DataFrame": (
        lambda: pd.DataFrame({"a": [1, 2]}),
        lambda value: value.__setitem__("b", [3, 4]),
        lambda value: list(value.columns),
    ),
    "tensor": (lambda: torch.zeros(2), lambda value: value.add_(1), lambda value: value.tolist()),
    "instance": (lambda: Holder([1]), lambda value: value.inside.append(2), lambda value: len(value.inside)),
}


@pytest.mark.parametrize("lane", LANES, ids=repr)
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_in_place_is_seen_by_the_steps_after_it_and_by_the_caller(name: str, lane: Lane):
    """R14: there is one object, so a change in step 1 is there in step 2 and for whoever gave it."""
    make, change, look = CHANGES[name]
    value, found = make(), []
    before = look(make())

    def first(given: Box) -> dict[str, Any]:
        change(given.value)
        return {"value": given.value}

    def second(given: Box) -> dict[str, Any]:
        found.append(look(given.value))
        return {"value": given.value}

    tools = [
        Tool(name="first", description="", input_schema=Box, output_schema=Box, fn=first, mutates=["value"]),
        Tool(name="second", description="", input_schema=Box, output_schema=Box, fn=second),
    ]
    flow = Flow(name="flow", steps=[FlowStep(tool_name="first"), FlowStep(tool_name="second")], **FACTS)
    with lane.executor(tools=tools, flows=[flow]) as executor:
        lane.run(executor, "flow", {"value": value}).raise_for_failure()

    assert found == [look(value)]
    assert found != [before]
