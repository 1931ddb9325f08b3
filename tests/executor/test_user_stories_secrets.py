"""Secrets as callers give them: plain text in a JSON input, and a tool that says by its types what it is (R39)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from chainweaver import (
    Flow,
    FlowExecutor,
    FlowStep,
    InMemoryTraceStore,
    RedactionPolicy,
    TraceRecorder,
    tool,
)

SECRET = "correct-horse-battery"


@tool
def sign_in(pin: SecretStr, host: str) -> str:
    raise PermissionError(f"{host} refused {pin.get_secret_value()}")


def flows() -> list[Flow]:
    # The context keys give nothing away: only the type of the tool's field does.
    step = FlowStep(tool_name="sign_in", input_mapping={"pin": "x", "host": "host"}, on_error="skip")
    return [
        Flow(name="plain", description="", steps=[step]),
        Flow(name="nested", description="", steps=[FlowStep(flow_name="plain")]),
        Flow(name="mapped", description="", steps=[FlowStep(flow_name="plain", map_over="xs", map_as="x")]),
    ]


GIVEN: dict[str, dict[str, Any]] = {
    "plain": {"x": SECRET, "host": "h"},
    "nested": {"x": SECRET, "host": "h"},
    "mapped": {"xs": [SECRET], "host": "h"},
}


@pytest.mark.parametrize("at", ["executor", "recorder", "both"])
@pytest.mark.parametrize("name", GIVEN)
def test_a_stored_trace_shows_no_text_that_a_tool_takes_as_a_secret(name: str, at: str) -> None:
    """R39: what is hidden in one record vanishes from all of the trace, whoever has the policy."""
    policy, store = RedactionPolicy(), InMemoryTraceStore()
    recorder = TraceRecorder(store, redaction_policy=None if at == "executor" else policy)
    executor = FlowExecutor(
        tools=[sign_in],
        flows=flows(),
        redaction_policy=None if at == "recorder" else policy,
        trace_recorder=recorder,
    )
    result = executor.execute_flow(name, GIVEN[name])
    written = store.load(result.trace_id).model_dump_json()
    assert "refused ***" in written
    assert SECRET not in written


@pytest.mark.parametrize("lane", ["sync", "async"])
def test_the_reader_of_a_stream_gets_the_output_that_a_call_returns(lane: str) -> None:
    """R39: the final output is no view; whoever listens is shown what the policy leaves of it."""
    heard = []

    class Ends:
        def on_flow_end(self, context: Any) -> None:
            heard.append(context.result.final_output)

    @tool(output="token")
    def issue(password: str) -> str:
        return f"tk-{len(password)}-12345678"

    flow = Flow(name="issue", description="", steps=[FlowStep(tool_name="issue")])
    outer = Flow(name="outer", description="", steps=[FlowStep(flow_name="issue")])
    executor = FlowExecutor(tools=[issue], flows=[flow, outer], redaction_policy=RedactionPolicy(), middleware=[Ends()])
    given = {"password": "hunter2-long"}
    returned = executor.execute_flow("outer", given)

    async def read() -> list[Any]:
        return [event async for event in executor.stream_flow_async("outer", given)]

    events = list(executor.stream_flow("outer", given)) if lane == "sync" else asyncio.run(read())
    results: list[Any] = [event.result for event in events if event.kind == "flow_end"]
    inner, last = results
    assert last.final_output == returned.final_output == {"password": "hunter2-long", "token": "tk-12-12345678"}
    assert last.initial_input == {"password": "***"}
    assert last.canonical_trace() == returned.canonical_trace()
    assert "12345678" not in str(last.execution_log)
    assert inner.final_output["token"] == "***"
    assert [output["token"] for output in heard] == ["***"] * 4


def test_what_collected_errors_say_is_no_secret_because_of_the_name_they_are_collected_under() -> None:
    """R39, R28: the values are hidden, and an error is told of as in any other map, less what is secret in it."""

    class Entry(BaseModel):
        token: str
        seen: int

    @tool
    def enter(item: int, password: str) -> Entry:
        if item == 2:
            raise PermissionError(f"no entry for user 2 with {password}")
        return Entry(token=f"tk-{item}-12345678", seen=item)

    store = InMemoryTraceStore()
    flow = Flow(
        name="f", description="", steps=[FlowStep(tool_name="enter", map_over="items", on_item_error="collect")]
    )
    executor = FlowExecutor(
        tools=[enter], flows=[flow], redaction_policy=RedactionPolicy(), trace_recorder=TraceRecorder(store)
    )
    given = {"items": [1, 2], "password": "hunter2-long"}
    for result in (executor.execute_flow("f", given), list(executor.stream_flow("f", given))[-1].result):
        assert result is not None
        for shown in (result, store.load(result.trace_id)):
            outputs = shown.model_dump(mode="json")["execution_log"][0]["outputs"]
            assert outputs["token"] == "***"
            assert outputs["seen"][0] == 1
            assert outputs["seen"][1]["error_type"] == "FlowExecutionError"
            assert outputs["seen"][1]["error_code"] == "E006"
            assert outputs["seen"][1]["message"].endswith("no entry for user 2 with ***.")
            nested = shown.step("0").sub_result
            assert nested is not None
            assert "PermissionError: no entry for user 2 with ***" in str(nested.step("1").error_message)


@pytest.mark.parametrize("name", GIVEN)
def test_a_listener_is_shown_no_result_with_a_text_that_a_tool_took_as_a_secret(name: str) -> None:
    """R39: the context of the end is a view as well."""
    seen = []

    class Ends:
        def on_flow_end(self, context: Any) -> None:
            seen.append(context.result.model_dump_json())

    executor = FlowExecutor(tools=[sign_in], flows=flows(), redaction_policy=RedactionPolicy(), middleware=[Ends()])
    result = executor.execute_flow(name, GIVEN[name])
    assert SECRET not in str(result.initial_input), "a view like the records"
    assert SECRET in str(result.final_output), "the caller has what the run came to"
    assert seen
    assert not [text for text in seen if SECRET in text]
