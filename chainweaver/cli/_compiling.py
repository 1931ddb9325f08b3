"""Reading and compiling flows to find everything that is wrong with them, with the place of each finding.

Used by `validate`, `check`, `run` and `explain`. Runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chainweaver.cli._answer import FAILED, OK, Fault, exit_code_of
from chainweaver.cli._flows import Shelf, flows_of, reached_from
from chainweaver.cli._loading import Source, read_file
from chainweaver.cli._screen import Screen, counted
from chainweaver.compiler import CompilationError, CompilationResult, CompilationWarning, compile_flow
from chainweaver.exceptions import ChainWeaverError, CommandLineError, FlowCompileError
from chainweaver.flow import AnyFlow, DAGFlow, validate_dag_topology
from chainweaver.tools import Tool

HINTS = frozenset({"native_copy"})
"""Warnings about speed alone. A sound flow can have dozens of them, which would hide the others."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An error or a warning of the compiler with its place.

    Attributes:
        place: File and line of the step.
        step: Id of the step; its position as text in a linear flow.
    """

    place: str
    step: str
    tool: str
    field: str | None
    issue_type: str
    detail: str

    def __str__(self) -> str:
        return f"{self.place}: step '{self.step}' ({self.tool}), {self.issue_type}: {self.detail}"

    def as_dict(self) -> dict[str, Any]:
        """For `--format json`."""
        return {name: getattr(self, name) for name in ("place", "step", "tool", "field", "issue_type", "detail")}


@dataclass(slots=True)
class Checked:
    """One file and all that was found in it.

    Attributes:
        compiled: Whether tools were there to compile with.
    """

    name: str
    source: Source | None = None
    compiled: bool = False
    faults: list[Fault] = field(default_factory=list)
    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    exit_code: int = OK

    def as_dict(self) -> dict[str, Any]:
        """For `--format json`."""
        flow = None if self.source is None else self.source.flow
        return {
            "file": self.name,
            "status": "error" if self.faults else "ok",
            "flow": None if flow is None else flow.name,
            "version": None if flow is None else flow.version,
            "steps": None if flow is None else len(flow.steps),
            "compiled": self.compiled,
            "errors": [finding.as_dict() for finding in self.errors],
            "warnings": [finding.as_dict() for finding in self.warnings],
        }

    def show(self, screen: Screen, *, hints: bool) -> None:
        """One line for the file, one for every warning; errors are told on stderr."""
        verdict = ("invalid", "bold red") if self.faults else ("ok     ", "green")
        about = ""
        if self.source is not None:
            flow = self.source.flow
            about = f"  {flow.name} {flow.version}, {counted(len(flow.steps), 'step')}"
            about += "" if self.compiled or self.faults else ", read only: --tools MODULE compiles it as well"
        screen.line(verdict, f"  {self.name}{about}")
        for warning in self.warnings:
            if warning.issue_type not in HINTS:
                screen.line(("  warning", "yellow"), f"  {warning}")
            elif hints:
                screen.line(("  hint   ", "cyan"), f"  {warning}")


def check_file(path: str, tools: Mapping[str, Tool] | None, find: Callable[[Source], Shelf]) -> Checked:
    """Read a flow file and, where there are tools, compile it; whatever is wrong ends up in the answer.

    Args:
        find: Where the flows are looked for that a flow names.
    """
    checked = Checked(path)
    try:
        checked.source = source = read_file(path)
        if isinstance(source.flow, DAGFlow):
            validate_dag_topology(source.flow)
        if tools is not None:
            reached = reached_from(source, find(source), needed=False)
            result = compile_flow(source.flow, tools, flows=flows_of(reached))
            checked.compiled = True
            checked.errors, checked.warnings = (
                found_in(source, result, result.errors),
                found_in(source, result, result.warnings),
            )
    except ChainWeaverError as exc:
        checked.faults.append(Fault.of(exc if isinstance(exc, CommandLineError) else exc.with_facts(where=path)))
        checked.exit_code = exit_code_of(exc)
        return checked
    checked.faults.extend(Fault(f"CW-{FlowCompileError.code}", str(finding)) for finding in checked.errors)
    checked.exit_code = FAILED if checked.errors else OK
    return checked


def compiled_with(source: Source, tools: Mapping[str, Tool], flows: Iterable[AnyFlow]) -> CompilationResult:
    """The compiled flow, for all that is wrong with it.

    Raises:
        DAGDefinitionError: The steps form no DAG; the error says in which file.
    """
    try:
        return compile_flow(source.flow, tools, flows=flows)
    except ChainWeaverError as exc:
        exc.with_facts(where=source.name)
        raise


def compile_faults(source: Source, tools: Mapping[str, Tool], flows: Iterable[AnyFlow]) -> list[Fault]:
    """All compile errors of a flow; half a run would tell one of them only.

    Raises:
        DAGDefinitionError: The steps form no DAG.
    """
    compiled = compiled_with(source, tools, flows)
    code = f"CW-{FlowCompileError.code}"
    return [Fault(code, str(finding)) for finding in found_in(source, compiled, compiled.errors)]


def found_in(
    source: Source, result: CompilationResult, entries: tuple[CompilationError | CompilationWarning, ...]
) -> list[Finding]:
    """What the compiler found, with the places of the source."""
    steps = result.plan.steps
    found = []
    for entry in entries:
        inside = 0 <= entry.step_index < len(steps)
        step = steps[entry.step_index].step_id if inside else ("input" if entry.step_index < 0 else "output")
        place = source.place(step) if inside else source.name
        found.append(Finding(place, step, entry.tool_name, entry.field_name, entry.issue_type, entry.detail))
    return found


def summary(files: list[Checked], *, hints: bool) -> str:
    """The closing line: how many of each kind."""
    invalid = sum(bool(one.faults) for one in files)
    found = [warning.issue_type in HINTS for one in files for warning in one.warnings]
    line = f"{counted(len(files), 'flow file')}: {len(files) - invalid} ok, {invalid} invalid"
    line += f", {counted(found.count(False), 'warning')}"
    if True not in found:
        return line
    return f"{line}, {counted(found.count(True), 'hint')}{'' if hints else ' (--hints shows them)'}"
