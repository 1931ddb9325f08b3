"""How two runs differ, for people and for programs. Used by `replay` and `diff`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chainweaver.cli._screen import Screen, counted, shown_value
from chainweaver.executor import StepDiff
from chainweaver.executor.likeness import ABSENT

MOST_SHOWN = 20
"""Differences on a screen; `--format json` has all of them."""


def difference_data(diff: StepDiff) -> dict[str, Any]:
    """A difference for `--format json`: the values at its place, not the whole field."""
    expected, actual = diff.parts
    return {
        "step": diff.step_id,
        "path": list(diff.path),
        "step_index": diff.step_index,
        "tool": diff.tool_name,
        "field": diff.field,
        "place": diff.place,
        "expected": None if expected is ABSENT else expected,
        "actual": None if actual is ABSENT else actual,
        "by_reference": diff.by_reference,
    }


def show_differences(
    screen: Screen, diffs: Sequence[StepDiff], not_compared: Sequence[str], names: tuple[str, str]
) -> None:
    """The differences, the one first that the others follow from.

    Args:
        names: What the two sides are called.
    """
    width = max(map(len, names))
    for diff in diffs[:MOST_SHOWN]:
        screen.line()
        note = ("  shown by reference, compared as it is now" if diff.by_reference else "", "dim")
        screen.line((f"{diff.step}, {diff.place}", "bold"), note)
        for name, value in zip(names, diff.parts, strict=True):
            screen.line((f"  {name:<{width}}  ", "dim"), shown_value(repr(value) if _is_text(value) else value))
    if len(diffs) > MOST_SHOWN:
        screen.line()
        screen.line((f"... and {counted(len(diffs) - MOST_SHOWN, 'difference')} more", "dim"))
    if not_compared:
        screen.line()
        screen.line("not compared, since nothing tells such values apart:")
        for place in not_compared[:MOST_SHOWN]:
            screen.line(f"  {place}")


def _is_text(value: Any) -> bool:
    # In quotes, so that '3' and 3 are told apart; `ABSENT` says by itself what it is.
    return isinstance(value, str) or value is ABSENT
