"""Following a shared store: what other processes change there is seen here, without being asked for.

A daemon thread waits for the store's notice and has the registry load it again; plans of flows that changed are stale
from then on. Made by `FlowRegistry.follow`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from chainweaver.exceptions import DefinitionError
from chainweaver.registry.background import BackgroundHandle

if TYPE_CHECKING:
    from chainweaver.registry.stores import SharedRegistryStore

logger = logging.getLogger("chainweaver.registry")

WAIT_S = 5.0
"""How long one wait for a notice lasts at most; a notice that was lost is noticed then."""


class FollowHandle(BackgroundHandle):
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
        # Counted before the first look, so that nothing between the two is missed.
        self._seen = store.changes()
        refresh()
        super().__init__("follow", self._follow)

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                seen = self._store.wait_for_change(self._seen, WAIT_S, self._stopped.is_set)
                if seen != self._seen and not self._stopped.is_set():
                    self._load()
                    self._seen = seen
                    if self._on_change is not None:
                        self._on_change()
            except Exception as exc:  # a store that is away: tell, and look again
                self._tell(exc)
                self._stopped.wait(1.0)

    def _load(self) -> None:
        try:
            self._refresh()
        except DefinitionError as exc:
            # All others were loaded. Whoever puts something better in its place changes the store.
            self._tell(exc)

    def _tell(self, exc: Exception) -> None:
        logger.warning("A followed store of flows cannot be read: %s", exc)
        if self._on_error is not None:
            try:
                self._on_error(exc)
            except Exception:
                logger.exception("on_error of a followed store has raised")
