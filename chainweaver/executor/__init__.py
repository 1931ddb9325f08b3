"""The executor: the facade that compiles a flow once, runs it on a lane and hands back a result."""

from chainweaver.executor.facade import FlowExecutor

__all__ = ["CancellationToken", "FlowExecutor"]


def __getattr__(name: str) -> object:
    if name == "CancellationToken":
        from chainweaver.lanes.cancel import CancellationToken

        return CancellationToken
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
