"""Processes that are killed while they write to a store, and what they had been told was kept.

The parent starts a child, which opens the store by a function that it imports, writes one thing after the other and
says so on its output after each. It is killed at some moment. Called by the contracts; the child calls `main`.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

LONGEST_S = 0.03
"""How long a child goes on after its first write, at most."""


class Written(NamedTuple):
    """What a child wrote before it was killed.

    Attributes:
        first: Number of the first thing.
        last: Number of the last one that it was told is kept.
    """

    first: int
    last: int


_PROGRAM = f"import sys; from {__name__} import main; main(*sys.argv[1:])"


def kill_while_writing(factory: str, argument: str, *, work: str, first: int) -> Written:
    """Start a child that writes, and kill it at some moment after its first write.

    Args:
        factory: The function that opens the store, as "module:name".
        argument: The text that it is called with.
        work: The function that writes, as "module:name"; called with the store and a number.
        first: The first number.

    Raises:
        AssertionError: The child wrote nothing.
    """
    program = [sys.executable, "-c", _PROGRAM, factory, argument, work, str(first)]
    # The child finds what this process finds, whatever it was installed from.
    paths = [str(Path.cwd()) if path == "" else path for path in sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    child = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout is not None, "it was asked for"
    with child.stdout:
        lines = [child.stdout.readline()]
        # A run of tests is to be repeatable as far as it can be: the moment follows from the number.
        time.sleep(random.Random(first).random() * LONGEST_S)
        child.kill()
        lines += child.stdout
    child.wait()
    # The last line may itself be cut off.
    told = [int(line) for line in lines if line.endswith("\n")]
    assert told, f"the child that opens a store by {factory}({argument!r}) wrote nothing"
    return Written(first, told[-1])


def named(place: str) -> Callable[..., Any]:
    """The function that a text names.

    >>> named("os.path:join")("a", "b") == os.path.join("a", "b")
    True
    """
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def main(factory: str, argument: str, work: str, first: str) -> None:
    """Write until somebody kills this process."""
    store, write = named(factory)(argument), named(work)
    number = int(first)
    while True:
        write(store, number)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        number += 1
