"""The code of the pages runs and prints what they say."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, Shown, blocks_of, is_as_shown, name_of, run_page

RUNNABLE = [
    page
    for page in PAGES
    if any(block.language in ("python", "console") for block in blocks_of(page.read_text(encoding="utf-8")))
]
LANGUAGES = {"python", "text", "yaml", "json", "toml", "console", "sh", "mermaid"}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to work in, with the examples of the project beside."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    # Commands put directories on the path; the list is given back as it was.
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_the_code_of_a_page_runs_and_prints_what_it_shows(page: Path, desk: Path):
    """Docs: every block of a page runs, in order; what it prints stands below it, and nothing else does."""
    for shown in run_page(page, desk):
        if not is_as_shown(shown):
            # Equal texts never get here, so this shows the difference.
            assert shown.printed.strip("\n") == shown.expected.strip("\n"), f"{name_of(page)}:{shown.line}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_in_which_language_it_is(page: Path):
    """Docs: a block without a known language would be neither run nor coloured."""
    blocks = blocks_of(page.read_text(encoding="utf-8"))
    assert [(block.line, block.language) for block in blocks if block.language not in LANGUAGES] == []


def test_code_in_the_readme_is_short():
    """Docs: an example that does not fit on a screen is no example."""
    blocks = blocks_of((ROOT / "README.md").read_text(encoding="utf-8"))
    lengths = [sum(map(bool, block.body.split("\n"))) for block in blocks if block.language == "python"]
    assert lengths
    assert max(lengths) <= 15


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("a\nb\n", "a\nb\n", True),
        ("a\n", "b\n", False),
        ("", "unexpected\n", False),
        ("expected\n", "", False),
        ("took ... ms\n", "took 3.4 ms\n", True),
        ("took ... ms\n", "took 3.4\nms\n", False),
        ("first\n...\nlast\n", "first\n1\n2\nlast\n", True),
        ("first\n...\nlast\n", "first\n1\n2\n", False),
        ("first\n...\n", "first\n", True),
        ("...\nlast\n", "1\nlast\n", True),
        ("(1)\n", "(11)\n", False),
    ],
)
def test_dots_stand_for_what_varies_and_for_nothing_else(expected: str, printed: str, same: bool):
    """Docs: a comparison that lets everything pass would prove nothing."""
    assert is_as_shown(Shown(1, expected, printed, numbers_vary=False)) is same


def test_numbers_may_vary_where_the_page_says_so():
    """Docs: figures and the width of their columns differ between machines, the words around them do not."""
    assert is_as_shown(Shown(1, "184 lines in 1.5 s\n", "9 lines in 0.25 s\n", numbers_vary=True))
    assert not is_as_shown(Shown(1, "184 lines\n", "9 rows\n", numbers_vary=True))
