"""Canonical bytes: one value, one encoding; two different values, two encodings.

Cache keys and digests are made of these bytes. Every value carries its type, lengths come before contents, and
nothing depends on the hash seed, on the insertion order of dicts and sets, or on `repr`. Values are never kept:
what goes in, secrets included, leaves only as part of a digest.

Never here: guessing. A value whose content cannot be read completely is `Unfingerprintable`, and whoever asked
counts that as a cache miss. Called by the compiler (once per input model) and by the caches.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import inspect
import ipaddress
import itertools
import marshal
import os
import pathlib
import re
import sys
import uuid
import weakref
import zoneinfo
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any

from pydantic import AnyUrl, BaseModel, SecretBytes, SecretStr
from pydantic.types import Secret
from pydantic_core import MultiHostUrl, TzInfo, Url

__all__ = ["MAX_DEPTH", "MAX_ITEMS", "Unfingerprintable", "bind_fingerprint", "digest", "encode"]

MAX_DEPTH = 100
"""Containers inside containers beyond this depth are not fingerprinted."""

MAX_ITEMS = 10_000_000
"""Items visited beyond this count are not fingerprinted: lists that share their parts may unfold without end."""

DIGEST_BYTES = 16

# Exact types that one call of `marshal.dumps` writes completely and unambiguously. Format 2 has neither references
# nor interning, so equal values give equal bytes; it can be read back, so unequal values give unequal bytes. `ascii`
# instead of marshal costs 2.5 x for long texts. Floats need a look first: NaN comes in many bit patterns.
_PLAIN = frozenset({int, str, bytes, bool, type(None)})
_SCALAR = _PLAIN | {float}
_TEXT = frozenset({str})
_MARSHAL_FORMAT = 2
_NAN = float("nan")

Encoder = Callable[[Any, "_Walk"], bytes]


class Unfingerprintable(Exception):
    """A value has no canonical encoding.

    No member of the family of public errors: callers turn it into a cache miss and note the reason, no user ever
    catches it. The text names types, never contents.

    Attributes:
        reason: Why, as a phrase, for instance "a value of type 'socket.socket' has no canonical encoding".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def encode(value: Any) -> bytes:
    """The canonical bytes of a value.

    `x != y` implies `encode(x) != encode(y)`; so do a different type (`True`, `1`, `1.0`, `"1"`), the sign of zero,
    the exponent of a `Decimal`, the zone and fold of a time. Dicts and sets are encoded without regard to their order,
    every NaN is the same NaN. Models are read field by field, with excluded fields, extras, private attributes and
    the contents of secrets. Arrays, frames, tables and tensors stand as digests of their content.

    Raises:
        Unfingerprintable: The value, or something inside it, is not data (functions, classes, open resources, objects
            of unknown classes), contains itself, or is nested or repeated beyond `MAX_DEPTH` and `MAX_ITEMS`.

    >>> encode({"b": 1, "a": 2}) == encode({"a": 2, "b": 1})
    True
    >>> encode(1) == encode(True)
    False
    """
    try:
        return _Walk().encode(value)
    except Unfingerprintable:
        raise
    except RecursionError:
        raise Unfingerprintable("the value is nested too deeply for the stack that is left") from None
    except Exception as exc:
        # A container that another thread changes meanwhile, a text over 2 GiB, a property of the user's that fails:
        # whatever it is, the run must not fail for the sake of a cache key.
        raise Unfingerprintable(f"reading the value failed with {type(exc).__name__}") from exc


def digest(value: Any) -> str:
    """Hex digest (32 characters) of the canonical bytes of a value.

    Raises:
        Unfingerprintable: As for `encode`.

    >>> digest([1, 2]) == digest((1, 2))
    False
    """
    hasher = new_hasher(b"cw-value")
    hasher.update(encode(value))
    return str(hasher.hexdigest())


def bind_fingerprint(model: type[BaseModel]) -> Callable[[BaseModel], str]:
    """Compile the function that fingerprints validated inputs of one model.

    The function maps an instance to a hex digest of 32 characters. It is made for the hot path: a model of integers
    and texts costs one call of the hash function. The digest tells the inputs of one model apart and carries the
    model's name; the identity of the tool belongs into the cache key beside it.

    Whether a field was given or defaulted makes no difference: instances that compare equal share a digest.

    Raises (the returned function):
        Unfingerprintable: As for `encode`.

    >>> class Point(BaseModel):
    ...     x: int
    ...     y: int
    >>> fingerprint = bind_fingerprint(Point)
    >>> fingerprint(Point(x=1, y=2)) == fingerprint(Point(y=2, x="1"))
    True
    >>> fingerprint(Point(x=1, y=2)) == fingerprint(Point(x=2, y=1))
    False
    """
    names = tuple(model.model_fields)
    head = _framed(b"M", encode((model.__module__, model.__qualname__, names)))
    # Three ways to read an instance, each with a domain of its own, so that no two of them can meet in one digest.
    new_plain, new_nested, new_other = (_seeded(person, head) for person in (b"cw-plain", b"cw-nested", b"cw-other"))

    def fingerprint_other(instance: BaseModel) -> str:
        hasher = new_other()
        if type(instance) is model:
            hasher.update(encode(_ModelState(instance)))
        else:
            hasher.update(encode(instance))
        return str(hasher.hexdigest())

    if not names or _has_more_than_fields(model):
        return fingerprint_other
    pick = _picker(names)
    is_plain, is_scalar, dumps = _PLAIN.issuperset, _SCALAR.issuperset, marshal.dumps

    def fingerprint(instance: BaseModel) -> str:
        if type(instance) is not model:
            return fingerprint_other(instance)
        try:
            values = pick(instance.__dict__)
        except KeyError:
            return fingerprint_other(instance)
        if not is_plain(map(type, values)):
            if not is_scalar(map(type, values)):
                hasher = new_nested()
                hasher.update(encode(values))
                return str(hasher.hexdigest())
            values = tuple(_one_nan(values))
        hasher = new_plain()
        hasher.update(dumps(values, _MARSHAL_FORMAT))
        digest: str = hasher.hexdigest()
        return digest

    return fingerprint


def _picker(names: tuple[str, ...]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    if len(names) == 1:
        [name] = names
        return lambda fields: (fields[name],)
    return itemgetter(*names)


def _has_more_than_fields(model: type[BaseModel]) -> bool:
    return model.model_config.get("extra") == "allow" or bool(model.__private_attributes__)


def new_hasher(person: bytes, digest_size: int = DIGEST_BYTES) -> Any:
    """A hash function for one purpose, so that digests of two purposes never meet."""
    # Opening OpenSSL costs 3-9 ms of import time, and most programs never ask for a key.
    from hashlib import blake2b

    return blake2b(digest_size=digest_size, person=person)


def _seeded(person: bytes, head: bytes) -> Callable[[], Any]:
    """A function that gives a fresh hasher which has read `head` already: copying is cheaper than starting over."""
    hasher = new_hasher(person)
    hasher.update(head)
    copy: Callable[[], Any] = hasher.copy
    return copy


class _ModelState:
    """Marks a model instance whose class is known to the reader, so that only its contents are encoded."""

    __slots__ = ("instance",)

    def __init__(self, instance: BaseModel) -> None:
        self.instance = instance


class _Walk:
    """One encoding under way: where it stands, and how much it may still visit."""

    __slots__ = ("_on_path", "_visits_left")

    def __init__(self) -> None:
        self._on_path: set[int] = set()
        self._visits_left = MAX_ITEMS

    def encode(self, value: Any) -> bytes:
        kind = type(value)
        if kind in _PLAIN:
            return marshal.dumps(value, _MARSHAL_FORMAT)
        leaf = _LEAVES.get(kind)
        if leaf is not None:
            return leaf(value)
        encoder = _CONTAINERS.get(kind) or _encoder_by_family(value)
        return encoder(value, self)

    def inside(self, owner: Any, values: Iterable[Any]) -> list[bytes]:
        """The encodings of the values that `owner` contains, in their order."""
        self._enter(owner)
        encoded = [self.encode(value) for value in values]
        self._on_path.discard(id(owner))
        return encoded

    def spend(self, visits: int) -> None:
        """Account for items about to be visited."""
        self._visits_left -= visits
        if self._visits_left < 0:
            raise Unfingerprintable(f"the value unfolds into more than {MAX_ITEMS} items")

    def _enter(self, value: Any) -> None:
        if id(value) in self._on_path:
            raise Unfingerprintable(f"a value of type {_shown(type(value))} contains itself")
        if len(self._on_path) >= MAX_DEPTH:
            raise Unfingerprintable(f"the value is nested more than {MAX_DEPTH} levels deep")
        self._on_path.add(id(value))
        self.spend(1)


# -- frames: every encoding either is marshal's (which tells its own end) or a tag, a length and that many bytes --


def _framed(tag: bytes, payload: bytes) -> bytes:
    # Tags lie above 0x7f: marshal's type codes are ASCII, so the first byte tells the two forms apart.
    return b"\xff%b%d:%b" % (tag, len(payload), payload)


def _tagged(tag: bytes, *facts: Any) -> bytes:
    """A frame around plain facts (integers, texts, None), for values that a few of them describe completely."""
    return _framed(tag, marshal.dumps(facts, _MARSHAL_FORMAT))


def _one_nan(values: Iterable[Any]) -> list[Any]:
    return [value if value == value else _NAN for value in values]


def _scalars(values: list[Any]) -> bytes:
    """All of a list of exact scalars in one go."""
    return marshal.dumps(values if _PLAIN.issuperset(map(type, values)) else _one_nan(values), _MARSHAL_FORMAT)


def _sequence(tag: bytes) -> Encoder:
    def encode_sequence(values: Any, walk: _Walk) -> bytes:
        walk.spend(len(values))
        if _SCALAR.issuperset(map(type, values)):
            return _framed(tag + b"p", _scalars(list(values)))
        return _framed(tag, b"".join(walk.inside(values, values)))

    return encode_sequence


def _unordered(tag: bytes) -> Encoder:
    def encode_set(values: Any, walk: _Walk) -> bytes:
        walk.spend(len(values))
        if _TEXT.issuperset(map(type, values)):
            return _framed(tag + b"p", marshal.dumps(sorted(values), _MARSHAL_FORMAT))
        return _framed(tag, b"".join(sorted(walk.inside(values, values))))

    return encode_set


def _encode_dict(mapping: Any, walk: _Walk) -> bytes:
    walk.spend(len(mapping))
    if _TEXT.issuperset(map(type, mapping)):
        names = sorted(mapping)
        values = [mapping[name] for name in names]
        if _SCALAR.issuperset(map(type, values)):
            return _framed(b"dp", marshal.dumps(names, _MARSHAL_FORMAT) + _scalars(values))
        return _framed(b"ds", marshal.dumps(names, _MARSHAL_FORMAT) + b"".join(walk.inside(mapping, values)))
    return _framed(b"d", b"".join(sorted(_pairs(mapping, walk))))


def _encode_ordered_dict(mapping: Any, walk: _Walk) -> bytes:
    walk.spend(len(mapping))
    return _framed(b"do", b"".join(_pairs(mapping, walk)))


def _pairs(mapping: Any, walk: _Walk) -> list[bytes]:
    keys, values = (walk.inside(mapping, part) for part in (mapping.keys(), mapping.values()))
    return [key + value for key, value in zip(keys, values, strict=True)]


def _encode_default_dict(mapping: Any, walk: _Walk) -> bytes:
    factory = mapping.default_factory
    if not (factory is None or isinstance(factory, type)):
        raise Unfingerprintable("a defaultdict has a default_factory that is not a class")
    name = b"N" if factory is None else _class_name(factory)
    return _framed(b"dd", name + _encode_dict(mapping, walk))


def _encode_deque(values: Any, walk: _Walk) -> bytes:
    return _framed(b"q", b"".join(walk.inside(values, (values.maxlen, tuple(values)))))


# -- values that contain nothing of the user's --


def _encode_float(value: float) -> bytes:
    return marshal.dumps(value if value == value else _NAN, _MARSHAL_FORMAT)


def _encode_complex(value: complex) -> bytes:
    return _framed(b"c", _encode_float(value.real) + _encode_float(value.imag))


def _encode_zone(zone: datetime.tzinfo | None) -> bytes:
    if zone is None:
        return b"N"
    if type(zone) is datetime.timezone:
        return _framed(b"zt", _encode_timedelta(zone.utcoffset(None)) + _tagged(b"w", zone.tzname(None)))
    if type(zone) is TzInfo:
        return _framed(b"zp", _encode_timedelta(zone.utcoffset(None) or datetime.timedelta(0)))
    if type(zone) is zoneinfo.ZoneInfo and zone.key is not None:
        return _tagged(b"zi", zone.key)
    raise Unfingerprintable(f"a time zone of type {_shown(type(zone))} has no canonical encoding")


def _encode_datetime(value: datetime.datetime) -> bytes:
    when = _tagged(b"w", value.replace(tzinfo=None).isoformat(), value.fold)
    return _framed(b"D", when + _encode_zone(value.tzinfo))


def _encode_time(value: datetime.time) -> bytes:
    when = _tagged(b"w", value.replace(tzinfo=None).isoformat(), value.fold)
    return _framed(b"T", when + _encode_zone(value.tzinfo))


def _encode_timedelta(value: datetime.timedelta) -> bytes:
    return _tagged(b"t", value.days, value.seconds, value.microseconds)


def _encode_decimal(value: decimal.Decimal) -> bytes:
    # `str(value)` would depend on the decimal context of the thread.
    sign, digits, exponent = value.as_tuple()
    return _tagged(b"e", sign, bytes(digits), exponent)


def _encode_slice(value: slice) -> bytes:
    bounds = (value.start, value.stop, value.step)
    if not _PLAIN.issuperset(map(type, bounds)):
        raise Unfingerprintable("a slice has bounds that are not plain values")
    return _tagged(b"h", *bounds)


def _encode_pattern(value: re.Pattern[Any]) -> bytes:
    return _tagged(b"r", value.pattern, int(value.flags))


def _text_of(tag: str) -> Callable[[Any], bytes]:
    return lambda value: _tagged(b"x", tag, str(value))


_PATHS: tuple[type[pathlib.PurePath], ...] = (
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
    pathlib.PosixPath,
    pathlib.WindowsPath,
)
_ADDRESSES: tuple[type, ...] = (
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
)

_LEAVES: dict[type, Callable[[Any], bytes]] = {
    float: _encode_float,
    complex: _encode_complex,
    bytearray: lambda value: _framed(b"b", bytes(value)),
    datetime.datetime: _encode_datetime,
    datetime.date: lambda value: _tagged(b"y", value.toordinal()),
    datetime.time: _encode_time,
    datetime.timedelta: _encode_timedelta,
    decimal.Decimal: _encode_decimal,
    fractions.Fraction: lambda value: _tagged(b"f", value.numerator, value.denominator),
    uuid.UUID: lambda value: _tagged(b"u", value.bytes),
    range: lambda value: _tagged(b"g", value.start, value.stop, value.step),
    slice: _encode_slice,
    re.Pattern: _encode_pattern,
    Url: _text_of("Url"),
    MultiHostUrl: _text_of("MultiHostUrl"),
    **{kind: _text_of(kind.__name__) for kind in (*_PATHS, *_ADDRESSES)},
}


# -- values of the user's classes --


def _encode_model_contents(instance: BaseModel, walk: _Walk) -> bytes:
    fields = instance.__dict__
    known = {name: fields[name] for name in type(instance).model_fields if name in fields}
    more = (instance.__pydantic_extra__ or None, instance.__pydantic_private__ or None)
    return b"".join(walk.inside(instance, (known, *more)))


def _encode_model(instance: BaseModel, walk: _Walk) -> bytes:
    return _framed(b"m", _class_name(type(instance)) + _encode_model_contents(instance, walk))


def _encode_model_state(state: _ModelState, walk: _Walk) -> bytes:
    return _framed(b"ms", _encode_model_contents(state.instance, walk))


def _encode_dataclass(instance: Any, walk: _Walk) -> bytes:
    state = {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}
    state.update(_attributes(instance))
    base = _builtin_base(type(instance))
    inherited = None if base is None else _INHERITED[base](instance)
    return _framed(b"a", _class_name(type(instance)) + b"".join(walk.inside(instance, (state, inherited))))


def _encode_member(member: enum.Enum, walk: _Walk) -> bytes:
    # The name alone tells members apart; the value is added where it is plain, so that a changed program is noticed.
    value = member._value_
    plain = value if type(value) in _PLAIN else None
    return _framed(b"n", _class_name(type(member)) + marshal.dumps((member._name_, plain), _MARSHAL_FORMAT))


def _encode_secret(secret: Any, walk: _Walk) -> bytes:
    [content] = walk.inside(secret, (secret.get_secret_value(),))
    return _framed(b"s", _class_name(type(secret)) + content)


def _encode_url(url: Any, walk: _Walk) -> bytes:
    return _framed(b"l", _class_name(type(url)) + walk.encode(str(url)))


def _encode_builtin_subclass(value: Any, walk: _Walk) -> bytes:
    kind = type(value)
    base = _builtin_base(kind)
    if base is None:
        return _encode_object(value)
    for cls in kind.__mro__:
        if cls is base:
            break
        if cls.__dict__.get("__slots__"):
            raise Unfingerprintable(f"a value of type {_shown(kind)} keeps state in __slots__")
    contents = walk.inside(value, (_INHERITED[base](value), _attributes(value)))
    return _framed(b"k", _class_name(kind) + b"".join(contents))


def _encode_object(value: Any) -> bytes:
    """An object of a library that the user brings along: arrays, frames, tables, tensors."""
    # Above this room, and loaded only where such a value, or one without any encoding, is met.
    from chainweaver.objects.fingerprints import content_digest

    return _framed(b"o", content_digest(value))


def _attributes(value: Any) -> dict[str, Any]:
    """Instance attributes, without what `functools.cached_property` left there: reading a value must not change it."""
    return {
        name: attribute
        for name, attribute in getattr(value, "__dict__", {}).items()
        if not isinstance(inspect.getattr_static(type(value), name, None), functools.cached_property)
    }


def _builtin_base(kind: type) -> type | None:
    return next((base for base in kind.__mro__ if base in _INHERITED), None)


_CONTAINERS: dict[type, Encoder] = {
    list: _sequence(b"L"),
    tuple: _sequence(b"P"),
    set: _unordered(b"S"),
    frozenset: _unordered(b"Z"),
    dict: _encode_dict,
    OrderedDict: _encode_ordered_dict,
    defaultdict: _encode_default_dict,
    deque: _encode_deque,
    _ModelState: _encode_model_state,
}

# How to read what a subclass inherits, without calling the methods that it overrides.
_INHERITED: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    list: lambda value: list.__getitem__(value, slice(None)),
    tuple: lambda value: tuple.__getitem__(value, slice(None)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    OrderedDict: lambda value: OrderedDict(OrderedDict.items(value)),
    defaultdict: lambda value: defaultdict(value.default_factory, dict.items(value)),
    dict: lambda value: dict(dict.items(value)),
    deque: lambda value: deque(deque.__iter__(value), value.maxlen),
}

_FAMILIES: tuple[tuple[type | tuple[type, ...], Encoder], ...] = (
    (enum.Enum, _encode_member),
    (BaseModel, _encode_model),
    ((SecretStr, SecretBytes, Secret), _encode_secret),
    (AnyUrl, _encode_url),
)


def _encoder_by_family(value: Any) -> Encoder:
    for family, encoder in _FAMILIES:
        if isinstance(value, family):
            return encoder
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _encode_dataclass
    return _encode_builtin_subclass


# -- classes --

_PROCESS = os.urandom(8)
_numbers = itertools.count()
_unnamed: weakref.WeakKeyDictionary[type, int] = weakref.WeakKeyDictionary()


def _class_name(kind: type) -> bytes:
    """What stands for a class: the name it can be imported by, or a mark that is valid in this process only.

    Two classes made by one function share a module and a qualified name; their instances differ all the same.
    """
    generic = getattr(kind, "__pydantic_generic_metadata__", None)
    if generic and generic["origin"] is not None and all(isinstance(arg, type) for arg in generic["args"]):
        return _framed(b"G", b"".join([_class_name(part) for part in (generic["origin"], *generic["args"])]))
    if _imported(kind.__module__, kind.__qualname__) is kind:
        return _tagged(b"C", kind.__module__, kind.__qualname__)
    number = _unnamed.get(kind)
    if number is None:
        number = _unnamed.setdefault(kind, next(_numbers))
    return _tagged(b"U", kind.__module__, kind.__qualname__, _PROCESS, number)


def _imported(module: str, qualname: str) -> Any:
    # Dictionaries only: `getattr` on a module may import things.
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        found = getattr(found, "__dict__", {}).get(name)
    return found


def _shown(kind: type) -> str:
    return f"'{kind.__module__}.{kind.__qualname__}'" if kind.__module__ != "builtins" else f"'{kind.__qualname__}'"
