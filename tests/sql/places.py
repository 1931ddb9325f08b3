"""Where the tests of durable runs put their stores, and what lies in a database whoever wrote it.

One fixture per kind of database: a test that takes `store_url` runs on each. PostgreSQL joins `KINDS`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS: dict[str, Callable[[Path], str]] = {"sqlite": lambda folder: f"sqlite:///{folder}/runs.db"}
"""Name of a kind of database -> the URL of an empty one, which is put into a folder where it needs one."""


def rows_of(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of the tables of runs, read past the store."""
    tables = ("chainweaver_runs", "chainweaver_steps", "chainweaver_artifacts")
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    try:
        return {table: connection.execute(f"select * from {table} order by 1, 2, 3").fetchall() for table in tables}
    finally:
        connection.close()


def integrity_of(url: str) -> str:
    """What the database says of itself; "ok" when all is well."""
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    try:
        [(answer,)] = connection.execute("pragma integrity_check").fetchall()
    finally:
        connection.close()
    return str(answer)
