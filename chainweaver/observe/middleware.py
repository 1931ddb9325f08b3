"""Middleware: objects that watch runs.

A middleware implements any of five hooks. `Listeners` finds out once which hooks of which middleware are real: a run
that nobody watches pays one truth test, a watched run pays the calls and nothing more. Hooks watch: what they return is
ignored, and what they raise is logged.

`Listeners` is built and called by the executor. Nothing here decides what happens in a run.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from chainweaver.observe.contexts import (
        FlowEndContext,
        FlowStartContext,
        StepChunkContext,
        StepEndContext,
        StepStartContext,
    )

_log = logging.getLogger("chainweaver.middleware")

HOOKS = ("on_flow_start", "on_step_start", "on_step_end", "on_step_chunk", "on_flow_end")


@runtime_checkable
class FlowExecutorMiddleware(Protocol):
    """What the executor may call. An object with only some of these methods is welcome too."""

    def on_flow_start(self, context: FlowStartContext) -> None:
        """A run is about to start its first step."""

    def on_step_start(self, context: StepStartContext) -> None:
        """A step is about to run."""

    def on_step_end(self, context: StepEndContext) -> None:
        """A step is over."""

    def on_step_chunk(self, context: StepChunkContext) -> None:
        """A streaming tool delivered a piece."""

    def on_flow_end(self, context: FlowEndContext) -> None:
        """A run is over."""


class BaseMiddleware:
    """A middleware that ignores everything. Override the hooks that matter; the others cost nothing.

    >>> class CountSteps(BaseMiddleware):
    ...     count = 0
    ...     def on_step_end(self, context):
    ...         self.count += 1
    >>> bool(Listeners((CountSteps(),))), bool(Listeners((BaseMiddleware(),)))
    (True, False)
    """

    def on_flow_start(self, context: FlowStartContext) -> None:
        """A run is about to start its first step."""

    def on_step_start(self, context: StepStartContext) -> None:
        """A step is about to run."""

    def on_step_end(self, context: StepEndContext) -> None:
        """A step is over."""

    def on_step_chunk(self, context: StepChunkContext) -> None:
        """A streaming tool delivered a piece."""

    def on_flow_end(self, context: FlowEndContext) -> None:
        """A run is over."""


_SILENT = frozenset(vars(cls)[hook] for cls in (BaseMiddleware, FlowExecutorMiddleware) for hook in HOOKS)

BoundHook = tuple[int, str, Callable[[Any], object]]
"""Position of the middleware in registration order, name of its type, the bound hook."""


class Listeners:
    """Who listens to what, settled once for a tuple of middleware.

    Immutable: adding or removing a middleware means building another one, so a run keeps the listeners it started with.
    The attributes `on_flow_start` ... `on_flow_end` hold the bound hooks in registration order and are falsy where
    nobody listens; look before building a context.

    Raises:
        TypeError: A hook is a coroutine function, which nobody would await.

    >>> class Print(BaseMiddleware):
    ...     def on_flow_start(self, context):
    ...         print("started", context)
    >>> listeners = Listeners((Print(),))
    >>> listeners.flow_start("flow a")
    started flow a
    >>> bool(listeners.on_step_start)
    False
    """

    __slots__ = ("middleware", *HOOKS)

    def __init__(self, middleware: Sequence[object] = ()) -> None:
        self.middleware = tuple(middleware)
        self.on_flow_start = _bind("on_flow_start", self.middleware)
        self.on_step_start = _bind("on_step_start", self.middleware)
        self.on_step_end = _bind("on_step_end", self.middleware)
        self.on_step_chunk = _bind("on_step_chunk", self.middleware)
        self.on_flow_end = _bind("on_flow_end", self.middleware)

    def __bool__(self) -> bool:
        """Whether anybody listens to anything."""
        return any(getattr(self, hook) for hook in HOOKS)

    def __repr__(self) -> str:
        return f"Listeners({[type(one).__name__ for one in self.middleware]})"

    def flow_start(self, context: FlowStartContext) -> None:
        """Tell everybody concerned that a run starts."""
        call_hooks("on_flow_start", self.on_flow_start, context)

    def step_start(self, context: StepStartContext) -> None:
        """Tell everybody concerned that a step starts."""
        call_hooks("on_step_start", self.on_step_start, context)

    def step_end(self, context: StepEndContext) -> None:
        """Tell everybody concerned that a step is over."""
        call_hooks("on_step_end", self.on_step_end, context)

    def step_chunk(self, context: StepChunkContext) -> None:
        """Tell everybody concerned that a streaming tool delivered a piece."""
        call_hooks("on_step_chunk", self.on_step_chunk, context)

    def flow_end(self, context: FlowEndContext) -> None:
        """Tell everybody concerned that a run is over."""
        call_hooks("on_flow_end", self.on_flow_end, context)


def _bind(hook: str, middleware: tuple[object, ...]) -> tuple[BoundHook, ...]:
    """The real implementations of one hook, in registration order."""
    bound: list[BoundHook] = []
    for position, one in enumerate(middleware):
        call = getattr(one, hook, None)
        if not callable(call) or getattr(call, "__func__", None) in _SILENT:
            continue
        if inspect.iscoroutinefunction(call):
            raise TypeError(
                f"Hook '{hook}' of middleware {position} ({type(one).__name__}) is a coroutine function.\n"
                "  why     hooks are called from every lane and nobody would await them\n"
                "  fix     write it with 'def', and hand slow work to a queue or a task of your own"
            )
        # What only stands in front of a middleware is named as what it stands for.
        bound.append((position, getattr(one, "stands_for", type(one)).__name__, call))
    return tuple(bound)


def call_hooks(hook: str, bound: tuple[BoundHook, ...], context: object) -> None:
    """Call the hooks in order. A hook that raises is logged and the next one is called."""
    for position, name, call in bound:
        try:
            call(context)
        except Exception as exc:
            log_failure(hook, position, name, exc)


def log_failure(hook: str, position: int, name: str, exc: Exception) -> None:
    """Say that a hook raised, and go on."""
    _log.warning("Middleware %d (%s) raised in %s: %s", position, name, hook, exc, exc_info=exc)
