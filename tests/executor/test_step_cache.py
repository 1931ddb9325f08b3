"""The step cache as a user meets it: what is a hit, what never is, and what a record says about it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr

from chainweaver import (
    ExecutionResult,
    FileStepCache,
    Flow,
    FlowExecutor,
    FlowStep,
    InMemoryStepCache,
    SideEffectLevel,
    Tool,
    ToolSafetyContract,
    tool,
)
from tests.executor.kit import Calls, Number, Out, linear, merged

ROOT = Path(__file__).parents[2]
CACHES: dict[str, Any] = {"memory": lambda path: InMemoryStepCache(), "file": FileStepCache}


@pytest.fixture(params=CACHES)
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """One step cache of each kind."""
    return CACHES[request.param](tmp_path / "cache")


def run(cache: Any, made: Tool, given: dict[str, Any], **options: Any) -> ExecutionResult:
    """One step, in an executor of its own."""
    mapping = options.pop("mapping", {})
    flow = linear(FlowStep(tool_name=made.name, input_mapping=mapping), **options)
    return FlowExecutor(tools=[made], flows=[flow], step_cache=cache).execute_flow("flow", given)


def hits(cache: Any, made: Tool, *given: dict[str, Any]) -> list[bool]:
    """Whether each of these inputs is a hit, one after the other."""
    return [run(cache, made, one).raise_for_failure().execution_log[0].cached for one in given]


class Loose(BaseModel):
    value: Any = None


def test_equal_inputs_are_a_hit_and_others_are_not(cache: Any):
    """R29: one call for each input; the record of a hit says so and has no attempts."""
    calls = Calls()
    made = calls.tool("t")
    assert hits(cache, made, {"n": 1}, {"n": 1}, {"n": 2}, {"n": 1}, {"n": "2"}) == [False, True, False, True, True]
    assert calls.counts == {"t": 2}
    record = run(cache, made, {"n": 2}).execution_log[0]
    assert (record.cached, record.retry_count, record.outputs, record.inputs) == (True, 0, {"out": 3}, {"n": 2})
    assert record.cache_note is None


@pytest.mark.parametrize("pair", [(1, True), (1, 1.0), ("1", 1), (b"1", "1"), ([1], (1,)), (0.0, -0.0), (None, "None")])
def test_what_a_tool_can_tell_apart_is_another_key(cache: Any, pair: tuple[Any, Any]):
    """R29: types count, and so does the sign of zero."""
    made = Calls().tool("t", lambda given: {"out": 1}, input_schema=Loose)
    assert hits(cache, made, {"value": pair[0]}, {"value": pair[1]}) == [False, False]


class Rows(BaseModel):
    rows: list[Any]


def test_a_hit_that_is_changed_does_not_change_the_next(cache: Any):
    """R30: what is handed out shares nothing with what is stored, nor does what was stored with the first result."""
    made = Calls().tool("t", lambda given: {"rows": [[1], {"a": [2]}]}, output_schema=Rows)
    for _ in range(3):
        rows = merged(run(cache, made, {"n": 0}))["rows"]
        assert rows == [[1], {"a": [2]}]
        rows[0].append("changed")
        rows[1]["a"].append("changed")
        rows.append("changed")


def test_a_later_step_that_changes_a_hit_does_not_change_the_next(cache: Any):
    """R30: the step that receives a hit may do with it what it likes."""

    @tool(cacheable=False)
    def spoil(rows: list) -> int:
        rows.append(9)
        return len(rows)

    made = Calls().tool("t", lambda given: {"rows": [1]}, output_schema=Rows)
    flow = linear(FlowStep(tool_name="t"), FlowStep(tool_name="spoil"))
    executor = FlowExecutor(tools=[made, spoil], flows=[flow], step_cache=cache)
    for _ in range(3):
        assert merged(executor.execute_flow("flow", {"n": 0})) == {"n": 0, "rows": [1, 9], "spoil": 2}


class Login(BaseModel):
    user: str
    password: SecretStr
    hidden: str = Field(default="", exclude=True)


def test_two_secrets_are_two_keys(cache: Any, tmp_path: Path):
    """R29: a secret counts for the key, and so does a field that no dump shows; neither is stored."""
    made = Calls().tool("t", lambda given: {"out": len(given.password.get_secret_value())}, input_schema=Login)
    ada, bob = {"user": "u", "password": "ada-s3cret"}, {"user": "u", "password": "bob-s3cret!"}
    assert hits(cache, made, ada, bob, ada, bob) == [False, False, True, True]
    assert merged(run(cache, made, bob))["out"] == len("bob-s3cret!")
    assert hits(cache, made, {**ada, "hidden": "x-hidden"}, {**ada, "hidden": "x-hidden"}) == [False, True]
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert [data for data in files if b"s3cret" in data or b"x-hidden" in data] == []


def test_an_input_without_a_fingerprint_is_a_miss_with_a_reason(cache: Any):
    """R29: never a constant key, never an error."""
    calls = Calls()
    made = calls.tool("t", lambda given: {"out": 1}, input_schema=Loose)
    lock = threading.Lock()
    for _ in range(2):
        [record] = run(cache, made, {"value": lock}).execution_log
        assert (record.status, record.cached) == ("ok", False)
        assert "lock" in str(record.cache_note)
    assert calls.counts == {"t": 2}


def test_outputs_that_cannot_be_kept_are_a_note(cache: Any):
    """R30: what cannot be copied is no entry; the run has its outputs all the same."""
    lock = threading.Lock()

    class Any_(BaseModel):
        value: Any

    calls = Calls()
    made = calls.tool("t", lambda given: {"value": lock}, output_schema=Any_)
    for _ in range(2):
        result = run(cache, made, {"n": 0})
        assert merged(result)["value"] is lock
        assert "lock" in str(result.execution_log[0].cache_note)
    assert calls.counts == {"t": 2}


@pytest.mark.parametrize(
    ("options", "cached"),
    [
        ({}, True),
        ({"safety": ToolSafetyContract(side_effects=SideEffectLevel.READ)}, True),
        ({"safety": ToolSafetyContract(side_effects=SideEffectLevel.WRITE)}, False),
        ({"safety": ToolSafetyContract(side_effects=SideEffectLevel.DESTRUCTIVE)}, False),
        ({"safety": ToolSafetyContract(cacheable=False)}, False),
        ({"safety": ToolSafetyContract(side_effects=SideEffectLevel.WRITE), "cacheable": True}, True),
        ({"cacheable": False}, False),
    ],
)
def test_a_tool_that_changes_the_world_is_not_cached_unless_it_says_so(options: dict[str, Any], cached: bool):
    """R30: declared write effects mean that calling is the point."""
    made = Calls().tool("t", **options)
    assert hits(InMemoryStepCache(), made, {"n": 1}, {"n": 1}) == [False, cached]


def test_a_new_version_of_the_author_makes_entries_stale(cache: Any):
    """R29: equal schemas with other behaviour are told apart by `schema_version`."""
    calls = Calls()
    assert hits(cache, calls.tool("t"), {"n": 1}) == [False]
    assert hits(cache, calls.tool("t", schema_version="2.0.0"), {"n": 1}, {"n": 1}) == [False, True]
    assert hits(cache, calls.tool("t"), {"n": 1}) == [True]


def test_another_tool_and_another_schema_are_other_keys(cache: Any):
    """R29: the name and the schemas of the tool are part of the key."""

    class Wider(Out):
        more: int = 0

    calls = Calls()
    assert hits(cache, calls.tool("t"), {"n": 1}) == [False]
    assert hits(cache, calls.tool("other"), {"n": 1}) == [False]
    assert hits(cache, calls.tool("t", output_schema=Wider), {"n": 1}) == [False]


def test_a_hit_still_has_to_fit_the_contract_of_its_step(cache: Any):
    """R29: another flow may ask for more than the one that filled the cache."""
    made = Calls().tool("t")
    run(cache, made, {"n": 1}).raise_for_failure()
    flow = linear(FlowStep(tool_name="t", output_contract="tests.executor.test_step_cache:AtLeastTen"))
    result = FlowExecutor(tools=[made], flows=[flow], step_cache=cache).execute_flow("flow", {"n": 1})
    assert (result.status, result.execution_log[0].error_type) == ("failed", "SchemaValidationError")


class AtLeastTen(BaseModel):
    out: int = Field(ge=10)


def test_a_hit_is_renamed_like_any_output(cache: Any):
    """R11: entries hold the names of the tool; each step maps them as it likes."""
    made = Calls().tool("t")
    steps = [FlowStep(tool_name="t", output_mapping={name: "out"}) for name in ("a", "b")]
    executor = FlowExecutor(tools=[made], flows=[linear(*steps)], step_cache=cache)
    result = executor.execute_flow("flow", {"n": 1})
    assert merged(result) == {"n": 1, "a": 2, "b": 2}
    assert [(record.cached, record.outputs) for record in result.execution_log] == [
        (False, {"out": 2}),
        (True, {"out": 2}),
    ]


def test_a_failure_is_no_entry(cache: Any):
    """R29: only outputs that passed their gate are kept."""
    faults = [OSError("busy")]

    def once(given: Any) -> dict[str, int]:
        if faults:
            raise faults.pop()
        return {"out": 1}

    made = Calls().tool("t", once)
    assert run(cache, made, {"n": 1}).status == "failed"
    assert hits(cache, made, {"n": 1}, {"n": 1}) == [False, True]


PROCESS = """
import sys
from chainweaver import FileStepCache
from tests.executor.test_step_cache import run, typed_tool
result = run(FileStepCache(sys.argv[1]), typed_tool(), {"n": 3})
print(result.execution_log[0].cached, result.final_output["inner"])
"""


class Inner(BaseModel):
    of: set[int]


class Outer(BaseModel):
    inner: Inner


def typed_tool() -> Tool:
    return Tool(
        name="typed",
        description="d",
        input_schema=Number,
        output_schema=Outer,
        fn=lambda given: {"inner": {"of": {given.n, 1}}},
    )


def test_processes_share_a_directory(tmp_path: Path):
    """R29: what one process computed is a hit in another one, under another hash seed, with its declared type."""
    told = [
        subprocess.run(
            [sys.executable, "-c", PROCESS, str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split(maxsplit=1)[0]
        for seed in ("1", "2")
    ]
    assert told == ["False", "True"]
    result = run(FileStepCache(tmp_path), typed_tool(), {"n": 3})
    assert result.execution_log[0].cached
    assert merged(result)["inner"] == Inner(of={1, 3})


@pytest.mark.parametrize(("broken", "note"), [("get", "not read: OSError: down"), ("set", "not stored: OSError: down")])
def test_a_store_that_is_down_costs_a_note_and_no_run(broken: str, note: str):
    """R29: a cache is a help; without it the tool is called."""

    class Down(InMemoryStepCache):
        pass

    def fail(*args: Any) -> Any:
        raise OSError("down")

    setattr(Down, broken, fail)
    calls = Calls()
    made, cache = calls.tool("t"), Down()
    for _ in range(2):
        result = run(cache, made, {"n": 1})
        assert (result.status, result.execution_log[0].cache_note) == ("ok", note)
    assert calls.counts == {"t": 2}


def test_an_entry_that_does_not_fit_is_a_miss():
    """R34: a store that hands out what was never put in cannot bring a wrong type into a run."""

    class Liar(dict):  # type: ignore[type-arg]
        wants_plain = True

        def get(self, key: Any, default: Any = None) -> Any:
            return {"inner": {"of": "nothing of the kind"}}

        def set(self, key: Any, output: Any) -> None:
            pass

    result = run(Liar(), typed_tool(), {"n": 3})
    assert merged(result)["inner"] == Inner(of={1, 3})
    assert "not read" in str(result.execution_log[0].cache_note)


def test_a_damaged_file_is_a_miss(tmp_path: Path):
    """R34: bytes that are not what was written count as nothing."""
    calls, cache = Calls(), FileStepCache(tmp_path)
    made = calls.tool("t")
    run(cache, made, {"n": 1})
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes().replace(b"2", b"7"))
    assert hits(cache, made, {"n": 1}, {"n": 1}) == [False, True]
    assert merged(run(cache, made, {"n": 1}))["out"] == 2


def test_an_entry_ends_with_its_time():
    """R30: bounds hold for runs as well."""
    now = [0.0]
    cache = InMemoryStepCache(ttl_seconds=60, clock=lambda: now[0])
    made = Calls().tool("t")
    told = []
    for at in (0, 59, 60, 61):
        now[0] = at
        told += hits(cache, made, {"n": 1})
    assert told == [False, True, False, True]


def test_the_oldest_entry_goes_first():
    """R30: a cache holds as many entries as it was told."""
    cache = InMemoryStepCache(max_entries=2)
    made = Calls().tool("t")
    assert hits(cache, made, *({"n": n} for n in (1, 2, 3, 3, 1))) == [False, False, False, True, False]
    assert len(cache) == 2


def test_the_object_of_a_miss_is_passed_on_itself(cache: Any):
    """R14: a cache in between changes nothing about the run that fills it."""
    made_object = [1, [2]]

    class Same(BaseModel):
        value: Any

    made = Calls().tool("t", lambda given: {"value": made_object}, output_schema=Same)
    assert merged(run(cache, made, {"n": 1}))["value"] is made_object


def test_a_fallback_is_not_asked_of_the_cache_of_its_primary(cache: Any):
    """R29: outputs of a stand-in are no entry for the tool that failed."""
    calls, faults = Calls(), [OSError("busy")]

    def once(given: Any) -> dict[str, int]:
        if faults:
            raise faults.pop()
        return {"out": 1}

    tools = [calls.tool("a", once), calls.tool("b", lambda given: {"out": 2})]
    flow = linear(FlowStep(tool_name="a", on_error="fallback:b"))
    executor = FlowExecutor(tools=tools, flows=[flow], step_cache=cache)
    outputs = [merged(executor.execute_flow("flow", {"n": 0}))["out"] for _ in range(3)]
    assert (outputs, dict(calls.counts)) == ([2, 1, 1], {"a": 2, "b": 1})


@pytest.mark.parametrize("entry", [{}, {"other": 1}, {"doubled": 2, "other": 1}], ids=["empty", "foreign", "too much"])
def test_an_entry_with_other_keys_than_the_tool_writes_is_a_miss_with_a_reason(entry: dict[str, int]) -> None:
    """R29, R34: what a store answers is held against the compiled flow before it counts."""

    class Confused:
        def get(self, key: object) -> dict[str, int]:
            return dict(entry)

        def set(self, key: object, output: dict[str, int]) -> None:
            pass

        def clear(self) -> None:
            pass

    @tool(output="doubled")
    def double(n: int) -> int:
        return 2 * n

    flow = Flow(name="f", description="d", steps=[FlowStep(tool_name="double")])
    with FlowExecutor(tools=[double], flows=[flow], step_cache=Confused()) as executor:
        result = executor.execute_flow("f", {"n": 1})

    [record] = result.execution_log
    assert (result.final_output, record.cached) == ({"n": 1, "doubled": 2}, False)
    assert record.cache_note is not None
    assert "instead of ['doubled']" in record.cache_note
