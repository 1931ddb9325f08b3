"""What lies in a database of runs, read past the stores: by the driver of the database alone."""

from __future__ import annotations

import sqlite3
from typing import Any

import psycopg


def rows_of(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of the tables of runs."""
    tables = ("chainweaver_runs", "chainweaver_steps", "chainweaver_artifacts")
    return {table: asked(url, f"select * from {table} order by 1, 2, 3") for table in tables}


def integrity_of(url: str) -> str:
    """What the database says of itself; "ok" when all is well."""
    lost = asked(url, "select run_id from chainweaver_steps where run_id not in (select id from chainweaver_runs)")
    if lost:
        return f"steps without a run: {lost}"
    if not url.startswith("sqlite"):
        return "ok"
    [(answer,)] = asked(url, "pragma integrity_check")
    return str(answer)


def asked(url: str, statement: str) -> list[tuple[Any, ...]]:
    """The answer to a statement."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()
    with psycopg.connect(url, autocommit=True) as session:
        return session.execute(statement.encode()).fetchall()
