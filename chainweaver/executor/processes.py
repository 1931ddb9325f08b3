"""What has to be known before a run calls tools in worker processes: whether they can be reached, and who is trusted.

Called by `plans` and by `Call` before anything starts, and by `runs` when a run begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chainweaver.plan import Plan, PlannedTool


class Trust:
    """Stands for one run in which values stay what they are; see `Sharing.lend`."""

    __slots__ = ("__weakref__",)


def process_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an executor that concern its worker processes."""
    return {
        "workers": settings["process_workers"],
        "min_shared_bytes": settings["min_shared_bytes"],
        "placement": settings["placement"],
        "captures": settings["capture_output"],
    }


def out_of_reach(plan: Plan, lane: str | None) -> list[str]:
    """The tools that a worker process would have to call and cannot find there, each with the reason.

    Args:
        lane: The lane of tools that name none.
    """
    if not (plan.has_processes or lane == "process"):
        return []
    from chainweaver.lanes.naming import Nameless, name_of

    found: dict[str, None] = {}
    for tool in called_tools(plan):
        if runs_in_process(tool, lane):
            try:
                name_of(tool)
            except Nameless as exc:
                found[f"lane 'process' of tool '{tool.name}' ({exc})"] = None
    return list(found)


def trust_in(plan: Plan, lane: str | None) -> Trust | None:
    """A token for a run in which nobody but worker processes sees what can be changed; None for any other run.

    What a worker changes, it changes for itself. A tool in this process may change a value that another step has
    packed already, so that its bytes have to be compared before they are used again.
    """
    harmless = all(tool.scalar_inputs or runs_in_process(tool, lane) for tool in called_tools(plan))
    return Trust() if harmless else None


def runs_in_process(tool: PlannedTool, lane: str | None) -> bool:
    """Whether a worker process calls the tool."""
    return not tool.is_async and (lane if tool.lane is None else tool.lane) == "process"


def called_tools(plan: Plan) -> Iterator[PlannedTool]:
    """Every tool that a run of the plan may call, those of sub-flows and of items included."""
    for step in plan.steps:
        called = step if step.each is None else step.each.step
        combining = None if called.chunks is None else called.chunks.merge
        tools = (called.tool, called.fallback, combining, *called.candidates.values())
        if called.child is not None:
            yield from called_tools(called.child)
        for tool in tools:
            # What stands for a sub-flow or a capability is not called as a tool.
            if tool is not None and not (tool is called.tool and (called.child or called.capability)):
                yield tool
