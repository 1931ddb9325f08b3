"""How a flow document that cannot be read or written is described.

One place words every `FlowSerializationError` of this room: where the fault is, what it is, what would have been
right. Every module of `formats` raises through here; nothing here reads or decides anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chainweaver.exceptions import FlowSerializationError
from chainweaver.formats.document import Position


class FlowFormatWarning(UserWarning):
    """A flow document says something that lenient reading passes over, such as an unknown key."""


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong with a document.

    Attributes:
        what: One clause, without a full stop.
        pointer: RFC 6901 pointer of the offending value; None where the text could not be read that far.
        position: Line and column, where the document came from a text.
        known: The names that would have been right.
        fix: What to do, without a full stop.
    """

    what: str
    pointer: str | None = None
    position: Position | None = None
    known: Sequence[str] = ()
    fix: str | None = None

    def sentence(self) -> str:
        """The fault with its place in the document: "/steps/2/tool_nam: unknown key 'tool_nam'."."""
        if self.pointer is None:
            place = f"{self.position}: " if self.position else ""
        else:
            place = f"{_shortened(self.pointer)}: " if self.pointer else "at the top level: "
        return f"{place}{self.what}."

    def where(self, source: str | None) -> str | None:
        """The place in the file, as editors and terminals understand it: "invoice.flow.yaml:14"."""
        if self.position is None:
            return source
        return f"{source}:{self.position.line}" if source else str(self.position)

    def paragraph(self, source: str | None) -> str:
        """Everything, as one entry of a list of complaints."""
        where = f" ({self.where(source)})" if self.position else ""
        fix = f"\n  {'fix':<8}{self.fix}" if self.fix else ""
        return f"{self.sentence()[:-1]}{where}.{fix}"


def _shortened(pointer: str) -> str:
    if len(pointer) > 200:
        pointer = f"{pointer[:200]}..."
    return pointer if pointer.isprintable() else ascii(pointer)[1:-1]


def serialization_error(
    complaints: Sequence[Complaint], *, source: str | None, unworded: int = 0
) -> FlowSerializationError:
    """The error that carries all complaints, in the order given.

    Args:
        complaints: At least one.
        source: What to call the document.
        unworded: How many more there are.
    """
    if len(complaints) == 1:
        [only] = complaints
        facts = {"where": only.where(source), "known": only.known or None, "fix": only.fix}
        return FlowSerializationError(only.sentence(), source=source, **facts)  # type: ignore[arg-type]  # plain facts
    shown = [complaint.paragraph(source) for complaint in complaints]
    if unworded:
        shown.append(f"... and {unworded} more.")
    return FlowSerializationError("\n".join([f"{len(complaints) + unworded} problems.", *shown]), source=source)


def refusal(
    what: str,
    *,
    source: str | None,
    pointer: str | None = None,
    position: Position | None = None,
    fix: str | None = None,
) -> FlowSerializationError:
    """The error for one complaint; see `Complaint` for the arguments."""
    return serialization_error([Complaint(what, pointer, position, (), fix)], source=source)


def quoted(text: object, limit: int = 60) -> str:
    """A value as it may appear in a message: escaped, text in quotes, of bounded length.

    Bidirectional marks and lone surrogates are escaped as well, so that the message prints anywhere.

    >>> quoted("a" * 100, limit=5)
    "'aaaaa...'"
    >>> quoted([1, 2]), quoted(None)
    ('a list', 'null')
    """
    if isinstance(text, str):
        cut = text[:limit] + ("..." if len(text) > limit else "")
        return repr(cut) if cut.isprintable() else ascii(cut)
    if isinstance(text, (dict, list)):
        return "a mapping" if isinstance(text, dict) else "a list"
    return "null" if text is None else repr(text)[:limit]
