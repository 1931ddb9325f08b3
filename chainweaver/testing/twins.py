"""Executors like another one, with some tools, flows or settings replaced.

The one place of this room that knows what an executor is made of. The original is left as it is; whoever makes a twin
closes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from chainweaver.exceptions import FlowNotFoundError
from chainweaver.executor import FlowExecutor
from chainweaver.executor.settings import named
from chainweaver.flow import AnyFlow, DAGFlow, Flow
from chainweaver.registry import FlowRegistry
from chainweaver.tools import Tool

UNKEPT: Mapping[str, Any] = {"step_cache": None, "checkpointer": None, "trace_recorder": None}
"""Settings of a twin whose runs have to call their tools, and leave nothing behind."""


def twin_of(
    executor: FlowExecutor, *, tools: Iterable[Tool] = (), registry: FlowRegistry | None = None, **settings: Any
) -> FlowExecutor:
    """An executor with the tools, flows and settings of another one, apart from those that are given."""
    return executor.with_replaced_tools(
        tools, **{"registry": executor.registry if registry is None else registry, **settings}
    )


def registry_with(flows: Iterable[AnyFlow], registry: FlowRegistry | None = None) -> FlowRegistry:
    """A registry of its own that holds what another one holds, and these flows in front of that."""
    own = FlowRegistry()
    for flow in (*(() if registry is None else registry.list_flows()), *flows):
        own.register_flow(flow, overwrite=True)
    return own


def with_flow(executor: FlowExecutor, flow: AnyFlow | str, version: str | None = None) -> tuple[FlowRegistry, AnyFlow]:
    """The flow that is meant, and a registry that has it: that of the executor, unless the flow is another one.

    Raises:
        TypeError: One of them is something else, or each stands where the other belongs.
        FlowNotFoundError: A flow of this name is not registered.
    """
    check_executor(executor)
    if not isinstance(flow, (str, Flow, DAGFlow)):
        raise TypeError(f"flow has to be a flow or the name of one, not {named(flow)}.")
    registry = executor.registry
    if isinstance(flow, str):
        return registry, registry.get_flow(flow, version=version)
    try:
        known = registry.resolve(flow.name, flow.version) == flow
    except FlowNotFoundError:
        known = False
    return (registry if known else registry_with([flow], registry)), flow


def check_executor(executor: object) -> None:
    """Refuse what runs no flows.

    Raises:
        TypeError: It is no executor.
    """
    if not isinstance(executor, FlowExecutor):
        raise TypeError(f"executor has to be a FlowExecutor, not {named(executor)}.")
