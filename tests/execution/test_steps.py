"""One step: what it is called with, what becomes of its outputs, and how a fault in either is told.

Each test runs on the short path of the walk, through the life of a step, and on a schedule.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, computed_field

from chainweaver import FlowStep
from chainweaver._execution import Run
from chainweaver.exceptions import (
    ChainWeaverError,
    FlowExecutionError,
    InputMappingError,
    OutputMappingError,
    SchemaValidationError,
    ToolNotFoundError,
)
from chainweaver.plan import Plan
from tests.execution.kit import Crowd, Walk, a_plan, a_run, a_step, a_tool, error_of, one_step, statuses

DOUBLE = a_tool("double", ["n"], ["m"])


class Anything(BaseModel):
    model_config = ConfigDict(extra="allow")


class Strict(BaseModel):
    n: int = Field(lt=10)


class Played:
    """A run of a single step that asked for its call, or ended before."""

    def __init__(self, way: str, plan: Plan, initial: Any, **options: Any) -> None:
        self.run: Run = a_run(plan, initial, resumed=way == "life", **options)
        self.driver: Crowd | Walk
        if way == "schedule":
            self.driver = crowd = Crowd(self.run)
            self.asks = crowd.asks("0") if crowd.began else None
            if crowd.schedule.over:
                crowd.concluded()
        else:
            self.driver = walk = Walk(self.run)
            self.asks = walk.asks

    def ok(self, reply: Any) -> Run:
        if isinstance(self.driver, Crowd):
            self.driver.ok("0", reply)
            return self.driver.concluded()
        self.driver.ok(reply)
        return self.run

    @property
    def error(self) -> ChainWeaverError:
        found = error_of(self.run)
        assert isinstance(found, ChainWeaverError)
        return found


@pytest.fixture(params=["short", "life", "schedule"])
def play(request):
    """Starts a run of a single step in one of the three ways."""

    def start(tool: Any = DOUBLE, initial: Any = None, others: Any = (), **step: Any) -> Played:
        flow = step.pop("flow", {})
        options = step.pop("run", {})
        plan = one_step(tool, *others, flow=flow, **step)
        return Played(request.param, plan, {"n": 4} if initial is None else initial, **options)

    return start


# ---- inputs


def test_a_tool_is_called_with_its_validated_inputs(play):
    """R6: an empty mapping takes the context keys that the input model names."""
    assert play(initial={"n": "4", "other": 1}).asks == ("call", "double", {"n": 4})


def test_records_show_the_inputs_as_the_mapping_resolved_them(play):
    """R36: before validation."""
    played = play(initial={"n": "4"})

    assert played.run.inputs == [{"n": "4"}]


def test_inputs_that_do_not_fit_fail_the_step_without_a_call(play):
    """R16: the message says field and reason, and never the refused value."""
    played = play(initial={"n": "password"})

    assert played.asks is None
    assert isinstance(played.error, SchemaValidationError)
    assert played.error.context == "input"
    assert "n: Input should be a valid integer" in played.error.detail
    assert "password" not in str(played.error)
    assert type(played.error.__cause__).__name__ == "ValidationError"
    assert played.run.inputs == [{"n": "password"}]
    assert played.run.status == "failed"


def test_an_unknown_key_is_told_with_the_known_ones(play):
    """R16: an input mapping that reads nothing."""
    played = play(initial={"number": 4}, input_mapping={"n": "nmber"})

    assert isinstance(played.error, InputMappingError)
    assert played.error.key == "nmber"
    assert played.error.known == ("number",)
    assert "did you mean 'number'?" in str(played.error)
    assert played.run.inputs == [{}]


def test_a_pointer_that_leads_nowhere_is_told_with_what_is_there(play):
    """R6: the names at the place where the pointer broke off."""
    played = play(initial={"row": {"count": 1}}, input_mapping={"n": "/row/cuont"})

    assert isinstance(played.error, InputMappingError)
    assert (played.error.key, played.error.known) == ("/row/cuont", ("count",))


class Unspeakable:
    def __init__(self, exc: Exception) -> None:
        self.exc = exc

    def __str__(self) -> str:
        raise self.exc


@pytest.mark.parametrize("exc", [RuntimeError("no words"), KeyError(), ValueError("no text")])
def test_an_object_that_breaks_its_template_fails_the_step(play, exc):
    """R16: whatever reading the inputs raises is recorded with its cause."""
    say = a_tool("say", {"text": str}, ["m"])
    played = play(say, {"who": Unspeakable(exc)}, input_mapping={"text": {"$template": "Dear ${who}"}})

    assert played.asks is None
    assert isinstance(played.error, FlowExecutionError)
    assert played.error.__cause__ is exc


def test_a_planned_fault_fails_the_step_when_the_run_reaches_it(play):
    """R16: a missing tool is recorded like any failure."""
    step = FlowStep(tool_name="duoble")
    plan = a_plan([step], [DOUBLE])
    walk = Walk(a_run(plan, {"n": 1}))

    assert walk.asks is None
    error = error_of(walk.run)
    assert isinstance(error, ToolNotFoundError)
    assert walk.run.inputs == [{}]
    assert error is not error_of(Walk(a_run(plan, {"n": 1})).run), "every run makes an error of its own"


def test_dynamic_parameters_are_read_and_never_shown(play):
    """R13: they are readable like context keys and enter no record."""
    played = play(initial={}, flow={"dynamic_params": ("n",)}, run={"dynamic": {"n": 4}})

    assert played.asks == ("call", "double", {"n": 4})
    assert played.run.inputs == [{"n": "<dynamic parameter>"}]
    assert played.ok({"m": 8}).final_output == {"m": 8}


def test_an_input_contract_stands_before_the_schema(play):
    """Contracts: what the step promises to pass on is checked first, and named."""
    contract = f"{__name__}:Strict"
    assert play(input_contract=contract).asks == ("call", "double", {"n": 4})
    played = play(initial={"n": 40}, input_contract=contract)

    assert played.asks is None
    assert isinstance(played.error, SchemaValidationError)
    assert played.error.context == "input contract"
    assert "n: Input should be less than 10" in played.error.detail


# ---- outputs


def test_validated_outputs_enter_the_context(play):
    """R10: coerced values, the fields of the schema only."""
    run = play().ok({"m": "8", "more": 1})

    assert run.slots[1] == {"m": 8}
    assert run.final_output == {"n": 4, "m": 8}
    assert run.status == "ok"
    assert 0 < run.ended[0] == run.now_ns


@pytest.mark.parametrize("kind", [dict, list, set])
def test_the_object_that_a_tool_returns_is_the_object_that_goes_on(play, kind):
    """R14: identity, in a mapping as in a model."""
    made = kind()
    tool = a_tool("make", ["n"], {"made": (Any, ...)})

    assert play(tool).ok({"made": made}).slots[1]["made"] is made
    assert play(tool).ok(tool.output_schema(made=made)).slots[1]["made"] is made


def test_a_model_that_the_tool_keeps_is_not_shared(play):
    """R14: the context holds a dict of its own, so that the tool cannot change it later."""
    returned = DOUBLE.output_schema(m=8)
    run = play().ok(returned)
    returned.m = 9

    assert run.slots[1] == {"m": 8}


class Half(BaseModel):
    m: int


class Same(BaseModel):
    m: str
    more: Any = None

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def twice(self) -> int:
        return 2 * int(self.m)


@pytest.mark.parametrize("returned", [Half(m=8), Same(m="8", more=object())])
def test_an_instance_of_another_model_is_taken_by_its_fields(play, returned):
    """R10: what fits the output schema passes, whatever class it comes in."""
    run = play().ok(returned)

    assert run.status == "ok"
    assert run.slots[1] == {"m": 8}


def test_a_tool_that_is_tried_by_hand_takes_other_models_likewise():
    """R10: `Tool.run` and a run agree about what fits."""
    tool = a_tool("half", ["n"], ["m"], lambda inputs: Half(m=8))

    assert tool.run({"n": 1}) == {"m": 8}


def test_an_instance_of_another_model_keeps_the_identity_of_its_values(play):
    """R14: fields are taken as they are, never dumped."""
    rows = [1]
    tool = a_tool("rows", ["n"], {"more": (Any, ...), "twice": int})
    run = play(tool).ok(Same(m="8", more=rows))

    assert run.slots[1] == {"more": [1], "twice": 16}
    assert run.slots[1]["more"] is rows


def test_an_instance_of_another_model_that_does_not_fit_fails_the_step(play):
    """R16: the message is about the fields, not about the class."""
    played = play(a_tool("rows", ["n"], {"rows": int}))
    played.ok(Half(m=8))

    assert isinstance(played.error, SchemaValidationError)
    assert played.error.detail == "rows: Field required"
    assert played.run.slots[1] is None


def test_a_subclass_of_the_output_model_is_an_instance_of_it(play):
    """R10: its additional fields stay out."""
    kind = type("Sub", (DOUBLE.output_schema,), {"__annotations__": {"more": int}})

    assert play().ok(kind(m=8, more=1)).slots[1] == {"m": 8}


@dataclasses.dataclass
class Record:
    m: int


@pytest.mark.parametrize("returned", [None, 8, [("m", 8)], Record(8), object(), {"m": "eight"}, {}])
def test_outputs_that_do_not_fit_fail_the_step(play, returned):
    """R16: a mapping or a model with the fields of the schema, nothing else."""
    played = play()
    played.ok(returned)

    assert isinstance(played.error, SchemaValidationError)
    assert played.error.context == "output"
    assert played.error.tool_name == "double"
    assert played.error.__cause__ is not None
    assert played.run.status == "failed"


class Deceptive(BaseModel):
    m: int

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def half(self) -> float:
        raise ZeroDivisionError("no half")


@pytest.mark.parametrize("returned", [{"m": 8}, Half(m=8)])
def test_outputs_that_cannot_be_opened_fail_the_step(play, returned):
    """R16: a computed field that raises is a fault of the outputs."""
    played = play(a_tool("deceive", ["n"], Deceptive))
    played.ok(returned)

    assert isinstance(played.error, SchemaValidationError)
    assert played.error.detail == "ZeroDivisionError: no half"


class Talkative(BaseModel):
    m: int

    def model_post_init(self, context: Any) -> None:
        raise Silent


class Silent(ValueError):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_a_validator_whose_error_cannot_be_told_is_told_by_its_class(play):
    """R17: not even an error text may break the run."""
    played = play(a_tool("talk", ["n"], Talkative))
    played.ok({"m": 1})

    assert isinstance(played.error, SchemaValidationError)
    assert played.run.status == "failed"


def test_an_output_contract_stands_behind_the_schema(play):
    """Contracts: what the step promises to give is checked last, and named."""
    contract = f"{__name__}:Strict"
    tool = a_tool("same", ["n"], ["n"])
    assert play(tool, output_contract=contract).ok({"n": 5}).status == "ok"
    played = play(tool, output_contract=contract)
    played.ok({"n": 50})

    assert isinstance(played.error, SchemaValidationError)
    assert played.error.context == "output contract"


# ---- output mapping


def test_an_output_mapping_renames_and_prunes(play):
    """R11: at the merge only; the record keeps the tool's own names."""
    tool = a_tool("pair", ["n"], ["a", "b"])
    run = play(tool, output_mapping={"first": "a"}).ok({"a": 1, "b": 2})

    assert run.slots[1] == {"first": 1}
    assert run.shown_outputs(0) == {"a": 1, "b": 2}
    assert run.final_output == {"n": 4, "first": 1}


def test_an_output_mapping_of_containers_shows_a_snapshot(play):
    """R11, R36: renaming and snapshots go together."""
    rows = [1]
    run = play(a_tool("rows", ["n"], {"rows": Any}), output_mapping={"found": "rows"}).ok({"rows": rows})

    assert run.slots[1]["found"] is rows
    assert run.shown_outputs(0) == {"rows": [1]}
    assert run.shown_outputs(0)["rows"] is not rows


def test_a_missing_output_key_fails_the_step(play):
    """R11: where the compiler could not see it, because the outputs are open."""
    played = play(a_tool("open", ["n"], Anything), output_mapping={"x": "totl"})
    played.ok({"total": 1, "count": 2})

    assert isinstance(played.error, OutputMappingError)
    assert played.error.known == ("total", "count")
    assert "did you mean 'total'?" in str(played.error)
    assert played.run.slots[1] is None


# ---- readers of steps that were skipped


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int


@pytest.mark.parametrize("crowd", [False, True])
def test_what_a_skipped_step_did_not_write_is_missing_for_its_readers(crowd):
    """R3, R21: with nobody else to write the key, the reader is told which key it is."""
    tools = [a_tool("a", ["n"], ["x"]), a_tool("b", {"x": int}, ["y"])]
    steps = [a_step("a", on_error="skip"), a_step("b", "a", input_mapping={"x": "x"})]
    plan = a_plan(steps, tools, input_schema_ref=f"{__name__}:Closed")
    run = a_run(plan, {"n": 1})
    if crowd:
        driver = Crowd(run)
        driver.err("a", OSError("down"))
        driver.concluded()
    else:
        Walk(run).err(OSError("down"))

    assert statuses(run) == {"a": "skipped", "b": "failed"}
    error = error_of(run, 1)
    assert isinstance(error, InputMappingError)
    assert error.key == "x"
