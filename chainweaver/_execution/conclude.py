"""The two ends of a run: its input taken in, and its slots folded into an output and a status.

Called once per run each, before the first command and when none is in flight any more. Pure but for the run itself:
collisions are left in the run for the executor to log or raise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chainweaver._execution.merge import Collision, merge_step_outputs
from chainweaver._execution.run import RELEASED
from chainweaver._execution.trace import NUMBERS, SCALARS, summarize
from chainweaver.exceptions import ChainWeaverError, SchemaValidationError, violations

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from chainweaver._execution.run import Run
    from chainweaver.plan import Gate, PlannedStep


def take_input(run: Run) -> None:
    """Make the given input the initial context: kept as the trace shows it, with the validated values laid over it."""
    given = run.slots[0]
    assert given is not None, "slot 0 is filled before a run begins"
    if run.plan.streams is not None:
        from chainweaver._execution.streams import open_input

        given = run.slots[0] = open_input(run, run.plan.streams, given)
    gate = run.plan.input_gate
    shown = given if gate is None or gate.hide is None else gate.hide(given)
    plain = NUMBERS if run.capture is summarize else SCALARS
    if shown is not given or not plain.issuperset(map(type, given.values())):
        run.given, references, _ = run.capture(shown)
        if references:
            run.given_references = references
    if gate is None:
        return
    try:
        values = gate.open(gate.validate(given))
    except Exception as exc:
        run.input_error = _refusal(run, -1, "flow input", exc)
        return
    # The result shows what was given, the context what it means.
    run.given = dict(run.given)
    run.slots[0] = {**given, **values}


def conclude(run: Run) -> None:
    """Give the run its status and, when all is well, its final output."""
    if run.failures:
        set_surplus_aside(run)
    context = _folded(run)
    plan = run.plan
    if run.failures or run.input_error is not None:
        run.status = "failed"
    elif run.cancelled is not None:
        run.status = "cancelled"
    elif plan.context_gate is None and plan.output_gate is None and plan.project is None:
        run.status = "ok"
        run.final_output = context
    else:
        _hold_against_schemas(run, context)


def failure_of(run: Run) -> ChainWeaverError | None:
    """The error of a run that did not end well: that of the failing step lowest in plan order."""
    if run.input_error is not None:
        return run.input_error
    if run.failures:
        return run.details[min(run.failures)].error
    return run.output_error


def merged_context(run: Run) -> dict[str, Any]:
    """The initial context and the outputs of all steps that count, folded in plan order; less what was let go."""
    return _reached(run, _folded(run))


def _reached(run: Run, context: dict[str, Any]) -> dict[str, Any]:
    """What a context still holds."""
    if run.capture is summarize and run.releases:
        return {key: value for key, value in context.items() if value is not RELEASED}
    return context


def _folded(run: Run) -> dict[str, Any]:
    initial, *outputs, _ = run.slots
    context = {} if initial is None else initial.copy()
    size = len(context)
    for values in outputs:
        if values is not None:
            context.update(values)
            size += len(values)
    if len(context) != size:
        # Some keys met. Folding again and looking is the rare case; counting costs a third of looking.
        context = {} if initial is None else initial.copy()
        run.collisions = _without_passed_through(run, merge_step_outputs(context, _outputs(run), policy="overwrite"))
        if run.parent is not None and run.collisions:
            run.root.collided_inside = True
    return context


def _without_passed_through(run: Run, collisions: list[Collision]) -> list[Collision]:
    """The collisions, less the keys that a sub-flow hands back as it got them (R27)."""
    steps = run.plan.steps
    if not any(steps[one.step_index].child is not None for one in collisions):
        return collisions
    left = []
    for one in collisions:
        step = steps[one.step_index]
        keys = (
            one.keys if step.child is None else tuple(key for key in one.keys if not is_passed_through(run, step, key))
        )
        if keys:
            left.append(one._replace(keys=keys))
    return left


def is_passed_through(run: Run, step: PlannedStep, key: str) -> bool:
    """Whether a sub-flow gave under a key the very value, or an equal scalar, that the context held before."""
    noted = run.handed_back.get(step.index)
    return is_as_before(run, step, key) if noted is None else key in noted


def is_as_before(run: Run, step: PlannedStep, key: str) -> bool:
    """The same, asked of the slots, in which the values have to be."""
    *earlier, values = run.slots[: step.index + 2]
    before = next((held[key] for held in reversed(earlier) if held is not None and key in held), RELEASED)
    value = None if values is None else values[key]
    return before is value or (type(before) is type(value) and type(value) in SCALARS and before == value)


def _outputs(run: Run) -> Iterator[tuple[int, str, dict[str, Any]]]:
    slots = run.slots
    for step in run.plan.steps:
        values = slots[step.index + 1]
        if values is not None:
            yield step.index, step.label, values


def set_surplus_aside(run: Run) -> None:
    """Keep what steps behind a failure gave for their records only: it does not count, whoever was faster (R19)."""
    bar = run.bar()
    if bar is None:
        return
    for step in run.plan.steps[bar + 1 :]:
        merged = run.slots[step.index + 1]
        if merged is not None:
            run.set_aside(step, merged)
        elif step.index in run.details:
            run.detail(step.index).surplus = True
    if run.collided is not None and run.collided > bar:
        run.collided = None


def has_gaps(run: Run, indexes: Iterable[int]) -> bool:
    """Whether some of these steps were passed over in a dry run, or some inside of them."""
    return next(_gaps(run, indexes), None) is not None


def gap_of(run: Run) -> ChainWeaverError | None:
    """Why the first step was passed over that a dry run left out, in the run or inside of its steps."""
    return next(_gaps(run, range(len(run.plan.steps))), None)


def _gaps(run: Run, indexes: Iterable[int]) -> Iterator[ChainWeaverError]:
    for detail in filter(None, map(run.details.get, indexes)):
        if detail.status == "skipped" and detail.error is not None:
            yield detail.error
        elif detail.nested is not None:
            yield from _gaps(detail.nested, range(len(detail.nested.plan.steps)))


def _hold_against_schemas(run: Run, context: dict[str, Any]) -> None:
    """Project the context of a run in which every step did its part, and hold both against the flow's schemas."""
    plan = run.plan
    if run.rules.dry == "skip" and has_gaps(run, range(len(plan.steps))):
        # A rehearsal ends with what there is; what was passed over could not be held against anything.
        run.status = "ok"
        run.final_output = {name: context[name] for name in plan.outputs or context if name in context}
        return
    reached = _reached(run, context)
    try:
        if plan.context_gate is not None:
            _pass(run, plan.context_gate, reached, "flow context")
        final = context if plan.project is None else plan.project(context)
        if reached is not context and any(value is RELEASED for value in final.values()):
            # Only a run that goes on after a change of the flow: a step lacks what it surely wrote when it was let go.
            final = plan.project(reached)  # type: ignore[misc]  # only a run that projects lets go
        if plan.output_gate is not None:
            _pass(run, plan.output_gate, final, "flow output")
    except ChainWeaverError as error:
        run.output_error = error
        run.refused = run.capture(reached)
        run.status = "failed"
    else:
        run.status = "ok"
        run.final_output = final


def _pass(run: Run, gate: Gate, values: dict[str, Any], border: str) -> None:
    try:
        gate.validate(values)
    except Exception as exc:
        error = _refusal(run, len(run.plan.steps), border, exc)
        raise error from error.__cause__


def _refusal(run: Run, index: int, border: str, exc: Exception) -> ChainWeaverError:
    """Why a border let nothing pass; one whose schema cannot be found says so itself."""
    if isinstance(exc, ChainWeaverError):
        return exc
    error = SchemaValidationError(run.plan.flow_name, index, violations(exc), context=border)
    error.__cause__ = exc
    return error
