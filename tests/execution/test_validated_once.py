"""Validated once: what the core makes of tools that the compiler has told what need not be looked at again."""

from __future__ import annotations

from typing import Any

from chainweaver import FlowStep
from chainweaver.exceptions import ToolOutputSizeError
from chainweaver.flow import RetryPolicy
from tests.execution.kit import Walk, a_plan, a_run, a_tool, error_of, statuses

ROWS = {"rows": list[int]}
LOAD, SAME = a_tool("load", (), ROWS), a_tool("same", ROWS, ROWS)


def at_same(tool: Any = SAME, **step: Any) -> Walk:
    """A run in which the first step has given a list of two, at the call of the second, which is given it."""
    steps = [FlowStep(tool_name="load"), FlowStep(tool_name=tool.name, **step)]
    plan = a_plan(steps, [LOAD, tool], validation="once", on_context_collision="overwrite")
    walk = Walk(a_run(plan, {}))
    walk.ok({"rows": ["1", 2]})
    return walk


def loaded(walk: Walk) -> Any:
    slot = walk.run.slots[1]
    assert slot is not None
    return slot["rows"]


def given(walk: Walk) -> Any:
    """The list that the tool is called with."""
    return walk.command[1].rows  # type: ignore[index]  # a plain call


def test_a_tool_is_called_with_the_very_object_that_was_validated():
    """R14: a list is looked at where it comes from, and not again."""
    walk = at_same()

    assert given(walk) is loaded(walk)
    assert given(walk) == [1, 2]


def test_what_a_tool_gives_back_of_what_it_was_given_is_the_object_itself():
    """R10, R14: it was validated on its way in."""
    walk = at_same()
    walk.ok({"rows": given(walk)})

    assert walk.run.final_output is not None
    assert walk.run.final_output["rows"] is loaded(walk)


def test_what_it_makes_anew_is_validated():
    """R10: an equal list is another list, and one with other things in it is refused."""
    good, bad = at_same(), at_same()
    good.ok({"rows": ["1", 2]})
    bad.ok({"rows": [1, "x"]})

    assert good.run.slots[2] == {"rows": [1, 2]}
    assert (statuses(bad.run), error_of(bad.run, 1).context) == ({"0": "ok", "1": "failed"}, "output")
    assert "rows.1: Input should be a valid integer" in str(error_of(bad.run, 1))


def test_every_attempt_is_given_it_and_may_give_it_back():
    """R20: what is proven holds for all attempts."""
    walk = at_same(retry=RetryPolicy(max_retries=1, backoff_seconds=0.0))
    first = given(walk)
    walk.err(OSError("busy"))
    second = given(walk)
    walk.ok({"rows": second})

    assert first is second is loaded(walk)
    assert walk.run.final_output == {"rows": [1, 2]}


def test_what_is_handed_back_has_to_keep_within_the_size_as_well():
    """R10: the cap is for what a tool gives, wherever it has it from."""
    walk = at_same(a_tool("same", ROWS, ROWS, max_output_size=5))
    walk.ok({"rows": given(walk)})
    error = error_of(walk.run, 1)

    assert isinstance(error, ToolOutputSizeError)
    assert (error.size, error.limit) == (len('{"rows":[1,2]}'), 5)
