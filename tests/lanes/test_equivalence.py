"""Every lane tells the same story, whatever the limit and the hash seed, and it is the one that the clauses tell."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainweaver import ChainWeaverError, ExecutionResult
from tests.conftest import PROOF
from tests.lanes.dags import INITIAL, Ending, Outcome, Story, ending_of, make_story
from tests.lanes.table import LANES, LIMITS, Lane

ROOT = Path(__file__).parents[2]


@st.composite
def stories(draw: st.DrawFn) -> Story:
    return make_story(lambda options: draw(st.sampled_from(options)))


def told(story: Story, lane: Lane, limit: int) -> tuple[str | None, ExecutionResult]:
    """What a lane makes of a story: the name of the error that left the call, and the result."""
    with lane.executor(tools=story.tools(), flows=[story.definition()], max_step_concurrency=limit) as executor:
        try:
            return None, lane.run(executor, "story", INITIAL)
        except ChainWeaverError as error:
            return type(error).__name__, error.result  # type: ignore[attr-defined]  # those that leave a call carry it


def facts(story: Story, lane: Lane, limit: int) -> dict[str, Any]:
    """Everything that must not depend on the lane."""
    raised, result = told(story, lane, limit)
    failure = None
    if not result.success:
        try:
            result.raise_for_failure()
        except ChainWeaverError as error:
            failure = str(error)
    return {
        "raised": raised,
        "status": result.status,
        "final": result.final_output,
        "partial": result.partial_output,
        "failure": failure,
        "trace": result.canonical_trace(),
    }


def outline(found: dict[str, Any]) -> Ending:
    """The facts in the words of the oracle."""
    steps = {
        record["step_id"]: Outcome(
            record["status"],
            record["retry_count"],
            record["outputs"],
            record["error_type"],
            record["fallback_used"],
        )
        for record in found["trace"]
    }
    return Ending(found["status"], found["raised"], steps, found["partial"])


@settings(max_examples=300 if PROOF else 40)
@given(stories())
def test_every_lane_tells_the_same_story_at_every_limit(story: Story) -> None:
    """R1, R4, R19, R20, R21: records, order, values and errors depend on definition and input only."""
    expected = ending_of(story)
    first = facts(story, LANES[0], 1)
    assert outline(first) == expected
    assert list(outline(first).steps) == list(expected.steps), "records are in plan order"
    assert first["final"] == (expected.context if expected.status == "ok" else None)
    for lane in LANES:
        for limit in LIMITS:
            assert facts(story, lane, limit) == first, f"{lane} at limit {limit}"


def digest_of_many(count: int) -> str:
    """A digest of what all lanes make of some random stories; called in child processes."""
    rng = random.Random(20)
    found = []
    for _ in range(count):
        story = make_story(rng.choice)
        found.append([facts(story, lane, limit) for lane in LANES for limit in (1, 16)])
        assert all(one == found[-1][0] for one in found[-1])
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


@pytest.mark.slow
def test_the_hash_seed_changes_nothing() -> None:
    """R1: records, order, values and errors are the same for every PYTHONHASHSEED."""
    count = 25 if PROOF else 6
    seeds = range(8)
    code = f"from tests.lanes.test_equivalence import digest_of_many; print(digest_of_many({count}))"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in seeds
    ]
    digests = [child.communicate(timeout=120)[0] for child in children]
    assert len(set(digests)) == 1
    assert len(digests[0].strip()) == 64
