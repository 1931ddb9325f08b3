"""What a flow takes, as a model: its input schema, or one made of what its steps read.

A flow without an input schema takes from outside what its steps read and no earlier step has certainly written. The
types are those of the fields that the values feed. This file only reads definitions and schemas, runs nothing, and says
"anything" where it cannot know. Called by `dictionaries` and `callables`.
"""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from chainweaver.compiler.lower import lower
from chainweaver.compiler.models import Catalogue, ModelFacts
from chainweaver.exceptions import FlowNotFoundError, PredicateSyntaxError
from chainweaver.export.fields import (
    LEFT_OUT,
    Taken,
    default_of,
    description_of,
    field_at,
    fitting,
    info_of,
    kind_of,
    model_of,
    same,
)
from chainweaver.export.mappings import read_by
from chainweaver.flow import DEFAULT_REF_POLICY, DAGFlowStep, FlowStep, resolve_model

if TYPE_CHECKING:
    from chainweaver.executor import FlowExecutor
    from chainweaver.flow import AnyFlow


class FlowInput(NamedTuple):
    """What a flow takes.

    Attributes:
        model: Its fields are the input keys.
        declared: It is the flow's own input schema, which the run itself validates with.
    """

    model: type[BaseModel]
    declared: bool


def input_of(flow: AnyFlow, executor: FlowExecutor | None) -> FlowInput:
    """The input of a flow; where there is neither a schema nor an executor that knows its tools, anything.

    Raises:
        SchemaRefPolicyError: The input schema cannot be found.
        DAGDefinitionError: The steps form no DAG.
    """
    declared = _schema(flow.input_schema_ref, executor)
    if declared is not None:
        return FlowInput(declared, True)
    if executor is None:
        return FlowInput(model_of(f"{flow.name}_input", {}, is_open=True), False)
    return FlowInput(_Reading(flow, executor, Catalogue(executor.registered_tools)).model(), False)


def _schema(ref: str | None, executor: FlowExecutor | None) -> type[BaseModel] | None:
    """The model behind a reference, as the policy of the registry permits."""
    if ref is None:
        return None
    return resolve_model(ref, policy=DEFAULT_REF_POLICY if executor is None else executor.registry.schema_ref_policy)


# ---- what is taken


class Gives(NamedTuple):
    """The keys that a step writes: those that are certain, those that may be, and whether there may be any others."""

    sure: frozenset[str] = frozenset()
    maybe: frozenset[str] = frozenset()
    open: bool = False


UNKNOWN = Gives(open=True)


class Callee(NamedTuple):
    """Something that a step may call: what it takes (None: nobody knows) and what it gives."""

    takes: ModelFacts | None
    gives: Gives


NOBODY_KNOWS = Callee(None, UNKNOWN)


class _Reading:
    """The work on one flow."""

    def __init__(
        self,
        flow: AnyFlow,
        executor: FlowExecutor,
        tools: Catalogue,
        around: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self.flow = flow
        self.executor = executor
        self.tools = tools
        self.around = around | {(flow.name, flow.version)}
        self.hidden = frozenset(flow.dynamic_params)
        self.taken: dict[str, Taken] = {}
        self.takes_anything = False
        self.sure: set[str] = set()
        self.maybe: set[str] = set()
        self.open = False
        for _, steps in groupby(lower(flow, tools), key=attrgetter("level")):
            level = [(step.definition, self._choices(step.definition), step.may_be_passed) for step in steps]
            for step, callees, _ in level:
                self._read(step, callees)
                self._read_predicates(step, self._gives(step, callees))
            # What a level writes is seen by the levels after it.
            for step, callees, may_be_passed in level:
                self._write(self._gives(step, callees), certain=not may_be_passed and step.on_error != "skip")
        self._read_borders()

    def model(self) -> type[BaseModel]:
        """The model of all that is taken, in the order in which it is first read."""
        return model_of(f"{self.flow.name}_input", self.taken, is_open=self.takes_anything)

    def gives(self) -> Gives:
        """What the flow gives as a step of another one: its outputs; without any, what its steps write."""
        if self.flow.outputs is not None:
            return Gives(frozenset(self.flow.outputs))
        return Gives(frozenset(self.sure), frozenset(self.maybe), self.open)

    # ---- what a step calls

    def _choices(self, step: FlowStep) -> list[Callee]:
        """What a step may call with what it reads: its own tool or flow, and the tools among which is decided."""
        found = [] if step.flow_name is None else [self._flow(step.flow_name, step.flow_version)]
        names = [step.tool_name, *(step.decision_candidates or ())]
        found += [self._tool(name) for name in dict.fromkeys(names) if name is not None]
        if step.combine_tool is not None:
            combined = self._tool(step.combine_tool)
            found = [one._replace(gives=combined.gives) for one in found]
        return found or [NOBODY_KNOWS]

    def _tool(self, name: str) -> Callee:
        known = self.tools.find(name)
        if known is None:
            return NOBODY_KNOWS
        takes, gives = self.tools.facts_of(known.tool.input_schema), known.gives
        return Callee(takes, Gives(frozenset(gives.outputs), open=gives.open))

    def _flow(self, name: str, version: str | None) -> Callee:
        try:
            child = self.executor.registry.get_flow(name, version=version)
        except FlowNotFoundError:
            return NOBODY_KNOWS
        if (child.name, child.version) in self.around:
            return NOBODY_KNOWS
        reading = _Reading(child, self.executor, self.tools, self.around)
        declared = _schema(child.input_schema_ref, self.executor)
        return Callee(ModelFacts(declared or reading.model()), reading.gives())

    # ---- reading

    def _read(self, step: FlowStep, choices: list[Callee]) -> None:
        """Take what a step reads."""
        items: list[Any] = []  # the types that an item of a map has to fit
        if step.input_mapping:
            self._read_mapped(step, choices[0].takes, items)
        else:
            self._read_named(step, [one.takes for one in choices], items)
        if step.map_over is not None:
            of_list: Any = list
            for read in read_by(step.map_over):
                self._take(read.key, of_list[fitting(items)] if read.whole else Any, required=True)

    def _read_mapped(self, step: FlowStep, takes: ModelFacts | None, items: list[Any]) -> None:
        for target, value in step.input_mapping.items():
            # What is cut into chunks need not be of the type of these.
            is_cut = step.chunk is not None and step.chunk.input == target
            info = None if takes is None or is_cut else info_of(takes, takes.accepted.get(target))
            for read in read_by(value):
                # A value that is passed inside another one has a type that nobody has written down.
                kind, described = (kind_of(info), description_of(info)) if read.whole else (Any, None)
                if step.map_over is not None and read.key == step.map_as:
                    items += [kind] if read.whole else []
                else:
                    self._take(read.key, kind, read.required, read.default, described)

    def _read_named(self, step: FlowStep, taking: list[ModelFacts | None], items: list[Any]) -> None:
        """An empty mapping: every context key that the input model names."""
        known = [takes for takes in taking if takes is not None]
        if len(known) < len(taking) or any(takes.open for takes in known):
            self.takes_anything = True
        for takes in known:
            for one in takes.fields:
                info = info_of(takes, one)
                if step.map_over is not None and step.map_as in (one.name, one.key):
                    items.append(kind_of(info))
                elif one.name not in self.sure:
                    # One of several will be called: only what all of them ask for is certain.
                    others = [field_at(other, one.key) for other in known if other is not takes]
                    required = one.required and all(other is not None and other.is_required() for other in others)
                    kind = kind_of(info)
                    is_cut = step.chunk is not None and step.chunk.input in (one.name, one.key)
                    agreed = not is_cut and all(other is None or same(kind_of(other), kind) for other in others)
                    self._take(one.key, kind if agreed else Any, required, default_of(info), description_of(info))

    def _read_predicates(self, step: FlowStep, gives: Gives) -> None:
        """A branching step looks at its own outputs first, then at what it has seen."""
        for edge in step.branches if isinstance(step, DAGFlowStep) else ():
            # Few flows branch, and reading predicates takes a room of its own.
            from chainweaver.compiler.predicates import parse_predicate

            try:
                names = parse_predicate(edge.predicate).names
            except PredicateSyntaxError:
                continue  # its step fails, whatever the input
            for name in names:
                if name not in gives.sure:
                    self._take(name, Any, required=name not in gives.maybe and not gives.open)

    def _read_borders(self) -> None:
        """What belongs to the result as a whole without any step having written it."""
        for key in self.flow.outputs or ():
            self._take(key, Any, required=True)
        for ref in (self.flow.context_schema_ref, self.flow.output_schema_ref):
            schema = _schema(ref, self.executor)
            facts = None if schema is None else ModelFacts(schema)
            for one in () if facts is None else facts.fields:
                if one.required:
                    self._take(one.key, kind_of(info_of(facts, one)), required=True)

    def _take(
        self, key: str, kind: Any, required: bool, default: Any = LEFT_OUT, description: str | None = None
    ) -> None:
        if key in self.hidden or key in self.sure:
            return
        taken = self.taken.setdefault(key, Taken())
        # Where a step may have written the key, the value from outside is the last resort.
        taken.required = taken.required or (required and key not in self.maybe and not self.open)
        taken.defaults.append(default)
        taken.description = taken.description or description
        if kind is not Any and not any(same(kind, known) for known in taken.kinds):
            taken.kinds.append(kind)

    # ---- writing

    def _gives(self, step: FlowStep, choices: list[Callee]) -> Gives:
        """What a step writes when it has not been passed over."""
        if step.output_mapping is not None:
            return Gives(frozenset(step.output_mapping))
        fallback = [] if step.fallback_tool is None else [self._tool(step.fallback_tool)]
        gives = [callee.gives for callee in (*choices, *fallback)]
        sure = frozenset.intersection(*(one.sure for one in gives))
        maybe = frozenset[str]().union(*(one.sure | one.maybe for one in gives))
        return Gives(sure, maybe, any(one.open for one in gives))

    def _write(self, gives: Gives, *, certain: bool) -> None:
        """Make what a step writes known to the steps after it."""
        self.maybe |= gives.sure | gives.maybe
        self.open = self.open or gives.open
        if certain:
            self.sure |= gives.sure
