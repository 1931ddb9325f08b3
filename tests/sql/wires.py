"""A wire to a server that loses answers: what the server did is done, and whoever asked does not hear of it.

Between a store and its server; forwards bytes both ways until it is told at which answer to cut. Called by
`test_postgres.py`.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from urllib.parse import urlsplit


class Wire:
    """A port that leads to a server.

    Attributes:
        url: The URL of the database by this way.
        lost: How many answers were lost.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._to = (parts.hostname or "", parts.port or 5432)
        self._port = socket.create_server(("127.0.0.1", 0))
        self.url = parts._replace(netloc=f"{parts.username}@127.0.0.1:{self._port.getsockname()[1]}").geturl()
        self.lost = 0
        self._cut_at: bytes | None = None
        self._meanwhile: Callable[[], object] = lambda: None
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, answer: bytes, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Lose the next answer that holds these bytes, and the connection with it.

        Args:
            meanwhile: What happens before whoever asked can ask again.
        """
        self._cut_at, self._meanwhile = answer, meanwhile

    def close(self) -> None:
        for one in [self._port, *self._open]:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._port.accept()
            except OSError:
                return
            far = socket.create_connection(self._to)
            self._open += [near, far]
            threading.Thread(target=self._forward, args=(near, far), daemon=True).start()
            threading.Thread(target=self._forward, args=(far, near), kwargs={"answers": True}, daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, *, answers: bool = False) -> None:
        try:
            while content := source.recv(1 << 16):
                if answers and self._cut_at is not None and self._cut_at in content:
                    self._cut_at = None
                    self._meanwhile()
                    self.lost += 1
                    break
                target.sendall(content)
        except OSError:
            pass
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
