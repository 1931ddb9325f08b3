"""What all tests of the lanes share."""

from __future__ import annotations

import pytest

from chainweaver import FlowExecutor


@pytest.fixture(autouse=True)
def _the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every flow through threads and tasks above limit 1, also one that is so small that it could walk."""
    monkeypatch.setattr(FlowExecutor, "_limit_of", lambda executor, run: executor._limit)
