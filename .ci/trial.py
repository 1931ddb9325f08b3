"""Tries mutants on the tests of a room: which tests reach which lines, and does one of them notice a change.

Runs in a copy of the tree, as a process of its own that says what it has to say in JSON, a line for each thing:

    trial.py map ROOM FOLDER...   runs the tests once and writes the lines that each reaches, and how long it takes
    trial.py try                  reads jobs and answers each with a verdict

A job is tried in a fork that has loaded nothing of ours yet: the changed file is on the disk before it is imported, so
what happens at import is tested too. Every test has a limit of processor time, which a busy machine does not use up;
the limit of real time is there for what waits for ever.

Standard library, pytest and coverage. Called by `mutation.py`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

import coverage
import pytest

OURS = ("chainweaver", "tests", "conftest", "trial", "__main__")
OPTIONS = ("-q", "-p", "no:cacheprovider", "-W", "ignore", "--continue-on-collection-errors")
CPU_S, CPU_TIMES = 5.0, 10.0
WALL_S, WALL_TIMES = 30.0, 20.0
MEMORY = 2 << 30
"""Limits of a test: seconds on top of so many times what it takes unchanged, and bytes on top of what is used."""


class Map:
    """A pytest plugin: run everything once, and note for each test how long it takes and which lines it reaches."""

    def __init__(self, room: str) -> None:
        self.room = room
        # The monitoring of newer Pythons reports a line once, not once for each test.
        os.environ["COVERAGE_CORE"] = "ctrace"
        self.coverage = coverage.Coverage(data_file=None, config_file=False, source=[room])
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.forget()
        self.began = time.process_time()
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.coverage.switch_context("")
        self.seconds[nodeid] = time.process_time() - self.began

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def forget(self) -> None:
        """Empty the caches of the room: a test alone would reach what an earlier one has left there."""
        prefix = self.room.replace("/", ".")
        for module in [module for name, module in sys.modules.items() if name.startswith(prefix)]:
            for value in list(vars(module).values()):
                if callable(clear := getattr(value, "cache_clear", None)):
                    clear()

    def written(self) -> dict[str, Any]:
        """What was found, with tests as numbers."""
        number = {test: at for at, test in enumerate(self.seconds)}
        reached: dict[str, dict[int, list[int]]] = {}
        data = self.coverage.get_data()
        for file in data.measured_files():
            lines = data.contexts_by_lineno(file)
            tests = {line: sorted(number[test] for test in by if test in number) for line, by in lines.items()}
            reached[Path(file).relative_to(Path.cwd()).as_posix()] = tests
        foreign = [name for name in sys.modules if name.split(".")[0] not in OURS]
        return {"seconds": self.seconds, "failed": self.failed, "reached": reached, "modules": foreign}


def write_map(room: str, folders: list[str], out: TextIO) -> None:
    """Run the tests of a room under measurement."""
    found = Map(room)
    found.coverage.start()
    pytest.main([*OPTIONS, *folders], plugins=[found])
    found.coverage.stop()
    print(json.dumps(found.written()), file=out, flush=True)


class Trial:
    """A pytest plugin: run the chosen tests in their order, and leave the process at the first one that fails."""

    def __init__(self, tests: list[tuple[str, float]], verdict: TextIO) -> None:
        self.order = {test: at for at, (test, _) in enumerate(tests)}
        self.seconds = dict(tests)
        self.verdict = verdict

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self.order]
        items[:] = sorted(chosen, key=lambda item: self.order[item.nodeid])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        limit(self.seconds[nodeid])
        self.verdict.write(f"{nodeid}\n")  # the last test to start is the one that ran into a limit
        self.verdict.flush()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os._exit(1)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.verdict.write(f"the import of {report.nodeid}\n")
            self.verdict.flush()
            os._exit(1)


def limit(seconds: float) -> None:
    """Let the kernel end this process when the next test takes far longer than it should."""
    for timer, number, limit_s in (
        (signal.ITIMER_PROF, signal.SIGPROF, CPU_S + CPU_TIMES * seconds),
        (signal.ITIMER_REAL, signal.SIGALRM, WALL_S + WALL_TIMES * seconds),
    ):
        signal.signal(number, signal.SIG_DFL)
        signal.setitimer(timer, limit_s)


def judge(path: str, source: str, tests: list[tuple[str, float]]) -> tuple[str, str]:
    """Run the tests against the changed file: "killed", "timed out" or "survived", and the test that decided it."""
    file = Path(path)
    original = file.read_text(encoding="utf-8")
    file.write_text(source, encoding="utf-8")
    # A file that is changed twice in a second may look unchanged to the import system.
    Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as started:
        try:
            child = os.fork()
            if child == 0:
                run_tests(tests, started)
            _, status = os.waitpid(child, 0)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # what its tests have started and not ended
        finally:
            file.write_text(original, encoding="utf-8")
        started.seek(0)
        last = (started.read().splitlines() or ["the import"])[-1]
    if os.WIFSIGNALED(status):
        late = os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM)
        return ("timed out" if late else "killed"), last
    survived = os.WEXITSTATUS(status) in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    return ("survived", "") if survived else ("killed", last)


def run_tests(tests: list[tuple[str, float]], verdict: TextIO) -> None:
    """What the fork does. It never returns, and runs nothing that would run at a normal exit."""
    status = 3
    try:
        os.setsid()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.dont_write_bytecode = True
        if (sizes := Path("/proc/self/statm")).exists():
            used = int(sizes.read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        limit(2.0)
        files = sorted({test.split("::")[0] for test, _ in tests})
        status = pytest.main([*OPTIONS, *files], plugins=[Trial(tests, verdict)])
    finally:
        os._exit(int(status))


def serve(jobs: TextIO, out: TextIO) -> None:
    """Load what is not ours, then try one job after the other."""
    modules: list[str] = json.loads(jobs.readline())
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception:  # a module that is made at run time; whoever needs it makes it again
            continue
    for line in jobs:
        job = json.loads(line)
        began = time.monotonic()
        verdict, test = judge(job["path"], job["source"], [(test, seconds) for test, seconds in job["tests"]])
        answer = {"verdict": verdict, "test": test, "seconds": round(time.monotonic() - began, 2)}
        print(json.dumps(answer), file=out, flush=True)


def main(command: str, *args: str) -> None:
    """Run a command; its answers go to what was the standard output, and what tests print does not."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.insert(0, os.getcwd())
    if command == "map":
        write_map(args[0], list(args[1:]), out)
    else:
        serve(sys.stdin, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
