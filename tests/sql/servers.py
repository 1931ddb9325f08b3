"""A real PostgreSQL server for the tests: the one that is named, or a private one in a temporary directory.

`CHAINWEAVER_TEST_POSTGRES` names a server by its URL; without it, a cluster is made and started on a free port of the
loopback, one for each worker of pytest, and taken away at the end, also when the tests are interrupted or killed. Where
there is neither, tests that need one are skipped and say so. Called by the fixtures of `tests/sql/conftest.py`.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

NAMED = os.environ.get("CHAINWEAVER_TEST_POSTGRES", "")
NONE = "no PostgreSQL server: set CHAINWEAVER_TEST_POSTGRES or install Debian's postgresql"

# Ends the server when it is told how, or when whoever started it is gone, and then takes its files away too.
_WATCH = """
"$1" -D "$2/data" -p "$3" -c listen_addresses=127.0.0.1 -c unix_socket_directories="$2" -c fsync=on \
    -c shared_buffers=32MB -c max_connections=150 >>"$2/log" 2>&1 &
server=$!
how=; read -r how
kill -"${how:-QUIT}" $server 2>/dev/null
wait $server
[ -n "$how" ] || rm -rf "$2"
"""


@cache
def programs() -> Path | None:
    """The folder of `initdb` and `postgres`; None where there is none."""
    asked = shutil.which("pg_config")
    told = subprocess.run([asked, "--bindir"], capture_output=True, text=True, check=False).stdout if asked else ""
    on_path = shutil.which("initdb")
    installed = sorted(
        glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: float(path.split("/")[-2]), reverse=True
    )
    for folder in (on_path and os.path.dirname(on_path), told.strip(), *installed):
        if folder and os.access(f"{folder}/initdb", os.X_OK) and os.access(f"{folder}/postgres", os.X_OK):
            return Path(folder)
    return None


class Server:
    """A server that somebody else runs: it has databases, and is neither stopped nor started here."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._made = 0

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a fresh database, which is dropped afterwards."""
        self._made += 1
        name = f"chainweaver_{os.getpid()}_{self._made}_{os.urandom(3).hex()}"
        self.execute(f"create database {name} template template0 encoding 'UTF8'")
        try:
            yield urlsplit(self.url)._replace(path=f"/{name}").geturl()
        finally:
            self.execute(f"drop database if exists {name} with (force)")

    def execute(self, statement: str) -> None:
        """Run a statement beside all stores."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())


class PrivateServer(Server):
    """A cluster of our own, which can be stopped, started and restarted."""

    def __init__(self, bin_folder: Path) -> None:
        # Servers refuse to be root.
        self._user = "postgres" if os.getuid() == 0 else None
        self._bin = bin_folder
        self.folder = tempfile.mkdtemp(prefix="chainweaver-pg-")
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        self._port = _free_port()
        self._running: subprocess.Popen[bytes] | None = None
        super().__init__(f"postgresql://tester@127.0.0.1:{self._port}/postgres?connect_timeout=10")
        self._call(
            "initdb", "-D", f"{self.folder}/data", "-U", "tester", "-A", "trust", "-E", "UTF8", "-N", "--locale=C"
        )

    def start(self) -> None:
        """Start it and wait until it answers."""
        watch = ["/bin/sh", "-c", _WATCH, "watch", str(self._bin / "postgres"), self.folder, str(self._port)]
        # Ctrl-C is for the tests; a session of its own keeps it from the server.
        self._running = subprocess.Popen(
            watch, stdin=subprocess.PIPE, user=self._user, cwd=self.folder, start_new_session=True
        )
        ends = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > ends or self._running.poll() is not None:
                    log = Path(self.folder, "log").read_text(errors="replace")
                    raise RuntimeError(f"PostgreSQL does not start:\n{log[-2000:]}") from None
                time.sleep(0.02)

    def stop(self, *, immediate: bool = False) -> None:
        """Stop it: "fast", or at once, as if the machine had died."""
        if self._running is None:
            return
        watch, self._running = self._running, None
        with contextlib.suppress(BrokenPipeError):
            watch.communicate(b"QUIT\n" if immediate else b"INT\n", timeout=60)

    def restart(self, *, immediate: bool = True) -> None:
        """Stop it and start it again."""
        self.stop(immediate=immediate)
        self.start()

    def remove(self) -> None:
        """Stop it and take its files away."""
        self.stop(immediate=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _call(self, program: str, *args: str) -> None:
        done = subprocess.run(
            [str(self._bin / program), *args], user=self._user, cwd=self.folder, capture_output=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stderr.decode(errors='replace')}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def why_none() -> str | None:
    """Why there is no private server; None where there can be one."""
    if programs() is None:
        return "no PostgreSQL server of our own, to be restarted: install Debian's postgresql" if NAMED else NONE
    if os.getuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            return "no PostgreSQL server: these tests run as root, servers do not, and there is no user postgres"
    return None


@contextlib.contextmanager
def private_server() -> Iterator[PrivateServer]:
    """A cluster of our own, running, and gone afterwards."""
    folder = programs()
    assert folder is not None
    server = PrivateServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.remove()
