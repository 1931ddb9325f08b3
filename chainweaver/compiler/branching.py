"""Branches: the conditional ways out of a step, bound to the slots that their predicates read.

A predicate sees the outputs of its own step first, then what the step itself could see (R24). Called by `build`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chainweaver.compiler.keys import MISSING, Visible, Writes
from chainweaver.compiler.lower import Lowered
from chainweaver.compiler.readers import Lookup, Place, look_up_place
from chainweaver.exceptions import FlowExecutionError, PredicateSyntaxError
from chainweaver.flow import DAGFlowStep
from chainweaver.plan import Branches, Edge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from chainweaver.compiler.findings import Findings
    from chainweaver.plan import Slots


@dataclass(frozen=True, slots=True)
class BoundBranches:
    """The ways out of a step, and the earlier steps whose values decide among them."""

    planned: Branches
    writers: tuple[int, ...]


def bind_branches(
    step: Lowered, writes: Writes, visible: Visible, positions: Mapping[str, int], findings: Findings
) -> BoundBranches | None:
    """Bind the branches of a step and note everything that is wrong with them; None for a step without any."""
    definition = step.definition
    if not isinstance(definition, DAGFlowStep) or not step.branches:
        return None
    binding = _Binding(step, writes, visible, findings)
    edges = []
    for edge in definition.branches:
        holds = binding.bound(edge.predicate, edge.target_step_id)
        if holds is not None:
            edges.append(Edge(holds, positions[edge.target_step_id], edge.predicate))
    default = None if definition.default_next is None else positions[definition.default_next]
    return BoundBranches(Branches(tuple(edges), default), tuple(sorted(binding.writers)))


class _Binding:
    """The work on the predicates of one step."""

    def __init__(self, step: Lowered, writes: Writes, visible: Visible, findings: Findings) -> None:
        self.step = step
        self.writes = writes
        self.visible = visible
        self.findings = findings
        self.writers: set[int] = set()

    def bound(self, text: str, target: str) -> Callable[[Slots], bool] | None:
        """The predicate as a function of the slots; None when it has no meaning."""
        from chainweaver.compiler.predicates import parse_predicate

        step = self.step
        try:
            predicate = parse_predicate(text)
        except PredicateSyntaxError as exc:
            self.findings.error(step, "predicate_syntax", f"the branch to '{target}': {exc}", _remade(exc), "branches")
            return None
        return predicate.bind({name: self._look_up(name, text, target) for name in predicate.names})

    def _look_up(self, name: str, text: str, target: str) -> Lookup:
        step, visible = self.step, self.visible
        own = step.index + 1
        if name in self.writes.keys:
            visible.reads.setdefault(name, set()).add(step.index)
        if name in self.writes.sure and name not in visible.dynamic:
            return look_up_place(Place((own,), name, True))
        seen = visible.look(name, step.level)
        self.writers.update(seen.writers)
        writes_it = name in self.writes.keys or self.writes.open or self.writes.unknown
        if seen.standing in MISSING and not writes_it:
            self._unknown(name, text, target, certain=seen.standing == "impossible")
        slots = (own, *seen.place.slots) if writes_it and name not in visible.dynamic else seen.place.slots
        return look_up_place(Place(slots, name, False))

    def _unknown(self, name: str, text: str, target: str, *, certain: bool) -> None:
        step = self.step
        known = [*self.writes.keys, *self.visible.known_keys(step.level)]
        hint = self.findings.hint(name, known, "known keys are")
        detail = f"predicate '{text}' of the branch to '{target}' reads unknown key '{name}'; {hint}"

        def make() -> Any:
            return FlowExecutionError(step.tool_name, step.index, detail, step_name=step.label)

        self.findings.error(step, "missing_predicate_key", detail, make if certain else None, "branches")


def _remade(error: PredicateSyntaxError) -> Callable[[], PredicateSyntaxError]:
    """Makes an error of its own for every run: tracebacks must not pile up in a plan."""
    predicate, detail, known, fix = error.predicate, error.detail, error.known, error.fix
    return lambda: PredicateSyntaxError(predicate, detail, known=known, fix=fix)
