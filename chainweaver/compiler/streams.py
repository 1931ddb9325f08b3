"""Streams in a flow: which steps take and give them, and that nobody reads one that another reads as well.

A stream is read once, so who reads it is settled here; and so is which steps a run has to look at, so that no other
step pays for there being streams. Called by `build` once all steps are bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from chainweaver.compiler.core_schemas import are_streams_known, gives_stream
from chainweaver.compiler.model_traits import annotation_of
from chainweaver.exceptions import StreamReadError
from chainweaver.plan import ASIDE, PlannedStreams, PlannedTool

if TYPE_CHECKING:
    from chainweaver.compiler.build import Build
    from chainweaver.compiler.findings import Findings
    from chainweaver.compiler.inputs import BoundInputs
    from chainweaver.compiler.lower import Lowered
    from chainweaver.compiler.maps import BoundMap
    from chainweaver.compiler.models import KnownTool


class Read(NamedTuple):
    """A stream that a step reads.

    Attributes:
        field: Where it takes it in, as the step reads it.
        key: The context key under which it finds it.
        slots: Where it may be.
        is_shared: All items of its map read the same one.
    """

    field: str
    key: str
    slots: tuple[int, ...]
    is_shared: bool


class Streams:
    """Who reads streams.

    Attributes:
        reads: Step -> the streams that it reads; only steps that read any.
    """

    def __init__(self, built: Build, bound: Sequence[BoundInputs], maps: Mapping[int, BoundMap]) -> None:
        self._built = built
        self._bound = bound
        self._maps = maps
        self.reads: dict[int, tuple[Read, ...]] = {}
        for step in built.steps if are_streams_known() else ():
            found = tuple(self._reads_of(step))
            if found:
                self.reads[step.index] = found

    def _reads_of(self, step: Lowered) -> Iterator[Read]:
        mapped = self._maps.get(step.index)
        call = self._bound[step.index] if mapped is None else mapped.inner
        for name in dict.fromkeys(self._fields_of(step, call)):
            field = call.fed_as.get(name, name)
            for key, seen in call.origins.get(name, ()):
                if mapped is None:
                    yield Read(field, key, seen.place.slots, False)
                elif key == step.definition.map_as:
                    yield Read(field, key, (), False)  # an item of its own
                else:
                    for _, outer in self._bound[step.index].origins.get(key, ()):
                        yield Read(field, key, outer.place.slots, True)

    def _fields_of(self, step: Lowered, call: BoundInputs) -> Iterator[str]:
        """The fields through which a step reads streams: those that are declared so, and those that get one."""
        child = self._built.children.get(step.index)
        if child is not None:
            yield from child.streams.of_inputs
        for known in step.callees:
            yield from (field.name for field in known.takes.fields if gives_stream(field.kind))
        taken = {} if step.takes is None else {field.name: field.kind for field in step.takes.fields}
        for name, origins in call.origins.items():
            kinds = (kind for _, seen in origins for kind in seen.kinds)
            if annotation_of(taken.get(name, Any)) is not Any and any(map(gives_stream, kinds)):
                yield name

    @cached_property
    def of_inputs(self) -> tuple[str, ...]:
        """The keys of the initial context under which a step reads a stream."""
        return tuple({read.key: None for reads in self.reads.values() for read in reads if 0 in read.slots})

    # ---- what is wrong

    def check(self, findings: Findings) -> None:
        """Note every step that reads a stream which somebody before it reads as well."""
        steps = self._built.steps
        seen: dict[tuple[int, str], list[int]] = {}
        for index, reads in self.reads.items():
            for read in reads:
                places = [(slot, read.key) for slot in read.slots]
                others = [other for place in places for other in seen.get(place, ()) if self._both_run(index, other)]
                who = f"step '{steps[others[0]].label}' reads it as well" if others else None
                if others and others[0] == index:
                    who = "it goes into two fields of this step"
                elif read.is_shared:
                    who = "every item of the map reads it"
                elif not others and self._is_output(read):
                    who = "it is an output of the flow, for its caller to read"
                if who is not None:
                    _conflict(steps[index], read.key, who, findings)
                for place in places:
                    seen.setdefault(place, []).append(index)

    def _both_run(self, one: int, other: int) -> bool:
        return not self._built.mutations.are_alternatives(one, other)

    def _is_output(self, read: Read) -> bool:
        outputs, visible = self._built.flow.outputs, self._built.visible
        if outputs is None or read.key not in outputs:
            return False
        return not set(visible.kept_in(read.key, len(self._built.steps)).slots).isdisjoint(read.slots)

    # ---- the plan

    def planned(self, step: Lowered) -> PlannedStreams | None:
        """What a step has to do with streams; None for one that has nothing to do with them."""
        if not are_streams_known():
            return None
        takes = tuple(dict.fromkeys(read.field for read in self.reads.get(step.index, ())))
        gives = [name for known in step.callees for name in _given_by(known.call or known)]
        return _planned(takes, tuple(dict.fromkeys(gives))) if takes or gives else None

    def of_flow(self) -> PlannedStreams | None:
        """The same for what is given to the flow."""
        schema = self._built.input.schema
        declared = () if schema is None else tuple(name for name, kind in schema.outputs.items() if gives_stream(kind))
        takes = tuple(dict.fromkeys((*self.of_inputs, *declared)))
        return _planned(takes, ()) if takes else None


def _given_by(known: KnownTool) -> Iterator[str]:
    return (name for name, kind in known.gives.outputs.items() if gives_stream(kind))


def stream_fields(known: KnownTool) -> tuple[str, ...]:
    """The fields of a tool that hold streams, on either side."""
    if not are_streams_known():
        return ()
    taken = (field.name for field in known.takes.fields if gives_stream(field.kind))
    return tuple(dict.fromkeys((*taken, *_given_by(known))))


def _conflict(step: Lowered, key: str, who: str, findings: Findings) -> None:
    fix = "a stream can be read once: collect its items in a list, or let one step do what both do"

    def make() -> StreamReadError:
        return StreamReadError(key, who, step_name=step.label, fix=fix)

    findings.error(step, "stream_read_twice", f"stream '{key}' cannot be read: {who}; {fix}", make, key)


def _planned(takes: tuple[str, ...], gives: tuple[str, ...]) -> PlannedStreams:
    # Only flows with streams need it.
    from chainweaver.objects import streams

    return PlannedStreams(takes, gives, streams.opened, streams.is_begun, streams.tie, _closing)


def _closing(open_streams: Sequence[Any]) -> PlannedTool:
    """What stands for a tool and closes streams: beside the tools, and on a loop where one has to be awaited."""
    from chainweaver.objects.streams import aclose_all, close_all, needs_await

    is_async = needs_await(open_streams)
    return replace(_CLOSING, fn=aclose_all if is_async else close_all, is_async=is_async)


def _nothing(values: Any) -> Any:
    return values


_CLOSING = PlannedTool(
    name="close", fn=_nothing, is_async=False, inline=False, lane=ASIDE, wants_context=False, timeout_s=None,
    max_output_size=None, cacheable=False, validate_input=_nothing, validate_output=_nothing, open_output=_nothing,
    foreign_fields=_nothing, direct_output=False, scalar_inputs=False, scalar_outputs=False, number_inputs=False,
    number_outputs=False, fingerprint=str, schema_hash=str, output_model=None, output_size=len, secret_outputs=(),
)  # fmt: skip
