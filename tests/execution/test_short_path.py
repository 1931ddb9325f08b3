"""The short path: what takes it, and that it leaves nothing out that a step without any policy still asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from chainweaver import RetryPolicy
from chainweaver._execution.rules import Rules
from tests.execution.kit import Crowd, Walk, a_plan, a_run, a_step, a_tool, one_step, statuses

A, B = a_tool("a", ["n"], ["a_out"]), a_tool("b", ["n"], ["b_out"])


@pytest.mark.parametrize(
    ("options", "attended", "is_short"),
    [
        ({}, {}, True),
        ({"output_mapping": {"x": "a_out"}}, {}, True),
        ({"retry": RetryPolicy(max_retries=1)}, {}, False),
        ({"on_error": "skip"}, {}, False),
        ({}, {"saving": True}, False),
        ({}, {"caching": True}, False),
        ({}, {"listening": True}, False),
        ({}, {"resumed": True}, False),
        ({}, {"deadline_s": 5.0}, False),
        ({}, {"rules": Rules(strict=False, dry="skip")}, False),
    ],
)
def test_in_a_schedule_a_plain_step_that_nobody_attends_has_no_generator(
    options: Mapping[str, Any], attended: Mapping[str, Any], is_short: bool
):
    """R4: what the step asks for is the same either way; the short path saves more than the call costs."""
    tool = a_tool("a", ["n"], ["a_out"], dry_run_fn=lambda inputs: {"a_out": 1})
    crowd = Crowd(a_run(a_plan([a_step("a", **options)], [tool]), {"n": 1}, **attended))
    begun = next(iter(crowd.schedule._flying.values()))

    assert (begun.life is None) is is_short


@pytest.mark.parametrize("attended", [{"saving": True}, {"listening": True, "saving": True}, {}])
@pytest.mark.parametrize("mapping", [None, {"x": "a_out"}])
def test_outputs_that_were_refused_are_neither_renamed_nor_saved(attended: Mapping[str, Any], mapping: Any):
    """R10, R32: a step whose outputs do not fit has none; a resume tries it again."""
    run = a_run(one_step(A, output_mapping=mapping), {"n": 1}, **attended)
    walk = Walk(run)
    seen = [asks[0] for asks in walk.to_the_end({"a": {"a_out": "x"}})]

    assert "save" not in seen
    assert statuses(run) == {"0": "failed"}
    assert run.slots[1] is None
    assert run.details[0].error is not None
    assert run.details[0].error.code == "E004"


@pytest.mark.parametrize("mapping", [None, {"x": "a_out"}])
def test_in_a_schedule_refused_outputs_are_not_renamed_either(mapping: Any):
    """R10: what was refused is told, and nothing else."""
    crowd = Crowd(a_run(a_plan([a_step("a", output_mapping=mapping)], [A]), {"n": 1}))
    crowd.ok("a", {"a_out": "x"})
    run = crowd.concluded()

    assert statuses(run) == {"a": "failed"}
    assert run.details[0].error is not None
    assert run.details[0].error.code == "E004"
