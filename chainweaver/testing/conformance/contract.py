"""What all contracts share: stores that are made and given back, refusals that are expected, threads at once.

No test runner is imported; a clause that does not hold is an AssertionError that says which.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

LIMIT_S = 30.0
"""How long a clause waits for what has to happen; only one that does not hold waits that long."""


class StoreContract:
    """The hooks of every contract for stores."""

    def make_store(self) -> Any:
        """A new and empty store. Called once per clause."""
        raise NotImplementedError(f"{type(self).__name__} has to say how a store is made: override make_store().")

    def close_store(self, store: Any) -> None:
        """Give back what a store holds. Called at the end of each clause."""

    def reopen_store(self, store: Any) -> Any:
        """Another store on the data of this one, as the next process would open it; None where data ends with it."""
        return None

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """A store for one clause."""
        store = self.make_store()
        try:
            yield store
        finally:
            self.close_store(store)

    @contextmanager
    def reopened(self, store: Any) -> Iterator[Any]:
        """The data of a store as somebody else sees it; the store itself where data ends with it."""
        other = self.reopen_store(store)
        if other is None:
            yield store
            return
        try:
            yield other
        finally:
            self.close_store(other)


class Refusal:
    """What was caught by `refused`.

    Attributes:
        error: The exception.
    """

    error: Any = None


@contextmanager
def refused(kind: type[BaseException], what: str) -> Iterator[Refusal]:
    """The block has to raise this.

    Args:
        what: What is done in the block, for the message.
    """
    caught = Refusal()
    try:
        yield caught
    except kind as exc:
        caught.error = exc
        return
    except Exception as exc:
        raise AssertionError(f"{what} has to raise {kind.__name__}, and raised {type(exc).__name__}: {exc}") from exc
    raise AssertionError(f"{what} has to raise {kind.__name__}, and raised nothing")


def at_once(works: list[Callable[[], object]]) -> None:
    """Do several things in threads that start together; what one of them raises is raised here.

    Raises:
        AssertionError: They have not come to an end.
    """
    failures: list[BaseException] = []
    gate = threading.Barrier(len(works))

    def do(work: Callable[[], object]) -> None:
        try:
            gate.wait(LIMIT_S)
            work()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=do, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads), "threads wait for each other for ever"
