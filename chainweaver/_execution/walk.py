"""A run at limit 1: plan order with a cursor.

One generator per run. A plain step takes the short path, every other one goes through `life`. Measured against the loop
that a careful engineer writes by hand, this is what keeps a typed, recorded step at the cost of that loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chainweaver._execution.around import around
from chainweaver._execution.commands import Lead, Nest, RunCancelled, Save
from chainweaver._execution.life import commit, hit, led_outputs, lookup_of, obtain, store_error
from chainweaver._execution.short import FAILED, enter, fail, leave

if TYPE_CHECKING:
    from chainweaver._execution.commands import RunWalk, StepLife
    from chainweaver._execution.run import Run


def walk(run: Run) -> RunWalk:
    """Run all steps in plan order, one after the other, as the failure policy allows."""
    slots, ended = run.slots, run.ended
    failures, caching, saving, resumed = run.failures, run.caching, run.saving, run.resumed
    attended = saving or run.listening
    # Listeners and deadlines concern every step: with one of them none is plain.
    quick = run.is_unattended()
    wrapped = bool(run.rules.around_step)
    try:
        for step, plain, read, validate_input, tool, validate_output, scalars, direct in run.plan.rows:
            if failures and run.barred(step):
                continue
            if not (plain and quick):
                if not (resumed and run.finished(step.index)) and not run.is_passed(step):
                    life = around(run, step, obtain(run, step)) if wrapped else obtain(run, step)
                    if step.child is not None or step.each is not None:
                        life = with_nested(run, life)
                    merged = yield from life  # type: ignore[misc]  # a life that nests is carried by with_nested
                    if attended or step.branches is not None or step.rivals or step.guards_input:
                        yield from commit(run, step, merged)
                    else:
                        slots[step.index + 1] = merged
                        ended[step.index] = run.now_ns
                continue
            value = enter(run, step, read, validate_input, scalars)
            if value is FAILED:
                continue
            try:
                look_up = lookup_of(run, step, tool, value) if caching and tool.cacheable else None
                if look_up is None:
                    raw = yield tool, value
                    fields = leave(run, step, tool, validate_output, scalars, direct, raw)
                else:
                    reply = yield look_up
                    if isinstance(reply, Lead):
                        fields = yield from led_outputs(run, step, tool, {}, value, reply)
                    else:
                        fields = hit(run, step, tool, reply)
                    if not scalars:
                        run.show_outputs(step, fields)
                    run.keep(step, fields)
                if saving and fields is not None:
                    try:
                        yield Save(run, step, fields)
                    except Exception as exc:
                        raise store_error(step, exc) from exc
            except RunCancelled:
                run.cancel(step)
                raise
            except Exception as exc:
                fail(run, step, tool, exc)
    except RunCancelled as cancelled:
        run.cancelled = cancelled


def with_nested(run: Run, life: StepLife) -> StepLife:
    """The life of a step, with the nested runs that it asks for walked in between."""
    try:
        command = next(life)
        while True:
            try:
                reply = (yield from inner(run, command.run)) if type(command) is Nest else (yield command)
            except BaseException as exc:
                command = life.throw(exc)
            else:
                command = life.send(reply)
    except StopIteration as end:
        merged: dict[str, Any] | None = end.value
        return merged


def inner(run: Run, nested: Run) -> RunWalk:
    """Walk a nested run, which has the time of the run around it."""
    nested.now_ns = run.now_ns
    life = walk(nested)
    try:
        command = next(life)
        while True:
            try:
                reply = yield command
            except BaseException as exc:
                nested.now_ns = run.now_ns
                command = life.throw(exc)
            else:
                nested.now_ns = run.now_ns
                command = life.send(reply)
    except StopIteration:
        return
