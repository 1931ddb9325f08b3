"""Replay: a recorded run again, and where the two differ (R35).

A replay is a run like any other, of the recorded version with the recorded input: only who answers its questions
differs, and where its first steps come from. To verify, decisions and approvals are taken from the record; a step cache
would hide differences and a checkpoint is not wanted, so that there is neither. Called by the facade.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from chainweaver._execution import Run, take_input
from chainweaver.exceptions import (
    ApprovalDeniedError,
    ChainWeaverError,
    CheckpointDriftError,
    ContextKeyCollisionError,
    DecisionCallbackError,
    ReplayError,
    VerificationError,
)
from chainweaver.executor.call import ReplayMode
from chainweaver.executor.differences import StepDiff, compared, is_told
from chainweaver.executor.likeness import Likeness, brief
from chainweaver.executor.recorded import RecordedRun
from chainweaver.executor.resume import Stored, fill_in
from chainweaver.executor.rules import Callback
from chainweaver.executor.runs import tell_start
from chainweaver.executor.settings import check_count, named
from chainweaver.flow.callbacks import ApprovalDecision, DecisionPolicy
from chainweaver.flow.versions import sorted_versions
from chainweaver.lanes.services import Services
from chainweaver.results import ExecutionResult, hidden_in

if TYPE_CHECKING:
    from chainweaver.executor.call import Call
    from chainweaver.executor.runs import Begun, Runs
    from chainweaver.flow.callbacks import ApprovalContext, DecisionContext
    from chainweaver.observe import Listeners
    from chainweaver.plan import Plan, PlannedStep, PlannedTool
    from chainweaver.results import StepRecord


class ReplayResult(BaseModel):
    """A recorded run and what its replay did otherwise.

    Attributes:
        original_trace_id: The recorded run.
        new_result: The result of the replay, which is a run of its own.
        mode: How it was replayed.
        diffs: Where the two differ, in plan order; the first one is what the others follow from.
        all_steps_match: There is no difference.
        resumed_from_step: Steps before this plan index did not run again, and are not compared.
        not_compared: Places of values that nothing tells apart, such as objects that are equal to themselves only.

    >>> from chainweaver import Flow, FlowExecutor, FlowStep, tool
    >>> prices = iter([10, 12])
    >>> @tool
    ... def price() -> int:
    ...     return next(prices)
    >>> flow = Flow(name="quote", description="Asks for a price.", steps=[FlowStep(tool_name="price")])
    >>> with FlowExecutor(tools=[price], flows=[flow]) as executor:
    ...     replay = executor.replay_flow(executor.execute_flow("quote", {}))
    >>> replay.all_steps_match, str(replay.first_difference)
    (False, "step '0' (price), outputs.price: expected 10, found 12")
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    original_trace_id: str
    new_result: ExecutionResult
    mode: ReplayMode
    diffs: list[StepDiff] = Field(default_factory=list)
    all_steps_match: bool = True
    resumed_from_step: int = 0
    not_compared: list[str] = Field(default_factory=list)

    @property
    def first_difference(self) -> StepDiff | None:
        """The difference that the others follow from; None when all is the same."""
        return self.diffs[0] if self.diffs else None

    def raise_for_difference(self) -> ReplayResult:
        """The replay itself, where every step is the same.

        Raises:
            VerificationError: It is not; the error names the first difference.
        """
        first = self.first_difference
        if first is None:
            return self
        more = f" ({len(self.diffs) - 1} more)" if self.diffs[1:] else ""
        where = f"flow '{self.new_result.flow_name}' {self.new_result.flow_version}"
        raise VerificationError(f"Replay of run '{self.original_trace_id}'", f"{first}{more}", where=where)

    def render(self) -> str:
        """What the replay found, for people."""
        first = self.first_difference
        if first is None:
            lines = [f"Replay of run '{self.original_trace_id}' ({self.mode.value}): every step is the same."]
        else:
            expected, actual = map(brief, first.parts)
            count = "1 difference" if len(self.diffs) == 1 else f"{len(self.diffs)} differences"
            lines = [
                f"Replay of run '{self.original_trace_id}' ({self.mode.value}): {count}.",
                f"  first     {first.step}, {first.place}",
                f"  expected  {expected}",
                f"  found     {actual}",
            ]
            lines += [f"  {'then' if at == 0 else '':<8}  {diff}" for at, diff in enumerate(self.diffs[1:])]
        if self.not_compared:
            lines.append(f"  not compared, since nothing tells such values apart: {'; '.join(self.not_compared)}")
        return "\n".join(lines)

    __str__ = render


class Replay:
    """One replay, from the record to the comparison.

    Attributes:
        dry: What the recorded dry run did with tools that it could not rehearse; None for a real run.

    Raises:
        TypeError, ValueError: An argument is not what it has to be.
    """

    def __init__(self, result: ExecutionResult, mode: ReplayMode | str, from_step: int, plan: Plan) -> None:
        try:
            self.mode = ReplayMode(mode)
        except ValueError:
            raise ValueError(f"mode has to be ReplayMode.VERIFY or ReplayMode.EXECUTE, not {mode!r}.") from None
        check_count("resume_from_step", from_step, 0)
        if from_step > len(plan.steps):
            raise ValueError(f"resume_from_step has to be a plan index from 0 to {len(plan.steps)}, not {from_step}.")
        self.result = result
        self.from_step = from_step
        self.plan = plan
        self.dry = _dry_of(result)

    def begin(self, runs: Runs, listeners: Listeners | None, call: Call) -> Begun:
        """A run that is about to start its first step that is not taken from the record.

        Raises:
            ReplayError: The record lacks a value that the run would need.
        """
        recorded = RecordedRun(self.result, runs)
        initial = recorded.initial_input()
        if self.mode is ReplayMode.EXECUTE and self.from_step == 0:
            begun = runs.begin(self.plan, initial, listeners, call)
            begun[0].secrets |= hidden_in(self.result)
            return begun
        stored = Stored(recorded.steps_before(self.plan, self.from_step))
        run = runs.new_run(self.plan, initial)
        take_input(run)
        services = Services(runs.runtime)
        runs.attend(run, services, listeners, call)
        # What the recorded run found out to be secret is hidden, however far this one comes.
        run.secrets |= hidden_in(self.result)
        run.past = stored
        if self.mode is ReplayMode.VERIFY:
            run.past = answers = _Answers(self.result, stored)
            answers.know(run)
            run.caching, services.cache = False, None
            # Whoever answers has no limit of time or number: what was decided then holds now.
            run.rules = replace(run.rules, decides=True, approves=True, decision=DecisionPolicy())
            services.callbacks = {**services.callbacks, **answers.callbacks()}
        if self.from_step and run.input_error is None:
            self._fill(run, stored)
        if services.listeners is not None:
            tell_start(run, services)
        return run, services, *runs.means(call, services)

    def _fill(self, run: Run, stored: Stored) -> None:
        """Give the steps that do not run again what they gave in the recorded run."""
        run.resumed = True
        passed = run.slots[-1]
        # They need no dynamic parameters, but their inputs are worked out from what they read.
        run.slots[-1] = {**dict.fromkeys(self.plan.dynamic_params), **(passed or {})}
        try:
            for delta in stored.own:
                fill_in(run, self.plan.steps[self.plan.names[delta.step_id]], delta)
        except CheckpointDriftError as exc:
            raise ReplayError(self.result.trace_id, exc.detail) from exc
        run.slots[-1] = passed

    def carried_sync(self, runs: Runs, listeners: Listeners | None, call: Call) -> ReplayResult:
        """The replay, carried to its end in this thread."""
        begun = self.begin(runs, listeners, call)
        try:
            new = runs.carry_sync(*begun)
        except ContextKeyCollisionError as exc:
            new = _result_of(exc)
        return self._compared(new)

    async def carried_async(self, runs: Runs, listeners: Listeners | None, call: Call) -> ReplayResult:
        """The replay, carried to its end in this task."""
        begun = self.begin(runs, listeners, call)
        try:
            new = await runs.carry_async(*begun)
        except ContextKeyCollisionError as exc:
            new = _result_of(exc)
        return self._compared(new)

    def _compared(self, new: ExecutionResult) -> ReplayResult:
        comparison = compared(self.result, new, from_step=self.from_step)
        return ReplayResult(
            original_trace_id=self.result.trace_id,
            new_result=new,
            mode=self.mode,
            diffs=comparison.diffs,
            all_steps_match=not comparison.diffs,
            resumed_from_step=self.from_step,
            not_compared=comparison.not_compared,
        )


def _result_of(error: ContextKeyCollisionError) -> ExecutionResult:
    """The result of a replay that collided: whether it did so before as well is for the comparison to say."""
    if not isinstance(error.result, ExecutionResult):
        raise error
    return error.result


def check_result(result: object) -> ExecutionResult:
    """The result itself, when it is one.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(result, ExecutionResult):
        how = "; read one with ExecutionResult.model_validate_json(text)"
        raise TypeError(f"A run is replayed from its ExecutionResult, not from {named(result)}{how}.")
    return result


def versions_of(result: ExecutionResult) -> dict[str, str]:
    """The sub-flows that a run has run: name -> version, the one that steps without a pinned version got."""
    found: dict[str, set[str]] = {}
    todo = [result]
    while todo:
        for record in todo.pop().execution_log:
            if record.sub_result is not None:
                found.setdefault(record.sub_result.flow_name, set()).add(record.sub_result.flow_version)
                todo.append(record.sub_result)
    # A step without a pinned version gets the highest there is, so that no pinned one can lie above it.
    return {name: sorted_versions(versions)[-1] for name, versions in found.items()}


_UNREHEARSED = re.compile(r"tool '[^']*' has no dry run")


def _dry_of(result: ExecutionResult) -> Literal["skip", "abort"] | None:
    """The dry-run flag of a result; how the run went on without a rehearsal shows in the step that had none."""
    if not result.dry_run:
        return None
    failed = (record.error_message or "" for record in result.execution_log if record.status == "failed")
    return "abort" if any(map(_UNREHEARSED.search, failed)) else "skip"


# ---- who answers


class _Answer(str):
    """The name of the tool that was chosen, and by whom."""

    __slots__ = ("by",)
    by: str


class _Answers:
    """Answers the questions of a run from the record of an earlier one.

    A `Past` of the run core as well, which is how it gets to know nested runs.
    """

    def __init__(self, result: ExecutionResult, stored: Stored) -> None:
        self.result = result
        self.stored = stored
        self._likeness = Likeness(told=is_told(result))
        self._known: dict[str, tuple[Run, dict[str | None, StepRecord]]] = {}

    def callbacks(self) -> dict[str, Callback]:
        """Kind of question -> who is asked."""
        return {
            "decision": Callback("decision_callback", self.decide),
            "approval": Callback("approval_callback", self.approve),
        }

    # ---- nested runs

    def attempts(self, run: Run, step: PlannedStep) -> int:
        return self.stored.attempts(run, step)

    def fill(self, nested: Run) -> None:
        self.know(nested)
        self.stored.fill(nested)  # which may begin the runs that are nested in this one

    def know(self, run: Run) -> None:
        """Find the records that belong to a run."""
        result: ExecutionResult | None = self.result
        if run.parent is not None:
            _, around = self._known[run.parent.trace_id()]
            record = around.get(run.path[-1])
            result = None if record is None else record.sub_result
        records = () if result is None else result.execution_log
        self._known[run.trace_id()] = (run, {record.step_id: record for record in records})

    # ---- answers

    def decide(self, context: DecisionContext) -> str:
        """The candidate that was chosen.

        Raises:
            DecisionCallbackError: That of the record, or there was no decision.
        """
        _, record = self._record(context)
        decision = None if record is None else record.decision
        if isinstance(decision, Mapping) and isinstance(decision.get("chosen"), str):
            answer = _Answer(decision["chosen"])
            answer.by = decision.get("by") or "callback"
            return answer
        missing = DecisionCallbackError(
            context.step_id, context.step_index, "the record holds no decision of this step"
        )
        raise _as_recorded(missing, record)

    def approve(self, context: ApprovalContext) -> ApprovalDecision:
        """What was said then: for the same tool and the same inputs, since nobody has agreed to any others.

        Raises:
            ApprovalDeniedError: That of the record, or nobody has agreed to this very call.
        """
        run, record = self._record(context)
        approval = None if record is None else record.approval
        if record is None or not isinstance(approval, Mapping):
            raise _as_recorded(self._denied(context, "the record holds no approval of this step"), record)
        fallback = run.plan.steps[context.step_index].fallback
        if record.fallback_used and context.tool_name != record.fallback_tool_name and _is_approved(fallback):
            raise self._denied(context, f"the record holds the approval of '{record.fallback_tool_name}' only")
        at = self._likeness.difference(record.inputs, self._inputs(run, context.step_index), "inputs")
        if approval.get("approved") and at is not None:
            raise self._denied(context, "the recorded approval was given for other inputs")
        return ApprovalDecision(bool(approval.get("approved")), approval.get("approver"), approval.get("reason"))

    def _record(self, context: DecisionContext | ApprovalContext) -> tuple[Run, StepRecord | None]:
        run, records = self._known[context.trace_id]
        return run, records.get(context.step_id)

    def _inputs(self, run: Run, index: int) -> dict[str, Any]:
        """The inputs of a step that is on its way, as its record will show them."""
        inputs = run.inputs[index] or {}
        redaction = run.rules.redaction
        shown: dict[str, Any] = inputs if redaction is None else redaction.redact_mapping(inputs)
        return shown

    def _denied(self, context: ApprovalContext, reason: str) -> ApprovalDeniedError:
        return ApprovalDeniedError(context.tool_name, context.step_index, reason)


def _is_approved(tool: PlannedTool | None) -> bool:
    """Whether a tool is called with an approval only."""
    return tool is not None and tool.safety is not None and tool.safety.requires_approval


def _as_recorded(error: ChainWeaverError, record: StepRecord | None) -> ChainWeaverError:
    """The error, with the facts of the recorded one where the step failed with its like."""
    if record is not None and record.error_type == type(error).__name__:
        names = ("error_type", "error_code", "error_message", "error_cause")
        vars(error)["stored"] = {name: getattr(record, name) for name in names}
    return error
