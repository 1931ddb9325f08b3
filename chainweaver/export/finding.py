"""From what a caller passes to the definition that is exported. Called by the other files of this room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chainweaver.flow import DAGFlow, Flow

if TYPE_CHECKING:
    from chainweaver.executor import FlowExecutor
    from chainweaver.flow import AnyFlow


def find_flow(flow: AnyFlow | str, executor: FlowExecutor | None, version: str | None) -> AnyFlow:
    """The flow itself, or the one of this name in the executor.

    Raises:
        FlowNotFoundError: There is no flow of this name, or not in this version.
        TypeError: It is neither a flow nor a name, or a name without an executor.
        ValueError: A version is asked for that the given flow does not have.
    """
    if isinstance(flow, str):
        if executor is None:
            raise TypeError(f"Flow '{flow}' is given by its name, so the executor that knows it is needed as well.")
        return executor.registry.get_flow(flow, version=version)
    if not isinstance(flow, (Flow, DAGFlow)):
        raise TypeError(f"A flow, or the name of one, is needed, not {type(flow).__name__}.")
    if version is not None and version != flow.version:
        raise ValueError(f"Flow '{flow.name}' is given in version {flow.version}, not in version {version}.")
    return flow
