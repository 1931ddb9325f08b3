"""Differences between two results of one flow, step by step and field by field.

Compared are, in this order: tool and position, inputs, approval, decision, what happened inside the step (sub-flow,
items), status, error (type, code, cause, message), who stood in, outputs; where no step differs, also what came of the
whole run. Times, ids, lanes, attempts and caches may differ, and so may steps that do not count: those that were
cancelled, or that finished behind a failure. A run that was cancelled is compared as far as it came.

Values that a record shows by reference are compared as they are now. Called by `replay` and by the command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, field_serializer

from chainweaver.executor.likeness import At, Likeness, brief, normalised, part_of, place_of
from chainweaver.formats.json_form import json_form
from chainweaver.results import ExecutionResult, StepRecord


class StepDiff(BaseModel):
    """A field of a step record in which two results differ.

    Attributes:
        step_index: Position of the step in plan order; -1 for the flow's input, the number of steps for its output.
        tool_name: Tool of the step, or the flow's name at the flow's own borders.
        field: The field of the record, such as "outputs"; at the borders the field of the result.
        expected, actual: The whole field on the two sides; None where there is no such record.
        step_id: Id of the step; None at the borders.
        path: Ids of the steps around it, outermost first, for a step of a sub-flow or an item of a map.
        at: Where in the field the first difference is: keys and positions.
        by_reference: The record shows that value as a live object; it was compared as it is now.

    >>> diff = StepDiff(step_index=1, tool_name="add", field="outputs", expected={"sum": 3}, actual={"sum": 4},
    ...                 step_id="total", at=("sum",))
    >>> print(diff)
    step 'total' (add), outputs.sum: expected 3, found 4
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True, ser_json_inf_nan="constants")

    step_index: int
    tool_name: str
    field: str
    expected: Any = None
    actual: Any = None
    step_id: str | None = None
    path: tuple[str, ...] = ()
    at: tuple[str | int, ...] = ()
    by_reference: bool = False

    @field_serializer("expected", "actual", when_used="json")
    def _write_values(self, value: Any) -> Any:
        return json_form(value)

    @property
    def step(self) -> str:
        """The step in words, with those around it."""
        if self.step_id is None:
            inside = f" in step '{'/'.join(self.path)}'" if self.path else ""
            return f"{'input' if self.step_index < 0 else 'output'} of flow '{self.tool_name}'{inside}"
        named = "/".join((*self.path, self.step_id))
        return f"step '{named}'" if self.tool_name == self.step_id else f"step '{named}' ({self.tool_name})"

    @property
    def place(self) -> str:
        """Where in the record the first difference is: "outputs.rows[3].size"."""
        return place_of(self.field, self.at)

    @property
    def parts(self) -> tuple[Any, Any]:
        """The two values at that place."""
        return part_of(self.expected, self.at), part_of(self.actual, self.at)

    def __str__(self) -> str:
        expected, actual = map(brief, self.parts)
        note = " (shown by reference, compared as it is now)" if self.by_reference else ""
        return f"{self.step}, {self.place}: expected {expected}, found {actual}{note}"


@dataclass(frozen=True)
class Comparison:
    """What two results do not have in common.

    Attributes:
        diffs: In plan order; what happened inside a step comes before what the step made of it.
        not_compared: Places of values that nothing tells apart.
    """

    diffs: list[StepDiff]
    not_compared: list[str]


def compared(expected: ExecutionResult, actual: ExecutionResult, *, from_step: int = 0) -> Comparison:
    """Everything in which two results differ.

    Args:
        from_step: Steps before this plan index are left out.
    """
    comparing = _Comparing(Likeness(told=is_told(expected) or is_told(actual)))
    diffs = list(comparing.borders(-1, ("flow_name", "flow_version", "dry_run", "initial_input"), expected, actual))
    diffs += comparing.steps(expected, actual, (), from_step)
    if not diffs:
        size = max((record.step_index + 1 for record in expected.execution_log), default=0)
        # Runs that ended otherwise have no outputs to compare: only one that is ok has any.
        fields = ("status",) if expected.status != actual.status else ("final_output",)
        diffs += comparing.borders(size, fields, expected, actual)
    return Comparison(diffs, list(dict.fromkeys(comparing.likeness.not_compared)))


def is_told(result: ExecutionResult) -> bool:
    """Whether a result was read from somewhere: its values are what JSON could carry, and no run is behind it."""
    return getattr(result, "_run", None) is None


class _Comparing:
    """One comparison, with what it knows of the values that it looked at."""

    def __init__(self, likeness: Likeness) -> None:
        self.likeness = likeness

    def borders(
        self, index: int, fields: tuple[str, ...], expected: ExecutionResult, actual: ExecutionResult
    ) -> Iterator[StepDiff]:
        """The differences in fields of the results themselves."""
        for name in fields:
            one, other = getattr(expected, name), getattr(actual, name)
            at = self.likeness.difference(one, other, name)
            if at is not None:
                yield StepDiff(
                    step_index=index, tool_name=expected.flow_name, field=name, expected=one, actual=other, at=at
                )

    def steps(
        self, expected: ExecutionResult, actual: ExecutionResult, path: tuple[str, ...], from_step: int = 0
    ) -> Iterator[StepDiff]:
        """The differences of the steps of two runs, in plan order."""
        before, after = _counted(expected, from_step), _counted(actual, from_step)
        for key, there in sorted({**after, **before}.items(), key=lambda one: one[1].step_index):
            one, other = before.get(key), after.get(key)
            if one is not None and other is not None:
                yield from self._records(one, other, path)
            elif not _is_left_out(actual if other is None else expected, there):
                # Only one of the two runs came to it.
                statuses = tuple(None if found is None else found.status for found in (one, other))
                yield _diff("status", there, path, statuses)

    def _records(self, expected: StepRecord, actual: StepRecord, path: tuple[str, ...]) -> Iterator[StepDiff]:
        for name in ("tool_name", "step_index", "inputs"):
            yield from self._field(name, expected, actual, path)
        if _answer(expected) != _answer(actual):
            yield _diff("approval", expected, path, (expected.approval, actual.approval))
        yield from self._field("decision", expected, actual, path)
        yield from self._nested(expected, actual, path)
        yield from self._field("status", expected, actual, path)
        yield from _errors(expected, actual, path)
        for name in ("fallback_tool_name", "outputs"):
            yield from self._field(name, expected, actual, path)

    def _field(self, name: str, expected: StepRecord, actual: StepRecord, path: tuple[str, ...]) -> Iterator[StepDiff]:
        values = getattr(expected, name), getattr(actual, name)
        step = "/".join((*path, expected.step_id or str(expected.step_index)))
        at = self.likeness.difference(*values, f"step '{step}', {name}")
        if at is not None:
            by_reference = bool(at) and (at[0] in expected.by_reference or at[0] in actual.by_reference)
            yield _diff(name, expected, path, values, at, by_reference)

    def _nested(self, expected: StepRecord, actual: StepRecord, path: tuple[str, ...]) -> Iterator[StepDiff]:
        """What differs in the run of a sub-flow or of items: it comes to pass before the step ends."""
        one, other = expected.sub_result, actual.sub_result
        names = tuple(None if run is None else f"{run.flow_name} {run.flow_version}" for run in (one, other))
        if names[0] != names[1]:
            yield _diff("sub_result", expected, path, names)
        if one is not None and other is not None:
            yield from self.steps(one, other, (*path, expected.step_id or ""))


def _counted(result: ExecutionResult, from_step: int) -> dict[Any, StepRecord]:
    """The records that count for the outcome, by step; those of the borders by which border it is."""
    return {
        record.step_id if record.step_id is not None else record.step_index < 0: record
        for record in result.execution_log
        if not record.surplus and record.status != "cancelled" and not 0 <= record.step_index < from_step
    }


def _is_left_out(result: ExecutionResult, there: StepRecord) -> bool:
    """Whether it says nothing that a step does not count in a run: it had begun it in vain, or was cancelled before."""
    return result.status == "cancelled" or any(one.step_id == there.step_id for one in result.execution_log)


def _answer(record: StepRecord) -> Any:
    """What was said when somebody was asked to approve; who said it, and why, is no difference."""
    return record.approval.get("approved") if isinstance(record.approval, Mapping) else None


def _errors(expected: StepRecord, actual: StepRecord, path: tuple[str, ...]) -> Iterator[StepDiff]:
    """The error: what kind it is, once, and what it says."""
    for name in ("error_type", "error_code", "error_cause"):
        kinds = getattr(expected, name), getattr(actual, name)
        if kinds[0] != kinds[1]:
            yield _diff(name, expected, path, kinds)
            break
    said = expected.error_message, actual.error_message
    if normalised(said[0] or "") != normalised(said[1] or ""):
        yield _diff("error_message", expected, path, said)


def _diff(
    name: str,
    record: StepRecord,
    path: tuple[str, ...],
    values: tuple[Any, ...],
    at: At = (),
    by_reference: bool = False,
) -> StepDiff:
    return StepDiff(
        step_index=record.step_index,
        tool_name=record.tool_name,
        field=name,
        expected=values[0],
        actual=values[1],
        step_id=record.step_id,
        path=path,
        at=at,
        by_reference=by_reference,
    )
