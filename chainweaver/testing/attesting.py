"""Attesting: a flow gives the same again, on every lane and at every limit, or the first difference has a name.

An attestation is a statement about one definition, its tools and some inputs, made by running them; it can be kept as
JSON and compared with that of another machine or release.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict

from chainweaver.compiler import flow_digest
from chainweaver.executor.settings import check_count, named
from chainweaver.testing.matching import ADDRESS, differences
from chainweaver.testing.runner import tools_of
from chainweaver.testing.trials import LANES, LaneName, Outcome, Trials, Way, digest_of, ways_of

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from chainweaver.executor import FlowExecutor
    from chainweaver.flow import AnyFlow


class Attestation(BaseModel):
    """What was found when a flow was run again and again.

    Equal attestations have equal JSON: there is no date and no duration in it.

    Attributes:
        flow_name, flow_version: The flow.
        definition_digest: Of its definition, 32 hex digits.
        tool_schema_hashes: Schema hash by tool name, of all tools that a run may call.
        inputs_digest: Of the inputs, in their order.
        input_count: How many there were.
        runs: How many runs took place.
        ways: The lanes and limits, such as "sync lane at limit 1".
        result_digest: Of statuses, outputs and canonical traces of the first run with each input.
        environment: Versions of what ran it.
        failed_inputs: With how many of them the first run failed; what fails in the same way every time is
            deterministic.
        first_failure: Why the first of these runs failed; None where none did.
        verdict: "deterministic", or "different" with the first difference.
        difference: Which input, which run, which step, which field, and both values; None where there is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flow_name: str
    flow_version: str
    definition_digest: str
    tool_schema_hashes: dict[str, str]
    inputs_digest: str
    input_count: int
    runs: int
    ways: tuple[str, ...]
    result_digest: str
    environment: dict[str, str]
    failed_inputs: int = 0
    first_failure: str | None = None
    verdict: Literal["deterministic", "different"]
    difference: str | None = None

    @property
    def holds(self) -> bool:
        """Whether every run with an input gave the same."""
        return self.verdict == "deterministic"

    def raise_for_difference(self) -> Attestation:
        """The attestation itself, where it holds.

        Raises:
            AssertionError: It does not; the message is the difference.
        """
        if not self.holds:
            raise AssertionError(f"Flow '{self.flow_name}' {self.flow_version} is not deterministic: {self.difference}")
        return self


def attest_flow(
    flow: AnyFlow | str,
    executor: FlowExecutor,
    inputs: int | Mapping[str, Any] | Iterable[Mapping[str, Any]] = 10,
    *,
    runs: int = 2,
    lanes: Collection[LaneName] = LANES,
    limits: Collection[int] = (1, 4),
    strategy: SearchStrategy[dict[str, Any]] | None = None,
    seed: int = 0,
    dynamic_params: Mapping[str, Any] | None = None,
) -> Attestation:
    """Run a flow several times in several ways, and say whether it gave the same every time.

    Compared are status, output and canonical trace: every record with inputs, outputs, attempts and errors, but without
    times and lanes. Tools are really called, `runs` times for each input, lane and limit; put fakes in the place of
    those that must not be. Runs live in virtual time, without step cache and checkpoints. The comparison of an input
    ends with its first difference.

    Args:
        flow: The flow, or the name that the executor has it under.
        executor: Whose tools and settings are used; not changed.
        inputs: One input, several, or how many are generated from the flow's input schema (extra `testing`).
        runs: How often each input is run in each way.
        lanes: The lanes to run on.
        limits: The values of `max_step_concurrency`.
        strategy: Makes the inputs, instead of the schema.
        seed: Of generated inputs and of jitter.
        dynamic_params: Values for the flow's `dynamic_params`, for every run.

    Raises:
        TypeError: An argument is not what it has to be.
        ValueError: There would be nothing to compare.
        ChainWeaverError: The flow cannot be started at all.
        MissingExtraError: Inputs have to be generated, and the extra `testing` is not installed.

    >>> from chainweaver.executor import FlowExecutor
    >>> from chainweaver.flow import Flow, FlowStep
    >>> from chainweaver.tools import tool
    >>> @tool
    ... def double(n: int) -> int:
    ...     return 2 * n
    >>> twice = Flow(name="twice", description="Doubles.", steps=[FlowStep(tool_name="double")])
    >>> attestation = attest_flow(twice, FlowExecutor(tools=[double]), [{"n": 1}, {"n": 21}])
    >>> attestation.verdict, attestation.runs
    ('deterministic', 16)
    """
    ways = ways_of(lanes, limits)
    check_count("runs", runs, 1)
    if runs * len(ways) < 2:
        raise ValueError("One run cannot differ from itself: ask for two runs, lanes or limits at least.")
    with Trials(executor, flow, ways, seed, dynamic_params) as trials:
        given = inputs_for(trials, inputs, strategy, seed)
        stories, failures, difference = compared(trials, ways, given, runs)
        names = tools_of(trials.flow, trials.executor.registry)
        tools = trials.executor.registered_tools
        return Attestation(
            flow_name=trials.flow.name,
            flow_version=trials.flow.version,
            definition_digest=flow_digest(trials.flow),
            tool_schema_hashes={name: tools[name].schema_hash for name in sorted(names) if name in tools},
            inputs_digest=digest_of(given),
            input_count=len(given),
            runs=trials.runs,
            ways=tuple(map(str, ways)),
            result_digest=digest_of(stories),
            environment=environment(),
            failed_inputs=len(failures),
            first_failure=failures[0] if failures else None,
            verdict="deterministic" if difference is None else "different",
            difference=difference,
        )


def inputs_for(
    trials: Trials,
    inputs: int | Mapping[str, Any] | Iterable[Mapping[str, Any]],
    strategy: SearchStrategy[dict[str, Any]] | None,
    seed: int,
) -> list[dict[str, Any]]:
    """The inputs, made where only their number is given.

    Raises:
        TypeError: It is neither a number nor a mapping nor several of them.
        ValueError: There are none.
    """
    if isinstance(inputs, Mapping):
        return [dict(inputs)]
    if isinstance(inputs, int):
        check_count("inputs", inputs, 1)
        from chainweaver.testing.generating import drawn, strategy_for_flow

        executor = trials.executor
        if strategy is None:
            strategy = strategy_for_flow(trials.flow, executor.registered_tools, executor.registry)
        found = drawn(strategy, inputs, seed)
    else:
        given = list(inputs) if isinstance(inputs, Iterable) else [inputs]
        for one in given:
            if not isinstance(one, Mapping):
                raise TypeError(f"inputs has to be a mapping, several of them, or their number, not {named(one)}.")
        found = [dict(one) for one in given]
    if not found:
        raise ValueError("There are no inputs to run the flow with.")
    return found


def compared(
    trials: Trials, ways: list[Way], inputs: list[dict[str, Any]], runs: int
) -> tuple[list[dict[str, Any]], list[str], str | None]:
    """The story of the first run with each input, why such runs failed, and the first difference from one of them."""
    stories: list[dict[str, Any]] = []
    failures: list[str] = []
    first: str | None = None
    for at, given in enumerate(inputs):
        outcome = trials.run(ways[0], given)
        story, failure = outcome.story(), outcome.failure()
        stories.append(story)
        if failure is not None:
            failures.append(ADDRESS.sub("", failure))
        others = ((way, run) for way in ways for run in range(runs) if (way, run) != (ways[0], 0))
        for way, run in others:
            told = difference_from(story, trials.run(way, given))
            if told is not None:
                place = f"input {at}, run {run + 1} on the {way}, compared with run 1 on the {ways[0]}"
                first = first or f"{place}: {told}"
                break
    return stories, failures, first


def difference_from(story: dict[str, Any], outcome: Outcome) -> str | None:
    """The first difference of a run from the story of another one, in words."""
    found = next(differences(story, outcome.story(), partial=False), None)
    return None if found is None else str(found)


def environment() -> dict[str, str]:
    """What runs the flows here."""
    return {
        "chainweaver": sys.modules["chainweaver"].__version__,
        "implementation": platform.python_implementation(),
        "platform": sys.platform,
        "pydantic": pydantic.VERSION,
        "python": platform.python_version(),
    }
