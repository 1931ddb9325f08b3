"""The executor: the facade that compiles a flow once, runs it on a lane and hands back a result."""

from typing import TYPE_CHECKING

from chainweaver._lazy import lazy_names

if TYPE_CHECKING:
    from chainweaver.executor.facade import FlowExecutor as FlowExecutor
    from chainweaver.lanes.cancel import CancellationToken as CancellationToken

__all__ = ["CancellationToken", "FlowExecutor"]

__getattr__ = lazy_names(
    globals(),
    {"chainweaver.executor.facade": ["FlowExecutor"], "chainweaver.lanes.cancel": ["CancellationToken"]},
)
