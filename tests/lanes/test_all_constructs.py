"""Every construct on every lane, at limit 1 and above: one output, one error, one trace, and all as the oracle says."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from chainweaver import ChainWeaverError, ExecutionResult, FlowExecutor, ItemError
from chainweaver.runtime import Runtime
from tests.conftest import PROOF
from tests.lanes import stories
from tests.lanes.oracle import Ending, Missed, Told, ending_of
from tests.lanes.stories import DIARY, INITIAL, Diary, Story, make_story
from tests.lanes.table import LANES, Lane

ABOVE_ONE = 4
TOOLS = stories.TOOLS


@pytest.fixture(autouse=True, scope="module")
def _no_warnings_of_collisions() -> Iterator[None]:
    """Random flows collide all the time; what is logged of it is the subject of other tests."""
    logger = logging.getLogger("chainweaver.executor")
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def _the_long_way() -> None:
    """Here a flow goes the way that the executor chooses for it."""


@cache
def one_of(options: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    """Kept: a story takes two hundred choices, and making each strategy anew would cost as much as running it."""
    return st.sampled_from(options)


@st.composite
def random_stories(draw: st.DrawFn, **options: Any) -> Story:
    return make_story(lambda choices: draw(one_of(tuple(choices))), **options)


@pytest.mark.slow
@settings(max_examples=20_000 if PROOF else 500)
@given(random_stories(), st.sampled_from(LANES[1:]))
def test_every_lane_tells_the_story_of_the_oracle(story: Story, turn: Lane) -> None:
    """R1, R4, R19, R20, R21, R24, R26, R27, R28: one story on every lane at every limit, and that of the clauses."""
    with executor_of(story, ABOVE_ONE) as executor:
        # One executor and one limit after the other: to compile a story takes as long as five runs of it.
        executor._bind().limit = 1
        told = told_by(LANES[0], executor)
        assert outline(*told) == ending_of(story, INITIAL)
        first = facts(*told)
        for lane in LANES[1:] if PROOF else [turn]:
            assert facts(*told_by(lane, executor)) == first, f"{lane} at limit 1"
        executor._bind().limit = ABOVE_ONE
        for lane in LANES:
            assert facts(*told_by(lane, executor)) == first, f"{lane} at limit {ABOVE_ONE}"


@pytest.mark.slow
@settings(max_examples=2_000 if PROOF else 60)
@given(random_stories(), st.sampled_from(LANES))
def test_values_that_are_let_go_are_missed_by_nobody(story: Story, lane: Lane) -> None:
    """R37: with named outputs and summaries, values end with their last reader; what comes of the run is the same."""
    story = replace(story, outputs=story.outputs or ("x",))
    expected = ending_of(story, INITIAL)
    with executor_of(story, ABOVE_ONE, trace_values="summary") as executor:
        for limit in (1, ABOVE_ONE):
            executor._bind().limit = limit
            found = outline(*told_by(lane, executor))
            assert (found.status, found.raised, found.error) == (expected.status, expected.raised, expected.error)
            assert found.final == expected.final
            assert outcomes(found.trace) == outcomes(expected.trace)


def outcomes(trace: list[Told]) -> list[Any]:
    """A trace without values."""
    return [(one.step, one.status, one.error, one.retries, one.decision, outcomes(one.inside or [])) for one in trace]


def test_stories_hold_every_construct_and_most_end_well() -> None:
    """What the test above is worth: how many of a hundred stories show what, in runs that got there."""
    rng, count = Random(3), 1_000
    seen: Counter[str] = Counter()
    for _ in range(count):
        story = make_story(rng.choice)
        ending = ending_of(story, INITIAL)
        seen.update({f"flow {ending.status}", *sights(story, ending.trace)})
    shares = {sight: round(100 * times / count) for sight, times in seen.items()}
    print("\n".join(f"{share:3} % {sight}" for sight, share in sorted(shares.items(), key=lambda item: -item[1])))
    assert {sight: shares.get(sight, 0) for sight, least in LEAST.items() if shares.get(sight, 0) < least} == {}


LEAST = {
    "flow ok": 55,
    "branch by predicate": 15,
    "branch by default": 15,
    "passed over": 20,
    "join with one live parent": 2,
    "decision": 20,
    "approved": 20,
    "denied": 2,
    "retried": 10,
    "skipped": 10,
    "fallback": 10,
    "failed, and others finish": 2,
    "collision": 2,
    "sub-flow": 30,
    "sub-flow in a sub-flow": 5,
    "sub-flow tried again": 2,
    "map": 30,
    "map of nothing": 5,
    "map of sub-flows": 10,
    "map in a map": 1,
    "item skipped": 2,
    "item collected": 2,
    "late": 2,
}
"""Sight -> how many of a hundred stories have to show it."""


def sights(story: Story, trace: list[Told], around: str = "") -> set[str]:
    """What there is to see in a run of a story."""
    found: set[str] = set()
    steps = {step.name: step for step in story.steps}
    trace = [told for told in trace if told.step]  # without the border at the end
    passed = {one.step for one in trace if one.status == "passed"}
    for told in trace:
        step = steps[told.step]
        found |= _sights_of(step, told)
        if told.status == "ok" and not passed.isdisjoint(step.needs):
            found.add("join with one live parent")
        if step.over and told.inside is not None:
            found |= {"map", "map of sub-flows"} if isinstance(step.calls, Story) else {"map"}
            found |= {"map in a map"} if "map" in around else set()
            for item in told.inside:
                found |= _sights_of(step, item)
                if isinstance(step.calls, Story) and item.inside is not None:
                    found |= sights(step.calls, item.inside, "map")
        elif isinstance(step.calls, Story) and told.inside is not None:
            found |= {"sub-flow", f"sub-flow in a {around}"} if around else {"sub-flow"}
            found |= sights(step.calls, told.inside, "sub-flow")
        if told.status == "failed" and told is not trace[-1]:
            found.add("failed, and others finish")
    return found


def _sights_of(step: stories.Step, told: Told) -> set[str]:
    taken = told.decision.get("taken")
    is_item = step.over and told.step != step.name
    found = {
        "branch by predicate": taken is not None and taken != step.otherwise,
        "branch by default": taken is not None and taken == step.otherwise,
        "passed over": told.status == "passed",
        "decision": "chosen" in told.decision,
        "approved": told.approved is True,
        "denied": told.approved is False,
        "retried": told.retries > 0 and told.status == "ok",
        "skipped": told.status == "skipped" and not is_item,
        "fallback": told.fallback is not None and told.status == "ok",
        "collision": told.error == "ContextKeyCollisionError",
        "sub-flow tried again": told.retries > 0 and told.status == "ok" and isinstance(step.calls, Story),
        "map of nothing": told.inside == [] and bool(step.over),
        "item skipped": is_item and told.status == "skipped" and step.on_item_error == "skip",
        "item collected": is_item and told.status == "skipped" and step.on_item_error == "collect",
        "late": step.has_limit and told.retries > 0 and "late" in step.reads,
    }
    return {sight for sight, is_there in found.items() if is_there}


# ---- what a lane makes of a story


def executor_of(story: Story, limit: int, **options: Any) -> FlowExecutor:
    return FlowExecutor(
        tools=TOOLS,
        flows=story.definitions(),
        max_step_concurrency=limit,
        decision_callback=stories.decide,
        approval_callback=stories.approve,
        runtime=Runtime(now_ns=stories.now_ns, pause=lambda seconds: None),
        **options,
    )


def told_by(lane: Lane, executor: FlowExecutor) -> tuple[str | None, ExecutionResult]:
    """The name of the error that left the call, and the result."""
    DIARY.set(Diary())
    try:
        return None, lane.run(executor, "story", INITIAL, **lane.options)
    except ChainWeaverError as error:
        return type(error).__name__, error.result  # type: ignore[attr-defined]  # those that leave a call carry it


def failure_of(result: ExecutionResult) -> ChainWeaverError | None:
    try:
        result.raise_for_failure()
    except ChainWeaverError as error:
        return error
    return None


def facts(raised: str | None, result: ExecutionResult) -> dict[str, Any]:
    """Everything that must not depend on the lane."""
    failure = failure_of(result)
    return {
        "raised": raised,
        "status": result.status,
        "error": None if failure is None else (type(failure).__name__, str(failure)),
        "final": result.final_output,
        "partial": result.partial_output,
        "trace": canonical(result),
    }


def canonical(result: ExecutionResult) -> list[dict[str, Any]]:
    """The canonical trace, with those of nested runs in their places."""
    nested = {record.step_index: record.sub_result for record in result.execution_log}
    trace = result.canonical_trace()
    for record in trace:
        inner = nested[record["step_index"]]
        record["inside"] = None if inner is None else canonical(inner)
    return trace


# ---- the same in the words of the oracle


def outline(raised: str | None, result: ExecutionResult) -> Ending:
    failure = failure_of(result)
    return Ending(
        result.status,
        raised,
        None if failure is None else type(failure).__name__,
        _outlined(result),
        _plain(result.partial_output),
        _plain(result.final_output),
    )


def _outlined(result: ExecutionResult) -> list[Told]:
    return [
        Told(
            step=record.step_id or "",
            status="passed" if record.skipped and record.success else record.status,
            inputs=_plain(record.inputs),
            outputs=_plain(record.outputs),
            error=record.error_type,
            retries=record.retry_count,
            fallback=record.fallback_tool_name,
            approved=None if record.approval is None else record.approval["approved"],
            decision=record.decision or {},
            inside=None if record.sub_result is None else _outlined(record.sub_result),
        )
        for record in result.execution_log
        if not record.surplus
    ]


def _plain(value: Any) -> Any:
    """Values with the oracle's word for an item that failed."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return Missed(value.index, value.error_type) if isinstance(value, ItemError) else value
