"""Keys that are written twice: siblings, the collision policy, and the fold that merges in plan order."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from chainweaver import FlowStep
from chainweaver._execution import Collision, RunCancelled, StepOutput, merge_step_outputs
from chainweaver.exceptions import ContextKeyCollisionError, FlowExecutionError
from tests.execution.kit import Crowd, Walk, a_plan, a_run, a_step, a_tool, error_of, facts, statuses


class Anything(BaseModel):
    model_config = ConfigDict(extra="allow")


LEFT, RIGHT, LAST = (a_tool(name, ["n"], Anything) for name in ("left", "right", "last"))
SIBLINGS = [a_step("left"), a_step("right")]
REPLIES = {"left": {"k": 1, "l": 1}, "right": {"k": 2}, "last": {"k": 3, "n": 9}}


def walked(plan: Any, *replies: Any) -> Walk:
    walk = Walk(a_run(plan, {"n": 1}))
    for reply in replies:
        walk.ok(reply)
    return walk


# ---- siblings


@pytest.mark.parametrize("policy", ["overwrite", "warn", "error"])
@pytest.mark.parametrize("order", list(permutations(["left", "right"])), ids="-".join)
def test_of_two_siblings_that_write_one_key_the_later_in_plan_order_fails(order, policy):
    """R12: whatever the policy and whoever was faster."""
    run = Crowd(a_run(a_plan(SIBLINGS, [LEFT, RIGHT], on_context_collision=policy), {"n": 1}))
    for name in order:
        run.ok(name, REPLIES[name])
    concluded = run.concluded()

    assert statuses(concluded) == {"left": "ok", "right": "failed"}
    error = error_of(concluded, 1)
    assert isinstance(error, FlowExecutionError)
    assert "Key 'k' produced by both 'left' and its sibling 'right'" in error.sentence
    assert error.fix is not None
    assert "output_mapping" in error.fix
    assert concluded.slots[1:3] == [{"k": 1, "l": 1}, None]
    assert concluded.status == "failed"


def test_siblings_collide_at_limit_1_as_well():
    """R1, R12: the walk and every order of replies leave the same facts behind."""
    plan = a_plan(SIBLINGS, [LEFT, RIGHT])
    crowd = Crowd(a_run(plan, {"n": 1}))
    crowd.ok("right", REPLIES["right"])
    crowd.ok("left", REPLIES["left"])

    assert facts(walked(plan, REPLIES["left"], REPLIES["right"]).run) == facts(crowd.concluded())


def test_an_outcome_waits_for_siblings_before_it_in_plan_order():
    """R12: who wins does not depend on who was faster, so the dependents of the faster one wait."""
    run = Crowd(a_run(a_plan([*SIBLINGS, a_step("last", "right")], [LEFT, RIGHT, LAST]), {"n": 1}))

    assert run.ok("right", {"r": 1}) == []
    assert not run.schedule.over
    assert run.ok("left", {"l": 1}) == ["last"]


@pytest.mark.parametrize("order", list(permutations(["left", "middle", "right"])), ids="-".join)
def test_every_sibling_before_a_step_is_its_rival(order):
    """R12: the third of three collides with the second, whoever was faster."""
    middle = a_tool("middle", ["n"], Anything)
    steps = [a_step("left"), a_step("middle"), a_step("right")]
    run = Crowd(a_run(a_plan(steps, [LEFT, middle, RIGHT]), {"n": 1}))
    for name in order:
        run.ok(name, {"left": {"l": 1}, "middle": {"k": 1}, "right": {"k": 2}}[name])

    assert statuses(run.concluded()) == {"left": "ok", "middle": "ok", "right": "failed"}
    assert "both 'middle' and its sibling 'right'" in error_of(run.run, 2).sentence


def test_a_failure_does_not_wait_for_rivals():
    """R19: it has nothing to compare, and dooms what comes after it at once."""
    steps = [a_step("left"), a_step("right"), a_step("last")]
    run = Crowd(a_run(a_plan(steps, [LEFT, RIGHT, LAST]), {"n": 1}))
    run.err("right", OSError("down"))

    assert run.doomed() == ["last"]


def test_a_sibling_that_failed_is_no_rival_any_more():
    """R12: a key that was not written cannot collide."""
    run = Crowd(a_run(a_plan(SIBLINGS, [LEFT, RIGHT], on_failure="finish"), {"n": 1}))
    run.ok("right", REPLIES["right"])
    run.err("left", OSError("down"))

    assert statuses(run.concluded()) == {"left": "failed", "right": "ok"}
    assert run.run.slots[2] == {"k": 2}


def test_a_sibling_whose_failure_comes_first_makes_the_waiting_outcome_superfluous():
    """R19: an outcome that waited for its rival is set aside when that rival fails."""
    run = Crowd(a_run(a_plan(SIBLINGS, [LEFT, RIGHT]), {"n": 1}))
    run.ok("right", REPLIES["right"])
    run.err("left", OSError("down"))
    concluded = run.concluded()

    assert concluded.details[1].surplus
    assert concluded.shown_outputs(1) == {"k": 2}
    assert concluded.slots[2] is None


def test_a_waiting_outcome_counts_although_the_run_is_cancelled():
    """R23: what was done when the run ended stays done."""
    run = Crowd(a_run(a_plan(SIBLINGS, [LEFT, RIGHT]), {"n": 1}))
    run.ok("right", {"r": 1})
    run.cancel(RunCancelled("token"))
    run.err("left", RunCancelled("token"))

    assert statuses(run.concluded()) == {"left": "cancelled", "right": "ok"}


# ---- the policy


def test_a_collision_over_levels_is_reported_and_the_later_value_wins():
    """R12: under "warn" and "overwrite" the run goes on; what to log is left in the run."""
    steps = [a_step("left"), a_step("last", "left")]
    for policy in ("warn", "overwrite"):
        run = walked(
            a_plan(steps, [LEFT, LAST], on_context_collision=policy), REPLIES["left"], {"k": 3, "n": 9, "z": 0}
        ).run
        assert run.status == "ok"
        assert run.final_output == {"n": 9, "k": 3, "l": 1, "z": 0}
        assert run.collisions == [Collision(1, "last", ("k", "n"))]


def test_under_the_policy_error_the_colliding_step_fails_the_run():
    """R12: the fold stops at the step that collides; what came before stays readable."""
    steps = [a_step("left"), a_step("last", "left")]
    run = walked(a_plan(steps, [LEFT, LAST], on_context_collision="error"), REPLIES["left"], REPLIES["last"]).run

    assert statuses(run) == {"left": "ok", "last": "failed"}
    error = error_of(run, 1)
    assert isinstance(error, ContextKeyCollisionError)
    assert (error.flow_name, error.step_index, error.step_name, error.keys) == ("flow", 1, "last", ("k", "n"))
    assert run.collided == 1
    assert run.slots[1:3] == [{"k": 1, "l": 1}, None]


def test_the_initial_context_collides_as_well():
    """R12: under "error" a step may not overwrite the input either."""
    run = walked(a_plan([a_step("left")], [LEFT], on_context_collision="error"), {"n": 2}).run

    assert error_of(run).keys == ("n",)


def test_a_collision_ends_a_run_that_would_finish_after_failures():
    """R12, R19: on_failure="finish" goes on after failures, not after a collision."""
    steps = [a_step("left"), a_step("last", "left"), a_step("right", "last")]
    plan = a_plan(steps, [LEFT, LAST, RIGHT], on_context_collision="error", on_failure="finish")
    run = walked(plan, {"l": 1}, {"n": 2}).run

    assert statuses(run) == {"left": "ok", "last": "failed", "right": None}


@pytest.mark.parametrize("order", list(permutations(["one", "two", "three"])), ids="-".join)
def test_the_lowest_collision_counts_in_every_order_of_replies(order):
    """R1, R12: three steps of one level overwrite the input; the first in plan order is the one that is told."""
    names = ("one", "two", "three")
    tools = [a_tool(name, ["n"], Anything) for name in names]
    plan = a_plan([a_step(name) for name in names], tools, on_context_collision="error")
    run = Crowd(a_run(plan, {"n": 1, "x": 1, "y": 1}))
    for name in order:
        run.ok(name, {"one": {"fine": 1}, "two": {"x": 2}, "three": {"y": 2}}[name])
    concluded = run.concluded()

    assert concluded.collided == 1
    assert error_of(concluded, 1).keys == ("x",)
    assert concluded.slots[1:4] == [{"fine": 1}, None, None]
    assert concluded.details[2].surplus


@pytest.mark.parametrize("order", [["two", "three"], ["three", "two"]], ids="-".join)
def test_of_steps_that_need_not_wait_for_each_other_the_lowest_collision_counts(order):
    """R1, R12: steps that can write no common key are committed as they come, and each may overwrite the input."""
    tools = [a_tool("two", ["n"], ["x"]), a_tool("three", ["n"], ["y"])]
    plan = a_plan([a_step("two"), a_step("three")], tools, on_context_collision="error")
    run = Crowd(a_run(plan, {"n": 1, "x": 1, "y": 1}))
    for name in order:
        run.ok(name, {{"two": "x", "three": "y"}[name]: 2})

    assert run.concluded().collided == 0


def test_a_collision_beyond_a_failure_did_not_happen():
    """R19: at limit 1 the failure would have kept the colliding step from running, so nothing is raised for it."""
    fails = a_tool("fails", ["n"], ["f"])
    collides = a_tool("collides", ["n"], ["k"])
    steps = [a_step("fails"), a_step("collides")]
    run = Crowd(a_run(a_plan(steps, [fails, collides], on_context_collision="error"), {"n": 1, "k": 1}))
    run.ok("collides", {"k": 2})
    run.err("fails", OSError("down"))
    concluded = run.concluded()

    assert concluded.collided is None
    assert concluded.failures == [1, 0]
    assert concluded.details[1].surplus


def test_pruned_keys_cannot_collide():
    """R11, R12: an output mapping that leaves a key out keeps it out of the comparison."""
    steps = [a_step("left"), a_step("last", "left", output_mapping={"mine": "k"})]
    run = walked(a_plan(steps, [LEFT, LAST], on_context_collision="error"), REPLIES["left"], REPLIES["last"]).run

    assert run.status == "ok"
    assert run.final_output == {"n": 1, "k": 1, "l": 1, "mine": 3}


def test_a_chain_that_overwrites_its_input_warns_by_default():
    """R12: the default policy is "warn"."""
    double = a_tool("double", ["n"], ["n"])
    run = walked(a_plan([FlowStep(tool_name="double")], [double]), {"n": 2}).run

    assert run.plan.collision_policy == "warn"
    assert run.collisions == [Collision(0, "double", ("n",))]


# ---- the fold


def test_outputs_are_folded_in_plan_order_and_the_last_writer_wins():
    """R10: the context changes in place; collisions are returned, never logged or raised."""
    context = {"a": 0, "b": 0}
    found = merge_step_outputs(
        context,
        [StepOutput(0, "first", {"c": 1}), StepOutput(1, "second", {"c": 2, "a": 2}), StepOutput(2, "third", {})],
        policy="warn",
    )

    assert context == {"a": 2, "b": 0, "c": 2}
    assert found == [Collision(1, "second", ("c", "a"))]


def test_under_error_the_fold_ends_before_the_colliding_step():
    """R12: the step that collides, and all after it, stay out."""
    context = {"a": 0}
    outputs = [(0, "first", {"b": 1}), (1, "second", {"a": 1, "c": 1}), (2, "third", {"d": 1})]

    assert merge_step_outputs(context, outputs, policy="error") == [Collision(1, "second", ("a",))]
    assert context == {"a": 0, "b": 1}


class CountedKeys(dict[str, int]):
    """A dict that counts how many of its keys somebody looks at."""

    looked_at = 0

    def __iter__(self) -> Any:
        for key in super().__iter__():
            type(self).looked_at += 1
            yield key

    def keys(self) -> Any:
        return KeysView(self)


class KeysView:
    def __init__(self, owner: CountedKeys) -> None:
        self.owner = owner

    def isdisjoint(self, other: Any) -> bool:
        return not any(key in self.owner for key in other)


def test_work_is_proportional_to_the_new_keys():
    """R12: a large context is never gone through, with and without collisions."""
    context = CountedKeys({f"key_{number}": number for number in range(10_000)})
    merge_step_outputs(context, [(0, "first", {"new": 1}), (1, "second", {"key_5": 1})], policy="warn")

    assert CountedKeys.looked_at == 0
