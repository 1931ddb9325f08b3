"""Corners of the compiler, each with the clause that leads into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, Field, InstanceOf, WrapValidator

from chainweaver import Native, literal, tool
from chainweaver.compiler.findings import COMPARED_NAMES, Findings
from chainweaver.compiler.predicates import parse_predicate
from chainweaver.compiler.types import compatible
from chainweaver.plan import KeyMissing
from tests.compiler.kit import (
    a_chain,
    a_dag,
    a_model,
    a_tool,
    call,
    compiled,
    found,
    inputs,
    named,
    node,
    schema,
    sub,
    warned,
)
from tests.compiler.schemas import Exactly, Text

A, B, C = (a_tool(name, ["n"], [f"{name}_out"]) for name in "abc")
ANY = a_tool("any", {"value": Any}, {"value": Any})


# ---- order


def test_a_step_waits_once_for_what_it_waits_for_by_way_of_others():
    """R3: a writer behind one of several needs is an ancestor already, whichever of them it is behind."""
    behind_a, behind_b = (
        node(f"{name}2", tool, name, output_mapping={f"{name}2_out": f"{name}_out"})
        for name, tool in (("a", A), ("b", B))
    )
    for middle in ([behind_a, behind_b], [behind_b, behind_a]):
        last = node("c", C, "a2", "b2", input_mapping={"n": "a_out"})
        result = compiled(a_dag(node("a", A), node("b", B), *middle, last), A, B, C)

        assert result.plan.steps[-1].needs == (2, 3)
        assert "implicit_dependency" not in [what for _, what, _ in warned(result)]


@pytest.mark.parametrize(("policy", "stops"), [("stop", True), ("finish", False)])
def test_a_plan_says_whether_a_failure_ends_the_run(policy: str, stops: bool):
    """R19: `on_failure`, as the run asks for it."""
    assert compiled(a_chain(call(A), on_failure=policy), A).plan.stop_on_failure is stops


# ---- what is read


def test_a_folded_key_that_is_not_there_is_told_with_those_of_the_initial_context():
    """R9: what a step wrote was looked for under its own name."""
    source = {"$template": "hi ~~name~~", "$syntax": "legacy"}
    result = compiled(a_chain(call(A), call(ANY, {"value": source})), A, ANY)

    with pytest.raises(KeyMissing) as missing:
        inputs(result, 1, {"n": 1, "age": 3}, {"a_out": 1})
    assert (missing.value.key, missing.value.known) == ("name", ("n", "age"))


def test_a_required_field_that_is_looked_for_below_another_key_has_to_be_fed():
    """R6: `AliasPath`: the root of the path is what the context has to hold."""

    class Found(BaseModel):
        name: str = Field(validation_alias=AliasPath("user", "name"))

    tool = a_tool("find", Found, ["out"])

    assert found(compiled(a_chain(call(tool), input_schema_ref=schema(Exactly)), tool)) == [
        (0, "missing_required_input", "name")
    ]
    assert found(compiled(a_chain(call(tool, {"user": literal({"name": "Ada"})})), tool)) == []
    [step] = compiled(a_chain(call(tool)), tool).plan.steps
    assert step.read([{"user": {"name": "Ada"}}, None, {}]) == {"user": {"name": "Ada"}}


def test_a_name_that_a_step_surely_writes_comes_before_one_that_an_unknown_tool_may_have_written():
    """R6, R9: of the names of a field the first that is declared; what nobody knows of is no declaration."""

    class Aliased(BaseModel):
        n: int = Field(validation_alias=AliasChoices("N"))

    take, make = a_tool("take", Aliased, ["out"]), a_tool("make", {}, ["N"])
    result = compiled(a_chain(call("nobody"), call(make), call(take)), make, take)

    assert found(result) == [(0, "missing_tool", None)]
    assert inputs(result, 2, {"n": 1}, None, {"N": 2}) == {"N": 2}
    assert result.plan.steps[2].read([{"n": 1}, {"n": 3}, {"N": 2}, None, {}]) == {"N": 2}


def test_a_name_is_compared_with_so_many_others_and_no_more():
    """W11: a suggestion is a help, and must not cost more than the rest of the compilation."""
    others = [f"k{at}" for at in range(COMPARED_NAMES - 1)]

    assert Findings().hint("prize", [*others, "price"], "keys are").startswith("did you mean 'price'? keys are k0, ")
    assert Findings().hint("prize", [*others, "k", "price"], "keys are").startswith("keys are k0, ")


# ---- what is given


def test_what_a_map_gives_is_a_list_of_what_its_tool_gives():
    """R28: so that a reader of another type is found before the run; errors among the items may be anything."""
    take = a_tool("take", {"rows": list[str]}, ["done"])
    for policy, errors in (
        ("fail", [(1, "type_mismatch", "rows")]),
        ("skip", [(1, "type_mismatch", "rows")]),
        ("collect", []),
    ):
        each = node("each", A, map_over="ns", map_as="n", on_item_error=policy)
        result = compiled(a_dag(each, node("take", take, "each", input_mapping={"rows": "a_out"})), A, take)
        assert found(result) == errors


def test_a_mapping_without_meaning_hides_none_that_comes_after_it():
    """R28: a map reads what every other value of the mapping names."""
    both = a_tool("both", ["n", "m"], ["out"])
    each = node("each", both, map_over="ns", map_as="n", input_mapping={"n": "/~2", "m": "k"})
    result = compiled(a_dag(each), both)

    assert found(result) == [(0, "mapping_syntax", "n")]
    [step] = result.plan.steps
    assert step.read([{"ns": [1], "k": 5}, None, {}]) == {"ns": [1], "k": 5}


def test_an_output_that_json_cannot_write_has_a_size_all_the_same():
    """R18: the cap is there for large values, not for strange ones."""
    tool = a_tool("strange", [], {"out": Any}, max_output_size=100)
    planned = compiled(a_chain(call(tool)), tool).plan.steps[0].tool
    assert planned is not None
    model = planned.validate_output({"out": object()})

    assert planned.output_size(model) > len('{"out":"<object object at 0x>"}')


def test_a_sub_flow_is_not_warned_of_copies_that_its_own_tools_make():
    """W8: the warning belongs to the tool that declares the container."""
    inner = named("inner", a_chain(call(A), input_schema_ref=schema(Text)))
    texts = a_tool("texts", {"n": list[int]}, ["t_out"])

    assert warned(compiled(a_chain(sub("inner")), A, flows=[inner])) == []
    assert warned(compiled(a_chain(call(texts)), texts)) == [(0, "native_copy", "n")]


def test_a_container_that_passes_as_it_is_is_not_warned_of():
    """W8: `Native[...]` is what the warning advises."""
    tool = a_tool("rows", {"rows": Native[list[int]]}, {"parts": Native[dict[str, int]]})
    assert warned(compiled(a_chain(call(tool)), tool)) == []


def test_a_container_without_a_type_for_its_items_is_not_warned_of():
    """W8, R14: there is nothing to rebuild a bare `list` for, so a function that takes or gives one gets the object."""

    @tool(output="ordered")
    def sort(rows: list) -> list:  # type: ignore[type-arg]  # as many write it
        """Sort rows."""
        return sorted(rows)

    assert warned(compiled(a_chain(call(sort, {"rows": "rows"})), sort)) == []


# ---- types


def test_a_function_of_the_user_is_not_taken_for_one_of_pydantic():
    """R9: what a validator of the user's makes of a value, nobody knows beforehand."""

    def path_validator(value: Any, handler: Any) -> Any:
        return handler(str(value))

    from chainweaver.compiler.core_schemas import TRANSPARENT_FUNCTIONS

    for name in sorted(TRANSPARENT_FUNCTIONS):
        path_validator.__name__ = name
        assert compatible(list[int], Annotated[str, WrapValidator(path_validator)])


@pytest.mark.parametrize(
    ("target", "fits"),
    [(tuple[int, int], True), (tuple[int, str], False), (tuple[int, int, str], False), (tuple[int, ...], True)],
)
def test_every_item_of_a_sequence_is_held_against_the_place_it_goes_to(target: Any, fits: bool):
    """R9: `Sequence[int]` is a list, a tuple or a deque of any length."""
    assert compatible(Sequence[int], target) is fits


class Slug(str):
    """A text of its own kind, with no idea of equality of its own."""

    __slots__ = ()


@pytest.mark.parametrize(("expected", "fits"), [(Literal["x"], True), (Literal["x", 1], True), (Literal[1], False)])
def test_an_instance_of_a_subclass_may_equal_what_a_literal_expects(expected: Any, fits: bool):
    """R9: `Slug("x") == "x"`, so that it passes; it never equals a number."""
    assert compatible(InstanceOf[Slug], expected) is fits


# ---- plans


@pytest.mark.parametrize(("policy", "stops"), [("fail", True), ("skip", False), ("collect", False)])
def test_a_map_ends_at_the_first_item_that_fails_when_it_fails_with_it(policy: str, stops: bool):
    """R28: `on_item_error`, as the run of the items asks for it."""
    each = compiled(a_dag(node("s", A, map_over="ns", map_as="n", on_item_error=policy)), A).plan.steps[0].each

    assert each is not None
    assert each.plan.stop_on_failure is stops


def test_siblings_that_may_collide_are_compared_also_where_an_earlier_step_may_write_anything():
    """R12: what is uncertain beforehand is for the run to see."""
    free = a_tool("free", [], a_model("Free", {}, extra="allow"))
    steps = [node("first", free), node("one", A, "first", on_error="skip"), node("two", A, "first")]
    result = compiled(a_dag(*steps), free, A)

    assert result.plan.steps[2].rivals == (1,)


def test_a_subscript_that_leads_nowhere_is_told_by_its_own_text():
    """R25: of a long predicate the part that could not be answered."""
    holds = parse_predicate("n > 1 and user['name'] == 'Ada'").bind(
        {"n": lambda it: it["n"], "user": lambda it: it["user"]}
    )

    with pytest.raises(KeyMissing) as missing:
        holds({"n": 2, "user": {}})
    assert missing.value.key == "user['name']"
