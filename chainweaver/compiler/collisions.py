"""Keys that are written more than once: what can be said of them beforehand, and who has to look when a flow runs.

Two steps of one level that write one key contradict each other whatever the policy says; over levels the policy decides
(R12). Called by `build` once all steps have been bound.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from chainweaver.compiler.findings import Findings
from chainweaver.compiler.keys import Writes
from chainweaver.exceptions import FlowExecutionError

if TYPE_CHECKING:
    from chainweaver.compiler.lower import Lowered


class Collisions:
    """Who writes which key, in plan order."""

    def __init__(self, steps: Sequence[Lowered], writes: Sequence[Writes], policy: str, *, stops: bool) -> None:
        self.steps = steps
        self.writes = writes
        self.policy = policy
        self.stops = stops
        self._writers: dict[str, list[int]] = {}
        self._open = [index for index, one in enumerate(writes) if one.open]
        self._uncertain: set[int] = set()
        for step in steps:
            for key in writes[step.index].keys:
                self._writers.setdefault(key, []).append(step.index)

    # ---- beforehand

    def check(self, initial: Collection[str], findings: Findings) -> None:
        """Note siblings that write one key, and warn of keys that are written again unless they may be."""
        for key, writers in self._writers.items():
            owner = "the initial input" if key in initial else None
            for _, group in groupby(writers, key=lambda index: self.steps[index].level):
                siblings: list[int] = []
                for index in group:
                    step = self.steps[index]
                    if siblings:
                        self._check_siblings(step, siblings, key, findings)
                    if owner is not None and self.policy != "overwrite":
                        _warn(step, key, owner, findings)
                    siblings.append(index)
                owner = f"step {step.index} ('{step.label}')"

    def _check_siblings(self, step: Lowered, siblings: Sequence[int], key: str, findings: Findings) -> None:
        # Of steps behind a branch perhaps only one runs.
        rivals = [] if step.may_be_passed else [one for one in siblings if not self.steps[one].may_be_passed]
        sure = [index for index in rivals if key in self.writes[index].sure]
        certain = bool(sure) and key in self.writes[step.index].sure
        if not certain:
            self._uncertain.add(step.index)
        if rivals:
            _conflict(step, self.steps[(sure or rivals)[0]], key, certain, findings)

    # ---- at run time

    def rivals_of(self, step: Lowered) -> tuple[tuple[int, ...], bool]:
        """The earlier steps that decide at run time whether the step collides, and whether the input does too."""
        rivals = set(self._earlier_siblings(step))
        if self.policy == "error":
            rivals.update(self._earlier_writers(step))
        return tuple(sorted(rivals)), self.policy == "error"

    def _earlier_siblings(self, step: Lowered) -> Iterator[int]:
        """Siblings that may write a key of the step, where that is not certain beforehand."""
        mine = self.writes[step.index]
        if self._open:
            for index in range(step.index - 1, -1, -1):
                if self.steps[index].level != step.level:
                    break
                if mine.open or self.writes[index].open:
                    yield index
        if step.index in self._uncertain:
            for index in (one for key in mine.keys for one in self._writers_before(key, step)):
                if self.steps[index].level == step.level:
                    yield index

    def _earlier_writers(self, step: Lowered) -> Iterator[int]:
        mine = self.writes[step.index]
        if mine.open:
            yield from range(step.index)
            return
        yield from self._open[: bisect_left(self._open, step.index)]
        for key in mine.keys:
            for index in self._writers_before(key, step):
                yield index
                # A failure before this step keeps it from running: whoever surely wrote the key speaks for all before.
                if self.stops and key in self.writes[index].sure:
                    break

    def _writers_before(self, key: str, step: Lowered) -> Iterator[int]:
        """Earlier writers of a key, the latest first."""
        writers = self._writers[key]
        return (writers[at] for at in range(bisect_left(writers, step.index) - 1, -1, -1))


def _warn(step: Lowered, key: str, whose: str, findings: Findings) -> None:
    detail = (
        f"it overwrites key '{key}' of {whose}; rename that with output_mapping, "
        "or set on_context_collision to 'overwrite'"
    )
    findings.warning(step, "context_collision", detail, key)


def _conflict(step: Lowered, earlier: Lowered, key: str, certain: bool, findings: Findings) -> None:
    told = f"Key '{key}' produced by both '{earlier.step_id}' and its sibling '{step.step_id}'"
    fix = "rename one of them with output_mapping, or let one step depend on the other"
    findings.error(
        step,
        "sibling_conflict",
        f"{told}; {fix}",
        (lambda: FlowExecutionError(step.tool_name, step.index, told, fix=fix)) if certain else None,
        key,
    )
