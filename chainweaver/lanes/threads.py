"""Daemon threads that are kept for the next call.

The standard pool joins its threads when the interpreter ends, so one tool that never returns would keep the program
alive; a tool that is late is abandoned here, and its thread with it. Idle threads end after a while.

Used by the lanes only. Nothing here knows about runs.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

IDLE_S = 10.0
"""How long a thread waits for more work, in seconds."""

Work = Callable[[], object]


class DaemonThreads:
    """Starts calls in daemon threads, with the contextvars of the caller.

    >>> threads = DaemonThreads()
    >>> done = threading.Event()
    >>> threads.start(done.set)
    >>> done.wait(5)
    True
    >>> threads.close()
    """

    def __init__(self) -> None:
        self._idle: list[SimpleQueue[Work | None]] = []
        self._lock = threading.Lock()
        self._count = 0

    def start(self, work: Work) -> None:
        """Run a call in an idle thread, or in a new one; it has to keep its result and its errors to itself."""
        context = contextvars.copy_context()
        call = lambda: context.run(work)  # noqa: E731 - the pair travels as one object
        with self._lock:
            inbox = self._idle.pop() if self._idle else None
            if inbox is None:
                self._count += 1
                name = f"chainweaver-{self._count}"
        if inbox is not None:
            inbox.put(call)
            return
        inbox = SimpleQueue()
        inbox.put(call)
        threading.Thread(target=self._serve, args=(inbox,), name=name, daemon=True).start()

    def close(self) -> None:
        """Let idle threads end; those that work end when they are done."""
        with self._lock:
            idle, self._idle = self._idle, []
        for inbox in idle:
            inbox.put(None)

    def _serve(self, inbox: SimpleQueue[Work | None]) -> None:
        while True:
            try:
                work = inbox.get(timeout=IDLE_S)
            except Empty:
                with self._lock:
                    if inbox not in self._idle:
                        continue  # somebody took it just now, and its work is on the way
                    self._idle.remove(inbox)
                return
            if work is None:
                return
            work()
            del work  # nothing of the run may live on in an idle thread
            with self._lock:
                self._idle.append(inbox)
