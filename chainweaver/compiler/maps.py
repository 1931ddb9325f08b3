"""Maps: a step that runs once per item, bound in two parts.

What does not change from item to item is read from the slots once (`outer`); what a call needs is put together per item
from that and the item (`read_item`). Called by `build`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from chainweaver.compiler.inputs import BoundInputs, bind_inputs
from chainweaver.compiler.keys import INITIAL, MISSING, Initial, Visible, Writes
from chainweaver.compiler.paths import DeadEnd, follow
from chainweaver.compiler.readers import Entry, Place, look_up_inside, look_up_place, reader_of, whole_context_reader
from chainweaver.exceptions import FlowExecutionError, InputMappingError
from chainweaver.flow.mapping import (
    DefaultSource,
    KeySource,
    LiteralSource,
    MappingSyntaxError,
    PointerSource,
    Source,
    TemplateSource,
    parse_source,
)
from chainweaver.plan import Slots

if TYPE_CHECKING:
    from chainweaver.compiler.findings import Findings
    from chainweaver.compiler.lower import Lowered


@dataclass(frozen=True, slots=True)
class BoundMap:
    """A map, bound.

    Attributes:
        outer: What the step reads once.
        inner: What a call reads; its reader takes the two slots that `read_item` makes.
        items_of: What the step read -> the items.
        read_item: (what the step read, one item) -> the inputs of its call.
        over: The context key of the items.
    """

    outer: BoundInputs
    inner: BoundInputs
    items_of: Callable[[dict[str, Any]], Any]
    read_item: Callable[[dict[str, Any], Any], dict[str, Any]]
    over: str


def bind_map(step: Lowered, visible: Visible, findings: Findings) -> BoundMap:
    """Bind what a map reads, and note everything that is wrong with it."""
    definition = step.definition
    over, tokens = _over(step, findings)
    roots = list(dict.fromkeys([over, *_roots(step)]))
    as_key = definition.map_as
    found = {key: visible.look(key, step.level) for key in roots if key != as_key or key == over}
    _check_over(step, over, visible, found[over].standing, findings)
    whole = not definition.input_mapping and step.takes is not None and step.takes.open
    if whole:
        earlier = visible.read_all(step.level)
        read = whole_context_reader([index + 1 for index in earlier], visible.dynamic_slot)
        writers = set(earlier)
    else:
        entries = [Entry(key, seen.place, look_up_place(seen.place), required=False) for key, seen in found.items()]
        read = reader_of(entries)
        writers = {writer for seen in found.values() for writer in seen.writers}
    dynamic = tuple(key for key in (visible.dynamic if whole else found) if key in visible.dynamic)
    origins = {key: ((key, seen),) for key, seen in found.items()}
    outer = BoundInputs(read, tuple(sorted(writers)), dynamic, None, origins)
    item_kinds = _item_kinds(step, found[over].kinds, tokens, findings)
    # What may come from outside is known no better inside: there, too, a declared name goes first.
    unsaid = (*MISSING, visible.initial.others)
    kinds = {key: _kind(seen.kinds) for key, seen in found.items() if seen.standing not in unsaid}
    sure = {key for key, seen in found.items() if seen.place.sure}
    initial = Initial(kinds, frozenset(sure), visible.initial.others)
    inside = Visible(initial, tuple(key for key in dynamic if key != as_key), 1)
    if over in visible.dynamic:
        inside.hidden = frozenset({as_key})
    # The item stands where a step before it would have written it.
    inside.add(replace(step, index=0, level=INITIAL), Writes({as_key: _kind(item_kinds)}, frozenset({as_key})))
    inner = bind_inputs(step, inside, findings)
    inner_read = inner.read

    def read_item(shared: dict[str, Any], item: Any) -> dict[str, Any]:
        # The last slot is that of the dynamic parameters, which are among what was read once.
        return inner_read([shared, {as_key: item}, shared])

    return BoundMap(outer, inner, _items_of(over, tokens), read_item, over)


def _over(step: Lowered, findings: Findings) -> tuple[str, tuple[str, ...]]:
    """The context key of the items, and the path from it to them."""
    text = step.definition.map_over or ""
    try:
        source = parse_source(text)
    except MappingSyntaxError as exc:
        detail = f"map_over: {exc}"
        findings.error(
            step,
            "mapping_syntax",
            detail,
            lambda: FlowExecutionError(step.tool_name, step.index, detail, step_name=step.label),
            "map_over",
        )
        return text, ()
    if isinstance(source, PointerSource):
        return source.tokens[0], source.tokens[1:]
    return text, ()


def _check_over(step: Lowered, over: str, visible: Visible, standing: str, findings: Findings) -> None:
    if standing not in MISSING:
        return
    known = visible.known_keys(step.level)
    hint = findings.hint(over, known, "known keys are")
    findings.error(
        step,
        "missing_mapping_key",
        f"it maps over unknown key '{over}'; {hint}",
        (lambda: InputMappingError(step.tool_name, step.index, over, known=known, step_name=step.label))
        if standing == "impossible"
        else None,
        "map_over",
    )


def _roots(step: Lowered) -> Iterator[str]:
    """The context keys that a call reads, the item among them."""
    mapping = step.definition.input_mapping
    for value in mapping.values():
        try:
            yield from _keys_of(parse_source(value))
        except MappingSyntaxError:
            continue  # told when the inputs of a call are bound
    if not mapping and step.takes is not None:
        for field in step.takes.fields:
            yield from dict.fromkeys((field.name, field.key))


def _keys_of(source: Source) -> Iterator[str]:
    if isinstance(source, DefaultSource):
        source = source.source
    if isinstance(source, KeySource):
        yield source.key
    elif isinstance(source, PointerSource):
        yield source.tokens[0]
    elif isinstance(source, TemplateSource):
        yield from (part.tokens[0] for part in source.parts if not isinstance(part, str))
    else:
        assert isinstance(source, LiteralSource), "the forms of a mapping are a closed set"


def _item_kinds(step: Lowered, kinds: list[Any], tokens: Sequence[str], findings: Findings) -> list[Any]:
    """The types that an item may have."""
    reached = follow(kinds, [*tokens, "0"])
    if not isinstance(reached, DeadEnd):
        return reached
    detail = f"it maps over '{step.definition.map_over}', which is no list; name a context key that holds one"
    findings.error(step, "type_mismatch", detail, None, "map_over")
    return [Any]


def _kind(kinds: list[Any]) -> Any:
    return kinds[0] if len(kinds) == 1 else Any


def _items_of(over: str, tokens: Sequence[str]) -> Callable[[dict[str, Any]], Any]:
    text = "/".join(("", over, *tokens)) if tokens else over
    look_up = look_up_inside(look_up_place(Place((0,), over, False), text), tokens, text)

    def items_of(shared: dict[str, Any]) -> Any:
        slots: Slots = [shared]
        return look_up(slots)

    return items_of


def secret_roots(step: Lowered, names: frozenset[str]) -> frozenset[str]:
    """The context keys from which a map feeds fields of these names; for the item it is the key of the list."""
    definition = step.definition
    mapping = definition.input_mapping
    roots: set[str] = set(() if mapping else names)
    for target in names.intersection(mapping):
        with suppress(MappingSyntaxError):
            roots.update(_keys_of(parse_source(mapping[target])))
    if definition.map_as in roots:
        over = (definition.map_over or "").lstrip("/").partition("/")[0]
        roots.add(over)
    return frozenset(roots)
