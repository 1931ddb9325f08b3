"""Links between the pages lead somewhere, the index of docs/ names every page, and what stands twice is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, headings_of, links_of, name_of


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_a_page_and_a_heading_that_exist(page: Path):
    """Docs: a reader who clicks arrives."""
    text = page.read_text(encoding="utf-8")
    dead = []
    for link in links_of(text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and anchor not in headings_of(target.read_text(encoding="utf-8"))):
            dead.append(link)
    assert dead == []


def test_the_index_names_every_page():
    """Docs: a page that nothing points to is not found."""
    index = ROOT / "docs" / "README.md"
    named = {(index.parent / link.partition("#")[0]).resolve() for link in links_of(index.read_text(encoding="utf-8"))}
    assert sorted(name_of(page) for page in (ROOT / "docs").rglob("*.md") if page not in {index, *named}) == []


def table_of(page: Path, head: str) -> list[str]:
    """The lines of the table that begins with these words."""
    _, _, rest = page.read_text(encoding="utf-8").partition(f"\n| {head} |")
    return [f"| {head} |{rest}".splitlines()[0], *rest.partition("\n\n")[0].splitlines()[1:]]


def test_the_overview_shows_the_figures_that_were_measured():
    """Docs: the table of neighbours in the README is the one of the benchmarks, figure by figure."""
    measured = table_of(ROOT / "benchmarks" / "README.md", "system")
    assert len(measured) > 3
    assert table_of(ROOT / "README.md", "system") == measured


def test_the_overview_names_the_bounds_that_are_enforced():
    """Docs: bounds in the README are those that `make proof` fails on."""
    from benchmarks.workloads import FIGURES

    bounds = {figure.name: figure.bound for figure in FIGURES}
    told = [f"{bounds[name]:g}" for name in ("chain5", "chain100", "diamond", "dag1000")]
    assert f"held to {told[0]}, {told[1]}, {told[2]} and {told[3]}" in (ROOT / "README.md").read_text(encoding="utf-8")
