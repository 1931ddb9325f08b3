"""How long values are needed: who looks at what, and after whom nobody does any more."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, RootModel, model_validator
from typing_extensions import Self

from chainweaver.compiler import CompilationResult
from tests.compiler.kit import a_chain, a_dag, a_tool, call, compiled, named, node, schema, sub
from tests.compiler.schemas import Anything, Exactly, Number

A, B, C = (a_tool(name, ["n"], [f"{name}_out"]) for name in "abc")


class Everything(BaseModel):
    model_config = ConfigDict(extra="allow")


ALL = a_tool("all", Everything, Everything)


def chain(*steps: Any, **options: Any) -> CompilationResult:
    return compiled(a_chain(*steps, **{"outputs": ("c_out",), **options}), A, B, C, ALL)


def dag(*steps: Any, **options: Any) -> CompilationResult:
    return compiled(a_dag(*steps, **options), A, B, C, ALL)


def needed(result: CompilationResult) -> list[dict[str, Any]]:
    """For each slot: key, or "*" for all the others, -> the steps after which nobody needs it; None: to the end."""
    liveness = result.plan.liveness()
    slots: list[dict[str, Any]] = [{} for _ in range(len(result.plan.steps) + 1)]
    for one in liveness.ranges:
        for key in one.keys or ("*",):
            slots[one.slot][key] = one.readers
    return slots


INNER = named("inner", a_chain(call(A)))
ANY_INNER = named("inner", a_chain(call(ALL)))

FLOWS: dict[str, tuple[CompilationResult, list[dict[str, Any]]]] = {
    "a value is needed until the step that reads it has ended": (
        chain(call(A), call(B, {"n": "a_out"}), call(C, {"n": "b_out"})),
        [{"n": (0,), "*": ()}, {"a_out": (1,), "*": (0,)}, {"b_out": (2,), "*": (1,)}, {"c_out": None, "*": (2,)}],
    ),
    "the last of several readers that wait for each other decides": (
        dag(
            node("a", A), node("b", B, "a", input_mapping={"n": "a_out"}),
            node("c", C, "b", input_mapping={"n": "a_out"}), outputs=("c_out",),
        ),
        [{"n": (0,), "*": ()}, {"a_out": (2,), "*": (0,)}, {"b_out": (1,), "*": (1,)}, {"c_out": None, "*": (2,)}],
    ),
    "all of several readers that wait for nobody decide": (
        dag(
            node("a", A), node("b", B, "a", input_mapping={"n": "a_out"}),
            node("c", C, "a", input_mapping={"n": "a_out"}), outputs=("b_out", "c_out"),
        ),
        [{"n": (0,), "*": ()}, {"a_out": (1, 2), "*": (0,)}, {"b_out": None, "*": (1,)}, {"c_out": None, "*": (2,)}],
    ),
    "what nobody reads is needed until the step that wrote it has ended": (
        chain(call(A), call(B, {"n": "n"}), outputs=("b_out",)),
        [{"n": (1,), "*": ()}, {"a_out": (0,), "*": (0,)}, {"b_out": None, "*": (1,)}],
    ),
    "outputs of the flow are needed to the end, also those of the input": (
        chain(call(A), outputs=("n", "a_out")),
        [{"n": None, "*": ()}, {"a_out": None, "*": (0,)}],
    ),
    "a value that is written again is needed no longer than the next one": (
        chain(call(A), call(A, {"n": "a_out"}), call(C, {"n": "a_out"})),
        [{"n": (0,), "*": ()}, {"a_out": (1,), "*": (0,)}, {"a_out": (2,), "*": (1,)}, {"c_out": None, "*": (2,)}],
    ),
    "unless the step that writes it again may be skipped": (
        chain(call(A), call(A, {"n": "n"}, on_error="skip"), call(C, {"n": "a_out"})),
        [{"n": (1,), "*": ()}, {"a_out": (2,), "*": (0,)}, {"a_out": (2,), "*": (1,)}, {"c_out": None, "*": (2,)}],
    ),
    "a step that takes everything needs everything, and may write anything": (
        chain(call(A), call(ALL), call(C, {"n": "a_out"})),
        [{"n": (1,), "*": (1,)}, {"a_out": (2,), "*": (1,)}, {"a_out": (2,), "*": (1,)}, {"c_out": None, "*": (2,)}],
    ),
    "dynamic parameters are nobody's to let go": (
        chain(call(A, {"n": "p"}), dynamic_params=("p",), outputs=("a_out",)),
        [{"p": (0,), "*": ()}, {"a_out": None, "*": (0,)}],
    ),
    "a schema of the context needs its fields to the end": (
        chain(call(A), call(B), context_schema_ref=schema(Number), outputs=("b_out",)),
        [{"n": None, "*": ()}, {"a_out": (0,), "*": (0,)}, {"b_out": None, "*": (1,)}],
    ),
    "a schema that takes or refuses further keys needs everything": (
        chain(call(A), context_schema_ref=schema(Exactly), outputs=("a_out",)),
        [{"*": None}, {"*": None}],
    ),
    "a schema that keeps further keys likewise": (
        chain(call(A), context_schema_ref=schema(Anything), outputs=("a_out",)),
        [{"*": None}, {"*": None}],
    ),
    "a flow that ends with the whole context needs everything": (
        chain(call(A), call(B), outputs=None),
        [{"*": None}, {"*": None}, {"*": None}],
    ),
    "a sub-flow is compared with what was there before under its keys": (
        compiled(a_chain(call(A), call(C, {"n": "n"}), sub("inner", output_mapping={"x": "a_out"}), outputs=("x",)),
                 A, C, flows=[INNER]),
        [{"n": (2,), "x": (2,), "*": ()}, {"a_out": (0,), "*": (0,)}, {"c_out": (1,), "*": (1,)},
         {"x": None, "*": (2,)}],
    ),
    "and with the steps that wrote them": (
        compiled(a_chain(call(A), sub("inner"), call(C, {"n": "a_out"}), outputs=("c_out",)), A, C, flows=[INNER]),
        [{"n": (1,), "a_out": (1,), "*": ()}, {"a_out": (1,), "*": (0,)}, {"a_out": (2,), "*": (1,)},
         {"c_out": None, "*": (2,)}],
    ),
    "a sub-flow that may write anything with everything": (
        compiled(a_chain(call(A), sub("inner"), outputs=("a_out",)), A, ALL, flows=[ANY_INNER]),
        [{"n": (1,), "*": (1,)}, {"a_out": None, "*": (1,)}, {"a_out": None, "*": (1,)}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FLOWS)
def test_how_long_values_are_needed(case: str):
    """R37: a value may be let go right after the last step that looks at it."""
    result, expected = FLOWS[case]
    assert needed(result) == expected


@pytest.mark.parametrize("case", FLOWS)
def test_every_step_knows_the_values_that_wait_for_its_end(case: str):
    """R37: so that the end of a step costs what waits for it, and not a look at everything."""
    liveness = FLOWS[case][0].plan.liveness()
    waiting = {(at, index) for at, one in enumerate(liveness.ranges) for index in one.readers or ()}

    assert {(at, index) for index, ranges in enumerate(liveness.awaiting) for at in ranges} == waiting
    assert len(liveness.awaiting) == len(FLOWS[case][0].plan.steps)


@pytest.mark.parametrize("case", FLOWS)
def test_the_ranges_of_a_slot_name_each_key_once(case: str):
    """R37: one range holds all the keys that no other one names."""
    liveness = FLOWS[case][0].plan.liveness()
    for slot in range(len(FLOWS[case][0].plan.steps) + 1):
        *named_keys, rest = [one for one in liveness.ranges if one.slot == slot]
        keys = [key for one in named_keys for key in one.keys or ()]

        assert rest.keys is None
        assert {one.others for one in (*named_keys, rest)} == {frozenset(keys)}
        assert len(keys) == len({*keys})


def test_what_a_sub_flow_handed_back_is_known_when_all_who_wrote_its_keys_have_ended():
    """R27, R37: it is compared anew whenever one of them ends; the last time counts."""
    found = {case: dict(result.plan.liveness().compared) for case, (result, _) in FLOWS.items()}

    assert found.pop("a sub-flow is compared with what was there before under its keys") == {2: (2,)}
    assert found.pop("and with the steps that wrote them") == {0: (1,), 1: (1,)}
    assert found.pop("a sub-flow that may write anything with everything") == {0: (1,), 1: (1,)}
    assert not any(found.values())


def test_it_is_worked_out_once_and_only_when_asked_for():
    """R37: most runs keep what they have."""
    plan = chain(call(A)).plan
    assert plan.liveness() is plan.liveness()


class Checked(BaseModel):
    n: int

    @model_validator(mode="after")
    def checks(self) -> Self:
        return self


class CheckedTwice(Checked):
    @model_validator(mode="after")
    def checks_again(self) -> Self:
        return self


class SeesEverything(BaseModel):
    n: int

    @model_validator(mode="before")
    @classmethod
    def sees(cls, values: Any) -> Any:
        return values


class Wraps(BaseModel):
    n: int

    @model_validator(mode="wrap")
    @classmethod
    def wraps(cls, values: Any, handler: Any) -> Any:
        return handler(values)


class MakesItself(BaseModel):
    n: int

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)


class AllOfIt(RootModel[dict[str, int]]):
    pass


@pytest.mark.parametrize(
    ("model", "is_enough"),
    [
        (Checked, True),
        (CheckedTwice, True),
        (SeesEverything, False),
        (Wraps, False),
        (MakesItself, False),
        (AllOfIt, False),
    ],
)
def test_a_schema_that_sees_more_than_its_fields_needs_everything(model: type[BaseModel], is_enough: bool):
    """R37: what a validator before the model looks at, nobody knows."""
    result = chain(call(A), context_schema_ref=f"{__name__}:{model.__name__}", outputs=("a_out",))
    initial = needed(result)[0]

    assert initial == ({"n": None, "*": ()} if is_enough else {"*": None})
