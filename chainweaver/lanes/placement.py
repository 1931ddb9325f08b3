"""Which processors workers keep to, from what the system tells of its memory nodes (Linux, /sys).

A processor reaches the memory of its own node faster than that of others. With one node, or where the system tells
nothing, there is nothing to choose. Called by `processes`.
"""

from __future__ import annotations

import os
from pathlib import Path

NODES = Path("/sys/devices/system/node")


def places(placement: str | None, workers: int, root: Path = NODES, allowed: set[int] | None = None) -> list[list[int]]:
    """The processors of each worker, in the order in which workers are started; empty where they may all run anywhere.

    Args:
        placement: "spread": each worker on another node than the one before. "compact": nodes are filled one after the
            other, with as many workers as they have processors. None: anywhere.
        workers: How many there may be.
        root: Where the system tells of its nodes.
        allowed: The processors that this process may use. None: as the system says.
    """
    if placement is None or not hasattr(os, "sched_setaffinity"):
        return []
    usable = os.sched_getaffinity(0) if allowed is None else allowed
    nodes = [cpus for node in nodes_of(root) if (cpus := [one for one in node if one in usable])]
    if len(nodes) < 2:
        return []
    if placement == "spread":
        return [nodes[number % len(nodes)] for number in range(workers)]
    filled = [cpus for cpus in nodes for _ in cpus]
    return [filled[number % len(filled)] for number in range(workers)]


def nodes_of(root: Path) -> list[list[int]]:
    """The processors of each memory node, by the number of the node; empty where nothing can be read."""
    found: dict[int, list[int]] = {}
    try:
        for folder in root.glob("node[0-9]*"):
            found[int(folder.name.removeprefix("node"))] = cpus_of((folder / "cpulist").read_text("ascii"))
    except (OSError, ValueError):
        return []
    return [found[number] for number in sorted(found)]


def cpus_of(text: str) -> list[int]:
    """A list of processors as the system writes it.

    >>> cpus_of("0-3,8,10-11\\n"), cpus_of("\\n")
    ([0, 1, 2, 3, 8, 10, 11], [])

    Raises:
        ValueError: It is no such list.
    """
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found += range(int(first), int(last or first) + 1)
    return found
