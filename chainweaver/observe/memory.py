"""`MemoryTracker`: how much memory the values of each step hold, and the whole run at its peak.

What it finds is kept with the run and shows in `result.memory`; the tracker itself keeps nothing, and one serves any
number of runs at once. It measures what lies between steps: what a tool takes for itself while it works and gives back
is not seen. It sees the very values, also where a redaction policy hides them, and keeps numbers and names.

Given to the executor by users, as middleware.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ref

from chainweaver._execution.liveness import lets_go
from chainweaver._execution.run import RELEASED
from chainweaver.objects.measuring import MAPPED, MEMORY, Extent, RunMemory, StepMemory, Tally, measure
from chainweaver.observe.telling import LateStepEnd, LateStepStart

if TYPE_CHECKING:
    from chainweaver._execution.run import Run
    from chainweaver.observe.contexts import StepEndContext, StepStartContext
    from chainweaver.plan import PlannedStep


class MemoryTracker:
    """Fills `result.memory` of the runs that it watches, with the steps of nested runs in that of the outermost one.

    A view counts as the whole array that it keeps in memory. What several values share counts once in a step, and once
    in what the run holds. Of containers with more than 1 000 items a part is measured and the rest worked out.

    >>> from chainweaver import Flow, FlowExecutor, FlowStep, tool
    >>> @tool
    ... def text(size: int) -> bytes:
    ...     return bytes(size)
    >>> flow = Flow(name="f", description="d", steps=[FlowStep(tool_name="text")])
    >>> with FlowExecutor(tools=[text], flows=[flow], middleware=[MemoryTracker()]) as executor:
    ...     memory = executor.execute_flow("f", {"size": 1_000_000}).memory
    >>> memory.peak_step, round(memory.peak_bytes, -3), round(memory.steps["0"].outputs["text"], -3)
    ('0', 1000000, 1000000)
    """

    def on_step_start(self, context: StepStartContext) -> None:
        """Measure what a step takes, while all of it is there."""
        if isinstance(context, LateStepStart):
            run, step = context.moment
            _ledger_of(run).begin(run, step)

    def on_step_end(self, context: StepEndContext) -> None:
        """Measure what a step gave, and what the run holds now."""
        if isinstance(context, LateStepEnd):
            run, step = context.moment
            _ledger_of(run).end(run, step)


def _ledger_of(run: Run) -> _Ledger:
    root = run.root
    if root.memory is None:
        root.memory = _Ledger()
    ledger: _Ledger = root.memory
    return ledger


class _Ledger:
    """What one outermost run holds, and held."""

    def __init__(self) -> None:
        self._tally = Tally()
        # Run -> slot -> name -> what the value behind it holds. Runs are not kept: a failed attempt may go.
        self._held: dict[int, dict[int, dict[str, Extent]]] = {}
        self._runs: dict[int, ref[Run]] = {}
        self._inputs: dict[tuple[int, int], dict[str, Extent]] = {}
        self._steps: dict[tuple[int, ...], tuple[str, StepMemory]] = {}
        self._most: dict[str, int] = {}
        self._peak: str | None = None

    def begin(self, run: Run, step: PlannedStep) -> None:
        """A step is about to run."""
        self._meet(run)
        self._inputs[id(run), step.index] = _measured(_inputs_of(run, step))

    def end(self, run: Run, step: PlannedStep) -> None:
        """A step is over."""
        self._meet(run)
        slot = step.index + 1
        outputs = self._take(run, slot)
        inputs = self._inputs.pop((id(run), step.index), {})
        detail = run.details.get(step.index)
        nested = None if detail is None else detail.nested
        if run.releases:
            self._sort_out(run)
        if detail is not None and nested is not None:
            if lets_go(run):
                self._forget_all(nested)
            if detail.retries:
                self._forget_lost()
        step_id = "/".join((*run.path, step.step_id))
        held = self._tally.of(MEMORY)
        if self._peak is None or held > self._most[MEMORY]:
            self._peak = step_id
        for where, size in self._tally.bytes.items():
            self._most[where] = max(size, self._most.get(where, 0))
        self._most.setdefault(MEMORY, 0)
        self._steps[_place_of(run, step)] = (
            step_id,
            StepMemory(
                {name: _total([extent]) for name, extent in inputs.items()},
                {name: _total([extent]) for name, extent in outputs.items()},
                _total([*inputs.values(), *outputs.values()]),
                held,
            ),
        )

    def report(self) -> RunMemory:
        """What is known so far."""
        most = dict(self._most)
        peak, mapped = most.pop(MEMORY, 0), most.pop(MAPPED, 0)
        steps = dict(self._steps[place] for place in sorted(self._steps))
        return RunMemory(peak, self._peak, mapped, most, steps)

    def _meet(self, run: Run) -> None:
        """Take in what a run holds that was not met before: its input, and what a resumed one had already."""
        known = self._runs.get(id(run))
        if known is None or known() is not run:
            if known is not None:  # of an attempt that is gone
                self._forget(id(run))
            self._runs[id(run)] = ref(run)
            for slot, values in enumerate(run.slots[:-1]):
                if values:
                    self._take(run, slot)

    def _take(self, run: Run, slot: int) -> dict[str, Extent]:
        """Count what is in a slot now, instead of what was."""
        slots = self._held.setdefault(id(run), {})
        self._drop(slots.pop(slot, {}))
        found = _measured(run.slots[slot] or {})
        if found:
            slots[slot] = dict(found)  # from which names go when they are let go of
        for extent in found.values():
            self._tally.add(extent)
        return found

    def _drop(self, extents: dict[str, Extent]) -> None:
        for extent in extents.values():
            self._tally.remove(extent)

    def _sort_out(self, run: Run) -> None:
        """Forget what a run has let go of."""
        slots = self._held.get(id(run), {})
        for slot, extents in tuple(slots.items()):
            values = run.slots[slot] or {}
            gone = {name: one for name, one in extents.items() if values.get(name, RELEASED) is RELEASED}
            self._drop(gone)
            for name in gone:
                del extents[name]
            if not extents:
                del slots[slot]

    def _forget_all(self, nested: Run) -> None:
        """Forget a nested run that is over, of which summaries are left, and those inside of it."""
        self._forget(id(nested))
        for detail in nested.details.values():
            if detail.nested is not None:
                self._forget_all(detail.nested)

    def _forget_lost(self) -> None:
        """Forget the runs of attempts that another one followed."""
        for identity, found in tuple(self._runs.items()):
            run = found()
            if run is None or not _is_held(run):
                self._forget(identity)

    def _forget(self, identity: int) -> None:
        self._runs.pop(identity, None)
        for extents in self._held.pop(identity, {}).values():
            self._drop(extents)


def _is_held(run: Run) -> bool:
    """Whether the records of a run lead to it: not when another attempt followed."""
    around = run.parent
    if around is None or run.place is None:
        return True
    detail = around.details.get(run.place[0].index)
    return detail is not None and detail.nested is run and _is_held(around)


def _inputs_of(run: Run, step: PlannedStep) -> dict[str, Any]:
    try:
        given: dict[str, Any] = step.read(run.slots)
    except Exception:  # it fails for that, and takes nothing
        return {}
    return {name: value for name, value in given.items() if name not in (step.dynamic_fields or ())}


def _measured(values: dict[str, Any]) -> dict[str, Extent]:
    return {str(name): measure(value) for name, value in tuple(values.items()) if value is not RELEASED}


def _total(extents: list[Extent]) -> int:
    """Bytes wherever they lie: a port is as large as its values."""
    return sum(Tally(extents).bytes.values())


def _place_of(run: Run, step: PlannedStep) -> tuple[int, ...]:
    place = [step.index]
    around: Run | None = run
    while around is not None:
        if around.place is not None:
            place.insert(0, around.place[0].index)
        around = around.parent
    return tuple(place)
