"""How child processes of the contracts open a store: functions that take one text.

Named by the hooks of the contracts, as "tests.sql.opening:sqlite_runs".
"""

from __future__ import annotations

from typing import Any

from chainweaver import FileCheckpointer, FileStepCache, FileStore
from chainweaver.sql import open_store

LEASE_S = 0.5


def file_runs(path: str) -> Any:
    return FileCheckpointer(path, fsync=False)


def file_cache(path: str) -> Any:
    return FileStepCache(path)


def file_flows(path: str) -> Any:
    return FileStore(path)


def sql_runs(url: str) -> Any:
    return open_store(url, lease_s=LEASE_S).runs


def sql_flows(url: str) -> Any:
    return open_store(url).flows


def sql_cache(url: str) -> Any:
    return open_store(url).cache
