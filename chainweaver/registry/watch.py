"""Watching a directory of flow files: noticing changes, waiting until they are complete, telling about them.

The registry reads and decides what becomes visible; here is only when it is asked to. Made by `FlowRegistry.watch`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from chainweaver.registry.background import BackgroundHandle
from chainweaver.registry.directory import ReloadReport, flow_files

__all__ = ["DirectoryPoll", "WatchHandle"]

Look = tuple[object, ...]
"""What a directory looks like from outside: equal looks, equal files."""

logger = logging.getLogger("chainweaver.registry")


class DirectoryPoll:
    """Notices that flow files of a directory came, went or changed since the last look.

    Files are read when two looks in a row see the same: an editor may be half way through a file, and a checkout half
    way through the files.

    Args:
        directory: The directory.
        reload: Called when something changed, with a function that says whether the files still look the same. Returns
            None when they did not, and nothing was reloaded for that reason.
    """

    def __init__(
        self, directory: str | os.PathLike[str], reload: Callable[[Callable[[], bool]], ReloadReport | None]
    ) -> None:
        self._directory = directory
        self._reload = reload
        self._known = self._settling = self._look()

    def poll(self) -> ReloadReport | None:
        """Reload when something changed and has settled; None otherwise.

        A change that cannot be read is reported once: it is looked at again when the files change again.

        Raises:
            OSError: The directory is gone, or cannot be read.
        """
        now = self._look()
        settled, self._settling = now == self._settling, now
        if now == self._known or not settled:
            return None
        try:
            report = self._reload(lambda: self._look() == now)
        except Exception:
            self._known = now
            raise
        if report is not None:
            self._known = now
        return report

    def _look(self) -> Look:
        try:
            paths = flow_files(self._directory)
        except OSError as exc:
            # To have vanished is one more thing that a directory can look like.
            return (type(exc), exc.errno)
        looks: list[Look] = []
        for path in paths:
            try:
                state = path.stat()
            except OSError as exc:
                looks.append((path.name, exc.errno))
                continue
            # Number and time of change tell a file that was replaced by one of equal size and date.
            looks.append((path.name, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))
        return tuple(looks)


class WatchHandle(BackgroundHandle):
    """A watch on a directory, until it is stopped. A context manager: leaving the block stops it.

    Attributes:
        report: What the latest reading of the directory did, that of the beginning included.
    """

    def __init__(
        self,
        poll: Callable[[], ReloadReport | None],
        *,
        report: ReloadReport,
        interval_s: float,
        on_reload: Callable[[ReloadReport], object] | None,
        on_error: Callable[[Exception], object] | None,
    ) -> None:
        self.report = report
        self._poll = poll
        self._interval_s = interval_s
        self._on_reload = on_reload
        self._on_error = on_error
        for failed in report.failed:
            self._tell(failed.error)
        super().__init__("watch", self._watch)

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval_s):
            self._look_once()

    def _look_once(self) -> None:
        # A watch outlives whatever stands in a file or goes wrong in a callback: it tells and looks again.
        try:
            report = self._poll()
        except Exception as exc:
            logger.warning("Flow files were not reloaded: %s", exc)
            self._tell(exc)
            return
        if report is None:
            return
        self.report = report
        for failed in report.failed:
            self._tell(failed.error)
        if self._on_reload is not None:
            try:
                self._on_reload(report)
            except Exception as exc:
                logger.exception("The on_reload callback of a watch failed")
                self._tell(exc)

    def _tell(self, error: Exception) -> None:
        if self._on_error is None:
            return
        try:
            self._on_error(error)
        except Exception:
            logger.exception("The on_error callback of a watch failed")
