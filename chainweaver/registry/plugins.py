"""Flows that installed packages offer under the entry point group `chainweaver.flows`.

How packages offer something, and what happens to a broken one, is said in `tools.plugins`. Called by the registry when
it is told to look for plugins, and by users.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from chainweaver.exceptions import ChainWeaverError, PluginDiscoveryError, told
from chainweaver.flow import AnyFlow, DAGFlow, Flow
from chainweaver.tools.plugins import OnPluginError, offers_of, once_each, settle

__all__ = ["GROUP", "discover_flows"]

GROUP: Final = "chainweaver.flows"


def discover_flows(
    *, on_error: OnPluginError | None = None, accept: Callable[[AnyFlow], AnyFlow] | None = None
) -> list[AnyFlow]:
    """The flows that installed packages offer.

    Args:
        on_error: Called once for every plugin that cannot be used; the flows of the others are returned. None: raise
            when there is one.
        accept: Returns what to keep of a flow, or raises why it is not accepted; None: every flow as it is.

    Returns:
        The flows in the order of the entry points' names. Equal flows are returned once.

    Raises:
        PluginDiscoveryError: Without `on_error`: an entry point cannot be loaded or offers something else, a flow is
            not accepted, or two offer different flows of one name and version. All that is wrong is listed, after all
            entry points were tried.
    """
    errors: list[PluginDiscoveryError] = []
    offered = []
    for plugin, flow in offers_of(GROUP, (Flow, DAGFlow), "Flow or DAGFlow", errors):
        try:
            offered.append((plugin, flow if accept is None else accept(flow)))
        except ChainWeaverError as exc:
            errors.append(plugin.error(told(exc), exc))
    flows = once_each(offered, _key_of, lambda one, other: bool(one == other), errors)
    settle(errors, on_error)
    return flows


def _key_of(flow: Any) -> tuple[object, str]:
    return (flow.name, flow.version), f"flow '{flow.name}' {flow.version}"
