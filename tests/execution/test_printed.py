"""What calls have printed: a lane that captures replies with it, and the details of the step keep it.

Nothing is printed here: the replies say that something was.
"""

from __future__ import annotations

from typing import Any

import pytest

from chainweaver import FlowStep
from chainweaver._execution.commands import Printed
from chainweaver.flow import RetryPolicy
from tests.execution.kit import (
    Crowd,
    Walk,
    a_flow,
    a_plan,
    a_run,
    a_step,
    a_sub_step,
    a_tool,
    error_of,
    one_step,
    statuses,
)

A, B = (a_tool(name, ["n"], [name]) for name in "ab")


def printing(plan: Any, initial: Any = None, **attended: Any) -> Walk:
    return Walk(a_run(plan, initial or {"n": 1}, printing=True, **attended))


def printed(run: Any, index: int = 0) -> Any:
    """What the last call of a step has printed on its two streams."""
    found = run.details[index].printed
    return None if found is None else (found.stdout, found.stderr)


def raised(exc: Exception, *streams: str) -> Exception:
    """An exception as a lane that captures throws it."""
    exc.printed_by_tool = Printed(*streams)  # type: ignore[attr-defined]
    return exc


def test_what_was_printed_is_kept_and_the_value_goes_on():
    """Processes: `record.stdout` and `record.stderr`; the outputs are those of every lane."""
    walk = printing(one_step(A))
    walk.ok(Printed("hello", "careful", {"a": "7"}))

    assert walk.run.final_output == {"n": 1, "a": 7}
    assert printed(walk.run) == ("hello", "careful")
    assert walk.run.details[0].printed.value is None, "the details hold no second reference to what a tool returned"  # type: ignore[union-attr]


def test_a_reply_that_says_nothing_about_it_is_a_value():
    """Processes: a lane captures the calls that it makes elsewhere, and only those."""
    walk = printing(one_step(A))
    walk.ok({"a": 7})

    assert walk.run.final_output == {"n": 1, "a": 7}
    assert walk.run.details == {}


def test_what_a_call_printed_before_it_raised_is_kept_as_well():
    """R16: the error is that of the tool."""
    walk = printing(one_step(A))
    walk.err(raised(OSError("down"), "so far", ""))

    assert printed(walk.run) == ("so far", "")
    assert error_of(walk.run).sentence == "Tool 'a' failed at step 0: OSError: down."


def test_the_last_attempt_counts():
    """R20: as for everything else that a record tells."""
    walk = printing(one_step(A, retry=RetryPolicy(max_retries=1, backoff_seconds=0.0)))
    walk.err(raised(OSError("busy"), "first", ""))
    walk.ok(Printed("second", "", {"a": 1}))

    assert printed(walk.run) == ("second", "")
    assert walk.run.details[0].retries == 1


def test_it_is_kept_where_what_was_returned_does_not_fit():
    """R10: that is when somebody wants to read it."""
    walk = printing(one_step(A))
    walk.ok(Printed("odd", "", {"a": "many"}))

    assert (statuses(walk.run), printed(walk.run)) == ({"0": "failed"}, ("odd", ""))


@pytest.mark.parametrize("tool", ["a", "b"])
def test_every_step_keeps_its_own_also_above_limit_1(tool: str):
    """R4: no step takes the short path past it."""
    crowd = Crowd(a_run(a_plan([a_step("a"), a_step("b")], [A, B]), {"n": 1}, printing=True))
    crowd.ok("a", Printed("of a", "", {"a": 1}))
    crowd.ok("b", Printed("of b", "", {"b": 1}))

    assert crowd.concluded().final_output == {"n": 1, "a": 1, "b": 1}
    assert printed(crowd.run, "ab".index(tool)) == (f"of {tool}", "")


def test_nested_runs_keep_what_was_printed_inside():
    """R27, R28: of a sub-flow step by step, of a map item by item."""
    inner = a_flow("inner", [a_step("x", tool_name="a")])
    mapped = FlowStep(tool_name="b", map_over="ns", map_as="n")
    nested = printing(a_plan([a_sub_step("sub", "inner")], [A], flows=[inner]))
    nested.ok(Printed("inside", "", {"a": 1}))
    items = printing(a_plan([mapped], [B]), {"ns": [1, 2]})
    items.ok(Printed("first", "", {"b": 1}))
    items.ok(Printed("second", "", {"b": 2}))

    assert printed(nested.run.details[0].nested) == ("inside", "")
    assert printed(nested.run) is None
    assert [printed(items.run.details[0].nested, at) for at in range(2)] == [("first", ""), ("second", "")]
    assert items.run.slots[1] == {"b": [1, 2]}
