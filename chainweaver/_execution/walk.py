"""A run at limit 1: plan order with a cursor.

One generator per run. A plain step takes the short path, every other one goes through `life`. Measured against the loop
that a careful engineer writes by hand, this is what keeps a typed, recorded step at the cost of that loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from chainweaver._execution.around import around
from chainweaver._execution.commands import Lead, Nest, RunCancelled, Save, Tell
from chainweaver._execution.life import choose_branch, commit, hit, led_outputs, lookup_of, obtain, store_error
from chainweaver._execution.liveness import letting_go
from chainweaver._execution.short import FAILED, enter, fail, leave, rename
from chainweaver._execution.streams import closing
from chainweaver._execution.trace import summarize

if TYPE_CHECKING:
    from collections.abc import Iterable

    from chainweaver._execution.commands import RunWalk, StepLife, WalkedLife
    from chainweaver._execution.run import Run
    from chainweaver.plan import PlannedStep, Row


def walk(run: Run) -> RunWalk:  # noqa: C901 - the loop of every step: each part that moved out would cost it a call
    """Run all steps in plan order, one after the other, as the failure policy allows."""
    slots, ended = run.slots, run.ended
    failures, caching, saving, listening = run.failures, run.caching, run.saving, run.listening
    # A deadline, the past and the rules of the executor concern every step: with one of them none is plain.
    quick = run.is_unconcerned()
    rows: Iterable[Row] = run.plan.rows
    if run.capture is summarize:
        rows = run.plan.summary_rows
        if run.releases:
            # Only frames that end with their step hold nothing of it.
            quick, rows = False, letting_go(run, rows)
    over: PlannedStep | None = None  # has ended, which is told together with the start of the next one
    try:
        for step, plain, extra, read, validate_input, tool, validate_output, scalars, direct in rows:
            if failures and run.barred(step):
                continue
            if extra and step.may_be_passed and run.is_passed(step):
                continue
            if not (plain and quick):
                if run.resumed and run.finished(step.index):
                    continue
                if over is not None:
                    yield Tell("step_end", run, over)
                    over = None
                if run.rules.around_step or step.child is not None or step.each is not None or step.streams is not None:
                    merged = yield from life_of(run, step)
                else:
                    merged = yield from obtain(run, step)  # type: ignore[misc]  # a step that nests nothing
                if saving or listening or extra or step.rivals or step.guards_input:
                    yield from commit(run, step, merged)
                else:
                    slots[step.index + 1] = merged
                    ended[step.index] = run.clock.now_ns
                merged = None
                continue
            value = enter(run, step, read, validate_input, scalars)
            try:
                if listening:
                    before, over = over, step
                    yield Tell("step_start", run, step, before)
                if value is FAILED:
                    continue
                look_up = lookup_of(run, step, tool, value) if caching and tool.cacheable else None
                if look_up is None:
                    raw = yield tool, value
                    fields = leave(run, step, tool, validate_output, scalars, direct, raw)
                else:
                    reply = yield look_up
                    if isinstance(reply, Lead):
                        led: Any = led_outputs(run, step, tool, {}, value, reply)
                        fields = yield from led
                    else:
                        fields = hit(run, step, tool, reply)
                    if not scalars:
                        run.show_outputs(step, fields)
                    run.keep(step, fields)
                if fields is not None and (extra or saving):
                    if step.rename is not None:
                        fields = rename(run, step, step.rename, fields)
                    if step.branches is not None:
                        choose_branch(run, step, step.branches, fields)
                    if saving:
                        try:
                            yield Save(run, step, fields)
                        except Exception as exc:
                            raise store_error(step, exc) from exc
            except RunCancelled:
                if value is not FAILED:
                    run.cancel(step)
                raise
            except Exception as exc:
                fail(run, step, tool, exc)
    except RunCancelled as cancelled:
        run.cancelled = cancelled
    if over is not None:
        try:
            yield Tell("step_end", run, over)
        except RunCancelled as cancelled:
            run.cancelled = run.cancelled or cancelled


def life_of(run: Run, step: PlannedStep) -> WalkedLife:
    """The life of a step, with what is around it, and with the nested runs that it asks for walked in between."""
    life = closing(run, step, step.streams, obtain(run, step)) if step.streams is not None else obtain(run, step)
    if run.rules.around_step:
        life = around(run, step, life)
    if step.child is None and step.each is None:
        return cast("WalkedLife", life)
    return with_nested(life)


def with_nested(life: StepLife) -> WalkedLife:
    """The life of a step that nests: each nested run is walked where the life waits for it."""
    try:
        command = next(life)
        while True:
            try:
                if isinstance(command, Nest):
                    reply = None
                    yield from walk(command.run)
                else:
                    reply = yield command
            except BaseException as exc:
                command = life.throw(exc)
            else:
                command = life.send(reply)
    except StopIteration as end:
        merged: dict[str, Any] | None = end.value
        return merged
