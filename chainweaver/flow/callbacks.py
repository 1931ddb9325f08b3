"""What people and programs outside a flow are asked while it runs, and how they may answer.

Four questions: which tool (decision), may it run (approval), are these values all right (guardrail), what comes of it
(capability). Contexts are made by the run core; callbacks are given to the executor and called by its lanes. A callback
is an object with the method that its protocol names, or a bare callable, and either may be async.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from chainweaver.flow.safety import ToolSafetyContract

__all__ = [
    "ApprovalCallback",
    "ApprovalContext",
    "ApprovalDecision",
    "CapabilityContext",
    "CapabilityHook",
    "DecisionCallback",
    "DecisionContext",
    "DecisionPolicy",
    "GuardrailCallback",
    "GuardrailContext",
]


@dataclass(frozen=True, slots=True)
class DecisionPolicy:
    """How long and how often a decision callback is asked, and what holds when it gives no answer.

    Attributes:
        timeout_seconds: Longest time for one answer; None: no limit.
        budget: How many steps of one run may ask: the first ones in plan order. None: all of them. A nested run, that
            of a sub-flow or of the items of a map, has the whole budget again.
        default: Without an answer (no callback, time over, budget used up) the step takes its own tool ("tool_name") or
            fails ("fail"). An answer that is no candidate always fails.

    Raises:
        TypeError: A limit is no number.
        ValueError: A number or a word is not one of these.

    >>> DecisionPolicy(timeout_seconds=2.5, default="tool_name").budget is None
    True
    """

    timeout_seconds: float | None = None
    budget: int | None = None
    default: Literal["fail", "tool_name"] = "fail"

    def __post_init__(self) -> None:
        for name, kinds in (("timeout_seconds", (int, float)), ("budget", (int,))):
            value = getattr(self, name)
            # A bool is an int in Python, and means none here.
            if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                what = "a whole number of decisions" if name == "budget" else "a number of seconds"
                raise TypeError(f"{name} has to be {what}, not {value!r}.")
        if self.timeout_seconds is not None and not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds has to be greater than 0, not {self.timeout_seconds!r}.")
        if self.budget is not None and self.budget < 0:
            raise ValueError(f"budget has to be a whole number of decisions, at least 0, not {self.budget!r}.")
        if self.default not in ("fail", "tool_name"):
            raise ValueError(f"default has to be 'fail' or 'tool_name', not {self.default!r}.")


@dataclass(frozen=True, slots=True)
class DecisionContext:
    """A step wants to know which of its candidates to call.

    Attributes:
        trace_id: Id of the run.
        step_index: Position of the step in plan order.
        step_id: Id of the step; its position as text in a linear flow.
        tool_name: The step's own tool.
        candidates: The names that are an answer.
        inputs: The resolved inputs that the chosen tool will get; dynamic parameters are not shown.
    """

    trace_id: str
    flow_name: str
    step_index: int
    step_id: str
    tool_name: str
    candidates: tuple[str, ...]
    inputs: Mapping[str, Any]


class DecisionCallback(Protocol):
    """Chooses the tool of a step."""

    def decide(self, context: DecisionContext) -> str | Awaitable[str]:
        """The name of one of `context.candidates`."""
        ...


@dataclass(frozen=True, slots=True)
class ApprovalContext:
    """A tool that requires an approval is about to be called.

    Attributes:
        trace_id: Id of the run.
        step_index: Position of the step in plan order.
        step_id: Id of the step; its position as text in a linear flow.
        inputs: The validated inputs of the call; dynamic parameters are not shown.
        reason: What the tool's safety contract says to the person who decides.
        safety: The safety contract.
    """

    trace_id: str
    flow_name: str
    step_index: int
    step_id: str
    tool_name: str
    inputs: Mapping[str, Any]
    reason: str | None
    safety: ToolSafetyContract


@dataclass(frozen=True, slots=True)
class ApprovalDecision:
    """The answer to an approval.

    Attributes:
        approved: Whether the tool may be called.
        approver: Who said so.
        reason: Why.

    Raises:
        TypeError: `approved` is no bool; a text such as "no" would count as a yes. Or another one is no text.
    """

    approved: bool
    approver: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.approved, bool):
            raise TypeError(f"approved has to be True or False, not {self.approved!r}.")
        for name in ("approver", "reason"):
            if not isinstance(getattr(self, name), (str, type(None))):
                raise TypeError(f"{name} has to be a text, not {getattr(self, name)!r}.")


class ApprovalCallback(Protocol):
    """Says whether a tool may be called; a bare bool is an answer too."""

    def approve(self, context: ApprovalContext) -> ApprovalDecision | bool | Awaitable[ApprovalDecision | bool]:
        """The decision."""
        ...


@dataclass(frozen=True, slots=True)
class GuardrailContext:
    """Values are about to enter a tool, or have just left it.

    Attributes:
        trace_id: Id of the run.
        step_index: Position of the step in plan order.
        step_id: Id of the step; its position as text in a linear flow.
        tool_name: The tool that is called.
        stage: "input" or "output".
        values: The validated inputs or outputs by name; dynamic parameters are not shown.
    """

    trace_id: str
    flow_name: str
    step_index: int
    step_id: str
    tool_name: str
    stage: Literal["input", "output"]
    values: Mapping[str, Any]


class GuardrailCallback(Protocol):
    """Looks at the values around a call."""

    def check(self, context: GuardrailContext) -> bool | str | Awaitable[bool | str | None] | None:
        """None or True lets them pass; False, or a text that says why, refuses them."""
        ...


@dataclass(frozen=True, slots=True)
class CapabilityContext:
    """A step of type "capability" wants to be performed.

    Attributes:
        trace_id: Id of the run.
        step_index: Position of the step in plan order.
        step_id: Id of the step.
        capability_id: What has to be done.
        inputs: The resolved inputs, as a tool would get them, dynamic parameters among them; without an input mapping
            all of the context that the step sees.
        idempotency_key: Stable over retries and resumes of the step.
        attempt: Number of this attempt, 1-based.
    """

    trace_id: str
    flow_name: str
    step_index: int
    step_id: str
    capability_id: str
    inputs: Mapping[str, Any]
    idempotency_key: str
    attempt: int


class CapabilityHook(Protocol):
    """Performs the capability steps of an executor's flows."""

    def run_capability(self, context: CapabilityContext) -> Mapping[str, Any] | Awaitable[Mapping[str, Any]]:
        """The outputs of the step by name."""
        ...
