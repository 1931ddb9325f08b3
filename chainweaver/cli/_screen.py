"""The screen: lines, tables and messages for people, on a terminal or in a pipe.

On a terminal there is colour and text is fitted to its width; in a pipe every line is whole and nothing is coloured, so
that it can be searched. Text that comes from flows and tools is made harmless before it is shown. Decides nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chainweaver.cli._answer import Fault, plain
from chainweaver.formats.json_form import shown
from chainweaver.viz.drawing import printable

STYLES = {"ok": "green", "failed": "bold red", "skipped": "yellow", "cancelled": "yellow", "invalid": "bold red"}
_SPELLED = {"→": "->", "←": "<-", "·": "-", "…": "...", "✓": "ok"}
_LONGEST_VALUE = 200


class Screen:
    """Writes to stdout, and messages to stderr.

    Attributes:
        live: Whether lines on stdout can be drawn again, as a progress display needs.
    """

    def __init__(self) -> None:
        self.out = _console(sys.stdout)
        self.err = _console(sys.stderr)
        self.live = sys.stdout.isatty() and not self.out.is_dumb_terminal

    def line(self, *parts: str | tuple[str, str]) -> None:
        """One line, put together from texts and (text, style) pairs."""
        self.out.print(styled(*parts), soft_wrap=True)

    def verbatim(self, text: str) -> None:
        """Text of our own making, with its line breaks; arrows are spelled out where the terminal has none."""
        try:
            text.encode(self.out.encoding)
        except UnicodeEncodeError:
            for sign, spelled in _SPELLED.items():
                text = text.replace(sign, spelled)
        print(text, flush=True)

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        right: Sequence[str] = (),
        whole: Sequence[str] = (),
    ) -> None:
        """A titled table; columns in `right` are flush right, and neither they nor those in `whole` are folded."""
        cells = [[shown_value(cell) for cell in row] for row in rows]
        self.line()
        self.line((title, "bold"))
        if not sys.stdout.isatty():
            for line in _plain_table(columns, cells, right):
                self.line(line)
            return
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
        for name in columns:
            table.add_column(
                Text(printable(name)),
                justify="right" if name in right else "left",
                no_wrap=name in right or name in whole,
                overflow="fold",
            )
        for row in cells:
            table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
        self.out.print(table)

    def pairs(self, values: Mapping[str, Any]) -> None:
        """Names and values, one pair a line."""
        width = max((cell_len(printable(name)) for name in values), default=0)
        for name, value in values.items():
            label = printable(name)
            self.line((label, "dim"), " " * (width - cell_len(label) + 2), shown_value(value))

    def faults(self, faults: Iterable[Fault]) -> None:
        """The messages, on stderr."""
        for fault in faults:
            first, *more = fault.message.split("\n")
            head = styled(("chainweaver:", "bold red"), f" [{fault.code}] {printable(first)}")
            self.err.print(head, soft_wrap=True)
            for line in more:
                self.err.print(styled(printable(line)), soft_wrap=True)


def _console(stream: Any) -> Console:
    # Without a terminal there is no width to fit into, and a wrapped line would be two lines to grep.
    width = None if stream.isatty() else 100_000
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def styled(*parts: str | tuple[str, str]) -> Text:
    """A text from parts with and without a style."""
    text = Text()
    for part in parts:
        if isinstance(part, tuple):
            text.append(printable(part[0]), style=part[1])
        else:
            text.append(printable(part))
    return text


def shown_value(value: Any) -> str:
    """A value on one line and not too long.

    >>> shown_value("two" + chr(10) + "lines"), shown_value([1, 2]), shown_value(None)
    ('two\\\\nlines', '[1, 2]', 'None')
    """
    text = printable(value if isinstance(value, str) else shown(plain(value)))
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def shown_time(milliseconds: float) -> str:
    """A duration as a person says it.

    >>> shown_time(0.1234), shown_time(15.92), shown_time(5573.0), shown_time(65_000.0)
    ('0.12 ms', '15.9 ms', '5.57 s', '1 min 05 s')
    """
    if milliseconds < 1:
        return f"{milliseconds:.2f} ms"
    if milliseconds < 1_000:
        return f"{milliseconds:.1f} ms"
    if milliseconds < 59_995:
        return f"{milliseconds / 1_000:.2f} s"
    minutes, seconds = divmod(round(milliseconds / 1_000), 60)
    return f"{minutes} min {seconds:02} s"


def shown_size(nbytes: int | None) -> str:
    """A number of bytes as a person says it; what is not known is a question mark.

    >>> shown_size(512), shown_size(80_000_000), shown_size(None)
    ('512 B', '80.0 MB', '?')
    """
    if nbytes is None:
        return "?"
    size, units = float(nbytes), ["B", "kB", "MB", "GB"]
    while size >= 999.95 and len(units) > 1:
        size /= 1_000
        del units[0]
    return f"{nbytes} B" if units[0] == "B" else f"{size:.1f} {units[0]}"


def counted(number: int, thing: str) -> str:
    """A number with its noun.

    >>> counted(1, "step"), counted(0, "step")
    ('1 step', '0 steps')
    """
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> Iterable[str]:
    lines = [[printable(name) for name in columns], *rows]
    widths = [max(cell_len(line[column]) for line in lines) for column in range(len(columns))]
    for line in lines:
        cells = (
            f"{' ' * (width - cell_len(cell))}{cell}" if name in right else f"{cell}{' ' * (width - cell_len(cell))}"
            for name, cell, width in zip(columns, line, widths, strict=True)
        )
        yield "  ".join(cells).rstrip()
