"""May a stored run go on with a plan? One answer, for resuming, for programs that ask beforehand, for the command line.

What a run has executed is held against the plan, step by step, nested ones by their path; whatever comes behind it may
have changed freely (R33). Here is what counts as a change and how bad each is. Nothing is performed, nothing is stored.
Called by the facade, before a run goes on and when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from chainweaver._execution.run import Run, step_id_of
from chainweaver.exceptions import CheckpointDriftError, FlowNotFoundError
from chainweaver.executor.captures import capture_of
from chainweaver.executor.resume import Home, Ran, fill, restored_input
from chainweaver.plan import nested_place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chainweaver.checkpoint import ExecutionSnapshot, StepDelta
    from chainweaver.executor.plans import Plans, Prepared
    from chainweaver.plan import Plan, PlannedStep
    from chainweaver.registry.snapshot import RegistrySnapshot

VerdictKind: TypeAlias = Literal["compatible", "needs migration", "refuse"]

ChangeKind: TypeAlias = Literal[
    "flow gone", "sub-flow gone", "not active", "step gone", "tool gone", "other tool", "moved", "branch gone",
    "schema", "definition", "input", "outputs",
]  # fmt: skip

CONVERTIBLE: Final[frozenset[str]] = frozenset({"schema", "definition", "input", "outputs"})
"""Changes that leave a step its place and its tool: whoever knows both versions can convert what is stored."""


class StepChange(NamedTuple):
    """Something that is not what it was when a run began, or executed it.

    Attributes:
        kind: "flow gone", "sub-flow gone", "not active", "step gone", "tool gone", "other tool", "moved" and
            "branch gone" leave what was executed without a place. After "schema", "definition", "input" and "outputs"
            it has one, and may not fit.
        step: The step, as a path where it is nested, such as "parcels/0/weigh"; empty where it is about none.
        detail: What is different.
    """

    kind: ChangeKind
    step: str
    detail: str


class Verdict(NamedTuple):
    """Whether a stored run may go on with a plan.

    Attributes:
        kind: "compatible": it goes on. "needs migration": every executed step still has its place and its tool, and
            some are defined otherwise, so that a `migrate=` hook has to convert what is stored. "refuse": something
            that was executed has no place any more.
        trace_id: The run.
        flow_name: The flow that it was held against.
        flow_version: The version of that flow.
        changes: Why; empty for "compatible".
    """

    kind: VerdictKind
    trace_id: str
    flow_name: str
    flow_version: str
    changes: tuple[StepChange, ...] = ()


def check_upgrade(plan: Plan, snapshot: ExecutionSnapshot) -> Verdict:
    """Whether a stored run may go on with a plan, such as that of a new version of its flow.

    Args:
        plan: What it would go on with: `compile_flow(flow, tools, flows=...).plan`.
        snapshot: The run as its store has it: `checkpointer.load(trace_id)`.

    >>> from chainweaver import Flow, FlowExecutor, FlowStep, InMemoryCheckpointer, compile_flow, tool
    >>> @tool
    ... def double(n: int) -> int:
    ...     return 2 * n
    >>> @tool
    ... def fail(double: int) -> int:
    ...     raise OSError("down")
    >>> flow = Flow(name="f", description="d", steps=[FlowStep(tool_name="double"), FlowStep(tool_name="fail")])
    >>> store = InMemoryCheckpointer()
    >>> run = FlowExecutor(tools=[double, fail], flows=[flow], checkpointer=store).execute_flow("f", {"n": 1})
    >>> other = Flow(name="f", description="d", steps=[FlowStep(tool_name="double", input_mapping={"n": 5})])
    >>> check_upgrade(compile_flow(other, [double]).plan, store.load(run.trace_id)).kind
    'needs migration'
    """
    changes = changes_of(plan, snapshot) or misfits(plan, snapshot)
    return verdict_of(snapshot, plan.flow_name, plan.flow_version, changes)


def verdict_of(
    snapshot: ExecutionSnapshot, flow_name: str, flow_version: str, changes: Iterable[StepChange]
) -> Verdict:
    """The verdict that follows from changes: the worst of them decides."""
    found = tuple(changes)
    kind: VerdictKind = "compatible"
    if found:
        kind = "needs migration" if all(one.kind in CONVERTIBLE for one in found) else "refuse"
    return Verdict(kind, snapshot.trace_id, flow_name, flow_version, found)


def drift(snapshot: ExecutionSnapshot, plan: Plan | None, changes: Sequence[StepChange]) -> CheckpointDriftError:
    """The error of a run that does not go on; names every change."""
    detail = "; ".join(one.detail for one in changes)
    name, version = snapshot.flow_name, snapshot.flow_version
    kinds = {one.kind for one in changes}
    if plan is None:
        fix = f"register '{name}' {version} again, or start the run anew"
        return CheckpointDriftError(snapshot.trace_id, detail, fix=fix)
    if kinds == {"sub-flow gone"}:
        fix = "register it again, or pass force=True to go on with another version"
    elif kinds <= CONVERTIBLE:
        fix = "pass migrate= with a function that converts what is stored, or force=True to go on with it as it is"
    else:
        fix = "start the run anew, or pass force=True to go on anyway"
    return CheckpointDriftError(
        snapshot.trace_id, detail, fix=fix, flow_name=plan.flow_name, flow_version=plan.flow_version
    )


# ---- flows


def verdict_here(plans: Plans, snapshot: ExecutionSnapshot) -> Verdict:
    """Whether a stored run would go on with what is registered now; what `resume_flow` would find."""
    prepared, changes = going_on(plans, snapshot)
    if prepared is not None:
        plan, dormant = prepared.plan, prepared.dormant
        if dormant is not None:
            detail = f"flow '{dormant.name}' {dormant.version} is not active ({dormant.status.value})"
            changes.append(StepChange("not active", "", detail))
        changes += changes_of(plan, snapshot)
        changes = changes or misfits(plan, snapshot)
    return verdict_of(snapshot, snapshot.flow_name, snapshot.flow_version, changes)


def going_on(
    plans: Plans, snapshot: ExecutionSnapshot, *, force: bool = False
) -> tuple[Prepared | None, list[StepChange]]:
    """The flow that a stored run goes on with, None where it is gone; and which of its parts are gone."""
    key = (snapshot.flow_name, snapshot.flow_version)
    try:
        prepared = plans.prepare(*key)
    except FlowNotFoundError:
        return None, [_gone(plans.registry.snapshot, snapshot)]
    if snapshot.sub_flows and not force and snapshot.sub_flows != dict(prepared.plan.unpinned):
        # The run goes on with the sub-flows that it began with, whatever was registered since (R33).
        parts = list(_gone_parts(plans.registry.snapshot, prepared.plan, snapshot))
        if parts:
            return prepared, parts
        prepared = plans.prepared_with(key, snapshot.sub_flows)
    return prepared, []


def _gone(registered: RegistrySnapshot, snapshot: ExecutionSnapshot) -> StepChange:
    """The change of a run whose flow is there no longer, or not in this version."""
    name, version = snapshot.flow_name, snapshot.flow_version
    versions = registered.versions(name) if name in registered.names() else []
    if versions:
        detail = f"flow version changed: '{name}' {version} is gone, there is {', '.join(versions)}"
    else:
        detail = f"flow '{name}' {version} is no longer registered"
    return StepChange("flow gone", "", detail)


def _gone_parts(registered: RegistrySnapshot, plan: Plan, snapshot: ExecutionSnapshot) -> Iterator[StepChange]:
    """The sub-flows that a run began with, that a plan asks for without a version, and that are there no longer."""
    asked = dict(plan.unpinned)
    for name, version in snapshot.sub_flows.items():
        if name not in asked:
            continue
        try:
            registered.resolve(name, version)
        except FlowNotFoundError:
            yield StepChange("sub-flow gone", "", f"sub-flow '{name}' {version} is no longer registered")


# ---- steps


def changes_of(plan: Plan, snapshot: ExecutionSnapshot) -> list[StepChange]:
    """Everything about a plan that keeps a run from going on with it, apart from values that do not fit."""
    if plan.composition:
        return [StepChange("sub-flow gone", "", make().sentence) for make in plan.composition]
    return [*_changed_input(plan, snapshot), *_changed_steps(plan, snapshot)]


def _changed_input(plan: Plan, snapshot: ExecutionSnapshot) -> Iterator[StepChange]:
    """What the run was begun without. What it was begun with has passed the schema of that time, and passes again."""
    fields = {} if plan.input_gate is None else plan.input_gate.model.model_fields
    for name, field in fields.items():
        if field.is_required() and not {name, field.alias}.intersection(snapshot.initial_input):
            yield StepChange("input", "", f"the input of the flow needs '{name}', which the run was begun without")


def _changed_steps(plan: Plan, snapshot: ExecutionSnapshot) -> list[StepChange]:
    """One change for every step that was executed, or has begun a nested run; the worst where there are several."""
    found: dict[str, StepChange] = {}
    ran = Ran(snapshot)
    for delta in snapshot.steps:
        changes = list(_changes_of(plan, delta, snapshot, ran))
        if changes:
            worst = next((one for one in changes if one.kind not in CONVERTIBLE), changes[0])
            found.setdefault(worst.step, worst)
    return list(found.values())


def _changes_of(plan: Plan, delta: StepDelta, snapshot: ExecutionSnapshot, ran: Ran) -> Iterator[StepChange]:
    home = Home(plan)
    around: tuple[str, ...] = ()
    for depth, segment in enumerate(delta.path, start=1):
        step_id = step_id_of(segment)
        step = home.step(step_id)
        if home.each is None:
            around = (*around, step_id)
            before = snapshot.step_fingerprints.get(nested_place(around))
            yield from _changed_around(step, "/".join(delta.path[:depth]), before)
        if step is None:
            return
        home = Home(step.child, step.each)
    yield from _changed_step(home, delta, snapshot, ran)


def _changed_around(step: PlannedStep | None, place: str, before: str | None) -> Iterator[StepChange]:
    """How a step is different that has begun a nested run, of which something was executed."""
    if step is None:
        yield StepChange("step gone", place, f"executed step '{place}' is no longer part of the flow")
    elif step.child is None and step.each is None:
        yield StepChange("other tool", place, f"executed step '{place}' calls '{step.name}' and runs nothing inside")
    elif before is not None and before != step.fingerprint():
        yield StepChange("definition", place, f"the definition of executed step '{place}' changed")


def _changed_step(home: Home, delta: StepDelta, snapshot: ExecutionSnapshot, ran: Ran) -> Iterator[StepChange]:
    """How an executed step is different."""
    place = "/".join((*delta.path, delta.step_id))
    step, plan = home.step(delta.step_id), home.plan
    if step is None:
        yield StepChange("step gone", place, f"executed step '{place}' is no longer part of the flow")
        return
    if step.tool is None and step.child is None:
        detail = f"tool '{step.name}' of executed step '{place}' is no longer registered"
        yield StepChange("tool gone", place, detail)
        return
    if delta.tool_name != step.name:
        detail = f"executed step '{place}' calls tool '{step.name}' instead of '{delta.tool_name}'"
        yield StepChange("other tool", place, detail)
        return
    fallback = delta.fallback_tool_name
    if fallback is not None and (step.fallback is None or step.fallback.name != fallback):
        detail = f"executed step '{place}' was answered by tool '{fallback}', which does not stand in for it any more"
        yield StepChange("other tool", place, detail)
        return
    taken = (delta.decision or {}).get("taken")
    if taken is not None and plan is not None and taken not in plan.names:
        detail = f"executed step '{place}' has led to '{taken}', which is no longer part of the flow"
        yield StepChange("branch gone", place, detail)
        return
    if not delta.fingerprint or delta.fingerprint != step.fingerprint():
        yield from _changed_definition(home, step, delta, snapshot, place)
        return
    for need in ran.unmet(home, step, delta.path):
        detail = f"executed step '{place}' reads what step '{need.step_id}' writes now, which has not run"
        yield StepChange("definition", place, detail)
    for inside in ran.missing_inside(step, delta):
        detail = f"executed step '{place}' has step '{inside.step_id}' inside now, which has not run"
        yield StepChange("definition", place, detail)


def _changed_definition(
    home: Home, step: PlannedStep, delta: StepDelta, snapshot: ExecutionSnapshot, place: str
) -> Iterator[StepChange]:
    """What is behind a fingerprint that is another one, or that nobody has."""
    moved = None if home.plan is None or not delta.fingerprint else _moved_to(home.plan, delta)
    if moved is not None:
        yield StepChange("moved", place, f"executed step '{place}' is step '{moved.step_id}' now")
        return
    # By tool name, as they were when the run began, so that it can only explain: the step may have run later.
    before = snapshot.tool_schema_hashes.get(delta.tool_name)
    if before is not None and step.tool is not None and before != step.tool.schema_hash():
        detail = f"tool '{delta.tool_name}' of executed step '{place}': schema_hash changed"
        yield StepChange("schema", place, detail)
    elif delta.fingerprint:
        yield StepChange("definition", place, f"the definition of executed step '{place}' changed")


def _moved_to(plan: Plan, delta: StepDelta) -> PlannedStep | None:
    """Where the step is that was executed; of linear flows, whose steps have positions for names."""
    return next((step for step in plan.steps if step.fingerprint() == delta.fingerprint), None)


# ---- values


def misfits(plan: Plan, snapshot: ExecutionSnapshot) -> list[StepChange]:
    """What cannot be filled in, found by doing it: values that do not fit, parts that a finished nested run lacks.

    For those who ask beforehand; a run that goes on is filled in anyway.
    """
    try:
        initial = restored_input(plan, snapshot)
    except CheckpointDriftError as exc:
        return [StepChange("input", "", exc.detail)]
    run = Run(plan, initial, 0, snapshot.started_at.timestamp(), capture_of("reference", 0), str)
    run.trace_id(snapshot.trace_id)
    try:
        fill(run, snapshot)
    except CheckpointDriftError as exc:
        return [StepChange("outputs", "", exc.detail)]
    return []
