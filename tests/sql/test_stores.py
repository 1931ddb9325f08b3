"""The stores of a database keep the contracts that every store keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from chainweaver.sql import SqlStore, open_store
from chainweaver.testing.conformance import (
    RegistryStoreConformance,
    RunStoreConformance,
    StepCacheConformance,
)
from tests.conftest import PROOF
from tests.sql.faults import failing_statement
from tests.sql.opening import LEASE_S


class OnDatabases:
    """Stores in a database of their own, once in a file and once on a server."""

    url: str
    kills = 20 if PROOF else 1

    @pytest.fixture(autouse=True)
    def _own_database(self, database_url: str) -> Iterator[None]:
        self.url = database_url
        self.opened_stores: list[SqlStore] = []
        yield
        for store in self.opened_stores:
            store.close()

    def open(self) -> SqlStore:
        store = open_store(self.url, lease_s=LEASE_S)
        self.opened_stores.append(store)
        return store

    def failing(self, store: Any, after: int) -> Any:
        # What a server answers is not ours to change; its restarts are in test_postgres.
        return failing_statement(store._database, after) if self.url.startswith("sqlite") else None


class TestRuns(OnDatabases, RunStoreConformance):
    lease_s = LEASE_S

    def make_store(self) -> Any:
        return self.open().runs

    def reopen_store(self, store: Any) -> Any:
        return self.open().runs

    def opened_elsewhere(self, store: Any) -> tuple[str, str]:
        return "tests.sql.opening:sql_runs", self.url


class TestRunsInMemory(RunStoreConformance):
    """A database that ends with the object: what is said of two stores is said of two threads."""

    lease_s = LEASE_S

    def make_store(self) -> Any:
        return open_store("sqlite://", lease_s=LEASE_S).runs

    def failing(self, store: Any, after: int) -> Any:
        return failing_statement(store._database, after)


class TestRunsWhoseAnswersAreLost(TestRuns):
    """What fails is done all the same, as when a connection breaks before the answer."""

    kills = 0

    def failing(self, store: Any, after: int) -> Any:
        return failing_statement(store._database, after, is_lost=True) if self.url.startswith("sqlite") else None


class TestFlows(OnDatabases, RegistryStoreConformance):
    def make_store(self) -> Any:
        return self.open().flows

    def reopen_store(self, store: Any) -> Any:
        return self.open().flows

    def opened_elsewhere(self, store: Any) -> tuple[str, str]:
        return "tests.sql.opening:sql_flows", self.url


class TestCache(OnDatabases, StepCacheConformance):
    def make_store(self) -> Any:
        return self.open().cache

    def reopen_store(self, store: Any) -> Any:
        return self.open().cache

    def opened_elsewhere(self, store: Any) -> tuple[str, str]:
        return "tests.sql.opening:sql_cache", self.url
