"""Streams in a run: known from the moment when a step has them in its hands, and closed when their reader is done.

What was read by a step is closed when the step has ended, unless the step gives streams of its own, which may be made
of it: then it is closed after them. All others are closed when the run has ended, by who carries it, but for those that
are part of its output. What a stream is and how one is closed is bound in the plan.

Called by `life` and `conclude`, and by `walk` and `schedule` for steps with streams; no other step comes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chainweaver._execution.commands import RunCancelled, Tell
from chainweaver.exceptions import CheckpointEncodeError

if TYPE_CHECKING:
    from chainweaver._execution.commands import StepLife
    from chainweaver._execution.run import Run
    from chainweaver.plan import PlannedStep, PlannedStreams

NOT_CACHED = "a step that takes or gives a stream is not cached"


def open_input(run: Run, streams: PlannedStreams, given: dict[str, Any]) -> dict[str, Any]:
    """What was given to a flow, with its streams known to the run, which closes them from now on."""
    values, found = streams.opened(given, streams.takes)
    run.root.streams.update((id(one), one) for one in found)
    return values  # type: ignore[no-any-return]  # what `opened` makes of a dict


def take(run: Run, step: PlannedStep, streams: PlannedStreams, given: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a step, with the streams among them noted."""
    values, found = streams.opened(given, streams.takes)
    _note(run, step, found, [])
    return values  # type: ignore[no-any-return]  # what `opened` makes of a dict


def catch(run: Run, step: PlannedStep, streams: PlannedStreams, raw: Any) -> Any:
    """What a tool returned, with the streams in it noted, whatever becomes of it next."""
    raw, found = streams.opened(raw, streams.gives)
    _note(run, step, [], found)
    return raw


def _note(run: Run, step: PlannedStep, taken: list[Any], made: list[Any]) -> None:
    run.root.streams.update((id(one), one) for one in (*taken, *made))
    held = run.held.setdefault(step.index, ([], []))
    held[0].extend(taken)
    held[1].extend(made)


def refused(run: Run, step: PlannedStep, streams: PlannedStreams) -> CheckpointEncodeError | None:
    """Why a run that saves cannot have a step give a stream; said before its tool does anything."""
    names = streams.gives if step.rename is None else [output for _, output in step.rename]
    found = next((name for name in names if name in streams.gives), None) if run.saving else None
    if found is None:
        return None
    detail = "it is a stream, whose items are gone once they are read"
    fix = "write the items to a file and return its path, return a list, or run the flow without a checkpointer"
    return CheckpointEncodeError(step.name, step.number, found, detail, step_name=step.label, fix=fix)


def closing(run: Run, step: PlannedStep, streams: PlannedStreams, life: StepLife) -> StepLife:
    """The life of a step with streams, and the end of those that nobody can read after it."""
    merged = yield from life
    taken, made = run.held.pop(step.index, ([], []))
    kept = {id(value) for value in (merged or {}).values()}.intersection(run.root.streams)
    read = [one for one in taken if id(one) not in kept]
    over = [one for one in made if id(one) not in kept]
    if kept:
        streams.tie(read, [run.root.streams[one] for one in kept])
    else:
        over += read
    if not over:
        return merged
    try:
        yield streams.closing(over), over
    except RunCancelled:
        if merged is not None:
            run.cancel(step)
        if run.listening:
            yield Tell("step_end", run, step)
        raise
    for one in over:
        run.root.streams.pop(id(one), None)
    return merged
