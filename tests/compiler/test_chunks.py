"""Chunked steps as the compiler sees them: what they give, what is wrong with them, and how they are planned."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from chainweaver import Chunk, DAGFlowStep, FlowStep, ToolSafetyContract
from chainweaver.exceptions import SchemaValidationError
from chainweaver.plan import ASIDE, PlannedChunks, PlannedStep, PlannedTool
from tests.compiler.kit import a_chain, a_dag, a_model, a_tool, call, compiled, detail, found, inputs, node, warned

TOTAL = a_tool("total", {"data": list[int]}, ["total"])
LARGEST = a_tool("largest", {"total": list[int]}, ["biggest"])


class Open(BaseModel):
    """Takes whatever comes."""

    model_config = ConfigDict(extra="allow")


def cut(
    tool: Any = TOTAL, mapping: Any = None, *, combine: str = "list", key: str = "data", **options: Any
) -> FlowStep:
    return call(tool, mapping, chunk=Chunk(input=key, rows=2, combine=combine), **options)


def step_of(*tools: Any, **options: Any) -> PlannedStep:
    """The planned step of a flow of a single chunked one, of which nothing is wrong."""
    result = compiled(a_chain(cut(tools[0], **options)), *tools)
    assert result.errors == ()
    return result.plan.steps[0]


def chunks_of(*tools: Any, **options: Any) -> PlannedChunks:
    chunks = step_of(*tools, **options).chunks
    assert chunks is not None
    return chunks


def tool_of(*tools: Any, **options: Any) -> PlannedTool:
    tool = step_of(*tools, **options).tool
    assert tool is not None
    return tool


# ---- what is cut


def test_a_chunked_step_is_planned_with_how_its_input_is_cut():
    """R28: the key under which it is given, and one pass over a value."""
    chunks = chunks_of(TOTAL)
    pieces = chunks.pieces([1, 2, 3])

    assert chunks.key == "data"
    assert chunks.merge is None
    assert [pieces.following(None), pieces.following({"total": 3})] == [[1, 2], [3]]
    assert pieces.following({"total": 3}) is chunks.end
    assert pieces.combined() == {"total": [3, 3]}


def test_a_step_without_chunks_is_planned_without():
    """R28: there is nothing to cut."""
    assert compiled(a_chain(call(TOTAL)), TOTAL).plan.steps[0].chunks is None


@pytest.mark.parametrize(("combine", "expected"), [("list", [[1], [2]]), ("concat", [1, 2])])
def test_outputs_are_combined_as_the_step_says(combine: str, expected: Any):
    """R28: in the order of the chunks."""
    lists = a_tool("lists", {"data": list[int]}, {"rows": list[int]})
    pieces = chunks_of(lists, combine=combine).pieces([1, 2, 3])
    for outputs in (None, {"rows": [1]}, {"rows": [2]}):
        pieces.following(outputs)

    assert pieces.combined() == {"rows": expected}


def test_what_is_given_under_an_alias_is_cut_there():
    """R6: the name of the field or its alias; what is read lies under the alias."""
    named = a_tool("named", a_model("Named", {"data": (list[int], Field(alias="rows"))}), ["n"])
    for mapping in ({"rows": "given"}, None):
        step = cut(named, mapping, key="rows")
        result = compiled(a_chain(step), named)
        assert result.errors == ()
        chunks = result.plan.steps[0].chunks
        assert chunks is not None
        assert chunks.key == "rows"
    assert inputs(compiled(a_chain(cut(named, {"rows": "given"}, key="rows")), named), 0, {"given": [1]}) == {
        "rows": [1]
    }


def test_an_input_that_is_named_by_its_field_is_cut_where_it_is_read():
    """R6: the name of the field leads to the alias."""
    named = a_tool("named", a_model("Named", {"data": (list[int], Field(alias="rows"))}), ["n"])
    assert chunks_of(named).key == "rows"


def test_a_fallback_may_take_chunks_of_another_type():
    """R21, R28: what is cut is nothing that either of them has to take; other inputs are held against both."""
    frames = a_tool("frames", {"data": dict[str, int]}, ["total"])
    load = a_tool("load", {}, {"data": list[int]})
    flow = a_chain(call(load), cut(on_error="fallback:frames"))
    uncut = a_chain(call(load), call(TOTAL, on_error="fallback:frames"))

    assert found(compiled(flow, TOTAL, frames, load)) == []
    assert found(compiled(uncut, TOTAL, frames, load)) == [(1, "fallback_type_mismatch", "data")]


def test_a_tool_that_takes_anything_may_have_anything_cut():
    """R28: an input that its model does not name."""
    anything = a_tool("anything", Open, ["n"])
    result = compiled(a_chain(cut(anything, {"rows": "given"}, key="rows")), anything)
    whole = compiled(a_chain(cut(anything, key="rows")), anything)

    named = a_tool("named", a_model("Named", {"rows": list[int]}, extra="allow"), ["n"])
    assert (result.errors, whole.errors) == ((), ())
    assert compiled(a_chain(cut(named, key="rows")), named).errors == ()
    assert [one.plan.steps[0].chunks.key for one in (result, whole)] == ["rows", "rows"]  # type: ignore[union-attr]


def test_what_is_cut_need_not_be_of_the_type_of_a_chunk():
    """R28: the path of a parquet file may feed a field for tables; all other inputs are held against their types."""
    path = a_tool("path", {}, {"found": str, "many": list[str]})
    two = a_tool("two", {"data": list[int], "factor": int}, ["n"])
    good = a_chain(call(path), cut(TOTAL, {"data": "found"}))
    bad = a_chain(call(path), cut(two, {"data": "found", "factor": "many"}))
    uncut = a_chain(call(path), call(TOTAL, {"data": "found"}))

    assert compiled(good, path, TOTAL).errors == ()
    assert found(compiled(bad, path, two)) == [(1, "type_mismatch", "factor")]
    assert found(compiled(uncut, path, TOTAL)) == [(1, "type_mismatch", "data")]


def test_reading_is_done_by_what_stands_for_the_tool():
    """R28: beside the tools, and without their policies; it calls what it is given."""
    safety = ToolSafetyContract(requires_approval=True)
    tool = a_tool("total", {"data": list[int]}, ["total"], timeout_seconds=2.0, safety=safety, lane="process")
    performer = chunks_of(tool).perform

    assert performer.fn(lambda: 7) == 7
    assert (performer.lane, performer.inline, performer.is_async) == (ASIDE, False, False)
    assert (performer.timeout_s, performer.safety, performer.dry, performer.stream) == (None, None, None, None)
    assert (performer.wants_context, performer.cacheable) == (False, False)


# ---- what a step gives


def gives(*tools: Any, **options: Any) -> Any:
    """The model of what a chunked step gives."""
    return tool_of(*tools, **options).output_model


def test_every_output_becomes_a_list_of_itself():
    """R28: to records, stores and later steps."""
    model = gives(a_tool("both", {"data": list[int]}, {"n": int, "names": list[str]}))

    made = model(n=["1", 2], names=[["a"]])
    assert (made.n, made.names) == ([1, 2], [["a"]])
    with pytest.raises(ValidationError, match=r"n\.0\n.*valid integer"):
        model(n=["x"], names=[])


class Foreign:
    """A class that pydantic knows nothing of."""


def test_outputs_of_any_class_are_kept_in_lists():
    """R28: their class is all that is looked at."""
    one = Foreign()
    model = gives(
        a_tool("foreign", {"data": list[int]}, a_model("Made", {"it": Foreign}, arbitrary_types_allowed=True))
    )

    assert model(it=[one]).it == [one]
    with pytest.raises(ValidationError, match="instance of Foreign"):
        model(it=[3])


@pytest.mark.parametrize("combine", ["sum", "concat"])
def test_outputs_that_are_added_or_joined_stay_of_their_types(combine: str):
    """R28: a sum of numbers is one."""
    tool = a_tool("tool", {"data": list[int]}, {"rows": list[int]})
    assert gives(tool, combine=combine) is tool.output_schema


def test_what_a_tool_makes_of_the_lists_is_what_the_step_gives():
    """R28: the outputs of the tool that combines."""
    assert gives(TOTAL, LARGEST, combine="largest") is LARGEST.output_schema


def test_an_open_model_stays_open_in_lists():
    """R11, R28: a step gives more than it declares, if its tool does."""
    tool = a_tool("tool", {"data": list[int]}, a_model("Some", ["n"], extra="allow"))
    later = a_tool("later", {"other": str}, ["m"])
    assert compiled(a_chain(cut(tool), call(later)), tool, later).errors == ()
    assert gives(tool)(n=[1], other=[2]).model_extra == {"other": [2]}
    assert gives(TOTAL)(total=[1], other=[2]).model_extra is None


def test_later_steps_are_held_against_the_lists():
    """R7, R28: a list of an output is a list to the compiler."""
    number = a_tool("number", {"total": int}, ["n"])
    flow = a_chain(cut(), call(LARGEST), call(number))

    assert found(compiled(flow, TOTAL, LARGEST, number)) == [(2, "type_mismatch", "total")]
    summed = a_chain(cut(combine="sum"), call(number))
    assert compiled(summed, TOTAL, number).errors == ()
    merged = a_chain(cut(combine="largest"), call(a_tool("big", {"biggest": int}, ["n"])))
    assert compiled(merged, TOTAL, LARGEST, a_tool("big", {"biggest": int}, ["n"])).errors == ()


def test_outputs_of_a_chunked_step_are_mapped_by_the_names_of_what_it_gives():
    """R11: those of the tool, or of the one that combines."""
    good = a_chain(cut(combine="largest", output_mapping={"most": "biggest"}))
    bad = a_chain(cut(combine="largest", output_mapping={"most": "total"}))

    assert compiled(good, TOTAL, LARGEST).errors == ()
    assert found(compiled(bad, TOTAL, LARGEST)) == [(0, "unknown_output_key", "most")]


def test_every_tool_that_the_step_may_call_is_called_with_chunks():
    """R21, R26: the fallback and the candidates give lists as well; a tool that is not there gives nothing."""
    other = a_tool("other", {"data": list[int]}, ["total"])
    flow = a_chain(cut(on_error="fallback:other", decision_candidates=["other", "nobody"]))
    step = compiled(flow, TOTAL, other).plan.steps[0]

    assert step.fallback is not None
    assert step.fallback.output_model.model_fields["total"].annotation == list[int]
    assert step.candidates["other"].output_model.model_fields["total"].annotation == list[int]
    assert list(step.candidates) == ["other"]


def test_a_tool_that_is_not_there_is_one_finding():
    """R16: nothing else is said about its chunks, whatever combines them; a fallback is cut all the same."""
    for combine in ("list", "sum", "largest"):
        missing = compiled(a_chain(cut("nobody", combine=combine)), LARGEST)
        assert [issue for _, issue, _ in found(missing)] == ["missing_tool"]
        assert missing.plan.steps[0].chunks is None
    step = compiled(a_chain(cut("nobody", on_error="fallback:total")), TOTAL).plan.steps[0]

    assert step.fallback is not None
    assert step.fallback.output_model.model_fields["total"].annotation == list[int]


# ---- the tools of the plan


def test_a_tool_is_planned_by_what_the_step_gives_and_called_by_what_it_gives_itself():
    """R10, R36: one call gives a number, the step a list, which records have to copy."""
    tool, uncut = tool_of(a_tool("n", {"data": int}, ["n"])), compiled(a_chain(call(TOTAL)), TOTAL).plan.steps[0].tool

    assert tool.validate_output({"n": "7"}).n == 7
    assert (tool.scalar_inputs, tool.scalar_outputs, tool.number_inputs, tool.number_outputs) == (False,) * 4
    assert uncut is not None
    assert (uncut.scalar_outputs, uncut.number_outputs) == (True, True)


def test_a_rehearsal_is_called_with_chunks_as_well():
    """R26: it gives what the tool would have given."""
    dry = tool_of(a_tool("total", {"data": list[int]}, ["total"], dry_run_fn=lambda given: {"total": 0})).dry

    assert dry is not None
    assert dry.fn(None) == {"total": 0}
    assert dry.output_model.model_fields["total"].annotation == list[int]
    assert (dry.scalar_outputs, dry.number_outputs) == (False, False)


def test_secrets_are_those_that_leave_the_step():
    """R39: of a tool that combines, only those that it hands on."""
    tool = a_tool("tool", {"data": list[int]}, {"key": SecretStr, "n": int})
    hides = a_tool("hides", {"n": list[int]}, ["m"])
    shows = a_tool("shows", {"key": list[SecretStr]}, {"key": list[SecretStr]})

    assert tool_of(tool).secret_outputs == ("key",)
    assert tool_of(tool, hides, combine="hides").secret_outputs == ()
    assert tool_of(tool, shows, combine="shows").secret_outputs == ("key",)


def test_the_tool_that_combines_is_planned_like_any_other():
    """R28: with its own gates and limits, for one call."""
    careful = a_tool("largest", {"total": list[int]}, ["biggest"], timeout_seconds=2.0)
    merge = chunks_of(TOTAL, careful, combine="largest").merge

    assert merge is not None
    assert (merge.name, merge.timeout_s) == ("largest", 2.0)
    assert merge.validate_input({"total": ["1"]}).total == [1]


def test_outputs_that_the_tool_that_combines_takes_pass_as_a_list():
    """R28: they are kept in lists until then, whatever it makes of them."""
    pieces = chunks_of(TOTAL, LARGEST, combine="largest").pieces([1])
    pieces.following(None)
    pieces.following({"total": 3})

    assert pieces.combined() == {"total": [3]}


# ---- what may be wrong


WRONG: dict[str, tuple[Any, tuple[Any, ...], str, str]] = {
    "no such input": (
        cut(key="dat"),
        (TOTAL,),
        "unknown_chunk_input",
        "tool 'total' has no input 'dat' to cut; did you mean 'data'? its fields are data",
    ),
    "an input without rows": (
        cut(a_tool("two", {"data": list[int], "n": int}, ["m"]), {"data": "data", "n": 7}, key="n"),
        (a_tool("two", {"data": list[int], "n": int}, ["m"]),),
        "type_mismatch",
        "input 'n' gets Literal[7], which cannot be cut into chunks; map an array, a table, a list or the path of a "
        "parquet file, or remove chunk",
    ),
    "outputs that cannot be added": (
        cut(a_tool("maps", {"data": list[int]}, {"found": dict[str, int]}), combine="sum"),
        (a_tool("maps", {"data": list[int]}, {"found": dict[str, int]}),),
        "uncombinable_output",
        "output 'found' of tool 'maps' is dict[str, int], and values of that type cannot be added; combine "
        "them with 'list', or name a tool",
    ),
    "outputs that cannot be joined": (
        cut(combine="concat"),
        (TOTAL,),
        "uncombinable_output",
        "output 'total' of tool 'total' is int, and values of that type cannot be put one after the other; "
        "combine them with 'list', or name a tool",
    ),
    "no such tool": (
        cut(combine="largst"),
        (TOTAL, LARGEST),
        "missing_combine_tool",
        "tool 'largst' is not registered; did you mean 'largest'? registered tools are largest, total",
    ),
    "a tool that needs more": (
        cut(combine="more"),
        (TOTAL, a_tool("more", {"total": list[int], "other": str}, ["n"])),
        "combine_missing_required_input",
        "combine tool 'more' needs 'other', which tool 'total' does not return; it gets a list for each "
        "output, under the name of the output",
    ),
    "a tool that reads the output under another name": (
        cut(combine="aliased"),
        (TOTAL, a_tool("aliased", a_model("Aliased", {"total": (list[int], Field(alias="sums"))}), ["n"])),
        "combine_missing_required_input",
        "combine tool 'aliased' needs 'sums', which tool 'total' does not return; it gets a list for each output, "
        "under the name of the output",
    ),
    "a tool that refuses an output": (
        cut(combine="closed"),
        (TOTAL, a_tool("closed", a_model("Closed", {"totals": (list[int], [])}, extra="forbid"), ["n"])),
        "combine_unknown_target_key",
        "combine tool 'closed' refuses 'total'; did you mean 'totals'? its fields are totals",
    ),
    "a tool that takes another type": (
        cut(combine="number"),
        (TOTAL, a_tool("number", {"total": int}, ["n"])),
        "combine_type_mismatch",
        "combine tool 'number' takes int as 'total', and gets list[int]; it is called once, with a list "
        "for each output",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_work_is_found_with_the_way_out(name: str):
    """R16: and the step fails with it when a run gets there."""
    step, tools, issue, says = WRONG[name]
    result = compiled(a_chain(step), *tools)
    fault = result.plan.steps[0].fault

    assert found(result) == [(0, issue, None if issue == "missing_combine_tool" else "chunk")]
    assert detail(result, issue) == says
    assert fault is not None
    assert isinstance(fault(), SchemaValidationError) or issue == "missing_combine_tool"


def test_an_input_may_be_cut_where_one_of_its_sources_can():
    """R3, R16: only what is certain is an error; nor is what nothing is known about."""
    rows, number = a_tool("rows", {}, {"data": list[int]}), a_tool("number", {}, {"data": int})
    union = a_tool("union", {}, {"data": list[int] | int})
    skipped = call(number, on_error="skip")

    for first, known in ((call(rows), rows), (skipped, number), (call(union), union)):
        assert found(compiled(a_chain(first, cut()), known, TOTAL)) == []
    assert found(compiled(a_chain(call(number), cut()), number, TOTAL)) == [(1, "type_mismatch", "chunk")]


@pytest.mark.parametrize("constant", [7, 1.5, True, None, {"a": 1}])
def test_a_constant_without_rows_cannot_be_cut(constant: Any):
    """R16: numbers, nothing, mappings; a constant list can."""
    bad, good = a_chain(cut(TOTAL, {"data": constant})), a_chain(cut(TOTAL, {"data": [1, 2]}))

    assert found(compiled(bad, TOTAL)) == [(0, "type_mismatch", "chunk")]
    assert compiled(good, TOTAL).errors == ()


def test_numbers_may_be_added_and_lists_joined():
    """R28: there is nothing to find; a name is a tool, and no way of combining."""
    lists = a_tool("lists", {"data": list[int]}, {"rows": list[int]})
    for tool, combine in ((TOTAL, "sum"), (lists, "sum"), (lists, "concat"), (TOTAL, "list")):
        assert compiled(a_chain(cut(tool, combine=combine)), tool).errors == ()


def test_a_tool_that_combines_need_not_take_every_output():
    """R28: what it does not name is left out, and what it does not need may be missing; an open tool may return it."""
    both = a_tool("both", {"data": list[int]}, {"total": int, "rest": str})
    spare = a_tool("spare", {"total": list[int], "other": (int, 3)}, ["n"])
    opens = a_tool("opens", {"data": list[int]}, a_model("Opens", ["total"], extra="allow"))
    needs = a_tool("needs", {"total": list[int], "rest": list[str]}, ["n"])
    named = a_tool("named", a_model("Named", {"totals": (list[int], Field(alias="total"))}), ["n"])

    for tool, merge in ((both, spare), (both, needs), (opens, needs), (TOTAL, named)):
        assert compiled(a_chain(cut(tool, combine=merge.name)), tool, merge).errors == ()


def test_a_missing_input_is_found_as_in_every_step():
    """R6, R16: the value that is to be cut has to come from somewhere."""
    flow = a_chain(cut(TOTAL, {"dat": "given"}))
    assert [issue for _, issue, _ in found(compiled(flow, TOTAL))] == ["unknown_target_key", "missing_required_input"]


def test_an_input_with_a_default_need_not_be_given():
    """R16: whether it is there turns out in the run."""
    optional = a_tool("optional", {"data": (list[int], []), "n": int}, ["m"])
    assert compiled(a_chain(cut(optional, {"n": "n"})), optional).errors == ()


def test_a_chunked_step_of_a_dag_is_found_by_its_id():
    """R16: like every other."""
    step: DAGFlowStep = node("sums", TOTAL, chunk=Chunk(input="dat", rows=2))
    assert detail(compiled(a_dag(step), TOTAL), "unknown_chunk_input").startswith("step 'sums': tool 'total' has no")


def test_copies_are_warned_of_by_what_one_call_is_given():
    """R14: `native_copy` is about the calls, of which there are many, and about the tool itself."""
    numbers, big = a_tool("numbers", {"data": int}, ["n"]), a_tool("big", {"data": list[int]}, ["n"])

    plain, cut_up = warned(compiled(a_chain(call(big)), big)), warned(compiled(a_chain(cut(big)), big))
    assert plain == cut_up
    assert warned(compiled(a_chain(cut(numbers)), numbers)) == []
