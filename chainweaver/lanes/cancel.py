"""Stopping: how somebody outside a run asks for its end, and how those who wait hear of it.

`CancellationToken` is what callers hold, `Stop` what a lane waits with. Both may be set from any thread, and from a
signal handler: no lock is taken, and whoever is told only leaves a note.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chainweaver._execution.commands import RunCancelled

if TYPE_CHECKING:
    from chainweaver._execution.commands import CancelReason


class CancellationToken:
    """Asks runs to end. One token may be given to any number of runs; cancelling is final.

    >>> token = CancellationToken()
    >>> token.is_cancelled
    False
    >>> token.cancel()
    >>> token.is_cancelled
    True
    """

    __slots__ = ("_cancelled", "_listeners")

    def __init__(self) -> None:
        self._cancelled = False
        # A dict is an ordered set whose single operations are atomic.
        self._listeners: dict[Callable[[], None], None] = {}

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Ask every run that holds the token to end.

        May be called from any thread, from a signal handler, and more than once. It does not wait for the runs.
        """
        self._cancelled = True
        for listener in list(self._listeners):
            if self._listeners.pop(listener, self) is None:
                listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call a function once when the token is cancelled, at once when it is already."""
        self._listeners[listener] = None
        if self._cancelled and self._listeners.pop(listener, self) is None:
            listener()

    def unlisten(self, listener: Callable[[], None]) -> None:
        """Forget a function that `listen` was given."""
        self._listeners.pop(listener, None)

    def __repr__(self) -> str:
        return f"CancellationToken(is_cancelled={self._cancelled})"


class Stop:
    """A reason to end, and the functions that wake whoever waits.

    Attributes:
        reason: None until somebody sets it.
    """

    __slots__ = ("_told", "_wakers", "reason")

    def __init__(self) -> None:
        self.reason: CancelReason | None = None
        self._told = False
        self._wakers: list[Callable[[], None]] = []

    def set(self, reason: CancelReason) -> None:
        """Give a reason; the first one counts."""
        if self.reason is None:
            self.reason = reason
            for wake in list(self._wakers):
                wake()

    def set_by_token(self) -> None:
        """What a token is given to call."""
        self.set("token")

    def check(self) -> None:
        """Raise the reason, once: what the run does in order to end must not be stopped again.

        Raises:
            RunCancelled: There is a reason, and nobody has heard of it yet.
        """
        if self.reason is not None and not self._told:
            self._told = True
            raise RunCancelled(self.reason)

    def wake(self, waker: Callable[[], None]) -> None:
        """Call a function when a reason is given, at once when there is one."""
        if self is NEVER:
            return
        self._wakers.append(waker)
        if self.reason is not None:
            waker()

    def unwake(self, waker: Callable[[], None]) -> None:
        """Forget a function that `wake` was given."""
        if waker in self._wakers:
            self._wakers.remove(waker)


NEVER = Stop()
"""For runs that nobody can stop; never set, so that one serves them all."""
