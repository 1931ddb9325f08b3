"""SQLite: one connection per process, write-ahead log, and patience with other processes.

Most statements take tens of microseconds, so that one lock around one connection is cheaper than a pool. Another
process that writes is waited for, up to the patience of whoever calls and without the lock: other threads may read
meanwhile. Who asks `at_once`, such as an event loop, waits for nobody. Called by `open_store`.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from chainweaver.exceptions import ArtifactCorruptError, StoreUnavailableError, told
from chainweaver.sql.database import Dialect, Row, Session

T = TypeVar("T")

OLDEST: Final = (3, 35, 0)
"""The first release with RETURNING."""

MEMORY: Final = ":memory:"
"""The path of a database that has no file."""

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
    has_table="select 1 from sqlite_master where type = 'table' and name = ?",
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
        path: The file, as seen from where the process works now; `MEMORY` for none. A new one is for its owner alone.
        durability: "process": what was committed survives the death of the process at any moment. "power": also that
            of the machine; every commit waits for the disk.
        patience_s: How long other processes may keep the database locked.
        create: Whether a file that is not there is made.

    Raises:
        StoreUnavailableError: The file cannot be opened, or is no database, or SQLite is too old.
    """

    dialect = WORDS

    def __init__(self, path: str, *, durability: str, patience_s: float, create: bool = True) -> None:
        self.name = f"sqlite:///{path}"
        try:
            # Where the process works may change before the file is opened again.
            self.path = path if path == MEMORY else os.path.abspath(path)
        except OSError as exc:
            raise StoreUnavailableError(self.name, told(exc), fix="use an absolute path") from exc
        self._survives_power = durability == "power"
        self._patience_s = patience_s
        self._creates = create
        self._lock = threading.RLock()
        self._own = threading.local()
        self._connection: sqlite3.Connection | None = None
        self._was_opened = False
        _DATABASES.add(self)
        if sqlite3.sqlite_version_info < OLDEST:
            needed = ".".join(map(str, OLDEST))
            raise StoreUnavailableError(
                self.name,
                f"SQLite {sqlite3.sqlite_version} is too old",
                fix=f"use a Python with SQLite {needed} or newer",
            )
        self._patiently(self._opened)

    # ---- statements

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """The answer to a statement."""
        return self._patiently(lambda: self._opened().execute(sql, params).fetchall())

    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run a statement; how many rows it concerned."""
        return self._patiently(lambda: self._opened().execute(sql, params).rowcount)

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

        return self._patiently(attempt)

    def at_once(self, call: Callable[[], T]) -> T:
        """What a call gives that asks this database, where nobody has to be waited for; see `Database.at_once`."""
        lock = self._lock
        # In "power" every commit waits for the disk.
        if self._survives_power or not lock.acquire(blocking=False):
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
        """Close the file. A later call opens it again; what was in memory is gone, and a later call is an error."""
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
        if self.path == MEMORY:
            if self._was_opened:
                fix = "keep the store open, in the process that opened it, or have it in a file"
                raise StoreUnavailableError(self.name, "what was in memory went when it was closed", fix=fix)
        elif self._creates:
            _make_private(self.path)
        elif not os.path.exists(self.path):
            raise StoreUnavailableError(self.name, "there is no such file", fix="name the file of a store")
        # SQLite itself waits for nobody: it would wait with our lock.
        connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            if self._creates or connection.execute(WORDS.has_table, ("chainweaver_schema",)).fetchone():
                connection.execute("pragma journal_mode = wal")
            connection.execute(f"pragma synchronous = {'full' if self._survives_power else 'normal'}")
            if self._survives_power:
                # On macOS the disk is told to write what it has; elsewhere this means nothing.
                connection.execute("pragma fullfsync = on")
        except BaseException:
            connection.close()
            raise
        self._was_opened, self._creates = True, False
        return connection

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Try until another process lets go of the database, or the patience of the caller is over."""
        ends = time.monotonic() + self._patience_s
        pause_s = 0.001
        while True:
            try:
                with self._lock:
                    return attempt()
            except (sqlite3.Error, UnicodeDecodeError, OverflowError) as exc:
                if _is_locked(exc) and getattr(self._own, "hurries", False):
                    raise BlockingIOError(f"{self.name} is locked") from exc
                left_s = ends - time.monotonic()
                if not _is_locked(exc) or left_s <= 0:
                    raise self._refusal(exc) from exc
            time.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 2, 0.05)

    def _refusal(self, exc: sqlite3.Error | UnicodeDecodeError | OverflowError) -> Exception:
        text = str(exc)
        if isinstance(exc, OverflowError) or "too big" in text:
            return ValueError(f"A value is larger than store '{self.name}' takes: {text}.")
        # SQLite repeats damaged text in what it complains of, and that cannot be decoded either: Python 3.10 then says
        # nothing at all.
        is_garbled = isinstance(exc, UnicodeDecodeError) or not text or "Could not decode" in text
        if is_garbled or "malformed" in text or "not a database" in text:
            detail = text or "it says something that cannot be decoded"
            return ArtifactCorruptError(self.name, f"{detail}.", fix="restore the file from a backup")
        if _is_locked(exc):
            fix = f"end the process that keeps it locked for more than {self._patience_s:g} s, or raise patience_s"
        elif "unable to open" in text and _is_read_only(os.path.dirname(self.path)):
            text = f"{text}, and its directory is read-only"
            fix = "let this user write there, or copy the file: SQLite writes beside a file, also to read it"
        elif "unable to open" in text:
            fix = "make the directory, and see that this user may write to it"
        elif "readonly" in text:
            fix = "let this user write to the file and its directory, and see that the disk is not mounted read-only"
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
    # Not for ever: a statement over very many rows may hold the lock for long, and the child has a lock of its own.
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


def _is_read_only(directory: str) -> bool:
    as_us = os.access in os.supports_effective_ids
    return os.path.isdir(directory) and not os.access(directory, os.W_OK, effective_ids=as_us)


def _make_private(path: str) -> None:
    """Make an empty file that its owner alone may read, where there is none; what SQLite puts beside it is like it."""
    path = os.path.realpath(path)
    if os.path.exists(path):
        return
    # What is wrong with the place is for SQLite to say, and a file system without links has no owners either.
    with suppress(OSError):
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".")
        try:
            # Closed before it has its name: closing a file lets go of all locks that this process has on it.
            os.close(handle)
            os.link(temporary, path)
        finally:
            os.unlink(temporary)
