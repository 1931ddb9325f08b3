"""What the records of an executor keep of values: the captures of the run core, told which types are immutable.

They are told here, because the run core names no type of the standard library that could perform something, such as a
date that can ask the clock or a path that can open a file. Called by `runs` and by `recorded`.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import TYPE_CHECKING, Any
from uuid import UUID

from chainweaver._execution import capture_within, reference_only, summarize
from chainweaver._execution.trace import SCALARS

if TYPE_CHECKING:
    from collections.abc import Callable

    from chainweaver._execution.trace import Capture
    from chainweaver.objects.inspection import ObjectInfo

IMMUTABLES: frozenset[type] = SCALARS | {
    *(date, datetime, time, timedelta, timezone, Decimal, Fraction, UUID, range),
    *(PurePosixPath, PureWindowsPath, PosixPath, WindowsPath),
}
"""Exact types whose values nobody can change, so that a record may show the very object."""


def capture_of(trace_values: str, copy_limit: int) -> Capture:
    """The capture that a setting names.

    Args:
        trace_values: "snapshot", "reference" or "summary".
        copy_limit: How many items a snapshot copies per step.
    """
    if trace_values == "snapshot":
        return capture_within(copy_limit, IMMUTABLES)
    return summarize if trace_values == "summary" else reference_only(IMMUTABLES)


def inspect_of(trace_values: str) -> Callable[[dict[str, Any]], dict[str, ObjectInfo]] | None:
    """What looks at values while they are there: only summaries keep nothing that could be looked at later."""
    if trace_values != "summary":
        return None
    from chainweaver.objects.inspection import noteworthy

    return noteworthy
