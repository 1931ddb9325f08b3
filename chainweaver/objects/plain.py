"""Plain values as tagged JSON, and back: equal values of equal types.

Plain are None, bool, int, float, str, bytes, bytearray, list, tuple, dict, set, frozenset, deque, OrderedDict, dates
and times, Decimal, UUID, complex and paths; exact types only. JSON that means itself is written as it is; everything
else is an object with one key that begins with "$". Reading can build nothing but these types.

Called by the file stores. Objects with a declared type are made plain by `binding` first; a store that can keep more
than plain values says how, with `aside` and `fetch` (see `artifacts`).
"""

import json
from base64 import b64decode, b64encode
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from math import isfinite
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, NoReturn, TypeAlias
from uuid import UUID

from pydantic import SecretBytes, SecretStr
from pydantic_core import TzInfo

MAX_DEPTH = 100
"""Containers inside containers; deeper values, and values that contain themselves, are refused."""

MAX_CONTAINERS = 5_000_000
"""Containers in one document. A value that refers to one list from many places is written once for each of them."""

_JSON_INT = 2**63
_AS_IS = frozenset({str, bool, type(None)})  # types whose JSON is always right, lone surrogates aside
_OUT_OF_BAND = 64  # bytes; shorter ones are not worth a reference


class PlainEncodeError(ValueError):
    """A value is not plain, so that its bytes could not bring it back.

    Attributes:
        key: The key of the mapping under which the value was found.
        type_name: Name of the type that is not plain.
        reason: Why it is refused and what to do, without the final period.

    >>> print(PlainEncodeError("job", "Lock", "objects of this type have no plain form"))
    value 'job' of type 'Lock' cannot be stored: objects of this type have no plain form
    """

    def __init__(self, key: str, type_name: str, reason: str) -> None:
        super().__init__(key, type_name, reason)
        self.key = key
        self.type_name = type_name
        self.reason = reason

    def __str__(self) -> str:
        return f"value {self.key!r} of type {self.type_name!r} cannot be stored: {self.reason}"


class PlainDecodeError(ValueError):
    """Bytes are not what `encode_plain` writes."""


PutAside: TypeAlias = Callable[[Any], tuple[Any, ...] | None]
"""Takes a value that is not plain, or a byte string, and gives plain parts that stand for it; None: it is written here,
or refused. Raises `PlainEncodeError` with the reason why it cannot be kept at all."""

Fetch: TypeAlias = Callable[..., Any]
"""Takes the parts that `PutAside` gave, and gives the value. Raises `PlainDecodeError`."""


class Member:
    """A value of a union: the position of the member that it belongs to, and its plain content.

    Only shapes make them. A class of their own, so that no value of a user can be mistaken for one.

    >>> Member(1, {"x": 2})
    Member(1, {'x': 2})
    """

    __slots__ = ("content", "position")

    def __init__(self, position: int, content: Any) -> None:
        self.position = position
        self.content = content

    def __repr__(self) -> str:
        return f"Member({self.position!r}, {self.content!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Member):
            return NotImplemented
        return (self.position, self.content) == (other.position, other.content)

    def __hash__(self) -> int:
        return hash((self.position, self.content))


def encode_plain(values: Mapping[str, Any], blobs: list[bytes] | None = None, aside: PutAside | None = None) -> bytes:
    """Write a mapping of plain values as one line of UTF-8 JSON.

    Args:
        values: What to write. The mapping itself may have any plain keys.
        blobs: Where to put long byte strings, which JSON can only hold at 4/3 of their length. None: into the JSON.
        aside: Asked for what stands for objects and byte strings that lie elsewhere. None: there is no elsewhere.

    Raises:
        PlainEncodeError: A value is not plain, contains itself, or is nested more than `MAX_DEPTH` deep.

    >>> encode_plain({"pair": (1, 2.5), "name": "Ada"})
    b'{"pair":{"$t":[1,2.5]},"name":"Ada"}'
    """
    try:
        return _ENCODER.encode(_Packer(blobs, aside).pack_mapping(values)).encode()
    except UnicodeEncodeError:
        # Lone surrogates have no UTF-8 and are rare: only now is every string looked at.
        if blobs is not None:
            blobs.clear()
        packed = _Packer(blobs, aside, tag_surrogates=True).pack_mapping(values)
    try:
        return _ENCODER.encode(packed).encode()
    except UnicodeEncodeError:
        raise PlainEncodeError("tzinfo", "timezone", "its name is not text") from None


def decode_plain(data: bytes | str, blobs: bytes = b"", fetch: Fetch | None = None) -> dict[Any, Any]:
    """Read what `encode_plain` wrote: a dict equal to the written one, types included.

    Args:
        data: The JSON.
        blobs: The byte strings that were put aside, one after the other.
        fetch: Asked for what lies elsewhere.

    Raises:
        PlainDecodeError: The bytes are something else, or were damaged.

    >>> decode_plain('{"pair":{"$t":[1,2.5]},"name":"Ada"}')
    {'pair': (1, 2.5), 'name': 'Ada'}
    """
    unpacker = _Unpacker(blobs, fetch)
    try:
        text = data.decode() if isinstance(data, bytes) else data
        values = json.loads(text, object_hook=unpacker.unpack, parse_constant=_refuse_constant)
    except PlainDecodeError:
        raise
    except RecursionError:
        raise PlainDecodeError("nested too deeply") from None
    except Exception as exc:  # every reader of a tag raises its own kind for damaged content
        raise PlainDecodeError(f"{type(exc).__name__}: {exc}") from exc
    if type(values) is not dict:
        raise PlainDecodeError(f"a mapping was expected and a {type(values).__name__} found")
    return values


_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))


def _refuse_constant(name: str) -> NoReturn:
    raise PlainDecodeError(f"{name} is not JSON")


class _Packer:
    """Turns plain values into what the JSON encoder writes as it is. One per document."""

    __slots__ = ("_aside", "_blob_start", "_blobs", "_containers", "_depth", "_tag_surrogates")

    def __init__(self, blobs: list[bytes] | None, aside: PutAside | None, tag_surrogates: bool = False) -> None:
        self._aside = aside
        self._blobs = blobs
        self._blob_start = 0
        self._containers = 0
        self._depth = 0
        self._tag_surrogates = tag_surrogates

    def pack_mapping(self, values: Mapping[Any, Any]) -> Any:
        """Pack the outermost mapping, so that a refusal can name the key it happened under."""
        packed = []
        for key, value in values.items():
            try:
                packed.append((key, self.pack(value)))
            except _Refusal as refusal:
                raise PlainEncodeError(str(key), refusal.type_name, refusal.reason) from None
            except PlainEncodeError as refused:
                raise PlainEncodeError(str(key), refused.type_name, refused.reason) from None
            except RecursionError:
                raise PlainEncodeError(str(key), type(value).__qualname__, "it is nested too deeply") from None
            self._depth = 0
        return self._pairs(packed)

    def pack(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return self._str(value) if self._tag_surrogates else value
        if kind is bool or value is None:
            return value
        if kind is int:
            return value if -_JSON_INT <= value < _JSON_INT else {"$i": hex(value)}
        if kind is float:
            return value if isfinite(value) else {"$f": repr(value)}
        pack = _PACKERS.get(kind)
        if self._aside is not None and (pack is None or kind is bytes or kind is bytearray):
            stands_for_it = self._aside(value)
            if stands_for_it is not None:
                return {"$a": [self.pack(part) for part in stands_for_it]}
        if pack is None:
            raise _Refusal(kind, _why_not_plain(value))
        return pack(self, value)

    def pack_list(self, value: Iterable[Any]) -> list[Any]:
        """Pack the items of a container, which is one level deeper."""
        items = value if type(value) is list else list(value)
        self._enter(value)
        packed = items if self._is_json(items) else [self.pack(item) for item in items]
        self._depth -= 1
        return packed

    def pack_dict(self, value: Mapping[Any, Any]) -> Any:
        self._enter(value)
        if self._tag_surrogates or not all(type(key) is str and key[:1] != "$" for key in value):
            packed = self._pairs([(key, self.pack(item)) for key, item in value.items()])
        else:
            packed = {key: item if type(item) in _AS_IS else self.pack(item) for key, item in value.items()}
        self._depth -= 1
        return packed

    def pack_bytes(self, value: bytes) -> Any:
        if self._blobs is None or len(value) < _OUT_OF_BAND:
            return {"$b": b64encode(value).decode()}
        start = self._blob_start
        self._blobs.append(value)
        self._blob_start += len(value)
        return {"$o": [start, len(value)]}

    def _pairs(self, items: list[tuple[Any, Any]]) -> Any:
        if all(type(key) is str and key[:1] != "$" for key, _ in items) and not self._tag_surrogates:
            return dict(items)
        return {"$d": [[self.pack(key), packed] for key, packed in items]}

    def _is_json(self, items: list[Any]) -> bool:
        # A list of a million numbers is told by C code in 20 ms instead of 150.
        kinds = set(map(type, items))
        if len(kinds) != 1:
            return not kinds
        kind = kinds.pop()
        if kind is int:
            return bool(min(items) >= -_JSON_INT and max(items) < _JSON_INT)
        if kind is float:
            return all(map(isfinite, items))
        return kind is bool or (kind is str and not self._tag_surrogates)

    def _str(self, value: str) -> Any:
        try:
            value.encode()
        except UnicodeEncodeError:
            return {"$s": value.encode("utf-8", "surrogatepass").hex()}
        return value

    def _enter(self, value: Any) -> None:
        self._depth += 1
        self._containers += 1
        if self._depth > MAX_DEPTH:
            raise _Refusal(type(value), f"it contains itself or is nested more than {MAX_DEPTH} levels deep")
        if self._containers > MAX_CONTAINERS:
            raise _Refusal(type(value), f"it holds more than {MAX_CONTAINERS:,} containers")


class _Refusal(Exception):
    def __init__(self, kind: type, reason: str) -> None:
        self.type_name = kind.__qualname__
        self.reason = reason


def _why_not_plain(value: Any) -> str:
    if isinstance(value, (SecretStr, SecretBytes)):
        return "secrets are not written to a store without a cipher"
    if hasattr(type(value), "model_fields") or hasattr(type(value), "__dataclass_fields__"):
        return "its type would be lost; declare that type on the output field"
    plain = next((base.__name__ for base in type(value).__mro__[1:] if base in PLAIN_TYPES), None)
    if plain is not None:
        return f"it is a subclass of '{plain}' whose type would be lost; declare that type on the output field"
    return "objects of this type have no plain form"


def _zone(zone: tzinfo | None) -> list[Any] | None:
    """How a time zone is written: ["o", seconds, microseconds, name] a fixed offset, ["z", key] a named zone."""
    if zone is None:
        return None
    if type(zone) is timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]  # pickle's own view; typeshed omits it
        seconds = offset.days * 86_400 + offset.seconds
        return ["o", seconds, offset.microseconds, *name]
    if type(zone) is TzInfo:
        offset = zone.utcoffset(None)
        return ["p", offset.days * 86_400 + offset.seconds] if offset is not None else None
    key = getattr(zone, "key", None)
    if type(zone).__module__.startswith("zoneinfo") and type(zone).__name__ == "ZoneInfo" and isinstance(key, str):
        return ["z", key]
    raise _Refusal(type(zone), "time zones of this type have no plain form; use datetime.timezone or zoneinfo.ZoneInfo")


def _read_zone(parts: list[Any] | None) -> tzinfo | None:
    if parts is None:
        return None
    kind, *rest = parts
    if kind == "o":
        seconds, microseconds, *name = rest
        return timezone(timedelta(seconds=seconds, microseconds=microseconds), *name)
    if kind == "p":
        return TzInfo(rest[0])
    if kind == "z":
        from zoneinfo import ZoneInfo  # only where a value names a zone

        return ZoneInfo(rest[0])
    raise PlainDecodeError(f"unknown kind of time zone {kind!r}")


def _pack_clock(tag: str, value: datetime | time) -> Any:
    text = value.replace(tzinfo=None).isoformat()
    if value.tzinfo is None and not value.fold:
        return {tag: text}
    return {tag: [text, value.fold, _zone(value.tzinfo)]}


def _read_clock(kind: Any, body: Any) -> Any:
    if isinstance(body, str):
        return kind.fromisoformat(body)
    text, fold, zone = body
    return kind.fromisoformat(text).replace(tzinfo=_read_zone(zone), fold=fold)


def _read_offset(body: Any) -> timedelta:
    days, seconds, microseconds = body
    return timedelta(days, seconds, microseconds)


def _pack_complex(packer: _Packer, value: complex) -> Any:
    return {"$c": [packer.pack(value.real), packer.pack(value.imag)]}


def _pack_path(packer: _Packer, value: PurePath) -> Any:
    return {"$p": [type(value).__name__, packer.pack(str(value))]}


_PACKERS: dict[type, Callable[[_Packer, Any], Any]] = {
    list: _Packer.pack_list,
    dict: _Packer.pack_dict,
    bytes: _Packer.pack_bytes,
    tuple: lambda packer, value: {"$t": packer.pack_list(value)},
    set: lambda packer, value: {"$S": packer.pack_list(value)},
    frozenset: lambda packer, value: {"$F": packer.pack_list(value)},
    deque: lambda packer, value: {"$q": [packer.pack_list(value), value.maxlen]},
    OrderedDict: lambda packer, value: {"$O": [[packer.pack(key), item] for key, item in _packed_items(packer, value)]},
    bytearray: lambda packer, value: {"$B": packer.pack_bytes(bytes(value))},
    datetime: lambda packer, value: _pack_clock("$D", value),
    time: lambda packer, value: _pack_clock("$T", value),
    date: lambda packer, value: {"$Y": value.isoformat()},
    timedelta: lambda packer, value: {"$L": [value.days, value.seconds, value.microseconds]},
    Decimal: lambda packer, value: {"$n": str(value)},
    UUID: lambda packer, value: {"$u": value.hex},
    complex: _pack_complex,
    PosixPath: _pack_path,
    WindowsPath: _pack_path,
    PurePosixPath: _pack_path,
    PureWindowsPath: _pack_path,
    Member: lambda packer, value: {"$m": [value.position, *packer.pack_list([value.content])]},
}
PLAIN_TYPES: frozenset[type] = frozenset(_PACKERS) - {Member} | {type(None), bool, int, float, str}
"""The exact types of plain values."""


def _packed_items(packer: _Packer, value: Mapping[Any, Any]) -> Iterable[tuple[Any, Any]]:
    return zip(value, packer.pack_list(value.values()), strict=True)


def _byte_string(body: Any) -> bytes:
    """A byte string; a number in its place would be taken for a length, and memory for it."""
    if type(body) is not bytes:
        raise PlainDecodeError(f"a byte string was expected and a {type(body).__name__} found")
    return body


_PATHS = {kind.__name__: kind for kind in (PosixPath, WindowsPath, PurePosixPath, PureWindowsPath)}

_READERS: dict[str, Callable[[Any], Any]] = {
    "$i": lambda body: int(body, 16),
    "$f": float,
    "$s": lambda body: bytes.fromhex(body).decode("utf-8", "surrogatepass"),
    "$b": lambda body: b64decode(body, validate=True),
    "$t": tuple,
    "$S": set,
    "$F": frozenset,
    "$d": dict,
    "$q": lambda body: deque(*body),
    "$O": OrderedDict,
    "$B": lambda body: bytearray(_byte_string(body)),
    "$D": lambda body: _read_clock(datetime, body),
    "$T": lambda body: _read_clock(time, body),
    "$Y": date.fromisoformat,
    "$L": _read_offset,
    "$n": Decimal,
    "$u": lambda body: UUID(hex=body),
    "$c": lambda body: complex(*body),
    "$p": lambda body: _PATHS[body[0]](body[1]),
    "$m": lambda body: Member(*body),
}


class _Unpacker:
    """Reads the tags of one document, innermost first."""

    __slots__ = ("_blobs", "_fetch")

    def __init__(self, blobs: bytes, fetch: Fetch | None) -> None:
        self._blobs = blobs
        self._fetch = fetch

    def unpack(self, body: dict[str, Any]) -> Any:
        tag = next(iter(body), "")
        if tag[:1] != "$":
            return body
        if len(body) != 1:
            raise PlainDecodeError(f"tag {tag!r} stands beside other keys")
        if tag == "$o":
            return self._blob(*body[tag])
        if tag == "$a" and self._fetch is not None:
            return self._fetch(*body[tag])
        read = _READERS.get(tag)
        if read is None:
            raise PlainDecodeError(f"unknown tag {tag!r}")
        return read(body[tag])

    def _blob(self, start: int, length: int) -> bytes:
        blob = self._blobs[start : start + length]
        if start < 0 or len(blob) != length:
            raise PlainDecodeError(f"a byte string of {length} bytes is missing")
        return blob
