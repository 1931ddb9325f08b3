"""The walk through values that hides what a policy says, and the rules that the policy was compiled to.

The walk copies what changes and nothing else, never runs a constructor or a validator of users, ends in every structure
(circles, shared parts, depth) and never raises: a part that cannot be looked at is hidden. Models and dataclasses that
hold something hidden come out as dicts of their fields; objects of other types are handed on untouched.

Called by `redaction`. What has been hidden is noted on the way, so that a second walk can find it inside other texts.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set as AbstractSet
from contextlib import suppress
from dataclasses import fields as dataclass_fields, is_dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from fnmatch import translate
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel, RootModel, SecretBytes, SecretStr
from pydantic.types import Secret

from chainweaver.observe.secret_texts import Literals, without_assigned, without_tokens
from chainweaver.plan import ItemError

if TYPE_CHECKING:
    from chainweaver.objects.inspection import ObjectInfo
    from chainweaver.results import ExecutionResult, StepRecord

MAX_DEPTH = 64
"""How many containers deep a view goes; what is further inside is hidden."""

CIRCLE = "<circular>"
"""Stands where a container holds itself."""

_MOST_LEAVES = 1_000
"""How many parts of one hidden value are looked for in texts."""

_MOST_LOOKS = 5
_MOST_NAMES = 4_096
"""How many names a policy remembers its answer for."""

_SCALARS = frozenset({int, float, bool, type(None), complex})
_WRITTEN = (int, float, Decimal, UUID, PurePath, date)
"""Types whose values may be part of a text as `str` writes them."""

Spots = tuple[tuple[str, ...], ...]
"""What is left of the hidden paths at one place: of each, the tokens that still have to match."""


class Rules:
    """A policy, compiled.

    Attributes:
        paths: Tokens of the hidden paths.
        patterns: What gives itself away inside a text.
        own_types: The types that the policy adds to those that are always hidden.
        types: All hidden types.
        replacement: What is shown instead.
    """

    def __init__(
        self,
        keys: Collection[str],
        paths: Spots,
        patterns: tuple[re.Pattern[str], ...],
        own_types: tuple[type, ...],
        replacement: str,
    ) -> None:
        # No keys: a pattern that matches nothing, where the empty pattern would match the empty name.
        self._names = re.compile("|".join(translate(key.casefold()) for key in keys) or r"(?!)")
        self._known: dict[str, bool] = {}
        self._words = {key.casefold().strip("*_") for key in keys}
        self.paths = paths
        self.patterns = patterns
        self.own_types = own_types
        self.types = (SecretStr, SecretBytes, Secret, *own_types)
        self.replacement = replacement

    def hides(self, name: str) -> bool:
        """Whether values under this name are hidden: in lower case, as it is or in snake case."""
        known = self._known.get(name)
        if known is None:
            if len(self._known) >= _MOST_NAMES:
                self._known.clear()
            snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[-. ]", "_", name)
            known = any(self._names.match(one.casefold()) for one in (name, snake))
            self._known[name] = known
        return known

    def literals(self, secrets: Iterable[str]) -> Literals:
        """The secrets as they are looked for in texts; words that only name a secret are left out."""
        return Literals(secrets, spared=lambda text: text in self.replacement or text.casefold() in self._words)


class Part(NamedTuple):
    """One field of a model, dataclass or named tuple."""

    name: str
    names: tuple[str, ...]  # under which it may be hidden: its own and its aliases
    value: Any
    shown: bool = True  # False: left out of the dict that stands for the whole


class Walk:
    """One walk through the values of a view.

    Args:
        rules: What is hidden.
        literals: Secrets that vanish from every text.

    Attributes:
        met: Texts of what was hidden on the way.
    """

    def __init__(self, rules: Rules, literals: Literals, *, closing: bool = False) -> None:
        self.rules = rules
        self.literals = literals
        self.met: set[str] = set()
        # Shared parts are walked once. The value is kept beside what became of it, or its id could be used again.
        self._done: dict[tuple[int, Spots], tuple[Any, Any]] = {}
        self._open: set[int] = set()
        self._closing = closing
        self._circles = False

    # ---- entrances

    def mapping(self, values: Mapping[Any, Any]) -> Any:
        """A mapping whose keys are the first tokens of the hidden paths."""
        return self.top(values, self.rules.paths)

    def named(self, name: str, value: Any) -> Any:
        """A value under a name."""
        return self._under((name,), value, self.rules.paths, 0)

    def top(self, value: Any, spots: Spots = ()) -> Any:
        """A value at a place where some hidden paths begin."""
        self._circles = False
        shown = self._shown(value, spots, 0)
        if shown is value or not self._circles or self._closing:
            return shown
        # Copies of what holds itself still refer to the original: close the circles, now that copies are needed.
        closing = Walk(self.rules, self.literals, closing=True)
        shown = closing._shown(value, spots, 0)
        self.met |= closing.met
        self._done.clear()
        return shown

    def text(self, text: str) -> str:
        """A text without secrets."""
        # What has been hidden may make a match of what stands around it; a second look finds that.
        for _ in range(_MOST_LOOKS):
            shown = self._once(text)
            if shown == text:
                break
            text = shown
        return text

    def _once(self, text: str) -> str:
        replacement = self.rules.replacement
        text = self.literals.replaced(text, replacement)
        text = without_tokens(text, self.rules.patterns, replacement, self.met.add)
        return without_assigned(text, self.rules.hides, replacement)

    def record(self, record: StepRecord) -> StepRecord:
        """A step record; the same one where nothing is hidden."""
        changes = self._changes(record, _IDENTITY_OF_RECORD, ("inputs", "outputs"))
        objects = {at: info for at, info in record.objects.items() if self._is_open(record, changes, at, info)}
        if len(objects) < len(record.objects):
            changes["objects"] = objects
        return record.model_copy(update=changes) if changes else record

    def _is_open(self, record: StepRecord, changes: dict[str, Any], at: str, info: ObjectInfo) -> bool:
        """Whether nothing is hidden of a value, nor of the names of its columns, so that it may be told what it is."""
        side, _, name = at.partition(".")
        values, shown = getattr(record, side) or {}, changes.get(side)
        if shown is not None and shown.get(name) is not values.get(name):
            return False
        return all(self._scrubbed(text) is text for column in info.schema or () for text in column)

    def result(self, result: ExecutionResult) -> ExecutionResult:
        """A result with all of its records; the same one where nothing is hidden."""
        changes = self._changes(result, _IDENTITY_OF_RESULT, ("initial_input", "final_output", "partial_output"))
        if not changes:
            return result
        # Made anew and not copied: a copy would still lead to the run, and the run to the real values and errors.
        kind = type(result)
        return kind.model_construct(**{name: getattr(result, name) for name in kind.model_fields} | changes)

    def _changes(
        self, model: StepRecord | ExecutionResult, identity: frozenset[str], mappings: tuple[str, ...]
    ) -> dict[str, Any]:
        from chainweaver.results import hidden_places

        changes: dict[str, Any] = {}
        places: list[str] = []
        # Whatever is not known to be a name or a time is looked at, so that a new field is covered from its first day.
        for name in type(model).model_fields:
            if name not in identity:
                value = getattr(model, name)
                shown = self.top(value, self.rules.paths if name in mappings else ())
                if shown is not value:
                    changes[name] = shown
                    if name in mappings:
                        places += hidden_places(name, value, shown)
                    elif name not in _VIEWS:
                        places.append(f"/{name}")
        if places:
            changes["redacted"] = tuple(dict.fromkeys((*changes.get("redacted", model.redacted), *places)))
        return changes

    # ---- the walk

    def _shown(self, value: Any, spots: Spots, depth: int) -> Any:
        kind = type(value)
        if kind is str and not self.rules.own_types:
            return self._scrubbed(value)
        if kind in _SCALARS and not self.rules.own_types:
            return self.rules.replacement if kind in (int, float) and self.literals.equals_number(value) else value
        try:
            return self._looked_at(value, spots, depth)
        except Exception:  # a foreign attribute, item or comparison may raise anything
            return self.rules.replacement

    def _looked_at(self, value: Any, spots: Spots, depth: int) -> Any:
        if isinstance(value, self.rules.types):
            return self._hidden(value)
        if isinstance(value, str):
            return self._scrubbed(value)
        if type(value) in (int, float):
            return self.rules.replacement if self.literals.equals_number(value) else value
        if isinstance(value, (bytes, bytearray)):
            return self._scrubbed_bytes(value)
        open_up = _opener_of(value)
        if open_up is None:
            return value
        key = (id(value), spots)
        if key in self._done:
            return self._done[key][1]
        if id(value) in self._open:
            self._circles = True
            return CIRCLE if self._closing else value
        if depth == MAX_DEPTH:
            return self._hidden(value)
        self._open.add(id(value))
        try:
            shown = open_up(self, value, spots, depth + 1)
        finally:
            self._open.discard(id(value))
        self._done[key] = (value, shown)
        return shown

    def _under(self, names: Sequence[str], value: Any, spots: Spots, depth: int) -> Any:
        """What is shown of a value that stands under a name, or an alias of it."""
        if any(map(self.rules.hides, names)):
            return self._hidden(value)
        if not spots:
            return self._shown(value, spots, depth)
        inside = tuple(rest[1:] for rest in spots if rest[0] == "*" or rest[0] in names)
        return self._hidden(value) if () in inside else self._shown(value, inside, depth)

    def _at(self, index: int, value: Any, spots: Spots, depth: int) -> Any:
        if not spots:
            return self._shown(value, spots, depth)
        inside = tuple(rest[1:] for rest in spots if rest[0] in ("*", str(index)))
        return self._hidden(value) if () in inside else self._shown(value, inside, depth)

    def _hidden(self, value: Any) -> Any:
        """What stands for a hidden value; nothing at all may be seen as nothing."""
        replacement = self.rules.replacement
        if value is None or (type(value) is str and value == replacement):
            return value
        with suppress(Exception):  # of a foreign attribute or item; the value is hidden all the same
            self.met.update(texts_in(value))
        return replacement

    def _scrubbed(self, value: str) -> str:
        text = self.text(value if type(value) is str else str.__str__(value))
        return value if text == value else text

    def _scrubbed_bytes(self, value: bytes | bytearray) -> bytes | bytearray:
        text = value.decode("utf-8", "surrogateescape")
        scrubbed = self.text(text)
        return value if scrubbed == text else scrubbed.encode("utf-8", "surrogateescape")

    # ---- containers

    def _mapping(self, value: Mapping[Any, Any], spots: Spots, depth: int) -> Any:
        shown: dict[Any, Any] = {}
        changed = False
        for key, item in tuple(value.items()):
            names = _names_of_key(key)
            seen = self._under(names, item, spots, depth)
            seen_key = self._scrubbed(key) if isinstance(key, str) else key
            changed = changed or seen is not item or seen_key is not key
            shown[_free_key(seen_key, shown)] = seen
        return shown if changed else value

    def _sequence(self, value: list[Any] | tuple[Any, ...] | deque[Any], spots: Spots, depth: int) -> Any:
        items = tuple(value)
        shown = [self._at(index, item, spots, depth) for index, item in enumerate(items)]
        if all(seen is item for seen, item in zip(shown, items, strict=True)):
            return value
        return tuple(shown) if isinstance(value, tuple) else shown

    def _set(self, value: AbstractSet[Any], spots: Spots, depth: int) -> Any:
        items = tuple(value)
        shown = [self._shown(item, (), depth) for item in items]
        if all(seen is item for seen, item in zip(shown, items, strict=True)):
            return value
        try:
            return frozenset(shown) if isinstance(value, frozenset) else set(shown)
        except TypeError:  # an item became a dict, which no set takes
            return shown

    def _named_tuple(self, value: Any, spots: Spots, depth: int) -> Any:
        named = zip(value._fields, value, strict=True)
        parts = [Part(name, (name, str(index)), item) for index, (name, item) in enumerate(named)]
        shown = [self._under(part.names, part.value, spots, depth) for part in parts]
        if all(seen is part.value for seen, part in zip(shown, parts, strict=True)):
            return value
        return tuple.__new__(type(value), shown)

    def _dataclass(self, value: Any, spots: Spots, depth: int) -> Any:
        names = [field.name for field in dataclass_fields(value)]
        parts = [Part(name, (name,), getattr(value, name)) for name in names if hasattr(value, name)]
        return self._parts(value, parts, spots, depth)

    def _model(self, value: BaseModel, spots: Spots, depth: int) -> Any:
        if isinstance(value, RootModel):
            shown = self._shown(value.root, spots, depth)
            return value if shown is value.root else shown
        return self._parts(value, _parts_of_model(value), spots, depth)

    def _parts(self, value: Any, parts: list[Part], spots: Spots, depth: int) -> Any:
        shown = [(part, self._under(part.names, part.value, spots, depth)) for part in parts]
        if all(seen is part.value for part, seen in shown):
            return value
        return {part.name: seen for part, seen in shown if part.shown}


_VIEWS = frozenset({"execution_log", "sub_result", "redacted"})
"""Fields that say themselves what is hidden in them."""

_IDENTITY = {"flow_name", "status", "success", "started_at", "ended_at"}
_IDENTITY_OF_RECORD = frozenset(
    {
        *_IDENTITY,
        *("step_index", "step_id", "tool_name", "fallback_tool_name", "fallback_used", "lane", "duration_ms"),
        *("error_type", "error_code", "error_cause", "retry_count", "skipped", "cached", "by_reference", "surplus"),
        "objects",  # looked at with the values that they are about
    }
)
_IDENTITY_OF_RESULT = frozenset(
    {
        *_IDENTITY,
        *("trace_schema_version", "flow_version", "trace_id", "parent_trace_id", "total_duration_ms", "dry_run"),
        "memory",  # sizes by name
    }
)

Opener = Callable[[Walk, Any, Spots, int], Any]


def _opener_of(value: Any) -> Opener | None:
    """How the walk looks into a value; None for objects that it hands on as they are."""
    kind = type(value)
    found = _OPENERS.get(kind)
    if found is not None:
        return found
    if isinstance(value, BaseModel):
        return _trace_opener(value) or Walk._model
    if is_dataclass(value) and not isinstance(value, type):
        return Walk._dataclass
    if isinstance(value, tuple):
        return Walk._named_tuple if hasattr(kind, "_fields") else Walk._sequence
    if isinstance(value, (list, deque)):
        return Walk._sequence
    if isinstance(value, (set, frozenset)):
        return Walk._set
    return Walk._mapping if isinstance(value, Mapping) else None


_OPENERS: dict[type, Opener] = {
    dict: Walk._mapping,
    list: Walk._sequence,
    tuple: Walk._sequence,
    set: Walk._set,
    frozenset: Walk._set,
}


def _trace_opener(value: BaseModel) -> Opener | None:
    """Records and results are views themselves and stay what they are."""
    from chainweaver.results import ExecutionResult, StepRecord

    if isinstance(value, StepRecord):
        return lambda walk, record, spots, depth: walk.record(record)
    if isinstance(value, ExecutionResult):
        return lambda walk, result, spots, depth: walk.result(result)
    return None


def _parts_of_model(value: BaseModel) -> list[Part]:
    kind = type(value)
    parts = []
    for name, field in kind.model_fields.items():
        if name in value.__dict__:
            aliases = (field.alias, field.serialization_alias, field.validation_alias)
            names = (name, *(alias for alias in aliases if isinstance(alias, str)))
            parts.append(Part(name, names, value.__dict__[name], shown=not field.exclude))
    for name, item in (value.__pydantic_extra__ or {}).items():
        parts.append(Part(name, (name,), item))
    # What a model computes is written with it, so it is looked at as well.
    for name, computed in kind.__pydantic_decorators__.computed_fields.items():
        names = (name, computed.info.alias) if computed.info.alias else (name,)
        parts.append(Part(name, names, getattr(value, name)))
    return parts


def _names_of_key(key: Any) -> tuple[str, ...]:
    if isinstance(key, str):
        return (str.__str__(key),)
    if isinstance(key, bytes):
        return (key.decode("utf-8", "replace"),)
    return (str(key),) if type(key) is int else ()


def _free_key(key: Any, taken: Mapping[Any, Any]) -> Any:
    """The key, with a number where hiding has made two keys equal."""
    if key not in taken:
        return key
    number = 2
    while f"{key} ({number})" in taken:
        number += 1
    return f"{key} ({number})"


# ---- what a hidden value may look like inside a text


def texts_in(value: Any) -> set[str]:
    """The texts of a hidden value and of its parts; a bounded number of them."""
    found: set[str] = set()
    seen: dict[int, Any] = {}
    todo = [value]
    while todo and len(seen) < _MOST_LEAVES:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part
        text = _text_of(part)
        if text is None:
            todo.extend(_inside(part))
        else:
            found.add(text)
    return found


def _text_of(value: Any) -> str | None:
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, bool) or (isinstance(value, int) and value.bit_length() > 1_000):
        return None
    return str(value) if isinstance(value, _WRITTEN) else None


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, ItemError):
        return ()  # it stands where a secret would be, and says what any record may say
    if isinstance(value, (SecretStr, SecretBytes, Secret)):
        return (value.get_secret_value(),)
    if isinstance(value, Enum):
        return (value.value,)
    if isinstance(value, Mapping):
        return tuple(value.values())
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return tuple(value)
    if isinstance(value, BaseModel):
        return (*value.__dict__.values(), *(value.__pydantic_extra__ or {}).values())
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclass_fields(value) if hasattr(value, field.name)]
    return ()
