"""The state of one run: values in slots, times, and details of the steps that did more than succeed.

A Run performs nothing and decides little: `walk` and `schedule` drive it through the life of its steps (`life`), and
`conclude` folds it into a result. Lanes set `now_ns` before every reply; nothing here asks a clock.

Records are not built here. A plain step leaves its inputs, its output slot and two times behind, about 90 bytes; the
record that a user sees is made from these when somebody opens the execution log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from chainweaver._execution.commands import Invoke, PlainCall, Printed, RunCancelled
from chainweaver._execution.rules import NO_RULES, Rules
from chainweaver._execution.trace import summarize
from chainweaver.plan import ToolContext

if TYPE_CHECKING:
    from chainweaver._execution.merge import Collision
    from chainweaver._execution.trace import Capture, Captured
    from chainweaver.exceptions import ChainWeaverError
    from chainweaver.plan import Plan, PlannedStep, PlannedTool, Row

StepStatus: TypeAlias = Literal["ok", "failed", "skipped", "passed", "cancelled"]
"""What became of a step. "passed": no active branch led to it; users see it as skipped."""
RunStatus: TypeAlias = Literal["running", "ok", "failed", "cancelled", "waiting"]


class Detail:
    """What is not obvious about a step; made only for steps with something to tell.

    Attributes:
        status: None while the step runs.
        error: The domain error with which it failed, was skipped or cancelled; its `__cause__` is the original.
        surplus: Finished, although a failure with a lower index had made it superfluous.
        decision, approval: What was decided and who agreed, as the record shows it.
        nested: The run of the sub-flow (of the last attempt) or of the items of a map.
        printed: What the last call wrote to its output and error streams, where the lane captures.
    """

    __slots__ = (
        "approval",
        "cache_note",
        "cached",
        "decision",
        "error",
        "fallback",
        "nested",
        "retries",
        "printed",
        "retry_errors",
        "status",
        "surplus",
    )

    if TYPE_CHECKING:
        status: StepStatus | None
        error: ChainWeaverError | None
        retries: int
        retry_errors: tuple[str, ...]
        cached: bool
        cache_note: str | None
        fallback: str | None
        surplus: bool
        decision: dict[str, Any] | None
        approval: dict[str, Any] | None
        nested: Run | None
        printed: Printed | None
    else:

        def __getattr__(self, name: str) -> Any:
            # Nearly every detail has one or two of these: filling in all of them would cost as much as half a step.
            try:
                return _UNTOLD[name]
            except KeyError:
                raise AttributeError(name) from None


_UNTOLD: dict[str, Any] = {
    **dict.fromkeys(Detail.__slots__),
    "cached": False,
    "retries": 0,
    "retry_errors": (),
    "surplus": False,
}
"""What a detail says where nothing was told."""


_NOTHING_TAKEN: dict[int, int | None] = {}
_NOTHING_COPIED: dict[int, int] = {}
_NOTHING_NOTED: dict[int, dict[str, Any]] = {}
_NO_STREAMS: dict[int, Any] = {}
_NOTHING_HANDED_BACK: dict[int, frozenset[str]] = {}
_GOES_ON = frozenset({"ok", "skipped", "passed"})

FROM_CACHE = Detail()
"""Stands for the details of a step of which nothing is to be told but that its outputs came from the cache."""
FROM_CACHE.cached = True


class _Released:
    __slots__ = ()

    def __repr__(self) -> str:
        return "<released>"


RELEASED = _Released()
"""Stands in the slots for a value that nobody needs any more; its key stays, for whoever asks what was written."""

PASSED_OVER = Detail()
"""Stands for the details of a step that no active branch leads to."""
PASSED_OVER.status = "passed"


class Clock:
    """The time that a run has been told."""

    # Set where it is made: a constructor of our own would cost every run twice as much.
    __slots__ = ("now_ns",)
    now_ns: int


class Past(Protocol):
    """What a store holds of nested runs, for a run that goes on."""

    def attempts(self, run: Run, step: PlannedStep) -> int:
        """How many times a step of the run has begun its nested run, as far as the store knows; at least 1."""
        ...

    def fill(self, nested: Run) -> None:
        """Give the steps of a nested run the outcomes that are stored."""
        ...


class Run:
    """One run of a plan.

    Attributes:
        slots: Slot 0 the initial context, slot `i + 1` what step i merges (None until it is done), last the dynamic
            parameters. RELEASED stands for a value that was let go.
        inputs: Per step the resolved inputs as the record shows them.
        shown: Per step its outputs as the record shows them, where they are not what is in its slot; None while there
            is nothing to show, as in flows of scalars.
        references: Per step the fields that its record shows as live objects; None while there are none.
        inspect: Tells by name what the foreign objects and large values among some are, where records hold summaries;
            None where they hold the values, which tell it themselves.
        memory: What an observer has found that the values of the run and of those nested in it hold; None where nobody
            looks. Never looked at here.
        objects: Per step what it told, under "inputs.<field>" and "outputs.<field>"; sparse.
        copied: Step -> how many items the record of its inputs holds copies of, until its outputs are recorded.
        started, ended: Per step monotonic nanoseconds.
        details: Step index -> Detail, sparse.
        clock: Holds the monotonic time of the latest reply, set by the lane; nested runs share it.
        failures: Indexes of failed steps in the order in which they failed.
        input_error, output_error: What a flow-level schema refused.
        refused: The context at the end as the record of the refusal shows it; None where nothing was refused.
        status: "running" until `conclude`.
        listening, announcing: Somebody wants the events of steps, those of nested runs.
        caching, saving: There is a step cache, there is a checkpointer.
        streaming: Somebody wants the chunks of streaming tools.
        printing: A lane may say what calls have printed.
        deadline_ns: Monotonic time at which the run has to have ended, or None.
        collided: Lowest step that collided under the policy "error", which ends the run whatever `on_failure` says.
        collided_inside: Keys met in a run that is nested in this one, at whatever depth; known of the outermost run.
        new_id: Makes the trace id, when somebody asks for it.
        given: The input as it was given, as the result shows it.
        given_references: The keys of it that show live objects.
        secrets: What a redaction hides of values that summaries no longer show.
        hidden: What a redaction hides anywhere in a run that is over; None until somebody asks.
        began_ns, began_wall: The beginning on the monotonic clock, and in seconds since the epoch.
        lane: Name of the lane, for records.
        resumed: Some steps had their outcome before this run began.
        rules: What the executor asks of every run.
        taken: Branching step -> the dependent that it chose, None for all of them.
        handed_back: Sub-flow step -> the keys under which it gave what was there before, noted where values are let go.
        parent: The run that this one is nested in.
        place: The step of it that this run is inside of, and the number of the attempt.
        is_map: Its steps are the items of a map.
        is_tolerant: An item that fails is skipped, and its error kept.
        past: What a store holds of the runs nested in a resumed one; None where nothing was stored.
    """

    # What most runs never change lives on the class: filling it in per run would cost as much as a step.
    input_error: ChainWeaverError | None = None
    output_error: ChainWeaverError | None = None
    collisions: Sequence[Collision] = ()
    collided_inside = False
    collided: int | None = None
    cancelled: RunCancelled | None = None
    status: RunStatus = "running"
    final_output: dict[str, Any] | None = None
    refused: Captured | None = None
    given_references: tuple[str, ...] = ()
    secrets: frozenset[str] = frozenset()
    hidden: frozenset[str] | None = None
    listening = announcing = streaming = caching = saving = resumed = is_map = is_tolerant = printing = False
    rules: Rules = NO_RULES
    taken: dict[int, int | None] = _NOTHING_TAKEN
    handed_back: Mapping[int, frozenset[str]] = _NOTHING_HANDED_BACK
    parent: Run | None = None
    place: tuple[PlannedStep, int] | None = None
    past: Past | None = None
    deadline_ns: int | None = None
    lane = "sync"
    shown: list[dict[str, Any] | None] | None = None
    references: list[tuple[str, ...]] | None = None
    copied: dict[int, int] = _NOTHING_COPIED
    inspect: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    objects: dict[int, dict[str, Any]] = _NOTHING_NOTED
    memory: Any = None
    _streams: dict[int, Any] = _NO_STREAMS
    _held: dict[int, tuple[list[Any], list[Any]]] = _NO_STREAMS
    _trace_id: str | None = None

    def __init__(
        self,
        plan: Plan,
        initial: dict[str, Any],
        now_ns: int,
        began_wall: float,
        capture: Capture,
        new_id: Callable[[], str],
        clock: Clock | None = None,
    ) -> None:
        size = len(plan.steps)
        self.plan = plan
        self.slots: list[dict[str, Any] | None] = [initial, *plan.empty_slots]
        self.inputs: list[dict[str, Any] | None] = [None] * size
        self.started = [0] * size
        self.ended = [0] * size
        self.details: dict[int, Detail] = {}
        self.failures: list[int] = []
        if clock is None:
            clock = Clock()
            clock.now_ns = now_ns
        self.clock = clock
        self.began_ns = now_ns
        self.began_wall = began_wall
        self.capture = capture
        self.new_id = new_id
        self.given = initial

    @property
    def now_ns(self) -> int:
        """Monotonic time of the latest reply; of a nested run that has ended, that of its end."""
        return self.clock.now_ns

    @now_ns.setter
    def now_ns(self, now_ns: int) -> None:
        self.clock.now_ns = now_ns

    def stop_clock(self) -> None:
        """Keep the time at which a nested run ends; that of the runs around it goes on."""
        ends_ns = self.clock.now_ns
        self.clock = Clock()
        self.clock.now_ns = ends_ns

    def trace_id(self, known: str | None = None) -> str:
        """The id of the run, made when somebody first asks; `known` sets it for a run that goes on."""
        found = self._trace_id
        if found is None:
            made = known or (self.new_id() if self.parent is None else self._nested_id(self.root.trace_id()))
            # setdefault: of two threads that ask, one for a tool and one for a listener, both get the id of the first.
            found = vars(self).setdefault("_trace_id", made)
        return found

    def _nested_id(self, root_id: str) -> str:
        # Worked out and not drawn: a nested run that goes on in another process is still the same run.
        return blake2b("/".join((root_id, *self.key)).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    @property
    def path(self) -> tuple[str, ...]:
        """Ids of the steps that the run is nested in, outermost first."""
        if self.parent is None or self.place is None:
            return ()
        return (*self.parent.path, self.place[0].step_id)

    @property
    def key(self) -> tuple[str, ...]:
        """The same with the numbers of the attempts, for stores: a new attempt begins anew."""
        if self.parent is None or self.place is None:
            return ()
        step, attempt = self.place
        return (*self.parent.key, segment_of(step.step_id, attempt))

    @property
    def root(self) -> Run:
        """The run that all the others are nested in."""
        found = self
        while found.parent is not None:
            found = found.parent
        return found

    @property
    def streams(self) -> dict[int, Any]:
        """The streams that were met and are not known to be closed, by id; kept of the outermost run."""
        if self._streams is _NO_STREAMS:
            self._streams = {}
        return self._streams

    @property
    def has_streams(self) -> bool:
        """Whether any were met."""
        return bool(self._streams)

    @property
    def held(self) -> dict[int, tuple[list[Any], list[Any]]]:
        """Step -> the streams that it was given, and those that its tools returned, while it runs."""
        if self._held is _NO_STREAMS:
            self._held = {}
        return self._held

    def is_unattended(self) -> bool:
        """Whether nobody has to be told, asked or obeyed at every step."""
        return not self.listening and self.is_unconcerned()

    def is_unconcerned(self) -> bool:
        """Whether nobody has to be asked or obeyed at every step, so that plain ones may take the short path."""
        # Of a tolerant map the items that failed are saved as well.
        return not (
            self.resumed
            or self.deadline_ns is not None
            or self.printing
            or self.rules.concern_every_step
            or (self.is_tolerant and self.saving)
        )

    @property
    def releases(self) -> bool:
        """Whether values are let go as soon as nobody needs them any more (R37).

        Not in a dry run: it passes over steps that would not be passed over, and what they would write is looked for
        in the outputs of others.
        """
        return self.capture is summarize and self.plan.project is not None and self.rules.dry is None

    @property
    def rows(self) -> Sequence[Row]:
        """What the short path needs of each step."""
        return self.plan.summary_rows if self.capture is summarize else self.plan.rows

    # ---- what is known about a step

    def detail(self, index: int) -> Detail:
        """The details of a step, made on first use."""
        found = self.details.get(index)
        if found is None or found is FROM_CACHE or found is PASSED_OVER:
            made = self.details[index] = Detail()
            if found is not None:
                made.cached, made.status = found.cached, found.status
            return made
        return found

    def finished(self, index: int) -> bool:
        """Whether the step has its outcome, whatever it is."""
        if self.slots[index + 1] is not None:
            return True
        detail = self.details.get(index)
        return detail is not None and detail.status is not None

    def status_of(self, index: int) -> StepStatus | None:
        """The outcome of a step, None while it has none."""
        detail = self.details.get(index)
        if detail is not None and detail.status is not None:
            return detail.status
        return "ok" if self.slots[index + 1] is not None else None

    # ---- what happened to a step

    def show_inputs(self, step: PlannedStep, given: dict[str, Any]) -> None:
        """Keep the resolved inputs for the record, before the tool can change them."""
        if step.dynamic_fields:
            hidden = step.dynamic_fields
            given = {name: "<dynamic parameter>" if name in hidden else value for name, value in given.items()}
        tool = step.tool
        if tool is not None and tool.hide is not None:
            given = tool.hide(given)
        if tool is not None and (tool.number_inputs or (tool.scalar_inputs and self.capture is not summarize)):
            self.inputs[step.index] = given
            return
        shown, by_reference, copied = self.capture(given)
        self.inputs[step.index] = shown
        if by_reference:
            self.refer(step.index, by_reference)
        if copied:
            if self.copied is _NOTHING_COPIED:
                self.copied = {}
            self.copied[step.index] = copied
        elif self.capture is summarize:
            self.note_objects(step.index, "inputs", given)
            self.note_secrets(given)

    def show_outputs(self, step: PlannedStep, fields: dict[str, Any]) -> None:
        """Keep container outputs for the record, before a later step can change them."""
        shown, by_reference, _ = self.capture(fields, self.copied.pop(step.index, 0))
        self.show(step, shown)
        if by_reference:
            self.refer(step.index, by_reference)
        if self.capture is summarize:
            self.note_objects(step.index, "outputs", fields)
            self.note_secrets(fields)

    def shows_slot(self, tool: PlannedTool) -> bool:
        """Whether the record of a step needs nothing of the outputs of this tool but what is in its slot."""
        return tool.number_outputs or (tool.scalar_outputs and self.capture is not summarize)

    def note_objects(self, index: int, side: str, values: dict[str, Any]) -> None:
        """Keep what the values on one side of a step are, before a summary lets go of them."""
        found = None if self.inspect is None else self.inspect(values)
        if found:
            if self.objects is _NOTHING_NOTED:
                self.objects = {}
            self.objects.setdefault(index, {}).update({f"{side}.{name}": told for name, told in found.items()})

    def note_secrets(self, values: dict[str, Any]) -> None:
        """Keep what has to be hidden in every text of the run, before a summary takes it out of sight (R39)."""
        if self.capture is summarize and self.rules.redaction is not None:
            self.root.secrets |= self.rules.redaction.secrets_in(values)

    def refer(self, index: int, names: tuple[str, ...]) -> None:
        """Note which fields the record of a step shows as live objects."""
        kept = self.references
        if kept is None:
            kept = self.references = [()] * len(self.plan.steps)
        kept[index] += names

    def referred(self, index: int) -> tuple[str, ...]:
        """The fields that the record of a step shows as live objects, each once."""
        return () if self.references is None else tuple(dict.fromkeys(self.references[index]))

    def show(self, step: PlannedStep, shown: dict[str, Any]) -> None:
        """Keep what the record of a step shows as its outputs, where that is not what is in its slot."""
        kept = self.shown
        if kept is None:
            kept = self.shown = [None] * len(self.plan.steps)
        kept[step.index] = shown

    def is_shown(self, index: int) -> bool:
        """Whether the record of a step shows other outputs than those in its slot."""
        return self.shown is not None and self.shown[index] is not None

    def shown_outputs(self, index: int) -> dict[str, Any] | None:
        """The outputs of a step as its record shows them; None where it gave none."""
        shown = None if self.shown is None else self.shown[index]
        return self.slots[index + 1] if shown is None else shown

    def note_printed(self, step: PlannedStep, reply: Any) -> Any:
        """Keep what a call has printed, if its reply or exception tells; the reply itself."""
        printed = getattr(reply, "printed_by_tool", None) if isinstance(reply, BaseException) else reply
        if not isinstance(printed, Printed):
            return reply
        self.detail(step.index).printed = printed
        value, printed.value = printed.value, None
        return value

    def fail(self, step: PlannedStep, error: ChainWeaverError) -> None:
        """Record that the step failed; its values, if it has any, do not count."""
        self.slots[step.index + 1] = None
        self.ended[step.index] = self.now_ns
        if self.is_tolerant:
            self.skip(step, error)
            return
        detail = self.detail(step.index)
        detail.status = "failed"
        detail.error = self._placed(step, error)
        self.failures.append(step.index)

    def keep(self, step: PlannedStep, merged: dict[str, Any] | None) -> None:
        """Record that the step ended; with outputs it is done."""
        self.slots[step.index + 1] = merged
        self.ended[step.index] = self.now_ns

    def skip(self, step: PlannedStep, error: ChainWeaverError) -> None:
        """Record that the step failed and that its policy is to go on without it."""
        detail = self.detail(step.index)
        detail.status = "skipped"
        detail.error = self._placed(step, error)

    def _placed(self, step: PlannedStep, error: ChainWeaverError) -> ChainWeaverError:
        """The error with the flow and the step that it belongs to, for its `where`."""
        plan = self.plan
        if self.is_map:
            where = f"flow '{plan.flow_name}' {plan.flow_version}, step '{self.path[-1]}', item {step.index}"
            return error.with_facts(where=where)
        return error.with_facts(flow_name=plan.flow_name, flow_version=plan.flow_version, step_name=step.label)

    def is_passed(self, step: PlannedStep) -> bool:
        """Whether no active edge leads to a step, all of whose needs have their outcome (R24); noted when it is so."""
        if not step.may_be_passed:
            return False
        taken, details = self.taken, self.details
        for parent in step.parents:
            target = taken.get(parent)
            if (target is None or target == step.index) and details.get(parent) is not PASSED_OVER:
                return False
        self.details[step.index] = PASSED_OVER
        return True

    def decision_of(self, step: PlannedStep) -> dict[str, Any] | None:
        """What was decided at a step, for its record: the tool that was chosen, the dependent that was taken."""
        detail = self.details.get(step.index)
        decided = None if detail is None else detail.decision
        if step.branches is None or step.index not in self.taken:
            return decided
        target = self.taken[step.index]
        return {**(decided or {}), "taken": None if target is None else self.plan.steps[target].step_id}

    def answered(self, step: PlannedStep) -> PlannedTool | None:
        """The tool that gave the outputs of a step: its own, its fallback, or the one that was chosen."""
        detail = self.details.get(step.index)
        if detail is not None and detail.fallback is not None:
            return step.fallback
        if detail is not None and detail.decision is not None:
            return step.candidates.get(detail.decision["chosen"], step.tool)
        return step.tool

    def take(self, index: int, target: int | None) -> None:
        """Note which of its dependents a branching step has chosen; None for all of them."""
        if self.taken is _NOTHING_TAKEN:
            self.taken = {}
        self.taken[index] = target

    def set_aside(self, step: PlannedStep, merged: dict[str, Any]) -> None:
        """Keep the record of a step that finished although it had become superfluous; its values do not count."""
        detail = self.detail(step.index)
        detail.status = "ok"
        detail.surplus = True
        if not self.is_shown(step.index):
            self.show(step, merged)
        self.slots[step.index + 1] = None

    def cancel(self, step: PlannedStep) -> None:
        """Record that the step was on its way when the run was told to end."""
        detail = self.detail(step.index)
        detail.status = "cancelled"
        self.slots[step.index + 1] = None
        self.ended[step.index] = self.now_ns

    # ---- what the failure policy says

    def bar(self) -> int | None:
        """The lowest plan index whose failure keeps everything after it from running; None when nothing is barred."""
        if self.failures and self.plan.stop_on_failure:
            return min(self.failures)
        return self.collided

    def is_surplus(self, step: PlannedStep) -> bool:
        """Whether a failure with a lower index has made the step superfluous."""
        bar = self.bar()
        return bar is not None and step.index > bar

    def barred(self, step: PlannedStep) -> bool:
        """Whether a run with failures must not start the step, all of whose needs are closed.

        A failure is before it in plan order, or one of its needs.
        """
        # Needs that were barred themselves have no outcome at all, and bar as well.
        return self.is_surplus(step) or any(self.status_of(need) not in _GOES_ON for need in step.needs)

    # ---- time

    def remaining_s(self) -> float | None:
        """Seconds until the deadline, not below 0; None without one."""
        if self.deadline_ns is None:
            return None
        return max(0.0, (self.deadline_ns - self.now_ns) / 1e9)

    def check_deadline(self) -> None:
        """End the run once its deadline has passed.

        Raises:
            RunCancelled: The latest reply came at or after the deadline.
        """
        if self.deadline_ns is not None and self.now_ns >= self.deadline_ns:
            raise RunCancelled("deadline")

    def invocation(self, step: PlannedStep, tool: PlannedTool, value: Any, attempt: int) -> PlainCall | Invoke:
        """The command that calls the tool: a plain pair where there is nothing more to say."""
        unlimited = tool.timeout_s is None and step.timeout_s is None and self.deadline_ns is None
        streams = self.streaming and tool.stream is not None
        if unlimited and not (tool.wants_context or streams):
            return tool, value
        context = self.context_of(step, attempt) if tool.wants_context else None
        limit_s = self.limit_s(tool.timeout_s, step.timeout_s)
        return Invoke(tool, value, context, limit_s, (self, step) if streams else None)

    def limit_s(self, *limits: float | None) -> float | None:
        """The tightest of some limits and of what is left of the run, in seconds; None without any."""
        return min((one for one in (*limits, self.remaining_s()) if one is not None), default=None)

    def context_of(self, step: PlannedStep, attempt: int) -> ToolContext:
        """What the tool may know about this attempt."""
        return ToolContext(
            run_id=self.root.trace_id(),
            flow_name=self.plan.flow_name,
            step_id=step.step_id,
            step_path=(*self.path, step.step_id),
            idempotency_key=self.idempotency_key(step),
            attempt=attempt,
            deadline=self.deadline_ns,
        )

    def idempotency_key(self, step: PlannedStep) -> str:
        """Run id and step path: the same for every attempt, also after a resume (R32)."""
        return "/".join((self.root.trace_id(), *map(segment_of, self.path), segment_of(step.step_id)))


# ---- keys

_SIGNS = str.maketrans({"~": "~0", "/": "~1", "#": "~2"})


def segment_of(step_id: str, attempt: int = 1) -> str:
    """A step as a part of a key; signs that keys are made of are written otherwise, so that no two keys meet.

    >>> segment_of("fetch"), segment_of("fetch", 2), segment_of("a/b#2")
    ('fetch', 'fetch#2', 'a~1b~22')
    """
    escaped = step_id.translate(_SIGNS)
    return escaped if attempt == 1 else f"{escaped}#{attempt}"


def step_id_of(segment: str) -> str:
    """The step that a part of a key stands for, whatever the attempt.

    >>> step_id_of("a~1b~22#3")
    'a/b#2'
    """
    return segment.partition("#")[0].replace("~2", "#").replace("~1", "/").replace("~0", "~")


def attempt_of(segment: str) -> int:
    """The attempt that a part of a key stands for.

    >>> attempt_of("fetch"), attempt_of("a~1b~22#3")
    (1, 3)
    """
    return int(segment.partition("#")[2] or 1)
