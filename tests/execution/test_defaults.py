"""What holds while nobody asks for anything: the rules and runs that nothing was said about, and what they share."""

from __future__ import annotations

import dataclasses
from itertools import count

import pytest

from chainweaver._execution import summarize
from chainweaver._execution.rules import NO_RULES, Rules
from chainweaver.flow.callbacks import DecisionPolicy
from tests.execution.kit import Walk, a_plan, a_run, a_step, a_tool, one_step

A, B, C = (a_tool(name, ["n"], [f"{name}_out"]) for name in "abc")


def test_rules_that_nobody_made_ask_for_nothing():
    """R1: every rule is one that somebody asked for."""
    assert {one.name: getattr(NO_RULES, one.name) for one in dataclasses.fields(Rules) if one.init} == {
        "decides": False, "approves": False, "guards": False, "decision": DecisionPolicy(),
        "ceiling": None, "strict": False, "dry": None, "capability": None, "redaction": None, "pricing": None,
        "seal": None, "around_step": (), "around_run": (),
    }  # fmt: skip
    assert not NO_RULES.concern_every_step


@pytest.mark.parametrize(
    ("rules", "concerns"),
    [
        ({"guards": True}, True), ({"strict": True}, True), ({"dry": "skip"}, True), ({"dry": "abort"}, True),
        ({"around_step": (print,)}, True), ({"decides": True}, False), ({"approves": True}, False),
        ({"around_run": (print,)}, False),
    ],
)  # fmt: skip
def test_rules_that_concern_steps_without_a_policy_keep_them_from_the_short_path(rules, concerns):
    """R1: who decides and who approves is asked by the steps that say so; a run is wrapped as a whole."""
    run = a_run(one_step(A), {"n": 1}, rules=Rules(**rules))

    assert run.rules.concern_every_step is concerns
    assert run.is_unconcerned() is not concerns


def test_rules_are_never_changed():
    """Concurrency: an executor serves any number of runs with the same ones."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        NO_RULES.strict = True  # type: ignore[misc]
    assert not hasattr(NO_RULES, "__dict__")


def test_a_run_begins_with_nobody_to_tell_nothing_to_keep_and_no_past():
    """R31, R17: events, stores and earlier parts of a run are there when somebody says so."""
    run = a_run(one_step(A), {"n": 1})
    flags = ("listening", "announcing", "streaming", "caching", "saving", "resumed", "is_map", "is_tolerant")

    assert {name: getattr(run, name) for name in flags} == dict.fromkeys(flags, False)
    nothing = ("input_error", "output_error", "collided", "cancelled", "final_output", "refused", "parent", "past")
    assert {name: getattr(run, name) for name in nothing} == dict.fromkeys(nothing)
    assert (run.path, run.key, run.given_references, run.collisions) == ((), (), (), ())
    assert (run.deadline_ns, run.lane, run.status, run.secrets) == (None, "sync", "running", frozenset())


def test_the_id_of_a_run_is_made_once_when_somebody_first_asks():
    """R36: everybody is told the same id, and nobody pays for one that is not asked for."""
    made = map("{:032}".format, count(7))
    run = a_run(one_step(A), {"n": 1})
    run.new_id = lambda: next(made)

    assert [run.trace_id(), run.trace_id(), run.trace_id("f" * 32)] == [f"{7:032}"] * 3
    assert next(made) == f"{8:032}"


def test_a_run_that_goes_on_keeps_the_id_it_had():
    """R33: the id of the first part is that of the whole run."""
    run = a_run(one_step(A), {"n": 1})

    assert [run.trace_id("f" * 32), run.trace_id()] == ["f" * 32] * 2


@pytest.mark.parametrize(
    ("capture", "given", "is_kept"),
    [
        (None, {"n": 1, "t": "text", "x": None}, True),
        (summarize, {"n": 1}, True),
        (summarize, {"n": 1, "t": "text"}, False),
        (None, {"n": 1, "rows": [1]}, False),
    ],
)
def test_an_input_that_nobody_can_change_is_shown_without_a_copy(capture, given, is_kept):
    """R36: what is shown is what was given, and costs nothing where that cannot change."""
    run = a_run(one_step(A), given, capture=capture)

    assert (run.given is run.slots[0]) is is_kept


def test_a_map_has_no_input_of_its_own():
    """R28: what its items read stands in their records."""
    walk = Walk(a_run(a_plan([a_step("a", map_over="ns", map_as="n")], [A]), {"ns": [1]}))
    walk.ok({"a_out": 2})
    nested = walk.run.details[0].nested

    assert nested is not None
    assert nested.given == {}
    assert nested.inputs == [{"n": 1}]
