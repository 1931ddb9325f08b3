"""Chunks: how a step takes a large input piece by piece, and what becomes of the pieces' outputs.

Data with validation. What can be cut, and how, is in `chainweaver.objects.chunks`; who cuts while a flow runs, in the
run core and the lanes.
"""

from __future__ import annotations

from pydantic import model_validator

from chainweaver.flow.fields import FrozenDefinition, PositiveCount, Text

__all__ = ["COMBINATIONS", "Chunk"]

COMBINATIONS = ("concat", "sum", "list")
"""The ways to combine outputs that need no tool."""


class Chunk(FrozenDefinition):
    """How a step takes one of its inputs in chunks: its tool is called once per chunk, one after the other.

    What can be cut: arrays, tables, record batches and their readers, frames, series and tensors along their rows,
    parquet files and paths of such files, bytes, lists, and whatever can be iterated.

    Attributes:
        input: The input field of the tool that gets one chunk per call; all others are the same for each.
        bytes: How many bytes a chunk has at most, as far as whole rows allow; either this or `rows`.
        rows: How many rows or items a chunk has at most.
        combine: What becomes of each output: `"concat"` puts the values one after the other, `"sum"` adds them with
            `+`, `"list"` keeps them in a list. Any other text names a tool that is called once, with a list for each
            output, and whose outputs are those of the step.

    >>> Chunk(input="data", bytes=64 << 20, combine="concat").tool_name is None
    True
    """

    input: Text
    bytes: PositiveCount | None = None
    rows: PositiveCount | None = None
    combine: Text = "list"

    @model_validator(mode="after")
    def _check_size(self) -> Chunk:
        if (self.bytes is None) == (self.rows is None):
            raise ValueError("a chunk needs exactly one of 'bytes' or 'rows'")
        return self

    @property
    def tool_name(self) -> str | None:
        """The tool that combines the outputs; None where none is needed."""
        return None if self.combine in COMBINATIONS else self.combine

    @property
    def words(self) -> str:
        """What is done, for people.

        >>> Chunk(input="data", rows=100, combine="sum").words
        'data in chunks of 100 rows, combined by sum'
        """
        return f"{self.input} in chunks of {self.size}, combined by {self.combine}"

    @property
    def size(self) -> str:
        """How large a chunk is, in words.

        >>> Chunk(input="data", bytes=64 << 20).size, Chunk(input="data", rows=1).size
        ('64 MiB', '1 row')
        """
        if self.rows is not None:
            return "1 row" if self.rows == 1 else f"{self.rows} rows"
        size = self.bytes or 0
        for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if size >= factor and size % factor == 0:
                return f"{size // factor} {unit}"
        return "1 byte" if size == 1 else f"{size} bytes"
