"""What a compilation found: errors and warnings, each with step, field and a way out.

All findings of a flow are collected, none is raised here. The first error of a step also says how the step fails when
a run reaches it. Used by the other files of this room; the result is what `compile_flow` returns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chainweaver.exceptions import FlowCompileError

if TYPE_CHECKING:
    from chainweaver.compiler.lower import Lowered
    from chainweaver.exceptions import ChainWeaverError
    from chainweaver.plan import Plan


@dataclass(frozen=True, slots=True)
class CompilationError:
    """Something that keeps a step from succeeding.

    Attributes:
        step_index: Position in plan order; -1 for the flow's input, the number of steps for its output.
        tool_name: Tool of the step, or the flow's name at the flow's own borders.
        field_name: The field or key that it is about, None for the step as a whole.
        issue_type: Stable name such as "missing_tool"; docs/errors.md lists them.
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
    """Collects the findings of one compilation."""

    def __init__(self) -> None:
        self.errors: list[CompilationError] = []
        self.warnings: list[CompilationWarning] = []
        self.faults: dict[int, Callable[[], ChainWeaverError]] = {}

    def error(
        self,
        step: Lowered,
        issue_type: str,
        detail: str,
        make: Callable[[], ChainWeaverError],
        field_name: str | None = None,
    ) -> None:
        """Note an error of a step, and what the step raises when a run reaches it."""
        self.errors.append(CompilationError(step.index, step.tool_name, field_name, issue_type, detail))
        self.faults.setdefault(step.index, make)

    def warning(self, step: Lowered, issue_type: str, detail: str, field_name: str | None = None) -> None:
        """Note something that is probably not meant."""
        self.warnings.append(CompilationWarning(step.index, step.tool_name, field_name, issue_type, detail))

    def result(self, plan: Plan) -> CompilationResult:
        """Everything found so far, in plan order."""
        errors = tuple(sorted(self.errors, key=lambda one: one.step_index))
        warnings = tuple(sorted(self.warnings, key=lambda one: one.step_index))
        return CompilationResult(not errors, errors, warnings, plan)
