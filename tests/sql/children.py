"""Processes that tests of durable runs start, look at, and send signals to; none of them outlives its test.

They are forked: a test waits for what it is about, and not for one more interpreter. A fork owns nothing of what its
parent has opened (`test_claims.py`).
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import IO, Any

LIMIT_S = 120.0
"""How long a test waits for what has to happen; only a failing test waits that long."""


def until(happened: Callable[[], object]) -> None:
    """Wait until a question is answered with something true."""
    ends = time.monotonic() + LIMIT_S
    while not happened():
        assert time.monotonic() < ends, "it never happened"
        time.sleep(0.005)


class Child:
    """A process that was forked.

    Attributes:
        pid: Its id.
        status: How it ended, as `os.waitpid` says it; None while it runs.
    """

    def __init__(self, pid: int, said: IO[str], complained: IO[str]) -> None:
        self.pid = pid
        self.status: int | None = None
        self._said = said
        self._complained = complained

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def has_ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None
        return self.status is not None

    def said(self, limit_s: float = LIMIT_S) -> str:
        """What it printed until its end, which has to be a good one."""
        ends = time.monotonic() + limit_s
        while not self.has_ended():
            assert time.monotonic() < ends, "it does not end"
            time.sleep(0.002)
        self._complained.seek(0)
        assert self._complained.read() == ""
        assert self.status == 0
        self._said.seek(0)
        return self._said.read()


@contextmanager
def started(work: Callable[..., Any], *args: Any) -> Iterator[Child]:
    """A process that calls a function, and is killed at the end of the block if it still does."""
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        with warnings.catch_warnings():
            # Threads of the tests stay behind, and the child needs none of them.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                # Whatever writes to the bare files, such as logging without a handler.
                os.dup2(complained.fileno(), sys.__stderr__.fileno() if sys.__stderr__ else 2)
                with redirect_stdout(said), redirect_stderr(complained):
                    work(*args)
                status = 0
            except BaseException:
                traceback.print_exc(file=complained)
            finally:
                said.flush()
                complained.flush()
                os._exit(status)
        child = Child(pid, said, complained)
        try:
            yield child
        finally:
            if not child.has_ended():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
