"""The life of one step, read from top to bottom: inputs, cache, attempts, fallback, checks, checkpoint.

One generator for every lane and every kind of flow. It yields commands, receives replies, and leaves the outcome in the
run. `walk` and `schedule` delegate to it for steps with a policy and for runs with a listener, a deadline or a past.
Every other step takes the short path (in `schedule`, only without a cache or a checkpointer), and a differential test
keeps the two equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from chainweaver._execution.asking import (
    Unrehearsed,
    allowed,
    approval,
    chosen_tool,
    guardrail,
    shown_values,
    values_of,
)
from chainweaver._execution.commands import Invoke, Lead, Lookup, RunCancelled, Save, Settle, Sleep, Tell, TimedOut
from chainweaver._execution.conclude import has_gaps, is_passed_through
from chainweaver._execution.liveness import forget_frames, lets_go
from chainweaver._execution.nested import run_flow, run_items
from chainweaver._execution.run import FROM_CACHE
from chainweaver._execution.streams import NOT_CACHED, catch, refused, take
from chainweaver.exceptions import (
    ChainWeaverError,
    CheckpointEncodeError,
    ContextKeyCollisionError,
    FlowExecutionError,
    GuardrailViolationError,
    InputMappingError,
    OutputMappingError,
    SchemaValidationError,
    ToolOutputSizeError,
    ToolTimeoutError,
    told,
    violations,
)
from chainweaver.flow.callbacks import CapabilityContext
from chainweaver.plan import KeyMissing, NoFingerprint

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

    from chainweaver._execution.commands import Command, Nest, PlainCall, StepLife, WalkedLife
    from chainweaver._execution.run import Run
    from chainweaver.plan import Branches, PlannedMap, PlannedRetry, PlannedStep, PlannedTool

    Fields = Generator[Command | Nest, Any, dict[str, Any]]


def obtain(run: Run, step: PlannedStep) -> StepLife:
    """Get the outputs of a step, as they will be merged; None when it failed or was skipped.

    Raises:
        RunCancelled: The lane threw it, or the deadline has passed. A step that had started is recorded as cancelled.
    """
    if run.deadline_ns is not None:
        run.check_deadline()
    run.started[step.index] = run.clock.now_ns
    try:
        given, problem = take_inputs(run, step)
        if run.listening:
            yield Tell("step_start", run, step)
        if problem is not None:
            raise problem
        if step.each is not None:
            return (yield from mapped_over(run, step, step.each, given))
        try:
            assert step.tool is not None, "a step without a tool has a fault"
            tool = (yield from chosen_tool(run, step, given)) if step.candidates else step.tool
            return mapped(run, step, tool, (yield from called(run, step, tool, given)))
        except Exception as first:
            if step.on_error != "fallback" or is_spent(step, given):
                raise
            tool = stand_in(run, step, domain_error(step, first))
            return mapped(run, step, tool, (yield from called(run, step, tool, given)))
    except RunCancelled:
        run.cancel(step)
        if run.listening:
            yield Tell("step_end", run, step)
        raise
    except Unrehearsed as passed_over:
        run.skip(step, passed_over.error)
        return None
    except Exception as exc:
        error = domain_error(step, exc)
        if step.on_error == "skip" or lacks_rehearsal(run, step):
            run.skip(step, error)
        else:
            run.fail(step, error)
        return None


def called(run: Run, step: PlannedStep, tool: PlannedTool, given: dict[str, Any]) -> Fields:
    """The outputs of one tool of a step: all that lies between its inputs and them.

    No generator itself, but the choice among three: most steps ask nobody, and go through one generator less.
    """
    rules = run.rules
    if rules.concern_every_step:
        tool = allowed(run, step, tool)
    if step.chunks is not None:
        # It comes back here for its attempts, and for the gates of each call.
        from chainweaver._execution.chunked import in_chunks

        return in_chunks(run, step, step.chunks, tool, given)
    value = check_input(step, tool, given)
    needs_approval = tool.safety is not None and tool.safety.requires_approval
    if needs_approval or rules.guards or (run.caching and is_looked_up(run, step, tool)):
        return asked_and_looked_up(run, step, tool, given, value)
    if step.child is not None and tool is step.tool and has_no_attempts(step):
        return run_flow(run, step, step.child, value, 1)
    return attempts(run, step, tool, given, value)


def asked_and_looked_up(run: Run, step: PlannedStep, tool: PlannedTool, given: dict[str, Any], value: Any) -> Fields:
    """The outputs of a tool that somebody has to agree to, that somebody looks at, or that a cache may know."""
    guards = run.rules.guards
    yield from approval(run, step, tool, shown_values(step, value))
    if guards:
        yield from guardrail(run, step, tool, "input", shown_values(step, value))
    look_up = None
    if run.caching and is_looked_up(run, step, tool):
        look_up = lookup_of(run, step, tool, value)
    if look_up is None:
        fields = yield from attempts(run, step, tool, given, value)
    else:
        try:
            reply = yield look_up
        except TimedOut:
            raise RunCancelled("deadline") from None
        if isinstance(reply, Lead):
            fields = yield from led_outputs(run, step, tool, given, value, reply)
        else:
            fields = hit(run, step, tool, reply)
    if guards:
        yield from guardrail(run, step, tool, "output", dict(fields))
    return fields


def is_looked_up(run: Run, step: PlannedStep, tool: PlannedTool) -> bool:
    """Whether the step cache, in a run that has one, may know what a tool gives."""
    if not tool.cacheable or tool is step.fallback:
        return False
    if step.streams is not None:
        run.detail(step.index).cache_note = NOT_CACHED
    return step.streams is None


def has_no_attempts(step: PlannedStep) -> bool:
    """Whether what a sub-flow fails with is what its step fails with: nothing is tried again, timed or checked."""
    return step.retry is None and step.timeout_s is None and step.check_outputs is None


def mapped_over(run: Run, step: PlannedStep, each: PlannedMap, given: dict[str, Any]) -> Fields:
    """The outputs of a step that runs once per item."""
    try:
        fields = yield from run_items(run, step, each, given)
    except KeyMissing as exc:
        raise mapping_error(run, step, exc) from exc
    assert step.tool is not None, "a step without a tool has a fault"
    return mapped(run, step, step.tool, fields)


def lacks_rehearsal(run: Run, step: PlannedStep) -> bool:
    """Whether a dry run passes over a step that failed, because it passed over one that the step needs."""
    if run.rules.dry != "skip":
        return False
    nested = None if (detail := run.details.get(step.index)) is None else detail.nested
    # A sub-flow may have done all it could, and still lack what it has to give.
    own = nested is not None and not nested.failures and has_gaps(nested, range(len(nested.plan.steps)))
    return own or has_gaps(run, step.needs)


def needs_commit(run: Run, step: PlannedStep) -> bool:
    """Whether making an outcome count takes more than keeping it."""
    return bool(run.saving or run.listening or step.branches or step.guards_input or step.rivals or run.failures)


def commit(run: Run, step: PlannedStep, merged: dict[str, Any] | None) -> WalkedLife:
    """Make the outcome of a step count: check it against its rivals, choose its branch, save it, tell about it.

    Rivals have finished by now. A collision, a predicate or a store error fails the step whatever its `on_error` says:
    the first two are faults of the flow, the last means that going on could not be resumed.
    """
    try:
        surplus = bool(run.failures) and run.is_surplus(step)
        if merged is not None:
            if surplus:
                run.set_aside(step, merged)
            else:
                if step.rivals or step.guards_input:
                    check_rivals(run, step, merged)
                run.slots[step.index + 1] = merged
        if not surplus and (merged is not None or run.status_of(step.index) == "skipped"):
            if step.branches is not None:
                choose_branch(run, step, step.branches, merged)
            if run.saving:
                yield Save(run, step, merged)
    except RunCancelled:
        run.cancel(step)
        raise
    except Exception as exc:
        run.fail(step, store_error(step, exc))
        merged = None
    run.ended[step.index] = run.now_ns
    if run.listening:
        yield Tell("step_end", run, step)
    return merged


def choose_branch(run: Run, step: PlannedStep, branches: Branches, merged: dict[str, Any] | None) -> None:
    """Take the first edge whose predicate holds, else the default (R24); a skipped step has nothing to ask about.

    Raises:
        FlowExecutionError: A predicate could not be answered.
    """
    for holds, target, predicate in branches.edges if merged is not None else ():
        try:
            is_taken = holds(run.slots)
        except Exception as exc:
            label = run.plan.steps[target].label
            detail = f"the predicate '{predicate}' of its branch to '{label}' cannot be answered: {told_of(exc)}"
            raise FlowExecutionError(
                step.name, step.number, detail, step_name=step.label, fix="let the predicate fit the values it reads"
            ) from exc
        if is_taken:
            run.take(step.index, target)
            return
    run.take(step.index, branches.default)


def told_of(exc: Exception) -> str:
    """What a predicate ran into."""
    return f"there is no '{exc.key}'" if isinstance(exc, KeyMissing) else told(exc)


# ---- inputs


def take_inputs(run: Run, step: PlannedStep) -> tuple[dict[str, Any], ChainWeaverError | None]:
    """The inputs of the step from the slots it is bound to, and what kept them from being read."""
    problem: ChainWeaverError | None = None
    given: dict[str, Any] = {}
    if step.fault is not None:
        problem = step.fault()
    elif run.saving and (secrets := secret_outputs(step)):
        problem = secrets_error(step, secrets[0])
    else:
        try:
            given = step.read(run.slots)
        except Exception as exc:
            problem = mapping_error(run, step, exc)
        if step.streams is not None:
            given = take(run, step, step.streams, given)
            problem = problem or refused(run, step, step.streams)
    run.show_inputs(step, given)
    return given, problem


def mapping_error(run: Run, step: PlannedStep, exc: Exception) -> ChainWeaverError:
    """Why the inputs of a step could not be read, as a domain error."""
    if run.rules.dry == "skip" and has_gaps(run, step.needs):
        # Where the value should be there is nothing at all, and what that did to the reader tells nobody anything.
        detail = "it reads what a step gives that has no dry run"
        return FlowExecutionError(step.name, step.index, detail, step_name=step.label)
    if isinstance(exc, KeyMissing):
        key, known = exc.key, exc.known
    elif isinstance(exc, KeyError) and exc.args:
        key, known = str(exc.args[0]), visible_keys(run, step)
    else:
        return domain_error(step, exc)
    fix = parameters_fix([key]) if key in run.plan.dynamic_params else None
    error: ChainWeaverError = _caused(
        InputMappingError(step.name, step.number, key, known=known, step_name=step.label, fix=fix), exc
    )
    return error


def visible_keys(run: Run, step: PlannedStep) -> tuple[str, ...]:
    """The context keys that are there whenever the step runs: of the input, of all it depends on, dynamic ones.

    What others have written meanwhile is left out: a message must not depend on who was faster.
    """
    ancestors: set[int] = set()
    todo = list(step.needs)
    while todo:
        index = todo.pop()
        if index not in ancestors:
            ancestors.add(index)
            todo += run.plan.steps[index].needs
    filled = (0, *(index + 1 for index in sorted(ancestors)), -1)
    return tuple(dict.fromkeys(key for slot in filled for key in run.slots[slot] or ()))


def check_input(step: PlannedStep, tool: PlannedTool, given: dict[str, Any]) -> Any:
    """The validated input model of a tool."""
    try:
        if step.check_inputs is not None:
            step.check_inputs(given)
    except Exception as exc:
        raise schema_error(tool, step, exc, "input contract") from exc
    return valid_input(step, tool, given)


def valid_input(step: PlannedStep, tool: PlannedTool, given: dict[str, Any]) -> Any:
    """The validated input model of a tool, whatever the contract of the step."""
    try:
        return tool.validate_input(given)
    except Exception as exc:
        raise schema_error(tool, step, exc, "input") from exc


def secret_outputs(step: PlannedStep) -> list[str]:
    """The outputs of the step's tools that no store may see."""
    return [field for tool in (step.tool, step.fallback) if tool is not None for field in tool.secret_outputs]


def secrets_error(step: PlannedStep, field: str) -> CheckpointEncodeError:
    """A checkpoint needs real values, and no store of ours keeps secrets (R39); said before the tool does anything."""
    detail = "it is a secret, and the checkpointer has no cipher"
    return CheckpointEncodeError(step.name, step.number, field, detail, step_name=step.label)


def schema_error(tool: PlannedTool, step: PlannedStep, exc: Exception, border: str) -> SchemaValidationError:
    """What a schema refused, without the refused values: they may be secret, and the record shows them anyway."""
    fix = way_out(exc, border, step.dynamic_fields)
    if border == "output" and step.capability is not None and tool is step.tool:
        fix = "let the capability hook give back a mapping with these names and types"
    return SchemaValidationError(tool.name, step.number, violations(exc), context=border, step_name=step.label, fix=fix)


def way_out(exc: Exception, border: str, parameters: Collection[str] = ()) -> str:
    """What to do about a refused value: at its source for inputs, in the tool for outputs.

    Args:
        parameters: The inputs that dynamic parameters feed.
    """
    if border.startswith("output"):
        return "let the tool return what its output schema declares, or declare what it returns"
    errors = getattr(exc, "errors", None)
    found = errors(include_url=False, include_context=False, include_input=False) if callable(errors) else []
    if found and all(one["type"] == "missing" for one in found):
        missing = [str(one["loc"][-1]) for one in found]
        if all(name in parameters for name in missing):
            return parameters_fix(missing)
        named = ", ".join(f"'{name}'" for name in missing if name not in parameters)
        return f"give the flow a context key {named}, or map one with input_mapping"
    return "map a value that fits, or convert it in a step before"


def parameters_fix(names: Collection[str]) -> str:
    """Where dynamic parameters come from."""
    passed = ", ".join(f"'{name}': ..." for name in names)
    typed = " ".join(f"--param {name}=..." for name in names)
    return f"pass dynamic_params={{{passed}}}, or {typed}; a flow that runs this one has to list the name as well"


# ---- outputs


def stand_in(run: Run, step: PlannedStep, error: ChainWeaverError) -> PlannedTool:
    """The fallback, which takes over with the same inputs, the same gates and attempts of its own."""
    assert step.fallback is not None, "a step that lacks one of its tools has a fault"
    detail = run.detail(step.index)
    detail.retry_errors += (told(error),)
    detail.fallback = step.fallback.name
    if lets_go(run):
        forget_frames(error)
    return step.fallback


def lookup_of(run: Run, step: PlannedStep, tool: PlannedTool, value: Any) -> Lookup | None:
    """What to ask the step cache; None for inputs that have no fingerprint, and the record says why."""
    try:
        digest = tool.fingerprint(value)
    except NoFingerprint as reason:
        run.detail(step.index).cache_note = str(reason)
        return None
    return Lookup(tool, digest, None if run.deadline_ns is None else run.remaining_s())


def hit(run: Run, step: PlannedStep, tool: PlannedTool, found: dict[str, Any]) -> dict[str, Any]:
    """The outputs that the cache holds."""
    if run.deadline_ns is not None:
        run.check_deadline()
    if step.index in run.details:
        run.details[step.index].cached = True
    else:
        run.details[step.index] = FROM_CACHE
    if step.check_outputs is not None:
        check_contract(step, tool, found)
    return found


def led_outputs(
    run: Run, step: PlannedStep, tool: PlannedTool, given: dict[str, Any], value: Any, lead: Lead
) -> Fields:
    """The outputs that this run computes for itself and for everybody who waits for them."""
    if lead.note is not None:
        run.detail(step.index).cache_note = lead.note
    try:
        fields = yield from attempts(run, step, tool, given, value)
    except (Exception, RunCancelled):
        yield Settle(lead, None)
        raise
    note = yield Settle(lead, fields)
    if note is not None:
        run.detail(step.index).cache_note = note
    return fields


def attempts(run: Run, step: PlannedStep, tool: PlannedTool, given: dict[str, Any], value: Any) -> Fields:
    """Call the tool, and call it again as the retry policy says; the validated output fields."""
    retry = step.retry
    number = 1 if run.past is None or step.child is None or tool is not step.tool else run.past.attempts(run, step)
    if number > 1:
        # A store may know attempts of a sub-flow that failed in an earlier part of the run, but not what with.
        run.detail(step.index).retries = number - 1
    seal = None if run.rules.seal is None else run.rules.seal(step, tool, given)
    while True:
        command: Any = None
        try:
            if step.child is not None and tool is step.tool:
                raw = yield from run_flow(run, step, step.child, value, number)
            elif step.chunks is not None:
                from chainweaver._execution.chunked import run_chunks

                raw = yield from run_chunks(run, step, step.chunks, tool, given, number)
            else:
                if step.capability is None:
                    command = run.invocation(step, tool, value, number)
                else:
                    command = invocation(run, step, tool, value, number)
                raw = yield command
                if run.printing or step.streams is not None:
                    raw = received(run, step, raw)
        except Exception as exc:
            run.note_printed(step, exc)
            if run.deadline_ns is not None:
                check_overdue(run, step, tool, command, exc)
            error, cause = call_error(step, tool, exc)
        else:
            if run.deadline_ns is not None:
                run.check_deadline()
            if seal is not None:
                seal()
            try:
                # What was put together of chunks was checked chunk by chunk.
                return check_output(step, tool, raw, None if run.rules.seal else value) if step.chunks is None else raw
            except ChainWeaverError as exc:
                error = cause = exc
        if retry is None or number > retry.max_retries or not is_retryable(retry, cause) or is_spent(step, given):
            raise error
        if seal is not None:
            seal()
        note_retry(run, step, error)
        del error, cause  # their tracebacks hold this very frame
        yield from pause(run, retry, number)
        number += 1
        # The tool may have changed its model; the next attempt gets a fresh one from the same inputs.
        value = check_input(step, tool, given) if step.chunks is None else given


def received(run: Run, step: PlannedStep, raw: Any) -> Any:
    """What a tool returned, once everything that came with it is noted."""
    if run.printing:
        raw = run.note_printed(step, raw)
    return raw if step.streams is None else catch(run, step, step.streams, raw)


def note_retry(run: Run, step: PlannedStep, error: ChainWeaverError) -> None:
    """Count an attempt that failed and is followed by another."""
    detail = run.detail(step.index)
    detail.retries += 1
    detail.retry_errors += (told(error),)
    if lets_go(run):
        forget_frames(error)


def is_spent(step: PlannedStep, given: dict[str, Any]) -> bool:
    """Whether what a step has read, or cuts into chunks, can be read only once: another attempt would see the rest."""
    if step.streams is not None and step.streams.is_begun(given, step.streams.takes):
        return True
    return step.chunks is not None and isinstance(given.get(step.chunks.key), Iterator)


def invocation(run: Run, step: PlannedStep, tool: PlannedTool, value: Any, number: int) -> PlainCall | Invoke:
    """The command that performs an attempt of a capability step: by the hook, or by the tool that stands in for it."""
    if tool is not step.tool:
        return run.invocation(step, tool, value, number)
    if run.rules.capability is None:
        raise FlowExecutionError(
            step.name,
            step.number,
            f"there is nobody to perform capability '{step.capability}'",
            fix="pass capability_hook= to FlowExecutor",
        )
    context = CapabilityContext(
        run.trace_id(), run.plan.flow_name, step.index, step.step_id, step.capability or "", values_of(value),
        run.idempotency_key(step), number,
    )  # fmt: skip
    return Invoke(run.rules.capability, context, None, run.limit_s(tool.timeout_s, step.timeout_s))


def pause(run: Run, retry: PlannedRetry, number: int) -> Generator[Command, Any, None]:
    """Wait before retry `number`, but never beyond the deadline."""
    delay_s, remaining_s = retry.delay_s(number), run.remaining_s()
    if remaining_s is not None and delay_s >= remaining_s:
        # There will be no next attempt; jitter must not make the wait so short that there is one after all.
        yield Sleep(remaining_s)
        raise RunCancelled("deadline")
    if delay_s > 0:
        yield Sleep(delay_s, retry.jitter)
        run.check_deadline()


def own_limit_s(step: PlannedStep, tool: PlannedTool) -> float | None:
    """The time limit that the step or its tool sets for one attempt, apart from the deadline of the run."""
    return min((limit for limit in (tool.timeout_s, step.timeout_s) if limit is not None), default=None)


def check_overdue(run: Run, step: PlannedStep, tool: PlannedTool, command: Command, exc: Exception) -> None:
    """End the run when an attempt failed for want of time that the whole run does not have either.

    Raises:
        RunCancelled: The deadline has passed, or it was the limit of the call.
    """
    run.check_deadline()
    if isinstance(exc, TimedOut) and is_due_to_deadline(step, tool, command):
        raise RunCancelled("deadline") from None


def is_due_to_deadline(step: PlannedStep, tool: PlannedTool, command: Command) -> bool:
    """Whether a call that timed out had the rest of the run as its limit; a lane may see the end a moment early."""
    return isinstance(command, Invoke) and command.timeout_s != own_limit_s(step, tool)


def call_error(step: PlannedStep, tool: PlannedTool, exc: Exception) -> tuple[ChainWeaverError, Exception]:
    """What an attempt failed with: the domain error, and the exception that retry policies are asked about."""
    if isinstance(exc, TimedOut):
        why = "it was abandoned in its thread and may still be running" if exc.abandoned else None
        kind = "Tool" if step.child is None or tool is not step.tool else "Sub-flow"
        timeout = ToolTimeoutError(tool.name, own_limit_s(step, tool) or 0.0, kind, why=why)
        return timeout, timeout
    error = domain_error(step, exc)
    # What a sub-flow failed with is asked about as if its tool had been called here.
    foreign = exc.__cause__ if step.child is not None and type(exc) is FlowExecutionError else None
    return error, foreign if isinstance(foreign, Exception) else exc


def is_retryable(retry: PlannedRetry, cause: Exception) -> bool:
    """Whether the policy retries this exception; what will not change by trying again has to be named."""
    if isinstance(cause, (SchemaValidationError, ToolOutputSizeError)):
        return isinstance(cause, retry.named_refusals)
    if isinstance(cause, GuardrailViolationError):
        return False  # it looks at every call of a chunked step, and no attempt changes its mind
    return isinstance(cause, retry.retryable)


def check_output(step: PlannedStep, tool: PlannedTool, raw: Any, value: Any = None) -> dict[str, Any]:
    """The validated output fields of a tool, by identity, held against the contract of the step.

    Args:
        value: The input model that the tool was called with; None where changes in place are looked for, and an object
            that is handed back may have been changed since it was validated.
    """
    fields = opened_output(step, tool, raw, value)
    if step.check_outputs is not None:
        check_contract(step, tool, fields)
    return fields


def opened_output(step: PlannedStep, tool: PlannedTool, raw: Any, value: Any = None) -> dict[str, Any]:
    """The validated output fields of a tool, by identity."""
    fields: dict[str, Any]
    try:
        if tool.hand_back is not None and value is not None:
            model, fields = tool.hand_back(raw, value)
        else:
            model = validated_output(tool, raw)
            # A model that the tool made itself may be kept by the tool: its dict is not ours to share.
            fields = model.__dict__ if tool.direct_output and model is not raw else tool.open_output(model)
    except Exception as exc:
        raise schema_error(tool, step, exc, "output") from exc
    if tool.max_output_size is not None:
        size = tool.output_size(model)
        if size > tool.max_output_size:
            raise ToolOutputSizeError(tool.name, size, tool.max_output_size)
    return fields


def validated_output(tool: PlannedTool, raw: Any) -> Any:
    """The output model; an instance of another model class is taken by its fields."""
    try:
        return tool.validate_output(raw)
    except Exception:
        fields = tool.foreign_fields(raw)
        if fields is None:
            raise
    return tool.validate_output(fields)


def check_contract(step: PlannedStep, tool: PlannedTool, fields: dict[str, Any]) -> None:
    """Hold the outputs against the contract of the step; the values stay as they are."""
    assert step.check_outputs is not None
    try:
        step.check_outputs(fields)
    except Exception as exc:
        raise schema_error(tool, step, exc, "output contract") from exc


def mapped(run: Run, step: PlannedStep, tool: PlannedTool, fields: dict[str, Any]) -> dict[str, Any]:
    """The outputs under their context keys; the record keeps them under the tool's own names."""
    if step.rename is None:
        if not (tool.number_outputs or run.shows_slot(tool)):
            run.show_outputs(step, fields)
        return fields
    if run.shows_slot(tool):
        run.show(step, fields)
    else:
        run.show_outputs(step, fields)
    return renamed(step, step.rename, fields)


def renamed(step: PlannedStep, renames: tuple[tuple[str, str], ...], fields: dict[str, Any]) -> dict[str, Any]:
    """Outputs under their context keys.

    Raises:
        OutputMappingError: One of them is not there.
    """
    try:
        return {context_key: fields[output_key] for context_key, output_key in renames}
    except KeyError as exc:
        missing = str(exc.args[0])
        raise OutputMappingError(step.name, step.number, missing, known=tuple(fields), step_name=step.label) from None


# ---- collisions


def check_rivals(run: Run, step: PlannedStep, merged: dict[str, Any]) -> None:
    """Compare what a step writes with what its rivals wrote.

    Raises:
        FlowExecutionError: A sibling of the same level wrote one of the keys.
        ContextKeyCollisionError: Under the policy "error", an earlier step or the initial context holds one.
    """
    taken: list[str] = []
    for index in step.rivals:
        written = run.slots[index + 1]
        common = [] if written is None else [key for key in merged if key in written]
        if not common:
            continue
        rival = run.plan.steps[index]
        if rival.level == step.level:
            raise sibling_error(step, rival.step_id, common[0])
        taken += common
    initial = run.slots[0]
    if step.guards_input and initial is not None:
        taken += [key for key in merged if key in initial]
    if taken and step.child is not None:
        run.slots[step.index + 1] = merged
        taken = [key for key in taken if not is_passed_through(run, step, key)]
        run.slots[step.index + 1] = None
    if taken:
        run.collided = step.index  # the lowest: what comes after a collision is superfluous, and not compared any more
        raise collision_error(run, step, tuple(dict.fromkeys(taken)))


def sibling_error(step: PlannedStep, rival_id: str, key: str) -> FlowExecutionError:
    """Two steps of one level write one key: which value should win is nobody's to guess."""
    return FlowExecutionError(
        step.name,
        step.number,
        f"Key '{key}' produced by both '{rival_id}' and its sibling '{step.step_id}'",
        fix="rename one of them with output_mapping, or let one step depend on the other",
    )


def collision_error(run: Run, step: PlannedStep, keys: tuple[str, ...]) -> ChainWeaverError:
    """The collision policy "error" at work."""
    return ContextKeyCollisionError(run.plan.flow_name, step.number, step.label, keys)


# ---- words


def domain_error(step: PlannedStep, exc: Exception) -> ChainWeaverError:
    """The error itself when it is ours, else one that names the step and keeps the original as its cause."""
    if isinstance(exc, ChainWeaverError):
        return exc
    error: ChainWeaverError = _caused(FlowExecutionError(step.name, step.number, told(exc)), exc)
    return error


def store_error(step: PlannedStep, exc: Exception) -> ChainWeaverError:
    """The same for what a checkpointer raised: the tool has done its part, and the message must not blame it."""
    if isinstance(exc, ChainWeaverError):
        return exc
    detail = f"its checkpoint could not be written: {told(exc)}"
    fix = "see to the store of the checkpointer; the tool itself has succeeded"
    error: ChainWeaverError = _caused(FlowExecutionError(step.name, step.number, detail, fix=fix), exc)
    return error


def _caused(error: Any, cause: BaseException) -> Any:
    """The error with its cause set, as `raise ... from` would do."""
    error.__cause__ = cause
    return error
