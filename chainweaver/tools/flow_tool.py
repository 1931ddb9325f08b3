"""A whole flow as one tool: it takes what the flow takes, and gives what a step that runs the flow would give.

Serves `Tool.from_flow`. The executor runs the flow when the tool is called and not before; its tools and flows are
looked at once, where the flow has no input schema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

    @property
    def outputs(self) -> Sequence[str] | None:
        """The keys of its final output; None for all."""

    @property
    def steps(self) -> Sequence[Any]:
        """Its steps."""


class FlowResult(Protocol):
    """What a run gives back."""

    @property
    def final_output(self) -> dict[str, Any] | None:
        """The merged context, None after a failure."""

    @property
    def execution_log(self) -> Sequence[Any]:
        """The records of its steps."""

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
    declared = input_schema or flow.input_schema
    takes = declared or input_model(flow, executor, tool_name)
    # A schema says itself what comes out; without one nothing comes back that was merely handed in.
    gives = output_schema or flow.output_schema
    is_whole = gives is not None or flow.outputs is not None
    opened: Callable[[BaseModel], dict[str, Any]] = dict if declared is not None else given_keys

    def run_flow(inputs: BaseModel) -> dict[str, Any]:
        result = executor.execute_flow(flow_name, opened(inputs), version=version)
        result.raise_for_failure()
        output = result.final_output or {}
        return output if is_whole else {key: output[key] for key in written_keys(flow, result) if key in output}

    return kind(
        name=tool_name,
        description=flow.description if description is None else description,
        input_schema=takes,
        output_schema=gives or open_model(f"{tool_name}_output"),
        fn=run_flow,
        safety=safety if safety is not None else getattr(flow, "safety", None),
    )


def input_model(flow: RunnableFlow, executor: RunsFlows, tool_name: str) -> type[BaseModel]:
    """A model of what the steps of a flow read from outside; of anything, where nobody knows its tools."""
    if not (hasattr(executor, "registered_tools") and hasattr(executor, "registry")):
        return open_model(f"{tool_name}_input")
    from chainweaver.export.inputs import input_of

    return input_of(flow, executor).model  # type: ignore[arg-type]  # a flow and an executor, as far as can be seen


def given_keys(inputs: BaseModel) -> dict[str, Any]:
    """What was given, by context key; what was left out stays left out, since the flow has its own defaults."""
    fields = type(inputs).model_fields
    given = {fields[name].alias or name: getattr(inputs, name) for name in fields if name in inputs.model_fields_set}
    return {**given, **(inputs.model_extra or {})}


def written_keys(flow: RunnableFlow, result: FlowResult) -> dict[str, None]:
    """The context keys that the steps of a run wrote, in plan order."""
    renamed: Mapping[str, Any] = {
        getattr(step, "step_id", str(at)): step.output_mapping for at, step in enumerate(flow.steps)
    }
    keys: dict[str, None] = {}
    for record in result.execution_log:
        if record.status == "ok":
            mapping = renamed.get(record.step_id)
            keys.update(dict.fromkeys(record.outputs or {} if mapping is None else mapping))
    return keys


def open_model(model_name: str) -> type[BaseModel]:
    """A model without fields of its own that keeps whatever it is given."""
    return create_model(model_name, __config__=OPEN)
