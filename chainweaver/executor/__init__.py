"""The executor: the facade that compiles a flow once, runs it on a lane and hands back a result."""

from typing import TYPE_CHECKING

from chainweaver._lazy import lazy_names

if TYPE_CHECKING:
    from chainweaver.executor.call import ReplayMode as ReplayMode
    from chainweaver.executor.differences import StepDiff as StepDiff
    from chainweaver.executor.facade import FlowExecutor as FlowExecutor
    from chainweaver.executor.replay import ReplayResult as ReplayResult
    from chainweaver.executor.upgrade import (
        StepChange as StepChange,
        Verdict as Verdict,
        check_upgrade as check_upgrade,
    )
    from chainweaver.lanes.cancel import CancellationToken as CancellationToken

__all__ = [
    "CancellationToken",
    "FlowExecutor",
    "ReplayMode",
    "ReplayResult",
    "StepChange",
    "StepDiff",
    "Verdict",
    "check_upgrade",
]

__getattr__ = lazy_names(
    globals(),
    {
        "chainweaver.executor.call": ["ReplayMode"],
        "chainweaver.executor.differences": ["StepDiff"],
        "chainweaver.executor.facade": ["FlowExecutor"],
        "chainweaver.executor.replay": ["ReplayResult"],
        "chainweaver.executor.upgrade": ["StepChange", "Verdict", "check_upgrade"],
        "chainweaver.lanes.cancel": ["CancellationToken"],
    },
)
