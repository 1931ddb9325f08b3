"""Native[T]: one isinstance check, and the very object."""

import collections.abc
import operator
from typing import Annotated, Any, Literal, NewType, Optional, Protocol, TypeVar, Union

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from chainweaver.tools import Native, is_native, tool
from chainweaver.tools.native import keep_bare_containers, runtime_classes


class Table:
    pass


class Wide(Table):
    pass


class Quiet(Protocol):
    size: int


class Row(TypedDict):
    n: int


Key = NewType("Key", str)
Small = TypeVar("Small", bound=int)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (list[int], ["not", "looked", "at"]),
        (dict[str, int], {1: 2}),
        (set[int], {"x"}),
        (Table, Wide()),
        (list[int] | Table, Table()),
        (list[int] | None, None),
        (Any, object()),
        (float, 3),
        (collections.abc.Callable[[int], int], len),
        (Row, {"m": 1}),
        (type[Table], Wide),
    ],
)
def test_the_very_object_passes(annotation, value):
    """R14: no copy, no rebuild, no look inside."""
    assert TypeAdapter(operator.getitem(Native, annotation)).validate_python(value) is value


@pytest.mark.parametrize(
    ("annotation", "value"), [(list[int], (1, 2)), (Table, 3), (int, "3"), (list | Table, {}), (float, "1")]
)
def test_an_instance_of_another_class_is_refused_and_never_converted(annotation, value):
    with pytest.raises(ValidationError, match="Input should be an instance of"):
        TypeAdapter(operator.getitem(Native, annotation)).validate_python(value)


@pytest.mark.parametrize(
    ("annotation", "classes"),
    [
        (list[int], [list]),
        (Optional[Union[int, str]], [int, str, type(None)]),  # noqa: UP007, UP045 - the older spelling is meant
        (int | str, [int, str]),
        (None, [type(None)]),
        (Literal["a", 1, "b"], [str, int]),
        (Annotated[list[int], "note"], [list]),
        (Key, [str]),
        (Small, [int]),
        (complex, [complex, float, int]),
        (Quiet, None),
        (object, None),
        (TypeVar("Free"), None),
        (Union[int, Any], None),  # noqa: UP007 - the older spelling is meant
    ],
)
def test_an_annotation_has_runtime_classes(annotation, classes):
    assert runtime_classes(annotation) == classes


def test_models_of_users_need_no_configuration():
    class Report(BaseModel):
        table: Native[Table]
        rows: Native[list[int]] = Field(default_factory=list)

    table, rows = Table(), [1]
    report = Report(table=table, rows=rows)
    assert report.table is table
    assert report.rows is rows


def test_the_schema_is_that_of_t_or_allows_everything():
    class Report(BaseModel):
        table: Native[Table]
        rows: Native[list[int]]

    properties = Report.model_json_schema()["properties"]
    assert properties["rows"] == {"items": {"type": "integer"}, "title": "Rows", "type": "array"}
    assert properties["table"] == {"title": "Table"}


def test_json_texts_are_read_as_t():
    assert TypeAdapter(Native[list[int]]).validate_json('["1", 2]') == [1, 2]


def test_a_numpy_array_passes_untouched():
    """R14: foreign objects keep their identity through a tool."""
    numpy = pytest.importorskip("numpy")

    @tool
    def same(data: Native[numpy.ndarray]) -> Native[numpy.ndarray]:  # type: ignore[name-defined]  # optional package
        return data

    data = numpy.zeros(3)
    assert same.run({"data": data})["same"] is data


class Mixed(BaseModel):
    plain: list[int]
    native: Native[list[int]]
    noted: Native[list[int]] = Field(description="With a note.")
    maybe: Native[list[int]] | None = None
    either: Native[int] | str = 1


@pytest.mark.parametrize(
    ("name", "expected"), [("plain", False), ("native", True), ("noted", True), ("maybe", True), ("either", False)]
)
def test_a_field_says_whether_it_is_native(name, expected):
    assert is_native(Mixed.model_fields[name]) is expected
    assert is_native(Mixed.__annotations__[name]) is expected


@pytest.mark.parametrize("value", [[1], {"a": 1}, {1}, frozenset({1}), (1,)])
def test_bare_containers_pass_untouched_in_signatures(value):
    """R14: nothing is said about their items, so nothing is rebuilt."""
    adapter = TypeAdapter(keep_bare_containers(type(value)))
    assert adapter.validate_python(value) is value


def test_bare_containers_keep_their_constraints():
    adapter = TypeAdapter(keep_bare_containers(Annotated[list, Field(max_length=1)]))
    value = [1]
    assert adapter.validate_python(value) is value
    with pytest.raises(ValidationError, match="at most 1 item"):
        adapter.validate_python([1, 2])


def test_annotations_without_a_bare_container_stay_the_same_object():
    for annotation in (list[int], int | None, Annotated[list[int], "note"], Table):
        assert keep_bare_containers(annotation) is annotation
