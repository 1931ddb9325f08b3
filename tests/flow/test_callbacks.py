"""What a policy for decisions takes, and what it says to what it does not take."""

from __future__ import annotations

from typing import Any

import pytest

from chainweaver import DecisionPolicy


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"timeout_seconds": "5"}, TypeError, "timeout_seconds has to be a number of seconds, not '5'."),
        ({"timeout_seconds": True}, TypeError, "timeout_seconds has to be a number of seconds, not True."),
        ({"timeout_seconds": 0}, ValueError, "timeout_seconds has to be greater than 0, not 0."),
        ({"timeout_seconds": float("nan")}, ValueError, "timeout_seconds has to be greater than 0, not nan."),
        ({"budget": 1.5}, TypeError, "budget has to be a whole number of decisions, not 1.5."),
        ({"budget": True}, TypeError, "budget has to be a whole number of decisions, not True."),
        ({"budget": -1}, ValueError, "budget has to be a whole number of decisions, at least 0, not -1."),
        ({"default": "skip"}, ValueError, "default has to be 'fail' or 'tool_name', not 'skip'."),
    ],
    ids=str,
)
def test_a_policy_for_decisions_says_what_each_field_has_to_be(
    fields: dict[str, Any], kind: type[Exception], message: str
) -> None:
    """R26: limits are numbers, and True is none."""
    with pytest.raises(kind) as caught:
        DecisionPolicy(**fields)
    assert str(caught.value) == message


def test_a_policy_for_decisions_takes_nothing_and_limits_of_any_kind_of_number() -> None:
    """R26: without a limit callbacks have all the time, and every step may ask."""
    assert DecisionPolicy() == DecisionPolicy(timeout_seconds=None, budget=None, default="fail")
    assert (DecisionPolicy(timeout_seconds=1).timeout_seconds, DecisionPolicy(budget=0).budget) == (1, 0)
