"""What goes on in the background of a registry until it is stopped. Called by `watch` and `follow`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from typing_extensions import Self


class BackgroundHandle:
    """A daemon thread that looks for changes, until it is stopped. A context manager: leaving the block stops it.

    A handle that nobody keeps goes on as well.
    """

    def __init__(self, name: str, look: Callable[[], None]) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=look, name=f"chainweaver-{name}", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether changes are still noticed."""
        return self._thread.is_alive() and not self._stopped.is_set()

    def stop(self, timeout: float | None = None) -> None:
        """End it; may be called more than once, also from a callback.

        Args:
            timeout: Seconds to wait for what is going on; None: as long as it takes.
        """
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
