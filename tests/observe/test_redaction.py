"""Redaction: what views do not show. No flow runs here; records and results are made by hand."""

from __future__ import annotations

import json
import pickle
import re
from collections import UserDict, deque
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum
from html import escape
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, SecretBytes, SecretStr, computed_field

from chainweaver import Flow, FlowExecutionError, FlowExecutor, FlowStep, RedactionPolicy, tool
from chainweaver.observe import SECRET_KEYS
from tests.observe.views import a_record, a_result, texts_of

POLICY = RedactionPolicy()


class Login(BaseModel):
    user: str
    password: str


class Pair(NamedTuple):
    user: str
    token: str


@dataclass
class Session:
    user: str
    secret: Any


# ---- by name


@pytest.mark.parametrize(
    "name",
    [
        *("password", "PASSWORD", "db_password", "passwordHash", "token", "accessToken", "access-token", "X-Api-Key"),
        *("apikey", "client_secret", "secret_key", "Authorization", "Proxy-Authorization", "cookie", "aws_access_key"),
    ],
)
def test_values_under_the_usual_names_of_secrets_are_hidden(name: str) -> None:
    """R39: case, hyphens and camel case do not matter."""
    assert POLICY.redact_mapping({name: "x"}) == {name: "***"}


@pytest.mark.parametrize("name", ["tokens", "max_tokens", "token_count", "secretary", "passenger", "key", "author", ""])
def test_names_that_only_sound_like_secrets_are_shown(name: str) -> None:
    """R39: a view that hides everything shows nothing."""
    assert POLICY.redact_mapping({name: "x"}) == {name: "x"}


def test_own_names_may_be_exact_or_patterns() -> None:
    """R39: names are compared whole, or by `*`, `?` and `[...]`."""
    policy = RedactionPolicy(keys=["ssn", "card_*", "pin?", "x[12]"])
    values = dict.fromkeys(["SSN", "ssn2", "cardNumber", "card", "pin1", "pin", "x1", "x3", "password"], "v")
    hidden = [name for name, value in policy.redact_mapping(values).items() if value == "***"]
    assert hidden == ["SSN", "cardNumber", "pin1", "x1"]


def test_everything_under_a_hidden_name_is_hidden_and_nothing_is_shown_as_nothing() -> None:
    """R39: whatever the value is; None tells only that there is no secret."""
    values = {"password": ["a", {"b": 1}], "token": 0, "secret": False, "api_key": None, "auth": ""}
    shown = {"password": "***", "token": "***", "secret": "***", "api_key": None, "auth": "***"}
    assert POLICY.redact_mapping(values) == shown


def test_secret_types_are_hidden_whatever_their_name_is() -> None:
    """R39: SecretStr, SecretBytes and the types of the policy."""
    policy = RedactionPolicy(types=[Decimal])
    values = {"a": SecretStr("s"), "b": [SecretBytes(b"s")], "c": Decimal(1), "d": 1}
    assert policy.redact_mapping(values) == {"a": "***", "b": ["***"], "c": "***", "d": 1}


# ---- by path


def test_paths_are_pointers_in_which_a_star_stands_for_any_token() -> None:
    """R39: paths lead through dicts, lists, models and named tuples."""
    policy = RedactionPolicy(paths=["/user/ssn", "/orders/*/card", "/rows/1", "/a~1b/~0", "/login/user", "/pair/0"])
    shown = policy.redact_mapping(
        {
            "user": {"ssn": "1", "name": "Ada"},
            "orders": [{"card": "2", "n": 1}, {"card": "3"}],
            "rows": (1, 2, 3),
            "a/b": {"~": 4},
            "login": Login(user="ada", password=""),
            "pair": Pair("ada", "t"),
            "ssn": "5",
        }
    )
    assert shown == {
        "user": {"ssn": "***", "name": "Ada"},
        "orders": [{"card": "***", "n": 1}, {"card": "***"}],
        "rows": (1, "***", 3),
        "a/b": {"~": "***"},
        "login": {"user": "***", "password": "***"},
        "pair": Pair("***", "***"),
        "ssn": "5",
    }


def test_a_part_that_stands_at_two_places_is_hidden_only_where_the_path_leads() -> None:
    """R39: what was found out about a shared part at one place does not hold at another."""
    shared = {"x": 1}
    shown = RedactionPolicy(paths=["/b/x"]).redact_mapping({"a": shared, "b": shared, "c": shared})
    assert shown == {"a": {"x": 1}, "b": {"x": "***"}, "c": {"x": 1}}


# ---- by form


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Bearer abcdefghijklmnop1234", "Bearer ***"),
        ("GET / Authorization: Basic dXNlcjpwYXNz failed", "GET / Authorization: Basic *** failed"),
        ("postgres://ada:hunter2@db:5432/x", "postgres://ada:***@db:5432/x"),
        ("https://host:8080/path", "https://host:8080/path"),
        ("key AKIAABCDEFGHIJKLMNOP", "key ***"),
        ("jwt eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.abc-_", "jwt ***"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- rest", "*** rest"),
        ("a bearer of bad news", "a bearer of bad news"),
        ("a basic misunderstanding", "a basic misunderstanding"),
    ],
)
def test_tokens_that_give_themselves_away_are_hidden_inside_texts(text: str, shown: str) -> None:
    """R39: by default; only the part that is secret."""
    assert POLICY.redact_text(text) == shown
    assert POLICY.redact_mapping({"note": text, "raw": text.encode()}) == {"note": shown, "raw": shown.encode()}


def test_own_patterns_replace_those_that_come_along() -> None:
    """R39: a pattern hides its match, or the group named `secret`."""
    policy = RedactionPolicy(patterns=[r"\d{3}-\d\d", re.compile(r"pin (?P<secret>\d+)", re.IGNORECASE)])
    assert policy.redact_text("ssn 123-45, PIN 99, Bearer abcdefghijklmnop1234") == (
        "ssn ***, PIN ***, Bearer abcdefghijklmnop1234"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("connect(password=hunter2)", "connect(password=***)"),
        ("Login(user='ada', password='hun ter2')", "Login(user='ada', password='***')"),
        ("{'user': 'ada', 'password': 'it\\'s'}", "{'user': 'ada', 'password': '***'}"),
        ('{"api_key":"k","n":1}', '{"api_key":"***","n":1}'),
        ("http://h/?user=ada&token=abc&n=1", "http://h/?user=ada&token=***&n=1"),
        ("password: Field required", "password: Field required"),
        ("user=ada", "user=ada"),
    ],
)
def test_values_that_a_text_gives_to_hidden_names_are_hidden(text: str, shown: str) -> None:
    """R39: as calls, reprs, JSON and query strings write them."""
    assert POLICY.redact_text(text) == shown
    assert POLICY.redact_text(shown) == shown


def test_a_replacement_of_several_words_stays_as_it_is() -> None:
    """R39: redacting twice is redacting once."""
    policy = RedactionPolicy(replacement="[not shown here]")
    once = policy.redact_text("password=a, 'token': 'b'")
    assert once == "password=[not shown here], 'token': '[not shown here]'"
    assert policy.redact_text(once) == once


# ---- secrets at hand


def test_a_hidden_value_vanishes_from_the_texts_beside_it() -> None:
    """R39: error texts and mapped copies of a secret are no way out."""
    shown = POLICY.redact_mapping({"password": "hunter2!", "header": "user hunter2!", "list": ["hunter2!"], "n": 2})
    assert shown == {"password": "***", "header": "user ***", "list": ["***"], "n": 2}


@pytest.mark.parametrize(
    ("secret", "text", "shown"),
    [
        ("hunter2!", "xhunter2!x", "x***x"),
        ("pin4", "pin4 pin42 spin4 (pin4)", "*** pin42 spin4 (***)"),
        ("abc", "abc", "abc"),
        ("true", "true", "true"),
        ("password", "the password is wrong", "the password is wrong"),
        ("it's a\nsecret", 'bad: "it\'s a\\nsecret"', 'bad: "***"'),
        ("a b&c=d/e", "GET ?q=a%20b%26c%3Dd%2Fe", "GET ?q=***"),
        ("line one here\nline two here", "  line one here\n  line two here", "  ***\n  ***"),
        ("<b>&secret", "<td>&lt;b&gt;&amp;secret</td>", "<td>***</td>"),
        ("schlüssel", '"schl\\u00fcssel"', '"***"'),
        ("abcdefghijklmnopqrstuvwxyz", "input_value='abcdefghij...rstuvwxyz', type", "input_value='***...***', type"),
        ("abcdefghijklmnopqrstuvwxyz", "see above...", "see above..."),
    ],
    ids=lambda value: value[:12],
)
def test_secrets_at_hand_vanish_in_every_spelling(secret: str, text: str, shown: str) -> None:
    """R39: escaped, quoted, by lines and shortened; short ones as whole words, and not words that name secrets."""
    assert POLICY.redact_text(text, [secret]) == shown


@given(secret=st.text(st.sampled_from("aZ09_-.~+ /'<\\ü"), min_size=8, max_size=12))
def test_a_secret_vanishes_however_json_urls_and_html_spell_it(secret: str) -> None:
    """R39: also where all spellings are one, and nothing has to be worked out."""
    spelt = (secret, json.dumps(secret)[1:-1], quote(secret, safe=""), escape(secret))
    assert [POLICY.redact_text(f"({one})", [secret]) for one in spelt] == ["(***)"] * 4


def test_numbers_bytes_and_ids_are_looked_for_as_they_are_written() -> None:
    """R39: a secret need not be a text."""
    uid = UUID(int=2**100)
    secrets = POLICY.secrets_in({"token": [12345678, b"raw-bytes", uid, SecretStr("inside"), Session("ada", "deep")]})
    assert secrets == {"12345678", "raw-bytes", str(uid), "inside", "ada", "deep"}
    shown = POLICY.redact_mapping({"token": 12345678, "a": 12345678, "b": "no 12345678", "c": 1234})
    assert shown == {"token": "***", "a": "***", "b": "no ***", "c": 1234}


def test_a_bare_text_is_one_secret_and_not_many_letters() -> None:
    """R39: a slip in a call hides what was meant."""
    assert POLICY.redact_text("abcdefgh a b", "abcdefgh") == "*** a b"


# ---- containers


def test_containers_are_copied_only_where_they_change() -> None:
    """R39: nothing is changed in place, and what is unchanged is the same object."""
    array = np.arange(3)
    values = {"kept": [1, {"a": (2,)}], "array": array, "changed": [{"token": "t"}, {"n": 1}], "f": test_containers}
    shown = POLICY.redact_mapping(values)
    assert shown["changed"] == [{"token": "***"}, {"n": 1}]
    assert values["changed"] == [{"token": "t"}, {"n": 1}]
    assert shown["changed"][1] is values["changed"][1]  # type: ignore[index]  # a list
    assert all(shown[name] is values[name] for name in ("kept", "array", "f"))
    assert POLICY.redact_mapping(values["kept"][1]) is values["kept"][1]  # type: ignore[index,arg-type]  # a list


def test_containers() -> None:
    """R39: all kinds of containers are looked into."""
    shown = POLICY.redact_mapping(
        {
            "set": {Pair("ada", "t")},
            "frozen": frozenset({("Bearer abcdefghijklmnop1234",)}),
            "deque": deque([{"token": "t"}]),
            "proxy": MappingProxyType({"token": "t"}),
            "user_dict": UserDict(token="t"),
            "bytearray": bytearray(b"password=x"),
            "keys": {"Bearer abcdefghijklmnop1234": 1, "Bearer abcdefghijklmnop5678": 2},
            "odd keys": {b"token": 1, 7: 2, (1,): 3, None: 4},
        }
    )
    assert shown == {
        "set": {Pair("ada", "***")},
        "frozen": frozenset({("Bearer ***",)}),
        "deque": [{"token": "***"}],
        "proxy": {"token": "***"},
        "user_dict": {"token": "***"},
        "bytearray": b"password=***",
        "keys": {"Bearer ***": 1, "Bearer *** (2)": 2},
        "odd keys": {b"token": "***", 7: 2, (1,): 3, None: 4},
    }


def test_models_and_dataclasses_with_something_hidden_become_dicts_of_what_is_written_of_them() -> None:
    """R39: aliases and computed fields count; no constructor, validator or serializer of users runs."""

    class Full(BaseModel):
        model_config = ConfigDict(extra="allow", populate_by_name=True)
        user: str
        word: str = Field(alias="passWord")
        left_out: str = Field(default="x", exclude=True)

        @computed_field  # type: ignore[prop-decorator]  # as Pydantic documents it
        @property
        def dsn(self) -> str:
            return f"db {self.user} {self.word}"

    full = Full(user="ada", word="hunter2!", extra_token="t")
    shown = POLICY.redact_mapping({"a": full, "b": Session("ada", "s"), "c": [Login(user="ada", password="p")]})
    assert shown == {
        "a": {"user": "ada", "word": "***", "extra_token": "***", "dsn": "db ada ***"},
        "b": {"user": "ada", "secret": "***"},
        "c": [{"user": "ada", "password": "***"}],
    }


def test_models_with_nothing_hidden_stay_themselves() -> None:
    """R39: a view copies what changes and nothing else."""

    class Plain(BaseModel):
        name: str

    class Names(RootModel[list[str]]):
        pass

    values = {"plain": Plain(name="Ada"), "names": Names(["Ada"]), "session": Session("ada", None)}
    assert POLICY.redact_mapping(values) is values
    assert POLICY.redact_mapping({"names": Names(["password=x"])}) == {"names": ["password=***"]}


def test_texts_that_are_enum_members_or_subclasses_are_looked_at() -> None:
    """R39: what JSON writes as a text is a text."""

    class Url(str):
        pass

    class Mode(str, Enum):
        FAST = "fast"

    values = {"url": Url("x://a:b@c"), "mode": Mode.FAST}
    shown = POLICY.redact_mapping(values)
    assert shown == {"url": "x://a:***@c", "mode": Mode.FAST}
    assert shown["mode"] is Mode.FAST


# ---- odd values


def test_circles_end() -> None:
    """R39: what holds itself is shown once, without a way back to the original."""
    values: dict[str, Any] = {"token": "t", "n": 1}
    values["self"] = values
    rows: list[Any] = []
    rows.append(rows)
    shown = POLICY.redact_mapping({"a": values, "rows": rows})
    assert shown == {"a": {"token": "***", "n": 1, "self": "<circular>"}, "rows": ["<circular>"]}
    only_rows = {"rows": rows}
    assert POLICY.redact_mapping(only_rows) is only_rows


def test_parts_that_are_shared_many_times_are_looked_at_once() -> None:
    """R39: the time does not grow with the number of ways that lead to a part."""
    value: Any = [{"token": "t"}]
    for _ in range(50):
        value = [value, value]
    shown = POLICY.redact_mapping({"v": value})["v"]
    for _ in range(50):
        assert shown[0] is shown[1]
        shown = shown[1]
    assert shown == [{"token": "***"}]


def test_what_is_too_deep_to_be_looked_at_is_hidden() -> None:
    """R39: depth is bounded, and beyond it nothing is shown."""
    deep: Any = {"token": "t"}
    for _ in range(100_000):
        deep = {"d": deep}
    shown = POLICY.redact_mapping(deep)
    for _ in range(64):
        shown = shown["d"]
    assert shown == "***"


class Raises:
    """Fails at everything that a view might try."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class Unreadable(UserDict[str, Any]):
    def __iter__(self) -> Any:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value",
    [
        *(float("nan"), 10**5_000, -(2**70), "\ud800", b"\xff\xfe", object(), int, Raises, lambda: 1, 1j, ...),
        *(np.array(["a"], dtype=object), np.str_("x"), np.float64(1), iter([1]), memoryview(b"x")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_odd_values_are_handed_on_as_they_are(value: Any) -> None:
    """R39: redaction is total, and foreign objects are untouched by identity."""
    assert POLICY.redact_mapping({"v": value, "token": "s3cr3t-word"})["v"] is value
    assert POLICY.redact_mapping({"token": value}) == {"token": "***"}
    assert POLICY.redact_value("v", value) is value


def test_what_cannot_be_looked_at_is_hidden() -> None:
    """R39: of two mistakes, showing a secret is the worse one."""
    assert POLICY.redact_mapping({"a": Raises(), "b": Unreadable(x=1), "c": 1}) == {"a": "***", "b": "***", "c": 1}
    assert POLICY.redact_mapping(Unreadable(x=1)) == {}
    assert POLICY.redact_mapping({"token": Unreadable(x=1)}) == {"token": "***"}


# ---- records, results, errors


def test_a_record_is_redacted_in_its_values_and_in_all_of_its_texts() -> None:
    """R39: inputs, outputs, error texts, retry errors, cache notes, approvals and decisions."""
    record = a_record(
        inputs={"password": "hunter2!", "user": "ada"},
        outputs={"token": "t-12345678", "n": 1},
        error_message="login hunter2! failed",
        retry_errors=["OSError: hunter2!", "OSError: again"],
        cache_note="no key for t-12345678",
        approval={"approved": True, "reason": "hunter2! is fine"},
        decision={"chosen": "login", "candidates": ["login"]},
        tool_name="token",
    )
    shown = POLICY.redact_record(record)
    assert shown == a_record(
        inputs={"password": "***", "user": "ada"},
        outputs={"token": "***", "n": 1},
        error_message="login *** failed",
        retry_errors=["OSError: ***", "OSError: again"],
        cache_note="no key for ***",
        approval={"approved": True, "reason": "*** is fine"},
        decision={"chosen": "login", "candidates": ["login"]},
        tool_name="token",
        redacted=(
            *("/inputs/password", "/outputs/token"),
            *("/error_message", "/retry_errors", "/approval", "/cache_note"),
        ),
    )
    assert record.inputs["password"] == "hunter2!"
    assert shown.decision is record.decision


def test_a_record_with_nothing_to_hide_is_the_same_record() -> None:
    """R39: a view copies what changes and nothing else."""
    record = a_record(inputs={"n": 1}, error_message="plain")
    result = a_result(record)
    assert POLICY.redact_record(record) is record
    assert POLICY.redact_result(result) is result


def test_a_secret_of_one_record_vanishes_from_the_texts_of_all_the_others() -> None:
    """R39: an error may repeat what an earlier step was given, nested runs included."""
    inner = a_result(a_record(inputs={"api_key": "k-12345678"}), trace_id="cd" * 16, parent_trace_id="ab" * 16)
    result = a_result(
        a_record(0, inputs={"password": "hunter2!"}, sub_result=inner),
        a_record(1, inputs={"header": "hunter2!"}, error_message="hunter2!, k-12345678, start-value"),
        success=False,
        initial_input={"secret": "start-value", "n": 1},
        partial_output={"password": "hunter2!"},
        final_output={"copy": "k-12345678"},
    )
    shown = POLICY.redact_result(result)
    assert shown.step("1").error_message == "***, ***, ***"
    assert shown.step("1").inputs == {"header": "***"}
    nested = shown.step("0").sub_result
    assert nested is not None
    assert nested.step("0").inputs == {"api_key": "***"}
    assert nested.trace_id == "cd" * 16
    assert (shown.initial_input, shown.partial_output) == ({"secret": "***", "n": 1}, {"password": "***"})
    assert shown.final_output == {"copy": "***"}
    assert "hunter2!" not in shown._repr_html_()
    assert (shown.trace_id, shown.status, shown.execution_log[0].duration_ms) == (result.trace_id, "failed", 1.5)
    with pytest.raises(FlowExecutionError, match=re.escape("***, ***, ***")) as raised:
        a_result(shown.step("1").model_copy(update={"status": "failed"}), success=False).raise_for_failure()
    assert "hunter2!" not in str(raised.value)


def test_the_secrets_of_earlier_records_can_be_handed_in() -> None:
    """R39: who sees one record after the other hides what earlier ones hid."""
    first = a_record(0, inputs={"password": "hunter2!"})
    later = a_record(1, error_message="hunter2!")
    assert POLICY.redact_record(later).error_message == "hunter2!"
    assert POLICY.redact_record(later, POLICY.secrets_in(first)).error_message == "***"
    log = POLICY.redact_log([first, later, a_record(2, error_message="of the input")], ["of the input"])
    assert [record.error_message for record in log] == [None, "***", "***"]
    assert log[0].inputs == {"password": "***"}


def test_an_error_keeps_its_class_and_loses_its_secrets() -> None:
    """R39: an observer may get the error of a step."""
    error = FlowExecutionError("login", 0, "password=hunter2!, hunter2! refused", step_name="enter")
    error.__cause__ = OSError("hunter2!")
    shown = POLICY.redact_error(error, ["hunter2!"])
    assert type(shown) is FlowExecutionError
    assert "hunter2!" not in f"{shown} {shown.render()} {vars(shown)} {shown.args} {shown.__cause__}"
    assert "hunter2!" in str(error)
    assert "password=***, *** refused" in str(shown)
    assert str(POLICY.redact_error(OSError("token=t"))) == "OSError: token=***."


# ---- the policy itself


def test_a_policy_is_plain_data() -> None:
    """R39: equal by value, hashable, picklable, and varied by `replace`."""
    policy = RedactionPolicy(keys=[*SECRET_KEYS, "ssn"], paths=["/a"])
    assert policy == RedactionPolicy(keys=(*SECRET_KEYS, "ssn"), paths=("/a",))
    assert len({policy, pickle.loads(pickle.dumps(policy))}) == 1
    assert replace(policy, replacement="#").redact_mapping({"ssn": 1, "a": 2}) == {"ssn": "#", "a": "#"}
    assert RedactionPolicy(keys=(), patterns=()).redact_mapping({"password": "p", "": 1}) == {"password": "p", "": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keys": "password"}, "keys has to be a collection such as ['password'], not 'password'."),
        ({"keys": [""]}, "keys have to be texts that are not empty, not ''."),
        ({"paths": ["user/ssn"]}, "'user/ssn' is no pointer"),
        ({"paths": ["/a~2"]}, "'/a~2' is no pointer"),
        ({"patterns": ["("]}, "'(' is no regular expression: "),
        ({"patterns": [re.compile(b"x")]}, "is a pattern for bytes; patterns are for texts."),
        (
            {"patterns": ["hid"], "replacement": "<hidden>"},
            "replacement '<hidden>' holds what one of the patterns hides.",
        ),
        ({"types": ["str"]}, "types have to be classes, not ('str',)."),
        ({"replacement": ""}, "replacement has to be a text that is not empty, not ''."),
    ],
)
def test_a_malformed_policy_is_refused_when_it_is_made(settings: dict[str, Any], message: str) -> None:
    """R39: a slip in a policy must not show up as a secret in a log."""
    with pytest.raises(ValueError, match=re.escape(message)):
        RedactionPolicy(**settings)


@pytest.mark.parametrize(
    "piece",
    [
        *("eyJ", "eyJa.", "sk-", "://", "://a:", "a=", "x='", "-----BEGIN PRIVATE KEY-----", "bearer ", "a", "'a':"),
        *("'a' ", "a.b-", "x='\\", "uthorization ", "uthorization: basic ", "password='", '"token": "', "...", "ghp_a"),
    ],
)
def test_the_time_for_a_text_is_proportional_to_its_length(piece: str) -> None:
    """R39: a hostile text in an error does not stop the program; this would take minutes if time were quadratic."""
    text = (piece * 300_000)[:300_000]
    shown = POLICY.redact_text(text, ["x" * 40])
    assert POLICY.redact_text(shown) == shown


PIECES = [
    "password",
    "token",
    "=",
    "'",
    '"',
    ":",
    " ",
    "://",
    "@",
    "***",
    "a",
    "x",
    ",",
    "Bearer ",
    "abcdefghijklmnop",
    "\\",
]


@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_redacting_a_text_twice_is_redacting_it_once(text: str) -> None:
    """R39: a view of a view is that view."""
    shown = POLICY.redact_text(text)
    assert POLICY.redact_text(shown) == shown


# ---- any value


SECRET = "Zq7-S3CR3T'\"\\\n<&ü-7qZ"
SECRETS = st.builds("Zq7{}7qZ".format, st.text(max_size=12) | st.just(SECRET))
NAMES = st.sampled_from(["a", "b", "name", "rows", "Header", "n-1"])
HIDDEN = st.sampled_from(["password", "apiKey", "X-Auth-Token", "client_secret"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8)


class Holder(BaseModel):
    name: Any
    rows: Any = None


@dataclass
class Box:
    name: Any


class Two(NamedTuple):
    a: Any
    b: Any


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.lists(inner, max_size=3).map(deque)
        | st.dictionaries(NAMES, inner, max_size=3)
        | st.builds(Holder, name=inner)
        | st.builds(Box, inner)
        | st.builds(Two, inner, inner)
    )


PLAIN = st.recursive(LEAVES, containers, max_leaves=8)


def around(value: Any) -> st.SearchStrategy[Any]:
    """Containers that hold the value."""
    wholes = [[value], (1, value), deque([value]), {"a": value}, Holder(name=value), Box(value), Two(1, value)]
    return st.sampled_from(wholes)


@st.composite
def planted(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A secret, and values in which it stands under a hidden name, somewhere."""
    secret = draw(SECRETS)
    value: Any = draw(st.sampled_from([secret, secret.encode("utf-8", "surrogatepass"), SecretStr(secret)]))
    for _ in range(draw(st.integers(0, 2))):
        value = draw(around(value))
    value = {draw(NAMES): draw(PLAIN), draw(HIDDEN): value}
    for _ in range(draw(st.integers(0, 4))):
        value = draw(around(value))
    return secret, {draw(NAMES): draw(PLAIN), "value": value}


@given(planted(), st.sampled_from(["inputs", "outputs", "initial_input", "partial_output", "nested"]))
def test_no_secret_under_a_hidden_name_survives(found: tuple[str, dict[str, Any]], place: str) -> None:
    """R39: wherever in a value it stands, and wherever a text repeats it; nothing is changed in place."""
    secret, values = found
    told = [f"bad {secret} here", f"bad {secret!r} here", json.dumps({"v": secret})]
    failed = a_record(9, error_message=told[0], retry_errors=told, inputs={"note": secret})
    if place == "nested":
        result = a_result(a_record(sub_result=a_result(a_record(inputs=values))), failed)
    elif place in ("inputs", "outputs"):
        facts: dict[str, Any] = {"inputs": {}, place: values}
        result = a_result(a_record(**facts), failed)
    else:
        facts = {place: values}
        result = a_result(failed, **facts)
    before = result.model_dump_json()

    shown = POLICY.redact_result(result)

    written = shown.model_dump_json()
    # What stands between the marks of the secret is looked for in all of its spellings at once.
    assert not [text for text in texts_of(json.loads(written)) if "Zq7" in text and "7qZ" in text]
    assert result.model_dump_json() == before
    assert POLICY.redact_result(shown) is shown


@given(PLAIN)
def test_what_holds_no_secret_is_shown_as_it_is(value: Any) -> None:
    """R39: nothing is copied, nothing is lost."""
    values = {"value": value}
    assert POLICY.redact_mapping(values) is values


# ---- runs


class Asked(RedactionPolicy):
    """A policy that remembers what was looked through for secrets."""

    def secrets_in(self, values: Any) -> frozenset[str]:
        LOOKED_AT.append(values)
        return super().secrets_in(values)


LOOKED_AT: list[Any] = []


@tool
def log_in(password: str) -> str:
    return f"welcome {password}"


def test_a_run_is_searched_for_secrets_once_however_many_runs_are_nested_in_it() -> None:
    """R39: what one of them hides vanishes from the texts of all, and the time that takes grows with their number."""
    inner = Flow(name="inner", description="", steps=[FlowStep(tool_name="log_in")], outputs=["log_in"])
    outer = Flow(name="outer", description="", steps=[FlowStep(flow_name="inner", map_over="all", map_as="password")])
    LOOKED_AT.clear()
    with FlowExecutor(tools=[log_in], flows=[inner, outer], redaction_policy=Asked()) as executor:
        result = executor.execute_flow("outer", {"all": ["hunter-one", "hunter-two", "hunter-three"]})

    [items] = [record.sub_result for record in result.execution_log]
    assert items is not None
    said = [run.step("0").outputs for record in items.execution_log if (run := record.sub_result) is not None]

    assert said == [{"log_in": "welcome ***"}] * 3
    # The inputs of four runs, outer and three inner ones; the inputs and outputs of their seven steps.
    assert len(LOOKED_AT) == 4 + 2 * 7


@pytest.mark.parametrize("limit", [1, 3])
def test_a_listener_of_nested_runs_costs_the_same_for_each_of_them(limit: int) -> None:
    """R39: whoever hears the end of each item of a map does not have all the others searched every time."""
    inner = Flow(name="inner", description="", steps=[FlowStep(tool_name="log_in")], outputs=["log_in"])
    outer = Flow(name="outer", description="", steps=[FlowStep(flow_name="inner", map_over="all", map_as="password")])

    class Reads:
        def on_flow_end(self, context: Any) -> None:
            assert "hunter" not in str(context.result.execution_log)

    looks = []
    for size in (10, 20, 30):
        LOOKED_AT.clear()
        options: dict[str, Any] = {"redaction_policy": Asked(), "max_step_concurrency": limit}
        with FlowExecutor(tools=[log_in], flows=[inner, outer], middleware=[Reads()], **options) as executor:
            executor.execute_flow("outer", {"all": [f"hunter-{number:04}" for number in range(size)]})
        looks.append(len(LOOKED_AT))
    assert looks[2] - looks[1] == looks[1] - looks[0]
