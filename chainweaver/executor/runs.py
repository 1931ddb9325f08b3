"""Runs: how an executor begins one, has a lane carry it, and ends it.

A plan and an input come in; a result goes out, or an error that carries one. Here the run core, the lanes and what an
executor lends to its runs (threads, cache, checkpointer, clock) come together; which flow runs is decided before.

Called by the facade, by `resume` and by `stream`; imported on the first call, because of what it imports itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from chainweaver._execution import Run, conclude, take_input
from chainweaver._execution.around import leave_run
from chainweaver._execution.commands import RunCancelled
from chainweaver._execution.rules import NO_RULES
from chainweaver.exceptions import ContextKeyCollisionError, FlowCancelledError, RunClaimLostError
from chainweaver.executor.call import check_input
from chainweaver.executor.captures import capture_of, inspect_of
from chainweaver.executor.durable import finish, joined, needed, run_store
from chainweaver.executor.processes import process_options, trust_in
from chainweaver.lanes.cancel import CancellationToken
from chainweaver.lanes.drive import run_to_end
from chainweaver.lanes.services import CacheService, CheckpointService, Services
from chainweaver.lanes.sync import Resources, close_streams, enter_sync, run_sync
from chainweaver.results import ExecutionResult
from chainweaver.runtime import Runtime

if TYPE_CHECKING:
    import logging

    from chainweaver._execution.rules import Wrapper
    from chainweaver.checkpoint import Checkpointer
    from chainweaver.executor.call import Call
    from chainweaver.observe import Listeners
    from chainweaver.plan import Plan

RULED = (
    "decision_callback", "decision_policy", "approval_callback", "guardrail_callback", "capability_hook",
    "strict_safety", "max_side_effect_level", "redaction_policy", "cost_profile",
)  # fmt: skip
"""The settings that are rules of the runs."""

Begun: TypeAlias = "tuple[Run, Services, Resources, CancellationToken | None]"
"""A run before its first step, with what a lane needs to carry it."""


class Runs:
    """What an executor needs once it really runs something; one object for all its runs.

    Attributes:
        is_bare: Nothing of the executor attends its runs, but for listeners.
    """

    def __init__(self, settings: Mapping[str, Any], watching: Sequence[object]) -> None:
        self.runtime: Runtime = settings["runtime"] or Runtime()
        self.resources = Resources(settings["lane"], settings["lanes"], process_options(settings))
        self.captures: bool = settings["capture_output"]
        self.capture = capture_of(settings["trace_values"], settings["trace_copy_limit"])
        self.inspect = inspect_of(settings["trace_values"])
        self.limit: int = settings["max_step_concurrency"]
        self.checkpointer: Checkpointer | None = settings["checkpointer"]
        self.store = run_store(self.checkpointer)
        self.drain = CancellationToken()
        self.device_caches: str = settings["device_caches"]
        self.delete_on_success: bool = settings["delete_on_success"]
        self.cache: CacheService | None = None
        if settings["step_cache"] is not None:
            from chainweaver.cache.flight import SingleFlight

            self.cache = CacheService(settings["step_cache"], SingleFlight())
        self.callbacks: Mapping[str, Any] = {}
        self.rules = NO_RULES
        if any(settings[name] for name in RULED):
            from chainweaver.executor.rules import callbacks_of

            self.callbacks = callbacks_of(settings)
        self._settings = settings
        self.heed(watching)
        # For runs that nobody attends: they ask for nothing that belongs to one run, and so one serves them all.
        self._services = Services(self.runtime)

    def heed(self, watching: Sequence[object]) -> None:
        """Take over the middleware that runs have from now on."""
        wraps = any(hasattr(one, "around_step") or hasattr(one, "around_run") for one in watching)
        self.rules = NO_RULES
        detects = self._settings["on_shared_mutation"] == "detect"
        if wraps or detects or any(self._settings[name] for name in RULED):
            from chainweaver.executor.rules import rules_of

            self.rules = rules_of(self._settings, self.callbacks, watching)
        unattended = self.cache is None and self.checkpointer is None and self.rules is NO_RULES
        self.is_bare = unattended and self.limit == 1 and self.resources.default_lane != "process"

    def shown(self, middleware: object) -> object:
        """A middleware of one run, with the view that the redaction policy leaves it."""
        policy = self._settings["redaction_policy"]
        if policy is None:
            return middleware
        from chainweaver.executor.rules import shown_to

        return shown_to(middleware, policy)

    # ---- the beginning

    def begin(
        self, plan: Plan, initial_input: Mapping[str, Any], listeners: Listeners | None, call: Call | None
    ) -> Begun:
        """A run that is about to start its first step.

        Raises:
            TypeError: The input is no mapping; nothing was started.
            CheckpointerNotConfiguredError: The call names a key, and nobody keeps keys.
            KeyTaken, RunKeyError: A run has the key.
        """
        if type(initial_input) is not dict:
            check_input(initial_input)
        if call is not None and call.key is not None:
            needed(self.store, "execute_flow(key=...)")
        runtime = self.runtime
        # As new_run, which would cost every run another call.
        run = Run(plan, dict(initial_input), runtime.now_ns(), runtime.wall_time(), self.capture, runtime.new_id)
        if self.inspect is not None:
            run.inspect = self.inspect
        take_input(run)
        if call is None and listeners is None and self.is_bare and not plan.has_processes:
            return run, self._services, self.resources, None
        return run_to_end(self._opened(run, Services(runtime), initial_input, listeners, call))

    async def begin_async(
        self, plan: Plan, initial_input: Mapping[str, Any], listeners: Listeners | None, call: Call
    ) -> Begun:
        """As `begin`, in a task that does not wait for a store."""
        from chainweaver.lanes.async_ import asking

        check_input(initial_input)
        if call.key is not None:
            needed(self.store, "execute_flow_async(key=...)")
        run = self.new_run(plan, dict(initial_input))
        take_input(run)
        services = Services(self.runtime)
        services.ask = asking(self.checkpointer, self.resources)
        return await self._opened(run, services, initial_input, listeners, call)

    async def _opened(
        self,
        run: Run,
        services: Services,
        initial_input: Mapping[str, Any],
        listeners: Listeners | None,
        call: Call | None,
    ) -> Begun:
        """A run that has its input, attended and kept."""
        self.attend(run, services, listeners, call)
        try:
            if self.checkpointer is not None and run.input_error is None and run.rules.dry is None:
                from chainweaver.executor.resume import open_checkpoint

                key = None if call is None else call.key
                await open_checkpoint(run, services, self.checkpointer, self.store, key, initial_input)
            if services.listeners is not None:
                tell_start(run, services)
            return run, services, *self.means(call, services)
        except BaseException as exc:
            if isinstance(exc, GeneratorExit):
                services.ask = None  # a coroutine that is closed cannot wait
            # Nobody would carry it, here or elsewhere, as long as it is claimed.
            if self.store is not None and services.checkpoints is not None:
                await services.asked(partial(self.store.finish, services.checkpoints.trace_id, None))
            raise

    def new_run(self, plan: Plan, initial: dict[str, Any]) -> Run:
        """A run with the clock and the records of the executor, for those that go on or are replayed."""
        runtime = self.runtime
        run = Run(plan, initial, runtime.now_ns(), runtime.wall_time(), self.capture, runtime.new_id)
        if self.inspect is not None:
            run.inspect = self.inspect
        return run

    def attend(self, run: Run, services: Services, listeners: Listeners | None, call: Call | None) -> None:
        """Set up what a run is watched, helped and limited by."""
        lane = self.resources.default_lane if call is None or call.lane is None else call.lane
        if run.plan.has_processes or lane == "process":
            run.printing = self.captures
            services.trust = trust_in(run.plan, lane)
        if self.rules is not NO_RULES:
            run.rules = self.rules
            run.note_secrets(run.slots[0] or {})
            services.callbacks = self.callbacks
        if call is not None:
            if call.dry is not None:
                run.rules = replace(run.rules, dry=call.dry)
            if call.deadline is not None:
                left_s = call.deadline - self.runtime.wall_time()
                run.deadline_ns = run.now_ns + int(left_s * 1e9)
            if call.dynamic_params is not None:
                run.slots[-1] = dict(call.dynamic_params)
            services.backlog = call.backlog
        if listeners is not None:
            services.listen(listeners)
            run.listening = bool(listeners.on_step_start or listeners.on_step_end)
            run.announcing = bool(listeners.on_flow_start or listeners.on_flow_end)
            run.streaming = bool(listeners.on_step_chunk)
        if self.cache is not None and run.rules.dry is None:
            services.cache = self.cache
            run.caching = True

    def means(self, call: Call | None, services: Services) -> tuple[Resources, CancellationToken | None]:
        """The threads and loops of a call, with the default lane that it asks for, and its token."""
        lane, token = (None, None) if call is None else (call.lane, call.cancel_token)
        if self.store is not None and services.checkpoints is not None:
            token, services.parted = joined(token, self.drain)
        return self.resources if lane is None else self.resources.on_lane(lane), token

    # ---- on a lane

    def carry_sync(
        self, run: Run, services: Services, resources: Resources, token: CancellationToken | None
    ) -> ExecutionResult:
        """Carry a run to its end in this thread; its result.

        Raises:
            FlowCancelledError, ContextKeyCollisionError: They carry the result.
            BaseException: What interrupted the caller; the run has ended by then.
        """
        opened: list[Wrapper] = []
        try:
            if run.rules.around_run:
                enter_sync(run, services, resources, token, opened)
            if run.input_error is None and run.cancelled is None:
                limit = 1 if self.limit == 1 else self._limit_of(run)
                run_sync(run, services, resources, limit, token)
        except BaseException:
            conclude(run)
            if run.has_streams:
                close_streams(run, resources, is_lost=True)
            self._end(run, services, opened)
            raise
        conclude(run)
        if run.has_streams:
            close_streams(run, resources)
        result = self._end(run, services, opened)
        return result if run.status == "ok" else _handed_out(run, result)

    async def carry_async(
        self, run: Run, services: Services, resources: Resources, token: CancellationToken | None
    ) -> ExecutionResult:
        """Carry a run to its end in this task; as `carry_sync`."""
        from chainweaver.lanes.async_ import asking, close_streams_async, enter_async, run_async

        run.lane = "async"
        if services.checkpoints is not None:
            services.ask = asking(self.checkpointer, resources)
        opened: list[Wrapper] = []
        try:
            if run.rules.around_run:
                await enter_async(run, services, resources, token, opened)
            if run.input_error is None and run.cancelled is None:
                await run_async(run, services, resources, self._limit_of(run), token)
        except BaseException as exc:
            if isinstance(exc, GeneratorExit):
                services.ask = None  # a coroutine that is closed cannot wait
            conclude(run)
            if run.has_streams:
                await close_streams_async(run, is_lost=True)
            await self._end_async(run, services, opened)
            raise
        conclude(run)
        if run.has_streams:
            await close_streams_async(run)
        result = await self._end_async(run, services, opened)
        return result if run.status == "ok" else _handed_out(run, result)

    def _limit_of(self, run: Run) -> int:
        """How many steps of a run may be under way at a time: one, where a higher limit could change nothing."""
        plan = run.plan
        if self.limit == 1 or plan.needs_schedule:
            return self.limit
        alone = plan.is_chain or (plan.is_inline and run.is_unattended() and not run.caching)
        return 1 if alone else self.limit

    # ---- the end

    def _end(self, run: Run, services: Services, opened: list[Wrapper]) -> ExecutionResult:
        """The end of a run that has its status: one result, one `flow_end` (R17)."""
        result = self._left(run, opened)
        if services.checkpoints is not None:
            run_to_end(self._settle(run, services, services.checkpoints))
        self._tell_end(run, services, result)
        return result

    async def _end_async(self, run: Run, services: Services, opened: list[Wrapper]) -> ExecutionResult:
        """As `_end`, in a task that does not wait for a store."""
        result = self._left(run, opened)
        try:
            if services.checkpoints is not None:
                await self._settle(run, services, services.checkpoints)
        finally:
            self._tell_end(run, services, result)
        return result

    def _left(self, run: Run, opened: list[Wrapper]) -> ExecutionResult:
        if opened:
            leave_run(run, opened)
        if run.collisions or run.collided_inside:
            _log_collisions(run)
        return ExecutionResult.of(run)

    def _tell_end(self, run: Run, services: Services, result: ExecutionResult) -> None:
        if services.listeners is not None:
            from chainweaver.observe import telling

            telling.tell_end(services.listeners, run, result)
        if self.device_caches != "never":
            _release_caches(self.device_caches)

    async def _settle(self, run: Run, services: Services, checkpoints: CheckpointService) -> None:
        """Tell the store that the run has ended, or have it forget one that ended well."""
        services.parted()
        trace_id = checkpoints.trace_id
        try:
            if self.store is not None:
                ended = partial(
                    finish,
                    self.store,
                    run,
                    keep=not self.delete_on_success,
                    handed_back=services.hands_back or self.drain.is_cancelled,
                    out_of_reach=checkpoints.is_out_of_reach,
                )
                await services.asked(ended)
            elif run.status == "ok" and self.delete_on_success:
                await services.asked(partial(checkpoints.checkpointer.delete, trace_id))
        except RunClaimLostError:
            if run.status == "ok":
                # All that it has done is committed, and by whom it is ended matters to nobody.
                _logger().warning("Run %s was taken over by somebody else before it ended here.", trace_id)
            else:
                run.cancelled = RunCancelled("claim")
        except Exception as exc:  # the run has done its work, and a checkpoint too many harms nobody
            undone = "deleted" if self.store is None else "told of its end"
            _logger().warning("Checkpoint of run %s is not %s: %s", trace_id, undone, exc)


def _handed_out(run: Run, result: ExecutionResult) -> ExecutionResult:
    """The result of a run that did not end well, or the error that has to leave the call and carries it."""
    if run.cancelled is not None and run.cancelled.reason == "claim":
        raise RunClaimLostError(run.trace_id(), result=result)
    if run.collided is not None:
        error = run.details[run.collided].error
        if isinstance(error, ContextKeyCollisionError):
            error.result = result
            raise error
    if run.status == "cancelled" and run.cancelled is not None:
        raise FlowCancelledError(
            run.plan.flow_name,
            next((step.index for step in run.plan.steps if run.status_of(step.index) not in ("ok", "skipped")), -1),
            result=result,
            deadline_exceeded=run.cancelled.reason == "deadline",
            token_cancelled=run.cancelled.reason == "token",
        )
    return result


def _release_caches(when: str) -> None:
    """Have frameworks give memory of devices back, at the end of a run."""
    from chainweaver.objects.devices import is_scarce, release_device_caches

    try:
        if when == "run_end" or is_scarce():
            release_device_caches()
    except Exception as exc:  # the run is over, and what a device says now is not its failure
        _logger().warning("Memory of devices is not given back: %s", exc)


# ---- who hears of it


def tell_start(run: Run, services: Services) -> None:
    """Tell the listeners that a run begins."""
    from chainweaver.observe import telling

    assert services.listeners is not None, "only a run with listeners tells"
    telling.tell_start(services.listeners, run)


def _logger() -> logging.Logger:
    # Imported by the few runs that have something to log: it costs a tenth of importing this package.
    import logging

    return logging.getLogger("chainweaver.executor")


def _log_collisions(run: Run) -> None:
    """Say which keys were overwritten, in the run and in the sub-flows of its steps (R12)."""
    import logging

    if run.plan.children:
        for detail in run.details.values():
            if detail.nested is not None:
                _log_collisions(detail.nested)
    if not run.collisions or run.plan.collision_policy == "error":
        return
    log = _logger()
    level = logging.DEBUG if run.plan.collision_policy == "overwrite" else logging.WARNING
    if not log.isEnabledFor(level):
        return
    for index, name, keys in run.collisions:
        for key in keys:
            log.log(level, "Step %d (%s): context key '%s' overwritten", index, name, key)
