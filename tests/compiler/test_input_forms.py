"""What the forms of an input mapping read, and what is said of them before anything runs."""

from __future__ import annotations

import collections
import dataclasses
import types
from typing import Any, Literal, NamedTuple

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, computed_field
from typing_extensions import TypedDict

from chainweaver import InputMappingError, Native, literal, ref, template
from chainweaver.plan import KeyMissing
from tests.compiler.kit import (
    a_chain,
    a_dag,
    a_model,
    a_tool,
    call,
    compiled,
    detail,
    found,
    inputs,
    node,
    schema,
    warned,
)
from tests.compiler.schemas import Exactly, Number, Person, Request

ANY = a_tool("take", {"value": Any}, ["done"])


def read(source: Any, initial: dict[str, Any], **options: Any) -> Any:
    """What a field reads that is mapped to this source, from an initial context that nobody has declared."""
    return inputs(compiled(a_chain(call(ANY, {"value": source}), **options), ANY), 0, initial)["value"]


# ---- keys and pointers


def test_a_text_reads_the_context_key_of_that_name():
    """R6: `"name"` is a context key."""
    assert read("name", {"name": "Ada"}) == "Ada"


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        ("/user/items/0/id", 7),
        ("/user/items/1", "last"),
        ("/user/a~1b", "slash"),
        ("/user/m~0n", "tilde"),
        ("/~1key", "at the root"),
        ("/user/", "empty"),
        ("/model/name", "Ada"),
        ("/point/x", 1),
        ("/pair/1", "b"),
        ("/proxy/k", "v"),
        ("/open/extra", "kept"),
        ("/open/twice", 4),
    ],
)
def test_a_pointer_descends_by_key_index_and_field(pointer, expected):
    """R6: RFC 6901 pointers; `/~1key` is the top-level key `/key`."""
    context = {
        "user": {"items": [{"id": 7}, "last"], "a/b": "slash", "m~n": "tilde", "": "empty"},
        "/key": "at the root",
        "model": Person(name="Ada"),
        "point": Point(1, 2),
        "pair": Pair("a", "b"),
        "proxy": types.MappingProxyType({"k": "v"}),
        "open": Open(n=2, extra="kept"),
    }
    assert read(pointer, context) == expected


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Pair(NamedTuple):
    first: str
    second: str


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    n: int

    @computed_field
    def twice(self) -> int:
        return 2 * self.n


@pytest.mark.parametrize("token", ["01", "+1", "-1", "-", " 1", "1 ", "1.0", "١", "2", "9" * 19, "x", ""])
def test_an_index_is_written_strictly(token):
    """R6: strict tokens: no `01`, `+1`, `-`; beyond the end there is nothing."""
    with pytest.raises(KeyMissing) as caught:
        read(f"/rows/{token}", {"rows": ["a", "b"]})
    assert caught.value.known == ("0..1",)


@pytest.mark.parametrize(
    ("pointer", "known"),
    [
        ("/gone", ("user", "rows", "text")),
        ("/user/gone", ("name", "tags")),
        ("/rows/0", ()),
        ("/text/0", ()),
        ("/text/upper", ()),
    ],
)
def test_a_pointer_that_leads_nowhere_says_what_there_is(pointer, known):
    """R6, W11: attributes that are no fields are out of reach, and a text has no parts."""
    with pytest.raises(KeyMissing) as caught:
        read(pointer, {"user": Person(name="Ada"), "rows": [], "text": "abc"})
    assert (caught.value.key, caught.value.known) == (pointer, known)


# ---- literals


@pytest.mark.parametrize(
    ("source", "value"),
    [
        (7, 7),
        (None, None),
        (True, True),
        ([1, {"a": []}], [1, {"a": []}]),
        ({"a": 1}, {"a": 1}),
        (literal("text"), "text"),
        (literal({"$key": "a"}), {"$key": "a"}),
    ],
)
def test_a_literal_is_the_same_in_every_run(source, value):
    """R6: whatever is no text, and whatever stands in `$literal`."""
    assert read(source, {}) == value


@pytest.mark.parametrize("value", [[[1]], {"a": {"b": []}}, {1, 2}, ([1],), collections.OrderedDict(a=1)])
def test_mutable_literals_are_not_shared_between_runs(value):
    """R7: every run gets containers of its own, level by level; what is no plain container is handed on."""
    result = compiled(a_chain(call(ANY, {"value": literal(value)})), ANY)
    first, second = inputs(result, 0, {})["value"], inputs(result, 0, {})["value"]

    assert first == second == value
    assert type(first) is type(value)
    if type(value) is not collections.OrderedDict:
        assert first is not second
        assert first is not value
    if isinstance(value, list):
        first[0].append(2)
        assert second == [[1]]


def test_a_default_is_not_shared_either():
    """R7: a default is a literal too."""
    result = compiled(a_chain(call(ANY, {"value": ref("gone", default=[])})), ANY)
    inputs(result, 0, {})["value"].append(1)
    assert inputs(result, 0, {})["value"] == []


def test_a_literal_that_contains_itself_is_handed_on_as_it_is():
    """R7: nobody can build it anew; compiling does not fail for it."""
    value: list[Any] = []
    value.append(value)
    assert read({"$literal": value}, {}) is value


# ---- defaults


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (ref("a", default=1), 5),
        (ref("b", default=1), 1),
        (ref("/c/d", default=1), None),
        (ref("/c/e", default=1), 1),
        (ref("/b/e", default=1), 1),
    ],
)
def test_a_defaulted_look_up_takes_the_default_where_nothing_is(source, expected):
    """R6: `{"$key": ..., "$default": ...}`; None that is there is a value."""
    assert read(source, {"a": 5, "c": {"d": None}}) == expected


def test_a_default_makes_an_unknown_key_no_finding():
    """R6: a key that is not there is what the default is for, even where nobody could bring it."""
    flow = a_chain(call(ANY, {"value": ref("gone", default=1)}), input_schema_ref=schema(Exactly))
    assert compiled(flow, ANY).errors == ()


# ---- templates


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (template("Dear ${user.name}, ${user.tags[0]}!"), "Dear Ada, x!"),
        (template("${/user/name}"), "Ada"),
        (template("costs $5 and $${x}"), "costs $5 and ${x}"),
        (template("${sneaky} once"), "${user.name} once"),
        ({"$template": "~~NAME~~ and $Name$", "$syntax": "legacy"}, "Bob and Bob"),
    ],
)
def test_a_template_fills_in_once(source, expected):
    """R9: references by path, index and pointer; what is filled in is never expanded again; legacy forms fold case."""
    context = {"user": {"name": "Ada", "tags": ["x"]}, "sneaky": "${user.name}", "nAmE": "Bob"}
    assert read(source, context) == expected


@pytest.mark.parametrize("source", [template("${rows}"), {"$template": "$ROWS$", "$syntax": "legacy"}])
def test_a_template_of_one_reference_keeps_the_object(source):
    """R9: no `str()`: the object itself."""
    rows = [1]
    assert read(source, {"rows": rows}) is rows


def test_a_template_reads_no_more_of_the_context_than_it_names():
    """R9: its cost does not depend on the size of the context."""

    class Watched(dict[str, Any]):
        def __iter__(self):
            raise AssertionError("walked through the context")

        keys = values = items = __iter__  # type: ignore[assignment]

    assert read(template("${a}-${b}"), Watched(a=1, b=2)) == "1-2"


def test_a_legacy_reference_prefers_the_key_that_a_step_writes():
    """R9: folded references see known keys first, then those of the initial context."""
    make = a_tool("make", {}, {"Name": str})
    flow = a_chain(call(make), call(ANY, {"value": {"$template": "hi ~~name~~", "$syntax": "legacy"}}))
    result = compiled(flow, make, ANY)
    assert inputs(result, 1, {"NAME": "given"}, {"Name": "made"}) == {"value": "hi made"}
    assert result.errors == ()

    shy = compiled(a_chain(call(make, on_error="skip"), flow.steps[1]), make, ANY)
    assert inputs(shy, 1, {"NAME": "given"}, None) == {"value": "hi given"}
    with pytest.raises(KeyMissing, match="name"):
        inputs(shy, 1, {"other": 1}, None)


def test_a_template_that_names_an_unknown_key_is_a_compile_error():
    """R9: where the keys are statically known."""
    for source in (template("to ${naem}"), {"$template": "to ~~naem~~", "$syntax": "legacy"}):
        flow = a_chain(call(ANY, {"value": source}), input_schema_ref=schema(Exactly))
        assert found(compiled(flow, ANY)) == [(0, "missing_mapping_key", "value")]


# ---- empty mappings


def test_an_empty_mapping_reads_every_key_that_the_input_model_names():
    """R6: nothing else is read, and what is not there is left to the model's defaults."""
    take = a_tool("take", {"a": int, "b": (int, 0)}, ["done"])
    result = compiled(a_chain(call(take)), take)
    assert inputs(result, 0, {"a": 1, "c": 3}) == {"a": 1}
    assert inputs(result, 0, {"a": 1, "b": 2}) == {"a": 1, "b": 2}


def test_only_a_model_that_allows_extras_reads_the_whole_context():
    """R6: initial input, outputs in plan order, then dynamic parameters."""
    make = a_tool("make", {}, {"a": int, "b": int})
    take = a_tool("take", a_model("Open", {}, extra="allow"), ["done"])
    result = compiled(a_chain(call(make), call(take), dynamic_params=("key",)), make, take)
    slots: list[dict[str, Any] | None] = [{"a": 0, "c": 0}, {"a": 1, "b": 1}, None, {"key": "k"}]
    assert result.plan.steps[1].read(slots) == {"a": 1, "b": 1, "c": 0, "key": "k"}
    assert result.plan.steps[1].dynamic_fields == ("key",)
    assert inputs(result, 1, {"c": 0}, None) == {"c": 0}


def test_a_field_with_an_alias_is_found_under_either_name():
    """R6: the value is handed to validation under the key that it takes."""

    class Takes(BaseModel):
        total: int = Field(alias="sum")

    take = a_tool("take", Takes, ["done"])
    make = a_tool("make", {}, {"sum": int})
    assert inputs(compiled(a_chain(call(make), call(take)), make, take), 1, {}, {"sum": 3}) == {"sum": 3}
    for given in ({"total": 3, "sum": 4}, {"sum": 3}):
        assert inputs(compiled(a_chain(call(take)), take), 0, given) == {"sum": 3}
    assert inputs(compiled(a_chain(call(take)), take), 0, {}) == {}
    for name in ("total", "sum"):
        assert inputs(compiled(a_chain(call(take, {name: "x"})), take), 0, {"x": 3}) == {"sum": 3}


def test_further_aliases_and_paths_are_accepted_as_validation_accepts_them():
    """R6: a mapping may use every key that the model is validated from."""

    class Takes(BaseModel):
        by_choice: int = Field(validation_alias=AliasChoices("one", "two", AliasPath("three", 0)))
        by_path: int = Field(0, validation_alias=AliasPath("outer", "inner"))

    take = a_tool("take", Takes, ["done"])
    result = compiled(a_chain(call(take, {"two": "x", "outer": {"inner": 4}})), take)
    assert result.errors == ()
    assert Takes.model_validate(inputs(result, 0, {"x": 3})).model_dump() == {"by_choice": 3, "by_path": 4}
    in_a_list = compiled(a_chain(call(take, {"three": literal([5]), "outer": {"inner": 4}})), take)
    assert in_a_list.errors == ()
    assert Takes.model_validate(inputs(in_a_list, 0, {})).by_choice == 5
    assert found(compiled(a_chain(call(take, {"by_choice": "x", "by_path": "y"})), take)) == [
        (0, "unknown_target_key", "by_path")
    ]


def test_a_model_that_is_not_complete_yet_is_completed():
    """R6: a tool may be defined before the classes that its models name."""

    class Late(BaseModel):
        later: Later  # type: ignore[name-defined]  # noqa: F821 - the point of the test

    take = a_tool("take", Late, ["done"])
    globals()["Later"] = Person
    try:
        result = compiled(a_chain(call(take)), take)
        assert inputs(result, 0, {"later": 1}) == {"later": 1}
    finally:
        del globals()["Later"]


# ---- dynamic parameters


def test_a_dynamic_parameter_is_read_like_a_key_and_named_as_hidden():
    """R13: it comes before everything else; a run without it looks in the initial context."""
    flow = a_chain(call(ANY, {"value": "key"}), dynamic_params=("key",))
    result = compiled(flow, ANY)
    step = result.plan.steps[0]
    assert step.read([{"key": "given"}, None, {"key": "dynamic"}]) == {"value": "dynamic"}
    assert step.read([{"key": "given"}, None, {}]) == {"value": "given"}
    assert (step.dynamic_fields, step.plain) == (("value",), False)
    assert result.errors == ()


def test_a_dynamic_parameter_inside_a_template_is_hidden_as_well():
    """R13: no record shows a field that it feeds."""
    flow = a_chain(call(ANY, {"value": template("Bearer ${key}")}), dynamic_params=("key",))
    assert compiled(flow, ANY).plan.steps[0].dynamic_fields == ("value",)


# ---- types along the edges


DECLARED = {"input_schema_ref": schema(Request)}


@pytest.mark.parametrize(
    ("source", "kind", "fits"),
    [
        ("user", Person, True),
        ("user", int, False),
        ("/user/name", str, True),
        ("/user/name", list[int], False),
        ("/user/tags/0", int, True),  # "1" would pass
        ("/rows/0/name", list[int], False),
        ("/rows/0/name", str, True),
        ("/pair/0", list[int], False),
        ("/pair/1", list[int], False),
        ("/prices/any", list[int], False),
        ("/prices/any", float, True),
        (template("${user}"), int, False),
        (template("${user} it is"), list[int], False),
        (template("${user} it is"), str, True),
        (literal("seven"), int, False),
        (literal("7"), int, True),
        ([1, 2], list[int], True),
        (None, int, False),
        (ref("/user/name", default=3), list[int], False),
        (ref("/user/name", default=[3]), list[int], True),
        (ref("nobody", default=[3]), list[int], True),
        (ref("/user/nobody", default="x"), list[int], False),
        ({"$template": "$USER$", "$syntax": "legacy"}, list[int], False),
    ],
)
def test_the_type_of_a_source_is_held_against_the_field(source, kind, fits):
    """api.md, Compile: types flow along the edges; what lax validation coerces is compatible."""
    take = a_tool("take", {"value": kind}, ["done"])
    result = compiled(a_chain(call(take, {"value": source}), **DECLARED), take)
    assert found(result) == ([] if fits else [(0, "type_mismatch", "value")])


def test_a_type_mismatch_names_field_both_types_and_a_way_out():
    """W11: where, what and how to fix it."""
    take = a_tool("take", {"value": list[int]}, ["done"])
    for source, told in (
        ("user", "key 'user' gives Person"),
        ("/user/name", "key '/user/name' gives str"),
        (template("${user.name}"), "the template '${user.name}' gives str"),
        (7, "the literal gives Literal[7]"),
        (ref("limit", default="x"), "key 'limit' gives int | Literal['x']"),
        (ref("/user/name", default="x"), "key '/user/name' gives str | Literal['x']"),
    ):
        result = compiled(a_chain(call(take, {"value": source}), **DECLARED), take)
        assert detail(result, "type_mismatch") == (
            f"field 'value' of tool 'take' takes list[int], but {told}; map another key, or convert it in a step before"
        )


def test_validators_of_the_input_model_are_taken_into_account():
    """api.md, Compile: never a false error."""
    from pydantic import field_validator

    class Takes(BaseModel):
        rows: list[int]

        @field_validator("rows", mode="before")
        @classmethod
        def split(cls, value: Any) -> Any:
            return value.split(",") if isinstance(value, str) else value

    take = a_tool("take", Takes, ["done"])
    assert compiled(a_chain(call(take, {"rows": literal("1,2")})), take).success


def test_several_writers_contradict_a_field_only_together():
    """R3: a value of one of them may be the one that is read."""
    text, number = a_tool("text", {}, {"v": str}), a_tool("number", {}, {"v": dict})
    take = a_tool("take", {"v": list[int]}, ["done"])
    mixed = a_tool("mixed", {}, {"v": list[int]})
    flow = a_chain(call(text), call(number, on_error="skip"), call(take))
    assert detail(compiled(flow, text, number, take), "type_mismatch").endswith(
        "but key 'v' gives dict | str; map another key, or convert it in a step before"
    )
    flow = a_chain(call(mixed), call(number, on_error="skip"), call(take))
    assert compiled(flow, mixed, number, take).success


# ---- paths inside declared types


class Row(TypedDict):
    id: int
    label: str


@dataclasses.dataclass
class Unresolvable:
    part: Nowhere  # type: ignore[name-defined]  # noqa: F821 - cannot be resolved at run time either


class Lost(TypedDict):
    part: Nowhere  # type: ignore[name-defined]  # noqa: F821 - as above


class Parts(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    row: Row
    point: Point
    either: Person | Row | None
    open: Open
    many: tuple[int, ...]
    two: tuple[int, str]
    bare: list
    plain: tuple
    foreign: object
    anything: Any
    number: int
    odd: Native[Unresolvable]
    lost: Native[Lost]
    choice: Literal["a"]
    generic: collections.ChainMap
    mapping: dict


@pytest.mark.parametrize(
    ("path", "kind", "verdict"),
    [
        ("/row/id", list[int], "type_mismatch"),
        ("/row/ident", Any, "missing_mapping_key"),
        ("/point/x", list[int], "type_mismatch"),
        ("/point/z", Any, "missing_mapping_key"),
        ("/either/name", list[int], "type_mismatch"),
        ("/either/id", list[int], "type_mismatch"),
        ("/either/title", Any, "missing_mapping_key"),
        ("/open/whatever", list[int], None),
        ("/many/0", list[str], "type_mismatch"),
        ("/many/first", Any, "missing_mapping_key"),
        ("/two/1", list[int], "type_mismatch"),
        ("/two/2", Any, "missing_mapping_key"),
        ("/two/first", Any, "missing_mapping_key"),
        ("/bare/0", list[int], None),
        ("/bare/first", Any, "missing_mapping_key"),
        ("/plain/0", list[int], None),
        ("/foreign/x", list[int], None),
        ("/anything/x", list[int], None),
        ("/number/x", Any, "missing_mapping_key"),
        ("/odd/part", list[int], None),
        ("/odd/other", Any, "missing_mapping_key"),
        ("/lost/part", list[int], None),
        ("/lost/other", Any, "missing_mapping_key"),
        ("/choice/x", list[int], None),
        ("/generic/x", list[int], None),
        ("/mapping/x", list[int], None),
        ("/open/twice", list[int], None),
    ],
)
def test_a_path_is_followed_into_the_declared_type(path, kind, verdict):
    """R9, W11: a mistyped part is found before the run, where its names are known; the rest is unknown and allowed."""
    make, take = a_tool("make", {}, Parts), a_tool("take", {"value": kind}, ["done"])
    result = compiled(a_chain(call(make), call(take, {"value": path})), make, take)
    assert found(result) == ([] if verdict is None else [(1, verdict, "value")])


def test_a_computed_field_has_a_type_as_well():
    """api.md, Compile: types flow along the edges."""

    class Sums(BaseModel):
        n: int

        @computed_field
        def shown(self) -> Person:
            return Person(name=str(self.n))

    make, take = a_tool("make", {}, Sums), a_tool("take", {"value": list[int]}, ["done"])
    result = compiled(a_chain(call(make), call(take, {"value": "/shown/name"})), make, take)
    assert detail(result, "type_mismatch").startswith(
        "field 'value' of tool 'take' takes list[int], but key '/shown/name'"
    )


def test_a_dead_end_names_what_there_is_and_leaves_the_last_word_to_the_run():
    """W11: an instance of a subclass may have more than its declared class, so the step is not planned to fail."""
    result = compiled(a_chain(call(ANY, {"value": "/user/nmae"}), **DECLARED), ANY)
    assert detail(result, "missing_mapping_key") == (
        "field 'value' of tool 'take' reads unknown key '/user/nmae': there is no 'nmae'; "
        "did you mean 'name'? the names there are name, tags"
    )
    assert result.plan.steps[0].fault is None


# ---- what cannot be read


def test_an_unknown_target_names_the_fields_and_the_nearest_one():
    """W11: where, what and how to fix it."""
    take = a_tool("take", {"number": (int, 0), "other": (int, 0)}, ["done"])
    result = compiled(a_chain(call(take, {"nubmer": "n"})), take)
    assert found(result) == [(0, "unknown_target_key", "nubmer")]
    assert detail(result, "unknown_target_key") == (
        "tool 'take' has no input field 'nubmer'; did you mean 'number'? its fields are number, other"
    )
    fault = result.plan.steps[0].fault
    assert fault is not None
    assert "has no input field 'nubmer'" in str(fault())


def test_a_model_that_allows_extras_takes_any_target():
    """R6: its author has said so."""
    take = a_tool("take", a_model("Open", {}, extra="allow"), ["done"])
    assert compiled(a_chain(call(take, {"whatever": "n"})), take).success


def test_an_unknown_key_names_the_known_ones_and_the_nearest():
    """W11: in a DAG the step is named as well."""
    make = a_tool("make", {}, {"rows": list, "count": int})
    flow = a_dag(
        node("first", make),
        node("sum", ANY, "first", input_mapping={"value": "rosw"}),
        input_schema_ref=schema(Exactly),
    )
    result = compiled(flow, make, ANY)
    assert detail(result, "missing_mapping_key") == (
        "step 'sum': field 'value' of tool 'take' reads unknown key 'rosw'; "
        "did you mean 'rows'? known keys are n, rows, count"
    )
    fault = result.plan.steps[1].fault
    assert fault is not None
    error = fault()
    assert isinstance(error, InputMappingError)
    assert (error.tool_name, error.step_index, error.key) == ("take", 1, "rosw")
    assert "did you mean 'rows'?" in str(error)


def test_many_known_keys_are_cut_short():
    """W11: a message is for reading."""
    make = a_tool("make", {}, [f"key{at}" for at in range(30)])
    result = compiled(a_chain(call(make), call(ANY, {"value": "zzz"}), input_schema_ref=schema(Exactly)), make, ANY)
    assert detail(result, "missing_mapping_key").endswith("key17, key18, ... and 11 more")


def test_suggestions_are_made_for_the_first_mistakes_only():
    """W11: comparing thousands of names takes time, and nobody reads so many suggestions."""
    flow = a_chain(*[call(ANY, {"value": "m"}) for _ in range(30)], input_schema_ref=schema(Exactly))
    told = [one.detail for one in compiled(flow, ANY).errors]
    assert len(told) == 30
    assert ["did you mean" in one for one in told] == [False] * 30
    flow = a_chain(*[call(ANY, {"value": "nn"}) for _ in range(30)], input_schema_ref=schema(Exactly))
    assert ["did you mean" in one.detail for one in compiled(flow, ANY).errors] == [True] * 20 + [False] * 10


def test_a_missing_required_input_names_it_and_the_known_keys():
    """W11: where, what and how to fix it."""
    take = a_tool("take", {"number": int, "more": (int, 0)}, ["done"])
    told = (
        "required field 'number' of tool 'take' gets no value; feed it in input_mapping, or let an earlier step or the "
        "flow's input provide it; known keys are "
    )
    explicit = compiled(a_chain(call(take, {"more": 1})), take)
    assert found(explicit) == [(0, "missing_required_input", "number")]
    assert detail(explicit, "missing_required_input") == told + "none"
    implicit = compiled(a_chain(call(take), input_schema_ref=schema(Exactly)), take)
    assert detail(implicit, "missing_required_input") == told + "n"
    fault = implicit.plan.steps[0].fault
    assert fault is not None
    assert "required field 'number'" in str(fault())


def test_a_flow_without_an_input_schema_takes_its_keys_from_outside():
    """api.md, Compile: not an error."""
    take = a_tool("take", ["number"], ["done"])
    assert compiled(a_chain(call(take)), take).errors == ()
    assert compiled(a_chain(call(take, {"number": "whatever"})), take).errors == ()


def test_a_key_beyond_the_input_schema_is_an_error_that_the_run_may_refute():
    """R8: keys that the schema does not name stay, so a caller who passes one is served."""
    take = a_tool("take", ["more"], ["done"])
    for step in (call(take, {"more": "more"}), call(take)):
        result = compiled(a_chain(step, input_schema_ref=schema(Number)), take)
        assert not result.success
        assert result.plan.steps[0].fault is None
        assert inputs(result, 0, {"n": 1, "more": 2}) == {"more": 2}


def test_a_mapping_without_a_meaning_is_an_error_with_its_place():
    """W11: text and `$` forms that say nothing."""
    take = a_tool("take", {"a": (int, 0), "b": (int, 0)}, ["done"])
    result = compiled(a_chain(call(take, {"a": template("${x"), "b": {"$lit": 1}})), take)
    assert found(result) == [(0, "mapping_syntax", "a"), (0, "mapping_syntax", "b")]
    assert result.errors[0].detail.startswith(
        "field 'a': Mapping value '${x' is not valid at column 1: '${' is never closed."
    )
    fault = result.plan.steps[0].fault
    assert fault is not None
    assert "field 'a': Mapping value" in str(fault())


def test_an_any_output_that_feeds_a_typed_field_is_pointed_out():
    """api.md, Compile: implicit_any; nothing is said where the field is Any too, or where nobody declared anything."""
    make, take = a_tool("make", {}, {"v": Any}), a_tool("take", {"v": int}, ["done"])
    result = compiled(a_chain(call(make), call(take)), make, take)
    assert warned(result) == [(1, "implicit_any", "v")]
    assert detail(result, "implicit_any") == (
        "field 'v' of tool 'take' takes int, and key 'v' is declared as Any, so that nothing is checked before the "
        "run; give the output a type"
    )
    assert compiled(a_chain(call(make), call(ANY, {"value": "v"})), make, ANY).warnings == ()
    assert compiled(a_chain(call(take)), take).warnings == ()


def test_all_mistakes_are_told_at_once():
    """api.md, Compile: every error of every step."""
    take = a_tool("take", {"a": int, "b": list[int]}, ["done"])
    flow = a_chain(
        call(take, {"x": 1, "b": 2}),
        call(take, {"a": "gone", "b": "n"}),
        call("nobody"),
        input_schema_ref=schema(Exactly),
    )
    assert found(compiled(flow, take)) == [
        (0, "unknown_target_key", "x"),
        (0, "type_mismatch", "b"),
        (0, "missing_required_input", "a"),
        (1, "missing_mapping_key", "a"),
        (1, "type_mismatch", "b"),
        (2, "missing_tool", None),
    ]
