"""What predicates mean, how they are bound, and what is said of a text that is none."""

from __future__ import annotations

import collections
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given, settings, strategies as st

from chainweaver import PredicateSyntaxError, evaluate_predicate
from chainweaver.compiler import predicates
from chainweaver.compiler.predicates import parse_predicate
from chainweaver.plan import KeyMissing
from tests.conftest import PROOF

CONTEXT: dict[str, Any] = {
    "total": 250,
    "price": 99.5,
    "currency": "EUR",
    "row": {"total": 3, "tags": ["new", "paid"], 7: "seven"},
    "items": [10, 20, 30],
    "pair": (1, "b"),
    "proxy": types.MappingProxyType({"k": "v"}),
    "nothing": None,
    "empty": [],
    "yes": True,
    "no": False,
    "größe": 4,
    "matches": 12,
}


@pytest.fixture(autouse=True)
def without_re2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patterns run on `re`, whatever is installed; `test_patterns` has the others."""
    monkeypatch.setitem(sys.modules, "re2", None)


def holds(text: str, context: dict[str, Any] | None = None) -> bool:
    return evaluate_predicate(text, CONTEXT if context is None else context)


# ---- what they mean


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # names, constants
        ("yes", True),
        ("no", False),
        ("empty", False),
        ("currency", True),
        ("größe == 4", True),
        ("True", True),
        ("None", False),
        ("''", False),
        ("0", False),
        ("00", False),
        ("1_000 == 1000", True),
        ("0.5 == .5", True),
        ("1. == 1", True),
        ("1e3 == 1_000.0", True),
        ("2.5E-1 == 0.25", True),
        # texts
        ("currency == 'EUR'", True),
        ('currency == "EUR"', True),
        (r"'a\tb\n\r\\\'\"' == 'a\x09b\x0A\x0d\x5c\x27\x22'", True),
        (r"'\u00e9\U0001F600' == 'é😀'", True),
        (r"'\d' == r'\d'", True),
        (r"r'\'' == '\\\''", True),
        (r"R'\\' == '\\\\'", True),
        ("'a\tb' == 'a\\tb'", True),
        # comparisons
        ("total > 100 and currency == 'EUR'", True),
        ("total >= 250", True),
        ("total < 250", False),
        ("total <= 250", True),
        ("total != 250", False),
        ("100 < total < 300", True),
        ("100 < total < 200 < price", False),
        ("0 < 1 < total == 250", True),
        ("total == price", False),
        ("total > price", True),
        ("currency in ('EUR', 'CHF')", True),
        ("currency in ['EUR', 'CHF']", True),
        ("currency in {'EUR', 'CHF'}", True),
        ("currency not in ('EUR', 'CHF')", False),
        ("'UR' in currency", True),
        ("'total' in row", True),
        ("20 in items", True),
        ("total in [total, 1]", True),
        ("nothing is None", True),
        ("total is None", False),
        ("total is not None", True),
        ("nothing is (None)", True),
        ("yes is True", True),
        ("total is True", False),
        ("no is not False", False),
        # and, or, not
        ("yes and no", False),
        ("yes and total and currency and items", True),
        ("yes and total and no and items", False),
        ("no or empty", False),
        ("no or empty or nothing or 0", False),
        ("no or empty or total", True),
        ("no or total", True),
        ("not no", True),
        ("not not total", True),
        ("not no and no", False),
        ("not total == 250", False),
        ("yes or yes and no", True),
        ("(yes or yes) and no", False),
        ("(nothing or 5) == 5", True),
        ("(total and 5) == 5", True),
        ("(empty and 5) == []", True),
        ("(currency or 5) == 'EUR'", True),
        ("(not total) == False", True),
        ("(1 < total < 300) == True", True),
        ("(1 < 0 < total) == False", True),
        # signs
        ("-total < 0", True),
        ("- -total == +250", True),
        ("-1 < +1", True),
        ("-1.5 < -1", True),
        ("-yes == -1", True),
        ("-True == -1", True),
        ("-items[0] == -10", True),
        # subscripts
        ("row['total'] == 3", True),
        ("row['tags'][-1] == 'paid'", True),
        ("row[7] == 'seven'", True),
        ("items[0] == 10", True),
        ("items[-1] == 30", True),
        ("items[row['total'] == 4] == 10", True),
        ("pair[1] == 'b'", True),
        ("proxy['k'] == 'v'", True),
        ("currency[0] == 'E'", True),
        ("(1, 2)[1] == 2", True),
        ("'abc'[-1] == 'c'", True),
        # displays
        ("pair == (1, 'b')", True),
        ("pair == (1, 'b',)", True),
        ("items == [10, 20, 30]", True),
        ("items == [10, items[1], 30,]", True),
        ("empty == []", True),
        ("() == ()", True),
        ("(total) == 250", True),
        ("(total,) == (250,)", True),
        ("{1, 2} == {2, 1, 1}", True),
        ("{total, 1} == {1, 250}", True),
        ("{-1} == {-1}", True),
        ("[[1, 2], [total]] == [[1, 2], [250]]", True),
        ("(1, [2]) == (1, [2])", True),
        # matches
        (r"matches(currency, r'^[A-Z]{3}$')", True),
        (r"matches(currency, '^\w+$')", True),
        (r"matches('a word', r'\bword\b')", True),
        ("matches(currency, 'U')", True),
        ("matches(currency, 'u')", False),
        ("not matches(row['tags'][0], 'old')", True),
        ("matches(currency, 'E') == True", True),
        ("matches == 12", True),
        # space
        ("  total\n\t>\r\n100  ", True),
        ("(\n  total > 100\n  and currency == 'EUR'\n)", True),
        ("total>100and currency=='EUR'", None),
    ],
)
def test_a_predicate_means_what_it_means_in_python(text, expected):
    """R25: names, subscripts, constants, comparisons, `in`, `and`, `or`, `not`, signs, displays and `matches`."""
    if expected is None:
        with pytest.raises(PredicateSyntaxError):
            holds(text)
    else:
        assert holds(text) is expected


def test_names_are_the_keys_that_it_reads_in_the_order_of_their_first_use():
    """R25: subscripts, constants and `matches` itself are no keys."""
    predicate = parse_predicate("row['total'] > limit and matches(name, 'x') or row[index] in (limit, True)")

    assert predicate.names == ("row", "limit", "name", "index")


def test_a_bound_predicate_reads_from_any_scope():
    """R25: what a scope is, only the look-ups know."""
    slots: list[dict[str, Any]] = [{"limit": 100}, {"total": 250}]
    bound = parse_predicate("total > limit").bind(
        {"total": lambda slots: slots[1]["total"], "limit": lambda slots: slots[0]["limit"]}
    )

    assert bound(slots) is True


def never(scope: Any) -> Any:
    raise KeyMissing("never")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes or never", True),
        ("no and never", False),
        ("yes and no and never", False),
        ("no or yes or never", True),
        ("(yes or never) == True", True),
        ("(no and never) == False", True),
        ("2 < 1 < never", False),
        ("(2 < 1 < never) == False", True),
    ],
)
def test_what_does_not_matter_any_more_is_not_read(text, expected):
    """R25: `and`, `or` and chains stop where Python stops."""
    bound = parse_predicate(text).bind({"yes": lambda scope: True, "no": lambda scope: False, "never": never})

    assert bound(None) is expected


def test_a_look_up_that_finds_nothing_says_so_itself():
    """R25: what a look-up raises goes through untouched."""
    with pytest.raises(KeyMissing, match="never"):
        parse_predicate("never == 1").bind({"never": never})(None)


class Odd:
    """Compares in a way of its own."""

    def __eq__(self, other: object) -> Any:
        if isinstance(other, list):
            other.append(self)
        return ["not", "a", "bool"]

    __hash__ = None  # type: ignore[assignment]  # it compares, but is no key

    def __lt__(self, other: object) -> Any:
        return []


@pytest.mark.parametrize(
    ("text", "expected"),
    [("odd == 1", True), ("odd < 1", False), ("odd == odd", True), ("1 == odd == 1", True), ("odd", True)],
)
def test_the_answer_is_a_bool_whatever_the_values_answer(text, expected):
    """R25: a predicate holds or it does not."""
    assert holds(text, {"odd": Odd()}) is expected


def test_lists_are_built_anew_for_every_evaluation():
    """R25: what a value does with a list that it is compared with reaches no other evaluation."""
    bound = parse_predicate("odd == [1, 2] and [1, 2] == other").bind(
        {"odd": lambda scope: Odd(), "other": lambda scope: [1, 2]}
    )

    assert [bound(None), bound(None)] == [True, True]


def test_reading_changes_no_mapping():
    """R25: a mapping that makes up what it does not have is only asked."""
    grows: Any = collections.defaultdict(int, {"a": 1})

    with pytest.raises(LookupError):
        holds("grows['b'] == 0", {"grows": grows})

    assert dict(grows) == {"a": 1}


def test_a_mapping_may_be_the_context():
    """R25: `evaluate_predicate` asks for keys and nothing else."""
    context: Any = collections.ChainMap({"a": 1}, {"b": 2})

    assert evaluate_predicate("a < b", context) is True


@pytest.mark.parametrize(
    ("text", "context", "says"),
    [
        (7, {}, "A predicate is a text such as 'total > 100', not 7."),
        (None, {}, "A predicate is a text such as 'total > 100', not None."),
        ("a", [1], "The context of a predicate is a mapping of names to values, not of type list."),
        ("a", None, "The context of a predicate is a mapping of names to values, not of type NoneType."),
    ],
)
def test_what_is_no_text_or_no_mapping_is_told_so(text: Any, context: Any, says: str):
    """R25: before anything is read."""
    with pytest.raises(TypeError) as caught:
        evaluate_predicate(text, context)

    assert str(caught.value) == says


def test_predicates_of_one_text_are_equal():
    """R25: a predicate is its text."""
    assert parse_predicate("a > 1") == parse_predicate("a > 1") != parse_predicate("a > 2")
    assert repr(parse_predicate("a > 1")) == "Predicate(text='a > 1', names=('a',))"


def test_texts_that_were_read_are_kept_up_to_a_bound():
    """R25: evaluating a text again does not read it again, and a program that makes up texts fills no memory."""
    predicates._over_mapping.cache_clear()
    for number in (*range(300), 299):
        assert holds(f"total != {number}") is (number != 250)

    info = predicates._over_mapping.cache_info()
    assert (info.hits, info.currsize) == (1, 256)


# ---- what is wrong with the values


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("totl > 1", LookupError, "'totl' is not there; did you mean 'total'?"),
        ("row['x'] == 1", LookupError, "'row['x']' is not there; known: total, tags, 7"),
        ("row [ 'x' ]", LookupError, "'row [ 'x' ]' is not there; known: total, tags, 7"),
        ("items[3] == 1", LookupError, "'items[3]' is not there; known: 0..2"),
        ("items[-4]", LookupError, "'items[-4]' is not there; known: 0..2"),
        ("empty[0]", LookupError, "'empty[0]' is not there; nothing is there"),
        ("items['a']", TypeError, "list indices must be integers or slices, not str"),
        ("row[items]", TypeError, "unhashable type: 'list'"),
        (
            "total['a']",
            TypeError,
            "'total['a']' subscripts a value of type int; only mappings, lists, tuples and texts have items",
        ),
        (
            "{1}[0]",
            TypeError,
            "'{1}[0]' subscripts a value of type frozenset; only mappings, lists, tuples and texts have items",
        ),
        ("total > 'a'", TypeError, "'>' not supported between instances of 'int' and 'str'"),
        ("total in 5", TypeError, "argument of type 'int' is not "),
        ("-currency", TypeError, "bad operand type for unary -: 'str'"),
        ("{items}", TypeError, "unhashable type: 'list'"),
        ("matches(total, 'a')", TypeError, "matches() searches texts, and 'total' is of type int"),
        ("matches( row['tags'] , 'a')", TypeError, "matches() searches texts, and 'row['tags']' is of type list"),
    ],
)
def test_values_that_do_not_fit_are_named(text, kind, message):
    """R25: a predicate that cannot be evaluated says which part of it, and why."""
    with pytest.raises(kind) as caught:
        holds(text)

    assert str(caught.value).startswith(message)


def test_an_empty_context_has_nothing_to_suggest():
    """R25: no list of known names when there are none."""
    with pytest.raises(LookupError, match=r"^'a' is not there; nothing is there$"):
        holds("a", {})


def test_only_some_keys_of_a_large_mapping_are_listed():
    """R25: a message stays readable, and making it takes no time that grows with the data."""
    with pytest.raises(LookupError) as caught:
        holds("row['x']", {"row": {f"key{number}": None for number in range(1_000)}})

    assert str(caught.value).count("key") == 20


def test_a_text_that_is_too_long_for_a_pattern_is_an_error_of_the_value():
    """R25: patterns on `re` search texts of at most 4 096 characters."""
    assert holds("matches(text, 'x+y')", {"text": "x" * 4_096}) is False

    with pytest.raises(ValueError, match="at most 4096 characters in this predicate, and 'text' has 4097; for longer"):
        holds("matches(text, 'x+y')", {"text": "x" * 4_097})


# ---- what is no predicate

NO_ARITHMETIC = "is arithmetic, which predicates do not have"
SIGNS = ["+", "-", "*", "/", "//", "%", "**", "@", "<<", ">>", "^"]
NO_CALL = "there is no call but matches(text, r'...')"
AND_OR = "use 'and' and 'or', or a second branch"
NO_CONDITIONAL = "does not belong here: predicates have no conditional expressions"
LOOK_INTO = "to look into a text, write matches(text, r'...')"
NESTED = "more than 32 brackets, signs and negations stand inside each other"
COMPARE = "compare values with '==' or '!='"
LET_A_TOOL = "let a tool compute the value and compare its output"
SECOND_ARGUMENT = "the second argument of matches() is a pattern in quotes, and the last one"
ONE_UNBOUNDED = "without google-re2 a pattern has at most one '*', '+' or '{n,}', counting those inside others"


@pytest.mark.parametrize(
    ("text", "detail", "fix"),
    [
        ("", "it is empty (column 1)", "a branch that is always taken is 'True', or 'default_next'"),
        (" \n", "it is empty (line 1, column 1)", "a branch that is always taken is 'True', or 'default_next'"),
        # attributes and calls
        ("row.total > 1", "predicates read no attributes (column 4)", "write a subscript: ['total']"),
        ("a.__class__", "predicates read no attributes (column 2)", "write a subscript: ['__class__']"),
        ("a.", "predicates read no attributes (column 2)", None),
        ("'a'.upper() == 'A'", "predicates read no attributes (column 4)", LOOK_INTO),
        ("len(rows) > 0", f"{NO_CALL} (column 4)", "what is empty does not hold, so its name alone will do"),
        ("match(a, 'x')", f"{NO_CALL} (column 6)", "did you mean 'matches'?"),
        ("open('x')", f"{NO_CALL} (column 5)", LET_A_TOOL),
        ("a[0](1)", f"{NO_CALL} (column 5)", None),
        ("matches(a, 'x')(1)", f"{NO_CALL} (column 16)", None),
        # operators of other languages
        ("a = 1", "'=' assigns, and predicates only compare (column 3)", "compare with '=='"),
        ("(a := 1)", "':=' assigns, and predicates only compare (column 4)", "compare with '=='"),
        ("a === 1", "'===' is no operator (column 3)", "did you mean '=='?"),
        ("a !== 1", "'!==' is no operator (column 3)", "did you mean '!='?"),
        ("a <> 1", "'<>' is no operator (column 3)", "did you mean '!='?"),
        ("a => 1", "'=>' is no operator (column 3)", "did you mean '>='?"),
        ("a =< 1", "'=<' is no operator (column 3)", "did you mean '<='?"),
        ("a && b", "'&&' is no operator (column 3)", "did you mean 'and'?"),
        ("a & b", "'&' is no operator (column 3)", "did you mean 'and'?"),
        ("a || b", "'||' is no operator (column 3)", "did you mean 'or'?"),
        ("a | b", "'|' is no operator (column 3)", "did you mean 'or'?"),
        ("!a", "'!' is no operator (column 1)", "did you mean 'not'?"),
        ("a -> b", "'->' does not belong in a predicate (column 3)", None),
        ("a ? b : c", f"'?' {NO_CONDITIONAL} (column 3)", AND_OR),
        ("a if b else c", f"'if' {NO_CONDITIONAL} (column 3)", AND_OR),
        ("lambda: 1", "'lambda' does not belong here: predicates have no functions (column 1)", None),
        ("[a for a in b]", "'for' does not belong here: nothing is repeated or awaited (column 4)", None),
        ("await a", "'await' does not belong here: nothing is repeated or awaited (column 1)", None),
        ("import os", "'import' is a word of Python that predicates do not have (column 1)", None),
        ("a[1:2]", "':' does not belong here: predicates have no slices, dicts or lambdas (column 4)", None),
        ("a # why", "'#' does not belong here: predicates have no comments (column 3)", None),
        ("a; b", "';' does not belong in a predicate (column 2)", None),
        ("{}", "'{}' is a dict, which predicates do not have (column 1)", "for a collection without items write ()"),
        ("a == true", "'true' is no constant (column 6)", "did you mean 'True'?"),
        ("a == false", "'false' is no constant (column 6)", "did you mean 'False'?"),
        ("a == null", "'null' is no constant (column 6)", "did you mean 'None'?"),
        # arithmetic
        *((f"a {sign} 1", f"'{sign}' {NO_ARITHMETIC} (column 3)", LET_A_TOOL) for sign in SIGNS),
        ("~a", f"'~' {NO_ARITHMETIC} (column 1)", LET_A_TOOL),
        ("(a + 1) > 2", f"'+' {NO_ARITHMETIC} (column 4)", LET_A_TOOL),
        # words that stand in the wrong place
        ("a b", "an operator or the end is expected, not 'b' (column 3)", None),
        ("a >", "a value is expected, not the end (column 4)", None),
        ("> a", "a value is expected, not '>' (column 1)", None),
        ("(a", "',' or ')' is expected, not the end (column 3)", None),
        ("a)", "an operator or the end is expected, not ')' (column 2)", None),
        ("a, b", "an operator or the end is expected, not ',' (column 2)", None),
        ("(,)", "a value is expected, not ',' (column 2)", None),
        ("[1 2]", "',' or ']' is expected, not '2' (column 4)", None),
        ("a[]", "a value is expected, not ']' (column 3)", None),
        ("a[1, 2]", "']' is expected, not ',' (column 4)", None),
        ("a not b", "'in' after 'not' is expected, not 'b' (column 7)", None),
        ("a == not b", "a value is expected, not 'not' (column 6)", "put what is negated in brackets"),
        ("a is 1", "'is' compares with None, True or False alone (column 6)", COMPARE),
        ("a is not b", "'is not' compares with None, True or False alone (column 10)", COMPARE),
        ("a is None[0]", "'is' compares with None, True or False alone (column 6)", COMPARE),
        ("a is (None,)", "'is' compares with None, True or False alone (column 6)", COMPARE),
        ("a is 0", "'is' compares with None, True or False alone (column 6)", COMPARE),
        # numbers
        ("a > 0x10", "'0x10' is no number of a predicate (column 5)", "write it in decimal, such as 12 or 0.5"),
        ("a > 007", "'007' is no number of a predicate (column 5)", "write it in decimal, such as 12 or 0.5"),
        ("a > 1__0", "'1__0' is no number of a predicate (column 5)", "write it in decimal, such as 12 or 0.5"),
        ("a > 1j", "'1j' is no number of a predicate (column 5)", "write it in decimal, such as 12 or 0.5"),
        ("a > 1.2.3", "'1.2.3' is no number of a predicate (column 5)", "write it in decimal, such as 12 or 0.5"),
        ("a > 1e", "'1e' is no number of a predicate (column 5)", "write it in decimal, such as 12 or 0.5"),
        ("a > 1e999", "'1e999' is larger than any float (column 5)", None),
        ("a > " + "9" * 41, "a number has at most 40 digits (column 5)", None),
        # texts
        ("a == 'x", "a text begins here and does not end (column 6)", "close it with '"),
        ('a == "x\ny"', "a text begins here and does not end (line 1, column 6)", 'close it with "'),
        ("a == r'\\'", "a text begins here and does not end (column 6)", "close it with '"),
        ("a == '\\\n'", "a text begins here and does not end (line 1, column 6)", "close it with '"),
        ("a == '''x'''", "a text stands in single quotes or in double quotes, not in three (column 6)", None),
        ("a == 'x' 'y'", "two texts stand side by side (column 10)", "write them as one"),
        ("f'{a}'", "a text has no prefix 'f' (column 1)", "write it plain, or as r'...' with backslashes kept"),
        ("a == b'x'", "a text has no prefix 'b' (column 6)", "write it plain, or as r'...' with backslashes kept"),
        ("a == '\\x4'", "'\\x' is followed by 2 hexadecimal digits of a character (column 7)", None),
        ("a == '\\u12g4'", "'\\u' is followed by 4 hexadecimal digits of a character (column 7)", None),
        ("a == '\\ud800'", "'\\u' is followed by 4 hexadecimal digits of a character (column 7)", None),
        ("a == '\\U00110000'", "'\\U' is followed by 8 hexadecimal digits of a character (column 7)", None),
        *(
            (
                f"matches(a, '\\{letter}')",
                f"'\\{letter}' in plain quotes is no part of a pattern (column 13)",
                "write a pattern as r'...', and any other character as \\x.. or \\u....",
            )
            for letter in "abfvN01"
        ),
        # characters
        ("a\u202e > 1", "the character U+202E does not belong in a predicate (column 2)", None),
        ("a\xa0> 1", "the character U+00A0 does not belong in a predicate (column 2)", None),
        ("a == '\x00'", "the character U+0000 does not belong in a predicate (column 7)", None),
        ("a == '\ud800'", "the character U+D800 does not belong in a predicate (column 7)", None),
        ("a $ b", "'$' does not belong in a predicate (column 3)", None),
        ("ｔｏｔａｌ > 1", "'ｔｏｔａｌ' is not written in plain letters (column 1)", "did you mean 'total'?"),
        # matches
        ("matches(a)", "',' and a pattern is expected, not ')' (column 10)", None),
        ("matches()", "a value is expected, not ')' (column 9)", None),
        ("matches(a, b)", f"{SECOND_ARGUMENT} (column 12)", "write matches(text, r'...')"),
        ("matches(a, 'x', 1)", f"{SECOND_ARGUMENT} (column 12)", "write matches(text, r'...')"),
        ("matches(a, 'x'", f"{SECOND_ARGUMENT} (column 12)", "write matches(text, r'...')"),
        ("matches(a,", f"{SECOND_ARGUMENT} (column 11)", "write matches(text, r'...')"),
        (
            "a and matches(b, r'(x+)+')",
            f"{ONE_UNBOUNDED} (column 18)",
            "write the others with a bound, such as '{0,50}', or pip install 'chainweaver[re2]'",
        ),
        (
            "matches(a, r'(x?){30}x')",
            "searching for r'(x?){30}x' could take too long, even in a text of 256 characters",
            "begin it with '^', repeat less, or pip install 'chainweaver[re2]'",
        ),
        # places in a text of several lines
        ("a > 1\nand b.c", "predicates read no attributes (line 2, column 6)", "write a subscript: ['c']"),
    ],
)  # fmt: skip
def test_what_is_no_predicate_is_refused_with_its_place_and_a_fix(text, detail, fix):
    """R25: nothing but the grammar, and the message says where the text leaves it."""
    with pytest.raises(PredicateSyntaxError) as caught:
        parse_predicate(text)

    assert (caught.value.predicate, caught.value.detail, caught.value.fix) == (text, detail, fix)


def test_a_refusal_reads_as_one_message():
    """R25: the text of it, the place, the right way to write it; control characters do not reach the screen."""
    with pytest.raises(PredicateSyntaxError) as caught:
        parse_predicate("row.total > 1\n and '\x1b'")

    assert caught.value.render() == (
        "CW-E036 Predicate 'row.total > 1  and '\\x1b'' is not valid: "
        "the character U+001B does not belong in a predicate (line 2, column 7)."
    )


LARGE = [
    ("a" * 2_000, "a" * 2_001, "it has 2001 characters, and a predicate has at most 2000"),
    ("a" + " or a" * 249 + " ", "a" + " or a" * 250, "it has more than 500 words (column 1252)"),
    (
        "(" * 32 + "a" + ")" * 32,
        "(" * 33 + "a" + ")" * 33,
        f"{NESTED} (column 33)",
    ),
    (
        "a" + "[a" * 16 + "]" * 16,
        "a" + "[a" * 33 + "]" * 33,
        f"{NESTED} (column 66)",
    ),
    ("not " * 32 + "a", "not " * 33 + "a", f"{NESTED} (column 133)"),
    ("-" * 32 + "a", "-" * 33 + "a", f"{NESTED} (column 33)"),
    ("9" * 40, "9" * 41, "a number has at most 40 digits (column 1)"),
    (
        "matches(a, '" + "x" * 500 + "')",
        "matches(a, '" + "x" * 501 + "')",
        "a pattern has at most 500 characters, and this one has 501 (column 12)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("allowed", "refused", "detail"), LARGE, ids=lambda text: text[:8])
def test_a_predicate_has_a_size(allowed, refused, detail):
    """R25: characters, words, depth, digits and patterns are bounded, and the bounds are allowed."""
    parse_predicate(allowed)

    with pytest.raises(PredicateSyntaxError) as caught:
        parse_predicate(refused)

    assert caught.value.detail == detail


def test_depth_counts_what_is_open_and_not_what_was_closed():
    """R25: many short brackets, signs and negations side by side are no nest."""
    text = " and ".join(["not (-a < +b[0]) and matches(c, 'x') and [a] != ()"] * 12)

    assert parse_predicate(text).names == ("a", "b", "c")


# ---- the same as Python

NAMES: dict[str, Any] = {
    "a": 1,
    "b": -2.5,
    "c": "abc",
    "d": [3, "abc", None],
    "e": {"k": 0, "abc": [1], 1: "one"},
    "f": None,
    "g": (1, (2, "x")),
    "h": True,
}


class Writer:
    """Writes a text of the grammar, with brackets only now and then, so that precedence is tried as well."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def either(self, left: int) -> str:
        return self.joined(left, "or", self.both)

    def both(self, left: int) -> str:
        return self.joined(left, "and", self.negation)

    def joined(self, left: int, word: str, part: Callable[[int], str]) -> str:
        return f" {word} ".join(part(left) for _ in range(self.random.choice([1, 1, 1, 2, 3])))

    def negation(self, left: int) -> str:
        return self.random.choice(["", "", "", "not ", "not not "]) + self.comparison(left)

    def comparison(self, left: int) -> str:
        text = self.signed(left)
        for _ in range(self.random.choice([0, 0, 1, 1, 1, 2])):
            if self.random.random() < 0.2:
                text += f" {self.random.choice(['is', 'is not'])} {self.random.choice(['None', 'True', 'False'])}"
            else:
                sign = self.random.choice(["==", "!=", "<", "<=", ">", ">=", "in", "not in"])
                text += f" {sign} {self.signed(left - 1)}"
        return text

    def signed(self, left: int) -> str:
        kinds = ["name", "constant", "item", "sign", "brackets", "display", "call"]
        kind = self.random.choice(kinds if left > 0 else kinds[:2])
        if kind == "name":
            return self.random.choice(sorted(NAMES))
        if kind == "constant":
            return self.random.choice(["0", "1", "2.5", "'abc'", "'k'", "r'\\d'", "''", "None", "True", "False"])
        if kind == "item":
            return f"{self.random.choice(sorted(NAMES))}[{self.either(left - 1)}]"
        if kind == "sign":
            return f"{self.random.choice('+-')}{self.signed(left - 1)}"
        if kind == "brackets":
            return f"({self.either(left - 1)})"
        if kind == "call":
            return f"matches({self.either(left - 1)}, r'{self.random.choice(['b', '^a', 'x$', '.'])}')"
        parts = [self.either(left - 1) for _ in range(self.random.randint(1, 3))]
        brackets = self.random.choice(["()", "[]", "{}"])
        return f"{brackets[0]}{', '.join(parts)},{brackets[1]}"


def searched(text: Any, pattern: str) -> bool:
    if not isinstance(text, str):
        raise TypeError
    return re.search(pattern, text) is not None


def outcome(call: Callable[[], Any]) -> Any:
    """True, False, or the class of what was raised."""
    try:
        return bool(call())
    except LookupError:
        return LookupError
    except TypeError:
        return TypeError


def in_python(text: str, names: Mapping[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about constants that are compared or called
        return outcome(lambda: eval(text, {"__builtins__": {}, "matches": searched, **names}))


@settings(max_examples=3_000 if PROOF else 500)
@given(st.integers(0, 3), st.integers(0, 2**32))
def test_every_text_of_the_grammar_means_what_python_makes_of_it(depth, seed):
    """R25: value by value and error by error, as `eval` finds it."""
    text = Writer(Random(seed)).either(depth)
    assume(len(text) < 1_000)
    predicate = parse_predicate(text)
    bound = predicate.bind({name: itemgetter(name) for name in predicate.names})

    assert outcome(lambda: bound(NAMES)) == in_python(text, NAMES)


class Searching(int):
    """A key that has the name of the only call."""

    def __call__(self, text: Any, pattern: str) -> bool:
        return searched(text, pattern)


WORDS = [
    "a",
    "c",
    "d",
    "e",
    "1",
    "0",
    "'abc'",
    "None",
    "True",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    "==",
    "<",
    "in",
    "not",
]
WORDS += ["is", "and", "or", "-", "+", ".", "matches"]


@settings(max_examples=3_000 if PROOF else 1_000)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=7))
def test_what_is_accepted_is_python(words):
    """R25: there is no text that predicates accept and Python does not, or reads in another way."""
    text = " ".join(words)
    try:
        predicate = parse_predicate(text)
    except PredicateSyntaxError:
        return
    context = {**NAMES, "matches": Searching(5)}
    bound = predicate.bind({name: itemgetter(name) for name in predicate.names})

    assert outcome(lambda: bound(context)) == in_python(text, context)


def test_nothing_in_these_modules_can_run_a_text(request):
    """R25: no `eval`, no `exec`, no `compile` of Python, no attribute access by name."""
    source = "".join(_sources())

    assert re.findall(r"\b(?:eval|exec|__import__|getattr|setattr|vars|globals|ast)\b\s*[(.]", source) == []
    assert set(re.findall(r"[\w.]*\bcompile\(", source)) == {"re.compile(", "re2.compile("}


def _sources() -> Iterator[str]:
    from chainweaver.compiler import patterns, predicate_syntax

    for module in (predicates, predicate_syntax, patterns):
        with open(str(module.__file__), encoding="utf-8") as file:
            yield file.read()
