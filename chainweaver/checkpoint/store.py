"""What a checkpoint store is.

Two protocols: one that keeps whole snapshots, and one that also takes finished steps one by one. Followed by the stores
here and by those of others; called by the executor.
"""

from typing import Protocol, runtime_checkable

from chainweaver.checkpoint.delta import StepDelta
from chainweaver.checkpoint.snapshot import ExecutionSnapshot


@runtime_checkable
class Checkpointer(Protocol):
    """Where unfinished runs are kept.

    A store is called from many threads at once, for one run from one thread at a time. What `load` returns belongs to
    the caller. A store whose entries leave the process sets `wants_plain = True`: it is given values that were made
    plain by `chainweaver.objects.bind_reduce`, and the executor restores their types after `load`. Objects whose type
    nobody declares, arrays and frames among them, come as they are: `chainweaver.objects.pack` tells which have bytes.

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
