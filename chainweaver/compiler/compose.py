"""Composition: flows that call flows, as the compiler sees them.

A sub-flow is compiled once per flow that reaches it and embedded as a plan; here it is found, kept from calling itself,
and described in the terms in which a tool is: what it takes and what it gives. Called by `build`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import BaseModel

from chainweaver.compiler.keys import INITIAL
from chainweaver.compiler.models import InputField, KnownTool, ModelFacts
from chainweaver.exceptions import FlowCompositionError, FlowNotFoundError, suggest
from chainweaver.flow import DEFAULT_REF_POLICY, SchemaRefPolicy
from chainweaver.tools import Tool
from chainweaver.tools.flow_tool import open_model

if TYPE_CHECKING:
    from chainweaver.compiler.build import Build
    from chainweaver.flow import AnyFlow, ToolSafetyContract
    from chainweaver.registry import FlowRegistry

FindFlow: TypeAlias = "Callable[[str, str | None], AnyFlow]"
"""(name, version or None for the highest) -> the flow; raises `FlowNotFoundError`."""

FlowSource: TypeAlias = "FlowRegistry | Mapping[str, AnyFlow] | Iterable[AnyFlow] | FindFlow"
"""What `compile_flow` takes as the flows that steps may name."""

MAX_DEPTH = 10
"""How many flows deep a composition may be unless somebody says otherwise."""


def finder_of(flows: FlowSource | None) -> FindFlow:
    """A function that finds the flows that steps may name."""
    from chainweaver.registry import FlowRegistry

    if flows is None:
        return _nothing
    if callable(flows):
        return flows
    if isinstance(flows, FlowRegistry):
        return flows.resolve
    registry = FlowRegistry()
    for flow in (flows.values() if isinstance(flows, Mapping) else flows) or ():
        registry.register_flow(flow)
    return registry.resolve


class Composition:
    """The flows around the one that is being compiled, outermost first, and how deep they may go."""

    def __init__(
        self,
        find: FindFlow,
        max_depth: int = MAX_DEPTH,
        path: tuple[tuple[str, str], ...] = (),
        policy: SchemaRefPolicy = DEFAULT_REF_POLICY,
    ) -> None:
        self.find = find
        self.max_depth = max_depth
        self.path = path
        self.policy = policy

    def inside(self, flow: AnyFlow) -> Composition:
        """The composition as the sub-flows of this flow see it."""
        return Composition(self.find, self.max_depth, (*self.path, (flow.name, flow.version)), self.policy)

    def sub_flow(self, name: str, version: str | None) -> AnyFlow:
        """The flow that a step of the innermost flow names.

        Raises:
            FlowCompositionError: There is none; it calls itself; or the flows go too deep.
        """
        around = " -> ".join(f"'{one}'" for one, _ in self.path)
        outermost = self.path[0][0]
        try:
            flow = self.find(name, version)
        except FlowNotFoundError as exc:
            # Of a step without a version a run that began before may still want the one that it had.
            wanted = f"'{name}'" if exc.version is None else f"'{name}' {exc.version}"
            detail = f"{around} calls {wanted}, which is not registered"
            near = suggest(name, exc.known or ())
            fix = f"did you mean '{near}'?" if near and near != name else f"register {wanted} first"
            if self.find is _nothing:
                fix = f"pass the flows that steps may name: compile_flow(..., flows=[...]) with {wanted}"
            raise FlowCompositionError(outermost, "unknown_flow", detail, known=exc.known or None, fix=fix) from None
        if any(one == flow.name for one, _ in self.path):
            detail = f"{around} -> '{flow.name}'"
            raise FlowCompositionError(outermost, "cycle", detail, fix="take one of these steps out") from None
        if len(self.path) > self.max_depth:
            detail = f"{around} -> '{flow.name}' is more than {self.max_depth} flows deep"
            fix = "raise max_composition_depth, or let a flow call the steps itself"
            raise FlowCompositionError(outermost, "max_depth_exceeded", detail, fix=fix)
        return flow


def _nothing(name: str, version: str | None) -> AnyFlow:
    raise FlowNotFoundError(name, version)


ALONE = Composition(_nothing)
"""For flows that name no others."""


class FlowFacts:
    """What a sub-flow takes, or what it gives, with the attributes of `ModelFacts`.

    Attributes:
        tolerant: Keys that it does not name are taken all the same.
        sure: The output keys that are there whenever it has not failed.
    """

    __slots__ = ("accepted", "closed", "fields", "model", "name", "open", "outputs", "sure", "tolerant")

    def __init__(
        self,
        name: str,
        model: type[BaseModel],
        fields: Iterable[InputField],
        outputs: Mapping[str, Any],
        sure: frozenset[str],
        *,
        is_open: bool,
        is_closed: bool = False,
    ) -> None:
        self.name = name
        self.model = model
        self.fields = list(fields)
        self.accepted = {field.name: field for field in self.fields}
        self.outputs = outputs
        self.sure = sure
        self.open = is_open
        self.closed = is_closed
        self.tolerant = not is_closed

    def field_names(self) -> list[str]:
        return [field.name for field in self.fields]


def callee_of(child: Build) -> KnownTool:
    """A compiled sub-flow in the shape of a tool: what it takes and what it gives."""
    flow = child.flow
    return KnownTool(_standing(flow.name, flow.description, flow.safety), _takes(child), _gives(child))


def _standing(name: str, description: str, safety: ToolSafetyContract | None = None) -> Tool:
    """What stands for a tool that takes anything and gives anything; it is never called."""
    model = _any_values()
    return Tool(name=name, description=description, input_schema=model, output_schema=model, fn=dict, safety=safety)


@cache
def _any_values() -> type[BaseModel]:
    # One for all: making a model takes longer than compiling a step.
    return open_model("Values")


def capability(capability_id: str) -> KnownTool:
    """An outside capability in the shape of a tool: it takes anything and gives anything."""
    facts = ModelFacts(_any_values())
    return KnownTool(_standing(capability_id, ""), facts, facts)


def _takes(child: Build) -> FlowFacts:
    """The input schema of the flow; without one, the keys that its steps look for in the initial context."""
    schema: ModelFacts | None = child.input.schema
    name = f"{child.flow.name} input"
    if schema is not None:
        facts = FlowFacts(
            schema.name, schema.model, schema.fields, {}, frozenset(), is_open=schema.open, is_closed=schema.closed
        )
        facts.accepted.update(schema.accepted)
        return facts
    visible = child.visible
    fields = [
        InputField(key, key, Any, required=False)
        for key, writers in visible.reads.items()
        if INITIAL in writers and key not in visible.dynamic
    ]
    return FlowFacts(name, BaseModel, fields, {}, frozenset(), is_open=visible.read_up_to > INITIAL)


def _gives(child: Build) -> FlowFacts:
    """The projection of the flow; without one, everything that its steps write."""
    flow, visible = child.flow, child.visible
    outputs: dict[str, Any] = {}
    names = flow.outputs
    if names is None:
        names = tuple(dict.fromkeys(key for writes in visible.writes for key in writes.keys))
    size = len(child.steps)
    sure = set()
    for name in names:
        seen = visible.look(name, size, parameters=False)
        outputs[name] = seen.kinds[0] if len(seen.kinds) == 1 else Any
        if flow.outputs is not None or visible.is_written(name, size):
            sure.add(name)
    is_open = flow.outputs is None and any(writes.open or writes.unknown for writes in visible.writes)
    return FlowFacts(f"{flow.name} output", BaseModel, (), outputs, frozenset(sure), is_open=is_open)
