"""`validation="once"`: what a plan takes as it is, why it validates everything else, and what its tools do then.

Verdicts are read where `explain` reads them; validators are called by hand with good and with bad values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from annotated_types import Ge, Len
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from chainweaver import Chunk, DAGFlowStep, Flow, Native
from chainweaver.compiler.build import Build
from chainweaver.compiler.compose import Composition, finder_of
from chainweaver.compiler.once import Once
from chainweaver.plan import PlannedTool
from tests.compiler.kit import a_chain, a_dag, a_model, a_tool, call, compiled, node, sub

ROWS = {"rows": list[int]}
LOAD = a_tool("load", {}, ROWS)
SAME = a_tool("same", ROWS, ROWS)
READ = a_tool("read", ROWS, ["seen"])


class Given(BaseModel):
    rows: list[int]
    loose: list[int] = ["x"]  # type: ignore[list-item]  # on purpose
    untyped: Any


class Odd(BaseModel):
    """A model that has the last word."""

    rows: list[int]

    @model_validator(mode="after")
    def _check(self) -> Odd:
        return self


class OddBefore(BaseModel):
    """A model that has the first word."""

    rows: list[int]

    @model_validator(mode="before")
    @classmethod
    def _check(cls, given: Any) -> Any:
        return given


INPUT, ODD_INPUT = f"{__name__}:Given", f"{__name__}:Odd"


def once(flow: Any, *tools: Any, flows: Any = ()) -> Once:
    """The verdicts on a flow, which is compiled as one that validates once."""
    built = Build(
        flow.model_copy(update={"validation": "once"}),
        {tool.name: tool for tool in tools},
        "",
        Composition(finder_of(flows)),
    )
    built.result()
    assert built.once is not None
    return built.once


def line(*tools: Any, **options: Any) -> Flow:
    options = {"on_context_collision": "overwrite", **options}
    return a_chain(*(call(tool) if hasattr(tool, "input_schema") else tool for tool in tools), **options)


def reading(takes: Any, **options: Any) -> Any:
    return a_tool("reading", takes, ["seen"], **options)


def refused(flow: Any, *tools: Any, at: int = 1, flows: Any = ()) -> dict[str, str]:
    """Why the fields of a step are validated again; none of them is taken as it is."""
    found = once(flow, *tools, flows=flows)
    assert found.taken[at] == {}
    return found.refused[at]


def planned(flow: Any, *tools: Any, at: int = 1, flows: Any = ()) -> PlannedTool:
    """The tool of a step as it is called in a flow that validates once."""
    tool = compiled(flow.model_copy(update={"validation": "once"}), *tools, flows=flows).plan.steps[at].tool
    assert tool is not None
    return tool


# ---- what is taken as it is


def test_an_output_that_was_validated_is_taken_as_it_is_and_its_writer_is_named():
    """R14: the same type, through a step that hands it on as well as from the one that made it."""
    found = once(line(LOAD, SAME, READ), LOAD, SAME, READ)

    assert found.taken == {0: {}, 1: {"rows": ["0"]}, 2: {"rows": ["1"]}}
    assert found.refused == {0: {}, 1: {}, 2: {}}


def test_what_the_input_schema_has_validated_is_taken_as_it_is():
    """R8, R14: of the input of the flow."""
    assert once(line(READ, input_schema_ref=INPUT), READ).taken == {0: {"rows": ["input"]}}


def test_every_writer_that_may_have_been_the_last_one_is_named():
    """R14: a step that may be skipped leaves what was there before."""
    skipped = call(SAME, on_error="skip")
    assert once(line(LOAD, skipped, READ), LOAD, SAME, READ).taken[2] == {"rows": ["1", "0"]}


def test_renamed_outputs_are_found_under_their_new_names():
    """R11, R14: the context key is mapped to the output that it stands for."""
    flow = a_chain(call(LOAD, output_mapping={"lines": "rows"}), call(READ, {"rows": "lines"}))
    assert once(flow, LOAD, READ).taken[1] == {"rows": ["0"]}


def test_fields_that_nothing_feeds_are_neither_taken_nor_refused():
    """R6: there is nothing to explain of a default."""
    read = reading({"rows": list[int], "limit": (int, 3)})
    flow = a_chain(call(LOAD), call(read, {"rows": "rows"}))
    found = once(flow, LOAD, read)

    assert (found.taken[1], found.refused[1]) == ({"rows": ["0"]}, {})


def test_all_tools_that_a_step_may_call_are_judged_by_what_they_ask_for():
    """R21: a fallback that asks for more validates it, whatever the first tool does; verdicts are of the first."""
    strict = a_tool("strict", {"rows": Annotated[list[int], Len(3)]}, ["seen"])
    flow = line(LOAD, call(READ, on_error="fallback:strict"))
    found = once(flow, LOAD, READ, strict)
    step = compiled(flow.model_copy(update={"validation": "once"}), LOAD, READ, strict).plan.steps[1]
    rows = [1, 2]

    assert (found.taken[1], found.refused[1]) == ({"rows": ["0"]}, {})
    assert step.tool is not None
    assert step.tool.validate_input({"rows": rows}).rows is rows
    assert step.fallback is not None
    with pytest.raises(ValidationError, match="at least 3 items"):
        step.fallback.validate_input({"rows": rows})


def test_a_fallback_takes_as_it_is_what_the_first_tool_validates():
    """R21: the other way round; only what the first one does is told."""
    strict = a_tool("strict", {"rows": Annotated[list[int], Len(3)]}, ["seen"])
    flow = line(LOAD, call(strict, on_error="fallback:read"), validation="once")
    step = compiled(flow, LOAD, READ, strict).plan.steps[1]
    rows = [1, 2]

    assert refused(flow, LOAD, READ, strict) == {"rows": "'rows' of step 'load': 'min_length' is asked for here"}
    assert step.fallback is not None
    assert step.fallback.validate_input({"rows": rows}).rows is rows


def test_the_fallback_of_a_tool_that_is_not_there_is_judged_by_itself():
    """R21: a step without its first tool has a fault, and its verdicts are nobody's."""
    flow = line(LOAD, call("nobody", on_error="fallback:read"))
    found = once(flow, LOAD, READ)

    assert (found.taken[1], found.refused[1]) == ({}, {})


def test_nothing_is_judged_where_every_border_validates():
    """R14: the default."""
    built = Build(line(LOAD, READ), {"load": LOAD, "read": READ}, "", Composition(finder_of(())))
    [_, step] = built.result().plan.steps
    rows = [1, 2]

    assert built.once is None
    assert step.tool is not None
    assert step.tool.validate_input({"rows": rows}).rows == rows
    assert step.tool.validate_input({"rows": rows}).rows is not rows


# ---- what is not: because of the field


class AlwaysChecked(BaseModel):
    model_config = ConfigDict(validate_default=True)
    rows: list[int] = []


WANTED: dict[str, tuple[Any, str]] = {
    "a function of the field": (
        {"rows": Annotated[list[int], AfterValidator(sorted)]},
        "'rows' of step 'load': a function of its own validates it",
    ),
    "a function behind the model": (Odd, "Odd does more than validate its fields"),
    "a function before the model": (OddBefore, "OddBefore does more than validate its fields"),
    "a constraint": (
        {"rows": list[Annotated[int, Ge(0)]]},
        "'rows' of step 'load': 'ge' is asked for here",
    ),
    "another type": (
        {"rows": list[float]},
        "'rows' of step 'load': it was validated as int and float is wanted",
    ),
    "nothing to validate": ({"rows": Native[list]}, "it passes as it is anyway"),
    "a default that is validated": (
        {"rows": (list[int], Field([], validate_default=True))},
        "it validates its default",
    ),
    "defaults that are validated": (AlwaysChecked, "it validates its default"),
    "everything": (a_model("Everything", ROWS, extra="allow"), "Everything takes the whole context"),
}


@pytest.mark.parametrize("name", WANTED)
def test_a_field_that_looks_closer_validates_again_and_says_why(name: str):
    """R14: functions, constraints, other types; and what nothing is saved by."""
    takes, why = WANTED[name]
    read = reading(takes)
    assert refused(line(LOAD, read), LOAD, read) == {"rows": why}


@pytest.mark.parametrize(
    "source",
    ["/rows/0", {"$template": "${rows}!"}, {"$key": "rows", "$default": []}],
    ids=["a part", "a text", "a default"],
)
def test_a_part_of_a_value_was_not_validated_by_itself(source: Any):
    """R6, R14: nor was a text that is made of it, or the default of a mapping."""
    takes_any = a_tool("reading", {"rows": list[int] | int | str}, ["seen"])
    flow = a_chain(call(LOAD), call(takes_any, {"rows": source}))
    assert refused(flow, LOAD, takes_any) == {"rows": "it takes a part of a value, a text made of it, or a default"}


def test_a_tool_that_changes_a_value_gets_one_of_its_own():
    """R14: as it does where every border validates."""
    change = reading(ROWS, mutates=["rows"])
    assert refused(line(LOAD, change), LOAD, change) == {"rows": "its tool changes it in place"}


def test_another_tool_of_the_step_may_look_for_the_value_under_another_name():
    """R21: what is read is laid under the names of the first tool."""
    other = a_tool("other", a_model("Other", {"rows": (list[int], Field(alias="lines"))}), ["seen"])
    flow = line(LOAD, call(READ, on_error="fallback:other"), validation="once")
    step = compiled(flow, LOAD, READ, other).plan.steps[1]
    rows = [1]

    assert step.fallback is not None
    assert step.fallback.validate_input({"lines": rows}).rows is not rows


def test_the_items_of_a_map_and_chunks_are_other_objects_than_what_was_validated():
    """R28, R14: a list was validated, not its items; a chunk is a value of its own."""
    each = a_tool("each", {"item": int, "rows": list[int]}, ["n"])
    mapped = call(each, map_over="rows", map_as="item")
    cut = call(READ, chunk=Chunk(input="rows", rows=2))

    assert refused(a_chain(call(LOAD), mapped), LOAD, each) == {
        "rows": "it runs once per item, and the items of a list were not validated one by one"
    }
    assert refused(a_chain(call(LOAD), cut), LOAD, READ) == {
        "rows": "its tool is called with chunks, which are objects of their own"
    }


def test_sub_flows_and_capabilities_are_given_what_they_validate_themselves():
    """R27, R14: nothing is taken and nothing refused."""
    inner = a_chain(call(READ)).model_copy(update={"name": "inner"})
    asks = DAGFlowStep(step_id="ask", step_type="capability", capability_id="people", depends_on=["l"])
    flow = a_dag(node("l", LOAD), DAGFlowStep(step_id="sub", flow_name="inner", depends_on=["l"]), asks)
    found = once(flow, LOAD, READ, flows=[inner])

    assert (found.taken, found.refused) == ({0: {}, 1: {}, 2: {}}, {0: {}, 1: {}, 2: {}})


def test_a_model_that_validates_defaults_may_take_what_it_always_is_given():
    """R14: a required field has no default."""
    read = reading(a_model("Required", ROWS, validate_default=True))
    assert once(line(LOAD, read), LOAD, read).taken[1] == {"rows": ["0"]}


# ---- what is not: because of where the value comes from


def test_what_comes_from_outside_is_validated_unless_a_schema_names_it():
    """R8, R14: with its own validators, without its defaults, and only where it looks into the value."""
    without = "'rows' comes from outside, and the flow has no input schema"
    assert refused(line(READ), READ, at=0) == {"rows": without}
    assert refused(line(READ, input_schema_ref=ODD_INPUT), READ, at=0) == {
        "rows": "'rows' of the input: Odd does more than validate its fields"
    }
    for key, why in {
        "lines": "'lines' comes from outside, and Given does not name it",
        "loose": "'loose' of the input: it may be a default, which nothing validates",
        "untyped": "'untyped' of the input: nothing looks into it there",
    }.items():
        assert refused(a_chain(call(READ, {"rows": key}), input_schema_ref=INPUT), READ, at=0) == {"rows": why}


def test_a_dynamic_parameter_is_validated_wherever_it_goes():
    """R13, R14: no schema of the flow has seen it."""
    assert refused(line(READ, dynamic_params=["rows"]), READ, at=0) == {
        "rows": "'rows' is a dynamic parameter, which nothing has validated"
    }


def test_what_a_map_or_chunks_were_put_together_to_was_validated_piece_by_piece():
    """R28, R14: the list itself was not."""
    item = a_tool("item", {"item": int}, {"rows": int})
    mapped = call(item, map_over="items", map_as="item")
    cut = call(a_tool("cut", {"data": Any}, {"rows": int}), chunk=Chunk(input="data", rows=2))

    assert refused(a_chain(mapped, call(READ)), item, READ) == {
        "rows": "'rows' of step 'item': the lists of a map are put together of what was validated item by item"
    }
    assert refused(a_chain(cut, call(READ)), a_tool("cut", {"data": Any}, {"rows": int}), READ) == {
        "rows": "'rows' of step 'cut': it is put together of what was validated chunk by chunk"
    }


@pytest.mark.parametrize("kind", ["sub-flow", "capability", "missing tool"])
def test_what_comes_out_of_others_was_validated_inside_if_at_all(kind: str):
    """R27, R14: a sub-flow, a capability, a tool that nobody has registered."""
    first = {
        "sub-flow": DAGFlowStep(step_id="first", flow_name="inner"),
        "capability": DAGFlowStep(step_id="first", step_type="capability", capability_id="people"),
        "missing tool": DAGFlowStep(step_id="first", tool_name="nobody", output_mapping={"rows": "rows"}),
    }[kind]
    inner = a_chain(call(LOAD)).model_copy(update={"name": "inner"})
    told = "'rows' of step 'first': what comes out of a sub-flow or a capability was validated inside, if at all"
    assert refused(a_dag(first, node("r", READ, "first")), LOAD, READ, flows=[inner]) == {"rows": told}


class Twice(BaseModel):
    """A model with a computed field: what it gives is more than what it has validated."""

    rows: list[int]

    def model_post_init(self, context: Any) -> None:
        self.rows.append(0)


class NotLooking(BaseModel):
    rows: Any


class LooseRows(BaseModel):
    rows: list[int] = ["x"]  # type: ignore[list-item]  # on purpose


class MadeRows(BaseModel):
    rows: list[int] = Field(default_factory=list)


class OtherDefault(BaseModel):
    rows: list[int] = (1, 2)  # type: ignore[assignment]  # on purpose


GIVEN: dict[str, tuple[Any, str]] = {
    "an open model": (a_model("Open", {"other": int}, extra="allow"), "tool 'giving' does not declare it"),
    "a model that changes what it has validated": (Twice, "Twice does more than validate its fields"),
    "a field of any type": (NotLooking, "nothing looks into it there"),
    "a wrong default": (LooseRows, "it may be a default, which nothing validates"),
    "a default that is made": (MadeRows, "it may be a default, which nothing validates"),
    "a default of another type": (OtherDefault, "it may be a default, which nothing validates"),
}


@pytest.mark.parametrize("name", GIVEN)
def test_an_output_that_proves_nothing_is_validated_by_its_reader(name: str):
    """R10, R14: with the reason."""
    gives, why = GIVEN[name]
    giving = a_tool("giving", {}, gives)
    assert refused(line(giving, READ), giving, READ) == {"rows": f"'rows' of step 'giving': {why}"}


def test_a_sound_default_is_as_good_as_a_value():
    """R14: it would come out of validation as it went in; and a field that validates its default says so itself."""
    for default in ((list[int], []), (list[int], Field(["1"], validate_default=True))):
        giving = a_tool("giving", {}, {"rows": default})
        assert once(line(giving, READ), giving, READ).taken[1] == {"rows": ["0"]}


def test_a_default_is_sound_if_validation_gives_the_very_same():
    """R14: a text that would become a number is none, and neither is a truth value that would."""
    for default, name, kind in ((["1"], "rows", list[int]), (True, "n", int), (1, "n", int)):
        giving = a_tool("giving", {}, {name: (kind, default)})
        read = reading({name: kind})
        is_sound = default == 1 and default is not True
        assert once(line(giving, read), giving, read).taken[1] == ({name: ["0"]} if is_sound else {})


def test_an_output_that_is_mapped_and_not_declared_is_no_proof():
    """R11, R14: the step will fail, and the reader need not trust it."""
    flow = a_chain(call(LOAD, output_mapping={"rows": "lines"}), call(READ))
    assert refused(flow, LOAD, READ) == {"rows": "'rows' of step 'load': tool 'load' does not declare it"}


def test_a_tool_that_never_writes_the_key_says_nothing_about_it():
    """R21, R14: a fallback without the output leaves what was there before."""
    silent = a_tool("silent", {}, ["other"])
    flow = line(call(LOAD, on_error="fallback:silent"), READ, input_schema_ref=INPUT)
    assert once(flow, LOAD, READ, silent).taken[1] == {"rows": ["0", "input"]}


def test_every_tool_that_may_have_written_a_value_counts():
    """R21, R14: one that gives another type is a reason to look."""
    texts = a_tool("texts", {}, {"rows": list[str]})
    flow = line(call(LOAD, on_error="fallback:texts"), READ)
    assert refused(flow, LOAD, READ, texts) == {
        "rows": "'rows' of step 'load': it was validated as str and int is wanted"
    }


# ---- what is not: because it may have been changed


def test_a_declared_change_between_the_two_ends_the_proof():
    """R14: what was read before it is not concerned."""
    spoil = a_tool("spoil", {"rows": Native[list]}, ["n"], mutates=["rows"])
    found = once(line(LOAD, READ, spoil, READ), LOAD, READ, spoil)

    assert found.taken[1] == {"rows": ["0"]}
    assert found.refused[3] == {"rows": "step 'spoil' may have changed 'rows' in place"}


def test_a_change_of_the_input_ends_its_proof_for_those_who_come_later():
    """R14: whoever came before has what was validated."""
    spoil = a_tool("spoil", {"rows": Native[list]}, ["n"], mutates=["rows"])
    found = once(line(READ, spoil, READ, input_schema_ref=INPUT), READ, spoil)

    assert found.taken[0] == {"rows": ["input"]}
    assert found.refused[2] == {"rows": "step 'spoil' may have changed 'rows' in place"}


def test_a_change_of_something_else_is_none():
    """R14: beside, and also for what is handed back."""
    spoil = a_tool("spoil", {"other": Native[list]}, ["n"], mutates=["other"])
    other = a_tool("other", {}, {"other": Native[list]})
    same = node("same", SAME, "l", output_mapping={"again": "rows"})
    flow = a_dag(node("l", LOAD), node("o", other), same, node("s", spoil, "o"))

    assert once(flow, LOAD, SAME, spoil, other).taken[2] == {"rows": ["l"]}
    assert planned(flow, LOAD, SAME, spoil, other, at=2).hand_back is not None


def test_a_change_of_what_a_value_may_be_a_part_of_ends_the_proof():
    """R14: a tool may give what it was given, under another name; not so where it gives numbers."""
    hand = a_tool("hand", ROWS, {"copied": list[int]})
    count = a_tool("count", ROWS, {"copied": int})
    spoil = a_tool("spoil", ROWS, ["n"], mutates=["rows"])
    reads, counts = reading({"copied": list[int]}), reading({"copied": int})

    assert refused(line(LOAD, hand, spoil, reads), LOAD, hand, spoil, reads, at=3) == {
        "copied": "step 'spoil' may have changed 'copied' in place"
    }
    assert once(line(LOAD, count, spoil, counts), LOAD, count, spoil, counts).taken[3] == {"copied": ["1"]}


def test_a_change_inside_a_sub_flow_ends_the_proof():
    """R27, R14: under whatever name it is changed there."""
    spoil = a_tool("spoil", {"other": Native[list]}, ["n"], mutates=["other"])
    rename = a_tool("rename", {"rows": Native[list]}, {"other": Native[list]})
    inner = a_chain(call(rename), call(spoil)).model_copy(update={"name": "inner"})
    harmless = a_chain(call(READ)).model_copy(update={"name": "inner"})
    flow = a_chain(call(LOAD), sub("inner"), call(READ))

    assert refused(flow, LOAD, READ, spoil, rename, at=2, flows=[inner]) == {
        "rows": "step 'inner' may have changed 'rows' in place"
    }
    assert once(flow, LOAD, READ, flows=[harmless]).taken[2] == {"rows": ["0"]}


def test_a_change_at_the_same_time_ends_the_proof_too():
    """R3, R14: nobody knows which of the two comes first."""
    spoil = a_tool("spoil", {"rows": Native[list]}, ["n"], mutates=["rows"])
    flow = a_dag(node("l", LOAD), node("s", spoil, "l"), node("r", READ, "l"))
    found = once(flow, LOAD, spoil, READ)

    assert found.refused[2] == {"rows": "step 's' may have changed 'rows' in place"}


# ---- what tools do then: inputs


def test_what_is_proven_is_not_looked_at_and_everything_else_is():
    """R14: some fields of a model are taken as they are; the others are validated, converted and refused as ever."""
    read = reading({"rows": list[int], "factor": int})
    tool = planned(line(LOAD, read), LOAD, read)
    rows: Any = ["not", "looked", "at"]
    made = tool.validate_input({"rows": rows, "factor": "3"})

    assert type(made) is read.input_schema
    assert made.rows is rows
    assert made.factor == 3
    with pytest.raises(ValidationError, match=r"factor\n.*valid integer"):
        tool.validate_input({"rows": rows, "factor": "x"})
    with pytest.raises(ValidationError, match=r"rows\n.*Field required"):
        tool.validate_input({"factor": 3})


def test_steps_that_take_the_same_share_one_validator():
    """R14: it is made once per model and set of fields."""
    plan = compiled(line(LOAD, READ, READ, validation="once"), LOAD, READ).plan
    one, other = (step.tool for step in plan.steps[1:])

    assert one is not None
    assert other is not None
    assert one.validate_input is other.validate_input


def test_a_rehearsal_takes_what_the_tool_takes():
    """R26: a dry run goes through the same gates."""
    read = reading(ROWS, dry_run_fn=lambda given: {"seen": 0})
    tool = planned(line(LOAD, read), LOAD, read)
    rows = [1]

    assert tool.dry is not None
    assert tool.dry.fn is read.dry_run_fn
    assert tool.dry.validate_input({"rows": rows}).rows is rows


def test_a_tool_of_which_nothing_is_proven_stays_what_it_is():
    """R14: in such a flow as in any other."""
    flow = line(READ)
    tool, other = planned(flow, READ, at=0), compiled(flow, READ).plan.steps[0].tool

    assert other is not None
    assert tool.validate_input == other.validate_input
    assert tool.hand_back is other.hand_back is None


# ---- what tools do then: outputs


def opened(tool: PlannedTool, raw: Any) -> dict[str, Any]:
    """What a tool that gives nothing back gives, as the core asks for it."""
    assert tool.hand_back is None
    return tool.open_output(tool.validate_output(raw))


def test_an_instance_that_a_tool_has_made_itself_is_looked_into_once():
    """R10, R14: pydantic lets it pass; fields that others take as they are, are validated, and the others are not."""
    load = a_tool("load", {}, {"rows": list[int], "names": list[str]})
    tool = planned(line(load, READ), load, READ, at=0)
    made: Any = load.output_schema
    good, loose, bad = made(rows=[1], names=["a"]), made(rows=[1], names=["a"]), made(rows=[1], names=["a"])
    loose.names.append(3)
    bad.rows.append("x")

    assert opened(tool, good) == {"rows": [1], "names": ["a"]}
    assert opened(tool, loose) == {"rows": [1], "names": ["a", 3]}
    with pytest.raises(ValidationError, match=r"rows\.1\n.*valid integer"):
        opened(tool, bad)
    assert opened(tool, made.model_construct(rows=["7"], names=[])) == {"rows": [7], "names": []}


def handing(tool: Any = SAME, *after: Any) -> tuple[PlannedTool, Any]:
    """A tool that is given what was validated, as it is called, and its input with a list that nobody looks into."""
    flow = line(LOAD, tool, *after)
    found = planned(flow, LOAD, tool, *after)
    return found, found.validate_input({"rows": ["not looked at"]})


def handed_back(tool: PlannedTool, raw: Any, given: Any) -> tuple[Any, dict[str, Any]]:
    assert tool.hand_back is not None
    return tool.hand_back(raw, given)


def test_what_a_tool_was_given_and_gives_back_is_not_looked_at_again():
    """R10, R14: the very object; an equal one is another."""
    tool, given = handing()
    model, fields = handed_back(tool, {"rows": given.rows}, given)

    assert type(model) is SAME.output_schema
    assert fields["rows"] is given.rows
    with pytest.raises(ValidationError, match=r"rows\.0\n.*valid integer"):
        handed_back(tool, {"rows": list(given.rows)}, given)
    assert handed_back(tool, {"rows": ["1", 2]}, given)[1] == {"rows": [1, 2]}
    with pytest.raises(ValidationError, match="Field required"):
        handed_back(tool, {}, given)


def test_the_other_outputs_are_validated_beside_what_is_handed_back():
    """R10: with the same validator the second time."""
    tool, given = handing(a_tool("same", ROWS, {"rows": list[int], "n": int}))
    for _ in range(2):
        assert handed_back(tool, {"rows": given.rows, "n": "3"}, given)[1] == {"rows": given.rows, "n": 3}
        with pytest.raises(ValidationError, match=r"n\n.*valid integer"):
            handed_back(tool, {"rows": given.rows, "n": "x"}, given)


def test_an_instance_may_hand_back_as_well():
    """R10, R14: what others take is validated unless it was given; where nobody takes it, an instance passes."""
    tool, given = handing(SAME, READ)
    made: Any = SAME.output_schema
    same, wrong = made.model_construct(rows=given.rows), made.model_construct(rows=["x"])

    assert handed_back(tool, same, given)[1]["rows"] is given.rows
    with pytest.raises(ValidationError, match=r"rows\.0\n.*valid integer"):
        handed_back(tool, wrong, given)
    last, given = handing(SAME)
    assert handed_back(last, wrong, given)[1] == {"rows": ["x"]}


def test_outputs_that_nothing_was_given_for_are_validated_in_an_instance():
    """R14: the one that is handed back passes, the other one is looked into."""
    both = a_tool("same", ROWS, {"rows": list[int], "names": list[str]})
    reads = reading({"rows": list[int], "names": list[str]})
    tool, given = handing(both, reads)
    made: Any = both.output_schema.model_construct

    assert handed_back(tool, made(rows=given.rows, names=["a"]), given)[1] == {"rows": given.rows, "names": ["a"]}
    with pytest.raises(ValidationError, match=r"names\.0\n.*valid string"):
        handed_back(tool, made(rows=given.rows, names=[3]), given)


def test_an_instance_of_another_class_is_taken_by_its_fields():
    """R10: as it is where every border validates."""
    tool, given = handing()
    other: Any = a_model("Other", {"rows": Any})

    assert handed_back(tool, other(rows=given.rows), given)[1]["rows"] is given.rows
    with pytest.raises(ValidationError, match=r"rows\.0\n.*valid integer"):
        handed_back(tool, other(rows=["x"]), given)


def test_an_object_may_come_back_under_another_name():
    """R14: what counts is as what it was validated."""
    turn = a_tool("turn", {"rows": list[int], "lines": list[int]}, {"left": list[int], "right": list[str]})
    flow = line(LOAD, turn)
    tool = planned(flow, LOAD, turn)
    given = tool.validate_input({"rows": ["unseen"], "lines": [1]})

    assert handed_back(tool, {"left": given.rows, "right": ["a"]}, given)[1]["left"] is given.rows
    assert handed_back(tool, {"left": given.lines, "right": ["a"]}, given)[1]["left"] is given.lines
    with pytest.raises(ValidationError, match=r"right\.0\n.*valid string"):
        handed_back(tool, {"left": [1], "right": given.lines}, given)


NEVER: dict[str, Callable[[], tuple[Any, ...]]] = {
    "it changes its input": lambda: (a_tool("same", ROWS, ROWS, mutates=["rows"]),),
    "its output reads attributes": lambda: (a_tool("same", ROWS, a_model("Read", ROWS, from_attributes=True)),),
    "its input has a validator": lambda: (a_tool("same", Odd, ROWS),),
    "its output has a validator": lambda: (a_tool("same", ROWS, Odd),),
    "its output is of numbers": lambda: (a_tool("same", {"n": int}, {"n": int}),),
    "its output has an alias": lambda: (
        a_tool("same", ROWS, a_model("Named", {"rows": (list[int], Field(validation_alias="lines"))})),
    ),
    "its output passes anyway": lambda: (a_tool("same", ROWS, {"rows": Native[list]}),),
    "its types differ": lambda: (a_tool("same", ROWS, {"rows": list[str]}),),
    "its input may be a wrong default": lambda: (a_tool("same", {"rows": (list[int], ["x"])}, ROWS),),
    "nothing is known of its type": lambda: (
        a_tool("same", {"rows": Annotated[Any, AfterValidator(list)]}, {"rows": Annotated[Any, AfterValidator(list)]}),
    ),
}


@pytest.mark.parametrize("name", NEVER)
def test_where_nothing_would_be_saved_or_proven_every_output_is_validated(name: str):
    """R10: as where every border validates."""
    [same] = NEVER[name]()
    flow = a_chain(call(same), on_context_collision="overwrite")
    assert planned(flow, same, at=0).hand_back is None


def test_what_somebody_may_change_meanwhile_is_validated_when_it_is_given_back():
    """R3, R14: a step that no path connects with this one changes the same object."""
    spoil = a_tool("spoil", {"rows": Native[list]}, ["n"], mutates=["rows"])
    same = node("same", SAME, "l", output_mapping={"again": "rows"})
    beside = a_dag(node("l", LOAD), same, node("s", spoil, "l"))
    behind = a_dag(node("l", LOAD), same, node("s", spoil, "same"))

    assert planned(beside, LOAD, SAME, spoil).hand_back is None
    assert planned(behind, LOAD, SAME, spoil).hand_back is not None


def test_maps_and_sub_flows_hand_nothing_back():
    """R27, R28: an item is called many times, a sub-flow validates inside."""
    mapped = call(a_tool("each", {"rows": list[int], "n": int}, ROWS), map_over="ns", map_as="n")
    inner = a_chain(call(SAME), on_context_collision="overwrite").model_copy(update={"name": "inner"})
    each = a_tool("each", {"rows": list[int], "n": int}, ROWS)
    in_map = compiled(a_chain(call(LOAD), mapped, validation="once"), LOAD, each).plan.steps[1]

    assert in_map.each is not None
    assert in_map.each.step.tool is not None
    assert in_map.each.step.tool.hand_back is None
    assert planned(a_chain(call(LOAD), sub("inner")), LOAD, SAME, flows=[inner]).hand_back is None
