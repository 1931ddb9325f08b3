"""What a schema declares secret, as the plan knows it: which values views have to hide before anything is validated."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretBytes, SecretStr

from tests.compiler.kit import a_chain, a_tool, call, compiled, named, schema, sub
from tests.compiler.schemas import Exactly


class Login(BaseModel):
    key: SecretStr = Field(alias="apiKey")
    user: str


class Kept(BaseModel):
    keys: list[SecretStr] = []
    raw: SecretBytes = SecretBytes(b"")
    by_name: dict[str, SecretStr] = {}


LOGIN, KEPT, PLAIN = a_tool("login", Login, ["n"]), a_tool("kept", Kept, ["n"]), a_tool("plain", ["n"], ["m"])


def hidden(flow: Any, values: dict[str, Any], *tools: Any, flows: Any = (), index: int = 0) -> dict[str, Any]:
    """The inputs of a step as views show them."""
    tool = compiled(flow, *tools, flows=flows).plan.steps[index].tool
    assert tool is not None
    assert tool.hide is not None
    return tool.hide(values)


def test_a_secret_input_is_hidden_under_its_name_and_its_alias():
    """R39: a caller may have given plain text; what is no secret stays as it is."""
    shown = hidden(a_chain(call(LOGIN)), {"apiKey": "s3cr3t", "key": "s3cr3t", "user": "Ada"}, LOGIN)

    assert shown == {"apiKey": SecretStr("s3cr3t"), "key": SecretStr("s3cr3t"), "user": "Ada"}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"keys": ["a", "b"]}, {"keys": [SecretStr("a"), SecretStr("b")]}),
        ({"keys": ("a",)}, {"keys": (SecretStr("a"),)}),
        ({"keys": {"a"}}, {"keys": {SecretStr("a")}}),
        ({"raw": b"a"}, {"raw": SecretBytes(b"a")}),
        ({"by_name": {"k": "a"}}, {"by_name": {"k": SecretStr("a")}}),
        ({"keys": None, "raw": 3}, {"keys": None, "raw": 3}),
        ({"keys": [SecretStr("a")]}, {"keys": [SecretStr("a")]}),
    ],
)
def test_texts_inside_of_containers_are_hidden_too(given: dict[str, Any], shown: dict[str, Any]):
    """R39: whatever they stand in; what is hidden already, and what is no text, is left alone."""
    assert hidden(a_chain(call(KEPT)), given, KEPT) == shown


def test_without_a_secret_there_is_nothing_to_hide():
    """R39: and nothing that it would cost."""
    tool = compiled(a_chain(call(PLAIN)), PLAIN).plan.steps[0].tool

    assert tool is not None
    assert tool.hide is None


def test_a_sub_flow_hides_what_its_own_schema_declares():
    """R27, R39: the step around it shows its inputs too."""
    inner = named("inner", a_chain(call(LOGIN), input_schema_ref="tests.compiler.test_hidden:Login"))

    assert hidden(a_chain(sub("inner")), {"apiKey": "s3cr3t"}, LOGIN, flows=[inner]) == {"apiKey": SecretStr("s3cr3t")}


def test_the_input_of_a_flow_hides_what_its_schema_declares():
    """R39: the result shows what was given."""
    gates = [
        compiled(a_chain(call(LOGIN), input_schema_ref=ref), LOGIN).plan.input_gate
        for ref in ("tests.compiler.test_hidden:Login", schema(Exactly))
    ]
    with_secret, without = gates

    assert with_secret is not None
    assert with_secret.hide is not None
    assert with_secret.hide({"apiKey": "s3cr3t", "user": "Ada"}) == {"apiKey": SecretStr("s3cr3t"), "user": "Ada"}
    assert without is not None
    assert without.hide is None


MAPS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "the item is the secret": (
        {"apiKey": "item", "user": "owner"},
        {"keys": ["a"], "owner": "Ada"},
        {"keys": [SecretStr("a")], "owner": "Ada"},
    ),
    "a part of the item is": (
        {"apiKey": "/item/k", "user": "owner"},
        {"keys": [{"k": "a"}]},
        {"keys": [{"k": SecretStr("a")}]},
    ),
    "a key of the context is": (
        {"apiKey": "mine", "user": "item"},
        {"keys": ["Ada"], "mine": "a"},
        {"keys": ["Ada"], "mine": SecretStr("a")},
    ),
    "a broken mapping": ({"apiKey": "/a/~2", "user": "item"}, {"keys": ["Ada"]}, {}),
}


@pytest.mark.parametrize("case", MAPS)
def test_a_map_hides_the_keys_that_feed_secrets_to_its_calls(case: str):
    """R28, R39: its record shows what it read once, the list among it."""
    mapping, given, shown = MAPS[case]
    flow = a_chain(call(LOGIN, mapping, map_over="keys"))
    tool = compiled(flow, LOGIN).plan.steps[0].tool

    assert tool is not None
    if not shown:
        assert tool.hide is None
    else:
        assert tool.hide is not None
        assert tool.hide(given) == shown


def test_a_map_without_a_mapping_hides_the_names_that_its_calls_look_for():
    """R6, R28, R39: and the list, when the item goes by such a name."""
    flow = a_chain(call(LOGIN, map_over="/user/keys", map_as="apiKey"))

    assert hidden(flow, {"user": {"keys": ["a"]}, "n": 1}, LOGIN) == {"user": {"keys": [SecretStr("a")]}, "n": 1}
