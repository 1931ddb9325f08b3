"""Watching runs: middleware, the contexts it receives, events, redacted views, and traces that are kept.

`contexts`, `middleware` and `events` are the hooks; `around` is what wraps steps and runs, and `shipped` the middleware
that comes along; `memory` measures values; `redaction` says what views hide; `traces` keeps results; `costs` adds up
what they cost. Hooks never change what a run does, and a generator around a step can only wait. Cancelling and retrying
live in the run core and in the lanes.
"""

from typing import TYPE_CHECKING

from chainweaver._lazy import lazy_names
from chainweaver.observe.contexts import (
    FlowEndContext,
    FlowStartContext,
    StepChunkContext,
    StepEndContext,
    StepStartContext,
)
from chainweaver.observe.events import EventKind, EventMiddleware, FlowEvent
from chainweaver.observe.middleware import BaseMiddleware, FlowExecutorMiddleware, Listeners

if TYPE_CHECKING:
    from chainweaver.observe.around import (
        Proceed as Proceed,
        RunAroundContext as RunAroundContext,
        Sleep as Sleep,
        StepAroundContext as StepAroundContext,
        StepOutcome as StepOutcome,
        Wrapper as Wrapper,
        WrapsRuns as WrapsRuns,
        WrapsSteps as WrapsSteps,
    )
    from chainweaver.observe.costs import (
        CostProfile as CostProfile,
        CostReport as CostReport,
        ToolCost as ToolCost,
        cost_report as cost_report,
    )
    from chainweaver.observe.memory import (
        MemoryTracker as MemoryTracker,
    )
    from chainweaver.observe.redaction import (
        SECRET_KEYS as SECRET_KEYS,
        RedactionPolicy as RedactionPolicy,
    )
    from chainweaver.observe.secret_texts import (
        TOKEN_PATTERNS as TOKEN_PATTERNS,
    )
    from chainweaver.observe.shipped import (
        Durations as Durations,
        RedactedView as RedactedView,
        Timing as Timing,
        TokenBucket as TokenBucket,
    )
    from chainweaver.observe.traces import (
        FileTraceStore as FileTraceStore,
        InMemoryTraceStore as InMemoryTraceStore,
        TraceEntry as TraceEntry,
        TraceRecorder as TraceRecorder,
        TraceStore as TraceStore,
    )

__all__ = [
    "SECRET_KEYS",
    "TOKEN_PATTERNS",
    "BaseMiddleware",
    "CostProfile",
    "CostReport",
    "Durations",
    "EventKind",
    "EventMiddleware",
    "FileTraceStore",
    "FlowEndContext",
    "FlowEvent",
    "FlowExecutorMiddleware",
    "FlowStartContext",
    "InMemoryTraceStore",
    "Listeners",
    "MemoryTracker",
    "Proceed",
    "RedactedView",
    "RedactionPolicy",
    "RunAroundContext",
    "Sleep",
    "StepAroundContext",
    "StepChunkContext",
    "StepEndContext",
    "StepOutcome",
    "StepStartContext",
    "Timing",
    "TokenBucket",
    "ToolCost",
    "TraceEntry",
    "TraceRecorder",
    "TraceStore",
    "Wrapper",
    "WrapsRuns",
    "WrapsSteps",
    "cost_report",
]

# Every run needs the hooks; the rest, and what it brings along, is loaded by those who ask for it.
_ROOMS = {
    "chainweaver.observe.around": (
        *("Proceed", "RunAroundContext", "Sleep", "StepAroundContext", "StepOutcome", "Wrapper"),
        *("WrapsRuns", "WrapsSteps"),
    ),
    "chainweaver.observe.costs": ("CostProfile", "CostReport", "ToolCost", "cost_report"),
    "chainweaver.observe.memory": ("MemoryTracker",),
    "chainweaver.observe.redaction": ("SECRET_KEYS", "RedactionPolicy"),
    "chainweaver.observe.secret_texts": ("TOKEN_PATTERNS",),
    "chainweaver.observe.shipped": ("Durations", "RedactedView", "Timing", "TokenBucket"),
    "chainweaver.observe.traces": (
        *("FileTraceStore", "InMemoryTraceStore", "TraceEntry", "TraceRecorder", "TraceStore"),
    ),
}

__getattr__ = lazy_names(globals(), _ROOMS)
