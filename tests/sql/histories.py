"""The stores that tests of runs go through, in one place: a new database is one more line.

A place opens "processes": stores with claims of their own on one set of data. For tests.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

from chainweaver import InMemoryCheckpointer
from chainweaver.sql import open_store
from chainweaver.sql.runs import SqlRuns

LEASE_S = 600.0
"""No claim runs out by itself while a test runs; `expire` lets it."""


class Place:
    """One set of data.

    Attributes:
        is_shared: Its runs have claims, keys and a log.
    """

    is_shared = False

    def __init__(self) -> None:
        self.kept = InMemoryCheckpointer()

    def process(self) -> Any:
        """A store with claims of its own."""
        return self.kept

    def expire(self, owner: str) -> None:
        """Let the claims of one process run out."""

    def close(self) -> None:
        """Give everything back."""


class SqlPlace(Place):
    """A database, by its URL."""

    is_shared = True

    def __init__(self, url: str) -> None:
        self.store = open_store(url, lease_s=LEASE_S)
        self.opened: list[SqlRuns] = []

    def process(self) -> Any:
        runs = SqlRuns(self.store._database, lease_s=LEASE_S)
        self.opened.append(runs)
        return runs

    def expire(self, owner: str) -> None:
        self.store._database.run("update chainweaver_runs set lease_until = 0.0 where owner = ?", (owner,))

    def close(self) -> None:
        for runs in self.opened:
            runs.close()
        self.store.close()


class FilePlace(SqlPlace):
    """A database file, opened once more for each process."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.url = f"sqlite:///{self.folder.name}/runs.db"
        super().__init__(self.url)
        self.stores: list[Any] = []

    def process(self) -> Any:
        store = open_store(self.url, lease_s=LEASE_S)
        self.stores.append(store)
        return store.runs

    def close(self) -> None:
        for store in self.stores:
            store.close()
        super().close()
        self.folder.cleanup()


PLACES: dict[str, Callable[[], Place]] = {
    "memory": Place,
    "sqlite in memory": lambda: SqlPlace("sqlite://"),
    "sqlite": FilePlace,
}
