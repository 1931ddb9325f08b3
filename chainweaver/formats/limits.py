"""How much a flow file may contain.

Only the numbers live here; `json_text`, `yaml_text` and `values` enforce them while they read, so that a hostile
file costs no more than these bounds. Callers pass an instance as `limits=` to the `flow_from_*` functions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

# An int of more digits than this may be refused by the interpreter itself (`sys.set_int_max_str_digits` can be set
# as low as 640), so the bound is the largest one that reads and writes alike on every interpreter.
MAX_NUMBER_LENGTH = 640


@dataclass(frozen=True)
class FlowParseLimits:
    """Bounds for one flow document. Every bound is inclusive: a file of exactly `max_bytes` bytes is read.

    Attributes:
        max_bytes: Size of the text, in bytes of its UTF-8 form.
        max_nodes: Number of values in the document, containers included, keys not.
        max_depth: Nesting of lists and mappings; a flat mapping has depth 1.
        max_string_length: Length of any one string or key, in characters.
        max_steps: Number of steps of one flow.

    >>> FlowParseLimits(max_steps=10).max_steps
    10
    """

    max_bytes: int = 5 * 1024 * 1024
    max_nodes: int = 100_000
    max_depth: int = 64
    max_string_length: int = 100_000
    max_steps: int = 1_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"'{field.name}' must be a whole number of at least 1, not {value!r}.")


DEFAULT_LIMITS = FlowParseLimits()
