"""Giving memory of devices back: in which order, by whom, and never by waking a device."""

from __future__ import annotations

import logging
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from chainweaver import Flow, FlowExecutor, FlowStep, Native, tool
from chainweaver.objects import release_device_caches
from chainweaver.objects.devices import is_scarce


class FakeCuda:
    """What torch.cuda does, noting the order; a module of its own, since no device has to be there."""

    def __init__(self, told: list[str], free: float = 0.5) -> None:
        self.told = told
        self.free = free
        self.started = True
        self.reserved = {0: 1 << 20, 1: 0}

    def is_initialized(self) -> bool:
        return self.started

    def device_count(self) -> int:
        return len(self.reserved)

    def memory_reserved(self, device: int) -> int:
        return self.reserved[device]

    def mem_get_info(self, device: int) -> tuple[int, int]:
        assert self.reserved[device], "this would wake the device"
        return int(self.free * 1000), 1000

    def synchronize(self, device: int) -> None:
        self.told.append(f"synchronize {device}")

    def empty_cache(self) -> None:
        self.told.append("empty")


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def cuda(told, monkeypatch) -> FakeCuda:
    made = FakeCuda(told)
    backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=made, backends=backends))
    return made


class Held:
    """A value in a circle, which only the collector can free."""

    def __init__(self, told: list[str]) -> None:
        self.me = self
        weakref.finalize(self, told.append, "collected")


def test_references_are_dropped_then_collected_then_devices_waited_for_then_pools_emptied(told, cuda):
    """Device memory: an array that is still referenced, in a circle, or in use keeps its place in the pool."""
    cache = {"a": Held(told)}

    acted = release_device_caches(cache)

    assert cache == {}
    assert told == ["collected", "synchronize 0", "empty"]
    assert acted == ("torch.cuda",)


def test_a_device_that_nobody_has_used_is_not_woken(told, cuda):
    """Device memory: a context on a device takes hundreds of megabytes of it."""
    cuda.started = False

    assert release_device_caches() == ()
    assert told == []


def test_nothing_is_imported(told):
    """Device memory: it acts on what is imported already."""
    before = set(sys.modules)

    release_device_caches()

    assert set(sys.modules) == before


def test_cupy_gives_back_both_of_its_pools(told, monkeypatch):
    """Device memory: memory of the device, and memory of the host that is pinned for it."""
    pool = SimpleNamespace(total_bytes=lambda: 8, free_all_blocks=lambda: told.append("device"))
    pinned = SimpleNamespace(free_all_blocks=lambda: told.append("pinned"))
    device = SimpleNamespace(synchronize=lambda: told.append("synchronize"), mem_info=(5, 100))
    fake = SimpleNamespace(
        get_default_memory_pool=lambda: pool,
        get_default_pinned_memory_pool=lambda: pinned,
        cuda=SimpleNamespace(Device=lambda: device),
    )
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setitem(sys.modules, "cupy", fake)

    assert release_device_caches() == ("cupy",)
    assert told == ["synchronize", "device", "pinned"]
    assert is_scarce()


@pytest.mark.parametrize(("free", "scarce"), [(0.5, False), (0.11, False), (0.09, True)])
def test_memory_is_scarce_where_less_than_a_tenth_of_a_device_is_free(cuda, free, scarce):
    """Device memory: what "pressure" means."""
    cuda.free = free

    assert is_scarce() is scarce


@tool(output="array")
def make() -> Native[np.ndarray]:
    return np.zeros(1)


def run_with(**settings) -> None:
    flow = Flow(name="f", description="", steps=[FlowStep(tool_name="make")])
    with FlowExecutor(tools=[make], flows=[flow], **settings) as executor:
        assert executor.execute_flow("f", {}).success


@pytest.mark.parametrize(
    ("when", "free", "acts"),
    [("never", 0.01, False), ("run_end", 0.9, True), ("pressure", 0.9, False), ("pressure", 0.01, True)],
)
def test_an_executor_gives_memory_back_when_it_was_told_to(told, cuda, when, free, acts):
    """Device memory: the policy of an executor."""
    cuda.free = free

    run_with(device_caches=when)

    assert told == (["synchronize 0", "empty"] if acts else [])


def test_the_default_is_never(told, cuda):
    """Device memory: emptying a pool makes the next array wait, so nobody does it unasked."""
    run_with()

    assert told == []


def test_what_a_run_has_let_go_of_is_given_back_at_its_end(told, cuda):
    """Device memory, R37: the values between the steps are gone before the pool is emptied."""

    @tool(output="held")
    def hold() -> Native[Held]:
        return Held(told)

    @tool(output="n")
    def count(held: Native[Held]) -> int:
        return 1

    flow = Flow(
        name="f", description="", outputs=["n"], steps=[FlowStep(tool_name="hold"), FlowStep(tool_name="count")]
    )
    with FlowExecutor(tools=[hold, count], flows=[flow], trace_values="summary", device_caches="run_end") as executor:
        executor.execute_flow("f", {})

    assert told == ["collected", "synchronize 0", "empty"]


def test_a_device_that_reports_an_error_fails_no_run(told, cuda, caplog):
    """Device memory: the run is over by then."""
    cuda.synchronize = lambda device: 1 / 0

    with caplog.at_level(logging.WARNING, "chainweaver.executor"):
        run_with(device_caches="run_end")

    assert "Memory of devices is not given back" in caplog.text


def test_another_word_is_refused():
    """Device memory: a mistake does not wait for the first run."""
    with pytest.raises(ValueError, match="device_caches has to be"):
        FlowExecutor(device_caches="always")


def test_memory_of_a_real_device_goes_back_to_it():
    """Device memory: the pool of torch is empty afterwards."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    block = torch.zeros(64 << 20, dtype=torch.uint8, device="cuda")
    held = [block]
    del block
    kept = torch.cuda.memory_reserved()

    acted = release_device_caches(held)

    assert "torch.cuda" in acted
    assert torch.cuda.memory_reserved() <= kept - (64 << 20)
