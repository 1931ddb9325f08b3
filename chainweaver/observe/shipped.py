"""The middleware that comes along: a rate limit, a stopwatch, and a redacted view for other middleware.

All three are built on what everybody has, hooks and the generators of `around`. None reads a clock or waits: times come
with contexts and replies. One object may serve any number of runs at once, from any thread.

Given to the executor by users.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from chainweaver.observe.around import Proceed, RunAroundContext, Sleep, StepAroundContext, StepOutcome, Wrapper
from chainweaver.observe.contexts import (
    Facts,
    FlowEndContext,
    FlowStartContext,
    StepChunkContext,
    StepEndContext,
    StepStartContext,
)
from chainweaver.observe.middleware import HOOKS, Listeners

if TYPE_CHECKING:
    from chainweaver.observe.redaction import RedactionPolicy
    from chainweaver.results import ExecutionResult


class TokenBucket:
    """Lets steps begin at a bounded rate; those that come too soon wait their turn, in order of arrival.

    A call takes one token whatever its attempts are; steps that run a sub-flow or a map take none. Tokens come back at
    `rate_per_s` and at most `burst` of them lie ready. All runs that share the object share the bucket, and have to
    share the clock as well: executors with different clocks need buckets of their own.

    Args:
        rate_per_s: Tokens that come back per second.
        burst: How many steps may begin at once after a quiet time.
        tools: Names of the tools that are limited; None: all steps are.

    Raises:
        TypeError: The rate is no number, or `tools` no collection.
        ValueError: The rate is not above 0, or the burst is below 1.

    >>> limiter = TokenBucket(rate_per_s=10, burst=2, tools=["search"])
    >>> step = StepAroundContext("0" * 32, "f", 0, "0", "search", now_ns=0)
    >>> [type(next(limiter.around_step(step))).__name__ for _ in range(3)]
    ['Proceed', 'Proceed', 'Sleep']
    """

    def __init__(self, rate_per_s: float, burst: int = 1, *, tools: Collection[str] | None = None) -> None:
        if not hasattr(rate_per_s, "__float__"):
            raise TypeError(f"rate_per_s has to be a number above 0, not {rate_per_s!r}.")
        if not (rate_per_s > 0 and math.isfinite(rate_per_s)):
            raise ValueError(f"rate_per_s has to be a number above 0, not {rate_per_s!r}.")
        if not isinstance(burst, int) or burst < 1:
            raise ValueError(f"burst has to be a whole number, at least 1, not {burst!r}.")
        if isinstance(tools, str):
            raise ValueError(f"tools has to be a collection of names such as [{tools!r}].")
        if tools is not None and not isinstance(tools, Collection):
            raise TypeError(f"tools has to be a collection of names, not {tools!r}.")
        self.rate_per_s = rate_per_s
        self.burst = burst
        self.tools = None if tools is None else frozenset(tools)
        self._interval_ns = max(1, round(1e9 / rate_per_s))
        # The bucket as one number: the time at which it will be full again (the "generic cell rate algorithm").
        self._full_ns: int | None = None
        self._lock = threading.Lock()

    def around_step(self, context: StepAroundContext) -> Wrapper:
        """Wait for a token, then go on."""
        if context.nests or (self.tools is not None and context.tool_name not in self.tools):
            yield Proceed()
            return
        now_ns = context.now_ns
        turn_ns, full_ns = self._take(now_ns)
        try:
            # A lane may wake early, and clocks count in units of their own.
            while now_ns < turn_ns:
                now_ns = yield Sleep((turn_ns - now_ns) / 1e9)
        except BaseException:
            self._give_back(full_ns)
            raise
        yield Proceed()

    def _take(self, now_ns: int) -> tuple[int, int]:
        """Take a token: when it may be used, and when the bucket will be full again."""
        with self._lock:
            full_ns = now_ns if self._full_ns is None else max(self._full_ns, now_ns)
            self._full_ns = full_ns + self._interval_ns
            return self._full_ns - self.burst * self._interval_ns, self._full_ns

    def _give_back(self, full_ns: int) -> None:
        """Return a token that was not used, unless others behind it have their turn fixed already."""
        with self._lock:
            if self._full_ns == full_ns:
                self._full_ns = full_ns - self._interval_ns


@dataclass(frozen=True, slots=True)
class Durations:
    """What a stopwatch knows of one step, tool or flow.

    Attributes:
        count: How many have ended.
        failed: How many of them ended with an error or were cancelled.
        total_s, min_s, max_s: Seconds.
    """

    count: int
    failed: int
    total_s: float
    min_s: float
    max_s: float

    @property
    def mean_s(self) -> float:
        """Seconds per one."""
        return self.total_s / self.count

    def plus(self, seconds: float, ok: bool) -> Durations:
        """The same with one more."""
        return Durations(
            self.count + 1,
            self.failed + (not ok),
            self.total_s + seconds,
            min(self.min_s, seconds),
            max(self.max_s, seconds),
        )


class Timing:
    """Measures steps and runs: how many, how many failed, and how long they took in all, at least and at most.

    Waits of middleware further inside, retries and fallbacks are part of a step. Keeps a few numbers per name, not one
    per step.

    >>> timing = Timing()
    >>> step = timing.around_step(StepAroundContext("0" * 32, "f", 0, "0", "search", now_ns=0))
    >>> _ = next(step)
    >>> from contextlib import suppress
    >>> with suppress(StopIteration):
    ...     step.send(StepOutcome("ok", None, {"hits": 3}, now_ns=250_000_000))
    >>> timing.tools["search"].mean_s
    0.25
    """

    def __init__(self) -> None:
        self._steps: dict[tuple[str, str], Durations] = {}
        self._tools: dict[str, Durations] = {}
        self._flows: dict[str, Durations] = {}
        self._lock = threading.Lock()

    @property
    def steps(self) -> dict[tuple[str, str], Durations]:
        """By name of the flow and id of the step."""
        with self._lock:
            return dict(self._steps)

    @property
    def tools(self) -> dict[str, Durations]:
        """By name of the tool; steps that run flows count under the name of the flow."""
        with self._lock:
            return dict(self._tools)

    @property
    def flows(self) -> dict[str, Durations]:
        """By name of the flow, one per run, nested runs included."""
        with self._lock:
            return dict(self._flows)

    def around_step(self, context: StepAroundContext) -> Wrapper:
        """Measure a step."""
        outcome: StepOutcome = yield Proceed()
        seconds = (outcome.now_ns - context.now_ns) / 1e9
        ok = outcome.error is None and outcome.status != "cancelled"
        with self._lock:
            _count(self._steps, (context.flow_name, context.step_id), seconds, ok)
            if not context.nests:
                _count(self._tools, context.tool_name, seconds, ok)

    def around_run(self, context: RunAroundContext) -> Wrapper:
        """Measure a run."""
        result: ExecutionResult = yield Proceed()
        with self._lock:
            _count(self._flows, context.flow_name, result.total_duration_ms / 1e3, result.success)

    def clear(self) -> None:
        """Begin anew."""
        with self._lock:
            for counted in (self._steps, self._tools, self._flows):
                counted.clear()

    def summary(self) -> str:
        """A table of the tools, the one that took most time first."""
        slowest = sorted(self.tools.items(), key=lambda item: (-item[1].total_s, item[0]))
        rows: list[tuple[str, ...]] = [("tool", "count", "failed", "total", "mean", "max")]
        for name, one in slowest:
            times = (_written(seconds) for seconds in (one.total_s, one.mean_s, one.max_s))
            rows.append((name, str(one.count), str(one.failed), *times))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(_line(row, widths) for row in rows)


def _count(counted: dict[Any, Durations], name: Any, seconds: float, ok: bool) -> None:
    before = counted.get(name) or Durations(0, 0, 0.0, math.inf, 0.0)
    counted[name] = before.plus(seconds, ok)


def _written(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 1 else f"{seconds * 1e3:.3f} ms"


def _line(row: Iterable[str], widths: list[int]) -> str:
    name, *numbers = row
    cells = [name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True))]
    return "  ".join(cells).rstrip()


class RedactedView:
    """Shows a middleware what a policy lets through: contexts, records, results and outcomes are redacted for it.

    What was hidden earlier in a run, or in a run around it, vanishes from the texts of what comes later. The hooks and
    generators of the inner middleware are called, and may raise, as they would without the view; what it does not have
    costs nothing.

    Args:
        inner: The middleware that gets to see the redacted view.
        policy: What is hidden from it.

    >>> from datetime import datetime, timezone
    >>> from chainweaver.observe import EventMiddleware, RedactionPolicy
    >>> watch = RedactedView(EventMiddleware(lambda event: print(event.inputs)), RedactionPolicy())
    >>> new_year = datetime(2030, 1, 1, tzinfo=timezone.utc)
    >>> watch.on_flow_start(FlowStartContext("0" * 32, "login", "1.0.0", {"password": "hunter2"}, new_year, 1))
    {'password': '***'}
    """

    def __init__(self, inner: object, policy: RedactionPolicy) -> None:
        self.inner = inner
        self.policy = policy
        self.stands_for = type(inner)
        told = Listeners((inner,))
        self._heard = {hook: bound[0][2] for hook in HOOKS if (bound := getattr(told, hook))}
        self._at_hand: dict[str, frozenset[str]] = {}
        self._lock = threading.Lock()
        hooks: dict[str, Callable[..., Any]] = {
            "on_flow_start": self._flow_start,
            "on_step_start": self._step_start,
            "on_step_chunk": self._step_chunk,
            "on_step_end": self._step_end,
            "on_flow_end": self._flow_end,
        }
        wraps_steps, wraps_runs = (callable(getattr(inner, name, None)) for name in ("around_step", "around_run"))
        # Who sees steps has to be shielded from what was hidden before, so every moment of the run counts.
        sees_steps = wraps_steps or self._heard.keys() & {"on_step_start", "on_step_chunk", "on_step_end"}
        for hook, call in hooks.items():
            if hook in self._heard or (sees_steps and hook != "on_step_chunk"):
                setattr(self, hook, call)
        if wraps_steps:
            self.around_step = self._around_step
        if wraps_runs:
            self.around_run = self._around_run

    def __repr__(self) -> str:
        return f"RedactedView({type(self.inner).__name__})"

    # ---- hooks: learn what is hidden, then tell

    def _flow_start(self, context: FlowStartContext) -> None:
        known = self._secrets(getattr(context, "parent_trace_id", None))
        secrets = self._learn(context.trace_id, known | self.policy.secrets_in(context.initial_input))
        if tell := self._heard.get("on_flow_start"):
            tell(_but(context, initial_input=self.policy.redact_mapping(context.initial_input, secrets)))

    def _step_start(self, context: StepStartContext) -> None:
        secrets = self._learn(context.trace_id, self.policy.secrets_in(context.inputs))
        if tell := self._heard.get("on_step_start"):
            tell(_but(context, inputs=self.policy.redact_mapping(context.inputs, secrets)))

    def _step_chunk(self, context: StepChunkContext) -> None:
        secrets = self._secrets(context.trace_id)
        tell = self._heard["on_step_chunk"]
        tell(_but(context, chunk=self.policy.redact_value("", context.chunk, secrets)))

    def _step_end(self, context: StepEndContext) -> None:
        secrets = self._learn(context.trace_id, self.policy.secrets_in(context.step_record))
        if tell := self._heard.get("on_step_end"):
            record = self.policy.redact_record(context.step_record, secrets)
            inputs = self.policy.redact_mapping(context.inputs, secrets)
            tell(_but(context, inputs=inputs, step_record=record))

    def _flow_end(self, context: FlowEndContext) -> None:
        secrets = self._secrets(context.trace_id)
        with self._lock:
            self._at_hand.pop(context.trace_id, None)
            parent = context.result.parent_trace_id
            if parent in self._at_hand:
                self._at_hand[parent] |= secrets
        if tell := self._heard.get("on_flow_end"):
            tell(_but(context, result=self.policy.redact_result(context.result, secrets)))

    # ---- generators: relay commands, redact what comes back from within

    def _around_step(self, context: StepAroundContext) -> Wrapper:
        inner: Any = self.inner
        return _relayed(inner.around_step(context), lambda outcome: self._shown_outcome(context.trace_id, outcome))

    def _around_run(self, context: RunAroundContext) -> Wrapper:
        inner: Any = self.inner
        return _relayed(inner.around_run(context), self.policy.redact_result)

    def _shown_outcome(self, trace_id: str, outcome: StepOutcome) -> StepOutcome:
        policy, outputs = self.policy, outcome.outputs
        secrets = self._secrets(trace_id) | (policy.secrets_in(outputs) if outputs is not None else frozenset())
        return StepOutcome(
            outcome.status,
            None if outcome.error is None else policy.redact_error(outcome.error, secrets),
            None if outputs is None else policy.redact_mapping(outputs, secrets),
            outcome.now_ns,
        )

    # ---- what was hidden so far

    def _secrets(self, trace_id: str | None) -> frozenset[str]:
        return self._at_hand.get(trace_id or "", frozenset())

    def _learn(self, trace_id: str, secrets: frozenset[str]) -> frozenset[str]:
        with self._lock:
            known = self._at_hand[trace_id] = self._secrets(trace_id) | secrets
            return known


Carrier = TypeVar("Carrier", bound=Facts)


def _but(context: Carrier, **changes: Any) -> Carrier:
    """A context with other values under some names; never one that makes its facts from the run."""
    kind = getattr(context, "stands_for", type(context))
    kept = {name: getattr(context, name) for name in kind.__slots__ if name not in changes}
    made: Carrier = kind(**kept, **changes)
    return made


def _relayed(wrapper: Wrapper, view: Callable[[Any], Any]) -> Wrapper:
    """The wrapper, with the outcome that it receives shown by `view`."""
    reply: Any = None
    try:
        while True:
            try:
                command = wrapper.send(reply)
            except StopIteration:
                return
            reply = yield command
            if isinstance(command, Proceed):
                reply = view(reply)
    finally:
        wrapper.close()
