"""The language of predicates: a text becomes a small tree of parts, or is refused with a column and a fix.

    either      both ('or' both)*
    both        negation ('and' negation)*
    negation    'not'* comparison
    comparison  signed (('==' | '!=' | '<' | '<=' | '>' | '>=' | 'in' | 'not' 'in' | 'is' | 'is' 'not') signed)*
    signed      ('+' | '-')* item
    item        value ('[' either ']')*
    value       name | number | text | 'True' | 'False' | 'None' | '(' ... ')' | '[' ... ']' | '{' ... '}'
                | 'matches' '(' either ',' text ')'

What is in it means what it means in Python. It is read here, word by word, rather than by Python's own parser: nothing
outside the grammar is ever built, no nest of brackets or signs can exhaust a stack, every refusal has its column, and
all of it is the same on every Python. Nothing is evaluated here; `predicates` does that, and is the only caller.
"""

from __future__ import annotations

import keyword
import math
import operator
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from chainweaver.compiler.patterns import Pattern, PatternRefused, pattern_of
from chainweaver.exceptions import PredicateSyntaxError, suggest

LONGEST_TEXT = 2_000
"""Characters of a predicate."""
MOST_WORDS = 500
"""Words of a predicate: names, constants, operators, brackets, commas. Evaluating it takes at most as many steps."""
DEEPEST = 32
"""Brackets, signs and negations inside each other."""
MOST_DIGITS = 40
"""Digits of a number."""

CALL = "matches"
"""The only call there is."""


# ---- the tree


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that is part of the text; immutable and hashable, so that evaluations can share it."""

    value: Any


@dataclass(frozen=True, slots=True)
class Name:
    """A context key."""

    name: str


@dataclass(frozen=True, slots=True)
class Item:
    """A subscript. `text` is how the predicate writes the whole of it."""

    whole: Part
    key: Part
    text: str


@dataclass(frozen=True, slots=True)
class Signed:
    """A value with a sign before it."""

    apply: Callable[[Any], Any]
    operand: Part


@dataclass(frozen=True, slots=True)
class Negation:
    operand: Part


@dataclass(frozen=True, slots=True)
class AllOf:
    """Parts joined by `and`, two or more."""

    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Parts joined by `or`, two or more."""

    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A chain of comparisons. A link is the operator and what stands to its right."""

    first: Part
    links: tuple[tuple[str, Part], ...]


@dataclass(frozen=True, slots=True)
class Display:
    """A tuple, list or set that is built anew for every evaluation."""

    kind: Callable[[list[Any]], Any]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """A call of `matches`. `text` is how the predicate writes its first argument."""

    operand: Part
    pattern: Pattern
    text: str


Part: TypeAlias = "Constant | Name | Item | Signed | Negation | AllOf | AnyOf | Comparison | Display | Match"


class Parsed(NamedTuple):
    """What a text says.

    Attributes:
        names: The context keys it reads, in the order of their first use.
        patterns: The patterns of all calls of `matches`.
    """

    root: Part
    names: tuple[str, ...]
    patterns: tuple[Pattern, ...]


def parsed(text: str) -> Parsed:
    """Read a predicate.

    Raises:
        PredicateSyntaxError: The text is no predicate, or is larger than a predicate may be.
    """
    if len(text) > LONGEST_TEXT:
        detail = f"it has {len(text)} characters, and a predicate has at most {LONGEST_TEXT}"
        raise PredicateSyntaxError(text, detail, fix="let a tool work it out and compare its output")
    reader = _Reader(text, _words(text))
    root = reader.read_all()
    return Parsed(root, tuple(reader.names), tuple(reader.patterns))


# ---- words


class Word(NamedTuple):
    """One word of the text.

    Attributes:
        kind: "name", "constant", "text", "operator" (keywords and brackets too) or "end".
        text: As it is written.
        value: Of a constant or text.
        start, end: Where it stands.
    """

    kind: str
    text: str
    value: Any
    start: int
    end: int


# Two-character operators of other languages are words too, so that a refusal can name them whole.
_WORD = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<number>\.?[0-9](?:[eE][+-]|[0-9A-Za-z_.])*)
    |(?P<name>[^\W\d]\w*)
    |(?P<quote>["'])
    |(?P<operator>===|!==|==|!=|<=|>=|=>|=<|<>|:=|->|&&|\|\||\*\*|//|<<|>>|.)""",
    re.VERBOSE | re.DOTALL,
)
_DIGITS = r"[0-9](?:_?[0-9])*"
_INTEGER = re.compile(rf"(?:0(?:_?0)*|(?!0){_DIGITS})\Z")
_FLOAT = re.compile(rf"(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS}|{_DIGITS}(?=[eE]))(?:[eE][+-]?{_DIGITS})?\Z")

_OPERATORS = frozenset(("(", ")", "[", "]", "{", "}", ",", "==", "!=", "<", "<=", ">", ">=", "+", "-", "."))
_KEYWORDS = frozenset(("and", "or", "not", "in", "is"))
_CONSTANTS = {"True": True, "False": False, "None": None}

_NO_ARITHMETIC = ("is arithmetic, which predicates do not have", "let a tool compute the value and compare its output")
_NO_ASSIGNMENT = ("assigns, and predicates only compare", "compare with '=='")
_MISFITS: dict[str, tuple[str, str | None]] = {
    "=": _NO_ASSIGNMENT,
    ":=": _NO_ASSIGNMENT,
    "===": ("is no operator", "did you mean '=='?"),
    "!==": ("is no operator", "did you mean '!='?"),
    "<>": ("is no operator", "did you mean '!='?"),
    "=>": ("is no operator", "did you mean '>='?"),
    "=<": ("is no operator", "did you mean '<='?"),
    "&&": ("is no operator", "did you mean 'and'?"),
    "&": ("is no operator", "did you mean 'and'?"),
    "||": ("is no operator", "did you mean 'or'?"),
    "|": ("is no operator", "did you mean 'or'?"),
    "!": ("is no operator", "did you mean 'not'?"),
    ":": ("does not belong here: predicates have no slices, dicts or lambdas", None),
    "?": ("does not belong here: predicates have no conditional expressions", "use 'and' and 'or', or a second branch"),
    "#": ("does not belong here: predicates have no comments", None),
    **dict.fromkeys(("+", "-", "*", "/", "//", "%", "**", "@", "<<", ">>", "^", "~"), _NO_ARITHMETIC),
}
_MISFIT_WORDS: dict[str, tuple[str, str | None]] = {
    **dict.fromkeys(("if", "else"), _MISFITS["?"]),
    **dict.fromkeys(("for", "async", "await", "yield"), ("does not belong here: nothing is repeated or awaited", None)),
    "lambda": ("does not belong here: predicates have no functions", None),
    "true": ("is no constant", "did you mean 'True'?"),
    "false": ("is no constant", "did you mean 'False'?"),
    "null": ("is no constant", "did you mean 'None'?"),
}


def _words(text: str) -> list[Word]:
    """The words of a text, the last one of kind "end"."""
    found: list[Word] = []
    at = 0
    while at < len(text):
        match = _WORD.match(text, at)
        assert match is not None  # its last alternative takes any character
        kind = str(match.lastgroup)
        if kind == "quote":
            found.append(_quoted(text, at, at, raw=False))
        elif kind == "name":
            found.append(_named(text, match))
        elif kind == "number":
            found.append(_numbered(text, match))
        elif kind == "operator":
            found.append(_operator(text, match))
        at = match.end() if kind == "space" else found[-1].end
        if len(found) > MOST_WORDS:
            what = f"it has more than {MOST_WORDS} words"
            raise _refusal(text, at, what, "let a tool work it out and compare its output")
    return [*found, Word("end", "", None, len(text), len(text))]


def _operator(text: str, match: re.Match[str]) -> Word:
    sign, at = match.group(), match.start()
    if sign in _OPERATORS:
        return Word("operator", sign, None, at, match.end())
    what, fix = _MISFITS.get(sign, ("does not belong in a predicate", None))
    raise _refusal(text, at, f"{_shown(sign)} {what}", fix)


def _named(text: str, match: re.Match[str]) -> Word:
    name, at, end = match.group(), match.start(), match.end()
    if text[end : end + 1] in ("'", '"') and name not in _KEYWORDS:
        if name in ("r", "R"):
            return _quoted(text, at, end, raw=True)
        raise _refusal(text, at, f"a text has no prefix '{name}'", "write it plain, or as r'...' with backslashes kept")
    if name in _KEYWORDS:
        return Word("operator", name, None, at, end)
    if name in _CONSTANTS:
        return Word("constant", name, _CONSTANTS[name], at, end)
    if name in _MISFIT_WORDS or keyword.iskeyword(name):
        what, fix = _MISFIT_WORDS.get(name, ("is a word of Python that predicates do not have", None))
        raise _refusal(text, at, f"'{name}' {what}", fix)
    # Python folds look-alikes such as full-width letters; a key is compared letter by letter.
    if unicodedata.normalize("NFKC", name) != name:
        folded = unicodedata.normalize("NFKC", name)
        raise _refusal(text, at, f"'{name}' is not written in plain letters", f"did you mean '{folded}'?")
    return Word("name", name, None, at, end)


def _numbered(text: str, match: re.Match[str]) -> Word:
    number, at = match.group(), match.start()
    if sum(map(str.isdigit, number)) > MOST_DIGITS:
        raise _refusal(text, at, f"a number has at most {MOST_DIGITS} digits")
    if _INTEGER.match(number):
        return Word("constant", number, int(number), at, match.end())
    if not _FLOAT.match(number):
        raise _refusal(text, at, f"'{number}' is no number of a predicate", "write it in decimal, such as 12 or 0.5")
    value = float(number)
    if math.isinf(value):
        raise _refusal(text, at, f"'{number}' is larger than any float")
    return Word("constant", number, value, at, match.end())


# ---- texts

_ESCAPES = {"\\": "\\", "'": "'", '"': '"', "n": "\n", "r": "\r", "t": "\t"}
_HEX = {"x": 2, "u": 4, "U": 8}
_STRANGE_ESCAPES = frozenset("abfvN01234567")
"""What Python reads as something that hardly anybody means, least of all in a pattern."""


def _quoted(text: str, start: int, quote_at: int, *, raw: bool) -> Word:
    """The text in quotes that begins at `quote_at`; `start` is where its prefix stands."""
    quote = text[quote_at]
    if text.startswith(quote * 3, quote_at):
        raise _refusal(text, start, "a text stands in single quotes or in double quotes, not in three")
    parts: list[str] = []
    at = quote_at + 1
    while True:
        character = text[at : at + 1]
        if character in ("", "\n", "\r"):
            raise _refusal(text, start, "a text begins here and does not end", f"close it with {quote}")
        if character == quote:
            return Word("text", text[start : at + 1], "".join(parts), start, at + 1)
        if not _is_character(character):
            raise _refusal(text, at, f"{_shown(character)} does not belong in a predicate")
        taken = character
        if character == "\\":
            taken, part = _escaped(text, at, raw=raw)
            parts.append(part)
        else:
            parts.append(character)
        at += len(taken)


def _is_character(character: str) -> bool:
    """Whether it may stand in a text: no control character, no half of a surrogate pair."""
    return character == "\t" or unicodedata.category(character) not in ("Cc", "Cs")


def _escaped(text: str, at: int, *, raw: bool) -> tuple[str, str]:
    """What is written from a backslash on, and what it stands for."""
    after = text[at + 1 : at + 2]
    if raw:
        # The quote after a backslash stays inside, and so does the backslash.
        pair = f"\\{after}" if after in ("'", '"', "\\") else "\\"
        return pair, pair
    if after in _HEX:
        digits = text[at + 2 : at + 2 + _HEX[after]]
        if len(digits) == _HEX[after] and set(digits) <= set("0123456789abcdefABCDEF"):
            code = int(digits, 16)
            if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF:
                return f"\\{after}{digits}", chr(code)
        raise _refusal(text, at, f"'\\{after}' is followed by {_HEX[after]} hexadecimal digits of a character")
    if after in _STRANGE_ESCAPES:
        what = f"'\\{after}' in plain quotes is no part of a pattern"
        raise _refusal(text, at, what, "write a pattern as r'...', and any other character as \\x.. or \\u....")
    # As in Python, what is no escape stands for itself: "\d" is a backslash and a d.
    return (f"\\{after}", _ESCAPES[after]) if after in _ESCAPES else ("\\", "\\")


# ---- refusals


def _refusal(text: str, at: int, what: str, fix: str | None = None) -> PredicateSyntaxError:
    before = text[:at]
    line, column = before.count("\n"), at - (before.rfind("\n") + 1) + 1
    place = f"line {line + 1}, column {column}" if "\n" in text else f"column {column}"
    return PredicateSyntaxError(text, f"{what} ({place})", fix=fix)


def _shown(sign: str) -> str:
    """An operator or a character, visible in any case."""
    return f"'{sign}'" if sign.isprintable() and not sign.isspace() else f"the character U+{ord(sign):04X}"


# ---- the reader

_COMPARISONS = frozenset(("==", "!=", "<", "<=", ">", ">=", "in", "not", "is"))
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_SIGNS: dict[str, Callable[[Any], Any]] = {"+": operator.pos, "-": operator.neg}


@dataclass(slots=True)
class _Reader:
    """Reads words from left to right, one method per line of the grammar; each leaves `at` behind what it read."""

    text: str
    words: list[Word]
    at: int = 0
    depth: int = 0
    names: dict[str, None] = field(default_factory=dict)
    patterns: list[Pattern] = field(default_factory=list)

    @property
    def word(self) -> Word:
        return self.words[self.at]

    def read_all(self) -> Part:
        if self.word.kind == "end":
            raise _refusal(self.text, 0, "it is empty", "a branch that is always taken is 'True', or 'default_next'")
        root = self.either()
        if self.word.kind != "end":
            raise self.unexpected("an operator or the end")
        return root

    def either(self) -> Part:
        parts = [self.both()]
        while self.takes("or"):
            parts.append(self.both())
        return AnyOf(tuple(parts)) if len(parts) > 1 else parts[0]

    def both(self) -> Part:
        parts = [self.negation()]
        while self.takes("and"):
            parts.append(self.negation())
        return AllOf(tuple(parts)) if len(parts) > 1 else parts[0]

    def negation(self) -> Part:
        count = 0
        while self.takes("not"):
            self.deeper()
            count += 1
        part = self.comparison()
        for _ in range(count):
            part = Negation(part)
        self.depth -= count
        return part

    def comparison(self) -> Part:
        first = self.signed()
        links: list[tuple[str, Part]] = []
        while self.word.text in _COMPARISONS:
            links.append(self.link())
        return Comparison(first, tuple(links)) if links else first

    def link(self) -> tuple[str, Part]:
        sign = self.take().text
        if sign == "not":
            if not self.takes("in"):
                raise self.unexpected("'in' after 'not'")
            sign = "not in"
        elif sign == "is" and self.takes("not"):
            sign = "is not"
        start = self.word.start
        right = self.signed()
        if sign in ("is", "is not") and not _is_singleton(right):
            fix = "compare values with '==' or '!='"
            raise _refusal(self.text, start, f"'{sign}' compares with None, True or False alone", fix)
        if sign in ("in", "not in") and isinstance(right, Display) and _all_constant(right.parts):
            # Only a list is left to be one, and nobody can tell it from a tuple when it is only looked through.
            right = Constant(_values(right.parts))
        return sign, right

    def signed(self) -> Part:
        signs: list[Callable[[Any], Any]] = []
        while self.word.text in _SIGNS:
            self.deeper()
            signs.append(_SIGNS[self.take().text])
        part = self.item()
        for apply in reversed(signs):
            # A bool or a text is left to the evaluation, which says what Python says.
            number = isinstance(part, Constant) and type(part.value) in (int, float)
            part = Constant(apply(part.value)) if isinstance(part, Constant) and number else Signed(apply, part)
        self.depth -= len(signs)
        return part

    def item(self) -> Part:
        start = self.word.start
        part = self.value()
        while self.word.text in ("[", "(", "."):
            if self.word.text != "[":
                raise self.no_access(part)
            [key] = self.listed(one=True)
            part = Item(part, key, self.text[start : self.words[self.at - 1].end])
        return part

    def value(self) -> Part:
        word = self.word
        if word.kind == "name":
            self.take()
            if word.text == CALL and self.word.text == "(":
                return self.match()
            self.names[word.text] = None
            return Name(word.text)
        if word.kind in ("constant", "text"):
            self.take()
            if word.kind == self.word.kind == "text":
                raise _refusal(self.text, self.word.start, "two texts stand side by side", "write them as one")
            return Constant(word.value)
        if word.text in _CLOSING:
            return self.display()
        raise self.unexpected("a value")

    def display(self) -> Part:
        bracket, start = self.word.text, self.word.start
        parts = self.listed()
        trailing = self.words[self.at - 2].text == ","
        if bracket == "(" and len(parts) == 1 and not trailing:
            return parts[0]
        if bracket == "{" and not parts:
            what = "'{}' is a dict, which predicates do not have"
            raise _refusal(self.text, start, what, "for a collection without items write ()")
        if bracket != "[" and _all_constant(parts):
            return Constant(_values(parts) if bracket == "(" else frozenset(_values(parts)))
        return Display({"(": tuple, "[": list, "{": set}[bracket], tuple(parts))

    def listed(self, *, one: bool = False) -> list[Part]:
        """What stands between the bracket here and its partner: parts with commas between them, or exactly one."""
        self.deeper()
        closing = _CLOSING[self.take().text]
        parts: list[Part] = []
        while one or self.word.text != closing:
            parts.append(self.either())
            if one or not self.takes(","):
                break
        if not self.takes(closing):
            raise self.unexpected(f"'{closing}'" if one else f"',' or '{closing}'")
        self.depth -= 1
        return parts

    def match(self) -> Part:
        """The rest of a call of `matches`, from its bracket on."""
        self.deeper()
        self.take()
        start = self.word.start
        operand = self.either()
        text = self.text[start : self.words[self.at - 1].end]
        if not self.takes(","):
            raise self.unexpected("',' and a pattern")
        word = self.take()
        if word.kind != "text" or self.word.text != ")":
            what = f"the second argument of {CALL}() is a pattern in quotes, and the last one"
            raise _refusal(self.text, word.start, what, "write " + CALL + "(text, r'...')")
        self.take()
        self.depth -= 1
        try:
            pattern = pattern_of(word.value, self.patterns)
        except PatternRefused as refused:
            raise _refusal(self.text, word.start, refused.what, refused.fix) from None
        self.patterns.append(pattern)
        return Match(operand, pattern, text)

    # ---- steps

    def take(self) -> Word:
        word = self.word
        # Nothing follows the end; whoever looks there again finds it again.
        self.at = min(self.at + 1, len(self.words) - 1)
        return word

    def takes(self, sign: str) -> bool:
        """Step over this operator when it is the next word."""
        if self.word.text == sign:
            self.take()
            return True
        return False

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > DEEPEST:
            what = f"more than {DEEPEST} brackets, signs and negations stand inside each other"
            raise _refusal(self.text, self.word.start, what)

    def unexpected(self, expected: str) -> PredicateSyntaxError:
        word = self.word
        if word.text in _SIGNS:
            return _refusal(self.text, word.start, f"'{word.text}' {_NO_ARITHMETIC[0]}", _NO_ARITHMETIC[1])
        found = "the end" if word.kind == "end" else f"'{word.text}'"
        fix = "put what is negated in brackets" if word.text == "not" else None
        return _refusal(self.text, word.start, f"{expected} is expected, not {found}", fix)

    def no_access(self, part: Part) -> PredicateSyntaxError:
        """The refusal of an attribute or a call at the word that is next."""
        word, after = self.word, self.words[self.at + 1]
        if word.text == ".":
            called = self.words[min(self.at + 2, len(self.words) - 1)].text == "("
            subscript = f"write a subscript: ['{after.text}']" if after.kind == "name" else None
            fix = f"to look into a text, write {CALL}(text, r'...')" if called else subscript
            return _refusal(self.text, word.start, "predicates read no attributes", fix)
        return _refusal(self.text, word.start, f"there is no call but {CALL}(text, r'...')", _instead_of(part))


def _instead_of(part: Part) -> str | None:
    """What to write rather than a call of this."""
    if not isinstance(part, Name):
        return None
    if part.name in ("len", "any", "bool"):
        return "what is empty does not hold, so its name alone will do"
    near = suggest(part.name, (CALL,))
    return f"did you mean '{near}'?" if near else "let a tool compute the value and compare its output"


def _is_singleton(part: Part) -> bool:
    return isinstance(part, Constant) and (part.value is None or isinstance(part.value, bool))


def _all_constant(parts: Sequence[Part]) -> bool:
    return all(isinstance(part, Constant) for part in parts)


def _values(parts: Sequence[Part]) -> tuple[Any, ...]:
    return tuple(part.value for part in parts if isinstance(part, Constant))
