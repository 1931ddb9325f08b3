"""Virtual time: what is waited for is known exactly and costs nothing."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest

from chainweaver import FlowCancelledError, InMemoryStepCache, StepCacheKey
from chainweaver.testing import FlowTestRunner, VirtualClock, fake_tool
from tests.lanes.table import LANES, Lane
from tests.testing.kit import TEA, order, patient, price, total

lanes = pytest.mark.parametrize("lane", LANES, ids=repr)

MONTH_S = 30 * 24 * 3600.0


@lanes
@pytest.mark.parametrize("limit", [1, 4])
def test_a_month_of_retries_takes_less_than_a_second_and_waits_exactly_as_planned(lane: Lane, limit: int) -> None:
    """R20: thirty days of back-off; waits, dates and duration are exactly those of the policy."""
    waits = [MONTH_S / 4, MONTH_S / 4, MONTH_S / 4, MONTH_S / 4]
    flow = order(retry=patient(4, MONTH_S / 4, backoff_multiplier=1))
    fake = fake_tool(price, sequence=[*[OSError("busy")] * 4, 2.5])
    clock = VirtualClock()
    began = time.monotonic()
    with lane.executor(
        tools=[fake, total], flows=[flow], runtime=clock.runtime(), max_step_concurrency=limit
    ) as executor:
        result = lane.run(executor, "order", TEA)
    assert time.monotonic() - began < 1
    assert clock.waits == waits
    assert result.step("0").retry_count == 4
    assert result.total_duration_ms == MONTH_S * 1000
    assert result.ended_at - result.started_at == timedelta(days=30)
    assert result.final_output == {"article": "tea", "count": 4, "price": 2.5, "total": 10.0}


@lanes
def test_jitter_is_that_of_the_seed(lane: Lane) -> None:
    """R20: equal seeds give equal waits, other seeds others, and none is below half of the delay."""

    def waits(seed: int) -> list[float]:
        clock = VirtualClock(seed=seed)
        flow = order(retry=patient(5, 60.0, jitter=True))
        fake = fake_tool(price, raises=OSError("busy"))
        with lane.executor(tools=[fake, total], flows=[flow], runtime=clock.runtime()) as executor:
            lane.run(executor, "order", TEA)
        return clock.waits

    delays = [60.0 * 2**n for n in range(5)]
    assert waits(1) == waits(1) != waits(2)
    assert all(delay / 2 <= waited < delay for waited, delay in zip(waits(1), delays, strict=True))


@lanes
def test_a_deadline_binds_in_virtual_time(lane: Lane) -> None:
    """R22: the wait that would go beyond the deadline is cut short there, and the run ends."""
    clock = VirtualClock()
    flow = order(retry=patient(9, 3600.0, backoff_multiplier=1))
    fake = fake_tool(price, raises=OSError("busy"))
    with lane.executor(tools=[fake, total], flows=[flow], runtime=clock.runtime()) as executor:
        with pytest.raises(FlowCancelledError) as caught:
            lane.run(executor, "order", TEA, deadline=clock.time() + 2.5 * 3600)
    assert caught.value.deadline_exceeded
    assert clock.waits == [3600.0, 3600.0, pytest.approx(1800.0, abs=1e-6)]
    assert fake.call_count == 3


@lanes
def test_a_tool_that_takes_virtual_time_is_late_in_virtual_time(lane: Lane) -> None:
    """R22: a fake that lets an hour pass has exceeded its limit of a minute, and the test has not waited for it."""
    clock = VirtualClock()

    def slow(inputs: object) -> float:
        clock.advance(3600)
        return 2.5

    flow = order(timeout_seconds=60)
    with lane.executor(
        tools=[fake_tool(price, side_effect=slow), total], flows=[flow], runtime=clock.runtime()
    ) as executor:
        record = lane.run(executor, "order", TEA).step("0")
    assert (record.error_type, record.duration_ms) == ("ToolTimeoutError", 3_600_000.0)
    assert clock.waits == []


def test_ids_and_dates_repeat():
    """R1: with one seed everything in a trace is the same again."""

    def trace() -> str:
        with FlowTestRunner(order(), tools=[price, total], fakes={"price": 2.5}, clock=VirtualClock(seed=7)) as runner:
            return runner.run(TEA).model_dump_json()

    assert trace() == trace()


def test_the_clock_goes_on_only_when_told():
    """R22: the parts of a clock agree."""
    clock = VirtualClock(datetime(2024, 2, 29, 12, tzinfo=timezone.utc))
    clock.advance(0.25)
    clock.advance(86_400)
    assert clock.now == datetime(2024, 3, 1, 12, 0, 0, 250_000, tzinfo=timezone.utc)
    assert clock.time() == clock.now.timestamp()
    assert clock.elapsed_s == 86_400.25
    assert clock.waits == []
    assert repr(clock) == "VirtualClock(2024-03-01T12:00:00.250000+00:00, 0 wait(s))"


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_time_does_not_go_back(seconds: float):
    """R22: a monotonic clock."""
    with pytest.raises(ValueError, match="advances by 0 seconds or more"):
        VirtualClock().advance(seconds)


def test_a_start_without_a_zone_is_refused():
    """api.md: aware datetimes."""
    with pytest.raises(ValueError, match="has to be aware"):
        VirtualClock(datetime(2024, 1, 1))


def test_a_cache_can_live_in_the_same_time():
    """R30: an entry grows old when the clock goes on."""
    clock = VirtualClock()
    cache, key = InMemoryStepCache(ttl_seconds=60, clock=clock.time), StepCacheKey("a", "b", "c")
    cache.set(key, {"n": 1})
    clock.advance(59)
    assert cache.get(key) == {"n": 1}
    clock.advance(1)
    assert cache.get(key) is None
