"""The middleware that puts the results of runs into a trace store.

It is called at the end of a run, in the thread that the run ends in. What it raises is logged, as from any hook: a
store that fails never fails a run.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from chainweaver.results import ExecutionResult

if TYPE_CHECKING:
    from chainweaver.observe.contexts import FlowEndContext
    from chainweaver.observe.redaction import RedactionPolicy
    from chainweaver.observe.traces.store import TraceStore


class TraceRecorder:
    """Saves the result of every run, or of some, into a trace store.

    Args:
        store: Where results go.
        redaction_policy: What the store must not see. None: results are saved as the recorder gets them, which under
            `FlowExecutor(redaction_policy=...)` is redacted already.
        only: Which results are saved; None: all. `only=lambda result: not result.success` keeps the failed ones.
        sample: The share of them that is saved, from 0 to 1. The trace id decides, so that every recorder and every
            process picks the same runs.
        nested: Whether the runs of sub-flows and maps are saved once more by themselves. They are part of the outermost
            result anyway.

    Raises:
        TypeError: The store cannot save, `only` cannot be called, `sample` is no number, `nested` no flag.
        ValueError: `sample` is no number from 0 to 1.

    >>> from chainweaver import Flow, FlowExecutor, FlowStep, tool
    >>> from chainweaver.observe import InMemoryTraceStore, RedactionPolicy
    >>> @tool
    ... def login(password: str) -> bool:
    ...     return True
    >>> flow = Flow(name="enter", description="d", steps=[FlowStep(tool_name="login")])
    >>> store = InMemoryTraceStore()
    >>> recorder = TraceRecorder(store, redaction_policy=RedactionPolicy())
    >>> with FlowExecutor(tools=[login], flows=[flow], middleware=[recorder]) as executor:
    ...     trace_id = executor.execute_flow("enter", {"password": "hunter2"}).trace_id
    >>> store.load(trace_id).step("0").inputs
    {'password': '***'}
    """

    def __init__(
        self,
        store: TraceStore,
        *,
        redaction_policy: RedactionPolicy | None = None,
        only: Callable[[ExecutionResult], bool] | None = None,
        sample: float = 1.0,
        nested: bool = False,
    ) -> None:
        # A mistake in here would fail no run: it would be logged at the end of every one, and nothing kept.
        if isinstance(store, type) or not callable(getattr(store, "save", None)):
            raise TypeError(f"store has to be an object with save, such as FileTraceStore(path), not {store!r}.")
        if only is not None and not callable(only):
            raise TypeError(f"only has to be a function of a result, not {only!r}.")
        if not hasattr(sample, "__float__"):
            raise TypeError(f"sample has to be a number from 0 to 1, not {sample!r}.")
        if not 0 <= sample <= 1:
            raise ValueError(f"sample has to be a number from 0 to 1, not {sample!r}.")
        if not isinstance(nested, bool):
            raise TypeError(f"nested has to be True or False, not {nested!r}.")
        self.store = store
        self.redaction_policy = redaction_policy
        self.only = only
        self.sample = sample
        self.nested = nested

    def on_flow_end(self, context: FlowEndContext) -> None:
        """Save the result, if it is one of those that are wanted."""
        result = context.result
        if result.parent_trace_id is not None and not self.nested:
            return
        if self._is_sampled(result.trace_id) and (self.only is None or self.only(result)):
            self.store.save(self._shown(result))

    def _is_sampled(self, trace_id: str) -> bool:
        return self.sample >= 1 or zlib.crc32(trace_id.encode("utf-8", "replace")) < self.sample * 2**32

    def _shown(self, result: ExecutionResult) -> ExecutionResult:
        policy = self.redaction_policy
        if policy is None:
            return result
        # Objects that only their own repr can show get into texts when they are written, so these are looked at too.
        secrets = policy.secrets_in(result)
        as_written = ExecutionResult.model_validate_json(policy.redact_result(result, secrets).model_dump_json())
        return policy.redact_result(as_written, secrets)
