"""SQLite: one connection per process, write-ahead log, and patience with other processes.

Statements take tens of microseconds, so that one lock around one connection is cheaper than a pool, and an event loop
may run them where it stands. Another process that writes is waited for, but not by whoever asks `at_once`. Called by
`open_store`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from chainweaver.exceptions import ArtifactCorruptError, StoreUnavailableError
from chainweaver.sql.database import Dialect, Row, Session

T = TypeVar("T")

OLDEST: Final = (3, 35, 0)
"""The first release with RETURNING."""

WORDS: Final = Dialect(
    # Autoincrement: a number is never used again, so that a claim of a run that was forgotten fits no later one.
    identity="integer primary key autoincrement",
    text="text",
    blob="blob",
    real="real",
    number="integer",
    keyed=" without rowid",
    now="((julianday('now') - 2440587.5) * 86400.0)",
    shared="",
    listed="select value from json_each(?)",
    unlocked="",
    exclusive=None,
    notify=None,
    steps_view="""
        select flow.name, flow.version, flow.status,
            coalesce(json_extract(step.value, '$.step_id'), cast(step.key as text)) as step_id,
            json_extract(step.value, '$.tool_name') as tool_name,
            json_extract(step.value, '$.flow_name') as flow_name
        from chainweaver_flows as flow, json_each(flow.definition, '$.steps') as step""",
)


class SqliteDatabase:
    """A file, or a database in memory that ends with this object.

    Args:
        path: The file; ":memory:" for none.
        durability: "process": what was committed survives the death of the process at any moment. "power": also that
            of the machine; every commit waits for the disk.
        patience_s: How long other processes may keep the database locked.

    Raises:
        StoreUnavailableError: The file cannot be opened, or is no database, or SQLite is too old.
    """

    dialect = WORDS

    def __init__(self, path: str, *, durability: str, patience_s: float) -> None:
        self.name = f"sqlite:///{path}"
        self.path = path
        self._synchronous = "full" if durability == "power" else "normal"
        self._patience_s = patience_s
        self._lock = threading.RLock()
        self._own = threading.local()
        self._connection: sqlite3.Connection | None = None
        _DATABASES.add(self)
        if sqlite3.sqlite_version_info < OLDEST:
            needed = ".".join(map(str, OLDEST))
            raise StoreUnavailableError(
                self.name,
                f"SQLite {sqlite3.sqlite_version} is too old",
                fix=f"use a Python with SQLite {needed} or newer",
            )
        with self._lock:
            self._patiently(self._opened)

    # ---- statements

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """The answer to a statement."""
        with self._lock:
            try:
                return self._opened().execute(sql, params).fetchall()
            except (sqlite3.Error, UnicodeDecodeError) as exc:
                return self._patiently(lambda: self._opened().execute(sql, params).fetchall(), exc)

    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run a statement; how many rows it concerned."""
        with self._lock:
            try:
                return self._opened().execute(sql, params).rowcount
            except (sqlite3.Error, UnicodeDecodeError) as exc:
                return self._patiently(lambda: self._opened().execute(sql, params).rowcount, exc)

    def atomically(self, work: Callable[[Session], T], *, snapshot: bool = False) -> T:
        """Do several things, all or none; see `Database.atomically`."""

        def attempt() -> T:
            connection = self._opened()
            try:
                connection.execute("begin" if snapshot else "begin immediate")
                answer = work(_Open(connection))
                connection.execute("commit")
            finally:
                if connection.in_transaction:
                    connection.rollback()
            return answer

        with self._lock:
            return self._patiently(attempt)

    def at_once(self, call: Callable[[], T]) -> T:
        """What a call gives that asks this database, where nobody has to be waited for; see `Database.at_once`."""
        lock = self._lock
        # In "power" every commit waits for the disk.
        if self._synchronous == "full" or not lock.acquire(blocking=False):
            raise BlockingIOError(f"{self.name} does not answer at once")
        self._own.hurries = True
        try:
            return call()
        finally:
            self._own.hurries = False
            lock.release()

    def wait_for_change(self, timeout_s: float, stopped: Callable[[], bool]) -> None:
        """Look ten times a second whether another connection has written since this thread waited last."""
        ends = time.monotonic() + timeout_s
        seen = getattr(self._own, "version", None)
        while (version := self._version()) == seen and not stopped() and time.monotonic() < ends:
            time.sleep(0.1)
        self._own.version = version

    def close(self) -> None:
        """Close the file. A later call opens it again; what was in memory is gone."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    # ---- the connection

    def _version(self) -> int:
        # Changes when another connection commits, and this connection's own changes were told to its own process.
        [(version,)] = self.rows("pragma data_version")
        return int(version)

    def _opened(self) -> sqlite3.Connection:
        """The connection, with no transaction open."""
        if self._connection is None:
            self._connection = self._connect()
        elif self._connection.in_transaction:
            # Ctrl-C may strike before the end of a transaction is written down, and whatever came next would be in it.
            self._connection.rollback()
        return self._connection

    def _begin_anew(self) -> None:
        """In a process that was forked: use neither the connection nor the lock of the parent."""
        self._lock = threading.RLock()
        if self._connection is not None:
            _INHERITED.append(self._connection)
        self._connection = None

    def _connect(self) -> sqlite3.Connection:
        # Waiting is for `_patiently`: here nobody could say that there is no time for it.
        connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("pragma journal_mode = wal")
            connection.execute(f"pragma synchronous = {self._synchronous}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _patiently(self, attempt: Callable[[], T], failed: sqlite3.Error | UnicodeDecodeError | None = None) -> T:
        """Try until another process lets go of the database, or the patience is over."""
        ends = time.monotonic() + self._patience_s
        pause_s = 0.001
        while True:
            if failed is not None:
                if _is_locked(failed) and getattr(self._own, "hurries", False):
                    raise BlockingIOError(f"{self.name} is locked") from failed
                if not _is_locked(failed) or time.monotonic() >= ends:
                    raise self._refusal(failed) from failed
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, 0.05)
            try:
                return attempt()
            except (sqlite3.Error, UnicodeDecodeError) as exc:
                failed = exc

    def _refusal(self, exc: sqlite3.Error | UnicodeDecodeError) -> Exception:
        text = str(exc)
        # SQLite repeats damaged text in what it complains of, and that cannot be decoded either: Python 3.10 then says
        # nothing at all.
        is_garbled = isinstance(exc, UnicodeDecodeError) or not text or "Could not decode" in text
        if is_garbled or "malformed" in text or "not a database" in text:
            detail = text or "it says something that cannot be decoded"
            return ArtifactCorruptError(self.name, f"{detail}.", fix="restore the file from a backup")
        if _is_locked(exc):
            fix = f"end the process that keeps it locked for more than {self._patience_s:g} s, or raise patience_s"
        elif "unable to open" in text:
            fix = "make the directory, and see that this user may write to it"
        elif "full" in text:
            fix = "make room on the disk; what was committed before is there"
        else:
            fix = None
        return StoreUnavailableError(self.name, text, fix=fix)


class _Open:
    """A connection within its transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(sql, params).fetchall()

    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        return self._connection.execute(sql, params).rowcount


_DATABASES: Final[weakref.WeakSet[SqliteDatabase]] = weakref.WeakSet()
# Never closed: what SQLite does for the last one who closes a file is for the parent to do.
_INHERITED: Final[list[sqlite3.Connection]] = []


# ---- forks: SQLite has locks of its own, and a child that inherits one which is held would wait for it for ever


_HELD: Final[list[threading.RLock]] = []


def _before_fork() -> None:
    # Not for ever: whoever holds the lock for so long sleeps until another process is done, outside of SQLite.
    _HELD.extend(one._lock for one in list(_DATABASES) if one._lock.acquire(timeout=1))


def _after_fork() -> None:
    while _HELD:
        _HELD.pop().release()


def _after_fork_in_child() -> None:
    _HELD.clear()
    for database in list(_DATABASES):
        database._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


def _is_locked(exc: Exception) -> bool:
    text = str(exc)
    return "locked" in text or "busy" in text
