"""Random flows that crash at a random commit, and end as if they had not."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from chainweaver import ChainWeaverError, ExecutionResult, FileCheckpointer, FlowExecutor, InMemoryCheckpointer
from tests.conftest import PROOF
from tests.executor.kit import Crash
from tests.lanes.dags import INITIAL, Story, make_story


@pytest.fixture(autouse=True, scope="module")
def _no_warnings_of_collisions() -> Iterator[None]:
    """Random flows collide all the time; what is logged of it is the subject of other tests."""
    logger = logging.getLogger("chainweaver.executor")
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(logging.NOTSET)


@st.composite
def stories(draw: st.DrawFn) -> Story:
    return make_story(lambda options: draw(st.sampled_from(options)))


class Crashing:
    """Lets the process end at one append, before or after it has reached the store.

    Attributes:
        at: How many appends there are before it.
    """

    def __init__(self, store: Any, at: int, after: bool) -> None:
        self.store = store
        self.wants_plain = getattr(store, "wants_plain", False)
        self.save, self.load, self.delete = store.save, store.load, store.delete
        self.list_trace_ids = store.list_trace_ids
        self.at = at
        self.after = after

    def append(self, trace_id: str, delta: Any) -> None:
        self.at -= 1
        if self.at == -1 and not self.after:
            raise Crash
        if self.at < -1:  # whatever else was going on in a process that has ended
            raise Crash
        self.store.append(trace_id, delta)
        if self.at == -1:
            raise Crash


def ending(call: Any, *args: Any) -> tuple[str | None, ExecutionResult]:
    """The name of the error that left the call, and the result."""
    try:
        return None, call(*args)
    except ChainWeaverError as error:
        return type(error).__name__, error.result  # type: ignore[attr-defined]  # those that leave a call carry it


def facts(story: Story, raised: str | None, result: ExecutionResult) -> dict[str, Any]:
    """Everything that a crash must not change."""
    failure = None
    try:
        result.raise_for_failure()
    except ChainWeaverError as error:
        failure = str(error)
    writes = {step.name: step.writes for step in story.steps}
    trace = result.canonical_trace()
    for record in trace:
        kept = writes[record["step_id"]]
        if record["outputs"] is not None and kept is not None:
            # A checkpoint holds what the mapping keeps.
            record["outputs"] = {name: record["outputs"][name] for name in sorted(set(kept.values()))}
    return {
        "raised": raised,
        "status": result.status,
        "final": result.final_output,
        "partial": result.partial_output,
        "failure": failure,
        "trace": trace,
    }


@settings(max_examples=400 if PROOF else 30)
@given(stories(), st.integers(0, 8), st.booleans(), st.sampled_from((1, 4)), st.booleans())
def test_a_crash_at_any_commit_changes_nothing_about_the_end(
    story: Story, at: int, after: bool, limit: int, in_file: bool
) -> None:
    """R32, R33: values, statuses, errors and order of a resumed run are those of one that was not broken off."""
    with tempfile.TemporaryDirectory() as directory:
        store: Any = FileCheckpointer(directory, fsync=False) if in_file else InMemoryCheckpointer()
        options: dict[str, Any] = {"flows": [story.definition()], "max_step_concurrency": limit}
        with FlowExecutor(tools=story.tools(), checkpointer=InMemoryCheckpointer(), **options) as executor:
            expected = facts(story, *ending(executor.execute_flow, "story", INITIAL))
        crashing = Crashing(store, at, after)
        with FlowExecutor(tools=story.tools(), checkpointer=crashing, **options) as executor:
            try:
                found = facts(story, *ending(executor.execute_flow, "story", INITIAL))
            except Crash:
                pass
            else:
                assert found == expected
            known = store.list_trace_ids()
        if not known:  # it ended well before the crash
            assert expected["status"] == "ok"
            return
        with FlowExecutor(tools=story.tools(), checkpointer=store, **options) as executor:
            resumed = facts(story, *ending(executor.resume_flow, known[0]))
        assert resumed == expected
