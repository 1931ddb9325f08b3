"""What the tests of the testing room share: a shop with a price that is fetched and a total that is reckoned."""

from __future__ import annotations

from typing import Any

from chainweaver import Flow, FlowStep, RetryPolicy, tool


@tool
def price(article: str) -> float:
    """What an article costs."""
    raise ConnectionError("the shop is closed")


@tool
async def stock(article: str) -> int:
    """How many there are."""
    raise ConnectionError("the store is closed")


@tool
def total(price: float, count: int) -> float:
    """What so many cost."""
    return price * count


def order(**policy: Any) -> Flow:
    """The price of an order; `policy` is that of the first step."""
    steps = [FlowStep(tool_name="price", **policy), FlowStep(tool_name="total")]
    return Flow(name="order", description="Price of an order.", steps=steps)


def patient(retries: int, seconds: float, **policy: Any) -> RetryPolicy:
    return RetryPolicy(max_retries=retries, backoff_seconds=seconds, **policy)


TEA = {"article": "tea", "count": 4}
