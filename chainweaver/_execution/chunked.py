"""Chunked steps: one attempt is a pass over an input, with a call of the tool for each chunk.

The step stays one step: it is recorded, retried, timed, saved and skipped as one. Chunks are read by the lane, one
after the other, so that no more than one of them is in memory whatever the limit of the run.

Called by the life of a step, whose gates it uses for each call.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from chainweaver._execution import life
from chainweaver._execution.asking import allowed, approval, guardrail, shown_values
from chainweaver._execution.commands import Invoke, RunCancelled, TimedOut
from chainweaver.exceptions import InputMappingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from chainweaver._execution.life import Fields
    from chainweaver._execution.run import Run
    from chainweaver.plan import PlannedChunks, PlannedStep, PlannedTool

NOT_CACHED = "a step that takes its input in chunks is not cached"


def in_chunks(run: Run, step: PlannedStep, chunks: PlannedChunks, tool: PlannedTool, given: dict[str, Any]) -> Fields:
    """The outputs of a tool of a chunked step: all that lies between its inputs and them.

    Whether its tools may be called is settled before the first chunk is read: who approves is asked once per tool, for
    the whole input and all attempts.
    """
    shown = shown_values(step, given)
    yield from approval(run, step, tool, shown)
    if (merge := _merge(run, step, chunks)) is not None:
        yield from approval(run, step, merge, shown)
    if run.caching and tool.cacheable:
        run.detail(step.index).cache_note = NOT_CACHED
    return (yield from life.attempts(run, step, tool, given, given))


def run_chunks(
    run: Run, step: PlannedStep, chunks: PlannedChunks, tool: PlannedTool, given: dict[str, Any], number: int
) -> Fields:
    """Call the tool once per chunk; what the step gives.

    Raises:
        InputMappingError: The input that is to be cut is not there.
        TimedOut: The limit of the step is over, and not that of the run.
        RunCancelled: The run has ended meanwhile.
    """
    if chunks.key not in given:
        raise InputMappingError(step.name, step.number, chunks.key, known=tuple(given), step_name=step.label)
    call = partial(_called, run, step, run.clock.now_ns, number)
    pieces = yield from call(chunks.perform, partial(chunks.pieces, given[chunks.key]))
    fields: Any = None
    try:
        while (chunk := (yield from call(chunks.perform, partial(pieces.following, fields)))) is not chunks.end:
            fields = None
            value = life.check_input(step, tool, {**given, chunks.key: chunk})
            fields = yield from _guarded(run, step, tool, value, call)
            # Before the next one is read: two chunks at a time would be one too many.
            del chunk, value
        fields = yield from call(chunks.perform, pieces.combined)
    finally:
        pieces.close()
    if (merge := _merge(run, step, chunks)) is not None:
        fields = yield from _guarded(run, step, merge, life.valid_input(step, merge, fields), call)
    if step.check_outputs is not None:
        life.check_contract(step, tool, fields)
    return fields  # type: ignore[no-any-return]  # what `combined` and `_guarded` give


def _merge(run: Run, step: PlannedStep, chunks: PlannedChunks) -> PlannedTool | None:
    """The tool that combines the outputs, as the rules let it be called."""
    if chunks.merge is None or not run.rules.concern_every_step:
        return chunks.merge
    return allowed(run, step, chunks.merge)


def _guarded(run: Run, step: PlannedStep, tool: PlannedTool, value: Any, call: Callable[..., Any]) -> Fields:
    """One call between the two looks of a guardrail."""
    guards = run.rules.guards
    if guards:
        yield from guardrail(run, step, tool, "input", shown_values(step, value))
    fields = life.opened_output(step, tool, (yield from call(tool, value)), None if run.rules.seal else value)
    if guards:
        yield from guardrail(run, step, tool, "output", dict(fields))
    return fields


def _called(run: Run, step: PlannedStep, began_ns: int, number: int, tool: PlannedTool, value: Any) -> Any:
    """One call, under what is left of the limits."""
    own = tool.timeout_s
    if step.timeout_s is not None:
        left_s = step.timeout_s - (run.clock.now_ns - began_ns) / 1e9
        if left_s <= 0:
            raise TimedOut
        own = left_s if own is None else min(own, left_s)
    limit_s = run.limit_s(own)
    streams = run.streaming and tool.stream is not None
    command: Any = tool, value
    if limit_s is not None or tool.wants_context or streams:
        context = run.context_of(step, number) if tool.wants_context else None
        command = Invoke(tool, value, context, limit_s, (run, step) if streams else None)
    try:
        reply = yield command
    except TimedOut:
        if limit_s != own:  # a lane may see the end of the run a moment early
            raise RunCancelled("deadline") from None
        raise
    if run.deadline_ns is not None:
        run.check_deadline()
    return run.note_printed(step, reply) if run.printing else reply
