"""The public surface is a promise: every name, signature and field is compared with a stored snapshot.

When a change is meant, store a new one and show the difference to the reviewer:

    CHAINWEAVER_UPDATE_API=1 python -m pytest tests/guards/test_public_api.py
"""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from typing import Any

import chainweaver
from tests.guards.public_api import describe

SNAPSHOT = Path(__file__).with_name("public_api.json")


def loadable() -> dict[str, Any]:
    """The public names that can be imported now; one that cannot is missing from the promise, not a crash here."""
    names = (name for name in chainweaver.__all__ if name != "__version__")
    return {name: getattr(chainweaver, name) for name in names if is_there(name)}


def is_there(name: str) -> bool:
    try:
        getattr(chainweaver, name)
    except (ImportError, AttributeError):
        return False
    return True


def test_the_public_api_is_the_one_that_was_promised():
    """Public API: what differs from the snapshot is named, one name at a time."""
    found = {name: describe(value) for name, value in loadable().items()}
    if os.environ.get("CHAINWEAVER_UPDATE_API"):
        SNAPSHOT.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    promised = json.loads(SNAPSHOT.read_text(encoding="utf-8"))

    missing = sorted(promised.keys() - found.keys())
    unpromised = sorted(found.keys() - promised.keys())
    changed = {name: (promised[name], found[name]) for name in promised.keys() & found.keys()}
    changed = {name: (before, after) for name, (before, after) in sorted(changed.items()) if before != after}
    assert (missing, unpromised, changed) == ([], [], {})


def test_editors_see_the_same_names_that_the_root_loads():
    """Public API: the imports under TYPE_CHECKING and the lazy table name the same things in the same rooms."""
    tree = ast.parse(Path(chainweaver.__file__).read_text(encoding="utf-8"))
    [block] = [one for one in tree.body if isinstance(one, ast.If)]
    imports = [one for one in block.body if isinstance(one, ast.ImportFrom)]
    seen = {str(one.module): {alias.name for alias in one.names} for one in imports}

    assert seen == {room: set(names) for room, names in chainweaver._ROOMS.items()}


def test_every_public_name_is_there_and_documented():
    """Public API: `__all__` holds no name that cannot be imported, and none without a docstring."""
    assert len(set(chainweaver.__all__)) == len(chainweaver.__all__)
    assert set(chainweaver.__all__) <= set(dir(chainweaver))
    assert [name for name in chainweaver.__all__ if not is_there(name)] == []
    assert [name for name, value in loadable().items() if callable(value) and not value.__doc__] == []


def test_an_unknown_name_is_an_attribute_error():
    """Public API: the lazy root answers like any module."""
    assert not hasattr(chainweaver, "NoSuchThing")
