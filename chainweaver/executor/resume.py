"""Checkpoints as the executor uses them: opened when a run begins, settled and filled in when one goes on.

Called by the facade and by `runs`. What a snapshot holds is said in `checkpoint`, whether a run may go on in `upgrade`,
what a step does with it in the run core.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from chainweaver._execution.commands import Nest, RunCancelled, TimedOut
from chainweaver._execution.life import take_inputs
from chainweaver._execution.nested import run_flow, run_items
from chainweaver._execution.run import Run, attempt_of, segment_of, step_id_of
from chainweaver.checkpoint import ExecutionSnapshot
from chainweaver.exceptions import (
    ArtifactCorruptError,
    ChainWeaverError,
    CheckpointDriftError,
    CheckpointEncodeError,
    CheckpointerNotConfiguredError,
    CheckpointNotFoundError,
    FlowExecutionError,
    RunKeyError,
)
from chainweaver.executor.call import checked_id
from chainweaver.executor.durable import KeyTaken, digest_of
from chainweaver.executor.runs import tell_start
from chainweaver.executor.settings import named
from chainweaver.lanes.services import CheckpointService, Services
from chainweaver.objects import PlainEncodeError, RestoreError, bind_reduce, bind_restore
from chainweaver.plan import KeyMissing

if TYPE_CHECKING:
    from chainweaver.checkpoint import Checkpointer, RunStore, StepDelta
    from chainweaver.executor.call import Call
    from chainweaver.executor.runs import Begun, Runs
    from chainweaver.observe import Listeners
    from chainweaver.plan import Plan, PlannedMap, PlannedStep

# ---- a run begins


async def open_checkpoint(
    run: Run,
    services: Services,
    checkpointer: Checkpointer,
    store: RunStore | None,
    key: str | None,
    initial_input: Mapping[str, Any],
) -> None:
    """Save the snapshot that steps are appended to; what cannot be saved fails the run at its input (R16).

    Args:
        store: The checkpointer, where it is shared: the run is admitted, and claimed with that.
        key: Name of the run, that at most one run has.
        initial_input: What it was given, before a flow, of whatever version, has filled in what was left out.

    Raises:
        KeyTaken, RunKeyError: There is a run with the key.
    """
    plan = run.plan
    try:
        facts = plan.facts()
        # Constructed, not validated: everything in it was made here, and a plan of many steps has many names.
        snapshot = ExecutionSnapshot.model_construct(
            trace_id=run.trace_id(),
            flow_name=plan.flow_name,
            flow_version=plan.flow_version,
            flow_digest=plan.digest,
            initial_input=_reduced_input(run, checkpointer),
            started_at=datetime.fromtimestamp(run.began_wall, timezone.utc),
            steps=[],
            tool_schema_hashes=facts.tool_hashes,
            step_fingerprints=facts.step_fingerprints,
            level_sizes=facts.level_sizes,
            output_mappings=facts.output_mappings,
            sub_flows=dict(plan.unpinned),
            stated={},
        )
        services.checkpoints = CheckpointService(checkpointer, run, snapshot)
        if store is None:
            await services.asked(partial(checkpointer.save, snapshot))
        else:
            digest = None if key is None else digest_of(dict(initial_input))
            taken = await services.asked(partial(store.admit, snapshot, key=key, input_digest=digest))
            if taken is not None:
                raise KeyTaken(taken)
    except (KeyTaken, RunKeyError):
        raise
    except ChainWeaverError as exc:
        run.input_error = exc
    except Exception as exc:
        error = FlowExecutionError(plan.flow_name, -1, f"checkpoint: {type(exc).__name__}: {exc}")
        error.__cause__ = exc
        run.input_error = error
    else:
        run.saving = True


def _reduced_input(run: Run, checkpointer: Checkpointer) -> dict[str, Any]:
    initial = run.slots[0] or {}
    if not getattr(checkpointer, "wants_plain", False):
        return initial
    # A caller that reads its input from a file has texts where a tool takes secrets, and texts any store would take.
    secret = next((key for key in run.plan.secret_inputs if initial.get(key) is not None), None)
    if secret is not None:
        detail = "it is a secret, and the checkpointer has no cipher"
        fix = "list it in the flow's dynamic_params and pass it there, at every resume"
        raise CheckpointEncodeError(run.plan.flow_name, -1, secret, detail, fix=fix)
    try:
        return bind_reduce(_input_model(run.plan))(initial)
    except PlainEncodeError as exc:
        raise CheckpointEncodeError(run.plan.flow_name, -1, exc.key, str(exc)) from exc


def _input_model(plan: Plan) -> type[BaseModel]:
    # BaseModel itself declares no field: then every value has to be plain.
    return BaseModel if plan.input_gate is None else plan.input_gate.model


# ---- a run goes on


def load(checkpointer: Checkpointer | None, trace_id: str) -> ExecutionSnapshot:
    """The snapshot of a run.

    Raises:
        CheckpointerNotConfiguredError: The executor has no checkpointer.
        CheckpointNotFoundError: Nothing is stored for this run.
        TypeError: What stands for the run is no trace id.
    """
    if checkpointer is None:
        raise CheckpointerNotConfiguredError(fix="pass checkpointer= to FlowExecutor")
    checked_id(trace_id)
    try:
        snapshot: ExecutionSnapshot | None = checkpointer.load(trace_id)
    except KeyError as exc:  # how stores that are little more than a dict say it
        raise CheckpointNotFoundError(trace_id) from exc
    if snapshot is None:
        raise CheckpointNotFoundError(trace_id)
    return snapshot


def migrated(
    snapshot: ExecutionSnapshot, migrate: Callable[[ExecutionSnapshot], ExecutionSnapshot]
) -> ExecutionSnapshot:
    """What the caller makes of a stored snapshot.

    Raises:
        TypeError: It is none.
        ValueError: It is that of another run.
    """
    trace_id = snapshot.trace_id
    found = migrate(snapshot)
    if not isinstance(found, ExecutionSnapshot):
        raise TypeError(f"migrate has to return the ExecutionSnapshot to go on with, not {named(found)}.")
    if found.trace_id != trace_id:
        raise ValueError(f"migrate was given run '{trace_id}' and has returned run '{found.trace_id}'.")
    return found


def settled(plan: Plan, snapshot: ExecutionSnapshot, *, renews: bool) -> ExecutionSnapshot:
    """A snapshot as it has to be stored for a run that goes on with this plan; the same one where it is so already.

    Stores keep one step per place, so that every step has to have the number that it has in this plan: that of a step
    which was put in before it would take its place otherwise.

    Args:
        renews: Nothing that was executed has changed, so that what is noted of the plan may be that of this one.
    """
    steps = _renumbered(plan, snapshot, signs=renews)
    changes: dict[str, Any] = {} if steps == snapshot.steps else {"steps": steps}
    if renews:
        facts = plan.facts()
        noted = {
            "flow_digest": plan.digest,
            "tool_schema_hashes": facts.tool_hashes,
            "step_fingerprints": facts.step_fingerprints,
            "level_sizes": facts.level_sizes,
            "output_mappings": facts.output_mappings,
            "sub_flows": dict(plan.unpinned),
        }
        changes |= {name: value for name, value in noted.items() if getattr(snapshot, name) != value}
    return snapshot.model_copy(update=changes) if changes else snapshot


def _renumbered(plan: Plan, snapshot: ExecutionSnapshot, *, signs: bool) -> list[StepDelta]:
    found, homeless = [], []
    ran = Ran(snapshot)
    for delta in snapshot.steps:
        home = home_of(plan, delta.path)
        step = home.step(delta.step_id)
        if step is None:
            homeless.append(delta)
            continue
        number = step.index if home.each is None else delta.step_index
        fingerprint = delta.fingerprint
        if signs and not fingerprint and ran.is_whole(home, step, delta):
            fingerprint = step.fingerprint()
        found.append(delta._replace(step_index=number, fingerprint=fingerprint))
    # Gone on with by force: they have no say, and are kept behind all numbers that a step can have.
    last = max((delta.step_index for delta in found), default=0) + len(plan.steps)
    found += [delta._replace(step_index=last + at) for at, delta in enumerate(homeless, start=1)]
    return sorted(found, key=lambda delta: (delta.path, delta.step_index))


class Home(NamedTuple):
    """What the steps of a nested run are steps of, or those of the run itself; nothing where that is there no longer.

    Attributes:
        plan: The plan of a flow.
        each: A map, whose items are the steps.
    """

    plan: Plan | None
    each: PlannedMap | None = None

    def step(self, step_id: str) -> PlannedStep | None:
        """The step of this name."""
        if self.each is not None:
            return self.each.step
        index = None if self.plan is None else self.plan.names.get(step_id)
        return None if self.plan is None or index is None else self.plan.steps[index]


class Ran:
    """What a snapshot says has run, by place.

    Attributes:
        ids: The steps that are stored, by the path of the run that they are steps of.
        known: The steps of the flow itself that were there when it was stored.
    """

    def __init__(self, snapshot: ExecutionSnapshot) -> None:
        self.ids: dict[tuple[str, ...], set[str]] = {}
        self.known = snapshot.step_fingerprints
        self._latest: dict[tuple[str, ...], tuple[str, ...]] = {}
        for delta in snapshot.steps:
            self.ids.setdefault(delta.path, set()).add(delta.step_id)
        for path in self.ids:
            if path:
                place = (*path[:-1], segment_of(step_id_of(path[-1])))
                latest = self._latest.setdefault(place, path)
                self._latest[place] = max(latest, path, key=lambda one: attempt_of(one[-1]))

    def is_whole(self, home: Home, step: PlannedStep, delta: StepDelta) -> bool:
        """Whether all that comes before a step, or inside of it, has run. Otherwise a migration has accepted that."""
        return not any(self.unmet(home, step, delta.path)) and not any(self.missing_inside(step, delta))

    def unmet(self, home: Home, step: PlannedStep, path: tuple[str, ...]) -> Iterator[PlannedStep]:
        """The steps that come before an executed one, for instance since they write what it reads, and have not run."""
        if home.plan is None or home.each is not None or not step.needs:
            return
        stored = self.ids[path]
        for need in (home.plan.steps[index] for index in step.needs):
            # A branch may have left it aside, unless it was not there then.
            was_there = path or need.step_id in self.known
            if need.step_id not in stored and not (need.may_be_passed and was_there):
                yield need

    def missing_inside(self, step: PlannedStep, delta: StepDelta) -> Iterator[PlannedStep]:
        """The steps of a sub-flow that has ended well which have not run."""
        if step.child is None or delta.status != "ok" or delta.outputs is not None:
            return
        place = (*delta.path, segment_of(delta.step_id))
        stored = self.ids.get(self._latest.get(place, place), set())
        yield from (one for one in step.child.steps if one.step_id not in stored and not one.may_be_passed)


def home_of(plan: Plan, path: Sequence[str]) -> Home:
    """Where the steps with this path are at home."""
    home = Home(plan)
    for segment in path:
        step = home.step(step_id_of(segment))
        home = Home(None) if step is None else Home(step.child, step.each)
    return home


class Stored:
    """What a snapshot holds of nested runs (a `Past` of the run core).

    Attributes:
        own: The steps of the outermost run.
        steps: Those of each nested run, by its key.
    """

    def __init__(self, steps: Iterable[StepDelta]) -> None:
        self.own: list[StepDelta] = []
        self.steps: dict[tuple[str, ...], list[StepDelta]] = {}
        self._begun: dict[tuple[str, ...], int] = {}
        for delta in _with_inside(steps):
            if not delta.path:
                self.own.append(delta)
            # Every run around a nested one has begun as well, though none of its own steps may have ended.
            for size in range(1, len(delta.path)):
                self.steps.setdefault(delta.path[:size], [])
            if delta.path:
                self.steps.setdefault(delta.path, []).append(delta)
        for *around, segment in self.steps:
            # Attempts that committed nothing are not here; those that did are numbered all the same.
            place = (*around, segment_of(step_id_of(segment)))
            self._begun[place] = max(self._begun.get(place, 1), attempt_of(segment))

    def attempts(self, run: Run, step: PlannedStep) -> int:
        """How many times a step of the run has begun its nested run, as far as the store knows; at least 1."""
        return self._begun.get((*run.key, segment_of(step.step_id)), 1)

    def fill(self, nested: Run) -> None:
        """Give the steps of a nested run the outcomes that are stored."""
        for delta in self.steps.get(nested.key, ()):
            nested.resumed = True
            steps = nested.plan.steps
            index = delta.step_index if nested.is_map else nested.plan.names.get(delta.step_id)
            if index is not None and index < len(steps):
                fill_in(nested, steps[index], delta)
        # What a branch left aside is not stored: it follows from the branches, as far as these were taken.
        for step in nested.plan.steps if nested.resumed and not nested.is_map else ():
            if not nested.finished(step.index):
                nested.is_passed(step)


def _with_inside(steps: Iterable[StepDelta]) -> Iterator[StepDelta]:
    """The steps, and behind them those that failed inside of one of them."""
    within: list[StepDelta] = []
    for delta in steps:
        yield delta
        within += delta.inside or ()
    if within:
        yield from _with_inside(within)


def prefill(
    runs: Runs,
    plan: Plan,
    snapshot: ExecutionSnapshot,
    listeners: Listeners | None,
    call: Call,
    *,
    keeps: bool = True,
    saves: bool = False,
) -> Begun:
    """A run in which the stored steps have their outcome already.

    Args:
        keeps: The run goes on and is kept; otherwise it has ended, and nothing is told to the store.
        saves: The snapshot is not what is stored, and is stored before the run goes on.
    """
    checkpointer = runs.checkpointer
    assert checkpointer is not None, "only a stored run is prefilled"
    run = runs.new_run(plan, restored_input(plan, snapshot))
    run.trace_id(snapshot.trace_id)
    run.saving = keeps
    services = Services(runs.runtime)
    if keeps:
        services.checkpoints = CheckpointService(checkpointer, run, snapshot)
    # No gate: what was stored has passed it, and validating it again could change it.
    run.given, run.given_references, _ = runs.capture(run.given)
    runs.attend(run, services, listeners, call)
    fill(run, snapshot)
    if saves:
        # Before its first step: whoever goes on with the run after a crash needs no migration any more.
        checkpointer.save(snapshot)
    if services.listeners is not None:
        tell_start(run, services)
    return run, services, *runs.means(call, services)


def fill(run: Run, snapshot: ExecutionSnapshot) -> None:
    """Give a run the outcomes that are stored.

    Raises:
        CheckpointDriftError: One does not fit.
    """
    plan = run.plan
    run.resumed = True
    run.past = Stored(snapshot.steps)
    passed = run.slots[-1]
    # Steps that do not run again need no dynamic parameters, but their records are worked out from what they read.
    run.slots[-1] = {**dict.fromkeys(plan.dynamic_params), **(passed or {})}
    for delta in snapshot.steps:
        index = plan.names.get(delta.step_id)
        # A step that may be skipped no longer has no outcome that others could go on from.
        if not delta.path and index is not None and (delta.status == "ok" or plan.steps[index].on_error == "skip"):
            try:
                fill_in(run, plan.steps[index], delta)
            except ChainWeaverError:
                raise
            except Exception as exc:  # a store may hold a decision, or an approval, such as no run leaves
                detail = f"step '{delta.step_id}' holds what no step leaves: {type(exc).__name__}: {exc}."
                raise ArtifactCorruptError(f"run {snapshot.trace_id}", detail) from exc
    run.slots[-1] = passed


def restored_input(plan: Plan, snapshot: ExecutionSnapshot) -> dict[str, Any]:
    """The input of a stored run, with the types that its flow declares.

    Raises:
        CheckpointDriftError: It does not fit.
    """
    try:
        restored = bind_restore(_input_model(plan))(snapshot.initial_input)
    except RestoreError as exc:
        raise CheckpointDriftError(snapshot.trace_id, f"initial input: {exc}") from exc
    # What may be left out of the input since the run was begun has its default, as in a new run.
    fields = {} if plan.input_gate is None else plan.input_gate.model.model_fields
    new = {name: field for name, field in fields.items() if not {name, field.alias}.intersection(restored)}
    return {**restored, **{name: one.get_default(call_default_factory=True) for name, one in new.items()}}


def fill_in(run: Run, step: PlannedStep, delta: StepDelta) -> None:
    """Give a step the outcome that was stored; its inputs follow from what is filled in before it."""
    index = step.index
    run.started[index] = run.began_ns + int((delta.started_at - run.began_wall) * 1e9)
    run.ended[index] = run.started[index] + delta.duration_ns
    take_inputs(run, step)  # by force, or by hand, an earlier step may lack what this one read
    _fill_decision(run, step, delta)
    if delta.outputs is not None:
        _fill_outputs(run, step, delta)
    elif delta.status == "ok":
        _put_together(run, step, delta)
    if delta.inside is not None:
        _play_in_vain(run, step)
    if delta.status == "ok" and delta.attempts == 1 and not (delta.cached or delta.retry_errors):
        return
    detail = run.detail(index)
    detail.cached = delta.cached
    detail.retries = max(delta.attempts - 1, 0)
    detail.retry_errors = delta.retry_errors
    detail.fallback = delta.fallback_tool_name
    if delta.status == "skipped":
        run.skip(step, _stored_error(step, delta))
    elif delta.status == "failed":
        run.fail(step, _stored_error(step, delta))
        run.ended[index] = run.started[index] + delta.duration_ns


def _fill_decision(run: Run, step: PlannedStep, delta: StepDelta) -> None:
    """Give a step what was decided at it and who agreed to it: nobody is asked again, and no predicate either (R24)."""
    if delta.decision is not None:
        decided = dict(delta.decision)
        if step.branches is not None and "taken" in decided:
            taken = decided.pop("taken")
            if taken is not None and taken not in run.plan.names:
                detail = f"executed step '{step.step_id}' has led to '{taken}', which is no longer part of the flow"
                raise CheckpointDriftError(run.trace_id(), detail, fix="start the run anew")
            run.take(step.index, None if taken is None else run.plan.names[taken])
        if decided:
            run.detail(step.index).decision = decided
    if delta.approval is not None:
        run.detail(step.index).approval = dict(delta.approval)
    if delta.fallback_tool_name is not None:
        run.detail(step.index).fallback = delta.fallback_tool_name


def _put_together(run: Run, step: PlannedStep, delta: StepDelta) -> None:
    """Give a step that ran a nested run the outputs that follow from the steps of that run."""
    try:
        life = _nested_life(run, step)
        while life is not None:
            # All that it asks for was done before.
            next(life)
    except StopIteration as end:
        outputs: dict[str, Any] = end.value
    except KeyMissing as exc:
        detail = f"outputs of step '{step.step_id}': it reads '{exc.key}', which is not there"
        raise CheckpointDriftError(run.trace_id(), detail) from exc
    except ChainWeaverError as exc:
        raise CheckpointDriftError(run.trace_id(), f"outputs of step '{step.step_id}': {exc}") from exc
    else:
        detail = f"outputs of step '{step.step_id}' are not stored"
        raise CheckpointDriftError(run.trace_id(), detail, fix="start the run anew")
    run.show_outputs(step, outputs)
    run.slots[step.index + 1] = _renamed(step, outputs)


def _play_in_vain(run: Run, step: PlannedStep) -> None:
    """Give a step that went on without the nested run that it ran that run again, as far as it came."""
    life = None
    try:
        life = _nested_life(run, step)
        asked = None if life is None else next(life)
        while life is not None:
            if isinstance(asked, Nest) and not _has_come_to_an_end(asked.run):
                asked = life.throw(RunCancelled("deadline"))  # nothing in it failed, and yet it did not get on
            else:
                asked = next(life)
    except (StopIteration, ChainWeaverError, RunCancelled, TimedOut):
        return
    except Exception:  # by force, or by hand, an earlier step may lack what this one read
        return


def _has_come_to_an_end(nested: Run) -> bool:
    return bool(nested.failures) or all(nested.finished(step.index) for step in nested.plan.steps)


def _nested_life(run: Run, step: PlannedStep) -> Generator[Any, Any, dict[str, Any]] | None:
    """What runs the nested run of a step; None where the step runs none."""
    given = step.read(run.slots)
    if step.each is not None:
        return run_items(run, step, step.each, given)
    return None if step.child is None else run_flow(run, step, step.child, given, 1)


def _fill_outputs(run: Run, step: PlannedStep, delta: StepDelta) -> None:
    tool = run.answered(step)
    outputs = delta.outputs or {}
    if tool is not None:
        try:
            outputs = bind_restore(tool.output_model)(outputs)
        except RestoreError as exc:
            raise CheckpointDriftError(run.trace_id(), f"outputs of step '{step.step_id}': {exc}") from exc
        if not run.shows_slot(tool):
            run.show_outputs(step, outputs)
        elif step.rename is not None:
            run.show(step, outputs)
    run.slots[step.index + 1] = _renamed(step, outputs)


def _renamed(step: PlannedStep, outputs: dict[str, Any]) -> dict[str, Any]:
    """The outputs of a step as they are merged; a store keeps no others, and one that is lost is left out."""
    if step.rename is None:
        return outputs
    return {key: outputs[name] for key, name in step.rename if name in outputs}


def _stored_error(step: PlannedStep, delta: StepDelta) -> ChainWeaverError:
    """The error of a skipped step, as far as a store can tell of it."""
    error_type, code, message, cause = delta.error or ("FlowExecutionError", "E006", "skipped", None)
    error = FlowExecutionError(step.name, step.index, message)
    facts = {"error_type": error_type, "error_code": code, "error_message": message, "error_cause": cause}
    vars(error)["stored"] = facts
    return error
