"""`chainweaver replay TRACE`: run a recorded run again, and say where the two differ."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from chainweaver.cli._answer import FAILED, INTERRUPTED, OK, Answer, Fault, exit_code_of
from chainweaver.cli._asking import Approvals, Decisions
from chainweaver.cli._carrying import Outcome, carried, place
from chainweaver.cli._comparing import difference_data, show_differences
from chainweaver.cli._compiling import compiled_with
from chainweaver.cli._loading import read_params
from chainweaver.cli._options import (
    ApproveOption,
    ConcurrencyOption,
    DecideOption,
    FlowsOption,
    Format,
    OutputOption,
    ParamOption,
    ToolsOption,
    TracebackOption,
    TraceOption,
)
from chainweaver.cli._ready import Ready, make_ready
from chainweaver.cli._screen import Screen, counted
from chainweaver.cli._traces import check_target, read_trace, write_trace
from chainweaver.exceptions import (
    ChainWeaverError,
    CommandLineError,
    FlowCancelledError,
    VerificationError,
    suggest,
)
from chainweaver.executor import FlowExecutor, ReplayMode, ReplayResult


def replay(
    recorded: Annotated[
        str,
        typer.Argument(
            metavar="TRACE", help="File that `run --trace` or a trace store has written.", show_default=False
        ),
    ],
    flow: Annotated[
        str | None, typer.Option(metavar="FILE|NAME", help="The flow. Without it: the flow of the name in the trace.")
    ] = None,
    tools: ToolsOption = None,
    flows: FlowsOption = None,
    param: ParamOption = None,
    from_step: Annotated[
        str | None, typer.Option(metavar="STEP", help="First step that runs; outputs before it come from the trace.")
    ] = None,
    execute: Annotated[
        bool, typer.Option("--execute", help="Decide and approve anew, and take differences for information.")
    ] = False,
    approve: ApproveOption = None,
    decide: DecideOption = None,
    concurrency: ConcurrencyOption = 1,
    trace: TraceOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replay it although its status is not active.")] = False,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """Run a recorded run again with its version and input, and compare every step.

    Tools are called anew; what was decided and approved is taken from the trace. The exit status is 1 when runs differ.
    """
    result = read_trace(recorded)
    if (approve or decide) and not execute:
        raise CommandLineError("--approve and --decide mean nothing without --execute: the trace says what was decided")
    ready = make_ready(flow or result.flow_name, tools, result.flow_version, flows)
    if ready.source.flow.name != result.flow_name:
        raise CommandLineError(
            f"The trace is one of flow '{result.flow_name}', and '{ready.source.name}' holds '{ready.source.flow.name}'"
        )
    params = read_params(param or (), ready.source.flow)
    index = 0 if from_step is None else _index_of(from_step, ready)
    if trace is not None:
        check_target(trace)
    mode = ReplayMode.EXECUTE if execute else ReplayMode.VERIFY
    screen = Screen() if output is Format.TEXT else None
    if screen is not None:
        about = f" of run {result.trace_id}: {counted(len(ready.source.flow.steps), 'step')}, {ready.loaded()}"
        screen.line((f"{result.flow_name} {result.flow_version}", "bold"), f", replay{about}")
    found: list[ReplayResult] = []
    executor = FlowExecutor(
        tools=ready.tools.values(),
        flows=ready.flows,
        max_step_concurrency=concurrency,
        approval_callback=Approvals(approve or (), ready.tools),
        decision_callback=Decisions(decide or (), ready.flows),
    )

    def work() -> None:
        found.append(
            executor.replay_flow(result, mode=mode, resume_from_step=index, force=force, dynamic_params=params or None)
        )

    outcome = carried(executor, screen, work)
    if outcome.error is not None:
        place(outcome.error, ready, outcome.result, hint=not traceback)
    if trace is not None and outcome.result is not None:
        write_trace(outcome.result, trace)
    return _answer(outcome, found[0] if found else None, trace)


def _index_of(step: str, ready: Ready) -> int:
    """The plan index of a step that is named by its id, or by its position."""
    plan = compiled_with(ready.source, ready.tools, ready.flows).plan
    if step in plan.names:
        return plan.names[step]
    if step.isdigit() and int(step) <= len(plan.steps):
        return int(step)
    near = suggest(step, plan.names)
    raise CommandLineError(
        f"--from-step '{step}' is no step of flow '{plan.flow_name}'",
        known=list(plan.names),
        fix=None if near is None else f"did you mean '{near}'?",
    )


def _answer(outcome: Outcome, replayed: ReplayResult | None, trace: str | None) -> Answer:
    if replayed is None:
        faults = (Fault(f"CW-{FlowCancelledError.code}", "Interrupted."),)
        if outcome.error is not None:
            return Answer.of_error(outcome.error)
        return Answer(faults=faults, exit_code=INTERRUPTED)
    error = _verdict(replayed)
    return Answer(
        data=_data(replayed, trace),
        faults=() if error is None else (Fault.of(error),),
        exit_code=OK if error is None else exit_code_of(error) or FAILED,
        text=lambda screen: _show(screen, replayed, trace),
        error=error,
    )


def _verdict(replayed: ReplayResult) -> ChainWeaverError | None:
    """What is wrong: a difference when it was verified, a failure when it was run anew."""
    try:
        if replayed.mode is ReplayMode.VERIFY:
            replayed.raise_for_difference()
        else:
            replayed.new_result.raise_for_failure()
    except ChainWeaverError as exc:
        if isinstance(exc, VerificationError) and exc.where is None:
            exc.with_facts(where=f"flow '{replayed.new_result.flow_name}'")
        return exc
    return None


def _data(replayed: ReplayResult, trace: str | None) -> dict[str, Any]:
    result = replayed.new_result
    return {
        "flow": result.flow_name,
        "version": result.flow_version,
        "recorded": replayed.original_trace_id,
        "run": result.trace_id,
        "mode": replayed.mode.value,
        "status": result.status,
        "same": replayed.all_steps_match,
        "resumed_from_step": replayed.resumed_from_step,
        "first": difference_data(replayed.diffs[0]) if replayed.diffs else None,
        "differences": [difference_data(one) for one in replayed.diffs],
        "not_compared": replayed.not_compared,
        "trace": trace,
    }


def _show(screen: Screen, replayed: ReplayResult, trace: str | None) -> None:
    result = replayed.new_result
    show_differences(screen, replayed.diffs, replayed.not_compared, ("recorded", "replayed"))
    screen.line()
    if trace is not None:
        screen.line(f"trace of run {result.trace_id} is written to {trace}")
    found = counted(len(replayed.diffs), "difference") if replayed.diffs else "the same"
    since = f" from step {replayed.resumed_from_step} on" if replayed.resumed_from_step else ""
    screen.line(f"{result.flow_name} {result.flow_version}: {result.status}, {found}{since}")
