"""Seals: was a value changed in place by a step whose tool does not declare it?

For runs with `on_shared_mutation="detect"`. What a step is given is fingerprinted before its call and after it, as far
as others look at it. Imported only by executors that ask for it; the run core calls the function through its rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chainweaver.exceptions import SharedMutationError
from chainweaver.objects.fingerprints import fingerprint

if TYPE_CHECKING:
    from chainweaver.plan import PlannedStep, PlannedTool


def seal(step: PlannedStep, tool: PlannedTool, given: dict[str, Any]) -> Callable[[], None] | None:
    """A function that raises when the step has changed what it was given; None where there is nothing to watch.

    Values without a fingerprint are not watched, and neither are objects that the tool declares to change.
    """
    if step.child is not None:
        return None  # its own steps are watched
    declared = {id(given[name]) for name in step.mutates if name in given}
    before = {}
    for name, key in step.watched():
        if name in given and id(given[name]) not in declared:
            found = _fingerprint(given[name])
            if found is not None:
                before[name] = key, found

    def compare() -> None:
        for name, (key, found) in before.items():
            if _fingerprint(given[name]) != found:
                raise SharedMutationError(tool.name, step.index, key, step_name=step.label)

    return compare if before else None


def _fingerprint(value: Any) -> str | None:
    """The fingerprint of a value; None where it has none."""
    try:
        return fingerprint(value)
    except Exception:  # whatever a foreign object answers: a value without a fingerprint cannot be compared
        return None
