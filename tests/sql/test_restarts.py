"""A PostgreSQL server that is killed and started again, time after time, under three processes that run and recover.

Three restarts and 18 runs; with CHAINWEAVER_PROOF=1 one every 2 to 5 s, until 500 runs are done. Two of the processes
lose patience before the server is back, so that they break off and leave runs behind; the third one has the patience
that stores have by default.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from chainweaver.sql import open_store
from tests.conftest import PROOF
from tests.sql import restarting
from tests.sql.children import Child, started, until
from tests.sql.places import asked, integrity_of
from tests.sql.restarting import STEPS, Size
from tests.sql.servers import PrivateServer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

RUNS = 500 if PROOF else 18
SIZE = Size(step_s=0.3, lease_s=2.0, limit_s=540) if PROOF else Size(step_s=0.1, lease_s=1.2, limit_s=100)
BETWEEN_S = (2.0, 5.0) if PROOF else (0.3, 0.5)
RESTARTS = range(10, 200) if PROOF else range(1, 4)
"""How many there have to be, and are at most."""
AWAY_S = (0.0, 1.0) if PROOF else (0.3, 0.4)
"""How long the server stays away, beside the tenth of a second that it takes to come back; less than a lease."""
PATIENCE_S = (0.15, 0.15, 30.0)
LEAST = 20 if PROOF else 1
"""How many commits have to fail, and how many runs to be recovered, for this to be a test."""
GONE = "StoreUnavailableError"


def restarted(
    server: PrivateServer, url: str, directory: Path, processes: Sequence[Child], chance: random.Random
) -> list[set[int]]:
    """Restart the server until the processes have ended; those that were executing runs, at each time.

    The first time all of them are, and it stays away until both who have no patience were refused a commit.
    """
    interrupted: list[set[int]] = []
    latest = time.monotonic() + SIZE.limit_s
    while len(interrupted) < RESTARTS.stop - 1:
        ends = time.monotonic() + chance.uniform(*BETWEEN_S)
        while time.monotonic() < ends or not (interrupted or len(executing(url)) == len(processes)):
            if all(process.has_ended() for process in processes) or time.monotonic() > latest:
                return interrupted
            time.sleep(0.01)
        interrupted.append(executing(url))
        server.stop(immediate=True)
        try:
            (directory / "gone").touch()
            until(lambda: (directory / "ledger").read_text().count("refused") >= len(PATIENCE_S) - 1)
            time.sleep(chance.uniform(*AWAY_S))
        finally:
            server.start()
    return interrupted


def executing(url: str) -> set[int]:
    """The processes that have claimed a run."""
    owners = asked(url, "select split_part(owner, ':', 2) from chainweaver_runs where owner is not null")
    return {int(pid) for (pid,) in owners}


def values_of(number: int) -> dict[str, int]:
    """What the steps of a run have to come to."""
    width, values = 2 if number % 2 else 1, [number, number]
    for at in range(STEPS):
        values.append(values[-width] * 7 % 1009 + at)
    return {f"v{at}": value for at, value in enumerate(values[2:])}


def test_runs_outlive_a_server_that_is_restarted_again_and_again(private_postgres: PrivateServer, tmp_path: Path):
    """R31, R32: all runs end well, no commit that was answered is lost, and nothing runs again that was committed."""
    seed = int.from_bytes(os.urandom(4), "big") if PROOF else 0
    began = time.monotonic()
    with private_postgres.database() as url:
        with open_store(url) as store:
            # When each step came to be there, by the clock that the processes have, too. A later commit leaves it.
            clock = store._database.dialect.now
            store._database.run(f"alter table chainweaver_steps add column kept_at double precision default {clock}")
        with ExitStack() as stack:
            processes = [
                stack.enter_context(started(restarting.main, url, tmp_path, range(at, RUNS, 3), SIZE, PATIENCE_S[at]))
                for at in range(3)
            ]
            until(lambda: len(list(tmp_path.glob("ready*"))) == len(processes))
            (tmp_path / "go").touch()
            interrupted = restarted(private_postgres, url, tmp_path, processes, random.Random(seed))
            told = [Counter(json.loads(process.said(SIZE.limit_s))) for process in processes]
        lines = [line.split() for line in (tmp_path / "ledger").read_text().splitlines()]
        took = time.monotonic() - began
        figures = {"seed": seed, "seconds": round(took, 1), "restarts": len(interrupted), "told": told}
        print(json.dumps({**figures, **Counter(line[0] for line in lines)}))

        check_that_it_was_put_to_the_test(told, interrupted, lines, [process.pid for process in processes])
        check_what_is_there(url, tmp_path)
        check_the_order(lines, url)
        assert integrity_of(url) == "ok"


def check_that_it_was_put_to_the_test(
    told: list[Counter[str]], interrupted: list[set[int]], lines: list[list[str]], pids: list[int]
) -> None:
    """Runs were under way when the server went, broke off for that, and were recovered."""
    assert len(interrupted) in RESTARTS
    assert interrupted[0] == set(pids), "all of them were in the midst of runs"
    *impatient, patient = told
    assert sum(line[0] == "refused" and line[2] == GONE for line in lines) >= LEAST
    assert sum(one["recovery done"] for one in told) >= LEAST
    # Whoever is as patient as stores are notices nothing, but that somebody else may have gone on with a run.
    taken_over = {"RunClaimedError", "RunClaimLostError"}
    expected = {"done", "recovery done", *taken_over, *(f"recovery {name}" for name in taken_over)}
    assert set(patient) <= expected
    for one in impatient:
        assert set(one) - expected <= {f"{who}{how}" for who in ("", "recovery ") for how in ("broke off", GONE)}


def check_what_is_there(url: str, directory: Path) -> None:
    """Every run once, whole and right, for whoever asks again; and asking calls no tool."""
    before = (directory / "ledger").stat().st_size
    with open_store(url) as store, restarting.executor_of(store) as executor:
        runs = store.runs.list_runs(limit=2 * RUNS)
        assert sorted(one.key or "" for one in runs) == sorted(f"run{number}" for number in range(RUNS))
        assert {(one.status, one.steps_done, one.owner) for one in runs} == {("ok", STEPS, None)}
        for number in range(RUNS):
            output = restarting.ask(executor, number, directory, SIZE.step_s).final_output
            assert output is not None
            assert {key: value for key, value in output.items() if key.startswith("v")} == values_of(number)
            assert [len(output[f"b{at}"]) for at in range(STEPS)] == [0, 0, 0, 0, 0, 70_000, 0, 0]
    assert (directory / "ledger").stat().st_size == before


def check_the_order(lines: list[list[str]], url: str) -> None:
    """No tool is called for a step that is committed, whether that was answered or not."""
    there = {
        f"{run}/{step}": (f"{run}/{restarting.row_of(shape, int(step))}", at) for run, shape, step, at in there_in(url)
    }
    assert len(there) == RUNS * STEPS
    assert {line[1] for line in lines} == set(there), "each step was called, of no other run"
    kept, calls, refusals = set[str](), Counter[str](), Counter[str]()
    for what, step, *more in lines:
        row, kept_at = there[step]
        if what == "kept":
            kept.add(step)
        elif what == "refused":
            refusals[row] += 1
        else:
            assert step not in kept, "its commit was answered before"
            assert float(more[0]) < kept_at, "it was in the database by then"
            calls[step] += 1
    for step, count in calls.items():
        # R19: a step beside it that was under way is not committed either.
        assert count <= 1 + refusals[there[step][0]], "it is called again only when a commit was refused"
    again = sum(calls.values()) - len(calls)
    print(json.dumps({"called again": again, "kept without an answer": len(there) - len(kept)}))


def there_in(url: str) -> list[tuple[Any, ...]]:
    """Every step that was committed: its run, the flow of that, its id, and when it came to be there."""
    return asked(
        url,
        "select run.trace_id, run.flow_name, step_id, kept_at "
        "from chainweaver_steps join chainweaver_runs as run on run.id = run_id",
    )
