"""`chainweaver explain FILE`: what a flow would do with an input, step by step, without running anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from chainweaver.cli._answer import FAILED, OK, Answer, Fault
from chainweaver.cli._compiling import compiled_with, found_in
from chainweaver.cli._loading import Source, read_input
from chainweaver.cli._options import (
    FlowsOption,
    Format,
    InputOption,
    OutputOption,
    ToolsOption,
    TracebackOption,
    VersionOption,
)
from chainweaver.cli._ready import Ready, make_ready
from chainweaver.cli._screen import Screen, counted
from chainweaver.compiler import CompilationResult
from chainweaver.exceptions import FlowCompileError, InputMappingError
from chainweaver.executor import FlowExecutor
from chainweaver.results import ExecutionPlan, StepPlan


def explain(
    source: Annotated[
        str, typer.Argument(metavar="FILE|NAME", help="Flow file, or name of a flow.", show_default=False)
    ],
    given: InputOption = "{}",
    tools: ToolsOption = None,
    flows: FlowsOption = None,
    version: VersionOption = None,
    output: OutputOption = Format.TEXT,
    traceback: TracebackOption = False,
) -> Answer:
    """Show where every step of a flow would take its inputs from, and where branches lead. Nothing runs."""
    values = read_input(given)
    ready = make_ready(source, tools, version, flows)
    flow = ready.source.flow
    with FlowExecutor(tools=ready.tools.values(), flows=ready.flows) as executor:
        plan = executor.explain_flow(flow.name, values, version=flow.version)
    faults = _faults(ready, plan, compiled_with(ready.source, ready.tools, ready.flows))
    return Answer(
        data=plan.model_dump(mode="json"),
        faults=faults,
        exit_code=FAILED if faults else OK,
        text=lambda screen: _show(screen, plan),
    )


def _faults(ready: Ready, plan: ExecutionPlan, compiled: CompilationResult) -> list[Fault]:
    """What would keep the flow from ending well: compile errors, and keys that nobody provides."""
    source = ready.source
    code = f"CW-{FlowCompileError.code}"
    faults = [Fault(code, str(finding)) for finding in found_in(source, compiled, compiled.errors)]
    told = {error.step_index for error in compiled.errors}
    for step in plan.steps:
        if step.step_index not in told:
            faults += _missing(step, source.place(step.step_id), source, ready)
    return faults


def _missing(step: StepPlan, place: str, source: Source | None, ready: Ready) -> Iterator[Fault]:
    """The keys that a step, or one of the sub-flow that it runs, would look for in vain."""
    fix = "give it with --input, let an earlier step return it, or map a default"
    for key in step.unresolved_keys:
        error = InputMappingError(step.tool_name, step.step_index, key, step_name=_label(step), where=place, fix=fix)
        yield Fault.of(error)
    if step.sub_plan is not None:
        child = ready.source_of(step.sub_plan.flow_name, step.sub_plan.flow_version)
        for inner in step.sub_plan.steps:
            inside = place if child is None else f"{child.place(inner.step_id)}, called at {place}"
            yield from _missing(inner, inside, child, ready)


def _label(step: StepPlan) -> str:
    """How messages call a step: by its id in a DAG, by its tool in a linear flow."""
    return step.tool_name if step.step_id == str(step.step_index) else step.step_id


# ---- for people


def _show(screen: Screen, plan: ExecutionPlan) -> None:
    screen.line(
        (f"{plan.flow_name} {plan.flow_version}", "bold"), f", {counted(plan.step_count, 'step')}, nothing runs"
    )
    _show_steps(screen, plan, "")
    screen.table("output", ("key", "type"), list(plan.final_context_shape.items()))


def _show_steps(screen: Screen, plan: ExecutionPlan, around: str) -> None:
    """The steps of a flow, and below them those of its sub-flows.

    Args:
        around: The steps that the flow is nested in, for titles.
    """
    names = {step.step_id: _titled(step) for step in plan.steps}
    rows = [row for step in plan.steps for row in _rows(step, names)]
    columns = ("step", "input", "comes from", "written by")
    screen.table(f"inputs{around}", columns, rows)
    ways = [
        (names[step.step_id] if at == 0 else "", way)
        for step in plan.steps
        for at, way in enumerate(_ways(step, plan.steps))
    ]
    if ways:
        screen.table(f"ways{around}", ("step", "what may happen"), ways)
    judged = [row for step in plan.steps for row in _validated(step, names)]
    if judged:
        screen.table(f"validated once{around}", ("step", "input", "is taken as it is"), judged)
    for step in plan.steps:
        if step.sub_plan is not None:
            inner = step.sub_plan
            _show_steps(
                screen, inner, f" of {inner.flow_name} {inner.flow_version}, run by {names[step.step_id]}{around}"
            )


def _titled(step: StepPlan) -> str:
    return step.step_id if step.step_id != str(step.step_index) else f"{step.step_id} {step.tool_name}"


def _rows(step: StepPlan, names: dict[str, str]) -> Iterator[tuple[Any, ...]]:
    sources = list(step.input_sources.items())
    if step.map_over is not None:
        sources.insert(0, (f"each {step.map_as}", step.map_over))
    for at, (name, source) in enumerate(sources or [("", "(no inputs)")]):
        writers = step.read_from.get(step.map_as if name.startswith("each ") and step.map_as else name, ())
        yield (names[step.step_id] if at == 0 else "", name, source, ", ".join(names.get(one, one) for one in writers))


def _validated(step: StepPlan, names: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """The inputs that a flow with `validation="once"` takes as they are, and why it does not take the others so."""
    rows = [(name, f"from {', '.join(names.get(one, one) for one in by)}") for name, by in step.taken_as_is.items()]
    rows += [(name, f"no: {why}") for name, why in step.validated_again.items()]
    for at, (name, told) in enumerate(rows):
        yield (names[step.step_id] if at == 0 else "", name, told)


def _ways(step: StepPlan, steps: list[StepPlan]) -> Iterator[str]:
    """What may become of a step, and where it may lead."""
    if step.may_be_passed:
        yield "is passed over when no branch leads to it"
    if step.candidates:
        yield f"calls one of {', '.join(step.candidates)}, which is decided in the run"
    if step.fallback is not None:
        yield f"when it fails, {step.fallback} stands in"
    if step.capability_id is not None:
        yield f"is performed by capability {step.capability_id}"
    if step.sub_plan is not None:
        yield f"runs flow {step.sub_plan.flow_name} {step.sub_plan.flow_version}"
    if step.map_over is not None:
        given = ", ".join(f"{key}: {kind}" for key, kind in step.writes.items())
        yield f"once per {step.map_as}; gives {given or 'lists'}"
    if step.chunk is not None:
        yield f"takes {step.chunk}"
    for branch in step.branches:
        yield f"{'else' if branch.predicate is None else f'if {branch.predicate}'}: {branch.target}"
    if step.branches and step.branches[-1].predicate is not None:
        dependents = [one.step_id for one in steps if step.step_id in one.depends_on]
        yield f"else: {', '.join(dependents)}"
