"""The forms of an input mapping value, parsed into a closed set of sources, and the functions that write such forms.

    "name"                                    the value of a context key
    "/user/items/0/id"                        a pointer as RFC 6901 writes it; its first token is the context key
    7, True, None, [...], {...}               a literal: anything that is no text
    {"$literal": "text"}                      a literal, also for text and for dicts with "$" keys
    {"$template": "Dear ${user.name}"}        text with references; "$syntax": "legacy" reads ~~key~~ and $key$
    {"$key": "a", "$default": 1}              a key or a pointer with a value for when it is missing

Parsing is pure and happens once, when a flow is compiled. Looking values up is the work of the plan.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from chainweaver.exceptions import suggest

__all__ = [
    "DefaultSource",
    "KeySource",
    "LiteralSource",
    "MappingSyntaxError",
    "PointerSource",
    "Source",
    "TemplateRef",
    "TemplateSource",
    "literal",
    "parse_source",
    "ref",
    "template",
]

_FORMS: Final = ("$default", "$key", "$literal", "$syntax", "$template")
_WRITTEN: Final = ", ".join(
    (
        "{'$literal': value}",
        "{'$template': text}",
        "{'$template': text, '$syntax': 'legacy'}",
        "{'$key': key, '$default': value}",
    )
)
_NO_DEFAULT: Final[Any] = object()
_LEGACY_REF: Final = re.compile(r"~~([^\W\d]\w*)~~|\$([^\W\d]\w*)\$")


class MappingSyntaxError(ValueError):
    """A value of an input mapping is written in a way that has no meaning.

    Attributes:
        text: The value as it was written.
        detail: What is wrong with it, as a clause.
        column: Where in the text, 1-based; None when the value as a whole is wrong.
        fix: What to do about it; None when there is no better advice than the detail.
    """

    def __init__(self, text: str, detail: str, column: int | None = None, fix: str | None = None) -> None:
        super().__init__(text, detail, column, fix)
        self.text = text
        self.detail = detail
        self.column = column
        self.fix = fix

    def __str__(self) -> str:
        place = "" if self.column is None else f" at column {self.column}"
        advice = "" if self.fix is None else f"\n  fix     {self.fix}"
        return f"Mapping value {self.text!r} is not valid{place}: {self.detail}.{advice}"


@dataclass(frozen=True, slots=True)
class KeySource:
    """The value of one context key."""

    key: str


@dataclass(frozen=True, slots=True)
class PointerSource:
    """A value inside the context.

    Attributes:
        text: The pointer as it was written.
        tokens: Its tokens, unescaped and at least one; the first is the context key. Whether `"0"` is an index or a
            key depends on the container it meets.
    """

    text: str
    tokens: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LiteralSource:
    """A value that is the same in every run."""

    value: Any


@dataclass(frozen=True, slots=True)
class TemplateRef:
    """One reference inside a template.

    Attributes:
        text: The reference as it was written, without its brackets.
        tokens: The context key, then what to descend by.
    """

    text: str
    tokens: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TemplateSource:
    """Text with references.

    Attributes:
        text: The template as it was written.
        parts: Literal text and references in order; no empty text, no two texts in a row.
        case_folded: Whether context keys are compared case-folded (the legacy syntax). The tokens then are folded.
    """

    text: str
    parts: tuple[str | TemplateRef, ...]
    case_folded: bool = False


@dataclass(frozen=True, slots=True)
class DefaultSource:
    """A look-up with a value for when it finds nothing."""

    source: KeySource | PointerSource
    default: Any


Source = KeySource | PointerSource | LiteralSource | TemplateSource | DefaultSource
"""Where the value of an input field comes from. The set is closed: match it with `assert_never`."""


def literal(value: Any) -> dict[str, Any]:
    """The mapping form of a constant; needed for text, and for dicts whose keys begin with `$`.

    >>> literal("EUR")
    {'$literal': 'EUR'}
    """
    return {"$literal": value}


def template(text: str) -> dict[str, Any]:
    """The mapping form of text with references such as `${user.name}`; `$${` stands for `${` itself.

    A template that is one single reference passes the object itself.

    >>> template("Dear ${user.name}")
    {'$template': 'Dear ${user.name}'}
    """
    return {"$template": text}


def ref(key: str, default: Any = _NO_DEFAULT) -> dict[str, Any]:
    """The mapping form of a look-up, with a value for when the key is missing.

    Args:
        key: A context key, or a pointer when it begins with `/`.
        default: Used when nothing is there; left out, a missing key is an error.

    >>> ref("limit", default=10)
    {'$key': 'limit', '$default': 10}
    """
    return {"$key": key} if default is _NO_DEFAULT else {"$key": key, "$default": default}


def parse_source(value: Any) -> Source:
    """What a value of an input mapping means.

    Raises:
        MappingSyntaxError: It is text or a `$` form without a meaning.

    >>> parse_source("/user/items/0")
    PointerSource(text='/user/items/0', tokens=('user', 'items', '0'))
    >>> parse_source(7)
    LiteralSource(value=7)
    """
    if isinstance(value, str):
        return _parse_lookup(value)
    # The exact type: a mapping of another class is somebody's value, not one of our forms.
    if type(value) is dict and any(isinstance(key, str) and key.startswith("$") for key in value):
        return _parse_form(value)
    return LiteralSource(value)


def _parse_form(form: dict[Any, Any]) -> Source:
    keys = set(form)
    if keys == {"$literal"}:
        return LiteralSource(form["$literal"])
    if keys == {"$template"} or keys == {"$template", "$syntax"}:
        return _parse_template_form(form)
    if keys == {"$key"} or keys == {"$key", "$default"}:
        if not isinstance(form["$key"], str):
            raise MappingSyntaxError(_shown(form), "'$key' has to be text")
        source = _parse_lookup(form["$key"])
        return DefaultSource(source, form["$default"]) if "$default" in form else source
    raise _unknown_form(form)


def _unknown_form(form: Mapping[Any, Any]) -> MappingSyntaxError:
    strange = [key for key in form if key not in _FORMS]
    if not strange:
        return MappingSyntaxError(_shown(form), f"these keys do not go together; known forms are {_WRITTEN}")
    named = ", ".join(repr(key) for key in strange)
    near = next((found for key in strange if (found := suggest(str(key), _FORMS))), None)
    fix = f"did you mean '{near}'?" if near else "write {'$literal': ...} around a dict that is meant as a value"
    return MappingSyntaxError(_shown(form), f"{named} belongs to no form; known forms are {_WRITTEN}", fix=fix)


def _parse_template_form(form: dict[str, Any]) -> TemplateSource:
    text, syntax = form["$template"], form.get("$syntax", "braces")
    if not isinstance(text, str):
        raise MappingSyntaxError(_shown(form), "'$template' has to be text")
    if syntax == "braces":
        return TemplateSource(text, tuple(_braces_parts(text)))
    if syntax == "legacy":
        return TemplateSource(text, tuple(_legacy_parts(text)), case_folded=True)
    raise MappingSyntaxError(_shown(form), f"'$syntax' has to be 'braces' or 'legacy', not {syntax!r}")


def _parse_lookup(text: str) -> KeySource | PointerSource:
    if not text:
        raise MappingSyntaxError(text, "a context key cannot be empty", fix="write {'$literal': ''} for empty text")
    if not text.startswith("/"):
        return KeySource(text)
    return PointerSource(text, _pointer_tokens(text, text, 1))


def _pointer_tokens(pointer: str, whole: str, column: int) -> tuple[str, ...]:
    """The unescaped tokens of a pointer that stands in `whole` at the given column."""
    for at, sign in enumerate(pointer):
        if sign == "~" and pointer[at + 1 : at + 2] not in ("0", "1"):
            raise MappingSyntaxError(whole, "'~' in a pointer is written '~0', and '/' in a key '~1'", column + at)
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/"))


def _braces_parts(text: str) -> list[str | TemplateRef]:
    parts: list[str | TemplateRef] = []
    plain: list[str] = []
    at = 0
    while (dollar := text.find("$", at)) >= 0:
        plain.append(text[at:dollar])
        if text.startswith("$${", dollar):
            plain.append("${")
            at = dollar + 3
        elif text.startswith("${", dollar):
            found, at = _braces_ref(text, dollar)
            _close_plain(parts, plain)
            parts.append(found)
        else:
            plain.append("$")
            at = dollar + 1
    plain.append(text[at:])
    _close_plain(parts, plain)
    return parts


def _close_plain(parts: list[str | TemplateRef], plain: list[str]) -> None:
    joined = "".join(plain)
    if joined:
        parts.append(joined)
    plain.clear()


def _braces_ref(text: str, dollar: int) -> tuple[TemplateRef, int]:
    """The reference that begins at `dollar`, and where the text after it begins."""
    end = text.find("}", dollar)
    if end < 0:
        fix = "close it with '}', or write '$${' for '${'"
        raise MappingSyntaxError(text, "'${' is never closed", dollar + 1, fix)
    inside = text[dollar + 2 : end]
    if "${" in inside:
        inner = dollar + 2 + inside.index("${")
        raise MappingSyntaxError(text, "'${' inside another reference", inner + 1, "close the first one with '}'")
    name = inside.strip()
    column = dollar + 3 + (len(inside) - len(inside.lstrip()))
    if not name:
        raise MappingSyntaxError(text, "a reference without a name", dollar + 1)
    tokens = _pointer_tokens(name, text, column) if name.startswith("/") else _path_tokens(name, text, column)
    return TemplateRef(name, tokens), end + 1


def _path_tokens(path: str, whole: str, column: int) -> tuple[str, ...]:
    """The tokens of a path such as `user.items[0].id`."""
    tokens: list[str] = []
    offset = 0
    for part in path.split("."):
        name, bracket, rest = part.partition("[")
        if not name or name != name.strip():
            raise MappingSyntaxError(whole, "a name is missing between the dots", column + offset)
        tokens.append(name)
        if bracket:
            tokens += _indices(rest, whole, column + offset + len(name))
        offset += len(part) + 1
    return tuple(tokens)


def _indices(rest: str, whole: str, column: int) -> list[str]:
    """The numbers of `0][1]`, which is what follows the first bracket of `[0][1]`."""
    found = [] if not rest.endswith("]") else rest[:-1].split("][")
    if not found or not all(one.isascii() and one.isdigit() for one in found):
        raise MappingSyntaxError(whole, "brackets hold one index, such as [0]", column, "write a dot before a name")
    return found


def _legacy_parts(text: str) -> list[str | TemplateRef]:
    parts: list[str | TemplateRef] = []
    at = 0
    for match in _LEGACY_REF.finditer(text):
        if match.start() > at:
            parts.append(text[at : match.start()])
        name = match.group(1) or match.group(2)
        parts.append(TemplateRef(name, (name.casefold(),)))
        at = match.end()
    if at < len(text):
        parts.append(text[at:])
    return parts


def _shown(form: Mapping[Any, Any]) -> str:
    """The form as text; values are the user's and may be large, or refuse to show themselves."""
    return "{" + ", ".join(f"{key!r}: ..." for key in form) + "}"
