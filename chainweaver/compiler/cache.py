"""Plans that were built already, so that a flow is compiled once.

A plan belongs to the content of a definition and to the *registration* of every tool it reaches: another function with
equal schemas is another plan. Called by the executor from any thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chainweaver.compiler.build import compile_flow, flow_digest

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

    def compiled(self, flow: Flow | DAGFlow, tools: Mapping[str, Tool]) -> CompilationResult:
        """The compiled flow; built by the first who asks while the others wait.

        Raises:
            DAGDefinitionError: The steps form no DAG. Nothing is kept.
        """
        key = (flow_digest(flow), _reached(flow, tools))
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = _Entry()
                if len(self._entries) > self.limit:
                    self._entries.popitem(last=False)
            else:
                self._entries.move_to_end(key)
        # One lock per plan: compiling a large flow holds nobody up who wants another one.
        with entry.lock:
            if entry.result is None:
                entry.result = compile_flow(flow, tools)
            return entry.result

    def __len__(self) -> int:
        return len(self._entries)


class _Entry:
    __slots__ = ("lock", "result")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.result: CompilationResult | None = None


def _reached(flow: Flow | DAGFlow, tools: Mapping[str, Tool]) -> tuple[Any, ...]:
    """The tools that a flow names, in order of first use; a tool is equal to itself only, a missing one is None."""
    names: dict[str, None] = {}
    for step in flow.steps:
        for name in (step.tool_name, step.fallback_tool):
            if name is not None:
                names[name] = None
    found = tuple(tools.get(name) for name in names)
    # What an error says about unknown tools depends on all the names there are.
    return (found, frozenset(tools)) if None in found else (found,)
