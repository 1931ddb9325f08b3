"""R6, R9: the forms of an input mapping value."""

from __future__ import annotations

import contextlib
import pickle

import pytest
from hypothesis import given, strategies as st

from chainweaver.flow import (
    DefaultSource,
    KeySource,
    LiteralSource,
    MappingSyntaxError,
    PointerSource,
    TemplateRef,
    TemplateSource,
    literal,
    parse_source,
    ref,
    template,
)


@pytest.mark.parametrize(
    ("value", "source"),
    [
        ("name", KeySource("name")),
        ("user.name", KeySource("user.name")),
        ("/user/items/0/id", PointerSource("/user/items/0/id", ("user", "items", "0", "id"))),
        ("/~1key", PointerSource("/~1key", ("/key",))),
        ("/a~01/b~1c", PointerSource("/a~01/b~1c", ("a~1", "b/c"))),
        ("/", PointerSource("/", ("",))),
        ("/a//b", PointerSource("/a//b", ("a", "", "b"))),
        (7, LiteralSource(7)),
        (None, LiteralSource(None)),
        ([1, "a"], LiteralSource([1, "a"])),
        ({"a": 1, 2: 3}, LiteralSource({"a": 1, 2: 3})),
        ({}, LiteralSource({})),
        ({"inner": {"$gt": 1}}, LiteralSource({"inner": {"$gt": 1}})),
        (literal("EUR"), LiteralSource("EUR")),
        (literal({"$key": "x"}), LiteralSource({"$key": "x"})),
        (ref("a"), KeySource("a")),
        (ref("a", default=None), DefaultSource(KeySource("a"), None)),
        (ref("/a/0", default=[]), DefaultSource(PointerSource("/a/0", ("a", "0")), [])),
    ],
    ids=str,
)
def test_every_form_has_one_meaning(value, source):
    """R6: keys, pointers, literals, defaulted look-ups."""
    assert parse_source(value) == source


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ()),
        ("plain", ("plain",)),
        ("Dear ${user.name}!", ("Dear ", TemplateRef("user.name", ("user", "name")), "!")),
        ("${a}", (TemplateRef("a", ("a",)),)),
        ("${a}${b}", (TemplateRef("a", ("a",)), TemplateRef("b", ("b",)))),
        ("${ a.0.b }", (TemplateRef("a.0.b", ("a", "0", "b")),)),
        ("${a[0][12].b}", (TemplateRef("a[0][12].b", ("a", "0", "12", "b")),)),
        ("${/a.b/0}", (TemplateRef("/a.b/0", ("a.b", "0")),)),
        ("costs $5 and $", ("costs $5 and $",)),
        ("$${a} and $$${b}", ("${a} and $${b}",)),
        ("~~a~~ $b$", ("~~a~~ $b$",)),
    ],
)
def test_templates_are_split_into_text_and_references(text, parts):
    """R9: "${...}" with dots and indices, "$${" for the signs themselves."""
    assert parse_source(template(text)) == TemplateSource(text, parts)


def test_a_dollar_before_a_reference_is_written_with_the_escape():
    """R9: "$${" always is the escape, read from the left."""
    assert parse_source(template("$${x} ${y}")).parts == ("${x} ", TemplateRef("y", ("y",)))


def test_legacy_templates_fold_the_case_of_their_names():
    """R9: ~~key~~ and $key$ with "$syntax": "legacy"; what is not closed is text."""
    text = "~~User_Name~~ owes $Amount$, ~~not closed, $5 ${x}"
    source = parse_source({"$template": text, "$syntax": "legacy"})
    assert source == TemplateSource(
        text,
        (
            TemplateRef("User_Name", ("user_name",)),
            " owes ",
            TemplateRef("Amount", ("amount",)),
            ", ~~not closed, $5 ${x}",
        ),
        case_folded=True,
    )


@pytest.mark.parametrize(
    ("value", "column", "said"),
    [
        ("", None, "cannot be empty"),
        ("/a~2", 3, "'~0'"),
        ("/a~", 3, "'~0'"),
        (template("Dear ${name"), 6, "never closed"),
        (template("ab ${}"), 4, "without a name"),
        (template("${a ${b}"), 5, "inside another"),
        (template("x ${a..b}"), 7, "name is missing"),
        (template("x ${.a}"), 5, "name is missing"),
        (template("${a[x]}"), 4, "one index"),
        (template("${a[0}"), 4, "one index"),
        (template("${a[0]b}"), 4, "one index"),
        (template("${[0]}"), 3, "name is missing"),
        (template("${a.[0]}"), 5, "name is missing"),
        (template("${a. b}"), 5, "name is missing"),
        (template("${/a~x}"), 5, "'~0'"),
        ({"$template": 5}, None, "has to be text"),
        ({"$template": "a", "$syntax": "jinja"}, None, "'braces' or 'legacy'"),
        ({"$key": 5}, None, "has to be text"),
        ({"$key": "", "$default": 1}, None, "cannot be empty"),
        ({"$default": 1}, None, "do not go together"),
        ({"$literal": 1, "$default": 2}, None, "do not go together"),
        ({"$litral": 1}, None, "did you mean '$literal'?"),
        ({"$gt": 1}, None, "{'$literal': ...}"),
        ({"$key": "a", "other": 1}, None, "'other' belongs to no form"),
    ],
    ids=str,
)
def test_what_has_no_meaning_is_refused_with_its_place(value, column, said):
    """R9: parsed at compile time; the error shows text, column and the known forms."""
    with pytest.raises(MappingSyntaxError) as caught:
        parse_source(value)
    assert caught.value.column == column
    assert said in str(caught.value)
    if column is not None:
        assert f"at column {column}" in str(caught.value)


def test_an_unknown_form_lists_the_known_ones():
    """R6: the closed set of forms."""
    with pytest.raises(MappingSyntaxError) as caught:
        parse_source({"$ref": "a"})
    for form in ("$literal", "$template", "$syntax", "$key", "$default"):
        assert form in str(caught.value)


def test_the_error_of_a_form_does_not_show_values():
    """R39: a value of the user may be secret, large, or refuse to show itself."""
    with pytest.raises(MappingSyntaxError) as caught:
        parse_source({"$oops": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_the_error_can_be_pickled():
    """style: every error survives pickling."""
    with pytest.raises(MappingSyntaxError) as caught:
        parse_source(template("${"))
    copied = pickle.loads(pickle.dumps(caught.value))
    assert str(copied) == str(caught.value)
    assert copied.column == 1


@given(st.text())
def test_any_text_can_be_put_into_a_template(text):
    """R9: with the escape, every text is a template of itself."""
    source = parse_source(template(text.replace("${", "$${")))
    assert "".join(part for part in source.parts if isinstance(part, str)) == text
    assert all(isinstance(part, str) for part in source.parts)


@given(st.lists(st.text(), min_size=1))
def test_any_tokens_can_be_put_into_a_pointer(tokens):
    """R6: RFC 6901 escapes."""
    pointer = "".join("/" + token.replace("~", "~0").replace("/", "~1") for token in tokens)
    assert parse_source(pointer).tokens == tuple(tokens)


@given(st.text())
def test_text_is_a_source_or_a_typed_error(text):
    """R9: nothing but MappingSyntaxError leaves the parser."""
    for value in (text, template(text), {"$template": text, "$syntax": "legacy"}, {"$" + text: 1}):
        with contextlib.suppress(MappingSyntaxError):
            parse_source(value)
