"""Runs: how an executor begins one, has a lane carry it, and ends it.

A plan and an input come in; a result goes out, or an error that carries one. Here the run core, the lanes and what an
executor lends to its runs (threads, cache, checkpointer, clock) come together; which flow runs is decided before.

Called by the facade, by `resume` and by `stream`; imported on the first call, because of what it imports itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from chainweaver._execution import Run, capture_within, conclude, reference_only, summarize, take_input
from chainweaver.compiler import PlanCache
from chainweaver.exceptions import ContextKeyCollisionError, FlowCancelledError
from chainweaver.executor.call import check_input
from chainweaver.lanes.services import CacheService, Services
from chainweaver.lanes.sync import Resources, run_sync
from chainweaver.results import ExecutionResult, date_of
from chainweaver.runtime import Runtime

if TYPE_CHECKING:
    import logging

    from chainweaver.checkpoint import Checkpointer
    from chainweaver.executor.call import Call
    from chainweaver.lanes.cancel import CancellationToken
    from chainweaver.observe import Listeners
    from chainweaver.plan import Plan

Begun: TypeAlias = "tuple[Run, Services, Resources, CancellationToken | None]"
"""A run before its first step, with what a lane needs to carry it."""


class Runs:
    """What an executor needs once it really runs something; one object for all its runs.

    Attributes:
        plans: The flows that were compiled.
        is_bare: Nothing of the executor attends its runs, but for listeners.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.runtime: Runtime = settings["runtime"] or Runtime()
        self.plans = PlanCache()
        self.resources = Resources(settings["lane"], settings["lanes"])
        captures = {"reference": reference_only, "summary": summarize}
        self.capture = captures.get(settings["trace_values"]) or capture_within(settings["trace_copy_limit"])
        self.limit: int = settings["max_step_concurrency"]
        self.checkpointer: Checkpointer | None = settings["checkpointer"]
        self.delete_on_success: bool = settings["delete_on_success"]
        self.cache: CacheService | None = None
        if settings["step_cache"] is not None:
            from chainweaver.cache.flight import SingleFlight

            self.cache = CacheService(settings["step_cache"], SingleFlight())
        self.is_bare = self.cache is None and self.checkpointer is None and self.limit == 1
        # For runs that nobody attends: they ask for nothing that belongs to one run, and so one serves them all.
        self._services = Services(self.runtime)

    # ---- the beginning

    def begin(
        self, plan: Plan, initial_input: Mapping[str, Any], listeners: Listeners | None, call: Call | None
    ) -> Begun:
        """A run that is about to start its first step.

        Raises:
            TypeError: The input is no mapping; nothing was started.
        """
        if type(initial_input) is not dict:
            check_input(initial_input)
        runtime = self.runtime
        run = Run(plan, dict(initial_input), runtime.now_ns(), runtime.wall_time(), self.capture, runtime.new_id)
        take_input(run)
        if call is None and listeners is None and self.is_bare:
            return run, self._services, self.resources, None
        services = Services(runtime)
        self.attend(run, services, listeners, call)
        if self.checkpointer is not None and run.input_error is None:
            from chainweaver.executor.resume import open_checkpoint

            open_checkpoint(run, services, self.checkpointer)
        if services.listeners is not None:
            tell_start(run, services)
        return run, services, *self.means(call)

    def attend(self, run: Run, services: Services, listeners: Listeners | None, call: Call | None) -> None:
        """Set up what a run is watched, helped and limited by."""
        if call is not None:
            if call.deadline is not None:
                left_s = call.deadline - self.runtime.wall_time()
                run.deadline_ns = run.now_ns + int(left_s * 1e9)
            if call.dynamic_params is not None:
                run.slots[-1] = dict(call.dynamic_params)
            services.backlog = call.backlog
        if listeners is not None:
            services.listeners = listeners
            services.run = run
            run.listening = bool(listeners.on_step_start or listeners.on_step_end)
        if self.cache is not None:
            services.cache = self.cache
            run.caching = True

    def means(self, call: Call | None) -> tuple[Resources, CancellationToken | None]:
        """The threads and loops of a call, with the default lane that it asks for, and its token."""
        if call is None:
            return self.resources, None
        return self.resources if call.lane is None else self.resources.on_lane(call.lane), call.cancel_token

    # ---- on a lane

    def carry_sync(
        self, run: Run, services: Services, resources: Resources, token: CancellationToken | None
    ) -> ExecutionResult:
        """Carry a run to its end in this thread; its result.

        Raises:
            FlowCancelledError, ContextKeyCollisionError: They carry the result.
            BaseException: What interrupted the caller; the run has ended by then.
        """
        if run.input_error is None:
            try:
                run_sync(run, services, resources, self._limit_of(run), token)
            except BaseException:
                self._end(run, services)
                raise
        result = self._end(run, services)
        return result if run.status == "ok" else _handed_out(run, result)

    async def carry_async(
        self, run: Run, services: Services, resources: Resources, token: CancellationToken | None
    ) -> ExecutionResult:
        """Carry a run to its end in this task; as `carry_sync`."""
        from chainweaver.lanes.async_ import run_async

        run.lane = "async"
        if run.input_error is None:
            try:
                await run_async(run, services, resources, self._limit_of(run), token)
            except BaseException:
                self._end(run, services)
                raise
        result = self._end(run, services)
        return result if run.status == "ok" else _handed_out(run, result)

    def _limit_of(self, run: Run) -> int:
        """How many steps of a run may be under way at a time: one, where a higher limit could change nothing."""
        if self.limit == 1:
            return 1
        plan = run.plan
        alone = plan.is_chain or (plan.is_inline and run.is_unattended() and not run.caching)
        return 1 if alone else self.limit

    # ---- the end

    def _end(self, run: Run, services: Services) -> ExecutionResult:
        """Conclude a run: one status, one result, one `flow_end` (R17)."""
        conclude(run)
        if run.collisions and run.plan.collision_policy != "error":
            _log_collisions(run)
        result = ExecutionResult.of(run)
        if run.status == "ok" and services.checkpoints is not None and self.delete_on_success:
            try:
                services.checkpoints.checkpointer.delete(services.checkpoints.trace_id)
            except Exception as exc:  # the run has done its work, and a checkpoint too many harms nobody
                _logger().warning("Checkpoint of run %s is not deleted: %s", services.checkpoints.trace_id, exc)
        if services.listeners is not None and services.listeners.on_flow_end:
            _tell_end(run, services.listeners, result)
        return result


def _handed_out(run: Run, result: ExecutionResult) -> ExecutionResult:
    """The result of a run that did not end well, or the error that has to leave the call and carries it."""
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


# ---- who hears of it


def tell_start(run: Run, services: Services) -> None:
    """Tell the listeners that a run begins."""
    from chainweaver.observe import FlowStartContext

    assert services.listeners is not None, "only a run with listeners tells"
    if services.listeners.on_flow_start:
        plan = run.plan
        services.listeners.flow_start(
            FlowStartContext(
                run.trace_id(),
                plan.flow_name,
                plan.flow_version,
                dict(run.given),  # who only watches must not change what the run goes on with
                date_of(run, run.began_ns),
                len(plan.steps),
            )
        )


def _tell_end(run: Run, listeners: Listeners, result: ExecutionResult) -> None:
    from chainweaver.observe import FlowEndContext

    plan = run.plan
    listeners.flow_end(
        FlowEndContext(run.trace_id(), plan.flow_name, plan.flow_version, result, date_of(run, run.now_ns))
    )


def _logger() -> logging.Logger:
    # Imported by the few runs that have something to log: it costs a tenth of importing this package.
    import logging

    return logging.getLogger("chainweaver.executor")


def _log_collisions(run: Run) -> None:
    import logging

    log = _logger()
    level = logging.DEBUG if run.plan.collision_policy == "overwrite" else logging.WARNING
    if not log.isEnabledFor(level):
        return
    for index, name, keys in run.collisions:
        for key in keys:
            log.log(level, "Step %d (%s): context key '%s' overwritten", index, name, key)
