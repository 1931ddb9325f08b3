"""What a lane makes of a random story, as plain data that can be compared; imported by child processes too."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

from chainweaver import ChainWeaverError, ExecutionResult
from tests.lanes.dags import INITIAL, Story, make_story
from tests.lanes.table import LANES, Lane


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


def digest_of_many(count: int) -> str:
    """A digest of what all lanes make of some random stories; called in child processes."""
    rng = random.Random(20)
    found = []
    for _ in range(count):
        story = make_story(rng.choice)
        found.append([facts(story, lane, limit) for lane in LANES for limit in (1, 16)])
        assert all(one == found[-1][0] for one in found[-1])
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()
