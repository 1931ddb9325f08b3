"""Seals: where a step is asked whether it has changed what it was given, and what becomes of the answer.

The seal is the one that an executor puts into its rules; what a tool would change, a test changes between command and
reply.
"""

from __future__ import annotations

from typing import Any

from chainweaver import DAGFlowStep, Native
from chainweaver._execution.rules import Rules
from chainweaver.exceptions import SharedMutationError
from chainweaver.executor.seals import seal
from chainweaver.flow import RetryPolicy
from tests.execution.kit import Crowd, Walk, a_plan, a_run, a_step, a_tool, error_of, one_step, statuses

ROWS = Native[list]  # type: ignore[type-arg]  # what is in it is for nobody to say
READ = a_tool("read", {"rows": ROWS}, ["seen"])
OTHER = a_tool("other", {"rows": ROWS}, ["seen"])
SORT = a_tool("sort", {"rows": ROWS}, ["seen"], mutates=["rows"])
SEALED = Rules(seal=seal)
TWICE = RetryPolicy(max_retries=1, backoff_seconds=0.5)


def sealed(rows: list[Any], *tools: Any, run: Any = None, **step: Any) -> Walk:
    return Walk(a_run(one_step(*(tools or (READ,)), **step), {"rows": rows}, rules=SEALED, **(run or {})))


def test_a_change_that_nobody_declares_fails_the_step_although_its_tool_has_succeeded():
    """R14, R16: the error names the step and the key."""
    rows = [2, 1]
    walk = sealed(rows)
    rows.sort()
    walk.ok({"seen": 1})
    error = error_of(walk.run)

    assert isinstance(error, SharedMutationError)
    assert (error.tool_name, error.step_index, error.key) == ("read", 0, "rows")
    assert (statuses(walk.run), walk.run.slots[1]) == ({"0": "failed"}, None)


def test_a_step_that_leaves_its_inputs_alone_is_like_any_other():
    """R14: with what it gives, and its errors."""
    good, bad = sealed([1]), sealed([1])
    good.ok({"seen": 1})
    bad.ok({"seen": "many"})

    assert good.run.final_output == {"rows": [1], "seen": 1}
    assert error_of(bad.run).context == "output"


def test_a_declared_change_is_not_asked_about():
    """R14: there is nothing to watch, and so no seal."""
    rows = [2, 1]
    walk = sealed(rows, SORT, retry=TWICE)
    rows.sort()
    assert walk.err(OSError("busy")) == ("sleep", 0.5, False)
    walk.ok()
    walk.ok({"seen": 1})

    assert walk.run.final_output == {"rows": [1, 2], "seen": 1}


def test_a_failed_attempt_that_has_changed_its_input_is_not_tried_again():
    """R20: the next attempt would see what the first one left; one that has changed nothing is tried again."""
    rows = [2, 1]
    harmless, harmful = sealed(rows, retry=TWICE), sealed(rows, retry=TWICE)

    assert harmless.err(OSError("busy")) == ("sleep", 0.5, False)
    rows.sort()
    assert harmful.err(OSError("busy")) is None
    assert isinstance(error_of(harmful.run), SharedMutationError)
    assert harmful.run.details[0].retries == 0


def test_an_attempt_is_compared_with_what_was_there_before_the_first_one():
    """R14, R20: one seal for all attempts."""
    rows = [2, 1]
    walk = sealed(rows, retry=TWICE)
    walk.err(OSError("busy"))
    walk.ok()
    rows.append(3)
    walk.ok({"seen": 1})

    assert isinstance(error_of(walk.run), SharedMutationError)
    assert walk.run.details[0].retries == 1


def test_a_fallback_has_a_seal_of_its_own():
    """R21: it passes the same gates; what the first tool left is what it is given."""
    rows = [2, 1]
    for tool, replies in ((OTHER, "failed"), (SORT, "ok")):
        walk = sealed(rows, READ, tool, on_error=f"fallback:{tool.name}")
        walk.err(OSError("down"))
        rows.append(3)
        walk.ok({"seen": 1})
        assert statuses(walk.run) == {"0": replies}


def test_the_end_of_the_time_comes_before_the_seal():
    """R22: a run whose time is over ends, whatever its last step has done."""
    rows = [2, 1]
    walk = sealed(rows, run={"deadline_s": 1.0})
    rows.sort()
    walk.ok({"seen": 1}, after_s=2.0)

    assert statuses(walk.run) == {"0": "cancelled"}


def test_no_step_takes_the_short_path_past_a_seal():
    """R14: at every limit, and inside of a map."""
    rows = [2, 1]
    plan = a_plan([a_step("read"), a_step("other", "read", output_mapping={"o": "seen"})], [READ, OTHER])
    crowd = Crowd(a_run(plan, {"rows": rows}, rules=SEALED))
    crowd.ok("read", {"seen": 1})
    rows.sort()
    crowd.ok("other", {"seen": 1})
    each = a_tool("each", {"rows": ROWS, "n": int}, ["seen"])
    step = DAGFlowStep(step_id="map", tool_name="each", map_over="ns", map_as="n")
    walk = Walk(a_run(a_plan([step], [each]), {"rows": rows, "ns": [1, 2]}, rules=SEALED))
    walk.ok({"seen": 1})
    rows.append(3)
    walk.ok({"seen": 2})

    assert statuses(crowd.concluded()) == {"read": "ok", "other": "failed"}
    assert isinstance(error_of(walk.run), SharedMutationError)
    assert statuses(walk.run.details[0].nested) == {"0": "ok", "1": "failed"}  # type: ignore[arg-type]
