"""The stores of a database keep the contracts that every store keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chainweaver.sql import SqlStore, open_store
from chainweaver.testing.conformance import (
    CheckpointerConformance,
    RegistryStoreConformance,
    StepCacheConformance,
)


class OnSqlite:
    """Stores on a file of their own."""

    folder: Path

    @pytest.fixture(autouse=True)
    def _own_folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.opened_stores: list[SqlStore] = []

    def open(self) -> SqlStore:
        store = open_store(f"sqlite:///{self.folder}/chainweaver.db")
        self.opened_stores.append(store)
        return store


class TestSqliteRuns(OnSqlite, CheckpointerConformance):
    def make_store(self) -> Any:
        return self.open().runs

    def reopen_store(self, store: Any) -> Any:
        return self.open().runs


class TestSqliteFlows(OnSqlite, RegistryStoreConformance):
    def make_store(self) -> Any:
        return self.open().flows

    def reopen_store(self, store: Any) -> Any:
        return self.open().flows


class TestSqliteCache(OnSqlite, StepCacheConformance):
    def make_store(self) -> Any:
        return self.open().cache

    def reopen_store(self, store: Any) -> Any:
        return self.open().cache
