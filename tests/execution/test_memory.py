"""What a run costs in memory, payload excluded."""

from __future__ import annotations

import gc
import sys
from typing import Any

import pytest

from chainweaver import FlowStep
from chainweaver._execution import Detail, Run
from chainweaver.flow import RetryPolicy
from tests.execution.kit import Walk, a_plan, a_run, a_tool

STEPS = 1_000
LIMIT_BYTES = 200


def played(containers: bool, **step: Any) -> Run:
    """A run of many steps; every step reads the value of the one before."""
    kind = Any if containers else int
    tools = [a_tool(f"t{index}", {f"v{index}": kind}, {f"v{index + 1}": kind}) for index in range(STEPS)]
    steps = [FlowStep(tool_name=tool.name, **step) for tool in tools]
    walk = Walk(a_run(a_plan(steps, tools), {"v0": [0] if containers else 0}))
    for index in range(STEPS):
        walk.ok({f"v{index + 1}": [index] if containers else index})
    assert walk.run.status == "ok"
    return walk.run


def own_bytes(run: Run) -> int:
    """The size of everything that a run holds beside its plan and the values of tools.

    Values are the dicts of inputs and outputs, in slots, in records and in the final output.
    """
    payload = [*run.slots, *run.inputs, run.given, run.final_output, *(run.shown or ())]
    seen = {id(run.plan), id(run.capture), id(run.new_id), *map(id, payload)}
    total, todo = 0, [vars(run)]
    while todo:
        one: Any = todo.pop()
        if id(one) in seen or isinstance(one, (type, str)) or callable(one):
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        if not isinstance(one, int):
            todo += gc.get_referents(one)
    return total


@pytest.mark.parametrize("containers", [False, True], ids=["scalars", "containers"])
@pytest.mark.parametrize("step", [{}, {"retry": RetryPolicy(max_retries=1)}], ids=["plain", "policy"])
def test_a_step_leaves_at_most_200_bytes_behind(containers, step):
    """Records are made when somebody looks; until then a step is five list entries, and details where there are any."""
    assert own_bytes(played(containers, **step)) / STEPS <= LIMIT_BYTES


def test_what_a_step_leaves_behind_has_no_dict():
    """One object per step at most, and that one has slots."""
    run = played(True)
    run.detail(0)

    assert {type(one) for one in run.details.values()} == {Detail}
    assert not hasattr(Detail(), "__dict__")
