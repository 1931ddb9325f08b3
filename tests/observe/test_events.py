"""Contexts and events: the facts of one moment, small and readable."""

from __future__ import annotations

from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from chainweaver.observe import (
    EventMiddleware,
    FlowEndContext,
    FlowEvent,
    FlowStartContext,
    Listeners,
    StepChunkContext,
    StepEndContext,
    StepStartContext,
)

NOON = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
LATER = datetime(2030, 1, 1, 12, 0, 5, tzinfo=timezone.utc)
TRACE = "ab" * 16


def record(**facts: Any) -> Any:
    return SimpleNamespace(**{"success": True, "skipped": False, **facts})


CONTEXTS: list[Any] = [
    FlowStartContext(TRACE, "invoice", "1.0.0", {}, NOON, 1),
    StepStartContext(TRACE, "invoice", 0, "fetch", {"url": "u"}, NOON, "f"),
    StepChunkContext(TRACE, "invoice", 0, "fetch", "x", NOON, "f"),
    StepEndContext(TRACE, "invoice", 0, "fetch", {"url": "u"}, NOON, record(), LATER, "f"),
    FlowEndContext(TRACE, "invoice", "1.0.0", SimpleNamespace(status="ok"), LATER),  # type: ignore[arg-type]  # a stand-in
]


@pytest.mark.parametrize(
    "context", [*CONTEXTS, FlowEvent("flow_end", "f", TRACE, NOON)], ids=lambda c: type(c).__name__
)
def test_contexts_and_events_carry_no_dict(context: object) -> None:
    """R38: what is built for a listener is a slotted object and cheap."""
    assert not hasattr(context, "__dict__")


def test_the_repr_of_a_context_names_its_facts_in_signature_order() -> None:
    """R38: a context can be read in a log."""
    assert repr(StepChunkContext(TRACE, "invoice", 0, "fetch", "x", NOON, "f")) == (
        f"StepChunkContext(trace_id='{TRACE}', flow_name='invoice', step_index=0, tool_name='fetch', chunk='x', "
        "received_at=datetime.datetime(2030, 1, 1, 12, 0, tzinfo=datetime.timezone.utc), step_id='f', "
        "parent_trace_id=None)"
    )


def test_contexts_are_equal_when_their_facts_are() -> None:
    """R38: equality is by value, and never across kinds."""
    assert FlowStartContext(TRACE, "a", "1", {}, NOON, 1) == FlowStartContext(TRACE, "a", "1", {}, NOON, 1)
    assert FlowStartContext(TRACE, "a", "1", {}, NOON, 1) != FlowStartContext(TRACE, "b", "1", {}, NOON, 1)
    assert FlowStartContext(TRACE, "a", "1", {}, NOON, 1) != "a"


def test_every_hook_becomes_one_event() -> None:
    """R38: the events of a run tell the same story as the hooks."""
    events: list[FlowEvent] = []
    listeners = Listeners((EventMiddleware(events.append),))
    listeners.flow_start(CONTEXTS[0])
    listeners.step_start(CONTEXTS[1])
    listeners.step_chunk(CONTEXTS[2])
    listeners.step_end(CONTEXTS[3])
    listeners.flow_end(CONTEXTS[4])

    assert [(e.kind, e.step_index, e.tool_name, e.step_id, e.timestamp) for e in events] == [
        ("flow_start", None, None, None, NOON),
        ("step_start", 0, "fetch", "f", NOON),
        ("step_chunk", 0, "fetch", "f", NOON),
        ("step_end", 0, "fetch", "f", LATER),
        ("flow_end", None, None, None, LATER),
    ]
    assert {(e.flow_name, e.trace_id) for e in events} == {("invoice", TRACE)}
    assert (events[0].total_steps, events[0].inputs, events[0].flow_version) == (1, {}, "1.0.0")
    assert events[1].inputs == {"url": "u"}
    assert events[2].chunk == "x"
    assert events[3].record is CONTEXTS[3].step_record
    assert events[4].result is CONTEXTS[4].result


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"record": record()}, "'f' step 2 (total) ok"),
        ({"record": record(success=False)}, "'f' step 2 (total) failed"),
        ({"record": record(skipped=True)}, "'f' step 2 (total) skipped"),
        ({}, "'f' step 2 (total)"),
    ],
    ids=["ok", "failed", "skipped", "no record"],
)
def test_the_repr_of_a_step_event_is_one_readable_line(facts: dict[str, Any], text: str) -> None:
    """R38: an event says what happened where, how it ended and when."""
    event = FlowEvent("step_end", "f", TRACE, NOON, 2, "total", **facts)
    assert repr(event) == f"FlowEvent(step_end {text} at 2030-01-01T12:00:00+00:00)"


def test_the_repr_of_an_event_never_reads_the_payload() -> None:
    """R39: what was computed does not leak into a log through the repr of an event."""

    class Secret:
        def __repr__(self) -> str:
            raise AssertionError("the payload was read")

    event = FlowEvent("step_start", "f", TRACE, NOON, 0, "login", inputs={"password": Secret()})
    assert repr(event) == "FlowEvent(step_start 'f' step 0 (login) at 2030-01-01T12:00:00+00:00)"


def test_the_end_of_a_flow_is_told_with_its_status() -> None:
    """R17: the last event names how the run ended."""
    event = FlowEvent("flow_end", "f", TRACE, NOON, result=SimpleNamespace(status="cancelled"))  # type: ignore[arg-type]  # a stand-in
    assert repr(event) == "FlowEvent(flow_end 'f' cancelled at 2030-01-01T12:00:00+00:00)"
