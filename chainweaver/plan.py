"""The plan: everything about a flow that can be known before it runs, bound and frozen.

A `Plan` is built by `chainweaver.compiler` and read by `chainweaver._execution`. It holds plain data and bound
callables (validators, readers, tool functions, fingerprint functions) without knowing whence they came; nothing here
runs, waits, looks anything up or imports a room above. One plan serves any number of runs, from any thread or task.

Values of a run live in slots: slot 0 is the initial context, slot `i + 1` the merged output of step `i` in plan order,
the last slot the dynamic parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from chainweaver.exceptions import ChainWeaverError

Slots: TypeAlias = "list[dict[str, Any] | None]"
Reader: TypeAlias = "Callable[[Slots], dict[str, Any]]"
Validate: TypeAlias = "Callable[[Any], Any]"

ASIDE = "aside"
"""Lane of what is called like a tool and is none: the thread of the run, or one of ours; others are for tools only."""


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool may know about the call it serves.

    A tool receives one when its function has a parameter `context: ToolContext`.

    Attributes:
        run_id: Trace id of the run, 32 hex characters.
        flow_name: Name of the flow.
        step_id: Id of the step (its position as text in a linear flow).
        step_path: Position in nested runs, outermost first, e.g. `("fetch",)`.
        idempotency_key: Stable over retries and resumes of one step of one run: `run_id/step_path`.
        attempt: Number of this attempt, 1-based.
        deadline: Monotonic time in nanoseconds by which the call must have ended, or None.
    """

    run_id: str
    flow_name: str
    step_id: str
    step_path: tuple[str, ...]
    idempotency_key: str
    attempt: int
    deadline: int | None = None


@dataclass(frozen=True, slots=True)
class ItemError:
    """Stands in the outputs of a map for an item that failed (`on_item_error="collect"`).

    Attributes:
        index: Position of the item.
        error_type: Class of the error, as the record of the item has it.
        error_code: Its code, such as "E006".
        message: What it says.
    """

    index: int
    error_type: str
    error_code: str
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class PlannedTool:
    """A tool as one step calls it: its function and the gates around it, bound.

    Attributes:
        fn: Called with the validated input model, and with a `ToolContext` when `wants_context`.
        inline: The sync lane may call `fn` in the running thread (a plain function without a lane of its own).
        lane: Lane that the author asked for, None for the default of the running lane.
        validate_input: `dict -> input model`; raises pydantic's `ValidationError`.
        validate_output: `dict | model -> output model`; likewise.
        open_output: `output model -> dict` of the values by identity, for every kind of model.
        foreign_fields: The values of an instance of another model class, None for everything else.
        direct_output: A freshly validated model's `__dict__` is already that dict.
        scalar_inputs, scalar_outputs: Nobody can change what any field holds, so records need no copies.
        number_inputs, number_outputs: Every field is a number or a flag, so there is nothing to sum up either.
        fingerprint: `input model -> digest`, or raises with the reason why there is none.
        schema_hash: Gives the schema hash that enters cache keys, author's version included; computed on demand.
        output_model: The class behind `validate_output`, for stores that bring values back to their declared types.
        output_size: `output model -> bytes` of its JSON form.
        secret_outputs: Outputs that no store may see.
        hide: `inputs -> inputs` for views, in which what the input model declares secret is wrapped; None without any.
        safety: The declared safety contract, None where there is none.
        dry: What stands in during a dry run, None when there is nothing that could.
        stream: `input model -> async iterator of chunks`, for tools that report while they work.
        origin: The registered tool; a lane that calls it elsewhere looks for a name of it.
        hand_back: `what was returned, input model -> output model, its values`, in place of `validate_output`: objects
            that the tool was given, and that were validated as what it returns, are not validated again.
        streams: The fields, of its inputs and its outputs, that hold streams.
    """

    name: str
    fn: Callable[..., Any]
    is_async: bool
    inline: bool
    lane: Any
    wants_context: bool
    timeout_s: float | None
    max_output_size: int | None
    cacheable: bool
    validate_input: Validate
    validate_output: Validate
    open_output: Callable[[Any], dict[str, Any]]
    foreign_fields: Callable[[Any], dict[str, Any] | None]
    direct_output: bool
    scalar_inputs: bool
    scalar_outputs: bool
    number_inputs: bool
    number_outputs: bool
    fingerprint: Callable[[Any], str]
    schema_hash: Callable[[], str]
    output_model: Any
    output_size: Callable[[Any], int]
    secret_outputs: tuple[str, ...]
    hide: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    safety: Any = None
    dry: PlannedTool | None = None
    stream: Callable[[Any], Any] | None = None
    origin: Any = None
    hand_back: Callable[[Any, Any], tuple[Any, dict[str, Any]]] | None = None
    streams: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedRetry:
    """A retry policy with its error names resolved.

    Attributes:
        max_retries: Attempts after the first one.
        delay_s: Seconds before retry n (1-based).
        retryable: Exception classes that are retried.
        named_refusals: Those of them that name schema violations or size caps, which are otherwise never retried.
        jitter: The lane scales each delay by a random factor from the run's seeded source.
    """

    max_retries: int
    delay_s: Callable[[int], float]
    retryable: tuple[type[BaseException], ...]
    named_refusals: tuple[type[BaseException], ...]
    jitter: bool


class Edge(NamedTuple):
    """A way out of a branching step.

    Attributes:
        holds: The compiled predicate, asked of the slots once the step has its outputs.
        target: Position of the dependent.
        predicate: Its text, for messages.
    """

    holds: Callable[[Slots], bool]
    target: int
    predicate: str


@dataclass(frozen=True, slots=True)
class Branches:
    """How a step chooses which of its dependents go on.

    Attributes:
        edges: In the order in which they are asked; the first that holds is taken.
        default: Position of the dependent that goes on when none holds; None: all of them.
    """

    edges: tuple[Edge, ...]
    default: int | None


@dataclass(frozen=True, slots=True, eq=False)
class PlannedMap:
    """How a step runs once per item.

    Attributes:
        items_of: What the step read -> the items, in order; raises `KeyMissing`.
        read_item: (what the step read, one item) -> the inputs of its call; raises `KeyMissing`.
        step: The step that is run per item; it gets a position of its own for each.
        plan: A plan without steps, from which the plan of the items is made.
        limit: How many items run at once; None: as the run says.
        on_item_error: "fail", "skip" or "collect".
        keys: The output keys that are there also when there is no item.
        is_open: Items may give other keys as well: of an open model, of a fallback or of a tool that was chosen.
    """

    items_of: Callable[[dict[str, Any]], Any]
    read_item: Callable[[dict[str, Any], Any], dict[str, Any]]
    step: PlannedStep
    plan: Plan
    limit: int | None
    on_item_error: str
    keys: tuple[str, ...]
    is_open: bool


@dataclass(frozen=True, slots=True, eq=False)
class PlannedChunks:
    """How a step takes one of its inputs in chunks.

    Attributes:
        key: The input.
        pieces: `value -> one pass over it`, an object with `following`, `combined` and `close`; see `objects.chunks`.
        end: What `following` gives when there is no further chunk.
        perform: Stands for a tool and calls what it is given: reading a chunk is work for a lane.
        merge: The tool that combines the outputs; None where `combined` does.
    """

    key: str
    pieces: Callable[[Any], Any]
    end: Any
    perform: PlannedTool
    merge: PlannedTool | None


@dataclass(frozen=True, slots=True, eq=False)
class PlannedStreams:
    """What a step, or the input of a flow, has to do with streams; what these are, `objects.streams` knows.

    Attributes:
        takes: The inputs, as they are read, that hold streams.
        gives: The outputs of its tools that do.
        opened: `values, names -> the same values, the streams among them`; sources are made streams.
        is_begun: `values, names -> whether one of these streams was read from`.
        tie: `streams, others`: have the first closed after the others, which are made of them.
        closing: `streams -> what stands for a tool and closes them`.
    """

    takes: tuple[str, ...]
    gives: tuple[str, ...]
    opened: Callable[[Any, tuple[str, ...]], tuple[Any, list[Any]]]
    is_begun: Callable[[Mapping[str, Any], tuple[str, ...]], bool]
    tie: Callable[[Sequence[Any], Sequence[Any]], None]
    closing: Callable[[Sequence[Any]], PlannedTool]


@dataclass(frozen=True, slots=True, eq=False)
class PlannedStep:
    """One step in plan order, bound to the slots it reads and the tool it calls.

    Attributes:
        index: Position in plan order; its values land in slot `index + 1`.
        name: What records call the step: the name of its primary tool.
        label: What messages call it: the id of a DAG step, the tool of a linear one.
        level: Longest path from an entry step.
        needs, feeds: Steps it waits for and steps that wait for it, as ascending indexes.
        parents: Those of `needs` that its author named; the others are there for a value only.
        may_be_passed: A branch before it may lead elsewhere.
        read: `slots -> inputs`; raises `KeyMissing`.
        tool: The primary tool, None when it is not registered (then `fault` says so).
        fault: Makes the error with which the step fails when the run reaches it; None for a sound step.
        on_error: "fail", "skip" or "fallback".
        rename: `(context key, output key)` pairs applied at the merge, None for all outputs under their own names.
        rivals: Steps that may write a key of this one and so decide, by plan order, whether it collides. Siblings of
            one level always; under the collision policy "error" every earlier writer.
        guards_input: Under the collision policy "error" the initial context counts as a rival too.
        dynamic_fields: Inputs that are fed by dynamic parameters and therefore never shown.
        branches: How it chooses among its dependents; None when all of them go on.
        candidates: Name -> tool for a step whose tool is decided while it runs; empty for others.
        rank: How many deciding steps there are before it.
        child: The plan of the sub-flow that it runs; `tool` then stands for that flow.
        each: How it runs once per item; None for a step that runs once.
        capability: What an outside capability has to perform in place of a tool.
        chunks: How it takes an input in chunks; None for a step that takes all its inputs as they are.
        streams: What it has to do with streams; None for nearly all.
        plain: No policy of any kind: the step may take the short path.
        mutates: The inputs, as they are read, that its tools declare to change in place.
        watched: The inputs, as they are read, in which a change would matter to others, each with its context key;
            worked out on first use.
    """

    index: int
    step_id: str
    name: str
    label: str
    level: int
    needs: tuple[int, ...]
    feeds: tuple[int, ...]
    read: Reader
    tool: PlannedTool | None
    fallback: PlannedTool | None
    fault: Callable[[], ChainWeaverError] | None
    retry: PlannedRetry | None
    on_error: str
    timeout_s: float | None
    rename: tuple[tuple[str, str], ...] | None
    check_inputs: Validate | None
    check_outputs: Validate | None
    rivals: tuple[int, ...]
    guards_input: bool
    dynamic_fields: tuple[str, ...]
    plain: bool
    fingerprint: Callable[[], str]
    parents: tuple[int, ...]
    may_be_passed: bool
    branches: Branches | None
    candidates: Mapping[str, PlannedTool]
    rank: int
    child: Plan | None
    capability: str | None
    each: PlannedMap | None = None
    chunks: PlannedChunks | None = None
    streams: PlannedStreams | None = None
    mutates: tuple[str, ...] = ()
    watched: Callable[[], tuple[tuple[str, str], ...]] = tuple

    @property
    def number(self) -> int:
        """The position that people are told in errors."""
        return self.index


class Row(NamedTuple):
    """What the short path needs of a step, in the order in which it needs it.

    A tuple: unpacking one costs a quarter of the attribute reads that it saves.

    Attributes:
        extra: The step renames its outputs, branches, or may be passed over by a branch.
        scalars: Its record shows inputs and outputs as they are.
    """

    step: PlannedStep
    plain: bool
    extra: bool
    read: Reader
    validate_input: Validate
    tool: PlannedTool
    validate_output: Validate
    scalars: bool
    direct: bool


@dataclass(frozen=True, slots=True)
class Gate:
    """A flow-level schema, bound.

    Attributes:
        validate: `dict -> instance`; raises pydantic's `ValidationError`.
        open: `instance -> dict` of its values.
        hide: As for a tool.
    """

    model: Any
    validate: Validate
    open: Callable[[Any], dict[str, Any]]
    hide: Callable[[dict[str, Any]], dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """What a checkpoint notes about the plan of its run.

    Attributes:
        heads: Index, id, name and fingerprint of each step: what the checkpoint of every run says of it.
        tool_hashes: Schema hash by tool name.
        step_fingerprints: Fingerprint by step id; of nested steps that run steps themselves, by `nested_place`.
        level_sizes: How many steps each level has.
        output_mappings: Output mapping by step id, for steps that have one.
        reduces: What makes outputs plain, by output model; bound by the first run that keeps such outputs.
    """

    heads: tuple[tuple[int, str, str, str], ...]
    tool_hashes: dict[str, str]
    step_fingerprints: dict[str, str]
    level_sizes: tuple[int, ...]
    output_mappings: dict[str, dict[str, str]]
    reduces: dict[Any, Callable[[dict[str, Any]], dict[str, Any]]] = field(default_factory=dict)


def nested_place(step_ids: Sequence[str]) -> str:
    """What a step is called among the fingerprints of a plan: by its id, or by the ids on the way to it.

    >>> nested_place(["parcels"]), nested_place(["parcels", "weigh"])
    ('parcels', '/parcels/weigh')
    """
    return step_ids[0] if len(step_ids) == 1 else "/" + "/".join(step_ids)


class LiveRange(NamedTuple):
    """Values that are needed until the same steps have ended.

    Attributes:
        slot: Where they are.
        keys: Their context keys; None: all those in the slot that are not among `others`.
        others: The keys of the slot that other ranges name.
        readers: After the last of these steps, in whatever order they end, nobody needs the values; ascending, and
            without those that one of the others waits for. Empty: nobody ever does. None: they are needed to the end.
    """

    slot: int
    keys: tuple[str, ...] | None
    others: frozenset[str]
    readers: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Liveness:
    """How long values are needed (R37).

    Attributes:
        ranges: All values, those of one slot next to each other.
        awaiting: Per step, the positions of the ranges whose readers it is among.
        compared: Per step, the sub-flow steps that write keys which it may write as well: what they merely handed back
            is told apart from what they changed (R27) while the values are there.
        written: Per slot, the keys that are known by name.
    """

    ranges: tuple[LiveRange, ...]
    awaiting: tuple[tuple[int, ...], ...]
    compared: Mapping[int, tuple[int, ...]]
    written: tuple[frozenset[str], ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Plan:
    """A compiled flow.

    Attributes:
        digest: Content digest of the definition, 32 hex characters.
        steps: In plan order: level, then declaration.
        rows, summary_rows: What the short path needs of each step; the second where records show summaries.
        input_gate: Validates the flow's input; its values overlay the given ones.
        context_gate, output_gate: Validate the merged context and the final output; neither projects.
        collision_policy: "overwrite", "warn" or "error".
        stop_on_failure: `on_failure="stop"`; otherwise all that does not depend on a failure runs.
        outputs: The keys of the final output; None for the whole context.
        project: Merged context -> final output, None for the whole context.
        dynamic_params: Names that callers may pass beside the input.
        inline_lanes: The lanes, None or "inline", that the tools name which may be called in the running thread.
        has_processes: A tool that it may call names the lane "process".
        empty_slots: What follows slot 0 at the beginning of a run: None per step, and no dynamic parameters.
        is_chain: Each step waits for the one before it, so that no two ever overlap, whatever the limit.
        is_inline: Each step is plain and its tool insists on the running thread, so that none can overlap with another.
        need_counts, entries: How many steps each one waits for, and those that wait for none.
        names: Step id -> position.
        children: Name and version of every sub-flow that it reaches.
        unpinned: Those of them that are named without a version.
        composition: Makes the errors of sub-flows that do not fit together; such a plan is never started.
        streams: What its input has to do with streams; None for nearly all.
        secret_inputs: Keys of its input that a tool takes as a secret, which no store may see.
        needs_schedule: It has a map whose items overlap whatever the limit of the run is.
        facts: What a checkpoint notes; worked out on first use, since most plans never need it.
        liveness: How long values are needed; likewise.
    """

    flow_name: str
    flow_version: str
    digest: str
    steps: Sequence[PlannedStep]
    rows: Sequence[Row]
    summary_rows: Sequence[Row]
    empty_slots: Slots
    is_chain: bool
    is_inline: bool
    need_counts: Sequence[int]
    entries: Sequence[int]
    input_gate: Gate | None
    context_gate: Gate | None
    output_gate: Gate | None
    collision_policy: str
    stop_on_failure: bool
    project: Callable[[Mapping[str, Any]], dict[str, Any]] | None
    dynamic_params: tuple[str, ...]
    inline_lanes: frozenset[str | None]
    has_processes: bool
    names: Mapping[str, int]
    facts: Callable[[], PlanFacts]
    liveness: Callable[[], Liveness]
    outputs: tuple[str, ...] | None = None
    children: tuple[tuple[str, str], ...] = ()
    unpinned: tuple[tuple[str, str], ...] = ()
    composition: tuple[Callable[[], ChainWeaverError], ...] = ()
    needs_schedule: bool = False
    streams: PlannedStreams | None = None
    secret_inputs: tuple[str, ...] = ()

    def peak_memory(self, sizes: Mapping[str, int]) -> PeakMemory:
        """The most bytes of values that a run of this plan holds at once, and the step during which it does.

        For runs that let go of their values (`Flow.outputs` and `trace_values="summary"`) with one step at a time
        (`max_step_concurrency=1`) of which none is skipped; it holds what a step is given until it has ended, what it
        gives from then on, and both while it runs. Values are counted for themselves: one that is handed on under
        another key counts again, and so does what a tool needs beside them.

        Args:
            sizes: Context key -> bytes of its value, at every step that writes it. Keys without a size count nothing.

        Raises:
            ValueError: A size is below 0.

        >>> from chainweaver import Flow, FlowStep, Native, compile_flow, tool
        >>> @tool(output="small")
        ... def halve(big: Native[bytes]) -> Native[bytes]:
        ...     return big[::2]
        >>> @tool(output="count")
        ... def weigh(small: Native[bytes]) -> int:
        ...     return len(small)
        >>> steps = [FlowStep(tool_name="halve"), FlowStep(tool_name="weigh")]
        >>> flow = Flow(name="f", description="d", steps=steps, outputs=["count"])
        >>> compile_flow(flow, [halve, weigh]).plan.peak_memory({"big": 100, "small": 50})
        PeakMemory(nbytes=150, step_index=0, step_id='0')
        """
        return _peak_of(self, sizes)

    def __repr__(self) -> str:
        # What is bound in a plan has nothing to show, and a thousand steps would hide the rest.
        return f"Plan({self.flow_name!r}, {self.flow_version!r}, {len(self.steps)} step(s))"


class PeakMemory(NamedTuple):
    """The most that a run holds at once.

    Attributes:
        nbytes: Bytes of all values that are held then.
        step_index: The first step during which that is so, in plan order; -1 before the first step.
        step_id: Its id; None before the first step.
    """

    nbytes: int
    step_index: int
    step_id: str | None


class KeyMissing(LookupError):
    """A reader found no value for a key.

    Attributes:
        key: The key, pointer or template reference as the mapping spells it.
        known: Keys that there are at that place.
    """

    def __init__(self, key: str, known: tuple[str, ...] = ()) -> None:
        super().__init__(key)
        self.key = key
        self.known = known


class NoFingerprint(Exception):
    """A value that no fingerprint can stand for; the text says which and why."""


def _peak_of(plan: Plan, sizes: Mapping[str, int]) -> PeakMemory:
    """Go through the plan in order, with sizes in place of values."""
    below = [f"{key!r} ({size})" for key, size in sizes.items() if size < 0]
    if below:
        raise ValueError(f"sizes have to be at least 0; below are those of {', '.join(below)}.")
    liveness = plan.liveness()
    written = frozenset[str]().union(*liveness.written[1:])
    # What nobody writes can only have been given.
    keys = [liveness.written[0] | (sizes.keys() - written), *liveness.written[1:]]
    bytes_of = [sum(sizes.get(key, 0) for key in _keys_in(one, keys[one.slot])) for one in liveness.ranges]
    left = [len(one.readers or ()) for one in liveness.ranges]
    held = sum(size for one, size in zip(liveness.ranges, bytes_of, strict=True) if one.slot == 0 and one.readers != ())
    peak = PeakMemory(held, -1, None)
    for step in plan.steps:
        held += sum(sizes.get(key, 0) for key in keys[step.index + 1])
        if held > peak.nbytes:
            peak = PeakMemory(held, step.index, step.step_id)
        for at in liveness.awaiting[step.index]:
            left[at] -= 1
            if not left[at]:
                held -= bytes_of[at]
    return peak


def _keys_in(one: LiveRange, known: frozenset[str]) -> frozenset[str]:
    return known - one.others if one.keys is None else known.intersection(one.keys)
