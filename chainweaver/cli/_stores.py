"""The store of a command: a database with flows and runs, named by `--store` or by the environment.

Opens it, and says what is wrong with a name without showing the password in it. A file is made by the commands that
put something into it, and by no other: a mistyped name would be an empty store.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final
from urllib.parse import unquote

import typer

from chainweaver.cli._loading import near_file
from chainweaver.exceptions import CommandLineError
from chainweaver.sql import SqlStore, open_store
from chainweaver.sql.postgres import without_password

VARIABLE = "CHAINWEAVER_STORE"
"""The environment variable with the store of commands that are given none."""

_WORKING_S: Final = 30.0
_LOOKING_S: Final = 5.0
"""Seconds that a command which only looks waits for a database: a mistyped host is told before anybody gives up."""

StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help=f"Store of flows and runs: sqlite:///runs.db. Else ${VARIABLE}."),
]


def store_url(given: str | None) -> str | None:
    """The store that was named, on the command line or by the environment."""
    return given or os.environ.get(VARIABLE) or None


@contextmanager
def opened(given: str | None, *, makes: bool = False, works: bool = False) -> Iterator[SqlStore]:
    """The store that was named, for the time of a command.

    Args:
        makes: A file and tables that are not there are made, to put something into them.
        works: Something is done to runs that are there. With either, the database is waited for as long as a program
            would; else for a few seconds.

    Raises:
        CommandLineError: None was named, or there is no such store.
    """
    url = store_url(given)
    if url is None:
        raise CommandLineError("No store is named", fix=f"--store sqlite:///runs.db, or set {VARIABLE}")
    if not makes:
        _check_file(url)
    try:
        store = open_store(url, create=makes, patience_s=_WORKING_S if makes or works else _LOOKING_S)
    except ValueError as exc:  # which never quotes the URL
        raise CommandLineError(f"--store is no store: {exc}") from None
    with store:
        yield store


def shown_url(given: str | None) -> str:
    """The store as messages show it, without passwords."""
    return without_password(store_url(given) or "")


def is_in_memory(url: str) -> bool:
    """Whether a store ends with the command that opens it.

    >>> is_in_memory("sqlite://"), is_in_memory("sqlite:///runs.db")
    (True, False)
    """
    scheme, _, rest = url.partition("://")
    return scheme == "sqlite" and unquote(rest[1:]) in ("", ":memory:")


def _check_file(url: str) -> None:
    scheme, _, rest = url.partition(":///")
    path = unquote(rest)
    if scheme == "sqlite" and path and not os.path.isfile(path):
        raise CommandLineError(
            f"There is no store '{path}'",
            fix=near_file(path, (".db", ".sqlite", ".sqlite3")) or "name the file of a store",
        )
