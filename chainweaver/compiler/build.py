"""Building a plan: lower, order, bind, check; everything that is found is reported at once.

`compile_flow` is the one way to a plan, for users who want to know beforehand and for the executor that runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from chainweaver.canonical import Unfingerprintable, digest
from chainweaver.compiler import outputs
from chainweaver.compiler.findings import CompilationResult, Findings
from chainweaver.compiler.gates import contract_of, gate_of, plan_retry, plan_tool, validator_of
from chainweaver.compiler.inputs import BoundInputs, bind_inputs
from chainweaver.compiler.keys import Visible, Writes, annotation_of, is_open, writes_of
from chainweaver.compiler.lower import Lowered, lower, unsupported_constructs
from chainweaver.exceptions import ChainWeaverError, SchemaRefPolicyError
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
    by_name = dict(tools) if isinstance(tools, Mapping) else {tool.name: tool for tool in tools}
    return _Build(flow, by_name).result()


class _Build:
    """The work on one plan."""

    def __init__(self, flow: Flow | DAGFlow, tools: Mapping[str, Tool]) -> None:
        self.flow = flow
        self.findings = Findings()
        self.steps = lower(flow, tools)
        self.known_tools = sorted(tools)
        self.planned_tools: dict[int, PlannedTool] = {}
        self.border_errors: list[tuple[str, ChainWeaverError]] = []
        self.input_schema = self._schema("input")
        self.initial = (
            None if self.input_schema is None or not _is_closed(self.input_schema) else _fields(self.input_schema)
        )
        self.visible = Visible(self.initial, flow.dynamic_params, len(self.steps))
        self.writes: list[Writes] = []
        self.ancestors: list[int] = []  # per step a set of positions, as the bits of one number

    def result(self) -> CompilationResult:
        bound = [self._bind(step) for step in self.steps]
        self._check_whole_flow()
        rivals = _Rivals(self.steps, self.writes, self.flow.on_context_collision)
        feeds: list[list[int]] = [[] for _ in self.steps]
        for step in self.steps:
            for need in step.needs:
                feeds[need].append(step.index)
        planned = tuple(
            self._plan_step(step, inputs, tuple(feeds[step.index]), rivals.of(step))
            for step, inputs in zip(self.steps, bound, strict=True)
        )
        return self.findings.result(self._plan(planned))

    # ---- one step

    def _bind(self, step: Lowered) -> BoundInputs:
        """Bind what a step reads, make known what it writes, and check both."""
        findings = self.findings
        outputs.check_tools(step, self.known_tools, findings)
        inputs = bind_inputs(step, self.visible, findings)
        self._add_implicit_needs(step, inputs.writers)
        writes = writes_of(step)
        self.writes.append(writes)
        self.visible.add(step, writes)
        outputs.check_output_mapping(step, findings)
        outputs.check_fallback(step, findings)
        outputs.check_retry_safety(step, findings)
        outputs.warn_of_copies(step, findings)
        return inputs

    def _add_implicit_needs(self, step: Lowered, writers: Sequence[int]) -> None:
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
                    f"step '{step.label}' reads what step '{other.label}' may write, so it waits for it; "
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
        check_inputs, check_outputs = self._contract(step, "input"), self._contract(step, "output")
        tool = self._tool(step.tool)
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
            and not (tool.timeout_s or tool.max_output_size or tool.wants_context)
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
            on_error="fallback" if definition.fallback_tool is not None else definition.on_error,
            timeout_s=definition.timeout_seconds,
            rename=rename,
            check_inputs=check_inputs,
            check_outputs=check_outputs,
            rivals=rivals[0],
            guards_input=rivals[1],
            dynamic_fields=inputs.dynamic_fields,
            plain=plain,
            fingerprint=_late_step_fingerprint(step),
        )

    def _tool(self, tool: Any) -> PlannedTool | None:
        if tool is None:
            return None
        planned = self.planned_tools.get(id(tool))
        if planned is None:
            planned = self.planned_tools[id(tool)] = plan_tool(tool)
        return planned

    def _retry(self, step: Lowered) -> PlannedRetry | None:
        if step.definition.retry is None:
            return None
        try:
            return plan_retry(step.definition.retry)
        except SchemaRefPolicyError as exc:
            self._ref_error(step, "unknown_retryable_error", exc)
            return None

    def _contract(self, step: Lowered, side: str) -> Callable[[Any], Any] | None:
        try:
            contract = contract_of(step.definition, side)
        except SchemaRefPolicyError as exc:
            self._ref_error(step, "unresolvable_schema_ref", exc)
            return None
        if contract is None:
            return None
        if side == "output":
            outputs.check_contract(step, contract, self.findings)
        return validator_of(contract)

    def _ref_error(self, step: Lowered, issue_type: str, exc: SchemaRefPolicyError) -> None:
        self.findings.error(step, issue_type, str(exc), lambda: SchemaRefPolicyError(exc.ref, exc.detail, fix=exc.fix))

    # ---- the whole flow

    def _schema(self, side: str) -> type[BaseModel] | None:
        schema: type[BaseModel] | None = getattr(self.flow, f"{side}_schema")
        return schema

    def _check_whole_flow(self) -> None:
        flow, initial = self.flow, self.initial or ()
        given = () if self.input_schema is None else tuple(self.input_schema.model_fields)
        outputs.check_collisions(self.steps, self.writes, given, flow.on_context_collision, self.findings)
        outputs.warn_of_shadows(self.steps, self.writes, tuple(initial), flow.dynamic_params, self.findings)
        outputs.warn_of_unused(self.steps, self.writes, flow.outputs, self.findings)

    def _plan(self, steps: tuple[PlannedStep, ...]) -> Plan:
        flow = self.flow
        return Plan(
            flow_name=flow.name,
            flow_version=flow.version,
            digest=flow_digest(flow),
            steps=steps,
            rows=tuple(_row(step) for step in steps),
            empty_slots=[*[None] * len(steps), {}],
            need_counts=tuple(len(step.needs) for step in steps),
            entries=tuple(step.index for step in steps if not step.needs),
            input_gate=gate_of(self.input_schema),
            context_gate=gate_of(self._schema("context")),
            output_gate=gate_of(self._schema("output")),
            collision_policy=flow.on_context_collision,
            stop_on_failure=flow.on_failure == "stop",
            project=_projection(flow.outputs),
            dynamic_params=flow.dynamic_params,
            unsupported=unsupported_constructs(self.steps),
            writes=None
            if any(one.open for one in self.writes)
            else frozenset(key for one in self.writes for key in one.keys),
            names={step.step_id: step.index for step in steps},
        )


class _Rivals:
    """Which earlier steps decide, at run time, whether a step's outputs collide."""

    def __init__(self, steps: Sequence[Lowered], writes: Sequence[Writes], policy: str) -> None:
        self.steps = steps
        self.writes = writes
        self.strict = policy == "error"
        self.any_open = any(one.open for one in writes)

    def of(self, step: Lowered) -> tuple[tuple[int, ...], bool]:
        if not self.strict and not self.any_open:
            return (), False  # what siblings certainly share is an error of the plan already
        return tuple(index for index in range(step.index) if self._is_rival(index, step)), self.strict

    def _is_rival(self, index: int, step: Lowered) -> bool:
        if not self.strict and self.steps[index].level != step.level:
            return False
        mine, other = self.writes[step.index], self.writes[index]
        if mine.open or other.open:
            return True
        return not mine.keys.keys().isdisjoint(other.keys)


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


def _projection(names: Sequence[str] | None) -> Callable[[Mapping[str, Any]], dict[str, Any]] | None:
    if names is None:
        return None
    from chainweaver.exceptions import OutputMappingError

    def project(context: Mapping[str, Any]) -> dict[str, Any]:
        for name in names:
            if name not in context:
                raise OutputMappingError("outputs", -1, name, known=list(context))
        return {name: context[name] for name in names}

    return project


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {name: annotation_of(info) for name, info in model.model_fields.items()}


def _is_closed(model: type[BaseModel]) -> bool:
    """Whether the initial context can hold no other keys than those of the flow's input schema (R8)."""
    return model.model_config.get("extra") == "forbid"


def flow_digest(flow: Flow | DAGFlow) -> str:
    """Content digest of a definition, 32 hex characters; what does not change a run (status, governance) is left out.

    A definition with literals that have no canonical form, such as an open file, gets a digest of its own each time: it
    is never taken for another one.
    """
    left_out = ("status", "governance", "trigger_conditions", "description", "tool_schema_hashes")
    content = {name: getattr(flow, name) for name in type(flow).model_fields if name not in left_out}
    try:
        return digest((type(flow).__name__, content))
    except Unfingerprintable:
        return f"unique-{next(_UNIQUE)}"


_UNIQUE = count()


def _late_step_fingerprint(step: Lowered) -> Callable[[], str]:
    """What makes a step the same step at resume: its definition and the schemas of its tools; computed on demand."""
    definition, tools = step.definition, (step.tool, step.fallback)

    # Runs with a checkpointer ask for it at every step, all others never.
    @cache
    def fingerprint() -> str:
        import hashlib

        parts = [definition.model_dump_json(fallback=repr), *(tool.schema_hash for tool in tools if tool is not None)]
        return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    return fingerprint
