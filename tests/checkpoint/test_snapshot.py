"""Snapshots: fields that are stored, views that are derived."""

from datetime import datetime, timezone

import pytest
from pydantic import ValidationError

from chainweaver.checkpoint import ExecutionSnapshot, InMemoryCheckpointer, StepDelta

BEGAN = datetime(2024, 5, 1, 12, tzinfo=timezone.utc)
RUN = {"trace_id": "9f3c", "flow_name": "sum", "flow_version": "1.0.0", "started_at": BEGAN}
RECORDS = [
    {"step_index": 0, "step_id": "a", "tool_name": "add", "inputs": {}, "outputs": {"n": 1}, "started_at": BEGAN},
    {"step_index": 1, "tool_name": "sub", "inputs": {}, "skipped": True, "error_type": "E", "error_message": "bad"},
]


def test_the_context_is_the_input_with_the_outputs_laid_over_it_in_order():
    """R10, R11: renamed where the step renames."""
    steps = [
        StepDelta(0, "a", "add", "", "ok", {"n": 1, "x": 1}),
        StepDelta(1, "b", "add", "", "ok", {"n": 2, "x": 2}),
        StepDelta(2, "c", "add", "", "skipped", None),
    ]
    snapshot = ExecutionSnapshot(
        **RUN, initial_input={"n": 0}, steps=steps, output_mappings={"b": {"y": "x"}, "c": {"z": "x"}}
    )
    assert snapshot.context == {"n": 1, "x": 1, "y": 2}
    assert snapshot.completed_steps == 3


@pytest.mark.parametrize(
    ("finished", "levels"), [([], 0), ([0], 1), ([0, 1], 1), ([0, 1, 2], 2), ([1, 2, 3], 0), ([0, 1, 2, 3], 3)]
)
def test_a_level_counts_when_all_its_steps_are_finished(finished, levels):
    """R24: counted from the first level."""
    steps = [StepDelta(index, str(index), "t", "", "ok", {}) for index in finished]
    assert ExecutionSnapshot(**RUN, steps=steps, level_sizes=(1, 2, 1)).completed_dag_levels == levels


def test_a_snapshot_can_be_made_from_records():
    """R33: the names of the views are names of the constructor."""
    snapshot = ExecutionSnapshot(**RUN, initial_input={"a": 1}, context={"a": 1, "n": 1}, execution_log=RECORDS)
    assert [(step.step_id, step.status, step.outputs) for step in snapshot.steps] == [
        ("a", "ok", {"n": 1}),
        ("sub", "skipped", None),
    ]
    assert snapshot.steps[1].error == ("E", None, "bad", None)
    assert snapshot.steps[0].started_at == BEGAN.timestamp()
    assert snapshot.context == {"a": 1, "n": 1}
    assert snapshot.completed_steps == 2


def test_views_that_were_given_are_shown_as_given_after_a_store_too():
    """R33: what an application states is not recomputed."""
    snapshot = ExecutionSnapshot(**RUN, context={"k": 1}, execution_log=[], completed_steps=3, completed_dag_levels=2)
    store = InMemoryCheckpointer()
    store.save(snapshot)
    loaded = store.load("9f3c")
    assert loaded == snapshot
    assert (loaded.context, loaded.completed_steps, loaded.completed_dag_levels) == ({"k": 1}, 3, 2)


def test_a_snapshot_survives_json():
    """R33: stores of others may use it."""
    step = StepDelta(1, "b", "sub", "f", "skipped", None, ("E", None, "bad", "OSError"), 2, ("one",), started_at=1.5)
    snapshot = ExecutionSnapshot(
        **RUN, initial_input={"a": 1}, steps=[StepDelta(0, "a", "add", "f", "ok", {"n": 1}), step]
    )
    again = ExecutionSnapshot.model_validate_json(snapshot.model_dump_json())
    assert again == snapshot
    assert again.steps[1].error == ("E", None, "bad", "OSError")


@pytest.mark.parametrize(
    "wrong", [{"started_at": datetime(2024, 5, 1)}, {"steps": [{"step_index": 0, "nonsense": 1}]}, {"unknown": 1}]
)
def test_what_is_no_snapshot_is_refused(wrong):
    """R34: a typed error."""
    with pytest.raises(ValidationError):
        ExecutionSnapshot(**{**RUN, **wrong})


def test_the_execution_log_shows_records():
    """R36: the finished steps, without inputs."""
    pytest.importorskip("chainweaver.results")
    step = StepDelta(
        0, "a", "add", "f", "ok", {"n": 1}, None, 3, ("one", "two"), started_at=BEGAN.timestamp(), duration_ns=2_000_000
    )
    [record] = ExecutionSnapshot(**RUN, steps=[step]).execution_log
    assert (record.step_index, record.tool_name, record.outputs, record.success) == (0, "add", {"n": 1}, True)
    assert (record.retry_count, record.retry_errors, record.duration_ms) == (2, ["one", "two"], 2.0)
    assert record.started_at == BEGAN


def test_a_step_has_no_dict_and_shows_itself():
    """R31: small, and readable when printed."""
    step = StepDelta(0, "a", "add", "f", "ok", {"n": 1})
    assert not hasattr(step, "__dict__")
    assert repr(step) == "StepDelta(0, 'a', status='ok', outputs={'n': 1})"
    assert step != StepDelta(0, "a", "add", "f", "ok", {"n": 2})
    assert step != "a"
