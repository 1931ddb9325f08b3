"""Types of fields, names of types, and what models hold: the questions the compiler asks besides `compatible`."""

# ruff: noqa: UP007, UP045 - both spellings of a union are types to name
from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import numbers
import typing as t
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given, strategies as st
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetPydanticSchema,
    Json,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    RootModel,
    Tag,
    WrapValidator,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import core_schema
from typing_extensions import NotRequired, TypeAliasType, TypedDict, Unpack

from chainweaver.compiler.core_schemas import UNKNOWN, View, resolved
from chainweaver.compiler.leaves import passes
from chainweaver.compiler.model_traits import grows
from chainweaver.compiler.types import (
    Constant,
    FieldOf,
    compatible,
    describe,
    immutables_only,
    scalars_only,
)
from chainweaver.tools.native import Native

T = t.TypeVar("T")


class Plain(BaseModel):
    n: int
    text: str = ""


class Strictly(BaseModel):
    model_config = ConfigDict(strict=True)
    n: int
    day: dt.date
    numbers: list[int]


@dataclasses.dataclass
class Row:
    n: int
    total: int = dataclasses.field(init=False, default=0)


class StrictRows(BaseModel):
    model_config = ConfigDict(strict=True)
    row: Row


class Checked(BaseModel):
    n: int
    m: int = 0
    k: int = 0

    @field_validator("n", mode="before")
    @classmethod
    def count(cls, value: t.Any) -> t.Any:
        return len(value)

    @field_validator("m", mode="after")
    @classmethod
    def bounded(cls, value: int) -> int:
        return min(value, 10)


class Whole(BaseModel):
    n: int

    @model_validator(mode="before")
    @classmethod
    def unpack(cls, value: t.Any) -> t.Any:
        return {"n": 1}


class Wrapping(BaseModel):
    n: int

    @model_validator(mode="wrap")
    @classmethod
    def around(cls, value, handler):
        return handler({"n": 1})


class After(BaseModel):
    n: int

    @model_validator(mode="after")
    def check(self):
        return self


class OwnInit(BaseModel):
    n: int

    def __init__(self, **data: t.Any) -> None:
        super().__init__(n=1)


class Computing(BaseModel):
    n: int

    @computed_field
    def double(self) -> int:
        return 2 * self.n


class WithDefaults(BaseModel):
    n: int = t.cast(int, None)
    ns: list[int] = Field(default_factory=list)


class Counting(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)
    text: str


class Stripping(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)
    text: t.Annotated[str, Field(max_length=2)]


@pytest.mark.parametrize(
    ("source", "target", "verdict"),
    [
        (str, FieldOf(Plain, "n"), True),
        (list, FieldOf(Plain, "n"), False),
        (str, FieldOf(Strictly, "n"), False),
        (int, FieldOf(Strictly, "n"), True),
        (str, FieldOf(Strictly, "day"), False),
        (list[int], FieldOf(Strictly, "numbers"), True),
        (list[str], FieldOf(Strictly, "numbers"), False),
        (tuple[int, ...], FieldOf(Strictly, "numbers"), False),
        (list, FieldOf(Checked, "n"), True),
        (list, FieldOf(Checked, "m"), False),
        (str, FieldOf(Checked, "k"), True),
        (dict, FieldOf(StrictRows, "row"), False),
        (FieldOf(StrictRows, "row"), FieldOf(StrictRows, "row"), True),
        (list, FieldOf(Whole, "n"), True),
        (list, FieldOf(Wrapping, "n"), True),
        (list, FieldOf(After, "n"), False),
        (list, FieldOf(OwnInit, "n"), True),
        (list, FieldOf(Plain, "unheard_of"), True),
        (int, FieldOf(Counting, "text"), True),
        (list, FieldOf(Counting, "text"), False),
        (t.Annotated[str, Field(min_length=3)], FieldOf(Stripping, "text"), True),
        (FieldOf(Plain, "n"), list, False),
        (FieldOf(Plain, "n"), int, True),
        (FieldOf(Checked, "n"), list, False),
        (FieldOf(Checked, "m"), list, True),
        (FieldOf(Whole, "n"), list, False),
        (FieldOf(Wrapping, "n"), list, True),
        (FieldOf(Computing, "double"), list, False),
        (FieldOf(Computing, "double"), float, True),
        (FieldOf(WithDefaults, "n"), type(None), True),
        (FieldOf(Plain, "text"), type(None), False),
        (FieldOf(WithDefaults, "ns"), int, False),
        (Plain, Whole, True),
        (Plain, After, False),
        (After, Plain, False),
        (Wrapping, int, True),
        (list, OwnInit, True),
    ],
)
def test_what_a_model_adds_to_its_fields_counts(source, target, verdict):
    """api.md, type rule: strictness narrows; whatever sees the input first widens, on the field and on the model."""
    assert compatible(source, target) is verdict


class Aliased(BaseModel):
    n: int = Field(validation_alias="N")


class AliasedOrNamed(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    n: int = Field(validation_alias="N")


class FarAliased(BaseModel):
    n: int = Field(validation_alias=AliasPath("deep", 0))
    m: int = Field(validation_alias=AliasChoices("m", "M"))


class Upper(TypedDict):
    N: int


class Lower(TypedDict):
    n: int


class Maybe(TypedDict):
    n: NotRequired[list[int]]


class Open(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]  # this is how pydantic is told
    a: int


@pytest.mark.parametrize(
    ("source", "target", "verdict"),
    [
        (Upper, Aliased, True),
        (Lower, Aliased, False),
        (Lower, AliasedOrNamed, True),
        (Lower, FarAliased, True),
        (Lower, Plain, True),
        (Maybe, Plain, False),
        (Maybe, dict[str, int], True),
        (Open, Plain, True),
        (Upper, Row, False),
        (Lower, Row, True),
        (dict[t.Literal["n"], int], Plain, True),
        (dict[t.Literal["m"], int], Plain, False),
        (collections.UserDict, Plain, True),
    ],
)
def test_dicts_are_matched_with_fields_by_key(source, target, verdict):
    """api.md, type rule: a dict fits a model when its keys and values can bring what the model requires."""
    assert compatible(source, target) is verdict


Recursive = TypeAliasType("Recursive", "list[Recursive] | int")  # type: ignore[misc]  # mypy wants a type statement
Chained = TypeAliasType("Chained", dict[str, "Chained | str"])  # type: ignore[misc]  # mypy wants a type statement


class Leafy(BaseModel):
    value: int
    left: t.Optional[Leafy] = None


class Twig(BaseModel):
    value: list[int]
    left: t.Optional[Twig] = None


def test_types_that_contain_themselves_come_to_an_end():
    """api.md, type rule: recursive aliases and models are compared like all others."""
    assert compatible(Recursive, Recursive)
    assert compatible(list[list[int]], Recursive)
    assert not compatible(dict, Recursive)
    assert compatible(dict[str, dict[str, str]], Chained)
    assert not compatible(int, Chained)
    assert not compatible(Leafy, Twig)
    assert compatible(dict[str, t.Any], Leafy)


def test_a_type_that_is_nested_beyond_the_stack_is_unknown():
    """api.md, type rule: no type, however deep, stops a compilation."""
    deep: t.Any = int
    for _ in range(400):
        deep = list[deep]
    assert compatible(deep, int) in (True, False)
    value: t.Any = 1
    for _ in range(100_000):
        value = [value]
    assert compatible(Constant(value), int)


def test_a_reference_that_leads_to_itself_is_unknown():
    """api.md, type rule: no schema, however odd, makes the compiler run in circles."""
    ring = {"type": "definition-ref", "schema_ref": "ring"}
    assert resolved(View(ring, refs={"ring": ring})) is UNKNOWN


def test_a_schema_that_cannot_be_run_by_itself_takes_every_value():
    """api.md, type rule: what cannot be asked is unknown, and unknown is allowed."""
    assert passes(View({"type": "definition-ref", "schema_ref": "elsewhere"}), 1)


class Cat(BaseModel):
    kind: t.Literal["cat"]


class Dog(BaseModel):
    kind: t.Literal["dog"]


Pet = t.Annotated[Cat | Dog, Field(discriminator="kind")]
Tagged = t.Annotated[
    t.Annotated[Cat, Tag("c")] | t.Annotated[Dog, Tag("d")], Discriminator(lambda value: "c")
]  # fmt: skip


class Hooked:
    @classmethod
    def __get_pydantic_core_schema__(cls, source: t.Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(lambda value: cls())


class Broken:
    @classmethod
    def __get_pydantic_core_schema__(cls, source: t.Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        raise OSError("no schema today")


@t.runtime_checkable
class Closing(t.Protocol):
    def close(self) -> None: ...


class File:
    def close(self) -> None: ...


class Missing(enum.Enum):
    A = "a"

    @classmethod
    def _missing_(cls, value):
        return cls.A


@t.runtime_checkable
class Sized(t.Protocol):
    size: int


class Amount(numbers.Number):
    __hash__ = None  # type: ignore[assignment]  # the way to say so


def chained(source: t.Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
    return core_schema.chain_schema([core_schema.any_schema(), core_schema.is_instance_schema(list)])


def two_faced(source: t.Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
    listing = core_schema.no_info_after_validator_function(lambda value: [value], core_schema.int_schema())
    return core_schema.lax_or_strict_schema(listing, core_schema.int_schema())


class Meta(type):
    def __instancecheck__(cls, value):
        return True


class Anything(metaclass=Meta):
    pass


class Equal:
    def __eq__(self, other):
        return True

    __hash__ = None  # type: ignore[assignment]  # the way to say so


class Calling:
    def __call__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("source", "target", "verdict"),
    [
        (Cat, Pet, True),
        (Plain, Pet, False),
        (dict, Pet, True),
        (int, Tagged, False),
        (Pet, Cat, True),
        (list, Hooked, True),
        (Hooked, list, True),
        (Broken, int, True),
        (int, Broken, True),
        (list, t.Annotated[int, PlainValidator(len)], True),
        (list, t.Annotated[int, WrapValidator(lambda v, h: h(1))], True),
        (t.Annotated[int, WrapValidator(lambda v, h: [h(1)])], list, True),
        (list, t.Annotated[int, GetPydanticSchema(lambda source, handler: core_schema.any_schema())], True),
        (File, Closing, True),
        (int, Closing, False),
        (Closing, File, True),
        (list, Missing, True),
        (list, Anything, True),
        (Equal, t.Literal[1], True),
        (Amount, t.Literal[1], True),
        (File, Sized, True),
        (Constant(File()), Sized, True),
        (list, t.Annotated[t.Any, GetPydanticSchema(chained)], True),
        (dict, t.Annotated[t.Any, GetPydanticSchema(chained)], False),
        (t.Annotated[t.Any, GetPydanticSchema(two_faced)], list, True),
        (File, t.Literal[1], False),
        (decimal.Decimal, t.Literal[1], True),
        (Calling, Callable[[], int], True),
        (Callable[[], int], Calling, True),
        (Callable[[], int], File, False),
        (Callable[[], int], Closing, True),
        (type, Callable[[], int], True),
        (type[enum.Enum], list, True),
        (type[int], list, False),
        (type, type[int], True),
        (Native[list[int]], list[str], True),
        (Native[list[int]], int, False),
        (int, Native[list[int]], False),
        (dict, Native[list[int]], False),
        (Json, int, True),
        (collections.defaultdict[str, int], dict[str, int], True),
        (collections.defaultdict[str, list[str]], dict[str, int], False),
        (list[int], collections.defaultdict[str, int], False),
        (tuple[int, ...], tuple[int, Unpack[tuple[str, ...]], int], True),
        (dict, tuple[int, Unpack[tuple[str, ...]], int], False),
        (Sequence[int], Mapping[str, int], False),
    ],
)
def test_rarer_types_are_judged_with_care(source, target, verdict):
    """api.md, type rule: hooks, protocols, tags and code objects; what cannot be known is allowed."""
    assert compatible(source, target) is verdict


def test_the_verdict_is_remembered():
    """api.md, type rule: the same question is worked out once; unhashable metadata is no obstacle."""
    from chainweaver.compiler import types

    before = types._cached.cache_info().hits
    assert compatible(set[Plain], list[Plain])
    assert compatible(set[Plain], list[Plain])
    assert types._cached.cache_info().hits > before
    marked = t.Annotated[int, BeforeValidator(len), ["unhashable"]]
    assert compatible(list, marked)
    assert compatible(marked, float)


def test_equal_constants_of_different_types_are_told_apart():
    """api.md, type rule: 1 and True are equal and are still two values."""
    target = t.Annotated[int, Field(strict=True)]
    assert compatible(Constant(1), target)
    assert not compatible(Constant(True), target)


# -- names --


class Outer:
    class Inner:
        pass


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        (int, "int"),
        (None, "None"),
        (type(None), "None"),
        (t.Any, "Any"),
        (list[int], "list[int]"),
        (t.List[int], "list[int]"),  # noqa: UP006 - the old spelling has the same name
        (dict[str, list[Plain]], "dict[str, list[Plain]]"),
        (t.Optional[str], "str | None"),
        (None | int, "int | None"),
        (t.Union[int, str, None], "int | str | None"),
        (tuple[int, ...], "tuple[int, ...]"),
        (tuple[()], "tuple[()]"),
        (t.Literal["a", 1], "Literal['a', 1]"),
        (t.Annotated[int, Field(ge=1)], "int"),
        (Native[list[int]], "Native[list[int]]"),
        (Callable[[int, str], bool], "Callable[[int, str], bool]"),
        (Callable[..., int], "Callable[..., int]"),
        (type[Plain], "type[Plain]"),
        (t.NewType("UserId", int), "UserId"),
        (T, "T"),
        (Recursive, "Recursive"),
        (t.ForwardRef("Later"), "Later"),
        ("Later", "Later"),
        (Outer.Inner, "Outer.Inner"),
        (Mapping[str, int], "Mapping[str, int]"),
        (FieldOf(Plain, "n"), "int"),
        (FieldOf(Computing, "double"), "int"),
        (FieldOf(Plain, "nobody"), "Any"),
        (Constant("x"), "Literal['x']"),
        (Constant(None), "Literal[None]"),
        (Constant([1]), "list"),
    ],
)
def test_types_are_named_as_people_write_them(annotation, name):
    """Messages: names without modules, quotes or repr noise."""
    assert describe(annotation) == name


def test_a_class_made_in_a_function_has_its_short_name():
    """Messages: `<locals>` tells nobody anything."""

    class Local:
        pass

    assert describe(list[Local]) == "list[Local]"


def test_very_long_names_are_cut():
    """Messages: a type does not fill the screen."""
    name = describe(t.Literal[tuple(f"option {number}" for number in range(50))])
    assert len(name) == 120
    assert name.endswith("...")


# -- what models hold --


class Scalars(BaseModel):
    a: int
    b: t.Optional[float] = None
    c: t.Union[str, bytes, bool] = ""
    d: t.Literal["x", 1] = "x"
    e: t.Annotated[int, Field(ge=1)] = 1
    f: complex = 1j


class Dated(BaseModel):
    day: dt.date
    price: decimal.Decimal = decimal.Decimal(1)


class Colour(enum.Enum):
    RED = 1


class Coloured(BaseModel):
    colour: Colour = Colour.RED
    again: t.Literal[Colour.RED] = Colour.RED


class WithPrivate(BaseModel):
    a: int
    _seen: list[int] = PrivateAttr(default_factory=list)


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Hidden(BaseModel):
    a: int = Field(exclude=True)


class ByAlias(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)
    a: int = Field(alias="A")


class FieldSerialized(BaseModel):
    a: int

    @field_serializer("a")
    def as_text(self, value: int) -> str:
        return str(value)


class TypeSerialized(BaseModel):
    a: t.Annotated[int, PlainSerializer(str)]


class ModelSerialized(BaseModel):
    a: int

    @model_serializer
    def as_nothing(self) -> dict[str, int]:
        return {}


class OwnDump(BaseModel):
    a: int

    def model_dump(self, **options: t.Any) -> dict[str, t.Any]:
        return {}


class Caching(BaseModel):
    a: int

    @functools.cached_property
    def double(self) -> int:
        return 2 * self.a


class PostInit(BaseModel):
    a: int

    def model_post_init(self, context: t.Any) -> None:
        self.a = t.cast(int, [1])


class PostInitPrivate(BaseModel):
    a: int
    _b: int = 0

    def model_post_init(self, context: t.Any) -> None:
        self.a = t.cast(int, [1])


class BadDefault(BaseModel):
    a: int = t.cast(int, [1])


class Factory(BaseModel):
    a: int = Field(default_factory=lambda: t.cast(int, [1]))


class CheckedFactory(BaseModel):
    a: int = Field(default_factory=int, validate_default=True)


class Boxed(BaseModel):
    a: list[int]


class Anyhow(BaseModel):
    a: t.Any


class Root(RootModel[int]):
    pass


@pytest.mark.parametrize(
    ("model", "verdict"),
    [
        (Scalars, True), (WithPrivate, True), (CheckedFactory, True), (Whole, True), (BaseModel, True),
        (Dated, False), (Coloured, False), (Extra, False), (Hidden, False), (ByAlias, False), (FieldSerialized, False),
        (TypeSerialized, False), (ModelSerialized, False), (OwnDump, False), (Caching, False), (PostInit, False),
        (PostInitPrivate, False), (BadDefault, False), (Factory, False), (Boxed, False), (Anyhow, False), (Root, False),
        (OwnInit, False), (After, False), (Computing, False), (Checked, False),
    ],
)  # fmt: skip
def test_models_of_plain_scalars_are_known(model, verdict):
    """R36: steps whose models hold scalars only pay nothing; everything doubtful is not such a model."""
    assert scalars_only(model) is verdict


@given(
    a=st.integers(),
    b=st.none() | st.floats(),
    c=st.text() | st.binary() | st.booleans(),
    d=st.sampled_from(["x", 1]),
    f=st.complex_numbers(),
)
def test_their_dict_is_their_dump(a, b, c, d, f):
    """R36: for such a model `__dict__` equals `model_dump()`, value for value."""
    instance = Scalars(a=a, b=b, c=c, d=t.cast(t.Any, d), f=f)
    dumped = instance.model_dump()
    assert list(dumped) == list(vars(instance))
    assert all(repr(dumped[name]) == repr(value) for name, value in vars(instance).items())


@pytest.mark.parametrize(
    ("model", "verdict"),
    [(Scalars, True), (Dated, True), (Coloured, True), (Boxed, False), (Anyhow, False), (Extra, False)],
)
def test_models_of_immutable_values_are_known(model, verdict):
    """R36: dates, decimals and enum members cannot be changed by their reader either."""
    assert immutables_only(model) is verdict


class Revalidated(BaseModel):
    model_config = ConfigDict(revalidate_instances="always")
    items: list[int]


class WithNative(BaseModel):
    rows: Native[list[int]]
    copied: list[int]


@pytest.mark.parametrize(
    ("annotation", "verdict"),
    [
        (int, False), (str, False), (t.Any, False), (list[int], True), (list, True), (dict[str, int], True),
        (tuple[int, ...], True), (set[int], True), (collections.deque[int], True), (Lower, False),
        (Sequence[int], True), (t.Optional[list[int]], True), (t.Union[int, list[int]], True),
        (t.Annotated[list[int], Field(min_length=1)], True),
        (Native[list[int]], False), (t.Optional[Native[list[int]]], False), (Plain, False), (Boxed, False),
        (Revalidated, True), (Row, False), (Json[list[int]], False), (collections.defaultdict[str, int], True),
        (t.Annotated[int, WrapValidator(lambda v, h: h(v))], False), (Recursive, True), (Hooked, False),
        (FieldOf(WithNative, "rows"), False), (FieldOf(WithNative, "copied"), True),
    ],
)  # fmt: skip
def test_containers_that_validation_copies_are_known(annotation, verdict):
    """R14: only such a field loses the identity of its object, and `Native[...]` keeps it."""
    assert grows(annotation) is verdict
