"""The errors: what they say, what they remember, and that they survive every way of travelling."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from pydantic import BaseModel, Field, ValidationError

from chainweaver import exceptions
from chainweaver.exceptions import (
    ChainWeaverError,
    ContextKeyCollisionError,
    FlowCancelledError,
    FlowCompileError,
    FlowNotFoundError,
    InputMappingError,
    MissingExtraError,
    SchemaValidationError,
    ToolNotFoundError,
    error_code_registry,
    suggest,
    violations,
)


class Problem(NamedTuple):
    """Stands for an entry of a compilation, which has these four facts."""

    step_index: int
    tool_name: str
    issue_type: str
    detail: str


FAMILIES = (
    exceptions.DefinitionError,
    exceptions.InputError,
    exceptions.ToolError,
    exceptions.StoppedError,
    exceptions.InternalError,
)

# One call per class with its first line, written down as users see it.
SENTENCES: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "E001": (("x",), {}, "Tool 'x' is not registered."),
    "E002": (("f", "2.0"), {}, "Flow 'f' version '2.0' is not registered."),
    "E003": (("f",), {}, "Flow 'f' is already registered."),
    "E004": (
        ("t", 1, "field 'n': missing"),
        {"context": "input"},
        "Schema validation failed for tool 't' at step 1 (input): field 'n': missing.",
    ),
    "E005": (("total", 2, "items.row"), {}, "Input mapping of step 'total' reads unknown key 'items.row'."),
    "E006": (
        ("fetch", 0, "ConnectionError: host 'erp' refused."),
        {},
        "Tool 'fetch' failed at step 0: ConnectionError: host 'erp' refused.",
    ),
    "E007": (
        ("f", "Missing a return type annotation"),
        {},
        "Function 'f' cannot become a tool: Missing a return type annotation.",
    ),
    "E008": (("fetch", 1.5), {}, "Tool 'fetch' did not finish within 1.5 seconds."),
    "E009": (("fetch", 20, 10), {}, "Tool 'fetch' returned 20 bytes, more than its limit of 10 bytes."),
    "E010": (("f", "cycle", "a -> b -> a"), {}, "DAG flow 'f' is not valid (cycle): a -> b -> a."),
    "E011": (("f", "disabled"), {}, "Flow 'f' has status 'disabled' and does not run."),
    "E012": (("f", 3), {"deadline_exceeded": True}, "Flow 'f' was cancelled at step 3: deadline exceeded."),
    "E013": (("f", 3, "b", ["k", "l"]), {}, "Step 'b' (step 3) of flow 'f' overwrites context keys 'k', 'l'."),
    "E014": (("f", ["a", "b"]), {}, "Flow 'f' cannot run on the async lane; not supported: a, b."),
    "E015": (("f", "cycle", "f -> g -> f"), {}, "Flow 'f' cannot be composed (cycle): f -> g -> f."),
    "E016": (("f", "one"), {}, "Flow 'f' has an invalid version 'one'."),
    "E017": (("line 3",), {"source": "a.yaml"}, "Flow definition 'a.yaml' is not valid: line 3."),
    "E018": (("t1", "flow version changed"), {}, "Run 't1' cannot be resumed: flow version changed."),
    "E019": ((), {}, "'resume_flow' needs a checkpointer and the executor has none."),
    "E020": (("t1",), {}, "No checkpoint is stored for run 't1'."),
    "E021": (("t1", 2, 1), {}, "Checkpoint of run 't1' has format version '2', this release reads '1'."),
    "E022": (("g:n", "no such module"), {}, "Plugin 'g:n' cannot be loaded: no such module."),
    "E029": (("wipe", 1, "too risky"), {}, "Approval of tool 'wipe' at step 1 was denied: too risky."),
    "E030": (
        ("wipe", "destructive", "read"),
        {},
        "Tool 'wipe' has side effects 'destructive', above the ceiling 'read'.",
    ),
    "E031": (("route", 1, "'z' is no candidate"), {}, "Decision at step 1 ('route') failed: 'z' is no candidate."),
    "E036": (("a.b", "no attributes"), {}, "Predicate 'a.b' is not valid: no attributes."),
    "E037": (("'name' is missing",), {}, "Flow cannot be built: 'name' is missing."),
    "E041": (("total", 2, "sum"), {}, "Output mapping of step 'total' takes unknown output key 'sum'."),
    "E051": (("os:path", "not allowed"), {}, "Class reference 'os:path' is refused: not allowed."),
    "E052": (("mail", 2, "has a secret"), {}, "Guardrail refused tool 'mail' at step 2: has a secret."),
    "E100": (("f", ["map"]), {"lane": "ray"}, "Flow 'f' cannot run on the ray lane; not supported: map."),
    "E101": (("f", [Problem(0, "a", "missing_tool", "no 'a'")]), {}, "Flow 'f' does not compile: 1 error."),
    "E102": (("k.json", "checksum differs"), {}, "Stored artifact 'k.json' is corrupt: checksum differs."),
    "E103": (("t", 1, "k", "a socket"), {}, "Output 'k' of tool 't' at step 1 cannot be checkpointed: a socket."),
    "E104": (("second reply",), {}, "Run protocol violated: second reply."),
    "E105": (("yaml", "Reading YAML"), {}, "Reading YAML needs the extra 'yaml'."),
    "E107": (("f", ("tokn",)), {}, "Flow 'f' has no dynamic parameter 'tokn'."),
    "E108": (
        ("flow 'f'", "an OpenAI function", "no letter or digit of its name is allowed there"),
        {},
        "Flow 'f' cannot become an OpenAI function: no letter or digit of its name is allowed there.",
    ),
    "E109": (("t1",), {}, "No trace is kept for run 't1'."),
    "E110": (
        ("fetch", "0", "nothing is recorded"),
        {},
        "Call of tool 'fetch' at step '0' was not recorded: nothing is recorded.",
    ),
    "E111": (("a.json", "it is no JSON"), {}, "Cassette 'a.json' cannot be used: it is no JSON."),
    "E112": (("9f3c", "step 'a' failed"), {}, "Run '9f3c' cannot be replayed: step 'a' failed."),
    "E120": (("fit", -9, "SIGKILL"), {}, "The worker process of tool 'fit' was killed by signal SIGKILL."),
    "E121": (
        ("fit", "output", "lock", "TypeError: cannot pickle"),
        {},
        "Output 'lock' of tool 'fit' cannot be sent back from its worker process: TypeError: cannot pickle.",
    ),
    "E113": (("Replay of run '9f3c'", "step 'a' differs"), {}, "Replay of run '9f3c': step 'a' differs."),
    "E106": (("There is no file 'a.yaml'",), {"invalid": True}, "There is no file 'a.yaml'."),
    "E122": (
        ("sort", 1, "rows"),
        {"other": "total"},
        "Step 'sort' changes 'rows' in place while step 'total' may be looking at it.",
    ),
    "E123": (("rows", "it was read already"), {}, "Stream 'rows' cannot be read: it was read already."),
    "E124": (("rows", 3, "n: Field required"), {}, "Item 3 of stream 'rows' does not fit: n: Field required."),
}


def make(code: str, **more: Any) -> Any:
    args, facts, _ = SENTENCES[code]
    kind: Any = error_code_registry()[code]
    return kind(*args, **{**facts, **more})


def test_every_code_has_a_sentence_in_this_test():
    """Errors: a new error comes with its text."""
    assert SENTENCES.keys() == error_code_registry().keys()


@pytest.mark.parametrize("code", SENTENCES)
def test_the_first_line_is_the_promised_sentence_and_the_code_stands_before_it_only_when_rendered(code):
    """Errors: `str` starts with the sentence, `render` with the printed code."""
    error = make(code)

    assert str(error).splitlines()[0] == SENTENCES[code][2]
    assert error.render().splitlines()[0] == f"CW-{code} {SENTENCES[code][2]}"


@pytest.mark.parametrize("code", SENTENCES)
def test_arguments_are_attributes(code):
    """Errors: what went into the constructor can be read from the error."""
    error = make(code)
    args, facts, _ = SENTENCES[code]
    names = [name for name in inspect.signature(type(error).__init__).parameters if name != "self"]

    assert [getattr(error, name) for name in names[: len(args)]] == list(args)
    assert {name: getattr(error, name) for name in facts} == facts


@pytest.mark.parametrize("code", SENTENCES)
def test_every_error_survives_pickle_and_copy_with_all_its_facts(code):
    """Errors: text, arguments, keyword-only facts and what was set later travel along."""
    error = make(code, where="flow 'f' 1.0, step 2", known=(name for name in ["alpha", "beta"]), why="because")
    error.with_facts(fix="do this")
    error.noted = "later"

    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert (twin.render(), twin.args, twin.noted) == (error.render(), error.args, "later")
        assert (twin.where, twin.known, twin.why) == ("flow 'f' 1.0, step 2", ("alpha", "beta"), "because")


@pytest.mark.parametrize("code", SENTENCES)
def test_every_error_belongs_to_exactly_one_family(code):
    """Errors: families are cut by what the caller can do."""
    assert sum(issubclass(error_code_registry()[code], family) for family in FAMILIES) == 1


def test_a_result_that_is_attached_later_travels_along():
    """R17: what is raised out of a call carries `.result`."""
    cancelled = FlowCancelledError("f", 1, token_cancelled=True)
    assert cancelled.result is None

    cancelled.result = {"status": "cancelled"}

    assert pickle.loads(pickle.dumps(cancelled)).result == {"status": "cancelled"}
    assert ContextKeyCollisionError("f", 1, "b", ["k"], result=7).result == 7


def test_the_help_says_where_what_is_known_why_and_what_to_do():
    """Errors: lines below the sentence, labels in one column, the nearest name proposed."""
    error = InputMappingError(
        "sum_rows", 2, "row", step_name="total", flow_name="invoice", flow_version="1.2.0", known=["count", "rows"]
    )
    assert error.render() == (
        "CW-E005 Input mapping of step 'total' reads unknown key 'row'.\n"
        "  where   flow 'invoice' 1.2.0, step 2\n"
        "  known   count, rows\n"
        "  fix     did you mean 'rows'?"
    )


def test_a_given_fix_and_place_win_over_the_composed_ones():
    """Errors: whoever knows more says it."""
    error = ToolNotFoundError(
        "fetsh", known=["fetch"], fix="register it", where="here", flow_name="f", why="two\nlines"
    )
    assert str(error) == (
        "Tool 'fetsh' is not registered.\n"
        "  where   here\n"
        "  known   fetch\n"
        "  why     two\n"
        "          lines\n"
        "  fix     register it"
    )


def test_facts_can_be_filled_in_by_whoever_knows_them_and_never_overwrite():
    """Errors: the facade adds the place to what a tool raised."""
    error = ToolNotFoundError("fetsh", why="first")

    same = error.with_facts(flow_name="f", flow_version="1.0", known=["fetch"], why="second", fix=None)

    assert same is error
    assert str(error).splitlines()[1:] == [
        "  where   flow 'f' 1.0",
        "  known   fetch",
        "  why     first",
        "  fix     did you mean 'fetch'?",
    ]


def test_no_place_is_said_twice():
    """Errors: a sentence that names the flow needs no line for it."""
    assert str(FlowNotFoundError("f", known=["g"])).splitlines() == ["Flow 'f' is not registered.", "  known   g"]


def test_many_known_names_are_cut():
    """Errors: a list of five hundred names helps nobody."""
    text = str(ToolNotFoundError("zzz", known=[f"tool_{number:03}" for number in range(500)]))
    assert "tool_019, ... and 480 more" in text
    assert "tool_020" not in text


def test_a_detail_of_several_lines_keeps_the_first_line_a_sentence():
    """Errors: the first line can be shown alone."""
    error = SchemaValidationError("t", 0, "2 problems:\nfield 'a': missing\nfield 'b': missing", context="input")
    assert str(error).splitlines() == [
        "Schema validation failed for tool 't' at step 0 (input): 2 problems.",
        "  field 'a': missing",
        "  field 'b': missing",
    ]


def test_the_borders_of_a_flow_are_not_called_a_tool():
    """R8: a violation of the flow's own schema names the flow."""
    error = SchemaValidationError("invoice", -1, "field 'n': missing", context="flow input", flow_name="invoice")
    assert str(error).splitlines()[0] == "Schema validation failed for flow 'invoice' (flow input): field 'n': missing."


def test_a_compile_error_lists_every_offender():
    """R15: all compile errors at once, one line each."""
    error = FlowCompileError("f", [Problem(0, "a", "missing_tool", "no 'a'"), "something else"])
    assert str(error).splitlines() == [
        "Flow 'f' does not compile: 2 errors.",
        "  step 0 (a), missing_tool: no 'a'",
        "  something else",
    ]


def test_a_missing_extra_is_an_import_error_that_says_what_to_install():
    """Errors: optional parts name their extra."""
    with pytest.raises(ImportError, match="needs the extra 'yaml'"):
        raise MissingExtraError("yaml", "Reading YAML")
    assert "pip install 'chainweaver[yaml]'" in str(MissingExtraError("yaml", "Reading YAML"))


def test_codes_are_unique_and_classes_of_users_are_not_listed():
    """Errors: the registry lists the library's own codes, in order."""

    class Ours(ToolNotFoundError):
        """A user's refinement keeps the code of its parent."""

    codes = error_code_registry()
    assert list(codes) == sorted(codes)
    assert codes["E001"] is ToolNotFoundError
    assert Ours("x").code == "E001"
    assert len(set(codes.values())) == len(codes)
    named = {name for name in exceptions.__all__ if name.endswith("Error")}
    assert {kind.__name__ for kind in codes.values()} | {f.__name__ for f in FAMILIES} | {"ChainWeaverError"} == named


def test_a_plain_root_error_works_as_well():
    """Errors: the root can be raised and printed."""
    assert pickle.loads(pickle.dumps(ChainWeaverError("Broken"))).render() == "CW-E000 Broken."


@pytest.mark.parametrize(
    ("name", "known", "near"),
    [("row", ["rows", "count"], "rows"), ("Rows", ["rows"], "rows"), ("x", ["rows"], None), ("row", [], None)],
)
def test_suggest_names_what_was_probably_meant(name, known, near):
    """Errors: near is proposed, far is not."""
    assert suggest(name, known) == near


def test_the_module_is_cheap_to_import():
    """Errors: nothing is loaded for the suggestions before one is asked for."""
    code = "import sys, chainweaver.exceptions; print('difflib' in sys.modules, 'pydantic' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


def test_the_tag_of_a_union_is_not_repeated_in_the_findings():
    """R13: no refused value gets into an error text, not even where Pydantic's own words hold it."""
    with pytest.raises(ValidationError) as caught:
        Owner.model_validate({"pet": {"kind": "my secret"}})
    assert violations(caught.value) == "pet: Input tag found using 'kind' is none of the expected tags: 'cat', 'dog'"


def test_a_coroutine_where_a_value_belongs_is_told_as_what_it_is():
    """R16: a decorator that hides an `async def` is found by its message."""

    async def fetch() -> Any:
        raise AssertionError("nobody awaits it")

    coroutine = fetch()
    for given in (coroutine, {"kind": coroutine}):
        with pytest.raises(ValidationError) as caught:
            Cat.model_validate(given)
        assert "it is a coroutine, which nobody awaits" in violations(caught.value)
    coroutine.close()
