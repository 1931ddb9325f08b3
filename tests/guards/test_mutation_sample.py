"""The mutation sample itself: what it draws, and that its verdicts are true.

A small project of its own stands in for the package: a change that its tests notice, one that means nothing, one that
never ends. What `make proof` makes of the real package is in docs/testing.md.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

CI = Path(__file__).resolve().parents[2] / ".ci"
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="mutants are tried in forks"),
    pytest.mark.skipif(not CI.is_dir(), reason="not in this copy of the tree"),
]

CODE = '''"""A total."""

from __future__ import annotations

START: int = 0


def total(numbers: list[int]) -> int:
    """Add them up."""
    result = START
    for number in numbers:
        result = result + number
    return result


def largest(numbers: list[int]) -> int:
    assert numbers, "give at least one"
    result = numbers[0]
    for number in numbers:
        if number > result:
            result = number
    return result
'''
TESTS = """from small.sums import largest, total


def test_a_total():
    assert total([1, 2, 3]) == 6


def test_the_largest():
    assert largest([1, 3, 2]) == 3
"""
TOTAL, LARGEST = "tests/test_sums.py::test_a_total", "tests/test_sums.py::test_the_largest"
BOTH = [(TOTAL, 0.0), (LARGEST, 0.0)]


@pytest.fixture(scope="module")
def ci():
    """The modules `mutation` and `mutants` of the project's checks."""
    pytest.importorskip("mutmut", reason="mutmut is not installed")
    sys.path.insert(0, str(CI))
    try:
        mutation = importlib.import_module("mutation")
        return mutation, importlib.import_module("mutants")
    finally:
        sys.path.remove(str(CI))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    for name, text in {"small/sums.py": CODE, "small/__init__.py": "", "tests/test_sums.py": TESTS}.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    (root / "pytest.ini").write_text("[pytest]\n")
    return root


@pytest.fixture(scope="module")
def judge(ci: tuple[ModuleType, ModuleType], project: Path):
    """Say what becomes of the project when a piece of its code is another one, and which test decided it."""
    mutation, mutants = ci
    worker = mutation.Worker(project, [])

    def ask(old: str, new: str, tests: list[tuple[str, float]] = BOTH) -> tuple[str, str]:
        assert CODE.count(old) == 1
        mutant = mutants.Mutant("m", "small/sums.py", 1, "", old, new, CODE.replace(old, new))
        verdict = worker.judge(mutant, tests)
        assert (project / "small" / "sums.py").read_text() == CODE
        return verdict.outcome, verdict.test

    yield ask
    worker.end()


# ---- verdicts


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ("result + number", "result - number", ("killed", TOTAL)),
        ("number > result", "number < result", ("killed", LARGEST)),
        ("START: int = 0", "START: int = None", ("killed", TOTAL)),
        ("START: int = 0", "START: int = nowhere", ("killed", "the import of tests/test_sums.py")),
        ("return result\n\n\ndef", "return [0] * 2**40\n\n\ndef", ("killed", TOTAL)),
        ("return result\n\n\ndef", "import os; os.abort()\n\n\ndef", ("killed", TOTAL)),
        ("number > result", "number >= result", ("survived", "")),
        ("result + number", "number + result", ("survived", "")),
    ],
)
def test_a_change_that_a_test_notices_is_killed_and_one_that_means_nothing_survives(judge, old, new, verdict):
    """Mutation: planted changes, killed by name of the test; equivalent ones."""
    assert judge(old, new) == verdict


def test_only_the_chosen_tests_have_a_say(judge):
    """Mutation: what no chosen test reaches has survived."""
    assert judge("number > result", "number < result", [(TOTAL, 0.0)]) == ("survived", "")
    assert judge("number > result", "number < result", []) == ("survived", "")


@pytest.mark.proof
def test_a_change_that_never_ends_runs_into_the_limit(judge):
    """Mutation: a loop without an end counts as noticed."""
    endless = "while True: result += number - number"
    assert judge("result = result + number", endless) == ("timed out", TOTAL)


def test_the_map_tells_which_test_reaches_which_line_and_which_fails_by_itself(ci, project):
    """Mutation: by measurement of each test alone."""
    failing = project / "tests" / "test_wrong.py"
    failing.write_text("def test_wrong():\n    assert False\n")
    told, _ = ci[0].start(project, "map", "small", "tests").communicate()
    failing.unlink()
    found = json.loads(told)
    names, lines = list(found["seconds"]), found["reached"]["small/sums.py"]
    by_line = {line: [names[at] for at in lines.get(str(line), [])] for line in (5, 12, 20)}
    assert by_line == {5: [], 12: [TOTAL], 20: [LARGEST]}
    assert found["failed"] == ["tests/test_wrong.py::test_wrong"]
    assert "small.sums" in found["modules"]
    assert not any(name.startswith(("tests", "chainweaver")) for name in found["modules"])


def test_tests_that_reach_the_statement_come_first_and_the_fastest_of_them_foremost(ci):
    """Mutation: the order in which tests are asked."""
    seconds = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 0.5, "e": 0.1, "f": 0.01}
    lines = {10: "ab", 11: "abc", 12: "abcd", 19: "e"}
    reach = ci[0].Reach(seconds, {"small/sums.py": {line: frozenset(by) for line, by in lines.items()}}, [])
    ordered = {
        line: "".join(test for test, _ in reach.tests_of("small/sums.py", CODE, line)) for line in (5, 8, 10, 19)
    }
    assert ordered == {5: "edbcaf", 8: "dbca", 10: "badc", 19: "e"}


# ---- the sample


def drawn(ci: tuple[ModuleType, ModuleType], code: str, size: int = 100) -> dict[str, tuple[str, str]]:
    return {one.mutant_id: (one.before, one.after) for one in ci[1].sample({"small/sums.py": code}, size)}


def test_the_same_code_gives_the_same_sample_wherever_it_stands(ci):
    """Mutation: names of mutants do not depend on line numbers, comments and other functions."""
    again = CODE.replace("\n\n\ndef", "\n\n\n# a comment\n\n\ndef").replace(
        "list[int]) -> int:\n    assert", "Any):\n    assert"
    )
    whole = drawn(ci, CODE)
    assert drawn(ci, again) == whole
    assert drawn(ci, CODE, 3).items() <= whole.items()
    changed = drawn(ci, CODE.replace("result + number", "result + number * 2"))
    assert len(changed.items() & whole.items()) >= len(whole) - 1


def test_a_mutant_is_another_program_and_says_where(ci):
    """Mutation: no change of annotations, of texts for readers, or of nothing."""
    mutants = ci[1].sample({"small/sums.py": CODE}, 100)
    assert len(mutants) == len({one.line for one in mutants}) == 6
    for one in mutants:
        compile(one.source, one.path, "exec")
        changed = [
            at
            for at, pair in enumerate(zip(CODE.splitlines(), one.source.splitlines(), strict=True), 1)
            if len({*pair}) > 1
        ]
        assert changed == [one.line]
        assert not {"give at least one", "Add them up", "A total"} & {*one.before.split("'")}
    assert {one.line for one in mutants} == {5, 10, 12, 18, 20, 21}


def test_files_have_a_part_of_the_sample_by_their_size(ci):
    """Mutation: by lines that can be changed, never more than there are."""
    shares = ci[1].shares
    assert shares({"a": 60, "b": 30, "c": 10}, 10) == {"a": 6, "b": 3, "c": 1}
    assert shares({"a": 10, "b": 10, "c": 10}, 10) == {"a": 4, "b": 3, "c": 3}
    assert shares({"a": 2, "b": 1}, 10) == {"a": 2, "b": 1}


# ---- the list of survivors


def survivor(ci: tuple[ModuleType, ModuleType], name: str):
    mutation, mutants = ci
    mutant = mutants.Mutant(name, "chainweaver/compiler/x.py", 1, "swap_op", "if a | b < c:", "if a | b <= c:", "")
    return mutation.Verdict(mutant, "survived", "", 0.1)


def test_the_list_is_written_anew_and_keeps_its_reasons(ci):
    """Mutation: one row for a survivor, in the order of the sample."""
    mutation, _ = ci
    empty = f"# Page\n\n<!-- survivors on Python 3.9 -->\n{mutation.END}\n\nThe end.\n"
    page = mutation.refreshed(empty, [survivor(ci, "x-1"), survivor(ci, "x-2")])
    assert page.startswith("# Page\n")
    assert page.endswith("\n\nThe end.\n")
    assert mutation.listed(page) == {"x-1": "", "x-2": ""}
    assert "| `x-1` | compiler/x.py: `if a ¦ b < c:` becomes `if a ¦ b <= c:` |  |" in page
    reasoned = page.replace(
        "`x-2` | compiler/x.py: `if a ¦ b < c:` becomes `if a ¦ b <= c:` |  |", "`x-2` | same | equal |"
    )
    again = mutation.refreshed(reasoned, [survivor(ci, "x-0"), survivor(ci, "x-2")])
    assert mutation.listed(again) == {"x-0": "", "x-2": "equal"}
    assert mutation.refreshed(again, [survivor(ci, "x-0"), survivor(ci, "x-2")]) == again


def test_a_survivor_without_a_reason_and_a_reason_without_a_survivor_are_told(ci):
    """Mutation: the list is complete and holds nothing else, for the Python that it was made with."""
    mutation, _ = ci
    rows = "| `x-1` | a | equal |\n| `x-2` | b |  |\n| `x-3` | c | equal |"
    page = f"<!-- survivors on Python {mutation.PYTHON} -->\n{rows}\n{mutation.END}\n"
    elsewhere = page.replace(mutation.PYTHON, "3.9")
    assert mutation.complaints(elsewhere, [survivor(ci, "x-4")]) == []
    assert mutation.complaints(page, [survivor(ci, name) for name in ("x-1", "x-2", "x-4")]) == [
        "no reason is given for x-2: write a test, or the reason",
        "no reason is given for x-4: write a test, or the reason",
        "x-3 is listed and did not survive: take it off",
    ]
