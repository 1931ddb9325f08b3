"""Traces: the results of finished runs, kept to be looked at later.

`store` says what a store is, `memory` and `file` are stores, `recorder` is the middleware that fills one. A trace is a
view: values that JSON has no form for are kept as texts. Going on with an unfinished run is what checkpoints are for.
"""

from chainweaver.observe.traces.file import FileTraceStore
from chainweaver.observe.traces.memory import InMemoryTraceStore
from chainweaver.observe.traces.recorder import TraceRecorder
from chainweaver.observe.traces.store import TraceEntry, TraceStore

__all__ = [
    "FileTraceStore",
    "InMemoryTraceStore",
    "TraceEntry",
    "TraceRecorder",
    "TraceStore",
]
