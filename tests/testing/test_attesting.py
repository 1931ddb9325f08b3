"""Attestations: what is the same everywhere is said to be, and the first difference has a name."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import Any

import pytest
from hypothesis import strategies as st

from chainweaver import (
    DAGFlow,
    DAGFlowStep,
    Flow,
    FlowExecutor,
    FlowNotFoundError,
    FlowStatus,
    FlowStatusError,
    FlowStep,
    InMemoryCheckpointer,
    InMemoryStepCache,
    MissingExtraError,
    ToolContext,
    tool,
)
from chainweaver.testing import Attestation, attest_flow, fake_tool
from tests.testing.kit import TEA, order, patient, price, stock, total


def executor_of(*tools: Any, **options: Any) -> FlowExecutor:
    return FlowExecutor(tools=tools, **options)


def one(name: str, **facts: Any) -> Flow:
    return Flow(**{"name": "one", "description": "", "steps": [FlowStep(tool_name=name)], **facts})


def test_a_flow_that_gives_the_same_again_is_attested():
    """R1: runs, lanes and limits agree; what was compared is counted."""
    executor = executor_of(fake_tool(price, returns=2.5), total)
    found = attest_flow(order(), executor, [TEA, {"article": "milk", "count": 1}], runs=3)
    assert (found.verdict, found.difference, found.holds) == ("deterministic", None, True)
    assert (found.input_count, found.runs) == (2, 24)
    assert found.ways == (
        "sync lane at limit 1",
        "sync lane at limit 4",
        "async lane at limit 1",
        "async lane at limit 4",
    )
    assert found.tool_schema_hashes == {"price": price.schema_hash, "total": total.schema_hash}
    assert set(found.environment) == {"chainweaver", "implementation", "platform", "pydantic", "python"}
    assert found.raise_for_difference() is found


def test_an_attestation_is_the_same_again_and_survives_json():
    """api.md: serialisable; it can be compared with another one."""
    made = [attest_flow(order(), executor_of(fake_tool(price, returns=2.5), total), TEA) for _ in range(2)]
    assert made[0] == made[1]
    assert made[0].model_dump_json() == made[1].model_dump_json()
    assert Attestation.model_validate_json(made[0].model_dump_json()) == made[0]


def test_what_is_attested_is_in_the_digests():
    """api.md: definition, tools, inputs and results each have a digest."""
    base = attest_flow(order(), executor_of(fake_tool(price, returns=2.5), total), TEA)
    other_input = attest_flow(order(), executor_of(fake_tool(price, returns=2.5), total), {**TEA, "count": 5})
    other_result = attest_flow(order(), executor_of(fake_tool(price, returns=3.5), total), TEA)
    other_flow = attest_flow(order(on_error="skip"), executor_of(fake_tool(price, returns=2.5), total), TEA)
    parts = ("definition_digest", "inputs_digest", "result_digest")

    def changed(other: Attestation) -> list[str]:
        return [part for part in parts if getattr(other, part) != getattr(base, part)]

    assert changed(other_input) == ["inputs_digest", "result_digest"]
    assert changed(other_result) == ["result_digest"]
    assert changed(other_flow) == ["definition_digest"]


def test_a_tool_that_gives_something_else_the_second_time_is_named():
    """api.md: the first difference, with input, run, step, field and both values."""
    numbers = itertools.count()
    fake = fake_tool(price, side_effect=lambda inputs: 1.0 if inputs.article == "tea" else float(next(numbers)))
    found = attest_flow(order(), executor_of(fake, total), [TEA, {"article": "milk", "count": 1}])
    assert found.verdict == "different"
    assert found.difference == (
        "input 1, run 2 on the sync lane at limit 1, compared with run 1 on the sync lane at limit 1: "
        "step '0', outputs.price: expected 0.0, got 1.0"
    )
    with pytest.raises(AssertionError, match=r"Flow 'order' 0\.1\.0 is not deterministic: input 1, run 2"):
        found.raise_for_difference()


def test_a_tool_that_depends_on_its_lane_is_named():
    """R1: a difference between lanes shows only where several are compared."""

    @tool
    def where() -> str:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return threading.current_thread().name.split("-")[0]
        return "loop"

    executor = executor_of(where)
    assert attest_flow(one("where"), executor, [{}], lanes=["sync"], limits=[1]).holds
    found = attest_flow(one("where"), executor, [{}], limits=[1])
    assert "run 1 on the async lane at limit 1" in str(found.difference)


def test_a_tool_that_depends_on_what_runs_beside_it_is_named():
    """R1: a difference between limits."""
    inside: list[int] = []

    @tool
    def crowd(n: int) -> int:
        inside.append(1)
        time.sleep(0.02)
        seen = len(inside)
        inside.pop()
        return seen

    steps = [DAGFlowStep(step_id=f"s{n}", tool_name="crowd", output_mapping={f"c{n}": "crowd"}) for n in range(4)]
    dag = DAGFlow(name="crowded", version="1", description="", steps=steps)
    found = attest_flow(dag, executor_of(crowd), {"n": 1}, runs=1, lanes=["sync"])
    assert "at limit 4, compared with run 1 on the sync lane at limit 1: " in str(found.difference)


def test_failures_are_compared_as_well():
    """R16: a flow that fails in the same way every time is deterministic."""
    executor = executor_of(price, total)
    assert attest_flow(order(retry=patient(3, 86_400)), executor, TEA).holds
    numbers = itertools.count()

    def fail(inputs: Any) -> float:
        raise (OSError if next(numbers) % 2 else ValueError)("no")

    found = attest_flow(order(), executor_of(fake_tool(price, side_effect=fail), total), TEA)
    assert "step '0', error_message" in str(found.difference)


@tool
def fetch(url: str, token: str) -> str:
    return f"{url}?{len(token)}"


def test_dynamic_parameters_are_passed_to_every_run():
    """R13: a flow that needs them can be attested; no digest depends on their values."""
    flow = one("fetch", dynamic_params=["token"])
    made = [
        attest_flow(flow, executor_of(fetch), {"url": "u"}, dynamic_params={"token": text}) for text in ("ab", "cd")
    ]
    assert (made[0].holds, made[0].failed_inputs, made[0].first_failure) == (True, 0, None)
    assert made[0] == made[1]


def test_runs_that_fail_are_counted_and_the_first_error_is_told():
    """R16: what fails in the same way every time is deterministic, and says that it failed."""
    found = attest_flow(one("fetch", dynamic_params=["token"]), executor_of(fetch), [{"url": "u"}, {"url": "v"}])
    assert (found.holds, found.failed_inputs, found.input_count) == (True, 2, 2)
    assert found.first_failure == (
        "Schema validation failed for tool 'fetch' at step 0 (input): token: Field required."
    )
    partly = attest_flow(one("fetch"), executor_of(fetch), [{"url": "u", "token": "t"}, {"url": "v"}])
    assert (partly.holds, partly.failed_inputs) == (True, 1)


def test_collisions_that_leave_the_call_are_compared_by_their_results():
    """R12: raised out of the call, with a result."""
    twice = one("price", steps=[FlowStep(tool_name="price")] * 2, on_context_collision="error")
    assert attest_flow(twice, executor_of(fake_tool(price, returns=1)), {"article": "tea"}).holds


def test_caches_checkpoints_ids_and_clocks_neither_help_nor_disturb():
    """R1: what runs leave behind, and what differs anyway, is kept out."""

    @tool
    def label(article: str, context: ToolContext) -> str:
        return f"{article} {context.run_id}"

    numbers = itertools.count()
    fake = fake_tool(stock, side_effect=lambda inputs: next(numbers), is_async=False)
    cache, store = InMemoryStepCache(), InMemoryCheckpointer()
    with executor_of(fake, label, step_cache=cache, checkpointer=store, delete_on_success=False) as executor:
        assert attest_flow(one("label"), executor, [{"article": "tea"}]).holds
        assert not attest_flow(one("stock"), executor, [{"article": "tea"}]).holds
    assert (len(cache), store.list_trace_ids()) == (0, [])


def test_inputs_can_be_generated():
    """api.md: from what the flow reads, or from a strategy; the same ones for a seed."""
    executor = executor_of(fake_tool(price, side_effect=lambda inputs: float(len(inputs.article))), total)
    made = [attest_flow(order(), executor, 5, runs=1, limits=[1], seed=seed) for seed in (1, 1, 2)]
    assert [found.holds for found in made] == [True] * 3
    assert made[0] == made[1]
    assert made[0].inputs_digest != made[2].inputs_digest
    chosen = attest_flow(order(), executor, 3, strategy=st.just(TEA), runs=1, limits=[1])
    assert chosen.inputs_digest == attest_flow(order(), executor, [TEA] * chosen.input_count).inputs_digest


def test_without_the_extra_given_inputs_will_do(monkeypatch: pytest.MonkeyPatch):
    """api.md: hypothesis is needed for what is generated, and for nothing else."""
    monkeypatch.setitem(__import__("sys").modules, "hypothesis", None)
    executor = executor_of(fake_tool(price, returns=1), total)
    assert attest_flow(order(), executor, TEA).holds
    with pytest.raises(MissingExtraError, match="Generating inputs needs the extra 'testing'"):
        attest_flow(order(), executor, 3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"inputs": []}, "There are no inputs"),
        ({"runs": 1, "lanes": ["sync"], "limits": [1]}, "One run cannot differ from itself"),
        ({"lanes": ["thread"]}, "lanes has to be of 'sync' and 'async', not 'thread'"),
        ({"limits": [0]}, "each of limits has to be at least 1, not 0"),
        ({"lanes": []}, "at least one lane and one limit"),
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict[str, Any], told: str):
    """api.md: an attestation that compared nothing would be worth nothing."""
    with pytest.raises(ValueError, match=told):
        attest_flow(order(), executor_of(price, total), **{"inputs": TEA, **options})


def test_a_flow_that_cannot_be_started_is_not_attested():
    """R15: structural faults are raised."""
    with pytest.raises(FlowNotFoundError):
        attest_flow("order", executor_of(price, total), TEA)
    with pytest.raises(FlowStatusError):
        attest_flow(one("price", status=FlowStatus.DISABLED), executor_of(price), TEA)


def test_attesting_works_inside_of_a_running_loop():
    """R26: the async lane has a loop of its own."""

    async def inside() -> Attestation:
        return attest_flow(order(), executor_of(fake_tool(price, returns=1), total), TEA)

    assert asyncio.run(inside()).holds
