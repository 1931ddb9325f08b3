"""Promises that are seen from outside only: literals, outputs, dynamic parameters, coroutines on the sync lane."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any

import pytest
from pydantic import BaseModel, Field

from chainweaver import (
    BaseMiddleware,
    DAGFlow,
    DAGFlowStep,
    Flow,
    FlowExecutor,
    FlowStep,
    InMemoryCheckpointer,
    InMemoryStepCache,
    Tool,
    tool,
)

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


@tool
def append(rows: list, row: int) -> list:
    rows.append(row)
    return rows


@tool
def double(n: int) -> int:
    return 2 * n


@tool
async def whoami(n: int) -> str:
    await asyncio.sleep(0)
    return f"{WHO.get()}{n}"


def flow_of(*steps: FlowStep, **facts: Any) -> Flow:
    return Flow(name="f", description="d", steps=list(steps), **facts)


def test_a_literal_that_a_tool_changes_is_a_new_one_in_the_next_run():
    """R7: mutable literals are not shared between runs, and the definition keeps its own."""
    flow = flow_of(FlowStep(tool_name="append", input_mapping={"rows": [], "row": "row"}))
    executor = FlowExecutor(tools=[append], flows=[flow])

    first = executor.execute_flow("f", {"row": 1}).final_output
    second = executor.execute_flow("f", {"row": 2}).final_output

    assert (first, second) == ({"row": 1, "append": [1]}, {"row": 2, "append": [2]})
    assert executor.registry.get_flow("f").steps[0].input_mapping["rows"] == []


def test_a_nested_literal_is_new_in_every_run():
    """R7: what is inside a literal is not shared either."""

    @tool(output="fill")
    def fill(box: dict, n: int) -> dict:
        box["rows"].append(n)
        return {"box": box}

    flow = flow_of(FlowStep(tool_name="fill", input_mapping={"box": {"rows": []}, "n": "n"}))
    executor = FlowExecutor(tools=[fill], flows=[flow])
    outputs = [executor.execute_flow("f", {"n": n}).final_output for n in (1, 2)]

    assert [output and output["fill"] for output in outputs] == [{"box": {"rows": [1]}}, {"box": {"rows": [2]}}]


def test_the_final_output_is_what_the_flow_names():
    """R13: `outputs` projects; without it the whole context comes out."""
    whole = FlowExecutor(tools=[double], flows=[flow_of(FlowStep(tool_name="double"))])
    named = FlowExecutor(tools=[double], flows=[flow_of(FlowStep(tool_name="double"), outputs=["double"])])

    assert whole.execute_flow("f", {"n": 1}).final_output == {"n": 1, "double": 2}
    assert named.execute_flow("f", {"n": 1}).final_output == {"double": 2}


def test_a_failed_run_has_no_final_output_but_shows_what_it_reached():
    """R13: `final_output` is None on failure, `partial_output` holds the values so far."""

    @tool
    def fail(double: int) -> int:
        raise RuntimeError("no")

    flow = flow_of(FlowStep(tool_name="double"), FlowStep(tool_name="fail"))
    result = FlowExecutor(tools=[double, fail], flows=[flow]).execute_flow("f", {"n": 1})

    assert result.final_output is None
    assert result.partial_output == {"n": 1, "double": 2}


def test_an_output_that_nobody_wrote_fails_the_run():
    """R13: a projection names keys that are there; a missing one is an error and not a hole."""
    flow = flow_of(FlowStep(tool_name="double"), outputs=["triple"])
    result = FlowExecutor(tools=[double], flows=[flow]).execute_flow("f", {"n": 1})

    assert (result.status, result.final_output) == ("failed", None)
    assert result.execution_log[-1].error_type == "OutputMappingError"


class Everything(BaseMiddleware):
    """Keeps the text of all that listeners are told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def _hear(self, context: Any) -> None:
        self.heard.append(repr(context) + repr(getattr(context, "inputs", None)))

    on_flow_start = on_step_start = on_step_end = on_flow_end = _hear  # type: ignore[assignment]  # one for all


def secret_run(secret: str) -> tuple[FlowExecutor, Everything, InMemoryCheckpointer, Any]:
    @tool
    def sign(text: str, token: str) -> int:
        return len(text) + len(token)

    flow = flow_of(FlowStep(tool_name="sign"), dynamic_params=["token"])
    watching, store = Everything(), InMemoryCheckpointer()
    executor = FlowExecutor(
        tools=[sign],
        flows=[flow],
        middleware=[watching],
        checkpointer=store,
        delete_on_success=False,
        step_cache=InMemoryStepCache(),
    )
    return executor, watching, store, executor.execute_flow("f", {"text": "hi"}, dynamic_params={"token": secret})


def test_dynamic_parameters_are_read_and_shown_nowhere(caplog: pytest.LogCaptureFixture):
    """R13: their values are in no output, record, checkpoint, log or event."""
    caplog.set_level(logging.DEBUG)
    _, watching, store, result = secret_run("s3cret-value")
    snapshot = store.load(result.trace_id)

    assert result.final_output == {"text": "hi", "sign": 14}
    shown = [result.model_dump_json(), repr(snapshot.model_dump()), caplog.text, *watching.heard]
    assert [text for text in shown if "s3cret-value" in text] == []


def test_dynamic_parameters_count_for_cache_keys():
    """R13: another value is another entry, so that nobody gets what was made for somebody else."""
    executor, _, _, first = secret_run("abc")
    second = executor.execute_flow("f", {"text": "hi"}, dynamic_params={"token": "abcd"})
    third = executor.execute_flow("f", {"text": "hi"}, dynamic_params={"token": "abc"})

    assert [run.final_output["sign"] for run in (first, second, third)] == [5, 6, 5]
    assert [run.execution_log[0].cached for run in (first, second, third)] == [False, False, True]


def test_coroutines_run_on_the_sync_lane_with_the_callers_variables():
    """R26: `async def` tools need no loop of the caller, and see its context variables."""
    executor = FlowExecutor(tools=[whoami], flows=[flow_of(FlowStep(tool_name="whoami"))])
    token = WHO.set("ada")
    try:
        with executor:
            assert executor.execute_flow("f", {"n": 1}).final_output == {"n": 1, "whoami": "ada1"}
    finally:
        WHO.reset(token)


async def test_coroutines_run_on_the_sync_lane_inside_a_running_loop():
    """R26: a caller that is itself inside a loop may call the sync lane."""
    with FlowExecutor(tools=[whoami], flows=[flow_of(FlowStep(tool_name="whoami"))]) as executor:
        assert executor.execute_flow("f", {"n": 2}).final_output == {"n": 2, "whoami": "nobody2"}


@pytest.mark.parametrize("limit", [1, 4])
async def test_both_kinds_of_tools_run_side_by_side_on_both_lanes(limit: int):
    """R26: a flow may mix `def` and `async def` on either lane."""
    dag = DAGFlow(
        name="f",
        version="1",
        description="d",
        steps=[DAGFlowStep(step_id="a", tool_name="double"), DAGFlowStep(step_id="b", tool_name="whoami")],
    )
    with FlowExecutor(tools=[double, whoami], flows=[dag], max_step_concurrency=limit) as executor:
        expected = {"n": 3, "double": 6, "whoami": "nobody3"}
        assert executor.execute_flow("f", {"n": 3}).final_output == expected
        assert (await executor.execute_flow_async("f", {"n": 3})).final_output == expected


# ---- a flow as a tool


@pytest.mark.parametrize(
    ("facts", "given_back"),
    [
        ({"steps": [FlowStep(tool_name="double")]}, {"double": 4}),
        ({"steps": [FlowStep(tool_name="double", output_mapping={"n": "double"})]}, {"n": 4}),
        ({"steps": [FlowStep(tool_name="double", output_mapping={})]}, {}),
        ({"steps": [FlowStep(tool_name="double")], "outputs": ["n"]}, {"n": 2}),
        ({"steps": [FlowStep(tool_name="double", map_over="ns", map_as="n")]}, {"double": [2, 4]}),
        ({"steps": [FlowStep(flow_name="deep")]}, {"double": 4}),
    ],
    ids=["plain", "renamed", "dropped", "projected", "mapped", "nested"],
)
def test_a_flow_gives_the_same_as_a_tool_and_as_a_sub_flow(facts: dict[str, Any], given_back: dict[str, Any]):
    """R27: without `outputs` what its steps wrote; what it was given is not handed back and collides with nothing."""
    deep = Flow(name="deep", description="", steps=[FlowStep(tool_name="double")])
    inner = Flow(**{"name": "inner", "description": "", **facts})
    executor = FlowExecutor(tools=[double], flows=[deep, inner])
    standing = Tool.from_flow(inner, executor, name="standing")
    given = {"n": 2, "ns": [1, 2]}
    assert standing.run(given) == given_back

    policy: Any = "overwrite" if "n" in given_back else "error"
    outers = [
        Flow(name=f"outer {at}", description="", on_context_collision=policy, steps=[step])
        for at, step in enumerate((FlowStep(tool_name="standing"), FlowStep(flow_name="inner")))
    ]
    outside = FlowExecutor(tools=[double, standing], flows=[deep, inner, *outers])
    by_tool, by_flow = (outside.execute_flow(outer.name, given).raise_for_failure() for outer in outers)
    assert by_tool.final_output == by_flow.final_output == {**given, **given_back}


class Aliased(BaseModel):
    number: int = Field(alias="n")


def test_an_item_reaches_a_field_under_its_alias():
    """R6, R28: as the value of that key would without a map, also where any key may come from outside."""
    twice = Tool(name="twice", description="", input_schema=Aliased, output_schema=Twice, fn=doubled)
    each = Flow(name="each", description="", steps=[FlowStep(tool_name="twice", map_over="ns", map_as="n")])
    result = FlowExecutor(tools=[twice], flows=[each]).execute_flow("each", {"ns": [1, 2]})
    assert result.raise_for_failure().final_output == {"ns": [1, 2], "m": [2, 4]}


class Twice(BaseModel):
    m: int


def doubled(given: Aliased) -> dict[str, int]:
    return {"m": 2 * given.number}
