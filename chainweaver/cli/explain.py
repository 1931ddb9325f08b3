"""`chainweaver explain FILE`: what a flow would do with an input, step by step, without running anything."""

from __future__ import annotations

from typing import Annotated

import typer

from chainweaver.cli._answer import FAILED, OK, Answer, Fault
from chainweaver.cli._compiling import found_in
from chainweaver.cli._loading import Source, read_input
from chainweaver.cli._options import Format, InputOption, OutputOption, ToolsOption, TracebackOption, VersionOption
from chainweaver.cli._ready import make_ready
from chainweaver.cli._screen import Screen
from chainweaver.compiler import CompilationResult, compile_flow
from chainweaver.exceptions import FlowCompileError, InputMappingError
from chainweaver.executor import FlowExecutor
from chainweaver.results import ExecutionPlan


def explain(
    source: Annotated[
        str, typer.Argument(metavar="FILE|NAME", help="Flow file, or name of a flow.", show_default=False)
    ],
    given: InputOption = "{}",
    tools: ToolsOption = None,
    version: VersionOption = None,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """Show where every step of a flow would take its inputs from. Nothing runs."""
    values = read_input(given)
    ready = make_ready(source, tools, version)
    flow = ready.source.flow
    with FlowExecutor(tools=ready.tools.values(), flows=[flow]) as executor:
        plan = executor.explain_flow(flow.name, values, version=flow.version)
    compiled = compile_flow(flow, ready.tools)
    faults = _faults(ready.source, plan, compiled)
    return Answer(
        data=plan.model_dump(mode="json"),
        faults=faults,
        exit_code=FAILED if faults else OK,
        text=lambda screen: _show(screen, plan, compiled),
    )


def _faults(source: Source, plan: ExecutionPlan, compiled: CompilationResult) -> list[Fault]:
    """What would keep the flow from ending well: compile errors, and keys that nobody provides."""
    code = f"CW-{FlowCompileError.code}"
    faults = [Fault(code, str(finding)) for finding in found_in(source, compiled, compiled.errors)]
    told = {error.step_index for error in compiled.errors}
    for step in plan.steps:
        if step.step_index in told:
            continue
        planned = compiled.plan.steps[step.step_index]
        place, fix = (
            source.place(planned.step_id),
            "give it with --input, let an earlier step return it, or map a default",
        )
        faults.extend(
            Fault.of(
                InputMappingError(step.tool_name, step.step_index, key, step_name=planned.label, where=place, fix=fix)
            )
            for key in step.unresolved_keys
        )
    return faults


def _show(screen: Screen, plan: ExecutionPlan, compiled: CompilationResult) -> None:
    rows = []
    for step in plan.steps:
        step_id = compiled.plan.steps[step.step_index].step_id
        label = step_id if step_id != str(step.step_index) else f"{step_id} {step.tool_name}"
        for at, (name, source) in enumerate(step.input_sources.items() or [("", "(no inputs)")]):
            rows.append((label if at == 0 else "", name, source))
    screen.line((f"{plan.flow_name} {compiled.plan.flow_version}", "bold"), f", {plan.step_count} steps, nothing runs")
    screen.table("inputs", ("step", "input", "comes from"), rows)
    screen.table("output", ("key", "type"), list(plan.final_context_shape.items()))
