"""What all tests share: how many examples the property tests try, that Ctrl-C means something, and that collecting
garbage by hand is cheap.

`make test` tries few examples and always the same ones; `make proof` sets CHAINWEAVER_PROOF=1, tries many and lets them
differ from run to run. Test modules ask `tests.conftest.PROOF` where a corpus has two sizes.
"""

from __future__ import annotations

import gc
import os
import signal

import pytest
from hypothesis import HealthCheck, settings

PROOF = os.environ.get("CHAINWEAVER_PROOF", "") not in ("", "0")
"""True under `make proof`."""

# The machine is shared and small: a slow example is no finding, a wrong one is.
settings.register_profile(
    "quick", max_examples=25, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("proof", max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("proof" if PROOF else "quick")

# A shell that starts a job in the background has it ignore Ctrl-C, and what it starts inherits that: tests that
# interrupt a run, or a child, would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave tests marked `proof` to `make proof`."""
    if PROOF:
        return
    skip = pytest.mark.skip(reason="runs under make proof")
    for item in items:
        if "proof" in item.keywords:
            item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Take what has been imported and collected out of the sight of the garbage collector.

    Many tests collect by hand, some after every event; looking at all of pandas and PyTorch each time would be most of
    what the suite does.
    """
    gc.collect()
    gc.freeze()
