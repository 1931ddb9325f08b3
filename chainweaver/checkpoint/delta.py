"""What one finished step adds to a checkpoint.

A delta holds what a resumed run cannot compute again: outputs, status, errors, times. Inputs are left out on purpose;
they follow from the outputs of earlier steps. Made by the executor once per finished step, kept by the stores.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

StepStatus: TypeAlias = Literal["ok", "skipped", "failed"]

StepError: TypeAlias = tuple[str, str | None, str, str | None]
"""error_type, error_code, error_message, error_cause: what went wrong with a step."""


class StepDelta(NamedTuple):
    """A finished step, as a checkpoint keeps it.

    Attributes:
        step_index: Position in plan order.
        step_id: Name of the step within its flow.
        tool_name: Name of the tool.
        fingerprint: Fingerprint of the step's definition and tool; a resumed run compares it.
        status: "ok", or "skipped" for a step that failed and was passed over. "failed" is one of the steps `inside`.
        outputs: The fields of the validated outputs; None for a skipped step.
        error: Why the step was skipped, or failed; None otherwise.
        attempts: How many attempts were made, 0 for outputs from a cache.
        retry_errors: The message of every attempt that failed before the last.
        cached: Whether the outputs came from a cache.
        fallback_tool_name: The tool that stood in; None when the step's own tool answered.
        started_at: Start of the first attempt, in seconds since the epoch.
        duration_ns: Nanoseconds from the start to the end of the last attempt.
        path: The steps that its run is nested in, outermost first, with `#2` and so on for further attempts; empty for
            a step of the flow itself. A step that ran such a run has no outputs of its own: they follow from it.
        decision: What was decided: the dependent that was "taken", the tool that was "chosen".
        approval: Who agreed to the call.
        inside: The failed steps of the nested run that the step went on without, skipped or with its fallback: nothing
            else commits them. None where there is no such run.

    >>> delta = StepDelta(0, "add", "add", "5d1e", "ok", {"total": 3})
    >>> delta.outputs, delta.attempts
    ({'total': 3}, 1)
    """

    # A named tuple: made once per step, and a slotted class costs twice as much, a dataclass or a model six times.
    step_index: int
    step_id: str
    tool_name: str
    fingerprint: str
    status: StepStatus
    outputs: dict[str, Any] | None = None
    error: StepError | None = None
    attempts: int = 1
    retry_errors: tuple[str, ...] = ()
    cached: bool = False
    fallback_tool_name: str | None = None
    started_at: float = 0.0
    duration_ns: int = 0
    path: tuple[str, ...] = ()
    decision: dict[str, Any] | None = None
    approval: dict[str, Any] | None = None
    inside: "tuple[StepDelta, ...] | None" = None

    def as_dict(self) -> dict[str, Any]:
        """The attributes by name; values are not copied."""
        values = self._asdict()
        if self.inside is not None:
            values["inside"] = [one.as_dict() for one in self.inside]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StepDelta":
        """The delta with these attributes; lists stand for tuples, as JSON has no others.

        Raises:
            TypeError: A name is missing or not an attribute, or a value is none that such an attribute has.
        """
        taken = dict(values)
        if taken.get("error") is not None:
            taken["error"] = tuple(taken["error"])
        for name in ("retry_errors", "path"):
            taken[name] = tuple(taken.get(name) or ())
        if taken.get("inside") is not None:
            inside = (one if isinstance(one, cls) else cls.from_dict(one) for one in taken["inside"])
            taken["inside"] = tuple(inside)
        delta = cls(**taken)
        for name, is_one in _VALUES.items():
            if not is_one(getattr(delta, name)):
                raise TypeError(f"{getattr(delta, name)!r:.80} is no '{name}' of a step")
        return delta

    def with_outputs(self, outputs: dict[str, Any] | None) -> "StepDelta":
        """The same step with other outputs.

        >>> StepDelta(0, "add", "add", "5d1e", "ok", {"total": 3}).with_outputs({"total": 4}).outputs
        {'total': 4}
        """
        return self._replace(outputs=outputs)

    def __repr__(self) -> str:
        return f"StepDelta({self.step_index}, {self.step_id!r}, status={self.status!r}, outputs={self.outputs!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """In models: an instance, or in JSON an object with the attributes."""
        from_object = core_schema.chain_schema(
            [core_schema.dict_schema(core_schema.str_schema()), core_schema.no_info_plain_validator_function(_read)]
        )
        return core_schema.union_schema(
            [core_schema.is_instance_schema(cls), from_object],
            serialization=core_schema.plain_serializer_function_ser_schema(cls.as_dict),
        )


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_text_or_none(value: Any) -> bool:
    return value is None or type(value) is str


def _is_dict_or_none(value: Any) -> bool:
    return value is None or (type(value) is dict and all(map(_is_text, value)))


def _is_decision(value: Any) -> bool:
    """None, or what was decided, where steps and tools are names."""
    return _is_dict_or_none(value) and all(map(_is_text_or_none, map((value or {}).get, ("taken", "chosen"))))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _are_segments(value: Any) -> bool:
    """Texts, of which whatever stands behind a "#" is a number."""
    numbers = [segment.partition("#")[2] for segment in value if _is_text(segment)]
    return len(numbers) == len(value) and all(
        not number or (number.isdecimal() and len(number) < 10) for number in numbers
    )


_VALUES: dict[str, Callable[[Any], bool]] = {
    "step_index": _is_count,
    "step_id": _is_text,
    "tool_name": _is_text,
    "fingerprint": _is_text,
    "status": lambda value: value in ("ok", "skipped", "failed"),
    "outputs": _is_dict_or_none,
    "error": lambda value: value is None or (len(value) == 4 and all(map(_is_text_or_none, value))),
    "attempts": _is_count,
    "retry_errors": lambda value: all(map(_is_text, value)),
    "cached": lambda value: type(value) is bool,
    "fallback_tool_name": _is_text_or_none,
    # Up to the year 8300, so that no date that is reckoned from it is one that there is not.
    "started_at": lambda value: type(value) in (int, float) and abs(value) < 2e11,
    "duration_ns": lambda value: type(value) is int and abs(value) < 2**63,
    "path": _are_segments,
    "decision": _is_decision,
    "approval": _is_dict_or_none,
}
"""What the values of each attribute look like; a store may hold anything."""


def _read(values: dict[str, Any]) -> StepDelta:
    try:
        return StepDelta.from_dict(values)
    except TypeError as exc:
        raise ValueError(f"not the attributes of a step: {exc}") from exc
