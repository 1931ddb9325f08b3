"""What a checkpoint store is.

Two protocols: one that keeps whole snapshots, and one that also takes finished steps one by one. Followed by the stores
here and by those of others; called by the executor.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from chainweaver.checkpoint.delta import StepDelta
from chainweaver.checkpoint.snapshot import ExecutionSnapshot


@runtime_checkable
class Checkpointer(Protocol):
    """Where unfinished runs are kept.

    A store is called from many threads at once, for one run from one thread at a time. What `load` returns belongs to
    the caller. A store whose entries leave the process sets `wants_plain = True`: it is given values that were made
    plain by `chainweaver.objects.bind_reduce`, and the executor restores their types after `load`. Objects whose type
    nobody declares, arrays and frames among them, come as they are: `chainweaver.objects.pack` tells which have bytes.

    The async lane calls a store in the thread of its loop. One that may have to wait, for a lock, a disk or a network,
    has a method `at_once(call)`: it makes a call of its own methods and returns what that returns, or raises
    `BlockingIOError` where it would have to wait, and then the call is made again, in a thread.

    >>> class Forgetful:
    ...     def save(self, snapshot): pass
    ...     def load(self, trace_id): raise KeyError(trace_id)
    ...     def delete(self, trace_id): pass
    ...     def list_trace_ids(self): return []
    >>> isinstance(Forgetful(), Checkpointer), isinstance(Forgetful(), AppendingCheckpointer)
    (True, False)
    """

    def save(self, snapshot: ExecutionSnapshot) -> None:
        """Keep a snapshot; an older one of the same run is replaced."""
        ...

    def load(self, trace_id: str) -> ExecutionSnapshot:
        """The run as it was kept last.

        Raises:
            CheckpointNotFoundError: Nothing is kept for this run.
        """
        ...

    def delete(self, trace_id: str) -> None:
        """Forget a run. Nothing happens when it is unknown."""
        ...

    def list_trace_ids(self) -> list[str]:
        """The ids of all runs that are kept, sorted."""
        ...


@runtime_checkable
class AppendingCheckpointer(Checkpointer, Protocol):
    """A store that takes finished steps one by one, so that a run of n steps writes n steps and not n squared.

    The executor saves a snapshot without steps when a run begins and appends each step before a dependent one starts.
    A store without `append` is given the growing snapshot instead.
    """

    def append(self, trace_id: str, delta: StepDelta) -> None:
        """Commit one finished step of a run that was saved before. A step with the same index is replaced.

        Raises:
            CheckpointNotFoundError: Nothing is kept for this run.
            CheckpointEncodeError: An output cannot be kept. The checkpoint is as it was.
        """
        ...


RunStatus: TypeAlias = Literal["running", "ok", "failed", "cancelled"]
"""How a run stands. One that is "running" and that nobody executes is an orphan."""

RUN_STATUSES: Final[tuple[RunStatus, ...]] = ("running", "ok", "failed", "cancelled")


class RunInfo(NamedTuple):
    """A run as a log tells of it.

    Attributes:
        trace_id: Id of the run.
        flow_name: Name of the flow.
        flow_version: Its version.
        status: How it stands.
        key: The name that its caller gave it; None for most.
        error: Code of what it ended with, and the step; None for a run without an error.
        started_at: When it began; aware.
        changed_at: When it was claimed or ended; aware.
        steps_done: How many steps of the flow itself are committed.
        owner: Who executes it; None where nobody does.
        is_orphan: It has not ended, and nobody executes it.
        seconds_left: How long the claim of its owner holds unless it is renewed; None where nobody executes it, or
            where a claim does not run out by itself.
    """

    trace_id: str
    flow_name: str
    flow_version: str
    status: RunStatus
    key: str | None
    error: str | None
    started_at: datetime
    changed_at: datetime
    steps_done: int
    owner: str | None
    is_orphan: bool
    seconds_left: float | None = None


@runtime_checkable
class RunStore(AppendingCheckpointer, Protocol):
    """A store that processes share: a run belongs to whoever claims it, and everybody else's commits are refused.

    The executor admits a run instead of saving it, claims it before it goes on with it, and finishes it at its end. A
    claim that is not renewed runs out by itself; how it is renewed is the store's business. `save` of a run that is
    claimed here replaces what it goes on from, in one atomic write, and leaves it its claim and its key.
    """

    def admit(
        self, snapshot: ExecutionSnapshot, *, key: str | None = None, input_digest: str | None = None
    ) -> str | None:
        """Keep a run that is about to begin, and claim it; or the id of the run that has the key already.

        Raises:
            RunKeyError: The run that has the key is another one than this.
        """
        ...

    def claim(self, trace_id: str) -> None:
        """Make a run one that is executed here; it is "running" from then on.

        Raises:
            CheckpointNotFoundError: Nothing is kept for this run.
            RunClaimedError: Somebody executes it.
        """
        ...

    def claim_orphan(self, flow_names: Collection[str], passed_over: Collection[str] = ()) -> str | None:
        """Claim a run of one of these flows that has not ended and that nobody executes; its id, or None."""
        ...

    def info(self, trace_id: str) -> RunInfo:
        """How a run stands.

        Raises:
            CheckpointNotFoundError: There is no such run.
        """
        ...

    def finish(self, trace_id: str, status: RunStatus | None, *, error: str | None = None, keep: bool = True) -> None:
        """End a claim: the run has ended, or, with "running", others may go on with it; None: as it stood before."""
        ...
