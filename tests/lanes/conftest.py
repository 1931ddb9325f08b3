"""What all tests of the lanes share."""

from __future__ import annotations

import pytest

from chainweaver.executor.runs import Runs


@pytest.fixture(autouse=True)
def _the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every flow through threads and tasks above limit 1, also one that is so small that it could walk."""
    monkeypatch.setattr(Runs, "_limit_of", lambda runs, run: runs.limit)
