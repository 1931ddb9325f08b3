"""Random flows of every construct, recorded and replayed: live and from JSON, from the start and from the middle."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from chainweaver import ChainWeaverError, ExecutionResult, FlowExecutor, ReplayError
from chainweaver.runtime import Runtime
from tests.conftest import PROOF
from tests.lanes import stories
from tests.lanes.stories import DIARY, INITIAL, Diary, Story, make_story

TOOLS = stories.tools()


@pytest.fixture(autouse=True, scope="module")
def _no_warnings_of_collisions() -> Iterator[None]:
    """Random flows collide all the time; what is logged of it is the subject of other tests."""
    logger = logging.getLogger("chainweaver.executor")
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(logging.NOTSET)


def never_asked(context: Any) -> Any:
    raise AssertionError("nobody is asked in a replay that verifies")


def executor_of(story: Story, decides: Any, approves: Any) -> FlowExecutor:
    runtime = Runtime(now_ns=stories.now_ns, pause=lambda seconds: None)
    flows = list(story.definitions())
    return FlowExecutor(
        tools=TOOLS, flows=flows, runtime=runtime, decision_callback=decides, approval_callback=approves
    )


def recorded(story: Story) -> ExecutionResult:
    DIARY.set(Diary())
    with executor_of(story, stories.decide, stories.approve) as executor:
        try:
            return executor.execute_flow("story", INITIAL)
        except ChainWeaverError as error:
            result: ExecutionResult = error.result  # type: ignore[attr-defined]  # those that leave a call carry it
            return result


@pytest.mark.slow
def test_every_run_is_replayed_without_a_difference_from_wherever_it_can_be() -> None:
    """R35: whatever a flow is made of, the record answers for callbacks and for any number of steps."""
    rng, seen = Random(35), Counter[str]()
    for _ in range(2_000 if PROOF else 40):
        story = make_story(rng.choice)
        result = recorded(story)
        with executor_of(story, never_asked, never_asked) as executor:
            for shown in (result, ExecutionResult.model_validate_json(result.model_dump_json())):
                for from_step in range(len(story.steps) + 1):
                    DIARY.set(Diary())
                    try:
                        replay = executor.replay_flow(shown, resume_from_step=from_step)
                    except ReplayError as refused:
                        # Nothing can follow from a step that failed, but from all those before it.
                        assert shown.status != "ok"
                        told = refused.fix
                        assert told == f"use resume_from_step={from_step - 1} or less"
                        break
                    assert replay.all_steps_match, f"from step {from_step}: {replay}\n{story}"
                    seen[f"{shown.status} {'from the middle' if from_step else 'from the start'}"] += 1
    assert min(seen.values()) > 10, seen
