"""Checkpoints: a run is kept step by step, so that it can go on after a crash.

`delta` is one finished step, `snapshot` the whole run, `store` the protocols, `memory` and `file` the stores. When a
step is committed, and whether a run may be resumed, is decided by the executor.
"""

from chainweaver.checkpoint.delta import StepDelta
from chainweaver.checkpoint.file import FileCheckpointer
from chainweaver.checkpoint.memory import InMemoryCheckpointer
from chainweaver.checkpoint.snapshot import ExecutionSnapshot
from chainweaver.checkpoint.store import AppendingCheckpointer, Checkpointer, RunInfo, RunStatus, RunStore

__all__ = [
    "AppendingCheckpointer",
    "Checkpointer",
    "ExecutionSnapshot",
    "FileCheckpointer",
    "InMemoryCheckpointer",
    "RunInfo",
    "RunStatus",
    "RunStore",
    "StepDelta",
]
