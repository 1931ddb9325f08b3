"""Checkpoint stores: steps are appended, loaded as they were, and shared with nobody."""

import threading
from datetime import datetime, timezone
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from chainweaver.checkpoint import (
    AppendingCheckpointer,
    Checkpointer,
    ExecutionSnapshot,
    FileCheckpointer,
    InMemoryCheckpointer,
    StepDelta,
)
from chainweaver.exceptions import (
    ArtifactCorruptError,
    CheckpointEncodeError,
    CheckpointNotFoundError,
    CheckpointVersionError,
)

BEGAN = datetime(2024, 5, 1, 12, tzinfo=timezone.utc)


def a_run(trace_id="9f3c", **fields):
    given = {"flow_name": "sum", "flow_version": "1.0.0", "initial_input": {"a": [1]}, "started_at": BEGAN, **fields}
    return ExecutionSnapshot(trace_id=trace_id, **given)


def a_step(index=0, outputs=None, **fields):
    return StepDelta(index, f"step{index}", "add", "5d1e", "ok", {"n": index} if outputs is None else outputs, **fields)


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    return InMemoryCheckpointer() if request.param == "memory" else FileCheckpointer(tmp_path / "runs", fsync=False)


def test_every_store_follows_both_protocols(store):
    """R31: steps are appended."""
    assert isinstance(store, Checkpointer)
    assert isinstance(store, AppendingCheckpointer)


def test_a_loaded_run_equals_what_was_saved_and_appended(store):
    """R31: every field of run and steps."""
    began = a_run(
        flow_digest="d1",
        tool_schema_hashes={"add": "5d1e"},
        step_fingerprints={"step0": "5d1e"},
        level_sizes=(1, 2),
        output_mappings={"step0": {"total": "n"}},
        initial_input={"a": (1, Decimal("1.50")), "raw": b"\n\x1b1" * 50, "when": BEGAN},
    )
    steps = [
        a_step(0, {"n": 1}, started_at=1714564800.25, duration_ns=1_500, attempts=3, retry_errors=("E: one", "E: two")),
        a_step(1, {"raw": b"\x1b\n0\0" * 100, "t": (1,)}, cached=True, fallback_tool_name="other"),
        StepDelta(2, "step2", "add", "5d1e", "skipped", None, ("FlowExecutionError", "E006", "bad \ud800", "OSError")),
    ]
    store.save(began)
    for step in steps:
        store.append("9f3c", step)

    loaded = store.load("9f3c")

    assert loaded == began.model_copy(update={"steps": steps})
    assert loaded.steps == steps
    assert type(loaded.steps[1].outputs["t"]) is tuple


def test_a_store_without_append_can_be_served_by_save(store):
    """R31: a growing snapshot replaces the one before."""
    store.save(a_run(steps=[a_step(0)]))
    store.save(a_run(steps=[a_step(0), a_step(1)]))
    store.append("9f3c", a_step(2))
    assert store.load("9f3c").context == {"a": [1], "n": 2}
    assert store.load("9f3c").completed_steps == 3


def test_steps_are_loaded_in_plan_order_and_once(store):
    """R2, R32: whatever the order they finished in; a step that was replaced counts as it was last."""
    store.save(a_run())
    for step in (a_step(2), a_step(0), a_step(1), a_step(0, {"n": "again"})):
        store.append("9f3c", step)
    assert [step.outputs for step in store.load("9f3c").steps] == [{"n": "again"}, {"n": 1}, {"n": 2}]


def test_nothing_is_shared_with_the_caller(store):
    """R30: neither what is kept nor what is loaded."""
    run, step = a_run(), a_step(0, {"rows": [1]})
    store.save(run)
    store.append("9f3c", step)
    step.outputs["rows"].append("later")
    run.initial_input["a"].append("later")
    first = store.load("9f3c")
    first.steps[0].outputs["rows"].append("mine")
    first.initial_input["a"].append("mine")
    first.steps.append(a_step(1))

    second = store.load("9f3c")
    assert second.context == {"a": [1], "rows": [1]}
    assert len(second.steps) == 1


def test_an_unknown_run_is_told_with_the_known_ones(store):
    """R33: E020 helps."""
    store.save(a_run("b"))
    store.save(a_run("a"))
    for act in (lambda: store.load("x"), lambda: store.append("x", a_step())):
        with pytest.raises(CheckpointNotFoundError, match="No checkpoint is stored for run 'x'") as caught:
            act()
        assert list(caught.value.known) == ["a", "b"]


def test_runs_are_listed_sorted_and_deleted(store):
    """R33: list and delete."""
    for trace_id in ("c", "a", "b"):
        store.save(a_run(trace_id))
    store.delete("a")
    store.delete("a")
    assert store.list_trace_ids() == ["b", "c"]


def test_an_output_that_cannot_be_kept_is_refused_with_step_key_and_type(store):
    """R16, R34: the checkpoint stays as it was."""
    store.save(a_run())
    store.append("9f3c", a_step(0))
    with pytest.raises(CheckpointEncodeError, match=r"'guard' of tool 'add' at step 1 .* type '(lock|list)'") as caught:
        store.append("9f3c", a_step(1, {"fine": 1, "guard": [threading.Lock()]}))
    assert (caught.value.key, caught.value.tool_name, caught.value.step_index) == ("guard", "add", 1)
    assert store.load("9f3c").completed_steps == 1


def test_an_input_that_cannot_be_kept_is_refused(store):
    """R16: before the run begins."""
    with pytest.raises(CheckpointEncodeError, match="lock"):
        store.save(a_run(initial_input={"guard": threading.Lock()}))
    assert store.list_trace_ids() == []


def test_many_runs_append_at_once(store):
    """R40: one store serves all runs of an executor."""

    def run(trace_id):
        store.save(a_run(trace_id))
        for index in range(40):
            store.append(trace_id, a_step(index, {"n": [trace_id, index]}))

    threads = [threading.Thread(target=run, args=(f"run{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for trace_id in store.list_trace_ids():
        assert [step.outputs["n"] for step in store.load(trace_id).steps] == [[trace_id, n] for n in range(40)]
    assert len(store.list_trace_ids()) == 6


# Files only.


@pytest.fixture
def files(tmp_path):
    return FileCheckpointer(tmp_path)


def the_file(files):
    return files.root / "9f3c.checkpoint"


@pytest.mark.parametrize(
    "trace_id", ["", "..", "../x", "a/b", "a\\b", ".hidden", "con", "a.", "a b", "ä", "x" * 129, "a\n"]
)
def test_unsafe_trace_ids_are_refused(files, trace_id):
    """R34: an id is never a path."""
    for act in (
        lambda: files.save(a_run(trace_id)),
        lambda: files.append(trace_id, a_step()),
        lambda: files.load(trace_id),
        lambda: files.delete(trace_id),
    ):
        with pytest.raises(ValueError, match="not safe as a file name"):
            act()


def test_a_run_survives_the_object_that_wrote_it(files):
    """R32: another process goes on where this one ended."""
    files.save(a_run())
    files.append("9f3c", a_step(0))
    other = FileCheckpointer(files.root)
    other.append("9f3c", a_step(1))
    files.append("9f3c", a_step(2))
    assert [step.step_index for step in FileCheckpointer(files.root).load("9f3c").steps] == [0, 1, 2]


def test_a_file_cut_anywhere_holds_the_whole_steps_before_the_cut(files):
    """R32: a torn last line was never committed; the next append puts the step in its place."""
    files.save(a_run())
    ends = [the_file(files).stat().st_size]
    for index in range(3):
        files.append("9f3c", a_step(index, {"n": index, "raw": b"\n\x1b" * 70}))
        ends.append(the_file(files).stat().st_size)
    whole = the_file(files).read_bytes()
    for length in {*range(ends[0], len(whole) + 1, 5), *ends, *(end - 1 for end in ends[1:])}:
        the_file(files).write_bytes(whole[:length])
        committed = sum(end <= length for end in ends) - 1
        assert [step.step_index for step in files.load("9f3c").steps] == list(range(committed))
        if length % 37 == 0:
            files.append("9f3c", a_step(9))
            assert [step.step_index for step in files.load("9f3c").steps] == [*range(committed), 9]


def test_a_damaged_last_line_is_taken_for_torn(files):
    """R32: as after a power failure that kept the end of a write and lost its middle."""
    files.save(a_run())
    files.append("9f3c", a_step(0))
    files.append("9f3c", a_step(1))
    data = the_file(files).read_bytes()
    the_file(files).write_bytes(data[:-5] + b"\0\0" + data[-3:])
    assert files.load("9f3c").completed_steps == 1


@pytest.mark.parametrize("line", [1, 2])
def test_damage_before_the_last_line_is_an_error_that_names_file_and_line(files, line):
    """R34: a committed step is not dropped in silence."""
    files.save(a_run())
    for index in range(3):
        files.append("9f3c", a_step(index))
    lines = the_file(files).read_bytes().split(b"\n")
    lines[line - 1] = lines[line - 1][:-3] + b"xyz"
    the_file(files).write_bytes(b"\n".join(lines))
    told = rf"9f3c\.checkpoint' is corrupt: line {line}: its checksum does not match"
    with pytest.raises(ArtifactCorruptError, match=told):
        files.load("9f3c")
    with pytest.raises(ArtifactCorruptError, match=told):
        FileCheckpointer(files.root).append("9f3c", a_step(3))


@pytest.mark.parametrize("content", [b"", b"{}", b"garbage\n", b"\0" * 100])
def test_a_file_without_header_is_corrupt(files, content):
    """R34: a typed error, whatever the file holds."""
    the_file(files).write_bytes(content)
    with pytest.raises(ArtifactCorruptError, match="line 1"):
        files.load("9f3c")


def test_a_file_of_another_run_is_corrupt(files):
    """R33: a moved file does not stand for another run."""
    files.save(a_run("other"))
    (files.root / "other.checkpoint").rename(the_file(files))
    with pytest.raises(ArtifactCorruptError, match="belongs to run 'other'"):
        files.load("9f3c")


def test_an_unknown_format_version_is_told(files, monkeypatch):
    """R33: E021."""
    monkeypatch.setattr("chainweaver.checkpoint.file._FORMAT_VERSION", 7)
    files.save(a_run())
    monkeypatch.undo()
    with pytest.raises(CheckpointVersionError, match="format version '7', this release reads '1'"):
        files.load("9f3c")


def test_an_append_that_fails_leaves_the_file_as_it_was(files, monkeypatch):
    """R32: half a line is never left in front of the next one."""
    files.save(a_run())
    files.append("9f3c", a_step(0))
    before = the_file(files).read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("chainweaver.checkpoint.file._sync", full)
    with pytest.raises(OSError, match="No space"):
        files.append("9f3c", a_step(1))
    monkeypatch.undo()
    assert the_file(files).read_bytes() == before
    files.append("9f3c", a_step(1))
    assert files.load("9f3c").completed_steps == 2


def test_a_failed_save_leaves_the_old_run_and_no_temporary_file(files, monkeypatch):
    """R32: a run appears whole or not at all."""
    files.save(a_run())

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.save(a_run(flow_name="other"))
    monkeypatch.undo()
    assert files.load("9f3c").flow_name == "sum"
    assert len(list(files.root.iterdir())) == 1


def test_leftovers_of_dead_writers_are_no_runs_and_can_be_cleared(files):
    """R32: a death while saving leaves no half a run."""
    (files.root / ".abc9f3c.checkpoint.tmp").write_bytes(b"half")
    assert files.list_trace_ids() == []
    files.clear_leftovers()
    assert list(files.root.iterdir()) == []


@pytest.mark.parametrize("kind", ["text", "rows", "bytes"])
def test_a_checkpoint_is_hardly_larger_than_the_outputs_it_holds(files, kind):
    """R31: at most 1.2 times the new outputs plus a constant per step, by the size of the file."""
    steps, size = 200, 0
    files.save(a_run())
    start = the_file(files).stat().st_size
    for index in range(steps):
        if kind == "text":
            outputs, net = {"text": "lorem ipsum " * 100}, 1_200
        elif kind == "rows":
            rows = [{"id": n, "name": f"item {n}", "price": n / 4} for n in range(50)]
            outputs, net = {"rows": rows}, len(repr(rows))
        else:
            outputs, net = {"raw": bytes(range(256)) * 8}, 2_048
        size += net
        files.append("9f3c", a_step(index, outputs, started_at=1714564800.123456, duration_ns=123_456))
    written = the_file(files).stat().st_size - start
    assert written <= 1.2 * size + 200 * steps
    half = a_run(steps=files.load("9f3c").steps[: steps // 2])
    files.save(half)
    assert the_file(files).stat().st_size <= 0.6 * (written + start), "the size grows with the steps, not their square"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.dictionaries(st.text(), st.text() | st.binary(max_size=300) | st.floats(allow_nan=False)), max_size=4)
)
def test_any_outputs_come_back_from_a_file(tmp_path, outputs):
    """R30, R34: whatever bytes they hold."""
    files = FileCheckpointer(tmp_path, fsync=False)
    files.save(a_run())
    for index, output in enumerate(outputs):
        files.append("9f3c", a_step(index, output))
    assert [step.outputs for step in files.load("9f3c").steps] == outputs
