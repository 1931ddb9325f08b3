"""Steps: what a flow calls, where its inputs come from, where its outputs go, what happens when it fails.

Data with validation, no behaviour: a step runs nothing and looks nothing up until somebody asks for a resolved class.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

from chainweaver.flow.chunk import Chunk
from chainweaver.flow.fields import Definition, FrozenDefinition, Names, PositiveCount, PositiveSeconds, Text
from chainweaver.flow.refs import ClassRef, class_ref, resolve_model
from chainweaver.flow.retry import RetryPolicy
from chainweaver.flow.versions import is_version

__all__ = ["ConditionalEdge", "DAGFlowStep", "FlowStep"]

_FALLBACK = "fallback:"


def _checked_on_error(text: str) -> str:
    if text in ("fail", "skip") or (text.startswith(_FALLBACK) and text[len(_FALLBACK) :].strip()):
        return text
    raise ValueError(f"on_error must be 'fail', 'skip' or 'fallback:<tool>', not '{text}'")


def _checked_version(text: str) -> str:
    if is_version(text):
        return text
    raise ValueError(f"'{text}' is no version as PEP 440 writes it, such as 1.0.0 or 1.0rc1")


OnError = Annotated[
    str,
    AfterValidator(_checked_on_error),
    Field(json_schema_extra={"pattern": r"^(fail|skip|fallback:\s*\S[\s\S]*)$"}),
]


class FlowStep(Definition):
    """One step of a flow: a call of a tool or of another flow.

    Attributes:
        tool_name: The tool to call; either this or `flow_name`.
        flow_name: The flow to run as a nested run; either this or `tool_name`.
        input_mapping: Input field -> where its value comes from: a context key, a pointer such as `"/user/id"`, any
            non-string as a literal, or one of the forms that `literal`, `template` and `ref` build. Empty: every
            context key that the input model names.
        output_mapping: Context key -> output key. None: all outputs under their own names.
        retry: When to try again; None: never.
        on_error: `"fail"`, `"skip"` or `"fallback:<tool>"`.
        decision_candidates: Names of the tools among which a decision callback chooses; None: no decision.
        input_contract: Reference of a model that the resolved inputs have to satisfy as well.
        output_contract: Reference of a model that the outputs have to satisfy as well.
        flow_version: Version of the sub-flow; None: the highest one.
        timeout_seconds: Limit of one attempt in seconds; None: that of the tool.
        map_over: Context key of a list; the step then runs once per item.
        map_as: Context key under which an item is visible to its own call.
        map_concurrency: How many items run at once; None: the limit of the run.
        on_item_error: What a failing item does: `"fail"` the step, `"skip"` the item, `"collect"` an error value.
        chunk: Which input the tool takes in chunks, with a call for each, and how their outputs are combined.

    >>> FlowStep(tool_name="total", input_mapping={"rows": "rows"}, on_error="fallback:zero").fallback_tool
    'zero'
    """

    tool_name: Text | None = None
    flow_name: Text | None = None
    input_mapping: dict[str, Any] = Field(default_factory=dict)
    output_mapping: dict[str, str] | None = None
    retry: RetryPolicy | None = None
    on_error: OnError = "fail"
    decision_candidates: Names | None = None
    input_contract: ClassRef | None = None
    output_contract: ClassRef | None = None
    flow_version: Annotated[str, AfterValidator(_checked_version)] | None = None
    timeout_seconds: PositiveSeconds | None = None
    map_over: Text | None = None
    map_as: Text = "item"
    map_concurrency: PositiveCount | None = None
    on_item_error: Literal["fail", "skip", "collect"] = "fail"
    chunk: Chunk | None = None

    @model_validator(mode="after")
    def _check_target(self) -> FlowStep:
        if (self.tool_name is None) == (self.flow_name is None) and not self._may_name_nothing():
            raise ValueError("a step needs exactly one of 'tool_name' or 'flow_name'")
        if self.flow_version is not None and self.flow_name is None:
            raise ValueError("'flow_version' needs a 'flow_name'")
        of_maps = (self.map_as != "item", self.map_concurrency is not None, self.on_item_error != "fail")
        if self.map_over is None and any(of_maps):
            raise ValueError("'map_as', 'map_concurrency' and 'on_item_error' need 'map_over'")
        if self.chunk is not None and self.map_over is not None:
            raise ValueError("'chunk' and 'map_over' exclude each other: a step runs once per item or once per chunk")
        if self.chunk is not None and self.tool_name is None:
            raise ValueError("'chunk' needs a 'tool_name'")
        return self

    def _may_name_nothing(self) -> bool:
        return False

    @property
    def display_name(self) -> str:
        """How messages and records call the step: the name of its tool or flow."""
        return self.tool_name or self.flow_name or ""

    @property
    def fallback_tool(self) -> str | None:
        """Name of the tool that stands in after a failure; None when `on_error` names none."""
        return self.on_error[len(_FALLBACK) :].strip() if self.on_error.startswith(_FALLBACK) else None

    @property
    def combine_tool(self) -> str | None:
        """The tool that combines the outputs of the chunks; None when there is none."""
        return None if self.chunk is None else self.chunk.tool_name

    @property
    def resolved_input_contract(self) -> type[BaseModel] | None:
        """The class behind `input_contract`; imports its module.

        Raises:
            SchemaRefPolicyError: The reference leads nowhere, or not to a Pydantic model.
        """
        return None if self.input_contract is None else resolve_model(self.input_contract)

    @property
    def resolved_output_contract(self) -> type[BaseModel] | None:
        """The class behind `output_contract`; imports its module.

        Raises:
            SchemaRefPolicyError: The reference leads nowhere, or not to a Pydantic model.
        """
        return None if self.output_contract is None else resolve_model(self.output_contract)

    @staticmethod
    def contract_ref_from(cls: type[BaseModel]) -> str:
        """The reference of a model, for `input_contract` and `output_contract`.

        Raises:
            ValueError: The class is defined inside a function.
        """
        return class_ref(cls)


class ConditionalEdge(FrozenDefinition):
    """A way out of a step that is taken when its predicate holds against the context after the step.

    Attributes:
        target_step_id: The dependent that is kept active.
        predicate: A text such as `"total > 100 and currency == 'EUR'"`.
    """

    target_step_id: Text
    predicate: Text


class DAGFlowStep(FlowStep):
    """A step of a DAG: it has an identity, dependencies, and perhaps conditional ways out.

    Attributes:
        step_id: Unique within the flow.
        depends_on: Ids of the steps that have to be finished before.
        step_type: `"tool"`, or `"capability"` for a step that an outside capability performs.
        capability_id: The capability; needed by, and only by, `"capability"` steps.
        branches: Conditional edges; the first one that holds is taken.
        default_next: Id of the dependent that stays active when no branch holds; None: all dependents do.
    """

    step_id: Text
    depends_on: Names = Field(default_factory=list)
    step_type: Literal["tool", "capability"] = "tool"
    capability_id: Text | None = None
    branches: list[ConditionalEdge] = Field(default_factory=list)
    default_next: Text | None = None

    @model_validator(mode="after")
    def _check_capability(self) -> DAGFlowStep:
        if (self.step_type == "capability") != (self.capability_id is not None):
            raise ValueError("'capability_id' belongs to a step of type 'capability', which cannot do without it")
        if self.step_type == "capability" and self.chunk is not None:
            raise ValueError("'chunk' needs a step that calls a tool, and this one has a capability performed")
        return self

    def _may_name_nothing(self) -> bool:
        return self.step_type == "capability" and self.tool_name is None and self.flow_name is None

    @property
    def display_name(self) -> str:
        """How messages and records call the step: the name of its tool or flow, else its id."""
        return self.tool_name or self.flow_name or self.step_id
