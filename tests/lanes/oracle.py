"""What has to come of a story, worked out step by step from the clauses of docs/run-semantics.md.

The oracle goes through the steps one after the other. It knows nothing of plans, generators or lanes, and shares with a
run only what the tools and the callbacks of `stories` do.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from tests.lanes import stories
from tests.lanes.stories import KINDS, LIMIT_S, OPERATORS, Pair, Predicate, Step, Story, Task


@dataclass
class Told:
    """What the trace has to tell of one step, or of one item of a map."""

    step: str
    status: str = "ok"
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] | None = None
    error: str | None = None
    retries: int = 0
    fallback: str | None = None
    approved: bool | None = None
    decision: dict[str, Any] = field(default_factory=dict)
    inside: list[Told] | None = None


@dataclass
class Ending:
    """What has to come of a flow: its status, what leaves the call, its error, its trace and its values."""

    status: str = "ok"
    raised: str | None = None
    error: str | None = None
    trace: list[Told] = field(default_factory=list)
    context: dict[str, Any] = field(default_factory=dict)
    final: dict[str, Any] | None = None


@dataclass(frozen=True)
class Missed:
    """Stands in the outputs of a map for an item that failed."""

    at: int
    error: str


class Failure(Exception):
    """A step fails, with an error of this class."""

    def __init__(self, error: str = "FlowExecutionError") -> None:
        super().__init__(error)
        self.error = error


def ending_of(story: Story, given: dict[str, Any]) -> Ending:
    """What has to come of a story."""
    return _Flow(story, given, (), Counter()).ending()


class _Flow:
    """One flow on its way through its steps.

    Attributes:
        place: The steps around the flow, outermost first; `calls` counts the calls of every place of the whole run.
        order: The steps in plan order: by level, then by declaration (R2).
        written: What each step that is done has merged into the context.
        ways: The steps to which there is an active edge from each one that has ended.
    """

    def __init__(self, story: Story, given: dict[str, Any], place: tuple[str, ...], calls: Counter[Any]) -> None:
        self.story, self.given, self.place, self.calls = story, given, place, calls
        self.steps = {step.name: step for step in story.steps}
        self.order = sorted(story.steps, key=lambda step: self._level(step))
        self.told: dict[str, Told] = {}
        self.written: dict[str, dict[str, Any]] = {}
        self.ways: dict[str, set[str]] = {}
        self.end = Ending(context=dict(given))

    def ending(self) -> Ending:
        end = self.end
        for step in self.order:
            if any(need not in self.told or self.told[need].status == "failed" for need in self._needs(step)):
                continue  # R19: what depends on a failure does not run
            told = self.told[step.name] = Told(step.name)
            if step.needs and not any(step.name in self.ways[need] for need in step.needs):
                told.status, self.ways[step.name] = "passed", set()  # R24: no active edge reaches it
                continue
            self._run(step, told)
            if told.status == "failed":
                end.status, end.error = "failed", end.error or told.error
                if self.story.on_failure == "stop" or end.raised:  # R19, R12
                    break
        end.trace = list(self.told.values())
        if end.status == "ok":
            names = end.context if self.story.outputs is None else self.story.outputs
            if all(name in end.context for name in names):
                end.final = {name: end.context[name] for name in names}  # R13
            else:
                end.status, end.error = "failed", "OutputMappingError"
                end.trace.append(Told("", "failed", dict(end.context), error=end.error))
        return end

    # ---- who comes before whom

    def _level(self, step: Step) -> int:
        return max((self._level(self.steps[need]) + 1 for need in step.needs), default=0)

    def _before(self, step: Step) -> list[Step]:
        """The steps of earlier levels, in plan order."""
        return [one for one in self.order if self._level(one) < self._level(step)]

    def _siblings(self, step: Step) -> list[Step]:
        """The steps of the same level that come before it in plan order."""
        return [one for one in self.order[: self.order.index(step)] if self._level(one) == self._level(step)]

    def _needs(self, step: Step) -> set[str]:
        """R3: who reads a key waits for all who may have written it, back to the last who surely did."""
        needs = set(step.needs)
        for key in step.keys_mapped() | (step.keys_asked() - self._surely_written(step)):
            for one in reversed(self._before(step)):
                if key in one.keys_written():
                    needs.add(one.name)
                    if key in self._surely_written(one):
                        break
        return needs

    def _surely_written(self, step: Step) -> set[str]:
        """The keys that a step writes unless it fails: nothing skips it, and there is no branch before it."""
        if step.on_error == "skip" or self._may_be_passed(step):
            return set()
        if step.writes is not None or not isinstance(step.calls, Story) or step.calls.outputs is not None:
            return step.keys_written()
        inner = _Flow(step.calls, {}, (), self.calls)
        keys = {key for one in step.calls.steps for key in inner._surely_written(one)}
        return keys if step.fallback is None else keys & {"v", "w"}

    def _may_be_passed(self, step: Step) -> bool:
        """Whether no way leads surely to a step: from one that is sure, or from all ways out of one that branches."""
        parents = [self.steps[need] for need in step.needs]
        plain = {one.name for one in parents if not one.branches}
        if not parents or any(not self._may_be_passed(self.steps[name]) for name in plain):
            return False
        forks = [self.steps[need] for one in parents for need in one.needs if self.steps[need].branches]
        return all(self._may_be_passed(fork) or not fork.ways_out() <= plain for fork in forks)

    # ---- one step

    def _run(self, step: Step, told: Told) -> None:
        seen = dict(self.given)
        for one in self._before(step):
            seen.update(self.written.get(one.name, {}))  # R3: the last writer of the earlier levels wins
        merged: dict[str, Any] = {}
        try:
            if any(self._surely_written(one) & self._surely_written(step) for one in self._siblings(step)):
                raise Failure  # R12, R16: known beforehand, so that nothing is called
            merged = self._mapped_over(step, told, seen) if step.over else self._called(step, told, seen, told.step)
        except Failure as failure:
            told.error = failure.error
            told.status = "skipped" if step.on_error == "skip" else "failed"  # R21
        try:
            self._collide(step, merged)
            if told.status != "failed":
                self._branch(step, told, {**seen, **merged})
        except Failure as failure:
            told.status, told.error = "failed", failure.error
        if told.status != "ok":
            told.outputs = None
            return
        self.written[step.name] = merged
        self.end.context.update(merged)

    def _collide(self, step: Step, merged: dict[str, Any]) -> None:
        """R12: siblings never write one key; under "error" nobody writes a key that is there."""
        if any(key in self.written.get(one.name, ()) for one in self._siblings(step) for key in merged):
            raise Failure
        taken = {key: value for key, value in merged.items() if key in self.end.context}
        if isinstance(step.calls, Story) and not step.over:  # R27: what it passes through is no collision
            taken = {key: value for key, value in taken.items() if not _is_equal_number(value, self.end.context[key])}
        if taken and self.story.on_collision == "error":
            self.end.raised = "ContextKeyCollisionError"
            raise Failure(self.end.raised)

    def _branch(self, step: Step, told: Told, seen: dict[str, Any]) -> None:
        """R24: the first edge that holds, else the default, else everybody; a skipped step is asked nothing."""
        edges = step.edges if told.status == "ok" else ()
        taken = next((target for target, predicate in edges if _holds(predicate, seen)), step.otherwise)
        if step.branches:
            told.decision["taken"] = taken
        self.ways[step.name] = {one for one in self.steps if taken in (None, one)}

    # ---- its call

    def _called(self, step: Step, told: Told, seen: dict[str, Any], *place: str) -> dict[str, Any]:
        """R21: the tool or flow, and when that fails the fallback, with the same inputs; what they merge."""
        inputs = told.inputs = _inputs(step, seen)
        where = (*self.place, *place)
        try:
            return self._attempts(step, told, self._choice(step, told, inputs), inputs, where)
        except Failure:
            if step.fallback is None:
                raise
        told.fallback = step.fallback
        return self._attempts(step, told, step.fallback, inputs, where)

    def _choice(self, step: Step, told: Told, inputs: dict[str, Any]) -> Any:
        if not step.candidates:
            return step.calls
        try:
            chosen = stories.decided(step.candidates, inputs)
        except LookupError:
            chosen = ""
        if chosen not in step.candidates:
            raise Failure("DecisionCallbackError")
        told.decision.update(chosen=chosen, candidates=list(step.candidates), by="callback")
        return chosen

    def _attempts(self, step: Step, told: Told, call: Any, inputs: dict[str, Any], where: Any) -> dict[str, Any]:
        """R20: again and again, as often as the policy says; values that a schema refuses are not tried again."""
        if not isinstance(call, Story):
            inputs = _checked(Task, inputs)
            if KINDS[call].asks:
                told.approved = stories.approves(inputs)
                if not told.approved:
                    raise Failure("ApprovalDeniedError")
        left = step.retries or 0
        while True:
            try:
                told.outputs = self._attempt(step, told, call, inputs, where)
                break
            except Failure as failure:
                if failure.error == "SchemaValidationError" or not left:
                    raise
            left, told.retries = left - 1, told.retries + 1
        return _renamed(step, told.outputs)

    def _attempt(self, step: Step, told: Told, call: Any, inputs: dict[str, Any], where: Any) -> dict[str, Any]:
        if isinstance(call, Story):
            nested = _Flow(call, inputs, where, self.calls)  # R27: a run of its own
            end = nested.ending()
            told.inside = end.trace
            if end.final is None:
                raise Failure(end.error or "")
            written = {key for one in nested.written.values() for key in one}
            return {key: value for key, value in end.final.items() if call.outputs is not None or key in written}
        self.calls[where] += KINDS[call].counts
        number, task = self.calls[where] if KINDS[call].counts else 0, Task(**inputs)
        if step.has_limit and stories.seconds_of(task, number) > LIMIT_S:
            raise Failure("ToolTimeoutError")  # R22
        try:
            raw = KINDS[call].act(task, number)
        except Exception:
            raise Failure from None  # R18
        return _checked(Pair, raw)

    def _mapped_over(self, step: Step, told: Told, seen: dict[str, Any]) -> dict[str, Any]:
        """R28: once per item, in the order of the items; every output key becomes a list."""
        told.inputs = {key: seen[key] for key in step.keys_mapped() if key in seen}
        if step.over not in seen:
            raise Failure("InputMappingError")
        told.inside = []
        rows: list[Any] = []
        each = replace(step, over=None, writes=None)
        for at, item in enumerate(seen[step.over]):
            one = Told(str(at))
            told.inside.append(one)
            try:
                self._called(each, one, {**seen, "item": item}, step.name, one.step)
                rows.append(one.outputs)
            except Failure as failure:
                one.status = "failed" if step.on_item_error == "fail" else "skipped"
                one.error, one.outputs = failure.error, None
                if step.on_item_error == "fail":
                    raise
                rows.append(Missed(at, failure.error) if step.on_item_error == "collect" else None)
        kept = [row for row in rows if row is not None]
        told.outputs = {key: [row.get(key) if isinstance(row, dict) else row for row in kept] for key in step.gives()}
        return _renamed(step, told.outputs)


def _is_equal_number(one: Any, other: Any) -> bool:
    return isinstance(one, int) and one == other


def _inputs(step: Step, seen: dict[str, Any]) -> dict[str, Any]:
    """R6: a key, a key with a default, or a literal; without a mapping what the tool's model names."""
    if not step.reads:
        return {name: seen[name] for name in Task.model_fields if name in seen}
    found = {}
    for name, source in step.reads.items():
        if isinstance(source, dict):
            found[name] = seen.get(source["$key"], source["$default"])
        elif isinstance(source, str):
            if source not in seen:
                raise Failure("InputMappingError")
            found[name] = seen[source]
        else:
            found[name] = source
    return found


def _checked(model: Any, values: dict[str, Any]) -> dict[str, Any]:
    try:
        checked: dict[str, Any] = model(**values).model_dump()
    except ValidationError:
        raise Failure("SchemaValidationError") from None
    return checked


def _renamed(step: Step, outputs: dict[str, Any]) -> dict[str, Any]:
    """R11: outputs are renamed where they are merged."""
    if step.writes is None:
        return dict(outputs)
    if not all(name in outputs for name in step.writes.values()):
        raise Failure("OutputMappingError")
    return {key: outputs[name] for key, name in step.writes.items()}


def _holds(predicate: Predicate, seen: dict[str, Any]) -> bool:
    """R24, R25: a predicate that cannot be answered fails its step."""
    try:
        holds = OPERATORS[predicate.compare](seen[predicate.key], predicate.value)
    except (KeyError, TypeError):
        raise Failure from None
    if predicate.other is None or holds == (predicate.link == "or"):
        return holds
    return _holds(predicate.other, seen)
