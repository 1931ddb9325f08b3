"""What goes wrong outside of tools, told in full: the error, its text, its place in the record, and what can be done
with it afterwards. Every story is the same on every lane.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import json
import pickle
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import pytest

from chainweaver import (
    ApprovalDeniedError,
    BaseMiddleware,
    CancellationToken,
    ChainWeaverError,
    ConditionalEdge,
    DAGFlowStep,
    ExecutionResult,
    FlowCancelledError,
    FlowCompositionError,
    FlowExecutionError,
    FlowExecutor,
    FlowStatus,
    GuardrailViolationError,
    RetryPolicy,
    ToolSafetyContract,
    error_code_registry,
)
from chainweaver.flow.callbacks import ApprovalDecision, DecisionPolicy
from tests.docs.pages import ROOT
from tests.lanes.kit import LIMIT_S, a_flow, a_step, a_tool
from tests.lanes.table import LANES, SYNC, TRIO, Lane, pause

lanes = pytest.mark.parametrize("lane", LANES, ids=repr)

PAYS = ToolSafetyContract(side_effects="external", requires_approval=True, approval_reason="it pays")
TOOLS = [
    a_tool("a", lambda given: {"out": given.n + 1}),
    a_tool("b", lambda given: {"out": given.n + 2}),
    a_tool("pay", lambda given: {"out": given.n}, safety=PAYS),
    a_tool("odd", lambda given: {"out": 100 // (given.n % 2)}),
    a_tool("inc", lambda given: {"out": given.n + 1}),
]


def branching(predicate: str, **options: Any) -> Any:
    edge = ConditionalEdge(target_step_id="next", predicate=predicate)
    return a_flow(a_step("a", branches=[edge], **options), a_step("next", "a", tool_name="inc"))


def deciding(**options: Any) -> Any:
    return a_flow(a_step("a", decision_candidates=["a", "b"], **options))


def capable() -> Any:
    return a_flow(DAGFlowStep(step_id="mail", step_type="capability", capability_id="mail.send"))


def mapping(**options: Any) -> Any:
    return a_flow(a_step("odd", map_over="items", map_as="n", **options))


def raising(error: BaseException) -> Callable[[Any], Any]:
    def callback(context: Any) -> Any:
        raise error

    return callback


async def nothing() -> None: ...


def hands_on_a_coroutine(context: Any) -> Any:
    return nothing()


BUSY = OSError("the line is busy")


@dataclass(frozen=True)
class Story:
    """A run that fails.

    Attributes:
        text: All that `str(error)` says.
        options: What the executor is given.
        cause: Class of the original exception.
        record: More fields of the record.
    """

    name: str
    flow: Any
    error: str
    code: str
    text: str
    options: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=lambda: {"n": 1})
    cause: str | None = None
    record: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.name


STORIES = [
    # ---- predicates
    Story(
        "a predicate that is none",
        branching("a >"),
        *("PredicateSyntaxError", "E036"),
        "Predicate 'a >' is not valid: a value is expected, not the end (column 4).\n"
        "  where   flow 'flow' 1.0.0, step 'a'",
    ),
    Story(
        "a predicate that reads an attribute",
        branching("a.__class__"),
        *("PredicateSyntaxError", "E036"),
        "Predicate 'a.__class__' is not valid: predicates read no attributes (column 2).\n"
        "  where   flow 'flow' 1.0.0, step 'a'\n"
        "  fix     write a subscript: ['__class__']",
    ),
    Story(
        "a predicate that calls",
        branching("abs(a) > 1"),
        *("PredicateSyntaxError", "E036"),
        "Predicate 'abs(a) > 1' is not valid: there is no call but matches(text, r'...') (column 4).\n"
        "  where   flow 'flow' 1.0.0, step 'a'\n"
        "  fix     let a tool compute the value and compare its output",
    ),
    Story(
        "a predicate about what is not there",
        branching("score > 1"),
        *("FlowExecutionError", "E006"),
        "Tool 'a' failed at step 0: the predicate 'score > 1' of its branch to 'next' cannot be answered: "
        "there is no 'score'.\n"
        "  where   flow 'flow' 1.0.0, step 0\n"
        "  fix     let the predicate fit the values it reads",
        cause="KeyMissing",
    ),
    Story(
        "a predicate that compares what cannot be compared",
        branching("a > 'x'"),
        *("FlowExecutionError", "E006"),
        "Tool 'a' failed at step 0: the predicate 'a > 'x'' of its branch to 'next' cannot be answered: "
        "TypeError: '>' not supported between instances of 'int' and 'str'.\n"
        "  where   flow 'flow' 1.0.0, step 0\n"
        "  fix     let the predicate fit the values it reads",
        cause="TypeError",
    ),
    Story(
        "a predicate that fails a step which would be skipped",
        branching("a['k'] == 1", on_error="skip"),
        *("FlowExecutionError", "E006"),
        "Tool 'a' failed at step 0: the predicate 'a['k'] == 1' of its branch to 'next' cannot be answered: TypeError: "
        "'a['k']' subscripts a value of type int; only mappings, lists, tuples and texts have items.\n"
        "  where   flow 'flow' 1.0.0, step 0\n"
        "  fix     let the predicate fit the values it reads",
        cause="TypeError",
    ),
    # ---- decisions
    Story(
        "nobody decides",
        deciding(),
        *("DecisionCallbackError", "E031"),
        "Decision at step 0 ('a') failed: the executor has no decision callback.\n"
        "  where   flow 'flow' 1.0.0, step 0\n"
        "  fix     pass decision_callback= to FlowExecutor, or decision_policy=DecisionPolicy(default='tool_name')",
    ),
    Story(
        "a decision callback that raises",
        deciding(),
        *("DecisionCallbackError", "E031"),
        "Decision at step 0 ('a') failed: the callback raised OSError: the line is busy.\n"
        "  where   flow 'flow' 1.0.0, step 0\n"
        "  fix     correct the callback; its error is the cause of this one",
        {"decision_callback": raising(BUSY)},
        cause="OSError",
    ),
    Story(
        "a decision outside the candidates",
        deciding(),
        *("DecisionCallbackError", "E031"),
        "Decision at step 0 ('a') failed: the callback answered 'pay', which is no candidate.\n"
        "  where   flow 'flow' 1.0.0, step 0\n"
        "  known   a, b\n"
        "  fix     answer with the name of a candidate",
        {"decision_callback": lambda context: "pay"},
    ),
    Story(
        "a decision that is no name",
        deciding(),
        *("DecisionCallbackError", "E031"),
        "Decision at step 0 ('a') failed: the callback answered an object of type 'list', which is no candidate.\n"
        "  where   flow 'flow' 1.0.0, step 0\n"
        "  known   a, b\n"
        "  fix     answer with the name of a candidate",
        {"decision_callback": lambda context: ["a"]},
    ),
    Story(
        "a decision that nobody awaits",
        deciding(),
        *("DecisionCallbackError", "E031"),
        "Decision at step 0 ('a') failed: the callback answered a coroutine, which nobody awaits, "
        "which is no candidate.\n"
        "  where   flow 'flow' 1.0.0, step 0\n"
        "  known   a, b\n"
        "  fix     write the callback, and what stands around it, with 'async def'",
        {"decision_callback": hands_on_a_coroutine},
    ),
    Story(
        "a budget that is used up",
        deciding(),
        *("DecisionCallbackError", "E031"),
        "Decision at step 0 ('a') failed: the budget of 0 decision(s) is used up.\n"
        "  where   flow 'flow' 1.0.0, step 0\n"
        "  fix     raise the budget, or decision_policy=DecisionPolicy(default='tool_name')",
        {"decision_callback": lambda context: "a", "decision_policy": DecisionPolicy(budget=0)},
    ),
    Story(
        "a candidate that nobody registered",
        a_flow(a_step("a", decision_candidates=["a", "bb"])),
        *("ToolNotFoundError", "E001"),
        "Tool 'bb' is not registered.\n"
        "  where   flow 'flow' 1.0.0, step 'a'\n"
        "  known   a, b, inc, odd, pay\n"
        "  fix     did you mean 'b'?",
        {"decision_callback": lambda context: "a"},
    ),
    # ---- approvals
    Story(
        "nobody approves",
        a_flow(a_step("pay")),
        *("ApprovalDeniedError", "E029"),
        "Approval of tool 'pay' at step 0 was denied: the executor has no approval callback.\n"
        "  where   flow 'flow' 1.0.0, step 0\n"
        "  fix     pass approval_callback= to FlowExecutor",
    ),
    Story(
        "an approval that is denied",
        a_flow(a_step("pay", retry=RetryPolicy(backoff_seconds=0))),
        *("ApprovalDeniedError", "E029"),
        "Approval of tool 'pay' at step 0 was denied: too much.\n  where   flow 'flow' 1.0.0, step 0",
        {"approval_callback": lambda context: ApprovalDecision(False, "eve", "too much")},
        record={"approval": {"approved": False, "approver": "eve", "reason": "too much"}, "retry_count": 0},
    ),
    Story(
        "an approval that is denied without a word",
        a_flow(a_step("pay")),
        *("ApprovalDeniedError", "E029"),
        "Approval of tool 'pay' at step 0 was denied.\n  where   flow 'flow' 1.0.0, step 0",
        {"approval_callback": lambda context: False},
        record={"approval": {"approved": False, "approver": None, "reason": None}},
    ),
    Story(
        "an approval callback that raises",
        a_flow(a_step("pay")),
        *("ApprovalDeniedError", "E029"),
        "Approval of tool 'pay' at step 0 was denied: the callback raised OSError: the line is busy.\n"
        "  where   flow 'flow' 1.0.0, step 0\n"
        "  fix     correct the callback; its error is the cause of this one",
        {"approval_callback": raising(BUSY)},
        cause="OSError",
    ),
    Story(
        "an approval callback that says it in an error of ours",
        a_flow(a_step("pay")),
        *("ApprovalDeniedError", "E029"),
        "Approval of tool 'pay' at step 0 was denied: not on a Sunday.\n  where   flow 'flow' 1.0.0, step 0",
        {"approval_callback": lambda context: raising(ApprovalDeniedError("pay", 0, "not on a Sunday"))(context)},
    ),
    Story(
        "an approval that says yes in words",
        a_flow(a_step("pay")),
        *("ApprovalDeniedError", "E029"),
        "Approval of tool 'pay' at step 0 was denied: "
        "the callback answered 'yes', which is no ApprovalDecision and no bool.\n"
        "  where   flow 'flow' 1.0.0, step 0\n"
        "  fix     answer with an ApprovalDecision, True or False",
        {"approval_callback": lambda context: "yes"},
    ),
    Story(
        "an approval that is not quite a yes",
        a_flow(a_step("pay")),
        *("ApprovalDeniedError", "E029"),
        "Approval of tool 'pay' at step 0 was denied: "
        "the callback raised TypeError: approved has to be True or False, not 'no'.\n"
        "  where   flow 'flow' 1.0.0, step 0\n"
        "  fix     correct the callback; its error is the cause of this one",
        {"approval_callback": lambda context: ApprovalDecision("no")},  # type: ignore[arg-type]  # the mistake
        cause="TypeError",
    ),
    # ---- guardrails
    Story(
        "a guardrail that refuses inputs",
        a_flow(a_step("a")),
        *("GuardrailViolationError", "E052"),
        "Guardrail refused tool 'a' at step 0: input: it names a customer.\n  where   flow 'flow' 1.0.0, step 0",
        {"guardrail_callback": lambda context: "it names a customer"},
    ),
    Story(
        "a guardrail that refuses outputs",
        a_flow(a_step("a")),
        *("GuardrailViolationError", "E052"),
        "Guardrail refused tool 'a' at step 0: output: no reason was given.\n  where   flow 'flow' 1.0.0, step 0",
        {"guardrail_callback": lambda context: context.stage == "input"},
    ),
    Story(
        "a guardrail that raises",
        a_flow(a_step("a")),
        *("GuardrailViolationError", "E052"),
        "Guardrail refused tool 'a' at step 0: input: the callback raised OSError: the line is busy.\n"
        "  where   flow 'flow' 1.0.0, step 0\n"
        "  fix     correct the callback; its error is the cause of this one",
        {"guardrail_callback": raising(BUSY)},
        cause="OSError",
    ),
    Story(
        "a guardrail whose answer means nothing",
        a_flow(a_step("a")),
        *("GuardrailViolationError", "E052"),
        "Guardrail refused tool 'a' at step 0: input: the callback answered 0, which has no meaning.\n"
        "  where   flow 'flow' 1.0.0, step 0\n"
        "  fix     answer None or True to let values pass, False or a text to refuse them",
        {"guardrail_callback": lambda context: 0},
    ),
    Story(
        "a guardrail that says it in an error of ours",
        a_flow(a_step("a")),
        *("GuardrailViolationError", "E052"),
        "Guardrail refused tool 'a' at step 0: 3 addresses.\n  where   flow 'flow' 1.0.0, step 0",
        {"guardrail_callback": lambda context: raising(GuardrailViolationError("a", 0, "3 addresses"))(context)},
    ),
    # ---- safety
    Story(
        "effects above the ceiling",
        a_flow(a_step("charge", tool_name="pay")),
        *("SafetyCeilingError", "E030"),
        "Tool 'pay' has side effects 'external', above the ceiling 'write'.\n"
        "  where   flow 'flow' 1.0.0, step 'charge'\n"
        "  fix     raise max_side_effect_level for such flows",
        {"max_side_effect_level": "write", "approval_callback": lambda context: True},
    ),
    Story(
        "effects that nobody declared",
        a_flow(a_step("count", tool_name="a")),
        *("SafetyCeilingError", "E030"),
        "Tool 'a' has side effects 'undeclared', above the ceiling 'none'.\n"
        "  where   flow 'flow' 1.0.0, step 'count'\n"
        "  fix     give the tool a ToolSafetyContract, or run it without strict_safety",
        {"strict_safety": True},
    ),
    # ---- capabilities
    Story(
        "a capability under strict safety",
        capable(),
        *("SafetyCeilingError", "E030"),
        "Tool 'mail.send' has side effects 'undeclared', above the ceiling 'none'.\n"
        "  where   flow 'flow' 1.0.0, step 'mail'\n"
        "  fix     a capability declares no effects: put a tool in its place, or run it without strict_safety",
        {"strict_safety": True, "capability_hook": lambda context: {}},
    ),
    Story(
        "nobody performs a capability",
        capable(),
        *("FlowExecutionError", "E006"),
        "Tool 'mail' failed at step 0: there is nobody to perform capability 'mail.send'.\n"
        "  where   flow 'flow' 1.0.0, step 0\n"
        "  fix     pass capability_hook= to FlowExecutor",
    ),
    Story(
        "a capability that raises",
        capable(),
        *("FlowExecutionError", "E006"),
        "Tool 'mail' failed at step 0: OSError: the line is busy.\n"
        "  where   flow 'flow' 1.0.0, step 0",
        {"capability_hook": raising(BUSY)},
        cause="OSError",
    ),
    Story(
        "a capability that gives nothing",
        capable(),
        *("SchemaValidationError", "E004"),
        "Schema validation failed for tool 'mail.send' at step 0 (output): "
        "TypeError: it returned NoneType, not a mapping of output names to values.\n"
        "  where   flow 'flow' 1.0.0, step 0 ('mail')\n"
        "  fix     let the capability hook give back a mapping with these names and types",
        {"capability_hook": lambda context: None},
        cause="TypeError",
    ),
    # ---- maps
    Story(
        "a map over what is no list",
        mapping(),
        *("FlowExecutionError", "E006"),
        "Tool 'odd' failed at step 0: it maps over a value of type 'int', which is no list.\n"
        "  where   flow 'flow' 1.0.0, step 0\n"
        "  fix     map over a list; list(...) makes one",
        given={"items": 3},
    ),
    Story(
        "an item that fails its map",
        mapping(),
        *("FlowExecutionError", "E006"),
        "Tool 'odd' failed at step 0: ZeroDivisionError: integer division or modulo by zero.\n"
        "  where   flow 'flow' 1.0.0, step 'odd', item 1",
        given={"items": [1, 2, 4]},
        cause="ZeroDivisionError",
    ),
    # ---- dry runs
    Story(
        "a rehearsal of what cannot be rehearsed",
        a_flow(a_step("a")),
        *("FlowExecutionError", "E006"),
        "Tool 'a' failed at step 0: tool 'a' has no dry run.\n"
        "  where   flow 'flow' 1.0.0, step 0\n"
        "  fix     give the tool a dry_run_fn, or declare supports_dry_run in its safety contract",
        {"call": {"dry_run": True, "dry_run_unsupported": "abort"}},
    ),
]  # fmt: skip


def ran(lane: Lane, story: Story) -> ExecutionResult:
    options = dict(story.options)
    call = options.pop("call", {})
    with lane.executor(tools=TOOLS, flows=[story.flow], **options) as executor:
        return lane.run(executor, "flow", story.given, **call)


KEPT: dict[tuple[str, str], ExecutionResult] = {}


def result_of(lane: Lane, story: Story) -> ExecutionResult:
    """What became of a story, which is run once for all tests that only look at it."""
    key = lane.name, story.name
    if key not in KEPT:
        KEPT[key] = ran(lane, story)
    return KEPT[key]


@lanes
@pytest.mark.parametrize("story", STORIES, ids=repr)
def test_a_story_is_recorded_as_it_happened(lane: Lane, story: Story) -> None:
    """R16, R18, R26: type, code, text, cause and what was decided, in the record of the step that failed."""
    result = result_of(lane, story)
    assert (result.status, result.success, result.final_output) == ("failed", False, None)
    record = next(record for record in result.execution_log if record.status == "failed")
    assert (record.error_type, record.error_code, record.error_cause) == (story.error, story.code, story.cause)
    assert record.error_message == story.text
    assert (record.success, record.skipped, record.outputs) == (False, False, None)
    expected = {"approval": None, "decision": None, **story.record}
    assert {name: getattr(record, name) for name in expected} == expected


@lanes
@pytest.mark.parametrize("story", STORIES, ids=repr)
def test_the_error_of_a_story_is_raised_and_travels(lane: Lane, story: Story) -> None:
    """R16: `raise_for_failure` raises it with its cause; it can be pickled, and so can the result."""
    result = result_of(lane, story)
    with pytest.raises(ChainWeaverError) as caught:
        result.raise_for_failure()
    error = caught.value
    assert (type(error).__name__, error.code, str(error)) == (story.error, story.code, story.text)
    assert error.render().startswith(f"CW-{story.code} ")
    assert (None if error.__cause__ is None else type(error.__cause__).__name__) == story.cause
    travelled = pickle.loads(pickle.dumps(error))
    assert (type(travelled), str(travelled)) == (type(error), story.text)
    for twin in (pickle.loads(pickle.dumps(result)), ExecutionResult.model_validate_json(result.model_dump_json())):
        assert twin == result
        with pytest.raises(FlowExecutionError) as again:
            twin.raise_for_failure()
        assert story.text.split("\n")[0].rstrip(".") in again.value.sentence


KINDS = {story.code: story.error for story in STORIES} | {"E012": "FlowCancelledError", "E015": "FlowCompositionError"}


@pytest.mark.parametrize(("code", "name"), sorted(KINDS.items()))
def test_the_code_of_every_story_is_explained(code: str, name: str) -> None:
    """Area: the page of errors has a heading for it, with the name of the class."""
    assert f"### CW-{code} `{name}`" in (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert error_code_registry()[code].__name__ == name


def test_every_story_says_where_it_happened() -> None:
    """Area: and one in which somebody made a mistake says what to do about it."""
    for story in STORIES:
        assert "  where   flow 'flow' 1.0.0, step " in story.text, story.name
    silent = {story.name for story in STORIES if "  fix     " not in story.text}
    assert silent == {
        "a predicate that is none",
        *("an approval that is denied", "an approval that is denied without a word"),
        *("an approval callback that says it in an error of ours", "a guardrail that says it in an error of ours"),
        *("a guardrail that refuses inputs", "a guardrail that refuses outputs"),
        *("a capability that raises", "an item that fails its map"),
    }


# ---- policies of the step


REFUSED = ("DecisionCallbackError", "ApprovalDeniedError", "GuardrailViolationError", "SafetyCeilingError")


@lanes
@pytest.mark.parametrize("story", [story for story in STORIES if story.error in REFUSED], ids=repr)
def test_a_step_may_be_skipped_for_its_story(lane: Lane, story: Story) -> None:
    """R21: `on_error` holds for decisions, approvals and guardrails too, and the record keeps the error."""
    [step] = story.flow.steps
    skipping = story.flow.model_copy(update={"steps": [step.model_copy(update={"on_error": "skip"})]})
    result = ran(lane, replace(story, flow=skipping))
    assert (result.status, result.final_output) == ("ok", story.given)
    record = result.step(step.step_id)
    assert (record.status, record.skipped, record.error_message) == ("skipped", True, story.text)


@lanes
def test_a_fallback_stands_in_for_a_tool_that_may_not_be_called(lane: Lane) -> None:
    """R21: what was denied for the tool is asked anew for the fallback, if that needs to be asked for."""
    flow = a_flow(a_step("pay", on_error="fallback:a"))
    with lane.executor(tools=TOOLS, flows=[flow], approval_callback=lambda context: False) as executor:
        result = lane.run(executor, "flow", {"n": 1})
    record = result.raise_for_failure().step("pay")
    assert (result.final_output, record.fallback_tool_name) == ({"n": 1, "pay": 2}, "a")
    assert record.approval == {"approved": False, "approver": None, "reason": None}
    assert record.retry_errors == ["Approval of tool 'pay' at step 0 was denied."]


# ---- how a callback may look


class Decides:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def decide(self, context: Any) -> Any:
        return self.answer

    approve = check = run_capability = __call__ = decide


class DecidesLater(Decides):
    async def decide(self, context: Any) -> Any:
        await pause(0)
        return self.answer

    approve = check = run_capability = __call__ = decide  # type: ignore[assignment]  # async here


class Called:
    """An object that is called and has none of the methods."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def __call__(self, context: Any) -> Any:
        await pause(0)
        return self.answer


async def _later(answer: Any, context: Any) -> Any:
    await pause(0)
    return answer


SHAPES: dict[str, Callable[[Any], Any]] = {
    "function": lambda answer: lambda context: answer,
    "async function": lambda answer: functools.partial(_later, answer),
    "object": Decides,
    "async object": DecidesLater,
    "called object": Called,
    "method": lambda answer: Decides(answer).decide,
}
ASKED: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "decision_callback": (deciding(), "b", {"n": 1, "a": 3}),
    "approval_callback": (a_flow(a_step("pay")), True, {"n": 1, "pay": 1}),
    "guardrail_callback": (a_flow(a_step("a")), None, {"n": 1, "a": 2}),
    "capability_hook": (capable(), {"sent": 1}, {"n": 1, "sent": 1}),
}


@lanes
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("setting", ASKED)
def test_a_callback_may_be_anything_that_can_be_called(lane: Lane, shape: str, setting: str) -> None:
    """R26: an object with the method or a bare callable, sync or async, on every lane."""
    flow, answer, output = ASKED[setting]
    with lane.executor(tools=TOOLS, flows=[flow], **{setting: SHAPES[shape](answer)}) as executor:
        assert lane.run(executor, "flow", {"n": 1}).raise_for_failure().final_output == output


@pytest.mark.parametrize("setting", ASKED)
@pytest.mark.parametrize("given", [Decides, 3, "yes", object()], ids=["class", "number", "text", "object"])
def test_what_cannot_be_asked_is_refused_where_it_is_given(setting: str, given: Any) -> None:
    """R26: a class is not its instance; the mistake is shown when the executor is made."""
    method = {"decision_callback": "decide", "approval_callback": "approve", "guardrail_callback": "check"}
    wanted = f"{setting} has to be callable or have a method '{method.get(setting, 'run_capability')}', not "
    with pytest.raises(TypeError, match=re.escape(wanted)) as caught:
        FlowExecutor(**{setting: given})
    said = str(caught.value).removeprefix(wanted)
    assert said == {3: "an int.", "yes": "'yes'.", Decides: "the class Decides; pass Decides(...)."}.get(
        given, "an object."
    )


WHO: ContextVar[str] = ContextVar("who", default="nobody")
CALLERS = [*((lane, False) for lane in LANES), *((lane, True) for lane in LANES if not lane.is_async)]
"""Each lane, and those without a loop once more with the caller inside of one."""


@pytest.mark.parametrize(("lane", "is_inside"), CALLERS, ids=repr)
@pytest.mark.parametrize("setting", ASKED)
@pytest.mark.parametrize("later", [False, True], ids=["sync", "async"])
def test_a_callback_sees_the_variables_of_the_caller(lane: Lane, is_inside: bool, setting: str, later: bool) -> None:
    """R5, R26: wherever it is called; on the sync lane also when the caller is in a task of a running loop."""
    flow, answer, output = ASKED[setting]
    seen: list[str] = []

    def look(context: Any) -> Any:
        seen.append(WHO.get())
        return answer

    async def look_later(context: Any) -> Any:
        await pause(0)
        return look(context)

    async def inside(executor: FlowExecutor) -> ExecutionResult:
        WHO.set("ada")
        return lane.run(executor, "flow", {"n": 1}, deadline=time.time() + LIMIT_S)

    def call(executor: FlowExecutor) -> ExecutionResult:
        WHO.set("ada")
        return lane.run(executor, "flow", {"n": 1})

    with lane.executor(tools=TOOLS, flows=[flow], **{setting: look_later if later else look}) as executor:
        result = asyncio.run(inside(executor)) if is_inside else copy_context().run(call, executor)
    assert result.raise_for_failure().final_output == output
    assert set(seen) == {"ada"}


@lanes
def test_who_is_asked_keeps_no_lane_of_the_user_busy(lane: Lane) -> None:
    """R26: lanes are for tools; whoever is asked may take days, and a pool of one would stand still."""
    names: list[str] = []

    def approve(context: Any) -> bool:
        names.append(threading.current_thread().name)
        return True

    with ThreadPoolExecutor(1, thread_name_prefix="gpu") as pool:
        options: dict[str, Any] = {"lane": "gpu", "lanes": {"gpu": pool}}
        with SYNC.executor(tools=TOOLS, flows=[a_flow(a_step("pay"))], approval_callback=approve, **options) as once:
            assert lane.run(once, "flow", {"n": 1}).success
    assert names
    assert not names[0].startswith("gpu")


@lanes
@pytest.mark.parametrize("setting", ASKED)
@pytest.mark.parametrize("later", [False, True], ids=["sync", "async"])
def test_what_a_callback_raises_for_the_caller_reaches_the_caller(lane: Lane, setting: str, later: bool) -> None:
    """R17: Ctrl-C while somebody is asked is no answer; the run ends first."""
    ends = Ends()

    def interrupted(context: Any) -> Any:
        raise KeyboardInterrupt

    async def interrupted_later(context: Any) -> Any:
        raise KeyboardInterrupt

    options = {setting: interrupted_later if later else interrupted, "middleware": [ends]}
    with lane.executor(tools=TOOLS, flows=[ASKED[setting][0]], **options) as executor:
        with pytest.raises(KeyboardInterrupt):
            lane.run(executor, "flow", {"n": 1})
    assert ends.statuses == ["cancelled"]


class Ends(BaseMiddleware):
    def __init__(self) -> None:
        self.statuses: list[str] = []

    def on_flow_end(self, context: Any) -> None:
        self.statuses.append(context.result.status)


@lanes
@pytest.mark.parametrize("how", ["sync", "async", "blocking"])
def test_a_callback_may_run_a_flow_of_the_same_executor(lane: Lane, how: str) -> None:
    """R26: also an async one that blocks the private loop with it, for which there is another loop then."""

    def decide(context: Any) -> str:
        return "b" if executor.execute_flow("fine", {"n": 1}).success else "a"

    async def decide_later(context: Any) -> str:
        return "b" if (await executor.execute_flow_async("fine", {"n": 1})).success else "a"

    async def decide_blocking(context: Any) -> str:
        return decide(context)

    async def count(given: Any) -> dict[str, int]:
        await pause(0)
        return {"out": 1}

    callback = {"sync": decide, "async": decide_later, "blocking": decide_blocking}[how]
    fine = a_flow(a_step("count")).model_copy(update={"name": "fine"})
    tools = [*TOOLS, a_tool("count", count)]
    with lane.executor(tools=tools, flows=[deciding(), fine], decision_callback=callback) as executor:
        assert lane.run(executor, "flow", {"n": 1}).step("a").decision["chosen"] == "b"


# ---- callbacks that hang


def hanging(is_async: bool, release: threading.Event) -> Callable[[Any], Any]:
    def hang(context: Any) -> None:
        release.wait(LIMIT_S)

    async def hang_later(context: Any) -> None:
        await pause(LIMIT_S)

    return hang_later if is_async else hang


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets those go who hang, when the test is over."""
    event = threading.Event()
    yield event
    event.set()


@lanes
@pytest.mark.parametrize("setting", ASKED)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_callback_that_hangs_ends_with_its_run(
    lane: Lane, setting: str, is_async: bool, release: threading.Event
) -> None:
    """R22: a deadline binds while somebody is asked, and the error carries what was reached."""
    flow = ASKED[setting][0]
    with lane.executor(tools=TOOLS, flows=[flow], **{setting: hanging(is_async, release)}) as executor:
        for seconds in (0.05, 0.5, LIMIT_S / 3):  # the time in which a busy machine gets to the question varies
            began = time.monotonic()
            with pytest.raises(FlowCancelledError) as caught:
                lane.run(executor, "flow", {"n": 1}, deadline=time.time() + seconds)
            if caught.value.result.execution_log:
                break
        assert time.monotonic() - began < LIMIT_S / 2
        release.set()
    assert (caught.value.deadline_exceeded, caught.value.token_cancelled) == (True, False)
    result = caught.value.result
    assert (result.status, result.partial_output) == ("cancelled", {"n": 1})
    [record] = result.execution_log
    assert (record.status, record.approval, record.decision) == ("cancelled", None, None)
    travelled = pickle.loads(pickle.dumps(caught.value))
    assert (str(travelled), travelled.result) == (str(caught.value), result)


@lanes
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("default", ["fail", "tool_name"])
def test_a_decision_that_takes_too_long_is_made_by_the_policy(
    lane: Lane, is_async: bool, default: Any, release: threading.Event
) -> None:
    """R22, R26: the step takes its own tool, or fails and says how long it has waited."""
    options = {
        "decision_callback": hanging(is_async, release),
        "decision_policy": DecisionPolicy(timeout_seconds=0.05, default=default),
    }
    with lane.executor(tools=TOOLS, flows=[deciding()], **options) as executor:
        result = lane.run(executor, "flow", {"n": 1})
        release.set()
    record = result.step("a")
    if default == "tool_name":
        assert record.decision == {"chosen": "a", "candidates": ["a", "b"], "by": "default"}
        assert result.final_output == {"n": 1, "a": 2}
    else:
        assert record.error_message == (
            "Decision at step 0 ('a') failed: nobody answered within 0.05 s.\n"
            "  where   flow 'flow' 1.0.0, step 0\n"
            "  fix     give the callback more time, or decision_policy=DecisionPolicy(default='tool_name')"
        )


@pytest.mark.parametrize("lane", LANES[1:], ids=repr)
@pytest.mark.parametrize("setting", ASKED)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_token_ends_the_wait_for_an_answer(
    lane: Lane, setting: str, is_async: bool, release: threading.Event
) -> None:
    """R23: also one that nothing limits; only in the calling thread nobody can stop it."""
    flow, token, began = ASKED[setting][0], CancellationToken(), time.monotonic()
    threading.Timer(0.05, token.cancel).start()
    with lane.executor(tools=TOOLS, flows=[flow], **{setting: hanging(is_async, release)}) as executor:
        with pytest.raises(FlowCancelledError) as caught:
            lane.run(executor, "flow", {"n": 1}, cancel_token=token)
        release.set()
    assert time.monotonic() - began < LIMIT_S / 2
    assert caught.value.token_cancelled


# ---- composition


class Starts(BaseMiddleware):
    def __init__(self) -> None:
        self.count = 0

    def on_flow_start(self, context: Any) -> None:
        self.count += 1


def calls(name: str, *others: str, **facts: Any) -> Any:
    steps = (a_step(f"to_{one}", tool_name=None, flow_name=one, output_mapping=None) for one in others)
    return a_flow(*steps).model_copy(update={"name": name, **facts})


def leaf(name: str, **facts: Any) -> Any:
    return a_flow(a_step("a")).model_copy(update={"name": name, **facts})


COMPOSITIONS: dict[str, tuple[list[Any], dict[str, Any], str, str]] = {
    "a flow that calls itself": (
        [calls("flow", "flow")], {}, "cycle",
        "Flow 'flow' cannot be composed (cycle): 'flow' -> 'flow'.\n"
        "  fix     take one of these steps out",
    ),
    "a circle of three": (
        [calls("flow", "x"), calls("x", "y"), calls("y", "flow")], {}, "cycle",
        "Flow 'flow' cannot be composed (cycle): 'flow' -> 'x' -> 'y' -> 'flow'.\n"
        "  fix     take one of these steps out",
    ),
    "a circle further down": (
        [calls("flow", "x"), calls("x", "y"), calls("y", "x")], {}, "cycle",
        "Flow 'flow' cannot be composed (cycle): 'flow' -> 'x' -> 'y' -> 'x'.\n"
        "  fix     take one of these steps out",
    ),
    "a sub-flow that nobody registered": (
        [calls("flow", "x"), calls("x", "ledger")], {}, "unknown_flow",
        "Flow 'flow' cannot be composed (unknown_flow): 'flow' -> 'x' calls 'ledger', which is not registered.\n"
        "  known   fine, flow, x\n"
        "  fix     register 'ledger' first",
    ),
    "too many flows deep": (
        [calls("flow", "x"), calls("x", "y"), leaf("y")], {"max_composition_depth": 1}, "max_depth_exceeded",
        "Flow 'flow' cannot be composed (max_depth_exceeded): 'flow' -> 'x' -> 'y' is more than 1 flows deep.\n"
        "  fix     raise max_composition_depth, or let a flow call the steps itself",
    ),
}  # fmt: skip


@lanes
@pytest.mark.parametrize("case", COMPOSITIONS)
def test_flows_that_cannot_be_composed_never_start(lane: Lane, case: str) -> None:
    """R15: raised before anything starts, with the way that leads there; the executor goes on to serve."""
    flows, options, reason, text = COMPOSITIONS[case]
    starts = Starts()
    with lane.executor(tools=TOOLS, flows=[*flows, leaf("fine")], middleware=[starts], **options) as executor:
        with pytest.raises(FlowCompositionError) as caught:
            lane.run(executor, "flow", {"n": 1})
        assert starts.count == 0
        assert lane.run(executor, "fine", {"n": 1}).success
    error = caught.value
    assert (error.flow_name, error.reason, error.code, str(error)) == ("flow", reason, "E015", text)
    travelled = pickle.loads(pickle.dumps(error))
    assert (str(travelled), travelled.reason) == (text, reason)


@lanes
def test_a_sub_flow_that_is_not_active_never_starts(lane: Lane) -> None:
    """R15: unless it is forced; the error names the sub-flow and the flow around it."""
    starts, asleep = Starts(), leaf("x", status=FlowStatus.DISABLED)
    with lane.executor(tools=TOOLS, flows=[calls("flow", "x"), asleep], middleware=[starts]) as executor:
        with pytest.raises(ChainWeaverError) as caught:
            lane.run(executor, "flow", {"n": 1})
        assert starts.count == 0
        assert lane.run(executor, "flow", {"n": 1}, force=True).success
    assert str(caught.value) == (
        "Flow 'x' has status 'disabled' and does not run.\n"
        "  why     it is a sub-flow of 'flow'\n"
        "  fix     set its status to 'active', or pass force=True to run it anyway"
    )


# ---- items


@lanes
@pytest.mark.parametrize("policy", ["skip", "collect"])
def test_items_that_fail_are_left_out_or_told_of(lane: Lane, policy: Any) -> None:
    """R28: with their errors in the records of the items, and in their places when they are collected."""
    flow = mapping(on_item_error=policy)
    with lane.executor(tools=TOOLS, flows=[flow]) as executor:
        result = lane.run(executor, "flow", {"items": [1, 2, 5]}).raise_for_failure()
    values = (result.final_output or {})["odd"]
    if policy == "skip":
        assert values == [100, 100]
    else:
        first, error, last = values
        assert (first, last) == (100, 100)
        assert (error.index, error.error_type, error.error_code) == (1, "FlowExecutionError", "E006")
        assert error.message == "Tool 'odd' failed at step 0: ZeroDivisionError: integer division or modulo by zero."
        assert pickle.loads(pickle.dumps(error)) == error
        written = json.loads(result.model_dump_json())["final_output"]["odd"][1]
        assert "ZeroDivisionError" in json.dumps(written)
    nested = result.step("odd").sub_result
    assert nested is not None
    assert [record.status for record in nested.execution_log] == ["ok", "skipped", "ok"]
    failed = nested.step("1")
    assert (failed.error_type, failed.error_code, failed.error_cause) == (
        "FlowExecutionError", "E006", "ZeroDivisionError",
    )  # fmt: skip
    assert "step 'odd', item 1" in str(failed.error_message)


@lanes
def test_the_item_that_fails_a_map_is_the_first_one(lane: Lane) -> None:
    """R1, R28: lowest in order, whoever was quicker; those before it have their records."""
    with lane.executor(tools=TOOLS, flows=[mapping()], max_step_concurrency=4) as executor:
        result = lane.run(executor, "flow", {"items": [1, 3, 4, 6]})
    nested = result.step("odd").sub_result
    assert nested is not None
    assert "item 2" in str(result.step("odd").error_message)
    assert [record["status"] for record in nested.canonical_trace()] == ["ok", "ok", "failed"]


# ---- errors that do not travel


class Locked(Exception):
    """Holds what cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Stubborn(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("I stay here")


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


class Deceptive(Exception):
    """Can be pickled and not be made again."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first}, {second}")


def _local() -> Exception:
    class Local(Exception):
        pass

    return Local("from here")


def _endless() -> Exception:
    error = OSError()
    error.args = (error,)
    return error


def _chained() -> Exception:
    last = OSError("0")
    for number in range(1, 3000):
        error = OSError(str(number))
        error.__cause__ = last
        last = error
    return last


STRANGE: dict[str, tuple[Callable[[], Exception], str]] = {
    "locked": (lambda: Locked("held"), "Locked: held"),
    "stubborn": (lambda: Stubborn("no"), "Stubborn: no"),
    "mute": (Mute, "Mute"),
    "deceptive": (lambda: Deceptive(1, 2), "Deceptive: 1, 2"),
    "local": (_local, "Local: from here"),
    "endless": (_endless, "OSError"),
    "chained": (_chained, "OSError: 2999"),
    "surrogates": (lambda: OSError("\ud800"), "OSError: \ud800"),
    "many lines": (lambda: OSError("one\ntwo"), "OSError: one"),
    "stop": (lambda: StopIteration(3), "StopIteration: 3"),
}


RAISED_IN = [*(("tool", lane) for lane in LANES), *((place, TRIO) for place in ("decision", "guardrail", "item"))]


@pytest.mark.parametrize(("place", "lane"), RAISED_IN, ids=str)
@pytest.mark.parametrize("kind", STRANGE)
def test_an_error_that_cannot_travel_does_not_keep_its_result_at_home(place: str, lane: Lane, kind: str) -> None:
    """R16, R18: error and result are pickled, copied and written without it; in this process it stays the cause."""
    make, said = STRANGE[kind]

    def fail(given: Any) -> Any:
        raise make()

    flow, options = a_flow(a_step("fail")), {}
    if place == "decision":
        flow, options = deciding(), {"decision_callback": fail}
    elif place == "guardrail":
        options = {"guardrail_callback": fail}
    elif place == "item":
        flow = a_flow(a_step("fail", map_over="items", map_as="n"))
    with lane.executor(tools=[*TOOLS, a_tool("fail", fail)], flows=[flow], **options) as executor:
        result = lane.run(executor, "flow", {"n": 1, "items": [1]})
    with pytest.raises(ChainWeaverError) as caught:
        result.raise_for_failure()
    error = caught.value
    assert type(error.__cause__) is type(make()) or kind == "local"
    assert said in error.sentence
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(twin), str(twin)) == (type(error), str(error))
    for read in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        assert read == result
    written = ExecutionResult.model_validate_json(result.model_dump_json())
    assert written.execution_log[0].error_cause == result.execution_log[0].error_cause
    assert said.split(":")[0] in result._repr_html_()


def test_a_group_of_errors_is_told_with_what_it_holds() -> None:
    """R18: tools that wait for several things raise groups; that there were two of them helps nobody."""

    async def fail(given: Any) -> dict[str, int]:
        async with anyio.create_task_group() as group:
            for text in ("first", "second"):
                group.start_soon(_fail, text)
        return {}

    with FlowExecutor(tools=[a_tool("fail", fail)], flows=[a_flow(a_step("fail"))]) as executor:
        record = executor.execute_flow("flow", {"n": 1}).step("fail")
    assert str(record.error_message).split("\n")[0] == (
        "Tool 'fail' failed at step 0: ExceptionGroup: unhandled errors in a TaskGroup (2 sub-exceptions): "
        "OSError: first; OSError: second."
    )


async def _fail(text: str) -> None:
    raise OSError(text)


def test_a_result_that_was_read_says_once_what_failed() -> None:
    """R16: the text of the record, and not that text inside of another one like it."""
    story = next(story for story in STORIES if story.name == "a capability that raises")
    result = ran(SYNC, story)
    with pytest.raises(FlowExecutionError) as caught:
        ExecutionResult.model_validate_json(result.model_dump_json()).raise_for_failure()
    assert str(caught.value) == story.text
