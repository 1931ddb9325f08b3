"""Checkpoints as the executor uses them: opened when a run begins, compared and filled in when one goes on.

Called by the facade and by `runs`. What a snapshot holds is said in `checkpoint`, what a step does with it in the run
core.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

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
    FlowNotFoundError,
    RunKeyError,
    StoreUnavailableError,
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
    from chainweaver.registry import FlowRegistry

# ---- a run begins


def open_checkpoint(
    run: Run, services: Services, checkpointer: Checkpointer, store: RunStore | None = None, key: str | None = None
) -> None:
    """Save the snapshot that steps are appended to; what cannot be saved fails the run at its input (R16).

    Args:
        store: The checkpointer, where it is shared: the run is admitted, and claimed with that.
        key: Name of the run, that at most one run has.

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
            checkpointer.save(snapshot)
        else:
            digest = None if key is None else digest_of(run.slots[0] or {})
            taken = store.admit(snapshot, key=key, input_digest=digest)
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
        StoreUnavailableError: The store cannot be read.
        TypeError: What stands for the run is no trace id.
    """
    if checkpointer is None:
        raise CheckpointerNotConfiguredError(fix="pass checkpointer= to FlowExecutor")
    checked_id(trace_id)
    try:
        snapshot: ExecutionSnapshot | None = checkpointer.load(trace_id)
    except KeyError as exc:  # how stores that are little more than a dict say it
        raise CheckpointNotFoundError(trace_id) from exc
    except OSError as exc:
        raise StoreUnavailableError(type(checkpointer).__name__, f"{type(exc).__name__}: {exc}") from exc
    if snapshot is None:
        raise CheckpointNotFoundError(trace_id)
    return snapshot


def migrated(
    snapshot: ExecutionSnapshot, migrate: Callable[[ExecutionSnapshot], ExecutionSnapshot]
) -> ExecutionSnapshot:
    """What the caller makes of a stored snapshot.

    Raises:
        TypeError: It is none.
    """
    found = migrate(snapshot)
    if not isinstance(found, ExecutionSnapshot):
        raise TypeError(f"migrate has to return the ExecutionSnapshot to go on with, not {named(found)}.")
    return found


def gone(registry: FlowRegistry, snapshot: ExecutionSnapshot) -> CheckpointDriftError:
    """The error of a run whose flow is there no longer, or not in this version."""
    name, version = snapshot.flow_name, snapshot.flow_version
    try:
        versions = registry.list_flow_versions(name)
    except FlowNotFoundError:
        versions = []
    if versions:
        detail = f"flow version changed: '{name}' {version} is gone, there is {', '.join(versions)}"
    else:
        detail = f"flow '{name}' {version} is no longer registered"
    return CheckpointDriftError(
        snapshot.trace_id, detail, fix=f"register '{name}' {version} again, or start the run anew"
    )


def refuse_gone_parts(registry: FlowRegistry, snapshot: ExecutionSnapshot) -> None:
    """Refuse to go on without a sub-flow that the run began with.

    Raises:
        CheckpointDriftError: Says which one, and in which version.
    """
    for name, version in snapshot.sub_flows.items():
        try:
            registry.resolve(name, version)
        except FlowNotFoundError as exc:
            detail = f"sub-flow '{name}' {version} is no longer registered"
            fix = f"register '{name}' {version} again, or pass force=True to go on with another version"
            raise CheckpointDriftError(snapshot.trace_id, detail, fix=fix) from exc


def refuse_drift(plan: Plan, snapshot: ExecutionSnapshot) -> None:
    """Compare the executed prefix with the flow (R33): later steps may change freely.

    Raises:
        CheckpointDriftError: Names every executed step that changed, and how.
    """
    changes = [change for delta in snapshot.steps if (change := _change_of(plan, delta, snapshot)) is not None]
    if changes:
        raise CheckpointDriftError(
            snapshot.trace_id, "; ".join(changes), flow_name=plan.flow_name, flow_version=plan.flow_version
        )


def _change_of(root: Plan, delta: StepDelta, snapshot: ExecutionSnapshot) -> str | None:
    step = _step_at(root, delta)
    place = "/".join((*delta.path, delta.step_id))
    if step is None:
        return f"executed step '{place}' is no longer part of the flow"
    if step.tool is None:
        return f"tool '{step.name}' of executed step '{place}' is no longer registered"
    if delta.tool_name != step.name:
        return f"executed step '{place}' calls tool '{step.name}' instead of '{delta.tool_name}'"
    before = snapshot.tool_schema_hashes.get(delta.tool_name)
    if before is not None and before != step.tool.schema_hash():
        return f"tool '{delta.tool_name}' of executed step '{place}': schema_hash changed"
    if delta.fingerprint and delta.fingerprint != step.fingerprint():
        return f"the definition of executed step '{place}' changed"
    return None


def _step_at(root: Plan, delta: StepDelta) -> PlannedStep | None:
    """The step that a stored one is of, in the flow or in one nested in it; None when it is there no longer."""
    plan: Plan | None = root
    each: PlannedMap | None = None
    for segment in delta.path:
        step = _named(plan, each, step_id_of(segment))
        if step is None:
            return None
        plan, each = step.child, step.each
    return _named(plan, each, delta.step_id)


def _named(plan: Plan | None, each: PlannedMap | None, step_id: str) -> PlannedStep | None:
    if each is not None:
        return each.step
    index = None if plan is None else plan.names.get(step_id)
    return None if plan is None or index is None else plan.steps[index]


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


def prefill(runs: Runs, plan: Plan, snapshot: ExecutionSnapshot, listeners: Listeners | None, call: Call) -> Begun:
    """A run in which the stored steps have their outcome already."""
    checkpointer = runs.checkpointer
    assert checkpointer is not None, "only a stored run is prefilled"
    initial = _restored_input(plan, snapshot)
    run = runs.new_run(plan, initial)
    run.trace_id(snapshot.trace_id)
    run.resumed = run.saving = True
    services = Services(runs.runtime)
    services.checkpoints = CheckpointService(checkpointer, run, snapshot)
    run.past = Stored(snapshot.steps)
    # No gate: what was stored has passed it, and validating it again could change it.
    run.given, run.given_references, _ = runs.capture(run.given)
    runs.attend(run, services, listeners, call)
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
    if services.listeners is not None:
        tell_start(run, services)
    return run, services, *runs.means(call, services)


def _restored_input(plan: Plan, snapshot: ExecutionSnapshot) -> dict[str, Any]:
    try:
        return bind_restore(_input_model(plan))(snapshot.initial_input)
    except RestoreError as exc:
        raise CheckpointDriftError(snapshot.trace_id, f"initial input: {exc}") from exc


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
            run.take(step.index, None if taken is None else run.plan.names.get(taken))
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
