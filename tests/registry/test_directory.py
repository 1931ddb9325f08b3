"""Flow files of a directory: loading, reloading, watching."""

from __future__ import annotations

import itertools
import logging
import os
import threading

import pytest

from chainweaver.exceptions import DAGDefinitionError, FlowAlreadyExistsError, FlowSerializationError
from chainweaver.flow import DAGFlow, DAGFlowStep, Flow, FlowStatus, FlowStep
from chainweaver.registry import FlowRegistry, InMemoryStore, ReloadReport
from chainweaver.registry.directory import DirectoryPoll


def a_flow(name, version="1.0", description="Adds up."):
    return Flow(name=name, version=version, description=description, steps=[FlowStep(tool_name="t")])


def write(path, flow):
    path.write_text(flow.to_yaml() if path.suffix != ".json" else flow.to_json(), encoding="utf-8")
    # Two writes within one tick of the clock of the file system still are two states.
    tick = next(TICKS)
    os.utime(path, ns=(tick, tick))


TICKS = itertools.count(0, 1_000_000_000)


def test_the_flow_files_of_a_directory_are_registered(tmp_path):
    """api.md: load_from_directory; *.flow.json, .yaml, .yml, directly in it."""
    for name in ("b.flow.json", "a.flow.yaml", "c.flow.yml"):
        write(tmp_path / name, a_flow(name[0]))
    (tmp_path / "notes.json").write_text("no flow")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "d.flow.json").write_text("not read")
    registry = FlowRegistry(InMemoryStore())
    report = registry.load_from_directory(tmp_path)
    assert report == ReloadReport(added=(("a", "1.0"), ("b", "1.0"), ("c", "1.0")))
    assert registry.store.list_keys() == [("a", "1.0"), ("b", "1.0"), ("c", "1.0")]


def test_a_reload_tells_what_came_what_changed_and_what_did_not(tmp_path):
    """api.md: ReloadReport(added, updated, unchanged)."""
    write(tmp_path / "a.flow.json", a_flow("a"))
    write(tmp_path / "b.flow.json", a_flow("b"))
    registry = FlowRegistry()
    registry.load_from_directory(tmp_path)
    snapshot = registry.snapshot

    assert registry.reload_from_directory(tmp_path) == ReloadReport(unchanged=(("a", "1.0"), ("b", "1.0")))
    assert registry.snapshot is snapshot

    write(tmp_path / "b.flow.json", a_flow("b", description="New."))
    write(tmp_path / "c.flow.json", a_flow("b", version="2.0"))
    assert registry.reload_from_directory(tmp_path) == ReloadReport(
        added=(("b", "2.0"),), updated=(("b", "1.0"),), unchanged=(("a", "1.0"),)
    )
    assert registry.get_flow("b", version="1.0").description == "New."


def test_a_file_that_says_the_same_leaves_the_state_of_its_flow_alone(tmp_path):
    """api.md: a status that was set since stays; a change of the file brings the state of the file."""
    write(tmp_path / "a.flow.json", a_flow("a"))
    registry = FlowRegistry()
    registry.load_from_directory(tmp_path)
    registry.set_flow_status("a", "disabled")
    assert registry.reload_from_directory(tmp_path).unchanged == (("a", "1.0"),)
    assert registry.get_flow("a").status is FlowStatus.DISABLED
    write(tmp_path / "a.flow.json", a_flow("a", description="New."))
    registry.reload_from_directory(tmp_path)
    assert registry.get_flow("a").status is FlowStatus.ACTIVE


def test_a_flow_that_was_unregistered_comes_back_with_its_file(tmp_path):
    """api.md: added is what the registry did not have."""
    write(tmp_path / "a.flow.json", a_flow("a"))
    registry = FlowRegistry()
    registry.load_from_directory(tmp_path)
    registry.unregister_flow("a")
    assert registry.reload_from_directory(tmp_path).added == (("a", "1.0"),)


def test_one_bad_file_and_nothing_is_registered(tmp_path):
    """api.md: all or nothing; every bad file is named."""
    write(tmp_path / "a.flow.json", a_flow("a"))
    (tmp_path / "b.flow.json").write_text("{")
    (tmp_path / "c.flow.json").write_bytes(b"\xff")
    registry = FlowRegistry()
    with pytest.raises(FlowSerializationError, match="2 files cannot be read") as caught:
        registry.load_from_directory(tmp_path)
    assert "b.flow.json" in str(caught.value)
    assert "c.flow.json" in str(caught.value)
    (tmp_path / "c.flow.json").unlink()
    with pytest.raises(FlowSerializationError, match=r"b\.flow\.json"):
        registry.load_from_directory(tmp_path)
    assert len(registry) == 0


def test_a_broken_dag_in_a_file_is_refused(tmp_path):
    """R15: topology is checked at registration, wherever the flow comes from."""
    step = DAGFlowStep(step_id="a", tool_name="t", depends_on=["a"])
    write(tmp_path / "d.flow.json", DAGFlow(name="d", version="1", description="", steps=[step]))
    with pytest.raises(DAGDefinitionError, match="a -> a"):
        FlowRegistry().load_from_directory(tmp_path)


def test_two_files_with_the_same_flow_are_an_error(tmp_path):
    """R1: the order of files decides nothing."""
    write(tmp_path / "a.flow.json", a_flow("a"))
    write(tmp_path / "b.flow.yaml", a_flow("a"))
    with pytest.raises(FlowSerializationError, match=r"'a\.flow\.json' and 'b\.flow\.yaml'"):
        FlowRegistry().load_from_directory(tmp_path)


def test_without_overwrite_equal_flows_pass_and_others_do_not(tmp_path):
    """api.md: load_from_directory(dir, *, overwrite=True)."""
    registry = FlowRegistry()
    registry.register_flow(a_flow("a"))
    write(tmp_path / "a.flow.json", a_flow("a"))
    assert registry.load_from_directory(tmp_path, overwrite=False).unchanged == (("a", "1.0"),)
    write(tmp_path / "a.flow.json", a_flow("a", description="New."))
    write(tmp_path / "b.flow.json", a_flow("b"))
    with pytest.raises(FlowAlreadyExistsError, match=r"'a' version '1\.0'"):
        registry.load_from_directory(tmp_path, overwrite=False)
    assert len(registry) == 1


def test_a_directory_that_is_not_there_is_an_os_error(tmp_path):
    """api.md: load_from_directory."""
    with pytest.raises(FileNotFoundError):
        FlowRegistry().load_from_directory(tmp_path / "nothing")


def test_a_poll_reloads_when_files_come_change_or_go(tmp_path):
    """api.md: watch; told by name, time and size, without a thread."""
    reports = iter(range(10))
    poll = DirectoryPoll(tmp_path, lambda: next(reports))  # type: ignore[arg-type]  # any report will do
    assert poll.poll() is None
    write(tmp_path / "a.flow.json", a_flow("a"))
    assert (poll.poll(), poll.poll()) == (0, None)
    write(tmp_path / "a.flow.json", a_flow("a"))
    assert (poll.poll(), poll.poll()) == (1, None)
    (tmp_path / "a.flow.json").unlink()
    assert (poll.poll(), poll.poll()) == (2, None)
    (tmp_path / "notes.txt").write_text("x")
    assert poll.poll() is None


def test_a_watch_tells_about_changes_and_outlives_bad_ones(tmp_path, caplog):
    """api.md: watch(dir) -> WatchHandle; a bad file leaves the registry as it is."""
    write(tmp_path / "a.flow.json", a_flow("a"))
    registry = FlowRegistry()
    failed, reloaded = threading.Event(), threading.Event()

    def on_error(error):
        failed.set()
        raise RuntimeError("the callback is bad as well")

    def tell(report):
        reloaded.set()

    with (
        caplog.at_level(logging.WARNING, "chainweaver.registry"),
        registry.watch(tmp_path, interval_s=0.005, on_reload=tell, on_error=on_error) as handle,
    ):
        assert len(registry) == 1
        (tmp_path / "b.flow.json").write_text("{")
        assert failed.wait(10)
        assert len(registry) == 1
        os.replace(_written(tmp_path, a_flow("b")), tmp_path / "b.flow.json")
        assert reloaded.wait(10)
        assert len(registry) == 2
        assert handle.is_running
    assert not handle.is_running
    handle.stop()
    assert "were not reloaded" in caplog.text


def _written(directory, flow):
    # Written aside and renamed: a watch that looks in between sees one state or the other.
    path = directory / "aside.json"
    write(path, flow)
    return path


def test_a_watch_can_be_stopped_from_its_own_callback(tmp_path):
    """api.md: stop() may be called from anywhere."""
    registry = FlowRegistry()
    stopped = threading.Event()
    started = threading.Event()

    def stop(report):
        started.wait(10)
        handle.stop()
        stopped.set()

    handle = registry.watch(tmp_path, interval_s=0.005, on_reload=stop)
    started.set()
    os.replace(_written(tmp_path, a_flow("a")), tmp_path / "a.flow.json")
    assert stopped.wait(10)
    handle.stop(10)
    assert not handle.is_running


def test_a_watch_begins_with_a_good_directory_or_not_at_all(tmp_path):
    """api.md: the first loading raises."""
    (tmp_path / "a.flow.json").write_text("{")
    with pytest.raises(FlowSerializationError):
        FlowRegistry().watch(tmp_path)
    with pytest.raises(ValueError, match="interval_s"):
        FlowRegistry().watch(tmp_path, interval_s=0)
