"""What a person sees while a flow runs: one line for every step that is over, and on a terminal what runs right now.

Middleware: the executor calls it, from any thread. It decides nothing and keeps nothing but a count. Steps of sub-flows
are indented; of maps the items are counted, and nothing else of what happens inside of one is shown.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from chainweaver.cli._screen import STYLES, Screen, counted, shown_time
from chainweaver.observe import BaseMiddleware, FlowEndContext, FlowStartContext, StepEndContext, StepStartContext
from chainweaver.results import ExecutionResult, StepRecord


class KeptResult(BaseMiddleware):
    """Keeps the result of a run, also of one that was interrupted and hands nothing back.

    Attributes:
        result: The result; None until the run is over.
    """

    def __init__(self) -> None:
        self.result: ExecutionResult | None = None

    def on_flow_end(self, context: FlowEndContext) -> None:
        if context.parent_trace_id is None:
            self.result = context.result


class StepLines(KeptResult):
    """A line for every step that is over."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen
        self._lock = threading.Lock()
        self._over = 0
        self._total = 0
        self._depths: dict[str, int] = {}

    def on_flow_start(self, context: FlowStartContext) -> None:
        if context.parent_trace_id is None:
            self._total = context.total_steps
            self._depths[context.trace_id] = 0
        elif context.parent_trace_id in self._depths:  # not inside a map, of which nothing was told
            depth = self._depths[context.trace_id] = self._depths[context.parent_trace_id] + 1
            with self._lock:
                self._screen.line(
                    (f"{self._margin()}  {'  ' * depth}{context.flow_name} {context.flow_version}:", "dim")
                )

    def on_step_end(self, context: StepEndContext) -> None:
        depth = self._depths.get(context.trace_id)
        if depth is None:
            return
        record = context.step_record
        note = note_of(record)
        with self._lock:
            number = self._margin()
            if depth == 0:
                self._over += 1
                number = f"{self._over:>{len(str(self._total))}}/{self._total}"
            status = (record.status, STYLES.get(record.status, ""))
            time = f"  {shown_time(record.duration_ms)}"
            label = f"{'  ' * depth}{label_of(record)}"
            self._screen.line((number, "dim"), f"  {label}  ", status, time, (f"  {note}" if note else "", "dim"))

    def _margin(self) -> str:
        """As wide as the number in front of a step."""
        return " " * (2 * len(str(self._total)) + 1)


class LiveSteps(StepLines):
    """The same, and below them a line for every step that runs, redrawn as time passes."""

    def __init__(self, screen: Screen, progress: Progress) -> None:
        super().__init__(screen)
        self._progress = progress
        self._running: dict[tuple[str, int], TaskID] = {}

    def on_step_start(self, context: StepStartContext) -> None:
        depth = self._depths.get(context.trace_id)
        if depth is None:
            return
        name = named(context.step_id, context.step_index, context.tool_name)
        with self._lock:
            task = self._progress.add_task(f"{'  ' * depth}{name}", total=None)
            self._running[context.trace_id, context.step_index] = task

    def on_step_end(self, context: StepEndContext) -> None:
        with self._lock:
            task = self._running.pop((context.trace_id, context.step_index), None)
            if task is not None:
                self._progress.remove_task(task)
        super().on_step_end(context)


@contextmanager
def step_lines(screen: Screen | None) -> Iterator[KeptResult]:
    """The middleware that suits a screen; what it draws again and again is gone at the end of the block."""
    if screen is None:
        yield KeptResult()
        return
    if not screen.live:
        yield StepLines(screen)
        return
    spinner = SpinnerColumn("line" if screen.out.options.ascii_only else "dots")
    columns = (spinner, TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=screen.out, transient=True, refresh_per_second=8) as progress:
        yield LiveSteps(screen, progress)


def label_of(record: StepRecord) -> str:
    """How a step is called in lines for people."""
    return named(record.step_id, record.step_index, record.tool_name)


def named(step_id: str | None, index: int, tool_name: str) -> str:
    """The id and the tool of a step; the tool alone in a linear flow.

    >>> named("net", 0, "add"), named("1", 1, "add")
    ('net (add)', 'add')
    """
    return tool_name if step_id is None or step_id == str(index) else f"{step_id} ({tool_name})"


def is_map(record: StepRecord) -> bool:
    """Whether what happened inside a step are items, and no sub-flow."""
    return record.sub_result is not None and record.flow_name is None


def first_failed(result: ExecutionResult) -> StepRecord | None:
    """The failing step lowest in plan order, which is the one that a run tells of."""
    return next((record for record in result.execution_log if record.status == "failed"), None)


def note_of(record: StepRecord) -> str:
    """What was unusual about a step, in a few words; empty for most."""
    notes = []
    if record.cached:
        notes.append("from the cache")
    if record.retry_count:
        notes.append(f"retried {record.retry_count} x")
    if record.fallback_used:
        notes.append(f"fallback {record.fallback_tool_name}")
    if record.sub_result is not None and is_map(record):
        notes.append(_items(record.sub_result))
    notes += _decided(record)
    if record.skipped:
        notes.append((record.error_message or "no branch led to it").split("\n")[0])
    return ", ".join(notes)


def _items(items: ExecutionResult) -> str:
    failed = sum(not record.success for record in items.execution_log)
    count = counted(len(items.execution_log), "item")
    return f"{count}, {failed} failed" if failed else count


def _decided(record: StepRecord) -> Iterator[str]:
    """What was decided at a step, and who agreed to it."""
    decision: Mapping[str, Any] = record.decision if isinstance(record.decision, Mapping) else {}
    approval: Mapping[str, Any] = record.approval if isinstance(record.approval, Mapping) else {}
    if "chosen" in decision:
        yield f"chose {decision['chosen']}"
    if "taken" in decision:
        yield f"to {decision['taken'] or 'all that follow'}"
    if approval.get("approved"):
        yield f"approved by {approval['approver']}" if approval.get("approver") else "approved"
