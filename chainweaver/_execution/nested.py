"""Nested runs: a sub-flow inside a step, and the items of a map.

Both are runs like any other, with a plan, slots and records of their own; nothing is flattened. The steps here are
generators of the same commands as the life of a step, which calls them; `walk` and `schedule` carry the nested run that
a `Nest` names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, cast, overload

from chainweaver._execution.around import enter_run, leave_run
from chainweaver._execution.asking import Unrehearsed
from chainweaver._execution.commands import Nest, RunCancelled, Tell, TimedOut
from chainweaver._execution.conclude import conclude, failure_of, gap_of, set_surplus_aside, take_input
from chainweaver._execution.liveness import lets_go, sum_up
from chainweaver._execution.rules import NO_RULES
from chainweaver._execution.run import Run
from chainweaver._execution.trace import summarize
from chainweaver.exceptions import FlowExecutionError
from chainweaver.plan import ItemError

if TYPE_CHECKING:
    from collections.abc import Generator

    from chainweaver._execution.commands import Command
    from chainweaver._execution.rules import Wrapper
    from chainweaver.exceptions import ChainWeaverError
    from chainweaver.plan import Plan, PlannedMap, PlannedStep, Row, Slots


# ---- sub-flows


def run_flow(
    run: Run, step: PlannedStep, plan: Plan, given: dict[str, Any], attempt: int
) -> Generator[Command | Nest, Any, dict[str, Any]]:
    """Run the sub-flow of a step once; what it adds to the context.

    Raises:
        ChainWeaverError: The sub-flow failed with it.
        TimedOut: The limit of the step is over, and not that of the run.
        RunCancelled: The sub-flow was cancelled with the run.
    """
    nested = _begun_flow(run, step, plan, given, attempt)
    try:
        opened: list[Wrapper] = []
        try:
            if run.announcing:
                yield Tell("flow_start", nested)
            if run.rules.around_run:
                opened = yield from enter_run(nested)
            if nested.input_error is None and nested.cancelled is None:
                yield Nest(nested)
        except RunCancelled as cancelled:
            # Told to end before its first step: it has begun all the same, and so it has an end.
            nested.cancelled = cancelled
        nested.stop_clock()
        conclude(nested)
        if opened:
            leave_run(nested, opened)
        if run.announcing:
            yield Tell("flow_end", nested)
        return _given_back(nested) if nested.status == "ok" else _failed(run, nested)
    finally:
        if run.capture is summarize and lets_go(run):
            sum_up(nested)


def _begun_flow(run: Run, step: PlannedStep, plan: Plan, given: dict[str, Any], attempt: int) -> Run:
    """The run of a sub-flow before its first step: with its input, its limit and what a store holds of it."""
    if attempt == 1 and run.past is not None:
        attempt = run.past.attempts(run, step)
    given, fed = dict(given), run.slots[-1] or {}
    if step.dynamic_fields:
        # What dynamic parameters feed is none of its inputs, which records show, but a parameter of its own (R13).
        fed = {**fed, **{name: given.pop(name) for name in step.dynamic_fields if name in given}}
    nested = _begun(run, step, plan, given, attempt)
    if step.timeout_s is not None:
        ends_ns = run.now_ns + round(step.timeout_s * 1e9)
        nested.deadline_ns = ends_ns if run.deadline_ns is None else min(ends_ns, run.deadline_ns)
    if plan.dynamic_params:
        nested.slots[-1] = {name: fed[name] for name in plan.dynamic_params if name in fed}
    take_input(nested)
    if nested.past is not None:
        nested.past.fill(nested)
    return nested


def _failed(run: Run, nested: Run) -> NoReturn:
    """Raise what the step of a sub-flow that ended badly fails with."""
    if nested.cancelled is not None:
        # Whatever else went wrong inside; but a limit of the step's own ends the step and not the run.
        if nested.cancelled.reason == "deadline" and nested.deadline_ns != run.deadline_ns:
            raise TimedOut
        raise RunCancelled(nested.cancelled.reason)
    error = failure_of(nested)
    assert error is not None, "a sub-flow that is not well has an error"
    raise error


def _given_back(nested: Run) -> dict[str, Any]:
    """What a sub-flow adds to the context around it: its projection, else what its steps wrote; not its own inputs."""
    if nested.plan.project is not None:
        return nested.final_output or {}
    written: dict[str, Any] = {}
    for values in nested.slots[1:-1]:
        if values is not None:
            written.update(values)
    return written


def _begun(run: Run, step: PlannedStep, plan: Plan, given: dict[str, Any], attempt: int = 1) -> Run:
    """A nested run before its first step, with all that it shares with the run around it."""
    clock, now_ns = run.clock, run.clock.now_ns
    began_wall = run.began_wall + (now_ns - run.began_ns) / 1e9
    nested = Run(plan, given, now_ns, began_wall, run.capture, run.new_id, clock)
    nested.parent = run
    nested.place = step, attempt
    nested.lane = run.lane
    # What most runs do not have is not handed on either: setting an attribute costs more than looking at one.
    if run.rules is not NO_RULES:
        nested.rules = run.rules
    if run.deadline_ns is not None:
        nested.deadline_ns = run.deadline_ns
    if run.past is not None:
        nested.past = run.past
    if run.inspect is not None:
        nested.inspect = run.inspect
    if run.caching or run.saving:
        nested.caching, nested.saving = run.caching, run.saving
    if run.printing:
        nested.printing = True
    if run.listening or run.announcing or run.streaming:
        nested.listening, nested.announcing, nested.streaming = run.listening, run.announcing, run.streaming
    run.detail(step.index).nested = nested
    return nested


# ---- maps


class ItemStep:
    """The step of a map for one item: the one that is run per item, at a position of its own and with its own reader.

    Thousands may be made, so that it holds no more than what differs; and no value, since it may outlive the map.
    """

    __slots__ = ("index", "items", "template")

    def __init__(self, items: _Items, index: int) -> None:
        self.items = items
        self.template = items.each.step
        self.index = index

    def read(self, slots: Slots) -> dict[str, Any]:
        """The inputs of the call for the item."""
        items = self.items
        return items.each.read_item(slots[0], items.values[self.index])  # type: ignore[arg-type]  # slot 0 is filled

    @property
    def step_id(self) -> str:
        return str(self.index)

    @property
    def rank(self) -> int:
        return self.index

    @property
    def number(self) -> int:
        # An item is told apart by its position, in the `where` of an error; the step is the one that maps.
        return self.template.index

    def __getattr__(self, name: str) -> Any:
        return getattr(self.template, name)


class _Items(Sequence["PlannedStep"]):
    """The steps of a map, one per item; made when somebody looks, since all of them may outweigh their values."""

    def __init__(self, each: PlannedMap, values: Sequence[Any]) -> None:
        self.each = each
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, at: int) -> PlannedStep: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[PlannedStep]: ...
    def __getitem__(self, at: int | slice) -> PlannedStep | Sequence[PlannedStep]:
        if isinstance(at, slice):
            return [self[index] for index in range(len(self))[at]]
        return cast("PlannedStep", ItemStep(self, range(len(self))[at]))


class _ItemRows(Sequence["Row"]):
    """What the short path needs of each of them."""

    def __init__(self, steps: _Items, row: Row) -> None:
        self.steps = steps
        self.row = row

    def __len__(self) -> int:
        return len(self.steps)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | Sequence[Row]:
        if isinstance(at, slice):
            return [self[index] for index in range(len(self))[at]]
        step = self.steps[at]
        return self.row._replace(step=step, read=step.read)

    def __iter__(self) -> Iterator[Row]:
        _, plain, extra, _, validate_input, tool, validate_output, scalars, direct = self.row
        for index in range(len(self.steps)):
            step = ItemStep(self.steps, index)
            # A bare tuple: nobody asks these for a field by name.
            yield cast("Row", (step, plain, extra, step.read, validate_input, tool, validate_output, scalars, direct))


def run_items(
    run: Run, step: PlannedStep, each: PlannedMap, given: dict[str, Any]
) -> Generator[Nest, Any, dict[str, Any]]:
    """Run the tool or sub-flow of a step once per item; every output key with a list in the order of the items.

    Raises:
        KeyMissing: What the step maps over is not there.
        ChainWeaverError: It is no list; or an item failed and the policy is to fail with it.
        RunCancelled: The items were cancelled with the run.
    """
    steps = _Items(each, _values(step, each.items_of(given)))
    count = len(steps)
    rows = _ItemRows(steps, (each.plan.summary_rows if run.capture is summarize else each.plan.rows)[0])
    plan = replace(
        each.plan,
        steps=steps,
        rows=rows,
        summary_rows=rows,
        empty_slots=[*[None] * count, run.slots[-1]],
        need_counts=[0] * count,
        entries=range(count),
    )
    nested = _begun(run, step, plan, given)
    nested.is_map = True
    nested.is_tolerant = each.on_item_error != "fail"
    nested.given = {}
    if nested.past is not None:
        nested.past.fill(nested)
    try:
        try:
            yield Nest(nested, each.limit)
        except RunCancelled as cancelled:
            nested.cancelled = cancelled
        nested.stop_clock()
        return _lists(run, nested, each)
    finally:
        # The record of a map outlives it, and is not to hold its items.
        steps.values = range(count)
        if run.capture is summarize and lets_go(run):
            sum_up(nested)


def _lists(run: Run, nested: Run, each: PlannedMap) -> dict[str, Any]:
    """What a map whose items have ended adds to the context, or what its step fails with."""
    if nested.cancelled is not None:
        nested.status = "cancelled"
        run.check_deadline()
        raise RunCancelled(nested.cancelled.reason)
    set_surplus_aside(nested)
    if nested.failures:
        nested.status = "failed"
        error = failure_of(nested)
        assert error is not None, "an item that failed has an error"
        raise error
    nested.status = "ok"
    if nested.rules.dry == "skip":
        _skip_what_lacks_rehearsal(nested)
    if each.on_item_error == "fail" and nested.details:
        # Only a dry run passes over items without being told to; lists with gaps would be taken for whole ones.
        for detail in nested.details.values():
            if detail.status == "skipped" and detail.error is not None:
                raise Unrehearsed(detail.error)
    nested.final_output = _gathered(nested, each)
    return nested.final_output


def _skip_what_lacks_rehearsal(nested: Run) -> None:
    """Leave out the items whose sub-flow ended well without all of its steps, as those whose tool has no dry run."""
    for index, step in enumerate(nested.plan.steps):
        inner = None if (detail := nested.details.get(index)) is None else detail.nested
        error = None if inner is None or detail is None or detail.status is not None else gap_of(inner)
        if error is not None:
            nested.slots[index + 1] = None
            nested.skip(step, error)


def _values(step: PlannedStep, found: Any) -> Sequence[Any]:
    """The items as they are now: a list that a tool changes must not change the map."""
    # What has keys would give those, and bytes would give numbers: neither is what a map over it can mean.
    is_no_list = isinstance(found, (str, bytes, bytearray, memoryview, Mapping)) or hasattr(found, "keys")
    if is_no_list or not (isinstance(found, Sized) and hasattr(found, "__getitem__")):
        detail = f"it maps over a value of type '{type(found).__name__}', which is no list"
        raise FlowExecutionError(step.name, step.number, detail, fix="map over a list; list(...) makes one")
    items: Any = found
    return tuple(items)


def _gathered(nested: Run, each: PlannedMap) -> dict[str, Any]:
    """Every output key with the list of its values; what stands for items that failed is for the policy to say."""
    rows = nested.slots[1:-1]
    keys = dict.fromkeys(each.keys)
    if each.is_open:
        for row in rows:
            keys.update(dict.fromkeys(row or ()))
    if None not in rows:
        return {key: [row.get(key) for row in rows] for key in keys}  # type: ignore[union-attr]  # see above
    if each.on_item_error != "collect":
        return {key: [row.get(key) for row in rows if row is not None] for key in keys}
    errors = {index: _item_error(index, nested.details[index].error) for index, row in enumerate(rows) if row is None}
    return {key: [errors[index] if row is None else row.get(key) for index, row in enumerate(rows)] for key in keys}


def _item_error(index: int, error: ChainWeaverError | None) -> ItemError:
    assert error is not None, "an item that failed has an error"
    stored = getattr(error, "stored", None)
    if stored is not None:  # it failed in an earlier part of the run, of which only the record is left
        return ItemError(
            index, stored["error_type"], stored["error_code"] or "", stored["error_message"].partition("\n")[0]
        )
    return ItemError(index, type(error).__name__, error.code, error.sentence)
