"""Recording and replaying: tools are called once, cassettes can be read, and what is not on them is said clearly."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import threading
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr

from chainweaver import (
    CassetteError,
    DAGFlow,
    DAGFlowStep,
    Flow,
    FlowExecutor,
    FlowStep,
    InMemoryStepCache,
    Runtime,
    Tool,
    ToolContext,
    ToolNotFoundError,
    UnrecordedCallError,
    tool,
)
from chainweaver.testing import Cassette, RecordedError, assert_result_matches, fake_tool, record_then_replay
from tests.lanes.table import LANES, SYNC, Lane
from tests.testing.kit import TEA, order, patient, price, total

lanes = pytest.mark.parametrize("lane", LANES, ids=repr)


class Shop:
    """A price that is another one at every call, and how often it was asked for."""

    def __init__(self, lane: Lane = SYNC, **policy: Any) -> None:
        self.fake = fake_tool(price, side_effect=lambda inputs, it=itertools.count(1): float(next(it)))
        self.executor = lane.executor(tools=[self.fake, total], flows=[order(**policy)])


class Row(BaseModel):
    at: datetime.datetime
    cost: Decimal


@dataclass
class Mark:
    x: int


class Rich(BaseModel):
    """One output of every kind that has to come back as it was."""

    rows: list[Row]
    mark: Mark
    pair: tuple[int, bytes]
    tags: frozenset[str]
    either: Row | Mark | None = None
    kept: str = Field(default="", exclude=True)
    renamed: int = Field(alias="Renamed")


class Nothing(BaseModel):
    pass


ROW = Row(at=datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc), cost=Decimal("1.50"))
RICH = Rich(rows=[ROW], mark=Mark(1), pair=(1, b"\0\xff"), tags=frozenset("ab"), either=Mark(2), kept="k", Renamed=3)


@lanes
@pytest.mark.parametrize("kept", ["memory", "file"])
def test_tools_are_called_once_and_replayed_ever_after(lane: Lane, kept: str, tmp_path: Path) -> None:
    """R35: same outputs and the same canonical trace, whichever lane recorded."""
    tape: Any = Cassette() if kept == "memory" else tmp_path / "deep" / "order.cassette.json"
    shop = Shop(lane)
    with record_then_replay(shop.executor, tape) as recorded:
        first = lane.run(recorded, "order", TEA)
    assert first.final_output == {**TEA, "price": 1.0, "total": 4.0}
    assert shop.fake.call_count == 1
    for other in LANES:
        with record_then_replay(shop.executor, tape) as replayed:
            for _ in range(3):
                assert_result_matches(other.run(replayed, "order", TEA), first)
    assert shop.fake.call_count == 1
    assert lane.run(shop.executor, "order", TEA).final_output["price"] == 2.0  # type: ignore[index]


def test_values_come_back_from_a_file_with_their_types(tmp_path: Path) -> None:
    """R34: types come from the output model; aliases and excluded fields included."""
    seen: list[Any] = []
    make = Tool(name="make", description="", input_schema=Nothing, output_schema=Rich, fn=lambda inputs: RICH)

    def note(inputs: Any) -> dict[str, Any]:
        seen.append(inputs)
        return {}

    look = Tool(name="look", description="", input_schema=Rich, output_schema=Nothing, fn=note)
    mapping = {"Renamed": "renamed", **{name: name for name in ("rows", "mark", "pair", "tags", "either")}}
    steps = [FlowStep(tool_name="make"), FlowStep(tool_name="look", input_mapping=mapping)]
    flow = Flow(name="rich", description="", steps=steps)
    executor = FlowExecutor(tools=[make, look], flows=[flow])
    with record_then_replay(executor, tmp_path / "rich.json", tools=["make"]) as recorded:
        first = recorded.execute_flow("rich", {}).raise_for_failure()
    with record_then_replay(executor, tmp_path / "rich.json", tools=["make"]) as replayed:
        second = replayed.execute_flow("rich", {}).raise_for_failure()
    assert second.final_output == first.final_output
    assert {key: type(value) for key, value in (second.final_output or {}).items()} == {
        "rows": list, "mark": Mark, "pair": tuple, "tags": frozenset, "either": Mark, "renamed": int,
    }  # fmt: skip
    assert seen[0] == seen[1]


def test_runs_of_equal_input_are_replayed_one_after_the_other(tmp_path: Path) -> None:
    """R35: three recorded runs come in their order, and then the last one for ever."""
    shop = Shop()
    with record_then_replay(shop.executor, tmp_path / "c.json") as recorded:
        for _ in range(3):
            recorded.execute_flow("order", TEA)
    with record_then_replay(shop.executor, tmp_path / "c.json") as replayed:
        found = [replayed.execute_flow("order", TEA).final_output for _ in range(5)]
    assert [one["price"] for one in found if one] == [1.0, 2.0, 3.0, 3.0, 3.0]


@lanes
def test_retries_are_replayed_without_waiting(lane: Lane, tmp_path: Path) -> None:
    """R20: errors and attempts come back, and a day of back-off takes no time."""
    busy = fake_tool(price, sequence=[OSError(5, "busy"), ConnectionError("closed"), 2.5])
    flow = order(retry=patient(2, 86_400, retryable_errors=["builtins:OSError"]))
    waits: list[float] = []
    executor = lane.executor(tools=[busy, total], flows=[flow], runtime=Runtime(pause=waits.append))
    with record_then_replay(executor, tmp_path / "c.json") as recorded:
        first = lane.run(recorded, "order", TEA)
    assert first.step("0").retry_errors == [
        "Tool 'price' failed at step 0: OSError: [Errno 5] busy.",
        "Tool 'price' failed at step 0: ConnectionError: closed.",
    ]
    replaying = lane.executor(tools=[price, total], flows=[flow])
    with record_then_replay(replaying, tmp_path / "c.json") as replayed:
        assert_result_matches(lane.run(replayed, "order", TEA), first)
    assert waits == [86_400, 172_800]


class ShopError(Exception):
    def __init__(self, code: int, place: str) -> None:
        super().__init__(code, place)
        self.code = code


class OddError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}", object())


@pytest.mark.parametrize(
    ("error", "known", "kind"),
    [
        (KeyError("tea"), (), KeyError),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), (), UnicodeDecodeError),
        (ShopError(3, "x"), (ShopError,), ShopError),
        (ShopError(3, "x"), (), RecordedError),
        (OddError(3), (OddError,), OddError),
        (OddError(3), (), RecordedError),
    ],
)
def test_errors_come_back_from_a_file(error: Exception, known: Any, kind: type, tmp_path: Path) -> None:
    """R34: classes are builtin or named by the test; others get a stand-in that reads the same in the record."""
    executor = FlowExecutor(tools=[fake_tool(price, raises=error), total], flows=[order()])
    with record_then_replay(executor, tmp_path / "c.json") as recorded:
        first = recorded.execute_flow("order", TEA)
    with record_then_replay(executor, tmp_path / "c.json", errors=known) as replayed:
        again = replayed.execute_flow("order", TEA)
    if kind is not OddError:
        assert_result_matches(again, first)
    with pytest.raises(Exception, match="Tool 'price' failed") as caught:
        again.raise_for_failure()
    assert isinstance(caught.value.__cause__, kind)


def test_equal_calls_from_several_steps_are_told_apart(tmp_path: Path) -> None:
    """R1: whichever of the siblings is faster, each gets what it was given when it was recorded."""
    numbers = itertools.count(1)
    lock = threading.Lock()

    @tool
    def ticket() -> int:
        with lock:
            return next(numbers)

    steps = [DAGFlowStep(step_id=f"s{n}", tool_name="ticket", output_mapping={f"t{n}": "ticket"}) for n in range(6)]
    dag = DAGFlow(name="tickets", version="1", description="", steps=steps)
    executor = FlowExecutor(tools=[ticket], flows=[dag], max_step_concurrency=4)
    with record_then_replay(executor, tmp_path / "c.json") as recorded:
        first = recorded.execute_flow("tickets", {})
    with record_then_replay(executor, tmp_path / "c.json") as replayed:
        for _ in range(3):
            assert replayed.execute_flow("tickets", {}).final_output == first.final_output


def test_a_step_that_moved_still_finds_what_was_recorded_for_its_inputs(tmp_path: Path) -> None:
    """R35: by tool and inputs, in the order of the recording."""
    shop = Shop()
    with record_then_replay(shop.executor, tmp_path / "c.json") as recorded:
        recorded.execute_flow("order", TEA)
    moved = Flow(name="moved", description="", steps=[FlowStep(tool_name="price")])
    executor = FlowExecutor(tools=[price], flows=[moved])
    with record_then_replay(executor, tmp_path / "c.json", tools=["price"]) as replayed:
        assert replayed.execute_flow("moved", {"article": "tea"}).final_output == {"article": "tea", "price": 1.0}


@lanes
def test_a_call_that_was_not_recorded_names_tool_step_and_the_nearest_recording(lane: Lane, tmp_path: Path) -> None:
    """api.md: E110."""
    shop = Shop(lane)
    path = tmp_path / "c.json"
    with record_then_replay(shop.executor, path) as recorded:
        lane.run(recorded, "order", TEA)
    with record_then_replay(shop.executor, path) as replayed:
        result = lane.run(replayed, "order", {"article": "milk", "count": 4})
    assert (result.step("0").error_type, result.step("0").error_code) == ("UnrecordedCallError", "E110")
    assert str(result.step("0").error_message).splitlines() == [
        "Call of tool 'price' at step '0' was not recorded: nearest is step '0', attempt 1, "
        "with article='tea' where this call has 'milk'.",
        f"  where   cassette '{path}'",
        "  fix     call it as it was recorded, or delete the cassette to record anew",
    ]
    assert shop.fake.call_count == 1


def test_a_miss_says_what_kind_of_miss_it_is() -> None:
    """api.md: never called; called less often; other schemas; inputs that look alike."""
    shop = Shop()
    tape = Cassette()
    with record_then_replay(shop.executor, tape, tools=["price"]) as recorded:
        recorded.execute_flow("order", TEA)

    def missed(executor: FlowExecutor, flow: str, given: dict[str, Any], at: str = "0") -> str:
        with record_then_replay(executor, tape) as replayed:
            return str(replayed.execute_flow(flow, given).step(at).error_message)

    assert "the tool was never called while the cassette was recorded" in missed(shop.executor, "order", TEA, "1")
    twice = Flow(name="order", description="", steps=[FlowStep(tool_name="price", output_mapping={f"p{n}": "price"})
                                                      for n in range(3)])  # fmt: skip
    with record_then_replay(FlowExecutor(tools=[price], flows=[twice]), tape) as replayed:
        log = replayed.execute_flow("order", {"article": "tea"}).execution_log
    assert [record.status for record in log] == ["ok", "ok", "failed"]
    assert "it was called 1 time(s) with these inputs, and not at this step on attempt 1" in str(log[2].error_message)

    @tool(name="price")
    def other(article: str, shop: str = "corner") -> float:
        return 1.0

    changed = FlowExecutor(tools=[other, total], flows=[order()])
    assert "why     the tool had other schemas then" in missed(changed, "order", TEA)


def test_tools_that_are_not_taped_are_called_as_ever() -> None:
    """api.md: tools=[...]; a name that the executor does not have is an error."""
    shop, tape = Shop(), Cassette()
    for _ in range(2):
        with record_then_replay(shop.executor, tape, tools=["total"]) as taped:
            taped.execute_flow("order", TEA)
    assert shop.fake.call_count == 2
    assert {call.tool for call in tape.calls} == {"total"}
    with pytest.raises(ToolNotFoundError, match="did you mean 'price'"):
        with record_then_replay(shop.executor, tape, tools=["prise"]):
            pass


def test_modes_say_what_happens() -> None:
    """api.md: "record" begins anew, "replay" never calls a tool."""
    shop, tape = Shop(), Cassette()
    with pytest.raises(CassetteError, match="'in memory' cannot be used: it holds no calls to replay"):
        with record_then_replay(shop.executor, tape, mode="replay"):
            pass
    for _ in range(2):
        with record_then_replay(shop.executor, tape, mode="record") as recorded:
            recorded.execute_flow("order", TEA)
    assert [call.outputs for call in tape.calls if call.tool == "price"] == [{"price": 2.0}]


def test_nothing_is_patched() -> None:
    """R40: other executors of the same tools call them meanwhile; settings are kept, cache and checkpoints are not."""
    shop, tape = Shop(), Cassette()
    cached = FlowExecutor(
        tools=shop.executor.registered_tools.values(), flows=[order()], step_cache=InMemoryStepCache(),
        trace_values="reference", max_step_concurrency=3,
    )  # fmt: skip
    cached.execute_flow("order", TEA)
    with record_then_replay(cached, tape) as recorded:
        recorded.execute_flow("order", TEA)
        assert recorded._settings["max_step_concurrency"] == 3
        assert cached.get_tool("price") is shop.fake
    assert len(tape) == 2


def test_a_block_that_raises_writes_no_file(tmp_path: Path) -> None:
    """api.md: half a recording would be replayed for ever."""
    shop = Shop()
    with contextlib.suppress(KeyError):
        with record_then_replay(shop.executor, tmp_path / "c.json") as recorded:
            recorded.execute_flow("order", TEA)
            raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_second_recording_gives_the_same_file(tmp_path: Path) -> None:
    """R1: cassettes are kept under version control."""
    steps = [DAGFlowStep(step_id=f"s{n}", tool_name="price", output_mapping={f"p{n}": "price"}) for n in range(5)]
    dag = DAGFlow(name="order", version="1", description="", steps=steps)
    executor = FlowExecutor(tools=[fake_tool(price, returns=1)], flows=[dag], max_step_concurrency=4)
    for name in ("one", "two"):
        with record_then_replay(executor, tmp_path / name) as recorded:
            recorded.execute_flow("order", {"article": "tea"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_outputs_that_break_their_schema_are_replayed_as_such(tmp_path: Path) -> None:
    """R16: a run that failed fails again, in the same way."""
    executor = FlowExecutor(tools=[fake_tool(price, returns={"price": "cheap"}), total], flows=[order()])
    with record_then_replay(executor, tmp_path / "c.json") as recorded:
        first = recorded.execute_flow("order", TEA)
    assert first.step("0").error_type == "SchemaValidationError"
    with record_then_replay(executor, tmp_path / "c.json") as replayed:
        assert_result_matches(replayed.execute_flow("order", TEA), first)


def test_inputs_without_a_fingerprint_are_found_by_their_place() -> None:
    """R29: what cannot be told apart by its value is told apart by step and attempt."""

    @tool
    def use(thing: Any, context: ToolContext) -> str:
        return f"{context.step_id} {len(seen) or ''}"

    seen: list[int] = []
    steps = [FlowStep(tool_name="use", output_mapping={f"o{n}": "use"}) for n in range(2)]
    flow = Flow(name="f", description="", steps=steps)
    executor, tape = FlowExecutor(tools=[use], flows=[flow]), Cassette()
    with record_then_replay(executor, tape) as recorded:
        first = recorded.execute_flow("f", {"thing": threading.Lock()}).final_output or {}
    seen.append(1)
    with record_then_replay(executor, tape) as replayed:
        again = replayed.execute_flow("f", {"thing": threading.Lock()}).final_output or {}
        third = Flow(name="g", description="", steps=[FlowStep(tool_name="use")])
        replayed.registry.register_flow(third)
        error = replayed.execute_flow("g", {"thing": threading.Lock()}).step("0").error_type
    assert [again["o0"], again["o1"]] == [first["o0"], first["o1"]]
    assert error == UnrecordedCallError.__name__


def test_a_replayed_value_belongs_to_its_run() -> None:
    """R30: a run that changes what it got does not change the next one."""

    class Rows(BaseModel):
        rows: list[int]

    give = Tool(name="give", description="", input_schema=Nothing, output_schema=Rows, fn=lambda inputs: {"rows": [1]})
    spoil = Tool(name="spoil", description="", input_schema=Rows, output_schema=Nothing, mutates=["rows"],
                 fn=lambda inputs: inputs.rows.append(2) or {})  # fmt: skip
    flow = Flow(name="f", description="", steps=[FlowStep(tool_name="give"), FlowStep(tool_name="spoil")])
    executor, tape = FlowExecutor(tools=[give, spoil], flows=[flow]), Cassette()
    for _ in range(3):
        with record_then_replay(executor, tape) as taped:
            for _ in range(2):
                assert taped.execute_flow("f", {}).raise_for_failure().step("0").outputs == {"rows": [1]}


def test_secrets_are_not_written(tmp_path: Path) -> None:
    """R39: inputs are masked, and a secret output is refused with a way out; nothing is written then."""

    class Login(BaseModel):
        token: SecretStr
        hidden: str = Field(default="deep", exclude=True)

    path = tmp_path / "c.json"
    login = Tool(name="login", description="", input_schema=Login, output_schema=Nothing, fn=lambda inputs: {})
    issue = Tool(name="issue", description="", input_schema=Nothing, output_schema=Login,
                 fn=lambda inputs: {"token": "s3cret"})  # fmt: skip
    flow = Flow(name="f", description="", steps=[FlowStep(tool_name="login")])
    with record_then_replay(FlowExecutor(tools=[login], flows=[flow]), path) as recorded:
        recorded.execute_flow("f", {"token": "s3cret", "hidden": "s3cret"})
    assert "s3cret" not in path.read_text()
    path.unlink()
    flow = Flow(name="f", description="", steps=[FlowStep(tool_name="issue")])
    with pytest.raises(CassetteError, match="an output of tool 'issue' at step '0' cannot be written") as caught:
        with record_then_replay(FlowExecutor(tools=[issue], flows=[flow]), path) as recorded:
            recorded.execute_flow("f", {})
    assert "leave the tool out with tools=[...]" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text[:-10], "it is no JSON"),
        (lambda text: "[]", "it is no cassette; its 'format' is not 'chainweaver-cassette'"),
        (
            lambda text: text.replace('"version": 1', '"version": 9'),
            "it has format version '9', this release reads '1'",
        ),
        (lambda text: text.replace('"attempt"', '"atempt"'), r"one of its calls is damaged \(KeyError: 'attempt'\)"),
        (lambda text: text.replace('"outputs": {', '"outputs": {"$z": 1, '), "one of its calls is damaged"),
        (
            lambda text: text.replace('"outputs"', '"output"'),
            r"one of its calls is damaged \(ValueError: a call has neither",
        ),
    ],
)
def test_a_damaged_file_is_a_typed_error_that_names_it(change: Any, told: str, tmp_path: Path) -> None:
    """R34: E111, before anything runs."""
    shop, path = Shop(), tmp_path / "c.json"
    with record_then_replay(shop.executor, path) as recorded:
        recorded.execute_flow("order", TEA)
    path.write_text(change(path.read_text()))
    with pytest.raises(CassetteError, match=rf"c\.json' cannot be used: {told}"):
        with record_then_replay(shop.executor, path):
            pass


def test_outputs_that_no_longer_fit_the_schema_are_told(tmp_path: Path) -> None:
    """R34: what a file holds has to have the declared type."""
    shop, path = Shop(), tmp_path / "c.json"
    with record_then_replay(shop.executor, path) as recorded:
        recorded.execute_flow("order", TEA)
    document = json.loads(path.read_text())
    document["calls"][0]["outputs"] = {"price": ["cheap"]}
    path.write_text(json.dumps(document))
    with record_then_replay(shop.executor, path) as replayed:
        record = replayed.execute_flow("order", TEA).step("0")
    assert record.error_type == "CassetteError"
    assert "should be of type 'float' and is of type 'list'" in str(record.error_message)


@lanes
def test_async_tools_are_taped_like_others(lane: Lane, tmp_path: Path) -> None:
    """R26: outputs and errors of coroutines."""
    calls: list[str] = []

    @tool
    async def stock(article: str) -> int:
        calls.append(article)
        if article == "rum":
            raise OSError("sold out")
        return 7

    flow = Flow(name="f", description="", steps=[FlowStep(tool_name="stock")])
    executor = lane.executor(tools=[stock], flows=[flow])
    given = [{"article": "tea"}, {"article": "rum"}]
    with record_then_replay(executor, tmp_path / "c.json") as recorded:
        first = [lane.run(recorded, "f", one) for one in given]
    with record_then_replay(executor, tmp_path / "c.json") as replayed:
        for one, result in zip(given, first, strict=True):
            assert_result_matches(lane.run(replayed, "f", one), result)
    assert calls == ["tea", "rum"]


def test_long_inputs_are_not_written_and_found_all_the_same(tmp_path: Path) -> None:
    """api.md: the fingerprint finds a call; only the comparison with a miss is poorer."""

    @tool
    def length(text: str) -> int:
        return len(text)

    flow = Flow(name="f", description="", steps=[FlowStep(tool_name="length")])
    executor, path = FlowExecutor(tools=[length], flows=[flow]), tmp_path / "c.json"
    with record_then_replay(executor, path) as recorded:
        recorded.execute_flow("f", {"text": "x" * 20_000})
    assert path.stat().st_size < 1_000
    with record_then_replay(executor, path) as replayed:
        assert replayed.execute_flow("f", {"text": "x" * 20_000}).step("0").outputs == {"length": 20_000}
        message = str(replayed.execute_flow("f", {"text": "y"}).step("0").error_message)
    assert "nearest is step '0', attempt 1, whose inputs are too long to be compared" in message


def test_inputs_that_differ_in_what_is_not_shown_are_said_to() -> None:
    """R29: secrets are part of the fingerprint and of no message."""

    class Login(BaseModel):
        token: SecretStr

    login = Tool(name="login", description="", input_schema=Login, output_schema=Nothing, fn=lambda inputs: {})
    flow = Flow(name="f", description="", steps=[FlowStep(tool_name="login")])
    executor, tape = FlowExecutor(tools=[login], flows=[flow]), Cassette()
    with record_then_replay(executor, tape) as recorded:
        recorded.execute_flow("f", {"token": "one"})
    with record_then_replay(executor, tape) as replayed:
        message = str(replayed.execute_flow("f", {"token": "two"}).step("0").error_message)
    assert "whose inputs read the same; they differ in their types, or in what is not shown" in message
    assert "two" not in message


def test_names_of_tools_are_a_list() -> None:
    """api.md: tools="price" would be five letters."""
    with pytest.raises(TypeError, match="tools has to be a list of names, not the text 'price'"):
        with record_then_replay(Shop().executor, Cassette(), tools="price"):
            pass
    assert repr(Cassette()) == "Cassette('in memory', 0 call(s))"
