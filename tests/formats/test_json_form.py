"""Views of values that JSON has no form for: printable, and spoilt no further than where the trouble is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from chainweaver import ExecutionResult, Flow, FlowExecutor, FlowStep, tool
from chainweaver.formats.json_form import json_form


class Careless(BaseModel):
    """Its default is no SecretStr, so pydantic's serializer of the field raises."""

    password: SecretStr = "none"  # type: ignore[assignment]  # what a user writes who forgets validate_default


def circle() -> list[Any]:
    around: list[Any] = [1]
    around.append(around)
    return around


def deep() -> list[Any]:
    inner: list[Any] = []
    for _ in range(100_000):
        inner = [inner]
    return inner


class Shy:
    def __repr__(self) -> str:
        raise RuntimeError("no")


AWKWARD: dict[str, Any] = {
    "half of a pair": "caf\udce9",
    "half of a pair in a key": {"caf\udce9": 1},
    "bytes that are no text": b"\xff",
    "bytes in a key": {b"\xff": 1},
    "a circle": circle(),
    "100 000 levels": deep(),
    "5 000 digits": 10**5000,
    "a serializer that raises": Careless(),
    "a repr that raises": Shy(),
    "an enumeration of oddities": [Shy(), {1j}, "\ud800", b"\xfe"],
}


@pytest.mark.parametrize("awkward", AWKWARD.values(), ids=AWKWARD)
def test_what_has_no_json_form_does_not_spoil_its_neighbours(awkward: Any):
    """Results: one part is shown by its repr, those beside it stay what they are."""
    form = json_form({"bad": awkward, "good": [1, {"k": None}]})
    json.dumps(form, ensure_ascii=False).encode("utf-8")
    assert form["good"] == [1, {"k": None}]


def test_the_part_is_shown_where_it_is():
    """Results: text is escaped in place, a circle ends where it closes."""
    assert json_form({"names": ["a", "caf\udce9"]}) == {"names": ["a", "caf\\udce9"]}
    assert json_form(circle()) == [1, "[1, [...]]"]
    assert json_form({"raw": b"\xff", "n": 1}) == {"raw": "b'\\xff'", "n": 1}
    assert json_form({1: "a", None: "b", (1, 2): "\ud800"}) == {"1": "a", "None": "b", "1,2": "\\ud800"}


@pytest.mark.parametrize("awkward", AWKWARD.values(), ids=AWKWARD)
def test_a_result_can_be_written_and_read_whatever_a_tool_returned(awkward: Any):
    """R36: the JSON of a result is a view that never fails, and reads back to the same view."""

    @tool(output="value")
    def make(n: int) -> Any:
        return awkward

    flow = Flow(name="odd", description="Something odd.", steps=[FlowStep(tool_name="make")])
    result = FlowExecutor(tools=[make], flows=[flow]).execute_flow("odd", {"n": 7})

    text = result.model_dump_json()
    again = ExecutionResult.model_validate_json(text)
    assert (again.initial_input, again.execution_log[0].inputs) == ({"n": 7}, {"n": 7})
    assert again.model_dump_json() == text


def test_an_error_text_that_cannot_be_encoded_is_escaped_when_it_is_written():
    """R36: a file name from the disk may hold half of a surrogate pair, and the record has to be writable."""

    @tool
    def read(n: int) -> int:
        raise FileNotFoundError("no file 'caf\udce9'")

    flow = Flow(name="odd", description="A name.", steps=[FlowStep(tool_name="read")])
    result = FlowExecutor(tools=[read], flows=[flow]).execute_flow("odd", {"n": 7})

    [record] = ExecutionResult.model_validate_json(result.model_dump_json()).execution_log
    assert "no file 'caf\\udce9'" in (record.error_message or "")
