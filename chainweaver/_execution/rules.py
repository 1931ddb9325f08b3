"""What an executor asks of every run, whatever the flow: who is asked, what is allowed, what is rehearsed.

Data, decided before a run begins and never changed by it. Made by the executor, read by the life of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from chainweaver.flow.callbacks import DecisionPolicy

if TYPE_CHECKING:
    from chainweaver._execution.run import Run
    from chainweaver.flow.safety import SideEffectLevel
    from chainweaver.plan import PlannedStep, PlannedTool

Wrapper: TypeAlias = "Generator[Any, Any, None]"
"""Yields `Sleep`s, then one `Proceed`, and receives the outcome of what it is around."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of an executor.

    Attributes:
        decides, approves, guards: There is a callback for it.
        decision: How long and how often the decision callback is asked.
        ceiling: Tools with stronger effects are refused; None: all are let through.
        strict: Tools that declare no effects are refused.
        dry: Tools are rehearsed and not called; those that cannot be are skipped, or fail ("abort").
        capability: Performs capability steps.
        redaction: What views of a run do not show; never looked at here.
        pricing: Makes the cost report of a result; never called here.
        seal: (step, tool, what the step read) -> what raises when some of it has been changed since; None where nothing
            in it has to be watched. None: changes in place are ignored.
        around_step, around_run: Make the generators around each step and around each run, outermost first.
        concern_every_step: A step without any policy of its own is touched as well; follows from the others.
    """

    decides: bool = False
    approves: bool = False
    guards: bool = False
    decision: DecisionPolicy = field(default_factory=DecisionPolicy)
    ceiling: SideEffectLevel | None = None
    strict: bool = False
    dry: Literal["skip", "abort"] | None = None
    capability: PlannedTool | None = None
    redaction: Any = None
    pricing: Callable[[Any], Any] | None = None
    seal: Callable[[PlannedStep, PlannedTool, dict[str, Any]], Callable[[], None] | None] | None = None
    around_step: tuple[Callable[[Run, PlannedStep], Wrapper], ...] = ()
    around_run: tuple[Callable[[Run], Wrapper], ...] = ()

    concern_every_step: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        # Worked out once: every run asks for it, and every step with a policy.
        concern = bool(
            self.guards or self.ceiling is not None or self.strict or self.dry or self.around_step or self.seal
        )
        object.__setattr__(self, "concern_every_step", concern)


NO_RULES = Rules()
