"""Inputs that a schema declares secret stay secret in everything that is shown, also when a caller gives plain text."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from chainweaver import BaseMiddleware, Flow, FlowExecutor, FlowStep, RedactionPolicy, Tool, tool
from tests.lanes.table import LANES, Lane

SECRET = "hunter2-and-more"


class Credentials(BaseModel):
    credential: SecretStr
    host: str = "local"


@tool(output="user")
def log_in(credential: SecretStr, host: str) -> str:
    return f"user of {host}" if credential.get_secret_value() == SECRET else "nobody"


def given_to_each(names: dict[str, str], **options: Any) -> Flow:
    return Flow(name="flow", description="d", steps=[FlowStep(tool_name="log_in", input_mapping=names, **options)])


def shown(executor: FlowExecutor, lane: Lane, given: dict[str, Any]) -> tuple[Any, str]:
    seen: list[Any] = []

    class Watch(BaseMiddleware):
        def on_step_start(self, context: Any) -> None:
            seen.append(repr(context.inputs))

        def on_step_end(self, context: Any) -> None:
            seen.append(context.step_record.model_dump_json())

    executor.add_middleware(Watch())
    result = lane.run(executor, "flow", given)
    log = [record.model_dump_json() for record in result.execution_log]
    nested = [one.sub_result.model_dump_json() for one in result.execution_log if one.sub_result is not None]
    return result, "\n".join([*seen, *log, repr(result.execution_log), *nested])


@pytest.mark.parametrize("lane", LANES, ids=repr)
@pytest.mark.parametrize("values", ["snapshot", "reference", "summary"])
def test_a_plain_text_for_a_secret_field_is_never_shown(lane: Lane, values: Any):
    """R39: the tool says that the field is secret; callers who read a file cannot."""
    flow = given_to_each({"credential": "x", "host": "host"})
    with lane.executor(tools=[log_in], flows=[flow], trace_values=values) as executor:
        result, text = shown(executor, lane, {"x": SECRET, "host": "here"})

    assert result.final_output["user"] == "user of here"
    assert SECRET not in text


@pytest.mark.parametrize("mapping", [{"credential": "item", "host": "host"}, {"credential": "/item", "host": "host"}])
def test_neither_a_list_of_secrets_nor_its_items_are_shown(mapping: dict[str, str]):
    """R28, R39: the record of a map shows the list that it went through."""
    flow = given_to_each(mapping, map_over="all")
    with FlowExecutor(tools=[log_in], flows=[flow]) as executor:
        result, text = shown(executor, LANES[0], {"all": [SECRET, SECRET], "host": "here"})

    assert result.final_output["user"] == ["user of here"] * 2
    assert SECRET not in text


def test_a_secret_that_the_input_schema_declares_is_not_shown_as_input():
    """R8, R39: nor in the text of an error that repeats it, where a policy looks after texts."""

    def refuse(inputs: Credentials) -> dict[str, Any]:
        raise ValueError(f"no entry for {inputs.credential.get_secret_value()}")

    refusing = Tool(name="log_in", description="d", input_schema=Credentials, output_schema=Credentials, fn=refuse)
    flow = Flow(
        name="flow",
        description="d",
        input_schema_ref=Flow.schema_ref_from(Credentials),
        steps=[FlowStep(tool_name="log_in")],
    )
    with FlowExecutor(tools=[refusing], flows=[flow], redaction_policy=RedactionPolicy()) as executor:
        result, text = shown(executor, LANES[0], {"credential": SECRET})

    assert result.status == "failed"
    assert SECRET not in text
    assert SECRET not in repr(result.initial_input)
    assert "ValueError" in text
