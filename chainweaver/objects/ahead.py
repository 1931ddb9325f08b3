"""Reading ahead: a thread that takes items from a source before they are asked for, and never too many.

Only streams with a buffer have one. The thread knows the source and nothing of its reader, so that a stream that is
forgotten is collected, and ends it. Called by `streams`.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

END: Any = object()
"""What stands in place of an item when there is none left."""


class Ahead:
    """A source that is read ahead; begins with the thread that asks for the first item, and has its context variables.

    Args:
        source: Read in a thread of its own from now on, and by nobody else.
        room: How many items may be there, the one that is being made among them.
        close: Called with the source, in that thread, once it has been read to its end or has been stopped.
        report: Told what closing raised, when nobody waits for it any more.
    """

    def __init__(
        self, source: Iterator[Any], room: int, close: Callable[[Any], None], report: Callable[[Exception], None]
    ) -> None:
        self._source: Any = source
        self._room = room
        self._close, self._report = close, report
        self._changed = threading.Condition()
        self._items: deque[Any] = deque()
        self._stopped = self._over = self._left = False
        self._error: BaseException | None = None
        self._close_error: Exception | None = None
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._fill,), name="chainweaver-stream", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many items have been made and not been taken."""
        return len(self._items)

    def take(self) -> Any:
        """The next item, or END; waits for it.

        Raises:
            BaseException: What the source raised, after all items before it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._over)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            error, self._error = self._error, None
        if error is None:
            return END
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def stop(self, wait_s: float) -> bool:
        """Have the thread end and close the source; whether it did in time.

        Raises:
            Exception: What the source raised when it was closed.
        """
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()
        if wait_s:
            self._thread.join(wait_s)
        with self._changed:
            self._left = not self._over
            error, self._close_error = self._close_error, None
        if error is not None:
            raise error
        return not self._left

    def _fill(self) -> None:
        source, self._source = self._source, None
        error: BaseException | None = None
        close_error: Exception | None = None
        try:
            while self._has_room():
                item = next(source, END)
                if item is END:
                    break
                with self._changed:
                    if self._stopped:
                        break
                    self._items.append(item)
                    self._changed.notify_all()
                del item
        except BaseException as exc:  # whatever it is, it is for the reader
            error = exc
        try:
            self._close(source)
        except Exception as exc:
            close_error = exc
        with self._changed:
            self._error, self._close_error, self._over = error, close_error, True
            self._changed.notify_all()
            is_left = self._left
        if is_left and close_error is not None:
            self._report(close_error)

    def _has_room(self) -> bool:
        """Wait until one more item may be made; whether it is wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._items) < self._room)
            return not self._stopped
