"""Building a plan: lower, order, bind, check; everything that is found is reported at once.

`compile_flow` is the one way to a plan, for users who want to know beforehand and for the executor that runs it. The
checks are in the other files of this room, and happen in the order in which they are called here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from types import NoneType
from typing import TYPE_CHECKING, Any

from chainweaver.canonical import Unfingerprintable
from chainweaver.compiler import borders, idle, outputs
from chainweaver.compiler.branching import BoundBranches, bind_branches
from chainweaver.compiler.chunks import check_chunks, plan_chunks, plan_in_chunks
from chainweaver.compiler.collisions import Collisions
from chainweaver.compiler.compose import MAX_DEPTH, Composition, FlowSource, callee_of, capability, finder_of
from chainweaver.compiler.findings import CompilationResult, Findings
from chainweaver.compiler.gates import (
    hider_of,
    plan_capability,
    plan_flow_call,
    plan_retry,
    plan_tool,
    secret_names,
    validator_of,
)
from chainweaver.compiler.identity import flow_digest, late_step_fingerprint, plan_facts
from chainweaver.compiler.inputs import BoundInputs, bind_inputs
from chainweaver.compiler.keys import Look, Visible, initial_of, writes_of
from chainweaver.compiler.liveness import Reading, liveness_of, looks_at_fields_only
from chainweaver.compiler.lower import Lowered, lower
from chainweaver.compiler.maps import BoundMap, bind_map, secret_roots
from chainweaver.compiler.models import Catalogue, KnownTool
from chainweaver.compiler.mutation import Mutations
from chainweaver.compiler.once import Once
from chainweaver.compiler.stand_ins import check_stand_ins
from chainweaver.compiler.streams import Streams
from chainweaver.exceptions import FlowCompositionError, SchemaRefPolicyError, SchemaValidationError
from chainweaver.flow import DEFAULT_REF_POLICY, DAGFlowStep, SchemaRefPolicy, resolve_model
from chainweaver.plan import Liveness, Plan, PlannedMap, PlannedRetry, PlannedStep, PlannedTool, Row

if TYPE_CHECKING:
    from chainweaver.flow import DAGFlow, Flow
    from chainweaver.tools import Tool


def compile_flow(
    flow: Flow | DAGFlow,
    tools: Mapping[str, Tool] | Iterable[Tool],
    *,
    flows: FlowSource | None = None,
    max_composition_depth: int = MAX_DEPTH,
    policy: SchemaRefPolicy = DEFAULT_REF_POLICY,
) -> CompilationResult:
    """Turn a definition and the tools it names into a plan, and say everything that is wrong with it.

    Args:
        flow: The definition; it is not changed and not kept.
        tools: Name -> tool, or the tools themselves.
        flows: The flows that its steps may name: a registry, or the flows themselves.
        max_composition_depth: How many flows deep they may go.
        policy: Which classes the flows may name.

    Raises:
        DAGDefinitionError: The steps form no DAG, so that there is no order to plan.

    >>> from chainweaver import Flow, FlowStep, tool
    >>> @tool
    ... def double(n: int) -> int:
    ...     return 2 * n
    >>> flow = Flow(name="f", description="d", steps=[FlowStep(tool_name="double", input_mapping={"m": "n"})])
    >>> for error in compile_flow(flow, [double]).errors:
    ...     print(error.issue_type)
    unknown_target_key
    missing_required_input
    """
    by_name = tools if isinstance(tools, Mapping) else {tool.name: tool for tool in tools}
    try:
        digest = flow_digest(flow)
    except Unfingerprintable:
        digest = ""
    return build(flow, by_name, digest, Composition(finder_of(flows), max_composition_depth, policy=policy))


def build(flow: Flow | DAGFlow, tools: Mapping[str, Tool], digest: str, composition: Composition) -> CompilationResult:
    """As `compile_flow`, for callers that know the digest of the flow; an empty one says that it has none."""
    return Build(flow, tools, digest, composition).result()


class Build:
    """The work on one plan; of sub-flows it is kept as long as the flow around them is compiled."""

    def __init__(self, flow: Flow | DAGFlow, tools: Mapping[str, Tool], digest: str, composition: Composition) -> None:
        self.flow = flow
        self.digest = digest
        self.findings = Findings()
        self.composition = composition.inside(flow)
        self.composition_errors: list[FlowCompositionError] = []
        self.by_name = tools
        self.tools = Catalogue(tools)
        self.steps = lower(flow, self.tools)
        self.children: dict[int, Build] = {}
        self.sub_plans: dict[int, Plan] = {}
        self.rank = 0
        size = len(self.steps)
        self.input = borders.border_of(flow, "input", borders.INPUT, self.findings, composition.policy)
        self.context = borders.border_of(flow, "context", size, self.findings, composition.policy)
        self.output = borders.border_of(flow, "output", size, self.findings, composition.policy)
        self.visible = Visible(initial_of(self.input.schema), flow.dynamic_params, size)
        self.planned_tools: dict[int, PlannedTool] = {}
        self.maps: dict[int, BoundMap] = {}
        self.branches: list[BoundBranches | None] = []
        self.looks: list[tuple[Look, ...]] = []
        self.positions = {step.step_id: step.index for step in self.steps}
        self.ancestors: list[int] = []  # per step a set of positions, as the bits of one number
        self.once: Once | None = None
        self.secret_inputs: dict[str, None] = {}  # keys of the initial context, in the order in which they are read

    def result(self) -> CompilationResult:
        for step in self.steps:
            self._find_callee(step)
        bound = [self._bind(step) for step in self.steps]
        collisions = self._check_whole_flow()
        self.mutations = Mutations(self, bound, self.maps)
        self.mutations.check(self.findings)
        self.streams = Streams(self, bound, self.maps)
        self.streams.check(self.findings)
        if self.flow.validation == "once":
            self.once = Once(self, bound, self.mutations)
        feeds: list[list[int]] = [[] for _ in self.steps]
        for step in self.steps:
            for need in step.needs:
                feeds[need].append(step.index)
        planned = [
            self._plan_step(step, inputs, tuple(feeds[step.index]), collisions.rivals_of(step))
            for step, inputs in zip(self.steps, bound, strict=True)
        ]
        return self.findings.result(self._plan(tuple(planned)))

    # ---- one step

    def _bind(self, step: Lowered) -> BoundInputs:
        """Bind what a step reads, make known what it writes, and check both."""
        findings = self.findings
        looked = len(self.visible.looks)
        outputs.check_tools(step, self.tools.names, findings)
        if step.definition.map_over is None:
            inputs = call = bind_inputs(step, self.visible, findings)
            if step.definition.chunk is not None:
                inputs = call = check_chunks(step, step.definition.chunk, inputs, findings)
        else:
            bound = self.maps[step.index] = bind_map(step, self.visible, findings)
            inputs, call = bound.outer, bound.inner
        writes = writes_of(step)
        self.branches.append(bind_branches(step, writes, self.visible, self.positions, findings))
        self.looks.append(tuple(self.visible.looks[looked:]))
        self._check_parameters(step, call)
        asked = () if self.branches[-1] is None else self.branches[-1].writers
        self._add_implicit_needs(step, tuple(sorted({*inputs.writers, *asked})))
        self.visible.add(step, writes)
        outputs.check_output_mapping(step, findings)
        check_stand_ins(step, call.given, findings)
        outputs.check_retry_safety(step, findings)
        for known in (*step.callees, *(() if step.combiner is None else (step.combiner,))):
            if id(known) not in self.planned_tools:
                self.planned_tools[id(known)] = self._planned(step, known)
                outputs.warn_of_copies(step, known.call or known, findings)
        self._note_secrets(step, call)
        return inputs

    def _note_secrets(self, step: Lowered, call: BoundInputs) -> None:
        """Note which keys of the initial context the step, or a sub-flow of it, takes as secrets."""
        child = self.children.get(step.index)
        names = set() if child is None else set(child.secret_inputs)
        for known in step.callees:
            if self.planned_tools[id(known)].hide is not None:
                names |= secret_names(known.takes)
        if names:
            read = [(key, seen) for name, found in call.origins.items() if name in names for key, seen in found]
            self.secret_inputs.update(dict.fromkeys(key for key, seen in read if 0 in seen.place.slots))

    def _planned(self, step: Lowered, known: KnownTool) -> PlannedTool:
        if known.call is not None:
            return plan_in_chunks(plan_tool(known.call), known, step.combiner)
        if known is not step.primary or step.definition.tool_name is not None:
            return plan_tool(known)
        return plan_flow_call(known) if step.definition.flow_name is not None else plan_capability(known)

    # ---- what a step calls when that is no tool

    def _find_callee(self, step: Lowered) -> None:
        """Give a step that runs a sub-flow, or has a capability perform it, what stands for a tool."""
        definition = step.definition
        if definition.flow_name is not None:
            self._compile_sub_flow(step, definition.flow_name, definition.flow_version)
        elif isinstance(definition, DAGFlowStep) and definition.capability_id is not None and step.primary is None:
            step.primary = capability(definition.capability_id)

    def _compile_sub_flow(self, step: Lowered, name: str, version: str | None) -> None:
        try:
            flow = self.composition.sub_flow(name, version)
        except FlowCompositionError as exc:
            self.composition_errors.append(exc)
            detail = f"sub-flow '{name}' cannot be composed ({exc.reason}): {exc.detail}; {exc.fix}"
            self.findings.error(step, f"composition_{exc.reason}", detail, None, "flow_name")
            return
        try:
            digest = flow_digest(flow)
        except Unfingerprintable:
            digest = ""
        child = self.children[step.index] = Build(flow, self.by_name, digest, self.composition)
        compiled = child.result()
        self.composition_errors += child.composition_errors
        self.findings.inherit(step, flow.name, compiled)
        self.sub_plans[step.index] = compiled.plan
        step.primary = callee_of(child)

    def _check_parameters(self, step: Lowered, call: BoundInputs) -> None:
        """Hold the dynamic parameters of a sub-flow against those that its step can feed it with."""
        child = self.children.get(step.index)
        if child is None or call.given is None:  # a sub-flow that takes everything may find them in the context
            return
        for name in call.given:
            if name in call.dynamic_fields and name not in child.flow.dynamic_params:
                self._unlisted_parameter(step, child.flow.name, name)
        for name in child.flow.dynamic_params:
            if name not in self.flow.dynamic_params and name not in call.given:
                detail = (
                    f"sub-flow '{child.flow.name}' takes the dynamic parameter '{name}', and flow '{self.flow.name}' "
                    "has none to hand on; list it in dynamic_params here too, or feed it in input_mapping"
                )
                self.findings.warning(step, "missing_dynamic_parameter", detail, name)

    def _unlisted_parameter(self, step: Lowered, flow_name: str, name: str) -> None:
        detail = (
            f"input '{name}' of sub-flow '{flow_name}' is fed by a dynamic parameter, which it does not list, so that "
            f"its records would show the value; add '{name}' to the dynamic_params of '{flow_name}'"
        )
        self.findings.error(
            step,
            "unlisted_parameter",
            detail,
            lambda: SchemaValidationError(step.tool_name, step.index, detail, context="input", step_name=step.label),
            name,
        )

    def _add_implicit_needs(self, step: Lowered, writers: tuple[int, ...]) -> None:
        """Let a step wait for everybody whose output it may read (R3)."""
        ancestors = 0
        for need in step.needs:
            ancestors |= self.ancestors[need] | 1 << need
        for writer in writers:
            if not ancestors >> writer & 1:
                step.needs.append(writer)
                ancestors |= self.ancestors[writer] | 1 << writer
                other = self.steps[writer]
                detail = (
                    f"it reads what step '{other.label}' may write, so it waits for it; "
                    f"say so with depends_on=['{other.step_id}']"
                )
                self.findings.warning(step, "implicit_dependency", detail)
        step.needs.sort()
        self.ancestors.append(ancestors)

    def _plan_step(
        self, step: Lowered, inputs: BoundInputs, feeds: tuple[int, ...], rivals: tuple[tuple[int, ...], bool]
    ) -> PlannedStep:
        definition = step.definition
        bound = self.maps.get(step.index)
        call = inputs if bound is None else bound.inner
        # Before the fault is asked for: what cannot be resolved is one.
        check_inputs, check_outputs = self._contract(step, "input", call), self._contract(step, "output", call)
        retry = self._retry(step)
        tool = self._tool(step, step.primary)
        branching = self.branches[step.index]
        child = self.children.get(step.index)
        planned = PlannedStep(
            index=step.index,
            step_id=step.step_id,
            name=step.tool_name,
            label=step.label,
            level=step.level,
            needs=tuple(step.needs),
            feeds=feeds,
            read=call.read,
            tool=tool,
            fallback=self._tool(step, step.fallback),
            fault=self.findings.faults.get(step.index),
            retry=retry,
            on_error=definition.on_error if step.fallback_name is None else "fallback",
            timeout_s=definition.timeout_seconds,
            rename=None if definition.output_mapping is None else tuple(definition.output_mapping.items()),
            check_inputs=check_inputs,
            check_outputs=check_outputs,
            rivals=rivals[0],
            guards_input=rivals[1],
            dynamic_fields=call.dynamic_fields,
            plain=False,
            fingerprint=late_step_fingerprint(step, None if child is None else child.flow),
            parents=step.parents,
            may_be_passed=step.may_be_passed,
            branches=None if branching is None else branching.planned,
            candidates=self._candidates(step),
            rank=self.rank,
            child=self.sub_plans.get(step.index),
            capability=getattr(definition, "capability_id", None),
            chunks=None
            if definition.chunk is None or tool is None
            else plan_chunks(step, definition.chunk, tool, self._tool(step, step.combiner)),
            streams=self.streams.planned(step),
            mutates=self.mutations.fields_of(step),
            watched=cache(partial(self.mutations.watched, step.index)),
        )
        self.rank += bool(planned.candidates)
        if bound is None:
            return replace(planned, plain=_is_plain(planned))
        return self._mapped(step, planned, inputs, bound)

    def _candidates(self, step: Lowered) -> Mapping[str, PlannedTool]:
        found = {name: self._tool(step, known) for name, known in step.candidates.items()}
        return {name: tool for name, tool in found.items() if tool is not None}

    def _mapped(self, step: Lowered, planned: PlannedStep, outer: BoundInputs, bound: BoundMap) -> PlannedStep:
        """A step that runs once per item: what concerns the list stays with it, what concerns a call goes inside."""
        definition = step.definition
        inner = replace(
            planned, level=0, needs=(), feeds=(), fault=None, rename=None, rivals=(), guards_input=False, parents=(),
            may_be_passed=False, branches=None, on_error="fail" if planned.on_error == "skip" else planned.on_error,
        )  # fmt: skip
        inner = replace(inner, plain=_is_plain(inner))
        gives = None if step.primary is None else step.primary.gives
        each = PlannedMap(
            items_of=bound.items_of,
            read_item=bound.read_item,
            step=inner,
            plan=self._items_plan(inner, stops=definition.on_item_error == "fail"),
            limit=definition.map_concurrency,
            on_item_error=definition.on_item_error,
            keys=() if gives is None else tuple(gives.outputs),
            is_open=len(step.callees) > 1 or gives is None or gives.open,
        )
        tool = planned.tool
        if tool is not None:
            secrets = frozenset() if step.primary is None else secret_names(step.primary.takes)
            tool = replace(
                tool, scalar_inputs=False, scalar_outputs=False, number_inputs=False, number_outputs=False,
                hide=hider_of(secret_roots(step, secrets)),
            )  # fmt: skip
        return replace(
            planned, read=outer.read, tool=tool, dynamic_fields=outer.dynamic_fields, each=each, child=None, retry=None,
            timeout_s=None, check_inputs=None, check_outputs=None, candidates={}, capability=None, fallback=None,
            on_error="skip" if planned.on_error == "skip" else "fail", streams=None,
        )  # fmt: skip

    def _items_plan(self, step: PlannedStep, *, stops: bool) -> Plan:
        """A plan of one item, from which a run makes one of all of them."""
        return Plan(
            flow_name=self.flow.name,
            flow_version=self.flow.version,
            digest="",
            steps=(step,),
            rows=(_row(step),),
            summary_rows=(_summary_row(step),),
            empty_slots=[None, {}],
            is_chain=False,
            is_inline=False,
            need_counts=(0,),
            entries=(0,),
            input_gate=None,
            context_gate=None,
            output_gate=None,
            collision_policy="overwrite",
            stop_on_failure=stops,
            project=None,
            dynamic_params=(),
            inline_lanes=frozenset(),
            has_processes=False,
            names={},
            facts=cache(lambda: plan_facts((step,))),
            liveness=lambda: Liveness((), (), {}),
        )

    def _tool(self, step: Lowered, known: KnownTool | None) -> PlannedTool | None:
        if known is None:
            return None
        planned = self.planned_tools[id(known)]
        return planned if self.once is None else self.once.applied(step, known, planned)

    def _retry(self, step: Lowered) -> PlannedRetry | None:
        if step.definition.retry is None:
            return None
        try:
            return plan_retry(step.definition.retry, self.composition.policy)
        except SchemaRefPolicyError as exc:
            self._ref_error(step, "unknown_retryable_error", "retry", exc)
            return None

    def _contract(self, step: Lowered, side: str, inputs: BoundInputs) -> Callable[[Any], Any] | None:
        try:
            ref = getattr(step.definition, f"{side}_contract")
            contract = None if ref is None else resolve_model(ref, policy=self.composition.policy)
        except SchemaRefPolicyError as exc:
            self._ref_error(step, "unresolvable_schema_ref", f"{side}_contract", exc)
            return None
        if contract is None:
            return None
        if side == "input":
            outputs.check_input_contract(step, self.tools.facts_of(contract), inputs.given, self.findings)
        else:
            outputs.check_output_contract(step, self.tools.facts_of(contract), self.findings)
        return validator_of(contract)

    def _ref_error(self, step: Lowered, issue_type: str, field_name: str, exc: SchemaRefPolicyError) -> None:
        def again() -> SchemaRefPolicyError:
            error = SchemaRefPolicyError(exc.ref, exc.detail, fix=exc.fix)
            error.__cause__ = exc.__cause__
            return error

        self.findings.error(step, issue_type, str(exc), again, field_name)

    # ---- the whole flow

    def _check_whole_flow(self) -> Collisions:
        flow, visible, findings, size = self.flow, self.visible, self.findings, len(self.steps)
        collisions = Collisions(self.steps, visible.writes, flow.on_context_collision, stops=flow.on_failure == "stop")
        collisions.check(visible.initial.keys, findings)
        idle.warn_of_hidden(self.steps, visible, findings)
        idle.warn_of_unreachable(self.steps, findings)
        # From here on reading counts for the output of the flow.
        borders.check_outputs(flow, size, visible, findings)
        if flow.outputs is not None:
            idle.warn_of_unused(self.steps, visible, findings)
        borders.check_border(flow, "context", self.context, size, visible, findings)
        borders.check_border(flow, "output", self.output, size, visible, findings)
        return collisions

    def _plan(self, steps: tuple[PlannedStep, ...]) -> Plan:
        flow = self.flow
        return Plan(
            flow_name=flow.name,
            flow_version=flow.version,
            digest=self.digest,
            steps=steps,
            rows=tuple([_row(step) for step in steps]),
            summary_rows=tuple([_summary_row(step) for step in steps]),
            empty_slots=[*[None] * len(steps), {}],
            is_chain=all(step.index - 1 in step.needs for step in steps[1:])
            and all(step.each is None and (step.child is None or step.child.is_chain) for step in steps),
            is_inline=all(step.plain and step.tool is not None and step.tool.lane == "inline" for step in steps),
            need_counts=tuple([len(step.needs) for step in steps]),
            entries=tuple([step.index for step in steps if not step.needs]),
            input_gate=self.input.gate,
            context_gate=self.context.gate,
            output_gate=self.output.gate,
            collision_policy=flow.on_context_collision,
            stop_on_failure=flow.on_failure == "stop",
            project=borders.projection_of(flow.name, len(steps), flow.outputs),
            dynamic_params=flow.dynamic_params,
            inline_lanes=self._inline_lanes(),
            has_processes=any(tool.lane == "process" for tool in self.planned_tools.values())
            or any(plan.has_processes for plan in self.sub_plans.values()),
            names={step.step_id: step.index for step in steps},
            facts=cache(lambda: plan_facts(steps)),
            liveness=cache(partial(liveness_of, self._reading())),
            outputs=flow.outputs,
            children=self._reached_flows(),
            unpinned=self._unpinned_flows(),
            composition=tuple(map(_remade, self.composition_errors)),
            needs_schedule=any(plan.needs_schedule for plan in self.sub_plans.values())
            or any(step.each is not None and step.each.limit not in (None, 1) for step in steps),
            streams=self.streams.of_flow(),
            secret_inputs=tuple(self.secret_inputs),
        )

    def _reading(self) -> Reading:
        """Who reads and writes what, for the question how long values are needed."""
        flow, visible = self.flow, self.visible
        kept: tuple[Look, ...] | None = None
        schema = self.context.schema
        if flow.outputs is not None and (self.context.gate is None or looks_at_fields_only(schema)):
            named = dict.fromkeys([*flow.outputs, *(() if schema is None else schema.accepted)])
            kept = tuple([visible.kept_in(key, len(self.steps)) for key in named])
        return Reading(
            tuple(self.looks),
            tuple(visible.writes),
            tuple(self.ancestors),
            frozenset(self.sub_plans),
            frozenset(visible.initial.keys),
            kept,
        )

    def _inline_lanes(self) -> frozenset[str | None]:
        own = {
            tool.lane for tool in self.planned_tools.values() if tool.inline and isinstance(tool.lane, (str, NoneType))
        }
        return frozenset(own.union(*(plan.inline_lanes for plan in self.sub_plans.values())))

    def _unpinned_flows(self) -> tuple[tuple[str, str], ...]:
        found: dict[tuple[str, str], None] = {}
        for index, plan in self.sub_plans.items():
            if self.steps[index].definition.flow_version is None:
                found[plan.flow_name, plan.flow_version] = None
            found.update(dict.fromkeys(plan.unpinned))
        return tuple(found)

    def _reached_flows(self) -> tuple[tuple[str, str], ...]:
        reached: dict[tuple[str, str], None] = {}
        for plan in self.sub_plans.values():
            reached[plan.flow_name, plan.flow_version] = None
            reached.update(dict.fromkeys(plan.children))
        return tuple(reached)


def _is_plain(step: PlannedStep) -> bool:
    """Whether a step has nothing but inputs, a tool and outputs."""
    tool = step.tool
    return (
        tool is not None
        and not (step.fault or step.retry or step.check_inputs or step.check_outputs or step.timeout_s)
        and not (step.dynamic_fields or step.candidates or step.guards_input)
        and (step.child, step.each, step.chunks, step.capability, step.rivals) == (None, None, None, None, ())
        and step.on_error == "fail"
        and tool.hand_back is None
        and step.streams is None
        and not (tool.secret_outputs or tool.timeout_s or tool.max_output_size or tool.wants_context or tool.stream)
        and not (tool.safety is not None and tool.safety.requires_approval)
    )


def _remade(error: FlowCompositionError) -> Callable[[], FlowCompositionError]:
    """Makes an error of its own for every call: tracebacks must not pile up in a plan."""

    def again() -> FlowCompositionError:
        return FlowCompositionError(error.flow_name or "", error.reason, error.detail, known=error.known, fix=error.fix)

    return again


def _row(step: PlannedStep) -> Row:
    tool: Any = step.tool or _NO_TOOL
    return Row(
        step,
        step.plain,
        step.branches is not None or step.may_be_passed or step.rename is not None,
        step.read,
        tool.validate_input,
        tool,
        tool.validate_output,
        tool.scalar_inputs and tool.scalar_outputs,
        tool.direct_output,
    )


def _summary_row(step: PlannedStep) -> Row:
    """The same, where a text is no less to be summed up than a list."""
    tool: Any = step.tool or _NO_TOOL
    return _row(step)._replace(scalars=tool.number_inputs and tool.number_outputs)


class _NoTool:
    """Stands in the row of a step without a tool, whose fault keeps it off the short path."""

    validate_input = validate_output = None
    scalar_inputs = scalar_outputs = number_inputs = number_outputs = direct_output = False


_NO_TOOL = _NoTool()
