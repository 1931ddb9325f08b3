"""Every error code is documented once and raised somewhere."""

from __future__ import annotations

import re
from pathlib import Path

from chainweaver.exceptions import error_code_registry

ROOT = Path(__file__).resolve().parents[2]
ENTRY = re.compile(r"^### CW-(E\d{3}) `(\w+)`\n(.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL)


def test_every_code_has_one_entry_in_the_documentation():
    """Errors: docs/errors.md and the classes name the same codes, each with a text of its own."""
    entries = ENTRY.findall((ROOT / "docs" / "errors.md").read_text(encoding="utf-8"))

    assert sorted((code, name) for code, name, _ in entries) == [
        (code, kind.__name__) for code, kind in error_code_registry().items()
    ]
    assert [code for code, _, text in entries if len(text.split()) < 10] == []


def test_every_code_is_raised_somewhere():
    """Errors: a class that nothing makes is a promise that nobody keeps."""
    files = [path for path in (ROOT / "chainweaver").rglob("*.py") if path.name != "exceptions.py"]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files if path != ROOT / "chainweaver/__init__.py")
    made = {code for code, kind in error_code_registry().items() if re.search(rf"\b{kind.__name__}\(", source)}

    assert sorted(error_code_registry().keys() - made) == []
