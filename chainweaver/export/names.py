"""Names as others take them: of tools at the model vendors, of functions and parameters in Python.

One rule for all tool names, so that what is exported to several vendors has one name everywhere. Called by the other
files of this room.
"""

from __future__ import annotations

import hashlib
import keyword
import re
import unicodedata
from collections.abc import Iterable

from chainweaver.exceptions import ExportError

LONGEST = 64
ALLOWED = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_OTHERS = re.compile(r"[^a-zA-Z0-9_-]+")
_DIGITS = 8


def exported_name(name: str) -> str:
    """The name under which a flow or a tool is exported: at most 64 of `a-z A-Z 0-9 _ -`, as OpenAI and Anthropic ask.

    A name that obeys the rule stays as it is. Otherwise letters lose their accents, every run of other characters
    becomes one `_` (none at either end), and what is longer is cut and ends with 8 hexadecimal digits made from the
    whole name, so that long names with a common beginning stay apart.

    Raises:
        ExportError: No letter and no digit is left.

    >>> exported_name("Überweisung: Prüfen & buchen")
    'Uberweisung_Prufen_buchen'
    >>> exported_name("quarterly report " * 10)
    'quarterly_report_quarterly_report_quarterly_report_quar_63ff15cf'
    """
    if ALLOWED.fullmatch(name):
        return name
    plain = "".join(one for one in unicodedata.normalize("NFKD", name) if not unicodedata.combining(one))
    found = _OTHERS.sub("_", plain).strip("_")
    if not found.strip("_-"):
        raise ExportError(
            f"name '{name}'",
            "the name of a tool",
            "none of its letters is one of a-z, A-Z, 0-9",
            fix="pass name=, or choose another name",
        )
    if len(found) > LONGEST:
        digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:_DIGITS]
        found = f"{found[: LONGEST - _DIGITS - 1].rstrip('_')}_{digest}"
    return found


def refuse_clashes(subjects: Iterable[tuple[str, str]]) -> None:
    """Check that no two things are exported under one name.

    Args:
        subjects: What is exported, such as "flow 'invoice'", and the name that it gets.

    Raises:
        ExportError: Two get the same one. All names that are taken twice are told.
    """
    taken: dict[str, list[str]] = {}
    for subject, name in subjects:
        taken.setdefault(name, []).append(subject)
    twice = [f"{' and '.join(claimants)} would both be '{name}'" for name, claimants in taken.items() if claimants[1:]]
    if twice:
        raise ExportError(
            next(claimants[0] for claimants in taken.values() if claimants[1:]),
            "a tool among these",
            "; ".join(twice),
            fix="rename one, or export it by itself with name=",
        )


def python_name(text: str) -> str:
    """A Python identifier for a text, the text itself where it is one.

    >>> python_name("order id"), python_name("from"), python_name("2nd-try")
    ('order_id', 'from_', '_2nd_try')
    """
    found = text if text.isidentifier() else re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or "value"
    found = found if found.isidentifier() else f"_{found}"
    return f"{found}_" if keyword.iskeyword(found) else found
