"""Results: what a caller gets back from a run, made from the run when somebody looks.

`ExecutionResult` knows its status and its final output at once; records, dates and ids are built on first access and
kept. Built by the executor, read by users, stores and the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, SerializationInfo, SerializerFunctionWrapHandler, field_serializer
from pydantic.functional_serializers import model_serializer

from chainweaver._execution.conclude import failure_of, merged_context
from chainweaver._execution.run import Detail, Run
from chainweaver._execution.trace import summary_of
from chainweaver.exceptions import ChainWeaverError, FlowCancelledError, FlowExecutionError
from chainweaver.objects.inspection import ObjectInfo, noteworthy
from chainweaver.objects.measuring import RunMemory

if TYPE_CHECKING:
    from typing_extensions import Self

    from chainweaver.plan import PlannedStep

TRACE_SCHEMA_VERSION = "1"
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def _jsonable(value: Any) -> Any:
    if value is None or (type(value) is str and value.isascii()):
        return value  # most of what a record has to tell; other texts may hold what no file can
    # Only results that are written need it, and it brings the whole room of files along.
    from chainweaver.formats.json_form import json_form

    return json_form(value)


class _Shown:
    """A value that is part of a text: its beginning, or type and size of what is no plain value."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        return str(_shortener().repr(self._value))


@cache
def _shortener() -> Any:
    import reprlib

    class Shortener(reprlib.Repr):
        def repr_instance(self, x: Any, level: int) -> str:
            return str(summary_of(x))

    shortener = Shortener()
    shortener.maxstring = shortener.maxlong = 200
    return shortener


class StepRecord(BaseModel):
    """What happened to one step.

    Attributes:
        step_index: Position in plan order; -1 for the flow's input, the number of steps for its output.
        tool_name: Tool of the step, or the flow's name for the two above.
        inputs: As the mapping resolved them.
        outputs: What the tool returned, validated; None when it gave nothing.
        error_type, error_code, error_message: The error with which the step failed or was skipped.
        success: Nothing went wrong with it; False for steps that failed, were cancelled, or were skipped for an error.
        started_at, ended_at: Aware UTC datetimes; `duration_ms` comes from the monotonic clock.
        retry_count, retry_errors: Attempts after the first one, and what the attempts before failed with.
        skipped: It failed and `on_error` says to go on without it; or no branch led to it, and then it has no error.
        cached: The outputs come from the step cache.
        fallback_used, fallback_tool_name: The fallback stood in.
        flow_name, sub_result: The sub-flow that the step ran, and its result; for a map the result of its items.
        approval: Who was asked before the call and what the answer was: "approved", "approver", "reason".
        decision: What was decided: the tool that was "chosen" among "candidates", the dependent that was "taken".
        step_id: Id of the step; its position as text in a linear flow, and for an item of a map.
        status: "ok", "failed", "skipped" or "cancelled".
        lane: Where the run was executed; no part of what is compared between runs.
        cache_note: Why the cache could not serve the step.
        error_cause: Class of the original exception.
        by_reference: Fields shown as live objects, because copying them would have cost too much.
        stdout, stderr: What the last call wrote to these streams, where a worker process captures (`capture_output`).
        surplus: It finished although an earlier failure had made it superfluous; its values do not count.
        redacted: Places of the record of which a redaction policy hides something, as pointers: "/outputs/token".
        objects: What its foreign objects and large values are, under "inputs.<field>" and "outputs.<field>": as they
            were at that step where records keep summaries, as the shown objects are now elsewhere. No part of what is
            compared between runs.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, ser_json_inf_nan="constants")

    step_index: int
    tool_name: str
    inputs: dict[str, Any]
    outputs: dict[str, Any] | None = None
    error_type: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    success: bool = True
    started_at: datetime
    ended_at: datetime
    duration_ms: float
    retry_count: int = 0
    retry_errors: list[str] = Field(default_factory=list)
    skipped: bool = False
    cached: bool = False
    fallback_used: bool = False
    fallback_tool_name: str | None = None
    flow_name: str | None = None
    sub_result: ExecutionResult | None = None
    approval: Any = None
    decision: Any = None
    step_id: str | None = None
    status: str = "ok"
    lane: str | None = None
    cache_note: str | None = None
    error_cause: str | None = None
    by_reference: tuple[str, ...] = ()
    surplus: bool = False
    redacted: tuple[str, ...] = ()
    objects: dict[str, ObjectInfo] = Field(default_factory=dict)
    stdout: str | None = None
    stderr: str | None = None

    @field_serializer(
        *("inputs", "outputs", "approval", "decision", "error_message", "retry_errors", "cache_note"), when_used="json"
    )
    def _write_values(self, value: Any) -> Any:
        return _jsonable(value)


class ExecutionResult(BaseModel):
    """What became of a run.

    Attributes:
        status: "ok", "failed", "cancelled" or "waiting"; `success` is `status == "ok"`.
        final_output: The merged context, or the keys that the flow names as its outputs; None unless all is well.
        execution_log: The records in plan order, built on first access.
        trace_id: 32 hex characters.
        started_at, ended_at: Aware UTC datetimes. Those of a run that was resumed are those of its last part; records
            of steps that did not run again are older.
        total_duration_ms: The time between them, by the monotonic clock.
        partial_output: The values reached, whatever the status.
        initial_input: The input as it was given.
        redacted: Places of the result of which a redaction policy hides something, as pointers: "/initial_input/user".
            Records, and nested results, name their own.
        memory: What the values of the run held, where a `MemoryTracker` watched; that of a nested run stands in the
            result of the outermost one.

    >>> from chainweaver import Flow, FlowExecutor, FlowStep, tool
    >>> @tool
    ... def double(n: int) -> int:
    ...     return 2 * n
    >>> flow = Flow(name="f", description="d", steps=[FlowStep(tool_name="double")])
    >>> executor = FlowExecutor(tools=[double], flows=[flow])
    >>> result = executor.execute_flow("f", {"n": 21})
    >>> result.status, result.final_output
    ('ok', {'n': 21, 'double': 42})
    >>> result.step("0").outputs
    {'double': 42}
    """

    # The run that missing fields are made from; a result that was read from JSON has none.
    __slots__ = ("_run",)
    model_config = ConfigDict(arbitrary_types_allowed=True, ser_json_inf_nan="constants")

    trace_schema_version: str = TRACE_SCHEMA_VERSION
    flow_name: str
    flow_version: str
    status: str = "ok"
    success: bool
    final_output: dict[str, Any] | None = None
    execution_log: list[StepRecord] = Field(default_factory=list)
    trace_id: str
    started_at: datetime
    ended_at: datetime
    total_duration_ms: float
    cost_report: Any = None
    initial_input: dict[str, Any] = Field(default_factory=dict)
    dry_run: bool = False
    parent_trace_id: str | None = None
    partial_output: dict[str, Any] = Field(default_factory=dict)
    memory: RunMemory | None = None
    redacted: tuple[str, ...] = ()

    @field_serializer("final_output", "initial_input", "partial_output", "cost_report", when_used="json")
    def _write_values(self, value: Any) -> Any:
        return _jsonable(value)

    # ---- made from a run

    @classmethod
    def of(cls, run: Run) -> Self:
        """The result of a concluded run; cheap, since nothing but the outcome is read."""
        result = cls.__new__(cls)
        # Into the dict directly: the setter that a model inherits would cost more than all the rest.
        values = result.__dict__
        values["status"] = run.status
        values["success"] = run.status == "ok"
        values["final_output"] = run.final_output
        _set_run(result, run)
        return result

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            build = _BUILDERS.get(name)
            if build is None:
                return _internal(self, name) if name in _INTERNAL else super().__getattr__(name)
            # setdefault: whoever of two threads is first makes the value that both keep.
            return self.__dict__.setdefault(name, build(object.__getattribute__(self, "_run")))

    def _opened(self) -> Self:
        """Make every field real, in the order of declaration, for code that reads `__dict__`."""
        values = self.__dict__
        if len(values) < len(_FIELDS):
            _set(self, "__dict__", {name: getattr(self, name) for name in type(self).model_fields})
        return self

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
        return handler(self._opened())

    def __iter__(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]  # as in BaseModel
        return iter(self._opened().__dict__.items())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ExecutionResult):
            other._opened()
        return super(ExecutionResult, self._opened()).__eq__(other)

    def __getstate__(self) -> dict[Any, Any]:
        return super(ExecutionResult, self._opened()).__getstate__()

    def __copy__(self) -> Self:
        return self._follow(super(ExecutionResult, self._opened()).__copy__())

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self._follow(super(ExecutionResult, self._opened()).__deepcopy__(memo))

    def _follow(self, twin: Self) -> Self:
        """Let a copy raise the error of this result, with the original exception behind it."""
        run = getattr(self, "_run", None)
        if run is not None:
            _set(twin, "_run", run)
        return twin

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield "flow_name", self.flow_name
        yield "status", self.status
        # Whoever logs a result, or a task that holds one, must not wait for the text of a million rows.
        output = self.final_output
        yield "final_output", output if output is None else {key: _Shown(value) for key, value in output.items()}

    __hash__: ClassVar[None]  # type: ignore[assignment]  # equal by value, as every model

    # ---- reading

    def step(self, step_id: str) -> StepRecord:
        """The record of a step.

        Raises:
            KeyError: There is no record of that step; it may not have run.
        """
        for record in self.execution_log:
            if record.step_id == step_id:
                return record
        known = ", ".join(str(record.step_id) for record in self.execution_log)
        raise KeyError(f"No record of step '{step_id}'; there are records of: {known or 'no step'}.")

    def raise_for_failure(self) -> Self:
        """Raise the error of the run, with the original exception as its cause; a successful result returns itself.

        Raises:
            ChainWeaverError: The failing step lowest in plan order raised it. A result that was read back from JSON
                has no exception any more and raises FlowExecutionError with the recorded text.
        """
        if self.success:
            return self
        run: Run | None = getattr(self, "_run", None)
        failure = None if run is None else failure_of(run)
        if failure is not None:
            raise failure
        failed = next((record for record in self.execution_log if record.status == "failed"), None)
        if failed is None:
            raise FlowCancelledError(self.flow_name, len(self.execution_log), result=self)
        raise FlowExecutionError(failed.tool_name, failed.step_index, _said(failed))

    def canonical_trace(self) -> list[dict[str, Any]]:
        """The records without what may differ between lanes and schedules: times, lane, and steps that do not count."""
        return [
            _canonical(record) for record in self.execution_log if not record.surplus and record.status != "cancelled"
        ]

    def to_mermaid(self, direction: str = "LR") -> str:
        """The run as a Mermaid graph, coloured by what happened to each step."""
        from chainweaver.viz import result_to_mermaid

        return result_to_mermaid(self, direction=direction)

    def _repr_html_(self) -> str:
        """A table of the steps, for notebooks."""
        from html import escape

        rows = "".join(
            f"<tr><td>{record.step_index}</td><td>{escape(record.step_id or '')}</td>"
            f"<td>{escape(record.tool_name)}</td><td>{escape(record.status)}</td><td>{record.duration_ms:.2f} ms</td>"
            f"<td>{escape(record.error_message or '')}</td></tr>"
            for record in self.execution_log
        )
        head = "<tr><th>#</th><th>step</th><th>tool</th><th>status</th><th>time</th><th>error</th></tr>"
        title = f"{escape(self.flow_name)} {escape(self.flow_version)}: {escape(self.status)}"
        return f"<table><caption>{title}</caption>{head}{rows}</table>"


def _said(record: StepRecord) -> str:
    """What a record says of its error, to be said again by an error that begins in the same way."""
    begun = f"Tool '{record.tool_name}' failed at step {record.step_index}: "
    text = (record.error_message or record.error_type or "failed").removeprefix(begun)
    return text.replace("\n  ", "\n")  # its lines are moved in again


def _canonical(record: StepRecord) -> dict[str, Any]:
    told = record.model_dump(
        exclude={"started_at", "ended_at", "duration_ms", "lane", "sub_result", "objects", "stdout", "stderr"}
    )
    nested = record.sub_result
    if nested is not None:
        told["sub_result"] = {"status": nested.status, "steps": nested.canonical_trace()}
    return told


_set = object.__setattr__
_set_run = ExecutionResult.__dict__["_run"].__set__
_FIELDS = frozenset(ExecutionResult.model_fields)
_INTERNAL = ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")


def _internal(result: ExecutionResult, name: str) -> Any:
    """What Pydantic keeps beside the fields; filled in only when Pydantic asks, since most results are just read."""
    value = set(_FIELDS) if name == "__pydantic_fields_set__" else None
    _set(result, name, value)
    return value


# ---- from a run to fields


def record_of(run: Run, step: PlannedStep) -> StepRecord | None:
    """The record of one step, with nothing hidden yet; None when it never started."""
    status = run.status_of(step.index)
    if status is None:
        return None
    detail = run.details.get(step.index) or _NOTHING_SPECIAL
    outputs = run.shown_outputs(step.index)
    started, ended = run.started[step.index], run.ended[step.index]
    nested = detail.nested
    passed = status == "passed"
    return StepRecord(
        step_index=step.index,
        tool_name=step.name,
        inputs=_under_texts(run.inputs[step.index] or {}),
        outputs=outputs if status == "ok" else None,
        **error_fields(detail.error),
        success=status == "ok" or passed,
        started_at=date_of(run, run.began_ns if passed else started),
        ended_at=date_of(run, run.began_ns if passed else ended),
        duration_ms=(ended - started) / 1e6,
        retry_count=detail.retries,
        retry_errors=list(detail.retry_errors),
        skipped=status in ("skipped", "passed"),
        cached=detail.cached,
        fallback_used=detail.fallback is not None,
        fallback_tool_name=detail.fallback,
        flow_name=None if step.child is None else step.child.flow_name,
        sub_result=None if nested is None else ExecutionResult.of(nested),
        approval=detail.approval,
        decision=run.decision_of(step),
        step_id=step.step_id,
        status="skipped" if passed else status,
        lane=run.lane,
        cache_note=detail.cache_note,
        by_reference=run.referred(step.index),
        surplus=detail.surplus,
        objects=_objects_of(run, step, detail, outputs if status == "ok" else None),
        stdout=None if detail.printed is None else detail.printed.stdout,
        stderr=None if detail.printed is None else detail.printed.stderr,
    )


def _objects_of(run: Run, step: PlannedStep, detail: Detail, outputs: dict[str, Any] | None) -> dict[str, ObjectInfo]:
    """What the foreign objects and large values of a step are, by "inputs.<field>" and "outputs.<field>"."""
    tool = step.tool
    if detail is _NOTHING_SPECIAL and tool is not None and tool.number_inputs and tool.number_outputs:
        return {}  # with a fallback or a choice, another tool might have answered
    if run.inspect is not None:
        noted: dict[str, ObjectInfo] = run.objects.get(step.index, {})
        return noted if outputs is not None else {at: one for at, one in noted.items() if at.startswith("inputs.")}
    found = {f"inputs.{name}": one for name, one in noteworthy(run.inputs[step.index] or {}).items()}
    for name, one in noteworthy(outputs or {}).items():
        found[f"outputs.{name}"] = one
    return found


_NOTHING_SPECIAL = Detail()


def _under_texts(values: dict[Any, Any]) -> dict[str, Any]:
    """The inputs with texts as keys: nothing keeps a caller from passing others, and a log has to open all the same."""
    if all(isinstance(key, str) for key in values):
        return values
    return {key if isinstance(key, str) else repr(key): value for key, value in values.items()}


def error_fields(error: ChainWeaverError | None) -> dict[str, Any]:
    """What a record says of an error, with nothing hidden yet."""
    if error is None:
        return {}
    stored = getattr(error, "stored", None)
    if stored is not None:  # read back from a checkpoint, where there are no exceptions
        return dict(stored)
    cause = error.__cause__
    return {
        "error_type": type(error).__name__,
        "error_code": error.code,
        "error_message": str(error),
        "error_cause": None if cause is None else type(cause).__name__,
    }


def date_of(run: Run, at_ns: int) -> datetime:
    """A moment on the monotonic clock of a run as an aware date."""
    # Adding to the epoch keeps microseconds exact where fromtimestamp() would round a float.
    return EPOCH + timedelta(seconds=run.began_wall, microseconds=(at_ns - run.began_ns) / 1_000)


def _log(run: Run) -> list[StepRecord]:
    found = [record_of(run, step) for step in run.plan.steps]
    records = [record for record in found if record is not None]
    if run.input_error is not None:
        records.insert(0, _border_record(run, -1, run.given, run.given_references, run.input_error))
    if run.output_error is not None and run.refused is not None:
        shown, by_reference, _ = run.refused
        records.append(_border_record(run, len(run.plan.steps), shown, by_reference, run.output_error))
    redaction = run.rules.redaction
    if redaction is None:
        return records
    redacted: list[StepRecord] = redaction.redact_log(records, _hidden_in(run))
    return redacted


def hidden_in(result: ExecutionResult) -> frozenset[str]:
    """What the policy of its run hides in the records of a result, which no longer tell; nothing in one read back."""
    run: Run | None = getattr(result, "_run", None)
    return frozenset() if run is None or run.rules.redaction is None else _hidden_in(run)


def redacted_text(run: Run, text: str) -> str:
    """What is shown of a text of a run that is under way, such as an error message that a store is to keep (R39)."""
    redaction = run.rules.redaction
    if redaction is None:
        return text
    shown: str = redaction.redact_text(text, _hidden_in(run))
    return shown


def _hidden_in(run: Run) -> frozenset[str]:
    """What is hidden in the records of a run: all that is hidden anywhere in the outermost one, once that is over."""
    root = run.root
    if root.hidden is None and root.status != "running":
        root.hidden = _secrets_of(root)
    if root.hidden is not None:
        return root.hidden
    # Asked by each nested run when it ends: what is around it, and not what runs beside it, or a map would take time
    # with the square of its items.
    found = {*root.secrets, *_secrets_of(run)}
    around = run.parent
    while around is not None:
        if not around.is_map:
            found |= _own_secrets(around)
        around = around.parent
    return frozenset(found)


def _secrets_of(run: Run) -> frozenset[str]:
    """The texts that are hidden anywhere in a run: an error message may repeat what another step got."""
    found = {*run.secrets, *_own_secrets(run)}
    for detail in run.details.values():
        if detail.nested is not None:
            found |= _secrets_of(detail.nested)
    return frozenset(found)


def _own_secrets(run: Run) -> set[str]:
    """The texts that are hidden in what a run was given, and in what its own steps took and gave so far."""
    # Kept beside the run: a value is looked through once, however many nested runs end.
    known: dict[tuple[int, str], frozenset[str]] = vars(run).setdefault("hidden_by_place", {})
    places: list[tuple[int, str, dict[str, Any] | None]] = [(-1, "given", run.given)]
    for step in run.plan.steps:
        places.append((step.index, "inputs", run.inputs[step.index]))
        places.append((step.index, "outputs", run.shown_outputs(step.index)))
    if run.parent is None and run.plan.dynamic_params:
        # Records show a stand-in for them, which tells nothing of what an error message may repeat.
        places.append((-1, "dynamic", run.slots[-1]))
    # Texts for tools that take secrets, whatever their key is called; a step that has not run tells nothing of them.
    found = {text for key in run.plan.secret_inputs if isinstance(text := (run.given or {}).get(key), str)}
    for index, kind, values in places:
        if values:
            hidden = known.get((index, kind))
            if hidden is None:
                hidden = known[index, kind] = run.rules.redaction.secrets_in(values)
            found |= hidden
    return found


def _border_record(
    run: Run, index: int, values: dict[str, Any], by_reference: tuple[str, ...], error: ChainWeaverError
) -> StepRecord:
    """The record of a value that a flow-level schema refused."""
    at = date_of(run, run.began_ns if index < 0 else run.now_ns)
    return StepRecord(
        step_index=index,
        tool_name=run.plan.flow_name,
        inputs=_under_texts(values),
        success=False,
        status="failed",
        started_at=at,
        ended_at=at,
        duration_ms=0.0,
        lane=run.lane,
        by_reference=by_reference,
        **error_fields(error),
    )


def _shown_input(run: Run) -> dict[str, Any]:
    """The input of a run as it is shown; a dict of its own."""
    redaction = run.rules.redaction
    if redaction is None:
        return dict(run.given)
    return dict(redaction.redact_mapping(run.given, _hidden_in(run)))


def _redacted(run: Run) -> tuple[str, ...]:
    """Where the result of a run hides something: in its input; what comes of it is no view (R39)."""
    redaction = run.rules.redaction
    if redaction is None:
        return ()
    return hidden_places("initial_input", run.given, redaction.redact_mapping(run.given, _hidden_in(run)))


def hidden_places(field: str, values: Mapping[Any, Any], shown: Any) -> tuple[str, ...]:
    """Pointers to those values of a field of which a view hides something.

    >>> hidden_places("inputs", {"user": "ada", "a/b": "secret"}, {"user": "ada", "a/b": "***"})
    ('/inputs/a~1b',)
    """
    if shown is values:
        return ()
    if not isinstance(shown, Mapping) or len(shown) != len(values):
        return (f"/{field}",)
    pairs = zip(values.items(), shown.items(), strict=True)
    names = (str(name) for (key, value), (name, seen) in pairs if seen is not value or name is not key)
    return tuple(f"/{field}/{name.replace('~', '~0').replace('/', '~1')}" for name in names)


_BUILDERS: dict[str, Callable[[Run], Any]] = {
    "trace_schema_version": lambda run: TRACE_SCHEMA_VERSION,
    "flow_name": lambda run: run.plan.flow_name,
    "flow_version": lambda run: run.plan.flow_version,
    "execution_log": _log,
    "trace_id": lambda run: run.trace_id(),
    "started_at": lambda run: date_of(run, run.began_ns),
    "ended_at": lambda run: date_of(run, run.now_ns),
    "total_duration_ms": lambda run: (run.now_ns - run.began_ns) / 1e6,
    "cost_report": lambda run: None if run.rules.pricing is None else run.rules.pricing(ExecutionResult.of(run)),
    "initial_input": _shown_input,
    "dry_run": lambda run: run.rules.dry is not None,
    "parent_trace_id": lambda run: None if run.parent is None else run.parent.trace_id(),
    "partial_output": lambda run: dict(run.final_output or {}) if run.is_map else merged_context(run),
    "redacted": _redacted,
    "memory": lambda run: None if run.memory is None else run.memory.report(),
}


class BranchPlan(BaseModel):
    """A way out of a branching step.

    Attributes:
        target: Id of the dependent that it leads to.
        predicate: What has to hold, and no predicate before it; None for the one that is taken when none holds.
        reads: Name in the predicate -> `output['k']` of the step itself, or `context['k']`.
    """

    target: str
    predicate: str | None = None
    reads: dict[str, str] = Field(default_factory=dict)


class StepPlan(BaseModel):
    """What `explain_flow` says about one step.

    Attributes:
        input_sources: Field -> `context['k']`, `context['k'] (UNRESOLVED)` or `literal(<repr>)`;
            `{"<all>": "context (full)"}` for a tool that takes the whole context.
        unresolved_keys: Context keys that nobody provides for this input.
        warnings: What the compiler has to say about the step.
        step_id: Id of the step; its position as text in a linear flow.
        depends_on: Ids of the steps that it waits for, those included whose values it reads.
        read_from: Field -> the steps that may have written what it reads, the likeliest first; "input" for the input of
            the flow. Under `map_as` those of the items.
        writes: Context key -> type; lists for a map.
        may_be_passed: A branch before it may lead elsewhere, and then it does not run.
        branches: Where it may lead, in the order in which the predicates are asked. None holds and there is no default:
            all that depend on it run.
        candidates: The tools among which is decided when the run comes to it.
        fallback: The tool that stands in when it fails.
        map_over, map_as: Where the items come from, for a step that runs once per item, and what one is called.
        chunk: How it takes an input in chunks, such as "data in chunks of 64 MiB, combined by concat".
        capability_id: What an outside capability has to perform.
        taken_as_is: Field -> the steps whose values it takes as they are, without another validation; "input" for the
            input of the flow. Only with `validation="once"`.
        validated_again: Field -> why its values are validated all the same.
        flow_version, sub_plan: The sub-flow that it runs, with what it hands to it.
    """

    step_index: int
    tool_name: str
    input_sources: dict[str, str]
    input_schema: str | None
    output_schema: str | None
    unresolved_keys: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    step_id: str = ""
    depends_on: list[str] = Field(default_factory=list)
    read_from: dict[str, list[str]] = Field(default_factory=dict)
    writes: dict[str, str] = Field(default_factory=dict)
    may_be_passed: bool = False
    branches: list[BranchPlan] = Field(default_factory=list)
    candidates: list[str] = Field(default_factory=list)
    fallback: str | None = None
    map_over: str | None = None
    map_as: str | None = None
    chunk: str | None = None
    capability_id: str | None = None
    taken_as_is: dict[str, list[str]] = Field(default_factory=dict)
    validated_again: dict[str, str] = Field(default_factory=dict)
    flow_version: str | None = None
    sub_plan: ExecutionPlan | None = None


class ExecutionPlan(BaseModel):
    """What a flow would do with an input, step by step, without running it.

    Attributes:
        final_context_shape: Context key -> type, as far as schemas tell.
        all_resolvable: Every input of every step has a source, in sub-flows as well, and nothing else is wrong.
    """

    flow_name: str
    step_count: int
    steps: list[StepPlan]
    final_context_shape: dict[str, str]
    all_resolvable: bool
    flow_version: str | None = None
