"""What the stores ask of a database: statements, transactions, and the few words in which databases differ.

SQL is written once, with `?` for every value; nothing is ever put into a statement but bound parameters and the words
of a `Dialect`. Who connects, waits for locks and comes back after a restart is a database of `sqlite` or `postgres`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

T = TypeVar("T")

Row: TypeAlias = tuple[Any, ...]
"""One row of an answer: None, int, float, str or bytes by column."""


class Dialect(NamedTuple):
    """The words in which one database says what all of them can do.

    Attributes:
        identity: Type of a column that numbers rows by itself.
        text: Type of texts; compared by code points.
        blob: Type of byte strings.
        real: Type of floats of 64 bits.
        number: Type of ints of 64 bits.
        keyed: What stands behind a table that is kept in the order of its primary key.
        now: The time of the database, in seconds since the epoch.
        shared: What keeps others from changing the rows that a statement reads, until it is committed.
        listed: The texts in a parameter that is a list of them in JSON.
        unlocked: What takes rows for oneself and passes over those that others have taken.
        exclusive: A statement that lets one transaction at a time go on; None where beginning one does.
        has_table: Asks whether tables are made where there is one of a name already.
        notify: A statement that tells other processes of a change; None where they have to look.
        steps_view: What `chainweaver_flow_steps` selects.
    """

    identity: str
    text: str
    blob: str
    real: str
    number: str
    keyed: str
    now: str
    shared: str
    listed: str
    unlocked: str
    exclusive: str | None
    has_table: str
    notify: str | None
    steps_view: str


class Session(Protocol):
    """A database within a transaction."""

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """The answer to a statement."""

    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run a statement; how many rows it concerned."""


class Database(Session, Protocol):
    """A database that any number of threads may use. A statement on its own is a transaction.

    Every method raises `StoreUnavailableError` when the database does not answer, or stays locked, for longer than its
    patience; whatever it was asked for may be asked again. Bytes that no database wrote are `ArtifactCorruptError`, and
    a value that is larger than the database takes is a `ValueError`.

    Attributes:
        name: What messages call it: its URL without a password.
        dialect: Its words.
    """

    name: str
    dialect: Dialect

    def atomically(self, work: Callable[[Session], T], *, snapshot: bool = False) -> T:
        """Do several things, all or none. The work may be done again, when others were in the way.

        Args:
            snapshot: It only reads, and sees one state of the database.
        """

    def at_once(self, call: Callable[[], T]) -> T:
        """What a call gives that asks this database, where nobody has to be waited for.

        Raises:
            BlockingIOError: Somebody would have to be. What was not done may be asked for again.
        """

    def wait_for_change(self, timeout_s: float, stopped: Callable[[], bool]) -> None:
        """Return when somebody may have changed flows, or the time is over, or `stopped` says so."""

    def close(self) -> None:
        """Let go of connections. A later call opens them again; what was in memory is gone, and that is an error."""
