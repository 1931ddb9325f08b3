"""The store of a command: a database with flows and runs, named by `--store` or by the environment.

Opens it, and says what is wrong with a name without showing the password in it. A file is made by the commands that
put something into it, and by no other: a mistyped name would be an empty store.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated
from urllib.parse import unquote

import typer

from chainweaver.cli._loading import near_file
from chainweaver.exceptions import CommandLineError
from chainweaver.sql import SqlStore, open_store

VARIABLE = "CHAINWEAVER_STORE"
"""The environment variable with the store of commands that are given none."""

StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help=f"Store of flows and runs: sqlite:///runs.db. Else ${VARIABLE}."),
]


def store_url(given: str | None) -> str | None:
    """The store that was named, on the command line or by the environment."""
    return given or os.environ.get(VARIABLE) or None


@contextmanager
def opened(given: str | None, *, makes: bool = False) -> Iterator[SqlStore]:
    """The store that was named, for the time of a command.

    Args:
        makes: A file and tables that are not there are made.

    Raises:
        CommandLineError: None was named, or there is no such store.
    """
    url = store_url(given)
    if url is None:
        raise CommandLineError("No store is named", fix=f"--store sqlite:///runs.db, or set {VARIABLE}")
    if not makes:
        _check_file(url)
    try:
        store = open_store(url, create=makes)
    except ValueError as exc:
        raise CommandLineError(f"--store is no store: {without_password(str(exc))}") from None
    with store:
        yield store


def shown_url(given: str | None) -> str:
    """The store as messages show it."""
    return without_password(store_url(given) or "")


def without_password(text: str) -> str:
    """A text with what stands for a password in its URLs hidden.

    >>> without_password("postgresql://ada:s3cret@db:5432/runs?sslmode=require&password=s3cret")
    'postgresql://ada:***@db:5432/runs?sslmode=require&password=***'
    """
    text = re.sub(r"(:/{2,}[^/\s:@]*):[^\s]*@", r"\1:***@", text)
    return re.sub(r"(?i)\b(\w*password)=[^&\s'\"]*", r"\1=***", text)


def _check_file(url: str) -> None:
    scheme, _, rest = url.partition(":///")
    path = unquote(rest)
    if scheme == "sqlite" and path and not os.path.isfile(path):
        raise CommandLineError(
            f"There is no store '{path}'",
            fix=near_file(path, (".db", ".sqlite", ".sqlite3")) or "name the file of a store",
        )
