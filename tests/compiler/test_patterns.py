"""Patterns of `matches`: what they find, what is refused, and how long the worst text can take."""

from __future__ import annotations

import re
import sys
import time
import types
from random import Random
from typing import Any

import pytest

from chainweaver import PredicateSyntaxError
from chainweaver.compiler.patterns import TEXT_LENGTHS, PatternRefused, longest_text, pattern_of
from chainweaver.compiler.predicates import parse_predicate
from tests.conftest import PROOF

IN_TIME_S = 0.05
"""The promise: no evaluation takes longer."""


@pytest.fixture(autouse=True)
def without_re2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patterns run on `re`, whatever is installed."""
    monkeypatch.setitem(sys.modules, "re2", None)


def refusal(text: str) -> PatternRefused:
    with pytest.raises(PatternRefused) as caught:
        longest_text([pattern_of(text)])
    return caught.value


# ---- what they find


@pytest.mark.parametrize(
    ("pattern", "found", "missed"),
    [
        (r"^[A-Z]{2}\d+$", "AB12", "AB1x"),
        (r"\bfoo\b", "a foo.", "food"),
        (r"(?i)straße", "STRAßE", "strase"),
        (r"(?s)a.b", "a\nb", "ab"),
        (r"(?m)^b$", "a\nb\nc", "abc"),
        (r"(?x) a b  # both", "ab", "a b"),
        (r"(?P<year>\d{4})-(?:0[1-9]|1[0-2])", "on 2024-07-01", "2024-13"),
        (r"(?i:a)b", "Ab", "AB"),
        (r"\w+$", "Müller", "Müller!"),
        ("[^a-c]+x", "abcdx", "abcx"),
        (r"[\]x]+y", "]]y", "]z"),
        (r"\x41+b", "xAAb", "Ab".lower()),
        (r"\.+b", "..b", ".ab"),
        ("", "", None),
        ("^", "", None),
        ("a{2,}?b", "caaab", "ab"),
        (r"(?#why)a+b", "aab", "a"),
        (r"\Aab?\Z", "a", "ba"),
    ],
)
def test_a_pattern_is_searched_for_anywhere_in_the_text(pattern, found, missed):
    """R25: `matches` is `re.search`."""
    finds = pattern_of(pattern).finds

    assert finds(found) is True
    assert missed is None or finds(missed) is False


SINGLES = ["a", "b", ".", "[ab]", "[^a]", r"\w", r"[^\w-]", r"\s", r"[a-b]", r"\.", "[]a]"]


@pytest.mark.parametrize("flags", ["", "(?i)", "(?s)"])
@pytest.mark.parametrize("repeat", ["*", "+", "{2,}", "*?", "+?"])
@pytest.mark.parametrize("single", SINGLES)
def test_a_leading_run_finds_what_it_would_find_from_every_place(single, repeat, flags):
    """R25: that a run is tried from its beginning alone changes no answer."""
    random = Random(f"{single}{repeat}{flags}")
    for _ in range(40):
        after = "".join(
            random.choices(["a", "b", "B", "[ac]", r"\b", "$", " ", "(?:ab|c)", "a?", "."], k=random.randint(0, 3))
        )
        pattern, text = (
            f"{flags}{single}{repeat}{after}",
            "".join(random.choices("aabBc. -]\n", k=random.randint(0, 12))),
        )

        assert pattern_of(pattern).finds(text) is (re.search(pattern, text) is not None), (pattern, text)  # fmt: skip


# ---- what is refused


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        (r"(a)\1", "patterns have no back-references"),
        (r"(?P<n>a)(?P=n)", "patterns have no back-references"),
        (r"(a)?(?(1)b|c)", "patterns have no back-references"),
        (r"a(?=b)", "patterns have no look-around"),
        (r"a(?!b)", "patterns have no look-around"),
        (r"(?<=a)b", "patterns have no look-around"),
        (r"(?<!a)b", "patterns have no look-around"),
        (r"(?!)", "patterns have no look-around"),
        (r"a{0,1001}", "a repeat has a bound of at most 1000, not 1001"),
        (r"(?:ab){1001,}", "a repeat has a bound of at most 1000, not 1001"),
        ("(" * 51 + ")" * 51, "a pattern has at most 50 groups"),
        ("x" * 501, "a pattern has at most 500 characters, and this one has 501"),
        ("[\u0100-\uffff][\u4e00-\u9fff]", "the ranges of a predicate's patterns span at most 70000 characters"),
        ("(a", "the pattern is no regular expression: missing ), unterminated subpattern at position 0"),
        ("a**", "the pattern is no regular expression: multiple repeat at position 2"),
        ("[b-a]", "the pattern is no regular expression: bad character range b-a at position 1"),
        ("a{99999999999999999999}", "the pattern is no regular expression: the repetition number is too large"),
    ],
)
def test_what_patterns_do_not_have_is_named(pattern, what):
    """R25: what `google-re2` does not know is refused without it too, so that installing it breaks no flow."""
    refused = refusal(pattern)

    assert (refused.what, refused.fix) == (what, None)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the syntax is new in Python 3.11")
@pytest.mark.parametrize(
    ("pattern", "kind"), [("(?>a|b)c", "atomic groups"), ("a?+b", "possessive repeats")]
)  # fmt: skip
def test_what_only_newer_pythons_know_is_refused_there(pattern, kind):
    """R25: a flow means the same on every Python."""
    assert refusal(pattern).what == f"patterns have no {kind}"


@pytest.mark.parametrize(
    "pattern", ["a*b*", "(a+)+", "(a*)*", r"\d+-\d+", "(?:a+|b)+", "a{1,}x+", "(?:(?:a*)b)*", "a+?b{2,}?"]
)
def test_there_is_at_most_one_repeat_without_a_bound(pattern):  # fmt: skip
    """R25: a second one makes the number of ways grow with a power of the length."""
    refused = refusal(pattern)

    assert (
        refused.what == "without google-re2 a pattern has at most one '*', '+' or '{n,}', counting those inside others"
    )
    assert refused.fix == "write the others with a bound, such as '{0,50}', or pip install 'chainweaver[re2]'"


@pytest.mark.parametrize(
    "pattern",
    [
        "(a{1,50}){1,50}",
        "(?:a?){30}a{30}",
        "a?" * 30 + "a" * 30,
        "(?:a|a)*b",
        "(?:a|ab|b)*c",
        "(?:a|aa){20}b",
        "(?:a?)*b",
        "(?:a{1,2})*b",
        "(?:a?b?)*c",
        "(?i)(?:ab|c)*d",
        "(?:a{0,1000}){2}b",
        "(?:(?:a?){5}){5}b",
        "(?:|a){30}",
        "(?:.a?|b){25}c",
        "(?:(?:a?)+b?){9}c",
    ],
)
def test_patterns_with_too_many_ways_to_match_are_refused(pattern):
    """R25: bounded repeats multiply; what they could cost is known before the first text."""
    refused = refusal(pattern)

    assert refused.what == f"searching for r'{pattern}' could take too long, even in a text of 256 characters"
    assert refused.fix == "begin it with '^', repeat less, or pip install 'chainweaver[re2]'"


@pytest.mark.parametrize(
    ("pattern", "length"),
    [
        # Linear, or nearly: a run at the beginning, an anchor, small bounds.
        (r"^.*foo", 4_096),
        (r"\A(?:ab)*c", 4_096),
        (r"\d+ items", 4_096),
        (r"\s+$", 4_096),
        (r"(?i)a*[bc]", 4_096),
        (r"[a-z0-9._-]+@", 4_096),
        (r"^[\w.]{1,64}@[\w.]{1,255}$", 4_096),
        (r"^\d{1,3}(?:\.\d{1,3}){3}$", 4_096),
        (r"(?:foo|bar)", 4_096),
        (r"^(?:pending|paid|shipped)$", 4_096),
        (r"^(?:[ab]|c|(de)|(?:f){2})*$", 4_096),
        # Quadratic: tried from every place, and each time to the end.
        (r"a.*b", 2_048),
        (r"a.*?b", 1_024),
        (r"foo.*bar", 1_024),
        (r"aaa.*b", 2_048),
        (r"a[^b]*b", 2_048),
        (r"a[\d\s]*x", 1_024),
        (r"a[\d\s]*\d", 1_024),
        (r"a[^\W]*-", 1_024),
        (r"a\W*\x7f", 1_024),
        (r"a[\x00-\x1f]*x", 1_024),
        (r"a\D*é", 1_024),
        (r"(?m)^.*x", 2_048),
        (r"(?x) a+ b", 2_048),
        (r"(?:foo|bar)+x", 512),
        (r"(?:\b)*a", 512),
        (r"(?:a|b)x{0,1000}y", 2_048),
    ],
)
def test_the_length_of_a_text_is_bounded_by_what_searching_it_could_cost(pattern, length):
    """R25: 4 096 characters, and fewer where the time grows faster than the text."""
    assert longest_text([pattern_of(pattern)]) == length


def test_the_patterns_of_a_predicate_share_its_budget():
    """R25: ten patterns, each of which could take all the time there is, leave shorter texts."""
    assert longest_text([pattern_of("a.*b")] * 3) == 1_024
    assert parse_predicate("matches(a, 'x.*y')")._longest == 2_048
    assert parse_predicate("matches(a, 'x.*y') or matches(a, 'y.*x') or matches(b, 'z.*x')")._longest == 1_024

    with pytest.raises(PredicateSyntaxError, match="could take too long, even in a text of 256 characters"):
        parse_predicate(" or ".join(["matches(a, 'x.*[y]z?')"] * 60))


def test_ranges_are_counted_over_all_patterns_of_a_predicate():
    """R25: compiling many patterns with wide ranges takes time as well."""
    wide = "matches(a, '[\\u0100-\\uffff]')"

    parse_predicate(wide)
    with pytest.raises(PredicateSyntaxError, match="span at most 70000 characters"):
        parse_predicate(f"{wide} or {wide}")


def test_a_predicate_without_patterns_bounds_no_text():
    """R25: only searching is bounded."""
    assert longest_text([]) is None


# ---- how long it takes


def seconds(call: Any) -> float:
    """The processor time of a call, the least of up to five: other work on the machine only ever adds to it."""
    least = float("inf")
    for _ in range(5):
        began = time.thread_time()
        call()
        least = min(least, time.thread_time() - began)
        if least < IN_TIME_S / 5:
            break
    return least


def worst_texts(length: int) -> list[str]:
    units = ["a", "b", "ab", "aab", "abc", "ba", " a", "a\n", "é", "aaaab"]
    texts = [(unit * length)[: length - 1] + end for unit in units for end in "!a"]
    half = length // 2
    return [*texts, "a" * half + "b" * half, "b" * half + "a" * half]


class Writer:
    """Writes patterns that look for trouble."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.unbounded = False

    def pattern(self) -> str:
        start = self.random.choice(["", "", "", "^", r"\A", "(?i)", "(?s)", "(?m)^"])
        return start + "|".join(self.sequence(2) for _ in range(self.random.choice([1, 1, 1, 2])))

    def sequence(self, left: int) -> str:
        return "".join(self.repeated(left) for _ in range(self.random.choice([1, 1, 2, 2, 3, 4])))

    def repeated(self, left: int) -> str:
        atom = self.atom(left)
        if atom in (r"\b", "$") or self.random.random() < 0.45:
            return atom
        if not self.unbounded and self.random.random() < 0.3:
            self.unbounded = True
            return atom + self.random.choice(["*", "+", "*?", "+?", "{2,}"])
        return atom + self.random.choice(
            ["?", "??", "{0,3}", "{2}", "{1,5}", "{0,20}", "{3,30}?", "{0,200}", "{0,1000}"]
        )

    def atom(self, left: int) -> str:
        kind = self.random.random()
        if kind < 0.4 or left <= 0:
            return self.random.choice("aab")
        if kind < 0.6:
            return self.random.choice(["[ab]", "[^c]", "[a-c]", r"\w", ".", r"[\w-]", r"\b", "$"])
        branches = [self.sequence(left - 1) for _ in range(self.random.choice([1, 2, 3]))]
        return f"({self.random.choice(['', '?:'])}{'|'.join(branches)})"


@pytest.mark.parametrize("seed", range(8))
def test_no_pattern_that_is_accepted_takes_long_on_any_text_that_it_accepts(seed):
    """R25: the model of what a search costs errs upwards; the clock agrees."""
    random, tried = Random(seed), 0
    while tried < (200 if PROOF else 15):
        try:
            pattern = pattern_of(Writer(random).pattern())
            length = longest_text([pattern])
        except PatternRefused:
            continue
        assert length in TEXT_LENGTHS
        tried += 1
        for text in worst_texts(length):
            took = seconds(lambda pattern=pattern, text=text: pattern.finds(text))
            assert took < IN_TIME_S, f"{pattern.text!r} took {took * 1e3:.1f} ms on {text[:9]!r}..."


# ---- google-re2


class StandIn(types.ModuleType):
    """The part of `re2` that is used, on `re`: what a pattern is compiled with can be seen."""

    def __init__(self) -> None:
        super().__init__("re2")
        self.error = re.error
        self.Options = types.SimpleNamespace
        self.compiled: list[Any] = []

    def compile(self, pattern: str, options: Any) -> Any:
        if "(?=" in pattern:
            raise self.error(b"invalid perl operator: (?=")  # type: ignore[arg-type]  # as re2 does
        self.compiled.append((pattern, options))
        compiled = re.compile(pattern.encode())
        return types.SimpleNamespace(search=compiled.search, programsize=10 * len(pattern))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    module = StandIn()
    monkeypatch.setitem(sys.modules, "re2", module)
    return module


def test_where_re2_is_installed_it_does_the_work(stand_in):
    """R25: patterns run on `google-re2` where that is installed, and texts have any length there."""
    pattern = pattern_of("(a+)+b")

    assert pattern.finds("a" * 10_000 + "b") is True
    assert pattern.finds("b\ud800") is False  # half of a surrogate pair is a character like any other
    assert longest_text([pattern]) is None
    [(text, options)] = stand_in.compiled
    assert (text, options.log_errors, options.never_capture) == ("(a+)+b", False, True)


def test_what_re2_refuses_is_refused_with_its_reason(stand_in):
    """R25: a pattern that it does not know is an error of the predicate."""
    with pytest.raises(PredicateSyntaxError) as caught:
        parse_predicate("matches(a, r'(?=b)')")

    assert caught.value.detail == "google-re2 does not know the pattern: invalid perl operator: (?= (column 12)"


def test_a_reason_may_be_a_text_as_well(stand_in, monkeypatch):
    """R25: whatever the error of the library holds."""
    monkeypatch.setattr(stand_in, "compile", lambda pattern, options: re.compile("("))

    assert refusal("x").what.startswith("google-re2 does not know the pattern: missing )")


def test_programs_of_re2_have_a_size(stand_in):
    """R25: its time per character grows with the size of the program."""
    assert longest_text([pattern_of("a" * 250)]) is None

    with pytest.raises(PatternRefused) as caught:
        longest_text([pattern_of("a" * 250), pattern_of("a")])

    assert (caught.value.what, caught.value.fix) == (
        "its patterns are too large for google-re2",
        "repeat less, or use fewer classes",
    )


def test_another_module_of_that_name_is_not_taken_for_it(monkeypatch):
    """R25: other packages have brought a module `re2` too."""
    monkeypatch.setitem(sys.modules, "re2", types.ModuleType("re2"))

    assert longest_text([pattern_of("a+")]) == 4_096


def test_with_the_real_re2(monkeypatch):
    """R25: catastrophic patterns are linear, and what the model accepts compiles there."""
    monkeypatch.delitem(sys.modules, "re2")
    pytest.importorskip("re2", reason="the extra 're2' is not installed")

    for text in ["(a+)+$", "(a|aa)+$", "(a?){30}a{30}", r"(\w+\s?)*$", "([a-z]+)+[A-Z]", "(x+x+)+y", r"^(.+)+\d$"]:
        pattern = pattern_of(text)
        assert longest_text([pattern]) is None
        for subject in worst_texts(4_096):
            assert seconds(lambda pattern=pattern, subject=subject: pattern.finds(subject)) < IN_TIME_S
    for text in [r"(a)\1", "a(?=b)", "(a{1,50}){1,50}", "a{1001}", r"(?:\pL{0,900}){0,900}"]:
        assert refusal(text)
    random = Random(1)
    for _ in range(100):
        written = Writer(random).pattern()
        monkeypatch.setitem(sys.modules, "re2", None)
        try:
            with_re = pattern_of(written)
            longest_text([with_re])
        except PatternRefused:
            continue
        monkeypatch.delitem(sys.modules, "re2")
        with_re2 = pattern_of(written)
        for subject in ["", "a", "b", "ab" * 20, "aab" * 20, "abc", "!", "a" * 50 + "!"]:
            assert with_re.finds(subject) is with_re2.finds(subject), (written, subject)
