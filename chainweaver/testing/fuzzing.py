"""Fuzzing: many inputs for one flow, and for everything that should not happen the smallest input that makes it happen.

A run that fails with an error in its records has done what it should; what is looked for is what no input may bring
about: an exception that leaves the call bare, another result the second time or on another lane, outputs that break
their schema, an invariant of the test that does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, field_serializer

from chainweaver.exceptions import SchemaValidationError, told
from chainweaver.executor.settings import check_count, listed, named
from chainweaver.formats.json_form import json_form
from chainweaver.results import ExecutionResult
from chainweaver.testing.attesting import difference_from
from chainweaver.testing.matching import shown
from chainweaver.testing.shrinking import shrink
from chainweaver.testing.trials import LANES, LaneName, Outcome, Trials, Way, first_line, ways_of

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from chainweaver.executor import FlowExecutor
    from chainweaver.flow import AnyFlow

FindingKind: TypeAlias = Literal["crash", "nondeterminism", "lane_difference", "output_schema", "invariant", "failure"]
Invariant: TypeAlias = Callable[[ExecutionResult], object]
Predicate: TypeAlias = Callable[[ExecutionResult], bool]

SHRINKING = 500
"""How many inputs may be tried to make one smaller."""


class FuzzFinding(BaseModel):
    """One thing that should not happen.

    Attributes:
        kind: "crash", "nondeterminism", "lane_difference", "output_schema", "invariant" or "failure".
        detail: What happened, in words.
        subject: Which step, invariant or exception it is about; findings of one kind and subject are one.
        input: The smallest input that was found to bring it about.
        way: The lane and limit it was seen on.
    """

    model_config = ConfigDict(frozen=True)

    kind: FindingKind
    detail: str
    subject: str
    input: dict[str, Any]
    way: str

    @field_serializer("input", when_used="json")
    def _write_input(self, value: Any) -> Any:
        return json_form(value)

    def __str__(self) -> str:
        return f"{self.kind} ({self.way}): {self.detail}\n    input {shown(self.input)}"


class FuzzReport(BaseModel):
    """What fuzzing found.

    Attributes:
        flow_name, flow_version: The flow.
        seed: Brings the same inputs again.
        examples: How many inputs were tried.
        runs: How many runs took place, those for shrinking included.
        findings: What should not happen, each with its smallest input.
    """

    model_config = ConfigDict(frozen=True)

    flow_name: str
    flow_version: str
    seed: int
    examples: int
    runs: int
    findings: tuple[FuzzFinding, ...] = ()

    @property
    def ok(self) -> bool:
        """Nothing was found."""
        return not self.findings

    def raise_for_findings(self) -> FuzzReport:
        """The report itself, where nothing was found.

        Raises:
            AssertionError: The message lists the findings.
        """
        if self.findings:
            raise AssertionError(str(self))
        return self

    def __str__(self) -> str:
        count = {0: "nothing", 1: "1 finding"}.get(len(self.findings), f"{len(self.findings)} findings")
        head = f"Flow '{self.flow_name}' {self.flow_version}: {count} in {self.examples} inputs (seed {self.seed})"
        return "\n".join([head, *(f"  {finding}" for finding in self.findings)])


class FlowFuzzer:
    """Looks for inputs with which a flow misbehaves.

    Tools are really called, several times for each input; put fakes in the place of those that must not be. Runs live
    in virtual time, without step cache and checkpoints.

    Args:
        executor: Whose tools and settings are used; not changed.
        flow: The flow, or the name that the executor has it under.
        strategy: Makes the inputs. None: made from the flow's input schema or, without one, from what its steps read.
        strategies: Annotation -> strategy, for types that no values can be made for.
        invariants: Called with the result of the first run with each input, where that succeeded; one that returns
            False or raises does not hold. `result.initial_input` is the input.
        lanes: The lanes that have to agree.
        limits: The values of `max_step_concurrency` that have to agree.
        allow_failures: A run may fail, as long as its records say why; that every run fails is a finding all the same.
            False: every failure is one.
        dynamic_params: Values for the flow's `dynamic_params`, for every run.

    >>> from chainweaver.executor import FlowExecutor
    >>> from chainweaver.flow import Flow, FlowStep
    >>> from chainweaver.tools import tool
    >>> @tool
    ... def half(n: int) -> int:
    ...     return n // 2
    >>> halve = Flow(name="halve", description="Halves.", steps=[FlowStep(tool_name="half")])
    >>> def nothing_is_lost(result):
    ...     return result.final_output["half"] * 2 == result.initial_input["n"]
    >>> fuzzer = FlowFuzzer(FlowExecutor(tools=[half]), halve, invariants=[nothing_is_lost])
    >>> fuzzer.run(max_examples=20).findings[0].input
    {'n': 1}
    """

    def __init__(
        self,
        executor: FlowExecutor,
        flow: AnyFlow | str,
        *,
        strategy: SearchStrategy[dict[str, Any]] | None = None,
        strategies: Mapping[Any, Any] | None = None,
        invariants: Collection[Invariant] = (),
        lanes: Collection[LaneName] = LANES,
        limits: Collection[int] = (1, 4),
        allow_failures: bool = True,
        dynamic_params: Mapping[str, Any] | None = None,
    ) -> None:
        self.executor = executor
        self.flow = flow
        self._strategy = strategy
        self._strategies = strategies
        self._invariants = listed("invariants", invariants, "__call__")
        for one in self._invariants:
            if not callable(one):
                raise TypeError(f"each of invariants has to be a function of a result, not {named(one)}.")
        self._ways = ways_of(lanes, limits)
        self._allow_failures = allow_failures
        self._dynamic_params = dynamic_params

    def run(self, max_examples: int = 100, seed: int = 0) -> FuzzReport:
        """Try inputs, and make those that misbehave small.

        Args:
            max_examples: How many inputs are tried.
            seed: Brings the same inputs again.

        Raises:
            MissingExtraError: The extra `testing` is not installed.
            TypeError: No inputs can be made; the message says for which field. Or an argument is no whole number.
            ValueError: No input would be tried.
            ChainWeaverError: The flow cannot be started at all.
        """
        check_count("max_examples", max_examples, 1)
        from chainweaver.testing.generating import each_of, strategy_for_flow

        smallest: dict[tuple[str, str], FuzzFinding] = {}
        examples = 0
        failed: list[tuple[dict[str, Any], Outcome]] = []

        def look(given: dict[str, Any]) -> None:
            nonlocal examples
            examples += 1
            first = trials.run(self._ways[0], given)
            if first.failure() is not None:
                failed.append((given, first))
            for finding in self._findings(trials, given, first):
                known = smallest.setdefault((finding.kind, finding.subject), finding)
                if len(repr(finding.input)) < len(repr(known.input)):
                    smallest[finding.kind, finding.subject] = finding

        with Trials(self.executor, self.flow, self._ways, seed, self._dynamic_params) as trials:
            tools, registry = trials.executor.registered_tools, trials.executor.registry
            strategy = self._strategy
            if strategy is None:
                strategy = strategy_for_flow(trials.flow, tools, registry, self._strategies)
            each_of(strategy, max_examples, seed, look)
            findings = tuple(self._shrunk(trials, finding) for finding in smallest.values())
            if not findings and failed and len(failed) == examples:
                findings = (self._nothing_worked(*failed[0]),)
            return FuzzReport(
                flow_name=trials.flow.name, flow_version=trials.flow.version, seed=seed, examples=examples,
                runs=trials.runs, findings=findings,
            )  # fmt: skip

    def _shrunk(self, trials: Trials, finding: FuzzFinding) -> FuzzFinding:
        """The finding with the smallest input that brings it about."""
        last = [finding]

        def still_found(given: dict[str, Any]) -> bool:
            for one in self._findings(trials, given, trials.run(self._ways[0], given)):
                if (one.kind, one.subject) == (finding.kind, finding.subject):
                    last.append(one)
                    return True
            return False

        shrink(finding.input, still_found, SHRINKING)
        return last[-1]

    def _nothing_worked(self, given: dict[str, Any], first: Outcome) -> FuzzFinding:
        """Every run failed, so that nothing was tried; often a parameter or a setting is missing."""
        return FuzzFinding(
            kind="failure",
            subject="every run",
            detail=f"every run failed, the first with: {first.failure()}",
            input=given,
            way=str(self._ways[0]),
        )

    def _findings(self, trials: Trials, given: dict[str, Any], first: Outcome) -> Iterator[FuzzFinding]:
        """What should not happen and does with this input, of which the first run is given."""
        first_way, *others = self._ways
        for kind, subject, detail in self._problems(first):
            yield FuzzFinding(kind=kind, subject=subject, detail=detail, input=given, way=str(first_way))
        again = difference_from(first.story(), trials.run(first_way, given))
        if again is not None:
            yield _differing("nondeterminism", again, given, f"{first_way}, twice")
            return  # what differs by itself says nothing about lanes
        for way in others:
            difference = difference_from(first.story(), trials.run(way, given))
            if difference is not None:
                yield _differing("lane_difference", difference, given, f"{way}, compared with the {first_way}")

    def _problems(self, outcome: Outcome) -> Iterator[tuple[FindingKind, str, str]]:
        """What is wrong with one run: kind, subject, words."""
        result = outcome.result
        if result is None:
            assert outcome.raised is not None, "a run without a result has raised"
            yield "crash", type(outcome.raised).__name__, f"{told(outcome.raised)} left the call without a result"
            return
        error = error_of(result)
        if isinstance(error, SchemaValidationError) and is_of_outputs(error):
            yield "output_schema", error.tool_name, error.sentence
        elif not result.success and not self._allow_failures:
            yield "failure", subject_of(result), first_line(result)
        for invariant in self._invariants if result.success else ():
            broken = broken_by(invariant, result)
            if broken is not None:
                yield "invariant", name_of(invariant), broken


def minimize_failure(
    executor: FlowExecutor,
    flow: AnyFlow | str,
    failing_input: Mapping[str, Any],
    predicate: Predicate | None = None,
    *,
    max_runs: int = SHRINKING,
    dynamic_params: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The smallest input that fails as this one does.

    Tools are really called, once per input that is tried, on the sync lane.

    Args:
        executor: Whose tools and settings are used; not changed.
        flow: The flow, or the name that the executor has it under.
        failing_input: An input with which the flow fails.
        predicate: Whether a result fails in the way that matters. None: with the same status, at the same step, with
            the same error and cause; for a crash, with the same exception.
        max_runs: How many inputs may be tried.
        dynamic_params: Values for the flow's `dynamic_params`, for every run.

    Raises:
        TypeError: The input is no mapping, or the predicate no function.
        ValueError: The flow does not fail with this input.
        ChainWeaverError: The flow cannot be started at all.

    >>> from chainweaver.executor import FlowExecutor
    >>> from chainweaver.flow import Flow, FlowStep
    >>> from chainweaver.tools import tool
    >>> @tool
    ... def share(total: int, people: list[str]) -> float:
    ...     return total / len([name for name in people if name != "me"])
    >>> split = Flow(name="split", description="Shares a bill.", steps=[FlowStep(tool_name="share")])
    >>> minimize_failure(FlowExecutor(tools=[share]), split, {"total": 4711, "people": ["me", "me"], "tip": 12})
    {'total': 0, 'people': []}
    """
    if not isinstance(failing_input, Mapping):
        raise TypeError(f"failing_input has to be a mapping of context keys to values, not {named(failing_input)}.")
    if predicate is not None and not callable(predicate):
        raise TypeError(f"predicate has to be a function of a result, not {named(predicate)}.")
    way = Way("sync", 1)
    with Trials(executor, flow, [way], dynamic_params=dynamic_params) as trials:
        first = trials.run(way, failing_input)
        wanted = signature_of(first)

        def fails(given: Mapping[str, Any]) -> bool:
            outcome = trials.run(way, given)
            if predicate is None:
                return signature_of(outcome) == wanted
            return outcome.result is not None and bool(predicate(outcome.result))

        if wanted == SUCCESS if predicate is None else not fails(failing_input):
            raise ValueError(f"Flow '{trials.flow.name}' does not fail with this input; there is nothing to minimize.")
        smallest: dict[str, Any] = shrink(dict(failing_input), fails, max_runs)
        return smallest


# ---- what a run says


SUCCESS = ("ok", None, None, None, None)


def signature_of(outcome: Outcome) -> tuple[str | None, ...]:
    """How a run ended, apart from its values: status, what was raised, step, error and cause."""
    result, raised = outcome.result, outcome.raised
    raised_name = None if raised is None else type(raised).__name__
    if result is None:
        return ("crash", raised_name, None, None, None)
    failed = next((record for record in result.execution_log if record.status == "failed"), None)
    if failed is None:
        return (result.status, raised_name, None, None, None)
    return (result.status, raised_name, failed.step_id, failed.error_type, failed.error_cause)


def error_of(result: ExecutionResult) -> Exception | None:
    """The error of a run that failed."""
    if result.status != "failed":
        return None
    try:
        result.raise_for_failure()
    except Exception as exc:
        return exc
    return None


def is_of_outputs(error: SchemaValidationError) -> bool:
    """Whether it is what was given back that broke a schema, and not what was given."""
    return "output" in (error.context or "")


def subject_of(result: ExecutionResult) -> str:
    """The step and error of a failure."""
    failed = next((record for record in result.execution_log if record.status == "failed"), None)
    if failed is None:
        return result.status
    return f"{failed.step_id or failed.tool_name}: {failed.error_cause or failed.error_type}"


def broken_by(invariant: Invariant, result: ExecutionResult) -> str | None:
    """Why an invariant does not hold; None where it does."""
    try:
        answer = invariant(result)
    except Exception as exc:
        # The first line: test runners append what they know of the assertion.
        return f"'{name_of(invariant)}' does not hold: {told(exc)}".split("\n", 1)[0]
    return f"'{name_of(invariant)}' does not hold" if answer is False else None


def name_of(invariant: Invariant) -> str:
    """What messages call an invariant."""
    return getattr(invariant, "__name__", type(invariant).__name__)


def _differing(kind: FindingKind, difference: str, given: dict[str, Any], way: str) -> FuzzFinding:
    place = difference.split(":", 1)[0]
    return FuzzFinding(kind=kind, subject=place, detail=difference, input=given, way=way)
