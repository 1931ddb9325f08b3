"""Readers: closures that take the inputs of a step from the slots of a run.

Everything that a mapping says is decided when its reader is built; at run time a reader subscripts. The forms with one
writer and up to three fields are written out, since they are what most steps of most flows use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from pydantic import BaseModel

from chainweaver.plan import KeyMissing, Reader, Slots

Lookup: TypeAlias = Callable[[Slots], Any]
"""One value from the slots; raises `KeyMissing` when it is not there."""


class Place(NamedTuple):
    """A key in the slots, from the latest writer that may have written it to the earliest.

    Attributes:
        slots: Positions in the slot list; more than one where a writer may have been skipped or has open outputs.
        key: The context key.
        sure: The first of them always holds the key once its step has succeeded.
    """

    slots: tuple[int, ...]
    key: str
    sure: bool


class Entry(NamedTuple):
    """One input field and where its value comes from.

    Attributes:
        field: Key in the dict that the input model validates.
        place: Where it is read from, when it is one plain key.
        look_up: The general form.
        required: A missing value is an error of the mapping; otherwise the field is left out.
    """

    field: str
    place: Place | None
    look_up: Lookup
    required: bool


def reader_of(entries: Sequence[Entry]) -> Reader:
    """The reader of a step with these inputs."""
    simple = [
        (one.field, one.place.slots[0], one.place.key) for one in entries if one.place and _is_direct(one, one.place)
    ]
    if len(simple) == len(entries):
        return _direct_reader(simple)
    return _general_reader(tuple((entry.field, entry.look_up, entry.required) for entry in entries))


def _is_direct(entry: Entry, place: Place) -> bool:
    """Whether one subscript does: there is one slot, and a key missing there is an error that KeyError can tell."""
    return len(place.slots) == 1 and (place.sure or entry.required)


def _direct_reader(simple: list[tuple[str, int, str]]) -> Reader:
    """A reader that subscripts one slot per field; the slots of sure writers are filled before their readers run."""
    if len(simple) == 1:
        [(f0, s0, k0)] = simple
        return lambda slots: {f0: slots[s0][k0]}  # type: ignore[index]  # see above
    if len(simple) == 2:
        [(f0, s0, k0), (f1, s1, k1)] = simple
        return lambda slots: {f0: slots[s0][k0], f1: slots[s1][k1]}  # type: ignore[index]  # see above
    if len(simple) == 3:
        [(f0, s0, k0), (f1, s1, k1), (f2, s2, k2)] = simple
        return lambda slots: {f0: slots[s0][k0], f1: slots[s1][k1], f2: slots[s2][k2]}  # type: ignore[index]  # see above
    fixed = tuple(simple)
    return lambda slots: {field: slots[slot][key] for field, slot, key in fixed}  # type: ignore[index]  # see above


def _general_reader(entries: tuple[tuple[str, Lookup, bool], ...]) -> Reader:
    def read(slots: Slots) -> dict[str, Any]:
        inputs = {}
        for field, look_up, required in entries:
            try:
                inputs[field] = look_up(slots)
            except KeyMissing:
                if required:
                    raise
        return inputs

    return read


def whole_context_reader(slots_visible: Sequence[int], dynamic_slot: int) -> Reader:
    """A reader of everything: the initial context, all earlier outputs in plan order, then the dynamic parameters."""
    order = (0, *slots_visible, dynamic_slot)

    def read(slots: Slots) -> dict[str, Any]:
        context: dict[str, Any] = {}
        for slot in order:
            context.update(slots[slot] or {})
        return context

    return read


# ---- look-ups


def look_up_place(place: Place, text: str | None = None) -> Lookup:
    """The value of a key, from the latest candidate that holds it.

    Args:
        text: What the mapping calls it, when that is not the key itself.
    """
    candidates, key = place.slots, place.key

    def look_up(slots: Slots) -> Any:
        for slot in candidates:
            values = slots[slot]
            if values is not None and key in values:
                return values[key]
        known = tuple(dict.fromkeys(str(one) for slot in candidates for one in slots[slot] or ()))
        raise KeyMissing(key if text is None else text, known)

    return look_up


def look_up_first(places: Sequence[Place]) -> Lookup:
    """The value of the first of several keys that is there."""
    *before, last = map(look_up_place, places)

    def look_up(slots: Slots) -> Any:
        for one in before:
            try:
                return one(slots)
            except KeyMissing:
                continue
        return last(slots)

    return look_up


def look_up_folded(places: Sequence[Place], folded: str) -> Lookup:
    """The value of the key that equals `folded` but for its case; keys of the initial context are compared last."""
    exact = look_up_first(places)

    def look_up(slots: Slots) -> Any:
        try:
            return exact(slots)
        except KeyMissing:
            pass
        for key, value in (slots[0] or {}).items():
            if isinstance(key, str) and key.casefold() == folded:
                return value
        raise KeyMissing(folded, tuple(slots[0] or ()))

    return look_up


def look_up_inside(root: Lookup, tokens: Sequence[str], text: str) -> Lookup:
    """The value that a pointer or a template reference reaches from its root key."""
    if not tokens:
        return root
    steps = tuple(tokens)

    def look_up(slots: Slots) -> Any:
        value = root(slots)
        for token in steps:
            value = descend(value, token, text)
        return value

    return look_up


def descend(value: Any, token: str, text: str) -> Any:
    """One token further into a value: a key of a mapping, an index of a list or tuple, a field of a model or dataclass.

    Tokens are strict as in RFC 6901, section 4: an index has no sign and no leading zero, and `-` is none.

    Raises:
        KeyMissing: There is nothing of that name.
    """
    if isinstance(value, (list, tuple)):
        index = index_of(token)
        if index is not None and index < len(value):
            return value[index]
        raise KeyMissing(text, (f"0..{len(value) - 1}",) if value else ())
    if isinstance(value, Mapping):
        if token in value:
            return value[token]
        raise KeyMissing(text, tuple(str(key) for key in value))
    fields = _fields_of(value)
    if token in fields:
        return getattr(value, token)
    raise KeyMissing(text, fields)


def _fields_of(value: Any) -> tuple[str, ...]:
    """The names below which a value has declared parts; never the attributes of an arbitrary object."""
    if isinstance(value, BaseModel):
        kind = type(value)
        return (*kind.model_fields, *kind.model_computed_fields, *(value.__pydantic_extra__ or ()))
    return tuple(getattr(type(value), "__dataclass_fields__", ()))


def index_of(token: str) -> int | None:
    """The number that a token stands for as an index of a list, None when it is no index.

    >>> index_of("10"), index_of("01"), index_of("-"), index_of("+1")
    (10, None, None, None)
    """
    if not (token.isascii() and token.isdigit()) or (len(token) > 1 and token[0] == "0") or len(token) > 18:
        return None
    return int(token)


def look_up_literal(value: Any) -> Lookup:
    """A constant; containers are built anew for every run."""
    build = _builder_of(value)
    return lambda slots: build()


def _builder_of(value: Any) -> Callable[[], Any]:
    try:
        return constructor_of(value)
    except RecursionError:
        # It contains itself, or is nested so deeply that building it would fail as well.
        return lambda: value


def constructor_of(value: Any) -> Callable[[], Any]:
    """A function that builds the value again, so that no run can change what another one reads.

    Plain containers are rebuilt level by level from bound constructors; everything else is handed on as it is.
    """
    kind = type(value)
    if kind is dict:
        items = tuple((key, constructor_of(item)) for key, item in value.items())
        return lambda: {key: build() for key, build in items}
    if kind is list or kind is set or kind is tuple:
        builders = tuple(constructor_of(item) for item in value)
        return lambda: kind(build() for build in builders)
    return lambda: value


def look_up_template(parts: Sequence[str | Lookup]) -> Lookup:
    """Text with references filled in, once: what is filled in is never expanded again.

    A template that is one single reference gives the object itself.
    """
    if len(parts) == 1 and not isinstance(parts[0], str):
        return parts[0]
    fixed = tuple(parts)
    return lambda slots: "".join(part if isinstance(part, str) else str(part(slots)) for part in fixed)


def look_up_default(look_up: Lookup, default: Any) -> Lookup:
    """The value, or the default when it is missing."""
    build = _builder_of(default)

    def look_up_or_default(slots: Slots) -> Any:
        try:
            return look_up(slots)
        except KeyMissing:
            return build()

    return look_up_or_default
