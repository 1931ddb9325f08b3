"""Worker processes tell the stories that the sync lane tells.

The tools of these stories lie in tables that a worker finds by importing them. What a worker cannot know is left out:
the virtual clock of the caller (no call is late), and a count of calls that goes on from one call to the next (tools
count their attempts instead).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from chainweaver import ChainWeaverError, FlowExecutor
from tests.conftest import PROOF
from tests.lanes import dags, stories
from tests.lanes.stories import DIARY, Diary
from tests.lanes.table import LIMITS, PROCESS, PROCESS_LANES, SYNC, Lane, borrowed_workers
from tests.lanes.test_all_constructs import executor_of, facts, random_stories


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


@st.composite
def simple_stories(draw: st.DrawFn) -> dags.Story:
    return dags.make_story(lambda options: draw(st.sampled_from(options)))


def told(lane: Lane, executor: FlowExecutor, given: dict[str, Any]) -> dict[str, Any]:
    """Everything that must not depend on the lane."""
    DIARY.set(Diary(by_attempt=True))
    try:
        return facts(None, lane.run(executor, "story", given, **lane.options))
    except ChainWeaverError as error:
        return facts(type(error).__name__, error.result)  # type: ignore[attr-defined]  # those that leave a call carry it


@pytest.mark.slow
@settings(max_examples=300 if PROOF else 25)
@given(simple_stories())
def test_steps_in_worker_processes_give_the_records_of_the_sync_lane(story: dags.Story) -> None:
    """R1, R19, R20, R21: records, order, values and errors are the same, whatever drives the workers."""
    with FlowExecutor(tools=story.tools(), flows=[story.definition()]) as executor, borrowed_workers(executor):
        first = told(SYNC, executor, dags.INITIAL)
        for limit in LIMITS:
            executor._bind().limit = limit
            for lane in PROCESS_LANES:
                assert told(lane, executor, dags.INITIAL) == first, f"{lane} at limit {limit}"


def never_late(story: stories.Story) -> stories.Story:
    """The story without calls that take longer than their limit on the clock of the caller."""
    steps = [
        replace(
            step,
            reads={name: value for name, value in step.reads.items() if name != "late"},
            calls=never_late(step.calls) if isinstance(step.calls, stories.Story) else step.calls,
        )
        for step in story.steps
    ]
    return replace(story, steps=tuple(steps))


def test_most_stories_do_reach_a_worker() -> None:
    """What the tests here are worth: of thirty stories of either kind, more than twenty call tools in a worker."""
    rng, reached = Random(5), Counter[str]()
    for _ in range(30):
        simple, rich = dags.make_story(rng.choice), never_late(stories.make_story(rng.choice))
        for kind, executor, initial in (
            ("simple", FlowExecutor(tools=simple.tools(), flows=[simple.definition()]), dags.INITIAL),
            ("rich", executor_of(rich, 1), stories.INITIAL),
        ):
            with executor, borrowed_workers(executor) as workers:
                before = workers.traffic
                told(PROCESS, executor, initial)
                reached[kind] += workers.traffic > before
    assert min(reached["simple"], reached["rich"]) > 20, reached


@pytest.mark.slow
@settings(max_examples=300 if PROOF else 25)
@given(random_stories(), st.sampled_from(PROCESS_LANES))
def test_every_construct_is_the_same_with_steps_in_worker_processes(story: stories.Story, lane: Lane) -> None:
    """R1, R5, R24, R26, R27, R28: branches, decisions, sub-flows and maps around steps in worker processes."""
    story = never_late(story)
    with executor_of(story, 1) as executor, borrowed_workers(executor):
        first = told(SYNC, executor, stories.INITIAL)
        for limit in (1, 4):
            executor._bind().limit = limit
            assert told(lane, executor, stories.INITIAL) == first, f"{lane} at limit {limit}"
