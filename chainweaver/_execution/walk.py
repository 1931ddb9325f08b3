"""A run at limit 1: plan order with a cursor.

One generator per run. A plain step takes the short path written out below, two or three calls and four stores; every
other step goes through `life`. Measured against the loop a careful engineer writes by hand this is what keeps a typed,
recorded step at the cost of that loop; `tests/execution/test_differential.py` keeps the short path equal to `life`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chainweaver._execution.commands import RunCancelled
from chainweaver._execution.life import call_error, live, mapping_error, schema_error

if TYPE_CHECKING:
    from chainweaver._execution.commands import RunWalk
    from chainweaver._execution.run import Run
    from chainweaver.plan import PlannedStep, PlannedTool

READING, CHECKING, CALLING, OPENING = range(4)


def walk(run: Run) -> RunWalk:
    """Run all steps in plan order, one after the other, as the failure policy allows."""
    slots, inputs, started, ended, failures = run.slots, run.inputs, run.started, run.ended, run.failures
    # Listeners, stores and deadlines concern every step: with one of them no step is plain.
    quick = not run.is_attended()
    index = -1
    try:
        for step, plain, read, validate_input, tool, validate_output, scalars, direct in run.plan.rows:
            index += 1
            if failures and run.barred(step):
                continue
            if not (plain and quick):
                if not run.finished(index):
                    yield from live(run, step)
                continue
            started[index] = run.now_ns
            phase = READING
            try:
                given = read(slots)
                if scalars:
                    inputs[index] = given
                else:
                    run.show_inputs(step, given)
                phase = CHECKING
                value = validate_input(given)
                phase = CALLING
                raw = yield tool, value
                phase = OPENING
                model = validate_output(raw)
                # A model that the tool made itself may be kept by the tool: its dict is not ours to share.
                fields = model.__dict__ if direct and model is not raw else tool.open_output(model)
            except RunCancelled:
                run.cancel(step)
                raise
            except Exception as exc:
                _fail(run, step, tool, phase, exc)
                continue
            if not scalars:
                run.show_outputs(step, fields)
            slots[index + 1] = fields
            ended[index] = run.now_ns
    except RunCancelled as cancelled:
        run.cancelled = cancelled


def _fail(run: Run, step: PlannedStep, tool: PlannedTool, phase: int, exc: Exception) -> None:
    """Record a failure of the short path in the words of `life`."""
    if phase == READING:
        run.show_inputs(step, {})
        run.fail(step, mapping_error(run, step, exc))
    elif phase == CALLING:
        run.fail(step, call_error(step, tool, exc)[0])
    else:
        error = schema_error(tool, step, exc, "input" if phase == CHECKING else "output")
        error.__cause__ = exc
        run.fail(step, error)
