"""Validators that take some fields of a model as they are: all that they have to keep, on good and on bad values."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel, ValidationError, model_validator

from chainweaver.compiler.derived import checking, fields_of, taking


class Held(BaseModel):
    """A model with all that an instance may have beside its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    rows: list[int] = Field(alias="lines")
    name: str
    limit: int = 3
    more: list[int] = Field(default_factory=list)
    _seen: list[int] = PrivateAttr(default_factory=lambda: [7])


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    rows: list[int]


class Root(RootModel[list[int]]):
    """A model that is no mapping of fields."""


class Own(BaseModel):
    rows: list[int]

    def __init__(self, rows: Any) -> None:
        super().__init__(rows=rows)


class Before(BaseModel):
    rows: list[int]

    @model_validator(mode="before")
    @classmethod
    def _check(cls, given: Any) -> Any:
        return given


UNSEEN: Any = ["not", "looked", "at"]


def test_an_instance_is_what_full_validation_makes_of_it():
    """R14: class, set fields, aliases, defaults, conversions, private attributes, and that it cannot be changed."""
    made = taking(Held, ["rows"])({"lines": UNSEEN, "name": " a "})
    full = Held.model_validate({"lines": [1], "name": " a "})

    assert type(made) is Held
    assert made.rows is UNSEEN
    assert made.model_copy(update={"rows": [1]}) == full
    assert (made.name, made.limit, made.more, made._seen) == ("a", 3, [], [7])
    assert made.model_fields_set == full.model_fields_set == {"rows", "name"}
    assert made.__pydantic_extra__ is None
    with pytest.raises(ValidationError, match="frozen"):
        made.limit = 4


def test_every_instance_has_private_attributes_of_its_own():
    """R14: as pydantic makes them; a model without any has none."""
    take = taking(Held, ["rows"])
    one, other = (take({"lines": [1], "name": "a"}) for _ in range(2))
    one._seen.append(8)

    assert other._seen == [7]
    assert taking(Tree, ["children"])({"value": 1}).__pydantic_private__ is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"name": "a"}, "Field required"),
        ({"lines": [1]}, "Field required"),
        ({"rows": [1], "name": "a"}, "Field required"),
        ({"lines": [1], "name": 3}, "valid string"),
        ({"lines": [1], "name": "a", "limit": "x"}, "valid integer"),
        ({"lines": [1], "name": "a", "other": 1}, "Extra inputs are not permitted"),
    ],
    ids=["the field itself", "another one", "not by its alias", "its type", "with a default", "unknown key"],
)
def test_what_full_validation_refuses_beside_the_field_is_refused(given: dict[str, Any], says: str):
    """R14: the field is taken as it is, and nothing else."""
    with pytest.raises(ValidationError, match=says):
        taking(Held, ["rows"])(given)
    with pytest.raises(ValidationError, match=says):
        Held.model_validate(given)


def test_several_fields_may_be_taken_also_such_with_a_default():
    """R14: what stands for a missing value stays."""
    take = taking(Held, ["more", "limit", "rows"])

    made = take({"lines": UNSEEN, "name": "a", "limit": "x", "more": UNSEEN})
    assert (made.rows, made.limit, made.more) == (UNSEEN, "x", UNSEEN)
    assert made.more is UNSEEN
    made = take({"lines": [], "name": "a"})
    assert (made.limit, made.more) == (3, [])


def test_keys_that_an_open_model_does_not_name_are_kept():
    """R14: where the model keeps them."""
    made = taking(Open, ["rows"])({"rows": UNSEEN, "other": 1})

    assert (made.rows, made.other, made.model_extra) == (UNSEEN, 1, {"other": 1})


def test_recursive_models_are_taken_like_others():
    """R14: what refers to the model itself is found."""
    tree = {"value": "2", "children": [{"value": "3"}]}
    made = taking(Tree, ["value"])({"value": "as it is", "children": [tree]})

    assert made.value == "as it is"
    assert made.children == [Tree.model_validate(tree)]
    with pytest.raises(ValidationError, match=r"children\.0\.value\n.*valid integer"):
        taking(Tree, ["value"])({"value": 1, "children": [{"value": "x"}]})


def test_fields_are_checked_by_name_apart_from_all_others():
    """R14: by the field's own name, whatever its alias; only those that are there, under the settings of the model."""
    check = checking(Held, ["rows", "name", "limit"])

    assert check({"rows": ("1", 2), "name": " a "}) == {"rows": [1, 2], "name": "a"}
    assert check({}) == {}
    for given, says in (
        ({"rows": ["x"]}, r"rows\.0\n.*valid integer"),
        ({"name": None}, r"name\n.*valid string"),
        ({"limit": "x"}, r"limit\n.*valid integer"),
    ):
        with pytest.raises(ValidationError, match=says):
            check(given)


def test_fields_of_recursive_models_are_checked_as_well():
    """R14: down to the leaves."""
    check = checking(Tree, ["children"])

    assert check({"children": [{"value": "1"}]}) == {"children": [Tree(value=1)]}
    with pytest.raises(ValidationError, match=r"children\.0\.value"):
        check({"children": [{"value": "x"}]})


@pytest.mark.parametrize("model", [Root, Own, Before])
def test_a_model_that_has_a_say_itself_is_none_of_fields(model: Any):
    """R14: a root, a constructor of its own, a validator that sees the whole input."""
    assert fields_of(model) is None


@pytest.mark.parametrize("model", [Held, Tree, Open])
def test_the_fields_of_a_model_are_found_by_name(model: Any):
    """R14: with their schemas."""
    found = fields_of(model)

    assert found is not None
    assert list(found.schema["fields"]) == list(model.model_fields)
