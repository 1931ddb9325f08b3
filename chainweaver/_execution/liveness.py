"""Liveness: values leave a run as soon as nobody needs them any more (R37).

Only where a flow names its outputs and records hold summaries; every other run keeps what it has. What is needed until
when was decided when the flow was compiled; here the steps that have ended are counted, in whatever order they end.
Called by `walk` and `schedule` after each step, and by `nested` and `life` for what else would hold a value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chainweaver._execution.conclude import is_as_before
from chainweaver._execution.run import RELEASED
from chainweaver._execution.trace import summarize

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from chainweaver._execution.run import Detail, Run
    from chainweaver.exceptions import ChainWeaverError
    from chainweaver.plan import LiveRange, Row


class Fading:
    """Lets go of the values of a run."""

    __slots__ = ("_left", "_liveness", "_run")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._liveness = liveness = run.plan.liveness()
        self._left = [len(one.readers or ()) for one in liveness.ranges]
        for one in liveness.ranges:
            if one.readers == ():
                _let_go(run, one)

    def after(self, index: int) -> None:
        """A step has ended, or will never begin."""
        run, liveness = self._run, self._liveness
        for other in liveness.compared.get(index, ()):
            _compare(run, other)
        for at in liveness.awaiting[index]:
            self._left[at] -= 1
            if not self._left[at]:
                _let_go(run, liveness.ranges[at])
        detail = run.details.get(index)
        if detail is not None and detail.status == "skipped":
            keep_texts(detail)


def fading_of(run: Run) -> Fading | None:
    """What lets go of the values of a run; None where they are kept."""
    if not run.releases:
        return None
    return None if run.resumed and _runs_again(run) else Fading(run)


def _runs_again(run: Run) -> bool:
    """Whether a step will run for which others have waited that have their outcome: then they do not end after it.

    Only after a change of the flow.
    """
    over: list[bool] = []
    for step in run.plan.steps:
        over.append(run.finished(step.index) or run.is_passed(step))
        if over[-1] and not all(over[need] for need in step.needs):
            return True
    return False


def letting_go(run: Run, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows of a walk; when the next one is asked for, the step of the one before has ended."""
    fading = fading_of(run)
    for row in rows:
        yield row
        if fading is not None:
            fading.after(row.step.index)


def _let_go(run: Run, one: LiveRange) -> None:
    values = run.slots[one.slot]
    if not values or (one.slot and not run.is_shown(one.slot - 1)):
        return  # a record that shows the slot itself shows numbers
    keys = [key for key in values if key not in one.others] if one.keys is None else values.keys() & one.keys
    if keys:
        # A new dict: the old one may be that of a model which somebody else holds.
        run.slots[one.slot] = {**values, **dict.fromkeys(keys, RELEASED)}


def _compare(run: Run, index: int) -> None:
    """Note which keys a sub-flow has handed back as they were, while the values are there; the last note counts."""
    values = run.slots[index + 1]
    if values is not None:
        step = run.plan.steps[index]
        found = frozenset(key for key in values if is_as_before(run, step, key))
        run.handed_back = {**run.handed_back, index: found}


# ---- what else holds values


def lets_go(run: Run) -> bool:
    """Whether this run, or one around it, lets go of values."""
    if run.capture is not summarize:
        return False
    around: Run | None = run
    while around is not None:
        if around.releases:
            return True
        around = around.parent
    return False


def sum_up(nested: Run) -> None:
    """Leave of a nested run that has ended what its records show of it."""
    for at, values in enumerate(nested.slots):
        if values:
            live = {key: value for key, value in values.items() if value is not RELEASED}
            nested.slots[at] = {**values, **summarize(live)[0]}
    if nested.final_output is not None:
        nested.final_output = summarize(nested.final_output)[0]
    for detail in nested.details.values():
        if detail.status == "skipped":
            keep_texts(detail)


def keep_texts(detail: Detail) -> None:
    """Leave of what a step was skipped for what its record tells: exceptions hold frames, and these hold values."""
    if detail.error is not None:
        as_text(detail.error)
    if detail.nested is not None:
        for inner in detail.nested.details.values():
            keep_texts(inner)


def as_text(error: ChainWeaverError) -> None:
    """Leave of an error what its record tells, in place."""
    cause = error.__cause__
    told = {
        "error_type": type(error).__name__,
        "error_code": error.code,
        "error_message": str(error),
        "error_cause": None if cause is None else type(cause).__name__,
    }
    vars(error).setdefault("stored", told)
    forget_frames(error)
    error.__cause__ = error.__context__ = None


def forget_frames(error: BaseException) -> None:
    """Take the tracebacks from an exception that nobody will see, and from those behind it.

    They hold the frames of tools and of lanes, often in a circle, and so the inputs of a call that has failed.
    """
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            inside = getattr(one, "exceptions", ())
            todo += (one.__cause__, one.__context__, *(inside if isinstance(inside, tuple) else ()))
