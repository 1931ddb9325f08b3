"""Arguments that mean nothing are answered in our words, at once, and not by what they did further inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import chainweaver
import chainweaver.observe
import chainweaver.testing
from chainweaver import CassetteError, FileTraceStore, Flow, FlowExecutor, FlowStep, ToolDefinitionError, tool

CW: Any = chainweaver
OBSERVE: Any = chainweaver.observe
TESTING: Any = chainweaver.testing
"""Not typed: every call here is a mistake that a type checker would find as well."""


@tool
def double(n: int) -> int:
    return 2 * n


FLOW = Flow(name="twice", description="Doubles.", steps=[FlowStep(tool_name="double")])
EXECUTOR = FlowExecutor(tools=[double], flows=[FLOW])


def opened(executor: Any, cassette: Any) -> None:
    with TESTING.record_then_replay(executor, cassette):
        raise AssertionError("nothing is to be recorded")


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda ex: TESTING.attest_flow(FLOW, ex, 0), ValueError, "inputs has to be at least 1, not 0."),
        (lambda ex: TESTING.attest_flow(FLOW, ex, -1), ValueError, "inputs has to be at least 1, not -1."),
        (lambda ex: TESTING.attest_flow(FLOW, ex, True), TypeError, "inputs has to be a whole number, not a bool."),
        (
            lambda ex: TESTING.attest_flow(FLOW, ex, 3.5),
            TypeError,
            "inputs has to be a mapping, several of them, or their number, not a float.",
        ),
        (
            lambda ex: TESTING.attest_flow(FLOW, ex, [1]),
            TypeError,
            "inputs has to be a mapping, several of them, or their number, not an int.",
        ),
        (lambda ex: TESTING.attest_flow(FLOW, ex, 1, runs="2"), TypeError, "runs has to be a whole number, not '2'."),
        (lambda ex: TESTING.attest_flow(FLOW, ex, 1, limits=3), TypeError, "limits has to be a list, not an int."),
        (
            lambda ex: TESTING.attest_flow(FLOW, ex, 1, limits=["3"]),
            TypeError,
            "each of limits has to be a whole number, not '3'.",
        ),
        (lambda ex: TESTING.attest_flow(FLOW, ex, 1, lanes="sync"), TypeError, "lanes has to be a list, not 'sync'."),
        (lambda ex: TESTING.attest_flow(FLOW, ex, 1, seed="x"), TypeError, "seed has to be a whole number, not 'x'."),
        (
            lambda ex: TESTING.attest_flow(FLOW, ex, 1, strategy=3),
            TypeError,
            "strategy has to be a strategy of hypothesis, not 3.",
        ),
        (lambda ex: TESTING.attest_flow(ex, "twice"), TypeError, "executor has to be a FlowExecutor, not 'twice'."),
        (lambda ex: TESTING.FlowFuzzer(FLOW, ex).run(3), TypeError, "executor has to be a FlowExecutor, not a Flow."),
        (lambda ex: TESTING.FlowFuzzer(ex, FLOW).run(-1), ValueError, "max_examples has to be at least 1, not -1."),
        (
            lambda ex: TESTING.FlowFuzzer(ex, FLOW).run("3"),
            TypeError,
            "max_examples has to be a whole number, not '3'.",
        ),
        (
            lambda ex: TESTING.FlowFuzzer(ex, FLOW).run(3, seed="x"),
            TypeError,
            "seed has to be a whole number, not 'x'.",
        ),
        (lambda ex: TESTING.FlowFuzzer(ex, FLOW, invariants=len), TypeError, "invariants has to be a list, not a "),
        (
            lambda ex: TESTING.FlowFuzzer(ex, FLOW, invariants=[3]),
            TypeError,
            "each of invariants has to be a function of a result, not an int.",
        ),
        (
            lambda ex: TESTING.minimize_failure(ex, FLOW, None),
            TypeError,
            "failing_input has to be a mapping of context keys to values, not None.",
        ),
        (
            lambda ex: TESTING.minimize_failure(ex, FLOW, {"n": "x"}, 3),
            TypeError,
            "predicate has to be a function of a result, not an int.",
        ),
        (lambda ex: TESTING.FlowTestRunner(3), TypeError, "flow has to be a flow or the name of one, not an int."),
        (
            lambda ex: TESTING.fake_tool(len),
            TypeError,
            "A fake stands in for a tool or the name of one, not for <built-in",
        ),
        (lambda ex: opened("tape", ex), TypeError, "executor has to be a FlowExecutor, not 'tape'."),
        (lambda ex: opened(ex, Path(__file__).parent), CassetteError, "Cassette '"),
        (
            lambda ex: TESTING.assert_result_matches(3, {}),
            TypeError,
            "result has to be an ExecutionResult, not an int.",
        ),
        (
            lambda ex: CW.evaluate_predicate(None, {}),
            TypeError,
            "A predicate is a text such as 'total > 100', not None.",
        ),
        (
            lambda ex: CW.evaluate_predicate("n > 1", None),
            TypeError,
            "The context of a predicate is a mapping of names to values, not of type NoneType.",
        ),
        (lambda ex: OBSERVE.TokenBucket("x"), TypeError, "rate_per_s has to be a number above 0, not 'x'."),
        (lambda ex: OBSERVE.TokenBucket(1, tools=3), TypeError, "tools has to be a collection of names, not 3."),
        (
            lambda ex: CW.FlowRegistry().watch(".", interval_s="1"),
            TypeError,
            "interval_s must be a positive number of seconds, not '1'.",
        ),
        (lambda ex: CW.SchemaRefAllowlist(modules=(3,)), TypeError, "modules has to be a tuple of texts, not (3,)."),
        (lambda ex: CW.SchemaRefAllowlist(modules=3), TypeError, "modules has to be a tuple of texts, not 3."),
        (
            lambda ex: TESTING.fake_tool(double, raises="x"),
            ToolDefinitionError,
            "Function 'double' cannot become a tool: raises= of its fake is 'x'.",
        ),
        (
            lambda ex: TESTING.fake_tool(double, sequence="abc"),
            ToolDefinitionError,
            "Function 'double' cannot become a tool: sequence= of its fake is 'abc'.",
        ),
        (
            lambda ex: TESTING.fake_tool(double, side_effect=3),
            ToolDefinitionError,
            "Function 'double' cannot become a tool: side_effect= of its fake is 3.",
        ),
        (
            lambda ex: TESTING.fake_tool(double, returns=1, raises=OSError),
            ToolDefinitionError,
            "Function 'double' cannot become a tool: its fake is told raises and returns.",
        ),
    ],
)
def test_a_wrong_argument_is_answered_in_our_words(call: Callable[[Any], Any], kind: type[Exception], message: str):
    """api.md: TypeError or ValueError with what the argument has to be; nothing foreign comes out."""
    with pytest.raises(kind) as caught:
        call(EXECUTOR)
    assert str(caught.value).split("\n")[0].startswith(message)


def test_a_trace_is_looked_for_under_a_text(tmp_path: Path):
    """TraceStore: what is no name is no safe one."""
    with pytest.raises(ValueError, match="3"):
        FileTraceStore(tmp_path).load(3)  # type: ignore[arg-type]  # the mistake under test


def test_an_allowlist_may_be_made_of_what_can_be_read_once():
    """SchemaRefAllowlist: the check does not use the names up."""
    assert CW.SchemaRefAllowlist(modules=(name for name in ["shop"])).modules == ("shop",)
