"""Watching runs: middleware hooks, the contexts they receive, and the stream of events made from them.

Observers never change what a run does. Wrapping, cancelling and retrying live in the run core and in the lanes.
"""

from chainweaver.observe.contexts import (
    FlowEndContext,
    FlowStartContext,
    StepChunkContext,
    StepEndContext,
    StepStartContext,
)
from chainweaver.observe.events import EventKind, EventMiddleware, FlowEvent
from chainweaver.observe.middleware import BaseMiddleware, FlowExecutorMiddleware, Listeners

__all__ = [
    "BaseMiddleware",
    "EventKind",
    "EventMiddleware",
    "FlowEndContext",
    "FlowEvent",
    "FlowExecutorMiddleware",
    "FlowStartContext",
    "Listeners",
    "StepChunkContext",
    "StepEndContext",
    "StepStartContext",
]
