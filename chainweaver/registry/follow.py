"""Following a shared store: what other processes change there is seen here, without being asked for.

A daemon thread waits for the store's notice and has the registry load it again; plans of flows that changed are stale
from then on. Made by `FlowRegistry.follow`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from typing_extensions import Self

if TYPE_CHECKING:
    from chainweaver.registry.stores import SharedRegistryStore

logger = logging.getLogger("chainweaver.registry")

WAIT_S = 5.0
"""How long one wait for a notice lasts at most; a notice that was lost is noticed then."""


class FollowHandle:
    """A registry that follows its store, until it is stopped. A context manager: leaving the block stops it."""

    def __init__(
        self,
        store: SharedRegistryStore,
        refresh: Callable[[], None],
        on_change: Callable[[], object] | None,
        on_error: Callable[[Exception], object] | None,
    ) -> None:
        self._store = store
        self._refresh = refresh
        self._on_change = on_change
        self._on_error = on_error
        self._stopped = threading.Event()
        # Counted before the first look, so that nothing between the two is missed.
        self._seen = store.changes()
        refresh()
        self._thread = threading.Thread(target=self._follow, name="chainweaver-follow", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether changes are still noticed."""
        return self._thread.is_alive() and not self._stopped.is_set()

    def stop(self, timeout: float | None = None) -> None:
        """End it; may be called more than once, also from a callback.

        Args:
            timeout: Seconds to wait for what is going on; None: as long as it takes, half a second as a rule.
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

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                seen = self._store.wait_for_change(self._seen, WAIT_S, self._stopped.is_set)
                if seen != self._seen and not self._stopped.is_set():
                    self._refresh()
                    self._seen = seen
                    if self._on_change is not None:
                        self._on_change()
            except Exception as exc:  # a store that is away, a row that is no flow: tell, and look again
                self._tell(exc)

    def _tell(self, exc: Exception) -> None:
        logger.warning("The store of flows cannot be followed: %s", exc)
        if self._on_error is not None:
            try:
                self._on_error(exc)
            except Exception:
                logger.exception("on_error of a followed store has raised")
        self._stopped.wait(1.0)
