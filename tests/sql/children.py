"""Processes that tests of durable runs start, look at, and send signals to; none of them outlives its test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT_S = 30.0
"""How long a test waits for what has to happen; only a failing test waits that long."""


def until(happened: Callable[[], object]) -> None:
    """Wait until a question is answered with something true."""
    ends = time.monotonic() + LIMIT_S
    while not happened():
        assert time.monotonic() < ends, "it never happened"
        time.sleep(0.005)


@contextmanager
def started(code: str) -> Iterator[subprocess.Popen[str]]:
    """A Python that runs this code, and is killed at the end of the block if it still does."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said_by(process: subprocess.Popen[str]) -> str:
    """What a process printed until its end, which has to be a good one."""
    said, complained = process.communicate(timeout=LIMIT_S)
    assert complained == ""
    assert process.returncode == 0
    return said
