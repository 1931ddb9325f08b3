"""A run above limit 1: which steps may go on, and which have to wait.

A Schedule is told what happened (`ok`, `err`) and answers with the step runs that can go on now, each with the command
to perform. It starts a step when its needs have finished, lets at most `limit` tool calls run at a time, lowest plan
index first, and names the step runs that a failure has made superfluous. It performs nothing.

A nested run has a schedule of its own, which shares the places of the one around it, or has places of its own where a
map says so. Lanes talk to the outermost one only.

Called by the lanes, from one thread at a time.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from chainweaver._execution.around import around
from chainweaver._execution.commands import Invoke, Nest, RunCancelled, Save, Settle, Tell
from chainweaver._execution.life import commit, needs_commit, obtain
from chainweaver._execution.liveness import fading_of
from chainweaver._execution.short import FAILED, enter, fail, leave, rename_and_branch
from chainweaver._execution.streams import closing
from chainweaver.exceptions import RunProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chainweaver._execution.commands import Command, StepLife
    from chainweaver._execution.run import Run
    from chainweaver.plan import PlannedStep


Resume: TypeAlias = "Callable[[Any], Command | Nest]"
"""Lets a step go on to its next command: `send` or `throw` of its generator, bound."""


class StepRun:
    """One step on its way.

    Attributes:
        life: The generator that the step goes through; None on the short path.
        command: What the lane has to perform now; None while the step waits and once it has finished.
        task: Whatever the lane needs to cancel it; the core never looks at it.
        owner: The schedule of the run that the step belongs to.
        nested: The schedule of the run that it waits for.
    """

    command: Command | None = None
    holds_slot = committing = False
    merged: dict[str, Any] | None = None
    task: Any = None
    nested: Schedule | None = None

    def __init__(self, owner: Schedule, step: PlannedStep, life: StepLife | None) -> None:
        self.owner = owner
        self.step = step
        self.life = life


class Places:
    """How many tools may be called at a time, and how many are."""

    __slots__ = ("held", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0


class Schedule:
    """The steps of one run and the order in which they may go on.

    Attributes:
        doomed: Step runs in flight that no longer matter. A lane takes them from the list, cancels those it can, and
            still replies for each of them.
    """

    __slots__ = (
        "run",
        "doomed",
        "_around",
        "_root",
        "_nested",
        "_places",
        "_most",
        "_unmet",
        "_closed",
        "_ready",
        "_queued",
        "_parked",
        "_flying",
        "_quick",
        "_wrapped",
        "_rows",
        "_fading",
    )

    def __init__(self, run: Run, limit: int, *, places: Places | None = None, around: StepRun | None = None) -> None:
        """
        Args:
            limit: How many tools may be called at a time; of a map also how many items are under way.
            places: Those of the run around this one, where it has none of its own.
            around: The step run that waits for this one.
        """
        self.run = run
        self.doomed: list[StepRun] = []
        self._around = around
        self._root: Schedule = self if around is None else around.owner._root
        self._nested: list[Schedule] = []  # of the outermost one: all that are under way, in the order they began
        self._places = places or Places(limit)
        # Items are bounded as such; and one place means one step after the other, also where a step holds none (R4).
        is_bounded = run.is_map or (limit == 1 and self._root.run.plan.needs_schedule)
        self._most = limit if is_bounded else len(run.plan.steps)
        plan = run.plan
        self._closed = [False] * len(plan.steps)  # finished, or never to start
        self._unmet = list(plan.need_counts)
        self._ready = list(plan.entries)
        self._queued: list[tuple[int, StepRun]] = []
        self._parked: list[StepRun] = []
        self._flying: dict[int, StepRun] = {}
        self._rows = run.rows
        self._quick = run.is_unattended() and not (run.saving or run.caching or run.releases)
        self._fading = fading_of(run)
        self._wrapped = bool(run.rules.around_step)
        if run.resumed:
            self._pass_over_finished()

    @property
    def over(self) -> bool:
        """Nothing is in flight, and so nothing more will start."""
        return not self._flying

    def _pass_over_finished(self) -> None:
        for step in self.run.plan.steps:
            # A step that is passed over again must not call up, for a second time, one behind it that has its outcome.
            if self.run.finished(step.index) or self.run.is_passed(step):
                self._close(step)
        self._ready = sorted(index for index in self._ready if not self._closed[index])

    def start(self) -> list[StepRun]:
        """The first step runs, in plan order."""
        return self._fill_all([])

    def ok(self, step_run: StepRun, value: Any) -> list[StepRun]:
        """Tell that the command of a step run succeeded; the step runs that can go on now.

        Raises:
            RunProtocolError: The step run has no command in flight. Nothing has changed; this is a bug in the lane.
        """
        owner = step_run.owner
        owner._take_reply(step_run)
        going: list[StepRun] = []
        if step_run.life is None:
            _, _, extra, _, _, tool, validate_output, scalars, direct = owner._rows[step_run.step.index]
            fields = leave(owner.run, step_run.step, tool, validate_output, scalars, direct, value)
            if extra and fields is not None:
                rename_and_branch(owner.run, step_run.step, fields)
            owner._finish(step_run, going)
        else:
            owner._advance(step_run, step_run.life.send, value, going)
        return self._fill_all(going)

    def err(self, step_run: StepRun, exc: BaseException) -> list[StepRun]:
        """Tell that the command of a step run failed with an exception; the step runs that can go on now.

        Raises:
            RunProtocolError: As for `ok`.
        """
        owner = step_run.owner
        owner._take_reply(step_run)
        going: list[StepRun] = []
        owner._throw(step_run, exc, going)
        return self._fill_all(going)

    def cancel(self, cancelled: RunCancelled) -> list[StepRun]:
        """End the run: nothing more starts, what waits is closed, and what is in flight is doomed."""
        going: list[StepRun] = []
        self._cancel(cancelled, going)
        return self._fill_all(going) if self._nested else going

    def give_up(self, cancelled: RunCancelled) -> list[StepRun]:
        """End the run without waiting for replies; the step runs that still have something to settle or to tell."""
        going = self.cancel(cancelled)
        for step_run in list(self._leaves()):
            if step_run.command is not None and step_run not in going:
                going += self.err(step_run, cancelled)
        self.doomed = []
        return going

    def stopped(self, step_run: StepRun) -> RunCancelled | None:
        """Why a step run must not go on with another command, None when it may."""
        run = step_run.owner.run
        if run.cancelled is not None:
            return run.cancelled
        return RunCancelled("surplus") if run.failures and run.is_surplus(step_run.step) else None

    # ---- nested runs

    def _nest(self, step_run: StepRun, command: Nest, going: list[StepRun]) -> None:
        """Begin the run that a step waits for."""
        if command.limit is None:
            nested = Schedule(command.run, self._places.limit, places=self._places, around=step_run)
        else:
            nested = Schedule(command.run, command.limit, around=step_run)
        step_run.nested = nested
        # Inner runs stand before the ones around them: what has begun goes on before more begins.
        siblings = self._root._nested
        siblings.insert(siblings.index(self) if self in siblings else len(siblings), nested)
        # At once, so that its calls take the places which would else go to the next step that nests.
        nested._fill(going)

    def _fill_all(self, going: list[StepRun]) -> list[StepRun]:
        """Fill the nested schedules and then this one; one that is over lets the step around it go on."""
        while True:
            at = 0
            while at < len(self._nested):
                nested, under_way = self._nested[at], len(self._nested)
                nested._fill(going)
                if len(self._nested) > under_way:
                    continue  # what it began stands before it, and may be over already
                # What is ready waits for a place; it never starts once the run has been told to end.
                if nested._flying or (nested._ready and nested.run.cancelled is None):
                    at += 1
                    continue
                del self._nested[at]
                nested._hand_back(going)
                at = 0
            under_way = len(self._nested)
            self._fill(going)
            if len(self._nested) == under_way:
                return going

    def _hand_back(self, going: list[StepRun]) -> None:
        """The nested run is over: the step around it goes on with what came of it."""
        step_run = self._around
        assert step_run is not None, "the outermost run is nested in nothing"
        assert step_run.life is not None, "a step that nests has a life"
        step_run.nested = None
        step_run.owner._advance(step_run, step_run.life.send, None, going)

    def _leaves(self) -> Iterator[StepRun]:
        for step_run in list(self._flying.values()):
            if step_run.nested is None:
                yield step_run
            else:
                yield from step_run.nested._leaves()

    def _cancel(self, cancelled: RunCancelled, going: list[StepRun]) -> None:
        if self.run.cancelled is None:
            self.run.cancelled = cancelled
            self._drop(lambda index: True, cancelled, going)

    # ---- one run

    def _take_reply(self, step_run: StepRun) -> None:
        if step_run.command is None:
            raise RunProtocolError(f"step '{step_run.step.step_id}' got a reply without a command in flight")
        step_run.command = None
        if step_run.holds_slot:
            step_run.holds_slot = False
            self._places.held -= 1

    def _fill(self, going: list[StepRun]) -> list[StepRun]:
        """Commit what waited for its rivals, hand out free slots and start what is ready, in plan order."""
        ready, queued, places = self._ready, self._queued, self._places
        while ready or queued or self._parked:
            if self._parked and (free := self._free_of_rivals()) is not None:
                self._commit(free, going)
            elif queued and places.held < places.limit and not (ready and ready[0] < queued[0][0] and self._has_room()):
                step_run = heappop(queued)[1]
                places.held += 1
                step_run.holds_slot = True
                going.append(step_run)
            elif ready and places.held < places.limit and self._has_room():
                self._begin(heappop(ready), going)
            else:
                break
        return going

    def _has_room(self) -> bool:
        return len(self._flying) < self._most

    def _begin(self, index: int, going: list[StepRun]) -> None:
        run = self.run
        step, plain, extra, read, validate_input, tool, _, scalars, _ = self._rows[index]
        if run.cancelled is not None or (run.failures and run.barred(step)) or (extra and run.is_passed(step)):
            self._close(step)
        elif plain and self._quick:
            step_run = self._flying[index] = StepRun(self, step, None)
            value = enter(run, step, read, validate_input, scalars)
            if value is FAILED:
                self._finish(step_run, going)
                return
            # A step only begins while a slot is free, so that its call can have it.
            step_run.command = (tool, value)
            self._places.held += 1
            step_run.holds_slot = True
            going.append(step_run)
        else:
            life = obtain(run, step)
            if step.streams is not None:
                life = closing(run, step, step.streams, life)
            if self._wrapped:
                life = around(run, step, life)
            step_run = self._flying[index] = StepRun(self, step, life)
            self._advance(step_run, life.send, None, going)

    def _throw(self, step_run: StepRun, exc: BaseException, going: list[StepRun]) -> None:
        """Let a step deal with an exception that its command came to."""
        if step_run.life is not None:
            self._advance(step_run, step_run.life.throw, exc, going)
            return
        step = step_run.step
        if isinstance(exc, RunCancelled):
            self.run.cancel(step)
            self._stop_by(exc, going)
        else:
            tool = self.run.plan.rows[step.index].tool
            fail(self.run, step, tool, cast("Exception", exc))
        self._finish(step_run, going)

    def _stop_by(self, cancelled: RunCancelled, going: list[StepRun]) -> None:
        """A step was told to end: with the whole run, or because it had become superfluous."""
        if cancelled.reason != "surplus":
            self._cancel(cancelled, going)

    def _advance(self, step_run: StepRun, resume: Resume, reply: Any, going: list[StepRun]) -> None:
        """Let a step go on to its next command, to its commit or to its end."""
        run, life = self.run, step_run.life
        assert life is not None, "the short path has no life to advance"
        try:
            command = resume(reply)
            if run.failures or run.cancelled is not None:
                stopped = self.stopped(step_run)
                if stopped is not None and not isinstance(command, (Settle, Save, Tell)):
                    command = life.throw(stopped)
        except StopIteration as end:
            if step_run.committing:
                self._finish(step_run, going)
            else:
                self._obtained(step_run, end.value, going)
        except RunCancelled as cancelled:
            self._stop_by(cancelled, going)
            self._finish(step_run, going)
        else:
            self._command(step_run, command, going)

    def _obtained(self, step_run: StepRun, merged: dict[str, Any] | None, going: list[StepRun]) -> None:
        """A step has its outputs, or none: commit them, once its rivals have theirs."""
        step = step_run.step
        if not needs_commit(self.run, step):
            self.run.keep(step, merged)
            self._finish(step_run, going)
            return
        step_run.merged = merged
        self._parked.append(step_run)
        # A failure has no keys to compare, and should stop others soon.
        if merged is None or self._rivals_closed(step_run):
            self._commit(step_run, going)

    def _command(self, step_run: StepRun, command: Command | Nest, going: list[StepRun]) -> None:
        """Hand a command to the lane; the call of a tool needs a free slot."""
        if type(command) is Nest:
            self._nest(step_run, command, going)
            return
        step_run.command = cast("Command", command)
        if type(command) is tuple or type(command) is Invoke:
            if self._places.held >= self._places.limit:
                heappush(self._queued, (step_run.step.index, step_run))
                return
            self._places.held += 1
            step_run.holds_slot = True
        elif type(command) is Save:
            # A crash repeats what has run and is not committed, and that is to be no more than may run at once (R31).
            self._places.held += 1
            step_run.holds_slot = True
        going.append(step_run)

    def _rivals_closed(self, step_run: StepRun) -> bool:
        return all(self._closed[rival] for rival in step_run.step.rivals)

    def _free_of_rivals(self) -> StepRun | None:
        return next((one for one in self._parked if self._rivals_closed(one)), None)

    def _commit(self, step_run: StepRun, going: list[StepRun]) -> None:
        self._parked.remove(step_run)
        step_run.committing = True
        step_run.life = life = commit(self.run, step_run.step, step_run.merged)
        step_run.merged = None  # a task may hold the step run for longer than anybody needs the values
        self._advance(step_run, life.send, None, going)

    def _finish(self, step_run: StepRun, going: list[StepRun]) -> None:
        """The step has its outcome: let its dependents know, and drop what a failure has made superfluous."""
        step = step_run.step
        index = step.index
        del self._flying[index]
        # As in _close(), which would cost every step another call.
        self._closed[index] = True
        unmet = self._unmet
        for fed in step.feeds:
            unmet[fed] -= 1
            if not unmet[fed]:
                heappush(self._ready, fed)
        if self._fading is not None:
            self._fading.after(index)
        if self.run.failures and (bar := self.run.bar()) == step.index:
            self._drop(lambda index: index > bar, RunCancelled("surplus"), going)

    def _close(self, step: PlannedStep) -> None:
        self._closed[step.index] = True
        if self._fading is not None:
            self._fading.after(step.index)
        unmet = self._unmet
        for index in step.feeds:
            unmet[index] -= 1
            if not unmet[index]:
                heappush(self._ready, index)

    def _drop(self, concerned: Callable[[int], bool], cancelled: RunCancelled, going: list[StepRun]) -> None:
        """Doom the step runs in flight that are concerned; those that only wait for a slot are cancelled at once."""
        waiting = [one for _, one in sorted(self._queued) if concerned(one.step.index)]
        self._queued[:] = sorted((index, one) for index, one in self._queued if not concerned(index))
        for step_run in waiting:
            step_run.command = None
            self._throw(step_run, cancelled, going)
        doomed = self._root.doomed
        for index, one in list(self._flying.items()):
            if not concerned(index):
                continue
            if one.nested is not None:
                one.nested._cancel(cancelled, going)
            elif one.command is not None and one not in doomed:
                doomed.append(one)
