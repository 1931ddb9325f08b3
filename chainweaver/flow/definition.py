"""Flows: a linear list of steps, or a DAG of them, with what both have in common.

Behaviour-free data. Whether the steps of a DAG fit together is asked by `validate_dag_topology` at registration and
compile time, not at construction: a half-written flow can be held, drawn and saved. Methods that draw or write a flow
import the room that can do it when they are called.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, model_validator

from chainweaver.exceptions import FlowSerializationError, InvalidFlowVersionError
from chainweaver.flow.fields import Definition, Flag, Names, Text, Words
from chainweaver.flow.governance import FlowGovernance, FlowStatus
from chainweaver.flow.refs import ClassRef, class_ref, resolve_model
from chainweaver.flow.safety import DeterminismLevel, ToolSafetyContract
from chainweaver.flow.steps import DAGFlowStep, FlowStep
from chainweaver.flow.versions import is_version

if TYPE_CHECKING:
    from typing_extensions import Self

    from chainweaver.flow.wiring import ToolShape

__all__ = ["AnyFlow", "DAGFlow", "Flow"]


class _FlowDefinition(Definition):
    """What linear flows and DAGs have in common; the attributes are described at `Flow`."""

    name: Text
    description: str
    deterministic: Flag = True
    status: FlowStatus = FlowStatus.ACTIVE
    trigger_conditions: str | None = None
    input_schema_ref: ClassRef | None = None
    output_schema_ref: ClassRef | None = None
    context_schema_ref: ClassRef | None = None
    tool_schema_hashes: dict[str, str] | None = None
    capability_id: Text | None = None
    governance: FlowGovernance = Field(default_factory=FlowGovernance)
    safety: ToolSafetyContract | None = None
    on_context_collision: Literal["overwrite", "warn", "error"] = "warn"
    dynamic_params: Words = ()
    outputs: Words | None = None
    on_failure: Literal["stop", "finish"] = "stop"
    validation: Literal["boundaries", "once"] = "boundaries"
    groups: dict[str, Names] = Field(default_factory=dict)
    requirements: Words = ()

    if TYPE_CHECKING:
        # Both kinds declare it, one with and one without a default.
        version: str

    @model_validator(mode="after")
    def _check_version(self) -> _FlowDefinition:
        if not is_version(self.version):
            raise InvalidFlowVersionError(self.name, self.version)
        return self

    @property
    def input_schema(self) -> type[BaseModel] | None:
        """The model of the flow's input; None when the flow names none. Imports its module.

        Raises:
            SchemaRefPolicyError: The reference leads nowhere, or not to a Pydantic model.
        """
        return None if self.input_schema_ref is None else resolve_model(self.input_schema_ref)

    @property
    def output_schema(self) -> type[BaseModel] | None:
        """The model of the flow's output; None when the flow names none. Imports its module.

        Raises:
            SchemaRefPolicyError: The reference leads nowhere, or not to a Pydantic model.
        """
        return None if self.output_schema_ref is None else resolve_model(self.output_schema_ref)

    @property
    def context_schema(self) -> type[BaseModel] | None:
        """The model of the flow's context; None when the flow names none. Imports its module.

        Raises:
            SchemaRefPolicyError: The reference leads nowhere, or not to a Pydantic model.
        """
        return None if self.context_schema_ref is None else resolve_model(self.context_schema_ref)

    @property
    def determinism_level(self) -> DeterminismLevel:
        """How far equal inputs give equal outputs: the weaker of `deterministic` and the safety contract."""
        if not self.deterministic:
            return DeterminismLevel.NONDETERMINISTIC
        return DeterminismLevel.DETERMINISTIC if self.safety is None else self.safety.determinism_level

    @staticmethod
    def schema_ref_from(cls: type[BaseModel]) -> str:
        """The reference of a model, for the `..._schema_ref` fields.

        Raises:
            ValueError: The class is defined inside a function.
        """
        return class_ref(cls)

    def to_ascii(self) -> str:
        """The flow as one or more lines of plain text, `[a] → [b]`."""
        from chainweaver.viz import flow_to_ascii

        return flow_to_ascii(self._as_flow())

    def to_mermaid(self, direction: str = "LR", show_schemas: bool = False) -> str:
        """The flow as a Mermaid graph.

        Args:
            direction: Where the graph grows to, such as "LR" or "TD".
            show_schemas: Whether the input and output schemas of the flow are drawn as well.
        """
        from chainweaver.viz import flow_to_mermaid

        return flow_to_mermaid(self._as_flow(), direction=direction, show_schemas=show_schemas)

    def to_dot(self) -> str:
        """The flow as a Graphviz graph."""
        from chainweaver.viz import flow_to_dot

        return flow_to_dot(self._as_flow())

    def to_json(self, indent: int | None = 2) -> str:
        """The flow as the text of a `.flow.json` file.

        Args:
            indent: Spaces per level; None: one line.
        """
        from chainweaver.formats import flow_to_json

        return flow_to_json(self._as_flow(), indent=indent)

    def to_yaml(self) -> str:
        """The flow as the text of a `.flow.yaml` file; needs the extra `yaml`."""
        from chainweaver.formats import flow_to_yaml

        return flow_to_yaml(self._as_flow())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a flow of this kind from the text of a `.flow.json` file.

        Raises:
            FlowSerializationError: The text is no flow, or one of the other kind.
        """
        from chainweaver.formats import flow_from_json

        return cls._of_this_kind(flow_from_json(text))

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        """Read a flow of this kind from the text of a `.flow.yaml` file; needs the extra `yaml`.

        Raises:
            FlowSerializationError: The text is no flow, or one of the other kind.
        """
        from chainweaver.formats import flow_from_yaml

        return cls._of_this_kind(flow_from_yaml(text))

    @classmethod
    def _of_this_kind(cls, flow: object) -> Self:
        if isinstance(flow, cls):
            return flow
        found, wanted = type(flow).__name__, cls.__name__
        raise FlowSerializationError(
            f"it holds a {found}, not a {wanted}", fix=f"read it with {found}.from_json or .from_yaml"
        )

    def _as_flow(self) -> Any:
        return self


class Flow(_FlowDefinition):
    """A linear flow: its steps run one after the other.

    Attributes:
        name: Name under which the flow is registered.
        version: Version as PEP 440 writes it.
        description: What the flow does, for people and for callers that choose among flows.
        steps: The steps in order.
        deterministic: Whether equal inputs give equal outputs.
        status: Whether the executor starts the flow.
        trigger_conditions: When to use the flow, in words.
        input_schema_ref: Reference of the model that validates the input.
        output_schema_ref: Reference of the model that validates the final output; it projects nothing.
        context_schema_ref: Reference of the model that validates the whole context at the end.
        tool_schema_hashes: Tool name -> schema hash at the time of acceptance, to notice drift; None: not recorded.
        capability_id: The capability that the flow provides.
        governance: Origin, owner and review.
        safety: What the flow as a whole declares about its effects; None: what its tools declare.
        on_context_collision: What happens when a step writes a key that exists: `"overwrite"`, `"warn"` or `"error"`.
        dynamic_params: Names of values that a caller passes per run and that no record ever shows.
        outputs: The context keys that make up the final output; None: all of them.
        on_failure: After a failure nothing further starts (`"stop"`), or all that does not depend on it still does
            (`"finish"`).
        validation: Every border validates (`"boundaries"`), or a proven value is validated only `"once"`.
        groups: Name of a group -> the steps in it, for drawing only.
        requirements: Distributions that the tools need, as requirement texts.

    >>> flow = Flow(name="invoice", description="Adds up.", steps=[FlowStep(tool_name="total")])
    >>> flow.version, flow.steps[0].display_name
    ('0.1.0', 'total')
    """

    version: str = "0.1.0"
    steps: list[FlowStep]


class DAGFlow(_FlowDefinition):
    """A flow whose steps depend on each other by id; the attributes are those of `Flow`, `version` has no default.

    >>> load = DAGFlowStep(step_id="load", tool_name="load")
    >>> total = DAGFlowStep(step_id="total", tool_name="total", depends_on=["load"])
    >>> dag = DAGFlow(name="invoice", version="1.0.0", description="Adds up.", steps=[load, total])
    >>> dag.steps[1].depends_on
    ['load']
    """

    version: str
    steps: list[DAGFlowStep]

    @classmethod
    def from_tools(
        cls,
        name: str,
        tools: Iterable[ToolShape],
        *,
        version: str = "0.1.0",
        description: str = "",
        outputs: Sequence[str] | None = None,
    ) -> DAGFlow:
        """Wire tools into a DAG: an input field is fed by the tool whose output has a field of that name.

        A field that no other tool returns is an input of the flow. The steps have the names of their tools as ids and
        keep the given order. Whether the types fit is checked by the compiler.

        Args:
            name: Name of the flow.
            tools: The tools, each at most once.
            version: Version of the flow.
            description: What the flow does.
            outputs: The output fields that make up the final output; None: all of them.

        Raises:
            DAGDefinitionError: A tool is given twice, or the tools feed each other in a circle.
            FlowBuilderError: Several tools return a field that another one reads, or `outputs` names a field that no
                tool returns. All such fields are listed.
        """
        from chainweaver.flow.wiring import wire_tools

        return wire_tools(name, tools, version=version, description=description, outputs=outputs)


AnyFlow = Flow | DAGFlow
"""A definition of either kind."""
