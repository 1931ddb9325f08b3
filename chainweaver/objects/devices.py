"""Device memory: giving back what array frameworks keep for themselves.

Frameworks do not return memory of a device to it when an array dies: they keep it in a pool for the next one, where no
other process can have it. `release_device_caches` empties these pools. It acts on frameworks that the program has
imported and whose device it has used already, imports nothing, and wakes no device.

Called by the executor where `device_caches` says so, and by users.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

SCARCE = 0.1
"""Memory is scarce where less than this part of a device is free."""


class Clearable(Protocol):
    """Something that holds values: a list, a dict, a set, a cache."""

    def clear(self) -> object:
        """Let go of all of them."""
        ...


class DevicePool(NamedTuple):
    """What one framework keeps on devices.

    Attributes:
        name: The framework and its kind of device, such as "torch.cuda".
        synchronize: Waits until the devices have done what they were told: memory in use is not given back.
        empty: Gives unused memory back.
        free: Part of the memory that is free, on the device where it is scarcest; None where nobody tells.
    """

    name: str
    synchronize: Callable[[], object]
    empty: Callable[[], object]
    free: Callable[[], float | None]


def release_device_caches(*holders: Clearable) -> tuple[str, ...]:
    """Give back the memory of devices that nobody uses: drop references, collect, synchronize, empty the pools.

    JAX and TensorFlow have no call for it: what was dropped and collected goes back to their pools and stays there.

    Args:
        holders: Emptied first, so that what they hold can be given back.

    Returns:
        The frameworks that were asked to: "torch.cuda", "torch.mps", "cupy".

    Raises:
        Exception: Whatever a framework raises, such as the error of a kernel that failed earlier.

    >>> batches = {"last": object()}
    >>> release_device_caches(batches), batches
    ((), {})
    """
    for holder in holders:
        holder.clear()
    pools = pools_in_use()
    gc.collect()
    for pool in pools:
        pool.synchronize()
    for pool in pools:
        pool.empty()
    return tuple(pool.name for pool in pools)


def is_scarce() -> bool:
    """Whether less than a tenth of the memory of a device is free, as its framework tells; False where none does."""
    parts = [part for pool in pools_in_use() if (part := pool.free()) is not None]
    return min(parts, default=1.0) < SCARCE


def pools_in_use() -> list[DevicePool]:
    """The frameworks that are imported and have used their device."""
    found = []
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None:
        cuda, mps = getattr(torch, "cuda", None), getattr(torch, "mps", None)
        # Both begin to work when they are first used: asking for more than this would start them.
        if cuda is not None and cuda.is_initialized():
            found.append(_cuda_of_torch(cuda))
        if mps is not None and torch.backends.mps.is_available():
            found.append(DevicePool("torch.mps", mps.synchronize, mps.empty_cache, lambda: _free_of_mps(mps)))
    if cupy is not None and _has_blocks(cupy):
        found.append(_cupy(cupy))
    return found


def _cuda_of_torch(cuda: Any) -> DevicePool:
    # Devices that nothing was put on yet would be woken by the question.
    devices = [device for device in range(cuda.device_count()) if cuda.memory_reserved(device) > 0]

    def synchronize() -> None:
        for device in devices:
            cuda.synchronize(device)

    def free() -> float:
        memory = (cuda.mem_get_info(device) for device in devices)
        return float(min((left / whole for left, whole in memory), default=1.0))

    return DevicePool("torch.cuda", synchronize, cuda.empty_cache, free)


def _free_of_mps(mps: Any) -> float:
    return float(1 - mps.driver_allocated_memory() / mps.recommended_max_memory())


def _has_blocks(cupy: Any) -> bool:
    try:
        held: int = cupy.get_default_memory_pool().total_bytes()
    except Exception:  # it is installed where there is no device
        return False
    return held > 0


def _cupy(cupy: Any) -> DevicePool:
    def empty() -> None:
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()

    def free() -> float:
        left, whole = cupy.cuda.Device().mem_info
        return float(left / whole)

    return DevicePool("cupy", lambda: cupy.cuda.Device().synchronize(), empty, free)
