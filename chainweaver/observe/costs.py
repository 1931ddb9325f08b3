"""What a run cost, and what it saved against a model that chooses every step.

A profile holds prices and assumptions, all of them the user's; a report is computed from records and a profile, and
holds nothing that the records do not say. Nothing is measured here and nobody is asked.

Called by users, and by the executor for `result.cost_report`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from chainweaver.results import ExecutionResult

if TYPE_CHECKING:
    from datetime import datetime

    from chainweaver.flow import AnyFlow
    from chainweaver.results import StepRecord

Count = Annotated[int, Field(strict=True, ge=0)]
Amount = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


class CostProfile(BaseModel):
    """Prices and assumptions about the model that a flow stands in for, and the prices of tools.

    Every number is at least 0, and 0 where nothing is said: what is not priced costs nothing and saves nothing.

    Attributes:
        model_call_usd: Price of one model call in US dollars, whatever its length. None: computed from the tokens.
        input_tokens_per_call: Tokens that one call reads: the conversation so far, the tools to choose from.
        output_tokens_per_call: Tokens that one call writes.
        usd_per_1k_input_tokens: US dollars for a thousand tokens read.
        usd_per_1k_output_tokens: US dollars for a thousand tokens written.
        model_latency_ms_per_call: Milliseconds that one call takes.
        tool_costs: Tool name -> US dollars for one call. Tools that are not named have no price.

    >>> profile = CostProfile(
    ...     input_tokens_per_call=2000, output_tokens_per_call=100, usd_per_1k_input_tokens=0.003,
    ...     usd_per_1k_output_tokens=0.015)
    >>> profile.tokens_per_call, profile.usd_per_call
    (2100, 0.0075)
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model_call_usd: Amount | None = None
    input_tokens_per_call: Count = 0
    output_tokens_per_call: Count = 0
    usd_per_1k_input_tokens: Amount = 0.0
    usd_per_1k_output_tokens: Amount = 0.0
    model_latency_ms_per_call: Amount = 0.0
    tool_costs: dict[str, Amount] = Field(default_factory=dict)

    @property
    def tokens_per_call(self) -> int:
        """Tokens that one model call reads and writes."""
        return self.input_tokens_per_call + self.output_tokens_per_call

    @property
    def usd_per_call(self) -> float:
        """Price of one model call in US dollars."""
        if self.model_call_usd is not None:
            return self.model_call_usd
        return self.usd_of_tokens(self.input_tokens_per_call, self.output_tokens_per_call)

    def usd_of_tokens(self, input_tokens: int, output_tokens: int) -> float:
        """Price of tokens in US dollars."""
        read, written = input_tokens * self.usd_per_1k_input_tokens, output_tokens * self.usd_per_1k_output_tokens
        return (read + written) / 1000

    def split(self, tokens: int) -> tuple[int, int]:
        """Tokens of both kinds together, divided into read and written ones as those of one call are.

        Where the profile says nothing about a call they count as read, which are the cheaper ones everywhere.
        """
        total = self.tokens_per_call
        written = tokens * self.output_tokens_per_call // total if total else 0
        return tokens - written, written


class ToolCost(BaseModel):
    """What the calls of one tool cost.

    Attributes:
        calls: Calls of the tool, retries included.
        cached: Steps that the cache served in its place.
        usd: Price of the calls in US dollars; None for a tool without a price.
    """

    calls: int = 0
    cached: int = 0
    usd: float | None = None


class CostReport(BaseModel):
    """What a run cost and what it saved, nested runs and the items of maps included.

    A step that runs a sub-flow or a map is no step of its own here: what it ran is counted. Each step is counted once,
    under what became of it, so that the seven numbers from `executed` to `surplus` add up to `steps`.

    Attributes:
        flow_name, flow_version, trace_id: The run; None for a report on mere records.
        dry_run: Nothing was done, so nothing was saved and no tool is charged for.
        steps: Steps that have a record.
        executed: Steps whose tool was called and which went well.
        cached: Steps that the step cache served: no call.
        failed: Steps that failed.
        skipped: Steps that failed and that the flow goes on without.
        passed_over: Steps that no branch led to: no call.
        cancelled: Steps that had begun when the run was ended.
        surplus: Steps that had finished when an earlier failure made them superfluous.
        retries: Calls after the first one of a step; each is another call.
        sub_runs: Nested runs: sub-flows, and maps.
        tool_calls: Calls of tools, by everything above; a fallback is one more.
        decisions_asked: Decisions that a callback made. It may have asked a model, so none of them is a saved call.
        model_calls_avoided: Choices that a model in the loop would have made: one for each step that was executed,
            cached, failed or skipped, less `decisions_asked`; or what the governance of the flow estimates.
        calls_from, tokens_from: Whether these are "counted", or come from the "governance" of the flow.
        input_tokens_avoided, output_tokens_avoided: The tokens of those calls.
        model_usd_avoided: Their price in US dollars.
        model_latency_ms_avoided: The time that they would have taken, in milliseconds.
        tools: Tool name -> its calls and their price.
        tool_usd: The price of all calls of tools, in US dollars.
        cache_usd_avoided: The price of the calls that the step cache saved, in US dollars.
        duration_ms: How long the run took, in milliseconds.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(protected_namespaces=())

    flow_name: str | None = None
    flow_version: str | None = None
    trace_id: str | None = None
    dry_run: bool = False
    steps: int = 0
    executed: int = 0
    cached: int = 0
    failed: int = 0
    skipped: int = 0
    passed_over: int = 0
    cancelled: int = 0
    surplus: int = 0
    retries: int = 0
    sub_runs: int = 0
    tool_calls: int = 0
    decisions_asked: int = 0
    model_calls_avoided: int = 0
    calls_from: Literal["counted", "governance"] = "counted"
    tokens_from: Literal["counted", "governance"] = "counted"
    input_tokens_avoided: int = 0
    output_tokens_avoided: int = 0
    model_usd_avoided: float = 0.0
    model_latency_ms_avoided: float = 0.0
    tools: dict[str, ToolCost] = Field(default_factory=dict)
    tool_usd: float = 0.0
    cache_usd_avoided: float = 0.0
    duration_ms: float = 0.0

    @property
    def tokens_avoided(self) -> int:
        """Tokens that no model had to read or to write."""
        return self.input_tokens_avoided + self.output_tokens_avoided

    @property
    def usd_avoided(self) -> float:
        """US dollars that were not spent: on a model, and on calls that the cache saved."""
        return self.model_usd_avoided + self.cache_usd_avoided

    def render(self) -> str:
        """The report as lines of text."""
        named = " ".join(part for part in (self.flow_name, self.flow_version) if part) or "records"
        became = [f"{count} {kind.replace('_', ' ')}" for kind in _KINDS if (count := getattr(self, kind))]
        if self.retries:
            became.append(_counted(self.retries, "retry", "retries"))
        dry = ", a dry run" if self.dry_run else ""
        lines = [f"{named}{dry}: {_counted(self.steps, 'step')}" + (f" ({', '.join(became)})" if became else "")]
        estimated = " as its governance estimates" if self.calls_from == "governance" else ""
        lines.append(
            f"  model  {_counted(self.model_calls_avoided, 'call')} avoided{estimated}:"
            f" {self.tokens_avoided:,} tokens, {_usd(self.model_usd_avoided)}, {self.model_latency_ms_avoided:,.0f} ms"
        )
        saved = f", {_usd(self.cache_usd_avoided)} avoided by the cache" if self.cached else ""
        lines.append(f"  tools  {_counted(self.tool_calls, 'call')}: {_usd(self.tool_usd)}{saved}")
        width = max(map(len, self.tools), default=0)
        for name, tool in self.tools.items():
            price = "no price" if tool.usd is None else _usd(tool.usd)
            cached = f", {tool.cached} cached" if tool.cached else ""
            lines.append(f"         {name:<{width}}  {_counted(tool.calls, 'call')}{cached}: {price}")
        lines.append(f"  took   {self.duration_ms:,.1f} ms")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.render()


_KINDS = ("executed", "cached", "failed", "skipped", "passed_over", "cancelled", "surplus")


def cost_report(
    result: ExecutionResult | Iterable[StepRecord], profile: CostProfile, flow: AnyFlow | None = None
) -> CostReport:
    """What a run cost and what it saved.

    Retries of a step whose fallback stood in count as calls of its own tool. Of a sub-flow that was tried again, the
    calls of the last run are known only.

    Args:
        result: The run, or the records of one.
        profile: Prices and assumptions.
        flow: The definition. Where its governance estimates the calls or the tokens that one run saves, a run that went
            well is credited with that.

    Raises:
        ValueError: The definition is that of another flow.

    >>> from chainweaver import CostProfile, Flow, FlowExecutor, FlowStep, tool
    >>> @tool
    ... def double(n: int) -> int:
    ...     return 2 * n
    >>> flow = Flow(name="twice", description="d", steps=[FlowStep(tool_name="double")])
    >>> result = FlowExecutor(tools=[double], flows=[flow]).execute_flow("twice", {"n": 21})
    >>> report = cost_report(result, CostProfile(model_call_usd=0.01, tool_costs={"double": 0.002}))
    >>> report.model_calls_avoided, report.model_usd_avoided, report.tool_usd
    (1, 0.01, 0.002)
    """
    facts = _facts(result, flow)
    records = result.execution_log if isinstance(result, ExecutionResult) else list(result)
    report = CostReport(**facts)
    for record in _steps(records, report, report.flow_name):
        _count(record, report)
    _price_tools(report, profile)
    if not report.dry_run:
        went_well = result.success if isinstance(result, ExecutionResult) else not (report.failed or report.cancelled)
        _credit(report, profile, flow if went_well else None)
    if not isinstance(result, ExecutionResult):
        report.duration_ms = _span_ms(records)
    return report


def _facts(result: ExecutionResult | Iterable[StepRecord], flow: AnyFlow | None) -> dict[str, Any]:
    """What the head of a report says."""
    if not isinstance(result, ExecutionResult):
        return {} if flow is None else {"flow_name": flow.name, "flow_version": flow.version}
    if flow is not None and flow.name != result.flow_name:
        raise ValueError(f"The run is one of flow '{result.flow_name}', and the definition that of '{flow.name}'.")
    return {
        "flow_name": result.flow_name,
        "flow_version": result.flow_version,
        "trace_id": result.trace_id,
        "dry_run": result.dry_run,
        "duration_ms": result.total_duration_ms,
    }


# ---- counting


def _steps(records: Iterable[StepRecord], report: CostReport, flow_name: str | None) -> Iterator[StepRecord]:
    """The records of steps that call something themselves, those of nested runs included."""
    for record in records:
        if record.step_id is None and (record.step_index < 0 or record.tool_name == flow_name):
            continue  # what a schema of the flow refused is no step
        if record.sub_result is None or record.cached:
            yield record
            continue
        report.sub_runs += 1
        report.retries += record.retry_count
        _call_fallback(record, report)
        yield from _steps(record.sub_result.execution_log, report, record.sub_result.flow_name)


def _count(record: StepRecord, report: CostReport) -> None:
    """Count a step, and the calls that it made."""
    kind = _kind(record)
    report.steps += 1
    setattr(report, kind, getattr(report, kind) + 1)
    report.retries += record.retry_count
    decision = record.decision if isinstance(record.decision, dict) else {}
    report.decisions_asked += decision.get("by") == "callback"
    tool_name = decision.get("chosen") or record.tool_name
    if kind == "cached":
        _tool(report, tool_name).cached += 1
    elif kind != "passed_over" and not report.dry_run:
        _call(report, tool_name, _calls(record))
        _call_fallback(record, report)


def _kind(record: StepRecord) -> str:
    """Under which of the seven numbers a step counts."""
    if record.surplus:
        return "surplus"
    if record.cached:
        return "cached"
    if record.status == "skipped":
        return "passed_over" if record.error_type is None else "skipped"
    return {"failed": "failed", "cancelled": "cancelled"}.get(record.status, "executed")


_BEFORE_THE_CALL = frozenset(
    (
        *("ToolNotFoundError", "InputMappingError", "SchemaRefPolicyError", "DynamicParameterError"),
        *("ApprovalDeniedError", "SafetyCeilingError", "DecisionCallbackError"),
    )
)
"""Errors with which a step fails before its tool is called."""


def _calls(record: StepRecord) -> int:
    """How often a step called its own tool."""
    if record.retry_count or record.fallback_used or record.error_type is None:
        return 1 + record.retry_count
    refused_input = record.error_type == "SchemaValidationError" and "(input" in (record.error_message or "")
    return 0 if refused_input or record.error_type in _BEFORE_THE_CALL else 1


def _call_fallback(record: StepRecord, report: CostReport) -> None:
    if record.fallback_used and record.fallback_tool_name is not None and not report.dry_run:
        _call(report, record.fallback_tool_name, 1)


def _call(report: CostReport, tool_name: str, calls: int) -> None:
    report.tool_calls += calls
    if calls:
        _tool(report, tool_name).calls += calls


def _tool(report: CostReport, tool_name: str) -> ToolCost:
    return report.tools.setdefault(tool_name, ToolCost())


# ---- pricing


def _price_tools(report: CostReport, profile: CostProfile) -> None:
    for name, tool in report.tools.items():
        price = profile.tool_costs.get(name)
        if price is not None:
            tool.usd = tool.calls * price
            report.tool_usd += tool.usd
            report.cache_usd_avoided += tool.cached * price


def _credit(report: CostReport, profile: CostProfile, flow: AnyFlow | None) -> None:
    """What the model would have cost: by the estimates of a flow where it has some, else by what was counted."""
    chosen = report.executed + report.cached + report.failed + report.skipped
    calls = max(0, chosen - report.decisions_asked)
    tokens = None
    if flow is not None and flow.governance.estimated_model_calls_removed:
        calls = flow.governance.estimated_model_calls_removed
        report.calls_from = "governance"
    if flow is not None and flow.governance.estimated_token_savings is not None:
        tokens = flow.governance.estimated_token_savings
        report.tokens_from = "governance"
    read, written = calls * profile.input_tokens_per_call, calls * profile.output_tokens_per_call
    if tokens is not None:
        read, written = profile.split(tokens)
    report.model_calls_avoided = calls
    report.input_tokens_avoided, report.output_tokens_avoided = read, written
    if profile.model_call_usd is None:
        report.model_usd_avoided = profile.usd_of_tokens(read, written)
    else:
        report.model_usd_avoided = calls * profile.model_call_usd
    report.model_latency_ms_avoided = calls * profile.model_latency_ms_per_call


def _span_ms(records: list[StepRecord]) -> float:
    """From the start of the first record to the end of the last, in milliseconds."""
    if not records:
        return 0.0
    first: datetime = min(record.started_at for record in records)
    last: datetime = max(record.ended_at for record in records)
    return (last - first).total_seconds() * 1000


# ---- words


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def _usd(amount: float) -> str:
    """Dollars with the decimals that small prices need, at least two.

    >>> _usd(12.5), _usd(0.0045), _usd(0.0)
    ('12.50 USD', '0.0045 USD', '0.00 USD')
    """
    whole, _, decimals = f"{amount:,.6f}".partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')} USD"
