"""The checks behind `make test`, `make proof`, `make matrix` and `make lint`.

Runs each check as a process of its own, goes on after a failure so that one run shows everything, and ends with one
line that says what was done. Standard library only. Called by the Makefile with the interpreter of the environment.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "build" / "reports"
SUPPORTED = [(3, minor) for minor in range(10, 15)]
COVERED = {"chainweaver/_execution": "tests/*execution", "chainweaver/compiler": "tests/compiler"}
"""Rooms that their own tests have to cover to the last branch, each with the folder of these tests."""


class Interpreter(NamedTuple):
    """A Python that was found on this machine."""

    path: str
    version: str

    @property
    def minor(self) -> str:
        return ".".join(self.version.split(".")[:2])


class Tests(NamedTuple):
    """What one run of pytest counted, read from its report."""

    passed: int
    failed: int
    skipped: list[str]


class Suite:
    """Collects which checks ran and which failed."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.began = time.monotonic()
        self.done: list[str] = []
        self.failed: list[str] = []
        self.notes: list[str] = []

    def check(self, name: str, *args: str, env: Mapping[str, str] | None = None, gate: bool = True) -> bool:
        """Run one check; a check that is no gate only leaves a note when it fails."""
        print(f"--- {name}", flush=True)
        passed = subprocess.run(args, cwd=ROOT, env={**os.environ, **(env or {})}, check=False).returncode == 0
        if passed:
            self.done.append(name)
        elif gate:
            self.failed.append(name)
        else:
            self.notes.append(f"{name} did not pass, which is only a warning here")
        return passed

    def end(self) -> int:
        """Print the notes and the closing line; 0 when everything passed."""
        seconds = time.monotonic() - self.began
        for note in self.notes:
            print(f"note: {note}")
        took = f"in {seconds:.0f} s on Python {platform.python_version()}"
        if self.failed:
            print(f"make {self.command}: FAILED {listed(self.failed)} {took}")
            return 1
        print(f"make {self.command}: {listed(self.done)} passed {took}")
        return 0


def listed(names: list[str]) -> str:
    """The names as a reader would say them: "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "nothing"


def lint(suite: Suite) -> None:
    """Linter, format and types."""
    suite.check("ruff", sys.executable, "-m", "ruff", "check", ".")
    suite.check("ruff format", sys.executable, "-m", "ruff", "format", "--check", "--quiet", ".")
    suite.check("mypy", sys.executable, "-m", "mypy")


def pytest(suite: Suite, python: str, label: str, *, env: Mapping[str, str] | None = None) -> None:
    """Run the tests with one interpreter and put their number into the closing line."""
    report = REPORTS / f"tests-{label.replace(' ', '-')}.xml"
    report.unlink(missing_ok=True)
    report.parent.mkdir(parents=True, exist_ok=True)
    name = f"tests {label}".strip()
    # One worker per core; a worker that is done takes over tests of the others.
    workers = ("-n", str(min(os.cpu_count() or 1, 4)), "--dist", "worksteal")
    slowest = ("--durations=12", "--durations-min=4")
    passed = suite.check(name, python, "-m", "pytest", "-q", *workers, *slowest, f"--junitxml={report}", env=env)
    if not report.exists():
        return
    counted = read_report(report)
    if passed:
        suite.done[-1] = f"{counted.passed} {name}"
    if counted.skipped:
        suite.notes.append(f"{len(counted.skipped)} {name} skipped: {'; '.join(counted.skipped)}")


def read_report(report: Path) -> Tests:
    """Numbers and names of skipped tests from a JUnit file that pytest wrote a moment ago."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    names = [f"{case.get('classname')}::{case.get('name')}" for case in skipped]
    return Tests(len(cases) - len(failed) - len(skipped), len(failed), names)


def figures(suite: Suite, mode: str) -> None:
    """Overhead figures, alone on the machine as far as this run can help it."""
    if not (ROOT / "benchmarks" / "table.py").exists():
        suite.notes.append("no overhead figures: benchmarks/table.py is not there")
        return
    effort = () if mode == "fail" else ("--quick",)
    table = (sys.executable, "-m", "benchmarks.table", "--check", mode, *effort)
    suite.check("overhead figures", *table, gate=mode == "fail")


def coverage(suite: Suite) -> None:
    """Every line and branch of the core and of the compiler, by the tests of these rooms alone."""
    for room, folder in COVERED.items():
        tests = [str(path) for path in ROOT.glob(folder)] or [folder]
        data = str(REPORTS / f"coverage-{Path(room).name}")
        run = (sys.executable, "-m", "coverage", "run", "--branch", f"--source={room}", f"--data-file={data}")
        if suite.check(f"tests of {room}", *run, "-m", "pytest", "-q", *tests, env={"CHAINWEAVER_PROOF": "1"}):
            report = (sys.executable, "-m", "coverage", "report", f"--data-file={data}", "--fail-under=100")
            suite.check(f"coverage of {room}", *report)


def interpreters() -> list[Interpreter]:
    """One interpreter for each supported minor version, oldest first."""
    candidates: list[str] = [sys.executable]
    for major, minor in SUPPORTED:
        candidates += filter(None, [shutil.which(f"python{major}.{minor}")])
    if shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=False).stdout.strip()
        candidates += sorted(str(path) for path in Path(root or ".").glob("versions/*/bin/python"))
    found: dict[str, Interpreter] = {}
    for path in candidates:
        asked = subprocess.run(
            [path, "-c", "import platform; print(platform.python_version())"],
            capture_output=True,
            text=True,
            check=False,
        )
        one = Interpreter(path, asked.stdout.strip())
        if asked.returncode == 0 and one.minor in {f"{major}.{minor}" for major, minor in SUPPORTED}:
            found.setdefault(one.minor, one)
    return sorted(found.values(), key=lambda one: int(one.minor.split(".")[1]))


def matrix(suite: Suite) -> None:
    """The tests on every interpreter, each with an environment of its own."""
    for one in interpreters():
        python = ROOT / ".venvs" / one.minor / "bin" / "python"
        if not python.exists():
            subprocess.run([one.path, "-m", "venv", str(python.parent.parent)], check=True)
        install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", ".[dev]")
        if subprocess.run([str(python), *install], cwd=ROOT, check=False).returncode != 0:
            suite.failed.append(f"installation on {one.version}")
            continue
        pytest(suite, str(python), f"on {one.version}")


def main(command: str) -> int:
    """Run one of the commands; the exit status is 0 when all of its gates passed."""
    suite = Suite(command)
    if command in ("test", "proof", "lint"):
        lint(suite)
    if command == "test":
        pytest(suite, sys.executable, "")
        figures(suite, "warn")
    if command == "proof":
        pytest(suite, sys.executable, "in full", env={"CHAINWEAVER_PROOF": "1"})
        coverage(suite)
        suite.check("mutation sample", sys.executable, str(ROOT / ".ci" / "mutation.py"))
        figures(suite, "fail")
    if command == "matrix":
        matrix(suite)
    elif command != "lint":
        untested = [one.version for one in interpreters() if one.minor != ".".join(platform.python_version_tuple()[:2])]
        if untested:
            suite.notes.append(f"not tested on {listed(untested)}; make matrix does that")
    return suite.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
