"""What all contracts share: stores that are made and given back, refusals that are expected, threads at once.

No test runner is imported; a clause that does not hold is an AssertionError that says which.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from chainweaver.testing.conformance.killing import Written, kill_while_writing

LIMIT_S = 30.0
"""How long a clause waits for what has to happen; only one that does not hold waits that long."""


FAULTS = 500
"""After so many operations without one that fails, an operation of a store is none that ends."""


class Fault(Protocol):
    """What a hook that makes an operation fail tells of it.

    Attributes:
        happened: Whether an operation has failed.
    """

    happened: bool


class StoreContract:
    """The hooks of every contract for stores.

    Attributes:
        kills: How often a process that writes is killed, for a clause that kills one.
    """

    kills = 2

    def make_store(self) -> Any:
        """A new and empty store. Called once per clause."""
        raise NotImplementedError(f"{type(self).__name__} has to say how a store is made: override make_store().")

    def close_store(self, store: Any) -> None:
        """Give back what a store holds. Called at the end of each clause."""

    def reopen_store(self, store: Any) -> Any:
        """Another store on the data of this one, as the next process would open it; None where data ends with it."""
        return None

    def failing(self, store: Any, after: int) -> AbstractContextManager[Fault] | None:
        """A block in which one operation of the store fails, such as a statement, a write or a flush.

        Args:
            store: The store.
            after: How many operations succeed before the one that fails. Those behind it succeed again.

        Returns:
            None: nobody knows how to make this store fail, and the clauses that need it are kept without a look.
        """
        return None

    def opened_elsewhere(self, store: Any) -> tuple[str, str] | None:
        """How a child process opens a store on the data of this one.

        Returns:
            A function as "module:name", and the text that it is called with; None where data ends with the object, and
            the clauses that kill a process are kept without a look.
        """
        return None

    def faults(self, store: Any) -> Iterator[AbstractContextManager[Fault]]:
        """Blocks in which the first operation fails, then the second, and so on; none where a store never fails.

        Ends when a block was left in which nothing had failed.
        """
        for after in range(FAULTS):
            block = self.failing(store, after)
            if block is None:
                return
            noted = _Noted(block)
            yield noted
            if not noted.happened:
                return
        raise AssertionError(f"more than {FAULTS} operations, and no end")

    def killed(self, store: Any, work: str, first: int) -> Written | None:
        """What a child process wrote before it was killed; None where none can.

        Args:
            work: What it does again and again, as "module:name": called with the store and a number.
            first: The first number.
        """
        how = self.opened_elsewhere(store)
        return None if how is None else kill_while_writing(*how, work=work, first=first)

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


class _Noted(AbstractContextManager[Fault]):
    """A block that remembers whether something failed in it."""

    def __init__(self, block: AbstractContextManager[Fault]) -> None:
        self._block = block
        self.happened = False

    def __enter__(self) -> Fault:
        self._fault = self._block.__enter__()
        return self._fault

    def __exit__(self, *exc: Any) -> None:
        self._block.__exit__(*exc)
        self.happened = self._fault.happened


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


def succeeds(work: Callable[[], object]) -> bool:
    """Do something in which a store may fail; whether it did not."""
    try:
        work()
    except Exception:  # which one is for the tests of the store to say
        return False
    return True


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
