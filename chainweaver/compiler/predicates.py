"""Predicates of conditional edges: a text is read once, bound once, and then answers yes or no for every run.

`parse_predicate` reads the text (`predicate_syntax` has the grammar), `Predicate.bind` composes a closure from it, and
nothing is parsed, looked up by name or interpreted when it is called. No text ever reaches `eval`, `exec` or `compile`.

How much an evaluation can take: there are no loops, so every part of a text is evaluated at most once, and a text has
at most 500 of them. That is the step budget: it is checked when the text is read, and an evaluation cannot exceed it.
What a step costs depends on the data: a comparison or an `in` goes through its operands once, as in Python; what a
`matches` costs is bounded in `patterns`.

Called by the compiler for branches; `evaluate_predicate` is public.
"""

# ruff: noqa: SIM210, SIM110  # `True if x else False` and a loop cost half of what `bool(x)` and `all(...)` do
from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any, Generic, TypeAlias, TypeVar

from chainweaver.compiler.patterns import INSTALL, PatternRefused, longest_text
from chainweaver.compiler.predicate_syntax import (
    CALL,
    AllOf,
    AnyOf,
    Comparison,
    Constant,
    Display,
    Item,
    Match,
    Name,
    Negation,
    Part,
    Signed,
    parsed,
)
from chainweaver.exceptions import LISTED_NAMES, PredicateSyntaxError, suggest
from chainweaver.plan import KeyMissing

__all__ = ["Predicate", "evaluate_predicate", "parse_predicate"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Predicate:
    """A predicate that has been read; `parse_predicate` makes it. Immutable, and equal to others of the same text.

    Attributes:
        text: As it was written.
        names: The context keys that it reads, in the order of their first use.
    """

    text: str
    names: tuple[str, ...] = field(compare=False)
    _root: Part = field(compare=False, repr=False)
    _longest: int | None = field(compare=False, repr=False)

    def bind(self, look_up: Mapping[str, Callable[[T], Any]]) -> Callable[[T], bool]:
        """The predicate as a function of a scope, which may be anything: the slots of a run, a dict.

        Args:
            look_up: For each of `names` a function that takes the value from the scope, or raises `KeyMissing`.

        Returns:
            A function that says whether the predicate holds. It raises what the look-ups raise, and beyond that:
            `KeyMissing` for a subscript that leads nowhere, `TypeError` for values that cannot be compared,
            subscripted or searched, `ValueError` for a text that is too long to be searched.

        >>> is_large = parse_predicate("total > 100").bind({"total": lambda scope: scope["total"]})
        >>> is_large({"total": 250}), is_large({"total": 20})
        (True, False)
        """
        return _Binding(look_up, self._longest).truth(self._root)


def parse_predicate(text: str) -> Predicate:
    """Read a predicate.

    Raises:
        PredicateSyntaxError: It uses something that predicates do not have, or is larger than one may be. The message
            has the column and, where there is one, the right way to write it.

    >>> parse_predicate("row['total'] > 100 and currency in ('EUR', 'CHF')").names
    ('row', 'currency')
    """
    root, names, patterns = parsed(text)
    try:
        longest = longest_text(patterns)
    except PatternRefused as refused:
        raise PredicateSyntaxError(text, refused.what, fix=refused.fix) from None
    return Predicate(text, names, root, longest)


def evaluate_predicate(text: str, context: Mapping[str, Any]) -> bool:
    """Whether a predicate holds against a context, as it would in a branch.

    A predicate knows names, subscripts (`row['total']`, `rows[-1]`), constants, comparisons, `in`, `is None`, `and`,
    `or`, `not`, signs, displays of tuples, lists and sets, and `matches(text, r"pattern")`, which says whether a
    regular expression matches somewhere in a text (as `re.search` does). All of it means what it means in Python, and
    there is nothing else. A text is read once; the latest 256 are kept.

    Args:
        text: The predicate.
        context: Values by name.

    Raises:
        PredicateSyntaxError: The text is no predicate.
        LookupError: A name or a subscript leads nowhere.
        TypeError: Values cannot be compared, subscripted or searched; or the predicate is no text, the context no
            mapping.
        ValueError: A text is too long to be searched.

    >>> evaluate_predicate("total > 100 and currency == 'EUR'", {"total": 250, "currency": "EUR"})
    True
    >>> evaluate_predicate(r"matches(subject, r'^(Re|Fwd): ')", {"subject": "Re: invoice"})
    True
    """
    if not isinstance(text, str):
        raise TypeError(f"A predicate is a text such as 'total > 100', not {text!r}.")
    if not isinstance(context, Mapping):
        raise TypeError(
            f"The context of a predicate is a mapping of names to values, not of type {type(context).__name__}."
        )
    try:
        return _over_mapping(text)(context)
    except KeyMissing as missing:
        known = f"known: {', '.join(missing.known[:LISTED_NAMES])}" if missing.known else "nothing is there"
        near = suggest(missing.key, missing.known)
        raise LookupError(f"'{missing.key}' is not there; " + (f"did you mean '{near}'?" if near else known)) from None


@lru_cache(maxsize=256)
def _over_mapping(text: str) -> Callable[[Mapping[str, Any]], bool]:
    predicate = parse_predicate(text)
    return predicate.bind({name: _value_of(name) for name in predicate.names})


def _value_of(name: str) -> Callable[[Mapping[str, Any]], Any]:
    def look_up(context: Mapping[str, Any]) -> Any:
        if name in context:
            return context[name]
        raise KeyMissing(name, _keys_of(context))

    return look_up


# ---- closures

Test: TypeAlias = "Callable[[Any, Any], Any]"

_TESTS: dict[str, Test] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "is": operator.is_,
    "is not": operator.is_not,
    "in": lambda left, right: left in right,
    "not in": lambda left, right: left not in right,
}

# Most comparisons have a constant to their right. Written out, one costs a third less than through `_TESTS`.
_AGAINST: dict[str, Callable[[Callable[[Any], Any], Any], Callable[[Any], bool]]] = {
    "==": lambda value, right: lambda scope: True if value(scope) == right else False,
    "!=": lambda value, right: lambda scope: True if value(scope) != right else False,
    "<": lambda value, right: lambda scope: True if value(scope) < right else False,
    "<=": lambda value, right: lambda scope: True if value(scope) <= right else False,
    ">": lambda value, right: lambda scope: True if value(scope) > right else False,
    ">=": lambda value, right: lambda scope: True if value(scope) >= right else False,
    "is": lambda value, right: lambda scope: value(scope) is right,
    "is not": lambda value, right: lambda scope: value(scope) is not right,
    "in": lambda value, right: lambda scope: value(scope) in right,
    "not in": lambda value, right: lambda scope: value(scope) not in right,
}


class _Binding(Generic[T]):
    """Composes the closures of one predicate: `value` gives what Python would give, `truth` only whether it holds."""

    def __init__(self, look_up: Mapping[str, Callable[[T], Any]], longest: int | None) -> None:
        self.look_up = look_up
        self.longest = longest

    def truth(self, part: Part) -> Callable[[T], bool]:
        match part:
            case Negation(operand):
                holds = self.truth(operand)
                return lambda scope: not holds(scope)
            case AllOf(parts):
                return self._all_hold(parts)
            case AnyOf(parts):
                return self._any_holds(parts)
            case Comparison(first, ((sign, right),)):
                return self._one_comparison(first, sign, right)
            case Match():
                return self._match(part)
        value = self.value(part)
        return lambda scope: True if value(scope) else False

    def value(self, part: Part) -> Callable[[T], Any]:
        match part:
            case Constant(constant):
                return lambda scope: constant
            case Name(name):
                return self.look_up[name]
            case Item():
                return self._item(part)
            case Signed(apply, operand):
                signed = self.value(operand)
                return lambda scope: apply(signed(scope))
            case Display(kind, parts):
                values = tuple(map(self.value, parts))
                return lambda scope: kind([value(scope) for value in values])
            case AllOf(parts):
                return self._last_value(parts, goes_on=True)
            case AnyOf(parts):
                return self._last_value(parts, goes_on=False)
            case Comparison():
                return self._chain(part)
        return self.truth(part)

    def _all_hold(self, parts: tuple[Part, ...]) -> Callable[[T], bool]:
        first, second, *rest = map(self.truth, parts)
        if not rest:
            return lambda scope: first(scope) and second(scope)
        holding = (first, second, *rest)

        def all_hold(scope: T) -> bool:
            for holds in holding:
                if not holds(scope):
                    return False
            return True

        return all_hold

    def _any_holds(self, parts: tuple[Part, ...]) -> Callable[[T], bool]:
        first, second, *rest = map(self.truth, parts)
        if not rest:
            return lambda scope: first(scope) or second(scope)
        holding = (first, second, *rest)

        def any_holds(scope: T) -> bool:
            for holds in holding:
                if holds(scope):
                    return True
            return False

        return any_holds

    def _last_value(self, parts: tuple[Part, ...], *, goes_on: bool) -> Callable[[T], Any]:
        """What `and` (goes on after a true value) or `or` (after a false one) gives: the value that it ends with."""
        *before, last = map(self.value, parts)

        def last_value(scope: T) -> Any:
            for one in before:
                value = one(scope)
                if bool(value) is not goes_on:
                    return value
            return last(scope)

        return last_value

    def _one_comparison(self, first: Part, sign: str, right: Part) -> Callable[[T], bool]:
        left_value = self.value(first)
        if isinstance(right, Constant):
            return _AGAINST[sign](left_value, right.value)
        test, right_value = _TESTS[sign], self.value(right)
        return lambda scope: True if test(left_value(scope), right_value(scope)) else False

    def _chain(self, part: Comparison) -> Callable[[T], Any]:
        first = self.value(part.first)
        *before, (last_test, last_value) = [(_TESTS[sign], self.value(right)) for sign, right in part.links]

        def compare(scope: T) -> Any:
            left = first(scope)
            for test, value in before:
                right = value(scope)
                result = test(left, right)
                if not result:
                    return result
                left = right
            return last_test(left, last_value(scope))

        return compare

    def _item(self, part: Item) -> Callable[[T], Any]:
        whole, text = self.value(part.whole), part.text
        if isinstance(part.key, Constant):
            constant = part.key.value
            return lambda scope: _item_of(whole(scope), constant, text)
        key = self.value(part.key)
        return lambda scope: _item_of(whole(scope), key(scope), text)

    def _match(self, part: Match) -> Callable[[T], bool]:
        value, finds, longest, text = self.value(part.operand), part.pattern.finds, self.longest, part.text

        def holds(scope: T) -> bool:
            subject = value(scope)
            if not isinstance(subject, str):
                raise TypeError(f"{CALL}() searches texts, and '{text}' is of type {type(subject).__name__}")
            if longest is not None and len(subject) > longest:
                limit = f"{CALL}() searches texts of at most {longest} characters in this predicate"
                raise ValueError(f"{limit}, and '{text}' has {len(subject)}; for longer ones {INSTALL}")
            return finds(subject)

        return holds


def _item_of(whole: Any, key: Any, text: str) -> Any:
    """One item of a value; `text` is how the predicate writes it."""
    # Most are dicts, and to find that out takes a quarter of the time that the abstract class needs.
    if isinstance(whole, (dict, Mapping)):
        # Asked first: some mappings make up, and keep, what they do not have.
        if key in whole:
            return whole[key]
        raise KeyMissing(text, _keys_of(whole))
    if isinstance(whole, (list, tuple, str)):
        try:
            return whole[key]
        except IndexError:
            raise KeyMissing(text, (f"0..{len(whole) - 1}",) if whole else ()) from None
    kind = type(whole).__name__
    raise TypeError(f"'{text}' subscripts a value of type {kind}; only mappings, lists, tuples and texts have items")


def _keys_of(mapping: Mapping[Any, Any]) -> tuple[str, ...]:
    """Some keys of a mapping, for a message."""
    return tuple(str(key) for key in islice(mapping, 100) if isinstance(key, (str, int)))
