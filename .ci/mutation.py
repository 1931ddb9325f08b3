"""The mutation sample: do the tests of the core and of the compiler notice when their code is changed?

Draws the sample (`mutants.py`), finds out which tests reach which lines, tries every mutant in a copy of the tree
(`trial.py`), and holds what survived against the list in `docs/testing.md`, where each has its reason. The tree itself
is never changed, apart from that list, and that only when asked to.

    mutation.py                 the check of `make proof` and `make mutation`
    mutation.py --refresh       the same, and writes the list: reasons are kept, new survivors get none
    mutation.py --only ID...    tries these mutants alone and shows them; `survivors` stands for all that are listed
    mutation.py --list          shows the sample and tries nothing

The exit status is 1 when less than 85 % are killed, or when the list is not the right one.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mutants import Mutant, sample, spans

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "mutation"
PAGE = ROOT / "docs" / "testing.md"
ROOMS = {"chainweaver/_execution": "tests/*execution", "chainweaver/compiler": "tests/compiler"}
"""What is changed, and the tests that have to notice: those of the room alone, as for its coverage."""
COPIED = ("chainweaver", "tests", "docs", "examples", "schemas", "pyproject.toml", "README.md")
SIZE = 300
LEAST = 0.85
WORKERS = min(4, os.cpu_count() or 1)
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
BEGIN, END = re.compile(r"<!-- survivors on Python (\d+\.\d+) -->\n"), "<!-- end of survivors -->"
ROW = re.compile(r"^\| `(?P<id>[\w-]+)` \| (?P<place>[^|]*) \| (?P<reason>[^|]*) \|$", re.MULTILINE)


class Reach(NamedTuple):
    """What the tests of a room reach, from one run without a change."""

    seconds: Mapping[str, float]
    lines: Mapping[str, Mapping[int, frozenset[str]]]
    modules: Sequence[str]
    failed: frozenset[str] = frozenset()

    def tests_of(self, path: str, text: str, line: int) -> list[tuple[str, float]]:
        """The tests that can notice a change in a line, each with its seconds.

        First those that reach the statement, then those that reach the function around it; the fastest first. What runs
        at import concerns all tests, those of the file first.
        """
        reached = self.lines.get(path, {})
        holding = [(own, around) for own, around in spans(text) if line in own]
        own, around = min(holding, key=lambda pair: len(pair[0]), default=(range(0), None))
        groups = [_among(reached, own), _among(reached, around or reached)]
        if around is None:
            groups.append(frozenset(self.seconds) - self.failed)
        ordered = [test for group in groups for test in sorted(group, key=self._speed)]
        return [(test, round(self.seconds[test], 3)) for test in dict.fromkeys(ordered)]

    def _speed(self, test: str) -> tuple[float, str]:
        return self.seconds[test], test


def _among(reached: Mapping[int, frozenset[str]], lines: Iterable[int]) -> frozenset[str]:
    return frozenset().union(*(reached.get(line, frozenset()) for line in lines))


class Verdict(NamedTuple):
    """What became of a mutant: "killed", "timed out" or "survived", and the test that decided it."""

    mutant: Mutant
    outcome: str
    test: str
    seconds: float

    @property
    def survived(self) -> bool:
        return self.outcome == "survived"


def read_sources(tree: Path) -> dict[str, str]:
    """The files of the rooms, by path."""
    files = sorted(file for room in ROOMS for file in (tree / room).glob("**/*.py"))
    return {file.relative_to(tree).as_posix(): file.read_text(encoding="utf-8") for file in files}


def room_of(path: str) -> str:
    return next(room for room in ROOMS if path.startswith(room + "/"))


# ---- copies and processes


def copy_tree(target: Path) -> Path:
    """A new copy of what the tests need, for one worker."""
    for name in COPIED:
        origin = ROOT / name
        if origin.is_dir():
            shutil.copytree(origin, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif origin.exists():
            shutil.copy2(origin, target / name)
    return target


def start(tree: Path, *args: str) -> subprocess.Popen[str]:
    """A process of `trial.py` that sees the copy and nothing of the tree."""
    env = {name: value for name, value in os.environ.items() if name != "CHAINWEAVER_PROOF"}
    env |= {"PYTHONPATH": str(tree), "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    command = [sys.executable, str(ROOT / ".ci" / "trial.py"), *args]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        command, cwd=tree, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=quiet, text=True
    )


def map_room(tree: Path, room: str, folders: str) -> Reach:
    """Run the tests of a room once, and see what each of them reaches."""
    tests = [str(found.relative_to(tree)) for found in tree.glob(folders)]
    told, _ = start(tree, "map", room, *tests).communicate()
    found = json.loads(told)
    names, failed = list(found["seconds"]), frozenset(found["failed"])
    for test in sorted(failed):
        print(f"note: {test} fails without any change, so it has no say here")
    lines = {
        path: {int(line): frozenset(names[at] for at in tests) - failed for line, tests in by_line.items()}
        for path, by_line in found["reached"].items()
    }
    return Reach(found["seconds"], lines, found["modules"], failed)


class Worker:
    """A process that tries one mutant after the other in a copy of its own."""

    def __init__(self, tree: Path, modules: Sequence[str]) -> None:
        self.process = start(tree, "try")
        self._tell(modules)

    def _tell(self, message: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def judge(self, mutant: Mutant, tests: list[tuple[str, float]]) -> Verdict:
        """Try one mutant; one that no test reaches has survived."""
        if not tests:
            return Verdict(mutant, "survived", "", 0.0)
        self._tell({"path": mutant.path, "source": mutant.source, "tests": tests})
        assert self.process.stdout is not None
        answer = json.loads(self.process.stdout.readline())
        return Verdict(mutant, answer["verdict"], answer["test"], answer["seconds"])

    def end(self) -> None:
        """Let the process leave."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def try_all(workers: Sequence[Worker], jobs: Iterable[tuple[Mutant, list[tuple[str, float]]]]) -> list[Verdict]:
    """Try the mutants, as many at a time as there are workers; the verdicts in the order of the jobs."""
    waiting: queue.SimpleQueue[tuple[int, Mutant, list[tuple[str, float]]]] = queue.SimpleQueue()
    for at, (mutant, tests) in enumerate(jobs):
        waiting.put((at, mutant, tests))
    verdicts: dict[int, Verdict] = {}

    def work(worker: Worker) -> None:
        while True:
            try:
                at, mutant, tests = waiting.get_nowait()
            except queue.Empty:
                return
            verdicts[at] = worker.judge(mutant, tests)
            if len(verdicts) % 50 == 0:
                survived = sum(one.survived for one in verdicts.values())
                print(f"  {len(verdicts)} tried, {survived} survived", flush=True)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [verdicts[at] for at in sorted(verdicts)]


# ---- the whole


def controls(sources: Mapping[str, str], reaches: Mapping[str, Reach]) -> list[tuple[Mutant, list[tuple[str, float]]]]:
    """For each room a change that means nothing and one that breaks everything: the first survives, the second not."""
    jobs = []
    for room, reach in reaches.items():
        inside = [path for path in sources if path.startswith(room + "/")]
        path = max(inside, key=lambda one: len(frozenset().union(*reach.lines.get(one, {}).values())))
        text = sources[path]
        tests = reach.tests_of(path, text, 1)
        jobs.append((Mutant("control-same", path, 1, "", "", "", f"{text}\n# the same\n"), tests))
        broken = re.sub(r"\breturn (?=\S)", "return None and ", text)
        jobs.append((Mutant("control-broken", path, 1, "", "", "", broken), tests))
    return jobs


def try_mutants(tree: Path, sources: Mapping[str, str], mutants: Sequence[Mutant]) -> list[Verdict]:
    """Measure, start the workers, check them with what is known, and try the mutants.

    Raises:
        SystemExit: The machinery itself does not tell a changed program from an unchanged one.
    """
    needed = {room_of(mutant.path) for mutant in mutants}
    reaches = {room: map_room(tree, room, folders) for room, folders in ROOMS.items() if room in needed}
    modules = list(dict.fromkeys(name for reach in reaches.values() for name in reach.modules))
    others = [shutil.copytree(tree, tree.parent / str(at)) for at in range(2, WORKERS + 1)]
    workers = [Worker(one, modules) for one in (tree, *others)]
    try:
        for verdict in try_all(workers, controls(sources, reaches)):
            name = verdict.mutant.mutant_id
            if verdict.survived != (name == "control-same"):
                sys.exit(f"the mutation sample cannot be trusted: {name} {verdict.outcome} {verdict.test}")
        jobs = []
        for mutant in mutants:
            tests = reaches[room_of(mutant.path)].tests_of(mutant.path, sources[mutant.path], mutant.line)
            jobs.append((mutant, tests))
        return try_all(workers, jobs)
    finally:
        for worker in workers:
            worker.end()


def shown(verdict: Verdict) -> str:
    """A mutant as it is printed."""
    mutant = verdict.mutant
    by = f" by {verdict.test}" if verdict.test else ""
    return (
        f"{mutant.mutant_id}  {mutant.path}:{mutant.line}  {mutant.operator}  {verdict.outcome}{by} "
        f"({verdict.seconds} s)\n  - {mutant.before}\n  + {mutant.after}"
    )


def rates(verdicts: Sequence[Verdict]) -> tuple[list[str], float]:
    """Lines that tell how many were killed, for each room and in all, and the rate in all."""
    lines = []
    for label in (*ROOMS, ""):
        these = [one for one in verdicts if one.mutant.path.startswith(label)]
        killed = sum(not one.survived for one in these)
        late = sum(one.outcome == "timed out" for one in these)
        if these:
            rate = killed / len(these)
            lines.append(f"{label or 'in all'}: {killed} of {len(these)} killed, {rate:.1%} ({late} by their limits)")
    return lines, rate


# ---- the list of survivors


def listed(page: str) -> dict[str, str]:
    """The reasons of the page, by the name of the mutant."""
    return {row["id"]: row["reason"].strip() for row in ROW.finditer(split(page)[2])}


def split(page: str) -> tuple[str, str, str, str]:
    """What comes before the list, the Python that it was made with, the list, and the rest."""
    before, version, rest = BEGIN.split(page, maxsplit=1)
    table, _, after = rest.partition(END)
    return before, version, table, after


def refreshed(page: str, survivors: Sequence[Verdict]) -> str:
    """The page with the list of these survivors; reasons stay with their mutants."""
    before, _, _, after = split(page)
    reasons = listed(page)
    rows = [f"<!-- survivors on Python {PYTHON} -->", "| mutant | change | why no test notices |", "|---|---|---|"]
    for one in survivors:
        mutant = one.mutant
        change = f"{mutant.path.removeprefix('chainweaver/')}: {spot(mutant.before, mutant.after)}"
        rows.append(f"| `{mutant.mutant_id}` | {change} | {reasons.get(mutant.mutant_id, '')} |")
    return before + "\n".join([*rows, END]) + after


def spot(before: str, after: str, around: int = 18) -> str:
    """The place where two texts differ, with a little around it, for a cell of a table."""
    start = same(before, after)
    end = same(before[start:][::-1], after[start:][::-1])
    left, right = max(0, start - around), max(0, end - around)
    old, new = (text[left : len(text) - right].strip() for text in (before, after))
    return f"{code(old)} becomes {code(new)}" if new else f"{code(old)} is left out"


def same(one: str, other: str) -> int:
    """How many characters two texts begin with that are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))


def code(text: str) -> str:
    """Text as code in a cell; a bar would end the cell."""
    return f"`{text.replace('|', '¦').replace('`', chr(39))}`"


def complaints(page: str, survivors: Sequence[Verdict]) -> list[str]:
    """What is wrong with the list: survivors without a reason, and reasons without a survivor.

    Code that is there for other versions of Python survives on some and not on others, so the list is held against the
    one that it was made with.
    """
    if split(page)[1] != PYTHON:
        return []
    reasons, names = listed(page), {one.mutant.mutant_id for one in survivors}
    told = [f"no reason is given for {name}: write a test, or the reason" for name in names if not reasons.get(name)]
    return sorted(told) + [f"{name} is listed and did not survive: take it off" for name in sorted({*reasons} - names)]


def main(arguments: Sequence[str]) -> int:
    """Run a command; the exit status is 0 when enough are killed and the list is right."""
    parser = argparse.ArgumentParser(prog="mutation.py")
    parser.add_argument("--refresh", action="store_true", help="write the survivors into docs/testing.md")
    parser.add_argument("--only", nargs="+", metavar="ID", help="try these alone; 'survivors': all that are listed")
    parser.add_argument("--list", action="store_true", help="show the sample and try nothing")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    if options.list:
        print("\n".join(shown(Verdict(one, "", "", 0.0)) for one in sample(read_sources(ROOT), SIZE)))
        return 0
    # Somebody may be at work in the tree: from here on there is only the copy.
    BUILD.mkdir(parents=True, exist_ok=True)
    tree = copy_tree(Path(tempfile.mkdtemp(dir=BUILD)) / "1")
    sources = read_sources(tree)
    mutants = sample(sources, SIZE)
    if options.only:
        wanted = {*options.only}
        if "survivors" in wanted:
            wanted |= {*listed(PAGE.read_text(encoding="utf-8"))}
        mutants = [one for one in mutants if one.mutant_id in wanted]
    try:
        verdicts = try_mutants(tree, sources, mutants)
    finally:
        shutil.rmtree(tree.parent)
    survivors = [one for one in verdicts if one.survived]
    if options.only:
        print("\n".join(map(shown, verdicts)))
        return 0
    page = PAGE.read_text(encoding="utf-8")
    if options.refresh:
        page = refreshed(page, survivors)
        PAGE.write_text(page, encoding="utf-8")
    print("\n".join(map(shown, survivors)))
    (BUILD / "verdicts.txt").write_text("\n".join(map(shown, verdicts)) + "\n", encoding="utf-8")
    lines, rate = rates(verdicts)
    wrong = complaints(page, survivors)
    print("\n".join([*lines, *wrong]))
    took = f"{len(mutants)} mutants in {time.monotonic() - began:.0f} s"
    print(f"mutation sample: {rate:.1%} killed, at least {LEAST:.0%} have to be; {took}")
    return 0 if rate >= LEAST and not wrong else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
