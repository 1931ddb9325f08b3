"""The rules of an executor: its callbacks, limits and wrapping middleware, in the form in which runs take them.

What users give (objects with a method, bare callables, sync or async) becomes one shape that lanes call like a tool.
Called by `runs` when an executor first runs something.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from chainweaver._execution.commands import Proceed
from chainweaver._execution.rules import NO_RULES, Rules, Wrapper
from chainweaver.executor.settings import named
from chainweaver.flow.callbacks import DecisionPolicy
from chainweaver.flow.safety import SideEffectLevel
from chainweaver.plan import ASIDE
from chainweaver.tools.definition import is_coroutine_callable

if TYPE_CHECKING:
    from chainweaver._execution.run import Run
    from chainweaver.plan import PlannedStep

METHODS = {
    "decision_callback": "decide",
    "approval_callback": "approve",
    "guardrail_callback": "check",
    "capability_hook": "run_capability",
}
"""Setting -> the method that an object given for it has; a bare callable will do."""


class Callback:
    """Somebody who is asked, with the attributes that lanes look at on a tool."""

    __slots__ = ("fn", "inline", "is_async", "lane", "name", "stream")

    def __init__(self, name: str, fn: Callable[..., Any]) -> None:
        self.name = name
        self.fn = fn
        self.is_async = is_coroutine_callable(fn)
        self.inline = not self.is_async
        # What performs a capability is a tool in all but name.
        self.lane = None if name == "capability_hook" else ASIDE
        self.stream = None


def callback_of(setting: str, value: Any) -> Callback | None:
    """The callback behind a setting; None when there is none.

    Raises:
        TypeError: It is neither callable nor has it the method.
    """
    if value is None:
        return None
    method = METHODS[setting]
    fn = getattr(value, method, None) or value
    if isinstance(value, type) or not callable(fn):
        hint = f"; pass {value.__name__}(...)" if isinstance(value, type) else ""
        raise TypeError(f"{setting} has to be callable or have a method '{method}', not {named(value)}{hint}.")
    return Callback(setting, fn)


def callbacks_of(settings: Mapping[str, Any]) -> dict[str, Callback]:
    """Kind of question -> who is asked."""
    kinds = {"decision": "decision_callback", "approval": "approval_callback", "guardrail": "guardrail_callback"}
    found = {kind: callback_of(setting, settings[setting]) for kind, setting in kinds.items()}
    return {kind: callback for kind, callback in found.items() if callback is not None}


def level_of(level: Any) -> SideEffectLevel | None:
    """The ceiling that a setting names.

    Raises:
        ValueError: There is no such level.
    """
    try:
        return None if level is None else SideEffectLevel(level)
    except ValueError:
        known = ", ".join(repr(one.value) for one in SideEffectLevel)
        raise ValueError(f"max_side_effect_level has to be one of {known}, not {level!r}.") from None


def rules_of(settings: Mapping[str, Any], callbacks: Mapping[str, Callback], middleware: Sequence[object]) -> Rules:
    """The rules that an executor with these settings has for its runs."""
    rules = Rules(
        decides="decision" in callbacks,
        approves="approval" in callbacks,
        guards="guardrail" in callbacks,
        decision=settings["decision_policy"] or DecisionPolicy(),
        ceiling=level_of(settings["max_side_effect_level"]),
        strict=settings["strict_safety"],
        capability=callback_of("capability_hook", settings["capability_hook"]),  # type: ignore[arg-type]  # called alike
        redaction=settings["redaction_policy"],
        pricing=_pricing(settings["cost_profile"]),
        seal=_seal(settings["on_shared_mutation"]),
        around_step=tuple(_around_step(at, one) for at, one in enumerate(middleware) if hasattr(one, "around_step")),
        around_run=tuple(_around_run(at, one) for at, one in enumerate(middleware) if hasattr(one, "around_run")),
    )
    return NO_RULES if rules == NO_RULES else rules


def _seal(setting: str) -> Any:
    """What notices changes in place; None where they are ignored."""
    if setting == "ignore":
        return None
    from chainweaver.executor.seals import seal

    return seal


def _pricing(profile: Any) -> Callable[[Any], Any] | None:
    """What makes the cost report of a result; None without prices."""
    if profile is None:
        return None
    from chainweaver.observe import cost_report

    return lambda result: cost_report(result, profile)


# ---- middleware


def shown_to(middleware: Any, policy: Any) -> Any:
    """A middleware with the view that a redaction policy leaves it; a recorder redacts what it writes by itself.

    What measures memory needs the very values, and keeps none.
    """
    from chainweaver.observe import MemoryTracker, RedactedView, TraceRecorder

    if isinstance(middleware, MemoryTracker):
        return middleware
    if not isinstance(middleware, TraceRecorder):
        return RedactedView(middleware, policy)
    if middleware.redaction_policy is not None:
        return middleware
    recorder = copy(middleware)
    recorder.redaction_policy = policy
    return recorder


def _name_of(at: int, middleware: Any) -> str:
    return f"{at} ({getattr(middleware, 'stands_for', type(middleware)).__name__})"


def _around_step(at: int, middleware: Any) -> Callable[[Run, PlannedStep], Wrapper]:
    from chainweaver.observe.around import StepAroundContext

    def make(run: Run, step: PlannedStep) -> Wrapper:
        nests = step.child is not None or step.each is not None
        context = StepAroundContext(
            run.trace_id(), run.plan.flow_name, step.index, step.step_id, step.name, run.now_ns, nests
        )
        return _guarded(middleware.around_step(context), _name_of(at, middleware), "around_step")

    return make


def _around_run(at: int, middleware: Any) -> Callable[[Run], Wrapper]:
    from chainweaver.observe.around import RunAroundContext
    from chainweaver.results import ExecutionResult

    def make(run: Run) -> Wrapper:
        parent_id = None if run.parent is None else run.parent.trace_id()
        context = RunAroundContext(run.trace_id(), run.plan.flow_name, run.now_ns, run.plan.flow_version, parent_id)
        inner = middleware.around_run(context)
        return _guarded(inner, _name_of(at, middleware), "around_run", ExecutionResult.of)

    return make


def _guarded(
    inner: Generator[Any, Any, Any], name: str, hook: str, shown: Callable[[Any], Any] = lambda outcome: outcome
) -> Wrapper:
    """A generator of a middleware, which can do no harm once it has let proceed: what it raises then is logged."""
    try:
        asked = next(inner)
        while not isinstance(asked, Proceed):
            asked = inner.send((yield asked))
        outcome = yield asked
    except StopIteration:
        return
    except GeneratorExit:
        inner.close()
        raise
    log = logging.getLogger("chainweaver.middleware")
    try:
        inner.send(shown(outcome))
    except StopIteration:
        return
    except Exception as exc:
        log.warning("Middleware %s raised in %s: %s", name, hook, exc, exc_info=True)
    else:
        inner.close()
        log.warning("Middleware %s yielded again in %s, after it had let proceed", name, hook)
