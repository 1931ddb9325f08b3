"""Every clause of docs/run-semantics.md is proven by a test that names it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.docs.pages import ROOT

CLAUSE = re.compile(r"^\*\*(R\d+)\*\* ", re.MULTILINE)


def clauses() -> list[str]:
    """The numbers in the order of the page."""
    return CLAUSE.findall((ROOT / "docs" / "run-semantics.md").read_text(encoding="utf-8"))


def cited(docstring: str) -> Iterator[str]:
    """The clauses that a docstring begins with: "R6, R9: ..." or "R1-R3: ..."."""
    head = re.match(r"R\d+(?:\s*(?:,|and|-)\s*R\d+)*", docstring)
    for first, last in re.findall(r"R(\d+)(?:-R(\d+))?", head.group() if head else ""):
        yield from (f"R{number}" for number in range(int(first), int(last or first) + 1))


def cited_by_tests() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("*.py"):
        for one in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)) and one.name.startswith("test_"):
                found.update(cited(ast.get_docstring(one) or ""))
    return found


def test_the_page_has_all_clauses_once_and_in_order():
    """Docs: numbers of clauses are promises; none is left out, used twice or moved."""
    assert clauses() == [f"R{number}" for number in range(1, 41)]


def test_every_clause_is_proven_by_a_test_that_names_it():
    """Docs: a clause without a test is an intention."""
    cited = cited_by_tests()
    assert [number for number in clauses() if number not in cited] == []


def test_tests_name_only_clauses_that_exist():
    """Docs: a test that cites a clause that is not there proves something else."""
    assert sorted(cited_by_tests().difference(clauses())) == []


def test_citations_are_read_in_every_form():
    """Docs: one clause, a list, a range."""
    assert list(cited("R12: two")) == ["R12"]
    assert list(cited("R6, R9: two")) == ["R6", "R9"]
    assert list(cited("R1-R3: three")) == ["R1", "R2", "R3"]
    assert list(cited("Docs: R1 is mentioned")) == []
