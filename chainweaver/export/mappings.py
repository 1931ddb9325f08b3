"""What the values of an input mapping read. Called by `inputs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from chainweaver.export.fields import LEFT_OUT
from chainweaver.flow.mapping import (
    DefaultSource,
    KeySource,
    MappingSyntaxError,
    PointerSource,
    TemplateSource,
    parse_source,
)


class Read(NamedTuple):
    """A context key that a mapping value reads.

    Attributes:
        whole: Its very value is passed on, not a part of it or a text made with it.
        required: There is no default.
        default: What holds when the key is missing, `LEFT_OUT` without a default.
    """

    key: str
    whole: bool
    required: bool = True
    default: Any = LEFT_OUT


def read_by(value: Any) -> Iterator[Read]:
    """What a mapping value reads. One that means nothing reads nothing: its step fails, whatever the input."""
    try:
        source = parse_source(value)
    except MappingSyntaxError:
        return
    if isinstance(source, DefaultSource):
        for read in read_by(source.source.key if isinstance(source.source, KeySource) else source.source.text):
            yield read._replace(required=False, default=source.default if read.whole else LEFT_OUT)
    elif isinstance(source, KeySource):
        yield Read(source.key, True)
    elif isinstance(source, PointerSource):
        yield Read(source.tokens[0], len(source.tokens) == 1)
    elif isinstance(source, TemplateSource):
        for part in source.parts:
            if not isinstance(part, str):
                yield Read(part.tokens[0], len(source.parts) == len(part.tokens) == 1)
