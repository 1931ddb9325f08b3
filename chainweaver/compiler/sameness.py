"""Is a value of one validated type valid for another one as it is? What `validation="once"` rests on.

Validating a value a second time may be left out where the second schema asks for nothing that the first one has not
seen to, and where doing it twice gives what doing it once gave. Both are read off core schemas; whatever is not known
to be so counts as no proof, and the reason is given in words. Asked by `once`; nothing is validated here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from chainweaver.compiler.core_schemas import UNKNOWN, View, choices, resolved

BOUNDS = frozenset(
    {
        "min_length", "max_length", "gt", "ge", "lt", "le", "multiple_of", "pattern", "max_digits", "decimal_places",
        "allow_inf_nan", "fail_fast",
    }
)  # fmt: skip
"""Settings that refuse values and change none: a schema without them takes what one with them has let through."""

AROUND = frozenset({"default", "model-field", "custom-error"})
"""Schemas around another one that make no difference to a value which is there."""

LABELS = frozenset(
    {
        "metadata", "serialization", "ref", "custom_error_type", "custom_error_message", "custom_error_context",
        "cls_repr", "cls_name", "title", "coerce_numbers_to_str",
    }
)  # fmt: skip
"""What says nothing about values, or nothing about values that were validated already."""

LEAVES = frozenset(
    {
        "any", "none", "bool", "int", "float", "complex", "str", "bytes", "decimal", "date", "time", "datetime",
        "timedelta", "uuid", "url", "multi-host-url", "literal", "enum", "is-instance", "is-subclass", "callable",
    }
)  # fmt: skip
"""Kinds without a schema inside; what they let through they let through again, unchanged."""

INSIDE = {
    "list": ("items_schema",),
    "set": ("items_schema",),
    "frozenset": ("items_schema",),
    "dict": ("keys_schema", "values_schema"),
    "tuple": ("items_schema",),
    "nullable": ("schema",),
}
"""Kinds of containers and the schemas inside them."""

IDLE_SETTINGS = frozenset(
    {
        "title", "extra_fields_behavior", "populate_by_name", "validate_by_name", "validate_by_alias", "loc_by_alias",
        "validate_default", "hide_input_in_errors", "cache_strings", "frozen", "from_attributes", "serialize_by_alias",
        "validation_error_cause", "ser_json_timedelta", "ser_json_bytes", "ser_json_inf_nan", "ser_json_temporal",
        "val_json_bytes", "coerce_numbers_to_str", "typed_dict_total", "total", "defer_build",
    }
)  # fmt: skip
"""Settings of a model that do not matter to a single value which one of its kind has validated."""


def why_not_as_it_is(given: View, wanted: View) -> str | None:
    """Why a value that `given` has validated cannot go into `wanted` without being looked at again; None: it can.

    >>> from chainweaver.compiler.core_schemas import target_view
    >>> why_not_as_it_is(target_view(list[int]), target_view(list[int] | None))
    >>> why_not_as_it_is(target_view(list[float]), target_view(list[int]))
    'it was validated as float and int is wanted'
    """
    if _settings(given) != _settings(wanted):
        return "the two models are configured differently"
    return _Comparison().why_not(given, wanted)


def _settings(view: View) -> dict[str, Any]:
    return {name: value for name, value in view.config.items() if name not in IDLE_SETTINGS}


class _Comparison:
    """One question under way; the pairs that it has met let recursive types come to an end."""

    def __init__(self) -> None:
        self._met: set[tuple[int, int]] = set()
        self._kept: list[View] = []  # ids must not be given out again while they stand for something

    def why_not(self, given: View, wanted: View) -> str | None:
        given, wanted = past_labels(given), past_labels(wanted)
        if given is UNKNOWN or wanted is UNKNOWN:
            return "nothing is known about its type"
        pair = id(given.schema), id(wanted.schema)
        if pair in self._met:
            return None
        self._met.add(pair)
        self._kept += (given, wanted)
        if wanted.kind == "nullable" and given.kind not in ("nullable", "any"):
            return self.why_not(given, past_labels(wanted.inner()))
        if given.kind != wanted.kind:
            return self._of_kinds(given, wanted)
        if given.kind in ("model", "dataclass"):
            return _why_not_instances(given, wanted)
        if given.kind == "union":
            return self._of_unions(given, wanted)
        if given.kind not in LEAVES and given.kind not in INSIDE:
            return _why_not_kind(given.kind)
        return _why_not_settings(given, wanted) or self._inside(given, wanted)

    def _of_kinds(self, given: View, wanted: View) -> str | None:
        for view in (wanted, given):
            if view.kind not in LEAVES and view.kind not in INSIDE and view.kind not in ("model", "dataclass", "union"):
                return _why_not_kind(view.kind)
        return f"it was validated as {given.kind} and {wanted.kind} is wanted"

    def _of_unions(self, given: View, wanted: View) -> str | None:
        if "left_to_right" in (given.schema.get("mode"), wanted.schema.get("mode")):
            return "members of a union are tried from left to right"
        mine, theirs = choices(given), choices(wanted)
        if len(mine) != len(theirs):
            return "the two unions are not the same"
        if _may_choose_again(wanted):
            return "a literal in the union may take what another member has made"
        return next((why for one, other in zip(mine, theirs, strict=True) if (why := self.why_not(one, other))), None)

    def _inside(self, given: View, wanted: View) -> str | None:
        for name in INSIDE.get(given.kind, ()):
            mine, theirs = _parts(given, name), _parts(wanted, name)
            if len(mine) != len(theirs):
                return f"the two {given.kind}s do not have the same items"
            for one, other in zip(mine, theirs, strict=True):
                if why := self.why_not(one, other):
                    return why
        return None


def past_labels(view: View) -> View:
    """The schema behind references and behind what makes no difference to a value that is there."""
    view = resolved(view)
    while True:
        if view.kind in AROUND:
            view = resolved(view.inner())
        elif view.kind == "json-or-python":
            view = resolved(view.at(view.schema["python_schema"]))
        else:
            return view


def _may_choose_again(union: View) -> bool:
    """Whether a value that one member of a union has made may be changed by another one, when it is validated again.

    A member takes values of its own class before another one may convert them. Literals do not look at the class: 1.0,
    which a member for floats has made of "1", equals 1, and is turned into that.

    Source: pydantic, "Unions", smart mode; and random unions, validated twice.
    """
    found = list(_kinds_in(union, set()))
    literals = [value for view in found if view.kind == "literal" for value in view.schema["expected"]]
    kinds = {view.kind for view in found if view.kind != "literal"}
    if not {type(value) for value in literals} <= {str, bytes, int, type(None)}:
        return True
    clashes = EQUAL_TO_OTHERS | (EQUAL_TO_INTEGERS if any(type(value) is int for value in literals) else set())
    return bool(literals) and bool(kinds & clashes)


EQUAL_TO_OTHERS = frozenset({"enum", "is-instance", "any"})
EQUAL_TO_INTEGERS = frozenset({"bool", "float", "complex", "decimal"})
"""Kinds whose values may equal those of another kind, or a whole number."""


def _kinds_in(view: View, met: set[int]) -> Iterator[View]:
    """A type and what is inside, as far as a value may be taken apart there."""
    view = past_labels(view)
    if id(view.schema) in met:
        return
    met.add(id(view.schema))
    yield view
    inside = (
        choices(view)
        if view.kind == "union"
        else [part for name in INSIDE.get(view.kind, ()) for part in _parts(view, name)]
    )
    for one in inside:
        yield from _kinds_in(one, met)


def _parts(view: View, name: str) -> list[View]:
    found = view.schema.get(name, {"type": "any"})
    return [view.at(one) for one in found] if isinstance(found, list) else [view.at(found)]


def _why_not_kind(kind: str) -> str:
    if kind.startswith("function-"):
        return "a function of its own validates it"
    return f"nothing is known about validating a value of kind '{kind}' twice"


def _why_not_instances(given: View, wanted: View) -> str | None:
    """Instances pass as they are, whatever validators their class has: these ran when they were made."""
    if given.schema["cls"] is not wanted.schema["cls"]:
        return "they are different classes"
    for view in (given, wanted):
        setting = view.schema.get("revalidate_instances", view.opened().config.get("revalidate_instances", "never"))
        if setting != "never":
            return f"{view.schema['cls'].__name__} is configured to be validated again"
    return None if bool(given.schema.get("strict")) == bool(wanted.schema.get("strict")) else "one of them is strict"


def _why_not_settings(given: View, wanted: View) -> str | None:
    mine, theirs = _own(given.schema), _own(wanted.schema)
    for name in sorted(mine.keys() | theirs.keys()):
        if name in BOUNDS and name not in theirs:
            continue  # it was refused before, and is not asked for again
        if name == "allow_inf_nan" and theirs.get(name, True):
            continue
        if not _is_same(mine.get(name), theirs.get(name)):
            return f"'{name}' is asked for here" if name in BOUNDS else f"'{name}' differs"
    return None


def _own(schema: Mapping[str, Any]) -> dict[str, Any]:
    inside = INSIDE.get(str(schema["type"]), ())
    return {name: value for name, value in schema.items() if name not in LABELS and name not in inside}


def _is_same(one: Any, other: Any) -> bool:
    """Whether two settings are the same; the literals 1 and True are equal and yet not the same."""
    if isinstance(one, list) and isinstance(other, list):
        return one == other and list(map(type, one)) == list(map(type, other))
    return bool(one == other)
