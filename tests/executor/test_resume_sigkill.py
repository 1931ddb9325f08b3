"""Runs that are killed for real, at any moment, and go on in another process.

Five kills for each shape of flow, forty with CHAINWEAVER_PROOF=1.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROOF
from tests.executor import killing

KILLS = 40 if PROOF else 5
ROOT = Path(__file__).parents[2]


def told_by_children(directory: Path, shape: str, kills: int) -> list[list[dict[str, Any]]]:
    """What was seen after each child, one list per run; nobody was killed in the first one."""
    done = subprocess.run(
        [sys.executable, str(Path(killing.__file__)), str(directory), shape, str(kills)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [list(told) for _, told in groupby(lines, key=lambda line: line["run"])]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL") or not hasattr(os, "fork"), reason="needs SIGKILL and fork")
@pytest.mark.parametrize(("shape", "slots"), [("chain", 1), ("dag", killing.WIDTH)])
def test_a_run_that_is_killed_goes_on_in_another_process(tmp_path: Path, shape: str, slots: int):
    """R32: no committed step runs again, at most one per slot repeats per kill, and the outcome is the same."""
    [whole], *runs = told_by_children(tmp_path, shape, KILLS)
    assert list(whole["calls"].values()) == [1] * killing.STEPS
    assert sum(one["killed"] for told in runs for one in told) == KILLS
    assert any(0 < len(one["committed"]) < killing.STEPS for told in runs for one in told)
    for told in runs:
        assert told[-1]["outcome"] == whole["outcome"]
        assert len(told[-1]["traces"]) == 1
        # One key for each step, whichever process called its tool.
        assert len(told[-1]["keys"]) == killing.STEPS
        for before, after in pairwise(told):
            assert set(before["committed"]) <= set(after["committed"])
            again = {step: after["calls"][step] - count for step, count in before["calls"].items()}
            assert [step for step in before["committed"] if again[step]] == []
            assert sum(again.values()) <= slots
