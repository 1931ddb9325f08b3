"""The tables, as numbered steps forward from an empty database.

What was released never changes: a change of the tables is one more migration at the end. Opening a database applies
what it lacks, one process at a time; a database from a later release is refused. Called by `open_store`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from chainweaver.exceptions import ArtifactCorruptError, StoreUnavailableError, StoreVersionError
from chainweaver.sql.database import Database, Dialect, Session

__all__ = ["LATEST", "migrate"]


def _first(words: Dialect) -> list[str]:
    text, blob, real, number = words.text, words.blob, words.real, words.number
    return [
        f"""create table chainweaver_flows (
            name {text} not null, version {text} not null, digest {text} not null, status {text} not null,
            definition {text} not null, changed_at {real} not null, primary key (name, version))""",
        f"create view chainweaver_flow_steps as {words.steps_view}",
        f"create table chainweaver_changes (what {text} primary key, number {number} not null)",
        "insert into chainweaver_changes (what, number) values ('flows', 0)",
        f"""create table chainweaver_runs (
            id {words.identity}, trace_id {text} not null unique, run_key {text} unique,
            flow_name {text} not null, flow_version {text} not null, flow_digest {text} not null,
            status {text} not null, before {text}, error {text}, is_kept {number} not null, input_digest {text},
            started_at {real} not null, changed_at {real} not null,
            header {text} not null, header_blobs {blob}, checksum {number} not null,
            owner {text}, epoch {number} not null, lease_until {real})""",
        "create index chainweaver_runs_by_status on chainweaver_runs (status, lease_until)",
        "create index chainweaver_runs_by_flow on chainweaver_runs (flow_name, id)",
        "create index chainweaver_runs_by_owner on chainweaver_runs (owner)",
        f"""create table chainweaver_steps (
            run_id {number} not null, path {text} not null, step_index {number} not null,
            step_id {text} not null, tool_name {text} not null, fingerprint {text} not null, status {text} not null,
            outputs {text} not null, blobs {blob}, more {text} not null,
            started_at {real} not null, duration_ns {number} not null, checksum {number} not null,
            primary key (run_id, path, step_index)){words.keyed}""",
        f"""create table chainweaver_artifacts (
            run_id {number} not null, name {text} not null, content {blob} not null, primary key (run_id, name))""",
        f"""create table chainweaver_cache (
            digest {text} primary key, tool_name {text} not null, output {text} not null, blobs {blob},
            checksum {number} not null, stored_at {real} not null)""",
        f"""create table chainweaver_cache_artifacts (
            digest {text} not null, name {text} not null, content {blob} not null, primary key (digest, name))""",
    ]


MIGRATIONS: Final[tuple[Callable[[Dialect], list[str]], ...]] = (_first,)
LATEST: Final = len(MIGRATIONS)
"""The version of the tables that this release reads and writes."""


def migrate(database: Database, *, create: bool = True) -> None:
    """Bring the tables to the latest version. Where they are, nothing is written and nobody is waited for.

    Args:
        create: Whether they are made where there are none.

    Raises:
        StoreVersionError: They are of a later release.
        StoreUnavailableError: The database does not answer, or has no tables of ours and is to get none.
        ArtifactCorruptError: Which version they have cannot be told.
    """
    words = database.dialect
    version = _version(database, database)
    if version == LATEST:
        return
    if version == 0 and not create:
        raise StoreUnavailableError(
            database.name, "it has no tables of chainweaver", fix="name the database of a store"
        )

    def bring_forward(session: Session) -> None:
        if words.exclusive is not None:
            session.run(words.exclusive)
        # Another process may have been faster.
        version = _version(database, session)
        if version == 0:
            session.run(f"create table chainweaver_schema (one {words.number} primary key, version {words.number})")
            session.run("insert into chainweaver_schema (one, version) values (1, 0)")
        for step in MIGRATIONS[version:]:
            for statement in step(words):
                session.run(statement)
        session.run("update chainweaver_schema set version = ?", (LATEST,))

    database.atomically(bring_forward)


def _version(database: Database, session: Session) -> int:
    """The version of the tables; 0 where there are none."""
    if not session.rows(database.dialect.has_table, ("chainweaver_schema",)):
        return 0
    found = session.rows("select version from chainweaver_schema")
    # The table and its row are made together, and the row is never without a version.
    if len(found) != 1 or type(found[0][0]) is not int or found[0][0] < 1:
        detail = f"its table chainweaver_schema holds {found[:3]} and no version."
        raise ArtifactCorruptError(database.name, detail, fix="restore the database from a backup")
    version: int = found[0][0]
    if version > LATEST:
        raise StoreVersionError(database.name, version, LATEST)
    return version
