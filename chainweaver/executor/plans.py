"""From a name to what is run: a flow with its plan, compiled once, and whether a run of it may start.

Which flows and tools there are is asked at every call, so that what was registered meanwhile counts; as long as nothing
was, the answer is one look-up. Called by the facade, and by `upgrade` for runs that go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from chainweaver.exceptions import (
    AsyncLaneUnsupportedError,
    FlowCompileError,
    FlowStatusError,
    LaneUnsupportedError,
)
from chainweaver.executor.processes import called_tools, out_of_reach
from chainweaver.executor.settings import OWN_LANES, check_flag, named

if TYPE_CHECKING:
    from chainweaver.compiler import CompilationError, CompilationResult, PlanCache
    from chainweaver.compiler.compose import Composition
    from chainweaver.flow import AnyFlow
    from chainweaver.plan import Plan
    from chainweaver.registry import FlowRegistry
    from chainweaver.registry.snapshot import RegistrySnapshot
    from chainweaver.tools import Tool


class Prepared:
    """A flow as an executor would run it now.

    Valid while registry and tools are the very objects that it was made from.

    Attributes:
        unsupported: What no lane here can run, one phrase each.
        dormant: The first sub-flow that it reaches and that is not active, with its status.
        admitted: Nothing but the options of a call can keep it from starting.
    """

    __slots__ = ("admitted", "compiled", "dormant", "flow", "plan", "snapshot", "tools", "unsupported")

    def __init__(
        self,
        flow: AnyFlow,
        compiled: CompilationResult,
        unknown_lanes: Sequence[str],
        snapshot: RegistrySnapshot,
        tools: Mapping[str, Tool],
        *,
        is_strict: bool,
    ) -> None:
        self.flow = flow
        self.compiled = compiled
        self.plan = compiled.plan
        self.unsupported = unknown_lanes
        reached = [flow, *(snapshot.resolve(*child) for child in compiled.plan.children)]
        self.dormant = next((one for one in reached if one.status.value != "active"), None)
        self.admitted = not (self.dormant or unknown_lanes or self.plan.composition or (is_strict and compiled.errors))
        self.snapshot = snapshot
        self.tools = tools

    def missing_tools(self) -> list[CompilationError]:
        """What the flow lacks here, in tools that others may have."""
        errors = self.compiled.errors
        return [one for one in errors if one.issue_type.startswith("missing_") and one.issue_type.endswith("_tool")]


class Plans:
    """The flows of a registry as an executor would run them now, with its tools and its settings.

    Args:
        settings: Those of the executor; `lane`, `lanes`, `strict_compile`, `max_composition_depth` and
            `schema_ref_policy` matter here.

    Attributes:
        registry: The flows.
        tools: Name -> tool. It is replaced and never changed: what was prepared with it knows it by identity.
    """

    def __init__(self, registry: FlowRegistry, tools: Mapping[str, Tool], settings: Mapping[str, Any]) -> None:
        import threading

        self.registry = registry
        self.tools = tools
        self._settings = settings
        self._lock = threading.Lock()
        self._cache: PlanCache | None = None
        self._prepared: dict[tuple[str, str | None], Prepared] = {}

    def prepare(self, name: str, version: str | None) -> Prepared:
        """The flow as it would run now: one look-up while nothing has changed.

        Raises:
            FlowNotFoundError: There is no such flow.
            DAGDefinitionError: Its steps form no DAG.
        """
        key = (name, version)
        try:
            prepared = self._prepared.get(key)
        except TypeError:
            raise TypeError(f"A flow is run by the name it is registered under, not by {named(name)} itself.") from None
        if prepared is None or prepared.tools is not self.tools or prepared.snapshot is not self.registry.snapshot:
            prepared = self.prepared_with(key, {})
            if len(self._prepared) >= self._compiled.limit:
                self._prepared.clear()
            self._prepared[key] = prepared
        return prepared

    def prepared_with(self, key: tuple[str, str | None], versions: Mapping[str, str]) -> Prepared:
        """The flow as it would run now, with these versions of the sub-flows that its steps do not pin."""
        # Read both once: what is registered meanwhile makes this entry stale, and the next call notices.
        snapshot, tools = self.registry.snapshot, self.tools
        flow = snapshot.resolve(*key)
        compiled = self._compiled.compiled(flow, tools, self.composition(snapshot, versions))
        unknown, strict = self._unknown_lanes(compiled.plan), self._settings["strict_compile"]
        return Prepared(flow, compiled, unknown, snapshot, tools, is_strict=strict)

    def composition(self, snapshot: RegistrySnapshot, versions: Mapping[str, str]) -> Composition:
        """Finds the flows that steps name, in these versions where the steps name none."""
        from chainweaver.compiler.compose import Composition
        from chainweaver.flow.refs import DEFAULT_REF_POLICY, both

        def find(name: str, version: str | None) -> AnyFlow:
            return snapshot.resolve(name, versions.get(name) if version is None else version)

        own = getattr(self.registry, "schema_ref_policy", DEFAULT_REF_POLICY)
        policy = both(own, self._settings["schema_ref_policy"])
        return Composition(find, self._settings["max_composition_depth"], policy=policy)

    def admit(self, prepared: Prepared, force: bool, lane: str) -> None:
        """Refuse what cannot start (R15); names all that is in the way of a kind.

        Args:
            force: Start it whatever its status.
            lane: The lane of the call, "sync" or "async".

        Raises:
            FlowStatusError: The flow, or one that it reaches, is not active.
            AsyncLaneUnsupportedError, LaneUnsupportedError: It has constructs that no lane here can run.
            FlowCompileError: It has errors, and `strict_compile` is set.
            ChainWeaverError: A flow that its steps name is not to be had, or goes round in a circle.
        """
        if prepared.admitted:
            return
        plan, dormant = prepared.plan, prepared.dormant
        for make in plan.composition:
            raise make()
        if dormant is not None:
            check_flag("force", force)
            if not force:
                around = f"it is a sub-flow of '{plan.flow_name}'" if dormant.name != plan.flow_name else None
                raise FlowStatusError(dormant.name, dormant.status.value, why=around)
        if prepared.unsupported:
            if lane == "async":
                raise AsyncLaneUnsupportedError(plan.flow_name, prepared.unsupported)
            raise LaneUnsupportedError(plan.flow_name, prepared.unsupported, lane=lane)
        if self._settings["strict_compile"] and prepared.compiled.errors:
            raise FlowCompileError(plan.flow_name, prepared.compiled.errors)

    @property
    def _compiled(self) -> PlanCache:
        if self._cache is None:
            from chainweaver.compiler import PlanCache

            with self._lock:
                if self._cache is None:
                    self._cache = PlanCache()
        return self._cache

    def _unknown_lanes(self, plan: Plan) -> list[str]:
        known = (*OWN_LANES, *self._settings["lanes"])
        asked: dict[str, str] = {}
        for tool in called_tools(plan):
            if isinstance(tool.lane, str):
                asked.setdefault(tool.lane, tool.name)
        unknown = [f"lane '{lane}' of tool '{name}'" for lane, name in asked.items() if lane not in known]
        return unknown + out_of_reach(plan, self._settings["lane"])
