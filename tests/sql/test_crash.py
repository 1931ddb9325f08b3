"""Flows of 40 steps that are killed for real, at any moment, and go on in another process: `make crash`.

Twenty kills for SQLite and ten for PostgreSQL over all lanes; 2 000 and 300 with CHAINWEAVER_PROOF=1.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import PROOF
from tests.sql import crashing
from tests.sql.children import started
from tests.sql.places import integrity_of

KILLS = {"sqlite": 2_000 if PROOF else 20, "postgresql": 300 if PROOF else 10}
# A child whose tools run in worker processes takes a second to begin.
SHARES = {"sync": 0.3, "threads": 0.3, "asyncio": 0.3, "process": 0.1}

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL and fork")


def told_by_children(url: str, directory: Path, lane: str, kills: int) -> list[list[dict[str, Any]]]:
    """What was seen after each child, one list per run; nobody was killed in the first of each shape."""
    seed = int.from_bytes(os.urandom(4), "big") if PROOF else 0
    print(f"seed {seed}")
    with started(crashing.main, url, directory, lane, kills, seed) as program:
        lines = [json.loads(line) for line in program.said(60 + 3 * kills).splitlines()]
    return [list(told) for _, told in groupby(lines, key=lambda line: line["run"])]


@pytest.mark.parametrize("lane", crashing.MANNERS)
def test_a_run_that_is_killed_at_any_moment_goes_on_in_another_process(database_url: str, tmp_path: Path, lane: str):
    """R31, R32: no committed step is lost or runs again, at most one per busy slot repeats per kill, same outcome."""
    kills = round(KILLS[urlsplit(database_url).scheme] * SHARES[lane])
    whole_runs, runs = split(told_by_children(database_url, tmp_path, lane, kills))
    assert sum(one["killed"] for told in runs for one in told) == kills
    assert any(0 < len(one["committed"]) < crashing.STEPS for told in runs for one in told)
    assert integrity_of(database_url) == "ok"
    for told in runs:
        shape = told[0]["shape"]
        whole = whole_runs[shape]
        last = told[-1]
        assert last["outcome"]["output"] == whole["outcome"]["output"]
        assert last["outcome"]["records"] == whole["outcome"]["records"]
        assert last["traces"] == [last["outcome"]["trace_id"]]
        assert len(last["committed"]) == crashing.STEPS
        # One key for each step, whichever process called its tool.
        assert len({(step, key) for step, key, _ in last["calls"]}) == crashing.STEPS
        slots, times = crashing.MANNERS[lane].slots[shape], sum(one["killed"] for one in told)
        assert len(last["calls"]) <= crashing.STEPS + slots * times
        for before, after in pairwise(told):
            assert set(before["committed"]) <= set(after["committed"])
            new = Counter(step for step, _, _ in after["calls"][len(before["calls"]) :])
            assert [step for step in before["committed"] if new[step]] == []
            # A worker outlives its process by the call that it was given, and may tell of it when that is counted.
            late = slots if lane == "process" else 0
            assert sum(count for step, count in new.items() if step in called(before)) <= slots + late


def split(runs: list[list[dict[str, Any]]]) -> tuple[dict[str, dict[str, Any]], list[list[dict[str, Any]]]]:
    """The runs that were left alone, by shape, and the others."""
    alone, others = runs[: len(crashing.SHAPES)], runs[len(crashing.SHAPES) :]
    whole = {}
    for [told] in alone:
        assert len(told["calls"]) == len(called(told)) == crashing.STEPS
        whole[told["shape"]] = told
    assert set(whole) == set(crashing.SHAPES)
    return whole, others


def called(told: dict[str, Any]) -> set[str]:
    return {step for step, _, _ in told["calls"]}
