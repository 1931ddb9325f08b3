"""Flows that installed packages offer under the entry point group `chainweaver.flows`.

An entry point names a flow, an iterable of flows, or a function without parameters that returns one of these. Called by
the registry when it is told to look for plugins.
"""

from __future__ import annotations

from typing import Any, Final

from chainweaver.exceptions import PluginDiscoveryError
from chainweaver.flow import AnyFlow, DAGFlow, Flow

__all__ = ["GROUP", "offered_flows"]

GROUP: Final = "chainweaver.flows"


def offered_flows() -> list[AnyFlow]:
    """All flows of all entry points, in the order of the entry points' names.

    Raises:
        PluginDiscoveryError: An entry point cannot be loaded or offers something else.
    """
    from importlib.metadata import entry_points

    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    return [flow for point in points for flow in _flows_of(f"{GROUP}:{point.name}", point)]


def _flows_of(shown: str, point: Any) -> list[AnyFlow]:
    try:
        offer = point.load()
        if callable(offer) and not isinstance(offer, type):
            offer = offer()
        flows = [offer] if isinstance(offer, (Flow, DAGFlow)) else list(offer)
    except Exception as exc:
        raise PluginDiscoveryError(shown, f"{type(exc).__name__}: {exc}") from exc
    strange = [type(flow).__name__ for flow in flows if not isinstance(flow, (Flow, DAGFlow))]
    if strange:
        raise PluginDiscoveryError(shown, f"it offers {', '.join(strange)} instead of Flow or DAGFlow")
    return flows
