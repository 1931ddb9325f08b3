"""The stores of a database keep the contracts that every store keeps, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from chainweaver.sql import SqlStore, open_store
from chainweaver.testing.conformance import (
    CheckpointerConformance,
    RegistryStoreConformance,
    StepCacheConformance,
)


class OnDatabases:
    """Stores in a database of their own, once in a file and once on a server."""

    url: str
    opened_stores: list[SqlStore]

    @pytest.fixture(autouse=True)
    def _own_database(self, database_url: str) -> Iterator[None]:
        self.url = database_url
        self.opened_stores = []
        yield
        for store in self.opened_stores:
            store.close()

    def open(self) -> SqlStore:
        store = open_store(self.url)
        self.opened_stores.append(store)
        return store


class TestRuns(OnDatabases, CheckpointerConformance):
    def make_store(self) -> Any:
        return self.open().runs

    def reopen_store(self, store: Any) -> Any:
        return self.open().runs


class TestFlows(OnDatabases, RegistryStoreConformance):
    def make_store(self) -> Any:
        return self.open().flows

    def reopen_store(self, store: Any) -> Any:
        return self.open().flows


class TestCache(OnDatabases, StepCacheConformance):
    def make_store(self) -> Any:
        return self.open().cache

    def reopen_store(self, store: Any) -> Any:
        return self.open().cache
