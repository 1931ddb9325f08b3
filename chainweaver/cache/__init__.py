"""Step caches: outputs kept for the next run with the same inputs.

The protocol and the key live in `key`, the stores in `memory` and `file`, and `flight` makes one computation out of
many that start at the same time. When a step is looked up, and what its key is made of, is decided by the executor.
"""

from chainweaver.cache.file import FileStepCache
from chainweaver.cache.flight import Flight, SingleFlight
from chainweaver.cache.key import StepCache, StepCacheKey, Uncacheable
from chainweaver.cache.memory import InMemoryStepCache

__all__ = [
    "FileStepCache",
    "Flight",
    "InMemoryStepCache",
    "SingleFlight",
    "StepCache",
    "StepCacheKey",
    "Uncacheable",
]
