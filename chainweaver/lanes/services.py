"""Services: the commands of a run that touch no tool, performed the same way on every lane.

Cache look-ups, checkpoints and telling listeners neither wait nor suspend (a look-up that has to wait for another run
hands a flight back to the lane; a lane that must not wait for a store says how to ask it). One object per run; what it
holds belongs to the executor.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from chainweaver._execution.commands import Invoke, Lead, Lookup, RunCancelled, Save, Settle, Tell
from chainweaver._execution.run import Detail
from chainweaver.exceptions import ChainWeaverError, CheckpointEncodeError, RunClaimLostError, StoreUnavailableError

if TYPE_CHECKING:
    from chainweaver._execution.commands import Command
    from chainweaver._execution.run import Run
    from chainweaver.cache import StepCache
    from chainweaver.cache.flight import Flight, SingleFlight
    from chainweaver.checkpoint import Checkpointer, ExecutionSnapshot, StepDelta
    from chainweaver.checkpoint.delta import StepError
    from chainweaver.lanes.sync import BlockingPerformer
    from chainweaver.observe import Listeners
    from chainweaver.plan import PlannedStep, PlannedTool
    from chainweaver.runtime import Runtime

T = TypeVar("T")

Convert = Callable[[dict[str, Any]], dict[str, Any]]


# What the constructor of a named tuple does, for a third of its price.
_new_tuple = tuple.__new__


class CacheService:
    """The step cache of an executor, with the table that lets one run compute for all."""

    def __init__(self, cache: StepCache, flights: SingleFlight) -> None:
        from chainweaver.cache import StepCacheKey

        self.cache = cache
        self.flights = flights
        self.key = StepCacheKey
        self.plain = getattr(cache, "wants_plain", False)
        # A store that keeps the objects themselves has nothing to bring back to its declared type.
        self.live = getattr(cache, "keeps_objects", False)
        self._restores: dict[Any, Convert] = {}
        self._reduces: dict[Any, Convert] = {}

    def look_up(self, command: Lookup) -> dict[str, Any] | Lead | Flight:
        """The outputs of a hit; a Lead when this run has to compute; a flight to wait for when another run does."""
        tool = command.tool
        key = _new_tuple(self.key, (tool.name, tool.schema_hash(), command.digest))
        note: str | None = None
        if self.live:
            try:  # the common case, which a call and a pair would make a tenth dearer
                found = self.cache.get(key)
            except Exception as exc:
                note, found = not_read(exc), None
        else:
            note, found = self._get(tool, key)
        if found is not None:
            return found
        flight = self.flights.join(key)
        if not flight.is_leader:
            return flight
        # Between our miss and our lead another run may have settled this very key.
        again, found = (None, None) if note else self._get(tool, key)
        if found is not None:
            flight.settle(found)
            return found
        return Lead((flight, tool, key), note or again)

    def settle(self, command: Settle) -> str | None:
        """Store what the leader computed and wake those who wait; the reason when it cannot be stored."""
        from chainweaver.cache.key import Uncacheable

        flight, tool, key = command.lead.flight
        outputs = command.outputs
        try:
            if outputs is not None:
                self.cache.set(key, self._reduce(tool)(outputs) if self.plain else outputs)
        except Uncacheable as exc:
            return str(exc)
        except Exception as exc:  # a broken store costs a cache entry, never a run
            return f"not stored: {type(exc).__name__}: {exc}"
        finally:
            flight.settle(outputs)
        return None

    def _get(self, tool: PlannedTool, key: Any) -> tuple[str | None, dict[str, Any] | None]:
        try:
            found = self.cache.get(key)
            if found is None or self.live:
                return None, found
            return None, self._entry(tool, found)
        except Exception as exc:  # a broken store or entry is a miss with a reason
            return not_read(exc), None

    def _entry(self, tool: PlannedTool, found: dict[str, Any]) -> dict[str, Any]:
        """An entry with its declared types, provided that it has the keys that the tool writes."""
        restored = self._restore(tool)(found)
        keys = written_keys(tool.output_model)
        if keys is not None and set(restored) != keys:
            raise ValueError(f"the entry has the keys {sorted(restored)} instead of {sorted(keys)}")
        return restored

    def _restore(self, tool: PlannedTool) -> Convert:
        bound = self._restores.get(tool.output_model)
        if bound is None:
            from chainweaver.objects import bind_restore

            bound = self._restores[tool.output_model] = bind_restore(tool.output_model)
        return bound

    def _reduce(self, tool: PlannedTool) -> Convert:
        bound = self._reduces.get(tool.output_model)
        if bound is None:
            from chainweaver.objects import bind_reduce

            bound = self._reduces[tool.output_model] = bind_reduce(tool.output_model)
        return bound


def not_read(exc: Exception) -> str:
    """Why a look-up is a miss: a store that is broken costs a note, never a run."""
    return f"not read: {type(exc).__name__}: {exc}"


def written_keys(model: Any) -> set[str] | None:
    """The output keys of every instance of a model; None for one that takes others as well."""
    if model.model_config.get("extra") == "allow":
        return None
    fields = {name for name, info in model.model_fields.items() if not info.exclude}
    return fields | set(model.model_computed_fields)


class CheckpointService:
    """The checkpoints of one run: a snapshot at its start, then one append per finished step.

    Attributes:
        is_out_of_reach: The store did not answer when a step was to be committed.
    """

    def __init__(self, checkpointer: Checkpointer, run: Run, snapshot: ExecutionSnapshot) -> None:
        from chainweaver.checkpoint import StepDelta

        self.checkpointer = checkpointer
        self.snapshot = snapshot
        self.trace_id = snapshot.trace_id
        self.plain = getattr(checkpointer, "wants_plain", False)
        self.append: Callable[[str, StepDelta], None] | None = getattr(checkpointer, "append", None)
        self._make = StepDelta
        facts = run.plan.facts()
        # Of the plan, not of the run: reading the annotations of a model takes as long as committing its outputs.
        self._reduces = facts.reduces
        self._run = run
        self._heads = facts.heads
        # A step's date is a reading of the monotonic clock and this.
        self._wall_minus_clock_s = run.began_wall - run.began_ns / 1e9
        self.is_out_of_reach = False

    def save(self, command: Save) -> None:
        """Append the finished step, in one atomic write.

        Raises:
            RunCancelled: The run was claimed by somebody else meanwhile; nothing that it does counts any more.
        """
        self.commit(self.delta_of(command))

    def delta_of(self, command: Save) -> StepDelta:
        """The finished step as it is stored."""
        run, step, outputs = command.run, command.step, command.outputs
        index = step.index
        detail = run.details.get(index) if run.details else None
        is_put = detail is not None and is_put_together(detail)
        if outputs is not None and not is_put and (self.plain or step.rename is not None):
            outputs = self._stored(run, step, outputs)
        started_ns = run.started[index]
        began_s = self._wall_minus_clock_s + started_ns / 1e9
        if detail is None and run is self._run and step.branches is None:
            # Nearly every checkpoint is one of these; see _new_tuple.
            head = self._heads[index]
            lasted_ns = run.clock.now_ns - started_ns
            return _new_tuple(
                self._make,
                head + ("ok", outputs, None, 1, (), False, None, began_s, lasted_ns, (), None, None, None),  # noqa: RUF005 - faster
            )
        return self._detailed(run, step, detail or _NO_DETAIL, outputs, run.now_ns)

    def commit(self, delta: StepDelta) -> None:
        """Append a finished step; see `save`."""
        if self.append is not None:
            try:
                self.append(self.trace_id, delta)
            except RunClaimLostError as exc:
                raise RunCancelled("claim") from exc
            except StoreUnavailableError:
                self.is_out_of_reach = True
                raise
        else:
            self.snapshot.steps.append(delta)
            self.checkpointer.save(self.snapshot)

    def _detailed(
        self, run: Run, step: PlannedStep, detail: Detail, outputs: dict[str, Any] | None, ended_ns: int
    ) -> StepDelta:
        """A step that did more than succeed, or one of a nested run."""
        own = run is self._run
        started_ns = run.started[step.index]
        head = self._heads[step.index] if own else (step.index, step.step_id, step.name, step.fingerprint())
        return self._make(
            *head,
            status="ok" if detail.status not in ("skipped", "failed") else detail.status,
            outputs=None if is_put_together(detail) else outputs,
            error=None if detail.error is None else self._told(run, error_facts(detail.error)),
            attempts=0 if detail.cached else detail.retries + 1,
            retry_errors=tuple(self._text(run, text) for text in detail.retry_errors),
            cached=detail.cached,
            fallback_tool_name=detail.fallback,
            started_at=self._wall_minus_clock_s + started_ns / 1e9,
            duration_ns=ended_ns - started_ns,
            path=run.key,
            decision=run.decision_of(step),
            approval=detail.approval,
            inside=self._inside(detail),
        )

    def _told(self, run: Run, facts: StepError) -> StepError:
        """What is kept of an error: its text is a view of the run, which may repeat what somebody hides (R39)."""
        error_type, code, message, cause = facts
        return error_type, code, self._text(run, message), cause

    def _text(self, run: Run, text: str) -> str:
        if run.rules.redaction is None:
            return without_parameters(run, text)
        from chainweaver.results import redacted_text

        return redacted_text(run, text)

    def _inside(self, detail: Detail) -> tuple[StepDelta, ...] | None:
        """The failed steps of the run that a step ran in vain: they are part of its record, and of no commit."""
        nested = detail.nested
        if nested is None or (detail.error is None and detail.fallback is None):
            return None
        failed = ((nested.plan.steps[index], nested.details[index]) for index in sorted(nested.failures))
        return tuple(
            self._detailed(nested, step, one, None, nested.ended[step.index]) for step, one in failed if not one.surplus
        )

    def _stored(self, run: Run, step: PlannedStep, outputs: dict[str, Any]) -> dict[str, Any]:
        """What a step merged as the store keeps it: under the tool's own names, and plain where the store asks."""
        if step.rename is not None:
            outputs = unmapped(step.rename, outputs)
        if self.plain:
            outputs = self._plain(step, outputs, run.answered(step))
        return outputs

    def _plain(self, step: PlannedStep, outputs: dict[str, Any], tool: PlannedTool | None) -> dict[str, Any]:
        from chainweaver.objects import PlainEncodeError, bind_reduce

        assert tool is not None, "a step with outputs has a tool"
        bound = self._reduces.get(tool.output_model)
        if bound is None:
            bound = self._reduces[tool.output_model] = bind_reduce(tool.output_model)
        try:
            return bound(outputs)
        except PlainEncodeError as exc:
            raise CheckpointEncodeError(
                step.name, step.index, exc.key, str(exc), step_name=step.label,
                fix="declare the type of the field, or return plain values",
            ) from exc  # fmt: skip


def without_parameters(run: Run, text: str) -> str:
    """A text without the dynamic parameters of its run, which are given in confidence, policy or not."""
    passed = (run.root.slots[-1] or {}).values()
    if not passed:
        return text
    from chainweaver.observe.secret_texts import Literals

    values = [value.get_secret_value() if hasattr(value, "get_secret_value") else value for value in passed]
    literals = Literals({one for one in values if isinstance(one, str)}, spared=lambda one: False)
    return literals.replaced(text, "***")


def is_put_together(detail: Detail | None) -> bool:
    """Whether the outputs of a step are those of a nested run, whose own steps are stored already (R31)."""
    return detail is not None and detail.nested is not None and detail.fallback is None


def unmapped(rename: tuple[tuple[str, str], ...], merged: dict[str, Any]) -> dict[str, Any]:
    """What a step merged, under the tool's own output names."""
    return {output_key: merged[context_key] for context_key, output_key in rename}


def error_facts(error: ChainWeaverError) -> tuple[str, str | None, str, str | None]:
    """Type, code, message and cause of an error, for stores."""
    cause = error.__cause__
    return type(error).__name__, error.code, str(error), None if cause is None else type(cause).__name__


_NO_DETAIL = Detail()


def _nothing() -> None:
    return None


LATER: Final = object()
"""Stands for a reply that is not there yet."""


class Services:
    """What a lane needs beside the tools.

    Attributes:
        callbacks: Who is asked for decisions, approvals and the like; shaped like tools, so that lanes call them alike.
        backlog: Waits until the reader of an event stream has caught up; None where nobody streams.
        blocking: The sync lane's performer for runs that nobody can stop, kept for the next run with these services.
        ask: Makes a call of the store of checkpoints where the calling thread must not wait for it; None where it may.
        lock: Where several threads perform for one run: they save and tell one at a time. None elsewhere.
        hands_back: A run that is stopped early has not ended, and is left to others.
        parted: Called at the end of the run: its token listens to others no longer.
        trust: An object of one run in which nobody changes values; None elsewhere (see `Sharing.lend`).
    """

    # What most runs do without lives on the class; see `Run`.
    callbacks: Mapping[str, Any] = {}
    cache: CacheService | None = None
    checkpoints: CheckpointService | None = None
    listeners: Listeners | None = None
    backlog: Callable[[], Awaitable[None]] | None = None
    ask: Callable[[Callable[[], Any]], Awaitable[Any]] | None = None
    lock: AbstractContextManager[Any] | None = None
    trust: object = None
    hands_back = False
    parted: Callable[[], None] = staticmethod(_nothing)
    _teller: Callable[[Tell], None] | None = None
    _leads: set[Lead] | None = None
    blocking: BlockingPerformer | None = None
    _handed_over = False

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def serve(self, command: Command) -> Any:
        """The reply to a command that can be answered at once; LATER for one that has to wait or to call a tool."""
        if type(command) is Tell:
            if self.backlog is not None:
                return LATER
            self.tell(command)
            return None
        if type(command) is Save:
            if self.ask is not None:
                return LATER
            return self.save(command)
        if type(command) is Lookup:
            found = self.look_up(command)
            return found if type(found) is dict or type(found) is Lead else LATER
        if type(command) is Settle:
            return self.settle(command)
        return LATER

    def look_up(self, command: Lookup) -> dict[str, Any] | Lead | Flight:
        assert self.cache is not None, "a run without a cache looks nothing up"
        found = self.cache.look_up(command)
        if type(found) is Lead:
            # Threads of one run may lead at the same time: one set for all, changed in place.
            vars(self).setdefault("_leads", set()).add(found)
            if self._handed_over:  # the run was given up meanwhile, and nobody will take this lead
                self.hand_over()
        return found

    def settle(self, command: Settle) -> str | None:
        assert self.cache is not None, "a run without a cache leads nothing"
        try:
            (self._leads or set()).remove(command.lead)
        except KeyError:  # handed over already
            return None
        return self.cache.settle(command)

    def hand_over(self) -> None:
        """Give away the leads that an interrupt kept the run from settling, so that nobody waits for it for ever."""
        self._handed_over = True
        for lead in list(self._leads or ()):
            self.settle(Settle(lead, None))

    def save(self, command: Save) -> None:
        assert self.checkpoints is not None, "a run without a checkpointer saves nothing"
        if self.lock is None:
            self.checkpoints.save(command)
            return
        with self.lock:
            self.checkpoints.save(command)

    def commit_of(self, command: Save) -> Callable[[], None]:
        """What is left to do of a save, by whatever thread: the step is noted as it is now."""
        assert self.checkpoints is not None, "a run without a checkpointer saves nothing"
        return partial(self.checkpoints.commit, self.checkpoints.delta_of(command))

    async def asked(self, call: Callable[[], T]) -> T:
        """What a call of the store of checkpoints gives."""
        if self.ask is None:
            return call()
        answer: T = await self.ask(call)
        return answer

    def tell(self, command: Tell) -> None:
        """Tell the listeners."""
        assert self._teller is not None, "a run without listeners tells nothing"
        if self.lock is None:
            self._teller(command)
            return
        with self.lock:
            self._teller(command)

    def streaming(self, command: Invoke) -> PlannedTool:
        """The tool of a command, such that its chunks reach the listeners while it works."""
        from chainweaver.observe.telling import tell_chunk
        from chainweaver.tools.streaming import closed_after, final_outputs

        run, step = command.place or (None, None)
        tool, listeners, now_ns = command.tool, self.listeners, self.runtime.now_ns
        stream = tool.stream
        assert run is not None, "only a command with a place streams"
        assert step is not None, "only a command with a place streams"
        assert stream is not None, "only a tool that streams has a place"
        assert listeners is not None, "a run without listeners streams to nobody"

        async def told(value: Any) -> AsyncIterator[Any]:
            async with closed_after(stream(value)) as chunks:
                async for chunk in chunks:
                    if not getattr(chunk, "is_final", True):
                        with self.lock or nullcontext():
                            tell_chunk(listeners, run, step, chunk.data, now_ns())
                        if self.backlog is not None:
                            await self.backlog()
                    yield chunk

        async def fn(value: Any) -> Any:
            return await final_outputs(told(value))

        return replace(tool, fn=fn)

    @property
    def teller(self) -> Callable[[Tell], None] | None:
        """What tells the listeners at once; None where nobody listens, or where telling has to wait for something."""
        return self._teller if self.lock is None and self.backlog is None else None

    @property
    def saver(self) -> Callable[[Save], None] | None:
        """What saves at once; None where there is no checkpointer, and where saving takes turns or may be awaited."""
        if self.lock is not None or self.ask is not None or self.checkpoints is None:
            return None
        return self.checkpoints.save

    def listen(self, listeners: Listeners) -> None:
        """Have these told."""
        from chainweaver.observe.telling import teller_of

        self.listeners = listeners
        self._teller = teller_of(listeners)
