"""What the errors of the core say, word for word: what happened, where, and what to do about it.

One flow for each message. Whoever changes a text changes it here as well, and reads the whole of it once.
"""
# ruff: noqa: E501 - messages stand here as they are printed

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from chainweaver import DAGFlowStep, SideEffectLevel, ToolSafetyContract
from chainweaver._execution import Run, TimedOut
from chainweaver._execution.commands import Proceed
from chainweaver._execution.rules import Rules
from chainweaver.flow import RetryPolicy
from chainweaver.flow.callbacks import DecisionPolicy
from tests.execution.kit import Crowd, Walk, a_plan, a_run, a_step, a_tool, error_of, one_step

TOOL, OTHER = a_tool("tool", ["n"], ["out"]), a_tool("other", ["n"], ["out"])
SENDS = a_tool("sends", ["n"], ["out"], safety=ToolSafetyContract(side_effects=SideEffectLevel.EXTERNAL))
ASKS = a_tool("asks", ["n"], ["out"], safety=ToolSafetyContract(requires_approval=True))
SLOW = a_tool("slow", ["n"], ["out"], timeout_seconds=2.5)
LARGE = a_tool("large", ["n"], {"out": str}, max_output_size=20)
DOWN = OSError("it is down")


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


def alone(tool: Any, *replies: Any, others: Any = (), attended: Any = None, rules: Any = None, **step: Any) -> Any:
    """The error of a flow of one step, after these replies."""
    run = a_run(one_step(tool, *others, **step), {"n": 1}, rules=Rules(**(rules or {})), **(attended or {}))
    return replied(run, *replies)


def replied(run: Run, *replies: Any) -> Any:
    walk = Walk(run)
    for reply in replies:
        walk.err(reply) if isinstance(reply, BaseException) else walk.ok(reply)
    assert walk.asks is None
    return error_of(run, min(run.failures, default=0))


def capability(*replies: Any) -> Any:
    return replied(
        a_run(a_plan([DAGFlowStep(step_id="ask", step_type="capability", capability_id="people")], [])), *replies
    )


def siblings() -> Any:
    tools = [a_tool(name, ["n"], Open) for name in ("one", "two")]
    crowd = Crowd(a_run(a_plan([a_step("one"), a_step("two")], tools), {"n": 1}))
    for name in ("one", "two"):
        crowd.ok(name, {"key": 1})
    return error_of(crowd.concluded(), 1)


def mapped(value: Any) -> Any:
    return replied(a_run(a_plan([a_step("tool", map_over="rows", map_as="n")], [TOOL]), {"rows": value}))


def branching() -> Any:
    steps = [
        a_step("tool", branches=[{"predicate": "out < limit", "target_step_id": "other"}]),
        a_step("other", "tool", output_mapping={"x": "out"}),
    ]
    return replied(a_run(a_plan(steps, [TOOL, OTHER]), {"n": 1, "limit": "many"}), {"out": 1})


def refusing(run: Run, *_: Any) -> Any:
    yield Proceed() if run is None else 3


CASES: dict[str, Callable[[], Any]] = {
    "no contract": lambda: alone(TOOL, rules={"strict": True}),
    "no contract under a ceiling": lambda: alone(TOOL, rules={"strict": True, "ceiling": SideEffectLevel.READ}),
    "above the ceiling": lambda: alone(SENDS, rules={"ceiling": SideEffectLevel.READ}),
    "no rehearsal": lambda: alone(TOOL, rules={"dry": "abort"}),
    "nobody approves": lambda: alone(ASKS),
    "approval raises": lambda: alone(ASKS, DOWN, rules={"approves": True}),
    "approval without a meaning": lambda: alone(ASKS, 3, rules={"approves": True}),
    "nobody decides": lambda: alone(TOOL, others=[OTHER], decision_candidates=["other"]),
    "no more decisions": lambda: alone(
        TOOL,
        others=[OTHER],
        decision_candidates=["other"],
        rules={"decides": True, "decision": DecisionPolicy(budget=0)},
    ),
    "decision too late": lambda: alone(
        TOOL,
        TimedOut(),
        others=[OTHER],
        decision_candidates=["other"],
        rules={"decides": True, "decision": DecisionPolicy(timeout_seconds=1.5)},
    ),
    "decision raises": lambda: alone(
        TOOL, DOWN, others=[OTHER], decision_candidates=["other"], rules={"decides": True}
    ),
    "no candidate": lambda: alone(TOOL, "?", others=[OTHER], decision_candidates=["other"], rules={"decides": True}),
    "guardrail refuses": lambda: alone(TOOL, "too much", rules={"guards": True}),
    "guardrail refuses without a reason": lambda: alone(TOOL, False, rules={"guards": True}),
    "guardrail raises": lambda: alone(TOOL, None, {"out": 1}, DOWN, rules={"guards": True}),
    "guardrail without a meaning": lambda: alone(TOOL, 3, rules={"guards": True}),
    "nobody performs": lambda: capability(),
    "tool raises": lambda: alone(TOOL, DOWN),
    "tool raises again": lambda: alone(TOOL, DOWN, DOWN, retry=RetryPolicy(max_retries=1, backoff_seconds=0)),
    "too late": lambda: alone(SLOW, TimedOut()),
    "too late and left behind": lambda: alone(SLOW, TimedOut(abandoned=True)),
    "inputs refused": lambda: replied(a_run(one_step(TOOL), {"n": None})),
    "inputs missing": lambda: alone(a_tool("two", ["n", "m", "k"])),
    "inputs unknown": lambda: alone(TOOL, input_mapping={"n": "m"}),
    "outputs refused": lambda: alone(TOOL, {"x": 1}),
    "outputs too large": lambda: alone(LARGE, {"out": "x" * 40}),
    "output not there": lambda: alone(
        a_tool("open", ["n"], ["out"]), {"out": 1}, output_mapping={"x": "out", "y": "out2"}
    ),
    "siblings": siblings,
    "no list": lambda: mapped({"a": 1}),
    "predicate": branching,
    "store": lambda: alone(TOOL, {"out": 1}, DOWN, attended={"saving": True}),
    "wrapper": lambda: alone(TOOL, rules={"around_step": (refusing,)}),
}


# ---- the messages

MESSAGES = {
    "no contract": """
Tool 'tool' has side effects 'undeclared', above the ceiling 'none'.
  where   flow 'flow' 1.0.0
  fix     give the tool a ToolSafetyContract, or run it without strict_safety""",
    "no contract under a ceiling": """
Tool 'tool' has side effects 'undeclared', above the ceiling 'read'.
  where   flow 'flow' 1.0.0
  fix     give the tool a ToolSafetyContract, or run it without strict_safety""",
    "above the ceiling": """
Tool 'sends' has side effects 'external', above the ceiling 'read'.
  where   flow 'flow' 1.0.0
  fix     raise max_side_effect_level for such flows""",
    "no rehearsal": """
Tool 'tool' failed at step 0: tool 'tool' has no dry run.
  where   flow 'flow' 1.0.0, step 0
  fix     give the tool a dry_run_fn, or declare supports_dry_run in its safety contract""",
    "nobody approves": """
Approval of tool 'asks' at step 0 was denied: the executor has no approval callback.
  where   flow 'flow' 1.0.0, step 0
  fix     pass approval_callback= to FlowExecutor""",
    "approval raises": """
Approval of tool 'asks' at step 0 was denied: the callback raised OSError: it is down.
  where   flow 'flow' 1.0.0, step 0
  fix     correct the callback; its error is the cause of this one""",
    "approval without a meaning": """
Approval of tool 'asks' at step 0 was denied: the callback answered 3, which is no ApprovalDecision and no bool.
  where   flow 'flow' 1.0.0, step 0
  fix     answer with an ApprovalDecision, True or False""",
    "nobody decides": """
Decision at step 0 ('tool') failed: the executor has no decision callback.
  where   flow 'flow' 1.0.0, step 0
  fix     pass decision_callback= to FlowExecutor, or decision_policy=DecisionPolicy(default='tool_name')""",
    "no more decisions": """
Decision at step 0 ('tool') failed: the budget of 0 decision(s) is used up.
  where   flow 'flow' 1.0.0, step 0
  fix     raise the budget, or decision_policy=DecisionPolicy(default='tool_name')""",
    "decision too late": """
Decision at step 0 ('tool') failed: nobody answered within 1.5 s.
  where   flow 'flow' 1.0.0, step 0
  fix     give the callback more time, or decision_policy=DecisionPolicy(default='tool_name')""",
    "decision raises": """
Decision at step 0 ('tool') failed: the callback raised OSError: it is down.
  where   flow 'flow' 1.0.0, step 0
  fix     correct the callback; its error is the cause of this one""",
    "no candidate": """
Decision at step 0 ('tool') failed: the callback answered '?', which is no candidate.
  where   flow 'flow' 1.0.0, step 0
  known   other
  fix     answer with the name of a candidate""",
    "guardrail refuses": """
Guardrail refused tool 'tool' at step 0: input: too much.
  where   flow 'flow' 1.0.0, step 0""",
    "guardrail refuses without a reason": """
Guardrail refused tool 'tool' at step 0: input: no reason was given.
  where   flow 'flow' 1.0.0, step 0""",
    "guardrail raises": """
Guardrail refused tool 'tool' at step 0: output: the callback raised OSError: it is down.
  where   flow 'flow' 1.0.0, step 0
  fix     correct the callback; its error is the cause of this one""",
    "guardrail without a meaning": """
Guardrail refused tool 'tool' at step 0: input: the callback answered 3, which has no meaning.
  where   flow 'flow' 1.0.0, step 0
  fix     answer None or True to let values pass, False or a text to refuse them""",
    "nobody performs": """
Tool 'ask' failed at step 0: there is nobody to perform capability 'people'.
  where   flow 'flow' 1.0.0, step 0
  fix     pass capability_hook= to FlowExecutor""",
    "tool raises": """
Tool 'tool' failed at step 0: OSError: it is down.
  where   flow 'flow' 1.0.0, step 0""",
    "tool raises again": """
Tool 'tool' failed at step 0: OSError: it is down.
  where   flow 'flow' 1.0.0, step 0""",
    "too late": """
Tool 'slow' did not finish within 2.5 seconds.
  where   flow 'flow' 1.0.0""",
    "too late and left behind": """
Tool 'slow' did not finish within 2.5 seconds.
  where   flow 'flow' 1.0.0
  why     it was abandoned in its thread and may still be running""",
    "inputs refused": """
Schema validation failed for tool 'tool' at step 0 (input): n: Input should be a valid integer.
  where   flow 'flow' 1.0.0, step 0
  fix     map a value that fits, or convert it in a step before""",
    "inputs missing": """
Schema validation failed for tool 'two' at step 0 (input): m: Field required; k: Field required.
  where   flow 'flow' 1.0.0, step 0
  fix     give the flow a context key 'm', 'k', or map one with input_mapping""",
    "inputs unknown": """
Input mapping of step 'tool' reads unknown key 'm'.
  where   flow 'flow' 1.0.0, step 0
  known   n""",
    "outputs refused": """
Schema validation failed for tool 'tool' at step 0 (output): out: Field required.
  where   flow 'flow' 1.0.0, step 0
  fix     let the tool return what its output schema declares, or declare what it returns""",
    "outputs too large": """
Tool 'large' returned 50 bytes, more than its limit of 20 bytes.
  where   flow 'flow' 1.0.0""",
    "output not there": """
Output mapping of step 'open' takes unknown output key 'out2'.
  where   flow 'flow' 1.0.0, step 0
  known   out
  fix     did you mean 'out'?""",
    "siblings": """
Tool 'two' failed at step 1: Key 'key' produced by both 'one' and its sibling 'two'.
  where   flow 'flow' 1.0.0, step 1
  fix     rename one of them with output_mapping, or let one step depend on the other""",
    "no list": """
Tool 'tool' failed at step 0: it maps over a value of type 'dict', which is no list.
  where   flow 'flow' 1.0.0, step 0
  fix     map over a list; list(...) makes one""",
    "predicate": """
Tool 'tool' failed at step 0: the predicate 'out < limit' of its branch to 'other' cannot be answered: TypeError: '<' not supported between instances of 'int' and 'str'.
  where   flow 'flow' 1.0.0, step 0
  fix     let the predicate fit the values it reads""",
    "store": """
Tool 'tool' failed at step 0: its checkpoint could not be written: OSError: it is down.
  where   flow 'flow' 1.0.0, step 0
  fix     see to the store of the checkpointer; the tool itself has succeeded""",
    "wrapper": """
Tool 'tool' failed at step 0: middleware around it did not let it proceed: TypeError: it yielded 3, which is neither Sleep(seconds) nor Proceed().
  where   flow 'flow' 1.0.0, step 0""",
}


@pytest.mark.parametrize("case", CASES)
def test_a_message_says_what_happened_where_and_what_to_do(case: str):
    """R16: composed from facts, in the same words every time."""
    assert str(CASES[case]()) == MESSAGES[case].removeprefix("\n")


@pytest.mark.parametrize(
    ("name", "mapping", "sentence"),
    [
        ("token", {"n": "token"}, "Input mapping of step 'tool' reads unknown key 'token'."),
        ("n", {}, "Schema validation failed for tool 'tool' at step 0 (input): n: Field required."),
    ],
    ids=["mapped", "by its name"],
)
def test_a_dynamic_parameter_that_was_not_passed_says_where_such_come_from(name: str, mapping: Any, sentence: str):
    """R13, R16: a context key would not do in its place."""
    error = alone_without(TOOL, input_mapping=mapping, flow={"dynamic_params": [name]})

    assert error.sentence == sentence
    assert error.fix == (
        f"pass dynamic_params={{'{name}': ...}}, or --param {name}=...; a flow that runs this one has to list the name as well"
    )


def test_a_context_key_is_asked_for_where_not_only_dynamic_parameters_are_missing():
    """R13, R16: only keys that would do are named."""
    error = alone_without(a_tool("two", ["n", "m"], ["out"]), flow={"dynamic_params": ["n"]})

    assert error.fix == "give the flow a context key 'm', or map one with input_mapping"


def alone_without(tool: Any, **step: Any) -> Any:
    """The error of a flow of one step that is given nothing at all."""
    return error_of(Walk(a_run(one_step(tool, **step), {})).run)
