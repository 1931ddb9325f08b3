"""The short path: a plain step, which has nothing but inputs, a tool and outputs.

`enter` and `leave` stand on the two sides of its call. Together they do what `life` does for such a step, without a
generator; both are differentially tested against it. Used by `walk`, which also asks the cache and saves on the way
(with the functions of `life`), and by `schedule`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chainweaver._execution.life import call_error, check_output, choose_branch, mapping_error, renamed, schema_error
from chainweaver.exceptions import ChainWeaverError

if TYPE_CHECKING:
    from chainweaver._execution.run import Run
    from chainweaver.plan import PlannedStep, PlannedTool, Reader, Validate

FAILED = object()
"""Stands for the input of a step that failed before its tool was called."""


def enter(run: Run, step: PlannedStep, read: Reader, validate_input: Validate, scalars: bool) -> Any:
    """The validated input of a plain step, or FAILED."""
    index = step.index
    run.started[index] = run.clock.now_ns
    try:
        given = read(run.slots)
    except Exception as exc:
        run.show_inputs(step, {})
        run.fail(step, mapping_error(run, step, exc))
        return FAILED
    if scalars:
        run.inputs[index] = given
    else:
        run.show_inputs(step, given)
    try:
        return validate_input(given)
    except Exception as exc:
        _refuse(run, step, exc, "input")
        return FAILED


def leave(
    run: Run, step: PlannedStep, tool: PlannedTool, validate_output: Validate, scalars: bool, direct: bool, raw: Any
) -> dict[str, Any] | None:
    """Keep what the tool of a plain step returned; its output fields, or None when they were refused."""
    index = step.index
    try:
        model = validate_output(raw)
        # A model that the tool made itself may be kept by the tool: its dict is not ours to share.
        fields = model.__dict__ if direct and model is not raw else tool.open_output(model)
    except Exception as exc:
        foreign = tool.foreign_fields(raw)
        if foreign is None:
            _refuse(run, step, exc, "output")
            return None
        try:
            fields = check_output(step, tool, foreign)
        except ChainWeaverError as error:
            run.fail(step, error)
            return None
    if not scalars:
        run.show_outputs(step, fields)
    run.slots[index + 1] = fields
    run.ended[index] = run.clock.now_ns
    return fields


def rename(run: Run, step: PlannedStep, renames: tuple[tuple[str, str], ...], fields: dict[str, Any]) -> dict[str, Any]:
    """Keep the outputs of a plain step under their context keys; the record keeps them under the tool's own names.

    Raises:
        OutputMappingError: One of them is not there.
    """
    if not run.is_shown(step.index):
        run.show(step, fields)
    merged = run.slots[step.index + 1] = renamed(step, renames, fields)
    return merged


def rename_and_branch(run: Run, step: PlannedStep, fields: dict[str, Any]) -> None:
    """What a plain step does with its outputs beside keeping them; what goes wrong with that, fails it."""
    try:
        if step.rename is not None:
            fields = rename(run, step, step.rename, fields)
        if step.branches is not None:
            choose_branch(run, step, step.branches, fields)
    except ChainWeaverError as error:
        run.fail(step, error)


def fail(run: Run, step: PlannedStep, tool: PlannedTool, exc: Exception) -> None:
    """Record that the tool of a plain step raised, or that its outputs could not be saved."""
    run.fail(step, call_error(step, tool, exc)[0])


def _refuse(run: Run, step: PlannedStep, exc: Exception, border: str) -> None:
    assert step.tool is not None, "a plain step has a tool"
    error = schema_error(step.tool, step, exc, border)
    error.__cause__ = exc
    run.fail(step, error)
