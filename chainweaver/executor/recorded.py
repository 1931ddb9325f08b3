"""Recorded runs: the values that a result still holds, in the form in which a new run can use them.

A result that is still attached to its run tells what views of it hide; one that was read from JSON has plain values,
and the plan says what types they had. Whatever is missing is refused before anything starts. Called by `replay`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter

from chainweaver._execution import summarize
from chainweaver._execution.run import segment_of
from chainweaver.checkpoint import StepDelta
from chainweaver.exceptions import ReplayError, violations
from chainweaver.executor.captures import capture_of
from chainweaver.executor.differences import is_told
from chainweaver.results import error_fields

if TYPE_CHECKING:
    from chainweaver._execution import Run
    from chainweaver._execution.trace import Capture
    from chainweaver.checkpoint.delta import StepError
    from chainweaver.executor.runs import Runs
    from chainweaver.plan import Plan, PlannedStep, PlannedTool
    from chainweaver.results import ExecutionResult, StepRecord

_copied: Capture = capture_of("snapshot", 10_000_000)
"""Containers of plain values are copied: the new run must not change what the old one has recorded."""

_SUMMARY = re.compile(r"\w+\[[\d, ]*\]")
_MASKED_SECRET = "**********"
_ITSELF = "replay the result itself"


class RecordedRun:
    """The values of a run, as far as its result still holds them."""

    def __init__(self, result: ExecutionResult, runs: Runs) -> None:
        self.result = result
        self.run: Run | None = getattr(result, "_run", None)
        self.is_told = is_told(result)
        self.is_summary = (runs.capture if self.run is None else self.run.capture) is summarize

    def refused(self, detail: str, fix: str | None = None) -> ReplayError:
        return ReplayError(self.result.trace_id, detail, fix=fix)

    def initial_input(self) -> dict[str, Any]:
        """The input of the run.

        Raises:
            ReplayError: Some of it is hidden or summed up.
        """
        run = self.run
        given = dict(self.result.initial_input if run is None or run.rules.redaction is None else run.given)
        if run is None:
            masked = (key for key, value in given.items() if _is_masked(value))
            hidden = next(chain(_hidden_in(self.result, "initial_input"), masked), None)
            if hidden is not None:
                raise self.refused(f"its record hides the value of input '{hidden}'", _ITSELF)
        self._refuse_summaries(given, "input")
        return _copied(given)[0]

    def _refuse_summaries(self, values: Mapping[str, Any], what: str) -> None:
        if not self.is_summary:
            return
        summed_up = (key for key, value in values.items() if isinstance(value, str) and _SUMMARY.fullmatch(value))
        for key in summed_up:
            detail = f"its record holds a summary of {what} '{key}', {values[key]!r}, and not the value"
            raise self.refused(detail, "record runs with trace_values='snapshot'")

    # ---- steps

    def steps_before(self, plan: Plan, index: int) -> Iterator[StepDelta]:
        """The steps below a plan index, with all that is nested in them, as a checkpoint would hold them.

        Raises:
            ReplayError: One of them has nothing to go on from.
        """
        records = {record.step_id: record for record in self.result.execution_log}
        for step in plan.steps[:index]:
            record = records.get(step.step_id)
            if record is None or record.surplus or record.status not in ("ok", "skipped"):
                became = "never ran" if record is None or record.surplus else f"has the status '{record.status}'"
                detail = f"step '{step.step_id}' {became} in the recorded run, so that nothing can follow from it"
                raise self.refused(detail, f"use resume_from_step={step.index} or less")
            yield from self._step(step, record, (), self.run)

    def _nested(self, step: PlannedStep, record: StepRecord, path: tuple[str, ...], run: Run | None) -> Iterator[Any]:
        """The steps of the sub-flow of a step, or its items."""
        inside, nested = (*path, segment_of(record.step_id or step.step_id)), _nested_run(record, run)
        for inner, one in _steps_inside(step, record):
            if run is None and step.each is not None and step.each.on_item_error == "collect":
                self._refuse_hidden_error(step, one)
            if one.status != "failed":
                yield from self._step(inner, one, inside, nested)
            else:  # it is told with the step around it
                yield from self._nested(inner, one, inside, nested)

    def _refuse_hidden_error(self, step: PlannedStep, item: StepRecord) -> None:
        """The error of an item may be a value of the steps behind its map."""
        if item.skipped and "/error_message" in item.redacted:
            detail = f"its record hides the error of item {item.step_id} of step '{step.step_id}'"
            raise self.refused(detail, _ITSELF)

    def _failed(
        self, step: PlannedStep, record: StepRecord, path: tuple[str, ...], run: Run | None
    ) -> tuple[StepDelta, ...] | None:
        """The steps that failed in the nested run that a step went on without; None where there is none."""
        if record.sub_result is None or (record.error_type is None and record.fallback_tool_name is None):
            return None
        inside, nested = (*path, segment_of(record.step_id or step.step_id)), _nested_run(record, run)
        failed = (found for found in _steps_inside(step, record) if found[1].status == "failed")
        return tuple(self._delta(inner, one, inside, nested) for inner, one in failed)

    def _step(
        self, step: PlannedStep, record: StepRecord, path: tuple[str, ...], run: Run | None
    ) -> Iterator[StepDelta]:
        if record.skipped and record.success:
            return  # no branch led to it, which follows from what was taken
        yield self._delta(step, record, path, run)
        yield from self._nested(step, record, path, run)

    def _delta(self, step: PlannedStep, record: StepRecord, path: tuple[str, ...], run: Run | None) -> StepDelta:
        self._refuse_odd_answers(step, record)
        has_own = record.status == "ok" and (record.sub_result is None or record.fallback_tool_name is not None)
        return StepDelta(
            step_index=record.step_index,
            step_id=record.step_id or step.step_id,
            tool_name=record.tool_name,
            fingerprint="",
            status="ok" if record.status == "ok" else "skipped" if record.skipped else "failed",
            outputs=self._outputs(step, record, run) if has_own else None,
            error=_error_of(record, run),
            attempts=0 if record.cached else record.retry_count + 1,
            retry_errors=tuple(record.retry_errors),
            cached=record.cached,
            fallback_tool_name=record.fallback_tool_name,
            started_at=record.started_at.timestamp(),
            duration_ns=round(record.duration_ms * 1e6),
            path=path,
            decision=record.decision,
            approval=record.approval,
            inside=self._failed(step, record, path, run),
        )

    def _refuse_odd_answers(self, step: PlannedStep, record: StepRecord) -> None:
        """What was answered at a step is looked at before it is built upon: a trace is a file that people can edit."""
        for name, value in (("decision", record.decision), ("approval", record.approval)):
            if value is not None and not isinstance(value, Mapping):
                detail = f"the {name} of step '{record.step_id}' is a '{type(value).__name__}' and no mapping"
                raise self.refused(detail)
        decided = set(record.decision or ()) - ({"taken"} if step.branches is not None else set())
        if decided and not isinstance(record.decision["chosen"] if "chosen" in decided else None, str):
            raise self.refused(f"the decision of step '{record.step_id}' names no tool that was chosen")

    def _outputs(self, step: PlannedStep, record: StepRecord, run: Run | None) -> dict[str, Any]:
        shown = record.outputs if run is None else run.shown_outputs(record.step_index)
        outputs = dict(shown or {})
        hidden = next(_hidden_in(record, "outputs"), None) if run is None else None
        if hidden is not None:
            raise self.refused(f"its record hides output '{hidden}' of step '{record.step_id}'", _ITSELF)
        self._refuse_summaries(outputs, f"step '{record.step_id}', output")
        tool = _answering(step, record)
        if not self.is_told or tool is None:
            return _copied(outputs)[0]
        if tool.secret_outputs:
            detail = f"output '{tool.secret_outputs[0]}' of step '{record.step_id}' is a secret, which no trace holds"
            raise self.refused(detail, _ITSELF)
        try:
            return {key: _typed(tool.output_model, key, value) for key, value in outputs.items()}
        except Exception as exc:
            detail = f"outputs of step '{record.step_id}' cannot be brought back from JSON: {violations(exc)}"
            raise self.refused(detail, "replay the result itself, or from an earlier step") from exc


def _nested_run(record: StepRecord, run: Run | None) -> Run | None:
    """The run that is nested in the step of a record, for as long as it is there."""
    detail = None if run is None else run.details.get(record.step_index)
    return None if detail is None else detail.nested


def _steps_inside(step: PlannedStep, record: StepRecord) -> Iterator[tuple[PlannedStep, StepRecord]]:
    """The records of the steps of a sub-flow, or of items, that count and have come to an end."""
    for one in () if record.sub_result is None else record.sub_result.execution_log:
        inner = _inner(step, one.step_id)
        if inner is not None and one.status != "cancelled" and not one.surplus:
            yield inner, one


def _inner(step: PlannedStep, step_id: str | None) -> PlannedStep | None:
    """The step that a nested record is of: one of the sub-flow, or what is done per item."""
    if step.each is not None:
        return step.each.step
    index = None if step.child is None or step_id is None else step.child.names.get(step_id)
    return None if step.child is None or index is None else step.child.steps[index]


def _error_of(record: StepRecord, run: Run | None) -> StepError | None:
    """The error of a step, with nothing hidden for as long as its run is there."""
    detail = None if run is None else run.details.get(record.step_index)
    if detail is not None and detail.error is not None:
        facts = error_fields(detail.error)
        return facts["error_type"], facts["error_code"], facts["error_message"], facts["error_cause"]
    if record.error_type is None:
        return None
    return record.error_type, record.error_code, record.error_message or "", record.error_cause


def _answering(step: PlannedStep, record: StepRecord) -> PlannedTool | None:
    """The tool whose outputs a record shows."""
    if record.fallback_tool_name is not None:
        return step.fallback
    chosen = record.decision.get("chosen") if isinstance(record.decision, Mapping) else None
    return step.candidates.get(chosen, step.tool) if isinstance(chosen, str) else step.tool


def _typed(model: type[BaseModel], key: str, value: Any) -> Any:
    """A value that JSON carried, in the type that the model declares for the key."""
    field = model.model_fields.get(key)
    computed = model.model_computed_fields.get(key)
    if field is None and computed is None:
        return value
    annotation = computed.return_type if field is None and computed is not None else field.rebuild_annotation()  # type: ignore[union-attr]  # one of the two is there
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a model or a dataclass brings its own
        adapter = TypeAdapter(annotation)
    return adapter.validate_json(json.dumps(value))


def _hidden_in(view: ExecutionResult | StepRecord, field: str) -> Iterator[str]:
    """The keys of a field under which a redaction policy has hidden something; the field itself where all is gone."""
    for place in view.redacted:
        name, _, key = place.removeprefix("/").partition("/")
        if name == field:
            yield key.replace("~1", "/").replace("~0", "~") or field


def _is_masked(value: Any) -> bool:
    """Whether a value that JSON carried stands for a secret, or holds what does."""
    if isinstance(value, dict):
        return any(map(_is_masked, value.values()))
    return any(map(_is_masked, value)) if isinstance(value, list) else bool(value == _MASKED_SECRET)
