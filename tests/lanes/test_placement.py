"""Where workers run, on machines that are told of by a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chainweaver import Flow, FlowExecutor, FlowStep
from chainweaver.lanes.placement import NODES, nodes_of, places
from tests.lanes import crew

needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no such call")


def machine(root: Path, **nodes: str) -> Path:
    """A folder as /sys/devices/system/node."""
    for name, cpus in nodes.items():
        (root / name).mkdir(parents=True)
        (root / name / "cpulist").write_text(f"{cpus}\n", "ascii")
    (root / "possible").write_text("0-1\n", "ascii")
    return root


@needs_affinity
def test_spread_workers_take_turns_on_the_nodes(tmp_path: Path) -> None:
    """each on another node than the one before."""
    root = machine(tmp_path, node0="0-1,4", node1="2-3")
    found = places("spread", 3, root, set(range(8)))
    assert found == [[0, 1, 4], [2, 3], [0, 1, 4]]


@needs_affinity
def test_compact_workers_fill_one_node_after_the_other(tmp_path: Path) -> None:
    """as many on a node as it has processors."""
    root = machine(tmp_path, node0="0-1", node1="2-3", node10="4")
    found = places("compact", 6, root, set(range(8)))
    assert found == [[0, 1], [0, 1], [2, 3], [2, 3], [4], [0, 1]]


@needs_affinity
def test_processors_that_are_not_ours_are_left_out(tmp_path: Path) -> None:
    """a container may have been given some of them only; a node without any is none."""
    root = machine(tmp_path, node0="0-3", node1="4-7", node2="8-11", node3="")
    assert places("spread", 2, root, {1, 2, 8}) == [[1, 2], [8]]


@pytest.mark.parametrize("placement", ["spread", "compact", None])
def test_with_one_node_there_is_nothing_to_choose(tmp_path: Path, placement: str | None) -> None:
    """no worker is kept from any processor."""
    assert places(placement, 4, machine(tmp_path, node0="0-7"), set(range(8))) == []
    assert places(placement, 4, tmp_path / "nothing", set(range(8))) == []


def test_what_cannot_be_read_is_no_reason_to_fail(tmp_path: Path) -> None:
    """placement is a hint."""
    assert nodes_of(machine(tmp_path, node0="0-1", node1="many")) == []


@needs_affinity
def test_this_machine_can_be_read() -> None:
    """its nodes hold the processors that this process may use, where the system tells of nodes at all."""
    nodes = nodes_of(NODES)
    assert not nodes or os.sched_getaffinity(0) <= {cpu for node in nodes for cpu in node}


@needs_affinity
def test_a_worker_keeps_to_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """the hint is followed where there are several nodes."""
    one = min(os.sched_getaffinity(0))
    monkeypatch.setattr("chainweaver.lanes.processes.places", lambda placement, workers: [[one]])
    flow = Flow(name="flow", description="d", steps=[FlowStep(tool_name="processors")])
    with FlowExecutor(tools=[crew.processors], flows=[flow], lane="process", placement="spread") as executor:
        assert executor.execute_flow("flow", {"n": 1}).final_output == {"n": 1, "cpus": [one]}
