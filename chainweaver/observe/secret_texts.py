"""Secrets inside texts: which parts of a text a view must not show.

Three things are looked for: secrets that were met as values elsewhere (`Literals`), tokens that give themselves away by
their form (patterns), and `name=value` pairs whose name is hidden. Pure; nothing here knows records or runs.

Called by `hiding`, which knows where texts stand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from html import escape
from urllib.parse import quote, quote_plus

SHORTEST = 4
"""Shorter secrets are not looked for in texts: they would be found everywhere."""

WHOLE_WORDS_BELOW = 8
"""Secrets shorter than this are looked for between word boundaries only."""

_LONGEST_RESPELT = 4_096
_SHORTENED_FROM = 24
_SHORTEST_FRAGMENT = 8
_LONGEST_FRAGMENT = 80
_NO_SECRETS = frozenset({"true", "false", "none", "null"})
_SHORTENED = re.compile(r"(\.{3}|…)")
# Most keys and passwords: working out that they have no other spelling takes twenty times as long as this.
_SPELT_ALIKE = re.compile(r"[A-Za-z0-9_.~-]+")

_VALUE = r"""(?P<value>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|['"]?[^\s,;&'")\]}]+)"""
# Bounded names that begin where a word begins: the time stays proportional to the text.
_ASSIGNED = re.compile(r"(?<![\w.-])(?P<name>[A-Za-z_][\w.-]{0,63})=" + _VALUE)
_QUOTED_NAME = re.compile(r"""(?P<quote>['"])(?P<name>[^'"\s]{1,64})(?P=quote)\s{0,8}:\s{0,8}""" + _VALUE)

TOKEN_PATTERNS: tuple[str, ...] = (
    r"[Bb]earer\s+(?P<secret>[\w.~+/=-]{16,})",
    r"uthorization['\"]?\s*[:=]\s*['\"]?(?:[Bb]asic|[Tt]oken|[Dd]igest|[Nn]egotiate)\s+(?P<secret>[^\s'\",]{4,})",
    r"://[^/\s:@]*:(?P<secret>[^/\s@]+)@",
    r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",
    r"AKIA[0-9A-Z]{16}",
    r"gh[pousr]_\w{20,}",
    r"github_pat_\w{20,}",
    r"sk-[\w-]{20,}",
    r"xox[abeoprs]-[\w-]{10,}",
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:(?!-----END)[\s\S])*(?:-----END[A-Z ]{0,31}-----)?",
)
"""Tokens that give themselves away: authorization headers, passwords in URLs, JSON web tokens, keys of well-known
services, private keys. Where a pattern has a group named `secret`, only that part is hidden."""


class Literals:
    """Secrets that were met as values, in every spelling in which they may turn up inside a text.

    Args:
        secrets: The values as texts.
        spared: Tells whether a text is no secret, such as a word that only names one.

    >>> Literals(["hunter2!", "1234"], spared=lambda text: False).replaced("hunter2!x 1234, 12345", "***")
    '***x ***, 12345'
    """

    __slots__ = ("_anywhere", "_long", "_words", "secrets")

    def __init__(self, secrets: Iterable[str], spared: Callable[[str], bool]) -> None:
        self.secrets = frozenset(secrets)
        found = {one for secret in self.secrets for one in _spellings(secret) if len(one) >= SHORTEST}
        kept = [one for one in found if one.casefold() not in _NO_SECRETS and not spared(one)]
        # The longest first, so that a secret within another one does not leave the rest of it behind.
        kept.sort(key=lambda one: (-len(one), one))
        self._anywhere = [one for one in kept if len(one) >= WHOLE_WORDS_BELOW]
        self._words = [(one, _whole_word(one)) for one in kept if len(one) < WHOLE_WORDS_BELOW]
        self._long = [one for one in kept if len(one) >= _SHORTENED_FROM]

    def replaced(self, text: str, replacement: str) -> str:
        """The text without the secrets."""
        for one in self._anywhere:
            if one in text:
                text = text.replace(one, replacement)
        for one, word in self._words:
            if one in text:
                text = word.sub(lambda match: replacement, text)
        if self._long and _SHORTENED.search(text):
            text = self._without_fragments(text, replacement)
        return text

    def equals_number(self, number: float) -> bool:
        """Whether a number, written out, is one of the secrets, and too long to be so by chance."""
        return (
            bool(self.secrets)
            and (type(number) is float or -(10**40) < number < 10**40)
            and len(written := str(number)) >= WHOLE_WORDS_BELOW
            and written in self.secrets
        )

    def _without_fragments(self, text: str, replacement: str) -> str:
        """The text without beginnings and ends of secrets around "...", as messages shorten the values they quote."""
        parts = _SHORTENED.split(text)
        for at in range(1, len(parts), 2):
            for secret in self._long:
                parts[at - 1] = _cut_tail(parts[at - 1], secret, replacement)
                parts[at + 1] = _cut_head(parts[at + 1], secret, replacement)
        return "".join(parts)


def _spellings(secret: str) -> Iterator[str]:
    """A secret as it is, its lines, and as `repr`, JSON, URLs and HTML write it."""
    yield secret
    if _SPELT_ALIKE.fullmatch(secret):
        return
    yield secret.strip()
    if "\n" in secret:
        yield from (line.strip() for line in secret.splitlines())
    if len(secret) <= _LONGEST_RESPELT:
        yield repr(secret)[1:-1]
        yield json.dumps(secret)[1:-1]
        yield json.dumps(secret, ensure_ascii=False)[1:-1]
        yield escape(secret)
        try:
            yield quote(secret, safe="")
            yield quote_plus(secret)
        except UnicodeEncodeError:  # half of a surrogate pair, which no URL can hold
            return


def _whole_word(spelling: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(spelling)}(?!\w)")


def _cut_tail(text: str, secret: str, replacement: str) -> str:
    for size in range(min(len(text), _LONGEST_FRAGMENT), _SHORTEST_FRAGMENT - 1, -1):
        if text[-size:] in secret:
            return text[:-size] + replacement
    return text


def _cut_head(text: str, secret: str, replacement: str) -> str:
    for size in range(min(len(text), _LONGEST_FRAGMENT), _SHORTEST_FRAGMENT - 1, -1):
        if text[:size] in secret:
            return replacement + text[size:]
    return text


def without_tokens(
    text: str, patterns: Iterable[re.Pattern[str]], replacement: str, note: Callable[[str], object]
) -> str:
    """The text without what the patterns match; every hidden part is noted.

    >>> without_tokens("Bearer abcdefghijklmnop", [re.compile(TOKEN_PATTERNS[0])], "***", note=print)
    abcdefghijklmnop
    'Bearer ***'
    """

    def hide(match: re.Match[str]) -> str:
        start, end = match.span("secret") if "secret" in match.re.groupindex else match.span()
        if start < 0:  # the group took no part
            start, end = match.span()
        if start == end:
            return match.group()
        hidden = match.string[start:end]
        if hidden != replacement:
            note(hidden)
        return match.string[match.start() : start] + replacement + match.string[end : match.end()]

    for pattern in patterns:
        text = pattern.sub(hide, text)
    return text


def without_assigned(text: str, hides: Callable[[str], bool], replacement: str) -> str:
    """The text without the values of `name=value` and `'name': value` whose name is hidden.

    >>> without_assigned("login?user=ada&password=hunter2", {"password"}.__contains__, "***")
    'login?user=ada&password=***'
    """

    def hide(match: re.Match[str]) -> str:
        value = match["value"]
        if not hides(match["name"]) or _is_hidden(match, replacement):
            return match.group()
        is_quoted = value[0] in "'\"" and value[-1] == value[0] and len(value) > 1 and value[0] not in replacement
        shown = f"{value[0]}{replacement}{value[0]}" if is_quoted else replacement
        return match.string[match.start() : match.start("value")] + shown

    if "=" in text:
        text = _ASSIGNED.sub(hide, text)
    if ":" in text:
        text = _QUOTED_NAME.sub(hide, text)
    return text


def _is_hidden(match: re.Match[str], replacement: str) -> bool:
    """Whether nothing stands there, or the replacement already, of which the match may see only the first word."""
    value = match["value"]
    return value.strip("'\"") in ("", replacement) or (
        replacement.startswith(value) and match.string.startswith(replacement, match.start("value"))
    )
