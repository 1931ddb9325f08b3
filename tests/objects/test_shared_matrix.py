"""Every object that has a codec, through shared memory and through a worker process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from chainweaver import Flow, FlowExecutor, FlowStep, SharedMemoryStore
from tests.lanes import crew

pytest.importorskip("torch")  # installed for one version of Python, see pyproject.toml

from tests.objects.values import ARRAYS, FRAMES, POLARS, TABLES, TENSORS, same

TABLES_OF = (("array", ARRAYS), ("frame", FRAMES), ("table", TABLES), ("polars", POLARS), ("tensor", TENSORS))
OBJECTS: dict[str, Any] = {f"{kind}, {name}": make for kind, table in TABLES_OF for name, make in table.items()}
OBJECTS |= {"bytes": lambda: b"abc" * 100, "bytearray": lambda: bytearray(b"abc" * 100), "no bytes": lambda: b""}


@pytest.fixture(scope="module")
def executor() -> Iterator[FlowExecutor]:
    """One that sends everything through shared memory that can go that way."""
    flow = Flow(name="flow", description="there and back", steps=[FlowStep(tool_name="copied")])
    options: dict[str, Any] = {"lane": "process", "process_workers": 1, "min_shared_bytes": 1}
    with FlowExecutor(tools=[crew.copied], flows=[flow], **options) as made:
        yield made


@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_comes_back_equal(name: str) -> None:
    """What has a codec goes through shared memory."""
    store, value = SharedMemoryStore(), OBJECTS[name]()
    assert same(store.get(store.put(value)), value)


@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_goes_to_a_worker_and_comes_back_equal(name: str, executor: FlowExecutor) -> None:
    """A copy that is made in the worker, on its way back."""
    value = OBJECTS[name]()
    result = executor.execute_flow("flow", {"data": value})
    result.raise_for_failure()
    found = (result.final_output or {})["out"]
    assert found is not value or type(value).__module__ == "builtins"
    if name == "array, aligned":  # the copy leaves out what lies between the fields
        assert (found.dtype, found.tolist()) == (value.dtype, value.tolist())
    else:
        assert same(found, value)


def test_the_objects_are_of_every_library() -> None:
    """What the matrix is worth."""
    kinds = {type(make()).__module__.partition(".")[0] for make in OBJECTS.values()}
    assert {"numpy", "pandas", "pyarrow", "polars", "torch"} <= kinds
