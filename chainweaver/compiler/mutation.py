"""Changes in place: what tools declare with `mutates`, held against everybody who looks at the same values.

Values are passed by reference, so that a change is seen by whoever looks later, and by whoever looks at the same time.
The second is an error of the definition, found here for declared changes; where undeclared ones may be looked for is
worked out here too (`watched`). Called by `build` once all steps are bound, and asked by `once`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from chainweaver.compiler.keys import Look, Visible
from chainweaver.compiler.model_traits import IMMUTABLES, holds_only
from chainweaver.compiler.models import ModelFacts
from chainweaver.exceptions import SharedMutationError
from chainweaver.flow import DAGFlowStep

if TYPE_CHECKING:
    from chainweaver.compiler.build import Build
    from chainweaver.compiler.findings import Findings
    from chainweaver.compiler.inputs import BoundInputs
    from chainweaver.compiler.lower import Lowered
    from chainweaver.compiler.maps import BoundMap


class Change(NamedTuple):
    """Values that a step declares to change.

    Attributes:
        key: The context key under which it finds them.
        slots: Where they may be.
        is_shared: All items of its map change the same one.
    """

    key: str
    slots: tuple[int, ...]
    is_shared: bool


class Mutations:
    """Who changes what in place, and who looks at it.

    Attributes:
        changes: Step -> what it declares to change; only steps that declare anything.
    """

    def __init__(self, built: Build, bound: Sequence[BoundInputs], maps: Mapping[int, BoundMap]) -> None:
        self.steps: Sequence[Lowered] = built.steps
        self.ancestors = built.ancestors
        self.looks = built.looks
        self.visible: Visible = built.visible
        self.outputs = built.flow.outputs
        self._bound = bound
        self._maps = maps
        self._inside = {index: child.mutations.of_inputs for index, child in built.children.items()}
        # Inside these something is changed that may be what they were given, or a part of it, under another name.
        self._vague = {index for index, child in built.children.items() if child.mutations.may_change_inputs}
        self.changes: dict[int, tuple[Change, ...]] = {}
        for step in self.steps:
            found = tuple(self._changes_of(step))
            if found:
                self.changes[step.index] = found

    def _changes_of(self, step: Lowered) -> Iterator[Change]:
        inside = self._inside.get(step.index)
        named = inside if inside is not None else {name for known in step.callees for name in known.tool.mutates}
        for name in sorted(named):
            yield from self._found_under(step, name)

    def _found_under(self, step: Lowered, name: str) -> Iterator[Change]:
        """What a step finds in one field."""
        origins = self._bound[step.index].origins
        mapped = self._maps.get(step.index)
        if mapped is None:
            for key, seen in origins.get(name, ()):
                yield Change(key, self._kept_slots(seen.place.slots), False)
            return
        over, as_key = mapped.over, step.definition.map_as
        for key, _ in mapped.inner.origins.get(name, ()):
            is_item = key == as_key
            for _, seen in origins.get(over if is_item else key, ()):
                alone = step.definition.map_concurrency == 1
                yield Change(over if is_item else key, self._kept_slots(seen.place.slots), not (is_item or alone))

    def _kept_slots(self, slots: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(slot for slot in slots if slot <= len(self.steps))  # the dynamic parameters are behind them

    # ---- who may run at the same time

    def check(self, findings: Findings) -> None:
        """Note every step that changes what another one, which no path connects with it, looks at."""
        for index, changes in self.changes.items():
            step = self.steps[index]
            for change in changes:
                for other in self._onlookers(index, change):
                    _conflict(step, self.steps[other], change.key, findings)
                if self._is_missed(index, change):
                    _warn_of_loss(step, change.key, findings)

    def _onlookers(self, index: int, change: Change) -> Iterator[int]:
        if change.is_shared:
            yield index
        for other in range(len(self.steps)):
            if self._may_meet(index, other) and _sees(self.looks[other], change):
                yield other

    def _may_meet(self, one: int, other: int) -> bool:
        """Whether two steps may run at the same time."""
        if one == other or self.ancestors[one] >> other & 1 or self.ancestors[other] >> one & 1:
            return False
        return not self.are_alternatives(one, other)

    def are_alternatives(self, one: int, other: int) -> bool:
        """Whether two steps are on different ways out of one branching step, of which only one is ever taken."""
        mine, theirs = dict(self._choices[one]), dict(self._choices[other])
        return any(mine[fork] != theirs[fork] for fork in mine.keys() & theirs.keys())

    @cached_property
    def _choices(self) -> list[frozenset[tuple[int, int]]]:
        """Per step, the (branching step, its way out) pairs without which the step does not run."""
        found: list[frozenset[tuple[int, int]]] = []
        for step in self.steps:
            ways = [
                found[parent] | ({(parent, step.index)} if self._chooses_one(parent, step) else frozenset())
                for parent in step.parents
            ]
            found.append(frozenset.intersection(*ways) if ways else frozenset())
        return found

    def _chooses_one(self, parent: int, step: Lowered) -> bool:
        definition = self.steps[parent].definition
        if not isinstance(definition, DAGFlowStep) or definition.default_next is None:
            return False  # without a default all dependents run where no predicate holds
        targets = {definition.default_next, *(edge.target_step_id for edge in definition.branches)}
        return step.step_id in targets

    def _is_missed(self, index: int, change: Change) -> bool:
        """Whether a later step, or the flow, looks for the changed value where nothing wrote it anew."""
        if self.outputs is None or change.key in self.outputs:
            kept = self.visible.kept_in(change.key, len(self.steps))
            if not set(kept.slots).isdisjoint(change.slots):
                return True
        later = (other for other in range(len(self.steps)) if self.ancestors[other] >> index & 1)
        return any(_sees(self.looks[other], change) for other in later)

    # ---- for whom else a change matters

    @property
    def of_inputs(self) -> frozenset[str]:
        """The keys of the initial context under which a step changes values."""
        return frozenset(one.key for changes in self.changes.values() for one in changes if 0 in one.slots)

    @cached_property
    def _roots(self) -> list[int]:
        """Per slot, the slots whose objects may be in it, as the bits of one number: what a step gives may be, or hold,
        what it was given."""
        roots = [1]
        for step in self.steps:
            mine = 2 << step.index
            if not self._gives_new(step):
                for slots, _ in self.looks[step.index]:
                    for slot in slots:
                        mine |= roots[slot] if slot <= step.index else 0
            roots.append(mine)
        return roots

    def _gives_new(self, step: Lowered) -> bool:
        """Whether all that a step gives is of types that nobody can change."""
        gives = [known.gives for known in step.callees]
        return bool(gives) and all(isinstance(one, ModelFacts) and holds_only(one.model, IMMUTABLES) for one in gives)

    @cached_property
    def may_change_inputs(self) -> bool:
        """Whether a step changes what may be, or be a part of, a value of the initial context."""
        return any(self._touched_by(index) & 1 for index in (*self.changes, *self._vague))

    def _touched_by(self, index: int) -> int:
        """The slots whose objects a step may change, as the bits of one number."""
        slots = [slot for change in self.changes.get(index, ()) for slot in change.slots]
        if index in self._vague:
            slots += [slot for look in self.looks[index] for slot in look.slots if slot <= len(self.steps)]
        touched = 0
        for slot in slots:
            touched |= self._roots[slot]
        return touched

    def changed_between(self, slot: int, reader: int) -> Lowered | None:
        """A step that may change what is in a slot after it was written and before a reader has done with it."""
        for index in sorted({*self.changes, *self._vague}):
            before = slot and (index == slot - 1 or self.ancestors[slot - 1] >> index & 1)
            after = self.ancestors[index] >> reader & 1
            if not before and not after and self._touched_by(index) & self._roots[slot]:
                return self.steps[index]
        return None

    def changed_meanwhile(self, index: int) -> bool:
        """Whether a step may change what another one works on, while it does."""
        return any(
            other == index or (self._may_meet(index, other) and self._touched_by(other) & self._roots[index + 1])
            for other in (*self.changes, *self._vague)
        )

    # ---- where undeclared changes matter

    def watched(self, index: int) -> tuple[tuple[str, str], ...]:
        """The inputs of a step, under their names in what it reads, in which a change would matter to others; each with
        its context key.

        They come from outside, are outputs of the flow, or are read by a step that does not end before this one begins.
        """
        mapped = self._maps.get(index)
        inputs = self._bound[index] if mapped is None else mapped.inner
        declared = {name for known in self.steps[index].callees for name in known.tool.mutates}
        return tuple(
            (inputs.fed_as.get(name, name), key)
            for name, origins in inputs.origins.items()
            for key, seen in origins
            if name not in declared and (mapped is not None or self._matters(index, key, seen.place.slots))
        )

    def fields_of(self, step: Lowered) -> tuple[str, ...]:
        """The inputs that a step declares to change, under their names in what it reads."""
        if step.index not in self.changes:
            return ()
        mapped = self._maps.get(step.index)
        fed_as = (self._bound[step.index] if mapped is None else mapped.inner).fed_as
        return tuple(sorted({fed_as.get(name, name) for known in step.callees for name in known.tool.mutates}))

    def _matters(self, index: int, key: str, slots: tuple[int, ...]) -> bool:
        if 0 in slots or max(slots) > len(self.steps) or self.outputs is None:
            return True
        change = Change(key, slots, False)
        if key in self.outputs and not set(self.visible.kept_in(key, len(self.steps)).slots).isdisjoint(slots):
            return True
        others = (at for at in range(len(self.steps)) if at != index and not self.ancestors[index] >> at & 1)
        return any(_sees(self.looks[other], change) for other in others)


def _sees(looks: Sequence[Look], change: Change) -> bool:
    return any(look.key in (None, change.key) and not set(look.slots).isdisjoint(change.slots) for look in looks)


def _conflict(step: Lowered, other: Lowered, key: str, findings: Findings) -> None:
    def make() -> Any:
        return SharedMutationError(step.tool_name, step.index, key, step_name=step.label, other=other.label)

    findings.error(step, "shared_mutation", f"{make().sentence[:-1]}; {make().fix}", make, key)


def _warn_of_loss(step: Lowered, key: str, findings: Findings) -> None:
    detail = (
        f"it changes '{key}' in place and does not return it: a run that is resumed from a checkpoint goes on with "
        f"'{key}' as it was before; return it under the same key"
    )
    findings.warning(step, "mutation_not_returned", detail, key)
