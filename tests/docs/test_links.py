"""Links between the pages lead somewhere, and the index of docs/ names every page."""

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
