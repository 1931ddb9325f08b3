"""Contracts as test classes: subclass one in three lines, and pytest checks a store or a lane of yours against it.

    class TestRedisCache(StepCacheConformance):
        def make_store(self):
            return RedisCache("redis://localhost")

Each method whose name begins with `test_` is one clause, and needs nothing but the hooks of its class: the classes work
with any runner that calls such methods. Our own stores and lanes pass the same classes.
"""

from chainweaver.testing.conformance.caches import StepCacheConformance
from chainweaver.testing.conformance.checkpoints import CheckpointerConformance
from chainweaver.testing.conformance.lanes import LaneConformance
from chainweaver.testing.conformance.registries import RegistryStoreConformance
from chainweaver.testing.conformance.runs import RunStoreConformance
from chainweaver.testing.conformance.traces import TraceStoreConformance

__all__ = [
    "CheckpointerConformance",
    "LaneConformance",
    "RegistryStoreConformance",
    "RunStoreConformance",
    "StepCacheConformance",
    "TraceStoreConformance",
]
