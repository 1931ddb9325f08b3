"""The retry policy of a step: how often, how long to wait, after which errors.

Pure arithmetic on frozen data. Waiting is a lane's work; which errors match is bound by the compiler.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from chainweaver.flow.fields import Flag, FrozenDefinition, NonNegativeCount, NonNegativeSeconds, Words

__all__ = ["RetryPolicy"]


class RetryPolicy(FrozenDefinition):
    """When and how often a failed step is tried again.

    Attributes:
        max_retries: Attempts after the first one; 0 means a single attempt.
        backoff_seconds: Seconds to wait before the first retry.
        backoff_multiplier: Factor by which the wait grows from one retry to the next.
        jitter: Whether the run spreads the waits with its own seeded random source.
        retryable_errors: References `"module:qualname"` to the exception classes after which a retry makes sense.
            Subclasses count.
    """

    max_retries: NonNegativeCount = 3
    backoff_seconds: NonNegativeSeconds = 1.0
    backoff_multiplier: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] = 2.0
    jitter: Flag = False
    retryable_errors: Words = ("builtins:Exception",)

    def compute_delay(self, n: int) -> float:
        """Seconds to wait before retry `n` (1-based), without jitter.

        Grows as `backoff_seconds * backoff_multiplier ** (n - 1)`. The first attempt (`n < 1`) waits 0. A wait that
        no float can hold is infinite.

        >>> RetryPolicy(backoff_seconds=0.5, backoff_multiplier=2.0).compute_delay(3)
        2.0
        """
        if n < 1 or self.backoff_seconds == 0:
            return 0.0
        try:
            return self.backoff_seconds * self.backoff_multiplier ** (n - 1)
        except OverflowError:
            return float("inf")
