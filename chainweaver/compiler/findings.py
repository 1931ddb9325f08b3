"""What a compilation found: errors and warnings, each with step, field and a way out.

All findings of a flow are collected, none is raised here. The first error of a step that is certain also says how the
step fails when a run reaches it. Used by the other files of this room; the result is what `compile_flow` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from chainweaver.compiler.types import describe
from chainweaver.exceptions import LISTED_NAMES, FlowCompileError, suggest

if TYPE_CHECKING:
    from chainweaver.compiler.lower import Lowered
    from chainweaver.exceptions import ChainWeaverError
    from chainweaver.plan import Plan

SUGGESTIONS = 20
"""Suggestions made per compilation: nobody reads more, and comparing a name with thousands is slow."""

COMPARED_NAMES = 2_000
"""Names that a mistyped one is compared with."""


@dataclass(frozen=True, slots=True)
class CompilationError:
    """Something that keeps a step from succeeding.

    Attributes:
        step_index: Position in plan order; -1 for the flow's input, the number of steps for its output.
        tool_name: Tool of the step, or the flow's name at the flow's own borders.
        field_name: The field or key that it is about, None for the step as a whole.
        issue_type: Stable name such as "missing_tool".
        detail: Where, what and how to fix it, in words.
    """

    step_index: int
    tool_name: str
    field_name: str | None
    issue_type: str
    detail: str

    def __str__(self) -> str:
        return f"step {self.step_index} ({self.tool_name}): {self.issue_type}: {self.detail}"


@dataclass(frozen=True, slots=True)
class CompilationWarning:
    """Something that runs but probably not as intended; the attributes are those of `CompilationError`."""

    step_index: int
    tool_name: str
    field_name: str | None
    issue_type: str
    detail: str

    def __str__(self) -> str:
        return f"step {self.step_index} ({self.tool_name}): {self.issue_type}: {self.detail}"


@dataclass(frozen=True, slots=True)
class CompilationResult:
    """A compiled flow with everything that was found on the way.

    Attributes:
        success: There are no errors.
        errors, warnings: In plan order.
        plan: What `FlowExecutor` runs; steps with errors are planned to fail when a run reaches them.

    >>> from chainweaver import Flow, FlowStep, compile_flow
    >>> result = compile_flow(Flow(name="f", description="d", steps=[FlowStep(tool_name="nobody")]), {})
    >>> result.success, result.errors[0].issue_type
    (False, 'missing_tool')
    """

    success: bool
    errors: tuple[CompilationError, ...]
    warnings: tuple[CompilationWarning, ...]
    plan: Plan

    def raise_for_errors(self) -> None:
        """Raise all errors at once.

        Raises:
            FlowCompileError: There is at least one error.
        """
        if self.errors:
            raise FlowCompileError(self.plan.flow_name, self.errors)


class Findings:
    """Collects the findings of one compilation.

    Attributes:
        faults: Step -> what makes the error with which it fails when a run reaches it.
    """

    def __init__(self) -> None:
        self.errors: list[CompilationError] = []
        self.warnings: list[CompilationWarning] = []
        self.faults: dict[int, Callable[[], ChainWeaverError]] = {}
        self._suggestions = 0

    def error(
        self,
        step: Lowered,
        issue_type: str,
        detail: str,
        make: Callable[[], ChainWeaverError] | None,
        field_name: str | None = None,
    ) -> None:
        """Note an error of a step, and what the step raises when a run reaches it.

        Without `make` the run decides: the step fails unless a caller does what the definition does not foresee.
        """
        self.errors.append(CompilationError(step.index, step.tool_name, field_name, issue_type, _placed(step, detail)))
        if make is not None:
            self.faults.setdefault(step.index, make)

    def border_error(
        self, index: int, flow_name: str, issue_type: str, detail: str, field_name: str | None = None
    ) -> None:
        """Note an error at a border of the flow itself: index -1 is its input, the number of steps its output."""
        self.errors.append(CompilationError(index, flow_name, field_name, issue_type, detail))

    def warning(self, step: Lowered, issue_type: str, detail: str, field_name: str | None = None) -> None:
        """Note something that is probably not meant."""
        self.warnings.append(
            CompilationWarning(step.index, step.tool_name, field_name, issue_type, _placed(step, detail))
        )

    def inherit(self, step: Lowered, flow_name: str, compiled: CompilationResult) -> None:
        """Take over what was found in the sub-flow of a step; its own steps fail for it inside."""
        for error in compiled.errors:
            detail = _placed(step, _inside(flow_name, error))
            self.errors.append(CompilationError(step.index, step.tool_name, error.field_name, error.issue_type, detail))
        for warning in compiled.warnings:
            detail = _placed(step, _inside(flow_name, warning))
            self.warnings.append(
                CompilationWarning(step.index, step.tool_name, warning.field_name, warning.issue_type, detail)
            )

    def hint(self, name: str, known: Collection[str], kind: str) -> str:
        """A suggestion when a name comes near, and the names there are: "did you mean 'a'? its fields are a, b"."""
        told = f"{kind} {listed(known)}"
        if self._suggestions == SUGGESTIONS:
            return told
        self._suggestions += 1
        near = suggest(name, islice(known, COMPARED_NAMES))
        return told if near is None else f"did you mean '{near}'? {told}"

    def result(self, plan: Plan) -> CompilationResult:
        """Everything found so far, in plan order."""
        errors = tuple(sorted(self.errors, key=lambda one: one.step_index))
        warnings = tuple(sorted(self.warnings, key=lambda one: one.step_index))
        return CompilationResult(not errors, errors, warnings, plan)


def listed(names: Collection[str]) -> str:
    """Names in a message: a handful of them.

    >>> listed([]), listed(["b", "a"])
    ('none', 'b, a')
    """
    shown = ", ".join(islice(names, LISTED_NAMES))
    hidden = len(names) - LISTED_NAMES
    return f"{shown}, ... and {hidden} more" if hidden > 0 else shown or "none"


def describe_all(kinds: Iterable[Any]) -> str:
    """The types that a value may have, as `describe` names them, without repeats."""
    return " | ".join(dict.fromkeys(map(describe, kinds)))


def _inside(flow_name: str, found: CompilationError | CompilationWarning) -> str:
    # Without its name: the finding around has the same one.
    return f"in sub-flow '{flow_name}': step {found.step_index} ({found.tool_name}): {found.detail}"


def _placed(step: Lowered, detail: str) -> str:
    # In a DAG index and tool do not tell its author which step it is; in a linear flow the label is the tool.
    return detail if step.label == step.tool_name else f"step '{step.label}': {detail}"
