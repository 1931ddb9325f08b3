"""A writer that is killed at any moment: what it was told is committed is there, and the file can be read.

Five kills, sixty with CHAINWEAVER_PROOF=1.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chainweaver.checkpoint import FileCheckpointer, StepDelta

KILLS = 60 if os.environ.get("CHAINWEAVER_PROOF") == "1" else 5

# The child goes on where the file ends, and prints the index of a step after it is committed.
WRITER = """
import sys
from datetime import datetime, timezone
from chainweaver.checkpoint import ExecutionSnapshot, FileCheckpointer, StepDelta
store = FileCheckpointer(sys.argv[1], fsync=False)
run = sys.argv[2]
if run not in store.list_trace_ids():
    store.save(ExecutionSnapshot(trace_id=run, flow_name="f", flow_version="1",
                                 started_at=datetime(2024, 5, 1, tzinfo=timezone.utc)))
index = len(store.load(run).steps)
while True:
    store.append(run, StepDelta(index, f"step{index}", "t", "f", "ok", {"n": index, "raw": b"\\n" * (index % 500)}))
    print(index, flush=True)
    index += 1
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_no_committed_step_is_lost_when_the_writer_is_killed(tmp_path):
    """R32: the file holds a prefix, at least as long as what was reported; the next writer goes on with it."""
    chance = random.Random(1)
    reported = -1
    project = Path(__file__).parents[2]
    for kill in range(KILLS):
        # A new run every five kills: its file is read from the beginning after each of them.
        run = f"run{kill // 5}"
        reported = reported if kill % 5 else -1
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), run], cwd=project, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(chance.random() * 0.03)
        child.kill()
        lines = [first, *child.stdout]
        child.stdout.close()
        child.wait()
        # The last line may itself be cut off.
        reported = max([reported, *(int(line) for line in lines if line.endswith("\n"))])

        steps = FileCheckpointer(tmp_path).load(run).steps
        assert [step.outputs and step.outputs["n"] for step in steps] == list(range(len(steps)))
        assert reported < len(steps) <= reported + 2

    store = FileCheckpointer(tmp_path)
    store.append(run, StepDelta(len(steps), "last", "t", "f", "ok", {}))
    assert store.load(run).completed_steps == len(steps) + 1
