"""From a URL to the stores of one database."""

from __future__ import annotations

from threading import TIMEOUT_MAX
from types import TracebackType
from typing import Literal
from urllib.parse import unquote

from typing_extensions import Self

from chainweaver.sql.cache import SqlStepCache
from chainweaver.sql.database import Database
from chainweaver.sql.flows import SqlFlows
from chainweaver.sql.runs import SqlRuns
from chainweaver.sql.schema import migrate

Durability = Literal["process", "power"]


class SqlStore:
    """The stores of one database, which share its connections.

    Attributes:
        flows: Flow definitions, for `FlowRegistry(store.flows)`.
        runs: Checkpoints and the log of runs, for `FlowExecutor(checkpointer=store.runs)`.
        cache: Outputs of steps, for `FlowExecutor(step_cache=store.cache)`.
    """

    def __init__(self, database: Database, *, lease_s: float) -> None:
        self._database = database
        self.flows = SqlFlows(database)
        self.runs = SqlRuns(database, lease_s=lease_s)
        self.cache = SqlStepCache(database)

    def close(self) -> None:
        """Stop renewing claims and close the connections. A later call opens them again.

        What was in memory is gone, and a later call is a `StoreUnavailableError`.
        """
        self.runs.close()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"SqlStore({self._database.name!r})"


def open_store(
    url: str,
    *,
    durability: Durability = "process",
    lease_s: float = 30.0,
    patience_s: float = 30.0,
    create: bool = True,
) -> SqlStore:
    """Open the stores of a database, and bring its tables up to date.

    Args:
        url: "sqlite:///runs.db" for a file, "sqlite:////var/lib/runs.db" for an absolute path, "sqlite://" for memory;
            "postgresql://user@host:5432/name" for a server, with any parameter that libpq knows. A relative path is
            seen from where the process works now; a new file is for its owner alone.
        durability: What a committed step survives. "process": the death of this process at any moment. "power": also
            that of the machine. A server decides for itself, and both mean that it writes before it answers.
        lease_s: How long a run stays claimed by a process that died; a living one renews its claims.
        patience_s: How long a call waits for a database that is locked, or that is restarted.
        create: Whether a file and tables that are not there are made. False: a database that is no store is refused,
            and left as it is.

    Raises:
        TypeError: The URL is no text, or a time is no number.
        ValueError: The URL or a setting is not what it has to be.
        StoreUnavailableError: The database does not answer, or is no store and is not to become one.
        StoreVersionError: Its tables are of a later release.
        ArtifactCorruptError: It is damaged.
        MissingExtraError: PostgreSQL needs the extra "postgres".

    >>> store = open_store("sqlite://")
    >>> store.runs.list_runs(), store.flows.list_keys()
    ([], [])
    >>> store.close()
    """
    if durability not in ("process", "power"):
        raise ValueError(f"durability has to be 'process' or 'power', not {durability!r}.")
    for name, value in (("lease_s", lease_s), ("patience_s", patience_s)):
        if not isinstance(value, (int, float)):
            raise TypeError(f"{name} has to be a positive number of seconds, not {value!r}.")
        if not 0 < value <= TIMEOUT_MAX:
            raise ValueError(f"{name} has to be a positive number of seconds that a thread can wait, not {value!r}.")
    database = _database(url, durability, patience_s, create)
    try:
        migrate(database, create=create)
    except BaseException:
        database.close()
        raise
    return SqlStore(database, lease_s=lease_s)


def _database(url: str, durability: Durability, patience_s: float, create: bool) -> Database:
    if not isinstance(url, str):
        raise TypeError(f"The URL of a store has to be a text, not {type(url).__name__}.")
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        from chainweaver.sql.sqlite import MEMORY, SqliteDatabase

        # sqlite:///a is the relative path a, sqlite:////a the absolute /a; without a path there is no file.
        if rest and not rest.startswith("/"):
            # As below: what stands where a host would may be a name and a password.
            raise ValueError("A file has no host: it is written with three slashes, as in sqlite:///runs.db.")
        if "?" in rest:
            raise ValueError("The URL of a file has no parameters; a ? in the name of the file is written %3F.")
        path = unquote(rest[1:])
        if "\0" in path:
            raise ValueError("The URL of a file has a zero character, which no file system holds.")
        return SqliteDatabase(path or MEMORY, durability=durability, patience_s=patience_s, create=create)
    if scheme in ("postgresql", "postgres"):
        from chainweaver.sql.postgres import PostgresDatabase

        return PostgresDatabase(url, patience_s=patience_s)
    # The text itself is not shown: it may hold a password.
    raise ValueError(
        "A store is opened by a URL that begins with sqlite:// or postgresql://, such as sqlite:///runs.db."
    )
