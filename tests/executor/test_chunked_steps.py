"""Steps that take an input in chunks: one step to everybody, on every lane, whatever becomes of a chunk."""

from __future__ import annotations

import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel, ConfigDict

from chainweaver import (
    ApprovalDecision,
    CancellationToken,
    Chunk,
    FileCheckpointer,
    Flow,
    FlowCancelledError,
    FlowExecutor,
    FlowStep,
    InMemoryStepCache,
    RetryPolicy,
    Tool,
    ToolContext,
    ToolSafetyContract,
    compile_flow,
    flow_from_json,
    flow_from_yaml,
    flow_to_ascii,
    flow_to_json,
    flow_to_yaml,
    tool,
)
from tests.lanes.table import LANES, LIMITS, SYNC, Lane


class Data(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    data: np.ndarray
    factor: int = 1


class Made(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    total: int
    made: np.ndarray


def scale(given: Data) -> dict[str, Any]:
    made = given.data * given.factor
    return {"total": int(made.sum()), "made": made}


SCALE = Tool(name="scale", description="d", input_schema=Data, output_schema=Made, fn=scale)


@tool
def total(data: Any) -> int:
    return int(sum(data))


@tool
def rows(data: pa.Table) -> int:
    return len(data)


@tool(output="biggest")
def largest(total: list[int]) -> int:
    return max(total)


def a_flow(name: str = "total", chunk: Chunk | None = None, **options: Any) -> Flow:
    chunk = chunk or Chunk(input="data", rows=4, combine="sum")
    return Flow(name="f", description="d", steps=[FlowStep(tool_name=name, chunk=chunk, **options)])


def run(flow: Flow, tools: list[Tool], data: Any, lane: Lane = SYNC, **options: Any) -> Any:
    with lane.executor(tools=tools, flows=[flow], **options) as executor:
        return lane.run(executor, "f", {"data": data, "factor": 2})


def replace(one: Tool, name: str) -> Tool:
    """The same tool under another name."""
    return Tool(name=name, description="d", input_schema=one.input_schema, output_schema=one.output_schema, fn=one.fn)


def told(value: Any) -> Any:
    """Arrays as lists, for comparing."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: told(item) for key, item in value.items()}
    return [told(item) for item in value] if isinstance(value, list) else value


@tool(output="biggest")
def largest_of(total: list[int], made: list[Any]) -> int:
    return max(total) + len(made)


COMBINED = {
    "list": {"total": [12, 44, 34], "made": [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18]]},
    "largest_of": {"biggest": 47},
}


@pytest.mark.parametrize("lane", LANES, ids=str)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("combine", COMBINED)
def test_a_chunked_step_gives_the_same_on_every_lane(lane, limit, combine):
    """R1: chunks go one after the other whatever the limit, and the outputs are combined in their order."""
    flow = a_flow("scale", Chunk(input="data", rows=4, combine=combine))
    flow = flow.model_copy(update={"outputs": list(COMBINED[combine])})

    result = run(flow, [SCALE, largest_of], np.arange(10), lane, max_step_concurrency=limit)

    assert told(result.raise_for_failure().final_output) == COMBINED[combine]


@pytest.mark.parametrize("lane", LANES, ids=str)
def test_outputs_are_put_one_after_the_other_or_added(lane):
    """Larger than memory: combine="concat" and "sum"."""

    @tool(output="made")
    def twice(data: Any) -> Any:
        return data * 2

    for combine, data, expected in (
        ("concat", np.arange(10), list(range(0, 20, 2))),
        ("sum", np.arange(8), [8, 12, 16, 20]),
    ):
        flow = a_flow("twice", Chunk(input="data", bytes=32, combine=combine))
        assert run(flow, [twice], data, lane).final_output["made"].tolist() == expected


@pytest.mark.parametrize("lane", LANES, ids=str)
def test_async_tools_take_chunks_as_well(lane):
    """R26: tools may be def or async def on either lane."""

    @tool(output="total")
    async def total(data: Any) -> int:
        return int(sum(data))

    assert run(a_flow(), [total], range(10), lane).final_output["total"] == 45


def test_a_chunked_step_is_recorded_as_one_step():
    """R28: a step with `chunk` stays one step; its record shows the whole input by reference, and what it gave."""
    data = np.arange(10)

    result = run(a_flow("scale", Chunk(input="data", rows=4)), [SCALE], data)

    [record] = result.execution_log
    assert record.inputs["data"] is data
    assert record.outputs["total"] == [12, 44, 34]
    assert (record.sub_result, record.retry_count, record.status) == (None, 0, "ok")


def test_a_single_chunk_and_none_at_all_are_chunks_like_others():
    """Larger than memory: an empty input has one empty chunk."""
    assert run(a_flow(), [total], [1, 2]).final_output["total"] == 3
    assert run(a_flow(), [total], []).final_output["total"] == 0


def test_parquet_files_are_read_chunk_by_chunk_from_their_path(tmp_path):
    """Larger than memory: what is cut need not be of the type that the tool takes."""
    pq.write_table(pa.table({"a": range(1_000)}), tmp_path / "data.parquet")
    flow = a_flow("rows", Chunk(input="data", rows=300))

    @tool(output="data")
    def find(folder: str) -> Path:
        return Path(folder) / "data.parquet"

    flow = flow.model_copy(update={"steps": [FlowStep(tool_name="find"), *flow.steps]})
    assert compile_flow(flow, [find, rows]).errors == ()
    with FlowExecutor(tools=[find, rows], flows=[flow]) as executor:
        result = executor.execute_flow("f", {"folder": str(tmp_path)})

    assert result.raise_for_failure().final_output["rows"] == [300, 300, 300, 100]


def test_no_more_than_one_chunk_is_alive():
    """Larger than memory: the one before is let go before the next one is read, and no record holds it."""
    alive: list[weakref.ref[Any]] = []
    most = 0

    class Part(list[int]):
        """A list that can be referred to weakly."""

    def make() -> Part:
        nonlocal most
        most = max(most, sum(one() is not None for one in alive))
        part = Part([1])
        alive.append(weakref.ref(part))
        return part

    def parts() -> Any:
        for _ in range(10):
            yield make()

    @tool(output="total")
    def count(data: Any) -> int:
        return len(data)

    result = run(a_flow("count", Chunk(input="data", rows=1, combine="sum")), [count], parts())

    assert result.raise_for_failure().final_output["total"] == 10
    assert most == 0


# ---- failures


class Failing:
    """A tool that fails at one of its calls."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers
        self.calls: list[Any] = []

    @property
    def tool(self) -> Tool:
        @tool(output="total")
        def work(data: Any) -> int:
            self.calls.append(list(data))
            if len(self.calls) in self.numbers:
                raise OSError("the disk is gone")
            return int(sum(data))

        return work


@pytest.mark.parametrize("lane", LANES, ids=str)
def test_a_chunk_that_fails_fails_the_step(lane):
    """R16, R18: with the error of the tool, and no further chunk is read."""
    failing = Failing(2)

    result = run(a_flow("work"), [failing.tool], range(12), lane)

    [record] = result.execution_log
    assert (record.status, record.error_type, record.error_cause) == ("failed", "FlowExecutionError", "OSError")
    assert len(failing.calls) == 2


@pytest.mark.parametrize("lane", LANES, ids=str)
def test_a_retry_begins_with_the_first_chunk(lane):
    """R20, R28: an attempt calls the tool for each chunk in turn."""
    failing = Failing(2)

    result = run(a_flow("work", retry=RetryPolicy(max_retries=1, backoff_seconds=0)), [failing.tool], range(12), lane)

    assert result.final_output["total"] == 66
    assert [call[0] for call in failing.calls] == [0, 4, 0, 4, 8]
    assert result.execution_log[0].retry_count == 1


def test_what_can_be_read_once_only_is_not_tried_again():
    """R20, R28: another attempt over an iterator would see its rest and call it the whole."""
    failing = Failing(2)
    steps = {"retry": RetryPolicy(max_retries=3, backoff_seconds=0), "on_error": "fallback:total"}

    result = run(a_flow("work", **steps), [failing.tool, total], iter(range(12)))

    assert (result.status, len(failing.calls)) == ("failed", 2)
    assert result.execution_log[0].error_cause == "OSError"


def test_a_fallback_takes_the_chunks_from_the_first_one():
    """R21: with the same inputs, behind the same gates."""
    failing = Failing(3)

    result = run(a_flow("work", on_error="fallback:total"), [failing.tool, total], range(12))

    assert result.final_output["total"] == 66
    assert result.execution_log[0].fallback_tool_name == "total"


def test_a_step_that_may_be_skipped_is_skipped_as_a_whole():
    """R21: on_error="skip" leaves nothing of the chunks that went well."""
    result = run(a_flow("work", on_error="skip"), [Failing(3).tool], range(12))

    assert result.status == "ok"
    assert "total" not in result.final_output


def test_a_value_that_cannot_be_cut_fails_the_step():
    """R16: with what could be cut."""
    result = run(a_flow(), [total], 7)

    assert "type 'int' cannot be cut into chunks" in result.execution_log[0].error_message


def test_outputs_that_turn_out_not_to_add_up_fail_the_step():
    """R16: where no schema could tell beforehand."""

    @tool(output="it")
    def wrap(data: Any) -> Any:
        return {"rows": len(data)}

    result = run(a_flow("wrap"), [wrap], range(12))

    assert "values of output 'it' cannot be added" in result.execution_log[0].error_message


@pytest.mark.parametrize("lane", LANES, ids=str)
def test_the_limit_of_a_step_is_for_all_of_its_chunks(lane):
    """R22: limits of a step are for an attempt, and an attempt is a pass."""

    @tool(output="total")
    def slow(data: Any) -> int:
        time.sleep(0.02)
        return len(data)

    chunk = Chunk(input="data", rows=1, combine="sum")
    result = run(a_flow("slow", chunk, timeout_seconds=0.1), [slow], range(500), lane)

    assert result.execution_log[0].error_type == "ToolTimeoutError"
    assert result.execution_log[0].duration_ms < 5_000


@pytest.mark.parametrize("lane", LANES, ids=str)
def test_a_cancelled_run_reads_no_further_chunk(lane):
    """R23: cancellation is looked at before everything the run does next."""
    token = CancellationToken()
    calls = []

    @tool(output="total")
    def work(data: Any) -> int:
        calls.append(list(data))
        token.cancel()
        return 1

    with lane.executor(tools=[work], flows=[a_flow("work")]) as executor, pytest.raises(FlowCancelledError) as caught:
        lane.run(executor, "f", {"data": range(12)}, cancel_token=token)

    assert len(calls) == 1
    assert caught.value.result.execution_log[0].status == "cancelled"


def test_a_chunk_that_the_tool_does_not_take_fails_the_step():
    """R16: chunks are validated like inputs."""

    @tool(output="total")
    def whole(data: list[int]) -> int:
        return sum(data)

    result = run(a_flow("whole"), [whole], ["a", "b"])

    assert result.execution_log[0].error_type == "SchemaValidationError"


# ---- gates


def test_contracts_hold_for_each_call_and_for_what_the_step_gives():
    """R16: inputs of a call, outputs of the step."""
    refs = {"input_contract": f"{__name__}:AtMostFour", "output_contract": f"{__name__}:AtLeastFifty"}

    assert run(a_flow("total", **refs), [total], range(12)).status == "ok"
    assert run(a_flow("total", **refs), [total], range(8)).execution_log[0].error_type == "SchemaValidationError"
    larger = Chunk(input="data", rows=5, combine="sum")
    assert run(a_flow("total", larger, **refs), [total], range(12)).execution_log[0].error_type == (
        "SchemaValidationError"
    )


class AtMostFour(BaseModel):
    data: Any

    def model_post_init(self, context: Any) -> None:
        if len(self.data) > 4:
            raise ValueError("too many")


class AtLeastFifty(BaseModel):
    total: int

    def model_post_init(self, context: Any) -> None:
        if self.total < 50:
            raise ValueError("too little")


def test_an_approval_is_asked_once_and_a_guardrail_at_every_call():
    """R26: called once somebody has agreed, for all attempts; a guardrail sees the values of every call."""
    asked: list[Any] = []
    seen: list[Any] = []

    @tool(output="total", safety=ToolSafetyContract(requires_approval=True))
    def careful(data: Any) -> int:
        return int(sum(data))

    result = run(
        a_flow("careful"), [careful], range(12),
        approval_callback=lambda context: asked.append(context.inputs) or ApprovalDecision(True),
        guardrail_callback=lambda context: seen.append((context.stage, context.values)) and None,
    )  # fmt: skip

    assert result.raise_for_failure().final_output["total"] == 66
    assert len(asked) == 1
    assert [stage for stage, _ in seen] == ["input", "output"] * 3


def test_the_combine_tool_passes_the_same_gates():
    """R26: the ceiling, dry runs, approvals and guardrails hold for it, and before a chunk is read."""
    failing = Failing()
    flow = a_flow("work", Chunk(input="data", rows=4, combine="merge"))
    asked: list[str] = []
    stages: list[str] = []

    @tool(output="biggest", safety=ToolSafetyContract(side_effects="write", requires_approval=True))
    def merge(total: list[int]) -> int:
        return max(total)

    tools = [failing.tool, merge]
    refused = run(flow, tools, range(12), max_side_effect_level="read")
    denied = run(flow, tools, range(12))
    with FlowExecutor(tools=[replace(total, "work"), merge], flows=[flow]) as executor:
        dry = executor.execute_flow("f", {"data": range(12)}, dry_run=True)
    assert failing.calls == []
    agreed = run(
        flow, tools, range(12),
        approval_callback=lambda context: asked.append(context.tool_name) or True,
        guardrail_callback=lambda context: stages.append(f"{context.tool_name} {context.stage}") and None,
    )  # fmt: skip

    assert refused.execution_log[0].error_type == "SafetyCeilingError"
    assert denied.execution_log[0].error_type == "ApprovalDeniedError"
    assert dry.execution_log[0].status == "skipped"
    assert agreed.raise_for_failure().final_output["biggest"] == 38
    assert asked == ["merge"]
    assert stages[-2:] == ["merge input", "merge output"]


def test_a_dry_run_calls_the_rehearsals_with_chunks():
    """R26: a dry run calls `dry_run_fn`, once per chunk."""
    calls: list[int] = []
    dry = Tool(
        name="scale", description="d", input_schema=Data, output_schema=Made, fn=scale,
        dry_run_fn=lambda given: calls.append(len(given.data)) or {"total": 0, "made": given.data},
    )  # fmt: skip
    flow = a_flow("scale", Chunk(input="data", rows=4))
    with FlowExecutor(tools=[dry], flows=[flow]) as executor:
        result = executor.execute_flow("f", {"data": np.arange(10)}, dry_run=True)

    assert result.final_output["total"] == [0, 0, 0]
    assert calls == [4, 4, 2]


def test_a_refused_chunk_is_not_tried_again():
    """R26: a guardrail's word is the last one."""
    calls: list[Any] = []

    def refuse(context: Any) -> str | None:
        calls.append(context)
        return "no" if len(calls) == 3 else None

    result = run(
        a_flow("total", retry=RetryPolicy(max_retries=3, backoff_seconds=0)), [total], range(12),
        guardrail_callback=refuse,
    )  # fmt: skip

    assert (result.execution_log[0].error_type, len(calls)) == ("GuardrailViolationError", 3)


def test_a_tool_that_is_chosen_in_the_run_gets_the_chunks():
    """R26: a step with candidates calls the one that the decision names."""
    result = run(
        a_flow("work", decision_candidates=["total"]), [Failing(1).tool, total], range(12),
        decision_callback=lambda context: "total",
    )  # fmt: skip

    assert result.final_output["total"] == 66


def test_every_call_knows_the_step_and_the_attempt():
    """R32: the idempotency key is that of the step."""
    keys = set()

    @tool(output="total")
    def work(data: Any, context: ToolContext) -> int:
        keys.add((context.step_path, context.attempt))
        return len(data)

    run(a_flow("work"), [work], range(12))

    assert keys == {(("0",), 1)}


# ---- stores


def test_a_chunked_step_is_not_cached_and_says_so():
    """R29: the reason stands in cache_note."""
    cache = InMemoryStepCache()

    result = run(a_flow(), [total], range(12), step_cache=cache)

    assert result.execution_log[0].cache_note == "a step that takes its input in chunks is not cached"


@pytest.mark.parametrize(
    ("combine", "expected"), [("list", {"total": [6, 22, 38]}), ("sum", {"total": 66}), ("largest", {"biggest": 38})]
)
def test_a_finished_chunked_step_never_runs_again(tmp_path, combine, expected):
    """R32: its outputs, also those in lists, come back from the checkpoint with their types."""
    failing, broken = Failing(), Failing(1)
    flow = a_flow("work", Chunk(input="data", rows=4, combine=combine))
    second = FlowStep(tool_name="second", input_mapping={"data": "/data"}, output_mapping={"last": "total"})
    flow = flow.model_copy(update={"steps": [*flow.steps, second]})
    fails = replace(broken.tool, "second")
    executor = FlowExecutor(tools=[failing.tool, largest, fails], flows=[flow], checkpointer=FileCheckpointer(tmp_path))
    first = executor.execute_flow("f", {"data": list(range(12))})
    assert first.status == "failed"

    resumed = executor.resume_flow(first.trace_id)

    assert len(failing.calls) == 3
    assert {key: resumed.final_output[key] for key in expected} == expected


# ---- definitions


class Numbers(BaseModel):
    rows: list[int]


class NumbersAndCount(BaseModel):
    rows: list[int]
    n: int


class ListsOfThem(BaseModel):
    rows: list[list[int]]
    n: list[int]


class AnyAndLists(BaseModel):
    data: Any
    rows: list[list[int]]


@pytest.mark.parametrize("validation", ["boundaries", "once"])
def test_outputs_of_one_call_are_held_against_the_model_of_one_call(validation):
    """Validating once: what the step gives and what one of its calls gives are two things."""
    counted = Tool(
        name="counted", description="", input_schema=Numbers, output_schema=NumbersAndCount,
        fn=lambda given: {"rows": given.rows, "n": 1},
    )  # fmt: skip
    total = Tool(
        name="total", description="", input_schema=ListsOfThem, output_schema=Numbers,
        fn=lambda given: {"rows": [sum(given.n)]},
    )  # fmt: skip
    handed_on = Tool(
        name="handed_on", description="", input_schema=AnyAndLists, output_schema=Numbers,
        fn=lambda given: {"rows": given.rows},
    )  # fmt: skip
    steps = {
        "good": FlowStep(tool_name="counted", chunk=Chunk(input="rows", rows=2, combine="total")),
        "bad": FlowStep(tool_name="handed_on", chunk=Chunk(input="data", rows=2)),
    }
    flows = [
        Flow(name=name, description="", validation=validation, on_context_collision="overwrite", steps=[step])
        for name, step in steps.items()
    ]
    with FlowExecutor(tools=[counted, total, handed_on], flows=flows) as executor:
        assert executor.execute_flow("good", {"rows": [1, 2, 3]}).final_output == {"rows": [2]}
        refused = executor.execute_flow("bad", {"data": [1, 2, 3], "rows": [[1]]})
        assert refused.status == "failed"
        assert "rows.0: Input should be a valid integer" in str(refused.execution_log[0].error_message)


def test_a_chunk_is_part_of_the_definition():
    """Larger than memory: in JSON and YAML."""
    flow = a_flow(chunk=Chunk(input="data", bytes=64 << 20, combine="concat"))

    assert flow_from_json(flow_to_json(flow)) == flow
    assert flow_from_yaml(flow_to_yaml(flow)) == flow
    assert flow_from_yaml(flow_to_yaml(flow)).steps[0].chunk == Chunk(input="data", bytes=64 << 20, combine="concat")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tool_name": "t", "map_over": "items"}, "exclude each other"),
        ({"flow_name": "f"}, "needs a 'tool_name'"),
    ],
)
def test_what_does_not_go_together_with_chunks_is_refused_in_the_definition(fields, says):
    """Larger than memory: not combinable with map_over."""
    with pytest.raises(ValueError, match=says):
        FlowStep(chunk=Chunk(input="data", rows=1), **fields)


@pytest.mark.parametrize("limits", [{}, {"bytes": 1, "rows": 1}, {"rows": 0}])
def test_a_chunk_has_one_limit(limits):
    """Larger than memory: bytes or rows."""
    with pytest.raises(ValueError, match=r"exactly one|greater than or equal to 1"):
        Chunk(input="data", **limits)


@tool
def closed(wrong: str) -> str:
    return wrong


@tool
def unlike(total: dict[str, int]) -> int:
    return 1


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    made: list[Any]


STRICT = Tool(name="strict", description="d", input_schema=Closed, output_schema=Made, fn=scale)


@pytest.mark.parametrize(
    ("flow", "issue", "says"),
    [
        (a_flow("scale", Chunk(input="dat", rows=1)), "unknown_chunk_input", "has no input 'dat' to cut; did you mean"),
        (a_flow("scale", Chunk(input="data", rows=1, combine="concat")), "uncombinable_output", "is int"),
        (a_flow("scale", Chunk(input="data", rows=1, combine="largst")), "missing_combine_tool", "did you mean"),
        (a_flow("scale", Chunk(input="data", rows=1, combine="closed")), "combine_missing_required_input", "'wrong'"),
        (a_flow("scale", Chunk(input="data", rows=1, combine="unlike")), "combine_type_mismatch", "list[int]"),
        (a_flow("scale", Chunk(input="data", rows=1, combine="strict")), "combine_unknown_target_key", "'total'"),
        (a_flow("scale", Chunk(input="factor", rows=1), input_mapping={"data": "data", "factor": 7}),
         "type_mismatch", "cannot be cut"),
        (a_flow("total", Chunk(input="data", rows=1), output_mapping={"a": "b"}), "unknown_output_key", "'b'"),
    ],
)  # fmt: skip
def test_the_compiler_finds_what_cannot_work(flow, issue, says):
    """R16: the finding of the compiler is what the step fails with."""
    tools = [SCALE, total, largest, closed, unlike, STRICT]

    found = [one for one in compile_flow(flow, tools).errors if one.issue_type == issue]

    assert len(found) == 1
    assert says in found[0].detail
    assert run(flow, tools, np.arange(3)).status == "failed"


def test_later_steps_are_held_against_what_the_chunks_give():
    """Larger than memory: a list of an output is a list to the compiler."""
    flow = a_flow("total", Chunk(input="data", rows=1))
    fits = FlowStep(tool_name="largest")
    misfits = FlowStep(tool_name="closed", input_mapping={"wrong": "total"})

    errors = compile_flow(flow.model_copy(update={"steps": [*flow.steps, fits, misfits]}), [total, largest, closed])

    assert [(one.step_index, one.issue_type) for one in errors.errors] == [(2, "type_mismatch")]


def test_another_chunk_is_another_step_to_a_resumed_run():
    """R33: the steps that were executed have to be what they were."""
    one, other = a_flow(), a_flow(chunk=Chunk(input="data", rows=5, combine="sum"))

    plans = [compile_flow(flow, [total]).plan for flow in (one, other)]

    assert plans[0].steps[0].fingerprint() != plans[1].steps[0].fingerprint()


def test_explain_and_drawings_show_the_chunks():
    """Larger than memory: in explain and in drawings."""
    flow = a_flow(chunk=Chunk(input="data", bytes=64 << 20, combine="sum"))
    with FlowExecutor(tools=[total], flows=[flow]) as executor:
        [step] = executor.explain_flow("f", {"data": []}).steps

    assert step.chunk == "data in chunks of 64 MiB, combined by sum"
    assert "data in chunks of 64 MiB, combined by sum" in flow_to_ascii(flow)


def test_the_combine_tool_counts_among_the_tools_of_a_flow():
    """R29: a plan is kept by the registration of every tool that it reaches."""
    flow = a_flow("total", Chunk(input="data", rows=4, combine="largest"))
    with FlowExecutor(tools=[total, largest], flows=[flow]) as executor:
        assert executor.execute_flow("f", {"data": range(8)}).final_output["biggest"] == 22

        @tool(name="largest", output="biggest")
        def least(total: list[int]) -> int:
            return min(total)

        executor.register_tool(least)

        assert executor.execute_flow("f", {"data": range(8)}).final_output["biggest"] == 6
