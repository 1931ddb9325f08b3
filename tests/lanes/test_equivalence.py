"""Every lane tells the same story, whatever the limit and the hash seed, and it is the one that the clauses tell."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from tests.conftest import PROOF
from tests.lanes.dags import Ending, Outcome, Story, ending_of, make_story
from tests.lanes.table import LANES, LIMITS
from tests.lanes.telling import facts

ROOT = Path(__file__).parents[2]


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
def stories(draw: st.DrawFn) -> Story:
    return make_story(lambda options: draw(st.sampled_from(options)))


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


@pytest.mark.slow
def test_the_hash_seed_changes_nothing() -> None:
    """R1: records, order, values and errors are the same for every PYTHONHASHSEED."""
    count, seeds = (25, range(8)) if PROOF else (4, range(0, 8, 2))
    code = f"from tests.lanes.telling import digest_of_many; print(digest_of_many({count}))"
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
