"""What a person sees while a flow runs: one line for every step that is over, and on a terminal what runs right now.

Middleware: the executor calls it, from any thread. It decides nothing and keeps nothing but a count.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from chainweaver.cli._screen import STYLES, Screen, shown_time
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
        self.result = context.result


class StepLines(KeptResult):
    """A line for every step that is over."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen
        self._lock = threading.Lock()
        self._over = 0
        self._total = 0

    def on_flow_start(self, context: FlowStartContext) -> None:
        self._total = context.total_steps

    def on_step_end(self, context: StepEndContext) -> None:
        record = context.step_record
        note = note_of(record)
        with self._lock:
            self._over += 1
            number = f"{self._over:>{len(str(self._total))}}/{self._total}"
            status = (record.status, STYLES.get(record.status, ""))
            time = f"  {shown_time(record.duration_ms)}"
            self._screen.line(
                (number, "dim"), f"  {label_of(record)}  ", status, time, (f"  {note}" if note else "", "dim")
            )


class LiveSteps(StepLines):
    """The same, and below them a line for every step that runs, redrawn as time passes."""

    def __init__(self, screen: Screen, progress: Progress) -> None:
        super().__init__(screen)
        self._progress = progress
        self._running: dict[int, TaskID] = {}

    def on_step_start(self, context: StepStartContext) -> None:
        name = context.tool_name if context.step_id is None else f"{context.step_id} ({context.tool_name})"
        with self._lock:
            self._running[context.step_index] = self._progress.add_task(name, total=None)

    def on_step_end(self, context: StepEndContext) -> None:
        with self._lock:
            task = self._running.pop(context.step_index, None)
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
    """How a step is called in lines for people: its id and its tool, or the tool alone in a linear flow."""
    if record.step_id is None or record.step_id == str(record.step_index):
        return record.tool_name
    return f"{record.step_id} ({record.tool_name})"


def note_of(record: StepRecord) -> str:
    """What was unusual about a step, in a few words; empty for most."""
    notes = []
    if record.cached:
        notes.append("from the cache")
    if record.retry_count:
        notes.append(f"retried {record.retry_count} x")
    if record.fallback_used:
        notes.append(f"fallback {record.fallback_tool_name}")
    if record.skipped and record.error_message:
        notes.append(record.error_message.split("\n")[0])
    return ", ".join(notes)
