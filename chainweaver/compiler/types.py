"""May a value of this type go into a field of that type? The verdict along every edge of a flow.

Asked by the compiler for each input that a mapping or the context feeds. The rule is pydantic's own: what lax
validation can coerce is compatible, what is unknown is compatible, and "incompatible" is said only when no value of
the source type could pass. There is no false alarm, so an error from here is a bug in the flow.

How schemas are read is in `core_schemas`, facts about what they produce in `leaves`, how types are named in
`type_names`, what models hold in `model_traits`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from pydantic import AnyUrl

from chainweaver.compiler.core_schemas import (
    WRAPPERS,
    Constant,
    FieldOf,
    View,
    choices,
    constant_view,
    fields_view,
    is_stream,
    is_transparent,
    is_url,
    produced,
    resolved,
    source_view,
    target_view,
)
from chainweaver.compiler.leaves import (
    CLASSES,
    FINITE,
    MAPPINGS,
    NUMBERS,
    SAMPLES,
    SCALARS,
    SEQUENCES,
    Items,
    accepted_kinds,
    bounds_meet,
    classes_of,
    defines,
    finds_missing,
    is_open,
    is_required,
    items_of,
    may_be,
    may_equal,
    named_classes,
    part,
    passes,
    related,
    values_of,
)
from chainweaver.compiler.model_traits import immutables_only, scalars_only
from chainweaver.compiler.type_names import describe

__all__ = ["Constant", "FieldOf", "compatible", "describe", "immutables_only", "scalars_only"]


def compatible(source: Any, target: Any) -> bool:
    """Whether a value of type `source` can pass the validation of a field of type `target`.

    Takes annotations, with their metadata in `Annotated`; `FieldOf(model, name)` adds what the model itself brings
    (field and model validators, `strict=True` in the configuration), `Constant(value)` stands for a known source.

    True also when only some values pass: "1" goes into an int, None or a str goes into a str. Of a union one member
    has to fit. Containers are judged by their items, as if they were never empty. Validators that see the input first
    may turn anything into anything, so they accept everything; a type that pydantic does not know is compatible
    with every other. Unrelated model classes do not fit, though a class derived from both would.

    >>> compatible(bool, int), compatible(list[str], list[int]), compatible(str, list[int])
    (True, True, False)
    >>> compatible(Constant("seven"), int), compatible(Constant("7"), int)
    (False, True)
    """
    try:
        return _cached(source, target)
    except TypeError:
        # Metadata such as `Field(...)` cannot be hashed.
        return _compatible(source, target)


@lru_cache(maxsize=8192)
def _cached(source: Any, target: Any) -> bool:
    return _compatible(source, target)


def _compatible(source: Any, target: Any) -> bool:
    try:
        return _Comparison().fits(source_view(source), target_view(target))
    except RecursionError:
        # A type that is defined by nothing but itself, or hundreds of levels deep: nothing is known about it.
        return True


class _Comparison:
    """One question under way. Remembers the pairs it has met, so that recursive types come to an end."""

    def __init__(self) -> None:
        self._verdicts: dict[tuple[int, int, bool], bool] = {}
        # Schemas made on the way must outlive the question, or their ids could be given out again.
        self._kept: list[View] = []

    def fits(self, source: View, target: View) -> bool:
        """Whether some value that `source` produces is taken by `target`."""
        pair = (id(source.schema), id(target.schema), target.strict)
        if pair not in self._verdicts:
            self._kept += (source, target)
            # While the answer is sought, a type that contains itself is taken to fit.
            self._verdicts[pair] = True
            self._verdicts[pair] = any(self.takes(target, leaf) for leaf in produced(source))
        return self._verdicts[pair]

    def takes(self, target: View, leaf: View) -> bool:
        """Whether `target` takes some value of the alternative `leaf`. A kind without a rule takes everything."""
        target = resolved(target)
        rule = _RULES.get(target.kind)
        return leaf.kind == "any" or rule is None or rule(self, target, leaf)

    # ---- schemas around other schemas

    def wrapped(self, target: View, leaf: View) -> bool:
        return self.takes(target.inner(), leaf)

    def wrap(self, target: View, leaf: View) -> bool:
        if is_url(target):
            return may_be(leaf, AnyUrl) or self.takes(target.inner(), leaf)
        if is_stream(target):
            return self.stream(resolved(target.inner()), leaf)
        return not is_transparent(target) or self.takes(target.inner(), leaf)

    def union(self, target: View, leaf: View) -> bool:
        return any(self.takes(choice, leaf) for choice in choices(target))

    def nullable(self, target: View, leaf: View) -> bool:
        return may_be(leaf, type(None)) or self.takes(target.inner(), leaf)

    def chain(self, target: View, leaf: View) -> bool:
        for step in map(target.at, target.schema["steps"]):
            if not self.takes(step, leaf):
                return False
            if resolved(step).kind not in ("is-instance", "any"):
                # The next step sees what this one made, not the leaf.
                return True
        return True

    def json_or_python(self, target: View, leaf: View) -> bool:
        return self.takes(target.at(target.schema["python_schema"]), leaf)

    def lax_or_strict(self, target: View, leaf: View) -> bool:
        return self.takes(target.at(target.schema["strict_schema" if target.strict else "lax_schema"]), leaf)

    def json(self, target: View, leaf: View) -> bool:
        return any(may_be(leaf, cls) for cls in (str, bytes, bytearray))

    # ---- plain values

    def scalar(self, target: View, leaf: View) -> bool:
        if leaf.kind in FINITE:
            return any(passes(target, value) for value in values_of(leaf))
        kinds = accepted_kinds(target.kind, target.strict, _coerces_numbers(target))
        if leaf.kind in SAMPLES:
            return leaf.kind in kinds and bounds_meet(leaf, target)
        if any(may_be(leaf, CLASSES[kind]) for kind in kinds):
            return True
        # Numbers are made of everything that has `__float__`, `__index__` or `__complex__`.
        return not target.strict and not kinds.isdisjoint(NUMBERS) and _is_numeric(leaf)

    def enumeration(self, target: View, leaf: View) -> bool:
        if finds_missing(target.schema["cls"]):
            return True
        if leaf.kind in FINITE:
            return any(passes(target, value) for value in values_of(leaf))
        if target.strict or may_be(leaf, target.schema["cls"]):
            return may_be(leaf, target.schema["cls"])
        if "sub_type" in target.schema and self.scalar(View({"type": target.schema["sub_type"]}), leaf):
            return True
        return any(may_equal(leaf, value) for member in target.schema["members"] for value in (member, member.value))

    def literal(self, target: View, leaf: View) -> bool:
        if leaf.kind in FINITE:
            return any(passes(target, value) for value in values_of(leaf))
        return any(may_equal(leaf, value) for value in target.schema["expected"])

    def instance(self, target: View, leaf: View) -> bool:
        return any(may_be(leaf, cls) for cls in named_classes(target))

    def subclass(self, target: View, leaf: View) -> bool:
        if leaf.kind == "is-subclass":
            return related(leaf.schema["cls"], target.schema["cls"])
        return may_be(leaf, type)

    def callable(self, target: View, leaf: View) -> bool:
        if leaf.kind in ("callable", "is-subclass"):
            return True
        return any(is_open(cls) or defines(cls, "__call__") or related(cls, type) for cls in classes_of(leaf))

    # ---- containers

    def sequence(self, target: View, leaf: View) -> bool:
        if target.strict and not may_be(leaf, CLASSES[target.kind]):
            return False
        given, wanted = items_of(leaf), items_of(target)
        return given is not None and (wanted is None or self._items_fit(given, wanted))

    def _items_fit(self, given: Items, wanted: Items) -> bool:
        if given.rest is None and len(given.fixed) < len(wanted.fixed):
            return False
        if wanted.rest is None and len(given.fixed) > len(wanted.fixed):
            return False
        once = 1 if given.rest is not None and wanted.rest is not None else 0
        places = range(max(len(given.fixed), len(wanted.fixed), once))
        return all(self.fits(given.at(place), wanted.at(place)) for place in places)

    def generator(self, target: View, leaf: View) -> bool:
        # Items are validated one by one, while the tool iterates.
        return (
            items_of(leaf) is not None or leaf.kind in MAPPINGS or any(defines(c, "__iter__") for c in classes_of(leaf))
        )

    def stream(self, target: View, leaf: View) -> bool:
        given, wanted = items_of(leaf), Items((), part(target, "items_schema"))
        if leaf.kind == "stream":
            given = Items((), part(leaf, "items_schema"))
        if given is None:
            return any(defines(cls, "__aiter__") for cls in classes_of(leaf))
        return self._items_fit(given, wanted)

    def mapping(self, target: View, leaf: View) -> bool:
        keys, values = part(target, "keys_schema"), part(target, "values_schema")
        if leaf.kind == "typed-dict":
            sure = [item for item in leaf.schema["fields"].items() if is_required(item[1])]
            return all(self.fits(constant_view(name), keys) and self.fits(leaf.at(one), values) for name, one in sure)
        if leaf.kind in MAPPINGS:
            return self.fits(part(leaf, "keys_schema"), keys) and self.fits(part(leaf, "values_schema"), values)
        return may_be(leaf, Mapping)

    def model(self, target: View, leaf: View) -> bool:
        cls = target.schema["cls"]
        if may_be(leaf, cls) or _share_an_origin(leaf, cls) or target.schema.get("custom_init"):
            return True
        if target.strict and target.kind == "dataclass":
            # Models take dicts in strict mode, too.
            return False
        if target.schema.get("root_model"):
            return self.takes(target.opened().inner(), leaf)
        if target.opened().config.get("from_attributes") and leaf.kind not in SAMPLES:
            return True
        return self.fields(target, leaf)

    def fields(self, target: View, leaf: View) -> bool:
        """Whether a mapping can bring what the required fields of a model, dataclass or typed dict need."""
        inside = fields_view(target, past_before=False)
        if inside is None:
            return True
        if leaf.kind not in MAPPINGS:
            return may_be(leaf, Mapping)
        known = inside.schema["fields"]
        named = known.items() if isinstance(known, Mapping) else [(one["name"], one) for one in known]
        return all(self._field_fits(inside, name, one, leaf) for name, one in named if is_required(one))

    def _field_fits(self, inside: View, name: str, field: Mapping[str, Any], leaf: View) -> bool:
        key = field.get("validation_alias", name)
        if not isinstance(key, str) or (key != name and _takes_names(inside)):
            # It may come from several places.
            return True
        if leaf.kind == "typed-dict":
            given = leaf.schema["fields"].get(key)
            return (
                leaf.schema.get("extra_behavior") == "allow"
                if given is None
                else self.fits(leaf.at(given), inside.at(field))
            )
        has_key = any(may_equal(one, key) for one in produced(part(leaf, "keys_schema")))
        return has_key and self.fits(part(leaf, "values_schema"), inside.at(field))

    def named_tuple(self, target: View, leaf: View) -> bool:
        return may_be(leaf, target.schema["cls"]) or items_of(leaf) is not None or may_be(leaf, Mapping)


Rule = Callable[[_Comparison, View, View], bool]

_RULES: dict[str, Rule] = {
    **dict.fromkeys(WRAPPERS, _Comparison.wrapped),
    **dict.fromkeys(SCALARS, _Comparison.scalar),
    **dict.fromkeys(SEQUENCES, _Comparison.sequence),
    **dict.fromkeys(MAPPINGS, _Comparison.mapping),
    "typed-dict": _Comparison.fields,
    "function-after": _Comparison.wrapped,
    "function-wrap": _Comparison.wrap,
    "union": _Comparison.union,
    "tagged-union": _Comparison.union,
    "nullable": _Comparison.nullable,
    "chain": _Comparison.chain,
    "json-or-python": _Comparison.json_or_python,
    "lax-or-strict": _Comparison.lax_or_strict,
    "json": _Comparison.json,
    "enum": _Comparison.enumeration,
    "literal": _Comparison.literal,
    "is-instance": _Comparison.instance,
    "is-subclass": _Comparison.subclass,
    "callable": _Comparison.callable,
    "generator": _Comparison.generator,
    "model": _Comparison.model,
    "dataclass": _Comparison.model,
    "named-tuple": _Comparison.named_tuple,
}


def _coerces_numbers(target: View) -> bool:
    return bool(target.schema.get("coerce_numbers_to_str", target.config.get("coerce_numbers_to_str")))


def _is_numeric(leaf: View) -> bool:
    methods = ("__float__", "__index__", "__complex__")
    return any(is_open(cls) or any(defines(cls, method) for method in methods) for cls in classes_of(leaf))


def _takes_names(inside: View) -> bool:
    """Whether fields with an alias may also be given by their names."""
    return any(inside.config.get(key) for key in ("populate_by_name", "validate_by_name"))


def _share_an_origin(leaf: View, cls: type) -> bool:
    """Whether two models are made from one generic model: pydantic converts between those."""
    origin = _generic_origin(cls)
    return origin is not None and any(_generic_origin(one) is origin for one in classes_of(leaf))


def _generic_origin(cls: type) -> type | None:
    generic = getattr(cls, "__pydantic_generic_metadata__", None)
    if not generic or not (generic["origin"] or generic["parameters"]):
        return None
    return generic["origin"] or cls
