"""What records keep: snapshots within a budget, references by name, summaries."""

from __future__ import annotations

from collections import OrderedDict
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, SecretStr

from chainweaver import FlowStep
from chainweaver._execution import Run, capture_within, reference_only, summarize
from chainweaver._execution.rules import Rules
from chainweaver.executor.captures import capture_of
from chainweaver.observe import RedactionPolicy
from tests.execution.kit import Crowd, Walk, a_flow, a_plan, a_run, a_step, a_sub_step, a_tool, one_step

SNAPSHOT = capture_of("snapshot", 64)
HERE = "tests.execution.test_trace"


def captured(capture: Any, values: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What a record shows of values, and the fields that it names."""
    shown, by_reference, _ = capture(values)
    return shown, by_reference


def snapshot(values: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    return captured(SNAPSHOT, values)


class Foreign:
    """An object that nobody here can copy."""


class Refuses:
    """A key that can be hashed once."""

    hashed = 0

    def __hash__(self) -> int:
        self.hashed += 1
        if self.hashed > 1:
            raise RuntimeError("hashed already")
        return 7


class Hostile:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no attributes")


class Table:
    shape = (3, 2)


@pytest.fixture(params=["walk", "life", "schedule"])
def played(request):
    """Plays a run with one step, on the short path, through its life and on a schedule."""

    def play(tool: Any, initial: dict[str, Any], reply: Any, **options: Any) -> Any:
        run = a_run(one_step(tool), initial, resumed=request.param == "life", **options)
        if request.param == "schedule":
            crowd = Crowd(run)
            change(crowd.flying["0"].command)
            crowd.ok("0", reply)
            return crowd.concluded()
        walk = Walk(run)
        change(walk.command)
        walk.ok(reply)
        return walk.run

    def change(command: Any) -> None:
        """What an unkind tool does to its input."""
        for value in command[1].__dict__.values():
            if isinstance(value, list):
                value.append("changed by the tool")

    return play


ROWS = a_tool("rows", {"rows": Any}, {"kept": Any})


def test_a_record_shows_the_inputs_as_they_were(played):
    """R36: a tool that changes its input does not rewrite the record of it."""
    run = played(ROWS, {"rows": [1, [2]]}, {"kept": [3]})

    assert run.inputs == [{"rows": [1, [2]]}]
    assert run.slots[0]["rows"] == [1, [2], "changed by the tool"], "the object itself went through"


def test_a_record_shows_the_outputs_as_they_were(played):
    """R36: what later steps do to a value is not seen in the record of the step that made it."""
    kept = [3, [4]]
    run = played(ROWS, {"rows": 1}, {"kept": kept})
    kept.append("changed later")

    assert run.shown_outputs(0) == {"kept": [3, [4]]}
    assert run.slots[1]["kept"] is kept, "identity is the promise to the next step"


def test_what_is_too_large_is_named_by_reference_once(played):
    """R36: inputs and outputs of one name are listed once."""
    same = a_tool("same", {"rows": Any}, {"rows": Any})
    many = list(range(100))
    run = played(same, {"rows": many}, {"rows": many})

    assert run.inputs[0]["rows"] is many
    assert run.referred(0) == ("rows",)


def test_references_of_inputs_and_outputs_are_both_listed(played):
    """R36: `by_reference` names every field that shows a live object."""
    run = played(ROWS, {"rows": Foreign()}, {"kept": Foreign()})

    assert run.referred(0) == ("rows", "kept")


def test_a_step_with_scalars_only_has_no_details(played):
    """R36: decided at compile time, so that a plain step pays nothing."""
    run = played(a_tool("double", {"n": int}, {"m": int}), {"n": 1}, {"m": 2})

    assert run.details == {}
    assert run.inputs == [{"n": 1}]


def test_what_the_caller_gave_is_kept_as_it_was(played):
    """R36: the result shows the input of the run, not what tools made of it."""
    run = played(ROWS, {"rows": [1]}, {"kept": 0})

    assert run.given == {"rows": [1]}
    assert run.given_references == ()


def test_what_the_caller_gave_is_named_where_it_is_live(played):
    """R36: the record of a refused input says what it shows as it is now."""
    run = played(ROWS, {"rows": list(range(100)), "n": 1}, {"kept": 0})

    assert run.given_references == ("rows",)


# ---- captures


@pytest.mark.parametrize(
    "value", [[], [1, [2, [3]]], {"a": {"b": [1]}}, (1, (2, [3])), {1, 2}, [{1: (2,)}], {"a": None, "b": b"x"}]
)
def test_plain_containers_are_copied_at_every_depth(value):
    """R36: the copy is equal and shares no container."""
    shown, by_reference = snapshot({"value": value})

    assert shown == {"value": value}
    assert type(shown["value"]) is type(value)
    assert by_reference == ()
    assert shown["value"] is not value or value == ()


def test_inner_containers_are_copied_too():
    """R36: a change deep inside does not show."""
    inner = [1]
    shown, _ = snapshot({"value": {"inner": (inner,)}})
    inner.append(2)

    assert shown == {"value": {"inner": ([1],)}}


def test_the_budget_counts_items_over_all_fields():
    """R36: a field that does not fit stays by reference and gives its share back."""
    values = {"first": [1] * 40, "second": [1] * 40, "third": [1] * 24, "fourth": [1]}
    shown, by_reference, copied = capture_within(64)(values)

    assert copied == 64

    assert by_reference == ("second", "fourth")
    assert shown["second"] is values["second"]
    assert shown["third"] is not values["third"]


@pytest.mark.parametrize("limit", [0, 1])
def test_a_budget_of_nothing_copies_nothing_but_empty_containers(limit):
    """R36: `trace_copy_limit` is exact."""
    values = {"empty": [], "one": [1], "two": [1, 2]}
    _, by_reference = captured(capture_within(limit), values)

    assert by_reference == (("one", "two") if limit == 0 else ("two",))


@pytest.mark.parametrize("value", [Foreign(), lambda: 0, Foreign, bytearray(b"x"), OrderedDict(a=1)])
def test_foreign_objects_are_kept_and_named(value):
    """R36: nothing foreign is copied, pickled or converted."""
    shown, by_reference = snapshot({"n": 1, "value": value})

    assert shown["value"] is value
    assert by_reference == ("value",)


class Colour(Enum):
    RED = "red"


IMMUTABLE = [
    *(date(2026, 1, 2), datetime(2026, 1, 2, tzinfo=timezone.utc), time(3), timedelta(4), timezone.utc),
    *(Decimal("1.5"), Fraction(1, 3), UUID(int=7), range(3), Colour.RED, Path("a"), PurePosixPath("b")),
    *(frozenset({1, "x"}), frozenset({(1, frozenset({Decimal(2)}))})),
]


@pytest.mark.parametrize("capture", [SNAPSHOT, capture_of("reference", 0)], ids=["snapshot", "reference"])
@pytest.mark.parametrize("value", IMMUTABLE[:-2])
def test_what_nobody_can_change_is_not_named(value, capture):
    """R36: a date is no less safe in a record than a number."""
    shown, by_reference = captured(capture, {"value": value})

    assert shown["value"] is value
    assert by_reference == ()


@pytest.mark.parametrize("value", IMMUTABLE)
@pytest.mark.parametrize(
    "around", [lambda one: [one], lambda one: {"a": (one,)}, lambda one: {one: 1}, lambda one: {one}]
)
def test_containers_of_what_nobody_can_change_are_copied(value, around):
    """R36: a date, a decimal or a member of an enum in a list keeps nobody from copying the list."""
    whole = around(value)
    shown, by_reference = snapshot({"whole": whole})

    assert shown == {"whole": whole}
    assert shown["whole"] is not whole
    assert by_reference == ()


def test_a_later_change_beside_a_date_does_not_show(played):
    """R36: the record of common data stays what it was."""
    when = date(2026, 1, 2)
    run = played(ROWS, {"rows": [{"when": when, "n": 1}]}, {"kept": 0}, capture=SNAPSHOT)
    run.slots[0]["rows"][0]["n"] = 2

    assert run.inputs == [{"rows": [{"when": when, "n": 1}]}]
    assert run.referred(0) == ()


@pytest.mark.parametrize("capture", [SNAPSHOT, capture_of("reference", 64), summarize])
def test_a_record_wraps_what_the_input_model_declares_secret(played, capture):
    """R39: the context holds the bare text, as it was given; a view of it does not."""
    run = played(a_tool("enter", {"key": SecretStr}, {"told": int}), {"key": "hunter2"}, {"told": 1}, capture=capture)

    assert "hunter2" not in repr(run.inputs)
    assert run.slots[0] == {"key": "hunter2"}


@pytest.mark.parametrize(
    "around",
    [
        lambda one: [1, one],
        lambda one: {"a": [one], "b": 2},
        lambda one: (one, [3]),
        lambda one: {one: 1},
        lambda one: {one, 1},
        lambda one: {(1, one): 2},
        lambda one: [frozenset({one})],
    ],
    ids=["list", "dict", "tuple", "key", "set", "part of a key", "frozenset"],
)
def test_a_container_is_copied_around_a_foreign_object(around):
    """R36: what can be copied is; the object inside is the live one, and so the field is named."""
    foreign = Foreign()
    whole = around(foreign)
    shown, by_reference = snapshot({"n": 1, "whole": whole})

    assert shown["whole"] == whole, "foreign objects are equal to themselves only"
    assert shown["whole"] is not whole
    assert by_reference == ("whole",)


def test_a_frozenset_stays_the_object_that_it_is():
    """R36: what nobody can change is not copied, also where it is looked into."""
    held = frozenset({1, (2, 3)})
    shown, by_reference = snapshot({"held": held, "inside": [held]})

    assert shown["held"] is shown["inside"][0] is held
    assert by_reference == ()


@pytest.mark.parametrize("value", [frozenset(range(100)), {tuple(range(100)): 1}, {frozenset(range(100))}])
def test_what_is_too_large_to_be_looked_through_is_named(value):
    """R36: nobody looks through more items than a snapshot may have."""
    shown, by_reference = snapshot({"value": value})

    assert shown["value"] is value
    assert by_reference == ("value",)


def test_containers_that_hold_themselves_are_kept_by_reference():
    """R36: a snapshot of a cycle ends."""
    listed: list[Any] = []
    listed.append(listed)
    mapped: dict[str, Any] = {"a": 1}
    mapped["self"] = mapped
    twice: list[Any] = []
    twice += [twice, twice]

    assert captured(capture_within(10_000), {"listed": listed, "mapped": mapped})[1] == ("listed", "mapped")
    assert snapshot({"twice": twice})[1] == ("twice",)


@pytest.mark.parametrize(("levels", "by_reference"), [(33, ()), (34, ("value",))])
def test_containers_may_be_nested_33_deep(levels, by_reference):
    """R36: a copy never comes near the recursion limit."""
    value: Any = []
    for _ in range(levels - 1):
        value = [value]

    assert snapshot({"value": value})[1] == by_reference


def test_what_breaks_while_it_is_copied_is_kept_by_reference():
    """R17: no value may break a run from within its trace."""
    value = {Refuses(): 1}
    shown, by_reference = snapshot({"value": value, "other": [1]})

    assert shown["value"] is value
    assert by_reference == ("value",)


def test_references_copy_nothing():
    """R36: trace_values="reference"."""
    value = [1]
    shown, by_reference, copied = reference_only()({"n": 1, "value": value}, 7)

    assert copied == 0

    assert shown["value"] is value
    assert by_reference == ("value",)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (7, 7),
        (2.5, 2.5),
        (True, True),
        (None, None),
        ("short", "short"),
        ("x" * 40, "x" * 40),
        ("x" * 41, "str[41]"),
        (b"x" * 50, "bytes[50]"),
        ([1, 2], "list[2]"),
        ({}, "dict[0]"),
        (Table(), "Table[3, 2]"),
        (Foreign(), "Foreign"),
    ],
)
def test_summaries_keep_type_shape_and_size(value, shown):
    """R36: trace_values="summary" holds no object of the run."""
    assert summarize({"value": value}) == ({"value": shown}, (), 0)


def test_a_summary_of_an_object_that_answers_nothing_is_its_class():
    """R17: no value may break a run from within its trace."""
    assert captured(summarize, {"value": Hostile()}) == ({"value": "Hostile"}, ())


# ---- a step


def test_inputs_and_outputs_of_a_step_share_the_budget(played):
    """R36: `trace_copy_limit` items are copied per step, and not per side of it."""
    sixty = list(range(60))
    run = played(ROWS, {"rows": [1, 2, 3]}, {"kept": sixty})
    both = played(ROWS, {"rows": [1, 2, 3, 4, 5]}, {"kept": sixty})

    assert run.referred(0) == ()
    assert both.inputs == [{"rows": [1, 2, 3, 4, 5]}]
    assert both.referred(0) == ("kept",)


def test_of_several_steps_each_has_the_whole_budget():
    """R36: what one step copies is taken from nobody else."""
    tools = [a_tool("first", {"rows": Any}, {"rows": Any}), a_tool("second", {"rows": Any}, {"rows": Any})]
    run = a_run(a_plan([FlowStep(tool_name="first"), FlowStep(tool_name="second")], tools), {"rows": [0] * 30})
    walk = Walk(run)
    walk.ok({"rows": [1] * 30})
    walk.ok({"rows": [2] * 30})

    assert [run.referred(index) for index in (0, 1)] == [(), ()]
    assert run.copied == {}


# ---- summaries


TEXTS = a_tool("texts", {"text": str, "n": int}, {"found": str, "m": int})
LONG = "x" * 100_000


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_a_summary_of_scalars_holds_no_long_text(played, side):
    """R36: text is summed up like any other value, whatever the model; a number is what it is."""
    run = played(TEXTS, {"text": LONG, "n": 3}, {"found": LONG + "y", "m": 4}, capture=summarize)

    assert run.given == {"text": "str[100000]", "n": 3}
    if side == "inputs":
        assert run.inputs == [{"text": "str[100000]", "n": 3}]
    else:
        assert run.shown_outputs(0) == {"found": "str[100001]", "m": 4}
        assert run.slots[1] == {"found": LONG + "y", "m": 4}, "the next step gets the text"


def test_a_snapshot_shows_scalars_as_they_are(played):
    """R36: text cannot change, so that a record needs no copy of it."""
    run = played(TEXTS, {"text": LONG, "n": 3}, {"found": "y", "m": 4})

    assert run.shown is None
    assert run.inputs[0]["text"] is LONG


def test_numbers_are_not_summed_up(played):
    """R36: where there is nothing to sum up, a summary costs nothing."""
    run = played(a_tool("double", {"n": int}, {"m": float}), {"n": 1}, {"m": 2.0}, capture=summarize)

    assert run.given is run.slots[0]
    assert run.inputs == [{"n": 1}]
    assert run.shown is None


def test_a_summary_of_a_renamed_step_is_under_the_names_of_the_tool():
    """R11, R36: the output mapping concerns the context and not the record."""
    plan = one_step(TEXTS, output_mapping={"other": "found"})
    walk = Walk(a_run(plan, {"text": "t", "n": 3}, capture=summarize))
    walk.ok({"found": LONG, "m": 4})

    assert walk.run.shown_outputs(0) == {"found": "str[100000]", "m": 4}
    assert walk.run.final_output is not None
    assert walk.run.final_output["other"] is LONG


def test_items_and_sub_flows_are_summed_up():
    """R36: a nested run keeps no more of its values than the one around it."""
    read = a_tool("read", {"text": str}, {"found": str})
    inner = a_flow("inner", [a_step("read")])
    steps = [
        a_step("each", tool_name="read", map_over="texts", map_as="text", output_mapping={"all": "found"}),
        a_sub_step("sub", "inner", "each"),
    ]
    run = a_run(a_plan(steps, [read], flows=[inner]), {"texts": [LONG], "text": "t"}, capture=summarize)
    walk = Walk(run)
    walk.ok({"found": LONG})
    walk.ok({"found": LONG})
    items, child = (run.details[index].nested for index in (0, 1))

    assert [items.inputs, items.shown, run.shown_outputs(0)] == [
        [{"text": "str[100000]"}],
        [{"found": "str[100000]"}],
        {"found": "list[1]"},
    ]
    assert [child.given, child.shown, run.shown_outputs(1)] == [
        {"text": "t"},
        [{"found": "str[100000]"}],
        {"found": "str[100000]"},
    ]


def test_what_foreign_objects_were_is_told_of_nested_runs_as_well():
    """R27, R36: by whoever inspects for the run around; of both sides of a step, before a summary lets go of them."""

    def inspect(values: dict[str, Any]) -> dict[str, Any]:
        return {name: len(value) for name, value in values.items() if isinstance(value, list)}

    take = a_tool("take", {"kept": list[int]}, {"n": int})
    inner = a_flow("inner", [a_step("x", tool_name="rows"), a_step("y", "x", tool_name="take")])
    plan = a_plan([a_sub_step("sub", "inner")], [ROWS, take], flows=[inner])
    walk = Walk(a_run(plan, {"rows": [1, 2, 3]}, capture=summarize, inspect=inspect))
    walk.ok({"kept": [1, 2]})
    walk.ok({"n": 2})
    nested = walk.run.details[0].nested

    assert nested is not None
    assert nested.objects == {0: {"inputs.rows": 3, "outputs.kept": 2}, 1: {"inputs.kept": 2}}
    assert walk.run.objects[0]["outputs.kept"] == 2


def test_secrets_are_known_although_a_summary_does_not_show_them(played):
    """R39: a long token vanishes from error texts whatever records keep of it."""
    token, other = "t0ken-" * 20, "s3cret" * 20
    login = a_tool("login", {"api_key": str}, {"password": str})
    run: Run = played(
        login, {"api_key": token}, {"password": other}, capture=summarize, rules=Rules(redaction=RedactionPolicy())
    )

    assert run.inputs == [{"api_key": "str[120]"}]
    assert run.secrets == {token, other}


# ---- refused borders


class Wanted(BaseModel):
    missing: int


@pytest.mark.parametrize("side", ["context_schema_ref", "output_schema_ref"])
def test_a_refused_context_is_shown_as_it_was(side):
    """R36: the record of what a schema of the flow refused is one like all others."""
    kept, many = [1], list(range(100))
    plan = one_step(ROWS, flow={side: f"{HERE}:Wanted"})
    walk = Walk(a_run(plan, {"rows": many}))
    walk.ok({"kept": kept})
    kept.append("changed later")

    assert walk.run.status == "failed"
    shown, by_reference, _ = walk.run.refused
    assert shown == {"rows": many, "kept": [1]}
    assert by_reference == ("rows",)
