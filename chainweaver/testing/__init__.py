"""Testing flows: fakes, virtual time, expectations, recordings, contracts, attestation and fuzzing, for users' tests.

Everything public is importable from this package, and loaded when somebody asks for it: the pytest plugin lives here
and must cost a test session nothing. Production code has no business here: this room may use everything below it, and
only the command line uses it.
"""

from typing import TYPE_CHECKING

from chainweaver._lazy import lazy_names

if TYPE_CHECKING:
    from chainweaver.testing.attesting import Attestation as Attestation, attest_flow as attest_flow
    from chainweaver.testing.capture import capture_steps as capture_steps
    from chainweaver.testing.cassettes import (
        Cassette as Cassette,
        RecordedCall as RecordedCall,
        RecordedError as RecordedError,
    )
    from chainweaver.testing.clock import VirtualClock as VirtualClock
    from chainweaver.testing.conformance.caches import StepCacheConformance as StepCacheConformance
    from chainweaver.testing.conformance.checkpoints import CheckpointerConformance as CheckpointerConformance
    from chainweaver.testing.conformance.lanes import LaneConformance as LaneConformance
    from chainweaver.testing.conformance.objects import ObjectStoreConformance as ObjectStoreConformance
    from chainweaver.testing.conformance.registries import RegistryStoreConformance as RegistryStoreConformance
    from chainweaver.testing.conformance.runs import RunStoreConformance as RunStoreConformance
    from chainweaver.testing.conformance.traces import TraceStoreConformance as TraceStoreConformance
    from chainweaver.testing.fakes import (
        FakeTool as FakeTool,
        ToolCall as ToolCall,
        fake_tool as fake_tool,
        spy_on as spy_on,
    )
    from chainweaver.testing.fuzzing import (
        FlowFuzzer as FlowFuzzer,
        FuzzFinding as FuzzFinding,
        FuzzReport as FuzzReport,
        minimize_failure as minimize_failure,
    )
    from chainweaver.testing.matching import assert_result_matches as assert_result_matches
    from chainweaver.testing.runner import FlowTestRunner as FlowTestRunner
    from chainweaver.testing.strategies import strategy_for as strategy_for
    from chainweaver.testing.taping import record_then_replay as record_then_replay

_HOMES: dict[str, tuple[str, ...]] = {
    "chainweaver.testing.attesting": ("Attestation", "attest_flow"),
    "chainweaver.testing.capture": ("capture_steps",),
    "chainweaver.testing.cassettes": ("Cassette", "RecordedCall", "RecordedError"),
    "chainweaver.testing.clock": ("VirtualClock",),
    "chainweaver.testing.conformance.caches": ("StepCacheConformance",),
    "chainweaver.testing.conformance.checkpoints": ("CheckpointerConformance",),
    "chainweaver.testing.conformance.lanes": ("LaneConformance",),
    "chainweaver.testing.conformance.objects": ("ObjectStoreConformance",),
    "chainweaver.testing.conformance.registries": ("RegistryStoreConformance",),
    "chainweaver.testing.conformance.runs": ("RunStoreConformance",),
    "chainweaver.testing.conformance.traces": ("TraceStoreConformance",),
    "chainweaver.testing.fakes": ("FakeTool", "ToolCall", "fake_tool", "spy_on"),
    "chainweaver.testing.fuzzing": ("FlowFuzzer", "FuzzFinding", "FuzzReport", "minimize_failure"),
    "chainweaver.testing.matching": ("assert_result_matches",),
    "chainweaver.testing.runner": ("FlowTestRunner",),
    "chainweaver.testing.strategies": ("strategy_for",),
    "chainweaver.testing.taping": ("record_then_replay",),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)  # noqa: PLE0605  # computed once from the table

__getattr__ = lazy_names(globals(), _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
