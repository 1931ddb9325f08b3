"""Durable runs: who executes a run that several processes could go on with, and what becomes of it at its end.

For executors whose checkpointer is a `RunStore`. A run is admitted with its claim, claimed before it goes on, and
finished or handed back. Called by the facade, by `runs` and by `resume`; what only a run needs is imported by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from chainweaver.exceptions import (
    ChainWeaverError,
    CheckpointDriftError,
    CheckpointerNotConfiguredError,
    FlowCancelledError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from chainweaver._execution.run import Run
    from chainweaver.checkpoint import Checkpointer, RunStore
    from chainweaver.checkpoint.store import RunStatus
    from chainweaver.lanes.cancel import CancellationToken
    from chainweaver.results import ExecutionResult


class Recovered(NamedTuple):
    """What became of an orphaned run.

    Attributes:
        trace_id: The run.
        result: Its result; None where it could not be gone on with.
        error: Why it could not, or how it was stopped; None otherwise.
    """

    trace_id: str
    result: ExecutionResult | None
    error: ChainWeaverError | None

    @classmethod
    def stopped_by(cls, exc: Exception, trace_id: str) -> Recovered:
        """Of a run that an exception kept from going on; one that `migrate=` has raised must not keep all others."""
        if isinstance(exc, ChainWeaverError):
            return cls(trace_id, getattr(exc, "result", None), exc)
        error = CheckpointDriftError(trace_id, f"it could not be looked at: {type(exc).__name__}: {exc}")
        error.__cause__ = exc
        return cls(trace_id, None, error)


class KeyTaken(Exception):
    """There is a run with the key that a call names.

    Attributes:
        trace_id: That run.
    """

    def __init__(self, trace_id: str) -> None:
        super().__init__(trace_id)
        self.trace_id = trace_id


def run_store(checkpointer: Checkpointer | None) -> RunStore | None:
    """The checkpointer, when processes may share it."""
    if checkpointer is None:
        return None
    from chainweaver.checkpoint import RunStore

    return checkpointer if isinstance(checkpointer, RunStore) else None


def needed(store: RunStore | None, operation: str) -> RunStore:
    """The store of durable runs.

    Raises:
        CheckpointerNotConfiguredError: The executor has none.
    """
    if store is None:
        fix = "FlowExecutor(..., checkpointer=open_store('sqlite:///runs.db').runs)"
        raise CheckpointerNotConfiguredError(operation, fix=fix)
    return store


def digest_of(initial_input: dict[str, Any]) -> str | None:
    """Says whether two inputs are equal; None where nobody can tell."""
    from chainweaver.objects.fingerprints import fingerprint

    try:
        return fingerprint(initial_input)
    except Exception:  # whatever a foreign object answers: an input without a fingerprint is not compared
        return None


def finish(store: RunStore, run: Run, *, keep: bool, handed_back: bool, out_of_reach: bool) -> None:
    """Tell the store how a run has ended. One that was interrupted, or handed back, has not: others may go on with it.

    Args:
        keep: Whether a run that ended well is kept.
        handed_back: A run that was cancelled was so for the sake of its process, not for its own.
        out_of_reach: The store did not answer when the run wanted to commit a step.

    Raises:
        RunClaimLostError: Somebody else does so already.
    """
    cancelled = run.cancelled
    # A run whose claim was lost is told of as well: that is when the store forgets the claim.
    if run.status == "cancelled":
        is_open = cancelled is None or cancelled.reason in ("interrupt", "claim") or handed_back
    else:
        is_open = run.status == "failed" and out_of_reach
    status: RunStatus = "running" if is_open else _STATUSES[run.status]
    store.finish(run.trace_id(), status, error=_told(run), keep=keep or status != "ok")


_STATUSES: dict[str, RunStatus] = {"ok": "ok", "failed": "failed", "cancelled": "cancelled"}


def _told(run: Run) -> str | None:
    """Code and place of what a run ended with. No text: it could repeat a value that nobody shall see."""
    from chainweaver._execution.conclude import failure_of

    error = failure_of(run)
    if error is None:
        return f"CW-{FlowCancelledError.code}" if run.status == "cancelled" else None
    place = f" at step '{run.plan.steps[min(run.failures)].label}'" if run.failures else ""
    return f"CW-{error.code}{place}"


def joined(token: CancellationToken | None, drain: CancellationToken) -> tuple[CancellationToken, Callable[[], None]]:
    """A token that either of two cancels, and what ends that."""
    if token is None:
        return drain, _nothing
    both = type(drain)()
    token.listen(both.cancel)
    drain.listen(both.cancel)

    def part() -> None:
        token.unlisten(both.cancel)
        drain.unlisten(both.cancel)

    return both, part


def _nothing() -> None:
    return None


@contextmanager
def calling_on(signals: tuple[int, ...], call: Callable[[], None]) -> Iterator[None]:
    """Within the block, these signals call a function; before and after they do what they did. SIGTERM for none.

    Raises:
        ValueError: This is not the main thread, the only one that may say so.
    """
    import signal

    before = {number: signal.signal(number, lambda *_: call()) for number in signals or (signal.SIGTERM,)}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
