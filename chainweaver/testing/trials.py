"""Trials: one flow, run again and again in several ways, and what came of it as a story that can be compared.

Each way has an executor of its own: the given one with another limit, in virtual time and with one id for all runs,
without cache, checkpoints and trace recorder, so that nothing of one run helps or disturbs the next. Used by the
attester and by the fuzzer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from chainweaver.canonical import Unfingerprintable, digest
from chainweaver.exceptions import ChainWeaverError, told
from chainweaver.executor.settings import check_count, listed, named
from chainweaver.formats.json_form import json_form
from chainweaver.objects import UncopyableError, independent_copy
from chainweaver.results import ExecutionResult
from chainweaver.runtime import Runtime
from chainweaver.testing.clock import VirtualClock
from chainweaver.testing.matching import ADDRESS, story_of
from chainweaver.testing.twins import UNKEPT, twin_of, with_flow

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from chainweaver.executor import FlowExecutor
    from chainweaver.flow import AnyFlow

LaneName: TypeAlias = Literal["sync", "async"]
LANES: tuple[LaneName, ...] = ("sync", "async")
ONE_ID = "0" * 32


class Way(NamedTuple):
    """One way to run a flow.

    Attributes:
        lane: "sync" or "async".
        limit: `max_step_concurrency`.
    """

    lane: LaneName
    limit: int

    def __str__(self) -> str:
        return f"{self.lane} lane at limit {self.limit}"


class Outcome(NamedTuple):
    """What came of one run.

    Attributes:
        result: The result, also one that an error carried out of the call; None after a crash.
        raised: What was raised out of the call.
    """

    result: ExecutionResult | None
    raised: BaseException | None

    def failure(self) -> str | None:
        """Why the run did not end well, in one line; None where it did."""
        if self.result is None:
            return told(self.raised) if self.raised is not None else "the run gave no result"
        return None if self.result.success else first_line(self.result)

    def story(self) -> dict[str, Any]:
        """What has to be the same in every run with this input."""
        raised = None if self.raised is None else type(self.raised).__name__
        return {**({} if self.result is None else story_of(self.result)), "raised": raised}


class Trials:
    """Runs one flow in several ways.

    Args:
        executor: Whose tools and settings are used; not changed.
        flow: The flow, or the name that the executor has it under.
        ways: How it may be run.
        seed: Of the jitter.
        dynamic_params: Passed to every run.

    Attributes:
        flow: The flow.
        runs: How many runs there were.
    """

    def __init__(
        self,
        executor: FlowExecutor,
        flow: AnyFlow | str,
        ways: Collection[Way],
        seed: int = 0,
        dynamic_params: Mapping[str, Any] | None = None,
    ) -> None:
        registry, self.flow = with_flow(executor, flow)
        if not isinstance(seed, int):
            raise TypeError(f"seed has to be a whole number, not {named(seed)}.")
        self._params = dynamic_params
        clock = VirtualClock(seed=seed).runtime()
        runtime = Runtime(
            now_ns=clock.now_ns,
            wall_time=clock.wall_time,
            random=clock.random,
            pause=clock.pause,
            new_id=lambda: ONE_ID,
        )
        self.runs = 0
        self._open = ExitStack()
        self._portal: Any = None
        self._executors = {
            limit: self._open.enter_context(
                twin_of(executor, registry=registry, runtime=runtime, max_step_concurrency=limit, **UNKEPT)
            )
            for limit in {way.limit for way in ways}
        }

    @property
    def executor(self) -> FlowExecutor:
        """One of the executors, for its tools and flows."""
        return next(iter(self._executors.values()))

    def run(self, way: Way, given: Mapping[str, Any]) -> Outcome:
        """Run the flow once.

        Raises:
            ChainWeaverError: Nothing was started; no input could change that.
        """
        self.runs += 1
        executor, name, version = self._executors[way.limit], self.flow.name, self.flow.version
        own = own_input(given)
        # A mapping that is none is told about by the executor.
        params = own_input(self._params) if isinstance(self._params, Mapping) else self._params
        options: dict[str, Any] = {"version": version, "dynamic_params": params}
        try:
            if way.lane == "sync":
                return Outcome(executor.execute_flow(name, own, **options), None)
            return self._loop().call(run_async, executor, name, own, options)  # type: ignore[no-any-return]
        except (Exception, SystemExit) as exc:
            return outcome_of(exc)

    def close(self) -> None:
        """Release threads and loops."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _loop(self) -> Any:
        """A loop in a thread of its own: the caller may itself be inside of one."""
        if self._portal is None:
            from anyio.from_thread import start_blocking_portal

            self._portal = self._open.enter_context(start_blocking_portal())
        return self._portal


async def run_async(executor: FlowExecutor, name: str, given: dict[str, Any], options: Mapping[str, Any]) -> Outcome:
    """Run a flow on the async lane; nothing that ends the run may end the loop."""
    try:
        return Outcome(await executor.execute_flow_async(name, given, **options), None)
    except (Exception, SystemExit) as exc:
        return outcome_of(exc)


def first_line(result: ExecutionResult) -> str:
    """The failure of a run in one line."""
    failed = next((record for record in result.execution_log if record.status == "failed"), None)
    message = None if failed is None else failed.error_message
    return (message or f"the run ended as {result.status}").split("\n", 1)[0]


def outcome_of(exc: BaseException) -> Outcome:
    """The outcome that an exception stands for.

    Raises:
        ChainWeaverError: It says that nothing was started.
    """
    result = getattr(exc, "result", None)
    if isinstance(exc, ChainWeaverError) and result is None:
        raise exc
    return Outcome(result if isinstance(result, ExecutionResult) else None, exc)


def own_input(given: Mapping[str, Any]) -> dict[str, Any]:
    """An input that a run may change; what cannot be copied is shared."""
    try:
        return independent_copy(given)
    except UncopyableError:
        return dict(given)


def ways_of(lanes: Iterable[LaneName], limits: Iterable[int]) -> list[Way]:
    """Every lane with every limit, the simplest one first.

    Raises:
        TypeError: They are no lists, or a limit is no whole number.
        ValueError: There is none, or a lane or a limit that does not exist.
    """
    lanes, limits = listed("lanes", lanes, "upper"), listed("limits", limits, "real")
    ways = [Way(lane, limit) for lane in dict.fromkeys(lanes) for limit in dict.fromkeys(limits)]
    for way in ways:
        if way.lane not in LANES:
            raise ValueError(f"lanes has to be of 'sync' and 'async', not '{way.lane}'.")
        check_count("each of limits", way.limit, 1)
    if not ways:
        raise ValueError("There has to be at least one lane and one limit.")
    return ways


def digest_of(value: Any) -> str:
    """A digest of any value: canonical where the value is data, of what it shows otherwise."""
    try:
        return digest(value)
    except Unfingerprintable:
        import json

        return digest(ADDRESS.sub("", json.dumps(json_form(value), sort_keys=True)))
