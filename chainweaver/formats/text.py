"""From what the caller hands in, bytes or text, to text that is worth parsing.

Size, encoding, byte order mark, NUL and lone surrogates are decided here, once for both formats. Called by
`reading` before either parser sees the text.
"""

from __future__ import annotations

import re

from chainweaver.formats.complaints import refusal
from chainweaver.formats.document import Lines
from chainweaver.formats.limits import FlowParseLimits

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_UNFIT = re.compile("[\x00\ud800-\udfff]")
_BOMS = (b"\xff\xfe", b"\xfe\xff")


def checked_text(data: str | bytes, *, source: str | None, limits: FlowParseLimits) -> str:
    """The text of `data`, decoded and free of what no parser should see.

    Raises:
        FlowSerializationError: Too large, not UTF-8, with a byte order mark, a NUL or a lone surrogate.
    """
    if not isinstance(data, (str, bytes)):
        raise refusal(f"expected text or bytes, not {type(data).__name__}", source=source)
    if len(data) > limits.max_bytes:
        raise _too_large(limits, source)
    if isinstance(data, bytes):
        data = _decoded(data, source)
    elif not data.isascii() and len(data.encode("utf-8", "surrogatepass")) > limits.max_bytes:
        raise _too_large(limits, source)
    if data.startswith("\ufeff"):
        raise refusal(
            "the text begins with a byte order mark",
            source=source,
            position=Lines(data).position(0),
            fix="save the file as UTF-8 without BOM",
        )
    found = _UNFIT.search(data)
    if found:
        name = "a NUL character" if found.group() == "\x00" else "half of a surrogate pair"
        raise refusal(f"the text holds {name}", source=source, position=Lines(data).position(found.start()))
    return data


def _decoded(data: bytes, source: str | None) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        kind = "UTF-16 with a byte order mark" if data.startswith(_BOMS) else "not UTF-8"
        readable = data[: exc.start].decode("utf-8")
        position = Lines(readable).position(len(readable))
        raise refusal(
            f"the text is {kind}", source=source, position=position, fix="save the file as UTF-8 without BOM"
        ) from exc


def _too_large(limits: FlowParseLimits, source: str | None) -> Exception:
    return refusal(
        f"the document is larger than {limits.max_bytes} bytes",
        source=source,
        fix="keep data out of flow files, or pass larger limits=FlowParseLimits(max_bytes=...)",
    )
