"""A process that does nothing but fork workers: they begin with everything imported that all of them need.

It is single-threaded and imports no code of the user, so that forking it is safe whatever the owner has going on. It
holds the other end of its owner's socket: when the owner ends, however it ends, it kills all that it has forked.

Started as a program of its own by `processes`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import socket
from typing import Any, NamedTuple

from chainweaver.lanes import worker
from chainweaver.lanes.wire import Wire, dumped, loaded
from chainweaver.lanes.worker import Settings

STILL_THERE = -1
"""In place of a wait status: the worker has not ended yet; ask again."""

WANTED = ("chainweaver.flow", "chainweaver.plan", "chainweaver.tools.making")
"""What the modules of tools import of this package: its workers have it from the beginning."""


class Fork(NamedTuple):
    """Start a worker; its end of the socket comes along. Reply: its process id."""

    settings: Settings


class Reap(NamedTuple):
    """Say how a worker ended. Reply: its wait status, `STILL_THERE`, or None for one that is not known.

    Attributes:
        kill: End it first.
    """

    pid: int
    kill: bool


def main(descriptor: int) -> None:
    """Serve the owner at the other end of a socket until it hangs up."""
    for module in WANTED:
        importlib.import_module(module)
    control = socket.socket(fileno=descriptor)
    wire = Wire(control)
    alive: set[int] = set()
    gc.collect()
    gc.freeze()  # what is shared with the workers stays shared: the collector would write to it
    while True:
        try:
            frame, descriptors = wire.receive()
        except (EOFError, OSError):
            break
        asked: Any = loaded(frame, worker._nothing)
        if isinstance(asked, Fork):
            pid = _fork(control, asked.settings, descriptors[0])
            os.close(descriptors[0])
            alive.add(pid)
            reply: int | None = pid
        else:
            reply = _reap(asked) if asked.pid in alive else None
            if reply != STILL_THERE:
                alive.discard(asked.pid)
        try:
            wire.send(dumped(reply, worker._left_in))
        except OSError:
            break
    for pid in alive:
        kill_group(pid)


def _fork(control: socket.socket, settings: Settings, descriptor: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        control.close()
        # A group of its own: what a tool starts is killed with it, and no Ctrl-C of a terminal reaches either.
        os.setsid()
        worker.begin(socket.socket(fileno=descriptor), settings)
        status = 0
    finally:
        worker._flush()
        os._exit(status)


def _reap(asked: Reap) -> int | None:
    if asked.kill:
        kill_group(asked.pid)  # it was not reaped yet, so that the number still belongs to it
    try:
        pid, status = os.waitpid(asked.pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return status if pid else STILL_THERE


def kill_group(pid: int) -> None:
    """End a worker and all that it has started, at once."""
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):  # it may not have got as far as to have a group
        os.kill(pid, signal.SIGKILL)
