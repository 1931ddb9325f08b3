"""Fingerprints: equal shapes, equal digits."""

import operator
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, create_model

from chainweaver.flow import Flow, FlowStep
from chainweaver.tools import Native, Tool, check_flow_compatibility, schema_fingerprint, tool


class Table:
    pass


class Chair:
    pass


class Color(Enum):
    RED = "red"


def model(annotation, default=..., **extra):
    return create_model("Shape", value=(annotation, default), **extra)


def test_a_fingerprint_is_sixteen_hexadecimal_digits():
    digits = schema_fingerprint(model(int))
    assert len(digits) == 16
    assert int(digits, 16) >= 0


def test_names_and_prose_do_not_count():
    class A(BaseModel):
        """One."""

        title: int = Field(description="One.", examples=[1])
        b: str

    class B(BaseModel):
        """Two."""

        b: str
        title: int = Field(title="Other")

    assert schema_fingerprint(A) == schema_fingerprint(B)


def test_a_field_called_title_counts():
    assert schema_fingerprint(create_model("A", title=(int, ...))) != schema_fingerprint(create_model("A"))


SHAPES = [
    model(int),
    model(str),
    model(int, 1),
    model(int, 2),
    model(int | None),
    model(list[int]),
    model(list[str]),
    model(Literal["a"]),
    model(Literal["a", "b"]),
    model(Color),
    model(Annotated[int, Field(ge=0)]),
    model(Annotated[int, Field(ge=1)]),
    model(Any),
    model(Native[Table]),
    model(Native[Chair]),
    model(Callable[[int], int]),
    model(int, other=(int, ...)),
    create_model("Shape", __config__={"extra": "allow"}, value=(int, ...)),
]


def test_different_shapes_have_different_fingerprints():
    """R29: also where JSON Schema has no words, as for two foreign classes."""
    digits = [schema_fingerprint(shape) for shape in SHAPES]
    assert len(set(digits)) == len(SHAPES)


def test_a_model_whose_schema_cannot_be_generated_has_one_too():
    class Strange:
        @classmethod
        def __get_pydantic_core_schema__(cls, source, handler):
            from pydantic_core import core_schema

            return core_schema.any_schema()

        @classmethod
        def __get_pydantic_json_schema__(cls, schema, handler):
            raise ValueError("no schema")

    digits = {schema_fingerprint(model(kind)) for kind in (Strange, Strange | None, list[Strange])}
    assert len(digits) == 3
    assert schema_fingerprint(model(Strange)) == schema_fingerprint(model(Strange))


def test_sets_in_defaults_and_odd_extras_have_one_form():
    """R1: neither the order of a set nor the address of an object shows."""
    first = model(dict, {"k": [{"x", "y"}, frozenset({1, 2})]}, odd=(int, Field(1, json_schema_extra={"x": Table()})))
    second = model(dict, {"k": [{"y", "x"}, frozenset({2, 1})]}, odd=(int, Field(1, json_schema_extra={"x": Table()})))
    assert schema_fingerprint(first) == schema_fingerprint(second)


def test_one_of_two_foreign_classes_counts():
    with_chair, with_int = (model(operator.getitem(Native, Table | other)) for other in (Chair, int))
    assert schema_fingerprint(with_chair) != schema_fingerprint(with_int)


def test_nothing_is_warned_about():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert schema_fingerprint(model(Callable, len)) != schema_fingerprint(model(Callable, Table))


SCRIPT = """
from pydantic import create_model
from chainweaver.tools import schema_fingerprint
print(schema_fingerprint(create_model("S", a=(set[str], {"x", "y", "z", "w"}), b=(dict, {"k": {"p", "q", "r"}}))))
"""


def test_every_process_finds_the_same_digits():
    """R1: the hash seed decides the order of a set, and nothing else."""
    found = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


@tool
def double(n: int) -> int:
    return n * 2


def test_the_hash_of_a_tool_covers_both_schemas_and_the_version():
    """R29: the author's version is part of a tool's identity."""
    other_output = tool(output="m")(double.__wrapped__)
    other_version = tool(schema_version="1")(double.__wrapped__)
    assert double.schema_hash == tool(double.__wrapped__).schema_hash
    assert len({double.schema_hash, other_output.schema_hash, other_version.schema_hash}) == 3
    assert double.input_schema_hash == other_output.input_schema_hash
    assert double.output_schema_hash != other_output.output_schema_hash


def flow_with(hashes):
    return Flow(
        name="f", version="1.0.0", description="", steps=[FlowStep(tool_name="double")], tool_schema_hashes=hashes
    )


@pytest.mark.parametrize("tools", [{"double": double}, [double]])
def test_a_flow_fits_the_tools_that_it_was_accepted_with(tools):
    assert check_flow_compatibility(flow_with({"double": double.schema_hash}), tools) == []
    assert check_flow_compatibility(flow_with(None), tools) == []


def test_drift_is_listed_by_tool_and_a_missing_tool_has_no_hash():
    old = "0" * 16
    drifts = check_flow_compatibility(flow_with({"gone": old, "double": old}), [double])
    assert [(one.tool_name, one.expected_hash, one.actual_hash) for one in drifts] == [
        ("double", old, double.schema_hash),
        ("gone", old, None),
    ]


def test_hashes_are_computed_once():
    made = Tool(name="t", description="", input_schema=SHAPES[0], output_schema=SHAPES[0], fn=dict)
    assert made.schema_hash is made.schema_hash
