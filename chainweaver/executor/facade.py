"""`FlowExecutor`: what applications hold.

It keeps settings and listeners, and says what its methods promise. Which plan a call has to run is found by `plans`,
how a run begins, is carried and ends is in `runs`. What happens in a run is decided by `_execution`, how a command is
performed by `lanes`.
Rooms that a program may never need are imported when they are needed, so that importing this one stays cheap.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from chainweaver.exceptions import (
    FlowAlreadyExistsError,
    FlowCompileError,
    ToolNotFoundError,
)
from chainweaver.executor.call import (
    Call,
    ReplayMode,
    check_input,
    check_token,
    checked_deadline,
    checked_id,
    rehearsal,
)
from chainweaver.executor.durable import KeyTaken, Recovered, calling_on, needed
from chainweaver.executor.plans import Plans
from chainweaver.executor.settings import (
    check_count,
    check_flag,
    check_has,
    check_lane,
    check_middleware,
    check_settings,
    check_tool,
    listed,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

    from typing_extensions import Self

    from chainweaver.cache import StepCache
    from chainweaver.checkpoint import Checkpointer, ExecutionSnapshot
    from chainweaver.executor.replay import Replay, ReplayResult
    from chainweaver.executor.runs import Begun, Runs
    from chainweaver.executor.upgrade import Verdict
    from chainweaver.flow import AnyFlow, DriftInfo, SchemaRefPolicy
    from chainweaver.flow.callbacks import (
        ApprovalCallback,
        CapabilityHook,
        DecisionCallback,
        DecisionPolicy,
        GuardrailCallback,
    )
    from chainweaver.flow.safety import SideEffectLevel
    from chainweaver.lanes.cancel import CancellationToken
    from chainweaver.observe import CostProfile, FlowEvent, Listeners, RedactionPolicy
    from chainweaver.plan import Plan
    from chainweaver.registry import FlowRegistry
    from chainweaver.results import ExecutionPlan, ExecutionResult
    from chainweaver.runtime import Runtime
    from chainweaver.tools import Tool

CallOptions: TypeAlias = "tuple[float | None, CancellationToken | None, Mapping[str, Any] | None, str | None]"
"""Deadline, token, dynamic parameters and lane of a call."""

TraceValues = Literal["snapshot", "reference", "summary"]
DeviceCaches = Literal["never", "run_end", "pressure"]


class FlowExecutor:
    """Compiles flows once and runs them, on a sync and on an async lane.

    **Concurrency contract.** One executor may run any number of flows at once, from threads and from tasks; it needs no
    lock around it. Registering tools, flows or middleware while runs are going on is safe: a run keeps the plan, the
    tools and the listeners that it started with, and the next run sees the new ones. `close()` is for the end: calls
    that come later make their threads anew. Tools are called from whatever thread a lane uses, so a tool that changes
    state of its own has to guard it.

    Args:
        registry: The flows. None: a registry of its own.
        tools: Tools to register.
        flows: Flows to register. One that the registry or its store has already is left alone, with its status, when
            it runs the same; a program may give its flows at each start.
        cost_profile: Prices, for `result.cost_report`.
        redaction_policy: What records, nested results, contexts of middleware and reports do not show.
        trace_recorder: Keeps the results of runs; it watches after all other middleware.
        middleware: Objects that watch runs, or wrap them, in this order.
        step_cache: Keeps the outputs of steps between runs.
        checkpointer: Keeps runs step by step, so that they can be resumed.
        delete_on_success: Remove the checkpoint of a run that ended well.
        decision_callback: Chooses the tool of steps with `decision_candidates`.
        decision_policy: How long and how often it is asked, and what holds without an answer.
        approval_callback: Agrees to calls of tools that require an approval.
        strict_safety: Refuse tools that declare no safety contract.
        max_side_effect_level: Refuse tools that declare stronger effects.
        guardrail_callback: Looks at the inputs and outputs of every step.
        capability_hook: Performs the steps of type "capability".
        max_composition_depth: How many flows deep sub-flows may go.
        max_step_concurrency: How many tools one run may call at the same time. 1: strictly one after the other, in plan
            order. Above: steps overlap, in worker threads on the sync lane, in tasks on the async one.
        lane: Lane of tools that name none: "inline" (the running thread), "thread" or "process".
        lanes: Name -> object with `submit(fn, *args) -> concurrent.futures.Future`, for tools that name such a lane.
        process_workers: Most worker processes at a time. None: as many as there are processors to run on.
        min_shared_bytes: Objects from this many bytes on reach worker processes through shared memory.
        placement: Where workers run on a machine with several memory nodes: "spread" over them, or "compact", filling
            one after the other. None: anywhere.
        capture_output: Records show what tools in worker processes print; otherwise it goes where the program prints.
        runtime: Clock, ids and random numbers.
        trace_values: What records keep: "snapshot" copies plain containers within `trace_copy_limit`, "reference"
            copies nothing, "summary" keeps type and size only.
        trace_copy_limit: How many items a snapshot copies per step.
        on_shared_mutation: "detect" compares what steps are given before and after each call, by content, and fails a
            step that has changed a value which others look at and which its tool does not declare to change. It takes
            time in proportion to the size of the values. "ignore" does not look.
        strict_compile: Refuse a flow with compile errors before it starts, instead of failing the step that has one.
        discover_plugins: Also register the tools and flows that installed packages offer; those that are given here, or
            are in the registry already, come first.
        device_caches: When frameworks give unused memory of devices back (`release_device_caches`): "never"; at every
            "run_end"; at the end of a run under "pressure", when less than a tenth of the memory of a device is free.
        schema_ref_policy: Which classes flows may name; that of the registry holds as well. None: that one alone.

    Raises:
        TypeError, ValueError: A setting is not what it has to be.
        FlowAlreadyExistsError: The registry or its store has another flow of that name and version.

    >>> from chainweaver import Flow, FlowExecutor, FlowStep, tool
    >>> @tool
    ... def double(n: int) -> int:
    ...     return 2 * n
    >>> flow = Flow(name="twice", description="Doubles a number.", steps=[FlowStep(tool_name="double")])
    >>> with FlowExecutor(tools=[double], flows=[flow]) as executor:
    ...     executor.execute_flow("twice", {"n": 21}).final_output
    {'n': 21, 'double': 42}
    """

    def __init__(
        self,
        registry: FlowRegistry | None = None,
        *,
        tools: Iterable[Tool] = (),
        flows: Iterable[AnyFlow] = (),
        cost_profile: CostProfile | None = None,
        redaction_policy: RedactionPolicy | None = None,
        trace_recorder: object | None = None,
        middleware: Sequence[object] | None = None,
        step_cache: StepCache | None = None,
        checkpointer: Checkpointer | None = None,
        delete_on_success: bool = True,
        decision_callback: DecisionCallback | Callable[..., Any] | None = None,
        decision_policy: DecisionPolicy | None = None,
        approval_callback: ApprovalCallback | Callable[..., Any] | None = None,
        strict_safety: bool = False,
        max_side_effect_level: SideEffectLevel | str | None = None,
        guardrail_callback: GuardrailCallback | Callable[..., Any] | None = None,
        capability_hook: CapabilityHook | Callable[..., Any] | None = None,
        max_composition_depth: int = 10,
        max_step_concurrency: int = 1,
        lane: str | None = None,
        lanes: Mapping[str, Any] | None = None,
        process_workers: int | None = None,
        min_shared_bytes: int = 262_144,
        placement: Literal["spread", "compact"] | None = None,
        capture_output: bool = False,
        runtime: Runtime | None = None,
        trace_values: TraceValues = "snapshot",
        trace_copy_limit: int = 64,
        on_shared_mutation: Literal["ignore", "detect"] = "ignore",
        strict_compile: bool = False,
        discover_plugins: bool = False,
        schema_ref_policy: SchemaRefPolicy | None = None,
        device_caches: DeviceCaches = "never",
    ) -> None:
        import threading

        settings = {
            "cost_profile": cost_profile,
            "redaction_policy": redaction_policy,
            "trace_recorder": trace_recorder,
            "middleware": listed("middleware", middleware, "on_flow_start"),
            "step_cache": step_cache,
            "checkpointer": checkpointer,
            "delete_on_success": delete_on_success,
            "decision_callback": decision_callback,
            "decision_policy": decision_policy,
            "approval_callback": approval_callback,
            "strict_safety": strict_safety,
            "max_side_effect_level": max_side_effect_level,
            "guardrail_callback": guardrail_callback,
            "capability_hook": capability_hook,
            "max_composition_depth": max_composition_depth,
            "max_step_concurrency": max_step_concurrency,
            "lane": lane,
            "lanes": {} if lanes is None else lanes,
            "process_workers": process_workers,
            "min_shared_bytes": min_shared_bytes,
            "placement": placement,
            "capture_output": capture_output,
            "runtime": runtime,
            "trace_values": trace_values,
            "trace_copy_limit": trace_copy_limit,
            "on_shared_mutation": on_shared_mutation,
            "strict_compile": strict_compile,
            "schema_ref_policy": schema_ref_policy,
            "device_caches": device_caches,
        }
        check_settings(settings)
        check_flag("discover_plugins", discover_plugins)
        if registry is None:
            from chainweaver.registry import FlowRegistry

            registry = FlowRegistry()
        check_has("registry", registry, ("register_flow", "snapshot"), "FlowRegistry()")
        self._settings: dict[str, Any] = {**settings, "lanes": dict(lanes or {})}
        self._write = threading.Lock()
        given = {check_tool(tool).name: tool for tool in listed("tools", tools, "input_schema")}
        self._plans = Plans(registry, {**_plugged_in(discover_plugins), **given}, self._settings)
        self._bound: Runs | None = None
        self._listeners: Listeners | None = None
        self._listen_to(self._settings["middleware"])
        for flow in listed("flows", flows, "steps"):
            _register(registry, flow)
        if discover_plugins:
            registry.load_plugins()

    @property
    def registry(self) -> FlowRegistry:
        """The flows."""
        return self._plans.registry

    # ---- tools and listeners, copy-on-write

    @property
    def registered_tools(self) -> dict[str, Tool]:
        """Name -> tool; a copy."""
        return dict(self._plans.tools)

    def register_tool(self, tool: Tool) -> None:
        """Add a tool, or replace the one of that name; runs that are going on keep theirs."""
        with self._write:
            self._plans.tools = {**self._plans.tools, check_tool(tool).name: tool}

    def get_tool(self, name: str) -> Tool:
        """The registered tool of this name.

        Raises:
            ToolNotFoundError: There is none.
        """
        found = self._plans.tools.get(name)
        if found is None:
            raise ToolNotFoundError(name, known=sorted(self._plans.tools))
        return found

    def add_middleware(self, middleware: object) -> None:
        """Let one more object watch the runs that start from now on."""
        check_middleware(middleware)
        with self._write:
            self._listen_to((*self._settings["middleware"], middleware))

    def remove_middleware(self, middleware: object) -> None:
        """Let an object watch no longer; runs that are going on are watched to their end.

        Raises:
            ValueError: It does not watch.
        """
        with self._write:
            left = [one for one in self._settings["middleware"] if one is not middleware]
            if len(left) == len(self._settings["middleware"]):
                raise ValueError(f"{middleware!r} is no middleware of this executor.")
            self._listen_to(tuple(left))

    def _listen_to(self, middleware: tuple[object, ...]) -> None:
        self._settings["middleware"] = middleware
        self._listeners = None
        watching = self._watching()
        if watching:
            from chainweaver.observe import Listeners

            self._listeners = Listeners(watching) or None
        if self._bound is not None:
            self._bound.heed(watching)

    def _watching(self) -> tuple[object, ...]:
        """All that watch runs, the recorder last, each with the view that the redaction policy leaves it."""
        recorder, policy = self._settings["trace_recorder"], self._settings["redaction_policy"]
        watching: tuple[object, ...] = self._settings["middleware"]
        if recorder is not None:
            watching = (*watching, recorder)
        if policy is None:
            return watching
        from chainweaver.executor.rules import shown_to

        return tuple(shown_to(one, policy) for one in watching)

    def with_replaced_tools(self, tools: Iterable[Tool], **settings: Any) -> FlowExecutor:
        """An executor with the same flows and settings, in which these tools replace those of the same names.

        Args:
            settings: Arguments of the constructor that are to be others than here, such as `step_cache=None`.
        """
        replaced = {**self._plans.tools, **{check_tool(tool).name: tool for tool in tools}}
        return FlowExecutor(tools=replaced.values(), **{"registry": self.registry, **self._settings, **settings})

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that the executor was made with, apart from its registry, tools and flows; a copy."""
        return dict(self._settings)

    # ---- running

    def execute_flow(
        self,
        name: str,
        initial_input: Mapping[str, Any],
        *,
        version: str | None = None,
        force: bool = False,
        deadline: float | None = None,
        cancel_token: CancellationToken | None = None,
        dry_run: bool = False,
        dry_run_unsupported: Literal["skip", "abort"] = "skip",
        dynamic_params: Mapping[str, Any] | None = None,
        lane: str | None = None,
        key: str | None = None,
    ) -> ExecutionResult:
        """Run a flow on the sync lane.

        Args:
            name: Name of the flow.
            initial_input: Context key -> value.
            version: Version of the flow. None: the highest.
            force: Run it whatever its status.
            deadline: When the run has to have ended, in seconds as `time.time()` gives them.
            cancel_token: Ends the run when it is cancelled.
            dry_run: Rehearse: call the `dry_run_fn` of each tool and not the tool. Nothing is cached or checkpointed.
            dry_run_unsupported: What a dry run does at a tool that has none: "skip" the step and those that need it,
                or "abort", which fails it.
            dynamic_params: Values for the flow's `dynamic_params`; they appear in no record and no output.
            lane: Lane of tools that name none, in this run: "inline", "thread", "process" or a name from `lanes`. None:
                as the executor was told.
            key: A name for the run that no other run has, such as "invoice-17". Where a run has it already, that run
                is gone on with, or its result returned again. Needs a checkpointer that processes share
                (`chainweaver.sql`).

        Returns:
            The result, also for a run that failed: look at `success`, or call `raise_for_failure()`.

        Raises:
            FlowNotFoundError, FlowStatusError, DAGDefinitionError: Nothing was started.
            DynamicParameterError, TypeError, ValueError: An argument is not what it has to be; nothing was started.
            LaneUnsupportedError: The flow has constructs that this lane cannot run; nothing was started.
            FlowCompileError: `strict_compile` is set and the flow has errors; nothing was started.
            RunKeyError: The run that has the key is of another flow, or was begun with another input.
            RunClaimedError: The run that has the key is being executed.
            CheckpointDriftError: The run that has the key has executed steps that are not what they were.
            RunClaimLostError: Another process took the run over; it carries the result so far.
            FlowCancelledError: The token was cancelled or the deadline passed; it carries the result so far.
            ContextKeyCollisionError: Under the collision policy "error"; it carries the result so far.
        """
        prepared = self._plans.prepare(name, version)
        if not prepared.admitted:
            self._plans.admit(prepared, force, "sync")
        runs = self._bound or self._bind()
        call = None
        if dry_run or not (
            deadline is None and cancel_token is None and dynamic_params is None and lane is None and key is None
        ):
            dry = rehearsal(dry_run, dry_run_unsupported)
            call = Call(prepared.plan, deadline, cancel_token, dynamic_params, lane, self._settings["lanes"], dry, key)
        try:
            begun = runs.begin(prepared.plan, initial_input, self._listeners, call)
        except KeyTaken as taken:
            options = (deadline, cancel_token, dynamic_params, lane)
            runs, begun = self._go_on(taken.trace_id, force, None, "sync", options, asks=True)
        del initial_input  # a run may let go of its values, and this frame lasts as long as the run
        return runs.carry_sync(*begun)

    async def execute_flow_async(
        self,
        name: str,
        initial_input: Mapping[str, Any],
        *,
        version: str | None = None,
        force: bool = False,
        deadline: float | None = None,
        cancel_token: CancellationToken | None = None,
        dry_run: bool = False,
        dry_run_unsupported: Literal["skip", "abort"] = "skip",
        dynamic_params: Mapping[str, Any] | None = None,
        lane: str | None = None,
        key: str | None = None,
    ) -> ExecutionResult:
        """Run a flow on the async lane, under asyncio or trio; arguments, result and errors as for `execute_flow`.

        Raises:
            AsyncLaneUnsupportedError: The flow has constructs that this lane cannot run; nothing was started.
        """
        prepared = self._plans.prepare(name, version)
        self._plans.admit(prepared, force, "async")
        runs = self._bound or self._bind()
        dry = rehearsal(dry_run, dry_run_unsupported)
        call = Call(prepared.plan, deadline, cancel_token, dynamic_params, lane, self._settings["lanes"], dry, key)
        try:
            begun = await runs.begin_async(prepared.plan, initial_input, self._listeners, call)
        except KeyTaken as taken:
            options = (deadline, cancel_token, dynamic_params, lane)
            runs, begun = self._go_on(taken.trace_id, force, None, "async", options, asks=True)
        del initial_input  # as in execute_flow
        return await runs.carry_async(*begun)

    def resume_flow(
        self,
        trace_id: str,
        *,
        force: bool = False,
        deadline: float | None = None,
        cancel_token: CancellationToken | None = None,
        dynamic_params: Mapping[str, Any] | None = None,
        lane: str | None = None,
        migrate: Callable[[ExecutionSnapshot], ExecutionSnapshot] | None = None,
    ) -> ExecutionResult:
        """Go on with a run from its checkpoint; steps that were committed do not run again.

        Args:
            trace_id: The run.
            force: Go on although the flow is not active, or its executed steps have changed.
            migrate: Called with the stored snapshot before it is compared, at every resume; returns the one to go on
                with, which is stored before the run goes on. A snapshot that needs nothing is returned as it is.

        Raises:
            CheckpointerNotConfiguredError: The executor has no checkpointer.
            CheckpointNotFoundError: Nothing is stored for this run.
            CheckpointDriftError: The flow, or a step that was executed, is not what it was.
            RunClaimedError: The run is being executed, here or by another process.
            RunClaimLostError: Another process took the run over; it carries the result so far, if there is one.
        """
        options = (deadline, cancel_token, dynamic_params, lane)
        runs, begun = self._go_on(trace_id, force, migrate, "sync", options)
        return runs.carry_sync(*begun)

    async def resume_flow_async(
        self,
        trace_id: str,
        *,
        force: bool = False,
        deadline: float | None = None,
        cancel_token: CancellationToken | None = None,
        dynamic_params: Mapping[str, Any] | None = None,
        lane: str | None = None,
        migrate: Callable[[ExecutionSnapshot], ExecutionSnapshot] | None = None,
    ) -> ExecutionResult:
        """Go on with a run on the async lane; see `resume_flow`."""
        options = (deadline, cancel_token, dynamic_params, lane)
        runs, begun = self._go_on(trace_id, force, migrate, "async", options)
        return await runs.carry_async(*begun)

    def recover(
        self,
        *,
        limit: int | None = None,
        force: bool = False,
        deadline: float | None = None,
        cancel_token: CancellationToken | None = None,
        lane: str | None = None,
        migrate: Callable[[ExecutionSnapshot], ExecutionSnapshot] | None = None,
    ) -> list[Recovered]:
        """Go on with the runs of registered flows that have not ended and that nobody executes any more.

        Those are the runs of processes that died, once their claims have run out, and runs that were handed back. Each
        is claimed before it is gone on with, so that any number of processes may call this at the same time.

        Args:
            limit: How many at most; None for all there are.
            deadline, cancel_token: When to stop recovering. No run is claimed from then on, and the one that is gone on
                with then is handed back.
            force, lane, migrate: As for `resume_flow`.

        Returns:
            What became of each, the oldest first. A run that cannot be gone on with is left as it was, with its error;
            so is one whose flow calls a tool that is not registered here.

        Raises:
            CheckpointerNotConfiguredError: The checkpointer is none that processes share.
        """
        options = (deadline, cancel_token, None, lane)
        recovered: list[Recovered] = []
        for trace_id in self._orphans(recovered, limit, options):
            try:
                runs, begun = self._go_on(trace_id, force, migrate, "sync", options, is_claimed=True)
                recovered.append(Recovered(trace_id, runs.carry_sync(*begun), None))
            except Exception as exc:
                recovered.append(Recovered.stopped_by(exc, trace_id))
        return recovered

    async def recover_async(
        self,
        *,
        limit: int | None = None,
        force: bool = False,
        deadline: float | None = None,
        cancel_token: CancellationToken | None = None,
        lane: str | None = None,
        migrate: Callable[[ExecutionSnapshot], ExecutionSnapshot] | None = None,
    ) -> list[Recovered]:
        """Go on with orphaned runs on the async lane; see `recover`."""
        options = (deadline, cancel_token, None, lane)
        recovered: list[Recovered] = []
        for trace_id in self._orphans(recovered, limit, options):
            try:
                runs, begun = self._go_on(trace_id, force, migrate, "async", options, is_claimed=True)
                recovered.append(Recovered(trace_id, await runs.carry_async(*begun), None))
            except Exception as exc:
                recovered.append(Recovered.stopped_by(exc, trace_id))
        return recovered

    def hand_back(self) -> None:
        """Stop the durable runs of this executor, at their next command, such that others may go on with them.

        For the end of a process. May be called from any thread and from a signal handler; it does not wait. Each run
        ends with `FlowCancelledError`, keeps what it has committed, and is nobody's from then on.
        """
        (self._bound or self._bind()).drain.cancel()

    def handing_back_on(self, *signals: int) -> AbstractContextManager[None]:
        """Within the block, these signals call `hand_back`; SIGTERM where none is named. In the main thread only."""
        return calling_on(signals, self.hand_back)

    def replay_flow(
        self,
        result: ExecutionResult,
        *,
        mode: ReplayMode | str = ReplayMode.VERIFY,
        resume_from_step: int = 0,
        force: bool = False,
        deadline: float | None = None,
        cancel_token: CancellationToken | None = None,
        dynamic_params: Mapping[str, Any] | None = None,
        lane: str | None = None,
    ) -> ReplayResult:
        """Run a recorded run again, and compare the two step by step.

        The replay has the version, the input and the dry-run flag of the recorded run, and its tools are called anew.
        `ReplayMode.VERIFY` takes decisions and approvals from the record instead of asking, and uses neither the step
        cache nor the checkpointer. `ReplayMode.EXECUTE` is a run like any other; its differences are for information.

        Args:
            result: The recorded run, as a call returned it or as it was read back from JSON.
            resume_from_step: Steps before this plan index do not run: their outputs come from the record.
            force: Replay it whatever the status of the flow.
            deadline, cancel_token, lane: As for `execute_flow`.
            dynamic_params: They are in no record, and are passed again.

        Returns:
            The differences, the first of them, and the result of the new run.

        Raises:
            FlowNotFoundError: The recorded version is registered no longer.
            ReplayError: The record does not hold what the replay needs; nothing was started.
            FlowCancelledError: The replay was cancelled.
            TypeError, ValueError: An argument is not what it has to be; nothing was started.
        """
        runs, replay = self._again(result, mode, resume_from_step, force, "sync")
        call = Call(replay.plan, deadline, cancel_token, dynamic_params, lane, self._settings["lanes"], replay.dry)
        return replay.carried_sync(runs, self._listeners, call)

    async def replay_flow_async(
        self,
        result: ExecutionResult,
        *,
        mode: ReplayMode | str = ReplayMode.VERIFY,
        resume_from_step: int = 0,
        force: bool = False,
        deadline: float | None = None,
        cancel_token: CancellationToken | None = None,
        dynamic_params: Mapping[str, Any] | None = None,
        lane: str | None = None,
    ) -> ReplayResult:
        """Run a recorded run again on the async lane, whatever lane it was recorded on; see `replay_flow`."""
        runs, replay = self._again(result, mode, resume_from_step, force, "async")
        call = Call(replay.plan, deadline, cancel_token, dynamic_params, lane, self._settings["lanes"], replay.dry)
        return await replay.carried_async(runs, self._listeners, call)

    def stream_flow(
        self,
        name: str,
        initial_input: Mapping[str, Any],
        *,
        version: str | None = None,
        force: bool = False,
        deadline: float | None = None,
        cancel_token: CancellationToken | None = None,
        dynamic_params: Mapping[str, Any] | None = None,
        lane: str | None = None,
    ) -> Iterator[FlowEvent]:
        """Run a flow and hand out its events as they happen; the last one, "flow_end", carries the result.

        The run waits while the reader is far behind. Closing the iterator ends the run. What `execute_flow` raises is
        raised by the iterator, after the last event.
        """
        from chainweaver.executor.stream import stream_sync

        prepared = self._plans.prepare(name, version)
        self._plans.admit(prepared, force, "sync")
        check_input(initial_input)
        call = Call(prepared.plan, deadline, cancel_token, dynamic_params, lane, self._settings["lanes"])
        runs = self._bound or self._bind()
        return stream_sync(runs, prepared.plan, initial_input, self._watching(), call)

    def stream_flow_async(
        self,
        name: str,
        initial_input: Mapping[str, Any],
        *,
        version: str | None = None,
        force: bool = False,
        deadline: float | None = None,
        cancel_token: CancellationToken | None = None,
        dynamic_params: Mapping[str, Any] | None = None,
        lane: str | None = None,
    ) -> AsyncIterator[FlowEvent]:
        """Run a flow on the async lane and hand out its events as they happen; see `stream_flow`."""
        from chainweaver.executor.stream import stream_async

        prepared = self._plans.prepare(name, version)
        self._plans.admit(prepared, force, "async")
        check_input(initial_input)
        call = Call(prepared.plan, deadline, cancel_token, dynamic_params, lane, self._settings["lanes"])
        runs = self._bound or self._bind()
        return stream_async(runs, prepared.plan, initial_input, self._watching(), call)

    # ---- asking

    def check_upgrade(self, run: ExecutionSnapshot | str, *, version: str | None = None) -> Verdict:
        """Whether a stored run would go on with what is registered here now; the answer that `resume_flow` acts upon.

        Args:
            run: Its id, or its snapshot.
            version: Hold it against this version of its flow, to see whether it could be moved there. None: the version
                that it has, with which it goes on.

        Raises:
            CheckpointerNotConfiguredError: The run is named by its id, and the executor has no checkpointer.
            CheckpointNotFoundError: Nothing is stored for this run.
        """
        from chainweaver.executor.resume import load
        from chainweaver.executor.upgrade import verdict_here

        snapshot = load((self._bound or self._bind()).checkpointer, run) if isinstance(run, str) else run
        if version is not None:
            snapshot = snapshot.model_copy(update={"flow_version": version})
        return verdict_here(self._plans, snapshot)

    def explain_flow(self, name: str, initial_input: Mapping[str, Any], *, version: str | None = None) -> ExecutionPlan:
        """What a flow would do with an input, step by step, without running anything.

        Raises:
            FlowNotFoundError: There is no such flow.
        """
        from chainweaver.executor.explain import explain

        check_input(initial_input)
        prepared = self._plans.prepare(name, version)
        return explain(prepared.flow, prepared.tools, self._plans.composition(prepared.snapshot, {}), initial_input)

    def get_drift_report(self) -> list[DriftInfo]:
        """Where tools no longer have the schemas that flows recorded, over all flows."""
        from chainweaver.tools import check_flow_compatibility

        tools = self._plans.tools
        return [one for flow in self.registry.snapshot.values() for one in check_flow_compatibility(flow, tools)]

    def accept_drift(self, name: str, *, version: str | None = None) -> AnyFlow:
        """Record the present schemas of a flow's tools as the ones that it was accepted with."""
        return self.registry.accept_tools(name, self._plans.tools, version=version)

    # ---- the end

    def close(self) -> None:
        """Release threads and the private event loop, and end worker processes."""
        if self._bound is not None:
            self._bound.resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _again(
        self, result: ExecutionResult, mode: ReplayMode | str, from_step: int, force: bool, lane: str
    ) -> tuple[Runs, Replay]:
        """A recorded run and the plan that it is replayed with: that of its version, and of those of its sub-flows."""
        from chainweaver.executor.replay import Replay, check_result, versions_of

        check_result(result)
        key = (result.flow_name, result.flow_version)
        prepared, versions = self._plans.prepare(*key), versions_of(result)
        if any(versions.get(name, version) != version for name, version in prepared.plan.children):
            prepared = self._plans.prepared_with(key, versions)
        self._plans.admit(prepared, force, lane)
        return self._bound or self._bind(), Replay(result, mode, from_step, prepared.plan)

    def _go_on(
        self,
        trace_id: str,
        force: bool,
        migrate: Callable[[ExecutionSnapshot], ExecutionSnapshot] | None,
        lane: str,
        options: CallOptions,
        *,
        is_claimed: bool = False,
        asks: bool = False,
    ) -> tuple[Runs, Begun]:
        """A stored run, claimed where others could go on with it too, and about to go on.

        Args:
            is_claimed: It is an orphan, claimed a moment ago.
            asks: The caller wants its result, and of a run that has ended well only that.
        """
        from chainweaver.executor.resume import prefill

        check_flag("force", force)
        runs = self._bound or self._bind()
        store = runs.store
        if asks and store is not None and store.info(trace_id).status == "ok":
            plan, snapshot, _ = self._stored(runs, trace_id, force, migrate, lane)
            call = Call(plan, *options, self._settings["lanes"])
            return runs, prefill(runs, plan, snapshot, self._listeners, call, keeps=False)
        if store is not None and not is_claimed:
            store.claim(checked_id(trace_id))
        try:
            plan, snapshot, is_stored = self._stored(runs, trace_id, force, migrate, lane, needs_tools=is_claimed)
            call = Call(plan, *options, self._settings["lanes"])
            begun = prefill(runs, plan, snapshot, self._listeners, call, saves=not is_stored)
            begun[1].hands_back = is_claimed
            return runs, begun
        except BaseException:
            if store is not None:
                store.finish(trace_id, None)
            raise

    def _stored(
        self,
        runs: Runs,
        trace_id: str,
        force: bool,
        migrate: Callable[[ExecutionSnapshot], ExecutionSnapshot] | None,
        lane: str,
        *,
        needs_tools: bool = False,
    ) -> tuple[Plan, ExecutionSnapshot, bool]:
        """What a run goes on from, the plan that it goes on with, and whether the store says just that."""
        from chainweaver.executor.resume import load, migrated, settled
        from chainweaver.executor.upgrade import changes_of, drift, going_on

        stored = snapshot = load(runs.checkpointer, trace_id)
        if migrate is not None:
            snapshot = migrated(snapshot, migrate)
        prepared, changes = going_on(self._plans, snapshot, force=force)
        if prepared is None:
            raise drift(snapshot, None, changes)
        changes += changes_of(prepared.plan, snapshot)
        if changes and not force:
            raise drift(snapshot, prepared.plan, changes)
        self._plans.admit(prepared, force, lane)
        if needs_tools and (missing := prepared.missing_tools()):
            # Nobody asked for just this run: it would fail for good, and somebody else may have the tool.
            raise FlowCompileError(snapshot.flow_name, missing)
        snapshot = settled(prepared.plan, snapshot, renews=not changes)
        return prepared.plan, snapshot, snapshot is stored

    def _orphans(self, recovered: list[Recovered], limit: int | None, options: CallOptions) -> Iterator[str]:
        """Runs that nobody executed, each claimed when it is asked for; what became of the one before is known then."""
        deadline, token, _, lane = options
        ends = None if deadline is None else checked_deadline(deadline)
        check_token(token)
        check_lane(lane, self._settings["lanes"])
        runs = self._bound or self._bind()
        store = needed(runs.store, "recover")
        if limit is not None:
            check_count("limit", limit, 0)
        open_still: list[str] = []
        while limit is None or len(recovered) < limit:
            if runs.drain.is_cancelled or (token is not None and token.is_cancelled):
                return
            if ends is not None and runs.runtime.wall_time() >= ends:
                return
            trace_id = store.claim_orphan(self.registry.snapshot.names(), open_still)
            if trace_id is None:
                return
            yield trace_id
            if recovered[-1].error is not None:
                open_still.append(trace_id)

    def _bind(self) -> Runs:
        from chainweaver.executor.runs import Runs

        with self._write:
            if self._bound is None:
                self._bound = Runs(self._settings, self._watching())
            return self._bound


def _register(registry: FlowRegistry, flow: AnyFlow) -> None:
    """Register a flow, unless there is the very same definition already, whatever its status."""
    try:
        registry.register_flow(flow)
    except FlowAlreadyExistsError:
        from chainweaver.compiler import flow_digest

        key = (flow.name, flow.version)
        if key not in registry.snapshot:
            # Another process was faster.
            registry.refresh()
        known = registry.snapshot.get(key)
        if known is None or flow_digest(known) != flow_digest(flow):
            raise


def _plugged_in(wanted: bool) -> dict[str, Tool]:
    if not wanted:
        return {}
    from chainweaver.tools import discover_tools

    return {tool.name: tool for tool in discover_tools()}
