"""Decisions, approvals and guardrails: what a step asks for from outside, and what becomes of every answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from chainweaver import FlowStep, ToolSafetyContract
from chainweaver._execution import Lead, RunCancelled, TimedOut
from chainweaver._execution.rules import Rules
from chainweaver.exceptions import (
    ApprovalDeniedError,
    DecisionCallbackError,
    GuardrailViolationError,
    ToolTimeoutError,
)
from chainweaver.flow import RetryPolicy
from chainweaver.flow.callbacks import (
    ApprovalContext,
    ApprovalDecision,
    DecisionContext,
    DecisionPolicy,
    GuardrailContext,
)
from tests.execution.kit import Crowd, Walk, a_plan, a_run, a_step, a_tool, error_of, one_step, statuses

RISKY = ToolSafetyContract(requires_approval=True, approval_reason="it sends money")
A, B, C = (a_tool(name, ["n"], ["out"]) for name in "abc")
PAY = a_tool("pay", ["n"], ["out"], safety=RISKY)
TRY_AGAIN = RetryPolicy(max_retries=2, backoff_seconds=0.0)
TRACE = "0" * 32


class Anything(BaseModel):
    model_config = ConfigDict(extra="allow")


def deciding(
    policy: DecisionPolicy | None = None, *, asks: bool = True, deadline_s: float | None = None, **step: Any
) -> Walk:
    """A step that decides among b and c, its own tool being a."""
    rules = Rules(decides=asks, decision=policy or DecisionPolicy())
    plan = one_step(A, B, C, **{"decision_candidates": ["b", "c"], **step})
    return Walk(a_run(plan, {"n": 1}, rules=rules, deadline_s=deadline_s))


def approving(tool: Any = PAY, *others: Any, asks: bool = True, attended: Any = None, **step: Any) -> Walk:
    """A step whose tool requires an approval."""
    return Walk(a_run(one_step(tool, *others, **step), {"n": 1}, rules=Rules(approves=asks), **(attended or {})))


def guarded(tool: Any = A, *others: Any, attended: Any = None, **step: Any) -> Walk:
    """A step under a guardrail."""
    return Walk(a_run(one_step(tool, *others, **step), {"n": 1}, rules=Rules(guards=True), **(attended or {})))


def context_of(walk: Walk) -> Any:
    """What is told to whoever is asked."""
    return walk.command.context  # type: ignore[union-attr]


# ---- decisions


def test_a_deciding_step_asks_and_calls_the_tool_that_was_named():
    """R26: the callback is told the candidates and the inputs; the record shows what was decided, and by whom."""
    walk = deciding()

    assert walk.asks == ("ask", "decision", "0", None)
    assert context_of(walk) == DecisionContext(TRACE, "flow", 0, "0", "a", ("b", "c"), {"n": 1})
    assert walk.ok("c") == ("call", "c", {"n": 1})
    assert walk.ok({"out": 3}) is None
    step = walk.run.plan.steps[0]
    assert walk.run.decision_of(step) == {"chosen": "c", "candidates": ["b", "c"], "by": "callback"}
    assert walk.run.answered(step) is step.candidates["c"]
    assert walk.run.final_output == {"n": 1, "out": 3}


ANSWERS: dict[object, str] = {
    "a": "'a'", "nobody": "'nobody'", "": "''", None: "None", 3: "3", ("b",): "an object of type 'tuple'",
    "b" * 100: f"'{'b' * 79}...",
}  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
def test_an_answer_that_is_no_candidate_fails_the_step(answer: object):
    """R16: the step's own tool is none unless it is among the candidates; a default does not help."""
    walk = deciding(DecisionPolicy(default="tool_name"))
    walk.ok(answer)
    error = error_of(walk.run)

    assert isinstance(error, DecisionCallbackError)
    assert error.detail == f"the callback answered {ANSWERS[answer]}, which is no candidate"
    assert error.fix == "answer with the name of a candidate"
    assert error.known == ("b", "c")
    assert walk.run.decision_of(walk.run.plan.steps[0]) is None


def test_an_answer_that_comes_near_a_candidate_is_told_which():
    """R16: most wrong answers are misspelt."""
    walk = Walk(a_run(one_step(A, PAY, decision_candidates=["a", "pay"]), {"n": 1}, rules=Rules(decides=True)))
    walk.ok("pay.")

    assert error_of(walk.run).fix == "did you mean 'pay'?"


@pytest.mark.parametrize("ask", ["decision", "approval", "guardrail"])
def test_a_coroutine_is_no_answer_and_says_what_makes_one(ask: str):
    """R16, R26: a function that is not async itself hands one on; it is closed, and nothing is complained of later."""

    async def answer() -> None: ...

    asking: dict[str, Callable[[], Walk]] = {"decision": deciding, "approval": approving, "guardrail": guarded}
    walk = asking[ask]()
    coroutine = answer()
    walk.ok(coroutine)

    assert "the callback answered a coroutine, which nobody awaits" in str(error_of(walk.run))
    assert error_of(walk.run).fix == "write the callback, and what stands around it, with 'async def'"
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def test_a_callback_that_raises_fails_the_step():
    """R16: with the original as its cause; a default does not help either."""
    walk = deciding(DecisionPolicy(default="tool_name"))
    raised = KeyError("model")
    walk.err(raised)

    assert isinstance(error_of(walk.run), DecisionCallbackError)
    assert "the callback raised KeyError: 'model'" in str(error_of(walk.run))
    assert error_of(walk.run).__cause__ is raised


NOBODY: dict[str, tuple[dict[str, Any], str, str]] = {
    "no callback": ({"asks": False}, "the executor has no decision callback", "pass decision_callback= to"),
    "no time left": ({"policy": {"timeout_seconds": 2.5}}, "nobody answered within 2.5 s", "more time"),
    "no budget left": ({"policy": {"budget": 0}}, "the budget of 0 decision(s) is used up", "raise the budget"),
}


@pytest.mark.parametrize("case", NOBODY)
@pytest.mark.parametrize("default", ["fail", "tool_name"])
def test_without_an_answer_the_default_of_the_policy_holds(case: str, default: Any):
    """R26: the step takes its own tool, or fails and says why nobody decided."""
    options, why, fix = NOBODY[case]
    policy = DecisionPolicy(default=default, **options.get("policy", {}))
    walk = deciding(policy, asks=options.get("asks", True))
    if case == "no time left":
        assert walk.asks == ("ask", "decision", "0", 2.5)
        walk.err(TimedOut(), after_s=2.5)

    if default == "tool_name":
        assert walk.asks == ("call", "a", {"n": 1})
        walk.ok({"out": 1})
        decided = walk.run.decision_of(walk.run.plan.steps[0])
        assert decided == {"chosen": "a", "candidates": ["b", "c"], "by": "default"}
        assert walk.run.answered(walk.run.plan.steps[0]) is walk.run.plan.steps[0].tool
    else:
        assert walk.asks is None
        assert isinstance(error_of(walk.run), DecisionCallbackError)
        assert why in str(error_of(walk.run))
        assert fix in error_of(walk.run).fix
        assert "decision_policy=DecisionPolicy(default='tool_name')" in error_of(walk.run).fix


def test_the_budget_is_spent_in_plan_order():
    """R1, R26: which steps may ask does not depend on who was faster."""
    others = [a_tool(name, ["n"], [f"{name}_out"]) for name in ("x", "y", "z")]
    steps = [
        a_step("one", tool_name="x", decision_candidates=["x"]),
        a_step("plain", tool_name="b"),
        a_step("two", tool_name="y", decision_candidates=["y"]),
        a_step("three", tool_name="z", decision_candidates=["z"]),
    ]
    rules = Rules(decides=True, decision=DecisionPolicy(budget=2, default="tool_name"))
    crowd = Crowd(a_run(a_plan(steps, [B, *others]), {"n": 1}, rules=rules))

    assert [crowd.asks(name)[:2] for name in crowd.began] == [
        ("ask", "decision"),
        ("call", "b"),
        ("ask", "decision"),
        ("call", "z"),
    ]


def test_an_answer_after_the_deadline_comes_too_late():
    """R22: the run ends, whatever the answer was."""
    walk = deciding(deadline_s=1.0)
    assert walk.asks == ("ask", "decision", "0", 1.0)
    walk.ok("b", after_s=1.0)

    assert (walk.run.status, statuses(walk.run)) == ("cancelled", {"0": "cancelled"})


@pytest.mark.parametrize("after_s", [1.0, 0.999])
def test_a_decision_that_the_deadline_cut_short_ends_the_run(after_s: float):
    """R22: no default holds then; a lane may see the end a moment early."""
    walk = deciding(DecisionPolicy(timeout_seconds=5.0, default="tool_name"), deadline_s=1.0)
    assert walk.asks == ("ask", "decision", "0", 1.0)
    walk.err(TimedOut(), after_s=after_s)

    assert walk.run.cancelled is not None
    assert (walk.run.status, walk.run.cancelled.reason) == ("cancelled", "deadline")


def test_a_decision_with_a_limit_of_its_own_leaves_the_run_its_time():
    """R22: the tighter limit counts, and a default holds when it is not that of the run."""
    walk = deciding(DecisionPolicy(timeout_seconds=0.5, default="tool_name"), deadline_s=1.0)
    assert walk.asks == ("ask", "decision", "0", 0.5)

    assert walk.err(TimedOut(), after_s=0.5) == ("invoke", "a", {"n": 1}, 0.5, None)


def test_an_error_of_the_callback_that_is_one_of_ours_is_recorded_as_it_is():
    """R18: it says already what is wrong with the decision."""
    walk = deciding()
    raised = DecisionCallbackError("0", 0, "mine")
    walk.err(raised)

    assert error_of(walk.run) is raised


class Recorded(str):
    """A decision as the record of a run has it."""

    def __new__(cls, name: str, by: str) -> Recorded:
        self = super().__new__(cls, name)
        self.by = by
        return self

    by: str


def test_a_decision_may_come_from_the_record_of_a_run():
    """R35: then it is told who made it; a default was the step's own tool, which may be no candidate."""
    chosen, by_default = deciding(), deciding()

    assert chosen.ok(Recorded("c", "callback")) == ("call", "c", {"n": 1})
    assert by_default.ok(Recorded("a", "default")) == ("call", "a", {"n": 1})
    by_default.ok({"out": 1})
    decided = by_default.run.decision_of(by_default.run.plan.steps[0])
    assert decided == {"chosen": "a", "candidates": ["b", "c"], "by": "default"}


def test_a_step_that_decides_nothing_is_answered_by_its_own_tool():
    """R26: also one of which there is something else to tell."""
    walk = deciding(decision_candidates=None, retry=TRY_AGAIN)
    walk.err(OSError("busy"))
    walk.ok({"out": 1})

    assert walk.run.answered(walk.run.plan.steps[0]) is walk.run.plan.steps[0].tool
    assert walk.run.decision_of(walk.run.plan.steps[0]) is None


def test_on_error_applies_to_a_decision():
    """R21: a skipped decision is skipped, and a fallback does without it."""
    skipped = deciding(on_error="skip")
    skipped.ok("nobody")
    stood_in = deciding(on_error="fallback:b")

    assert statuses(skipped.run) == {"0": "skipped"}
    assert stood_in.ok("nobody") == ("call", "b", {"n": 1})
    stood_in.ok({"out": 2})
    assert stood_in.run.answered(stood_in.run.plan.steps[0]) is stood_in.run.plan.steps[0].fallback


def test_a_step_decides_once_for_all_its_attempts():
    """R20, R26: a retry calls the tool that was chosen again."""
    walk = deciding(retry=TRY_AGAIN)
    walk.ok("b")

    assert walk.err(OSError("busy")) == ("call", "b", {"n": 1})
    walk.ok({"out": 2})
    assert walk.run.status == "ok"


def test_the_cache_is_asked_for_the_tool_that_was_chosen():
    """R26, R29: the key of a call names the tool that would make it."""
    rules = Rules(decides=True)
    plan = one_step(A, B, C, decision_candidates=["b", "c"])
    walk = Walk(a_run(plan, {"n": 1}, rules=rules, caching=True))

    assert walk.ok("c") == ("look up", "c", None)
    assert walk.ok(Lead("flight")) == ("call", "c", {"n": 1})


def test_whoever_decides_is_shown_no_dynamic_parameter():
    """R13: what callers pass beside the input never leaves the run."""
    rules = Rules(decides=True)
    plan = one_step(A, B, decision_candidates=["b"], input_mapping={"n": "key"}, flow={"dynamic_params": ["key"]})
    walk = Walk(a_run(plan, {}, dynamic={"key": 7}, rules=rules))

    assert context_of(walk).inputs == {"n": "<dynamic parameter>"}
    assert walk.ok("b") == ("call", "b", {"n": 7})


def test_whoever_is_asked_holds_no_place():
    """R4: a person may take days; the call that follows queues like any other."""
    steps = [a_step("a", decision_candidates=["a"]), a_step("b", output_mapping={"b_out": "out"})]
    crowd = Crowd(a_run(a_plan(steps, [A, B]), {"n": 1}, rules=Rules(decides=True)), 1)

    assert crowd.began == ["a", "b"]
    assert crowd.ok("a", "a") == [], "b holds the only place"
    assert crowd.ok("b", {"out": 1}) == ["a"]
    assert crowd.asks("a") == ("call", "a", {"n": 1})


def test_a_run_that_ends_while_it_asks_is_cancelled():
    """R23: whoever was asked is not waited for."""
    walk = deciding()
    walk.err(RunCancelled("token"))

    assert statuses(walk.run) == {"0": "cancelled"}


# ---- approvals


def test_a_risky_tool_is_asked_for_before_it_is_called():
    """R26: with its validated inputs and what its contract says; the record shows who agreed."""
    walk = approving()

    assert walk.asks == ("ask", "approval", "0", None)
    assert context_of(walk) == ApprovalContext(TRACE, "flow", 0, "0", "pay", {"n": 1}, "it sends money", RISKY)
    assert walk.ok(ApprovalDecision(True, "Ada", "fine")) == ("call", "pay", {"n": 1})
    walk.ok({"out": 1})
    assert walk.run.details[0].approval == {"approved": True, "approver": "Ada", "reason": "fine"}
    assert walk.run.status == "ok"


def test_a_bare_yes_is_an_answer():
    """R26: nobody has to name who agreed."""
    walk = approving()

    assert walk.ok(True) == ("call", "pay", {"n": 1})
    assert walk.run.details[0].approval == {"approved": True, "approver": None, "reason": None}


@pytest.mark.parametrize("answer", [False, ApprovalDecision(False, "Alan", "too much")])
def test_a_denied_tool_is_not_called(answer: Any):
    """R16: recorded with the answer, and not tried again."""
    walk = approving(retry=TRY_AGAIN)

    assert walk.ok(answer) is None
    error = error_of(walk.run)
    assert isinstance(error, ApprovalDeniedError)
    assert error.tool_name == "pay"
    assert walk.run.details[0].approval is not None
    assert walk.run.details[0].approval["approved"] is False
    assert walk.run.details[0].approval["reason"] == (None if answer is False else "too much")
    assert ("too much" in str(error)) == (answer is not False)


def test_without_anybody_to_ask_the_tool_is_not_called():
    """R16: what nobody can allow is denied."""
    walk = approving(asks=False)

    assert walk.asks is None
    assert isinstance(error_of(walk.run), ApprovalDeniedError)
    assert "the executor has no approval callback" in str(error_of(walk.run))
    assert "approval_callback=" in error_of(walk.run).fix


@pytest.mark.parametrize("answer", [None, "yes", 1])
def test_an_answer_that_is_neither_yes_nor_no_denies(answer: object):
    """R16: a word is no approval."""
    walk = approving()

    assert walk.ok(answer) is None
    assert f"the callback answered {answer!r}, which is no ApprovalDecision and no bool" in str(error_of(walk.run))


def test_a_callback_that_raises_denies():
    """R16: with the original as its cause."""
    walk = approving()
    raised = OSError("mail server down")
    walk.err(raised)

    assert isinstance(error_of(walk.run), ApprovalDeniedError)
    assert "the callback raised OSError: mail server down" in str(error_of(walk.run))
    assert error_of(walk.run).__cause__ is raised


def test_a_denial_that_is_raised_is_recorded_as_it_is():
    """R18: a callback may say so with an error of ours."""
    walk = approving()
    raised = ApprovalDeniedError("pay", 0, "mine")
    walk.err(raised)

    assert error_of(walk.run) is raised


def test_one_approval_holds_for_all_attempts():
    """R20, R26: a retry does not ask again."""
    walk = approving(retry=TRY_AGAIN)
    walk.ok(True)

    assert walk.err(OSError("busy")) == ("call", "pay", {"n": 1})


def test_a_denied_step_may_be_skipped_or_replaced():
    """R21: a fallback that is no risk is called without asking, one that is asks for itself."""
    skipped = approving(on_error="skip")
    skipped.ok(False)
    harmless = approving(PAY, A, on_error="fallback:a")
    risky = approving(A, PAY, on_error="fallback:pay")

    assert statuses(skipped.run) == {"0": "skipped"}
    assert harmless.ok(False) == ("call", "a", {"n": 1})
    assert risky.asks == ("call", "a", {"n": 1})
    assert risky.err(OSError("down")) == ("ask", "approval", "0", None)
    assert context_of(risky).tool_name == "pay"
    assert risky.ok(True) == ("call", "pay", {"n": 1})


def test_an_approval_comes_before_the_cache():
    """R26: what may not be called may not be looked up either; the record shows the approval and the hit."""
    cached = a_tool("pay", ["n"], ["out"], safety=RISKY, cacheable=True)
    walk = approving(cached, attended={"caching": True})

    assert walk.asks[:2] == ("ask", "approval")
    assert walk.ok(True) == ("look up", "pay", None)
    walk.ok({"out": 7})
    detail = walk.run.details[0]
    assert (detail.cached, detail.approval) == (True, {"approved": True, "approver": None, "reason": None})


def test_whoever_approves_is_shown_no_dynamic_parameter():
    """R13: what callers pass beside the input never leaves the run."""
    plan = one_step(PAY, input_mapping={"n": "key"}, flow={"dynamic_params": ["key"]})
    walk = Walk(a_run(plan, {}, dynamic={"key": 7}, rules=Rules(approves=True)))

    assert context_of(walk).inputs == {"n": "<dynamic parameter>"}


class Aliased(BaseModel):
    model_config = ConfigDict(extra="ignore")
    api_key: str = Field(alias="apiKey")


@pytest.mark.parametrize("asks", ["approval", "guardrail"])
def test_a_dynamic_parameter_stays_hidden_behind_an_alias(asks: str):
    """R13: the field has one name and its input another, and neither is shown; nor is the value in the record."""
    plan = one_step(
        a_tool("pay", Aliased, ["out"], safety=RISKY),
        input_mapping={"apiKey": "key"},
        flow={"dynamic_params": ["key"]},
    )
    walk = Walk(a_run(plan, {}, dynamic={"key": "secret"}, rules=Rules(approves=True, guards=True)))
    if asks == "guardrail":
        walk.ok(True)
    assert walk.asks[:2] == ("ask", asks)

    shown = context_of(walk).inputs if asks == "approval" else context_of(walk).values
    assert shown == {"api_key": "<dynamic parameter>"}
    assert walk.run.inputs == [{"apiKey": "<dynamic parameter>"}]


def test_whoever_approves_sees_the_extra_inputs_of_an_open_model():
    """R26: everything that the tool will get."""
    walk = approving(a_tool("pay", Anything, ["out"], safety=RISKY))

    assert context_of(walk).inputs == {"n": 1}


@pytest.mark.parametrize("reply", ["in time", "late", "timed out", "timed out a moment early"])
def test_an_approval_is_waited_for_until_the_deadline(reply: str):
    """R22: it has no limit of its own."""
    walk = approving(attended={"deadline_s": 1.0})
    assert walk.asks == ("ask", "approval", "0", 1.0)
    if reply.startswith("timed out"):
        walk.err(TimedOut(), after_s=0.999 if "early" in reply else 1.0)
    else:
        walk.ok(True, after_s=0.25 if reply == "in time" else 1.0)

    if reply == "in time":
        assert walk.asks == ("invoke", "pay", {"n": 1}, 0.75, None)
    else:
        assert (walk.run.status, statuses(walk.run)) == ("cancelled", {"0": "cancelled"})


# ---- guardrails


def test_a_guardrail_sees_every_call_before_and_after():
    """R26: the validated inputs, and the validated outputs under the tool's own names."""
    walk = guarded(output_mapping={"renamed": "out"})

    assert walk.asks == ("ask", "guardrail", "0", None)
    assert context_of(walk) == GuardrailContext(TRACE, "flow", 0, "0", "a", "input", {"n": 1})
    assert walk.ok(None) == ("call", "a", {"n": 1})
    assert walk.ok({"out": 2}) == ("ask", "guardrail", "0", None)
    assert context_of(walk) == GuardrailContext(TRACE, "flow", 0, "0", "a", "output", {"out": 2})
    assert walk.ok(True) is None
    assert walk.run.final_output == {"n": 1, "renamed": 2}


REFUSALS: dict[str, tuple[object, str]] = {
    "no": (False, "no"),
    "a reason": ("it holds a card number", "it holds a card number"),
    "something else": (3, "the callback answered 3, which has no meaning"),
}


@pytest.mark.parametrize("stage", ["input", "output"])
@pytest.mark.parametrize("answer", REFUSALS)
def test_values_that_a_guardrail_refuses_go_nowhere(stage: str, answer: str):
    """R16: nothing is called, or what was returned does not count; and nothing is tried again."""
    said, why = REFUSALS[answer]
    walk = guarded(retry=TRY_AGAIN)
    if stage == "output":
        walk.ok(None)
        walk.ok({"out": 2})

    assert walk.ok(said) is None
    error = error_of(walk.run)
    assert isinstance(error, GuardrailViolationError)
    assert f"{stage}: {why}" in str(error)
    assert walk.run.slots[1] is None


@pytest.mark.parametrize("stage", ["input", "output"])
def test_a_guardrail_that_raises_refuses(stage: str):
    """R16: its own error is recorded as it is, any other as the cause."""
    for raised in (GuardrailViolationError("a", 0, "mine"), OSError("model down")):
        walk = guarded()
        if stage == "output":
            walk.ok(None)
            walk.ok({"out": 2})
        walk.err(raised)
        error = error_of(walk.run)

        assert isinstance(error, GuardrailViolationError)
        if isinstance(raised, OSError):
            assert f"{stage}: the callback raised OSError: model down" in str(error)
            assert error.__cause__ is raised
        else:
            assert error is raised


def test_what_a_cache_gives_is_looked_at_as_well():
    """R26, R30: a hit is an output like any other."""
    walk = guarded(attended={"caching": True})
    assert walk.ok(None) == ("look up", "a", None)

    assert walk.ok({"out": 7}) == ("ask", "guardrail", "0", None)
    assert context_of(walk).stage == "output"
    assert walk.ok(False) is None
    assert statuses(walk.run) == {"0": "failed"}


def test_a_fallback_passes_the_same_guardrail():
    """R21: behind the same gates, under its own name."""
    walk = guarded(A, B, on_error="fallback:b")

    assert walk.ok(False) == ("ask", "guardrail", "0", None)
    assert context_of(walk).tool_name == "b"
    assert walk.ok(None) == ("call", "b", {"n": 1})


def test_a_guardrail_is_shown_no_dynamic_parameter():
    """R13: what callers pass beside the input never leaves the run."""
    plan = one_step(A, input_mapping={"n": "key"}, flow={"dynamic_params": ["key"]})
    walk = Walk(a_run(plan, {}, dynamic={"key": 7}, rules=Rules(guards=True)))

    assert context_of(walk).values == {"n": "<dynamic parameter>"}


def test_a_guardrail_cannot_change_what_it_looks_at():
    """R10: it is shown a dict of its own."""
    walk = guarded()
    walk.ok(None)
    walk.ok({"out": 2})
    context_of(walk).values["out"] = 99
    walk.ok(None)

    assert walk.run.final_output == {"n": 1, "out": 2}


@pytest.mark.parametrize("stage", ["input", "output"])
@pytest.mark.parametrize("reply", ["late", "timed out", "timed out a moment early"])
def test_a_guardrail_is_waited_for_until_the_deadline(stage: str, reply: str):
    """R22: it has no limit of its own."""
    walk = guarded(attended={"deadline_s": 1.0})
    if stage == "output":
        walk.ok(None, after_s=0)
        walk.ok({"out": 2}, after_s=0)
    assert walk.asks == ("ask", "guardrail", "0", 1.0)
    if reply == "late":
        walk.ok(None, after_s=1.0)
    else:
        walk.err(TimedOut(), after_s=0.999 if "early" in reply else 1.0)

    assert (walk.run.status, statuses(walk.run)) == ("cancelled", {"0": "cancelled"})


def test_a_step_with_all_three_asks_in_this_order():
    """R26: which tool, may it be called, are its inputs fine, are its outputs."""
    rules = Rules(decides=True, approves=True, guards=True)
    walk = Walk(a_run(one_step(A, PAY, decision_candidates=["a", "pay"]), {"n": 1}, rules=rules))

    assert walk.asks[:2] == ("ask", "decision")
    assert walk.ok("pay")[:2] == ("ask", "approval")
    assert walk.ok(True)[:2] == ("ask", "guardrail")
    assert walk.ok(None) == ("call", "pay", {"n": 1})
    assert walk.ok({"out": 1})[:2] == ("ask", "guardrail")
    assert walk.ok(None) is None
    assert walk.run.status == "ok"


def test_a_tool_that_times_out_is_not_taken_for_a_question_that_did():
    """R22: the limit of the tool fails the step and leaves the run alone."""
    slow = a_tool("slow", ["n"], ["out"], timeout_seconds=0.5)
    walk = guarded(slow, attended={"deadline_s": 5.0})
    walk.ok(None, after_s=0)
    assert walk.asks == ("invoke", "slow", {"n": 1}, 0.5, None)
    walk.err(TimedOut(), after_s=0.5)

    assert isinstance(error_of(walk.run), ToolTimeoutError)


def test_a_rehearsal_with_gaps_ends_with_the_outputs_that_there_are():
    """R26: a dry run passes over what cannot be rehearsed, also where the flow names that as its output."""
    rehearsed = a_tool("a", ["n"], ["a_out"], dry_run_fn=_never_called)
    plan = a_plan(
        [FlowStep(tool_name="a"), FlowStep(tool_name="b", input_mapping={"n": "n"})],
        [rehearsed, a_tool("b", ["n"], ["b_out"])],
        outputs=("a_out", "b_out"),
    )
    run = Walk(a_run(plan, {"n": 1}, rules=Rules(dry="skip")))
    run.ok({"a_out": 2})

    assert run.run.status == "ok"
    assert run.run.final_output == {"a_out": 2}


def _never_called(inputs: Any) -> Any:
    raise AssertionError("the run core calls no tool")
