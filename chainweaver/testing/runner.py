"""The flow runner: one flow, its tools or fakes, virtual time, and what was called.

A thin harness around an executor of its own. Nothing of a given executor or registry is changed; what decides in a run
is the executor's as ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from chainweaver.exceptions import FlowNotFoundError, ToolNotFoundError
from chainweaver.executor import FlowExecutor
from chainweaver.flow import AnyFlow
from chainweaver.testing.clock import VirtualClock
from chainweaver.testing.fakes import FakeTool, ToolCall, can_be_spied_on, fake_tool, spy_on
from chainweaver.testing.twins import UNKEPT, registry_with, twin_of, with_flow
from chainweaver.tools import Tool

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from chainweaver.registry import FlowRegistry
    from chainweaver.results import ExecutionResult


class FlowTestRunner:
    """Runs one flow in a test.

    Args:
        flow: The flow, or the name under which `registry` or `executor` has it.
        tools: The tools that the flow needs, beside those of `executor`. Their calls are remembered.
        fakes: What stands in for some of them: fakes made by `fake_tool`, or a mapping of tool names to what they do. A
            tool stands for itself, an exception is raised, a function is called with the validated inputs, anything
            else is what the tool returns.
        registry: Where flows are found; not changed.
        executor: Whose tools, flows and settings are used; not changed. Its step cache, checkpointer and trace recorder
            are left out, because outputs of fakes have no business there.
        flows: Further flows, for sub-flow steps.
        clock: The time that runs live in. None: a clock of its own. With `executor`, too, the clock replaces its time.
        version: Version of a flow that is given by its name. None: the highest.
        options: Further settings of the executor, such as `max_step_concurrency` or `step_cache`.

    Attributes:
        flow: The flow.
        executor: The executor of this runner.
        clock: Its time; `clock.waits` says what was waited for.
        results: What the runs so far gave, oldest first. A run that raises leaves none.

    Raises:
        ToolNotFoundError: A fake stands in for a tool that the flow does not use.
        FlowNotFoundError: There is no flow of this name.

    >>> from chainweaver.flow import Flow, FlowStep
    >>> from chainweaver.tools import tool
    >>> @tool
    ... def price(article: str) -> float:
    ...     raise ConnectionError("the shop is closed")
    >>> @tool
    ... def total(price: float, count: int) -> float:
    ...     return price * count
    >>> order = Flow(name="order", description="Price of an order.",
    ...              steps=[FlowStep(tool_name="price"), FlowStep(tool_name="total")])
    >>> with FlowTestRunner(order, tools=[price, total], fakes={"price": 2.5}) as runner:
    ...     runner.run({"article": "tea", "count": 4}).final_output["total"]
    ...     runner.calls("price")[0].inputs
    10.0
    {'article': 'tea'}
    """

    def __init__(
        self,
        flow: AnyFlow | str,
        *,
        tools: Iterable[Tool] = (),
        fakes: Mapping[str, Any] | Iterable[Tool] = (),
        registry: FlowRegistry | None = None,
        executor: FlowExecutor | None = None,
        flows: Iterable[AnyFlow] = (),
        clock: VirtualClock | None = None,
        version: str | None = None,
        **options: Any,
    ) -> None:
        self.clock = VirtualClock() if clock is None else clock
        self.results: list[ExecutionResult] = []
        options = {**UNKEPT, "runtime": self.clock.runtime(), **options}
        if executor is None:
            executor = base = FlowExecutor(registry)
        else:
            base = executor if registry is None else twin_of(executor, registry=registry)
        found, self.flow = with_flow(base, flow, version)
        further = list(flows)
        if further:
            found = registry_with([self.flow, *further], found)
        known = {**base.registered_tools, **{tool.name: tool for tool in tools}}
        self._faked = _fakes_of(fakes, known, self.flow, found)
        self._remembered = {**_spies_of(known, self._faked), **self._faked}
        self.executor = twin_of(base, tools={**known, **self._remembered}.values(), registry=found, **options)

    def run(self, initial_input: Mapping[str, Any] | None = None, **options: Any) -> ExecutionResult:
        """Run the flow on the sync lane.

        Args:
            initial_input: Context key -> value; None for none.
            options: As for `FlowExecutor.execute_flow`, such as `deadline=runner.clock.time() + 60`.

        Returns:
            The result, also of a run that failed.

        Raises:
            ChainWeaverError: As `FlowExecutor.execute_flow` does.
        """
        options = {"version": self.flow.version, **options}
        result = self.executor.execute_flow(self.flow.name, initial_input or {}, **options)
        self.results.append(result)
        return result

    async def run_async(self, initial_input: Mapping[str, Any] | None = None, **options: Any) -> ExecutionResult:
        """Run the flow on the async lane; as `run`."""
        options = {"version": self.flow.version, **options}
        result = await self.executor.execute_flow_async(self.flow.name, initial_input or {}, **options)
        self.results.append(result)
        return result

    def calls(self, tool_name: str) -> list[ToolCall]:
        """The calls that a tool received over all runs, oldest first; of a fake, or of a tool itself.

        Raises:
            ToolNotFoundError: The runner has no such tool, or one whose calls cannot be seen from here, because it
                runs in another process or streams; put a fake in its place.
        """
        found = self._remembered.get(tool_name)
        if found is not None:
            return found.calls
        known = self.executor.registered_tools
        why = "it runs on a lane of its own or streams, so that its calls are not seen" if tool_name in known else None
        fix = f"put a fake in its place: fakes={{'{tool_name}': ...}}" if tool_name in known else None
        raise ToolNotFoundError(tool_name, known=sorted(self._remembered), where=self._place(), why=why, fix=fix)

    def close(self) -> None:
        """Release the threads and loops of the executor."""
        self.executor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"FlowTestRunner({self.flow.name!r}, {self.flow.version!r}, fakes={sorted(self._faked)})"

    def _place(self) -> str:
        return f"runner of flow '{self.flow.name}' {self.flow.version}"


def _spies_of(tools: Mapping[str, Tool], faked: Mapping[str, FakeTool]) -> dict[str, FakeTool]:
    return {name: _spy(tool) for name, tool in tools.items() if name not in faked and can_be_spied_on(tool)}


def _spy(tool: Tool) -> FakeTool:
    return tool if isinstance(tool, FakeTool) else spy_on(tool)


def _fakes_of(
    fakes: Mapping[str, Any] | Iterable[Tool], tools: Mapping[str, Tool], flow: AnyFlow, registry: FlowRegistry
) -> dict[str, FakeTool]:
    """The fakes by tool name; each stands in for a tool that the flow, or a flow inside of it, may call."""
    pairs = fakes.items() if isinstance(fakes, Mapping) else ((tool.name, tool) for tool in fakes)
    used = tools_of(flow, registry)
    found: dict[str, FakeTool] = {}
    for name, what in pairs:
        if name not in used:
            why, fix = "no step of the flow uses it, so that the fake would never be called", None
            if missing := _missing_flows(flow, registry):
                named = ", ".join(f"'{one}'" for one in missing)
                why, fix = f"a step runs {named}, which is not registered", "pass the sub-flows as flows=[...]"
            where = f"fakes of flow '{flow.name}' {flow.version}"
            raise ToolNotFoundError(name, known=sorted(used), where=where, why=why, fix=fix)
        found[name] = _fake_of(tools.get(name, name), what)
    return found


def _missing_flows(flow: AnyFlow, registry: FlowRegistry) -> list[str]:
    """The names of the flows that a run of a flow would look for in vain."""
    missing: dict[str, None] = {}
    for one in _nested(flow, registry, set()):
        for step in one.steps:
            if step.flow_name is not None:
                try:
                    registry.resolve(step.flow_name, step.flow_version)
                except FlowNotFoundError:
                    missing[step.flow_name] = None
    return list(missing)


def _fake_of(replaced: Tool | str, what: Any) -> FakeTool:
    """The stand-in that a value of `fakes` describes."""
    if isinstance(what, Tool):
        name = replaced if isinstance(replaced, str) else replaced.name
        if what.name == name:
            return _spy(what)
        return fake_tool(replaced, side_effect=what.fn, is_async=what.is_async)
    if isinstance(what, BaseException) or (isinstance(what, type) and issubclass(what, BaseException)):
        return fake_tool(replaced, raises=what)
    return fake_tool(replaced, side_effect=what) if callable(what) else fake_tool(replaced, returns=what)


def tools_of(flow: AnyFlow, registry: FlowRegistry) -> set[str]:
    """The names of all tools that a run of a flow may call: of its steps, their fallbacks, candidates and sub-flows."""
    return {name for one in _nested(flow, registry, set()) for name in _named(one)}


def _named(flow: AnyFlow) -> Iterator[str]:
    for step in flow.steps:
        yield from filter(None, (step.tool_name, step.fallback_tool, step.combine_tool))
        yield from step.decision_candidates or ()


def _nested(flow: AnyFlow, registry: FlowRegistry, seen: set[tuple[str, str]]) -> Iterator[AnyFlow]:
    """The flow and those that its steps run, each once; one that is not registered is the executor's to complain of."""
    if (flow.name, flow.version) in seen:
        return
    seen.add((flow.name, flow.version))
    yield flow
    for step in flow.steps:
        if step.flow_name is not None:
            with suppress(FlowNotFoundError):
                yield from _nested(registry.resolve(step.flow_name, step.flow_version), registry, seen)
