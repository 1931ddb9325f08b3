"""Plans that were built already, so that a flow is compiled once.

A plan belongs to the content of a definition and of its sub-flows, and to the *registration* of every tool it reaches:
another function with equal schemas is another plan. Called by the executor from any thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chainweaver.canonical import Unfingerprintable
from chainweaver.compiler.build import build
from chainweaver.compiler.compose import ALONE, Composition
from chainweaver.compiler.identity import flow_digest
from chainweaver.exceptions import FlowCompositionError

if TYPE_CHECKING:
    from chainweaver.compiler.findings import CompilationResult
    from chainweaver.flow import DAGFlow, Flow
    from chainweaver.tools import Tool


class PlanCache:
    """Compiled flows, the one unused for longest going first; concurrent callers of one flow compile it once.

    Args:
        limit: How many compiled flows are kept.
    """

    def __init__(self, limit: int = 256) -> None:
        self.limit = limit
        self._entries: OrderedDict[Any, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def compiled(
        self, flow: Flow | DAGFlow, tools: Mapping[str, Tool], composition: Composition = ALONE
    ) -> CompilationResult:
        """The compiled flow; built by the first who asks while the others wait.

        Args:
            composition: Finds the flows that its steps name.

        Raises:
            DAGDefinitionError: The steps form no DAG. Nothing is kept.
        """
        try:
            digest = flow_digest(flow)
        except Unfingerprintable:
            digest = ""
        # A definition without a digest is the same as itself only.
        key = (digest or _Same(flow), _reached(flow, tools, composition.inside(flow)))
        entry = self._entry(key)
        # One lock per plan: compiling a large flow holds nobody up who wants another one.
        with entry.lock:
            if entry.result is None:
                try:
                    entry.result = build(flow, tools, digest, composition)
                except BaseException:
                    with self._lock:
                        self._entries.pop(key, None)
                    raise
            return entry.result

    def _entry(self, key: Any) -> _Entry:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = _Entry()
                if len(self._entries) > self.limit:
                    self._entries.popitem(last=False)
            else:
                self._entries.move_to_end(key)
            return entry

    def __len__(self) -> int:
        return len(self._entries)


class _Entry:
    __slots__ = ("lock", "result")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.result: CompilationResult | None = None


class _Same:
    """Equal when it is the very same object, which it keeps alive."""

    __slots__ = ("one",)

    def __init__(self, one: object) -> None:
        self.one = one

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.one is other.one

    def __hash__(self) -> int:
        return id(self.one)


def _reached(flow: Flow | DAGFlow, tools: Mapping[str, Tool], composition: Composition) -> tuple[Any, ...]:
    """What a flow reaches: its tools and sub-flows in order of first use, and what the sub-flows reach.

    A tool is equal to itself only, a missing one is None; a sub-flow stands there with its digest.
    """
    names: dict[str, None] = {}
    for step in flow.steps:
        for name in (step.tool_name, step.fallback_tool, step.combine_tool, *(step.decision_candidates or ())):
            if name is not None:
                names[name] = None
    found: tuple[Any, ...] = tuple(tools.get(name) for name in names)
    calls = dict.fromkeys((step.flow_name, step.flow_version) for step in flow.steps if step.flow_name is not None)
    inside = tuple(_sub_flow(name, version, tools, composition) for name, version in calls)
    # What an error says about unknown tools depends on all the names there are.
    return (found, inside, frozenset(tools)) if None in found else (found, inside)


def _sub_flow(name: str, version: str | None, tools: Mapping[str, Tool], composition: Composition) -> Any:
    try:
        flow = composition.sub_flow(name, version)
    except FlowCompositionError as exc:
        return str(exc)
    try:
        digest: Any = flow_digest(flow)
    except Unfingerprintable:
        digest = _Same(flow)
    return digest, _reached(flow, tools, composition.inside(flow))
