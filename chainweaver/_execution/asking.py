"""Asking: what a step wants to hear from outside before and after its call, and what becomes of the answers.

Decisions, approvals and guardrails, and the rules that need nobody to be asked. Generators like the life of a step,
which calls them; nothing here calls a callback itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Literal

from chainweaver._execution.commands import Ask, RunCancelled, TimedOut
from chainweaver.exceptions import (
    ApprovalDeniedError,
    ChainWeaverError,
    DecisionCallbackError,
    FlowExecutionError,
    GuardrailViolationError,
    SafetyCeilingError,
    suggest,
    told,
)
from chainweaver.flow.callbacks import ApprovalContext, ApprovalDecision, DecisionContext, GuardrailContext

if TYPE_CHECKING:
    from collections.abc import Generator

    from chainweaver._execution.commands import Command
    from chainweaver._execution.run import Run
    from chainweaver.plan import PlannedStep, PlannedTool


class Unrehearsed(BaseException):
    """Raised and caught in the life of a step: a dry run passes over it, because its tool cannot be rehearsed.

    A BaseException, so that no fallback takes over.

    Attributes:
        error: What the record says.
    """

    def __init__(self, error: ChainWeaverError) -> None:
        super().__init__(error)
        self.error = error


# ---- which tool


def chosen_tool(run: Run, step: PlannedStep, given: dict[str, Any]) -> Generator[Command, Any, PlannedTool]:
    """The tool that a deciding step calls, by the word of the decision callback or by the policy's default."""
    policy = run.rules.decision
    why, fix = _nobody_decides(run, step)
    if why is None:
        context = DecisionContext(
            *_place(run, step),
            step.name,
            tuple(step.candidates),
            shown_values(step, given if step.tool is None or step.tool.hide is None else step.tool.hide(given)),
        )
        limit_s = run.limit_s(policy.timeout_seconds)
        try:
            answer = yield Ask("decision", context, limit_s)
        except TimedOut:
            if limit_s != policy.timeout_seconds:
                raise RunCancelled("deadline") from None
            why = f"nobody answered within {policy.timeout_seconds} s"
            fix = "give the callback more time"
        except DecisionCallbackError:
            raise
        except Exception as exc:
            fix = "correct the callback; its error is the cause of this one"
            raise _decision_error(step, f"the callback raised {told(exc)}", cause=exc, fix=fix) from exc
        else:
            run.check_deadline()
            return _candidate(run, step, answer)
    if policy.default == "fail":
        raise _decision_error(step, why, fix=f"{fix}, or decision_policy=DecisionPolicy(default='tool_name')")
    assert step.tool is not None, "a step without a tool has a fault"
    run.detail(step.index).decision = _decision(step, step.tool.name, "default")
    return step.tool


def _nobody_decides(run: Run, step: PlannedStep) -> tuple[str | None, str]:
    """Why the callback is not asked, and what to do about it; None when it is asked."""
    rules = run.rules
    if not rules.decides:
        return "the executor has no decision callback", "pass decision_callback= to FlowExecutor"
    if rules.decision.budget is not None and step.rank >= rules.decision.budget:
        return f"the budget of {rules.decision.budget} decision(s) is used up", "raise the budget"
    return None, ""


def _candidate(run: Run, step: PlannedStep, answer: object) -> PlannedTool:
    found = step.candidates.get(answer) if isinstance(answer, str) else None
    # An answer may say that somebody else has given it, as those do that are taken from the record of a run.
    by = getattr(answer, "by", "callback")
    if found is None and by == "default" and step.tool is not None and answer == step.tool.name:
        found = step.tool
    if found is None:
        known = tuple(step.candidates)
        near = suggest(answer, known) if isinstance(answer, str) else None
        fix = way_out(answer, "answer with the name of a candidate") if near is None else f"did you mean '{near}'?"
        raise _decision_error(
            step, f"the callback answered {named(answer)}, which is no candidate", known=known, fix=fix
        )
    run.detail(step.index).decision = _decision(step, found.name, by)
    return found


def _decision(step: PlannedStep, name: str, by: str) -> dict[str, Any]:
    return {"chosen": name, "candidates": list(step.candidates), "by": by}


def _decision_error(step: PlannedStep, detail: str, cause: Exception | None = None, **facts: Any) -> ChainWeaverError:
    error = DecisionCallbackError(step.label, step.number, detail, **facts)
    error.__cause__ = cause
    return error


# ---- whether it may be called


def allowed(run: Run, step: PlannedStep, tool: PlannedTool) -> PlannedTool:
    """The tool as the rules let it be called: itself, or its rehearsal in a dry run.

    Raises:
        SafetyCeilingError: It has stronger effects than allowed, or declares none where that is asked for.
        FlowExecutionError: It cannot be rehearsed, and the dry run was told to end at such a tool.
        Unrehearsed: It cannot be rehearsed, and is passed over.
    """
    if step.child is not None and tool is step.tool:
        return tool  # a sub-flow is no tool: what its steps call is held against the rules there
    rules, safety = run.rules, tool.safety
    if rules.strict and safety is None:
        fix = "give the tool a ToolSafetyContract, or run it without strict_safety"
        if step.capability is not None and tool is step.tool:
            fix = "a capability declares no effects: put a tool in its place, or run it without strict_safety"
        ceiling = "none" if rules.ceiling is None else rules.ceiling.value
        raise SafetyCeilingError(tool.name, "undeclared", ceiling, fix=fix)
    if rules.ceiling is not None and safety is not None and safety.side_effects > rules.ceiling:
        raise SafetyCeilingError(
            tool.name, safety.side_effects.value, rules.ceiling.value, fix="raise max_side_effect_level for such flows"
        )
    if rules.dry is None or tool.dry is not None:
        return tool if rules.dry is None or tool.dry is None else tool.dry
    fix = "give the tool a dry_run_fn, or declare supports_dry_run in its safety contract"
    error = FlowExecutionError(step.name, step.number, f"tool '{tool.name}' has no dry run", fix=fix)
    if rules.dry == "abort":
        raise error
    raise Unrehearsed(error)


def approval(run: Run, step: PlannedStep, tool: PlannedTool, values: dict[str, Any]) -> Generator[Command, Any, None]:
    """Ask whether the tool may be called, where its safety contract requires that.

    Raises:
        ApprovalDeniedError: The answer is no, or there is nobody to ask.
    """
    if tool.safety is None or not tool.safety.requires_approval or run.rules.dry is not None:
        return
    if not run.rules.approves:
        reason = "the executor has no approval callback"
        raise ApprovalDeniedError(tool.name, step.number, reason, fix="pass approval_callback= to FlowExecutor")
    context = ApprovalContext(*_place(run, step), tool.name, values, tool.safety.approval_reason, tool.safety)
    try:
        answer = yield Ask("approval", context, run.remaining_s())
    except TimedOut:
        # The rest of the run is the only limit; a lane may see its end a moment early.
        raise RunCancelled("deadline") from None
    except ApprovalDeniedError:
        raise
    except Exception as exc:
        reason, fix = f"the callback raised {told(exc)}", "correct the callback; its error is the cause of this one"
        raise ApprovalDeniedError(tool.name, step.number, reason, fix=fix) from exc
    run.check_deadline()
    if isinstance(answer, bool):
        answer = ApprovalDecision(answer)
    if not isinstance(answer, ApprovalDecision):
        reason = f"the callback answered {named(answer)}, which is no ApprovalDecision and no bool"
        fix = way_out(answer, "answer with an ApprovalDecision, True or False")
        raise ApprovalDeniedError(tool.name, step.number, reason, fix=fix)
    detail = run.detail(step.index)
    detail.approval = {"approved": answer.approved, "approver": answer.approver, "reason": answer.reason}
    if not answer.approved:
        raise ApprovalDeniedError(tool.name, step.number, answer.reason)


def guardrail(
    run: Run, step: PlannedStep, tool: PlannedTool, stage: Literal["input", "output"], values: dict[str, Any]
) -> Generator[Command, Any, None]:
    """Let the guardrail look at values.

    Raises:
        GuardrailViolationError: It refused them, or raised.
    """
    context = GuardrailContext(*_place(run, step), tool.name, stage, values)
    try:
        answer = yield Ask("guardrail", context, run.remaining_s())
    except GuardrailViolationError:
        raise
    except TimedOut:
        raise RunCancelled("deadline") from None
    except Exception as exc:
        said, fix = f"the callback raised {told(exc)}", "correct the callback; its error is the cause of this one"
        raise GuardrailViolationError(tool.name, step.number, f"{stage}: {said}", fix=fix) from exc
    run.check_deadline()
    if answer is None or answer is True:
        return
    if isinstance(answer, str) or answer is False:
        raise GuardrailViolationError(tool.name, step.number, f"{stage}: {answer or 'no reason was given'}")
    said = f"the callback answered {named(answer)}, which has no meaning"
    fix = way_out(answer, "answer None or True to let values pass, False or a text to refuse them")
    raise GuardrailViolationError(tool.name, step.number, f"{stage}: {said}", fix=fix)


# ---- words


def named(answer: object) -> str:
    """An answer that is none, in words that are the same in every run: without addresses, and not at any length."""
    if isinstance(answer, CoroutineType):
        return "a coroutine, which nobody awaits"
    if answer is None or isinstance(answer, (str, int, float)):
        text = repr(answer)
        return text if len(text) <= 80 else f"{text[:80]}..."
    return f"an object of type '{type(answer).__name__}'"


def way_out(answer: object, fix: str) -> str:
    """What to do about such an answer."""
    if not isinstance(answer, CoroutineType):
        return fix
    answer.close()  # it would be complained of when it is collected, far away from here
    return "write the callback, and what stands around it, with 'async def'"


def values_of(value: Any) -> dict[str, Any]:
    """The validated inputs by name."""
    return dict(value) if isinstance(value, Mapping) else dict(value.__dict__, **(value.__pydantic_extra__ or {}))


def shown_values(step: PlannedStep, value: Any) -> dict[str, Any]:
    """The same, as somebody who looks on may see them."""
    values = values_of(value)
    for name in step.dynamic_fields:
        if name in values:
            values[name] = "<dynamic parameter>"
    return values


def _place(run: Run, step: PlannedStep) -> tuple[str, str, int, str]:
    return run.trace_id(), run.plan.flow_name, step.index, step.step_id
