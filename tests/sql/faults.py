"""Stores whose operations fail on demand: one statement of a database, or one call that a file store makes.

`Statements` stands in front of a connection, `Files` in front of what the operating system is asked for; both count and
fail the one they are told to. What a database says of a full or broken disk is provoked for real where it can be, in
`test_faults`; these reach the moments that no disk fails at on demand. For tests.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from chainweaver.checkpoint import file as checkpoint_file

STATEMENT_ERRORS = ("disk I/O error", "database or disk is full", "attempt to write a readonly database")


class Counted:
    """Operations, of which one fails.

    Attributes:
        happened: Whether it has.
        seen: How many there were.
    """

    def __init__(self, after: int, error: Callable[[], Exception]) -> None:
        self.happened = False
        self.seen = 0
        self.after = after
        self.error = error

    def is_next(self) -> bool:
        """Whether the operation about to be made is the one."""
        self.seen += 1
        if self.happened or self.seen <= self.after:
            return False
        self.happened = True
        return True


class Statements:
    """A connection of which one statement fails.

    Args:
        connection: The real one.
        counted: Which.
        is_lost: The statement is done, and only the answer is lost.
    """

    def __init__(self, connection: sqlite3.Connection, counted: Counted, *, is_lost: bool) -> None:
        self._connection = connection
        self._counted = counted
        self._is_lost = is_lost

    def execute(self, sql: str, params: Sequence[Any] = ()) -> sqlite3.Cursor:
        fails = sql != "rollback" and self._counted.is_next()
        if fails and not self._is_lost:
            raise self._counted.error()
        cursor = self._connection.execute(sql, params)
        if fails:
            cursor.close()
            raise self._counted.error()
        return cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@contextmanager
def failing_statement(
    database: Any, after: int, text: str = "disk I/O error", *, is_lost: bool = False
) -> Iterator[Any]:
    """A block in which one statement of a SQLite database fails, as told by `text`."""
    counted = Counted(after, lambda: sqlite3.OperationalError(text))
    with database._lock:
        connection = database._opened()
        database._connection = Statements(connection, counted, is_lost=is_lost)
    try:
        yield counted
    finally:
        with database._lock:
            if isinstance(database._connection, Statements):
                database._connection = connection


_EVENTS = frozenset(
    {"open", "os.rename", "os.remove", "os.mkdir", "os.link", "os.truncate", "os.listdir", "os.scandir"}
)
_CALLS = ("write", "fsync", "fdatasync", "link")
_active: tuple[str, Counted, int] | None = None


def _audit(event: str, args: Any) -> None:
    if _active is None or event not in _EVENTS:
        return
    root, counted, thread = _active
    if thread != threading.get_ident() or not isinstance(args[0], (str, bytes, os.PathLike)):
        return
    if os.fsdecode(args[0]).startswith(root) and counted.is_next():
        raise counted.error()


_is_hooked = False


@contextmanager
def failing_file_call(root: str | os.PathLike[str], after: int, number: int = errno.ENOSPC) -> Iterator[Counted]:
    """A block in which one call of this thread to the operating system fails, of those for files in a directory."""
    global _active, _is_hooked
    if not _is_hooked:
        # An audit hook is the one place where every opening, renaming and removing passes. It stays for ever.
        sys.addaudithook(_audit)
        _is_hooked = True
    counted = Counted(after, lambda: OSError(number, os.strerror(number)))
    real = {name: getattr(os, name) for name in _CALLS if hasattr(os, name)}
    synced = checkpoint_file._sync

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counts(*args: Any, **options: Any) -> Any:
            if _active is not None and threading.get_ident() == _active[2] and counted.is_next():
                raise counted.error()
            return call(*args, **options)

        return counts

    for name, call in real.items():
        setattr(os, name, counting(call))
    checkpoint_file._sync = counting(synced)
    _active = (os.fspath(root), counted, threading.get_ident())
    try:
        yield counted
    finally:
        _active = None
        checkpoint_file._sync = synced
        for name, call in real.items():
            setattr(os, name, call)
