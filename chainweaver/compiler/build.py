"""Building a plan: lower, order, bind, check; everything that is found is reported at once.

`compile_flow` is the one way to a plan, for users who want to know beforehand and for the executor that runs it. The
checks are in the other files of this room, and happen in the order in which they are called here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from chainweaver.canonical import Unfingerprintable
from chainweaver.compiler import borders, fallbacks, idle, outputs
from chainweaver.compiler.collisions import Collisions
from chainweaver.compiler.findings import CompilationResult, Findings
from chainweaver.compiler.gates import plan_retry, plan_tool, validator_of
from chainweaver.compiler.identity import flow_digest, late_step_fingerprint, plan_facts
from chainweaver.compiler.inputs import BoundInputs, bind_inputs
from chainweaver.compiler.keys import Visible, initial_of, writes_of
from chainweaver.compiler.lower import Lowered, lower, unsupported_constructs
from chainweaver.compiler.models import Catalogue, KnownTool
from chainweaver.exceptions import SchemaRefPolicyError
from chainweaver.plan import Plan, PlannedRetry, PlannedStep, PlannedTool, Row

if TYPE_CHECKING:
    from chainweaver.flow import DAGFlow, Flow
    from chainweaver.tools import Tool


def compile_flow(flow: Flow | DAGFlow, tools: Mapping[str, Tool] | Iterable[Tool]) -> CompilationResult:
    """Turn a definition and the tools it names into a plan, and say everything that is wrong with it.

    Args:
        flow: The definition; it is not changed and not kept.
        tools: Name -> tool, or the tools themselves.

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
    return build(flow, by_name, digest)


def build(flow: Flow | DAGFlow, tools: Mapping[str, Tool], digest: str) -> CompilationResult:
    """As `compile_flow`, for callers that know the digest of the flow; an empty one says that it has none."""
    return _Build(flow, tools, digest).result()


class _Build:
    """The work on one plan."""

    def __init__(self, flow: Flow | DAGFlow, tools: Mapping[str, Tool], digest: str) -> None:
        self.flow = flow
        self.digest = digest
        self.findings = Findings()
        self.tools = Catalogue(tools)
        self.steps = lower(flow, self.tools)
        size = len(self.steps)
        self.input = borders.border_of(flow, "input", borders.INPUT, self.findings)
        self.context = borders.border_of(flow, "context", size, self.findings)
        self.output = borders.border_of(flow, "output", size, self.findings)
        self.visible = Visible(initial_of(self.input.schema), flow.dynamic_params, size)
        self.planned_tools: dict[str, PlannedTool] = {}
        self.ancestors: list[int] = []  # per step a set of positions, as the bits of one number

    def result(self) -> CompilationResult:
        bound = [self._bind(step) for step in self.steps]
        collisions = self._check_whole_flow()
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
        outputs.check_tools(step, self.tools.names, findings)
        inputs = bind_inputs(step, self.visible, findings)
        self._add_implicit_needs(step, inputs.writers)
        self.visible.add(step, writes_of(step))
        outputs.check_output_mapping(step, findings)
        fallbacks.check_fallback(step, inputs.given, findings)
        outputs.check_retry_safety(step, findings)
        for tool in (step.primary, step.fallback):
            if tool is not None and tool.tool.name not in self.planned_tools:
                self.planned_tools[tool.tool.name] = plan_tool(tool)
                outputs.warn_of_copies(step, tool, findings)
        return inputs

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
        retry = self._retry(step)
        check_inputs, check_outputs = self._contract(step, "input", inputs), self._contract(step, "output", inputs)
        tool = self._tool(step.primary)
        fault = self.findings.faults.get(step.index)
        rename = None if definition.output_mapping is None else tuple(definition.output_mapping.items())
        plain = (
            tool is not None
            and not (
                fault or retry or check_inputs or check_outputs or definition.timeout_seconds or inputs.dynamic_fields
            )
            and definition.on_error == "fail"
            and rename is None
            and rivals == ((), False)
            and not (tool.secret_outputs or tool.timeout_s or tool.max_output_size or tool.wants_context)
        )
        return PlannedStep(
            index=step.index,
            step_id=step.step_id,
            name=step.tool_name,
            label=step.label,
            level=step.level,
            needs=tuple(step.needs),
            feeds=feeds,
            read=inputs.read,
            tool=tool,
            fallback=self._tool(step.fallback),
            fault=fault,
            retry=retry,
            on_error=definition.on_error if step.fallback_name is None else "fallback",
            timeout_s=definition.timeout_seconds,
            rename=rename,
            check_inputs=check_inputs,
            check_outputs=check_outputs,
            rivals=rivals[0],
            guards_input=rivals[1],
            dynamic_fields=inputs.dynamic_fields,
            plain=plain,
            fingerprint=late_step_fingerprint(step),
        )

    def _tool(self, known: KnownTool | None) -> PlannedTool | None:
        return None if known is None else self.planned_tools[known.tool.name]

    def _retry(self, step: Lowered) -> PlannedRetry | None:
        if step.definition.retry is None:
            return None
        try:
            return plan_retry(step.definition.retry)
        except SchemaRefPolicyError as exc:
            self._ref_error(step, "unknown_retryable_error", "retry", exc)
            return None

    def _contract(self, step: Lowered, side: str, inputs: BoundInputs) -> Callable[[Any], Any] | None:
        try:
            contract = getattr(step.definition, f"resolved_{side}_contract")
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
            empty_slots=[*[None] * len(steps), {}],
            is_chain=all(step.index - 1 in step.needs for step in steps[1:]),
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
            unsupported=unsupported_constructs(self.steps),
            inline_lanes=frozenset(tool.lane for tool in self.planned_tools.values() if tool.inline),
            names={step.step_id: step.index for step in steps},
            facts=cache(lambda: plan_facts(steps)),
        )


def _row(step: PlannedStep) -> Row:
    tool: Any = step.tool or _NO_TOOL
    return Row(
        step,
        step.plain,
        step.read,
        tool.validate_input,
        tool,
        tool.validate_output,
        tool.scalar_inputs and tool.scalar_outputs,
        tool.direct_output,
    )


class _NoTool:
    """Stands in the row of a step without a tool, whose fault keeps it off the short path."""

    validate_input = validate_output = None
    scalar_inputs = scalar_outputs = direct_output = False


_NO_TOOL = _NoTool()
