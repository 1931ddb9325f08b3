"""FlowBuilder: a linear flow written as a chain of calls.

A builder collects; `build` validates and may be called any number of times, each result being a flow of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chainweaver.exceptions import FlowBuilderError
from chainweaver.flow.copies import copy_flow
from chainweaver.flow.definition import Flow
from chainweaver.flow.refs import class_ref
from chainweaver.flow.steps import FlowStep

if TYPE_CHECKING:
    from pydantic import BaseModel
    from typing_extensions import Self

__all__ = ["FlowBuilder"]


class FlowBuilder:
    """Builds a linear flow; every method but `build` returns the builder.

    Args:
        name: Name of the flow; may be set later with `name()`.
        description: What the flow does; may be set later with `description()`.

    >>> flow = FlowBuilder("invoice", "Adds up.").step("load").step("total", rows="rows").build()
    >>> [step.display_name for step in flow.steps]
    ['load', 'total']
    """

    def __init__(self, name: str | None = None, description: str | None = None) -> None:
        self._facts: dict[str, Any] = {}
        self._steps: list[FlowStep] = []
        if name is not None:
            self._facts["name"] = name
        if description is not None:
            self._facts["description"] = description

    def step(self, tool_name: str, *, output_mapping: Mapping[str, str] | None = None, **mapping: Any) -> Self:
        """Add a call of a tool.

        Args:
            tool_name: The tool.
            output_mapping: Context key -> output key; None: all outputs under their own names.
            mapping: Input field -> where its value comes from, in any form of an input mapping. For a field called
                `tool_name` or `output_mapping` use `step_from`.
        """
        outputs = None if output_mapping is None else dict(output_mapping)
        self._steps.append(FlowStep(tool_name=tool_name, input_mapping=mapping, output_mapping=outputs))
        return self

    def step_from(self, step: FlowStep) -> Self:
        """Add a step with everything that `FlowStep` offers: retries, fallbacks, sub-flows, contracts."""
        self._steps.append(step)
        return self

    def name(self, name: str) -> Self:
        """Set the name of the flow."""
        return self._with("name", name)

    def description(self, description: str) -> Self:
        """Set what the flow does, in words."""
        return self._with("description", description)

    def version(self, version: str) -> Self:
        """Set the version, as PEP 440 writes it; without it the flow has version 0.1.0."""
        return self._with("version", version)

    def with_version(self, version: str) -> Self:
        """The same as `version`."""
        return self.version(version)

    def with_input_schema(self, model: type[BaseModel]) -> Self:
        """Set the model that validates the input.

        Raises:
            ValueError: The class is defined inside a function, where no reference can reach it.
        """
        return self._with("input_schema_ref", class_ref(model))

    def with_output_schema(self, model: type[BaseModel]) -> Self:
        """Set the model that validates the final output.

        Raises:
            ValueError: The class is defined inside a function, where no reference can reach it.
        """
        return self._with("output_schema_ref", class_ref(model))

    def with_trigger(self, trigger_conditions: str) -> Self:
        """Set when to use the flow, in words."""
        return self._with("trigger_conditions", trigger_conditions)

    def build(self) -> Flow:
        """The flow as it stands now; the builder can go on and build again.

        Raises:
            FlowBuilderError: 'name' or 'description' is missing; both are named when both are.
            InvalidFlowVersionError: The version is no version.
        """
        missing = [fact for fact in ("name", "description") if not self._facts.get(fact)]
        if missing:
            named = " and ".join(f"'{fact}'" for fact in missing)
            detail = f"{named} {'is' if len(missing) == 1 else 'are'} missing"
            calls = ", ".join(f".{fact}(...)" for fact in missing)
            raise FlowBuilderError(detail, fix=f"pass it to FlowBuilder(...) or call {calls}")
        # Pydantic keeps the very step objects it is given; a later build must not share them.
        return copy_flow(Flow(steps=list(self._steps), **self._facts))

    def _with(self, fact: str, value: str) -> Self:
        self._facts[fact] = value
        return self
