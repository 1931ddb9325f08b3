"""Names that vendors and Python take."""

from __future__ import annotations

import inspect
import re

import pytest
from hypothesis import given, strategies as st

from chainweaver import ExportError, Flow, FlowExecutor, FlowStep, tool
from chainweaver.export import (
    exported_name,
    flow_to_anthropic_tool,
    flow_to_openai_function,
    to_anthropic_tools,
    to_async_callables,
    to_callables,
    to_openai_functions,
    tool_to_openai_function,
)
from chainweaver.export.names import python_name

RULE = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")


@tool
def double(n: int) -> int:
    return 2 * n


def flow(name: str) -> Flow:
    return Flow(name=name, description="A flow of a test.", steps=[FlowStep(tool_name="double")])


@given(st.text(max_size=150))
def test_a_name_obeys_the_rule_of_the_vendors_or_is_refused(name: str):
    """Export: nothing in between."""
    try:
        found = exported_name(name)
    except ExportError:
        assert re.search(r"[a-zA-Z0-9]", name) is None or not name.isascii()
        return
    assert RULE.fullmatch(found)
    assert exported_name(found) == found


@given(st.from_regex(RULE, fullmatch=True))
def test_a_name_that_obeys_the_rule_stays_as_it_is(name: str):
    """Export: also when it begins with an underscore."""
    assert exported_name(name) == name


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("invoice total", "invoice_total"),
        ("  billing / invoice (v2)  ", "billing_invoice_v2"),
        ("Café", "Cafe"),
        ("a.b", "a_b"),
    ],
)
def test_other_characters_become_one_underscore(name: str, found: str):
    """Export: the rule as it is documented."""
    assert exported_name(name) == found


def test_long_names_with_a_common_beginning_stay_apart():
    """Export: the end of a cut name is made from the whole of it."""
    one, other = exported_name("a" * 64 + "b"), exported_name("a" * 64 + "c")

    assert one != other
    assert len(one) == len(other) == 64


@pytest.mark.parametrize("name", ["请求", "***", "", "_ _"])
def test_a_name_of_which_nothing_is_left_is_refused(name: str):
    """Export: a made-up name would tell a model nothing."""
    with pytest.raises(ExportError, match="none of its letters"):
        exported_name(name)


def test_a_name_can_be_given_and_has_to_obey_the_rule_itself():
    """Export: what a caller writes is not changed."""
    assert flow_to_openai_function(flow("请求"), name="request")["function"]["name"] == "request"
    assert flow_to_anthropic_tool(flow("请求"), name="request")["name"] == "request"
    with pytest.raises(ExportError, match="'two words' is no name there"):
        tool_to_openai_function(double, name="two words")


@pytest.mark.parametrize("export", [to_openai_functions, to_anthropic_tools, to_callables, to_async_callables])
def test_two_exports_of_one_name_are_refused_together(export):
    """Export: a model could not say which one it means."""
    executor = FlowExecutor(tools=[double], flows=[flow("a b"), flow("a.b"), flow("a-b")])

    with pytest.raises(ExportError) as caught:
        export(["a b", "a.b", "a-b", double], executor)
    assert "flow 'a b' and flow 'a.b' would both be 'a_b'" in caught.value.sentence
    assert "a-b" not in caught.value.sentence


def test_the_functions_have_the_names_of_the_dictionaries():
    """Export: what a model calls is found by the name that it was told."""
    executor = FlowExecutor(tools=[double], flows=[flow("twice as much")])
    items = ["twice as much", double]

    told = [one["function"]["name"] for one in to_openai_functions(items, executor)]

    assert told == [one["name"] for one in to_anthropic_tools(items, executor)]
    assert list(to_callables(items, executor)) == told == ["twice_as_much", "double"]


@given(st.text(max_size=20))
def test_every_text_has_a_python_name(text: str):
    """Export: parameters and functions are named so that Python takes them."""
    found = python_name(text)

    inspect.Parameter(found, inspect.Parameter.POSITIONAL_OR_KEYWORD)
