"""What canonical bytes promise: different values differ, equal values agree, nothing else matters."""

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import io
import ipaddress
import math
import os
import pathlib
import re
import subprocess
import sys
import threading
import uuid
import zoneinfo
from typing import Any, Generic, NamedTuple, TypeVar

import pytest
from hypothesis import given, settings, strategies as st
from pydantic import (
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    PrivateAttr,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    TypeAdapter,
)

from chainweaver.canonical import MAX_DEPTH, Unfingerprintable, bind_fingerprint, digest, encode

T = TypeVar("T")


class Colour(enum.Enum):
    RED = 1
    CRIMSON = RED
    BLUE = 2


class Size(enum.IntEnum):
    SMALL = 1


class Mode(str, enum.Enum):
    FAST = "fast"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Text(str):
    pass


class Count(int):
    pass


class Items(list):
    def __iter__(self):
        return iter(["never asked"])


class Slotted(tuple):
    __slots__ = ()


class Pair(NamedTuple):
    a: Any
    b: Any


class OtherPair(NamedTuple):
    a: Any
    b: Any


@dataclasses.dataclass
class Box:
    a: Any
    b: Any = None


@dataclasses.dataclass(frozen=True)
class Crate:
    a: Any
    b: Any = None


class Point(BaseModel):
    x: Any
    y: Any = None


class Spot(BaseModel):
    x: Any
    y: Any = None


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    x: int = 0


class Guarded(BaseModel):
    x: int
    token: SecretStr = Field(default=SecretStr(""), exclude=True)


class Counting(BaseModel):
    x: int
    _seen: list[int] = PrivateAttr(default_factory=list)


class Wrapped(BaseModel, Generic[T]):
    item: T


class Numbers(RootModel[list[int]]):
    pass


UTC = dt.timezone.utc
NOON = dt.datetime(2024, 10, 27, 2, 30)

DISTINCT: list[Any] = [
    None, True, False, 1, 0, 1.0, 0.0, -0.0, math.nan, math.inf, "1", "", b"1", b"", bytearray(b"1"), 1j, complex(1, 0),
    complex(-0.0, 0.0), complex(0.0, 0.0), complex(0.0, -0.0), 2**64, -(2**64), 10**5000, "True", "None", "nan",
    "\ud800", "\udc00", "\U00010000", "\ud800\udc00", "é", "e\u0301", "\0", "a\0b",
    [], (), set(), frozenset(), {}, [1], (1,), {1}, frozenset({1}), {1: 1}, [1.0], (1.0,), {1.0}, ["1"], {"1": 1},
    [[]], [()], ([],), [[], []], [[[]]], ["a", "b"], ["ab"], [["a"], "b"], ["a", ["b"]], [1, 2], [2, 1], [12], [1, [2]],
    {"a": 1}, {"a": 1.0}, {"a": True}, {"a": [1]}, {"a": {"b": 1}}, {"a": 1, "b": 1}, {b"a": 1}, {("a",): 1}, {1: "a"},
    {"a", "b"}, frozenset({"a", "b"}), {("a", "b")}, [("a", 1)], [["a", 1]], [("a", [1])],
    collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1), collections.Counter("ab"),
    collections.defaultdict(list, {"a": [1]}), collections.defaultdict(int, a=1), collections.defaultdict(None, a=1),
    collections.defaultdict(bool, a=1),
    collections.deque([1]), collections.deque([1], maxlen=3), collections.deque([1], maxlen=4),
    range(3), range(0, 3, 2), range(0), slice(3), slice(None), slice(0, 3),
    decimal.Decimal("1"), decimal.Decimal("1.0"), decimal.Decimal("10"), decimal.Decimal("1E+1"), decimal.Decimal("-0"),
    decimal.Decimal("0"), decimal.Decimal("NaN"), decimal.Decimal("sNaN"), decimal.Decimal("NaN12"),
    decimal.Decimal("Infinity"), fractions.Fraction(1, 2), fractions.Fraction(1),
    uuid.UUID(int=1), uuid.UUID(int=2), pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("a"), pathlib.Path("a/b"),
    pathlib.Path("a"), ipaddress.ip_address("::1"), ipaddress.ip_address("127.0.0.1"),
    ipaddress.ip_network("127.0.0.1"), ipaddress.ip_interface("127.0.0.1"),
    re.compile("a"), re.compile("a", re.IGNORECASE), re.compile(b"a"),
    dt.date(2024, 1, 1), dt.datetime(2024, 1, 1), dt.time(0), dt.timedelta(0), dt.timedelta(1), dt.timedelta(seconds=1),
    dt.timedelta(microseconds=1), NOON, NOON.replace(fold=1), NOON.replace(tzinfo=UTC), NOON.replace(microsecond=1),
    NOON.replace(tzinfo=dt.timezone(dt.timedelta(hours=1))), NOON.replace(tzinfo=dt.timezone(dt.timedelta(0), "Z")),
    NOON.replace(tzinfo=zoneinfo.ZoneInfo("UTC")), dt.time(2, 30, fold=1), dt.time(2, 30), dt.time(2, 30, tzinfo=UTC),
    TypeAdapter(dt.datetime).validate_python("2024-10-27T02:30:00Z"),
    TypeAdapter(dt.datetime).validate_python("2024-10-27T02:30:00+02:00"),
    Colour.RED, Colour.BLUE, Size.SMALL, Mode.FAST, Access.READ, Access.READ | Access.WRITE, Access(0), "fast",
    Text("1"), Count(1), Items([1]), Slotted([1]), Pair(1, 2), OtherPair(1, 2), (1, 2), Pair((1, 2), None),
    Pair(1, "2"), Box(1), Box(1, 1), Box(None), Crate(1), Box([1]), Point(x=1), Spot(x=1), Point(x=1, y=1),
    Point(x=[1]), Point(x=Box(1)), Loose(x=1), Loose(x=1, z=1), Loose(x=1, z=2), Guarded(x=1),
    Guarded(x=1, token=SecretStr("a")),
    Guarded(x=1, token=SecretStr("b")), Wrapped[int](item=1), Wrapped[str](item="1"), Wrapped(item=1), Numbers([1]),
    SecretStr("a"), SecretStr("b"), SecretBytes(b"a"), Secret("a"), Secret(1), "a", b"a",
    AnyUrl("http://a.b/"), HttpUrl("http://a.b/"), "http://a.b/",
]  # fmt: skip


def test_values_that_differ_in_any_way_have_different_bytes():
    """R29: `x != y` implies different keys, and so do type, sign, exponent, zone, fold and class."""
    by_bytes: dict[bytes, list[Any]] = {}
    for value in DISTINCT:
        by_bytes.setdefault(encode(value), []).append(value)

    shared = [values for values in by_bytes.values() if len(values) > 1]
    assert shared == []


def test_inside_a_container_the_same_values_still_differ():
    """R29: what tells two values apart does so at every depth."""
    for wrap in (lambda v: [v], lambda v: {"k": v}, lambda v: Box(v), lambda v: Point(x=v), lambda v: ([0.5, v],)):
        assert len({encode(wrap(value)) for value in DISTINCT}) == len(DISTINCT)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}),
        ({1: "x", "a": 2}, {"a": 2, 1: "x"}),
        ({"c", "a", "b"}, {"b", "c", "a"}),
        ({8, 0, (1, 2)}, {(1, 2), 0, 8}),
        (math.nan, -math.nan),
        ([math.nan], [math.inf - math.inf]),
        (Colour.RED, Colour.CRIMSON),
        (Point(x=1), Point(x=1, y=None)),
        (Guarded(x=1, token=SecretStr("a")), Guarded(token=SecretStr("a"), x=1)),
        (Pair(1, [2]), Pair(1, [2])),
        ([10**5000], [10**5000]),
    ],
)
def test_equal_values_share_their_bytes(one, other):
    """R29: the order of keys and elements, the kind of NaN and whether a default was spelt out make no difference."""
    assert encode(one) == encode(other)


def test_the_same_text_is_the_same_whether_interned_or_not():
    """R29: bytes depend on the value, not on how the interpreter keeps it."""
    fresh = "".join(["inter", "ned"])
    assert encode([sys.intern("interned"), "interned"]) == encode([fresh, "".join(["int", "erned"])])


def same(one: Any, other: Any) -> bool:
    """Equal in value and in structure of types: the other way to say what the encoding says."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return (one != one and other != other) or (one == other and math.copysign(1, one) == math.copysign(1, other))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(any(same(i, j) for j in other.items()) for i in one.items())
    if isinstance(one, (set, frozenset)):
        return len(one) == len(other) and all(any(same(i, j) for j in other) for i in one)
    if isinstance(one, decimal.Decimal):
        return str(one) == str(other)
    if isinstance(one, BaseModel):
        return same(dict(one), dict(other))
    if dataclasses.is_dataclass(one):
        return same(vars(one), vars(other))
    return bool(one == other)


FEW = [0, 1, -1, 2**40, True, False, None, 0.0, -0.0, 1.0, math.nan, "", "0", "a", b"", b"a", "\udfff"]
HASHABLE = st.recursive(
    st.sampled_from([*FEW, decimal.Decimal(1), decimal.Decimal("1.0"), Colour.RED, Text("a")]) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2).map(tuple) | st.frozensets(inner, max_size=2),
    max_leaves=4,
)
VALUES = st.recursive(
    HASHABLE | st.integers() | st.floats() | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
        | st.sets(HASHABLE, max_size=3)
        | st.builds(Box, inner)
        | st.builds(Point, x=inner)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(VALUES, VALUES)
def test_bytes_are_equal_exactly_when_values_are(one, other):
    """R29: injective on generated values, in both directions."""
    assert (encode(one) == encode(other)) == same(one, other)
    assert encode([one, other]) != encode([[one, other]])


@settings(max_examples=150, deadline=None)
@given(st.lists(HASHABLE, max_size=4, unique=True), st.randoms(use_true_random=False))
def test_order_of_insertion_is_forgotten(keys, random):
    """R1: dicts and sets built in another order have the same bytes."""
    mixed = random.sample(keys, k=len(keys))
    assert encode({key: repr(key) for key in keys}) == encode({key: repr(key) for key in mixed})
    assert encode(set(keys)) == encode(set(mixed))


class WithSlots(str):
    __slots__ = ("note",)


class Opaque:
    pass


class Odd(dt.tzinfo):
    def utcoffset(self, when):
        return dt.timedelta(0)

    def dst(self, when):
        return None

    def tzname(self, when):
        return "odd"


class Failing(BaseModel):
    x: int

    def __getattribute__(self, name):
        if name == "__pydantic_extra__":
            raise OSError("secret-text")
        return super().__getattribute__(name)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Opaque(), "a value of type '{m}.Opaque' has no canonical encoding"),
        (print, "a value of type 'builtin_function_or_method' has no canonical encoding"),
        (lambda: None, "a value of type 'function' has no canonical encoding"),
        (int, "a value of type 'type' has no canonical encoding"),
        ((i for i in "a"), "a value of type 'generator' has no canonical encoding"),
        (threading.Lock(), "a value of type '_thread.lock' has no canonical encoding"),
        (io.BytesIO(b"a"), "a value of type '_io.BytesIO' has no canonical encoding"),
        (memoryview(b"a"), "a value of type 'memoryview' has no canonical encoding"),
        (WithSlots("a"), "a value of type '{m}.WithSlots' keeps state in __slots__"),
        (collections.defaultdict(lambda: 1), "a defaultdict has a default_factory that is not a class"),
        (slice([]), "a slice has bounds that are not plain values"),
        (NOON.replace(tzinfo=Odd()), "a time zone of type '{m}.Odd' has no canonical encoding"),
        (Failing(x=1), "reading the value failed with OSError"),
    ],
)
def test_what_is_not_data_is_refused_with_a_reason(value, reason):
    """R29: what cannot be fingerprinted says why, never gets a constant, and shows no content."""
    with pytest.raises(Unfingerprintable) as caught:
        encode(["ok", {"deep": value}])
    assert caught.value.reason == str(caught.value) == reason.format(m=__name__)


def test_a_value_that_contains_itself_is_refused():
    """R29: cycles end with a reason, whatever they run through."""
    looped: list[Any] = []
    looped.append({"again": (looped,)})
    with pytest.raises(Unfingerprintable, match="contains itself"):
        encode(looped)


def test_a_part_that_is_shared_but_not_cyclic_is_fine():
    """R29: one list in two places is two equal lists."""
    shared = [1]
    assert encode([shared, shared]) == encode([[1], [1]])


def test_depth_is_bounded_without_a_recursion_error():
    """R29: a value nested beyond the limit is refused, one below it is not."""
    deep: Any = 0
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    assert encode([deep])
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(Unfingerprintable, match=f"more than {MAX_DEPTH} levels"):
        encode(deep)


def test_little_stack_left_is_a_reason_and_not_a_crash():
    """R29: near the end of the stack the answer is a refusal."""
    value: Any = 0
    for _ in range(MAX_DEPTH - 1):
        value = [value]

    def down(frames: int) -> Any:
        return down(frames - 1) if frames else encode(value)

    used = len(__import__("inspect").stack())
    with pytest.raises(Unfingerprintable, match="too deeply for the stack"):
        down(sys.getrecursionlimit() - used - 40)


def test_shared_parts_that_unfold_without_end_are_refused(monkeypatch):
    """R29: sixty lists can describe more items than memory holds; the answer comes soon all the same."""
    value: Any = [0.5]
    for _ in range(60):
        value = [value, value]
    monkeypatch.setattr("chainweaver.canonical.MAX_ITEMS", 1000)
    with pytest.raises(Unfingerprintable, match="unfolds into more than 1000 items"):
        encode(value)


def test_two_classes_with_one_name_are_two_classes():
    """R29: classes made by one function share their name; their instances do not share their bytes."""

    def make() -> type[BaseModel]:
        class Local(BaseModel):
            x: int = 1

        return Local

    first, second = make(), make()
    assert encode(first()) != encode(second())
    assert encode(first()) == encode(first())


def test_cached_properties_leave_no_trace():
    """R29: reading a value does not change its bytes."""

    @dataclasses.dataclass
    class Lazy:
        a: int

        @functools.cached_property
        def double(self) -> int:
            return 2 * self.a

    lazy = Lazy(1)
    before = encode(lazy)
    assert lazy.double == 2
    assert encode(lazy) == before


def test_attributes_beside_the_declared_ones_count():
    """R29: a subclass of a builtin, or a dataclass, with another attribute is another value."""
    plain, marked = Text("a"), Text("a")
    marked.note = 1  # type: ignore[attr-defined]  # the point of the test
    assert encode(plain) != encode(marked)
    box, tagged = Box(1), Box(1)
    tagged.note = 1  # type: ignore[attr-defined]  # the point of the test
    assert encode(box) != encode(tagged)


def test_digest_is_32_hex_characters_and_written_down():
    """R29: digests are part of stored keys, so they may not change between versions by accident."""
    assert digest({"b": [1, 2.5, "x"], "a": None}) == "a68b9019f3bb02dff0c9b69c0ddea44e"
    assert re.fullmatch("[0-9a-f]{32}", digest(None))


# -- bound fingerprints --


class Sum(BaseModel):
    a: int
    b: int


class BigSum(Sum):
    c: int = 0


class Mixed(BaseModel):
    a: Any
    b: Any = None
    c: Any = None


class Single(BaseModel):
    a: Any


class Empty(BaseModel):
    pass


def test_fingerprints_tell_inputs_apart():
    """R29: over all the values above, as one field of three."""
    fingerprint = bind_fingerprint(Mixed)
    prints = {fingerprint(Mixed(a=value)) for value in DISTINCT} | {fingerprint(Mixed(a=0, b=v)) for v in DISTINCT[1:]}
    assert len(prints) == 2 * len(DISTINCT) - 1


@settings(max_examples=200, deadline=None)
@given(VALUES, VALUES)
def test_fingerprints_are_equal_exactly_when_inputs_are(one, other):
    """R29: the fast path and the general path agree on what is equal."""
    for model in (Mixed, Single):
        fingerprint = bind_fingerprint(model)
        assert (fingerprint(model(a=one)) == fingerprint(model(a=other))) == same(one, other)


def test_neighbouring_fields_do_not_run_into_each_other():
    """R29: where one text ends and the next begins is part of the bytes."""
    fingerprint = bind_fingerprint(Mixed)
    texts = [("ab", "c"), ("a", "bc"), ("", "abc"), ("abc", ""), ("a", "b", "c"), ("a\0b", "c")]
    assert len({fingerprint(Mixed(**dict(zip("abc", text)))) for text in texts}) == len(texts)  # noqa: B905


def test_secrets_and_excluded_fields_count():
    """R29: the known trap: two users' secrets must never share one key."""
    fingerprint = bind_fingerprint(Guarded)
    alice, bob = (fingerprint(Guarded(x=1, token=SecretStr(name))) for name in ("alice", "bob"))
    assert alice != bob
    assert "alice" not in alice


def test_extras_and_private_attributes_count():
    """R29: a tool can read them, so they belong to its input."""
    of_loose, of_counting = bind_fingerprint(Loose), bind_fingerprint(Counting)
    assert of_loose(Loose(x=1, z=1)) != of_loose(Loose(x=1, z=2)) != of_loose(Loose(x=1))
    fresh, used = Counting(x=1), Counting(x=1)
    assert of_counting(fresh) == of_counting(used)
    used._seen.append(1)
    assert of_counting(fresh) != of_counting(used)


def test_an_instance_of_a_subclass_is_another_input():
    """R29: validation lets instances of subclasses through as they are."""
    fingerprint = bind_fingerprint(Sum)
    prints = {fingerprint(one) for one in (Sum(a=1, b=2), BigSum(a=1, b=2), BigSum(a=1, b=2, c=3))}
    assert len(prints) == 3


def test_a_field_that_was_never_set_is_not_an_error():
    """R29: models put together without validation are read as they are."""
    fingerprint = bind_fingerprint(Sum)
    assert fingerprint(Sum.model_construct(a=1)) != fingerprint(Sum(a=1, b=2))


def test_models_of_different_names_or_fields_have_different_fingerprints():
    """R29: the model's name and fields are part of the digest."""
    assert bind_fingerprint(Point)(Point(x=1, y=2)) != bind_fingerprint(Spot)(Spot(x=1, y=2))
    assert bind_fingerprint(Empty)(Empty()) == bind_fingerprint(Empty)(Empty())


def test_a_model_made_in_a_function_has_a_lasting_fingerprint():
    """R29: input models of tools are made by decorators, and their keys must outlive the process."""

    def make() -> type[BaseModel]:
        class Local(BaseModel):
            x: int = 1

        return Local

    first, second = make(), make()
    assert bind_fingerprint(first)(first()) == bind_fingerprint(second)(second())


def test_what_cannot_be_fingerprinted_raises():
    """R29: the caller turns this into a miss with a reason."""
    with pytest.raises(Unfingerprintable, match=r"Opaque"):
        bind_fingerprint(Mixed)(Mixed(a=1, b=[Opaque()]))


SCRIPT = """
import sys
sys.path[:0] = [{root!r}, {here!r}]
import test_canonical as t
from chainweaver.canonical import bind_fingerprint, digest, Unfingerprintable
print(digest([v for v in t.DISTINCT]))
print(digest({{"deep": {{"b", "a", "c", ("d", 1)}}, "wide": {{str(i): i for i in range(50)}}}}))
print(bind_fingerprint(t.Mixed)(t.Mixed(a={{"x", "y", "z"}}, b=t.Guarded(x=1, token="s"))))
print(bind_fingerprint(t.Sum)(t.Sum(a=1, b=2)))
"""


def test_bytes_do_not_depend_on_the_process_or_the_hash_seed():
    """R1, R29: four processes with four hash seeds agree."""
    here = pathlib.Path(__file__).parent
    script = SCRIPT.format(root=str(here.parents[1]), here=str(here))
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(4)
    ]
    told = [child.communicate()[0] for child in children]
    assert told[0].count("\n") == 4
    assert set(told) == {told[0]}
