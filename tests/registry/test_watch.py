"""Watching a directory of flow files: when it is looked at, what is told, and what running flows notice of it."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time

import pytest

from chainweaver import FlowExecutor, tool
from chainweaver.exceptions import FlowSerializationError
from chainweaver.flow import FlowStep
from chainweaver.registry import FlowRegistry, ReloadReport
from chainweaver.registry.watch import DirectoryPoll
from tests.registry.kit import a_flow, put, put_aside, write

SOON = 0.005


class Reloads:
    """Stands in for the registry: counts, and answers as it is told."""

    def __init__(self, directory):
        self.count = 0
        self.meanwhile = lambda: None
        self.poll = DirectoryPoll(directory, self.reload).poll

    def reload(self, is_current):
        self.meanwhile()
        if not is_current():
            return None
        self.count += 1
        return ReloadReport()


# ---- looking, without a thread


def test_what_comes_changes_or_goes_is_read_when_it_has_settled(tmp_path):
    """Hot reload: told by name, size, date and number; read when two looks in a row agree."""
    reloads = Reloads(tmp_path)
    path = tmp_path / "a.flow.json"

    def replaced():
        os.replace(put_aside(tmp_path, a_flow()), path)

    for change in (lambda: write(path, a_flow()), lambda: write(path, a_flow()), replaced, path.unlink):
        before = reloads.count
        change()
        assert [reloads.poll() is None for _ in range(4)] == [True, False, True, True]
        assert reloads.count == before + 1


def test_nothing_is_read_while_nothing_of_ours_changes(tmp_path):
    """Hot reload: other files are not looked at."""
    write(tmp_path / "a.flow.json", a_flow())
    reloads = Reloads(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".a.flow.json.swp").write_text("x")
    assert [reloads.poll() for _ in range(3)] == [None] * 3
    assert reloads.count == 0


def test_a_file_that_is_being_written_is_left_alone_until_it_is_complete(tmp_path):
    """Hot reload: half a flow may well be a flow, so nothing is read before two looks agree."""
    reloads = Reloads(tmp_path)
    text = a_flow(steps=[FlowStep(tool_name="t"), FlowStep(tool_name="u")]).to_yaml()
    for length in (10, 20, len(text)):
        put(tmp_path / "a.flow.yaml", text[:length])
        assert reloads.poll() is None
    assert reloads.poll() == ReloadReport()
    assert reloads.count == 1


def test_files_that_change_while_they_are_read_are_read_again(tmp_path):
    """Hot reload: what was read is thrown away when it no longer is what lies there."""
    reloads = Reloads(tmp_path)
    path = tmp_path / "a.flow.json"
    write(path, a_flow())
    assert reloads.poll() is None
    reloads.meanwhile = lambda: write(path, a_flow(description="New."))
    assert reloads.poll() is None
    reloads.meanwhile = lambda: None
    assert [reloads.poll() for _ in range(3)] == [None, ReloadReport(), None]


def test_what_comes_and_goes_between_reads_was_never_there(tmp_path):
    """Hot reload: an editor's detour ends where it began."""
    reloads = Reloads(tmp_path)
    write(tmp_path / "a.flow.json", a_flow())
    assert reloads.poll() is None
    (tmp_path / "a.flow.json").unlink()
    assert [reloads.poll() for _ in range(2)] == [None, None]
    assert reloads.count == 0


def test_a_directory_that_vanishes_is_told_once_and_read_when_it_is_back(tmp_path):
    """Hot reload: a checkout may replace the directory as a whole; the flows stay meanwhile."""
    flows = tmp_path / "flows"
    flows.mkdir()
    write(flows / "a.flow.json", a_flow())
    registry = FlowRegistry()
    registry.load_from_directory(flows)
    poll = DirectoryPoll(flows, lambda is_current: registry._reload(flows, None, None, is_current)).poll

    shutil.rmtree(flows)
    assert poll() is None
    with pytest.raises(FileNotFoundError):
        poll()
    assert poll() is None
    assert registry.get_flow("a") == a_flow()

    flows.mkdir()
    write(flows / "a.flow.json", a_flow(description="New."))
    assert poll() is None
    assert poll() == ReloadReport(updated=(("a", "1.0"),))


# ---- a thread that does


class Told:
    """Callbacks that remember what they were told and can be waited for."""

    def __init__(self):
        self.errors: list[Exception] = []
        self.reports: list[ReloadReport] = []
        self._changed = threading.Condition()

    def on_error(self, error):
        with self._changed:
            self.errors.append(error)
            self._changed.notify_all()

    def on_reload(self, report):
        with self._changed:
            self.reports.append(report)
            self._changed.notify_all()

    def wait_for(self, true):
        with self._changed:
            assert self._changed.wait_for(true, 20)


def test_a_watch_loads_what_changes_and_outlives_what_is_broken(tmp_path, caplog):
    """api.md: watch(dir) -> WatchHandle; a broken file is told and holds up no other."""
    write(tmp_path / "a.flow.json", a_flow("a"))
    registry, told = FlowRegistry(), Told()
    with (
        caplog.at_level(logging.WARNING, "chainweaver.registry"),
        registry.watch(tmp_path, interval_s=SOON, on_reload=told.on_reload, on_error=told.on_error) as handle,
    ):
        assert handle.report == ReloadReport(added=(("a", "1.0"),))
        put(tmp_path / "b.flow.json", "{")
        told.wait_for(lambda: told.reports)
        assert isinstance(told.errors[0], FlowSerializationError)
        assert [one.path.name for one in told.reports[0].failed] == ["b.flow.json"]

        os.replace(put_aside(tmp_path, a_flow("b")), tmp_path / "b.flow.json")
        told.wait_for(lambda: any(report.added == (("b", "1.0"),) for report in told.reports))
        assert (len(registry), handle.report.failed, handle.is_running) == (2, (), True)
    assert not handle.is_running
    handle.stop()
    assert "b.flow.json' was not loaded" in caplog.text


def test_a_watch_begins_with_the_good_files_and_tells_of_the_others(tmp_path):
    """Hot reload: a service that is started again comes up although somebody is just changing a file."""
    write(tmp_path / "a.flow.json", a_flow("a"))
    put(tmp_path / "b.flow.json", "{")
    registry, told = FlowRegistry(), Told()
    with registry.watch(tmp_path, interval_s=60, on_error=told.on_error) as handle:
        assert list(registry.snapshot) == [("a", "1.0")]
        assert [one.path.name for one in handle.report.failed] == ["b.flow.json"]
        assert [type(error) for error in told.errors] == [FlowSerializationError]


def test_a_watch_goes_on_when_a_callback_fails_or_the_directory_goes(tmp_path, caplog):
    """Hot reload: whatever happens is told and logged, and looked at again."""
    flows = tmp_path / "flows"
    flows.mkdir()
    registry, told = FlowRegistry(), Told()

    def bad_reload(report):
        told.on_reload(report)
        raise RuntimeError("on_reload is bad")

    def bad_error(error):
        told.on_error(error)
        raise RuntimeError("on_error is bad")

    with registry.watch(flows, interval_s=SOON, on_reload=bad_reload, on_error=bad_error) as handle:
        os.replace(put_aside(tmp_path, a_flow("a")), flows / "a.flow.json")
        told.wait_for(lambda: len(told.errors) == 1)
        flows.rename(tmp_path / "aside")
        told.wait_for(lambda: len(told.errors) == 2)
        write(tmp_path / "aside" / "b.flow.json", a_flow("b"))
        (tmp_path / "aside").rename(flows)
        told.wait_for(lambda: len(told.errors) == 3)
        assert handle.is_running
    assert [type(error) for error in told.errors] == [RuntimeError, FileNotFoundError, RuntimeError]
    assert told.reports[-1].added == (("b", "1.0"),)
    assert list(registry.snapshot) == [("a", "1.0"), ("b", "1.0")]
    assert "on_reload callback of a watch failed" in caplog.text
    assert "on_error callback of a watch failed" in caplog.text


def test_a_watch_can_be_stopped_from_its_own_callback(tmp_path):
    """api.md: stop() may be called from anywhere."""
    registry = FlowRegistry()
    stopped = threading.Event()
    started = threading.Event()

    def stop(report):
        started.wait(10)
        handle.stop()
        stopped.set()

    handle = registry.watch(tmp_path, interval_s=SOON, on_reload=stop)
    started.set()
    os.replace(put_aside(tmp_path, a_flow()), tmp_path / "a.flow.json")
    assert stopped.wait(10)
    handle.stop(10)
    assert not handle.is_running


def test_a_watch_stays_with_its_directory_when_the_process_goes_elsewhere(tmp_path, monkeypatch):
    """Hot reload: a relative path means what it meant at the beginning."""
    (tmp_path / "flows").mkdir()
    monkeypatch.chdir(tmp_path)
    registry, told = FlowRegistry(), Told()
    with registry.watch("flows", interval_s=SOON, on_reload=told.on_reload, on_error=told.on_error):
        monkeypatch.chdir("/")
        os.replace(put_aside(tmp_path, a_flow()), tmp_path / "flows" / "a.flow.json")
        told.wait_for(lambda: told.reports or told.errors)
    assert (told.errors, list(registry.snapshot)) == ([], [("a", "1.0")])


def test_stopping_a_watch_does_not_wait_for_the_next_look(tmp_path):
    """Hot reload: the thread sleeps between looks, and wakes up to end."""
    handle = FlowRegistry().watch(tmp_path, interval_s=3600)
    started = time.monotonic()
    handle.stop(20)
    assert time.monotonic() - started < 10
    assert "chainweaver-watch" not in {thread.name for thread in threading.enumerate() if thread is handle._thread}


def test_a_watch_that_waits_uses_no_processor(tmp_path):
    """Hot reload: a look at a directory is cheap, and between two of them the thread sleeps."""
    for i in range(20):
        write(tmp_path / f"{i}.flow.json", a_flow(f"f{i}"))
    looks = 0

    class Counting(FlowRegistry):
        def _reload(self, *args, **facts):
            nonlocal looks
            looks += 1
            return super()._reload(*args, **facts)

    with Counting().watch(tmp_path, interval_s=0.01):
        before = time.process_time()
        threading.Event().wait(0.3)
        spent = time.process_time() - before
    assert looks == 1
    assert spent < 0.2


def test_what_cannot_be_watched_is_refused(tmp_path):
    """api.md: watch; a mistake is not found out by a thread."""
    with pytest.raises(FileNotFoundError):
        FlowRegistry().watch(tmp_path / "nothing")
    for interval in (0, -1, float("nan"), float("inf"), 1e20):
        with pytest.raises(ValueError, match="interval_s"):
            FlowRegistry().watch(tmp_path, interval_s=interval)


# ---- running flows


def test_a_run_that_is_going_on_keeps_its_plan_and_the_next_one_has_the_new_one(tmp_path):
    """R40: a reload in the middle of a run changes nothing for it."""
    entered, go_on = threading.Event(), threading.Event()

    @tool
    def wait(n: int) -> int:
        entered.set()
        assert go_on.wait(20)
        return n

    @tool
    def double(n: int) -> int:
        return 2 * n

    @tool
    def triple(n: int) -> int:
        return 3 * n

    def steps(last):
        return a_flow("f", steps=[FlowStep(tool_name="wait"), FlowStep(tool_name=last)])

    write(tmp_path / "f.flow.json", steps("double"))
    registry, told = FlowRegistry(), Told()
    results = []
    with (
        FlowExecutor(registry, tools=[wait, double, triple]) as executor,
        registry.watch(tmp_path, interval_s=SOON, on_reload=told.on_reload),
    ):
        running = threading.Thread(target=lambda: results.append(executor.execute_flow("f", {"n": 7})))
        running.start()
        assert entered.wait(20)
        os.replace(put_aside(tmp_path, steps("triple")), tmp_path / "f.flow.json")
        told.wait_for(lambda: told.reports)
        go_on.set()
        running.join(20)
        results.append(executor.execute_flow("f", {"n": 7}))

    assert [result.final_output for result in results] == [
        {"n": 7, "wait": 7, "double": 14},
        {"n": 7, "wait": 7, "triple": 21},
    ]
    assert [[record.tool_name for record in result.execution_log] for result in results] == [
        ["wait", "double"],
        ["wait", "triple"],
    ]
