"""A whole flow as one tool.

Serves `Tool.from_flow`. The executor is used through its `execute_flow` only, when the tool is called and not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict, create_model

if TYPE_CHECKING:
    from chainweaver.flow import ToolSafetyContract
    from chainweaver.tools.definition import Tool

OPEN = ConfigDict(extra="allow", arbitrary_types_allowed=True)


class RunnableFlow(Protocol):
    """What a flow has to say about itself to become a tool."""

    @property
    def name(self) -> str:
        """Name it is registered under."""

    @property
    def version(self) -> str:
        """Version that is to run."""

    @property
    def description(self) -> str:
        """What it does."""

    @property
    def input_schema(self) -> type[BaseModel] | None:
        """Model of its input."""

    @property
    def output_schema(self) -> type[BaseModel] | None:
        """Model of its final output."""


class FlowResult(Protocol):
    """What a run gives back."""

    @property
    def final_output(self) -> dict[str, Any] | None:
        """The merged context, None after a failure."""

    def raise_for_failure(self) -> object:
        """Raise what made the run fail."""


class RunsFlows(Protocol):
    """The part of an executor that is needed here."""

    def execute_flow(self, name: str, initial_input: dict[str, Any], *, version: str | None = None) -> FlowResult:
        """Run a registered flow."""


def tool_from_flow(
    kind: type[Tool],
    flow: RunnableFlow,
    executor: RunsFlows,
    *,
    name: str | None,
    description: str | None,
    input_schema: type[BaseModel] | None,
    output_schema: type[BaseModel] | None,
    safety: ToolSafetyContract | None,
) -> Tool:
    """A tool that runs the flow in the executor, in the version given here.

    Raises:
        TypeError: The first argument is no flow, or the second one runs none.
    """
    if not hasattr(flow, "description"):
        hint = f"; executor.registry.get_flow({flow!r}) gives it" if isinstance(flow, str) else ""
        raise TypeError(f"Tool.from_flow makes a tool of a flow, not of {flow!r}{hint}.")
    if not hasattr(executor, "execute_flow"):
        raise TypeError(f"Tool.from_flow needs the executor that runs the flow, not {executor!r}.")
    tool_name = flow.name if name is None else name
    flow_name, version = flow.name, flow.version

    def run_flow(inputs: BaseModel) -> dict[str, Any]:
        result = executor.execute_flow(flow_name, dict(inputs), version=version)
        result.raise_for_failure()
        return result.final_output or {}

    return kind(
        name=tool_name,
        description=flow.description if description is None else description,
        input_schema=input_schema or flow.input_schema or open_model(f"{tool_name}_input"),
        output_schema=output_schema or flow.output_schema or open_model(f"{tool_name}_output"),
        fn=run_flow,
        safety=safety if safety is not None else getattr(flow, "safety", None),
    )


def open_model(model_name: str) -> type[BaseModel]:
    """A model without fields of its own that keeps whatever it is given."""
    return create_model(model_name, __config__=OPEN)
