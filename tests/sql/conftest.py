"""The server and the databases that the tests of stores use; where there is no server, they are skipped and say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.sql import servers


@pytest.fixture(scope="session")
def private_postgres() -> Iterator[servers.PrivateServer]:
    """A server of our own, which a test may stop and start; it leaves it running."""
    why = servers.why_none()
    if why is not None:
        pytest.skip(why)
    with servers.private_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> servers.Server:
    """The server that is named, else one of our own."""
    if servers.NAMED:
        return servers.Server(servers.NAMED)
    server: servers.PrivateServer = request.getfixturevalue("private_postgres")
    return server


@pytest.fixture
def postgres_url(postgres: servers.Server) -> Iterator[str]:
    """A fresh database on a server."""
    with postgres.database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database: a file, and one on a server."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/chainweaver.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def fresh_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Makes the URL of a fresh database of a kind, "sqlite" or "postgres", any number of times in a test."""
    with ExitStack() as stack:
        made = 0

        def make(kind: str) -> str:
            nonlocal made
            made += 1
            if kind == "sqlite":
                return f"sqlite:///{tmp_path}/chainweaver-{made}.db"
            server: servers.Server = request.getfixturevalue("postgres")
            return stack.enter_context(server.database())

        yield make
