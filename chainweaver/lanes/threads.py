"""Daemon threads that are kept for the next call, and a bell that wakes a waiting thread.

The standard pool joins its threads when the interpreter ends, so one tool that never returns would keep the program
alive; a tool that is late is abandoned here, and its thread with it. Idle threads end after a while.

Used by the lanes only. Nothing here knows about runs.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

IDLE_S = 10.0
"""How long a thread waits for more work, in seconds."""

CLOSE_S = 0.25
"""How long `DaemonThreads.close` waits for threads to end, in seconds; one that is held by a late tool never does."""

Work = Callable[[], object]


class Bell:
    """Wakes the one thread that waits for it, now or later.

    It may be rung from any thread and from a signal handler. An Event may not: its lock is not reentrant, so that a
    handler which sets it can wait for the very thread that it interrupted.

    >>> bell = Bell()
    >>> bell.ring()
    >>> bell.wait(5), bell.wait(0.001)
    (True, False)
    """

    __slots__ = ("_rings",)

    def __init__(self) -> None:
        self._rings: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        """Let one `wait` return."""
        self._rings.put(None)

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until somebody has rung; False when the time is over first."""
        try:
            if timeout_s is None:
                self._rings.get()
            else:
                self._rings.get(timeout=min(max(timeout_s, 0.0), threading.TIMEOUT_MAX))
        except Empty:
            return False
        return True


class DaemonThreads:
    """Starts calls in daemon threads, with the contextvars of the caller.

    >>> threads = DaemonThreads()
    >>> bell = Bell()
    >>> threads.start(bell.ring)
    >>> bell.wait(5)
    True
    >>> threads.close()
    """

    def __init__(self) -> None:
        self._idle: list[SimpleQueue[Work | None]] = []
        self._lock = threading.Lock()
        self._alive: set[threading.Thread] = set()
        self._count = 0
        self._closed = False

    def start(self, work: Work) -> None:
        """Run a call in an idle thread, or in a new one; it has to keep its result and its errors to itself.

        Raises:
            RuntimeError: The system has no more threads to give.
        """
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
        """Let threads end: idle ones now, those that work when they are done.

        Returns when all have ended, and after `CLOSE_S` at the latest. What is started after this gets a thread that
        ends with it.
        """
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            alive = list(self._alive)
        for inbox in idle:
            inbox.put(None)
        until_s = time.monotonic() + CLOSE_S
        for thread in alive:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until_s - time.monotonic()))

    def _serve(self, inbox: SimpleQueue[Work | None]) -> None:
        with self._lock:
            self._alive.add(threading.current_thread())
        try:
            while self._work(inbox):
                pass
        finally:
            with self._lock:
                self._alive.discard(threading.current_thread())

    def _work(self, inbox: SimpleQueue[Work | None]) -> bool:
        """Do the next piece of work; False when there will be none."""
        try:
            work = inbox.get(timeout=IDLE_S)
        except Empty:
            with self._lock:
                if inbox not in self._idle:
                    return True  # somebody took it just now, and its work is on the way
                self._idle.remove(inbox)
            return False
        if work is None:
            return False
        work()
        del work  # nothing of the run may live on in an idle thread
        with self._lock:
            if not self._closed:
                self._idle.append(inbox)
            return not self._closed
