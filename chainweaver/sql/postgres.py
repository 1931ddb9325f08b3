"""PostgreSQL: a few connections per process, and patience with restarts, locks and other writers.

A connection that is lost is opened again and what was asked for is asked again, so the stores ask for nothing that may
not be done twice. No message holds a password. Called by `open_store`; psycopg is imported here only, when the first
database is opened.
"""

from __future__ import annotations

import importlib
import math
import os
import queue
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import unquote

from chainweaver.exceptions import ArtifactCorruptError, MissingExtraError, StoreUnavailableError
from chainweaver.sql.database import Dialect, Row, Session

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

LARGEST: Final = 10
"""Connections of one process at most; more threads than that wait for each other."""

LONGEST: Final = 2**30 - 2**20
"""Bytes that a statement may have with all its values; a server takes 1 GiB."""

WORDS: Final = Dialect(
    identity="bigint generated always as identity primary key",
    text='text collate "C"',
    blob="bytea",
    real="double precision",
    number="bigint",
    keyed="",
    # Not now(), which is the time at which the transaction began.
    now="cast(extract(epoch from clock_timestamp()) as double precision)",
    shared=" for share",
    listed="select jsonb_array_elements_text(cast(? as jsonb))",
    unlocked=" for update skip locked",
    exclusive="select pg_advisory_xact_lock(7162538210459071)",
    has_table="select 1 from pg_catalog.pg_tables where schemaname = current_schema() and tablename = ?",
    notify="notify chainweaver_flows",
    # jsonb holds no zero character; one such description would break the view for all flows.
    steps_view=r"""
        select flow.name, flow.version, flow.status,
            coalesce(step.value ->> 'step_id', cast(step.position - 1 as text)) as step_id,
            step.value ->> 'tool_name' as tool_name,
            step.value ->> 'flow_name' as flow_name
        from chainweaver_flows as flow, jsonb_array_elements(
            cast(replace(flow.definition, '\u0000', '\ufffd') as jsonb) -> 'steps'
        ) with ordinality as step(value, position)""",
)

# What libpq gets unless the URL says otherwise: a server that is gone without a word is noticed within half a minute.
_SETTINGS: Final = {
    "application_name": "chainweaver",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
_SECRETS: Final = frozenset({"password", "sslpassword"})
_LISTEN: Final = "listen chainweaver_flows"
_LOOK_S: Final = 0.5
"""How often whoever waits for a change is asked whether to wait no longer, in seconds."""


class PostgresDatabase:
    """A database on a server.

    What was committed is on the disk of the server, whatever its configuration says of `synchronous_commit`.

    Args:
        url: "postgresql://user:password@host:5432/name?parameter=value", with any parameter that libpq knows.
        patience_s: How long the server may be out of reach, or rows locked.

    Raises:
        ValueError: The URL has no meaning.
        MissingExtraError: psycopg is not installed.
    """

    dialect = WORDS

    def __init__(self, url: str, *, patience_s: float) -> None:
        self._driver = driver()
        self._given = _parsed(self._driver, url)
        self.name = without_password(url)
        self._patience_s = patience_s
        self._connections = _Connections()
        self._own = threading.local()

    # ---- statements

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """The answer to a statement."""
        return self._patiently(lambda connection: _Open(connection).rows(sql, params))

    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run a statement; how many rows it concerned."""
        return self._patiently(lambda connection: _Open(connection).run(sql, params))

    def atomically(self, work: Callable[[Session], T], *, snapshot: bool = False) -> T:
        """Do several things, all or none; see `Database.atomically`."""
        begin = "begin isolation level " + ("repeatable read, read only" if snapshot else "read committed, read write")

        def attempt(connection: psycopg.Connection[Row]) -> T:
            connection.execute(begin.encode())
            try:
                done = work(_Open(connection))
                connection.execute(b"commit")
                return done
            except BaseException:
                # A connection that is lost has nothing to roll back; what is left in a transaction is not used again.
                with suppress(self._driver.Error):
                    connection.execute(b"rollback")
                raise

        return self._patiently(attempt)

    def at_once(self, call: Callable[[], T]) -> T:
        """Nothing ever: a commit waits for network and disk, which takes thirty times what going to a thread takes."""
        raise BlockingIOError(f"{self.name} does not answer at once")

    def wait_for_change(self, timeout_s: float, stopped: Callable[[], bool]) -> None:
        """Listen on a connection of its own until something was heard that this thread was not told before."""
        ends = time.monotonic() + timeout_s
        told = getattr(self._own, "heard", None)
        here = self._here()
        while here.heard == told and not here.is_closed and not stopped():
            left_s = min(_LOOK_S, ends - time.monotonic())
            if left_s <= 0:
                break
            if here.listening.acquire(timeout=left_s):
                try:
                    self._listen(here, left_s)
                finally:
                    here.listening.release()
        self._own.heard = here.heard

    def close(self) -> None:
        """Close the connections. A later call opens them again."""
        here = self._here()
        self._connections = _Connections()
        here.close()

    # ---- connections

    def _here(self) -> _Connections:
        """The connections of this process."""
        if self._connections.process != os.getpid():
            # They came through a fork: closing these copies would end the sessions of the parent.
            _INHERITED.append(self._connections)
            self._connections = _Connections()
        return self._connections

    def _connect(self, *, within_s: float) -> psycopg.Connection[Row]:
        # libpq takes 1 s for 2 s, and 0 for no limit at all.
        settings = {**_SETTINGS, "connect_timeout": str(max(2, math.ceil(within_s))), **self._given}
        connection: psycopg.Connection[Row]
        connection = self._driver.connect(autocommit=True, **{**settings, "client_encoding": "UTF8"})
        try:
            encoding = connection.info.parameter_status("server_encoding")
            if encoding != "UTF8":
                fix = "create a database with encoding UTF8"
                raise StoreUnavailableError(self.name, f"its encoding is {encoding}", fix=fix)
            connection.execute(
                b"select set_config('default_transaction_isolation', 'read committed', false), "
                # The only value with which a commit may be answered and then lost.
                b"case current_setting('synchronous_commit') when 'off' "
                b"then set_config('synchronous_commit', 'on', false) end, "
                b"set_config('lock_timeout', %s, false)",
                (str(min(max(int(self._patience_s * 1000), 1), 2**31 - 1)),),
            )
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _borrowed(self, ends: float) -> Iterator[psycopg.Connection[Row]]:
        """A connection for one thread, until it is given back."""
        here = self._here()
        try:
            permit = here.free.get(timeout=max(0.0, ends - time.monotonic()))
        except queue.Empty:
            fix = f"run less at once in one process, which has {LARGEST} connections, or raise patience_s"
            detail = f"no connection was free for {self._patience_s:g} s"
            raise StoreUnavailableError(self.name, detail, fix=fix) from None
        try:
            connection = here.idle_one() or self._connect(within_s=ends - time.monotonic())
            try:
                yield connection
            except self._driver.Error:
                if connection.closed:
                    # What broke this one broke the others, too, most likely: a server that was restarted.
                    here.close_idle()
                raise
            finally:
                here.give_back(connection, keeps=connection.info.transaction_status == 0)
        finally:
            permit.end()

    def _listen(self, here: _Connections, timeout_s: float) -> None:
        """Wait for a notice on the listening connection; a new one counts as a notice: some may have been missed."""
        try:
            if here.listener is None:
                connection = self._connect(within_s=timeout_s)
                connection.execute(_LISTEN)
                here.listener = connection
                here.heard += 1
                return
            for _ in here.listener.notifies(timeout=timeout_s, stop_after=1):
                here.heard += 1
        except (self._driver.Error, StoreUnavailableError):
            # Out of reach is for the next statement to say, which is patient; a wait only ends at its time.
            here.forget_listener()
            time.sleep(timeout_s / 2)

    # ---- patience

    def _patiently(self, attempt: Callable[[psycopg.Connection[Row]], T]) -> T:
        """Try until the server is back, or others let go, or the patience is over."""
        ends = time.monotonic() + self._patience_s
        pause_s = 0.005
        while True:
            try:
                with self._borrowed(ends) as connection:
                    return attempt(connection)
            except self._driver.Error as exc:
                if not _passes(exc) or time.monotonic() >= ends:
                    raise self._refusal(exc) from exc
            time.sleep(max(0.0, min(pause_s, ends - time.monotonic())))
            pause_s = min(pause_s * 2, _LOOK_S)

    def _refusal(self, exc: psycopg.Error) -> Exception:
        detail = _first_line(exc)
        state = exc.sqlstate or ""
        if not state and _is_wrong(detail):
            return ValueError(f"Store '{self.name}' cannot be opened: {detail}.")
        if state in ("22003", "54000") or "invalid memory alloc request size" in detail:
            return ValueError(f"A value is larger than store '{self.name}' takes: {detail}.")
        if state.startswith("XX00"):
            return ArtifactCorruptError(self.name, f"{detail}.", fix="restore the database from a backup")
        if state in ("40001", "40P01", "55P03"):
            fix: str | None = f"end what keeps rows locked for more than {self._patience_s:g} s, or raise patience_s"
        elif state.startswith("53"):
            fix = "make room on the server; what was committed before is there"
        elif state == "42501":
            fix = "let this user create tables in the schema, and read and write them"
        elif _is_refused(detail):
            fix = "see that user, password and database of the URL are those of the server"
        elif _passes(exc):
            fix = (
                f"start the server, or see that host and port are right; it was tried for {self._patience_s:g} s "
                "(patience_s), and what was committed before is there"
            )
        else:
            fix = None
        return StoreUnavailableError(self.name, detail, fix=fix)


class _Open:
    """A connection, within a transaction or for one statement that is one."""

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        return self._execute(sql, params).fetchall()

    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        return self._execute(sql, params).rowcount

    def _execute(self, sql: str, params: Sequence[Any]) -> psycopg.Cursor[Row]:
        if sum(len(one) for one in params if isinstance(one, (str, bytes))) > LONGEST:
            # The server would close the connection, which looks as if it had died.
            raise ValueError(f"A value is larger than PostgreSQL takes: {LONGEST:,} bytes at most in one statement.")
        return self._connection.execute(_translated(sql), params or None)


class _Connections:
    """The connections of one process: those that nobody uses now, and the one that listens.

    psycopg_pool was tried: it connects in threads of its own, waits 1, 2, 4 ... s in between whatever the patience of
    the caller, and keeps to itself why a server could not be reached.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        # No semaphore: its lock stays locked for ever when Ctrl-C strikes while it is taken.
        self.free: queue.SimpleQueue[_Permit] = queue.SimpleQueue()
        for _ in range(LARGEST):
            self.free.put(_Permit(self.free))
        self.listening = threading.Lock()
        self.listener: psycopg.Connection[Row] | None = None
        self.heard = 0
        self._idle: list[psycopg.Connection[Row]] = []
        self.is_closed = False

    def idle_one(self) -> psycopg.Connection[Row] | None:
        """The connection that was used last; None where all are in use."""
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def give_back(self, connection: psycopg.Connection[Row], *, keeps: bool) -> None:
        """Keep a connection for the next one, or close it."""
        if keeps and not self.is_closed:
            self._idle.append(connection)
        else:
            connection.close()
        if self.is_closed:
            self.close_idle()

    def close_idle(self) -> None:
        """Close those that nobody uses."""
        while (connection := self.idle_one()) is not None:
            connection.close()

    def forget_listener(self) -> None:
        """Close the connection that listens."""
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.close()

    def close(self) -> None:
        """Close all; those in use, when they are given back."""
        self.is_closed = True
        self.close_idle()
        # Whoever listens now looks up within _LOOK_S, and then lets go.
        with self.listening:
            self.forget_listener()


class _Permit:
    """Leave to use one connection; one that is dropped, because Ctrl-C struck right after it was taken, is not lost."""

    def __init__(self, free: queue.SimpleQueue[_Permit]) -> None:
        # Weak, or what is let go of would bring forth new permits for ever.
        self._free = weakref.ref(free)
        self._is_over = False

    def end(self) -> None:
        """Let the next one have it."""
        free = self._free()
        if not self._is_over and free is not None:
            self._is_over = True
            free.put(_Permit(free))

    __del__ = end


_INHERITED: Final[list[_Connections]] = []


def driver() -> Any:
    """The psycopg module.

    Raises:
        MissingExtraError: It is not installed, or finds no libpq.
    """
    try:
        return importlib.import_module("psycopg")
    except ImportError as exc:
        raise MissingExtraError("postgres", "PostgreSQL", why=f"psycopg cannot be imported: {exc}") from exc


def without_password(url: str) -> str:
    """The URL as messages show it.

    >>> without_password("postgresql://ann:pa%40ss@db:5432/runs?sslpassword=x&sslmode=require")
    'postgresql://ann@db:5432/runs?sslmode=require'
    """
    scheme, who, place, query = _cut(url)
    place = place.rpartition("@")[2]  # what stands before is the end of a password, in a URL that is refused
    kept = [one for one in query.split("&") if one and unquote(one.partition("=")[0]) not in _SECRETS]
    user = f"{who.partition(':')[0]}@" if who is not None else ""
    return f"{scheme}://{user}{place}" + ("?" + "&".join(kept) if kept else "")


def _cut(url: str) -> tuple[str, str | None, str, str]:
    """Scheme, user and password, host with database, and query, cut where libpq cuts them."""
    scheme, _, rest = url.partition("://")
    # An @ before the first / ends user and password, in which a ? is a character like others.
    ahead = rest.partition("/")[0]
    who = ahead.partition("@")[0] if "@" in ahead else None
    place, _, query = (rest if who is None else rest[len(who) + 1 :]).partition("?")
    return scheme, who, place, query


def _parsed(psycopg_module: Any, url: str) -> dict[str, str]:
    """The parameters of a URL; errors never quote it, it may hold a password."""
    place = _cut(url)[2]
    if "@" in place:
        raise ValueError(
            "The URL of the store is ambiguous: in a user name or a password, @ is written %40 and / is written %2F."
        )
    try:
        given: dict[str, str] = psycopg_module.conninfo.conninfo_to_dict(url)
    except psycopg_module.Error:
        given = {}
    if (not given and place) or not all(one.isdigit() or not one for one in str(given.get("port", "")).split(",")):
        raise ValueError(
            "The URL of the store is not one that libpq reads; it looks like "
            "postgresql://user:password@host:5432/name?parameter=value, special characters written as %40."
        )
    return given


@lru_cache(maxsize=512)
def _translated(sql: str) -> bytes:
    """The statement with the placeholders of psycopg. No statement has a question mark or a percent sign of its own."""
    return sql.replace("?", "%s").encode()


# Errors of a connection attempt have no code, only a text; where a server speaks another language, they are waited for.
_REFUSED: Final = re.compile(
    r"authentication failed|does not exist|no pg_hba\.conf entry|no password supplied"
    r"|is not permitted to log in|permission denied for database|certificate|does not support SSL"
)
_WRONG: Final = re.compile(r"invalid .*(value|connection option|port number)|bad value for|could not match \d+ port")
"""What libpq, the driver or the server says of a parameter of the URL that is not what it has to be."""
_PASSING: Final = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "25006", "40001", "40P01", "55P03", "53300"})
"""Shut down, crashed, starting, idle for too long (twice), a standby, in each other's way (thrice), too many."""


def _passes(exc: psycopg.Error) -> bool:
    """Whether it may be over in a while."""
    state = exc.sqlstate
    if state is not None:
        return state in _PASSING or state.startswith("08")
    # The driver's own: no connection, or one that broke.
    detail = _first_line(exc)
    is_about_connecting = type(exc).__name__ in ("OperationalError", "InterfaceError", "ConnectionTimeout")
    return is_about_connecting and not _is_refused(detail) and not _is_wrong(detail)


def _is_refused(text: str) -> bool:
    return _REFUSED.search(text) is not None


def _is_wrong(text: str) -> bool:
    return _WRONG.search(text) is not None


def _first_line(exc: psycopg.Error) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    # A failed attempt lists every address that was tried; the last line with "failed" says what the server answered.
    told = [line for line in lines if "FATAL" in line or " failed: " in line]
    return (told or lines or [type(exc).__name__])[-1 if told else 0].rstrip(".")
