"""A run as a checkpoint holds it: how it began, and every step that it finished.

Fields are what is stored; the properties are views for readers. Nothing here decides whether a run may go on: the
executor compares versions and fingerprints. Made by the executor, written and read by the stores.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from chainweaver.checkpoint.delta import StepDelta

if TYPE_CHECKING:
    from chainweaver.results import StepRecord

_VIEWS = ("context", "completed_steps", "completed_dag_levels")


class ExecutionSnapshot(BaseModel):
    """The state of a run that is enough to go on with it.

    The constructor also takes the names of the views. `execution_log` (records, or dicts of their fields) becomes
    `steps` where these are not given; `context`, `completed_steps` and `completed_dag_levels` are then shown as given
    instead of being derived. A resumed run reads the fields only.

    Attributes:
        trace_id: Id of the run.
        flow_name: Name of the flow.
        flow_version: Version of the flow; a resumed run takes the same.
        flow_digest: Fingerprint of the whole definition.
        initial_input: The context that the run began with: its input, validated values laid over it.
        started_at: When the run began; aware.
        steps: The finished steps in plan order, each one once; those of nested runs stand behind, by their `path`.
        tool_schema_hashes: Schema hash by tool name, as it was when the run began.
        step_fingerprints: Fingerprint by step id, as it was when the run began.
        level_sizes: How many steps each DAG level has; empty where nobody asked.
        output_mappings: By step id, which context key takes which output; steps without one keep their names.
        sub_flows: Version by name of the sub-flows that the run began with, of those that its steps name without one.
        stated: Views that were given to the constructor.

    >>> snapshot = ExecutionSnapshot(
    ...     trace_id="9f3c", flow_name="sum", flow_version="1.0.0", initial_input={"a": 1},
    ...     started_at=datetime(2024, 5, 1, tzinfo=timezone.utc),
    ...     steps=[StepDelta(0, "add", "add", "5d1e", "ok", {"total": 3})],
    ... )
    >>> snapshot.context, snapshot.completed_steps
    ({'a': 1, 'total': 3}, 1)
    """

    model_config = ConfigDict(extra="forbid")

    trace_id: str
    flow_name: str
    flow_version: str
    flow_digest: str = ""
    initial_input: dict[str, Any] = Field(default_factory=dict)
    started_at: AwareDatetime
    steps: list[StepDelta] = Field(default_factory=list)
    tool_schema_hashes: dict[str, str] = Field(default_factory=dict)
    step_fingerprints: dict[str, str] = Field(default_factory=dict)
    level_sizes: tuple[int, ...] = ()
    output_mappings: dict[str, dict[str, str]] = Field(default_factory=dict)
    sub_flows: dict[str, str] = Field(default_factory=dict)
    stated: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _take_views(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        taken = dict(data)
        given = {name: taken.pop(name) for name in _VIEWS if name in taken}
        if given:
            taken["stated"] = {**taken.get("stated", {}), **given}
        if "execution_log" in taken:
            records = taken.pop("execution_log")
            taken.setdefault("steps", [_delta_of(record) for record in records])
        return taken

    def accepting(self, *step_ids: str) -> "ExecutionSnapshot":
        """A copy in which these steps count as what their flow has by these names now, and all that ran inside them.

        For `migrate=` hooks that have seen to it that what is stored fits: a resumed run compares these steps no more.

        >>> snapshot = ExecutionSnapshot(
        ...     trace_id="9f3c", flow_name="sum", flow_version="1.0", steps=[StepDelta(0, "add", "add", "5d1e", "ok")],
        ...     started_at=datetime(2024, 5, 1, tzinfo=timezone.utc),
        ... )
        >>> snapshot.accepting("add").steps[0].fingerprint
        ''
        """
        from chainweaver._execution.run import step_id_of  # the run core is not needed to store a run

        steps, tools = [], set()
        for step in self.steps:
            outermost = step_id_of(step.path[0]) if step.path else step.step_id
            if outermost in step_ids:
                tools.add(step.tool_name)
            steps.append(step._replace(fingerprint="") if outermost in step_ids else step)
        hashes = {name: one for name, one in self.tool_schema_hashes.items() if name not in tools}
        inside = tuple(f"/{step_id}/" for step_id in step_ids)
        fingerprints = {
            place: one
            for place, one in self.step_fingerprints.items()
            if place not in step_ids and not place.startswith(inside)
        }
        return self.model_copy(update={"steps": steps, "tool_schema_hashes": hashes, "step_fingerprints": fingerprints})

    @property
    def context(self) -> dict[str, Any]:
        """The initial input with the outputs of the finished steps laid over it, in plan order. A new dict.

        What sub-flows and maps gave is not in it: it follows from their own steps.
        """
        if "context" in self.stated:
            return dict(self.stated["context"])
        context = dict(self.initial_input)
        for step in self._own_steps():
            outputs = step.outputs or {}
            mapping = self.output_mappings.get(step.step_id)
            if mapping is None:
                context.update(outputs)
            else:
                context.update({key: outputs[output] for key, output in mapping.items() if output in outputs})
        return context

    @property
    def completed_steps(self) -> int:
        """How many steps are finished."""
        stated: int | None = self.stated.get("completed_steps")
        return len(self._own_steps()) if stated is None else stated

    @property
    def completed_dag_levels(self) -> int:
        """How many levels are finished, counted from the first; 0 where `level_sizes` is empty."""
        stated: int | None = self.stated.get("completed_dag_levels")
        if stated is not None:
            return stated
        finished = {step.step_index for step in self._own_steps()}
        first = levels = 0
        for size in self.level_sizes:
            if not finished.issuperset(range(first, first + size)):
                break
            first += size
            levels += 1
        return levels

    @property
    def execution_log(self) -> "list[StepRecord]":
        """The finished steps as records, in plan order. Their `inputs` are empty: a checkpoint does not hold them."""
        from chainweaver.results import StepRecord  # results and their models are not needed to store a run

        return [StepRecord(**_record_fields(step)) for step in self._own_steps()]

    def _own_steps(self) -> list[StepDelta]:
        return [step for step in self.steps if not step.path]


def in_plan_order(steps: Iterable[StepDelta]) -> list[StepDelta]:
    """The steps by `path` and `step_index`; of several for one place the last, which replaced the others.

    >>> [step.step_id for step in in_plan_order([StepDelta(1, "b", "b", "", "ok"), StepDelta(0, "a", "a", "", "ok")])]
    ['a', 'b']
    """
    latest = {(step.path, step.step_index): step for step in steps}
    return [latest[place] for place in sorted(latest)]


def _record_fields(step: StepDelta) -> dict[str, Any]:
    started_at = datetime.fromtimestamp(step.started_at, timezone.utc)
    error_type, error_code, error_message, error_cause = step.error or (None, None, None, None)
    return {
        "step_index": step.step_index,
        "step_id": step.step_id,
        "tool_name": step.tool_name,
        "inputs": {},
        "outputs": step.outputs,
        "error_type": error_type,
        "error_code": error_code,
        "error_message": error_message,
        "error_cause": error_cause,
        "success": step.status == "ok",
        "started_at": started_at,
        "ended_at": started_at + timedelta(microseconds=step.duration_ns / 1_000),
        "duration_ms": step.duration_ns / 1e6,
        "retry_count": max(step.attempts - 1, 0),
        "retry_errors": list(step.retry_errors),
        "skipped": step.status == "skipped",
        "cached": step.cached,
        "fallback_used": step.fallback_tool_name is not None,
        "fallback_tool_name": step.fallback_tool_name,
        "decision": step.decision,
        "approval": step.approval,
    }


def _delta_of(record: Any) -> StepDelta:
    """The finished step that a record, or a dict of its fields, tells of."""
    fields = record if isinstance(record, Mapping) else dict(record)
    message = fields.get("error_message")
    error = None
    if fields.get("error_type") is not None or message is not None:
        error = (fields.get("error_type") or "", fields.get("error_code"), message or "", fields.get("error_cause"))
    started_at = fields.get("started_at")
    cached = bool(fields.get("cached"))
    return StepDelta(
        step_index=fields["step_index"],
        step_id=fields.get("step_id") or fields["tool_name"],
        tool_name=fields["tool_name"],
        fingerprint="",
        status="skipped" if fields.get("skipped") else "ok",
        outputs=fields.get("outputs"),
        error=error,
        attempts=0 if cached else fields.get("retry_count", 0) + 1,
        retry_errors=tuple(fields.get("retry_errors") or ()),
        cached=cached,
        fallback_tool_name=fields.get("fallback_tool_name"),
        started_at=started_at.timestamp() if isinstance(started_at, datetime) else 0.0,
        duration_ns=round((fields.get("duration_ms") or 0) * 1e6),
    )
