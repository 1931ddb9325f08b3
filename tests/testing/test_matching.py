"""Expectations: what is named has to be so, and a difference says where."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest

from chainweaver import ExecutionResult, Flow, FlowExecutor, FlowStep, tool
from chainweaver.testing import assert_result_matches
from chainweaver.testing.matching import differences
from tests.testing.kit import TEA, order, price, total


@tool(output="basket")
def basket(articles: list[str]) -> dict:
    return {"lines": [{"article": one, "at": {"x": at}} for at, one in enumerate(articles)]}


@pytest.fixture(scope="module")
def result() -> ExecutionResult:
    flow = Flow(name="shop", description="", steps=[FlowStep(tool_name="basket")])
    return FlowExecutor(tools=[basket], flows=[flow]).execute_flow("shop", {"articles": ["tea", "milk"]})


@pytest.fixture(scope="module")
def failed() -> ExecutionResult:
    return FlowExecutor(tools=[price, total], flows=[order()]).execute_flow("order", TEA)


LINES = [{"article": "tea"}, {"at": {"x": 1}}]


@pytest.mark.parametrize(
    "expected",
    [
        {},
        {"status": "ok", "success": True, "flow_name": "shop", "final_output": {"articles": ["tea", "milk"]}},
        {"output": {"basket": {"lines": LINES}}},
        {"output": {"basket": dict}},
        {"output": {"articles": [re.compile("^t"), str]}},
        {"steps": {"0": {"tool_name": "basket", "outputs": {"basket": {"lines": list}}}}},
        {"steps": {"0": "ok"}},
        {"steps": ["ok"]},
        {"steps": [{"retry_count": 0}], "initial_input": {"articles": ["tea", "milk"]}},
        {"total_duration_ms": float},
    ],
)
def test_what_is_not_named_may_be_anything(result: ExecutionResult, expected: dict[str, Any]):
    """api.md: partial matching of output, status and records."""
    assert_result_matches(result, expected)


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        ({"status": "failed"}, "status: expected 'failed', got 'ok'"),
        ({"output": {"sum": 1}}, "output.sum: expected 1, got nothing"),
        ({"output": {"articles": ["tea"]}}, "output.articles.length: expected 1, got 2"),
        ({"output": {"articles": ["tea", "rum"]}}, "output.articles.1: expected 'rum', got 'milk'"),
        ({"output": {"basket": list}}, "output.basket: expected an instance of list, got {'lines'"),
        ({"output": {"articles": [re.compile("^x"), str]}}, "output.articles.0: expected a text with '^x', got 'tea'"),
        (
            {"steps": {"0": {"outputs": {"basket": {"lines": [{}, {"at": {"x": 2}}]}}}}},
            "step '0', outputs.basket.lines.1.at.x: expected 2, got 1",
        ),
        ({"steps": {"1": "ok"}}, "step '1': expected 'ok', got nothing; there are records of: 0"),
        ({"steps": ["ok", "ok"]}, "number of steps: expected 2, got 1"),
        ({"steps": {"0": "skipped"}}, "step '0', status: expected 'skipped', got 'ok'"),
    ],
)
def test_a_difference_names_step_field_and_both_values(result: ExecutionResult, expected: Any, told: str):
    """api.md: readable differences."""
    with pytest.raises(AssertionError) as caught:
        assert_result_matches(result, expected)
    first, line = str(caught.value).splitlines()
    assert first == "Result of flow 'shop' 0.1.0 differs in 1 place:"
    assert line.strip().startswith(told)


def test_all_differences_are_listed_at_once_and_the_failure_is_named(failed: ExecutionResult):
    """api.md: one look is enough."""
    with pytest.raises(AssertionError) as caught:
        assert_result_matches(failed, {"status": "ok", "output": {"total": 1}, "steps": {"0": {"retry_count": 2}}})
    assert str(caught.value).splitlines() == [
        "Result of flow 'order' 0.1.0 differs in 3 places:",
        "  status: expected 'ok', got 'failed'",
        "  output: expected {'total': 1}, got None",
        "  step '0', retry_count: expected 2, got 0",
        "  the run failed at step '0': Tool 'price' failed at step 0: ConnectionError: the shop is closed.",
    ]


def test_a_long_list_of_differences_is_cut(result: ExecutionResult):
    """api.md: readable."""
    with pytest.raises(AssertionError, match=r"differs in 50 places:(.|\n)*\.\.\. and 30 more"):
        assert_result_matches(result, {"output": {f"key{n}": n for n in range(50)}})


@pytest.mark.parametrize(
    "ignore", [["output.articles.1", "steps.0.outputs.basket"], ["output.*.*", "steps.0.*.*"], ["output", "steps.0"]]
)
def test_what_is_ignored_does_not_count(result: ExecutionResult, ignore: list[str]):
    """api.md: paths, with stars for any one part."""
    wrong = {"output": {"articles": ["tea", "rum"]}, "steps": {"0": {"outputs": {"basket": 1}}}}
    assert_result_matches(result, wrong, ignore=ignore)
    with pytest.raises(AssertionError, match="differs in 1 place"):
        assert_result_matches(result, {**wrong, "status": "failed"}, ignore=ignore)


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        ({"ouput": {}}, "'ouput' is no field of a result; did you mean 'output'?"),
        ({"steps": {"0": {"statu": "ok"}}}, "'statu' is no field of a record; did you mean 'status'?"),
        ({"steps": 3}, "'steps' has to be a mapping of step ids to fields, or a list, not 3"),
        (3, "What is expected of a result has to be a mapping"),
    ],
)
def test_an_expectation_that_means_nothing_is_no_difference_but_an_error(
    result: ExecutionResult, expected: Any, told: str
):
    """api.md: a mistyped name would otherwise be tested for ever without effect."""
    with pytest.raises(ValueError, match=re.escape(told)):
        assert_result_matches(result, expected)


def test_two_results_are_compared_in_full_but_for_what_differs_anyway(result: ExecutionResult):
    """R1: values, statuses and traces; no times, ids and lanes."""
    flow = Flow(name="shop", description="", steps=[FlowStep(tool_name="basket")])
    executor = FlowExecutor(tools=[basket], flows=[flow], lane="thread")
    again = executor.execute_flow("shop", {"articles": ["tea", "milk"]})
    other = executor.execute_flow("shop", {"articles": ["tea", "rum"]})
    assert again.trace_id != result.trace_id
    assert_result_matches(again, result)
    assert_result_matches(ExecutionResult.model_validate_json(again.model_dump_json()), result)
    with pytest.raises(AssertionError, match=r"step '0', inputs\.articles\.1: expected 'milk', got 'rum'"):
        assert_result_matches(other, result)
    with pytest.raises(AssertionError, match=r"output\.basket\.lines\.1\.article: expected 'milk', got 'rum'"):
        assert_result_matches(other, result, ignore=["steps"])


@dataclass
class Point:
    x: float


class Opaque:
    pass


NAN = float("nan")
LOOP: list[Any] = [1]
LOOP.append(LOOP)
LOOP2: list[Any] = [1]
LOOP2.append(LOOP2)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, True, False),
        (1, 1.0, False),
        (NAN, float("nan"), True),
        ([Point(NAN)], [Point(float("nan"))], True),
        (Point(1.0), Point(2.0), False),
        ({"a": (1, 2)}, {"a": [1, 2]}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({1, 2}, {2, 1}, True),
        (Opaque(), Opaque(), True),
        (LOOP, LOOP2, True),
        (LOOP, [1, [2]], False),
    ],
)
def test_whole_values_are_the_same_when_nothing_tells_them_apart(one: Any, other: Any, same: bool):
    """R1: types count; NaN, circles and objects without a value of their own are no difference."""
    assert (list(differences(one, other, partial=False)) == []) is same
