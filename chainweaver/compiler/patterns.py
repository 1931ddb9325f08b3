"""Patterns of `matches(text, "pattern")`: regular expressions that cannot take long.

A pattern is searched for with `google-re2` where that is installed (the extra `re2`), which needs time linear in the
text, and with Python's `re` elsewhere. `re` tries one way after the other, so a pattern has to show beforehand how many
ways there are: from the tree that Python's own parser makes of it, `_Tree` computes what the worst text could cost. The
model is coarse and meant to err upwards; tests compare it with a clock.

What is refused in both cases: patterns of more than 500 characters or 50 groups. With `re` also: back-references,
look-around and the other things that `google-re2` does not know, so that installing it breaks no flow; a second
unbounded repeat; and whatever costs too much.

Where the two still differ: `\\d`, `\\w`, `\\s`, `\\b` and upper and lower case mean Unicode in `re` and ASCII in
`google-re2` (which has `\\pL` and `\\pN`); `$` also matches before a last line feed in `re`; only `re` knows `\\Z`,
`\\uXXXX` and the flags `a`, `u` and `x`; with `re` a text has at most 4096 characters.

Called by `predicate_syntax` and `predicates`. The one module that imports `re2`, and only when a pattern is read.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

LONGEST_PATTERN = 500
"""Characters of a pattern."""
MOST_GROUPS = 50
"""Opening brackets in a pattern."""
MOST_REPEATS = 1_000
"""Largest bound of a repeat, which is that of `google-re2`."""
WIDEST_RANGES = 70_000
"""Characters in the ranges of all patterns of a predicate: `re` walks through them one by one when it compiles."""

TEXT_LENGTHS = (4_096, 2_048, 1_024, 512, 256)
"""Characters that a text may have, from the best case down; a pattern that fits none of them is refused."""
BUDGET_NS = 15_000_000.0
"""What all patterns of a predicate may cost together on their worst texts, by the model, in nanoseconds."""

INSTALL = "pip install 'chainweaver[re2]'"


class PatternRefused(Exception):
    """A pattern is none, or could take too long.

    Attributes:
        what: The reason.
        fix: What to do, or None.
    """

    def __init__(self, what: str, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern.

    Attributes:
        text: As the predicate writes it.
        finds: Whether the pattern matches somewhere in a text.
        cost_ns: Length of the text -> nanoseconds that the worst text of this length takes, by the model.
        linear: It runs on `google-re2`, and texts may have any length.
        range_width: Characters in its ranges.
    """

    text: str
    finds: Callable[[str], bool]
    cost_ns: Callable[[int], float]
    linear: bool
    range_width: int = 0


def pattern_of(text: str, before: Sequence[Pattern] = ()) -> Pattern:
    """Compile a pattern with what is installed.

    Args:
        before: Patterns of the same predicate, which share its budget.

    Raises:
        PatternRefused: It is no pattern, or uses what patterns must not.
    """
    if len(text) > LONGEST_PATTERN:
        raise PatternRefused(f"a pattern has at most {LONGEST_PATTERN} characters, and this one has {len(text)}")
    if text.count("(") > MOST_GROUPS:
        raise PatternRefused(f"a pattern has at most {MOST_GROUPS} groups")
    re2 = _re2()
    return _backtracking(text, before) if re2 is None else _linear(text, re2)


def longest_text(patterns: Sequence[Pattern]) -> int | None:
    """How many characters the texts of these patterns may have together in one evaluation; None: any number.

    Raises:
        PatternRefused: Even the shortest of `TEXT_LENGTHS` could take too long.
    """
    linear = all(pattern.linear for pattern in patterns)
    for length in TEXT_LENGTHS:
        if sum(pattern.cost_ns(length) for pattern in patterns) <= BUDGET_NS:
            return None if linear else length
    if linear:
        raise PatternRefused("its patterns are too large for google-re2", "repeat less, or use fewer classes")
    costly = max(patterns, key=lambda pattern: pattern.cost_ns(TEXT_LENGTHS[-1]))
    what = f"searching for r'{costly.text}' could take too long, even in a text of {TEXT_LENGTHS[-1]} characters"
    raise PatternRefused(what, f"begin it with '^', repeat less, or {INSTALL}")


# ---- google-re2


def _re2() -> ModuleType | None:
    """The module, when it is installed and is Google's: others have had its name."""
    try:
        module = importlib.import_module("re2")
    except ImportError:
        return None
    return module if hasattr(module, "Options") else None


MOST_INSTRUCTIONS = 2_500
"""Size of the programs that `google-re2` makes of all patterns of a predicate: its time for a character is at worst
proportional to it, and this size takes 30 ms for 4 096 characters."""


def _linear(text: str, re2: Any) -> Pattern:
    options = re2.Options()
    options.log_errors = False
    # Nobody asks where a group matched, and finding that out is what takes longest.
    options.never_capture = True
    try:
        compiled = re2.compile(text, options)
    except re2.error as exc:
        reason = exc.args[0].decode(errors="replace") if exc.args and isinstance(exc.args[0], bytes) else exc
        raise PatternRefused(f"google-re2 does not know the pattern: {reason}") from None
    search, share = compiled.search, compiled.programsize / MOST_INSTRUCTIONS

    def finds(subject: str) -> bool:
        # As bytes a text may hold half of a surrogate pair, and no offsets are counted back into characters.
        return search(subject.encode("utf-8", "surrogatepass")) is not None

    # A text may have any length here, so what a program may cost does not depend on it.
    return Pattern(text, finds, lambda length: share * BUDGET_NS, linear=True)


# ---- Python's re


def _backtracking(text: str, before: Sequence[Pattern]) -> Pattern:
    parser: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")
    try:
        tree = _Tree(parser.parse(text))
        restarting = tree.leading_run
        source = text if restarting is None else _started_once(text, restarting, parser)
        tree.starts_once = source != text
        if sum(pattern.range_width for pattern in before) + tree.range_width > WIDEST_RANGES:
            raise PatternRefused(f"the ranges of a predicate's patterns span at most {WIDEST_RANGES} characters")
        search = re.compile(source).search
    except (re.error, OverflowError, RecursionError, Warning) as exc:
        raise PatternRefused(f"the pattern is no regular expression: {exc}") from None
    return Pattern(text, lambda subject: search(subject) is not None, tree.cost_ns, False, tree.range_width)


_LEADING = re.compile(r"((?:\(\?[aimsu]+\))?)(\\[^0-9xuUN]|\[\^?\]?(?:\\.|[^\]\\])*\]|[^\\\[(])", re.DOTALL)
"""Flags, then what stands for one character."""


def _started_once(text: str, run: Any, parser: Any) -> str:
    """The same pattern, but that its leading run, such as `\\d+`, begins only where no character of it comes before.

    Where such a pattern matches at all, it matches from the beginning of the run as well: the run takes the rest. So it
    need not be tried from every character of a run, which takes a time quadratic in its length.
    """
    found = _LEADING.match(text)
    # Under the flag `x`, or after a comment, the run stands elsewhere. The pattern stays as it is then.
    if found is None or list(parser.parse(found[0])) != list(run):
        return text
    return f"{found[1]}(?<!{found[2]}){text[found.end(1) :]}"


class _Ways(NamedTuple):
    """Of matching a part of a pattern from one place of the text.

    Attributes:
        number: How many there are at most: what follows is tried once after each.
        ns: What trying all of them costs.
    """

    number: float
    ns: float


_ENDLESS = 1e12
"""More than any budget; counts stop growing here."""

_UNBOUNDED = 2**31
"""Bounds from here on are what Python's parser writes for none."""
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT")
_SINGLES = ("LITERAL", "NOT_LITERAL", "ANY", "IN")

# Nanoseconds, measured on 3.10 to 3.13 with the worst texts known and rounded up.
_CHARACTER = 8.0  # to compare one character
_SET_ITEM = 4.0  # more, for each item of a set
_RUN = 2.0  # to compare one character of a run such as `a*`, or to step back over it when a plain character follows
_TRY = 5.0  # to go on with what follows
_GROUP = 20.0  # to enter a group or an alternative
_ROUND = 60.0  # to repeat a group once
_IGNORED_CASE = 2.0  # times, for a character

_UNKNOWN_TO_RE2 = {
    "GROUPREF": "back-references",
    "GROUPREF_EXISTS": "back-references",
    "ASSERT": "look-around",
    "ASSERT_NOT": "look-around",
    "FAILURE": "look-around",
    "ATOMIC_GROUP": "atomic groups",
    "POSSESSIVE_REPEAT": "possessive repeats",
}


class _Tree:
    """A parsed pattern: what is in it, and what searching for it can cost.

    Raises:
        PatternRefused: It has something that patterns must not have.
    """

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        self.unbounded = 0
        self.range_width = 0
        self.groups = 0
        self.starts_once = False
        self.ignores_case = bool(tree.state.flags & re.IGNORECASE)
        self._look_through(tree)
        if self.unbounded > 1:
            what = "without google-re2 a pattern has at most one '*', '+' or '{n,}', counting those inside others"
            raise PatternRefused(what, f"write the others with a bound, such as '{{0,50}}', or {INSTALL}")

    def _look_through(self, items: Any) -> None:
        for op, value in items:
            name = op.name
            if name in _UNKNOWN_TO_RE2:
                raise PatternRefused(f"patterns have no {_UNKNOWN_TO_RE2[name]}")
            if name in _REPEATS:
                self._look_at_repeat(*value)
            elif name == "BRANCH":
                for one in value[1]:
                    self._look_through(one)
            elif name == "SUBPATTERN":
                self.groups += 1
                self.ignores_case = self.ignores_case or bool(value[1] & re.IGNORECASE)
                self._look_through(value[3])
            elif name == "IN":
                self.range_width += sum(_width(*one[1]) for one in value if one[0].name == "RANGE")

    def _look_at_repeat(self, least: int, most: int, body: Any) -> None:
        if most >= _UNBOUNDED:
            self.unbounded += 1
        elif most > MOST_REPEATS:
            raise PatternRefused(f"a repeat has a bound of at most {MOST_REPEATS}, not {most}")
        if least > MOST_REPEATS:
            raise PatternRefused(f"a repeat has a bound of at most {MOST_REPEATS}, not {least}")
        self._look_through(body)

    @property
    def leading_run(self) -> Any:
        """What is repeated without end at the very beginning, when that is a single character; None otherwise."""
        if not len(self.tree) or not _is_run(self.tree[0]) or self.tree[0][1][1] < _UNBOUNDED:
            return None
        return self.tree[0][1][2]

    def cost_ns(self, length: int) -> float:
        """Nanoseconds for the worst text of this length."""
        if self.starts_once:
            # Each character is looked at for the beginning of a run, run over, and stepped back to.
            after = self._sequence(list(self.tree)[1:], length).ns
            return length * (2 * self._character(self.leading_run[0], _CHARACTER) + after + 2 * _TRY)
        here = self._sequence(self.tree, length).ns
        if self._is_anchored():
            return here + length * _TRY
        # A repeat without bound that starts further right has less text left.
        starts = length / self._distance()
        return starts * here * (0.5 if self.unbounded else 1.0) + length * _TRY

    def _is_anchored(self) -> bool:
        """Whether it begins with `^`, or `\\A`: then every start but the first fails at once."""
        if not len(self.tree) or self.tree[0][0].name != "AT":
            return False
        where = self.tree[0][1].name
        flags = self.tree.state.flags
        return where == "AT_BEGINNING_STRING" or (where == "AT_BEGINNING" and not flags & re.MULTILINE)

    def _distance(self) -> int:
        """How far apart two places are at least where a match can begin: 3 for `foo.*`, 1 for `aaa.*`."""
        start: list[int] = []
        for op, value in self.tree:
            if op.name != "LITERAL" or self.ignores_case:
                break
            start.append(value)
        shifts = range(1, len(start))
        return next((shift for shift in shifts if start[shift:] == start[:-shift]), max(len(start), 1))

    def _sequence(self, items: Any, length: int) -> _Ways:
        number, ns = 1.0, 0.0
        run: Any = None
        before_run = 1.0
        for item in items:
            ways = self._item(item, length)
            if run is not None and item[0].name == "LITERAL" and not self.ignores_case:
                # A greedy run looks for the character that follows it before it tries anything.
                ns += number * (_RUN if run[0].name == "MAX_REPEAT" else ways.ns + _TRY)
                if not _may_match(run[1][2][0], item[1]):
                    # The run ends where this character stands: there is one place to go on from.
                    number = before_run
            else:
                ns += number * (ways.ns + _TRY)
            run, before_run = (item if _is_run(item) else None), number
            number = min(number * ways.number, _ENDLESS)
        return _Ways(number, ns)

    def _item(self, item: Any, length: int) -> _Ways:
        op, value = item
        name = op.name
        if name in _REPEATS:
            return self._repeat(value, length)
        if name == "SUBPATTERN":
            inside = self._sequence(value[3], length)
            return _Ways(inside.number, inside.ns + inside.number * _GROUP)
        if name == "BRANCH":
            return self._branch(value[1], length)
        return _Ways(1.0, self._character(item, _CHARACTER))

    def _character(self, item: Any, plain: float) -> float:
        op, value = item
        items = len(value) if op.name == "IN" else 0
        return (plain + items * _SET_ITEM) * (_IGNORED_CASE if self.ignores_case else 1.0)

    def _branch(self, branches: Sequence[Any], length: int) -> _Ways:
        each = [self._sequence(one, length) for one in branches]
        ns = sum(ways.ns + _GROUP for ways in each)
        if not self.ignores_case and _are_disjoint([_first_characters(one) for one in branches]):
            return _Ways(max(ways.number for ways in each), ns)
        return _Ways(min(sum(ways.number for ways in each), _ENDLESS), ns)

    def _repeat(self, value: tuple[int, int, Any], length: int) -> _Ways:
        least, most, body = value
        # What takes no characters is not repeated without end, but it may be tried at each.
        most = min(most, length // max(1, body.getwidth()[0]))
        if len(body) == 1 and body[0][0].name in _SINGLES:
            return _Ways(max(most - least, 0) + 1.0, most * self._character(body[0], _RUN))
        inside = self._sequence(body, length)
        around = inside.ns + _ROUND + 2 * self.groups
        if inside.number == 1.0:
            return _Ways(max(most - least, 0) + 1.0, (most + 1) * around)
        number, ns, rounds = 0.0, 0.0, 1.0
        for done in range(most + 1):
            number += rounds if done >= least else 0.0
            ns += rounds * around
            rounds *= inside.number
            if ns > _ENDLESS:  # after 40 rounds at the latest
                return _Ways(_ENDLESS, _ENDLESS)
        return _Ways(max(number, 1.0), ns)


def _is_run(item: Any) -> bool:
    """Whether it repeats a single character."""
    op, value = item
    return op.name in _REPEATS and len(value[2]) == 1 and value[2][0][0].name in _SINGLES


def _may_match(single: Any, code: int) -> bool:
    """Whether a part for a single character can match this one; True when that is not easily said."""
    op, value = single
    if op.name == "LITERAL":
        return bool(value == code)
    if op.name == "NOT_LITERAL":
        return bool(value != code)
    if op.name == "ANY":
        return True
    negated = value[0][0].name == "NEGATE"
    found = [_is_in_set(name.name, part, code) for name, part in value[negated:]]
    return None in found or (True in found) is not negated


_CLASSES: dict[str, Callable[[str], bool]] = {
    "CATEGORY_DIGIT": str.isdigit,
    "CATEGORY_SPACE": str.isspace,
    "CATEGORY_WORD": lambda character: character.isalnum() or character == "_",
}


def _is_in_set(name: str, part: Any, code: int) -> bool | None:
    """Whether one item of a set matches a character; None when that is not easily said."""
    if name == "LITERAL":
        return bool(part == code)
    if name == "RANGE":
        return bool(part[0] <= code <= part[1])
    test = _CLASSES.get(part.name)
    return None if test is None or not 32 <= code <= 126 else test(chr(code))


def _width(first: int, last: int) -> int:
    """How many characters of a range lie where `re` looks at each."""
    return max(0, min(last, 0xFFFF) - first + 1)


def _are_disjoint(firsts: Iterable[frozenset[int] | None]) -> bool:
    seen: set[int] = set()
    for characters in firsts:
        if characters is None or seen & characters:
            return False
        seen |= characters
    return True


def _first_characters(items: Any) -> frozenset[int] | None:
    """The characters with which a match of these items can begin; None when that is not easily said."""
    if not len(items):
        return None
    op, value = items[0]
    if op.name == "LITERAL":
        return frozenset((value,))
    if op.name == "SUBPATTERN":
        return _first_characters(value[3])
    if op.name in _REPEATS and value[0] > 0:
        return _first_characters(value[2])
    if op.name == "IN" and all(one[0].name == "LITERAL" for one in value):
        return frozenset(one[1] for one in value)
    return None
