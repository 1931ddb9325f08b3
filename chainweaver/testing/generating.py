"""Generating: the strategy for a flow's input, and inputs drawn from one.

A flow with an input schema is given what its schema accepts. One without is given what its steps read from their
initial context, as far as that can be told from mappings and tools; the rest is for the test to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Union

from pydantic import BaseModel

from chainweaver.compiler.lower import lower
from chainweaver.compiler.models import Catalogue
from chainweaver.flow import (
    AnyFlow,
    DefaultSource,
    FlowStep,
    KeySource,
    LiteralSource,
    PointerSource,
    TemplateRef,
    TemplateSource,
    parse_source,
)
from chainweaver.testing.strategies import Maker, accepts, need_hypothesis, strategy_for

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from chainweaver.registry import FlowRegistry
    from chainweaver.tools import Tool

TEMPLATE_VALUE = Union[str, int]  # noqa: UP007 - a value at run time
"""What a template may be filled with."""


class Read(NamedTuple):
    """A key that a flow reads from its input.

    Attributes:
        annotation: What the reader wants.
        is_required: The reader cannot do without.
    """

    key: str
    annotation: Any
    is_required: bool


def strategy_for_flow(
    flow: AnyFlow, tools: Mapping[str, Tool], registry: FlowRegistry, strategies: Mapping[Any, Any] | None = None
) -> SearchStrategy[dict[str, Any]]:
    """A strategy for the input of a flow.

    Raises:
        MissingExtraError: The extra `testing` is not installed.
        TypeError: What the flow reads cannot be told, or cannot be made.
    """
    need_hypothesis("Generating inputs")
    if flow.input_schema is not None:
        return strategy_for(flow.input_schema, strategies=strategies)
    maker = Maker(strategies)
    wanted: dict[str, list[Read]] = {}
    for read in reads_of(flow, tools, registry):
        wanted.setdefault(read.key, []).append(read)
    required = {key: value_for(maker, reads) for key, reads in wanted.items() if any(one.is_required for one in reads)}
    optional = {key: value_for(maker, reads) for key, reads in wanted.items() if key not in required}
    made: SearchStrategy[dict[str, Any]] = maker.st.fixed_dictionaries(required, optional=optional)
    return made


def value_for(maker: Maker, reads: list[Read]) -> Any:
    """Values that fit every reader of a key; made for the most demanding one that can be named."""
    chosen = next((read for read in reads if read.annotation is not TEMPLATE_VALUE), reads[0])
    made = maker.of(chosen.annotation)
    for read in reads:
        if read.annotation is not chosen.annotation:
            made = made.filter(accepts(read.annotation))
    return made


def drawn(strategy: SearchStrategy[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """So many inputs, always the same ones for a seed; fewer where there are no more."""
    found: list[dict[str, Any]] = []
    each_of(strategy, count, seed, found.append)
    return found[:count]


def each_of(
    strategy: SearchStrategy[dict[str, Any]], count: int, seed: int, look: Callable[[dict[str, Any]], object]
) -> None:
    """Have somebody look at so many inputs; always the same ones for a seed, and none kept for the next time.

    Raises:
        ValueError: No input could be made.
        Exception: The first thing that the one who looks raises; nothing is looked at after that.
    """
    hypothesis = need_hypothesis("Generating inputs")
    if not isinstance(strategy, hypothesis.strategies.SearchStrategy):
        raise TypeError(f"strategy has to be a strategy of hypothesis, not {strategy!r}.")
    settings = hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )

    raised: list[Exception] = []

    def examine(given: dict[str, Any]) -> None:
        # Nothing leaves this function: hypothesis would take it for a finding of its own, and try to shrink it.
        if not raised:
            try:
                look(given)
            except Exception as exc:
                raised.append(exc)

    try:
        hypothesis.seed(seed)(settings(hypothesis.given(strategy)(examine)))()
    except hypothesis.errors.Unsatisfiable as exc:
        raise ValueError(
            "No input could be made: the validators of the schema refuse everything; pass strategy=."
        ) from exc
    if raised:
        raise raised[0]


# ---- what a flow reads


def reads_of(flow: AnyFlow, tools: Mapping[str, Tool], registry: FlowRegistry) -> Iterator[Read]:
    """The keys that a flow takes from its input, once per reader.

    Raises:
        TypeError: A step reads in a way that says nothing about what is read.
    """
    written: set[str] = set(flow.dynamic_params)
    for _, steps in groupby(lower(flow, Catalogue(tools)), key=attrgetter("level")):
        level = [step.definition for step in steps]
        for step in level:
            for read in reads_of_step(step, tools, registry):
                if read.key not in written:
                    yield read
        for step in level:
            written |= written_by(step, tools, registry)


def reads_of_step(step: FlowStep, tools: Mapping[str, Tool], registry: FlowRegistry) -> Iterator[Read]:
    """The keys that a step looks up."""
    reads = list(reads_by_mapping(step, inputs_of(step, tools, registry)))
    if step.map_over is not None:
        item = next((read.annotation for read in reads if read.key == step.map_as), Any)
        reads = [read for read in reads if read.key != step.map_as]
        reads.append(Read(key_of(step, step.map_over), list[item], True))  # type: ignore[valid-type]  # computed
    yield from reads


def inputs_of(step: FlowStep, tools: Mapping[str, Tool], registry: FlowRegistry) -> dict[str, Read]:
    """What the tool or sub-flow of a step takes, by name."""
    if step.flow_name is not None:
        child = registry.resolve(step.flow_name, step.flow_version)
        if child.input_schema is not None:
            return fields_of(child.input_schema)
        reads = list(reads_of(child, tools, registry))
        required = {read.key for read in reads if read.is_required}
        return {read.key: read._replace(is_required=read.key in required) for read in reversed(reads)}
    tool = None if step.tool_name is None else tools.get(step.tool_name)
    return {} if tool is None else fields_of(tool.input_schema)


def fields_of(model: type[BaseModel]) -> dict[str, Read]:
    """The fields of a model as reads of keys of these names."""
    return {name: Read(name, annotated(field), field.is_required()) for name, field in model.model_fields.items()}


def annotated(field: Any) -> Any:
    """The annotation of a field with its constraints."""
    annotation = field.annotation
    for mark in field.metadata:
        annotation = Annotated[annotation, mark]
    return annotation


def reads_by_mapping(step: FlowStep, fields: Mapping[str, Read]) -> Iterator[Read]:
    """The keys behind the inputs of a step."""
    if not step.input_mapping:
        yield from fields.values()
        return
    for target, value in step.input_mapping.items():
        source = parse_source(value)
        field = fields.get(target, Read(target, Any, False))
        if isinstance(source, TemplateSource):
            for part in source.parts:
                if isinstance(part, TemplateRef):
                    yield Read(first_of(step, part.text, part.tokens), TEMPLATE_VALUE, True)
        elif isinstance(source, DefaultSource):
            yield field._replace(key=looked_up(step, source.source), is_required=False)
        elif not isinstance(source, LiteralSource):
            yield field._replace(key=looked_up(step, source), is_required=True)


def key_of(step: FlowStep, written: Any) -> str:
    """The context key that a key or pointer names."""
    source = parse_source(written)
    if not isinstance(source, (KeySource, PointerSource)):
        raise TypeError(unclear(step, str(written)))
    return looked_up(step, source)


def looked_up(step: FlowStep, source: KeySource | PointerSource) -> str:
    """The context key of a look-up."""
    return source.key if isinstance(source, KeySource) else first_of(step, source.text, source.tokens)


def first_of(step: FlowStep, text: str, tokens: tuple[str, ...]) -> str:
    """The key of a pointer or reference; one that goes deeper says too little about the value."""
    if len(tokens) != 1:
        raise TypeError(unclear(step, text))
    return tokens[0]


def unclear(step: FlowStep, text: str) -> str:
    """Why no input can be made."""
    return (
        f"Step '{step.display_name}' reads '{text}', which says too little about the flow's input; give the flow an "
        "input schema, or pass strategy=."
    )


def written_by(step: FlowStep, tools: Mapping[str, Tool], registry: FlowRegistry) -> set[str]:
    """The keys that a step writes, as far as it is known."""
    if step.output_mapping is not None:
        return set(step.output_mapping)
    if step.flow_name is not None:
        child = registry.resolve(step.flow_name, step.flow_version)
        if child.outputs is not None:
            return set(child.outputs)
        return {key for inner in child.steps for key in written_by(inner, tools, registry)}
    tool = None if step.tool_name is None else tools.get(step.tool_name)
    return set() if tool is None else {*tool.output_schema.model_fields, *tool.output_schema.model_computed_fields}
