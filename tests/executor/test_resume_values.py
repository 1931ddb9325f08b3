"""What a checkpoint holds: values that come back with their types, and never a secret."""

from __future__ import annotations

import dataclasses
import enum
import io
import threading
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from pydantic import BaseModel, SecretStr
from typing_extensions import TypedDict

from chainweaver import (
    FileCheckpointer,
    FlowExecutor,
    FlowStep,
    InMemoryCheckpointer,
    compile_flow,
    tool,
)
from tests.executor.kit import Calls, Number, Out, chain, crashed, linear, merged

MOMENT = datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=timezone(timedelta(hours=2)))


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int
    at: datetime


class Pair(NamedTuple):
    left: int
    right: str


class Address(TypedDict):
    street: str
    since: date


class Inner(BaseModel):
    points: list[Point]
    tags: set[str]


class Everything(BaseModel):
    inner: Inner
    by_day: dict[date, Decimal]
    colour: Colour
    level: Level
    point: Point
    pair: Pair
    address: Address
    maybe: Inner | None
    either: int | Point
    when: datetime
    took: timedelta
    raw: bytes
    code: UUID
    frozen: frozenset[int]
    fixed: tuple[int, str]
    big: int
    inf: float
    odd_text: str
    untyped: Any


def everything(given: Any) -> dict[str, Any]:
    point = Point(1, MOMENT)
    return {
        "inner": Inner(points=[point], tags={"a", "b"}),
        "by_day": {date(2024, 1, 1): Decimal("1.50")},
        "colour": Colour.RED,
        "level": Level.HIGH,
        "point": point,
        "pair": Pair(1, "r"),
        "address": {"street": "Elm", "since": date(2020, 1, 1)},
        "maybe": None,
        "either": point,
        "when": MOMENT,
        "took": timedelta(seconds=1.5),
        "raw": b"\x00\xff\n" * 200,
        "code": UUID(int=7),
        "frozen": frozenset({1, 2}),
        "fixed": (1, "a"),
        "big": 2**200,
        "inf": float("inf"),
        "odd_text": "\ud800 \x00 \u2028",
        "untyped": {"t": (1, 2), "s": {3}, "k": {1: "one"}},
    }


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_values_come_back_with_their_types(kind: str, tmp_path: Path):
    """R34: what a step gave is what the next one receives after a resume, types and all."""
    expected = Everything(**everything(None)).__dict__
    received: list[dict[str, Any]] = []

    def look(given: Everything) -> dict[str, int]:
        received.append(dict(given))
        return {"out": 1}

    def executor(calls: Calls) -> FlowExecutor:
        # Another store object, as another process has.
        store = InMemoryCheckpointer() if kind == "memory" else FileCheckpointer(tmp_path)
        tools = [
            calls.tool("give", everything, output_schema=Everything),
            calls.tool("look", look, input_schema=Everything),
        ]
        flow = linear(FlowStep(tool_name="give"), FlowStep(tool_name="look"))
        return FlowExecutor(tools=tools, flows=[flow], checkpointer=store)

    first = executor(Calls(last=1))
    trace_id = crashed(first, {"n": 0})
    again = executor(Calls())
    if kind == "memory":
        again = FlowExecutor(
            again.registry, tools=again.registered_tools.values(), checkpointer=first._settings["checkpointer"]
        )
    result = again.resume_flow(trace_id)

    assert merged(result) == {"n": 0, **expected, "out": 1}
    assert received == [expected]
    types = {key: type(value) for key, value in expected.items()}
    assert {key: type(value) for key, value in received[0].items()} == types
    assert type(received[0]["inner"].points[0]) is Point
    assert received[0]["when"].utcoffset() == timedelta(hours=2)
    assert result.step("0").outputs == expected


class Named(Out):
    colour: str = ""


class Painted(Out):
    colour: Colour = Colour.RED


def test_the_values_of_a_fallback_have_the_types_of_the_fallback(tmp_path: Path):
    """R34: what stood in says what its outputs are."""
    calls = Calls(last=2)

    def refuse(given: Any) -> Any:
        raise OSError("busy")

    tools = [
        calls.tool("a", refuse, output_schema=Named),
        calls.tool("b", lambda given: {"out": 1, "colour": "red"}, output_schema=Painted),
        calls.tool("c"),
    ]
    flow = linear(
        FlowStep(tool_name="a", on_error="fallback:b", output_mapping={"x": "out", "colour": "colour"}),
        FlowStep(tool_name="c"),
    )
    executor = FlowExecutor(tools=tools, flows=[flow], checkpointer=FileCheckpointer(tmp_path))
    trace_id = crashed(executor, {"n": 0})
    calls.last = None
    assert merged(executor.resume_flow(trace_id)) == {"n": 0, "x": 1, "colour": Colour.RED, "out": 1}


class Order(BaseModel):
    placed: datetime
    colour: Colour = Colour.RED


def test_the_input_comes_back_with_its_types(tmp_path: Path):
    """R34: the context begins with the values that the flow's input schema makes of the input."""
    seen: list[Any] = []

    @tool
    def look(placed: datetime, colour: Colour) -> int:
        seen.append((placed, colour))
        if len(seen) == 1:
            raise OSError("busy")
        return 1

    flow = linear(FlowStep(tool_name="look"), input_schema_ref="tests.executor.test_resume_values:Order")
    executor = FlowExecutor(tools=[look], flows=[flow], checkpointer=FileCheckpointer(tmp_path))
    failed = executor.execute_flow("flow", {"placed": "2024-02-29T12:30:01Z"})
    assert executor.resume_flow(failed.trace_id).status == "ok"
    assert seen == [(datetime(2024, 2, 29, 12, 30, 1, tzinfo=timezone.utc), Colour.RED)] * 2


# ---- secrets


TOKEN = "s3cret-token-value"


class Recording(InMemoryCheckpointer):
    """Keeps the text of all that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[str] = []

    def save(self, snapshot: Any) -> None:
        self.given.append(repr(snapshot.model_dump()))
        super().save(snapshot)

    def append(self, trace_id: str, delta: Any) -> None:
        self.given.append(repr(delta.as_dict()))
        super().append(trace_id, delta)


def signed(calls: Calls) -> list[Any]:
    @tool
    def sign(n: int, token: str) -> str:
        if len(calls.counts) == calls.last:
            raise OSError("busy")
        calls.counts[f"sign{n}"] += 1
        return f"{n}:{len(token)}"

    return [sign]


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_dynamic_parameters_are_passed_again_and_never_kept(kind: str, tmp_path: Path):
    """R13: a resumed run is given them anew; no byte of a checkpoint, no record and no output holds them."""
    store: Any = Recording() if kind == "memory" else FileCheckpointer(tmp_path)
    calls = Calls(last=1)
    flow = linear(
        FlowStep(tool_name="sign", input_mapping={"n": 1, "token": "token"}, output_mapping={"a": "sign"}),
        FlowStep(tool_name="sign", input_mapping={"n": 2, "token": "token"}, output_mapping={"b": "sign"}),
        dynamic_params=["token"],
    )
    executor = FlowExecutor(tools=signed(calls), flows=[flow], checkpointer=store)
    failed = executor.execute_flow("flow", {}, dynamic_params={"token": TOKEN})
    assert failed.status == "failed"
    calls.last = None
    kept = [path.read_text("latin-1") for path in tmp_path.iterdir()] if kind == "file" else store.given
    assert [text for text in kept if TOKEN in text] == []
    assert len("".join(kept)) > 100

    without = executor.resume_flow(failed.trace_id)
    assert (without.status, without.execution_log[-1].error_type) == ("failed", "InputMappingError")
    assert without.step("0").inputs == {"n": 1, "token": "<dynamic parameter>"}
    result = executor.resume_flow(failed.trace_id, dynamic_params={"token": "other"})
    assert merged(result) == {"a": f"1:{len(TOKEN)}", "b": "2:5"}
    assert result.step("0").inputs == {"n": 1, "token": "<dynamic parameter>"}
    assert "other" not in result.model_dump_json()
    assert calls.counts == {"sign1": 1, "sign2": 1}


class Login(BaseModel):
    user: str
    password: SecretStr


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_secret_output_is_refused_before_its_tool_does_anything(kind: str, tmp_path: Path):
    """R39: no store here has a cipher, so a step that would have to store a secret fails first."""
    store: Any = InMemoryCheckpointer() if kind == "memory" else FileCheckpointer(tmp_path)
    calls = Calls()
    login = calls.tool("login", lambda given: {"user": "u", "password": TOKEN}, output_schema=Login)
    flow = linear(FlowStep(tool_name="login"))

    result = FlowExecutor(tools=[login], flows=[flow], checkpointer=store).execute_flow("flow", {"n": 0})
    assert (result.status, dict(calls.counts)) == ("failed", {})
    assert result.execution_log[0].error_type == "CheckpointEncodeError"
    assert "'password'" in str(result.execution_log[0].error_message)
    # Without a checkpointer there is nothing to refuse.
    assert FlowExecutor(tools=[login], flows=[flow]).execute_flow("flow", {"n": 0}).status == "ok"
    assert compile_flow(flow, [login]).success


def test_a_secret_in_the_input_is_not_written(tmp_path: Path):
    """R39: the input is part of a checkpoint, and a secret in it is refused before anything runs."""
    calls = Calls()
    executor = FlowExecutor(tools=[calls.tool("a")], flows=[chain("a")], checkpointer=FileCheckpointer(tmp_path))
    result = executor.execute_flow("flow", {"n": 0, "password": SecretStr(TOKEN)})
    assert (result.status, dict(calls.counts)) == ("failed", {})
    assert TOKEN not in result.model_dump_json()
    assert list(tmp_path.iterdir()) == []


# ---- what cannot be kept


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_value_that_no_checkpoint_can_hold_fails_its_step(kind: str, tmp_path: Path):
    """R16: going on could not be resumed; the record names the field, and what ran before it stays committed."""
    store: Any = InMemoryCheckpointer() if kind == "memory" else FileCheckpointer(tmp_path)

    @tool
    def give(n: int) -> Any:
        return threading.Lock()

    calls = Calls()
    flow = linear(
        FlowStep(tool_name="a", output_mapping={"x": "out"}), FlowStep(tool_name="give"), FlowStep(tool_name="a")
    )
    executor = FlowExecutor(tools=[give, calls.tool("a")], flows=[flow], checkpointer=store)
    result = executor.execute_flow("flow", {"n": 0})

    assert result.status == "failed"
    record = result.execution_log[-1]
    assert (record.step_index, record.error_type) == (1, "CheckpointEncodeError")
    assert "'give'" in str(record.error_message)
    assert "lock" in str(record.error_message)
    assert calls.counts == {"a": 1}
    assert store.load(result.trace_id).completed_steps == 1


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_an_input_that_no_checkpoint_can_hold_fails_the_run(kind: str, tmp_path: Path):
    """R16: recorded at the input, before anything was done."""
    store: Any = InMemoryCheckpointer() if kind == "memory" else FileCheckpointer(tmp_path)
    calls = Calls()
    executor = FlowExecutor(tools=[calls.tool("a")], flows=[chain("a")], checkpointer=store)
    result = executor.execute_flow("flow", {"n": 0, "file": io.StringIO if kind == "file" else threading.Lock()})
    [record] = result.execution_log
    assert (record.step_index, record.error_type) == (-1, "CheckpointEncodeError")
    assert str(record.error_message).startswith("Input 'file' of flow 'flow' cannot be checkpointed: type ")
    assert (store.list_trace_ids(), dict(calls.counts)) == ([], {})


class Text(BaseModel):
    text: str


def test_a_checkpoint_grows_by_the_new_outputs_only(tmp_path: Path):
    """R31: 1.2 times the outputs and a constant per step, however long the run is."""
    calls = Calls(last=200)
    write = calls.tool("write", lambda given: {"text": "x" * 1_000}, output_schema=Text)
    steps = [FlowStep(tool_name="write", output_mapping={f"k{at}": "text"}) for at in range(201)]
    executor = FlowExecutor(tools=[write], flows=[linear(*steps)], checkpointer=FileCheckpointer(tmp_path, fsync=False))
    crashed(executor, {"n": 0})
    [file] = tmp_path.iterdir()
    assert file.stat().st_size <= 200 * (1.2 * 1_000 + 300) + 60 * 201 + 2_000


def test_what_a_caller_changes_in_a_result_is_not_in_the_store():
    """R30: a checkpoint shares nothing with what it was made from."""
    store, rows = InMemoryCheckpointer(), [1, 2]

    @tool
    def give(n: int) -> list:
        return rows

    executor = FlowExecutor(
        tools=[give], flows=[linear(FlowStep(tool_name="give"))], checkpointer=store, delete_on_success=False
    )
    result = executor.execute_flow("flow", {"n": 0})
    rows.append(3)
    resumed = executor.resume_flow(result.trace_id)
    assert resumed.final_output == {"n": 0, "give": [1, 2]}
    resumed.final_output["give"].append(4)
    assert merged(executor.resume_flow(result.trace_id))["give"] == [1, 2]


def test_only_what_the_mapping_keeps_is_stored():
    """R31: an output that nobody can read is not written, and the resumed record does not show it."""

    class Both(BaseModel):
        wanted: int
        large: str

    store, calls = InMemoryCheckpointer(), Calls(last=1)
    tools = [calls.tool("a", lambda given: {"wanted": 1, "large": "x" * 1_000}, output_schema=Both), calls.tool("b")]
    flow = linear(
        FlowStep(tool_name="a", output_mapping={"w": "wanted"}), FlowStep(tool_name="b", input_mapping={"n": "w"})
    )
    executor = FlowExecutor(tools=tools, flows=[flow], checkpointer=store)
    trace_id = crashed(executor, Number().model_dump())
    calls.last = None
    result = executor.resume_flow(trace_id)
    assert merged(result) == {"n": 0, "w": 1, "out": 2}
    assert result.step("0").outputs == {"wanted": 1}
