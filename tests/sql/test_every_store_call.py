"""A run of 12 steps ends right before and right after every single call of its store, once and twice in one run.

Files and databases in processes that really die; in memory the crash is one of the calling program.
"""

from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from chainweaver import InMemoryCheckpointer
from tests.conftest import PROOF
from tests.executor.kit import Crash
from tests.sql import dying
from tests.sql.children import started
from tests.sql.dying import STATEMENTS, Death, go_on, mortal
from tests.sql.places import integrity_of

TWICE = 1_000_000 if PROOF else 4
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL and fork")


def runs_of(url: str, directory: Path, stride: int, twice: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run that was left alone, and what became of runs in processes that died."""
    with started(dying.main, url, directory / "runs", stride, twice) as program:
        lines = program.said(1800 if PROOF else 600).splitlines()
    whole, *runs = map(json.loads, lines)
    return whole, runs


def check(whole: dict[str, Any], run: dict[str, Any], repeats: int) -> None:
    """The same outcome, one key per call of the whole run, and no more calls than steps whose commit did not come."""
    assert (run["output"], run["records"], len(run["traces"])) == (whole["output"], whole["records"], 1)
    assert (
        len(whole["calls"]) == len(set(whole["calls"])) == 14
    )  # nine steps, three items and two steps of the sub-flow
    assert len(set(run["calls"])) == len(whole["calls"]), "a step has one key, whichever process calls it"
    assert len(run["calls"]) <= len(whole["calls"]) + repeats


def places(whole: dict[str, Any]) -> list[Death]:
    return [Death(call, done) for call in range(1, len(whole["store_calls"]) + 1) for done in (False, True)]


@needs_fork
def test_a_run_that_is_killed_at_any_call_of_its_database_goes_on_as_if_it_had_not(database_url: str, tmp_path: Path):
    """R31, R32: a commit that was done counts, and one that was not repeats its step alone."""
    check_every_call(database_url, tmp_path)
    assert integrity_of(database_url) == "ok"


@needs_fork
def test_a_run_that_is_killed_at_any_call_of_its_file_goes_on_as_if_it_had_not(tmp_path: Path):
    """R31, R32: the same for a store without claims."""
    check_every_call("file", tmp_path)


def check_every_call(url: str, directory: Path) -> None:
    """End runs at every call, and some at two; where each takes long, at every third but for proofs."""
    stride = 1 if url.startswith("sqlite") or PROOF else 3
    whole, runs = runs_of(url, directory, stride, TWICE)
    for run in runs:
        deaths = zip(run["deaths"], run["died"], strict=False)
        check(whole, run, sum(not done and name == "append" for (_, done), name in deaths))
    # Every call of the store was the last one of some child.
    once = [run for run in runs if len(run["deaths"]) == 1]
    died_at = whole["store_calls"][::stride]
    assert len(once) == sum(len(run["died"]) for run in once) == 2 * len(died_at)
    assert {name for run in once for name in run["died"]} == set(died_at)
    assert sum(len(run["died"]) == 2 for run in runs) > TWICE // 2 or PROOF


@needs_fork
def test_a_run_that_is_killed_before_any_statement_of_its_database_goes_on_as_if_it_had_not(tmp_path: Path):
    """R31, R32: also in the middle of the transactions that admit a run and end it."""
    url = f"sqlite:///{tmp_path}/runs.db"
    whole, runs = runs_of(url + STATEMENTS, tmp_path, 1 if PROOF else 3, 0)
    assert {"begin immediate", "commit"} <= set(whole["store_calls"])
    for run in runs:
        check(whole, run, len(run["died"]))
    assert integrity_of(url) == "ok"


def test_a_run_that_crashes_at_any_call_of_a_store_in_memory_goes_on_as_if_it_had_not(tmp_path: Path):
    """R31, R32: the same for what does not outlive a process, when it is the call alone that ends."""
    whole = crashed(tmp_path / "whole", [])
    for number, (first, second) in enumerate(product(places(whole), [None, *places(whole)[:: 1 if PROOF else 19]])):
        deaths = [first] if second is None else [first, second]
        run = crashed(tmp_path / str(number), deaths)
        check(whole, run, sum(not one.done for one in deaths))


def crashed(ledger: Path, deaths: list[Death]) -> dict[str, Any]:
    """A run in this process that crashes at these calls of its store."""
    store = InMemoryCheckpointer()
    is_dead = False

    def die() -> None:
        nonlocal is_dead
        is_dead = True
        raise Crash

    for death in (*deaths, None):
        told: list[str] = []
        mortal(store, death, die, told)
        try:
            outcome = go_on(store, ledger)
        except Crash:
            continue
        finally:
            vars(store).update({name: value for name, value in vars(store).items() if name.startswith("_")})
            for name in [name for name in vars(store) if not name.startswith("_")]:
                del vars(store)[name]
        return {**outcome, "calls": ledger.read_text().splitlines(), "store_calls": told}
    raise AssertionError("it never ended")
